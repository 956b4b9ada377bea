//! Clients that mean harm, or are broken, harm only themselves.

use protocol::ids::RingId;
use protocol::qnet::{Message, MessageType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::arbiter::Arbiter;
use super::client::{Client, echo, greet, preinit, raw};
use super::places::soon;

const RING: RingId = RingId::new(1, 5);

/// A well-behaved client of another cluster, which must not notice anything.
async fn bystander(arbiter: &Arbiter) -> Client<TcpStream> {
    let mut client = Client::connect(arbiter.address).await;
    greet(&mut client, "Bystander", 1, RING).await;
    client
}

/// An echo request of 28 kilobytes.
fn big_echo() -> Vec<u8> {
    let mut body = vec![0, 0, 0, 4, 0, 0, 0, 1, 0x12, 0x34, 0x70, 0];
    body.resize(12 + 0x7000, 0);
    raw(8, &body)
}

async fn is_served(client: &mut Client<TcpStream>, seq: u32) {
    assert_eq!(client.ask(&echo(seq)).await.options.seq, Some(seq));
}

#[tokio::test]
async fn a_client_that_stops_reading_is_closed_and_nobody_else() {
    let arbiter = Arbiter::start("-s off").await;
    let mut good = bystander(&arbiter).await;
    let mut deaf = Client::connect(arbiter.address).await;
    greet(&mut deaf, "TestCl", 1, RING).await;
    // Large echoes fill the sockets' buffers, then the queue.
    let big = big_echo();
    soon("the deaf client's end", async { while deaf.stream.write_all(&big).await.is_ok() {} })
        .await;
    is_served(&mut good, 1).await;
    assert_eq!(arbiter.stop().await.map_err(|error| error.to_string()), Ok(()));
}

#[tokio::test]
async fn a_client_that_sends_much_and_reads_is_served() {
    let arbiter = Arbiter::start("-s off").await;
    let mut client = bystander(&arbiter).await;
    let many: Vec<u8> = (0..2000).flat_map(|seq| echo(seq).encode()).collect();
    client.send_bytes(&many).await;
    for seq in 0..2000 {
        assert_eq!(client.receive().await.options.seq, Some(seq));
    }
}

#[tokio::test]
async fn two_thousand_silent_connections_keep_nobody_out() {
    let arbiter = Arbiter::start("-s off").await;
    let mut good = bystander(&arbiter).await;
    let mut silent = Vec::new();
    for _ in 0..2000 {
        silent.push(Client::connect(arbiter.address).await);
    }
    is_served(&mut good, 1).await;
    let mut late = Client::connect(arbiter.address).await;
    greet(&mut late, "Late", 1, RING).await;
    // The oldest have made room, the newest are still there.
    assert!(silent[0].is_closed().await);
    let last = silent.last_mut().unwrap();
    assert_eq!(last.ask(&preinit("x")).await.kind, MessageType::PreinitReply);
}

#[tokio::test]
async fn a_silent_connection_and_a_slow_one_are_closed_after_the_greeting_limit() {
    let arbiter = Arbiter::start("-s off -S greeting_limit=300ms").await;
    let mut good = bystander(&arbiter).await;
    let mut silent = Client::connect(arbiter.address).await;
    let mut slow = Client::connect(arbiter.address).await;
    // One byte of an endless message every few milliseconds.
    let mut pace = tokio::time::interval(std::time::Duration::from_millis(20));
    soon("the slow client's end", async {
        while slow.stream.write_all(&[0]).await.is_ok() {
            pace.tick().await;
        }
    })
    .await;
    assert!(silent.is_closed().await);
    is_served(&mut good, 1).await;
}

#[tokio::test]
async fn garbage_is_answered_or_skipped_and_harms_nobody() {
    let arbiter = Arbiter::start("-s off").await;
    let mut good = bystander(&arbiter).await;
    let mut state: u32 = 1;
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    for _ in 0..20 {
        let mut client = Client::connect(arbiter.address).await;
        let garbage: Vec<u8> = (0..32 * 1024).map(|_| noise()).collect();
        // It may be closed in the middle of it.
        let _ = client.stream.write_all(&garbage).await;
    }
    // Random bytes in whole messages of every known type.
    let mut client = Client::connect(arbiter.address).await;
    for kind in [0, 3, 6, 8, 10, 12, 15, 16] {
        let body: Vec<u8> = (0..64).map(|_| noise()).collect();
        client.send_bytes(&raw(kind, &body)).await;
        assert_eq!(client.receive().await.kind, MessageType::ServerError);
    }
    is_served(&mut good, 1).await;
}

#[tokio::test]
async fn more_clients_than_allowed_are_closed_and_strangers_make_room() {
    let arbiter = Arbiter::start("-s off -m 2").await;
    let mut good = bystander(&arbiter).await;
    let mut stranger = Client::connect(arbiter.address).await;
    assert_eq!(stranger.ask(&preinit("x")).await.kind, MessageType::PreinitReply);
    let mut second = Client::connect(arbiter.address).await;
    greet(&mut second, "Second", 1, RING).await;
    assert!(stranger.is_closed().await);
    let mut third = Client::connect(arbiter.address).await;
    assert!(third.is_closed().await);
    is_served(&mut good, 1).await;
    is_served(&mut second, 1).await;
}

#[tokio::test]
async fn an_answer_over_the_send_limit_closes_its_client() {
    let arbiter = Arbiter::start("-s off -S max_client_send_size=200").await;
    let mut client = bystander(&arbiter).await;
    let mut long = Message::new(MessageType::EchoRequest, Some(1));
    long.options.supported_messages = Some(vec![7; 200]);
    client.send(&long).await;
    assert!(client.is_closed().await);
    let mut next = bystander(&arbiter).await;
    is_served(&mut next, 1).await;
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_client_that_does_not_read() {
    let arbiter = Arbiter::start("-s off -S max_client_send_buffers=2000").await;
    let mut deaf = bystander(&arbiter).await;
    let big = big_echo();
    // More than the sockets take, and less than the queue does.
    for _ in 0..800 {
        deaf.send_bytes(&big).await;
    }
    arbiter.stop().await.unwrap();
    let mut left = Vec::new();
    // The connection may end with a reset, since not all of it was read.
    let _ = deaf.stream.read_to_end(&mut left).await;
    assert!(left.len() < 800 * big.len(), "the client was waited for");
}
