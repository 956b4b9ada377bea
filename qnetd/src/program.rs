//! `haguard qnetd`, also under the name `corosync-qnetd`: from arguments to exit code.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use protocol::qnet::{MessageType, numbers};

use crate::config::{self, Invocation, Options, Places, UsageError};
use crate::daemon;
use crate::shadow::{self, Plan};

/// The stock daemon's name; under it, files are where its tools and units expect them.
const STOCK_NAME: &str = "corosync-qnetd";

/// Read if it exists and no other is named.
const DEFAULT_CONFIG: &str = "/etc/haguard/qnetd.toml";

/// Largest configuration file, in bytes.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// What `-h` says of our own name, behind the flags.
const OURS: &str = "
It stays in the foreground and logs to standard error; -f is accepted and changes nothing.
SIGTERM and SIGINT stop it, SIGHUP makes it read its certificates again.
Exit codes: 0 stopped as asked, 1 it could not start, 2 wrong arguments; with --shadow also 3,
stopped as asked after a difference that was not explained.
";

/// Whose manners the daemon has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Manners {
    /// Ours: in the foreground; 0 for help and version, 2 for wrong arguments.
    Haguard,
    /// The stock daemon's (wire 3.2): without `-f` in the background; 1 for all of these.
    Stock,
}

impl Manners {
    fn of(program: &str) -> Self {
        let is_stock = Path::new(program).file_name().is_some_and(|name| name == STOCK_NAME);
        if is_stock { Self::Stock } else { Self::Haguard }
    }

    fn places(self) -> Places {
        match self {
            Self::Haguard => Places::Haguard,
            Self::Stock => Places::Stock,
        }
    }

    fn told(self) -> ExitCode {
        match self {
            Self::Haguard => ExitCode::SUCCESS,
            Self::Stock => ExitCode::FAILURE,
        }
    }

    fn misused(self) -> ExitCode {
        match self {
            Self::Haguard => ExitCode::from(2),
            Self::Stock => ExitCode::FAILURE,
        }
    }
}

/// The daemon, called as `program` with the arguments after that name (after the word `qnetd` in
/// `haguard qnetd`). `log` starts the log; it is called once, after the fork where there is one,
/// with the options, which say whether standard error is still there (`foreground`). What it
/// returns is dropped before the last words to standard error, which come behind the log.
///
/// Exit codes: 0 after a stop that was asked for, 1 for any failure to start. For `-h`, `-v` and
/// wrong arguments 1 as well under the stock name (wire 3.2), under any other 0, 0 and 2.
pub fn main_qnetd<G>(program: &str, args: &[String], log: impl FnOnce(&Options) -> G) -> ExitCode {
    let manners = Manners::of(program);
    let mut options = match config::parse(args, manners.places()) {
        Ok(Invocation::Run(options)) => *options,
        Ok(Invocation::Help) => {
            say(&mut io::stdout(), &usage(program, manners));
            return manners.told();
        }
        Ok(Invocation::Version) => {
            say(&mut io::stdout(), &version());
            return manners.told();
        }
        Err(error) => return refuse(program, manners, &error),
    };
    options.foreground |= manners == Manners::Haguard;
    match start(options, log) {
        Ok(code) => code,
        Err(error) => {
            say(&mut io::stderr(), &format!("{program}: {error:#}\n"));
            ExitCode::FAILURE
        }
    }
}

fn refuse(program: &str, manners: Manners, error: &UsageError) -> ExitCode {
    match (manners, error) {
        (Manners::Haguard, UsageError::UnknownLongFlag(flag, _)) if flag == "help" => {
            say(&mut io::stdout(), &usage(program, manners));
            return manners.told();
        }
        (Manners::Haguard, UsageError::UnknownLongFlag(flag, _)) if flag == "version" => {
            say(&mut io::stdout(), &version());
            return manners.told();
        }
        (Manners::Haguard, _) => {
            say(&mut io::stderr(), &format!("{program}: {error}; {program} -h shows all flags\n"));
        }
        (Manners::Stock, _) => {
            say(&mut io::stderr(), &format!("{program}: {error}\n"));
            if error.wants_usage() {
                say(&mut io::stderr(), &config::usage(program));
            }
        }
    }
    manners.misused()
}

