//! lms: what its clients are told, when, and by which rule.

use protocol::ids::NodeId;
use protocol::vote::Algorithm::Lms;
use protocol::vote::Heuristics::{Fail, Pass};
use protocol::vote::TieBreaker;

use super::say::{Say, all_join, all_report, connects, passes, reports, reports_with};
use super::story::Story;

#[test]
fn a_split_is_decided_by_score_and_tie_breaker() {
    Story::new(&[], Lms, &[1, 2])
        .together()
        .same([reports(1, &[1], 8), reports(2, &[2], 8)], "1 ack; 2 nack")
        .tell();
}

#[test]
fn the_larger_partition_wins() {
    let split = [reports(1, &[1], 8), reports(2, &[2, 3], 8), reports(3, &[2, 3], 8)];
    Story::new(&[], Lms, &[1, 2, 3]).together().same(split, "1 nack; 2 ack; 3 ack").tell();
}

#[test]
fn a_decision_is_made_from_the_newest_reports() {
    Story::new(&["old-data"], Lms, &[1, 2])
        .together()
        .same([reports(1, &[1], 8)], "1 wait")
        .step([reports(2, &[2], 8)], "2 wait", "1 ack; 2 nack")
        .step([passes(1000)], "1 ack; 2 nack", "")
        .tell();
}

/// Each is compared with what the other said before its heuristics failed.
#[test]
fn old_data_leaves_nobody_with_the_vote() {
    Story::new(&["old-data"], Lms, &[1, 2])
        .together()
        .same([reports(1, &[1], 8), reports(2, &[2], 8)], "1 ack; 2 nack")
        .step(
            [reports_with(1, &[1], 12, Fail), reports_with(2, &[2], 12, Fail)],
            "1 ack, nack; 2 nack",
            "1 ack; 2 nack",
        )
        .tell();
}

#[test]
fn a_list_that_is_on_its_way_is_awaited() {
    Story::new(&["lists-awaited"], Lms, &[1, 2])
        .same([connects(1), connects(2)], "")
        .step([reports(1, &[1, 2], 4)], "1 ack, wait", "1 wait")
        .same([reports(2, &[1, 2], 4)], "1 ack; 2 ack")
        .tell();
}

#[test]
fn everyone_is_told_when_one_reports() {
    Story::new(&["re-evaluation"], Lms, &[1, 2])
        .together()
        .same([reports(1, &[1, 2], 8)], "1 wait")
        .step([reports(2, &[1, 2], 8)], "2 ack", "1 ack; 2 ack")
        .step([passes(1000)], "1 ack", "")
        .same([reports(1, &[1], 12), reports(2, &[2], 12)], "1 ack; 2 nack")
        .step([Say::Finds(1, Fail), Say::Finds(1, Fail)], "", "1 nack; 2 ack")
        .same([passes(1000)], "")
        .tell();
}

/// Neither gives node 2 the vote when node 1 is gone: the stock daemon because it looks at nobody
/// but the reporter (hazard 8.6), ours because node 1 has no leases that would run out (F7).
#[test]
fn a_survivor_that_asks_gets_no_vote_that_the_lost_holder_may_count() {
    Story::new(&["asking-decides-nothing"], Lms, &[1, 2])
        .together()
        .same([reports(1, &[1], 8), reports(2, &[2], 8)], "1 ack; 2 nack")
        .same([Say::Leaves(1)], "")
        .same([passes(1000)], "")
        .step([Say::Asks(2)], "2 ack", "")
        .tell();
}

#[test]
fn a_quorum_list_decides_nothing() {
    Story::new(&["quorum-list-decides-nothing"], Lms, &[1, 2])
        .together()
        .same([reports(1, &[1], 8), reports(2, &[2], 8)], "1 ack; 2 nack")
        .same([Say::Leaves(1)], "")
        .step([Say::Repeats(2)], "2 ack", "")
        .tell();
}

#[test]
fn a_newcomer_does_not_take_the_vote() {
    Story::new(&[], Lms, &[1, 2])
        .together()
        .same([reports_with(1, &[1], 8, Fail), reports(2, &[2], 8)], "1 nack; 2 ack")
        .same([Say::Leaves(1)], "")
        .same([reports(1, &[1], 12)], "1 nack")
        .tell();
}

#[test]
fn a_live_holder_keeps_the_vote_against_a_loser_that_reports_again() {
    Story::new(&["holder-stays"], Lms, &[1, 2])
        .together()
        .same([reports_with(1, &[1], 8, Fail), reports(2, &[2], 8)], "1 nack; 2 ack")
        .step([reports(1, &[1], 12)], "1 nack, ack", "1 nack")
        .tell();
}

