//! The keeper's machine: it knows a deadline, what it has started, and whether a full stop is
//! proven. It decides when to pet, when to end things, and when to force the end.
//!
//! Symbols as in the rules: t_e is the end of the entitlement, W the watchdog's timeout.
//! * before t_e, or with a proven full stop since then: pets (S5, F3)
//! * at t_e: SIGTERM to everything, SIGKILL after the stop grace, then the undos
//! * at t_e + W - 1 s without a proof, or after a pet that came too late: the end is forced
//!
//! Where others have started what needs the watchdog ([`Core::guarding`]) it opens the device with
//! the first entitlement, and nothing that it can see is a proof.

mod ending;
mod guarding;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use protocol::time::Time;
use protocol::times;
use serde::{Deserialize, Serialize};

use super::message::{ExitStatus, Launch, Report};
use ending::{Stopping, Undoing};

/// No entitlement is longer, whatever the daemon says: the longest lease there is.
pub const ENTITLEMENT_LIMIT: Duration = times::LONE_LEASE;
/// A pet is not begun this shortly before t_e, so that a pet that ends after t_e means that the
/// keeper did not run, and not that it cut things fine (safety 19).
pub const PET_MARGIN: Duration = Duration::from_millis(50);
/// Starts that live or wait, and undos, at most.
pub const STARTS_LIMIT: usize = 256;

/// What the machine is made for.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A device that resets the machine; without one the keeper process is all there is.
    pub hardware: bool,
    /// W.
    pub watchdog: Duration,
    /// What a may-run mark of this boot says that an earlier keeper left behind (safety 18).
    pub left: Option<Left>,
}

/// What an earlier keeper left running.
#[derive(Clone, Debug, Default)]
pub struct Left {
    /// The deadline in its mark.
    pub until: Time,
    /// What takes back that which is no process.
    pub undos: Vec<Undo>,
}

/// What takes back one start, where ending its processes does not.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Undo {
    /// The start.
    pub serial: u64,
    /// The command.
    pub launch: Launch,
}

/// What the keeper runs itself.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Job {
    /// A start.
    Start(u64),
    /// The undo of a start.
    Undo(u64),
}

/// What happens to the keeper.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event {
    /// The deadline has come, or nothing happened.
    Timeout,
    /// A node daemon has connected.
    Connected,
    /// It asks for the state.
    Hello,
    /// Services may run until then.
    Entitle {
        /// t_e.
        until: Time,
    },
    /// They may no longer.
    Revoke,
    /// A command is to be started.
    Start {
        /// Its name.
        serial: u64,
        /// The command.
        launch: Launch,
        /// What takes it back.
        undo: Option<Launch>,
        /// The entitlement that the decision relied on.
        until: Time,
    },
    /// One start is to end.
    Cancel {
        /// Which.
        serial: u64,
    },
    /// One undo is no longer needed.
    Forget {
        /// Which.
        serial: u64,
    },
    /// Everything is to end.
    Stop,
    /// Everything is to end, and the keeper with it.
    Farewell,
    /// Everything that others have started has ended, and the keeper is to end.
    Release,
    /// A signal asks for the end.
    Terminated,
    /// A may-run mark is on disk.
    MarkStored {
        /// The number of its [`Action::StoreMark`].
        mark: u64,
    },
    /// It could not be written.
    MarkFailed {
        /// The number of its [`Action::StoreMark`].
        mark: u64,
        /// Why.
        error: String,
    },
    /// The fork of a job has been made.
    Spawned {
        /// Which.
        job: Job,
        /// The child.
        pid: i32,
    },
    /// It could not be made.
    SpawnFailed {
        /// Which.
        job: Job,
        /// Why.
        error: String,
    },
    /// A child has ended; it may be one that was inherited.
    Reaped {
        /// The child.
        pid: i32,
        /// How.
        status: ExitStatus,
    },
    /// The kernel says that the keeper has no child. It inherits what its descendants leave
    /// behind, so it has no living descendant either (F3).
    NoChildren,
    /// This many processes of the earlier keeper live.
    OrphansLeft {
        /// How many.
        count: usize,
    },
    /// The device is open: it counts.
    Opened,
    /// It cannot be opened. Only where others have started what needs it.
    OpenFailed {
        /// Why.
        error: String,
    },
    /// A pet has ended; the clock has been read again (safety 19).
    Petted,
    /// The device is closed and no longer counts.
    Disarmed,
    /// It cannot be stopped.
    DisarmFailed {
        /// Why.
        error: String,
    },
}

