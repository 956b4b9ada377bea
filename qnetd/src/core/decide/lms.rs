//! Last man standing: some partition has the vote as long as any client is there (wire 4.3).
//!
//! A single visible partition gets it, however small; that this does not make two sides quorate
//! is the ledger's care, which lets the vote move only when nobody else can count it.
//!
//! Corrections over the stock rule, beside those for all algorithms:
//! - nobody is answered while any membership is unsettled, and members are compared, not only
//!   rings; the stock daemon answers each node from what the others said at that moment, old data
//!   included;
//! - the newcomer rule becomes: a live holder keeps the vote against everyone outside of its grant,
//!   however many, until its heuristics failed twice in a row and others' are better;
//! - ties are broken among the partitions that lead, not among all;
//! - an explicit tie-breaker answers its whole partition, not only the node itself, and where the
//!   node is not connected the vote goes to the partition that has it as a member, else to that of
//!   the lowest client, instead of nobody;
//! - node ids of 2³¹−1 and above can be the lowest;
//! - a client on ring sequence 0 counts as any other.

use std::collections::{BTreeMap, BTreeSet};

use protocol::ids::NodeId;
use protocol::vote::TieBreaker;

use super::partition::{Needs, Partition, partitions, settle};
use super::{ClientView, Decision, GiveReason, WaitReason};

pub(super) fn decide(
    clients: &BTreeMap<NodeId, ClientView>,
    holder: Option<&BTreeSet<NodeId>>,
) -> Result<Decision, WaitReason> {
    let voters = settle(clients, Needs::Members)?;
    let first = voters.values().next().ok_or(WaitReason::AllStuck)?;
    let (winner, reason) = choose(partitions(&voters), holder, first.tie_breaker);
    let winner = winner.ok_or(WaitReason::AllStuck)?;
    Ok(winner.give(reason))
}

/// Narrows the partitions down until one is left: the holder's, the best score, the holder's
/// again where its failed heuristics had opened the contest, most clients, the tie-breaker's.
fn choose<'a>(
    mut left: Vec<Partition<'a>>,
    holder: Option<&BTreeSet<NodeId>>,
    tie_breaker: TieBreaker,
) -> (Option<Partition<'a>>, GiveReason) {
    if left.len() <= 1 {
        return (left.pop(), GiveReason::OnlyPartition);
    }
    let holds = |p: &Partition| p.holds(holder);
    if left.iter().any(|p| holds(p) && !p.failed_twice()) {
        left.retain(holds);
    }
    if left.len() == 1 {
        return (left.pop(), GiveReason::Holder);
    }
    let most_clients = left.iter().map(|p| p.clients.len()).max();
    let with_most = left.iter().filter(|p| Some(p.clients.len()) == most_clients).count();
    keep_highest(&mut left, |p| p.score());
    if left.len() == 1 {
        let alone = with_most == 1 && left.first().map(|p| p.clients.len()) == most_clients;
        let reason = if alone { GiveReason::MoreClients } else { GiveReason::Heuristics };
        return (left.pop(), reason);
    }
    if left.iter().any(holds) {
        left.retain(holds);
    }
    if left.len() == 1 {
        return (left.pop(), GiveReason::Holder);
    }
    keep_highest(&mut left, |p| p.clients.len());
    if left.len() == 1 {
        return (left.pop(), GiveReason::MoreClients);
    }
    (break_tie(left, tie_breaker), GiveReason::TieBreaker)
}

fn keep_highest(partitions: &mut Vec<Partition>, key: impl Fn(&Partition) -> usize) {
    let highest = partitions.iter().map(&key).max();
    partitions.retain(|p| Some(key(p)) == highest);
}

/// The partition of the preferred node; lowest and highest are among the *connected* ones (ffsplit:
/// among the configured ones). The partitions come in the order of their lowest client.
fn break_tie(partitions: Vec<Partition<'_>>, tie_breaker: TieBreaker) -> Option<Partition<'_>> {
    let at = match tie_breaker {
        TieBreaker::Lowest => Some(0),
        TieBreaker::Highest => {
            let highest = partitions.iter().map(|p| p.clients.keys().next_back()).max();
            partitions.iter().position(|p| Some(p.clients.keys().next_back()) == highest)
        }
        TieBreaker::Node(node) => partitions.iter().position(|p| p.members.contains(&node)),
    };
    partitions.into_iter().nth(at.unwrap_or(0))
}
