//! Log lines to the system (syslog(3)).

use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// Where the system takes log lines.
const SYSLOG: &str = "/dev/log";

/// The facility `daemon`, times eight (RFC 5424 6.2.1).
const FACILITY: u32 = 3 << 3;

/// Makes a writer for each line.
#[derive(Clone, Debug)]
pub(super) struct Syslog {
    name: String,
}

impl Syslog {
    /// Lines of the program with this name.
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.to_owned() }
    }
}

impl<'a> MakeWriter<'a> for Syslog {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { name: &self.name, severity: severity(Level::INFO) }
    }

    fn make_writer_for(&'a self, line: &Metadata<'_>) -> Line<'a> {
        Line { name: &self.name, severity: severity(*line.level()) }
    }
}

/// One line on its way to the system.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line<'a> {
    name: &'a str,
    severity: u32,
}

impl Write for Line<'_> {
    /// Never waits and never fails: a log that takes nothing must not hold up a vote.
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let line = String::from_utf8_lossy(text);
        let message = message(self.severity, self.name, std::process::id(), line.trim_end());
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

fn message(severity: u32, name: &str, pid: u32, line: &str) -> String {
    format!("<{}>{name}[{pid}]: {line}", FACILITY | severity)
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
        let message = message(severity(Level::WARN), "corosync-qnetd", 42, "late");
        assert_eq!(message, "<28>corosync-qnetd[42]: late");
    }
}
