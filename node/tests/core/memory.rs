//! Epochs are never given twice, also when a disk is lost (rule S4, safety 10 and 27).

use node::core::{Event, Stored};
use protocol::ids::{Epoch, NodeId};
use protocol::status::QuorumState;

use crate::driver::{World, config};

#[test]
fn the_next_view_is_above_what_the_arbiter_knows_and_the_present_one_keeps_its_epoch() {
    let mut world = World::settled(2);
    let (view, epoch) = (world.view(2), world.node(2).view_epoch());
    world.tell(2, Event::ArbiterEpoch(Epoch(500)));
    world.run(500);
    assert_eq!((world.view(2), world.node(2).view_epoch()), (view, epoch));
    assert_eq!(world.places[&2].disk.epoch, Epoch(500));
    world.kill(1);
    world.until(1500, |w| w.node(2).members() == [NodeId(2)]);
    assert_eq!(world.node(2).view_epoch(), Epoch(501));
}

#[test]
fn a_device_that_lies_does_not_exhaust_epochs() {
    let mut world = World::settled(2);
    let (view, epoch) = (world.view(1), world.node(1).epoch());
    world.tell(1, Event::ArbiterEpoch(Epoch(u64::MAX)));
    world.cast(1, view, 10_000, u64::MAX);
    world.run(500);
    assert_eq!(world.polled(1), Some(false));
    assert_eq!(world.node(1).epoch(), epoch);
}

/// Node 1 was quorate alone in epoch 50 and has lost its disk; node 2 has not heard of that.
fn forgetful_pair() -> World {
    let mut world = World::settled(2);
    world.split(&[1], &[2]);
    world.until(1500, |w| w.node(1).members() == [NodeId(1)]);
    let alone = world.view(1);
    world.cast(1, alone, 10_000, 50);
    world.until(1500, |w| w.state(1) == QuorumState::Quorate);
    world.kill(1);
    let disk = world.kill(2);
    assert!(disk.epoch < Epoch(50));
    world.cut.clear();
    world.boot(1, Stored::default());
    world.boot(2, disk);
    world.until(3000, |w| (1..=2).all(|id| w.node(id).members().len() == 2));
    world
}

#[test]
fn a_node_that_lost_its_disk_has_no_vote_without_the_arbiter_that_remembers() {
    let mut world = forgetful_pair();
    world.run(5000);
    for id in 1..=2 {
        assert_eq!(world.state(id), QuorumState::Inquorate, "{id}");
    }
    let reason = world.node(1).status(world.now, "c").reason;
    assert!(reason.contains("its vote waits for the arbiter"), "{reason}");
    // A restart is no memory.
    let disk = world.kill(1);
    world.boot(1, disk);
    world.run(5000);
    assert_eq!(world.state(1), QuorumState::Inquorate);

    // The arbiter votes, on one of them: the next view is above that, on both.
    let view = world.view(1);
    world.cast(1, view, 10_000, 51);
    world.until(2000, |w| w.view(1) != view && w.view(2) == w.view(1));
    world.run(300);
    for id in 1..=2 {
        assert_eq!(world.state(id), QuorumState::Quorate, "{id}");
        assert_eq!(world.node(id).view_epoch(), Epoch(52));
    }
    assert!(!world.places[&1].disk.forgotten);
}

#[test]
fn the_arbiters_word_alone_puts_a_node_that_lost_its_disk_far_above_it() {
    let mut world = forgetful_pair();
    world.kill(2);
    world.until(3000, |w| w.node(1).members() == [NodeId(1)]);
    let before = world.view(1);
    world.tell(1, Event::ArbiterEpoch(Epoch(50)));
    world.until(3000, |w| w.node(1).view() != Some(before) && w.node(1).view().is_some());
    // Node 2 may have been quorate with somebody else since the arbiter heard of it last.
    assert!(world.node(1).view_epoch() > Epoch(1000));
    let (view, epoch) = (world.view(1), world.node(1).view_epoch().0);
    world.cast(1, view, 10_000, epoch + 1);
    world.until(2000, |w| w.state(1) == QuorumState::Quorate);
}

#[test]
fn a_lost_disk_costs_nothing_where_the_other_nodes_remember_enough() {
    let mut base = config(3);
    base.device_votes = 0;
    base.quorum = 2;
    let mut world = World::new(base);
    world.run(3000);
    let epoch = world.node(2).epoch();
    world.kill(1);
    world.run(1000);
    world.boot(1, Stored::default());
    world.until(9000, |w| w.node(1).members().len() == 3);
    world.until(1500, |w| w.state(1) == QuorumState::Quorate);
    // In the first view that all three were in.
    let of_view = world.node(1).view_epoch();
    assert!(of_view > epoch && of_view.0 < epoch.0 + 10, "{of_view}");
    world.until(1500, |w| !w.places[&1].disk.forgotten);
}

/// Or two that are new: the same to all who look at disks.
#[test]
fn without_an_arbiter_all_nodes_together_go_on_after_most_lost_their_disks() {
    let mut base = config(3);
    base.device_votes = 0;
    base.quorum = 2;
    let mut world = World::new(base);
    world.run(3000);
    let epoch = world.node(1).epoch();
    world.kill(2);
    world.kill(3);
    world.run(2000);
    // Nodes 1 and 3 may have been quorate without node 2, and 3 may have lost what it knew.
    world.boot(2, Stored::default());
    world.until(9000, |w| w.node(2).members() == [NodeId(1), NodeId(2)]);
    world.run(5000);
    for id in 1..=2 {
        assert_eq!(world.state(id), QuorumState::Inquorate, "{id}");
    }
    let reason = world.node(2).status(world.now, "c").reason;
    assert!(reason.contains("all nodes to be together"), "{reason}");

    world.boot(3, Stored::default());
    let quorate = |w: &World, id| w.state(id) == QuorumState::Quorate;
    world.until(9000, |w| (1..=3).all(|id| quorate(w, id) && w.node(id).members().len() == 3));
    // More epochs than the two can have been in without node 1.
    assert!(world.node(1).view_epoch().0 > epoch.0 + 65_536);
    world.until(1500, |w| (1..=3).all(|id| !w.places[&id].disk.forgotten));
}

/// The arbiter tells one of three nodes of its grant, which is quorate only with another one.
#[test]
fn a_granted_epoch_counts_once_voters_with_a_quorum_have_stored_it() {
    let mut world = World::new(config(3));
    world.until(3000, |w| (1..=3).all(|id| w.node(id).members().len() == 3));
    world.kill(1);
    world.until(3000, |w| (2..=3).all(|id| w.node(id).members().len() == 2));
    let (view, epoch) = (world.view(2), world.node(2).view_epoch());
    // Node 3 stores nothing any more.
    world.places.get_mut(&3).unwrap().disk_works = false;
    world.cast(2, view, 10_000, epoch.0 + 7);
    world.run(1000);
    assert_eq!((world.state(2), world.node(2).view_epoch()), (QuorumState::Inquorate, epoch));
    assert_eq!(world.places[&2].disk.epoch.0, epoch.0 + 7);
    assert_eq!(world.polled(2), None);
    // It has heard of the epoch from node 2, not from the arbiter.
    world.places.get_mut(&3).unwrap().disk_works = true;
    world.until(3000, |w| w.state(2) == QuorumState::Quorate);
    assert_eq!(world.node(2).view_epoch().0, epoch.0 + 7);
    assert!(world.places[&3].disk.epoch.0 >= epoch.0 + 7);
    assert_eq!(world.polled(2), Some(true));
}
