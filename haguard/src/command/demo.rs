//! `haguard demo`: the main job on a fresh machine, without root and with nothing else installed.
//!
//! It starts a real arbiter, real nodes and their quorum devices, with certificates made on the
//! spot, cuts the nodes apart, heals them, takes the power from the winner, and judges what all of
//! them said and did. The cut is made outside the daemons: all traffic runs through a relay.
//!
//! # Layout
//! * [`layout`]: addresses on loopback. [`relay`]: the network between them.
//! * [`world`]: files and processes. [`processes`]: finds and ends them. [`writer`]: the guarded
//!   command.
//! * [`story`]: what happens. [`timeline`]: what people see of it.
//! * [`samples`]: what the nodes say. [`verdict`], [`report`]: what follows from it.

pub mod layout;
pub mod processes;
pub mod relay;
pub mod report;
pub mod samples;
pub mod story;
pub mod timeline;
pub mod verdict;
pub mod world;
pub mod writer;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use protocol::vote::Algorithm;
use tokio::signal::unix::{SignalKind, signal};

use crate::screen::{Brush, Colour, say};
use layout::NODES_MAX;
use report::Report;
use story::Story;
use timeline::Timeline;
use verdict::Effects;
use world::{Plan, World};

/// The arguments of `haguard demo`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// How many nodes
    #[arg(long, default_value_t = 2, value_name = "N",
          value_parser = clap::value_parser!(u32).range(2..=i64::from(NODES_MAX)))]
    nodes: u32,
    /// How often they are cut apart and healed, about 12 s each; the median is shown
    #[arg(long, default_value_t = 1, value_name = "K",
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    cuts: u32,
    /// How the arbiter chooses
    #[arg(long, value_enum, default_value_t = Choice::Ffsplit)]
    algorithm: Choice,
    /// Chooses the addresses and the moments of the cuts [default: random]
    #[arg(long)]
    seed: Option<u64>,
    /// Print one JSON object at the end and nothing else
    #[arg(long)]
    json: bool,
    /// Keep the directory with configuration, certificates and logs
    #[arg(long)]
    keep: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Choice {
    /// Exactly one half
    Ffsplit,
    /// Last man standing
    Lms,
}

/// Runs the demo. The exit code is 0 only if every claim held.
///
/// # Errors
/// When it could not even begin, or was interrupted.
pub fn run(options: &Options) -> Result<ExitCode> {
    let seed = match options.seed {
        Some(seed) => seed,
        None => u64::from(host::file::random_u128()? as u32),
    };
    let directory = format!("haguard-demo-{}-{seed:x}", std::process::id());
    let plan = Plan {
        program: std::env::current_exe().context("this program's own path is unknown")?,
        directory: std::env::temp_dir().join(directory),
        seed,
        nodes: options.nodes,
        algorithm: match options.algorithm {
            Choice::Ffsplit => Algorithm::Ffsplit,
            Choice::Lms => Algorithm::Lms,
        },
        trust_process_watchdog: true,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the runtime")?;
    runtime.block_on(interruptible(options, plan))
}

/// The demo, which a signal ends together with all its processes.
async fn interruptible(options: &Options, plan: Plan) -> Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let directory = plan.directory.clone();
    let interrupted = tokio::select! {
        done = perform(options, plan) => return done,
        _ = tokio::signal::ctrl_c() => "Ctrl-C",
        _ = terminate.recv() => "SIGTERM",
        _ = hang_up.recv() => "SIGHUP",
    };
    // The world has been dropped, and its processes with it.
    if !options.keep {
        let _ = fs::remove_dir_all(&directory);
    }
    bail!("ended by {interrupted}: all its processes are ended too");
}

async fn perform(options: &Options, plan: Plan) -> Result<ExitCode> {
    let timeline = Timeline::start(options.json);
    let started = timeline.started();
    let directory = plan.directory.clone();
    let kept = || format!("see {}", directory.join("logs").display());
    let world = World::build(plan.clone()).await.with_context(kept)?;
    let effects = world.effects();
    let mut story = Story::new(world, timeline);
    let told = story.tell(options.cuts).await;
    story.measured.broken = told.err().map(|error| format!("{error:#}"));
    let Story { world, sampler, measured, .. } = story;
    // Whatever is left of a broken story ends before its effects are read.
    drop(world);
    let text = fs::read_to_string(&effects).unwrap_or_default();
    let mut report = sampler
        .read(|record| Report::new(&plan, started, &measured, record, &Effects::read(&text)));
    let keep = options.keep || !report.held;
    if keep {
        report.directory = Some(directory.display().to_string());
    } else {
        let removed = fs::remove_dir_all(&directory);
        removed.with_context(|| format!("cannot remove {}", directory.display()))?;
    }
    if options.json {
        say(&serde_json::to_string_pretty(&report)?);
    } else {
        show(&report, &directory, keep);
    }
    Ok(if report.held { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn show(report: &Report, directory: &Path, keep: bool) {
    let brush = Brush::for_stdout();
    say(&format!("\n{}", report.table(brush)));
    let failed: Vec<&str> =
        report.claims.iter().filter(|c| !c.held).map(|c| c.claim.as_str()).collect();
    if failed.is_empty() {
        let text = format!("every claim held ({:.1} s)", report.seconds);
        say(&brush.paint(Colour::Good, &text));
    } else {
        let text = format!("failed: {} (seed {})", failed.join(", "), report.seed);
        say(&brush.paint(Colour::Bad, &text));
    }
    if keep {
        say(&format!("logs: {}", directory.join("logs").display()));
    }
}
