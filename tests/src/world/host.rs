//! What a node and its keeper do to the world.

use std::time::Duration;

use node::core::{Action, Config, Event, Node};
use node::keeper::core::Event as KeeperEvent;
use protocol::cluster::Beat;
use protocol::host::{DeviceSettings, FromHost, HeuristicsSettings, TlsMode, Welcome};
use protocol::ids::{Epoch, InstanceId, NodeId};
use protocol::times;
use protocol::vote::Bound;

use super::machine::{Input, Running, Write};
use super::{CLUSTER, Delivery, World};
use crate::sabotage::Sabotage;
use crate::scenario::{End, Process, Topology};

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

impl World {
    fn bound(&self, node: NodeId) -> Bound {
        let topology = &self.scenario.topology;
        Bound { class: topology.watchdog, bound_ms: millis(topology.stop_proof(node)) }
    }

    pub(super) fn node_config(&self, node: NodeId) -> Config {
        let generation = self.generation_of(node);
        let nodes = u32::try_from(generation.nodes.len()).unwrap_or(u32::MAX);
        let topology =
            Topology { nodes, device: generation.device, ..self.scenario.topology.clone() };
        Config {
            node,
            votes: generation.nodes.iter().map(|node| (NodeId(*node), 1)).collect(),
            device_votes: topology.device_votes(),
            quorum: topology.quorum(),
            device_timeout: times::DEVICE_TIMEOUT,
            wait_for_all: topology.wait_for_all,
            auto_tie_breaker: None,
            two_node: topology.two_node,
            digest: self.hosts.get(&node).map_or(0, |host| host.generation as u64),
            bound: self.bound(node),
            trust_virtual_watchdog: false,
            trust_process_watchdog: topology.trust_process_watchdog,
            service: Some(("service".to_owned(), topology.prefer.map(NodeId))),
        }
    }

    /// What the machines of a node and of its device are told of the cluster.
    pub fn configured(&self, node: NodeId) -> Option<(Config, Welcome)> {
        Some((self.node_config(node), self.welcome(node)?))
    }

    fn welcome(&self, node: NodeId) -> Option<Welcome> {
        let topology = &self.scenario.topology;
        let host = self.hosts.get(&node)?;
        let generation = self.generation_of(node);
        let settings = DeviceSettings {
            host: "arbiter".to_owned(),
            port: protocol::qnet::PORT,
            tls: TlsMode::Required,
            algorithm: topology.algorithm,
            tie_breaker: topology.tie_breaker,
            keep_active_partition: topology.keep_active_partition,
            timeout_ms: millis(times::DEVICE_TIMEOUT),
            sync_timeout_ms: millis(times::DEVICE_SYNC_TIMEOUT),
            heartbeat_ms: millis(times::DEVICE_TIMEOUT) / 5 * 4,
            connect_timeout_ms: millis(times::DEVICE_TIMEOUT) / 5 * 4,
            force_ip_version: 0,
            // There are none: these are the times they would have.
            heuristics: HeuristicsSettings {
                timeout_ms: millis(times::DEVICE_TIMEOUT) / 2,
                sync_timeout_ms: millis(times::DEVICE_SYNC_TIMEOUT) / 2,
                interval_ms: millis(times::DEVICE_TIMEOUT) * 3,
                ..HeuristicsSettings::default()
            },
        };
        Some(Welcome {
            cluster: CLUSTER.to_owned(),
            node,
            boot: host.boot,
            instance: InstanceId(host.node.life),
            bound: self.bound(node),
            config_version: None,
            nodes: generation.nodes.iter().map(|node| (NodeId(*node), 0)).collect(),
            device: Some(settings).filter(|_| generation.device),
        })
    }

    pub(super) fn run_node(&mut self, node: NodeId, input: Input) {
        let event = match input {
            Input::Timeout => Event::Timeout,
            Input::Node(event) => event,
            Input::Beat(bytes) => match Beat::decode(&bytes) {
                Ok(beat) => Event::Heard(Box::new(self.spoil_beat(beat))),
                Err(error) => {
                    self.monitor.report("S10", format!("node {node} was sent a bad beat: {error}"));
                    return;
                }
            },
            Input::DevicePlugged => {
                if let Some(welcome) = self.welcome(node) {
                    let welcome = Input::Host(FromHost::Welcome(Box::new(welcome)));
                    self.local(Process::Node(node), Process::Device(node), welcome);
                }
                return;
            }
            Input::Report(report) => return self.hear_report(node, *report),
            Input::KeeperState { idle } => return self.hear_state(node, idle),
            Input::Host(_)
            | Input::HostGone
            | Input::Device(_)
            | Input::Segment(..)
            | Input::Opened(_)
            | Input::Broken(_)
            | Input::Arbiter(_)
            | Input::ChildEnded
            | Input::Keeper(_) => return,
        };
        self.handle_node(node, event);
    }

    /// Sabotage of what a node hears.
    fn spoil_beat(&self, mut beat: Beat) -> Beat {
        if self.sabotage == Some(Sabotage::NoRecoveryWait) {
            beat.bound.bound_ms = 0;
        }
        beat
    }

