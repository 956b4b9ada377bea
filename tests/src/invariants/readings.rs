//! What nodes say of themselves and where services are, brought up to date after every step.
//!
//! Most steps change neither, so only those nodes are asked to whom something has happened, or
//! whose time has come: between two deadlines of its machine a node's state stays what it is.

use node::core::Node;
use protocol::ids::{Epoch, NodeId, ViewId};
use protocol::status::QuorumState;
use protocol::time::Time;

use super::Monitor;
use crate::world::Hosts;

/// What a node reads of itself now.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    pub(crate) node: NodeId,
    pub(crate) state: QuorumState,
    pub(crate) view: Option<ViewId>,
    pub(crate) epoch: Epoch,
    pub(crate) members: Vec<NodeId>,
}

impl Reading {
    fn of(node: NodeId, machine: &Node, local: Time) -> Self {
        Self {
            node,
            state: machine.state(local),
            view: machine.view(),
            epoch: machine.view_epoch(),
            members: machine.members().to_vec(),
        }
    }

    /// The machine still reads the same.
    fn is_of(&self, machine: &Node, local: Time) -> bool {
        self.view == machine.view()
            && self.epoch == machine.view_epoch()
            && self.members == machine.members()
            && self.state == machine.state(local)
    }
}

/// What a step has changed.
#[derive(Debug)]
pub(crate) struct Changes {
    /// The readings before it, if one is another now.
    pub(super) before: Option<Vec<Reading>>,
    /// The service has begun or ended somewhere.
    pub(super) moved: bool,
}

impl Changes {
    pub(crate) fn is_empty(&self) -> bool {
        self.before.is_none() && !self.moved
    }
}

impl Monitor {
    /// From now on everything is read, and every rule looked at, after every step.
    pub(crate) fn check_in_full(&mut self) {
        self.in_full = true;
    }

    /// Brings readings and services up to date.
    pub(crate) fn look(&mut self, now: Time, hosts: &mut Hosts) -> Changes {
        Changes { before: self.read(now, hosts), moved: self.count_services(hosts) }
    }

    /// Brings the readings up to date. Returns them as they were before, if any has changed.
    fn read(&mut self, now: Time, hosts: &mut Hosts) -> Option<Vec<Reading>> {
        let mut before = None;
        for (node, host) in hosts {
            if !host.node.take_news(now) && !self.in_full {
                continue;
            }
            let place = self.readings.binary_search_by_key(node, |reading| reading.node);
            let machine = host.node.machine.as_ref();
            let local = host.node.clock.at(now);
            let same = match (place, machine) {
                (Ok(place), Some(machine)) => self.readings[place].is_of(machine, local),
                (Err(_), None) => true,
                (Ok(_), None) | (Err(_), Some(_)) => false,
            };
            if same && !self.in_full {
                continue;
            }
            before.get_or_insert_with(|| self.readings.clone());
            match (place, machine.map(|machine| Reading::of(*node, machine, local))) {
                (Ok(place), Some(reading)) => self.readings[place] = reading,
                (Ok(place), None) => drop(self.readings.remove(place)),
                (Err(place), Some(reading)) => self.readings.insert(place, reading),
                (Err(_), None) => {}
            }
        }
        before
    }

    /// Notes where the service is alive; true if that, or how many children there are, is new.
    fn count_services(&mut self, hosts: &Hosts) -> bool {
        let (known, count) = &self.services;
        let (mut known, mut children, mut same) = (known.iter(), 0, true);
        for (node, host) in hosts.iter().filter(|(_, host)| !host.children.is_empty()) {
            children += host.children.len();
            same &= !host.serves() || known.next() == Some(node);
        }
        if same && known.next().is_none() && *count == children && !self.in_full {
            return false;
        }
        let serving = hosts.iter().filter(|(_, host)| host.serves()).map(|(node, _)| *node);
        self.services = (serving.collect(), children);
        true
    }
}
