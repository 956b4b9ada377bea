//! A cluster of corosync nodes with stock or own quorum devices at our arbiter's core. corosync's
//! membership, votequorum and the stock device are models that stay: they are not ours, and what
//! our arbiter has to stand is their behaviour (rule S2b; safety 4 to 8, 15, 16, 29, 38).
//!
//! Time goes in ticks. A message takes one; while a way is cut it waits, as TCP sends it again.
//! corosync notices a lost member after its token has timed out and a new ring was agreed on.

mod own_device;
mod stock_device;
mod votequorum;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use protocol::ids::{ArbiterId, BootId, ClusterName, Epoch, NodeId, RingId, ViewId};
use protocol::qnet::{Deframer, MESSAGE_LIMIT_BYTES, Message, MessageType, TlsSupport};
use protocol::status::QuorumState;
use protocol::time::Time;
use protocol::times;
use qdevice::core::Event as OwnEvent;
use qnetd::core::{
    Action, Arbiter, ClientId, ClusterSettings, Event, GrantRecord, Memory, Settings, VoteHold,
};

use crate::invariants::{Monitor, Names, Reading, Violation, says};
use crate::run::{Outcome, guarded};
use crate::sabotage::Sabotage;
use crate::scenario::{Claim, Corosync, End, Expect, Fault, Process, Scenario};
use crate::trace::Trace;
use own_device::OwnDevice;
use stock_device::{Duty, StockDevice};
use votequorum::Votequorum;

const TICK: Duration = Duration::from_millis(20);
/// A lost member is noticed, and a ring agreed on without it, after this long (token 3 s,
/// consensus 3.6 s).
const LOSS: Duration = Duration::from_millis(6600);
/// A member that comes is taken in after this.
const GAIN: Duration = Duration::from_millis(600);
const CLUSTER: &str = "simulated";
/// A run without an end of its own, with a fault that has none, lasts this long.
const LENGTH_MS: u64 = 90_000;
/// A cluster whose faults are over is whole after this: a ring is agreed on, a stock device tries
/// again, in up to 4.5 s, and the arbiter answers. The longest that was seen is 4.3 s.
const SETTLING: Duration = Duration::from_secs(10);
/// All devices have connected once, if nothing went wrong.
const CONNECTED: Time = Time::from_millis(3000);

#[derive(Debug)]
enum Device {
    Stock(Box<StockDevice>),
    Own(Box<OwnDevice>),
}

/// One node.
#[derive(Debug)]
struct Node {
    corosync: Votequorum,
    device: Option<Device>,
    wire: Option<u64>,
    /// So many faults keep it without power.
    unpowered: u32,
    /// corosync stands still.
    frozen: u32,
    /// The device does.
    device_frozen: u32,
    device_down: u32,
    /// Whom it reaches now, if that is not its ring, and since when.
    reaches: Option<(BTreeSet<NodeId>, Time)>,
    /// Polls that corosync has not read.
    polls: VecDeque<(RingId, bool)>,
}

/// One connection, by its number at the arbiter.
#[derive(Debug)]
struct Wire {
    node: NodeId,
    up: VecDeque<Piece>,
    down: VecDeque<Piece>,
    client_open: bool,
    server_open: bool,
}

#[derive(Clone, Debug)]
enum Piece {
    Open,
    Message(Box<Message>),
    End,
}

struct Stage<'a> {
    scenario: &'a Scenario,
    settings: Settings,
    cluster: ClusterName,
    now: Time,
    nodes: BTreeMap<NodeId, Node>,
    arbiter: Option<Arbiter>,
    arbiter_down: u32,
    boots: u32,
    journal: Vec<GrantRecord>,
    wires: BTreeMap<u64, Wire>,
    opened: u64,
    cuts: BTreeMap<(End, End), u32>,
    rings: u64,
    monitor: Monitor,
    trace: Trace,
    steps: u64,
    sabotage: Option<Sabotage>,
}

