//! An arbiter that is not the cluster's (safety 11, 38), and corosync-qnetd as our device meets it
//! (safety 8): it gives its vote to whoever is with the lowest node that it hears, and remembers
//! nothing. Stays a model: our own arbiter would find out that it is the wrong one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use protocol::ids::{ArbiterId, Epoch, GrantId, NodeId, RingId, ViewId};
use protocol::qnet::{
    ArbiterHello, ErrorCode, Frame, Grant, Message, MessageType, NodeListType, TlsSupport,
    stock_options, supported_messages,
};
use protocol::time::Time;
use protocol::times;
use protocol::vote::Vote;

use crate::network::Segment;
use crate::scenario::{End, OtherArbiter, Process};
use crate::world::World;

/// The identity of the other arbiter, where it is one of ours.
const IDENTITY: ArbiterId = ArbiterId(0x0a11);
/// corosync-qnetd finds a client dead after one and a half heartbeats (wire 3.1).
const DEAD_PERCENT: u32 = 120;

/// One client of it.
#[derive(Debug)]
struct Client {
    kind: OtherArbiter,
    node: NodeId,
    heard: Time,
    members: BTreeSet<NodeId>,
    view: ViewId,
    anchor: u32,
    told: Option<(RingId, Vote)>,
    infos: u32,
}

/// Which nodes it has taken in, and what it knows of them.
#[derive(Debug, Default)]
pub(crate) struct Others {
    misled: BTreeMap<NodeId, OtherArbiter>,
    clients: BTreeMap<u64, Client>,
}

impl World {
    /// A node's way to the arbiter begins or ends to lead to another one.
    pub(crate) fn mislead(&mut self, node: NodeId, kind: OtherArbiter, begins: bool) {
        if begins {
            self.models.others.misled.insert(node, kind);
        } else {
            self.models.others.misled.remove(&node);
        }
        // The connection breaks at both ends.
        if let Some(stream) = self.hosts.get(&node).and_then(|host| host.stream) {
            self.reset(stream, true);
            self.reset(stream, false);
            self.models.others.clients.remove(&stream);
        }
    }

    /// A new stream of a node: whether it leads to the other arbiter.
    pub(crate) fn other_takes(&mut self, stream: u64, node: NodeId) -> bool {
        let Some(kind) = self.models.others.misled.get(&node).copied() else { return false };
        let heard = self.now;
        let client = Client {
            kind,
            node,
            heard,
            members: BTreeSet::new(),
            view: ViewId::default(),
            anchor: 0,
            told: None,
            infos: 0,
        };
        self.models.others.clients.insert(stream, client);
        true
    }

    /// The stream is one of the other arbiter's.
    pub(crate) fn is_other(&self, stream: u64) -> bool {
        self.models.others.clients.contains_key(&stream)
    }

    /// Something has come to the other arbiter.
    pub(crate) fn other_hears(&mut self, stream: u64, segment: Segment) {
        let now = self.now;
        if let Some(client) = self.models.others.clients.get_mut(&stream) {
            client.heard = now;
        }
        match segment {
            Segment::Bytes(bytes) => {
                for frame in self.frames(stream, true, &bytes).into_iter().flatten() {
                    self.other_answers(stream, &frame);
                }
            }
            Segment::TlsHello => self.send_segment(stream, false, Segment::TlsDone),
            Segment::Fin => {
                self.models.others.clients.remove(&stream);
            }
            Segment::TlsDone => {}
        }
        self.others_look();
    }

    fn other_answers(&mut self, stream: u64, frame: &Frame) {
        let (Ok(message), Some(client)) =
            (Message::decode(frame), self.models.others.clients.get_mut(&stream))
        else {
            return;
        };
        if let Some(reply) = client.answer(message) {
            self.send_segment(stream, false, Segment::Bytes(reply.encode()));
        }
    }

    /// Tells everybody what has changed.
    pub(crate) fn others_look(&mut self) {
        if self.models.others.clients.is_empty() {
            return;
        }
        let (now, network) = (self.now, &self.network);
        let open = |stream: &u64| network.streams.get(stream).is_some_and(|s| s.server_open);
        let dead_after = times::DEVICE_TIMEOUT * DEAD_PERCENT / 100;
        let clients = &mut self.models.others.clients;
        clients.retain(|stream, client| open(stream) && now < client.heard + dead_after);
        let lowest = clients.values().filter(|c| !c.members.is_empty()).map(|c| c.node).min();
        let mut out = Vec::new();
        for (stream, client) in clients.iter_mut().filter(|(_, c)| !c.members.is_empty()) {
            let holds = lowest.is_some_and(|lowest| client.members.contains(&lowest));
            let vote = if holds { Vote::Ack } else { Vote::Nack };
            if let Some(message) = client.tell(vote) {
                out.push((*stream, End::Node(client.node), vote, message));
            }
        }
        for (stream, node, vote, message) in out {
            self.monitor.note(now, "other", format_args!("tells {node} {vote}"));
            self.trace.line(now, Process::Arbiter, format_args!("(other) tells {node} {vote}"));
            self.send_segment(stream, false, Segment::Bytes(message.encode()));
        }
    }
}

