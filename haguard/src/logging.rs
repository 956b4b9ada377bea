//! The daemons' log: one line an event, on standard error or to the system. A log that nobody
//! reads never holds a daemon up, neither while it runs nor, for longer than a second, at its end.

mod queue;
mod syslog;

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::panic;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd;
use tracing::level_filters::LevelFilter;
use tracing::warn;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::screen::wants_colour;
use queue::Queue;
use syslog::Syslog;

/// How long an end waits until all lines are written.
const WRITTEN_MAX: Duration = Duration::from_millis(750);
/// How long it waits behind that for room for its last words, in milliseconds.
const ROOM_MAX_MS: u16 = 250;

/// A log that was started; the program's last words come behind its end.
#[derive(Debug)]
#[must_use = "lines that wait are written at its end"]
pub struct Log(Option<Queue>);

impl Drop for Log {
    /// Whatever is printed from now on holds nothing up: where nobody reads standard error, it
    /// goes nowhere.
    fn drop(&mut self) {
        if let Some(queue) = &self.0
            && !is_read(queue)
            && let Ok(nowhere) = File::options().write(true).open("/dev/null")
        {
            let _ = unistd::dup2_stderr(&nowhere);
        }
    }
}

/// Starts the log on standard error. `debug` is how often `-d` was given; without it, RUST_LOG
/// decides, and without that, decisions and troubles are logged.
pub fn start(debug: u8) -> Log {
    let queue = Queue::start(Stderr);
    let writer = match &queue {
        Ok(queue) => BoxMakeWriter::new(queue.clone()),
        Err(_) => BoxMakeWriter::new(io::stderr),
    };
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter(debug))
        .with_writer(writer)
        .with_ansi(wants_colour(io::stderr().is_terminal()))
        .with_target(false);
    // A log that is there already goes on.
    let _ = log.try_init();
    match queue {
        Ok(queue) => {
            put_before_panics(queue.clone());
            Log(Some(queue))
        }
        Err(error) => {
            warn!("the log has no thread of its own: {error}; who reads it late delays everything");
            Log(None)
        }
    }
}

/// The same for a daemon in the background: to syslog(3), under the daemon's name.
pub fn start_in_background(name: &str, debug: u8) -> Log {
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter(debug))
        .with_writer(Syslog::new(name))
        .with_ansi(false)
        .with_target(false)
        .without_time()
        .with_level(false);
    // A log that is there already goes on.
    let _ = log.try_init();
    // That one never waits.
    Log(None)
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

/// A panic is told behind the lines that wait, or not at all where nobody reads: the process has
/// to end.
fn put_before_panics(queue: Queue) {
    let tell = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if is_read(&queue) {
            tell(panic);
        }
    }));
}

/// Waits for at most a second: true once all lines are written and standard error takes more.
fn is_read(queue: &Queue) -> bool {
    queue.drain(WRITTEN_MAX) && has_room(PollTimeout::from(ROOM_MAX_MS))
}

/// Waits until standard error takes something.
fn has_room(limit: PollTimeout) -> bool {
    let stderr = io::stderr();
    loop {
        match poll(&mut [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)], limit) {
            Err(Errno::EINTR) => {}
            ready => return ready.is_ok_and(|count| count > 0),
        }
    }
}

/// Standard error without the lock that everything else in the process prints under: a thread that
/// is stuck here must not have it.
#[derive(Clone, Copy, Debug)]
struct Stderr;

impl Write for Stderr {
    /// Waits, also where someone who shares it has made it non-blocking.
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        loop {
            match unistd::write(io::stderr(), text) {
                Err(Errno::EAGAIN) => has_room(PollTimeout::NONE),
                written => return Ok(written?),
            };
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
