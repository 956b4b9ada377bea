//! `haguard simulate` as people and scripts see it: exit codes, one line where something is wrong,
//! a story where a rule is broken.

mod common;

use common::{Scratch, haguard, stderr, stdout};
use serde_json::Value;

/// Exit code 2 and exactly one line, which is returned.
fn refused(args: &[&str]) -> String {
    let output = haguard(args);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert_eq!(stdout(&output), "");
    text.trim_end().to_owned()
}

fn run_json(args: &[&str]) -> (Option<i32>, Value) {
    let output = haguard(args);
    assert_eq!(stderr(&output), "");
    let object = serde_json::from_str(&stdout(&output));
    (output.status.code(), object.unwrap_or_else(|error| panic!("{error}: {output:?}")))
}

/// Two nodes that are cut apart for two seconds, and somebody who expects the impossible.
fn scenario(expects: &str) -> String {
    format!(
        "seed = 7\nuntil_ms = 20000\n[[faults]]\nat_ms = 5000\nfor_ms = 2000\nfault = \"cut\"\n\
         from = \"node 1\"\nto = \"node 2\"\n[[expect]]\nwhat = \"{expects}\"\nhow = \"once\"\n\
         from_ms = 3000\nto_ms = 15000\n"
    )
}

#[test]
fn clean_seeds_exit_with_0_and_a_table() {
    let output = haguard(&["simulate", "--seeds", "0..6", "--jobs", "2"]);
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert_eq!(stderr(&output), "");
    for part in ["schedules", "core steps", "virtual hours", "times real time"] {
        assert!(text.contains(part), "{text}");
    }
    let last = text.lines().last().unwrap();
    assert!(last.starts_with("seeds 0..6, 2 nodes, "), "{text}");
    assert!(last.ends_with("with 2 at a time: no rule is broken"), "{text}");
}

#[test]
fn the_same_seeds_are_the_same_runs_whatever_the_jobs() {
    let all = |jobs: &str| {
        let args = ["simulate", "--seeds", "10..16", "--nodes", "3", "--jobs", jobs, "--json"];
        let (code, mut object) = run_json(&args);
        assert_eq!(code, Some(0));
        assert_eq!(object["seeds"], serde_json::json!([10, 16]));
        assert_eq!(object["what"], "3 nodes");
        assert_eq!(object["schedules"], 6);
        assert_eq!(object["violation"], Value::Null);
        assert!(object["core_steps"].as_u64() > Some(10_000), "{object}");
        for changes in ["jobs", "seconds", "processor_seconds"] {
            object.as_object_mut().unwrap().remove(changes);
        }
        object
    };
    assert_eq!(all("1"), all("3"));
}

#[test]
fn what_stands_beside_the_nodes_is_simulated_too() {
    for (with, what) in [
        ("gateway", "2 nodes and a gateway"),
        ("configuration", "become 3"),
        ("corosync", "on corosync"),
    ] {
        let output = haguard(&["simulate", "--with", with, "--seeds", "0..3"]);
        let text = stdout(&output);
        assert_eq!(output.status.code(), Some(0), "{text}");
        assert!(text.contains(what), "{text}");
    }
}

#[test]
fn one_seed_is_told() {
    let output = haguard(&["simulate", "--seeds", "3..4"]);
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.starts_with("seed 3\n"), "{text}");
    assert!(text.contains("QUORATE in {1,2}"), "{text}");
    assert!(text.contains("fault    begins: "), "{text}");
    assert!(text.contains("the end: every rule held"), "{text}");
    assert!(!text.contains('\x1b'), "{text}");
}

#[test]
fn a_scenario_file_is_told_and_exits_with_0_when_all_holds() {
    let scratch = Scratch::new("simulate-file");
    let file = scratch.path("cut.toml");
    std::fs::write(&file, scenario("inquorate 2")).unwrap();
    let output = haguard(&["simulate", "--scenario", &file]);
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.starts_with("cut\n"), "{text}");
    assert!(text.contains("node 2 INQUORATE"), "{text}");
}

