//! Who is in two-way contact, and with whom a view could be formed.

use std::collections::BTreeSet;
use std::time::Duration;

use protocol::cluster::{Answer, Beat};
use protocol::ids::{NodeId, ViewId};
use protocol::time::Time;
use protocol::times;
use protocol::vote::Bound;

use super::{Node, answer};

/// Votes of a peer are remembered for this many views: the current one and the one before.
const VIEWS_REMEMBERED: usize = 4;

/// A peer's vote in one view, as the sending times of the newest beats that it answered there.
#[derive(Clone, Copy, Debug)]
struct Lent {
    /// Its vote is kept out of every view without this node.
    kept: Time,
    /// It counts: no node outside the view can count it any more.
    free: Option<Time>,
}

/// What is known of one peer.
#[derive(Clone, Debug, Default)]
pub(super) struct Peer {
    /// Its newest beat.
    pub(super) beat: Option<Box<Beat>>,
    /// When that came.
    pub(super) heard_at: Time,
    /// When the newest of my beats that it has answered was sent.
    answered: Option<Time>,
    /// Since when contact is unbroken.
    contact_since: Option<Time>,
    /// It was in a view with this node and was left out of the next one (safety 36).
    pub(super) removed: bool,
    /// It did not answer in view agreement; left out of targets until then.
    pub(super) snubbed_until: Time,
    /// This node has said, to whoever asked, that it will be in no view with it until then.
    pub(super) condemned: Option<(Time, NodeId)>,
    /// Since when it names another view than the one it shares with this node.
    pub(super) astray_since: Option<Time>,
    /// What it has lent, by view: a few.
    votes: Vec<(ViewId, Lent)>,
    /// It may count this node's vote until then.
    pub(super) promised_until: Time,
    /// Its last word was that it leaves and that nothing of the service is left on it. True only
    /// as long as this node has been entitled since: in that time it cannot have become quorate
    /// again (safety 21).
    pub(super) left_cleanly: bool,
    /// Its configuration differs.
    pub(super) foreign_config: bool,
}

impl Peer {
    /// It is younger than the newest one, or of another life.
    pub(super) fn is_news(&self, beat: &Beat) -> bool {
        let known = self.beat.as_ref().filter(|old| old.instance == beat.instance);
        known.is_none_or(|old| beat.seq > old.seq)
    }

    /// Takes a beat in that is news. `sent` is the sending time of my beat that it answers.
    pub(super) fn hear(
        &mut self,
        now: Time,
        me: NodeId,
        digest: u64,
        sent: Option<Time>,
        beat: Box<Beat>,
    ) {
        self.heard_at = now;
        self.left_cleanly = beat.leaving && !beat.running;
        self.foreign_config = beat.config_digest != digest;
        if let Some(sent) = sent {
            self.answered = Some(self.answered.map_or(sent, |old| old.max(sent)));
            let shared = beat
                .view
                .as_ref()
                .filter(|view| view.members.contains(&me) && view.members.contains(&beat.from));
            if let Some(view) = shared {
                self.lend(view.id, sent, view.vote_free);
            }
        }
        self.beat = Some(beat);
    }

    /// It has answered a beat that is younger than a peer lease, and says nothing that keeps it
    /// out.
    pub(super) fn in_contact(&self, now: Time) -> bool {
        let leaving = self.beat.as_ref().is_none_or(|beat| beat.leaving);
        !leaving && !self.foreign_config && self.contact_ends().is_some_and(|end| now < end)
    }

    pub(super) fn contact_ends(&self) -> Option<Time> {
        self.answered.map(|sent| sent + times::PEER_LEASE)
    }

    fn is_settled(&self, now: Time) -> bool {
        let since = self.contact_since.unwrap_or(now);
        self.in_contact(now) && (!self.removed || now >= since + times::READMISSION)
    }

    fn is_willing(&self, now: Time) -> bool {
        let condemned = self.condemned.is_some_and(|(until, _)| now < until);
        self.is_settled(now) && now >= self.snubbed_until && !condemned
    }

