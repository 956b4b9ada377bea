//! What keeps a node from starting: one line that says what, where, and what to do.

use std::net::UdpSocket;
use std::path::Path;
use std::process::{Command, Stdio};

use certs::issue::Subject;
use node::daemon;
use node::options::{KeeperProgram, Options};
use protocol::ids::NodeId;
use tokio::time::timeout;

use crate::site::{PATIENCE, Running, Site, authority, issue, member, poll};

async fn refused(options: Options, words: &[&str]) {
    let error = timeout(PATIENCE, daemon::run(options)).await.unwrap().unwrap_err();
    let text = error.to_string();
    assert_eq!(text.lines().count(), 1, "{text}");
    for words in words {
        assert!(text.contains(words), "{text:?} does not say {words:?}");
    }
}

#[tokio::test]
async fn a_bad_cluster_configuration_is_refused() {
    let site = Site::new();
    let options = site.options(1);
    let missing = Options { cluster_conf: "/no/such.conf".into(), ..options.clone() };
    refused(missing, &["/no/such.conf: cannot be read"]).await;
    let twice = std::fs::read_to_string(site.path("corosync.conf")).unwrap();
    std::fs::write(site.path("corosync.conf"), twice.replace("nodeid: 2", "nodeid: 1")).unwrap();
    refused(options.clone(), &["corosync.conf:"]).await;
    std::fs::write(site.path("corosync.conf"), "totem {").unwrap();
    refused(options, &["corosync.conf:1: "]).await;
}

#[tokio::test]
async fn a_node_that_is_not_found_in_the_configuration_is_refused() {
    let site = Site::new();
    let stranger = Options { node_id: Some(NodeId(9)), ..site.options(1) };
    refused(stranger, &["there is no node 9", "--node-id"]).await;
    let unknown = Options { node_id: None, ..site.options(1) };
    refused(unknown, &["no node has an address or the name of this host", "--node-id"]).await;
}

#[tokio::test]
async fn a_node_finds_itself_by_the_name_of_its_host() {
    let site = Site::new();
    let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
    let conf = std::fs::read_to_string(site.path("corosync.conf")).unwrap();
    let named = conf.replace("name: n2\n", &format!("name: {host}\n"));
    std::fs::write(site.path("corosync.conf"), named).unwrap();
    let node = Running::start(Options { node_id: None, ..site.options(2) });
    let status = node.until(PATIENCE, "a status", |_| true).await;
    assert_eq!(status.node, 2);
}

#[tokio::test]
async fn a_keeper_that_cannot_be_started_is_a_refusal() {
    let site = Site::new();
    let keeper = KeeperProgram { program: "/no/keeper".into(), prefix: Vec::new() };
    refused(Options { keeper, ..site.options(1) }, &["/no/keeper: cannot start the keeper"]).await;
    site.configure(2, " watchdog: /no/watchdog");
    refused(site.options(2), &["the keeper does not start", "/no/watchdog"]).await;
}

#[tokio::test]
async fn directories_must_exist() {
    let site = Site::new();
    let options = site.options(1);
    let run = Options { run_dir: "/no/run".into(), ..options.clone() };
    refused(run, &["run directory /no/run", "create it"]).await;
    let state = Options { state_dir: "/no/state".into(), ..options.clone() };
    refused(state, &["state directory /no/state", "create it"]).await;
    let long = site.path(&"x".repeat(100));
    std::fs::create_dir(&long).unwrap();
    refused(Options { run_dir: long, ..options }, &["too long for a socket path"]).await;
}

#[tokio::test]
async fn certificates_that_are_missing_foreign_or_anothers_are_refused() {
    let site = Site::new();
    let options = site.options(1);
    let missing = Options { tls_cert: "/no/cert.pem".into(), ..options.clone() };
    refused(missing, &["/no/cert.pem: there is no such file"]).await;
    let no_pem = Options { tls_ca: site.path("corosync.conf"), ..options.clone() };
    refused(no_pem, &["corosync.conf: has no certificate"]).await;
    let mixed = Options { tls_key: site.options(2).tls_key, ..options.clone() };
    refused(mixed, &["node.pem: does not belong to the private key in"]).await;
    let others = site.options(2);
    let others = Options { tls_cert: others.tls_cert, tls_key: others.tls_key, ..options.clone() };
    refused(others, &["bound to node 2, the peer says it is node 1"]).await;

    let write = |authority: &_, subject: &Subject| {
        site.write_certificate(1, &site.authority, &issue(authority, subject, 9));
    };
    write(&authority(), &member("c", 1));
    refused(options.clone(), &["not signed by the authority in the CA file"]).await;
    write(&site.authority, &member("d", 1));
    refused(options.clone(), &["node.pem: ", "names \"d\", not \"c\""]).await;
    write(&site.authority, &Subject::Cluster("c".to_owned()));
    refused(options.clone(), &["bound to no node"]).await;
}

#[tokio::test]
async fn addresses_that_cannot_be_listened_on_are_refused() {
    let site = Site::new();
    let options = site.options(1);
    let _taken = UdpSocket::bind(site.address(1, 0)).unwrap();
    refused(options.clone(), &["link 0 cannot listen on 127.", "in use", "--listen"]).await;
    let elsewhere = "192.0.2.1:5405".parse().unwrap();
    let listen = [(0, elsewhere)].into();
    refused(Options { listen, ..options.clone() }, &["192.0.2.1:5405/udp", "not this host's"])
        .await;
    let listen = [(0, site.address(7, 0)), (3, site.address(8, 0))].into();
    refused(Options { listen, ..options }, &["--listen names link 3"]).await;
}

#[tokio::test]
async fn state_that_is_foreign_is_refused() {
    let site = Site::new();
    let options = site.options(1);
    std::fs::write(options.state_dir.join("node.json"), "{}").unwrap();
    refused(options.clone(), &["node.json: is not the state of a haguard node"]).await;
    let newer = "{\"format\":\"haguard-node-state\",\"version\":2}";
    std::fs::write(options.state_dir.join("node.json"), newer).unwrap();
    refused(options, &["version 2", "run the newer program"]).await;
}

/// The part of the next test that has to be another process; by itself it has nothing to do.
#[test]
fn another_process_holds_a_lock_for_the_test_below() {
    let Some(path) = std::env::var_os("HOLD_THIS_LOCK") else { return };
    let _lock = host::lock::Lock::take(Path::new(&path)).unwrap();
    // Until the test closes its end.
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
}

#[tokio::test]
async fn a_second_daemon_in_one_place_is_refused() {
    let site = Site::new();
    let options = site.options(1);
    for directory in [&options.run_dir, &options.state_dir] {
        let lock = directory.join("node.lock");
        let mut holder = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "refusals::another_process_holds_a_lock_for_the_test_below"])
            .env("HOLD_THIS_LOCK", &lock)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let pid = holder.id().to_string();
        poll(PATIENCE, "the lock is held", || async {
            std::fs::read_to_string(&lock).ok().filter(|text| text.trim() == pid)
        })
        .await;
        refused(options.clone(), &["is locked by process", &pid, "another instance"]).await;
        drop(holder.stdin.take());
        holder.wait().unwrap();
    }
}
