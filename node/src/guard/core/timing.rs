//! The rules of time that a guard relies on. Each is an inequality; the first that does not hold
//! is the refusal, with both of its values.
//!
//! Symbols: p from one pet to the next, W the watchdog's timeout, B how long an old proof of
//! quorum is believed, S how long a membership change may wait for a quorum device, R what the
//! other nodes wait before they take over what ran here.
//!
//! * `p <= W/3`: two pets may get lost.
//! * `B = min(W/2, token + consensus)`, and at least a second. Nobody can have a quorum without a
//!   silent node before `token + consensus` have passed since its last word, so to believe a
//!   corosync that does not answer for no longer than that adds nothing to what corosync itself
//!   believes; and with `B <= W/2` the machine is reset within 1.5 W of the last proof, where
//!   Pacemaker waits 2 W by default. Less than a second is five questions: a busy machine would be
//!   reset for nothing.
//! * `S <= W` with a stock device: until S has passed, corosync says the quorum of before the
//!   change, and nothing ends it. Ours ends with its lease, whatever S is (F17).
//! * `max(B, S) + W + 0.1 s + W/100 <= R`, where R was told: the last pet comes at the end of what
//!   is believed, the reset W later, by a clock that may be 1 % slow, and takes 0.1 s.

use std::fmt;
use std::time::Duration;

use protocol::times;

use super::cluster::Cluster;

/// The shortest B: a busy corosync is silent for most of a second.
pub const BELIEF_MIN: Duration = Duration::from_secs(1);
/// From the expiry of a watchdog to the end of what ran.
const RESET_LATENCY: Duration = Duration::from_millis(100);

/// Which quorum device the node has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DeviceKind {
    /// None is configured.
    None,
    /// `haguard qdevice`: it says until when its vote counts.
    Ours,
    /// Another: its vote counts until corosync drops it.
    Stock,
}

/// The watchdog, and who counts on it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// W.
    pub watchdog: Duration,
    /// R: what the other nodes wait (Pacemaker: stonith-watchdog-timeout), where it was told.
    pub peers_wait: Option<Duration>,
}

/// How long the proof of a quorum is believed (B). Never less than the questions need: what is
/// armed goes on with times that came with a reload and were refused.
pub fn belief(cluster: &Cluster, watchdog: Duration) -> Duration {
    (watchdog / 2).min(cluster.token + cluster.consensus).max(BELIEF_MIN)
}

/// How long after the last proof a pet may come at the latest; with our device its lease is
/// another, shorter end.
pub fn longest(cluster: &Cluster, limits: &Limits, device: DeviceKind) -> Duration {
    let belief = belief(cluster, limits.watchdog);
    match (device, cluster.sync_timeout) {
        (DeviceKind::Stock, Some(sync)) => belief.max(sync),
        (DeviceKind::Stock | DeviceKind::Ours | DeviceKind::None, _) => belief,
    }
}

/// Checks every rule.
///
/// # Errors
/// One line: the inequality that does not hold, both values, and what to change.
pub fn check(cluster: &Cluster, limits: &Limits, device: DeviceKind) -> Result<(), String> {
    if let Some(name) = cluster.forbidden {
        return Err(format!(
            "quorum.{name} is 1: both sides of a split would be quorate, and the guard would pet on \
             both: take it out of corosync.conf and use a quorum device"
        ));
    }
    let watchdog = limits.watchdog;
    let third = watchdog / 3;
    holds("pet interval <= watchdog timeout / 3", times::PET, third, || {
        "set a longer watchdog-timeout".to_owned()
    })?;
    let silence = cluster.token + cluster.consensus;
    holds("1 s <= token + consensus", BELIEF_MIN, silence, || {
        "corosync is too impatient for a guard: raise totem.token".to_owned()
    })?;
    if let (DeviceKind::Stock, Some(sync)) = (device, cluster.sync_timeout) {
        holds("quorum.device.sync_timeout <= watchdog timeout", sync, watchdog, || {
            "with a stock quorum device a change of members keeps the old quorum for the sync \
             timeout: shorten it, set a longer watchdog-timeout, or run haguard qdevice, whose vote \
             ends with its lease (start it before the guard)"
                .to_owned()
        })?;
    }
    if let Some(wait) = limits.peers_wait {
        let reset = watchdog + RESET_LATENCY + watchdog / 100;
        let end = longest(cluster, limits, device) + reset;
        holds("end of belief + watchdog timeout + 0.1 s + 1 % <= peers-wait", end, wait, || {
            "raise what the other nodes wait (Pacemaker: stonith-watchdog-timeout) and peers-wait, \
             or set a shorter watchdog-timeout"
                .to_owned()
        })?;
    }
    Ok(())
}

fn holds(
    rule: &str,
    small: Duration,
    large: Duration,
    advice: impl FnOnce() -> String,
) -> Result<(), String> {
    if small <= large {
        return Ok(());
    }
    Err(format!("{rule} does not hold: {} > {}; {}", Seconds(small), Seconds(large), advice()))
}

/// A duration for people.
struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        match millis % 1000 {
            0 => write!(f, "{} s", millis / 1000),
            rest => {
                let rest = format!("{rest:03}");
                write!(f, "{}.{} s", millis / 1000, rest.trim_end_matches('0'))
            }
        }
    }
}
