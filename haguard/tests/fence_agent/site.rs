//! A cluster of real processes with a gateway and power switches, and how they are asked.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use haguard::command::demo::samples::now;
use haguard::command::demo::world::CLUSTER;
use nix::sys::signal::Signal;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::common::arbiter::certs;
use super::common::cluster::Cluster;
use super::common::{Daemon, LIMIT, PROGRAM, soon};

/// What a command said, on both outputs, and its exit code.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) text: String,
}

/// The cluster, its gateway, and a switch for each node.
pub(crate) struct Site {
    pub(crate) cluster: Cluster,
    gateway: Daemon,
    port: u16,
}

impl Site {
    /// Everything runs, and both switches are known to work.
    pub(crate) async fn start(name: &str, seed: u64) -> Self {
        let cluster = Cluster::start(name, seed, false).await;
        let home = cluster.directory.join("gateway");
        fs::create_dir_all(&home).unwrap();
        symlink(PROGRAM, home.join("fence_haguard")).unwrap();
        let text = |path: &Path| path.display().to_string();
        let (authority, out) = (text(&cluster.directory.join("ca")), text(&home));
        certs(&["gateway", "--dir", &authority, "--out", &out, "--cluster", CLUSTER]);
        let mut file = format!(
            "cluster = \"{CLUSTER}\"\narbiter = \"{}\"\nlisten = \"127.0.0.1:0\"\n",
            cluster.world.layout().arbiter()
        );
        for node in cluster.world.all() {
            let outlet = outlet(&home, node, &cluster.directory.join(format!("node{node}")));
            file += &format!(
                "[devices.outlet-{node}]\nkind = \"agent\"\nprogram = \"{}\"\nlimit = \"2s\"\n\
                 settle = \"2s\"\n\
                 [nodes.{node}]\nlevels = [[\"outlet-{node}\"]]\nunfence = true\n",
                text(&outlet)
            );
        }
        fs::write(home.join("gateway.toml"), file).unwrap();
        let mut command = std::process::Command::new(PROGRAM);
        command.args(["fence", "gateway", "--config"]).arg(home.join("gateway.toml"));
        command.arg("--state-dir").arg(home.join("state")).arg("--run-dir").arg(home.join("run"));
        command.arg("--tls-ca").arg(home.join("ca.pem"));
        command.arg("--tls-cert").arg(home.join("gateway.pem"));
        command.arg("--tls-key").arg(home.join("gateway-key.pem"));
        let gateway = Daemon::spawn(&mut command, &text(&home.join("log")));
        let port = soon("a listening gateway", || {
            let log = gateway.log();
            let rest = log.split_once(" listens on ")?.1;
            rest.lines().next()?.trim().rsplit_once(':')?.1.parse().ok()
        });
        let port = port.await;
        let site = Self { cluster, gateway, port };
        let limit = now() + LIMIT;
        loop {
            let list = site.fence(&["list", "--json"]).await;
            if list.code == Some(0) && list.text.matches("\"power\": \"on\"").count() == 2 {
                return site;
            }
            assert!(now() < limit, "{list:?}\n{}", site.gateway.log());
        }
    }

    fn home(&self) -> PathBuf {
        self.cluster.directory.join("gateway")
    }

    /// The gateway's state directory.
    pub(crate) fn state(&self) -> PathBuf {
        self.home().join("state")
    }

    /// A file of a node's switch.
    pub(crate) fn outlet(&self, node: u32, name: &str) -> PathBuf {
        self.home().join(format!("outlet-{node}.{name}"))
    }

    /// The agent, with options on its standard input, asking the gateway of this machine unless
    /// the options name one.
    pub(crate) async fn agent(&self, options: &str) -> Said {
        let mut command = Command::new(self.home().join("fence_haguard"));
        let options = format!("run_dir={}\n{options}\n", self.home().join("run").display());
        said(&mut command, &options).await
    }

