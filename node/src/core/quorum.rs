//! Whose votes count until when, and what follows: QUORATE, FROZEN or INQUORATE (rule S1).

use protocol::cluster::{Installed, MAX_NODES};
use protocol::host::FromHost;
use protocol::ids::{Epoch, GrantId, NodeId, ViewId};
use protocol::status::QuorumState;
use protocol::time::Time;

use super::{Action, Node};

/// Which votes of peers count.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Count {
    /// Those that no node outside the view can count: for QUORATE.
    Free,
    /// Also those that a node outside may still count, but no other view can: for FROZEN.
    Kept,
}

/// The device's vote in one view.
#[derive(Clone, Copy, Debug)]
pub(super) struct DeviceVote {
    /// It counts until the lease or T after the poll has run out (F13).
    pub(super) until: Time,
    /// Where it comes from.
    pub(super) grant: GrantId,
}

/// A view and the votes that are not a peer's.
#[derive(Clone, Debug)]
pub(super) struct Ballot {
    pub(super) installed: Installed,
    /// This node has accepted another view: this one can be frozen but never be quorate again.
    pub(super) left: bool,
    /// No node outside can count this node's vote any more (safety 1).
    pub(super) vote_free_at: Time,
    pub(super) device: Option<DeviceVote>,
    /// A vote of a newer grant, whose epoch too few have stored yet: until then the one before
    /// counts.
    pub(super) next_device: Option<DeviceVote>,
}

impl Ballot {
    pub(super) fn new(installed: Installed, vote_free_at: Time) -> Self {
        Self { installed, left: false, vote_free_at, device: None, next_device: None }
    }
}

/// What keeps a view from being quorate though its votes would do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Hindrance {
    /// This node is leaving.
    Leaving,
    /// A member is not in contact.
    MemberLost,
    /// `wait_for_all`: a node has not been seen yet.
    WaitsForAll,
    /// `two_node`: the peer is not confirmed off.
    TwoNode,
    /// A lost node may still count this node's vote.
    VoteLent,
}

impl Node {
    /// When each vote of a view ends.
    pub(super) fn vote_times(&self, ballot: &Ballot, mut consider: impl FnMut(Time)) {
        let others = ballot.installed.members.iter().filter(|node| **node != self.config.node);
        for peer in others.filter_map(|node| self.peers.get(node)) {
            let (free, kept) = peer.vote_times(ballot.installed.id);
            [free, kept].into_iter().flatten().for_each(&mut consider);
        }
        if let Some(device) = &ballot.device {
            consider(device.until);
        }
    }

