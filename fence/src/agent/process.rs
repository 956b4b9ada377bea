//! One run of a program: its input written, its output kept within bounds, its time limited, and
//! nothing of it left behind, neither when it ends nor when nobody waits for it any more.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use tokio::time::timeout;

use crate::device::DeviceError;

/// Who prints more than this, in bytes, has gone wild.
const PRINTED_BYTES_MAX: u64 = 1024 * 1024;

/// The end of the limit that is left for ending by itself after SIGTERM, at most.
const GRACE_MAX: Duration = Duration::from_secs(1);

/// How long the last words are waited for, of a program that has ended or was killed, and for a
/// killed one to be gone. The pipes of one that has daemonised something stay open for ever.
const AFTERMATH: Duration = Duration::from_millis(500);

/// The longest password that is cut off whole where output is cut ([`crate::secret`]), in bytes.
const SURPLUS_BYTES: usize = 4096;

/// Programs are looked for here if we have no `PATH` ourselves.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How a program ended by itself.
#[derive(Debug)]
pub(super) struct End {
    pub(super) exit: Exit,
    pub(super) stdout: Output,
    pub(super) stderr: Output,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Exit {
    /// With this code.
    Code(i32),
    /// Killed by this signal, not by us.
    Signal(i32),
}

/// The end of what was printed.
#[derive(Debug, Default)]
pub(super) struct Output {
    /// At most what was asked for and [`SURPLUS_BYTES`].
    pub(super) kept: Vec<u8>,
    /// There was more before it.
    pub(super) lost: bool,
}

/// Runs `program` without arguments in a process group of its own, and returns when it has ended.
/// Shortly before `limit` is over the group gets SIGTERM, and at `limit` SIGKILL.
pub(super) async fn run(
    program: &Path,
    input: &[u8],
    limit: Duration,
    keep: usize,
) -> Result<End, DeviceError> {
    let mut process = Process::start(program)?;
    let pipes = process.pipes();
    let keep = keep + SURPLUS_BYTES;
    let (mut stdout, mut stderr) = (Tail::new(keep), Tail::new(keep));
    let outcome = {
        let talk = async {
            let input = async {
                // A program may end, or close its input, without having read it.
                let _ = write(pipes.0, input).await;
                Ok(())
            };
            // Who prints too much is stopped at once, before a closed pipe ends it.
            tokio::try_join!(input, stdout.fill(pipes.1), stderr.fill(pipes.2)).map(drop)
        };
        let mut talk = std::pin::pin!(talk);
        let grace = (limit / 5).min(GRACE_MAX);
        let work = async {
            tokio::select! {
                () = process.ended() => Ok(None),
                talked = &mut talk => match talked {
                    Ok(()) => { process.ended().await; Ok(Some(())) }
                    Err(error) => Err(error),
                },
            }
        };
        let outcome = match timeout(limit - grace, work).await {
            Ok(outcome) => outcome,
            Err(_) => {
                process.signal(Signal::SIGTERM);
                let _ = timeout(grace, process.ended()).await;
                Err(DeviceError::Silent(limit))
            }
        };
        // It is a zombie by now, or is to be: whatever it has started ends with it.
        process.signal(Signal::SIGKILL);
        if matches!(outcome, Ok(None)) {
            let _ = timeout(AFTERMATH, talk).await;
        }
        outcome
    };
    let exit = process.reap().await;
    outcome?;
    let exit = exit.ok_or_else(|| DeviceError::Garbage("the program cannot be reaped".into()))?;
    Ok(End { exit, stdout: stdout.output(), stderr: stderr.output() })
}

type Pipes =
    (Option<ChildStdin>, Option<tokio::process::ChildStdout>, Option<tokio::process::ChildStderr>);

/// A process that leads a group. Until it is reaped its id names no other process and no other
/// group, so that it is safe to signal.
struct Process {
    child: Child,
    group: Option<Pid>,
    deaths: Signals,
}

impl Process {
    fn start(program: &Path) -> Result<Self, DeviceError> {
        let local = |error: io::Error| {
            DeviceError::Local(format!(
                "cannot run the fence agent {} ({error}): is it installed, and executable?",
                program.display()
            ))
        };
        // Before the start, so that no death is missed.
        let deaths = signal(SignalKind::child()).map_err(local)?;
        let mut command = Command::new(program);
        let kept = |name: &str, default: &str| {
            let found = std::env::var_os(name).filter(|value| !value.is_empty());
            found.unwrap_or_else(|| OsString::from(default))
        };
        command
            .env_clear()
            .env("PATH", kept("PATH", PATH))
            .env("LANG", kept("LANG", "C.UTF-8"))
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let child = command.spawn().map_err(local)?;
        let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        Ok(Self { child, group, deaths })
    }

    fn pipes(&mut self) -> Pipes {
        (self.child.stdin.take(), self.child.stdout.take(), self.child.stderr.take())
    }

    /// Waits until it has ended, and leaves it as a zombie.
    async fn ended(&mut self) {
        let Some(id) = self.group else { return };
        let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        while let Ok(WaitStatus::StillAlive) = waitid(Id::Pid(id), look) {
            if self.deaths.recv().await.is_none() {
                return;
            }
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.group {
            // It may have ended, with everything that it started.
            let _ = killpg(group, signal);
        }
    }

    /// Takes the exit code of one that has ended or was killed. One that hangs in the kernel is
    /// left to the runtime, which reaps it when it comes out.
    async fn reap(&mut self) -> Option<Exit> {
        let status = timeout(AFTERMATH, self.child.wait()).await.ok()?.ok();
        self.group = None;
        let status = status?;
        status.code().map(Exit::Code).or_else(|| status.signal().map(Exit::Signal))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

async fn write(pipe: Option<ChildStdin>, input: &[u8]) -> io::Result<()> {
    let Some(mut pipe) = pipe else { return Ok(()) };
    pipe.write_all(input).await?;
    pipe.shutdown().await
}

/// The last bytes of a stream.
struct Tail {
    kept: VecDeque<u8>,
    max: usize,
    read: u64,
}

impl Tail {
    fn new(max: usize) -> Self {
        Self { kept: VecDeque::new(), max, read: 0 }
    }

    /// Reads to the end.
    async fn fill(&mut self, pipe: Option<impl AsyncRead + Unpin>) -> Result<(), DeviceError> {
        let Some(mut pipe) = pipe else { return Ok(()) };
        let mut part = [0; 4096];
        loop {
            let length = match pipe.read(&mut part).await {
                Ok(0) | Err(_) => return Ok(()),
                Ok(length) => length,
            };
            self.read += length as u64;
            if self.read > PRINTED_BYTES_MAX {
                let text = format!("the program prints more than {PRINTED_BYTES_MAX} bytes");
                return Err(DeviceError::Garbage(text));
            }
            self.kept.extend(&part[..length]);
            let surplus = self.kept.len().saturating_sub(self.max);
            self.kept.drain(..surplus);
        }
    }

    fn output(self) -> Output {
        let lost = self.read > self.kept.len() as u64;
        Output { kept: self.kept.into(), lost }
    }
}
