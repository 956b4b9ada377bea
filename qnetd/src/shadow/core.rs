//! The machine of shadow mode: it is told every frame that passes between clients and a stock
//! arbiter, keeps our [`Arbiter`] running beside on the same frames, and says where the two tell a
//! client different votes, and why. It sends nothing to anybody.
//!
//! * [`row`]: the corrections of `docs/decisions.md` by name.
//! * [`stock_rule`]: the stock rule, with a switch for each of them.
//! * [`model`]: what the stock arbiter may have said by that rule, event by event.
//! * [`pair`]: one client.
//! * [`judge`]: compares, and finds the reason; [`difference`] is the result.
//!
//! What our arbiter would say is not sent, so the client never answers it. It is taken to answer
//! as it answers the same word of the stock arbiter; a word that the stock arbiter does not say
//! within [`SETTLING`] is taken to be confirmed. What a host counts, though, is what it says, and
//! it follows the stock arbiter: after a difference our arbiter may have to wait for a loss that
//! nobody was told of (safety F7), until the two agree again.

mod difference;
mod judge;
mod model;
mod pair;
pub mod row;
pub mod stock_rule;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use protocol::ids::{ClusterName, NodeId};
use protocol::qnet::{Frame, HEADER_BYTES, Message, MessageType, NodeListType, TlsSupport};
use protocol::status::ArbiterStatus;
use protocol::time::Time;
use protocol::vote::{Algorithm, Vote};

pub use difference::{Difference, Reason, Wait};
pub use judge::correcting_row;
use model::Occasion;
use pair::{Pair, Told, Unsaid, is_config, stock_message};
use row::Row;
use stock_rule::Voter;

use crate::core::decide::{check_config_list, check_membership_list};
use crate::core::{self as arbiter, Arbiter, ClientId, CloseReason, Memory, Peer, Settings};

/// A difference is reported when it has lasted this long, and nothing that could change a vote has
/// passed for as long: answers are on their way in both directions, and ours needs no network.
pub const SETTLING: Duration = Duration::from_secs(1);

/// A difference that has lasted this long is reported whatever goes on.
pub const SETTLING_LIMIT: Duration = Duration::from_secs(10);

/// For as long as a machine's `Time` is of use: nobody is closed for this.
const FOREVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Names one client with its connection to the stock arbiter; never used again for another.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct PairId(pub u64);

/// Everything that can happen.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event {
    /// A client was accepted, and the stock arbiter has accepted us.
    Opened {
        /// Its name from now on.
        pair: PairId,
        /// Where the client comes from, for people.
        address: String,
    },
    /// Both connections are encrypted.
    Secured {
        /// Which.
        pair: PairId,
        /// Who the client has proven to be, where that is asked for.
        identity: Option<Peer>,
    },
    /// A message passes to the stock arbiter.
    FromClient {
        /// Whose.
        pair: PairId,
        /// It.
        frame: Frame,
    },
    /// A message passes to the client.
    FromStock {
        /// Whose.
        pair: PairId,
        /// It.
        frame: Frame,
    },
    /// Both connections are closed.
    Closed {
        /// Which.
        pair: PairId,
    },
    /// The [`Shadow::deadline`] has passed.
    Timeout,
}

/// Everything that it may say.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Action {
    /// The arbiters differ.
    Report(Box<Difference>),
    /// Where they differed, they agree again.
    Agreed {
        /// In which cluster.
        cluster: ClusterName,
        /// On which node.
        node: NodeId,
        /// For how long they differed.
        lasted: Duration,
    },
    /// What our arbiter decides, for the log.
    Decided {
        /// For which cluster.
        cluster: ClusterName,
        /// In one line.
        text: String,
    },
}

/// What is kept of a cluster beside its clients.
#[derive(Clone, Debug)]
struct Watch {
    /// The last thing that could change a vote passed then.
    quiet_since: Time,
    /// Counts these things.
    changes: u64,
    /// The clients were compared after as many.
    compared: Option<u64>,
    /// The members of the partition that the stock rule selected last (ffsplit).
    selected: BTreeSet<NodeId>,
    /// The client that left last, if nothing was decided since.
    left: Option<Voter>,
    /// The last thing that our arbiter waited for.
    last_wait: Option<Wait>,
}

