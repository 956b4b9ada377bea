//! Rule S2b: how long a stock client is held to count the vote. Every bound is looked at on both
//! sides of its moment: a millisecond before it nothing has moved, at it the vote has.

use std::time::Duration;

use protocol::ids::{BootId, RingId};
use protocol::qnet::{Message, MessageType};
use protocol::times;
use protocol::vote::{Heuristics, Vote};
use qnetd::core::{ClusterSettings, Settings, VoteHold};

use crate::driver::{Done, Driver, Own, pair as own_pair, votes};
use crate::stock_client::{Stock, cluster_settings, pair, pair_of, settings, split, winners};

const FFSPLIT: u16 = 1;
const TWO_NODE_LMS: u16 = 2;
const LMS: u16 = 3;

/// The vote moves to client 2 after exactly this long, while client 2 alone is heard.
#[track_caller]
fn moves_after(driver: &mut Driver, two: &mut Stock, ms: u64) {
    assert_eq!(winners(driver, ms - 1, &mut [two]), [0; 0], "too early");
    assert_eq!(winners(driver, 1, &mut []), [2], "too late: {:?}", waiting(driver));
}

#[track_caller]
fn never_moves(driver: &mut Driver, two: &mut Stock) {
    assert_eq!(winners(driver, 3_600_000, &mut [two]), [0; 0]);
}

fn waiting(driver: &Driver) -> Option<String> {
    driver.arbiter.status(driver.now).clusters["c"].waiting.clone()
}

/// Nodes 1 and 2 have the vote together; node 1 is heard for the last time now.
fn silent(settings: Settings, algorithm: u16) -> (Driver, Stock) {
    let mut driver = Driver::new(settings);
    let (mut one, two) = pair(&mut driver, algorithm);
    driver.pass(1000);
    one.echo(&mut driver);
    (driver, two)
}

#[test]
fn a_silent_client_keeps_the_vote_for_a_heartbeat_a_timeout_and_the_guard() {
    let (mut driver, mut two) = silent(settings(VoteHold::SingleFault), FFSPLIT);
    two.report(&mut driver, 5, &[2]);
    moves_after(&mut driver, &mut two, 18_800);
}

#[test]
fn the_bound_of_a_closed_connection_is_a_timeout_and_the_guard() {
    let (mut driver, mut two) = silent(settings(VoteHold::SingleFault), FFSPLIT);
    driver.pass(7900);
    driver.close(1);
    two.report(&mut driver, 5, &[2]);
    moves_after(&mut driver, &mut two, 10_800);
}

#[test]
fn double_fault_adds_a_crash_just_before_the_cut_is_found() {
    let mut driver = Driver::new(settings(VoteHold::DoubleFault));
    let (mut one, mut two) = split(&mut driver);
    one.echo(&mut driver);
    // Node 2 has long been in a ring of its own: no ring change.
    moves_after(&mut driver, &mut two, 26_800);
}

#[test]
fn a_ring_change_at_the_end_of_a_double_fault_bound_prolongs_it() {
    let mut driver = Driver::new(settings(VoteHold::DoubleFault));
    let (mut one, mut two) = split(&mut driver);
    one.echo(&mut driver);
    winners(&mut driver, 26_799, &mut [&mut two]);
    // S may have taken the place of T.
    assert!(!votes(&two.report(&mut driver, 6, &[2])).contains(&(2, Vote::Ack)));
    moves_after(&mut driver, &mut two, 48_800 - 26_799);
}

#[test]
fn double_fault_with_a_ring_change_waits_for_the_sync_timeout() {
    let (mut driver, mut two) = silent(settings(VoteHold::DoubleFault), FFSPLIT);
    two.report(&mut driver, 5, &[2]);
    moves_after(&mut driver, &mut two, 48_800);
}

#[test]
fn double_fault_of_a_closed_connection_without_a_ring_change() {
    let mut driver = Driver::new(settings(VoteHold::DoubleFault));
    let (mut one, mut two) = split(&mut driver);
    driver.pass(1000);
    one.echo(&mut driver);
    // Node 2 has long been in a ring of its own; node 1's connection ends.
    driver.close(1);
    moves_after(&mut driver, &mut two, 10_800);
}

