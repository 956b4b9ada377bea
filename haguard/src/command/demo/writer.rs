//! The guarded command of a demo: proves by what it does that it runs, where, and in which epoch.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use tokio::time::{MissedTickBehavior, interval};

use super::samples::now;

/// From one line to the next.
const INTERVAL: Duration = Duration::from_millis(20);

/// Flags of the hidden verb.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The shared file
    file: PathBuf,
}

/// The hidden verb: appends `milliseconds node epoch` until it is ended. Each line is one write to
/// a file opened for appending, so lines of several writers never mix.
///
/// # Errors
/// When the file cannot be written, or it was not started by a node.
pub fn run(options: &Options) -> Result<()> {
    let given = |name: &str| -> Result<u64> {
        let text = std::env::var(name).with_context(|| format!("{name} is not set"))?;
        text.parse().with_context(|| format!("{name} is {text:?}, which is no number"))
    };
    let (node, epoch) = (given("HAGUARD_NODE")?, given("HAGUARD_EPOCH")?);
    let path = options.file.display();
    let file = OpenOptions::new().append(true).open(&options.file);
    let mut file = file.with_context(|| format!("{path}: cannot be opened for appending"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    runtime.block_on(async {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let line = format!("{} {node} {epoch}\n", now().as_millis());
            file.write_all(line.as_bytes())
                .with_context(|| format!("{path}: cannot be written"))?;
        }
    })
}