/// The machine.
#[derive(Clone, Debug)]
pub struct Shadow {
    arbiter: Arbiter,
    /// For clients that do not say.
    keep_active: bool,
    /// Until the stock arbiter has said whether it takes plain text.
    needs_tls: bool,
    pairs: BTreeMap<PairId, Pair>,
    clients: BTreeMap<ClientId, PairId>,
    clients_made: u64,
    /// Our arbiter has closed them, and they would connect again at once.
    reconnecting: BTreeSet<PairId>,
    clusters: BTreeMap<ClusterName, Watch>,
    actions: VecDeque<Action>,
}

impl Shadow {
    /// A machine that starts at `now`. Its arbiter leaves to the stock one what is not a vote: TLS,
    /// how many clients there may be, and how long they may take to their Init.
    pub fn new(now: Time, settings: Settings, memory: Memory) -> Self {
        let keep_active = settings.keep_active_partition;
        let needs_tls = settings.tls == TlsSupport::Required;
        let settings = Settings {
            tls: TlsSupport::Supported,
            max_clients: 0,
            greeting_limit: FOREVER,
            ..settings
        };
        Self {
            arbiter: Arbiter::new(now, settings, memory),
            keep_active,
            needs_tls,
            pairs: BTreeMap::new(),
            clients: BTreeMap::new(),
            clients_made: 0,
            reconnecting: BTreeSet::new(),
            clusters: BTreeMap::new(),
            actions: VecDeque::new(),
        }
    }

    /// Takes a fact in.
    pub fn handle(&mut self, now: Time, event: Event) {
        match event {
            Event::Opened { pair, address } => self.opened(now, pair, address),
            Event::Secured { pair, identity } => self.secured(now, pair, identity),
            Event::FromClient { pair, frame } => self.client_says(now, pair, &frame),
            Event::FromStock { pair, frame } => self.stock_says(now, pair, &frame),
            Event::Closed { pair } => self.closed(now, pair),
            Event::Timeout => {
                self.feed(now, arbiter::Event::Timeout);
            }
        }
        self.confirm(now);
        self.reconnect(now);
        for cluster in self.clusters_to_compare(now) {
            self.compare(now, &cluster);
        }
    }

    /// The next duty, in order; `None` when all are done.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call with [`Event::Timeout`], if nothing happens before.
    pub fn deadline(&self) -> Option<Time> {
        let unsaid = self.pairs.values().filter_map(|pair| {
            let unsaid = pair.unsaid.filter(|unsaid| unsaid.vote != pair.stock.vote)?;
            Some(unsaid.since + SETTLING)
        });
        let arbiter = self.arbiter.deadline().filter(|at| *at != Time::NEVER);
        unsaid.chain(arbiter).chain(self.judge_at()).min()
    }

    /// No difference is left that has not been looked at.
    pub fn is_settled(&self) -> bool {
        self.judge_at().is_none()
    }

    /// Our arbiter, as `haguard status` shows it.
    pub fn status(&self, now: Time) -> ArbiterStatus {
        self.arbiter.status(now)
    }

    fn opened(&mut self, now: Time, id: PairId, address: String) {
        self.clients_made += 1;
        let client = ClientId(self.clients_made);
        self.clients.insert(client, id);
        let pair = Pair::new(now, address.clone(), client, self.keep_active);
        self.pairs.insert(id, Pair { needs_tls: self.needs_tls, ..pair });
        self.feed(now, arbiter::Event::Connected { client, address });
    }

    fn secured(&mut self, now: Time, id: PairId, identity: Option<Peer>) {
        let Some(pair) = self.pairs.get_mut(&id) else { return };
        pair.is_secure = true;
        pair.identity.clone_from(&identity);
        if let Some(client) = pair.client {
            self.feed(now, arbiter::Event::Secured { client, identity });
        }
    }

