//! Many seeds on all cores. Which of them are run, and what is found, does not depend on how many
//! cores there are: of several seeds that break a rule it is the lowest.

use std::cell::Cell;
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::time::{ClockId, clock_gettime};
use protocol::time::Time;
use simulator::sabotage::Sabotage;
use simulator::{Outcome, Report, Scenario, run_sabotaged};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::interval;

use super::progress::Progress;
use crate::command::demo::samples::now;
use crate::screen::complain;

/// From one look at the clock to the next.
const LOOK: Duration = Duration::from_millis(250);

/// A range of seeds, as `A..B` or `A..`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Seeds {
    start: u64,
    end: Option<u64>,
}

impl Seeds {
    /// From `start` to `end`, which is not one of them; without an end: for ever.
    pub const fn from(start: u64, end: Option<u64>) -> Self {
        Self { start, end }
    }

    /// The first.
    pub const fn start(self) -> u64 {
        self.start
    }

    /// One more than the last.
    pub const fn end(self) -> Option<u64> {
        self.end
    }

    /// There is one seed.
    pub fn is_one(self) -> bool {
        self.end == self.start.checked_add(1)
    }
}

impl FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let help = "write A..B, the first seed and the one after the last, or A.. with --minutes";
        let number = |text: &str| text.parse().map_err(|_| help.to_owned());
        let (start, end) = text.split_once("..").ok_or_else(|| help.to_owned())?;
        let start = number(start)?;
        let end = if end.is_empty() { None } else { Some(number(end)?) };
        if end.is_some_and(|end| end <= start) {
            return Err(format!("there is no seed in it: {help}"));
        }
        Ok(Self { start, end })
    }
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seeds.
    pub seeds: Seeds,
    /// Of what.
    pub what: What,
    /// Stop after this long.
    pub minutes: Option<u64>,
    /// Each schedule lasts exactly so many virtual seconds.
    pub seconds: Option<u64>,
    /// How many runs at a time.
    pub jobs: usize,
    /// What is broken on purpose: for tests, the command has no such switch.
    pub sabotage: Option<Sabotage>,
}

impl Plan {
    /// The schedule of a seed.
    pub fn scenario(&self, seed: u64) -> Scenario {
        let mut scenario = self.what.scenario(seed);
        if let Some(seconds) = self.seconds {
            scenario.until_ms = Some(seconds.saturating_mul(1000));
        }
        scenario
    }

    /// The command that runs one seed again.
    pub fn again(&self, seed: u64) -> String {
        let seconds =
            self.seconds.map_or_else(String::new, |seconds| format!(" --seconds {seconds}"));
        self.what.again(seed) + &seconds
    }
}

/// What a seed is made into.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum What {
    /// A cluster of so many nodes of ours.
    Nodes(u32),
    /// Two nodes with a fencing gateway.
    Gateway,
    /// Two nodes that become three, with a model of what the arbiter records of it.
    Configuration,
    /// Two or four nodes on a model of corosync, with stock devices, ours, or some of both.
    Corosync,
}

impl What {
    fn scenario(self, seed: u64) -> Scenario {
        match self {
            Self::Nodes(nodes) => Scenario::random_of(seed, nodes..=nodes),
            Self::Gateway => Scenario::random_with_gateway(seed),
            Self::Configuration => Scenario::random_with_generations(seed),
            Self::Corosync => Scenario::random_with_corosync(seed),
        }
    }

    fn again(self, seed: u64) -> String {
        let what = match self {
            Self::Nodes(2) => String::new(),
            Self::Nodes(nodes) => format!(" --nodes {nodes}"),
            Self::Gateway => " --with gateway".to_owned(),
            Self::Configuration => " --with configuration".to_owned(),
            Self::Corosync => " --with corosync".to_owned(),
        };
        format!("haguard simulate --seeds {seed}..{}{what}", seed.saturating_add(1))
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nodes(nodes) => write!(f, "{nodes} nodes"),
            Self::Gateway => f.write_str("2 nodes and a gateway"),
            Self::Configuration => f.write_str("2 nodes that become 3"),
            Self::Corosync => f.write_str("2 or 4 nodes on corosync"),
        }
    }
}

/// What has been run.
#[derive(Clone, Debug)]
pub struct Ended {
    /// What was found.
    pub report: Report,
    /// The seed after the last one that was run; all before it were.
    pub end: u64,
    /// How long it took.
    pub took: Duration,
    /// For how long processors were at it: what other work on the machine changes least.
    pub worked: Duration,
    /// Somebody did not want to wait for the rest.
    pub interrupted: bool,
}

