//! What happens to machine 1 while it serves, and what has to be seen then. Everything is judged
//! by the emulator's events and the service's lines, never by what a node says of itself.

use std::sync::Arc;
use std::time::Duration;

use protocol::times;
use serde_json::Value;

use super::lab::{Base, Lab, Plan, Resets};
use super::story::{Stretch, wall};

/// A takeover, a reboot and a return are over by then, on a busy host too.
const LIMIT: Duration = Duration::from_secs(150);
/// A machine that must do nothing is watched for so long.
const STILL: Duration = Duration::from_secs(20);
/// How long the paused machine sleeps.
const PAUSE: Duration = Duration::from_secs(60);
/// A line may get its time this much after it was written: a machine that is reset is not up again
/// for seconds.
const ARRIVAL: Duration = Duration::from_millis(500);
/// Both cables of a machine.
const LINKS: [&str; 2] = ["wire", "arbiter"];

const TRUSTED: Plan = Plan { resets: Resets::Card, trusted: true, gateway: false };
const PAUSABLE: Plan = Plan { resets: Resets::Card, trusted: false, gateway: false };

/// The watchdog is no proof here, only what the gateway reads back.
const FENCED: Plan = Plan { resets: Resets::Bmc, trusted: false, gateway: true };

/// A fault, and the claim that is checked.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    plan: Plan,
    strike: fn(&mut Lab) -> String,
}

/// All of them.
pub(crate) const CASES: [Case; 15] = [
    Case { name: "panic", about: "the kernel of machine 1 panics", plan: TRUSTED, strike: panic },
    Case {
        name: "hang",
        about: "node daemon and keeper of machine 1 are stopped, its service runs on",
        plan: TRUSTED,
        strike: hang,
    },
    Case {
        name: "killed",
        about: "node daemon and keeper of machine 1 are killed",
        plan: TRUSTED,
        strike: killed,
    },
    Case {
        name: "storage",
        about: "the disk of machine 1 hangs, so its service cannot be ended, then its networks",
        plan: TRUSTED,
        strike: storage,
    },
    Case {
        name: "daemon-stopped",
        about: "the node daemon of machine 1 is stopped, its keeper is not",
        plan: TRUSTED,
        strike: daemon_stopped,
    },
    Case {
        name: "keeper-killed",
        about: "the keeper of machine 1 is killed, its node daemon is not",
        plan: TRUSTED,
        strike: keeper_killed,
    },
    Case { name: "cut", about: "both networks of machine 1 are cut", plan: TRUSTED, strike: cut },
    Case {
        name: "power-off",
        about: "chassis power off of machine 1 at its management controller",
        plan: Plan { resets: Resets::Bmc, trusted: true, gateway: false },
        strike: power_off,
    },
    Case {
        name: "fenced-hang",
        about: "as hang; machine 2 asks the gateway, which switches machine 1 off",
        plan: FENCED,
        strike: fenced_hang,
    },
    Case {
        name: "fenced-cut",
        about: "as cut; machine 2 asks the gateway, which switches machine 1 off",
        plan: FENCED,
        strike: fenced_cut,
    },
    Case {
        name: "fenced-paused",
        about: "machine 1 is paused; machine 2 asks the gateway, which switches machine 1 off",
        plan: FENCED,
        strike: fenced_paused,
    },
    Case {
        name: "ipmi-hang",
        about: "as hang; the watchdog is that of the emulator's management controller",
        plan: Plan { resets: Resets::Controller, trusted: true, gateway: false },
        strike: hang,
    },
    Case {
        name: "ipmi-panic",
        about: "as panic; the watchdog is that of the emulator's management controller",
        plan: Plan { resets: Resets::Controller, trusted: true, gateway: false },
        strike: panic_alone,
    },
    Case {
        name: "paused",
        about: "machine 1 is paused for 60 s; its watchdog, which stands still too, is not trusted",
        plan: PAUSABLE,
        strike: paused,
    },
    Case {
        name: "fast-reboot",
        about: "machine 1 is reset and back before anybody takes over; first without its networks",
        plan: PAUSABLE,
        strike: fast_reboot,
    },
];

/// The first of them without the return of the machine: for every run of the tests.
pub(crate) const SHORT: Case = Case { strike: panic_alone, ..CASES[0] };

/// What a case has shown.
pub(crate) struct Shown {
    /// The host's time of the fault.
    pub(crate) fault: Duration,
    /// Events and stretches, seconds from the fault on.
    pub(crate) story: String,
    /// What was claimed and how it came out, with its times.
    pub(crate) result: String,
}

impl Case {
    /// Runs it on a cluster of its own. Panics where the claim does not hold.
    pub(crate) fn run(&self, base: &Arc<Base>) -> Shown {
        let mut lab = Lab::start(base, self.name, self.plan);
        let result = (self.strike)(&mut lab);
        check_one_runner(&lab);
        check_clocks(&lab);
        Shown { fault: lab.fault, story: lab.story.text(lab.fault), result }
    }
}

