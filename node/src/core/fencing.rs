//! Fencing: when the gateway is asked to cut the power of a lost node, and what its proofs are
//! worth (rules S6, S7).
//!
//! The lowest id of a view asks for every configured node outside it that may still run something;
//! whether this side is entitled to is the arbiter's word, and a no is asked again. A proof is told
//! to the other members in the beats, and counts until the node is in a view with this one again,
//! or what was heard contradicts it. It is no memory: after a restart it is asked for again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use protocol::cluster::{KnownOff, OffBy};
use protocol::fence::{How, Outcome, Proof};
use protocol::ids::{BootId, Epoch, NodeId, ViewId};
use protocol::status::QuorumState;
use protocol::time::Time;
use protocol::times;

use super::service::Wait;
use super::{Action, Node};

/// After a no the gateway is asked again this much later, then twice as much later each time.
const RETRY_MIN: Duration = Duration::from_millis(500);
/// No later than this.
const RETRY_MAX: Duration = Duration::from_secs(5);
/// After every level has failed, it is tried again this much later.
const FAILED_RETRY: Duration = Duration::from_secs(30);
/// A node that was never heard has this long to come: machines of one site boot one after the
/// other.
const BOOT_PATIENCE: Duration = times::FENCE_DEADLINE;
/// Longer texts of a gateway are cut, in characters.
const TEXT_MAX: usize = 300;

/// A node outside the view that is off.
#[derive(Clone, Copy, Debug)]
struct Off {
    boot: BootId,
    by: OffBy,
    /// The power command was sent no later than this.
    sent: Time,
    /// Known here since.
    taken: Time,
    /// What the side that asked knew; see [`Node::is_newer_than`].
    epoch: Epoch,
}

/// A request that the gateway has not answered yet.
#[derive(Clone, Debug)]
struct Asked {
    targets: BTreeSet<NodeId>,
    at: Time,
    epoch: Epoch,
}

/// What the last answer was, where it was no proof.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Trouble {
    /// This side is not entitled, or not yet: why.
    Refused(String),
    /// No gateway has answered: why.
    Unreached(String),
}

/// Where fencing stands.
#[derive(Clone, Debug, Default)]
pub(super) struct Fencing {
    /// There is a gateway to ask.
    gateway: bool,
    asked: Option<Asked>,
    /// For whom it was asked last in this view.
    last: BTreeSet<NodeId>,
    /// When that was.
    last_at: Option<Time>,
    /// Not before that, unless something changes.
    again: Option<Time>,
    /// The next pause after a no.
    pause: Duration,
    /// Since when there is somebody to fence, without any progress.
    wanted: Option<Time>,
    /// Since when each configured node is outside the installed views.
    lost: BTreeMap<NodeId, Time>,
    off: BTreeMap<NodeId, Off>,
    /// Proofs of commands that were sent by then have been contradicted.
    denied: BTreeMap<NodeId, Time>,
    /// The gateway's last words on a node.
    said: BTreeMap<NodeId, String>,
    /// Every level has failed: why.
    failed: BTreeMap<NodeId, String>,
    trouble: Option<Trouble>,
}

impl Fencing {
    /// A view is installed: everything is looked at anew.
    pub(super) fn view(&mut self, now: Time, members: &[NodeId], configured: &[NodeId]) {
        for node in configured {
            if members.contains(node) {
                self.lost.remove(node);
                self.off.remove(node);
                self.denied.remove(node);
            } else {
                self.lost.entry(*node).or_insert(now);
            }
        }
        // Who was asked for is a member again: that request is over, however it ends.
        self.asked.take_if(|asked| members.iter().any(|node| asked.targets.contains(node)));
        self.wanted = None;
        self.last.clear();
        self.hurry();
    }

    /// Something has changed: what was refused may be granted now.
    fn hurry(&mut self) {
        self.again = None;
        self.pause = RETRY_MIN;
        self.trouble = None;
    }

    fn later(&mut self, now: Time, pause: Duration) {
        let at = now + pause;
        self.again = Some(self.again.map_or(at, |other| other.max(at)));
    }

    /// A no is asked again, ever later.
    fn back_off(&mut self, now: Time, trouble: Trouble) -> bool {
        let pause = self.pause.max(RETRY_MIN);
        self.later(now, pause);
        self.pause = (pause * 2).min(RETRY_MAX);
        let trouble = Some(trouble);
        let news = self.trouble != trouble;
        self.trouble = trouble;
        news
    }

    pub(super) fn wakes(&self) -> Option<Time> {
        self.again
    }

