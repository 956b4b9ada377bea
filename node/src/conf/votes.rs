//! votequorum's arithmetic (wire 5, votequorum(5)) and the device's derived timers (wire 3.1), as
//! pure methods of the configuration.

use std::time::Duration;

use protocol::ids::NodeId;
use protocol::vote::Algorithm;

use super::{AutoTieBreaker, ClusterConf, DeviceConf};

/// The least and the most heartbeat interval (corosync-qdevice(8) `net_heartbeat_interval_min`,
/// `_max`).
pub const HEARTBEAT_RANGE: (Duration, Duration) =
    (Duration::from_millis(1_000), Duration::from_millis(120_000));

/// More than half of `expected` votes: votequorum's (expected + 2) / 2 without its overflow.
pub const fn quorum_of(expected: u32) -> u32 {
    (expected / 2).saturating_add(1)
}

impl ClusterConf {
    /// The votes of all nodes together.
    pub fn node_votes(&self) -> u32 {
        self.nodes.iter().fold(0, |sum: u32, node| sum.saturating_add(node.votes))
    }

    /// The device's votes: what the file says, else 1 for ffsplit, else one less
    /// than the nodes' (votequorum computes that where each node has one vote and
    /// `expected_votes` is not given; everything else is refused by the check). 0 without a
    /// device.
    pub fn device_votes(&self) -> u32 {
        let Some(device) = &self.quorum.device else {
            return 0;
        };
        device.votes.unwrap_or_else(|| match device.net.algorithm {
            Algorithm::Ffsplit => 1,
            Algorithm::Test | Algorithm::TwoNodeLms | Algorithm::Lms => {
                self.node_votes().saturating_sub(1)
            }
        })
    }

    /// The votes that exist: all nodes and the device, or `quorum.expected_votes` if that is more.
    ///
    /// votequorum starts from the nodes' votes or `expected_votes` and raises it to the sum of all
    /// votes once they have been seen together; ours holds that from the start, because two sides
    /// that count from a lower number could both be quorate.
    pub fn expected_votes(&self) -> u32 {
        let total = self.node_votes().saturating_add(self.device_votes());
        total.max(self.quorum.expected_votes.unwrap_or(0))
    }

    /// The votes that make a view quorate. `two_node` does not lower it (safety 14).
    pub fn quorum(&self) -> u32 {
        quorum_of(self.expected_votes())
    }

    /// The node whose half goes on when the votes are split evenly, if `auto_tie_breaker` is on:
    /// the lowest, the highest, or the first of the list. Always the same node, whoever was a
    /// member last, because both halves have to agree on it without talking.
    pub fn tie_breaker_node(&self) -> Option<NodeId> {
        let mut ids = self.nodes.iter().map(|node| node.id);
        match &self.quorum.auto_tie_breaker_node {
            _ if !self.quorum.auto_tie_breaker => None,
            AutoTieBreaker::Lowest => ids.min(),
            AutoTieBreaker::Highest => ids.max(),
            AutoTieBreaker::Nodes(list) => list.first().copied().or_else(|| ids.next()),
        }
    }

    /// Whether the first quorate view needs every node: `wait_for_all`, and without it what
    /// `two_node` says (votequorum(5)).
    pub fn wait_for_all(&self) -> bool {
        self.quorum.wait_for_all.unwrap_or(self.quorum.two_node)
    }

    /// One node's votes; 0 for a node that is not configured.
    pub fn votes_of(&self, id: NodeId) -> u32 {
        self.node(id).map_or(0, |node| node.votes)
    }
}

/// The times that follow from T and S where the file does not give them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DeviceTimers {
    /// HB: 0.8·T, clamped to [`HEARTBEAT_RANGE`].
    pub heartbeat: Duration,
    /// HB is not 0.8·T: an arbiter that derives T from HB is then wrong (safety 16).
    pub heartbeat_clamped: bool,
    /// How often the host is told the vote: 0.5·T.
    pub cast_vote: Duration,
    /// From connecting to the answered Init: `connect_timeout`, else HB.
    pub connect: Duration,
    /// How long regular heuristics may run: `timeout`, else T/2.
    pub heuristics: Duration,
    /// How long they may run in a membership change: `sync_timeout`, else S/2.
    pub heuristics_sync: Duration,
    /// Between two regular runs: `interval`, else 3·T.
    pub heuristics_interval: Duration,
}

impl DeviceConf {
    /// The device's timers.
    pub fn timers(&self) -> DeviceTimers {
        let wanted = self.timeout.saturating_mul(4) / 5;
        let (lowest, highest) = HEARTBEAT_RANGE;
        let heartbeat = wanted.clamp(lowest, highest);
        let heuristics = &self.heuristics;
        DeviceTimers {
            heartbeat,
            heartbeat_clamped: heartbeat != wanted,
            cast_vote: self.timeout / 2,
            connect: self.net.connect_timeout.unwrap_or(heartbeat),
            heuristics: heuristics.timeout.unwrap_or(self.timeout / 2),
            heuristics_sync: heuristics.sync_timeout.unwrap_or(self.sync_timeout / 2),
            heuristics_interval: heuristics.interval.unwrap_or(self.timeout.saturating_mul(3)),
        }
    }
}
