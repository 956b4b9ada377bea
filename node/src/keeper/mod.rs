//! The keeper: a small process of its own that outlives the node daemon, is the parent of all
//! that the node runs, holds the watchdog, and knows only a deadline (rule S5).
//!
//! The daemon sends [`message::Command::Entitle`] again and again. When that stops, for whatever
//! reason, the keeper ends every service, proves it, and goes on petting; if it cannot prove it,
//! it forces the end and the watchdog resets the machine.
//!
//! A daemon that comes back finds the same keeper: it connects, has everything stopped and
//! proven, and only then starts anything ([`client::KeeperClient::spawn_or_adopt`]). Its coming
//! moves no deadline. If the keeper itself was killed, its children are killed by the kernel, the
//! device goes on counting, and the next keeper finds the may-run mark, ends what is left, proves
//! it, and only then touches the device (safety 18).
//!
//! # Layout
//! * [`core`]: the machine; `core/ending.rs`: stop, proof, forced end.
//! * `shell`: the poll loop that turns the world into events and actions into the world.
//! * [`message`], `link`, [`client`]: the conversation and its two ends.
//! * [`device`], `ioctl`: watchdogs. [`process`], `launch`, `cgroup`: what runs.
//! * [`mark`], `disk`: the may-run mark, and what may block.

pub mod client;
pub mod core;
pub mod device;
pub mod mark;
pub mod message;
pub mod process;

mod cgroup;
mod disk;
pub(crate) mod ioctl;
mod launch;
mod link;
mod shell;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use protocol::times;
use protocol::vote::WatchdogClass;

/// The socket in the run directory.
pub const SOCKET: &str = "keeper.sock";
/// The lock in the run directory (fcntl(2)).
pub const LOCK: &str = "keeper.lock";
/// What the keeper writes to its standard output once it listens.
pub const READY: &str = "ready";

/// The exit code of a keeper that could not do its work.
pub const EXIT_FAILED: u8 = 1;
/// The exit code after bad arguments.
pub const EXIT_USAGE: u8 = 2;
/// The exit code if another keeper has the run directory.
pub const EXIT_LOCKED: u8 = 3;

/// The longest W: recovery of other nodes waits for it.
const WATCHDOG_LIMIT: Duration = Duration::from_secs(60);

const USAGE: &str = "usage: keeper --run-dir DIR [--state-dir DIR] [--log FILE] [--device PATH] \
                     [--class A|B|C|D] [--watchdog-timeout SECONDS] [--services own|outside]";

/// What a keeper is started with.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Options {
    /// Where its socket and its lock are.
    pub run_dir: PathBuf,
    /// Where the may-run mark is; has to survive the daemons, not a reboot.
    pub state_dir: PathBuf,
    /// Where the output of services and its own lines go; its standard error, if none.
    pub log: Option<PathBuf>,
    /// The watchdog; none for the keeper process alone (class C).
    pub device: Option<PathBuf>,
    /// What the watchdog proves, where the administrator knows better than its name says.
    pub class: Option<WatchdogClass>,
    /// W, in whole seconds.
    pub watchdog: Duration,
    /// What needs the watchdog is started by others: with a device only, which is opened with the
    /// first entitlement.
    pub outside: bool,
    /// The words between the program and its keeper arguments, with which the keeper runs itself
    /// again for each start: `["keeper"]` if it was started as `haguard keeper ...`.
    pub prefix: Vec<OsString>,
}

impl Options {
    /// The defaults in `run_dir`.
    pub fn new(run_dir: PathBuf) -> Self {
        Self {
            state_dir: run_dir.clone(),
            run_dir,
            log: None,
            device: None,
            class: None,
            watchdog: times::WATCHDOG,
            outside: false,
            prefix: Vec::new(),
        }
    }

    /// Reads command line arguments.
    ///
    /// # Errors
    /// A line that names the argument and what it should have been.
    pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Self, String> {
        let mut args = args.into_iter();
        let mut options = Self::new(PathBuf::new());
        let mut state_dir = None;
        while let Some(flag) = args.next() {
            let flag = flag.to_string_lossy().into_owned();
            let value = args.next().ok_or_else(|| format!("{flag} needs a value; {USAGE}"))?;
            match flag.as_str() {
                "--run-dir" => options.run_dir = value.into(),
                "--state-dir" => state_dir = Some(value.into()),
                "--log" => options.log = Some(value.into()),
                "--device" => options.device = Some(value.into()),
                "--class" => options.class = Some(parse_class(&value.to_string_lossy())?),
                "--watchdog-timeout" => {
                    let seconds = value.to_string_lossy().parse();
                    let seconds = seconds.map_err(|_| format!("{flag} takes whole seconds"))?;
                    options.watchdog = Duration::from_secs(seconds);
                }
                "--services" => {
                    options.outside = match value.to_str() {
                        Some("own") => false,
                        Some("outside") => true,
                        _ => return Err(format!("{flag} takes own or outside")),
                    };
                }
                _ => return Err(format!("unknown argument {flag}; {USAGE}")),
            }
        }
        options.state_dir = state_dir.unwrap_or_else(|| options.run_dir.clone());
        options.check()?;
        Ok(options)
    }

