//! A whole cluster as real processes in a network namespace of its own, where its addresses are.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use haguard::command::demo::samples::{Record, Sampler, now};
use serde_json::Value;
use tokio::time::sleep;

use super::arbiter::certs;
use super::{Daemon, LIMIT, PROGRAM, Scratch, is_root, status};

/// How much longer than a moment many nodes may take on a busy machine.
const LIMIT_FACTOR: u32 = 3;

/// The namespace, its directory, and what runs in it.
pub struct Site {
    namespace: String,
    pub scratch: Scratch,
    daemons: Vec<Daemon>,
    cluster: &'static str,
}

impl Site {
    /// A namespace with these addresses, and the cluster's configuration; `None` where namespaces
    /// cannot be made.
    pub fn new(
        name: &str,
        cluster: &'static str,
        configuration: &str,
        addresses: impl Iterator<Item = String>,
    ) -> Option<Self> {
        if !is_root("making network namespaces") {
            return None;
        }
        let scratch = Scratch::new(name);
        let namespace = format!("haguard-{name}-{}", std::process::id());
        let site = Self { namespace, scratch, daemons: Vec::new(), cluster };
        must(Command::new("ip").args(["netns", "add", &site.namespace]));
        site.ip(&["link", "set", "lo", "up"]);
        for address in addresses {
            site.ip(&["address", "add", &format!("{address}/32"), "dev", "lo"]);
        }
        fs::write(site.path("corosync.conf"), configuration).unwrap();
        Some(site)
    }

    pub fn path(&self, name: &str) -> String {
        self.scratch.path(name)
    }

    fn ip(&self, args: &[&str]) {
        must(Command::new("ip").args(["-n", &self.namespace]).args(args));
    }

    /// Gives nft(8) in the namespace a script.
    pub fn nft(&self, script: &str) {
        let file = self.path("nft");
        fs::write(&file, script).unwrap();
        must(Command::new("ip").args(["netns", "exec", &self.namespace, "nft", "-f", &file]));
    }

    /// Starts a daemon in its own directories, with its own certificate.
    fn start(&mut self, verb: &str, home: &str, certificate: &str, args: &[&str]) {
        let at = |name: &str| self.path(&format!("{home}/{name}"));
        let (state, run) = (at("state"), at("run"));
        fs::create_dir_all(&state).unwrap();
        fs::create_dir_all(&run).unwrap();
        let (ca, cert) = (at("ca.pem"), at(&format!("{certificate}.pem")));
        let key = at(&format!("{certificate}-key.pem"));
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace, PROGRAM, verb]).args(args);
        command.args(["--state-dir", &state, "--run-dir", &run, "--tls-ca", &ca]);
        command.args(["--tls-cert", &cert, "--tls-key", &key]);
        self.daemons.push(Daemon::spawn(&mut command, &self.path(&format!("{home}-{verb}.log"))));
    }

    /// Starts the arbiter on an address, unless there is none, and the nodes with their devices.
    pub fn run(&mut self, arbiter: Option<&str>, nodes: u32) {
        let (ca, conf) = (self.path("ca"), self.path("corosync.conf"));
        certs(&["init", "--dir", &ca]);
        if let Some(address) = arbiter {
            certs(&["arbiter", "--dir", &ca, "--out", &self.path("arbiter")]);
            self.start("qnetd", "arbiter", "arbiter", &["-l", address]);
        }
        for node in 1..=nodes {
            let (id, home) = (node.to_string(), format!("node{node}"));
            let out = self.path(&home);
            let who = ["--cluster", self.cluster, "--node", &id, "--out", &out];
            certs(&[&["node", "--dir", &ca], &who[..]].concat());
            self.start("node", &home, "node", &["--cluster-conf", &conf, "--node-id", &id]);
            if arbiter.is_some() {
                self.start("qdevice", &home, "node", &[]);
            }
        }
    }

    /// What a node says.
    pub fn status(&self, node: u32) -> Option<Value> {
        status(&self.path(&format!("node{node}/run")))
    }

    /// Asks these nodes all the time. Wants a tokio runtime.
    pub fn sampler(&self, nodes: u32) -> Sampler {
        let socket =
            |node: u32| (node, PathBuf::from(self.path(&format!("node{node}/run/node.sock"))));
        Sampler::start((1..=nodes).map(socket).collect::<BTreeMap<_, _>>())
    }

    /// Waits until the nodes have said something.
    pub async fn wait(&mut self, sampler: &Sampler, what: &str, so: impl Fn(&Record) -> bool) {
        let limit = now() + LIMIT * LIMIT_FACTOR;
        while !sampler.read(&so) {
            let logs = self.scratch.root().display().to_string();
            let first = sampler.read(|record| record.status(1).cloned());
            assert!(now() < limit, "not in time: {what}: see {logs}; node 1 says {first:#?}");
            let ended = self.daemons.iter_mut().find_map(|daemon| {
                daemon.ended().map(|status| format!("{status}: {}", daemon.log()))
            });
            assert!(ended.is_none(), "a daemon has ended while waiting: {what}: {ended:?}");
            sleep(std::time::Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // Whatever runs in the namespace was started for it, keepers included.
        let pids = Command::new("ip").args(["netns", "pids", &self.namespace]).output();
        let pids = pids.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        for pid in pids.unwrap_or_default().split_whitespace() {
            let _ = Command::new("kill").args(["-9", pid]).status();
        }
        self.daemons.clear();
        let _ = Command::new("ip").args(["netns", "delete", &self.namespace]).status();
    }
}

fn must(command: &mut Command) {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}");
}
