//! The arbiter's machine.
//!
//! [`Arbiter::handle`] takes facts in, [`Arbiter::next_action`] gives duties out in order,
//! [`Arbiter::deadline`] says when to call again with [`Event::Timeout`].
//!
//! The way of a vote through here: `session` reads a message and updates its `client`; `cluster`
//! builds the view and asks [`decide`]; `ledger` knows who may still count the vote and lets it
//! move only when nobody outside the new view can (rules S1 to S4).
//!
//! The way of a fence: `calls` reads what a gateway asks, `entitled` says whether that side may,
//! `fencing` remembers who is condemned and who is off (rule S7).

mod calls;
mod client;
mod cluster;
pub mod decide;
mod entitled;
mod fencing;
mod hold;
mod ledger;
mod session;
mod snapshot;
mod waiting;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use protocol::ids::{ArbiterId, BootId, ClusterName, Epoch, GrantId, NodeId, ViewId};
use protocol::qnet::{Frame, TlsSupport};
use protocol::time::Time;
use serde::{Deserialize, Serialize};

use client::Client;
use cluster::Cluster;
use fencing::Fencing;
pub use fencing::{ConfirmedOff, FencingRecord, OpenIntent};
use hold::Trace;
pub use hold::{ClusterSettings, VoteHold};
pub use snapshot::{StockClient, StockCluster};
pub use waiting::{Counting, Endless, Waiting};

/// Names one connection; never used again for another.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct ClientId(pub u64);

/// Names one write; its answer carries it back.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Token(pub u64);

/// Everything that can happen to an arbiter.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event {
    /// A connection was accepted.
    Connected {
        /// Its name from now on.
        client: ClientId,
        /// Where it comes from, for people.
        address: String,
    },
    /// A whole message arrived.
    Received {
        /// From whom.
        client: ClientId,
        /// Type and body.
        frame: Frame,
    },
    /// A message over the limit arrived and was skipped.
    TooLong {
        /// From whom.
        client: ClientId,
    },
    /// The TLS handshake after an [`Action::StartTls`] is done.
    Secured {
        /// With whom.
        client: ClientId,
        /// Who it has proven to be; `None` where no certificate is asked for.
        identity: Option<Peer>,
    },
    /// The connection is gone.
    Closed {
        /// Whose.
        client: ClientId,
    },
    /// The record of [`Action::Persist`] or [`Action::PersistFencing`] is on disk.
    Persisted(Token),
    /// It is not, and will not be.
    PersistFailed(Token),
    /// The [`Arbiter::deadline`] has passed.
    Timeout,
}

/// Everything an arbiter may do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Action {
    /// Queue bytes for a client.
    Send {
        /// To whom.
        client: ClientId,
        /// A whole message.
        bytes: Vec<u8>,
    },
    /// Start the TLS handshake, as server, with the next byte that comes.
    StartTls {
        /// With whom.
        client: ClientId,
    },
    /// Send what is queued and close; [`Event::Closed`] is not expected back.
    Close {
        /// Whom.
        client: ClientId,
        /// Why, for the log.
        reason: CloseReason,
    },
    /// Append a record to the journal and make it durable, then say so.
    Persist {
        /// Comes back in the answer.
        token: Token,
        /// What to store.
        record: GrantRecord,
    },
    /// The same for what a gateway has registered or proven.
    PersistFencing {
        /// Comes back in the answer.
        token: Token,
        /// What to store, in the place of the cluster's last one.
        record: FencingRecord,
    },
    /// A decision, for the log.
    Decided {
        /// Of which cluster.
        cluster: ClusterName,
        /// In one line: inputs, verdict, reason.
        text: String,
    },
}

