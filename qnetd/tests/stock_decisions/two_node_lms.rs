//! 2nodelms.

use protocol::ids::NodeId;
use protocol::vote::Algorithm::TwoNodeLms;
use protocol::vote::Heuristics::{Fail, Pass};
use protocol::vote::TieBreaker;

use super::say::{Say, connects, passes, reports, reports_with};
use super::story::Story;

/// Both nodes report both.
fn pair(rows: &'static [&'static str]) -> Story {
    Story::new(rows, TwoNodeLms, &[1, 2]).together()
}

#[test]
fn a_split_is_decided_by_heuristics_and_tie_breaker() {
    pair(&[])
        .same([reports(1, &[1], 8), reports(2, &[2], 8)], "1 ack; 2 nack")
        .same([reports(1, &[1, 2], 12), reports(2, &[1, 2], 12)], "1 ack; 2 ack")
        .same([reports_with(1, &[1], 16, Fail), reports_with(2, &[2], 16, Pass)], "1 nack; 2 ack")
        .tell();
}

#[test]
fn a_full_list_wins_once_both_have_reported_it() {
    Story::new(&["both-must-agree"], TwoNodeLms, &[1, 2])
        .same([connects(1), connects(2)], "")
        .step([reports(1, &[1, 2], 4)], "1 ack", "1 wait")
        .step([reports(2, &[1, 2], 4)], "2 ack", "1 ack; 2 ack")
        .tell();
}

#[test]
fn the_winner_of_two_waits_for_the_losers_reply() {
    pair(&["losers-first"])
        .step([reports(1, &[1], 8)], "1 ack", "1 wait")
        .step([reports(2, &[2], 8)], "2 nack", "1 ack; 2 nack")
        .tell();
}

#[test]
fn both_are_told_when_one_reports() {
    pair(&["re-evaluation"])
        .same([reports(1, &[1], 8), reports(2, &[2], 8)], "1 ack; 2 nack")
        .step([Say::Finds(1, Fail), Say::Finds(1, Fail)], "", "1 nack; 2 ack")
        .same([passes(1000)], "")
        .tell();
}

#[test]
fn a_newcomer_of_two_does_not_take_the_vote() {
    pair(&[])
        .same([reports_with(1, &[1], 8, Fail), reports(2, &[2], 8)], "1 nack; 2 ack")
        .same([Say::Leaves(1)], "")
        .same([reports(1, &[1], 12)], "1 nack")
        .tell();
}

#[test]
fn a_live_holder_of_two_keeps_the_vote() {
    pair(&["holder-stays"])
        .same([reports_with(1, &[1], 8, Fail), reports(2, &[2], 8)], "1 nack; 2 ack")
        .step([reports(1, &[1], 12)], "1 ack", "1 nack")
        .tell();
}

#[test]
fn an_explicit_tie_breaker_of_neither_node_leaves_the_lowest() {
    Story::new(&["explicit-absent"], TwoNodeLms, &[1, 2])
        .tie_breaker(TieBreaker::Node(NodeId(9)))
        .together()
        .step([reports(1, &[1], 8), reports(2, &[2], 8)], "1 nack; 2 nack", "1 ack; 2 nack")
        .tell();
}

#[test]
fn a_survivor_of_two_is_told_its_last_vote_when_it_asks() {
    pair(&[])
        .same([reports(1, &[1], 8), reports(2, &[2], 8)], "1 ack; 2 nack")
        .same([Say::Leaves(1)], "")
        .same([Say::Asks(2)], "")
        .tell();
}
