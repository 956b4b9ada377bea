//! Who waits for the socket to take more bytes.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};

/// A task that may wait for the socket to take more bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Waiter {
    /// It wants to write, flush or close.
    Writer,
    /// It wants to read, and helps to send what is left meanwhile.
    Reader,
}

/// Wakes every waiter. The halves of a stream may live in two tasks, while a socket remembers
/// one waker for each direction, the last one: with one of our own there, neither task is
/// forgotten when the other asks.
#[derive(Debug, Default)]
pub(super) struct SendWakers {
    writer: Mutex<Option<Waker>>,
    reader: Mutex<Option<Waker>>,
}

impl SendWakers {
    /// Remembers that this waiter's task waits. Before the socket is asked, so that no wake-up
    /// falls between.
    pub(super) fn register(&self, waiter: Waiter, waker: &Waker) {
        let mut slot = self.slot(waiter).lock().unwrap_or_else(PoisonError::into_inner);
        match slot.as_mut() {
            Some(known) => known.clone_from(waker),
            None => *slot = Some(waker.clone()),
        }
    }

    /// Wakes one waiter, if it waits.
    pub(super) fn wake_one(&self, waiter: Waiter) {
        let waker = self.slot(waiter).lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    const fn slot(&self, waiter: Waiter) -> &Mutex<Option<Waker>> {
        match waiter {
            Waiter::Writer => &self.writer,
            Waiter::Reader => &self.reader,
        }
    }
}

impl Wake for SendWakers {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.wake_one(Waiter::Writer);
        self.wake_one(Waiter::Reader);
    }
}