#[test]
fn double_fault_of_a_closed_connection_with_a_ring_change() {
    let (mut driver, mut two) = silent(settings(VoteHold::DoubleFault), FFSPLIT);
    driver.close(1);
    driver.pass(10_799);
    two.echo(&mut driver);
    assert_eq!(votes(&two.report(&mut driver, 5, &[2])), []);
    moves_after(&mut driver, &mut two, 40_800 - 10_799);
}

#[test]
fn a_ring_that_was_reported_before_the_connection_closed_counts() {
    let (mut driver, mut two) = silent(settings(VoteHold::DoubleFault), FFSPLIT);
    driver.pass(500);
    two.report(&mut driver, 5, &[2]);
    driver.pass(500);
    driver.close(1);
    moves_after(&mut driver, &mut two, 40_800);
}

#[test]
fn an_open_membership_change_of_the_lost_client_counts() {
    let mut driver = Driver::new(settings(VoteHold::DoubleFault));
    let (mut one, mut two) = split(&mut driver);
    let done = one.report(&mut driver, 6, &[1]);
    one.confirm(&mut driver, &done);
    // No quorum list follows.
    driver.close(1);
    moves_after(&mut driver, &mut two, 40_800);
}

#[test]
fn a_quorum_list_ends_a_membership_change() {
    let mut driver = Driver::new(settings(VoteHold::DoubleFault));
    let (mut one, mut two) = split(&mut driver);
    let done = one.report(&mut driver, 6, &[1]);
    one.confirm(&mut driver, &done);
    driver.pass(10);
    one.quorum(&mut driver, true);
    driver.close(1);
    moves_after(&mut driver, &mut two, 10_800);
}

#[test]
fn single_fault_does_not_pay_for_a_ring_change() {
    let mut driver = Driver::new(settings(VoteHold::SingleFault));
    let (mut one, mut two) = split(&mut driver);
    let done = one.report(&mut driver, 6, &[1]);
    one.confirm(&mut driver, &done);
    driver.close(1);
    moves_after(&mut driver, &mut two, 10_800);
}

#[test]
fn off_moves_the_vote_when_the_client_is_found_dead_or_its_connection_closes() {
    let (mut driver, mut two) = silent(settings(VoteHold::Off), FFSPLIT);
    two.report(&mut driver, 5, &[2]);
    moves_after(&mut driver, &mut two, 12_000);

    let (mut driver, mut two) = silent(settings(VoteHold::Off), FFSPLIT);
    assert_eq!(votes(&two.report(&mut driver, 5, &[2])), []);
    assert_eq!(votes(&driver.close(1)), [(2, Vote::Ack)]);
}

#[test]
fn off_is_said_in_the_log_and_in_status() {
    let mut driver = Driver::new(settings(VoteHold::Off));
    Stock::new(1, 1).connect(&mut driver);
    assert!(driver.log.iter().any(|text| text.contains("vote-hold is off")), "{:?}", driver.log);
    let warnings = driver.arbiter.status(driver.now).warnings;
    assert!(warnings[0].starts_with("cluster c: vote-hold off"), "{warnings:?}");
}

#[test]
fn one_cluster_can_have_a_rule_of_its_own() {
    let said =
        ClusterSettings { vote_hold: Some(VoteHold::DoubleFault), ..ClusterSettings::default() };
    let (mut driver, mut two) = silent(cluster_settings(said), FFSPLIT);
    two.report(&mut driver, 5, &[2]);
    moves_after(&mut driver, &mut two, 48_800);
}

#[test]
fn timeouts_that_are_configured_take_the_place_of_derived_ones() {
    let said = ClusterSettings {
        vote_hold: Some(VoteHold::DoubleFault),
        device_timeout_ms: Some(20_000),
        sync_timeout_ms: Some(40_000),
        ..ClusterSettings::default()
    };
    let (mut driver, mut two) = silent(cluster_settings(said.clone()), FFSPLIT);
    two.report(&mut driver, 5, &[2]);
    moves_after(&mut driver, &mut two, 8000 + 20_000 + 40_000 + 800);

    let (mut driver, mut two) = silent(cluster_settings(said), FFSPLIT);
    driver.close(1);
    two.report(&mut driver, 5, &[2]);
    moves_after(&mut driver, &mut two, 20_000 + 40_000 + 800);
}