    /// Fills in the ages of what a beat says.
    pub(super) fn age(&self, now: Time, known: &mut [KnownOff]) {
        for known in known {
            let sent = self.off.get(&known.node).map_or(now, |off| off.sent);
            known.sent_ms = u32::try_from(now.since(sent).as_millis()).unwrap_or(u32::MAX);
        }
    }
}

impl Node {
    /// There is a gateway, or there is none any more.
    pub(super) fn gateway(&mut self, configured: bool) {
        if self.fencing.gateway != configured {
            self.fencing.gateway = configured;
            self.fencing.asked = None;
            self.fencing.wanted = None;
            self.fencing.failed.clear();
            self.fencing.hurry();
            self.job_is_over();
        }
    }

    /// Asks for the power of those to be cut that this view has to be sure of.
    pub(super) fn fence(&mut self, now: Time) {
        let targets = self.to_fence(now);
        let fencing = &mut self.fencing;
        fencing.said.retain(|node, _| targets.contains(node));
        fencing.failed.retain(|node, _| targets.contains(node));
        if targets.is_empty() {
            fencing.wanted = None;
            fencing.last.clear();
            fencing.hurry();
            if fencing.asked.is_none() {
                self.job_is_over();
            }
            return;
        }
        let since = *fencing.wanted.get_or_insert(now);
        if !targets.is_subset(&fencing.last) {
            fencing.hurry();
        }
        let asked = fencing.asked.as_ref().is_some_and(|asked| targets.is_subset(&asked.targets));
        // However fast things change, a gateway is not flooded.
        let soon = fencing.last_at.map(|at| at + times::HEARTBEAT);
        let later = fencing.again.max(soon).is_some_and(|at| now < at);
        if asked || later || !self.is_turn(now, since) {
            return;
        }
        let epoch = self.known_epoch();
        let fencing = &mut self.fencing;
        if fencing.last != targets {
            fencing.last.clone_from(&targets);
            let text = format!("asking the gateway to cut the power of {}", names(&targets));
            self.actions.push_back(Action::Decided(text));
        }
        let fencing = &mut self.fencing;
        (fencing.again, fencing.last_at) = (None, Some(now));
        fencing.asked = Some(Asked { targets: targets.clone(), at: now, epoch });
        self.actions.push_back(Action::Fence { targets, epoch });
    }

    /// A request is open.
    pub(super) fn is_asking(&self) -> bool {
        self.fencing.asked.is_some()
    }

    /// The lowest member asks; the others only after it has got nowhere, one after the other.
    fn is_turn(&self, now: Time, since: Time) -> bool {
        let before = self.members().iter().position(|node| *node == self.config.node);
        let before = u32::try_from(before.unwrap_or(0)).unwrap_or(u32::MAX);
        now >= since + times::FENCE_DEADLINE.saturating_mul(before)
    }

    /// The highest epoch that this node knows.
    fn known_epoch(&self) -> Epoch {
        self.want.epoch.max(self.arbiter_epoch).max(self.view_epoch())
    }

    fn to_fence(&self, now: Time) -> BTreeSet<NodeId> {
        let current = self.current.as_ref().filter(|ballot| !ballot.left);
        let current = current.filter(|_| self.fencing.gateway && !self.leaving);
        let Some(ballot) = current else { return BTreeSet::new() };
        self.outside(ballot).filter(|node| self.may_run_something(now, *node)).collect()
    }

    /// A node outside the view may run something, and waiting would not help.
    fn may_run_something(&self, now: Time, node: NodeId) -> bool {
        let Some(peer) = self.peers.get(&node) else { return false };
        let over = self.outside_since.contains_key(&node) && self.by_time(now, node).is_none();
        if peer.left_cleanly || self.is_off(node) || over {
            return false;
        }
        let Some(beat) = &peer.beat else { return now >= self.started + BOOT_PATIENCE };
        if now < peer.heard_at + times::PEER_LEASE && !beat.running {
            return false;
        }
        // Who answers, and is not in the view, has until its own keeper must have ended it.
        let lost = self.fencing.lost.get(&node).copied().unwrap_or(now);
        !peer.in_contact(now) || now >= lost + times::STOP_PROOF
    }

    /// It is proven off, and was not in a view with this node since.
    pub(super) fn is_off(&self, node: NodeId) -> bool {
        self.fencing.off.contains_key(&node)
    }

    /// The gateway says that a node is off which it was asked for.
    pub(super) fn proven_off(&mut self, now: Time, proof: &Proof) {
        let asked = self.fencing.asked.as_ref();
        let asked = asked.filter(|asked| asked.targets.contains(&proof.node));
        let Some(Asked { at, epoch, .. }) = asked.cloned() else { return };
        let by = match proof.how {
            How::ReadOff => OffBy::Power,
            How::Watchdog => OffBy::Watchdog,
            How::Manual { .. } => OffBy::Operator,
        };
        // What was under way for a while must not look younger than it is (safety 24).
        let sent = (now - Duration::from_millis(proof.sent_ms)).min(at);
        self.take_off(now, proof.node, Off { boot: proof.boot, by, sent, taken: now, epoch });
    }