/// What the keeper has to do, in this order.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Action {
    /// Write the may-run mark (safety 18), off the petting loop (safety 37).
    StoreMark {
        /// Named in the answer; a later clearing makes the answer void.
        mark: u64,
        /// The deadline in it.
        until: Time,
        /// The undos in it.
        undos: Vec<Undo>,
    },
    /// Remove the mark, after all writings that were asked for.
    ClearMark,
    /// Fork and execute.
    Spawn {
        /// Which.
        job: Job,
        /// What.
        launch: Launch,
        /// The child looks again right before it executes; an undo may always.
        until: Option<Time>,
    },
    /// SIGTERM to the descendants of one child and its session.
    TerminateOne {
        /// The child.
        pid: i32,
    },
    /// SIGKILL to the descendants of one child and its session.
    KillOne {
        /// The child.
        pid: i32,
    },
    /// SIGTERM to every descendant.
    Terminate,
    /// SIGKILL to every descendant.
    Kill,
    /// SIGKILL to what the earlier keeper left, then count it.
    EndOrphans,
    /// Open the device; it counts from then on.
    OpenDevice,
    /// Pet the device.
    Pet,
    /// Stop the device and close it.
    Disarm,
    /// SIGKILL to the node's daemons.
    KillDaemons,
    /// Reset the machine now. Only with a device.
    Reboot {
        /// Why.
        reason: String,
    },
    /// Answer `hello`.
    ReportState,
    /// Tell the daemon.
    Report(Report),
    /// End the process.
    Exit,
}

#[derive(Clone, Debug)]
struct Running {
    pid: Option<i32>,
    until: Time,
}

#[derive(Clone, Debug)]
struct Waiting {
    serial: u64,
    launch: Launch,
    undo: Option<Launch>,
    until: Time,
}

/// What is known to be on disk.
#[derive(Clone, Debug, Default)]
struct Mark {
    /// Counts writings.
    number: u64,
    /// A writing on its way: the starts whose undos are in it.
    writing: Option<Vec<u64>>,
    /// The mark on disk: the starts whose undos are in it.
    stored: Option<Vec<u64>>,
}

/// The machine.
#[derive(Clone, Debug)]
pub struct Core {
    hardware: bool,
    watchdog: Duration,
    /// t_e.
    until: Option<Time>,
    /// Nothing that was ever started is left.
    proven: bool,
    /// A new daemon found things running: it has to stop them before it may start its own.
    must_stop: bool,
    recovering: bool,
    open: bool,
    /// The end has been forced on hardware; there is no way back.
    doomed: bool,
    farewell: bool,
    stop: Option<Stopping>,
    running: BTreeMap<u64, Running>,
    waiting: VecDeque<Waiting>,
    /// Sessions that are to end, and when they are killed.
    cancels: BTreeMap<i32, Time>,
    undos: Vec<Undo>,
    undoing: Option<Undoing>,
    undo_at: Time,
    mark: Mark,
    pet_at: Time,
    /// What needs the watchdog was started by others.
    outside: bool,
    /// The device is being opened.
    opening: bool,
    /// It is not opened before.
    open_at: Time,
    actions: VecDeque<Action>,
}

impl Core {
    /// A keeper that has just started at `now`.
    pub fn new(now: Time, settings: Settings) -> Self {
        let mut core = Self::idle(now, settings.hardware, settings.watchdog);
        match settings.left {
            Some(left) => core.recover(now, left),
            None => core.actions.push_back(Action::OpenDevice),
        }
        core.step(now);
        core
    }

    /// One that has nothing to do.
    fn idle(now: Time, hardware: bool, watchdog: Duration) -> Self {
        Self {
            hardware,
            watchdog,
            until: None,
            proven: true,
            must_stop: false,
            recovering: false,
            open: false,
            doomed: false,
            farewell: false,
            stop: None,
            running: BTreeMap::new(),
            waiting: VecDeque::new(),
            cancels: BTreeMap::new(),
            undos: Vec::new(),
            undoing: None,
            undo_at: now,
            mark: Mark::default(),
            pet_at: now,
            outside: false,
            opening: false,
            open_at: now,
            actions: VecDeque::new(),
        }
    }

