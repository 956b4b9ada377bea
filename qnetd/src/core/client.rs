//! One connection: what it has said, what it was told, and when it is overdue.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use protocol::ids::{ClusterName, Epoch, NodeId, RingId, ViewId};
use protocol::qnet::{Hello, HostKind, NodeInfo};
use protocol::time::Time;
use protocol::times;
use protocol::vote::{Algorithm, Heuristics, TieBreaker, Vote};

use super::hold::{Rule, Trace, VoteHold};
use super::ledger::Process;
use super::{ClientId, CloseReason, Peer, Settings};

/// How far the transport has come.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Transport {
    /// Plain text.
    Plain,
    /// StartTLS has been read, the handshake is under way.
    Handshaking,
    /// TLS is on; with whom, where a certificate is asked for.
    Secure(Option<Peer>),
}

/// What a client said in Init.
#[derive(Clone, Debug)]
pub(super) struct Membership {
    pub(super) cluster: ClusterName,
    pub(super) node: NodeId,
    pub(super) algorithm: Algorithm,
    pub(super) tie_breaker: TieBreaker,
    pub(super) hello: Option<Hello>,
    /// Preinit's sequence number: tells a reconnect from a restart (safety 7).
    pub(super) preinit_seq: u32,
    /// The process that speaks, of a stock client.
    pub(super) process: Process,
}

/// The last vote that a client was told for its current view.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Told {
    pub(super) vote: Vote,
    /// The sequence number of the vote info.
    pub(super) seq: u32,
    /// The epoch of the grant, with an ACK to an own client.
    pub(super) epoch: Option<Epoch>,
    pub(super) at: Time,
    pub(super) confirmed: bool,
}

/// One connection.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pub(super) id: ClientId,
    pub(super) address: String,
    pub(super) transport: Transport,
    pub(super) preinit: Option<(ClusterName, u32)>,
    pub(super) membership: Option<Membership>,
    pub(super) connected: Time,
    pub(super) last_heard: Time,
    pub(super) heartbeat: Duration,
    /// The longest one that it has said.
    pub(super) heartbeat_longest: Duration,
    /// For how long it may count the vote, of a stock client.
    pub(super) rule: Option<Rule>,
    /// When its last echo was answered; Init counts as one (wire 3.1).
    pub(super) answered: Time,
    pub(super) keep_active_partition: bool,

    pub(super) config: Vec<NodeInfo>,
    pub(super) config_version: Option<u64>,
    pub(super) members: BTreeSet<NodeId>,
    pub(super) view: ViewId,
    /// Nodes that were in a view of its before and are not in this one, with the time at which
    /// that was reported.
    pub(super) vanished: BTreeMap<NodeId, Time>,
    /// The view's epoch as its members agreed it.
    pub(super) view_epoch: Epoch,
    /// When the present configuration or view was first reported, or Init done: for the stability
    /// limit.
    pub(super) lists_since: Time,
    pub(super) membership_heuristics: Heuristics,
    pub(super) regular_heuristics: Heuristics,
    pub(super) heuristics: Heuristics,
    pub(super) heuristics_failed_before: bool,
    /// What its last quorum list says, if one has come.
    pub(super) quorate: Option<bool>,
    /// Its last membership list was not followed by a quorum list yet: the host's membership
    /// change is not over.
    pub(super) sync_open: bool,
    /// A stock host may count the vote: it was sent an ACK or said quorate=1 since its last
    /// quorate=0 list (F7).
    pub(super) host_counts: bool,

    /// The newest echo request with a renewal: leases are counted from its sending (safety 9).
    pub(super) anchor: Option<u32>,
    /// When an own client last asked for a renewal or reported.
    pub(super) renewed: Time,
    pub(super) vote_infos: u32,
    pub(super) told: Option<Told>,
    /// The view that is to get the vote contains its node, and its own view is that one or one
    /// from before it. Then it loses nothing: it is slow.
    pub(super) inside: bool,
    /// Since when a stock client is told that it has lost the vote, and has not shown that it
    /// applied that.
    pub(super) losing_since: Option<Time>,
    /// The echo reply that an unconfirmed stock loser does not get (F6).
    pub(super) withheld: Option<Vec<u8>>,
    /// The last vote of any message, for the stock tool's list.
    pub(super) last_sent: Option<Vote>,
    pub(super) last_ack_nack: Option<Vote>,
}