/// Node 1 is silent; both heartbeats are at the upper end, where they do not tell the timeout.
fn at_the_clamp(settings: Settings) -> (Driver, Stock) {
    let mut driver = Driver::new(settings);
    let (mut one, mut two) = (Stock::new(1, 1), Stock::new(2, 2));
    (one.heartbeat_ms, two.heartbeat_ms) = (120_000, 120_000);
    pair_of(&mut driver, &mut one, &mut two);
    (driver, two)
}

#[test]
fn a_heartbeat_at_its_upper_end_moves_nothing_until_the_timeout_is_configured() {
    let (mut driver, mut two) = at_the_clamp(Settings::default());
    driver.close(1);
    two.report(&mut driver, 5, &[2]);
    never_moves(&mut driver, &mut two);
    assert!(waiting(&driver).unwrap().contains("set device-timeout"), "{:?}", waiting(&driver));

    let said = ClusterSettings { device_timeout_ms: Some(150_000), ..ClusterSettings::default() };
    let (mut driver, mut two) = at_the_clamp(cluster_settings(said));
    driver.close(1);
    two.report(&mut driver, 5, &[2]);
    moves_after(&mut driver, &mut two, 150_000 + 12_000);
}

#[test]
fn a_client_that_once_said_a_longer_heartbeat_is_held_for_that() {
    let mut driver = Driver::new(Settings::default());
    let (mut one, mut two) = pair(&mut driver, FFSPLIT);
    let mut message = Message::new(MessageType::SetOption, Some(50));
    message.options.heartbeat_ms = Some(1000);
    driver.say(one.client, &message);
    one.echo(&mut driver);
    two.report(&mut driver, 5, &[2]);
    moves_after(&mut driver, &mut two, 18_800);
}

#[test]
fn lms_has_no_bound_until_the_cluster_is_said_to_have_no_wait_for_all() {
    for algorithm in [LMS, TWO_NODE_LMS] {
        let (mut driver, mut two) = silent(Settings::default(), algorithm);
        driver.close(1);
        two.report(&mut driver, 5, &[2]);
        never_moves(&mut driver, &mut two);
        let text = waiting(&driver).unwrap();
        assert!(text.contains("lms-without-wait-for-all"), "{text}");

        let said = ClusterSettings { lms_without_wait_for_all: true, ..ClusterSettings::default() };
        let (mut driver, mut two) = silent(cluster_settings(said), algorithm);
        driver.close(1);
        two.report(&mut driver, 5, &[2]);
        moves_after(&mut driver, &mut two, 10_800);
    }
}

#[test]
fn two_node_lms_is_warned_about_at_each_init() {
    let with = ClusterSettings { lms_without_wait_for_all: true, ..ClusterSettings::default() };
    for settings in [Settings::default(), cluster_settings(with)] {
        let mut driver = Driver::new(settings);
        pair(&mut driver, TWO_NODE_LMS);
        let named = driver.log.iter().filter(|text| text.contains("lms-without-wait-for-all"));
        assert_eq!(named.count(), 2, "{:?}", driver.log);
    }
}

#[test]
fn lms_is_warned_about_only_while_its_vote_does_not_move() {
    let said = ClusterSettings { lms_without_wait_for_all: true, ..ClusterSettings::default() };
    for (settings, warnings) in [(Settings::default(), 2), (cluster_settings(said), 0)] {
        let mut driver = Driver::new(settings);
        pair(&mut driver, LMS);
        let named = driver.log.iter().filter(|text| text.contains("lms-without-wait-for-all"));
        assert_eq!(named.count(), warnings, "{:?}", driver.log);
    }
}

