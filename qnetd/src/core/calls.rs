//! What gateways ask (rule S7), and what becomes of it.
//!
//! A call is planned against what is true at the moment: it is refused, or it leads to a state and
//! an answer. If the state is another one, that is stored first and the call planned again before
//! it is answered, because the answer is of the moment at which it leaves.

use std::collections::BTreeSet;
use std::time::Duration;

use protocol::fence::{
    Answer, Ask, Attestation, Call, FRAME_ANSWER, How, Intent, IntentId, Proof, Refusal,
    TARGETS_MAX, Verdict,
};
use protocol::ids::{BootId, ClusterName, NodeId};
use protocol::qnet::{ErrorCode, Frame};
use protocol::time::Time;
use protocol::times;
use protocol::vote::{Vote, WatchdogClass};

use super::client::Transport;
use super::entitled::Side;
use super::fencing::{Asked, CALLS_MAX, OpenIntent, State};
use super::{Action, Arbiter, ClientId, CloseReason};

/// Connections of gateways that one cluster may have; the one that was quiet for longest makes room
/// for the next.
const GATEWAYS_MAX: usize = 16;

/// A node whose power is cut, and whose last messages are on the way, has been heard for the last
/// time after this long.
const QUIET: Duration = Duration::from_millis(500);

/// Characters of an operator's words in the log.
const WORDS_MAX: usize = 80;

/// What a call leads to.
enum Plan {
    /// To this state, and this answer.
    Be(Box<State>, Box<Verdict>),
    /// To nothing before this time.
    Wait(Time),
}

impl Arbiter {
    /// The connection's identity is a gateway's: it is no client of the cluster.
    pub(super) fn is_gateway(&self, id: ClientId) -> bool {
        self.clients.get(&id).is_some_and(super::client::Client::is_gateway)
    }

    /// A gateway has come; a cluster has not more of them than [`GATEWAYS_MAX`].
    pub(super) fn gateway_comes(&mut self, now: Time, id: ClientId, cluster: &ClusterName) {
        let of = |transport: &Transport| match transport {
            Transport::Secure(Some(peer)) => peer.gateway && &peer.cluster == cluster,
            Transport::Plain | Transport::Handshaking | Transport::Secure(None) => false,
        };
        let others = self.clients.values().filter(|c| c.id != id && of(&c.transport));
        let (count, quiet) = (others.clone().count(), others.min_by_key(|c| c.last_heard));
        if let Some(quiet) = quiet.map(|client| client.id).filter(|_| count >= GATEWAYS_MAX) {
            self.close(now, quiet, CloseReason::TooManyGateways);
        }
    }

    /// A frame of type [`protocol::fence::FRAME_CALL`], from anybody.
    pub(super) fn fence_call(
        &mut self,
        now: Time,
        id: ClientId,
        frame: &Frame,
    ) -> Result<(), ErrorCode> {
        let client = self.clients.get(&id).ok_or(ErrorCode::InternalError)?;
        let name = match &client.transport {
            // Never without TLS, whatever is allowed to others.
            Transport::Plain | Transport::Handshaking => return Err(ErrorCode::TlsRequired),
            Transport::Secure(peer) => peer.as_ref().filter(|peer| peer.gateway),
        };
        let name = name.map(|peer| peer.cluster.clone());
        let call = Call::decode(&frame.body).map_err(|_| ErrorCode::ErrorDecodingMessage)?;
        let Some(name) = name else {
            self.answer(id, &call, Verdict::Refused(Refusal::NotAGateway));
            return Ok(());
        };
        self.intents += 1;
        let (arbiter, boot) = (self.memory.arbiter, self.memory.boot);
        let new = IntentId { arbiter, boot, serial: self.intents };
        let Some(cluster) = self.clusters.get_mut(&name) else {
            let refusal = match &call.ask {
                Ask::Register(intent) => Refusal::NotConnected(intent.requester),
                Ask::Attest(_) | Ask::Off { .. } | Ask::Release(_) => Refusal::UnknownIntent,
            };
            self.answer(id, &call, Verdict::Refused(refusal));
            return Ok(());
        };
        if cluster.fencing.queue.len() >= CALLS_MAX {
            self.answer(id, &call, Verdict::Refused(Refusal::NotStored));
            return Ok(());
        }
        cluster.fencing.queue.push_back(Asked {
            client: id,
            call,
            id: new,
            came: now,
            until: None,
        });
        self.settle(now, &name);
        Ok(())
    }

