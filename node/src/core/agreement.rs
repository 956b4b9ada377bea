//! Propose, accept, install: how the members of a target come to be in one view.
//!
//! The lowest id proposes; a member that wants the same set stores the ring sequence, leaves its
//! old view for good and accepts; when all have accepted, the proposer fixes the epoch, stores it
//! and installs, and the members follow. So when any node has installed a view, every member has
//! left its older ones: none of them is QUORATE there any more.

use std::collections::BTreeSet;

use protocol::cluster::{Accepted, Installed, Proposal};
use protocol::host::FromHost;
use protocol::ids::{Epoch, NodeId, RingId, ViewId};
use protocol::time::Time;
use protocol::times;

use super::quorum::Ballot;
use super::{Action, Node, Stored, host_view};

/// A start waits this long for its peers before it forms a view without them.
const JOIN_WAIT: std::time::Duration = std::time::Duration::from_millis(1000);
/// A proposal that is not accepted by all within two rounds is made anew.
const PROPOSAL_LIMIT: std::time::Duration = times::VIEW_AGREEMENT.saturating_mul(2);
/// Who does not propose, or accept, what the others want is left out for a while.
const PATIENCE: std::time::Duration = std::time::Duration::from_millis(900);
const SNUB: std::time::Duration = std::time::Duration::from_secs(2);

/// Where view agreement stands.
#[derive(Clone, Debug, Default)]
pub(super) struct Agreement {
    /// What this node proposes, as the lowest id.
    proposal: Option<(Proposal, Time)>,
    /// What this node has accepted, once its ring sequence is stored.
    accepted: Option<Proposal>,
    /// What is to be installed, once its epoch is stored.
    installing: Option<Installed>,
    /// Since when a target waits for its lowest id's proposal.
    waiting: Option<(BTreeSet<NodeId>, Time)>,
}

impl Agreement {
    pub(super) fn announced_proposal(&self, durable: &Stored) -> Option<&Proposal> {
        let (proposal, _) = self.proposal.as_ref()?;
        (durable.ring_seq >= proposal.id.ring.seq).then_some(proposal)
    }

    /// No other view is on its way.
    pub(super) fn is_idle(&self) -> bool {
        self.proposal.is_none() && self.accepted.is_none() && self.installing.is_none()
    }

    pub(super) fn accepted(&self, durable: &Stored) -> Option<Accepted> {
        let accepted = self.accepted.as_ref()?;
        (durable.ring_seq >= accepted.id.ring.seq).then_some(Accepted { id: accepted.id })
    }
}

impl Node {
    /// Takes view agreement as far as it goes now.
    pub(super) fn agree(&mut self, now: Time) {
        if self.leaving {
            self.agreement = Agreement::default();
            self.leave_current();
            return;
        }
        if self.is_content(now, |members| self.is_target(now, members)) {
            self.agreement.waiting = None;
            self.agreement.proposal = None;
            self.agreement.accepted = None;
            return;
        }
        let target = self.target(now);
        let content = self.is_content(now, |members| members.iter().eq(&target));
        let early = now < self.started + JOIN_WAIT && target.len() < self.config.votes.len();
        if early || content {
            self.agreement.waiting = None;
            if content {
                self.agreement.proposal = None;
                self.agreement.accepted = None;
            }
            return;
        }
        let lowest = target.first().copied().unwrap_or(self.config.node);
        if lowest == self.config.node {
            self.propose(now, &target);
        } else {
            self.accept(now, &target, lowest);
        }
        self.install(now);
    }

    /// The current view is the target, and every member still names it.
    fn is_content(&self, now: Time, is_target: impl Fn(&[NodeId]) -> bool) -> bool {
        let Some(ballot) = self.current.as_ref().filter(|ballot| !ballot.left) else {
            return false;
        };
        let members = &ballot.installed.members;
        is_target(members) && !members.iter().any(|node| self.is_astray(now, *node))
    }

    fn propose(&mut self, now: Time, target: &BTreeSet<NodeId>) {
        let standing = self.agreement.proposal.as_ref().is_some_and(|(proposal, since)| {
            proposal.members.iter().eq(target) && now < *since + PROPOSAL_LIMIT
        });
        if !standing && self.agreement.installing.is_none() {
            let peers = target.iter().filter_map(|node| self.peers.get(node)?.beat.as_ref());
            let seen = peers.map(|beat| beat.ring_seq).max().unwrap_or(0);
            let seq = self.want.ring_seq.max(seen).saturating_add(1);
            let ring = RingId::new(self.config.node.0, seq);
            let id = ViewId { ring, nonce: self.rng.next_u64() };
            let proposal = Proposal { id, members: target.iter().copied().collect() };
            self.want.ring_seq = seq;
            self.agreement.accepted = Some(proposal.clone());
            self.agreement.proposal = Some((proposal, now));
        }
        self.leave_when_accepted();
        let Some((proposal, _)) = &self.agreement.proposal else { return };
        let id = proposal.id;
        let accepted = |node: &NodeId| match self.peers.get(node) {
            Some(peer) => {
                let beat = peer.beat.as_ref().filter(|_| peer.in_contact(now));
                beat.and_then(|beat| beat.accepted).is_some_and(|accepted| accepted.id == id)
            }
            None => self.agreement.accepted(&self.durable).is_some_and(|own| own.id == id),
        };
        let missing: Vec<NodeId> =
            proposal.members.iter().filter(|node| !accepted(node)).copied().collect();
        if !missing.is_empty() {
            // Who does not accept wants another view, or cannot store this one.
            if !missing.contains(&self.config.node) {
                self.lose_patience(now, target, &missing);
            }
        } else if self.agreement.installing.is_none() {
            let peers = proposal.members.iter().filter_map(|n| self.peers.get(n)?.beat.as_ref());
            let seen = peers.map(|beat| beat.highest_epoch).max().unwrap_or_default();
            let own = if self.want.forgotten { Epoch(0) } else { self.want.epoch };
            let epoch = seen.max(own).next();
            let members = proposal.members.clone();
            self.prepare(Installed { id, epoch, members, vote_free: false });
        }
    }

