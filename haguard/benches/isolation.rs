//! The isolation cases on real processes, again and again: does a second quorate side ever exist,
//! and how long does it take until the right one does.
//!
//! `cargo bench -p haguard --bench isolation -- [--runs N] [--at-once N] [--nodes ours|mixed|stock]
//! [--timers default|quick]`, as root; 50 runs of each case are about half an hour. Exit code 1 if
//! there were two sides once, or a case that did not end in one.

#![expect(clippy::unwrap_used, reason = "a measurement ends where it goes wrong")]

#[path = "../tests/lab/mod.rs"]
#[allow(dead_code, reason = "the lab is that of the tests")]
mod lab;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use haguard::command::demo::samples::now;
use nix::sys::signal::Signal;
use protocol::vote::Algorithm;

use lab::conf::{Arbiter, Plan, Stack, Timers};
use lab::pki::Pki;
use lab::{At, Lab, Role, several, table};

const FIRST: At = At::Node(1);
const SECOND: At = At::Node(2);
/// All effects of a fault are there by then, with the default timers and with the quick ones.
const PATIENCE: [Duration; 2] = [Duration::from_secs(100), Duration::from_secs(25)];
/// A side that lasts so long is no passing one.
const STILL: [Duration; 2] = [Duration::from_secs(6), Duration::from_millis(1500)];
/// How often a second our nodes have to answer for the watch to see everything.
const RATE_MIN: u64 = 50;

#[derive(Debug, Parser)]
struct Options {
    /// How often each case is gone through.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// How many clusters are up at a time.
    #[arg(long, default_value_t = 6)]
    at_once: usize,
    /// What the nodes are: all haguard, our device on corosync, or the stock pair.
    #[arg(long, default_value = "ours", value_parser = ["ours", "mixed", "stock"])]
    nodes: String,
    /// Those of a configuration that names none, or a fifth of them.
    #[arg(long, default_value = "default", value_parser = ["default", "quick"])]
    timers: String,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug)]
enum Case {
    /// The node that has to win a tie is cut off from the other and from the arbiter.
    FromEverything,
    /// In a split, the holder is cut off from the arbiter.
    FromTheArbiter,
    /// In a split whose holder is the other node, the arbiter loses power and comes back.
    ArbiterPower,
    /// A node that has long been without the arbiter is cut off from the other, too.
    LongWithoutArbiter,
    /// In a split, the holder's device is killed.
    DeviceKilled,
    /// In a split, the holder's device stands still.
    DeviceStopped,
}

const CASES: [(Case, &str); 6] = [
    (Case::FromEverything, "cut off from everything"),
    (Case::FromTheArbiter, "split, holder loses the arbiter"),
    (Case::ArbiterPower, "split, arbiter power-cycled"),
    (Case::LongWithoutArbiter, "long without arbiter, then cut off"),
    (Case::DeviceKilled, "split, holder's device killed"),
    (Case::DeviceStopped, "split, holder's device stopped"),
];

/// What one run showed.
struct Outcome {
    /// From the fault until the right side was quorate, alone and for good; or what was instead.
    settled: Result<Duration, String>,
    /// The longest time with two sides.
    two_sides: Duration,
}

/// The patience, and how long a side has to last.
fn times(lab: &Lab) -> (Duration, Duration) {
    let quick = usize::from(lab.plan.timers == Timers::Quick);
    (PATIENCE[quick], STILL[quick])
}

fn settles(lab: &Lab, node: u32) -> Result<Duration, String> {
    let (patience, still) = times(lab);
    lab.settles(&[&[node]], still, patience)
}

/// Does it, and returns how long it took from the fault to the one side.
fn strike(lab: &mut Lab, case: Case) -> Result<Duration, String> {
    let split = |lab: &mut Lab| {
        lab.cut(&[&[FIRST], &[SECOND]]);
        settles(lab, 1)
    };
    let (start, survivor);
    match case {
        Case::FromEverything => {
            (start, survivor) = (now(), 2);
            lab.cut(&[&[FIRST], &[SECOND, At::Arbiter]]);
        }
        Case::FromTheArbiter => {
            split(lab)?;
            (start, survivor) = (now(), 2);
            lab.cut_also(FIRST, At::Arbiter);
        }
        Case::ArbiterPower => {
            lab.cut(&[&[FIRST], &[SECOND, At::Arbiter]]);
            settles(lab, 2)?;
            // The node that the tie-breaker prefers is back at the arbiter before it goes.
            lab.cut(&[&[FIRST], &[SECOND]]);
            settles(lab, 2)?;
            (start, survivor) = (now(), 2);
            lab.power_off(At::Arbiter);
            lab.power_on(At::Arbiter);
            lab.start_arbiter();
        }
        Case::LongWithoutArbiter => {
            lab.cut_also(FIRST, At::Arbiter);
            // Whatever was held for it is over; by its own votes it is quorate all the time.
            let (patience, still) = times(lab);
            lab.settles(&[&[1, 2]], still * 5, patience)?;
            (start, survivor) = (now(), 2);
            lab.cut(&[&[FIRST], &[SECOND, At::Arbiter]]);
        }
        Case::DeviceKilled | Case::DeviceStopped => {
            split(lab)?;
            let killed = matches!(case, Case::DeviceKilled);
            (start, survivor) = (now(), 2);
            let signal = if killed { Signal::SIGKILL } else { Signal::SIGSTOP };
            lab.signal(FIRST, Role::Device, signal);
        }
    }
    let struck = now().since(start);
    settles(lab, survivor).map(|settled| struck + settled)
}

