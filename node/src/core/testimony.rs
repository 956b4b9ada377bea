//! What a member says for its view while no arbiter answers a gateway, and keeps to (rule S7).
//!
//! The gateway gives whoever asks it for power to be cut a challenge; that node shows it in its
//! beats, and each member of its view answers the gateway for itself. A member that testifies while
//! its view is QUORATE without the arbiter condemns the targets: until it hears that they are off,
//! that the job is over, or nothing for [`CONDEMNED`], it is in no view with any of them. Members
//! with more than half of all votes do so, and no other members can have as many; so no target
//! becomes QUORATE while its power is being cut. A node that restarts forgets what it has said: at
//! worst a node is fenced that has just come back, never two sides.

use std::collections::{BTreeMap, BTreeSet};

use protocol::cluster::MAX_NODES;
use protocol::fence::{CONDEMNED, Challenge, Nonce, TargetRecord, Testimony};
use protocol::ids::{BootId, Epoch, NodeId, ViewId};
use protocol::status::QuorumState;
use protocol::time::Time;

use super::quorum::{Ballot, Count};
use super::{Action, Node};

/// What was testified last to one that asked; it is said again when it is not so any more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Said {
    nonce: Nonce,
    view: ViewId,
    epoch: Epoch,
    quorate: bool,
}

/// Where a member's testimonies stand.
#[derive(Clone, Debug, Default)]
pub(super) struct Witness {
    /// What the gateway asks the members of this node's view.
    challenge: Option<Challenge>,
    /// By who showed the challenge.
    said: BTreeMap<NodeId, Said>,
}

impl Node {
    /// The gateway, which this node has asked for power to be cut, asks for its view's word.
    pub(super) fn challenged(&mut self, challenge: Challenge) {
        if self.is_asking() {
            self.witness.challenge = Some(challenge);
        }
    }

    /// The job is over, or there is nobody to fence any more.
    pub(super) fn job_is_over(&mut self) {
        self.witness.challenge = None;
    }

    /// For the beat: what the members of this node's view may testify to. It is shown between two
    /// views too: the job goes on.
    pub(super) fn shown_challenge(&self) -> Option<Challenge> {
        let Challenge { nonce, targets } = self.witness.challenge.as_ref()?;
        let outside = self.outside(self.current.as_ref()?).filter(|node| targets.contains(node));
        let targets: BTreeSet<NodeId> = outside.take(MAX_NODES - 1).collect();
        (!targets.is_empty()).then_some(Challenge { nonce: *nonce, targets })
    }

    /// Testifies to what members of the view were asked, and keeps to what was said before.
    pub(super) fn testify(&mut self, now: Time) {
        self.pardon();
        // Nearly always nobody asks, and nothing is copied to see it.
        let mut beats = self.peers.values().filter_map(|peer| peer.beat.as_ref());
        let asks = self.witness.challenge.is_some() || beats.any(|beat| beat.challenge.is_some());
        if !asks && self.witness.said.is_empty() {
            return;
        }
        let Some(ballot) = self.current.clone().filter(|ballot| !ballot.left && !self.leaving)
        else {
            return;
        };
        let asked = self.asked_in(now, &ballot);
        self.witness.said.retain(|asker, _| asked.contains_key(asker));
        let (view, epoch) = (ballot.installed.id, ballot.installed.epoch);
        // Another view that is on its way already may have a target in it.
        let quorate = self.agreement.is_idle() && self.is_quorate_without_device(now, &ballot);
        for (asker, Challenge { nonce, targets }) in asked {
            let said = Said { nonce, view, epoch, quorate };
            let outside: Vec<NodeId> =
                self.outside(&ballot).filter(|node| targets.contains(node)).collect();
            if outside.is_empty() || self.witness.said.get(&asker) == Some(&said) {
                continue;
            }
            self.witness.said.insert(asker, said);
            let mut targets = BTreeMap::new();
            for node in outside.into_iter().filter(|_| quorate) {
                targets.insert(node, self.record(now, node));
                if let Some(peer) = self.peers.get_mut(&node) {
                    peer.condemned = Some((now + CONDEMNED, asker));
                }
            }
            self.actions.push_back(Action::Testify(Box::new(Testimony {
                nonce,
                node: self.config.node,
                view,
                epoch,
                members: ballot.installed.members.iter().copied().collect(),
                quorate,
                expected_votes: self.expected_votes(),
                targets,
            })));
        }
    }

    /// Every challenge that is shown in this view, this node's own included.
    fn asked_in(&self, now: Time, ballot: &Ballot) -> BTreeMap<NodeId, Challenge> {
        let shown = |node: &NodeId| match self.peers.get(node) {
            Some(peer) => {
                let beat = peer.beat.as_ref().filter(|_| peer.in_contact(now))?;
                let view = beat.view.as_ref().map(|view| view.id);
                beat.challenge.clone().filter(|_| view == Some(ballot.installed.id))
            }
            None => self.shown_challenge(),
        };
        let members = ballot.installed.members.iter();
        members.filter_map(|node| Some((*node, shown(node)?))).collect()
    }

    /// Who is off, or for whom nobody asks any more, is condemned no longer.
    fn pardon(&mut self) {
        let is_asked = |asker: NodeId| match self.peers.get(&asker) {
            // One that is gone may have begun something; then time ends it.
            Some(peer) => peer.beat.as_ref().is_none_or(|beat| beat.challenge.is_some()),
            None => self.witness.challenge.is_some(),
        };
        let over = |(node, peer): (&NodeId, &super::Peer)| {
            let (_, asker) = peer.condemned?;
            (self.is_off(*node) || !is_asked(asker)).then_some(*node)
        };
        let over: Vec<NodeId> = self.peers.iter().filter_map(over).collect();
        for node in over {
            if let Some(peer) = self.peers.get_mut(&node) {
                peer.condemned = None;
            }
        }
    }

    /// The view is QUORATE, and would be without the device's votes.
    fn is_quorate_without_device(&self, now: Time, ballot: &Ballot) -> bool {
        let counts = ballot.device.is_some_and(|device| now < device.until);
        let device = if counts { self.config.device_votes.saturating_mul(2) } else { 0 };
        let nodes = self.halves(now, ballot, Count::Free).saturating_sub(device);
        self.state == QuorumState::Quorate && nodes >= self.need()
    }

    /// What this node knows of one that is to be fenced.
    fn record(&self, now: Time, node: NodeId) -> TargetRecord {
        let millis = |since: Time| u64::try_from(now.since(since).as_millis()).unwrap_or(u64::MAX);
        let peer = self.peers.get(&node).filter(|peer| peer.beat.is_some());
        TargetRecord {
            boot: peer.and_then(|peer| Some(peer.beat.as_ref()?.boot)).unwrap_or(BootId(0)),
            bound: self.durable.bounds.get(&node).copied(),
            outside_ms: self.outside_since.get(&node).copied().map(millis),
            silent_ms: peer.map(|peer| millis(peer.heard_at)),
        }
    }
}
