//! A stock client as an arbiter sees it: no leases, echoes every heartbeat, quorum lists.

use protocol::ids::{ClusterName, RingId};
use protocol::qnet::{Message, MessageType, NodeListType, Options};
use protocol::vote::{Heuristics, Vote};
use qnetd::core::{ClusterSettings, Settings, VoteHold};

use crate::driver::{CLUSTER, Done, Driver, init, nodes, votes};

/// The default heartbeat, in milliseconds.
pub(crate) const HEARTBEAT: u64 = 8000;

pub(crate) fn settings(vote_hold: VoteHold) -> Settings {
    Settings { vote_hold, ..Settings::default() }
}

/// The default settings, with these for the cluster of the tests.
pub(crate) fn cluster_settings(said: ClusterSettings) -> Settings {
    Settings { clusters: [(ClusterName::from(CLUSTER), said)].into(), ..Settings::default() }
}

/// One process of a stock qdevice, with one connection.
pub(crate) struct Stock {
    pub(crate) client: u64,
    pub(crate) node: u32,
    pub(crate) algorithm: u16,
    pub(crate) heartbeat_ms: u32,
    pub(crate) ring: RingId,
    pub(crate) config: Vec<u32>,
    counter: u32,
    echoes: u32,
}

impl Stock {
    pub(crate) fn new(client: u64, node: u32) -> Self {
        Self {
            client,
            node,
            algorithm: 1,
            heartbeat_ms: u32::try_from(HEARTBEAT).unwrap(),
            ring: RingId::new(node, 1),
            config: vec![1, 2],
            counter: 1,
            echoes: 0,
        }
    }

    fn next(&mut self) -> u32 {
        self.counter += 1;
        self.counter
    }

    /// Preinit to Init; the counter goes on from where it was.
    pub(crate) fn connect(&mut self, driver: &mut Driver) -> Vec<Done> {
        driver.greet(self.client, self.counter);
        self.next();
        self.echoes = 0;
        let seq = Some(self.next());
        let algorithm = Some(self.algorithm);
        let heartbeat_ms = Some(self.heartbeat_ms);
        let options = Options { seq, algorithm, heartbeat_ms, ..init(self.node, self.ring) };
        driver.say(self.client, &Message { kind: MessageType::Init, options })
    }

    /// The same process on a new connection.
    pub(crate) fn reconnect(&mut self, driver: &mut Driver, client: u64) -> Vec<Done> {
        self.client = client;
        self.connect(driver)
    }

    fn list(&mut self, list: NodeListType, ids: &[u32]) -> Message {
        let mut message = Message::new(MessageType::NodeList, Some(self.next()));
        message.options.list_type = Some(list);
        message.options.nodes = nodes(ids);
        message
    }

    pub(crate) fn configure(&mut self, driver: &mut Driver) -> Vec<Done> {
        let config = self.config.clone();
        let message = self.list(NodeListType::InitialConfig, &config);
        driver.say(self.client, &message)
    }

    pub(crate) fn report(&mut self, driver: &mut Driver, seq: u64, members: &[u32]) -> Vec<Done> {
        self.report_with(driver, seq, members, None)
    }

    pub(crate) fn report_with(
        &mut self,
        driver: &mut Driver,
        seq: u64,
        members: &[u32],
        heuristics: Option<Heuristics>,
    ) -> Vec<Done> {
        self.ring = RingId::new(members[0], seq);
        let mut message = self.list(NodeListType::Membership, members);
        message.options.ring = Some(self.ring);
        message.options.heuristics = heuristics;
        driver.say(self.client, &message)
    }

    pub(crate) fn quorum(&mut self, driver: &mut Driver, quorate: bool) -> Vec<Done> {
        let mut message = self.list(NodeListType::Quorum, &[self.node]);
        message.options.quorate = Some(quorate);
        driver.say(self.client, &message)
    }

    pub(crate) fn echo(&mut self, driver: &mut Driver) -> Vec<Done> {
        self.echoes += 1;
        let message = Message::new(MessageType::EchoRequest, Some(self.echoes));
        driver.say(self.client, &message)
    }

    /// Confirms every vote info in a list of duties.
    pub(crate) fn confirm(&self, driver: &mut Driver, done: &[Done]) -> Vec<Done> {
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

/// Both in {1, 2}, both told yes, both quorate.
pub(crate) fn pair(driver: &mut Driver, algorithm: u16) -> (Stock, Stock) {
    let (mut one, mut two) = (Stock::new(1, 1), Stock::new(2, 2));
    (one.algorithm, two.algorithm) = (algorithm, algorithm);
    pair_of(driver, &mut one, &mut two);
    (one, two)
}

pub(crate) fn pair_of(driver: &mut Driver, one: &mut Stock, two: &mut Stock) {
    for client in [&mut *one, &mut *two] {
        client.connect(driver);
        client.configure(driver);
    }
    one.report(driver, 4, &[1, 2]);
    let done = two.report(driver, 4, &[1, 2]);
    assert_eq!(votes(&done), [(1, Vote::Ack), (2, Vote::Ack)]);
    one.confirm(driver, &done);
    two.confirm(driver, &done);
    one.quorum(driver, true);
    two.quorum(driver, true);
}

/// Who is told yes while this long passes and the clients send their echoes in step.
pub(crate) fn winners(driver: &mut Driver, ms: u64, echoing: &mut [&mut Stock]) -> Vec<u64> {
    let mut left = ms;
    let mut told = Vec::new();
    while left > 0 {
        // Less than a heartbeat, so that the moments of the test are not those of the echoes.
        let step = left.min(HEARTBEAT - 1500);
        told.extend(driver.pass(step));
        left -= step;
        if left > 0 {
            echoing.iter_mut().for_each(|client| told.extend(client.echo(driver)));
        }
    }
    let yes = votes(&told).into_iter().filter(|(_, vote)| *vote == Vote::Ack);
    yes.map(|(client, _)| client).collect()
}

/// A split of long ago: node 1 alone has the vote, node 2 has applied its loss.
pub(crate) fn split(driver: &mut Driver) -> (Stock, Stock) {
    let (mut one, mut two) = pair(driver, 1);
    one.report(driver, 5, &[1]);
    one.quorum(driver, true);
    let told = two.report(driver, 5, &[2]);
    assert_eq!(votes(&told), [(2, Vote::Nack)]);
    assert_eq!(votes(&two.confirm(driver, &told)), []);
    let done = two.quorum(driver, false);
    assert_eq!(votes(&done), [(1, Vote::Ack)]);
    one.confirm(driver, &done);
    one.quorum(driver, true);
    winners(driver, 40_000, &mut [&mut one, &mut two]);
    (one, two)
}
