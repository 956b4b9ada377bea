//! What was seen, with the host's time: the emulator's events, and the lines of the guarded
//! service.

use std::fmt::Write as _;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A runner that says nothing for so long and then goes on is a new stretch.
const GAP: Duration = Duration::from_secs(2);

/// The host's wall clock since 1970, which is what the emulator's events carry.
#[expect(clippy::disallowed_methods, reason = "compared with the times of the emulator's events")]
pub(crate) fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

/// Something that was seen of a machine.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Entry {
    /// By the emulator for its events, at the arrival for lines.
    pub(crate) at: Duration,
    pub(crate) machine: u32,
    pub(crate) what: What,
}

/// What was seen.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum What {
    /// An event of the emulator, with its reason or action.
    Event { name: String, reason: String },
    /// The service has written a line; its machine is up for so long by its own clock.
    Serves { epoch: u64, up: Duration, process: u32 },
}

/// A time in which a machine ran the service in one epoch.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Stretch {
    pub(crate) machine: u32,
    pub(crate) epoch: u64,
    pub(crate) process: u32,
    pub(crate) first: Duration,
    pub(crate) last: Duration,
    pub(crate) lines: usize,
    /// How long it was by the machine's own clock.
    pub(crate) own: Duration,
}

/// Everything that was seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Story(Arc<(Mutex<Vec<Entry>>, Condvar)>);

impl Story {
    pub(crate) fn add(&self, at: Duration, machine: u32, what: What) {
        self.0.0.lock().unwrap().push(Entry { at, machine, what });
        self.0.1.notify_all();
    }

    /// All of it, by time.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        let mut entries = self.0.0.lock().unwrap().clone();
        entries.sort_by_key(|entry| entry.at);
        entries
    }

    /// Waits until something is to be found.
    pub(crate) fn wait<T>(
        &self,
        what: &str,
        limit: Duration,
        mut look: impl FnMut(&Self) -> Option<T>,
    ) -> T {
        let end = wall() + limit;
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            assert!(wall() < end, "not within {limit:?}: {what}\n{}", self.text(Duration::ZERO));
            self.pause(Duration::from_millis(100));
        }
    }

    /// Waits for something new, at most so long.
    fn pause(&self, limit: Duration) {
        let entries = self.0.0.lock().unwrap();
        drop(self.0.1.wait_timeout(entries, limit).unwrap());
    }

    /// Lets time pass.
    pub(crate) fn watch(&self, length: Duration) {
        let end = wall() + length;
        while wall() < end {
            self.pause(end.saturating_sub(wall()));
        }
    }

    /// The first event of this name from then on.
    pub(crate) fn event(&self, since: Duration, machine: u32, wanted: &str) -> Option<Entry> {
        self.entries().into_iter().find(|entry| {
            let named = matches!(&entry.what, What::Event { name, .. } if name == wanted);
            named && entry.machine == machine && entry.at >= since
        })
    }

    /// Who has run the service, in order of the beginnings.
    pub(crate) fn stretches(&self) -> Vec<Stretch> {
        let mut stretches: Vec<Stretch> = Vec::new();
        let mut begun = Vec::new();
        for entry in self.entries() {
            let What::Serves { epoch, up, process } = entry.what else { continue };
            let (at, machine) = (entry.at, entry.machine);
            let same = |stretch: &Stretch| {
                let goes_on = stretch.machine == machine
                    && stretch.epoch == epoch
                    && stretch.process == process;
                goes_on && at.saturating_sub(stretch.last) <= GAP
            };
            if let Some(index) = stretches.iter().rposition(same) {
                let stretch = &mut stretches[index];
                (stretch.last, stretch.lines) = (at, stretch.lines + 1);
                stretch.own = up.saturating_sub(begun[index]);
            } else {
                begun.push(up);
                let (first, last, lines, own) = (at, at, 1, Duration::ZERO);
                stretches.push(Stretch { machine, epoch, process, first, last, lines, own });
            }
        }
        stretches
    }

    /// The first line of a machine after then.
    pub(crate) fn serves(&self, since: Duration, machine: u32) -> Option<Duration> {
        let mut entries = self.entries().into_iter();
        let found = entries.find(|entry| {
            let serves = matches!(entry.what, What::Serves { .. });
            serves && entry.machine == machine && entry.at > since
        });
        found.map(|entry| entry.at)
    }

    /// The last line of a machine, if it has written one.
    pub(crate) fn last_line(&self, machine: u32) -> Option<Duration> {
        self.stretches().iter().filter(|s| s.machine == machine).map(|s| s.last).max()
    }

    /// For people and for the transcript: seconds from a moment on, one line each.
    pub(crate) fn text(&self, from: Duration) -> String {
        let mut lines: Vec<(Duration, String)> = Vec::new();
        for entry in self.entries() {
            if let What::Event { name, reason } = &entry.what {
                lines.push((entry.at, format!("machine {} event {name} {reason}", entry.machine)));
            }
        }
        for stretch in self.stretches() {
            let Stretch { machine, epoch, first, last, lines: count, .. } = stretch;
            lines.push((first, format!("machine {machine} serves epoch {epoch} from")));
            let until = format!("machine {machine} serves epoch {epoch} until, {count} lines");
            lines.push((last, until));
        }
        lines.sort();
        let mut text = String::new();
        for (at, line) in lines {
            let at = at.as_secs_f64() - from.as_secs_f64();
            let _ = writeln!(text, "{at:+9.3} {}", line.trim_end());
        }
        text
    }
}
