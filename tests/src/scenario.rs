//! A scenario is data: a cluster, faults with their times, and what is expected of it. Written by
//! hand, generated or shrunk, it is the same TOML.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use protocol::ids::NodeId;
use protocol::time::Time;
use protocol::times;
use protocol::vote::{Algorithm, TieBreaker, WatchdogClass};
use serde::{Deserialize, Serialize};

/// One cluster and what happens to it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What it shows, in one line.
    #[serde(default)]
    pub name: String,
    /// Every delay, loss and clock skew follows from it.
    pub seed: u64,
    /// The cluster.
    #[serde(default)]
    pub topology: Topology,
    /// What happens.
    #[serde(default)]
    pub faults: Vec<TimedFault>,
    /// What is to be seen, beside the invariants.
    #[serde(default)]
    pub expect: Vec<Expect>,
    /// How long the run lasts, in milliseconds. Without it: until the cluster is whole after the
    /// last fault, and not having become so in time is a violation (L1).
    pub until_ms: Option<u64>,
}

/// The cluster.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Topology {
    /// Nodes 1 to this many.
    pub nodes: u32,
    /// The device's algorithm.
    pub algorithm: Algorithm,
    /// The device's tie-breaker.
    pub tie_breaker: TieBreaker,
    /// The device's keep_active_partition_tie_breaker.
    pub keep_active_partition: bool,
    /// The class of every node's watchdog: A resets the machine; B, C and D are the keeper alone.
    pub watchdog: WatchdogClass,
    /// Whether class C is accepted as a proof.
    pub trust_process_watchdog: bool,
    /// The member that the service prefers; without one, the lowest.
    pub prefer: Option<u32>,
    /// The clocks of all machines differ by up to this many percent, fast or slow.
    pub skew_percent: u32,
    /// The watchdogs' timeouts by node, in milliseconds; without one, the default.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub watchdog_ms: Vec<u64>,
    /// There is a quorum device.
    #[serde(skip_serializing_if = "is_true")]
    pub device: bool,
    /// votequorum's two_node.
    #[serde(skip_serializing_if = "is_false")]
    pub two_node: bool,
    /// votequorum's wait_for_all.
    #[serde(skip_serializing_if = "is_false")]
    pub wait_for_all: bool,
    /// There is a fence gateway on a machine of its own, and a power switch for every node.
    #[serde(skip_serializing_if = "is_false")]
    pub gateway: bool,
    /// Generations of the configuration: the nodes that each names. All nodes begin with the first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub generations: Vec<Generation>,
    /// The nodes run corosync, with these devices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub corosync: Option<Corosync>,
}

/// One generation of a cluster's configuration.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Generation {
    /// The nodes that it names; each has one vote.
    pub nodes: Vec<u32>,
    /// It has the quorum device.
    pub device: bool,
}

/// A cluster of corosync nodes, and what the arbiter was told of it.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Corosync {
    /// Nodes whose device is ours; the others have the stock one.
    pub own: Vec<u32>,
    /// The arbiter's vote-hold; without one, its default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vote_hold: Option<String>,
    /// The stock devices' heartbeat interval, if it is not what follows from T.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heartbeat_ms: Option<u32>,
    /// T, as the arbiter is told, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_timeout_ms: Option<u32>,
    /// The arbiter is told that the nodes have no wait_for_all.
    #[serde(skip_serializing_if = "is_false")]
    pub lms_without_wait_for_all: bool,
    /// How much later than the others a ring begins whose lowest node this is, in milliseconds; by
    /// node, from node 1.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub late_ms: Vec<u32>,
}

