//! What is asked of the gateway: who may ask for what, who joins a job that runs, and who hears
//! how it ends.

use std::collections::{BTreeMap, BTreeSet};

use protocol::fence::{
    Confirmation, Outcome, PowerAction, Progress, Refusal, Request, TARGETS_MAX,
};
use protocol::ids::{Epoch, NodeId};
use protocol::time::Time;

use super::incident::Incident;
use super::power_job::PowerJob;
use super::rehearsal::Trial;
use super::run::{Mode, Plan};
use super::text::clean;
use super::{Action, Gateway, RequestId};
use crate::journal::Entry;

/// More requests are not open at the same time.
pub const REQUESTS_MAX: usize = 256;

/// One requester that waits.
#[derive(Debug)]
pub(super) struct Waiter {
    /// For whose side it asks.
    requester: NodeId,
    /// What it still waits for: the node, and the job that works on it.
    remaining: BTreeMap<NodeId, u64>,
    results: BTreeMap<NodeId, Outcome>,
}

/// A request for power to be cut, whoever's words it came in.
struct Fence {
    requester: NodeId,
    epoch: Option<Epoch>,
    modes: BTreeMap<NodeId, Mode>,
    action: PowerAction,
    reason: String,
}

impl Fence {
    fn targets(&self) -> BTreeSet<NodeId> {
        self.modes.keys().copied().collect()
    }

    /// The same requester adds to its own incident; another node of the same side may wait for what
    /// is done already, and adds nothing.
    fn may_join(&self, incident: &Incident) -> bool {
        let targets = self.targets();
        let adds_nothing = targets.iter().all(|node| incident.runs.contains_key(node));
        self.epoch == incident.epoch
            && !incident.runs.contains_key(&self.requester)
            && (self.requester == incident.requester || adds_nothing)
    }
}

impl Gateway {
    /// A requester asks.
    pub(super) fn requested(&mut self, now: Time, id: RequestId, request: Request) {
        let reason = clean(&request.reason);
        if let Err(why) = self.admit(id, request.requester, &request.targets, request.action) {
            self.refuse(id, &request.targets, request.requester, &why);
            return;
        }
        let mode = match request.action {
            PowerAction::Off => Mode::Off,
            PowerAction::Reboot => Mode::Reboot,
            PowerAction::On => {
                self.power_on(now, id, request.requester, &request.targets, reason);
                return;
            }
        };
        self.fence(
            now,
            id,
            Fence {
                requester: request.requester,
                epoch: request.epoch,
                modes: request.targets.iter().map(|node| (*node, mode.clone())).collect(),
                action: request.action,
                reason,
            },
        );
    }

    /// An operator says that a node is off (safety 28).
    pub(super) fn confirmed(&mut self, now: Time, id: RequestId, said: Confirmation) {
        let targets = BTreeSet::from([said.node]);
        let (by, why) = (clean(&said.by), clean(&said.why));
        let running = self.incidents.iter().any(|open| open.runs.contains_key(&said.node));
        let objection = if by.is_empty() || why.is_empty() {
            Some("a confirmation says who says so, and how it is known".to_owned())
        } else if running {
            let node = said.node;
            Some(format!("node {node} is being fenced at the moment: confirm when that has failed"))
        } else {
            self.objection(id, said.requester, &targets, PowerAction::Off).err()
        };
        if let Some(why) = objection {
            self.refuse(id, &targets, said.requester, &why);
            return;
        }
        let reason = clean(&format!("confirmed by {by}: {why}"));
        self.fence(
            now,
            id,
            Fence {
                requester: said.requester,
                epoch: said.epoch,
                modes: BTreeMap::from([(said.node, Mode::Confirm { by, why })]),
                action: PowerAction::Off,
                reason,
            },
        );
    }

    /// The whole path is to be tried without a command.
    pub(super) fn rehearse(&mut self, now: Time, id: RequestId, node: NodeId) {
        let why = if self.is_known(id) || self.open_requests() >= REQUESTS_MAX {
            Some(format!("{REQUESTS_MAX} requests are open already: ask again later"))
        } else {
            self.unknown(&BTreeSet::from([node]))
        };
        if let Some(why) = why {
            self.answer_no(id, &BTreeSet::from([node]), &why);
            return;
        }
        let plan = Plan::of(&self.config, node);
        self.trials.push(Trial::new(now, &mut self.desk, id, node, &plan));
    }

    /// The requester is gone; the job goes on.
    pub(super) fn abandoned(&mut self, id: RequestId) {
        self.waiters.remove(&id);
    }

    fn open_requests(&self) -> usize {
        self.waiters.len() + self.trials.len()
    }

    fn is_known(&self, id: RequestId) -> bool {
        self.waiters.contains_key(&id) || self.trials.iter().any(|trial| trial.id() == id)
    }

