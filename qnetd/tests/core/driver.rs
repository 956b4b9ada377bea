//! Feeds an arbiter and reads its duties.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use protocol::fence::{Answer, FRAME_ANSWER};
use protocol::ids::{
    ArbiterId, BootId, ClusterName, Epoch, GrantId, InstanceId, NodeId, RingId, ViewId,
};
use protocol::qnet::{
    Deframer, Grant, Held, Hello, HostKind, Message, MessageType, NodeInfo, NodeListType, Options,
    Renewal, ViewNote,
};
use protocol::time::Time;
use protocol::vote::{Bound, TieBreaker, Vote};
use qnetd::core::{
    Action, Arbiter, ClientId, CloseReason, Event, FencingRecord, GrantRecord, Memory, Peer,
    Settings, Token,
};

pub(crate) const CLUSTER: &str = "c";

/// What an arbiter did, in order, as a test reads it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Done {
    Sent(u64, Box<Message>),
    StartTls(u64),
    Closed(u64, CloseReason),
    Persist(GrantRecord),
    PersistFencing(FencingRecord),
    /// An answer to a gateway.
    Answered(u64, Box<Answer>),
}

/// A record that is being written.
#[derive(Clone, Debug)]
enum Stored {
    Grant(GrantRecord),
    Fencing(FencingRecord),
}

pub(crate) struct Driver {
    pub(crate) arbiter: Arbiter,
    pub(crate) now: Time,
    pub(crate) journal: Vec<GrantRecord>,
    /// The last record of fencing that is on disk.
    pub(crate) fencing: Option<FencingRecord>,
    /// What it said for the log.
    pub(crate) log: Vec<String>,
    writes: Vec<(Token, Stored)>,
    /// Answers every write at once.
    pub(crate) disk_works: bool,
    seq: u32,
    echoes: BTreeMap<u64, u32>,
}

impl Driver {
    pub(crate) fn new(settings: Settings) -> Self {
        Self::with_memory(
            settings,
            Memory { arbiter: ArbiterId(7), boot: 1, host_boot: BootId(1), ..Memory::default() },
        )
    }

    pub(crate) fn with_memory(settings: Settings, memory: Memory) -> Self {
        let now = Time::from_millis(1000);
        Self {
            arbiter: Arbiter::new(now, settings, memory),
            now,
            journal: Vec::new(),
            fencing: None,
            log: Vec::new(),
            writes: Vec::new(),
            disk_works: true,
            seq: 0,
            echoes: BTreeMap::new(),
        }
    }

    /// A new process with what this one has written.
    pub(crate) fn restart(self, host_boot: BootId) -> Self {
        self.restart_with(Settings::default(), host_boot)
    }

    pub(crate) fn restart_with(self, settings: Settings, host_boot: BootId) -> Self {
        let mut newest: BTreeMap<ClusterName, GrantRecord> = BTreeMap::new();
        for record in &self.journal {
            newest.insert(record.cluster.clone(), record.clone());
        }
        let grants = newest.into_values().collect();
        let fencing = self.fencing.clone().into_iter().collect();
        let memory =
            Memory { arbiter: ArbiterId(7), boot: 2, host_boot, grants, fencing, clock_s: 0 };
        Self { fencing: self.fencing, ..Self::with_memory(settings, memory) }
    }

    pub(crate) fn event(&mut self, event: Event) -> Vec<Done> {
        self.arbiter.handle(self.now, event);
        let mut done = Vec::new();
        loop {
            while let Some(action) = self.arbiter.next_action() {
                match action {
                    Action::Send { client, bytes } => {
                        done.push(read_any(client.0, &bytes));
                    }
                    Action::StartTls { client } => done.push(Done::StartTls(client.0)),
                    Action::Close { client, reason } => done.push(Done::Closed(client.0, reason)),
                    Action::Persist { token, record } => {
                        done.push(Done::Persist(record.clone()));
                        self.writes.push((token, Stored::Grant(record)));
                    }
                    Action::PersistFencing { token, record } => {
                        done.push(Done::PersistFencing(record.clone()));
                        self.writes.push((token, Stored::Fencing(record)));
                    }
                    Action::Decided { text, .. } => self.log.push(text),
                }
            }
            if !self.disk_works || self.writes.is_empty() {
                return done;
            }
            let (token, record) = self.writes.remove(0);
            self.store(record);
            self.arbiter.handle(self.now, Event::Persisted(token));
        }
    }

    fn store(&mut self, record: Stored) {
        match record {
            Stored::Grant(record) => self.journal.push(record),
            Stored::Fencing(record) => self.fencing = Some(record),
        }
    }

    /// How many writes wait for their answer.
    pub(crate) fn writes(&self) -> usize {
        self.writes.len()
    }