#[test]
fn a_restarted_lms_client_ends_an_endless_bound_by_saying_that_its_host_is_not_quorate() {
    let mut driver = Driver::new(Settings::default());
    let (mut one, _) = pair(&mut driver, LMS);
    driver.close(2);
    one.report(&mut driver, 5, &[1]);
    assert_eq!(winners(&mut driver, 600_000, &mut [&mut one]), [0; 0]);
    let mut again = Stock::new(3, 2);
    again.algorithm = LMS;
    again.connect(&mut driver);
    again.configure(&mut driver);
    let told = again.report(&mut driver, 9, &[2]);
    assert_eq!(votes(&told), [(3, Vote::Nack)]);
    assert_eq!(votes(&again.confirm(&mut driver, &told)), []);
    assert_eq!(votes(&again.quorum(&mut driver, false)), [(1, Vote::Ack)]);
}

/// qdevice on node 1 is killed at `k` and started again. Its new process says nothing of its
/// view for so long that node 2 is chosen.
#[test]
fn a_restarted_qdevice_does_not_end_the_bound_of_the_one_before() {
    let mut driver = Driver::new(Settings::default());
    let (_, mut two) = split(&mut driver);
    driver.close(1);
    let mut again = Stock::new(3, 1);
    again.ring = RingId::new(1, 5);
    driver.pass(300);
    again.connect(&mut driver);
    moves_after(&mut driver, &mut two, 10_800 - 300);
}

/// The new process reports a ring in which it loses, confirms, and says that it is not quorate: a
/// clone of the machine would say the same.
#[test]
fn what_a_restarted_qdevice_confirms_says_nothing_of_the_one_before() {
    let mut driver = Driver::new(Settings::default());
    let (_, mut two) = pair(&mut driver, FFSPLIT);
    driver.close(1);
    driver.pass(300);
    let mut again = Stock::new(3, 1);
    again.connect(&mut driver);
    again.configure(&mut driver);
    two.report(&mut driver, 6, &[2]);
    let told = again.report_with(&mut driver, 7, &[1], Some(Heuristics::Fail));
    assert_eq!(votes(&told), [(3, Vote::Nack)]);
    assert_eq!(votes(&again.confirm(&mut driver, &told)), []);
    assert_eq!(votes(&again.quorum(&mut driver, false)), []);
    // Its echoes keep it connected.
    assert_eq!(winners(&mut driver, 10_499, &mut [&mut two, &mut again]), [0; 0]);
    assert_eq!(winners(&mut driver, 1, &mut []), [2]);
}

#[test]
fn the_same_process_ends_its_bound_by_coming_back() {
    let mut driver = Driver::new(Settings::default());
    let (mut one, mut two) = split(&mut driver);
    driver.close(1);
    assert_eq!(winners(&mut driver, 4000, &mut [&mut two]), [0; 0]);
    // Without its lists it is left out after the stability limit.
    one.reconnect(&mut driver, 3);
    assert_eq!(winners(&mut driver, 2999, &mut []), [0; 0]);
    assert_eq!(winners(&mut driver, 1, &mut []), [2]);
}

#[test]
fn a_process_whose_refusals_have_moved_its_counter_on_is_another_one() {
    let mut driver = Driver::new(Settings::default());
    let (mut one, mut two) = split(&mut driver);
    // A clone asks for the node id until its counter is as high as that of the holder.
    let mut clone = Stock::new(10, 1);
    for client in 10..30 {
        clone.reconnect(&mut driver, client);
        driver.close(client);
    }
    one.echo(&mut driver);
    driver.close(1);
    clone.reconnect(&mut driver, 40);
    moves_after(&mut driver, &mut two, 10_800);
}

#[test]
fn a_reconnecting_lms_client_has_not_given_its_vote_up() {
    let (mut driver, mut two) = silent(Settings::default(), LMS);
    driver.close(1);
    let mut one = Stock::new(3, 1);
    one.algorithm = LMS;
    one.connect(&mut driver);
    two.report(&mut driver, 5, &[2]);
    never_moves(&mut driver, &mut two);
}

