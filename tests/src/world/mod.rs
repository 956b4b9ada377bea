//! The world that the machines live in: one virtual clock, one queue, and one meaning for every
//! Action.

mod arbiter;
mod device;
mod faults;
mod gateway;
mod host;
mod hosts;
mod keeper;
mod machine;
mod processes;
mod queue;

use std::time::Duration;

use fence::core::RequestId;
use node::core::Event as NodeEvent;
use protocol::ids::{ClusterName, NodeId};
use protocol::time::Time;

use crate::clock::hash;
use crate::invariants::{Monitor, Violation};
use crate::model::Models;
use crate::network::{Network, Segment};
use crate::sabotage::Sabotage;
use crate::scenario::{End, Process, Scenario};
use crate::trace::Trace;
use gateway::{FenceHost, ToGateway};
pub(crate) use hosts::Hosts;
pub(crate) use machine::{Host, Input, Server, Write};
use queue::Queue;

/// The cluster's name, everywhere.
pub(crate) const CLUSTER: &str = "simulated";

/// What the wall clock shows at the beginning, in seconds since 1970.
const START_S: u64 = 1_800_000_000;
/// The invariants are looked at this often when nothing happens.
const LOOK: Duration = Duration::from_millis(100);

/// Something that is going to happen.
#[derive(Clone, Debug)]
pub(crate) enum Delivery {
    /// Something comes to a process; to this life of it only, if one is named.
    Input(Process, Option<u64>, Input),
    /// A segment reaches the other end.
    Arrive { stream: u64, up: bool, segment: Segment, tries: u32 },
    /// A flow tries again.
    Resend { stream: u64, up: bool },
    /// A connection is tried.
    Syn { stream: u64, attempts: u32 },
    /// The device gives a connection attempt up.
    ConnectLimit { stream: u64 },
    /// A reset reaches one end.
    Reset { stream: u64, up: bool },
    /// A write is done.
    Written { process: Process, life: u64, write: Box<Write> },
    /// A device connects to its node's socket.
    Plug(NodeId),
    /// This life of a daemon looks for its keeper again.
    Greet(NodeId, u64),
    /// A process is started, if nothing holds it down.
    Start(Process),
    /// A process takes the next thing from its inbox.
    Thaw(Process, u64),
    /// A process of the service ends.
    ServiceEnds { node: NodeId, pid: i32 },
    /// A forked child executes the service, if it is before a time of the keeper's clock.
    Exec { node: NodeId, pid: i32, until: Time },
    /// Something comes to the gateway, in this life of it.
    Gateway(u64, ToGateway),
    /// The gateway's process is started, if nothing holds it down.
    StartGateway,
    /// A node tries to connect to the gateway, for this request.
    Knock { node: NodeId, number: u64, tries: u32 },
    /// The gateway tries again to send what a requester has not got yet.
    Lines(RequestId),
    /// A line of the gateway's answer reaches the daemon that made this request.
    Line { node: NodeId, life: u64, number: u64, line: Box<NodeEvent> },
    /// Somebody presses the button of a node that is off since this cut.
    PowerButton { node: NodeId, cuts: u64 },
    /// Nothing but a look at the invariants: a state may end while nothing happens.
    Look,
    /// A fault of the scenario begins or ends.
    Fault { index: usize, begins: bool },
}

/// One run of a scenario.
#[derive(Debug)]
pub struct World {
    pub(crate) scenario: Scenario,
    pub(crate) now: Time,
    queue: Queue<Delivery>,
    lives: u64,
    pids: i32,
    chances: u64,
    pub(crate) hosts: Hosts,
    pub(crate) server: Server,
    pub(crate) gateway: FenceHost,
    pub(crate) network: Network,
    pub(crate) trace: Trace,
    pub(crate) monitor: Monitor,
    pub(crate) sabotage: Option<Sabotage>,
    pub(crate) models: Models,
    pub(crate) cluster: ClusterName,
    steps: u64,
    /// Calls of `handle` on any machine.
    pub(super) core_steps: u64,
}

