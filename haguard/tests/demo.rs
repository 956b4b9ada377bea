//! The demo itself, as a person runs it, with its verdict as the assertion.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use haguard::command::demo::processes;
use haguard::command::demo::samples::now;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_haguard");

#[test]
fn demo_holds_every_claim() {
    let demo = Command::new(PROGRAM).args(["demo", "--json"]).output();
    let output = demo.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    let report: Value =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}{errors}"));
    let claims = report["claims"].as_array().unwrap();
    for claim in claims {
        assert_eq!(
            claim["held"], true,
            "{claim}; seed {}, {}",
            report["seed"], report["directory"]
        );
    }
    assert_eq!(output.status.code(), Some(0), "{errors}");
    assert_eq!(report["held"], true);
    assert_eq!(report["directory"], Value::Null, "the directory is removed after a success");
    assert_eq!(report["two_sides"], Value::Array(Vec::new()));
    // The service ran on node 2, then on 1 after the cut, then on 2 after the loss of power.
    let starts = report["service"].as_array().unwrap();
    let nodes: Vec<u64> = starts.iter().map(|start| start["node"].as_u64().unwrap()).collect();
    assert_eq!(nodes, [2, 1, 2], "{starts:?}");
    for name in [
        "longest time with two sides",
        "lines of the guarded command out of turn",
        "lines with an epoch that goes back",
        "cut: one side decided",
        "cut: service taken over",
        "heal: one view",
        "power loss: survivors quorate",
        "power loss: service taken over",
        "arbiter killed and back: winners stayed quorate",
        "every node asked often enough",
    ] {
        assert!(claims.iter().any(|claim| claim["claim"] == name), "{name} is not claimed");
    }
}

/// Polls until something is so, for at most 30 s.
async fn wait(what: &str, so: impl Fn() -> bool) {
    let limit = now() + Duration::from_secs(30);
    while !so() {
        assert!(now() < limit, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A demo whose nodes run, and its directory.
async fn running() -> (Child, PathBuf) {
    let mut command = Command::new(PROGRAM);
    let demo = command.args(["demo", "--json", "--seed", "77"]).stdout(Stdio::null());
    let demo = demo.stderr(Stdio::null()).spawn().unwrap();
    let directory = std::env::temp_dir().join(format!("haguard-demo-{}-4d", demo.id()));
    wait("the start", || directory.join("node2/run/node.sock").exists()).await;
    (demo, directory)
}

fn signal(demo: &Child, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(demo.id()).unwrap()), signal).unwrap();
}

fn none_left(directory: &Path) -> bool {
    processes::of(Path::new(PROGRAM), directory).is_empty()
}

#[tokio::test]
async fn a_demo_that_is_told_to_end_leaves_nothing_behind() {
    let (mut demo, directory) = running().await;
    assert!(!none_left(&directory));
    signal(&demo, Signal::SIGTERM);
    assert_eq!(demo.wait().unwrap().code(), Some(1));
    assert!(!directory.exists());
    wait("the end of all processes", || none_left(&directory)).await;
}

#[tokio::test]
async fn a_demo_that_is_killed_leaves_no_process_behind() {
    let (mut demo, directory) = running().await;
    signal(&demo, Signal::SIGKILL);
    demo.wait().unwrap();
    wait("the end of all processes", || none_left(&directory)).await;
    std::fs::remove_dir_all(&directory).unwrap();
}
