//! One target on its way: delay, level after level, the proof on disk, the proof at the arbiter,
//! and for a reboot power again.

use std::collections::BTreeSet;
use std::time::Duration;

use protocol::fence::{
    Ask, Attestation, How, IntentId, Outcome, Progress, Proof, Refusal, Role, Verdict,
};
use protocol::ids::{BootId, NodeId};
use protocol::time::Time;
use protocol::times;

use super::attest::{self, Attested, attest, attest_soon, judge};
use super::desk::{CallId, Cause, Desk};
use super::level::{End, Level, Order, unanswered};
use super::power_on::PowerOn;
use super::round::{Outlet, Round};
use super::watchdog::Watchdog;
use super::{Config, Delay, Kind, Token};
use crate::device::{Command, Power};
use crate::journal::Entry;

/// The arbiter is told of a proof for at least this long after it was found.
const TELLING: Duration = Duration::from_secs(10);

/// An arbiter that loses an intent so often is not trusted with another.
const REGISTRATIONS_MAX: u32 = 4;

/// What is asked for a target.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Mode {
    Off,
    Reboot,
    /// An operator says that it is off.
    Confirm {
        by: String,
        why: String,
    },
}

/// A level with its devices, as they were when the job began.
#[derive(Clone, Debug)]
enum Step {
    Power(Vec<Outlet>),
    Watchdog(DeviceNameAndKind),
    /// The configuration makes no sense here.
    Broken(String),
}

type DeviceNameAndKind = (String, Kind);

/// How a target is fenced, as it was configured when the job began.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    steps: Vec<Step>,
    delay: Delay,
    unfence: bool,
    /// What all of it may take.
    pub(super) budget: Duration,
}

impl Plan {
    /// The plan for a node; empty if nothing is configured for it.
    pub(super) fn of(config: &Config, node: NodeId) -> Self {
        let target = config.targets.get(&node).cloned().unwrap_or_default();
        let steps: Vec<Step> = target
            .levels
            .iter()
            .map(|level| {
                let known = |name: &String| Some((name.clone(), config.devices.get(name)?.clone()));
                let outlets: Option<Vec<Outlet>> = level.devices.iter().map(known).collect();
                let is_power = |(_, device): &Outlet| match device.kind {
                    Kind::Power { .. } | Kind::Agent => true,
                    Kind::Watchdog { .. } => false,
                };
                match outlets.as_deref() {
                    None | Some([]) => Step::Broken("names no configured device".to_owned()),
                    Some([(name, device)]) if !is_power(&(name.clone(), device.clone())) => {
                        Step::Watchdog((name.clone(), device.kind))
                    }
                    Some(outlets) if outlets.iter().all(is_power) => Step::Power(outlets.to_vec()),
                    Some(_) => Step::Broken("a watchdog stands alone in its level".to_owned()),
                }
            })
            .collect();
        let levels: Duration = steps.iter().map(budget).sum();
        let delay = match target.delay {
            Delay::Arbiter => Duration::ZERO,
            Delay::Fixed(delay) | Delay::Random(delay) => delay,
        };
        let budget = delay + levels.max(times::FENCE_DEADLINE);
        Self { steps, delay: target.delay, unfence: target.unfence, budget }
    }

