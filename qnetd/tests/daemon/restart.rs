//! Grants outlive the daemon (rule S3).

use protocol::ids::{BootId, RingId};
use protocol::vote::Vote;
use qnetd::journal::Journal;
use tokio::net::TcpStream;

use super::arbiter::Arbiter;
use super::client::{Client, config_list, greet, membership_list, vote_reply};

/// The nodes of one view connect and hear that they have the vote.
async fn vote_of(arbiter: &Arbiter, nodes: &[u32]) -> Vec<Client<TcpStream>> {
    let ring = RingId::new(1, 5);
    let mut clients = Vec::new();
    for node in nodes {
        let mut client = Client::connect(arbiter.address).await;
        greet(&mut client, "TestCl", *node, ring).await;
        client.ask(&config_list(3, &[1, 2])).await;
        client.send(&membership_list(4, ring, nodes)).await;
        clients.push(client);
    }
    for client in &mut clients {
        let (seq, vote) = client.vote().await;
        assert_eq!(vote, Vote::Ack);
        client.send(&vote_reply(seq)).await;
    }
    clients
}

#[tokio::test]
async fn a_grant_is_on_disk_before_anyone_hears_of_it() {
    let arbiter = Arbiter::start("-s off").await;
    let clients = vote_of(&arbiter, &[1, 2]).await;
    // At this moment the ACK has just been heard.
    let journal = std::fs::read_to_string(arbiter.place.join("state/grants.journal")).unwrap();
    assert_eq!(journal.lines().count(), 2);
    drop(clients);
    let place = arbiter.crash().await;
    let opened = Journal::open(&place.join("state"), BootId(1)).unwrap();
    assert_eq!(opened.memory.boot, 2);
    let [grant] = &opened.memory.grants[..] else { panic!("{:?}", opened.memory.grants) };
    assert_eq!(grant.nodes.iter().map(|node| node.0).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(grant.grant.arbiter, opened.memory.arbiter);
}

#[tokio::test]
async fn after_a_crash_in_the_same_boot_the_grant_is_given_again_at_once() {
    let arbiter = Arbiter::start("-s off").await;
    let clients = vote_of(&arbiter, &[1, 2]).await;
    drop(clients);
    let place = arbiter.crash().await;
    let before = std::fs::read(place.join("state/grants.journal")).unwrap();

    let again = Arbiter::start_in(place, "-s off").await;
    vote_of(&again, &[1, 2]).await;
    // It is the old grant, not a new one.
    assert_eq!(std::fs::read(again.place.join("state/grants.journal")).unwrap(), before);
}

#[tokio::test]
async fn a_backup_that_is_put_back_within_one_boot_is_not_given_again() {
    let arbiter = Arbiter::start("-s off").await;
    let clients = vote_of(&arbiter, &[1, 2]).await;
    drop(clients);
    let place = arbiter.crash().await;
    let journal = place.join("state/grants.journal");
    let backup = std::fs::read(&journal).unwrap();
    let arbiter = Arbiter::start_in(place, "-s off").await;
    let mut clients = Vec::new();
    for node in [1, 2] {
        let mut client = Client::connect(arbiter.address).await;
        greet(&mut client, "TestCl", node, RingId::new(1, 6)).await;
        client.ask(&config_list(3, &[1, 2])).await;
        client.send(&membership_list(4, RingId::new(1, 6), &[1, 2])).await;
        clients.push(client);
    }
    for client in &mut clients {
        client.vote().await;
    }
    drop(clients);
    let place = arbiter.crash().await;
    std::fs::write(&journal, &backup).unwrap();

    let again = Arbiter::start_in(place, "-s off").await;
    vote_of(&again, &[1, 2]).await;
    // The whole cluster gets the vote at once, and by a new grant, for the old one is not believed.
    let place = again.crash().await;
    let opened = Journal::open(&place.join("state"), BootId(1)).unwrap();
    let [grant] = &opened.memory.grants[..] else { panic!("{:?}", opened.memory.grants) };
    assert!(grant.grant.epoch.0 > 1 << 20, "epochs go on far above the record: {grant:?}");
}

#[tokio::test]
async fn a_second_daemon_cannot_have_the_same_state() {
    let arbiter = Arbiter::start("-s off").await;
    let lock = std::fs::read_to_string(arbiter.place.join("state/lock")).unwrap();
    assert_eq!(lock, format!("{}\n", std::process::id()));
}