    /// Why these targets are not known here.
    fn unknown(&self, targets: &BTreeSet<NodeId>) -> Option<String> {
        let node = targets.iter().find(|node| !self.config.targets.contains_key(node))?;
        let known: Vec<String> = self.config.targets.keys().map(ToString::to_string).collect();
        Some(match known.as_slice() {
            [] => format!("node {node} is not known here: no node is configured"),
            known => format!("node {node} is not known here: known are {}", known.join(", ")),
        })
    }

    /// Why the request cannot be so.
    fn admit(
        &self,
        id: RequestId,
        requester: NodeId,
        targets: &BTreeSet<NodeId>,
        action: PowerAction,
    ) -> Result<(), String> {
        self.objection(id, requester, targets, action)?;
        if let Some(why) = self.unknown(targets) {
            return Err(why);
        }
        match targets.iter().find(|node| Plan::of(&self.config, **node).is_empty()) {
            Some(node) => Err(format!("no device is configured for node {node}")),
            None => Ok(()),
        }
    }

    fn objection(
        &self,
        id: RequestId,
        requester: NodeId,
        targets: &BTreeSet<NodeId>,
        action: PowerAction,
    ) -> Result<(), String> {
        if self.is_known(id) || self.open_requests() >= REQUESTS_MAX {
            return Err(format!("{REQUESTS_MAX} requests are open already: ask again later"));
        }
        if targets.is_empty() {
            return Err("the request names no target".to_owned());
        }
        if targets.len() > TARGETS_MAX {
            return Err(format!("more than {TARGETS_MAX} targets in one request"));
        }
        match action {
            PowerAction::Off | PowerAction::Reboot if targets.contains(&requester) => {
                Err(format!("node {requester} asks for itself: nobody is fenced by his own side"))
            }
            PowerAction::Off | PowerAction::Reboot | PowerAction::On => Ok(()),
        }
    }

    /// Begins a job, adds to the one that runs, joins it, or refuses.
    fn fence(&mut self, now: Time, id: RequestId, fence: Fence) {
        let targets = fence.targets();
        if let Some(why) = self.held_by_others(&fence) {
            self.refuse(id, &targets, fence.requester, &why);
            return;
        }
        let index = match self.incidents.iter().position(|open| fence.may_join(open)) {
            Some(index) => index,
            None => {
                let job = self.next_job();
                self.incidents.push(Incident::new(job, fence.requester, fence.epoch));
                self.incidents.len() - 1
            }
        };
        let Some(incident) = self.incidents.get_mut(index) else { return };
        let (job, requester) = (incident.job, fence.requester);
        let entry = Entry::Requested {
            job,
            requester: fence.requester,
            epoch: fence.epoch,
            targets: targets.clone(),
            action: fence.action,
            reason: fence.reason,
        };
        let mut new = fence.modes;
        new.retain(|node, _| !incident.runs.contains_key(node));
        if new.is_empty() {
            self.desk.note(entry);
        } else {
            let token = self.desk.write(entry);
            let plan = |node| Plan::of(&self.config, node);
            let plans = new.into_iter().map(|(node, mode)| (node, (mode, plan(node)))).collect();
            incident.add(now, token, plans);
        }
        self.wait_for(id, requester, &targets, job);
    }

    /// A registered incident has this node among its targets.
    fn is_fenced(&self, node: NodeId) -> bool {
        let mut registered = self.incidents.iter().filter(|incident| incident.is_registered());
        registered.any(|incident| incident.runs.contains_key(&node))
    }

    /// Another incident is registered: whose. One intent a cluster at a time (F15). While none is,
    /// several may wait for the arbiter's word, which is for one of them.
    fn held_by_others(&self, fence: &Fence) -> Option<String> {
        let incident = self.incidents.iter().find(|incident| incident.is_registered())?;
        let targets: BTreeSet<NodeId> = incident.runs.keys().copied().collect();
        let busy = Refusal::Busy { requester: incident.requester, targets };
        (!fence.may_join(incident)).then(|| busy.to_string())
    }

    /// Power again; needs no entitlement, but nothing may be cutting it.
    fn power_on(
        &mut self,
        now: Time,
        id: RequestId,
        requester: NodeId,
        targets: &BTreeSet<NodeId>,
        reason: String,
    ) {
        let held = |node: &&NodeId| self.is_fenced(**node);
        let plans: BTreeMap<NodeId, Plan> =
            targets.iter().map(|node| (*node, Plan::of(&self.config, *node))).collect();
        let why = if let Some(node) = targets.iter().find(held) {
            Some(format!("node {node} is being fenced: no power before that is over"))
        } else if let Some((node, _)) = plans.iter().find(|(_, plan)| !plan.unfence()) {
            Some(format!("unfence = false for node {node}: power is given to it by hand only"))
        } else {
            let powerless = plans.iter().find(|(_, plan)| plan.power_levels().is_empty());
            powerless.map(|(node, _)| format!("no device of node {node} can give it power"))
        };
        if let Some(why) = why {
            self.refuse(id, targets, requester, &why);
            return;
        }
        let running = |node: &NodeId| {
            self.power_jobs.iter().find(|job| job.works_on(*node)).map(PowerJob::number)
        };
        let joined: BTreeMap<NodeId, u64> =
            targets.iter().filter_map(|node| Some((*node, running(node)?))).collect();
        let new: BTreeMap<NodeId, Plan> =
            plans.into_iter().filter(|(node, _)| !joined.contains_key(node)).collect();
        let mut remaining = joined;
        if !new.is_empty() {
            let job = self.next_job();
            remaining.extend(new.keys().map(|node| (*node, job)));
            let token = self.desk.write(Entry::Requested {
                job,
                requester,
                epoch: None,
                targets: new.keys().copied().collect(),
                action: PowerAction::On,
                reason,
            });
            self.power_jobs.push(PowerJob::new(now, job, token, new));
        }
        let job = remaining.values().copied().max().unwrap_or(self.last_job);
        self.tell(id, Progress::Accepted { job });
        self.waiters.insert(id, Waiter { requester, remaining, results: BTreeMap::new() });
    }

