//! Rules S1 and S2: who gets a lease, how long it is, and when the vote may move.

use protocol::qnet::HostKind;
use protocol::times;
use protocol::vote::Vote;
use qnetd::core::Settings;

use crate::driver::{Done, Driver, Own, grant_to, meet, pair, set, votes};

#[test]
fn a_full_view_gets_short_leases_at_once_and_the_grant_is_stored_first() {
    let mut driver = Driver::new(Settings::default());
    let (mut one, mut two) = (Own::new(1, 1, &[1, 2]), Own::new(2, 2, &[1, 2]));
    one.join(&mut driver);
    two.join(&mut driver);
    assert_eq!(votes(&one.report(&mut driver, 4, &[1, 2])), []);
    driver.disk_works = false;
    let done = two.report(&mut driver, 4, &[1, 2]);
    assert!(done.iter().any(|done| matches!(done, Done::Persist(_))));
    assert_eq!(votes(&done), []);
    let done = driver.write(true);
    assert_eq!(votes(&done), [(1, Vote::Ack), (2, Vote::Ack)]);
    let grant = grant_to(&done, 1).unwrap();
    assert_eq!(u128::from(grant.lease_ms), times::LEASE.as_millis());
    assert_eq!(grant.view, one.view);
    assert_eq!(grant.anchor, 1);
}

#[test]
fn a_grant_that_cannot_be_stored_is_not_given_and_tried_again() {
    let mut driver = Driver::new(Settings::default());
    let (mut one, mut two) = (Own::new(1, 1, &[1, 2]), Own::new(2, 2, &[1, 2]));
    one.join(&mut driver);
    two.join(&mut driver);
    one.report(&mut driver, 4, &[1, 2]);
    driver.disk_works = false;
    two.report(&mut driver, 4, &[1, 2]);
    assert_eq!(votes(&driver.write(false)), []);
    driver.disk_works = true;
    let done = driver.pass_renewing(2000, &mut [&mut one, &mut two]);
    assert_eq!(votes(&done), [(1, Vote::Ack), (2, Vote::Ack)]);
}

#[test]
fn the_loser_confirms_before_the_winner_is_told() {
    let mut driver = Driver::new(Settings::default());
    let (mut one, mut two) = pair(&mut driver);
    driver.pass_renewing(1000, &mut [&mut one, &mut two]);
    assert_eq!(votes(&one.report(&mut driver, 5, &[1])), []);
    let done = two.report(&mut driver, 5, &[2]);
    assert_eq!(votes(&done), [(2, Vote::Nack)]);
    let done = two.confirm(&mut driver, &done);
    assert_eq!(votes(&done), [(1, Vote::Ack)]);
    let grant = grant_to(&done, 1).unwrap();
    assert_eq!(u128::from(grant.lease_ms), times::SOLO_LEASE.as_millis());
    assert_eq!(driver.journal.last().unwrap().nodes, set(&[1]));
}

#[test]
fn a_silent_holder_keeps_the_vote_for_its_bound_and_not_longer() {
    let mut driver = Driver::new(Settings::default());
    let (mut one, mut two) = pair(&mut driver);
    driver.pass_renewing(1000, &mut [&mut one, &mut two]);
    let lost = driver.now;
    assert_eq!(votes(&two.report(&mut driver, 5, &[2])), []);
    let done = driver.pass_renewing(1000, &mut [&mut two]);
    assert_eq!(votes(&done), [], "at {} of {lost}", driver.now);
    let done = driver.pass_renewing(250, &mut [&mut two]);
    // The silent node is told too, in case it comes back.
    assert_eq!(votes(&done), [(1, Vote::Nack), (2, Vote::Ack)]);
    assert!(driver.now.since(lost) >= times::LEASE_HOLD);
}

/// Two hosts with corosync in the full view {1, 2}; the second connection began within a
/// membership change, so the arbiter was told T and S.
fn pair_within_a_change(driver: &mut Driver) -> (Own, Own) {
    let (mut one, mut two) = (Own::new(1, 1, &[1, 2]), Own::new(2, 2, &[1, 2]));
    (one.host, one.worst_case_ms) = (HostKind::Corosync, 10_000);
    (two.host, two.worst_case_ms) = (HostKind::Corosync, 40_000);
    meet(driver, one, two)
}