impl Corosync {
    /// How much later a ring begins whose lowest node this is.
    pub fn late(&self, lowest: NodeId) -> Duration {
        let at = usize::try_from(lowest.0).unwrap_or(usize::MAX).wrapping_sub(1);
        Duration::from_millis(self.late_ms.get(at).copied().unwrap_or(0).into())
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_true(value: &bool) -> bool {
    *value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_false(value: &bool) -> bool {
    !*value
}

impl Default for Topology {
    fn default() -> Self {
        Self {
            nodes: 2,
            algorithm: Algorithm::Ffsplit,
            tie_breaker: TieBreaker::Lowest,
            keep_active_partition: false,
            watchdog: WatchdogClass::C,
            trust_process_watchdog: true,
            prefer: None,
            skew_percent: 0,
            watchdog_ms: Vec::new(),
            device: true,
            two_node: false,
            wait_for_all: false,
            gateway: false,
            generations: Vec::new(),
            corosync: None,
        }
    }
}

impl Topology {
    /// The device's votes; each node has one.
    pub fn device_votes(&self) -> u32 {
        match self.algorithm {
            _ if !self.device => 0,
            Algorithm::Ffsplit => 1,
            Algorithm::Lms | Algorithm::TwoNodeLms | Algorithm::Test => {
                self.nodes.saturating_sub(1)
            }
        }
    }

    /// Votes that make quorum.
    pub fn quorum(&self) -> u32 {
        node::conf::votes::quorum_of(self.nodes.saturating_add(self.device_votes()))
    }

    /// The timeout of a node's watchdog.
    pub fn watchdog(&self, node: NodeId) -> Duration {
        let index = usize::try_from(node.0.saturating_sub(1)).unwrap_or(usize::MAX);
        self.watchdog_ms.get(index).map_or(times::WATCHDOG, |ms| Duration::from_millis(*ms))
    }

    /// How long after the end of its entitlement a node's services may live: what it announces.
    pub fn stop_proof(&self, node: NodeId) -> Duration {
        times::STOP_PROOF - times::WATCHDOG + self.watchdog(node)
    }

    /// A generation of the configuration, counted from 1.
    pub fn generation(&self, number: usize) -> Generation {
        let listed = self.generations.get(number.saturating_sub(1)).cloned();
        listed.unwrap_or_else(|| Generation {
            nodes: (1..=self.nodes).collect(),
            device: self.device,
        })
    }
}

/// A fault and its time.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct TimedFault {
    /// When it begins, in milliseconds.
    pub at_ms: u64,
    /// How long it lasts, in milliseconds; 0: it does not end.
    #[serde(default)]
    pub for_ms: u64,
    /// What it is.
    #[serde(flatten)]
    pub fault: Fault,
}

/// What can go wrong. Each kind says what its end means.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "fault", rename_all = "kebab-case")]
pub enum Fault {
    /// Nothing passes from `from` to `to`, nor back unless `one_way`. Ends: everything passes.
    Cut {
        /// One end.
        from: End,
        /// The other.
        to: End,
        /// Only this direction.
        #[serde(default)]
        one_way: bool,
    },
    /// Datagrams and segments get lost in both directions.
    Loss {
        /// One end.
        from: End,
        /// The other.
        to: End,
        /// How many.
        percent: u32,
    },
    /// Everything takes longer in both directions.
    Slow {
        /// One end.
        from: End,
        /// The other.
        to: End,
        /// By up to this long.
        ms: u64,
    },
    /// Power is gone: every process at once, without a word. Ends: power is back, and the machine
    /// boots.
    PowerOff {
        /// Which machine.
        host: End,
        /// Its disk is empty afterwards.
        #[serde(default)]
        disk_lost: bool,
    },
    /// The process is killed. Ends: it is started again.
    Kill {
        /// Which one.
        process: Process,
        /// Only after it has done this many more actions.
        #[serde(default)]
        after_actions: u32,
    },
    /// The operator ends the process, which says goodbye. Ends: it is started again.
    Leave {
        /// Which one: a node or a device.
        process: Process,
    },
    /// The process stands still (SIGSTOP); its sockets fill. Ends: it goes on.
    Freeze {
        /// Which one.
        process: Process,
    },
    /// Every process of a node's machine stands still, the keeper and the service too. Ends: they
    /// go on, and the clocks have jumped.
    Pause {
        /// Which machine.
        host: End,
    },
    /// The arbiter's state directory is replaced while the process is down (it is killed if it
    /// runs). Ends: it is started again, on what is claimed to be another boot of its host.
    ArbiterState {
        /// With what.
        becomes: ArbiterState,
    },
    /// Writes fail.
    DiskFull {
        /// On which machine.
        host: End,
    },
    /// Every write takes this long.
    SlowDisk {
        /// On which machine.
        host: End,
        /// How long.
        ms: u64,
    },
    /// The service does not end on SIGTERM. Ends: a new start is a good one.
    Stubborn {
        /// On which machine.
        host: End,
    },
    /// The service crashes.
    Crash {
        /// On which machine.
        host: End,
    },
    /// The arbiter's name leads to another arbiter, which says yes to everybody: a record with two
    /// addresses, or a new one beside the old. Connections there are broken. Ends: it leads to the
    /// right one again.
    OtherArbiter {
        /// Seen from which machine.
        host: End,
        /// What it is.
        kind: OtherArbiter,
    },
    /// Something of the fence gateway.
    Gateway {
        /// What.
        does: GatewayFault,
        /// At whose power switch, of which node, or from whom.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<End>,
        /// Where the operator sits.
        #[serde(default)]
        by: Option<u32>,
    },
    /// The operator gives a node a generation of the configuration, and its daemons are started
    /// again with it.
    Configure {
        /// Which node's machine.
        host: End,
        /// Which generation, counted from 1.
        generation: usize,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cut { from, to, one_way: false } => write!(f, "cut between {from} and {to}"),
            Self::Cut { from, to, one_way: true } => write!(f, "cut from {from} to {to}"),
            Self::Loss { from, to, percent } => {
                write!(f, "loss of {percent} % between {from} and {to}")
            }
            Self::Slow { from, to, ms } => write!(f, "{ms} ms more between {from} and {to}"),
            Self::PowerOff { host, disk_lost: false } => write!(f, "{host} has no power"),
            Self::PowerOff { host, disk_lost: true } => {
                write!(f, "{host} has no power and loses its disk")
            }
            Self::Kill { process, .. } => write!(f, "{} is killed", Daemon(*process)),
            Self::Leave { process } => write!(f, "{} leaves", Daemon(*process)),
            Self::Freeze { process } => write!(f, "{} stands still", Daemon(*process)),
            Self::Pause { host } => write!(f, "{host} is paused"),
            Self::ArbiterState { becomes: ArbiterState::Lost } => {
                f.write_str("the arbiter's state is lost")
            }
            Self::ArbiterState { becomes: ArbiterState::Restored } => {
                f.write_str("the arbiter's state is restored from a backup")
            }
            Self::DiskFull { host } => write!(f, "the disk of {host} is full"),
            Self::SlowDisk { host, ms } => write!(f, "the disk of {host} takes {ms} ms"),
            Self::Stubborn { host } => write!(f, "the service on {host} ignores SIGTERM"),
            Self::Crash { host } => write!(f, "the service on {host} crashes"),
            Self::OtherArbiter { host, kind } => {
                write!(f, "{host} finds another arbiter ({kind:?})")
            }
            Self::Gateway { does, host, by } => {
                let host = host.map_or("nobody".to_owned(), |host| host.to_string());
                match does {
                    GatewayFault::Confirm => {
                        let by = by.unwrap_or(0);
                        write!(f, "the operator at node {by} says that {host} is off")
                    }
                    GatewayFault::Killed => f.write_str("the gateway is killed"),
                    GatewayFault::DiskFull => f.write_str("the gateway's disk is full"),
                    GatewayFault::CutOff => write!(f, "cut between the gateway and {host}"),
                    GatewayFault::Dead
                    | GatewayFault::Slow
                    | GatewayFault::Idle
                    | GatewayFault::LateProof => {
                        write!(f, "the power switch of {host}: {does:?}")
                    }
                }
            }
            Self::Configure { host, generation } => {
                write!(f, "{host} is given generation {generation} of the configuration")
            }
        }
    }
}

/// A process, where its name could be a machine's.
struct Daemon(Process);

impl fmt::Display for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Process::Node(node) => write!(f, "the daemon of node {node}"),
            Process::Device(_) | Process::Keeper(_) | Process::Arbiter => self.0.fmt(f),
        }
    }
}

