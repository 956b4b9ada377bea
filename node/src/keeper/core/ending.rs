//! How things end: the stop, its undos, its proof, and the forced end where the proof is late.

use std::time::Duration;

use protocol::time::Time;
use protocol::times;

use super::{Action, Core, Job, Left, Report};

/// SIGKILL is sent again this often until nothing is left to send it to.
const KILL_AGAIN: Duration = Duration::from_millis(20);
/// And this often after a forced end.
const KILL_AGAIN_FORCED: Duration = Duration::from_millis(500);
/// An undo that failed is tried again after this long.
const UNDO_AGAIN: Duration = Duration::from_millis(200);
/// An undo that takes longer is killed, and tried again.
const UNDO_LIMIT: Duration = Duration::from_millis(1000);
/// How long what was killed has to be gone, where the keeper itself came late and there is no
/// hardware whose time runs: a paused node is not robbed of its daemons at the first look (F18).
const SETTLE: Duration = times::STOP_BOUND.saturating_sub(times::STOP_GRACE);

/// A stop on its way.
#[derive(Clone, Debug)]
pub(super) struct Stopping {
    /// SIGKILL from then on.
    kill_at: Time,
    /// When the first SIGKILL was sent.
    killed_at: Option<Time>,
    again_at: Time,
    /// Proven by then, or forced; none while the node is entitled.
    pub(super) bound: Option<Time>,
    forced: bool,
}

impl Stopping {
    /// There is nothing to send a signal to.
    fn of_others(bound: Option<Time>) -> Self {
        let (kill_at, again_at) = (Time::NEVER, Time::NEVER);
        Self { kill_at, killed_at: None, again_at, bound, forced: false }
    }
}

/// An undo on its way.
#[derive(Clone, Debug)]
pub(super) struct Undoing {
    serial: u64,
    pub(super) pid: Option<i32>,
    kill_at: Time,
}

impl Core {
    /// From t_e: W - 1 s, so that the keeper acts before the hardware does.
    pub(super) fn stop_bound(&self) -> Duration {
        self.watchdog.saturating_sub(times::WATCHDOG - times::STOP_BOUND)
    }

    /// What an earlier keeper left is killed at once: nobody is entitled to it.
    pub(super) fn recover(&mut self, now: Time, left: Left) {
        self.proven = false;
        self.recovering = true;
        let bound = left.until.min(now + super::ENTITLEMENT_LIMIT) + self.stop_bound();
        self.mark.stored = Some(left.undos.iter().map(|undo| undo.serial).collect());
        self.undos = left.undos;
        self.stop = Some(Stopping {
            kill_at: now,
            killed_at: None,
            again_at: now,
            bound: Some(bound.max(now + SETTLE)),
            forced: false,
        });
    }

    /// The stop that somebody asked for. The end of the entitlement gives it its bound.
    pub(super) fn stop_all(&mut self, now: Time) {
        self.refuse_waiting("everything is being stopped");
        if self.proven {
            self.proven_stop(now);
        } else {
            self.stop_since(now, None);
        }
    }

    /// Begins a stop, or tightens the one on its way.
    pub(super) fn stop_since(&mut self, since: Time, bound: Option<Time>) {
        let kill_at = since + times::STOP_GRACE;
        match &mut self.stop {
            Some(stop) => {
                stop.kill_at = stop.kill_at.min(kill_at);
                stop.bound = stop.bound.or(bound);
            }
            None if self.outside => self.stop = Some(Stopping::of_others(bound)),
            None => {
                self.actions.push_back(Action::Terminate);
                self.stop = Some(Stopping {
                    kill_at,
                    killed_at: None,
                    again_at: kill_at,
                    bound,
                    forced: false,
                });
            }
        }
    }