    /// A member of the view says so, in its beat.
    pub(super) fn hear_off(
        &mut self,
        now: Time,
        from: NodeId,
        named: Option<ViewId>,
        off: &[KnownOff],
    ) {
        let current = self.current.as_ref().filter(|ballot| !ballot.left);
        let ours = |ballot: &&super::quorum::Ballot| {
            named == Some(ballot.installed.id) && ballot.installed.members.contains(&from)
        };
        if current.filter(ours).is_none() {
            return;
        }
        for known in off {
            let KnownOff { node, boot, by, sent_ms, epoch } = *known;
            let sent = now - Duration::from_millis(u64::from(sent_ms));
            if !self.is_off(node) {
                self.take_off(now, node, Off { boot, by, sent, taken: now, epoch });
            }
        }
    }

    fn take_off(&mut self, now: Time, node: NodeId, off: Off) {
        if !self.believes(now, node, &off) {
            return;
        }
        let first = self.fencing.off.insert(node, off).is_none();
        self.fencing.failed.remove(&node);
        self.fencing.wanted = None;
        if first {
            let how = in_words(off.by);
            self.actions.push_back(Action::Decided(format!("node {node} is off: {how}")));
        }
    }

    /// A proof is of the node's present boot and incident, and nobody can have been quorate with
    /// the node since (safety 21, 24).
    fn believes(&self, now: Time, node: NodeId, off: &Off) -> bool {
        let (Some(peer), Some(lost)) = (self.peers.get(&node), self.fencing.lost.get(&node)) else {
            return false;
        };
        if self.fencing.denied.get(&node).is_some_and(|at| off.sent <= *at) {
            return false;
        }
        let quiet = peer.beat.is_none() || peer.heard_at <= off.sent;
        let boot = peer.beat.as_ref().map(|beat| beat.boot);
        let same = off.boot != BootId(0) && boot == Some(off.boot) && off.sent >= *lost;
        let entitled = self.outside_since.get(&node).is_some_and(|since| off.sent >= *since);
        let entitled = entitled || self.judge(now) == QuorumState::Inquorate;
        (quiet || same) && (entitled || !self.is_newer_than(off))
    }

    /// The present view has an epoch that leaves room for another one since the proof: that of a
    /// view with the node in it. The arbiter goes on above what the side that asked knew.
    fn is_newer_than(&self, off: &Off) -> bool {
        self.view_epoch() > off.epoch.next()
    }

    /// The node has become QUORATE: proofs from before count if nobody was in between.
    pub(super) fn keep_proofs(&mut self, was: QuorumState) {
        self.fencing.hurry();
        if was == QuorumState::Inquorate {
            let gone = |off: &Off| self.is_newer_than(off);
            let gone: Vec<NodeId> =
                self.fencing.off.iter().filter(|(_, off)| gone(off)).map(|(n, _)| *n).collect();
            for node in gone {
                self.fencing.off.remove(&node);
            }
        }
    }

    /// A node is heard. The same boot, later than what may have been on its way: it is not off.
    /// Another boot is no contradiction, but says once more that the one before has ended.
    pub(super) fn heard_alive(&mut self, now: Time, node: NodeId, boot: BootId) {
        let Some(off) = self.fencing.off.get(&node) else { return };
        let wrong = match off.by {
            // Its machine may well be on.
            OffBy::Watchdog => false,
            OffBy::Power | OffBy::Operator => {
                off.boot == boot && now > off.taken + times::PEER_LEASE
                    || off.boot == BootId(0) && now > off.taken
            }
        };
        if wrong {
            self.fencing.off.remove(&node);
            self.fencing.denied.insert(node, now);
            let text = format!("node {node} was said to be off, and is heard: not believed");
            self.actions.push_back(Action::Decided(text));
        }
    }

    /// The gateway says what it does.
    pub(super) fn fence_progress(&mut self, node: Option<NodeId>, text: &str) {
        let Some(asked) = &self.fencing.asked else { return };
        for target in &asked.targets {
            if node.is_none_or(|node| node == *target) {
                self.fencing.said.insert(*target, one_line(text));
            }
        }
    }