    /// Answers the oldest write.
    pub(crate) fn write(&mut self, works: bool) -> Vec<Done> {
        let (token, record) = self.writes.remove(0);
        if works {
            self.store(record);
            self.event(Event::Persisted(token))
        } else {
            self.event(Event::PersistFailed(token))
        }
    }

    /// Lets time pass, with every timeout on the way.
    pub(crate) fn pass(&mut self, ms: u64) -> Vec<Done> {
        let end = self.now + Duration::from_millis(ms);
        let mut done = Vec::new();
        for _ in 0..10_000 {
            match self.arbiter.deadline().filter(|at| *at <= end) {
                Some(at) => {
                    self.now = self.now.max(at);
                    done.extend(self.event(Event::Timeout));
                }
                None => break,
            }
        }
        self.now = end;
        done
    }

    /// Lets time pass while these clients renew every 250 ms.
    pub(crate) fn pass_renewing(&mut self, ms: u64, clients: &mut [&mut Own]) -> Vec<Done> {
        let mut done = Vec::new();
        for _ in 0..ms / 250 {
            let passed = self.pass(250);
            clients.iter_mut().for_each(|client| client.listen(&passed));
            done.extend(passed);
            for client in clients.iter_mut() {
                done.extend(client.renew(self));
            }
        }
        done
    }

    pub(crate) fn say(&mut self, client: u64, message: &Message) -> Vec<Done> {
        let bytes = message.encode();
        let frame = Deframer::new(1 << 20).feed(&bytes).1.unwrap().unwrap();
        self.event(Event::Received { client: ClientId(client), frame })
    }

    pub(crate) fn message(&mut self, kind: MessageType) -> Message {
        self.seq += 1;
        Message::new(kind, Some(self.seq))
    }

    pub(crate) fn connect(&mut self, client: u64) -> Vec<Done> {
        let address = format!("10.0.0.{client}:1000");
        self.event(Event::Connected { client: ClientId(client), address })
    }

    pub(crate) fn close(&mut self, client: u64) -> Vec<Done> {
        self.event(Event::Closed { client: ClientId(client) })
    }

    pub(crate) fn greet(&mut self, client: u64, seq: u32) -> Vec<Done> {
        self.connect(client);
        let mut message = Message::new(MessageType::Preinit, Some(seq));
        message.options.cluster_name = Some(CLUSTER.into());
        self.say(client, &message);
        self.say(client, &Message::new(MessageType::StartTls, Some(seq + 1)));
        let identity = Some(Peer { cluster: CLUSTER.into(), node: None, gateway: false });
        self.event(Event::Secured { client: ClientId(client), identity })
    }
}

fn read_any(client: u64, bytes: &[u8]) -> Done {
    if bytes[..2] != FRAME_ANSWER.to_be_bytes() {
        return Done::Sent(client, Box::new(read(bytes)));
    }
    let frame = Deframer::new(1 << 20).feed(bytes).1.unwrap().unwrap();
    Done::Answered(client, Box::new(Answer::decode(&frame.body).unwrap()))
}

pub(crate) fn read(bytes: &[u8]) -> Message {
    let mut deframer = Deframer::new(1 << 20);
    let (used, frame) = deframer.feed(bytes);
    assert_eq!(used, bytes.len());
    Message::decode(&frame.unwrap().unwrap()).unwrap()
}

pub(crate) fn nodes(ids: &[u32]) -> Vec<NodeInfo> {
    ids.iter().map(|id| NodeInfo { node: NodeId(*id), data_center: 0, state: None }).collect()
}

pub(crate) fn set(ids: &[u32]) -> BTreeSet<NodeId> {
    ids.iter().map(|id| NodeId(*id)).collect()
}

/// The messages in a list of duties, by client.
fn sent(done: &[Done]) -> impl DoubleEndedIterator<Item = (u64, &Message)> {
    done.iter().filter_map(|done| {
        if let Done::Sent(client, message) = done { Some((*client, &**message)) } else { None }
    })
}

/// The votes in a list of duties, by client.
pub(crate) fn votes(done: &[Done]) -> Vec<(u64, Vote)> {
    let infos = sent(done).filter(|(_, message)| message.kind == MessageType::VoteInfo);
    infos.map(|(client, message)| (client, message.options.vote.unwrap())).collect()
}

pub(crate) fn grant_to(done: &[Done], to: u64) -> Option<Grant> {
    sent(done).rev().filter(|(client, _)| *client == to).find_map(|(_, m)| m.options.grant)
}

pub(crate) fn init(node: u32, ring: RingId) -> Options {
    Options {
        seq: Some(3),
        supported_messages: Some(vec![0]),
        supported_options: Some(vec![0]),
        node_id: Some(node),
        algorithm: Some(1),
        heartbeat_ms: Some(8000),
        tie_breaker: Some(TieBreaker::Lowest),
        ring: Some(ring),
        ..Options::default()
    }
}

