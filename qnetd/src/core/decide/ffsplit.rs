//! Fifty-fifty split: a partition with more than half of the configured nodes, or one of two
//! halves (wire 4.2).
//!
//! Corrections over the stock rule, beside those for all algorithms:
//! - members that are not configured do not count towards the half;
//! - of two halves, or of two majorities that claim the same unconnected nodes, the live holder
//!   keeps the vote; of two halves a challenger gets it only with more connected clients, or with
//!   better heuristics once the holder's failed twice in a row (safety 36). The stock daemon lets
//!   any difference in heuristics move it, and without `keep_active_partition` the tie-breaker.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use protocol::ids::NodeId;
use protocol::vote::TieBreaker;

use super::partition::{Needs, Partition, Voters, partitions, settle};
use super::{ClientView, Decision, GiveReason, NobodyReason, WaitReason};

/// What all contests of one decision share.
struct Contest<'a> {
    configured: &'a BTreeSet<NodeId>,
    tie_breaker: TieBreaker,
    holder: Option<&'a BTreeSet<NodeId>>,
}

pub(super) fn decide(
    clients: &BTreeMap<NodeId, ClientView>,
    holder: Option<&BTreeSet<NodeId>>,
) -> Result<Decision, WaitReason> {
    let voters = settle(clients, Needs::ConfigAndMembers)?;
    let contest = agree(&voters, holder)?;
    let partitions = partitions(&voters);
    let mut best: Option<(&Partition, GiveReason)> = None;
    // Client by client and in the order of ids, as the stock daemon does: where nothing else
    // decides, the order does.
    for node in voters.keys() {
        let Some(rival) = partitions.iter().find(|p| p.clients.contains_key(node)) else {
            continue;
        };
        if contest.share(rival) == Ordering::Less {
            continue;
        }
        best = match best {
            None => Some((rival, contest.reason_alone(rival))),
            Some((champion, reason)) if champion.clients.contains_key(node) => {
                Some((champion, reason))
            }
            Some((champion, _)) => Some(contest.winner(champion, rival)),
        };
    }
    Ok(match best {
        None => Decision::Nobody(NobodyReason::NoHalf),
        Some((partition, reason)) => partition.give(reason),
    })
}

/// All clients must have the same nodes configured: half of what, otherwise? Not even a stuck
/// client is left out here, because nothing tells which configuration is the newer one.
fn agree<'a>(
    voters: &Voters<'a>,
    holder: Option<&'a BTreeSet<NodeId>>,
) -> Result<Contest<'a>, WaitReason> {
    let (first, client) = voters.first_key_value().ok_or(WaitReason::AllStuck)?;
    if let Some((other, _)) = voters.iter().find(|(_, other)| other.config != client.config) {
        return Err(WaitReason::ConfigsDiffer(*first, *other));
    }
    Ok(Contest { configured: &client.config, tie_breaker: client.tie_breaker, holder })
}

impl<'a> Contest<'a> {
    /// Less than half of the configured nodes, exactly half, or more.
    fn share(&self, partition: &Partition) -> Ordering {
        let present = partition.members.intersection(self.configured).count();
        present.saturating_mul(2).cmp(&self.configured.len())
    }

    fn is_majority(&self, partition: &Partition) -> bool {
        self.share(partition) == Ordering::Greater
    }

    fn reason_alone(&self, partition: &Partition) -> GiveReason {
        if self.is_majority(partition) { GiveReason::Majority } else { GiveReason::OnlyPartition }
    }

    /// The better one of two that have at least half.
    fn winner<'p, 'v>(
        &self,
        champion: &'p Partition<'v>,
        rival: &'p Partition<'v>,
    ) -> (&'p Partition<'v>, GiveReason) {
        let (champion_holds, rival_holds) = (champion.holds(self.holder), rival.holds(self.holder));
        match (self.is_majority(champion), self.is_majority(rival)) {
            (true, false) => (champion, GiveReason::Majority),
            (false, true) => (rival, GiveReason::Majority),
            (true, true) if champion_holds && !rival_holds => (champion, GiveReason::Holder),
            (true, true) => (rival, GiveReason::Majority),
            (false, false) if champion_holds && !rival_holds => defend(champion, rival),
            (false, false) if rival_holds && !champion_holds => defend(rival, champion),
            (false, false) => self.compare(champion, rival),
        }
    }

    /// Two halves, both or neither of which hold the vote: score, clients, tie-breaker.
    fn compare<'p, 'v>(
        &self,
        champion: &'p Partition<'v>,
        rival: &'p Partition<'v>,
    ) -> (&'p Partition<'v>, GiveReason) {
        match rank(rival).cmp(&rank(champion)) {
            Ordering::Greater => (rival, rival.lead_over(champion)),
            Ordering::Less => (champion, champion.lead_over(rival)),
            Ordering::Equal
                if self.preferred().is_some_and(|node| rival.members.contains(&node)) =>
            {
                (rival, GiveReason::TieBreaker)
            }
            Ordering::Equal => (champion, GiveReason::TieBreaker),
        }
    }

    /// The node whose side wins a tie, from the *configured* nodes.
    fn preferred(&self) -> Option<NodeId> {
        match self.tie_breaker {
            TieBreaker::Lowest => self.configured.first().copied(),
            TieBreaker::Highest => self.configured.last().copied(),
            TieBreaker::Node(node) => Some(node),
        }
    }
}

/// Two halves, one of which holds the vote.
fn defend<'p, 'v>(
    keeper: &'p Partition<'v>,
    challenger: &'p Partition<'v>,
) -> (&'p Partition<'v>, GiveReason) {
    let may_move = challenger.clients.len() > keeper.clients.len() || keeper.failed_twice();
    if may_move && rank(challenger) > rank(keeper) {
        (challenger, challenger.lead_over(keeper))
    } else {
        (keeper, GiveReason::Holder)
    }
}

fn rank(partition: &Partition) -> (usize, usize) {
    (partition.score(), partition.clients.len())
}
