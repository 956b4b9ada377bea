use std::io;

use rcgen::{DistinguishedName, DnType, DnValue, SanType};
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::*;
use crate::fixtures::{CLUSTER, PATIENCE, Site, cluster, connection, expired, not_yet, shake};
use crate::issue::{Kind, Subject};
use crate::tls::ConnectError;
use protocol::ids::NodeId;

/// What corosync-qdevice 3.0.3 with NSS 3.87 sends first, server name "Qnetd Server" and all.
const NSS_CLIENT_HELLO: &[u8] = include_bytes!("../../tests/data/nss-clienthello.bin");

#[tokio::test]
async fn the_stock_clients_hello_is_answered_with_a_server_hello() {
    let arbiter = Site::new(Kind::Stock).arbiter(ClientCert::Required);
    let (near, mut far) = duplex(65536);
    let client = async {
        let mut start = [0; 6];
        far.read_exact(&mut start).await.unwrap();
        drop(far);
        start
    };
    let (outcome, start) =
        tokio::join!(arbiter.accept(near, NSS_CLIENT_HELLO.to_vec(), PATIENCE), client);
    // Record type handshake (22), then message type server_hello (2); an alert would be 21.
    assert_eq!((start[0], start[5]), (22, 2));
    assert!(matches!(outcome, Err(AcceptError::Closed | AcceptError::Io(_))), "{outcome:?}");
}

