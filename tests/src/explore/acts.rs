//! What the machines do to the small world.

use std::iter;
use std::rc::Rc;

use node::core::{Action as NodeAction, Config, Event as NodeEvent, Identity, Node};
use protocol::cluster::Beat;
use protocol::host::{DeviceSettings, FromHost, HeuristicsSettings, TlsMode, Welcome};
use protocol::ids::{ArbiterId, BootId, InstanceId, NodeId};
use protocol::qnet::{
    Deframer, Frame, HostKind, MESSAGE_LIMIT_BYTES, Message, MessageType, TlsSupport,
};
use protocol::times;
use protocol::vote::{Algorithm, Bound, Heuristics, TieBreaker, WatchdogClass};
use qdevice::core::{Action as DeviceAction, Device, Event as DeviceEvent};
use qnetd::core::{
    Action as ArbiterAction, Arbiter, ClientId, Event as ArbiterEvent, Memory, Settings,
};

use super::cell::Cell;
use super::choice::{Channel, Parcel};
use super::print::Shared;
use crate::clock::Clock;
use crate::sabotage::Sabotage;
use crate::scenario::{End, Process, Topology};

/// The cluster's name.
const CLUSTER: &str = "small";

fn millis(duration: std::time::Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// Its only message, if these bytes are one.
fn frame(bytes: &[u8]) -> Option<Frame> {
    Deframer::new(MESSAGE_LIMIT_BYTES).feed(bytes).1?.ok()
}

impl Cell {
    fn algorithm(&self) -> Algorithm {
        if self.setup.nodes.len() == 2 { Algorithm::Ffsplit } else { Algorithm::Lms }
    }

    fn bound(&self) -> Bound {
        Bound { class: WatchdogClass::A, bound_ms: millis(times::STOP_PROOF) }
    }

    fn config(&self, node: NodeId) -> Config {
        let nodes = u32::try_from(self.setup.nodes.len()).unwrap_or(0);
        let topology = Topology { nodes, algorithm: self.algorithm(), ..Topology::default() };
        Config {
            node,
            votes: self.setup.nodes.iter().map(|node| (*node, 1)).collect(),
            device_votes: topology.device_votes(),
            quorum: topology.quorum(),
            device_timeout: times::DEVICE_TIMEOUT,
            wait_for_all: false,
            auto_tie_breaker: None,
            two_node: false,
            digest: 1,
            bound: self.bound(),
            trust_virtual_watchdog: false,
            trust_process_watchdog: false,
            service: None,
        }
    }

    fn welcome(&self, node: NodeId, boot: u32, life: u64) -> Welcome {
        Welcome {
            cluster: CLUSTER.to_owned(),
            node,
            boot: BootId(u128::from(boot)),
            instance: InstanceId(life),
            bound: self.bound(),
            config_version: None,
            nodes: self.setup.nodes.iter().map(|node| (*node, 0)).collect(),
            device: Some(DeviceSettings {
                host: "arbiter".to_owned(),
                port: protocol::qnet::PORT,
                tls: TlsMode::Off,
                algorithm: self.algorithm(),
                tie_breaker: TieBreaker::Lowest,
                keep_active_partition: false,
                timeout_ms: millis(times::DEVICE_TIMEOUT),
                sync_timeout_ms: millis(times::DEVICE_SYNC_TIMEOUT),
                heartbeat_ms: millis(times::DEVICE_TIMEOUT) / 5 * 4,
                connect_timeout_ms: millis(times::DEVICE_TIMEOUT) / 5 * 4,
                force_ip_version: 0,
                heuristics: HeuristicsSettings::default(),
            }),
        }
    }

    fn new_name(&mut self) -> u64 {
        self.names += 1;
        self.names
    }

    fn clock(&self, end: End) -> Clock {
        let ppm = self.setup.skew_ppm;
        let is_slow = matches!(end, End::Node(node) if node.0 % 2 == 1);
        Clock::new(self.now, if is_slow { -ppm } else { ppm })
    }

    pub(super) fn start(&mut self, process: Process) {
        let name = self.new_name();
        self.tell(|| format!("{process} starts"));
        match process {
            Process::Node(node) => self.start_node(node, name),
            Process::Device(node) => self.start_device(node, name),
            Process::Arbiter => self.start_arbiter(),
            Process::Keeper(_) => {}
        }
    }

    fn start_node(&mut self, node: NodeId, name: u64) {
        let (config, clock) = (self.config(node), self.clock(End::Node(node)));
        let Some(host) = self.hosts.get_mut(&node) else { return };
        let boot = BootId(u128::from(host.boot));
        let identity = Identity { instance: InstanceId(name), boot, seed: name };
        let machine = Node::new(clock.at(self.now), config, identity, host.stored.get().clone());
        (host.node.machine, host.node.clock) = (Some(Shared::new(machine)), clock);
        host.node_life = name;
        self.node(node, NodeEvent::KeeperReady { running: false });
        self.greet(node);
    }

    fn start_device(&mut self, node: NodeId, name: u64) {
        let clock = self.clock(End::Node(node));
        let Some(host) = self.hosts.get_mut(&node) else { return };
        let config = qdevice::core::Config {
            instance: InstanceId(name),
            seed: name,
            host: HostKind::Builtin,
            pinned: host.pin,
            arbiter: "arbiter:5403".to_owned(),
        };
        (host.device.machine, host.device.clock) = (Some(Shared::new(Device::new(config))), clock);
        self.greet(node);
    }

    /// A device finds its node's socket once both are there, and is told who the node is.
    fn greet(&mut self, node: NodeId) {
        let Some(host) = self.hosts.get(&node) else { return };
        if host.node.machine.is_some() && host.device.machine.is_some() {
            let welcome = self.welcome(node, host.boot, host.node_life);
            self.put(Channel::ToDevice(node), Parcel::Host(FromHost::Welcome(Box::new(welcome))));
        }
    }

    fn start_arbiter(&mut self) {
        let clock = self.clock(End::Arbiter);
        if self.setup.sabotage == Some(Sabotage::GrantForgotten) {
            self.server.journal.change().pop();
        }
        let server = &mut self.server;
        server.opened += 1;
        let memory = Memory {
            arbiter: ArbiterId(1),
            boot: server.opened,
            host_boot: BootId(u128::from(server.boot)),
            clock_s: 0,
            grants: server.journal.get().last().cloned().into_iter().collect(),
            fencing: Vec::new(),
        };
        let settings = Settings { tls: TlsSupport::Unsupported, ..Settings::default() };
        let machine = Arbiter::new(clock.at(self.now), settings, memory);
        (server.arbiter.machine, server.arbiter.clock) = (Some(Shared::new(machine)), clock);
    }

    /// A process's deadline has come.
    pub(super) fn wake(&mut self, process: Process) {
        match process {
            Process::Node(node) => self.node(node, NodeEvent::Timeout),
            Process::Device(node) => self.device(node, DeviceEvent::Timeout),
            Process::Arbiter => self.arbiter(ArbiterEvent::Timeout),
            Process::Keeper(_) => {}
        }
    }

    /// The head of a queue comes.
    pub(super) fn deliver(&mut self, channel: Channel) {
        let Some(queue) = self.queues.get_mut(&channel) else { return };
        let parcel = queue.pop_front();
        if queue.is_empty() {
            self.queues.remove(&channel);
        }
        let Some(parcel) = parcel else { return };
        let parcel = parcel.get().clone();
        if !parcel.is_routine() {
            self.tell(|| format!("  {channel}: {parcel}"));
        }
        let reader = channel.reader();
        match (parcel, reader) {
            (Parcel::Start, process) => self.start(process),
            (Parcel::Beat { beat, .. }, Process::Node(node)) => {
                self.node(node, NodeEvent::Heard(Box::new(beat.as_ref().clone())));
            }
            (Parcel::Node(event), Process::Node(node)) => self.node(node, event),
            (Parcel::NodeWrite(number, state), Process::Node(node)) => {
                self.commit_node(node, state);
                self.node(node, NodeEvent::Persisted(number));
            }
            (Parcel::Host(said), Process::Device(node)) => {
                self.device(node, DeviceEvent::Host(said));
            }
            (Parcel::HostGone, Process::Device(node)) => self.device(node, DeviceEvent::HostDown),
            (Parcel::Grant(token, record), Process::Arbiter) => {
                self.commit_grant(record);
                self.arbiter(ArbiterEvent::Persisted(token));
            }
            (parcel, Process::Device(node)) => self.device_hears(node, parcel),
            (parcel, Process::Arbiter) => self.arbiter_hears(channel, parcel),
            (_, Process::Node(_) | Process::Keeper(_)) => {}
        }
    }

    fn device_hears(&mut self, node: NodeId, parcel: Parcel) {
        let current = self.hosts.get(&node).and_then(|host| host.stream);
        let forget = |cell: &mut Self| {
            if let Some(host) = cell.hosts.get_mut(&node) {
                host.stream = None;
            }
        };
        match parcel {
            Parcel::Opened(stream) if current == Some(stream) => {
                self.device(node, DeviceEvent::Connected);
            }
            Parcel::Message(stream, frame) if current == Some(stream) => {
                self.device(node, DeviceEvent::Received(frame));
            }
            Parcel::Refused(stream) if current == Some(stream) => {
                forget(self);
                self.device(node, DeviceEvent::ConnectFailed { reason: "refused".to_owned() });
            }
            Parcel::Fin(stream) if current == Some(stream) => {
                forget(self);
                self.device(node, DeviceEvent::Closed { reason: "closed".to_owned() });
            }
            // Of a connection that the device has given up, or not for a device.
            Parcel::Opened(_)
            | Parcel::Message(..)
            | Parcel::Refused(_)
            | Parcel::Fin(_)
            | Parcel::Beat { .. }
            | Parcel::Host(_)
            | Parcel::HostGone
            | Parcel::Node(_)
            | Parcel::Syn(_)
            | Parcel::NodeWrite(..)
            | Parcel::Grant(..)
            | Parcel::Start => {}
        }
    }

    fn arbiter_hears(&mut self, channel: Channel, parcel: Parcel) {
        let (Channel::Up(node) | Channel::OldUp(node)) = channel else { return };
        let open = |cell: &Self, stream: u64| cell.server.streams.contains_key(&stream);
        match parcel {
            Parcel::Syn(stream) if self.server.arbiter.machine.is_none() => {
                self.put(Channel::Down(node), Parcel::Refused(stream));
            }
            Parcel::Syn(stream) => {
                self.server.streams.insert(stream, node);
                self.put(Channel::Down(node), Parcel::Opened(stream));
                let (client, address) = (ClientId(stream), format!("s{node}"));
                self.arbiter(ArbiterEvent::Connected { client, address });
            }
            Parcel::Message(stream, frame) if open(self, stream) => {
                self.arbiter(ArbiterEvent::Received { client: ClientId(stream), frame });
            }
            // The kernel answers for who does not know the connection.
            Parcel::Message(stream, _) => self.put(Channel::Down(node), Parcel::Fin(stream)),
            Parcel::Fin(stream) if open(self, stream) => {
                self.server.streams.remove(&stream);
                self.arbiter(ArbiterEvent::Closed { client: ClientId(stream) });
            }
            Parcel::Fin(_)
            | Parcel::Opened(_)
            | Parcel::Refused(_)
            | Parcel::Beat { .. }
            | Parcel::Host(_)
            | Parcel::HostGone
            | Parcel::Node(_)
            | Parcel::NodeWrite(..)
            | Parcel::Grant(..)
            | Parcel::Start => {}
        }
    }

    fn node(&mut self, node: NodeId, event: NodeEvent) {
        let Some(host) = self.hosts.get_mut(&node) else { return };
        let now = host.node.clock.at(self.now);
        let Some(shared) = &mut host.node.machine else { return };
        let machine = shared.change();
        machine.handle(now, event);
        let actions: Vec<_> = iter::from_fn(|| machine.next_action()).collect();
        for action in actions {
            self.do_node(node, action);
        }
    }

    fn do_node(&mut self, node: NodeId, action: NodeAction) {
        match action {
            NodeAction::Beat { to, beat } => {
                let bare = Rc::new(Beat { seq: 0, answers: None, ..beat.as_ref().clone() });
                let news = self.said.get(&(node, to)) != Some(&bare);
                self.said.insert((node, to), bare);
                let beat = Rc::from(beat);
                self.put(Channel::Beats(node, to), Parcel::Beat { beat, news });
            }
            NodeAction::Persist { number, state } => {
                self.put(Channel::Disk(Process::Node(node)), Parcel::NodeWrite(number, state));
            }
            NodeAction::Host(said) => {
                if let FromHost::View(view) = &said {
                    self.history.change().installed(view);
                }
                let there = |host: &super::cell::Host| host.device.machine.is_some();
                if self.hosts.get(&node).is_some_and(there) {
                    self.put(Channel::ToDevice(node), Parcel::Host(said));
                }
            }
            NodeAction::Decided(text) => self.tell(|| format!("    node {node}: {text}")),
            // There is no service, and nobody leaves.
            NodeAction::Entitle { .. }
            | NodeAction::StartService { .. }
            | NodeAction::StopService
            | NodeAction::Fence { .. }
            | NodeAction::Testify(_)
            | NodeAction::Exit => {}
        }
    }

    fn device(&mut self, node: NodeId, event: DeviceEvent) {
        let Some(host) = self.hosts.get_mut(&node) else { return };
        let now = host.device.clock.at(self.now);
        let Some(shared) = &mut host.device.machine else { return };
        let machine = shared.change();
        machine.handle(now, event);
        let actions: Vec<_> = iter::from_fn(|| machine.next_action()).collect();
        for action in actions {
            self.do_device(node, action);
        }
    }

    fn do_device(&mut self, node: NodeId, action: DeviceAction) {
        let to_node = Channel::ToNode(node);
        match action {
            DeviceAction::Register => self.put(to_node, Parcel::Node(NodeEvent::DeviceUp)),
            DeviceAction::Unregister => self.put(to_node, Parcel::Node(NodeEvent::DeviceDown)),
            DeviceAction::Poll { id, cast: None, .. }
                if self.setup.sabotage == Some(Sabotage::LossNotApplied) =>
            {
                let polled = FromHost::Polled { id, applied: true };
                self.put(Channel::ToDevice(node), Parcel::Host(polled));
            }
            DeviceAction::Poll { id, view, cast } => {
                let Some(host) = self.hosts.get(&node) else { return };
                let clocks = (host.device.clock, host.node.clock);
                let cast = cast.map(|(until, grant)| (clocks.0.to(&clocks.1, until), grant));
                self.put(to_node, Parcel::Node(NodeEvent::Poll { id, view, cast }));
            }
            DeviceAction::Epoch(highest) => {
                self.put(to_node, Parcel::Node(NodeEvent::ArbiterEpoch(highest)));
            }
            DeviceAction::Connect { limit: _ } => self.connect(node),
            DeviceAction::Send(bytes) => {
                let stream = self.hosts.get(&node).and_then(|host| host.stream);
                if let (Some(stream), Some(frame)) = (stream, frame(&bytes)) {
                    self.put(Channel::Up(node), Parcel::Message(stream, frame));
                }
            }
            DeviceAction::Disconnect => self.hang_up(node),
            DeviceAction::RunHeuristics { run, limit: _ } => {
                let result = Heuristics::Pass;
                self.device(node, DeviceEvent::Heuristics { run, result });
            }
            DeviceAction::Pin(arbiter) => {
                if let Some(host) = self.hosts.get_mut(&node) {
                    host.pin = Some(arbiter);
                }
            }
            DeviceAction::Decided(text) => self.tell(|| format!("    device {node}: {text}")),
            // The status is for people; TLS is off, and nobody leaves.
            DeviceAction::Status(_) | DeviceAction::StartTls | DeviceAction::Exit => {}
        }
    }

    /// A new connection; what the one before still carries may come before or after it.
    fn connect(&mut self, node: NodeId) {
        let stream = self.new_name();
        if let Some(host) = self.hosts.get_mut(&node) {
            host.stream = Some(stream);
        }
        if let Some(mut left) = self.queues.remove(&Channel::Up(node)) {
            self.queues.entry(Channel::OldUp(node)).or_default().append(&mut left);
        }
        self.put(Channel::Up(node), Parcel::Syn(stream));
    }

    /// The device's end is closed: the arbiter hears of it after all that was sent before.
    pub(super) fn hang_up(&mut self, node: NodeId) {
        let stream = self.hosts.get_mut(&node).and_then(|host| host.stream.take());
        if let Some(stream) = stream {
            self.queues.remove(&Channel::Down(node));
            self.put(Channel::Up(node), Parcel::Fin(stream));
        }
    }

    pub(super) fn arbiter(&mut self, event: ArbiterEvent) {
        let now = self.server.arbiter.clock.at(self.now);
        let Some(shared) = &mut self.server.arbiter.machine else { return };
        let machine = shared.change();
        machine.handle(now, event);
        let actions: Vec<_> = iter::from_fn(|| machine.next_action()).collect();
        for action in actions {
            self.do_arbiter(action);
        }
    }

    fn do_arbiter(&mut self, action: ArbiterAction) {
        match action {
            ArbiterAction::Send { client: ClientId(stream), bytes } => {
                let Some(node) = self.server.streams.get(&stream).copied() else { return };
                let Some(frame) = frame(&bytes) else { return };
                self.look_at(node, &frame);
                self.put(Channel::Down(node), Parcel::Message(stream, frame));
            }
            ArbiterAction::Close { client: ClientId(stream), reason } => {
                if let Some(node) = self.server.streams.remove(&stream) {
                    self.tell(|| format!("    arbiter closes node {node}: {reason:?}"));
                    self.put(Channel::Down(node), Parcel::Fin(stream));
                }
            }
            ArbiterAction::Persist { token, record } => {
                self.put(Channel::Disk(Process::Arbiter), Parcel::Grant(token, record));
                if self.setup.sabotage == Some(Sabotage::GrantBeforeDurable) {
                    self.arbiter(ArbiterEvent::Persisted(token));
                }
            }
            // Nobody fences here.
            ArbiterAction::PersistFencing { token, .. } => {
                self.arbiter(ArbiterEvent::PersistFailed(token));
            }
            ArbiterAction::Decided { cluster: _, text } => {
                self.tell(|| format!("    arbiter: {text}"));
            }
            // TLS is off.
            ArbiterAction::StartTls { .. } => {}
        }
    }

    /// S3: a grant that is sent is on disk. And its votes are shown.
    fn look_at(&mut self, node: NodeId, frame: &Frame) {
        let Ok(message) = Message::decode(frame) else { return };
        if let Some(grant) = message.options.grant
            && !self.server.journal.get().iter().any(|record| record.grant == grant.id)
        {
            let epoch = grant.id.epoch;
            self.report(
                "S3",
                format!("node {node} is sent the grant of epoch {epoch}, not on disk"),
            );
        }
        if message.kind == MessageType::VoteInfo
            && let Some(vote) = message.options.vote
        {
            let lease = message.options.grant.map_or(0, |grant| grant.lease_ms);
            self.tell(|| format!("    arbiter tells device {node} {vote}, lease {lease} ms"));
        }
    }
}
