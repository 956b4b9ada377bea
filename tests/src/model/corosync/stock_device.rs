//! corosync-qdevice 3.0.3 by its own timers and its own order of words (wire 2, 3.1, 5), without
//! heuristics. Stays a model: the tests with the real daemons show that it is one.

use std::time::Duration;

use protocol::ids::{ClusterName, NodeId, RingId};
use protocol::qnet::{
    Message, MessageType, NodeInfo, NodeListType, Options, numbers, stock_options,
    supported_messages,
};
use protocol::time::Time;
use protocol::times;
use protocol::vote::{Algorithm, TieBreaker, Vote};

/// A process that was refused tries again after this; one that lost its connection, up to this.
const RECONNECT: Duration = Duration::from_millis(4500);

/// What a device wants done.
#[derive(Clone, Debug)]
pub(super) enum Duty {
    /// votequorum_qdevice_poll.
    Poll(RingId, bool),
    Connect,
    Send(Box<Message>),
    Close,
}

/// How far the conversation has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    Down { until: Time },
    Connecting,
    Greeting,
    Up,
}

/// One process.
#[derive(Clone, Debug)]
pub(super) struct StockDevice {
    cluster: ClusterName,
    node: NodeId,
    config: Vec<NodeId>,
    algorithm: Algorithm,
    tie_breaker: TieBreaker,
    heartbeat: Duration,
    /// Lives as long as the process (wire 2.2).
    counter: u32,
    echo: u32,
    stage: Stage,
    echo_at: Time,
    unanswered: bool,
    /// What is cast; nothing while the arbiter's word is waited for.
    vote: Option<bool>,
    poll_at: Time,
    ring: RingId,
    members: Vec<NodeId>,
    quorate: Option<bool>,
    reconnects: u32,
    pub(super) duties: Vec<Duty>,
}

impl StockDevice {
    pub(super) fn new(
        now: Time,
        cluster: &ClusterName,
        node: NodeId,
        config: Vec<NodeId>,
        (algorithm, tie_breaker): (Algorithm, TieBreaker),
        heartbeat: Duration,
    ) -> Self {
        Self {
            cluster: cluster.clone(),
            node,
            config,
            algorithm,
            tie_breaker,
            heartbeat,
            counter: 0,
            echo: 0,
            stage: Stage::Down { until: now },
            echo_at: Time::NEVER,
            unanswered: false,
            vote: None,
            poll_at: Time::NEVER,
            ring: RingId::default(),
            members: Vec::new(),
            quorate: None,
            reconnects: 0,
            duties: Vec::new(),
        }
    }

    fn send(&mut self, kind: MessageType, options: Options) {
        self.duties.push(Duty::Send(Box::new(Message { kind, options })));
    }

    fn next_seq(&mut self) -> Option<u32> {
        self.counter += 1;
        Some(self.counter)
    }

    /// votequorum's nodelist callback: the membership change begins.
    pub(super) fn ring_begins(&mut self, now: Time, ring: RingId, members: &[NodeId]) {
        (self.ring, self.members) = (ring, members.to_vec());
        if self.stage == Stage::Up {
            self.vote = None;
            self.send_membership();
        } else {
            if !self.keeps_vote() {
                self.vote = Some(false);
            }
            self.poll(now);
        }
    }

    /// votequorum's quorum callback.
    pub(super) fn quorum(&mut self, quorate: bool) {
        self.quorate = Some(quorate);
        if self.stage == Stage::Up {
            self.send_quorum();
        }
    }

    /// lms with wait_for_all and 2nodelms keep the vote when they lose the arbiter (8.5).
    fn keeps_vote(&self) -> bool {
        matches!(self.algorithm, Algorithm::Lms | Algorithm::TwoNodeLms)
    }

    fn poll(&mut self, now: Time) {
        let Some(vote) = self.vote else { return };
        self.poll_at = now + times::DEVICE_TIMEOUT / 2;
        self.duties.push(Duty::Poll(self.ring, vote));
    }

    pub(super) fn opened(&mut self) {
        if self.stage != Stage::Connecting {
            return;
        }
        self.stage = Stage::Greeting;
        let seq = self.next_seq();
        let cluster_name = Some(self.cluster.clone());
        self.send(MessageType::Preinit, Options { seq, cluster_name, ..Options::default() });
    }

