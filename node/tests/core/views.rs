//! View agreement: who ends up with whom, and that ids and epochs only grow.

use node::core::Stored;
use protocol::ids::NodeId;
use protocol::status::QuorumState;
use protocol::times;

use crate::driver::{World, config};

#[test]
fn nodes_that_hear_each_other_form_one_view_with_one_epoch() {
    let mut world = World::new(config(4));
    let took = world.until(2000, |w| w.places.values().all(|p| p.node.members().len() == 4));
    assert!(took.as_millis() < 500, "{took:?}");
    let view = world.view(1);
    assert!(world.places.values().all(|p| p.node.view() == Some(view)));
    assert!(world.places.values().all(|p| p.node.epoch() == world.node(1).epoch()));
}

#[test]
fn a_node_alone_waits_for_its_peers_before_it_forms_a_view() {
    let mut world = World::new(config(2));
    world.kill(2);
    let took = world.until(3000, |w| w.node(1).view().is_some());
    assert!(took.as_millis() >= 900, "{took:?}");
    assert_eq!(world.node(1).members(), [NodeId(1)]);
    assert_eq!(world.state(1), QuorumState::Inquorate);
}

#[test]
fn ring_ids_and_epochs_never_repeat_after_a_restart() {
    let mut world = World::settled(2);
    let (ring, epoch) = (world.view(1).ring, world.node(1).epoch());
    let disk = world.kill(1);
    world.boot(1, disk);
    world.kill(2);
    world.until(9000, |w| w.node(1).view().is_some());
    assert!(world.view(1).ring.seq > ring.seq);
    assert!(world.node(1).epoch() > epoch);
}

#[test]
fn a_lost_disk_does_not_mint_an_old_view_again() {
    let mut world = World::settled(2);
    let before = world.view(1);
    world.kill(1);
    world.kill(2);
    world.boot(1, Stored::default());
    world.boot(2, Stored::default());
    world.run(3000);
    assert_ne!(world.view(1).nonce, before.nonce);
}

#[test]
fn a_one_way_cut_never_leaves_two_views_that_overlap() {
    let mut base = config(3);
    base.device_votes = 0;
    base.quorum = 2;
    let mut world = World::new(base);
    world.run(3000);
    world.cut.insert((1, 2));
    world.run(5000);
    let quorate: Vec<u32> = (1..=3).filter(|id| world.state(*id) == QuorumState::Quorate).collect();
    let views: Vec<_> = quorate.iter().map(|id| world.view(*id)).collect();
    assert!(views.windows(2).all(|pair| pair[0] == pair[1]), "{quorate:?} {views:?}");
    assert_eq!(quorate.len(), 2, "{quorate:?}");
}

#[test]
fn a_removed_node_is_readmitted_after_five_seconds_of_contact() {
    let mut world = World::settled(2);
    world.split(&[1], &[2]);
    world.run(2000);
    world.cut.clear();
    let took = world.until(9000, |w| w.node(1).members().len() == 2);
    assert!(took >= times::READMISSION, "{took:?}");
    assert!(took.as_millis() < 6000, "{took:?}");
}

#[test]
fn a_flapping_link_does_not_bring_a_node_back() {
    let mut world = World::settled(2);
    for _ in 0..8 {
        world.split(&[1], &[2]);
        world.run(1000);
        world.cut.clear();
        world.run(1000);
    }
    assert_eq!(world.node(1).members(), [NodeId(1)]);
}

#[test]
fn of_two_overlapping_cliques_one_view_comes_and_stays() {
    let mut world = World::settled(3);
    world.split(&[1], &[3]);
    world.run(8000);
    let views: Vec<_> = (1..=3).map(|id| world.node(id).members().to_vec()).collect();
    let pairs = views.iter().filter(|members| members.len() == 2).count();
    assert_eq!(pairs, 2, "{views:?}");
    let view = (1..=3).map(|id| world.view(id)).collect::<Vec<_>>();
    world.run(10_000);
    assert_eq!((1..=3).map(|id| world.view(id)).collect::<Vec<_>>(), view, "it settles");
}

#[test]
fn another_configuration_keeps_a_node_out() {
    let mut world = World::new(config(2));
    let mut other = config(2);
    other.digest = 2;
    let mut strangers = World::new(other);
    strangers.now = world.now;
    let stranger = strangers.places.remove(&2).unwrap();
    world.places.insert(2, stranger);
    world.run(4000);
    assert_eq!(world.node(1).members(), [NodeId(1)]);
    let status = world.node(1).status(world.now, "c");
    assert!(status.peers[&2].note.contains("configuration"), "{:?}", status.peers);
}

#[test]
fn a_disk_that_fails_installs_no_view() {
    let mut world = World::new(config(2));
    world.places.get_mut(&1).unwrap().disk_works = false;
    world.run(4000);
    assert_eq!(world.node(1).view(), None);
    assert_eq!(world.state(1), QuorumState::Inquorate);
    world.places.get_mut(&1).unwrap().disk_works = true;
    world.until(9000, |w| w.node(1).members().len() == 2);
}

#[test]
fn sixteen_nodes_form_one_view_and_split_into_two_that_do_not_overlap() {
    let mut world = World::new(config(16));
    let took = world.until(3000, |w| w.places.values().all(|p| p.node.members().len() == 16));
    assert!(took.as_millis() < 1500, "{took:?}");
    let (low, high): (Vec<u32>, Vec<u32>) = ((1..=9).collect(), (10..=16).collect());
    world.split(&low, &high);
    world.run(2000);
    for (half, other) in [(&low, QuorumState::Quorate), (&high, QuorumState::Inquorate)] {
        let members: Vec<NodeId> = half.iter().map(|id| NodeId(*id)).collect();
        for id in half {
            assert_eq!(world.node(*id).members(), members, "{id}");
            assert_eq!(world.state(*id), other, "{id}");
        }
    }
}
