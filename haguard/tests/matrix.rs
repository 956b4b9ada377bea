//! Both arbiters with every kind of node through the same faults. Every fault has to end with
//! exactly one quorate side, and there are never two. Where corosync-qnetd is the arbiter that is
//! reported and not required: some of it is why ours exists.
//!
//! Set HAGUARD_MATRIX to the first words of a row, such as "Ours Stock ffsplit", to go through it
//! alone and see all that its nodes said, and HAGUARD_MATRIX_TIMERS to "default" for the timers of a
//! configuration that names none: `cargo test -p haguard --test matrix`, about a quarter of an hour.

#![expect(clippy::unwrap_used, reason = "a test ends where it goes wrong")]

#[allow(dead_code, reason = "each test of the lab uses a part of it")]
mod lab;

use std::sync::Mutex;
use std::time::Duration;

use haguard::command::demo::samples::now;
use nix::sys::signal::Signal;
use protocol::vote::Algorithm;

use lab::conf::{Arbiter, Plan, Stack, Timers, word};
use lab::pki::Pki;
use lab::{At, Lab, Role, table};

/// How many clusters are up at a time. They wait most of the time.
const AT_ONCE: usize = 12;
/// Until a fault has had all its effects, with our arbiter: the longest lease of an own device,
/// what is added to it on corosync, a reconnection.
const PATIENCE: Duration = Duration::from_secs(25);
/// The same with corosync-qnetd, which gives no leases: what a stock client does takes 6 s.
const PATIENCE_STOCK: Duration = Duration::from_secs(12);
/// With the default timers everything takes about five times as long.
const SLOWER: u32 = 4;
/// A side that lasts so long is no passing one.
const STILL: Duration = Duration::from_millis(1500);

/// How often a second our nodes have to answer for the watch to see everything.
const RATE_MIN: u64 = 50;

const FIRST: At = At::Node(1);
const SECOND: At = At::Node(2);

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// The nodes do not hear each other; the arbiter hears both.
    Cut,
    /// Everything passes again.
    Heal,
    /// The node that the tie-breaker prefers loses its power.
    PowerOff,
    /// In a split: the arbiter is killed and started again.
    ArbiterKilled,
    /// In a split: the holder of the vote and the arbiter do not hear each other.
    HolderCutOff,
    /// In a split: the holder's device is killed.
    DeviceKilled,
    /// In a split: the holder's device stands still.
    DeviceStopped,
}

const FAULTS: [Fault; 7] = [
    Fault::Cut,
    Fault::Heal,
    Fault::PowerOff,
    Fault::ArbiterKilled,
    Fault::HolderCutOff,
    Fault::DeviceKilled,
    Fault::DeviceStopped,
];

/// How long it took until one side was quorate, or what was there instead.
type Cell = Result<Duration, String>;

fn patience(lab: &Lab) -> Duration {
    let quick = if lab.plan.arbiter == Arbiter::Stock { PATIENCE_STOCK } else { PATIENCE };
    scaled(lab, quick)
}

fn still(lab: &Lab) -> Duration {
    scaled(lab, STILL)
}

fn scaled(lab: &Lab, quick: Duration) -> Duration {
    match lab.plan.timers {
        Timers::Quick => quick,
        Timers::Default => quick * SLOWER,
    }
}

/// Both nodes are one; the first has the vote after a cut.
fn split(lab: &mut Lab) -> Cell {
    lab.cut(&[&[FIRST], &[SECOND]]);
    lab.settles(&[&[1]], still(lab), patience(lab))
}

fn strike(lab: &mut Lab, fault: Fault) -> Cell {
    match fault {
        Fault::Cut => split(lab),
        Fault::Heal => {
            split(lab)?;
            lab.heal();
            lab.settles(&[&[1, 2]], still(lab), patience(lab))
        }
        Fault::PowerOff => {
            lab.power_off(FIRST);
            lab.settles(&[&[2]], still(lab), patience(lab))
        }
        Fault::ArbiterKilled => {
            split(lab)?;
            lab.signal(At::Arbiter, Role::Arbiter, Signal::SIGKILL);
            lab.start_arbiter();
            // Both sides have to have come back to it.
            lab.settles(&[&[1], &[2]], still(lab) * 3, patience(lab))
        }
        Fault::HolderCutOff => {
            split(lab)?;
            lab.cut_also(FIRST, At::Arbiter);
            lab.settles(&[&[2]], still(lab), patience(lab))
        }
        Fault::DeviceKilled => {
            split(lab)?;
            lab.signal(FIRST, Role::Device, Signal::SIGKILL);
            lab.settles(&[&[2]], still(lab), patience(lab))
        }
        Fault::DeviceStopped => {
            split(lab)?;
            lab.signal(FIRST, Role::Device, Signal::SIGSTOP);
            lab.settles(&[&[2]], still(lab), patience(lab))
        }
    }
}