    /// The connection is gone, or could not be made.
    pub(super) fn lose(&mut self, now: Time) {
        if matches!(self.stage, Stage::Down { .. }) {
            return;
        }
        self.duties.push(Duty::Close);
        let was_up = self.stage == Stage::Up;
        self.reconnects += 1;
        // It is drawn by chance from 0 to 0.45 T; each node and attempt has its own here.
        let share = (self.reconnects * 7 + self.node.0 * 3) % 10;
        self.stage = Stage::Down { until: now + RECONNECT * share / 10 };
        (self.unanswered, self.echo_at) = (false, Time::NEVER);
        if was_up && !self.keeps_vote() {
            self.vote = Some(false);
            self.poll(now);
        }
    }

    pub(super) fn hear(&mut self, now: Time, message: &Message) {
        let options = &message.options;
        match message.kind {
            MessageType::PreinitReply => self.init(),
            MessageType::InitReply if options.error_code == Some(0) => {
                self.stage = Stage::Up;
                self.echo = 0;
                self.echo_at = now + self.heartbeat;
                self.vote = self.vote.filter(|_| self.keeps_vote());
                self.send_lists();
            }
            MessageType::InitReply | MessageType::ServerError => self.lose(now),
            MessageType::EchoReply => self.unanswered = false,
            MessageType::NodeListReply => self.vote_comes(now, options),
            MessageType::VoteInfo => {
                self.vote_comes(now, options);
                // Whatever became of it (8.12).
                let reply = Options { seq: options.seq, ..Options::default() };
                self.send(MessageType::VoteInfoReply, reply);
            }
            MessageType::Preinit
            | MessageType::StartTls
            | MessageType::Init
            | MessageType::SetOption
            | MessageType::SetOptionReply
            | MessageType::EchoRequest
            | MessageType::NodeList
            | MessageType::AskForVote
            | MessageType::AskForVoteReply
            | MessageType::VoteInfoReply
            | MessageType::HeuristicsChange
            | MessageType::HeuristicsChangeReply => {}
        }
    }

    fn vote_comes(&mut self, now: Time, options: &Options) {
        if options.ring != Some(self.ring) {
            return;
        }
        match options.vote {
            Some(Vote::Ack) => self.vote = Some(true),
            Some(Vote::Nack) => self.vote = Some(false),
            Some(Vote::WaitForReply | Vote::AskLater) => self.vote = None,
            Some(Vote::NoChange) | None => return,
        }
        self.poll(now);
    }

    fn init(&mut self) {
        let heartbeat_ms = u32::try_from(self.heartbeat.as_millis()).unwrap_or(u32::MAX);
        let options = Options {
            seq: self.next_seq(),
            supported_messages: Some(supported_messages()),
            supported_options: Some(stock_options()),
            node_id: Some(self.node.0),
            algorithm: Some(numbers::algorithm_number(self.algorithm)),
            heartbeat_ms: Some(heartbeat_ms),
            tie_breaker: Some(self.tie_breaker),
            ring: Some(self.ring),
            ..Options::default()
        };
        self.send(MessageType::Init, options);
    }

    fn list(&mut self, list: NodeListType, nodes: &[NodeId]) -> Options {
        let info = |node: &NodeId| NodeInfo { node: *node, data_center: 0, state: None };
        Options {
            seq: self.next_seq(),
            list_type: Some(list),
            nodes: nodes.iter().map(info).collect(),
            ..Options::default()
        }
    }

    fn send_lists(&mut self) {
        let config = self.config.clone();
        let options = self.list(NodeListType::InitialConfig, &config);
        self.send(MessageType::NodeList, options);
        self.send_membership();
        self.send_quorum();
    }

    fn send_membership(&mut self) {
        let members = self.members.clone();
        let mut options = self.list(NodeListType::Membership, &members);
        options.ring = Some(self.ring);
        self.send(MessageType::NodeList, options);
    }

    fn send_quorum(&mut self) {
        let Some(quorate) = self.quorate else { return };
        let members = self.members.clone();
        let mut options = self.list(NodeListType::Quorum, &members);
        options.quorate = Some(quorate);
        self.send(MessageType::NodeList, options);
    }

    /// Does what is due.
    pub(super) fn pass(&mut self, now: Time) {
        if let Stage::Down { until } = self.stage
            && now >= until
            && !self.members.is_empty()
        {
            self.stage = Stage::Connecting;
            self.echo_at = now + self.heartbeat;
            self.duties.push(Duty::Connect);
        }
        if self.vote.is_some() && now >= self.poll_at {
            self.poll(now);
        }
        if now < self.echo_at {
            return;
        }
        if self.stage != Stage::Up || self.unanswered {
            self.lose(now);
            return;
        }
        self.echo_at = now + self.heartbeat;
        self.unanswered = true;
        self.echo += 1;
        let seq = Some(self.echo);
        self.send(MessageType::EchoRequest, Options { seq, ..Options::default() });
    }
}
