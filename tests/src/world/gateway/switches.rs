//! The nodes' power switches, and the operator who stands beside one.
//!
//! Each is a fence agent: a login and a command in one call. What it reads is the truth; what it
//! says of a command need not be.

use std::time::Duration;

use fence::core::{AttemptId, Event, RequestId};
use fence::device::{Command, DeviceError, Power, Seen};
use protocol::fence::Confirmation;
use protocol::ids::NodeId;
use protocol::time::Time;

use super::super::machine::Running;
use super::requests::Door;
use super::{Delivery, ToGateway, Work, World};
use crate::sabotage::Sabotage;
use crate::scenario::{End, Fault, GatewayFault};

/// A command takes this long.
const COMMAND: Duration = Duration::from_millis(40);
/// With [`GatewayFault::Slow`].
const SLOW_COMMAND: Duration = Duration::from_secs(15);
/// An agent that reaches no switch says so after this.
const NO_ROUTE: Duration = Duration::from_millis(1500);
/// Somebody gives a node that was fenced power again after this, if the gateway has not.
const OFF_FOR: Duration = Duration::from_secs(5);
/// An operator who says what is not so has been found out after this.
const FOUND_OUT: Duration = Duration::from_secs(5);

/// One power switch, and how many faults of each kind it has.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Switch {
    pub(super) dead: u32,
    pub(super) slow: u32,
    pub(super) idle: u32,
    /// Of the way to the arbiter, and of proofs only.
    pub(super) late: u32,
    /// It was told to cut power, and has.
    pub(super) off: bool,
    cuts: u64,
}

/// The node that a device of [`World::gateway_config`] belongs to.
fn node_of(device: &str) -> Option<NodeId> {
    device.strip_prefix("switch-")?.parse().ok().map(NodeId)
}

impl World {
    /// The core sends a command.
    pub(super) fn switch_begins(
        &mut self,
        attempt: AttemptId,
        device: &str,
        command: Command,
        limit: Duration,
    ) {
        let Some(node) = node_of(device) else { return };
        if command == Command::Off {
            self.gateway_says(&format!("cuts the power of node {node}"));
            self.check_command(node);
        }
        let switch = self.gateway.switch(node);
        let watched = command == Command::Status && self.is_watched(node);
        let unread = command == Command::Status
            && self.sabotage == Some(Sabotage::ConfirmUnchecked)
            && self.is_confirmed_by_hand(node);
        let took = match () {
            () if switch.dead > 0 && !watched => NO_ROUTE,
            () if switch.slow > 0 => SLOW_COMMAND,
            () => COMMAND,
        };
        let silent = (switch.dead > 0 && !watched) || unread;
        let late = took >= limit;
        let took = took.min(limit);
        let fails = (silent || late).then_some(DeviceError::Silent(took));
        // A command that is given up may have worked.
        let acts = !silent && (!late || self.chance(0, 1) == 1);
        let work = Work { attempt, node, command, took, fails, acts };
        let life = self.gateway.slot.life();
        self.put_in(took, Delivery::Gateway(life, ToGateway::Done(Box::new(work))));
    }

    pub(super) fn switch_is_done(&mut self, work: Work) {
        let Work { attempt, node, command, took, fails, acts } = work;
        if acts {
            self.switch_acts(node, command);
        }
        let seen = match command {
            Command::Status if self.is_powered(End::Node(node)) => Seen::Power(Power::On),
            Command::Status => Seen::Power(Power::Off),
            Command::Off | Command::On => Seen::Accepted,
        };
        let result = fails.map_or(Ok(seen), Err);
        self.handle_gateway(Event::Device { attempt, result, took });
    }

    /// The effect of a command.
    pub(super) fn switch_acts(&mut self, node: NodeId, command: Command) {
        let switch = self.gateway.switches.entry(node).or_default();
        match command {
            Command::Off if switch.idle == 0 && !switch.off => {
                (switch.off, switch.cuts) = (true, switch.cuts + 1);
                let button = Delivery::PowerButton { node, cuts: switch.cuts };
                self.monitor.cuts += 1;
                self.power(End::Node(node), false, false);
                self.check_cut(node);
                self.put_in(OFF_FOR, button);
            }
            Command::On if switch.off => {
                switch.off = false;
                self.power(End::Node(node), true, false);
            }
            Command::Off | Command::On | Command::Status => {}
        }
    }

    /// Somebody presses the button of a node that is off since this cut.
    pub(crate) fn power_button(&mut self, node: NodeId, cuts: u64) {
        if self.gateway.switch(node).cuts == cuts {
            self.switch_acts(node, Command::On);
        }
    }

    /// `haguard fence confirm`, typed on the gateway's machine for the side of node `by`. Of a node
    /// that has power an operator says that it is off only where he is found out: by the switch,
    /// which then answers, or by the arbiter, which hears the node in a quiet time. Of any other
    /// nobody but he could tell: he looks, and says nothing that is not so.
    pub(super) fn operator_confirms(&mut self, by: NodeId, node: NodeId) {
        let powered = self.is_powered(End::Node(node));
        let answers = self.gateway.switch(node).dead == 0;
        let careless = self.sabotage == Some(Sabotage::ConfirmUnchecked);
        if powered && !answers && !self.is_quiet() && !careless {
            self.gateway_says(&format!("the operator sees that node {node} has power"));
            return;
        }
        if !self.gateway.slot.is_running() {
            self.gateway_says("nobody answers the operator");
            return;
        }
        self.gateway.requests += 1;
        let id = RequestId(self.gateway.requests);
        self.gateway.doors.insert(id, Door::operator(node, powered && answers));
        let confirmation = Confirmation {
            requester: by,
            epoch: None,
            node,
            by: "operator".to_owned(),
            why: "seen".to_owned(),
        };
        self.handle_gateway(Event::Confirmed { id, confirmation });
        self.set_gateway_alarm();
    }

    /// Nothing happens now, or in a while, that keeps a node from being heard by the arbiter.
    fn is_quiet(&self) -> bool {
        let until = self.now + FOUND_OUT;
        let disturbs = |fault: &Fault| match fault {
            Fault::Cut { from, to, .. } => *from == End::Arbiter || *to == End::Arbiter,
            Fault::Gateway { does, .. } => *does == GatewayFault::CutOff,
            Fault::Loss { .. }
            | Fault::Slow { .. }
            | Fault::PowerOff { .. }
            | Fault::Kill { .. }
            | Fault::Leave { .. }
            | Fault::Freeze { .. }
            | Fault::Pause { .. }
            | Fault::ArbiterState { .. }
            | Fault::DiskFull { .. }
            | Fault::SlowDisk { .. }
            | Fault::Stubborn { .. }
            | Fault::Crash { .. }
            | Fault::OtherArbiter { .. }
            | Fault::Configure { .. } => true,
        };
        !self.scenario.faults.iter().any(|timed| {
            let begins = Time::from_millis(timed.at_ms);
            let lasts =
                timed.for_ms == 0 || Time::from_millis(timed.at_ms + timed.for_ms) >= self.now;
            begins <= until && lasts && disturbs(&timed.fault)
        })
    }
}