#[test]
fn a_holder_that_newcomers_outnumber_keeps_the_vote() {
    let split =
        [reports(1, &[1], 8), reports_with(2, &[2, 3], 8, Fail), reports_with(3, &[2, 3], 8, Fail)];
    Story::new(&["holder-stays"], Lms, &[1, 2, 3])
        .together()
        .same(split, "1 ack; 2 nack; 3 nack")
        .same([Say::Leaves(2), Say::Leaves(3)], "")
        .same(all_join(&[2, 3], 12), "")
        .same(all_report(&[2, 3], 12), "2 nack; 3 nack")
        .step([reports(1, &[1], 12)], "1 nack", "1 ack")
        .tell();
}

#[test]
fn an_explicit_tie_breaker_that_is_absent_leaves_the_lowest() {
    Story::new(&["explicit-absent"], Lms, &[1, 2])
        .tie_breaker(TieBreaker::Node(NodeId(9)))
        .together()
        .step([reports(1, &[1], 8), reports(2, &[2], 8)], "1 nack; 2 nack", "1 ack; 2 nack")
        .tell();
}

/// The stock daemon's search for the lowest id starts at 2³¹−1.
#[test]
fn every_id_can_be_the_lowest() {
    const LOW: u32 = 1 << 31;
    const HIGH: u32 = LOW + 1;
    Story::new(&["every-id-can-be-lowest"], Lms, &[LOW, HIGH])
        .together()
        .step(
            [reports(LOW, &[LOW], 8), reports(HIGH, &[HIGH], 8)],
            "2147483648 nack; 2147483649 nack",
            "2147483648 ack; 2147483649 nack",
        )
        .tell();
}

#[test]
fn a_client_on_ring_zero_counts() {
    let split = [
        Say::Joins(1, vec![1], 0),
        Say::Joins(2, vec![2], 4),
        reports(1, &[1], 0),
        reports(2, &[2], 4),
        passes(1200),
    ];
    Story::new(&["ring-zero-counts"], Lms, &[1, 2])
        .step(split, "1 ack; 2 ack", "1 ack; 2 nack")
        .tell();
}

#[test]
fn two_lists_of_one_ring_are_two_partitions() {
    Story::new(&["members-compared"], Lms, &[1, 2])
        .together()
        .step(
            [reports(1, &[1], 8), Say::ReportsRing(2, vec![2], 1, 8)],
            "1 ack; 2 ack",
            "1 ack; 2 nack",
        )
        .tell();
}

/// Node 1 keeps the vote that the stock daemon gave it meanwhile: two partitions have it.
#[test]
fn nobody_is_told_while_others_are_unsettled() {
    Story::new(&["everyone-waits"], Lms, &[1, 2, 3])
        .together()
        .same([vec![reports(1, &[1], 8)], all_report(&[2, 3], 8)].concat(), "1 nack; 2 ack; 3 ack")
        .same([reports(2, &[2, 3], 12)], "2 wait")
        .step([reports(1, &[1], 12)], "1 ack", "1 wait")
        .step([reports(3, &[2, 3], 12)], "2 ack; 3 nack, ack", "1 nack; 2 ack; 3 ack")
        .tell();
}

#[test]
fn ties_are_broken_among_the_partitions_that_lead() {
    let split = [
        reports_with(1, &[1], 8, Pass),
        reports_with(2, &[2], 8, Pass),
        reports_with(3, &[3, 4], 8, Fail),
        reports(4, &[3, 4], 8),
    ];
    Story::new(&["leaders-only"], Lms, &[1, 2, 3, 4])
        .together()
        .step(split, "1 nack; 2 nack; 3 ack; 4 ack", "1 ack; 2 nack; 3 nack; 4 nack")
        .tell();
}

#[test]
fn a_membership_list_without_its_sender_is_refused() {
    Story::new(&["sender-is-member"], Lms, &[1, 2])
        .together()
        .step([Say::ReportsRing(1, vec![2], 2, 8)], "1 wait", "1 error 19")
        .tell();
}

#[test]
fn the_winner_waits_for_the_losers_reply() {
    Story::new(&["losers-first"], Lms, &[1, 2])
        .together()
        .same([reports(1, &[1], 8)], "1 wait")
        .step([Say::Mute(2, true), reports(2, &[2], 8), passes(1000)], "1 ack; 2 nack", "2 nack")
        .step([Say::Mute(2, false)], "", "1 ack")
        .tell();
}
