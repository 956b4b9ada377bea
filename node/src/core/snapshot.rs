//! What the node shows of itself. Expiries are tested here, not read from a flag (rule S2).

use std::collections::BTreeMap;

use protocol::ids::NodeId;
use protocol::status::{
    DeviceStatus, NodeStatus, PeerStatus, QuorumState, ResourceStatus, VoteStatus, WatchdogStatus,
};
use protocol::time::Time;
use protocol::vote::WatchdogClass;

use super::Node;
use super::service::{Running, Wait};

impl Node {
    /// The whole picture now.
    pub fn status(&self, now: Time, cluster: &str) -> NodeStatus {
        let state = self.judge(now);
        let ballot = self.current.as_ref();
        let entitled = match state {
            QuorumState::Quorate => ballot,
            QuorumState::Frozen => self.old.as_ref().or(ballot),
            QuorumState::Inquorate => None,
        };
        let until = self.entitled_until(now, state);
        let lasting = until.filter(|until| *until != Time::NEVER);
        NodeStatus {
            engine: "builtin".to_owned(),
            cluster: cluster.to_owned(),
            node: self.config.node.0,
            state,
            quorate: state == QuorumState::Quorate,
            state_expires_ms: lasting.map(|until| millis(now, until)),
            reason: self.reason(now, state),
            view: ballot.map(|ballot| ballot.installed.id.to_string()),
            ring_id: ballot.map(|ballot| ballot.installed.id.ring.to_string()),
            epoch: self.view_epoch().0,
            members: self.members().iter().map(|node| node.0).collect(),
            votes: VoteStatus {
                expected: self.expected_votes(),
                total: entitled.or(ballot).map_or(0, |ballot| self.total(now, ballot)),
                quorum: self.config.quorum,
            },
            qdevice: self.device(now),
            watchdog: WatchdogStatus {
                device: String::new(),
                class: format!("{:?}", self.config.bound.class),
                armed: entitled.is_some(),
                remaining_ms: lasting.map_or(0, |until| millis(now, until)),
                bound_ms: self.config.bound.bound_ms,
            },
            peers: self.peers.keys().map(|node| (node.0, self.peer_status(now, *node))).collect(),
            fencing: self.fencing(now, state),
            gateways: BTreeMap::new(),
            resources: self.resource(state).into_iter().collect(),
            warnings: self.warnings(),
        }
    }

    /// The device's own words, with what is left of the lease that is counted here.
    fn device(&self, now: Time) -> Option<DeviceStatus> {
        let mut status = self.device_status.clone()?;
        let ballots = [&self.current, &self.old].into_iter().flatten();
        let votes = ballots.filter_map(|ballot| ballot.device).filter(|vote| now < vote.until);
        let vote = votes.max_by_key(|vote| vote.until);
        status.lease_remaining_ms = vote.map(|vote| millis(now, vote.until));
        status.epoch = vote.map(|vote| vote.grant.epoch.0);
        Some(status)
    }

    fn reason(&self, now: Time, state: QuorumState) -> String {
        if state == QuorumState::Quorate {
            return String::new();
        }
        let Some(ballot) = &self.current else {
            return "no view yet: looking for the other nodes".to_owned();
        };
        if let Some(text) = self.hindrance_text(now) {
            return text;
        }
        if self.durable.forgotten {
            let who = match self.config.device_votes {
                0 => "more nodes that remember, or for all nodes to be together",
                _ => "the arbiter, or for more nodes that remember",
            };
            return format!(
                "this node's disk knew no epoch of the cluster: its vote waits for {who}"
            );
        }
        let (total, quorum) = (self.total(now, ballot), self.config.quorum);
        let device = match &self.device_status {
            _ if self.config.device_votes == 0 => String::new(),
            Some(status) => format!("; the device is {}, vote {}", status.state, status.vote),
            None => "; no device is registered: start haguard qdevice".to_owned(),
        };
        format!("{total} of {quorum} votes{device}")
    }