    fn answer(&mut self, client: ClientId, call: &Call, verdict: Verdict) {
        // A gateway that is gone needs no answer.
        if !self.clients.contains_key(&client) {
            return;
        }
        // An attestation of as many targets as a call can name fits; if not, it says so.
        let refused = Verdict::Refused(Refusal::Malformed);
        let encoded = [verdict, refused]
            .into_iter()
            .find_map(|verdict| Answer { nonce: call.nonce, verdict }.encode().ok());
        let Some(body) = encoded else { return };
        let bytes = Frame { kind: FRAME_ANSWER, body }.encode();
        self.actions.push_back(Action::Send { client, bytes });
    }

    /// Deals with the calls that can be dealt with, as far as one changes what is decided; whether
    /// one did.
    pub(super) fn attend(&mut self, now: Time, name: &ClusterName) -> bool {
        if self.lapse(now, name) {
            return true;
        }
        let mut at = 0;
        loop {
            let Some(cluster) = self.clusters.get(name) else { return false };
            if cluster.fencing.is_busy_writing() {
                return false;
            }
            let Some(asked) = cluster.fencing.queue.get(at).cloned() else { break };
            match self.plan(now, name, &asked) {
                Ok(Plan::Wait(until)) => {
                    let fencing = self.clusters.get_mut(name).map(|cluster| &mut cluster.fencing);
                    let waiting = fencing.and_then(|fencing| fencing.queue.get_mut(at));
                    waiting.into_iter().for_each(|asked| asked.until = Some(until));
                    at += 1;
                }
                Ok(Plan::Be(state, verdict)) => {
                    self.take(name, at);
                    if *state == self.fencing_state(name) {
                        self.commit(now, name, *state, &asked, *verdict);
                    } else {
                        self.store_fencing(name, *state, Some(asked));
                    }
                }
                Err(refusal) => {
                    self.take(name, at);
                    self.answer(asked.client, &asked.call, Verdict::Refused(refusal));
                }
            }
        }
        if let Some(cluster) = self.clusters.get(name)
            && cluster.fencing.is_owed(now)
        {
            let state = cluster.fencing.state().clone();
            self.store_fencing(name, state, None);
        }
        false
    }

    fn take(&mut self, name: &ClusterName, at: usize) {
        if let Some(cluster) = self.clusters.get_mut(name) {
            cluster.fencing.queue.remove(at);
        }
    }

    fn store_fencing(&mut self, name: &ClusterName, state: State, asked: Option<Asked>) {
        let token = self.token();
        let record = state.record(name.clone(), self.memory.host_boot);
        if let Some(cluster) = self.clusters.get_mut(name) {
            cluster.fencing.begin(token, state, asked);
        }
        self.actions.push_back(Action::PersistFencing { token, record });
    }

    /// A write of fencing has ended.
    pub(super) fn fencing_written(&mut self, now: Time, name: &ClusterName, works: bool) {
        let Some(cluster) = self.clusters.get_mut(name) else { return };
        if let Some((state, Some(asked))) = cluster.fencing.end_write(now, works) {
            if !works {
                self.answer(asked.client, &asked.call, Verdict::Refused(Refusal::NotStored));
            } else {
                // What was true when it was planned need not be so any more.
                match self.plan(now, name, &asked) {
                    Ok(Plan::Be(planned, verdict)) if *planned == state => {
                        self.commit(now, name, state, &asked, *verdict);
                    }
                    Ok(Plan::Be(..) | Plan::Wait(_)) => {
                        let cluster = self.clusters.get_mut(name);
                        cluster.into_iter().for_each(|c| c.fencing.queue.push_front(asked.clone()));
                    }
                    Err(refusal) => {
                        self.answer(asked.client, &asked.call, Verdict::Refused(refusal));
                    }
                }
            }
        }
        self.settle(now, name);
    }

    /// Makes a state that is on disk true, and says so.
    fn commit(
        &mut self,
        now: Time,
        name: &ClusterName,
        state: State,
        asked: &Asked,
        verdict: Verdict,
    ) {
        let Some(cluster) = self.clusters.get_mut(name) else { return };
        let before = cluster.fencing.state().clone();
        let is_new = before != state;
        cluster.fencing.become_so(now, state);
        if let Ask::Register(Intent { requester, epoch: Some(epoch), .. }) = &asked.call.ask {
            // No later grant is of an older epoch than a request that was let in (safety 10): what
            // is proven for it is never taken for older than that grant.
            cluster.ledger.hear_epoch(*requester, *epoch);
        }
        match &asked.call.ask {
            Ask::Register(_) | Ask::Attest(_) => cluster.fencing.attest(now),
            Ask::Off { proof, .. } if cluster.fencing.is_off(proof.node) => {
                cluster.ledger.end(proof.node);
                let client = cluster.joined.get(&proof.node).copied();
                client.into_iter().for_each(|id| self.close(now, id, CloseReason::Fenced));
            }
            Ask::Off { .. } | Ask::Release(_) => {}
        }
        if is_new {
            self.tell_of_call(name, &asked.call.ask);
        }
        self.answer(asked.client, &asked.call, verdict);
    }

