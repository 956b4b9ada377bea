//! Four nodes split in halves, with each tie-breaker.

use protocol::ids::NodeId;
use protocol::vote::Algorithm::{self, Ffsplit, Lms};
use protocol::vote::Heuristics::Fail;
use protocol::vote::TieBreaker;

use super::say::{Say, all_report, reports_with};
use super::story::Story;

const ALL: [u32; 4] = [1, 2, 3, 4];
const LOW_WINS: &str = "1 ack; 2 ack; 3 nack; 4 nack";
const HIGH_WINS: &str = "1 nack; 2 nack; 3 ack; 4 ack";

fn together(rows: &'static [&'static str], algorithm: Algorithm, tie: TieBreaker) -> Story {
    Story::new(rows, algorithm, &ALL).tie_breaker(tie).together()
}

fn halves(seq: u64) -> Vec<Say> {
    [all_report(&[1, 2], seq), all_report(&[3, 4], seq)].concat()
}

fn node(id: u32) -> TieBreaker {
    TieBreaker::Node(NodeId(id))
}

#[test]
fn a_fresh_split_goes_to_the_half_of_the_tie_breaker() {
    let table = [
        (TieBreaker::Lowest, false, LOW_WINS),
        (TieBreaker::Lowest, true, LOW_WINS),
        (TieBreaker::Highest, false, HIGH_WINS),
        (TieBreaker::Highest, true, HIGH_WINS),
        (node(1), false, LOW_WINS),
        (node(2), true, LOW_WINS),
        (node(3), false, HIGH_WINS),
        (node(4), true, HIGH_WINS),
        // In neither half: the half of the lowest node.
        (node(9), false, LOW_WINS),
    ];
    for (tie, keep, expected) in table {
        let story = together(&[], Ffsplit, tie).keep_active_partition(keep);
        story.same(halves(8), expected).tell();
    }
}

#[test]
fn lms_breaks_a_tie_for_lowest_and_highest() {
    for (tie, expected) in [(TieBreaker::Lowest, LOW_WINS), (TieBreaker::Highest, HIGH_WINS)] {
        together(&[], Lms, tie).same(halves(8), expected).tell();
    }
}

#[test]
fn lms_breaks_a_tie_for_each_node() {
    let table = [
        (1, "1 ack; 2 nack; 3 nack; 4 nack", LOW_WINS),
        (2, "1 nack; 2 ack; 3 nack; 4 nack", LOW_WINS),
        (3, "1 nack; 2 nack; 3 ack; 4 nack", HIGH_WINS),
        (4, "1 nack; 2 nack; 3 nack; 4 ack", HIGH_WINS),
    ];
    for (id, stock, ours) in table {
        together(&["explicit-for-its-side"], Lms, node(id)).step(halves(8), stock, ours).tell();
    }
}

/// The high half has won by heuristics; then the low half's are good again.
fn the_high_half_is_challenged(rows: &'static [&'static str], keep: bool, stock: &str) {
    let fail = |node| reports_with(node, &[1, 2], 8, Fail);
    together(rows, Ffsplit, TieBreaker::Lowest)
        .keep_active_partition(keep)
        .same([vec![fail(1), fail(2)], all_report(&[3, 4], 8)].concat(), HIGH_WINS)
        .step(all_report(&[1, 2], 12), stock, "1 nack; 2 nack")
        .tell();
}

#[test]
fn the_active_half_of_four_keeps_the_vote_where_that_is_set() {
    the_high_half_is_challenged(&[], true, "1 nack; 2 nack");
}

#[test]
fn the_active_half_of_four_keeps_the_vote_where_that_is_not_set() {
    the_high_half_is_challenged(&["holder-over-tie-breaker"], false, LOW_WINS);
}
