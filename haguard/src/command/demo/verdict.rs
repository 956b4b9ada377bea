//! What was seen, judged: from the samples of all nodes, and from what the guarded command did.
//! Neither takes the other's word.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use protocol::status::QuorumState;
use protocol::time::Time;
use serde::Serialize;

use super::samples::Run;

/// Two nodes that were, or may have been, on two sides at once.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct TwoSides {
    /// It was quorate,
    pub node: u32,
    /// and this one, outside its view, was quorate or frozen
    pub other: u32,
    /// from then (milliseconds of the demo's clock)
    pub from_ms: u64,
    /// for so long, at least one.
    pub ms: u64,
}

/// Every time at which a node was QUORATE in a view while a node outside that view was QUORATE or
/// FROZEN (F1).
///
/// Counted on the strict side: an answer counts from asking to hearing, so an overlap that was
/// merely possible is one. The exception is a node that has gone over into a newer view which
/// contains the other one too: that is agreed by both within one round trip, so there an overlap
/// counts only if it is certain.
pub fn two_sides(runs: &[Run]) -> Vec<TwoSides> {
    let mut found = Vec::new();
    for quorate in runs.iter().filter(|run| run.state == QuorumState::Quorate) {
        let outside = runs.iter().filter(|run| {
            run.state != QuorumState::Inquorate
                && run.node != quorate.node
                && !quorate.members.contains(&run.node)
        });
        for other in outside {
            let joined = other.epoch > quorate.epoch && other.members.contains(&quorate.node);
            if let Some((from, length)) = overlap(quorate, other, joined) {
                found.push(TwoSides {
                    node: quorate.node,
                    other: other.node,
                    from_ms: from.as_millis(),
                    ms: millis(length).max(1),
                });
            }
        }
    }
    found
}

/// When two runs held together: possibly, or certainly.
fn overlap(a: &Run, b: &Run, certainly: bool) -> Option<(Time, Duration)> {
    let (from, to) = if certainly {
        (a.first.1.max(b.first.1), a.last.0.min(b.last.0))
    } else {
        (a.first.0.max(b.first.0), a.last.1.min(b.last.1))
    };
    // Two runs of at least one answer each are certain to meet if the one began before the other
    // ended, and the reverse: that is what both orders of `from` and `to` above say for long runs,
    // and it holds for a single answer within a long run as well.
    let met = if certainly { a.first.1 <= b.last.0 && b.first.1 <= a.last.0 } else { from <= to };
    met.then(|| (from, to.since(from)))
}

/// The longest time in `[from, to]` in which no node was seen QUORATE.
pub fn longest_without(runs: &[Run], from: Time, to: Time) -> Duration {
    let mut times: Vec<(Time, Time)> = runs
        .iter()
        .filter(|run| run.state == QuorumState::Quorate)
        .map(|run| (run.first.0, run.last.1))
        .collect();
    times.push((to, to));
    times.sort();
    let mut longest = Duration::ZERO;
    let mut covered = from;
    for (start, end) in times {
        longest = longest.max(start.min(to).since(covered));
        covered = covered.max(end);
    }
    longest
}

/// When one node was quorate, for people and scripts.
#[derive(Clone, Debug, Serialize)]
pub struct Quorate {
    /// Who.
    pub node: u32,
    /// With whom.
    pub members: Vec<u32>,
    /// The view's epoch.
    pub epoch: u64,
    /// Seconds from the start of the demo.
    pub from: f64,
    /// Seconds from the start of the demo.
    pub to: f64,
}

/// Who was quorate when.
pub fn quorate(runs: &[Run], start: Time) -> Vec<Quorate> {
    let mut times = Vec::new();
    for run in runs.iter().filter(|run| run.state == QuorumState::Quorate) {
        times.push(Quorate {
            node: run.node,
            members: run.members.clone(),
            epoch: run.epoch,
            from: seconds(run.first.0.since(start)),
            to: seconds(run.last.1.since(start)),
        });
    }
    times.sort_by(|a, b| {
        (a.node, a.from).partial_cmp(&(b.node, b.from)).unwrap_or(std::cmp::Ordering::Equal)
    });
    times
}

