//! `haguard certs import` and `export`, with the stores and the daemon of the stock programs.

use std::fs;
use std::fs::File;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use protocol::ids::{ClusterName, RingId};
use protocol::qnet::{Message, MessageType, numbers, stock_options, supported_messages};
use protocol::vote::{Algorithm, TieBreaker};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::hosts::{ARBITER_STORE, Host, NODE_STORE, Side, copy, lossy, possible};
use super::{CLUSTER, connect, pvecm_setup};

const HAGUARD: &str = "/etc/corosync/bin/haguard";

fn import(extra: &[&str]) -> Vec<String> {
    let words = [HAGUARD, "certs", "import", "--nssdb", ARBITER_STORE];
    words.iter().chain(extra).map(|word| (*word).to_owned()).collect()
}

fn words(command: &[String]) -> Vec<&str> {
    command.iter().map(String::as_str).collect()
}

/// The same store with other programs.
fn replaced(before: &Host, store: &str, side: Side) -> Host {
    let host = Host::new(side);
    fs::create_dir_all(host.path(store)).unwrap();
    for name in before.names(store) {
        let path = format!("{store}/{name}");
        copy(before, &path, &host, &path);
    }
    host
}

#[tokio::test]
async fn an_imported_store_serves_the_clusters_that_are_enrolled() {
    if !possible() {
        return;
    }
    let stock = Host::new(Side::Stock);
    let nodes = [Side::Stock, Side::Stock].map(Host::new);
    pvecm_setup(&stock, &nodes);
    let arbiter = replaced(&stock, ARBITER_STORE, Side::Ours);
    let said = arbiter.refused(1, &["corosync-qnetd-certutil", "-i"]);
    assert!(said.contains("haguard certs import --nssdb /etc/corosync/qnetd/nssdb"), "{said}");
    let database = arbiter.read(&format!("{ARBITER_STORE}/key4.db"));
    arbiter.must(&words(&import(&[])));
    assert_eq!(arbiter.read(&format!("{ARBITER_STORE}/key4.db")), database);
    let mode = |name: &str| {
        let path = arbiter.path(&format!("{ARBITER_STORE}/{name}"));
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    assert_eq!((mode("ca-key.pem"), mode("arbiter-key.pem")), (0o600, 0o640));
    connect(&arbiter.start_arbiter("req"), &nodes).await;
    let more = [Host::new(Side::Ours)];
    pvecm_setup(&arbiter, &more);
    assert_eq!(arbiter.read(&format!("{ARBITER_STORE}/serial.txt")), b"104\n");
    connect(&arbiter.start_arbiter("req"), &more).await;
    let again = arbiter.refused(1, &words(&import(&[])));
    assert!(again.contains("has certificates of haguard already"), "{again}");
}

#[tokio::test]
async fn an_exported_store_serves_in_the_stock_arbiter() {
    if !possible() {
        return;
    }
    let arbiter = Host::new(Side::Ours);
    let nodes = [Side::Ours, Side::Stock].map(Host::new);
    pvecm_setup(&arbiter, &nodes);
    let export = [HAGUARD, "certs", "export", "--nssdb", ARBITER_STORE];
    arbiter.must(&export);
    let owner = |name: &str| {
        let found = fs::metadata(arbiter.path(&format!("{ARBITER_STORE}/{name}"))).unwrap();
        (found.uid(), found.gid())
    };
    for name in ["cert9.db", "key4.db", "pkcs11.txt", "serial.txt", "pwdfile.txt", "noise.txt"] {
        assert_eq!(owner(name), owner(""), "{name}");
    }
    let modules = lossy(&arbiter.read(&format!("{ARBITER_STORE}/pkcs11.txt")));
    assert!(modules.contains(&format!("configdir='{ARBITER_STORE}'")), "{modules}");
    let stock = replaced(&arbiter, ARBITER_STORE, Side::Stock);
    connect(&stock.start_arbiter("req"), &nodes).await;
    let more = [Host::new(Side::Stock)];
    pvecm_setup(&stock, &more);
    assert_eq!(stock.read(&format!("{ARBITER_STORE}/serial.txt")), b"104\n");
    connect(&stock.start_arbiter("req"), &more).await;
    let again = arbiter.refused(1, &export);
    assert!(again.contains("has an NSS store already"), "{again}");
}

#[test]
fn a_store_that_cannot_be_imported_is_left_as_it_is() {
    if !possible() {
        return;
    }
    let host = Host::new(Side::Stock);
    host.must(&["corosync-qnetd-certutil", "-i"]);
    let file = |name: &str| host.path(&format!("{ARBITER_STORE}/{name}"));
    let refused = |what: &str| {
        let names = host.names(ARBITER_STORE);
        let said = host.refused(1, &words(&import(&[])));
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains(what), "{what:?} is not in: {said}");
        assert_eq!(host.names(ARBITER_STORE), names, "after {said}");
    };
    for (name, what) in [
        ("key4.db", "key4.db: is missing although the other file is there"),
        ("serial.txt", "serial.txt: has no serial: write the highest one"),
    ] {
        fs::rename(file(name), host.path("/etc/corosync/kept")).unwrap();
        refused(what);
        fs::copy(host.path("/etc/corosync/kept"), file(name)).unwrap();
    }
    let database = fs::read(file("key4.db")).unwrap();
    fs::write(file("key4.db"), &database[..3000]).unwrap();
    refused("certutil failed");
    fs::write(file("key4.db"), database).unwrap();
    fs::write(file("key4.db-journal"), "x").unwrap();
    refused("a write was not ended");
    fs::remove_file(file("key4.db-journal")).unwrap();

    let writing = File::options().write(true).open(file("key4.db")).unwrap();
    let lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0x4000_0000,
        l_len: 1,
        l_pid: 0,
    };
    fcntl(&writing, FcntlArg::F_SETLK(&lock)).unwrap();
    refused(&format!("is being written by process {}", std::process::id()));
    drop(writing);

    let without = ["env", "PATH=/nonexistent", HAGUARD, "certs", "import"];
    let said = host.refused(1, &without);
    assert!(said.contains("is not installed: install libnss3-tools"), "{said}");
    host.must(&["certutil", "-F", "-d", ARBITER_STORE, "-n", "QNetd Cert"]);
    refused("has no certificate with a key by the name \"QNetd Cert\"");
    host.must(&["rm", "-rf", ARBITER_STORE]);
    let said = host.refused(1, &words(&import(&["--out", "/etc/corosync/out"])));
    assert!(said.contains("there is no NSS certificate store"), "{said}");
    assert!(!host.path("/etc/corosync/out").exists());
}

