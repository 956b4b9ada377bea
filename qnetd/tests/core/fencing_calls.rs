//! What a gateway may say, and what counts as a proof (safety 24, 28, 30).

use protocol::fence::{Ask, FRAME_CALL, How, IntentId, Proof, Refusal, Verdict};
use protocol::ids::{BootId, NodeId};
use protocol::qnet::{ErrorCode, Frame, Message, MessageType, TlsSupport};
use protocol::times;
use protocol::vote::Vote;
use qnetd::core::{ClientId, CloseReason, Event, Peer, Settings};

use crate::driver::{CLUSTER, Done, Driver, Own, grant_to, init, votes};
use crate::fencing::{GATEWAY, candidate, entitled, refusal, split, verdict};

fn manual() -> How {
    How::Manual { by: "me\n".to_owned(), why: "I have seen it".to_owned() }
}

fn error_of(done: &[Done]) -> Option<u16> {
    done.iter().find_map(|done| {
        let Done::Sent(_, message) = done else { return None };
        (message.kind == MessageType::ServerError).then_some(message.options.error_code)?
    })
}

#[test]
fn a_nodes_certificate_is_no_gateways() {
    let mut driver = Driver::new(Settings::default());
    driver.greet_gateway(GATEWAY, Peer { cluster: CLUSTER.into(), node: None, gateway: false });
    let asked = driver.ask(Ask::Attest(IntentId::default())).0;
    assert_eq!(refusal(asked), Refusal::NotAGateway);
}

#[test]
fn a_gateways_certificate_of_another_cluster_is_closed() {
    let mut driver = Driver::new(Settings::default());
    let peer = Peer { cluster: "other".into(), node: None, gateway: true };
    let done = driver.greet_gateway(GATEWAY, peer);
    assert_eq!(done, [Done::Closed(GATEWAY, CloseReason::WrongIdentity)]);
}

#[test]
fn without_tls_no_call_is_answered_even_where_tls_is_off() {
    for tls in [TlsSupport::Unsupported, TlsSupport::Supported, TlsSupport::Required] {
        let mut driver = Driver::new(Settings { tls, ..Settings::default() });
        driver.connect(GATEWAY);
        let done = driver.call(GATEWAY, Ask::Attest(IntentId::default()));
        assert_eq!(error_of(&done), Some(ErrorCode::TlsRequired as u16), "{tls:?}");
        assert_eq!(verdict(&done), None);
    }
}

#[test]
fn a_gateway_cannot_join_as_a_voter_and_says_nothing_but_calls_and_echoes() {
    let mut driver = Driver::new(Settings::default());
    driver.gateway();
    let options = init(1, protocol::ids::RingId::new(1, 4));
    let done = driver.say(GATEWAY, &Message { kind: MessageType::Init, options });
    assert_eq!(error_of(&done), Some(ErrorCode::UnexpectedMessage as u16));
    let mut list = driver.message(MessageType::NodeList);
    list.options.list_type = Some(protocol::qnet::NodeListType::Membership);
    let done = driver.say(GATEWAY, &list);
    assert_eq!(error_of(&done), Some(ErrorCode::UnexpectedMessage as u16));
    let echo = driver.message(MessageType::EchoRequest);
    let done = driver.say(GATEWAY, &echo);
    assert!(matches!(&done[..], [Done::Sent(GATEWAY, m)] if m.kind == MessageType::EchoReply));
    assert!(driver.arbiter.status(driver.now).clusters.is_empty());
}

#[test]
fn bytes_that_are_no_call_are_answered_with_an_error() {
    let mut driver = Driver::new(Settings::default());
    driver.gateway();
    for body in [vec![], vec![1], vec![9; 40], vec![1; 20_000], vec![0xff; 3]] {
        let frame = Frame { kind: FRAME_CALL, body };
        let done = driver.event(Event::Received { client: ClientId(GATEWAY), frame });
        assert_eq!(error_of(&done), Some(ErrorCode::ErrorDecodingMessage as u16));
    }
}

#[test]
fn a_quiet_gateway_is_not_closed_and_too_many_of_them_are() {
    let mut driver = Driver::new(Settings::default());
    driver.gateway();
    assert_eq!(driver.pass(3_600_000), []);
    let peer = || Peer { cluster: CLUSTER.into(), node: None, gateway: true };
    for client in 0..15 {
        driver.pass(1000);
        assert_eq!(driver.greet_gateway(GATEWAY + 1 + client, peer()), []);
    }
    let done = driver.greet_gateway(GATEWAY + 99, peer());
    assert_eq!(done, [Done::Closed(GATEWAY, CloseReason::TooManyGateways)]);
}

