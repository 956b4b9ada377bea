//! The names of all settings, and how each value is read.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use protocol::qnet::TlsSupport;

use super::{Options, UsageError};

/// Upper end of the stock daemon's C `int` settings.
const INT_MAX: u64 = i32::MAX as u64;

/// One setting.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Setting {
    /// `-l`.
    ListenAddress,
    /// `-p`.
    Port,
    /// `-s`.
    Tls,
    /// `-c`.
    ClientCertRequired,
    /// `-m`.
    MaxClients,
    /// `--listen`.
    Listen,
    /// `--state-dir`.
    StateDir,
    /// `--run-dir`.
    RunDir,
    /// `--tls-ca`.
    TlsCa,
    /// `--tls-cert`.
    TlsCert,
    /// `--tls-key`.
    TlsKey,
    /// Connections that wait to be accepted.
    ListenBacklog,
    /// Messages that wait for one client.
    MaxClientSendBuffers,
    /// Longest message sent, in bytes.
    MaxClientSendSize,
    /// Longest message taken, in bytes.
    MaxClientReceiveSize,
    /// Not used.
    NssDbDir,
    /// Not used.
    CertNickname,
    /// Shortest heartbeat, in milliseconds.
    HeartbeatIntervalMin,
    /// Longest heartbeat, in milliseconds.
    HeartbeatIntervalMax,
    /// Close silent clients.
    DpdEnabled,
    /// Silent means this many heartbeats.
    DpdIntervalCoefficient,
    /// Not used, by the stock daemon neither.
    DpdInterval,
    /// The pid file with the lock.
    LockFile,
    /// The local socket.
    LocalSocketFile,
    /// Mode bits taken from it, in octal.
    LocalSocketUmask,
    /// Its group.
    LocalSocketGid,
    /// Local connections that wait to be accepted; the system's limit is used.
    LocalSocketBacklog,
    /// Local connections at a time.
    IpcMaxClients,
    /// Longest local command, in bytes.
    IpcMaxReceiveSize,
    /// Longest local answer, in bytes.
    IpcMaxSendSize,
    /// For clients that do not say.
    KeepActivePartitionTieBreaker,
    /// Ours: how long a connection may take to its Init.
    GreetingLimit,
    /// Ours: how long a TLS handshake may take.
    HandshakeLimit,
}

impl Setting {
    /// The long flags that set one.
    pub(super) const LONG: [(&'static str, Self); 6] = [
        ("state-dir", Self::StateDir),
        ("run-dir", Self::RunDir),
        ("tls-ca", Self::TlsCa),
        ("tls-cert", Self::TlsCert),
        ("tls-key", Self::TlsKey),
        ("listen", Self::Listen),
    ];

    /// All of them with their names. From `listen_backlog` on they are the ones of `-S`.
    const NAMES: [(&'static str, Self); 33] = [
        ("listen_address", Self::ListenAddress),
        ("port", Self::Port),
        ("tls", Self::Tls),
        ("client_cert_required", Self::ClientCertRequired),
        ("max_clients", Self::MaxClients),
        ("listen", Self::Listen),
        ("state_dir", Self::StateDir),
        ("run_dir", Self::RunDir),
        ("tls_ca", Self::TlsCa),
        ("tls_cert", Self::TlsCert),
        ("tls_key", Self::TlsKey),
        ("listen_backlog", Self::ListenBacklog),
        ("max_client_send_buffers", Self::MaxClientSendBuffers),
        ("max_client_send_size", Self::MaxClientSendSize),
        ("max_client_receive_size", Self::MaxClientReceiveSize),
        ("nss_db_dir", Self::NssDbDir),
        ("cert_nickname", Self::CertNickname),
        ("heartbeat_interval_min", Self::HeartbeatIntervalMin),
        ("heartbeat_interval_max", Self::HeartbeatIntervalMax),
        ("dpd_enabled", Self::DpdEnabled),
        ("dpd_interval_coefficient", Self::DpdIntervalCoefficient),
        ("dpd_interval", Self::DpdInterval),
        ("lock_file", Self::LockFile),
        ("local_socket_file", Self::LocalSocketFile),
        ("local_socket_umask", Self::LocalSocketUmask),
        ("local_socket_gid", Self::LocalSocketGid),
        ("local_socket_backlog", Self::LocalSocketBacklog),
        ("ipc_max_clients", Self::IpcMaxClients),
        ("ipc_max_receive_size", Self::IpcMaxReceiveSize),
        ("ipc_max_send_size", Self::IpcMaxSendSize),
        ("keep_active_partition_tie_breaker", Self::KeepActivePartitionTieBreaker),
        ("greeting_limit", Self::GreetingLimit),
        ("handshake_limit", Self::HandshakeLimit),
    ];

    const ADVANCED_FROM: usize = 11;

    /// The setting of a name, whatever its case, with hyphens or underscores; or the nearest
    /// known name.
    pub(super) fn find(name: &str) -> Result<Self, Option<&'static str>> {
        Self::find_in(&Self::NAMES, name)
    }

    /// The same among the names of `-S`.
    pub(super) fn find_advanced(name: &str) -> Result<Self, Option<&'static str>> {
        Self::find_in(&Self::NAMES[Self::ADVANCED_FROM..], name)
    }

