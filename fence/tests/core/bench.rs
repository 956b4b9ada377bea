//! A world for the machine: switches with power behind them, an arbiter that registers one intent
//! at a time, a journal, and one clock.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fence::core::{
    Action, Config, Delay, Device, Event, Gateway, Kind, Level, Memory, RequestId, Target, Votes,
};
use fence::device::{Command, DeviceError, Power, Seen};
use fence::journal::Entry;
use protocol::fence::{
    Answer, Ask, Attestation, Confirmation, Intent, IntentId, Nonce, Outcome, PowerAction,
    Progress, Refusal, Request, Role, TargetRecord, Verdict,
};
use protocol::ids::{BootId, Epoch, NodeId, RingId};
use protocol::rng::Rng;
use protocol::time::Time;

/// Nothing takes longer than this in a test.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A power switch and the machine behind it.
#[derive(Clone, Debug)]
pub(crate) struct Switch {
    pub(crate) on: bool,
    /// Every command takes this long.
    pub(crate) takes: Duration,
    /// Nothing answers.
    pub(crate) silent: bool,
    /// The next so many commands fail in a passing way.
    pub(crate) busy: u32,
    /// Every command fails like this.
    pub(crate) error: Option<DeviceError>,
    /// Off and on are accepted, and do nothing.
    pub(crate) ignores: bool,
    /// Off is done and not acknowledged.
    pub(crate) loses_answers: bool,
    /// What a command does shows after this.
    pub(crate) settles: Duration,
    /// Power returns by itself so long after it was cut, once.
    pub(crate) returns: Option<Duration>,
}

impl Default for Switch {
    fn default() -> Self {
        Self {
            on: true,
            takes: Duration::from_millis(5),
            silent: false,
            busy: 0,
            error: None,
            ignores: false,
            loses_answers: false,
            settles: Duration::ZERO,
            returns: None,
        }
    }
}

/// The arbiter, as far as the machine can tell.
#[derive(Clone, Debug)]
pub(crate) struct Arbiter {
    /// The side that has the vote.
    pub(crate) holders: BTreeSet<NodeId>,
    /// Undecided until then.
    pub(crate) decides_at: Time,
    pub(crate) intent: Option<(IntentId, Intent)>,
    pub(crate) records: BTreeMap<NodeId, TargetRecord>,
    /// A view without the targets has the vote since then.
    pub(crate) outside_since: Option<Time>,
    /// Calls get no answer.
    pub(crate) deaf: bool,
    pub(crate) takes: Duration,
    /// Proofs of these are refused.
    pub(crate) heard: BTreeSet<NodeId>,
    pub(crate) proofs: Vec<protocol::fence::Proof>,
    pub(crate) released: Vec<IntentId>,
    /// So many proofs are refused because they cannot be stored.
    pub(crate) full: u32,
    serial: u64,
}

/// One thing that was seen, in order.
#[derive(Clone, Debug)]
pub(crate) enum Fact {
    Recorded(Entry),
    Asked(Nonce, Ask),
    Answered(Answer),
    Ordered(String, Command),
    DeviceAnswered(String, Command, Result<Seen, DeviceError>),
    Told(RequestId, Progress),
}

pub(crate) struct Bench {
    /// What the nodes take for all votes.
    pub(crate) votes: Votes,
    pub(crate) gateway: Gateway,
    pub(crate) now: Time,
    pub(crate) switches: BTreeMap<String, Switch>,
    pub(crate) arbiter: Arbiter,
    /// The journal's disk fails.
    pub(crate) disk_fails: bool,
    /// The journal's disk does not answer.
    pub(crate) disk_stalls: bool,
    pub(crate) log: Vec<(Time, Fact)>,
    queue: BTreeMap<(Time, u64), Happening>,
    serial: u64,
    pub(crate) rng: Rng,
}

enum Happening {
    Event(Event),
    /// The command reaches the machine.
    Effect(String, Command),
    Return(String),
    Call(Nonce, Ask),
    Device(fence::core::AttemptId, String, Command),
}

pub(crate) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(crate) fn power() -> Device {
    Device { kind: Kind::Power { name: "ipmi" }, limit: ms(2000), settle: ms(1000) }
}

/// Nodes 1 to 3, each with `ipmi-N`; nothing is rehearsed.
pub(crate) fn config() -> Config {
    let mut config = Config { cluster: "demo".to_owned(), ..Config::default() };
    for node in 1..=3 {
        add(&mut config, node, &[&[&format!("ipmi-{node}")]]);
    }
    config
}

