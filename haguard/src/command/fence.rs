//! `haguard fence`: the gateway, and what people and scripts ask of it.

pub mod agent;
mod door;
mod table;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use clap::{ArgAction, Args, Subcommand};
use fence::config::value::Endpoint;
use fence::daemon::local::Ask;
use fence::journal;
use protocol::fence::{Confirmation, GatewayStatus, Outcome, PowerAction, Progress, Request};
use protocol::ids::NodeId;

use crate::logging;
use crate::screen::{Brush, complain, say};
use door::{Door, Place};

/// `status`: the node is off, as a fence agent says it (FenceAgentAPI).
const EXIT_OFF: u8 = 2;
/// `list`: something is not ready.
const EXIT_ALARM: u8 = 2;

/// The arguments of `haguard fence`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Exit codes: 0 done (status: on; list: all is ready); 2 status: off; list: \
something is not ready; also wrong arguments; 1 refused, failed, or nothing can be said."
)]
pub struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Clone, Debug, Subcommand)]
enum What {
    /// Run the gateway
    Gateway(Gateway),
    /// Cut a node's power and prove that it is off
    Off(Power),
    /// The same, and give power again
    Reboot(Power),
    /// Give a node power
    On(Power),
    /// Read a node's power: exit code 0 on, 2 off, 1 unknown
    Status {
        /// Which node
        #[arg(value_parser = clap::value_parser!(u32).range(1..))]
        node: u32,
        #[command(flatten)]
        at: At,
    },
    /// Show every node, its devices, and whether they would work now
    List {
        #[command(flatten)]
        at: At,
    },
    /// Show what was asked, decided, tried and proven
    History {
        /// From this line of the journal on
        #[arg(long, value_name = "LINE", default_value_t = 0)]
        since: u64,
        #[command(flatten)]
        at: At,
    },
    /// Check the journal's chain: that nothing was changed, taken out or put in
    VerifyJournal {
        /// The gateway's state directory
        #[arg(long, value_name = "DIR", default_value = "/var/lib/haguard/fence")]
        state_dir: PathBuf,
    },
    /// Go the whole way to a node without cutting anything, and say how long a real fence takes
    Test {
        /// Which node
        #[arg(value_parser = clap::value_parser!(u32).range(1..))]
        node: u32,
        #[command(flatten)]
        at: At,
    },
    /// Say that a node is off: when every level has failed, and you have seen it yourself
    Confirm {
        /// Which node
        #[arg(value_parser = clap::value_parser!(u32).range(1..))]
        node: u32,
        /// Who says so
        #[arg(long, value_name = "NAME")]
        by: String,
        /// How it is known
        #[arg(long, value_name = "TEXT")]
        why: String,
        #[command(flatten)]
        side: Side,
        #[command(flatten)]
        at: At,
    },
}

/// The gateway's own flags; each stands over its file.
#[derive(Args, Clone, Debug)]
struct Gateway {
    /// What it serves and by which devices, TOML [default: /etc/haguard/gateway.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The journal [default: /var/lib/haguard/fence]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// The local socket and the lock [default: /run/haguard]
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// The authority's certificate, PEM [default: /etc/haguard/ca.pem]
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// The gateway's certificate, PEM [default: /etc/haguard/gateway.pem]
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// Its private key, PEM [default: /etc/haguard/gateway-key.pem]
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Where requesters come to [default: [::]:5413]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
    /// The cluster's arbiter, port 5403 unless given
    #[arg(long, value_name = "HOST[:PORT]")]
    arbiter: Option<String>,
    /// Where /metrics is served, in plain text
    #[arg(long, value_name = "ADDR:PORT")]
    metrics: Option<SocketAddr>,
    /// Read everything that a start would read, say what is wrong, and end
    #[arg(long)]
    check: bool,
    /// Log more; twice: everything
    #[arg(short, action = ArgAction::Count)]
    debug: u8,
}

#[derive(Args, Clone, Debug)]
struct Power {
    /// Which nodes
    #[arg(required = true, value_parser = clap::value_parser!(u32).range(1..))]
    nodes: Vec<u32>,
    /// Why, for the journal
    #[arg(long, value_name = "TEXT", default_value = "asked for by an operator")]
    why: String,
    #[command(flatten)]
    side: Side,
    #[command(flatten)]
    at: At,
}

