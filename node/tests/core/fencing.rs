//! When the power of a lost node is cut, and what a proof of it is worth (rules S6, S7).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use node::core::Event;
use protocol::fence::{How, Outcome, Proof};
use protocol::ids::{BootId, Epoch, NodeId};
use protocol::status::QuorumState;
use protocol::times;

use crate::driver::{World, config};

/// Nodes in one view that have a gateway, whose watchdogs prove nothing.
fn settled(nodes: u32) -> World {
    let mut base = config(nodes);
    base.trust_process_watchdog = false;
    let mut world = World::with_gateway(base, true);
    world.run(3000);
    for place in world.places.values() {
        assert_eq!(place.node.members().len(), nodes as usize);
        assert!(place.fences.is_empty(), "{:?}", place.fences);
    }
    world
}

/// The same, with node 2 lost, and node 1 in a view of its own with the device's vote in the old.
fn bereft() -> (World, BootId) {
    let mut world = settled(2);
    let (view, epoch) = (world.view(1), world.node(1).epoch().0);
    world.cast(1, view, 60_000, epoch + 1);
    let boot = world.boot_of(2);
    world.kill(2);
    world.until(1500, |w| w.node(1).members().len() == 1);
    (world, boot)
}

fn proof(boot: BootId, how: How, sent_ms: u64) -> Event {
    Event::FenceProof { proof: Proof { node: NodeId(2), boot, how, sent_ms } }
}

fn ended(outcome: Outcome) -> Event {
    Event::FenceEnded { result: Ok(BTreeMap::from([(NodeId(2), outcome)])) }
}

fn refused() -> Event {
    ended(Outcome::Refused { why: "the arbiter has not chosen a side yet".to_owned() })
}

fn running(world: &World) -> Vec<u32> {
    world.places.iter().filter(|(_, p)| p.running.is_some()).map(|(id, _)| *id).collect()
}

fn waits(world: &World, id: u32) -> String {
    world.node(id).status(world.now, "c").fencing[&2].clone()
}

/// The device votes for node 1, with one epoch.
fn grant(world: &mut World, above: u64) {
    let (view, epoch) = (world.view(1), world.node(1).epoch().0);
    world.cast(1, view, 10_000, epoch + above);
    world.until(1500, |w| w.state(1) == QuorumState::Quorate);
}

#[test]
fn a_lost_nodes_power_is_asked_for_as_soon_as_a_view_without_it_stands() {
    let mut world = settled(2);
    let (view, epoch) = (world.view(1), world.node(1).epoch().0);
    world.cast(1, view, 60_000, epoch + 1);
    world.kill(2);
    let took = world.until(1500, |w| !w.places[&1].fences.is_empty());
    assert!(took <= times::PEER_LEASE + times::VIEW_AGREEMENT, "{took:?}");
    assert_eq!(world.state(1), QuorumState::Frozen, "as a candidate");
    let (_, targets, epoch) = world.places[&1].fences[0].clone();
    assert_eq!((targets, epoch), ([NodeId(2)].into(), world.node(1).epoch()));
    assert!(waits(&world, 1).contains("cutting the power of node 2"), "{}", waits(&world, 1));
    world.run(300);
    assert_eq!(world.places[&1].fences.len(), 1, "it has not been answered");
}

#[test]
fn without_a_gateway_nobody_is_asked() {
    let (mut world, _) = bereft();
    world.tell(1, Event::Gateway { configured: false });
    let asked = world.places[&1].fences.len();
    world.run(5000);
    assert_eq!(world.places[&1].fences.len(), asked);
}

#[test]
fn the_service_starts_with_the_proof_and_not_before_it() {
    let (mut world, boot) = bereft();
    grant(&mut world, 1);
    world.run(8000);
    assert!(running(&world).is_empty());
    let status = world.node(1).status(world.now, "c");
    assert!(status.resources[0].state.contains("the gateway is cutting"), "{status:?}");
    world.tell(1, proof(boot, How::ReadOff, 40));
    assert_eq!(running(&world), [1]);
    assert!(waits(&world, 1).contains("reads off"), "{}", waits(&world, 1));
}

