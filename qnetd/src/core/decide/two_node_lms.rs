//! Last man standing for exactly two nodes (wire 4.4).
//!
//! The stock rule is: a full list wins, then a client that is alone, then better heuristics
//! (pass, undefined, fail), then the tie-breaker. With at most two clients that is what `lms`
//! says: a full list and a lone client are single partitions, and the score of a partition of one
//! orders heuristics the same way. So it is the same code.
//!
//! Corrections over the stock rule, beside those for all algorithms and those of `lms` for holders
//! and explicit tie-breakers: a full list wins once *both* connected clients have reported it. The
//! stock daemon answers the first one alone, while the other may still have the vote for another
//! view.

use std::collections::{BTreeMap, BTreeSet};

use protocol::ids::NodeId;

use super::{ClientView, Decision, WaitReason, lms};

/// Configuration lists of any other length are refused (wire 4.4).
pub(super) const CONFIGURED_NODES: usize = 2;

pub(super) fn decide(
    clients: &BTreeMap<NodeId, ClientView>,
    holder: Option<&BTreeSet<NodeId>>,
) -> Result<Decision, WaitReason> {
    lms::decide(clients, holder)
}