    /// Every power switch, level by level.
    pub(super) fn power_levels(&self) -> Vec<Vec<Outlet>> {
        let power = |step: &Step| match step {
            Step::Power(outlets) => Some(outlets.clone()),
            Step::Watchdog(_) | Step::Broken(_) => None,
        };
        self.steps.iter().filter_map(power).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// How many levels wait for a watchdog.
    pub(super) fn watchdogs(&self) -> usize {
        self.steps.iter().filter(|step| matches!(step, Step::Watchdog(_))).count()
    }

    pub(super) fn unfence(&self) -> bool {
        self.unfence
    }
}

/// What a level may take: login, command, settling, and the last reading.
fn budget(step: &Step) -> Duration {
    match step {
        Step::Power(outlets) => {
            outlets.iter().map(|(_, device)| device.limit * 3 + device.settle).max()
        }
        Step::Watchdog(_) => Some(times::FENCE_DEADLINE),
        Step::Broken(_) => None,
    }
    .unwrap_or_default()
}

/// How far it has come.
#[derive(Debug)]
enum Phase {
    /// The arbiter has not registered the intent yet.
    Waiting,
    Delay(Time),
    /// The level of this index.
    Power(usize, Box<Level>),
    Watchdog(usize, Box<Watchdog>),
    /// A confirmation: what do the node's devices read?
    Look(Round),
    /// A confirmation: is the requester entitled still?
    Attest(CallId),
    /// The proof goes to disk.
    Proving(Token),
    /// The proof goes to the arbiter.
    Telling(CallId),
    PowerOn(Proof, Box<PowerOn>),
    Over,
}

/// One target on its way.
#[derive(Debug)]
pub(super) struct Run {
    cause: Cause,
    pub(super) since: Time,
    mode: Mode,
    plan: Plan,
    phase: Phase,
    /// Given up then.
    deadline: Time,
    intent: IntentId,
    boot: BootId,
    /// When the intent was registered, and by whom: the arbiter, or members in its place.
    registered_at: Time,
    role: Role,
    /// What each level said.
    said: Vec<String>,
    /// The levels that were sent a command: they need power again.
    commanded: BTreeSet<usize>,
    /// The devices that read off, of the level that did.
    pub(super) off: BTreeSet<String>,
    proof: Option<(How, Time)>,
    /// For whoever waits.
    pub(super) news: Vec<Progress>,
    pub(super) outcome: Option<Outcome>,
    /// The arbiter has lost the intent: to be registered again.
    pub(super) forgotten: bool,
    /// Something else still works on the node's devices.
    blocked: bool,
    registrations: u32,
}

impl Run {
    /// Begins to wait for the registration, until `deadline` at the latest.
    pub(super) fn new(now: Time, cause: Cause, mode: Mode, plan: Plan, deadline: Time) -> Self {
        Self {
            cause,
            since: now,
            mode,
            plan,
            phase: Phase::Waiting,
            deadline,
            intent: IntentId::default(),
            boot: BootId::default(),
            registered_at: now,
            role: Role::Holder,
            said: Vec::new(),
            commanded: BTreeSet::new(),
            off: BTreeSet::new(),
            proof: None,
            news: Vec::new(),
            outcome: None,
            forgotten: false,
            blocked: false,
            registrations: 0,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over)
    }

    /// What all of it may take.
    pub(super) fn budget(&self) -> Duration {
        self.plan.budget
    }

    /// What it does, in words.
    pub(super) fn doing(&self) -> String {
        match &self.phase {
            Phase::Waiting => "waits for the arbiter's word".to_owned(),
            Phase::Delay(_) => "waits before the first command".to_owned(),
            Phase::Power(index, level) => format!("level {}: {}", index + 1, level.doing()),
            Phase::Watchdog(index, dog) => format!("level {}: {}", index + 1, dog.doing()),
            Phase::Look(_) => "looks at the node's devices".to_owned(),
            Phase::Attest(_) => "asks the arbiter".to_owned(),
            Phase::Proving(_) => "writes the proof down".to_owned(),
            Phase::Telling(_) => "tells the arbiter".to_owned(),
            Phase::PowerOn(..) => "gives power again".to_owned(),
            Phase::Over => "is over".to_owned(),
        }
    }

    /// The arbiter has registered the intent, first or again.
    pub(super) fn registered(&mut self, now: Time, desk: &mut Desk, attestation: &Attestation) {
        self.intent = attestation.intent;
        (self.registered_at, self.role) = (now, attestation.role);
        self.forgotten = false;
        self.registrations += 1;
        self.learn(attestation);
        if self.proof.is_some() {
            self.tell_arbiter(now, desk);
            return;
        }
        self.deadline = now + self.plan.budget;
        match self.mode {
            Mode::Off | Mode::Reboot if self.said.is_empty() && self.commanded.is_empty() => {
                let delay = match self.plan.delay {
                    Delay::Arbiter => Duration::ZERO,
                    Delay::Fixed(delay) => delay,
                    Delay::Random(most) => desk.chance(most),
                };
                if delay > Duration::ZERO {
                    self.step(format!("waits {} ms", delay.as_millis()));
                }
                self.phase = Phase::Delay(now + delay);
            }
            Mode::Off | Mode::Reboot | Mode::Confirm { .. } => self.phase = Phase::Delay(now),
        }
    }