    fn find_in(
        names: &'static [(&'static str, Self)],
        name: &str,
    ) -> Result<Self, Option<&'static str>> {
        let plain = name.to_ascii_lowercase().replace('-', "_");
        let found = names.iter().find(|(known, _)| *known == plain);
        found.map(|(_, key)| *key).ok_or_else(|| nearest(&plain, names.iter().map(|(n, _)| *n)))
    }

    fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, key)| *key == self).map_or("", |(name, _)| *name)
    }
}

impl Options {
    /// Reads a value into its place.
    pub(super) fn set(&mut self, key: Setting, value: &str) -> Result<(), UsageError> {
        let name = key.name();
        let wrong = || UsageError::Value { name, value: value.to_owned() };
        let number = |range: RangeInclusive<u64>| number(value, range).ok_or_else(wrong);
        let on = || switch(value).ok_or_else(wrong);
        let time = || duration(value).ok_or_else(wrong);
        match key {
            Setting::ListenAddress => self.listen_address = given(value),
            Setting::Port => self.port = port(value)?,
            Setting::Tls => self.core.tls = tls(value).ok_or(UsageError::Tls)?,
            Setting::ClientCertRequired => {
                self.core.client_cert_required = switch(value).ok_or(UsageError::ClientCert)?;
            }
            Setting::MaxClients => self.core.max_clients = max_clients(value)?,
            Setting::Listen => self.listen = Some(value.parse().map_err(|_| wrong())?),
            Setting::StateDir => self.state_dir = path(value).ok_or_else(wrong)?,
            Setting::RunDir => self.run_dir = path(value).ok_or_else(wrong)?,
            Setting::TlsCa => self.tls_ca = path(value).ok_or_else(wrong)?,
            Setting::TlsCert => self.tls_cert = path(value).ok_or_else(wrong)?,
            Setting::TlsKey => self.tls_key = path(value).ok_or_else(wrong)?,
            Setting::ListenBacklog => self.listen_backlog = word(number(1..=INT_MAX)?),
            Setting::MaxClientSendBuffers => {
                self.max_client_send_buffers = size(number(2..=65536)?);
            }
            Setting::MaxClientSendSize => self.core.max_reply_bytes = word(number(16..=INT_MAX)?),
            Setting::MaxClientReceiveSize => {
                self.core.max_message_bytes = word(number(16..=INT_MAX)?)
            }
            Setting::NssDbDir | Setting::CertNickname => {
                self.note(format!("{name} is not used: give --tls-ca, --tls-cert and --tls-key"));
            }
            Setting::HeartbeatIntervalMin => {
                self.core.heartbeat_min_ms = word(number(1..=u64::from(u32::MAX))?);
            }
            Setting::HeartbeatIntervalMax => {
                self.core.heartbeat_max_ms = word(number(1..=u64::from(u32::MAX))?);
            }
            Setting::DpdEnabled => self.core.dpd_enabled = on()?,
            Setting::DpdIntervalCoefficient => {
                self.core.dpd_percent = coefficient_percent(value).ok_or_else(wrong)?;
            }
            Setting::DpdInterval => self
                .note("Option 'dpd_interval' is deprecated and has no effect anymore".to_owned()),
            Setting::LockFile => self.lock_file = Some(path(value).ok_or_else(wrong)?),
            Setting::LocalSocketFile => {
                self.local_socket_file = Some(path(value).ok_or_else(wrong)?)
            }
            Setting::LocalSocketUmask => {
                self.local_socket_umask = umask(value).ok_or_else(wrong)?
            }
            Setting::LocalSocketGid => {
                let given = Some(value.to_owned());
                self.local_socket_gid = given.filter(|group| !group.is_empty() && group != "-1");
            }
            Setting::LocalSocketBacklog => {
                number(1..=INT_MAX)?;
            }
            Setting::IpcMaxClients => self.ipc_max_clients = size(number(0..=INT_MAX)?),
            Setting::IpcMaxReceiveSize => {
                self.ipc_max_receive_bytes = size(number(1024..=INT_MAX)?)
            }
            Setting::IpcMaxSendSize => self.ipc_max_send_bytes = size(number(1024..=INT_MAX)?),
            Setting::KeepActivePartitionTieBreaker => self.core.keep_active_partition = on()?,
            Setting::GreetingLimit => self.core.greeting_limit = time()?,
            Setting::HandshakeLimit => self.handshake_limit = time()?,
        }
        Ok(())
    }

