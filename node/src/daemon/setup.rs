//! Everything that must be in order before a node starts. Each refusal is one error that says
//! what, where, and what to do.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::bail;
use certs::{Credential, Trust, files};
use host::file;
use host::lock::Lock;
use nix::ifaddrs::getifaddrs;
use protocol::ids::{InstanceId, NodeId};
use tokio::time::timeout;
use tracing::{debug, warn};

use super::proof;
use crate::conf::{self, ClusterConf, Level};
use crate::core::{Identity, Stored};
use crate::options::{LOCK_FILE, Options, STATE_FILE};
use crate::store::Store;

/// How long one name of the configuration may take to resolve while the node finds itself.
const RESOLVE_LIMIT: Duration = Duration::from_secs(5);

/// What a node starts with.
pub(super) struct Setup {
    pub(super) conf: ClusterConf,
    pub(super) me: NodeId,
    pub(super) trust: Trust,
    pub(super) own: Credential,
    pub(super) identity: Identity,
    pub(super) store: Store,
    pub(super) stored: Stored,
    /// For the network's own random waits.
    pub(super) seed: u64,
    /// Held as long as the daemon lives.
    pub(super) locks: [Lock; 2],
}

/// Reads and checks everything; changes nothing but the lock files.
pub(super) async fn prepare(options: &Options) -> anyhow::Result<Setup> {
    options.check()?;
    let loaded = conf::read(&options.cluster_conf, &conf::Options::default())?;
    let conf = loaded.conf;
    show_warnings(&options.cluster_conf, &loaded.warnings);
    let me = own_node(options, &conf).await?;
    let trust = files::load_trust(&options.tls_ca)?;
    let own = files::load_credential(&options.tls_cert, &options.tls_key)?;
    proof::check(&trust, &own, &conf.cluster_name, me)
        .map_err(|why| anyhow::anyhow!("{}: {why}", options.tls_cert.display()))?;
    let run_lock = Lock::take(&options.run_dir.join(LOCK_FILE))?;
    let state_lock = Lock::take(&options.state_dir.join(LOCK_FILE))?;
    let path = options.state_dir.join(STATE_FILE);
    let (store, stored) = Store::open(&path, &conf.cluster_name, me)?;
    let random = file::random_u128()?;
    let halves = [random as u64, (random >> 64) as u64];
    let instance = InstanceId(halves[0]);
    let identity = Identity { instance, boot: file::boot_id(), seed: halves[1] };
    Ok(Setup {
        conf,
        me,
        trust,
        own,
        identity,
        store,
        stored,
        seed: halves[0].rotate_left(32) ^ halves[1],
        locks: [run_lock, state_lock],
    })
}

/// Shows what else there is to say about a file that was accepted.
pub(super) fn show_warnings(file: &Path, warnings: &[conf::Warning]) {
    for warning in warnings {
        match warning.level {
            Level::Unused => debug!("{}: {warning}", file.display()),
            Level::Advice | Level::Unknown => warn!("{}: {warning}", file.display()),
        }
    }
}

/// Which node of the configuration this is.
async fn own_node(options: &Options, conf: &ClusterConf) -> anyhow::Result<NodeId> {
    let file = options.cluster_conf.display();
    if let Some(id) = options.node_id {
        if conf.node(id).is_none() {
            bail!("{file}: there is no node {id}: correct --node-id, or add the node");
        }
        return Ok(id);
    }
    let local = local_addresses();
    let mut found = Vec::new();
    for node in &conf.nodes {
        for address in node.links.values() {
            if is_local(address, &local).await {
                found.push(node.id);
                break;
            }
        }
    }
    if found.is_empty() {
        found = named_like_this_host(conf);
    }
    match found.as_slice() {
        [one] => Ok(*one),
        [] => bail!(
            "{file}: no node has an address or the name of this host: give --node-id, or correct \
             the nodelist"
        ),
        several => {
            let ids: Vec<String> = several.iter().map(NodeId::to_string).collect();
            bail!(
                "{file}: nodes {} all have an address or the name of this host: give --node-id",
                ids.join(", ")
            )
        }
    }
}

fn local_addresses() -> Vec<IpAddr> {
    let Ok(interfaces) = getifaddrs() else { return Vec::new() };
    let addresses = interfaces.filter_map(|interface| interface.address);
    let ips = addresses.filter_map(|address| {
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    });
    ips.collect()
}

async fn is_local(address: &str, local: &[IpAddr]) -> bool {
    if let Ok(ip) = address.parse::<IpAddr>() {
        return local.contains(&ip);
    }
    let looked_up = timeout(RESOLVE_LIMIT, tokio::net::lookup_host((address, 0))).await;
    // A name that does not resolve now is not how this host is found; its own name may be.
    let Ok(Ok(mut found)) = looked_up else { return false };
    found.any(|address| local.contains(&address.ip()))
}

fn named_like_this_host(conf: &ClusterConf) -> Vec<NodeId> {
    let Ok(Ok(host)) = nix::unistd::gethostname().map(|name| name.into_string()) else {
        return Vec::new();
    };
    let short = host.split('.').next().unwrap_or(&host);
    let same = |name: &str| name == host || name == short;
    let named = conf.nodes.iter().filter(|node| {
        node.name.as_deref().is_some_and(same) || node.links.values().any(|address| same(address))
    });
    named.map(|node| node.id).collect()
}
