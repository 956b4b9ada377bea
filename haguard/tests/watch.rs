//! `haguard status --watch` on a terminal, in a pipe, and at its end.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use common::arbiter::{Arbiter, Home};
use common::{PROGRAM, wait};
use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, Termios, tcgetattr};
use nix::unistd::Pid;

/// The pictures are drawn over each other.
const HOME: &str = "\x1b[H";
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

/// A terminal with the watching command in front of it.
struct Terminal {
    keyboard: File,
    line: OwnedFd,
    shown: Arc<Mutex<Vec<u8>>>,
    command: Child,
}

impl Terminal {
    fn start(run_dir: &str, environment: &[(&str, &str)]) -> Self {
        let pty = openpty(None, None).unwrap();
        let line = || Stdio::from(pty.slave.try_clone().unwrap());
        // With the terminal as its own, so that Ctrl-C reaches it.
        let mut command = Command::new("setsid");
        command.args(["--ctty", PROGRAM, "status", "--watch", "--run-dir", run_dir]);
        command.env_remove("NO_COLOR").env("TERM", "xterm").envs(environment.iter().copied());
        stty(&pty.slave, &["rows", "40", "cols", "100"]);
        let command = command.stdin(line()).stdout(line()).stderr(line()).spawn().unwrap();
        let mut screen = File::from(pty.master.try_clone().unwrap());
        let shown = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&shown);
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            // It ends when the last end of the line is closed.
            while let Ok(length @ 1..) = screen.read(&mut chunk) {
                into.lock().unwrap().extend_from_slice(&chunk[..length]);
            }
        });
        Self { keyboard: File::from(pty.master), line: pty.slave, shown, command }
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned()
    }

    fn wait_for_pictures(&self, count: usize) {
        wait("pictures", || (self.shown().matches(HOME).count() >= count).then_some(()));
    }

    fn press(&mut self, keys: &[u8]) {
        self.keyboard.write_all(keys).unwrap();
    }

    fn exit_code(&mut self) -> Option<i32> {
        wait("the end", || self.command.try_wait().unwrap()).code()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.command.kill();
        let _ = self.command.wait();
    }
}

fn stty(line: &OwnedFd, args: &[&str]) {
    let line = Stdio::from(line.try_clone().unwrap());
    assert!(Command::new("stty").args(args).stdin(line).status().unwrap().success());
}

fn modes(line: &OwnedFd) -> (LocalFlags, Termios) {
    let modes = tcgetattr(line).unwrap();
    (modes.local_flags, modes)
}

fn arbiter(name: &str) -> (Home, Arbiter) {
    let home = Home::new(name);
    let arbiter = home.start(&[]);
    (home, arbiter)
}

#[test]
fn a_terminal_is_drawn_over_and_given_back_after_ctrl_c() {
    let (home, _arbiter) = arbiter("watch-ctrl-c");
    let mut terminal = Terminal::start(&home.path("run"), &[]);
    let before = modes(&terminal.line);
    terminal.wait_for_pictures(3);
    let shown = terminal.shown();
    assert!(shown.starts_with(ENTER), "{shown:?}");
    assert!(!shown.contains("\x1b[2J"), "clearing before each picture flickers: {shown:?}");
    assert!(shown.contains("\x1b[1marbiter on "), "the title is not marked: {shown:?}");
    terminal.press(b"\x03");
    assert_eq!(terminal.exit_code(), Some(0), "an arbiter that answers");
    assert_eq!(modes(&terminal.line), before);
    wait("the end of the picture", || terminal.shown().contains(LEAVE).then_some(()));
    let shown = terminal.shown();
    let (_, after) = shown.split_once(LEAVE).unwrap();
    wait("the last picture", || terminal.shown().ends_with("\r\n").then_some(()));
    assert!(!after.contains(HOME) && !after.contains("\x1b[?"), "{after:?}");
    let shown = terminal.shown();
    assert!(shown.rsplit(LEAVE).next().unwrap().contains("arbiter on "), "{shown:?}");
}

