//! What every part of the machine uses: numbers that are never used twice, duties in order, and the
//! questions to the arbiter, the devices and the journal whose answers are still out.
//!
//! Whoever asks keeps the number and looks for the answer when it is its turn; an answer that
//! nobody waits for is dropped.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use protocol::fence::{Answer, Ask, IntentId, Nonce, Testimony, Verdict};
use protocol::ids::{ArbiterId, NodeId};
use protocol::rng::Rng;
use protocol::time::Time;

use super::majority::Majority;
use super::text::{clean, clean_error};
use super::{Action, AttemptId, DeviceName, Token};
use crate::device::{Command, DeviceError, Seen};
use crate::journal::Entry;

/// A call without an answer is asked again, with a fresh nonce, after this.
pub(super) const CALL_LIMIT: Duration = Duration::from_secs(3);
/// What did not work, and may soon, is tried again after this ..
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// .. or up to so much later.
const PAUSE_SPREAD: Duration = Duration::from_millis(150);
/// A command is taken for lost when even its own failure has not come back so long after its limit.
const GRACE: Duration = Duration::from_secs(1);

/// So many calls are out at the same time; the others follow when one is answered. An arbiter that
/// stores one proof after the other refuses more than it can queue.
pub(super) const CALLS_OUT_MAX: usize = 32;
/// So many registrations that nobody waits for are asked on; the oldest makes room.
const ABANDONED_MAX: usize = 8;

/// Names one question to the arbiter, however often it is asked.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct CallId(u64);

/// What came of one command.
pub(super) type Done = Result<Seen, DeviceError>;

/// One question to the arbiter.
#[derive(Debug)]
struct OpenCall {
    ask: Ask,
    /// For a proof: when the command was sent, because a later question names a greater age.
    sent: Option<Time>,
    /// A registration that nobody waits for any more, but that may have been heard: what it has
    /// registered is released.
    abandoned: bool,
    /// The arbiter was asked, and may have heard it ..
    asked: bool,
    /// .. and has not answered in time.
    missed: bool,
    state: CallState,
}

impl OpenCall {
    fn new(ask: Ask, sent: Option<Time>, state: CallState) -> Self {
        Self { ask, sent, abandoned: false, asked: false, missed: false, state }
    }
}

#[derive(Debug)]
enum CallState {
    /// To be asked then, or when the arbiter is up.
    Due(Time),
    /// Asked, under this nonce.
    Out { nonce: Nonce, since: Time },
    /// It is of an intent that members have attested, and they are asked.
    Heard,
    /// Answered; not looked at yet.
    Back(Verdict),
}

/// For whom a device works, for the journal; rehearsals are not written down.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cause {
    pub(super) job: u64,
    pub(super) node: NodeId,
}

#[derive(Debug)]
struct OpenAttempt {
    device: DeviceName,
    command: Command,
    limit: Duration,
    until: Time,
    cause: Option<Cause>,
    done: Option<(Done, Duration)>,
}

/// One answer of a device, for its readiness.
pub(super) struct DeviceAnswer {
    pub(super) device: DeviceName,
    pub(super) done: Done,
    pub(super) took: Duration,
}

#[derive(Debug)]
pub(super) struct Desk {
    rng: Rng,
    /// Tokens, attempts and calls are numbered alike.
    last: u64,
    actions: VecDeque<Action>,
    /// Up, or why not.
    arbiter: Result<(), String>,
    round_trip: Option<Duration>,
    calls: BTreeMap<CallId, OpenCall>,
    /// Who stands in for it.
    pub(super) majority: Majority,
    attempts: BTreeMap<AttemptId, OpenAttempt>,
    /// Writes that somebody waits for, and what came of them.
    writes: BTreeMap<Token, Option<bool>>,
    journal_fails: bool,
}