/// Undoes a fault.
fn recover(lab: &mut Lab, fault: Fault) -> Cell {
    lab.heal();
    match fault {
        Fault::PowerOff => lab.boot(1),
        Fault::DeviceKilled => lab.start_device(1),
        Fault::DeviceStopped => lab.signal(FIRST, Role::Device, Signal::SIGCONT),
        Fault::Cut | Fault::Heal | Fault::ArbiterKilled | Fault::HolderCutOff => {}
    }
    lab.whole()
}

/// A cluster through all faults.
fn go_through(plan: &Plan, pki: &Pki) -> Vec<Cell> {
    let only_one = std::env::var_os("HAGUARD_MATRIX").is_some();
    let mut cells = Vec::new();
    let mut left: Option<Lab> = None;
    for fault in FAULTS {
        // What a fault could not be undone in is no place for the next one.
        let mut lab = match left.take() {
            Some(lab) => lab,
            None => {
                let mut lab = Lab::new(plan.clone(), pki);
                if let Err(instead) = lab.up() {
                    let device = lab.log(FIRST, Role::Device);
                    let wrong = format!("does not come up: {instead}\n  device 1:\n{device}");
                    cells.resize(FAULTS.len(), Err(wrong));
                    break;
                }
                lab
            }
        };
        let start = now();
        let mut cell = strike(&mut lab, fault);
        if only_one {
            table::say(&format!("{fault:?}\n{}", lab.watch.story(start)));
        }
        let two = lab.watch.two_sides(start);
        if let Some(worst) = two.iter().max_by_key(|two| two.length) {
            let length = worst.length.as_secs_f64();
            let text = format!("two sides for {length:.2} s: {} and {}", worst.node, worst.other);
            let story = lab.watch.story(start);
            cell = Err(format!("{text}\n{story}"));
        }
        if let Err(wrong) = &mut cell {
            let (arbiter, device) =
                (lab.log(At::Arbiter, Role::Arbiter), lab.log(FIRST, Role::Device));
            wrong.push_str(&format!("\n  arbiter:\n{arbiter}  device 1:\n{device}"));
        }
        cells.push(cell);
        left = recover(&mut lab, fault).is_ok().then_some(lab);
    }
    let rate = left.and_then(|lab| lab.watch.rate()).unwrap_or(RATE_MIN);
    if rate < RATE_MIN {
        cells[0] = Err(format!("the nodes were only watched {rate} times a second"));
    }
    cells
}

#[test]
fn stock_and_our_arbiter_leave_one_side_after_every_fault() {
    if !lab::is_possible() {
        return;
    }
    let pki = Pki::stock();
    let only = std::env::var("HAGUARD_MATRIX").ok();
    let timers = match std::env::var("HAGUARD_MATRIX_TIMERS").as_deref() {
        Ok("default") => Timers::Default,
        Ok(other) => panic!("HAGUARD_MATRIX_TIMERS is {other:?}: only \"default\" is known"),
        Err(_) => Timers::Quick,
    };
    let mut plans = Vec::new();
    for arbiter in [Arbiter::Ours, Arbiter::Stock] {
        for stack in [Stack::Stock, Stack::Mixed, Stack::Ours] {
            for algorithm in [Algorithm::Ffsplit, Algorithm::Lms] {
                let name = format!("{arbiter:?} {stack:?} {}", word(algorithm));
                if only.as_ref().is_none_or(|only| *only == name) {
                    plans.push(Plan { timers, ..Plan::new(arbiter, stack, algorithm) });
                }
            }
        }
    }
    assert!(!plans.is_empty(), "no row begins with {only:?}");
    let queue = Mutex::new((0..plans.len()).rev().collect::<Vec<_>>());
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some(at) = queue.lock().unwrap().pop() else { break };
                    let cells = go_through(&plans[at], &pki);
                    results.lock().unwrap().push((at, cells));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap();
    results.sort_by_key(|(at, _)| *at);
    let mut wrong = Vec::new();
    let mut rows = Vec::new();
    for (at, cells) in &results {
        let plan = &plans[*at];
        let mut row = vec![
            format!("{:?}", plan.arbiter),
            format!("{:?}", plan.stack),
            word(plan.algorithm).to_owned(),
        ];
        for (fault, cell) in FAULTS.iter().zip(cells) {
            let (short, told) = match cell {
                Ok(time) => (format!("{:.1} s", time.as_secs_f64()), None),
                Err(text) => (text.lines().next().unwrap_or_default().to_owned(), Some(text)),
            };
            if let Some(text) = told {
                table::say(&format!("{} {fault:?}: {text}", row[..3].join(" ")));
                if plan.arbiter != Arbiter::Stock {
                    wrong.push(format!("{} {fault:?}", row[..3].join(" ")));
                }
            }
            row.push(short);
        }
        rows.push(row);
    }
    let faults = FAULTS.map(|fault| format!("{fault:?}"));
    let head: Vec<&str> = ["arbiter", "nodes", "algorithm"]
        .into_iter()
        .chain(faults.iter().map(String::as_str))
        .collect();
    table::print(&head, &rows);
    assert!(wrong.is_empty(), "{wrong:#?}");
}