#[test]
fn a_replaced_connections_bound_runs_from_its_last_message() {
    let mut driver = Driver::new(Settings::default());
    let (mut one, mut two) = split(&mut driver);
    one.echo(&mut driver);
    let mut other = Stock::new(3, 1);
    let refused = other.connect(&mut driver);
    assert!(matches!(&refused[..], [Done::Sent(3, m)] if m.options.error_code == Some(17)));
    driver.close(3);
    // 1 HB + g of silence later it replaces the old connection.
    winners(&mut driver, 8800, &mut [&mut two]);
    let mut other = Stock::new(4, 1);
    other.connect(&mut driver);
    moves_after(&mut driver, &mut two, 18_800 - 8800);
}

#[test]
fn a_loser_that_chats_is_closed_after_a_heartbeat_and_its_bound_runs_from_its_last_answered_echo() {
    let mut driver = Driver::new(Settings::default());
    let (mut one, mut two) = pair(&mut driver, FFSPLIT);
    driver.pass(1000);
    assert_eq!(two.echo(&mut driver).len(), 1, "answered");
    driver.pass(500);
    one.report(&mut driver, 5, &[1]);
    let told = two.report(&mut driver, 5, &[2]);
    assert_eq!(votes(&told), [(2, Vote::Nack)]);
    // It confirms, its host stays quorate, and it goes on reporting and asking.
    for seq in 0..7 {
        assert_eq!(votes(&two.confirm(&mut driver, &told)), []);
        driver.pass(1000);
        assert_eq!(two.echo(&mut driver), [], "not answered");
        two.report(&mut driver, 6 + seq, &[2]);
        two.quorum(&mut driver, true);
        one.echo(&mut driver);
    }
    assert_eq!(driver.pass(999), []);
    let closed = driver.pass(1);
    assert!(closed.iter().any(|done| matches!(done, Done::Closed(2, _))), "{closed:?}");
    let passed = 500 + 8000;
    assert_eq!(winners(&mut driver, 18_800 - passed - 1, &mut [&mut one]), [0; 0]);
    assert_eq!(winners(&mut driver, 1, &mut []), [1]);
}

#[test]
fn a_client_that_never_counted_the_vote_loses_it_with_its_reply() {
    let mut driver = Driver::new(Settings::default());
    let (mut one, mut two) = split(&mut driver);
    // Node 2 said quorate=0 and was sent no ACK since.
    let told = two.report(&mut driver, 7, &[2]);
    assert_eq!(votes(&told), [(2, Vote::Nack)]);
    assert_eq!(votes(&one.report(&mut driver, 7, &[1])), []);
    assert_eq!(votes(&two.confirm(&mut driver, &told)), [(1, Vote::Ack)]);
}

#[test]
fn an_ack_that_left_its_host_inquorate_needs_only_the_reply_too() {
    let mut driver = Driver::new(Settings::default());
    let (mut one, mut two) = pair(&mut driver, FFSPLIT);
    // The ACK was confirmed, then its host said that it is not quorate.
    two.quorum(&mut driver, false);
    one.report(&mut driver, 5, &[1]);
    let told = two.report(&mut driver, 5, &[2]);
    assert_eq!(votes(&told), [(2, Vote::Nack)]);
    assert_eq!(votes(&two.confirm(&mut driver, &told)), [(1, Vote::Ack)]);
}

#[test]
fn a_newer_ring_voids_a_confirmation_as_long_as_nobody_was_told() {
    let mut driver = Driver::new(Settings::default());
    let (mut one, mut two) = pair(&mut driver, FFSPLIT);
    two.quorum(&mut driver, false);
    one.report(&mut driver, 5, &[1]);
    let told = two.report(&mut driver, 5, &[2]);
    driver.disk_works = false;
    assert_eq!(votes(&two.confirm(&mut driver, &told)), []);
    // The grant is being written; node 2 is in a newer ring before anybody hears of it.
    let again = two.report(&mut driver, 6, &[2]);
    assert_eq!(votes(&again), [(2, Vote::Nack)]);
    assert_eq!(votes(&driver.write(true)), []);
    driver.disk_works = true;
    assert_eq!(votes(&two.confirm(&mut driver, &again)), [(1, Vote::Ack)]);
}

