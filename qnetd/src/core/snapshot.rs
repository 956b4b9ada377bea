//! What the arbiter shows of itself.

use std::collections::BTreeSet;

use protocol::ids::{ClusterName, NodeId, RingId};
use protocol::qnet::NodeInfo;
use protocol::status::{ArbiterStatus, ClientStatus, ClusterStatus, IntentStatus};
use protocol::time::Time;
use protocol::vote::{Algorithm, Heuristics, TieBreaker, Vote};

use super::client::{Client, Transport};
use super::cluster::Cluster;
use super::fencing::OpenIntent;
use super::waiting::Waiting;
use super::{Arbiter, ClientId};

/// One cluster with connected nodes, as the stock tool lists it (wire 6.3).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StockCluster {
    /// Its name.
    pub name: ClusterName,
    /// The algorithm of its clients.
    pub algorithm: Algorithm,
    /// Their tie-breaker.
    pub tie_breaker: TieBreaker,
    /// All of them are ffsplit clients that want the active partition kept.
    pub keep_active_partition: bool,
    /// By node.
    pub clients: Vec<StockClient>,
}

/// One client, as the stock tool lists it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StockClient {
    /// Its node.
    pub node: NodeId,
    /// Where it comes from.
    pub address: String,
    /// Its heartbeat interval, in milliseconds.
    pub heartbeat_ms: u128,
    /// The version of its configuration, if it said so.
    pub config_version: Option<u64>,
    /// Its configuration.
    pub config: Vec<NodeInfo>,
    /// Its ring.
    pub ring: RingId,
    /// The members of its view.
    pub members: BTreeSet<NodeId>,
    /// The last heuristics result of any kind.
    pub heuristics: Heuristics,
    /// The last one with a membership list.
    pub membership_heuristics: Heuristics,
    /// The last one between.
    pub regular_heuristics: Heuristics,
    /// TLS is on.
    pub is_secure: bool,
    /// Its certificate is verified.
    pub is_verified: bool,
    /// The last vote of any message.
    pub last_sent: Option<Vote>,
    /// The last decided vote.
    pub last_ack_nack: Option<Vote>,
}

impl Arbiter {
    /// How many connections there are.
    pub fn client_count(&self) -> usize {
        self.clients.len()
    }

    /// The client has passed Init, or is a gateway.
    pub fn has_joined(&self, client: ClientId) -> bool {
        let joined = |client: &Client| client.membership.is_some() || client.is_gateway();
        self.clients.get(&client).is_some_and(joined)
    }

    /// What the vote of a cluster waits for, and until when at the latest ([`Time::NEVER`]: until
    /// it happens); first of all that two live processes claim one of its nodes.
    pub fn waiting(&self, now: Time, cluster: &ClusterName) -> Option<(Waiting, Time)> {
        let cluster = self.clusters.get(cluster)?;
        cluster.contested(now, &self.clients).or(cluster.waiting)
    }

    /// Every cluster with connected nodes, the one with the oldest connection first, which is the
    /// stock daemon's order unless that connection has been replaced since.
    pub fn stock_clusters(&self) -> Vec<StockCluster> {
        let mut clusters: Vec<(Option<ClientId>, StockCluster)> = self
            .clusters
            .iter()
            .filter_map(|(n, c)| {
                Some((c.joined.values().min().copied(), self.stock_cluster(n, c)?))
            })
            .collect();
        clusters.sort_by_key(|(oldest, _)| *oldest);
        clusters.into_iter().map(|(_, cluster)| cluster).collect()
    }

    fn stock_cluster(&self, name: &ClusterName, cluster: &Cluster) -> Option<StockCluster> {
        let joined = cluster.joined.values().filter_map(|id| self.clients.get(id));
        let clients: Vec<&Client> = joined.collect();
        let first = clients.iter().find_map(|client| client.membership.as_ref())?;
        Some(StockCluster {
            name: name.clone(),
            algorithm: first.algorithm,
            tie_breaker: first.tie_breaker,
            keep_active_partition: first.algorithm == Algorithm::Ffsplit
                && clients.iter().all(|client| client.keep_active_partition),
            clients: clients.into_iter().filter_map(stock_client).collect(),
        })
    }

