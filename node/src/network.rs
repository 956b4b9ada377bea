//! The links between nodes: QUIC with mutual TLS, one connection for each peer and link, beats as
//! unreliable datagrams.
//!
//! Of two nodes the one with the lower id calls and the other answers, so there is one connection
//! and no race between two. Every beat goes out on all links that are connected; its sequence
//! number makes the copies harmless.
//!
//! Who a peer is was proven by its certificate (rule S9): signed by the cluster's authority, with
//! the cluster's name, and bound to one node id. A certificate that is bound to no node, as the
//! stock tools issue them for a whole cluster, is refused here: with it any node could speak for
//! any other. A beat that names another sender is dropped.
//!
//! Everything that a peer can make grow has a limit, and a beat that finds a full queue is lost,
//! which is what beats may be.

mod call;
mod peer;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use certs::tls::{mesh_client, mesh_server};
use certs::{Credential, TlsError, Trust};
use protocol::cluster::{Beat, MAX_BEAT_BYTES};
use protocol::ids::NodeId;
use protocol::rng::Rng;
use protocol::status::LinkStatus;
use quinn::congestion::NewRenoConfig;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    ClientConfig, Connection, Endpoint, EndpointConfig, IdleTimeout, ServerConfig, TokioRuntime,
    TransportConfig, VarInt,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::conf::ClusterConf;
use call::{Caller, Resolver};
use peer::Shared;

/// A connection without a packet for this long is over. Beats come twenty times as often.
const IDLE_MS: u32 = 2000;
/// The round-trip time that is assumed before one is measured: a lost handshake packet is sent
/// again after three times as long.
const FIRST_RTT: Duration = Duration::from_millis(50);
/// Beats that wait to be sent on one connection, in bytes; the oldest is dropped for a new one.
const SEND_BUFFER_BYTES: usize = 8 * MAX_BEAT_BYTES;
/// Beats that wait to be read on one connection, in bytes.
const RECEIVE_BUFFER_BYTES: usize = 32 * MAX_BEAT_BYTES;
/// Beats are few and their pace is ours, so congestion control must not hold them back.
const SEND_WINDOW_BYTES: u64 = 1 << 20;
/// What the tasks have found and the loop has not taken yet.
const EVENTS_MAX: usize = 256;
/// Connections that have sent a first packet and wait for an answer, on one link.
const INCOMING_MAX: usize = 32;
/// A connection with a beat this young is alive: nobody has a reason to replace it.
const LIVELY: Duration = Duration::from_secs(1);
/// How long the goodbye may take.
const GOODBYE: Duration = Duration::from_millis(200);
/// Close codes of this protocol (RFC 9000 20.2): the process ends.
const CLOSE_LEAVING: VarInt = VarInt::from_u32(0);
/// A newer connection has taken this one's place.
const CLOSE_REPLACED: VarInt = VarInt::from_u32(1);
/// The peer is not one that may connect here.
const CLOSE_REFUSED: VarInt = VarInt::from_u32(2);

/// Why the network cannot be used; the daemon does not start.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The address cannot be listened on.
    #[error(
        "link {link} cannot listen on {address}/udp: {source}; is another daemon running, or the address not this host's? see --listen"
    )]
    Listen {
        /// The link.
        link: u8,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The own address is a name that cannot be resolved.
    #[error(
        "ring{link}_addr {name:?} of this node cannot be resolved: {why}; correct it, or give --listen {link}=ADDRESS:PORT"
    )]
    Name {
        /// The link.
        link: u8,
        /// The name.
        name: String,
        /// What the resolver said.
        why: String,
    },
    /// An address is given for a link that the node does not have.
    #[error(
        "--listen names link {0}, and this node has no ring{0}_addr: correct the link's number"
    )]
    NoSuchLink(u8),
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// They have no cipher that QUIC needs.
    #[error("these certificates cannot be used with QUIC: issue them again")]
    Quic,
}

/// One link to one peer.
pub type LinkId = (NodeId, u8);

/// What the network's tasks have found; [`Network::take`] makes use of it.
#[derive(Debug)]
pub struct Event(peer::Found);

/// All links of a node.
#[derive(Debug)]
pub struct Network {
    endpoints: BTreeMap<u8, Endpoint>,
    links: BTreeMap<LinkId, Link>,
    found: mpsc::Receiver<peer::Found>,
    /// They end with the network.
    tasks: JoinSet<()>,
}

/// What is known of one link to one peer.
#[derive(Debug, Default)]
struct Link {
    connection: Option<Connection>,
    /// When the last beat came through this connection.
    heard: Option<Instant>,
    address: Option<SocketAddr>,
    /// Why there is no connection; what is logged once.
    problem: String,
}

