//! One incident: who asks, the intent at the arbiter, and every target under it (F15).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use protocol::fence::{Ask, Intent, IntentId, Outcome, Role, Verdict};
use protocol::ids::{Epoch, NodeId};
use protocol::time::Time;
use protocol::times;

use super::Token;
use super::attest::{Attested, judge};
use super::desk::{CallId, Cause, Desk};
use super::run::{Mode, Plan, Run, failure};
use crate::journal::Entry;

/// Targets that are being registered.
#[derive(Debug)]
struct Batch {
    targets: BTreeSet<NodeId>,
    stage: Stage,
    /// Given up then.
    until: Time,
    /// What the arbiter said last.
    undecided: Option<String>,
}

#[derive(Debug)]
enum Stage {
    /// The request goes to disk.
    Writing(Token),
    /// The arbiter is asked.
    Asking(CallId),
}

/// One incident.
#[derive(Debug)]
pub(super) struct Incident {
    pub(super) job: u64,
    pub(super) requester: NodeId,
    pub(super) epoch: Option<Epoch>,
    /// Every target that is not over yet.
    pub(super) runs: BTreeMap<NodeId, Run>,
    batches: Vec<Batch>,
    /// What the arbiter has registered, to be released at the end.
    pub(super) intents: BTreeSet<IntentId>,
}

impl Incident {
    pub(super) fn new(job: u64, requester: NodeId, epoch: Option<Epoch>) -> Self {
        let (runs, batches, intents) = (BTreeMap::new(), Vec::new(), BTreeSet::new());
        Self { job, requester, epoch, runs, batches, intents }
    }

    /// Adds targets, whose request is being written down under `token`.
    pub(super) fn add(&mut self, now: Time, token: Token, plans: BTreeMap<NodeId, (Mode, Plan)>) {
        let until = now + times::FENCE_DEADLINE;
        let targets = plans.keys().copied().collect();
        for (node, (mode, plan)) in plans {
            let cause = Cause { job: self.job, node };
            self.runs.insert(node, Run::new(now, cause, mode, plan, until));
        }
        self.batches.push(Batch { targets, stage: Stage::Writing(token), until, undecided: None });
    }

    /// Goes as far as it can. `blocked`: nodes whose devices something else still works on;
    /// `others`: what is registered for other incidents.
    pub(super) fn advance(
        &mut self,
        now: Time,
        desk: &mut Desk,
        blocked: &BTreeSet<NodeId>,
        others: &BTreeSet<IntentId>,
    ) {
        for mut batch in std::mem::take(&mut self.batches) {
            if !self.advance_batch(now, desk, &mut batch, others) {
                self.batches.push(batch);
            }
        }
        for (node, run) in &mut self.runs {
            run.advance(now, desk, blocked.contains(node));
        }
        self.register_forgotten(now, desk);
    }

    /// Targets that are over, with how.
    pub(super) fn take_over(&mut self) -> Vec<(NodeId, Run)> {
        let over: Vec<NodeId> =
            self.runs.iter().filter(|(_, run)| run.is_over()).map(|(node, _)| *node).collect();
        over.into_iter().filter_map(|node| Some((node, self.runs.remove(&node)?))).collect()
    }

    /// The arbiter has registered it.
    pub(super) fn is_registered(&self) -> bool {
        !self.intents.is_empty()
    }

    /// Nothing is left to do but the release.
    pub(super) fn is_over(&self) -> bool {
        self.runs.is_empty() && self.batches.is_empty()
    }

    /// Targets without a proof are condemned no longer, or a dead switch would condemn them for
    /// ever (safety 25).
    pub(super) fn release(self, now: Time, desk: &mut Desk) {
        for intent in self.intents {
            // Members condemn by the clock.
            if !desk.majority.release(intent) {
                desk.ask(now, Ask::Release(intent));
            }
        }
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        let batches = self.batches.iter().map(|batch| batch.until);
        batches.chain(self.runs.values().filter_map(Run::deadline)).min()
    }

    fn register(&self, targets: &BTreeSet<NodeId>) -> Ask {
        let budgets = targets.iter().filter_map(|node| self.runs.get(node)).map(Run::budget);
        let budget = budgets.max().unwrap_or_default().max(times::FENCE_DEADLINE);
        Ask::Register(Intent {
            requester: self.requester,
            epoch: self.epoch,
            targets: targets.clone(),
            deadline_ms: u32::try_from(budget.as_millis()).unwrap_or(u32::MAX),
        })
    }

    /// The arbiter has lost the intent of these.
    fn register_forgotten(&mut self, now: Time, desk: &mut Desk) {
        let waits = |node: &NodeId| self.batches.iter().any(|batch| batch.targets.contains(node));
        let targets: BTreeSet<NodeId> = self
            .runs
            .iter()
            .filter(|(node, run)| run.forgotten && !waits(node))
            .map(|(node, _)| *node)
            .collect();
        if targets.is_empty() {
            return;
        }
        let call = desk.ask(now, self.register(&targets));
        let until = now + times::FENCE_DEADLINE;
        self.batches.push(Batch { targets, stage: Stage::Asking(call), until, undecided: None });
    }

