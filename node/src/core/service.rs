//! The service that the node guards: where it belongs, when it may start here, when it must end.
//!
//! The lowest id of a QUORATE view decides the placement, every member stores it, and only then
//! the chosen node starts (safety 20). A start after a loss waits for the bound of every node
//! outside the view (rule S6).

use std::time::Duration;

use protocol::cluster::Placement;
use protocol::ids::NodeId;
use protocol::status::QuorumState;
use protocol::time::Time;
use protocol::vote::WatchdogClass;

use super::{Action, Node};

/// A service that ended by itself is started again after this long.
const RESTART_AFTER: Duration = Duration::from_secs(1);

/// What is known of the service on this node.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Running {
    /// The keeper has not spoken yet.
    #[default]
    Unknown,
    /// Something may be left of an earlier life, or of a service that ended by itself.
    Left,
    /// Proven: nothing of it is left.
    No,
    /// A start is on its way.
    Starting,
    /// It runs.
    Yes,
    /// A stop is on its way.
    Stopping,
}

/// The service on this node.
#[derive(Clone, Debug, Default)]
pub(super) struct Service {
    pub(super) running: Running,
    serial: u64,
    pub(super) started_epoch: Option<u64>,
    restart_at: Option<Time>,
    /// What the node, as the lowest id, asks everyone to store.
    pub(super) placing: Option<Placement>,
    /// Why it does not start here though it belongs here.
    pub(super) waits: Option<Wait>,
}

/// What something waits for.
#[derive(Clone, Debug)]
pub(super) struct Wait {
    /// In words.
    pub(super) text: String,
    /// It ends by itself then, if nothing ends it before.
    pub(super) until: Option<Time>,
    /// Without an operator it does not end.
    pub(super) operator: bool,
}

impl Wait {
    /// For something that ends when it ends.
    fn for_event(text: String) -> Self {
        Self { text, until: None, operator: false }
    }
}

impl Service {
    /// Unless the opposite is proven.
    pub(super) fn may_run(&self) -> bool {
        self.running != Running::No
    }

    pub(super) fn keeper_ready(&mut self, running: bool) {
        self.running = if running { Running::Left } else { Running::No };
    }

    pub(super) fn started(&mut self, serial: u64) {
        if serial == self.serial && self.running == Running::Starting {
            self.running = Running::Yes;
        }
    }

    pub(super) fn exited(&mut self, now: Time, serial: u64) {
        if serial == self.serial && matches!(self.running, Running::Starting | Running::Yes) {
            // Its children may live on; the keeper proves the rest.
            self.running = Running::Left;
            self.restart_at = Some(now + RESTART_AFTER);
        }
    }

    pub(super) fn stopped(&mut self) {
        self.running = Running::No;
    }

    pub(super) fn wakes(&self) -> Option<Time> {
        let waits = self.waits.as_ref().and_then(|wait| wait.until);
        match (self.restart_at, waits) {
            (Some(restart), Some(waits)) => Some(restart.min(waits)),
            (restart, waits) => restart.or(waits),
        }
    }
}

impl Node {
    /// Decides where the service belongs (as the lowest id) and stores what has been decided.
    pub(super) fn place(&mut self) {
        self.service.placing = None;
        let Some((_, prefer)) = &self.config.service else { return };
        if self.state != QuorumState::Quorate {
            return;
        }
        let Some(view) = self.current.as_ref().map(|ballot| &ballot.installed) else { return };
        let lowest = view.members.first().copied();
        if lowest != Some(self.config.node) {
            let beat = lowest.and_then(|node| self.peers.get(&node)?.beat.as_ref());
            let placing = beat
                .filter(|beat| beat.view.as_ref().is_some_and(|named| named.id == view.id))
                .and_then(|beat| beat.placing);
            if let Some(placing) = placing.filter(|placing| Some(*placing) > self.want.placement) {
                self.want.placement = Some(placing);
            }
            return;
        }
        let runs = |node: &&NodeId| match self.peers.get(node) {
            Some(peer) => peer.beat.as_ref().is_none_or(|beat| beat.running),
            None => self.service.may_run(),
        };
        // Within an epoch it stays where it was placed: of two starts in one epoch nobody could
        // tell which is the newer (rule S4).
        let newest = self.newest_placement(&view.members);
        let stays = newest.filter(|old| old.epoch >= view.epoch).map(|old| old.node);
        let stays = stays.filter(|node| view.members.contains(node));
        let running = view.members.iter().find(runs).copied();
        let preferred = prefer.filter(|node| view.members.contains(node));
        let node = stays.or(running).or(preferred).unwrap_or(self.config.node);
        let placing = match newest {
            Some(old) if old.epoch >= view.epoch && old.node == node => old,
            Some(old) if old.epoch >= view.epoch => {
                Placement { epoch: old.epoch, serial: old.serial.saturating_add(1), node }
            }
            Some(_) | None => Placement { epoch: view.epoch, serial: 0, node },
        };
        let placing = Some(placing);
        self.service.placing = placing;
        if placing > self.want.placement {
            self.want.placement = placing;
        }
    }

