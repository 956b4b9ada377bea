//! Every small cluster there can be.

use std::collections::{BTreeMap, BTreeSet};

use protocol::ids::{NodeId, RingId, ViewId};
use protocol::vote::{Algorithm, Heuristics, TieBreaker};
use qnetd::core::decide::{ClientView, ClusterView};

/// What the arbiter sees, and what only the stock daemon goes by.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) view: ClusterView,
    /// A client that is just going; it is not in the view any more.
    pub(crate) leaving: Option<(NodeId, ClientView)>,
    /// Clients outside of the grant have had no result yet (stock lms and 2nodelms).
    pub(crate) newcomers: bool,
}

/// The results of heuristics: fail stands for the first fail, and for one after a fail.
pub(crate) const HEURISTICS: [(Heuristics, bool); 4] = [
    (Heuristics::Undefined, false),
    (Heuristics::Pass, false),
    (Heuristics::Fail, false),
    (Heuristics::Fail, true),
];

/// Heuristics for the clients of a partitioned world.
#[derive(Clone, Copy)]
pub(crate) enum Spread {
    /// Each client has every result.
    PerClient,
    /// No client has any.
    Undefined,
    /// All are undefined but those of one partition, whose clients share every result. Of the
    /// explicit tie-breakers there is only one.
    OnePartition,
}

/// What a sweep over partitioned clusters varies.
pub(crate) struct Sweep {
    pub(crate) algorithm: Algorithm,
    /// How many nodes are configured.
    pub(crate) nodes: u32,
    /// The first node's id; the others follow.
    pub(crate) first_id: u32,
    pub(crate) spread: Spread,
}

pub(crate) fn set(ids: &[u32]) -> BTreeSet<NodeId> {
    ids.iter().map(|id| NodeId(*id)).collect()
}

pub(crate) fn ring(node: u32, seq: u64) -> ViewId {
    ViewId { ring: RingId::new(node, seq), nonce: 0 }
}

impl Sweep {
    /// Every partition of the nodes × who is connected × tie-breaker × holder × keep active
    /// partition × newcomers × heuristics. Nothing here is unsettled.
    pub(crate) fn run(&self, visit: &mut dyn FnMut(&World)) {
        let ids: Vec<u32> = (0..self.nodes).map(|i| self.first_id + i).collect();
        for parts in partitions_of(&ids) {
            for connected in subsets(&ids) {
                let mut world = self.world(&parts, &connected, &ids);
                self.each_holder(&parts, &ids, &mut world, visit);
            }
        }
    }

    fn world(&self, parts: &[Vec<u32>], connected: &[u32], ids: &[u32]) -> World {
        let mut clients = BTreeMap::new();
        for (at, part) in parts.iter().enumerate() {
            for id in part.iter().filter(|id| connected.contains(id)) {
                let view = ring(part.first().copied().unwrap_or(0), 4 * (at as u64 + 1));
                clients.insert(NodeId(*id), client(set(ids), set(part), view));
            }
        }
        let view = ClusterView { algorithm: self.algorithm, clients, holder: None };
        World { view, leaving: None, newcomers: false }
    }

    fn each_holder(
        &self,
        parts: &[Vec<u32>],
        ids: &[u32],
        world: &mut World,
        visit: &mut dyn FnMut(&World),
    ) {
        let mut holders: Vec<Option<BTreeSet<NodeId>>> =
            parts.iter().map(|part| Some(set(part))).collect();
        if parts.len() > 1 {
            holders.push(Some(set(ids)));
        }
        holders.push(None);
        for holder in holders {
            world.view.holder = holder;
            for tie_breaker in self.tie_breakers(ids) {
                for client in world.view.clients.values_mut() {
                    client.tie_breaker = tie_breaker;
                }
                self.each_heuristics(parts, world, visit);
            }
        }
    }