    fn next_job(&mut self) -> u64 {
        self.last_job += 1;
        self.last_job
    }

    fn wait_for(&mut self, id: RequestId, requester: NodeId, targets: &BTreeSet<NodeId>, job: u64) {
        let remaining = targets.iter().map(|node| (*node, job)).collect();
        self.waiters.insert(id, Waiter { requester, remaining, results: BTreeMap::new() });
        self.tell(id, Progress::Accepted { job });
        if let Some(challenge) = self.desk.majority.challenge(requester) {
            self.tell(id, Progress::Challenge { challenge });
        }
    }

    /// What the members of a requester's view are asked goes to whoever asks for that side: a node
    /// shows it to the others, an operator's terminal does nothing with it.
    pub(super) fn tell_challenges(&mut self) {
        for (requester, challenge) in self.desk.majority.take_news() {
            for (id, _) in self.waiters.iter().filter(|(_, w)| w.requester == requester) {
                let progress = Progress::Challenge { challenge: challenge.clone() };
                self.desk.act(Action::Tell { id: *id, progress });
            }
        }
    }

    fn tell(&mut self, id: RequestId, progress: Progress) {
        self.desk.act(Action::Tell { id, progress });
    }

    /// No, and that is written down.
    fn refuse(&mut self, id: RequestId, targets: &BTreeSet<NodeId>, requester: NodeId, why: &str) {
        let whom: Vec<String> = targets.iter().take(TARGETS_MAX).map(ToString::to_string).collect();
        let whom = clean(&whom.join(", "));
        let text = format!("refused: node {requester} asks for node {whom}: {why}");
        self.desk.note(Entry::Refused { job: 0, refusal: None, why: text.clone() });
        self.desk.decided(text);
        self.answer_no(id, targets, why);
    }

    fn answer_no(&mut self, id: RequestId, targets: &BTreeSet<NodeId>, why: &str) {
        self.tell(id, Progress::Step { node: None, text: why.to_owned() });
        let refused = || Outcome::Refused { why: why.to_owned() };
        let results = targets.iter().take(TARGETS_MAX).map(|node| (*node, refused())).collect();
        self.tell(id, Progress::Done { results });
    }

    /// Everybody who waits for this node of this job hears of it.
    pub(super) fn tell_waiters(&mut self, job: u64, node: NodeId, progress: &Progress) {
        for (id, waiter) in &self.waiters {
            if waiter.remaining.get(&node) == Some(&job) {
                self.desk.act(Action::Tell { id: *id, progress: progress.clone() });
            }
        }
    }

    /// The job is over for this node: it is written down, remembered and told.
    pub(super) fn finish(&mut self, job: u64, node: NodeId, outcome: Outcome) {
        let result = summary(&outcome);
        self.desk.decided(format!("job {job}, node {node}: {result}"));
        self.desk.note(Entry::Ended { job, node, result });
        let mut done = Vec::new();
        for (id, waiter) in &mut self.waiters {
            if waiter.remaining.get(&node) == Some(&job) {
                waiter.remaining.remove(&node);
                waiter.results.insert(node, outcome.clone());
                if waiter.remaining.is_empty() {
                    done.push(*id);
                }
            }
        }
        for id in done {
            let results = self.waiters.remove(&id).map(|waiter| waiter.results);
            let results = results.unwrap_or_default();
            self.tell(id, Progress::Done { results });
        }
        // An operator may confirm nodes that are not configured here; nothing is kept of them.
        if self.config.targets.contains_key(&node) {
            self.nodes.entry(node).or_default().ended(outcome);
        }
    }
}

/// An outcome in the words of the journal.
fn summary(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Off { .. } => "off".to_owned(),
        Outcome::Rebooted { on_failed: None, .. } => "rebooted".to_owned(),
        Outcome::Rebooted { on_failed: Some(why), .. } => format!("rebooted: but {why}"),
        Outcome::On => "on".to_owned(),
        Outcome::Refused { why } => format!("refused: {why}"),
        Outcome::Failed { why } => format!("failed: {why}"),
    }
}