/// Runs a scenario of such a cluster.
pub(crate) fn run(scenario: &Scenario, sabotage: Option<Sabotage>) -> Outcome {
    let mut stage = Stage::new(scenario, sabotage);
    let (violation, settled_in) = guarded(&mut stage, |stage| stage.drive(), |stage| stage.now);
    Outcome {
        end: stage.now,
        steps: stage.steps,
        hash: stage.trace.hash(),
        trace: if violation.is_some() { stage.trace.tail(150) } else { String::new() },
        chronicle: stage.monitor.chronicle().to_owned(),
        became_quorate: stage.monitor.became_quorate,
        violation,
        settled_in,
        ..Outcome::default()
    }
}

/// What the arbiter is told of the cluster.
fn settings(corosync: &Corosync) -> Settings {
    let named = |name: &String| VoteHold::NAMES.iter().find(|(known, _)| known == name);
    let vote_hold = corosync.vote_hold.as_ref().and_then(named).map(|(_, hold)| *hold);
    let said = ClusterSettings {
        device_timeout_ms: corosync.device_timeout_ms,
        lms_without_wait_for_all: corosync.lms_without_wait_for_all,
        ..ClusterSettings::default()
    };
    Settings {
        tls: TlsSupport::Supported,
        client_cert_required: false,
        vote_hold: vote_hold.unwrap_or_default(),
        clusters: [(CLUSTER.into(), said)].into(),
        ..Settings::default()
    }
}

impl<'a> Stage<'a> {
    fn new(scenario: &'a Scenario, sabotage: Option<Sabotage>) -> Self {
        let topology = &scenario.topology;
        let votes = |votes: u32| usize::try_from(votes).unwrap_or(usize::MAX);
        let (device, quorum) = (votes(topology.device_votes()), votes(topology.quorum()));
        let nodes = scenario.nodes().map(|node| {
            let ring = RingId::new(node.0, 1);
            let node_state = Node {
                corosync: Votequorum::new(ring, node, device, quorum),
                device: None,
                wire: None,
                unpowered: 0,
                frozen: 0,
                device_frozen: 0,
                device_down: 0,
                reaches: None,
                polls: VecDeque::new(),
            };
            (node, node_state)
        });
        let corosync = topology.corosync.clone().unwrap_or_default();
        let mut stage = Self {
            scenario,
            settings: settings(&corosync),
            cluster: CLUSTER.into(),
            now: Time::ZERO,
            nodes: nodes.collect(),
            arbiter: None,
            arbiter_down: 0,
            boots: 0,
            journal: Vec::new(),
            wires: BTreeMap::new(),
            opened: 0,
            cuts: BTreeMap::new(),
            rings: 1,
            monitor: Monitor::new(scenario),
            trace: Trace::default(),
            steps: 0,
            sabotage,
        };
        stage.start_arbiter();
        let all: Vec<NodeId> = stage.nodes.keys().copied().collect();
        stage.begin_ring(&all.iter().copied().collect());
        for node in all {
            stage.start_device(node);
        }
        stage
    }

    fn say(&mut self, who: impl std::fmt::Display, what: std::fmt::Arguments<'_>) {
        self.trace.line(self.now, who, what);
    }

    fn start_arbiter(&mut self) {
        self.boots += 1;
        let memory = Memory {
            arbiter: ArbiterId(7),
            boot: self.boots,
            host_boot: BootId(1),
            clock_s: 0,
            grants: self.journal.last().cloned().into_iter().collect(),
            fencing: Vec::new(),
        };
        self.arbiter = Some(Arbiter::new(self.now, self.settings.clone(), memory));
    }

