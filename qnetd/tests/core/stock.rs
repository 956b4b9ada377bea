//! Clients without leases (F7): when their vote may move.

use protocol::ids::RingId;
use protocol::qnet::{Message, MessageType, NodeListType};
use protocol::vote::Vote;
use qnetd::core::Settings;

use crate::driver::{Done, Driver, init, nodes, votes};

fn join(driver: &mut Driver, client: u64, node: u32) {
    driver.greet(client, 1);
    let options = init(node, RingId::new(node, 1));
    driver.say(client, &Message { kind: MessageType::Init, options });
    let mut message = driver.message(MessageType::NodeList);
    message.options.list_type = Some(NodeListType::InitialConfig);
    message.options.nodes = nodes(&[1, 2]);
    driver.say(client, &message);
}

fn report(driver: &mut Driver, client: u64, ring: RingId, members: &[u32]) -> Vec<Done> {
    let mut message = driver.message(MessageType::NodeList);
    message.options.list_type = Some(NodeListType::Membership);
    message.options.ring = Some(ring);
    message.options.nodes = nodes(members);
    driver.say(client, &message)
}

fn quorum(driver: &mut Driver, client: u64, quorate: bool) -> Vec<Done> {
    let mut message = driver.message(MessageType::NodeList);
    message.options.list_type = Some(NodeListType::Quorum);
    message.options.quorate = Some(quorate);
    message.options.nodes = nodes(&[1, 2]);
    driver.say(client, &message)
}

fn confirm(driver: &mut Driver, done: &[Done]) -> Vec<Done> {
    let mut out = Vec::new();
    for told in done {
        if let Done::Sent(client, message) = told
            && message.kind == MessageType::VoteInfo
        {
            let reply = Message::new(MessageType::VoteInfoReply, message.options.seq);
            out.extend(driver.say(*client, &reply));
        }
    }
    out
}

/// Both in {1, 2}, both told yes.
fn pair(driver: &mut Driver) {
    join(driver, 1, 1);
    join(driver, 2, 2);
    report(driver, 1, RingId::new(1, 4), &[1, 2]);
    let done = report(driver, 2, RingId::new(1, 4), &[1, 2]);
    assert_eq!(votes(&done), [(1, Vote::Ack), (2, Vote::Ack)]);
    confirm(driver, &done);
    quorum(driver, 1, true);
    quorum(driver, 2, true);
}

#[test]
fn a_reply_is_no_proof_while_the_host_counts_the_vote() {
    let mut driver = Driver::new(Settings::default());
    pair(&mut driver);
    report(&mut driver, 1, RingId::new(1, 5), &[1]);
    let done = report(&mut driver, 2, RingId::new(2, 5), &[2]);
    assert_eq!(votes(&done), [(2, Vote::Nack)]);
    assert_eq!(votes(&confirm(&mut driver, &done)), []);
    assert_eq!(votes(&quorum(&mut driver, 2, false)), [(1, Vote::Ack)]);
}

#[test]
fn a_silent_stock_holder_keeps_the_vote() {
    let mut driver = Driver::new(Settings::default());
    pair(&mut driver);
    driver.close(1);
    report(&mut driver, 2, RingId::new(2, 5), &[2]);
    for _ in 0..30 {
        driver.pass(8000);
        let mut echo = driver.message(MessageType::EchoRequest);
        echo.options.cluster_name = None;
        assert_eq!(votes(&driver.say(2, &echo)), []);
    }
}

#[test]
fn an_unconfirmed_stock_loser_gets_no_echo_and_is_closed_after_a_heartbeat() {
    let mut driver = Driver::new(Settings::default());
    pair(&mut driver);
    report(&mut driver, 1, RingId::new(1, 5), &[1]);
    report(&mut driver, 2, RingId::new(2, 5), &[2]);
    let echo = driver.message(MessageType::EchoRequest);
    assert_eq!(driver.say(2, &echo), []);
    let done = driver.pass(8000);
    assert!(done.iter().any(|done| matches!(done, Done::Closed(2, _))), "{done:?}");
}

#[test]
fn the_withheld_echo_is_sent_when_the_loss_counts_as_applied() {
    let mut driver = Driver::new(Settings::default());
    pair(&mut driver);
    report(&mut driver, 1, RingId::new(1, 5), &[1]);
    let told = report(&mut driver, 2, RingId::new(2, 5), &[2]);
    let echo = driver.message(MessageType::EchoRequest);
    driver.say(2, &echo);
    confirm(&mut driver, &told);
    let done = quorum(&mut driver, 2, false);
    let echoed = done.iter().any(|done| {
        matches!(done,
        Done::Sent(2, message) if message.kind == MessageType::EchoReply
            && message.options == echo.options)
    });
    assert!(echoed, "{done:?}");
}