/// An arbiter that is not the cluster's.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OtherArbiter {
    /// Another one of ours, with its own identity.
    Own,
    /// corosync-qnetd, which mirrors what it does not know in an echo.
    Stock,
}

/// What goes wrong at the gateway, or is done there by hand.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum GatewayFault {
    /// The power switch does not answer.
    Dead,
    /// It takes 15 s for a command.
    Slow,
    /// It accepts every command, and does nothing.
    Idle,
    /// The proof that it is off is under way to the arbiter for 20 s.
    LateProof,
    /// The operator at `by` confirms that it is off.
    Confirm,
    /// Nothing passes between the gateway and `host`.
    CutOff,
    /// The gateway's process is killed between two actions. Ends: it is started again.
    Killed,
    /// The gateway's journal cannot be written.
    DiskFull,
}

/// What becomes of the arbiter's state directory.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ArbiterState {
    /// Empty; the operator removes the devices' pins.
    Lost,
    /// A backup that lacks the newest grant.
    Restored,
}

/// A machine.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum End {
    /// A node's.
    Node(NodeId),
    /// The arbiter's.
    Arbiter,
}

/// A process.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum Process {
    /// A node daemon.
    Node(NodeId),
    /// A quorum device.
    Device(NodeId),
    /// A keeper.
    Keeper(NodeId),
    /// The arbiter.
    Arbiter,
}

