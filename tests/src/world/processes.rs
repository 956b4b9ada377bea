//! Starting, waking, feeding and ending processes.

use std::collections::BTreeSet;
use std::time::Duration;

use node::core::{Event as NodeEvent, Identity, Node};
use node::keeper::core::{Core as Keeper, Event as KeeperEvent};
use protocol::ids::{BootId, Epoch, GrantId, InstanceId, NodeId, ViewId};
use protocol::qnet::HostKind;
use protocol::time::Time;
use qdevice::core::{Device, Event as DeviceEvent};
use qnetd::core::{Arbiter, Event as ArbiterEvent, GrantRecord, Memory, Settings};

use super::machine::{Hears, Input, Running, Write, served_at};
use super::{Delivery, World};
use crate::clock::{Clock, hash};
use crate::sabotage::Sabotage;
use crate::scenario::{End, Process};

/// A deadline that does not move though its machine is called so often is a busy loop.
pub(super) const SPIN_LIMIT: u32 = 100;
/// Datagrams that a socket holds for a process that does not read.
const SOCKET_LIMIT: usize = 200;

impl World {
    pub(crate) fn slot(&mut self, process: Process) -> Option<&mut dyn Running> {
        Some(match process {
            Process::Node(node) => &mut self.hosts.get_mut(&node)?.node,
            Process::Device(node) => &mut self.hosts.get_mut(&node)?.device,
            Process::Keeper(node) => &mut self.hosts.get_mut(&node)?.keeper,
            Process::Arbiter => &mut self.server.arbiter,
        })
    }

    pub(crate) fn is_powered(&self, end: End) -> bool {
        match end {
            End::Node(node) => self.hosts.get(&node).is_some_and(|host| host.unpowered == 0),
            End::Arbiter => self.server.unpowered == 0,
        }
    }

    /// The process with the earliest alarm; `None` for it is the gateway.
    pub(super) fn next_alarm(&self) -> Option<(Time, Option<Process>)> {
        let mut best: Option<(Time, Option<Process>)> = None;
        let mut look = |rings: Option<Time>, process: Option<Process>| {
            if let Some(at) = rings
                && best.is_none_or(|(first, _)| at < first)
            {
                best = Some((at, process));
            }
        };
        look(self.server.arbiter.rings(), Some(Process::Arbiter));
        look(self.gateway.slot.rings(), None);
        for (node, host) in self.hosts.iter() {
            look(host.node.rings(), Some(Process::Node(*node)));
            look(host.device.rings(), Some(Process::Device(*node)));
            look(host.keeper.rings(), Some(Process::Keeper(*node)));
        }
        best
    }

    pub(super) fn wake(&mut self, process: Process) {
        let now = self.now;
        let Some(slot) = self.slot(process) else { return };
        slot.set_alarm(None);
        let spins = slot.spin(now);
        if spins > SPIN_LIMIT {
            self.monitor.report("S10", format!("{process} is in a busy loop"));
            return;
        }
        self.feed(process, Input::Timeout);
    }

    /// Something comes to a process: it waits where the process stands still.
    pub(super) fn input(&mut self, process: Process, life: Option<u64>, input: Input) {
        let hears = match process {
            Process::Node(node) => self.hosts.get_mut(&node).map(|host| host.node.hears(life)),
            Process::Device(node) => self.hosts.get_mut(&node).map(|host| host.device.hears(life)),
            Process::Keeper(node) => self.hosts.get_mut(&node).map(|host| host.keeper.hears(life)),
            Process::Arbiter => Some(self.server.arbiter.hears(life)),
        };
        match hears {
            Some(Hears::Now) => self.feed(process, input),
            Some(Hears::Later) => {
                let Some(slot) = self.slot(process) else { return };
                let full = slot.inbox().len() >= SOCKET_LIMIT;
                if !(full && matches!(input, Input::Beat(_))) {
                    slot.inbox().push_back(input);
                }
            }
            Some(Hears::Never) | None => {}
        }
    }

    /// The process runs, and does everything that follows.
    fn feed(&mut self, process: Process, input: Input) {
        match process {
            Process::Node(node) => self.run_node(node, input),
            Process::Device(node) => self.run_device(node, input),
            Process::Keeper(node) => self.run_keeper(node, input),
            Process::Arbiter => self.run_arbiter(input),
        }
        self.set_alarm(process);
    }

