//! The small world: the shipped cores of one cluster and its arbiter, and queues between them. What
//! comes next is a [`Choice`]; nothing in it is by chance.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use node::core::{Node, Stored};
use protocol::cluster::Beat;
use protocol::ids::{ArbiterId, NodeId};
use protocol::time::Time;
use qdevice::core::Device;
use qnetd::core::{Arbiter, GrantRecord};

use super::choice::{Channel, Choice, Parcel, link};
use super::print::{Hash, Print, Shared};
use super::rules::{History, Milestone};
use super::{Grain, Kind};
use crate::clock::Clock;
use crate::invariants::Violation;
use crate::sabotage::Sabotage;
use crate::scenario::{End, Process};

/// [`Choice::Run`] ends after this long, if nothing of note happens.
const RUN: Duration = Duration::from_secs(12);
/// More steps than that in one [`Choice::Run`] are a busy loop.
const RUN_STEPS: u32 = 50_000;
/// So many beats are under way from one node to another; the oldest is lost when one more is sent.
const BEATS: usize = 2;

/// What is the same in all states of a search.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    pub(super) nodes: Vec<NodeId>,
    /// Nodes with an odd id have clocks that are slow by this much, all others are fast by it.
    pub(super) skew_ppm: i64,
    pub(super) grain: Grain,
    pub(super) kinds: &'static [Kind],
    pub(super) sabotage: Option<Sabotage>,
}

/// One process: its machine while it runs.
#[derive(Clone, Debug)]
pub(super) struct Slot<M> {
    pub(super) machine: Option<Shared<M>>,
    pub(super) clock: Clock,
}

impl<M: Clone + std::fmt::Debug> Slot<M> {
    fn empty() -> Self {
        Self { machine: None, clock: Clock::new(Time::ZERO, 0) }
    }

    fn add_to(&self, hash: &mut Hash, now: Time) {
        hash.number(u64::from(self.machine.is_some()));
        if let Some(machine) = &self.machine {
            machine.add_to(hash, self.clock.at(now));
        }
    }

    /// What its clock shows.
    pub(super) fn time(&self, now: Time) -> Time {
        self.clock.at(now)
    }
}

/// A node's machine.
#[derive(Clone, Debug)]
pub(super) struct Host {
    pub(super) node: Slot<Node>,
    pub(super) device: Slot<Device>,
    pub(super) stored: Shared<Stored>,
    pub(super) pin: Option<ArbiterId>,
    /// The device's connection.
    pub(super) stream: Option<u64>,
    pub(super) boot: u32,
    /// The name of the node's process.
    pub(super) node_life: u64,
}

/// The arbiter's machine.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) arbiter: Slot<Arbiter>,
    pub(super) journal: Shared<Vec<GrantRecord>>,
    /// The arbiter's connections, and whose they are.
    pub(super) streams: BTreeMap<u64, NodeId>,
    pub(super) opened: u32,
    pub(super) boot: u32,
}

/// A state.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    pub(super) setup: Rc<Setup>,
    pub(super) now: Time,
    pub(super) hosts: BTreeMap<NodeId, Host>,
    pub(super) server: Server,
    pub(super) queues: BTreeMap<Channel, VecDeque<Shared<Parcel>>>,
    /// The last beat from one node to another, but for its number and answer.
    pub(super) said: BTreeMap<(NodeId, NodeId), Rc<Beat>>,
    cut: BTreeSet<(End, End)>,
    frozen: BTreeSet<Process>,
    /// So many faults may come.
    pub(super) faults: u32,
    /// Names of connections and processes.
    pub(super) names: u64,
    pub(super) history: Shared<History>,
    pub(super) broken: Option<(&'static str, String)>,
    /// Steps of single machines that led here.
    pub(super) steps: u64,
    /// What happened, for people; `None` while nobody wants to know.
    pub(super) story: Option<Vec<String>>,
}

