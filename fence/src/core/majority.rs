//! The second attestation of rule S7: while no arbiter answers, the members of the requester's view
//! stand in for it, if they have more than half of all votes.
//!
//! The requester shows its view a challenge, and each member testifies for itself. What counts are
//! testimonies for one nonce and of one view, of members whose votes are more than half of all that
//! there are, the arbiter's included: no other view can have as many, whomever the arbiter votes
//! for. Each of those members keeps the targets out of its views for longer than the command may
//! take, as an arbiter renews nothing for who is condemned. A word of the arbiter is never counted
//! with theirs: it answers a question as a whole, or they do.

use std::collections::{BTreeMap, BTreeSet};

use protocol::fence::{
    Attestation, Challenge, Intent, IntentId, Nonce, Refusal, Role, TargetRecord, Testimony,
    Verdict,
};
use protocol::ids::{BootId, NodeId, ViewId};
use protocol::time::Time;

use super::Votes;
use super::desk::{CALL_LIMIT, CallId};

/// One challenge, and what came of it.
#[derive(Debug)]
struct Hearing {
    nonce: Nonce,
    since: Time,
    /// What is asked for, and for which targets.
    calls: BTreeMap<CallId, BTreeSet<NodeId>>,
    said: BTreeMap<NodeId, Testimony>,
    /// Why the testimonies to the nonce before were not enough.
    why: Option<String>,
}

impl Hearing {
    fn challenge(&self) -> Challenge {
        let targets = self.calls.values().flatten().copied().collect();
        Challenge { nonce: self.nonce, targets }
    }
}

/// A view that more than half of all votes speak for.
#[derive(Debug)]
pub(super) struct Side<'a> {
    /// The requester's own testimony: what all of them agree on.
    own: &'a Testimony,
    sworn: Vec<&'a Testimony>,
}

/// The questions to members, by requester: a node hears one at a time.
#[derive(Debug, Default)]
pub(super) struct Majority {
    votes: Votes,
    hearings: BTreeMap<NodeId, Hearing>,
    /// What members have attested.
    intents: BTreeMap<IntentId, Intent>,
    /// To be told to the requesters.
    news: Vec<(NodeId, Challenge)>,
}

impl Majority {
    pub(super) fn configure(&mut self, votes: &Votes) {
        self.votes.clone_from(votes);
    }

    /// Whether all other nodes together could have these fenced without the arbiter.
    pub(super) fn is_possible(&self, targets: &BTreeSet<NodeId>) -> bool {
        let others = self.votes.nodes.iter().filter(|(node, _)| !targets.contains(node));
        self.votes.are_most(others.map(|(_, votes)| *votes))
    }

    /// Whether they could for any one node.
    pub(super) fn is_possible_for_some(&self) -> bool {
        self.votes.nodes.keys().any(|node| self.is_possible(&BTreeSet::from([*node])))
    }

    pub(super) fn hears(&self, call: CallId) -> bool {
        self.hearings.values().any(|hearing| hearing.calls.contains_key(&call))
    }

    /// Somebody waits for testimonies to this nonce.
    pub(super) fn is_open(&self, nonce: Nonce) -> bool {
        self.hearings.values().any(|hearing| hearing.nonce == nonce)
    }

    /// The members of this node's view are asked. The nonce is a fresh one for whoever else waits
    /// for the same members too.
    pub(super) fn hear(
        &mut self,
        now: Time,
        nonce: Nonce,
        call: CallId,
        requester: NodeId,
        targets: BTreeSet<NodeId>,
    ) {
        let new = || Hearing {
            nonce,
            since: now,
            calls: BTreeMap::new(),
            said: BTreeMap::new(),
            why: None,
        };
        let hearing = self.hearings.entry(requester).or_insert_with(new);
        hearing.calls.insert(call, targets);
        self.ask_anew(now, nonce, requester);
    }

    /// The next hearing that has been open for too long; it is to be asked anew.
    pub(super) fn late(&self, now: Time) -> Option<NodeId> {
        let mut late = self.hearings.iter().filter(|(_, open)| now >= open.since + CALL_LIMIT);
        late.next().map(|(requester, _)| *requester)
    }

