//! How the daemon starts, refuses to start, and ends.

use std::net::TcpListener;

use protocol::ids::RingId;
use qnetd::daemon::{Order, serve};
use tokio::sync::{mpsc, oneshot};

use super::arbiter::{Arbiter, options};
use super::client::{Client, greet};
use super::places::{Place, soon};
use super::tls::Site;

/// The one line that a start fails with.
async fn failure(place: &Place, flags: &str) -> String {
    let (orders, received) = mpsc::channel(1);
    let run = serve(options(place, flags), (orders, received), None);
    let error = soon("failure", run).await.unwrap_err();
    let text = format!("{error:#}");
    assert!(!text.contains('\n'), "more than one line: {text}");
    text
}

#[tokio::test]
async fn a_missing_foreign_or_mismatched_certificate_is_named() {
    let place = Place::new();
    let flags = Site::new().install(place.path());
    let other = Place::new();
    Site::new().install(other.path());

    std::fs::copy(other.join("server-key.pem"), place.join("server-key.pem")).unwrap();
    let text = failure(&place, &flags).await;
    assert!(text.contains("server.pem") && text.contains("does not belong"), "{text}");

    std::fs::write(place.join("server.pem"), "junk").unwrap();
    let text = failure(&place, &flags).await;
    assert!(text.contains("server.pem") && text.contains("no certificate"), "{text}");

    std::fs::remove_file(place.join("ca.pem")).unwrap();
    let text = failure(&place, &flags).await;
    assert!(text.contains("ca.pem") && text.contains("no such file"), "{text}");
}

#[tokio::test]
async fn a_port_in_use_is_one_clear_line() {
    let place = Place::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let text = failure(&place, &format!("-s off --listen {address}")).await;
    assert!(text.starts_with(&format!("cannot listen on {address}")), "{text}");
    assert!(text.contains("in use"), "{text}");
}

#[tokio::test]
async fn a_damaged_state_directory_is_named() {
    let place = Place::new();
    std::fs::create_dir_all(place.join("state")).unwrap();
    std::fs::write(place.join("state/arbiter.json"), "{}").unwrap();
    let text = failure(&place, "-s off").await;
    assert!(text.contains("arbiter.json"), "{text}");
}

#[tokio::test]
async fn a_stop_closes_clients_takes_the_socket_away_and_leaves_the_pid_file() {
    let arbiter = Arbiter::start("-s off").await;
    let (place, socket) = (arbiter.place.clone(), arbiter.socket());
    let mut client = Client::connect(arbiter.address).await;
    greet(&mut client, "TestCl", 1, RingId::new(1, 5)).await;
    assert!(socket.exists());
    let pid = std::fs::read_to_string(place.join("run/qnetd.pid")).unwrap();
    assert_eq!(pid, format!("{}\n", std::process::id()));
    arbiter.stop().await.unwrap();
    assert!(client.is_closed().await);
    assert!(!socket.exists());
    assert!(place.join("run/qnetd.pid").exists());
}

#[tokio::test]
async fn a_reload_without_tls_is_nothing() {
    let arbiter = Arbiter::start("-s off").await;
    arbiter.orders.send(Order::Reload).await.unwrap();
    let mut client = Client::connect(arbiter.address).await;
    greet(&mut client, "TestCl", 1, RingId::new(1, 5)).await;
}

/// The address that a client of 127.0.0.1 has for a daemon that listens with these flags.
async fn address_seen(flags: &str) -> Result<String, String> {
    let place = Place::new();
    let mut options = options(&place, flags);
    options.listen = None;
    options.port = super::places::free_port();
    let port = options.port;
    let socket = options.local_socket_file();
    let (orders, received) = mpsc::channel(1);
    let (ready, listening) = oneshot::channel();
    let task = tokio::spawn(serve(options, (orders.clone(), received), Some(ready)));
    if soon("start", listening).await.is_err() {
        return Err(format!("{:#}", task.await.unwrap().unwrap_err()));
    }
    let mut client = Client::connect(([127, 0, 0, 1], port).into()).await;
    greet(&mut client, "TestCl", 1, RingId::new(1, 5)).await;
    let text = super::local::ask(&socket, "list\n").await;
    let line = text.lines().find(|line| line.contains("Client address")).unwrap();
    let (address, _) = line
        .trim_start_matches(|c: char| !c.is_ascii_digit() && c != ':')
        .trim_start_matches(": \t")
        .trim()
        .rsplit_once(':')
        .unwrap();
    Ok(address.trim_start_matches(":\t\t").to_owned())
}

#[tokio::test]
async fn the_port_is_dual_stack_unless_a_family_or_an_address_is_named() {
    assert_eq!(address_seen("-s off").await.as_deref(), Ok("::ffff:127.0.0.1"));
    assert_eq!(address_seen("-s off -6").await.as_deref(), Ok("::ffff:127.0.0.1"));
    assert_eq!(address_seen("-s off -4").await.as_deref(), Ok("127.0.0.1"));
    assert_eq!(address_seen("-s off -l localhost -4").await.as_deref(), Ok("127.0.0.1"));
    let refused = address_seen("-s off -l 127.0.0.1 -6").await.unwrap_err();
    assert!(refused.contains("127.0.0.1") && refused.contains("family"), "{refused}");
}

#[tokio::test]
async fn signals_become_orders() {
    use nix::sys::signal::{Signal, raise};
    let (orders, mut received) = mpsc::channel(8);
    qnetd::daemon::follow_signals(orders).unwrap();
    for (signal, order) in [
        (Signal::SIGHUP, Order::Reload),
        (Signal::SIGTERM, Order::Stop),
        (Signal::SIGINT, Order::Stop),
    ] {
        raise(signal).unwrap();
        assert_eq!(soon("order", received.recv()).await, Some(order));
    }
}
