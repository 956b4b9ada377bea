//! One cluster: its connected nodes, the view that the decision is made from, and what follows
//! from a decision.
//!
//! [`Arbiter::settle`] is called after everything that could change a decision. It is the only
//! place where votes are given and taken: losers are told first and confirm, bounds run out, the
//! grant is stored, then the winners are told (rules S1, S3).

use std::collections::{BTreeMap, BTreeSet};

use protocol::ids::{ClusterName, Epoch, GrantId, NodeId, ViewId};
use protocol::qnet::{Grant, Message, MessageType};
use protocol::time::Time;
use protocol::times;
use protocol::vote::{Algorithm, Vote};

use super::client::{Client, Told};
use super::decide::{ClientView, ClusterView, Decision, decide};
use super::ledger::{Candidate, Ledger};
use super::{Action, Arbiter, ClientId, GrantRecord};

/// A process that asks for a node id that another connection has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rival {
    /// The first attempt, or the last one that found the other alive.
    pub(super) since: Time,
    /// The other has spoken since the first attempt: both are alive.
    pub(super) alarm: bool,
}

/// One cluster as the arbiter knows it.
#[derive(Clone, Debug)]
pub(super) struct Cluster {
    pub(super) ledger: Ledger,
    /// Connected clients that have passed Init, by node.
    pub(super) joined: BTreeMap<NodeId, ClientId>,
    /// Other processes that have asked for a node id (F14).
    pub(super) rivals: BTreeMap<NodeId, Rival>,
    /// The last decision, so that only changes are logged.
    logged: String,
    /// What the vote waits for, for status.
    pub(super) waiting: Option<(String, Time)>,
    /// When a client becomes stuck or silent, or a rival's time is up: settle again.
    recheck: Option<Time>,
}

impl Cluster {
    pub(super) fn new(ledger: Ledger) -> Self {
        Self {
            ledger,
            joined: BTreeMap::new(),
            rivals: BTreeMap::new(),
            logged: String::new(),
            waiting: None,
            recheck: None,
        }
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.ledger.epoch()
    }

    pub(super) fn leave(&mut self, client: ClientId) {
        self.joined.retain(|_, joined| *joined != client);
    }

    pub(super) fn deadline(&self, clients: &BTreeMap<ClientId, Client>) -> Option<Time> {
        // Without clients nobody can be told anything; bounds are compared when one comes.
        if self.joined.values().any(|id| clients.contains_key(id)) { self.recheck } else { None }
    }

    fn algorithm(&self, clients: &BTreeMap<ClientId, Client>) -> Option<Algorithm> {
        let first = self.joined.values().find_map(|id| clients.get(id));
        first.and_then(|c| c.membership.as_ref()).map(|m| m.algorithm)
    }

    /// The nodes that the connected clients' configurations name.
    pub(super) fn configured(&self, clients: &BTreeMap<ClientId, Client>) -> BTreeSet<NodeId> {
        let joined = self.joined.values().filter_map(|id| clients.get(id));
        joined.flat_map(Client::config_ids).collect()
    }