    pub(super) fn ask_anew(&mut self, now: Time, nonce: Nonce, requester: NodeId) {
        let votes = &self.votes;
        let Some(hearing) = self.hearings.get_mut(&requester) else { return };
        if !hearing.said.is_empty() {
            hearing.why = Some(shortfall(votes, requester, &hearing.said));
        }
        (hearing.nonce, hearing.since) = (nonce, now);
        hearing.said.clear();
        self.news.push((requester, hearing.challenge()));
    }

    /// The challenge of a requester, for one that has only come.
    pub(super) fn challenge(&self, requester: NodeId) -> Option<Challenge> {
        self.hearings.get(&requester).map(Hearing::challenge)
    }

    pub(super) fn take_news(&mut self) -> Vec<(NodeId, Challenge)> {
        std::mem::take(&mut self.news)
    }

    /// Nobody waits for the members' word on this any more.
    pub(super) fn dismiss(&mut self, call: CallId) {
        self.hearings.retain(|_, hearing| {
            hearing.calls.remove(&call);
            !hearing.calls.is_empty()
        });
    }

    /// What was asked with this call has got no answer of the members: why.
    pub(super) fn why_not(&self, call: CallId, targets: &BTreeSet<NodeId>) -> Option<String> {
        if self.votes.nodes.is_empty() {
            return None;
        }
        if !self.is_possible(targets) {
            let others = self.votes.nodes.iter().filter(|(node, _)| !targets.contains(node));
            let (have, all) = (others.map(|(_, votes)| votes).sum::<u32>(), self.votes.all());
            return Some(format!(
                "the other nodes have {have} of {all} votes, which is not more than half: without \
                 the arbiter nobody can be entitled"
            ));
        }
        let mut hearings = self.hearings.iter();
        let (requester, hearing) = hearings.find(|(_, open)| open.calls.contains_key(&call))?;
        if hearing.said.is_empty()
            && let Some(why) = &hearing.why
        {
            return Some(why.clone());
        }
        Some(shortfall(&self.votes, *requester, &hearing.said))
    }

    /// One member testifies; TLS has proven that it is that node. The calls that this answers, with
    /// what they asked for.
    pub(super) fn take(&mut self, testimony: Testimony) -> Vec<(CallId, Found)> {
        let mut found = Vec::new();
        if !self.votes.nodes.contains_key(&testimony.node) {
            return found;
        }
        let mut hearings = self.hearings.iter_mut();
        let Some((requester, hearing)) = hearings.find(|(_, h)| h.nonce == testimony.nonce) else {
            return found;
        };
        hearing.said.insert(testimony.node, testimony);
        for (call, targets) in &hearing.calls {
            if let Some(side) = side(&self.votes, *requester, targets, &hearing.said) {
                found.push((*call, Found::of(&side, targets)));
            }
        }
        found
    }

    /// The intent that these members have attested.
    pub(super) fn register(&mut self, id: IntentId, intent: Intent) {
        self.intents.insert(id, intent);
    }

    pub(super) fn intent(&self, id: IntentId) -> Option<&Intent> {
        self.intents.get(&id)
    }

    /// True if it was one that members had attested.
    pub(super) fn release(&mut self, id: IntentId) -> bool {
        self.intents.remove(&id).is_some()
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        self.hearings.values().map(|hearing| hearing.since + CALL_LIMIT).min()
    }
}

/// What the members have said, to be made an attestation of.
#[derive(Debug)]
pub(super) struct Found {
    attestation: Attestation,
    /// For the log.
    pub(super) text: String,
}

impl Found {
    fn of(side: &Side<'_>, targets: &BTreeSet<NodeId>) -> Self {
        let record = |node: &NodeId| {
            let said = side.sworn.iter().filter_map(|said| said.targets.get(node));
            (*node, merge(said.copied()))
        };
        let attestation = Attestation {
            intent: IntentId::default(),
            epoch: side.own.epoch,
            ring: side.own.view.ring,
            holders: side.own.members.clone(),
            role: Role::Majority,
            targets: targets.iter().map(record).collect(),
        };
        let sworn: Vec<String> = side.sworn.iter().map(|said| said.node.to_string()).collect();
        let view: ViewId = side.own.view;
        let text = format!("no arbiter: nodes {} testify for view {view}", sworn.join(", "));
        Self { attestation, text }
    }

