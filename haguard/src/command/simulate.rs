//! `haguard simulate`: the daemons' own machines in a simulated world, with faults by chance, and
//! every safety rule checked after every step.
//!
//! # Layout
//! * [`swarm`]: many seeds on all cores. [`progress`]: what people see meanwhile.
//! * [`story`]: one run told, and what is said at the end.
//! * [`exhaustive`]: every way through short stories, instead of one way through long ones.

pub mod exhaustive;
pub mod progress;
pub mod story;
pub mod swarm;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use serde_json::json;
use simulator::scenario::Scenario;
use simulator::{Outcome, run as simulate};

use crate::screen::{Brush, Colour, complain, say};
use story::Story;
use swarm::{Ended, Plan, Seeds, What};

/// Wrong arguments, or no scenario in the file.
const EXIT_USAGE: u8 = 2;
/// Ended by SIGINT, as shells say it.
const EXIT_INTERRUPTED: u8 = 130;
/// So many seeds, if nobody says how many or how long.
const SEEDS_DEFAULT: u64 = 1000;

/// The arguments of `haguard simulate`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Exit codes: 0 no rule was broken; 1 a rule was broken, or something that \
the scenario expects was not seen; 2 wrong arguments, or no scenario in the file; 130 interrupted, \
and no rule was broken until then.

A seed is the same run for ever: `haguard simulate --seeds 7658..7659` shows that one again.")]
pub struct Options {
    /// Run the schedules of these seeds, the last one excluded; A.. goes on for --minutes
    /// [default: 0..1000]
    #[arg(long, value_name = "A..B")]
    seeds: Option<Seeds>,
    /// How many nodes
    #[arg(long, default_value_t = 2, value_name = "N",
          value_parser = clap::value_parser!(u32).range(2..=5))]
    nodes: u32,
    /// With something beside the nodes, which are two then, or under them
    #[arg(long, value_enum, conflicts_with = "nodes")]
    with: Option<With>,
    /// Run this scenario instead, and tell what happens
    #[arg(long, value_name = "FILE",
          conflicts_with_all = ["seeds", "nodes", "with", "minutes", "seconds", "jobs", "save"])]
    scenario: Option<PathBuf>,
    /// Take every way through short stories instead, as far as --states allows
    #[arg(long, conflicts_with_all = ["seeds", "nodes", "with", "minutes", "seconds", "save",
          "scenario"])]
    exhaustive: bool,
    /// So many different states of each case of --exhaustive [default: 20000]
    #[arg(long, value_name = "N", requires = "exhaustive",
          value_parser = clap::value_parser!(u32).range(100..=100_000_000))]
    states: Option<u32>,
    /// Stop after this long, even if seeds are left
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    minutes: Option<u64>,
    /// Let each schedule last exactly this many virtual seconds, to measure by; else it ends when
    /// all has been well for a while, and that is asked of it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: Option<u64>,
    /// How many schedules, or cases, at a time [default: one a core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: Option<u16>,
    /// Where to write the scenario that breaks a rule, made small, for --scenario
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Print one JSON object at the end and nothing else
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum With {
    /// The fencing gateway, and power switches
    Gateway,
    /// A third node that comes with a new configuration, as a model
    Configuration,
    /// A model of corosync on all nodes, which are 2 or 4, with stock devices and ours
    Corosync,
}

/// Runs the verb.
///
/// # Errors
/// When a file cannot be written, or signals cannot be waited for.
pub fn run(options: &Options) -> Result<ExitCode> {
    if let Some(path) = &options.scenario {
        return run_file(path, options.json);
    }
    if options.exhaustive {
        let states = options.states.map(usize::try_from).transpose()?;
        return exhaustive::run(states, options.jobs.map_or_else(cores, usize::from), options.json);
    }
    let seeds = match (options.seeds, options.minutes) {
        (Some(seeds), Some(_)) => seeds,
        (Some(seeds), None) if seeds.end().is_some() => seeds,
        (Some(_), None) => {
            return Ok(refuse("--seeds A.. has no end: add one, or --minutes"));
        }
        (None, Some(_)) => Seeds::from(0, None),
        (None, None) => Seeds::from(0, Some(SEEDS_DEFAULT)),
    };
    let plan = Plan {
        seeds,
        what: match options.with {
            None => What::Nodes(options.nodes),
            Some(With::Gateway) => What::Gateway,
            Some(With::Configuration) => What::Configuration,
            Some(With::Corosync) => What::Corosync,
        },
        minutes: options.minutes,
        seconds: options.seconds,
        jobs: options.jobs.map_or_else(cores, usize::from),
        sabotage: None,
    };
    let ended = swarm::run(&plan, options.json)?;
    report(options, &plan, &ended)
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn refuse(text: &str) -> ExitCode {
    complain(&format!("haguard simulate: {text}"));
    ExitCode::from(EXIT_USAGE)
}

/// One scenario, told from its beginning to its end.
fn run_file(path: &Path, as_json: bool) -> Result<ExitCode> {
    let place = path.display();
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => return Ok(refuse(&format!("{place}: cannot be read: {error}"))),
    };
    let mut scenario = match Scenario::parse(&text) {
        Ok(scenario) => scenario,
        Err(error) => {
            let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            let what = error.message().lines().next().unwrap_or_default();
            return Ok(refuse(&format!("{place}: line {line}: {what}")));
        }
    };
    if scenario.name.is_empty() {
        scenario.name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    }
    let outcome = simulate(&scenario);
    let story = Story::new(&scenario, &outcome);
    if as_json {
        say(&serde_json::to_string_pretty(&story)?);
    } else {
        say(&story.tell(Brush::for_stdout()));
    }
    Ok(exit_code(&outcome))
}

fn exit_code(outcome: &Outcome) -> ExitCode {
    if outcome.violation.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Says what was found, and shows the first run that broke a rule.
fn report(options: &Options, plan: &Plan, ended: &Ended) -> Result<ExitCode> {
    let brush = Brush::for_stdout();
    let failure = ended.report.failures.first();
    let seen = match failure {
        Some((scenario, outcome)) => Some(story::Found::new(scenario, outcome, plan)),
        // One seed is asked for to be looked at.
        None if plan.seeds.is_one() => Some(story::Found::whole(plan)),
        None => None,
    };
    if let (Some(path), Some(found), true) = (&options.save, &seen, failure.is_some()) {
        let written = fs::write(path, found.scenario.text());
        written.with_context(|| format!("{}: cannot be written", path.display()))?;
    }
    if options.json {
        let mut object = story::summary_json(plan, ended);
        object["violation"] = json!(seen.as_ref().filter(|_| failure.is_some()));
        say(&serde_json::to_string_pretty(&object)?);
    } else {
        if let Some(found) = &seen {
            say(&found.tell(brush));
        }
        if let (Some(path), true) = (&options.save, failure.is_some()) {
            let path = path.display();
            say(&format!("saved: haguard simulate --scenario {path}\n"));
        }
        say(&story::summary(plan, ended, brush));
    }
    Ok(match (failure, ended.interrupted) {
        (Some(_), _) => ExitCode::FAILURE,
        (None, true) => {
            if !options.json {
                say(&brush.paint(Colour::Waiting, "interrupted"));
            }
            ExitCode::from(EXIT_INTERRUPTED)
        }
        (None, false) => ExitCode::SUCCESS,
    })
}
