//! A real disk that stalls: nothing waits for it but new grants (safety 37).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use protocol::ids::{BootId, InstanceId, RingId, ViewId};
use protocol::qnet::{Grant, Hello, HostKind, Message, MessageType, Renewal, ViewNote};
use protocol::vote::{Bound, Vote};
use tokio::net::TcpStream;

use super::arbiter::Arbiter;
use super::client::{Client, config_list, echo, greet, init, membership_list, preinit};
use super::places::Place;

/// A file system of its own, on which writes can be held up.
struct Freezer(PathBuf);

fn run(command: &str) -> Result<(), String> {
    let words: Vec<&str> = command.split_whitespace().collect();
    let output = Command::new(words[0]).args(&words[1..]).output();
    let output = output.map_err(|error| format!("{command}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(format!("{command}: {said}")) }
}

impl Freezer {
    /// Needs root and loop devices.
    fn mount(image: &Path, at: &Path) -> Result<Self, String> {
        let file = std::fs::File::create(image).unwrap();
        file.set_len(8 << 20).unwrap();
        std::fs::create_dir_all(at).unwrap();
        run(&format!("mkfs.ext4 -q {}", image.display()))?;
        run(&format!("mount -o loop {} {}", image.display(), at.display()))?;
        Ok(Self(at.to_owned()))
    }

    fn freeze(&self) {
        run(&format!("fsfreeze --freeze {}", self.0.display())).unwrap();
    }

    fn thaw(&self) -> Result<(), String> {
        run(&format!("fsfreeze --unfreeze {}", self.0.display()))
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        // It is frozen only if the test has failed.
        let _ = self.thaw();
        let _ = run(&format!("umount --lazy {}", self.0.display()));
    }
}

/// Passes over answers until the vote is told.
async fn vote(client: &mut Client<TcpStream>) -> Message {
    loop {
        let message = client.receive().await;
        if message.kind == MessageType::VoteInfo {
            return message;
        }
    }
}

/// The nodes of a cluster of stock clients, with their vote in the ring 1.5.
async fn stock_pair(arbiter: &Arbiter) -> [Client<TcpStream>; 2] {
    let ring = RingId::new(1, 5);
    let mut clients = [1, 2].map(|_| None);
    for (node, client) in (1..).zip(&mut clients) {
        let client = client.insert(Client::connect(arbiter.address).await);
        greet(client, "stock", node, ring).await;
        client.ask(&config_list(3, &[1, 2])).await;
        client.send(&membership_list(4, ring, &[1, 2])).await;
    }
    let mut clients = clients.map(Option::unwrap);
    for client in &mut clients {
        assert_eq!(vote(client).await.options.vote, Some(Vote::Ack));
    }
    clients
}

/// A cluster of one node with leases, and its grant.
async fn lease_holder(arbiter: &Arbiter) -> (Client<TcpStream>, Grant) {
    let (ring, nonce) = (RingId::new(1, 7), 9);
    let mut client = Client::connect(arbiter.address).await;
    client.ask(&preinit("own")).await;
    let mut message = init(1, ring);
    message.options.hello = Some(Hello {
        instance: InstanceId(3),
        boot: BootId(4),
        host: HostKind::Builtin,
        worst_case_ms: 0,
        bound: Bound::default(),
        highest_epoch: Default::default(),
        held: None,
    });
    assert_eq!(client.ask(&message).await.options.error_code, Some(0));
    // The first renewal anchors the lease.
    client.ask(&renewal(1, ViewId { ring, nonce }, None)).await;
    client.ask(&config_list(3, &[1])).await;
    let mut message = membership_list(4, ring, &[1]);
    let epoch = Default::default();
    message.options.view_note = Some(ViewNote { nonce, epoch, highest_epoch: epoch });
    client.send(&message).await;
    let grant = vote(&mut client).await.options.grant.unwrap();
    (client, grant)
}

fn renewal(seq: u32, view: ViewId, grant: Option<Grant>) -> Message {
    let mut message = echo(seq);
    let grant = grant.map(|grant| grant.id).unwrap_or_default();
    message.options.renewal = Some(Renewal { grant, view, highest_epoch: Default::default() });
    message
}

#[tokio::test]
#[expect(clippy::print_stderr, reason = "who runs the tests shall know what was not tested")]
async fn a_frozen_disk_delays_no_renewal_no_heartbeat_and_no_other_cluster() {
    let place = Arc::new(Place::new());
    let freezer = match Freezer::mount(&place.join("image"), &place.join("state")) {
        Ok(freezer) => freezer,
        Err(error) => return eprintln!("not tested: no file system to freeze: {error}"),
    };
    let arbiter = Arbiter::start_in(place, "-s off").await;
    let mut stock = stock_pair(&arbiter).await;
    let (mut own, grant) = lease_holder(&arbiter).await;

    freezer.freeze();
    // A new ring needs a new grant.
    let ring = RingId::new(1, 6);
    for client in &mut stock {
        client.send(&membership_list(5, ring, &[1, 2])).await;
    }
    for seq in 10..20 {
        let answer = own.ask(&renewal(seq, grant.view, Some(grant))).await;
        assert_eq!(answer.options.grant.map(|grant| grant.id), Some(grant.id));
        for client in &mut stock {
            client.send(&echo(seq)).await;
            loop {
                let message = client.receive().await;
                assert_ne!(message.kind, MessageType::VoteInfo, "{message:?}");
                if message.kind == MessageType::EchoReply && message.options.seq == Some(seq) {
                    break;
                }
            }
        }
        let mut newcomer = Client::connect(arbiter.address).await;
        greet(&mut newcomer, &format!("new {seq}"), 1, ring).await;
    }
    freezer.thaw().unwrap();
    for client in &mut stock {
        assert_eq!(vote(client).await.options.vote, Some(Vote::Ack));
    }
    drop((stock, own));
    arbiter.stop().await.unwrap();
}
