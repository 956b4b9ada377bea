//! The fence gateway and the nodes' power switches (rule S7, safety 24 to 26 and 28). The
//! gateway's core replaces this; the scenarios stay.
//!
//! The gateway stands beside the arbiter: what cuts a node off from that cuts it off from the
//! gateway. A node that is QUORATE without another, or that the arbiter has chosen and keeps waiting
//! (the candidate), asks once an epoch for the other to be fenced. The gateway registers one intent
//! at a time, from then on the target is condemned; it logs in to the power switch, asks again
//! whether the requester is entitled, cuts power, reads `off` back, and later gives power again.
//! Off is proven of one boot only.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::ids::{BootId, Epoch, NodeId};
use protocol::status::QuorumState;
use protocol::time::Time;
use protocol::times;

use crate::sabotage::Sabotage;
use crate::scenario::{End, GatewayFault};
use crate::world::World;

/// A login at a power switch takes this long, and so does each of its commands.
const COMMAND: Duration = Duration::from_millis(40);
/// With [`GatewayFault::Slow`].
const SLOW_COMMAND: Duration = Duration::from_secs(15);
/// A proof takes this long with [`GatewayFault::LateProof`].
const LATE_PROOF: Duration = Duration::from_secs(20);
/// An intent is given up after this.
const DEADLINE: Duration = Duration::from_secs(20);
/// A node that was heard within this time is not believed to be off.
const SILENCE: Duration = times::SOLO_LEASE_HOLD;
/// A node that was fenced is given power again after this.
const OFF_FOR: Duration = Duration::from_secs(5);

/// How far the one intent has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    /// Logging in at the power switch.
    LogIn,
    /// Power is cut; reading that back.
    ReadBack,
    /// The proof is under way.
    Proof,
}

/// One intent (F15).
#[derive(Clone, Copy, Debug)]
struct Intent {
    requester: NodeId,
    target: NodeId,
    since: Time,
    stage: Stage,
    due: Time,
    /// The boot that was running when the command was sent.
    boot: BootId,
}

/// What the gateway knows.
#[derive(Debug, Default)]
pub(crate) struct Gateway {
    intent: Option<Intent>,
    /// By requester, epoch and target: an incident is asked about once.
    asked: BTreeMap<(NodeId, Epoch, NodeId), Time>,
    faults: BTreeMap<(NodeId, GatewayKind), u32>,
    /// When the power that was cut from here comes back.
    power_back: BTreeMap<NodeId, Time>,
    /// When a message of a node came last.
    heard: BTreeMap<NodeId, Time>,
    /// Boots that are proven to be over.
    confirmed: BTreeMap<NodeId, BootId>,
}

/// The faults that last.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum GatewayKind {
    Dead,
    Slow,
    LateProof,
}

impl Gateway {
    /// A message of a node has come.
    pub(crate) fn hear(&mut self, node: NodeId, now: Time) {
        self.heard.insert(node, now);
    }

    /// No renewal and no grant for it (safety 25).
    pub(crate) fn is_condemned(&self, node: NodeId) -> bool {
        self.intent.is_some_and(|intent| intent.target == node && intent.stage != Stage::Proof)
    }

    /// The node's present boot, or none since, is known to be off.
    pub(crate) fn is_confirmed_off(&self, node: NodeId, boot: BootId) -> bool {
        self.confirmed.get(&node) == Some(&boot)
    }

    fn has(&self, node: NodeId, kind: GatewayKind) -> bool {
        self.faults.get(&(node, kind)).is_some_and(|count| *count > 0)
    }
}

impl World {
    /// A fault of the gateway begins or ends.
    pub(crate) fn gateway_fault(
        &mut self,
        does: GatewayFault,
        node: NodeId,
        by: Option<u32>,
        begins: bool,
    ) {
        let kind = match does {
            GatewayFault::Dead => GatewayKind::Dead,
            GatewayFault::Slow => GatewayKind::Slow,
            GatewayFault::LateProof => GatewayKind::LateProof,
            GatewayFault::Confirm => {
                if let Some(by) = by.filter(|_| begins) {
                    self.confirm(NodeId(by), node);
                }
                return;
            }
        };
        let count = self.models.gateway.faults.entry((node, kind)).or_default();
        *count = if begins { *count + 1 } else { count.saturating_sub(1) };
    }

