//! What strangers, broken disks and the test algorithm may do to an arbiter.

use protocol::ids::{ClusterName, Epoch, RingId};
use protocol::qnet::{Hello, HostKind, Message, MessageType, NodeListType, Options, TlsSupport};
use protocol::vote::{Bound, Vote};
use qnetd::core::{ClientId, Event, Peer, Settings};

use crate::driver::{Done, Driver, Own, init, nodes, votes};

/// As many clusters of strangers are remembered.
const UNPROVEN_MAX: u64 = 256;

fn plain() -> Driver {
    Driver::new(Settings { tls: TlsSupport::Supported, ..Settings::default() })
}

/// Connects node 1 of a cluster; the code of the Init reply.
fn join(driver: &mut Driver, client: u64, cluster: &str, certificate: bool) -> u16 {
    driver.connect(client);
    let mut message = Message::new(MessageType::Preinit, Some(1));
    message.options.cluster_name = Some(cluster.into());
    driver.say(client, &message);
    if certificate {
        driver.say(client, &Message::new(MessageType::StartTls, Some(2)));
        let identity = Some(Peer { cluster: cluster.into(), node: None, gateway: false });
        driver.event(Event::Secured { client: ClientId(client), identity });
    }
    let options = init(1, RingId::new(1, 1));
    init_code(&driver.say(client, &Message { kind: MessageType::Init, options }))
}

fn init_code(done: &[Done]) -> u16 {
    let codes = done.iter().find_map(|done| {
        let Done::Sent(_, message) = done else { return None };
        message.options.error_code.filter(|_| message.kind == MessageType::InitReply)
    });
    codes.unwrap()
}

/// A cluster of one node gets its vote.
fn grant(driver: &mut Driver, client: u64) {
    let mut list = driver.message(MessageType::NodeList);
    list.options.list_type = Some(NodeListType::InitialConfig);
    list.options.nodes = nodes(&[1]);
    driver.say(client, &list);
    let mut list = driver.message(MessageType::NodeList);
    list.options.list_type = Some(NodeListType::Membership);
    list.options.ring = Some(RingId::new(1, 2));
    list.options.nodes = nodes(&[1]);
    assert_eq!(votes(&driver.say(client, &list)), [(client, Vote::Ack)]);
}

/// Strangers have had as many clusters granted as are remembered.
fn full() -> Driver {
    let mut driver = plain();
    for stranger in 1..=UNPROVEN_MAX {
        assert_eq!(join(&mut driver, stranger, &format!("stranger {stranger}"), false), 0);
        grant(&mut driver, stranger);
        driver.close(stranger);
    }
    driver
}

#[test]
fn strangers_cannot_have_any_number_of_clusters_remembered() {
    let mut driver = full();
    assert_eq!(join(&mut driver, 1000, "one more", false), 10);
    assert!(driver.log.last().unwrap().contains("256 clusters"), "{:?}", driver.log.last());
    assert_eq!(driver.journal.len(), 256);
}

#[test]
fn a_certificate_gets_its_cluster_in_however_many_strangers_there_are() {
    let mut driver = full();
    assert_eq!(join(&mut driver, 1000, "proven", true), 0);
    grant(&mut driver, 1000);
}

#[test]
fn no_cluster_that_was_granted_is_forgotten() {
    let mut driver = full();
    driver.pass(3_600_000);
    let name = ClusterName::from("stranger 7");
    assert_eq!(driver.arbiter.epoch(&name), Some(Epoch(1)));
    assert_eq!(join(&mut driver, 1000, "stranger 7", false), 0);
}

#[test]
fn clusters_that_were_never_granted_leave_nothing_behind() {
    let mut driver = plain();
    for stranger in 1..=UNPROVEN_MAX * 2 {
        assert_eq!(join(&mut driver, stranger, &format!("stranger {stranger}"), false), 0);
        driver.close(stranger);
        assert_eq!(driver.arbiter.epoch(&format!("stranger {stranger}").as_str().into()), None);
    }
}

#[test]
fn one_cluster_cannot_use_any_number_of_node_ids() {
    let mut driver = plain();
    join(&mut driver, 1, "c", false);
    let mut last = 0;
    for node in 2..=1025 {
        let client = u64::from(node);
        driver.connect(client);
        let mut message = Message::new(MessageType::Preinit, Some(1));
        message.options.cluster_name = Some("c".into());
        driver.say(client, &message);
        let options = init(node, RingId::new(node, 1));
        last = init_code(&driver.say(client, &Message { kind: MessageType::Init, options }));
        assert_eq!(last, if node == 1025 { 10 } else { 0 });
        driver.close(client);
    }
    assert_eq!(last, 10);
}

#[test]
fn a_disk_that_goes_on_failing_is_said_once_until_it_works_again() {
    let mut driver = Driver::new(Settings::default());
    let (mut one, mut two) = (Own::new(1, 1, &[1, 2]), Own::new(2, 2, &[1, 2]));
    one.join(&mut driver);
    two.join(&mut driver);
    one.report(&mut driver, 4, &[1, 2]);
    driver.disk_works = false;
    two.report(&mut driver, 4, &[1, 2]);
    let said = |driver: &Driver| driver.log.iter().filter(|t| t.contains("not given")).count();
    for _ in 0..5 {
        driver.write(false);
        // The next try.
        driver.pass_renewing(1250, &mut [&mut one, &mut two]);
    }
    assert_eq!(said(&driver), 1, "{:?}", driver.log);
    driver.write(true);
    two.report(&mut driver, 5, &[1, 2]);
    one.report(&mut driver, 5, &[1, 2]);
    driver.write(false);
    assert_eq!(said(&driver), 2, "{:?}", driver.log);
}

#[test]
fn our_device_is_told_that_the_test_algorithm_is_nothing_for_it() {
    let mut driver = Driver::new(Settings::default());
    driver.greet(1, 1);
    let hello = Hello {
        instance: protocol::ids::InstanceId(1),
        boot: protocol::ids::BootId(1),
        host: HostKind::Builtin,
        worst_case_ms: 0,
        bound: Bound::default(),
        highest_epoch: Epoch(0),
        held: None,
    };
    let options = Options { algorithm: Some(0), hello: Some(hello), ..init(1, RingId::new(1, 1)) };
    let done = driver.say(1, &Message { kind: MessageType::Init, options });
    assert_eq!(init_code(&done), 12);
    assert!(!driver.arbiter.has_joined(ClientId(1)));

    driver.greet(2, 1);
    let options = Options { algorithm: Some(0), ..init(1, RingId::new(1, 1)) };
    let done = driver.say(2, &Message { kind: MessageType::Init, options });
    assert_eq!(init_code(&done), 0);
}