/// A client of ours, as far as the arbiter can tell.
pub(crate) struct Own {
    pub(crate) client: u64,
    pub(crate) node: u32,
    pub(crate) view: ViewId,
    pub(crate) grant: Option<Grant>,
    pub(crate) instance: u64,
    pub(crate) host: HostKind,
    pub(crate) worst_case_ms: u32,
    /// What the next renewal says in its place.
    pub(crate) shorter_ms: Option<u32>,
    pub(crate) highest: Epoch,
    pub(crate) config: Vec<u32>,
}

impl Own {
    pub(crate) fn new(client: u64, node: u32, config: &[u32]) -> Self {
        Self {
            client,
            node,
            view: ViewId::default(),
            grant: None,
            instance: u64::from(node) * 100,
            host: HostKind::Builtin,
            worst_case_ms: 0,
            shorter_ms: None,
            highest: Epoch(0),
            config: config.to_vec(),
        }
    }

    pub(crate) fn join(&mut self, driver: &mut Driver) -> Vec<Done> {
        self.join_holding(driver, None)
    }

    pub(crate) fn join_holding(&mut self, driver: &mut Driver, held: Option<Held>) -> Vec<Done> {
        driver.greet(self.client, 1);
        driver.echoes.insert(self.client, 0);
        let mut options = init(self.node, self.view.ring);
        options.hello = Some(Hello {
            instance: InstanceId(self.instance),
            boot: BootId(u128::from(self.node)),
            host: self.host,
            worst_case_ms: self.worst_case_ms,
            bound: Bound::default(),
            highest_epoch: self.highest,
            held,
        });
        let mut done = driver.say(self.client, &Message { kind: MessageType::Init, options });
        done.extend(self.renew(driver));
        let mut message = driver.message(MessageType::NodeList);
        message.options.list_type = Some(NodeListType::InitialConfig);
        message.options.nodes = nodes(&self.config);
        done.extend(driver.say(self.client, &message));
        done
    }

    pub(crate) fn report(&mut self, driver: &mut Driver, seq: u64, members: &[u32]) -> Vec<Done> {
        self.view = ViewId { ring: RingId::new(members[0], seq), nonce: seq };
        let mut message = driver.message(MessageType::NodeList);
        message.options.list_type = Some(NodeListType::Membership);
        message.options.ring = Some(self.view.ring);
        message.options.nodes = nodes(members);
        message.options.view_note =
            Some(ViewNote { nonce: seq, epoch: self.highest, highest_epoch: self.highest });
        let done = driver.say(self.client, &message);
        self.listen(&done);
        done
    }

    pub(crate) fn listen(&mut self, done: &[Done]) {
        if let Some(grant) = grant_to(done, self.client) {
            self.grant = Some(grant);
        }
    }

    pub(crate) fn renew(&mut self, driver: &mut Driver) -> Vec<Done> {
        let echo = driver.echoes.entry(self.client).or_default();
        *echo += 1;
        let mut message = Message::new(MessageType::EchoRequest, Some(*echo));
        let (grant, view) = match self.grant {
            Some(grant) => (grant.id, grant.view),
            None => (GrantId::default(), self.view),
        };
        message.options.renewal = Some(Renewal { grant, view, highest_epoch: self.highest });
        message.options.worst_case_ms = self.shorter_ms.take();
        let done = driver.say(self.client, &message);
        self.listen(&done);
        done
    }

    /// Confirms every vote info in a list of duties.
    pub(crate) fn confirm(&mut self, driver: &mut Driver, done: &[Done]) -> Vec<Done> {
        self.listen(done);
        let mut out = Vec::new();
        for told in done {
            if let Done::Sent(client, message) = told
                && *client == self.client
                && message.kind == MessageType::VoteInfo
            {
                let reply = Message::new(MessageType::VoteInfoReply, message.options.seq);
                out.extend(driver.say(self.client, &reply));
            }
        }
        out
    }
}

/// Two own clients in the full view {1, 2}, both with the vote.
pub(crate) fn pair(driver: &mut Driver) -> (Own, Own) {
    meet(driver, Own::new(1, 1, &[1, 2]), Own::new(2, 2, &[1, 2]))
}

/// The same of clients that are special in some way.
pub(crate) fn meet(driver: &mut Driver, mut one: Own, mut two: Own) -> (Own, Own) {
    one.join(driver);
    two.join(driver);
    one.report(driver, 4, &[1, 2]);
    let done = two.report(driver, 4, &[1, 2]);
    assert_eq!(votes(&done), [(1, Vote::Ack), (2, Vote::Ack)]);
    one.confirm(driver, &done);
    two.confirm(driver, &done);
    (one, two)
}

/// Two of which real corosync counts the votes.
pub(crate) fn pair_on_corosync(driver: &mut Driver) -> (Own, Own) {
    let own = |node| Own { host: HostKind::Corosync, ..Own::new(u64::from(node), node, &[1, 2]) };
    meet(driver, own(1), own(2))
}
