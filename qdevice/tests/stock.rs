//! The device and the real corosync-qnetd, corosync-qnetd-tool and corosync-qdevice-tool (Debian
//! packages corosync-qnetd and corosync-qdevice).
#![allow(clippy::unwrap_used, reason = "helpers of tests, where a panic is the report")]

#[allow(dead_code, reason = "the other tests use the rest")]
mod common;

use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::peers::{Node, Scratch, patiently, until};
use common::{settings, view, view_id};
use protocol::host::FromHost;

const QNETD: &str = "/usr/bin/corosync-qnetd";
const QNETD_TOOL: &str = "/usr/bin/corosync-qnetd-tool";
const QDEVICE_TOOL: &str = "/usr/sbin/corosync-qdevice-tool";

/// Whether the peers are there; where tests must be whole they have to be.
#[expect(clippy::print_stderr, reason = "who runs the tests shall know what was not tested")]
fn peers_are_here() -> bool {
    let missing =
        [QNETD, QNETD_TOOL, QDEVICE_TOOL].into_iter().find(|path| !Path::new(path).exists());
    let Some(missing) = missing else { return true };
    let text = format!("{missing} is missing: install corosync-qnetd and corosync-qdevice");
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{text}");
    eprintln!("not tested: {text}");
    false
}

/// The real arbiter; killed at the end.
struct Qnetd {
    process: Child,
    port: u16,
    socket: String,
}

impl Drop for Qnetd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Qnetd {
    async fn start(scratch: &Scratch) -> Self {
        // Another process may take the port in between; then the next one is tried.
        for _ in 0..10 {
            let mut qnetd = Self::spawn(scratch);
            let mut answers = false;
            until("word of corosync-qnetd", || {
                answers = qnetd.tool(&["-s"]).contains("QNetd address");
                answers || qnetd.process.try_wait().unwrap().is_some()
            })
            .await;
            if answers {
                return qnetd;
            }
        }
        panic!("corosync-qnetd does not start");
    }

    fn spawn(scratch: &Scratch) -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let socket = scratch.path("qnetd.sock").to_str().unwrap().to_owned();
        let places =
            format!("lock_file={},local_socket_file={socket}", scratch.path("qnetd.pid").display());
        let process = Command::new(QNETD)
            .args(["-f", "-s", "off", "-l", "127.0.0.1", "-p", &port.to_string(), "-S", &places])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { process, port, socket }
    }

    fn tool(&self, args: &[&str]) -> String {
        run(QNETD_TOOL, &self.socket, args)
    }
}

fn run(tool: &str, socket: &str, args: &[&str]) -> String {
    let output = Command::new(tool).args(["-p", socket]).args(args).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn stock_arbiter_gives_its_vote_and_stock_tools_show_it() {
    if !peers_are_here() {
        return;
    }
    let scratch = Scratch::new();
    let qnetd = Qnetd::start(&scratch).await;
    let daemon = tokio::spawn(qdevice::run(scratch.options(&[])));
    let node_listener = scratch.listen();
    let mut node = Node::accept(&node_listener).await;
    node.introduce(settings(qnetd.port), &[1, 2]).await;
    let poll = node.poll().await;
    assert_eq!(poll.view, view_id(4));
    assert!(poll.cast.is_some());

    // A view of this node alone: it is the only one that is connected, so it has the vote.
    node.say(FromHost::View(view(5, &[1]))).await;
    let poll = node.poll().await;
    assert_eq!(poll.view, view_id(5));
    assert!(poll.cast.is_some());

    until("confirmed vote at corosync-qnetd", || {
        let list = qnetd.tool(&["-lv"]);
        ["Cluster \"TestCl\":", "Node ID 1:", "Ring ID:\t\t1.5", "(KAP Tie-breaker)"]
            .iter()
            .all(|text| list.contains(text))
            && list.lines().any(|line| line.contains("Vote:") && line.contains("ACK"))
    })
    .await;

    let socket = scratch.path("qdevice.sock").to_str().unwrap().to_owned();
    let shown = tokio::task::spawn_blocking(move || {
        let theirs = run(QDEVICE_TOOL, &socket, &["-s"]);
        let args = ["-sp".to_owned(), socket.clone()];
        let ours = qdevice::tool::run("corosync-qdevice-tool", &args).stdout;
        (theirs, ours, run(QDEVICE_TOOL, &socket, &["-H"]))
    });
    let (theirs, ours, _) = patiently("tools", shown).await.unwrap();
    assert!(theirs.contains("\nState:\t\t\tConnected\n"), "{theirs}");
    assert_eq!(theirs, ours);
    assert_eq!(node.poll().await.cast, None);
    patiently("end", daemon).await.unwrap().unwrap();
}

#[tokio::test]
async fn stock_arbiter_that_ends_takes_its_vote_with_it_and_is_found_again() {
    if !peers_are_here() {
        return;
    }
    let scratch = Scratch::new();
    let qnetd = Qnetd::start(&scratch).await;
    let daemon = tokio::spawn(qdevice::run(scratch.options(&[])));
    let node_listener = scratch.listen();
    let mut node = Node::accept(&node_listener).await;
    let mut settings = settings(qnetd.port);
    node.introduce(settings.clone(), &[1]).await;
    assert!(node.poll().await.cast.is_some());
    drop(qnetd);
    assert_eq!(node.poll().await.cast, None);
    let qnetd = Qnetd::start(&scratch).await;
    settings.port = qnetd.port;
    node.introduce(settings, &[1]).await;
    assert!(node.poll().await.cast.is_some());
    daemon.abort();
}