impl Cell {
    /// A cluster whose processes have all just been started.
    pub(super) fn new(setup: Setup) -> Self {
        let host = || Host {
            node: Slot::empty(),
            device: Slot::empty(),
            stored: Shared::new(Stored::default()),
            pin: None,
            stream: None,
            boot: 1,
            node_life: 0,
        };
        let mut cell = Self {
            now: Time::from_millis(1000),
            hosts: setup.nodes.iter().map(|node| (*node, host())).collect(),
            setup: Rc::new(setup),
            server: Server {
                arbiter: Slot::empty(),
                journal: Shared::new(Vec::new()),
                streams: BTreeMap::new(),
                opened: 0,
                boot: 1,
            },
            queues: BTreeMap::new(),
            said: BTreeMap::new(),
            cut: BTreeSet::new(),
            frozen: BTreeSet::new(),
            faults: 0,
            names: 0,
            history: Shared::new(History::default()),
            broken: None,
            steps: 0,
            story: None,
        };
        cell.start(Process::Arbiter);
        for node in cell.setup.nodes.clone() {
            // Machines that beat at the very same moment are a special case.
            cell.now = cell.now + Duration::from_micros(17_377);
            cell.start(Process::Node(node));
            cell.now = cell.now + Duration::from_micros(7_011);
            cell.start(Process::Device(node));
        }
        cell
    }

    /// From now on something is broken on purpose.
    pub(super) fn break_on_purpose(&mut self, sabotage: Option<Sabotage>) {
        Rc::make_mut(&mut self.setup).sabotage = sabotage;
    }

    pub(super) fn put(&mut self, channel: Channel, parcel: Parcel) {
        let queue = self.queues.entry(channel).or_default();
        if matches!(channel, Channel::Beats(..)) && queue.len() == BEATS {
            queue.pop_front();
        }
        queue.push_back(Shared::new(parcel));
    }

    /// A number that differs whenever two states can go on differently, but for their ages.
    pub(super) fn number(&self) -> u64 {
        let mut hash = Hash::default();
        for host in self.hosts.values() {
            host.node.add_to(&mut hash, self.now);
            host.device.add_to(&mut hash, self.now);
            host.stored.add_to(&mut hash, Time::ZERO);
        }
        self.server.arbiter.add_to(&mut hash, self.now);
        self.server.journal.add_to(&mut hash, Time::ZERO);
        self.history.add_to(&mut hash, Time::ZERO);
        for (channel, queue) in &self.queues {
            Print::of(channel).add_to(&mut hash, Time::ZERO);
            let reader = self.time_of(channel.reader());
            queue.iter().for_each(|parcel| parcel.add_to(&mut hash, reader));
        }
        let hosts = self.hosts.values().map(|host| (host.pin.is_some(), host.stream, host.boot));
        let hosts: Vec<_> = hosts.collect();
        let server = (&self.server.streams, self.server.opened, self.server.boot);
        let rest = (hosts, server, &self.cut, &self.frozen, self.faults, &self.broken);
        Print::of(&rest).add_to(&mut hash, Time::ZERO);
        hash.value()
    }

    /// What a process's clock shows.
    fn time_of(&self, process: Process) -> Time {
        let host = |node: NodeId| self.hosts.get(&node);
        match process {
            Process::Node(node) => host(node).map(|host| host.node.time(self.now)),
            Process::Device(node) => host(node).map(|host| host.device.time(self.now)),
            Process::Arbiter => Some(self.server.arbiter.time(self.now)),
            Process::Keeper(_) => None,
        }
        .unwrap_or(self.now)
    }

    /// Everything that can happen now.
    pub(super) fn choices(&self) -> Vec<Choice> {
        let mut all = vec![Choice::Run];
        all.extend(self.open().map(Choice::Deliver));
        all.extend(self.earliest().into_iter().map(|(_, process)| Choice::Tick(process)));
        all.extend(self.cut.iter().map(|(a, b)| Choice::Heal(*a, *b)));
        all.extend(self.frozen.iter().map(|process| Choice::Thaw(*process)));
        if self.faults > 0 {
            self.setup.kinds.iter().for_each(|kind| self.faults_of(*kind, &mut all));
        }
        all
    }