    /// Takes a fact in.
    pub fn handle(&mut self, now: Time, event: Event) {
        self.expire(now);
        match event {
            Event::Timeout => {}
            Event::Connected => self.must_stop = !self.proven && !self.outside,
            Event::Hello => self.actions.push_back(Action::ReportState),
            Event::Entitle { until } => self.entitle(now, until),
            Event::Revoke => {
                self.until = self.until.map(|until| until.min(now));
                self.expire(now);
            }
            Event::Start { serial, .. } if self.outside => {
                self.refuse(Some(serial), guarding::STARTS_NOTHING);
            }
            Event::Start { serial, launch, undo, until } => {
                self.start(now, Waiting { serial, launch, undo, until });
            }
            Event::Cancel { serial } => self.cancel(now, serial),
            Event::Forget { serial } => self.undos.retain(|undo| undo.serial != serial),
            Event::Stop | Event::Farewell | Event::Terminated if self.guards() => {
                self.refuse(None, guarding::STAYS_ARMED);
            }
            Event::Stop => self.stop_all(now),
            Event::Farewell | Event::Terminated => {
                self.farewell = true;
                self.stop_all(now);
            }
            Event::Release => self.release(now),
            Event::MarkStored { mark } => {
                if mark == self.mark.number && self.mark.writing.is_some() {
                    self.mark.stored = self.mark.writing.take();
                    self.start_waiting(now);
                    self.arm(now);
                }
            }
            Event::MarkFailed { mark, error } => self.mark_failed(now, mark, &error),
            Event::Spawned { job, pid } => self.spawned(now, job, pid),
            Event::SpawnFailed { job, error } => self.spawn_failed(now, job, error),
            Event::Reaped { pid, status } => self.reaped(now, pid, status),
            // What it has not started it does not see.
            Event::NoChildren if self.outside => {}
            Event::NoChildren => self.no_children(now),
            Event::OrphansLeft { count } => self.recovering = self.recovering && count > 0,
            Event::OpenFailed { error } => self.open_failed(now, &error),
            Event::Opened => {
                self.open = true;
                self.opening = false;
                self.pet_at = now + times::PET;
            }
            Event::Petted => self.petted(now),
            Event::Disarmed => {
                self.open = false;
                self.actions.extend([Action::ClearMark, Action::Exit]);
            }
            Event::DisarmFailed { error } => {
                self.farewell = false;
                self.refuse(None, &format!("the watchdog cannot be disarmed: {error}"));
            }
        }
        self.step(now);
    }

    /// The next thing to do.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call again with [`Event::Timeout`].
    pub fn deadline(&self) -> Option<Time> {
        let pet =
            (self.open && self.hardware && !self.doomed && self.proven).then_some(self.pet_at);
        let entitled_pet = self.until.filter(|_| self.open && self.hardware && !self.doomed);
        let entitled_pet =
            entitled_pet.filter(|until| self.pet_at + PET_MARGIN < *until).map(|_| self.pet_at);
        let waiting = self.waiting.iter().map(|start| start.until).min();
        let cancel = self.cancels.values().copied().min();
        let all = [pet, entitled_pet, self.until, waiting, cancel, self.ending_deadline()];
        all.into_iter().flatten().min()
    }

    /// The starts whose processes live.
    pub fn running(&self) -> Vec<u64> {
        self.running.keys().copied().collect()
    }

    /// Nothing that was ever started is left.
    pub fn stopped_proven(&self) -> bool {
        self.proven
    }

    /// How long services may go on; zero if they may not.
    pub fn entitled(&self, now: Time) -> Duration {
        self.until.map_or(Duration::ZERO, |until| until.since(now))
    }