    fn each_heuristics(
        &self,
        parts: &[Vec<u32>],
        world: &mut World,
        visit: &mut dyn FnMut(&World),
    ) {
        let nodes: Vec<NodeId> = world.view.clients.keys().copied().collect();
        match self.spread {
            Spread::PerClient => {
                let mut states = vec![0; nodes.len()];
                loop {
                    for (node, state) in nodes.iter().zip(&states) {
                        set_heuristics(world, *node, *state);
                    }
                    self.each_history(world, visit);
                    if !count_up(&mut states, HEURISTICS.len()) {
                        return;
                    }
                }
            }
            Spread::Undefined => self.each_history(world, visit),
            Spread::OnePartition => {
                for (at, part) in parts.iter().enumerate() {
                    // All undefined once only.
                    for state in at.min(1)..HEURISTICS.len() {
                        for node in &nodes {
                            let state = if part.contains(&node.0) { state } else { 0 };
                            set_heuristics(world, *node, state);
                        }
                        self.each_history(world, visit);
                    }
                }
            }
        }
    }

    /// Lowest, highest, a node that is in no partition, and each node.
    fn tie_breakers(&self, ids: &[u32]) -> Vec<TieBreaker> {
        let explicit: Vec<u32> = match self.spread {
            Spread::PerClient | Spread::Undefined => ids.iter().copied().chain([99]).collect(),
            Spread::OnePartition => ids.iter().copied().skip(2).take(1).collect(),
        };
        let mut all = vec![TieBreaker::Lowest, TieBreaker::Highest];
        all.extend(explicit.iter().map(|id| TieBreaker::Node(NodeId(*id))));
        all
    }

    /// What only the stock daemon goes by; without a holder it is nothing.
    fn each_history(&self, world: &mut World, visit: &mut dyn FnMut(&World)) {
        let flags: &[bool] = if world.view.holder.is_some() { &[false, true] } else { &[true] };
        for flag in flags.iter().copied() {
            match self.algorithm {
                Algorithm::Ffsplit => {
                    for client in world.view.clients.values_mut() {
                        client.keep_active_partition = flag;
                    }
                }
                Algorithm::Test | Algorithm::Lms | Algorithm::TwoNodeLms => world.newcomers = flag,
            }
            visit(world);
        }
    }
}

/// As the sweep over four nodes, one of which is just leaving, with one result of heuristics for
/// it and undefined ones for the others (wire 8.8).
pub(crate) fn departures(visit: &mut dyn FnMut(&World)) {
    let sweep =
        Sweep { algorithm: Algorithm::Ffsplit, nodes: 4, first_id: 1, spread: Spread::Undefined };
    sweep.run(&mut |world| {
        for (node, client) in world.view.clients.clone() {
            for (heuristics, _) in HEURISTICS {
                let mut world = world.clone();
                world.view.clients.remove(&node);
                world.leaving = Some((node, ClientView { heuristics, ..client.clone() }));
                visit(&world);
            }
        }
    });
}

/// Clients that report anything: no list, one list, each membership of known nodes with
/// themselves, in each ring, with each configuration, old or young.
pub(crate) struct Reports<'a> {
    pub(crate) algorithm: Algorithm,
    /// The clients are 1 up to this one; each may also be missing.
    pub(crate) clients: u32,
    /// The nodes of memberships are 1 up to this one.
    pub(crate) known: u32,
    /// The configurations that a client may have; under ffsplit only if it is in it.
    pub(crate) configs: &'a [&'a [u32]],
    /// The sequences of the rings.
    pub(crate) rings: &'a [u64],
}

