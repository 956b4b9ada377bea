//! QUORATE, FROZEN, INQUORATE: whose votes count until when (rules S1, S2).

use protocol::ids::NodeId;
use protocol::status::QuorumState;
use protocol::time::Time;
use protocol::times;

use crate::driver::{World, config};

#[test]
fn a_full_pair_is_quorate_without_the_device() {
    let world = World::settled(2);
    assert_eq!(world.state(1), QuorumState::Quorate);
    assert_eq!(world.state(2), QuorumState::Quorate);
}

#[test]
fn without_the_device_both_halves_are_inquorate_within_a_peer_lease() {
    let mut world = World::settled(2);
    world.split(&[1], &[2]);
    let took = world.until(2000, |w| {
        w.state(1) == QuorumState::Inquorate && w.state(2) == QuorumState::Inquorate
    });
    assert!(took <= times::PEER_LEASE + times::HEARTBEAT, "{took:?}");
}

#[test]
fn the_devices_vote_freezes_a_node_and_makes_it_quorate_in_its_new_view() {
    let mut world = World::settled(2);
    let (full, epoch) = (world.view(1), world.node(1).epoch().0);
    world.cast(1, full, 60_000, epoch + 1);
    world.split(&[1], &[2]);
    world.until(1500, |w| w.state(1) == QuorumState::Frozen);
    world.until(1500, |w| w.node(1).members() == [NodeId(1)]);
    assert_eq!(world.state(1), QuorumState::Frozen, "the old view's votes still do");
    let alone = world.view(1);
    world.cast(1, alone, 10_000, epoch + 3);
    let took = world.until(1500, |w| w.state(1) == QuorumState::Quorate);
    assert!(took <= times::PEER_PROMISE, "{took:?}");
    assert_eq!(world.state(2), QuorumState::Inquorate);
    assert_eq!(world.polled(1), Some(true));
}

#[test]
fn a_lease_of_one_view_is_worth_nothing_in_another() {
    let mut world = World::settled(2);
    let full = world.view(1);
    world.split(&[1], &[2]);
    world.until(1500, |w| w.node(1).members() == [NodeId(1)]);
    world.run(1000);
    world.cast(1, full, 60_000, 9);
    assert_eq!(world.polled(1), Some(false));
    assert_eq!(world.state(1), QuorumState::Inquorate);
}

#[test]
fn an_own_vote_moves_only_when_the_lost_node_cannot_count_it() {
    let mut world = World::settled(2);
    let epoch = world.node(2).epoch().0;
    world.split(&[1], &[2]);
    let cut = world.now;
    world.until(1500, |w| w.node(2).members() == [NodeId(2)]);
    let view = world.view(2);
    world.cast(2, view, 60_000, epoch + 3);
    world.until(1500, |w| w.state(2) == QuorumState::Quorate);
    assert!(world.now.since(cut) + times::HEARTBEAT * 2 >= times::PEER_PROMISE);
}

#[test]
fn a_lost_vote_ends_a_frozen_node_at_once() {
    let mut world = World::settled(2);
    let (full, epoch) = (world.view(2), world.node(2).epoch().0);
    world.cast(2, full, 60_000, epoch + 1);
    world.split(&[1], &[2]);
    world.until(1500, |w| w.state(2) == QuorumState::Frozen);
    world.take_back(2);
    assert_eq!(world.state(2), QuorumState::Inquorate);
    assert_eq!(world.polled(2), Some(true));
    assert_eq!(world.places[&2].entitled, Time::ZERO);
}

#[test]
fn the_end_of_the_lease_is_tested_at_the_read() {
    let mut world = World::settled(2);
    let epoch = world.node(1).epoch().0;
    world.split(&[1], &[2]);
    world.until(1500, |w| w.node(1).members() == [NodeId(1)]);
    world.run(1000);
    let view = world.view(1);
    world.cast(1, view, 5000, epoch + 3);
    assert_eq!(world.state(1), QuorumState::Quorate);
    let later = world.now + std::time::Duration::from_millis(5000);
    assert_eq!(world.node(1).state(later), QuorumState::Inquorate, "nobody called in between");
}

#[test]
fn a_poll_counts_no_longer_than_the_device_timeout() {
    let mut world = World::settled(2);
    let epoch = world.node(1).epoch().0;
    world.split(&[1], &[2]);
    world.until(1500, |w| w.node(1).members() == [NodeId(1)]);
    world.run(1000);
    let view = world.view(1);
    world.cast(1, view, 60_000, epoch + 3);
    world.run(9900);
    assert_eq!(world.state(1), QuorumState::Quorate);
    world.run(200);
    assert_eq!(world.state(1), QuorumState::Inquorate);
}

