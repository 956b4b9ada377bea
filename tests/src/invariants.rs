//! The rules that hold after every step, one function each, with the reason why they must.

mod fencing;
mod readings;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::time::Duration;

use protocol::ids::{Epoch, GrantId, NodeId, ViewId};
use protocol::qnet::Grant;
use protocol::status::{ArbiterStatus, QuorumState};
use protocol::time::Time;
use protocol::vote::Vote;
use qnetd::core::GrantRecord;

use crate::chronicle::Chronicle;
use crate::scenario::{Claim, End, Expect, Fault, How, OtherArbiter, Scenario, Topology};
use crate::world::{Hosts, World};
pub(crate) use readings::{Changes, Reading};

/// Echo requests of a device whose sending is remembered: more than a minute's worth, as the
/// device itself does.
const ECHOES_REMEMBERED: usize = 300;

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
    /// Nodes whose service is alive, and how many children of keepers there are.
    services: (Vec<NodeId>, usize),
    /// Every rule is looked at after every step, whether it can have been broken or not.
    in_full: bool,
    epochs: BTreeMap<Epoch, ViewId>,
    stored: BTreeMap<NodeId, Epoch>,
    /// The newest grant that the arbiter has on disk, and the newest that it has told anybody of.
    granted: Option<(Epoch, ViewId)>,
    granted_aloud: Option<(Epoch, ViewId)>,
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
    /// Votes that make quorum, in the generation that needs fewest.
    quorum: usize,
    whole_since: Option<Time>,
    expects: Vec<Watched>,
    /// Faults whose beginning or end is still to be told.
    untold: Vec<(Time, bool, Fault)>,
    chronicle: Chronicle,
    serving: BTreeSet<NodeId>,
    told: BTreeMap<End, Vote>,
    /// Until when a life of a device may cast the vote of a grant in a view, by its own clock (rule
    /// S2).
    leases: BTreeMap<(NodeId, u64, GrantId, ViewId), Time>,
    /// When a device sent its echo requests, by its own clock: the newest.
    echoes: BTreeMap<NodeId, VecDeque<(u64, u32, Time)>>,
    /// How often a node became QUORATE.
    pub became_quorate: u64,
    /// How often the service was started.
    pub starts: u64,
    /// How often it was started on another node than before.
    pub takeovers: u64,
    /// How often a power switch has cut a node's power.
    pub cuts: u64,
}

fn quorum(scenario: &Scenario) -> usize {
    let topology = &scenario.topology;
    let now = usize::try_from(topology.quorum()).unwrap_or(usize::MAX);
    let generations = topology.generations.iter();
    let of = generations
        .map(|generation| (generation.nodes.len() + usize::from(generation.device)) / 2 + 1);
    of.fold(now, usize::min)
}

