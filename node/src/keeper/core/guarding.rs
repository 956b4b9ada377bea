//! A keeper that starts nothing itself: it guards what others have started and others stop
//! (corosync's resource managers).
//!
//! * It opens the device with the first entitlement, with its mark on disk: a node that boots and
//!   is not quorate yet is not reset.
//! * From then on something may run, whatever children it has. At the end of the entitlement it
//!   stops petting, and W - 1 s later it forces the end; only [`super::Event::Release`], the
//!   guard's word that all has ended, is a proof.

use std::time::Duration;

use protocol::time::Time;

use super::{Action, Core};

/// The answer to a start.
pub(super) const STARTS_NOTHING: &str = "this keeper starts nothing: it guards what others start";
/// The answer to everything that would end or stop it.
pub(super) const STAYS_ARMED: &str = "the watchdog stays armed on purpose: what it guards was \
     started by others and may run; stop what uses corosync, then corosync";
/// A device that could not be opened is tried again after this.
const OPEN_AGAIN: Duration = Duration::from_secs(5);

impl Core {
    /// A keeper at `now` for what others start, with a device whose timeout is `watchdog`.
    pub fn guarding(now: Time, watchdog: Duration) -> Self {
        let mut core = Self::idle(now, true, watchdog);
        core.outside = true;
        core
    }

    /// Something that others have started may run.
    pub(super) fn guards(&self) -> bool {
        self.outside && !self.proven
    }

    /// Arms the device, if the node is entitled and the mark is on disk.
    pub(super) fn arm(&mut self, now: Time) {
        let ending = self.doomed || self.farewell;
        if !self.outside || !self.proven || self.opening || ending || self.until.is_none() {
            return;
        }
        if self.mark.stored.is_none() {
            if self.open_at <= now {
                self.store_mark(now);
            }
            return;
        }
        self.proven = false;
        if !self.open {
            self.opening = true;
            self.actions.push_back(Action::OpenDevice);
        }
    }

    /// Nothing is guarded, and the mark says nothing else.
    pub(super) fn open_failed(&mut self, now: Time, error: &str) {
        self.opening = false;
        self.proven = true;
        self.open_at = now + OPEN_AGAIN;
        self.clear_mark();
        self.refuse(None, &format!("nothing is guarded: {error}"));
    }

    /// The guard has the proof of a full stop; also after the end, as long as nothing is forced.
    pub(super) fn release(&mut self, now: Time) {
        if !self.outside || self.doomed {
            self.refuse(None, "there is nothing to release");
            return;
        }
        self.until = None;
        self.farewell = true;
        self.proven_stop(now);
    }
}
