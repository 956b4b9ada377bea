//! Shadow mode in front of the real corosync-qnetd, with real clusters as its clients; and what
//! the program says by its exit code.
//!
//! The stock arbiter listens on another port of the arbiter's host, and shadow mode where the
//! clients look for an arbiter. Its certificates are what `haguard certs import` finds in the
//! stock arbiter's database, so it signs the clients' certificates as that would.

#![expect(clippy::unwrap_used, reason = "a test ends where it goes wrong")]

mod common;
#[allow(dead_code, reason = "each test of the lab uses a part of it")]
mod lab;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use protocol::ids::{ClusterName, NodeId, RingId};
use protocol::qnet::{
    Deframer, Message, MessageType, NodeInfo, NodeListType, TlsSupport, numbers, stock_options,
    supported_messages,
};
use protocol::vote::Algorithm::Ffsplit;
use protocol::vote::{TieBreaker, Vote};
use serde_json::Value;

use common::{Daemon, Scratch};
use lab::conf::{Arbiter, Plan, Stack};
use lab::pki::Pki;
use lab::{At, HAGUARD, Lab, Role, must, patiently};

/// The arbiter's host runs no engine, so there is room for the stock arbiter.
const STOCK: Role = Role::Engine;
const SHADOW: Role = Role::Arbiter;

/// Where the stock arbiter listens instead of the usual place.
const STOCK_PORT: &str = "5404";

/// T, longer than the lab's: what our arbiter waits longer than the stock one for a silent client,
/// 0.9 · T, has to last longer than the second after which a difference is reported.
const DEVICE_TIMEOUT: &str = " timeout: 4000\n";

/// Until the sides are known, and until a wait of ours is over.
const PATIENCE: Duration = Duration::from_secs(20);

/// Longer than it takes to report a difference.
const QUIET: Duration = Duration::from_secs(2);

const FIRST: At = At::Node(1);

/// Node, kind and name of a difference.
type Reason = (u64, String, String);

fn reason(node: u64, kind: &str, name: &str) -> Reason {
    (node, kind.to_owned(), name.to_owned())
}

/// A cluster that takes its vote from the stock arbiter through shadow mode.
struct Watched {
    lab: Lab,
    /// Events of the report that were looked at.
    seen: usize,
}

