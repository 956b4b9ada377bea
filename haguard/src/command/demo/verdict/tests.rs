//! Synthetic samples and lines: what must be found is found, what is in order is not.

use QuorumState::{Frozen, Inquorate, Quorate as Is};

use super::*;

/// A run of answers that each took 2 ms, the first asked at `from`, the last heard at `to`.
fn run(node: u32, state: QuorumState, members: &[u32], epoch: u64, from: u64, to: u64) -> Run {
    Run {
        node,
        state,
        view: Some(format!("{members:?}/{epoch}")),
        epoch,
        members: members.to_vec(),
        first: (Time::from_millis(from), Time::from_millis(from + 2)),
        last: (Time::from_millis(to - 2), Time::from_millis(to)),
    }
}

#[test]
fn an_ordinary_split_has_one_side() {
    let runs = [
        run(1, Is, &[1, 2], 5, 0, 700),
        run(2, Is, &[1, 2], 5, 0, 700),
        run(1, Frozen, &[1, 2], 5, 700, 1100),
        run(2, Frozen, &[1, 2], 5, 700, 1000),
        run(2, Inquorate, &[2], 6, 1001, 5000),
        run(1, Is, &[1], 7, 1100, 5000),
    ];
    assert_eq!(two_sides(&runs), []);
}

#[test]
fn a_loser_that_is_frozen_too_long_is_found() {
    let runs = [run(1, Is, &[1], 7, 1100, 5000), run(2, Frozen, &[1, 2], 5, 700, 1103)];
    let found = two_sides(&runs);
    assert_eq!(found, [TwoSides { node: 1, other: 2, from_ms: 1100, ms: 3 }]);
}

#[test]
fn two_quorate_sides_are_found_from_both() {
    let runs = [run(1, Is, &[1], 7, 0, 50), run(2, Is, &[2], 8, 20, 80)];
    let found = two_sides(&runs);
    assert_eq!(found.iter().map(|two| (two.node, two.ms)).collect::<Vec<_>>(), [(1, 30), (2, 30)]);
}

#[test]
fn an_overlap_that_is_only_possible_counts() {
    // The last answer of node 2 was heard when node 1's first was already asked for.
    let runs = [run(1, Is, &[1], 7, 100, 200), run(2, Frozen, &[1, 2], 5, 0, 101)];
    assert_eq!(two_sides(&runs).len(), 1);
}

#[test]
fn going_over_into_a_common_view_counts_only_if_it_is_certain() {
    let old = run(1, Is, &[1], 7, 0, 101);
    assert_eq!(two_sides(&[old.clone(), run(2, Is, &[1, 2], 8, 100, 200)]), []);
    assert_eq!(two_sides(&[old, run(2, Is, &[1, 2], 8, 90, 200)]).len(), 1);
}

#[test]
fn one_answer_within_a_long_run_is_certain() {
    let old = run(1, Is, &[1], 7, 0, 500);
    assert_eq!(two_sides(&[old, run(2, Is, &[1, 2], 8, 100, 102)]).len(), 1);
}

#[test]
fn nodes_of_one_view_are_one_side_whatever_their_state() {
    let runs = [run(1, Is, &[1, 2], 5, 0, 900), run(2, Frozen, &[1, 2], 5, 0, 900)];
    assert_eq!(two_sides(&runs), []);
}

#[test]
fn the_longest_time_without_a_side_is_measured_between_all_sides() {
    let runs = [
        run(1, Is, &[1, 2], 5, 0, 700),
        run(2, Is, &[1, 2], 5, 0, 740),
        run(1, Frozen, &[1, 2], 5, 700, 1700),
        run(1, Is, &[1], 7, 1740, 5000),
    ];
    let longest = |from, to| {
        longest_without(&runs, Time::from_millis(from), Time::from_millis(to)).as_millis()
    };
    assert_eq!(longest(0, 5000), 1000);
    assert_eq!(longest(0, 8000), 3000);
    assert_eq!(longest(2000, 4000), 0);
    assert_eq!(longest_without(&[], Time::ZERO, Time::from_millis(9)).as_millis(), 9);
}

#[test]
fn a_service_that_moves_leaves_one_stretch_a_start() {
    let effects = Effects::read("10 2 5\n30 2 5\n7000 1 7\n7020 1 7\n9000 2 8\n");
    let moved: Vec<_> = effects.stretches.iter().map(|s| (s.node, s.epoch, s.lines)).collect();
    assert_eq!(moved, [(2, 5, 2), (1, 7, 2), (2, 8, 1)]);
    assert_eq!((effects.interleaved, effects.epoch_back, effects.malformed), (0, 0, 0));
}

#[test]
fn lines_of_two_nodes_in_turn_are_found() {
    let effects = Effects::read("10 2 5\n20 1 7\n30 2 5\n");
    assert!(effects.interleaved > 0);
    assert_eq!(effects.epoch_back, 1);
}

#[test]
fn two_nodes_in_one_epoch_are_found() {
    assert_eq!(Effects::read("10 2 5\n20 1 5\n").interleaved, 1);
}

#[test]
fn lines_written_at_the_same_time_are_found() {
    assert_eq!(Effects::read("10 2 5\n20 2 5\n20 1 6\n").interleaved, 1);
}

#[test]
fn an_epoch_that_goes_back_is_found() {
    assert_eq!(Effects::read("10 1 7\n20 2 6\n30 2 6\n").epoch_back, 2);
}

#[test]
fn lines_that_are_none_are_counted() {
    for bad in ["10 1", "10 1 7 8", "10 one 7", "", "10 1 7 "] {
        assert_eq!(Effects::read(&format!("{bad}\n")).malformed, 1, "{bad:?}");
    }
}

#[test]
fn a_claim_without_a_measurement_does_not_hold() {
    let limit = Duration::from_secs(5);
    assert!(!Claim::within("takeover", None, limit).held);
    assert!(!Claim::within("takeover", Some(limit), limit).held);
    assert!(Claim::within("takeover", Some(Duration::from_secs(1)), limit).held);
    assert!(Claim::none("two sides", 0, " ms").held);
    assert!(!Claim::none("two sides", 1, " ms").held);
}

#[test]
fn the_median_is_one_of_the_times() {
    let times = [3, 1, 2].map(Duration::from_secs);
    assert_eq!(median(&times), Some(Duration::from_secs(2)));
    assert_eq!(median(&[]), None);
}
