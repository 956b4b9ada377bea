//! Scenarios by chance: a fixed set of seeds, so that what fails is the change's fault. And proofs
//! that the rules bite: what is broken on purpose is found.

use std::time::Duration;

use simulator::sabotage::Sabotage;
use simulator::{Options, Report, Scenario, explore, run, run_sabotaged, shrink};

/// Shows the first failure with everything that is needed to see it again, made small.
fn passes(report: &Report) {
    let Some((scenario, outcome)) = report.failures.first() else { return };
    let rule = outcome.violation.as_ref().map_or("", |violation| violation.rule);
    let small = shrink(scenario, rule, None);
    panic!("seed {}, made small:\n{}", scenario.seed, run(&small).report(&small));
}

fn swarm(seeds: std::ops::Range<u64>, nodes: std::ops::RangeInclusive<u32>) -> Report {
    let report = explore(seeds, &Options { nodes, ..Options::default() });
    passes(&report);
    report
}

#[test]
fn a_thousand_scenarios_of_two_nodes_break_no_rule() {
    let report = swarm(0..1000, 2..=2);
    assert_eq!(report.runs, 1000);
    // What is not exercised is not tested.
    assert!(report.takeovers > 100, "{} takeovers", report.takeovers);
    assert!(report.became_quorate > 3000, "{} times quorate", report.became_quorate);
    assert!(report.simulated > Duration::from_secs(30_000), "{:?}", report.simulated);
}

#[test]
fn three_hundred_scenarios_of_three_or_four_nodes_break_no_rule() {
    let report = swarm(0..300, 3..=4);
    assert_eq!(report.runs, 300);
    assert!(report.takeovers > 10, "{} takeovers", report.takeovers);
}

#[test]
fn the_same_scenario_is_the_same_run() {
    for seed in [3, 33, 333] {
        let scenario = Scenario::random(seed);
        let (first, second) = (run(&scenario), run(&scenario));
        assert_eq!((first.hash, first.steps), (second.hash, second.steps), "seed {seed}");
    }
    assert_ne!(run(&Scenario::random(1)).hash, run(&Scenario::random(2)).hash);
}

#[test]
fn a_scenario_comes_back_from_its_text() {
    for seed in 0..500 {
        let scenario = Scenario::random_of(seed, 2..=5);
        assert_eq!(Scenario::parse(&scenario.text()), Ok(scenario), "seed {seed}");
    }
}

/// The first scenario that breaks the rule with this sabotage; breaking another one first is a
/// find too, but not the one that is asked for.
fn found(sabotage: Sabotage, rule: &str) -> Scenario {
    for seed in 0..2000 {
        let scenario = Scenario::random(seed);
        let outcome = run_sabotaged(&scenario, Some(sabotage));
        if outcome.violation.is_some_and(|violation| violation.rule == rule) {
            return scenario;
        }
    }
    panic!("{sabotage:?} never broke {rule}");
}

#[test]
fn a_loss_that_is_confirmed_and_not_applied_is_found_as_two_sides() {
    found(Sabotage::LossNotApplied, "S1");
}

#[test]
fn a_grant_that_is_sent_before_it_is_durable_is_found() {
    found(Sabotage::GrantBeforeDurable, "S3");
}

#[test]
fn a_grant_that_a_restart_forgets_is_found_as_two_sides() {
    found(Sabotage::GrantForgotten, "S1");
}

#[test]
fn a_keeper_that_ignores_its_deadline_is_found() {
    found(Sabotage::KeeperIgnoresDeadline, "S5");
}

#[test]
fn a_failing_scenario_is_made_smaller_and_still_fails() {
    let scenario = found(Sabotage::KeeperIgnoresDeadline, "S5");
    let small = shrink(&scenario, "S5", Some(Sabotage::KeeperIgnoresDeadline));
    assert!(small.faults.len() <= scenario.faults.len());
    assert!(small.faults.len() <= 2, "{}", small.text());
    let outcome = run_sabotaged(&small, Some(Sabotage::KeeperIgnoresDeadline));
    assert_eq!(outcome.violation.map(|violation| violation.rule), Some("S5"));
}

#[test]
fn the_simulator_has_the_products_times_and_none_of_its_own() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let times = std::fs::read_to_string(root.join("../protocol/src/times.rs")).unwrap();
    let names = times.lines().filter_map(|line| line.strip_prefix("pub const ")?.split(':').next());
    let names: Vec<&str> = names.collect();
    assert!(names.len() > 20, "{names:?}");
    let mut folders = vec![root.join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            for name in &names {
                let own = text.contains(&format!("const {name}:"));
                assert!(!own, "{} has its own {name}", path.display());
            }
        }
    }
}
