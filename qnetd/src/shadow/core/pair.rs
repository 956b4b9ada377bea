//! One client with its connection to the stock arbiter: what it has said, and what it was told by
//! either arbiter.

use std::collections::BTreeSet;
use std::time::Duration;

use protocol::ids::{ClusterName, NodeId, RingId, ViewId};
use protocol::qnet::{Frame, HEADER_BYTES, Message, NodeListType, Options, numbers};
use protocol::time::Time;
use protocol::times;
use protocol::vote::{Algorithm, Heuristics, TieBreaker, Vote};

use super::difference::Difference;
use super::row::Row;
use super::stock_rule::{Answer, Voter};
use crate::core::{ClientId, Peer};

/// Who a client says it is, in Init.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) cluster: ClusterName,
    pub(super) node: NodeId,
    pub(super) algorithm: Algorithm,
    pub(super) tie_breaker: TieBreaker,
    pub(super) heartbeat: Duration,
}

/// The newest message of each kind that a reconnecting client says again.
#[derive(Clone, Debug, Default)]
pub(super) struct Script {
    pub(super) preinit: Option<Frame>,
    pub(super) init: Option<Frame>,
    pub(super) set_option: Option<Frame>,
    pub(super) config: Option<Frame>,
    pub(super) membership: Option<Frame>,
    pub(super) quorum: Option<Frame>,
}

impl Script {
    pub(super) fn frames(&self) -> Vec<Frame> {
        let lists = [&self.config, &self.membership, &self.quorum];
        let all = [&self.preinit, &self.init, &self.set_option].into_iter().chain(lists);
        all.flatten().cloned().collect()
    }
}

/// What one arbiter has told a client for its present ring, as the client takes it (wire 2.4).
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    pub(super) vote: Answer,
    /// The last vote info, until the client has confirmed it.
    pub(super) unconfirmed: Option<u32>,
}

impl Told {
    pub(super) const NOTHING: Self = Self { vote: Answer::Wait, unconfirmed: None };

    /// What a vote does to the client: "no change" is none, and to wait is to cast nothing.
    pub(super) fn hear(&mut self, vote: Vote) {
        match vote {
            Vote::Ack => self.vote = Answer::Ack,
            Vote::Nack => self.vote = Answer::Nack,
            Vote::AskLater | Vote::WaitForReply => self.vote = Answer::Wait,
            Vote::NoChange => {}
        }
    }
}

/// A vote info of ours that the client, which never saw it, has not confirmed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unsaid {
    pub(super) seq: u32,
    pub(super) vote: Answer,
    pub(super) since: Time,
}

/// One connection through here.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    pub(super) address: String,
    /// Its connection to our arbiter; `None` while that has closed it.
    pub(super) client: Option<ClientId>,
    /// That has closed it because it was silent.
    pub(super) is_silent: bool,
    pub(super) identity: Option<Peer>,
    pub(super) is_secure: bool,
    /// The stock arbiter takes nothing but TLS.
    pub(super) needs_tls: bool,
    pub(super) name: Option<ClusterName>,
    pub(super) script: Script,
    pub(super) asked: Option<Asked>,
    /// The stock arbiter has let it in, or is taken to.
    pub(super) is_in: bool,
    pub(super) config: BTreeSet<NodeId>,
    pub(super) members: BTreeSet<NodeId>,
    pub(super) view: ViewId,
    pub(super) heuristics: Heuristics,
    pub(super) failed_twice: bool,
    pub(super) keep_active: bool,
    pub(super) lists_since: Time,
    pub(super) stock: Told,
    pub(super) ours: Told,
    /// Ours has said ACK for the present ring.
    pub(super) was_acked: bool,
    pub(super) unsaid: Option<Unsaid>,
    /// What the stock rule allows the stock arbiter to have said last.
    pub(super) allowed: BTreeSet<Answer>,
    /// The answer came of what it had said before its last report (lms).
    pub(super) is_of_old_data: bool,
    /// The stock arbiter has told it its present vote in answer to something that decides nothing
    /// at ours.
    pub(super) answered: Option<Row>,
    /// Requests that the stock arbiter has not answered.
    pub(super) unanswered: u32,
    /// lms: it has had a result there, and the last one was ACK.
    pub(super) known_there: bool,
    pub(super) held_there: bool,
    /// It has done something that the two arbiters treat differently by design.
    pub(super) oddity: Option<Row>,
    /// Since when the arbiters differ on it in any way.
    pub(super) differs_from: Option<Time>,
    /// Since when they differ in the present way: what the stock one told, ours, and what ours
    /// decided.
    pub(super) differs_since: Option<Time>,
    pub(super) votes: (Answer, Answer, Option<Answer>),
    /// The difference was looked at after as many changes of the cluster.
    pub(super) judged: Option<u64>,
    pub(super) reported: Option<Difference>,
}

