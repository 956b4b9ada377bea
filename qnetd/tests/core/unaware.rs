//! A node whose device has long been without the arbiter, and whose corosync is cut off only now:
//! it goes on with the old quorum until it has lost the token too. Whoever is left gets the vote
//! when that is over, and not with its first report.

use std::time::Duration;

use protocol::qnet::HostKind;
use protocol::times;
use protocol::vote::Vote;
use qnetd::core::{Settings, VoteHold};

use crate::driver::{Driver, Own, pair_on_corosync, votes};
use crate::stock_client::{self, settings, winners};

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap()
}

#[test]
fn a_stock_node_that_the_arbiter_lost_long_ago_is_given_time_to_notice_a_cut() {
    for (mode, wait) in [
        (VoteHold::SingleFault, millis(times::HOST_CHANGE)),
        (VoteHold::DoubleFault, millis(times::HOST_CHANGE)),
        (VoteHold::Off, 0),
    ] {
        let mut driver = Driver::new(settings(mode));
        let (_one, mut two) = stock_client::pair(&mut driver, 1);
        driver.close(1);
        winners(&mut driver, 60_000, &mut [&mut two]);
        let told = votes(&two.report(&mut driver, 5, &[2]));
        if wait == 0 {
            assert_eq!(told, [(2, Vote::Ack)], "{mode}");
            continue;
        }
        let waiting = driver.arbiter.status(driver.now).clusters["c"].waiting.clone();
        assert_eq!(told, [], "{mode}: {waiting:?}");
        assert_eq!(winners(&mut driver, wait - 1, &mut [&mut two]), [0; 0], "{mode}: too early");
        assert_eq!(winners(&mut driver, 1, &mut []), [2], "{mode}: too late");
    }
}

/// Two own devices; node 1's has been silent for a minute when node 2 loses it. How long node 2
/// waits for the vote.
fn wait_of_the_survivor(host: HostKind) -> Duration {
    let mut driver = Driver::new(Settings::default());
    let (mut one, mut two) = (Own::new(1, 1, &[1, 2]), Own::new(2, 2, &[1, 2]));
    for own in [&mut one, &mut two] {
        own.host = host;
        own.join(&mut driver);
    }
    one.report(&mut driver, 4, &[1, 2]);
    let done = two.report(&mut driver, 4, &[1, 2]);
    one.confirm(&mut driver, &done);
    two.confirm(&mut driver, &done);
    driver.pass_renewing(60_000, &mut [&mut two]);
    let lost = driver.now;
    let mut told = votes(&two.report(&mut driver, 5, &[2]));
    while !told.contains(&(2, Vote::Ack)) {
        assert!(driver.now.since(lost) < Duration::from_secs(10));
        two.renew(&mut driver);
        told = votes(&driver.pass(10));
    }
    driver.now.since(lost)
}

#[test]
fn a_node_on_corosync_is_given_time_to_notice_a_cut_and_ours_needs_none() {
    // Its peers' votes are leases: without an answer the old view is not quorate.
    assert!(wait_of_the_survivor(HostKind::Builtin) < Duration::from_millis(50));
    let wait = wait_of_the_survivor(HostKind::Corosync);
    assert!(wait >= times::HOST_CHANGE, "{wait:?}");
    assert!(wait < times::HOST_CHANGE + Duration::from_millis(50), "{wait:?}");
}

#[test]
fn a_ring_that_forms_twice_does_not_shorten_the_time_to_notice() {
    let mut driver = Driver::new(settings(VoteHold::SingleFault));
    let (_one, mut two) = stock_client::pair(&mut driver, 1);
    driver.close(1);
    winners(&mut driver, 60_000, &mut [&mut two]);
    two.report(&mut driver, 5, &[2]);
    driver.pass(500);
    assert_eq!(votes(&two.report(&mut driver, 6, &[2])), []);
    let rest = millis(times::HOST_CHANGE) - 500;
    assert_eq!(winners(&mut driver, rest - 1, &mut [&mut two]), [0; 0], "too early");
    assert_eq!(winners(&mut driver, 1, &mut []), [2], "too late");
}

#[test]
fn a_loser_that_says_it_has_lost_is_not_waited_for() {
    let mut driver = Driver::new(Settings::default());
    let (mut one, mut two) = pair_on_corosync(&mut driver);
    one.report(&mut driver, 5, &[1]);
    let done = two.report(&mut driver, 5, &[2]);
    assert_eq!(votes(&done), [(2, Vote::Nack)]);
    assert_eq!(votes(&two.confirm(&mut driver, &done)), [(1, Vote::Ack)]);
}
