//! What a keeper does to the world, and what a node's daemon makes of its keeper: the shell's part
//! of the conversation, in its order.

use std::collections::BTreeMap;
use std::time::Duration;

use node::core::{Event as NodeEvent, Node};
use node::keeper::core::{Action, Core, ENTITLEMENT_LIMIT, Event, Job, Settings};
use node::keeper::message::{ExitStatus, Launch, Report};
use protocol::ids::{Epoch, NodeId};
use protocol::time::Time;
use protocol::vote::WatchdogClass;

use super::machine::{Child, Input, Write};
use super::{Delivery, World};
use crate::clock::Clock;
use crate::sabotage::Sabotage;
use crate::scenario::{End, Process};

/// A long entitlement is said again this often, as the daemon does.
const REFRESH: Duration = Duration::from_secs(10);
/// The variable in which a start carries its epoch.
const EPOCH: &str = "HAGUARD_EPOCH";

/// What a daemon knows of its keeper.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keeping {
    /// The start that was ordered and has neither ended nor been refused.
    started: Option<u64>,
    /// What the keeper was told last, and when, by the node's clock.
    entitled: Option<(Time, Time)>,
}

impl World {
    pub(super) fn start_keeper(&mut self, node: NodeId, life: u64) {
        let now = self.now;
        let hardware = self.scenario.topology.watchdog == WatchdogClass::A;
        let Some(host) = self.hosts.get_mut(&node) else { return };
        let clock = Clock::new(now, host.skew_ppm);
        let watchdog = self.scenario.topology.watchdog(node);
        let settings = Settings { hardware, watchdog, left: None };
        host.petted_at = now;
        host.keeper.start(Core::new(clock.at(now), settings), life, clock);
        self.act_keeper(node);
    }

    /// One turn of the keeper's loop: children first, then what came, then what is due, and
    /// children again.
    pub(super) fn run_keeper(&mut self, node: NodeId, input: Input) {
        let event = match input {
            Input::Timeout | Input::ChildEnded => None,
            Input::Keeper(event) => Some(event),
            Input::Beat(_)
            | Input::Node(_)
            | Input::Report(_)
            | Input::KeeperState { .. }
            | Input::DevicePlugged
            | Input::Host(_)
            | Input::HostGone
            | Input::Device(_)
            | Input::Segment(..)
            | Input::Opened(_)
            | Input::Broken(_)
            | Input::Arbiter(_) => return,
        };
        self.reap(node);
        if let Some(event) = event.and_then(|event| self.spoil(event)) {
            self.tell_keeper_core(node, event);
        }
        self.tell_keeper_core(node, Event::Timeout);
        self.reap(node);
    }

    /// Sabotage of what the keeper hears.
    fn spoil(&self, event: Event) -> Option<Event> {
        if self.sabotage != Some(Sabotage::KeeperIgnoresDeadline) {
            return Some(event);
        }
        if let Event::Entitle { until } = event {
            return Some(Event::Entitle { until: until + ENTITLEMENT_LIMIT });
        }
        Some(event).filter(|event| *event != Event::Revoke)
    }

    fn tell_keeper_core(&mut self, node: NodeId, event: Event) {
        let now = self.now;
        let Some(host) = self.hosts.get_mut(&node) else { return };
        let local = host.keeper.clock.at(now);
        let Some(core) = &mut host.keeper.machine else { return };
        core.handle(local, event);
        self.core_steps += 1;
        self.act_keeper(node);
    }

    fn act_keeper(&mut self, node: NodeId) {
        while let Some(action) =
            self.hosts.get_mut(&node).and_then(|host| host.keeper.machine.as_mut()?.next_action())
        {
            if !self.may_act(Process::Keeper(node)) {
                return;
            }
            self.do_keeper(node, action);
        }
    }

    /// Collects children that have ended; then the kernel may know of none at all.
    fn reap(&mut self, node: NodeId) {
        let Some(host) = self.hosts.get_mut(&node) else { return };
        for pid in std::mem::take(&mut host.zombies) {
            self.tell_keeper_core(node, Event::Reaped { pid, status: ExitStatus::Signal(15) });
        }
        if self.hosts.get(&node).is_some_and(|host| host.children.is_empty()) {
            self.tell_keeper_core(node, Event::NoChildren);
        }
    }

