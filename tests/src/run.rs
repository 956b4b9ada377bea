//! Running scenarios, one or many.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use protocol::time::Time;
use protocol::times;

use crate::invariants::{SETTLING, Violation};
use crate::sabotage::Sabotage;
use crate::scenario::{ArbiterState, Fault, Scenario};
use crate::world::World;

/// A whole cluster must stay so for this long.
const CALM: Duration = Duration::from_secs(3);
/// No run takes more steps: something talks without end.
const STEPS_LIMIT: u64 = 3_000_000;
/// Lines of the trace that are shown of a failure.
const SHOWN: usize = 150;

/// How a run ended.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The rule it broke.
    pub violation: Option<Violation>,
    /// World time at its end.
    pub end: Time,
    /// How many steps it took: each is followed by a look at the rules.
    pub steps: u64,
    /// How often a machine was told something: calls of `handle` on any of them.
    pub core_steps: u64,
    /// Of the whole trace.
    pub hash: u64,
    /// The newest lines of the trace.
    pub trace: String,
    /// What a person would tell of it; empty unless the scenario has a name.
    pub chronicle: String,
    /// How often a node became QUORATE.
    pub became_quorate: u64,
    /// How often the service was started.
    pub starts: u64,
    /// How often it was started on another node than before.
    pub takeovers: u64,
    /// How often a power switch has cut a node's power.
    pub cuts: u64,
    /// How long the cluster took to be whole after the last fault.
    pub settled_in: Option<Duration>,
}

impl Outcome {
    /// Everything that somebody needs to see the failure again.
    pub fn report(&self, scenario: &Scenario) -> String {
        let what = self
            .violation
            .as_ref()
            .map_or("nothing is broken".to_owned(), |violation| violation.to_string());
        format!(
            "{what}\nseed {}\n--- trace, newest last\n{}--- scenario\n{}",
            scenario.seed,
            self.trace,
            scenario.text()
        )
    }
}

/// Runs a scenario to its end.
pub fn run(scenario: &Scenario) -> Outcome {
    run_sabotaged(scenario, None)
}

/// Runs a scenario in which something is broken on purpose. A panic of a machine breaks S10.
pub fn run_sabotaged(scenario: &Scenario, sabotage: Option<Sabotage>) -> Outcome {
    if scenario.topology.corosync.is_some() {
        return crate::model::corosync::run(scenario, sabotage);
    }
    drive_to_end(World::new(scenario, sabotage), scenario)
}

/// The same run with every rule looked at after every step, whether the step can have broken it or
/// not: slow, and with the same outcome.
pub fn run_in_full(scenario: &Scenario, sabotage: Option<Sabotage>) -> Outcome {
    let mut world = World::new(scenario, sabotage);
    world.check_in_full();
    drive_to_end(world, scenario)
}

/// What a run has broken, or how long it took to settle. A panic of a machine breaks S10.
pub(crate) fn guarded<T>(
    run: &mut T,
    drive: impl FnOnce(&mut T) -> Result<Option<Duration>, Violation>,
    now: impl FnOnce(&T) -> Time,
) -> (Option<Violation>, Option<Duration>) {
    match catch_unwind(AssertUnwindSafe(|| drive(run))) {
        Ok(Ok(settled_in)) => (None, settled_in),
        Ok(Err(violation)) => (Some(violation), None),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            let text = text.unwrap_or_else(|| "a panic without words".to_owned());
            (Some(Violation { rule: "S10", at: now(run), text }), None)
        }
    }
}

fn drive_to_end(mut world: World, scenario: &Scenario) -> Outcome {
    let (violation, settled_in) =
        guarded(&mut world, |world| drive(world, scenario), |world| world.now());
    let failed = violation.is_some();
    Outcome {
        violation,
        end: world.now(),
        steps: world.steps(),
        core_steps: world.core_steps(),
        hash: world.trace().hash(),
        trace: if failed { world.trace().tail(SHOWN) } else { String::new() },
        chronicle: world.monitor().chronicle().to_owned(),
        became_quorate: world.monitor().became_quorate,
        starts: world.monitor().starts,
        takeovers: world.monitor().takeovers,
        cuts: world.monitor().cuts,
        settled_in,
    }
}