#[tokio::test]
async fn both_sides_prove_themselves_in_tls_1_3_and_1_2() {
    for kind in [Kind::Own, Kind::Stock] {
        let site = Site::new(kind);
        let arbiter = site.arbiter(ClientCert::Required);
        let own = site.credential(&cluster());
        for (version, name) in [(&TLS13, "TLSv1.3"), (&TLS12, "TLSv1.2")] {
            let client = site.client_speaking(Some(&own), version);
            let (server, client) = shake(&arbiter, &client, 65536).await;
            let (mut server, mut client) = (server.unwrap(), client.unwrap());
            assert_eq!(server.version(), name);
            let peer = server.peer().unwrap();
            assert_eq!((&peer.cluster, peer.node), (&CLUSTER.into(), None));
            client.write_all(b"ask").await.unwrap();
            server.write_all(b"answer").await.unwrap();
            let mut heard = [0; 3];
            server.read_exact(&mut heard).await.unwrap();
            assert_eq!(&heard, b"ask");
            let mut heard = [0; 6];
            client.read_exact(&mut heard).await.unwrap();
            assert_eq!(&heard, b"answer");
        }
    }
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused_and_told() {
    let site = Site::new(Kind::Own);
    let arbiter = site.arbiter(ClientCert::Required);
    for version in [&TLS13, &TLS12] {
        let client = site.client_speaking(None, version);
        let (server, client) = shake(&arbiter, &client, 65536).await;
        assert!(matches!(server, Err(AcceptError::NoCertificate)), "{server:?}");
        // In TLS 1.3 the client hears it with its first read.
        let told = match client {
            Ok(mut client) => client.read_u8().await.unwrap_err().to_string(),
            Err(error) => error.to_string(),
        };
        assert!(told.contains("CertificateRequired"), "{told}");
    }
}

#[tokio::test]
async fn an_optional_certificate_gives_an_identity_only_when_shown() {
    let site = Site::new(Kind::Own);
    let arbiter = site.arbiter(ClientCert::Optional);
    let (server, _client) = shake(&arbiter, &site.client_showing(None), 65536).await;
    assert_eq!(server.unwrap().peer(), None);
    let (server, _client) = shake(&arbiter, &site.client(), 65536).await;
    assert_eq!(server.unwrap().peer().unwrap().cluster, CLUSTER.into());
    let foreign = Site::new(Kind::Own).credential(&cluster());
    let (server, _client) = shake(&arbiter, &site.client_showing(Some(&foreign)), 65536).await;
    assert!(matches!(server, Err(AcceptError::Certificate(_))), "{server:?}");
}

#[tokio::test]
async fn a_certificate_that_is_not_requested_gives_no_identity() {
    let site = Site::new(Kind::Own);
    let arbiter = site.arbiter(ClientCert::NotRequested);
    let (server, _client) = shake(&arbiter, &site.client(), 65536).await;
    assert_eq!(server.unwrap().peer(), None);
}

/// What the arbiter says to a client that shows `own`, in both protocol versions. The older one
/// has the client wait for the verdict, so there it must hear it in the handshake.
async fn verdicts(site: &Site, own: &Credential) -> [AcceptError; 2] {
    let arbiter = site.arbiter(ClientCert::Required);
    let (modern, _) = shake(&arbiter, &site.client_speaking(Some(own), &TLS13), 65536).await;
    let (old, told) = shake(&arbiter, &site.client_speaking(Some(own), &TLS12), 65536).await;
    assert!(matches!(told, Err(ConnectError::ByServer(_))), "{:?}", told.err());
    [modern.unwrap_err(), old.unwrap_err()]
}

#[tokio::test]
async fn a_client_of_another_authority_with_the_same_name_is_refused() {
    let site = Site::new(Kind::Stock);
    let foreign = Site::new(Kind::Stock).credential(&cluster());
    for verdict in verdicts(&site, &foreign).await {
        assert!(matches!(verdict, AcceptError::Certificate(_)), "{verdict:?}");
    }
}

#[tokio::test]
async fn an_expired_client_certificate_is_refused() {
    let site = Site::new(Kind::Own);
    for verdict in verdicts(&site, &site.credential_valid(&cluster(), expired())).await {
        assert!(verdict.to_string().contains("expired"), "{verdict}");
    }
}

#[tokio::test]
async fn a_client_certificate_that_is_not_valid_yet_is_refused() {
    let site = Site::new(Kind::Own);
    for verdict in verdicts(&site, &site.credential_valid(&cluster(), not_yet())).await {
        assert!(verdict.to_string().contains("not valid yet"), "{verdict}");
    }
}

#[tokio::test]
async fn the_arbiters_own_certificate_is_no_client_certificate() {
    let site = Site::new(Kind::Own);
    for verdict in verdicts(&site, &site.credential(&Subject::Server)).await {
        assert!(matches!(verdict, AcceptError::Certificate(_)), "{verdict:?}");
    }
}

fn common_names(names: &[DnValue]) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    // The library keeps one value for each type, so a second name has the type in another guise.
    for (index, name) in names.iter().enumerate() {
        let kind = match index {
            0 => DnType::CommonName,
            _ => DnType::CustomDnType(vec![2, 5, 4, 3]),
        };
        subject.push(kind, name.clone());
    }
    subject
}

#[tokio::test]
async fn a_certificate_that_names_nobody_is_refused_in_the_handshake() {
    let site = Site::new(Kind::Own);
    let text = |name: &str| DnValue::Utf8String(name.to_owned());
    let cases = [
        (common_names(&[]), IdentityError::NoName),
        (common_names(&[text(CLUSTER), text("other")]), IdentityError::SeveralNames(2)),
        (common_names(&[text("Test\nCl")]), IdentityError::NameNotText),
        (
            common_names(&[DnValue::BmpString(CLUSTER.try_into().unwrap())]),
            IdentityError::NameNotText,
        ),
    ];
    for (subject, expected) in cases {
        let own = site.credential_with(|params| params.distinguished_name = subject);
        for verdict in verdicts(&site, &own).await {
            let AcceptError::Identity(reason) = verdict else { panic!("{verdict:?}") };
            assert_eq!(reason, expected);
        }
    }
}