impl Client {
    fn answer(&mut self, message: Message) -> Option<Message> {
        let said = message.options;
        let reply = |kind| Message::new(kind, said.seq);
        Some(match message.kind {
            MessageType::Preinit => {
                let mut reply = reply(MessageType::PreinitReply);
                reply.options.tls_supported = Some(TlsSupport::Required);
                reply.options.tls_client_cert_required = Some(1);
                reply
            }
            MessageType::Init => {
                let mut reply = reply(MessageType::InitReply);
                reply.options.error_code = Some(ErrorCode::NoError as u16);
                reply.options.supported_messages = Some(supported_messages());
                reply.options.supported_options = Some(stock_options());
                reply.options.max_request_bytes = Some(protocol::qnet::MESSAGE_LIMIT_BYTES);
                reply.options.max_reply_bytes = Some(protocol::qnet::MESSAGE_LIMIT_BYTES);
                reply.options.supported_algorithms = Some((0..=3).collect());
                let hello = ArbiterHello { id: IDENTITY, boot: 1 };
                reply.options.arbiter_hello = Some(hello).filter(|_| self.is_own());
                reply
            }
            MessageType::SetOption => {
                let mut reply = reply(MessageType::SetOptionReply);
                reply.options.keep_active_partition = said.keep_active_partition;
                reply
            }
            MessageType::NodeList => {
                let mut reply = reply(MessageType::NodeListReply);
                reply.options.list_type = said.list_type;
                reply.options.ring = said.ring.or(Some(self.view.ring));
                let is_view = said.list_type == Some(NodeListType::Membership);
                reply.options.vote =
                    Some(if is_view { Vote::WaitForReply } else { Vote::NoChange });
                if let (true, Some(ring)) = (is_view, said.ring) {
                    let nonce = said.view_note.map_or(0, |note| note.nonce);
                    self.view = ViewId { ring, nonce };
                    self.members = said.nodes.iter().map(|info| info.node).collect();
                }
                reply
            }
            MessageType::EchoRequest => {
                self.anchor = said.seq.unwrap_or(0);
                // What it does not know comes back as it was (safety 8).
                let grant = self.grant();
                let mut reply = Message { kind: MessageType::EchoReply, options: said };
                reply.options.grant = grant.or(reply.options.grant);
                reply
            }
            MessageType::HeuristicsChange => {
                let mut reply = reply(MessageType::HeuristicsChangeReply);
                reply.options.vote = Some(Vote::NoChange);
                reply.options.ring = Some(self.view.ring);
                reply
            }
            MessageType::PreinitReply
            | MessageType::StartTls
            | MessageType::InitReply
            | MessageType::ServerError
            | MessageType::SetOptionReply
            | MessageType::EchoReply
            | MessageType::NodeListReply
            | MessageType::AskForVote
            | MessageType::AskForVoteReply
            | MessageType::VoteInfo
            | MessageType::VoteInfoReply
            | MessageType::HeuristicsChangeReply => return None,
        })
    }

    fn is_own(&self) -> bool {
        self.kind == OtherArbiter::Own
    }

    /// The lease that goes with a yes, of one of ours.
    fn grant(&self) -> Option<Grant> {
        let yes = self.is_own() && self.told == Some((self.view.ring, Vote::Ack));
        yes.then(|| self.any_grant())
    }

    fn any_grant(&self) -> Grant {
        let lease = Duration::as_millis(&times::SOLO_LEASE);
        Grant {
            id: GrantId { arbiter: IDENTITY, boot: 1, epoch: Epoch(self.view.ring.seq) },
            view: self.view,
            lease_ms: u32::try_from(lease).unwrap_or(u32::MAX),
            anchor: self.anchor,
        }
    }

    /// The vote info for a vote that is new.
    fn tell(&mut self, vote: Vote) -> Option<Message> {
        let news = Some((self.view.ring, vote));
        if self.told == news {
            return None;
        }
        self.told = news;
        self.infos += 1;
        let mut message = Message::new(MessageType::VoteInfo, Some(self.infos));
        message.options.vote = Some(vote);
        message.options.ring = Some(self.view.ring);
        message.options.grant = Some(self.any_grant()).filter(|_| self.grant().is_some());
        Some(message)
    }
}
