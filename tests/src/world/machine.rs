//! Machines and the processes on them.

use std::collections::VecDeque;
use std::time::Duration;

use node::core::{Event as NodeEvent, Identity, Node, Stored};
use node::keeper::core::{Core as Keeper, Event as KeeperEvent};
use node::keeper::message::Report;
use protocol::host::FromHost;
use protocol::ids::{ArbiterId, BootId, Epoch, InstanceId};
use protocol::time::Time;
use qdevice::core::{Device, Event as DeviceEvent};
use qnetd::core::{Arbiter, Event as ArbiterEvent, FencingRecord, GrantRecord, Token};

use super::keeper::Keeping;
use crate::clock::{Clock, hash};
use crate::network::Segment;

/// What comes to a process.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    /// Its deadline.
    Timeout,
    /// A datagram, to a node.
    Beat(Vec<u8>),
    /// A fact, to a node.
    Node(NodeEvent),
    /// A word of its keeper, to a node.
    Report(Box<Report>),
    /// What its keeper says of itself, to a node: nothing runs, and nothing may.
    KeeperState { idle: bool },
    /// A child has ended, to a keeper.
    ChildEnded,
    /// A device has connected to a node's local socket.
    DevicePlugged,
    /// A word of its node, to a device.
    Host(FromHost),
    /// The local socket is closed, to a device.
    HostGone,
    /// A fact, to a device.
    Device(DeviceEvent),
    /// A part of a stream, to a device or the arbiter.
    Segment(u64, Segment),
    /// A stream is established, to a device.
    Opened(u64),
    /// A stream was reset.
    Broken(u64),
    /// A fact, to the arbiter.
    Arbiter(ArbiterEvent),
    /// A fact, to a keeper.
    Keeper(KeeperEvent),
}

/// A write that is under way.
#[derive(Clone, Debug)]
pub(crate) enum Write {
    /// A node's.
    Node(u64, Stored),
    /// The arbiter's.
    Arbiter(Token, GrantRecord),
    /// The arbiter's, of fencing.
    Fencing(Token, FencingRecord),
    /// A keeper's may-run mark.
    Mark(u64),
}

/// One process: its machine while it runs.
#[derive(Debug)]
pub(crate) struct Slot<M> {
    /// There is a process. A node's has no machine before its keeper has answered.
    pub(crate) up: bool,
    pub(crate) machine: Option<M>,
    /// Names this life; never used again.
    pub(crate) life: u64,
    pub(crate) clock: Clock,
    /// So many faults hold it still.
    pub(crate) frozen: u32,
    /// What came while it stood still.
    pub(crate) inbox: VecDeque<Input>,
    /// World time at which its deadline is served.
    pub(crate) alarm: Option<Time>,
    /// Timeouts in a row without any progress of time.
    pub(crate) spins: (Time, u32),
    /// It is killed after so many more actions.
    pub(crate) kill_after: Option<u32>,
    /// It is held down by so many faults.
    pub(crate) down: u32,
    /// Something has happened to its machine since somebody looked.
    pub(super) touched: bool,
    /// What its machine says of itself stays the same until then, if nothing happens to it.
    pub(super) steady_until: Time,
}

impl<M> Slot<M> {
    pub(crate) fn empty() -> Self {
        Self {
            up: false,
            machine: None,
            life: 0,
            clock: Clock::new(Time::ZERO, 0),
            frozen: 0,
            inbox: VecDeque::new(),
            alarm: None,
            spins: (Time::ZERO, 0),
            kill_after: None,
            down: 0,
            touched: false,
            steady_until: Time::NEVER,
        }
    }

    /// What its machine says of itself may be something new: for who looks after every step.
    pub(crate) fn take_news(&mut self, now: Time) -> bool {
        std::mem::take(&mut self.touched) || now >= self.steady_until
    }

    /// When its deadline is served; never while it stands still.
    pub(super) fn rings(&self) -> Option<Time> {
        self.alarm.filter(|_| self.frozen == 0)
    }

