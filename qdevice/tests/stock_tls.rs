//! The device and the real corosync-qnetd over TLS, with certificates made by the stock scripts
//! (Debian packages corosync-qnetd and libnss3-tools).
#![allow(clippy::unwrap_used, reason = "helpers of tests, where a panic is the report")]

#[allow(dead_code, reason = "the other tests use the rest")]
mod common;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use certs::issue::{Key, Subject};
use certs::{CertificateDer, material};
use common::peers::{Node, Scratch, ask, patiently, until};
use common::{settings, view_id};
use protocol::host::{DeviceSettings, TlsMode};

const QNETD: &str = "/usr/bin/corosync-qnetd";
const QNETD_TOOL: &str = "/usr/bin/corosync-qnetd-tool";
const QNETD_CERTUTIL: &str = "/usr/bin/corosync-qnetd-certutil";
const NSS_CERTUTIL: &str = "/usr/bin/certutil";

/// Whether the peers are there; where tests must be whole they have to be.
#[expect(clippy::print_stderr, reason = "who runs the tests shall know what was not tested")]
fn peers_are_here() -> bool {
    let needed = [QNETD, QNETD_TOOL, QNETD_CERTUTIL, NSS_CERTUTIL];
    let Some(missing) = needed.into_iter().find(|path| !Path::new(path).exists()) else {
        return true;
    };
    let text = format!("{missing} is missing: install corosync-qnetd and libnss3-tools");
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{text}");
    eprintln!("not tested: {text}");
    false
}

fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}{complained}");
    said
}

/// A stock authority in a directory of ours, made by corosync-qnetd-certutil.
struct StockAuthority {
    directory: PathBuf,
}

impl StockAuthority {
    fn new(scratch: &Scratch, name: &str) -> Self {
        let authority = Self { directory: scratch.path(name) };
        std::fs::create_dir_all(&authority.directory).unwrap();
        let line = format!("CONFIG_DIR=\"{}\"", authority.directory.display());
        let script = std::fs::read_to_string(QNETD_CERTUTIL).unwrap();
        let moved = script.lines().map(|known| match known.starts_with("CONFIG_DIR=") {
            true => line.as_str(),
            false => known,
        });
        let moved = moved.collect::<Vec<_>>().join("\n");
        assert!(moved.contains(&line), "{QNETD_CERTUTIL} has no CONFIG_DIR");
        std::fs::write(authority.directory.join("script.sh"), moved).unwrap();
        run(authority.script().args(["-i", "-G"]));
        authority
    }

    fn script(&self) -> Command {
        let mut command = Command::new("bash");
        command.arg(self.directory.join("script.sh"));
        command
    }

    fn database(&self) -> PathBuf {
        self.directory.join("nssdb")
    }

    fn ca(&self) -> PathBuf {
        self.database().join("qnetd-cacert.crt")
    }

    /// Signs a request of ours; the certificate and its key are put beside the database.
    fn enrol(&self, cluster: &str) -> (PathBuf, PathBuf) {
        let file = |name: &str| self.directory.join(name);
        let key = Key::generate().unwrap();
        let request = file("request.crq");
        let subject = Subject::Cluster(cluster.to_owned());
        std::fs::write(&request, key.request(&subject).unwrap()).unwrap();
        run(self.script().arg("-s").arg("-c").arg(&request).args(["-n", cluster]));
        let signed = std::fs::read(self.database().join(format!("cluster-{cluster}.crt"))).unwrap();
        let chain = material::certificates_to_pem(&[CertificateDer::from(signed)]);
        let (certificate, private) = (file("node.pem"), file("node-key.pem"));
        std::fs::write(&certificate, chain).unwrap();
        std::fs::write(&private, &*key.to_pem()).unwrap();
        (certificate, private)
    }
}

/// Options for a device that believes the arbiters of `trusted`, with a certificate of `own`.
fn options(
    scratch: &Scratch,
    trusted: &StockAuthority,
    own: &StockAuthority,
) -> qdevice::config::Options {
    let (certificate, key) = own.enrol("TestCl");
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    scratch.options(&[
        "--tls-ca",
        &text(&trusted.ca()),
        "--tls-cert",
        &text(&certificate),
        "--tls-key",
        &text(&key),
    ])
}

/// The real arbiter, which takes nothing but TLS with a certificate; killed at the end.
struct Qnetd {
    process: Child,
    port: u16,
    socket: PathBuf,
}