    fn start_device(&mut self, id: NodeId) {
        let config: Vec<NodeId> = self.scenario.nodes().collect();
        let topology = &self.scenario.topology;
        let corosync = topology.corosync.clone().unwrap_or_default();
        let how = (topology.algorithm, topology.tie_breaker);
        self.opened += 1;
        let (now, life) = (self.now, self.opened);
        let heartbeat_ms = corosync.heartbeat_ms.map(|ms| Duration::from_millis(u64::from(ms)));
        let heartbeat = heartbeat_ms.unwrap_or(times::DEVICE_TIMEOUT * 4 / 5);
        let cluster = self.cluster.clone();
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if node.unpowered > 0 || node.device_down > 0 || node.device.is_some() {
            return;
        }
        let host = node.corosync.clone();
        let mut device = if corosync.own.contains(&id.0) {
            Device::Own(Box::new(OwnDevice::new(now, &cluster, id, &config, how, life)))
        } else {
            Device::Stock(Box::new(StockDevice::new(now, &cluster, id, config, how, heartbeat)))
        };
        device.ring_begins(now, host.ring, &host.members);
        device.quorum(now, &host);
        node.device = Some(device);
    }

    fn is_cut(&self, a: End, b: End) -> bool {
        let key = if a < b { (a, b) } else { (b, a) };
        self.cuts.get(&key).is_some_and(|count| *count > 0)
    }

    /// To the end. Without an end of its own a story is over when the cluster has had its time
    /// after the last fault, and then it is whole (L1). Returns how long it was in getting so.
    fn drive(&mut self) -> Result<Option<Duration>, Violation> {
        let quiet = self.scenario.quiet_at().filter(|_| self.scenario.until_ms.is_none());
        let length = Time::from_millis(self.scenario.until_ms.unwrap_or(LENGTH_MS));
        let limit = quiet.map_or(length, |quiet| quiet + SETTLING);
        let mut whole_since = None;
        while self.now < limit {
            self.tick()?;
            whole_since = self.is_whole().then(|| whole_since.unwrap_or(self.now));
        }
        match (quiet, whole_since) {
            (None, _) => Ok(None),
            (Some(quiet), Some(since)) => Ok(Some(since.since(quiet))),
            (Some(_), None) => {
                let text = format!("not whole {} s after the last fault", SETTLING.as_secs());
                Err(Violation { rule: "L1", at: self.now, text })
            }
        }
    }

    /// Every node is quorate with all the others, and counts its device's vote: all the nodes
    /// would be quorate without it.
    fn is_whole(&self) -> bool {
        let all = self.nodes.len();
        let views = self.monitor.quorate_views().filter(|members| members.len() == all);
        let votes = self.nodes.values().filter(|node| node.corosync.cast);
        views.count() == all && votes.count() == all
    }

    fn tick(&mut self) -> Result<(), Violation> {
        self.now = self.now + TICK;
        self.steps += 1;
        for timed in &self.scenario.faults {
            let (begin, end) = (timed.at_ms, timed.at_ms + timed.for_ms);
            let now = self.now;
            let is_now = |ms: u64| {
                let at = Time::from_millis(ms);
                (at..at + TICK).contains(&now)
            };
            if is_now(begin) {
                self.fault(&timed.fault, true);
            }
            if timed.for_ms > 0 && is_now(end) {
                self.fault(&timed.fault, false);
            }
        }
        self.watch_rings();
        if self.arbiter.as_ref().and_then(Arbiter::deadline).is_some_and(|at| at <= self.now) {
            self.tell_arbiter(Event::Timeout);
        }
        self.carry();
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for id in ids {
            self.pass(id);
        }
        self.check()
    }