#[test]
fn a_proof_from_before_the_grant_counts_after_it() {
    let (mut world, boot) = bereft();
    world.tell(1, proof(boot, How::ReadOff, 0));
    assert_ne!(world.state(1), QuorumState::Quorate);
    assert!(running(&world).is_empty());
    grant(&mut world, 1);
    world.run(1);
    assert_eq!(running(&world), [1]);
    assert_eq!(world.places[&1].fences.len(), 1);
}

#[test]
fn a_proof_that_an_epoch_has_passed_since_is_worth_nothing() {
    let (mut world, boot) = bereft();
    world.take_back(1);
    world.until(1500, |w| w.state(1) == QuorumState::Inquorate);
    world.tell(1, proof(boot, How::ReadOff, 0));
    world.tell(1, ended(Outcome::On));
    // In between, somebody else was quorate: the lost node, for all that is known here.
    world.run(60_000);
    grant(&mut world, 3);
    world.run(1000);
    assert!(running(&world).is_empty());
    assert!(world.places[&1].fences.len() > 1, "it is asked for again");
    world.tell(1, proof(boot, How::ReadOff, 0));
    assert_eq!(running(&world), [1]);
}

#[test]
fn a_proof_is_of_the_boot_that_was_lost_or_nothing_was_heard_since() {
    let (mut world, boot) = bereft();
    grant(&mut world, 1);
    // The command would have been sent while the node was heard.
    for other in [BootId(0), BootId(99)] {
        world.tell(1, proof(other, How::ReadOff, 2000));
        assert!(running(&world).is_empty(), "{other:?}");
    }
    // It was sent before the node was lost: the proof is of another incident (safety 24).
    world.tell(1, proof(boot, How::Watchdog, 2500));
    assert!(running(&world).is_empty());
    world.tell(1, proof(BootId(0), How::ReadOff, 10));
    assert_eq!(running(&world), [1]);
}

#[test]
fn a_proof_ends_when_the_node_is_in_a_view_again() {
    let (mut world, boot) = bereft();
    grant(&mut world, 1);
    world.tell(1, proof(boot, How::ReadOff, 10));
    world.boot(2, Default::default());
    world.keep_voting(1, 8000);
    assert_eq!(world.node(1).members().len(), 2);
    world.kill(2);
    let asked = world.places[&1].fences.len();
    world.until(1500, |w| w.node(1).members().len() == 1);
    world.run(100);
    assert!(waits(&world, 1).contains("cutting"), "{}", waits(&world, 1));
    assert!(world.places[&1].fences.len() > asked);
}

#[test]
fn a_node_that_comes_back_with_another_boot_is_not_fenced_again() {
    let (mut world, boot) = bereft();
    grant(&mut world, 1);
    world.tell(1, proof(boot, How::ReadOff, 10));
    world.tell(1, ended(Outcome::On));
    // It is heard, and does not hear: it cannot come into a view.
    world.cut.insert((1, 2));
    world.boot(2, Default::default());
    let asked = world.places[&1].fences.len();
    world.keep_voting(1, 30_000);
    assert_eq!(world.places[&1].fences.len(), asked);
    assert_eq!(running(&world), [1]);
}

#[test]
fn a_node_that_is_heard_after_it_was_read_off_is_not_off() {
    // The bound of a node whose machine lives may have passed all the same.
    for (how, text, stays) in [
        (How::ReadOff, "its power was cut and reads off", false),
        (How::Watchdog, "its watchdog's bound has passed", true),
    ] {
        let (mut world, _) = bereft();
        grant(&mut world, 1);
        world.cut.insert((1, 2));
        world.boot(2, Default::default());
        let boot = world.boot_of(2);
        world.run(50);
        world.tell(1, proof(boot, how, 10));
        assert!(waits(&world, 1).contains(text), "{}", waits(&world, 1));
        world.run(600);
        assert!(waits(&world, 1).contains(text), "it may have been on its way");
        world.run(400);
        assert_eq!(waits(&world, 1).contains(text), stays, "{}", waits(&world, 1));
    }
}