    /// End and weight of each vote that may count in a view, but for the own one.
    fn votes_of<'a>(
        &'a self,
        ballot: &'a Ballot,
        count: Count,
    ) -> impl Iterator<Item = (Time, u32)> + 'a {
        let view = ballot.installed.id;
        let others = ballot.installed.members.iter().filter(|node| **node != self.config.node);
        let peers = others.filter_map(move |node| {
            let peer = self.peers.get(node)?;
            let until = match count {
                Count::Free => peer.vote_until(view)?,
                Count::Kept => peer.kept_until(view)?,
            };
            Some((until, self.weight(*node)))
        });
        let device = ballot.device.map(|device| (device.until, self.config.device_votes * 2));
        peers.chain(device)
    }

    /// A node's votes, in halves: the tie-breaker's node has half a vote more than it says.
    pub(super) fn weight(&self, node: NodeId) -> u32 {
        let votes = self.config.votes.get(&node).copied().unwrap_or(0);
        votes.saturating_mul(2) + u32::from(self.config.auto_tie_breaker == Some(node))
    }

    /// The votes of all nodes and of the device.
    pub(super) fn expected_votes(&self) -> u32 {
        let nodes = self.config.votes.values();
        nodes.fold(self.config.device_votes, |sum, votes| sum.saturating_add(*votes))
    }

    /// What quorum needs, in halves of a vote. With an automatic tie-breaker exactly half of the
    /// votes will do, if its node is among them: it is in one half only (votequorum(5)).
    pub(super) fn need(&self) -> u32 {
        let all = self.config.quorum.saturating_mul(2);
        if self.config.auto_tie_breaker.is_none() {
            return all;
        }
        let expected = self.expected_votes();
        // A higher expected_votes in the configuration leaves no exact half.
        let half = expected.is_multiple_of(2) && self.config.quorum == expected / 2 + 1;
        if half { expected + 1 } else { all }
    }

    /// All votes that there are, in halves.
    pub(super) fn all_halves(&self) -> u32 {
        let nodes = self.config.votes.keys().map(|node| self.weight(*node));
        nodes.fold(self.config.device_votes.saturating_mul(2), u32::saturating_add)
    }

    /// This node's vote counts in a view: no node outside can count it, and it remembers epochs.
    pub(super) fn is_free(&self, now: Time, ballot: &Ballot) -> bool {
        now >= ballot.vote_free_at && !self.durable.forgotten
    }

    /// The votes that count in a view now.
    pub(super) fn total(&self, now: Time, ballot: &Ballot) -> u32 {
        self.halves(now, ballot, Count::Free) / 2
    }

    pub(super) fn halves(&self, now: Time, ballot: &Ballot, count: Count) -> u32 {
        let own = self.own_halves(now, ballot, count);
        let others = self.votes_of(ballot, count).filter(|(until, _)| now < *until);
        others.map(|(_, weight)| weight).fold(own, u32::saturating_add)
    }

    /// This node's own part of that.
    fn own_halves(&self, now: Time, ballot: &Ballot, count: Count) -> u32 {
        let counts = self.is_free(now, ballot) || count == Count::Kept;
        if counts { self.weight(self.config.node) } else { 0 }
    }

    /// Until when a view's votes reach quorum if nothing more is heard; the past if they do not.
    pub(super) fn quorum_until(&self, now: Time, ballot: &Ballot, count: Count) -> Time {
        let need = self.need();
        let mut total = self.own_halves(now, ballot, count);
        // No view has more members; of a larger one fewer votes would count, never more.
        let (mut votes, mut known) = ([(Time::NEVER, 0); MAX_NODES + 1], 0);
        let running = self.votes_of(ballot, count).filter(|(until, _)| now < *until);
        for (place, vote) in votes.iter_mut().zip(running) {
            *place = vote;
            total = total.saturating_add(vote.1);
            known += 1;
        }
        if total < need {
            return Time::ZERO;
        }
        // From the end of one vote to that of the next, as long as what is left then will do.
        loop {
            let first = votes[..known].iter_mut().min_by_key(|(until, _)| *until);
            let Some((until, weight)) = first.filter(|(until, _)| *until != Time::NEVER) else {
                return Time::NEVER;
            };
            total = total.saturating_sub(*weight);
            if total < need {
                return *until;
            }
            (*until, *weight) = (Time::NEVER, 0);
        }
    }

    /// Until when the node stays entitled if nothing more is heard: QUORATE by the votes that
    /// count in its view; FROZEN by those of the view it was entitled in, or by those that the
    /// members of the present one keep for it, free or not. The last cannot be in another view's
    /// quorum, so nobody outside becomes QUORATE while they last.
    pub(super) fn entitled_until(&self, now: Time, state: QuorumState) -> Option<Time> {
        let current = self.current.as_ref()?;
        match state {
            QuorumState::Inquorate => None,
            QuorumState::Quorate => Some(self.quorum_until(now, current, Count::Free)),
            QuorumState::Frozen => {
                let old = self.old.as_ref().unwrap_or(current);
                let old = self.quorum_until(now, old, Count::Free);
                Some(old.max(self.quorum_until(now, current, Count::Kept)))
            }
        }
    }

    /// Every member of the current view is in contact, and this node has not left it.
    fn is_whole(&self, now: Time, ballot: &Ballot) -> bool {
        let mut peers = ballot.installed.members.iter().filter_map(|node| self.peers.get(node));
        !ballot.left && peers.all(|peer| peer.in_contact(now))
    }

    /// Why the current view is not quorate though its votes would do, if there is a reason.
    fn hindrance(&self, now: Time) -> Option<Hindrance> {
        let ballot = self.current.as_ref()?;
        let alone = || self.outside(ballot).next().is_some();
        if self.leaving {
            Some(Hindrance::Leaving)
        } else if !self.is_whole(now, ballot) {
            Some(Hindrance::MemberLost)
        } else if self.config.wait_for_all && !self.seen_all && alone() {
            Some(Hindrance::WaitsForAll)
        } else if self.config.two_node && alone() {
            Some(Hindrance::TwoNode)
        } else if now < ballot.vote_free_at {
            Some(Hindrance::VoteLent)
        } else {
            None
        }
    }

    /// The same, for people.
    pub(super) fn hindrance_text(&self, now: Time) -> Option<String> {
        Some(match self.hindrance(now)? {
            Hindrance::Leaving => "this node is leaving".to_owned(),
            Hindrance::MemberLost => {
                "a member of the view is lost; a new view is being formed".to_owned()
            }
            Hindrance::WaitsForAll => {
                let outside = self.current.iter().flat_map(|ballot| self.outside(ballot));
                let names: Vec<String> = outside.map(|node| node.to_string()).collect();
                format!("wait_for_all: node {} has not been seen yet", names.join(", "))
            }
            Hindrance::TwoNode => {
                "two_node: the peer must be confirmed off, and only an arbiter can say for whom: \
                 use a quorum device"
                    .to_owned()
            }
            Hindrance::VoteLent => "a lost node may still count this node's vote".to_owned(),
        })
    }

    /// Configured nodes that are not in a view.
    pub(super) fn outside<'a>(&'a self, ballot: &'a Ballot) -> impl Iterator<Item = NodeId> + 'a {
        let members = &ballot.installed.members;
        self.config.votes.keys().filter(|node| !members.contains(node)).copied()
    }

    /// The state now, from the state of the last evaluation and the votes that count now.
    pub(super) fn judge(&self, now: Time) -> QuorumState {
        self.judgement(now).0
    }

    /// The same, and until when the node is entitled in it if nothing more is heard.
    fn judgement(&self, now: Time) -> (QuorumState, Option<Time>) {
        let Some(current) = self.current.as_ref().filter(|_| !self.leaving) else {
            return (QuorumState::Inquorate, None);
        };
        if self.hindrance(now).is_none() {
            let until = self.quorum_until(now, current, Count::Free);
            if now < until {
                return (QuorumState::Quorate, Some(until));
            }
        }
        if self.state == QuorumState::Inquorate {
            return (QuorumState::Inquorate, None);
        }
        // Entitled until now: that lasts as long as its votes do.
        match self.entitled_until(now, QuorumState::Frozen) {
            Some(until) if now < until => (QuorumState::Frozen, Some(until)),
            Some(_) | None => (QuorumState::Inquorate, None),
        }
    }

    /// Recomputes the state and what hangs on it. Returns until when the node is entitled if
    /// nothing more is heard.
    pub(super) fn count(&mut self, now: Time) -> Option<Time> {
        let stored =
            [&self.current, &self.old].map(|ballot| self.granted_is_stored(ballot.as_ref()));
        for (ballot, stored) in [&mut self.current, &mut self.old].into_iter().zip(stored) {
            let Some(ballot) = ballot else { continue };
            // A granted epoch is stored before its vote counts; then it is the view's (rule S4).
            let next = ballot.next_device.take_if(|_| stored);
            ballot.device = next.or(ballot.device).filter(|device| now < device.until);
            ballot.next_device = ballot.next_device.filter(|device| now < device.until);
            if let Some(device) = ballot.device {
                ballot.installed.epoch = ballot.installed.epoch.max(device.grant.epoch);
            }
        }
        let before = self.state;
        let (state, until) = self.judgement(now);
        if state != QuorumState::Frozen {
            self.old = None;
        }
        self.state = state;
        if state != before {
            let view = self.current.as_ref().map(|ballot| ballot.installed.id.to_string());
            self.actions.push_back(Action::Decided(format!(
                "{state:?} (was {before:?}) in view {}: {} of {} votes{}",
                view.unwrap_or_else(|| "none".to_owned()),
                self.current.as_ref().map_or(0, |ballot| self.total(now, ballot)),
                self.config.quorum,
                self.hindrance_text(now).map(|text| format!(", {text}")).unwrap_or_default(),
            )));
        }
        self.track_outside(now);
        if state == QuorumState::Quorate && state != before {
            self.keep_proofs(before);
        }
        self.answer_polls();
        until
    }

    /// The newest grant's epoch is on the disks of voters with a quorum, this node's among them: the
    /// arbiter has stored it before it told anybody, and the members say how far they have come. An
    /// epoch that the arbiter and one node alone knew could be given again after that node's disk
    /// was lost (safety 27).
    fn granted_is_stored(&self, ballot: Option<&Ballot>) -> bool {
        let Some((ballot, next)) = ballot.and_then(|ballot| Some((ballot, ballot.next_device?)))
        else {
            return false;
        };
        let epoch = next.grant.epoch;
        if epoch > self.durable.epoch {
            return false;
        }
        if epoch <= ballot.installed.epoch {
            return true;
        }
        let knows = |node: &NodeId| {
            if *node == self.config.node {
                return !self.durable.forgotten;
            }
            let beat = self.peers.get(node).and_then(|peer| peer.beat.as_ref());
            beat.is_some_and(|beat| beat.highest_epoch >= epoch)
        };
        let members = ballot.installed.members.iter().filter(|node| knows(node));
        let votes = members.map(|node| self.weight(*node));
        votes.fold(self.config.device_votes.saturating_mul(2), u32::saturating_add) >= self.need()
    }

    /// Keeps the view that the node was entitled in while the new one has no quorum yet.
    pub(super) fn replace_current(&mut self, now: Time, ballot: Ballot) {
        let state = self.judge(now);
        let before = self.current.replace(ballot);
        if state == QuorumState::Inquorate {
            self.old = None;
        } else if self.old.is_none() {
            self.old = before;
        }
    }

    /// Since when no node outside can have been entitled: from the first QUORATE view without it,
    /// as long as this node stays entitled (nobody outside becomes QUORATE while it is).
    fn track_outside(&mut self, now: Time) {
        match self.state {
            QuorumState::Inquorate => {
                self.outside_since.clear();
                self.peers.values_mut().for_each(|peer| peer.left_cleanly = false);
            }
            QuorumState::Frozen => {}
            QuorumState::Quorate => {
                let members = self.current.as_ref().map(|ballot| &ballot.installed.members);
                let inside = |node: &NodeId| members.is_none_or(|members| members.contains(node));
                self.outside_since.retain(|node, _| !inside(node));
                for node in self.config.votes.keys().filter(|node| !inside(node)) {
                    self.outside_since.entry(*node).or_insert(now);
                }
            }
        }
    }

    /// The device votes. A vote for the current view is kept at once and counts once its epoch is
    /// on disk; the answer waits until no older view counts the device any more.
    pub(super) fn poll(&mut self, now: Time, id: u64, view: ViewId, cast: Option<(Time, GrantId)>) {
        let Some((until, grant)) = cast else {
            for ballot in [&mut self.current, &mut self.old].into_iter().flatten() {
                (ballot.device, ballot.next_device) = (None, None);
            }
            self.polls.clear();
            self.count(now);
            self.actions.push_back(Action::Host(FromHost::Polled { id, applied: true }));
            return;
        };
        let until = until.min(now + self.config.device_timeout);
        let durable = self.durable.epoch;
        let credible = self.is_credible(grant.epoch);
        let is_view = |ballot: &&mut Ballot| ballot.installed.id == view;
        if let Some(ballot) = self.current.as_mut().filter(is_view)
            && (!ballot.left || grant.epoch <= durable)
            && credible
        {
            ballot.next_device = Some(DeviceVote { until, grant });
            self.raise_epoch(grant.epoch);
            self.polls.push(id);
            // Only the newest few can be asked for: a device waits for one answer at a time.
            if self.polls.len() > 16 {
                self.polls.remove(0);
            }
        } else if let Some(ballot) = self.old.as_mut().filter(is_view)
            && ballot.device.is_some_and(|device| device.grant == grant)
        {
            ballot.device = Some(DeviceVote { until, grant });
            self.actions.push_back(Action::Host(FromHost::Polled { id, applied: true }));
        } else {
            self.actions.push_back(Action::Host(FromHost::Polled { id, applied: false }));
        }
    }

    fn answer_polls(&mut self) {
        let current = self.current.as_ref();
        if current.is_some_and(|ballot| ballot.next_device.is_some()) || self.old.is_some() {
            return;
        }
        let applied = current.is_some_and(|ballot| ballot.device.is_some());
        for id in std::mem::take(&mut self.polls) {
            self.actions.push_back(Action::Host(FromHost::Polled { id, applied }));
        }
    }

    /// Tells the keeper how long the present votes last. A shorter time is told before anything
    /// else that follows from the same fact, which begins at `said`: a daemon that dies in between
    /// must not leave a keeper behind that counts on votes which it has given up.
    pub(super) fn entitle(&mut self, until: Option<Time>, said: usize) {
        if until != self.entitled {
            let shorter = until < self.entitled;
            self.entitled = until;
            let epoch = self.view_epoch();
            let until = until.unwrap_or(Time::ZERO);
            let at = if shorter { said } else { self.actions.len() };
            self.actions.insert(at, Action::Entitle { until, epoch });
        }
    }

    /// The epoch of the installed view, as far as it is on disk; 0 without a view.
    pub fn view_epoch(&self) -> Epoch {
        self.current.as_ref().map_or(Epoch(0), |ballot| ballot.installed.epoch)
    }
}