/// Runs every seed until one breaks a rule, or until the time is over.
///
/// # Errors
/// When signals cannot be waited for.
pub fn run(plan: &Plan, silent: bool) -> Result<Ended> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the runtime")?;
    tell_panics(plan.clone());
    // No seed from here on is begun.
    let end = AtomicU64::new(plan.seeds.end().unwrap_or(u64::MAX));
    let next = AtomicU64::new(plan.seeds.start());
    let (sender, outcomes) = mpsc::unbounded_channel();
    thread::scope(|scope| {
        for _ in 0..plan.jobs {
            let sender = sender.clone();
            scope.spawn(|| work(plan, &next, &end, sender));
        }
        drop(sender);
        let ended = runtime.block_on(collect(plan, &end, outcomes, silent));
        // Nobody goes on for a command that has failed.
        end.store(0, Ordering::Relaxed);
        ended
    })
}

fn work(
    plan: &Plan,
    next: &AtomicU64,
    end: &AtomicU64,
    sender: mpsc::UnboundedSender<(Scenario, Outcome)>,
) {
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end.load(Ordering::Relaxed) {
            return;
        }
        let scenario = plan.scenario(seed);
        SEED.set(Some(seed));
        let outcome = run_sabotaged(&scenario, plan.sabotage);
        SEED.set(None);
        if outcome.violation.is_some() {
            // Lower ones are still run: which one is reported is no matter of chance.
            end.fetch_min(seed, Ordering::Relaxed);
        }
        if sender.send((scenario, outcome)).is_err() {
            return;
        }
    }
}

async fn collect(
    plan: &Plan,
    end: &AtomicU64,
    mut outcomes: mpsc::UnboundedReceiver<(Scenario, Outcome)>,
    silent: bool,
) -> Result<Ended> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for signals")?;
    let mut looks = interval(LOOK);
    let (start, worked) = (now(), processor_time());
    let limit = plan.minutes.map_or(Time::NEVER, |minutes| start + Duration::from_mins(minutes));
    let mut progress = Progress::new(plan, start, silent);
    let mut report = Report::default();
    let mut interrupted = false;
    let stop = || end.fetch_min(0, Ordering::Relaxed);
    loop {
        tokio::select! {
            outcome = outcomes.recv() => match outcome {
                Some((scenario, outcome)) => report.add(scenario, outcome),
                None => break,
            },
            _ = looks.tick() => {
                if now() >= limit {
                    stop();
                }
                progress.show(&report);
            }
            _ = interrupt.recv() => {
                interrupted = true;
                stop();
            }
        }
    }
    progress.clear();
    report.failures.sort_by_key(|(scenario, _)| scenario.seed);
    report.failures.truncate(1);
    let took = now().since(start);
    let worked = processor_time().saturating_sub(worked);
    let end = plan.seeds.start().saturating_add(report.runs);
    Ok(Ended { report, end, took, worked, interrupted })
}

/// Of this process; none, if the kernel does not say.
fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

thread_local! {
    /// What this thread runs.
    static SEED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// A machine that panics breaks rule S10. Where a panic ends the program there is no outcome to
/// report, so the panic itself has to say which seed it was.
fn tell_panics(plan: Plan) {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let Some(seed) = SEED.get() else { return before(panic) };
        if cfg!(panic = "abort") {
            let text = panic.to_string().replace('\n', " ");
            complain(&format!(
                "haguard simulate: S10 is broken, a machine panicked: {text}; again: {}",
                plan.again(seed)
            ));
            std::process::exit(1);
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(seeds: Seeds, jobs: usize) -> Plan {
        let sabotage = Some(Sabotage::KeeperIgnoresDeadline);
        Plan { seeds, what: What::Nodes(2), minutes: None, seconds: None, jobs, sabotage }
    }

    #[test]
    fn seeds_are_read_and_nonsense_is_refused() {
        assert_eq!("3..9".parse(), Ok(Seeds::from(3, Some(9))));
        assert_eq!("3..".parse(), Ok(Seeds::from(3, None)));
        assert!(Seeds::from(8, Some(9)).is_one());
        for text in ["", "3", "..", "..4", "4..4", "5..4", "a..b", "-1..4"] {
            assert!(text.parse::<Seeds>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_lowest_seed_that_breaks_a_rule_is_found_whatever_the_number_of_jobs() {
        let found = |jobs| {
            let ended = run(&plan(Seeds::from(0, Some(2000)), jobs), true).unwrap();
            let (scenario, outcome) = ended.report.failures.first().unwrap();
            (scenario.seed, outcome.violation.clone(), outcome.hash)
        };
        let alone = found(1);
        assert!(alone.1.is_some());
        assert_eq!(found(3), alone);
    }
}