/// There was never a moment with two runners, and no epoch came back.
fn check_one_runner(lab: &Lab) {
    let stretches = lab.story.stretches();
    for pair in stretches.windows(2) {
        let [before, after] = pair else { continue };
        assert!(before.last < after.first, "two runners: {pair:#?}\n{}", lab.picture());
        assert!(before.epoch <= after.epoch, "an old epoch: {pair:#?}\n{}", lab.picture());
    }
}

/// The machines' clocks ran as the rules of time presume; otherwise the case has shown nothing.
fn check_clocks(lab: &Lab) {
    let long = Duration::from_secs(5);
    for stretch in lab.story.stretches().iter().filter(|s| s.last - s.first >= long) {
        let speed = stretch.own.as_secs_f64() / (stretch.last - stretch.first).as_secs_f64();
        let right = (speed - 1.0).abs() * 100.0 < f64::from(times::DRIFT_PERCENT);
        assert!(right, "a clock at {speed:.2} of its speed: {stretch:?}");
    }
}

fn after(from: Duration, to: Duration) -> f64 {
    to.as_secs_f64() - from.as_secs_f64()
}

/// Waits for machine 2 to serve; returns the end of machine 1's last line before, and the start.
fn takeover(lab: &Lab) -> (Duration, Duration) {
    let other = lab.story.wait("node 2 serves", LIMIT, |story| story.serves(lab.fault, 2));
    let last = lab.story.last_line(1).unwrap();
    assert!(last < other, "machine 1 still serves\n{}", lab.picture());
    (last, other)
}

/// The lost machine was really reset before the other one took over, and its service had ended.
fn reset_came_first(lab: &mut Lab, event: &str) -> String {
    let (last, other) = takeover(lab);
    let reset = lab.story.event(lab.fault, 1, event);
    let reset = reset.unwrap_or_else(|| panic!("no {event}\n{}", lab.picture())).at;
    let ended = last < reset + ARRIVAL;
    assert!(ended && reset < other, "{event} came too late\n{}", lab.picture());
    format!(
        "{event} {:.3} s after the fault, machine 2 serves {:.3} s after the {event}",
        after(lab.fault, reset),
        after(reset, other)
    )
}

/// It comes back, joins, and leaves the service where it is.
fn comes_back(lab: &mut Lab) -> String {
    lab.wait_for_both(LIMIT);
    let since = wall();
    lab.story.wait("node 2 goes on", LIMIT, |story| story.serves(since, 2));
    let first = lab.story.serves(lab.fault + Duration::from_millis(1), 1);
    let own = lab.story.stretches().iter().filter(|stretch| stretch.machine == 1).count();
    assert!(own == 1, "machine 1 serves again at {first:?}\n{}", lab.picture());
    format!("{:.1} s after the fault both are one, machine 2 still serves", after(lab.fault, since))
}

/// In the machine: a signal for the keeper, and for the node daemon where it is asked for.
fn signal(name: &str, node: bool) -> String {
    let keeper = "for p in $(pidof haguard); do \
                  tr '\\0' ' ' </proc/$p/cmdline | grep -q '^[^ ]* keeper ' && k=$p; done";
    let node = if node { "$(cat /run/node.pid)" } else { "" };
    format!("{keeper}; kill -{name} {node} $k")
}

fn panic_alone(lab: &mut Lab) -> String {
    lab.fault = wall();
    lab.first.order("echo c >/proc/sysrq-trigger");
    reset_came_first(lab, "RESET")
}

fn panic(lab: &mut Lab) -> String {
    format!("{}; {}", panic_alone(lab), comes_back(lab))
}

fn hang(lab: &mut Lab) -> String {
    lab.fault = wall();
    lab.first.run(&signal("STOP", true));
    reset_came_first(lab, "RESET")
}

fn killed(lab: &mut Lab) -> String {
    lab.fault = wall();
    lab.first.run(&signal("KILL", true));
    reset_came_first(lab, "RESET")
}

fn storage(lab: &mut Lab) -> String {
    lab.first.run("fsfreeze --freeze /disk");
    lab.fault = lab.first.link(false, &LINKS);
    reset_came_first(lab, "RESET")
}

/// Nothing was reset, and the service had ended before the other machine took over.
fn stopped_first(lab: &mut Lab) -> String {
    let (last, other) = takeover(lab);
    assert!(lab.story.event(lab.fault, 1, "RESET").is_none(), "a reset\n{}", lab.picture());
    format!(
        "the last line of machine 1 {:.3} s after the fault, machine 2 serves {:.3} s after that; \
         no reset",
        after(lab.fault, last),
        after(last, other)
    )
}

fn daemon_stopped(lab: &mut Lab) -> String {
    lab.fault = wall();
    lab.first.run("kill -STOP $(cat /run/node.pid)");
    let stopped = stopped_first(lab);
    lab.first.run("kill -CONT $(cat /run/node.pid)");
    format!("{stopped}; {}", comes_back(lab))
}

