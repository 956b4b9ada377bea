//! Runs the heuristics commands (wire 3.5): all at once, each in a process group of its own with
//! /dev/null for its streams. They pass if every one exits with 0 in time; the first failure, or
//! the end of the time, is the result at once. What still runs then, or when a newer run takes
//! over, is asked to end, later killed, and reaped in the background.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use protocol::vote::Heuristics;
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, warn};

/// How commands are run, and how many (wire 3.3).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// More commands than this are none: heuristics are off.
    pub execs_max: usize,
    /// Processes at a time, those that are being ended included.
    pub processes_max: usize,
    /// Look for commands in PATH (execvp(3)), not only at absolute paths (execv(3)).
    pub search_path: bool,
    /// Between SIGTERM and SIGKILL, in milliseconds.
    pub kill_after_ms: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { execs_max: 32, processes_max: 160, search_path: false, kill_after_ms: 5000 }
    }
}

/// Runs commands, and knows how many of its processes live.
#[derive(Clone, Debug)]
pub struct Runner {
    limits: Limits,
    alive: Arc<AtomicUsize>,
}

impl Runner {
    /// A runner without processes.
    pub fn new(limits: Limits) -> Self {
        Self { limits, alive: Arc::new(AtomicUsize::new(0)) }
    }

    /// Processes that have been started and not yet reaped.
    pub fn alive(&self) -> usize {
        self.alive.load(Ordering::Relaxed)
    }

    /// Runs all commands, by name; without any the result is undefined. Dropped before its end,
    /// it leaves no process behind. Must be called within a tokio runtime.
    pub async fn run(&self, commands: &BTreeMap<String, String>, limit: Duration) -> Heuristics {
        if commands.is_empty() {
            return Heuristics::Undefined;
        }
        if self.alive() + commands.len() > self.limits.processes_max {
            warn!(
                "heuristics fail: {} processes of earlier runs have not ended, and {} more would \
                 exceed heuristics_max_processes; do the commands ignore SIGTERM?",
                self.alive(),
                commands.len()
            );
            return Heuristics::Fail;
        }
        let mut running = JoinSet::new();
        for (name, command) in commands {
            match self.start(command) {
                Ok(process) => drop(running.spawn(watch(name.clone(), process))),
                Err(reason) => {
                    warn!("heuristics command {name} fails: {reason}");
                    return Heuristics::Fail;
                }
            }
        }
        let all = async {
            while let Some(ended) = running.join_next().await {
                if !matches!(ended, Ok(true)) {
                    return Heuristics::Fail;
                }
            }
            Heuristics::Pass
        };
        let result = timeout(limit, all).await;
        result.unwrap_or_else(|_| {
            warn!("heuristics fail: {} commands have not ended in {limit:?}", running.len());
            Heuristics::Fail
        })
    }

    fn start(&self, command: &str) -> Result<Process, String> {
        let words = split(command).ok_or("a quote is not closed")?;
        let (program, arguments) = words.split_first().ok_or("the command is empty")?;
        if !self.limits.search_path && !program.starts_with('/') {
            return Err(format!(
                "{program:?} is no absolute path: give one, or set heuristics_use_execvp=on"
            ));
        }
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(|error| format!("cannot run {program:?}: {error}"))?;
        self.alive.fetch_add(1, Ordering::Relaxed);
        let kill_after = Duration::from_millis(u64::from(self.limits.kill_after_ms));
        Ok(Process { group: Group(Some(child)), alive: Alive(Arc::clone(&self.alive)), kill_after })
    }
}

/// The words of a command: blanks divide them, double quotes hold blanks, a backslash takes the
/// next letter as it is, in quotes too. `None` if a quote is not closed.
fn split(command: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    let mut letters = command.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '\\' => word.get_or_insert_default().extend(letters.next()),
            blank if blank.is_whitespace() && !quoted => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    (!quoted).then_some(words)
}

/// Whether the process exits with 0.
async fn watch(name: String, mut process: Process) -> bool {
    let status = process.wait().await;
    let passed = status.as_ref().is_ok_and(std::process::ExitStatus::success);
    match status {
        Ok(status) if passed => debug!("heuristics command {name}: {status}"),
        Ok(status) => warn!("heuristics command {name} fails: {status}"),
        Err(error) => warn!("heuristics command {name} cannot be waited for: {error}"),
    }
    passed
}

/// A process that was started; if it still runs when dropped, it is ended in the background.
struct Process {
    group: Group,
    alive: Alive,
    kill_after: Duration,
}

impl Process {
    async fn wait(&mut self) -> std::io::Result<std::process::ExitStatus> {
        let Some(child) = &mut self.group.0 else {
            return Err(std::io::ErrorKind::NotFound.into());
        };
        let status = child.wait().await;
        self.group.0 = None;
        status
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let group = Group(self.group.0.take());
        let (true, Ok(runtime)) = (group.0.is_some(), Handle::try_current()) else { return };
        let alive = Alive(std::mem::take(&mut self.alive.0));
        runtime.spawn(end(group, alive, self.kill_after));
    }
}

/// SIGTERM, and as often as the interval passes SIGKILL, until the process is reaped.
async fn end(mut group: Group, _alive: Alive, interval: Duration) {
    let mut signal = Signal::SIGTERM;
    loop {
        group.signal(signal);
        signal = Signal::SIGKILL;
        let Some(child) = &mut group.0 else { return };
        if timeout(interval, child.wait()).await.is_ok() {
            group.0 = None;
            return;
        }
    }
}

/// A process that is not reaped, so its id still names its group. Killed with the daemon.
struct Group(Option<Child>);

