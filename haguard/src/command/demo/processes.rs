//! Finds and ends the processes of a demo. A process belongs to it if it runs this program, and
//! was told of or started in the demo's directory, or descends from such a process. So nobody
//! else's is ever touched: not a shell that looks at the logs, not another demo.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How often the processes are looked for again after they were killed; a new one can appear only
/// if it was forked between the look and the signal.
const ROUNDS: usize = 20;

/// The living processes of `program` (its path without symbolic links) that belong to `directory`, and what they have started,
/// without this one.
pub fn of(program: &Path, directory: &Path) -> BTreeSet<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return BTreeSet::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let me = i32::try_from(std::process::id()).unwrap_or_default();
    let mut parents = BTreeMap::new();
    let mut found = BTreeSet::new();
    for pid in pids.filter(|pid: &i32| *pid != me) {
        let proc = Path::new("/proc").join(pid.to_string());
        if let Some(parent) = parent(&proc) {
            parents.insert(pid, parent);
        }
        if runs(&proc, program) && names(&proc, directory) {
            found.insert(pid);
        }
    }
    // As often as there are generations.
    loop {
        let before = found.len();
        let descends = |(_, parent): &(&i32, &i32)| found.contains(parent);
        let children: Vec<i32> = parents.iter().filter(descends).map(|(pid, _)| *pid).collect();
        found.extend(children);
        if found.len() == before {
            return found;
        }
    }
}

/// True if a process runs the program, which may have been replaced by a newer one meanwhile.
fn runs(proc: &Path, program: &Path) -> bool {
    let Ok(exe) = fs::read_link(proc.join("exe")) else { return false };
    let exe = exe.as_os_str().as_bytes();
    exe.strip_suffix(b" (deleted)").unwrap_or(exe) == program.as_os_str().as_bytes()
}

fn names(proc: &Path, directory: &Path) -> bool {
    let words = fs::read(proc.join("cmdline")).unwrap_or_default();
    let mut words = words.split(|byte| *byte == 0);
    let cwd = fs::read_link(proc.join("cwd")).unwrap_or_default();
    cwd.starts_with(directory)
        || words.any(|word| Path::new(std::ffi::OsStr::from_bytes(word)).starts_with(directory))
}

/// The parent of a process that has not ended: the fourth field of proc_pid_stat(5), counted behind
/// the name, which may hold anything.
fn parent(proc: &Path) -> Option<i32> {
    let stat = fs::read(proc.join("stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat).into_owned();
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(parent)
}

/// Sends a signal to all processes of a directory at once; those that have ended are no error.
/// Says how many there were.
pub fn signal_all(program: &Path, directory: &Path, signal: Signal) -> usize {
    let pids = of(program, directory);
    for pid in &pids {
        let _ = kill(Pid::from_raw(*pid), signal);
    }
    pids.len()
}

/// Kills all processes of a directory, those included that were forked meanwhile.
pub fn kill_all(program: &Path, directory: &Path) {
    for _ in 0..ROUNDS {
        if signal_all(program, directory, Signal::SIGKILL) == 0 {
            return;
        }
    }
}