    fn fault(&mut self, fault: &Fault, begins: bool) {
        let word = if begins { "begins" } else { "ends" };
        self.say("fault", format_args!("{word}: {fault}"));
        let count = |count: &mut u32| {
            *count = if begins { *count + 1 } else { count.saturating_sub(1) };
            *count
        };
        match fault {
            Fault::Cut { from, to, .. } => {
                let key = if from < to { (*from, *to) } else { (*to, *from) };
                count(self.cuts.entry(key).or_default());
            }
            Fault::Kill { process: Process::Device(id), .. } => {
                let Some(node) = self.nodes.get_mut(id) else { return };
                if count(&mut node.device_down) == 0 {
                    self.start_device(*id);
                } else {
                    node.device = None;
                    self.hang_up(*id);
                }
            }
            Fault::Freeze { process: Process::Device(id) } => {
                if let Some(node) = self.nodes.get_mut(id) {
                    count(&mut node.device_frozen);
                }
            }
            Fault::Freeze { process: Process::Node(id) } => {
                if let Some(node) = self.nodes.get_mut(id) {
                    count(&mut node.frozen);
                }
            }
            Fault::Kill { process: Process::Arbiter, .. } => {
                if count(&mut self.arbiter_down) == 0 {
                    self.start_arbiter();
                } else {
                    self.arbiter = None;
                    for wire in self.wires.values_mut().filter(|wire| wire.server_open) {
                        wire.server_open = false;
                        wire.down.push_back(Piece::End);
                    }
                }
            }
            Fault::PowerOff { host: End::Node(id), .. } => self.power(*id, !begins),
            // What such a cluster has not.
            Fault::PowerOff { host: End::Arbiter, .. }
            | Fault::Kill { process: Process::Node(_) | Process::Keeper(_), .. }
            | Fault::Freeze { process: Process::Keeper(_) | Process::Arbiter }
            | Fault::Loss { .. }
            | Fault::Slow { .. }
            | Fault::Leave { .. }
            | Fault::Pause { .. }
            | Fault::ArbiterState { .. }
            | Fault::DiskFull { .. }
            | Fault::SlowDisk { .. }
            | Fault::Stubborn { .. }
            | Fault::Crash { .. }
            | Fault::OtherArbiter { .. }
            | Fault::Gateway { .. }
            | Fault::Configure { .. } => {
                self.monitor.report("S10", format!("no such fault with corosync: {fault}"));
            }
        }
    }

    /// A machine without power says no word to anybody.
    fn power(&mut self, id: NodeId, on: bool) {
        let topology = &self.scenario.topology;
        let votes = |votes: u32| usize::try_from(votes).unwrap_or(usize::MAX);
        let (device, quorum) = (votes(topology.device_votes()), votes(topology.quorum()));
        self.rings += 1;
        let ring = RingId::new(id.0, self.rings);
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if on {
            node.unpowered = node.unpowered.saturating_sub(1);
            node.corosync = Votequorum::new(ring, id, device, quorum);
            self.start_device(id);
        } else {
            node.unpowered += 1;
            node.device = None;
            node.polls.clear();
            if let Some(wire) = node.wire.take().and_then(|wire| self.wires.get_mut(&wire)) {
                wire.client_open = false;
            }
        }
    }

    /// Rings follow whom the nodes reach, after corosync's own times.
    fn watch_rings(&mut self) {
        let alive: Vec<NodeId> = self
            .nodes
            .iter()
            .filter(|(_, node)| node.unpowered == 0 && node.frozen == 0)
            .map(|(id, _)| *id)
            .collect();
        let mut due: BTreeSet<BTreeSet<NodeId>> = BTreeSet::new();
        for id in &alive {
            let mut reached = BTreeSet::from([*id]);
            loop {
                let more = alive.iter().filter(|other| !reached.contains(other)).find(|other| {
                    reached.iter().any(|n| !self.is_cut(End::Node(*n), End::Node(**other)))
                });
                let Some(more) = more.copied() else { break };
                reached.insert(more);
            }
            let now = self.now;
            let Some(node) = self.nodes.get_mut(id) else { continue };
            if node.corosync.members.iter().eq(&reached) {
                node.reaches = None;
                continue;
            }
            let lost = node.corosync.members.iter().any(|member| !reached.contains(member));
            let since = match &node.reaches {
                Some((known, since)) if *known == reached => *since,
                Some(_) | None => now,
            };
            node.reaches = Some((reached.clone(), since));
            let late = reached.first().zip(self.scenario.topology.corosync.as_ref());
            let late = late.map_or(Duration::ZERO, |(lowest, corosync)| corosync.late(*lowest));
            if now >= since + if lost { LOSS + late } else { GAIN } {
                due.insert(reached);
            }
        }
        for ring in due {
            self.begin_ring(&ring);
        }
    }

