//! Who shall have the vote: a pure function of what the clients of one cluster have reported.
//!
//! [`decide`] judges the whole cluster at once, whoever's report was the occasion, so that every
//! event re-evaluates everyone and one partition never gets two answers (hazards 8.6, 8.7). There
//! is no history in here but the `holder` that the caller passes in: what the vote may do *now*,
//! who has to confirm first and how long to wait is the ledger's, not ours.
//!
//! The rules are section 4 of the wire; where they differ from the stock daemon's on purpose, the
//! place says "Correction" and `docs/decisions.md` has a row for it. Corrections for all
//! algorithms:
//! - a departing client is not counted: it is simply not in the view (8.8);
//! - a client that blocks the others for longer than the caller's limit is left out (8.11);
//! - heuristics and tie-breakers do not move the vote from a live holder, unless the holder's
//!   heuristics failed twice in a row (safety 36); so `keep_active_partition` changes nothing;
//! - a client whose lists have not come yet is waited for;
//! - rings are compared with their random part, and every node id is compared as unsigned.
//!
//! Layout: `partition` groups the clients and tells whether their reports fit together; `ffsplit`,
//! `lms`, `two_node_lms` and `test` hold one algorithm each; `lists` checks node lists before they
//! are stored and knows the replies that need no decision.

mod ffsplit;
mod lists;
mod lms;
mod partition;
mod test;
mod two_node_lms;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use protocol::ids::{NodeId, ViewId};
use protocol::vote::{Algorithm, Heuristics, TieBreaker};

pub use lists::{check_config_list, check_membership_list, heuristics_reply, list_reply};

/// What one connected, initialised, live client has reported.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClientView {
    /// Its configuration list; empty: not sent yet.
    pub config: BTreeSet<NodeId>,
    /// Its membership list; empty: not sent yet. May hold nodes without a connection.
    pub members: BTreeSet<NodeId>,
    /// The view of that membership; stock clients have nonce 0.
    pub view: ViewId,
    /// The latest result of its heuristics, whichever message brought it.
    pub heuristics: Heuristics,
    /// The result before that was a fail too (safety 36).
    pub heuristics_failed_before: bool,
    /// From its Init; the same for all clients of a cluster, or they were refused.
    pub tie_breaker: TieBreaker,
    /// From Set option. Kept for status: no decision depends on it, for the active partition is
    /// always kept (safety 36).
    pub keep_active_partition: bool,
    /// Its lists are older than the stability limit, or have not come for as long. That alone is
    /// no fault. But if it lacks a list, it is left out of the decision; and if it and another
    /// stuck client contradict each other, the one behind is (8.11). Of a pair with one young
    /// report nobody is: the other may be about to follow.
    pub stuck: bool,
}

/// What all clients of one cluster have reported.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClusterView {
    /// The same for all clients, or they were refused.
    pub algorithm: Algorithm,
    /// Only live ones: a leaving client is not in here any more (8.8).
    pub clients: BTreeMap<NodeId, ClientView>,
    /// The nodes of the current grant, if there is one.
    pub holder: Option<BTreeSet<NodeId>>,
}

/// Who shall have the vote.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Decision {
    /// No decision yet; what holds the vote goes on holding it.
    Wait(WaitReason),
    /// Exactly this partition gets the vote; everyone else is to lose it. That includes a stuck
    /// client that is in `members` but has reported another view.
    Give {
        /// The view that the clients of the partition reported.
        view: ViewId,
        /// The members that they reported, connected or not; at least one is a client.
        members: BTreeSet<NodeId>,
        /// Why this one.
        reason: GiveReason,
    },
    /// Nobody gets it.
    Nobody(NobodyReason),
    /// The test algorithm: everyone gets it.
    All,
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wait(reason) => write!(f, "no decision: {reason}"),
            Self::Give { view, members, reason } => {
                write!(f, "the vote is for ring {view}, nodes ")?;
                for (i, node) in members.iter().enumerate() {
                    write!(f, "{}{node}", if i == 0 { "" } else { "," })?;
                }
                write!(f, ": {reason}")
            }
            Self::Nobody(reason) => write!(f, "nobody has the vote: {reason}"),
            Self::All => write!(f, "everyone has the vote: test algorithm"),
        }
    }
}

/// What a decision is waiting for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum WaitReason {
    /// A client.
    NoClient,
    /// Lists that fit together: every client is stuck.
    AllStuck,
    /// This client's configuration or membership list.
    ListsMissing(NodeId),
    /// Two clients of one membership report different views; the first, with the lower ring, is
    /// the one behind.
    RingsDiffer(NodeId, NodeId),
    /// The first client's membership list has nodes that the second's, of the same view, lacks.
    MembersDiffer(NodeId, NodeId),
    /// Two clients have different configuration lists: a change is under way (ffsplit).
    ConfigsDiffer(NodeId, NodeId),
    /// This node is condemned, and nobody reports a view without it (safety 25). Said by the caller
    /// of [`decide`], which knows nothing of fencing.
    Condemned(NodeId),
}

impl fmt::Display for WaitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoClient => write!(f, "no client is connected"),
            Self::AllStuck => write!(f, "no client has sent lists that fit the others'"),
            Self::ListsMissing(node) => write!(f, "node {node} has not sent its lists"),
            Self::RingsDiffer(behind, ahead) => {
                write!(f, "node {behind} has not reported the ring of node {ahead} yet")
            }
            Self::MembersDiffer(a, b) => {
                write!(f, "nodes {a} and {b} report different members for one ring")
            }
            Self::ConfigsDiffer(a, b) => {
                write!(f, "nodes {a} and {b} have different node lists configured")
            }
            Self::Condemned(node) => write!(f, "node {node} is being fenced"),
        }
    }
}

/// What made a partition win.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum GiveReason {
    /// No other partition may have the vote.
    OnlyPartition,
    /// More than half of the configured nodes.
    Majority,
    /// More of its nodes are connected to the arbiter.
    MoreClients,
    /// Its heuristics are better.
    Heuristics,
    /// It holds the vote already (safety 36).
    Holder,
    /// The tie-breaker.
    TieBreaker,
}

impl fmt::Display for GiveReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OnlyPartition => "the only partition in question",
            Self::Majority => "more than half of the configured nodes",
            Self::MoreClients => "more nodes connected to the arbiter",
            Self::Heuristics => "better heuristics",
            Self::Holder => "it holds the vote already",
            Self::TieBreaker => "the tie-breaker",
        })
    }
}

/// Why nobody gets the vote.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NobodyReason {
    /// No partition has half of the configured nodes (ffsplit).
    NoHalf,
}

impl fmt::Display for NobodyReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoHalf => "no partition has half of the configured nodes",
        })
    }
}

/// Decides for the whole cluster.
///
/// Any view is taken, also one that no honest client could have brought about; the answer is then
/// [`Decision::Wait`] or, as always, a single partition. The same view gets the same answer.
pub fn decide(view: &ClusterView) -> Decision {
    if view.clients.is_empty() {
        return Decision::Wait(WaitReason::NoClient);
    }
    let (clients, holder) = (&view.clients, view.holder.as_ref());
    let decision = match view.algorithm {
        Algorithm::Test => Ok(test::decide()),
        Algorithm::Ffsplit => ffsplit::decide(clients, holder),
        Algorithm::TwoNodeLms => two_node_lms::decide(clients, holder),
        Algorithm::Lms => lms::decide(clients, holder),
    };
    decision.unwrap_or_else(Decision::Wait)
}
