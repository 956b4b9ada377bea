//! What the tests of the command share: places, processes, and waiting with a limit.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test binary uses a part of it, and a test fails by panicking"
)]

pub mod arbiter;
pub mod client;
pub mod cluster;
pub mod site;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use haguard::command::demo::samples::now;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// The command under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_haguard");
/// Whatever is waited for here takes a moment; a busy machine may make it a long one.
pub const LIMIT: Duration = Duration::from_secs(60);
/// From one look to the next.
const LOOK: Duration = Duration::from_millis(20);

/// A directory of one test, gone with it, unless the test fails. Short, because sockets are in it.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("haguard-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn root(&self) -> &Path {
        &self.0
    }

    pub fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// Runs the command to its end.
pub fn haguard(args: &[&str]) -> Output {
    called_as(Path::new(PROGRAM), args)
}

/// The same under another name.
pub fn called_as(program: &Path, args: &[&str]) -> Output {
    Command::new(program).args(args).env_remove("RUST_LOG").output().unwrap()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Polls until there is something, for at most [`LIMIT`].
pub fn wait<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    // A channel that nobody sends to is a pause between two looks.
    let (_sender, pause) = mpsc::channel::<()>();
    let limit = now() + LIMIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(now() < limit, "not in time: {what}");
        let _ = pause.recv_timeout(LOOK);
    }
}

/// The same on a runtime, whose tasks go on meanwhile.
pub async fn soon<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let limit = now() + LIMIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(now() < limit, "not in time: {what}");
        tokio::time::sleep(LOOK).await;
    }
}

/// What `haguard status --json` says of the daemons in a run directory.
pub fn status(run_dir: &str) -> Option<Value> {
    let output = haguard(&["status", "--json", "--run-dir", run_dir]);
    serde_json::from_slice(&output.stdout).ok()
}

/// True with the rights of root. Without them a test that needs them is left out, and says so;
/// where everything has to be tested (`CI`) it fails.
pub fn is_root(what_for: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    assert!(root || std::env::var_os("CI").is_none(), "{what_for} needs root");
    if !root {
        left_out(&format!("{what_for} needs root"));
    }
    root
}

/// Says that something is not tested here, and why.
pub fn left_out(why: &str) {
    let line = format!("left out: {why}\n");
    let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
}

/// A daemon under test, with everything that it prints in a file. It ends with the test.
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    pub fn spawn(command: &mut Command, log: &str) -> Self {
        let log = PathBuf::from(log);
        let file = File::options().create(true).append(true).open(&log).unwrap();
        let command = command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        let child = command.env_remove("RUST_LOG").env("NO_COLOR", "1").spawn().unwrap();
        Self { child, log }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.pid()).unwrap()), signal).unwrap();
    }

    /// Everything that it has printed.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// How it has ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for its end and says with what code.
    pub fn exit_code(&mut self) -> Option<i32> {
        let what = format!("the end of the daemon that logs to {}", self.log.display());
        wait(&what, || self.ended()).code()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