/// Why a connection was closed from here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CloseReason {
    /// TLS was asked for and is switched off.
    TlsUnavailable,
    /// The certificate is another cluster's, or another node's.
    WrongIdentity,
    /// No Init in time.
    TooSlow,
    /// Silent for longer than the dead peer interval.
    Silent,
    /// The same process has connected anew.
    Replaced,
    /// There are as many clients as are allowed.
    TooManyClients,
    /// A loser did not confirm its loss (safety 29).
    Unconfirmed,
    /// Its node is off: the connection is what is left of it.
    Fenced,
    /// Its cluster's gateways have too many connections, and it was quiet for longest.
    TooManyGateways,
}

/// A client's proven identity (rule S9).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Peer {
    /// The certificate's CN.
    pub cluster: ClusterName,
    /// The node it is bound to, if it is.
    pub node: Option<NodeId>,
    /// It is a fencing gateway, and no node.
    pub gateway: bool,
}

/// One line of the grant journal: from now on this view has the vote (rule S3). Durations, never
/// points in time.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct GrantRecord {
    /// Whose vote.
    pub cluster: ClusterName,
    /// The grant; its epoch is the view's.
    pub grant: GrantId,
    /// In which view it counts.
    pub view: ViewId,
    /// The view's nodes, connected or not.
    pub nodes: BTreeSet<NodeId>,
    /// How long a lease of it counts at the client, in milliseconds.
    pub lease_ms: u32,
    /// How long each of them can count it after its last renewal, or, of a client without leases,
    /// after its last message, in milliseconds; `None`: without limit.
    pub bound_ms: Option<u64>,
    /// The boot of the arbiter's host in which this was written (F9).
    pub host_boot: BootId,
}

/// What an arbiter finds in its state directory at its start.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// The directory's identity.
    pub arbiter: ArbiterId,
    /// How often it has been opened, this time included.
    pub boot: u32,
    /// The current boot of the host.
    pub host_boot: BootId,
    /// What the wall clock showed, in seconds since 1970; 0: it could not be read. No time is
    /// measured by it.
    pub clock_s: u64,
    /// The newest record of each cluster.
    pub grants: Vec<GrantRecord>,
    /// What is known of fencing in each.
    pub fencing: Vec<FencingRecord>,
}

/// The stock daemon's settings, with its defaults (wire 3.2).
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// `-s`; required unless said otherwise (rule S9).
    pub tls: TlsSupport,
    /// `-c`.
    pub client_cert_required: bool,
    /// `-m`; 0 is unlimited.
    pub max_clients: usize,
    /// Longest message taken, header included, in bytes.
    pub max_message_bytes: u32,
    /// Longest message sent, header included, in bytes.
    pub max_reply_bytes: u32,
    /// Shortest heartbeat interval accepted, in milliseconds.
    pub heartbeat_min_ms: u32,
    /// Longest, in milliseconds.
    pub heartbeat_max_ms: u32,
    /// Close clients that are silent.
    pub dpd_enabled: bool,
    /// Silent means this many percent of a heartbeat interval.
    pub dpd_percent: u32,
    /// For clients that do not say.
    pub keep_active_partition: bool,
    /// A connection without Init is closed after this long.
    pub greeting_limit: Duration,
    /// For how long a cluster that this state directory knows nothing of keeps a partial view of
    /// clients with leases waiting (F8); for others it follows from their heartbeat.
    pub unknown_bound: Duration,
    /// How long clients without leases are held to count a vote (rule S2b).
    pub vote_hold: VoteHold,
    /// What is different for single clusters.
    pub clusters: BTreeMap<ClusterName, ClusterSettings>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            tls: TlsSupport::Required,
            client_cert_required: true,
            max_clients: 0,
            max_message_bytes: protocol::qnet::MESSAGE_LIMIT_BYTES,
            max_reply_bytes: protocol::qnet::MESSAGE_LIMIT_BYTES,
            heartbeat_min_ms: 1000,
            heartbeat_max_ms: 120_000,
            dpd_enabled: true,
            dpd_percent: 150,
            keep_active_partition: false,
            greeting_limit: Duration::from_secs(20),
            unknown_bound: protocol::times::LONE_LEASE_HOLD,
            vote_hold: VoteHold::default(),
            clusters: BTreeMap::new(),
        }
    }
}