impl Network {
    /// Listens on every link of node `me` and begins to call the peers.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub async fn open(
        conf: &ClusterConf,
        me: NodeId,
        listen: &BTreeMap<u8, SocketAddr>,
        trust: &Trust,
        own: &Credential,
        seed: u64,
    ) -> Result<Self, NetworkError> {
        let addresses = own_addresses(conf, me, listen).await?;
        let (events, found) = mpsc::channel(EVENTS_MAX);
        let transport = Arc::new(transport());
        let server = mesh_server(trust, own, &conf.cluster_name)?;
        let server = QuicServerConfig::try_from(server).map_err(|_| NetworkError::Quic)?;
        let mut server = ServerConfig::with_crypto(Arc::new(server));
        server.transport_config(Arc::clone(&transport)).max_incoming(INCOMING_MAX);
        let mut network = Self {
            endpoints: BTreeMap::new(),
            links: BTreeMap::new(),
            found,
            tasks: JoinSet::new(),
        };
        for (link, address) in addresses {
            let peers = conf.nodes.iter().map(|node| node.id).filter(|id| *id != me);
            let peers = peers.filter(|id| conf.common_links(me, *id).contains(&link));
            let (callers, called): (Vec<NodeId>, Vec<NodeId>) = peers.partition(|id| *id < me);
            let server = (!callers.is_empty()).then(|| server.clone());
            let endpoint = listen_on(link, address, server)?;
            let shared = Arc::new(Shared::new(conf.cluster_name.clone(), link, events.clone()));
            for peer in callers.iter().chain(&called) {
                network.links.insert((*peer, link), Link::default());
            }
            for peer in called {
                let tls = mesh_client(trust, own, &conf.cluster_name, peer)?;
                let tls = QuicClientConfig::try_from(tls).map_err(|_| NetworkError::Quic)?;
                let mut client = ClientConfig::new(Arc::new(tls));
                client.transport_config(Arc::clone(&transport));
                let name = conf.node(peer).and_then(|node| node.links.get(&link));
                let name = name.cloned().unwrap_or_default();
                let resolver = Resolver::new(name, conf.port(link), conf.totem.ip_version, address);
                let rng = Rng::new(seed ^ (u64::from(peer.0) << 8) ^ u64::from(link));
                let shared = Arc::clone(&shared);
                let caller =
                    Caller { shared, endpoint: endpoint.clone(), client, peer, resolver, rng };
                network.tasks.spawn(caller.run());
            }
            if !callers.is_empty() {
                network.tasks.spawn(peer::answer(shared, endpoint.clone(), callers));
            }
            network.endpoints.insert(link, endpoint);
        }
        if let Some(link) = listen.keys().find(|link| !network.endpoints.contains_key(link)) {
            return Err(NetworkError::NoSuchLink(*link));
        }
        Ok(network)
    }

    /// Sends bytes to a peer on every link that is connected. They may get lost.
    pub fn send(&self, to: NodeId, bytes: &[u8]) {
        for (_, link) in self.links.range((to, 0)..=(to, u8::MAX)) {
            if let Some(connection) = &link.connection {
                // A connection that has just ended is reported by its task.
                let _ = connection.send_datagram(bytes.to_vec().into());
            }
        }
    }

    /// The next event. Cancel safe.
    pub async fn next(&mut self) -> Event {
        match self.found.recv().await {
            Some(found) => Event(found),
            None => std::future::pending().await,
        }
    }

    /// Takes an event in; a beat comes out if it was one.
    pub fn take(&mut self, event: Event) -> Option<Box<Beat>> {
        match event.0 {
            peer::Found::Up { link, connection } => self.up(link, connection),
            peer::Found::Down { link, stable_id, why } => self.down(link, stable_id, why),
            peer::Found::Unreachable { link, address, why } => {
                self.unreachable(link, address, why);
            }
            peer::Found::Beat { link, stable_id, beat } => {
                self.prove(link, stable_id);
                return Some(beat);
            }
        }
        None
    }

    fn up(&mut self, id: LinkId, connection: Connection) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.address = Some(connection.remote_address());
        if let Some(old) = link.connection.replace(connection) {
            if link.heard.is_some_and(|at| at.elapsed() < LIVELY) {
                let (node, number) = id;
                warn!(
                    "node {node} has connected anew on link {number} though it was connected: it \
                     was restarted, or a second machine uses its certificate"
                );
            }
            old.close(CLOSE_REPLACED, b"replaced by a newer connection");
        }
        link.heard = None;
    }

    fn down(&mut self, id: LinkId, stable_id: usize, why: String) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let current = link.connection.as_ref().map(Connection::stable_id);
        if current != Some(stable_id) {
            return;
        }
        link.connection = None;
        if link.heard.take().is_some() {
            let (node, number) = id;
            warn!("link {number} to node {node} is down: {why}");
            link.problem = why;
        } else {
            let address = link.address;
            self.unreachable(id, address, why);
        }
    }

    /// One line for each new reason, not for each attempt.
    fn unreachable(&mut self, id: LinkId, address: Option<SocketAddr>, why: String) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.address = address.or(link.address);
        if link.problem != why {
            let (node, number) = id;
            let place = link.address.map(|address| format!(" at {address}")).unwrap_or_default();
            warn!("node {node}{place} cannot be reached on link {number}: {why}");
            link.problem = why;
        }
    }

    /// A handshake alone proves little to the caller: the other side judges its certificate later.
    fn prove(&mut self, id: LinkId, stable_id: usize) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let Some(connection) = &link.connection else { return };
        if connection.stable_id() == stable_id && link.heard.replace(Instant::now()).is_none() {
            link.problem.clear();
            let (node, number) = id;
            info!("link {number} to node {node} is up at {}", connection.remote_address());
        }
    }

    /// The links to a peer, for status.
    pub fn status(&self, peer: NodeId) -> BTreeMap<u8, LinkStatus> {
        let links = self.links.range((peer, 0)..=(peer, u8::MAX));
        links.map(|((_, number), link)| (*number, link.status())).collect()
    }

    /// Where the links listen.
    pub fn addresses(&self) -> BTreeMap<u8, SocketAddr> {
        let endpoints = self.endpoints.iter();
        endpoints.filter_map(|(link, end)| Some((*link, end.local_addr().ok()?))).collect()
    }

    /// Tells the peers that this node ends, so that they need not wait for silence.
    pub async fn close(self) {
        for endpoint in self.endpoints.values() {
            endpoint.close(CLOSE_LEAVING, b"this node leaves");
        }
        let idle = async {
            for endpoint in self.endpoints.values() {
                endpoint.wait_idle().await;
            }
        };
        // Who does not hear it will notice the silence.
        let _ = tokio::time::timeout(GOODBYE, idle).await;
    }
}

