//! Certificates that do not belong together, and the end of a TLS connection.
#![allow(clippy::unwrap_used, reason = "helpers of tests, where a panic is the report")]

#[allow(dead_code, reason = "the other tests use the rest")]
mod common;

use std::process::{Child, Command, Stdio};

use certs::issue::{Authority, Kind, Serial, Subject, Validity};
use certs::{ArbiterTls, ClientCert, TlsStream, files};
use common::peers::{Arbiter, Node, PATIENCE, Scratch, patiently, until};
use common::{ours, settings};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protocol::host::{DeviceSettings, FromDevice, TlsMode};
use protocol::qnet::{MessageType, TlsSupport};
use qdevice::config::{Options, Places};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

#[expect(clippy::disallowed_methods, reason = "certificates are valid by the system clock")]
fn valid() -> Validity {
    Validity::starting(std::time::SystemTime::now())
}

fn authority() -> Authority {
    Authority::create(Kind::Own, Serial(101), valid()).unwrap()
}

fn issue(scratch: &Scratch, authority: &Authority, name: &str, subject: &Subject) {
    let issued = authority.issue(subject, Serial(102), valid()).unwrap();
    std::fs::write(scratch.path(&format!("{name}.pem")), issued.chain_pem).unwrap();
    std::fs::write(scratch.path(&format!("{name}-key.pem")), issued.key_pem).unwrap();
}

fn trust(scratch: &Scratch, authority: &Authority) {
    std::fs::write(scratch.path("ca.pem"), authority.certificate_pem()).unwrap();
}

fn options(scratch: &Scratch) -> Options {
    let path = |name: &str| scratch.path(name).to_str().unwrap().to_owned();
    let (ca, certificate, key) = (path("ca.pem"), path("node.pem"), path("node-key.pem"));
    scratch.options(&["--tls-ca", &ca, "--tls-cert", &certificate, "--tls-key", &key])
}

fn cluster() -> Subject {
    Subject::Cluster("TestCl".to_owned())
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused_at_the_start() {
    let scratch = Scratch::new();
    trust(&scratch, &authority());
    issue(&scratch, &authority(), "node", &cluster());
    let ended = patiently("refusal", qdevice::run(options(&scratch))).await;
    let said = format!("{:#}", ended.unwrap_err());
    let expected = format!(
        "{}: was issued by another authority: issue it again, by the authority whose certificate \
         is in {}",
        scratch.path("node.pem").display(),
        scratch.path("ca.pem").display()
    );
    assert_eq!(said, expected);
}

#[tokio::test]
async fn an_expired_certificate_is_refused_at_the_start() {
    let scratch = Scratch::new();
    let authority = authority();
    trust(&scratch, &authority);
    let years = std::time::Duration::from_secs(3 * 365 * 24 * 3600);
    let past = Validity { now: valid().now - years, months: 12 };
    let issued = authority.issue(&cluster(), Serial(102), past).unwrap();
    std::fs::write(scratch.path("node.pem"), issued.chain_pem).unwrap();
    std::fs::write(scratch.path("node-key.pem"), issued.key_pem).unwrap();
    let ended = patiently("refusal", qdevice::run(options(&scratch))).await;
    let said = format!("{:#}", ended.unwrap_err());
    assert!(said.contains("node.pem: has expired: issue it again"), "{said}");
}

/// A port for the device, and what its node says of it.
async fn port() -> (TcpListener, DeviceSettings) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, DeviceSettings { tls: TlsMode::Required, ..settings(port) })
}

/// Takes the device's call up to its first list.
async fn secured(scratch: &Scratch, listener: &TcpListener) -> Arbiter<TlsStream<TcpStream>> {
    let (stream, _) = patiently("call of the device", listener.accept()).await.unwrap();
    let mut plain = Arbiter::new(stream);
    plain.greet(TlsSupport::Required).await;
    plain.expect(MessageType::StartTls).await;
    let trust = files::load_trust(&scratch.path("ca.pem")).unwrap();
    let file = scratch.path("server.pem");
    let own = files::load_credential(&file, &scratch.path("server-key.pem")).unwrap();
    let tls = ArbiterTls::new(&trust, &own, ClientCert::Required).unwrap();
    let stream = tls.accept(plain.stream, plain.rest, PATIENCE).await.unwrap();
    let mut arbiter = Arbiter::new(stream);
    arbiter.admit(ours()).await;
    arbiter.expect(MessageType::NodeList).await;
    arbiter
}

#[tokio::test]
async fn a_certificate_that_becomes_foreign_does_not_cost_the_arbiter() {
    let scratch = Scratch::new();
    let authority = authority();
    trust(&scratch, &authority);
    issue(&scratch, &authority, "server", &Subject::Server);
    issue(&scratch, &authority, "node", &cluster());
    let (listener, settings) = port().await;
    let daemon = tokio::spawn(qdevice::run(options(&scratch)));
    let node_listener = scratch.listen();
    let mut node = Node::accept(&node_listener).await;
    node.introduce(settings, &[1]).await;
    let arbiter = secured(&scratch, &listener).await;

    issue(&scratch, &self::authority(), "node", &cluster());
    drop(arbiter);
    // It would be refused with what is in the files now.
    secured(&scratch, &listener).await;
    daemon.abort();
}

const PLACE: &str = "HAGUARD_TEST_TLS_PLACE";

/// A process with a device; killed at the end.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn the_end_of_the_process_ends_the_tls_stream_in_order() {
    if let Ok(args) = std::env::var(PLACE) {
        let args: Vec<String> = args.lines().map(str::to_owned).collect();
        let options = qdevice::prepare("t", &args, Places::Haguard).unwrap();
        return qdevice::run(options).await.unwrap();
    }
    let scratch = Scratch::new();
    let authority = authority();
    trust(&scratch, &authority);
    issue(&scratch, &authority, "server", &Subject::Server);
    issue(&scratch, &authority, "node", &cluster());
    let (listener, settings) = port().await;
    let node_listener = scratch.listen();

    let path = |name: &str| scratch.path(name).to_str().unwrap().to_owned();
    let args = ["run-dir=", "state-dir=", "tls-ca=ca.pem", "tls-cert=node.pem"];
    let args = args.into_iter().chain(["tls-key=node-key.pem"]).map(|flag| {
        let (flag, name) = flag.split_once('=').unwrap();
        format!("--{flag}={}", path(name))
    });
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", "the_end_of_the_process_ends_the_tls_stream_in_order"]);
    again.env(PLACE, args.collect::<Vec<_>>().join("\n"));
    again.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut process = Process(again.spawn().unwrap());

    let mut node = Node::accept(&node_listener).await;
    node.introduce(settings, &[1]).await;
    let mut arbiter = secured(&scratch, &listener).await;
    kill(Pid::from_raw(process.0.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    let mut rest = Vec::new();
    // An end without a close_notify would be an error here.
    patiently("end of the stream", arbiter.stream.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(node.poll().await.cast, None);
    assert_eq!(node.hear().await, FromDevice::Unregister);
    until("end", || process.0.try_wait().unwrap().is_some()).await;
    assert!(process.0.wait().unwrap().success());
}
