//! Rule S3: what a restarted arbiter gives to whom.

use protocol::ids::{ArbiterId, BootId, Epoch, NodeId};
use protocol::qnet::Held;
use protocol::vote::Vote;
use qnetd::core::{GrantRecord, Memory, Settings};

use crate::driver::{Driver, Own, pair, votes};

/// Node 2 holds the vote alone; the arbiter's process has just died.
fn solo_two() -> (Driver, Own) {
    let mut driver = Driver::new(Settings::default());
    let (mut one, mut two) = pair(&mut driver);
    driver.pass_renewing(500, &mut [&mut one, &mut two]);
    driver.close(1);
    two.report(&mut driver, 5, &[2]);
    let done = driver.pass_renewing(1500, &mut [&mut two]);
    two.confirm(&mut driver, &done);
    assert!(two.grant.unwrap().id.epoch > Epoch(1));
    (driver, two)
}

fn held(two: &Own) -> Held {
    let grant = two.grant.unwrap();
    Held { grant: grant.id, view: grant.view, remaining_ms: 9000 }
}

#[test]
fn in_the_same_boot_the_recorded_view_has_the_vote_at_once() {
    let (driver, mut two) = solo_two();
    let grant = two.grant.take().unwrap();
    let mut driver = driver.restart(BootId(1));
    two.join(&mut driver);
    let done = two.report(&mut driver, 5, &[2]);
    assert_eq!(votes(&done), [(2, Vote::Ack)]);
    assert_eq!(two.grant.unwrap().id, grant.id);
}

#[test]
fn the_other_side_waits_the_recorded_duration() {
    let (driver, _) = solo_two();
    let mut driver = driver.restart(BootId(1));
    let mut one = Own::new(1, 1, &[1, 2]);
    one.join(&mut driver);
    one.report(&mut driver, 6, &[1]);
    assert_eq!(votes(&driver.pass_renewing(10_750, &mut [&mut one])), []);
    assert_eq!(votes(&driver.pass_renewing(500, &mut [&mut one])), [(1, Vote::Ack)]);
}

#[test]
fn after_a_reboot_only_a_presented_lease_is_reissued() {
    let (driver, mut two) = solo_two();
    let journal = driver.journal.clone();
    let held = held(&two);
    let mut with = driver.restart(BootId(2));
    two.join_holding(&mut with, Some(held));
    assert_eq!(votes(&two.report(&mut with, 5, &[2])), [(2, Vote::Ack)]);

    let mut without = Driver::new(Settings::default());
    without.journal = journal;
    let mut without = without.restart(BootId(2));
    two.grant = None;
    two.join(&mut without);
    assert_eq!(votes(&two.report(&mut without, 5, &[2])), []);
    assert_eq!(votes(&without.pass_renewing(10_750, &mut [&mut two])), []);
    assert_eq!(votes(&without.pass_renewing(500, &mut [&mut two])), [(2, Vote::Ack)]);
}

#[test]
fn a_grant_whose_boot_is_doubted_is_not_given_again_at_once() {
    let (mut driver, mut two) = solo_two();
    // As the journal says it of a directory that was restored within this boot.
    driver.journal.iter_mut().for_each(|record| record.host_boot = BootId::default());
    let mut driver = driver.restart(BootId(1));
    two.grant = None;
    two.join(&mut driver);
    assert_eq!(votes(&two.report(&mut driver, 5, &[2])), []);
    let status = &driver.arbiter.status(driver.now).clusters["c"];
    assert!(status.waiting.is_some());
    assert_eq!(status.waiting_ms, Some(11_000));
    assert_eq!(votes(&driver.pass_renewing(10_750, &mut [&mut two])), []);
    assert_eq!(votes(&driver.pass_renewing(500, &mut [&mut two])), [(2, Vote::Ack)]);
    assert!(two.grant.unwrap().id.epoch.0 > 1 << 20);
}

#[test]
fn an_empty_state_directory_waits_for_every_configured_node() {
    let mut driver = Driver::new(Settings::default());
    let mut two = Own::new(2, 2, &[1, 2]);
    two.join(&mut driver);
    assert_eq!(votes(&two.report(&mut driver, 5, &[2])), []);
    assert_eq!(votes(&driver.pass_renewing(100_000, &mut [&mut two])), []);
    let status = driver.arbiter.status(driver.now);
    let waiting = status.clusters["c"].waiting.clone().unwrap();
    assert!(waiting.contains("node 1"), "{waiting}");
    let mut one = Own::new(1, 1, &[1, 2]);
    one.join(&mut driver);
    let done = one.report(&mut driver, 6, &[1]);
    // Both are known and every bound has passed.
    assert_eq!(votes(&done), [(2, Vote::Nack), (1, Vote::Ack)]);
}