impl Watched {
    /// All nodes are in one view before the first device asks for a vote: a node alone at an
    /// arbiter that has just started is a difference (F8).
    fn start(nodes: u32, pki: &Pki) -> Self {
        let plan = Plan { nodes, ..Plan::new(Arbiter::Stock, Stack::Stock, Ffsplit) };
        let mut watched = Self { lab: Lab::new(plan, pki), seen: 0 };
        watched.start_arbiters();
        let lab = &mut watched.lab;
        for node in lab.nodes() {
            let path = lab.place(At::Node(node)).join("etc/corosync.conf");
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.contains(" timeout: 2000\n"), "{text}");
            fs::write(&path, text.replace(" timeout: 2000\n", DEVICE_TIMEOUT)).unwrap();
            lab.start_engine(node);
        }
        watched.expect("one view", watched.lab.one_view());
        for node in watched.lab.nodes() {
            watched.start_device(node);
        }
        watched.expect("a start", watched.lab.whole());
        watched
    }

    fn start_arbiters(&mut self) {
        let lab = &mut self.lab;
        lab.start(At::Arbiter, STOCK, &["corosync-qnetd", "-fd", "-s", "req", "-p", STOCK_PORT]);
        listens(lab, STOCK_PORT);
        let keys = lab.place(At::Arbiter).join("imported").display().to_string();
        let import =
            [HAGUARD, "certs", "import", "--nssdb", "/etc/corosync/qnetd/nssdb", "--out", &keys];
        must(&mut lab.command(At::Arbiter, &import));
        let script = format!(
            "{HAGUARD} qnetd -f --shadow 127.0.0.1:{STOCK_PORT} --shadow-report {keys}/report \
             --state-dir {keys} --run-dir /run/haguard --tls-ca {keys}/ca.pem \
             --tls-ca-key {keys}/ca-key.pem --tls-cert {keys}/arbiter.pem \
             --tls-key {keys}/arbiter-key.pem; echo $? >{keys}/code && mv {keys}/code {keys}/exit"
        );
        lab.start(At::Arbiter, SHADOW, &["sh", "-c", &script]);
        listens(lab, "5403");
    }

    fn start_device(&mut self, node: u32) {
        // It logs every vote that it hears.
        self.lab.start(At::Node(node), Role::Device, &["corosync-qdevice", "-fd"]);
    }

    fn file(&self, name: &str) -> PathBuf {
        self.lab.place(At::Arbiter).join("imported").join(name)
    }

    fn expect(&self, what: &str, result: Result<Duration, String>) {
        if let Err(instead) = result {
            let log = self.lab.log(At::Arbiter, SHADOW);
            panic!("{what}: {instead}\n  shadow:\n{log}");
        }
    }

    /// Parts the cluster in two halves, of which the first has the vote then.
    fn split(&mut self) {
        let nodes = self.lab.nodes();
        let (first, second) = nodes.split_at(nodes.len() / 2);
        let places = |half: &[u32]| half.iter().map(|node| At::Node(*node)).collect::<Vec<_>>();
        self.lab.cut(&[&places(first), &places(second)]);
        self.settles(first);
    }

    fn heal(&mut self) {
        self.lab.heal();
        self.expect("a heal", self.lab.whole());
        self.settles(&self.lab.nodes());
    }

    fn settles(&self, side: &[u32]) {
        self.expect(&format!("{side:?}"), self.lab.settles(&[side], QUIET, PATIENCE));
    }

    /// What has come to the report since this was asked last.
    fn events(&mut self) -> Vec<Value> {
        let text = fs::read_to_string(self.file("report")).unwrap();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let events = whole.lines().skip(self.seen).map(|line| serde_json::from_str(line).unwrap());
        let events: Vec<Value> = events.collect();
        self.seen += events.len();
        events
    }

    /// The next events, once there are so many.
    fn next_events(&mut self, count: usize) -> Vec<Value> {
        let mut events = Vec::new();
        let log = self.lab.place(At::Arbiter).join("Arbiter.log");
        patiently(&format!("{count} events; see {}", log.display()), PATIENCE, || {
            events.extend(self.events());
            (events.len() >= count).then_some(())
        });
        events
    }

    fn reports_nothing(&mut self, after: &str) {
        let events = self.events();
        assert!(events.is_empty(), "after {after}: {events:#?}");
    }

    /// Ends shadow mode as an operator does; its exit code, and its last word.
    fn stop(&self) -> (String, String) {
        let words = ["corosync-qnetd-tool", "-H", "-p", "/run/haguard/qnetd.sock"];
        assert!(self.lab.run(At::Arbiter, &words).status.success());
        let code =
            patiently("shadow mode's end", PATIENCE, || fs::read_to_string(self.file("exit")).ok());
        let log = self.lab.log(At::Arbiter, SHADOW);
        (code.trim().to_owned(), log.lines().last().unwrap_or_default().to_owned())
    }
}

fn listens(lab: &Lab, port: &str) {
    patiently(&format!("port {port}"), Duration::from_secs(10), || {
        let sockets = lab.text(At::Arbiter, &["ss", "-Hltn", &format!("sport = :{port}")]);
        (!sockets.is_empty()).then_some(())
    });
}

fn reasons(events: &[Value]) -> Vec<Reason> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let differences = events.iter().filter(|event| event["event"] == "difference");
    let mut reasons: Vec<_> = differences
        .map(|event| {
            let difference = &event["difference"];
            (event["node"].as_u64().unwrap(), text(&difference["kind"]), text(&difference["name"]))
        })
        .collect();
    reasons.sort();
    reasons
}

/// A wait of rule 5 in a difference: its text, if its end is known and the votes are these.
fn wait_of(event: &Value) -> &str {
    let difference = &event["difference"];
    let votes = ["stock", "ours", "decided"].map(|whose| difference[whose].as_str().unwrap());
    assert_eq!(votes, ["ack", "nack", "ack"], "{event:#}");
    let (waits, limit_ms) = (&difference["waits"], 4500);
    let remaining_ms = waits["remaining_ms"].as_u64().unwrap();
    assert!((1..limit_ms).contains(&remaining_ms), "{event:#}");
    assert_eq!(waits["rule"], "5");
    waits["text"].as_str().unwrap()
}

