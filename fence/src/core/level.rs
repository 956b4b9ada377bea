//! One level of power switches: every one of its devices is to read off, together.
//!
//! Each device is logged in to and read first: one that does not answer costs no entitlement. Then
//! the command is written down, the arbiter is asked whether the requester is entitled still, and
//! only with that answer in hand is power cut. What counts is what is read afterwards: an accepted
//! command proves nothing, and one that failed may have worked.

use std::time::Duration;

use protocol::fence::{Attestation, IntentId, Refusal, Role, Verdict};
use protocol::ids::NodeId;
use protocol::time::Time;

use super::Token;
use super::attest::{self, Attested, attest, attest_soon, judge};
use super::desk::{CallId, Cause, Desk};
use super::round::{Outlet, Round};
use crate::device::{Command, DeviceError, Power};
use crate::journal::Entry;

/// After the first look, the state is read again after this, then twice that, and so on ..
const READ_FIRST: Duration = Duration::from_millis(20);
/// .. but at least this often.
const READ_LAST: Duration = Duration::from_millis(250);

/// What a level works for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order {
    pub(super) cause: Cause,
    /// By whom the intent was attested.
    pub(super) role: Role,
    pub(super) intent: IntentId,
    /// Nothing is begun after this.
    pub(super) deadline: Time,
}

impl Order {
    pub(super) fn node(&self) -> NodeId {
        self.cause.node
    }
}

/// How a level ends.
#[derive(Debug)]
pub(super) enum End {
    /// The node is off. Whatever began before this moment is over.
    Proven {
        /// When the command was sent.
        sent: Time,
    },
    /// It proves nothing: why.
    Failed(String),
    /// The arbiter does not let the job go on.
    Refused(Refusal),
    /// The arbiter has lost the intent: it has to be registered again.
    Forgotten,
    /// What was about to be done could not be written down.
    NotWritten,
    /// The job's time is over.
    Late(String),
}

#[derive(Debug)]
enum Stage {
    /// The first status of each device.
    Look(Round),
    /// The commands are being written down.
    Writing(Vec<Token>),
    /// The arbiter is asked. `command` is false where everything reads off as it is.
    Asking { call: CallId, command: bool },
    /// Power is being cut.
    Cutting(Round),
    /// The next reading, or the next command, is at this time.
    Resting { until: Time, cut_again: bool },
    /// The state is being read.
    Reading(Round),
}

/// One level at work.
#[derive(Debug)]
pub(super) struct Level {
    outlets: Vec<Outlet>,
    stage: Stage,
    /// The boot and everything else that the arbiter said last.
    pub(super) attested: Option<Attestation>,
    /// A command was sent.
    pub(super) commanded: bool,
    /// Who is to be told to go off next.
    wanted: Vec<Outlet>,
    /// When the first command was sent, or the arbiter's answer came that made one unnecessary.
    sent: Option<Time>,
    /// When the last device had answered to its command, and whether all had accepted.
    cut: Option<Time>,
    all_accepted: bool,
    /// Why a command did not work, if one did not.
    cut_errors: String,
    can_cut_again: bool,
    pause: Duration,
    /// Readings in a row in which every device was off.
    off_rounds: u32,
    undecided: Option<String>,
}

impl Level {
    pub(super) fn new(now: Time, desk: &mut Desk, outlets: Vec<Outlet>, order: &Order) -> Self {
        let look = Round::patient(now, desk, Command::Status, &outlets, Some(order.cause));
        Self {
            wanted: outlets.clone(),
            outlets,
            stage: Stage::Look(look),
            attested: None,
            commanded: false,
            sent: None,
            cut: None,
            all_accepted: true,
            cut_errors: String::new(),
            can_cut_again: true,
            pause: READ_FIRST,
            off_rounds: 0,
            undecided: None,
        }
    }