#[test]
fn off_ends_what_the_lost_node_may_count_only_once_it_is_on_disk() {
    let mut driver = Driver::new(Settings::default());
    let (one, mut two) = candidate(&mut driver);
    let asked = driver.register(2, one.grant.map(|grant| grant.id.epoch), &[1]).0;
    let intent = entitled(asked).intent;
    assert_eq!(votes(&driver.pass_renewing(1000, &mut [&mut two])), [], "it waits");
    driver.disk_works = false;
    let (answer, done) = driver.off(intent, 1, How::ReadOff);
    assert_eq!((answer, votes(&done)), (None, vec![]));
    let done = driver.write(true);
    assert_eq!(verdict(&done), Some(Verdict::Noted));
    assert!(done.iter().any(|done| matches!(done, Done::Persist(_))), "{done:?}");
    let done = driver.write(true);
    assert_eq!(votes(&done), [(2, Vote::Ack)]);
    let status = &driver.arbiter.status(driver.now).clusters[CLUSTER];
    assert_eq!(status.confirmed_off, [1]);
    assert_eq!(status.intent.as_ref().unwrap().proven, [1]);
    // To say it again changes nothing.
    assert_eq!(driver.off(intent, 1, How::ReadOff).0, Some(Verdict::Noted));
}

#[test]
fn a_node_alone_has_the_long_lease_until_the_other_is_back_which_is_not_delayed() {
    let mut driver = Driver::new(Settings::default());
    let (one, mut two) = candidate(&mut driver);
    let asked = driver.register(2, one.grant.map(|grant| grant.id.epoch), &[1]).0;
    let intent = entitled(asked).intent;
    let (_, done) = driver.off(intent, 1, How::ReadOff);
    two.listen(&done);
    two.confirm(&mut driver, &done);
    driver.ask(Ask::Release(intent));
    let lease = |own: &Own| u128::from(own.grant.unwrap().lease_ms);
    assert_eq!(lease(&two), times::LONE_LEASE.as_millis());
    let bound = driver.journal.last().unwrap().bound_ms.map(u128::from);
    assert_eq!(bound, Some(times::LONE_LEASE_HOLD.as_millis()));
    driver.pass_renewing(70_000, &mut [&mut two]);
    assert_eq!(lease(&two), times::LONE_LEASE.as_millis());
    // It boots and comes back.
    let mut back = Own::new(7, 1, &[1, 2]);
    back.instance = 4711;
    back.join(&mut driver);
    assert_eq!(driver.arbiter.status(driver.now).clusters[CLUSTER].confirmed_off, [0_u32; 0]);
    driver.pass_renewing(500, &mut [&mut two, &mut back]);
    two.report(&mut driver, 9, &[1, 2]);
    let done = back.report(&mut driver, 9, &[1, 2]);
    let told = votes(&done);
    assert!(told.contains(&(2, Vote::Ack)) && told.contains(&(7, Vote::Ack)), "{told:?}");
    assert_eq!(u128::from(grant_to(&done, 7).unwrap().lease_ms), times::LEASE.as_millis());
    assert!(driver.fencing.as_ref().unwrap().off.is_empty(), "also on disk");
}

#[test]
fn a_node_that_is_heard_after_the_proof_is_not_off() {
    let mut driver = Driver::new(Settings::default());
    let (mut one, mut two) = split(&mut driver);
    let intent = entitled(driver.register(1, None, &[2]).0).intent;
    driver.pass_renewing(500, &mut [&mut one, &mut two]);
    // It was heard a moment ago: its last words may be on the way.
    let (answer, done) = driver.off(intent, 2, How::ReadOff);
    assert_eq!((answer, done), (None, vec![]));
    driver.pass(200);
    assert_eq!(verdict(&two.renew(&mut driver)), None);
    let done = driver.pass(600);
    assert_eq!(refusal(verdict(&done)), Refusal::Heard(NodeId(2)));
    assert!(driver.arbiter.status(driver.now).clusters[CLUSTER].confirmed_off.is_empty());
    // When it is quiet, it counts.
    two.renew(&mut driver);
    assert_eq!(driver.off(intent, 2, How::ReadOff).0, None);
    let done = driver.pass(600);
    assert_eq!(verdict(&done), Some(Verdict::Noted));
    assert!(done.contains(&Done::Closed(2, CloseReason::Fenced)), "{done:?}");
}

