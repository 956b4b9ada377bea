//! The daemon between scripted clients and Debian's corosync-qnetd.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use protocol::qnet::MessageType;
use protocol::vote::Vote;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use crate::client::Client;
use crate::script::{cases, play};
use crate::stock::Stock;
use crate::through::{Through, reasons, together};

const PLAIN: &[&str] = &["-s", "off"];

/// A vote info of ACK, up to its ring, and where its vote is (wire 9).
const VOTE_AT: usize = 18;

#[tokio::test]
async fn what_clients_hear_through_it_is_what_the_stock_daemon_says() {
    for case in cases() {
        let (Some(direct), Some(stock)) = (Stock::start(PLAIN).await, Stock::start(PLAIN).await)
        else {
            return;
        };
        let through = Through::start(stock.address, "-s off").await;
        let expected = play(direct.address, &case.steps).await;
        assert_eq!(play(through.address, &case.steps).await, expected, "{}", case.name);
    }
}

#[tokio::test]
async fn an_agreement_is_silent() {
    let Some(stock) = Stock::start(PLAIN).await else { return };
    let through = Through::start(stock.address, "-s off").await;
    let mut nodes = together(through.address, &[1, 2]).await;
    nodes[0].report(&[1], 8).await;
    nodes[1].report(&[2], 8).await;
    nodes[1].hear(Vote::Nack).await;
    nodes[0].hear(Vote::Ack).await;
    // Longer than it takes to report a difference.
    tokio::time::sleep(qnetd::shadow::core::SETTLING * 2).await;
    assert!(through.asks("status").await.contains("\n0 differences"));
    let summary = through.stop().await;
    assert_eq!(summary.differences, 0);
    assert!(nodes[0].client.is_closed().await);
}

/// Wire 8.8: four nodes split 2:2, node 1 disconnects, and the stock daemon leaves the vote with
/// its half, which has fewer clients now.
#[tokio::test]
async fn the_stock_daemons_wrong_decision_is_reported_as_the_correction_of_8_8() {
    let Some(stock) = Stock::start(PLAIN).await else { return };
    let through = Through::start(stock.address, "-s off").await;
    let mut nodes = together(through.address, &[1, 2, 3, 4]).await;
    for node in &mut nodes {
        let members: &[u32] = if node.id < 3 { &[1, 2] } else { &[3, 4] };
        node.report(members, 8).await;
    }
    for (node, vote) in [(2, Vote::Nack), (3, Vote::Nack), (0, Vote::Ack), (1, Vote::Ack)] {
        nodes[node].hear(vote).await;
    }
    drop(nodes.remove(0));
    for (node, vote) in [(1, Vote::Nack), (2, Vote::Nack), (0, Vote::Ack)] {
        nodes[node].hear(vote).await;
    }
    let lines = through.lines(3).await;
    let reason = |node| (node, "correction".to_owned(), "departing-not-counted".to_owned());
    assert_eq!(reasons(&lines), [reason(2), reason(3), reason(4)], "{lines:#?}");
    assert!(lines.iter().all(|line| line["difference"]["hazard"] == "8.8"), "{lines:#?}");
    let keeper = lines.iter().find(|line| line["node"] == 2).unwrap();
    let told = (&keeper["difference"]["stock"], &keeper["difference"]["decided"]);
    assert_eq!((told.0.as_str(), told.1.as_str()), (Some("ack"), Some("nack")));
    let status = through.asks("status").await;
    assert!(status.contains("correction departing-not-counted (8.8)"), "{status}");
    let summary = through.stop().await;
    assert_eq!((summary.corrections, summary.bugs), (3, 0));
}

/// Between the daemon and the stock one: turns each ACK of a vote info into a NACK, while it is
/// told to.
struct Forger {
    address: SocketAddr,
    forges: Arc<AtomicBool>,
}

impl Forger {
    async fn start(stock: SocketAddr) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = port.local_addr().unwrap();
        let forges = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&forges);
        tokio::spawn(async move {
            while let Ok((client, _)) = port.accept().await {
                let stock = TcpStream::connect(stock).await.unwrap();
                tokio::spawn(forge(client, stock, Arc::clone(&asked)));
            }
        });
        Self { address, forges }
    }
}

async fn forge(client: TcpStream, stock: TcpStream, forges: Arc<AtomicBool>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (from_stock, mut to_stock) = stock.into_split();
    tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_stock).await });
    let mut stock = Client::over(tokio::io::join(from_stock, tokio::io::sink()));
    while let Some(mut message) = stock.receive_bytes().await {
        let is_vote = message[..2] == (MessageType::VoteInfo as u16).to_be_bytes();
        if is_vote && message[VOTE_AT] == 1 && forges.load(Ordering::Relaxed) {
            message[VOTE_AT] = 2;
        }
        if to_client.write_all(&message).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn an_altered_vote_is_reported_as_a_bug() {
    let Some(stock) = Stock::start(PLAIN).await else { return };
    let forger = Forger::start(stock.address).await;
    let through = Through::start(forger.address, "-s off").await;
    let mut nodes = together(through.address, &[1, 2]).await;
    forger.forges.store(true, Ordering::Relaxed);
    nodes[0].report(&[1], 8).await;
    nodes[1].report(&[2], 8).await;
    nodes[1].hear(Vote::Nack).await;
    nodes[0].hear(Vote::Nack).await;
    let lines = through.lines(1).await;
    assert_eq!(reasons(&lines), [(1, "bug".to_owned(), String::new())], "{lines:#?}");
    let text = lines[0]["difference"]["text"].as_str().unwrap();
    assert!(text.contains("told nack, its rule says ack; ours: told ack"), "{text}");
    let summary = through.stop().await;
    assert_eq!((summary.differences, summary.bugs), (1, 1));
}

#[tokio::test]
async fn a_client_is_closed_where_the_stock_daemon_cannot_be_reached() {
    let Some(stock) = Stock::start(PLAIN).await else { return };
    let through = Through::start(stock.address, "-s off").await;
    let mut nodes = together(through.address, &[1]).await;
    drop(stock);
    assert!(nodes[0].client.is_closed().await);
    assert!(Client::connect(through.address).await.is_closed().await);
}