#[test]
fn a_restored_record_is_found_out_by_a_newer_lease_of_the_same_directory() {
    let (driver, mut two) = solo_two();
    let mut old = Driver::new(Settings::default());
    old.journal = driver.journal[..1].to_vec();
    let mut driver = old.restart(BootId(2));
    two.highest = two.grant.unwrap().id.epoch;
    let held = held(&two);
    two.join_holding(&mut driver, Some(held));
    assert_eq!(votes(&two.report(&mut driver, 5, &[2])), []);
    assert!(driver.arbiter.epoch(&"c".into()) > Some(two.highest));
    // Quarantine: node 1 has not reported since, however long it takes.
    assert_eq!(votes(&driver.pass_renewing(80_000, &mut [&mut two])), []);
}

/// The epoch of the first grant to node 2 after a reboot in which the wall clock shows this.
fn first_epoch_after(record: &GrantRecord, clock_s: u64) -> Epoch {
    let memory = Memory {
        arbiter: ArbiterId(7),
        boot: 2,
        host_boot: BootId(2),
        clock_s,
        grants: vec![record.clone()],
        ..Memory::default()
    };
    let mut driver = Driver::with_memory(Settings::default(), memory);
    let mut two = Own::new(2, 2, &[1, 2]);
    two.join(&mut driver);
    two.report(&mut driver, 5, &[2]);
    driver.pass_renewing(11_500, &mut [&mut two]);
    two.grant.unwrap().id.epoch
}

#[test]
fn no_epoch_is_given_again_by_two_reboots_from_one_backup() {
    let (driver, _) = solo_two();
    let backup = driver.journal.last().unwrap();
    let mut highest = backup.grant.epoch;
    for clock_s in [1_800_000_000, 1_800_000_001, 1_800_000_060, 2_000_000_000] {
        let epoch = first_epoch_after(backup, clock_s);
        assert!(epoch > highest, "{epoch} after {highest}");
        highest = epoch;
    }
    // A clock that is behind the record, or that no node would follow, is not gone by.
    let mut ahead = backup.clone();
    ahead.grant.epoch = highest;
    for clock_s in [0, 1, 1_800_000_000, u64::MAX] {
        let epoch = first_epoch_after(&ahead, clock_s);
        assert!(epoch.0 > highest.0 + (1 << 20) && epoch.0 < highest.0 + (1 << 21), "{epoch}");
    }
}

#[test]
fn epochs_go_on_above_what_clients_report() {
    let mut driver = Driver::new(Settings::default());
    let (mut one, mut two) = (Own::new(1, 1, &[1, 2]), Own::new(2, 2, &[1, 2]));
    one.highest = Epoch(41);
    one.join(&mut driver);
    two.join(&mut driver);
    one.report(&mut driver, 4, &[1, 2]);
    two.report(&mut driver, 4, &[1, 2]);
    assert!(two.grant.unwrap().id.epoch > Epoch(41));
    assert!(driver.journal[0].nodes.contains(&NodeId(2)));
}

#[test]
fn an_absurd_epoch_is_not_followed() {
    let mut driver = Driver::new(Settings::default());
    let (mut one, mut two) = pair(&mut driver);
    one.highest = Epoch(u64::MAX);
    driver.pass_renewing(500, &mut [&mut one, &mut two]);
    assert!(driver.arbiter.epoch(&"c".into()).unwrap() < Epoch(1000));
}

#[test]
fn after_a_restart_the_holders_keep_the_vote_whoever_reconnects_first() {
    let mut driver = Driver::new(Settings::default());
    let all = [1, 2, 3, 4];
    let mut nodes: Vec<Own> = (1..=4).map(|n| Own::new(u64::from(n), n, &all)).collect();
    for node in &mut nodes {
        node.join(&mut driver);
    }
    for node in &mut nodes {
        node.report(&mut driver, 4, &all);
    }
    let mut done = Vec::new();
    for (index, half) in [[1, 2], [1, 2], [3, 4], [3, 4]].iter().enumerate() {
        done.extend(nodes[index].report(&mut driver, 5, half));
    }
    for node in &mut nodes {
        let more = node.confirm(&mut driver, &done.clone());
        done.extend(more);
    }
    assert_eq!(driver.journal.last().unwrap().view, nodes[0].view);
    let mut driver = driver.restart(BootId(1));
    for index in [2, 3, 0] {
        let (node, half) = (&mut nodes[index], [[1, 2], [3, 4]][index / 2]);
        node.grant = None;
        node.join(&mut driver);
        let done = node.report(&mut driver, 5, &half);
        assert!(!votes(&done).contains(&(1, Vote::Nack)), "node {} is back", node.node);
    }
    nodes[1].grant = None;
    nodes[1].join(&mut driver);
    let done = nodes[1].report(&mut driver, 5, &[1, 2]);
    assert!(votes(&done).contains(&(1, Vote::Ack)), "{:?}", votes(&done));
    assert!(votes(&done).contains(&(2, Vote::Ack)), "{:?}", votes(&done));
}
