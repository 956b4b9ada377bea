//! What corosync is told of the device's vote, and when. It has the shape of the machines: facts
//! in, duties out, no I/O and no clock.
//!
//! votequorum counts a vote for T after a poll, in whatever ring; during a membership change it
//! keeps the old quorum until a poll with the new ring, or for S. Neither knows of a lease, so
//! it is ended from here: when the lease is over the vote is taken back in the present ring,
//! whatever the device does meanwhile (rule S2, safety 8, F13), and a held change ends with that.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use host::corosync::Info;
use protocol::host::{FromHost, HostQuorum, HostView, Welcome};
use protocol::ids::{Epoch, NodeId, RingId, ViewId};
use protocol::time::Time;
use protocol::times;

/// corosync is asked this often, to know that it lives: thrice within
/// [`times::HOST_SILENCE`].
const LOOK: Duration = Duration::from_millis(200);
/// How often it is asked whether a loss has taken effect: the message goes around the ring first.
const LOOK_FOR_LOSS: Duration = Duration::from_millis(20);
/// A poll that corosync could not take is repeated after this.
const RETRY: Duration = Duration::from_millis(100);
/// A membership change is held this long for a device that has no lease: as long as one counts.
const PATIENCE: Duration = times::LEASE;

/// Everything that can happen.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// The configuration, at first and after each change.
    Configured(Box<Welcome>),
    /// A membership change begins.
    Ring(RingId, Vec<NodeId>),
    /// The quorum was computed.
    Quorum { quorate: bool, expected_votes: u32, nodes: BTreeMap<NodeId, bool> },
    /// The device has registered.
    Registered,
    /// The device leaves.
    Unregister,
    /// The arbiter knows of this epoch.
    Epoch(Epoch),
    /// The device casts its vote until then, or takes it back.
    Vote { id: u64, view: ViewId, cast: Option<(Time, Epoch)> },
    /// The answer to [`Action::Poll`].
    Polled(Poll, Outcome),
    /// The answer to [`Action::Look`].
    Looked(Info),
    /// The [`Counting::deadline`] has passed.
    Timeout,
}

/// What became of a poll.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Outcome {
    /// Taken.
    Taken,
    /// Refused: the ring is not the present one.
    OtherRing,
    /// corosync is busy.
    Busy,
}

/// votequorum_qdevice_poll.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Poll {
    pub(super) ring: RingId,
    pub(super) cast: bool,
    /// The device's number of it, if the device waits for this very one.
    id: Option<u64>,
}

/// Everything it may do.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    /// To the device.
    Say(FromHost),
    /// Answer with [`Event::Polled`].
    Poll(Poll),
    /// votequorum_getinfo; answer with [`Event::Looked`].
    Look,
    /// votequorum_qdevice_unregister.
    Unregister,
    /// Somebody else has unregistered the device: begin anew.
    Lost,
}

/// The device's lease: the ring it is for, and its end.
#[derive(Clone, Copy, Debug)]
struct Lease {
    ring: RingId,
    until: Time,
}

/// Counts for one connection to corosync.
#[derive(Clone, Debug)]
pub(super) struct Counting {
    /// T.
    timeout: Duration,
    /// This node is registered as having a device.
    registered: bool,
    ring: Option<RingId>,
    /// A membership change is under way: the quorum in the present ring is not known yet.
    changing: bool,
    lease: Option<Lease>,
    /// votequorum counts a vote.
    counts: bool,
    /// That vote is of an earlier life of the device. It ends within T (S in a change) by itself,
    /// which the arbiter waits for; until then the device may get it again without a gap.
    inherited: bool,
    /// What is inherited has not been looked for yet.
    unseen: bool,
    /// The loss that the device waits to see applied.
    loss: Option<u64>,
    poll_at: Option<Time>,
    look_at: Time,
    /// corosync's rings have no epochs, so this one is remembered no longer than we live; the
    /// arbiter goes on above its own.
    highest_epoch: Epoch,
    evaluated: Time,
    actions: VecDeque<Action>,
}

impl Counting {
    pub(super) fn new() -> Self {
        Self {
            timeout: times::DEVICE_TIMEOUT,
            registered: false,
            ring: None,
            changing: false,
            lease: None,
            counts: false,
            inherited: false,
            unseen: false,
            loss: None,
            poll_at: None,
            look_at: Time::ZERO,
            highest_epoch: Epoch(0),
            evaluated: Time::ZERO,
            actions: VecDeque::new(),
        }
    }

    pub(super) fn handle(&mut self, now: Time, event: Event) {
        match event {
            Event::Configured(welcome) => {
                if let Some(device) = &welcome.device {
                    self.timeout = Duration::from_millis(u64::from(device.timeout_ms));
                }
                self.say(FromHost::Welcome(welcome));
            }
            Event::Ring(ring, members) => self.ring_begins(now, ring, members),
            Event::Quorum { quorate, expected_votes, nodes } => {
                let Some(ring) = self.ring else { return };
                self.changing = false;
                let view = view_of(ring);
                self.say(FromHost::Quorum(HostQuorum { view, quorate, expected_votes, nodes }));
            }
            Event::Registered => {
                self.registered = true;
                self.unseen = true;
                self.look_at = now;
            }
            Event::Unregister => {
                self.lease = None;
                if std::mem::take(&mut self.registered) {
                    self.actions.push_back(Action::Unregister);
                }
            }
            Event::Epoch(highest) => self.highest_epoch = self.highest_epoch.max(highest),
            Event::Vote { id, view, cast: Some((until, epoch)) } => {
                self.highest_epoch = self.highest_epoch.max(epoch);
                self.vote_yes(now, id, view.ring, until);
            }
            Event::Vote { id, view: _, cast: None } => self.vote_no(id),
            Event::Polled(poll, outcome) => self.polled(now, poll, outcome),
            Event::Looked(info) => self.looked(now, info),
            Event::Timeout => {}
        }
        self.evaluated = now;
        self.tick(now);
    }