#[test]
fn a_lost_host_is_waited_for_as_long_as_it_has_said_last() {
    let hold = u64::try_from(times::LEASE_HOLD.as_millis()).unwrap();
    for (shorter_ms, worst_ms, recorded_ms) in [
        (None, 40_000, 40_000),
        (Some(10_000), 10_000, 10_000),
        // The first node's is recorded, too.
        (Some(0), 0, 10_000),
        (Some(41_000), 40_000, 40_000),
    ] {
        let mut driver = Driver::new(Settings::default());
        let (mut one, mut two) = pair_within_a_change(&mut driver);
        assert_eq!(driver.journal.last().unwrap().bound_ms, Some(hold + 40_000));
        driver.pass_renewing(500, &mut [&mut one, &mut two]);
        two.shorter_ms = shorter_ms;
        let done = driver.pass_renewing(250, &mut [&mut one, &mut two]);
        // A shorter bound is on disk, and the nodes have a new grant, before it counts.
        assert_eq!(driver.journal.last().unwrap().bound_ms, Some(hold + recorded_ms));
        let is_shorter = recorded_ms < 40_000;
        let told = if is_shorter { vec![(1, Vote::Ack), (2, Vote::Ack)] } else { Vec::new() };
        assert_eq!(votes(&done), told, "{shorter_ms:?}");
        one.confirm(&mut driver, &done);
        two.confirm(&mut driver, &done);
        driver.pass_renewing(250, &mut [&mut one, &mut two]);
        let lost = driver.now;
        one.report(&mut driver, 5, &[1]);
        let wait = (hold + worst_ms).max(2000);
        let done = driver.pass_renewing(wait / 250 * 250 - 250, &mut [&mut one]);
        let won = votes(&done).contains(&(1, Vote::Ack));
        assert!(!won, "{shorter_ms:?}: after {:?}", driver.now.since(lost));
        let done = driver.pass_renewing(1000, &mut [&mut one]);
        assert!(votes(&done).contains(&(1, Vote::Ack)), "{shorter_ms:?}: {done:?}");
    }
}

#[test]
fn a_shorter_bound_that_was_not_applied_does_not_count() {
    let mut driver = Driver::new(Settings::default());
    let (mut one, mut two) = pair_within_a_change(&mut driver);
    two.shorter_ms = Some(10_000);
    driver.pass_renewing(250, &mut [&mut one, &mut two]);
    // The new grant is on its way; the second node may still count by the old one.
    one.report(&mut driver, 5, &[1]);
    assert_eq!(votes(&driver.pass_renewing(40_000, &mut [&mut one])), []);
    let done = driver.pass_renewing(1500, &mut [&mut one]);
    assert!(votes(&done).contains(&(1, Vote::Ack)), "{done:?}");
}

#[test]
fn a_closed_connection_proves_nothing() {
    let mut driver = Driver::new(Settings::default());
    let (mut one, mut two) = pair(&mut driver);
    driver.pass_renewing(500, &mut [&mut one, &mut two]);
    driver.close(1);
    assert_eq!(votes(&two.report(&mut driver, 5, &[2])), []);
    assert_eq!(votes(&driver.pass_renewing(1000, &mut [&mut two])), []);
    assert_eq!(votes(&driver.pass_renewing(250, &mut [&mut two])), [(2, Vote::Ack)]);
}

#[test]
fn a_solo_holder_is_waited_for_eleven_seconds() {
    let mut driver = Driver::new(Settings::default());
    let (mut one, mut two) = pair(&mut driver);
    one.report(&mut driver, 5, &[1]);
    let done = two.report(&mut driver, 5, &[2]);
    let done = two.confirm(&mut driver, &done);
    one.confirm(&mut driver, &done);
    driver.pass_renewing(1000, &mut [&mut one, &mut two]);
    let quiet = driver.now;
    assert_eq!(votes(&driver.pass_renewing(10_750, &mut [&mut two])), []);
    let done = driver.pass_renewing(500, &mut [&mut two]);
    assert_eq!(votes(&done), [(1, Vote::Nack), (2, Vote::Ack)]);
    assert!(driver.now.since(quiet) >= times::SOLO_LEASE_HOLD);
}

