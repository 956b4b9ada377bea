//! A configuration that a Proxmox VE cluster has written drives node and device: two, four and ten
//! nodes of it on one machine, in a network namespace where their addresses are.

#![expect(clippy::unwrap_used, reason = "a test ends where it goes wrong")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

const HAGUARD: &str = env!("CARGO_BIN_EXE_haguard");
const CLUSTER: &str = "ProxCephCluster";
/// How often a state is looked at, and how many times at most: a minute.
const PAUSE: Duration = Duration::from_millis(200);
const LOOKS: u32 = 300;

/// The file as Proxmox VE writes it, for this many nodes, with or without a quorum device.
fn configuration(nodes: u32, device: bool) -> String {
    let mut text = "logging {\n  debug: off\n  to_syslog: yes\n}\n\nnodelist {\n".to_owned();
    for node in 1..=nodes {
        let host = 110 + node;
        write!(
            text,
            "  node {{\n    name: proxmox{host}\n    nodeid: {node}\n    quorum_votes: 1\n    \
             ring1_addr: 10.10.100.{host}\n  }}\n"
        )
        .unwrap();
    }
    text.push_str("}\n\nquorum {\n  provider: corosync_votequorum\n");
    if device {
        text.push_str(
            "  device {\n    model: net\n    votes: 1\n    net {\n      algorithm: ffsplit\n      \
             host: 10.10.100.250\n      tls: on\n    }\n  }\n",
        );
    }
    text.push_str(
        "}\n\ntotem {\n  cluster_name: ProxCephCluster\n  config_version: 3\n  interface {\n    \
         linknumber: 1\n  }\n  ip_version: ipv4-6\n  link_mode: passive\n  secauth: on\n  \
         version: 2\n}\n",
    );
    text
}

#[test]
fn the_generated_configuration_is_the_real_one() {
    let real = include_str!("../../node/tests/data/proxmox-three-nodes.conf");
    let lines = |text: &str| -> Vec<String> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        lines.filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    };
    assert_eq!(lines(&configuration(3, false)), lines(real));
}

/// A network namespace with the cluster's addresses, and everything that runs in it.
struct Site {
    namespace: String,
    directory: PathBuf,
    children: Vec<Child>,
}

impl Site {
    fn new(nodes: u32) -> Self {
        let namespace = format!("haguard-{nodes}-{}", std::process::id());
        let directory = std::env::temp_dir().join(&namespace);
        fs::create_dir_all(&directory).unwrap();
        let site = Self { namespace, directory, children: Vec::new() };
        must(Command::new("ip").args(["netns", "add", &site.namespace]));
        let ip = |args: &[&str]| {
            must(Command::new("ip").args(["-n", &site.namespace]).args(args));
        };
        ip(&["link", "set", "lo", "up"]);
        for host in (111..111 + nodes).chain([250]) {
            ip(&["address", "add", &format!("10.10.100.{host}/32"), "dev", "lo"]);
        }
        fs::write(site.directory.join("corosync.conf"), configuration(nodes, true)).unwrap();
        site
    }

