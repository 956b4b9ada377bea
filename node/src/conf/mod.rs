//! The cluster's configuration: corosync.conf as corosync, votequorum and corosync-qdevice read it
//! (corosync.conf(5), votequorum(5), corosync-qdevice(8)), with one section of our own, `haguard`.
//!
//! # Layout
//! * [`parse`]: bytes to a tree of sections, or the line that breaks the syntax.
//! * `schema`, `fields`, `keys`: the tree to the types below, every key by name.
//! * `check`: what must not run, and advice.
//! * [`votes`]: votequorum's arithmetic and the device's timers, as methods of the types.
//! * [`digest`]: the canonical text, and the number that members compare in their beats.
//! * [`change`]: what differs between two configurations, and what of it a running node takes over.
//! * [`refusal`], [`report`]: what people are told.
//!
//! Reading never panics, whatever the file holds, and keeps at most a bounded number of problems
//! and warnings. Unknown keys are warnings, as corosync accepts them.

mod address;
pub mod change;
mod check;
pub mod digest;
mod fields;
mod keys;
pub mod parse;
pub mod refusal;
pub mod report;
mod schema;
pub mod votes;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use protocol::ids::{ClusterName, NodeId};
use protocol::times::WATCHDOG;
use protocol::vote::{Algorithm, TieBreaker};

pub use refusal::Refusal;
pub use report::{ConfErrors, Level, Lines, Located, Problem, Warning};

/// The most nodes that the builtin engine runs.
pub const MAX_NODES: usize = 16;
/// The highest link number; corosync has the same eight links.
pub const MAX_LINK: u8 = 7;
/// The most votes that nodes and device may have together, so that no sum can overflow.
pub const MAX_VOTES: u64 = 1_000_000;
/// The most heuristics commands (corosync-qdevice(8) `heuristics_max_execs`).
pub const MAX_EXECS: usize = 32;
/// The udp port of link 0; link n has this plus n (corosync.conf(5) `mcastport`).
pub const DEFAULT_PORT: u16 = 5405;
/// The most fencing gateways.
pub const MAX_GATEWAYS: usize = 8;
/// The arbiter's tcp port (corosync-qdevice(8) `port`).
pub const DEFAULT_ARBITER_PORT: u16 = 5403;

/// Which program counts the votes of the nodes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Engine {
    /// Ours; what it cannot do safely is refused.
    #[default]
    Builtin,
    /// A running corosync, which has its own rules; only what concerns us is checked.
    Corosync {
        /// The device is corosync-qdevice and not ours (F17).
        stock_device: bool,
    },
}

/// What the reader has to know beside the file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Options {
    /// Who counts the votes.
    pub engine: Engine,
    /// Accept `algorithm: test` (stock `-S net_test_algorithm_enabled=on`).
    pub test_algorithm: bool,
    /// W, the watchdog's timeout, which a stock device's sync timeout must not exceed (F17).
    pub watchdog: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { engine: Engine::default(), test_algorithm: false, watchdog: WATCHDOG }
    }
}

/// A configuration that passed every check, and what else there is to say about it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Loaded {
    /// The configuration.
    pub conf: ClusterConf,
    /// In file order, then the advice of the checks.
    pub warnings: Vec<Warning>,
}

/// Reads and checks the file at `path`.
///
/// # Errors
/// An unreadable file, one longer than [`parse::MAX_FILE_BYTES`], and everything [`load`] refuses.
pub fn read(path: &Path, options: &Options) -> Result<Loaded, ConfErrors> {
    let name = path.display().to_string();
    let mut bytes = Vec::new();
    // One byte above the limit is enough for the parser to see that the file is too long.
    let limit = parse::MAX_FILE_BYTES as u64 + 1;
    let result = File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes));
    match result {
        Ok(_) => load(&name, &bytes, options),
        Err(error) => {
            let problem = Problem::Unreadable(error.to_string());
            Err(ConfErrors { file: name, problems: vec![Located { line: None, problem }] })
        }
    }
}

/// Reads and checks the text of a file; `file` is its name in messages.
///
/// # Errors
/// The first line that breaks the syntax, or else every value and combination that is refused.
pub fn load(file: &str, text: &[u8], options: &Options) -> Result<Loaded, ConfErrors> {
    let mut report = report::Report::default();
    let (conf, lines) = match parse::parse(text) {
        Ok(root) => schema::read(&root, &mut report),
        Err((line, problem)) => {
            report.problem((line > 0).then_some(line), problem);
            return Err(ConfErrors { file: file.to_owned(), problems: report.into_problems() });
        }
    };
    check::check(&conf, &lines, options, &mut report);
    let warnings = report.finish(file)?;
    Ok(Loaded { conf, warnings })
}

/// A cluster as its members have agreed to run it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClusterConf {
    /// `totem.cluster_name`; also the name in the nodes' certificates.
    pub cluster_name: ClusterName,
    /// `totem.config_version`: the lineage number of the configuration.
    pub config_version: Option<u64>,
    /// Sorted by id.
    pub nodes: Vec<NodeConf>,
    /// How nodes talk.
    pub totem: TotemConf,
    /// How votes are counted.
    pub quorum: QuorumConf,
    /// Our own section.
    pub haguard: GuardConf,
}

