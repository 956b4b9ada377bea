//! What the arbiter remembers of fencing in one cluster (rule S7): the open intent, whose targets
//! are condemned, and the nodes that are confirmed off.
//!
//! A condemned node gets no renewal and no grant, nor does a view that contains it (safety 25); one
//! that is confirmed off is waited for by nothing (rule S2, safety 24). Both are on disk before
//! anybody is told of them. [`calls`](super::calls) changes them, [`entitled`](super::entitled)
//! says for whom.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use protocol::fence::{Call, IntentId, TargetRecord};
use protocol::ids::{BootId, ClusterName, Epoch, NodeId};
use protocol::time::Time;
use protocol::vote::Bound;
use serde::{Deserialize, Serialize};

use super::{ClientId, Token};

/// Calls of one cluster's gateways that wait for the disk; more are refused.
pub(super) const CALLS_MAX: usize = 64;

/// An intent without an attestation lapses no earlier and no later than this, whatever its gateway
/// says.
const DEADLINE_MS: std::ops::RangeInclusive<u32> = 1000..=300_000;

/// How long to wait before a failed write is tried again.
const WRITE_RETRY: Duration = Duration::from_secs(1);

/// Nodes of one cluster of which something is remembered.
const FACTS_MAX: usize = 1024;

/// One line of the journal: from now on this is all there is of fencing in a cluster. Durations,
/// never points in time.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct FencingRecord {
    /// Where.
    pub cluster: ClusterName,
    /// The open intent.
    pub intent: Option<OpenIntent>,
    /// The nodes that are off.
    pub off: Vec<ConfirmedOff>,
    /// The boot of the arbiter's host in which this was written. After another one nothing shows
    /// that the nodes are still off.
    pub host_boot: BootId,
}

impl FencingRecord {
    /// There is nothing to remember.
    pub fn is_empty(&self) -> bool {
        self.intent.is_none() && self.off.is_empty()
    }
}

/// An intent as it was registered.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct OpenIntent {
    /// Its name.
    pub id: IntentId,
    /// The node whose side asks.
    pub requester: NodeId,
    /// The highest epoch that it said it knows.
    pub epoch: Option<Epoch>,
    /// Whom to fence.
    pub targets: BTreeSet<NodeId>,
    /// Those of them that have been proven off.
    pub proven: BTreeSet<NodeId>,
    /// How long it stays open after its last attestation, in milliseconds.
    pub deadline_ms: u32,
}

impl OpenIntent {
    pub(super) fn deadline(&self) -> Duration {
        let ms = self.deadline_ms.clamp(*DEADLINE_MS.start(), *DEADLINE_MS.end());
        Duration::from_millis(u64::from(ms))
    }

    /// The targets that are not proven off.
    pub(super) fn condemned(&self) -> impl Iterator<Item = NodeId> {
        self.targets.difference(&self.proven).copied()
    }
}

/// A node that is off.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ConfirmedOff {
    /// Which.
    pub node: NodeId,
    /// The boot that ended; zero: none was known.
    pub boot: BootId,
}

/// What is on disk.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct State {
    pub(super) intent: Option<OpenIntent>,
    pub(super) off: BTreeMap<NodeId, BootId>,
}

impl State {
    pub(super) fn is_empty(&self) -> bool {
        self.intent.is_none() && self.off.is_empty()
    }

    pub(super) fn record(&self, cluster: ClusterName, host_boot: BootId) -> FencingRecord {
        let off = self.off.iter().map(|(node, boot)| ConfirmedOff { node: *node, boot: *boot });
        FencingRecord { cluster, intent: self.intent.clone(), off: off.collect(), host_boot }
    }
}

/// What a node has said of itself, kept when its connection ends.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Facts {
    pub(super) boot: BootId,
    pub(super) bound: Option<Bound>,
    /// The last message of a connection that has ended.
    pub(super) heard: Option<Time>,
    /// When its device introduced itself last.
    pub(super) joined: Option<Time>,
    /// Since when a view without it has the vote.
    pub(super) outside: Option<Time>,
}

/// A call that is being dealt with.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) client: ClientId,
    pub(super) call: Call,
    /// The name that a new intent would get.
    pub(super) id: IntentId,
    pub(super) came: Time,
    /// It waits for this time.
    pub(super) until: Option<Time>,
}

