//! The daemons' log: one line an event, on standard error or to the system.

mod syslog;

use std::io::{self, IsTerminal};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

use crate::screen::wants_colour;
use syslog::Syslog;

/// Starts the log on standard error. `debug` is how often `-d` was given; without it, RUST_LOG
/// decides, and without that, decisions and troubles are logged.
pub fn start(debug: u8) {
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter(debug))
        .with_writer(io::stderr)
        .with_ansi(wants_colour(io::stderr().is_terminal()))
        .with_target(false);
    // A log that is there already goes on.
    let _ = log.try_init();
}

/// The same for a daemon in the background: to syslog(3), under the daemon's name.
pub fn start_in_background(name: &str, debug: u8) {
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter(debug))
        .with_writer(Syslog::new(name))
        .with_ansi(false)
        .with_target(false)
        .without_time()
        .with_level(false);
    // A log that is there already goes on.
    let _ = log.try_init();
}

fn filter(debug: u8) -> EnvFilter {
    let level = match debug {
        0 => LevelFilter::INFO,
        1 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let filter = EnvFilter::builder().with_default_directive(level.into());
    if debug == 0 { filter.from_env_lossy() } else { filter.parse_lossy("") }
}