    /// The options by which a node's host reaches the gateway, with that node's certificate.
    pub(crate) fn https(&self, node: u32) -> String {
        let at = self.cluster.directory.join(format!("node{node}")).display().to_string();
        format!(
            "ip=127.0.0.1\nipport={}\ntls_ca={at}/ca.pem\ntls_cert={at}/node.pem\n\
             tls_key={at}/node-key.pem",
            self.port
        )
    }

    /// The agent as a node's Pacemaker calls it.
    pub(crate) async fn agent_of(&self, node: u32, action: &str, target: Option<u32>) -> Said {
        let plug = target.map(|target| format!("\nplug={target}")).unwrap_or_default();
        self.agent(&format!("{}\naction={action}{plug}", self.https(node))).await
    }

    /// `haguard fence` of an operator at the gateway's machine.
    pub(crate) async fn fence(&self, args: &[&str]) -> Said {
        let mut command = Command::new(PROGRAM);
        command.arg("fence").args(args).arg("--run-dir").arg(self.home().join("run"));
        said(&mut command, "").await
    }

    /// The same on a node's host.
    pub(crate) async fn fence_from(&self, node: u32, args: &[&str]) -> Said {
        let home = self.cluster.directory.join(format!("node{node}"));
        let mut command = Command::new(PROGRAM);
        command.arg("fence").args(args).args(["--gateway", &format!("127.0.0.1:{}", self.port)]);
        command.arg("--tls-ca").arg(home.join("ca.pem"));
        command.arg("--tls-cert").arg(home.join("node.pem"));
        command.arg("--tls-key").arg(home.join("node-key.pem"));
        said(&mut command, "").await
    }

    /// `haguard fence verify-journal`.
    pub(crate) async fn verify(&self, state: &Path) -> Said {
        let mut command = Command::new(PROGRAM);
        said(command.args(["fence", "verify-journal", "--state-dir"]).arg(state), "").await
    }

    /// What a node's switch was told to do, without questions.
    pub(crate) fn told(&self, node: u32) -> Vec<String> {
        let log = fs::read_to_string(self.outlet(node, "log")).unwrap_or_default();
        let orders = log.lines().filter(|line| matches!(*line, "off" | "on"));
        orders.map(str::to_owned).collect()
    }

    /// How many processes of a node live.
    pub(crate) fn processes(&self, node: u32) -> usize {
        self.cluster.world.signal_node(node, Signal::SIGCONT)
    }

    pub(crate) async fn end(self) {
        drop(self.gateway);
        self.cluster.end().await;
    }
}

async fn said(command: &mut Command, input: &str) -> Said {
    command.env_remove("RUST_LOG").stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).await.unwrap();
    drop(stdin);
    let output = tokio::time::timeout(LIMIT, child.wait_with_output()).await.unwrap().unwrap();
    let text = [output.stdout, output.stderr].concat();
    Said { code: output.status.code(), text: String::from_utf8(text).unwrap() }
}

/// A fence agent that ends all processes that are at home in a node's directory or told of it, with what it has told in
/// files. While there is a file `stuck` it does nothing.
fn outlet(home: &Path, node: u32, victim: &Path) -> PathBuf {
    let path = home.join(format!("outlet-{node}"));
    let (name, victim) = (path.display(), victim.display());
    let script = format!(
        "#!/bin/sh\n\
         while read line; do case $line in action=*) action=${{line#action=}};; esac; done\n\
         echo $action >> {name}.log\n\
         if [ -e {name}.stuck ]; then echo stuck >&2; exit 1; fi\n\
         case $action in\n\
         off)\n\
         for proc in /proc/[0-9]*; do\n\
         for word in $(readlink $proc/cwd) $(tr '\\0' ' ' < $proc/cmdline); do\n\
         case $word in {victim}|{victim}/*) kill -9 ${{proc#/proc/}}; break;; esac\n\
         done\n\
         done 2>/dev/null\n\
         echo off > {name}.power;;\n\
         on) echo on > {name}.power;;\n\
         status) read power < {name}.power\n\
         if [ $power = off ]; then echo Status: OFF; exit 2; fi; echo Status: ON;;\n\
         esac\n"
    );
    fs::write(&path, script).unwrap();
    fs::write(home.join(format!("outlet-{node}.power")), "on\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}