    pub(super) fn no_children(&mut self, now: Time) {
        if self.recovering || !self.running.is_empty() || self.undoing.is_some() {
            return;
        }
        if self.undos.is_empty() {
            if self.stop.is_some() {
                self.proven_stop(now);
            } else {
                self.proven = true;
            }
        } else if self.stop.is_some() && self.undo_at <= now {
            // The last that was done is the first to be taken back.
            let Some(undo) = self.undos.last().cloned() else { return };
            let kill_at = now + UNDO_LIMIT;
            self.undoing = Some(Undoing { serial: undo.serial, pid: None, kill_at });
            let job = Job::Undo(undo.serial);
            self.actions.push_back(Action::Spawn { job, launch: undo.launch, until: None });
        }
    }

    pub(super) fn undo_ended(&mut self, now: Time, done: bool) {
        let Some(undoing) = self.undoing.take() else { return };
        if done {
            self.undos.retain(|undo| undo.serial != undoing.serial);
        } else {
            self.undo_at = now + UNDO_AGAIN;
        }
        // Undos began when nothing else lived: what lives now, they left behind.
        if let Some(stop) = &mut self.stop {
            stop.kill_at = now;
            stop.again_at = now;
        }
    }

    pub(super) fn proven_stop(&mut self, now: Time) {
        self.proven = true;
        self.must_stop = false;
        self.stop = None;
        self.cancels.clear();
        self.pet_at = now;
        self.actions.push_back(Action::Report(Report::StoppedProven));
        if self.farewell && !self.doomed {
            // The mark stays until the device is closed; then it goes, and the keeper with it.
            self.actions.push_back(Action::Disarm);
            return;
        }
        self.clear_mark();
        if !self.open && !self.doomed && !self.outside {
            self.actions.push_back(Action::OpenDevice);
        }
    }

    /// The end that does not wait for a proof (safety 19, F3).
    pub(super) fn force(&mut self, now: Time, reason: &str) {
        let reason = reason.to_owned();
        self.actions.extend([Action::Kill, Action::KillDaemons]);
        if self.hardware && !self.doomed {
            self.doomed = true;
            self.actions.push_back(Action::Reboot { reason: reason.clone() });
        }
        self.actions.push_back(Action::Report(Report::Forced { reason }));
        if let Some(stop) = &mut self.stop {
            stop.forced = true;
            stop.killed_at = stop.killed_at.or(Some(now));
            stop.again_at = now + KILL_AGAIN_FORCED;
        }
    }

    pub(super) fn step_ending(&mut self, now: Time) {
        if let Some(undoing) = &mut self.undoing
            && let Some(pid) = undoing.pid
            && undoing.kill_at <= now
        {
            undoing.kill_at = now + UNDO_LIMIT;
            self.actions.push_back(Action::KillOne { pid });
        }
        let Some(stop) = &mut self.stop else { return };
        if self.undoing.is_none() && stop.kill_at <= now && stop.again_at <= now {
            stop.killed_at = stop.killed_at.or(Some(now));
            stop.again_at = now + if stop.forced { KILL_AGAIN_FORCED } else { KILL_AGAIN };
            let left = self.recovering.then_some(Action::EndOrphans);
            self.actions.push_back(left.unwrap_or(Action::Kill));
        }
        if !stop.forced && forced_at(self.hardware, stop).is_some_and(|at| at <= now) {
            self.force(now, "the full stop was not proven in time after the entitlement ended");
        }
    }

    pub(super) fn ending_deadline(&self) -> Option<Time> {
        let undoing = self.undoing.as_ref();
        let stop = self.stop.as_ref();
        let kill = stop.filter(|_| undoing.is_none()).map(|stop| stop.kill_at.max(stop.again_at));
        let force =
            stop.filter(|stop| !stop.forced).and_then(|stop| forced_at(self.hardware, stop));
        let undo_limit = undoing.filter(|undoing| undoing.pid.is_some()).map(|it| it.kill_at);
        [kill, force, undo_limit].into_iter().flatten().min()
    }
}

fn forced_at(hardware: bool, stop: &Stopping) -> Option<Time> {
    let bound = stop.bound?;
    match stop.killed_at {
        Some(killed) if !hardware => Some(bound.max(killed + SETTLE)),
        Some(_) | None => Some(bound),
    }
}