    fn closed(&mut self, now: Time, id: PairId) {
        self.judge_lost_ack(now, id);
        let Some(pair) = self.pairs.remove(&id) else { return };
        if let Some(client) = pair.client {
            self.clients.remove(&client);
            self.feed(now, arbiter::Event::Closed { client });
        }
        let Some(asked) = pair.asked.clone() else { return };
        let cluster = &asked.cluster;
        // Our arbiter may have closed an older connection for this one.
        let older = self.pairs.iter().filter(|(_, other)| {
            other.client.is_none() && other.is_of(cluster) && other.node() == Some(asked.node)
        });
        self.reconnecting.extend(older.map(|(id, _)| *id).collect::<Vec<_>>());
        if self.pairs_of(cluster).is_empty() {
            self.clusters.remove(cluster);
            return;
        }
        if pair.is_in {
            let left = Voter { leaving: true, ..pair.voter(now, &asked) };
            let held_there = self.clusters.get(cluster).is_some_and(|watch| {
                asked.algorithm == Algorithm::Ffsplit && watch.selected.contains(&asked.node)
            });
            let left = Voter { held_there: left.held_there || held_there, ..left };
            self.predict(now, cluster, None, &Occasion::Left(Box::new(left)));
        }
        self.touch(now, cluster);
    }

    fn client_says(&mut self, now: Time, id: PairId, frame: &Frame) {
        let Some(pair) = self.pairs.get_mut(&id) else { return };
        if std::mem::take(&mut pair.is_silent) {
            self.reconnecting.insert(id);
        }
        let Some((message, frame)) = stock_message(frame) else {
            // Both answer it with an error, and nothing else.
            return;
        };
        let greets = matches!(message.kind, MessageType::Preinit | MessageType::StartTls);
        if pair.needs_tls && !pair.is_secure && !greets {
            // The stock arbiter refuses it, and so far nothing else is said.
            return;
        }
        if message.kind == MessageType::VoteInfoReply {
            // The number is the stock arbiter's: see `confirm`.
            self.hear_confirmation(now, id, message.options.seq);
            return;
        }
        let client = pair.client;
        let cluster = pair.asked.as_ref().map(|asked| asked.cluster.clone());
        let occasion = self.note(now, id, &message, &frame);
        if let Some(client) = client {
            self.feed(now, arbiter::Event::Received { client, frame });
        }
        let asked = self.pairs.get(&id).and_then(|pair| pair.asked.clone());
        if let (Some(occasion), Some(asked)) = (occasion, asked) {
            self.clusters.entry(asked.cluster.clone()).or_insert_with(|| Watch::new(now));
            self.predict(now, &asked.cluster, Some(id), &occasion);
            self.touch(now, &asked.cluster);
        } else if let Some(cluster) = cluster.filter(|_| is_request(message.kind)) {
            self.touch(now, &cluster);
        }
    }

    /// Notes what a client says; returns what may come of it at the stock arbiter.
    fn note(
        &mut self,
        now: Time,
        id: PairId,
        message: &Message,
        frame: &Frame,
    ) -> Option<Occasion> {
        let options = &message.options;
        let pair = self.pairs.get_mut(&id)?;
        if is_request(message.kind) {
            pair.unanswered = pair.unanswered.saturating_add(1);
        }
        match message.kind {
            MessageType::Preinit => {
                let name = options.cluster_name.clone();
                if pair.asked.is_none() {
                    pair.name = name;
                    pair.script.preinit = Some(frame.clone());
                } else if name != pair.name {
                    pair.oddity = Some(Row::ClusterFixed);
                }
                None
            }
            MessageType::Init if pair.asked.is_some() => {
                pair.oddity = Some(Row::SecondInitRefused);
                None
            }
            MessageType::Init => {
                pair.script.init = Some(frame.clone());
                let asked = pair.ask(now, options)?;
                self.clusters.entry(asked.cluster.clone()).or_insert_with(|| Watch::new(now));
                let mut others = self.pairs.iter().filter(|(other, _)| **other != id);
                let is_taken = others.any(|(_, other)| {
                    other.is_in && other.is_of(&asked.cluster) && other.node() == Some(asked.node)
                });
                self.pairs.get_mut(&id)?.is_in = !is_taken;
                Some(Occasion::Came)
            }
            MessageType::SetOption => {
                pair.script.set_option = Some(frame.clone());
                pair.keep_active = options.keep_active_partition.unwrap_or(pair.keep_active);
                None
            }
            MessageType::NodeList => self.note_list(now, id, message, frame),
            MessageType::HeuristicsChange => {
                pair.asked.as_ref()?;
                pair.hear_heuristics(options.heuristics?);
                Some(Occasion::Heuristics)
            }
            MessageType::AskForVote => pair.asked.as_ref().map(|_| Occasion::Asked),
            MessageType::StartTls
            | MessageType::EchoRequest
            | MessageType::VoteInfoReply
            | MessageType::PreinitReply
            | MessageType::InitReply
            | MessageType::ServerError
            | MessageType::SetOptionReply
            | MessageType::EchoReply
            | MessageType::NodeListReply
            | MessageType::AskForVoteReply
            | MessageType::VoteInfo
            | MessageType::HeuristicsChangeReply => None,
        }
    }

