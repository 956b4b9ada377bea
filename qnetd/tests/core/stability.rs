//! Hazard 8.11: for how long a client that contradicts the others, and goes on saying so, keeps
//! the vote where it is.

use std::collections::BTreeSet;
use std::time::Duration;

use protocol::ids::RingId;
use protocol::qnet::{MessageType, NodeListType, ViewNote};
use protocol::times;
use protocol::vote::Vote;
use qnetd::core::{CloseReason, Settings};

use crate::driver::{Done, Driver, Own, nodes, pair, votes};
use crate::stock_client::{Stock, pair as stock_pair};

const FFSPLIT: u16 = 1;

/// Less than [`times::STABILITY_LIMIT`].
const PAUSE_MS: u64 = 2000;

/// The limit is over for a report of before the first pause.
const ROUNDS_OVER: usize = 2;

/// Who is told that it has lost the vote in so many rounds.
fn losers(
    driver: &mut Driver,
    rounds: usize,
    mut round: impl FnMut(&mut Driver) -> Vec<Done>,
) -> Vec<u64> {
    let told: Vec<Done> = (0..rounds).flat_map(|_| round(driver)).collect();
    let no = votes(&told).into_iter().filter(|(_, vote)| *vote == Vote::Nack);
    no.map(|(client, _)| client).collect::<BTreeSet<u64>>().into_iter().collect()
}

/// The same of rounds that end with something being said.
fn losers_while(
    driver: &mut Driver,
    rounds: usize,
    mut say: impl FnMut(&mut Driver) -> Vec<Done>,
) -> Vec<u64> {
    losers(driver, rounds, |driver| {
        let mut done = driver.pass(PAUSE_MS);
        done.extend(say(driver));
        done
    })
}

#[test]
fn a_pause_is_shorter_than_the_limit_and_the_rounds_are_longer() {
    let pause = Duration::from_millis(PAUSE_MS);
    assert!(pause < times::STABILITY_LIMIT);
    assert!(pause * u32::try_from(ROUNDS_OVER).unwrap() > times::STABILITY_LIMIT);
}

#[test]
fn a_membership_list_said_again_by_the_one_behind_holds_no_move_up() {
    let mut driver = Driver::new(Settings::default());
    let (mut one, mut two) = stock_pair(&mut driver, FFSPLIT);
    one.report(&mut driver, 5, &[1]);
    let again = |driver: &mut Driver| two.report(driver, 4, &[1, 2]);
    assert_eq!(losers_while(&mut driver, ROUNDS_OVER, again), [2]);
}

#[test]
fn a_membership_list_said_again_by_the_one_ahead_holds_no_move_up() {
    let mut driver = Driver::new(Settings::default());
    let (mut one, _two) = stock_pair(&mut driver, FFSPLIT);
    one.report(&mut driver, 5, &[1]);
    let again = |driver: &mut Driver| one.report(driver, 5, &[1]);
    assert_eq!(losers_while(&mut driver, ROUNDS_OVER, again), [2]);
}

#[test]
fn a_configuration_list_said_again_holds_no_move_up() {
    let mut driver = Driver::new(Settings::default());
    let (mut one, mut two) = stock_pair(&mut driver, FFSPLIT);
    one.report(&mut driver, 5, &[1]);
    let again = |driver: &mut Driver| {
        let mut done = two.configure(driver);
        done.extend(two.report(driver, 4, &[1, 2]));
        done
    };
    assert_eq!(losers_while(&mut driver, ROUNDS_OVER, again), [2]);
}

#[test]
fn a_stock_client_that_only_says_the_same_again_is_closed_and_the_vote_moves() {
    let mut driver = Driver::new(Settings::default());
    let (mut one, mut two) = stock_pair(&mut driver, FFSPLIT);
    one.report(&mut driver, 5, &[1]);
    let start = driver.now;
    let mut closed = None;
    let moved = loop {
        let mut done = driver.pass(PAUSE_MS);
        if done.contains(&Done::Closed(2, CloseReason::Unconfirmed)) {
            closed = Some(driver.now.since(start));
        }
        done.extend(one.echo(&mut driver));
        if closed.is_none() {
            done.extend(two.report(&mut driver, 4, &[1, 2]));
            done.extend(two.echo(&mut driver));
        }
        if votes(&done).contains(&(1, Vote::Ack)) {
            break driver.now.since(start);
        }
        assert!(driver.now.since(start) < Duration::from_secs(60), "{:?}", driver.log);
    };
    let heartbeat = Duration::from_millis(u64::from(two.heartbeat_ms));
    let pause = Duration::from_millis(PAUSE_MS);
    assert!(closed.unwrap() <= times::STABILITY_LIMIT + heartbeat + pause, "{closed:?}");
    // No earlier for that: its bound runs from its last answered echo.
    assert!(moved >= heartbeat * 2 + times::vote_hold_guard(heartbeat), "{moved:?}");
}

