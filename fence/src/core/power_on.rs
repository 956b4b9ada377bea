//! Gives a node power again. Needs no entitlement; what does not work is said and harms nobody.
//!
//! The last level goes first: a switched outlet feeds the machine whose own switch is a level
//! before it.

use protocol::time::Time;

use super::Token;
use super::desk::{Cause, Desk};
use super::level::all_written;
use super::round::{Outlet, Round};
use crate::device::{Command, Power};
use crate::journal::Entry;

#[derive(Debug)]
enum Stage {
    Writing(Vec<Token>),
    Giving(Round),
    Resting(Time),
    Reading(Round),
}

/// Levels that get power, one after the other.
#[derive(Debug)]
pub(super) struct PowerOn {
    /// Still to come; the last one is next.
    levels: Vec<Vec<Outlet>>,
    current: Vec<Outlet>,
    stage: Stage,
    given: Option<Time>,
    /// What did not work.
    problems: Vec<String>,
    /// A level reads on.
    works: bool,
    cause: Cause,
}

/// The state is read this often until it is on.
const READ_EVERY: std::time::Duration = std::time::Duration::from_millis(100);

impl PowerOn {
    /// Power for these levels, which are in the configuration's order.
    pub(super) fn new(desk: &mut Desk, mut levels: Vec<Vec<Outlet>>, cause: Cause) -> Self {
        let current = levels.pop().unwrap_or_default();
        let stage = write(desk, &current, cause);
        Self { levels, current, stage, given: None, problems: Vec::new(), works: false, cause }
    }

    /// Goes as far as it can. `Some` at the end: nothing, or what did not work.
    pub(super) fn advance(&mut self, now: Time, desk: &mut Desk) -> Option<Result<(), String>> {
        loop {
            let next = match &mut self.stage {
                Stage::Writing(tokens) => {
                    if !all_written(desk, tokens)? {
                        return Some(Err("the journal could not be written".to_owned()));
                    }
                    let cause = Some(self.cause);
                    Stage::Giving(Round::patient(now, desk, Command::On, &self.current, cause))
                }
                Stage::Giving(round) => {
                    if !round.advance(now, desk) {
                        return None;
                    }
                    let errors = round.errors();
                    self.given = Some(now);
                    if errors.is_empty() {
                        self.read(now, desk)
                    } else {
                        self.problems.push(errors);
                        match self.next_level(desk) {
                            Some(stage) => stage,
                            None => return Some(self.end()),
                        }
                    }
                }
                Stage::Resting(until) => {
                    if now < *until {
                        return None;
                    }
                    self.read(now, desk)
                }
                Stage::Reading(round) => {
                    if !round.advance(now, desk) {
                        return None;
                    }
                    let on = round.reading(Power::On).len() == self.current.len();
                    let settle = self.current.iter().map(|(_, device)| device.settle).max();
                    let over = now >= self.given.unwrap_or(now) + settle.unwrap_or_default();
                    if !on && !over {
                        Stage::Resting(now + READ_EVERY)
                    } else {
                        self.works |= on;
                        if !on {
                            let names: Vec<&str> =
                                self.current.iter().map(|(name, _)| name.as_str()).collect();
                            self.problems
                                .push(format!("{}: not on after the command", names.join(", ")));
                        }
                        match self.next_level(desk) {
                            Some(stage) => stage,
                            None => return Some(self.end()),
                        }
                    }
                }
            };
            self.stage = next;
        }
    }

    fn read(&self, now: Time, desk: &mut Desk) -> Stage {
        let cause = Some(self.cause);
        Stage::Reading(Round::once(now, desk, Command::Status, &self.current, cause))
    }

    fn next_level(&mut self, desk: &mut Desk) -> Option<Stage> {
        self.current = self.levels.pop()?;
        Some(write(desk, &self.current, self.cause))
    }

    /// One level that reads on is what was asked for.
    fn end(&self) -> Result<(), String> {
        if self.works { Ok(()) } else { Err(self.problems.join("; ")) }
    }

    /// Starts nothing more; true when nothing is out.
    pub(super) fn wind_down(&mut self, desk: &mut Desk) -> bool {
        match &mut self.stage {
            Stage::Writing(tokens) => {
                tokens.drain(..).for_each(|token| desk.forget_write(token));
                true
            }
            Stage::Giving(round) | Stage::Reading(round) => round.wind_down(desk),
            Stage::Resting(_) => true,
        }
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        match &self.stage {
            Stage::Writing(_) => None,
            Stage::Giving(round) | Stage::Reading(round) => round.deadline(),
            Stage::Resting(until) => Some(*until),
        }
    }
}

/// The commands go to disk before any of them is sent.
fn write(desk: &mut Desk, outlets: &[Outlet], cause: Cause) -> Stage {
    let Cause { job, node } = cause;
    let entry = |device: &str| Entry::Attempt {
        job,
        node,
        device: device.to_owned(),
        command: Command::On,
    };
    Stage::Writing(outlets.iter().map(|(name, _)| desk.write(entry(name))).collect())
}
