//! Clients without leases: when their loss counts as applied (F6, F7).

use protocol::qnet::MessageType;
use protocol::vote::Vote;
use qnetd::core::{CloseReason, Settings};

use crate::driver::{Done, Driver, votes};
use crate::stock_client::pair;

const FFSPLIT: u16 = 1;

#[test]
fn a_reply_is_no_proof_while_the_host_counts_the_vote() {
    let mut driver = Driver::new(Settings::default());
    let (mut one, mut two) = pair(&mut driver, FFSPLIT);
    one.report(&mut driver, 5, &[1]);
    let done = two.report(&mut driver, 5, &[2]);
    assert_eq!(votes(&done), [(2, Vote::Nack)]);
    assert_eq!(votes(&two.confirm(&mut driver, &done)), []);
    assert_eq!(votes(&two.quorum(&mut driver, false)), [(1, Vote::Ack)]);
}

#[test]
fn an_unconfirmed_stock_loser_gets_no_echo_and_is_closed_after_a_heartbeat() {
    let mut driver = Driver::new(Settings::default());
    let (mut one, mut two) = pair(&mut driver, FFSPLIT);
    one.report(&mut driver, 5, &[1]);
    two.report(&mut driver, 5, &[2]);
    assert_eq!(two.echo(&mut driver), []);
    assert_eq!(driver.pass(7999), []);
    let done = driver.pass(1);
    assert!(done.contains(&Done::Closed(2, CloseReason::Unconfirmed)), "{done:?}");
}

#[test]
fn a_loser_that_confirms_and_whose_host_stays_quorate_is_closed_too() {
    let mut driver = Driver::new(Settings::default());
    let (mut one, mut two) = pair(&mut driver, FFSPLIT);
    one.report(&mut driver, 5, &[1]);
    let told = two.report(&mut driver, 5, &[2]);
    two.confirm(&mut driver, &told);
    two.quorum(&mut driver, true);
    assert_eq!(two.echo(&mut driver), []);
    let done = driver.pass(8000);
    assert!(done.contains(&Done::Closed(2, CloseReason::Unconfirmed)), "{done:?}");
}

#[test]
fn the_withheld_echo_is_sent_when_the_loss_counts_as_applied() {
    let mut driver = Driver::new(Settings::default());
    let (mut one, mut two) = pair(&mut driver, FFSPLIT);
    one.report(&mut driver, 5, &[1]);
    let told = two.report(&mut driver, 5, &[2]);
    assert_eq!(two.echo(&mut driver), []);
    let answered = |done: &[Done]| {
        done.iter().any(|done| {
            matches!(done, Done::Sent(2, message) if message.kind == MessageType::EchoReply
                && message.options.seq == Some(1))
        })
    };
    assert!(!answered(&two.confirm(&mut driver, &told)));
    assert!(answered(&two.quorum(&mut driver, false)));
    // And from then on as ever.
    assert_eq!(two.echo(&mut driver).len(), 1);
}
