//! `haguard status`: the whole picture of this machine, from whichever of its daemons run.

mod text;
mod watch;

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use host::clock;
use protocol::status::{ArbiterStatus, NodeStatus, QuorumState};
use serde_json::{Value, json};

use crate::screen::{Brush, say};

/// The node's socket in the run directory.
const NODE_SOCKET: &str = "node.sock";
/// The arbiter's.
const ARBITER_SOCKET: &str = "qnetd.sock";
/// The quorum device's.
const DEVICE_SOCKET: &str = "qdevice.sock";
/// A daemon that has not answered by then is stuck.
const PATIENCE: Duration = Duration::from_secs(2);
/// More than any answer.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// Frozen or inquorate.
const EXIT_NOT_QUORATE: u8 = 2;

/// The arguments of `haguard status`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Exit codes: 0 the node is quorate, or only an arbiter runs here and it \
answers; 2 the node is frozen or inquorate (and after a wrong argument); 1 nothing can be said.")]
pub struct Options {
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
    /// Draw it again every second until Ctrl-C; with --json one line a second
    #[arg(long)]
    watch: bool,
    /// Where the daemons' sockets are
    #[arg(long, value_name = "DIR", default_value = "/run/haguard")]
    run_dir: PathBuf,
}

/// Runs the verb.
///
/// # Errors
/// When no daemon answers: which were looked for, and why none does.
pub fn run(options: &Options) -> Result<ExitCode> {
    if options.watch {
        watch::run(options)
    } else {
        show(options).map(|picture| picture.exit_code())
    }
}

fn show(options: &Options) -> Result<Picture> {
    let picture = Picture::take(&options.run_dir)?;
    if options.json {
        say(&serde_json::to_string_pretty(&picture.json()?)?);
    } else {
        say(&text::draw(&picture, Brush::for_stdout()));
    }
    Ok(picture)
}

/// What the daemons of this machine say.
#[derive(Debug, Default)]
struct Picture {
    node: Option<NodeStatus>,
    arbiter: Option<ArbiterStatus>,
    /// Daemons that should run here, for their sockets are there, and do not answer.
    problems: Vec<String>,
}

impl Picture {
    fn take(run_dir: &Path) -> Result<Self> {
        let mut picture = Self::default();
        let mut found = false;
        match ask(&run_dir.join(NODE_SOCKET), "status\n") {
            Ok(answer) => {
                found |= answer.is_some();
                picture.node = answer.map(|text| parse("node", &text)).transpose()?;
            }
            Err(error) => picture.problems.push(format!("haguard node: {error:#}")),
        }
        match ask(&run_dir.join(ARBITER_SOCKET), "haguard-status\n") {
            Ok(answer) => {
                found |= answer.is_some();
                picture.arbiter = answer.map(|text| parse_arbiter(&text)).transpose()?;
            }
            Err(error) => picture.problems.push(format!("haguard qnetd: {error:#}")),
        }
        // The node tells what its device does; here only whether it answers at all.
        match ask(&run_dir.join(DEVICE_SOCKET), "status\n") {
            Ok(answer) => {
                found |= answer.is_some();
                let expects_device = picture.node.as_ref().is_some_and(|node| {
                    node.qdevice.is_none() && node.votes.expected > node.peers_and_self()
                });
                if answer.is_none() && expects_device {
                    let text = "haguard qdevice: not running, and this cluster has a quorum device";
                    picture.problems.push(text.to_owned());
                }
            }
            Err(error) => picture.problems.push(format!("haguard qdevice: {error:#}")),
        }
        if picture.node.is_some() || picture.arbiter.is_some() {
            return Ok(picture);
        }
        if !picture.problems.is_empty() {
            bail!("{}", picture.problems.join("; "));
        }
        let place = run_dir.display();
        if found {
            bail!("only a quorum device runs in {place}: start haguard node");
        }
        bail!(
            "no daemon runs in {place}: start haguard node or haguard qnetd, or give the \
             --run-dir they were started with"
        )
    }

    fn json(&self) -> Result<Value> {
        let mut object = match &self.node {
            Some(node) => serde_json::to_value(node)?,
            None => json!({}),
        };
        if let Some(arbiter) = &self.arbiter {
            object["arbiter"] = serde_json::to_value(arbiter)?;
        }
        object["problems"] = serde_json::to_value(&self.problems)?;
        Ok(object)
    }

    fn exit_code(&self) -> ExitCode {
        match &self.node {
            Some(node) => match node.state {
                QuorumState::Quorate => ExitCode::SUCCESS,
                QuorumState::Frozen | QuorumState::Inquorate => ExitCode::from(EXIT_NOT_QUORATE),
            },
            // A node that does not answer is not known to be quorate, whatever the arbiter says.
            None if self.problems.iter().any(|text| text.starts_with("haguard node")) => {
                ExitCode::FAILURE
            }
            None => ExitCode::SUCCESS,
        }
    }
}

/// How many nodes a status knows of.
trait Nodes {
    fn peers_and_self(&self) -> u32;
}

impl Nodes for NodeStatus {
    fn peers_and_self(&self) -> u32 {
        u32::try_from(self.peers.len()).unwrap_or(u32::MAX).saturating_add(1)
    }
}

/// Asks a daemon; `None` if it was never started here.
fn ask(socket: &Path, question: &str) -> Result<Option<String>> {
    let place = socket.display();
    let mut stream = match UnixStream::connect(socket) {
        Ok(stream) => stream,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            bail!("not running, its socket {place} is left over: start it again")
        }
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            bail!("{place} may not be opened: ask as root or as a member of its group")
        }
        Err(error) => return Err(anyhow!("{place}: {error}")),
    };
    let late = || format!("{place}: no answer within {} s: is it stopped?", PATIENCE.as_secs());
    stream.set_write_timeout(Some(PATIENCE)).context("a socket has no time limit")?;
    stream.write_all(question.as_bytes()).with_context(late)?;
    // The limit is for the whole answer, not for each piece of it.
    let start = clock::read().boottime_ns;
    let mut answer = Vec::new();
    let mut chunk = [0; 16384];
    loop {
        let passed = Duration::from_nanos(clock::read().boottime_ns.saturating_sub(start));
        let Some(left) = PATIENCE.checked_sub(passed).filter(|left| !left.is_zero()) else {
            bail!(late());
        };
        stream.set_read_timeout(Some(left)).context("a socket has no time limit")?;
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(length) => answer.extend_from_slice(&chunk[..length]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                bail!(late());
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(anyhow!("{place}: {error}")),
        }
        if answer.len() as u64 > ANSWER_BYTES_MAX {
            bail!("{place}: the answer is too long to be one: who listens there?");
        }
    }
    if answer.is_empty() {
        bail!("{place}: closed without an answer: see its log");
    }
    Ok(Some(String::from_utf8_lossy(&answer).into_owned()))
}

fn parse(who: &str, text: &str) -> Result<NodeStatus> {
    serde_json::from_str(text).with_context(|| {
        format!(
            "haguard {who}: its answer is no status; is it of another version than this command?"
        )
    })
}

/// The arbiter speaks as the stock one does: a line `OK`, then the text.
fn parse_arbiter(text: &str) -> Result<ArbiterStatus> {
    let body = text.strip_prefix("OK\n").ok_or_else(|| {
        let first = text.lines().nth(1).unwrap_or(text).trim();
        anyhow!("haguard qnetd: refused to answer ({first}); is it a stock corosync-qnetd?")
    })?;
    serde_json::from_str(body).context(
        "haguard qnetd: its answer is no status; is it of another version than this command?",
    )
}
