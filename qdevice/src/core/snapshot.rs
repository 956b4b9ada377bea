//! What the device knows, for status.

use std::collections::BTreeMap;

use protocol::host::{DeviceSettings, HostQuorum, HostView};
use protocol::ids::{GrantId, NodeId};
use protocol::status::DeviceStatus;
use protocol::time::Time;
use protocol::vote::Heuristics;

use super::Device;
use super::ballot::Purpose;

/// How far the conversation with the arbiter has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// No connection, and none is being made.
    Down,
    /// A connection is being made, or the two introduce themselves.
    Connecting,
    /// The arbiter has accepted this node.
    Connected,
}

/// The last results of the heuristics commands, by what they were run for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct HeuristicsResults {
    /// Of whatever run was the last.
    pub latest: Heuristics,
    /// Of the regular look.
    pub regular: Heuristics,
    /// For a new view.
    pub membership: Heuristics,
    /// For a new connection.
    pub connect: Heuristics,
}

impl HeuristicsResults {
    pub(super) fn note(&mut self, purpose: Purpose, result: Heuristics) {
        self.latest = result;
        match purpose {
            Purpose::Regular => self.regular = result,
            Purpose::View => self.membership = result,
            Purpose::Connect => self.connect = result,
        }
    }
}

/// The device at one moment, of a host that is there.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// totem.cluster_name.
    pub cluster: String,
    /// The host's node.
    pub node: NodeId,
    /// totem.config_version.
    pub config_version: Option<u64>,
    /// The configured nodes and their data centres (0: none).
    pub nodes: BTreeMap<NodeId, u32>,
    /// quorum.device.
    pub settings: DeviceSettings,
    /// The view, once there is one.
    pub view: Option<HostView>,
    /// The quorum, once it was computed.
    pub quorum: Option<HostQuorum>,
    /// The conversation.
    pub state: State,
    /// Host and port of the arbiter as they are dialled.
    pub arbiter: String,
    /// The arbiter has accepted this node then.
    pub connected_at: Option<Time>,
    /// The last echo of this connection came back then.
    pub echoed_at: Option<Time>,
    /// The arbiter knows the keep-active-partition tie-breaker.
    pub keeps_active_partition: bool,
    /// What the heuristics found.
    pub heuristics: HeuristicsResults,
    /// A vote is cast now, until then, and comes from this grant.
    pub lease: Option<(Time, GrantId)>,
    /// The last vote is a yes or a no that still stands.
    pub decided: bool,
    /// What the host was told.
    pub status: DeviceStatus,
}

impl Device {
    /// What the device knows; `None` without a host.
    pub fn snapshot(&self, now: Time) -> Option<Snapshot> {
        let host = self.host.as_ref()?;
        let lease = self.ballot.lease.filter(|lease| now < lease.expires);
        let mut status = self.status(self.facts(now));
        if let Some(lease) = lease {
            let remaining = lease.expires.since(now).as_millis();
            status.lease_remaining_ms = Some(u64::try_from(remaining).unwrap_or(u64::MAX));
            status.epoch = Some(lease.grant.epoch.0).filter(|epoch| *epoch > 0);
        }
        Some(Snapshot {
            cluster: host.welcome.cluster.clone(),
            node: host.welcome.node,
            config_version: host.welcome.config_version,
            nodes: host.welcome.nodes.clone(),
            settings: host.settings.clone(),
            view: host.view.clone(),
            quorum: host.quorum.clone(),
            state: self.session.state(),
            arbiter: self.arbiter(),
            connected_at: self.session.connected_at,
            echoed_at: self.session.echoed_at,
            keeps_active_partition: self.session.keeps_active_partition,
            heuristics: self.results,
            lease: lease.map(|lease| (lease.expires, lease.grant)),
            decided: self.ballot.decided(now),
            status,
        })
    }

    /// Why there is no vote, for people; empty if there is nothing to say.
    pub fn problem(&self) -> &str {
        self.problem.as_deref().unwrap_or_default()
    }
}
