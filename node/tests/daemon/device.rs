//! The device's socket, with a device that the test plays.

use std::path::Path;
use std::time::Duration;

use host::socket::Lines;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protocol::host::{Cast, FromDevice, MAX_LINE_BYTES, Poll};
use protocol::ids::{ArbiterId, Epoch, GrantId, ViewId};
use protocol::status::{DeviceStatus, QuorumState};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use crate::site::{PATIENCE, Site, keeper_of, pair};

pub(crate) struct Device {
    from: Lines<OwnedReadHalf>,
    to: OwnedWriteHalf,
}

impl Device {
    pub(crate) async fn connect(run_dir: &Path) -> Self {
        let stream = UnixStream::connect(run_dir.join("device.sock")).await.unwrap();
        let (from, to) = stream.into_split();
        Self { from: Lines::new(from, MAX_LINE_BYTES), to }
    }

    async fn say(&mut self, said: &FromDevice) {
        let mut line = serde_json::to_vec(said).unwrap();
        line.push(b'\n');
        self.to.write_all(&line).await.unwrap();
    }

    pub(crate) async fn register(&mut self) {
        self.say(&FromDevice::Register { name: "Qdevice".to_owned() }).await;
    }

    /// The next line, `None` when the node has closed the connection.
    async fn next(&mut self) -> Option<Value> {
        let line = timeout(PATIENCE, self.from.next()).await.unwrap().ok()??;
        Some(serde_json::from_slice(&line).unwrap())
    }

    /// The next line of a type, past the others.
    pub(crate) async fn hear(&mut self, kind: &str) -> Value {
        loop {
            let line = self.next().await.unwrap_or_else(|| panic!("closed before {kind}"));
            if line["type"] == kind {
                return line;
            }
        }
    }

    async fn is_closed(&mut self) {
        while self.next().await.is_some() {}
    }

    pub(crate) async fn poll(&mut self, id: u64, view: ViewId, epoch: u64, lease: Duration) {
        let grant = GrantId { arbiter: ArbiterId(1), boot: 1, epoch: Epoch(epoch) };
        let expires = host::clock::read().plus(lease);
        let poll = Poll { id, view, cast: Some(Cast { expires, grant }) };
        self.say(&FromDevice::Poll(poll)).await;
    }
}

pub(crate) fn view_of(line: &Value) -> ViewId {
    serde_json::from_value(line["id"].clone()).unwrap()
}

#[tokio::test]
async fn a_device_is_welcomed_told_the_view_and_makes_the_survivor_quorate() {
    let site = Site::new();
    let [one, two] = pair(&site).await;
    let mut device = Device::connect(&one.run_dir).await;
    let welcome = device.next().await.unwrap();
    assert_eq!(welcome["type"], "welcome");
    assert_eq!((&welcome["cluster"], &welcome["node"]), (&"c".into(), &1.into()));
    assert_eq!(welcome["nodes"], serde_json::json!({"1": 0, "2": 0}));
    assert_eq!(welcome["device"]["algorithm"], "ffsplit");
    device.register().await;
    let view = device.hear("view").await;
    assert_eq!(view["members"], serde_json::json!([1, 2]));
    let quorum = device.hear("quorum").await;
    assert_eq!(quorum["quorate"], true);
    assert_eq!(quorum["nodes"], serde_json::json!({"1": true, "2": true}));
    device.hear("alive").await;
    let status = DeviceStatus { state: "connected".to_owned(), ..DeviceStatus::default() };
    device.say(&FromDevice::Status(Box::new(status))).await;

    // While the view stands, the device votes in it, with a long lease.
    device.poll(1, view_of(&view), 1, Duration::from_secs(8)).await;
    let polled = device.hear("polled").await;
    assert_eq!((&polled["id"], &polled["applied"]), (&1.into(), &true.into()));
    let three = one.until(PATIENCE, "three votes", |s| s.votes.total == 3).await;
    assert_eq!(three.qdevice.unwrap().state, "connected");

    // The device's vote freezes the survivor until it votes in the new view.
    two.kill().await;
    one.until(PATIENCE, "frozen", |s| s.state == QuorumState::Frozen).await;
    let alone = device.hear("view").await;
    assert_eq!(alone["members"], serde_json::json!([1]));
    device.poll(2, view_of(&alone), 50, Duration::from_secs(8)).await;
    let quorate = one.until(PATIENCE, "quorate alone", |s| s.quorate && s.members == [1]).await;
    assert_eq!(quorate.votes.total, 2);
    assert!(quorate.state_expires_ms.is_some_and(|ms| ms <= 8000), "{quorate:?}");
    assert_eq!(quorate.epoch, 50);
    let quorum = device.hear("quorum").await;
    assert_eq!(quorum["view"], alone["id"]);

    // Unregistering ends the vote at once, not when it expires.
    device.say(&FromDevice::Unregister).await;
    let gone = one.until(PATIENCE, "inquorate", |s| s.state == QuorumState::Inquorate).await;
    assert!(gone.qdevice.is_none());
    device.is_closed().await;
}

