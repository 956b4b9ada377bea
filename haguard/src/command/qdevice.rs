//! `haguard qdevice`: the quorum device. It takes corosync-qdevice's flags, so it reads them
//! itself.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context;
use qdevice::config::{Options, Places};

use crate::logging;
use crate::screen::complain;

/// What `-h` says of our own name, behind the flags.
const OURS: &str = "
It stays in the foreground and logs to standard error; -f is accepted and changes nothing.
SIGTERM and SIGINT stop it.
Exit codes: 0 stopped as asked, 1 it could not start or go on, 2 wrong arguments.
";

/// Runs the device, called as `program` with the arguments after that name. Under the stock name
/// it goes into the background without `-f`, and `-h` ends with 1, as corosync-qdevice does.
pub fn run(program: &str, args: &[String], places: Places) -> ExitCode {
    let is_ours = places == Places::Haguard;
    let known = |flag: &String| match flag.as_str() {
        "--help" if is_ours => "-h".to_owned(),
        _ => flag.clone(),
    };
    let args: Vec<String> = args.iter().map(known).collect();
    let mut options = match qdevice::prepare(program, &args, places) {
        Ok(options) => options,
        Err(refusal) if !is_ours => return print(&refusal.stdout, &refusal.stderr, refusal.code),
        Err(refusal) if refusal.stderr.is_empty() => return print(&(refusal.stdout + OURS), "", 0),
        Err(refusal) => {
            let text = refusal.stderr.trim_end();
            complain(&format!("{text}; {program} -h shows all flags"));
            return ExitCode::from(refusal.code);
        }
    };
    options.foreground |= is_ours;
    match start(program, options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("{program}: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn start(program: &str, options: Options) -> anyhow::Result<()> {
    if options.foreground {
        let _log = logging::start(options.debug);
        return qdevice::run_blocking(options);
    }
    // Before anything has made a thread: it forks.
    nix::unistd::daemon(true, false).context("cannot go into the background")?;
    let _log = logging::start_in_background(program, options.debug);
    qdevice::run_blocking(options).inspect_err(|error| tracing::error!("{error:#}"))
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
