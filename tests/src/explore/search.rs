//! Breadth first through everything that can happen.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::Case;
use super::cell::Cell;
use super::choice::Choice;
use crate::invariants::Violation;
use crate::sabotage::Sabotage;

/// So many states that are not gone on from yet are kept as they are; more are kept as the way to
/// them, which is gone again.
const KEPT: usize = 8_000;

/// How far a search goes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// It ends once so many different states were seen: the same states in every run.
    pub states: usize,
    /// It ends at this depth.
    pub depth: u32,
}

/// What a search has seen.
#[derive(Clone, Debug)]
pub struct Report {
    /// Of what.
    pub case: Case,
    /// Every way of so many choices was taken.
    pub depth: u32,
    /// Of the states with one choice more, so many in a hundred were gone on from.
    pub percent_of_next: usize,
    /// Different states.
    pub states: usize,
    /// Choices made.
    pub transitions: u64,
    /// Choices that led to a state that had been seen.
    pub duplicates: u64,
    /// Steps of single machines.
    pub steps: u64,
    /// Choices after which the arbiter had given the vote once more.
    pub grants: u64,
    /// What was broken.
    pub found: Option<Found>,
}

/// A broken rule, and the shortest way to it.
#[derive(Clone, Debug)]
pub struct Found {
    /// The rule.
    pub violation: Violation,
    /// The way.
    pub choices: Vec<Choice>,
    /// All that happened on it, for people.
    pub story: String,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: depth {} complete, {} % of the next; {} states, {} transitions, {} duplicates, \
             {} steps, {} grants",
            self.case.name,
            self.depth,
            self.percent_of_next,
            self.states,
            self.transitions,
            self.duplicates,
            self.steps,
            self.grants,
        )?;
        match &self.found {
            None => Ok(()),
            Some(found) => write!(f, "\n{}\n{}", found.violation, found.story),
        }
    }
}

/// How a state was reached first.
#[derive(Clone, Copy, Debug)]
struct Step {
    from: usize,
    choice: Choice,
}

/// A state that is to be gone on from: its number among [`Search::ways`], and itself if kept.
type Open = (usize, Option<Cell>);

struct Search<'a> {
    case: &'a Case,
    sabotage: Option<Sabotage>,
    start: Cell,
    /// For each state but the first.
    ways: Vec<Step>,
    seen: BTreeSet<u64>,
    next: VecDeque<Open>,
    kept: usize,
    report: Report,
}

/// Searches a case; with something broken on purpose, to see that it is found.
pub fn search(case: &Case, limits: &Limits, sabotage: Option<Sabotage>) -> Report {
    search_while(case, limits, sabotage, &|| true)
}

/// The same, for who may want to end it before that: it asks before it goes on from a state.
pub fn search_while(
    case: &Case,
    limits: &Limits,
    sabotage: Option<Sabotage>,
    goes_on: &dyn Fn() -> bool,
) -> Report {
    let report = Report {
        case: *case,
        depth: 0,
        percent_of_next: 0,
        states: 1,
        transitions: 0,
        duplicates: 0,
        steps: 0,
        grants: 0,
        found: None,
    };
    let (start, result) = case.begin(sabotage, false);
    if let Err(violation) = result {
        let story = tell(case, sabotage, &[]);
        let found = Found { violation, choices: Vec::new(), story };
        return Report { found: Some(found), ..report };
    }
    let mut search = Search {
        case,
        sabotage,
        seen: BTreeSet::from([start.number()]),
        next: VecDeque::new(),
        ways: Vec::new(),
        kept: 0,
        start,
        report,
    };
    search.levels(limits, goes_on);
    search.report
}

impl Search<'_> {
    fn levels(&mut self, limits: &Limits, goes_on: &dyn Fn() -> bool) {
        let mut level: VecDeque<Open> = VecDeque::from([(0, Some(self.start.clone()))]);
        while self.report.depth < limits.depth && !level.is_empty() {
            let all = level.len();
            while let Some((way, cell)) = level.pop_front() {
                self.kept = self.kept.saturating_sub(usize::from(cell.is_some()));
                let Some(cell) = cell.or_else(|| self.go_again(way)) else { continue };
                self.go_on(way, &cell, limits);
                let ends = self.report.found.is_some() || self.seen.len() >= limits.states;
                if ends || !goes_on() {
                    let done = all - level.len();
                    self.report.percent_of_next = done.saturating_sub(1) * 100 / all.max(1);
                    return;
                }
            }
            self.report.depth += 1;
            level = std::mem::take(&mut self.next);
        }
    }

    /// Makes every choice in a state.
    fn go_on(&mut self, way: usize, cell: &Cell, limits: &Limits) {
        for choice in cell.choices() {
            let mut after = cell.clone();
            let result = attempt(&mut after, choice);
            let grants = |cell: &Cell| cell.server.journal.get().len();
            self.report.transitions += 1;
            self.report.steps += after.steps - cell.steps;
            self.report.grants += u64::from(grants(&after) > grants(cell));
            if let Err(violation) = result {
                let mut choices = self.way_to(way);
                choices.push(choice);
                let story = tell(self.case, self.sabotage, &choices);
                self.report.found = Some(Found { violation, choices, story });
                return;
            }
            if !self.seen.insert(after.number()) {
                self.report.duplicates += 1;
                continue;
            }
            self.report.states += 1;
            self.ways.push(Step { from: way, choice });
            let keeps = self.kept < KEPT && self.report.depth + 1 < limits.depth;
            self.kept += usize::from(keeps);
            self.next.push_back((self.ways.len(), keeps.then_some(after)));
        }
    }

    /// The choices that lead to a state.
    fn way_to(&self, mut way: usize) -> Vec<Choice> {
        let mut choices = Vec::new();
        while let Some(step) = way.checked_sub(1).and_then(|index| self.ways.get(index)) {
            choices.push(step.choice);
            way = step.from;
        }
        choices.reverse();
        choices
    }

    /// A state that was not kept.
    fn go_again(&self, way: usize) -> Option<Cell> {
        let mut cell = self.start.clone();
        for choice in self.way_to(way) {
            attempt(&mut cell, choice).ok()?;
        }
        Some(cell)
    }
}

/// Makes a choice; a panic of a machine breaks S10.
fn attempt(cell: &mut Cell, choice: Choice) -> Result<(), Violation> {
    let at = cell.now;
    let result = catch_unwind(AssertUnwindSafe(|| cell.choose(choice)));
    result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        Err(Violation { rule: "S10", at, text: text.unwrap_or_else(|| "a panic".to_owned()) })
    })
}

/// Takes the way once more and writes down what happens; of how the first state was reached only
/// what the machines say that they decided.
fn tell(case: &Case, sabotage: Option<Sabotage>, choices: &[Choice]) -> String {
    let (mut cell, _) = case.begin(sabotage, true);
    if let Some(story) = &mut cell.story
        && !choices.is_empty()
    {
        story.retain(|line| line.contains("     ") || line.contains(" > ") || line.contains("---"));
    }
    for choice in choices {
        if attempt(&mut cell, *choice).is_err() {
            break;
        }
    }
    let lines = cell.story.unwrap_or_default();
    lines.iter().map(|line| format!("{line}\n")).collect()
}