    /// Clients that take part in decisions now: heard of lately, and without a rival.
    fn live<'a>(
        &'a self,
        now: Time,
        clients: &'a BTreeMap<ClientId, Client>,
    ) -> impl Iterator<Item = (NodeId, &'a Client)> {
        let joined = self.joined.iter().filter_map(|(node, id)| Some((*node, clients.get(id)?)));
        joined.filter(move |(node, client)| {
            client.silent_at() > now && !self.is_contested(now, *node, client)
        })
    }

    /// Two live processes claim this node: neither has the vote (safety 7).
    fn is_contested(&self, now: Time, node: NodeId, client: &Client) -> bool {
        self.rivals
            .get(&node)
            .is_some_and(|rival| rival.alarm && now < rival.since + client.rival_patience() * 2)
    }

    fn view(&self, now: Time, clients: &BTreeMap<ClientId, Client>) -> Option<ClusterView> {
        let algorithm = self.algorithm(clients)?;
        let live = self.live(now, clients).map(|(node, client)| {
            let tie_breaker = client.membership.as_ref().map(|m| m.tie_breaker);
            let view = ClientView {
                config: client.config_ids(),
                members: client.members.clone(),
                view: client.view,
                heuristics: client.heuristics,
                heuristics_failed_before: client.heuristics_failed_before,
                tie_breaker: tie_breaker.unwrap_or(protocol::vote::TieBreaker::Lowest),
                keep_active_partition: client.keep_active_partition,
                stuck: now >= client.lists_since + times::STABILITY_LIMIT,
            };
            (node, view)
        });
        let holder = self.ledger.current().map(|record| record.nodes.clone());
        Some(ClusterView { algorithm, clients: live.collect(), holder })
    }

    /// When the view changes by itself: a client falls silent or becomes stuck, a rival's time is
    /// up, a bound ends.
    fn next_change(&self, now: Time, clients: &BTreeMap<ClientId, Client>) -> Option<Time> {
        let joined = self.joined.values().filter_map(|id| clients.get(id));
        let own = joined.flat_map(|c| [c.silent_at(), c.lists_since + times::STABILITY_LIMIT]);
        let rivals = self.rivals.iter().filter_map(|(node, rival)| {
            let client = clients.get(self.joined.get(node)?)?;
            Some(rival.since + client.rival_patience() * 2)
        });
        let unconfirmed = self.joined.values().filter_map(|id| unconfirmed_at(clients.get(id)?));
        own.chain(rivals)
            .chain(unconfirmed)
            .chain(self.ledger.deadline(now))
            .filter(|at| *at > now && *at != Time::NEVER)
            .min()
    }
}

/// When a loser that has not confirmed is closed (safety 29).
fn unconfirmed_at(client: &Client) -> Option<Time> {
    let told = client.told.filter(|told| told.vote == Vote::Nack && !told.confirmed)?;
    Some(told.at + client.heartbeat)
}

impl Arbiter {
    /// Makes what is true what is told: decides, and does the next steps of the decision that can
    /// be done now.
    pub(super) fn settle(&mut self, now: Time, name: &ClusterName) {
        let Some(cluster) = self.clusters.get(name) else { return };
        let decision = cluster.view(now, &self.clients).map(|view| decide(&view));
        let waiting = match &decision {
            None | Some(Decision::Wait(_)) => None,
            Some(Decision::Give { view, members, .. }) => self.give(now, name, *view, members),
            Some(Decision::Nobody(_)) => {
                self.take_from_all_but(now, name, None, &BTreeSet::new());
                if let Some(cluster) = self.clusters.get_mut(name) {
                    cluster.ledger.withdraw();
                }
                None
            }
            Some(Decision::All) => {
                self.tell_everyone(now, name);
                None
            }
        };
        self.close_unconfirmed(now, name);
        let Some(cluster) = self.clusters.get_mut(name) else { return };
        cluster.waiting = waiting;
        let text = match (&decision, &cluster.waiting) {
            (None, _) => String::new(),
            (Some(decision), None) => format!("{decision}"),
            (Some(decision), Some((wait, _))) => format!("{decision}; waits: {wait}"),
        };
        if text != cluster.logged {
            cluster.logged.clone_from(&text);
            if !text.is_empty() {
                self.actions.push_back(Action::Decided { cluster: name.clone(), text });
            }
        }
        cluster.recheck = cluster.next_change(now, &self.clients);
    }

