//! Every order of deliveries, deadlines, kills and cuts in small clusters, to a depth. Each test
//! prints how far it came; `HAGUARD_EXHAUSTIVE_STATES=1000000` takes it further.

use simulator::explore::{CASES, Case, Limits, Report, search};
use simulator::sabotage::Sabotage;

/// A search of so many states takes a few seconds: the same states in every run.
const STATES: usize = 20_000;
/// Nothing above this depth is worth being called a search.
const SHALLOW: u32 = 4;

fn named(name: &str) -> &'static Case {
    let case = CASES.iter().find(|case| case.name == name);
    case.unwrap_or_else(|| panic!("there is no case {name:?}"))
}

fn limits() -> Limits {
    let number = |text: String| text.parse().unwrap_or_else(|_| panic!("{text:?} is no number"));
    let states = std::env::var("HAGUARD_EXHAUSTIVE_STATES").map_or(STATES, number);
    Limits { states, depth: u32::MAX }
}

#[expect(clippy::print_stdout, reason = "how far a search came is its result")]
fn print(report: &Report) {
    println!("{report}");
}

fn breaks_no_rule(name: &str) {
    let report = search(named(name), &limits(), None);
    print(&report);
    assert!(report.found.is_none(), "{report}");
    assert!(report.states >= limits().states && report.depth >= SHALLOW, "{report}");
    // What is not exercised is not tested.
    assert!(report.grants > 0, "the vote never moved: {report}");
}

macro_rules! cases {
    ($($test:ident: $name:literal,)*) => {
        $(
            #[test]
            fn $test() {
                breaks_no_rule($name);
            }
        )*

        #[test]
        fn every_case_is_searched() {
            let searched = [$($name),*];
            let named: Vec<&str> = CASES.iter().map(|case| case.name).collect();
            assert_eq!(searched.to_vec(), named);
        }
    };
}

cases! {
    two_that_are_whole_break_no_rule: "2 nodes, whole, 2 faults",
    two_that_notice_a_cut_break_no_rule: "2 nodes, a cut is noticed",
    two_that_notice_a_cut_break_no_rule_by_late_beats: "2 nodes, a cut is noticed, routine",
    two_that_notice_a_cut_break_no_rule_by_late_words: "2 nodes, a cut is noticed, local",
    two_that_notice_a_cut_break_no_rule_by_a_kill: "2 nodes, a cut is noticed, local, 1 kill",
    two_that_notice_a_cut_break_no_rule_in_detail: "2 nodes, a cut is noticed, all",
    two_that_notice_a_cut_break_no_rule_at_a_fault: "2 nodes, a cut is noticed, 1 fault",
    two_that_notice_a_cut_break_no_rule_on_a_bad_network: "2 nodes, a cut is noticed, 2 faults",
    two_that_are_split_break_no_rule: "2 nodes, split, 2 faults",
    two_whose_holder_is_cut_off_break_no_rule: "2 nodes, the holder is cut off, 1 fault",
    two_whose_arbiter_is_killed_break_no_rule: "2 nodes, split, arbiter killed, 1 fault",
    two_whose_arbiter_loses_power_break_no_rule: "2 nodes, split, arbiter off, 1 fault",
    two_that_come_together_break_no_rule: "2 nodes, healed, 1 fault",
    three_that_notice_a_cut_break_no_rule: "3 nodes, a cut is noticed",
    three_that_notice_a_cut_break_no_rule_at_a_fault: "3 nodes, a cut is noticed, 1 fault",
    three_that_are_split_break_no_rule: "3 nodes, split, 2 faults",
    three_that_come_together_break_no_rule: "3 nodes, healed, 1 fault",
}

/// What is broken on purpose is found, in no more choices than that; its story is printed.
fn is_found(sabotage: Sabotage, name: &str, rule: &str, choices: usize) -> String {
    let report = search(named(name), &limits(), Some(sabotage));
    print(&report);
    let found = report.found.unwrap_or_else(|| panic!("{sabotage:?} is not found"));
    assert_eq!(found.violation.rule, rule, "{}", found.story);
    assert!(found.choices.len() <= choices, "{}", found.story);
    found.story
}

#[test]
fn a_grant_that_is_sent_before_it_is_stored_is_found() {
    let story = is_found(Sabotage::GrantBeforeDurable, "2 nodes, a cut is noticed", "S3", 3);
    assert!(story.contains("all goes its way"), "{story}");
}

#[test]
fn a_loss_that_is_confirmed_and_not_applied_is_found_as_two_sides() {
    let story = is_found(Sabotage::LossNotApplied, "2 nodes, a cut is noticed", "S1", 5);
    assert!(story.contains("arbiter tells device 2 NACK"), "{story}");
}

#[test]
fn a_grant_that_a_restart_forgets_is_found_as_two_leases() {
    let case = "2 nodes, split, arbiter killed, 1 fault";
    let story = is_found(Sabotage::GrantForgotten, case, "leases", 6);
    assert!(story.contains("FAULT"), "{story}");
}

#[test]
fn the_same_search_is_the_same_run() {
    let small = Limits { states: 500, depth: u32::MAX };
    let count = |report: Report| (report.states, report.transitions, report.steps, report.grants);
    for case in CASES {
        let (first, second) = (search(case, &small, None), search(case, &small, None));
        assert_eq!(count(first), count(second), "{}", case.name);
    }
}