    fn peer_status(&self, now: Time, node: NodeId) -> PeerStatus {
        let Some(peer) = self.peers.get(&node) else { return PeerStatus::default() };
        let vote = self.current.as_ref().and_then(|ballot| peer.vote_until(ballot.installed.id));
        let note = match (&peer.beat, peer.foreign_config) {
            (None, _) => "never heard",
            (Some(_), true) => "has another cluster configuration: compare the files",
            (Some(beat), false) if beat.leaving => "leaving",
            (Some(_), false) if peer.removed => "was lost; comes back after 5 s of contact",
            (Some(_), false) => "",
        };
        PeerStatus {
            contact: peer.in_contact(now),
            vote: vote.is_some_and(|until| now < until),
            silent_ms: peer.beat.as_ref().map(|_| millis(peer.heard_at, now)),
            note: note.to_owned(),
            links: BTreeMap::new(),
        }
    }

    /// By node outside the view: what recovery waits for.
    fn fencing(&self, now: Time, state: QuorumState) -> BTreeMap<u32, String> {
        let Some(ballot) = &self.current else { return BTreeMap::new() };
        let outside = self.outside(ballot);
        let text = |node| match self.recovery_waits_for(now, node) {
            Some(wait) => wait_text(now, &wait),
            None => self.settled_text(now, state, node),
        };
        outside.map(|node| (node.0, text(node))).collect()
    }

    /// Nothing of this node is waited for: why.
    fn settled_text(&self, now: Time, state: QuorumState, node: NodeId) -> String {
        if let Some(text) = self.off_text(now, node) {
            return text;
        }
        if self.outside_since.contains_key(&node) {
            return "its bound has passed: its services have ended".to_owned();
        }
        // Quorate since this very moment: its bound begins with the next event.
        if state == QuorumState::Quorate {
            let bound_ms = self.durable.bounds.get(&node).map_or(0, |bound| bound.bound_ms);
            return format!("waits {bound_ms} ms for the bound of node {node}");
        }
        let left = self.peers.get(&node).is_some_and(|peer| peer.left_cleanly);
        match self.fencing_text(now, node).filter(|_| !left) {
            Some(wait) => format!("not quorate: nothing is recovered; {}", wait.text),
            None => "not quorate: nothing is recovered".to_owned(),
        }
    }

    fn resource(&self, state: QuorumState) -> Option<ResourceStatus> {
        let (name, _) = self.config.service.as_ref()?;
        let placed = self.durable.placement.map(|placement| placement.node);
        let here = placed == Some(self.config.node);
        let waits = self.service.waits.as_ref().map(|wait| format!("waiting: {}", wait.text));
        let state = match self.service.running {
            Running::Unknown => "unknown: the keeper has not spoken yet".to_owned(),
            Running::Left => "stopping: what may be left of an earlier start".to_owned(),
            Running::Starting => "starting".to_owned(),
            Running::Yes => "running".to_owned(),
            Running::Stopping => "stopping".to_owned(),
            Running::No if !here => "elsewhere".to_owned(),
            Running::No if state != QuorumState::Quorate => "stopped: not quorate".to_owned(),
            Running::No => waits.unwrap_or_else(|| "stopped".to_owned()),
        };
        Some(ResourceStatus {
            name: name.clone(),
            node: placed.map(|node| node.0),
            state,
            epoch: self.service.started_epoch,
        })
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        match self.config.bound.class {
            WatchdogClass::A => {}
            WatchdogClass::B if self.config.trust_virtual_watchdog => warnings.push(
                "virtual watchdog trusted: a paused machine proves nothing by time".to_owned(),
            ),
            WatchdogClass::C if self.config.trust_process_watchdog => warnings.push(
                "process watchdog trusted: a wedged or paused machine is not stopped".to_owned(),
            ),
            WatchdogClass::B | WatchdogClass::C | WatchdogClass::D => warnings.push(format!(
                "watchdog class {:?} proves nothing: after a loss recovery waits for an operator",
                self.config.bound.class
            )),
        }
        warnings
    }
}

fn wait_text(now: Time, wait: &Wait) -> String {
    match wait.until {
        _ if wait.operator => format!("waits for the operator: {}", wait.text),
        Some(until) => format!("waits {} ms for {}", millis(now, until), wait.text),
        None => format!("waits: {}", wait.text),
    }
}

fn millis(from: Time, to: Time) -> u64 {
    u64::try_from(to.since(from).as_millis()).unwrap_or(u64::MAX)
}