    /// What it does, in words.
    pub(super) fn doing(&self) -> &'static str {
        match &self.stage {
            Stage::Look(_) => "logs in",
            Stage::Writing(_) | Stage::Asking { .. } => "asks the arbiter for the command",
            Stage::Cutting(_) => "cuts power",
            Stage::Resting { .. } | Stage::Reading(_) => "reads the power state back",
        }
    }

    /// Goes as far as it can.
    pub(super) fn advance(&mut self, now: Time, desk: &mut Desk, order: &Order) -> Option<End> {
        self.go_on(now, desk, order).or_else(|| self.is_late(now, order))
    }

    fn go_on(&mut self, now: Time, desk: &mut Desk, order: &Order) -> Option<End> {
        loop {
            let next = match &mut self.stage {
                Stage::Look(round) => {
                    if !round.advance(now, desk) {
                        return None;
                    }
                    let errors = round.errors();
                    if !errors.is_empty() {
                        return Some(End::Failed(errors));
                    }
                    let off = round.all_off();
                    if off { self.ask(now, desk, order, false) } else { self.write(desk, order) }
                }
                Stage::Writing(tokens) => match all_written(desk, tokens)? {
                    true => self.ask(now, desk, order, true),
                    false => return Some(End::NotWritten),
                },
                Stage::Asking { call, command } => {
                    let (verdict, command) = (desk.verdict(*call)?, *command);
                    match self.answered(now, desk, order, verdict, command) {
                        Ok(next) => next,
                        Err(end) => return Some(end),
                    }
                }
                Stage::Cutting(round) => {
                    if !round.advance(now, desk) {
                        return None;
                    }
                    self.note_cut(now);
                    self.read(now, desk, order)
                }
                Stage::Resting { until, cut_again } => {
                    if now < *until {
                        return None;
                    }
                    if *cut_again { self.write(desk, order) } else { self.read(now, desk, order) }
                }
                Stage::Reading(round) => {
                    if !round.advance(now, desk) {
                        return None;
                    }
                    match self.look_back(now, desk) {
                        Ok(next) => next,
                        Err(end) => return Some(end),
                    }
                }
            };
            self.stage = next;
        }
    }

    fn why_late(&self, order: &Order) -> String {
        match (&self.undecided, &self.stage) {
            (Some(why), Stage::Asking { .. }) => why.clone(),
            (_, Stage::Asking { .. }) => unanswered(order.role).to_owned(),
            (_, Stage::Writing(_)) => "the journal's disk has not answered".to_owned(),
            (_, Stage::Look(_) | Stage::Cutting(_) | Stage::Resting { .. } | Stage::Reading(_)) => {
                "not off in time".to_owned()
            }
        }
    }

    /// The job's time is over while it waits: ends nothing that is out.
    fn is_late(&self, now: Time, order: &Order) -> Option<End> {
        let waits =
            matches!(self.stage, Stage::Asking { .. } | Stage::Writing(_) | Stage::Resting { .. });
        (now >= order.deadline && waits).then(|| End::Late(self.why_late(order)))
    }

    /// The commands go to disk before any of them is sent.
    fn write(&mut self, desk: &mut Desk, order: &Order) -> Stage {
        let Cause { job, node } = order.cause;
        let entry = |device: &str| Entry::Attempt {
            job,
            node,
            device: device.to_owned(),
            command: Command::Off,
        };
        Stage::Writing(self.wanted.iter().map(|(name, _)| desk.write(entry(name))).collect())
    }

    fn ask(&mut self, now: Time, desk: &mut Desk, order: &Order, command: bool) -> Stage {
        Stage::Asking { call: attest(now, desk, order.intent), command }
    }

    fn answered(
        &mut self,
        now: Time,
        desk: &mut Desk,
        order: &Order,
        verdict: Verdict,
        command: bool,
    ) -> Result<Stage, End> {
        match judge(verdict, Some(order.intent), order.node()) {
            Attested::Yes(attestation) => {
                self.undecided = None;
                attest::note(desk, order.cause, &attestation);
                self.attested = Some(*attestation);
                self.sent.get_or_insert(now);
                if !command {
                    // Everything reads off; it counts when it reads so after this answer.
                    self.cut = Some(now);
                    return Ok(self.read(now, desk, order));
                }
                if now >= order.deadline {
                    return Err(End::Late("the arbiter's answer came too late".to_owned()));
                }
                self.commanded = true;
                self.off_rounds = 0;
                let wanted = std::mem::take(&mut self.wanted);
                let cause = Some(order.cause);
                Ok(Stage::Cutting(Round::once(now, desk, Command::Off, &wanted, cause)))
            }
            Attested::NotYet(why) => {
                self.undecided = Some(why);
                Ok(Stage::Asking { call: attest_soon(now, desk, order.intent), command })
            }
            Attested::Forgotten => Err(End::Forgotten),
            Attested::No(refusal) => Err(End::Refused(refusal)),
            Attested::Nonsense(why) => Err(End::Failed(why)),
        }
    }

    /// Every command has been answered: how.
    fn note_cut(&mut self, now: Time) {
        let Stage::Cutting(round) = &self.stage else { return };
        self.cut = Some(now);
        self.cut_errors = round.errors();
        self.all_accepted = self.cut_errors.is_empty();
        let mut errors = round.results().filter_map(|(_, done, _)| done.as_ref().err());
        self.can_cut_again = errors.all(DeviceError::is_passing);
        self.pause = READ_FIRST;
    }

    fn read(&mut self, now: Time, desk: &mut Desk, order: &Order) -> Stage {
        let cause = Some(order.cause);
        Stage::Reading(Round::once(now, desk, Command::Status, &self.outlets, cause))
    }

    /// Every device has been read after its command.
    fn look_back(&mut self, now: Time, desk: &mut Desk) -> Result<Stage, End> {
        let Stage::Reading(round) = &self.stage else {
            return Err(End::Failed("nothing was read".to_owned()));
        };
        let sent = self.sent.unwrap_or(now);
        if round.all_off() {
            self.off_rounds += 1;
            // Of several supplies one may be read off before another comes back: all of them off
            // twice in a row were off together.
            if self.outlets.len() == 1 || self.off_rounds >= 2 {
                return Err(End::Proven { sent });
            }
            return Ok(Stage::Resting { until: now + READ_FIRST, cut_again: false });
        }
        self.off_rounds = 0;
        let on = round.reading(Power::On);
        if !self.commanded && !on.is_empty() {
            // It read off, and power came back before it counted.
            self.wanted = self.outlets.clone();
            return Ok(Stage::Resting { until: now, cut_again: true });
        }
        let since_cut = now.since(self.cut.unwrap_or(now));
        let settle = self.outlets.iter().map(|(_, device)| device.settle).max();
        let limit = self.outlets.iter().map(|(_, device)| device.limit).max();
        let (settle, limit) = (settle.unwrap_or_default(), limit.unwrap_or_default());
        if !self.all_accepted && !on.is_empty() {
            let again = now + desk.pause();
            if !self.can_cut_again || again.since(sent) >= limit {
                return Err(End::Failed(format!("{}; {} read on", self.cut_errors, on.join(", "))));
            }
            self.wanted = self.outlets.clone();
            return Ok(Stage::Resting { until: again, cut_again: true });
        }
        if since_cut >= settle {
            let errors = round.errors();
            let why = if on.is_empty() {
                format!("power was cut, but that cannot be read back: {errors}")
            } else {
                let names = on.join(", ");
                format!("{names} accepted the command and still read on after {settle:?}")
            };
            return Err(End::Failed(why));
        }
        let until = now + self.pause;
        self.pause = (self.pause * 2).min(READ_LAST);
        Ok(Stage::Resting { until, cut_again: false })
    }

    /// Waits for nothing more. A level that has ended has no command out.
    pub(super) fn wind_down(&mut self, desk: &mut Desk) {
        match &mut self.stage {
            Stage::Writing(tokens) => tokens.drain(..).for_each(|token| desk.forget_write(token)),
            Stage::Asking { call, .. } => desk.forget_call(*call),
            Stage::Look(_) | Stage::Cutting(_) | Stage::Resting { .. } | Stage::Reading(_) => {}
        }
    }

    /// What was begun is waited for, whatever the job's deadline says.
    pub(super) fn deadline(&self, job: Time) -> Option<Time> {
        match &self.stage {
            Stage::Look(round) | Stage::Cutting(round) | Stage::Reading(round) => round.deadline(),
            Stage::Writing(_) | Stage::Asking { .. } => Some(job),
            Stage::Resting { until, .. } => Some((*until).min(job)),
        }
    }
}

/// Who has let the job wait for the answer before a command.
pub(super) fn unanswered(role: Role) -> &'static str {
    match role {
        Role::Holder | Role::Candidate => "the arbiter has not answered",
        Role::Majority => "more than half of all votes have not said once more that it may be",
    }
}

/// Whether all of them are durable, once that is known of each.
pub(super) fn all_written(desk: &mut Desk, tokens: &mut Vec<Token>) -> Option<bool> {
    while let Some(token) = tokens.last() {
        match desk.written(*token)? {
            true => drop(tokens.pop()),
            false => {
                tokens.drain(..).for_each(|token| desk.forget_write(token));
                return Some(false);
            }
        }
    }
    Some(true)
}
