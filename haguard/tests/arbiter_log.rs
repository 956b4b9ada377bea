//! A log that nobody reads: the arbiter goes on answering, says afterwards what was lost, and ends
//! when it has to.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs::File;
use std::io::{self, PipeReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::arbiter::Home;
use common::client::Client;
use common::{PROGRAM, wait};
use haguard::command::demo::samples::now;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The smallest pipe (fcntl(2), F_SETPIPE_SZ: a page).
const PIPE_BYTES: i32 = 4096;
/// How late an answer may be on a busy machine: the first lease of a heartbeat of 8 s is over then.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// The end is held up for a second by the log; the rest is a busy machine.
const END_MAX: Duration = Duration::from_secs(10);
/// Each makes a line of the log: several times as many as can wait.
const STRANGERS: u32 = 4000;
const STRANGERS_AN_ECHO: u32 = 200;
/// What fills the pipe; no line of a log begins with it.
const FILLING: char = '#';

/// An arbiter whose log is a small pipe that is read when the test says so.
struct Arbiter {
    child: Child,
    pipe: PipeReader,
    text: String,
}

impl Arbiter {
    fn spawn(home: &Home, more: &[&str], fill_first: bool) -> Self {
        let (pipe, log) = io::pipe().unwrap();
        fcntl(&log, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES)).unwrap();
        fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        if fill_first {
            fill(&pipe);
        }
        let mut command = Command::new(PROGRAM);
        let command = command.arg("qnetd").args(home.flags(more)).env_remove("RUST_LOG");
        let command = command.env("NO_COLOR", "1").stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.stderr(log).spawn().unwrap();
        Self { child, pipe, text: String::new() }
    }

    /// Waits until it listens, and fills the pipe. Says where it listens.
    fn listening(home: &Home) -> (Self, SocketAddr) {
        let mut arbiter = Self::spawn(home, &["-d", "--listen", "127.0.0.1:0"], false);
        let address = wait("a listening arbiter", || {
            let log = arbiter.read();
            let (line, _) = log.split_once("listening on ")?.1.split_once('\n')?;
            line.trim().parse().ok()
        });
        fill(&arbiter.pipe);
        (arbiter, address)
    }

    /// Reads what is there; returns everything so far.
    fn read(&mut self) -> &str {
        let mut bytes = Vec::new();
        match self.pipe.read_to_end(&mut bytes) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
        self.text.push_str(str::from_utf8(&bytes).unwrap());
        &self.text
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    fn exit_code(&mut self) -> Option<i32> {
        let child = &mut self.child;
        wait("the end of the arbiter", || child.try_wait().unwrap()).code()
    }
}

impl Drop for Arbiter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Fills the pipe with an end of its own, which alone does not block (proc_pid_fd(5)).
fn fill(pipe: &PipeReader) {
    let mut options = File::options();
    options.write(true).custom_flags(OFlag::O_NONBLOCK.bits());
    let mut end = options.open(format!("/proc/self/fd/{}", pipe.as_raw_fd())).unwrap();
    let mut bytes = [0; 4];
    let byte = FILLING.encode_utf8(&mut bytes).as_bytes();
    let full = loop {
        if let Err(error) = end.write(byte) {
            break error;
        }
    };
    assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
}

/// True for a line of the log in one piece: its time first.
fn is_whole(line: &str) -> bool {
    let time = line.split_whitespace().next().unwrap_or_default();
    time.ends_with('Z') && time.matches('-').count() == 2 && time.matches('Z').count() == 1
}

#[tokio::test]
async fn a_log_that_nobody_reads_holds_up_no_answer_and_its_loss_is_told() {
    let home = Home::new("log-stuck");
    let directory = home.issue("log", 1);
    let (mut arbiter, address) = Arbiter::listening(&home);
    let client = Client::join(address, &directory, "log", 1);
    let mut client = timeout(ANSWER_MAX, client).await.expect("nobody is let in");
    for stranger in 0..STRANGERS {
        drop(TcpStream::connect(address).await.unwrap());
        if stranger % STRANGERS_AN_ECHO == 0 {
            let echo = client.echo(100 + stranger);
            timeout(ANSWER_MAX, echo).await.expect("the log holds up the arbiter");
        }
    }

    let loss = " lines of the log were lost: nobody read them\n";
    wait("what was lost", || arbiter.read().contains(loss).then_some(()));
    arbiter.signal(Signal::SIGTERM);
    wait("the last line", || arbiter.read().contains("stopped\n").then_some(()));
    assert_eq!(arbiter.exit_code(), Some(0));
    let log = arbiter.read();
    let mut lost = 0;
    for line in log.lines() {
        let line = line.trim_start_matches(FILLING);
        match line.strip_suffix(loss.trim_end()) {
            Some(count) => lost += count.parse::<u32>().unwrap(),
            None => assert!(is_whole(line), "torn: {line}"),
        }
    }
    assert!(lost > 0 && lost < STRANGERS, "{lost}");
    assert!(log.trim_end().ends_with("stopped"), "{log}");
}

#[test]
fn a_log_that_nobody_reads_does_not_hold_up_the_end() {
    let home = Home::new("log-end");
    let (mut arbiter, _) = Arbiter::listening(&home);
    let before = now();
    arbiter.signal(Signal::SIGTERM);
    assert_eq!(arbiter.exit_code(), Some(0));
    assert!(now().since(before) < END_MAX);
    assert!(!arbiter.read().contains("stopped"), "somebody has read the log");
}

#[test]
fn an_arbiter_that_cannot_start_ends_although_nobody_reads_why() {
    let home = Home::new("log-refused");
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = busy.local_addr().unwrap().to_string();
    let before = now();
    let mut arbiter = Arbiter::spawn(&home, &["--listen", &address], true);
    assert_eq!(arbiter.exit_code(), Some(1));
    assert!(now().since(before) < END_MAX);
}