impl Group {
    fn signal(&self, signal: Signal) {
        let id = self.0.as_ref().and_then(Child::id).and_then(|id| i32::try_from(id).ok());
        if let Some(id) = id {
            // It may have ended by itself.
            let _ = killpg(Pid::from_raw(id), signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

/// Counts a process until it is dropped; of the default value nobody hears.
struct Alive(Arc<AtomicUsize>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    fn commands(list: &[&str]) -> BTreeMap<String, String> {
        let named = list.iter().enumerate();
        named.map(|(number, text)| (format!("exec_{number}"), (*text).to_owned())).collect()
    }

    fn runner() -> Runner {
        Runner::new(Limits { kill_after_ms: 250, ..Limits::default() })
    }

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("heuristics-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    /// Polls with a deadline.
    async fn until(what: &str, mut holds: impl FnMut() -> bool) {
        let wait = async {
            while !holds() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(LONG, wait).await.unwrap_or_else(|_| panic!("{what}"));
    }

    fn process_lives(pid_file: &Path) -> bool {
        let pid = std::fs::read_to_string(pid_file).unwrap();
        // A zombie that init has not collected yet has a stat file, with state Z.
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
        stat.is_ok_and(|stat| !stat.contains(") Z "))
    }

    #[test]
    fn a_command_is_split_at_blanks_outside_quotes() {
        let words = |text: &str| split(text).unwrap();
        assert_eq!(words(" /bin/a  b\tc "), ["/bin/a", "b", "c"]);
        assert_eq!(
            words(r#"a "b c" d" e"f \"g \\ "h \" i" "" "#),
            ["a", "b c", "d ef", "\"g", "\\", "h \" i", ""]
        );
        assert_eq!(words("   "), [""; 0]);
        assert_eq!(split("a \"b"), None);
    }

    #[tokio::test]
    async fn all_must_exit_with_0() {
        let runner = runner();
        assert_eq!(runner.run(&commands(&[]), LONG).await, Heuristics::Undefined);
        assert_eq!(runner.run(&commands(&["/bin/true"; 5]), LONG).await, Heuristics::Pass);
        let mixed = commands(&["/bin/true", "/bin/false", "/bin/true"]);
        assert_eq!(runner.run(&mixed, LONG).await, Heuristics::Fail);
        let none = commands(&["/no/such/command"]);
        assert_eq!(runner.run(&none, LONG).await, Heuristics::Fail);
        until("all are reaped", || runner.alive() == 0).await;
    }

    #[tokio::test]
    async fn a_bare_name_needs_execvp() {
        assert_eq!(runner().run(&commands(&["true"]), LONG).await, Heuristics::Fail);
        let searching = Runner::new(Limits { search_path: true, ..Limits::default() });
        assert_eq!(searching.run(&commands(&["true"]), LONG).await, Heuristics::Pass);
    }

    #[tokio::test]
    async fn commands_run_in_parallel() {
        let directory = scratch("parallel");
        let (one, two) = (directory.join("one"), directory.join("two"));
        let meet = |mine: &Path, other: &Path| {
            format!(
                r#"/bin/sh -c "touch {}; until test -e {}; do sleep 0.01; done""#,
                mine.display(),
                other.display()
            )
        };
        let both = [meet(&one, &two), meet(&two, &one)];
        let both = commands(&[&both[0], &both[1]]);
        assert_eq!(runner().run(&both, LONG).await, Heuristics::Pass);
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[tokio::test]
    async fn the_first_failure_and_the_end_of_time_end_the_run_and_the_rest() {
        let runner = runner();
        let failing = commands(&["/bin/sleep 1000", "/bin/false"]);
        // If it waited for the sleep, nextest would end the test.
        assert_eq!(runner.run(&failing, Duration::from_secs(999)).await, Heuristics::Fail);
        until("the sleep is ended", || runner.alive() == 0).await;
        let late = commands(&["/bin/true", "/bin/sleep 1000"]);
        let limit = Duration::from_millis(100);
        assert_eq!(runner.run(&late, limit).await, Heuristics::Fail);
        until("the sleep is ended", || runner.alive() == 0).await;
    }

    #[tokio::test]
    async fn a_superseded_run_is_killed_with_its_group_even_if_it_ignores_sigterm() {
        let directory = scratch("stubborn");
        let (parent, child) = (directory.join("parent"), directory.join("child"));
        let script = format!(
            r#"/bin/sh -c "trap '' TERM; sleep 1000 & echo \$! > {}; echo \$\$ > {}; wait""#,
            child.display(),
            parent.display()
        );
        let runner = runner();
        let run = tokio::spawn({
            let runner = runner.clone();
            async move { runner.run(&commands(&[&script]), LONG * 10).await }
        });
        let written = |path: &Path| std::fs::read(path).is_ok_and(|bytes| bytes.ends_with(b"\n"));
        until("it has started", || written(&parent) && written(&child)).await;
        run.abort();
        until("it is reaped", || runner.alive() == 0).await;
        until("parent and child are gone", || !process_lives(&parent) && !process_lives(&child))
            .await;
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[tokio::test]
    async fn processes_are_bounded_by_those_that_have_not_ended() {
        let runner = Runner::new(Limits { processes_max: 2, ..Limits::default() });
        assert_eq!(runner.run(&commands(&["/bin/true"; 3]), LONG).await, Heuristics::Fail);
        assert_eq!(runner.alive(), 0);
        assert_eq!(runner.run(&commands(&["/bin/true"; 2]), LONG).await, Heuristics::Pass);
    }

    #[tokio::test]
    async fn commands_have_no_streams() {
        let stdin_ends = commands(&["/bin/cat", "/bin/sh -c \"! read line\""]);
        assert_eq!(runner().run(&stdin_ends, LONG).await, Heuristics::Pass);
    }
}