#[tokio::test]
async fn the_vote_of_a_device_that_dies_ends_with_its_lease() {
    let site = Site::new();
    let [one, two] = pair(&site).await;
    two.kill().await;
    one.until(PATIENCE, "alone", |s| s.members == [1]).await;
    let mut device = Device::connect(&one.run_dir).await;
    device.register().await;
    let view = device.hear("view").await;
    device.poll(1, view_of(&view), 50, Duration::from_secs(3)).await;
    let quorate = one.until(PATIENCE, "quorate alone", |s| s.quorate).await;
    assert!(quorate.state_expires_ms.unwrap() <= 3000);
    drop(device);
    let gone = one.until(PATIENCE, "the device is gone", |s| s.qdevice.is_none()).await;
    assert!(gone.quorate, "its lease goes on");
    one.until(PATIENCE, "the lease has ended", |s| s.state == QuorumState::Inquorate).await;
}

#[tokio::test]
async fn an_expired_poll_counts_for_nothing() {
    let site = Site::new();
    let [one, two] = pair(&site).await;
    two.kill().await;
    one.until(PATIENCE, "alone", |s| s.members == [1]).await;
    let mut device = Device::connect(&one.run_dir).await;
    device.register().await;
    let view = device.hear("view").await;
    device.poll(1, view_of(&view), 50, Duration::ZERO).await;
    device.poll(2, ViewId { nonce: 1, ..view_of(&view) }, 50, Duration::from_secs(8)).await;
    let polled = device.hear("polled").await;
    assert_eq!(polled["applied"], false);
    assert_eq!(one.status().await.unwrap().state, QuorumState::Inquorate);
}

#[tokio::test]
async fn a_second_device_is_closed_and_the_first_goes_on() {
    let site = Site::new();
    let [one, _two] = pair(&site).await;
    let mut first = Device::connect(&one.run_dir).await;
    first.register().await;
    let view = first.hear("view").await;
    let mut second = Device::connect(&one.run_dir).await;
    second.register().await;
    assert_eq!(second.next().await.unwrap()["type"], "welcome");
    assert_eq!(second.next().await, None);
    first.poll(1, view_of(&view), 1, Duration::from_secs(8)).await;
    assert_eq!(first.hear("polled").await["applied"], true);
    // When the first has gone there is room again.
    drop(first);
    let mut third = Device::connect(&one.run_dir).await;
    loop {
        third.register().await;
        assert_eq!(third.next().await.unwrap()["type"], "welcome");
        if third.next().await.is_some() {
            break;
        }
        third = Device::connect(&one.run_dir).await;
    }
}

#[tokio::test]
async fn what_is_no_message_ends_the_connection_and_nothing_else() {
    let site = Site::new();
    let [one, _two] = pair(&site).await;
    let long = vec![b'x'; MAX_LINE_BYTES + 5000];
    let greetings: [&[u8]; 4] = [b"\n", b"{}\n", b"{\"type\":\"unregister\"}\n", &long];
    for nonsense in greetings {
        let mut device = Device::connect(&one.run_dir).await;
        // It may be closed before all is written.
        let _ = device.to.write_all(nonsense).await;
        device.is_closed().await;
    }
    let mut device = Device::connect(&one.run_dir).await;
    device.register().await;
    device.hear("alive").await;
    device.to.write_all(b"{\"type\":\"poll\",\"id\":-1}\n").await.unwrap();
    device.is_closed().await;
    one.until(PATIENCE, "still quorate", |s| s.quorate && s.qdevice.is_none()).await;
}

#[tokio::test]
async fn who_does_not_register_is_closed() {
    let site = Site::new();
    let one = site.start(1);
    one.until(PATIENCE, "a status", |_| true).await;
    let mut silent = Device::connect(&one.run_dir).await;
    assert_eq!(silent.next().await.unwrap()["type"], "welcome");
    assert_eq!(silent.next().await, None);
}

/// Changes the site's configuration and says so to the daemons, which are this process.
fn reload(site: &Site, from: &str, to: &str) {
    let path = site.path("corosync.conf");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
    kill(Pid::this(), Signal::SIGHUP).unwrap();
}