fn drive(world: &mut World, scenario: &Scenario) -> Result<Option<Duration>, Violation> {
    let quiet = scenario.quiet_at();
    let limit = match (scenario.until_ms, quiet) {
        (Some(ms), _) => Time::from_millis(ms),
        (None, Some(quiet)) => quiet + settling(scenario),
        (None, None) => Time::from_millis(120_000),
    };
    // Most runs end early; some go on to see that what is whole stays whole.
    let patient = scenario.seed.is_multiple_of(16) || scenario.until_ms.is_some();
    while world.now() < limit && world.steps() < STEPS_LIMIT {
        world.step()?;
        let Some(quiet) = quiet.filter(|quiet| world.now() > *quiet) else { continue };
        let calm = world.monitor().whole_since().filter(|since| world.now() > *since + CALM);
        if let Some(since) = calm.filter(|_| !patient && world.now() > quiet + CALM) {
            return Ok(Some(since.since(quiet)));
        }
    }
    let (None, Some(quiet)) = (scenario.until_ms, quiet) else { return Ok(None) };
    match world.monitor().whole_since() {
        Some(since) => Ok(Some(since.since(quiet))),
        None => Err(Violation {
            rule: "L1",
            at: world.now(),
            text: format!("not whole {} s after the last fault", settling(scenario).as_secs()),
        }),
    }
}

/// How long a scenario's cluster may take after the last fault.
fn settling(scenario: &Scenario) -> Duration {
    let lost = scenario.faults.iter().any(|timed| match timed.fault {
        Fault::ArbiterState { becomes: ArbiterState::Lost | ArbiterState::Restored } => true,
        Fault::Cut { .. }
        | Fault::Loss { .. }
        | Fault::Slow { .. }
        | Fault::PowerOff { .. }
        | Fault::Kill { .. }
        | Fault::Leave { .. }
        | Fault::Freeze { .. }
        | Fault::Pause { .. }
        | Fault::DiskFull { .. }
        | Fault::SlowDisk { .. }
        | Fault::Stubborn { .. }
        | Fault::Crash { .. }
        | Fault::OtherArbiter { .. }
        | Fault::Gateway { .. }
        | Fault::Configure { .. } => false,
    });
    if lost { SETTLING + times::LONE_LEASE_HOLD } else { SETTLING }
}

/// What to explore.
#[derive(Clone, Debug)]
pub struct Options {
    /// Clusters of this few nodes to this many.
    pub nodes: std::ops::RangeInclusive<u32>,
    /// Break something on purpose.
    pub sabotage: Option<Sabotage>,
    /// Stop after so many failures.
    pub failures: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { nodes: 2..=2, sabotage: None, failures: 1 }
    }
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Scenarios that were run.
    pub runs: u64,
    /// Simulated time of all of them.
    pub simulated: Duration,
    /// Steps of all of them.
    pub steps: u64,
    /// How often their machines were told something.
    pub core_steps: u64,
    /// How often a node became QUORATE.
    pub became_quorate: u64,
    /// How often the service was started.
    pub starts: u64,
    /// How often it was started on another node than before.
    pub takeovers: u64,
    /// How often a power switch has cut a node's power.
    pub cuts: u64,
    /// The longest time that a cluster took to be whole after the last fault, and the seed.
    pub slowest: Option<(Duration, u64)>,
    /// Scenarios that broke a rule, with their outcome.
    pub failures: Vec<(Scenario, Outcome)>,
}

impl Report {
    /// Takes one more run in.
    pub fn add(&mut self, scenario: Scenario, outcome: Outcome) {
        self.runs += 1;
        self.simulated += outcome.end.since(Time::ZERO);
        self.steps += outcome.steps;
        self.core_steps += outcome.core_steps;
        self.became_quorate += outcome.became_quorate;
        self.starts += outcome.starts;
        self.takeovers += outcome.takeovers;
        self.cuts += outcome.cuts;
        let settled = outcome.settled_in.map(|time| (time, scenario.seed));
        self.slowest = self.slowest.max(settled);
        if outcome.violation.is_some() {
            self.failures.push((scenario, outcome));
        }
    }
}

/// Runs a scenario for each seed.
pub fn explore(seeds: impl IntoIterator<Item = u64>, options: &Options) -> Report {
    let mut report = Report::default();
    for seed in seeds {
        let scenario = Scenario::random_of(seed, options.nodes.clone());
        let outcome = run_sabotaged(&scenario, options.sabotage);
        report.add(scenario, outcome);
        if report.failures.len() >= options.failures.max(1) {
            break;
        }
    }
    report
}
