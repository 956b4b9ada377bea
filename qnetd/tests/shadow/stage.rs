//! A machine of shadow mode with scripted clients, and a stock arbiter that says what the test
//! wants it to say.

use std::time::Duration;

use protocol::ids::{ArbiterId, BootId, ClusterName, NodeId, RingId};
use protocol::qnet::{
    Deframer, ErrorCode, Frame, Message, MessageType, NodeInfo, NodeListType, TlsSupport, numbers,
    stock_options, supported_messages,
};
use protocol::time::Time;
use protocol::vote::{Algorithm, Heuristics, TieBreaker, Vote};
use qnetd::core::{Memory, Settings};
use qnetd::shadow::core::{Action, Difference, Event, PairId, Shadow};

pub(crate) const CLUSTER: &str = "c";

/// Less than the heartbeat interval that every client says.
const ECHOES: Duration = Duration::from_secs(5);

/// What every client of a test has in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) algorithm: Algorithm,
    pub(crate) config: &'static [u32],
    pub(crate) tie_breaker: TieBreaker,
}

pub(crate) struct Stage {
    pub(crate) shadow: Shadow,
    pub(crate) now: Time,
    plan: Plan,
    seq: u32,
    vote_infos: u32,
    nodes: Vec<u32>,
    pub(crate) reports: Vec<Difference>,
    pub(crate) agreed: Vec<NodeId>,
}

pub(crate) fn frame(message: &Message) -> Frame {
    Deframer::new(1 << 20).feed(&message.encode()).1.unwrap().unwrap()
}

fn infos(nodes: &[u32]) -> Vec<NodeInfo> {
    let info = |node: &u32| NodeInfo { node: NodeId(*node), data_center: 0, state: None };
    nodes.iter().map(info).collect()
}

/// Each node has one connection, of its own number.
fn pair(node: u32) -> PairId {
    PairId(u64::from(node))
}

impl Stage {
    /// An arbiter beside, for which old leases that nothing is known of run out after a second.
    pub(crate) fn new(plan: Plan) -> Self {
        Self::with_unknown_bound(plan, Duration::from_secs(1))
    }

    pub(crate) fn with_unknown_bound(plan: Plan, unknown_bound: Duration) -> Self {
        let now = Time::from_millis(1000);
        let settings = Settings { unknown_bound, ..Settings::default() };
        let memory =
            Memory { arbiter: ArbiterId(7), boot: 1, host_boot: BootId(1), ..Memory::default() };
        Self {
            shadow: Shadow::new(now, settings, memory),
            now,
            plan,
            seq: 1,
            vote_infos: 0,
            nodes: Vec::new(),
            reports: Vec::new(),
            agreed: Vec::new(),
        }
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.shadow.handle(self.now, event);
        while let Some(action) = self.shadow.next_action() {
            match action {
                Action::Report(difference) => self.reports.push(*difference),
                Action::Agreed { node, .. } => self.agreed.push(node),
                Action::Decided { .. } => {}
            }
        }
    }

    /// Time passes, and every client says its echoes.
    pub(crate) fn pass(&mut self, ms: u64) {
        let end = self.now + Duration::from_millis(ms);
        while self.now < end {
            for node in self.nodes.clone() {
                self.says(node, &Message::new(MessageType::EchoRequest, Some(1)));
            }
            self.pass_until(end.min(self.now + ECHOES));
        }
    }

    fn pass_until(&mut self, end: Time) {
        while let Some(due) = self.shadow.deadline().filter(|due| *due <= end) {
            assert!(due >= self.now, "a deadline in the past: {due} at {}", self.now);
            self.now = due;
            self.event(Event::Timeout);
            assert_ne!(self.shadow.deadline(), Some(due), "a deadline that does not move");
        }
        self.now = end;
    }

    pub(crate) fn says(&mut self, node: u32, message: &Message) {
        self.event(Event::FromClient { pair: pair(node), frame: frame(message) });
    }

    pub(crate) fn hears(&mut self, node: u32, message: &Message) {
        self.event(Event::FromStock { pair: pair(node), frame: frame(message) });
    }

    fn request(&mut self, kind: MessageType) -> Message {
        self.seq += 1;
        Message::new(kind, Some(self.seq))
    }

    fn list(&mut self, list: NodeListType, nodes: &[u32]) -> Message {
        let mut message = self.request(MessageType::NodeList);
        message.options.list_type = Some(list);
        message.options.nodes = infos(nodes);
        message
    }

    /// A node connects and does Init, which the stock arbiter takes; then it says its
    /// configuration.
    pub(crate) fn joins(&mut self, node: u32) {
        self.nodes.push(node);
        self.greets(node, node, self.seq, ErrorCode::NoError);
        let config = self.list(NodeListType::InitialConfig, self.plan.config);
        self.says(node, &config);
        let vote = match self.plan.algorithm {
            Algorithm::Ffsplit => Vote::AskLater,
            Algorithm::Test | Algorithm::Lms | Algorithm::TwoNodeLms => Vote::NoChange,
        };
        self.answers(node, NodeListType::InitialConfig, RingId::new(node, 1), vote);
    }