/// For whose side it is asked.
#[derive(Args, Clone, Debug)]
struct Side {
    /// The node for whose side this is asked [default: the one that the certificate names]
    #[arg(long = "for", value_name = "NODE", value_parser = clap::value_parser!(u32).range(1..))]
    requester: Option<u32>,
}

/// Where the gateway is.
#[derive(Args, Clone, Debug)]
struct At {
    /// The gateway, port 5413 unless given [default: this machine's own]
    #[arg(long, value_name = "HOST[:PORT]")]
    gateway: Option<String>,
    /// Where this machine's gateway has its socket
    #[arg(long, value_name = "DIR", default_value = "/run/haguard")]
    run_dir: PathBuf,
    /// The authority's certificate, PEM
    #[arg(long, value_name = "FILE", default_value = "/etc/haguard/ca.pem")]
    tls_ca: PathBuf,
    /// The node's certificate, PEM
    #[arg(long, value_name = "FILE", default_value = "/etc/haguard/node.pem")]
    tls_cert: PathBuf,
    /// Its private key, PEM
    #[arg(long, value_name = "FILE", default_value = "/etc/haguard/node-key.pem")]
    tls_key: PathBuf,
    /// JSON instead of a table: one object, or one a line
    #[arg(long)]
    json: bool,
}

impl At {
    fn door(&self) -> Result<Door> {
        Door::find(&Place {
            gateway: self.gateway.clone(),
            run_dir: self.run_dir.clone(),
            ca: self.tls_ca.clone(),
            certificate: self.tls_cert.clone(),
            key: self.tls_key.clone(),
        })
    }
}

/// Runs the verb.
///
/// # Errors
/// One line: what happened, where, and what to do.
pub fn run(options: &Options) -> Result<ExitCode> {
    match &options.what {
        What::Gateway(flags) => gateway(flags),
        What::Off(power) => cut(power, PowerAction::Off),
        What::Reboot(power) => cut(power, PowerAction::Reboot),
        What::On(power) => cut(power, PowerAction::On),
        What::Status { node, at } => status(at, NodeId(*node)),
        What::List { at } => list(at),
        What::History { since, at } => history(at, *since),
        What::VerifyJournal { state_dir } => verify(state_dir),
        What::Test { node, at } => follow(&at.door()?, &Ask::Test { node: NodeId(*node) }, at.json),
        What::Confirm { node, by, why, side, at } => {
            let door = at.door()?;
            let confirmation = Confirmation {
                requester: requester(&door, side)?,
                epoch: None,
                node: NodeId(*node),
                by: by.clone(),
                why: why.clone(),
            };
            follow(&door, &Ask::Confirm(confirmation), at.json)
        }
    }
}

fn gateway(flags: &Gateway) -> Result<ExitCode> {
    let log = logging::start(flags.debug);
    let mut options = fence::daemon::Options {
        state_dir: flags.state_dir.clone(),
        run_dir: flags.run_dir.clone(),
        tls_ca: flags.tls_ca.clone(),
        tls_cert: flags.tls_cert.clone(),
        tls_key: flags.tls_key.clone(),
        listen: flags.listen,
        metrics: flags.metrics,
        ..fence::daemon::Options::default()
    };
    if let Some(config) = &flags.config {
        options.config.clone_from(config);
    }
    if let Some(given) = &flags.arbiter {
        let arbiter = Endpoint::parse(given, protocol::qnet::PORT);
        let wrong = || anyhow!("--arbiter {given}: this is no HOST or HOST:PORT");
        options.arbiter = Some(arbiter.ok_or_else(wrong)?);
    }
    if flags.check {
        let warnings = fence::daemon::check(&options)?;
        drop(log);
        for warning in warnings {
            complain(&format!("haguard fence gateway: {warning}"));
        }
        say("everything that a start needs is there");
        return Ok(ExitCode::SUCCESS);
    }
    runtime()?.block_on(fence::daemon::run(options))?;
    Ok(ExitCode::SUCCESS)
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the runtime")
}

/// For whose side something is asked: an operator at the gateway has to say it.
fn requester(door: &Door, side: &Side) -> Result<NodeId> {
    let named = side.requester.map(NodeId).or(door.node());
    named.context("for which side? name a node of it with --for NODE")
}