    /// The answer to a registration, for which the intent gets this name.
    pub(super) fn registered(self, id: IntentId, intent: &Intent) -> Verdict {
        let current = self.attestation.epoch;
        match intent.epoch {
            Some(given) if given < current => {
                Verdict::Refused(Refusal::StaleEpoch { given, current })
            }
            Some(_) | None => self.attested(id),
        }
    }

    /// The answer to a question about an intent.
    pub(super) fn attested(self, id: IntentId) -> Verdict {
        Verdict::Entitled(Attestation { intent: id, ..self.attestation })
    }
}

/// The requester's view, if members with more than half of all votes speak for it.
fn side<'a>(
    votes: &Votes,
    requester: NodeId,
    targets: &BTreeSet<NodeId>,
    said: &'a BTreeMap<NodeId, Testimony>,
) -> Option<Side<'a>> {
    let own = said.get(&requester)?;
    let sworn: Vec<&Testimony> =
        said.values().filter(|said| speaks_for(votes, own, targets, said)).collect();
    let is_own = |said: &&&Testimony| said.node == requester;
    sworn.iter().find(is_own)?;
    let have = sworn.iter().filter_map(|said| votes.nodes.get(&said.node).copied());
    votes.are_most(have).then_some(Side { own, sworn })
}

/// It is of the same view as the requester's, quorate, counts the same votes, and condemns all the
/// targets, none of which is in it.
fn speaks_for(
    votes: &Votes,
    own: &Testimony,
    targets: &BTreeSet<NodeId>,
    said: &Testimony,
) -> bool {
    (said.view, said.epoch, &said.members) == (own.view, own.epoch, &own.members)
        && said.quorate
        && said.expected_votes == votes.all()
        && said.members.contains(&said.node)
        && targets.iter().all(|node| said.targets.contains_key(node))
        && targets.is_disjoint(&said.members)
}

/// Why these testimonies are not enough, for people.
fn shortfall(votes: &Votes, requester: NodeId, said: &BTreeMap<NodeId, Testimony>) -> String {
    let all = votes.all();
    if let Some(other) = said.values().find(|said| said.expected_votes != all) {
        return format!(
            "node {} counts {} votes in all and this gateway's file {all}: correct votes and \
             arbiter-votes in it",
            other.node, other.expected_votes
        );
    }
    let Some(own) = said.get(&requester) else {
        return format!("without it, node {requester} itself has not testified for its view");
    };
    if !own.quorate {
        return format!("without it, node {requester} is not quorate");
    }
    let same = |said: &&Testimony| said.quorate && said.view == own.view;
    let sworn = said.values().filter(same);
    let have: u32 = sworn.filter_map(|said| votes.nodes.get(&said.node)).sum();
    format!("without it, {have} of {all} votes speak for node {requester}, and more than half must")
}

/// What several know of one target: what none of them contradicts, and the most cautious of it.
fn merge(said: impl Iterator<Item = TargetRecord>) -> TargetRecord {
    let mut merged: Option<TargetRecord> = None;
    let mut contradicted = false;
    for record in said {
        let Some(all) = &mut merged else {
            merged = Some(record);
            continue;
        };
        let unknown = BootId::default();
        contradicted |= all.boot != unknown && record.boot != unknown && all.boot != record.boot;
        all.boot = all.boot.max(record.boot);
        all.bound = match (all.bound, record.bound) {
            (Some(mut a), Some(b)) => {
                a.class = a.class.max(b.class);
                a.bound_ms = a.bound_ms.max(b.bound_ms);
                Some(a)
            }
            (a, b) => a.or(b),
        };
        all.outside_ms = all.outside_ms.min(record.outside_ms);
        all.silent_ms = match (all.silent_ms, record.silent_ms) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
    let mut merged = merged.unwrap_or_default();
    if contradicted {
        merged.boot = BootId::default();
    }
    // Their clocks may be fast, and nobody is taken for off too early (safety 12).
    merged.outside_ms = merged.outside_ms.map(|ms| ms / 11 * 10);
    merged
}
