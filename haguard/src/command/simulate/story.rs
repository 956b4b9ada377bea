//! One run told: when what happened to whom, and which rule broke; and what many runs were.

use std::fmt::Write as _;
use std::time::Duration;

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde::Serialize;
use serde_json::{Value, json};
use simulator::invariants::Violation;
use simulator::{Outcome, Scenario, run_sabotaged, shrink};

use super::swarm::{Ended, Plan};
use crate::screen::{Brush, Colour};

/// A run, told.
#[derive(Clone, Debug, Serialize)]
pub struct Story {
    name: String,
    seed: u64,
    /// How long the run lasted, in virtual seconds.
    seconds: f64,
    lines: Vec<String>,
    broken: Option<Broken>,
}

/// A rule that was broken.
#[derive(Clone, Debug, Serialize)]
struct Broken {
    rule: &'static str,
    meaning: &'static str,
    /// When, in virtual seconds.
    at: f64,
    text: String,
}

impl Broken {
    fn new(violation: &Violation) -> Self {
        Self {
            rule: violation.rule,
            meaning: meaning(violation.rule),
            at: violation.at.0 as f64 / 1e6,
            text: violation.text.clone(),
        }
    }
}

/// What a rule is about. The letters are those of docs/simulation.md.
fn meaning(rule: &str) -> &'static str {
    match rule {
        "S1" => "there is one side at most",
        "S2" => "a vote counts no longer than the lease it was given with",
        "S3" => "a grant is on disk before it is sent",
        "S4" => "no epoch is given twice, and none goes back",
        "S5" => "services end in time after the entitlement of their node",
        "S6" => "the service is alive on one machine at most",
        "S7" => "power is cut for the quorate side only",
        "S8" => "no side with an older configuration goes on",
        "S10" => "no machine panics, spins, or says what nobody can read",
        "L1" => "the cluster is whole again in time after the last fault",
        "expectation" => "what the scenario expects is seen",
        _ => "a rule of docs/simulation.md",
    }
}

impl Story {
    /// Of a run of a scenario with a name: others leave no lines.
    pub fn new(scenario: &Scenario, outcome: &Outcome) -> Self {
        Self {
            name: scenario.name.clone(),
            seed: scenario.seed,
            seconds: outcome.end.0 as f64 / 1e6,
            lines: outcome.chronicle.lines().map(str::to_owned).collect(),
            broken: outcome.violation.as_ref().map(Broken::new),
        }
    }

    /// For people.
    pub fn tell(&self, brush: Brush) -> String {
        let mut text = format!("{}\n\n", brush.paint(Colour::Title, &self.name));
        for line in &self.lines {
            let is_fault = line.split_whitespace().nth(1) == Some("fault");
            let colour = if is_fault { Colour::Waiting } else { Colour::Faint };
            let line = if is_fault { brush.paint(colour, line) } else { line.clone() };
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{line}");
        }
        let last = match &self.broken {
            Some(broken) => {
                let line = format!(
                    "{:>6.2} {} is broken ({}): {}",
                    broken.at, broken.rule, broken.meaning, broken.text
                );
                brush.paint(Colour::Bad, &line)
            }
            None => {
                let line = format!("{:>6.2} the end: every rule held", self.seconds);
                brush.paint(Colour::Good, &line)
            }
        };
        text + &last
    }
}

/// A seed's run that is worth a look: one that broke a rule, made small, or the one that was asked
/// for.
#[derive(Clone, Debug, Serialize)]
pub struct Found {
    seed: u64,
    /// The command that runs the seed again.
    again: String,
    /// Faults of the seed's scenario, and of the small one.
    faults: (usize, usize),
    story: Story,
    /// The small one.
    #[serde(serialize_with = "as_text")]
    pub scenario: Scenario,
}

fn as_text<S: serde::Serializer>(scenario: &Scenario, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&scenario.text())
}

impl Found {
    /// Makes a failing scenario small and runs it again.
    pub fn new(scenario: &Scenario, outcome: &Outcome, plan: &Plan) -> Self {
        let rule = outcome.violation.as_ref().map_or("", |violation| violation.rule);
        let mut small = shrink(scenario, rule, plan.sabotage);
        // What has a name is told.
        small.name = format!("found with seed {}: {rule} is broken", scenario.seed);
        let outcome = run_sabotaged(&small, plan.sabotage);
        Self {
            seed: scenario.seed,
            again: plan.again(scenario.seed),
            faults: (scenario.faults.len(), small.faults.len()),
            story: Story::new(&small, &outcome),
            scenario: small,
        }
    }

    /// A run that broke nothing, as it is.
    pub fn whole(plan: &Plan) -> Self {
        let mut scenario = plan.scenario(plan.seeds.start());
        scenario.name = format!("seed {}", scenario.seed);
        let outcome = simulator::run(&scenario);
        Self {
            seed: scenario.seed,
            again: plan.again(scenario.seed),
            faults: (scenario.faults.len(), scenario.faults.len()),
            story: Story::new(&scenario, &outcome),
            scenario,
        }
    }