/// A write that is under way.
#[derive(Clone, Debug)]
struct Writing {
    token: Token,
    state: State,
    /// Who is answered then; `None`: it only makes the disk say what is true already.
    asked: Option<Asked>,
}

/// Fencing in one cluster.
#[derive(Clone, Debug, Default)]
pub(super) struct Fencing {
    state: State,
    /// What the disk says, or would after a write that has failed.
    stored: State,
    /// When each target of the intent was registered.
    registered: BTreeMap<NodeId, Time>,
    /// The last registration or attestation.
    attested: Time,
    facts: BTreeMap<NodeId, Facts>,
    writing: Option<Writing>,
    pub(super) queue: VecDeque<Asked>,
    retry_at: Option<Time>,
}

impl Fencing {
    /// What a start finds. Condemnation continues; that a node is off is only believed if nothing
    /// can have happened since: in the same boot of the host, of a node that no later grant has.
    pub(super) fn recover(
        now: Time,
        record: &FencingRecord,
        same_boot: bool,
        granted: &BTreeSet<NodeId>,
    ) -> Self {
        let all = record.off.iter().map(|off| (off.node, off.boot));
        let stored = State { intent: record.intent.clone(), off: all.collect() };
        let mut state = stored.clone();
        state.off.retain(|node, _| same_boot && !granted.contains(node));
        let targets = state.intent.iter().flat_map(|intent| &intent.targets);
        let registered = targets.map(|node| (*node, now)).collect();
        Self { state, stored, registered, attested: now, ..Self::default() }
    }

    /// Nothing is remembered, and nobody waits for an answer.
    pub(super) fn is_blank(&self) -> bool {
        self.state.is_empty() && self.stored.is_empty() && self.writing.is_none()
    }

    pub(super) fn state(&self) -> &State {
        &self.state
    }

    pub(super) fn intent(&self) -> Option<&OpenIntent> {
        self.state.intent.as_ref()
    }

    /// The targets of the intent that are not proven off.
    pub(super) fn condemned(&self) -> BTreeSet<NodeId> {
        self.state.intent.iter().flat_map(OpenIntent::condemned).collect()
    }

    pub(super) fn condemns(&self, node: NodeId) -> bool {
        let mut intent = self.state.intent.iter();
        intent.any(|i| i.targets.contains(&node) && !i.proven.contains(&node))
    }

    pub(super) fn is_off(&self, node: NodeId) -> bool {
        self.state.off.contains_key(&node)
    }

    pub(super) fn off(&self) -> impl Iterator<Item = NodeId> {
        self.state.off.keys().copied()
    }

    /// When this target was registered.
    pub(super) fn registered(&self, node: NodeId) -> Option<Time> {
        self.registered.get(&node).copied()
    }

    /// When the intent was registered or attested last.
    pub(super) fn attested(&self) -> Time {
        self.attested
    }

    /// The intent's command should have ended by now.
    pub(super) fn is_past_deadline(&self, now: Time) -> bool {
        self.intent().is_some_and(|intent| now >= self.attested + intent.deadline())
    }

    /// The intent keeps others from theirs: a target is not proven off yet, and its gateway has not
    /// gone quiet for longer than a command may take.
    pub(super) fn is_busy(&self, now: Time) -> bool {
        !self.is_past_deadline(now)
            && self.intent().is_some_and(|intent| intent.condemned().next().is_some())
    }

    /// The requester was entitled just now.
    pub(super) fn attest(&mut self, now: Time) {
        self.attested = now;
    }

    /// What was planned is so from now on.
    pub(super) fn become_so(&mut self, now: Time, state: State) {
        let id = |state: &State| state.intent.as_ref().map(|intent| intent.id);
        if id(&self.state) != id(&state) {
            self.registered.clear();
            self.attested = now;
        }
        for node in state.intent.iter().flat_map(|intent| &intent.targets) {
            self.registered.entry(*node).or_insert(now);
        }
        self.state = state;
    }

    /// Nobody is condemned any more.
    pub(super) fn lapse(&mut self) -> Option<OpenIntent> {
        self.registered.clear();
        self.state.intent.take()
    }

