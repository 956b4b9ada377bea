//! The gateway, the arbiter and two nodes as real processes; a shell script is the lost node's
//! power switch.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::cluster::Cluster;
use common::{Daemon, LIMIT, PROGRAM, haguard, stderr};
use fence::daemon::local::Ask;
use haguard::command::demo::samples::now;
use haguard::command::demo::world::CLUSTER;
use protocol::fence::{GatewayStatus, How, Outcome, PowerAction, Progress, Request};
use protocol::ids::{Epoch, NodeId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Duration, sleep, timeout};

/// From one look to the next.
const LOOK: Duration = Duration::from_millis(20);

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);

/// A gateway of the cluster, with an outlet for each node.
struct Gateway {
    home: PathBuf,
    daemon: Daemon,
}

impl Gateway {
    async fn start(cluster: &Cluster) -> Self {
        let home = cluster.directory.join("gateway");
        fs::create_dir_all(&home).unwrap();
        let path = |path: &Path| path.display().to_string();
        let authority = path(&cluster.directory.join("ca"));
        let out = path(&home);
        let issued = haguard(&[
            "certs",
            "gateway",
            "--dir",
            &authority,
            "--out",
            &out,
            "--cluster",
            CLUSTER,
        ]);
        assert!(issued.status.success(), "{}", stderr(&issued));
        let arbiter = cluster.world.layout().arbiter();
        let mut text =
            format!("cluster = \"{CLUSTER}\"\narbiter = \"{arbiter}\"\nlisten = \"127.0.0.1:0\"\n");
        for node in [1, 2] {
            let outlet = outlet(&home, node);
            text += &format!(
                "[devices.outlet-{node}]\nkind = \"agent\"\nprogram = \"{}\"\n\
                 [nodes.{node}]\nlevels = [[\"outlet-{node}\"]]\n",
                outlet.display()
            );
        }
        fs::write(home.join("gateway.toml"), text).unwrap();
        let mut command = Command::new(PROGRAM);
        command.args(["fence", "gateway", "--config"]).arg(home.join("gateway.toml"));
        command.arg("--state-dir").arg(home.join("state")).arg("--run-dir").arg(home.join("run"));
        command.arg("--tls-ca").arg(home.join("ca.pem"));
        command.arg("--tls-cert").arg(home.join("gateway.pem"));
        command.arg("--tls-key").arg(home.join("gateway-key.pem"));
        let daemon = Daemon::spawn(&mut command, &path(&home.join("log")));
        let gateway = Self { home, daemon };
        gateway.until("the arbiter", |status| status.arbiter == "connected").await;
        gateway
    }

    /// One line to the local socket; the lines of the answer, none while nobody answers.
    async fn ask(&self, ask: &Ask) -> Vec<String> {
        let asked = async {
            let mut stream = UnixStream::connect(self.home.join("run/fence.sock")).await.ok()?;
            let line = serde_json::to_string(ask).unwrap() + "\n";
            stream.write_all(line.as_bytes()).await.ok()?;
            let mut text = String::new();
            stream.read_to_string(&mut text).await.ok()?;
            Some(text.lines().map(str::to_owned).collect())
        };
        timeout(LIMIT, asked).await.unwrap().unwrap_or_default()
    }

    async fn until(&self, what: &str, wanted: impl Fn(&GatewayStatus) -> bool) {
        let limit = now() + LIMIT;
        loop {
            let said = self.ask(&Ask::Status).await;
            let status = said.first().map(|line| serde_json::from_str(line).unwrap());
            if status.as_ref().is_some_and(&wanted) {
                return;
            }
            assert!(now() < limit, "no {what}: {said:?}\n{}", self.daemon.log());
            sleep(LOOK).await;
        }
    }

    /// Off for a node, for a side, to its end.
    async fn off(&self, requester: NodeId, epoch: Option<Epoch>, target: NodeId) -> Outcome {
        let request = Request {
            requester,
            epoch,
            targets: [target].into(),
            action: PowerAction::Off,
            reason: "a test".to_owned(),
        };
        let lines = self.ask(&Ask::Fence(request)).await;
        let last = lines.last().map(|line| serde_json::from_str(line).unwrap());
        match last {
            Some(Progress::Done { mut results }) => results.remove(&target).unwrap(),
            other => panic!("no end: {other:?}\n{}", self.daemon.log()),
        }
    }

