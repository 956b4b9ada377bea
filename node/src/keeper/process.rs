//! The processes under the keeper, read from `/proc` (proc_pid_stat(5)) and signalled through
//! pidfds, so that a pid that was reused meanwhile is left alone.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use super::ioctl;

/// A process that cannot be mistaken for another one of the same boot.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessId {
    /// Its pid.
    pub pid: i32,
    /// When it started, in clock ticks after boot (field 22 of `/proc/PID/stat`).
    pub start_ticks: u64,
}

impl ProcessId {
    /// The process that has this pid now.
    pub fn of(pid: i32) -> Option<Self> {
        Stat::read(pid).map(|stat| Self { pid, start_ticks: stat.start_ticks })
    }

    /// The calling process.
    pub fn own() -> Option<Self> {
        i32::try_from(std::process::id()).ok().and_then(Self::of)
    }

    /// Whether it can still do anything: there, and not just waiting to be reaped.
    pub fn lives(self) -> bool {
        Stat::read(self.pid).is_some_and(|stat| stat.id() == self && !stat.ended)
    }

    /// A handle on it; none if it has ended.
    pub fn open(self) -> Option<Handle> {
        let pidfd = ioctl::pidfd_open(self.pid).ok()?;
        // What the handle means is settled by now: if the pid still has this start time, the
        // handle has it too.
        (Self::of(self.pid) == Some(self)).then_some(Handle { pidfd })
    }
}

/// A process held by its pidfd.
#[derive(Debug)]
pub struct Handle {
    pidfd: OwnedFd,
}

impl Handle {
    /// Signals it; fine if it has ended.
    ///
    /// # Errors
    /// Those of pidfd_send_signal(2), mostly EPERM.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match ioctl::pidfd_send_signal(self.pidfd.as_fd(), signal as i32) {
            Err(error) if error.raw_os_error() != Some(nix::libc::ESRCH) => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// The fields of `/proc/PID/stat` that matter here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Stat {
    pub(super) pid: i32,
    parent: i32,
    session: i32,
    /// Every thread of it has ended; it waits to be reaped.
    ended: bool,
    pub(super) start_ticks: u64,
}

impl Stat {
    fn read(pid: i32) -> Option<Self> {
        let bytes = fs::read(format!("/proc/{pid}/stat")).ok()?;
        Self::parse(pid, &String::from_utf8_lossy(&bytes))
    }

    /// The name in parentheses is the process's own choice: fields count from its last `)`.
    fn parse(pid: i32, text: &str) -> Option<Self> {
        let (_, fields) = text.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        // The first of them is field 3, the state.
        let field = |number: usize| fields.get(number - 3);
        // The first thread may be a zombie while others go on.
        let zombie = matches!(*field(3)?, "Z" | "X");
        let threads: u32 = field(20)?.parse().ok()?;
        Some(Self {
            pid,
            parent: field(4)?.parse().ok()?,
            session: field(6)?.parse().ok()?,
            ended: zombie && threads <= 1,
            start_ticks: field(22)?.parse().ok()?,
        })
    }

    pub(super) fn id(&self) -> ProcessId {
        ProcessId { pid: self.pid, start_ticks: self.start_ticks }
    }
}

/// Every process that this one can see.
pub(super) fn all() -> Vec<Stat> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pid = |entry: io::Result<fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse().ok();
    entries.filter_map(pid).filter_map(Stat::read).collect()
}

/// Those of `all` that come from `root`, without itself.
pub(super) fn descendants(root: i32, all: &[Stat]) -> Vec<Stat> {
    let mut known = BTreeSet::from([root]);
    let mut found = Vec::new();
    loop {
        let children =
            all.iter().filter(|stat| known.contains(&stat.parent) && !known.contains(&stat.pid));
        let children: Vec<Stat> = children.copied().collect();
        if children.is_empty() {
            return found;
        }
        known.extend(children.iter().map(|stat| stat.pid));
        found.extend(children);
    }
}

/// Which of the keeper's descendants a signal is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Scope {
    /// All of them.
    All,
    /// This child, what comes from it, and what has stayed in its session.
    Session(i32),
}

/// Signals descendants of the calling process, again until no new one turns up, and says how
/// many could not be signalled.
pub(super) fn signal_descendants(scope: Scope, signals: &[Signal]) -> usize {
    /// What forks faster than this is met again at the next call, 20 ms later.
    const ROUNDS: usize = 8;
    let own = i32::try_from(std::process::id()).unwrap_or(i32::MAX);
    let mut seen = BTreeSet::new();
    let mut failed = 0;
    for _ in 0..ROUNDS {
        let all = all();
        let mut chosen = descendants(own, &all);
        if let Scope::Session(root) = scope {
            let under: BTreeSet<i32> =
                descendants(root, &all).iter().map(|stat| stat.pid).chain([root]).collect();
            chosen.retain(|stat| under.contains(&stat.pid) || stat.session == root);
        }
        chosen.retain(|stat| seen.insert(stat.id()));
        if chosen.is_empty() {
            break;
        }
        for stat in chosen {
            let Some(handle) = stat.id().open() else { continue };
            let sent = signals.iter().all(|signal| handle.signal(*signal).is_ok());
            failed += usize::from(!sent);
        }
    }
    failed
}

/// The processes that carry `name=value` in the environment they were started with, except
/// for the calling one; a process may have overwritten its own.
pub(super) fn with_environment(name: &str, value: &str) -> Vec<ProcessId> {
    let wanted = format!("{name}={value}");
    let own = i32::try_from(std::process::id()).unwrap_or(i32::MAX);
    let carries = |stat: &Stat| {
        let bytes = fs::read(format!("/proc/{}/environ", stat.pid)).unwrap_or_default();
        bytes.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
    };
    all().iter().filter(|stat| stat.pid != own && carries(stat)).map(Stat::id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_forge_the_fields_behind_it() {
        let text = "7 (a) Z 1 1 1) S 3 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0";
        let stat = Stat::parse(7, text).unwrap();
        let expected = Stat { pid: 7, parent: 3, session: 7, ended: false, start_ticks: 4711 };
        assert_eq!(stat, expected);
        assert_eq!(Stat::parse(7, "7 (a"), None);
        assert_eq!(Stat::parse(7, "7 (a) S 1"), None);
    }

    #[test]
    fn a_zombie_with_other_threads_lives() {
        let text = |threads: u32| {
            format!("7 (a) Z 3 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 {threads} 0 4711 0 0")
        };
        assert!(Stat::parse(7, &text(1)).unwrap().ended);
        assert!(!Stat::parse(7, &text(2)).unwrap().ended);
    }

    #[test]
    fn descendants_are_found_in_any_order_and_loops_end() {
        let stat = |pid, parent| Stat { pid, parent, session: 0, ended: false, start_ticks: 0 };
        let all = [stat(9, 8), stat(8, 7), stat(7, 1), stat(5, 1), stat(3, 3), stat(1, 9)];
        let found: Vec<i32> = descendants(7, &all).iter().map(|stat| stat.pid).collect();
        assert_eq!(found, [8, 9, 1, 5]);
    }

    #[test]
    fn a_handle_is_refused_for_another_start_time() {
        let own = ProcessId::own().unwrap();
        assert!(own.open().is_some());
        assert!(ProcessId { start_ticks: own.start_ticks + 1, ..own }.open().is_none());
    }
}
