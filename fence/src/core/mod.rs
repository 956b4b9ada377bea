//! The gateway's machine.
//!
//! [`Gateway::handle`] takes facts in, [`Gateway::next_action`] gives duties out in order,
//! [`Gateway::deadline`] says when to call again with [`Event::Timeout`].
//!
//! The way of a request: it is written down ([`Action::Record`]), the arbiter records the intent
//! and says who is entitled ([`Action::Ask`]), the levels of each target are gone through (status,
//! the arbiter again, off, read back in a fresh session), the proof is written down and told to the
//! arbiter, and the requester hears of every step ([`Action::Tell`]). While no arbiter answers, the
//! members of the requester's view are asked in its place ([`Progress::Challenge`],
//! [`Event::Testified`]).

mod attest;
mod desk;
mod incident;
mod level;
mod majority;
mod power_job;
mod power_on;
mod rehearsal;
mod request;
mod restart;
mod round;
mod run;
mod snapshot;
mod text;
mod watchdog;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use protocol::fence::{
    Answer, Ask, Confirmation, IntentId, Nonce, Outcome, Progress, Request, Testimony,
};
use protocol::ids::NodeId;
use protocol::time::Time;

use crate::device::{Command, DeviceError, Seen};
use crate::journal::Entry;

use desk::Desk;
use incident::Incident;
use power_job::PowerJob;
use rehearsal::{Rehearsals, Trial};
use request::Waiter;
use restart::Interrupted;
use snapshot::NodeMemory;

pub use request::REQUESTS_MAX;

/// Names one requester's open request; never used again for another.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct RequestId(pub u64);

/// Names one command to one device; never used again for another.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct AttemptId(pub u64);

/// Names one write to the journal.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Token(pub u64);

/// The name of a device in the configuration.
pub type DeviceName = String;

/// Everything that can happen to a gateway.
#[derive(Clone, Debug)]
pub enum Event {
    /// A requester asks; TLS has proven that it may speak for `request.requester`.
    Requested {
        /// Its name from now on.
        id: RequestId,
        /// What it asks.
        request: Request,
    },
    /// An operator confirms (safety 28).
    Confirmed {
        /// Its name from now on.
        id: RequestId,
        /// What is confirmed.
        confirmation: Confirmation,
    },
    /// Rehearse the whole path for a node, without a power command. What is found is told in steps;
    /// the results are empty if all of it would work, else `Failed` with what would not.
    Rehearse {
        /// Its name from now on.
        id: RequestId,
        /// For whom.
        node: NodeId,
    },
    /// The requester is gone; the job goes on.
    Abandoned(RequestId),
    /// The arbiter has answered.
    Answered(Box<Answer>),
    /// The session with the arbiter is up and its certificate verified.
    ArbiterUp,
    /// It is not: calls without an answer have none.
    ArbiterDown(String),
    /// A member of a requester's view testifies; TLS has proven that it is `testimony.node`, by a
    /// certificate that is bound to that node.
    Testified(Box<Testimony>),
    /// A device has done what it was told, or has not.
    Device {
        /// Which command.
        attempt: AttemptId,
        /// What came of it.
        result: Result<Seen, DeviceError>,
        /// How long it took.
        took: Duration,
    },
    /// The entry of [`Action::Record`] is on disk.
    Recorded(Token),
    /// It is not, and will not be: no power command without a record.
    RecordFailed(Token),
    /// The [`Gateway::deadline`] has passed.
    Timeout,
}

/// Everything a gateway may do.
#[derive(Clone, Debug)]
pub enum Action {
    /// Append to the journal and make it durable, then say so.
    Record {
        /// Comes back in the answer.
        token: Token,
        /// What.
        entry: Entry,
    },
    /// Ask the arbiter. The nonce is fresh; only its answer counts (safety 27).
    Ask {
        /// Comes back in the answer.
        nonce: Nonce,
        /// What.
        ask: Ask,
    },
    /// Have a device do something. Devices of different attempts work at the same time.
    Device {
        /// Comes back in the answer.
        attempt: AttemptId,
        /// Which.
        device: DeviceName,
        /// What.
        command: Command,
        /// It has failed by then.
        limit: Duration,
    },
    /// Tell a requester; after [`Progress::Done`] its request is over.
    Tell {
        /// Whom.
        id: RequestId,
        /// What.
        progress: Progress,
    },
    /// A decision, for the log.
    Decided(String),
}

/// What the machine needs to know of the configuration.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The cluster's name, for status.
    pub cluster: String,
    /// Who can be fenced, and how.
    pub targets: BTreeMap<NodeId, Target>,
    /// Every device that a level names.
    pub devices: BTreeMap<DeviceName, Device>,
    /// The same device is rehearsed this often, more or less (readiness); never if it is zero.
    pub rehearse_every: Duration,
    /// What more than half of all votes is. Without nodes, nobody but the arbiter attests.
    pub votes: Votes,
}

