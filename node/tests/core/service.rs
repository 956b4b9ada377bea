//! Where the service runs, and when it may start (rules S5, S6).

use protocol::status::QuorumState;
use protocol::vote::WatchdogClass;

use crate::driver::{World, config};

fn running(world: &World) -> Vec<u32> {
    world.places.iter().filter(|(_, p)| p.running.is_some()).map(|(id, _)| *id).collect()
}

#[test]
fn the_service_starts_once_on_the_member_it_prefers_after_all_have_stored_that() {
    let world = World::settled(2);
    assert_eq!(running(&world), [2]);
    for place in world.places.values() {
        assert_eq!(place.disk.placement.unwrap().node.0, 2);
    }
}

#[test]
fn it_stays_where_it_runs_when_a_preferred_node_comes_back() {
    let mut world = World::new(config(2));
    let two = world.kill(2);
    world.run(1500);
    world.boot(2, two);
    world.until(5000, |w| !running(w).is_empty());
    let first = running(&world);
    world.run(5000);
    assert_eq!(running(&world), first);
}

#[test]
fn the_survivor_starts_it_after_the_lost_nodes_bound() {
    let mut world = World::settled(2);
    let epoch = world.node(1).epoch().0;
    let old = world.places[&2].running.unwrap();
    world.kill(2);
    world.until(1500, |w| w.node(1).members().len() == 1);
    let view = world.view(1);
    world.cast(1, view, 60_000, epoch + 3);
    world.until(1500, |w| w.state(1) == QuorumState::Quorate);
    let granted = world.now;
    for _ in 0..200 {
        world.cast(1, view, 10_000, epoch + 3);
        if !running(&world).is_empty() {
            break;
        }
        world.run(100);
    }
    let waited = world.now.since(granted).as_millis();
    assert!((5300..5500).contains(&waited), "{waited}");
    assert!(world.places[&1].running.unwrap() > old);
}

#[test]
fn a_class_that_proves_nothing_waits_for_an_operator_and_says_so() {
    let mut base = config(2);
    base.trust_process_watchdog = false;
    let mut world = World::new(base);
    world.run(3000);
    world.kill(2);
    world.until(1500, |w| w.node(1).members().len() == 1);
    let view = world.view(1);
    for _ in 0..100 {
        world.cast(1, view, 10_000, 50);
        world.run(200);
    }
    assert_eq!(world.state(1), QuorumState::Quorate);
    assert!(running(&world).is_empty());
    let status = world.node(1).status(world.now, "c");
    assert!(status.fencing[&2].contains("operator"), "{:?}", status.fencing);
    assert!(status.resources[0].state.starts_with("waiting"), "{:?}", status.resources);
}

#[test]
fn a_node_that_was_never_seen_is_presumed_to_run_everything() {
    let mut world = World::new(config(2));
    world.kill(2);
    world.run(2000);
    world.keep_voting(1, 20_000);
    assert_eq!(world.state(1), QuorumState::Quorate);
    assert!(running(&world).is_empty());
}

#[test]
fn the_loser_stops_it_and_is_not_entitled_any_more() {
    let mut world = World::settled(2);
    world.split(&[1], &[2]);
    world.until(1500, |w| w.state(2) == QuorumState::Inquorate);
    world.run(10);
    assert!(running(&world).is_empty());
    assert_eq!(world.places[&2].stops, 1);
}

#[test]
fn what_an_earlier_life_left_is_stopped_before_anything_starts() {
    let mut world = World::settled(2);
    let disk = world.kill(2);
    world.run(100);
    world.boot(2, disk);
    world.tell(2, node::core::Event::KeeperReady { running: true });
    assert_eq!(world.places[&2].stops, 1);
    world.until(8000, |w| running(w) == [2] || running(w) == [1]);
}

#[test]
fn a_service_that_ends_by_itself_is_started_again_on_its_node() {
    let mut world = World::settled(2);
    world.places.get_mut(&2).unwrap().running = None;
    world.tell(2, node::core::Event::Exited { serial: 1 });
    world.until(3000, |w| running(w) == [2]);
    assert_eq!(world.places[&2].starts, 2);
}

#[test]
fn the_announced_class_travels_in_the_view() {
    let world = World::settled(2);
    let bound = world.places[&1].disk.bounds[&protocol::ids::NodeId(2)];
    assert_eq!((bound.class, bound.bound_ms), (WatchdogClass::C, 5300));
}

#[test]
fn after_a_clean_leave_the_survivor_does_not_wait_for_a_bound() {
    let mut world = World::settled(2);
    let (view, epoch) = (world.view(1), world.node(1).epoch().0);
    world.cast(1, view, 60_000, epoch);
    world.tell(2, node::core::Event::Leave);
    world.until(1000, |w| w.places[&2].exited);
    world.kill(2);
    world.until(1000, |w| w.node(1).members().len() == 1);
    let alone = world.view(1);
    world.cast(1, alone, 10_000, epoch + 3);
    let took = world.until(1500, |w| running(w) == [1]);
    assert!(took.as_millis() < 1000, "{took:?}");
}
