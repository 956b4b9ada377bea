//! The stock rule that shadow mode explains differences with, in every small cluster: with all
//! rows it is our rule, and each difference has a row.

use std::collections::BTreeSet;

use protocol::ids::NodeId;
use protocol::vote::Algorithm;
use qnetd::core::decide::{ClientView, Decision, decide};
use qnetd::shadow::core::correcting_row;
use qnetd::shadow::core::row::Row;
use qnetd::shadow::core::stock_rule::{Answer, Voter, answers};

use crate::worlds::{Reports, Spread, Sweep, World, departures};

/// The table that has a row for each correction.
const TABLE: &str = include_str!("../../../docs/decisions.md");

fn voters(world: &World) -> Vec<Voter> {
    let holder = world.view.holder.as_ref();
    let voter = |node: &NodeId, client: &ClientView, leaving| {
        let holds = holder.is_some_and(|nodes| nodes.contains(node));
        Voter {
            node: *node,
            config: client.config.clone(),
            members: client.members.clone(),
            view: client.view,
            heuristics: client.heuristics,
            failed_twice: client.heuristics_failed_before,
            keep_active: client.keep_active_partition,
            tie_breaker: client.tie_breaker,
            stuck: client.stuck,
            leaving,
            holds,
            held_there: holds,
            known_there: holds || !world.newcomers,
        }
    };
    let staying = world.view.clients.iter().map(|(node, client)| voter(node, client, false));
    let leaving = world.leaving.iter().map(|(node, client)| voter(node, client, true));
    staying.chain(leaving).collect()
}

fn decided(decision: &Decision, node: NodeId, client: &ClientView) -> Answer {
    match decision {
        Decision::All => Answer::Ack,
        Decision::Wait(_) => Answer::Wait,
        Decision::Nobody(_) => Answer::Nack,
        Decision::Give { view, members, .. } => {
            let wins = members.contains(&node) && client.view == *view;
            if wins { Answer::Ack } else { Answer::Nack }
        }
    }
}

/// The rows that explained a difference.
#[derive(Default)]
struct Seen {
    worlds: u64,
    rows: BTreeSet<Row>,
}

impl Seen {
    fn check(&mut self, world: &World) {
        self.worlds += 1;
        let (voters, algorithm) = (voters(world), world.view.algorithm);
        let decision = decide(&world.view);
        let corrected = answers(algorithm, &voters, Row::of(algorithm));
        let stock = answers(algorithm, &voters, &[]);
        for (node, client) in &world.view.clients {
            let ours = decided(&decision, *node, client);
            if let Some(corrected) = corrected.get(node) {
                assert_eq!(*corrected, ours, "node {node}: {decision:?}\n{world:#?}");
            }
            if stock.get(node).is_some_and(|stock| *stock != ours) {
                let row = correcting_row(algorithm, &voters, *node, ours);
                let row = row.unwrap_or_else(|| panic!("node {node} not explained\n{world:#?}"));
                self.rows.insert(row);
            }
        }
    }

    fn sweep(&mut self, algorithm: Algorithm, nodes: u32, first_id: u32, spread: Spread) {
        let sweep = Sweep { algorithm, nodes, first_id, spread };
        sweep.run(&mut |world| self.check(world));
    }

    fn reports(
        &mut self,
        (algorithm, clients, known): (Algorithm, u32, u32),
        configs: &[&[u32]],
        rings: &[u64],
    ) {
        let reports = Reports { algorithm, clients, known, configs, rings };
        reports.run(&mut |world| self.check(world));
    }

    fn assert_every_row_explains(&self, algorithm: Algorithm) {
        let all: BTreeSet<Row> = Row::of(algorithm).iter().copied().collect();
        assert_eq!(self.rows, all, "{algorithm:?} in {} worlds", self.worlds);
    }
}

#[test]
fn every_difference_of_ffsplit_has_a_row() {
    let mut seen = Seen::default();
    for nodes in 1..=3 {
        seen.sweep(Algorithm::Ffsplit, nodes, 1, Spread::PerClient);
    }
    departures(&mut |world| seen.check(world));
    let configs: &[&[u32]] = &[&[1, 2, 3, 4], &[1, 2, 3], &[1, 2]];
    seen.reports((Algorithm::Ffsplit, 2, 4), configs, &[4, 8]);
    seen.assert_every_row_explains(Algorithm::Ffsplit);
}

#[test]
fn every_difference_of_lms_has_a_row() {
    let mut seen = Seen::default();
    for nodes in 1..=3 {
        seen.sweep(Algorithm::Lms, nodes, 1, Spread::PerClient);
        seen.sweep(Algorithm::Lms, nodes, i32::MAX as u32, Spread::Undefined);
    }
    seen.sweep(Algorithm::Lms, 4, 1, Spread::Undefined);
    seen.reports((Algorithm::Lms, 2, 3), &[&[1, 2, 3], &[]], &[0, 4, 8]);
    seen.reports((Algorithm::Lms, 3, 3), &[&[1, 2, 3]], &[4, 8]);
    seen.assert_every_row_explains(Algorithm::Lms);
}

#[test]
fn every_difference_of_two_node_lms_has_a_row() {
    let mut seen = Seen::default();
    seen.sweep(Algorithm::TwoNodeLms, 2, 1, Spread::PerClient);
    seen.sweep(Algorithm::TwoNodeLms, 2, i32::MAX as u32, Spread::PerClient);
    seen.reports((Algorithm::TwoNodeLms, 2, 2), &[&[1, 2]], &[0, 4, 8]);
    seen.assert_every_row_explains(Algorithm::TwoNodeLms);
}

#[test]
fn every_row_that_is_reported_is_in_the_table() {
    let others = [
        Row::ReEvaluation,
        Row::OldData,
        Row::QuorumListDecidesNothing,
        Row::AskingDecidesNothing,
        Row::NoWithdrawal,
        Row::NewestConnection,
        Row::SecondInitRefused,
        Row::ClusterFixed,
        Row::SenderIsMember,
    ];
    let algorithms = [Algorithm::Ffsplit, Algorithm::Lms, Algorithm::TwoNodeLms];
    let rows = algorithms.iter().flat_map(|algorithm| Row::of(*algorithm)).chain(&others);
    for row in rows {
        let start = format!("| {} |", row.name());
        assert!(TABLE.lines().any(|line| line.starts_with(&start)), "no row {}", row.name());
    }
}
