use std::sync::Arc;

use protocol::ids::NodeId;
use rcgen::{DistinguishedName, DnType};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::ArbiterTls;
use crate::arbiter_tls::ClientCert;
use crate::fixtures::{CLUSTER, PATIENCE, Site, cluster, expired, not_yet, shake};
use crate::issue::{Kind, Subject};
use crate::verify::Identity;

/// What a client of `site` says to a server that shows `own`, in both protocol versions.
async fn verdicts(site: &Site, own: &Credential) -> [ConnectError; 2] {
    let arbiter = ArbiterTls::new(&site.trust(), own, ClientCert::Required).unwrap();
    let shown = site.credential(&cluster());
    let (_, modern) = shake(&arbiter, &site.client_speaking(Some(&shown), &TLS13), 65536).await;
    let (_, old) = shake(&arbiter, &site.client_speaking(Some(&shown), &TLS12), 65536).await;
    [modern.unwrap_err(), old.unwrap_err()]
}

#[tokio::test]
async fn an_expired_server_certificate_is_refused() {
    let site = Site::new(Kind::Own);
    for verdict in verdicts(&site, &site.credential_valid(&Subject::Server, expired())).await {
        assert!(verdict.to_string().contains("expired"), "{verdict}");
    }
}

#[tokio::test]
async fn a_server_certificate_that_is_not_valid_yet_is_refused() {
    let site = Site::new(Kind::Own);
    for verdict in verdicts(&site, &site.credential_valid(&Subject::Server, not_yet())).await {
        assert!(verdict.to_string().contains("not valid yet"), "{verdict}");
    }
}

#[tokio::test]
async fn a_server_of_another_authority_with_the_same_name_is_refused() {
    let site = Site::new(Kind::Stock);
    let foreign = Site::new(Kind::Stock).credential(&Subject::Server);
    for verdict in verdicts(&site, &foreign).await {
        assert!(matches!(verdict, ConnectError::Certificate(_)), "{verdict:?}");
    }
}

#[tokio::test]
async fn a_cluster_cannot_pass_for_the_arbiter() {
    // In the stock format nothing but the name keeps a cluster's certificate from it.
    let site = Site::new(Kind::Stock);
    for verdict in verdicts(&site, &site.credential(&cluster())).await {
        let ConnectError::Identity(IdentityError::OtherName { want, got }) = verdict else {
            panic!("{verdict:?}")
        };
        assert_eq!((want, got), ("Qnetd Server".into(), CLUSTER.into()));
    }
}

#[tokio::test]
async fn the_servers_name_is_compared_with_case_and_without_wildcards() {
    let site = Site::new(Kind::Own);
    for name in ["qnetd server", "Qnetd*", "*", "Qnetd Server "] {
        let own = site.credential_with(|params| {
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, name);
        });
        for verdict in verdicts(&site, &own).await {
            assert!(matches!(verdict, ConnectError::Identity(_)), "{name:?}: {verdict:?}");
        }
    }
}

