//! The rules that hold after every step, one function each, with the reason why they must.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use protocol::ids::{Epoch, GrantId, NodeId, ViewId};
use protocol::qnet::Grant;
use protocol::status::QuorumState;
use protocol::time::Time;
use protocol::times;
use qnetd::core::GrantRecord;

use crate::scenario::{Claim, End, Expect, How, Scenario};
use crate::world::{Host, Running, World};

/// A broken rule.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Violation {
    /// Which one.
    pub rule: &'static str,
    /// When, in world time.
    pub at: Time,
    /// What was seen.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is broken at {}: {}", self.rule, self.at, self.text)
    }
}

/// What a node reads of itself now.
#[derive(Clone, Debug)]
struct Reading {
    node: NodeId,
    state: QuorumState,
    view: Option<ViewId>,
    epoch: Epoch,
    members: Vec<NodeId>,
}

/// An expectation and whether it has been met.
#[derive(Clone, Debug)]
struct Watched {
    expect: Expect,
    seen: bool,
}

/// What has been seen so far.
#[derive(Debug, Default)]
pub struct Monitor {
    broken: Option<(&'static str, String)>,
    readings: Vec<Reading>,
    epochs: BTreeMap<Epoch, ViewId>,
    stored: BTreeMap<NodeId, Epoch>,
    granted: Option<GrantId>,
    last_start: Option<(NodeId, Epoch)>,
    /// Nodes that have lost what they had stored, and have not learnt it anew.
    forgetful: BTreeSet<NodeId>,
    /// So has the arbiter.
    arbiter_forgot: bool,
    /// Too many voters had forgotten at one time.
    amnesia: bool,
    nodes: usize,
    /// Each node has one.
    device_votes: usize,
    /// Votes that make quorum.
    quorum: usize,
    whole_since: Option<Time>,
    expects: Vec<Watched>,
    /// How often a node became QUORATE.
    pub became_quorate: u64,
    /// How often the service was started.
    pub starts: u64,
    /// How often it was started on another node than before.
    pub takeovers: u64,
}

impl Monitor {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        let expects = scenario.expect.iter().cloned();
        let nodes = scenario.nodes().count();
        let votes = |votes: u32| usize::try_from(votes).unwrap_or(usize::MAX);
        Self {
            nodes,
            device_votes: votes(scenario.topology.device_votes()),
            quorum: votes(scenario.topology.quorum()),
            expects: expects.map(|expect| Watched { expect, seen: false }).collect(),
            ..Self::default()
        }
    }

    /// A rule that is checked where it could be broken.
    pub(crate) fn report(&mut self, rule: &'static str, text: String) {
        self.broken.get_or_insert((rule, text));
    }

    /// Since when every node is QUORATE in one view and the service runs once.
    pub fn whole_since(&self) -> Option<Time> {
        self.whole_since
    }

    /// S4: what a node has stored of epochs never goes back, because it is what keeps an epoch
    /// from being given to two views.
    pub(crate) fn node_stored(&mut self, node: NodeId, epoch: Epoch, forgotten: bool) {
        if !forgotten {
            self.forgetful.remove(&node);
        }
        let before = self.stored.insert(node, epoch).unwrap_or_default();
        if epoch < before {
            self.report("S4", format!("node {node} stores epoch {epoch} after {before}"));
        }
    }

    /// A voter (without a name: the arbiter) has lost what it had stored. Rule S4 counts on what
    /// voters of more than half of the votes remember: once so many have forgotten at the same
    /// time, epochs are not checked any more.
    pub(crate) fn memory_lost(&mut self, of: Option<NodeId>) {
        match of {
            Some(node) => {
                self.stored.remove(&node);
                self.forgetful.insert(node);
            }
            None => {
                self.granted = None;
                self.arbiter_forgot = true;
            }
        }
        let device = if self.arbiter_forgot { self.device_votes } else { 0 };
        self.amnesia |= self.forgetful.len() + device >= self.quorum;
    }

    /// S4: each grant has a higher epoch than the one before it.
    pub(crate) fn granted(&mut self, record: &GrantRecord) {
        self.arbiter_forgot = false;
        let before = self.granted.replace(record.grant);
        if let Some(before) = before
            && before.epoch >= record.grant.epoch
        {
            let text = format!("epoch {} is granted after {}", record.grant.epoch, before.epoch);
            self.report("S4", text);
        }
    }

