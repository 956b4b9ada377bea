//! What each message of a client does, in the order and with the answers of the stock daemon
//! (wire 2.5, 2.6), except where that is a hazard: a cluster name and a node id are fixed once
//! they are proven (8.9), a reconnecting process replaces its old connection (8.14), and a list
//! that changes nothing never takes a vote away (8.10).

use protocol::fence::FRAME_CALL;
use protocol::ids::{ClusterName, NodeId, ViewId};
use protocol::qnet::{
    ArbiterHello, ErrorCode, Frame, Grant, Message, MessageType, NodeListType, Options, Renewal,
    TlsSupport, numbers, stock_options, supported_messages,
};
use protocol::time::Time;
use protocol::times;
use protocol::vote::{Algorithm, Heuristics, Vote};

use super::client::{Client, Membership, Transport};
use super::cluster::{Cluster, Known, Rival};
use super::decide::{check_config_list, check_membership_list, heuristics_reply, list_reply};
use super::hold::Rule;
use super::ledger::{Ledger, Process};
use super::{Action, Arbiter, ClientId, CloseReason, Peer};

const ALGORITHMS: std::ops::RangeInclusive<u16> = 0..=3;

/// Clusters that only clients without a proven identity have named: so many are remembered, and
/// none is ever forgotten once it was granted the vote, because its epochs must go on. Only where
/// no certificate is asked for can strangers get there.
const UNPROVEN_CLUSTERS_MAX: usize = 256;

/// Node ids that one cluster may have used since the arbiter's start; votequorum knows fewer.
const CLUSTER_NODES_MAX: usize = 1024;

/// A rejected message: the code, and whether the stock server names the sequence number.
type Refusal = ErrorCode;