/// One line of the guarded command: `milliseconds node epoch`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Line {
    /// When it was written.
    pub at_ms: u64,
    /// On which node.
    pub node: u32,
    /// In which epoch.
    pub epoch: u64,
}

/// All lines of one start.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct Stretch {
    /// The node.
    pub node: u32,
    /// The epoch of the start.
    pub epoch: u64,
    /// Its first line.
    pub from_ms: u64,
    /// Its last line.
    pub to_ms: u64,
    /// How many.
    pub lines: u32,
}

/// What the shared file says.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Effects {
    /// The starts in the order of their first lines.
    pub stretches: Vec<Stretch>,
    /// Lines in one place that belong to another: two nodes wrote in turn, or at the same time,
    /// or in one epoch.
    pub interleaved: u32,
    /// Lines whose epoch is lower than one before.
    pub epoch_back: u32,
    /// Lines that are no such lines.
    pub malformed: u32,
}

impl Effects {
    /// Reads the shared file.
    pub fn read(text: &str) -> Self {
        let mut effects = Self::default();
        let mut starts = BTreeSet::new();
        let mut highest = 0;
        for line in text.lines() {
            let Some(line) = parse(line) else {
                effects.malformed += 1;
                continue;
            };
            if line.epoch < highest {
                effects.epoch_back += 1;
            }
            highest = highest.max(line.epoch);
            match effects.stretches.last_mut() {
                Some(last) if (last.node, last.epoch) == (line.node, line.epoch) => {
                    last.to_ms = last.to_ms.max(line.at_ms);
                    last.lines += 1;
                    continue;
                }
                Some(last) => {
                    let again = starts.contains(&(line.node, line.epoch));
                    let same_epoch = last.node != line.node && last.epoch == line.epoch;
                    let same_time = last.node != line.node && line.at_ms <= last.to_ms;
                    effects.interleaved += u32::from(again || same_epoch || same_time);
                }
                None => {}
            }
            starts.insert((line.node, line.epoch));
            effects.stretches.push(Stretch {
                node: line.node,
                epoch: line.epoch,
                from_ms: line.at_ms,
                to_ms: line.at_ms,
                lines: 1,
            });
        }
        effects
    }
}

fn parse(line: &str) -> Option<Line> {
    let mut words = line.split(' ');
    let mut number = || words.next()?.parse::<u64>().ok();
    let (at_ms, node, epoch) = (number()?, number()?, number()?);
    let node = u32::try_from(node).ok()?;
    words.next().is_none().then_some(Line { at_ms, node, epoch })
}

/// One line of the verdict.
#[derive(Clone, Debug, Serialize)]
pub struct Claim {
    /// What is claimed.
    pub claim: String,
    /// What was seen.
    pub value: String,
    /// What was allowed.
    pub limit: String,
    /// Whether it held.
    pub held: bool,
}

impl Claim {
    /// A number that must be zero.
    pub fn none(claim: &str, count: u64, unit: &str) -> Self {
        let value = format!("{count}{unit}");
        Self { claim: claim.to_owned(), value, limit: format!("0{unit}"), held: count == 0 }
    }

    /// A time that has a limit; without one, it did not happen.
    pub fn within(claim: &str, time: Option<Duration>, limit: Duration) -> Self {
        Self {
            claim: claim.to_owned(),
            value: time.map_or("did not happen".to_owned(), |time| Shown(time).to_string()),
            limit: format!("< {}", Shown(limit)),
            held: time.is_some_and(|time| time < limit),
        }
    }

    /// Something that is so or not.
    pub fn is(claim: &str, value: impl Into<String>, limit: &str, held: bool) -> Self {
        Self { claim: claim.to_owned(), value: value.into(), limit: limit.to_owned(), held }
    }
}

/// A duration as the demo shows it.
#[derive(Clone, Copy, Debug)]
pub struct Shown(
    /// The duration.
    pub Duration,
);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} s", self.0.as_secs_f64())
    }
}

/// The middle of several times; of an even number the later of the two in the middle.
pub fn median(times: &[Duration]) -> Option<Duration> {
    let mut sorted = times.to_vec();
    sorted.sort();
    sorted.get(sorted.len() / 2).copied()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests;