    fn begin_ring(&mut self, members: &BTreeSet<NodeId>) {
        self.rings += 1;
        let lowest = members.first().map_or(0, |node| node.0);
        let (now, ring) = (self.now, RingId::new(lowest, self.rings));
        let list: Vec<NodeId> = members.iter().copied().collect();
        self.say("corosync", format_args!("ring {ring} of {list:?}"));
        self.monitor.note(now, "corosync", format_args!("a ring of {}", Names(&list)));
        for id in members {
            let Some(node) = self.nodes.get_mut(id) else { continue };
            node.reaches = None;
            node.corosync.ring_begins(now, ring, list.clone());
            if let Some(device) = &mut node.device {
                device.ring_begins(now, ring, &list);
            }
        }
    }

    /// One node's turn.
    fn pass(&mut self, id: NodeId) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if node.unpowered > 0 {
            return;
        }
        let running = node.frozen == 0;
        if running {
            for (ring, cast) in std::mem::take(&mut node.polls) {
                node.corosync.poll(now, ring, cast);
            }
            if node.corosync.pass(now) {
                let host = node.corosync.clone();
                if let Some(device) = &mut node.device {
                    device.quorum(now, &host);
                }
            }
        }
        if node.device_frozen > 0 {
            return;
        }
        let host = running.then_some(&node.corosync);
        match &mut node.device {
            Some(Device::Stock(device)) => device.pass(now),
            Some(Device::Own(device)) => device.pass(now, host),
            None => {}
        }
        self.do_duties(id);
    }

    fn do_duties(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let duties = match &mut node.device {
            Some(Device::Stock(device)) => std::mem::take(&mut device.duties),
            Some(Device::Own(device)) => std::mem::take(&mut device.duties),
            None => return,
        };
        for duty in duties {
            match duty {
                Duty::Poll(ring, cast) => {
                    if let Some(node) = self.nodes.get_mut(&id) {
                        node.polls.push_back((ring, cast));
                    }
                }
                Duty::Connect => self.connect(id),
                Duty::Send(message) => {
                    let wire = self.nodes.get(&id).and_then(|node| node.wire);
                    if let Some(wire) = wire.and_then(|wire| self.wires.get_mut(&wire)) {
                        wire.up.push_back(Piece::Message(message));
                    }
                }
                Duty::Close => self.hang_up(id),
            }
        }
    }

    fn connect(&mut self, id: NodeId) {
        self.hang_up(id);
        if self.sabotage == Some(Sabotage::ConnectsOnce) && self.now > CONNECTED {
            return;
        }
        self.opened += 1;
        let wire = Wire {
            node: id,
            up: VecDeque::from([Piece::Open]),
            down: VecDeque::new(),
            client_open: true,
            server_open: false,
        };
        self.wires.insert(self.opened, wire);
        if let Some(node) = self.nodes.get_mut(&id) {
            node.wire = Some(self.opened);
        }
    }

    fn hang_up(&mut self, id: NodeId) {
        let wire = self.nodes.get_mut(&id).and_then(|node| node.wire.take());
        if let Some(wire) = wire.and_then(|wire| self.wires.get_mut(&wire)) {
            wire.client_open = false;
            wire.up.push_back(Piece::End);
        }
    }

    /// Brings what was sent before to the other end.
    fn carry(&mut self) {
        let numbers: Vec<u64> = self.wires.keys().copied().collect();
        for number in numbers {
            let Some(wire) = self.wires.get_mut(&number) else { continue };
            let node = wire.node;
            let cut = self.cuts.get(&(End::Node(node), End::Arbiter)).is_some_and(|cuts| *cuts > 0);
            let frozen = self.nodes.get(&node).is_some_and(|node| node.device_frozen > 0);
            if cut {
                continue;
            }
            let up = std::mem::take(&mut wire.up);
            let down = if frozen { VecDeque::new() } else { std::mem::take(&mut wire.down) };
            for piece in up {
                self.arrives_at_arbiter(number, piece);
            }
            for piece in down {
                self.arrives_at_device(number, piece);
            }
            let over = |wire: &Wire| !wire.client_open && !wire.server_open && wire.up.is_empty();
            if self.wires.get(&number).is_some_and(over) {
                self.wires.remove(&number);
            }
        }
    }

    fn arrives_at_arbiter(&mut self, number: u64, piece: Piece) {
        let client = ClientId(number);
        let Some(wire) = self.wires.get_mut(&number) else { return };
        match piece {
            Piece::Open if self.arbiter.is_some() => {
                wire.server_open = true;
                wire.down.push_back(Piece::Open);
                let address = format!("w{number}");
                self.tell_arbiter(Event::Connected { client, address });
            }
            Piece::Open => wire.down.push_back(Piece::End),
            Piece::Message(message) if wire.server_open => {
                let (_, frame) = Deframer::new(MESSAGE_LIMIT_BYTES).feed(&message.encode());
                if let Some(Ok(frame)) = frame {
                    self.tell_arbiter(Event::Received { client, frame });
                }
            }
            Piece::End if wire.server_open => {
                wire.server_open = false;
                self.tell_arbiter(Event::Closed { client });
            }
            Piece::Message(_) => wire.down.push_back(Piece::End),
            Piece::End => {}
        }
    }

    fn arrives_at_device(&mut self, number: u64, piece: Piece) {
        let now = self.now;
        let Some(wire) = self.wires.get_mut(&number).filter(|wire| wire.client_open) else {
            return;
        };
        let id = wire.node;
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.wire == Some(number)) else {
            return;
        };
        let Some(device) = &mut node.device else { return };
        match piece {
            Piece::Open => device.opened(now),
            Piece::Message(message) => device.hear(now, &message),
            Piece::End => {
                wire.client_open = false;
                node.wire = None;
                device.lose(now);
            }
        }
        self.do_duties(id);
    }

    fn tell_arbiter(&mut self, event: Event) {
        let now = self.now;
        let Some(arbiter) = &mut self.arbiter else { return };
        arbiter.handle(now, event);
        while let Some(action) = self.arbiter.as_mut().and_then(Arbiter::next_action) {
            match action {
                Action::Send { client, bytes } => self.arbiter_sends(client.0, &bytes),
                Action::Close { client, reason } => {
                    self.say("arbiter", format_args!("closes w{}: {reason:?}", client.0));
                    if let Some(wire) = self.wires.get_mut(&client.0) {
                        let node = End::Node(wire.node);
                        self.monitor.note(
                            now,
                            "arbiter",
                            format_args!("closes {node}: {reason:?}"),
                        );
                        wire.server_open = false;
                        wire.down.push_back(Piece::End);
                    }
                }
                Action::Persist { token, record } => {
                    self.monitor.granted(now, &record);
                    self.journal.push(record);
                    if let Some(arbiter) = &mut self.arbiter {
                        arbiter.handle(now, Event::Persisted(token));
                    }
                }
                // Nobody fences here.
                Action::PersistFencing { token, .. } => {
                    if let Some(arbiter) = &mut self.arbiter {
                        arbiter.handle(now, Event::PersistFailed(token));
                    }
                }
                Action::Decided { text, .. } => self.say("arbiter", format_args!("{text}")),
                Action::StartTls { .. } => {}
            }
        }
    }

    fn arbiter_sends(&mut self, number: u64, bytes: &[u8]) {
        let (_, frame) = Deframer::new(MESSAGE_LIMIT_BYTES).feed(bytes);
        let message = frame.and_then(Result::ok).and_then(|frame| Message::decode(&frame).ok());
        let (Some(message), Some(wire)) = (message, self.wires.get_mut(&number)) else { return };
        let node = End::Node(wire.node);
        wire.down.push_back(Piece::Message(Box::new(message.clone())));
        if message.kind == MessageType::VoteInfo
            && let Some(vote) = message.options.vote
        {
            self.monitor.vote_sent(self.now, node, vote, message.options.grant);
            self.say("arbiter", format_args!("tells {node} {vote}"));
        }
    }

    /// What every node's own users have been told last: that is what they act on (F1). In a
    /// membership change a node is of the new ring already, as far as others are concerned.
    fn readings(&self) -> Vec<Reading> {
        let powered = self.nodes.iter().filter(|(_, node)| node.unpowered == 0);
        let readings = powered.map(|(id, node)| {
            let corosync = &node.corosync;
            let members: BTreeSet<NodeId> =
                corosync.counted.iter().chain(&corosync.members).copied().collect();
            let quorate = corosync.quorate;
            Reading {
                node: *id,
                state: if quorate { QuorumState::Quorate } else { QuorumState::Inquorate },
                view: Some(ViewId { ring: corosync.counted_ring, nonce: 0 }),
                epoch: Epoch(0),
                members: members.into_iter().collect(),
            }
        });
        readings.collect()
    }

    fn check(&mut self) -> Result<(), Violation> {
        let readings = self.readings();
        let mut monitor = std::mem::take(&mut self.monitor);
        let result = monitor
            .check_corosync(self.now, readings, &|readings, expect| self.holds(readings, expect));
        self.monitor = monitor;
        result
    }

    fn holds(&self, readings: &[Reading], expect: &Expect) -> bool {
        let quorate = |node: NodeId| {
            let reading = readings.iter().find(|reading| reading.node == node);
            reading.is_some_and(|reading| reading.state == QuorumState::Quorate)
        };
        match expect.what {
            Claim::Quorate(node) | Claim::Entitled(node) => quorate(node),
            Claim::Inquorate(node) => !quorate(node),
            Claim::Off(node) => self.nodes.get(&node).is_some_and(|node| node.unpowered > 0),
            Claim::ArbiterSays => {
                let status = self.arbiter.as_ref().map(|arbiter| arbiter.status(self.now));
                status.is_some_and(|status| says(&status, &expect.text))
            }
            Claim::Whole => {
                let all = readings.len() == self.nodes.len();
                all && readings.iter().all(|reading| {
                    quorate(reading.node) && reading.members.len() == self.nodes.len()
                })
            }
            // There is no service here.
            Claim::Runs(_) | Claim::Waits(_) | Claim::ConfirmedOff(_) => false,
            Claim::Stopped => true,
        }
    }
}