    /// S3: a grant that is sent is on disk, or a restart would give its vote to somebody else.
    pub(crate) fn grant_sent(&mut self, to: End, grant: Grant, durable: bool) {
        if !durable {
            let epoch = grant.id.epoch;
            self.report("S3", format!("{to} is sent the grant of epoch {epoch}, not on disk"));
        }
    }

    /// S4, S6: each start of the service has an epoch that is not below the one before it, so
    /// that what it writes to can refuse a late predecessor.
    pub(crate) fn service_started(&mut self, node: NodeId, epoch: Epoch) {
        self.starts += 1;
        if let Some((before, old)) = self.last_start.replace((node, epoch)) {
            self.takeovers += u64::from(before != node);
            let back = epoch < old || (epoch == old && before != node);
            if back && !self.amnesia {
                let text = format!("started on {node} in epoch {epoch}, on {before} in {old}");
                self.report("S4", text);
            }
        }
    }

    /// Every rule, after a step.
    ///
    /// # Errors
    /// The first one that is broken.
    pub(crate) fn check(&mut self, world: &mut World) -> Result<(), Violation> {
        let now = world.now();
        let before = std::mem::take(&mut self.readings);
        self.readings = world.hosts.iter().filter_map(|(n, host)| read(now, *n, host)).collect();
        self.count_turns(&before);
        self.one_side();
        self.one_view_an_epoch();
        self.one_service(world);
        self.stopped_in_time(world);
        self.whole(world);
        self.expected(world);
        match self.broken.take() {
            Some((rule, text)) => Err(Violation { rule, at: now, text }),
            None => Ok(()),
        }
    }

    fn count_turns(&mut self, before: &[Reading]) {
        for reading in &self.readings {
            let old = before.iter().find(|old| old.node == reading.node).map(|old| old.state);
            let quorate = reading.state == QuorumState::Quorate;
            self.became_quorate += u64::from(quorate && old != Some(QuorumState::Quorate));
        }
    }

    /// S1: while a node is QUORATE in a view, no node outside that view is QUORATE or FROZEN, and
    /// no node is QUORATE in another view. Two halves that both still read QUORATE in their old
    /// view, before they have noticed a cut, are one side (F1). A process that stands still is
    /// read too: its state is what it would say if it went on now.
    fn one_side(&mut self) {
        let quorate = |reading: &&Reading| reading.state == QuorumState::Quorate;
        for winner in self.readings.iter().filter(quorate) {
            for other in self.readings.iter().filter(|other| other.node != winner.node) {
                let outside = !winner.members.contains(&other.node);
                let two_views = other.state == QuorumState::Quorate && other.view != winner.view;
                if (outside && other.state != QuorumState::Inquorate) || two_views {
                    let text = format!(
                        "node {} is QUORATE in {} while node {} is {:?} (its view: {})",
                        winner.node,
                        name(winner.view),
                        other.node,
                        other.state,
                        name(other.view),
                    );
                    self.broken.get_or_insert(("S1", text));
                    return;
                }
            }
        }
    }

    /// S4: two QUORATE views never have one epoch, or a gateway could not tell which is newer.
    fn one_view_an_epoch(&mut self) {
        if self.amnesia {
            return;
        }
        let quorate = self.readings.iter().filter(|r| r.state == QuorumState::Quorate);
        for reading in quorate {
            let Some(view) = reading.view else { continue };
            let known = *self.epochs.entry(reading.epoch).or_insert(view);
            if known != view {
                let text = format!(
                    "node {} is QUORATE in {view} with epoch {}, which was {known}'s",
                    reading.node, reading.epoch
                );
                self.broken.get_or_insert(("S4", text));
                return;
            }
        }
    }

    /// S6: the service is never alive on two machines. That is what all the rest is for.
    fn one_service(&mut self, world: &World) {
        let alive: Vec<NodeId> =
            world.hosts.iter().filter(|(_, h)| h.serves()).map(|(n, _)| *n).collect();
        if alive.len() > 1 {
            self.report("S6", format!("the service is alive on {alive:?}"));
        }
    }