    /// When the deadline of a process is served: never early, and a little late. What a node says
    /// of itself changes with time at its deadlines only.
    fn set_alarm(&mut self, process: Process) {
        let (now, seed) = (self.now, self.scenario.seed);
        match process {
            Process::Arbiter => self.server.arbiter.wind(now, seed, Arbiter::deadline),
            Process::Node(node) => {
                let Some(host) = self.hosts.get_mut(&node) else { return };
                host.node.wind(now, seed, Node::deadline);
            }
            Process::Device(node) => {
                let Some(host) = self.hosts.get_mut(&node) else { return };
                host.device.wind(now, seed, Device::deadline);
            }
            Process::Keeper(node) => {
                let Some(host) = self.hosts.get_mut(&node) else { return };
                host.keeper.wind(now, seed, Keeper::deadline);
            }
        }
    }

    /// When a deadline of a clock is served.
    pub(super) fn served_at(&self, clock: Clock, local: Time) -> Time {
        served_at(self.now, self.scenario.seed, clock, local)
    }

    /// An action of a process is about to be done: false if the process dies before it.
    pub(super) fn may_act(&mut self, process: Process) -> bool {
        let Some(slot) = self.slot(process) else { return false };
        let Some(left) = slot.kill_after() else { return true };
        if *left == 0 {
            self.kill(process);
            return false;
        }
        *left -= 1;
        true
    }

    /// The machine is on: everything on it is started.
    pub(crate) fn boot(&mut self, end: End) {
        let boot = BootId(u128::from(self.chance(1, u64::MAX - 1)));
        let after = if self.now == Time::ZERO { 1000 } else { 1_000_000 };
        let booted_at = self.now + Duration::from_micros(after);
        match end {
            End::Arbiter => {
                self.server.boot = boot;
                self.server.booted_at = booted_at;
                self.start_later(Process::Arbiter, after, 300_000);
            }
            End::Node(node) => {
                if let Some(host) = self.hosts.get_mut(&node) {
                    host.boot = boot;
                    host.booted_at = booted_at;
                }
                self.start_later(Process::Node(node), after + 2000, 400_000);
                self.start_later(Process::Device(node), after + 2000, 400_000);
            }
        }
    }

    pub(crate) fn start_later(&mut self, process: Process, from_us: u64, spread_us: u64) {
        let pause = self.pause(from_us, from_us + spread_us);
        self.put_in(pause, Delivery::Start(process));
    }

    pub(super) fn start(&mut self, process: Process) {
        let powered = self.is_powered(process.host()) && self.now >= self.booted_at(process);
        let configured = match process.host() {
            End::Node(node) => self.generation_of(node).nodes.contains(&node.0),
            End::Arbiter => true,
        };
        let Some(slot) = self.slot(process) else { return };
        if slot.is_running() || slot.down() > 0 || !powered || !configured {
            return;
        }
        let life = self.new_life();
        self.trace.line(self.now, process, format_args!("starts"));
        match process {
            Process::Node(node) => self.start_node(node, life),
            Process::Device(node) => self.start_device(node, life),
            Process::Keeper(node) => self.start_keeper(node, life),
            Process::Arbiter => self.start_arbiter(life),
        }
        self.set_alarm(process);
    }

    fn booted_at(&self, process: Process) -> Time {
        match process.host() {
            End::Arbiter => self.server.booted_at,
            End::Node(node) => self.hosts.get(&node).map_or(Time::NEVER, |host| host.booted_at),
        }
    }

    fn start_node(&mut self, node: NodeId, life: u64) {
        let (now, seed) = (self.now, self.scenario.seed);
        let Some(host) = self.hosts.get_mut(&node) else { return };
        host.identity = Identity {
            instance: InstanceId(hash(seed, 0x696e, life)),
            boot: host.boot,
            seed: hash(seed, 0x7365, life),
        };
        host.node.start_empty(life, Clock::new(now, host.skew_ppm));
        host.plugged = false;
        self.greet_keeper(node);
    }

