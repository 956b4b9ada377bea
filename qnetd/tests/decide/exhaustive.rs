//! Every small world, decided.

use protocol::vote::Algorithm;
use qnetd::core::decide::decide;

use crate::check::Tally;
use crate::worlds::{Reports, Spread, Sweep, departures};

const FIRST_ID: u32 = 1;

fn sweep(tally: &mut Tally, algorithm: Algorithm, nodes: u32, first_id: u32, spread: Spread) {
    let sweep = Sweep { algorithm, nodes, first_id, spread };
    sweep.run(&mut |world| tally.check(world));
}

fn reports<'a>(
    algorithm: Algorithm,
    clients: u32,
    known: u32,
    configs: &'a [&'a [u32]],
    rings: &'a [u64],
) -> Reports<'a> {
    Reports { algorithm, clients, known, configs, rings }
}

#[test]
fn ffsplit_differs_by_named_rows_only_up_to_three_nodes_and_every_row_occurs() {
    let mut tally = Tally::default();
    for nodes in 1..=3 {
        sweep(&mut tally, Algorithm::Ffsplit, nodes, FIRST_ID, Spread::PerClient);
    }
    departures(&mut |world| tally.check(world));
    let configs: &[&[u32]] = &[&[1, 2, 3, 4], &[1, 2, 3], &[1, 2]];
    reports(Algorithm::Ffsplit, 2, 4, configs, &[4, 8]).run(&mut |world| tally.check(world));
    let configs: &[&[u32]] = &[&[1, 2, 3, 4], &[1, 2]];
    reports(Algorithm::Ffsplit, 3, 3, configs, &[4, 8]).run(&mut |world| tally.check(world));
    tally.assert_every_row_occurred(Algorithm::Ffsplit);
}

#[test]
fn lms_differs_by_named_rows_only_up_to_three_nodes_and_every_row_occurs() {
    let mut tally = Tally::default();
    for nodes in 1..=3 {
        sweep(&mut tally, Algorithm::Lms, nodes, FIRST_ID, Spread::PerClient);
        sweep(&mut tally, Algorithm::Lms, nodes, i32::MAX as u32, Spread::Undefined);
    }
    // A tie between sides of two needs four nodes.
    sweep(&mut tally, Algorithm::Lms, 4, FIRST_ID, Spread::Undefined);
    let configs: &[&[u32]] = &[&[1, 2, 3], &[]];
    reports(Algorithm::Lms, 2, 3, configs, &[0, 4, 8]).run(&mut |world| tally.check(world));
    reports(Algorithm::Lms, 3, 3, &[&[1, 2, 3]], &[4, 8]).run(&mut |world| tally.check(world));
    tally.assert_every_row_occurred(Algorithm::Lms);
}

#[test]
fn two_node_lms_differs_by_named_rows_only_and_every_row_occurs() {
    let mut tally = Tally::default();
    sweep(&mut tally, Algorithm::TwoNodeLms, 2, FIRST_ID, Spread::PerClient);
    sweep(&mut tally, Algorithm::TwoNodeLms, 2, i32::MAX as u32, Spread::PerClient);
    let configs: &[&[u32]] = &[&[1, 2]];
    reports(Algorithm::TwoNodeLms, 2, 2, configs, &[0, 4, 8]).run(&mut |world| tally.check(world));
    tally.assert_every_row_occurred(Algorithm::TwoNodeLms);
}

#[test]
fn test_gives_everyone_the_vote_whatever_they_report() {
    let mut tally = Tally::default();
    reports(Algorithm::Test, 2, 2, &[&[1, 2]], &[4, 8]).run(&mut |world| {
        if !world.view.clients.is_empty() {
            tally.check(world);
        }
    });
    tally.assert_every_row_occurred(Algorithm::Test);
}

#[test]
fn ffsplit_differs_by_named_rows_only_for_four_nodes() {
    let mut tally = Tally::quick();
    sweep(&mut tally, Algorithm::Ffsplit, 4, FIRST_ID, Spread::PerClient);
    assert!(tally.worlds > 400_000, "{tally:?}");
}

#[test]
fn lms_differs_by_named_rows_only_for_four_nodes() {
    let mut tally = Tally::quick();
    sweep(&mut tally, Algorithm::Lms, 4, FIRST_ID, Spread::PerClient);
    assert!(tally.worlds > 400_000, "{tally:?}");
}

/// Of five nodes no partition is a half, so ffsplit never looks at heuristics.
#[test]
fn ffsplit_differs_by_named_rows_only_for_five_nodes() {
    let mut tally = Tally::quick();
    sweep(&mut tally, Algorithm::Ffsplit, 5, FIRST_ID, Spread::Undefined);
    assert!(tally.worlds > 100_000, "{tally:?}");
}

/// Every result for every client would be some ten million worlds, so there are two sweeps: one
/// with every tie-breaker and no heuristics, one where one partition's clients share one result.
#[test]
fn lms_differs_by_named_rows_only_for_five_nodes() {
    let mut tally = Tally::quick();
    sweep(&mut tally, Algorithm::Lms, 5, FIRST_ID, Spread::Undefined);
    sweep(&mut tally, Algorithm::Lms, 5, FIRST_ID, Spread::OnePartition);
    assert!(tally.worlds > 500_000, "{tally:?}");
}

#[test]
fn the_same_view_gets_the_same_answer() {
    for algorithm in [Algorithm::Ffsplit, Algorithm::Lms, Algorithm::TwoNodeLms] {
        reports(algorithm, 2, 2, &[&[1, 2]], &[4, 8]).run(&mut |world| {
            assert_eq!(decide(&world.view), decide(&world.view.clone()), "{world:#?}");
        });
    }
}
