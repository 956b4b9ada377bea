//! Makes a failing scenario smaller while the same rule breaks.

use crate::run::run_sabotaged;
use crate::sabotage::Sabotage;
use crate::scenario::{Fault, Scenario, TimedFault};

/// No more runs than this are spent on one scenario.
const RUNS_LIMIT: u32 = 400;

/// The smallest scenario found that breaks `rule`: faults are left out in ever smaller groups
/// (delta debugging), then made shorter.
pub fn shrink(scenario: &Scenario, rule: &str, sabotage: Option<Sabotage>) -> Scenario {
    let mut runs = 0;
    let mut breaks = |candidate: &Scenario| {
        runs += 1;
        runs <= RUNS_LIMIT
            && run_sabotaged(candidate, sabotage).violation.is_some_and(|v| v.rule == rule)
    };
    let mut best = scenario.clone();
    let mut size = best.faults.len().div_ceil(2).max(1);
    loop {
        let mut smaller = false;
        let mut start = 0;
        while start < best.faults.len() {
            let mut candidate = best.clone();
            let end = (start + size).min(candidate.faults.len());
            // What the operator does is no fault: without it the cluster is not meant to be whole.
            let mut index = 0;
            candidate.faults.retain(|timed| {
                index += 1;
                let left_out = (start..end).contains(&(index - 1));
                !left_out || matches!(timed.fault, Fault::Configure { .. })
            });
            if candidate != best && breaks(&candidate) {
                best = candidate;
                smaller = true;
            } else {
                start += size;
            }
        }
        if size == 1 && !smaller {
            break;
        }
        size = size.div_ceil(2).max(1);
        if size == 1 && best.faults.is_empty() {
            break;
        }
    }
    for index in 0..best.faults.len() {
        for step in [halve_length, round_times] {
            let mut candidate = best.clone();
            step(&mut candidate.faults[index]);
            while candidate != best && breaks(&candidate) {
                best = candidate.clone();
                step(&mut candidate.faults[index]);
            }
        }
    }
    best
}

fn halve_length(timed: &mut TimedFault) {
    if timed.for_ms > 1 {
        timed.for_ms /= 2;
    }
}

fn round_times(timed: &mut TimedFault) {
    timed.at_ms = timed.at_ms / 100 * 100;
}
