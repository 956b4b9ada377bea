//! ffsplit: the worked traces of wire 4.2, and its corrections.

use protocol::vote::Algorithm::Ffsplit;
use protocol::vote::Heuristics::{Fail, Pass};

use super::say::{Say, all_report, configures, connects, passes, reports, reports_with};
use super::story::Story;

#[test]
fn two_nodes_join_and_split() {
    Story::new(&[], Ffsplit, &[1, 2])
        .same([connects(1), connects(2)], "")
        .same([reports(1, &[1, 2], 4)], "1 wait")
        .same([reports(2, &[1, 2], 4)], "1 ack; 2 ack")
        .same([reports(1, &[1], 8)], "1 wait")
        .same([reports(2, &[2], 8)], "1 ack; 2 nack")
        .same([reports(1, &[1, 2], 12)], "1 wait")
        .same([reports(2, &[1, 2], 12)], "1 ack; 2 ack")
        .tell();
}

#[test]
fn of_three_nodes_the_majority_wins() {
    Story::new(&[], Ffsplit, &[1, 2, 3])
        .together()
        .same([reports(1, &[1], 8)], "1 wait")
        .same([reports(2, &[2, 3], 8)], "2 wait")
        .same([reports(3, &[2, 3], 8)], "1 nack; 2 ack; 3 ack")
        .tell();
}

#[test]
fn heuristics_decide_a_fresh_split() {
    Story::new(&[], Ffsplit, &[1, 2])
        .together()
        .same([reports_with(1, &[1], 8, Fail)], "1 wait")
        .same([reports_with(2, &[2], 8, Pass)], "1 nack; 2 ack")
        .tell();
}

#[test]
fn survivors_keep_the_vote_when_a_node_of_their_partition_leaves_the_arbiter() {
    Story::new(&[], Ffsplit, &[1, 2, 3, 4]).together().same([Say::Leaves(1)], "").tell();
}

/// And no "wait" behind it, which would make the client stop casting the vote (hazard 8.10).
#[test]
fn a_client_that_comes_back_to_its_partition_is_told_its_vote() {
    Story::new(&[], Ffsplit, &[1, 2])
        .together()
        .same([Say::Leaves(1)], "")
        .same([reports(1, &[1, 2], 4)], "1 ack")
        .tell();
}

#[test]
fn a_node_alone_waits_for_what_nothing_is_known_of() {
    Story::new(&["unknown-until-reported"], Ffsplit, &[1, 2])
        .step([reports(1, &[1], 4)], "1 ack", "1 wait")
        .step([passes(10_500)], "", "1 ack")
        .same([reports(2, &[2], 4)], "2 nack")
        .tell();
}

#[test]
fn a_lost_holder_without_leases_keeps_the_vote_for_its_bound() {
    Story::new(&["bounded-without-leases"], Ffsplit, &[1, 2])
        .together()
        .same([Say::Leaves(2)], "")
        .step([reports(1, &[1], 8)], "1 ack", "1 wait")
        .same([passes(4000)], "")
        .step([passes(500)], "", "1 ack")
        .same([reports(2, &[2], 8)], "2 nack")
        .tell();
}

/// The vote was moved to node 2 by heuristics that are equal again when node 1 comes back.
fn the_active_half_is_challenged(rows: &'static [&'static str], keep: bool, stock: &str) {
    Story::new(rows, Ffsplit, &[1, 2])
        .keep_active_partition(keep)
        .together()
        .same([reports_with(1, &[1], 8, Fail), reports(2, &[2], 8)], "1 nack; 2 ack")
        .same([Say::Leaves(1)], "")
        .step([reports(1, &[1], 12)], stock, "1 nack")
        .tell();
}

#[test]
fn the_active_half_keeps_the_vote_where_that_is_set() {
    the_active_half_is_challenged(&[], true, "1 nack");
}

#[test]
fn the_active_half_keeps_the_vote_where_that_is_not_set() {
    the_active_half_is_challenged(&["holder-over-tie-breaker"], false, "1 ack; 2 nack");
}

#[test]
fn heuristics_take_the_vote_from_a_live_half_after_two_fails() {
    Story::new(&["holder-over-heuristics"], Ffsplit, &[1, 2])
        .keep_active_partition(true)
        .together()
        .same([reports(1, &[1], 8), reports(2, &[2], 8)], "1 ack; 2 nack")
        .step([Say::Finds(1, Fail)], "1 nack; 2 ack", "")
        .step([Say::Finds(1, Fail)], "", "1 nack; 2 ack")
        .tell();
}

