//! Rule S7: power is cut for an entitled side only, never on both sides, and who is taken for off is
//! off. What the gateway and the arbiter say is compared with what the nodes and their power
//! switches really do.

use std::time::Duration;

use protocol::fence::Attestation;
use protocol::ids::{BootId, NodeId};
use protocol::status::QuorumState;

use crate::world::World;

/// The arbiter's word is no older than this when a command is sent: the gateway waits 3 s for an
/// answer before it asks anew, by a clock that may be 4 % slow.
const WORD_COUNTS: Duration = Duration::from_millis(3200);

impl World {
    /// The arbiter says that a side is entitled. No target is QUORATE without the requester in a
    /// view that is as new: that would be the other side.
    pub(crate) fn check_word(&mut self, word: &Attestation) {
        if self.monitor.amnesia {
            return;
        }
        let other = self.monitor.readings.iter().find(|reading| {
            word.targets.contains_key(&reading.node)
                && reading.state == QuorumState::Quorate
                && reading.epoch >= word.epoch
                && !reading.members.iter().any(|node| word.holders.contains(node))
        });
        if let Some(other) = other {
            let text = format!(
                "the arbiter attests {:?} in epoch {} while node {} is QUORATE in epoch {}",
                word.holders, word.epoch, other.node, other.epoch
            );
            self.monitor.report("S7", text);
        }
    }

    /// The gateway sends the command to cut a node's power: the arbiter has said just now that
    /// somebody is entitled to have it cut.
    pub(crate) fn check_command(&mut self, node: NodeId) {
        let now = self.now;
        let mut words = self.gateway.words.values();
        let fresh =
            words.any(|(at, word)| word.targets.contains_key(&node) && now <= *at + WORD_COUNTS);
        if !fresh {
            let text = format!("power of node {node} is cut, and nobody is entitled any more");
            self.monitor.report("S7", text);
        }
    }

    /// A node's power is cut: it is condemned at the arbiter, so that it gets no vote meanwhile, and
    /// it is not the last one that had power. An arbiter that has lost its state since has forgotten
    /// that.
    pub(crate) fn check_cut(&mut self, node: NodeId) {
        let known = self.server.id;
        let mut words = self.gateway.words.values().filter(|(_, w)| w.intent.arbiter == known);
        if !words.any(|(_, word)| word.targets.contains_key(&node)) {
            return;
        }
        let intent = self.server.fencing.as_ref().and_then(|record| record.intent.as_ref());
        if !intent.is_some_and(|intent| intent.targets.contains(&node)) {
            let text = format!("power of node {node} is cut, and it is not condemned");
            self.monitor.report("S7", text);
        }
        if self.hosts.keys().all(|node| self.gateway.has_cut(*node)) {
            self.monitor.report("S7", "both sides are cut off from power".to_owned());
        }
    }

    /// S6, S7: who is taken for off is off. A proof is of one boot (safety 24); of which one is not
    /// known where the arbiter never heard of it.
    pub(crate) fn check_off(&mut self, node: NodeId, boot: BootId) {
        let Some(host) = self.hosts.get(&node) else { return };
        if host.boot == boot && host.unpowered == 0 {
            self.monitor.report("S7", format!("node {node} is taken for off, and it has power"));
        }
    }

    /// The arbiter gives a node a vote, or renews it: it is not condemned (safety 25).
    pub(crate) fn check_not_condemned(&mut self, node: NodeId) {
        if self.server.fencing.as_ref().is_none_or(|record| record.intent.is_none()) {
            return;
        }
        let arbiter = &self.server.arbiter;
        let status =
            arbiter.machine.as_ref().map(|machine| machine.status(arbiter.clock.at(self.now)));
        let clusters = status.iter().flat_map(|status| status.clusters.values());
        let mut intents = clusters.filter_map(|cluster| cluster.intent.as_ref());
        if intents.any(|intent| intent.condemned.contains(&node.0)) {
            let text = format!("node {node} is condemned, and the arbiter gives it the vote");
            self.monitor.report("S7", text);
        }
    }

    /// The arbiter's disk says that the node's present boot is off.
    pub(crate) fn is_confirmed_off(&self, node: NodeId) -> bool {
        let present = self.hosts.get(&node).map(|host| host.boot);
        let known = self.server.fencing.iter().flat_map(|record| &record.off);
        known.filter(|off| off.node == node).any(|off| Some(off.boot) == present)
    }
}
