//! One line that says how far it is, for who waits at a terminal.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use protocol::time::Time;
use simulator::Report;

use super::story::{hours, thousands};
use super::swarm::Plan;
use crate::command::demo::samples::now;

/// Nobody wants to see the progress of what ends at once.
const FIRST: Duration = Duration::from_secs(1);

/// The line, which is drawn over itself.
#[derive(Debug)]
pub struct Progress {
    start: Time,
    total: Option<u64>,
    limit: Option<Duration>,
    on: bool,
    drawn: bool,
}

impl Progress {
    /// Drawn on standard error if that is a terminal, and not if it is to be silent.
    pub fn new(plan: &Plan, start: Time, silent: bool) -> Self {
        let total = plan.seeds.end().map(|end| end - plan.seeds.start());
        let limit = plan.minutes.map(Duration::from_mins);
        let on = !silent && io::stderr().is_terminal();
        Self { start, total, limit, on, drawn: false }
    }

    /// Draws it again.
    pub fn show(&mut self, report: &Report) {
        let took = now().since(self.start);
        if !self.on || took < FIRST {
            return;
        }
        self.drawn = true;
        let text = line(report, took, self.total, self.limit);
        let mut screen = io::stderr().lock();
        // Who has closed the terminal does not want to see it.
        let _ = write!(screen, "\r\x1b[2K{text}").and_then(|()| screen.flush());
    }

    /// Leaves nothing behind.
    pub fn clear(&mut self) {
        if self.drawn {
            let mut screen = io::stderr().lock();
            let _ = write!(screen, "\r\x1b[2K").and_then(|()| screen.flush());
        }
    }
}

/// Of at most 79 columns.
fn line(report: &Report, took: Duration, total: Option<u64>, limit: Option<Duration>) -> String {
    let of = total.map_or_else(String::new, |total| format!(" of {}", thousands(total)));
    let rate = report.runs as f64 / took.as_secs_f64().max(0.001);
    let by_seeds = total.map(|total| total.saturating_sub(report.runs) as f64 / rate.max(0.001));
    let by_time = limit.map(|limit| limit.saturating_sub(took).as_secs_f64());
    let left = match (by_seeds, by_time) {
        (Some(seeds), Some(time)) => Some(seeds.min(time)),
        (seeds, time) => seeds.or(time),
    };
    let left = left.map_or_else(String::new, |seconds| format!(", {} left", clock(seconds)));
    format!(
        "{}{of} schedules, {rate:.0} a second, {} virtual hours, {} violations{left}",
        thousands(report.runs),
        hours(report.simulated),
        report.failures.len()
    )
}

fn clock(seconds: f64) -> String {
    if seconds < 90.0 { format!("{seconds:.0} s") } else { format!("{:.0} min", seconds / 60.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_how_far_how_fast_and_how_long_still() {
        let simulated = Duration::from_secs(3600 * 120);
        let report = Report { runs: 12_000, simulated, ..Report::default() };
        let took = Duration::from_secs(60);
        let text = line(&report, took, Some(1_000_000), None);
        assert_eq!(
            text,
            "12,000 of 1,000,000 schedules, 200 a second, 120 virtual hours, 0 violations, \
             82 min left"
        );
        let text = line(&report, took, Some(1_000_000), Some(Duration::from_secs(90)));
        assert!(text.ends_with(", 30 s left"), "{text}");
        let text = line(&report, took, None, Some(Duration::from_secs(90)));
        assert!(text.starts_with("12,000 schedules, "), "{text}");
        assert!(text.len() < 100, "{text}");
    }
}
