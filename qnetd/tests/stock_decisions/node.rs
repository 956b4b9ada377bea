//! A scripted client with a host behind it, as far as an arbiter can tell them from the stock
//! qdevice on corosync: it confirms every vote info, casts the vote it was told, and its host says
//! in a quorum list what came of it (wire 2.4, 5).

use protocol::ids::{ClusterName, NodeId, RingId};
use protocol::qnet::{
    Message, MessageType, NodeInfo, NodeListType, NodeState, numbers, stock_options,
    supported_messages,
};
use protocol::vote::{Algorithm, Heuristics, TieBreaker, Vote};

/// The stock lms decides a quarter of it later where it has to wait; less than the default 8 s, so
/// that the stories need not wait for as long.
const HEARTBEAT_MS: u32 = 3000;

/// What all nodes of a story have in common.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) algorithm: Algorithm,
    pub(crate) config: Vec<u32>,
    pub(crate) tie_breaker: TieBreaker,
    pub(crate) keep_active_partition: bool,
}

/// What of a step's votes an answer shows.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shown {
    /// What the vote became, one after the other.
    Changes,
    /// What it became in the end.
    Last,
    /// Every vote of every message.
    Messages,
}

/// One node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: u32,
    plan: Plan,
    config: Vec<u32>,
    members: Vec<u32>,
    ring: RingId,
    seq: u32,
    has_sent_config: bool,
    /// The host waits for the vote before it ends a membership change.
    in_sync: bool,
    /// The host counts the vote.
    casts: bool,
    quorate: bool,
    /// The last vote that the arbiter's messages led to.
    vote: Vote,
    /// It has reported a membership in this step.
    reported: bool,
    /// What its vote became in this step.
    votes: Vec<String>,
    /// Every vote of every message in this step.
    messages: Vec<String>,
}

impl Node {
    pub(crate) fn new(id: u32, plan: &Plan) -> Self {
        Self {
            id,
            config: plan.config.clone(),
            plan: plan.clone(),
            members: Vec::new(),
            ring: RingId::new(id, 1),
            seq: 0,
            has_sent_config: false,
            in_sync: false,
            casts: false,
            quorate: false,
            vote: Vote::WaitForReply,
            reported: false,
            votes: Vec::new(),
            messages: Vec::new(),
        }
    }

    pub(crate) fn message(&mut self, kind: MessageType) -> Message {
        self.seq += 1;
        Message::new(kind, Some(self.seq))
    }

    /// Another process: it counts its messages from the start.
    pub(crate) fn restarts(&mut self) {
        self.seq = 0;
    }

    /// The greeting: Preinit with the last number used, Init, and what is to be kept (wire 2.1).
    pub(crate) fn greeting(&mut self) -> Vec<Message> {
        self.seq = self.seq.max(1);
        let mut preinit = Message::new(MessageType::Preinit, Some(self.seq));
        preinit.options.cluster_name = Some(ClusterName::from("story"));
        let mut greeting = vec![preinit, self.init()];
        if self.plan.keep_active_partition {
            let mut keep = self.message(MessageType::SetOption);
            keep.options.keep_active_partition = Some(true);
            greeting.push(keep);
        }
        self.has_sent_config = false;
        self.vote = Vote::WaitForReply;
        greeting
    }

    pub(crate) fn init(&mut self) -> Message {
        let mut init = self.message(MessageType::Init);
        init.options.supported_messages = Some(supported_messages());
        init.options.supported_options = Some(stock_options());
        init.options.node_id = Some(self.id);
        init.options.algorithm = Some(numbers::algorithm_number(self.plan.algorithm));
        init.options.heartbeat_ms = Some(HEARTBEAT_MS);
        init.options.tie_breaker = Some(self.plan.tie_breaker);
        init.options.ring = Some(self.ring);
        init
    }

    /// The connection is gone: ffsplit gives the vote up, lms too where the host does not wait for
    /// all, 2nodelms does not (wire 4.6).
    pub(crate) fn disconnected(&mut self) {
        if self.plan.algorithm != Algorithm::TwoNodeLms {
            self.casts = false;
        }
        self.quorate = self.is_quorate();
    }

    /// Its host has formed this ring; Init names it too.
    pub(crate) fn forms(&mut self, members: &[u32], ring: RingId) {
        self.members = members.to_vec();
        self.ring = ring;
    }

    /// The lists that follow: all of them on a new connection, else the one that has changed.
    pub(crate) fn report(&mut self, heuristics: Heuristics) -> Vec<Message> {
        let mut lists = Vec::new();
        let is_new = !self.has_sent_config;
        if is_new {
            lists.push(self.config_list(NodeListType::InitialConfig));
        }
        let mut list = self.list(NodeListType::Membership, &self.members.clone());
        list.options.ring = Some(self.ring);
        list.options.heuristics = Some(heuristics).filter(|h| *h != Heuristics::Undefined);
        lists.push(list);
        if is_new {
            lists.push(self.quorum_list());
        }
        self.in_sync = !is_new;
        self.vote = Vote::WaitForReply;
        self.reported = true;
        self.votes = vec![vote_text(self.vote).to_owned()];
        lists
    }

