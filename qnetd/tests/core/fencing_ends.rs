//! What fencing ends at the arbiter: waits, and bounds that nothing else ends; what a watchdog
//! proves there; and which epochs keep an older side out (safety 22, 27).

use protocol::fence::{Ask, How, Proof, Refusal, Verdict};
use protocol::ids::{BootId, Epoch, NodeId};
use protocol::qnet::{Hello, Message, MessageType, NodeListType};
use protocol::vote::{Bound, Vote, WatchdogClass};
use qnetd::core::{Settings, VoteHold};

use crate::driver::{CLUSTER, Done, Driver, Own, init, nodes, pair_on_corosync, set, votes};
use crate::fencing::{entitled, refusal};
use crate::stock_client::{self, settings, winners};

const LMS: u16 = 3;

fn waiting(driver: &Driver) -> Option<String> {
    driver.arbiter.status(driver.now).clusters[CLUSTER].waiting.clone()
}

/// The verdict on a proof of this boot, whose command was sent a moment ago.
fn proof(
    driver: &mut Driver,
    intent: protocol::fence::IntentId,
    node: u32,
    boot: BootId,
    how: How,
) -> (Option<Verdict>, Vec<Done>) {
    let proof = Proof { node: NodeId(node), boot, how, sent_ms: 100 };
    driver.ask(Ask::Off { intent, proof })
}

#[test]
fn a_node_that_is_confirmed_off_is_given_no_time_to_notice_a_cut() {
    let mut driver = Driver::new(Settings::default());
    let (_one, mut two) = pair_on_corosync(&mut driver);
    driver.gateway();
    // Its device has long been silent, and its corosync vanishes only now.
    driver.pass_renewing(60_000, &mut [&mut two]);
    assert_eq!(votes(&two.report(&mut driver, 5, &[2])), []);
    let waits = waiting(&driver).unwrap();
    assert!(waits.contains("node 1"), "{waits}");
    let asked = driver.register(2, None, &[1]).0;
    let intent = entitled(asked).intent;
    let moment = driver.now;
    let (verdict, done) = driver.off(intent, 1, How::ReadOff);
    assert_eq!(verdict, Some(Verdict::Noted));
    assert_eq!((votes(&done), driver.now), (vec![(2, Vote::Ack)], moment), "at once");
}

#[test]
fn a_proof_ends_what_a_stock_node_may_count_without_limit() {
    let mut driver = Driver::new(settings(VoteHold::SingleFault));
    let (_one, mut two) = stock_client::pair(&mut driver, LMS);
    driver.gateway();
    assert_eq!(votes(&two.report(&mut driver, 5, &[2])), []);
    assert_eq!(winners(&mut driver, 3_600_000, &mut [&mut two]), [0; 0], "for ever");
    let attestation = entitled(driver.register(2, None, &[1]).0);
    // A stock client never says which boot it is of.
    let boot = attestation.targets[&NodeId(1)].boot;
    assert_eq!(boot, BootId::default());
    let (verdict, done) = proof(&mut driver, attestation.intent, 1, boot, How::ReadOff);
    assert_eq!(verdict, Some(Verdict::Noted));
    assert_eq!(votes(&done), [(2, Vote::Ack)], "{:?}", waiting(&driver));
}

/// Introduces a node whose watchdog is this.
fn join(driver: &mut Driver, own: &mut Own, bound: Bound) {
    driver.greet(own.client, 1);
    let mut options = init(own.node, own.view.ring);
    options.hello = Some(Hello {
        instance: protocol::ids::InstanceId(own.instance),
        boot: BootId(u128::from(own.node)),
        host: own.host,
        worst_case_ms: 0,
        bound,
        highest_epoch: own.highest,
        held: None,
    });
    driver.say(own.client, &Message { kind: MessageType::Init, options });
    own.renew(driver);
    let mut list = driver.message(MessageType::NodeList);
    list.options.list_type = Some(NodeListType::InitialConfig);
    list.options.nodes = nodes(&own.config);
    driver.say(own.client, &list);
}