#[test]
fn a_proof_that_nobody_has_asked_for_is_worth_nothing() {
    let (mut world, boot) = bereft();
    grant(&mut world, 1);
    world.tell(1, ended(Outcome::On));
    world.tell(1, proof(boot, How::ReadOff, 0));
    assert!(running(&world).is_empty());
    world.until(1000, |w| w.places[&1].fences.len() == 2);
    world.tell(1, proof(boot, How::ReadOff, 0));
    assert_eq!(running(&world), [1]);
}

#[test]
fn a_proof_counts_for_every_member_of_the_view() {
    let mut world = settled(3);
    let boot = world.boot_of(2);
    world.kill(2);
    world.until(1500, |w| w.node(3).members().len() == 2 && !w.places[&1].fences.is_empty());
    assert!(world.places[&3].fences.is_empty(), "the lowest asks");
    assert!(waits(&world, 3).contains("node 1 has the power"), "{}", waits(&world, 3));
    world.tell(1, proof(boot, How::ReadOff, 10));
    world.run(5);
    assert!(waits(&world, 3).contains("reads off"), "{}", waits(&world, 3));
    world.run(60_000);
    assert!(world.places[&3].fences.is_empty());
}

#[test]
fn the_next_member_asks_when_the_lowest_gets_nowhere() {
    let mut world = settled(3);
    world.kill(2);
    world.until(1500, |w| !w.places[&1].fences.is_empty());
    let first = world.now;
    world.run(30_000);
    let (at, targets, _) = world.places[&3].fences[0].clone();
    assert_eq!(targets, BTreeSet::from([NodeId(2)]));
    let after = at.since(first);
    assert!((19_000..21_000).contains(&after.as_millis()), "{after:?}");
}

#[test]
fn a_no_is_asked_again_ever_later_and_at_once_when_the_vote_comes() {
    let (mut world, _) = bereft();
    for _ in 0..100 {
        let asked = world.places[&1].fences.len();
        world.tell(1, refused());
        world.until(5500, |w| w.places[&1].fences.len() > asked);
        if asked == 6 {
            break;
        }
    }
    let at: Vec<u128> = world.places[&1]
        .fences
        .windows(2)
        .map(|pair| pair[1].0.since(pair[0].0).as_millis())
        .collect();
    assert_eq!(at[..6], [500, 1000, 2000, 4000, 5000, 5000], "{at:?}");
    world.tell(1, refused());
    assert!(waits(&world, 1).contains("has not chosen a side"), "{}", waits(&world, 1));
    let asked = world.places[&1].fences.len();
    grant(&mut world, 1);
    world.run(100);
    assert_eq!(world.places[&1].fences.len(), asked + 1);
}

#[test]
fn when_every_level_fails_the_state_has_a_name_and_says_what_to_do() {
    let (mut world, _) = bereft();
    grant(&mut world, 1);
    let why = "level 1: bmc-2 does not answer".to_owned();
    world.tell(1, ended(Outcome::Failed { why }));
    let asked = world.places[&1].fences.len();
    let text = waits(&world, 1);
    let wanted = "waits for the operator: fencing failed: level 1: bmc-2 does not answer; see \
                  that it is off, then run: haguard fence confirm 2";
    assert_eq!(text, wanted);
    let resource = world.node(1).status(world.now, "c").resources[0].state.clone();
    assert!(resource.starts_with("waiting: fencing failed: "), "{resource}");
    let view = world.view(1);
    for _ in 0..29 {
        world.cast(1, view, 10_000, 0);
        world.run(1000);
    }
    assert_eq!(world.places[&1].fences.len(), asked);
    world.run(1100);
    assert_eq!(world.places[&1].fences.len(), asked + 1, "it is tried again");
    assert_eq!(waits(&world, 1), wanted, "and says so until it has worked");
}

#[test]
fn no_gateway_that_answers_is_an_operators_matter_too() {
    let (mut world, _) = bereft();
    grant(&mut world, 1);
    world.tell(1, Event::FenceEnded { result: Err("192.0.2.9:5413: no route".to_owned()) });
    let text = waits(&world, 1);
    assert!(text.starts_with("waits for the operator: no fencing gateway answers"), "{text}");
    assert!(text.contains("no route") && text.contains("fence confirm 2"), "{text}");
}