    /// The newest placement that any member has stored.
    fn newest_placement(&self, members: &[NodeId]) -> Option<Placement> {
        let peers = members.iter().filter_map(|node| self.peers.get(node)?.beat.as_ref());
        peers.filter_map(|beat| beat.placement).chain(self.want.placement).max()
    }

    /// Starts and stops the service as the state demands.
    pub(super) fn run_service(&mut self, now: Time) {
        let entitled = self.state != QuorumState::Inquorate;
        match self.service.running {
            Running::Starting | Running::Yes if !entitled || self.leaving => self.stop_service(),
            // What an earlier life or a crash left is ended before anything starts.
            Running::Left => self.stop_service(),
            Running::Unknown | Running::Starting | Running::Yes | Running::Stopping => {}
            Running::No => self.maybe_start(now),
        }
    }

    fn stop_service(&mut self) {
        self.service.running = Running::Stopping;
        self.actions.push_back(Action::StopService);
    }

    fn maybe_start(&mut self, now: Time) {
        self.service.waits = None;
        let mine = self.durable.placement.filter(|placement| placement.node == self.config.node);
        let (Some(placement), Some(_)) = (mine, &self.config.service) else { return };
        if self.leaving || self.state != QuorumState::Quorate {
            return;
        }
        let Some(view) = self.current.as_ref().map(|ballot| ballot.installed.clone()) else {
            return;
        };
        if placement.epoch < view.epoch {
            let text = "it has not been placed in this view yet".to_owned();
            self.service.waits = Some(Wait::for_event(text));
            return;
        }
        if let Some(wait) = self.start_waits_for(now, placement, &view.members) {
            self.service.waits = Some(wait);
            return;
        }
        if self.service.restart_at.is_some_and(|at| at > now) {
            return;
        }
        self.service.restart_at = None;
        self.service.serial += 1;
        self.service.running = Running::Starting;
        self.service.started_epoch = Some(view.epoch.0);
        let until = self.entitled.unwrap_or(Time::ZERO);
        let serial = self.service.serial;
        self.actions.push_back(Action::StartService { serial, epoch: view.epoch, until });
    }

    /// What a start here still waits for.
    fn start_waits_for(&self, now: Time, placement: Placement, members: &[NodeId]) -> Option<Wait> {
        let view = self.view();
        for (node, peer) in self.peers.iter().filter(|(node, _)| members.contains(node)) {
            let beat = peer.beat.as_ref()?;
            if beat.view.as_ref().map(|view| view.id) != view || beat.placement != Some(placement) {
                return Some(Wait::for_event(format!("node {node} has not stored the placement")));
            }
            if beat.running {
                return Some(Wait::for_event(format!("node {node} may still run it")));
            }
        }
        let ballot = self.current.as_ref()?;
        let waits = self.outside(ballot).filter_map(|node| self.recovery_waits_for(now, node));
        // The longest wait, and an operator's before any that ends by itself.
        waits.max_by_key(|wait| (wait.operator, wait.until.unwrap_or(Time::NEVER)))
    }

    /// What a start waits for because of one node outside the view (rule S6): the first proof of
    /// fencing or of time.
    pub(super) fn recovery_waits_for(&self, now: Time, node: NodeId) -> Option<Wait> {
        if self.peers.get(&node).is_some_and(|peer| peer.left_cleanly) || self.is_off(node) {
            return None;
        }
        let by_time = self.by_time(now, node)?;
        let Some(fencing) = self.fencing_text(now, node) else { return Some(by_time) };
        match by_time.until {
            Some(until) => {
                let text = format!("{} ({})", by_time.text, fencing.text);
                Some(Wait { text, until: Some(until), operator: false })
            }
            None => Some(fencing),
        }
    }

    /// What it waits for by time alone; nothing before this node is QUORATE without the other.
    pub(super) fn by_time(&self, now: Time, node: NodeId) -> Option<Wait> {
        let operator = |text: String| Some(Wait { text, until: None, operator: true });
        let Some(bound) = self.durable.bounds.get(&node) else {
            return operator(format!(
                "node {node} has never announced a bound: confirm that it is off"
            ));
        };
        let trusted = match bound.class {
            WatchdogClass::A => true,
            WatchdogClass::B => self.config.trust_virtual_watchdog,
            WatchdogClass::C => self.config.trust_process_watchdog,
            WatchdogClass::D => false,
        };
        if !trusted {
            return operator(format!(
                "node {node} has a watchdog of class {:?}, which proves nothing here: \
                 confirm that it is off",
                bound.class
            ));
        }
        let since = self.outside_since.get(&node)?;
        let until = *since + Duration::from_millis(u64::from(bound.bound_ms));
        let text = format!("the bound of node {node}");
        (now < until).then_some(Wait { text, until: Some(until), operator: false })
    }
}
