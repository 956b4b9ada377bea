//! The guard, its keeper and a watchdog, beside the real corosync.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use node::guard::options::GuardOptions;
use node::options::{Engine, KeeperProgram, Options};
use serde_json::Value;

use super::device::Device;
use super::lab::{FOLDER, Machine, PATIENCE, corosync_is_here, now, poll};

/// Token and consensus of the lab: shorter than half of the watchdog's timeout.
const BELIEF: u64 = 2200;
/// What a busy machine may add.
const SLACK: u64 = 1000;
/// The keeper acts before the watchdog: 5 s - 1 s.
const STOP_BOUND: u64 = 4000;

/// A device that a membership change may wait for longer than the watchdog counts.
const DEVICE: &str = "  device {\n    model: net\n    votes: 1\n    sync_timeout: 8000\n    net {\n      \
                      host: 10.77.0.3\n      algorithm: ffsplit\n    }\n  }\n";

/// Without its folder there is nothing to be.
#[test]
fn a_child_of_the_tests_is_the_guard() -> ExitCode {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else {
        return ExitCode::SUCCESS;
    };
    let guard = GuardOptions {
        watchdog: Some(folder.join("watchdog")),
        watchdog_timeout: Duration::from_secs(5),
        peers_wait: None,
        qdevice_socket: None,
    };
    let options = Options {
        engine: Engine::Corosync(guard),
        state_dir: folder.join("state"),
        run_dir: folder.join("run"),
        keeper: KeeperProgram {
            program: env!("CARGO_BIN_EXE_haguard-keeper").into(),
            prefix: Vec::new(),
        },
        realtime: false,
        ..Options::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ended = runtime.block_on(node::daemon::run(options));
    if let Err(error) = &ended {
        writeln!(std::io::stdout(), "guard: {error:#}").unwrap();
    }
    // Its thread that watches corosync may wait for it for ever.
    std::process::exit(i32::from(ended.is_err()));
}

fn armed(status: &Value) -> bool {
    status["state"] == "quorate" && status["watchdog"]["armed"] == true
}

/// A machine whose guard pets.
fn petted() -> Machine {
    let mut machine = Machine::new("");
    machine.start_corosync();
    machine.start_guard();
    machine.wait("armed", armed);
    poll(PATIENCE, "three pets", || (machine.count("pet") >= 3).then_some(()));
    machine
}

/// Nothing disarms, and no pet comes after the bound; then the keeper resets the machine.
fn ends_within_the_bound(machine: &Machine, from: u64) {
    poll(PATIENCE, "a reset", || (machine.count("reboot") == 1).then_some(()));
    let deeds = machine.deeds();
    let last = deeds.iter().filter(|(_, what)| what == "pet").map(|(at, _)| *at).max().unwrap();
    let reset = deeds.iter().find(|(_, what)| what == "reboot").unwrap().0;
    assert!(last < from + BELIEF + SLACK, "petted {} ms after", last - from);
    assert!(reset < from + BELIEF + STOP_BOUND + SLACK, "reset {} ms after", reset - from);
    assert!(reset < last + 5000, "before the watchdog would");
    assert_eq!((machine.count("magic"), machine.count("disable")), (0, 0), "{deeds:?}");
    assert_eq!(machine.count("open"), 1);
}

#[test]
fn a_quorate_corosync_is_petted_for_and_a_killed_one_is_not() {
    if !corosync_is_here() {
        return;
    }
    let mut machine = petted();
    let status = machine.status().unwrap();
    assert_eq!(status["engine"], "corosync");
    assert_eq!((&status["cluster"], &status["node"]), (&"lab".into(), &1.into()));
    assert_eq!(status["members"], serde_json::json!([1]));
    assert_eq!(status["votes"], serde_json::json!({"expected": 1, "total": 1, "quorum": 1}));
    let killed = now();
    machine.signal_corosync("KILL");
    ends_within_the_bound(&machine, killed);
}

#[test]
fn a_corosync_that_does_not_answer_is_petted_for_no_longer_than_the_bound() {
    if !corosync_is_here() {
        return;
    }
    let mut machine = petted();
    let stopped = now();
    machine.signal_corosync("STOP");
    ends_within_the_bound(&machine, stopped);
}

#[test]
fn a_lost_quorum_ends_the_petting_at_once_and_for_good() {
    if !corosync_is_here() {
        return;
    }
    let machine = petted();
    let lost = now();
    // Three expected votes, and one is there.
    machine.configure(1000, "  expected_votes: 3\n");
    machine.run(&["corosync-cfgtool", "-R"]);
    machine.wait("inquorate", |status| status["state"] == "inquorate");
    machine.configure(1000, "  expected_votes: 1\n");
    machine.run(&["corosync-cfgtool", "-R"]);
    poll(PATIENCE, "a reset", || (machine.count("reboot") == 1).then_some(()));
    let deeds = machine.deeds();
    let last = deeds.iter().filter(|(_, what)| what == "pet").map(|(at, _)| *at).max().unwrap();
    assert!(last < lost + SLACK, "petted {} ms after", last - lost);
    assert_eq!((machine.count("magic"), machine.count("disable")), (0, 0), "{deeds:?}");
}

/// F13, F17.
#[test]
fn a_quorum_that_needs_the_device_is_petted_for_until_its_lease_ends_whatever_corosync_counts() {
    if !corosync_is_here() {
        return;
    }
    // One node of two, and the device: its sync timeout is longer than the watchdog's.
    let mut machine = Machine::new(DEVICE);
    let device = Device::start(&machine);
    device.lease(now() + 60_000);
    machine.start_corosync();
    machine.start_guard();
    let status = machine.wait("armed", armed);
    // votequorum expects the most votes that it has seen: of two nodes, or of one and the device.
    assert_eq!(status["votes"], serde_json::json!({"expected": 2, "total": 2, "quorum": 2}));
    assert_eq!(status["qdevice"]["vote"], "ack");
    poll(PATIENCE, "three pets", || (machine.count("pet") >= 3).then_some(()));
    let end = now() + 1500;
    device.lease(end);
    let status = machine.wait("inquorate", |status| status["state"] == "inquorate");
    assert!(now() < end + SLACK);
    assert_eq!(status["votes"]["total"], 2, "corosync counts on");
    poll(PATIENCE, "a reset", || (machine.count("reboot") == 1).then_some(()));
    let deeds = machine.deeds();
    let last = deeds.iter().filter(|(_, what)| what == "pet").map(|(at, _)| *at).max().unwrap();
    assert!(last <= end, "petted {} ms after the lease", last - end);
    assert_eq!(machine.count("magic"), 0);
}

#[test]
fn a_reload_with_times_that_are_refused_is_told_and_what_is_armed_goes_on() {
    if !corosync_is_here() {
        return;
    }
    let machine = petted();
    machine.configure(200, "");
    machine.run(&["corosync-cfgtool", "-R"]);
    let refused =
        |status: &Value| status["warnings"].to_string().contains("1 s <= token + consensus");
    let status = machine.wait("refused", refused);
    assert!(armed(&status), "{status}");
    machine.configure(1000, "");
    machine.run(&["corosync-cfgtool", "-R"]);
    machine
        .wait("right again", |status| armed(status) && status["warnings"] == serde_json::json!([]));
    assert_eq!((machine.count("open"), machine.count("reboot")), (1, 0));
}

#[test]
fn no_keeper_takes_the_place_of_one_that_was_killed_while_armed() {
    if !corosync_is_here() {
        return;
    }
    let machine = petted();
    machine.kill_keeper();
    let told =
        |status: &Value| status["warnings"].to_string().contains("an earlier keeper of this boot");
    let status = machine.wait("told", told);
    assert_eq!(
        (&status["state"], &status["watchdog"]["armed"]),
        (&"inquorate".into(), &false.into())
    );
    assert_eq!((machine.count("open"), machine.count("magic")), (1, 0));
}

#[test]
fn a_corosync_that_is_stopped_in_order_disarms_until_the_next_one() {
    if !corosync_is_here() {
        return;
    }
    let mut machine = petted();
    machine.signal_corosync("TERM");
    poll(PATIENCE, "disarmed", || (machine.count("close") == 1).then_some(()));
    assert_eq!(machine.count("magic"), 1);
    let mark = machine.folder().join("state/may-run");
    poll(PATIENCE, "no mark", || (!mark.exists()).then_some(()));
    let status = machine.wait("not armed", |status| status["watchdog"]["armed"] == false);
    assert_eq!(
        (&status["state"], &status["reason"]),
        (&"inquorate".into(), &"corosync was stopped".into())
    );
    machine.start_corosync();
    machine.wait("armed again", armed);
    assert_eq!((machine.count("open"), machine.count("reboot")), (2, 0));
}

#[test]
fn a_guard_that_ends_leaves_the_watchdog_armed_and_the_next_one_goes_on() {
    if !corosync_is_here() {
        return;
    }
    let mut machine = petted();
    machine.end_guard();
    machine.start_guard();
    machine.wait("armed", armed);
    let pets = machine.count("pet");
    // Longer than what the first one had been entitled to.
    poll(PATIENCE, "eight more pets", || (machine.count("pet") >= pets + 8).then_some(()));
    assert_eq!((machine.count("open"), machine.count("magic")), (1, 0));
    let ended = now();
    machine.end_guard();
    ends_within_the_bound(&machine, ended);
}

#[test]
fn a_watchdog_that_somebody_else_has_guards_nothing_until_it_is_free() {
    if !corosync_is_here() {
        return;
    }
    let mut machine = Machine::new("");
    machine.occupy(true);
    machine.start_corosync();
    machine.start_guard();
    let told = |status: &Value| status["warnings"].to_string().contains("watchdog-mux, sbd");
    let status = machine.wait("told", |status| status["state"] == "quorate" && told(status));
    assert_eq!(
        (&status["watchdog"]["class"], &status["watchdog"]["armed"]),
        (&"D".into(), &false.into())
    );
    machine.occupy(false);
    machine.wait("armed", armed);
}

#[test]
fn a_stock_device_that_corosync_waits_for_longer_than_the_watchdog_is_refused_at_start() {
    if !corosync_is_here() {
        return;
    }
    let mut machine = Machine::new(DEVICE);
    machine.start_corosync();
    let output = machine.run_guard();
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find(|line| line.starts_with("guard: ")).unwrap_or_default();
    assert!(!output.status.success());
    let inequality = "quorum.device.sync_timeout <= watchdog timeout does not hold: 8 s > 5 s;";
    assert!(line.contains(inequality), "{text}");
    assert_eq!(machine.count("open"), 0);
}