impl Client {
    pub(super) fn new(id: ClientId, address: String, now: Time, settings: &Settings) -> Self {
        Self {
            id,
            address,
            transport: Transport::Plain,
            preinit: None,
            membership: None,
            connected: now,
            last_heard: now,
            heartbeat: Duration::from_millis(u64::from(settings.heartbeat_max_ms)),
            heartbeat_longest: Duration::ZERO,
            rule: None,
            answered: now,
            keep_active_partition: settings.keep_active_partition,
            config: Vec::new(),
            config_version: None,
            members: BTreeSet::new(),
            view: ViewId::default(),
            vanished: BTreeMap::new(),
            view_epoch: Epoch::default(),
            lists_since: now,
            membership_heuristics: Heuristics::Undefined,
            regular_heuristics: Heuristics::Undefined,
            heuristics: Heuristics::Undefined,
            heuristics_failed_before: false,
            quorate: None,
            sync_open: false,
            host_counts: false,
            anchor: None,
            renewed: now,
            vote_infos: 0,
            told: None,
            inside: false,
            losing_since: None,
            withheld: None,
            last_sent: None,
            last_ack_nack: None,
        }
    }

    pub(super) fn joined_cluster(&self) -> Option<ClusterName> {
        self.membership.as_ref().map(|m| m.cluster.clone())
    }

    /// It is a gateway, which is in no cluster's decisions, and may be quiet for as long as it likes.
    pub(super) fn is_gateway(&self) -> bool {
        match &self.transport {
            Transport::Secure(Some(peer)) => peer.gateway,
            Transport::Plain | Transport::Handshaking | Transport::Secure(None) => false,
        }
    }

    pub(super) fn node(&self) -> Option<NodeId> {
        self.membership.as_ref().map(|m| m.node)
    }

    pub(super) fn hello(&self) -> Option<&Hello> {
        self.membership.as_ref().and_then(|m| m.hello.as_ref())
    }

    /// It negotiated leases.
    pub(super) fn is_own(&self) -> bool {
        self.hello().is_some()
    }

    /// Its host is corosync, which goes on with its old quorum until it has a new membership, and
    /// that is waited for.
    pub(super) fn waits_for_corosync(&self) -> bool {
        match (self.hello(), &self.rule) {
            (Some(hello), _) => hello.host == HostKind::Corosync,
            (None, Some(rule)) => rule.mode != VoteHold::Off,
            (None, None) => true,
        }
    }

    /// Takes in a view and its members.
    pub(super) fn hear_view(&mut self, now: Time, view: ViewId, members: BTreeSet<NodeId>) {
        // Only what is new may be news to the others too: a client that says the same again holds
        // nobody up for longer (8.11).
        if self.view != view || self.members != members {
            self.lists_since = now;
        }
        self.view = view;
        self.vanished
            .retain(|node, since| !members.contains(node) && now < *since + times::HOST_CHANGE);
        for node in self.members.difference(&members) {
            self.vanished.insert(*node, now);
        }
        self.members = members;
    }

    /// For how long its host may go on counting after a lease (safety 8), if it has leases.
    pub(super) fn worst_case(&self) -> Option<Duration> {
        self.hello().map(|hello| Duration::from_millis(u64::from(hello.worst_case_ms)))
    }

    /// Its host may go on for no longer than this any more. Whether that is news: only a shorter
    /// time is, because what was recorded before covers no longer one.
    pub(super) fn shorten_worst_case(&mut self, ms: u32) -> bool {
        let hello = self.membership.as_mut().and_then(|membership| membership.hello.as_mut());
        let Some(hello) = hello.filter(|hello| ms < hello.worst_case_ms) else { return false };
        hello.worst_case_ms = ms;
        true
    }