    /// The arguments that [`Options::parse`] reads back, after the prefix.
    pub fn to_args(&self) -> Vec<OsString> {
        let mut args = self.prefix.clone();
        let mut flag = |name: &str, value: OsString| args.extend([name.into(), value]);
        flag("--run-dir", self.run_dir.clone().into());
        flag("--state-dir", self.state_dir.clone().into());
        if let Some(log) = &self.log {
            flag("--log", log.clone().into());
        }
        if let Some(device) = &self.device {
            flag("--device", device.clone().into());
        }
        if let Some(class) = self.class {
            flag("--class", format!("{class:?}").into());
        }
        flag("--watchdog-timeout", self.watchdog.as_secs().to_string().into());
        if self.outside {
            flag("--services", "outside".into());
        }
        args
    }

    fn check(&self) -> Result<(), String> {
        if self.run_dir.as_os_str().is_empty() {
            return Err(format!("--run-dir is missing; {USAGE}"));
        }
        if self.watchdog < times::WATCHDOG || self.watchdog > WATCHDOG_LIMIT {
            return Err(format!(
                "--watchdog-timeout takes {} to {} seconds",
                times::WATCHDOG.as_secs(),
                WATCHDOG_LIMIT.as_secs()
            ));
        }
        let device_class = matches!(self.class, Some(WatchdogClass::A | WatchdogClass::B));
        if device_class && self.device.is_none() {
            return Err("--class A and B need a --device".to_owned());
        }
        if self.outside && self.device.is_none() {
            return Err("--services outside needs a --device: a process cannot end them".to_owned());
        }
        if self.class == Some(WatchdogClass::C) && self.device.is_some() {
            return Err("--class C is for a keeper without a --device".to_owned());
        }
        Ok(())
    }
}

fn parse_class(text: &str) -> Result<WatchdogClass, String> {
    match text {
        "A" => Ok(WatchdogClass::A),
        "B" => Ok(WatchdogClass::B),
        "C" => Ok(WatchdogClass::C),
        "D" => Ok(WatchdogClass::D),
        _ => Err(format!("--class takes A, B, C or D, not {text}")),
    }
}

/// The whole program: what `haguard keeper ARGS` and `haguard-keeper ARGS` do. `prefix` is what
/// stands between the program and `args`.
pub fn main(prefix: &[&str], args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut args = args.into_iter().peekable();
    if args.peek().is_some_and(|first| first == launch::FLAG) {
        return launch::become_service(args.skip(1));
    }
    match Options::parse(args) {
        Ok(mut options) => {
            options.prefix = prefix.iter().map(OsString::from).collect();
            run(options)
        }
        Err(error) => {
            say(&error);
            ExitCode::from(EXIT_USAGE)
        }
    }
}

/// Runs a keeper until its farewell. It has to be called before the process has any thread but
/// its first.
pub fn run(options: Options) -> ExitCode {
    shell::run(options)
}

/// One line to standard error, for a process that has no log yet.
fn say(text: &str) {
    // There is nowhere else to complain.
    let _ = writeln!(io::stderr(), "haguard keeper: {text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Options, String> {
        Options::parse(args.iter().map(OsString::from))
    }

    #[test]
    fn options_come_back_from_their_arguments() {
        let args = ["--run-dir", "/run/x", "--device", "/dev/watchdog1", "--class", "A"];
        let guards = parse(&[&args[..], &["--services", "outside"]].concat()).unwrap();
        assert!(guards.outside);
        assert_eq!(Options::parse(guards.to_args()).unwrap(), guards);
        let options = parse(&args).unwrap();
        assert_eq!(options.state_dir, PathBuf::from("/run/x"));
        assert_eq!(options.watchdog, times::WATCHDOG);
        assert_eq!(Options::parse(options.to_args()).unwrap(), options);
    }

    #[test]
    fn bad_options_are_refused_by_name() {
        assert!(parse(&[]).unwrap_err().contains("--run-dir"));
        assert!(parse(&["--run-dir"]).unwrap_err().contains("needs a value"));
        assert!(parse(&["--what", "1"]).unwrap_err().contains("--what"));
        let with = |more: &[&str]| parse(&[&["--run-dir", "/run/x"], more].concat()).unwrap_err();
        assert!(with(&["--watchdog-timeout", "4"]).contains("--watchdog-timeout"));
        assert!(with(&["--watchdog-timeout", "x"]).contains("whole seconds"));
        assert!(with(&["--class", "A"]).contains("--device"));
        assert!(with(&["--services", "outside"]).contains("--device"));
        assert!(with(&["--services", "mine"]).contains("own or outside"));
        assert!(with(&["--class", "E"]).contains("not E"));
    }
}
