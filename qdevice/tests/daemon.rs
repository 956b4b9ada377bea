//! The daemon between a scripted node and a scripted arbiter, on real sockets.
#![allow(clippy::unwrap_used, reason = "helpers of tests, where a panic is the report")]

#[allow(dead_code, reason = "the other tests use the rest")]
mod common;

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};

use certs::issue::{Authority, Kind, Serial, Subject, Validity};
use certs::{ArbiterTls, ClientCert, files};
use common::peers::{Arbiter, Node, PATIENCE, Scratch, ask, patiently, until};
use common::{ARBITER, LEASE, grant, grant_id, ours, settings, view, view_id, vote_info, welcome};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protocol::host::{DeviceSettings, FromDevice, FromHost, HeuristicsMode, TlsMode};
use protocol::ids::ArbiterId;
use protocol::qnet::{ArbiterHello, Message, MessageType, NodeListType, TlsSupport};
use protocol::status::DeviceStatus;
use protocol::vote::{Heuristics, Vote};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

async fn arbiter_port() -> (TcpListener, DeviceSettings) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = settings(listener.local_addr().unwrap().port());
    (listener, settings)
}

async fn called(listener: &TcpListener) -> Arbiter<TcpStream> {
    let (stream, _) = patiently("call of the device", listener.accept()).await.unwrap();
    Arbiter::new(stream)
}

/// Introduces an arbiter of ours, and takes in the lists.
async fn introduced(listener: &TcpListener) -> (Arbiter<TcpStream>, Message, u32) {
    let mut arbiter = called(listener).await;
    arbiter.greet(TlsSupport::Unsupported).await;
    let init = arbiter.admit(ours()).await;
    let echo = arbiter.expect(MessageType::EchoRequest).await;
    (arbiter, init, echo.options.seq.unwrap())
}