    pub(super) fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call with [`Event::Timeout`], if nothing happens before.
    pub(super) fn deadline(&self) -> Option<Time> {
        if !self.registered {
            return None;
        }
        let lease = self.lease.map(|lease| lease.until);
        [lease, self.poll_at, Some(self.look_at)]
            .into_iter()
            .flatten()
            .filter(|at| *at > self.evaluated)
            .min()
    }

    /// The ring to take the vote back in, should the connection end here.
    pub(super) fn counted_in(&self) -> Option<RingId> {
        self.ring.filter(|_| self.registered && self.counts && !self.inherited)
    }

    fn say(&mut self, what: FromHost) {
        self.actions.push_back(Action::Say(what));
    }

    fn ring_begins(&mut self, now: Time, ring: RingId, members: Vec<NodeId>) {
        if self.ring == Some(ring) {
            return;
        }
        self.ring = Some(ring);
        self.changing = true;
        // The device asks anew in the new ring, so a loss in the old one is confirmed no more.
        self.loss = None;
        self.poll_at = if self.lease.is_some() || self.inherited {
            // The old quorum stands until the device's word, or until what it had is over.
            None
        } else if self.counts {
            // A loss that came too late for the old ring.
            Some(now)
        } else {
            Some(now + PATIENCE)
        };
        self.say(FromHost::View(HostView { id: view_of(ring), epoch: Epoch(0), members }));
    }

    fn vote_yes(&mut self, now: Time, id: u64, ring: RingId, until: Time) {
        let alive = self.registered && now < until;
        if alive && self.ring == Some(ring) {
            self.inherited = false;
            self.loss = None;
            self.lease = Some(Lease { ring, until });
            self.actions.push_back(Action::Poll(Poll { ring, cast: true, id: Some(id) }));
            return;
        }
        // As long as the change is held the old quorum stands, and the arbiter agrees to that.
        if let Some(lease) = self.lease.as_mut().filter(|lease| alive && lease.ring == ring) {
            lease.until = until;
        }
        self.say(FromHost::Polled { id, applied: false });
    }

    fn vote_no(&mut self, id: u64) {
        self.lease = None;
        self.inherited = false;
        let Some(ring) = self.ring.filter(|_| self.registered) else {
            self.say(FromHost::Polled { id, applied: false });
            return;
        };
        self.loss = Some(id);
        self.actions.push_back(Action::Poll(Poll { ring, cast: false, id: None }));
    }

    fn polled(&mut self, now: Time, poll: Poll, outcome: Outcome) {
        match outcome {
            Outcome::Taken => {
                self.counts = poll.cast;
                self.inherited = false;
                self.poll_at = Some(now + (self.timeout / 2).max(RETRY));
                if self.loss.is_some() {
                    self.look_at = now;
                }
            }
            Outcome::OtherRing | Outcome::Busy => self.poll_at = Some(now + RETRY),
        }
        if let Some(id) = poll.id {
            self.say(FromHost::Polled { id, applied: outcome == Outcome::Taken });
        }
    }

    fn looked(&mut self, now: Time, info: Info) {
        if !self.registered {
            return;
        }
        if !info.registered {
            self.actions.push_back(Action::Lost);
            return;
        }
        if std::mem::take(&mut self.unseen) {
            self.inherited = info.cast;
            self.counts = info.cast;
            self.poll_at = if info.cast { None } else { Some(now) };
        }
        if self.counts && !info.cast {
            // votequorum has not heard from us for T, or S: after a stall, or at the end of what
            // was inherited.
            self.counts = false;
            self.inherited = false;
            self.poll_at = Some(now);
        }
        let without_us = !info.quorate || info.total_votes >= info.quorum;
        if !self.changing
            && !self.counts
            && !info.cast
            && without_us
            && let Some(id) = self.loss.take()
        {
            self.say(FromHost::Polled { id, applied: true });
        }
        self.say(FromHost::Alive { highest_epoch: self.highest_epoch });
    }

    /// Does what is due.
    fn tick(&mut self, now: Time) {
        if !self.registered {
            return;
        }
        if self.lease.take_if(|lease| now >= lease.until).is_some() {
            self.poll_at = Some(now);
        }
        if now >= self.look_at {
            let pause = if self.loss.is_some() { LOOK_FOR_LOSS } else { LOOK };
            self.look_at = now + pause;
            self.actions.push_back(Action::Look);
        }
        let Some(ring) = self.ring else { return };
        if self.poll_at.is_some_and(|at| now >= at) {
            self.poll_at = Some(now + RETRY);
            let cast = self.lease.is_some_and(|lease| lease.ring == ring);
            // A lease of the old ring holds the change; its end will release it.
            if cast || self.lease.is_none() {
                self.actions.push_back(Action::Poll(Poll { ring, cast, id: None }));
            }
        }
    }
}

/// A ring as the arbiter knows it. All nodes of a ring have to name it alike, those with the stock
/// device too, so there is no random part; and none is missed: corosync stores the number of its
/// last ring, and what was said to an earlier corosync is void, as the connection was another.
fn view_of(ring: RingId) -> ViewId {
    ViewId { ring, nonce: 0 }
}

#[cfg(test)]
mod tests;
