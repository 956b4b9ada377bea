//! Daemons together.

use std::net::SocketAddr;
use std::time::Duration;

use protocol::status::{NodeStatus, QuorumState};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::site::{PATIENCE, Running, Site, authority, member, pair};

#[tokio::test]
async fn two_nodes_form_one_quorate_view_without_a_device() {
    let site = Site::new();
    let [one, two] = pair(&site).await;
    let (one, two) = (one.status().await.unwrap(), two.status().await.unwrap());
    assert_eq!((one.node, two.node), (1, 2));
    assert_eq!(one.view, two.view);
    assert_eq!(one.members, [1, 2]);
    assert_eq!(one.votes.quorum, 2);
    assert!(one.qdevice.is_none());
    let link = &one.peers[&2].links[&0];
    assert!(link.connected && link.rtt_us.is_some() && link.problem.is_empty(), "{link:?}");
    assert_eq!(link.address, site.address(2, 0).to_string());
}

#[tokio::test]
async fn a_survivor_without_a_device_is_not_quorate_within_1_2_s() {
    let site = Site::new();
    let [one, two] = pair(&site).await;
    two.kill().await;
    let killed = Instant::now();
    let limit = Duration::from_millis(1200);
    let lost = one.until(limit, "not quorate", |s| !s.quorate).await;
    assert!(!lost.peers[&2].contact || lost.state != QuorumState::Quorate);
    let left = limit.saturating_sub(killed.elapsed());
    one.until(left, "inquorate", |s| s.state == QuorumState::Inquorate).await;
    // It stays so in a view of its own, and says why.
    let says = |s: &NodeStatus| s.members == [1] && s.reason.contains("1 of 2 votes");
    let alone = one.until(PATIENCE, "a view alone, and why", says).await;
    assert_eq!(alone.state, QuorumState::Inquorate);
}

#[tokio::test]
async fn a_node_that_was_killed_comes_back_with_what_its_disk_holds() {
    let site = Site::new();
    let [one, two] = pair(&site).await;
    let before = two.status().await.unwrap();
    two.kill().await;
    one.until(PATIENCE, "a view alone", |s| s.members == [1]).await;
    let two = site.restart(2).await;
    let after = two.until(PATIENCE, "back", |s| s.quorate && s.members == [1, 2]).await;
    assert!(after.epoch > before.epoch, "{} after {}", after.epoch, before.epoch);
    let ring = |status: &NodeStatus| {
        let text = status.ring_id.clone().unwrap();
        u64::from_str_radix(text.split_once('.').unwrap().1, 16).unwrap()
    };
    assert!(ring(&after) > ring(&before));
}

#[tokio::test]
async fn a_node_that_leaves_says_so_and_ends() {
    let site = Site::new();
    let [one, two] = pair(&site).await;
    assert_eq!(two.ask("leave\n").await.as_deref(), Some("ok"));
    tokio::time::timeout(PATIENCE, two.task).await.unwrap().unwrap().unwrap();
    let alone = one.until(PATIENCE, "a view alone", |s| s.members == [1]).await;
    assert_eq!(alone.peers[&2].note, "leaving");
}

#[tokio::test]
async fn the_status_socket_answers_nonsense_with_one_line() {
    let site = Site::new();
    let one = site.start(1);
    one.until(PATIENCE, "a status", |_| true).await;
    for nonsense in ["\n", "reload\n", "\u{0}\n", "status now\n"] {
        let answer = one.ask(nonsense).await.unwrap();
        assert!(answer.starts_with("error: "), "{answer}");
    }
}

/// Two daemons that must not get together; both say why the link does not stand, node 1 with
/// these words.
async fn strangers(one: &Running, two: &Running, words: &str) {
    let seen = one.until(PATIENCE, words, |s| s.peers[&2].links[&0].problem.contains(words)).await;
    assert!(!seen.peers[&2].contact && seen.peers[&2].silent_ms.is_none(), "{seen:?}");
    for node in [one, two] {
        let alone = node.until(PATIENCE, "a view alone", |s| s.members.len() == 1).await;
        assert_eq!(alone.state, QuorumState::Inquorate);
        assert!(alone.peers.values().all(|peer| peer.silent_ms.is_none()), "{alone:?}");
    }
}

#[tokio::test]
async fn a_node_of_a_foreign_authority_stays_outside() {
    let site = Site::new();
    let foreign = authority();
    site.certify(&foreign, 2, &member("c", 2));
    let (one, two) = (site.start(1), site.start(2));
    strangers(&one, &two, "refused: the certificate is of another authority").await;
}

#[tokio::test]
async fn a_node_of_another_cluster_of_the_same_authority_stays_outside() {
    let site = Site::new();
    let one = site.start(1);
    one.until(PATIENCE, "a status", |_| true).await;
    site.write_conf("d", 2, 1, "");
    site.certify(&site.authority, 2, &member("d", 2));
    let two = site.start(2);
    strangers(&one, &two, "refused: the certificate names another cluster").await;
}

/// Forwards datagrams between one caller and one node, until it is dropped.
struct Relay(JoinHandle<()>);

impl Relay {
    async fn start(front: SocketAddr, back: SocketAddr) -> Self {
        let front = UdpSocket::bind(front).await.unwrap();
        let behind = UdpSocket::bind(SocketAddr::new(back.ip(), 0)).await.unwrap();
        Self(tokio::spawn(async move {
            let (mut a, mut b) = ([0; 2000], [0; 2000]);
            let mut caller = None;
            loop {
                tokio::select! {
                    Ok((length, from)) = front.recv_from(&mut a) => {
                        caller = Some(from);
                        let _ = behind.send_to(&a[..length], back).await;
                    }
                    Ok((length, _)) = behind.recv_from(&mut b) => {
                        if let Some(caller) = caller {
                            let _ = front.send_to(&b[..length], caller).await;
                        }
                    }
                }
            }
        }))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[tokio::test]
async fn a_second_link_keeps_the_view_when_the_first_is_cut() {
    let site = Site::new();
    site.write_conf("c", 2, 2, "");
    // Node 2 is behind a relay on link 0: it listens elsewhere than its ring0_addr says.
    let mut options = site.options(2);
    let behind = site.address(50, 0);
    options.listen.insert(0, behind);
    let relay = Relay::start(site.address(2, 0), behind).await;
    let (one, two) = (site.start(1), Running::start(options));
    let both = |s: &NodeStatus| s.quorate && s.peers[&2].links.values().all(|link| link.connected);
    let before = one.until(PATIENCE, "both links", both).await;
    drop(relay);
    let cut = |s: &NodeStatus| !s.peers[&2].links[&0].connected;
    let after = one.until(PATIENCE, "link 0 down", cut).await;
    assert!(after.quorate && after.peers[&2].links[&1].connected);
    assert_eq!(after.view, before.view);
    assert!(!after.peers[&2].links[&0].problem.is_empty());
    // And it comes back by itself.
    let _relay = Relay::start(site.address(2, 0), behind).await;
    let healed = one.until(PATIENCE, "both links again", both).await;
    assert_eq!(healed.view, before.view);
    two.kill().await;
}