#[test]
fn a_proof_of_an_older_boot_says_nothing_of_a_newer_one() {
    let mut driver = Driver::new(Settings::default());
    let (_one, two) = split(&mut driver);
    let intent = entitled(driver.register(1, None, &[2]).0).intent;
    drop(two);
    driver.pass(700);
    let proof = Proof { node: NodeId(2), boot: BootId(99), how: How::ReadOff, sent_ms: 10 };
    let asked = driver.ask(Ask::Off { intent, proof }).0;
    assert_eq!(refusal(asked), Refusal::Heard(NodeId(2)));
}

#[test]
fn a_manual_confirmation_is_refused_while_the_node_is_heard() {
    let mut driver = Driver::new(Settings::default());
    let (mut one, mut two) = split(&mut driver);
    let intent = entitled(driver.register(1, None, &[2]).0).intent;
    driver.pass_renewing(500, &mut [&mut one, &mut two]);
    assert_eq!(refusal(driver.off(intent, 2, manual()).0), Refusal::Heard(NodeId(2)));
    driver.pass_renewing(20_000, &mut [&mut one]);
    assert_eq!(refusal(driver.off(intent, 2, manual()).0), Refusal::Heard(NodeId(2)));
    // One of the next incident counts, and once.
    driver.ask(Ask::Release(intent));
    let next = entitled(driver.register(1, None, &[2]).0).intent;
    assert_eq!(refusal(driver.off(intent, 2, manual()).0), Refusal::UnknownIntent);
    assert_eq!(driver.off(next, 2, manual()).0, Some(Verdict::Noted));
    let log = driver.log.iter().find(|line| line.contains("confirmed off")).unwrap();
    assert!(log.contains("me\\n says so: I have seen it") && log.lines().count() == 1, "{log}");
}

#[test]
fn a_target_that_is_with_its_requester_again_is_waited_for_no_longer() {
    let mut driver = Driver::new(Settings::default());
    let (mut one, mut two) = candidate(&mut driver);
    let intent = entitled(driver.register(2, None, &[1]).0).intent;
    driver.pass_renewing(500, &mut [&mut two]);
    entitled(driver.attest(intent));
    // They have found each other while the gateway was logging in.
    two.report(&mut driver, 9, &[1, 2]);
    assert_eq!(refusal(driver.attest(intent)), Refusal::OwnSide(NodeId(1)));
    driver.ask(Ask::Release(intent));
    one.report(&mut driver, 9, &[1, 2]);
    driver.pass_renewing(500, &mut [&mut one, &mut two]);
    let status = driver.arbiter.status(driver.now);
    let waits = status.clusters.values().next().and_then(|cluster| cluster.waiting.clone());
    assert_eq!(waits, None);
}

#[test]
fn a_watchdog_proves_nothing_that_the_own_record_does_not_bear_out() {
    let mut driver = Driver::new(Settings::default());
    let (mut one, _two) = split(&mut driver);
    let intent = entitled(driver.register(1, None, &[2]).0).intent;
    driver.pass_renewing(60_000, &mut [&mut one]);
    // Its device has announced class D.
    let asked = driver.off(intent, 2, How::Watchdog).0;
    assert!(matches!(refusal(asked), Refusal::Undecided(_)));
    let asked = driver.off(intent, 5, How::Watchdog).0;
    assert_eq!(refusal(asked), Refusal::Malformed, "no target");
}

#[test]
fn a_node_that_was_proven_off_and_is_heard_of_the_same_boot_is_reported() {
    let mut driver = Driver::new(Settings::default());
    let (one, mut two) = split(&mut driver);
    let intent = entitled(driver.register(1, None, &[2]).0).intent;
    driver.pass(1000);
    drop(one);
    assert_eq!(driver.off(intent, 2, How::ReadOff).0, Some(Verdict::Noted));
    two.client = 9;
    two.join(&mut driver);
    let log = driver.log.iter().find(|line| line.contains("not to be believed"));
    assert!(log.is_some(), "{:?}", driver.log);
    assert!(driver.arbiter.status(driver.now).clusters[CLUSTER].confirmed_off.is_empty());
}

#[test]
fn what_waits_says_that_fencing_would_end_it() {
    let mut driver = Driver::new(Settings::default());
    candidate(&mut driver);
    let waiting = driver.arbiter.status(driver.now).clusters[CLUSTER].waiting.clone().unwrap();
    let expected = "node 1 may still count the vote; proof that node 1 is off would end that";
    assert_eq!(waiting, expected);
}