    /// The arbiter does not register the intent, or not in time.
    pub(super) fn not_registered(&mut self, outcome: Outcome) {
        self.phase = Phase::Over;
        let done = !self.commanded.is_empty() || self.proof.is_some();
        self.outcome.get_or_insert(match outcome {
            Outcome::Refused { why } if done => {
                let why = failure(self.cause.node, &format!("a command was sent, and then: {why}"));
                Outcome::Failed { why }
            }
            Outcome::Off { .. }
            | Outcome::Rebooted { .. }
            | Outcome::On
            | Outcome::Refused { .. }
            | Outcome::Failed { .. } => outcome,
        });
    }

    /// Goes as far as it can. `blocked`: something else still works on the node's devices.
    pub(super) fn advance(&mut self, now: Time, desk: &mut Desk, blocked: bool) {
        self.blocked = blocked;
        while self.advance_once(now, desk) {}
    }

    /// One step; false if there is nothing to do until something happens.
    fn advance_once(&mut self, now: Time, desk: &mut Desk) -> bool {
        let order = self.order();
        match &mut self.phase {
            Phase::Waiting | Phase::Over => false,
            Phase::Delay(until) => {
                if now < *until || self.blocked {
                    return false;
                }
                self.begin(now, desk);
                true
            }
            Phase::Power(index, level) => {
                let (index, end) = (*index, level.advance(now, desk, &order));
                let attestation = level.attested.take();
                if level.commanded {
                    self.commanded.insert(index);
                }
                if let Some(attestation) = attestation {
                    self.learn(&attestation);
                }
                end.is_some_and(|end| self.level_ended(now, desk, index, end))
            }
            Phase::Watchdog(index, dog) => {
                let (index, end) = (*index, dog.advance(now, desk, &order));
                if let Some(attestation) = dog.attested.take() {
                    self.learn(&attestation);
                }
                end.is_some_and(|end| self.level_ended(now, desk, index, end))
            }
            Phase::Look(round) => {
                if !round.advance(now, desk) {
                    return false;
                }
                let on = round.reading(Power::On).join(", ");
                self.looked(now, desk, &on);
                true
            }
            Phase::Attest(call) => {
                let verdict = desk.verdict(*call);
                self.confirmation_attested(now, desk, verdict)
            }
            Phase::Proving(token) => match desk.written(*token) {
                None if now >= self.deadline => {
                    self.fail(desk, "it is off, but the disk of the journal does not answer");
                    true
                }
                None => false,
                Some(true) => {
                    self.tell_arbiter(now, desk);
                    true
                }
                Some(false) => {
                    self.fail(desk, "the proof could not be written to the journal");
                    true
                }
            },
            Phase::Telling(call) => {
                let verdict = desk.verdict(*call);
                self.arbiter_told(now, desk, verdict)
            }
            Phase::PowerOn(proof, power_on) => {
                let Some(end) = power_on.advance(now, desk) else { return false };
                let outcome = Outcome::Rebooted { proof: proof.clone(), on_failed: end.err() };
                self.end(desk, outcome);
                true
            }
        }
    }

    fn order(&self) -> Order {
        let Self { cause, intent, role, deadline, .. } = *self;
        Order { cause, role, intent, deadline }
    }

    /// In words, for whoever waits.
    fn step(&mut self, text: String) {
        self.news.push(Progress::Step { node: Some(self.cause.node), text });
    }

    fn learn(&mut self, attestation: &Attestation) {
        let record = attestation.targets.get(&self.cause.node);
        // A proof is of the boot that was named before the command, and of none that came later.
        if let (Some(record), None) = (record, &self.proof) {
            self.boot = record.boot;
        }
    }