    fn note(&mut self, text: String) {
        if !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }
}

/// The known name that takes the fewest edits to reach, if they change at most half of it.
pub(super) fn nearest(
    name: &str,
    known: impl Iterator<Item = &'static str>,
) -> Option<&'static str> {
    let near = known.map(|known| (edits(name, known), known)).min()?;
    (near.0 * 2 <= near.1.len()).then_some(near.1)
}

/// How many letters must be put in, taken out or changed (Levenshtein).
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (line, letter) in from.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for column in 0..to.len() {
            let changed = diagonal + usize::from(to[column] != letter);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

fn port(value: &str) -> Result<u16, UsageError> {
    let port = number(value, 1..=65535).and_then(|port| port.try_into().ok());
    port.ok_or(UsageError::Port)
}

fn max_clients(value: &str) -> Result<usize, UsageError> {
    let max = number(value, 0..=INT_MAX).map(size);
    max.ok_or_else(|| UsageError::MaxClients(value.to_owned()))
}

/// An empty value is none.
fn given(value: &str) -> Option<String> {
    (!value.is_empty()).then(|| value.to_owned())
}

/// A whole decimal number (strtoll(3) of the full string) in a range.
fn number(value: &str, range: RangeInclusive<u64>) -> Option<u64> {
    value.parse().ok().filter(|number| range.contains(number))
}

/// The bool words of the stock daemons.
fn switch(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "yes" | "on" | "1" => Some(true),
        "no" | "off" | "0" => Some(false),
        _ => None,
    }
}

/// The words of `-s`; the man page's `required` is refused by the stock daemon.
fn tls(value: &str) -> Option<TlsSupport> {
    if value.eq_ignore_ascii_case("req") {
        return Some(TlsSupport::Required);
    }
    switch(value).map(|on| if on { TlsSupport::Supported } else { TlsSupport::Unsupported })
}

fn path(value: &str) -> Option<PathBuf> {
    (!value.is_empty()).then(|| PathBuf::from(value))
}

/// Empty leaves the mode alone.
#[expect(clippy::option_option, reason = "an empty value is valid and means no mask")]
fn umask(value: &str) -> Option<Option<u32>> {
    if value.is_empty() {
        return Some(None);
    }
    u32::from_str_radix(value, 8).ok().filter(|mask| *mask <= 0o777).map(Some)
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

/// Numbers that the ranges above keep within 32 bits.
fn word(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
