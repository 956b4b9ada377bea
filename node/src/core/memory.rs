//! What a node remembers of epochs, and what a node does that remembers none (rule S4).
//!
//! An epoch is never given twice because it is above what voters of more than half of the votes
//! have stored, and any two such sets share a voter (safety 27). So a node with an empty disk is no
//! such voter: it has no vote until others that remember are so many that no QUORATE view can have
//! been without all of them, or until the arbiter has told it how far epochs have come. Where there
//! is no arbiter, all nodes together know what anybody still can.

use protocol::cluster::Installed;
use protocol::ids::{Epoch, NodeId, ViewId};

use super::quorum::{Ballot, Count};
use super::{Action, Node, Time};

/// An epoch of the device that is ahead by more than this is a lie; it is not followed, because an
/// epoch that has run out can never be raised again. The arbiter's own limit is the same.
const EPOCH_JUMP_LIMIT: u64 = 1 << 40;

/// A node that has only the arbiter's word goes on this far above it: more epochs than were given
/// while the arbiter was not reached. So does one that has only the word of too few nodes, once
/// nobody is left to ask. The arbiter does the same after a reboot of its host, with a room that is
/// larger, so that one that is restored from a backup stays above this.
const FORGOTTEN_EPOCHS: u64 = 1 << 16;

impl Node {
    /// The arbiter knows of an epoch. It is a voter too, and what it remembers counts as what a
    /// peer does: the next view is above it (safety 10, 27). The present one keeps its epoch.
    pub(super) fn hear_epoch(&mut self, highest: Epoch) {
        if self.is_credible(highest) {
            self.arbiter_epoch = self.arbiter_epoch.max(highest);
            // Who remembers nothing needs more than this: see `recall`.
            if !self.want.forgotten {
                self.raise_epoch(highest);
            }
        } else {
            let text = format!(
                "the device speaks of epoch {highest}, far above {}: not believed",
                self.want.epoch
            );
            self.actions.push_back(Action::Decided(text));
        }
    }

    /// A member of this node's view has stored an epoch that is newer than the view's, as the arbiter
    /// has told it: enough of them have to before it counts, and not all may be told.
    pub(super) fn hear_member_epoch(&mut self, view: Option<ViewId>, highest: Epoch) {
        let current = self.current.as_ref().filter(|ballot| !ballot.left);
        let same = current.is_some_and(|ballot| Some(ballot.installed.id) == view);
        if same && !self.want.forgotten && highest > self.want.epoch && self.is_credible(highest) {
            self.raise_epoch(highest);
        }
    }

    /// It could have been reached since this node heard of an epoch last.
    pub(super) fn is_credible(&self, epoch: Epoch) -> bool {
        epoch.0.saturating_sub(self.want.epoch.0) <= EPOCH_JUMP_LIMIT
    }

    /// What others may rely on: nothing, as long as this node does not remember.
    pub(super) fn remembered_epoch(&self) -> Epoch {
        if self.durable.forgotten { Epoch(0) } else { self.durable.epoch }
    }

    /// A node that remembers nothing looks whether it knows enough again.
    pub(super) fn recall(&mut self, now: Time) {
        // What it has accepted it has accepted as one that remembers nothing: its vote must not
        // count in a view whose epoch was agreed without what it learns now.
        if !self.want.forgotten || !self.agreement.is_idle() {
            return;
        }
        let Some(ballot) = self.current.as_ref().filter(|ballot| !ballot.left) else { return };
        // The members that remember have agreed on an epoch above all that they remember. The
        // device's vote is no such: its epoch is known to those only whom the arbiter reaches.
        let device = self.config.device_votes.saturating_mul(2);
        let counted = ballot.device.map_or(0, |_| device);
        let peers = self.halves(now, ballot, Count::Free).saturating_sub(counted);
        let enough = |votes: u32| self.all_halves().saturating_sub(votes) < self.need();
        if enough(peers) || self.is_first(&ballot.installed) {
            self.want.forgotten = false;
            return;
        }
        // What the arbiter has heard from the members of this very view is no news.
        let grant = ballot.next_device.or(ballot.device).map(|device| device.grant.epoch);
        let known = ballot.installed.epoch.max(self.arbiter_epoch).max(grant.unwrap_or_default());
        let is_told = grant.is_some() || known > ballot.installed.epoch;
        if !is_told && !self.nobody_is_left_to_ask(ballot) {
            return;
        }
        let with_device = peers.saturating_add(grant.map_or(0, |_| device));
        let room = match (enough(with_device), is_told) {
            (true, _) => 0,
            (false, true) => FORGOTTEN_EPOCHS,
            // It may come to this again with the same memories, and must not get to the same epoch.
            (false, false) => FORGOTTEN_EPOCHS + self.rng.below(FORGOTTEN_EPOCHS),
        };
        let above = Epoch(known.0.saturating_add(room));
        self.want.forgotten = false;
        self.raise_epoch(above);
        // Its vote counts only in a view whose epoch all members know to be above that.
        self.leave_current();
        let who = if is_told { "the arbiter knows" } else { "all nodes together know" };
        self.actions.push_back(Action::Decided(format!(
            "this node's disk knew no epoch, {who} {known}: going on above {above}"
        )));
    }

    /// There is no arbiter, every configured node is in the view, and too few of them remember,
    /// whoever has lent its vote yet. Without this a cluster whose disks were replaced at once, or
    /// that has grown to more than twice its size, would wait for ever. An arbiter that the cluster
    /// had until now is not asked any more: who takes the device away does so while disks are old.
    fn nobody_is_left_to_ask(&self, view: &Ballot) -> bool {
        let remembers = |node: &&NodeId| {
            let beat = self.peers.get(node).and_then(|peer| peer.beat.as_ref());
            beat.is_some_and(|beat| beat.highest_epoch > Epoch(0))
        };
        let members = view.installed.members.iter().filter(remembers);
        let votes = members.map(|node| self.weight(*node)).fold(0, u32::saturating_add);
        self.config.device_votes == 0
            && self.outside(view).next().is_none()
            && self.all_halves().saturating_sub(votes) >= self.need()
    }

    /// No member remembers anything, and they are quorate by themselves: it is the cluster's first
    /// start, or more than half of all disks were lost at once, which nobody can tell apart.
    fn is_first(&self, view: &Installed) -> bool {
        let votes = view.members.iter().map(|node| self.weight(*node));
        view.epoch == Epoch(1) && votes.fold(0, u32::saturating_add) >= self.need()
    }
}
