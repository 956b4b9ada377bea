//! What happened, one line an event: the newest lines for people, and a hash of all of them.

use std::collections::VecDeque;
use std::fmt::Write;

use protocol::time::Time;

/// So many lines are kept.
const KEPT: usize = 4000;

/// The trace of one run.
#[derive(Clone, Debug)]
pub struct Trace {
    lines: VecDeque<String>,
    hash: u64,
    buffer: String,
}

impl Default for Trace {
    fn default() -> Self {
        // The offset basis of FNV-1a.
        Self { lines: VecDeque::new(), hash: 0xcbf2_9ce4_8422_2325, buffer: String::new() }
    }
}

impl Trace {
    /// Takes a line in: `12.340 node 2  what`.
    pub fn line(&mut self, now: Time, who: impl std::fmt::Display, what: std::fmt::Arguments<'_>) {
        self.buffer.clear();
        // Writing to a string cannot fail.
        let _ = write!(self.buffer, "{now}{:03} {who:<10} {what}", now.0 % 1000);
        for byte in self.buffer.bytes() {
            self.hash = mix(self.hash, u64::from(byte));
        }
        if self.lines.len() == KEPT {
            self.lines.pop_front();
        }
        self.lines.push_back(self.buffer.clone());
    }

    /// Takes a number in that is too dull for a line of its own.
    pub fn number(&mut self, number: u64) {
        self.hash = mix(self.hash, number);
    }

    /// A number that differs whenever any line or number does.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The newest lines.
    pub fn tail(&self, lines: usize) -> String {
        let skip = self.lines.len().saturating_sub(lines);
        self.lines.iter().skip(skip).map(|line| format!("{line}\n")).collect()
    }
}

/// One round of FNV-1a.
fn mix(hash: u64, number: u64) -> u64 {
    (hash ^ number).wrapping_mul(0x100_0000_01b3)
}
