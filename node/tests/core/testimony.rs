//! What members say while no arbiter answers a gateway, and that they keep to it (rule S7).

use std::collections::{BTreeMap, BTreeSet};

use node::core::{Config, Event};
use protocol::fence::{CONDEMNED, Challenge, How, Nonce, Outcome, Proof, Testimony};
use protocol::ids::{BootId, NodeId};
use protocol::status::QuorumState;
use protocol::times;
use protocol::vote::Bound;

use crate::driver::{World, config};

/// Nodes of two votes each beside a device of one: all but one are quorate without the device.
fn strong(nodes: u32) -> Config {
    let mut base = config(nodes);
    base.votes.values_mut().for_each(|votes| *votes = 2);
    base.quorum = nodes + 1;
    base.trust_process_watchdog = false;
    base
}

fn settled(base: Config) -> World {
    let nodes = base.votes.len();
    let mut world = World::with_gateway(base, true);
    world.run(3000);
    assert!(world.places.values().all(|place| place.node.members().len() == nodes));
    world
}

/// Node 3 has lost its links; node 1 has asked for its power to be cut.
fn cut_off() -> World {
    let mut world = settled(strong(3));
    world.split(&[1, 2], &[3]);
    world.until(2000, |w| !w.places[&1].fences.is_empty());
    world.until(2000, |w| w.state(1) == QuorumState::Quorate && w.state(2) == w.state(1));
    world
}

fn challenge(nonce: u128, targets: &[u32]) -> Event {
    let targets = targets.iter().copied().map(NodeId).collect();
    Event::Challenged(Challenge { nonce: Nonce(nonce), targets })
}

/// What a node has said to this nonce.
fn said(world: &World, id: u32, nonce: u128) -> Vec<Testimony> {
    let all = world.places[&id].testimonies.iter().map(|(_, said)| said);
    all.filter(|said| said.nonce == Nonce(nonce)).cloned().collect()
}

fn members(world: &World, id: u32) -> Vec<u32> {
    world.node(id).members().iter().map(|node| node.0).collect()
}

fn over(outcome: Outcome) -> Event {
    Event::FenceEnded { result: Ok(BTreeMap::from([(NodeId(3), outcome)])) }
}

#[test]
fn each_member_of_the_view_that_was_asked_testifies_once() {
    let mut world = cut_off();
    let boot = world.boot_of(3);
    world.tell(1, challenge(9, &[3]));
    world.run(1000);
    let view = world.view(1);
    for id in [1, 2] {
        let all = said(&world, id, 9);
        let [said] = all.as_slice() else { panic!("{id}: {all:?}") };
        assert_eq!((said.node, said.view, said.epoch), (NodeId(id), view, world.node(1).epoch()));
        assert_eq!(said.members, BTreeSet::from([NodeId(1), NodeId(2)]));
        assert!(said.quorate && said.expected_votes == 7, "{said:?}");
        let record = said.targets[&NodeId(3)];
        assert_eq!((record.boot, record.bound.map(|b| b.bound_ms)), (boot, Some(5300)));
        assert!(record.silent_ms >= Some(600), "{record:?}");
    }
    assert!(said(&world, 3, 9).is_empty(), "it is in no view with the one that was asked");
    // A fresh nonce takes a fresh word.
    world.tell(1, challenge(10, &[3]));
    world.run(1000);
    assert_eq!((said(&world, 1, 10).len(), said(&world, 2, 10).len()), (1, 1));
}

#[test]
fn who_is_condemned_stays_outside_until_the_job_is_over() {
    let mut world = cut_off();
    world.tell(1, challenge(9, &[3]));
    world.run(200);
    world.cut.clear();
    world.run(15_000);
    assert_eq!((members(&world, 1), members(&world, 2)), (vec![1, 2], vec![1, 2]));
    assert_eq!(world.state(3), QuorumState::Inquorate);
    world.tell(1, over(Outcome::Refused { why: "no".to_owned() }));
    world.until(5000, |w| members(w, 3) == [1, 2, 3]);
}

#[test]
fn who_is_condemned_may_come_back_when_nothing_more_is_heard() {
    let mut world = cut_off();
    world.tell(1, challenge(9, &[3]));
    world.run(200);
    world.cut.clear();
    let limit = u64::try_from(CONDEMNED.as_millis()).unwrap();
    world.run(limit - 1000);
    assert_eq!(members(&world, 2), [1, 2]);
    world.until(8000, |w| members(w, 3) == [1, 2, 3]);
}

