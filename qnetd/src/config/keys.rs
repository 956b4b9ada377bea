//! All settings of the arbiter, and how each value gets to its place.

use std::path::PathBuf;
use std::time::Duration;

use host::settings::value::{number, path, switch};
use host::settings::{self, Given, INT_MAX, Setting, Switch};
use protocol::qnet::TlsSupport;

use super::{Family, Options, hold};
use crate::shadow::Plan;

/// The letter that asks for the version instead of a run.
pub(super) const VERSION: char = 'v';

const GIVE_FILES: &str = "give --tls-ca, --tls-cert and --tls-key";

impl settings::Options for Options {
    const SWITCHES: &'static [Switch<Self>] = &[
        ('4', |o| o.family = Family::V4),
        ('6', |o| o.family = Family::V6),
        ('d', |o| o.debug = o.debug.saturating_add(1)),
        ('f', |o| o.foreground = true),
    ];

    const TEXTS: &'static [char] = &['h', VERSION];

    /// Defaults and ranges of the stock ones are those of wire 3.2.
    const SETTINGS: &'static [Setting<Self>] = &[
        Setting::letter('l', "listen_address", |o, v| {
            o.listen_address = Some(v.to_owned()).filter(|address| !address.is_empty());
            Some(())
        }),
        Setting::refusing(
            |_| "host port must be in range 1-65535".to_owned(),
            Setting::letter('p', "port", |o, v| number(v, 1..=65535).map(|n| o.port = n)),
        ),
        Setting::refusing(
            |_| "tls must be one of on, off, req".to_owned(),
            Setting::letter('s', "tls", |o, v| tls(v).map(|tls| o.core.tls = tls)),
        ),
        Setting::refusing(
            |_| "client_cert_required should be on/yes/1, off/no/0".to_owned(),
            Setting::letter('c', "client_cert_required", |o, v| {
                switch(v).map(|on| o.core.client_cert_required = on)
            }),
        ),
        Setting::refusing(
            |value| format!("max clients value {value} is invalid"),
            Setting::letter('m', "max_clients", |o, v| {
                number(v, 0..=INT_MAX).map(|n| o.core.max_clients = n)
            }),
        ),
        Setting::flag("config", |o, v| path(v).map(|file| o.config_file = Some(file))),
        Setting::long("state_dir", |o, v| path(v).map(|path| o.state_dir = path)),
        Setting::long("run_dir", |o, v| path(v).map(|path| o.run_dir = path)),
        Setting::long("tls_ca", |o, v| named(o, v, |o| &mut o.tls_ca)),
        Setting::long("tls_cert", |o, v| named(o, v, |o| &mut o.tls_cert)),
        Setting::long("tls_key", |o, v| named(o, v, |o| &mut o.tls_key)),
        Setting::long("tls_ca_key", |o, v| path(v).map(|path| o.tls_ca_key = Some(path))),
        Setting::long("shadow", |o, v| Plan::parse_host(v).map(|stock| o.shadow = Some(stock))),
        Setting::long("shadow_report", |o, v| path(v).map(|path| o.shadow_report = Some(path))),
        Setting::long("listen", |o, v| v.parse().ok().map(|address| o.listen = Some(address))),
        Setting::advanced("listen_backlog", |o, v| {
            number(v, 1..=INT_MAX).map(|n| o.listen_backlog = n)
        }),
        Setting::advanced("max_client_send_buffers", |o, v| {
            number(v, 2..=65536).map(|n| o.max_client_send_buffers = n)
        }),
        Setting::advanced("max_client_send_size", |o, v| {
            number(v, 16..=INT_MAX).map(|n| o.core.max_reply_bytes = n)
        }),
        Setting::advanced("max_client_receive_size", |o, v| {
            number(v, 16..=INT_MAX).map(|n| o.core.max_message_bytes = n)
        }),
        Setting::advanced("nss_db_dir", |o, v| {
            path(v).map(|keys| {
                o.tls_ca = keys.join("ca.pem");
                o.tls_cert = keys.join("arbiter.pem");
                o.tls_key = keys.join("arbiter-key.pem");
            })
        }),
        Setting::unused("cert_nickname", GIVE_FILES, |_, _| Some(())),
        Setting::advanced("heartbeat_interval_min", |o, v| {
            number(v, 1..=u64::MAX).map(|n| o.core.heartbeat_min_ms = n)
        }),
        Setting::advanced("heartbeat_interval_max", |o, v| {
            number(v, 1..=u64::MAX).map(|n| o.core.heartbeat_max_ms = n)
        }),
        Setting::advanced("dpd_enabled", |o, v| switch(v).map(|on| o.core.dpd_enabled = on)),
        Setting::advanced("dpd_interval_coefficient", |o, v| {
            coefficient_percent(v).map(|percent| o.core.dpd_percent = percent)
        }),
        Setting::advanced("dpd_interval", |o, _| {
            let note = "Option 'dpd_interval' is deprecated and has no effect anymore";
            o.given.note(note.to_owned());
            Some(())
        }),
        Setting::advanced("keep_active_partition_tie_breaker", |o, v| {
            switch(v).map(|on| o.core.keep_active_partition = on)
        }),
        // Ours.
        Setting::refusing(
            |_| "vote_hold must be one of single-fault, double-fault, off".to_owned(),
            Setting::advanced("vote_hold", |o, v| {
                hold::mode(v).map(|mode| o.core.vote_hold = mode)
            }),
        ),
        Setting::advanced("greeting_limit", |o, v| {
            duration(v).map(|limit| o.core.greeting_limit = limit)
        }),
        Setting::advanced("handshake_limit", |o, v| {
            duration(v).map(|limit| o.handshake_limit = limit)
        }),
    ];

    fn given(&mut self) -> &mut Given<Self> {
        &mut self.given
    }
}

/// The words of `-s`; the man page's `required` is refused by the stock daemon.
fn tls(value: &str) -> Option<TlsSupport> {
    if value.eq_ignore_ascii_case("req") {
        return Some(TlsSupport::Required);
    }
    switch(value).map(|on| if on { TlsSupport::Supported } else { TlsSupport::Unsupported })
}

/// 1 to 1000, as whole percent.
fn coefficient_percent(value: &str) -> Option<u32> {
    let coefficient: f64 = value.parse().ok()?;
    let percent = (coefficient * 100.0).round();
    (1.0..=1000.0).contains(&coefficient).then_some(percent as u32)
}

/// `20s`, `500ms`, `2m`.
fn duration(value: &str) -> Option<Duration> {
    let digits = value.find(|letter: char| !letter.is_ascii_digit())?;
    let count: u64 = value[..digits].parse().ok()?;
    let milliseconds = match &value[digits..] {
        "ms" => Some(count),
        "s" => count.checked_mul(1000),
        "m" => count.checked_mul(60_000),
        _ => None,
    };
    milliseconds.filter(|ms| (1..=18_000_000).contains(ms)).map(Duration::from_millis)
}

/// A certificate's file that somebody names is there at the start; only a store is waited for.
fn named(options: &mut Options, value: &str, file: fn(&mut Options) -> &mut PathBuf) -> Option<()> {
    *file(options) = path(value)?;
    options.awaits_keys = false;
    Some(())
}