    fn lend(&mut self, view: ViewId, sent: Time, free: bool) {
        let mut known = self.votes.iter_mut().filter(|(id, _)| *id == view);
        let Some((_, lent)) = known.next() else {
            self.votes.push((view, Lent { kept: sent, free: free.then_some(sent) }));
            if self.votes.len() > VIEWS_REMEMBERED {
                let oldest = self.votes.iter().min_by_key(|(id, lent)| (lent.kept, *id));
                let oldest = oldest.map(|(id, _)| *id);
                self.votes.retain(|(id, _)| Some(*id) != oldest);
            }
            return;
        };
        lent.kept = lent.kept.max(sent);
        if free {
            lent.free = lent.free.max(Some(sent));
        }
    }

    fn lent(&self, view: ViewId) -> Option<&Lent> {
        self.votes.iter().find(|(id, _)| *id == view).map(|(_, lent)| lent)
    }

    /// Until when its vote counts in a view.
    pub(super) fn vote_until(&self, view: ViewId) -> Option<Time> {
        let free = self.lent(view).and_then(|lent| lent.free);
        free.map(|sent| sent + times::PEER_LEASE)
    }

    /// Until when its vote, free or not, is kept out of every view without this node.
    pub(super) fn kept_until(&self, view: ViewId) -> Option<Time> {
        self.lent(view).map(|lent| lent.kept + times::PEER_LEASE)
    }

    /// When these two end.
    pub(super) fn vote_times(&self, view: ViewId) -> (Option<Time>, Option<Time>) {
        let lent = self.lent(view);
        let ends = |sent: Time| sent + times::PEER_LEASE;
        (lent.and_then(|lent| lent.free).map(ends), lent.map(|lent| ends(lent.kept)))
    }

    /// From this answer on it may count this node's vote for as long as its lease lasts; the
    /// lease runs from the sending of a beat that came no later than now.
    pub(super) fn promise(&mut self, how_long: Duration) {
        if self.beat.is_some() {
            self.promised_until = self.promised_until.max(self.heard_at + how_long);
        }
    }

    pub(super) fn newest(&self) -> Option<Answer> {
        self.beat.as_ref().and_then(|beat| answer(beat.instance, beat.seq))
    }

    pub(super) fn bound(&self) -> Option<Bound> {
        self.beat.as_ref().map(|beat| beat.bound)
    }
}

impl Node {
    /// Peers with whom a view could be formed, as the beats tell them. A snub is told too: who is
    /// not going to accept is not proposed to.
    pub(super) fn settled(&self, now: Time) -> impl Iterator<Item = NodeId> {
        let settled = self.peers.iter().filter(move |(_, peer)| peer.is_willing(now));
        settled.map(|(node, _)| *node)
    }

    /// Notes lost contacts, members that have gone astray, and what peers announce.
    pub(super) fn watch_contacts(&mut self, now: Time) {
        let current = self.current.as_ref().filter(|ballot| !ballot.left);
        let shared = current.map(|ballot| &ballot.installed);
        for (node, peer) in &mut self.peers {
            // A peer that leaves and is back within its contact's lease begins anew.
            peer.contact_since = peer.in_contact(now).then(|| peer.contact_since.unwrap_or(now));
            let member = shared.filter(|view| view.members.contains(node));
            let named = peer.beat.as_ref().and_then(|beat| beat.view.as_ref()).map(|view| view.id);
            let astray = member.is_some_and(|view| named != Some(view.id));
            peer.astray_since = astray.then(|| peer.astray_since.unwrap_or(now));
            if let Some(bound) = peer.bound()
                && peer.in_contact(now)
            {
                self.want.bounds.insert(*node, bound);
            }
        }
    }

    /// A member of a view has for two rounds named another view, or none: the view is over.
    pub(super) fn is_astray(&self, now: Time, node: NodeId) -> bool {
        let since = self.peers.get(&node).and_then(|peer| peer.astray_since);
        since.is_some_and(|since| now >= since + times::VIEW_AGREEMENT * 2)
    }