    /// The wait is over, and nothing else works on the node's devices.
    fn begin(&mut self, now: Time, desk: &mut Desk) {
        match self.mode {
            Mode::Off | Mode::Reboot => self.next_level(now, desk, self.said.len()),
            Mode::Confirm { .. } => {
                let all: Vec<Outlet> = self.plan.power_levels().into_iter().flatten().collect();
                let look = Round::once(now, desk, Command::Status, &all, Some(self.cause));
                self.phase = Phase::Look(look);
            }
        }
    }

    /// Begins the level of this index, or ends when there is none.
    fn next_level(&mut self, now: Time, desk: &mut Desk, index: usize) {
        let order = self.order();
        match self.plan.steps.get(index).cloned() {
            None => self.all_failed(desk),
            Some(Step::Watchdog((name, kind))) => {
                self.step(format!("level {}: waits for its watchdog ({name})", index + 1));
                let dog = Box::new(Watchdog::new(now, desk, kind, &order));
                self.phase = Phase::Watchdog(index, dog);
            }
            Some(Step::Power(_)) if now >= self.deadline => {
                self.said.push(format!("level {}: no time left", index + 1));
                self.next_level(now, desk, index + 1);
            }
            Some(Step::Power(outlets)) => {
                let names: Vec<&str> = outlets.iter().map(|(name, _)| name.as_str()).collect();
                self.step(format!("level {}: {}", index + 1, names.join(", ")));
                let level = Box::new(Level::new(now, desk, outlets, &order));
                self.phase = Phase::Power(index, level);
            }
            Some(Step::Broken(why)) => {
                self.said.push(format!("level {}: {why}", index + 1));
                self.next_level(now, desk, index + 1);
            }
        }
    }

    fn level_ended(&mut self, now: Time, desk: &mut Desk, index: usize, end: End) -> bool {
        match end {
            End::Proven { sent } => {
                let how = match &self.phase {
                    Phase::Watchdog(..) => How::Watchdog,
                    Phase::Power(..)
                    | Phase::Waiting
                    | Phase::Delay(_)
                    | Phase::Look(_)
                    | Phase::Attest(_)
                    | Phase::Proving(_)
                    | Phase::Telling(_)
                    | Phase::PowerOn(..)
                    | Phase::Over => How::ReadOff,
                };
                if let Some(Step::Power(outlets)) = self.plan.steps.get(index) {
                    self.off = outlets.iter().map(|(name, _)| name.clone()).collect();
                }
                self.prove(now, desk, how, sent);
            }
            End::Failed(why) | End::Late(why) => {
                let said = format!("level {}: {why}", index + 1);
                self.step(said.clone());
                self.said.push(said);
                self.wind_down(desk);
                self.next_level(now, desk, index + 1);
            }
            End::Refused(refusal) => {
                let why = super::text::clean(&refusal.to_string());
                let (job, refusal) = (self.cause.job, Some(refusal));
                desk.note(Entry::Refused { job, refusal, why: why.clone() });
                if self.commanded.is_empty() {
                    self.end(desk, Outcome::Refused { why });
                } else {
                    let why = format!("a power command was sent, and then: {why}");
                    self.fail(desk, &why);
                }
            }
            End::Forgotten => self.register_again(desk),
            End::NotWritten => {
                self.fail(desk, "no command without a record: see the disk of the journal");
            }
        }
        true
    }

    /// The arbiter has lost the intent: nothing of it is to be used.
    fn register_again(&mut self, desk: &mut Desk) {
        if self.registrations >= REGISTRATIONS_MAX {
            self.fail(desk, "the arbiter has lost the intent again and again");
            return;
        }
        self.wind_down(desk);
        self.step("the arbiter has lost the intent: it is registered again".to_owned());
        self.phase = Phase::Waiting;
        self.forgotten = true;
    }

    fn looked(&mut self, now: Time, desk: &mut Desk, on: &str) {
        if on.is_empty() {
            self.phase = Phase::Attest(attest(now, desk, self.intent));
        } else {
            let why = format!("{on} read on: node {} is not off", self.cause.node);
            desk.note(Entry::Refused { job: self.cause.job, refusal: None, why: why.clone() });
            self.end(desk, Outcome::Refused { why });
        }
    }