    /// A list, unless the stock arbiter refuses it (wire 1.6).
    fn note_list(
        &mut self,
        now: Time,
        id: PairId,
        message: &Message,
        frame: &Frame,
    ) -> Option<Occasion> {
        let options = &message.options;
        let list = options.list_type?;
        let asked = self.pairs.get(&id)?.asked.clone()?;
        let nodes = options.nodes.iter().map(|info| info.node).collect();
        if list == NodeListType::Membership {
            options.ring?;
            if check_membership_list(asked.algorithm, asked.node, &nodes).is_err() {
                if asked.algorithm == Algorithm::Ffsplit {
                    return None;
                }
                self.pairs.get_mut(&id)?.oddity = Some(Row::SenderIsMember);
            }
            self.judge_lost_ack(now, id);
        } else if is_config(list) {
            check_config_list(asked.algorithm, asked.node, &nodes).ok()?;
        } else {
            options.quorate?;
        }
        let pair = self.pairs.get_mut(&id)?;
        match list {
            NodeListType::InitialConfig | NodeListType::ChangedConfig => {
                pair.script.config = Some(frame.clone());
                pair.hear_config(now, options);
                Some(Occasion::Config(list))
            }
            NodeListType::Membership => {
                let before = pair.voter(now, &asked);
                pair.script.membership = Some(frame.clone());
                pair.hear_membership(now, options);
                Some(Occasion::Membership(Box::new(Some(before))))
            }
            NodeListType::Quorum => {
                pair.script.quorum = Some(frame.clone());
                Some(Occasion::Asked)
            }
        }
    }

    fn stock_says(&mut self, now: Time, id: PairId, frame: &Frame) {
        let Ok(message) = Message::decode(frame) else { return };
        let options = &message.options;
        let Some(pair) = self.pairs.get_mut(&id) else { return };
        match message.kind {
            MessageType::PreinitReply => {
                pair.needs_tls = options.tls_supported == Some(TlsSupport::Required);
                return;
            }
            MessageType::InitReply => {
                // A refused second Init leaves the client in.
                if pair.oddity.is_none() {
                    pair.is_in = options.error_code == Some(0);
                }
            }
            MessageType::ServerError => pair.unanswered = pair.unanswered.saturating_sub(1),
            MessageType::VoteInfo
            | MessageType::NodeListReply
            | MessageType::AskForVoteReply
            | MessageType::HeuristicsChangeReply => self.hear_stock(now, id, &message),
            MessageType::Preinit
            | MessageType::StartTls
            | MessageType::Init
            | MessageType::SetOption
            | MessageType::SetOptionReply
            | MessageType::EchoRequest
            | MessageType::EchoReply
            | MessageType::NodeList
            | MessageType::AskForVote
            | MessageType::VoteInfoReply
            | MessageType::HeuristicsChange => return,
        }
        let asked = self.pairs.get(&id).and_then(|pair| pair.asked.clone());
        if let Some(asked) = asked {
            self.touch(now, &asked.cluster);
        }
    }

