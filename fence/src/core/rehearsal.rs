//! Readiness: each power switch is logged in to and read now and then, so that one that would not
//! work is known before it is needed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use protocol::fence::{Outcome, Progress};
use protocol::ids::NodeId;
use protocol::time::Time;

use super::desk::{Desk, DeviceAnswer, Done};
use super::round::{Outlet, Round};
use super::run::Plan;
use super::{Action, AttemptId, Config, DeviceName, Kind, RequestId};
use crate::device::{Command, Power, Seen};

/// After a start the first rehearsals are spread over this.
const FIRST_WITHIN: Duration = Duration::from_secs(5);
/// A device that has failed is tried again at least this often.
const FAILED_EVERY: Duration = Duration::from_secs(60);
/// A device that works for a job is left alone for this long.
const BUSY_PAUSE: Duration = Duration::from_secs(5);
/// A node that was proven off is looked at again after this: power may return by itself.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What is known of one device.
#[derive(Debug, Default)]
pub(super) struct Readiness {
    due: Option<Time>,
    out: Option<AttemptId>,
    /// The last answer: when it came, and how long it took.
    pub(super) last: Option<(Done, Duration, Time)>,
    pub(super) power: Option<Power>,
}

impl Readiness {
    /// Why it would not work now.
    pub(super) fn problem(&self) -> Option<String> {
        self.last.as_ref()?.0.as_ref().err().map(ToString::to_string)
    }
}

/// Every power switch.
#[derive(Debug, Default)]
pub(super) struct Rehearsals {
    pub(super) devices: BTreeMap<DeviceName, Readiness>,
}

impl Rehearsals {
    /// The devices that a configuration names, and no others.
    pub(super) fn configure(&mut self, desk: &mut Desk, config: &Config) {
        self.devices.retain(|name, readiness| {
            let stays = config.devices.contains_key(name);
            if let Some(attempt) = readiness.out.filter(|_| !stays) {
                desk.forget_attempt(attempt);
            }
            stays
        });
        for (name, device) in &config.devices {
            match device.kind {
                Kind::Power { .. } | Kind::Agent => {
                    self.devices.entry(name.clone()).or_default();
                }
                Kind::Watchdog { .. } => {
                    self.devices.remove(name);
                }
            }
        }
    }

    /// A device has answered, to whatever.
    pub(super) fn heard(&mut self, now: Time, answer: &DeviceAnswer) {
        let Some(readiness) = self.devices.get_mut(&answer.device) else { return };
        readiness.last = Some((answer.done.clone(), answer.took, now));
        readiness.power = match &answer.done {
            Ok(Seen::Power(power)) => Some(*power),
            Ok(Seen::Accepted) | Err(_) => None,
        };
    }

    /// These have just proven a node off.
    pub(super) fn look_again(&mut self, now: Time, devices: &BTreeSet<DeviceName>) {
        for name in devices {
            if let Some(readiness) = self.devices.get_mut(name) {
                readiness.due = Some(now + LOOK_AGAIN);
            }
        }
    }

    /// Rehearses what is due; the devices that read on at it.
    pub(super) fn advance(
        &mut self,
        now: Time,
        desk: &mut Desk,
        config: &Config,
    ) -> Vec<DeviceName> {
        let mut on = Vec::new();
        if config.rehearse_every == Duration::ZERO {
            return on;
        }
        for (name, readiness) in &mut self.devices {
            if let Some(attempt) = readiness.out
                && let Some((done, _)) = desk.result(attempt)
            {
                readiness.out = None;
                let every = config.rehearse_every;
                let every = if done.is_ok() { every } else { every.min(FAILED_EVERY) };
                // From nine tenths to eleven tenths, so that devices drift apart.
                readiness.due = Some(now + every * 9 / 10 + desk.chance(every / 5));
                if done == Ok(Seen::Power(Power::On)) {
                    on.push(name.clone());
                }
            }
            let due = *readiness.due.get_or_insert_with(|| now + desk.chance(FIRST_WITHIN));
            let Some(device) = config.devices.get(name).filter(|_| now >= due) else { continue };
            if readiness.out.is_none() {
                if desk.is_busy(name) {
                    readiness.due = Some(now + BUSY_PAUSE);
                } else {
                    let limit = device.limit;
                    readiness.out = Some(desk.command(now, name, Command::Status, limit, None));
                }
            }
        }
        on
    }