    /// Gives the vote to a view, as far as that can be done now; returns what it waits for.
    fn give(
        &mut self,
        now: Time,
        name: &ClusterName,
        view: ViewId,
        members: &BTreeSet<NodeId>,
    ) -> Option<(String, Time)> {
        let spared = self.spared(now, name, members);
        self.take_from_all_but(now, name, Some((view, members)), &spared);
        let cluster = self.clusters.get(name)?;
        if let Some(writing) = cluster.ledger.writing() {
            let same = writing.view == view && &writing.nodes == members;
            let text = if same { "the grant is being stored" } else { "another grant is stored" };
            return Some((text.to_owned(), Time::NEVER));
        }
        let (lease_ms, bound_ms) = self.length_of(name, members)?;
        let cluster = self.clusters.get(name)?;
        let stands = cluster.ledger.current().is_some_and(|record| {
            record.view == view && &record.nodes == members && record.bound_ms == bound_ms
        });
        if stands {
            self.tell_winners(now, name, view);
            if self.clusters.get(name).is_some_and(|cluster| cluster.ledger.stands_for_all()) {
                return None;
            }
        }
        let cluster = self.clusters.get(name)?;
        if let Some(node) = self.unconfirmed_stock_loser(cluster, members) {
            let text = format!("node {node} has not shown yet that it applied its loss");
            return Some((text, Time::NEVER));
        }
        let live = cluster.live(now, &self.clients).filter(|(_, client)| client.view == view);
        let to = Candidate {
            view,
            members: members.clone(),
            reporting: live.map(|(node, _)| node).collect(),
            configured: cluster.configured(&self.clients),
        };
        if !cluster.ledger.may_move(now, &to) {
            return cluster
                .ledger
                .waits_for(now, &to)
                .or_else(|| Some(("the last grant could not be stored".to_owned(), Time::NEVER)));
        }
        let joined = cluster.joined.iter().filter_map(|(n, id)| Some((n, self.clients.get(id)?)));
        let reports = joined.filter(|(node, c)| members.contains(node) && c.view == view);
        let agreed = reports.map(|(_, c)| c.view_epoch).max().unwrap_or_default();
        let epoch = cluster.ledger.epoch().next().max(agreed);
        let grant = GrantId { arbiter: self.memory.arbiter, boot: self.memory.boot, epoch };
        let record = GrantRecord {
            cluster: name.clone(),
            grant,
            view,
            nodes: members.clone(),
            lease_ms,
            bound_ms,
            host_boot: self.memory.host_boot,
        };
        let token = self.token();
        if let Some(cluster) = self.clusters.get_mut(name) {
            cluster.ledger.begin(token, record.clone());
        }
        self.actions.push_back(Action::Persist { token, record });
        Some(("the grant is being stored".to_owned(), Time::NEVER))
    }

    /// A connected client without leases, outside the view, whose loss does not count as applied:
    /// its reply is needed even if it is not known to count the vote (F7).
    fn unconfirmed_stock_loser(
        &self,
        cluster: &Cluster,
        members: &BTreeSet<NodeId>,
    ) -> Option<NodeId> {
        let outside = cluster.joined.iter().filter(|(node, _)| !members.contains(node));
        let clients = outside.filter_map(|(node, id)| Some((*node, self.clients.get(id)?)));
        let mut stock = clients.filter(|(_, client)| !client.is_own() && client.has_lists());
        let open =
            |client: &Client| !client.told.is_some_and(|told| told.confirmed) || client.host_counts;
        stock.find(|(_, client)| open(client)).map(|(node, _)| node)
    }

    /// How long a lease of a view counts and how long it is held, in milliseconds, by need (rule
    /// S2). It is held without limit if one of the nodes has no leases (F7), and longer by what
    /// the slowest host says of itself (safety 8).
    fn length_of(
        &self,
        name: &ClusterName,
        members: &BTreeSet<NodeId>,
    ) -> Option<(u32, Option<u64>)> {
        let cluster = self.clusters.get(name)?;
        let (lease, hold) = if self.is_needed(name, members) {
            (times::SOLO_LEASE, times::SOLO_LEASE_HOLD)
        } else {
            (times::LEASE, times::LEASE_HOLD)
        };
        let joined = cluster.joined.iter().filter(|(node, _)| members.contains(node));
        let mut hold_ms = u64::try_from(hold.as_millis()).ok();
        let mut worst_ms = 0;
        for client in joined.filter_map(|(_, id)| self.clients.get(id)) {
            match client.hello() {
                Some(hello) => worst_ms = worst_ms.max(u64::from(hello.worst_case_ms)),
                None => hold_ms = None,
            }
        }
        let bound_ms = hold_ms.map(|ms| ms.saturating_add(worst_ms));
        Some((u32::try_from(lease.as_millis()).unwrap_or(u32::MAX), bound_ms))
    }