    fn confirmation_attested(
        &mut self,
        now: Time,
        desk: &mut Desk,
        verdict: Option<Verdict>,
    ) -> bool {
        let Some(verdict) = verdict else {
            if now >= self.deadline {
                self.fail(desk, unanswered(self.role));
                return true;
            }
            return false;
        };
        match judge(verdict, Some(self.intent), self.cause.node) {
            Attested::Yes(attestation) => {
                attest::note(desk, self.cause, &attestation);
                self.learn(&attestation);
                if self.is_heard(now, &attestation) {
                    self.refused(desk, Refusal::Heard(self.cause.node));
                    return true;
                }
                if let Mode::Confirm { by, why } = self.mode.clone() {
                    self.prove(now, desk, How::Manual { by, why }, now);
                }
            }
            Attested::NotYet(_) => {
                self.phase = Phase::Attest(attest_soon(now, desk, self.intent));
                return false;
            }
            Attested::Forgotten => self.register_again(desk),
            Attested::No(refusal) => self.refused(desk, refusal),
            Attested::Nonsense(why) => self.fail(desk, &why),
        }
        true
    }

    fn refused(&mut self, desk: &mut Desk, refusal: Refusal) {
        let why = super::text::clean(&refusal.to_string());
        let (job, refusal) = (self.cause.job, Some(refusal));
        desk.note(Entry::Refused { job, refusal, why: why.clone() });
        self.end(desk, Outcome::Refused { why });
    }

    /// Members say themselves that they have heard the node since, where an arbiter would when it
    /// is told of the proof (safety 28).
    fn is_heard(&self, now: Time, attestation: &Attestation) -> bool {
        let record = attestation.targets.get(&self.cause.node);
        let silent = record.and_then(|record| record.silent_ms).map(Duration::from_millis);
        let since = now.since(self.registered_at);
        attestation.role == Role::Majority && silent.is_some_and(|silent| silent < since)
    }

    /// It is off: that goes to disk, and then to the arbiter.
    fn prove(&mut self, now: Time, desk: &mut Desk, how: How, sent: Time) {
        self.deadline = self.deadline.max(now + TELLING);
        let Cause { job, node } = self.cause;
        self.proof = Some((how.clone(), sent));
        self.phase = Phase::Proving(desk.write(Entry::Proven { job, node, boot: self.boot, how }));
    }

    fn proof(&self, now: Time) -> Option<Proof> {
        let (how, sent) = self.proof.clone()?;
        let sent_ms = u64::try_from(now.since(sent).as_millis()).unwrap_or(u64::MAX);
        Some(Proof { node: self.cause.node, boot: self.boot, how, sent_ms })
    }

    fn tell_arbiter(&mut self, now: Time, desk: &mut Desk) {
        self.deadline = self.deadline.max(now + TELLING);
        let (Some(proof), Some((_, sent))) = (self.proof(now), self.proof.clone()) else { return };
        if self.role == Role::Majority {
            // It has recorded no such intent, and waits for the bound that it knows of.
            let Cause { job, node } = self.cause;
            desk.note(Entry::Untold { job, node });
            self.news.push(Progress::Off { proof: proof.clone() });
            self.go_on_after(desk, proof);
            return;
        }
        let ask = Ask::Off { intent: self.intent, proof };
        self.phase = Phase::Telling(desk.ask_at(now, now, ask, Some(sent)));
    }

    fn arbiter_told(&mut self, now: Time, desk: &mut Desk, verdict: Option<Verdict>) -> bool {
        let Some(verdict) = verdict else {
            if now >= self.deadline {
                self.fail(desk, "it is off, but the arbiter could not be told in time");
                return true;
            }
            return false;
        };
        if verdict == Verdict::Noted {
            let Some(proof) = self.proof(now) else { return false };
            self.news.push(Progress::Off { proof: proof.clone() });
            self.go_on_after(desk, proof);
            return true;
        }
        // A full queue or a slow disk of the arbiter makes no proof untrue.
        let not_stored = Verdict::Refused(Refusal::NotStored);
        let verdict = if verdict == not_stored {
            Verdict::Refused(Refusal::Undecided(Refusal::NotStored.to_string()))
        } else {
            verdict
        };
        match judge(verdict, Some(self.intent), self.cause.node) {
            Attested::Yes(_) => self.fail(desk, "the arbiter answers another question"),
            Attested::NotYet(_) => {
                let Some(proof) = self.proof(now) else { return false };
                let sent = self.proof.as_ref().map(|(_, sent)| *sent);
                let ask = Ask::Off { intent: self.intent, proof };
                let at = now + desk.pause();
                self.phase = Phase::Telling(desk.ask_at(now, at, ask, sent));
                return false;
            }
            Attested::Forgotten => self.register_again(desk),
            Attested::No(refusal) => {
                let why = super::text::clean(&refusal.to_string());
                let (job, refusal) = (self.cause.job, Some(refusal));
                desk.note(Entry::Refused { job, refusal, why: why.clone() });
                self.fail(desk, &format!("the arbiter does not take the proof: {why}"));
            }
            Attested::Nonsense(why) => self.fail(desk, &why),
        }
        true
    }