    pub(super) fn handle_node(&mut self, node: NodeId, event: Event) {
        let now = self.now;
        let Some(host) = self.hosts.get_mut(&node) else { return };
        let now = host.node.clock.at(now);
        // Killed before it has done anything about it, it has not heard of the event.
        let is_doomed = host.node.kill_after.is_some();
        let Some(machine) = &mut host.node.machine else { return };
        let mut before = is_doomed.then(|| machine.clone());
        machine.handle(now, event);
        self.core_steps += 1;
        // Until its deadline is known.
        (host.node.touched, host.node.steady_until) = (true, self.now);
        while let Some(action) = self.next_node_action(node) {
            if !self.may_act(Process::Node(node)) {
                self.forget(node, before);
                return;
            }
            if !matches!(action, Action::Decided(_) | Action::Persist { .. }) {
                before = None;
            }
            self.do_node(node, action);
        }
        self.refresh_keeper(node);
    }

    /// What a killed daemon had counted is that of before an event, if nobody was told of that.
    fn forget(&mut self, node: NodeId, before: Option<Node>) {
        let ghost = self.hosts.get_mut(&node).and_then(|host| host.ghost.as_mut());
        if let (Some((ghost, _)), Some(before)) = (ghost, before) {
            *ghost = before;
        }
    }

    fn next_node_action(&mut self, node: NodeId) -> Option<Action> {
        self.hosts.get_mut(&node)?.node.machine.as_mut()?.next_action()
    }

    fn do_node(&mut self, node: NodeId, action: Action) {
        let me = Process::Node(node);
        match action {
            Action::Beat { to, beat } => self.send_beat(node, to, &beat),
            Action::Persist { number, state } => self.write(me, Write::Node(number, state)),
            Action::Host(said) => {
                if self.hosts.get(&node).is_some_and(|host| host.plugged) {
                    self.local(me, Process::Device(node), Input::Host(said));
                }
            }
            Action::Entitle { until, epoch: _ } => self.entitle_keeper(node, until),
            Action::StartService { .. }
                if self.sabotage == Some(Sabotage::StartForgotten) && self.monitor.starts > 0 => {}
            Action::StartService { serial, epoch, until } => {
                self.trace.line(
                    self.now,
                    me,
                    format_args!("asks for start {serial}, epoch {epoch}"),
                );
                self.start_service(node, serial, epoch, until);
            }
            Action::StopService => {
                self.trace.line(self.now, me, format_args!("asks for a stop"));
                self.order(node, KeeperEvent::Stop);
            }
            Action::Fence { targets, epoch } => self.ask_gateway(node, targets, epoch),
            // Its gateways are told of no votes, and ask nobody but the arbiter.
            Action::Testify(_) => {}
            Action::Exit => {
                self.order(node, KeeperEvent::Farewell);
                self.kill(me);
            }
            Action::Decided(text) => self.trace.line(self.now, me, format_args!("{text}")),
        }
    }

    fn send_beat(&mut self, from: NodeId, to: NodeId, beat: &Beat) {
        let bytes = match beat.encode() {
            Ok(bytes) if self.sabotage == Some(Sabotage::BeatsGarbled) => {
                bytes[..bytes.len() - 1].to_vec()
            }
            Ok(bytes) => bytes,
            Err(error) => {
                self.monitor.report("S10", format!("node {from} made a bad beat: {error}"));
                return;
            }
        };
        if let Some(pause) = self.network.packet(End::Node(from), End::Node(to)) {
            self.put_in(pause, Delivery::Input(Process::Node(to), None, Input::Beat(bytes)));
        }
    }

    /// Power goes or comes.
    pub(crate) fn power(&mut self, end: End, on: bool, disk_lost: bool) {
        let word = if on { "has power" } else { "loses power" };
        self.trace.line(self.now, end, format_args!("{word}"));
        self.monitor.note(self.now, end, format_args!("{word}"));
        match end {
            End::Arbiter => {
                let server = &mut self.server;
                server.unpowered =
                    if on { server.unpowered.saturating_sub(1) } else { server.unpowered + 1 };
                if !on {
                    self.settle_writes(Process::Arbiter);
                    self.server.arbiter.stop();
                    self.forget_streams(end);
                }
            }
            End::Node(node) => {
                if !on {
                    self.settle_writes(Process::Node(node));
                }
                let Some(host) = self.hosts.get_mut(&node) else { return };
                host.unpowered =
                    if on { host.unpowered.saturating_sub(1) } else { host.unpowered + 1 };
                if !on {
                    host.node.stop();
                    host.device.stop();
                    host.keeper.stop();
                    host.plugged = false;
                    host.ghost = None;
                    host.stream = None;
                    host.children.clear();
                    host.zombies.clear();
                    if disk_lost {
                        host.stored = node::core::Stored::default();
                        if self.sabotage == Some(Sabotage::EmptyDiskRemembers) {
                            host.stored.epoch = Epoch(1);
                        }
                        host.pin = None;
                        self.monitor.memory_lost(Some(node));
                    }
                    self.forget_streams(end);
                }
            }
        }
        if on && self.is_powered(end) {
            self.boot(end);
        }
    }

    /// Machines whose watchdog has not been petted are reset by it.
    pub(super) fn watchdogs(&mut self) {
        let topology = &self.scenario.topology;
        if topology.watchdog != protocol::vote::WatchdogClass::A {
            return;
        }
        let now = self.now;
        let late = self.hosts.iter().find(|(node, host)| {
            host.unpowered == 0
                && host.keeper.is_running()
                && now > host.petted_at + topology.watchdog(**node)
        });
        if let Some((node, _)) = late {
            let end = End::Node(*node);
            self.trace.line(now, end, format_args!("is reset by its watchdog"));
            self.power(end, false, false);
            self.power(end, true, false);
        }
    }
}