/// A node id in a line of the stock arbiter, and what follows it.
fn node_in(line: &str) -> Option<(u32, &str)> {
    let (id, rest) = line.split_once(", node_id ")?.1.split_once(") ")?;
    Some((id.parse().ok()?, rest))
}

/// The votes that the stock arbiter has sent to a node, by its debug log: those of vote infos with
/// their numbers, and those of its answers.
fn said(log: &str, node: u32) -> Vec<String> {
    let (mut votes, mut told, mut number, mut asks) = (Vec::new(), 0, "", 0);
    for line in log.lines() {
        match node_in(line) {
            Some((id, _)) if line.contains("Sending vote info to client ") => told = id,
            Some((id, rest)) if rest.starts_with("sent ") => asks = id,
            Some(_) | None => {}
        }
        if let Some((_, seq)) = line.split_once(" msg seq num = ") {
            number = seq;
        } else if let Some((_, vote)) = line.split_once(" vote = ") {
            votes.push((told, format!("info {number}: {vote}")));
        } else if let Some((_, vote)) = line.split_once("Algorithm result vote is ") {
            votes.push((asks, format!("answer: {vote}")));
        }
    }
    votes.into_iter().filter(|(id, _)| *id == node).map(|(_, vote)| vote).collect()
}

/// The same as a stock device has heard it, by its debug log.
fn heard(log: &str) -> Vec<String> {
    let (mut votes, mut is_info, mut number) = (Vec::new(), false, "");
    for line in log.lines() {
        if line.contains("Received ") {
            is_info = line.contains("Received vote info");
        } else if let Some((_, seq)) = line.split_once(" seq = ") {
            number = seq;
        } else if let Some((_, vote)) = line.split_once(" vote = ") {
            let kind = if is_info { format!("info {number}") } else { "answer".to_owned() };
            votes.push(format!("{kind}: {vote}"));
        }
    }
    votes
}

impl Watched {
    /// Every device has heard what the stock arbiter has said to it, in that order, and no more.
    fn every_vote_is_the_stock_arbiters(&self) {
        let read = |at: At, role: Role| {
            let log = fs::read(self.lab.place(at).join(format!("{role:?}.log"))).unwrap();
            String::from_utf8_lossy(&log).into_owned()
        };
        let arbiter = read(At::Arbiter, STOCK);
        for node in self.lab.nodes() {
            let heard = heard(&read(At::Node(node), Role::Device));
            let infos = heard.iter().filter(|vote| vote.starts_with("info "));
            assert!(infos.count() >= 2, "node {node}: {heard:#?}");
            assert_eq!(heard, said(&arbiter, node), "node {node}");
        }
    }
}

/// The holder of a split is cut off from the arbiter. The stock arbiter gives its vote over after
/// one and a half heartbeats, although it counts it for two; ours waits that long. Then the next
/// holder's device is killed, and its host counts the vote for T.
#[test]
fn stock_devices_get_the_stock_arbiters_votes_and_our_waits_are_reported() {
    if !lab::is_possible() {
        return;
    }
    let mut watched = Watched::start(2, &Pki::stock());
    let list = watched.lab.text(At::Arbiter, &["corosync-qnetd-tool", "-lv"]);
    let verified = list.matches("Yes (client certificate verified)").count();
    assert_eq!(verified, 2, "the stock arbiter verifies what shadow mode has signed: {list}");
    watched.settles(&[1, 2]);
    watched.reports_nothing("a start");
    watched.split();
    watched.heal();
    watched.split();
    watched.reports_nothing("a cut, a heal and a cut");

    watched.lab.cut_also(FIRST, At::Arbiter);
    let events = watched.next_events(1);
    assert_eq!(reasons(&events), [reason(2, "rule", "5")], "{events:#?}");
    // The stock arbiter closes the one connection and tells the other at the same moment.
    let closed =
        "node 1 may still count the vote: its connection is closed, vote-hold single-fault";
    let silent = "node 1 may still count the vote: it may be silent, vote-hold single-fault";
    let text = wait_of(&events[0]);
    assert!([silent, closed].contains(&text), "{text}");
    let events = watched.next_events(1);
    assert_eq!((&events[0]["event"], &events[0]["node"]), (&"agreement".into(), &2.into()));
    watched.heal();
    watched.split();
    watched.reports_nothing("a heal and a cut");

    watched.lab.signal(FIRST, Role::Device, Signal::SIGKILL);
    let events = watched.next_events(1);
    assert_eq!(reasons(&events), [reason(2, "rule", "5")], "{events:#?}");
    assert_eq!(wait_of(&events[0]), closed);
    watched.every_vote_is_the_stock_arbiters();
    let (code, last) = watched.stop();
    assert_eq!(code, "0", "{last}");
    assert!(
        last.contains("2 differences: 0 by corrections, 2 by waits, 0 not explained"),
        "{last}"
    );
}

