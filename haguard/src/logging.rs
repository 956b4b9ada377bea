//! The daemons' log: one line an event on standard error.

use std::io::{self, IsTerminal};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

use crate::screen::wants_colour;

/// Starts the log. `debug` is how often `-d` was given; without it, RUST_LOG decides, and without
/// that, decisions and troubles are logged.
pub fn start(debug: u8) {
    let level = match debug {
        0 => LevelFilter::INFO,
        1 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let filter = EnvFilter::builder().with_default_directive(level.into());
    let filter = if debug == 0 { filter.from_env_lossy() } else { filter.parse_lossy("") };
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(wants_colour(io::stderr().is_terminal()))
        .with_target(false);
    // A log that is there already goes on.
    let _ = log.try_init();
}
