//! Why a well-formed configuration is refused: one variant a reason, each with what to do.

use thiserror::Error;

use super::{MAX_EXECS, MAX_LINK, MAX_NODES};
use protocol::ids::NodeId;

/// A combination of values that must not run.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum Refusal {
    /// No `totem.cluster_name`: peers could not be told from those of another cluster (rule S9).
    #[error("totem.cluster_name is missing; give the cluster a name")]
    NoClusterName,
    /// `totem.version` is missing; corosync refuses that too.
    #[error("totem.version is missing; write `version: 2`")]
    NoVersion,
    /// The file asks for plain text, and our engine always encrypts.
    #[error(
        "secauth and crypto_* ask for plain text, and the builtin engine always encrypts; \
         write `secauth: on` or remove them"
    )]
    PlainText,
    /// There is no node.
    #[error("there is no node; add a `node {{` section for each node to `nodelist {{`")]
    NoNodes,
    /// corosync would let the second list overwrite the first.
    #[error("a second nodelist; put all nodes into one")]
    SecondNodeList,
    /// More nodes than the builtin engine is made for.
    #[error("{0} nodes, and the builtin engine runs at most {MAX_NODES}; run corosync as engine")]
    TooManyNodes(usize),
    /// Node id 0 stands for the quorum device.
    #[error("node id 0 is reserved; give the node an id from 1 to 4294967295")]
    NodeIdZero,
    /// Two nodes with one id.
    #[error("nodeid {0} is used by two nodes; give each node its own")]
    DuplicateNodeId(NodeId),
    /// No `nodeid`, and no IPv4 address to derive it from.
    #[error("a node has no nodeid, and it derives only from an IPv4 ring0_addr; add `nodeid: N`")]
    NoNodeId,
    /// A node without an address.
    #[error("node {0} has no address; add `ring0_addr: ADDRESS`")]
    NoAddress(NodeId),
    /// A link beyond the last one.
    #[error("{0} names a link beyond {MAX_LINK}; links are numbered 0 to {MAX_LINK}")]
    LinkNumber(String),
    /// An address that cannot be one.
    #[error("{path}: {address:?} is no usable address or host name; correct it")]
    BadAddress {
        /// The key.
        path: String,
        /// What it says.
        address: String,
    },
    /// An address of a family that `totem.ip_version` excludes.
    #[error(
        "{path}: {address:?} is not of the family that totem.ip_version demands; change either"
    )]
    AddressFamily {
        /// The key.
        path: String,
        /// What it says.
        address: String,
    },
    /// One address for two nodes.
    #[error("address {address:?} is given to nodes {first} and {second}; each needs its own")]
    DuplicateAddress {
        /// The address.
        address: String,
        /// One node.
        first: NodeId,
        /// The other node.
        second: NodeId,
    },
    /// Two links of a node that would be the same socket.
    #[error("node {node} has links {first} and {second} on one address and port; change one")]
    DuplicateSocket {
        /// The node.
        node: NodeId,
        /// One link.
        first: u8,
        /// The other link.
        second: u8,
    },
    /// Two nodes with one name.
    #[error("the name {name:?} is given to nodes {first} and {second}; each needs its own")]
    DuplicateName {
        /// The name.
        name: String,
        /// One node.
        first: NodeId,
        /// The other node.
        second: NodeId,
    },
    /// Two nodes that could never hear each other.
    #[error("nodes {first} and {second} share no link; give both a ringX_addr with the same X")]
    NoCommonLink {
        /// One node.
        first: NodeId,
        /// The other node.
        second: NodeId,
    },
    /// Nobody votes.
    #[error("no node has a vote; give at least one node quorum_votes of 1 or more")]
    NoVotes,
    /// The votes do not fit.
    #[error("the votes add up to more than {}; use small numbers", super::MAX_VOTES)]
    TooManyVotes,
    /// votequorum(5): not together.
    #[error("two_node and a quorum device cannot run together; remove two_node")]
    TwoNodeWithDevice,
    /// votequorum(5): a fence race and a rule by node id contradict each other.
    #[error("two_node and auto_tie_breaker cannot run together; remove one of them")]
    TwoNodeWithTieBreaker,
    /// `two_node` in another cluster than one of two nodes with a vote each.
    #[error("two_node needs exactly two nodes with one vote each; remove two_node")]
    TwoNodeShape,
    /// votequorum(5): not together.
    #[error("last_man_standing and a quorum device cannot run together; remove last_man_standing")]
    LastManStandingWithDevice,
    /// Lowers expected votes by itself (F16, safety 14).
    #[error(
        "last_man_standing would shrink expected votes without proof that the lost nodes are off; \
         remove it, and use a quorum device with `algorithm: lms`"
    )]
    LastManStanding,
    /// votequorum(5): not together.
    #[error("allow_downscale and a quorum device cannot run together; remove allow_downscale")]
    AllowDownscaleWithDevice,
    /// Lowers expected votes by itself (F16, safety 14).
    #[error(
        "allow_downscale would shrink expected votes without agreement; remove it, and take nodes \
         out of the nodelist instead"
    )]
    AllowDownscale,
    /// votequorum(5): not together.
    #[error("auto_tie_breaker and a quorum device cannot run together; remove auto_tie_breaker")]
    TieBreakerWithDevice,
    /// votequorum disables the tie-breaker here with a log line; we say so at once.
    #[error(
        "auto_tie_breaker with an odd number of votes needs wait_for_all; write `wait_for_all: 1` \
         or remove auto_tie_breaker"
    )]
    TieBreakerNeedsWaitForAll,
    /// The tie-breaker names a node that is not configured.
    #[error("auto_tie_breaker_node names node {0}, which is not in the nodelist; correct it")]
    TieBreakerNode(NodeId),
    /// `quorum.device` without a model.
    #[error("quorum.device has no model; write `model: net`, or remove the section")]
    NoModel,
    /// `quorum.device` without an arbiter.
    #[error("quorum.device.net.host is missing; name the arbiter's host")]
    NoHost,
    /// corosync-qdevice(8): ffsplit decides by exactly one vote.
    #[error("ffsplit needs `votes: 1` in quorum.device; {}", found(.0))]
    FfsplitVotes(Option<u32>),
    /// corosync-qdevice(8): ffsplit counts nodes, so each has one vote.
    #[error("ffsplit needs one vote for each node, and node {node} has {votes}; set it to 1")]
    FfsplitNodeVotes {
        /// The node.
        node: NodeId,
        /// Its votes.
        votes: u32,
    },
    /// votequorum(5): the default cannot be computed.
    #[error("quorum.device.votes must be given when quorum.expected_votes is; add it")]
    DeviceVotesWithExpected,
    /// votequorum(5): the default cannot be computed.
    #[error("quorum.device.votes must be given when not every node has one vote; add it")]
    DeviceVotesUneven,
    /// A device that decides nothing.
    #[error("the quorum device has no vote; set quorum.device.votes to 1 or more")]
    DeviceWithoutVotes,
    /// votequorum: the device alone would nearly be the quorum.
    #[error(
        "expected_votes {expected} less the device's {device} leaves fewer than 2; raise \
         expected_votes, or remove it to have it computed"
    )]
    DeviceVotesTooHigh {
        /// What the file says.
        expected: u32,
        /// The device's votes.
        device: u32,
    },
    /// The algorithm for developers.
    #[error(
        "algorithm test gives several sides the vote; use ffsplit or lms (developers: it needs \
         the device's test switch)"
    )]
    TestAlgorithm,
    /// qnetd answers error 12 to any other node list.
    #[error("algorithm 2nodelms needs exactly two nodes, not {0}; use ffsplit or lms")]
    TwoNodeLms(usize),
    /// A tie would go to nobody.
    #[error("quorum.device.net.tie_breaker names node {0}, which is not in the nodelist")]
    DeviceTieBreakerNode(NodeId),
    /// A stock device lets a barrier outlast the watchdog (F17).
    #[error(
        "quorum.device.sync_timeout {sync_ms} ms is above the watchdog's {watchdog_ms} ms; with \
         a stock qdevice it must not be: lower sync_timeout, or run haguard's qdevice"
    )]
    SyncTimeout {
        /// S in milliseconds.
        sync_ms: u64,
        /// W in milliseconds.
        watchdog_ms: u64,
    },
    /// Heuristics are on and there is nothing to run.
    #[error("heuristics have no exec_NAME; add one, or write `mode: off`")]
    NoExec,
    /// More commands than the device runs.
    #[error("{0} heuristics commands, and at most {MAX_EXECS} run; merge some into a script")]
    TooManyExecs(usize),
    /// `exec_` with a name that cmap would not take.
    #[error("exec_{0}: the name must be letters, digits, '_', '-' or '/'; rename it")]
    ExecName(String),
    /// A command without text.
    #[error("exec_{0}: the command is empty; give an absolute path and its arguments")]
    ExecEmpty(String),
    /// One guarded command for now.
    #[error("a second service; one guarded command can be given")]
    SecondService,
    /// A service without a name.
    #[error("the service has no name; write `name: NAME` with letters, digits, '_', '-' or '.'")]
    ServiceName,
    /// A service without a command.
    #[error("service {0:?} has no command; write `command: /path/of/program ARGUMENTS`")]
    ServiceCommand(String),
    /// A preference for a node that is not configured.
    #[error("service.prefer names node {0}, which is not in the nodelist; correct it")]
    ServicePrefer(NodeId),
    /// Only for a configuration that was made and not read.
    #[error(
        "the configuration does not read back from its own text: nodes must be sorted, numbers in \
         range, and texts without braces, line breaks and blanks at their ends"
    )]
    NotWritable,
}

fn found(votes: &Option<u32>) -> String {
    match votes {
        Some(votes) => format!("it says {votes}"),
        None => "add it".to_owned(),
    }
}