#[test]
fn every_signal_that_ends_it_gives_the_terminal_back() {
    let (home, _arbiter) = arbiter("watch-signals");
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT] {
        let mut terminal = Terminal::start(&home.path("run"), &[]);
        terminal.wait_for_pictures(1);
        let pid = Pid::from_raw(i32::try_from(terminal.command.id()).unwrap());
        kill(pid, signal).unwrap();
        assert_eq!(terminal.exit_code(), Some(0), "{signal}");
        wait("the end of the picture", || terminal.shown().contains(LEAVE).then_some(()));
    }
}

#[test]
fn no_color_is_honoured() {
    let (home, _arbiter) = arbiter("watch-colour");
    let terminal = Terminal::start(&home.path("run"), &[("NO_COLOR", "1")]);
    terminal.wait_for_pictures(2);
    let shown = terminal.shown();
    assert!(shown.contains("arbiter on "), "{shown:?}");
    // A colour ends with m; what moves the cursor does not.
    let colours = shown.split("\x1b[").skip(1).filter(|sequence| {
        sequence.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';').starts_with('m')
    });
    assert_eq!(colours.count(), 0, "{shown:?}");
}

#[test]
fn a_terminal_that_knows_no_escapes_gets_none() {
    let (home, _arbiter) = arbiter("watch-dumb");
    let terminal = Terminal::start(&home.path("run"), &[("TERM", "dumb"), ("NO_COLOR", "1")]);
    wait("pictures", || (terminal.shown().matches("arbiter on ").count() >= 2).then_some(()));
    assert!(!terminal.shown().contains('\x1b'), "{:?}", terminal.shown());
}

#[test]
fn a_small_terminal_shows_what_fits_and_says_that_there_is_more() {
    let home = Home::new("watch-small");
    // With a warning: two lines.
    let _arbiter = home.start(&["-s", "on"]);
    let terminal = Terminal::start(&home.path("run"), &[("NO_COLOR", "1")]);
    terminal.wait_for_pictures(1);
    assert!(terminal.shown().contains("warning: plain text is accepted"), "{}", terminal.shown());
    // The window is made smaller while it is watched: it is drawn again at once, and as a whole.
    stty(&terminal.line, &["rows", "2"]);
    let remark = "(and 1 more: enlarge the terminal)\x1b[K\x1b[J";
    wait("the remark", || terminal.shown().contains(remark).then_some(()));
    let shown = terminal.shown();
    let (before, _) = shown.rsplit_once(remark).unwrap();
    let picture = before.rsplit(HOME).next().unwrap();
    assert_eq!(picture.matches("\r\n").count(), 1, "{picture:?}");
    assert!(picture.starts_with("arbiter on "), "{picture:?}");
}

#[test]
fn it_goes_on_watching_where_nothing_runs_yet() {
    let home = Home::new("watch-nothing");
    let mut terminal = Terminal::start(&home.path("run"), &[]);
    terminal.wait_for_pictures(1);
    assert!(terminal.shown().contains("no daemon runs in"), "{}", terminal.shown());
    let _arbiter = home.start(&[]);
    wait("the arbiter", || terminal.shown().contains("arbiter on ").then_some(()));
    terminal.press(b"\x03");
    assert_eq!(terminal.exit_code(), Some(0));
}

#[test]
fn in_a_pipe_pictures_follow_each_other_and_it_ends_with_the_reader() {
    let (home, _arbiter) = arbiter("watch-pipe");
    let mut command = Command::new(PROGRAM);
    command.args(["status", "--watch", "--json", "--run-dir", &home.path("run")]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    for _ in 0..2 {
        let line = lines.next().unwrap().unwrap();
        let status: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert!(status["arbiter"]["address"].is_string(), "{line}");
    }
    drop(lines);
    assert_eq!(wait("the end", || child.try_wait().unwrap()).code(), Some(0));
}