#[test]
fn time_is_proof_beside_the_gateway_where_its_class_is_accepted() {
    let mut world = World::with_gateway(config(2), true);
    world.run(3000);
    world.kill(2);
    world.until(1500, |w| w.node(1).members().len() == 1);
    grant(&mut world, 1);
    let granted = world.now;
    let text = waits(&world, 1);
    assert!(text.contains("ms for the bound of node 2 (the gateway is cutting"), "{text}");
    let view = world.view(1);
    world.cast(1, view, 10_000, 0);
    world.until(6000, |w| running(w) == [1]);
    let waited = world.now.since(granted).as_millis();
    assert!((5200..5500).contains(&waited), "{waited}");
}

#[test]
fn a_node_that_left_cleanly_is_not_fenced() {
    let mut world = settled(2);
    world.tell(2, Event::Leave);
    world.until(1000, |w| w.places[&2].exited);
    world.kill(2);
    world.until(1000, |w| w.node(1).members().len() == 1);
    let view = world.view(1);
    world.cast(1, view, 10_000, 9);
    world.run(5000);
    assert_eq!(world.state(1), QuorumState::Quorate);
    assert!(world.places[&1].fences.is_empty());
}

#[test]
fn a_node_that_was_never_heard_has_time_to_boot() {
    let mut base = config(2);
    base.trust_process_watchdog = false;
    let mut world = World::with_gateway(base, true);
    world.kill(2);
    world.run(100);
    let disk = world.kill(1);
    let start = world.now;
    world.boot(1, disk);
    world.until(25_000, |w| !w.places[&1].fences.is_empty());
    let after = world.now.since(start);
    assert!(after >= times::FENCE_DEADLINE, "{after:?}");
}

#[test]
fn a_node_that_was_paused_asks_with_its_old_epoch_and_steps_down() {
    let mut world = settled(2);
    let (view, epoch) = (world.view(2), world.node(2).epoch());
    world.cast(2, view, 10_000, epoch.0);
    assert_eq!(running(&world), [2]);
    // All of it stands still for a minute, and nobody hears it any more.
    world.kill(1);
    world.now = world.now + Duration::from_secs(60);
    assert_eq!(world.state(2), QuorumState::Inquorate, "at the first reading");
    world.tell(2, Event::Timeout);
    assert!(running(&world).is_empty());
    assert_eq!(world.places[&2].stops, 1);
    world.until(1500, |w| !w.places[&2].fences.is_empty());
    let (_, targets, asked) = world.places[&2].fences[0].clone();
    assert_eq!(targets, BTreeSet::from([NodeId(1)]));
    assert!(asked <= epoch.next(), "{asked}");
    let why = protocol::fence::Refusal::StaleEpoch { given: asked, current: Epoch(asked.0 + 5) };
    for _ in 0..5 {
        let refused = Outcome::Refused { why: why.to_string() };
        let result = Ok(BTreeMap::from([(NodeId(1), refused)]));
        world.tell(2, Event::FenceEnded { result });
        world.run(6000);
    }
    assert_eq!(world.state(2), QuorumState::Inquorate);
    assert!(running(&world).is_empty());
    let text = world.node(2).status(world.now, "c").fencing[&1].clone();
    assert!(text.contains("the gateway") || text.contains("the request is of epoch"), "{text}");
}

#[test]
fn a_lost_node_that_reboots_fast_does_not_resume_on_its_own() {
    // It is back before its loss is noticed, before the takeover, and after it.
    for down_ms in [200, 800, 3000] {
        let mut world = settled(2);
        assert_eq!(running(&world), [2]);
        let (view, epoch) = (world.view(1), world.node(1).epoch().0);
        world.cast(1, view, 60_000, epoch + 1);
        let disk = world.kill(2);
        world.run(down_ms);
        world.boot(2, disk);
        for _ in 0..10_000 {
            world.run(1);
            if world.places[&2].running.is_none() {
                continue;
            }
            assert_eq!(world.node(2).members(), [NodeId(1), NodeId(2)], "{down_ms}");
            assert_eq!(world.state(2), QuorumState::Quorate, "{down_ms}");
            assert_eq!(running(&world), [2], "{down_ms}");
            assert!(world.places[&2].running.unwrap() > Epoch(epoch), "{down_ms}");
        }
        assert_eq!(running(&world).len(), 1, "{down_ms}");
    }
}