#[test]
fn a_condemned_node_may_come_back_after_the_proof_that_it_was_off() {
    let mut world = cut_off();
    let boot = world.boot_of(3);
    world.tell(1, challenge(9, &[3]));
    world.run(200);
    let disk = world.kill(3);
    let proof = Proof { node: NodeId(3), boot, how: How::ReadOff, sent_ms: 5 };
    world.tell(1, Event::FenceProof { proof: proof.clone() });
    world.tell(1, over(Outcome::Rebooted { proof, on_failed: None }));
    world.cut.clear();
    world.boot(3, disk);
    world.until(6000, |w| members(w, 3) == [1, 2, 3]);
}

#[test]
fn a_proof_that_no_arbiter_has_recorded_starts_the_service_on_whichever_member() {
    let mut base = strong(3);
    base.service = Some(("shop".to_owned(), Some(NodeId(3))));
    let mut world = settled(base);
    assert!(world.places[&3].running.is_some());
    let boot = world.boot_of(3);
    world.kill(3);
    world.until(2000, |w| w.state(1) == QuorumState::Quorate && w.state(2) == w.state(1));
    world.tell(1, challenge(9, &[3]));
    world.run(8000);
    let running = |w: &World| w.places.values().any(|place| place.running.is_some());
    assert!(!running(&world), "nothing proves that node 3 does not run it");
    // Of another boot, and sent while node 3 was heard: a proof of another incident.
    let proof = |boot, sent_ms| {
        let proof = Proof { node: NodeId(3), boot, how: How::ReadOff, sent_ms };
        Event::FenceProof { proof }
    };
    world.tell(1, proof(BootId(99), 10_000));
    world.run(500);
    assert!(!running(&world));
    world.tell(1, proof(boot, 40));
    world.run(500);
    assert!(running(&world));
}

#[test]
fn a_view_that_needs_the_device_says_so_and_condemns_nobody() {
    let mut base = config(2);
    base.bound = Bound::default();
    let mut world = settled(base);
    let (view, epoch) = (world.view(1), world.node(1).epoch().0);
    world.cast(1, view, 60_000, epoch + 1);
    world.kill(2);
    world.until(1500, |w| w.node(1).members().len() == 1);
    let (view, epoch) = (world.view(1), world.node(1).epoch().0);
    world.cast(1, view, 10_000, epoch + 1);
    world.until(1500, |w| w.state(1) == QuorumState::Quorate);
    world.tell(1, challenge(9, &[2]));
    world.run(1000);
    let all = said(&world, 1, 9);
    assert!(!all.is_empty());
    for said in all {
        assert!(!said.quorate && said.targets.is_empty(), "{said:?}");
        assert_eq!(said.expected_votes, 3);
    }
}

#[test]
fn nobody_testifies_against_a_member_or_to_what_was_not_asked_for() {
    let mut world = settled(strong(3));
    world.tell(1, challenge(8, &[3]));
    world.run(500);
    world.split(&[1, 2], &[3]);
    world.until(2000, |w| w.state(1) == QuorumState::Quorate && members(w, 1) == [1, 2]);
    world.run(500);
    assert!(said(&world, 1, 8).is_empty() && said(&world, 2, 8).is_empty(), "no request was open");
    world.tell(1, challenge(9, &[2]));
    world.run(500);
    assert!(said(&world, 1, 9).is_empty() && said(&world, 2, 9).is_empty());
    world.tell(1, challenge(10, &[2, 3, 77]));
    world.run(500);
    for id in [1, 2] {
        let all = said(&world, id, 10);
        assert!(all.len() == 1 && all[0].targets.keys().eq([&NodeId(3)]), "{id}: {all:?}");
    }
}

#[test]
fn a_member_says_it_again_in_another_view() {
    let mut world = settled(strong(5));
    world.split(&[1, 2, 3, 4], &[5]);
    world.until(2000, |w| !w.places[&1].fences.is_empty());
    world.until(2000, |w| (1..=4).all(|id| w.state(id) == QuorumState::Quorate));
    world.tell(1, challenge(9, &[5]));
    world.run(300);
    world.kill(4);
    world.until(3000, |w| members(w, 1) == [1, 2, 3] && w.state(3) == QuorumState::Quorate);
    world.run(u64::try_from(times::PEER_PROMISE.as_millis()).unwrap() + 300);
    for id in [1, 2, 3] {
        let all = said(&world, id, 9);
        let quorate: Vec<_> = all.iter().filter(|said| said.quorate).collect();
        let [first, second] = quorate.as_slice() else { panic!("{id}: {all:?}") };
        assert!(second.view.ring > first.view.ring && second.epoch > first.epoch, "{id}");
        assert_eq!((first.members.len(), second.members.len()), (4, 3));
    }
}