#[tokio::test]
async fn another_server_name_can_be_expected() {
    let site = Site::new(Kind::Own);
    let client =
        ArbiterClient::new(&site.trust(), Some(&site.credential(&cluster())), "Other").unwrap();
    let (_, client) = shake(&site.arbiter(ClientCert::Required), &client, 65536).await;
    assert!(matches!(client, Err(ConnectError::Identity(_))));
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_is_given_up_when_its_time_is_up() {
    let (near, _far) = duplex(65536);
    let outcome = Site::new(Kind::Own).client().connect(near, Duration::from_secs(4)).await;
    assert!(matches!(outcome, Err(ConnectError::Timeout(_))));
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_or_hangs_up_is_named_as_such() {
    let client = Site::new(Kind::Own).client();
    let (near, mut far) = duplex(65536);
    far.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await.unwrap();
    let outcome = client.connect(near, PATIENCE).await;
    assert!(matches!(outcome, Err(ConnectError::Protocol(_))), "{:?}", outcome.err());
    let (near, far) = duplex(65536);
    drop(far);
    let outcome = client.connect(near, PATIENCE).await;
    assert!(matches!(outcome, Err(ConnectError::Io(_))), "{:?}", outcome.err());
}

fn node(cluster: &str, node: u32) -> Subject {
    Subject::Node { cluster: cluster.to_owned(), node: NodeId(node) }
}

type Link = (
    io::Result<tokio_rustls::server::TlsStream<DuplexStream>>,
    io::Result<tokio_rustls::client::TlsStream<DuplexStream>>,
);

/// Lets two nodes meet as over QUIC, without the datagrams.
async fn meet(server: Arc<ServerConfig>, client: Arc<ClientConfig>) -> Link {
    let (near, far) = duplex(65536);
    let name = ServerName::try_from("any.invalid").unwrap();
    tokio::join!(
        TlsAcceptor::from(server).accept(near),
        TlsConnector::from(client).connect(name, far)
    )
}

/// What a node of `CLUSTER` says as a client that wants node 1 and meets `own`.
async fn mesh_verdict(site: &Site, own: &Credential, name: &str) -> Option<ConnectError> {
    let server = mesh_server(&site.trust(), own, &name.into()).unwrap();
    let shown = site.credential(&node(CLUSTER, 2));
    let client = mesh_client(&site.trust(), &shown, &CLUSTER.into(), NodeId(1)).unwrap();
    meet(server, client).await.1.err().map(connect_error)
}

#[tokio::test]
async fn two_nodes_of_a_cluster_meet_and_know_each_other() {
    let site = Site::new(Kind::Own);
    let own = site.credential(&node(CLUSTER, 1));
    let server = mesh_server(&site.trust(), &own, &CLUSTER.into()).unwrap();
    let shown = site.credential(&node(CLUSTER, 2));
    let client = mesh_client(&site.trust(), &shown, &CLUSTER.into(), NodeId(1)).unwrap();
    let (server, client) = meet(server, client).await;
    let (server, client) = (server.unwrap(), client.unwrap());
    assert_eq!(server.get_ref().1.alpn_protocol(), Some(MESH_ALPN));
    assert_eq!(client.get_ref().1.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    let peer = Identity::from_der(&server.get_ref().1.peer_certificates().unwrap()[0]).unwrap();
    assert_eq!(peer.may_act_as(&CLUSTER.into(), Some(NodeId(2))), Ok(()));
    assert!(peer.may_act_as(&CLUSTER.into(), Some(NodeId(3))).is_err());
}

#[tokio::test]
async fn a_node_meets_only_the_node_that_it_wants() {
    let site = Site::new(Kind::Own);
    let wrong = site.credential(&node(CLUSTER, 3));
    let verdict = mesh_verdict(&site, &wrong, CLUSTER).await;
    let expected = IdentityError::OtherNode { want: NodeId(1), got: NodeId(3) };
    assert!(
        matches!(&verdict, Some(ConnectError::Identity(reason)) if *reason == expected),
        "{verdict:?}"
    );
    assert!(mesh_verdict(&site, &site.credential(&node(CLUSTER, 1)), CLUSTER).await.is_none());
    // A certificate that all nodes share is bound to none of them.
    assert!(mesh_verdict(&site, &site.credential(&cluster()), CLUSTER).await.is_none());
}

#[tokio::test]
async fn a_node_of_another_cluster_or_authority_is_refused_by_the_client() {
    let site = Site::new(Kind::Own);
    let other = site.credential(&node("other", 1));
    let verdict = mesh_verdict(&site, &other, "other").await;
    assert!(matches!(verdict, Some(ConnectError::Identity(_))), "{verdict:?}");
    let foreign = Site::new(Kind::Own).credential(&node(CLUSTER, 1));
    let verdict = mesh_verdict(&site, &foreign, CLUSTER).await;
    assert!(matches!(verdict, Some(ConnectError::Certificate(_))), "{verdict:?}");
    let arbiter = site.credential(&Subject::Server);
    let verdict = mesh_verdict(&site, &arbiter, CLUSTER).await;
    assert!(matches!(verdict, Some(ConnectError::Identity(_))), "{verdict:?}");
}

#[tokio::test]
async fn a_node_of_another_cluster_or_authority_is_refused_by_the_server() {
    let site = Site::new(Kind::Own);
    let own = site.credential(&node(CLUSTER, 1));
    let foreign = Site::new(Kind::Own).credential(&node(CLUSTER, 2));
    let old = site.credential_valid(&node(CLUSTER, 2), expired());
    for shown in [site.credential(&node("other", 2)), foreign, old] {
        let server = mesh_server(&site.trust(), &own, &CLUSTER.into()).unwrap();
        let client = mesh_client(&site.trust(), &shown, &CLUSTER.into(), NodeId(1)).unwrap();
        let (server, client) = meet(server, client).await;
        assert!(server.is_err());
        // In TLS 1.3 the client hears it with its first read.
        assert!(client.unwrap().read_u8().await.is_err());
    }
}

#[tokio::test]
async fn a_node_without_a_certificate_or_with_tls_1_2_is_refused() {
    let site = Site::new(Kind::Own);
    let own = site.credential(&node(CLUSTER, 1));
    let server = mesh_server(&site.trust(), &own, &CLUSTER.into()).unwrap();
    let wanted = Expected::Node(CLUSTER.into(), NodeId(1));
    let nobody = client_config(&site.trust(), None, wanted.clone(), &[&TLS13]).unwrap();
    assert!(meet(Arc::clone(&server), Arc::new(nobody)).await.0.is_err());
    let shown = site.credential(&node(CLUSTER, 2));
    let old = client_config(&site.trust(), Some(&shown), wanted, &[&TLS12]).unwrap();
    assert!(meet(server, Arc::new(old)).await.0.is_err());
}

#[tokio::test]
async fn a_gateway_believes_members_and_is_believed_as_gateway_only() {
    let site = Site::new(Kind::Own);
    let (trust, name) = (site.trust(), CLUSTER.into());
    let gateway = site.credential(&Subject::Gateway(CLUSTER.to_owned()));
    let member = site.credential(&node(CLUSTER, 1));
    let server = |own| gateway_server(&trust, own, &name).unwrap();
    let client = |own| gateway_client(&trust, own, &name).unwrap();
    let (heard, told) = meet(server(&gateway), client(&member)).await;
    let shown = heard.unwrap();
    let shown = Identity::from_der(&shown.get_ref().1.peer_certificates().unwrap()[0]).unwrap();
    assert_eq!((shown.node, shown.gateway, told.is_ok()), (Some(NodeId(1)), false, true));
    // A node that stands in for the gateway, a gateway that stands in for a node, and a stranger.
    let (_, told) = meet(server(&member), client(&member)).await;
    assert!(told.is_err());
    let (heard, _) = meet(server(&gateway), client(&gateway)).await;
    assert!(heard.is_err());
    let stranger = site.credential(&node("other", 1));
    let (heard, _) = meet(server(&gateway), client(&stranger)).await;
    assert!(heard.is_err());
}
