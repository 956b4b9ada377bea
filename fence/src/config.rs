//! The gateway's file, `/etc/haguard/gateway.toml`: whom it serves, who can be fenced, and how.
//!
//! Unknown keys are refused with the nearest known one; a duration has a unit; what makes no sense
//! is one line that says where and what to do. [`Settings::core`] is what the machine needs of it,
//! [`device::Kind`] what the clients of the devices do.

pub mod device;
mod section;
#[cfg(test)]
mod tests;
pub mod value;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use protocol::fence::{GATEWAY_PORT, TARGETS_MAX};
use protocol::ids::NodeId;
use protocol::qnet;
use thiserror::Error;
use toml::Table;

use crate::core::{self, Delay, DeviceName, Level, Target, Votes};
use device::Device;
use section::{Refused, Section};
use value::Endpoint;

/// Where the file is unless said otherwise.
pub const CONFIG_FILE: &str = "/etc/haguard/gateway.toml";

/// The longest file, in bytes: 128 nodes with some devices each have a tenth of it.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The longest delay before a first command: by then the requester's own deadline has passed.
const DELAY_MAX: Duration = Duration::from_secs(300);

/// More votes of one node, or of the arbiter, are a mistake.
const VOTES_MAX: u32 = 100_000;

/// Most levels of a node, and most devices of a level.
const LEVEL_MAX: usize = 16;

/// Why the file cannot be used; one line.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// There is none.
    #[error("{}: there is no such file: write one, or correct --config", .0.display())]
    Missing(PathBuf),
    /// It cannot be read.
    #[error(transparent)]
    Unreadable(#[from] host::file::FileError),
    /// It is not TOML, or makes no sense.
    #[error("{}: {text}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and where.
        text: String,
    },
}

/// What is in the file.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The cluster that is served; its nodes' certificates name it.
    pub cluster: String,
    /// Where requesters come to.
    pub listen: SocketAddr,
    /// Where the cluster's arbiter is.
    pub arbiter: Endpoint,
    /// The name in the arbiter's certificate, as qdevice's `net_nss_qnetd_cn`.
    pub arbiter_name: String,
    /// Where `/metrics` is served, in plain text; `None`: nowhere.
    pub metrics: Option<SocketAddr>,
    /// How often each device is rehearsed, more or less.
    pub rehearse_every: Duration,
    /// Where the journal is kept.
    pub state_dir: Option<PathBuf>,
    /// Where the lock and the local socket are.
    pub run_dir: Option<PathBuf>,
    /// The authority that signed the certificates of the cluster's nodes and of the arbiter.
    pub tls_ca: Option<PathBuf>,
    /// The gateway's certificate chain.
    pub tls_cert: Option<PathBuf>,
    /// Its private key.
    pub tls_key: Option<PathBuf>,
    /// The power switches.
    pub devices: BTreeMap<DeviceName, Device>,
    /// Who can be fenced, and how.
    pub nodes: BTreeMap<NodeId, Target>,
    /// How many votes each of them has, and the arbiter: `quorum_votes` and `device.votes` of
    /// corosync.conf.
    pub votes: Votes,
    /// What is not wrong and yet worth a look, one line each.
    pub warnings: Vec<String>,
}