impl Link {
    fn status(&self) -> LinkStatus {
        let up = self.connection.as_ref().filter(|_| self.heard.is_some());
        let path = up.map(|connection| connection.stats().path);
        LinkStatus {
            connected: up.is_some(),
            address: self.address.map(|address| address.to_string()).unwrap_or_default(),
            rtt_us: path.map(|path| u64::try_from(path.rtt.as_micros()).unwrap_or(u64::MAX)),
            sent: path.map_or(0, |path| path.sent_packets),
            lost: path.map_or(0, |path| path.lost_packets),
            problem: self.problem.clone(),
        }
    }
}

fn listen_on(
    link: u8,
    address: SocketAddr,
    server: Option<ServerConfig>,
) -> Result<Endpoint, NetworkError> {
    let failed = |source| NetworkError::Listen { link, address, source };
    let socket = std::net::UdpSocket::bind(address).map_err(failed)?;
    Endpoint::new(EndpointConfig::default(), server, socket, Arc::new(TokioRuntime)).map_err(failed)
}

/// Where this node listens, by link.
async fn own_addresses(
    conf: &ClusterConf,
    me: NodeId,
    listen: &BTreeMap<u8, SocketAddr>,
) -> Result<BTreeMap<u8, SocketAddr>, NetworkError> {
    let mut addresses = BTreeMap::new();
    for (link, name) in conf.node(me).map(|node| &node.links).into_iter().flatten() {
        let address = match listen.get(link) {
            Some(address) => *address,
            None => call::resolve(name, conf.port(*link), conf.totem.ip_version)
                .await
                .map_err(|why| NetworkError::Name { link: *link, name: name.clone(), why })?,
        };
        addresses.insert(*link, address);
    }
    Ok(addresses)
}

fn transport() -> TransportConfig {
    let mut congestion = NewRenoConfig::default();
    congestion.initial_window(SEND_WINDOW_BYTES);
    let mut transport = TransportConfig::default();
    transport
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_MS))))
        // Beats keep it alive; a node that has none to send is not alive.
        .keep_alive_interval(None)
        .initial_rtt(FIRST_RTT)
        // A beat fits the smallest datagram that QUIC allows.
        .mtu_discovery_config(None)
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(Some(RECEIVE_BUFFER_BYTES))
        .datagram_send_buffer_size(SEND_BUFFER_BYTES)
        .congestion_controller_factory(Arc::new(congestion));
    transport
}
