//! The fencing gateway: its core on a machine of its own, with a journal, a session with the
//! arbiter, requesters, and a power switch for every node.
//!
//! What the core says and hears is its own: the switches are made of answers, the journal is a list,
//! and everything else goes over the network's links.

mod requests;
mod session;
mod switches;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use fence::config::Settings;
use fence::core::{Action, AttemptId, Config, Event, Gateway, RequestId, Token, Votes};
use fence::device::{Command, DeviceError};
use fence::journal::{Entry, replay};
use protocol::fence::{Answer, Attestation, How, IntentId};
use protocol::ids::{BootId, NodeId};
use protocol::time::Time;

use super::machine::{Input, Running, Slot};
use super::processes::SPIN_LIMIT;
use super::{CLUSTER, Delivery, World};
use crate::clock::{Clock, hash};
use crate::network::Site;
use crate::scenario::{End, GatewayFault};
use requests::{Asker, Door};
use session::Session;
use switches::Switch;

/// What comes to the gateway.
#[derive(Clone, Debug)]
pub(crate) enum ToGateway {
    /// Something of its connection to the arbiter.
    Stream(Input),
    /// The next session is to be tried.
    Connect,
    /// A call that was held up goes out on this stream.
    Late(u64, Vec<u8>),
    /// An answer that the arbiter never gave (sabotage).
    MadeUp(Box<Answer>),
    /// An entry is on disk.
    Stored(Token, Box<Entry>),
    /// It is not.
    NotStored(Token),
    /// A power switch has finished a command.
    Done(Box<Work>),
    /// A node's request has come through.
    Knock {
        /// Whose.
        node: NodeId,
        /// Which of the node's requests.
        number: u64,
    },
    /// A requester has gone away.
    Gone(RequestId),
}

/// One command of a power switch.
#[derive(Clone, Debug)]
pub(crate) struct Work {
    attempt: AttemptId,
    node: NodeId,
    command: Command,
    took: Duration,
    /// What it comes to, if it does not work.
    fails: Option<DeviceError>,
    /// It has its effect, whatever is said of it.
    acts: bool,
}

/// The gateway's machine and what it reaches.
#[derive(Debug)]
pub(crate) struct FenceHost {
    pub(super) slot: Slot<Gateway>,
    skew_ppm: i64,
    /// What is on its disk.
    journal: Vec<Entry>,
    /// When the newest write ends.
    written_at: Time,
    disk_full: u32,
    session: Session,
    doors: BTreeMap<RequestId, Door>,
    /// Names for requests.
    requests: u64,
    askers: BTreeMap<NodeId, Asker>,
    switches: BTreeMap<NodeId, Switch>,
    /// What the arbiter has attested last of each intent, and when.
    pub(crate) words: BTreeMap<IntentId, (Time, Attestation)>,
    /// Proofs that are held up, and until when.
    held: BTreeMap<(NodeId, BootId), Time>,
    /// What was told last.
    told: String,
}

impl FenceHost {
    pub(super) fn new(skew_ppm: i64) -> Self {
        Self {
            slot: Slot::empty(),
            skew_ppm,
            journal: Vec::new(),
            written_at: Time::ZERO,
            disk_full: 0,
            session: Session::default(),
            doors: BTreeMap::new(),
            requests: 0,
            askers: BTreeMap::new(),
            switches: BTreeMap::new(),
            words: BTreeMap::new(),
            held: BTreeMap::new(),
            told: String::new(),
        }
    }

    fn switch(&self, node: NodeId) -> Switch {
        self.switches.get(&node).copied().unwrap_or_default()
    }

    /// The node has no power because its switch was told to cut it.
    pub(crate) fn has_cut(&self, node: NodeId) -> bool {
        self.switch(node).off
    }
}

impl World {
    /// What the daemon reads out of a file that names a switch for every node and leaves every time
    /// at its default.
    fn gateway_config(&self) -> Config {
        let mut text = format!("cluster = \"{CLUSTER}\"\narbiter = \"arbiter\"\n");
        for node in self.hosts.keys() {
            text += &format!(
                "[devices.switch-{node}]\nkind = \"agent\"\nprogram = \"fence_switch\"\n\
                 options = {{ plug = \"{node}\" }}\n\
                 [nodes.{node}]\nlevels = [[\"switch-{node}\"]]\nunfence = true\n"
            );
        }
        let settings = Settings::parse(Path::new("gateway.toml"), &text);
        let config = settings.map(|settings| settings.core()).unwrap_or_default();
        // No member of a view testifies here: without an arbiter there is no attestation.
        Config { votes: Votes::default(), ..config }
    }

