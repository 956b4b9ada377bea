//! The live timeline: a line for each step and for each change of a node, with the clock.

use protocol::status::QuorumState;
use protocol::time::Time;

use super::samples::{Record, Run, now};
use crate::screen::{Brush, Colour, say};

/// Prints what happens, or nothing if nobody looks.
#[derive(Debug)]
pub struct Timeline {
    start: Time,
    brush: Brush,
    silent: bool,
    shown: usize,
    service: Option<(u32, String)>,
}

impl Timeline {
    /// Starts the clock.
    pub fn start(silent: bool) -> Self {
        Self { start: now(), brush: Brush::for_stdout(), silent, shown: 0, service: None }
    }

    /// When the clock was started.
    pub fn started(&self) -> Time {
        self.start
    }

    /// A step of the demo.
    pub fn step(&self, text: &str) {
        self.print(now(), &self.brush.paint(Colour::Title, text));
    }

    /// A remark.
    pub fn remark(&self, text: &str) {
        self.print(now(), &format!("  {}", self.brush.paint(Colour::Faint, text)));
    }

    /// Prints what is new in the record.
    pub fn follow(&mut self, record: &Record) {
        let new = record.runs().get(self.shown..).unwrap_or_default();
        for run in new {
            self.print(run.first.1, &format!("  node {}  {}", run.node, self.words(run)));
        }
        self.shown = record.runs().len();
        self.follow_service(record);
    }

    fn follow_service(&mut self, record: &Record) {
        let runs = record.watches().keys().find_map(|node| {
            let resource = record.status(*node)?.resources.first()?;
            (resource.state == "running").then(|| (*node, resource.name.clone()))
        });
        if runs != self.service {
            match (&runs, &self.service) {
                (Some((node, name)), _) => {
                    let text = format!("{name} runs");
                    let text = self.brush.paint(Colour::Good, &text);
                    self.print(now(), &format!("  node {node}  {text}"));
                }
                (None, Some((node, name))) => {
                    let text = format!("{name} no longer runs");
                    let text = self.brush.paint(Colour::Waiting, &text);
                    self.print(now(), &format!("  node {node}  {text}"));
                }
                (None, None) => {}
            }
            self.service = runs;
        }
    }

    fn words(&self, run: &Run) -> String {
        let (colour, word) = match run.state {
            QuorumState::Quorate => (Colour::Good, "quorate"),
            QuorumState::Frozen => (Colour::Waiting, "frozen"),
            QuorumState::Inquorate => (Colour::Bad, "inquorate"),
        };
        let members: Vec<String> = run.members.iter().map(u32::to_string).collect();
        let view = match run.view {
            Some(_) => format!("  view {{{}}} epoch {}", members.join(","), run.epoch),
            None => "  no view".to_owned(),
        };
        format!("{}{view}", self.brush.paint(colour, &format!("{word:<9}")))
    }

    fn print(&self, at: Time, text: &str) {
        if !self.silent {
            say(&format!("{:>7.2}  {text}", at.since(self.start).as_secs_f64()));
        }
    }
}
