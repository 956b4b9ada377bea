//! The same command to several devices at the same time.

use std::time::Duration;

use protocol::time::Time;

use super::desk::{Cause, Desk, Done};
use super::{AttemptId, Device, DeviceName};
use crate::device::{Command, DeviceError, Power, Seen};

/// A device of a level with its settings, as they were when the job began.
pub(super) type Outlet = (DeviceName, Device);

/// One device in a round.
#[derive(Debug)]
struct Slot {
    outlet: Outlet,
    /// Errors that may pass are tried again until then.
    until: Time,
    state: SlotState,
}

#[derive(Debug)]
enum SlotState {
    Due(Time),
    Out(AttemptId),
    Over(Done, Duration),
}

/// The same command to several devices at the same time; over when each has an answer.
#[derive(Debug)]
pub(super) struct Round {
    command: Command,
    cause: Option<Cause>,
    slots: Vec<Slot>,
}

impl Round {
    /// Everything is asked once.
    pub(super) fn once(
        now: Time,
        desk: &mut Desk,
        command: Command,
        outlets: &[Outlet],
        cause: Option<Cause>,
    ) -> Self {
        Self::begin(now, desk, command, outlets, cause, false)
    }

    /// What fails and may work soon is tried again within each device's limit.
    pub(super) fn patient(
        now: Time,
        desk: &mut Desk,
        command: Command,
        outlets: &[Outlet],
        cause: Option<Cause>,
    ) -> Self {
        Self::begin(now, desk, command, outlets, cause, true)
    }

    fn begin(
        now: Time,
        desk: &mut Desk,
        command: Command,
        outlets: &[Outlet],
        cause: Option<Cause>,
        patient: bool,
    ) -> Self {
        let slots = outlets
            .iter()
            .map(|outlet| Slot {
                outlet: outlet.clone(),
                until: if patient { now + outlet.1.limit } else { now },
                state: SlotState::Due(now),
            })
            .collect();
        let mut round = Self { command, cause, slots };
        round.advance(now, desk);
        round
    }

    /// Goes on; true when every device has its answer.
    pub(super) fn advance(&mut self, now: Time, desk: &mut Desk) -> bool {
        for slot in &mut self.slots {
            if let SlotState::Out(attempt) = slot.state
                && let Some((done, took)) = desk.result(attempt)
            {
                let again = now + desk.pause();
                let passing = done.as_ref().is_err_and(DeviceError::is_passing);
                slot.state = if passing && again < slot.until {
                    SlotState::Due(again)
                } else {
                    SlotState::Over(done, took)
                };
            }
            if matches!(slot.state, SlotState::Due(at) if at <= now) {
                let (device, limit) = (&slot.outlet.0, slot.outlet.1.limit);
                let limit = if slot.until > now { slot.until.since(now) } else { limit };
                let attempt = desk.command(now, device, self.command, limit, self.cause);
                slot.state = SlotState::Out(attempt);
            }
        }
        self.slots.iter().all(|slot| matches!(slot.state, SlotState::Over(..)))
    }

    /// Starts nothing more; true when nothing is out.
    pub(super) fn wind_down(&mut self, desk: &mut Desk) -> bool {
        for slot in &mut self.slots {
            if let SlotState::Out(attempt) = slot.state
                && let Some((done, took)) = desk.result(attempt)
            {
                slot.state = SlotState::Over(done, took);
            }
        }
        !self.slots.iter().any(|slot| matches!(slot.state, SlotState::Out(_)))
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        self.slots
            .iter()
            .filter_map(|slot| match slot.state {
                SlotState::Due(at) => Some(at),
                SlotState::Out(_) | SlotState::Over(..) => None,
            })
            .min()
    }

    /// Each device, what came of it, and how long that took.
    pub(super) fn results(&self) -> impl Iterator<Item = (&Outlet, &Done, Duration)> {
        self.slots.iter().filter_map(|slot| match &slot.state {
            SlotState::Over(done, took) => Some((&slot.outlet, done, *took)),
            SlotState::Due(_) | SlotState::Out(_) => None,
        })
    }

    /// At least one device, and every one reads off.
    pub(super) fn all_off(&self) -> bool {
        !self.slots.is_empty()
            && self.results().count() == self.slots.len()
            && self.results().all(|(_, done, _)| *done == Ok(Seen::Power(Power::Off)))
    }

    /// The devices that read this.
    pub(super) fn reading(&self, power: Power) -> Vec<&str> {
        self.results()
            .filter(|(_, done, _)| **done == Ok(Seen::Power(power)))
            .map(|((name, _), _, _)| name.as_str())
            .collect()
    }

    /// What did not work, in words; empty if everything did.
    pub(super) fn errors(&self) -> String {
        let errors: Vec<String> = self
            .results()
            .filter_map(|((name, _), done, _)| {
                done.as_ref().err().map(|error| format!("{name}: {error}"))
            })
            .collect();
        errors.join("; ")
    }
}