    /// Whether something that comes for this life, or for any, is heard.
    pub(super) fn hears(&self, life: Option<u64>) -> Hears {
        if !self.up || life.is_some_and(|life| life != self.life) {
            Hears::Never
        } else if self.frozen > 0 || !self.inbox.is_empty() {
            Hears::Later
        } else {
            Hears::Now
        }
    }

    /// Sets the alarm: never before the deadline, and a little late.
    pub(super) fn wind(&mut self, now: Time, seed: u64, deadline: impl FnOnce(&M) -> Option<Time>) {
        let deadline = self.machine.as_ref().and_then(deadline);
        let Some(local) = deadline.filter(|at| *at != Time::NEVER) else {
            (self.alarm, self.steady_until) = (None, Time::NEVER);
            return;
        };
        let due = self.clock.when(local);
        self.alarm = Some(due.max(now) + lateness(seed, local));
        self.steady_until = due;
    }

    pub(crate) fn start(&mut self, machine: M, life: u64, clock: Clock) {
        self.start_empty(life, clock);
        self.machine = Some(machine);
    }

    pub(crate) fn start_empty(&mut self, life: u64, clock: Clock) {
        self.up = true;
        self.touched = true;
        self.life = life;
        self.clock = clock;
        self.alarm = None;
        self.inbox.clear();
        self.kill_after = None;
    }

    pub(crate) fn stop(&mut self) {
        self.up = false;
        self.machine = None;
        self.touched = true;
        self.steady_until = Time::NEVER;
        self.alarm = None;
        self.inbox.clear();
        self.kill_after = None;
    }
}

/// When a deadline of a clock is served: never early, and a little late.
pub(super) fn served_at(now: Time, seed: u64, clock: Clock, local: Time) -> Time {
    clock.when(local).max(now) + lateness(seed, local)
}

fn lateness(seed: u64, local: Time) -> Duration {
    Duration::from_micros(hash(seed, 0x6c61, local.0) % 300)
}

/// What becomes of something that comes to a process.
#[derive(Clone, Copy, Debug)]
pub(super) enum Hears {
    /// It runs, and takes it in.
    Now,
    /// It stands still, or something that came before is not taken in yet.
    Later,
    /// It is gone.
    Never,
}

/// What is the same for all processes, whatever runs in them.
pub(crate) trait Running {
    fn is_running(&self) -> bool;
    fn life(&self) -> u64;
    fn is_frozen(&self) -> bool;
    fn inbox(&mut self) -> &mut VecDeque<Input>;
    fn alarm(&self) -> Option<Time>;
    fn set_alarm(&mut self, at: Option<Time>);
    fn kill_after(&mut self) -> &mut Option<u32>;
    fn hold(&mut self, begins: bool) -> u32;
    fn freeze(&mut self, begins: bool) -> u32;
    fn down(&self) -> u32;
    fn spin(&mut self, now: Time) -> u32;
}

impl<M> Running for Slot<M> {
    fn is_running(&self) -> bool {
        self.up
    }
    fn life(&self) -> u64 {
        self.life
    }
    fn is_frozen(&self) -> bool {
        self.frozen > 0
    }
    fn inbox(&mut self) -> &mut VecDeque<Input> {
        &mut self.inbox
    }
    fn alarm(&self) -> Option<Time> {
        self.alarm
    }
    fn set_alarm(&mut self, at: Option<Time>) {
        self.alarm = at;
    }
    fn kill_after(&mut self) -> &mut Option<u32> {
        &mut self.kill_after
    }
    fn hold(&mut self, begins: bool) -> u32 {
        self.down = if begins { self.down + 1 } else { self.down.saturating_sub(1) };
        self.down
    }
    fn freeze(&mut self, begins: bool) -> u32 {
        self.frozen = if begins { self.frozen + 1 } else { self.frozen.saturating_sub(1) };
        self.frozen
    }
    fn down(&self) -> u32 {
        self.down
    }
    fn spin(&mut self, now: Time) -> u32 {
        self.spins = if self.spins.0 == now { (now, self.spins.1 + 1) } else { (now, 0) };
        self.spins.1
    }
}