/// The arbiter.
#[derive(Clone, Debug)]
pub struct Arbiter {
    settings: Settings,
    memory: Memory,
    started: Time,
    clients: BTreeMap<ClientId, Client>,
    clusters: BTreeMap<ClusterName, Cluster>,
    tokens: u64,
    /// Names for intents that were used.
    intents: u64,
    /// The last write failed, and that was said.
    disk_failed: bool,
    /// There are too many clusters without certificates, and that was said.
    strangers_refused: bool,
    actions: VecDeque<Action>,
}

impl Arbiter {
    /// An arbiter that starts at `now` with what its state directory holds.
    pub fn new(now: Time, settings: Settings, memory: Memory) -> Self {
        let mut arbiter = Self {
            settings,
            started: now,
            clients: BTreeMap::new(),
            clusters: BTreeMap::new(),
            tokens: 0,
            intents: 0,
            disk_failed: false,
            strangers_refused: false,
            actions: VecDeque::new(),
            memory,
        };
        for record in arbiter.memory.grants.clone() {
            let ledger = ledger::Ledger::recover(now, &arbiter.memory, &record);
            arbiter.clusters.insert(record.cluster, Cluster::new(ledger));
        }
        let known_boot = arbiter.memory.host_boot != BootId::default();
        for record in arbiter.memory.fencing.clone() {
            let same_boot = known_boot && record.host_boot == arbiter.memory.host_boot;
            let unknown = || Cluster::new(ledger::Ledger::unknown(now));
            let cluster = arbiter.clusters.entry(record.cluster.clone()).or_insert_with(unknown);
            let granted = cluster.ledger.current().map(|grant| grant.nodes.clone());
            cluster.fencing =
                Fencing::recover(now, &record, same_boot, &granted.unwrap_or_default());
        }
        arbiter
    }

    /// Takes a fact in.
    pub fn handle(&mut self, now: Time, event: Event) {
        match event {
            Event::Connected { client, address } => self.connected(now, client, address),
            Event::Received { client, frame } => self.received(now, client, &frame),
            Event::TooLong { client } => self.too_long(now, client),
            Event::Secured { client, identity } => self.secured(now, client, identity),
            Event::Closed { client } => self.closed(now, client),
            Event::Persisted(token) => self.persisted(now, token),
            Event::PersistFailed(token) => self.persist_failed(now, token),
            Event::Timeout => self.timeout(now),
        }
    }

    /// The caller has closed a connection from its side, unasked. Unlike [`Event::Closed`] that
    /// says nothing of the client: its bound runs from its last message.
    pub fn cut(&mut self, now: Time, client: ClientId) {
        self.leave(now, client);
    }

    /// The next duty, in order; `None` when all are done.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call with [`Event::Timeout`], if nothing happens before.
    pub fn deadline(&self) -> Option<Time> {
        let clients = self.clients.values().filter_map(|c| c.deadline(&self.settings));
        let clusters = self.clusters.values().filter_map(|c| c.deadline(&self.clients));
        clients.chain(clusters).min()
    }

    /// The highest epoch known of a cluster.
    pub fn epoch(&self, cluster: &ClusterName) -> Option<Epoch> {
        self.clusters.get(cluster).map(Cluster::epoch)
    }

    fn token(&mut self) -> Token {
        self.tokens += 1;
        Token(self.tokens)
    }

    fn connected(&mut self, now: Time, id: ClientId, address: String) {
        let full = self.settings.max_clients;
        if full != 0 && self.clients.len() >= full {
            let reason = CloseReason::TooManyClients;
            self.actions.push_back(Action::Close { client: id, reason });
            return;
        }
        self.clients.insert(id, Client::new(id, address, now, &self.settings));
    }