/// Hazard 8.8: the device of a node in the half that has the vote is killed, and the stock arbiter
/// still counts its client, so the half that has fewer devices now keeps the vote.
#[test]
fn stock_arbiters_wrong_half_is_reported_as_the_correction_of_8_8() {
    if !lab::is_possible() {
        return;
    }
    let mut watched = Watched::start(4, &Pki::stock());
    watched.split();
    watched.reports_nothing("a start and a cut");
    watched.lab.signal(FIRST, Role::Device, Signal::SIGKILL);
    let events = watched.next_events(3);
    let correction = |node| reason(node, "correction", "departing-not-counted");
    assert_eq!(reasons(&events), [correction(2), correction(3), correction(4)], "{events:#?}");
    for event in &events {
        let difference = &event["difference"];
        let told = if event["node"] == 2 { ["ack", "nack"] } else { ["nack", "ack"] };
        assert_eq!(difference["hazard"], "8.8");
        assert_eq!([&difference["stock"], &difference["decided"]], told, "{event:#}");
    }
    watched.every_vote_is_the_stock_arbiters();
    let (code, last) = watched.stop();
    assert_eq!(code, "0", "{last}");
    assert!(
        last.contains("3 differences: 3 by corrections, 0 by waits, 0 not explained"),
        "{last}"
    );
}

/// A client and a stock arbiter by hand, in plain text, with the program between them.
struct ByHand {
    program: Daemon,
    client: TcpStream,
    stock: TcpStream,
    scratch: Scratch,
}

impl ByHand {
    fn start(name: &str) -> Self {
        let scratch = Scratch::new(name);
        let port = TcpListener::bind("127.0.0.1:0").unwrap();
        let stock = port.local_addr().unwrap().to_string();
        let mut program = run(&scratch, &["--shadow", &stock, "--listen", "127.0.0.1:0"]);
        let address: SocketAddr = common::wait("a listening program", || {
            let log = program.log();
            assert!(program.ended().is_none(), "it has ended: {log}");
            let (_, address) = log.rsplit_once(", listening on ")?;
            address.lines().next()?.trim().parse().ok()
        });
        let client = TcpStream::connect(address).unwrap();
        let (stock, _) = port.accept().unwrap();
        for stream in [&client, &stock] {
            stream.set_read_timeout(Some(common::LIMIT)).unwrap();
        }
        Self { program, client, stock, scratch }
    }

    /// The client says something, and the stock arbiter answers it; both come through.
    fn exchange(&mut self, request: &Message, answer: &Message) {
        self.client.write_all(&request.encode()).unwrap();
        passes(&mut self.stock, request);
        self.stock.write_all(&answer.encode()).unwrap();
        passes(&mut self.client, answer);
    }

