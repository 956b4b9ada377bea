//! Generations of the cluster's configuration (rule S8, safety 33 and 34). Changes of the
//! configuration in the cores of the arbiter and the node replace this; the scenarios stay.
//!
//! A new generation is stored by nodes, as the operator gives it to them. It is recorded once a
//! majority of the old votes and of the new ones has stored it; only then it is applied. The arbiter
//! is one voter where it is reached, for those only who have its vote: else a side of the old
//! generation would go on with that. A generation without the device needs every node, and the
//! arbiter to remember it. From the record on the arbiter listens to no membership of an older
//! generation. That nodes are left out only once they are off is the scenario's part (safety 14).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use protocol::ids::NodeId;
use protocol::time::Time;
use protocol::times;

use crate::network::Site;
use crate::sabotage::Sabotage;
use crate::scenario::{End, Generation, Process};
use crate::world::World;

/// What is stored where.
#[derive(Debug, Default)]
pub(crate) struct Lineage {
    /// By generation: who has stored it and not applied it.
    stored: BTreeMap<usize, BTreeSet<NodeId>>,
    /// The newest one that the arbiter has recorded; 0 is the first one, too.
    recorded: usize,
    /// Who was last seen to have the arbiter's vote, and until when they may count it (S3).
    holders: BTreeSet<NodeId>,
    held_until: Time,
    /// How many grants the arbiter had stored when that was looked at.
    grants: usize,
}

impl Generation {
    fn names(&self, node: NodeId) -> bool {
        self.nodes.contains(&node.0)
    }

    /// Its votes with those of `nodes`, and with the device's if `arbiter`.
    fn has_majority(&self, nodes: &BTreeSet<NodeId>, arbiter: bool) -> bool {
        let of_nodes = nodes.iter().filter(|node| self.names(**node)).count();
        let votes = of_nodes + usize::from(arbiter && self.device);
        votes * 2 > self.nodes.len() + usize::from(self.device)
    }
}

impl World {
    /// The generation that a node runs with.
    pub(crate) fn generation_of(&self, node: NodeId) -> Generation {
        let number = self.hosts.get(&node).map_or(1, |host| host.generation);
        self.scenario.topology.generation(number)
    }

    /// A node of a generation that the arbiter knows to be over.
    pub(crate) fn is_outdated(&self, node: NodeId) -> bool {
        let number = self.hosts.get(&node).map_or(1, |host| host.generation);
        number < self.models.lineage.recorded && self.sabotage != Some(Sabotage::LineageForgotten)
    }

    /// The operator gives a node a generation.
    pub(crate) fn configure(&mut self, node: NodeId, generation: usize) {
        if self.sabotage == Some(Sabotage::ChangeAppliedAlone) {
            self.apply(node, generation);
            return;
        }
        self.models.lineage.stored.entry(generation).or_default().insert(node);
        self.lineage_looks();
    }

    /// Records and applies what enough have stored.
    pub(crate) fn lineage_looks(&mut self) {
        self.no_outdated_quorum();
        self.note_holders();
        let waiting: Vec<usize> = self.models.lineage.stored.keys().copied().collect();
        for number in waiting {
            let stored = self.models.lineage.stored.get(&number).cloned().unwrap_or_default();
            let arbiter = self.arbiter_is_of(&stored);
            let (old, new) = (
                self.scenario.topology.generation(self.models.lineage.recorded.max(1)),
                self.scenario.topology.generation(number),
            );
            let enough = if new.device {
                old.has_majority(&stored, arbiter) && new.has_majority(&stored, arbiter)
            } else {
                let all = old.nodes.iter().chain(&new.nodes);
                arbiter && all.copied().all(|node| stored.contains(&NodeId(node)))
            };
            let earlier = number <= self.models.lineage.recorded;
            if !enough && !earlier {
                continue;
            }
            self.models.lineage.stored.remove(&number);
            if arbiter && !earlier {
                self.models.lineage.recorded = number;
                self.monitor.note(self.now, "arbiter", format_args!("records generation {number}"));
                self.part_with_outdated();
            }
            for node in stored {
                self.apply(node, number);
            }
        }
    }

    /// Remembers who has the vote: the arbiter's own word for that ends with a connection, and a
    /// lease does not.
    fn note_holders(&mut self) {
        let arbiter = &self.server.arbiter;
        let Some(machine) = &arbiter.machine else { return };
        let status = machine.status(arbiter.clock.at(self.now));
        let (lineage, grants) = (&mut self.models.lineage, &self.server.journal);
        let stands = status.clusters.values().any(|cluster| !cluster.holder.is_empty());
        let is_new = std::mem::replace(&mut lineage.grants, grants.len()) < grants.len();
        if let Some(record) = grants.last().filter(|_| stands || is_new) {
            let bound = record.bound_ms.map_or(times::SOLO_LEASE_HOLD, Duration::from_millis);
            lineage.holders.clone_from(&record.nodes);
            lineage.held_until = self.now + bound * 2;
        }
    }

    /// The arbiter is reached by one of these nodes, and nobody else can have its vote.
    fn arbiter_is_of(&self, nodes: &BTreeSet<NodeId>) -> bool {
        let (arbiter, lineage) = (&self.server.arbiter, &self.models.lineage);
        // After a start nobody is said to have it, and somebody may count it still (S3).
        let bound = self.server.journal.last().and_then(|record| record.bound_ms);
        let bound = bound.map_or(Duration::ZERO, Duration::from_millis);
        let start = Time(0) + bound.max(times::SOLO_LEASE_HOLD);
        if arbiter.machine.is_none() || arbiter.clock.at(self.now) < start {
            return false;
        }
        let theirs = lineage.holders.is_subset(nodes) || lineage.held_until < self.now;
        theirs
            && nodes.iter().any(|node| {
                let node = End::Node(*node);
                self.is_powered(node) && !self.network.is_cut(node, End::Arbiter)
            })
    }

    /// What nodes of an older generation have reported is worth nothing from now on.
    fn part_with_outdated(&mut self) {
        let streams = self.network.streams.iter();
        let outdated = streams.filter(|(_, stream)| match stream.client {
            Site::Node(node) => stream.server_open && self.is_outdated(node),
            Site::Arbiter | Site::Gateway => false,
        });
        let outdated: Vec<u64> = outdated.map(|(number, _)| *number).collect();
        for number in outdated {
            self.arbiter_closed(number);
        }
    }

    fn apply(&mut self, node: NodeId, generation: usize) {
        let Some(host) = self.hosts.get_mut(&node) else { return };
        host.generation = generation;
        self.monitor.note(
            self.now,
            End::Node(node),
            format_args!("runs with generation {generation}"),
        );
        for process in [Process::Node(node), Process::Device(node)] {
            self.kill(process);
            self.start_later(process, 1000, 5000);
        }
    }

    /// S8: nobody is QUORATE with the arbiter's vote and a configuration that is over.
    fn no_outdated_quorum(&mut self) {
        let recorded = self.models.lineage.recorded;
        let of = |node: NodeId| self.hosts.get(&node).map_or(1, |host| host.generation);
        let outdated = self.monitor.quorate_views().find_map(|members| {
            let newest = members.iter().map(|node| of(*node)).max()?;
            (newest < recorded).then(|| format!("{members:?} of generation {newest}"))
        });
        if let Some(text) = outdated {
            self.monitor.report("S8", format!("{text} is QUORATE, {recorded} is recorded"));
        }
    }
}
