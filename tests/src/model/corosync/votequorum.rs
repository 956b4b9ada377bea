//! What corosync's votequorum does with its device's vote (wire 5), per node. Stays a model: the
//! tests with the real daemons show that it is one.

use std::time::Duration;

use protocol::ids::{NodeId, RingId};
use protocol::time::Time;
use protocol::times;

/// A vote that is cast or taken back counts a token rotation later (0.56 s on corosync 3.1).
const ROTATION: Duration = Duration::from_millis(500);

/// One node's votequorum.
#[derive(Clone, Debug)]
pub(super) struct Votequorum {
    /// The present ring and its members.
    pub(super) ring: RingId,
    pub(super) members: Vec<NodeId>,
    /// The ring in which the quorum was last worked out.
    pub(super) counted_ring: RingId,
    pub(super) counted: Vec<NodeId>,
    /// What it has told everybody last.
    pub(super) quorate: bool,
    device_votes: usize,
    quorum: usize,
    /// The device's vote is cast.
    pub(super) cast: bool,
    /// The device has polled within T, or S in a change.
    alive: bool,
    silent_at: Time,
    /// A membership change is held for the device's word.
    pub(super) changing: bool,
    work_out_at: Option<Time>,
}

impl Votequorum {
    pub(super) fn new(ring: RingId, node: NodeId, device_votes: usize, quorum: usize) -> Self {
        Self {
            ring,
            members: vec![node],
            counted_ring: ring,
            counted: vec![node],
            quorate: false,
            device_votes,
            quorum,
            cast: false,
            alive: false,
            silent_at: Time::NEVER,
            changing: false,
            work_out_at: None,
        }
    }

    /// A membership change begins: the old quorum stands until the device has spoken in the new
    /// ring, or for S; CAST_VOTE stays.
    pub(super) fn ring_begins(&mut self, now: Time, ring: RingId, members: Vec<NodeId>) {
        (self.ring, self.members) = (ring, members);
        self.changing = true;
        if self.alive {
            self.silent_at = now + times::DEVICE_SYNC_TIMEOUT;
        } else {
            self.work_out_at = Some(now);
        }
    }

    /// votequorum_qdevice_poll; false if the ring is not the present one.
    pub(super) fn poll(&mut self, now: Time, ring: RingId, cast: bool) -> bool {
        if ring != self.ring {
            return false;
        }
        let changed = self.cast != cast;
        (self.alive, self.cast) = (true, cast);
        self.silent_at = now + times::DEVICE_TIMEOUT;
        if self.changing {
            self.work_out_at = Some(now);
        } else if changed {
            self.work_out_at = Some(now + ROTATION);
        }
        true
    }

    /// Does what is due; whether the quorum was worked out.
    pub(super) fn pass(&mut self, now: Time) -> bool {
        if self.alive && now >= self.silent_at {
            (self.alive, self.cast) = (false, false);
            self.work_out_at = Some(now);
        }
        if self.work_out_at.take_if(|at| now >= *at).is_none() {
            return false;
        }
        self.changing = false;
        self.counted_ring = self.ring;
        self.counted.clone_from(&self.members);
        let device = if self.cast { self.device_votes } else { 0 };
        self.quorate = self.members.len() + device >= self.quorum;
        true
    }

    /// A vote that was taken back has been worked out.
    pub(super) fn is_settled(&self) -> bool {
        !self.changing && self.work_out_at.is_none()
    }
}