/// The stock daemon still counts node 1, which is leaving; here {3,4} now has more clients, but
/// node 1 has no leases and may count the vote for ever (F7), so node 2 is spared until the vote
/// could really move. The answers are the same.
#[test]
fn the_half_that_lost_a_client_keeps_the_vote_while_that_client_may_count_it() {
    Story::new(&[], Ffsplit, &[1, 2, 3, 4])
        .together()
        .same(
            [all_report(&[1, 2], 8), all_report(&[3, 4], 8)].concat(),
            "1 ack; 2 ack; 3 nack; 4 nack",
        )
        .same([Say::Leaves(1)], "")
        .tell();
}

#[test]
fn lists_that_are_on_their_way_are_awaited() {
    Story::new(&["lists-awaited"], Ffsplit, &[1, 2])
        .together()
        .same([Say::Leaves(2), connects(2), configures(2, &[1, 2])], "")
        .step([reports(1, &[1], 8)], "1 ack; 2 nack", "1 wait")
        .step([reports(2, &[2], 8)], "2 nack", "1 ack; 2 nack")
        .tell();
}

#[test]
fn a_client_without_lists_blocks_nobody_for_long() {
    Story::new(&["stuck-left-out"], Ffsplit, &[1, 2])
        .together()
        .same([Say::Leaves(2), connects(2)], "")
        .same([reports(1, &[1, 2], 8)], "1 wait")
        .step([passes(3200)], "", "1 ack")
        .tell();
}

#[test]
fn a_client_that_stays_behind_blocks_nobody_for_long() {
    Story::new(&["stuck-left-out"], Ffsplit, &[1, 2, 3])
        .together()
        .same([reports(1, &[1, 2, 3], 8)], "1 wait")
        .same([reports(2, &[1, 2, 3], 8)], "2 wait")
        .step([passes(3200)], "", "1 ack; 2 ack; 3 nack")
        .tell();
}

#[test]
fn members_that_are_not_configured_make_no_majority() {
    let split =
        [reports(1, &[1, 8, 9], 8), reports(2, &[2], 8), reports(3, &[3], 8), reports(4, &[4], 8)];
    Story::new(&["foreign-not-counted"], Ffsplit, &[1, 2, 3, 4])
        .together()
        .step(split, "1 ack; 2 nack; 3 nack; 4 nack", "1 nack; 2 nack; 3 nack; 4 nack")
        .tell();
}

#[test]
fn the_holder_wins_over_a_majority_that_claims_the_same_absent_node() {
    Story::new(&["holder-among-majorities"], Ffsplit, &[1, 2, 3])
        .together()
        .same([Say::Leaves(3)], "")
        .same([reports(1, &[1, 3], 8), reports(2, &[2], 8)], "1 ack; 2 nack")
        .step([reports(2, &[2, 3], 12)], "1 nack; 2 ack", "2 nack")
        .tell();
}

#[test]
fn a_rolling_change_of_the_node_list_withdraws_no_vote() {
    Story::new(&["no-withdrawal"], Ffsplit, &[1, 2])
        .together()
        .step([configures(1, &[1, 2, 3])], "1 wait", "")
        .step([configures(2, &[1, 2, 3])], "1 ack", "")
        .tell();
}

#[test]
fn new_heuristics_during_a_change_withdraw_no_vote() {
    Story::new(&["no-withdrawal"], Ffsplit, &[1, 2])
        .together()
        .same([reports(2, &[1, 2], 8)], "2 wait")
        .step([Say::Finds(1, Pass)], "1 wait", "")
        .tell();
}

#[test]
fn only_votes_that_change_are_told() {
    Story::new(&["told-once"], Ffsplit, &[1, 2])
        .verbatim()
        .same([connects(1), connects(2)], "")
        .step(
            all_report(&[1, 2], 4),
            "1 answered later, answered wait, told ack; \
             2 answered later, told ack, answered no change",
            "1 answered later, answered wait, told ack; \
             2 answered later, answered wait, told ack",
        )
        .step(
            [Say::Finds(1, Pass)],
            "1 told ack, answered no change; 2 told ack",
            "1 answered no change",
        )
        .tell();
}