/// A child of a keeper: the service, once it is alive.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Child {
    /// Never used again.
    pub(crate) pid: i32,
    pub(crate) epoch: Epoch,
    /// It has executed the service.
    pub(crate) alive: bool,
    /// SIGTERM does nothing.
    pub(crate) stubborn: bool,
}

/// Faults of a machine's disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct DiskFaults {
    pub(crate) full: u32,
    pub(crate) slow_ms: Vec<u64>,
}

/// A node's machine.
#[derive(Debug)]
pub(crate) struct Host {
    /// Nothing starts before the machine has booted.
    pub(crate) booted_at: Time,
    /// So many faults keep it without power.
    pub(crate) unpowered: u32,
    pub(crate) skew_ppm: i64,
    pub(crate) boot: BootId,
    pub(crate) node: Slot<Node>,
    pub(crate) device: Slot<Device>,
    pub(crate) keeper: Slot<Keeper>,
    /// The device is connected to the node's local socket.
    pub(crate) plugged: bool,
    pub(crate) stream: Option<u64>,
    pub(crate) stored: Stored,
    pub(crate) pin: Option<ArbiterId>,
    pub(crate) disk: DiskFaults,
    /// The generation of the configuration that its daemons run with.
    pub(crate) generation: usize,
    pub(crate) identity: Identity,
    pub(crate) keeping: Keeping,
    pub(crate) children: Vec<Child>,
    /// Children that have ended and were not collected.
    pub(crate) zombies: Vec<i32>,
    pub(crate) stubborn: u32,
    /// All of it stands still.
    pub(crate) paused: u32,
    /// A daemon that was killed: its votes count for the keeper until they run out.
    pub(crate) ghost: Option<(Node, Clock)>,
    /// When the machine was last entitled, or excused, or had nothing running.
    pub(crate) entitled_at: Time,
    pub(crate) petted_at: Time,
    /// When the newest word arrives from each of its processes to each.
    pub(super) channels: [[Time; 3]; 3],
}

impl Host {
    pub(crate) fn new(skew_ppm: i64) -> Self {
        Self {
            booted_at: Time::ZERO,
            unpowered: 0,
            skew_ppm,
            boot: BootId(0),
            node: Slot::empty(),
            device: Slot::empty(),
            keeper: Slot::empty(),
            plugged: false,
            stream: None,
            stored: Stored::default(),
            pin: None,
            disk: DiskFaults::default(),
            generation: 1,
            identity: Identity { instance: InstanceId(0), boot: BootId(0), seed: 0 },
            keeping: Keeping::default(),
            children: Vec::new(),
            zombies: Vec::new(),
            stubborn: 0,
            paused: 0,
            ghost: None,
            entitled_at: Time::ZERO,
            petted_at: Time::ZERO,
            channels: [[Time::ZERO; 3]; 3],
        }
    }

    /// The service is alive here.
    pub(crate) fn serves(&self) -> bool {
        self.children.iter().any(|child| child.alive)
    }
}

/// The arbiter's machine.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) unpowered: u32,
    /// Nothing starts before the machine has booted.
    pub(crate) booted_at: Time,
    pub(crate) skew_ppm: i64,
    pub(crate) boot: BootId,
    pub(crate) arbiter: Slot<Arbiter>,
    pub(crate) id: ArbiterId,
    /// How often the state directory has been opened.
    pub(crate) opened: u32,
    pub(crate) journal: Vec<GrantRecord>,
    pub(crate) fencing: Option<FencingRecord>,
    pub(crate) disk: DiskFaults,
}

impl Server {
    pub(crate) fn new(seed: u64, skew_ppm: i64) -> Self {
        Self {
            unpowered: 0,
            booted_at: Time::ZERO,
            skew_ppm,
            boot: BootId(0),
            arbiter: Slot::empty(),
            id: ArbiterId(u128::from(seed) << 64 | 1),
            opened: 0,
            journal: Vec::new(),
            fencing: None,
            disk: DiskFaults::default(),
        }
    }
}