    /// A node's device introduces itself. If the node was confirmed off, it is so no longer;
    /// returns the boot that had ended.
    pub(super) fn joins(
        &mut self,
        now: Time,
        node: NodeId,
        boot: BootId,
        bound: Option<Bound>,
    ) -> Option<BootId> {
        if let Some(facts) = self.facts_mut(node) {
            (facts.boot, facts.bound, facts.joined) = (boot, bound, Some(now));
        }
        self.state.off.remove(&node)
    }

    /// Somebody says that it is this node, and is not let in.
    pub(super) fn claimed(&mut self, now: Time, node: NodeId) {
        if let Some(facts) = self.facts.get_mut(&node) {
            (facts.heard, facts.joined) = (Some(now), Some(now));
        }
    }

    /// A node's connection has ended, which was heard last at `heard`.
    pub(super) fn leaves(&mut self, node: NodeId, heard: Time) {
        if let Some(facts) = self.facts_mut(node) {
            facts.heard = facts.heard.max(Some(heard));
        }
    }

    /// A grant that has these nodes is on disk: whoever was off is not, and is not outside.
    pub(super) fn granted(&mut self, nodes: &BTreeSet<NodeId>) {
        self.state.off.retain(|node, _| !nodes.contains(node));
        for node in nodes {
            if let Some(facts) = self.facts.get_mut(node) {
                facts.outside = None;
            }
        }
    }

    /// A view of these nodes has the vote, and no other.
    pub(super) fn hear_holders(
        &mut self,
        now: Time,
        nodes: &BTreeSet<NodeId>,
        configured: &BTreeSet<NodeId>,
    ) {
        for node in configured.difference(nodes) {
            if let Some(facts) = self.facts_mut(*node) {
                facts.outside.get_or_insert(now);
            }
        }
    }

    fn facts_mut(&mut self, node: NodeId) -> Option<&mut Facts> {
        if self.facts.len() >= FACTS_MAX && !self.facts.contains_key(&node) {
            return None;
        }
        Some(self.facts.entry(node).or_default())
    }

    pub(super) fn facts(&self, node: NodeId) -> Facts {
        self.facts.get(&node).copied().unwrap_or_default()
    }

    /// A target as far as it is known; `heard` is the last message of its present connection.
    pub(super) fn target(&self, now: Time, node: NodeId, heard: Option<Time>) -> TargetRecord {
        let facts = self.facts(node);
        let ago = |at: Time| u64::try_from(now.since(at).as_millis()).unwrap_or(u64::MAX);
        TargetRecord {
            boot: facts.boot,
            bound: facts.bound,
            outside_ms: facts.outside.map(ago),
            silent_ms: heard.max(facts.heard).map(ago),
        }
    }

    pub(super) fn is_writing(&self, token: Token) -> bool {
        self.writing.as_ref().is_some_and(|writing| writing.token == token)
    }

    pub(super) fn is_busy_writing(&self) -> bool {
        self.writing.is_some()
    }

    pub(super) fn begin(&mut self, token: Token, state: State, asked: Option<Asked>) {
        self.retry_at = None;
        self.writing = Some(Writing { token, state, asked });
    }

    /// The write is over; returns what was written for whom.
    pub(super) fn end_write(&mut self, now: Time, works: bool) -> Option<(State, Option<Asked>)> {
        let writing = self.writing.take()?;
        if works {
            self.stored = writing.state.clone();
        } else {
            self.retry_at = Some(now + WRITE_RETRY);
        }
        Some((writing.state, writing.asked))
    }

    /// The disk does not say what is true, and can be told.
    pub(super) fn is_owed(&self, now: Time) -> bool {
        self.writing.is_none()
            && self.state != self.stored
            && self.retry_at.is_none_or(|at| at <= now)
    }

    /// The next moment at which something may be due.
    pub(super) fn deadline(&self, now: Time) -> Option<Time> {
        let lapse = self.intent().map(|intent| self.attested + intent.deadline());
        let calls = self.queue.iter().filter_map(|asked| asked.until);
        let retry = self.retry_at.filter(|_| self.state != self.stored);
        calls.chain(lapse).chain(retry).filter(|at| *at > now).min()
    }
}
