//! The rules, in the small world, and what is of note in it.

use std::collections::BTreeMap;

use protocol::host::HostView;
use protocol::ids::{Epoch, GrantId, NodeId, ViewId};
use protocol::status::QuorumState;
use qnetd::core::ClientId;

use super::cell::{Cell, Host};
use crate::invariants::{Reading, two_sides};

/// What the rules have to remember of before.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    /// The view that was QUORATE with an epoch.
    epochs: BTreeMap<Epoch, ViewId>,
    /// Members by view.
    views: BTreeMap<ViewId, Vec<NodeId>>,
}

impl History {
    pub(super) fn installed(&mut self, view: &HostView) {
        self.views.insert(view.id, view.members.clone());
    }

    fn contains(&self, view: ViewId, node: NodeId) -> bool {
        self.views.get(&view).is_some_and(|members| members.contains(&node))
    }
}

/// Something of note: when it changes, [`super::Choice::Run`] ends.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Milestone {
    nodes: Vec<(Option<QuorumState>, Option<ViewId>)>,
    /// Whose vote each device has.
    leases: Vec<Option<ViewId>>,
    grants: usize,
    joined: usize,
}

impl Milestone {
    pub(super) fn of(cell: &Cell) -> Self {
        let hosts = cell.hosts.values();
        let nodes = hosts.clone().map(|host| (cell.state(host), view(host)));
        let arbiter = cell.server.arbiter.machine.as_ref();
        let joined = |id: &&u64| arbiter.is_some_and(|m| m.get().has_joined(ClientId(**id)));
        Self {
            nodes: nodes.collect(),
            leases: hosts.map(|host| cell.lease(host)).collect(),
            grants: cell.server.journal.get().len(),
            joined: cell.server.streams.keys().filter(joined).count(),
        }
    }

    /// Every node is QUORATE and every device has a lease, all in one view.
    pub(super) fn is_whole(&self) -> bool {
        let first = self.leases.first().copied().flatten();
        let nodes = self.nodes.iter();
        first.is_some()
            && self.leases.iter().all(|view| *view == first)
            && nodes.clone().all(|(state, _)| *state == Some(QuorumState::Quorate))
            && nodes.clone().all(|(_, view)| *view == first)
    }

    /// How many nodes are in this state.
    pub(super) fn count(&self, state: QuorumState) -> usize {
        self.nodes.iter().filter(|(of, _)| *of == Some(state)).count()
    }

    /// How many clients the arbiter has.
    pub(super) fn joined(&self) -> usize {
        self.joined
    }
}

fn view(host: &Host) -> Option<ViewId> {
    host.node.machine.as_ref().and_then(|machine| machine.get().view())
}

impl Cell {
    fn state(&self, host: &Host) -> Option<QuorumState> {
        let machine = host.node.machine.as_ref()?;
        Some(machine.get().state(host.node.time(self.now)))
    }

    /// The view that a device has a lease of now.
    fn lease(&self, host: &Host) -> Option<ViewId> {
        let machine = host.device.machine.as_ref()?.get();
        machine.lease(host.device.time(self.now)).map(|(view, _)| view)
    }

    fn grant(&self, host: &Host) -> Option<GrantId> {
        let snapshot = host.device.machine.as_ref()?.get().snapshot(host.device.time(self.now))?;
        snapshot.lease.map(|(_, grant)| grant)
    }

    /// A rule that is broken; the first one counts.
    pub(super) fn report(&mut self, rule: &'static str, text: String) {
        self.broken.get_or_insert((rule, text));
    }

    /// Every rule.
    pub(super) fn check(&mut self) {
        self.one_side();
        self.one_view_an_epoch();
        self.one_lease();
    }

    /// S1: there is one side.
    fn one_side(&mut self) {
        let readings = self.hosts.iter().filter_map(|(node, host)| {
            let machine = host.node.machine.as_ref()?.get();
            Some(Reading {
                node: *node,
                state: machine.state(host.node.time(self.now)),
                view: machine.view(),
                epoch: machine.view_epoch(),
                members: machine.members().to_vec(),
            })
        });
        let readings: Vec<Reading> = readings.collect();
        if let Some(text) = two_sides(&readings, true) {
            self.report("S1", text);
        }
    }

    /// S4: two QUORATE views never have one epoch.
    fn one_view_an_epoch(&mut self) {
        let quorate = self.hosts.values().filter(|h| self.state(h) == Some(QuorumState::Quorate));
        let found: Vec<(Epoch, ViewId)> = quorate
            .filter_map(|host| {
                let machine = host.node.machine.as_ref()?.get();
                Some((machine.view_epoch(), machine.view()?))
            })
            .collect();
        for (epoch, view) in found {
            match self.history.get().epochs.get(&epoch).copied() {
                None => {
                    self.history.change().epochs.insert(epoch, view);
                }
                Some(known) if known != view => {
                    let text = format!("{view} is QUORATE with epoch {epoch}, which was {known}'s");
                    self.report("S4", text);
                }
                Some(_) => {}
            }
        }
    }

    /// S1 at the arbiter: of two leases that run in different views, the holder of the older one
    /// is a member of the newer view, so that it has left the older one before it counts the newer.
    fn one_lease(&mut self) {
        let mut views = self.hosts.values().filter_map(|host| self.lease(host));
        let first = views.next();
        if views.all(|view| Some(view) == first) {
            return;
        }
        let leases: Vec<(NodeId, Epoch, ViewId)> = self
            .hosts
            .iter()
            .filter_map(|(node, host)| Some((*node, self.grant(host)?.epoch, self.lease(host)?)))
            .collect();
        for (node, old, old_view) in &leases {
            for (other, new, view) in leases.iter().filter(|(_, new, _)| new > old) {
                if view != old_view && !self.history.get().contains(*view, *node) {
                    let text = format!(
                        "device {other} has a lease of {view} (epoch {new}) while device {node} \
                         has one of {old_view} (epoch {old})",
                    );
                    self.report("leases", text);
                }
            }
        }
    }
}