#[test]
fn a_candidate_is_renewed_while_the_bound_of_the_lost_node_runs() {
    let mut driver = Driver::new(Settings::default());
    let (mut one, mut two) = pair(&mut driver);
    driver.pass_renewing(500, &mut [&mut one, &mut two]);
    let old = two.grant.unwrap().id;
    two.report(&mut driver, 5, &[2]);
    driver.pass(250);
    let done = two.renew(&mut driver);
    assert_eq!(grant_to(&done, 2).unwrap().id, old);
}

#[test]
fn a_loser_gets_no_renewal() {
    let mut driver = Driver::new(Settings::default());
    let (mut one, mut two) = pair(&mut driver);
    one.report(&mut driver, 5, &[1]);
    two.report(&mut driver, 5, &[2]);
    assert_eq!(grant_to(&two.renew(&mut driver), 2), None);
}

#[test]
fn a_renewal_of_another_grant_or_view_extends_nothing() {
    let mut driver = Driver::new(Settings::default());
    let (mut one, _two) = pair(&mut driver);
    let mut grant = one.grant.unwrap();
    grant.view.nonce += 1;
    one.grant = Some(grant);
    assert_eq!(grant_to(&one.renew(&mut driver), 1), None);
}

#[test]
fn the_vote_stays_with_a_live_holder_when_the_tie_breakers_node_appears() {
    let mut driver = Driver::new(Settings::default());
    let (mut one, mut two) = pair(&mut driver);
    driver.pass_renewing(500, &mut [&mut one, &mut two]);
    driver.close(1);
    two.report(&mut driver, 5, &[2]);
    let done = driver.pass_renewing(1500, &mut [&mut two]);
    two.confirm(&mut driver, &done);
    let mut one = Own::new(3, 1, &[1, 2]);
    one.instance = 999;
    one.join(&mut driver);
    let done = one.report(&mut driver, 6, &[1]);
    assert_eq!(votes(&done), [(3, Vote::Nack)]);
    one.confirm(&mut driver, &done);
    assert_eq!(votes(&driver.pass_renewing(5000, &mut [&mut one, &mut two])), []);
}

#[test]
fn two_live_processes_of_one_node_both_lose_the_vote() {
    let mut driver = Driver::new(Settings::default());
    let (mut one, mut two) = pair(&mut driver);
    let mut clone = Own::new(9, 1, &[1, 2]);
    clone.instance = 4711;
    clone.view = one.view;
    let mut all = clone.join(&mut driver);
    all.extend(driver.pass_renewing(250, &mut [&mut one, &mut two]));
    driver.close(9);
    all.extend(clone.join(&mut driver));
    let refused = all.iter().filter(|done| {
        matches!(done,
        Done::Sent(9, message) if message.options.error_code == Some(17))
    });
    assert_eq!(refused.count(), 2);
    all.extend(driver.pass_renewing(500, &mut [&mut one, &mut two]));
    assert!(votes(&all).contains(&(1, Vote::Nack)), "{:?}", votes(&all));
}

#[test]
fn the_same_process_replaces_its_old_connection_at_once() {
    let mut driver = Driver::new(Settings::default());
    let (one, mut two) = pair(&mut driver);
    let mut again = Own::new(9, 1, &[1, 2]);
    again.view = one.view;
    let done = again.join(&mut driver);
    assert!(done.iter().any(|done| matches!(done, Done::Closed(1, _))), "{done:?}");
    let done = again.report(&mut driver, 4, &[1, 2]);
    assert_eq!(votes(&done), [(9, Vote::Ack)]);
    assert_eq!(votes(&driver.pass_renewing(2000, &mut [&mut again, &mut two])), []);
}