    fn faults_of(&self, kind: Kind, all: &mut Vec<Choice>) {
        let ends = || self.hosts.keys().map(|node| End::Node(*node)).chain([End::Arbiter]);
        match kind {
            Kind::Cut => {
                let pairs = ends().flat_map(|a| ends().map(move |b| (a, b)));
                let whole = pairs.filter(|(a, b)| a != b && link(*a, *b) == (*a, *b));
                let whole = whole.filter(|pair| !self.cut.contains(pair));
                all.extend(whole.map(|(a, b)| Choice::Cut(a, b)));
            }
            Kind::Kill => all.extend(self.running().into_iter().flat_map(|process| {
                let writes = self.fates(process);
                writes.iter().map(move |written| Choice::Kill { process, written: *written })
            })),
            Kind::PowerOff => all.extend(ends().flat_map(|host| {
                let writer = match host {
                    End::Node(node) => Process::Node(node),
                    End::Arbiter => Process::Arbiter,
                };
                let writes = self.fates(writer);
                writes.iter().map(move |written| Choice::PowerOff { host, written: *written })
            })),
            Kind::Reset => {
                let open = self.hosts.iter().filter(|(_, host)| host.stream.is_some());
                all.extend(open.map(|(node, _)| Choice::Reset(*node)));
            }
            Kind::Freeze => {
                let moving = self.running().into_iter().filter(|p| !self.frozen.contains(p));
                all.extend(moving.map(Choice::Freeze));
            }
        }
    }