impl Drop for Qnetd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Qnetd {
    async fn start(scratch: &Scratch, authority: &StockAuthority) -> Self {
        // Another process may take the port in between; then the next one is tried.
        for _ in 0..10 {
            let mut qnetd = Self::spawn(scratch, authority);
            let mut answers = false;
            until("word of corosync-qnetd", || {
                answers = qnetd.tool("-s").contains("QNetd address");
                answers || qnetd.process.try_wait().unwrap().is_some()
            })
            .await;
            if answers {
                return qnetd;
            }
        }
        panic!("corosync-qnetd does not start");
    }

    fn spawn(scratch: &Scratch, authority: &StockAuthority) -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let socket = scratch.path("qnetd.sock");
        let places = format!(
            "lock_file={},local_socket_file={},nss_db_dir={}",
            scratch.path("qnetd.pid").display(),
            socket.display(),
            authority.database().display()
        );
        let process = Command::new(QNETD)
            .args(["-f", "-s", "req", "-c", "on", "-l", "127.0.0.1", "-p", &port.to_string()])
            .args(["-S", &places])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { process, port, socket }
    }

    fn tool(&self, flag: &str) -> String {
        let output = Command::new(QNETD_TOOL).arg("-p").arg(&self.socket).arg(flag).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    }

    fn settings(&self) -> DeviceSettings {
        DeviceSettings { tls: TlsMode::Required, ..settings(self.port) }
    }
}

#[tokio::test]
async fn stock_arbiter_gives_its_vote_over_tls_and_sees_the_device_leave() {
    if !peers_are_here() {
        return;
    }
    let scratch = Scratch::new();
    let authority = StockAuthority::new(&scratch, "qnetd");
    let qnetd = Qnetd::start(&scratch, &authority).await;
    let daemon = tokio::spawn(qdevice::run(options(&scratch, &authority, &authority)));
    let node_listener = scratch.listen();
    let mut node = Node::accept(&node_listener).await;
    node.introduce(qnetd.settings(), &[1, 2]).await;
    let poll = node.poll().await;
    assert_eq!(poll.view, view_id(4));
    assert!(poll.cast.is_some());
    until("confirmed vote at corosync-qnetd", || {
        let list = qnetd.tool("-lv");
        let wanted = ["Cluster \"TestCl\":", "TLS active:\t\tYes (client certificate verified)"];
        wanted.iter().all(|text| list.contains(text))
            && list.lines().any(|line| line.contains("Vote:") && line.contains("ACK"))
    })
    .await;
    let answer = ask(&scratch.path("qdevice.sock"), "status verbose").await;
    assert!(answer.contains("TLS active:\t\tYes (client certificate sent)\n"), "{answer}");

    assert_eq!(ask(&scratch.path("qdevice.sock"), "shutdown").await, "OK\n");
    assert_eq!(node.poll().await.cast, None);
    patiently("end", daemon).await.unwrap().unwrap();
    until("end of the connection at corosync-qnetd", || {
        let status = qnetd.tool("-s");
        status.lines().any(|line| line.starts_with("Connected clients:") && line.ends_with("\t0"))
    })
    .await;
}

#[tokio::test]
async fn stock_arbiter_of_another_authority_is_not_believed() {
    if !peers_are_here() {
        return;
    }
    let scratch = Scratch::new();
    let (ours, theirs) =
        (StockAuthority::new(&scratch, "ours"), StockAuthority::new(&scratch, "theirs"));
    let qnetd = Qnetd::start(&scratch, &theirs).await;
    let daemon = tokio::spawn(qdevice::run(options(&scratch, &ours, &ours)));
    let node_listener = scratch.listen();
    let mut node = Node::accept(&node_listener).await;
    node.introduce(qnetd.settings(), &[1]).await;
    node.status(|state| state.contains("the arbiter's certificate is refused")).await;
    daemon.abort();
}

#[tokio::test]
async fn a_certificate_of_another_stock_authority_is_refused_at_the_start() {
    if !peers_are_here() {
        return;
    }
    let scratch = Scratch::new();
    let (ours, theirs) =
        (StockAuthority::new(&scratch, "ours"), StockAuthority::new(&scratch, "theirs"));
    let ended = patiently("refusal", qdevice::run(options(&scratch, &ours, &theirs))).await;
    let said = format!("{:#}", ended.unwrap_err());
    // Both authorities are named "QNet CA".
    assert!(said.contains("theirs/node.pem: was issued by another authority: "), "{said}");
    assert!(said.ends_with("ours/nssdb/qnetd-cacert.crt") && !said.contains('\n'), "{said}");
}