    /// True when nothing more is to be done for the batch.
    fn advance_batch(
        &mut self,
        now: Time,
        desk: &mut Desk,
        batch: &mut Batch,
        others: &BTreeSet<IntentId>,
    ) -> bool {
        match batch.stage {
            Stage::Writing(token) => match desk.written(token) {
                Some(true) => {
                    let call = desk.ask(now, self.register(&batch.targets));
                    batch.stage = Stage::Asking(call);
                    false
                }
                Some(false) => {
                    let why = "the request could not be written to the journal: see its disk";
                    self.refuse(batch, |_| Outcome::Refused { why: why.to_owned() });
                    true
                }
                None if now >= batch.until => {
                    desk.forget_write(token);
                    let why = "the disk of the journal does not answer";
                    self.refuse(batch, |_| Outcome::Refused { why: why.to_owned() });
                    true
                }
                None => false,
            },
            Stage::Asking(call) => match desk.verdict(call) {
                Some(Verdict::Entitled(second)) if !others.is_empty() => {
                    self.second(now, desk, batch, others, second.intent);
                    true
                }
                Some(verdict) => self.answered(now, desk, batch, call, &verdict),
                None if now >= batch.until => {
                    let without = desk.without_arbiter(call);
                    desk.abandon_call(call);
                    self.too_late(desk, batch, without);
                    true
                }
                None => false,
            },
        }
    }

    /// Two incidents are registered at a time, which an arbiter never does, nor members who promise
    /// what they say: nothing is done for the later one.
    fn second(
        &mut self,
        now: Time,
        desk: &mut Desk,
        batch: &Batch,
        others: &BTreeSet<IntentId>,
        intent: IntentId,
    ) {
        if !others.contains(&intent) && !desk.majority.release(intent) {
            desk.ask(now, Ask::Release(intent));
        }
        let why = "two sides are let fence at the same time: nothing is done for this one";
        let (job, why) = (self.job, why.to_owned());
        desk.note(Entry::Refused { job, refusal: None, why: why.clone() });
        self.refuse(batch, |_| Outcome::Refused { why: why.clone() });
    }

    fn answered(
        &mut self,
        now: Time,
        desk: &mut Desk,
        batch: &mut Batch,
        call: CallId,
        verdict: &Verdict,
    ) -> bool {
        if let Verdict::Entitled(attestation) = verdict {
            self.intents.insert(attestation.intent);
            if attestation.role != Role::Majority {
                desk.drop_releases_before(call);
            }
            let (job, attestation) = (self.job, attestation.clone());
            desk.note(Entry::Attested { job, attestation });
        }
        for node in batch.targets.clone() {
            let Some(run) = self.runs.get_mut(&node) else { continue };
            match judge(verdict.clone(), None, node) {
                Attested::Yes(attestation) => run.registered(now, desk, &attestation),
                Attested::NotYet(why) => {
                    if now >= batch.until {
                        batch.undecided = Some(why);
                        self.too_late(desk, batch, None);
                        return true;
                    }
                    batch.undecided = Some(why);
                    let ask = self.register(&batch.targets);
                    batch.stage = Stage::Asking(desk.ask_soon(now, ask));
                    return false;
                }
                Attested::Forgotten | Attested::No(_) => {
                    self.refused(desk, batch, verdict);
                    return true;
                }
                Attested::Nonsense(why) => {
                    run.not_registered(Outcome::Failed { why: failure(node, &why) });
                }
            }
        }
        true
    }

    fn refused(&mut self, desk: &mut Desk, batch: &Batch, verdict: &Verdict) {
        let Verdict::Refused(refusal) = verdict else { return };
        let why = super::text::clean(&refusal.to_string());
        let (job, refusal) = (self.job, Some(refusal.clone()));
        desk.note(Entry::Refused { job, refusal, why: why.clone() });
        self.refuse(batch, |_| Outcome::Refused { why: why.clone() });
    }

    /// No answer means no. `without`: why the members have not given one in the arbiter's place.
    fn too_late(&mut self, desk: &mut Desk, batch: &Batch, without: Option<String>) {
        let job = self.job;
        let seconds = Duration::as_secs(&times::FENCE_DEADLINE);
        if let Some(why) = batch.undecided.clone() {
            let why = format!("not within {seconds} s: {why}");
            desk.note(Entry::Refused { job, refusal: None, why: why.clone() });
            self.refuse(batch, |_| Outcome::Refused { why: why.clone() });
        } else {
            let reason = desk.arbiter().err().map_or(String::new(), |why| format!(" ({why})"));
            let without = without.map_or(String::new(), |why| format!(", and {why}"));
            let why = format!("the arbiter has not answered within {seconds} s{reason}{without}");
            desk.note(Entry::Refused { job, refusal: None, why: why.clone() });
            self.refuse(batch, |node| Outcome::Failed { why: failure(node, &why) });
        }
    }

    fn refuse(&mut self, batch: &Batch, outcome: impl Fn(NodeId) -> Outcome) {
        for node in &batch.targets {
            if let Some(run) = self.runs.get_mut(node) {
                run.not_registered(outcome(*node));
            }
        }
    }
}