impl World {
    /// A world in which everything is about to be started.
    pub fn new(scenario: &Scenario, sabotage: Option<Sabotage>) -> Self {
        let seed = scenario.seed;
        let limit = i64::from(scenario.topology.skew_percent) * 10_000;
        let skew = |who: u64| {
            let spread = u64::try_from(limit * 2 + 1).unwrap_or(1);
            i64::try_from(hash(seed, 0x736b, who) % spread).unwrap_or(0) - limit
        };
        let hosts = scenario.nodes().map(|node| Host::new(skew(u64::from(node.0))));
        let mut world = Self {
            now: Time::ZERO,
            queue: Queue::default(),
            lives: 0,
            pids: 0,
            chances: 0,
            hosts: hosts.collect(),
            server: Server::new(seed, skew(0)),
            gateway: FenceHost::new(skew(u64::MAX)),
            network: Network::new(seed, scenario.nodes().count()),
            trace: Trace::default(),
            monitor: Monitor::new(scenario),
            sabotage,
            models: Models::default(),
            cluster: CLUSTER.into(),
            steps: 0,
            core_steps: 0,
            scenario: scenario.clone(),
        };
        world.put_in(LOOK, Delivery::Look);
        world.boot(End::Arbiter);
        if scenario.topology.gateway {
            world.put_in(LOOK, Delivery::StartGateway);
        }
        for node in scenario.nodes() {
            world.boot(End::Node(node));
        }
        for (index, timed) in scenario.faults.iter().enumerate() {
            let begin = Time::from_millis(timed.at_ms);
            world.put(begin, Delivery::Fault { index, begins: true });
            if timed.for_ms > 0 {
                let end = Time::from_millis(timed.at_ms + timed.for_ms);
                world.put(end, Delivery::Fault { index, begins: false });
            }
        }
        world
    }

    /// World time.
    pub fn now(&self) -> Time {
        self.now
    }

    /// How many steps have been done.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Every rule, after a step. Most steps change nothing that a rule is about but the time.
    fn check(&mut self) -> Result<(), Violation> {
        let now = self.now;
        let changes = self.monitor.look(now, &mut self.hosts);
        if changes.is_empty() && self.monitor.is_alone() {
            self.monitor.stopped_in_time(now, &mut self.hosts, &self.scenario.topology);
            return self.monitor.verdict(now);
        }
        let mut monitor = std::mem::take(&mut self.monitor);
        let result = monitor.check(self, &changes);
        self.monitor = monitor;
        result
    }

    /// How often a machine was told something: calls of `handle` on any of them.
    pub fn core_steps(&self) -> u64 {
        self.core_steps
    }

    /// What happened.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// From now on every rule is looked at after every step, whether it can have been broken by
    /// the step or not: slow, and the same.
    pub fn check_in_full(&mut self) {
        self.monitor.check_in_full();
    }

    /// What the invariants have seen.
    pub fn monitor(&self) -> &Monitor {
        &self.monitor
    }

    /// The next thing that happens: the earliest of what is under way and of all deadlines.
    ///
    /// # Errors
    /// The invariant that is broken after it.
    pub fn step(&mut self) -> Result<(), Violation> {
        self.steps += 1;
        let next = self.queue.next_at();
        let alarm = self.next_alarm();
        match (next, alarm) {
            (next, Some((at, process))) if next.is_none_or(|next| at < next) => {
                self.now = self.now.max(at);
                self.trace.number(at.0);
                match process {
                    Some(process) => self.wake(process),
                    None => self.wake_gateway(),
                }
            }
            (Some(_), _) => {
                if let Some((at, delivery)) = self.queue.pop() {
                    self.now = self.now.max(at);
                    self.trace.number(at.0);
                    self.deliver(delivery);
                }
            }
            (None, _) => {}
        }
        self.watchdogs();
        self.check()
    }

