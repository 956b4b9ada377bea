//! Every default time of the product, one name each, and the relations that make them safe
//! (rule S2; the table of default times). A test checks each relation.

use std::time::Duration;

/// Nodes send a beat to each peer this often.
pub const HEARTBEAT: Duration = Duration::from_millis(100);
/// LV = D: a peer's vote counts this long after the sending of the beat it answered; a peer
/// without an answer for as long is lost.
pub const PEER_LEASE: Duration = Duration::from_millis(700);
/// AV: a node keeps its own vote out of a view without a peer for this long after its last
/// answer to that peer. At least 1.1 · LV.
pub const PEER_PROMISE: Duration = Duration::from_millis(770);
/// V: a round of view agreement that has not ended by then is tried again.
pub const VIEW_AGREEMENT: Duration = Duration::from_millis(150);
/// A node that was removed comes back only after this long of unbroken two-way contact
/// (safety 36).
pub const READMISSION: Duration = Duration::from_secs(5);

/// r: how often a device renews its lease, whatever the lease's length (F5).
pub const RENEWAL: Duration = Duration::from_millis(250);
/// L in a view that is quorate without the device.
pub const LEASE: Duration = Duration::from_millis(1000);
/// A for [`LEASE`]: what the arbiter holds.
pub const LEASE_HOLD: Duration = Duration::from_millis(1100);
/// L in a view that needs the device.
pub const SOLO_LEASE: Duration = Duration::from_secs(10);
/// A for [`SOLO_LEASE`].
pub const SOLO_LEASE_HOLD: Duration = Duration::from_secs(11);
/// L where every other node is confirmed off.
pub const LONE_LEASE: Duration = Duration::from_secs(60);
/// A for [`LONE_LEASE`]; also the bound of a client of ours that nothing is known of (F8).
pub const LONE_LEASE_HOLD: Duration = Duration::from_secs(66);
/// An own client that has not renewed for this long no longer takes part in decisions; its
/// bound runs on.
pub const CLIENT_SILENCE: Duration = LEASE_HOLD;
/// A client between Init and its lists, or one that contradicts a newer report of a node in its
/// list, makes the cluster unstable for at most this long (8.11).
pub const STABILITY_LIMIT: Duration = Duration::from_secs(3);

/// W: the watchdog's timeout.
pub const WATCHDOG: Duration = Duration::from_secs(5);
/// p: how often the keeper pets.
pub const PET: Duration = Duration::from_millis(500);
/// Services must be proven stopped this long after entitlement ended, else the keeper forces
/// the end: W − 1 s.
pub const STOP_BOUND: Duration = Duration::from_secs(4);
/// A service that was asked to end gets this long between SIGTERM and SIGKILL.
pub const STOP_GRACE: Duration = Duration::from_millis(2500);
/// B: no service of a node runs later than this after its entitlement ended: W + 0.3 s.
pub const STOP_PROOF: Duration = Duration::from_millis(5300);

/// T: how long a host counts a device's vote after a poll (corosync.conf(5)
/// `quorum.device.timeout`).
pub const DEVICE_TIMEOUT: Duration = Duration::from_secs(10);
/// S: how long a host's view change waits for the device (`quorum.device.sync_timeout`).
pub const DEVICE_SYNC_TIMEOUT: Duration = Duration::from_secs(30);
/// A device whose host has not been heard for this long no longer asks for renewals: its lease
/// would be counted by nobody, or by a host that cannot be told of a loss.
pub const HOST_SILENCE: Duration = PEER_LEASE;

/// 32 bits of parts per million would do, but the relations are in whole percent: a clock of an
/// arbiter and of a node may differ by this much over a lease.
pub const DRIFT_PERCENT: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn with_drift(duration: Duration) -> Duration {
        duration * (100 + DRIFT_PERCENT) / 100
    }

    #[test]
    fn what_is_promised_outlasts_what_is_counted_by_the_drift() {
        assert!(PEER_PROMISE >= with_drift(PEER_LEASE));
        assert!(LEASE_HOLD >= with_drift(LEASE));
        assert!(SOLO_LEASE_HOLD >= with_drift(SOLO_LEASE));
        assert!(LONE_LEASE_HOLD >= with_drift(LONE_LEASE));
    }

    #[test]
    fn three_beats_or_renewals_may_be_lost() {
        assert!(PEER_LEASE >= HEARTBEAT * 5);
        assert!(RENEWAL <= LEASE / 4);
        assert!(PEER_PROMISE + VIEW_AGREEMENT <= LEASE_HOLD);
    }

    #[test]
    fn services_end_before_anyone_relies_on_it() {
        assert!(STOP_GRACE < STOP_BOUND);
        assert!(STOP_BOUND < WATCHDOG);
        assert!(WATCHDOG < STOP_PROOF);
        assert!(PET <= WATCHDOG / 3);
        assert_eq!(WATCHDOG.subsec_nanos(), 0);
    }
}