impl Pair {
    pub(super) fn new(now: Time, address: String, client: ClientId, keep_active: bool) -> Self {
        Self {
            address,
            client: Some(client),
            is_silent: false,
            identity: None,
            is_secure: false,
            needs_tls: false,
            name: None,
            script: Script::default(),
            asked: None,
            is_in: false,
            config: BTreeSet::new(),
            members: BTreeSet::new(),
            view: ViewId::default(),
            heuristics: Heuristics::Undefined,
            failed_twice: false,
            keep_active,
            lists_since: now,
            stock: Told::NOTHING,
            ours: Told::NOTHING,
            was_acked: false,
            unsaid: None,
            allowed: BTreeSet::from([Answer::Wait]),
            is_of_old_data: false,
            answered: None,
            unanswered: 0,
            known_there: false,
            held_there: false,
            oddity: None,
            differs_from: None,
            differs_since: None,
            votes: (Answer::Wait, Answer::Wait, None),
            judged: None,
            reported: None,
        }
    }

    pub(super) fn is_of(&self, cluster: &ClusterName) -> bool {
        self.asked.as_ref().is_some_and(|asked| asked.cluster == *cluster)
    }

    pub(super) fn node(&self) -> Option<NodeId> {
        self.asked.as_ref().map(|asked| asked.node)
    }

    /// Notes an Init; what is not in it makes it one that either arbiter refuses.
    pub(super) fn ask(&mut self, now: Time, options: &Options) -> Option<Asked> {
        let asked = Asked {
            cluster: self.name.clone()?,
            node: NodeId(options.node_id?),
            algorithm: numbers::algorithm_from_number(options.algorithm?)?,
            tie_breaker: options.tie_breaker?,
            heartbeat: Duration::from_millis(u64::from(options.heartbeat_ms?)),
        };
        self.view = ViewId { ring: options.ring?, nonce: 0 };
        self.lists_since = now;
        self.asked = Some(asked.clone());
        Some(asked)
    }

    pub(super) fn hear_config(&mut self, now: Time, options: &Options) {
        let nodes = options.nodes.iter().map(|info| info.node).collect();
        if self.config != nodes {
            self.lists_since = now;
        }
        self.config = nodes;
    }

    pub(super) fn hear_membership(&mut self, now: Time, options: &Options) {
        let members = options.nodes.iter().map(|info| info.node).collect();
        let view = ViewId { ring: options.ring.unwrap_or_default(), nonce: 0 };
        // A list that is said again is no report.
        if (&self.members, self.view) != (&members, view) {
            self.lists_since = now;
        }
        (self.members, self.view) = (members, view);
        self.hear_heuristics(options.heuristics.unwrap_or_default());
        // The client waits for a vote of this ring (wire 2.4).
        self.stock.vote = Answer::Wait;
        self.ours.vote = Answer::Wait;
        self.was_acked = false;
    }

    pub(super) fn hear_heuristics(&mut self, result: Heuristics) {
        self.failed_twice = self.heuristics == Heuristics::Fail && result == Heuristics::Fail;
        self.heuristics = result;
    }

    pub(super) fn ring(&self) -> RingId {
        self.view.ring
    }

    pub(super) fn voter(&self, now: Time, asked: &Asked) -> Voter {
        Voter {
            node: asked.node,
            config: self.config.clone(),
            members: self.members.clone(),
            view: self.view,
            heuristics: self.heuristics,
            failed_twice: self.failed_twice,
            keep_active: self.keep_active,
            tie_breaker: asked.tie_breaker,
            stuck: now >= self.lists_since + times::STABILITY_LIMIT,
            leaving: false,
            holds: false,
            held_there: self.held_there,
            known_there: self.known_there,
        }
    }
}

/// A message as a stock client would have sent it: to the stock arbiter, options of ours say
/// nothing, so they must not say anything here.
pub(super) fn stock_message(frame: &Frame) -> Option<(Message, Frame)> {
    let mut message = Message::decode(frame).ok()?;
    let options = &mut message.options;
    let is_private = options.hello.take().is_some()
        | options.view_note.take().is_some()
        | options.renewal.take().is_some()
        | options.grant.take().is_some()
        | options.arbiter_hello.take().is_some()
        | options.epoch.take().is_some();
    if !is_private {
        return Some((message, frame.clone()));
    }
    let bytes = message.encode();
    let body = bytes.get(HEADER_BYTES..).unwrap_or_default().to_vec();
    Some((message, Frame { kind: frame.kind, body }))
}

/// The list is one of configuration.
pub(super) fn is_config(list: NodeListType) -> bool {
    match list {
        NodeListType::InitialConfig | NodeListType::ChangedConfig => true,
        NodeListType::Membership | NodeListType::Quorum => false,
    }
}