/// All votes of the cluster, as its own configuration says.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Votes {
    /// Of each node.
    pub nodes: BTreeMap<NodeId, u32>,
    /// Of the arbiter; 0 if the cluster has no quorum device.
    pub arbiter: u32,
}

impl Votes {
    /// All that there are.
    pub fn all(&self) -> u32 {
        self.nodes.values().fold(self.arbiter, |sum, votes| sum.saturating_add(*votes))
    }

    /// These, of different nodes, are more than half of all.
    fn are_most(&self, some: impl Iterator<Item = u32>) -> bool {
        some.map(u64::from).sum::<u64>() * 2 > u64::from(self.all())
    }
}

/// How one node is fenced.
#[derive(Clone, Debug, Default)]
pub struct Target {
    /// Tried in order; the first level that proves the node off ends it.
    pub levels: Vec<Level>,
    /// Waited before the first command.
    pub delay: Delay,
    /// Give power again after a fence that asked for a reboot, and on `on`.
    pub unfence: bool,
}

/// Devices that must all succeed: the power supplies of one machine.
#[derive(Clone, Debug, Default)]
pub struct Level {
    /// Their names, at least one.
    pub devices: Vec<DeviceName>,
}

/// What is waited before the first command, so that in an even fight somebody goes first. Two sides
/// can never fence each other whatever this says: there is one intent a cluster (F15).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Delay {
    /// Nothing: the arbiter has decided who goes first when it attested the requester.
    #[default]
    Arbiter,
    /// Always this long.
    Fixed(Duration),
    /// Up to this long, drawn anew for each job.
    Random(Duration),
}

/// One device, as far as the machine cares.
#[derive(Clone, Debug)]
pub struct Device {
    /// What it does.
    pub kind: Kind,
    /// One command has failed after this long.
    pub limit: Duration,
    /// From the acceptance of `off` until it must read off.
    pub settle: Duration,
}

/// The kinds that the machine has to tell apart.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Cuts power and reads it back: IPMI, Redfish.
    Power {
        /// For status and the journal: `ipmi`, `redfish`.
        name: &'static str,
    },
    /// A fence agent: as [`Kind::Power`].
    Agent,
    /// Nothing is sent: the node's own watchdog has ended everything on it once its announced bound
    /// has passed since a view without it has the vote (rule S5).
    Watchdog {
        /// Class B is taken for a proof too (safety 23).
        trust_virtual: bool,
        /// And class C.
        trust_process: bool,
    },
}

/// What is left of an earlier life: jobs that were open when the process ended. Their true state is
/// read from the devices and never assumed.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Targets with a recorded intent and no recorded end, and who asked.
    pub open: BTreeMap<NodeId, OpenJob>,
    /// What the arbiter registered, and has not been heard to release.
    pub intents: BTreeSet<IntentId>,
    /// The highest job number used.
    pub last_job: u64,
}

/// One job that was open.
#[derive(Clone, Debug)]
pub struct OpenJob {
    /// The job's number.
    pub job: u64,
    /// Who asked.
    pub requester: NodeId,
    /// All targets of the request.
    pub targets: BTreeSet<NodeId>,
    /// A power command may have been sent.
    pub commanded: bool,
}

/// The gateway.
#[derive(Debug)]
pub struct Gateway {
    config: Config,
    desk: Desk,
    last_job: u64,
    /// The arbiter registers one at a time (F15); the others wait for its word.
    incidents: Vec<Incident>,
    power_jobs: Vec<PowerJob>,
    waiters: BTreeMap<RequestId, Waiter>,
    trials: Vec<Trial>,
    interrupted: Vec<Interrupted>,
    rehearsals: Rehearsals,
    nodes: BTreeMap<NodeId, NodeMemory>,
}

impl Gateway {
    /// A gateway that starts at `now`. All its chance comes from the seed.
    pub fn new(now: Time, config: Config, memory: Memory, seed: u64) -> Self {
        let mut desk = Desk::new(seed);
        desk.note(Entry::Started { open: memory.open.len() });
        // First of all: calls are made in order, so nothing that is registered from now on is meant.
        for intent in &memory.intents {
            desk.ask(now, Ask::Release(*intent));
        }
        let interrupted = memory
            .open
            .iter()
            .map(|(node, open)| Interrupted::new(now, &mut desk, &config, *node, open))
            .collect();
        let mut gateway = Self {
            config: Config::default(),
            desk,
            last_job: memory.last_job,
            incidents: Vec::new(),
            power_jobs: Vec::new(),
            waiters: BTreeMap::new(),
            trials: Vec::new(),
            interrupted,
            rehearsals: Rehearsals::default(),
            nodes: BTreeMap::new(),
        };
        gateway.configure(config);
        gateway.advance(now);
        gateway
    }