fn usage(program: &str, manners: Manners) -> String {
    let ours = match manners {
        Manners::Haguard => OURS,
        Manners::Stock => "",
    };
    format!("{}{ours}", config::usage(program))
}

/// What can be told on standard error is told before the fork: the stock daemon forks first, and
/// ends with 0 whatever then goes wrong.
fn start<G>(options: Options, log: impl FnOnce(&Options) -> G) -> anyhow::Result<ExitCode> {
    let options = read_file(options)?;
    let plan = Plan::of(&options);
    match &plan {
        Some(plan) => shadow::daemon::check(&options, plan)?,
        None => daemon::check(&options)?,
    }
    if !options.foreground {
        nix::unistd::daemon(true, false).context("cannot go into the background")?;
    }
    let _log = log(&options);
    let is_heard = options.foreground;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = runtime.context("cannot start the runtime")?.block_on(async {
        match plan {
            Some(plan) => shadow::run(options, plan).await.map(|found| found.exit_code()),
            None => daemon::run(options).await.map(|()| ExitCode::SUCCESS),
        }
    });
    if let (Err(error), false) = (&ended, is_heard) {
        tracing::error!("{error:#}");
    }
    ended
}

fn read_file(options: Options) -> anyhow::Result<Options> {
    let named = options.config_file.clone();
    let path = named.clone().unwrap_or_else(|| DEFAULT_CONFIG.into());
    match host::file::read(&path, CONFIG_BYTES_MAX)? {
        Some(bytes) => {
            let text = String::from_utf8(bytes);
            let text = text.with_context(|| format!("{} is not UTF-8 text", path.display()))?;
            Ok(options.with_file(&path, &text)?)
        }
        None if named.is_some() => {
            anyhow::bail!("{}: there is no such file: correct --config", path.display())
        }
        None => Ok(options),
    }
}

/// The text of `-v`, in the shape of the stock daemon's.
fn version() -> String {
    let algorithms: Vec<String> = (0..=u16::MAX)
        .map_while(|number| Some((number, numbers::algorithm_from_number(number)?)))
        .map(|(number, algorithm)| format!("{algorithm} ({number})"))
        .collect();
    let messages: Vec<String> =
        MessageType::ALL.iter().map(|kind| format!("{} ({})", name(*kind), *kind as u16)).collect();
    format!(
        "haguard qnetd, version '{}', in place of Corosync Qdevice Network Daemon\n\n\
         Supported algorithms: {}\nSupported message types: {}\n",
        env!("CARGO_PKG_VERSION"),
        algorithms.join(", "),
        messages.join(", ")
    )
}

fn name(kind: MessageType) -> &'static str {
    match kind {
        MessageType::Preinit => "Preinit",
        MessageType::PreinitReply => "Preinit reply",
        MessageType::StartTls => "StartTLS",
        MessageType::Init => "Init",
        MessageType::InitReply => "Init reply",
        MessageType::ServerError => "Server error",
        MessageType::SetOption => "Set option",
        MessageType::SetOptionReply => "Set option reply",
        MessageType::EchoRequest => "Echo request",
        MessageType::EchoReply => "Echo reply",
        MessageType::NodeList => "Node list",
        MessageType::NodeListReply => "Node list reply",
        MessageType::AskForVote => "Ask for vote",
        MessageType::AskForVoteReply => "Ask for vote reply",
        MessageType::VoteInfo => "Vote info",
        MessageType::VoteInfoReply => "Vote info reply",
        MessageType::HeuristicsChange => "Heuristics change",
        MessageType::HeuristicsChangeReply => "Heuristics change reply",
    }
}

/// Prints; who has closed the other end does not want to read it.
fn say(to: &mut impl Write, text: &str) {
    let _ = to.write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_lists_what_the_stock_daemon_lists() {
        let text = version();
        assert!(text.contains(
            "\nSupported algorithms: Test (0), Fifty-Fifty split (1), 2 Node LMS (2), LMS (3)\n"
        ));
        assert!(text.contains("\nSupported message types: Preinit (0), Preinit reply (1), "));
        assert!(text.ends_with("Heuristics change (16), Heuristics change reply (17)\n"));
    }
}
