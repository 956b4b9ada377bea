//! A fencing gateway that the test plays, over real HTTPS.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use certs::issue::Subject;
use certs::{Credential, Trust, tls};
use protocol::fence::{
    GatewayStatus, How, Outcome, PowerAction, Progress, Proof, Request, TargetStatus,
};
use protocol::ids::NodeId;
use protocol::status::NodeStatus;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::device::{Device, view_of};
use crate::site::{PATIENCE, Site, issue, member, pair};

/// A gateway that says of itself what it is told to.
struct Gateway {
    address: SocketAddr,
    /// What it is asked, and where the lines of its answer go.
    asked: mpsc::Receiver<(Request, mpsc::Sender<Progress>)>,
    _task: JoinSet<()>,
}

impl Gateway {
    /// Listens with a certificate of this subject.
    async fn start(site: &Site, subject: &Subject, status: GatewayStatus) -> Self {
        let issued = issue(&site.authority, subject, 77);
        let trust = Trust::new(vec![site.authority.certificate().clone()]).unwrap();
        let (chain, key) = (issued.chain_pem.as_bytes(), issued.key_pem.as_bytes());
        let own = Credential::from_pem(chain, key).unwrap();
        let config = tls::gateway_server(&trust, &own, &"c".into()).unwrap();
        let listener = TcpListener::bind((site.address(90, 0).ip(), 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (ask, asked) = mpsc::channel(8);
        let status = serde_json::to_string(&status).unwrap();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let acceptor = TlsAcceptor::from(config);
            let mut conversations = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, ask, status) = (acceptor.clone(), ask.clone(), status.clone());
                conversations.spawn(async move {
                    // A client that does not believe this gateway goes away.
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let _ = converse(stream, ask, &status).await;
                });
            }
        });
        Self { address, asked, _task: task }
    }

    async fn next(&mut self) -> (Request, mpsc::Sender<Progress>) {
        timeout(PATIENCE, self.asked.recv()).await.unwrap().unwrap()
    }
}

/// One request, one answer.
async fn converse(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    ask: mpsc::Sender<(Request, mpsc::Sender<Progress>)>,
    status: &str,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    if head.starts_with("get /v1/status ") {
        let text = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{status}", status.len());
        return stream.write_all(text.as_bytes()).await;
    }
    assert!(head.starts_with("post /v1/fence "), "{head}");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).await?;
    let (say, mut said) = mpsc::channel(8);
    ask.send((serde_json::from_slice(&body).unwrap(), say)).await.unwrap();
    let text = "HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\n\
        transfer-encoding: chunked\r\n\r\n";
    stream.write_all(text.as_bytes()).await?;
    while let Some(progress) = said.recv().await {
        let line = serde_json::to_string(&progress).unwrap();
        stream.write_all(format!("{:x}\r\n{line}\n\r\n", line.len() + 1).as_bytes()).await?;
    }
    stream.write_all(b"0\r\n\r\n").await
}

fn ready() -> GatewayStatus {
    GatewayStatus {
        cluster: "c".to_owned(),
        arbiter: "connected".to_owned(),
        nodes: BTreeMap::from([(1, TargetStatus::default()), (2, TargetStatus::default())]),
        ..GatewayStatus::default()
    }
}

/// A service whose keeper proves nothing by time, and these gateways.
fn guarded(gateways: &str) -> String {
    format!(
        " watchdog: process\n gateway: {gateways}\n service {{\n  name: web\n  command: exec sleep \
         1000\n  prefer: 2\n }}"
    )
}

