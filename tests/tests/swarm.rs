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

/// No sabotage may stay hidden for longer.
const SEEDS: u64 = 10_000;

/// The first scenario that breaks the rule with this sabotage; breaking another one first is a
/// find too, but not the one that is asked for.
fn found_in(random: fn(u64) -> Scenario, sabotage: Sabotage, rule: &str) -> Scenario {
    for seed in 0..SEEDS {
        let scenario = random(seed);
        let outcome = run_sabotaged(&scenario, Some(sabotage));
        if let Some(violation) = outcome.violation.filter(|violation| violation.rule == rule) {
            #[expect(clippy::print_stdout, reason = "how early it is found is worth knowing")]
            {
                println!("{sabotage:?} is found with seed {seed}: {violation}");
            }
            return scenario;
        }
    }
    panic!("{sabotage:?} never broke {rule}");
}

fn found(sabotage: Sabotage, rule: &str) -> Scenario {
    found_in(Scenario::random, sabotage, rule)
}

#[test]
fn s1_a_loss_that_is_confirmed_and_not_applied_is_found() {
    found(Sabotage::LossNotApplied, "S1");
}

#[test]
fn s1_a_grant_that_a_restart_forgets_is_found() {
    found(Sabotage::GrantForgotten, "S1");
}

#[test]
fn s1_an_empty_state_that_is_taken_for_a_proof_is_found() {
    found(Sabotage::NoQuarantine, "S1");
}

#[test]
fn s1_clocks_that_stand_still_in_a_pause_are_found() {
    found(Sabotage::ClockStandsStill, "S1");
}

#[test]
fn s2_a_lease_that_is_counted_from_its_receipt_is_found() {
    found(Sabotage::LeaseFromReceipt, "S2");
}

#[test]
fn s2_a_mirrored_request_that_is_taken_for_a_grant_is_found() {
    found(Sabotage::MirrorIsGrant, "S2");
}

#[test]
fn s3_a_grant_that_is_sent_before_it_is_durable_is_found() {
    found(Sabotage::GrantBeforeDurable, "S3");
}

#[test]
fn s4_an_epoch_that_is_not_raised_is_found() {
    found(Sabotage::EpochNotRaised, "S4");
}

#[test]
fn s5_a_watchdog_that_is_petted_without_entitlement_is_found() {
    found(Sabotage::KeeperIgnoresDeadline, "S5");
}

#[test]
fn s6_a_recovery_before_the_bound_is_found() {
    found(Sabotage::NoRecoveryWait, "S6");
}

#[test]
fn s7_a_fence_for_somebody_who_is_not_entitled_any_more_is_found() {
    found_in(Scenario::random_with_gateway, Sabotage::EntitledOnce, "S7");
}

#[test]
fn s7_a_proof_that_is_taken_for_another_boot_is_found() {
    found_in(Scenario::random_with_gateway, Sabotage::ProofWithoutBoot, "S7");
}

#[test]
fn s7_a_confirmation_that_nobody_checks_is_found() {
    found_in(Scenario::random_with_gateway, Sabotage::ConfirmUnchecked, "S7");
}

#[test]
fn s8_a_vote_for_a_configuration_that_is_over_is_found() {
    found_in(Scenario::random_with_generations, Sabotage::LineageForgotten, "S8");
}

#[test]
fn s10_bytes_that_the_other_side_cannot_read_are_found() {
    found(Sabotage::BeatsGarbled, "S10");
}

#[test]
fn l1_a_start_that_is_never_ordered_again_is_found() {
    found(Sabotage::StartForgotten, "L1");
}

#[test]
fn two_hundred_scenarios_with_a_gateway_break_no_rule() {
    for seed in 0..200 {
        let scenario = Scenario::random_with_gateway(seed);
        let outcome = run(&scenario);
        assert!(outcome.violation.is_none(), "{}", outcome.report(&scenario));
    }
}

#[test]
fn three_hundred_corosync_clusters_with_one_fault_in_a_split_have_one_side() {
    let mut quorate = 0;
    for seed in 0..300 {
        let scenario = Scenario::random_with_corosync(seed);
        let outcome = run(&scenario);
        assert!(outcome.violation.is_none(), "{}", outcome.report(&scenario));
        quorate += outcome.became_quorate;
    }
    assert!(quorate > 1000, "{quorate} times quorate");
}

#[test]
fn a_vote_that_moves_without_waiting_for_a_stock_client_is_found() {
    let two_sides = (0..SEEDS).find(|seed| {
        let mut scenario = Scenario::random_with_corosync(*seed);
        if let Some(corosync) = &mut scenario.topology.corosync {
            corosync.vote_hold = Some("off".to_owned());
        }
        run(&scenario).violation.is_some_and(|violation| violation.rule == "S1")
    });
    assert!(two_sides.is_some());
}

#[test]
fn a_hundred_changes_of_the_configuration_break_no_rule() {
    for seed in 0..100 {
        let scenario = Scenario::random_with_generations(seed);
        let outcome = run(&scenario);
        assert!(outcome.violation.is_none(), "{}", outcome.report(&scenario));
    }
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