    fn start_device(&mut self, node: NodeId, life: u64) {
        let (now, seed) = (self.now, self.scenario.seed);
        let forgotten = self.sabotage == Some(Sabotage::PinForgotten);
        let Some(host) = self.hosts.get_mut(&node) else { return };
        let config = qdevice::core::Config {
            instance: InstanceId(hash(seed, 0x696e, life)),
            seed: hash(seed, 0x7365, life),
            host: HostKind::Builtin,
            pinned: host.pin.filter(|_| !forgotten),
            arbiter: "arbiter:5403".to_owned(),
        };
        host.device.start(Device::new(config), life, Clock::new(now, host.skew_ppm));
        host.plugged = false;
        let pause = self.pause(500, 50_000);
        self.put_in(pause, Delivery::Plug(node));
    }

    /// How the arbiter is set.
    pub fn arbiter_settings() -> Settings {
        Settings::default()
    }

    fn start_arbiter(&mut self, life: u64) {
        if self.sabotage == Some(Sabotage::GrantForgotten) {
            self.server.journal.pop();
        }
        let unknown = self.sabotage == Some(Sabotage::NoQuarantine);
        let made_up = unknown.then(|| self.made_up_record());
        let server = &mut self.server;
        server.opened += 1;
        let memory = Memory {
            arbiter: server.id,
            boot: server.opened,
            host_boot: server.boot,
            clock_s: super::START_S + self.now.0 / 1_000_000,
            grants: server.journal.last().cloned().or(made_up).into_iter().collect(),
            fencing: server.fencing.clone().into_iter().collect(),
        };
        let clock = Clock::new(self.now, server.skew_ppm);
        let arbiter = Arbiter::new(clock.at(self.now), Self::arbiter_settings(), memory);
        server.arbiter.start(arbiter, life, clock);
    }

    /// Sabotage: a record of a grant that nobody has, written in this boot of the host.
    fn made_up_record(&self) -> GrantRecord {
        GrantRecord {
            cluster: self.cluster.clone(),
            grant: GrantId { arbiter: self.server.id, boot: 0, epoch: Epoch(0) },
            view: ViewId::default(),
            nodes: BTreeSet::new(),
            lease_ms: 0,
            bound_ms: Some(0),
            host_boot: self.server.boot,
        }
    }

    /// The process is gone at once; the kernel closes what it had open.
    pub(crate) fn kill(&mut self, process: Process) {
        let Some(slot) = self.slot(process) else { return };
        if !slot.is_running() {
            return;
        }
        let life = slot.life();
        self.trace.line(self.now, process, format_args!("is killed"));
        self.settle_writes(process);
        match process {
            Process::Node(node) => {
                let Some(host) = self.hosts.get_mut(&node) else { return };
                if let Some(machine) = host.node.machine.take() {
                    host.ghost = Some((machine, host.node.clock));
                }
                host.node.stop();
                if std::mem::take(&mut host.plugged) {
                    self.local(process, Process::Device(node), Input::HostGone);
                }
            }
            Process::Device(node) => {
                let Some(host) = self.hosts.get_mut(&node) else { return };
                host.device.stop();
                host.stream = None;
                if std::mem::take(&mut host.plugged) {
                    let gone = Input::Node(NodeEvent::DeviceDown);
                    self.local(process, Process::Node(node), gone);
                }
                self.close_streams(process, life);
            }
            Process::Keeper(node) => {
                if let Some(host) = self.hosts.get_mut(&node) {
                    host.keeper.stop();
                    host.children.clear();
                    host.zombies.clear();
                    let daemon = host.node.life;
                    let pause = self.pause(50_000, 100_000);
                    self.put_in(pause, Delivery::Greet(node, daemon));
                }
            }
            Process::Arbiter => {
                self.server.arbiter.stop();
                self.close_streams(process, life);
            }
        }
    }

    /// A device finds its node's socket.
    pub(super) fn plug(&mut self, node: NodeId) {
        let Some(host) = self.hosts.get_mut(&node) else { return };
        if host.plugged || host.node.machine.is_none() || !host.device.is_running() {
            return;
        }
        host.plugged = true;
        self.local(Process::Device(node), Process::Node(node), Input::DevicePlugged);
    }