    /// A vote of the stock arbiter.
    fn hear_stock(&mut self, now: Time, id: PairId, message: &Message) {
        let Some(vote) = message.options.vote else { return };
        let Some(pair) = self.pairs.get_mut(&id) else { return };
        if message.kind != MessageType::VoteInfo {
            pair.unanswered = pair.unanswered.saturating_sub(1);
        }
        if message.options.ring != Some(pair.ring()) {
            return;
        }
        if vote != Vote::Ack && vote != Vote::NoChange {
            self.judge_lost_ack(now, id);
        }
        let Some(pair) = self.pairs.get_mut(&id) else { return };
        let before = pair.stock.vote;
        pair.stock.hear(vote);
        if pair.stock.vote != before {
            pair.answered = decides_nothing(message);
        }
        if message.kind == MessageType::VoteInfo {
            pair.stock.unconfirmed = message.options.seq;
        }
        match pair.asked.as_ref().map(|asked| asked.algorithm) {
            Some(Algorithm::Lms | Algorithm::TwoNodeLms) => self.note_result(now, id, vote),
            Some(Algorithm::Test | Algorithm::Ffsplit) | None => {}
        }
    }

    /// A client has confirmed a vote info of the stock arbiter.
    fn hear_confirmation(&mut self, now: Time, id: PairId, seq: Option<u32>) {
        let Some(pair) = self.pairs.get_mut(&id) else { return };
        if pair.stock.unconfirmed == seq {
            pair.stock.unconfirmed = None;
        }
        if let Some(asked) = pair.asked.clone() {
            self.touch(now, &asked.cluster);
        }
    }