    fn do_keeper(&mut self, node: NodeId, action: Action) {
        let me = Process::Keeper(node);
        match action {
            Action::StoreMark { mark, until: _, undos: _ } => self.write(me, Write::Mark(mark)),
            // Nobody reads the mark: a keeper dies only with its machine here.
            Action::ClearMark => {}
            Action::Spawn { job, launch, until } => self.spawn(node, job, &launch, until),
            Action::TerminateOne { pid } => self.signal(node, Some(pid), false),
            Action::KillOne { pid } => self.signal(node, Some(pid), true),
            Action::Terminate => {
                self.trace.line(self.now, me, format_args!("terminates the service"));
                self.signal(node, None, false);
            }
            Action::Kill => self.signal(node, None, true),
            Action::EndOrphans => self.later(node, Event::OrphansLeft { count: 0 }),
            Action::OpenDevice => self.later(node, Event::Opened),
            Action::Pet => {
                if let Some(host) = self.hosts.get_mut(&node) {
                    host.petted_at = self.now;
                }
                self.later(node, Event::Petted);
            }
            Action::Disarm => self.later(node, Event::Disarmed),
            Action::KillDaemons => {
                self.kill(Process::Node(node));
                self.start_later(Process::Node(node), 100_000, 100_000);
            }
            Action::Reboot { reason } => {
                self.trace.line(self.now, me, format_args!("resets the machine: {reason}"));
                self.power(End::Node(node), false, false);
                self.power(End::Node(node), true, false);
            }
            Action::ReportState => {
                let now = self.now;
                let Some(host) = self.hosts.get(&node) else { return };
                let local = host.keeper.clock.at(now);
                let Some(core) = &host.keeper.machine else { return };
                let idle = core.stopped_proven() && core.entitled(local) == Duration::ZERO;
                self.local(me, Process::Node(node), Input::KeeperState { idle });
            }
            Action::Report(report) => {
                if let Report::Forced { reason } = &report {
                    self.trace.line(self.now, me, format_args!("forces the end: {reason}"));
                }
                self.local(me, Process::Node(node), Input::Report(Box::new(report)));
            }
            Action::Exit => self.kill(me),
        }
    }

    /// What the keeper's own shell tells it right after an action.
    fn later(&mut self, node: NodeId, event: Event) {
        self.local(Process::Keeper(node), Process::Keeper(node), Input::Keeper(event));
    }

    /// A fork; the child looks at the clock again right before it executes.
    fn spawn(&mut self, node: NodeId, job: Job, launch: &Launch, until: Option<Time>) {
        let serial = match job {
            Job::Start(serial) | Job::Undo(serial) => serial,
        };
        self.pids += 1;
        let pid = self.pids;
        let epoch = launch.env.get(EPOCH).and_then(|text| text.parse().ok()).unwrap_or(0);
        let Some(host) = self.hosts.get_mut(&node) else { return };
        let stubborn = host.stubborn > 0;
        host.children.push(Child { pid, epoch: Epoch(epoch), alive: false, stubborn });
        let until = until.unwrap_or(Time::NEVER);
        let pause = self.pause(100, 5000);
        self.put_in(pause, Delivery::Exec { node, pid, until });
        self.trace.line(
            self.now,
            Process::Keeper(node),
            format_args!("forks start {serial} of epoch {epoch}"),
        );
        self.later(node, Event::Spawned { job, pid });
    }

    pub(super) fn exec(&mut self, node: NodeId, pid: i32, until: Time) {
        let now = self.now;
        let Some(host) = self.hosts.get_mut(&node) else { return };
        if host.paused > 0 {
            self.put_in(Duration::from_millis(1), Delivery::Exec { node, pid, until });
            return;
        }
        let in_time = host.keeper.clock.at(now) < until;
        let Some(child) = host.children.iter_mut().find(|child| child.pid == pid) else { return };
        if !in_time {
            self.child_ends(node, pid);
            return;
        }
        child.alive = true;
        let epoch = child.epoch;
        self.monitor.service_started(node, epoch);
        self.trace.line(now, Process::Keeper(node), format_args!("runs the service"));
    }

    /// SIGTERM or SIGKILL to one child or to all.
    fn signal(&mut self, node: NodeId, only: Option<i32>, kill: bool) {
        let Some(host) = self.hosts.get(&node) else { return };
        let hit = host.children.iter().filter(|child| only.is_none_or(|pid| pid == child.pid));
        let hit: Vec<i32> =
            hit.filter(|child| kill || !child.stubborn).map(|child| child.pid).collect();
        for pid in hit {
            let pause = if kill { self.pause(500, 15_000) } else { self.pause(1000, 800_000) };
            self.put_in(pause, Delivery::ServiceEnds { node, pid });
        }
    }

    pub(super) fn child_ends(&mut self, node: NodeId, pid: i32) {
        let Some(host) = self.hosts.get_mut(&node) else { return };
        let before = host.children.len();
        host.children.retain(|child| child.pid != pid);
        if host.children.len() < before {
            host.zombies.push(pid);
            self.trace.line(self.now, Process::Keeper(node), format_args!("child {pid} ends"));
            self.local(Process::Keeper(node), Process::Keeper(node), Input::ChildEnded);
        }
    }

