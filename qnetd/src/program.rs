//! `haguard qnetd`, also under the name `corosync-qnetd`: from arguments to exit code.

mod log;

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use protocol::qnet::{MessageType, numbers};

use crate::config::{self, Invocation, Options, Places};
use crate::daemon;

/// The stock daemon's name; under it, files are where its tools and units expect them.
const STOCK_NAME: &str = "corosync-qnetd";

/// Read if it exists and no other is named.
const DEFAULT_CONFIG: &str = "/etc/haguard/qnetd.toml";

/// Largest configuration file, in bytes.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// The daemon, called as `program` with the arguments after that name (after the word `qnetd` in
/// `haguard qnetd`). Exit codes (wire 3.2): 0 after a stop that was asked for; 1 for `-h`, `-v`,
/// wrong arguments and any failure to start.
pub fn main_qnetd(program: &str, args: &[String]) -> ExitCode {
    let is_stock = Path::new(program).file_name().is_some_and(|name| name == STOCK_NAME);
    let places = if is_stock { Places::Stock } else { Places::Haguard };
    let options = match config::parse(args, places) {
        Ok(Invocation::Run(options)) => *options,
        Ok(Invocation::Help) => {
            say(&mut io::stdout(), &config::usage(program));
            return ExitCode::FAILURE;
        }
        Ok(Invocation::Version) => {
            say(&mut io::stdout(), &version());
            return ExitCode::FAILURE;
        }
        Err(error) => {
            say(&mut io::stderr(), &format!("{program}: {error}\n"));
            if error.wants_usage() {
                say(&mut io::stderr(), &config::usage(program));
            }
            return ExitCode::FAILURE;
        }
    };
    match start(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&mut io::stderr(), &format!("{program}: {error:#}\n"));
            ExitCode::FAILURE
        }
    }
}

fn start(options: Options) -> anyhow::Result<()> {
    let options = read_file(options)?;
    daemon::check(&options)?;
    if !options.foreground {
        nix::unistd::daemon(true, false).context("cannot go into the background")?;
    }
    log::start(&options);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the runtime")?.block_on(daemon::run(options))
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
