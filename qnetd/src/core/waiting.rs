//! What a vote waits for: one value, from which status and the log take their words and shadow
//! mode the number of the rule.

use std::fmt;

use protocol::ids::NodeId;

use super::VoteHold;

/// What a decided vote waits for before it is told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Waiting {
    /// The record of the grant is on its way to the disk.
    Storing,
    /// That of an older decision is.
    StoringAnother,
    /// The disk has just refused one.
    NotStored,
    /// This connected loser.
    Unapplied(NodeId),
    /// This node, which corosync has just lost, and which may not have found that out yet.
    Unaware(NodeId),
    /// This node, which is outside the view.
    Counted(NodeId, Counting),
    /// What an earlier boot of the arbiter's host has granted.
    HostRestarted,
    /// What may have been granted before there was a state directory.
    StateNew,
    /// This node's first report since the start.
    Unheard(NodeId),
    /// One of the two processes that say they are this node.
    Contested(NodeId),
}

/// Why a node outside the view may still count the vote.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Counting {
    /// It is of the view of a grant, which it may have been told of by another, or it has a lease.
    Grant,
    /// The same, and how long that may last is not known.
    EndlessGrant,
    /// A stock client that may be lost.
    Lost {
        /// Its connection is closed.
        closed: bool,
        /// In the middle of a membership change; only said where the rule asks for it.
        ring_change: bool,
        /// The rule for such clients.
        mode: VoteHold,
    },
    /// A stock client whose vote has no bound.
    Endless(Endless),
}

/// Why a stock client's vote has no bound.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Endless {
    /// It keeps the vote when it loses the arbiter.
    Kept,
    /// Nobody has said its device timeout.
    TimeoutUnknown,
}

impl Waiting {
    /// The number of the rule of safety that demands it.
    pub fn rule(self) -> &'static str {
        match self {
            Self::Storing | Self::StoringAnother | Self::NotStored => "37",
            Self::Unapplied(_) => "F7",
            Self::Unaware(_) => "F1",
            Self::Counted(_, counting) => counting.rule(),
            Self::HostRestarted => "10",
            Self::StateNew | Self::Unheard(_) => "F8",
            Self::Contested(_) => "F14",
        }
    }

    /// In words, and whether fencing would end it.
    pub(super) fn remedied(self) -> String {
        match self {
            Self::Unapplied(node)
            | Self::Unaware(node)
            | Self::Counted(node, _)
            | Self::Unheard(node) => {
                format!("{self}; proof that node {node} is off would end that")
            }
            Self::Storing
            | Self::StoringAnother
            | Self::NotStored
            | Self::HostRestarted
            | Self::StateNew
            | Self::Contested(_) => self.to_string(),
        }
    }

    /// It is over as soon as the disk answers, which tells of its failures by itself.
    pub(super) fn is_for_the_disk(self) -> bool {
        match self {
            Self::Storing | Self::StoringAnother | Self::NotStored => true,
            Self::Unapplied(_)
            | Self::Unaware(_)
            | Self::Counted(..)
            | Self::HostRestarted
            | Self::StateNew
            | Self::Unheard(_)
            | Self::Contested(_) => false,
        }
    }
}

impl Counting {
    fn rule(self) -> &'static str {
        match self {
            Self::Grant | Self::EndlessGrant => "9",
            Self::Lost { mode: VoteHold::Off, .. } => "38",
            Self::Lost { mode: VoteHold::SingleFault, .. } => "5",
            Self::Lost { mode: VoteHold::DoubleFault, ring_change: true, .. } => "4",
            Self::Lost { mode: VoteHold::DoubleFault, ring_change: false, .. } => "F12",
            Self::Endless(Endless::Kept) => "F10",
            Self::Endless(Endless::TimeoutUnknown) => "16",
        }
    }
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Storing => f.write_str("the grant is being stored"),
            Self::StoringAnother => f.write_str("another grant is being stored"),
            Self::NotStored => f.write_str("the last grant could not be stored"),
            Self::Unapplied(node) => {
                write!(f, "node {node} has not shown yet that it applied its loss")
            }
            Self::Unaware(node) => {
                write!(f, "node {node} may not have noticed yet that it is cut off")
            }
            Self::Counted(node, Counting::Grant) => {
                write!(f, "node {node} may still count the vote")
            }
            Self::Counted(node, counting) => {
                write!(f, "node {node} may still count the vote: {counting}")
            }
            Self::HostRestarted => {
                f.write_str("the arbiter's host has restarted: recorded leases run out")
            }
            Self::StateNew => f.write_str("the arbiter's state is new: old leases run out"),
            Self::Unheard(node) => {
                write!(f, "nothing is known of node {node} since the arbiter's start")
            }
            Self::Contested(node) => write!(f, "node {node} is claimed by two live processes"),
        }
    }
}