impl Monitor {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        let expects = scenario.expect.iter().cloned();
        let nodes = scenario.nodes().count();
        let votes = |votes: u32| usize::try_from(votes).unwrap_or(usize::MAX);
        Self {
            nodes,
            device_votes: votes(scenario.topology.device_votes()),
            quorum: quorum(scenario),
            expects: expects.map(|expect| Watched { expect, seen: false }).collect(),
            // corosync-qnetd remembers no epochs.
            amnesia: scenario.faults.iter().any(|timed| {
                matches!(timed.fault, Fault::OtherArbiter { kind: OtherArbiter::Stock, .. })
            }),
            untold: untold(scenario),
            // Only what somebody keeps is told.
            chronicle: Chronicle::new(!scenario.name.is_empty()),
            ..Self::default()
        }
    }

    /// The members of each view in which a node is QUORATE.
    pub(crate) fn quorate_views(&self) -> impl Iterator<Item = &[NodeId]> {
        let quorate = self.readings.iter().filter(|r| r.state == QuorumState::Quorate);
        quorate.map(|reading| reading.members.as_slice())
    }

    /// A rule that is checked where it could be broken.
    pub(crate) fn report(&mut self, rule: &'static str, text: String) {
        self.broken.get_or_insert((rule, text));
    }

    /// What a person would tell of the run; empty unless the scenario has a name.
    pub fn chronicle(&self) -> &str {
        self.chronicle.text()
    }

    /// Adds a line to what is told.
    pub(crate) fn note(&mut self, at: Time, who: impl fmt::Display, what: fmt::Arguments<'_>) {
        self.tell_faults(at);
        self.chronicle.note(at, who, what);
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
                (self.granted, self.granted_aloud) = (None, None);
                self.arbiter_forgot = true;
            }
        }
        let device = if self.arbiter_forgot { self.device_votes } else { 0 };
        self.amnesia |= self.forgetful.len() + device >= self.quorum;
    }

    /// The arbiter's state is that of a backup: a grant that nobody was told of never was.
    pub(crate) fn grants_restored(&mut self) {
        self.granted = self.granted_aloud;
    }

    /// S4: each grant has a higher epoch than the one before it.
    pub(crate) fn granted(&mut self, at: Time, record: &GrantRecord) {
        self.arbiter_forgot = false;
        let members: Vec<NodeId> = record.nodes.iter().copied().collect();
        let (epoch, names) = (record.grant.epoch, Names(&members));
        self.note(at, "arbiter", format_args!("has stored epoch {epoch} for {names}"));
        let before = self.granted.replace((epoch, record.view));
        // A restored arbiter may grant the same view the same epoch again.
        if let Some((before, view)) = before
            && (before > epoch || before == epoch && view != record.view)
        {
            self.report("S4", format!("epoch {epoch} is granted after {before}"));
        }
    }

    /// A vote is sent: what is new of it is told.
    pub(crate) fn vote_sent(&mut self, at: Time, to: End, vote: Vote, grant: Option<Grant>) {
        self.granted_aloud = grant.map(|grant| (grant.id.epoch, grant.view)).or(self.granted_aloud);
        if self.told.insert(to, vote) == Some(vote) {
            return;
        }
        match grant {
            Some(grant) => self.note(
                at,
                "arbiter",
                format_args!(
                    "tells {to} {vote} of epoch {} for {} ms",
                    grant.id.epoch, grant.lease_ms
                ),
            ),
            None => self.note(at, "arbiter", format_args!("tells {to} {vote}")),
        }
    }

    /// A device sends an echo request; `at` is by its own clock.
    pub(crate) fn echo_sent(&mut self, node: NodeId, stream: u64, seq: u32, at: Time) {
        let sent = self.echoes.entry(node).or_default();
        sent.push_back((stream, seq, at));
        if sent.len() > ECHOES_REMEMBERED {
            sent.pop_front();
        }
    }

    /// The newest echo request of a device.
    pub(crate) fn newest_echo(&self, node: NodeId) -> Option<u32> {
        self.echoes.get(&node)?.back().map(|(_, seq, _)| *seq)
    }

    /// The arbiter sends a grant to a device: from now on it may count until then.
    pub(crate) fn lease_sent(&mut self, node: NodeId, life: u64, stream: u64, grant: Grant) {
        let sent = self.echoes.get(&node).into_iter().flatten().rev();
        let anchor = sent.copied().find(|(s, seq, _)| (*s, *seq) == (stream, grant.anchor));
        let Some((_, _, at)) = anchor else { return };
        let until = at + Duration::from_millis(u64::from(grant.lease_ms));
        let known = self.leases.entry((node, life, grant.id, grant.view)).or_insert(until);
        *known = until.max(*known);
    }

    /// S2: what a device casts is a lease that the arbiter gave it, in the view that the grant
    /// names, and no longer than from the sending of the request that the arbiter answered. It is
    /// what the arbiter's own bound for the node is counted from.
    pub(crate) fn vote_cast(
        &mut self,
        (node, life): (NodeId, u64),
        view: ViewId,
        grant: GrantId,
        until: Time,
    ) {
        match self.leases.get(&(node, life, grant, view)) {
            Some(known) if until <= *known => {}
            Some(known) => {
                let text = format!(
                    "device {node} casts the vote of epoch {} until {until} of its clock, its \
                     lease ends at {known}",
                    grant.epoch
                );
                self.report("S2", text);
            }
            None => {
                let text = format!(
                    "device {node} casts the vote of epoch {} in {view}, for which it has no lease",
                    grant.epoch
                );
                self.report("S2", text);
            }
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

    /// Every rule, after a step. What follows from readings alone, or from where services are, is
    /// looked at when one of them has changed; [`Self::check_in_full`] shows that nothing is missed.
    ///
    /// # Errors
    /// The first one that is broken.
    pub(crate) fn check(&mut self, world: &mut World, changes: &Changes) -> Result<(), Violation> {
        let now = world.now();
        let Changes { before, moved } = changes;
        if let Some(before) = before {
            self.count_turns(before);
            self.one_side();
            self.one_view_an_epoch();
        }
        if *moved {
            self.one_service();
        }
        if !changes.is_empty() {
            self.whole(now);
        }
        self.tell(world, before.as_deref());
        self.stopped_in_time(now, &mut world.hosts, &world.scenario.topology);
        self.expected(now, &|monitor, expect| monitor.holds(world, expect));
        self.verdict(now)
    }

    /// Nobody but the rules looks at this run: where nothing has changed, only time can break one.
    pub(crate) fn is_alone(&self) -> bool {
        self.expects.is_empty() && !self.chronicle.is_on()
    }

    /// What has been broken since the last one.
    ///
    /// # Errors
    /// If something has.
    pub(crate) fn verdict(&mut self, now: Time) -> Result<(), Violation> {
        match self.broken.take() {
            Some((rule, text)) => Err(Violation { rule, at: now, text }),
            None => Ok(()),
        }
    }

    /// The rules for a cluster of corosync nodes: there are no epochs, and nodes of one ring need
    /// not become quorate at one time.
    ///
    /// # Errors
    /// The first one that is broken.
    pub(crate) fn check_corosync(
        &mut self,
        now: Time,
        readings: Vec<Reading>,
        holds: &dyn Fn(&[Reading], &Expect) -> bool,
    ) -> Result<(), Violation> {
        let before = std::mem::replace(&mut self.readings, readings);
        self.count_turns(&before);
        self.tell_faults(now);
        self.tell_turns(now, &before);
        let sides = two_sides(&self.readings, false);
        if let Some(text) = sides {
            self.report("S1", text);
        }
        self.expected(now, &|monitor, expect| holds(&monitor.readings, expect));
        match self.broken.take() {
            Some((rule, text)) => Err(Violation { rule, at: now, text }),
            None => Ok(()),
        }
    }

    /// What is new since the last look, for people.
    fn tell(&mut self, world: &World, before: Option<&[Reading]>) {
        if !self.chronicle.is_on() {
            return;
        }
        let now = world.now();
        self.tell_faults(now);
        if let Some(before) = before {
            self.tell_turns(now, before);
        }
        let serving = world.hosts.iter().filter(|(_, host)| host.serves()).map(|(node, _)| *node);
        let serving: BTreeSet<NodeId> = serving.collect();
        let before = std::mem::replace(&mut self.serving, serving.clone());
        for node in before.difference(&serving) {
            self.note(now, End::Node(*node), format_args!("the service is gone"));
        }
        for node in serving.difference(&before) {
            let epoch = self.last_start.map_or(Epoch(0), |(_, epoch)| epoch);
            let node = End::Node(*node);
            self.note(now, node, format_args!("the service runs, epoch {epoch}"));
        }
    }

    fn tell_faults(&mut self, now: Time) {
        while let Some((at, begins, fault)) = self.untold.pop_if(|(at, ..)| *at <= now) {
            let word = if begins { "begins" } else { "ends" };
            self.chronicle.note(at, "fault", format_args!("{word}: {fault}"));
        }
    }

    /// Changes of state and of quorate views.
    fn tell_turns(&mut self, now: Time, before: &[Reading]) {
        let readings = std::mem::take(&mut self.readings);
        for reading in &readings {
            let old = before.iter().find(|old| old.node == reading.node);
            let state = old.map_or(QuorumState::Inquorate, |old| old.state);
            let moved = old.is_some_and(|old| old.view != reading.view);
            let node = End::Node(reading.node);
            let members = Names(&reading.members);
            match reading.state {
                QuorumState::Quorate if (state, moved) == (QuorumState::Quorate, false) => {}
                // corosync's rings have none.
                QuorumState::Quorate if reading.epoch == Epoch(0) => {
                    self.note(now, node, format_args!("QUORATE in {members}"));
                }
                QuorumState::Quorate => {
                    let epoch = reading.epoch;
                    self.note(now, node, format_args!("QUORATE in {members}, epoch {epoch}"));
                }
                QuorumState::Frozen if state != QuorumState::Frozen => {
                    self.note(now, node, format_args!("FROZEN"));
                }
                QuorumState::Inquorate if state != QuorumState::Inquorate => {
                    self.note(now, node, format_args!("INQUORATE"));
                }
                QuorumState::Frozen | QuorumState::Inquorate => {}
            }
        }
        let entitled = before.iter().filter(|old| old.state != QuorumState::Inquorate);
        for old in entitled.filter(|old| !readings.iter().any(|new| new.node == old.node)) {
            self.note(now, End::Node(old.node), format_args!("is gone"));
        }
        self.readings = readings;
    }

    fn count_turns(&mut self, before: &[Reading]) {
        for reading in &self.readings {
            let old = before.iter().find(|old| old.node == reading.node).map(|old| old.state);
            let quorate = reading.state == QuorumState::Quorate;
            self.became_quorate += u64::from(quorate && old != Some(QuorumState::Quorate));
        }
    }

    /// S1: there is one side.
    fn one_side(&mut self) {
        if let Some(text) = two_sides(&self.readings, true) {
            self.broken.get_or_insert(("S1", text));
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
    fn one_service(&mut self) {
        let (alive, _) = &self.services;
        if alive.len() > 1 {
            let text = format!("the service is alive on {alive:?}");
            self.report("S6", text);
        }
    }

    /// S5: what others rely on when they wait for the announced bound: services have ended
    /// [`times::STOP_PROOF`] after the entitlement of their node. The entitlement of a killed
    /// daemon lasts as long as the votes that it had counted. A paused machine is excused, because
    /// there no time is a proof (F18).
    pub(crate) fn stopped_in_time(&mut self, now: Time, hosts: &mut Hosts, topology: &Topology) {
        let readings = &self.readings;
        for (node, host) in hosts {
            let mut entitled = false;
            if let Some((ghost, clock)) = &host.ghost {
                if ghost.state(clock.at(now)) == QuorumState::Inquorate {
                    host.ghost = None;
                } else {
                    entitled = true;
                }
            }
            let mut reading = readings.iter().filter(|reading| reading.node == *node);
            if entitled
                || !host.serves()
                || host.paused > 0
                || reading.any(|reading| reading.state != QuorumState::Inquorate)
            {
                host.entitled_at = now;
            } else if now > host.entitled_at + topology.stop_proof(*node) {
                let text = format!(
                    "the service of node {node} is alive, entitled last at {}",
                    host.entitled_at
                );
                self.broken.get_or_insert(("S5", text));
            }
        }
    }

    /// L1: everything is well.
    fn whole(&mut self, now: Time) {
        let first = self.readings.first();
        let one_view = self.readings.iter().all(|reading| {
            reading.state == QuorumState::Quorate
                && reading.members.len() == self.nodes
                && first.is_some_and(|first| first.view == reading.view)
        });
        let (serving, children) = &self.services;
        let once = *children == 1 && serving.len() == 1;
        let whole = self.readings.len() == self.nodes && one_view && once;
        self.whole_since = whole.then(|| self.whole_since.unwrap_or(now));
    }

    fn holds(&self, world: &World, expect: &Expect) -> bool {
        let state = |node: NodeId| {
            let reading = self.readings.iter().find(|reading| reading.node == node);
            reading.map_or(QuorumState::Inquorate, |reading| reading.state)
        };
        match expect.what {
            Claim::Quorate(node) => state(node) == QuorumState::Quorate,
            Claim::Entitled(node) => state(node) != QuorumState::Inquorate,
            Claim::Inquorate(node) => state(node) == QuorumState::Inquorate,
            Claim::Runs(node) => world.hosts.get(&node).is_some_and(|h| h.serves()),
            Claim::Off(node) => world.hosts.get(&node).is_some_and(|host| host.unpowered > 0),
            Claim::ConfirmedOff(node) => world.is_confirmed_off(node),
            Claim::ArbiterSays => {
                let arbiter = &world.server.arbiter;
                let local = arbiter.clock.at(world.now());
                let status = arbiter.machine.as_ref().map(|machine| machine.status(local));
                status.is_some_and(|status| says(&status, &expect.text))
            }
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
    fn expected(&mut self, now: Time, holds: &dyn Fn(&Self, &Expect) -> bool) {
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
            let holds = holds(self, &expect);
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

/// S1: while a node is QUORATE in a view, no node outside that view is QUORATE or FROZEN, and no
/// node is QUORATE in another view. Two halves that both still read QUORATE in their old view,
/// before they have noticed a cut, are one side (F1). A process that stands still is read too: its
/// state is what it would say if it went on now. `one_view`: members of a view become QUORATE in no
/// other one as long as one of them is.
pub(crate) fn two_sides(readings: &[Reading], one_view: bool) -> Option<String> {
    let quorate = |reading: &&Reading| reading.state == QuorumState::Quorate;
    for winner in readings.iter().filter(quorate) {
        for other in readings.iter().filter(|other| other.node != winner.node) {
            let outside = !winner.members.contains(&other.node);
            let two_views =
                one_view && other.state == QuorumState::Quorate && other.view != winner.view;
            if (outside && other.state != QuorumState::Inquorate) || two_views {
                return Some(format!(
                    "node {} is QUORATE in {} while node {} is {:?} (its view: {})",
                    winner.node,
                    name(winner.view),
                    other.node,
                    other.state,
                    name(other.view),
                ));
            }
        }
    }
    None
}

/// The beginnings and ends of a scenario's faults, in order.
fn untold(scenario: &Scenario) -> Vec<(Time, bool, Fault)> {
    let begins = scenario.faults.iter().map(|timed| (timed.at_ms, true, timed.fault.clone()));
    let lasting = scenario.faults.iter().filter(|timed| timed.for_ms > 0);
    let ends = lasting.map(|timed| (timed.at_ms + timed.for_ms, false, timed.fault.clone()));
    let times =
        begins.chain(ends).map(|(ms, begins, fault)| (Time::from_millis(ms), begins, fault));
    let mut untold: Vec<(Time, bool, Fault)> = times.collect();
    // The next one is taken from the end.
    untold.sort_by_key(|(at, begins, _)| std::cmp::Reverse((*at, *begins)));
    untold
}

/// The arbiter's status shows this text, in a remark or in what a vote waits for.
pub(crate) fn says(status: &ArbiterStatus, text: &str) -> bool {
    let waits = status.clusters.values().filter_map(|cluster| cluster.waiting.as_ref());
    status.warnings.iter().chain(waits).any(|said| said.contains(text))
}

fn name(view: Option<ViewId>) -> String {
    view.map_or_else(|| "none".to_owned(), |view| view.to_string())
}

fn line(expect: &Expect) -> String {
    let Expect { what, text, how, from_ms, to_ms } = expect;
    let text = if text.is_empty() { String::new() } else { format!(" {text:?}") };
    format!("{what}{text} {how:?} from {from_ms} to {to_ms} ms")
}

/// Node ids in braces.
pub(crate) struct Names<'a>(pub(crate) &'a [NodeId]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.0.iter().map(NodeId::to_string).collect();
        write!(f, "{{{}}}", names.join(","))
    }
}

/// How long a healed cluster may take until it is whole (L1): boots, reconnects, readmission
/// after 5 s, bounds of what was lost, a restart of the service.
pub const SETTLING: Duration = Duration::from_secs(30);