impl Device {
    fn ring_begins(&mut self, now: Time, ring: RingId, members: &[NodeId]) {
        match self {
            Self::Stock(device) => device.ring_begins(now, ring, members),
            Self::Own(device) => device.ring_begins(now, ring, members),
        }
    }

    fn quorum(&mut self, now: Time, host: &Votequorum) {
        match self {
            Self::Stock(device) => device.quorum(host.quorate),
            Self::Own(device) => device.quorum(now, host),
        }
    }

    fn opened(&mut self, now: Time) {
        match self {
            Self::Stock(device) => device.opened(),
            Self::Own(device) => device.handle(now, OwnEvent::Connected),
        }
    }

    fn hear(&mut self, now: Time, message: &Message) {
        match self {
            Self::Stock(device) => device.hear(now, message),
            Self::Own(device) => {
                let (_, frame) = Deframer::new(MESSAGE_LIMIT_BYTES).feed(&message.encode());
                if let Some(Ok(frame)) = frame {
                    device.handle(now, OwnEvent::Received(frame));
                }
            }
        }
    }

    fn lose(&mut self, now: Time) {
        match self {
            Self::Stock(device) => device.lose(now),
            Self::Own(device) => {
                device.handle(now, OwnEvent::Closed { reason: "closed by the arbiter".to_owned() });
            }
        }
    }
}