#[test]
fn a_store_with_a_password_is_imported_once_the_password_is_there() {
    if !possible() {
        return;
    }
    let host = Host::new(Side::Stock);
    let script = "set -e\ncd /etc/corosync/qnetd\nmkdir nssdb\necho secret > nssdb/pwdfile.txt\n\
        head -c 64 /dev/urandom > noise\ncertutil -N -d nssdb -f nssdb/pwdfile.txt\n\
        printf 'y\\n0\\ny\\n' | certutil -S -n 'QNet CA' -s 'CN=QNet CA' -x -t CT,, -m 101 -v 12 \
        -d nssdb -z noise -f nssdb/pwdfile.txt -2 >/dev/null\n\
        certutil -S -n 'QNetd Cert' -s 'CN=Qnetd Server' -c 'QNet CA' -t u,u,u -m 102 -v 12 \
        -d nssdb -z noise -f nssdb/pwdfile.txt\necho 102 > nssdb/serial.txt\n\
        mv nssdb/pwdfile.txt password\n";
    host.must(&["sh", "-c", script]);
    let file = |name: &str| host.path(&format!("/etc/corosync/qnetd/{name}"));
    for wrong in ["", "wrong\n"] {
        fs::write(file("nssdb/pwdfile.txt"), wrong).unwrap();
        let said = host.refused(1, &words(&import(&[])));
        assert!(said.contains("is protected with a password"), "{said}");
    }
    fs::copy(file("password"), file("nssdb/pwdfile.txt")).unwrap();
    host.must(&words(&import(&[])));
    assert!(file("nssdb/arbiter.pem").exists());
}