    /// For the log.
    fn tell_of_call(&mut self, name: &ClusterName, ask: &Ask) {
        let text = match ask {
            Ask::Register(intent) => format!(
                "node {} has {} fenced: condemned until they are off or it is over",
                intent.requester,
                list(&intent.targets)
            ),
            Ask::Attest(_) => return,
            Ask::Off { proof, .. } => {
                let how = match &proof.how {
                    How::ReadOff => "its power reads off".to_owned(),
                    How::Watchdog => "its watchdog's bound has passed".to_owned(),
                    How::Manual { by, why } => format!("{} says so: {}", words(by), words(why)),
                };
                format!("node {} is confirmed off: {how}", proof.node)
            }
            Ask::Release(_) => "fencing is over: nobody is condemned any more".to_owned(),
        };
        self.actions.push_back(Action::Decided { cluster: name.clone(), text });
    }

    /// An intent whose deadline has passed lapses once its requester is not entitled any more
    /// (safety 25): a power device that is dead does not condemn the last node for ever.
    fn lapse(&mut self, now: Time, name: &ClusterName) -> bool {
        let Some(cluster) = self.clusters.get(name) else { return false };
        let Some(intent) = cluster.fencing.intent() else { return false };
        let condemned: BTreeSet<NodeId> = intent.condemned().collect();
        let goes_on = || self.check(now, name, intent.requester, &condemned).is_ok();
        if !cluster.fencing.is_past_deadline(now) || (!condemned.is_empty() && goes_on()) {
            return false;
        }
        let Some(cluster) = self.clusters.get_mut(name) else { return false };
        if let Some(intent) = cluster.fencing.lapse() {
            let text = format!(
                "the fencing of {1} for node {0} has not come to an end in time, and has lapsed",
                intent.requester,
                list(&intent.targets)
            );
            self.actions.push_back(Action::Decided { cluster: name.clone(), text });
        }
        true
    }

    fn plan(&self, now: Time, name: &ClusterName, asked: &Asked) -> Result<Plan, Refusal> {
        match &asked.call.ask {
            Ask::Register(intent) => self.plan_register(now, name, intent, asked.id),
            Ask::Attest(id) => {
                let intent = self.open_intent(name, *id)?;
                let targets = intent.condemned().collect();
                let side = match self.check(now, name, intent.requester, &targets) {
                    Err(Refusal::Undecided(why)) => {
                        return Err(self.reunited(name, intent.requester, &targets, why));
                    }
                    checked => checked?,
                };
                let state = self.fencing_state(name);
                Ok(be(state, self.attestation(now, name, intent, side)))
            }
            Ask::Off { intent, proof } => {
                let intent = self.open_intent(name, *intent)?;
                self.plan_off(now, name, (intent, proof), asked.came)
            }
            Ask::Release(id) => {
                self.open_intent(name, *id)?;
                let state = State { intent: None, ..self.fencing_state(name) };
                Ok(be(state, Verdict::Noted))
            }
        }
    }

    /// Whoever is condemned has lost the vote, whatever is decided (safety 25).
    pub(super) fn tell_condemned(&mut self, now: Time, name: &ClusterName) {
        let Some(cluster) = self.clusters.get(name) else { return };
        let condemned = cluster.fencing.condemned();
        let joined = condemned.iter().filter_map(|node| cluster.joined.get(node));
        let clients = joined.filter_map(|id| self.clients.get(id));
        let losers: Vec<ClientId> = clients
            .filter(|c| c.has_lists() && c.told.is_none_or(|told| told.vote != Vote::Nack))
            .map(|client| client.id)
            .collect();
        for id in losers {
            self.tell(now, name, id, Vote::Nack);
        }
    }