#[tokio::test]
async fn a_vote_goes_from_the_arbiter_to_the_node_and_is_confirmed() {
    let scratch = Scratch::new();
    let (listener, settings) = arbiter_port().await;
    let daemon = tokio::spawn(qdevice::run(scratch.options(&[])));
    let socket = scratch.path("qdevice.sock");
    until("socket", || socket.exists()).await;

    // Without a node it says so, and waits for one.
    let answer = ask(&socket, "haguard-status").await;
    let status: DeviceStatus = serde_json::from_str(answer.strip_prefix("OK\n").unwrap()).unwrap();
    assert!(status.state.starts_with("disconnected: "), "{}", status.state);
    let answer = ask(&socket, "status").await;
    assert!(answer.starts_with("Error\nCan't get QDevice status: "), "{answer}");
    assert_eq!(ask(&socket, "what ever").await, "Error\nUnknown command 'what'\n");
    assert_eq!(ask(&socket, "").await, "Error\nNo command specified\n");

    let node_listener = scratch.listen();
    let mut node = Node::accept(&node_listener).await;
    node.introduce(settings, &[1]).await;
    assert_eq!(node.hear().await, FromDevice::Register { name: "Qdevice".to_owned() });

    let (mut arbiter, init, anchor) = introduced(&listener).await;
    assert_eq!(init.options.hello.unwrap().held, None);
    let list = arbiter.expect(MessageType::NodeList).await;
    assert_eq!(list.options.list_type, Some(NodeListType::InitialConfig));
    arbiter.say(&vote_info(1, Vote::Ack, 4, Some(grant(7, 4, anchor)))).await;
    let poll = node.poll().await;
    let cast = poll.cast.expect("a vote");
    assert_eq!((poll.view, cast.grant), (view_id(4), grant_id(7)));
    let left = cast.expires.remaining(host::clock::read());
    assert!(left <= LEASE && left > LEASE - PATIENCE / 4, "{left:?}");
    let confirmed = arbiter.expect(MessageType::VoteInfoReply).await;
    assert_eq!(confirmed.options.seq, Some(1));

    let pin = scratch.path("arbiter.json");
    until("pin", || pin.exists()).await;
    let text = std::fs::read_to_string(&pin).unwrap();
    assert_eq!(text, format!(r#"{{"version":1,"id":"{ARBITER}"}}"#));

    let answer = ask(&socket, "STATUS verbose ").await;
    for line in ["OK", "State:\t\t\tConnected", "Poll timer running:\tYes (cast vote)"] {
        assert!(answer.lines().any(|found| found == line), "{line} in {answer}");
    }
    let answer = ask(&socket, "haguard-status").await;
    let status: DeviceStatus = serde_json::from_str(answer.strip_prefix("OK\n").unwrap()).unwrap();
    assert_eq!((status.vote.as_str(), status.epoch), ("ack", Some(7)));
    assert!(status.lease_remaining_ms.is_some_and(|left| u128::from(left) <= LEASE.as_millis()));

    // A lost connection is made anew, with the lease in hand.
    drop(arbiter);
    let (_arbiter, init, _) = introduced(&listener).await;
    let held = init.options.hello.unwrap().held.expect("the lease");
    assert_eq!((held.grant, held.view), (grant_id(7), view_id(4)));

    let tool = tokio::task::spawn_blocking(move || {
        let socket = socket.to_str().unwrap().to_owned();
        qdevice::tool::run("corosync-qdevice-tool", &["-Hp".to_owned(), socket])
    });
    assert_eq!(tool.await.unwrap().code, 0);
    assert_eq!(node.poll().await.cast, None);
    assert_eq!(node.hear().await, FromDevice::Unregister);
    patiently("end", daemon).await.unwrap().unwrap();
    assert!(!scratch.path("qdevice.sock").exists());
}

#[tokio::test]
async fn a_hostile_arbiter_is_tried_again_and_named_in_status() {
    let scratch = Scratch::new();
    let (listener, settings) = arbiter_port().await;
    let daemon = tokio::spawn(qdevice::run(scratch.options(&[])));
    let node_listener = scratch.listen();
    let mut node = Node::accept(&node_listener).await;
    node.introduce(settings, &[1]).await;

    let junk: [(&[u8], &str); 4] = [
        (b"", "closed the connection"),
        (&[0, 14, 0, 0, 0, 3, 1, 2, 3], "make no sense"),
        (&[0, 1, 0, 1, 0, 0], "over the limit"),
        (&[0, 99, 0, 0, 0, 0], "make no sense"),
    ];
    for (bytes, reason) in junk {
        let mut arbiter = called(&listener).await;
        arbiter.expect(MessageType::Preinit).await;
        arbiter.stream.write_all(bytes).await.unwrap();
        if bytes == [0, 1, 0, 1, 0, 0] {
            arbiter.stream.write_all(&[0; 65536]).await.unwrap();
        }
        arbiter.stream.shutdown().await.unwrap();
        let state = node.status(|state| state.contains(reason)).await;
        assert!(state.starts_with("disconnected: "), "{state}");
    }
    introduced(&listener).await;
    node.status(|state| state == "connected").await;
    // Another arbiter in its place is not believed.
    let mut other = called(&listener).await;
    other.greet(TlsSupport::Unsupported).await;
    other.admit(Some(ArbiterHello { id: ArbiterId(66), boot: 1 })).await;
    node.status(|state| state.contains("another arbiter answers")).await;
    assert!(!daemon.is_finished());
    daemon.abort();
}

#[tokio::test]
async fn a_node_that_goes_and_comes_is_found_again() {
    let scratch = Scratch::new();
    let (listener, settings) = arbiter_port().await;
    let daemon = tokio::spawn(qdevice::run(scratch.options(&[])));
    let node_listener = scratch.listen();
    let mut node = Node::accept(&node_listener).await;
    node.introduce(settings.clone(), &[1]).await;
    let (mut arbiter, ..) = introduced(&listener).await;
    drop(node);
    // A device without a host has no business with the arbiter.
    while arbiter.next().await.is_some() {}
    let mut node = Node::accept(&node_listener).await;
    node.introduce(settings, &[1]).await;
    assert_eq!(node.hear().await, FromDevice::Register { name: "Qdevice".to_owned() });
    introduced(&listener).await;
    daemon.abort();
}

#[tokio::test]
async fn heuristics_are_run_for_the_lists() {
    let scratch = Scratch::new();
    let (listener, mut settings) = arbiter_port().await;
    settings.heuristics.mode = HeuristicsMode::Sync;
    settings.heuristics.commands = BTreeMap::from([
        ("exec_a".to_owned(), "/bin/true".to_owned()),
        ("exec_b".to_owned(), format!("/bin/test -e {}", scratch.path("good").display())),
    ]);
    settings.heuristics.timeout_ms = 20_000;
    settings.heuristics.sync_timeout_ms = 20_000;
    settings.heuristics.interval_ms = 20_000;
    let daemon = tokio::spawn(qdevice::run(scratch.options(&[])));
    let node_listener = scratch.listen();
    let mut node = Node::accept(&node_listener).await;
    node.introduce(settings, &[1]).await;
    let (mut arbiter, ..) = introduced(&listener).await;
    let mut membership = async || loop {
        let list = arbiter.expect(MessageType::NodeList).await.options;
        if list.list_type == Some(NodeListType::Membership) {
            return list.heuristics;
        }
    };
    assert_eq!(membership().await, Some(Heuristics::Fail));
    std::fs::write(scratch.path("good"), "").unwrap();
    node.say(FromHost::View(view(5, &[1]))).await;
    assert_eq!(membership().await, Some(Heuristics::Pass));
    daemon.abort();
}

/// An authority and what it has issued, as files.
struct Site {
    authority: Authority,
    serial: u64,
}

impl Site {
    fn new() -> Self {
        let authority = Authority::create(Kind::Own, Serial(101), valid()).unwrap();
        Self { authority, serial: 101 }
    }

    fn issue(&mut self, scratch: &Scratch, name: &str, subject: &Subject) {
        self.serial += 1;
        let issued = self.authority.issue(subject, Serial(self.serial), valid()).unwrap();
        std::fs::write(scratch.path("ca.pem"), self.authority.certificate_pem()).unwrap();
        std::fs::write(scratch.path(&format!("{name}.pem")), issued.chain_pem).unwrap();
        std::fs::write(scratch.path(&format!("{name}-key.pem")), issued.key_pem).unwrap();
    }
}

#[expect(clippy::disallowed_methods, reason = "certificates are valid by the system clock")]
fn valid() -> Validity {
    Validity::starting(std::time::SystemTime::now())
}

fn tls_options(scratch: &Scratch, certificate: &str, key: &str) -> qdevice::config::Options {
    let path = |name: &str| scratch.path(name).to_str().unwrap().to_owned();
    scratch.options(&[
        "--tls-ca",
        &path("ca.pem"),
        "--tls-cert",
        &path(certificate),
        "--tls-key",
        &path(key),
    ])
}

#[tokio::test]
async fn tls_is_spoken_with_the_arbiter() {
    let scratch = Scratch::new();
    let mut site = Site::new();
    site.issue(&scratch, "server", &Subject::Server);
    site.issue(&scratch, "client", &Subject::Cluster("TestCl".to_owned()));
    let (listener, mut settings) = arbiter_port().await;
    settings.tls = TlsMode::Required;
    let daemon = tokio::spawn(qdevice::run(tls_options(&scratch, "client.pem", "client-key.pem")));
    let node_listener = scratch.listen();
    let mut node = Node::accept(&node_listener).await;
    node.introduce(settings, &[1]).await;

    let mut plain = called(&listener).await;
    plain.greet(TlsSupport::Required).await;
    plain.expect(MessageType::StartTls).await;
    let trust = files::load_trust(&scratch.path("ca.pem")).unwrap();
    let own = scratch.path("server.pem");
    let own = files::load_credential(&own, &scratch.path("server-key.pem")).unwrap();
    let tls = ArbiterTls::new(&trust, &own, ClientCert::Required).unwrap();
    let stream = tls.accept(plain.stream, plain.rest, PATIENCE).await.unwrap();
    assert_eq!(stream.peer().unwrap().cluster, "TestCl".into());
    let mut arbiter = Arbiter::new(stream);
    arbiter.admit(ours()).await;
    let anchor = arbiter.expect(MessageType::EchoRequest).await.options.seq.unwrap();
    arbiter.say(&vote_info(1, Vote::Ack, 4, Some(grant(7, 4, anchor)))).await;
    assert!(node.poll().await.cast.is_some());
    let answer = ask(&scratch.path("qdevice.sock"), "status verbose").await;
    assert!(answer.contains("TLS active:\t\tYes (client certificate sent)\n"), "{answer}");
    daemon.abort();
}

async fn refusal(options: qdevice::config::Options) -> String {
    let ended = patiently("refusal", qdevice::run(options)).await;
    let text = format!("{:#}", ended.expect_err("a refusal"));
    assert!(!text.contains('\n'), "{text}");
    text
}

#[tokio::test]
async fn what_cannot_work_is_refused_at_the_start() {
    let scratch = Scratch::new();
    let missing = scratch.path("none");
    let missing = missing.to_str().unwrap();
    let said = refusal(scratch.options(&["--run-dir", missing])).await;
    assert!(said.starts_with(&format!("run directory {missing}: ")), "{said}");
    let said = refusal(scratch.options(&["--state-dir", missing])).await;
    assert!(said.starts_with(&format!("state directory {missing}: ")), "{said}");

    let mut site = Site::new();
    site.issue(&scratch, "client", &Subject::Cluster("TestCl".to_owned()));
    site.issue(&scratch, "other", &Subject::Cluster("TestCl".to_owned()));
    let said = refusal(tls_options(&scratch, "none.pem", "client-key.pem")).await;
    assert!(said.contains("none.pem: there is no such file"), "{said}");
    let said = refusal(tls_options(&scratch, "client.pem", "other-key.pem")).await;
    assert!(said.contains("does not belong to the private key"), "{said}");
    let said = refusal(tls_options(&scratch, "client.pem", "client.pem")).await;
    assert!(said.contains("no plain private key"), "{said}");

    std::fs::write(scratch.path("arbiter.json"), "junk").unwrap();
    let said = refusal(scratch.options(&[])).await;
    assert!(said.contains("arbiter.json: not an arbiter's identity"), "{said}");
}

#[tokio::test]
async fn a_certificate_that_does_not_fit_the_node_is_refused_when_it_is_known() {
    for (subject, expected) in [
        (Some(Subject::Cluster("OtherCl".to_owned())), "names \"OtherCl\", not \"TestCl\""),
        (None, "there is no such file"),
    ] {
        let scratch = Scratch::new();
        let options = match subject {
            Some(subject) => {
                Site::new().issue(&scratch, "client", &subject);
                tls_options(&scratch, "client.pem", "client-key.pem")
            }
            // The default paths: only the node knows whether they are needed.
            None => {
                let mut options = scratch.options(&[]);
                options.tls_ca = scratch.path("none.pem");
                options
            }
        };
        let daemon = tokio::spawn(refusal(options));
        let node_listener = scratch.listen();
        let mut node = Node::accept(&node_listener).await;
        node.introduce(DeviceSettings { tls: TlsMode::On, ..settings(1) }, &[1]).await;
        let said = daemon.await.unwrap();
        assert!(said.contains(expected), "{said}");
    }
}

/// Kills at the end.
struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const HOLD: &str = "HAGUARD_TEST_HOLD_PLACE";

impl Holder {
    /// Starts this test again, as the process of a daemon.
    async fn start(test: &str, scratch: &Scratch) -> Self {
        let mut again = Command::new(std::env::current_exe().unwrap());
        again.args(["--exact", test]).env(HOLD, scratch.path(""));
        again.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let holder = Self(again.spawn().unwrap());
        until("daemon", || scratch.path("qdevice.sock").exists()).await;
        holder
    }

    /// Whether this is that process; it has then been the daemon to its end.
    async fn is_this() -> bool {
        let Some(place) = std::env::var_os(HOLD) else { return false };
        let place = place.to_str().unwrap().to_owned();
        let args = ["--run-dir".to_owned(), place.clone(), "--state-dir".to_owned(), place];
        let options = qdevice::prepare("t", &args, qdevice::config::Places::Haguard).unwrap();
        qdevice::run(options).await.unwrap();
        true
    }
}

#[tokio::test]
async fn a_second_daemon_in_one_place_is_refused() {
    if Holder::is_this().await {
        return;
    }
    let scratch = Scratch::new();
    let holder = Holder::start("a_second_daemon_in_one_place_is_refused", &scratch).await;
    let said = refusal(scratch.options(&[])).await;
    let id = holder.0.id();
    assert!(said.contains(&format!("is locked by process {id}: another instance")), "{said}");
    // The first one is not harmed by the try.
    assert!(ask(&scratch.path("qdevice.sock"), "haguard-status").await.starts_with("OK\n"));
}

#[tokio::test]
async fn signals_end_it_in_order() {
    if Holder::is_this().await {
        return;
    }
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let scratch = Scratch::new();
        let node_listener = scratch.listen();
        let mut holder = Holder::start("signals_end_it_in_order", &scratch).await;
        let mut node = Node::accept(&node_listener).await;
        node.introduce(settings(1), &[1]).await;
        node.status(|state| state.contains("cannot connect to 127.0.0.1:1")).await;
        kill(Pid::from_raw(holder.0.id().try_into().unwrap()), signal).unwrap();
        assert_eq!(node.poll().await.cast, None);
        assert_eq!(node.hear().await, FromDevice::Unregister);
        until("end", || holder.0.try_wait().unwrap().is_some()).await;
        assert!(holder.0.wait().unwrap().success());
        assert!(!scratch.path("qdevice.sock").exists());
    }
}

#[tokio::test]
async fn a_section_that_goes_and_comes_back_ends_the_vote_and_asks_for_it_anew() {
    let scratch = Scratch::new();
    let (listener, settings) = arbiter_port().await;
    let daemon = tokio::spawn(qdevice::run(scratch.options(&[])));
    let node_listener = scratch.listen();
    let mut node = Node::accept(&node_listener).await;
    node.introduce(settings.clone(), &[1]).await;
    let (mut arbiter, _, anchor) = introduced(&listener).await;
    arbiter.say(&vote_info(1, Vote::Ack, 4, Some(grant(7, 4, anchor)))).await;
    assert!(node.poll().await.cast.is_some());

    let mut without = welcome(settings.clone());
    without.device = None;
    node.say(FromHost::Welcome(Box::new(without))).await;
    while node.poll().await.cast.is_some() {}
    assert_eq!(node.hear().await, FromDevice::Unregister);
    while arbiter.next().await.is_some() {}
    let answer = ask(&scratch.path("qdevice.sock"), "haguard-status").await;
    assert!(answer.contains("the node's configuration has no quorum.device"), "{answer}");

    node.introduce(settings, &[1]).await;
    assert_eq!(node.hear().await, FromDevice::Register { name: "Qdevice".to_owned() });
    let (_arbiter, init, _) = introduced(&listener).await;
    assert_eq!(init.options.hello.unwrap().held, None, "the vote was given back");
    daemon.abort();
}

#[test]
fn wrong_usage_has_its_exit_codes() {
    use qdevice::config::Places;
    let refused = |args: &[&str], places| {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        qdevice::prepare("corosync-qdevice", &args, places).unwrap_err()
    };
    let help = refused(&["-h"], Places::Stock);
    let first = "usage: corosync-qdevice [-dfh] [-S option=value[,option2=value2,...]]\n";
    assert!(help.stdout.starts_with(first), "{}", help.stdout);
    assert_eq!((help.stderr.as_str(), help.code), ("", 1));
    let wrong = refused(&["-S", "foo=1"], Places::Stock);
    assert_eq!(wrong.stderr, "corosync-qdevice: Unknown option 'foo'\n");
    assert_eq!((wrong.stdout.as_str(), wrong.code), ("", 1));
    let wrong = refused(&["-z"], Places::Haguard);
    assert_eq!(wrong.stderr, "corosync-qdevice: invalid option -- 'z'\n");
    assert!(wrong.stdout.starts_with(first));
    assert_eq!(wrong.code, 2);
    let missing = refused(&["--config", "/no/such/file"], Places::Haguard);
    assert!(missing.stderr.contains("/no/such/file: there is no such file"), "{}", missing.stderr);
    assert_eq!(missing.code, 2);
}

#[test]
fn a_daemon_that_cannot_find_its_arbiter_ends_when_it_is_told_to() {
    let scratch = Scratch::new();
    let options = scratch.options(&["--arbiter", "no.such.host.invalid:1"]);
    let socket = scratch.path("qdevice.sock");
    let place = scratch.path("device.sock");
    let stopper = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::UnixListener::bind(place).unwrap();
            let mut node = Node::accept(&listener).await;
            node.introduce(settings(1), &[1]).await;
            node.status(|state| state.starts_with("connecting")).await;
            ask(&socket, "shutdown").await
        })
    });
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(qdevice::run_blocking(options).is_ok()));
    assert_eq!(ended.recv_timeout(PATIENCE), Ok(true));
    assert_eq!(stopper.join().unwrap(), "OK\n");
}
