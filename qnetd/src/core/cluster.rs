//! One cluster: its connected nodes, the view that the decision is made from, and what follows
//! from a decision.
//!
//! [`Arbiter::settle`] is called after everything that could change a decision. It is the only
//! place where votes are given and taken: losers are told first and confirm, bounds run out, the
//! grant is stored, then the winners are told (rules S1, S3).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use protocol::ids::{ClusterName, Epoch, GrantId, NodeId, ViewId};
use protocol::qnet::{Grant, Message, MessageType};
use protocol::time::Time;
use protocol::times;
use protocol::vote::{Algorithm, Vote};

use super::client::{Client, Told};
use super::decide::{ClientView, ClusterView, Decision, WaitReason, decide};
use super::fencing::Fencing;
use super::ledger::{Candidate, Ledger, Process, Terms};
use super::waiting::Waiting;
use super::{Action, Arbiter, ClientId, GrantRecord};

/// A process that asks for a node id that another connection has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rival {
    /// The first attempt, or the last one that found the other alive.
    pub(super) since: Time,
    /// The other has spoken since the first attempt: both are alive.
    pub(super) alarm: bool,
}

/// The newest process of a stock client.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) process: Process,
    /// The highest sequence number that it has used. Its counter lives as long as it does.
    pub(super) counter: u32,
    /// Another process has asked for its node id since: who comes next may be that one.
    pub(super) doubtful: bool,
}

/// How long a lease of a grant counts, and how long a member may count the vote.
#[derive(Clone, Copy, Debug)]
struct Length {
    lease_ms: u32,
    /// `None`: without limit.
    bound_ms: Option<u64>,
    /// It follows from what is connected alone, and every member is.
    is_exact: bool,
}

impl Length {
    /// The recorded bound is long enough. What it was made of may have been told by clients that
    /// are gone and still count, so it gets shorter only when all members are here and nothing of
    /// before runs any more.
    fn is_covered_by(&self, record: &GrantRecord) -> bool {
        match (record.bound_ms, self.bound_ms) {
            (recorded, bound) if self.is_exact => recorded == bound,
            (None, _) => true,
            (Some(_), None) => false,
            (Some(recorded), Some(bound)) => recorded >= bound,
        }
    }
}

/// One cluster as the arbiter knows it.
#[derive(Clone, Debug)]
pub(super) struct Cluster {
    pub(super) ledger: Ledger,
    /// Connected clients that have passed Init, by node.
    pub(super) joined: BTreeMap<NodeId, ClientId>,
    /// Other processes that have asked for a node id (F14).
    pub(super) rivals: BTreeMap<NodeId, Rival>,
    /// The stock processes seen, by node.
    pub(super) known: BTreeMap<NodeId, Known>,
    /// Every node that has joined.
    pub(super) seen: BTreeSet<NodeId>,
    /// A client with a certificate for this cluster has joined.
    pub(super) proven: bool,
    processes: u64,
    /// The last decision that was logged and what it waited for, so that only changes are.
    logged: (Option<Decision>, Option<Waiting>),
    /// Who is condemned and who is off (rule S7).
    pub(super) fencing: Fencing,
    /// When that may change by itself.
    fencing_due: Option<Time>,
    /// The last decision.
    pub(super) decided: Option<Decision>,
    /// What the vote waits for, and until when at the latest.
    pub(super) waiting: Option<(Waiting, Time)>,
    /// When a client becomes stuck or silent, or a rival's time is up: settle again.
    recheck: Option<Time>,
}

impl Cluster {
    pub(super) fn new(ledger: Ledger) -> Self {
        Self {
            ledger,
            joined: BTreeMap::new(),
            rivals: BTreeMap::new(),
            known: BTreeMap::new(),
            seen: BTreeSet::new(),
            proven: false,
            processes: 0,
            logged: (None, None),
            fencing: Fencing::default(),
            fencing_due: None,
            decided: None,
            waiting: None,
            recheck: None,
        }
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.ledger.epoch()
    }

    pub(super) fn leave(&mut self, client: &Client) {
        self.joined.retain(|_, joined| *joined != client.id);
        if let Some(node) = client.node() {
            self.fencing.leaves(node, client.last_heard);
        }
    }

    /// A name for a process that was not seen before.
    pub(super) fn new_process(&mut self) -> Process {
        self.processes += 1;
        Process(self.processes)
    }

