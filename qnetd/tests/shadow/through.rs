//! The daemon of shadow mode inside the test, in front of a stock arbiter.

use std::net::SocketAddr;

use protocol::ids::RingId;
use protocol::qnet::{Message, MessageType};
use protocol::vote::Vote;
use qnetd::config::{Invocation, Places, parse};
use qnetd::daemon::Order;
use qnetd::shadow::Summary;
use qnetd::shadow::daemon::{Plan, serve};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::client::{Client, config_list, init, membership_list, preinit, quorum_list, vote_reply};
use crate::places::{Place, soon};

/// A running daemon.
pub(crate) struct Through {
    pub(crate) address: SocketAddr,
    pub(crate) place: Place,
    orders: mpsc::Sender<Order>,
    task: JoinHandle<anyhow::Result<Summary>>,
}

impl Through {
    pub(crate) async fn start(stock: SocketAddr, flags: &str) -> Self {
        let place = Place::new();
        let (state, run) = (place.text("state"), place.text("run"));
        let report = place.text("report");
        let fixed = format!(
            "--state-dir {state} --run-dir {run} --listen 127.0.0.1:0 --shadow {stock} \
             --shadow-report {report} {flags}"
        );
        let args: Vec<String> = fixed.split_whitespace().map(str::to_owned).collect();
        let options = match parse(&args, Places::Haguard).unwrap() {
            Invocation::Run(options) => *options,
            other @ (Invocation::Help | Invocation::Version) => panic!("{other:?}"),
        };
        let (orders, received) = mpsc::channel(8);
        let (ready, listening) = oneshot::channel();
        let plan = Plan::of(&options).unwrap();
        let task = tokio::spawn(serve(options, plan, (orders.clone(), received), Some(ready)));
        let Ok(address) = soon("start", listening).await else {
            panic!("no start: {:#}", task.await.unwrap().unwrap_err());
        };
        Self { address, place, orders, task }
    }

    /// Ends it as an operator does.
    pub(crate) async fn stop(self) -> Summary {
        self.orders.send(Order::Stop).await.unwrap();
        soon("end", self.task).await.unwrap().unwrap()
    }

    /// What its local socket answers.
    pub(crate) async fn asks(&self, command: &str) -> String {
        let socket = self.place.join("run/qnetd.sock");
        let mut stream = soon("local socket", UnixStream::connect(socket)).await.unwrap();
        stream.write_all(format!("{command}\n").as_bytes()).await.unwrap();
        let mut text = String::new();
        soon("local answer", stream.read_to_string(&mut text)).await.unwrap();
        text
    }

    /// The lines of its report, once there are as many.
    pub(crate) async fn lines(&self, count: usize) -> Vec<Value> {
        let path = self.place.join("report");
        soon("report", async {
            loop {
                let text = std::fs::read_to_string(&path).unwrap();
                let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
                let lines: Vec<Value> =
                    whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
                if lines.len() >= count {
                    return lines;
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        })
        .await
    }
}

/// Node, kind and name of each difference in a report.
pub(crate) fn reasons(lines: &[Value]) -> Vec<(u64, String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let reason = |line: &Value| {
        let difference = &line["difference"];
        (line["node"].as_u64().unwrap(), text(&difference["kind"]), text(&difference["name"]))
    };
    let mut reasons: Vec<_> = lines.iter().map(reason).collect();
    reasons.sort();
    reasons
}

/// A scripted stock client, in plain text.
pub(crate) struct Node {
    pub(crate) id: u32,
    config: Vec<u32>,
    pub(crate) client: Client<TcpStream>,
    seq: u32,
    ring: RingId,
}

impl Node {
    /// Connects, does Init with a heartbeat longer than the test, and sends its configuration.
    pub(crate) async fn join(address: SocketAddr, id: u32, config: &[u32]) -> Self {
        let mut client = Client::connect(address).await;
        client.ask(&preinit("TestCl")).await;
        let ring = RingId::new(id, 1);
        let mut greeting = init(id, ring);
        greeting.options.heartbeat_ms = Some(60_000);
        let reply = client.ask(&greeting).await;
        assert_eq!(reply.options.error_code, Some(0));
        client.ask_for(&config_list(3, config), MessageType::NodeListReply).await;
        Self { id, config: config.to_vec(), client, seq: 3, ring }
    }

    fn next(&mut self) -> u32 {
        self.seq += 1;
        self.seq
    }

    /// Reports a membership.
    pub(crate) async fn report(&mut self, members: &[u32], seq: u64) {
        self.ring = RingId::new(members[0], seq);
        let list = membership_list(self.next(), self.ring, members);
        self.client.send(&list).await;
    }

    /// Hears votes of its ring up to this one, confirms each, and says what its host then counts.
    pub(crate) async fn hear(&mut self, expected: Vote) {
        loop {
            let message: Message = self.client.receive().await;
            if message.kind != MessageType::VoteInfo {
                continue;
            }
            self.client.send(&vote_reply(message.options.seq.unwrap())).await;
            let is_of_ring = message.options.ring == Some(self.ring);
            if is_of_ring && message.options.vote == Some(expected) {
                break;
            }
        }
        let list = quorum_list(self.next(), &self.config, expected == Vote::Ack);
        self.client.ask_for(&list, MessageType::NodeListReply).await;
    }
}

/// All nodes join, report one membership, and have the vote.
pub(crate) async fn together(address: SocketAddr, config: &[u32]) -> Vec<Node> {
    let mut nodes = Vec::new();
    for id in config {
        nodes.push(Node::join(address, *id, config).await);
    }
    for node in &mut nodes {
        node.report(config, 4).await;
    }
    for node in &mut nodes {
        node.hear(Vote::Ack).await;
    }
    nodes
}
