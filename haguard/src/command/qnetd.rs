//! `haguard qnetd`: the arbiter. It takes corosync-qnetd's flags, so it reads them itself.

use std::process::ExitCode;

use qnetd::config::{self, Invocation, Places};

use crate::logging;

/// Runs the arbiter, called as `program` with the arguments after that name.
pub fn run(program: &str, args: &[String]) -> ExitCode {
    // Only for the log's level; what is wrong with the arguments the arbiter says itself.
    if let Ok(Invocation::Run(options)) = config::parse(args, Places::Haguard) {
        logging::start(options.debug);
    }
    qnetd::main_qnetd(program, args)
}