/// Gives a node these levels.
pub(crate) fn add(config: &mut Config, node: u32, levels: &[&[&str]]) {
    let level = |names: &&[&str]| Level { devices: names.iter().map(|n| (*n).into()).collect() };
    let target =
        Target { levels: levels.iter().map(level).collect(), delay: Delay::Arbiter, unfence: true };
    config.targets.insert(NodeId(node), target);
    for name in levels.iter().flat_map(|names| names.iter()) {
        let device = if name.starts_with("dog") {
            let kind = Kind::Watchdog { trust_virtual: false, trust_process: false };
            Device { kind, limit: Duration::ZERO, settle: Duration::ZERO }
        } else {
            power()
        };
        config.devices.entry((*name).to_owned()).or_insert(device);
    }
}

impl Bench {
    pub(crate) fn new(config: Config) -> Self {
        Self::with_memory(config, Memory::default(), 7)
    }

    pub(crate) fn with_memory(config: Config, memory: Memory, seed: u64) -> Self {
        let switches =
            config.devices.keys().map(|name| (name.clone(), Switch::default())).collect();
        let mut bench = Self {
            votes: config.votes.clone(),
            gateway: Gateway::new(Time::ZERO, config, memory, seed),
            now: Time::ZERO,
            switches,
            arbiter: Arbiter {
                holders: BTreeSet::from([NodeId(1)]),
                decides_at: Time::ZERO,
                intent: None,
                records: BTreeMap::new(),
                outside_since: None,
                deaf: false,
                takes: ms(1),
                heard: BTreeSet::new(),
                proofs: Vec::new(),
                released: Vec::new(),
                full: 0,
                serial: 0,
            },
            disk_fails: false,
            disk_stalls: false,
            log: Vec::new(),
            queue: BTreeMap::new(),
            serial: 0,
            rng: Rng::new(seed),
        };
        bench.drain();
        bench.event(Event::ArbiterUp);
        bench
    }

    /// A fact, now.
    pub(crate) fn event(&mut self, event: Event) {
        match &event {
            Event::Answered(answer) => {
                let fact = Fact::Answered((**answer).clone());
                self.log.push((self.now, fact));
            }
            Event::Requested { .. }
            | Event::Confirmed { .. }
            | Event::Rehearse { .. }
            | Event::Abandoned(_)
            | Event::ArbiterUp
            | Event::ArbiterDown(_)
            | Event::Testified(_)
            | Event::Device { .. }
            | Event::Recorded(_)
            | Event::RecordFailed(_)
            | Event::Timeout => {}
        }
        self.gateway.handle(self.now, event);
        self.drain();
    }

    /// A fact, later.
    pub(crate) fn later(&mut self, after: Duration, event: Event) {
        self.put(after, Happening::Event(event));
    }

    fn put(&mut self, after: Duration, happening: Happening) {
        self.serial += 1;
        self.queue.insert((self.now + after, self.serial), happening);
    }

    fn drain(&mut self) {
        while let Some(action) = self.gateway.next_action() {
            match action {
                Action::Record { token, entry } => {
                    self.log.push((self.now, Fact::Recorded(entry)));
                    if self.disk_fails {
                        self.put(Duration::ZERO, Happening::Event(Event::RecordFailed(token)));
                    } else if !self.disk_stalls {
                        self.put(Duration::ZERO, Happening::Event(Event::Recorded(token)));
                    }
                }
                Action::Ask { nonce, ask } => {
                    self.log.push((self.now, Fact::Asked(nonce, ask.clone())));
                    self.put(self.arbiter.takes, Happening::Call(nonce, ask));
                }
                Action::Device { attempt, device, command, limit } => {
                    self.log.push((self.now, Fact::Ordered(device.clone(), command)));
                    self.order(attempt, device, command, limit);
                }
                Action::Tell { id, progress } => {
                    self.log.push((self.now, Fact::Told(id, progress)));
                }
                Action::Decided(_) => {}
            }
        }
    }

    fn order(
        &mut self,
        attempt: fence::core::AttemptId,
        name: String,
        command: Command,
        limit: Duration,
    ) {
        let Some(switch) = self.switches.get_mut(&name) else { return };
        let error = if switch.silent {
            Some((limit, DeviceError::Silent(limit)))
        } else if let Some(error) = switch.error.clone() {
            Some((switch.takes, error))
        } else if switch.busy > 0 {
            switch.busy -= 1;
            Some((switch.takes, DeviceError::Refused("node busy".to_owned())))
        } else {
            None
        };
        let takes = switch.takes;
        let loses = switch.loses_answers && command != Command::Status;
        match error {
            Some((took, error)) => {
                let event = Event::Device { attempt, result: Err(error), took };
                self.put(took, Happening::Event(event));
            }
            None => {
                if command != Command::Status {
                    let settles = switch.settles;
                    self.put(takes + settles, Happening::Effect(name.clone(), command));
                }
                if loses {
                    let result = Err(DeviceError::Silent(limit));
                    let event = Event::Device { attempt, result, took: limit };
                    self.put(limit, Happening::Event(event));
                } else {
                    self.put(takes, Happening::Device(attempt, name, command));
                }
            }
        }
    }