    /// The view is not quorate without the device: its nodes are not more than half of all votes,
    /// the device's included.
    fn is_needed(&self, name: &ClusterName, members: &BTreeSet<NodeId>) -> bool {
        let Some(cluster) = self.clusters.get(name) else { return true };
        let configured = cluster.configured(&self.clients).union(members).count();
        let device = match cluster.algorithm(&self.clients) {
            Some(Algorithm::Lms) => configured.saturating_sub(1),
            Some(Algorithm::Ffsplit | Algorithm::TwoNodeLms | Algorithm::Test) | None => 1,
        };
        members.len() < (configured + device + 2) / 2
    }

    /// The holders of the present grant, as long as a move away from them has to wait for one that
    /// cannot be told: to take the vote from the others before it can be given to anyone would
    /// leave nobody with it. After a restart the first to reconnect are not the holders (F9).
    fn spared(
        &self,
        now: Time,
        name: &ClusterName,
        members: &BTreeSet<NodeId>,
    ) -> BTreeSet<NodeId> {
        let Some(cluster) = self.clusters.get(name) else { return BTreeSet::new() };
        let heard: BTreeSet<NodeId> = cluster
            .live(now, &self.clients)
            .filter(|(_, client)| client.has_lists())
            .map(|(node, _)| node)
            .collect();
        let holders = cluster.ledger.current().map(|record| record.nodes.clone());
        let holders = holders.unwrap_or_default();
        let mut outside = holders.iter().filter(|node| !members.contains(node));
        let absent =
            outside.any(|node| !heard.contains(node) && cluster.ledger.hold_until(*node) > now);
        if absent { holders } else { BTreeSet::new() }
    }

    /// Tells everyone who is not in the winning view that it has not got the vote: nodes outside
    /// its members, and a member that still reports another view.
    fn take_from_all_but(
        &mut self,
        now: Time,
        name: &ClusterName,
        winner: Option<(ViewId, &BTreeSet<NodeId>)>,
        spared: &BTreeSet<NodeId>,
    ) {
        let Some(cluster) = self.clusters.get(name) else { return };
        let loses = |node: &NodeId, client: &Client| {
            if spared.contains(node) {
                return cluster.is_contested(now, *node, client);
            }
            winner.is_none_or(|(view, members)| !members.contains(node) || client.view != view)
                || cluster.is_contested(now, *node, client)
        };
        let joined = cluster.joined.iter().filter_map(|(n, id)| Some((n, self.clients.get(id)?)));
        let losers: Vec<ClientId> =
            joined.filter(|(node, client)| loses(node, client)).map(|(_, c)| c.id).collect();
        for id in losers {
            let Some(client) = self.clients.get(&id) else { continue };
            if client.has_lists() && client.told.is_none_or(|told| told.vote != Vote::Nack) {
                self.tell(now, name, id, Vote::Nack);
            }
        }
    }