    pub(super) fn start_gateway(&mut self) {
        let slot = &self.gateway.slot;
        if !self.scenario.topology.gateway || slot.is_running() || slot.down() > 0 {
            return;
        }
        let (life, config) = (self.new_life(), self.gateway_config());
        self.trace.line(self.now, Site::Gateway, format_args!("starts"));
        let clock = Clock::new(self.now, self.gateway.skew_ppm);
        let memory = replay(self.gateway.journal.iter().cloned());
        let seed = hash(self.scenario.seed, 0x6677, life);
        let core = Gateway::new(clock.at(self.now), config, memory, seed);
        self.gateway.slot.start(core, life, clock);
        self.gateway.session = Session::default();
        self.act_gateway();
        self.connect_gateway();
        self.set_gateway_alarm();
    }

    /// The process is gone at once; the kernel closes what it had open. A command that a switch was
    /// working on has its effect now or never, and of what was being written down the end is
    /// missing.
    fn kill_gateway(&mut self) {
        if !self.gateway.slot.is_running() {
            return;
        }
        self.gateway_says("is killed");
        self.gateway.slot.stop();
        let stored =
            |delivery: &Delivery| matches!(delivery, Delivery::Gateway(_, ToGateway::Stored(..)));
        for delivery in self.take_all(stored) {
            if self.chance(0, 1) == 0 {
                break;
            }
            if let Delivery::Gateway(_, ToGateway::Stored(_, entry)) = delivery {
                self.gateway.journal.push(*entry);
            }
        }
        let working =
            |delivery: &Delivery| matches!(delivery, Delivery::Gateway(_, ToGateway::Done(_)));
        for delivery in self.take_all(working) {
            if let Delivery::Gateway(_, ToGateway::Done(work)) = delivery
                && work.acts
                && self.chance(0, 1) == 1
            {
                self.switch_acts(work.node, work.command);
            }
        }
        if let Some(stream) = self.gateway.session.stream.take() {
            self.close_end(stream, true);
        }
        self.slam_doors();
    }

    /// Something comes to this life of the gateway.
    pub(super) fn gateway_input(&mut self, life: u64, input: ToGateway) {
        let slot = &self.gateway.slot;
        if !slot.is_running() || slot.life() != life {
            return;
        }
        match input {
            ToGateway::Stream(input) => self.session_hears(input),
            ToGateway::Connect => self.connect_gateway(),
            ToGateway::Late(stream, bytes) => self.late_call(stream, bytes),
            ToGateway::MadeUp(answer) => self.handle_gateway(Event::Answered(answer)),
            ToGateway::Stored(token, entry) => {
                self.gateway.journal.push(*entry);
                self.handle_gateway(Event::Recorded(token));
            }
            ToGateway::NotStored(token) => self.handle_gateway(Event::RecordFailed(token)),
            ToGateway::Done(work) => self.switch_is_done(*work),
            ToGateway::Knock { node, number } => self.let_in(node, number),
            ToGateway::Gone(id) => {
                self.gateway.doors.remove(&id);
                self.handle_gateway(Event::Abandoned(id));
            }
        }
        self.set_gateway_alarm();
    }

    pub(super) fn wake_gateway(&mut self) {
        let now = self.now;
        self.gateway.slot.set_alarm(None);
        if self.gateway.slot.spin(now) > SPIN_LIMIT {
            self.monitor.report("S10", "the gateway is in a busy loop".to_owned());
            return;
        }
        self.handle_gateway(Event::Timeout);
        self.set_gateway_alarm();
    }

    fn set_gateway_alarm(&mut self) {
        let deadline = self.gateway.slot.machine.as_ref().and_then(Gateway::deadline);
        let local = deadline.filter(|at| *at != Time::NEVER);
        let alarm = local.map(|local| self.served_at(self.gateway.slot.clock, local));
        self.gateway.slot.set_alarm(alarm);
    }

    fn handle_gateway(&mut self, event: Event) {
        let now = self.gateway.slot.clock.at(self.now);
        let Some(machine) = &mut self.gateway.slot.machine else { return };
        machine.handle(now, event);
        self.core_steps += 1;
        self.act_gateway();
    }

    fn act_gateway(&mut self) {
        while let Some(action) =
            self.gateway.slot.machine.as_mut().and_then(|machine| machine.next_action())
        {
            if let Some(left) = self.gateway.slot.kill_after() {
                if *left == 0 {
                    self.kill_gateway();
                    return;
                }
                *left -= 1;
            }
            self.do_gateway(action);
        }
    }

