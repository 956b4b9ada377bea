//! Enrolment across the two program sets: what `pvecm qdevice setup` does on arbiter and nodes,
//! command for command, with the stock programs on one side and ours on the other; the same by `-Q`;
//! and a store taken over from NSS, and given back. Each ends in connections with TLS required.
//!
//! `docs/certificates.md` says the same for people.

#![expect(clippy::unwrap_used, reason = "a step that fails ends its test")]

mod common;
#[path = "enrol/hosts.rs"]
mod hosts;
#[path = "enrol/stores.rs"]
mod stores;
#[path = "enrol/twice.rs"]
mod twice;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use common::client::Client;
use protocol::qnet::{Message, MessageType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use hosts::{ARBITER_STORE, Host, NODE_STORE, Running, Side, copy, lossy, possible};

const CLUSTER: &str = "TestCl";

/// Where a cluster's file system for configuration is in these tests: the same files on all nodes.
const SHARED: &str = "/etc/corosync/pve";

/// Steps 3 to 11 of `pvecm qdevice setup`, whose others bring ssh keys there, change the cluster's
/// configuration and start its services. Returns what the arbiter said when it signed.
fn pvecm_setup(arbiter: &Host, nodes: &[Host]) -> String {
    // Its exit code does not count: the arbiter may have been initialized before.
    arbiter.run(&["corosync-qnetd-certutil", "-i"]);
    let ca = format!("{SHARED}/qnetd-cacert.crt");
    for node in nodes {
        copy(arbiter, &format!("{ARBITER_STORE}/qnetd-cacert.crt"), node, &ca);
        node.run(&["corosync-qdevice-net-certutil", "-i", "-c", &ca]);
        fs::remove_file(node.path(&ca)).unwrap();
    }
    let first = &nodes[0];
    first.must(&["corosync-qdevice-net-certutil", "-r", "-n", CLUSTER]);
    let request = "/tmp/qdevice-net-node.crq";
    copy(first, &format!("{NODE_STORE}/qdevice-net-node.crq"), arbiter, request);
    let sign = ["corosync-qnetd-certutil", "-s", "-c", request, "-n", CLUSTER];
    let output = arbiter.run(&sign);
    let [printed, said] = [&output.stdout, &output.stderr].map(|text| lossy(text));
    assert!(output.status.success(), "{printed}{said}");
    let signed = format!("{ARBITER_STORE}/cluster-{CLUSTER}.crt");
    // By this line pcs finds the file.
    assert!(printed.lines().any(|line| line == format!("Certificate stored in {signed}")));
    let here = format!("{NODE_STORE}/cluster-{CLUSTER}.crt");
    copy(arbiter, &signed, first, &here);
    let packed = first.must(&["corosync-qdevice-net-certutil", "-M", "-c", &here]);
    let bundle = format!("{NODE_STORE}/qdevice-net-node.p12");
    assert!(packed.lines().any(|line| line == format!("Certificate stored in {bundle}")));
    let shared = format!("{SHARED}/qdevice-net-node.p12");
    for node in nodes {
        copy(first, &bundle, node, &shared);
        node.must(&["corosync-qdevice-net-certutil", "-m", "-c", &shared]);
        fs::remove_file(node.path(&shared)).unwrap();
    }
    said
}

/// A node's certificates as PEM files: ours are, those of a stock node are taken out of its store.
fn pem_directory(node: &Host) -> String {
    let directory = match node.side {
        Side::Ours => NODE_STORE,
        Side::Stock => {
            let out = "/etc/corosync/pem";
            let import = ["certs", "import", "--nssdb", NODE_STORE, "--out", out];
            if !node.path(out).exists() {
                node.must(&[&["/etc/corosync/bin/haguard"], &import[..]].concat());
            }
            out
        }
    };
    node.path(directory).display().to_string()
}

/// Every node connects with TLS and its certificate, introduces itself, and is heard.
async fn connect(arbiter: &Running, nodes: &[Host]) {
    for (id, node) in (1..).zip(nodes) {
        let directory = pem_directory(node);
        Client::join(arbiter.address, &directory, CLUSTER, id).await.echo(7).await;
    }
}

async fn set_up_and_connect(arbiter: Side, nodes: [Side; 2]) {
    if !possible() {
        return;
    }
    let arbiter = Host::new(arbiter);
    let nodes = nodes.map(Host::new);
    pvecm_setup(&arbiter, &nodes);
    connect(&arbiter.start_arbiter("req"), &nodes).await;
}

#[tokio::test]
async fn stock_nodes_are_enrolled_at_our_arbiter() {
    set_up_and_connect(Side::Ours, [Side::Stock, Side::Stock]).await;
}

#[tokio::test]
async fn our_nodes_are_enrolled_at_the_stock_arbiter() {
    set_up_and_connect(Side::Stock, [Side::Ours, Side::Ours]).await;
}

#[tokio::test]
async fn a_stock_node_takes_the_key_that_our_node_has_made() {
    set_up_and_connect(Side::Ours, [Side::Ours, Side::Stock]).await;
}

#[tokio::test]
async fn our_node_takes_the_key_that_a_stock_node_has_made() {
    set_up_and_connect(Side::Stock, [Side::Stock, Side::Ours]).await;
}

#[tokio::test]
async fn a_cluster_that_was_removed_and_is_set_up_again_is_signed_again() {
    if !possible() {
        return;
    }
    let arbiter = Host::new(Side::Ours);
    let nodes = [Side::Stock, Side::Ours].map(Host::new);
    assert_eq!(pvecm_setup(&arbiter, &nodes), "");
    // `pvecm qdevice remove` leaves everything on the arbiter as it is.
    for node in &nodes {
        node.must(&["rm", "-rf", "/etc/corosync/qdevice", "/etc/corosync/pem"]);
        node.must(&["mkdir", "-p", "/etc/corosync/qdevice/net"]);
    }
    let said = pvecm_setup(&arbiter, &nodes);
    assert!(said.contains("cluster \"TestCl\" had a certificate"), "{said}");
    connect(&arbiter.start_arbiter("req"), &nodes).await;
}

#[test]
fn the_two_programs_need_no_nss_tools() {
    if !possible() {
        return;
    }
    let host = Host::new(Side::Ours);
    let run = |name: &str, args: &[&str]| {
        let program = format!("/etc/corosync/bin/{name}");
        host.must(&[&["env", "PATH=/nonexistent", &program], args].concat());
    };
    let (arbiter, node) = ("corosync-qnetd-certutil", "corosync-qdevice-net-certutil");
    let [ca, signed] =
        ["qnetd-cacert.crt", "cluster-TestCl.crt"].map(|name| format!("{ARBITER_STORE}/{name}"));
    run(arbiter, &["-i", "-G"]);
    run(node, &["-i", "-c", &ca]);
    run(node, &["-r", "-n", CLUSTER]);
    let request = format!("{NODE_STORE}/qdevice-net-node.crq");
    run(arbiter, &["-s", "-c", &request, "-n", CLUSTER]);
    run(node, &["-M", "-c", &signed]);
    run(node, &["-m", "-c", &format!("{NODE_STORE}/qdevice-net-node.p12")]);
    // By one of these pcs and crmsh see that there is a store.
    let known = ["cert9.db", "key4.db", "pkcs11.txt", "cert8.db", "key3.db", "secmod.db"];
    for store in [ARBITER_STORE, NODE_STORE] {
        assert!(host.names(store).iter().any(|name| known.contains(&name.as_str())), "{store}");
    }
}

/// Whether the arbiter goes on to a handshake when it is asked for TLS.
async fn offers_tls(arbiter: &Running) -> bool {
    let mut socket = TcpStream::connect(arbiter.address).await.unwrap();
    let mut preinit = Message::new(MessageType::Preinit, Some(1));
    preinit.options.cluster_name = Some(CLUSTER.into());
    socket.write_all(&preinit.encode()).await.unwrap();
    socket.read_u16().await.unwrap();
    let length = usize::try_from(socket.read_u32().await.unwrap()).unwrap();
    socket.read_exact(&mut vec![0; length]).await.unwrap();
    socket.write_all(&Message::new(MessageType::StartTls, Some(2)).encode()).await.unwrap();
    // Without certificates it closes; with them it waits for us to speak.
    timeout(Duration::from_millis(300), socket.read_u8()).await.is_err()
}

#[tokio::test]
async fn keys_made_while_the_arbiter_runs_are_taken_up() {
    if !possible() {
        return;
    }
    let arbiter = Host::new(Side::Ours);
    let nodes = [Side::Stock, Side::Ours].map(Host::new);
    let running = arbiter.start_arbiter("req");
    assert!(!offers_tls(&running).await);
    pvecm_setup(&arbiter, &nodes);
    let limit = Instant::now() + common::LIMIT;
    while !offers_tls(&running).await {
        assert!(Instant::now() < limit, "the certificates are not taken up");
    }
    connect(&running, &nodes).await;
}

/// ssh(1) and scp(1) between the hosts of a test, for `-Q`.
const SSH: &str = "#!/bin/sh\nhost=${1#root@}\npid=$(cat /etc/corosync/hosts/$host)\n\
    exec nsenter --mount=/proc/$pid/ns/mnt --wd=/ -- env PATH=@PATH@ sh -c \"$2\"\n";
const SCP: &str = "#!/bin/sh\nplace() {\n  case $1 in\n  root@*) host=${1#root@}; \
    echo /proc/$(cat /etc/corosync/hosts/${host%%:*})/root${1#*:} ;;\n  *) echo $1 ;;\n  esac\n}\n\
    exec cp \"$(place \"$1\")\" \"$(place \"$2\")\"\n";

#[tokio::test]
async fn the_quick_start_enrols_a_cluster_of_both_kinds() {
    if !possible() {
        return;
    }
    let arbiter = Host::new(Side::Ours);
    let nodes = [Side::Ours, Side::Stock].map(Host::new);
    let here = &nodes[0];
    fs::create_dir(here.path("/etc/corosync/hosts")).unwrap();
    for (name, host) in [("q", &arbiter), ("n1", &nodes[0]), ("n2", &nodes[1])] {
        let file = here.path(&format!("/etc/corosync/hosts/{name}"));
        fs::write(file, host.pid().to_string()).unwrap();
    }
    // The remote side's PATH is that of its host; the stock node has no program of ours in it.
    let path = "$([ $host = n2 ] && echo /usr/sbin:/usr/bin:/sbin:/bin || echo \
        /etc/corosync/bin:/usr/sbin:/usr/bin:/sbin:/bin)";
    for (name, text) in [("ssh", SSH.replace("@PATH@", path)), ("scp", SCP.to_owned())] {
        let file = here.path(&format!("/etc/corosync/bin/{name}"));
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let quick = ["corosync-qdevice-net-certutil", "-Q", "-n", CLUSTER, "q", "n1", "n2"];
    here.must(&quick);
    connect(&arbiter.start_arbiter("req"), &nodes).await;
    let said = here.refused(1, &quick);
    assert!(said.contains("n1: has a store already"), "{said}");
}