    /// Tells our arbiter something, and takes in what it would do.
    fn feed(&mut self, now: Time, event: arbiter::Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            self.arbiter.handle(now, event);
            while let Some(action) = self.arbiter.next_action() {
                match action {
                    arbiter::Action::Send { client, bytes } => self.hear_ours(now, client, &bytes),
                    arbiter::Action::Close { client, reason } => {
                        self.hear_close(now, client, reason);
                    }
                    // Nobody hears of the grant, so there is nothing to keep.
                    arbiter::Action::Persist { token, .. }
                    | arbiter::Action::PersistFencing { token, .. } => {
                        events.push_back(arbiter::Event::Persisted(token));
                    }
                    arbiter::Action::Decided { cluster, text } => {
                        self.hear_decision(now, cluster, text);
                    }
                    arbiter::Action::StartTls { .. } => {}
                }
            }
        }
    }

    /// A message that our arbiter would send.
    fn hear_ours(&mut self, now: Time, client: ClientId, bytes: &[u8]) {
        let Some(id) = self.clients.get(&client) else { return };
        let Some(message) = decode(bytes) else { return };
        let Some(pair) = self.pairs.get_mut(id) else { return };
        let options = &message.options;
        let Some(vote) = options.vote else { return };
        if options.ring == Some(pair.ring()) {
            pair.ours.hear(vote);
            pair.was_acked |= vote == Vote::Ack;
        }
        if message.kind == MessageType::VoteInfo {
            let seq = options.seq.unwrap_or_default();
            pair.unsaid = Some(Unsaid { seq, vote: pair.ours.vote, since: now });
        }
        if let Some(asked) = pair.asked.clone() {
            self.touch(now, &asked.cluster);
        }
    }

    /// Our arbiter would close a client: it casts no vote then, and connects again.
    fn hear_close(&mut self, now: Time, client: ClientId, reason: CloseReason) {
        let Some(id) = self.clients.remove(&client) else { return };
        let Some(pair) = self.pairs.get_mut(&id) else { return };
        pair.client = None;
        pair.ours = Told::NOTHING;
        pair.unsaid = None;
        match reason {
            CloseReason::Unconfirmed | CloseReason::TooSlow => {
                self.reconnecting.insert(id);
            }
            // Until it is heard again.
            CloseReason::Silent => pair.is_silent = true,
            // The stock arbiter compares the name without case, and once only.
            CloseReason::WrongIdentity => pair.oddity = Some(Row::ClusterFixed),
            // Until the newer connection is gone.
            CloseReason::Replaced
            // Here never.
            | CloseReason::TlsUnavailable
            | CloseReason::Fenced
            | CloseReason::TooManyGateways
            | CloseReason::TooManyClients => {}
        }
        if let Some(asked) = self.pairs.get(&id).and_then(|pair| pair.asked.clone()) {
            self.touch(now, &asked.cluster);
        }
    }

    fn hear_decision(&mut self, now: Time, cluster: ClusterName, text: String) {
        self.touch(now, &cluster);
        self.actions.push_back(Action::Decided { cluster, text });
    }

    /// Confirms for the clients what our arbiter has told them: when they confirm the same of the
    /// stock arbiter's, or when that has not said it for a while.
    fn confirm(&mut self, now: Time) {
        // Each answer may lead to one more word to each of the others, and to no more.
        for _ in 0..=2 * self.pairs.len() {
            let ready = self.pairs.values().find_map(|pair| {
                let unsaid = pair.unsaid?;
                let is_ready = if pair.stock.vote == unsaid.vote {
                    pair.stock.unconfirmed.is_none()
                } else {
                    now >= unsaid.since + SETTLING
                };
                Some((pair.client?, unsaid.seq)).filter(|_| is_ready)
            });
            let Some((client, seq)) = ready else { return };
            if let Some(pair) = self.clients.get(&client).and_then(|id| self.pairs.get_mut(id)) {
                pair.unsaid = None;
            }
            let reply = Message::new(MessageType::VoteInfoReply, Some(seq)).encode();
            self.feed(now, arbiter::Event::Received { client, frame: frame_of(&reply) });
        }
    }

    /// Has the clients that our arbiter has closed say again what they have said.
    fn reconnect(&mut self, now: Time) {
        // Who is closed again at once waits for the next event.
        for id in std::mem::take(&mut self.reconnecting) {
            let Some(pair) = self.pairs.get_mut(&id) else { continue };
            self.clients_made += 1;
            let client = ClientId(self.clients_made);
            pair.client = Some(client);
            let (address, frames) = (pair.address.clone(), pair.script.frames());
            let identity = pair.identity.clone().filter(|_| pair.is_secure);
            self.clients.insert(client, id);
            self.feed(now, arbiter::Event::Connected { client, address });
            for (at, frame) in frames.into_iter().enumerate() {
                self.feed(now, arbiter::Event::Received { client, frame });
                if at == 0 && identity.is_some() {
                    let identity = identity.clone();
                    self.feed(now, arbiter::Event::Secured { client, identity });
                }
            }
        }
    }

    /// Something has passed that could change a vote.
    fn touch(&mut self, now: Time, cluster: &ClusterName) {
        if let Some(watch) = self.clusters.get_mut(cluster) {
            watch.quiet_since = now;
            watch.changes += 1;
        }
    }

    /// Those in which something has passed, or a difference has settled.
    fn clusters_to_compare(&self, now: Time) -> Vec<ClusterName> {
        let is_due = |cluster: &ClusterName| {
            let mut pairs = self.pairs.values().filter(|pair| pair.is_of(cluster));
            pairs.any(|pair| self.judged_at(pair).is_some_and(|at| at <= now))
        };
        let clusters = self
            .clusters
            .iter()
            .filter(|(cluster, watch)| watch.compared != Some(watch.changes) || is_due(cluster));
        clusters.map(|(cluster, _)| cluster.clone()).collect()
    }

    fn pairs_of(&self, cluster: &ClusterName) -> Vec<PairId> {
        let pairs = self.pairs.iter().filter(|(_, pair)| pair.is_of(cluster));
        pairs.map(|(id, _)| *id).collect()
    }
}

impl Watch {
    fn new(now: Time) -> Self {
        Self {
            quiet_since: now,
            changes: 0,
            compared: None,
            selected: BTreeSet::new(),
            left: None,
            last_wait: None,
        }
    }
}

/// Requests that are answered with a vote.
fn is_request(kind: MessageType) -> bool {
    matches!(kind, MessageType::NodeList | MessageType::AskForVote | MessageType::HeuristicsChange)
}

/// An answer that ours gives without a decision.
fn decides_nothing(message: &Message) -> Option<Row> {
    if message.kind == MessageType::AskForVoteReply {
        Some(Row::AskingDecidesNothing)
    } else if message.options.list_type == Some(NodeListType::Quorum) {
        Some(Row::QuorumListDecidesNothing)
    } else {
        None
    }
}

fn frame_of(bytes: &[u8]) -> Frame {
    let kind = bytes.first_chunk().map(|kind| u16::from_be_bytes(*kind)).unwrap_or_default();
    Frame { kind, body: bytes.get(HEADER_BYTES..).unwrap_or_default().to_vec() }
}

fn decode(bytes: &[u8]) -> Option<Message> {
    Message::decode(&frame_of(bytes)).ok()
}
