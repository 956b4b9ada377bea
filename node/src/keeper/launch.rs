//! The child between fork and execute. The keeper runs itself again for it, so that no code has
//! to run in a half-made process, and so that the child itself looks at the clock right before
//! it becomes the service (safety 19): a start that hung meanwhile does not happen.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use host::clock;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd;
use protocol::time::HostInstant;

use super::message::Launch;
use super::say;

/// The first argument of a child.
pub(super) const FLAG: &str = "--launch";
/// The variable that marks everything a keeper has started.
pub(super) const TOKEN: &str = "HAGUARD_KEEPER";
/// PATH, where a start brings none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The child came too late: nothing was executed.
const LATE: u8 = 125;
/// There is no such program (sh(1)).
const NOT_FOUND: u8 = 127;
/// It cannot be executed (sh(1)).
const NOT_EXECUTABLE: u8 = 126;

/// Starts children.
pub(super) struct Launcher {
    /// What comes between the program and [`FLAG`].
    pub(super) prefix: Vec<OsString>,
    pub(super) token: String,
    pub(super) cgroup: Option<PathBuf>,
    /// What the keeper had before it changed it for itself.
    pub(super) oom_score_adj: Option<String>,
    /// Where their output goes; that of the keeper, if none.
    pub(super) log: Option<File>,
}

impl Launcher {
    /// Forks. With `until`, the child executes nothing from then on.
    pub(super) fn spawn(&self, launch: &Launch, until: Option<HostInstant>) -> io::Result<Child> {
        // The running program, even if an upgrade has replaced the file meanwhile.
        let mut command = Command::new("/proc/self/exe");
        if let Some(name) = std::env::args_os().next() {
            command.arg0(name);
        }
        let until =
            until.map_or("-".to_owned(), |until| format!("{}:{}", until.boottime_ns, until.raw_ns));
        let cgroup = self.cgroup.as_deref().unwrap_or(Path::new("-"));
        command
            .args(&self.prefix)
            .args([FLAG, &std::process::id().to_string(), &until])
            .arg(self.oom_score_adj.as_deref().unwrap_or("-"))
            .arg(cgroup)
            .args(&launch.argv)
            .env_clear()
            .env("PATH", DEFAULT_PATH)
            .envs(&launch.env)
            .env(TOKEN, &self.token)
            .stdin(Stdio::null());
        match &self.log {
            Some(log) => command.stdout(log.try_clone()?).stderr(log.try_clone()?),
            None => command.stdout(io::stderr()).stderr(Stdio::inherit()),
        };
        command.spawn()
    }
}

/// The child's side of [`Launcher::spawn`]: what follows [`FLAG`] on the command line.
pub(super) fn become_service(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    let mut word = || args.next()?.into_string().ok();
    let (Some(keeper), Some(until), Some(oom)) = (word(), word(), word()) else {
        say("a child of the keeper was started by hand");
        return ExitCode::from(2);
    };
    let cgroup = args.next().filter(|path| path != "-").map(PathBuf::from);
    let Some(program) = args.next() else { return ExitCode::from(2) };

    if let Some(cgroup) = cgroup
        && let Err(error) = fs::write(cgroup.join("cgroup.procs"), "0")
    {
        // The keeper's own proof does not need the group.
        say(&format!("{}: cannot join the control group: {error}", cgroup.display()));
    }
    if oom != "-" {
        let _ = fs::write("/proc/self/oom_score_adj", oom);
    }
    // A session of its own, no signal blocked, and an end with the keeper's.
    let settled = unistd::setsid()
        .and_then(|_| SigSet::empty().thread_set_mask())
        .and_then(|()| prctl::set_pdeathsig(Signal::SIGKILL));
    if let Err(error) = settled {
        say(&format!("cannot prepare a start: {error}"));
        return ExitCode::from(NOT_EXECUTABLE);
    }
    // The keeper may have ended before its death was a signal.
    if unistd::getppid().to_string() != keeper {
        return ExitCode::from(LATE);
    }
    let mut command = Command::new(&program);
    command.args(args);
    if !in_time(&until) {
        say("a start came after the end of the entitlement; nothing was executed");
        return ExitCode::from(LATE);
    }
    let error = command.exec();
    say(&format!("{}: cannot execute: {error}", program.display()));
    let missing = error.kind() == io::ErrorKind::NotFound;
    ExitCode::from(if missing { NOT_FOUND } else { NOT_EXECUTABLE })
}

fn in_time(until: &str) -> bool {
    if until == "-" {
        return true;
    }
    let parse = |(boottime, raw): (&str, &str)| {
        Some(HostInstant { boottime_ns: boottime.parse().ok()?, raw_ns: raw.parse().ok()? })
    };
    let until = until.split_once(':').and_then(parse);
    until.is_some_and(|until| until.remaining(clock::read()) > Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_late_by_either_clock_and_by_doubt() {
        let now = clock::read();
        let text = |until: HostInstant| format!("{}:{}", until.boottime_ns, until.raw_ns);
        let later = now.plus(Duration::from_secs(60));
        assert!(in_time(&text(later)));
        assert!(!in_time(&text(HostInstant { raw_ns: now.raw_ns, ..later })));
        assert!(!in_time(&text(HostInstant { boottime_ns: now.boottime_ns, ..later })));
        assert!(!in_time("soon"));
        assert!(in_time("-"));
    }
}
