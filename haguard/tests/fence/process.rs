//! What a gateway's process lets out: no core, and nothing to who has no certificate.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use bytes::Bytes;
use host::https::Client;
use http_body_util::Full;
use nix::sys::signal::Signal;
use rustls::pki_types::ServerName;

use super::common::{LIMIT, Scratch, left_out, soon, wait};
use super::gateway::off;
use super::lab::Lab;
use super::nameless::nameless;
use super::{ONE, TWO};

/// A shell that becomes a command which may leave a core, in the directory where it runs.
const WITH_CORES: [&str; 4] = ["sh", "-c", "ulimit -c unlimited; exec \"$@\"", "sh"];

#[tokio::test]
async fn a_gateway_that_crashes_leaves_no_core_with_its_passwords() {
    let scratch = Scratch::new("fence-core");
    let mut other = Command::new(WITH_CORES[0]);
    other.args(&WITH_CORES[1..]).args(["sh", "-c", "kill -ABRT $$"]);
    let dumped = other.current_dir(scratch.root()).status().unwrap().core_dumped();
    if !dumped {
        left_out("no process leaves a core here: see /proc/sys/kernel/core_pattern");
        return;
    }
    let mut lab = Lab::start("fence-cores").await;
    lab.gateway.write(&lab.gateway.outlets(&[2]));
    lab.gateway.start_behind(&WITH_CORES).await;
    lab.gateway.daemon().signal(Signal::SIGABRT);
    let daemon = lab.gateway.daemon();
    let ended = wait("its end", || daemon.ended());
    assert_eq!(ended.signal(), Some(Signal::SIGABRT as i32), "{ended:?}");
    assert!(!ended.core_dumped(), "{ended:?}");
    let files = std::fs::read_dir(&lab.gateway.home).unwrap();
    let names: Vec<String> =
        files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    assert!(!names.iter().any(|name| name.starts_with("core")), "{names:?}");
}

#[tokio::test]
async fn a_requester_without_a_certificate_is_refused_by_tls() {
    let mut lab = Lab::start("fence-nobody").await;
    lab.gateway.write(&lab.gateway.outlets(&[1, 2]));
    lab.powered_by_outlets();
    lab.gateway.start().await;
    lab.split().await;
    let before = lab.gateway.history().await.len();
    // It believes anybody, so that nothing but its own lack of a certificate is in the way.
    let (at, name) = (lab.gateway.address(), ServerName::try_from("gateway.invalid").unwrap());
    let client = nameless();
    let request = serde_json::to_vec(&off(ONE, lab.epoch(1), TWO)).unwrap();
    let called = async {
        let way = Client::connect(&at.ip().to_string(), at.port(), client, name, LIMIT).await?;
        let body = Full::new(Bytes::from(request));
        let request = hyper::Request::post("/v1/fence").header("host", "gateway").body(body);
        way.lines(request.unwrap(), LIMIT).await.map(|lines| lines.status)
    };
    let refused = called.await.unwrap_err();
    assert!(format!("{refused:?}").contains("CertificateRequired"), "{refused:?}");
    let said = || lab.gateway.log().contains("its tls handshake failed").then_some(());
    soon("word of it", said).await;
    assert_eq!(lab.gateway.history().await.len(), before, "nobody has asked anything");
    assert!(lab.gateway.told(2).is_empty());
    // With a certificate the same request goes its way.
    let outcome = super::lab::post(lab.way(1).await, &off(ONE, lab.epoch(1), TWO)).await;
    assert!(outcome.proof().is_some(), "{outcome:?}");
}