fn keeper_killed(lab: &mut Lab) -> String {
    let epoch = lab.story.stretches().last().unwrap().epoch;
    lab.fault = wall();
    lab.first.run(&signal("KILL", false));
    lab.story.watch(STILL);
    let again: Vec<Stretch> =
        lab.story.stretches().into_iter().filter(|stretch| stretch.first > lab.fault).collect();
    let [only] = &again[..] else { panic!("{again:#?}\n{}", lab.picture()) };
    assert!(lab.story.event(lab.fault, 1, "RESET").is_none(), "a reset\n{}", lab.picture());
    assert!(only.epoch >= epoch, "an old epoch\n{}", lab.picture());
    format!(
        "machine {} serves again {:.3} s after the fault, under a new keeper; no reset",
        only.machine,
        after(lab.fault, only.first)
    )
}

fn cut(lab: &mut Lab) -> String {
    lab.fault = lab.first.link(false, &LINKS);
    let stopped = stopped_first(lab);
    lab.first.link(true, &LINKS);
    format!("{stopped}; {}", comes_back(lab))
}

fn power_off(lab: &mut Lab) -> String {
    lab.fault = wall();
    let bmc = lab.bmc.as_ref().unwrap();
    bmc.power("off");
    lab.story.wait("chassis power is off", LIMIT, |_| bmc.status().filter(|on| !on));
    let read = wall();
    let off = reset_came_first(lab, "SHUTDOWN");
    format!("chassis status off {:.3} s after the fault; {off}", after(lab.fault, read))
}

/// The gateway has read machine 1 off before machine 2 served.
fn fenced_first(lab: &mut Lab) -> String {
    let off = reset_came_first(lab, "SHUTDOWN");
    let history = lab.gateway.as_ref().unwrap().history();
    assert!(history.contains("read-off"), "no proof in the journal: {history}");
    off
}

fn fenced_hang(lab: &mut Lab) -> String {
    lab.fault = wall();
    lab.first.run(&signal("STOP", true));
    fenced_first(lab)
}

fn fenced_cut(lab: &mut Lab) -> String {
    lab.fault = lab.first.link(false, &LINKS);
    fenced_first(lab)
}

fn fenced_paused(lab: &mut Lab) -> String {
    lab.fault = lab.first.pause(true);
    fenced_first(lab)
}

/// A status as the transcript has it.
fn waits(status: &Value) -> String {
    format!("{}, fencing {}", status["state"], status["fencing"]["1"])
}

fn paused(lab: &mut Lab) -> String {
    let epoch = lab.story.stretches().last().unwrap().epoch;
    lab.fault = lab.first.pause(true);
    lab.story.watch(PAUSE);
    let beside = lab.second.status().expect("machine 2 says nothing");
    let woken = lab.first.pause(false);
    lab.wait_for_both(LIMIT);
    let newer = lab.story.wait("one serves in a newer epoch", LIMIT, |story| {
        story.stretches().into_iter().find(|stretch| stretch.epoch > epoch)
    });
    lab.story.watch(STILL);
    assert!(newer.first > woken, "started while the other could wake up\n{}", lab.picture());
    let old = lab.story.stretches().into_iter().filter(|stretch| stretch.epoch == epoch);
    let last = old.map(|stretch| stretch.last).max().unwrap();
    assert!(beside["quorate"] == true && beside["epoch"].as_u64() > Some(epoch), "{beside}");
    format!(
        "meanwhile machine 2 is {}, epoch {}; machine 1 wakes up and ends its service {:.3} s \
         later; machine {} serves in epoch {} {:.3} s after that",
        waits(&beside),
        beside["epoch"],
        after(woken, last).max(0.0),
        newer.machine,
        newer.epoch,
        after(last.max(woken), newer.first)
    )
}

fn fast_reboot(lab: &mut Lab) -> String {
    let epoch = lab.story.stretches().last().unwrap().epoch;
    let boots = lab.first.boots();
    lab.fault = lab.first.reset();
    lab.first.link(false, &LINKS);
    lab.first.wait_for_boot(boots + 1, LIMIT);
    let up = wall();
    lab.story.watch(STILL);
    let alone = lab.story.stretches().into_iter().find(|stretch| stretch.first > lab.fault);
    assert!(alone.is_none(), "it resumes on its own: {alone:?}\n{}", lab.picture());
    let beside = lab.second.status().expect("machine 2 says nothing");
    lab.first.link(true, &LINKS);
    lab.wait_for_both(LIMIT);
    let both = wall();
    let newer = lab.story.wait("one serves", LIMIT, |story| {
        story.stretches().into_iter().find(|stretch| stretch.first > lab.fault)
    });
    assert!(newer.epoch > epoch, "started in an old epoch\n{}", lab.picture());
    format!(
        "up again after {:.1} s, alone for {} s: nothing is started on either side (machine 2 is \
         {}); both are one {:.1} s after the fault, machine {} serves in epoch {} after {epoch}",
        after(lab.fault, up),
        STILL.as_secs(),
        waits(&beside),
        after(lab.fault, both),
        newer.machine,
        newer.epoch
    )
}