    /// What a node's outlet was told to do, without questions.
    fn told(&self, node: u32) -> Vec<String> {
        let log = fs::read_to_string(self.home.join(format!("outlet-{node}.log")));
        let log = log.unwrap_or_default();
        let orders = log.lines().filter(|line| matches!(*line, "off" | "on"));
        orders.map(str::to_owned).collect()
    }
}

/// A fence agent with its state in a file.
fn outlet(home: &Path, node: u32) -> PathBuf {
    let path = home.join(format!("outlet-{node}"));
    let name = path.display();
    let script = format!(
        "#!/bin/sh\n\
         while read line; do case $line in action=*) action=${{line#action=}};; esac; done\n\
         echo $action >> {name}.log\n\
         case $action in\n\
         off|on) echo $action > {name}.power;;\n\
         status) read power < {name}.power\n\
         if [ $power = off ]; then echo Status: OFF; exit 2; fi; echo Status: ON;;\n\
         esac\n"
    );
    fs::write(&path, script).unwrap();
    fs::write(home.join(format!("outlet-{node}.power")), "on\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn epoch(cluster: &Cluster, node: u32) -> Option<Epoch> {
    cluster.sampler.read(|record| record.status(node).map(|status| Epoch(status.epoch)))
}

/// It was refused, and this word is in the reason.
fn says(outcome: &Outcome, word: &str) -> bool {
    match outcome {
        Outcome::Refused { why } => why.contains(word),
        Outcome::Off { .. } | Outcome::Rebooted { .. } | Outcome::On | Outcome::Failed { .. } => {
            false
        }
    }
}

#[tokio::test]
async fn an_arbiter_without_nodes_entitles_nobody() {
    let mut cluster = Cluster::build("gateway-alone", 62, false).await;
    cluster.world.start_arbiter().unwrap();
    let gateway = Gateway::start(&cluster).await;
    let refused = gateway.off(ONE, None, TWO).await;
    assert!(says(&refused, "no live connection"), "{refused:?}");
    assert_eq!(gateway.told(2), [""; 0]);
    drop(gateway);
    let wrong = cluster.world.end(Duration::from_secs(20)).await;
    assert!(wrong.is_empty(), "{wrong:?}");
    cluster.remove();
}

#[tokio::test]
async fn a_lost_node_is_proven_off_and_the_arbiter_ends_its_bound() {
    let mut cluster = Cluster::start("gateway", 61, false).await;
    let gateway = Gateway::start(&cluster).await;
    let before = epoch(&cluster, 1);
    // Nobody is lost: both are of one side.
    let refused = gateway.off(ONE, before, TWO).await;
    assert!(matches!(refused, Outcome::Refused { .. }), "{refused:?}");
    assert_eq!(gateway.told(2), [""; 0]);
    cluster.world.kill_node(2).await.unwrap();
    cluster.done.push("node 2 lost its power;".to_owned());
    // Until the arbiter has chosen node 1, it says so and nothing is cut.
    let limit = now() + LIMIT;
    let outcome = loop {
        match gateway.off(ONE, epoch(&cluster, 1), TWO).await {
            Outcome::Refused { why } => assert!(now() < limit, "{why}; {}", cluster.story()),
            other @ (Outcome::Off { .. }
            | Outcome::Rebooted { .. }
            | Outcome::On
            | Outcome::Failed { .. }) => break other,
        }
        sleep(LOOK).await;
    };
    let Outcome::Off { proof } = &outcome else { panic!("{outcome:?}; {}", cluster.story()) };
    assert_eq!((proof.node, &proof.how), (TWO, &How::ReadOff));
    assert_eq!((gateway.told(2), gateway.told(1)), (vec!["off".to_owned()], Vec::new()));
    let grant = cluster
        .grant_that("node 1 alone, node 2 off", |grant| {
            grant.holder == [1] && grant.confirmed_off == [2]
        })
        .await;
    // Who speaks of an old epoch is refused, and so is who is not there.
    assert!(Some(Epoch(grant.epoch)) > before, "{grant:?}");
    let stale = gateway.off(ONE, before, TWO).await;
    assert!(says(&stale, "epoch"), "{stale:?}");
    let dead = gateway.off(TWO, None, ONE).await;
    assert!(says(&dead, "no live connection"), "{dead:?}");
    assert_eq!(gateway.told(1), [""; 0]);
    drop(gateway);
    cluster.end().await;
}