    /// Everything that is due, and everybody who has a reason to ask.
    pub(crate) fn gateway_looks(&mut self) {
        let back = &mut self.models.gateway.power_back;
        let due: Vec<NodeId> =
            back.iter().filter(|(_, at)| **at <= self.now).map(|(node, _)| *node).collect();
        for node in due {
            self.models.gateway.power_back.remove(&node);
            self.power(End::Node(node), true, false);
        }
        if let Some(intent) = self.models.gateway.intent.filter(|intent| intent.due <= self.now) {
            self.go_on(intent);
        }
        if self.models.gateway.intent.is_none() {
            self.somebody_asks();
        }
    }

    /// The arbiter attests that this node speaks for the side that goes on (S7): it is QUORATE and
    /// reached, or it is the candidate.
    fn is_entitled(&mut self, requester: NodeId, target: NodeId) -> bool {
        let from = End::Node(requester);
        let reached = self.is_powered(from) && !self.network.is_cut(from, End::Arbiter);
        let Some(machine) = self.hosts.get(&requester).and_then(|host| {
            let local = host.node.clock.at(self.now);
            host.node.machine.as_ref().map(|machine| (machine, local))
        }) else {
            return false;
        };
        let (machine, local) = machine;
        let outside = !machine.members().contains(&target);
        let quorate = machine.state(local) == QuorumState::Quorate;
        reached && outside && (quorate || self.is_candidate(requester, target))
    }

    /// The arbiter has chosen this node's side and waits for the bound of the target (safety 26).
    fn is_candidate(&self, node: NodeId, target: NodeId) -> bool {
        let arbiter = &self.server.arbiter;
        let status =
            arbiter.machine.as_ref().map(|machine| machine.status(arbiter.clock.at(self.now)));
        let Some(cluster) = status.as_ref().and_then(|status| status.clusters.values().next())
        else {
            return false;
        };
        let waits = cluster.waiting.as_ref();
        let for_target = format!("node {target} may still count");
        waits.is_some_and(|text| text.contains(&for_target))
            && cluster.nodes.get(&node.0).is_some_and(|c| !c.members.contains(&target.0))
    }

    fn somebody_asks(&mut self) {
        let nodes: Vec<NodeId> = self.hosts.keys().copied().collect();
        for requester in &nodes {
            for target in nodes.iter().filter(|target| *target != requester) {
                if !self.is_entitled(*requester, *target) {
                    continue;
                }
                let machine = self.hosts.get(requester).and_then(|h| h.node.machine.as_ref());
                let epoch = machine.map_or(Epoch(0), |machine| machine.view_epoch());
                let boot = self.hosts.get(target).map_or(BootId(0), |host| host.boot);
                let gateway = &mut self.models.gateway;
                let key = (*requester, epoch, *target);
                if gateway.asked.contains_key(&key) || gateway.is_confirmed_off(*target, boot) {
                    continue;
                }
                gateway.asked.insert(key, self.now);
                self.register(*requester, *target);
                return;
            }
        }
    }

    fn register(&mut self, requester: NodeId, target: NodeId) {
        let pause = self.command_time(target);
        let intent = Intent {
            requester,
            target,
            since: self.now,
            stage: Stage::LogIn,
            due: self.now + pause,
            boot: BootId(0),
        };
        self.models.gateway.intent = Some(intent);
        self.gateway_says(format_args!(
            "node {requester} asks for node {target}, which is condemned"
        ));
    }

    fn command_time(&self, target: NodeId) -> Duration {
        if self.models.gateway.has(target, GatewayKind::Slow) { SLOW_COMMAND } else { COMMAND }
    }

    fn gateway_says(&mut self, what: std::fmt::Arguments<'_>) {
        self.monitor.note(self.now, "gateway", what);
        self.trace.line(self.now, "gateway", what);
    }