    /// Tells every connected member that reports the view, and has not been told, that it has
    /// the vote.
    fn tell_winners(&mut self, now: Time, name: &ClusterName, view: ViewId) {
        let Some(cluster) = self.clusters.get(name) else { return };
        let Some(record) = cluster.ledger.current() else { return };
        let epoch = record.grant.epoch;
        let winners: Vec<ClientId> = cluster
            .live(now, &self.clients)
            .filter(|(node, client)| {
                let told = client.told.is_some_and(|told| {
                    told.vote == Vote::Ack && (told.epoch == Some(epoch) || !client.is_own())
                });
                let anchored = client.anchor.is_some() || !client.is_own();
                cluster.ledger.may_reissue(*node) && client.view == view && anchored && !told
            })
            .map(|(_, client)| client.id)
            .collect();
        for id in winners {
            let node = self.clients.get(&id).and_then(Client::node);
            if let (Some(node), Some(cluster)) = (node, self.clusters.get_mut(name)) {
                cluster.ledger.renew(now, node);
            }
            self.tell(now, name, id, Vote::Ack);
        }
    }

    /// The test algorithm: everyone is told yes, without a lease, and nobody is safe.
    fn tell_everyone(&mut self, now: Time, name: &ClusterName) {
        let Some(cluster) = self.clusters.get(name) else { return };
        let all: Vec<ClientId> = cluster.joined.values().copied().collect();
        for id in all {
            let Some(client) = self.clients.get(&id) else { continue };
            if client.has_lists() && client.told.is_none_or(|told| told.vote != Vote::Ack) {
                self.tell(now, name, id, Vote::Ack);
            }
        }
    }

    /// Sends a vote info.
    fn tell(&mut self, now: Time, name: &ClusterName, id: ClientId, vote: Vote) {
        let Some(cluster) = self.clusters.get(name) else { return };
        let Some(client) = self.clients.get(&id) else { return };
        let record = cluster.ledger.current();
        let grant = match (vote, client.anchor, record) {
            (Vote::Ack, Some(anchor), Some(record)) if client.is_own() => Some(Grant {
                id: record.grant,
                view: record.view,
                lease_ms: record.lease_ms,
                anchor,
            }),
            _ => None,
        };
        let epoch = client.is_own().then(|| cluster.epoch());
        let Some(client) = self.clients.get_mut(&id) else { return };
        client.vote_infos = client.vote_infos.wrapping_add(1);
        let mut message = Message::new(MessageType::VoteInfo, Some(client.vote_infos));
        message.options.vote = Some(vote);
        message.options.ring = Some(client.ring());
        message.options.grant = grant;
        message.options.epoch = epoch;
        client.told = Some(Told {
            vote,
            seq: client.vote_infos,
            epoch: grant.map(|grant| grant.id.epoch),
            at: now,
            confirmed: false,
        });
        client.last_sent = Some(vote);
        client.last_ack_nack = Some(vote);
        if vote == Vote::Ack {
            client.host_counts = true;
        }
        self.actions.push_back(Action::Send { client: id, bytes: message.encode() });
    }

    /// A client has confirmed a vote info, or shown by a quorum list that its host took it (F7).
    pub(super) fn confirm(&mut self, now: Time, name: &ClusterName, id: ClientId) {
        let Some(client) = self.clients.get(&id) else { return };
        let (Some(told), Some(node)) = (client.told, client.node()) else { return };
        let applied = told.confirmed && (client.is_own() || !client.host_counts);
        let Some(cluster) = self.clusters.get_mut(name) else { return };
        match (told.vote, told.epoch) {
            (Vote::Nack, _) if applied => cluster.ledger.release(node),
            (Vote::Ack, Some(epoch)) if applied => cluster.ledger.applied(node, epoch),
            _ => {}
        }
        self.settle(now, name);
    }

    fn close_unconfirmed(&mut self, now: Time, name: &ClusterName) {
        let Some(cluster) = self.clusters.get(name) else { return };
        let late: Vec<ClientId> = cluster
            .joined
            .values()
            .filter(|id| self.clients.get(id).and_then(unconfirmed_at).is_some_and(|at| at <= now))
            .copied()
            .collect();
        for id in late {
            self.clients.remove(&id);
            if let Some(cluster) = self.clusters.get_mut(name) {
                cluster.leave(id);
            }
            let reason = super::CloseReason::Unconfirmed;
            self.actions.push_back(Action::Close { client: id, reason });
        }
    }
}