#[test]
fn a_store_of_two_authorities_is_not_imported() {
    if !possible() {
        return;
    }
    let [one, two] = [Side::Stock, Side::Stock].map(Host::new);
    for host in [&one, &two] {
        host.must(&["corosync-qnetd-certutil", "-i"]);
    }
    let ca = format!("{ARBITER_STORE}/qnetd-cacert.crt");
    copy(&two, &ca, &one, &ca);
    let said = one.refused(1, &words(&import(&[])));
    assert!(said.contains("two programs have made certificates here"), "{said}");
    assert!(!one.path(&format!("{ARBITER_STORE}/ca.pem")).exists());
}

#[test]
fn a_nodes_store_is_imported_beside_its_database() {
    if !possible() {
        return;
    }
    let [arbiter, node] = [Side::Stock, Side::Stock].map(Host::new);
    pvecm_setup(&arbiter, std::slice::from_ref(&node));
    let node = replaced(&node, NODE_STORE, Side::Ours);
    let ours = ["corosync-qdevice-net-certutil", "-r", "-n", CLUSTER];
    let said = node.refused(1, &ours);
    assert!(said.contains("haguard certs import --nssdb /etc/corosync/qdevice/net"), "{said}");
    let printed = node.must(&[HAGUARD, "certs", "import", "--nssdb", NODE_STORE]);
    assert!(printed.contains("stop corosync-qdevice and start haguard"), "{printed}");
    node.must(&ours);
}

/// A client that introduces itself without TLS, as corosync.conf's `tls: off` makes it.
async fn plain_client(address: std::net::SocketAddr) -> TcpStream {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let mut preinit = Message::new(MessageType::Preinit, Some(1));
    preinit.options.cluster_name = Some(ClusterName::from(CLUSTER));
    let mut init = Message::new(MessageType::Init, Some(2));
    init.options.supported_messages = Some(supported_messages());
    init.options.supported_options = Some(stock_options());
    init.options.node_id = Some(12);
    init.options.algorithm = Some(numbers::algorithm_number(Algorithm::Ffsplit));
    init.options.heartbeat_ms = Some(60_000);
    init.options.tie_breaker = Some(TieBreaker::Lowest);
    init.options.ring = Some(RingId { node: 12, seq: 5 });
    for message in [preinit, init] {
        socket.write_all(&message.encode()).await.unwrap();
        // The answer's head, and what it says that follows.
        socket.read_u16().await.unwrap();
        let length = usize::try_from(socket.read_u32().await.unwrap()).unwrap();
        socket.read_exact(&mut vec![0; length]).await.unwrap();
    }
    socket
}

#[tokio::test]
async fn a_client_without_tls_is_named_and_ends_the_import() {
    if !possible() {
        return;
    }
    let host = Host::new(Side::Stock);
    host.must(&["corosync-qnetd-certutil", "-i"]);
    let arbiter = host.start_arbiter("on");
    let _client = plain_client(arbiter.address).await;
    let said = host.refused(1, &words(&import(&[])));
    assert!(said.contains("node 12 of cluster \"TestCl\" at "), "{said}");
    assert!(said.contains("set tls: on") && said.contains("start haguard with -s on"), "{said}");
    assert!(!host.path(&format!("{ARBITER_STORE}/ca.pem")).exists());
    let printed = host.must(&words(&import(&["--force"])));
    assert!(printed.contains("imported"), "{printed}");
}