fn cut(power: &Power, action: PowerAction) -> Result<ExitCode> {
    let door = power.at.door()?;
    let request = Request {
        requester: requester(&door, &power.side)?,
        epoch: None,
        targets: power.nodes.iter().copied().map(NodeId).collect(),
        action,
        reason: power.why.clone(),
    };
    follow(&door, &Ask::Fence(request), power.at.json)
}

/// Asks, takes each step to `each` as it comes, and says how it ended for whom.
fn to_end(
    door: &Door,
    ask: &Ask,
    each: &mut (dyn FnMut(&[u8], &Progress) + Send),
) -> Result<BTreeMap<NodeId, Outcome>> {
    let mut done = None;
    runtime()?.block_on(door.ask(ask, &mut |line| {
        let progress: Progress = serde_json::from_slice(line).context("of another version")?;
        each(line, &progress);
        if let Progress::Done { results } = progress {
            done = Some(results);
        }
        Ok(())
    }))?;
    done.context("the gateway ended before the job: ask again, it goes on")
}

/// Asks, shows each step as it comes, and judges the end.
fn follow(door: &Door, ask: &Ask, json: bool) -> Result<ExitCode> {
    let brush = Brush::for_stdout();
    let results = to_end(door, ask, &mut |line, progress| {
        if json {
            say(&String::from_utf8_lossy(line));
        } else if let Some(text) = table::step(progress, brush) {
            say(&text);
        }
    })?;
    let good = results.values().all(is_good);
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What was asked for is done. A reboot is done when the node is proven off: whether it has power
/// again is its own affair.
fn is_good(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Off { .. } | Outcome::Rebooted { .. } | Outcome::On => true,
        Outcome::Refused { .. } | Outcome::Failed { .. } => false,
    }
}

fn snapshot(door: &Door) -> Result<GatewayStatus> {
    let mut status = None;
    runtime()?.block_on(door.ask(&Ask::Status, &mut |line| {
        status = Some(serde_json::from_slice(line).context("of another version")?);
        Ok(())
    }))?;
    status.context("the gateway gave no answer")
}

/// Reads the devices of a node now.
fn read_power(door: &Door, node: NodeId) -> Result<GatewayStatus> {
    runtime()?.block_on(door.ask(&Ask::Test { node }, &mut |_| Ok(())))?;
    snapshot(door)
}

fn status(at: &At, node: NodeId) -> Result<ExitCode> {
    let status = read_power(&at.door()?, node)?;
    let power = table::power_of(&status, node)?;
    if at.json {
        say(&serde_json::json!({ "node": node.0, "power": power }).to_string());
    } else {
        say(&format!("node {node}: {power}"));
    }
    Ok(match power {
        "on" => ExitCode::SUCCESS,
        "off" => ExitCode::from(EXIT_OFF),
        _ => ExitCode::FAILURE,
    })
}

fn list(at: &At) -> Result<ExitCode> {
    let status = snapshot(&at.door()?)?;
    if at.json {
        say(&serde_json::to_string_pretty(&status)?);
    } else {
        say(&table::list(&status, Brush::for_stdout()));
    }
    let ready = status.alarms.is_empty();
    Ok(if ready { ExitCode::SUCCESS } else { ExitCode::from(EXIT_ALARM) })
}

/// The gateway answers with so many lines at a time; who has got some asks on from the last one.
fn history(at: &At, since: u64) -> Result<ExitCode> {
    let (door, runtime) = (at.door()?, runtime()?);
    let mut next = since;
    loop {
        let from = next;
        runtime.block_on(door.ask(&Ask::History { since: from }, &mut |line| {
            let (number, text) = table::entry(line)?;
            if at.json {
                say(&String::from_utf8_lossy(line));
            } else {
                say(&text);
            }
            next = next.max(number + 1);
            Ok(())
        }))?;
        if next == from {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

fn verify(state_dir: &std::path::Path) -> Result<ExitCode> {
    let path = journal::path(state_dir);
    match journal::verify(&path) {
        Ok(summary) => say(&format!("{}: {summary}", path.display())),
        Err(broken) => bail!("{}: {broken}", path.display()),
    }
    Ok(ExitCode::SUCCESS)
}