    /// Connected nodes without leases.
    pub(super) fn stock_nodes(&self, clients: &BTreeMap<ClientId, Client>) -> BTreeSet<NodeId> {
        let joined = self.joined.iter().filter_map(|(node, id)| Some((*node, clients.get(id)?)));
        joined.filter(|(_, client)| !client.is_own()).map(|(node, _)| node).collect()
    }

    /// Connected nodes with leases, and for how long their hosts go on counting after one (safety
    /// 8).
    pub(super) fn leased_nodes(
        &self,
        clients: &BTreeMap<ClientId, Client>,
    ) -> BTreeMap<NodeId, Duration> {
        let joined = self.joined.iter().filter_map(|(node, id)| Some((*node, clients.get(id)?)));
        joined.filter_map(|(node, client)| Some((node, client.worst_case()?))).collect()
    }

    pub(super) fn deadline(&self, clients: &BTreeMap<ClientId, Client>) -> Option<Time> {
        // Without clients nobody can be told anything; bounds are compared when one comes.
        let somebody = self.joined.values().any(|id| clients.contains_key(id));
        if somebody { self.recheck } else { self.fencing_due }
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
    pub(super) fn live<'a>(
        &'a self,
        now: Time,
        clients: &'a BTreeMap<ClientId, Client>,
    ) -> impl Iterator<Item = (NodeId, &'a Client)> {
        let joined = self.joined.iter().filter_map(|(node, id)| Some((*node, clients.get(id)?)));
        joined.filter(move |(node, client)| {
            client.silent_at() > now && !self.is_contested(now, *node, client)
        })
    }