impl ClusterConf {
    /// Checks a configuration that was made and not read; `what` is its name in messages, and
    /// lines are those of [`ClusterConf::render`].
    ///
    /// # Errors
    /// Every reason to refuse it, as for a file.
    pub fn verify(&self, what: &str, options: &Options) -> Result<Vec<Warning>, ConfErrors> {
        let loaded = load(what, self.render().as_bytes(), options)?;
        if loaded.conf != *self {
            let problem = Problem::Refused(Refusal::NotWritable);
            let problems = vec![Located { line: None, problem }];
            return Err(ConfErrors { file: what.to_owned(), problems });
        }
        Ok(loaded.warnings)
    }

    /// The node with this id.
    pub fn node(&self, id: NodeId) -> Option<&NodeConf> {
        self.nodes.iter().find(|node| node.id == id)
    }

    /// The udp port of a link: `totem.interface.mcastport`, else [`DEFAULT_PORT`] plus the number.
    pub fn port(&self, link: u8) -> u16 {
        let configured = self.totem.links.get(&link).and_then(|conf| conf.port);
        configured.unwrap_or(DEFAULT_PORT.saturating_add(u16::from(link)))
    }

    /// The links that two nodes share, the preferred one first: highest `knet_link_priority`, then
    /// lowest number (corosync.conf(5) `link_mode`).
    pub fn common_links(&self, first: NodeId, second: NodeId) -> Vec<u8> {
        let (Some(first), Some(second)) = (self.node(first), self.node(second)) else {
            return Vec::new();
        };
        let both = first.links.keys().filter(|link| second.links.contains_key(link));
        let mut links: Vec<u8> = both.copied().collect();
        let priority = |link: &u8| self.totem.links.get(link).map_or(1, |conf| conf.priority);
        links.sort_by_key(|link| (std::cmp::Reverse(priority(link)), *link));
        links
    }
}

/// One `nodelist.node` section.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NodeConf {
    /// `nodeid`, or derived from the IPv4 `ring0_addr`.
    pub id: NodeId,
    /// `name`.
    pub name: Option<String>,
    /// `quorum_votes`.
    pub votes: u32,
    /// `datacenterid`; 0 and absent are the same on the wire (wire 1.4, option 15).
    pub data_center: Option<u32>,
    /// `ringX_addr` by X: an IP literal or a host name.
    pub links: BTreeMap<u8, String>,
}

/// The `totem` section.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TotemConf {
    /// `transport`; our engine always speaks QUIC over udp.
    pub transport: Transport,
    /// `link_mode`.
    pub link_mode: LinkMode,
    /// `ip_version`: how host names are resolved.
    pub ip_version: IpVersion,
    /// `secauth`.
    pub secauth: Option<bool>,
    /// `crypto_cipher`, one of corosync's names.
    pub crypto_cipher: Option<&'static str>,
    /// `crypto_hash`, one of corosync's names.
    pub crypto_hash: Option<&'static str>,
    /// `token`; kept for corosync, our beats have their own times.
    pub token: Option<Duration>,
    /// `clear_node_high_bit`: for node ids derived from addresses.
    pub clear_node_high_bit: bool,
    /// The `interface` sections by `linknumber`.
    pub links: BTreeMap<u8, LinkConf>,
}

impl Default for TotemConf {
    fn default() -> Self {
        Self {
            transport: Transport::Knet,
            link_mode: LinkMode::Passive,
            ip_version: IpVersion::V6ThenV4,
            secauth: None,
            crypto_cipher: None,
            crypto_hash: None,
            token: None,
            clear_node_high_bit: false,
            links: BTreeMap::new(),
        }
    }
}

/// One `totem.interface` section.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LinkConf {
    /// `mcastport`.
    pub port: Option<u16>,
    /// `knet_link_priority`; the highest is preferred.
    pub priority: u8,
}

impl Default for LinkConf {
    fn default() -> Self {
        Self { port: None, priority: 1 }
    }
}

/// `totem.transport`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Transport {
    /// Up to eight links.
    Knet,
    /// One link, unicast.
    Udpu,
    /// One link, multicast.
    Udp,
}

/// `totem.link_mode`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LinkMode {
    /// The preferred link that works.
    Passive,
    /// All links at once.
    Active,
    /// The links in turn.
    RoundRobin,
}

/// `totem.ip_version`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum IpVersion {
    /// `ipv4`: nothing else.
    V4,
    /// `ipv6`: nothing else.
    V6,
    /// `ipv4-6`: the first IPv4 address, else the first IPv6 one.
    V4ThenV6,
    /// `ipv6-4`: the first IPv6 address, else the first IPv4 one.
    V6ThenV4,
}

