//! Scenarios by chance: a fixed set of seeds, so that what fails is the change's fault. And proofs
//! that the rules bite: what is broken on purpose is found.

use std::time::Duration;

use simulator::sabotage::Sabotage;
use simulator::{Report, Scenario, run, run_sabotaged, shrink};

/// Shows the first failure with everything that is needed to see it again, made small.
fn passes(report: &Report) {
    let Some((scenario, outcome)) = report.failures.first() else { return };
    let rule = outcome.violation.as_ref().map_or("", |violation| violation.rule);
    let small = shrink(scenario, rule, None);
    panic!("seed {}, made small:\n{}", scenario.seed, run(&small).report(&small));
}

/// What a seed is made into, and the seeds that are run at every change.
struct Kind {
    name: &'static str,
    random: fn(u64) -> Scenario,
    seeds: std::ops::Range<u64>,
}

/// All of them together.
const SCHEDULES: u64 = 5000;

/// Two nodes are what most clusters have, and what most has to be thought about.
const KINDS: [Kind; 7] = [
    Kind { name: "2 nodes", random: Scenario::random, seeds: 0..1250 },
    Kind { name: "2 nodes, other seeds", random: Scenario::random, seeds: 1250..2500 },
    Kind { name: "3 nodes", random: |seed| Scenario::random_of(seed, 3..=3), seeds: 0..600 },
    Kind { name: "4 nodes", random: |seed| Scenario::random_of(seed, 4..=4), seeds: 0..400 },
    Kind { name: "a gateway", random: Scenario::random_with_gateway, seeds: 0..400 },
    Kind { name: "2 that become 3", random: Scenario::random_with_generations, seeds: 0..300 },
    Kind { name: "corosync", random: Scenario::random_with_corosync, seeds: 0..800 },
];

fn breaks_no_rule(name: &str) -> Report {
    let Some(kind) = KINDS.iter().find(|kind| kind.name == name) else {
        panic!("there is no kind {name:?}");
    };
    let mut report = Report::default();
    for seed in kind.seeds.clone() {
        let scenario = (kind.random)(seed);
        let outcome = run(&scenario);
        report.add(scenario, outcome);
        passes(&report);
    }
    #[expect(clippy::print_stdout, reason = "how much was tried is the result")]
    {
        let hours = report.simulated.as_secs_f64() / 3600.0;
        let (runs, steps) = (report.runs, report.steps);
        println!(
            "{runs} schedules of {name}, seeds {:?}: {hours:.1} virtual hours, {steps} steps, {} \
             times quorate, {} takeovers: no rule is broken",
            kind.seeds, report.became_quorate, report.takeovers
        );
    }
    assert_eq!(report.runs, kind.seeds.end - kind.seeds.start);
    report
}

#[test]
fn the_fixed_schedules_are_so_many() {
    let each = KINDS.iter().map(|kind| kind.seeds.end - kind.seeds.start);
    assert_eq!(each.sum::<u64>(), SCHEDULES);
}

/// What is not exercised is not tested.
fn exercises(report: &Report, takeovers: u64, quorate: u64) {
    assert!(report.takeovers >= takeovers, "{} takeovers", report.takeovers);
    assert!(report.became_quorate >= quorate, "{} times quorate", report.became_quorate);
}

#[test]
fn two_nodes_break_no_rule() {
    let report = breaks_no_rule("2 nodes");
    exercises(&report, 125, 3750);
    assert!(report.simulated > Duration::from_secs(37_500), "{:?}", report.simulated);
}

#[test]
fn two_nodes_with_other_seeds_break_no_rule() {
    exercises(&breaks_no_rule("2 nodes, other seeds"), 125, 3750);
}

#[test]
fn three_nodes_break_no_rule() {
    exercises(&breaks_no_rule("3 nodes"), 20, 2000);
}

#[test]
fn four_nodes_break_no_rule() {
    exercises(&breaks_no_rule("4 nodes"), 10, 1500);
}

#[test]
fn two_nodes_with_a_gateway_break_no_rule() {
    let report = breaks_no_rule("a gateway");
    exercises(&report, 40, 1200);
    assert!(report.cuts >= 100, "power was cut {} times", report.cuts);
}

#[test]
fn two_nodes_that_become_three_break_no_rule() {
    exercises(&breaks_no_rule("2 that become 3"), 10, 900);
}

#[test]
fn corosync_clusters_with_one_fault_in_a_split_break_no_rule() {
    exercises(&breaks_no_rule("corosync"), 0, 2600);
}

const RANDOM: [fn(u64) -> Scenario; 2] = [Scenario::random, Scenario::random_with_gateway];

#[test]
fn the_same_scenario_is_the_same_run() {
    for (seed, random) in [(3, RANDOM[0]), (33, RANDOM[0]), (333, RANDOM[0]), (3, RANDOM[1])] {
        let scenario = random(seed);
        let (first, second) = (run(&scenario), run(&scenario));
        assert_eq!((first.hash, first.steps), (second.hash, second.steps), "seed {seed}");
    }
    assert_ne!(run(&Scenario::random(1)).hash, run(&Scenario::random(2)).hash);
}

#[test]
fn a_scenario_comes_back_from_its_text() {
    for seed in 0..500 {
        for scenario in [Scenario::random_of(seed, 2..=5), Scenario::random_with_gateway(seed)] {
            assert_eq!(Scenario::parse(&scenario.text()), Ok(scenario), "seed {seed}");
        }
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
fn l1_a_device_on_corosync_that_stays_away_is_found() {
    found_in(Scenario::random_with_corosync, Sabotage::ConnectsOnce, "L1");
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