#[test]
fn what_a_scenario_expects_and_is_not_seen_exits_with_1() {
    let scratch = Scratch::new("simulate-expects");
    let file = scratch.path("cut.toml");
    std::fs::write(&file, scenario("stopped")).unwrap();
    let output = haguard(&["simulate", "--scenario", &file]);
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let last = text.lines().last().unwrap();
    assert!(last.contains("expectation is broken"), "{text}");
    assert!(last.contains("not seen in time: stopped"), "{text}");

    let (code, object) = run_json(&["simulate", "--scenario", &file, "--json"]);
    assert_eq!(code, Some(1));
    assert_eq!(object["broken"]["rule"], "expectation");
    assert!(object["lines"].as_array().unwrap().len() > 5, "{object}");
}

#[test]
fn what_cannot_be_run_is_refused_in_one_line() {
    let scratch = Scratch::new("simulate-refused");
    let file = scratch.path("bad.toml");
    let text = refused(&["simulate", "--scenario", &file]);
    assert!(text.starts_with("haguard simulate: ") && text.contains("cannot be read"), "{text}");
    std::fs::write(&file, "seed = 7\n\n[[faults]]\nat_ms = 1\nfault = \"rain\"\n").unwrap();
    let text = refused(&["simulate", "--scenario", &file]);
    assert!(text.contains("bad.toml: line 3: ") && text.contains("rain"), "{text}");
    let text = refused(&["simulate", "--seeds", "5.."]);
    assert!(text.contains("--seeds A.. has no end: add one, or --minutes"), "{text}");
    for args in [
        &["simulate", "--seeds", "5..5"][..],
        &["simulate", "--seeds", "5"],
        &["simulate", "--nodes", "1"],
        &["simulate", "--jobs", "0"],
        &["simulate", "--scenario", "x", "--seeds", "1..2"],
        &["simulate", "--scenario", "x", "--save", "y"],
        &["simulate", "--with", "gateway", "--nodes", "3"],
        &["simulate", "--exhaustive", "--seeds", "1..2"],
        &["simulate", "--states", "1000"],
    ] {
        let output = haguard(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
    }
}

#[test]
fn every_way_through_short_stories_is_taken_and_said_how_far() {
    let output = haguard(&["simulate", "--exhaustive", "--states", "300", "--jobs", "2"]);
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert_eq!(stderr(&output), "");
    let first = text.lines().next().unwrap();
    for column in ["case", "depth", "states", "choices"] {
        assert!(first.contains(column), "{text}");
    }
    assert!(text.contains("2 nodes, the holder is cut off, 1 fault"), "{text}");
    let last = text.lines().last().unwrap();
    assert!(last.starts_with("17 cases of at most 300 states: "), "{text}");
    assert!(last.ends_with("with 2 at a time: no rule is broken"), "{text}");

    let all = |jobs: &str| {
        let args = ["simulate", "--exhaustive", "--states", "300", "--jobs", jobs, "--json"];
        let (code, object) = run_json(&args);
        assert_eq!(code, Some(0));
        object["cases"].clone()
    };
    let cases = all("1");
    assert_eq!(cases, all("3"));
    for case in cases.as_array().unwrap() {
        assert!(case["states"].as_u64() >= Some(300), "{case}");
        assert_eq!(case["violation"], Value::Null);
    }
}

#[test]
fn schedules_of_one_length_are_measured_by_processor_time() {
    let args = ["simulate", "--seeds", "0..5", "--seconds", "30", "--jobs", "1", "--json"];
    let (code, object) = run_json(&args);
    assert_eq!(code, Some(0));
    let virtual_seconds = object["virtual_seconds"].as_f64().unwrap();
    assert!((150.0..151.0).contains(&virtual_seconds), "{object}");
    assert!(object["processor_seconds"].as_f64() > Some(0.0), "{object}");
}

#[test]
fn its_help_says_the_exit_codes() {
    let help = stdout(&haguard(&["simulate", "--help"]));
    assert!(help.contains("Exit codes: 0 no rule was broken; 1 a rule was broken"), "{help}");
}