    /// Another process says on this connection that it is a node that is connected, and the stock
    /// arbiter refuses it.
    pub(crate) fn is_refused(&mut self, connection: u32, node: u32) {
        self.greets(connection, node, 1, ErrorCode::DuplicateNodeId);
        self.leaves(connection);
    }

    /// Preinit with a sequence number, and Init, which is answered so.
    fn greets(&mut self, connection: u32, node: u32, seq: u32, answer: ErrorCode) {
        let address = format!("10.0.0.{connection}:1000");
        self.event(Event::Opened { pair: pair(connection), address });
        let mut preinit = Message::new(MessageType::Preinit, Some(seq));
        preinit.options.cluster_name = Some(ClusterName::from(CLUSTER));
        self.says(connection, &preinit);
        let mut reply = Message::new(MessageType::PreinitReply, preinit.options.seq);
        reply.options.tls_supported = Some(TlsSupport::Unsupported);
        reply.options.tls_client_cert_required = Some(1);
        self.hears(connection, &reply);
        let mut init = self.request(MessageType::Init);
        init.options.supported_messages = Some(supported_messages());
        init.options.supported_options = Some(stock_options());
        init.options.node_id = Some(node);
        init.options.algorithm = Some(numbers::algorithm_number(self.plan.algorithm));
        init.options.heartbeat_ms = Some(8000);
        init.options.tie_breaker = Some(self.plan.tie_breaker);
        init.options.ring = Some(RingId::new(node, 1));
        self.says(connection, &init);
        let mut reply = Message::new(MessageType::InitReply, init.options.seq);
        reply.options.error_code = Some(answer as u16);
        self.hears(connection, &reply);
    }

    /// A node reports a membership, and the stock arbiter answers it so.
    pub(crate) fn reports(&mut self, node: u32, members: &[u32], seq: u64, vote: Vote) {
        self.reports_with(node, members, seq, Heuristics::Undefined, vote);
    }

    pub(crate) fn reports_with(
        &mut self,
        node: u32,
        members: &[u32],
        seq: u64,
        heuristics: Heuristics,
        vote: Vote,
    ) {
        let ring = RingId::new(members[0], seq);
        let mut list = self.list(NodeListType::Membership, members);
        list.options.ring = Some(ring);
        list.options.heuristics = Some(heuristics).filter(|h| *h != Heuristics::Undefined);
        self.says(node, &list);
        self.answers(node, NodeListType::Membership, ring, vote);
    }

    fn answers(&mut self, node: u32, list: NodeListType, ring: RingId, vote: Vote) {
        let mut reply = Message::new(MessageType::NodeListReply, Some(self.seq));
        reply.options.list_type = Some(list);
        reply.options.ring = Some(ring);
        reply.options.vote = Some(vote);
        self.hears(node, &reply);
    }

    /// A node's heuristics change, and the stock arbiter answers "no change".
    pub(crate) fn finds(&mut self, node: u32, result: Heuristics, ring: RingId) {
        let mut change = self.request(MessageType::HeuristicsChange);
        change.options.heuristics = Some(result);
        self.says(node, &change);
        let mut reply = Message::new(MessageType::HeuristicsChangeReply, Some(self.seq));
        reply.options.heuristics = Some(result);
        reply.options.ring = Some(ring);
        reply.options.vote = Some(Vote::NoChange);
        self.hears(node, &reply);
    }

    /// The stock arbiter tells a node a vote, the node confirms it, and its host says whether it
    /// is quorate now.
    pub(crate) fn told(&mut self, node: u32, ring: RingId, vote: Vote, quorate: bool) {
        self.vote_infos += 1;
        let mut info = Message::new(MessageType::VoteInfo, Some(self.vote_infos));
        info.options.vote = Some(vote);
        info.options.ring = Some(ring);
        self.hears(node, &info);
        self.says(node, &Message::new(MessageType::VoteInfoReply, Some(self.vote_infos)));
        self.quorate(node, ring, quorate);
    }

    pub(crate) fn quorate(&mut self, node: u32, ring: RingId, quorate: bool) {
        let mut list = self.list(NodeListType::Quorum, self.plan.config);
        list.options.quorate = Some(quorate);
        self.says(node, &list);
        // lms answers it with the result of a run, which changes nothing in these scripts.
        self.answers(node, NodeListType::Quorum, ring, Vote::NoChange);
    }

    pub(crate) fn leaves(&mut self, node: u32) {
        self.nodes.retain(|other| *other != node);
        self.event(Event::Closed { pair: pair(node) });
    }

    /// All nodes report one ring, and the stock ffsplit gives them the vote.
    pub(crate) fn together(&mut self) {
        let nodes = self.plan.config;
        let ring = RingId::new(nodes[0], 4);
        nodes.iter().for_each(|node| self.joins(*node));
        let (last, rest) = nodes.split_last().unwrap();
        rest.iter().for_each(|node| self.reports(*node, nodes, 4, Vote::WaitForReply));
        self.reports(*last, nodes, 4, Vote::NoChange);
        nodes.iter().for_each(|node| self.told(*node, ring, Vote::Ack, true));
        self.pass(5000);
        assert_eq!(self.lines(), Vec::<String>::new());
    }

    /// The reports so far, as lines.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.reports.iter().map(ToString::to_string).collect()
    }
}
