//! Every way through short stories: each case as far as the states allow, several at a time. How
//! far each came is the result; it does not depend on how many cores there are.

use std::cell::Cell;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde_json::{Value, json};
use simulator::explore::{CASES, Limits, Report, search_while};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::EXIT_INTERRUPTED;
use super::story::thousands;
use crate::command::demo::samples::now;
use crate::screen::{Brush, Colour, complain, say};

/// So many states of each case, if nobody says how many: a second or two each.
const STATES_DEFAULT: usize = 20_000;

/// What has been searched.
#[derive(Debug)]
struct Ended {
    /// Of each case its place and how far it came, in the order of the places.
    reports: Vec<(usize, Report)>,
    states: usize,
    jobs: usize,
    took: Duration,
    interrupted: bool,
}

/// Searches every case.
///
/// # Errors
/// When signals cannot be waited for.
pub fn run(states: Option<usize>, jobs: usize, as_json: bool) -> Result<ExitCode> {
    let ended = search(states.unwrap_or(STATES_DEFAULT), jobs, as_json)?;
    let found = ended.reports.iter().any(|(_, report)| report.found.is_some());
    if as_json {
        say(&serde_json::to_string_pretty(&ended.to_json())?);
    } else {
        say(&ended.tell(Brush::for_stdout()));
    }
    Ok(match (found, ended.interrupted) {
        (true, _) => ExitCode::FAILURE,
        (false, true) => ExitCode::from(EXIT_INTERRUPTED),
        (false, false) => ExitCode::SUCCESS,
    })
}

fn search(states: usize, jobs: usize, silent: bool) -> Result<Ended> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the runtime")?;
    tell_panics();
    let (next, stopped) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (sender, reports) = mpsc::unbounded_channel();
    let start = now();
    let result = thread::scope(|scope| {
        for _ in 0..jobs.min(CASES.len()) {
            let sender = sender.clone();
            scope.spawn(|| work(states, &next, &stopped, sender));
        }
        drop(sender);
        let result = runtime.block_on(collect(&stopped, reports, silent));
        // Nobody goes on for a command that has failed.
        stopped.store(true, Ordering::Relaxed);
        result
    });
    let (mut reports, interrupted) = result?;
    reports.sort_by_key(|(place, _)| *place);
    Ok(Ended { reports, states, jobs, took: now().since(start), interrupted })
}

fn work(
    states: usize,
    next: &AtomicUsize,
    stopped: &AtomicBool,
    sender: mpsc::UnboundedSender<(usize, Report)>,
) {
    let limits = Limits { states, depth: u32::MAX };
    loop {
        let place = next.fetch_add(1, Ordering::Relaxed);
        let Some(case) = CASES.get(place).filter(|_| !stopped.load(Ordering::Relaxed)) else {
            return;
        };
        CASE.set(Some(case.name));
        let report = search_while(case, &limits, None, &|| !stopped.load(Ordering::Relaxed));
        CASE.set(None);
        if sender.send((place, report)).is_err() {
            return;
        }
    }
}

async fn collect(
    stopped: &AtomicBool,
    mut reports: mpsc::UnboundedReceiver<(usize, Report)>,
    silent: bool,
) -> Result<(Vec<(usize, Report)>, bool)> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for signals")?;
    let shows = !silent && io::stderr().is_terminal();
    let (mut ended, mut interrupted) = (Vec::new(), false);
    loop {
        if shows {
            let (done, all) = (ended.len(), CASES.len());
            // Who has closed the terminal does not want to see it.
            let mut screen = io::stderr().lock();
            let text = format!("\r\x1b[2K{done} of {all} cases");
            let _ = write!(screen, "{text}").and_then(|()| screen.flush());
        }
        tokio::select! {
            report = reports.recv() => match report {
                Some(report) => ended.push(report),
                None => break,
            },
            _ = interrupt.recv() => {
                interrupted = true;
                stopped.store(true, Ordering::Relaxed);
            }
        }
    }
    if shows {
        let mut screen = io::stderr().lock();
        let _ = write!(screen, "\r\x1b[2K").and_then(|()| screen.flush());
    }
    Ok((ended, interrupted))
}

impl Ended {
    fn sum(&self, of: impl Fn(&Report) -> u64) -> u64 {
        self.reports.iter().map(|(_, report)| of(report)).sum()
    }