    /// What can become of a process's write when the process dies.
    fn fates(&self, process: Process) -> &'static [bool] {
        if self.queues.contains_key(&Channel::Disk(process)) { &[true, false] } else { &[false] }
    }

    fn running(&self) -> Vec<Process> {
        let hosts = self.hosts.iter().flat_map(|(node, host)| {
            let device = host.device.machine.is_some().then_some(Process::Device(*node));
            [host.node.machine.is_some().then_some(Process::Node(*node)), device]
        });
        let arbiter = self.server.arbiter.machine.is_some().then_some(Process::Arbiter);
        hosts.chain([arbiter]).flatten().collect()
    }

    /// Queues whose head can come.
    fn open(&self) -> impl Iterator<Item = Channel> {
        self.queues.keys().copied().filter(|channel| self.is_open(*channel))
    }

    fn is_open(&self, channel: Channel) -> bool {
        let cut = channel.link().is_some_and(|link| self.cut.contains(&link));
        !cut && !self.frozen.contains(&channel.reader()) && self.queues.contains_key(&channel)
    }

    /// Who has the earliest deadline, and when: more than one if it is the same.
    fn earliest(&self) -> Vec<(Time, Process)> {
        let mut best: Vec<(Time, Process)> = Vec::new();
        let mut look = |deadline: Option<Time>, clock: &Clock, process: Process| {
            let local = deadline.filter(|at| *at != Time::NEVER);
            let Some(local) = local.filter(|_| !self.frozen.contains(&process)) else { return };
            let at = clock.when(local).max(self.now);
            if best.first().is_none_or(|(first, _)| at < *first) {
                best.clear();
            }
            if best.first().is_none_or(|(first, _)| at == *first) {
                best.push((at, process));
            }
        };
        let server = &self.server.arbiter;
        let arbiter = server.machine.as_ref().and_then(|m| m.get().deadline());
        look(arbiter, &server.clock, Process::Arbiter);
        for (node, host) in &self.hosts {
            let deadline = host.node.machine.as_ref().and_then(|m| m.get().deadline());
            look(deadline, &host.node.clock, Process::Node(*node));
            let deadline = host.device.machine.as_ref().and_then(|m| m.get().deadline());
            look(deadline, &host.device.clock, Process::Device(*node));
        }
        best
    }

    /// Makes a choice.
    ///
    /// # Errors
    /// The rule that is broken then.
    pub(super) fn choose(&mut self, choice: Choice) -> Result<(), Violation> {
        self.tell(|| format!("> {choice}"));
        match choice {
            Choice::Run => return self.run(),
            Choice::Deliver(channel) => self.deliver(channel),
            Choice::Tick(process) => self.pass_to(process),
            Choice::Cut(a, b) => {
                self.cut.insert((a, b));
            }
            Choice::Heal(a, b) => {
                self.cut.remove(&(a, b));
            }
            Choice::Kill { process, written } => {
                self.settle_write(process, written);
                self.frozen.remove(&process);
                self.kill(process);
                self.put_start(process);
            }
            Choice::PowerOff { host, written } => {
                self.frozen.retain(|process| process.host() != host);
                self.power_off(host, written);
            }
            Choice::Reset(node) => self.reset(node),
            Choice::Freeze(process) => {
                self.frozen.insert(process);
            }
            Choice::Thaw(process) => {
                self.frozen.remove(&process);
            }
        }
        self.faults -= u32::from(choice.is_fault());
        self.finish_step()
    }

    /// Time passes until a process's deadline.
    fn pass_to(&mut self, process: Process) {
        let earliest = self.earliest();
        if let Some((at, _)) = earliest.into_iter().find(|(_, who)| *who == process) {
            self.now = at;
            self.wake(process);
        }
    }

    /// What follows from a step at once, and whether all rules still hold.
    fn finish_step(&mut self) -> Result<(), Violation> {
        self.steps += 1;
        loop {
            self.check();
            if let Some((rule, text)) = self.broken.clone() {
                return Err(Violation { rule, at: self.now, text });
            }
            let Some(channel) = self.open().find(|channel| self.is_immediate(*channel)) else {
                return Ok(());
            };
            self.deliver(channel);
            self.steps += 1;
        }
    }

    fn is_immediate(&self, channel: Channel) -> bool {
        let is_routine = || {
            let head = self.queues.get(&channel).and_then(VecDeque::front);
            head.is_some_and(|parcel| parcel.get().is_routine())
        };
        let grain = self.setup.grain;
        let at_once = matches!(grain, Grain::Coarse | Grain::Local) && is_routine();
        match channel {
            Channel::ToDevice(_) | Channel::ToNode(_) | Channel::Disk(Process::Node(_)) => {
                at_once || matches!(grain, Grain::Coarse | Grain::Routine)
            }
            Channel::Beats(..) | Channel::OldUp(_) | Channel::Up(_) | Channel::Down(_) => at_once,
            Channel::Disk(_) | Channel::Start(_) => false,
        }
    }

    /// Goes on without faults until something of note has happened, or for [`RUN`].
    fn run(&mut self) -> Result<(), Violation> {
        let (before, end) = (self.milestone(), self.now + RUN);
        for _ in 0..RUN_STEPS {
            if !self.step()? || self.now >= end || self.milestone() != before {
                return Ok(());
            }
        }
        let text = "the machines are busy without end".to_owned();
        Err(Violation { rule: "S10", at: self.now, text })
    }

    /// One step of the schedule in which all that is under way comes before time passes; false if
    /// there is none.
    ///
    /// # Errors
    /// The rule that is broken then.
    pub(super) fn step(&mut self) -> Result<bool, Violation> {
        let open = self.open().next();
        if let Some(channel) = open {
            self.deliver(channel);
        } else if let Some((_, process)) = self.earliest().first().copied() {
            self.pass_to(process);
        } else {
            return Ok(false);
        }
        self.finish_step().map(|()| true)
    }

    /// What is of note.
    pub(super) fn milestone(&self) -> Milestone {
        Milestone::of(self)
    }

    /// Adds a line to the story.
    pub(super) fn tell(&mut self, line: impl FnOnce() -> String) {
        let now = self.now;
        if let Some(story) = &mut self.story {
            story.push(format!("{now} {}", line()));
        }
    }
}

impl Choice {
    const fn is_fault(self) -> bool {
        match self {
            Self::Cut(..)
            | Self::Kill { .. }
            | Self::PowerOff { .. }
            | Self::Reset(_)
            | Self::Freeze(_) => true,
            Self::Run | Self::Deliver(_) | Self::Tick(_) | Self::Heal(..) | Self::Thaw(_) => false,
        }
    }
}