impl Reports<'_> {
    /// Every combination of reports × every set of clients, or none, as the holder.
    pub(crate) fn run(&self, visit: &mut dyn FnMut(&World)) {
        let ids: Vec<u32> = (1..=self.clients).collect();
        let reports: Vec<Vec<Option<ClientView>>> = ids.iter().map(|id| self.of(*id)).collect();
        let mut holders = vec![None];
        holders.extend(subsets(&ids).iter().map(|ids| Some(set(ids))));
        let mut states = vec![0; ids.len()];
        let limits: Vec<usize> = reports.iter().map(Vec::len).collect();
        loop {
            let mut clients = BTreeMap::new();
            for ((id, state), reports) in ids.iter().zip(&states).zip(&reports) {
                if let Some(Some(client)) = reports.get(*state) {
                    clients.insert(NodeId(*id), client.clone());
                }
            }
            let view = ClusterView { algorithm: self.algorithm, clients, holder: None };
            let mut world = World { view, leaving: None, newcomers: false };
            for holder in &holders {
                world.view.holder.clone_from(holder);
                visit(&world);
            }
            if !count_up_to(&mut states, &limits) {
                return;
            }
        }
    }

    /// Everything that one node may report; none: it is not connected.
    fn of(&self, id: u32) -> Vec<Option<ClientView>> {
        let known: Vec<u32> = (1..=self.known).collect();
        let mut lists: Vec<(BTreeSet<NodeId>, BTreeSet<NodeId>, ViewId)> = Vec::new();
        let first = ring(1, self.rings.first().copied().unwrap_or_default());
        lists.push((BTreeSet::new(), BTreeSet::new(), first));
        for config in self.configs.iter().map(|config| set(config)) {
            if self.algorithm == Algorithm::Ffsplit && !config.contains(&NodeId(id)) {
                continue;
            }
            lists.push((config.clone(), BTreeSet::new(), first));
            for members in subsets(&known).iter().filter(|members| members.contains(&id)) {
                for seq in self.rings {
                    lists.push((config.clone(), set(members), ring(1, *seq)));
                }
            }
        }
        let mut reports = vec![None];
        for (config, members, view) in lists {
            let young = client(config, members, view);
            reports.push(Some(young.clone()));
            reports.push(Some(ClientView { stuck: true, ..young }));
        }
        reports
    }
}

fn client(config: BTreeSet<NodeId>, members: BTreeSet<NodeId>, view: ViewId) -> ClientView {
    ClientView {
        config,
        members,
        view,
        heuristics: Heuristics::Undefined,
        heuristics_failed_before: false,
        tie_breaker: TieBreaker::Lowest,
        keep_active_partition: true,
        stuck: false,
    }
}

fn set_heuristics(world: &mut World, node: NodeId, state: usize) {
    let chosen = HEURISTICS.get(state).copied().unwrap_or_default();
    if let Some(client) = world.view.clients.get_mut(&node) {
        (client.heuristics, client.heuristics_failed_before) = chosen;
    }
}

/// Every way to split the ids into groups.
fn partitions_of(ids: &[u32]) -> Vec<Vec<Vec<u32>>> {
    let Some((last, rest)) = ids.split_last() else { return vec![Vec::new()] };
    let mut all = Vec::new();
    for parts in partitions_of(rest) {
        for at in 0..=parts.len() {
            let mut parts = parts.clone();
            match parts.get_mut(at) {
                Some(part) => part.push(*last),
                None => parts.push(vec![*last]),
            }
            all.push(parts);
        }
    }
    all
}

/// Every subset, the empty one included.
fn subsets(ids: &[u32]) -> Vec<Vec<u32>> {
    let picks = 0_u32..1 << ids.len();
    let pick = |bits: u32| {
        let chosen = ids.iter().enumerate().filter(move |(at, _)| bits & 1 << at != 0);
        chosen.map(|(_, id)| *id).collect()
    };
    picks.map(pick).collect()
}

fn count_up(digits: &mut [usize], base: usize) -> bool {
    let limits = vec![base; digits.len()];
    count_up_to(digits, &limits)
}

/// The next combination; false after the last one.
fn count_up_to(digits: &mut [usize], limits: &[usize]) -> bool {
    for (digit, limit) in digits.iter_mut().zip(limits) {
        *digit += 1;
        if *digit < *limit {
            return true;
        }
        *digit = 0;
    }
    false
}