    /// Accepts what the lowest id proposes, if it is what this node wants too.
    fn accept(&mut self, now: Time, target: &BTreeSet<NodeId>, lowest: NodeId) {
        self.agreement.proposal = None;
        let Some(beat) = self.peers.get(&lowest).and_then(|peer| peer.beat.clone()) else { return };
        if let Some(proposal) = beat.proposal.filter(|p| p.members.iter().eq(target)) {
            let known = self.agreement.accepted.as_ref().is_some_and(|a| a.id == proposal.id);
            if !known && proposal.id.ring.seq > self.want.ring_seq {
                self.want.ring_seq = proposal.id.ring.seq;
                self.agreement.accepted = Some(proposal);
                self.agreement.installing = None;
                self.agreement.waiting = None;
            }
        }
        self.leave_when_accepted();
        let accepted = self.agreement.accepted(&self.durable);
        if let (Some(accepted), Some(view)) = (accepted, beat.view)
            && view.id == accepted.id
            && view.members.iter().eq(target)
            && self.agreement.installing.is_none()
        {
            self.prepare(Installed { vote_free: false, ..view });
        }
        self.lose_patience(now, target, &[lowest]);
    }

    /// A target that its lowest id does not propose, or a member does not accept, is given up:
    /// that node wants another one. So do, most likely, all that share no view with this node;
    /// who gives them up one after the other never wants what they all want.
    fn lose_patience(&mut self, now: Time, target: &BTreeSet<NodeId>, stubborn: &[NodeId]) {
        let waiting = self.agreement.waiting.take().filter(|(set, _)| set == target);
        let (set, since) = waiting.unwrap_or_else(|| (target.clone(), now));
        if now < since + PATIENCE {
            self.agreement.waiting = Some((set, since));
            return;
        }
        let strange: Vec<NodeId> =
            self.peers.keys().filter(|node| self.is_strange(**node)).copied().collect();
        for node in strange.iter().chain(stubborn) {
            if let Some(peer) = self.peers.get_mut(node) {
                peer.snubbed_until = now + SNUB;
            }
        }
    }

    /// It is not in this node's view, or has installed one without this node.
    fn is_strange(&self, node: NodeId) -> bool {
        let view = self.peers.get(&node).and_then(|peer| peer.beat.as_ref()?.view.as_ref());
        !self.members().contains(&node)
            || view.is_some_and(|view| !view.members.contains(&self.config.node))
    }

    fn prepare(&mut self, installed: Installed) {
        self.want.epoch = self.want.epoch.max(installed.epoch);
        self.agreement.installing = Some(installed);
    }

    /// From the moment an acceptance can be sent, the old view is over for this node: its votes
    /// can freeze it and nothing more.
    fn leave_when_accepted(&mut self) {
        if self.agreement.accepted(&self.durable).is_some() {
            self.leave_current();
        }
    }

    pub(super) fn leave_current(&mut self) {
        if let Some(ballot) = &mut self.current {
            ballot.left = true;
        }
    }

    /// Installs what has been agreed, once its epoch is on disk.
    fn install(&mut self, now: Time) {
        let durable = self.durable.epoch;
        let agreement = &mut self.agreement;
        let Some(installed) = agreement.installing.take_if(|view| view.epoch <= durable) else {
            return;
        };
        agreement.accepted = None;
        agreement.proposal = None;
        agreement.waiting = None;
        let mut free = self.started + times::PEER_PROMISE;
        let before = self.current.as_ref().map(|ballot| ballot.installed.members.clone());
        for (node, peer) in &mut self.peers {
            peer.astray_since = None;
            if installed.members.contains(node) {
                peer.removed = false;
            } else {
                free = free.max(peer.promised_until);
                peer.removed |= before.as_ref().is_some_and(|members| members.contains(node));
            }
        }
        self.seen_all |= installed.members.len() == self.config.votes.len();
        let configured: Vec<NodeId> = self.config.votes.keys().copied().collect();
        self.fencing.view(now, &installed.members, &configured);
        let ballot = Ballot::new(installed, free);
        self.actions.push_back(Action::Decided(format!(
            "view {} installed: members {}, epoch {}",
            ballot.installed.id,
            ballot.installed.members.iter().map(NodeId::to_string).collect::<Vec<_>>().join(" "),
            ballot.installed.epoch,
        )));
        self.actions.push_back(Action::Host(FromHost::View(host_view(&ballot))));
        self.told_quorum = None;
        self.replace_current(now, ballot);
    }

    /// The epoch of the current view, raised to what the arbiter granted.
    pub(super) fn raise_epoch(&mut self, epoch: Epoch) {
        self.want.epoch = self.want.epoch.max(epoch);
    }
}