#[test]
fn a_view_that_our_client_says_again_holds_no_move_up() {
    for repeats in [1, 2] {
        let mut driver = Driver::new(Settings::default());
        let (mut one, mut two) = pair(&mut driver);
        one.report(&mut driver, 5, &[1]);
        let again = |driver: &mut Driver| {
            // Both are heard of all the time.
            let mut done = driver.pass_renewing(PAUSE_MS, &mut [&mut one, &mut two]);
            done.extend(match repeats {
                1 => one.report(driver, 5, &[1]),
                _ => two.report(driver, 4, &[1, 2]),
            });
            done
        };
        assert_eq!(losers(&mut driver, ROUNDS_OVER, again), [2], "node {repeats} repeats");
    }
}

/// Node 1 is far ahead, as after a loop of changes that node 2 reports one by one.
fn behind(driver: &mut Driver) -> (Stock, Stock) {
    let (mut one, two) = stock_pair(driver, FFSPLIT);
    one.report(driver, 20, &[1, 2]);
    (one, two)
}

#[test]
fn a_client_whose_rings_go_on_is_waited_for() {
    let mut driver = Driver::new(Settings::default());
    let (mut one, mut two) = behind(&mut driver);
    let mut ring = 4;
    let next = |driver: &mut Driver| {
        ring += 1;
        one.echo(driver);
        two.report(driver, ring, &[1, 2])
    };
    assert_eq!(losers_while(&mut driver, 10, next), [0; 0]);
    let done = two.report(&mut driver, 20, &[1, 2]);
    assert_eq!(votes(&done), [(1, Vote::Ack), (2, Vote::Ack)]);
}

#[test]
fn a_client_whose_rings_end_short_of_the_others_is_left_out() {
    let mut driver = Driver::new(Settings::default());
    let (_one, mut two) = behind(&mut driver);
    two.report(&mut driver, 5, &[1, 2]);
    assert_eq!(losers_while(&mut driver, 1, |driver| two.report(driver, 6, &[1, 2])), [0; 0]);
    let limit = u64::try_from(times::STABILITY_LIMIT.as_millis()).unwrap();
    assert_eq!(votes(&driver.pass(limit - 1)), []);
    assert!(votes(&driver.pass(1)).contains(&(2, Vote::Nack)));
}

/// Node 2 of ours says this of its view {1, 2, 3}, which the others have contradicted for most of
/// the limit: who has lost the vote when the rest of the limit is over.
fn losers_after(ring: u64, nonce: u64, members: &[u32]) -> Vec<u64> {
    let mut driver = Driver::new(Settings::default());
    let [mut one, mut two, mut three] =
        [1, 2, 3].map(|node| Own::new(u64::from(node), node, &[1, 2, 3]));
    for client in [&mut one, &mut two, &mut three] {
        client.join(&mut driver);
    }
    for client in [&mut one, &mut two, &mut three] {
        client.report(&mut driver, 4, &[1, 2, 3]);
    }
    one.report(&mut driver, 9, &[1, 3]);
    three.report(&mut driver, 9, &[1, 3]);
    losers(&mut driver, 1, |driver| {
        let mut done = driver.pass_renewing(PAUSE_MS, &mut [&mut one, &mut two, &mut three]);
        let mut message = driver.message(MessageType::NodeList);
        message.options.list_type = Some(NodeListType::Membership);
        message.options.ring = Some(RingId::new(1, ring));
        message.options.nodes = nodes(members);
        let epoch = two.highest;
        message.options.view_note = Some(ViewNote { nonce, epoch, highest_epoch: epoch });
        done.extend(driver.say(2, &message));
        done.extend(driver.pass_renewing(PAUSE_MS, &mut [&mut one, &mut two, &mut three]));
        done
    })
}

#[test]
fn only_another_ring_nonce_or_membership_is_a_new_report() {
    assert_eq!(losers_after(4, 4, &[1, 2, 3]), [2], "the same");
    assert_eq!(losers_after(5, 4, &[1, 2, 3]), [0; 0], "another ring");
    assert_eq!(losers_after(4, 5, &[1, 2, 3]), [0; 0], "another nonce");
    assert_eq!(losers_after(4, 4, &[1, 2]), [0; 0], "other members");
}