    /// Remembers since when nodes are outside of every view that has the vote.
    pub(super) fn note_holders(&mut self, now: Time, name: &ClusterName) {
        let Some(cluster) = self.clusters.get(name) else { return };
        let Some(record) = cluster.ledger.current() else { return };
        let is_told = cluster.live(now, &self.clients).any(|(node, client)| {
            let told = client.told.is_some_and(|told| told.vote == Vote::Ack);
            told && client.view == record.view && record.nodes.contains(&node)
        });
        if cluster.ledger.is_unannounced() || !is_told {
            return;
        }
        let (nodes, configured) = (record.nodes.clone(), cluster.configured(&self.clients));
        if let Some(cluster) = self.clusters.get_mut(name) {
            cluster.fencing.hear_holders(now, &nodes, &configured);
        }
    }

    fn fencing_state(&self, name: &ClusterName) -> State {
        self.clusters.get(name).map(|cluster| cluster.fencing.state().clone()).unwrap_or_default()
    }

    fn open_intent(&self, name: &ClusterName, id: IntentId) -> Result<&OpenIntent, Refusal> {
        let intent = self.clusters.get(name).and_then(|cluster| cluster.fencing.intent());
        intent.filter(|intent| intent.id == id).ok_or(Refusal::UnknownIntent)
    }

    /// Nothing is decided while a target is condemned that its requester reports as one of its own
    /// side again, nor will be: to wait for that would keep both from the vote.
    fn reunited(
        &self,
        name: &ClusterName,
        requester: NodeId,
        targets: &BTreeSet<NodeId>,
        why: String,
    ) -> Refusal {
        let cluster = self.clusters.get(name);
        let client = cluster.and_then(|cluster| cluster.joined.get(&requester));
        let client = client.and_then(|id| self.clients.get(id));
        let target = client.and_then(|client| client.members.intersection(targets).next());
        target.map_or(Refusal::Undecided(why), |node| Refusal::OwnSide(*node))
    }

    /// The requester's side is entitled, and the targets are not of it.
    fn check(
        &self,
        now: Time,
        name: &ClusterName,
        requester: NodeId,
        targets: &BTreeSet<NodeId>,
    ) -> Result<Side, Refusal> {
        let side = self.entitled(now, name, requester, targets)?;
        let cluster = self.clusters.get(name).ok_or(Refusal::NotConnected(requester))?;
        let client = cluster.joined.get(&requester).and_then(|id| self.clients.get(id));
        let own = client.map(|client| client.members.clone()).unwrap_or_default();
        let is_own = |node: &&NodeId| {
            **node == requester || own.contains(node) || side.members.contains(node)
        };
        match targets.iter().find(is_own) {
            Some(node) => Err(Refusal::OwnSide(*node)),
            None => Ok(side),
        }
    }

    fn plan_register(
        &self,
        now: Time,
        name: &ClusterName,
        asked: &Intent,
        id: IntentId,
    ) -> Result<Plan, Refusal> {
        if asked.targets.is_empty() || asked.targets.len() > TARGETS_MAX {
            return Err(Refusal::Malformed);
        }
        let absent = Refusal::NotConnected(asked.requester);
        let cluster = self.clusters.get(name).ok_or(absent)?;
        let current = cluster.ledger.current().filter(|_| !cluster.ledger.is_unannounced());
        if let (Some(given), Some(current)) = (asked.epoch, current.map(|r| r.grant.epoch))
            && given < current
        {
            return Err(Refusal::StaleEpoch { given, current });
        }
        let side = self.check(now, name, asked.requester, &asked.targets)?;
        let granted = cluster.ledger.current().map(|record| record.nodes.clone());
        let known = &cluster.configured(&self.clients) | &granted.unwrap_or_default();
        if let Some(unknown) = asked.targets.difference(&known).next() {
            return Err(Refusal::UnknownTarget(*unknown));
        }
        let mut state = cluster.fencing.state().clone();
        let same =
            |open: &&mut OpenIntent| (open.requester, open.epoch) == (asked.requester, asked.epoch);
        let intent = match state.intent.as_mut().filter(same) {
            Some(open) => {
                open.targets.extend(&asked.targets);
                // Who has come back since may be fenced again.
                open.proven.retain(|node| cluster.fencing.is_off(*node));
                open.deadline_ms = open.deadline_ms.max(asked.deadline_ms);
                if open.targets.len() > TARGETS_MAX {
                    return Err(Refusal::Malformed);
                }
                open.clone()
            }
            None => {
                if let Some(open) =
                    cluster.fencing.intent().filter(|_| cluster.fencing.is_busy(now))
                {
                    let (requester, targets) = (open.requester, open.targets.clone());
                    return Err(Refusal::Busy { requester, targets });
                }
                OpenIntent {
                    id,
                    requester: asked.requester,
                    epoch: asked.epoch,
                    targets: asked.targets.clone(),
                    proven: BTreeSet::new(),
                    deadline_ms: asked.deadline_ms,
                }
            }
        };
        state.intent = Some(intent.clone());
        Ok(be(state, self.attestation(now, name, &intent, side)))
    }

