//! What a node and its quorum device say to each other on the node's local socket: votequorum's
//! device calls (register, poll with the ring id), as lines of JSON.
//!
//! The node speaks first ([`FromHost::Welcome`]); the device registers and then polls. A poll
//! carries the view it is for and the end of its lease; the node counts the vote until the
//! earlier of that end and T after the poll (F13).

use std::collections::BTreeMap;
use std::num::ParseIntError;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

use crate::ids::{BootId, Epoch, GrantId, InstanceId, NodeId, ViewId};
use crate::status::DeviceStatus;
use crate::time::HostInstant;
use crate::vote::{Algorithm, Bound, TieBreaker};

/// A line longer than this is refused, in bytes.
pub const MAX_LINE_BYTES: usize = 65536;

/// What a node tells its device.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum FromHost {
    /// Who the node is and how the device is configured; sent first, and again at a reload.
    Welcome(Box<Welcome>),
    /// The node has installed a view (votequorum's nodelist callback).
    View(HostView),
    /// The node's quorum has been computed (votequorum's quorum callback).
    Quorum(HostQuorum),
    /// The answer to a poll, sent once its vote is (or is no longer) counted.
    Polled {
        /// The poll's number.
        id: u64,
        /// False if the view is not (no longer) the node's.
        applied: bool,
    },
    /// The node lives; sent every heartbeat.
    Alive {
        /// The highest epoch that the node remembers: 0 after its disk was lost, until it has
        /// learnt how far epochs have come.
        highest_epoch: Epoch,
    },
}

/// What a device tells its node.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum FromDevice {
    /// votequorum_qdevice_register.
    Register {
        /// The device's name.
        name: String,
    },
    /// votequorum_qdevice_poll.
    Poll(Poll),
    /// What `haguard status` shows of the device.
    Status(Box<DeviceStatus>),
    /// The arbiter knows of a higher epoch than the node has stored: the node's next view has to
    /// be above it (safety 10, 27).
    Epoch {
        /// The highest epoch that the arbiter knows.
        highest: Epoch,
    },
    /// votequorum_qdevice_unregister: the vote is gone at once.
    Unregister,
}

/// The device's vote.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Poll {
    /// Counts polls, for the answer.
    pub id: u64,
    /// The view it is for. A poll without a vote ends the vote in every view.
    pub view: ViewId,
    /// The vote, if it is cast.
    pub cast: Option<Cast>,
}

/// A vote that is cast.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Cast {
    /// It counts until then.
    pub expires: HostInstant,
    /// The grant it comes from.
    pub grant: GrantId,
}

/// The node's introduction.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Welcome {
    /// totem.cluster_name.
    pub cluster: String,
    /// The node's own id.
    pub node: NodeId,
    /// The boot of the machine.
    pub boot: BootId,
    /// This life of the node's process.
    pub instance: InstanceId,
    /// The node's watchdog.
    pub bound: Bound,
    /// totem.config_version.
    pub config_version: Option<u64>,
    /// The configured nodes and their data centres (0: none).
    #[serde(deserialize_with = "by_node")]
    pub nodes: BTreeMap<NodeId, u32>,
    /// quorum.device, if there is one.
    pub device: Option<DeviceSettings>,
}

/// quorum.device of the cluster's configuration, defaults filled in.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct DeviceSettings {
    /// net.host.
    pub host: String,
    /// net.port.
    pub port: u16,
    /// net.tls.
    pub tls: TlsMode,
    /// net.algorithm.
    pub algorithm: Algorithm,
    /// net.tie_breaker.
    pub tie_breaker: TieBreaker,
    /// net.keep_active_partition_tie_breaker.
    pub keep_active_partition: bool,
    /// T, in milliseconds.
    pub timeout_ms: u32,
    /// S, in milliseconds.
    pub sync_timeout_ms: u32,
    /// The heartbeat interval on the wire, in milliseconds.
    pub heartbeat_ms: u32,
    /// net.connect_timeout, in milliseconds.
    pub connect_timeout_ms: u32,
    /// net.force_ip_version: 0, 4 or 6.
    pub force_ip_version: u8,
    /// heuristics.
    pub heuristics: HeuristicsSettings,
}