#[tokio::test]
async fn a_lost_node_is_fenced_and_its_service_starts_with_the_proof() {
    let site = Site::new();
    let mut gateway = Gateway::start(&site, &Subject::Gateway("c".to_owned()), ready()).await;
    // Nobody listens at the first one.
    let nobody = SocketAddr::from((gateway.address.ip(), 9));
    site.configure(2, &guarded(&format!("{nobody}, {}", gateway.address)));
    let [one, two] = pair(&site).await;
    two.until(PATIENCE, "the service runs on 2", |s| s.resources[0].state == "running").await;
    let address = gateway.address.to_string();
    let seen = one.until(PATIENCE, "the gateway is known", |s| {
        s.gateways.get(&address).is_some_and(|said| said == "ready") && s.gateways.len() == 2
    });
    seen.await;
    let mut device = Device::connect(&one.run_dir).await;
    device.register().await;
    device.hear("view").await;
    two.kill().await;

    let (request, say) = gateway.next().await;
    assert_eq!((request.requester, request.action), (NodeId(1), PowerAction::Reboot));
    assert_eq!(request.targets, [NodeId(2)].into());
    let epoch = one.status().await.unwrap().epoch;
    assert_eq!(request.epoch.map(|epoch| epoch.0), Some(epoch));
    let alone = device.hear("view").await;
    device.poll(1, view_of(&alone), epoch + 1, Duration::from_secs(60)).await;
    one.until(PATIENCE, "quorate alone", |s| s.quorate).await;
    let step = Progress::Step { node: Some(NodeId(2)), text: "off was sent".to_owned() };
    say.send(step).await.unwrap();
    one.until(PATIENCE, "the step", |s| s.fencing[&2].contains("off was sent")).await;
    let waits =
        |s: &NodeStatus| s.resources[0].state.starts_with("waiting: the gateway is cutting");
    one.until(PATIENCE, "the service waits", waits).await;

    let boot = host::file::boot_id();
    let proof = Proof { node: NodeId(2), boot, how: How::ReadOff, sent_ms: 1 };
    say.send(Progress::Off { proof: proof.clone() }).await.unwrap();
    let runs = one.until(PATIENCE, "it runs on 1", |s| s.resources[0].state == "running").await;
    assert!(runs.fencing[&2].contains("its power was cut and reads off"), "{runs:?}");
    let results = BTreeMap::from([(NodeId(2), Outcome::Off { proof })]);
    say.send(Progress::Done { results }).await.unwrap();
    drop(say);
    // Whoever asks again would do so within a round or two.
    one.until(PATIENCE, "a second more", |s| s.peers[&2].silent_ms > Some(2500)).await;
    assert!(gateway.asked.try_recv().is_err(), "it is off: nobody asks again");
}

#[tokio::test]
async fn a_job_that_breaks_off_is_asked_for_again() {
    let site = Site::new();
    let mut gateway = Gateway::start(&site, &Subject::Gateway("c".to_owned()), ready()).await;
    site.configure(2, &guarded(&gateway.address.to_string()));
    let [one, two] = pair(&site).await;
    two.kill().await;
    let (_, say) = gateway.next().await;
    say.send(Progress::Accepted { job: 7 }).await.unwrap();
    drop(say);
    let (again, say) = gateway.next().await;
    assert_eq!(again.targets, [NodeId(2)].into());
    let why = "level 1: bmc-2: no answer".to_owned();
    let results = BTreeMap::from([(NodeId(2), Outcome::Failed { why })]);
    say.send(Progress::Done { results }).await.unwrap();
    let failed = one.until(PATIENCE, "it has failed", |s| s.fencing[&2].contains("failed")).await;
    assert!(failed.fencing[&2].contains("haguard fence confirm 2"), "{:?}", failed.fencing);
}

#[tokio::test]
async fn a_gateway_that_would_not_work_is_known_before_it_is_needed() {
    let site = Site::new();
    let lame = GatewayStatus {
        arbiter: "connection refused".to_owned(),
        alarms: vec!["bmc-1 does not answer".to_owned()],
        nodes: BTreeMap::from([(1, TargetStatus::default())]),
        ..ready()
    };
    let lame = Gateway::start(&site, &Subject::Gateway("c".to_owned()), lame).await;
    // A node's certificate is no gateway's.
    let false_one = Gateway::start(&site, &member("c", 1), ready()).await;
    let nobody = SocketAddr::from((lame.address.ip(), 9));
    let gateways = [lame.address, false_one.address, nobody].map(|address| address.to_string());
    site.configure(2, &guarded(&gateways.join(", ")));
    let one = site.start(1);
    let seen = one.until(PATIENCE, "all are judged", |s| {
        gateways.iter().all(|name| s.gateways.get(name).is_some_and(|said| said != "not asked yet"))
    });
    let seen = seen.await;
    let warned = |words: &[&str]| {
        let all = |warning: &String| words.iter().all(|word| warning.contains(word));
        assert!(seen.warnings.iter().any(all), "{words:?}: {:#?}", seen.warnings);
    };
    warned(&[&gateways[0], "no connection to the arbiter (connection refused)"]);
    warned(&[&gateways[0], "bmc-1 does not answer"]);
    warned(&[&gateways[0], "no way to cut the power of node 2"]);
    warned(&[&gateways[1], "does not answer: tls handshake failed", "gateway"]);
    warned(&[&gateways[2], "does not answer: cannot connect"]);
}