    fn do_gateway(&mut self, action: Action) {
        match action {
            Action::Record { token, entry } => self.record(token, entry),
            Action::Ask { nonce, ask } => self.call(nonce, ask),
            Action::Device { attempt, device, command, limit } => {
                self.switch_begins(attempt, &device, command, limit);
            }
            Action::Tell { id, progress } => self.tell_requester(id, progress),
            Action::Decided(text) => {
                self.trace.line(self.now, Site::Gateway, format_args!("{text}"));
                // What to do next is nothing that has happened, and a request that is made again, and
                // ends as it did before, is not told again.
                let text = text.split("; ").next().unwrap_or_default();
                let told = text.split_once(", ").map_or(text, |(_, rest)| rest);
                if self.gateway.told != told {
                    told.clone_into(&mut self.gateway.told);
                    self.monitor.note(self.now, Site::Gateway, format_args!("{text}"));
                }
            }
        }
    }

    /// Writes are synced one after the other.
    fn record(&mut self, token: Token, entry: Entry) {
        if let Entry::Proven { node, how, .. } = &entry {
            let text = match how {
                How::ReadOff => format!("node {node} reads off"),
                How::Watchdog => format!("the watchdog has ended node {node}"),
                How::Manual { by, .. } => format!("node {node} is off, says the {by}"),
            };
            self.gateway_says(&text);
        }
        let often = self.chance(0, 49);
        let pause = if often == 0 { self.pause(20_000, 100_000) } else { self.pause(200, 5000) };
        let at = (self.now + pause).max(Time(self.gateway.written_at.0 + 1));
        self.gateway.written_at = at;
        let done = if self.gateway.disk_full > 0 {
            ToGateway::NotStored(token)
        } else {
            ToGateway::Stored(token, Box::new(entry))
        };
        self.put(at, Delivery::Gateway(self.gateway.slot.life(), done));
    }

    fn gateway_says(&mut self, what: &str) {
        self.monitor.note(self.now, Site::Gateway, format_args!("{what}"));
        self.trace.line(self.now, Site::Gateway, format_args!("{what}"));
    }

    /// A fault of the gateway begins or ends.
    pub(super) fn gateway_fault(
        &mut self,
        does: GatewayFault,
        host: Option<End>,
        by: Option<u32>,
        begins: bool,
    ) {
        if !self.scenario.topology.gateway {
            return;
        }
        let count = |count: u32| if begins { count + 1 } else { count.saturating_sub(1) };
        match (does, host) {
            (GatewayFault::Killed, _) => self.gateway_down(begins),
            (GatewayFault::DiskFull, _) => {
                self.gateway.disk_full = count(self.gateway.disk_full);
            }
            (GatewayFault::CutOff, Some(end)) => {
                self.network.cut(end, Site::Gateway, begins);
                self.network.cut(Site::Gateway, end, begins);
            }
            (GatewayFault::Confirm, Some(End::Node(node))) => {
                if let Some(by) = by.filter(|_| begins) {
                    self.operator_confirms(NodeId(by), node);
                }
            }
            (
                GatewayFault::Dead
                | GatewayFault::Slow
                | GatewayFault::Idle
                | GatewayFault::LateProof,
                Some(End::Node(node)),
            ) => {
                let switch = self.gateway.switches.entry(node).or_default();
                let faults = match does {
                    GatewayFault::Dead => &mut switch.dead,
                    GatewayFault::Slow => &mut switch.slow,
                    GatewayFault::Idle => &mut switch.idle,
                    GatewayFault::LateProof
                    | GatewayFault::Confirm
                    | GatewayFault::CutOff
                    | GatewayFault::Killed
                    | GatewayFault::DiskFull => &mut switch.late,
                };
                *faults = count(*faults);
            }
            (_, _) => {}
        }
    }

    /// It dies between two actions, and is held down until the end.
    fn gateway_down(&mut self, begins: bool) {
        let held = self.gateway.slot.hold(begins);
        if begins {
            let left = u32::try_from(self.chance(0, 12)).unwrap_or(0);
            *self.gateway.slot.kill_after() = Some(left);
            if left == 0 {
                self.kill_gateway();
            }
        } else if held == 0 {
            self.kill_gateway();
            let pause = self.pause(1000, 5000);
            self.put_in(pause, Delivery::StartGateway);
        }
    }

    /// Everything that has a limit and no deadline of a core's: looked at as often as the invariants.
    pub(crate) fn gateway_looks(&mut self) {
        self.session_looks();
        self.requesters_look();
        self.set_gateway_alarm();
    }
}