    /// Lets the next thing happen; false if nothing ever will.
    pub(crate) fn step(&mut self) -> bool {
        let queued = self.queue.keys().next().copied();
        let due = self.gateway.deadline();
        match (queued, due) {
            (None, None) => false,
            (Some(key), due) if due.is_none_or(|due| key.0 <= due) => {
                self.now = self.now.max(key.0);
                if let Some(happening) = self.queue.remove(&key) {
                    self.happen(happening);
                }
                true
            }
            (_, Some(due)) => {
                self.now = self.now.max(due);
                self.event(Event::Timeout);
                let again = self.gateway.deadline();
                assert!(again.is_none_or(|again| again > self.now), "it does not go on");
                true
            }
            (Some(_), None) => false,
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Event(event) => self.event(event),
            Happening::Effect(name, command) => {
                let Some(switch) = self.switches.get_mut(&name) else { return };
                if switch.ignores {
                    return;
                }
                switch.on = command == Command::On;
                if let Some(after) = switch.returns.take_if(|_| command == Command::Off) {
                    self.put(after, Happening::Return(name));
                }
            }
            Happening::Return(name) => {
                if let Some(switch) = self.switches.get_mut(&name) {
                    switch.on = true;
                }
            }
            Happening::Call(nonce, ask) => {
                if !self.arbiter.deaf {
                    let verdict = self.arbiter.verdict(self.now, ask);
                    let answer = Answer { nonce, verdict };
                    let takes = self.arbiter.takes;
                    self.put(takes, Happening::Event(Event::Answered(Box::new(answer))));
                }
            }
            Happening::Device(attempt, name, command) => {
                let Some(switch) = self.switches.get(&name) else { return };
                let power = if switch.on { Power::On } else { Power::Off };
                let took = switch.takes;
                let result = Ok(match command {
                    Command::Status => Seen::Power(power),
                    Command::Off | Command::On => Seen::Accepted,
                });
                let fact = Fact::DeviceAnswered(name, command, result.clone());
                self.log.push((self.now, fact));
                self.event(Event::Device { attempt, result, took });
            }
        }
    }

    /// Lets everything happen until then.
    pub(crate) fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let queued = self.queue.keys().next().map(|key| key.0);
            let next = queued.into_iter().chain(self.gateway.deadline()).min();
            match next {
                Some(next) if next <= end => {
                    self.step();
                }
                Some(_) | None => break,
            }
        }
        self.now = end;
    }

    /// Lets everything happen until this request is answered.
    pub(crate) fn until_done(&mut self, id: u64) -> BTreeMap<NodeId, Outcome> {
        let end = self.now + PATIENCE;
        loop {
            if let Some(results) = self.done(id) {
                return results;
            }
            assert!(self.now < end && self.step(), "request {id} is never answered");
        }
    }

    /// How a request ended, if it has.
    pub(crate) fn done(&self, id: u64) -> Option<BTreeMap<NodeId, Outcome>> {
        self.log.iter().find_map(|(_, fact)| match fact {
            Fact::Told(told, Progress::Done { results }) if told.0 == id => Some(results.clone()),
            Fact::Told(..)
            | Fact::Recorded(_)
            | Fact::Asked(..)
            | Fact::Answered(_)
            | Fact::Ordered(..)
            | Fact::DeviceAnswered(..) => None,
        })
    }

    /// Node `requester` asks, in epoch 5.
    pub(crate) fn ask(&mut self, id: u64, requester: u32, targets: &[u32], action: PowerAction) {
        let request = request(requester, targets, action);
        self.event(Event::Requested { id: RequestId(id), request });
    }

    pub(crate) fn confirm(&mut self, id: u64, requester: u32, node: u32) {
        let confirmation = Confirmation {
            requester: NodeId(requester),
            epoch: Some(Epoch(5)),
            node: NodeId(node),
            by: "ada".to_owned(),
            why: "I pulled the plug".to_owned(),
        };
        self.event(Event::Confirmed { id: RequestId(id), confirmation });
    }

    /// The outcome for one node.
    pub(crate) fn outcome(&mut self, id: u64, node: u32) -> Outcome {
        let results = self.until_done(id);
        results.get(&NodeId(node)).cloned().expect("an outcome for the node")
    }

    pub(crate) fn switch(&mut self, name: &str) -> &mut Switch {
        self.switches.get_mut(name).expect("a configured device")
    }

    /// Commands of this kind to this device, with their times.
    pub(crate) fn orders(&self, device: &str, command: Command) -> Vec<Time> {
        self.log
            .iter()
            .filter(|(_, fact)| matches!(fact, Fact::Ordered(name, c) if name == device && *c == command))
            .map(|(at, _)| *at)
            .collect()
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.log
            .iter()
            .filter_map(|(_, fact)| match fact {
                Fact::Recorded(entry) => Some(entry.clone()),
                Fact::Told(..)
                | Fact::Asked(..)
                | Fact::Answered(_)
                | Fact::Ordered(..)
                | Fact::DeviceAnswered(..) => None,
            })
            .collect()
    }

    pub(crate) fn asks(&self) -> Vec<Ask> {
        self.log
            .iter()
            .filter_map(|(_, fact)| match fact {
                Fact::Asked(_, ask) => Some(ask.clone()),
                Fact::Told(..)
                | Fact::Recorded(_)
                | Fact::Answered(_)
                | Fact::Ordered(..)
                | Fact::DeviceAnswered(..) => None,
            })
            .collect()
    }

    /// Where in the log something is first.
    pub(crate) fn position(&self, what: &str, is: impl Fn(&Fact) -> bool) -> usize {
        let at = self.log.iter().position(|(_, fact)| is(fact));
        at.unwrap_or_else(|| panic!("{what} is not in the log: {:#?}", self.log))
    }
}