    /// The next step of the intent.
    fn go_on(&mut self, mut intent: Intent) {
        let Intent { requester, target, .. } = intent;
        let again =
            self.is_entitled(requester, target) || self.sabotage == Some(Sabotage::EntitledOnce);
        let late = self.now >= intent.since + DEADLINE;
        match intent.stage {
            Stage::LogIn if !again => {
                self.give_up(format_args!("node {requester} is not entitled any more: no command"));
            }
            Stage::LogIn if self.models.gateway.has(target, GatewayKind::Dead) => {
                if late {
                    self.give_up(format_args!("the power switch of node {target} does not answer"));
                } else {
                    intent.due = self.now + Duration::from_secs(1);
                    self.models.gateway.intent = Some(intent);
                }
            }
            Stage::LogIn => {
                self.cut_power(&mut intent);
                intent.stage = Stage::ReadBack;
                intent.due = self.now + COMMAND;
                self.models.gateway.intent = Some(intent);
            }
            Stage::ReadBack => {
                intent.stage = Stage::Proof;
                let slow = self.models.gateway.has(target, GatewayKind::LateProof);
                intent.due = self.now + if slow { LATE_PROOF } else { COMMAND };
                self.gateway_says(format_args!("node {target} reads off"));
                self.models.gateway.power_back.insert(target, self.now + OFF_FOR);
                self.models.gateway.intent = Some(intent);
            }
            Stage::Proof => {
                self.models.gateway.intent = None;
                self.take_proof(target, intent.boot);
            }
        }
    }

    fn give_up(&mut self, why: std::fmt::Arguments<'_>) {
        self.models.gateway.intent = None;
        self.gateway_says(why);
    }

    /// The command itself, and rule S7: power is cut for the side that goes on, which the target is
    /// not of, and never on both sides.
    fn cut_power(&mut self, intent: &mut Intent) {
        let Intent { requester, target, .. } = *intent;
        intent.boot = self.hosts.get(&target).map_or(BootId(0), |host| host.boot);
        if !self.is_entitled(requester, target) {
            let text = format!("power of node {target} is cut for node {requester}, not entitled");
            self.monitor.report("S7", text);
        }
        self.gateway_says(format_args!("cuts the power of node {target}"));
        self.power(End::Node(target), false, false);
        let dark = |node: &NodeId| self.models.gateway.power_back.contains_key(node);
        if self.hosts.keys().filter(|node| **node != target).all(dark) {
            self.monitor.report("S7", "both sides are cut off from power".to_owned());
        }
    }

    /// A proof is of the boot that ran when its command was sent, and of no later one (safety 24).
    fn take_proof(&mut self, target: NodeId, boot: BootId) {
        let Some(present) = self.hosts.get(&target).map(|host| host.boot) else { return };
        let boot = match self.sabotage {
            Some(Sabotage::ProofWithoutBoot) => present,
            Some(_) | None => boot,
        };
        self.models.gateway.confirmed.insert(target, boot);
        if boot == present {
            self.gateway_says(format_args!("node {target} is confirmed off"));
        } else {
            self.gateway_says(format_args!(
                "node {target} has booted since: an earlier boot is over"
            ));
        }
        self.check_confirmed(target);
    }

    /// `fence confirm`: for the side that goes on only, and not while anything is heard of the node
    /// (safety 28). Of a silent node nobody but the operator can tell whether it has power: he
    /// looks, and says nothing that is not so. Of any other he says what he likes.
    fn confirm(&mut self, by: NodeId, target: NodeId) {
        let entitled = self.is_entitled(by, target);
        let heard = self.models.gateway.heard.get(&target);
        let heard = heard.is_some_and(|at| self.now < *at + SILENCE);
        let refused = self.sabotage != Some(Sabotage::ConfirmUnchecked);
        if refused && !entitled {
            self.gateway_says(format_args!("refuses: node {by} is not entitled to confirm"));
        } else if refused && heard {
            self.gateway_says(format_args!("refuses: node {target} is heard"));
        } else if entitled && !heard && self.is_powered(End::Node(target)) {
            self.gateway_says(format_args!("the operator sees that node {target} has power"));
        } else {
            let boot = self.hosts.get(&target).map_or(BootId(0), |host| host.boot);
            self.models.gateway.confirmed.insert(target, boot);
            self.gateway_says(format_args!("node {target} is confirmed off by hand"));
            self.check_confirmed(target);
        }
    }

    /// S6, S7: who is taken for off is off.
    fn check_confirmed(&mut self, node: NodeId) {
        let Some(host) = self.hosts.get(&node) else { return };
        let taken = self.models.gateway.is_confirmed_off(node, host.boot);
        if taken && host.unpowered == 0 {
            self.monitor.report("S7", format!("node {node} is taken for off, and it has power"));
        }
    }
}