    /// The only node of a cluster reports itself, and is told this vote for its ring; our arbiter
    /// would say ACK.
    fn tell(&mut self, vote: Vote) {
        let (node, ring) = (1, RingId { node: 1, seq: 5 });
        let mut preinit = Message::new(MessageType::Preinit, Some(1));
        preinit.options.cluster_name = Some(ClusterName::from("c"));
        let mut reply = Message::new(MessageType::PreinitReply, Some(1));
        reply.options.tls_supported = Some(TlsSupport::Unsupported);
        reply.options.tls_client_cert_required = Some(0);
        self.exchange(&preinit, &reply);
        let mut init = Message::new(MessageType::Init, Some(2));
        init.options.supported_messages = Some(supported_messages());
        init.options.supported_options = Some(stock_options());
        init.options.node_id = Some(node);
        init.options.algorithm = Some(numbers::algorithm_number(Ffsplit));
        init.options.heartbeat_ms = Some(60_000);
        init.options.tie_breaker = Some(TieBreaker::Lowest);
        init.options.ring = Some(ring);
        let mut reply = Message::new(MessageType::InitReply, Some(2));
        reply.options.error_code = Some(0);
        self.exchange(&init, &reply);
        let answers =
            [(NodeListType::InitialConfig, Vote::NoChange), (NodeListType::Membership, vote)];
        for (seq, (kind, vote)) in (3..).zip(answers) {
            let mut list = Message::new(MessageType::NodeList, Some(seq));
            list.options.list_type = Some(kind);
            list.options.ring = (kind == NodeListType::Membership).then_some(ring);
            list.options.nodes = vec![NodeInfo { node: NodeId(node), data_center: 0, state: None }];
            let mut reply = Message::new(MessageType::NodeListReply, Some(seq));
            reply.options.list_type = Some(kind);
            reply.options.ring = Some(ring);
            reply.options.vote = Some(vote);
            self.exchange(&list, &reply);
        }
    }

    fn report(&self) -> String {
        fs::read_to_string(self.scratch.path("report")).unwrap()
    }

    fn end(mut self) -> Option<i32> {
        self.program.signal(Signal::SIGTERM);
        self.program.exit_code()
    }
}

fn run(scratch: &Scratch, more: &[&str]) -> Daemon {
    let [state, dir, report] = ["state", "run", "report"].map(|name| scratch.path(name));
    let mut command = Command::new(common::PROGRAM);
    command.args(["qnetd", "-s", "off", "--state-dir", &state, "--run-dir", &dir]);
    command.args(["--shadow-report", &report]).args(more);
    Daemon::spawn(&mut command, &scratch.path("log"))
}

/// The next message on a connection is this one, to the byte.
fn passes(stream: &mut TcpStream, message: &Message) {
    let (mut deframer, mut bytes) = (Deframer::new(u32::MAX), Vec::new());
    loop {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        bytes.extend(byte);
        if deframer.feed(&byte).1.is_some() {
            break;
        }
    }
    assert_eq!(bytes, message.encode());
}

#[test]
fn the_exit_code_is_0_after_a_stop_without_a_difference() {
    let mut by_hand = ByHand::start("shadow-same");
    by_hand.tell(Vote::Ack);
    assert_eq!(by_hand.report(), "");
    assert_eq!(by_hand.end(), Some(0));
}

#[test]
fn the_exit_code_is_3_after_a_difference_that_was_not_explained() {
    let mut by_hand = ByHand::start("shadow-bug");
    by_hand.tell(Vote::Nack);
    let report = common::wait("a difference", || {
        Some(by_hand.report()).filter(|report| report.ends_with('\n'))
    });
    let event: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(reasons(&[event]), [reason(1, "bug", "")], "{report}");
    assert_eq!(by_hand.end(), Some(3));
}

#[test]
fn the_exit_code_is_1_if_it_cannot_start() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let scratch = Scratch::new("shadow-no-start");
    let mut program = run(&scratch, &["--shadow", "127.0.0.1:1", "--listen", &taken]);
    assert_eq!(program.exit_code(), Some(1));
    assert!(program.log().contains(&format!("cannot listen on {taken}")), "{}", program.log());
    let same = ["--shadow", "127.0.0.1:1", "--listen", "127.0.0.1:1"];
    assert_eq!(run(&scratch, &same).exit_code(), Some(1));
    let mut without_keys = run(&scratch, &["-s", "req", "--shadow", "127.0.0.1:1"]);
    assert_eq!(without_keys.exit_code(), Some(1));
}

#[test]
fn the_exit_code_is_2_for_wrong_arguments() {
    let scratch = Scratch::new("shadow-arguments");
    for wrong in [&["--shadow"][..], &["--shadow", "host:0"], &["--shadow", "host", "--shadows"]] {
        let mut program = run(&scratch, wrong);
        assert_eq!(program.exit_code(), Some(2), "{wrong:?}");
    }
}
