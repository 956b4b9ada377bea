//! Our quorum device on a corosync host: its own core, and what its shell does between it and
//! votequorum (safety 8). The shell's part is the product's `qdevice/src/corosync`, in short.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::host::{
    DeviceSettings, FromHost, HeuristicsSettings, HostQuorum, HostView, TlsMode, Welcome,
};
use protocol::ids::{BootId, ClusterName, Epoch, InstanceId, NodeId, RingId, ViewId};
use protocol::qnet::{Deframer, HostKind, MESSAGE_LIMIT_BYTES, Message};
use protocol::time::Time;
use protocol::times;
use protocol::vote::{Algorithm, Bound, Heuristics, TieBreaker, WatchdogClass};
use qdevice::core::{Action, Config, Device, Event};

use super::stock_device::Duty;
use super::votequorum::Votequorum;

/// The device hears this often that corosync lives.
const ALIVE: Duration = Duration::from_millis(200);
/// A membership change is held this long for a device without a lease.
const PATIENCE: Duration = times::LEASE;

/// One process.
#[derive(Debug)]
pub(super) struct OwnDevice {
    core: Device,
    lease: Option<(RingId, Time)>,
    /// The poll whose loss is to be seen applied.
    loss: Option<u64>,
    poll_at: Option<Time>,
    alive_at: Time,
    pub(super) duties: Vec<Duty>,
    answers: Vec<Event>,
}

impl OwnDevice {
    pub(super) fn new(
        now: Time,
        cluster: &ClusterName,
        node: NodeId,
        config: &[NodeId],
        (algorithm, tie_breaker): (Algorithm, TieBreaker),
        life: u64,
    ) -> Self {
        let core = Device::new(Config {
            instance: InstanceId(life),
            seed: life,
            host: HostKind::Corosync,
            pinned: None,
            arbiter: "arbiter:5403".to_owned(),
        });
        let milliseconds = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        let timeout_ms = milliseconds(times::DEVICE_TIMEOUT);
        let settings = DeviceSettings {
            host: "arbiter".to_owned(),
            port: protocol::qnet::PORT,
            tls: TlsMode::Off,
            algorithm,
            tie_breaker,
            keep_active_partition: false,
            timeout_ms,
            sync_timeout_ms: milliseconds(times::DEVICE_SYNC_TIMEOUT),
            heartbeat_ms: timeout_ms / 5 * 4,
            connect_timeout_ms: timeout_ms / 5 * 4,
            force_ip_version: 0,
            heuristics: HeuristicsSettings::default(),
        };
        let welcome = Welcome {
            cluster: cluster.to_string(),
            node,
            boot: BootId(u128::from(node.0)),
            instance: InstanceId(u64::from(node.0)),
            bound: Bound { class: WatchdogClass::D, bound_ms: 0 },
            config_version: None,
            nodes: config.iter().map(|node| (*node, 0)).collect(),
            device: Some(settings),
        };
        let mut device = Self {
            core,
            lease: None,
            loss: None,
            poll_at: None,
            alive_at: now,
            duties: Vec::new(),
            answers: Vec::new(),
        };
        device.handle(now, Event::Host(FromHost::Welcome(Box::new(welcome))));
        device
    }

    pub(super) fn handle(&mut self, now: Time, event: Event) {
        self.core.handle(now, event);
        while let Some(action) = self.core.next_action() {
            match action {
                Action::Poll { id, view, cast } => self.cast(id, view, cast.map(|(at, _)| at)),
                Action::Connect { limit: _ } => self.duties.push(Duty::Connect),
                Action::Send(bytes) => {
                    let (_, frame) = Deframer::new(MESSAGE_LIMIT_BYTES).feed(&bytes);
                    let frame = frame.and_then(Result::ok);
                    let message = frame.and_then(|frame| Message::decode(&frame).ok());
                    self.duties.extend(message.map(|message| Duty::Send(Box::new(message))));
                }
                Action::Disconnect => self.duties.push(Duty::Close),
                Action::RunHeuristics { run, limit: _ } => {
                    self.answers.push(Event::Heuristics { run, result: Heuristics::Pass });
                }
                Action::Register
                | Action::Unregister
                | Action::StartTls
                | Action::Pin(_)
                | Action::Epoch(_)
                | Action::Status(_)
                | Action::Exit
                | Action::Decided(_) => {}
            }
        }
    }

    fn cast(&mut self, id: u64, view: ViewId, until: Option<Time>) {
        self.lease = until.map(|until| (view.ring, until));
        self.duties.push(Duty::Poll(view.ring, until.is_some()));
        self.loss = Some(id);
    }

    pub(super) fn ring_begins(&mut self, now: Time, ring: RingId, members: &[NodeId]) {
        let view = HostView { id: view_of(ring), epoch: Epoch(0), members: members.to_vec() };
        self.loss = None;
        self.poll_at = self.lease.is_none().then_some(now + PATIENCE);
        self.handle(now, Event::Host(FromHost::View(view)));
    }

    pub(super) fn quorum(&mut self, now: Time, host: &Votequorum) {
        let nodes: BTreeMap<NodeId, bool> = host.members.iter().map(|node| (*node, true)).collect();
        let quorum = HostQuorum {
            view: view_of(host.ring),
            quorate: host.quorate,
            expected_votes: 0,
            nodes,
        };
        self.handle(now, Event::Host(FromHost::Quorum(quorum)));
    }

    /// Does what is due; `host` is what corosync says of itself, unless it stands still.
    pub(super) fn pass(&mut self, now: Time, host: Option<&Votequorum>) {
        for event in std::mem::take(&mut self.answers) {
            self.handle(now, event);
        }
        if let Some(host) = host {
            self.look(now, host);
        }
        if self.core.deadline().is_some_and(|at| at <= now) {
            self.handle(now, Event::Timeout);
        }
    }

    fn look(&mut self, now: Time, host: &Votequorum) {
        if now >= self.alive_at {
            self.alive_at = now + ALIVE;
            let highest_epoch = Epoch(0);
            self.handle(now, Event::Host(FromHost::Alive { highest_epoch }));
        }
        // A vote is taken back at the end of its lease, whatever the device does.
        if self.lease.take_if(|(_, until)| now >= *until).is_some()
            || self.poll_at.take_if(|at| now >= *at).is_some()
        {
            self.duties.push(Duty::Poll(host.ring, false));
        }
        let cast = self.lease.is_some_and(|(ring, _)| ring == host.ring);
        let applied = host.is_settled() && host.cast == cast;
        if let Some(id) = self.loss.take_if(|_| applied) {
            self.handle(now, Event::Host(FromHost::Polled { id, applied: true }));
        }
    }
}

/// All nodes of a ring name it alike; corosync's have no random part.
fn view_of(ring: RingId) -> ViewId {
    ViewId { ring, nonce: 0 }
}
