//! `haguard qnetd`: the arbiter. It takes corosync-qnetd's flags, so it reads them itself.

use std::process::ExitCode;

use crate::logging;

/// Runs the arbiter, called as `program` with the arguments after that name.
pub fn run(program: &str, args: &[String]) -> ExitCode {
    qnetd::main_qnetd(program, args, |options| {
        if options.foreground {
            logging::start(options.debug)
        } else {
            logging::start_in_background(program, options.debug)
        }
    })
}