/// Undoes it.
fn recover(lab: &mut Lab, case: Case) -> Result<Duration, String> {
    lab.heal();
    match case {
        Case::DeviceKilled => lab.start_device(1),
        Case::DeviceStopped => lab.signal(FIRST, Role::Device, Signal::SIGCONT),
        Case::FromEverything
        | Case::FromTheArbiter
        | Case::ArbiterPower
        | Case::LongWithoutArbiter => {}
    }
    lab.whole()
}

/// One cluster through a case, `runs` times; and how often a second its nodes have answered.
fn go_through(plan: &Plan, pki: &Pki, case: Case, runs: usize) -> (Vec<Outcome>, Option<u64>) {
    let mut lab = Lab::new(plan.clone(), pki);
    lab.up().unwrap();
    let mut outcomes = Vec::new();
    for run in 1..=runs {
        let start = now();
        let mut settled = strike(&mut lab, case);
        let two_sides = lab.watch.two_sides(start).iter().map(|two| two.length).max();
        if let Err(instead) = &mut settled {
            instead.push_str(&format!("\n{}", lab.watch.story(start)));
        } else if two_sides.is_some() {
            table::say(&format!("{case:?} {run}: two sides\n{}", lab.watch.story(start)));
        }
        outcomes.push(Outcome { settled, two_sides: two_sides.unwrap_or_default() });
        table::say(&format!("{case:?}: {run} of {runs}"));
        if let Err(instead) = recover(&mut lab, case) {
            table::say(&format!("{case:?} {run}: does not recover: {instead}"));
            lab = Lab::new(plan.clone(), pki);
            lab.up().unwrap();
        }
    }
    let rate = lab.watch.rate();
    (outcomes, rate)
}

fn seconds(time: Option<&Duration>) -> String {
    time.map_or("-".to_owned(), |time| format!("{:.2} s", time.as_secs_f64()))
}

/// The row of a case, and whether every claim held.
fn row(name: &str, outcomes: &[Outcome], rate: Option<u64>) -> (Vec<String>, bool) {
    let mut times: Vec<_> = outcomes.iter().filter_map(|run| run.settled.clone().ok()).collect();
    times.sort();
    let none = outcomes.len() - times.len();
    let two = outcomes.iter().filter(|run| !run.two_sides.is_zero()).count();
    let longest = outcomes.iter().map(|run| run.two_sides).max().unwrap_or_default();
    for outcome in outcomes {
        if let Err(instead) = &outcome.settled {
            table::say(&format!("{name}: {instead}"));
        }
    }
    let row = vec![
        name.to_owned(),
        outcomes.len().to_string(),
        format!("{two} ({} ms)", longest.as_millis()),
        none.to_string(),
        seconds(times.get(times.len() / 2)),
        seconds(times.last()),
        rate.map_or("notified".to_owned(), |rate| format!("{rate} Hz")),
    ];
    (row, two == 0 && none == 0 && rate.is_none_or(|rate| rate >= RATE_MIN))
}

fn main() -> ExitCode {
    let options = Options::parse();
    if !options.bench {
        // `cargo test --all-targets` comes by; this is half an hour of its own.
        table::say("isolation: run with cargo bench -p haguard --bench isolation");
        return ExitCode::SUCCESS;
    }
    if !lab::is_possible() {
        return ExitCode::FAILURE;
    }
    let pki = Pki::stock();
    let stack = match options.nodes.as_str() {
        "ours" => Stack::Ours,
        "mixed" => Stack::Mixed,
        _ => Stack::Stock,
    };
    let timers = if options.timers == "quick" { Timers::Quick } else { Timers::Default };
    let plan = Plan { timers, ..Plan::new(Arbiter::Ours, stack, Algorithm::Ffsplit) };
    // Every cluster stays with its case; the runs of a case are shared by several clusters.
    let share = (options.at_once / CASES.len()).max(1);
    let results = several(CASES.len() * share, options.at_once, |at| {
        let runs = options.runs / share + usize::from(at / CASES.len() < options.runs % share);
        go_through(&plan, &pki, CASES[at % CASES.len()].0, runs)
    });
    let mut rows = Vec::new();
    let mut all = true;
    let mut gathered: Vec<(Vec<Outcome>, Option<u64>)> =
        CASES.iter().map(|_| (Vec::new(), None)).collect();
    for (at, (outcomes, rate)) in results.into_iter().enumerate() {
        let (sum, slowest) = &mut gathered[at % CASES.len()];
        sum.extend(outcomes);
        *slowest = match (*slowest, rate) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
    }
    for ((_, name), (outcomes, rate)) in CASES.iter().zip(&gathered) {
        let (row, held) = row(name, outcomes, *rate);
        rows.push(row);
        all &= held;
    }
    let head = ["fault", "runs", "two sides", "no side", "median", "worst", "watched"];
    table::print(&head, &rows);
    if all { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