#[test]
fn a_watchdog_is_a_proof_once_its_bound_has_passed_outside_of_every_view_with_the_vote() {
    let bound = Bound { class: WatchdogClass::A, bound_ms: 5300 };
    let mut driver = Driver::new(Settings::default());
    let (mut one, mut two) = (Own::new(1, 1, &[1, 2]), Own::new(2, 2, &[1, 2]));
    for own in [&mut one, &mut two] {
        join(&mut driver, own, bound);
    }
    one.report(&mut driver, 4, &[1, 2]);
    let done = two.report(&mut driver, 4, &[1, 2]);
    one.confirm(&mut driver, &done);
    two.confirm(&mut driver, &done);
    driver.gateway();
    one.report(&mut driver, 5, &[1]);
    let done = two.report(&mut driver, 5, &[2]);
    let done = two.confirm(&mut driver, &done);
    assert_eq!(votes(&done), [(1, Vote::Ack)]);
    one.confirm(&mut driver, &done);
    let intent = entitled(driver.register(1, None, &[2]).0).intent;
    let ask = |driver: &mut Driver, boot| proof(driver, intent, 2, BootId(boot), How::Watchdog).0;
    // The bound runs from the grant to node 1, and not from any earlier moment.
    driver.pass_renewing(5250, &mut [&mut one]);
    driver.pass(49);
    assert!(matches!(refusal(ask(&mut driver, 2)), Refusal::Undecided(_)));
    driver.pass(1);
    // Of the boot that was known, and of no other.
    assert_eq!(refusal(ask(&mut driver, 9)), Refusal::Heard(NodeId(2)));
    assert_eq!(ask(&mut driver, 2), Some(Verdict::Noted));
    // What ran on it has ended; its power may be on.
    let status = &driver.arbiter.status(driver.now).clusters[CLUSTER];
    assert!(status.confirmed_off.is_empty());
    assert_eq!(status.intent.as_ref().unwrap().proven, [0_u32; 0]);
    // Back in a view with the vote, it runs things again: the clock begins anew.
    driver.ask(Ask::Release(intent));
    one.report(&mut driver, 6, &[1, 2]);
    let done = two.report(&mut driver, 6, &[1, 2]);
    one.confirm(&mut driver, &done);
    two.confirm(&mut driver, &done);
    driver.pass_renewing(500, &mut [&mut one, &mut two]);
    one.report(&mut driver, 7, &[1]);
    let done = two.report(&mut driver, 7, &[2]);
    let done = two.confirm(&mut driver, &done);
    one.confirm(&mut driver, &done);
    let again = entitled(driver.register(1, None, &[2]).0).intent;
    let asked = proof(&mut driver, again, 2, BootId(2), How::Watchdog).0;
    assert!(matches!(refusal(asked), Refusal::Undecided(_)));
}

#[test]
fn a_majority_that_went_on_without_the_arbiter_has_a_newer_epoch_than_the_node_it_left() {
    let all = [1, 2, 3, 4];
    let mut driver = Driver::new(Settings::default());
    let mut nodes: Vec<Own> = (1..=4).map(|n| Own::new(u64::from(n), n, &all)).collect();
    let mut done = Vec::new();
    for node in &mut nodes {
        node.join(&mut driver);
    }
    for node in &mut nodes {
        done.extend(node.report(&mut driver, 4, &all));
    }
    for node in &mut nodes {
        node.confirm(&mut driver, &done);
    }
    driver.gateway();
    let old = nodes[0].grant.unwrap().id.epoch;
    // Three of the four are cut off from here and from node 1, and agree on an epoch of their own.
    for node in 2..=4 {
        driver.close(node);
    }
    let done = nodes[0].report(&mut driver, 5, &[1]);
    nodes[0].confirm(&mut driver, &done);
    let asked = driver.register(1, Some(old), &[2, 3, 4]).0;
    assert!(
        matches!(refusal(asked), Refusal::NotEntitled(_) | Refusal::Undecided(_)),
        "one of four is nobody's candidate"
    );
    let agreed = Epoch(old.0 + 3);
    let mut done = Vec::new();
    for node in &mut nodes[1..] {
        (node.client, node.highest) = (node.client + 10, agreed);
        node.join(&mut driver);
    }
    for node in &mut nodes[1..] {
        done.extend(node.report(&mut driver, 5, &[2, 3, 4]));
    }
    for node in &mut nodes {
        let more = node.confirm(&mut driver, &done.clone());
        done.extend(more);
    }
    for _ in 0..100 {
        let more = driver.pass(250);
        for node in &mut nodes {
            let told = node.confirm(&mut driver, &more);
            done.extend(told);
            done.extend(node.renew(&mut driver));
        }
        done.extend(more);
    }
    nodes.iter_mut().for_each(|node| node.listen(&done));
    let granted = nodes[1].grant.unwrap().id.epoch;
    assert!(granted > agreed, "{granted:?} is not above {agreed:?}");
    // Whoever was left has the old epoch, and is not entitled with a newer one either.
    let asked = driver.register(1, Some(old), &[2]).0;
    assert_eq!(refusal(asked), Refusal::StaleEpoch { given: old, current: granted });
    let asked = driver.register(1, Some(granted), &[2]).0;
    assert_eq!(refusal(asked), Refusal::NotEntitled(set(&[2, 3, 4])));
    let attestation = entitled(driver.register(2, Some(granted), &[1]).0);
    assert_eq!((attestation.epoch, attestation.holders), (granted, set(&[2, 3, 4])));
}