    pub(super) fn deadline(&self, config: &Config) -> Option<Time> {
        if config.rehearse_every == Duration::ZERO {
            return None;
        }
        let waits = self.devices.values().filter(|readiness| readiness.out.is_none());
        waits.map(|readiness| readiness.due.unwrap_or(Time::ZERO)).min()
    }
}

/// The whole path for one node, without a power command.
#[derive(Debug)]
pub(super) struct Trial {
    id: RequestId,
    node: NodeId,
    levels: Vec<Vec<Outlet>>,
    watchdogs: usize,
    round: Round,
}

impl Trial {
    pub(super) fn new(
        now: Time,
        desk: &mut Desk,
        id: RequestId,
        node: NodeId,
        plan: &Plan,
    ) -> Self {
        let levels = plan.power_levels();
        let all: BTreeMap<DeviceName, Outlet> =
            levels.iter().flatten().map(|outlet| (outlet.0.clone(), outlet.clone())).collect();
        let all: Vec<Outlet> = all.into_values().collect();
        let round = Round::once(now, desk, Command::Status, &all, None);
        Self { id, node, levels, watchdogs: plan.watchdogs(), round }
    }

    pub(super) fn id(&self) -> RequestId {
        self.id
    }

    /// Goes as far as it can; true at the end, when everything is told.
    pub(super) fn advance(&mut self, now: Time, desk: &mut Desk) -> bool {
        if !self.round.advance(now, desk) {
            return false;
        }
        let mut problems = Vec::new();
        let mut lines = Vec::new();
        let mut takes = None;
        let mut before = Duration::ZERO;
        for (index, outlets) in self.levels.iter().enumerate() {
            let (mut longest, mut works) = (Duration::ZERO, true);
            for (name, device) in outlets {
                let found = self.round.results().find(|(outlet, _, _)| outlet.0 == *name);
                match found {
                    Some((_, Ok(Seen::Power(power)), took)) => {
                        longest = longest.max(took);
                        let took = took.as_millis();
                        lines.push(format!(
                            "level {}: {name} answers within {took} ms and reads {power}",
                            index + 1
                        ));
                    }
                    Some((_, Ok(Seen::Accepted), _)) | None => works = false,
                    Some((_, Err(error), _)) => {
                        works = false;
                        longest = longest.max(device.limit);
                        problems.push(format!("level {}: {name}: {error}", index + 1));
                    }
                }
            }
            if works && takes.is_none() {
                // The first look, the command, and the reading behind it.
                takes = Some(before + longest * 3);
            }
            before += longest;
        }
        if self.watchdogs > 0 {
            lines.push("a watchdog level waits out the bound that the node has announced".into());
        }
        match desk.arbiter() {
            Ok(()) => lines.push("the arbiter is connected".to_owned()),
            Err(why) => problems.push(format!("the arbiter is not connected: {why}")),
        }
        let round_trips = desk.round_trip().unwrap_or_default() * 3;
        match takes {
            Some(takes) => {
                let ms = (takes + round_trips).as_millis().max(1);
                lines.push(format!("a real fence would take about {ms} ms"));
            }
            None if self.watchdogs > 0 => {
                let ms = before.as_millis();
                lines.push(format!("a real fence would take {ms} ms and the watchdog's bound"));
            }
            None => lines.push("a real fence would fail".to_owned()),
        }
        self.tell(desk, lines, &problems);
        true
    }

    fn tell(&self, desk: &mut Desk, lines: Vec<String>, problems: &[String]) {
        let id = self.id;
        for text in problems.iter().cloned().chain(lines) {
            let progress = Progress::Step { node: Some(self.node), text };
            desk.act(Action::Tell { id, progress });
        }
        let mut results = BTreeMap::new();
        if !problems.is_empty() {
            results.insert(self.node, Outcome::Failed { why: problems.join("; ") });
        }
        desk.act(Action::Tell { id, progress: Progress::Done { results } });
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        self.round.deadline()
    }
}