    fn attestation(
        &self,
        now: Time,
        name: &ClusterName,
        intent: &OpenIntent,
        side: Side,
    ) -> Verdict {
        let cluster = self.clusters.get(name);
        let target = |node: &NodeId| {
            let heard = cluster.and_then(|cluster| {
                cluster.joined.get(node).and_then(|id| self.clients.get(id)).map(|c| c.last_heard)
            });
            let known = cluster.map(|cluster| cluster.fencing.target(now, *node, heard));
            (*node, known.unwrap_or_default())
        };
        Verdict::Entitled(Attestation {
            intent: intent.id,
            epoch: side.epoch,
            ring: side.ring,
            holders: side.members,
            role: side.role,
            targets: intent.targets.iter().map(target).collect(),
        })
    }

    /// A proof counts as long as the intent is open, whoever is entitled: that a node is off does
    /// not become false.
    fn plan_off(
        &self,
        now: Time,
        name: &ClusterName,
        (intent, proof): (&OpenIntent, &Proof),
        came: Time,
    ) -> Result<Plan, Refusal> {
        let cluster = self.clusters.get(name).ok_or(Refusal::UnknownIntent)?;
        if !intent.targets.contains(&proof.node) {
            return Err(Refusal::Malformed);
        }
        let mut state = cluster.fencing.state().clone();
        if cluster.fencing.is_off(proof.node) {
            return Ok(be(state, Verdict::Noted));
        }
        let heard = Err(Refusal::Heard(proof.node));
        let facts = cluster.fencing.facts(proof.node);
        // After a restart of the arbiter nothing is known of a node that never came back.
        if facts.joined.is_some() && facts.boot != proof.boot {
            return heard;
        }
        let client = cluster.joined.get(&proof.node).and_then(|id| self.clients.get(id));
        let last = client.map(|client| client.last_heard).max(facts.heard);
        let sent = came - Duration::from_millis(proof.sent_ms);
        match &proof.how {
            How::ReadOff => {
                // A connection made since is of a machine that runs again, if it does not say that
                // it is of the boot that ended.
                if proof.boot == BootId::default() && facts.joined.is_some_and(|at| at > sent) {
                    return heard;
                }
                if last.is_some_and(|last| last > came + times::ROUND_TRIP) {
                    return heard;
                }
                let own = client.filter(|client| client.is_own());
                let quiet = own.map(|client| client.last_heard + QUIET);
                if let Some(until) = quiet.filter(|until| *until > now) {
                    return Ok(Plan::Wait(until));
                }
            }
            How::Manual { .. } => {
                let registered = cluster.fencing.registered(proof.node);
                if registered.is_none_or(|since| last.is_some_and(|last| last > since)) {
                    return heard;
                }
            }
            How::Watchdog => {
                let bound = facts.bound.filter(|bound| bound.class != WatchdogClass::D);
                let outside = facts.outside.map(|since| now.since(since));
                let passed = bound.zip(outside).is_some_and(|(bound, outside)| {
                    outside >= Duration::from_millis(u64::from(bound.bound_ms))
                });
                // What ran on it has ended; that says nothing of its power.
                let verdict = if passed {
                    Verdict::Noted
                } else {
                    Verdict::Refused(Refusal::Undecided(format!(
                        "nothing shows that the watchdog of node {} has ended it",
                        proof.node
                    )))
                };
                return Ok(be(state, verdict));
            }
        }
        state.off.insert(proof.node, proof.boot);
        if let Some(open) = &mut state.intent {
            open.proven.insert(proof.node);
        }
        Ok(be(state, Verdict::Noted))
    }
}

fn be(state: State, verdict: Verdict) -> Plan {
    Plan::Be(Box::new(state), Box::new(verdict))
}

/// "node 1" or "nodes 1, 2".
fn list(nodes: &BTreeSet<NodeId>) -> String {
    let names: Vec<String> = nodes.iter().map(NodeId::to_string).collect();
    format!("node{} {}", if names.len() == 1 { "" } else { "s" }, names.join(", "))
}

/// What an operator wrote, as far as it belongs into a line of the log.
fn words(text: &str) -> String {
    text.chars().take(WORDS_MAX).flat_map(char::escape_default).collect()
}
