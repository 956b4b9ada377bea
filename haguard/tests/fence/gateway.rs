//! A gateway's process: where it has everything, what it is asked, and its end in the middle.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use fence::daemon::local::Ask;
use haguard::command::demo::samples::now;
use nix::sys::signal::Signal;
use protocol::fence::{GatewayStatus, Outcome, PowerAction, Progress, Request};
use protocol::ids::{Epoch, NodeId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Duration, sleep, timeout};

use super::common::arbiter::certs;
use super::common::{Daemon, LIMIT, PROGRAM};

/// From one look to the next.
const LOOK: Duration = Duration::from_millis(20);

/// A gateway of a cluster.
pub(crate) struct Gateway {
    pub(crate) home: PathBuf,
    /// Where its journal is.
    pub(crate) state: PathBuf,
    cluster: String,
    arbiter: SocketAddr,
    daemon: Option<Daemon>,
}

/// Off for a node, for a side.
pub(crate) fn off(requester: NodeId, epoch: Option<Epoch>, target: NodeId) -> Request {
    Request {
        requester,
        epoch,
        targets: [target].into(),
        action: PowerAction::Off,
        reason: "a test".to_owned(),
    }
}

impl Gateway {
    /// Its directory and certificates; nothing runs yet.
    pub(crate) fn prepare(
        home: &Path,
        authority: &Path,
        cluster: &str,
        arbiter: SocketAddr,
    ) -> Self {
        fs::create_dir_all(home).unwrap();
        let (authority, out) = (authority.display().to_string(), home.display().to_string());
        certs(&["gateway", "--dir", &authority, "--out", &out, "--cluster", cluster]);
        Self {
            home: home.to_owned(),
            state: home.join("state"),
            cluster: cluster.to_owned(),
            arbiter,
            daemon: None,
        }
    }

    /// Writes its file, with these devices and nodes.
    pub(crate) fn write(&self, devices: &str) {
        let (cluster, arbiter) = (&self.cluster, self.arbiter);
        let text = format!(
            "cluster = \"{cluster}\"\narbiter = \"{arbiter}\"\nlisten = \"127.0.0.1:0\"\n{devices}"
        );
        fs::write(self.home.join("gateway.toml"), text).unwrap();
    }

    /// Starts it and waits until the arbiter answers it.
    pub(crate) async fn start(&mut self) {
        self.start_behind(&[]).await;
    }

    /// The same as the last words of another command, which becomes it.
    pub(crate) async fn start_behind(&mut self, words: &[&str]) {
        let mut words = words.iter().copied().chain([PROGRAM]);
        let mut command = Command::new(words.next().unwrap());
        command.args(words).args(["fence", "gateway", "--config"]);
        command.arg(self.home.join("gateway.toml"));
        command.arg("--state-dir").arg(&self.state).arg("--run-dir").arg(self.home.join("run"));
        command.arg("--tls-ca").arg(self.home.join("ca.pem"));
        command.arg("--tls-cert").arg(self.home.join("gateway.pem"));
        command.arg("--tls-key").arg(self.home.join("gateway-key.pem"));
        command.current_dir(&self.home);
        let log = self.home.join("log").display().to_string();
        self.daemon = Some(Daemon::spawn(&mut command, &log));
        self.until("the arbiter", |status| status.arbiter == "connected").await;
    }

    pub(crate) fn daemon(&mut self) -> &mut Daemon {
        self.daemon.as_mut().unwrap()
    }