/// The `quorum` section.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct QuorumConf {
    /// `provider`.
    pub provider: Option<Provider>,
    /// `expected_votes`.
    pub expected_votes: Option<u32>,
    /// `two_node`. In our engine it never makes a node quorate: the survivor stays INQUORATE until
    /// the peer is confirmed off (safety 14, F16); it only turns `wait_for_all` on.
    pub two_node: bool,
    /// `wait_for_all`; without it, what `two_node` says.
    pub wait_for_all: Option<bool>,
    /// `auto_tie_breaker`.
    pub auto_tie_breaker: bool,
    /// `auto_tie_breaker_node`.
    pub auto_tie_breaker_node: AutoTieBreaker,
    /// `last_man_standing`; refused by our engine (F16).
    pub last_man_standing: bool,
    /// `last_man_standing_window`.
    pub last_man_standing_window: Duration,
    /// `allow_downscale`; refused by our engine (F16).
    pub allow_downscale: bool,
    /// `device`.
    pub device: Option<DeviceConf>,
}

impl Default for QuorumConf {
    fn default() -> Self {
        Self {
            provider: None,
            expected_votes: None,
            two_node: false,
            wait_for_all: None,
            auto_tie_breaker: false,
            auto_tie_breaker_node: AutoTieBreaker::Lowest,
            last_man_standing: false,
            last_man_standing_window: Duration::from_secs(10),
            allow_downscale: false,
            device: None,
        }
    }
}

/// `quorum.provider`: there is one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Provider {
    /// `corosync_votequorum`.
    Votequorum,
}

/// `quorum.auto_tie_breaker_node`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum AutoTieBreaker {
    /// The half with the lowest node id.
    Lowest,
    /// The half with the highest node id.
    Highest,
    /// The half with the first of these that was in the cluster; never empty.
    Nodes(Vec<NodeId>),
}

/// The `quorum.device` section; its model is `net`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DeviceConf {
    /// `votes`.
    pub votes: Option<u32>,
    /// `timeout` T: how long a vote counts after a poll.
    pub timeout: Duration,
    /// `sync_timeout` S: how long a membership change waits for a vote.
    pub sync_timeout: Duration,
    /// `net`.
    pub net: NetConf,
    /// `heuristics`.
    pub heuristics: HeuristicsConf,
}

/// The `quorum.device.net` section.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NetConf {
    /// `host`: the arbiter.
    pub host: String,
    /// `port`.
    pub port: u16,
    /// `tls`.
    pub tls: TlsMode,
    /// `algorithm`.
    pub algorithm: Algorithm,
    /// `tie_breaker`.
    pub tie_breaker: TieBreaker,
    /// `connect_timeout`; without it, the heartbeat interval.
    pub connect_timeout: Option<Duration>,
    /// `force_ip_version`.
    pub force_ip_version: ForceIp,
    /// `keep_active_partition_tie_breaker`.
    pub keep_active_partition_tie_breaker: bool,
}

/// `quorum.device.net.tls`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TlsMode {
    /// Plain text only.
    Off,
    /// TLS if the arbiter offers it.
    On,
    /// TLS or nothing.
    Required,
}

/// `quorum.device.net.force_ip_version`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ForceIp {
    /// `0`: as the resolver orders them.
    Any,
    /// `4`.
    V4,
    /// `6`.
    V6,
}

/// The `quorum.device.heuristics` section.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HeuristicsConf {
    /// `mode`.
    pub mode: HeuristicsMode,
    /// `timeout`; without it T/2.
    pub timeout: Option<Duration>,
    /// `sync_timeout`; without it S/2.
    pub sync_timeout: Option<Duration>,
    /// `interval`; without it 3·T.
    pub interval: Option<Duration>,
    /// `exec_NAME` by NAME: the commands.
    pub execs: BTreeMap<String, String>,
}

/// `quorum.device.heuristics.mode`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HeuristicsMode {
    /// Never.
    Off,
    /// At start, at membership changes and after connecting.
    Sync,
    /// Also every interval.
    On,
}

/// The `haguard` section, our own; corosync reads over it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct GuardConf {
    /// `watchdog`.
    pub watchdog: WatchdogChoice,
    /// `trust_process_watchdog`: class C counts as proof that services have ended (safety 23).
    pub trust_process_watchdog: bool,
    /// `trust_virtual_watchdog`: class B counts as proof (safety 13, 23).
    pub trust_virtual_watchdog: bool,
    /// `gateway`: the fencing gateways, in the order in which they are asked.
    pub gateways: Vec<GatewayConf>,
    /// `service`: the guarded command.
    pub service: Option<ServiceConf>,
}

/// One fencing gateway of `haguard.gateway`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GatewayConf {
    /// Its address or name; an IPv6 address without brackets.
    pub host: String,
    /// Its tcp port.
    pub port: u16,
}

impl fmt::Display for GatewayConf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// `haguard.watchdog`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum WatchdogChoice {
    /// None: recovery needs fencing or an operator.
    #[default]
    Off,
    /// The keeper process kills what it started.
    Process,
    /// A device by its absolute path.
    Device(String),
}

/// The `haguard.service` section.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServiceConf {
    /// `name`.
    pub name: String,
    /// `command`: a program's path and its arguments.
    pub command: String,
    /// `undo`: takes back what outlives the command's processes, such as an address.
    pub undo: Option<String>,
    /// `prefer`: where it runs when all is well.
    pub prefer: Option<NodeId>,
}