#[test]
fn a_voided_confirmation_leaves_the_bound() {
    let mut driver = Driver::new(Settings::default());
    let (mut one, mut two) = pair(&mut driver, FFSPLIT);
    two.quorum(&mut driver, false);
    one.report(&mut driver, 5, &[1]);
    let told = two.report(&mut driver, 5, &[2]);
    driver.disk_works = false;
    two.confirm(&mut driver, &told);
    two.report(&mut driver, 6, &[2]);
    driver.close(2);
    assert_eq!(votes(&driver.write(true)), []);
    driver.disk_works = true;
    assert_eq!(winners(&mut driver, 10_799, &mut [&mut one]), [0; 0]);
    assert_eq!(winners(&mut driver, 1, &mut []), [1]);
}

#[test]
fn a_record_has_the_longest_bound_of_its_rule() {
    let no_wait = ClusterSettings { lms_without_wait_for_all: true, ..ClusterSettings::default() };
    for (settings, algorithm, bound_ms) in [
        (settings(VoteHold::SingleFault), FFSPLIT, Some(18_800)),
        (settings(VoteHold::DoubleFault), FFSPLIT, Some(48_800)),
        (settings(VoteHold::Off), FFSPLIT, Some(12_000)),
        (settings(VoteHold::SingleFault), LMS, None),
        (cluster_settings(no_wait), LMS, Some(18_800)),
    ] {
        let mut driver = Driver::new(settings);
        pair(&mut driver, algorithm);
        assert_eq!(driver.journal.last().unwrap().bound_ms, bound_ms);
    }
}

#[test]
fn after_a_restart_the_recorded_bound_runs_from_the_start() {
    for (vote_hold, bound) in [(VoteHold::SingleFault, 18_800), (VoteHold::DoubleFault, 48_800)] {
        for host_boot in [BootId(1), BootId(2)] {
            let mut driver = Driver::new(settings(vote_hold));
            let (mut one, _) = pair(&mut driver, FFSPLIT);
            one.report(&mut driver, 5, &[1]);
            let mut driver = driver.restart_with(settings(vote_hold), host_boot);
            let mut two = Stock::new(2, 2);
            two.connect(&mut driver);
            two.configure(&mut driver);
            assert_eq!(votes(&two.report(&mut driver, 6, &[2])), []);
            moves_after(&mut driver, &mut two, bound);
        }
    }
}

#[test]
fn an_endless_record_is_bounded_once_the_operator_says_so() {
    let mut driver = Driver::new(Settings::default());
    pair(&mut driver, LMS);
    let said = ClusterSettings { lms_without_wait_for_all: true, ..ClusterSettings::default() };
    let mut driver = driver.restart_with(cluster_settings(said), BootId(1));
    let mut two = Stock::new(2, 2);
    two.algorithm = LMS;
    two.connect(&mut driver);
    two.configure(&mut driver);
    assert_eq!(votes(&two.report(&mut driver, 6, &[2])), []);
    moves_after(&mut driver, &mut two, 18_800);
}

#[test]
fn nothing_known_is_waited_for_by_the_heartbeat_of_the_clients_that_come() {
    for (vote_hold, heartbeat_ms, bound) in [
        (VoteHold::SingleFault, 8000, 26_800),
        (VoteHold::DoubleFault, 8000, 48_800),
        (VoteHold::SingleFault, 4000, 8000 + 5000 + 500),
    ] {
        let mut driver = Driver::new(settings(vote_hold));
        let mut two = Stock::new(2, 2);
        two.heartbeat_ms = heartbeat_ms;
        two.connect(&mut driver);
        two.configure(&mut driver);
        assert_eq!(votes(&two.report(&mut driver, 4, &[2])), []);
        let mut told = Vec::new();
        for _ in 0..(bound - 1) / 1000 {
            told.extend(driver.pass(1000));
            told.extend(two.echo(&mut driver));
        }
        told.extend(driver.pass((bound - 1) % 1000));
        assert_eq!(votes(&told), []);
        assert_eq!(votes(&driver.pass(1)), [(2, Vote::Ack)]);
    }
}