    /// Proven, noted by the arbiter, told to the requester: done, or power again.
    fn go_on_after(&mut self, desk: &mut Desk, proof: Proof) {
        if self.mode != Mode::Reboot {
            self.end(desk, Outcome::Off { proof });
            return;
        }
        let levels: Vec<Vec<Outlet>> = self
            .plan
            .steps
            .iter()
            .enumerate()
            .filter(|(index, _)| self.commanded.contains(index))
            .filter_map(|(_, step)| match step {
                Step::Power(outlets) => Some(outlets.clone()),
                Step::Watchdog(_) | Step::Broken(_) => None,
            })
            .collect();
        let levels = if levels.is_empty() { self.plan.power_levels() } else { levels };
        if !self.plan.unfence {
            let on_failed = Some("unfence = false: it stays off".to_owned());
            self.end(desk, Outcome::Rebooted { proof, on_failed });
        } else if levels.is_empty() {
            let on_failed = Some("no device can give it power".to_owned());
            self.end(desk, Outcome::Rebooted { proof, on_failed });
        } else {
            self.step("gives power again".to_owned());
            let power_on = Box::new(PowerOn::new(desk, levels, self.cause));
            self.phase = Phase::PowerOn(proof, power_on);
        }
    }

    fn all_failed(&mut self, desk: &mut Desk) {
        let said = match self.said.join("; ") {
            said if said.is_empty() => "no level is configured".to_owned(),
            said => said,
        };
        self.fail(desk, &said);
    }

    /// Nothing is known of the node: what an operator has to do.
    fn fail(&mut self, desk: &mut Desk, why: &str) {
        let why = failure(self.cause.node, why);
        self.end(desk, Outcome::Failed { why });
    }

    /// It is over, as soon as nothing is out any more.
    fn end(&mut self, desk: &mut Desk, outcome: Outcome) {
        self.outcome.get_or_insert(outcome);
        self.wind_down(desk);
    }

    /// Waits for nothing more of this phase; no command is out when it is left.
    fn wind_down(&mut self, desk: &mut Desk) {
        match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Power(_, mut level) => level.wind_down(desk),
            Phase::Watchdog(_, dog) => dog.wind_down(desk),
            Phase::Attest(call) | Phase::Telling(call) => desk.forget_call(call),
            Phase::Proving(token) => desk.forget_write(token),
            Phase::Waiting
            | Phase::Delay(_)
            | Phase::Look(_)
            | Phase::PowerOn(..)
            | Phase::Over => {}
        }
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        match &self.phase {
            Phase::Waiting | Phase::Over => None,
            Phase::Delay(until) => (!self.blocked).then_some(*until),
            Phase::Power(_, level) => level.deadline(self.deadline),
            Phase::Watchdog(_, dog) => Some(dog.deadline()),
            Phase::Look(round) => round.deadline(),
            Phase::Attest(_) | Phase::Telling(_) => Some(self.deadline),
            Phase::Proving(_) => Some(self.deadline),
            Phase::PowerOn(_, power_on) => power_on.deadline(),
        }
    }
}

/// What an operator has to do when nothing is known of a node.
pub(super) fn failure(node: NodeId, why: &str) -> String {
    format!(
        "node {node} is not proven off: {why}; once you have seen with your own eyes that it has \
         no power: haguard fence confirm {node}"
    )
}
