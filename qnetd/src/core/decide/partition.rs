//! Partitions: clients that report the same view with the same members.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use protocol::ids::{NodeId, ViewId};
use protocol::vote::Heuristics;

use super::{ClientView, Decision, GiveReason, WaitReason};

/// The clients that a decision counts.
pub(super) type Voters<'a> = BTreeMap<NodeId, &'a ClientView>;

/// Some clients in one view. After [`settle`], these are all the clients among
/// `members`, and no client is in two partitions.
#[derive(Clone, Debug)]
pub(super) struct Partition<'a> {
    /// What they all reported.
    pub(super) view: ViewId,
    /// What they all reported, connected or not.
    pub(super) members: &'a BTreeSet<NodeId>,
    /// Who reported it; never empty.
    pub(super) clients: Voters<'a>,
}

impl Partition<'_> {
    /// One point for each connected client, one more where its heuristics pass, one less where
    /// they fail (wire 4.2 `select` 2a, 4.3 step 2).
    pub(super) fn score(&self) -> usize {
        self.clients.values().map(|client| points(client.heuristics)).sum()
    }

    /// A client of this side holds the vote: the side is a live holder.
    pub(super) fn holds(&self, holder: Option<&BTreeSet<NodeId>>) -> bool {
        holder.is_some_and(|nodes| self.clients.keys().any(|node| nodes.contains(node)))
    }

    /// The heuristics of one of its clients failed twice in a row: heuristics may now move the
    /// vote away from here (safety 36).
    pub(super) fn failed_twice(&self) -> bool {
        self.clients
            .values()
            .any(|c| c.heuristics == Heuristics::Fail && c.heuristics_failed_before)
    }

    /// Why this one beats `other` when its score and client count do.
    pub(super) fn lead_over(&self, other: &Self) -> GiveReason {
        if self.clients.len() > other.clients.len() {
            GiveReason::MoreClients
        } else {
            GiveReason::Heuristics
        }
    }

    /// The vote for this one.
    pub(super) fn give(&self, reason: GiveReason) -> Decision {
        Decision::Give { view: self.view, members: self.members.clone(), reason }
    }
}

/// The partitions of the clients, in the order of their lowest client.
pub(super) fn partitions<'a>(voters: &Voters<'a>) -> Vec<Partition<'a>> {
    let mut found: Vec<Partition<'a>> = Vec::new();
    for (node, client) in voters {
        let same = |p: &&mut Partition<'a>| p.view == client.view && *p.members == client.members;
        if let Some(partition) = found.iter_mut().find(same) {
            partition.clients.insert(*node, client);
        } else {
            let (view, members) = (client.view, &client.members);
            found.push(Partition { view, members, clients: Voters::from([(*node, *client)]) });
        }
    }
    found
}

/// What a client must have sent to take part.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Needs {
    /// Its membership list.
    Members,
    /// Its configuration list too.
    ConfigAndMembers,
}

/// The clients that take part in the decision, once their reports fit together: each has sent its
/// lists, and a client that another one has in its membership list reports the same view and at
/// least the same members (the stability test of wire 4.2). Nodes without a connection are not
/// asked.
///
/// Corrections: the stock daemon goes on without a membership list that has not come; it is on its
/// way, and a vote that moves without it would move back at once. A list without its sender is
/// none. And the test holds up a decision for a limited time only (8.11): a stuck client without
/// lists is left out, and of two stuck clients that contradict each other the one behind.
pub(super) fn settle(
    clients: &BTreeMap<NodeId, ClientView>,
    needs: Needs,
) -> Result<Voters<'_>, WaitReason> {
    let mut voters = Voters::new();
    for (node, client) in clients {
        let config_is_there = needs == Needs::Members || client.config.contains(node);
        if config_is_there && client.members.contains(node) {
            voters.insert(*node, client);
        } else if !client.stuck {
            return Err(WaitReason::ListsMissing(*node));
        }
    }
    let contradictions = contradictions(&voters);
    // All are found before any is left out: a client stays behind whatever becomes of the one
    // that contradicts it.
    for found in &contradictions {
        if found.is_old {
            voters.remove(&found.behind);
        }
    }
    for found in contradictions {
        if voters.contains_key(&found.behind) && voters.contains_key(&found.ahead) {
            return Err(found.reason());
        }
    }
    if voters.is_empty() { Err(WaitReason::AllStuck) } else { Ok(voters) }
}

/// Two clients that are in one membership, as one of them says, and do not agree on it.
struct Contradiction {
    behind: NodeId,
    ahead: NodeId,
    /// They agree on the view, not on its members.
    same_view: bool,
    /// Both reports are older than the limit, and so is the contradiction.
    is_old: bool,
}

impl Contradiction {
    fn reason(&self) -> WaitReason {
        if self.same_view {
            WaitReason::MembersDiffer(self.behind, self.ahead)
        } else {
            WaitReason::RingsDiffer(self.behind, self.ahead)
        }
    }
}

/// All of them. The lower ring is the one behind: both were together in the ring that one of them
/// reports, and a node's rings only grow. In one view it is the one that claims more members.
fn contradictions(voters: &Voters) -> Vec<Contradiction> {
    let mut found = Vec::new();
    for (node, client) in voters {
        for member in &client.members {
            let Some(other) = voters.get(member) else { continue };
            let is_old = client.stuck && other.stuck;
            let (behind, ahead) = match client.view.cmp(&other.view) {
                Ordering::Equal if client.members.is_subset(&other.members) => continue,
                Ordering::Less | Ordering::Equal => (*node, *member),
                Ordering::Greater => (*member, *node),
            };
            let same_view = client.view == other.view;
            found.push(Contradiction { behind, ahead, same_view, is_old });
        }
    }
    found
}

fn points(heuristics: Heuristics) -> usize {
    match heuristics {
        Heuristics::Pass => 2,
        Heuristics::Undefined => 1,
        Heuristics::Fail => 0,
    }
}