impl Settings {
    /// Reads the file.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let bytes = host::file::read(path, FILE_BYTES_MAX)?;
        let bytes = bytes.ok_or_else(|| ConfigError::Missing(path.to_owned()))?;
        Self::parse(path, &String::from_utf8_lossy(&bytes))
    }

    /// Reads the text of the file; `path` is for the messages.
    ///
    /// # Errors
    /// [`ConfigError::Content`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let wrong = |text: String| ConfigError::Content { path: path.to_owned(), text };
        let table: Table = toml::from_str(text).map_err(|error| {
            let before = text.bytes().take(error.span().map_or(0, |span| span.start));
            let line = before.filter(|byte| *byte == b'\n').count() + 1;
            wrong(format!("line {line}: {}", error.message().replace('\n', " ")))
        })?;
        Self::from_table(table).map_err(wrong)
    }

    fn from_table(table: Table) -> Result<Self, Refused> {
        let mut top = Section::new(String::new(), table)?;
        let cluster = top.text("cluster")?;
        let arbiter =
            top.parsed("arbiter", "HOST or HOST:PORT", |v| Endpoint::parse(v, qnet::PORT))?;
        let socket = "an address with a port: [::]:5413";
        let listen = top.parsed("listen", socket, |v| v.parse().ok())?;
        let every = (Duration::from_secs(10), Duration::from_secs(24 * 3600));
        let mut settings = Self {
            cluster: top.need(cluster, "cluster", "\"the name in totem.cluster_name\"")?,
            listen: listen.unwrap_or((Ipv6Addr::UNSPECIFIED, GATEWAY_PORT).into()),
            arbiter: top.need(arbiter, "arbiter", "\"arbiter.example:5403\"")?,
            arbiter_name: top.text("arbiter-name")?.unwrap_or(qnet::SERVER_NAME.to_owned()),
            metrics: top
                .parsed("metrics", "an address with a port: 127.0.0.1:9664", |v| v.parse().ok())?,
            rehearse_every: top
                .duration("rehearse-every", every)?
                .unwrap_or(Duration::from_secs(300)),
            state_dir: top.path("state-dir")?,
            run_dir: top.path("run-dir")?,
            tls_ca: top.path("tls-ca")?,
            tls_cert: top.path("tls-cert")?,
            tls_key: top.path("tls-key")?,
            devices: BTreeMap::new(),
            nodes: BTreeMap::new(),
            votes: Votes {
                nodes: BTreeMap::new(),
                arbiter: top.number("arbiter-votes", VOTES_MAX)?.unwrap_or(1),
            },
            warnings: Vec::new(),
        };
        let devices = top.tables("devices")?;
        let nodes = top.tables("nodes")?;
        top.finish()?;
        for (name, table) in devices {
            let place = format!("devices.{name}");
            if name.chars().any(char::is_control) || name.is_empty() {
                return Err("a device has no name, or a control character in it".to_owned());
            }
            let device = Device::read(Section::new(place, table)?)?;
            settings.devices.insert(name, device);
        }
        for (name, table) in nodes {
            let section = Section::new(format!("nodes.{name}"), table)?;
            let node = name.parse().ok().filter(|node| *node > 0).map(NodeId);
            let node = node.ok_or_else(|| {
                section.refuse("a node is named by its nodeid of corosync.conf: [nodes.1]")
            })?;
            let (target, votes) = settings.target(section)?;
            settings.votes.nodes.insert(node, votes);
            if settings.nodes.insert(node, target).is_some() {
                return Err(format!("[nodes.{name}] node {node} is there twice"));
            }
        }
        settings.check()?;
        Ok(settings)
    }

    /// How a node is fenced, and how many votes it has.
    fn target(&self, mut section: Section) -> Result<(Target, u32), Refused> {
        let levels = section.levels("levels")?;
        let what = "\"arbiter\", a duration of at most 300s, or \"random 3s\"";
        let delay = section.parsed("delay", what, |v| value::delay(v, DELAY_MAX))?;
        let unfence = section.flag("unfence")?;
        let votes = section.number("votes", VOTES_MAX)?.unwrap_or(1);
        if levels.is_empty() {
            let text = "'levels' is missing: a node that no device can switch off is not \
                        protected; write levels = [[\"DEVICE\"]]";
            return Err(section.refuse(text));
        }
        if levels.len() > LEVEL_MAX || levels.iter().any(|level| level.len() > LEVEL_MAX) {
            return Err(section.refuse(&format!("more than {LEVEL_MAX} levels or devices in one")));
        }
        for level in &levels {
            if level.is_empty() {
                return Err(section.refuse("a level without a device proves nothing"));
            }
            if level.iter().collect::<BTreeSet<_>>().len() < level.len() {
                return Err(section.refuse("a level names a device twice"));
            }
            if let Some(unknown) = level.iter().find(|name| !self.devices.contains_key(*name)) {
                let text = format!("there is no device '{unknown}'{}", self.hint(unknown));
                return Err(section.refuse(&text));
            }
        }
        section.finish()?;
        let levels = levels.into_iter().map(|devices| Level { devices }).collect();
        Ok((Target { levels, delay: delay.unwrap_or(Delay::Arbiter), unfence }, votes))
    }

    /// The device whose name is nearest to an unknown one.
    fn hint(&self, unknown: &str) -> String {
        let unknown_lower = unknown.to_lowercase();
        let alike = |name: &str| {
            let name = name.to_lowercase();
            name.chars().zip(unknown_lower.chars()).filter(|(a, b)| a == b).count()
        };
        let near = self.devices.keys().max_by_key(|name| alike(name));
        match near.filter(|name| alike(name) * 2 > unknown_lower.chars().count()) {
            Some(near) => format!("; did you mean '{near}'?"),
            None => format!(": write [devices.{unknown}]"),
        }
    }

    /// What only all of it together shows.
    fn check(&mut self) -> Result<(), Refused> {
        if self.nodes.is_empty() {
            return Err("no node can be fenced: write [nodes.1] with levels".to_owned());
        }
        if self.nodes.len() > TARGETS_MAX + 1 {
            return Err(format!("more than {} nodes", TARGETS_MAX + 1));
        }
        let mut users: BTreeMap<&DeviceName, BTreeSet<NodeId>> = BTreeMap::new();
        for (node, target) in &self.nodes {
            for name in target.levels.iter().flat_map(|level| &level.devices) {
                users.entry(name).or_default().insert(*node);
            }
        }
        let mut reached: BTreeMap<String, &DeviceName> = BTreeMap::new();
        for (name, device) in &self.devices {
            let Some(nodes) = users.get(name) else {
                self.warnings.push(format!("device '{name}' is in no node's levels: not used"));
                continue;
            };
            self.warnings
                .extend(device.kind.warning().map(|text| format!("device '{name}': {text}")));
            let Some(reaches) = device.kind.reaches() else { continue };
            if nodes.len() > 1 {
                let nodes: Vec<String> = nodes.iter().map(ToString::to_string).collect();
                return Err(format!(
                    "[devices.{name}] is in the levels of nodes {}: cutting one would cut the \
                     other, so give each a device of its own",
                    nodes.join(", ")
                ));
            }
            if let Some(other) = reached.insert(reaches.clone(), name)
                && users.get(other) != Some(nodes)
            {
                self.warnings.push(format!(
                    "devices '{other}' and '{name}' of different nodes are the same, {reaches}: \
                     cutting one node would cut the other"
                ));
            }
        }
        Ok(())
    }

    /// What the machine needs to know.
    pub fn core(&self) -> core::Config {
        let named = |name: &DeviceName| {
            let mut levels = self.nodes.values().flat_map(|target| &target.levels);
            levels.any(|level| level.devices.contains(name))
        };
        let used = self.devices.iter().filter(|(name, _)| named(name));
        core::Config {
            cluster: self.cluster.clone(),
            targets: self.nodes.clone(),
            devices: used.map(|(name, device)| (name.clone(), device.core())).collect(),
            rehearse_every: self.rehearse_every,
            votes: self.votes.clone(),
        }
    }
}
