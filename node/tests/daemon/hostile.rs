//! Peers that have a certificate of the cluster and mean no good, and callers that have none.

use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use certs::issue::{Issued, Subject};
use certs::{Credential, tls};
use protocol::cluster::Beat;
use protocol::ids::{BootId, Epoch, InstanceId, NodeId};
use protocol::vote::Bound;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint};
use tokio::time::timeout;

use crate::site::{PATIENCE, Site, issue, member};

fn beat(from: u32) -> Beat {
    Beat {
        from: NodeId(from),
        instance: InstanceId(1),
        boot: BootId(1),
        config_digest: 0,
        seq: 1,
        answers: None,
        contacts: Vec::new(),
        highest_epoch: Epoch(0),
        ring_seq: 0,
        view: None,
        proposal: None,
        accepted: None,
        bound: Bound::default(),
        placement: None,
        placing: None,
        running: false,
        leaving: false,
        off: Vec::new(),
        challenge: None,
    }
}

/// Calls node 3 of the site with the certificate of `issued`.
async fn call(site: &Site, issued: &Issued) -> (Endpoint, Connection) {
    let trust = certs::Trust::new(vec![site.authority.certificate().clone()]).unwrap();
    let chain = issued.chain_pem.as_bytes();
    let own = Credential::from_pem(chain, issued.key_pem.as_bytes()).unwrap();
    let config = tls::mesh_client(&trust, &own, &"c".into(), NodeId(3)).unwrap();
    let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()));
    let endpoint = Endpoint::client((site.address(99, 0).ip(), 0).into()).unwrap();
    let connecting = endpoint.connect_with(config, site.address(3, 0), "node.invalid").unwrap();
    let connection = timeout(PATIENCE, connecting).await.unwrap().unwrap();
    (endpoint, connection)
}

#[tokio::test]
async fn a_peer_speaks_for_nobody_but_itself() {
    let site = Site::new();
    site.configure(3, "");
    let three = site.start(3);
    three.until(PATIENCE, "a status", |_| true).await;
    let issued = issue(&site.authority, &member("c", 1), 50);
    let (_endpoint, connection) = call(&site, &issued).await;
    for nonsense in [Vec::new(), vec![1], vec![0xff; 1100], beat(2).encode().unwrap()] {
        connection.send_datagram(nonsense.into()).unwrap();
    }
    let mut longer = beat(1).encode().unwrap();
    longer.push(0);
    connection.send_datagram(longer.into()).unwrap();
    // Datagrams of one connection on one machine come in order: when this one has come, so have
    // the others.
    connection.send_datagram(beat(1).encode().unwrap().into()).unwrap();
    let heard = three.until(PATIENCE, "node 1 heard", |s| s.peers[&1].silent_ms.is_some()).await;
    assert_eq!(heard.peers[&2].silent_ms, None, "a beat in node 2's name was dropped");
    assert!(heard.peers[&1].links[&0].connected);
    assert!(connection.close_reason().is_none());
}

#[tokio::test]
async fn callers_that_are_no_lower_peer_are_closed_with_the_reason() {
    let site = Site::new();
    site.configure(3, "");
    let three = site.start(3);
    three.until(PATIENCE, "a status", |_| true).await;
    let cases = [
        // The whole cluster's certificate, as stock tools issue it: anyone's word for anyone.
        (Subject::Cluster("c".to_owned()), "bound to no node"),
        // A node that is not configured, a copy of the own certificate.
        (member("c", 9), "no configured peer"),
        (member("c", 3), "copied certificate"),
    ];
    for (subject, words) in cases {
        let issued = issue(&site.authority, &subject, 60);
        let (_endpoint, connection) = call(&site, &issued).await;
        let closed = timeout(PATIENCE, connection.closed()).await.unwrap().to_string();
        assert!(closed.contains(words), "{closed}");
    }
    // The arbiter's own certificate has another name, which TLS refuses.
    let issued = issue(&site.authority, &Subject::Server, 61);
    let (_endpoint, connection) = call(&site, &issued).await;
    timeout(PATIENCE, connection.closed()).await.unwrap();
    let alone = three.status().await.unwrap();
    assert!(alone.peers.values().all(|peer| peer.silent_ms.is_none()), "{alone:?}");
}

#[tokio::test]
async fn a_newer_connection_of_a_peer_replaces_the_older() {
    let site = Site::new();
    site.configure(3, "");
    let three = site.start(3);
    three.until(PATIENCE, "a status", |_| true).await;
    let issued = issue(&site.authority, &member("c", 1), 50);
    let (_first, old) = call(&site, &issued).await;
    old.send_datagram(beat(1).encode().unwrap().into()).unwrap();
    three.until(PATIENCE, "the first", |s| s.peers[&1].links[&0].connected).await;
    let (_second, new) = call(&site, &issued).await;
    let closed = timeout(PATIENCE, old.closed()).await.unwrap().to_string();
    assert!(closed.contains("replaced"), "{closed}");
    new.send_datagram(beat(1).encode().unwrap().into()).unwrap();
    three.until(PATIENCE, "the second", |s| s.peers[&1].links[&0].connected).await;
    // Silence ends it.
    drop(new);
    three.until(PATIENCE, "down", |s| !s.peers[&1].links[&0].connected).await;
}

#[tokio::test]
async fn a_flood_of_what_is_no_quic_does_not_disturb_a_view() {
    let site = Site::new();
    let nodes = crate::site::pair(&site).await;
    let view = nodes[1].status().await.unwrap().view;
    let stranger = UdpSocket::bind((site.address(99, 0).ip(), 0)).unwrap();
    let mut bytes = [0_u8; 1200];
    for round in 0..3000_u32 {
        bytes[..4].copy_from_slice(&round.to_be_bytes());
        // Half of them look like the first packet of a connection (RFC 9000 17.2).
        bytes[0] = if round % 2 == 0 { 0xc0 } else { 0x40 };
        bytes[1..5].copy_from_slice(&1_u32.to_be_bytes());
        stranger.send_to(&bytes, site.address(2, 0)).unwrap();
        if round % 100 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let quiet = Duration::from_secs(3);
    for node in &nodes {
        let after = node.until(quiet, "still quorate", |s| s.quorate).await;
        assert_eq!(after.view, view);
    }
}
