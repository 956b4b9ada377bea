//! The links between nodes over real QUIC, on loopback.

#![expect(clippy::unwrap_used, reason = "a step that fails ends its test")]

mod common;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use certs::issue::{Authority, Kind, Serial, Subject, Validity};
use certs::verify::{IdentityError, quic_identity};
use certs::{Credential, Trust, tls};
use protocol::ids::NodeId;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, ServerConfig};
use tokio::time::timeout;

use crate::common::now;

const PATIENCE: Duration = Duration::from_secs(20);
const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

struct Site(Authority);

impl Site {
    fn new() -> Self {
        Self(Authority::create(Kind::Own, Serial(1), Validity::starting(now())).unwrap())
    }

    fn trust(&self) -> Trust {
        Trust::new(vec![self.0.certificate().clone()]).unwrap()
    }

    fn node(&self, cluster: &str, node: u32) -> Credential {
        let subject = Subject::Node { cluster: cluster.to_owned(), node: NodeId(node) };
        let serial = Serial(u64::from(node) + 1);
        let issued = self.0.issue(&subject, serial, Validity::starting(now())).unwrap();
        Credential::from_pem(issued.chain_pem.as_bytes(), issued.key_pem.as_bytes()).unwrap()
    }
}

fn listen(site: &Site, own: &Credential, cluster: &str) -> Endpoint {
    let config = tls::mesh_server(&site.trust(), own, &cluster.into()).unwrap();
    let config = QuicServerConfig::try_from(config).unwrap();
    Endpoint::server(ServerConfig::with_crypto(Arc::new(config)), ANY_PORT).unwrap()
}

/// Node 2 of "c" calls `server`, which must be node 1.
async fn call(
    site: &Site,
    own: &Credential,
    server: &Endpoint,
) -> Result<Connection, ConnectionError> {
    let config = tls::mesh_client(&site.trust(), own, &"c".into(), NodeId(1)).unwrap();
    let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()));
    let endpoint = Endpoint::client(ANY_PORT).unwrap();
    let address = server.local_addr().unwrap();
    let connecting = endpoint.connect_with(config, address, "node.invalid").unwrap();
    timeout(PATIENCE, connecting).await.unwrap()
}

async fn accept(server: &Endpoint) -> Result<Connection, ConnectionError> {
    let incoming = timeout(PATIENCE, server.accept()).await.unwrap().unwrap();
    timeout(PATIENCE, incoming).await.unwrap()
}

#[tokio::test]
async fn both_nodes_know_each_other_over_quic() {
    let site = Site::new();
    let server = listen(&site, &site.node("c", 1), "c");
    let own = site.node("c", 2);
    let (there, here) = tokio::join!(accept(&server), call(&site, &own, &server));
    let (there, here) = (there.unwrap(), here.unwrap());
    let caller = quic_identity(there.peer_identity()).unwrap();
    assert_eq!(caller.may_act_as(&"c".into(), Some(NodeId(2))), Ok(()));
    assert_eq!(
        caller.may_act_as(&"c".into(), Some(NodeId(3))),
        Err(IdentityError::OtherNode { want: NodeId(3), got: NodeId(2) })
    );
    let called = quic_identity(here.peer_identity()).unwrap();
    assert_eq!(called.may_act_as(&"c".into(), Some(NodeId(1))), Ok(()));
    // Both ends stay until each has seen the other.
    drop((there, here));
}

#[tokio::test]
async fn another_node_another_cluster_and_another_authority_are_refused_over_quic() {
    let site = Site::new();
    let own = site.node("c", 2);
    let foreign = Site::new();
    let servers = [
        listen(&site, &site.node("c", 3), "c"),
        listen(&site, &site.node("d", 1), "d"),
        listen(&foreign, &foreign.node("c", 1), "c"),
    ];
    for server in servers {
        let (_, here) = tokio::join!(accept(&server), call(&site, &own, &server));
        assert!(matches!(here, Err(ConnectionError::TransportError(_))), "{here:?}");
    }
}

#[tokio::test]
async fn a_caller_of_another_cluster_is_refused_over_quic() {
    let site = Site::new();
    let server = listen(&site, &site.node("c", 1), "c");
    let own = site.node("d", 2);
    let (there, here) = tokio::join!(accept(&server), call(&site, &own, &server));
    assert!(there.is_err());
    // In TLS 1.3 the caller hears it afterwards.
    if let Ok(here) = here {
        timeout(PATIENCE, here.closed()).await.unwrap();
    }
}