    /// The other end, or the network, has closed a connection: a stock client gives the vote up
    /// then, or it is dead and nobody polls its host any more.
    fn closed(&mut self, now: Time, id: ClientId) {
        if let Some(client) = self.clients.get(&id)
            && let (Some(rule), Some(membership)) = (client.rule, &client.membership)
            && let Some(cluster) = self.clusters.get_mut(&membership.cluster)
        {
            let trace = Trace::closed(rule, now, client.sync_open);
            cluster.ledger.hear_of(membership.node, membership.process, trace);
        }
        self.leave(now, id);
    }

    fn leave(&mut self, now: Time, id: ClientId) {
        let Some(client) = self.clients.remove(&id) else { return };
        if let Some(name) = client.joined_cluster()
            && let Some(cluster) = self.clusters.get_mut(&name)
        {
            cluster.leave(&client);
            self.settle(now, &name);
            self.forget_if_blank(now, &name);
        }
    }

    /// A cluster that never had the vote leaves nothing behind; the epochs of the others must go
    /// on.
    fn forget_if_blank(&mut self, now: Time, name: &ClusterName) {
        let blank =
            |c: &Cluster| c.joined.is_empty() && c.ledger.is_blank(now) && c.fencing.is_blank();
        if self.clusters.get(name).is_some_and(blank) {
            self.clusters.remove(name);
        }
    }

    fn forget_blank(&mut self, now: Time) {
        self.clusters.retain(|_, c| {
            !c.joined.is_empty() || !c.ledger.is_blank(now) || !c.fencing.is_blank()
        });
    }

    /// Closes a connection from here, with a reason for the log. That says nothing of the client:
    /// its bound runs from its last message.
    fn close(&mut self, now: Time, client: ClientId, reason: CloseReason) {
        self.actions.push_back(Action::Close { client, reason });
        self.leave(now, client);
    }

    fn timeout(&mut self, now: Time) {
        let late: Vec<(ClientId, CloseReason)> = self
            .clients
            .values()
            .filter_map(|c| c.overdue(now, &self.settings).map(|reason| (c.id, reason)))
            .collect();
        for (client, reason) in late {
            self.close(now, client, reason);
        }
        let names: Vec<ClusterName> = self.clusters.keys().cloned().collect();
        for name in names {
            self.settle(now, &name);
        }
    }

    fn persisted(&mut self, now: Time, token: Token) {
        if let Some(name) = self.fencing_cluster(token) {
            self.disk_failed = false;
            self.fencing_written(now, &name, true);
            return;
        }
        let Some(name) = self.writing_cluster(token) else { return };
        self.disk_failed = false;
        if let Some(cluster) = self.clusters.get_mut(&name) {
            let stock = cluster.stock_nodes(&self.clients);
            let leased = cluster.leased_nodes(&self.clients);
            let nodes = cluster.ledger.writing().map(|record| record.nodes.clone());
            cluster.ledger.written(now, token, &stock, &leased);
            cluster.fencing.granted(&nodes.unwrap_or_default());
        }
        self.settle(now, &name);
    }

    fn persist_failed(&mut self, now: Time, token: Token) {
        if let Some(name) = self.fencing_cluster(token) {
            self.fencing_written(now, &name, false);
            return;
        }
        let Some(name) = self.writing_cluster(token) else { return };
        if let Some(cluster) = self.clusters.get_mut(&name) {
            cluster.ledger.not_written(now, token);
        }
        // It is tried again every second; that is said once.
        if !std::mem::replace(&mut self.disk_failed, true) {
            let text = "grant not given: it could not be stored; see the journal's disk".to_owned();
            self.actions.push_back(Action::Decided { cluster: name, text });
        }
    }

    fn fencing_cluster(&self, token: Token) -> Option<ClusterName> {
        let mut clusters = self.clusters.iter();
        clusters.find(|(_, c)| c.fencing.is_writing(token)).map(|(name, _)| name.clone())
    }

    fn writing_cluster(&self, token: Token) -> Option<ClusterName> {
        let mut clusters = self.clusters.iter();
        clusters.find(|(_, c)| c.ledger.is_writing(token)).map(|(name, _)| name.clone())
    }
}