    pub(crate) fn configure(&mut self, nodes: &[u32]) -> Message {
        self.config = nodes.to_vec();
        let kind = if self.has_sent_config {
            NodeListType::ChangedConfig
        } else {
            NodeListType::InitialConfig
        };
        self.config_list(kind)
    }

    fn config_list(&mut self, kind: NodeListType) -> Message {
        self.has_sent_config = true;
        self.list(kind, &self.config.clone())
    }

    pub(crate) fn quorum_list(&mut self) -> Message {
        let quorate = self.quorate;
        let mut list = self.list(NodeListType::Quorum, &self.config.clone());
        list.options.quorate = Some(quorate);
        for info in &mut list.options.nodes {
            let is_member = self.members.contains(&info.node.0);
            info.state = Some(if is_member { NodeState::Member } else { NodeState::Dead });
        }
        list
    }

    fn list(&mut self, kind: NodeListType, nodes: &[u32]) -> Message {
        let mut message = self.message(MessageType::NodeList);
        message.options.list_type = Some(kind);
        let info = |node: &u32| NodeInfo { node: NodeId(*node), data_center: 0, state: None };
        message.options.nodes = nodes.iter().map(info).collect();
        message
    }

    /// Takes a message in; returns what the client says to it.
    pub(crate) fn hear(&mut self, message: &Message) -> Vec<Message> {
        let options = &message.options;
        match message.kind {
            MessageType::VoteInfo => {
                self.messages.push(format!("told {}", vote_text(options.vote.unwrap())));
                let reply = Message::new(MessageType::VoteInfoReply, options.seq);
                [Some(reply), self.apply(message)].into_iter().flatten().collect()
            }
            MessageType::NodeListReply
            | MessageType::AskForVoteReply
            | MessageType::HeuristicsChangeReply => {
                let vote = options.vote.unwrap();
                if options.list_type != Some(NodeListType::Quorum) || vote != Vote::NoChange {
                    self.messages.push(format!("answered {}", vote_text(vote)));
                }
                self.apply(message).into_iter().collect()
            }
            MessageType::InitReply | MessageType::ServerError => {
                let code = options.error_code.unwrap_or_default();
                if code != 0 {
                    self.note(&format!("error {code}"));
                }
                Vec::new()
            }
            MessageType::PreinitReply | MessageType::SetOptionReply | MessageType::EchoReply => {
                Vec::new()
            }
            MessageType::Preinit
            | MessageType::StartTls
            | MessageType::Init
            | MessageType::SetOption
            | MessageType::EchoRequest
            | MessageType::NodeList
            | MessageType::AskForVote
            | MessageType::VoteInfoReply
            | MessageType::HeuristicsChange => panic!("an arbiter said {message:?}"),
        }
    }

    /// Something other than a vote, for the answer of the step.
    pub(crate) fn note(&mut self, text: &str) {
        self.votes.push(text.to_owned());
        self.messages.push(text.to_owned());
    }

    /// A vote counts if it is for the ring that was sent last (wire 2.4).
    fn apply(&mut self, message: &Message) -> Option<Message> {
        let vote = message.options.vote?;
        if message.options.ring != Some(self.ring) || vote == Vote::NoChange {
            return None;
        }
        // To a client they are the same: it does not cast.
        let vote = if vote == Vote::AskLater { Vote::WaitForReply } else { vote };
        if vote != self.vote {
            self.vote = vote;
            self.votes.push(vote_text(vote).to_owned());
        }
        match vote {
            Vote::Ack => self.casts = true,
            Vote::Nack => self.casts = false,
            Vote::AskLater | Vote::WaitForReply | Vote::NoChange => return None,
        }
        self.recount()
    }

    /// A quorum list at the end of a membership change, or when the count has changed it.
    fn recount(&mut self) -> Option<Message> {
        let quorate = self.is_quorate();
        let is_news = self.in_sync || quorate != self.quorate;
        self.in_sync = false;
        self.quorate = quorate;
        is_news.then(|| self.quorum_list())
    }

    fn is_quorate(&self) -> bool {
        let nodes = self.config.len();
        let device = match self.plan.algorithm {
            Algorithm::Lms => nodes - 1,
            Algorithm::Test | Algorithm::Ffsplit | Algorithm::TwoNodeLms => 1,
        };
        let present = self.members.iter().filter(|node| self.config.contains(node)).count();
        let votes = present + if self.casts { device } else { 0 };
        votes * 2 > nodes + device
    }

    /// What became of its vote in this step.
    pub(crate) fn answer(&self, shown: Shown) -> String {
        let all = match shown {
            Shown::Changes => &self.votes[usize::from(self.reported && self.votes.len() > 1)..],
            Shown::Last => &self.votes[self.votes.len().saturating_sub(1)..],
            Shown::Messages => &self.messages[..],
        };
        if all.is_empty() { String::new() } else { format!("{} {}", self.id, all.join(", ")) }
    }

    pub(crate) fn begin_step(&mut self) {
        self.reported = false;
        self.votes.clear();
        self.messages.clear();
    }
}

fn vote_text(vote: Vote) -> &'static str {
    match vote {
        Vote::Ack => "ack",
        Vote::Nack => "nack",
        Vote::AskLater => "later",
        Vote::WaitForReply => "wait",
        Vote::NoChange => "no change",
    }
}