pub(crate) fn request(requester: u32, targets: &[u32], action: PowerAction) -> Request {
    Request {
        requester: NodeId(requester),
        epoch: Some(Epoch(5)),
        targets: targets.iter().map(|node| NodeId(*node)).collect(),
        action,
        reason: "lost".to_owned(),
    }
}

impl Arbiter {
    fn verdict(&mut self, now: Time, ask: Ask) -> Verdict {
        match ask {
            Ask::Register(intent) => self.register(now, intent),
            Ask::Attest(id) => match self.intent.clone().filter(|(open, _)| *open == id) {
                None => Verdict::Refused(Refusal::UnknownIntent),
                Some((_, intent)) => self.attest(now, id, &intent),
            },
            Ask::Off { intent, proof } => match &self.intent {
                Some((open, _)) if *open == intent => {
                    if self.full > 0 {
                        self.full -= 1;
                        return Verdict::Refused(Refusal::NotStored);
                    }
                    if self.heard.contains(&proof.node) {
                        return Verdict::Refused(Refusal::Heard(proof.node));
                    }
                    self.proofs.push(proof);
                    Verdict::Noted
                }
                Some(_) | None => Verdict::Refused(Refusal::UnknownIntent),
            },
            Ask::Release(id) => {
                self.intent.take_if(|(open, _)| *open == id);
                self.released.push(id);
                Verdict::Noted
            }
        }
    }

    fn register(&mut self, now: Time, mut intent: Intent) -> Verdict {
        if let Some((id, open)) = &self.intent {
            if (open.requester, open.epoch) != (intent.requester, intent.epoch) {
                let (requester, targets) = (open.requester, open.targets.clone());
                return Verdict::Refused(Refusal::Busy { requester, targets });
            }
            intent.targets.extend(open.targets.iter().copied());
            let id = *id;
            let verdict = self.attest(now, id, &intent);
            if matches!(verdict, Verdict::Entitled(_)) {
                self.intent = Some((id, intent));
            }
            return verdict;
        }
        let id = IntentId { serial: self.serial + 1, boot: 1, ..IntentId::default() };
        let verdict = self.attest(now, id, &intent);
        if matches!(verdict, Verdict::Entitled(_)) {
            self.serial += 1;
            self.intent = Some((id, intent));
        }
        verdict
    }

    fn attest(&self, now: Time, intent: IntentId, of: &Intent) -> Verdict {
        if now < self.decides_at {
            return Verdict::Refused(Refusal::Undecided("votes are still out".to_owned()));
        }
        if !self.holders.contains(&of.requester) {
            return Verdict::Refused(Refusal::NotEntitled(self.holders.clone()));
        }
        if let Some(own) = of.targets.iter().find(|node| self.holders.contains(node)) {
            return Verdict::Refused(Refusal::OwnSide(*own));
        }
        let outside_ms = self
            .outside_since
            .map(|since| u64::try_from(now.since(since).as_millis()).unwrap_or(u64::MAX));
        let record = |node: &NodeId| {
            let default =
                TargetRecord { boot: BootId(u128::from(node.0) * 100), ..TargetRecord::default() };
            let record = self.records.get(node).copied().unwrap_or(default);
            (*node, TargetRecord { outside_ms, ..record })
        };
        Verdict::Entitled(Attestation {
            intent,
            epoch: Epoch(6),
            ring: RingId::new(1, 8),
            holders: self.holders.clone(),
            role: Role::Holder,
            targets: of.targets.iter().map(record).collect(),
        })
    }
}
