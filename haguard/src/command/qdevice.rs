//! `haguard qdevice`: the quorum device. It takes corosync-qdevice's flags, so it reads them
//! itself.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context;
use qdevice::config::{Options, Places};

use crate::logging;
use crate::screen::complain;

/// Runs the device, called as `program` with the arguments after that name.
pub fn run(program: &str, args: &[String], places: Places) -> ExitCode {
    let options = match qdevice::prepare(program, args, places) {
        Ok(options) => options,
        Err(refusal) => return print(&refusal.stdout, &refusal.stderr, refusal.code),
    };
    logging::start(options.debug);
    match start(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("{program}: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn start(options: Options) -> anyhow::Result<()> {
    if !options.foreground {
        // Before anything has made a thread: it forks.
        nix::unistd::daemon(true, false).context("cannot go into the background")?;
    }
    qdevice::run_blocking(options)
}

/// `corosync-qdevice-tool`, called as `program` with the arguments after that name.
pub fn tool(program: &str, args: &[String]) -> ExitCode {
    let outcome = qdevice::tool::run(program, args);
    print(&outcome.stdout, &outcome.stderr, outcome.code)
}

/// Who has closed the pipe does not want to read it.
fn print(stdout: &str, stderr: &str, code: u8) -> ExitCode {
    let _ = io::stderr().write_all(stderr.as_bytes());
    let _ = io::stdout().write_all(stdout.as_bytes());
    ExitCode::from(code)
}