#[tokio::test]
async fn a_malformed_or_double_node_identity_is_refused() {
    let site = Site::new(Kind::Own);
    let cases: [&[&str]; 4] = [
        &["urn:haguard:node:0"],
        &["urn:haguard:node:one"],
        &["urn:haguard:node:1", "urn:haguard:node:2"],
        &["urn:haguard:node:"],
    ];
    for uris in cases {
        let own = site.credential_with(|params| {
            params.distinguished_name = common_names(&[DnValue::Utf8String(CLUSTER.into())]);
            params.subject_alt_names =
                uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        });
        for verdict in verdicts(&site, &own).await {
            assert!(
                matches!(verdict, AcceptError::Identity(IdentityError::BadNode)),
                "{uris:?}: {verdict:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_node_certificate_gives_the_node() {
    let site = Site::new(Kind::Own);
    let arbiter = site.arbiter(ClientCert::Required);
    let subject = Subject::Node { cluster: CLUSTER.to_owned(), node: NodeId(2) };
    let client = site.client_showing(Some(&site.credential(&subject)));
    let (server, _client) = shake(&arbiter, &client, 65536).await;
    let server = server.unwrap();
    assert_eq!(server.peer().unwrap().node, Some(NodeId(2)));
    assert!(server.peer().unwrap().not_after > 0);
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_dropped_when_its_time_is_up() {
    let arbiter = Site::new(Kind::Own).arbiter(ClientCert::Required);
    let (near, _far) = duplex(65536);
    let limit = Duration::from_secs(8);
    let begun = tokio::time::Instant::now();
    let outcome = arbiter.accept(near, Vec::new(), limit).await;
    assert!(matches!(outcome, Err(AcceptError::Timeout(given)) if given == limit), "{outcome:?}");
    assert!(begun.elapsed() >= limit && begun.elapsed() < limit + Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_refused_client_that_reads_nothing_is_still_called_refused() {
    let arbiter = Site::new(Kind::Own).arbiter(ClientCert::Required);
    let (near, _far) = duplex(1);
    let junk = b"GET / HTTP/1.1\r\n\r\n".to_vec();
    let outcome = arbiter.accept(near, junk, Duration::from_secs(8)).await;
    assert!(matches!(outcome, Err(AcceptError::Protocol(_))), "{outcome:?}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_a_byte_a_second_gets_no_more_time() {
    let arbiter = Site::new(Kind::Own).arbiter(ClientCert::Required);
    let (near, mut far) = duplex(65536);
    let limit = Duration::from_secs(8);
    let dripping = async {
        let mut second = tokio::time::interval(Duration::from_secs(1));
        for byte in NSS_CLIENT_HELLO {
            second.tick().await;
            if far.write_all(&[*byte]).await.is_err() {
                break;
            }
        }
    };
    let begun = tokio::time::Instant::now();
    let outcome = tokio::select! {
        outcome = arbiter.accept(near, Vec::new(), limit) => outcome,
        () = dripping => panic!("the whole hello was taken"),
    };
    assert!(matches!(outcome, Err(AcceptError::Timeout(_))), "{outcome:?}");
    assert!(begun.elapsed() < limit + Duration::from_secs(1));
}

#[tokio::test]
async fn a_handshake_that_arrives_byte_by_byte_succeeds() {
    for version in [&TLS13, &TLS12] {
        let site = Site::new(Kind::Own);
        let client = site.client_speaking(Some(&site.credential(&cluster())), version);
        let (server, client) = shake(&site.arbiter(ClientCert::Required), &client, 1).await;
        assert!(server.is_ok() && client.is_ok(), "{server:?}");
    }
}

#[tokio::test]
async fn bytes_that_were_read_ahead_begin_the_handshake() {
    let site = Site::new(Kind::Own);
    let arbiter = site.arbiter(ClientCert::Required);
    let (mut near, far) = duplex(65536);
    let client = site.client();
    let server = async {
        let mut ahead = vec![0; 100];
        near.read_exact(&mut ahead).await.unwrap();
        arbiter.accept(near, ahead, PATIENCE).await
    };
    let (server, client) = tokio::join!(server, client.connect(far, PATIENCE));
    assert_eq!(server.unwrap().peer().unwrap().cluster, CLUSTER.into());
    client.unwrap();
}

#[tokio::test]
async fn more_read_ahead_than_any_client_sends_is_refused() {
    let arbiter = Site::new(Kind::Own).arbiter(ClientCert::Required);
    let (near, _far) = duplex(16);
    let outcome = arbiter.accept(near, vec![0x16; 40_000], PATIENCE).await;
    assert!(matches!(outcome, Err(AcceptError::TooMuchReadAhead(40_000))), "{outcome:?}");
}

#[tokio::test]
async fn a_peer_that_speaks_no_tls_gets_an_alert() {
    let arbiter = Site::new(Kind::Own).arbiter(ClientCert::Required);
    let (near, mut far) = duplex(65536);
    far.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let outcome = arbiter.accept(near, Vec::new(), PATIENCE).await;
    assert!(matches!(outcome, Err(AcceptError::Protocol(_))), "{outcome:?}");
    let mut answer = Vec::new();
    far.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer.first(), Some(&21), "an alert record: {answer:?}");
}

#[tokio::test]
async fn no_damaged_hello_panics_or_is_let_in() {
    let arbiter = Site::new(Kind::Own).arbiter(ClientCert::Required);
    for position in 0..NSS_CLIENT_HELLO.len() {
        for damage in [0x01, 0x80, 0xff] {
            let mut hello = NSS_CLIENT_HELLO.to_vec();
            hello[position] ^= damage;
            let (near, far) = duplex(65536);
            let (reader, mut writer) = tokio::io::split(far);
            writer.shutdown().await.unwrap();
            let outcome = arbiter.accept(near, hello, PATIENCE).await;
            assert!(outcome.is_err(), "byte {position}");
            drop(reader);
        }
    }
}

#[tokio::test]
async fn new_settings_hold_for_clones_and_later_connections() {
    let (old, new) = (Site::new(Kind::Own), Site::new(Kind::Own));
    let arbiter = old.arbiter(ClientCert::Required);
    let clone = arbiter.clone();
    let (early, _client) = shake(&clone, &old.client(), 65536).await;
    arbiter.replace(&new.arbiter(ClientCert::Required));
    let (late, _client) = shake(&clone, &old.client(), 65536).await;
    assert!(matches!(late, Err(AcceptError::ByClient(_))), "{late:?}");
    let (late, _client) = shake(&clone, &new.client(), 65536).await;
    assert!(late.is_ok() && early.is_ok());
}

#[tokio::test]
async fn settings_can_replace_themselves() {
    let site = Site::new(Kind::Own);
    let arbiter = site.arbiter(ClientCert::Required);
    arbiter.replace(&arbiter.clone());
    assert!(shake(&arbiter, &site.client(), 65536).await.0.is_ok());
}

#[tokio::test]
async fn nothing_is_resumed() {
    let site = Site::new(Kind::Own);
    let (server, client) = shake(&site.arbiter(ClientCert::Required), &site.client(), 65536).await;
    let (mut server, mut client) = (server.unwrap(), client.unwrap());
    server.write_all(b"x").await.unwrap();
    assert_eq!(client.read_u8().await.unwrap(), b'x');
    assert_eq!(client.get_ref().1.tls13_tickets_received(), 0);
}

#[tokio::test]
async fn settings_with_another_keys_certificate_are_refused() {
    let site = Site::new(Kind::Own);
    let (one, two) = (site.credential(&Subject::Server), site.credential(&Subject::Server));
    let pair = Credential::new(one.chain().to_vec(), two.key());
    assert_eq!(pair.unwrap_err(), crate::material::MaterialError::KeyMismatch);
}

#[tokio::test]
async fn the_peer_of_a_finished_connection_stays_known() {
    let (mut server, client) = connection(65536).await;
    drop(client);
    assert_eq!(server.read_u8().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(server.peer().unwrap().cluster, CLUSTER.into());
}