    /// S5: what others rely on when they wait for the announced bound: services have ended
    /// [`times::STOP_PROOF`] after the entitlement of their node. The entitlement of a killed
    /// daemon lasts as long as the votes that it had counted. A paused machine is excused, because
    /// there no time is a proof (F18).
    fn stopped_in_time(&mut self, world: &mut World) {
        let now = world.now();
        let readings = &self.readings;
        for (node, host) in &mut world.hosts {
            let reading = readings.iter().find(|reading| reading.node == *node);
            let mut entitled = reading.is_some_and(|r| r.state != QuorumState::Inquorate);
            if let Some((ghost, clock)) = &host.ghost {
                if ghost.state(clock.at(now)) == QuorumState::Inquorate {
                    host.ghost = None;
                } else {
                    entitled = true;
                }
            }
            if entitled || !host.serves() || host.paused > 0 {
                host.entitled_at = now;
            } else if now > host.entitled_at + times::STOP_PROOF {
                let text = format!(
                    "the service of node {node} is alive, entitled last at {}",
                    host.entitled_at
                );
                self.broken.get_or_insert(("S5", text));
            }
        }
    }

    /// L1: everything is well.
    fn whole(&mut self, world: &World) {
        let first = self.readings.first();
        let one_view = self.readings.iter().all(|reading| {
            reading.state == QuorumState::Quorate
                && reading.members.len() == self.nodes
                && first.is_some_and(|first| first.view == reading.view)
        });
        let alive: usize = world.hosts.values().map(|host| host.children.len()).sum();
        let serving = world.hosts.values().filter(|host| host.serves()).count();
        let whole = self.readings.len() == self.nodes && one_view && alive == 1 && serving == 1;
        self.whole_since = whole.then(|| self.whole_since.unwrap_or(world.now()));
    }

    fn holds(&self, world: &World, claim: Claim) -> bool {
        let state = |node: NodeId| {
            let reading = self.readings.iter().find(|reading| reading.node == node);
            reading.map_or(QuorumState::Inquorate, |reading| reading.state)
        };
        match claim {
            Claim::Quorate(node) => state(node) == QuorumState::Quorate,
            Claim::Entitled(node) => state(node) != QuorumState::Inquorate,
            Claim::Inquorate(node) => state(node) == QuorumState::Inquorate,
            Claim::Runs(node) => world.hosts.get(&node).is_some_and(|h| h.serves()),
            Claim::Stopped => world.hosts.values().all(|host| !host.serves()),
            Claim::Whole => self.whole_since.is_some(),
            Claim::Waits(node) => world.hosts.get(&node).is_some_and(|host| {
                let local = host.node.clock.at(world.now());
                host.node.machine.as_ref().is_some_and(|machine| {
                    let status = machine.status(local, crate::world::CLUSTER);
                    let mut fencing = status.fencing.values();
                    fencing.any(|text| text.starts_with("waits for the operator"))
                })
            }),
        }
    }

    /// What the scenario expects beside the rules.
    fn expected(&mut self, world: &World) {
        let now = world.now();
        for index in 0..self.expects.len() {
            let Watched { expect, seen } = self.expects[index].clone();
            let (from, to) = (Time::from_millis(expect.from_ms), Time::from_millis(expect.to_ms));
            if now < from {
                continue;
            }
            if now > to {
                if expect.how == How::Once && !seen {
                    self.report("expectation", format!("not seen in time: {}", line(&expect)));
                }
                continue;
            }
            let holds = self.holds(world, expect.what);
            self.expects[index].seen |= holds;
            let broken = match expect.how {
                How::Once => false,
                How::Always => !holds,
                How::Never => holds,
            };
            if broken {
                self.report("expectation", line(&expect));
            }
        }
    }
}

fn read(now: Time, node: NodeId, host: &Host) -> Option<Reading> {
    let machine = host.node.machine.as_ref()?;
    let local = host.node.clock().at(now);
    Some(Reading {
        node,
        state: machine.state(local),
        view: machine.view(),
        epoch: machine.view_epoch(),
        members: machine.members().to_vec(),
    })
}

fn name(view: Option<ViewId>) -> String {
    view.map_or_else(|| "none".to_owned(), |view| view.to_string())
}

fn line(expect: &Expect) -> String {
    format!("{} {:?} from {} to {} ms", expect.what, expect.how, expect.from_ms, expect.to_ms)
}

/// How long a healed cluster may take until it is whole (L1): boots, reconnects, readmission
/// after 5 s, bounds of what was lost, a restart of the service.
pub const SETTLING: Duration = Duration::from_secs(30);