    /// The daemon's last word counts, also where it is shorter: a node that was alone and
    /// entitled for ten seconds is in a view with a peer for less than one (S5). A word that is
    /// refused can still shorten what goes on.
    fn entitle(&mut self, now: Time, until: Time) {
        let expired = self.stop.as_ref().is_some_and(|stop| stop.bound.is_some());
        if self.doomed || self.farewell {
            self.until = self.until.map(|old| old.min(until));
            self.refuse(None, "no entitlement: the keeper is ending");
        } else if self.must_stop || expired {
            self.until = self.until.map(|old| old.min(until));
            self.refuse(None, "no entitlement before what ran earlier is proven stopped");
        } else if until > now || self.until.is_some() {
            self.until = Some(until.min(now + ENTITLEMENT_LIMIT));
        }
        self.expire(now);
        self.arm(now);
    }

    fn start(&mut self, now: Time, start: Waiting) {
        let serial = start.serial;
        let in_use = self.running.contains_key(&serial)
            || self.waiting.iter().any(|other| other.serial == serial)
            || self.undos.iter().any(|undo| undo.serial == serial);
        let held = self.running.len().max(self.undos.len()) + self.waiting.len();
        if in_use {
            self.refuse(Some(serial), "the serial is in use");
        } else if held >= STARTS_LIMIT {
            self.refuse(Some(serial), "too many starts at once");
        } else if let Err(error) =
            start.launch.check().and_then(|()| start.undo.as_ref().map_or(Ok(()), Launch::check))
        {
            self.refuse(Some(serial), &error);
        } else if !self.may_start(now, start.until) {
            self.refuse(Some(serial), "not entitled");
        } else {
            self.waiting.push_back(start);
            self.start_waiting(now);
        }
    }

    /// Safety 19: asked before the spawn, and once more after it.
    fn may_start(&self, now: Time, until: Time) -> bool {
        let entitled = self.until.is_some_and(|end| now < end) && now < until;
        entitled && self.stop.is_none() && !self.must_stop && !self.farewell && !self.doomed
    }

    /// Spawns what waits, as far as the mark on disk covers it (safety 18).
    fn start_waiting(&mut self, now: Time) {
        while let Some(first) = self.waiting.front() {
            let (serial, until) = (first.serial, first.until);
            if !self.may_start(now, until) {
                self.waiting.pop_front();
                self.refuse(Some(serial), "the entitlement ended before the start");
                continue;
            }
            let covered = self
                .mark
                .stored
                .as_ref()
                .is_some_and(|serials| first.undo.is_none() || serials.contains(&serial));
            if !covered {
                self.store_mark(now);
                return;
            }
            let Some(first) = self.waiting.pop_front() else { return };
            self.proven = false;
            self.running.insert(serial, Running { pid: None, until });
            if let Some(launch) = first.undo {
                self.undos.push(Undo { serial, launch });
            }
            let until = self.until.map_or(until, |end| end.min(until));
            let job = Job::Start(serial);
            self.actions.push_back(Action::Spawn { job, launch: first.launch, until: Some(until) });
        }
    }

    fn store_mark(&mut self, now: Time) {
        if self.mark.writing.is_some() {
            return;
        }
        let new = self
            .waiting
            .iter()
            .filter_map(|start| Some(Undo { serial: start.serial, launch: start.undo.clone()? }));
        let undos: Vec<Undo> = self.undos.iter().cloned().chain(new).collect();
        self.mark.number += 1;
        self.mark.writing = Some(undos.iter().map(|undo| undo.serial).collect());
        let until = self.until.unwrap_or(now);
        self.actions.push_back(Action::StoreMark { mark: self.mark.number, until, undos });
    }

    fn mark_failed(&mut self, now: Time, mark: u64, error: &str) {
        if mark != self.mark.number || self.mark.writing.take().is_none() {
            return;
        }
        if self.outside {
            self.open_failed(now, &format!("the may-run mark is not stored: {error}"));
        }
        for start in std::mem::take(&mut self.waiting) {
            self.refuse(Some(start.serial), &format!("the may-run mark is not stored: {error}"));
        }
    }

    fn clear_mark(&mut self) {
        if self.mark.writing.take().is_some() | self.mark.stored.take().is_some() {
            self.actions.push_back(Action::ClearMark);
        }
    }

