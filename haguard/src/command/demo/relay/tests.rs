//! Traffic through a relay: both ways, cut, one way, and a node without power.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::LocalSet;
use tokio::time::timeout;

use super::*;

/// Long enough for loopback on a busy machine; waited out only where nothing may come.
const SOON: Duration = Duration::from_secs(10);
const NOTHING: Duration = Duration::from_millis(150);

struct Net {
    layout: Layout,
    relay: Relay,
}

async fn net(offset: u64) -> Net {
    let number = u64::from(std::process::id()) * 7 + offset;
    let layout = Layout::free(number, 2).unwrap();
    Net { layout, relay: Relay::start(layout, 2).await.unwrap() }
}

async fn received(socket: &UdpSocket) -> Option<(Vec<u8>, SocketAddr)> {
    let mut buffer = [0; 100];
    let (length, from) = timeout(NOTHING, socket.recv_from(&mut buffer)).await.ok()?.unwrap();
    Some((buffer[..length].to_vec(), from))
}

/// Sends until it arrives: a datagram may be lost when sockets are just made.
async fn arrives(net: &Net, from: &UdpSocket, to: &UdpSocket, node: u32) -> SocketAddr {
    let ping = async {
        loop {
            from.send_to(b"ping", net.layout.public(node)).await.unwrap();
            if let Some((_, source)) = received(to).await {
                break source;
            }
        }
    };
    timeout(SOON, ping).await.unwrap()
}

async fn is_lost(net: &Net, from: &UdpSocket, to: &UdpSocket, node: u32) -> bool {
    from.send_to(b"lost", net.layout.public(node)).await.unwrap();
    received(to).await.is_none()
}

#[tokio::test]
async fn datagrams_pass_both_ways_and_come_from_the_address_that_was_dialled() {
    let test = async {
        let net = net(0).await;
        let one = UdpSocket::bind(net.layout.private(1)).await.unwrap();
        let two = UdpSocket::bind(net.layout.private(2)).await.unwrap();
        assert_eq!(arrives(&net, &one, &two, 2).await, net.layout.public(1));
        assert_eq!(arrives(&net, &two, &one, 1).await, net.layout.public(2));
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_cut_stops_datagrams_in_the_named_directions_only() {
    let test = async {
        let net = net(1).await;
        let one = UdpSocket::bind(net.layout.private(1)).await.unwrap();
        let two = UdpSocket::bind(net.layout.private(2)).await.unwrap();
        arrives(&net, &one, &two, 2).await;
        net.relay.tell("cut 1>2").unwrap();
        assert!(is_lost(&net, &one, &two, 2).await);
        arrives(&net, &two, &one, 1).await;
        net.relay.tell("cut 1-2").unwrap();
        assert!(is_lost(&net, &two, &one, 1).await);
        net.relay.tell("heal 1-2").unwrap();
        arrives(&net, &one, &two, 2).await;
        arrives(&net, &two, &one, 1).await;
        net.relay.tell("dark 2").unwrap();
        assert!(is_lost(&net, &one, &two, 2).await);
        net.relay.tell("lit 2").unwrap();
        arrives(&net, &one, &two, 2).await;
    };
    LocalSet::new().run_until(test).await;
}

async fn pair(net: &Net, arbiter: &TcpListener) -> (TcpStream, TcpStream) {
    let device = TcpStream::connect(net.layout.towards_arbiter(1)).await.unwrap();
    let (accepted, from) = timeout(SOON, arbiter.accept()).await.unwrap().unwrap();
    assert_eq!(from.ip(), net.layout.public(1).ip());
    (device, accepted)
}

async fn read(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut buffer = [0; 100];
    let length = timeout(NOTHING, stream.read(&mut buffer)).await.ok()?.unwrap();
    Some(buffer[..length].to_vec())
}

async fn reads(stream: &mut TcpStream, what: &[u8]) {
    let mut buffer = vec![0; what.len()];
    timeout(SOON, stream.read_exact(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(buffer, what);
}

#[tokio::test]
async fn a_cut_stream_stays_open_and_goes_on_when_healed() {
    let test = async {
        let net = net(2).await;
        let arbiter = TcpListener::bind(net.layout.arbiter()).await.unwrap();
        let (mut device, mut accepted) = pair(&net, &arbiter).await;
        device.write_all(b"question").await.unwrap();
        reads(&mut accepted, b"question").await;
        net.relay.tell("cut 1>arbiter").unwrap();
        device.write_all(b"late").await.unwrap();
        assert_eq!(read(&mut accepted).await, None);
        accepted.write_all(b"answer").await.unwrap();
        reads(&mut device, b"answer").await;
        net.relay.tell("heal all").unwrap();
        reads(&mut accepted, b"late").await;
        drop(device);
        let end = timeout(SOON, accepted.read(&mut [0; 1])).await.unwrap().unwrap();
        assert_eq!(end, 0);
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_new_stream_over_a_cut_link_waits_and_one_that_gave_up_is_never_seen() {
    let test = async {
        let net = net(3).await;
        let arbiter = TcpListener::bind(net.layout.arbiter()).await.unwrap();
        net.relay.tell("cut 1-arbiter").unwrap();
        let given_up = TcpStream::connect(net.layout.towards_arbiter(1)).await.unwrap();
        drop(given_up);
        let mut waits = TcpStream::connect(net.layout.towards_arbiter(1)).await.unwrap();
        waits.write_all(b"hello").await.unwrap();
        assert!(timeout(NOTHING, arbiter.accept()).await.is_err());
        net.relay.tell("heal 1-arbiter").unwrap();
        let (mut accepted, _) = timeout(SOON, arbiter.accept()).await.unwrap().unwrap();
        reads(&mut accepted, b"hello").await;
        assert!(timeout(NOTHING, arbiter.accept()).await.is_err());
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_node_without_power_is_silent_even_when_its_sockets_end() {
    let test = async {
        let net = net(4).await;
        let arbiter = TcpListener::bind(net.layout.arbiter()).await.unwrap();
        let (device, mut accepted) = pair(&net, &arbiter).await;
        net.relay.tell("dark 1").unwrap();
        drop(device);
        assert_eq!(read(&mut accepted).await, None);
        net.relay.tell("lit 1").unwrap();
        let (mut again, mut new) = pair(&net, &arbiter).await;
        again.write_all(b"new life").await.unwrap();
        reads(&mut new, b"new life").await;
        assert_eq!(read(&mut accepted).await, None);
    };
    LocalSet::new().run_until(test).await;
}

#[test]
fn lines_that_name_nothing_are_refused() {
    let mut cuts = Cuts::default();
    for bad in ["", "cut 1", "cut 1-x", "cut 0-1", "cut 1>2-3", "dark arbiter", "stop"] {
        assert!(cuts.apply(bad).is_err(), "{bad}");
    }
    assert_eq!(cuts, Cuts::default());
    cuts.apply("cut 1-2 2>arbiter").unwrap();
    assert!(!cuts.passes(End::Node(2), End::Node(1)));
    assert!(!cuts.passes(End::Node(2), End::Arbiter));
    assert!(cuts.passes(End::Arbiter, End::Node(2)));
}

#[test]
fn a_link_is_read_as_it_is_written() {
    for text in ["1-2", "3>arbiter", "arbiter>4"] {
        assert_eq!(text.parse::<Link>().unwrap().to_string(), text);
    }
}