impl Arbiter {
    pub(super) fn too_long(&mut self, now: Time, id: ClientId) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.last_heard = now;
            self.hear_stock(id);
            self.refuse(id, None, ErrorCode::MessageTooLong);
        }
    }

    pub(super) fn secured(&mut self, now: Time, id: ClientId, identity: Option<Peer>) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        // The handshake is the proof, so the name is compared here and never again (S9).
        let named = client.preinit.as_ref().map(|(name, _)| name);
        let foreign = identity.as_ref().is_some_and(|peer| Some(&peer.cluster) != named);
        client.transport = Transport::Secure(identity);
        let gateway = identity_of(client).filter(|peer| peer.gateway).map(|p| p.cluster.clone());
        if foreign {
            self.close(now, id, CloseReason::WrongIdentity);
        } else if let Some(cluster) = gateway {
            self.gateway_comes(now, id, &cluster);
        }
    }

    pub(super) fn received(&mut self, now: Time, id: ClientId, frame: &Frame) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        client.last_heard = now;
        self.hear_stock(id);
        if frame.kind == FRAME_CALL {
            if let Err(code) = self.fence_call(now, id, frame) {
                self.refuse(id, None, code);
            }
            return;
        }
        let Some(kind) = MessageType::from_u16(frame.kind) else {
            self.refuse(id, None, ErrorCode::UnsupportedMessage);
            return;
        };
        let message = match Message::decode(frame) {
            Ok(message) => message,
            Err(error) => {
                self.refuse(id, error.seq, ErrorCode::ErrorDecodingMessage);
                return;
            }
        };
        let seq = message.options.seq;
        if self.is_gateway(id) {
            self.gateway_says(id, kind, frame, seq);
            return;
        }
        self.hear_counter(id, kind, seq);
        let result = match kind {
            MessageType::Preinit => self.preinit(id, message.options),
            MessageType::StartTls => self.start_tls(now, id),
            MessageType::Init => self.init(now, id, message.options),
            MessageType::SetOption => self.set_option(now, id, &message.options),
            MessageType::EchoRequest => self.echo(now, id, frame, &message.options),
            MessageType::NodeList => self.node_list(now, id, message.options),
            MessageType::AskForVote => self.ask_for_vote(id, &message.options),
            MessageType::VoteInfoReply => self.vote_info_reply(now, id, &message.options),
            MessageType::HeuristicsChange => self.heuristics_change(now, id, &message.options),
            MessageType::PreinitReply
            | MessageType::InitReply
            | MessageType::ServerError
            | MessageType::SetOptionReply
            | MessageType::EchoReply
            | MessageType::NodeListReply
            | MessageType::AskForVoteReply
            | MessageType::VoteInfo
            | MessageType::HeuristicsChangeReply => Err(ErrorCode::UnexpectedMessage),
        };
        if let Err(code) = result {
            self.refuse(id, seq, code);
        }
    }

    /// A gateway is no client: beside calls it may only see whether anybody is there.
    fn gateway_says(&mut self, id: ClientId, kind: MessageType, frame: &Frame, seq: Option<u32>) {
        if kind == MessageType::EchoRequest {
            let bytes = frame.echo_reply(&Options::default());
            self.actions.push_back(Action::Send { client: id, bytes });
        } else {
            self.refuse(id, seq, ErrorCode::UnexpectedMessage);
        }
    }

    /// A stock client is alive: its bound runs from here (rule S2b).
    fn hear_stock(&mut self, id: ClientId) {
        let Some(client) = self.clients.get(&id) else { return };
        let (Some(membership), Some((node, process, trace))) = (&client.membership, client.trace())
        else {
            return;
        };
        let Some(cluster) = self.clusters.get_mut(&membership.cluster) else { return };
        if client.host_counts {
            cluster.ledger.counts(node, process, client.view, trace);
        } else {
            cluster.ledger.hear_of(node, process, trace);
        }
    }

    /// The messages that count on the counter of a stock process (wire 2.2).
    fn hear_counter(&mut self, id: ClientId, kind: MessageType, seq: Option<u32>) {
        let counts = matches!(
            kind,
            MessageType::SetOption
                | MessageType::NodeList
                | MessageType::AskForVote
                | MessageType::HeuristicsChange
        );
        let membership = self.clients.get(&id).and_then(|client| client.membership.as_ref());
        if let (Some(membership), Some(seq), true) = (membership, seq, counts)
            && let Some(cluster) = self.clusters.get_mut(&membership.cluster)
            && let Some(known) = cluster.known.get_mut(&membership.node)
            && known.process == membership.process
        {
            known.counter = known.counter.max(seq);
        }
    }

    fn refuse(&mut self, client: ClientId, seq: Option<u32>, code: Refusal) {
        let bytes = Message::server_error(seq, code).encode();
        self.actions.push_back(Action::Send { client, bytes });
    }

    fn send(&mut self, client: ClientId, message: &Message) {
        self.actions.push_back(Action::Send { client, bytes: message.encode() });
    }

    fn client_mut(&mut self, id: ClientId) -> Result<&mut Client, Refusal> {
        self.clients.get_mut(&id).ok_or(ErrorCode::InternalError)
    }

    fn preinit(&mut self, id: ClientId, options: Options) -> Result<(), Refusal> {
        let (tls, cert) = (self.settings.tls, self.settings.client_cert_required);
        let client = self.client_mut(id)?;
        if client.transport != Transport::Plain || client.membership.is_some() {
            return Err(ErrorCode::UnexpectedMessage);
        }
        let name = options.cluster_name.ok_or(ErrorCode::RequiredOptionMissing)?;
        client.preinit = Some((name, options.seq.unwrap_or(0)));
        let mut reply = Message::new(MessageType::PreinitReply, options.seq);
        reply.options.tls_supported = Some(tls);
        reply.options.tls_client_cert_required = Some(u8::from(cert));
        self.send(id, &reply);
        Ok(())
    }

    fn start_tls(&mut self, now: Time, id: ClientId) -> Result<(), Refusal> {
        let tls = self.settings.tls;
        let client = self.client_mut(id)?;
        if client.preinit.is_none() {
            return Err(ErrorCode::PreinitRequired);
        }
        if client.transport != Transport::Plain || client.membership.is_some() {
            return Err(ErrorCode::UnexpectedMessage);
        }
        if tls == TlsSupport::Unsupported {
            self.close(now, id, CloseReason::TlsUnavailable);
            return Ok(());
        }
        client.transport = Transport::Handshaking;
        self.actions.push_back(Action::StartTls { client: id });
        Ok(())
    }

    /// Types 3, 6, 8, 10, 12, 15 and 16 need TLS where it is required.
    fn check_tls(&mut self, id: ClientId) -> Result<(), Refusal> {
        let required = self.settings.tls == TlsSupport::Required;
        let client = self.client_mut(id)?;
        match client.transport {
            Transport::Secure(_) => Ok(()),
            Transport::Plain | Transport::Handshaking if required => Err(ErrorCode::TlsRequired),
            Transport::Plain | Transport::Handshaking => Ok(()),
        }
    }

    /// The cluster and node of a client that has passed Init.
    fn joined(&mut self, id: ClientId) -> Result<(ClusterName, NodeId), Refusal> {
        self.check_joined(id)?;
        let membership = self.client_mut(id)?.membership.as_ref();
        membership.map(|m| (m.cluster.clone(), m.node)).ok_or(ErrorCode::InitRequired)
    }

    fn check_joined(&mut self, id: ClientId) -> Result<(), Refusal> {
        self.check_tls(id)?;
        let joined = self.client_mut(id)?.membership.is_some();
        if joined { Ok(()) } else { Err(ErrorCode::InitRequired) }
    }

    fn init(&mut self, now: Time, id: ClientId, options: Options) -> Result<(), Refusal> {
        self.check_tls(id)?;
        let (lists, seq) = (
            (options.supported_messages.is_some(), options.supported_options.is_some()),
            options.seq,
        );
        let own = options.hello.is_some();
        let code = match self.admit(now, id, options) {
            Ok(()) => ErrorCode::NoError,
            Err(code) => code,
        };
        let mut reply = Message::new(MessageType::InitReply, seq);
        reply.options.error_code = Some(code as u16);
        reply.options.supported_messages = lists.0.then(supported_messages);
        reply.options.supported_options = lists.1.then(stock_options);
        reply.options.max_request_bytes = Some(self.settings.max_message_bytes);
        reply.options.max_reply_bytes = Some(self.settings.max_reply_bytes);
        reply.options.supported_algorithms = Some(ALGORITHMS.collect());
        reply.options.arbiter_hello =
            own.then_some(ArbiterHello { id: self.memory.arbiter, boot: self.memory.boot });
        self.send(id, &reply);
        let named = self.clients.get(&id).and_then(|client| client.preinit.clone());
        if let Some((name, _)) = named {
            self.settle(now, &name);
        }
        Ok(())
    }

    /// The checks of Init in the stock daemon's order: a check reports only if none before it
    /// did, but the heartbeat's range and the algorithm are looked at even then.
    fn admit(&mut self, now: Time, id: ClientId, options: Options) -> Result<(), Refusal> {
        let (min, max) = (self.settings.heartbeat_min_ms, self.settings.heartbeat_max_ms);
        let client = self.client_mut(id)?;
        let missing = |absent: bool| absent.then_some(ErrorCode::RequiredOptionMissing);
        let mut code = client.preinit.is_none().then_some(ErrorCode::PreinitRequired);
        code = code.or(missing(options.node_id.is_none()));
        code = code.or(missing(options.ring.is_none()));
        let heartbeat_ms = options.heartbeat_ms.unwrap_or(0);
        if code.is_none() && options.heartbeat_ms.is_none() {
            code = Some(ErrorCode::RequiredOptionMissing);
        } else if !(min..=max).contains(&heartbeat_ms) {
            code = Some(ErrorCode::InvalidHeartbeatInterval);
        }
        code = code.or(missing(options.tie_breaker.is_none()));
        let algorithm = numbers::algorithm_from_number(options.algorithm.unwrap_or(0));
        if code.is_none() && options.algorithm.is_none() {
            code = Some(ErrorCode::RequiredOptionMissing);
        } else if algorithm.is_none() {
            code = Some(ErrorCode::UnsupportedDecisionAlgorithm);
        }
        if let Some(code) = code {
            return Err(code);
        }
        let (Some((cluster, preinit_seq)), Some(node), Some(ring), Some(tie_breaker)) =
            (client.preinit.clone(), options.node_id, options.ring, options.tie_breaker)
        else {
            return Err(ErrorCode::InternalError);
        };
        let algorithm = algorithm.ok_or(ErrorCode::InternalError)?;
        let node = NodeId(node);
        // Correction: nothing of a second Init is taken over (wire 2.5).
        if client.membership.is_some() {
            return Err(ErrorCode::DuplicateNodeId);
        }
        // The test algorithm gives everyone a vote that never ends. Our device counts leases only,
        // and is told so here instead of being sent votes that it cannot use.
        if algorithm == Algorithm::Test && options.hello.is_some() {
            return Err(ErrorCode::UnsupportedDecisionAlgorithm);
        }
        let hello = options.hello;
        let process = Process::NONE;
        let membership =
            Membership { cluster, node, algorithm, tie_breaker, hello, preinit_seq, process };
        if !self.identity_allows(id, node) {
            self.close(now, id, CloseReason::WrongIdentity);
            return Err(ErrorCode::InternalError);
        }
        self.check_room(now, id, &membership)?;
        let known = self.same_stock_process(&membership);
        let admitted = self.check_cluster(now, &membership, known.is_some());
        if let (Err(_), Some(cluster)) = (admitted, self.clusters.get_mut(&membership.cluster)) {
            cluster.fencing.claimed(now, membership.node);
        }
        admitted?;
        let client = self.client_mut(id)?;
        client.set_heartbeat(heartbeat_ms);
        client.view = ViewId { ring, nonce: 0 };
        (client.renewed, client.answered) = (now, now);
        client.lists_since = now;
        self.join(now, id, membership, (known, options.seq.unwrap_or(0)));
        Ok(())
    }

    /// Clients without a proven identity cannot make the arbiter remember without end.
    fn check_room(&mut self, now: Time, id: ClientId, new: &Membership) -> Result<(), Refusal> {
        if let Some(cluster) = self.clusters.get(&new.cluster) {
            let room = cluster.seen.len() < CLUSTER_NODES_MAX || cluster.seen.contains(&new.node);
            return if room { Ok(()) } else { Err(ErrorCode::InternalError) };
        }
        if self.is_proven(id) {
            return Ok(());
        }
        self.forget_blank(now);
        if self.clusters.values().filter(|c| !c.proven).count() < UNPROVEN_CLUSTERS_MAX {
            return Ok(());
        }
        if !std::mem::replace(&mut self.strangers_refused, true) {
            let text = format!(
                "refused: {UNPROVEN_CLUSTERS_MAX} clusters without certificates are known \
                 already, and no more are taken; use certificates and -s req"
            );
            self.actions.push_back(Action::Decided { cluster: new.cluster.clone(), text });
        }
        Err(ErrorCode::InternalError)
    }

    fn is_proven(&self, id: ClientId) -> bool {
        let transport = self.clients.get(&id).map(|client| &client.transport);
        matches!(transport, Some(Transport::Secure(Some(_))))
    }

    /// Whether a newcomer is provably the process that spoke for its node last: an ffsplit client
    /// whose counter goes on, which has cast NACK when it lost its connection (safety 7). Where
    /// another process has asked for the node meanwhile, nothing is proven: each refusal moves
    /// that one's counter on too.
    fn same_stock_process(&mut self, new: &Membership) -> Option<Process> {
        let known = self.clusters.get_mut(&new.cluster)?.known.get_mut(&new.node)?;
        let same = new.hello.is_none()
            && new.algorithm == Algorithm::Ffsplit
            && new.preinit_seq > 1
            && new.preinit_seq >= known.counter
            && !known.doubtful;
        known.doubtful |= !same;
        same.then_some(known.process)
    }

    fn identity_allows(&self, id: ClientId, node: NodeId) -> bool {
        match self.clients.get(&id).map(|client| &client.transport) {
            Some(Transport::Secure(Some(peer))) => peer.node.is_none_or(|bound| bound == node),
            Some(Transport::Plain | Transport::Handshaking | Transport::Secure(None)) => true,
            None => false,
        }
    }

    /// A newcomer must agree with every client of its cluster, and its node id must be its own.
    fn check_cluster(
        &mut self,
        now: Time,
        new: &Membership,
        same_stock_process: bool,
    ) -> Result<(), Refusal> {
        let Some(cluster) = self.clusters.get(&new.cluster) else { return Ok(()) };
        let joined: Vec<ClientId> = cluster.joined.values().copied().collect();
        for other in joined {
            let Some(client) = self.clients.get(&other) else { continue };
            let Some(old) = &client.membership else { continue };
            if old.node == new.node {
                if same_stock_process || self.replaces(now, other, new) {
                    self.close(now, other, CloseReason::Replaced);
                    continue;
                }
                return Err(ErrorCode::DuplicateNodeId);
            }
            if old.tie_breaker != new.tie_breaker {
                return Err(ErrorCode::TieBreakerDiffers);
            }
            if old.algorithm != new.algorithm {
                return Err(ErrorCode::AlgorithmDiffers);
            }
        }
        Ok(())
    }

    /// A second connection for a node id takes over at once if it is the same process, and else
    /// once the old one has been silent since the first attempt for long enough (F14). Bounds are
    /// kept either way: only a confirmed loss ends one (safety 7).
    fn replaces(&mut self, now: Time, old: ClientId, new: &Membership) -> bool {
        let Some(client) = self.clients.get(&old) else { return true };
        let Some(membership) = &client.membership else { return true };
        let same_process = match (&membership.hello, &new.hello) {
            (Some(old), Some(new)) => old.instance == new.instance,
            (None, _) | (_, None) => false,
        };
        if same_process {
            return true;
        }
        let (heard, patience) = (client.last_heard, client.rival_patience());
        let Some(cluster) = self.clusters.get_mut(&new.cluster) else { return true };
        let rival = cluster.rivals.entry(new.node).or_insert(Rival { since: now, alarm: false });
        if heard > rival.since {
            *rival = Rival { since: now, alarm: true };
            let node = new.node;
            let text = format!(
                "node {node} is claimed by two live processes: neither has the vote; \
                 find out which machine uses the other's certificate"
            );
            self.actions.push_back(Action::Decided { cluster: new.cluster.clone(), text });
            return false;
        }
        now >= rival.since + patience
    }

    fn join(
        &mut self,
        now: Time,
        id: ClientId,
        mut membership: Membership,
        stock: (Option<Process>, u32),
    ) {
        let (name, node) = (membership.cluster.clone(), membership.node);
        let bound = self.settings.unknown_bound;
        let proven = self.is_proven(id);
        // It may have had another arbiter until now (safety 35).
        let unknown = || Cluster::new(Ledger::unknown(now));
        let cluster = self.clusters.entry(name.clone()).or_insert_with(unknown);
        cluster.joined.insert(node, id);
        cluster.rivals.remove(&node);
        cluster.seen.insert(node);
        cluster.proven |= proven;
        let (boot, said) = membership.hello.as_ref().map(|h| (h.boot, h.bound)).unzip();
        let ended = cluster.fencing.joins(now, node, boot.unwrap_or_default(), said);
        let lie = ended.filter(|ended| Some(*ended) == boot).map(|_| {
            format!(
                "node {node} is heard of the boot that was confirmed off: what proved it off, power \
                 device or operator, is not to be believed"
            )
        });
        if let Some(hello) = &membership.hello {
            cluster.ledger.hear_unknown_bound(Some(bound));
            cluster.ledger.wait_for_everyone();
            cluster.ledger.hear_epoch(node, hello.highest_epoch);
            if let Some(held) = hello.held.filter(|held| held.remaining_ms > 0) {
                cluster.ledger.present(now, node, (held.grant, held.view), bound);
            }
        } else {
            let process = stock.0.unwrap_or_else(|| cluster.new_process());
            if stock.0.is_some() {
                cluster.ledger.given_up(node, process);
            }
            membership.process = process;
            cluster.known.insert(node, Known { process, counter: stock.1, doubtful: false });
        }
        if let Some(text) = lie {
            self.actions.push_back(Action::Decided { cluster: name, text });
        }
        if let Some(client) = self.clients.get_mut(&id) {
            client.membership = Some(membership);
        }
        self.bind_stock(id, true);
    }

    /// Works out for how long a stock client may count the vote, from what it has said so far.
    fn bind_stock(&mut self, id: ClientId, joins: bool) {
        let Some(client) = self.clients.get_mut(&id).filter(|client| !client.is_own()) else {
            return;
        };
        let Some(membership) = &client.membership else { return };
        let (name, algorithm) = (membership.cluster.clone(), membership.algorithm);
        let rule = Rule::new(&self.settings, &name, algorithm, client.heartbeat_longest);
        client.rule = Some(rule);
        let said = self.settings.clusters.get(&name);
        let Some(cluster) = self.clusters.get_mut(&name) else { return };
        cluster.ledger.hear_unknown_bound(rule.unknown());
        if let Some(bound) = rule.recorded()
            && said.is_some_and(|said| {
                said.lms_without_wait_for_all || said.device_timeout_ms.is_some()
            })
        {
            cluster.ledger.limit_recorded(self.started + bound);
        }
        if let Some(text) = rule.warning(algorithm).filter(|_| joins) {
            self.actions.push_back(Action::Decided { cluster: name, text });
        }
    }

    fn set_option(&mut self, now: Time, id: ClientId, options: &Options) -> Result<(), Refusal> {
        let (name, _) = self.joined(id)?;
        let (min, max) = (self.settings.heartbeat_min_ms, self.settings.heartbeat_max_ms);
        let client = self.client_mut(id)?;
        if let Some(ms) = options.heartbeat_ms {
            if !(min..=max).contains(&ms) {
                return Err(ErrorCode::InvalidHeartbeatInterval);
            }
            client.set_heartbeat(ms);
        }
        if let Some(keep) = options.keep_active_partition {
            client.keep_active_partition = keep;
        }
        let mut reply = Message::new(MessageType::SetOptionReply, options.seq);
        reply.options.heartbeat_ms = options.heartbeat_ms;
        reply.options.keep_active_partition = options.keep_active_partition;
        self.bind_stock(id, false);
        self.hear_stock(id);
        self.send(id, &reply);
        // A longer heartbeat makes the bound longer.
        self.settle(now, &name);
        Ok(())
    }

    /// An echo is mirrored; with a renewal in it, it anchors the client's lease and, while the
    /// grant stands for the client, extends it.
    fn echo(
        &mut self,
        now: Time,
        id: ClientId,
        frame: &Frame,
        options: &Options,
    ) -> Result<(), Refusal> {
        self.check_joined(id)?;
        let mut extra = Options::default();
        let mut settle = None;
        if let (Some(renewal), Some(seq)) = (options.renewal, options.seq) {
            let client = self.client_mut(id)?;
            let shorter = options.worst_case_ms.is_some_and(|ms| client.shorten_worst_case(ms));
            settle = self.renewal(now, id, renewal, seq, &mut extra)?;
            if shorter {
                settle = Some(self.joined(id)?.0);
            }
        }
        // An unconfirmed stock loser hears nothing until it confirms or is closed (F6).
        let client = self.client_mut(id)?;
        let bytes = frame.echo_reply(&extra);
        if !client.is_own() && client.is_unconfirmed_loser() {
            client.withheld = Some(bytes);
        } else {
            client.answered = now;
            self.actions.push_back(Action::Send { client: id, bytes });
        }
        if let Some(name) = settle {
            self.settle(now, &name);
        }
        Ok(())
    }

    /// Anchors a client's leases at the sending of echo `seq`, and extends its lease of the
    /// current grant if it may go on. Adds what belongs into the reply to `extra`; returns the
    /// cluster if the client's return changes what is decided there.
    fn renewal(
        &mut self,
        now: Time,
        id: ClientId,
        renewal: Renewal,
        seq: u32,
        extra: &mut Options,
    ) -> Result<Option<ClusterName>, Refusal> {
        let client = self.clients.get_mut(&id).ok_or(ErrorCode::InternalError)?;
        let membership = client.membership.as_ref().ok_or(ErrorCode::InitRequired)?;
        let (name, node) = (&membership.cluster, membership.node);
        let cluster = self.clusters.get_mut(name).ok_or(ErrorCode::InternalError)?;
        let mut settle = client.anchor.is_none() || client.silent_at() <= now;
        client.anchor = Some(seq);
        client.renewed = now;
        cluster.ledger.hear_epoch(node, renewal.highest_epoch);
        extra.epoch = Some(cluster.ledger.epoch());
        let next = cluster.ledger.writing();
        let leaves =
            next.is_some_and(|next| !next.nodes.contains(&node)) || cluster.fencing.condemns(node);
        let asked = (renewal.grant, renewal.view);
        let stands = cluster.ledger.renewable(asked);
        let worst = client.worst_case().unwrap_or_default();
        match (client.told.map(|told| (told.vote, told.at)), stands) {
            (Some((Vote::Nack, _)), _) => {}
            (_, Some(terms)) if cluster.ledger.may_reissue(node) && !leaves => {
                cluster.ledger.renew(now, node, terms, worst);
                let (id, view, lease_ms) = (terms.grant, terms.view, terms.lease_ms);
                extra.grant = Some(Grant { id, view, lease_ms, anchor: seq });
            }
            // It was told yes and does not hold the lease: that yes came too late to be worth
            // anything, and is said again.
            (Some((Vote::Ack, at)), None) if now >= at + times::RENEWAL * 2 => {
                client.told = None;
                settle = true;
            }
            (_, Some(_) | None) => {}
        }
        Ok(settle.then(|| name.clone()))
    }

    fn node_list(&mut self, now: Time, id: ClientId, options: Options) -> Result<(), Refusal> {
        let (name, node) = self.joined(id)?;
        let list = options.list_type.ok_or(ErrorCode::RequiredOptionMissing)?;
        let seq = options.seq.ok_or(ErrorCode::RequiredOptionMissing)?;
        let vote = match list {
            NodeListType::InitialConfig | NodeListType::ChangedConfig => {
                self.config_list(now, id, node, list, options)?
            }
            NodeListType::Membership => self.membership_list(now, id, node, options)?,
            NodeListType::Quorum => self.quorum_list(now, id, &options)?,
        };
        self.settle(now, &name);
        let client = self.client_mut(id)?;
        // A vote info for this list may be on its way before the reply to it: "wait" behind it
        // would make a stock client stop casting that vote (wire 2.4, hazard 8.10).
        let is_told = vote == Vote::WaitForReply && client.told.is_some();
        let vote = if is_told { Vote::NoChange } else { vote };
        client.last_sent = Some(vote);
        let mut reply = Message::new(MessageType::NodeListReply, Some(seq));
        reply.options.list_type = Some(list);
        reply.options.ring = Some(client.ring());
        reply.options.vote = Some(vote);
        self.send(id, &reply);
        if list == NodeListType::Quorum {
            self.confirm(now, &name, id);
        }
        Ok(())
    }

    fn config_list(
        &mut self,
        now: Time,
        id: ClientId,
        node: NodeId,
        list: NodeListType,
        options: Options,
    ) -> Result<Vote, Refusal> {
        let client = self.client_mut(id)?;
        let algorithm = client.membership.as_ref().map(|m| m.algorithm);
        let algorithm = algorithm.ok_or(ErrorCode::InitRequired)?;
        let nodes = options.nodes.iter().map(|info| info.node).collect();
        check_config_list(algorithm, node, &nodes)?;
        if client.config_ids() != nodes {
            client.lists_since = now;
        }
        client.config = options.nodes;
        client.config_version = options.config_version;
        let members = !client.members.is_empty();
        // A list that changes nothing never takes a vote away (8.10).
        Ok(list_reply(algorithm, list, true, members).unwrap_or(Vote::NoChange))
    }

    fn membership_list(
        &mut self,
        now: Time,
        id: ClientId,
        node: NodeId,
        options: Options,
    ) -> Result<Vote, Refusal> {
        let client = self.client_mut(id)?;
        let algorithm = client.membership.as_ref().map(|m| m.algorithm);
        let algorithm = algorithm.ok_or(ErrorCode::InitRequired)?;
        let ring = options.ring.ok_or(ErrorCode::RequiredOptionMissing)?;
        let members = options.nodes.iter().map(|info| info.node).collect();
        check_membership_list(algorithm, node, &members)?;
        let nonce = options.view_note.map_or(0, |note| note.nonce);
        client.hear_view(now, ViewId { ring, nonce }, members.clone());
        client.sync_open = true;
        client.renewed = now;
        // The client waits for a vote of this ring, whatever it was told for another (2.4); and a
        // confirmation that has not been used is void (safety 6).
        client.told = None;
        client.membership_heuristics = options.heuristics.unwrap_or_default();
        client.hear_heuristics(options.heuristics.unwrap_or_default());
        let note = options.view_note;
        client.view_epoch = note.map(|note| note.epoch).unwrap_or_default();
        let config = !client.config.is_empty();
        let name = client.joined_cluster().ok_or(ErrorCode::InitRequired)?;
        if let Some(cluster) = self.clusters.get_mut(&name) {
            match note {
                Some(note) => cluster.ledger.hear_epoch(node, note.highest_epoch),
                None => {
                    cluster.ledger.hear_report(node);
                    cluster.ledger.void_release(node);
                }
            }
            cluster.ledger.hear_ring(now, &members);
        }
        self.hear_stock(id);
        let reply = list_reply(algorithm, NodeListType::Membership, config, true);
        Ok(reply.unwrap_or(Vote::WaitForReply))
    }

    fn quorum_list(&mut self, now: Time, id: ClientId, options: &Options) -> Result<Vote, Refusal> {
        let quorate = options.quorate.ok_or(ErrorCode::RequiredOptionMissing)?;
        let client = self.client_mut(id)?;
        client.quorate = Some(quorate);
        client.sync_open = false;
        client.renewed = now;
        // What the host counts is what it says, unless an ACK is on its way to it.
        let told = client.told.filter(|told| told.vote == Vote::Ack && !told.confirmed);
        client.host_counts = quorate || told.is_some();
        self.hear_stock(id);
        Ok(Vote::NoChange)
    }

    /// Correction: lms runs no decision for the one that asks; it is told its last vote again.
    fn ask_for_vote(&mut self, id: ClientId, options: &Options) -> Result<(), Refusal> {
        self.joined(id)?;
        let seq = options.seq.ok_or(ErrorCode::RequiredOptionMissing)?;
        let client = self.client_mut(id)?;
        let algorithm = client.membership.as_ref().map(|m| m.algorithm);
        let vote = match algorithm {
            Some(Algorithm::Ffsplit) => return Err(ErrorCode::UnsupportedDecisionAlgorithmMessage),
            Some(Algorithm::Test) => Vote::Ack,
            Some(Algorithm::Lms | Algorithm::TwoNodeLms) | None => {
                client.told.map_or(Vote::AskLater, |told| told.vote)
            }
        };
        client.last_sent = Some(vote);
        let mut reply = Message::new(MessageType::AskForVoteReply, Some(seq));
        reply.options.vote = Some(vote);
        reply.options.ring = Some(client.ring());
        self.send(id, &reply);
        Ok(())
    }

    fn vote_info_reply(
        &mut self,
        now: Time,
        id: ClientId,
        options: &Options,
    ) -> Result<(), Refusal> {
        let (name, _) = self.joined(id)?;
        let seq = options.seq.ok_or(ErrorCode::RequiredOptionMissing)?;
        let client = self.client_mut(id)?;
        if let Some(told) = client.told.as_mut().filter(|told| told.seq == seq && !told.confirmed) {
            told.confirmed = true;
            self.confirm(now, &name, id);
        }
        Ok(())
    }

    fn heuristics_change(
        &mut self,
        now: Time,
        id: ClientId,
        options: &Options,
    ) -> Result<(), Refusal> {
        let (name, _) = self.joined(id)?;
        let seq = options.seq.ok_or(ErrorCode::RequiredOptionMissing)?;
        let result = options.heuristics.ok_or(ErrorCode::RequiredOptionMissing)?;
        let client = self.client_mut(id)?;
        client.regular_heuristics = result;
        client.renewed = now;
        client.hear_heuristics(result);
        let algorithm = client.membership.as_ref().map(|m| m.algorithm);
        let (config, members) = (!client.config.is_empty(), !client.members.is_empty());
        let reply = algorithm.and_then(|algorithm| heuristics_reply(algorithm, config, members));
        let vote = reply.unwrap_or(Vote::NoChange);
        client.last_sent = Some(vote);
        self.settle(now, &name);
        let ring = self.client_mut(id)?.ring();
        let mut reply = Message::new(MessageType::HeuristicsChangeReply, Some(seq));
        reply.options.vote = Some(vote);
        reply.options.ring = Some(ring);
        reply.options.heuristics = Some(result).filter(|result| *result != Heuristics::Undefined);
        self.send(id, &reply);
        Ok(())
    }
}

/// Who is at the other end, if it has shown a certificate.
fn identity_of(client: &Client) -> Option<&Peer> {
    match &client.transport {
        Transport::Secure(peer) => peer.as_ref(),
        Transport::Plain | Transport::Handshaking => None,
    }
}