/// net.tls (corosync-qdevice(8)).
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TlsMode {
    /// Plain text.
    Off,
    /// TLS if the server offers it; to our own arbiter treated as required (8.9 c).
    On,
    /// TLS or nothing.
    Required,
}

/// heuristics of the device's configuration.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct HeuristicsSettings {
    /// When they run.
    pub mode: HeuristicsMode,
    /// For a regular run, in milliseconds.
    pub timeout_ms: u32,
    /// For a run during a view change, in milliseconds.
    pub sync_timeout_ms: u32,
    /// Between regular runs, in milliseconds.
    pub interval_ms: u32,
    /// Commands by name.
    pub commands: BTreeMap<String, String>,
}

/// heuristics.mode.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HeuristicsMode {
    /// Never.
    #[default]
    Off,
    /// At view changes and regularly.
    On,
    /// At view changes.
    Sync,
}

/// A view as the device learns it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct HostView {
    /// Which view.
    pub id: ViewId,
    /// The epoch its members agreed.
    pub epoch: Epoch,
    /// Its members, ascending.
    pub members: Vec<NodeId>,
}

/// The node's quorum as the device learns it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct HostQuorum {
    /// The view it was computed in.
    pub view: ViewId,
    /// QUORATE.
    pub quorate: bool,
    /// Expected votes, the device's included.
    #[serde(default)]
    pub expected_votes: u32,
    /// Every configured node and whether it is a member.
    #[serde(deserialize_with = "by_node")]
    pub nodes: BTreeMap<NodeId, bool>,
}

/// JSON's keys are texts. Within an enum whose variants are told apart by a field, serde has read
/// them as such before it knows that they are to be numbers, so they are parsed here.
pub(crate) fn by_node<'de, D, V>(from: D) -> Result<BTreeMap<NodeId, V>, D::Error>
where
    D: Deserializer<'de>,
    V: Deserialize<'de>,
{
    let texts = BTreeMap::<String, V>::deserialize(from)?;
    let parsed = texts.into_iter().map(|(node, value)| Ok((NodeId(node.parse()?), value)));
    parsed.collect::<Result<_, ParseIntError>>().map_err(Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_says_comes_back_from_its_line() {
        let view = ViewId::default();
        let quorum = HostQuorum {
            view,
            quorate: true,
            expected_votes: 3,
            nodes: [(NodeId(1), true), (NodeId(4_000_000_000), false)].into(),
        };
        let welcome = Welcome {
            cluster: "c".to_owned(),
            node: NodeId(1),
            boot: BootId::default(),
            instance: InstanceId(u64::MAX),
            bound: Bound { class: crate::vote::WatchdogClass::C, bound_ms: 5300 },
            config_version: None,
            nodes: [(NodeId(1), 0), (NodeId(2), 7)].into(),
            device: None,
        };
        for said in [
            FromHost::Quorum(quorum),
            FromHost::Welcome(Box::new(welcome)),
            FromHost::View(HostView { id: view, epoch: Epoch(3), members: vec![NodeId(1)] }),
            FromHost::Polled { id: u64::MAX, applied: true },
            FromHost::Alive { highest_epoch: Epoch(u64::MAX) },
        ] {
            let line = serde_json::to_string(&said).unwrap();
            assert_eq!(serde_json::from_str::<FromHost>(&line).unwrap(), said, "{line}");
        }
    }

    #[test]
    fn an_epoch_comes_back_from_its_line() {
        let said = FromDevice::Epoch { highest: Epoch(u64::MAX) };
        let line = serde_json::to_string(&said).unwrap();
        assert_eq!(line, r#"{"type":"epoch","highest":18446744073709551615}"#);
        assert_eq!(serde_json::from_str::<FromDevice>(&line).unwrap(), said);
    }
}
