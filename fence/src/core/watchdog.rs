//! A level that sends no command: the node's own watchdog has ended everything on it once its
//! announced bound has passed since a view without it has the vote (rule S5, clarification F4).

use std::time::Duration;

use protocol::fence::{Ask, Attestation, TargetRecord};
use protocol::time::Time;
use protocol::times;
use protocol::vote::WatchdogClass;

use super::Kind;
use super::attest::{self, Attested, attest, judge};
use super::desk::{CallId, Desk};
use super::level::{End, Order};

/// While no view without the node has the vote, the arbiter is asked again after this.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// While its bound runs, the intent is kept alive by a question at least this often.
const ASK_AT_LEAST: Duration = Duration::from_secs(5);
/// A longer bound is not waited for.
const BOUND_MAX: Duration = Duration::from_secs(600);

/// A watchdog that is waited for.
#[derive(Debug)]
pub(super) struct Watchdog {
    trusted: Vec<WatchdogClass>,
    call: CallId,
    /// Given up then; the bound, once known, is waited for in full.
    until: Time,
    pub(super) attested: Option<Attestation>,
    waits_for: String,
}

impl Watchdog {
    pub(super) fn new(now: Time, desk: &mut Desk, kind: Kind, order: &Order) -> Self {
        let mut trusted = vec![WatchdogClass::A];
        match kind {
            Kind::Watchdog { trust_virtual, trust_process } => {
                trusted.extend(trust_virtual.then_some(WatchdogClass::B));
                trusted.extend(trust_process.then_some(WatchdogClass::C));
            }
            Kind::Power { .. } | Kind::Agent => {}
        }
        Self {
            trusted,
            call: attest(now, desk, order.intent),
            until: now + times::FENCE_DEADLINE,
            attested: None,
            waits_for: "the arbiter's answer".to_owned(),
        }
    }

    /// What it waits for, in words.
    pub(super) fn doing(&self) -> String {
        format!("waits for {}", self.waits_for)
    }

    pub(super) fn advance(&mut self, now: Time, desk: &mut Desk, order: &Order) -> Option<End> {
        let Some(verdict) = desk.verdict(self.call) else {
            return self.is_late(now);
        };
        let pause = match judge(verdict, Some(order.intent), order.node()) {
            Attested::Yes(attestation) => {
                let record = attestation.targets.get(&order.node()).copied().unwrap_or_default();
                attest::note(desk, order.cause, &attestation);
                self.attested = Some(*attestation);
                match self.weigh(now, record) {
                    Ok(pause) => pause,
                    Err(end) => return Some(end),
                }
            }
            Attested::NotYet(why) => {
                self.waits_for = why;
                ASK_EVERY
            }
            Attested::Forgotten => return Some(End::Forgotten),
            Attested::No(refusal) => return Some(End::Refused(refusal)),
            Attested::Nonsense(why) => return Some(End::Failed(why)),
        };
        self.call = desk.ask_at(now, now + pause, Ask::Attest(order.intent), None);
        self.is_late(now)
    }

    fn is_late(&self, now: Time) -> Option<End> {
        (now >= self.until)
            .then(|| End::Failed(format!("watchdog: waited in vain for {}", self.waits_for)))
    }

    /// A proof, a failure, or how long to wait before the arbiter is asked again.
    fn weigh(&mut self, now: Time, record: TargetRecord) -> Result<Duration, End> {
        let Some(bound) = record.bound else {
            return Err(End::Failed("watchdog: the node has announced none".to_owned()));
        };
        if !self.trusted.contains(&bound.class) {
            return Err(End::Failed(match bound.class {
                WatchdogClass::A => "watchdog: not trusted".to_owned(),
                WatchdogClass::B => "watchdog: softdog or virtual hardware (class B) proves \
                                     nothing unless trust-virtual-watchdog says so"
                    .to_owned(),
                WatchdogClass::C => "watchdog: a keeper process (class C) proves nothing unless \
                                     trust-process-watchdog says so"
                    .to_owned(),
                WatchdogClass::D => "watchdog: the node has none (class D)".to_owned(),
            }));
        }
        let whole = Duration::from_millis(bound.bound_ms.into());
        if whole > BOUND_MAX {
            let why = format!("watchdog: a bound of {whole:?} is not waited for");
            return Err(End::Failed(why));
        }
        let Some(outside) = record.outside_ms.map(Duration::from_millis) else {
            self.waits_for = "a view without the node to have the vote".to_owned();
            return Ok(ASK_EVERY);
        };
        if outside >= whole {
            return Err(End::Proven { sent: now - outside });
        }
        let rest = whole - outside;
        self.until = self.until.max(now + rest + times::FENCE_DEADLINE);
        self.waits_for = format!("the end of its watchdog's bound in {} ms", rest.as_millis());
        Ok(rest.min(ASK_AT_LEAST))
    }

    pub(super) fn wind_down(&self, desk: &mut Desk) {
        desk.forget_call(self.call);
    }

    pub(super) fn deadline(&self) -> Time {
        self.until
    }
}
