//! The cases that are searched, and how each begins.

use protocol::ids::NodeId;
use protocol::status::QuorumState;

use super::cell::{Cell, Setup};
use super::choice::{Choice, link};
use super::{Case, Grain, Kind, Start};
use crate::invariants::Violation;
use crate::sabotage::Sabotage;
use crate::scenario::{End, Process};

/// Clocks differ by 8 % at most, which is what the times are made for (safety E).
const SKEW_PPM: i64 = 40_000;
/// A state that a case begins in is reached in fewer steps than that.
const STEPS_LIMIT: u32 = 100_000;

const NETWORK: &[Kind] = &[Kind::Cut, Kind::Reset];
const PROCESSES: &[Kind] = &[Kind::Kill, Kind::Freeze];
const MOST: &[Kind] = &[Kind::Cut, Kind::Kill, Kind::PowerOff, Kind::Reset, Kind::Freeze];

const fn two(name: &'static str, start: Start, faults: u32, kinds: &'static [Kind]) -> Case {
    let grain = Grain::Coarse;
    Case { name, nodes: 2, start, faults, kinds, grain, skew_ppm: SKEW_PPM }
}

const fn fine(grain: Grain, name: &'static str, faults: u32, kinds: &'static [Kind]) -> Case {
    Case { grain, ..two(name, Start::Noticed, faults, kinds) }
}

const fn three(name: &'static str, start: Start, faults: u32, kinds: &'static [Kind]) -> Case {
    Case { nodes: 3, ..two(name, start, faults, kinds) }
}

/// What the tests search.
pub const CASES: &[Case] = &[
    two("2 nodes, whole, 2 faults", Start::Whole, 2, &[Kind::Cut, Kind::Kill]),
    two("2 nodes, a cut is noticed", Start::Noticed, 0, &[]),
    fine(Grain::Routine, "2 nodes, a cut is noticed, routine", 0, &[]),
    fine(Grain::Local, "2 nodes, a cut is noticed, local", 0, &[]),
    fine(Grain::Local, "2 nodes, a cut is noticed, local, 1 kill", 1, &[Kind::Kill]),
    fine(Grain::All, "2 nodes, a cut is noticed, all", 0, &[]),
    two("2 nodes, a cut is noticed, 1 fault", Start::Noticed, 1, MOST),
    two("2 nodes, a cut is noticed, 2 faults", Start::Noticed, 2, NETWORK),
    two("2 nodes, split, 2 faults", Start::Split, 2, PROCESSES),
    two("2 nodes, the holder is cut off, 1 fault", Start::HolderCut, 1, MOST),
    two("2 nodes, split, arbiter killed, 1 fault", Start::ArbiterDead, 1, MOST),
    two("2 nodes, split, arbiter off, 1 fault", Start::ArbiterOff, 1, MOST),
    two("2 nodes, healed, 1 fault", Start::Healed, 1, MOST),
    three("3 nodes, a cut is noticed", Start::Noticed, 0, &[]),
    three("3 nodes, a cut is noticed, 1 fault", Start::Noticed, 1, &[Kind::Reset, Kind::PowerOff]),
    three("3 nodes, split, 2 faults", Start::Split, 2, &[Kind::PowerOff]),
    three("3 nodes, healed, 1 fault", Start::Healed, 1, NETWORK),
];

impl Case {
    fn setup(&self) -> Setup {
        let ppm = self.skew_ppm;
        Setup {
            nodes: (1..=self.nodes).map(NodeId).collect(),
            skew_ppm: ppm,
            grain: self.grain,
            kinds: self.kinds,
            sabotage: None,
        }
    }

    /// The state that the search begins in, with its story if that is asked for; or the rule that
    /// is broken on the way there.
    pub(super) fn begin(
        &self,
        sabotage: Option<Sabotage>,
        with_story: bool,
    ) -> (Cell, Result<(), Violation>) {
        let mut cell = Cell::new(self.setup());
        cell.story = with_story.then(Vec::new);
        let result = self.lead(&mut cell);
        cell.faults = self.faults;
        cell.break_on_purpose(sabotage);
        cell.tell(|| format!("--- {}: the search begins", self.name));
        (cell, result)
    }

    fn lead(&self, cell: &mut Cell) -> Result<(), Violation> {
        let nodes = usize::try_from(self.nodes).unwrap_or(0);
        let states = |cell: &Cell, state| cell.milestone().count(state);
        let first = End::Node(NodeId(1));
        cell.faults = u32::MAX;
        until(cell, |cell| cell.milestone().is_whole())?;
        if self.start == Start::Whole {
            return Ok(());
        }
        for node in 2..=self.nodes {
            let (a, b) = link(first, End::Node(NodeId(node)));
            cell.choose(Choice::Cut(a, b))?;
        }
        until(cell, |cell| states(cell, QuorumState::Quorate) < nodes)?;
        if self.start == Start::Noticed {
            return Ok(());
        }
        until(cell, |cell| {
            let settled = states(cell, QuorumState::Frozen) == 0;
            settled && states(cell, QuorumState::Quorate) > 0
        })?;
        match self.start {
            Start::Whole | Start::Noticed | Start::Split => {}
            Start::HolderCut => {
                cell.choose(Choice::Cut(first, End::Arbiter))?;
                until(cell, |cell| cell.milestone().joined() < nodes)?;
            }
            Start::ArbiterDead => {
                let process = Process::Arbiter;
                cell.choose(Choice::Kill { process, written: true })?;
            }
            Start::ArbiterOff => {
                cell.choose(Choice::PowerOff { host: End::Arbiter, written: true })?;
            }
            Start::Healed => {
                for node in 2..=self.nodes {
                    let (a, b) = link(first, End::Node(NodeId(node)));
                    cell.choose(Choice::Heal(a, b))?;
                }
                // A node that was removed waits before it comes back; then it gets interesting.
                let view = cell.milestone();
                until(cell, |cell| cell.milestone() != view)?;
            }
        }
        Ok(())
    }
}

fn until(cell: &mut Cell, is_there: impl Fn(&Cell) -> bool) -> Result<(), Violation> {
    for _ in 0..STEPS_LIMIT {
        if is_there(cell) {
            return Ok(());
        }
        cell.step()?;
    }
    let text = "the state that the search begins in is not reached".to_owned();
    Err(Violation { rule: "L1", at: cell.now, text })
}
