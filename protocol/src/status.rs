//! The snapshots behind `haguard status`. The JSON is an interface for scripts: fields are added,
//! never renamed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A node's quorum (rule S1).
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum QuorumState {
    /// Quorate in its current view.
    Quorate,
    /// A peer is lost and there is no new quorate view yet: what runs goes on running, nothing
    /// starts.
    Frozen,
    /// Neither.
    #[default]
    Inquorate,
}

/// What a node says of itself.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct NodeStatus {
    /// What finds the members and counts the votes: `builtin`, or `corosync` under the guard.
    #[serde(default)]
    pub engine: String,
    /// The cluster's name.
    pub cluster: String,
    /// This node's id.
    pub node: u32,
    /// Its state, computed when the status was asked for.
    pub state: QuorumState,
    /// True only in `quorate`.
    pub quorate: bool,
    /// Until when the state lasts if nothing more is heard, in milliseconds from the answer.
    pub state_expires_ms: Option<u64>,
    /// Why it is not quorate, or why it waits; empty if there is nothing to say.
    pub reason: String,
    /// The installed view, `ring/nonce` in hex.
    pub view: Option<String>,
    /// The ring id as the stock tools print it.
    pub ring_id: Option<String>,
    /// The epoch of the view.
    pub epoch: u64,
    /// Members of the view.
    pub members: Vec<u32>,
    /// Votes, counting only unexpired ones.
    pub votes: VoteStatus,
    /// The device, if one is registered.
    pub qdevice: Option<DeviceStatus>,
    /// The watchdog.
    pub watchdog: WatchdogStatus,
    /// Every other configured node.
    pub peers: BTreeMap<u32, PeerStatus>,
    /// Fencing: what recovery waits for, by node.
    pub fencing: BTreeMap<u32, String>,
    /// The fencing gateways by address: `ready`, or what is wrong.
    #[serde(default)]
    pub gateways: BTreeMap<String, String>,
    /// The guarded service, if one is configured.
    pub resources: Vec<ResourceStatus>,
    /// Standing remarks, such as a watchdog class that proves nothing.
    pub warnings: Vec<String>,
}

/// votequorum's numbers.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct VoteStatus {
    /// Expected votes, the device's included.
    pub expected: u32,
    /// Votes that count now.
    pub total: u32,
    /// Votes needed.
    pub quorum: u32,
}

/// The quorum device as its node sees it.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct DeviceStatus {
    /// `connected`, `connecting`, `disconnected`, with the reason behind a colon.
    pub state: String,
    /// The last vote: `ack`, `nack`, `wait`, or `none`.
    pub vote: String,
    /// What is left of its lease.
    pub lease_remaining_ms: Option<u64>,
    /// The epoch of its grant.
    pub epoch: Option<u64>,
    /// The arbiter's address.
    pub arbiter: String,
    /// The arbiter's identity, if it is one of ours.
    pub arbiter_id: Option<String>,
}

/// The watchdog as its node sees it.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct WatchdogStatus {
    /// The device, or `process`.
    pub device: String,
    /// Class A to D.
    pub class: String,
    /// Entitled, and therefore petted.
    pub armed: bool,
    /// Until the entitlement ends if nothing more is heard.
    pub remaining_ms: u64,
    /// The announced bound.
    pub bound_ms: u32,
}

/// One peer.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct PeerStatus {
    /// Two-way contact now.
    pub contact: bool,
    /// Its vote counts here now.
    pub vote: bool,
    /// Since its last beat, if one was heard.
    pub silent_ms: Option<u64>,
    /// What it runs with, or says of itself.
    pub note: String,
    /// The links to it, by number (builtin engine).
    #[serde(default)]
    pub links: BTreeMap<u8, LinkStatus>,
}

/// One link to a peer.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct LinkStatus {
    /// A connection stands, and beats have come through it.
    pub connected: bool,
    /// The peer's address on it; empty while none is known.
    pub address: String,
    /// Its round-trip time in microseconds, while connected.
    pub rtt_us: Option<u64>,
    /// Packets sent on this connection.
    pub sent: u64,
    /// Those of them that were lost.
    pub lost: u64,
    /// Why there is no connection; empty where there is one.
    pub problem: String,
}

/// A service.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct ResourceStatus {
    /// Its name.
    pub name: String,
    /// Where it is placed.
    pub node: Option<u32>,
    /// `running`, `starting`, `stopping`, `stopped`, `waiting: …`, `elsewhere`.
    pub state: String,
    /// The epoch of its last start here.
    pub epoch: Option<u64>,
}

/// What an arbiter says of itself.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct ArbiterStatus {
    /// Its identity.
    pub arbiter_id: String,
    /// Where it listens.
    pub address: String,
    /// `Unsupported`, `Supported`, `Required`.
    pub tls: String,
    /// Connections.
    pub clients: u32,
    /// Its clusters by name.
    pub clusters: BTreeMap<String, ClusterStatus>,
    /// Standing remarks.
    pub warnings: Vec<String>,
}

/// One cluster at the arbiter.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct ClusterStatus {
    /// The algorithm's name in the configuration.
    pub algorithm: String,
    /// The highest epoch known.
    pub epoch: u64,
    /// The nodes that have the vote.
    pub holder: Vec<u32>,
    /// The view they have it in.
    pub view: Option<String>,
    /// What the vote waits for, in words.
    pub waiting: Option<String>,
    /// How long that can take at most.
    pub waiting_ms: Option<u64>,
    /// Who is being fenced for whom.
    #[serde(default)]
    pub intent: Option<IntentStatus>,
    /// Nodes that are confirmed off, and have not come back.
    #[serde(default)]
    pub confirmed_off: Vec<u32>,
    /// Connected nodes.
    pub nodes: BTreeMap<u32, ClientStatus>,
}

/// The open fencing intent of a cluster at the arbiter.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct IntentStatus {
    /// The node whose side asks.
    pub requester: u32,
    /// The nodes that have no vote meanwhile.
    pub condemned: Vec<u32>,
    /// Those of its targets that have been proven off.
    pub proven: Vec<u32>,
    /// Since its gateway has asked for it last.
    pub attested_ms: u64,
}

/// One client at the arbiter.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct ClientStatus {
    /// Its address.
    pub address: String,
    /// TLS is on and its certificate verified.
    pub tls: bool,
    /// It negotiated leases.
    pub leases: bool,
    /// Its ring id.
    pub ring_id: String,
    /// The members it reports.
    pub members: Vec<u32>,
    /// The last vote it was sent.
    pub vote: Option<String>,
    /// How long its hold on the vote can last.
    pub hold_ms: Option<u64>,
}