#[test]
fn wait_for_all_waits_for_nodes_and_not_for_votes() {
    let mut base = config(2);
    base.wait_for_all = true;
    let mut world = World::new(base);
    let two = world.kill(2);
    world.run(2000);
    let view = world.view(1);
    world.cast(1, view, 60_000, 9);
    world.run(500);
    assert_eq!(world.state(1), QuorumState::Inquorate);
    let reason = world.node(1).status(world.now, "c").reason;
    assert!(reason.contains("wait_for_all: node 2"), "{reason}");
    world.boot(2, two);
    world.keep_voting(1, 3000);
    assert_eq!(world.state(1), QuorumState::Quorate);
    world.kill(2);
    world.until(1500, |w| w.node(1).members() == [NodeId(1)]);
    world.keep_voting(1, 1500);
    assert_eq!(world.state(1), QuorumState::Quorate);
}

#[test]
fn a_two_node_survivor_stays_inquorate_and_says_why() {
    let mut base = config(2);
    base.two_node = true;
    base.device_votes = 0;
    base.quorum = 2;
    let mut world = World::new(base);
    world.run(3000);
    assert_eq!(world.state(1), QuorumState::Quorate);
    world.split(&[1], &[2]);
    world.run(3000);
    assert_eq!(world.state(1), QuorumState::Inquorate);
    assert!(world.node(1).status(world.now, "c").reason.contains("two_node"));
}

#[test]
fn a_clean_stop_tells_the_others_and_then_exits() {
    let mut world = World::settled(2);
    world.tell(2, node::core::Event::Leave);
    world.until(1000, |w| w.places[&2].exited);
    assert_eq!(world.places[&2].running, None);
    world.until(300, |w| w.node(1).members() == [NodeId(1)]);
}

#[test]
fn four_nodes_in_halves_need_the_device() {
    let mut world = World::settled(4);
    let epoch = world.node(1).epoch().0;
    world.split(&[1, 2], &[3, 4]);
    world.run(3000);
    for id in 1..=4 {
        assert_eq!(world.state(id), QuorumState::Inquorate, "{id}");
    }
    let view = world.view(1);
    assert_eq!(world.view(2), view);
    world.cast(1, view, 10_000, epoch + 5);
    world.cast(2, view, 10_000, epoch + 5);
    world.run(500);
    assert_eq!(world.state(1), QuorumState::Quorate);
    assert_eq!(world.state(2), QuorumState::Quorate);
    assert_eq!(world.state(3), QuorumState::Inquorate);
}

#[test]
fn an_automatic_tie_breaker_leaves_the_half_with_its_node_quorate() {
    let mut base = config(4);
    base.device_votes = 0;
    base.quorum = 3;
    base.auto_tie_breaker = Some(NodeId(3));
    let mut world = World::new(base);
    world.run(3000);
    world.split(&[1, 2], &[3, 4]);
    world.run(3000);
    let states: Vec<QuorumState> = (1..=4).map(|id| world.state(id)).collect();
    let (no, yes) = (QuorumState::Inquorate, QuorumState::Quorate);
    assert_eq!(states, [no, no, yes, yes]);
    assert_eq!(world.node(3).status(world.now, "c").votes.total, 2);
}

#[test]
fn leaving_out_a_node_that_others_still_hear_does_not_stop_the_rest() {
    let mut base = config(5);
    base.device_votes = 0;
    base.quorum = 3;
    let mut world = World::new(base);
    world.run(3000);
    world.split(&[1], &[4]);
    for _ in 0..4000 {
        world.run(1);
        for id in [1, 2, 3, 5] {
            assert_ne!(world.state(id), QuorumState::Inquorate, "node {id} at {}", world.now);
        }
    }
    assert_eq!(world.node(1).members().len(), 4);
    assert_eq!(world.state(1), QuorumState::Quorate);
}

#[test]
fn a_shorter_entitlement_is_told_before_the_view_that_it_follows_from() {
    let mut world = World::settled(2);
    let epoch = world.node(2).epoch().0;
    world.split(&[1], &[2]);
    world.until(1500, |w| w.node(2).members() == [NodeId(2)]);
    let view = world.view(2);
    world.cast(2, view, 60_000, epoch + 3);
    world.until(1500, |w| w.state(2) == QuorumState::Quorate);
    let before = world.places[&2].entitled;
    world.cut.clear();
    // That it comes first is looked at by the driver, after every fact.
    world.until(10_000, |w| w.places[&2].entitled < before);
}