#[test]
fn nothing_known_of_clients_without_a_bound_waits_for_every_configured_node() {
    let mut driver = Driver::new(Settings::default());
    let mut two = Stock::new(2, 2);
    two.algorithm = LMS;
    two.connect(&mut driver);
    two.configure(&mut driver);
    two.report(&mut driver, 4, &[2]);
    never_moves(&mut driver, &mut two);
    assert!(waiting(&driver).unwrap().contains("node 1"));
}

#[test]
fn a_full_view_never_waits_for_what_is_unknown() {
    let mut driver = Driver::new(settings(VoteHold::DoubleFault));
    pair(&mut driver, LMS);
}

#[test]
fn status_says_what_the_vote_waits_for_and_for_how_long() {
    let (mut driver, mut two) = silent(settings(VoteHold::SingleFault), FFSPLIT);
    driver.close(1);
    two.report(&mut driver, 5, &[2]);
    driver.pass(800);
    let status = driver.arbiter.status(driver.now);
    let cluster = &status.clusters["c"];
    assert_eq!(cluster.waiting_ms, Some(10_000));
    let text = cluster.waiting.clone().unwrap();
    let expected = "node 1 may still count the vote: its connection is closed, vote-hold \
                    single-fault; proof that node 1 is off would end that";
    assert_eq!(text, expected);
    let warning = &status.warnings[0];
    assert!(warning.contains("18.8 s") && warning.contains("10.8 s"), "{warning}");
    assert!(warning.contains("double-fault covers them"), "{warning}");
}

#[test]
fn what_is_waited_for_is_said_once_where_a_ring_change_makes_no_difference() {
    for (vote_hold, lines) in [(VoteHold::SingleFault, 1), (VoteHold::DoubleFault, 2)] {
        let mut driver = Driver::new(settings(vote_hold));
        let (mut one, mut two) = split(&mut driver);
        driver.pass(1000);
        one.echo(&mut driver);
        driver.log.clear();
        driver.close(1);
        // The ring of before, without node 1: for the bound of node 1, that is a ring change.
        two.report(&mut driver, 5, &[2]);
        driver.pass(1000);
        let said = driver.log.iter().filter(|text| text.contains("its connection is closed"));
        assert_eq!(said.count(), lines, "{vote_hold}: {:?}", driver.log);
    }
}

/// Node 1 of ours was heard for the last time just now; the vote moves after exactly this hold.
#[track_caller]
fn moves_after_the_hold(driver: &mut Driver, two: &mut Own, hold: Duration) {
    let whole = u64::try_from(hold.as_millis()).unwrap();
    let renewed = whole / 250 * 250 - 250;
    let mut done = driver.pass_renewing(renewed, &mut [two]);
    done.extend(driver.pass(whole - renewed - 1));
    assert!(!votes(&done).contains(&(2, Vote::Ack)), "too early: {done:?}");
    let done = driver.pass(1);
    assert!(votes(&done).contains(&(2, Vote::Ack)), "too late: {:?}", waiting(driver));
}

#[test]
fn a_short_lease_is_held_for_exactly_the_named_time() {
    let mut driver = Driver::new(Settings::default());
    let (mut one, mut two) = own_pair(&mut driver);
    driver.pass_renewing(1000, &mut [&mut one, &mut two]);
    two.report(&mut driver, 5, &[2]);
    moves_after_the_hold(&mut driver, &mut two, times::LEASE_HOLD);
}

#[test]
fn a_solo_lease_is_held_for_exactly_the_named_time() {
    let mut driver = Driver::new(Settings::default());
    let (mut one, mut two) = own_pair(&mut driver);
    one.report(&mut driver, 5, &[1]);
    let done = two.report(&mut driver, 5, &[2]);
    let done = two.confirm(&mut driver, &done);
    one.confirm(&mut driver, &done);
    driver.pass_renewing(1000, &mut [&mut one, &mut two]);
    moves_after_the_hold(&mut driver, &mut two, times::SOLO_LEASE_HOLD);
}