    /// The best set of nodes, this one included, that all have settled contact with each other:
    /// of several the one with most members of the present view, then the one with the newest
    /// view, then the larger, then the one with the lower ids (safety 36).
    pub(super) fn target(&self, now: Time) -> BTreeSet<NodeId> {
        let me = self.config.node;
        let willing: Vec<NodeId> = self.willing(now).collect();
        // All willing nodes know each other nearly always, and then there is one clique.
        if self.are_friends(&willing) {
            return willing.into_iter().chain([me]).collect();
        }
        let mut best = BTreeSet::from([me]);
        self.grow(&mut best, BTreeSet::from([me]), &willing);
        best
    }

    /// These nodes, ascending, are all that are willing, and all know each other: then they are
    /// the target. That is so nearly always, and no set has to be made to see it.
    pub(super) fn is_target(&self, now: Time, nodes: &[NodeId]) -> bool {
        let me = self.config.node;
        let others = nodes.iter().copied().filter(|node| *node != me);
        let all = nodes.is_sorted_by(|a, b| a < b) && nodes.contains(&me);
        all && others.clone().eq(self.willing(now))
            && others.clone().all(|a| others.clone().all(|b| self.knows(a, b)))
    }

    /// Peers with whom a view could be formed, and who think so too.
    fn willing(&self, now: Time) -> impl Iterator<Item = NodeId> {
        let me = self.config.node;
        let mutual =
            move |peer: &Peer| peer.beat.as_ref().is_some_and(|beat| beat.contacts.contains(&me));
        let willing =
            self.peers.iter().filter(move |(_, peer)| peer.is_willing(now) && mutual(peer));
        willing.map(|(node, _)| *node)
    }

    /// Each of them knows each other.
    fn are_friends(&self, nodes: &[NodeId]) -> bool {
        nodes.iter().all(|a| nodes.iter().all(|b| self.knows(*a, *b)))
    }

    /// Extends a clique by every willing node that knows all of it; keeps the best in `best`.
    fn grow(&self, best: &mut BTreeSet<NodeId>, clique: BTreeSet<NodeId>, willing: &[NodeId]) {
        let friends = |a: &NodeId, b: &NodeId| self.knows(*a, *b) && self.knows(*b, *a);
        if self.are_friends(willing) {
            let whole: BTreeSet<NodeId> = clique.iter().chain(willing).copied().collect();
            if self.rank(&whole) > self.rank(best) {
                *best = whole;
            }
            return;
        }
        for (index, node) in willing.iter().enumerate() {
            let mut larger = clique.clone();
            larger.insert(*node);
            let rest: Vec<NodeId> =
                willing[index + 1..].iter().filter(|n| friends(n, node)).copied().collect();
            self.grow(best, larger, &rest);
        }
    }

    fn knows(&self, a: NodeId, b: NodeId) -> bool {
        if a == b {
            return true;
        }
        let beat = self.peers.get(&a).and_then(|peer| peer.beat.as_ref());
        beat.is_some_and(|beat| beat.contacts.contains(&b))
    }

    fn rank(
        &self,
        clique: &BTreeSet<NodeId>,
    ) -> (usize, u64, usize, Vec<std::cmp::Reverse<NodeId>>) {
        let members = self.members();
        let old = members.iter().filter(|node| clique.contains(node)).count();
        let epochs = clique.iter().map(|node| match self.peers.get(node) {
            Some(peer) => {
                let view = peer.beat.as_ref().and_then(|beat| beat.view.as_ref());
                view.map_or(0, |view| view.epoch.0)
            }
            None => self.current.as_ref().map_or(0, |ballot| ballot.installed.epoch.0),
        });
        let ids = clique.iter().map(|node| std::cmp::Reverse(*node)).collect();
        (old, epochs.max().unwrap_or(0), clique.len(), ids)
    }
}