impl fmt::Display for Counting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Grant => f.write_str("it is of the view that was granted"),
            Self::EndlessGrant => f.write_str(
                "its recorded grant has no bound; start the node, or set \
                 lms-without-wait-for-all or device-timeout for the cluster",
            ),
            Self::Lost { closed, ring_change, mode } => {
                let cause = if *closed { "its connection is closed" } else { "it may be silent" };
                write!(f, "{cause}, vote-hold {mode}")?;
                if *ring_change && *mode == VoteHold::DoubleFault {
                    f.write_str(", in a membership change")?;
                }
                Ok(())
            }
            Self::Endless(endless) => endless.fmt(f),
        }
    }
}

impl fmt::Display for Endless {
    /// With what to set.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kept => {
                "stock lms and 2nodelms clients with wait_for_all keep it without limit; set \
                 lms-without-wait-for-all for the cluster if its nodes have none"
            }
            Self::TimeoutUnknown => {
                "its heartbeat interval does not tell its device timeout; set device-timeout for \
                 the cluster"
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wait_has_its_own_words_and_the_number_of_its_rule() {
        let node = NodeId(2);
        let lost = |closed, ring_change, mode| {
            Waiting::Counted(node, Counting::Lost { closed, ring_change, mode })
        };
        let waits = [
            (Waiting::Storing, "37", "the grant is being stored"),
            (Waiting::StoringAnother, "37", "another grant is being stored"),
            (Waiting::NotStored, "37", "the last grant could not be stored"),
            (Waiting::Unapplied(node), "F7", "node 2 has not shown yet that it applied its loss"),
            (Waiting::Unaware(node), "F1", "node 2 may not have noticed yet that it is cut off"),
            (Waiting::Counted(node, Counting::Grant), "9", "node 2 may still count the vote"),
            (
                lost(false, true, VoteHold::SingleFault),
                "5",
                "node 2 may still count the vote: it may be silent, vote-hold single-fault",
            ),
            (
                lost(true, false, VoteHold::DoubleFault),
                "F12",
                "node 2 may still count the vote: its connection is closed, vote-hold double-fault",
            ),
            (
                lost(false, true, VoteHold::DoubleFault),
                "4",
                "node 2 may still count the vote: it may be silent, vote-hold double-fault, in a \
                 membership change",
            ),
            (
                lost(true, false, VoteHold::Off),
                "38",
                "node 2 may still count the vote: its connection is closed, vote-hold off",
            ),
            (
                Waiting::HostRestarted,
                "10",
                "the arbiter's host has restarted: recorded leases run out",
            ),
            (Waiting::StateNew, "F8", "the arbiter's state is new: old leases run out"),
            (Waiting::Unheard(node), "F8", "nothing is known of node 2 since the arbiter's start"),
            (Waiting::Contested(node), "F14", "node 2 is claimed by two live processes"),
        ];
        for (wait, rule, text) in waits {
            assert_eq!((wait.rule(), wait.to_string().as_str()), (rule, text));
        }
        let endless = [
            (Counting::EndlessGrant, "9", "its recorded grant has no bound; start the node"),
            (Counting::Endless(Endless::Kept), "F10", "set lms-without-wait-for-all"),
            (Counting::Endless(Endless::TimeoutUnknown), "16", "set device-timeout"),
        ];
        for (counting, rule, remedy) in endless {
            let wait = Waiting::Counted(node, counting);
            assert!(wait.to_string().contains(remedy), "{wait}");
            assert_eq!(wait.rule(), rule, "{wait}");
        }
    }
}