impl Desk {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            rng: Rng::new(seed),
            last: 0,
            actions: VecDeque::new(),
            arbiter: Err("not connected yet".to_owned()),
            round_trip: None,
            calls: BTreeMap::new(),
            majority: Majority::default(),
            attempts: BTreeMap::new(),
            writes: BTreeMap::new(),
            journal_fails: false,
        }
    }

    pub(super) fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    pub(super) fn act(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    pub(super) fn decided(&mut self, text: String) {
        self.act(Action::Decided(text));
    }

    fn next_number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Up to `most`, at random.
    pub(super) fn chance(&mut self, most: Duration) -> Duration {
        let micros = u64::try_from(most.as_micros()).unwrap_or(u64::MAX).saturating_add(1);
        Duration::from_micros(self.rng.below(micros))
    }

    /// How long to wait before something is tried again.
    pub(super) fn pause(&mut self) -> Duration {
        PAUSE_MIN + self.chance(PAUSE_SPREAD)
    }

    // The journal.

    /// Writes down what nothing waits for.
    pub(super) fn note(&mut self, entry: Entry) {
        let token = Token(self.next_number());
        self.act(Action::Record { token, entry });
    }

    /// Writes down what something waits for.
    pub(super) fn write(&mut self, entry: Entry) -> Token {
        let token = Token(self.next_number());
        self.writes.insert(token, None);
        self.act(Action::Record { token, entry });
        token
    }

    pub(super) fn was_written(&mut self, token: Token, durable: bool) {
        self.journal_fails = !durable;
        if let Some(write) = self.writes.get_mut(&token) {
            *write = Some(durable);
        }
    }

    /// Whether it is durable, once that is known; asked until it is.
    pub(super) fn written(&mut self, token: Token) -> Option<bool> {
        let durable = self.writes.get(&token).copied().unwrap_or(Some(false));
        if durable.is_some() {
            self.writes.remove(&token);
        }
        durable
    }

    /// Nobody waits for it any more.
    pub(super) fn forget_write(&mut self, token: Token) {
        self.writes.remove(&token);
    }

    pub(super) fn journal_fails(&self) -> bool {
        self.journal_fails
    }

    // Devices.

    /// Has a device do something. What it is for is written down; that nothing else has to wait for
    /// that is the caller's to know.
    pub(super) fn command(
        &mut self,
        now: Time,
        device: &DeviceName,
        command: Command,
        limit: Duration,
        cause: Option<Cause>,
    ) -> AttemptId {
        let attempt = AttemptId(self.next_number());
        let until = now + limit + GRACE;
        let (device, done) = (device.clone(), None);
        self.act(Action::Device { attempt, device: device.clone(), command, limit });
        self.attempts.insert(attempt, OpenAttempt { device, command, limit, until, cause, done });
        attempt
    }

    /// A device has done what it was told, or has not; `None` if nobody waits for that.
    pub(super) fn answered(
        &mut self,
        attempt: AttemptId,
        done: Done,
        took: Duration,
    ) -> Option<DeviceAnswer> {
        let open = self.attempts.get_mut(&attempt).filter(|open| open.done.is_none())?;
        let done = done.map_err(clean_error).and_then(|seen| fits(open.command, seen));
        open.done = Some((done.clone(), took));
        let (device, command, cause) = (open.device.clone(), open.command, open.cause);
        if let Some(Cause { job, node }) = cause {
            let power = match &done {
                Ok(Seen::Power(power)) => Some(*power),
                Ok(Seen::Accepted) | Err(_) => None,
            };
            let error = done.as_ref().err().cloned();
            let device = device.clone();
            self.note(Entry::Answer { job, node, device, command, power, error });
        }
        Some(DeviceAnswer { device, done, took })
    }

    /// What came of a command, once that is known; asked until it is.
    pub(super) fn result(&mut self, attempt: AttemptId) -> Option<(Done, Duration)> {
        let Some(open) = self.attempts.get(&attempt) else {
            return Some((Err(DeviceError::Local("the command is lost".to_owned())), GRACE));
        };
        let done = open.done.clone()?;
        self.attempts.remove(&attempt);
        Some(done)
    }

    /// Nobody waits for it any more.
    pub(super) fn forget_attempt(&mut self, attempt: AttemptId) {
        self.attempts.remove(&attempt);
    }

    /// A command to this device is out.
    pub(super) fn is_busy(&self, device: &DeviceName) -> bool {
        self.attempts.values().any(|open| open.device == *device && open.done.is_none())
    }

    // The arbiter.

    /// Asks the arbiter: now, or when it is up.
    pub(super) fn ask(&mut self, now: Time, ask: Ask) -> CallId {
        self.ask_at(now, now, ask, None)
    }

    /// Asks it a little later.
    pub(super) fn ask_soon(&mut self, now: Time, ask: Ask) -> CallId {
        let at = now + self.pause();
        self.ask_at(now, at, ask, None)
    }

    /// Asks it at `at`; `sent` is when the command of a proof was sent.
    pub(super) fn ask_at(&mut self, now: Time, at: Time, ask: Ask, sent: Option<Time>) -> CallId {
        let call = CallId(self.next_number());
        self.calls.insert(call, OpenCall::new(ask, sent, CallState::Due(at)));
        self.send_due(now);
        self.ask_members(now);
        call
    }

    /// What the arbiter says, once it has; asked until it has.
    pub(super) fn verdict(&mut self, call: CallId) -> Option<Verdict> {
        match &self.calls.get(&call)?.state {
            CallState::Due(_) | CallState::Out { .. } | CallState::Heard => None,
            CallState::Back(verdict) => {
                let verdict = verdict.clone();
                self.calls.remove(&call);
                Some(verdict)
            }
        }
    }

    /// Nobody waits for the answer any more.
    pub(super) fn forget_call(&mut self, call: CallId) {
        self.majority.dismiss(call);
        self.calls.remove(&call);
    }

    /// Nobody waits for a registration any more. If the arbiter has heard it, or will, the targets
    /// would stay condemned: it is asked until it answers, and what it has registered is released.
    pub(super) fn abandon_call(&mut self, call: CallId) {
        self.majority.dismiss(call);
        let abandoned = |open: &OpenCall| open.abandoned;
        if self.calls.values().filter(|open| abandoned(open)).count() >= ABANDONED_MAX {
            let oldest = self.calls.iter().find(|(_, open)| abandoned(open)).map(|(id, _)| *id);
            oldest.and_then(|oldest| self.calls.remove(&oldest));
        }
        if let Some(open) = self.calls.get_mut(&call) {
            open.abandoned = true;
        }
    }

    /// An intent was registered after these were to be released: calls are answered in their order,
    /// so the arbiter has heard them, and heard again they would end the new intent.
    pub(super) fn drop_releases_before(&mut self, call: CallId) {
        let mut released = Vec::new();
        self.calls.retain(|id, open| {
            if *id > call {
                return true;
            }
            if let Ask::Release(intent) = open.ask {
                released.push(intent);
                return false;
            }
            !open.abandoned
        });
        for intent in released {
            self.note(Entry::Released { intent });
        }
    }

    /// The arbiter has answered. Only the newest nonce of a call counts (safety 27).
    pub(super) fn take_answer(&mut self, now: Time, answer: Answer) {
        let asked = |open: &OpenCall| match open.state {
            CallState::Out { nonce, since } if nonce == answer.nonce => Some(since),
            CallState::Due(_) | CallState::Out { .. } | CallState::Heard | CallState::Back(_) => {
                None
            }
        };
        let Some((id, since)) = self.calls.iter().find_map(|(id, open)| Some((*id, asked(open)?)))
        else {
            return;
        };
        self.round_trip = Some(now.since(since));
        let Some(open) = self.calls.get_mut(&id) else { return };
        if let Ask::Release(intent) = open.ask {
            self.calls.remove(&id);
            self.note(Entry::Released { intent });
        } else if open.abandoned {
            self.calls.remove(&id);
            if let Verdict::Entitled(attestation) = answer.verdict {
                self.ask(now, Ask::Release(attestation.intent));
            }
        } else {
            open.state = CallState::Back(answer.verdict);
            self.majority.dismiss(id);
        }
    }

    pub(super) fn arbiter_is_up(&mut self, now: Time) {
        self.arbiter = Ok(());
        self.calls_have_no_answer(now);
        self.send_due(now);
    }

    pub(super) fn arbiter_is_down(&mut self, now: Time, why: &str) {
        self.arbiter = Err(clean(why));
        self.calls_have_no_answer(now);
    }

    /// The session is gone, and with it the answers to what was asked in it.
    fn calls_have_no_answer(&mut self, now: Time) {
        for open in self.calls.values_mut() {
            if matches!(open.state, CallState::Out { .. }) {
                open.state = CallState::Due(now);
            }
        }
    }

    /// `Ok`, or why it is not connected.
    pub(super) fn arbiter(&self) -> Result<(), &str> {
        self.arbiter.as_ref().copied().map_err(String::as_str)
    }

    // The members of a requester's view.

    /// Asks members what the arbiter does not answer: a registration that it has not heard of or
    /// keeps silent on, and whatever follows one that members have attested.
    fn ask_members(&mut self, now: Time) {
        let silent = self.arbiter.is_err();
        let mut asked = Vec::new();
        for (call, open) in &self.calls {
            let is_due = matches!(open.state, CallState::Due(at) if at <= now);
            match (&open.ask, self.subject(*call, open)) {
                (Ask::Register(intent), true) if open.missed || silent && is_due => {
                    asked.push((*call, intent.requester, intent.targets.clone()));
                }
                (Ask::Attest(id), true) if is_due => {
                    let Some(intent) = self.majority.intent(*id) else { continue };
                    asked.push((*call, intent.requester, intent.targets.clone()));
                }
                (Ask::Register(_) | Ask::Attest(_) | Ask::Off { .. } | Ask::Release(_), _) => {}
            }
        }
        for (call, requester, targets) in asked {
            if let Some(open) = self.calls.get_mut(&call)
                && let Ask::Attest(_) = open.ask
            {
                open.state = CallState::Heard;
            }
            let nonce = fresh_nonce(&mut self.rng);
            self.majority.hear(now, nonce, call, requester, targets);
        }
    }

    /// Members may be asked this, and are not yet.
    fn subject(&self, call: CallId, open: &OpenCall) -> bool {
        let waits = matches!(open.state, CallState::Due(_) | CallState::Out { .. });
        let theirs = match &open.ask {
            Ask::Register(intent) => self.majority.is_possible(&intent.targets),
            Ask::Attest(id) => self.majority.intent(*id).is_some(),
            Ask::Off { .. } | Ask::Release(_) => false,
        };
        waits && theirs && !open.abandoned && !self.majority.hears(call)
    }

    /// One member has testified.
    pub(super) fn testified(&mut self, testimony: Testimony) {
        for (call, found) in self.majority.take(testimony) {
            let Some(open) = self.calls.get(&call) else { continue };
            let (ask, asked) = (open.ask.clone(), open.asked);
            self.decided(found.text.clone());
            let verdict = match &ask {
                Ask::Register(intent) => {
                    if asked {
                        self.abandon_copy(call);
                    }
                    let arbiter = ArbiterId(fresh_nonce(&mut self.rng).0);
                    let id = IntentId { arbiter, boot: 0, serial: self.next_number() };
                    let verdict = found.registered(id, intent);
                    if let Verdict::Entitled(_) = verdict {
                        self.majority.register(id, intent.clone());
                    }
                    verdict
                }
                Ask::Attest(id) => found.attested(*id),
                Ask::Off { .. } | Ask::Release(_) => continue,
            };
            self.majority.dismiss(call);
            if let Some(open) = self.calls.get_mut(&call) {
                open.state = CallState::Back(verdict);
            }
        }
    }

    /// Members have answered what the arbiter may yet hear, and then would hold on to for ever.
    fn abandon_copy(&mut self, call: CallId) {
        let copy = CallId(self.next_number());
        let Some(open) = self.calls.get_mut(&call) else { return };
        let state = match open.state {
            CallState::Due(at) => CallState::Due(at),
            CallState::Out { nonce, since } => CallState::Out { nonce, since },
            CallState::Heard | CallState::Back(_) => return,
        };
        let open = OpenCall::new(open.ask.clone(), None, state);
        self.calls.insert(copy, open);
        self.abandon_call(copy);
    }

    /// Why no members have answered what was asked with this call; `None` if they were not asked.
    pub(super) fn without_arbiter(&self, call: CallId) -> Option<String> {
        match &self.calls.get(&call)?.ask {
            Ask::Register(intent) => self.majority.why_not(call, &intent.targets),
            Ask::Attest(_) | Ask::Off { .. } | Ask::Release(_) => None,
        }
    }

    /// How long the arbiter's last answer took.
    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }

    /// How many more calls may be out.
    fn room(&self) -> usize {
        let out = |open: &&OpenCall| matches!(open.state, CallState::Out { .. });
        CALLS_OUT_MAX.saturating_sub(self.calls.values().filter(out).count())
    }

    /// Asks what is due, in the order in which it came up.
    fn send_due(&mut self, now: Time) {
        if self.arbiter.is_err() {
            return;
        }
        let mut room = self.room();
        for open in self.calls.values_mut() {
            if room == 0 {
                break;
            }
            let members = matches!(open.ask, Ask::Attest(id) if self.majority.intent(id).is_some());
            if members || !matches!(open.state, CallState::Due(at) if at <= now) {
                continue;
            }
            room -= 1;
            open.asked = true;
            let nonce = fresh_nonce(&mut self.rng);
            let mut ask = open.ask.clone();
            if let (Ask::Off { proof, .. }, Some(sent)) = (&mut ask, open.sent) {
                proof.sent_ms = u64::try_from(now.since(sent).as_millis()).unwrap_or(u64::MAX);
            }
            open.state = CallState::Out { nonce, since: now };
            self.actions.push_back(Action::Ask { nonce, ask });
        }
    }

    /// Takes for lost what is late.
    pub(super) fn look_at_clock(&mut self, now: Time) -> Vec<DeviceAnswer> {
        for open in self.calls.values_mut() {
            if matches!(open.state, CallState::Out { since, .. } if now >= since + CALL_LIMIT) {
                open.state = CallState::Due(now);
                open.missed = true;
            }
        }
        self.send_due(now);
        while let Some(requester) = self.majority.late(now) {
            let nonce = fresh_nonce(&mut self.rng);
            self.majority.ask_anew(now, nonce, requester);
        }
        self.ask_members(now);
        let late: Vec<(AttemptId, Duration)> = self
            .attempts
            .iter()
            .filter(|(_, open)| open.done.is_none() && now >= open.until)
            .map(|(attempt, open)| (*attempt, open.limit))
            .collect();
        late.into_iter()
            .filter_map(|(id, limit)| self.answered(id, Err(DeviceError::Silent(limit)), limit))
            .collect()
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        let up = self.arbiter.is_ok() && self.room() > 0;
        let silent = self.arbiter.is_err();
        let calls = self.calls.iter().filter_map(|(call, open)| match open.state {
            CallState::Due(at) => match open.ask {
                Ask::Attest(id) if self.majority.intent(id).is_some() => Some(at),
                Ask::Register(_) if silent => self.subject(*call, open).then_some(at),
                Ask::Register(_) | Ask::Attest(_) | Ask::Off { .. } | Ask::Release(_) => {
                    up.then_some(at)
                }
            },
            CallState::Out { since, .. } => Some(since + CALL_LIMIT),
            CallState::Heard | CallState::Back(_) => None,
        });
        let open = self.attempts.values().filter(|open| open.done.is_none());
        calls.chain(open.map(|open| open.until)).chain(self.majority.deadline()).min()
    }
}

fn fresh_nonce(rng: &mut Rng) -> Nonce {
    Nonce(u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64()))
}

/// A device that answers another question than it was asked makes no sense.
fn fits(command: Command, seen: Seen) -> Done {
    match (command, &seen) {
        (Command::Status, Seen::Power(_)) | (Command::Off | Command::On, Seen::Accepted) => {
            Ok(seen)
        }
        (Command::Status, Seen::Accepted) | (Command::Off | Command::On, Seen::Power(_)) => {
            Err(DeviceError::Garbage("it answers another question than it was asked".to_owned()))
        }
    }
}
