//! Who may have another node cut off from power (rule S7, safety 26): the side that has the vote,
//! or the one that is chosen for it while the vote waits for others to lose it. Nobody else, and
//! not while it is in doubt.

use std::collections::BTreeSet;

use protocol::fence::{Refusal, Role};
use protocol::ids::{ClusterName, Epoch, NodeId, RingId, ViewId};
use protocol::time::Time;
use protocol::vote::Vote;

use super::Arbiter;
use super::client::Client;
use super::cluster::Cluster;
use super::decide::Decision;
use super::waiting::Waiting;

/// A side that is entitled.
#[derive(Clone, Debug)]
pub(super) struct Side {
    pub(super) role: Role,
    /// Of its view, or reserved for it.
    pub(super) epoch: Epoch,
    pub(super) ring: RingId,
    pub(super) members: BTreeSet<NodeId>,
}

impl Arbiter {
    /// The side that `requester` speaks for, if that is entitled to have `targets` fenced.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn entitled(
        &self,
        now: Time,
        name: &ClusterName,
        requester: NodeId,
        targets: &BTreeSet<NodeId>,
    ) -> Result<Side, Refusal> {
        let absent = Refusal::NotConnected(requester);
        let Some(cluster) = self.clusters.get(name) else { return Err(absent) };
        let client = cluster.speaking(now, &self.clients, requester).ok_or(absent)?;
        let record = cluster.ledger.current();
        let holders = || record.map(|record| record.nodes.clone()).unwrap_or_default();
        if cluster.fencing.condemns(requester) {
            return Err(Refusal::NotEntitled(holders()));
        }
        let held = holder(now, cluster, client, requester);
        match &cluster.decided {
            None => held.ok_or_else(|| Refusal::Undecided("nothing is decided".to_owned())),
            Some(Decision::Wait(reason)) => {
                held.ok_or_else(|| Refusal::Undecided(reason.to_string()))
            }
            Some(Decision::Give { view, members, .. }) => {
                if client.view != *view || !members.contains(&requester) {
                    return Err(Refusal::NotEntitled(members.clone()));
                }
                match held {
                    Some(side) => Ok(side),
                    None => self.candidate(now, cluster, (*view, members), targets),
                }
            }
            Some(Decision::Nobody(_)) => Err(Refusal::NotEntitled(BTreeSet::new())),
            Some(Decision::All) => {
                Err(Refusal::Undecided("the test algorithm gives everyone the vote".to_owned()))
            }
        }
    }

    /// The chosen side while the vote waits, and only for what fencing can end: that others may
    /// still count it.
    fn candidate(
        &self,
        now: Time,
        cluster: &Cluster,
        (view, members): (ViewId, &BTreeSet<NodeId>),
        targets: &BTreeSet<NodeId>,
    ) -> Result<Side, Refusal> {
        let undecided = |why: String| Err(Refusal::Undecided(why));
        match cluster.waiting.map(|(wait, _)| wait) {
            None => return undecided("the vote is on its way to the requester".to_owned()),
            Some(
                Waiting::Storing
                | Waiting::NotStored
                | Waiting::Unapplied(_)
                | Waiting::Unaware(_)
                | Waiting::Counted(..),
            ) => {}
            // Who was told by an arbiter before this one counts that no longer.
            Some(Waiting::Unheard(_)) if cluster.ledger.is_unknown_over(now) => {}
            Some(
                wait @ (Waiting::StoringAnother
                | Waiting::HostRestarted
                | Waiting::StateNew
                | Waiting::Unheard(_)
                | Waiting::Contested(_)),
            ) => return undecided(wait.to_string()),
        }
        // Safety 26: only when the others are not renewed any more.
        let mut live = cluster.live(now, &self.clients).filter(|(node, client)| {
            !members.contains(node)
                && !targets.contains(node)
                && client.told.is_some_and(|told| told.vote == Vote::Ack)
        });
        if let Some((node, _)) = live.next() {
            return undecided(format!("node {node} still has the vote and is no target"));
        }
        let epoch = self.next_epoch(cluster, view, members);
        let (ring, members) = (view.ring, members.clone());
        Ok(Side { role: Role::Candidate, epoch, ring, members })
    }

    /// The epoch of the grant that this view has or is to get.
    pub(super) fn next_epoch(
        &self,
        cluster: &Cluster,
        view: ViewId,
        members: &BTreeSet<NodeId>,
    ) -> Epoch {
        let known = cluster
            .ledger
            .writing()
            .or_else(|| cluster.ledger.current().filter(|_| cluster.ledger.is_unannounced()));
        if let Some(record) = known.filter(|r| r.view == view && &r.nodes == members) {
            return record.grant.epoch;
        }
        let joined = cluster.joined.iter().filter_map(|(n, id)| Some((n, self.clients.get(id)?)));
        let reports = joined.filter(|(node, c)| members.contains(node) && c.view == view);
        let agreed = reports.map(|(_, c)| c.view_epoch).max().unwrap_or_default();
        cluster.ledger.epoch().next().max(agreed)
    }
}

/// The side of a client that has been told that its view has the vote, and may count that.
fn holder(now: Time, cluster: &Cluster, client: &Client, node: NodeId) -> Option<Side> {
    let record = cluster.ledger.current()?;
    let is_told = client.told.is_some_and(|told| told.vote == Vote::Ack);
    let moves = cluster.ledger.writing();
    let stays = moves.is_none_or(|next| next.view == record.view && next.nodes == record.nodes);
    let holds = record.view == client.view
        && record.nodes.contains(&node)
        && cluster.ledger.hold_until(node) > now
        && !cluster.ledger.is_unannounced();
    (is_told && stays && holds).then(|| Side {
        role: Role::Holder,
        epoch: record.grant.epoch,
        ring: record.view.ring,
        members: record.nodes.clone(),
    })
}