#[tokio::test]
async fn a_reload_tells_the_device_what_may_change_and_refuses_the_rest_as_a_whole() {
    let site = Site::new();
    let [one, _two] = pair(&site).await;
    let before = one.status().await.unwrap();
    let mut device = Device::connect(&one.run_dir).await;
    let first = device.next().await.unwrap();
    assert_eq!((&first["device"]["tls"], &first["config_version"]), (&"on".into(), &Value::Null));
    device.register().await;
    device.hear("view").await;

    // Refused: more than the device's own way to the arbiter changes, and then nothing does.
    let net = "   host: 127.0.0.1\n";
    reload(&site, net, "   host: 127.0.0.2\n   tls: required\n");
    // Refused: no configuration at all.
    reload(&site, "totem {", "totem {{");
    // Taken: what is left differs in nothing that members must have in common.
    reload(&site, "totem {{", "totem {");
    reload(&site, "   host: 127.0.0.2\n", net);
    let again = device.hear("welcome").await;
    assert_eq!(again["device"]["tls"], "required");
    assert_eq!(again["device"]["host"], "127.0.0.1");
    reload(&site, " version: 2\n", " version: 2\n config_version: 7\n");
    assert_eq!(device.hear("welcome").await["config_version"], 7);

    // The view has not noticed, and the next device is welcomed with the newest.
    let after = one.until(PATIENCE, "still quorate", |s| s.quorate).await;
    assert_eq!(after.view, before.view);
    drop(device);
    let mut device = Device::connect(&one.run_dir).await;
    let welcome = device.next().await.unwrap();
    assert_eq!(
        (&welcome["device"]["tls"], &welcome["config_version"]),
        (&"required".into(), &7.into())
    );
}

#[tokio::test]
async fn a_device_that_was_greeted_before_a_reload_is_told_when_it_registers() {
    let site = Site::new();
    let [one, _two] = pair(&site).await;
    let mut early = Device::connect(&one.run_dir).await;
    assert_eq!(early.next().await.unwrap()["config_version"], Value::Null);
    reload(&site, " version: 2\n", " version: 2\n config_version: 7\n");
    // Who comes now is greeted with the change, once it is known.
    loop {
        let mut next = Device::connect(&one.run_dir).await;
        if next.next().await.unwrap()["config_version"] == 7 {
            break;
        }
    }
    early.register().await;
    assert_eq!(early.hear("welcome").await["config_version"], 7);
    early.hear("view").await;
}

#[tokio::test]
async fn the_device_is_told_when_the_watchdog_proves_nothing_any_more() {
    let site = Site::new();
    site.configure(2, " watchdog: process\n trust_process_watchdog: yes");
    let [one, _two] = pair(&site).await;
    let mut device = Device::connect(&one.run_dir).await;
    assert_eq!(device.next().await.unwrap()["bound"]["class"], "C");
    device.register().await;
    kill(keeper_of(&one.run_dir).unwrap(), Signal::SIGKILL).unwrap();
    assert_eq!(device.hear("welcome").await["bound"]["class"], "D");
    assert_eq!(device.hear("welcome").await["bound"]["class"], "C");
}

#[tokio::test]
async fn an_epoch_from_the_device_is_stored_and_the_next_view_is_above_it() {
    let site = Site::new();
    let [one, two] = pair(&site).await;
    let mut device = Device::connect(&one.run_dir).await;
    device.register().await;
    device.say(&FromDevice::Epoch { highest: Epoch(500) }).await;
    while device.hear("alive").await["highest_epoch"] != 500 {}
    two.kill().await;
    one.until(PATIENCE, "alone", |s| s.members == [1] && s.epoch == 501).await;
}

#[tokio::test]
async fn without_a_device_in_the_configuration_a_connection_may_wait() {
    let site = Site::new();
    let path = site.path("corosync.conf");
    let text = std::fs::read_to_string(&path).unwrap();
    let start = text.find(" device {").unwrap();
    let end = text.find("}\nhaguard").unwrap();
    std::fs::write(&path, text.replacen(&text[start..end], "", 1)).unwrap();
    let one = site.start(1);
    one.until(PATIENCE, "a status", |_| true).await;
    let mut waiting = Device::connect(&one.run_dir).await;
    assert_eq!(waiting.next().await.unwrap()["device"], Value::Null);
    // Longer than a device may take that is wanted.
    let silence = timeout(Duration::from_millis(2500), waiting.from.next()).await;
    assert!(silence.is_err(), "{silence:?}");
}