    /// The request is over: how for each target, or why nobody has answered.
    pub(super) fn fence_ended(
        &mut self,
        now: Time,
        result: Result<BTreeMap<NodeId, Outcome>, String>,
    ) {
        if let Ok(outcomes) = &result {
            self.job_is_over();
            for proof in outcomes.values().filter_map(Outcome::proof) {
                self.proven_off(now, proof);
            }
        }
        if self.fencing.asked.take().is_none() {
            return;
        }
        self.fencing.said.clear();
        let outcomes = match result {
            Ok(outcomes) => outcomes,
            Err(why) => return self.no(now, Trouble::Unreached(one_line(&why))),
        };
        let mut refused = None;
        for (node, outcome) in outcomes {
            match outcome {
                Outcome::Failed { why } => {
                    let why = one_line(&why);
                    let text = format!("fencing node {node} has failed: {why}");
                    if self.fencing.failed.insert(node, why).is_none() {
                        self.actions.push_back(Action::Decided(text));
                    }
                    self.fencing.later(now, FAILED_RETRY);
                }
                Outcome::Refused { why } => refused = Some(why),
                Outcome::Off { .. } | Outcome::Rebooted { .. } | Outcome::On => {}
            }
        }
        // Also where a proof came that could not be believed: the next one may.
        let why = refused.map(|why| one_line(&why));
        match why {
            Some(why) => self.no(now, Trouble::Refused(why)),
            None => self.fencing.later(now, RETRY_MIN),
        }
    }

    fn no(&mut self, now: Time, trouble: Trouble) {
        let text = match &trouble {
            Trouble::Refused(why) => format!("the gateway does not fence for this node: {why}"),
            Trouble::Unreached(why) => format!("no fencing gateway has answered: {why}"),
        };
        if self.fencing.back_off(now, trouble) {
            self.actions.push_back(Action::Decided(text));
        }
    }

    /// For the beat; the ages are filled in when it is sent.
    pub(super) fn known_off(&self) -> impl Iterator<Item = KnownOff> {
        self.fencing.off.iter().map(|(node, off)| {
            let Off { boot, by, epoch, .. } = *off;
            KnownOff { node: *node, boot, by, sent_ms: 0, epoch }
        })
    }

    /// How it is known that a node is off, for people.
    pub(super) fn off_text(&self, now: Time, node: NodeId) -> Option<String> {
        let off = self.fencing.off.get(&node)?;
        let age = now.since(off.taken).as_secs();
        Some(format!("off since {age} s: {}", in_words(off.by)))
    }

    /// What is done about a node that may still run something, or what an operator has to do.
    pub(super) fn fencing_text(&self, now: Time, node: NodeId) -> Option<Wait> {
        let fencing = &self.fencing;
        if !fencing.gateway {
            return None;
        }
        let waits = |text: String| Some(Wait { text, until: None, operator: false });
        let needs_operator = |text: String| Some(Wait { text, until: None, operator: true });
        let confirm = format!("see that it is off, then run: haguard fence confirm {node}");
        if let Some(why) = fencing.failed.get(&node) {
            return needs_operator(format!("fencing failed: {why}; {confirm}"));
        }
        if fencing.asked.as_ref().is_some_and(|asked| asked.targets.contains(&node)) {
            let step = fencing.said.get(&node).map(|said| format!(": {said}")).unwrap_or_default();
            return waits(format!("the gateway is cutting the power of node {node}{step}"));
        }
        if !self.to_fence(now).contains(&node) {
            let unheard = self.peers.get(&node).is_some_and(|peer| peer.beat.is_none());
            return unheard.then(|| Wait {
                text: format!("node {node}, which was never heard, to come or to be fenced"),
                until: Some(self.started + BOOT_PATIENCE),
                operator: false,
            });
        }
        match &fencing.trouble {
            Some(Trouble::Refused(why)) => {
                waits(format!("the gateway does not fence node {node} for this side: {why}"))
            }
            Some(Trouble::Unreached(why)) => needs_operator(format!(
                "no fencing gateway answers ({why}): repair it, or {confirm}"
            )),
            None => {
                let asks = self.members().first().copied().unwrap_or(self.config.node);
                waits(format!("node {asks} has the power of node {node} cut by the gateway"))
            }
        }
    }
}

fn in_words(by: OffBy) -> &'static str {
    match by {
        OffBy::Power => "its power was cut and reads off",
        OffBy::Watchdog => "the gateway says that its watchdog's bound has passed",
        OffBy::Operator => "an operator has confirmed it",
    }
}

/// "node 2" or "nodes 2, 3".
fn names(nodes: &BTreeSet<NodeId>) -> String {
    let list: Vec<String> = nodes.iter().map(NodeId::to_string).collect();
    format!("node{} {}", if list.len() == 1 { "" } else { "s" }, list.join(", "))
}

/// A gateway's words for a log and for status: bounded, and in one line.
fn one_line(text: &str) -> String {
    text.chars().take(TEXT_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
