//! What people are told: the words of every node's status.

use std::collections::BTreeMap;

use host::clock;
use protocol::ids::ViewId;
use protocol::status::{
    DeviceStatus, NodeStatus, PeerStatus, QuorumState, VoteStatus, WatchdogStatus,
};
use protocol::time::Time;

use super::Daemon;
use super::core::timing::DeviceKind;

/// One line of JSON.
pub(super) fn text(now: Time, daemon: &Daemon) -> String {
    serde_json::to_string(&status(now, daemon))
        .unwrap_or_else(|error| format!("error: the status cannot be written: {error}"))
}

fn status(now: Time, daemon: &Daemon) -> NodeStatus {
    let guard = &daemon.guard;
    let (state, until, reason) = guard.state(now);
    let cluster = guard.cluster();
    let (ring, members) = guard.ring();
    let view = ring.map(|ring| ViewId { ring, nonce: 0 }.to_string());
    let own = cluster.map(|cluster| cluster.node);
    let others = cluster.into_iter().flat_map(|cluster| cluster.votes.keys());
    let others = others.filter(|node| Some(**node) != own);
    let peer = |contact| PeerStatus {
        contact,
        vote: contact && state == QuorumState::Quorate,
        note: if contact { "in corosync's ring" } else { "not in corosync's ring" }.to_owned(),
        ..PeerStatus::default()
    };
    let votes = guard.answer().unwrap_or_default();
    let millis = |until: Time| u64::try_from(until.since(now).as_millis()).unwrap_or(u64::MAX);
    NodeStatus {
        engine: "corosync".to_owned(),
        cluster: cluster.map(|cluster| cluster.name.clone()).unwrap_or_default(),
        node: own.map_or(0, |node| node.0),
        state,
        quorate: state == QuorumState::Quorate,
        state_expires_ms: until.map(millis),
        reason: reason.to_owned(),
        view,
        ring_id: ring.map(|ring| ring.to_string()),
        epoch: 0,
        members: members.iter().map(|node| node.0).collect(),
        votes: VoteStatus { expected: votes.expected, total: votes.total, quorum: votes.quorum },
        qdevice: device(daemon),
        watchdog: watchdog(daemon, until.map_or(0, millis)),
        peers: others.map(|node| (node.0, peer(members.contains(node)))).collect(),
        fencing: BTreeMap::new(),
        gateways: BTreeMap::new(),
        resources: Vec::new(),
        warnings: warnings(daemon),
    }
}

fn device(daemon: &Daemon) -> Option<DeviceStatus> {
    match daemon.guard.device() {
        DeviceKind::None => None,
        DeviceKind::Ours => daemon.device.as_ref().map(|word| word.at(clock::read())),
        DeviceKind::Stock => {
            let answer = daemon.guard.answer().unwrap_or_default();
            let state = if answer.registered { "registered" } else { "not registered" };
            Some(DeviceStatus {
                state: format!("{state}: not haguard's, or it does not answer the guard"),
                vote: if answer.cast { "ack" } else { "none" }.to_owned(),
                ..DeviceStatus::default()
            })
        }
    }
}

fn watchdog(daemon: &Daemon, remaining_ms: u64) -> WatchdogStatus {
    let keeper = daemon.keeper.as_ref();
    let armed = keeper.is_some_and(|keeper| keeper.armed);
    let device = daemon.options.watchdog.as_ref();
    WatchdogStatus {
        device: device.map_or("off".to_owned(), |path| path.display().to_string()),
        class: keeper.filter(|_| armed).map_or("D".to_owned(), |it| format!("{:?}", it.class)),
        armed: armed && remaining_ms > 0,
        remaining_ms: if armed { remaining_ms } else { 0 },
        bound_ms: keeper.map_or(0, |keeper| keeper.bound_ms),
    }
}

fn warnings(daemon: &Daemon) -> Vec<String> {
    let mut warnings = Vec::new();
    if daemon.options.watchdog.is_none() {
        warnings.push("this guard only observes: nothing resets this machine".to_owned());
    } else if daemon.keeper.as_ref().is_none_or(|keeper| !keeper.armed) {
        warnings.push("the watchdog is not armed: nothing resets this machine now".to_owned());
    }
    warnings.extend(daemon.trouble.clone());
    warnings.extend(daemon.guard.refusal().map(str::to_owned));
    warnings
}
