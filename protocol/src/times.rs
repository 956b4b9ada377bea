//! Every default time of the product, one name each (rule S2; the table of default times). The
//! relations that make them safe are in `tests/times.rs`, one test each.

use std::time::Duration;

/// Nodes send a beat to each peer this often.
pub const HEARTBEAT: Duration = Duration::from_millis(100);
/// LV = D: a peer's vote counts this long after the sending of the beat it answered; a peer
/// without an answer for as long is lost.
pub const PEER_LEASE: Duration = Duration::from_millis(700);
/// AV: a node keeps its own vote out of a view without a peer for this long after its last
/// answer to that peer. At least 1.1 · LV.
pub const PEER_PROMISE: Duration = Duration::from_millis(770);
/// The longest that a node at real-time priority is expected not to run.
pub const PEER_STALL: Duration = Duration::from_millis(200);
/// There and back on the network between nodes, or to the arbiter.
pub const ROUND_TRIP: Duration = Duration::from_millis(50);
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
/// From the end of the arbiter's process to its next answer: a lone node keeps its lease meanwhile.
pub const ARBITER_RESTART: Duration = Duration::from_secs(2);
/// The lease by which one of several replicas of an arbiter leads; the next one waits for its end
/// and a whole [`LEASE_HOLD`] more (safety 11).
pub const REPLICA_LEASE: Duration = Duration::from_secs(5);
/// The time that clients have to find the new leader.
pub const REPLICA_RECONNECT: Duration = Duration::from_secs(2);
/// An own client that has not renewed for this long no longer takes part in decisions; its
/// bound runs on.
pub const CLIENT_SILENCE: Duration = LEASE_HOLD;
/// A client between Init and its lists, or one that contradicts a newer report of a node in its
/// list, makes the cluster unstable for at most this long after it last said something new (8.11).
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

/// A fence command that has proven nothing by then has failed.
pub const FENCE_DEADLINE: Duration = Duration::from_secs(20);

/// T: how long a host counts a device's vote after a poll (corosync.conf(5)
/// `quorum.device.timeout`).
pub const DEVICE_TIMEOUT: Duration = Duration::from_secs(10);
/// S: how long a host's view change waits for the device (`quorum.device.sync_timeout`).
pub const DEVICE_SYNC_TIMEOUT: Duration = Duration::from_secs(30);
/// A device whose host has not been heard for this long no longer asks for renewals: its lease
/// would be counted by nobody, or by a host that cannot be told of a loss.
pub const HOST_SILENCE: Duration = PEER_LEASE;
/// The lower limit of g, the guard of a stock client's bound ([`vote_hold_guard`]): a vote takes
/// effect one token rotation late, measured as 0.56 s at the default heartbeat (safety 5).
pub const VOTE_HOLD_GUARD_MIN: Duration = Duration::from_millis(500);
/// g is at least this many percent of the heartbeat interval.
pub const VOTE_HOLD_GUARD_PERCENT: u32 = 10;
/// HB of a stock client is this many percent of T (wire 3.1).
pub const STOCK_HEARTBEAT_PERCENT: u32 = 80;
/// Of nodes that corosync runs on, the one that is cut off has found that out no later than this
/// after the others: they lose the token within a rotation and its hold of each other, and a device
/// of ours keeps a membership change open for a [`LEASE`].
pub const HOST_CHANGE: Duration = Duration::from_secs(2);

/// A clock of an arbiter and of a node may differ by this many percent over a lease.
pub const DRIFT_PERCENT: u32 = 10;
/// How fast a clock can be slewed, in parts per million: chrony's default limit (chrony.conf(5)
/// `maxslewrate`). The clock that is never slewed drifts by less than 200.
pub const SLEW_PPM: u64 = 83_334;

/// A for a lease of this length: the time for which the arbiter holds it after it gave it. Never
/// rounded down (safety 12).
pub fn lease_hold(lease: Duration) -> Duration {
    lease * (100 + DRIFT_PERCENT) / 100
}

/// g for a stock client with this heartbeat interval (safety 5).
pub fn vote_hold_guard(heartbeat: Duration) -> Duration {
    (heartbeat * VOTE_HOLD_GUARD_PERCENT / 100).max(VOTE_HOLD_GUARD_MIN)
}

/// T as a stock client's heartbeat interval tells it, where nobody has moved either. Which
/// intervals tell it is for the caller to know (safety 16).
pub fn stock_device_timeout(heartbeat: Duration) -> Duration {
    heartbeat * 100 / STOCK_HEARTBEAT_PERCENT
}