impl Process {
    /// The machine it runs on.
    pub const fn host(self) -> End {
        match self {
            Self::Node(node) | Self::Device(node) | Self::Keeper(node) => End::Node(node),
            Self::Arbiter => End::Arbiter,
        }
    }
}

/// A word that names no machine, process or claim.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0:?} is no {1}: write {2}")]
pub struct UnknownWord(String, &'static str, &'static str);

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => write!(f, "node {node}"),
            Self::Arbiter => f.write_str("arbiter"),
        }
    }
}

impl FromStr for End {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        let unknown = || UnknownWord(text.to_owned(), "machine", "\"node 1\" or \"arbiter\"");
        match text.split_once(' ') {
            None if text == "arbiter" => Ok(Self::Arbiter),
            Some(("node", id)) => Ok(Self::Node(NodeId(id.parse().map_err(|_| unknown())?))),
            Some(_) | None => Err(unknown()),
        }
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => write!(f, "node {node}"),
            Self::Device(node) => write!(f, "device {node}"),
            Self::Keeper(node) => write!(f, "keeper {node}"),
            Self::Arbiter => f.write_str("arbiter"),
        }
    }
}

impl FromStr for Process {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        let unknown =
            || UnknownWord(text.to_owned(), "process", "\"node 1\", \"device 1\" or \"arbiter\"");
        if text == "arbiter" {
            return Ok(Self::Arbiter);
        }
        let (kind, id) = text.split_once(' ').ok_or_else(unknown)?;
        let node = NodeId(id.parse().map_err(|_| unknown())?);
        match kind {
            "node" => Ok(Self::Node(node)),
            "device" => Ok(Self::Device(node)),
            "keeper" => Ok(Self::Keeper(node)),
            _ => Err(unknown()),
        }
    }
}

/// Something that can be true of the cluster at a moment.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum Claim {
    /// The node reads QUORATE.
    Quorate(NodeId),
    /// The node reads QUORATE or FROZEN.
    Entitled(NodeId),
    /// The node reads INQUORATE, or does not run.
    Inquorate(NodeId),
    /// The service is alive on the node.
    Runs(NodeId),
    /// The node says that its start waits for an operator.
    Waits(NodeId),
    /// The node's machine has no power.
    Off(NodeId),
    /// The arbiter takes the node's present boot for confirmed off.
    ConfirmedOff(NodeId),
    /// The arbiter's status holds the text of the expectation.
    ArbiterSays,
    /// The service is alive nowhere.
    Stopped,
    /// All nodes are QUORATE in one view, and the service runs.
    Whole,
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Quorate(node) => write!(f, "quorate {node}"),
            Self::Entitled(node) => write!(f, "entitled {node}"),
            Self::Inquorate(node) => write!(f, "inquorate {node}"),
            Self::Runs(node) => write!(f, "runs {node}"),
            Self::Waits(node) => write!(f, "waits {node}"),
            Self::Off(node) => write!(f, "off {node}"),
            Self::ConfirmedOff(node) => write!(f, "confirmed-off {node}"),
            Self::ArbiterSays => f.write_str("arbiter-says"),
            Self::Stopped => f.write_str("stopped"),
            Self::Whole => f.write_str("whole"),
        }
    }
}