    fn spawned(&mut self, now: Time, job: Job, pid: i32) {
        self.cancels.remove(&pid);
        let serial = match job {
            Job::Start(serial) => serial,
            Job::Undo(_) => {
                if let Some(undoing) = &mut self.undoing {
                    undoing.pid = Some(pid);
                }
                return;
            }
        };
        let Some(start) = self.running.get_mut(&serial) else { return };
        start.pid = Some(pid);
        let until = start.until;
        if self.may_start(now, until) {
            self.actions.push_back(Action::Report(Report::Started { serial, pid }));
            return;
        }
        // The process may already have got through its own look at the clock: its undo stays.
        self.running.remove(&serial);
        self.actions.push_back(Action::KillOne { pid });
        self.refuse(Some(serial), "the entitlement ended during the start");
    }

    fn spawn_failed(&mut self, now: Time, job: Job, error: String) {
        match job {
            Job::Start(serial) => {
                self.running.remove(&serial);
                self.undos.retain(|undo| undo.serial != serial);
                self.refuse(Some(serial), &error);
            }
            Job::Undo(_) => self.undo_ended(now, false),
        }
    }

    fn reaped(&mut self, now: Time, pid: i32, status: ExitStatus) {
        let serial = self
            .running
            .iter()
            .find(|(_, start)| start.pid == Some(pid))
            .map(|(serial, _)| *serial);
        if let Some(serial) = serial {
            self.running.remove(&serial);
            self.actions.push_back(Action::Report(Report::Exited { serial, status }));
        } else if self.undoing.as_ref().is_some_and(|undoing| undoing.pid == Some(pid)) {
            self.undo_ended(now, status == ExitStatus::Code(0));
        }
    }

    fn cancel(&mut self, now: Time, serial: u64) {
        if let Some(place) = self.waiting.iter().position(|start| start.serial == serial) {
            self.waiting.remove(place);
            self.refuse(Some(serial), "cancelled before the start");
        } else if let Some(pid) = self.running.get(&serial).and_then(|start| start.pid) {
            self.cancels.entry(pid).or_insert(now + times::STOP_GRACE);
            self.actions.push_back(Action::TerminateOne { pid });
        } else {
            self.refuse(Some(serial), "no such start runs");
        }
    }

    /// A late pet has moved the reset past the bound that others count on (safety 19).
    fn petted(&mut self, now: Time) {
        if !self.proven && self.until.is_none() {
            self.force(now, "the watchdog was petted after the entitlement had ended");
        }
    }

    fn may_pet(&self, now: Time) -> bool {
        let entitled = self.until.is_some_and(|until| now + PET_MARGIN < until);
        self.open && self.hardware && !self.doomed && (self.proven || entitled)
    }

    /// Ends the entitlement whose time has come.
    fn expire(&mut self, now: Time) {
        let Some(until) = self.until.filter(|until| *until <= now) else { return };
        self.until = None;
        self.refuse_waiting("the entitlement ended before the start");
        if !self.proven {
            self.stop_since(until, Some(until + self.stop_bound()));
        } else if self.outside {
            // Nothing was armed in time.
            self.clear_mark();
        }
    }

    /// Does what the time asks for.
    fn step(&mut self, now: Time) {
        self.expire(now);
        while self.waiting.front().is_some_and(|start| start.until <= now) {
            let serial = self.waiting.pop_front().map(|start| start.serial);
            self.refuse(serial, "the entitlement ended before the start");
        }
        let due: Vec<i32> =
            self.cancels.iter().filter(|(_, at)| **at <= now).map(|(pid, _)| *pid).collect();
        for pid in due {
            self.cancels.remove(&pid);
            self.actions.push_back(Action::KillOne { pid });
        }
        self.step_ending(now);
        if self.pet_at <= now && self.may_pet(now) {
            self.pet_at = now + times::PET;
            self.actions.push_back(Action::Pet);
        } else if self.pet_at <= now {
            // Too close to t_e: looked at again after it, unless the entitlement moves on.
            self.pet_at = now + PET_MARGIN;
        }
    }

    fn refuse_waiting(&mut self, reason: &str) {
        for start in std::mem::take(&mut self.waiting) {
            self.refuse(Some(start.serial), reason);
        }
    }

    fn refuse(&mut self, serial: Option<u64>, reason: &str) {
        let reason = reason.to_owned();
        self.actions.push_back(Action::Report(Report::Refused { serial, reason }));
    }
}