    /// For people.
    fn tell(&self, brush: Brush) -> String {
        let mut table = Table::new();
        table.load_style(NOTHING);
        table.add_row(["case", "depth", "of the next", "states", "choices", "grants"]);
        for (_, report) in &self.reports {
            table.add_row([
                report.case.name.to_owned(),
                report.depth.to_string(),
                format!("{} %", report.percent_of_next),
                number(report.states),
                thousands(report.transitions),
                thousands(report.grants),
            ]);
        }
        let mut text: String = table.lines().map(|line| format!("{}\n", line.trim_end())).collect();
        let mut verdict = brush.paint(Colour::Good, "no rule is broken");
        for (_, report) in &self.reports {
            let Some(found) = &report.found else { continue };
            let rule = found.violation.rule;
            verdict = brush.paint(Colour::Bad, &format!("{rule} is broken"));
            // Writing to a string cannot fail.
            let _ = write!(text, "\n{}\n\n{}", report.case.name, found.story);
            let _ = writeln!(text, "{}", brush.paint(Colour::Bad, &found.violation.to_string()));
        }
        if self.interrupted {
            verdict =
                format!("{}, {verdict} until then", brush.paint(Colour::Waiting, "interrupted"));
        }
        let states = self.sum(|report| u64::try_from(report.states).unwrap_or(u64::MAX));
        let _ = write!(
            text,
            "\n{} cases of at most {} states: {} states, {} core steps, {:.1} s with {} at a time: \
             {verdict}",
            self.reports.len(),
            number(self.states),
            thousands(states),
            thousands(self.sum(|report| report.steps)),
            self.took.as_secs_f64(),
            self.jobs,
        );
        text
    }

    /// The same for programs.
    fn to_json(&self) -> Value {
        let cases = self.reports.iter().map(|(_, report)| {
            json!({
                "case": report.case.name,
                "depth": report.depth,
                "percent_of_next": report.percent_of_next,
                "states": report.states,
                "choices": report.transitions,
                "duplicates": report.duplicates,
                "core_steps": report.steps,
                "grants": report.grants,
                "violation": report.found.as_ref().map(|found| json!({
                    "rule": found.violation.rule,
                    "text": found.violation.text,
                    "choices": found.choices.len(),
                    "story": found.story.lines().collect::<Vec<_>>(),
                })),
            })
        });
        json!({
            "cases": cases.collect::<Vec<_>>(),
            "states": self.states,
            "jobs": self.jobs,
            "seconds": self.took.as_secs_f64(),
            "interrupted": self.interrupted,
        })
    }
}

fn number(count: usize) -> String {
    thousands(u64::try_from(count).unwrap_or(u64::MAX))
}

thread_local! {
    /// What this thread searches.
    static CASE: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// As for a seed: where a panic ends the program, it has to say itself which case it was.
fn tell_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let Some(case) = CASE.get() else { return before(panic) };
        if cfg!(panic = "abort") {
            let text = panic.to_string().replace('\n', " ");
            complain(&format!(
                "haguard simulate: S10 is broken, a machine panicked in the case \"{case}\": {text}"
            ));
            std::process::exit(1);
        }
    }));
}

#[cfg(test)]
mod tests {
    use simulator::sabotage::Sabotage;

    use super::*;

    #[test]
    fn what_is_found_is_told_with_its_story() {
        let limits = Limits { states: 20_000, depth: u32::MAX };
        let case = CASES.iter().position(|case| case.name == "2 nodes, a cut is noticed").unwrap();
        let sabotage = Some(Sabotage::GrantBeforeDurable);
        let report = search_while(&CASES[case], &limits, sabotage, &|| true);
        let took = Duration::from_secs(2);
        let reports = vec![(case, report)];
        let ended = Ended { reports, states: 20_000, jobs: 1, took, interrupted: false };
        let text = ended.tell(Brush::for_stdout());
        assert!(text.contains("S3 is broken at "), "{text}");
        assert!(text.contains("the search begins"), "{text}");
        assert!(text.ends_with("2.0 s with 1 at a time: S3 is broken"), "{text}");
        assert_eq!(ended.to_json()["cases"][0]["violation"]["rule"], "S3");
    }

    #[test]
    fn who_is_interrupted_learns_how_far_it_came() {
        let limits = Limits { states: 20_000, depth: u32::MAX };
        let report = search_while(&CASES[0], &limits, None, &|| false);
        assert!(report.states < 1000 && report.found.is_none(), "{report}");
    }
}