    /// The node's client, if it has spoken within the time in which it must, and nobody else says
    /// that it is this node.
    pub(super) fn speaking<'a>(
        &self,
        now: Time,
        clients: &'a BTreeMap<ClientId, Client>,
        node: NodeId,
    ) -> Option<&'a Client> {
        let client = self.joined.get(&node).and_then(|id| clients.get(id))?;
        let silent_at = client.silent_at().min(client.last_heard + client.rival_patience());
        (silent_at > now && !self.is_contested(now, node, client)).then_some(client)
    }

    /// The clients that take part in a decision while nodes are condemned: not those, and nobody
    /// who reports a view with one of them, except nodes that others have in a view without, which
    /// are slow (safety 25).
    fn free<'a>(
        &self,
        live: Vec<(NodeId, &'a Client)>,
    ) -> Result<Vec<(NodeId, &'a Client)>, WaitReason> {
        let condemned = self.fencing.condemned();
        let Some(first) = condemned.first().copied() else { return Ok(live) };
        let any = !live.is_empty();
        let free = |(node, client): &&(NodeId, &Client)| {
            !condemned.contains(node) && client.members.is_disjoint(&condemned)
        };
        let known: BTreeSet<NodeId> =
            live.iter().filter(free).flat_map(|(_, client)| client.members.clone()).collect();
        let mut live = live;
        live.retain(|(node, client)| {
            !condemned.contains(node)
                && (client.members.is_disjoint(&condemned) || known.contains(node))
        });
        if any && live.is_empty() { Err(WaitReason::Condemned(first)) } else { Ok(live) }
    }

    /// Two live processes claim this node: neither has the vote (safety 7).
    fn is_contested(&self, now: Time, node: NodeId, client: &Client) -> bool {
        self.contested_until(node, client).is_some_and(|until| now < until)
    }

    fn contested_until(&self, node: NodeId, client: &Client) -> Option<Time> {
        let rival = self.rivals.get(&node).filter(|rival| rival.alarm)?;
        Some(rival.since + client.rival_patience() * 2)
    }

    /// A node that two live processes claim, and until when at the latest, if nothing more is
    /// heard of the second.
    pub(super) fn contested(
        &self,
        now: Time,
        clients: &BTreeMap<ClientId, Client>,
    ) -> Option<(Waiting, Time)> {
        let joined = self.joined.iter().filter_map(|(node, id)| Some((*node, clients.get(id)?)));
        let mut claims = joined.filter_map(|(node, client)| {
            Some((Waiting::Contested(node), self.contested_until(node, client)?))
        });
        claims.find(|(_, until)| *until > now)
    }

    fn decide(&self, now: Time, clients: &BTreeMap<ClientId, Client>) -> Option<Decision> {
        let algorithm = self.algorithm(clients)?;
        let live = match self.free(self.live(now, clients).collect()) {
            Ok(live) => live,
            Err(reason) => return Some(Decision::Wait(reason)),
        };
        let decision = decide(&self.view(now, algorithm, live));
        let condemned = match &decision {
            Decision::Give { members, .. } => {
                members.iter().find(|node| self.fencing.condemns(**node)).copied()
            }
            Decision::Wait(_) | Decision::Nobody(_) | Decision::All => None,
        };
        Some(condemned.map_or(decision, |node| Decision::Wait(WaitReason::Condemned(node))))
    }

    fn view(&self, now: Time, algorithm: Algorithm, live: Vec<(NodeId, &Client)>) -> ClusterView {
        let live = live.into_iter().map(|(node, client)| {
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
        ClusterView { algorithm, clients: live.collect(), holder }
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
        let joined = self.joined.values().filter_map(|id| clients.get(id));
        let unconfirmed = joined.filter_map(Client::unconfirmed_until);
        let joined = self.joined.values().filter_map(|id| clients.get(id));
        let unaware = joined.flat_map(|c| c.vanished.values()).map(|at| *at + times::HOST_CHANGE);
        own.chain(rivals)
            .chain(unconfirmed)
            .chain(unaware)
            .chain(self.ledger.deadline(now))
            .chain(self.fencing.deadline(now))
            .filter(|at| *at > now && *at != Time::NEVER)
            .min()
    }
}

impl Arbiter {
    /// Makes what is true what is told: decides, and does the next steps of the decision that can
    /// be done now.
    pub(super) fn settle(&mut self, now: Time, name: &ClusterName) {
        loop {
            self.settle_once(now, name);
            // Each time one client less is there, or one intent.
            if !self.close_unconfirmed(now, name) && !self.attend(now, name) {
                break;
            }
        }
        self.release_withheld(name);
        let Some(cluster) = self.clusters.get_mut(name) else { return };
        cluster.ledger.prune(now);
        cluster.recheck = cluster.next_change(now, &self.clients);
        cluster.fencing_due = cluster.fencing.deadline(now);
    }

    fn settle_once(&mut self, now: Time, name: &ClusterName) {
        let Some(cluster) = self.clusters.get(name) else { return };
        let decision = cluster.decide(now, &self.clients);
        self.tell_condemned(now, name);
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
        let Some(cluster) = self.clusters.get_mut(name) else { return };
        let wait = waiting.map(|(wait, _)| wait);
        cluster.waiting = waiting;
        cluster.decided = decision;
        let is_news = (&cluster.decided, &wait) != (&cluster.logged.0, &cluster.logged.1);
        if wait.is_some_and(|wait| wait.is_for_the_disk()) || !is_news {
            // It is told once it is stored; a disk that fails is told by itself, and once.
            return;
        }
        cluster.logged = (cluster.decided.clone(), wait);
        let text = match (&cluster.decided, wait) {
            (None, _) => return,
            (Some(decision), None) => format!("{decision}"),
            (Some(decision), Some(wait)) => format!("{decision}; waits: {wait}"),
        };
        self.actions.push_back(Action::Decided { cluster: name.clone(), text });
    }

    /// Gives the vote to a view, as far as that can be done now; returns what it waits for.
    fn give(
        &mut self,
        now: Time,
        name: &ClusterName,
        view: ViewId,
        members: &BTreeSet<NodeId>,
    ) -> Option<(Waiting, Time)> {
        let spared = self.spared(now, name, members);
        self.take_from_all_but(now, name, Some((view, members)), &spared);
        let cluster = self.clusters.get(name)?;
        if let Some(writing) = cluster.ledger.writing() {
            let same = writing.view == view && &writing.nodes == members;
            let wait = if same { Waiting::Storing } else { Waiting::StoringAnother };
            return Some((wait, Time::NEVER));
        }
        let length = self.length_of(now, name, members)?;
        let cluster = self.clusters.get(name)?;
        let stands = cluster.ledger.current().is_some_and(|record| {
            record.view == view && &record.nodes == members && length.is_covered_by(record)
        });
        if stands {
            if cluster.ledger.is_unannounced()
                && let Some(wait) = self.waits_for(now, cluster, view, members)
            {
                return Some(wait);
            }
            self.tell_winners(now, name, view);
            self.note_holders(now, name);
            if self.clusters.get(name).is_some_and(|cluster| cluster.ledger.stands_for_all()) {
                return None;
            }
        }
        let cluster = self.clusters.get(name)?;
        if let Some(wait) = self.waits_for(now, cluster, view, members) {
            return Some(wait);
        }
        if !cluster.ledger.may_store(now) {
            return Some((Waiting::NotStored, Time::NEVER));
        }
        self.store_grant(name, view, members, length);
        Some((Waiting::Storing, Time::NEVER))
    }

    /// What a move to this view waits for, and until when at the latest.
    fn waits_for(
        &self,
        now: Time,
        cluster: &Cluster,
        view: ViewId,
        members: &BTreeSet<NodeId>,
    ) -> Option<(Waiting, Time)> {
        if let Some((node, until)) = self.unconfirmed_stock_loser(cluster, members) {
            return Some((Waiting::Unapplied(node), until));
        }
        let live = cluster.live(now, &self.clients).filter(|(_, client)| client.view == view);
        let to = Candidate {
            view,
            members: members.clone(),
            reporting: live.map(|(node, _)| node).collect(),
            configured: cluster.configured(&self.clients),
            off: cluster.fencing.off().collect(),
        };
        let unaware = self
            .unaware_loser(now, cluster, view, members)
            .map(|(node, until)| (Waiting::Unaware(node), until));
        let waits = [unaware, cluster.ledger.waits_for(now, &to)];
        waits.into_iter().flatten().max_by_key(|(_, until)| *until)
    }

    fn store_grant(
        &mut self,
        name: &ClusterName,
        view: ViewId,
        members: &BTreeSet<NodeId>,
        length: Length,
    ) {
        let Some(cluster) = self.clusters.get(name) else { return };
        let epoch = self.next_epoch(cluster, view, members);
        let grant = GrantId { arbiter: self.memory.arbiter, boot: self.memory.boot, epoch };
        let record = GrantRecord {
            cluster: name.clone(),
            grant,
            view,
            nodes: members.clone(),
            lease_ms: length.lease_ms,
            bound_ms: length.bound_ms,
            host_boot: self.memory.host_boot,
        };
        let token = self.token();
        if let Some(cluster) = self.clusters.get_mut(name) {
            cluster.ledger.begin(token, record.clone());
        }
        self.actions.push_back(Action::Persist { token, record });
    }

    /// A connected client without leases, outside the view, whose loss does not count as applied:
    /// its reply is needed even if it is not known to count the vote (F7). And when it is closed.
    fn unconfirmed_stock_loser(
        &self,
        cluster: &Cluster,
        members: &BTreeSet<NodeId>,
    ) -> Option<(NodeId, Time)> {
        let outside = cluster.joined.iter().filter(|(node, _)| !members.contains(node));
        let clients = outside.filter_map(|(node, id)| Some((*node, self.clients.get(id)?)));
        let mut stock = clients.filter(|(_, client)| !client.is_own() && client.has_lists());
        let open =
            |client: &Client| !client.told.is_some_and(|told| told.confirmed) || client.host_counts;
        let (node, client) = stock.find(|(_, client)| open(client))?;
        Some((node, client.unconfirmed_until().unwrap_or(Time::NEVER)))
    }

    /// A node that has just vanished from the corosync of a member, and does not say that it knows:
    /// its own corosync goes on with the old quorum until it has lost the token too, also where the
    /// device's vote has long been over (F1).
    fn unaware_loser(
        &self,
        now: Time,
        cluster: &Cluster,
        view: ViewId,
        members: &BTreeSet<NodeId>,
    ) -> Option<(NodeId, Time)> {
        let aware = |node: &NodeId| {
            let client = cluster.joined.get(node).and_then(|id| self.clients.get(id));
            client.is_some_and(|client| {
                let lost = client.told.is_some_and(|told| told.vote == Vote::Nack);
                lost && now < client.silent_at()
                    && !client.has_unconfirmed_loss()
                    && client.members.is_disjoint(members)
            })
        };
        let reporting = cluster
            .live(now, &self.clients)
            .filter(|(_, client)| client.view == view && client.waits_for_corosync());
        reporting
            .flat_map(|(_, client)| &client.vanished)
            .filter(|(node, _)| {
                !members.contains(node) && !aware(node) && !cluster.fencing.is_off(**node)
            })
            .map(|(node, since)| (*node, *since + times::HOST_CHANGE))
            .filter(|(_, until)| now < *until)
            .max_by_key(|(_, until)| *until)
    }

    /// How long a lease of a view counts and how long it is held, by need (rule S2). It is held
    /// longer by what the slowest host says of itself (safety 8), and for as long as the slowest
    /// client without leases may count the vote (rule S2b), connected or not.
    fn length_of(
        &self,
        now: Time,
        name: &ClusterName,
        members: &BTreeSet<NodeId>,
    ) -> Option<Length> {
        let cluster = self.clusters.get(name)?;
        let (lease, hold) = if self.is_alone(cluster, members) {
            (times::LONE_LEASE, times::LONE_LEASE_HOLD)
        } else if self.is_needed(name, members) {
            (times::SOLO_LEASE, times::SOLO_LEASE_HOLD)
        } else {
            (times::LEASE, times::LEASE_HOLD)
        };
        let joined = cluster.joined.iter().filter(|(node, _)| members.contains(node));
        let mut bounds = joined.filter_map(|(_, id)| self.clients.get(id)).map(|client| {
            match (client.worst_case(), client.rule) {
                (Some(worst), _) => Some(hold + worst),
                (None, rule) => rule.and_then(|rule| rule.recorded()),
            }
        });
        let said = bounds.try_fold(hold, |longest, bound| Some(longest.max(bound?)));
        let open = cluster.ledger.open_until(members, &cluster.leased_nodes(&self.clients));
        let open = (open != Time::NEVER).then(|| open.since(now));
        let bound = said.zip(open).map(|(said, open)| said.max(open));
        let bound_ms = bound.and_then(|bound| u64::try_from(bound.as_micros().div_ceil(1000)).ok());
        let everyone = members.iter().all(|node| cluster.joined.contains_key(node));
        let lease_ms = u32::try_from(lease.as_millis()).unwrap_or(u32::MAX);
        Some(Length { lease_ms, bound_ms, is_exact: everyone && bound == said })
    }

    /// It is one node, and every other is confirmed off: nobody waits for the end of its lease.
    fn is_alone(&self, cluster: &Cluster, members: &BTreeSet<NodeId>) -> bool {
        let configured = cluster.configured(&self.clients);
        let mut others = configured.difference(members).peekable();
        members.len() == 1
            && others.peek().is_some()
            && others.all(|node| cluster.fencing.is_off(*node))
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
        self.mark_inside(now, name, winner);
        let Some(cluster) = self.clusters.get(name) else { return };
        let loses = |node: &NodeId, client: &Client| {
            if spared.contains(node) && !cluster.fencing.condemns(*node) {
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

    /// Notes which clients are in the view that is to get the vote, even if they do not report it
    /// yet. One that is so no longer and was told that it lost, loses from now on.
    fn mark_inside(
        &mut self,
        now: Time,
        name: &ClusterName,
        winner: Option<(ViewId, &BTreeSet<NodeId>)>,
    ) {
        let Some(cluster) = self.clusters.get(name) else { return };
        for (node, id) in &cluster.joined {
            let Some(client) = self.clients.get_mut(id) else { continue };
            let inside = winner.is_some_and(|(view, members)| {
                let is_slow = client.view.ring.seq < view.ring.seq;
                members.contains(node) && (client.view == view || is_slow)
            });
            let inside = inside && !cluster.is_contested(now, *node, client);
            let leaves = std::mem::replace(&mut client.inside, inside) && !inside;
            if leaves && !client.is_own() && client.has_unconfirmed_loss() {
                client.losing_since = client.losing_since.or(Some(now));
            }
        }
    }

    /// Tells every connected member that reports the view, and has not been told, that it has
    /// the vote.
    fn tell_winners(&mut self, now: Time, name: &ClusterName, view: ViewId) {
        let Some(cluster) = self.clusters.get(name) else { return };
        let Some(record) = cluster.ledger.current() else { return };
        let (epoch, terms) = (record.grant.epoch, Terms::of(record));
        let is_told = |client: &Client| {
            client.told.is_some_and(|told| {
                told.vote == Vote::Ack && (told.epoch == Some(epoch) || !client.is_own())
            })
        };
        let winners: Vec<ClientId> = cluster
            .live(now, &self.clients)
            .filter(|(node, client)| {
                let anchored = client.anchor.is_some() || !client.is_own();
                cluster.ledger.may_reissue(*node)
                    && client.view == view
                    && anchored
                    && !is_told(client)
            })
            .map(|(_, client)| client.id)
            .collect();
        let live: Vec<_> = cluster.live(now, &self.clients).collect();
        // A stock client has one vote, whichever of the view's grants it was told of.
        if live.iter().any(|(_, client)| client.view == view && is_told(client))
            && let Some(cluster) = self.clusters.get_mut(name)
        {
            cluster.ledger.announce();
        }
        for id in winners {
            let Some(client) = self.clients.get(&id) else { continue };
            let Some(cluster) = self.clusters.get_mut(name) else { continue };
            cluster.ledger.announce();
            match (client.trace(), client.node()) {
                (Some((node, process, trace)), _) => {
                    cluster.ledger.told(node, process, view, trace);
                }
                (None, Some(node)) => {
                    let worst = client.worst_case().unwrap_or_default();
                    cluster.ledger.renew(now, node, terms, worst);
                }
                (None, None) => {}
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
    pub(super) fn tell(&mut self, now: Time, name: &ClusterName, id: ClientId, vote: Vote) {
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
            client.losing_since = None;
        } else if !client.is_own() && !client.inside {
            client.losing_since = client.losing_since.or(Some(now));
        }
        let trace = client.trace();
        if let (Some((node, process, trace)), Some(cluster)) = (trace, self.clusters.get_mut(name))
        {
            // From the decision on a loser's bound runs whatever it sends (safety 29).
            cluster.ledger.hear_of(node, process, trace);
        }
        self.actions.push_back(Action::Send { client: id, bytes: message.encode() });
    }

    /// A client has confirmed a vote info, or shown by a quorum list that its host took it (F7).
    pub(super) fn confirm(&mut self, now: Time, name: &ClusterName, id: ClientId) {
        let Some(client) = self.clients.get(&id) else { return };
        let (Some(told), Some(node)) = (client.told, client.node()) else { return };
        let stock = client.trace().map(|(_, process, _)| process);
        let inquorate = client.quorate == Some(false);
        let applied = told.vote == Vote::Nack && !client.has_unconfirmed_loss();
        let worst = client.worst_case().unwrap_or_default();
        let Some(cluster) = self.clusters.get_mut(name) else { return };
        match (stock, told.epoch) {
            (Some(process), _) if applied => {
                cluster.ledger.release_stock(node, process, inquorate);
            }
            (None, _) if applied => cluster.ledger.release(node),
            (None, Some(epoch)) if told.vote == Vote::Ack && told.confirmed => {
                cluster.ledger.applied(now, node, epoch, worst);
            }
            (_, _) => {}
        }
        self.settle(now, name);
    }

    /// Closes losers that have not confirmed in time; whether there were any. Their bounds run.
    fn close_unconfirmed(&mut self, now: Time, name: &ClusterName) -> bool {
        let Some(cluster) = self.clusters.get(name) else { return false };
        let joined = cluster.joined.values().filter_map(|id| self.clients.get(id));
        let late: Vec<ClientId> = joined
            .filter(|client| client.unconfirmed_until().is_some_and(|at| at <= now))
            .map(|client| client.id)
            .collect();
        for id in &late {
            if let Some(client) = self.clients.remove(id)
                && let Some(cluster) = self.clusters.get_mut(name)
            {
                cluster.leave(&client);
            }
            let reason = super::CloseReason::Unconfirmed;
            self.actions.push_back(Action::Close { client: *id, reason });
        }
        !late.is_empty()
    }

    /// The echo replies that were held back from stock losers whose loss counts by now, or who
    /// are losers no more (F6).
    fn release_withheld(&mut self, name: &ClusterName) {
        let Some(cluster) = self.clusters.get(name) else { return };
        for id in cluster.joined.values() {
            let Some(client) = self.clients.get_mut(id) else { continue };
            if client.is_unconfirmed_loser() {
                continue;
            }
            client.losing_since = None;
            if let Some(bytes) = client.withheld.take() {
                client.answered = client.last_heard;
                self.actions.push_back(Action::Send { client: *id, bytes });
            }
        }
    }
}