    /// A process that stood still goes on: by chance a timer or its sockets come first.
    pub(crate) fn unfreeze(&mut self, process: Process) {
        let Some(slot) = self.slot(process) else { return };
        if slot.freeze(false) > 0 || !slot.is_running() {
            return;
        }
        let life = slot.life();
        self.trace.line(self.now, process, format_args!("goes on"));
        let (now, timer_first) = (self.now, self.chance(0, 1) == 1);
        if let Some(slot) = self.slot(process)
            && let Some(at) = slot.alarm().filter(|at| *at <= now && !timer_first)
        {
            slot.set_alarm(Some(at.max(now + Duration::from_micros(400))));
        }
        let pause = self.pause(0, 300);
        self.put_in(pause, Delivery::Thaw(process, life));
    }

    pub(super) fn thaw(&mut self, process: Process, life: u64) {
        let Some(slot) = self.slot(process) else { return };
        if !slot.is_running() || slot.is_frozen() || slot.life() != life {
            return;
        }
        let Some(input) = slot.inbox().pop_front() else { return };
        if !slot.inbox().is_empty() {
            let pause = self.pause(1, 50);
            self.put_in(pause, Delivery::Thaw(process, life));
        }
        self.feed(process, input);
    }

    /// A write is done: it is durable, and the process is told.
    pub(super) fn written(&mut self, process: Process, life: u64, write: Write) {
        self.commit(process, &write);
        let input = match write {
            Write::Node(number, _) => Input::Node(NodeEvent::Persisted(number)),
            Write::Arbiter(token, _) | Write::Fencing(token, _) => {
                Input::Arbiter(ArbiterEvent::Persisted(token))
            }
            Write::Mark(mark) => Input::Keeper(KeeperEvent::MarkStored { mark }),
        };
        self.input(process, Some(life), input);
    }

    pub(super) fn commit(&mut self, process: Process, write: &Write) {
        match (write, process) {
            (Write::Node(_, state), Process::Node(node)) => {
                self.monitor.node_stored(node, state.epoch, state.forgotten);
                if let Some(host) = self.hosts.get_mut(&node) {
                    host.stored = state.clone();
                }
            }
            (Write::Arbiter(_, record), _) => {
                self.monitor.granted(self.now, record);
                self.trace.line(
                    self.now,
                    process,
                    format_args!(
                        "has stored the grant of epoch {} to {} {:?}",
                        record.grant.epoch, record.view, record.nodes
                    ),
                );
                self.server.journal.push(record.clone());
            }
            (Write::Fencing(_, record), _) => {
                for off in &record.off {
                    self.check_off(off.node, off.boot);
                }
                self.server.fencing = Some(record.clone());
            }
            (Write::Node(..) | Write::Mark(_), _) => {}
        }
    }

    /// Starts a write: it takes its time, or fails.
    pub(super) fn write(&mut self, process: Process, write: Write) {
        let often = self.chance(0, 49);
        let us = if often == 0 { self.chance(20_000, 100_000) } else { self.chance(200, 5000) };
        let Some(slot) = self.slot(process) else { return };
        let life = slot.life();
        let disk = match process.host() {
            End::Arbiter => &mut self.server.disk,
            End::Node(node) => match self.hosts.get_mut(&node) {
                Some(host) => &mut host.disk,
                None => return,
            },
        };
        let slowest = disk.slow_ms.iter().max().copied().unwrap_or(0) * 1000;
        let pause = Duration::from_micros(us.max(slowest));
        let delivery = if disk.full > 0 {
            let input = match write {
                Write::Node(number, _) => Input::Node(NodeEvent::PersistFailed(number)),
                Write::Arbiter(token, _) | Write::Fencing(token, _) => {
                    Input::Arbiter(ArbiterEvent::PersistFailed(token))
                }
                Write::Mark(mark) => {
                    let error = "the disk is full".to_owned();
                    Input::Keeper(KeeperEvent::MarkFailed { mark, error })
                }
            };
            Delivery::Input(process, Some(life), input)
        } else {
            Delivery::Written { process, life, write: Box::new(write) }
        };
        self.put_in(pause, delivery);
    }

    /// The device hears that its node is gone, or that there is none.
    pub(super) fn device_event(&mut self, node: NodeId, event: DeviceEvent) {
        self.local(Process::Device(node), Process::Device(node), Input::Device(event));
    }
}