impl FromStr for Claim {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        let help = "quorate, entitled, inquorate, runs, waits, off or confirmed-off and a node, or \
                    arbiter-says, stopped or whole";
        let unknown = || UnknownWord(text.to_owned(), "claim", help);
        match text {
            "stopped" => return Ok(Self::Stopped),
            "whole" => return Ok(Self::Whole),
            "arbiter-says" => return Ok(Self::ArbiterSays),
            _ => {}
        }
        let (word, id) = text.split_once(' ').ok_or_else(unknown)?;
        let node = NodeId(id.parse().map_err(|_| unknown())?);
        match word {
            "quorate" => Ok(Self::Quorate(node)),
            "entitled" => Ok(Self::Entitled(node)),
            "inquorate" => Ok(Self::Inquorate(node)),
            "runs" => Ok(Self::Runs(node)),
            "waits" => Ok(Self::Waits(node)),
            "off" => Ok(Self::Off(node)),
            "confirmed-off" => Ok(Self::ConfirmedOff(node)),
            _ => Err(unknown()),
        }
    }
}

macro_rules! words {
    ($($name:ty),*) => {$(
        impl TryFrom<String> for $name {
            type Error = UnknownWord;

            fn try_from(text: String) -> Result<Self, UnknownWord> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(word: $name) -> Self {
                word.to_string()
            }
        }
    )*};
}
words!(End, Process, Claim);

/// When a claim has to hold.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// At some moment between the two times.
    Once,
    /// At every step between them.
    Always,
    /// At no step between them.
    Never,
}

/// Something that is to be seen.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// What.
    pub what: Claim,
    /// Which words, for what is said.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
    /// When.
    pub how: How,
    /// From here, in milliseconds.
    pub from_ms: u64,
    /// To here, in milliseconds.
    pub to_ms: u64,
}

impl Scenario {
    /// Reads a scenario's text.
    ///
    /// # Errors
    /// What toml says of it, with the line.
    pub fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// The text of the scenario, as it is kept in a file.
    pub fn text(&self) -> String {
        toml::to_string(self).unwrap_or_else(|error| format!("# not a scenario: {error}\n"))
    }

    /// When the last fault has ended; `None` if one never does.
    pub fn quiet_at(&self) -> Option<Time> {
        let ends = self.faults.iter().map(|timed| {
            (timed.for_ms > 0 || timed.is_momentary()).then_some(timed.at_ms + timed.for_ms)
        });
        let ends: Option<Vec<u64>> = ends.collect();
        ends.map(|ends| Time::from_millis(ends.into_iter().max().unwrap_or(0)))
    }

    /// The ids of the nodes.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + use<> {
        (1..=self.topology.nodes).map(NodeId)
    }
}

impl TimedFault {
    /// It is over as soon as it has happened.
    fn is_momentary(&self) -> bool {
        match self.fault {
            Fault::Crash { .. } | Fault::Configure { .. } => true,
            Fault::Gateway { does, .. } => does == GatewayFault::Confirm,
            Fault::Cut { .. }
            | Fault::Loss { .. }
            | Fault::Slow { .. }
            | Fault::PowerOff { .. }
            | Fault::Kill { .. }
            | Fault::Leave { .. }
            | Fault::Freeze { .. }
            | Fault::Pause { .. }
            | Fault::ArbiterState { .. }
            | Fault::DiskFull { .. }
            | Fault::SlowDisk { .. }
            | Fault::Stubborn { .. }
            | Fault::OtherArbiter { .. } => false,
        }
    }
}