    /// Every cluster and client, as `haguard status` shows them.
    pub fn status(&self, now: Time) -> ArbiterStatus {
        let clusters = self.clusters.iter().filter(|(_, c)| !c.joined.is_empty());
        ArbiterStatus {
            arbiter_id: self.memory.arbiter.to_string(),
            address: String::new(),
            tls: format!("{:?}", self.settings.tls),
            clients: u32::try_from(self.clients.len()).unwrap_or(u32::MAX),
            clusters: clusters.map(|(n, c)| (n.to_string(), self.cluster(now, c))).collect(),
            warnings: self.hold_remarks(),
        }
    }

    /// Which vote-hold rule is in force for the clusters with stock clients, and what it leaves
    /// open.
    fn hold_remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        for (name, cluster) in &self.clusters {
            let clients = cluster.joined.values().filter_map(|id| self.clients.get(id));
            let rules = clients.filter_map(|client| client.rule);
            let distinct: BTreeSet<String> = rules.map(|rule| rule.remark()).collect();
            remarks.extend(distinct.into_iter().map(|text| format!("cluster {name}: {text}")));
        }
        remarks
    }

    fn cluster(&self, now: Time, cluster: &Cluster) -> ClusterStatus {
        let joined = cluster.joined.iter().filter_map(|(n, id)| Some((n, self.clients.get(id)?)));
        let record = cluster.ledger.current();
        let waiting = cluster.waiting.as_ref();
        let limited = waiting.filter(|(_, until)| *until != Time::NEVER);
        let algorithm = joined.clone().find_map(|(_, c)| c.membership.as_ref());
        ClusterStatus {
            algorithm: algorithm.map(|m| m.algorithm.to_string()).unwrap_or_default(),
            epoch: cluster.epoch().0,
            holder: record.map(|r| r.nodes.iter().map(|n| n.0).collect()).unwrap_or_default(),
            view: record.map(|r| r.view.to_string()),
            waiting: waiting.map(|(wait, _)| wait.remedied()),
            waiting_ms: limited.map(|(_, until)| millis(now, *until)),
            intent: cluster.fencing.intent().map(|open| intent(now, cluster, open)),
            confirmed_off: cluster.fencing.off().map(|node| node.0).collect(),
            nodes: joined.map(|(n, c)| (n.0, client(now, cluster, c))).collect(),
        }
    }
}

fn client(now: Time, cluster: &Cluster, client: &Client) -> ClientStatus {
    let hold = client.node().map(|node| cluster.ledger.hold_until(node)).filter(|at| *at > now);
    ClientStatus {
        address: client.address.clone(),
        tls: matches!(client.transport, Transport::Secure(Some(_))),
        leases: client.is_own(),
        ring_id: client.ring().to_string(),
        members: client.members.iter().map(|node| node.0).collect(),
        vote: client.last_ack_nack.map(|vote| vote.to_string()),
        hold_ms: hold.filter(|at| *at != Time::NEVER).map(|at| millis(now, at)),
    }
}

fn intent(now: Time, cluster: &Cluster, open: &OpenIntent) -> IntentStatus {
    IntentStatus {
        requester: open.requester.0,
        condemned: open.condemned().map(|node| node.0).collect(),
        proven: open.proven.iter().map(|node| node.0).collect(),
        attested_ms: millis(cluster.fencing.attested(), now),
    }
}

fn stock_client(client: &Client) -> Option<StockClient> {
    let (is_secure, is_verified) = match &client.transport {
        Transport::Plain | Transport::Handshaking => (false, false),
        Transport::Secure(peer) => (true, peer.is_some()),
    };
    Some(StockClient {
        node: client.node()?,
        address: client.address.clone(),
        heartbeat_ms: client.heartbeat.as_millis(),
        config_version: client.config_version,
        config: client.config.clone(),
        ring: client.ring(),
        members: client.members.clone(),
        heuristics: client.heuristics,
        membership_heuristics: client.membership_heuristics,
        regular_heuristics: client.regular_heuristics,
        is_secure,
        is_verified,
        last_sent: client.last_sent,
        last_ack_nack: client.last_ack_nack,
    })
}

fn millis(now: Time, at: Time) -> u64 {
    u64::try_from(at.since(now).as_millis()).unwrap_or(u64::MAX)
}