    /// Everything that it has printed in all its lives.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.home.join("log")).unwrap_or_default()
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        let log = self.log();
        let (_, rest) = log.rsplit_once(" listens on ").unwrap();
        rest.lines().next().unwrap().trim().parse().unwrap()
    }

    /// Ends it in the middle, as a crash does.
    pub(crate) fn kill(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        daemon.signal(Signal::SIGKILL);
        assert_eq!(daemon.exit_code(), None, "it was killed");
    }

    /// Has it read another file.
    pub(crate) async fn reload(&mut self, devices: &str) {
        let done = |log: &str| log.matches("configuration and certificates read again").count();
        let before = done(&self.log());
        self.write(devices);
        self.daemon().signal(Signal::SIGHUP);
        let limit = now() + LIMIT;
        while done(&self.log()) == before {
            assert!(now() < limit, "the file was not read again: {}", self.log());
            sleep(LOOK).await;
        }
    }

    /// One line to the local socket; the lines of the answer, none while nobody answers.
    pub(crate) async fn ask(&self, ask: &Ask) -> Vec<String> {
        ask_at(&self.home, ask).await
    }

    pub(crate) async fn status(&self) -> GatewayStatus {
        serde_json::from_str(self.ask(&Ask::Status).await.first().unwrap()).unwrap()
    }

    pub(crate) async fn until(&self, what: &str, wanted: impl Fn(&GatewayStatus) -> bool) {
        let limit = now() + LIMIT;
        loop {
            let said = self.ask(&Ask::Status).await;
            let status = said.first().map(|line| serde_json::from_str(line).unwrap());
            if status.as_ref().is_some_and(&wanted) {
                return;
            }
            assert!(now() < limit, "no {what}: {said:?}\n{}", self.log());
            sleep(LOOK).await;
        }
    }

    /// Off for a node, for a side, to its end: the answer's lines, and how it ended.
    pub(crate) async fn fence(&self, request: Request) -> (String, Outcome) {
        fence_at(&self.home, request).await
    }

    /// How off for a node, for a side, ended.
    pub(crate) async fn off(
        &self,
        requester: NodeId,
        epoch: Option<Epoch>,
        target: NodeId,
    ) -> Outcome {
        self.fence(off(requester, epoch, target)).await.1
    }

    /// The journal, one record a line.
    pub(crate) async fn history(&self) -> Vec<String> {
        self.ask(&Ask::History { since: 0 }).await
    }

    /// What a node's outlet was told to do, without questions.
    pub(crate) fn told(&self, node: u32) -> Vec<String> {
        let log = fs::read_to_string(self.home.join(format!("outlet-{node}.log")));
        let log = log.unwrap_or_default();
        let orders = log.lines().filter(|line| matches!(*line, "off" | "on"));
        orders.map(str::to_owned).collect()
    }

    /// An outlet for each of these nodes: what the file says of them.
    pub(crate) fn outlets(&self, nodes: &[u32]) -> String {
        let one = |node: &u32| {
            let outlet = outlet(&self.home, *node);
            format!(
                "[devices.outlet-{node}]\nkind = \"agent\"\nprogram = \"{}\"\n\
                 [nodes.{node}]\nlevels = [[\"outlet-{node}\"]]\n",
                outlet.display()
            )
        };
        nodes.iter().map(one).collect()
    }

    /// Whether a node's outlet gives power.
    pub(crate) fn power_of(&self, node: u32) -> PathBuf {
        self.home.join(format!("outlet-{node}.power"))
    }
}

/// As [`Gateway::ask`], for a task of its own.
async fn ask_at(home: &Path, ask: &Ask) -> Vec<String> {
    let asked = async {
        let mut stream = UnixStream::connect(home.join("run/fence.sock")).await.ok()?;
        let line = serde_json::to_string(ask).unwrap() + "\n";
        stream.write_all(line.as_bytes()).await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        Some(text.lines().map(str::to_owned).collect())
    };
    timeout(LIMIT, asked).await.unwrap().unwrap_or_default()
}

async fn fence_at(home: &Path, request: Request) -> (String, Outcome) {
    let target = *request.targets.first().unwrap();
    let lines = ask_at(home, &Ask::Fence(request)).await;
    match lines.last().map(|line| serde_json::from_str(line).unwrap()) {
        Some(Progress::Done { mut results }) => {
            (lines.join("\n"), results.remove(&target).unwrap())
        }
        other => panic!("no end: {other:?}: {lines:?}"),
    }
}

/// A request whose answer nobody waits for, as its gateway may be killed meanwhile.
pub(crate) fn ask_and_leave(
    gateway: &Gateway,
    request: Request,
) -> tokio::task::JoinHandle<Vec<String>> {
    let home = gateway.home.clone();
    tokio::spawn(async move { ask_at(&home, &Ask::Fence(request)).await })
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

/// It was refused, and this word is in the reason.
pub(crate) fn says(outcome: &Outcome, word: &str) -> bool {
    match outcome {
        Outcome::Refused { why } => why.contains(word),
        Outcome::Off { .. } | Outcome::Rebooted { .. } | Outcome::On | Outcome::Failed { .. } => {
            false
        }
    }
}