    /// A daemon that starts finds its keeper, or starts one, and asks for its state.
    pub(super) fn greet_keeper(&mut self, node: NodeId) {
        let keeper = Process::Keeper(node);
        self.start(keeper);
        let me = Process::Node(node);
        self.local(me, keeper, Input::Keeper(Event::Connected));
        self.local(me, keeper, Input::Keeper(Event::Hello));
    }

    /// A keeper that was ending is gone: a daemon that waits for it starts another.
    pub(super) fn greet_again(&mut self, node: NodeId, life: u64) {
        let Some(host) = self.hosts.get(&node) else { return };
        if host.node.up && host.node.life == life && host.node.machine.is_none() {
            self.greet_keeper(node);
        }
    }

    /// The daemon starts its core only once its keeper has proven that nothing runs.
    pub(super) fn hear_state(&mut self, node: NodeId, idle: bool) {
        if idle {
            self.start_core(node);
        } else {
            self.order(node, Event::Stop);
        }
    }

    fn start_core(&mut self, node: NodeId) {
        let config = self.node_config(node);
        let now = self.now;
        let Some(host) = self.hosts.get_mut(&node) else { return };
        if host.node.machine.is_some() {
            return;
        }
        let (clock, stored) = (host.node.clock, host.stored.clone());
        host.keeping = Keeping::default();
        host.node.machine = Some(Node::new(clock.at(now), config, host.identity, stored));
        if self.scenario.topology.gateway {
            self.handle_node(node, NodeEvent::Gateway { configured: true });
        }
        self.handle_node(node, NodeEvent::KeeperReady { running: false });
        let pause = self.pause(500, 50_000);
        self.put_in(pause, Delivery::Plug(node));
    }

    /// What the daemon makes of a report.
    pub(super) fn hear_report(&mut self, node: NodeId, report: Report) {
        let Some(host) = self.hosts.get_mut(&node) else { return };
        if host.node.machine.is_none() {
            if report == Report::StoppedProven {
                self.start_core(node);
            }
            return;
        }
        let event = match report {
            Report::Started { serial, pid: _ } => NodeEvent::Started { serial },
            Report::Exited { serial, status: _ } => {
                host.keeping.started.take_if(|started| *started == serial);
                NodeEvent::Exited { serial }
            }
            Report::Refused { serial: Some(serial), reason } => {
                host.keeping.started.take_if(|started| *started == serial);
                let me = Process::Node(node);
                self.trace.line(self.now, me, format_args!("is refused start {serial}: {reason}"));
                NodeEvent::Exited { serial }
            }
            Report::StoppedProven if host.keeping.started.is_none() => {
                if let Some((until, _)) = host.keeping.entitled {
                    let until = self.to_keeper(node, until);
                    self.order(node, Event::Entitle { until });
                }
                NodeEvent::Stopped
            }
            Report::Refused { serial: None, .. }
            | Report::StoppedProven
            | Report::Forced { .. }
            | Report::State(_) => return,
        };
        self.handle_node(node, event);
    }

    /// Services may run until then; not at all, if it is now or earlier.
    pub(super) fn entitle_keeper(&mut self, node: NodeId, until: Time) {
        let now = self.now;
        let Some(host) = self.hosts.get_mut(&node) else { return };
        let local = host.node.clock.at(now);
        if until > local {
            host.keeping.entitled = Some((until, local));
            let until = self.to_keeper(node, until);
            self.order(node, Event::Entitle { until });
        } else {
            host.keeping.entitled = None;
            self.order(node, Event::Revoke);
        }
    }

    /// Says a long entitlement again, which the keeper has cut to its limit.
    pub(super) fn refresh_keeper(&mut self, node: NodeId) {
        let now = self.now;
        let Some(host) = self.hosts.get(&node) else { return };
        let local = host.node.clock.at(now);
        let Some((until, said)) = host.keeping.entitled else { return };
        if local.since(said) >= REFRESH && until.since(local) > ENTITLEMENT_LIMIT / 2 {
            self.entitle_keeper(node, until);
        }
    }

    pub(super) fn start_service(&mut self, node: NodeId, serial: u64, epoch: Epoch, until: Time) {
        let until = self.to_keeper(node, until);
        let Some(host) = self.hosts.get_mut(&node) else { return };
        host.keeping.started = Some(serial);
        let env = BTreeMap::from([(EPOCH.to_owned(), epoch.to_string())]);
        let launch = Launch { argv: vec!["service".to_owned()], env };
        self.order(node, Event::Start { serial, launch, undo: None, until });
    }

    pub(super) fn order(&mut self, node: NodeId, event: Event) {
        self.local(Process::Node(node), Process::Keeper(node), Input::Keeper(event));
    }

    /// A time of the node's clock as the keeper reads it.
    fn to_keeper(&self, node: NodeId, time: Time) -> Time {
        let host = self.hosts.get(&node);
        host.map_or(Time::ZERO, |host| host.node.clock.to(&host.keeper.clock, time))
    }
}
