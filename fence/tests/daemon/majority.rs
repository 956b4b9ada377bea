//! Members in the arbiter's place, over real HTTPS: whose testimony is let in.

use std::collections::BTreeSet;

use certs::issue::Subject;
use protocol::fence::{Challenge, Nonce, Outcome, Progress, TargetRecord, Testimony};
use protocol::ids::{Epoch, NodeId, RingId, ViewId};

use crate::client::{Client, Lines, request};
use crate::site::{CLUSTER, Running, Site};

/// Nobody listens there.
const NOBODY: &str = "127.0.0.1:9";

/// A gateway of four nodes without its arbiter, and the way of nodes 1 to 4 to it.
async fn alone(site: &Site) -> (Running, Vec<Client>) {
    site.configure(NOBODY, &[(1, "n1"), (2, "n2"), (3, "n3"), (4, "n4")]);
    let gateway = site.start().await;
    let client = |node: u32| {
        let name = format!("node{node}");
        site.issue(&name, &Subject::Node { cluster: CLUSTER.to_owned(), node: NodeId(node) });
        Client::new(site, &name, gateway.ports.https)
    };
    let clients = (1..=4).map(client).collect();
    (gateway, clients)
}

/// The next challenge, or the end.
async fn challenge(lines: &mut Lines) -> Result<Challenge, Outcome> {
    loop {
        let line = lines.next().await.unwrap();
        match serde_json::from_str(&line).unwrap() {
            Progress::Challenge { challenge } => return Ok(challenge),
            Progress::Done { mut results } => return Err(results.remove(&NodeId(4)).unwrap()),
            Progress::Accepted { .. } | Progress::Step { .. } | Progress::Off { .. } => {}
        }
    }
}

fn testimony(nonce: Nonce, node: u32) -> Testimony {
    Testimony {
        nonce,
        node: NodeId(node),
        view: ViewId { ring: RingId::new(1, 4), nonce: u64::MAX },
        epoch: Epoch(7),
        members: BTreeSet::from([1, 2, 3].map(NodeId)),
        quorate: true,
        expected_votes: 5,
        targets: [(NodeId(4), TargetRecord::default())].into(),
    }
}

#[tokio::test]
async fn three_of_five_votes_have_a_node_fenced_without_the_arbiter() {
    let site = Site::new("majority");
    let (gateway, nodes) = alone(&site).await;
    let mut lines = nodes[0].post("/v1/fence", &request(&[4])).await;
    let mut nonces = BTreeSet::new();
    let outcome = loop {
        match challenge(&mut lines).await {
            Ok(challenge) => {
                assert_eq!(challenge.targets, [NodeId(4)].into());
                assert!(nonces.insert(challenge.nonce), "each is fresh");
                for (node, client) in (1..=3).zip(&nodes) {
                    let said = testimony(challenge.nonce, node);
                    let taken = client.post("/v1/attest", &said).await;
                    assert_eq!(taken.status, 202);
                }
            }
            Err(outcome) => break outcome,
        }
    };
    assert!(matches!(outcome, Outcome::Off { .. }), "{outcome:?}");
    assert!(nonces.len() >= 2, "asked again right before the command");
    assert_eq!((site.count("n4", "off"), site.count("n1", "off")), (1, 0));
    let journal = std::fs::read_to_string(site.path("state/fence.journal")).unwrap();
    assert!(journal.contains("\"majority\"") && journal.contains("\"untold\""), "{journal}");
    // Whoever speaks of it later speaks to nobody.
    for nonce in nonces {
        let late = nodes[1].post("/v1/attest", &testimony(nonce, 2)).await;
        assert_eq!(late.status, 404);
    }
    gateway.stop().await;
}

#[tokio::test]
async fn a_testimony_takes_the_certificate_of_the_node_that_it_is_of() {
    let site = Site::new("testimony");
    let (gateway, nodes) = alone(&site).await;
    let mut lines = nodes[0].post("/v1/fence", &request(&[4])).await;
    let nonce = challenge(&mut lines).await.unwrap().nonce;
    let heard = nodes[0].post("/v1/attest", &testimony(nonce, 1)).await;
    assert_eq!(heard.status, 202);
    let heard = nodes[1].post("/v1/attest", &testimony(nonce, 2)).await;
    assert_eq!(heard.status, 202);
    // The target, or anybody else, in the name of the member that is missing.
    let another = nodes[3].post("/v1/attest", &testimony(nonce, 3)).await;
    assert_eq!(another.status, 403);
    // A certificate that all nodes share, and that an operator may have.
    let shared = Client::new(&site, "cluster", gateway.ports.https);
    let refused = shared.post("/v1/attest", &testimony(nonce, 3)).await;
    assert_eq!(refused.status, 403);
    let why = refused.all().await.join("");
    assert!(why.contains("a certificate that is bound to its node"), "{why}");
    // A gateway's own does not even get so far.
    let own = Client::new(&site, "gateway", gateway.ports.https);
    let body = serde_json::to_vec(&testimony(nonce, 3)).unwrap();
    let refused = own.call(hyper::Method::POST, "/v1/attest", body).await;
    assert!(refused.is_err());
    // No words of ours, and of no challenge of this gateway.
    let junk = nodes[2].call(hyper::Method::POST, "/v1/attest", "{}").await.unwrap();
    assert_eq!(junk.status, 400);
    let unknown = nodes[2].post("/v1/attest", &testimony(Nonce(nonce.0 ^ 1), 3)).await;
    assert_eq!(unknown.status, 404);
    assert_eq!(site.told("n4"), [""; 0], "two of five votes are not more than half");
    let heard = nodes[2].post("/v1/attest", &testimony(nonce, 3)).await;
    assert_eq!(heard.status, 202);
    challenge(&mut lines).await.unwrap();
    gateway.kill().await;
}