    /// For people.
    pub fn tell(&self, brush: Brush) -> String {
        let mut text = self.story.tell(brush);
        let (all, few) = self.faults;
        if self.story.broken.is_some() {
            let _ = write!(text, "\n\nmade small: {few} of {all} faults; the seed: {}", self.again);
        }
        text + "\n"
    }
}

/// What has been run, as a table.
pub fn summary(plan: &Plan, ended: &Ended, brush: Brush) -> String {
    let (report, seconds) = (&ended.report, ended.took.as_secs_f64().max(0.001));
    let mut table = Table::new();
    table.load_style(NOTHING);
    let mut row = |name: &str, value: String, remark: String| {
        table.add_row([name.to_owned(), value, remark]);
    };
    let rate = |count: u64| format!("{} a second", thousands((count as f64 / seconds) as u64));
    row("schedules", thousands(report.runs), rate(report.runs));
    row("core steps", thousands(report.core_steps), rate(report.core_steps));
    row("steps checked", thousands(report.steps), rate(report.steps));
    if !ended.worked.is_zero() {
        let worked = ended.worked.as_secs_f64();
        let each = |count: u64| thousands((count as f64 / worked) as u64);
        let (runs, steps) = (each(report.runs), each(report.core_steps));
        let remark = format!("in each {runs} schedules, {steps} core steps");
        row("processor time", format!("{worked:.1} s"), remark);
    }
    let times = thousands((report.simulated.as_secs_f64() / seconds) as u64);
    row("virtual hours", hours(report.simulated), format!("{times} times real time"));
    row("became quorate", thousands(report.became_quorate), "nodes".to_owned());
    let took_over = format!("{} of them on another node than before", thousands(report.takeovers));
    row("service starts", thousands(report.starts), took_over);
    if let Some((time, seed)) = report.slowest {
        let remark = format!("until all was well again, with seed {seed}");
        row("the longest time", format!("{:.1} s", time.as_secs_f64()), remark);
    }
    let table: String = table.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    let verdict = match report.failures.first().and_then(|(_, outcome)| outcome.violation.as_ref())
    {
        Some(violation) => brush.paint(Colour::Bad, &format!("{} is broken", violation.rule)),
        None => brush.paint(Colour::Good, "no rule is broken"),
    };
    let (start, jobs) = (plan.seeds.start(), plan.jobs);
    format!(
        "{table}\nseeds {start}..{}, {}, {seconds:.1} s with {jobs} at a time: {verdict}",
        ended.end, plan.what
    )
}

/// The same for programs, without the violation.
pub fn summary_json(plan: &Plan, ended: &Ended) -> Value {
    let report = &ended.report;
    json!({
        "seeds": [plan.seeds.start(), ended.end],
        "what": plan.what.to_string(),
        "jobs": plan.jobs,
        "seconds": ended.took.as_secs_f64(),
        "processor_seconds": ended.worked.as_secs_f64(),
        "interrupted": ended.interrupted,
        "schedules": report.runs,
        "virtual_seconds": report.simulated.as_secs_f64(),
        "steps": report.steps,
        "core_steps": report.core_steps,
        "became_quorate": report.became_quorate,
        "starts": report.starts,
        "takeovers": report.takeovers,
        "slowest": report.slowest.map(|(time, seed)| {
            json!({ "seconds": time.as_secs_f64(), "seed": seed })
        }),
    })
}

/// With commas.
pub(super) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

pub(super) fn hours(time: Duration) -> String {
    let hours = time.as_secs_f64() / 3600.0;
    if hours < 10.0 { format!("{hours:.1}") } else { thousands(hours as u64) }
}

#[cfg(test)]
mod tests {
    use simulator::sabotage::Sabotage;

    use super::*;
    use crate::command::simulate::swarm::{Seeds, What, run};

    #[test]
    fn numbers_have_commas() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(hours(Duration::from_secs(5400)), "1.5");
    }

    #[test]
    fn a_failure_is_made_small_and_told_with_the_command_that_shows_it_again() {
        let sabotage = Some(Sabotage::KeeperIgnoresDeadline);
        let seeds = Seeds::from(0, Some(2000));
        let plan =
            Plan { seeds, what: What::Nodes(2), minutes: None, seconds: None, jobs: 2, sabotage };
        let ended = run(&plan, true).unwrap();
        let (scenario, outcome) = ended.report.failures.first().unwrap();
        let found = Found::new(scenario, outcome, &plan);
        assert!(found.faults.1 <= found.faults.0);
        let text = found.tell(Brush::for_stdout());
        assert!(text.contains("S5 is broken (services end in time"), "{text}");
        assert!(text.contains(" fault    begins: "), "{text}");
        assert!(text.contains("INQUORATE"), "{text}");
        let seed = scenario.seed;
        assert!(text.contains(&format!("--seeds {seed}..{}", seed + 1)), "{text}");
        // What is saved breaks the same rule.
        let saved = Scenario::parse(&found.scenario.text()).unwrap();
        let again = run_sabotaged(&saved, sabotage).violation.map(|violation| violation.rule);
        assert_eq!(again, Some("S5"));
    }
}