    pub(super) fn set_heartbeat(&mut self, ms: u32) {
        self.heartbeat = Duration::from_millis(u64::from(ms));
        self.heartbeat_longest = self.heartbeat_longest.max(self.heartbeat);
    }

    /// It was told that it has lost the vote, and that does not count as applied: a stock client
    /// whose host may count the vote has to say by a quorum list that it does not (F7).
    pub(super) fn has_unconfirmed_loss(&self) -> bool {
        let told = self.told.filter(|told| told.vote == Vote::Nack);
        told.is_some_and(|told| !told.confirmed || (!self.is_own() && self.host_counts))
    }

    /// It has not applied its loss, and is not just slow to report the view that it wins with.
    pub(super) fn is_unconfirmed_loser(&self) -> bool {
        self.has_unconfirmed_loss() && (self.is_own() || !self.inside)
    }

    /// When an unconfirmed loser is closed (safety 29).
    pub(super) fn unconfirmed_until(&self) -> Option<Time> {
        let told = self.told.filter(|_| self.is_unconfirmed_loser())?;
        // A stock client that goes on reporting new rings is told again each time.
        Some(self.losing_since.unwrap_or(told.at) + self.heartbeat)
    }

    /// A stock client's node and process, and from when its bound runs: its last message, which
    /// is answered as long as it has not lost the vote; then its last answered echo (safety 29).
    pub(super) fn trace(&self) -> Option<(NodeId, Process, Trace)> {
        let (membership, rule) = (self.membership.as_ref()?, self.rule?);
        let losing = self.is_unconfirmed_loser();
        let since = if losing { self.answered } else { self.last_heard };
        let trace = Trace::heard(rule, since, self.sync_open);
        Some((membership.node, membership.process, trace))
    }

    pub(super) fn ring(&self) -> RingId {
        self.view.ring
    }

    pub(super) fn config_ids(&self) -> BTreeSet<NodeId> {
        self.config.iter().map(|info| info.node).collect()
    }

    /// How long this client may be silent before it no longer takes part in decisions. A stock
    /// client takes part as long as it is connected.
    pub(super) fn silent_at(&self) -> Time {
        if self.is_own() { self.renewed + times::CLIENT_SILENCE } else { Time::NEVER }
    }

    /// How long a rival for its node id has to see it silent before it is replaced (F14).
    pub(super) fn rival_patience(&self) -> Duration {
        if self.is_own() {
            times::CLIENT_SILENCE
        } else {
            self.heartbeat + times::vote_hold_guard(self.heartbeat)
        }
    }

    /// It has sent the list that Init is followed by, and the one that names its view.
    pub(super) fn has_lists(&self) -> bool {
        !self.config.is_empty() && !self.members.is_empty()
    }

    pub(super) fn hear_heuristics(&mut self, result: Heuristics) {
        self.heuristics_failed_before =
            self.heuristics == Heuristics::Fail && result == Heuristics::Fail;
        self.heuristics = result;
    }

    fn dead_at(&self, settings: &Settings) -> Time {
        if settings.dpd_enabled {
            self.last_heard + self.heartbeat * settings.dpd_percent / 100
        } else {
            Time::NEVER
        }
    }

    pub(super) fn deadline(&self, settings: &Settings) -> Option<Time> {
        if self.is_gateway() {
            return None;
        }
        let greeting = match self.membership {
            None => self.connected + settings.greeting_limit,
            Some(_) => Time::NEVER,
        };
        Some(greeting.min(self.dead_at(settings)))
    }

    pub(super) fn overdue(&self, now: Time, settings: &Settings) -> Option<CloseReason> {
        if self.is_gateway() {
            None
        } else if self.membership.is_none() && now >= self.connected + settings.greeting_limit {
            Some(CloseReason::TooSlow)
        } else if now >= self.dead_at(settings) {
            Some(CloseReason::Silent)
        } else {
            None
        }
    }
}
