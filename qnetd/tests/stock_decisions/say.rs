//! What can happen in a step of a story.

use std::time::Duration;

use protocol::qnet::Message;
use protocol::vote::{Heuristics, TieBreaker};

/// One thing that happens.
#[derive(Clone, Debug)]
pub(crate) enum Say {
    /// A node connects and does Init, and not more.
    Connects(u32),
    /// A node whose host is already in the ring of this sequence with these members does so.
    Joins(u32, Vec<u32>, u64),
    /// The same process connects again while its old connection is still open.
    ConnectsAgain(u32),
    /// Another process of the same node does.
    OtherConnects(u32),
    /// A second Init on the same connection, with this tie-breaker.
    InitsAgain(u32, TieBreaker),
    /// A node sends its configuration list.
    Configures(u32, Vec<u32>),
    /// A node reports these members in the ring of this sequence, and what its heuristics say;
    /// it connects and sends its configuration list first if it has not.
    Reports(u32, Vec<u32>, u64, Heuristics),
    /// A node reports its members under another node's ring.
    ReportsRing(u32, Vec<u32>, u32, u64),
    /// A node's heuristics have a new result.
    Finds(u32, Heuristics),
    /// A node keeps its replies to itself, or says all of them now.
    Mute(u32, bool),
    /// A node asks for its vote.
    Asks(u32),
    /// A node repeats its quorum list.
    Repeats(u32),
    /// A node says this.
    Says(u32, Box<Message>),
    /// A node's connection is closed from its side.
    Leaves(u32),
    /// Time passes.
    Passes(Duration),
}

pub(crate) fn connects(node: u32) -> Say {
    Say::Connects(node)
}

pub(crate) fn reports(node: u32, members: &[u32], seq: u64) -> Say {
    Say::Reports(node, members.to_vec(), seq, Heuristics::Undefined)
}

pub(crate) fn reports_with(node: u32, members: &[u32], seq: u64, heuristics: Heuristics) -> Say {
    Say::Reports(node, members.to_vec(), seq, heuristics)
}

/// Every node of a partition connects, its host being in that partition's ring.
pub(crate) fn all_join(members: &[u32], seq: u64) -> Vec<Say> {
    members.iter().map(|node| Say::Joins(*node, members.to_vec(), seq)).collect()
}

pub(crate) fn configures(node: u32, nodes: &[u32]) -> Say {
    Say::Configures(node, nodes.to_vec())
}

pub(crate) fn passes(ms: u64) -> Say {
    Say::Passes(Duration::from_millis(ms))
}

/// Every node of a partition reports it.
pub(crate) fn all_report(members: &[u32], seq: u64) -> Vec<Say> {
    members.iter().map(|node| reports(*node, members, seq)).collect()
}