    /// Everything that every machine knows, for somebody who looks for a fault.
    pub fn dump(&self) -> String {
        let hosts = self.hosts.iter().map(|(node, host)| {
            let local = host.node.clock.at(self.now);
            format!(
                "node {node} at its {local}: {:#?} ghost {:#?}\n",
                host.node.machine, host.ghost
            )
        });
        let arbiter = format!("arbiter: {:#?}\n", self.server.arbiter.machine);
        let gateway = format!("gateway: {:#?}\n", self.gateway);
        hosts.chain([arbiter, gateway]).collect()
    }

    pub(crate) fn put(&mut self, at: Time, delivery: Delivery) {
        self.queue.put(at, delivery);
    }

    pub(crate) fn put_in(&mut self, pause: Duration, delivery: Delivery) {
        self.put(self.now + pause, delivery);
    }

    /// A number between two others, by chance.
    pub(crate) fn chance(&mut self, from: u64, to: u64) -> u64 {
        self.chances += 1;
        from + hash(self.scenario.seed, 0x6368, self.chances) % (to - from + 1)
    }

    /// A duration between two numbers of microseconds, by chance.
    pub(crate) fn pause(&mut self, from_us: u64, to_us: u64) -> Duration {
        Duration::from_micros(self.chance(from_us, to_us))
    }

    pub(crate) fn new_life(&mut self) -> u64 {
        self.lives += 1;
        self.lives
    }

    /// Between processes of one machine: fast, and in order.
    pub(crate) fn local(&mut self, from: Process, to: Process, input: Input) {
        let Some(slot) = self.slot(to) else { return };
        if !slot.is_running() {
            return;
        }
        let life = slot.life();
        let pause = self.pause(20, 200);
        let mut at = self.now + pause;
        if let Some(last) = self.hosts.channel(from, to) {
            at = at.max(Time(last.0 + 1));
            *last = at;
        }
        self.put(at, Delivery::Input(to, Some(life), input));
    }

    fn deliver(&mut self, delivery: Delivery) {
        match delivery {
            Delivery::Input(process, life, input) => self.input(process, life, input),
            Delivery::Arrive { stream, up, segment, tries } => {
                self.arrive(stream, up, segment, tries);
            }
            Delivery::Resend { stream, up } => self.pump(stream, up),
            Delivery::Syn { stream, attempts } => self.syn(stream, attempts),
            Delivery::ConnectLimit { stream } => self.connect_limit(stream),
            Delivery::Reset { stream, up } => self.reset(stream, up),
            Delivery::Written { process, life, write } => self.written(process, life, *write),
            Delivery::Plug(node) => self.plug(node),
            Delivery::Greet(node, life) => self.greet_again(node, life),
            Delivery::Start(process) => self.start(process),
            Delivery::Thaw(process, life) => self.thaw(process, life),
            Delivery::ServiceEnds { node, pid } => self.child_ends(node, pid),
            Delivery::Exec { node, pid, until } => self.exec(node, pid, until),
            Delivery::Gateway(life, input) => self.gateway_input(life, input),
            Delivery::StartGateway => self.start_gateway(),
            Delivery::Knock { node, number, tries } => self.knock(node, number, tries),
            Delivery::Lines(id) => self.send_lines(id),
            Delivery::Line { node, life, number, line } => {
                self.line_comes(node, life, number, *line);
            }
            Delivery::PowerButton { node, cuts } => self.power_button(node, cuts),
            Delivery::Look => {
                self.put_in(LOOK, Delivery::Look);
                self.models_look();
            }
            Delivery::Fault { index, begins } => self.fault(index, begins),
        }
    }

    /// Takes what is under way and is so out of the queue, in order.
    fn take_all(&mut self, chosen: impl Fn(&Delivery) -> bool) -> Vec<Delivery> {
        self.queue.take_all(chosen)
    }

    /// The writes of a process that dies: each is on disk or is not.
    pub(crate) fn settle_writes(&mut self, dying: Process) {
        let of_it = |delivery: &Delivery| matches!(delivery, Delivery::Written { process, .. } if *process == dying);
        for delivery in self.queue.take_all(of_it) {
            if let Delivery::Written { process, write, .. } = delivery
                && self.chance(0, 1) == 1
            {
                self.commit(process, &write);
            }
        }
    }
}
