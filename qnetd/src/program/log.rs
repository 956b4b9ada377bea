//! Where the log goes: to stderr with `-f`, and else to syslog (syslog(3)).

use std::io::{self, IsTerminal, Write};
use std::os::unix::net::UnixDatagram;

use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

use crate::config::Options;

/// Where the system takes log lines.
const SYSLOG: &str = "/dev/log";

/// The facility `daemon`, times eight (RFC 5424 6.2.1).
const FACILITY: u32 = 3 << 3;

/// Starts the log, unless the command has done so already.
pub(super) fn start(options: &Options) {
    let level = match options.debug {
        0 => LevelFilter::INFO,
        1 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let subscriber = tracing_subscriber::fmt().with_max_level(level).with_target(false);
    // A log that is there already stays.
    let _ = if options.foreground {
        let ansi = io::stderr().is_terminal();
        subscriber.with_ansi(ansi).with_writer(io::stderr).try_init()
    } else {
        subscriber.with_ansi(false).without_time().with_level(false).with_writer(Syslog).try_init()
    };
}

/// Makes a writer for each line.
#[derive(Clone, Copy, Debug)]
struct Syslog;

impl<'a> MakeWriter<'a> for Syslog {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { severity: severity(Level::INFO) }
    }

    fn make_writer_for(&'a self, line: &Metadata<'_>) -> Line {
        Line { severity: severity(*line.level()) }
    }
}

/// One line on its way to the system.
#[derive(Clone, Copy, Debug)]
struct Line {
    severity: u32,
}

impl Write for Line {
    /// Never waits and never fails: a log that takes nothing must not hold up a vote.
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let line = String::from_utf8_lossy(text);
        let message = message(self.severity, std::process::id(), line.trim_end());
        if let Ok(socket) = UnixDatagram::unbound()
            && socket.set_nonblocking(true).is_ok()
        {
            let _ = socket.send_to(message.as_bytes(), SYSLOG);
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn message(severity: u32, pid: u32, line: &str) -> String {
    format!("<{}>haguard-qnetd[{pid}]: {line}", FACILITY | severity)
}

fn severity(level: Level) -> u32 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_carries_facility_severity_and_process() {
        assert_eq!(message(severity(Level::WARN), 42, "late"), "<28>haguard-qnetd[42]: late");
    }
}
