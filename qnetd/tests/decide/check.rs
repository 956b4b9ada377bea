//! Compares a decision with the stock daemon's answers and names the difference; asserts what must
//! hold of every decision.

use std::collections::{BTreeMap, BTreeSet};

use protocol::ids::{NodeId, ViewId};
use protocol::vote::Algorithm;
use qnetd::core::decide::{Decision, decide};
use qnetd::shadow::core::row::Row;

use crate::stock::{Answer, answers, rows_of};
use crate::worlds::World;

/// How many worlds were seen, and how often a row was what made the difference.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) worlds: u64,
    pub(crate) rows: BTreeMap<&'static str, u64>,
    /// Do not count rows.
    quick: bool,
}

impl Tally {
    /// A tally for large sweeps.
    pub(crate) fn quick() -> Self {
        Self { quick: true, ..Self::default() }
    }

    /// Decides a world, asserts the invariants, and asserts that the answer is the stock one or
    /// differs by named rows only.
    pub(crate) fn check(&mut self, world: &World) {
        let decision = decide(&world.view);
        assert_invariants(world, &decision);
        let ours = told(world, &decision);
        self.worlds += 1;
        let rows = rows_of(world.view.algorithm);
        let corrected = answers(world, rows, None);
        assert!(agree(&ours, &corrected), "{decision:?}\n{corrected:?}\n{world:#?}");
        if !agree(&ours, &answers(world, &[], None)) {
            let name = expected_difference(world, &ours);
            assert!(name.is_some(), "not explained: {decision:?}\n{world:#?}");
            if !self.quick {
                for name in needed_rows(world, &ours) {
                    *self.rows.entry(name).or_default() += 1;
                }
            }
        }
    }

    /// Every row of the algorithm has made a difference somewhere.
    pub(crate) fn assert_every_row_occurred(&self, algorithm: Algorithm) {
        let expected: BTreeSet<_> = rows_of(algorithm).iter().map(|row| row.name()).collect();
        let seen: BTreeSet<_> = self.rows.keys().copied().collect();
        assert_eq!(seen, expected, "{algorithm:?} in {} worlds", self.worlds);
    }
}

/// The row that explains the difference: one that is needed, or where several do the same service,
/// one that is enough.
fn expected_difference(world: &World, ours: &[Answer]) -> Option<&'static str> {
    let rows = rows_of(world.view.algorithm);
    let is_enough = |row: &&Row| agree(ours, &answers(world, &[**row], None));
    let enough = || rows.iter().find(is_enough).map(|row| row.name());
    needed_rows(world, ours).next().or_else(enough)
}

/// The rows without which the corrected rule would not say what we say.
fn needed_rows(world: &World, ours: &[Answer]) -> impl Iterator<Item = &'static str> {
    let rows = rows_of(world.view.algorithm);
    let needed = |row: &&Row| !agree(ours, &answers(world, rows, Some(**row)));
    rows.iter().filter(needed).map(|row| row.name())
}

fn agree(ours: &[Answer], stock: &[Option<Answer>]) -> bool {
    ours.len() == stock.len()
        && ours.iter().zip(stock).all(|(our, their)| their.is_none_or(|t| t == *our))
}

/// What each client is told in the end, in the order of ids.
fn told(world: &World, decision: &Decision) -> Vec<Answer> {
    let clients = world.view.clients.iter();
    let told = clients.map(|(node, client)| match decision {
        Decision::All => Answer::Ack,
        Decision::Wait(_) => Answer::Wait,
        Decision::Nobody(_) => Answer::Nack,
        Decision::Give { view, members, .. } => {
            if members.contains(node) && client.view == *view {
                Answer::Ack
            } else {
                Answer::Nack
            }
        }
    });
    told.collect()
}

/// What must hold of a decision whatever the rule is.
fn assert_invariants(world: &World, decision: &Decision) {
    let view = &world.view;
    let everyone = *decision == Decision::All;
    assert_eq!(everyone, view.algorithm == Algorithm::Test, "only the test algorithm acks all");
    let Decision::Give { view: ring, members, .. } = decision else { return };
    let reporters = reporters(world, *ring, members);
    assert!(!reporters.is_empty(), "{members:?} is no client's partition\n{world:#?}");
    assert!(reporters.is_subset(members), "a reporter is outside of {members:?}\n{world:#?}");
    if view.algorithm == Algorithm::Ffsplit {
        for node in &reporters {
            let Some(client) = view.clients.get(node) else { continue };
            let present = members.intersection(&client.config).count();
            assert!(present * 2 >= client.config.len(), "{members:?} is no half\n{world:#?}");
        }
    }
}

/// The clients that reported exactly this partition.
fn reporters(world: &World, ring: ViewId, members: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
    let clients = world.view.clients.iter();
    let same = clients.filter(|(_, client)| client.view == ring && client.members == *members);
    same.map(|(node, _)| *node).collect()
}