    fn path(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    fn start(&mut self, log: &str, args: &[&str]) {
        let log = fs::File::create(self.directory.join(log)).unwrap();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace, HAGUARD]).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.children.push(command.spawn().unwrap());
    }

    /// One daemon's flags: its own directories, and where its certificate is.
    fn places(&self, of: &str, certificate: &str) -> Vec<String> {
        let (state, run) = (self.path(&format!("{of}/state")), self.path(&format!("{of}/run")));
        fs::create_dir_all(&state).unwrap();
        fs::create_dir_all(&run).unwrap();
        let tls = |file: &str| self.path(&format!("{of}/{file}"));
        let (ca, cert) = (tls("ca.pem"), tls(&format!("{certificate}.pem")));
        let key = tls(&format!("{certificate}-key.pem"));
        let flags = ["--state-dir", &state, "--run-dir", &run, "--tls-ca", &ca];
        let more = ["--tls-cert", &cert, "--tls-key", &key];
        flags.into_iter().chain(more).map(str::to_owned).collect()
    }

    fn run(&mut self, nodes: u32) {
        let ca = self.path("ca");
        let certs = |args: &[&str]| must(Command::new(HAGUARD).arg("certs").args(args));
        certs(&["init", "--dir", &ca]);
        certs(&["arbiter", "--dir", &ca, "--out", &self.path("arbiter")]);
        let arbiter = self.places("arbiter", "arbiter");
        let listen = ["qnetd", "-f", "-l", "10.10.100.250"];
        let args: Vec<&str> =
            listen.into_iter().chain(arbiter.iter().map(String::as_str)).collect();
        self.start("arbiter.log", &args);
        let conf = self.path("corosync.conf");
        for node in 1..=nodes {
            let (id, of) = (node.to_string(), format!("node{node}"));
            let out = self.path(&of);
            let who = ["--dir", &ca, "--cluster", CLUSTER, "--node", &id, "--out", &out];
            certs(&[&["node"], &who[..]].concat());
            let places = self.places(&of, "node");
            let places: Vec<&str> = places.iter().map(String::as_str).collect();
            let args = ["node", "--cluster-conf", &conf, "--node-id", &id];
            self.start(&format!("{of}.log"), &[&args, &places[..]].concat());
            let mut device = vec!["qdevice", "-f"];
            // The device's state and locks have other names than the node's.
            device.extend(&places);
            self.start(&format!("device{node}.log"), &device);
        }
    }

    fn status(&self, node: u32) -> Option<Value> {
        let run = self.path(&format!("node{node}/run"));
        let output = Command::new(HAGUARD).args(["status", "--json", "--run-dir", &run]).output();
        serde_json::from_slice(&output.ok()?.stdout).ok()
    }

    /// Every node in one view, with the vote of its device.
    fn is_complete(&self, nodes: u32) -> bool {
        (1..=nodes).all(|node| {
            let Some(status) = self.status(node) else { return false };
            let members = status["members"].as_array().map_or(0, Vec::len);
            status["quorate"] == true
                && u32::try_from(members) == Ok(nodes)
                && status["qdevice"]["vote"] == "ack"
                && status["votes"]["total"] == nodes + 1
        })
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
        for child in &mut self.children {
            let _ = child.wait();
        }
        let _ = Command::new("ip").args(["netns", "delete", &self.namespace]).status();
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}

fn must(command: &mut Command) {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}");
}

/// Namespaces need root and iproute2; on a developer's machine without them that is said.
fn can_make_namespaces() -> bool {
    let probe = format!("haguard-probe-{}", std::process::id());
    let made = Command::new("ip").args(["netns", "add", &probe]).output();
    let made = made.is_ok_and(|output| output.status.success());
    if made {
        must(Command::new("ip").args(["netns", "delete", &probe]));
    } else {
        assert!(std::env::var_os("CI").is_none(), "no network namespaces: run as root");
        let _ = std::io::Write::write_all(
            &mut std::io::stderr(),
            b"left out: no network namespaces here; run as root, with iproute2 installed\n",
        );
    }
    made
}

fn drives(nodes: u32, quorum: u32) {
    if !can_make_namespaces() {
        return;
    }
    let mut site = Site::new(nodes);
    site.run(nodes);
    let (sender, pause) = std::sync::mpsc::channel::<()>();
    let complete = (0..LOOKS).any(|_| {
        // A channel that nobody sends to is a pause between two looks.
        let _ = pause.recv_timeout(PAUSE);
        site.is_complete(nodes)
    });
    drop(sender);
    let last = site.status(1);
    assert!(complete, "see {}: node 1 says {last:?}", Path::new(&site.directory).display());
    let votes = &last.unwrap()["votes"];
    assert_eq!(votes["quorum"], quorum);
    assert_eq!(votes["expected"], nodes + 1);
}

#[test]
fn two_nodes_of_a_proxmox_cluster_and_their_devices_run_on_one_machine() {
    drives(2, 2);
}

#[test]
fn four_nodes_of_a_proxmox_cluster_and_their_devices_run_on_one_machine() {
    drives(4, 3);
}

#[test]
fn ten_nodes_of_a_proxmox_cluster_and_their_devices_run_on_one_machine() {
    drives(10, 6);
}