    /// Takes a fact in.
    pub fn handle(&mut self, now: Time, event: Event) {
        match event {
            Event::Requested { id, request } => self.requested(now, id, request),
            Event::Confirmed { id, confirmation } => self.confirmed(now, id, confirmation),
            Event::Rehearse { id, node } => self.rehearse(now, id, node),
            Event::Abandoned(id) => self.abandoned(id),
            Event::Answered(answer) => self.desk.take_answer(now, *answer),
            Event::ArbiterUp => self.desk.arbiter_is_up(now),
            Event::ArbiterDown(why) => self.desk.arbiter_is_down(now, &why),
            Event::Testified(testimony) => self.desk.testified(*testimony),
            Event::Device { attempt, result, took } => {
                if let Some(answer) = self.desk.answered(attempt, result, took) {
                    self.rehearsals.heard(now, &answer);
                }
            }
            Event::Recorded(token) => self.desk.was_written(token, true),
            Event::RecordFailed(token) => self.desk.was_written(token, false),
            Event::Timeout => {}
        }
        for answer in self.desk.look_at_clock(now) {
            self.rehearsals.heard(now, &answer);
        }
        self.advance(now);
    }

    /// Testimonies to this nonce are waited for.
    pub fn is_open(&self, nonce: Nonce) -> bool {
        self.desk.majority.is_open(nonce)
    }

    /// The next duty, in order; `None` when all are done.
    pub fn next_action(&mut self) -> Option<Action> {
        self.desk.next_action()
    }

    /// When to call with [`Event::Timeout`], if nothing happens before.
    pub fn deadline(&self) -> Option<Time> {
        let parts = [
            self.desk.deadline(),
            self.incidents.iter().filter_map(Incident::deadline).min(),
            self.power_jobs.iter().filter_map(PowerJob::deadline).min(),
            self.trials.iter().filter_map(Trial::deadline).min(),
            self.interrupted.iter().filter_map(Interrupted::deadline).min(),
            self.rehearsals.deadline(&self.config),
        ];
        parts.into_iter().flatten().min()
    }

    /// Changes the configuration; jobs that run keep the one they began with.
    pub fn configure(&mut self, config: Config) {
        self.config = config;
        self.desk.majority.configure(&self.config.votes);
        self.rehearsals.configure(&mut self.desk, &self.config);
        self.nodes.retain(|node, _| self.config.targets.contains_key(node));
    }

    /// Everybody goes as far as he can.
    fn advance(&mut self, now: Time) {
        self.advance_incidents(now);
        // A fence waits for what gives power, and that does not begin anything more.
        for incident in self.incidents.iter().filter(|incident| incident.is_registered()) {
            for node in incident.runs.keys() {
                self.power_jobs.iter_mut().for_each(|job| job.stop(*node));
            }
        }
        if self.advance_power_jobs(now) {
            self.advance_incidents(now);
        }
        let mut interrupted = std::mem::take(&mut self.interrupted);
        interrupted.retain_mut(|earlier| match earlier.advance(now, &mut self.desk) {
            Some(outcome) => {
                self.finish(earlier.job, earlier.node, outcome);
                false
            }
            None => true,
        });
        self.interrupted = interrupted;
        for device in self.rehearsals.advance(now, &mut self.desk, &self.config) {
            self.nodes.values_mut().for_each(|memory| memory.reads_on(&device));
        }
        self.trials.retain_mut(|trial| !trial.advance(now, &mut self.desk));
        self.tell_challenges();
    }

    /// True if one of them is over for a node.
    fn advance_power_jobs(&mut self, now: Time) -> bool {
        let mut over = Vec::new();
        for job in &mut self.power_jobs {
            let ended = job.advance(now, &mut self.desk);
            over.extend(ended.into_iter().map(|(node, outcome)| (job.number(), node, outcome)));
        }
        self.power_jobs.retain(|job| !job.is_over());
        let some = !over.is_empty();
        for (job, node, outcome) in over {
            self.finish(job, node, outcome);
        }
        some
    }

    fn advance_incidents(&mut self, now: Time) {
        let busy: BTreeSet<NodeId> = self.power_jobs.iter().flat_map(PowerJob::nodes).collect();
        let intents: BTreeMap<u64, BTreeSet<IntentId>> =
            self.incidents.iter().map(|open| (open.job, open.intents.clone())).collect();
        for mut incident in std::mem::take(&mut self.incidents) {
            let job = incident.job;
            let others = intents.iter().filter(|(other, _)| **other != job);
            let others = others.flat_map(|(_, intents)| intents.iter().copied()).collect();
            incident.advance(now, &mut self.desk, &busy, &others);
            for (node, run) in &mut incident.runs {
                for progress in std::mem::take(&mut run.news) {
                    self.tell_waiters(job, *node, &progress);
                }
            }
            for (node, run) in incident.take_over() {
                let failed = || Outcome::Failed { why: "it ended without a word".to_owned() };
                let outcome = run.outcome.unwrap_or_else(failed);
                self.finish(job, node, outcome.clone());
                if let Outcome::Off { .. } = outcome {
                    self.rehearsals.look_again(now, &run.off);
                    if let Some(memory) = self.nodes.get_mut(&node) {
                        memory.off = run.off;
                    }
                }
            }
            if incident.is_over() {
                incident.release(now, &mut self.desk);
            } else {
                self.incidents.push(incident);
            }
        }
    }
}
