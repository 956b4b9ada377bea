//! `haguard node`: the node stack.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{ArgAction, Args};
use node::options::{Options, Settings, parse_listen};
use protocol::ids::NodeId;

use crate::logging;

/// Read if it exists and no other is named.
const DEFAULT_CONFIG: &str = "/etc/haguard/node.toml";

/// The arguments of `haguard node`. Each stands over the settings file.
#[derive(Args, Clone, Debug)]
pub struct Flags {
    /// The node's own settings, TOML [default: /etc/haguard/node.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The cluster's configuration, corosync.conf syntax [default: /etc/haguard/corosync.conf]
    #[arg(long, value_name = "FILE")]
    cluster_conf: Option<PathBuf>,
    /// Which of its nodes this is [default: found by this host's addresses and name]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    node_id: Option<u32>,
    /// Listen there instead of ringLINK_addr and its port, for hosts behind NAT; repeatable
    #[arg(long, value_name = "LINK=ADDR:PORT", value_parser = listen)]
    listen: Vec<(u8, SocketAddr)>,
    /// What survives a restart [default: /var/lib/haguard/node]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Sockets and locks [default: /run/haguard]
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// The authority's certificate, PEM [default: /etc/haguard/ca.pem]
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// This node's certificate, PEM [default: /etc/haguard/node.pem]
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// Its private key, PEM [default: /etc/haguard/node-key.pem]
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Log more; twice: everything
    #[arg(short, action = ArgAction::Count)]
    debug: u8,
}

fn listen(text: &str) -> Result<(u8, SocketAddr), String> {
    parse_listen(text).map_err(|error| error.to_string())
}

/// Runs the node until it has left its cluster.
///
/// # Errors
/// One line: what keeps it from starting, where, and what to do.
pub fn run(flags: Flags) -> Result<()> {
    let _log = logging::start(flags.debug);
    let options = options(flags)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the runtime")?.block_on(node::daemon::run(options))
}

fn options(flags: Flags) -> Result<Options> {
    let mut options = Options::default();
    let default = PathBuf::from(DEFAULT_CONFIG);
    let file = flags.config.or_else(|| default.exists().then_some(default));
    if let Some(file) = file {
        Settings::read(&file)?.apply(&mut options)?;
    }
    options.node_id = flags.node_id.map(NodeId).or(options.node_id);
    options.listen.extend(flags.listen);
    let paths = [
        (flags.cluster_conf, &mut options.cluster_conf),
        (flags.state_dir, &mut options.state_dir),
        (flags.run_dir, &mut options.run_dir),
        (flags.tls_ca, &mut options.tls_ca),
        (flags.tls_cert, &mut options.tls_cert),
        (flags.tls_key, &mut options.tls_key),
    ];
    for (given, place) in paths {
        if let Some(given) = given {
            *place = given;
        }
    }
    Ok(options)
}
