//! The files and the daemons of each host.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use haguard::command::demo::samples::now;

use super::conf::{Arbiter, CLUSTER, Stack, Timers, Tls};
use super::pki::{ARBITER_STORE, NODE_STORE, Pki};
use super::{At, HAGUARD, Lab, Role, must, patiently, watch};

/// A first start: corosync forms a ring in two seconds, and a device may try once in vain.
const START: Duration = Duration::from_secs(40);

/// A node's certificates as haguard calls them in its store, and in the lab's directory `state`.
pub(crate) const DEVICE_FILES: [(&str, &str); 3] =
    [("ca.pem", "ca.pem"), ("node.pem", "cluster.pem"), ("node-key.pem", "cluster-key.pem")];

impl Lab {
    /// What a host has on its disk before its first boot.
    pub(super) fn write_files(&self, at: At, pki: &Pki) {
        let place = self.place(at);
        for name in ["etc", "lib", "state"] {
            fs::create_dir_all(place.join(name)).unwrap();
        }
        let etc = place.join("etc");
        let take = |from: PathBuf, to: &str| {
            fs::copy(from, place.join("state").join(to)).unwrap();
        };
        match at {
            At::Arbiter => {
                for name in ["ca.pem", "arbiter.pem", "arbiter-key.pem"] {
                    take(pki.path("arbiter").join(ARBITER_STORE).join(name), name);
                }
                let timers = match self.plan.timers {
                    Timers::Quick => "device-timeout = \"2 s\"\nsync-timeout = \"6 s\"\n",
                    Timers::Default => "",
                };
                let config =
                    format!("[cluster.\"{CLUSTER}\"]\n{timers}lms-without-wait-for-all = true\n");
                fs::write(place.join("state/qnetd.toml"), config).unwrap();
                copy_tree(&pki.path("arbiter"), &etc);
                if self.plan.tls == Tls::Old && self.plan.arbiter == Arbiter::Stock {
                    forbid_new_tls(&etc.join(ARBITER_STORE).join("pkcs11.txt"));
                }
            }
            At::Node(node) => {
                for (from, to) in DEVICE_FILES {
                    take(pki.path("device").join(NODE_STORE).join(from), to);
                }
                copy_tree(&pki.path(&format!("own/n{node}")), &place.join("own"));
                copy_tree(&pki.path(if node == 1 { "first" } else { "other" }), &etc);
                fs::write(etc.join("corosync.conf"), self.plan.corosync_conf()).unwrap();
                fs::write(etc.join("healthy"), "").unwrap();
                let key = etc.join("authkey");
                fs::write(&key, [0x5a; 256]).unwrap();
                fs::set_permissions(key, fs::Permissions::from_mode(0o400)).unwrap();
                if self.plan.tls == Tls::Old {
                    forbid_new_tls(&etc.join(NODE_STORE).join("pkcs11.txt"));
                }
            }
        }
    }

    /// Starts the arbiter and waits until it listens.
    pub(crate) fn start_arbiter(&mut self) {
        let state = self.place(At::Arbiter).join("state").display().to_string();
        let places = [
            ["--state-dir", &state].map(str::to_owned),
            ["--run-dir", "/run/haguard"].map(str::to_owned),
            ["--config".to_owned(), format!("{state}/qnetd.toml")],
            ["--tls-ca".to_owned(), format!("{state}/ca.pem")],
            ["--tls-cert".to_owned(), format!("{state}/arbiter.pem")],
            ["--tls-key".to_owned(), format!("{state}/arbiter-key.pem")],
        ];
        let renamed = self.directory.join("bin/corosync-qnetd").display().to_string();
        let mut words: Vec<&str> = match self.plan.arbiter {
            // As ours by default.
            Arbiter::Stock => vec!["corosync-qnetd", "-f", "-s", "req"],
            Arbiter::Ours => vec![HAGUARD, "qnetd", "-f"],
            Arbiter::Renamed => vec![&renamed, "-f"],
        };
        if self.plan.arbiter != Arbiter::Stock {
            words.extend(places.iter().flatten().map(String::as_str));
        }
        self.start(At::Arbiter, Role::Arbiter, &words);
        patiently("the arbiter's port", Duration::from_secs(10), || {
            let sockets = self.text(At::Arbiter, &["ss", "-Hltn", "sport = :5403"]);
            (!sockets.is_empty()).then_some(())
        });
    }

    /// Starts corosync or our node, and begins to watch it.
    pub(crate) fn start_engine(&mut self, node: u32) {
        let at = At::Node(node);
        let place = self.place(at);
        match self.plan.stack {
            Stack::Stock | Stack::Mixed => {
                self.start_corosync(node);
                patiently("corosync's first answer", START, || {
                    let key = "runtime.votequorum.this_node_id";
                    let got = self.run(at, &["corosync-cmapctl", "-g", key]);
                    got.status.success().then_some(())
                });
            }
            Stack::Ours => {
                let id = node.to_string();
                let conf = place.join("etc/corosync.conf").display().to_string();
                let words = [HAGUARD, "node", "--node-id", &id, "--cluster-conf", &conf];
                let tls = ours_at(&place, "own", "node");
                let tls: Vec<&str> = tls.iter().map(String::as_str).collect();
                self.start(at, Role::Engine, &[&words[..], &tls].concat());
                let host = self.outside(at, "");
                self.watch.ask(node, host.parent().unwrap().to_owned());
            }
        }
    }

    /// Starts the quorum device.
    pub(crate) fn start_device(&mut self, node: u32) {
        let at = At::Node(node);
        // By its stock name: its socket is where the stock tool looks for it.
        let renamed = self.directory.join("bin/corosync-qdevice").display().to_string();
        let words: &[&str] = match self.plan.stack {
            Stack::Stock => return self.start(at, Role::Device, &["corosync-qdevice", "-f"]),
            Stack::Mixed => &[&renamed, "-f", "--host", "corosync"],
            Stack::Ours => &[&renamed, "-f", "--host", "node"],
        };
        let tls = ours_at(&self.place(at), "state", "cluster");
        let tls: Vec<&str> = tls.iter().map(String::as_str).collect();
        self.start(at, Role::Device, &[words, &tls].concat());
    }

    /// Boots a node and starts what belongs on it.
    pub(crate) fn boot(&mut self, node: u32) {
        self.power_on(At::Node(node));
        self.start_engine(node);
        self.start_device(node);
    }

    /// Starts everything and waits until all nodes are quorate with the device's vote.
    ///
    /// # Errors
    /// What the nodes say instead.
    pub(crate) fn up(&mut self) -> Result<Duration, String> {
        let start = now();
        self.start_all();
        self.whole()?;
        Ok(now().since(start))
    }

    /// Starts everything, and waits for what has to be there before the next can start.
    pub(crate) fn start_all(&mut self) {
        self.start_arbiter();
        for node in self.nodes() {
            self.start_engine(node);
        }
        for node in self.nodes() {
            self.start_device(node);
        }
    }

    /// Waits until all nodes are quorate in one view, each with the device's vote.
    ///
    /// # Errors
    /// What the nodes say instead.
    pub(crate) fn whole(&self) -> Result<Duration, String> {
        let start = now();
        self.one_view()?;
        while let Some(node) = self.nodes().into_iter().find(|node| !self.has_vote(*node)) {
            if now().since(start) >= START {
                let log = self.log(At::Node(node), Role::Device);
                return Err(format!("node {node} has no vote of its device:\n{log}"));
            }
            super::pause();
        }
        Ok(now().since(start))
    }

    /// Waits until all nodes are quorate in one view, whoever has the device's vote.
    ///
    /// # Errors
    /// What the nodes say instead.
    pub(crate) fn one_view(&self) -> Result<Duration, String> {
        let all = self.nodes().into_iter().collect();
        self.watch.until(START, |picture| watch::side(picture).as_ref() == Some(&all))
    }

    /// Whether the node's own device votes for it now.
    pub(crate) fn has_vote(&self, node: u32) -> bool {
        match self.plan.stack {
            Stack::Stock | Stack::Mixed => self
                .text(At::Node(node), &["corosync-quorumtool", "-s"])
                .lines()
                .filter(|line| line.ends_with("(local)"))
                .any(|line| line.contains("A,V")),
            Stack::Ours => {
                let words = [HAGUARD, "status", "--json", "--run-dir", "/run/haguard"];
                let status = self.text(At::Node(node), &words);
                let status: serde_json::Value = serde_json::from_str(&status).unwrap_or_default();
                status["qdevice"]["vote"] == "ack"
            }
        }
    }

    /// Waits until exactly these nodes are quorate, in one view, and stay so for `still`; returns
    /// when that began, from now.
    ///
    /// # Errors
    /// What the nodes say instead when the patience is over.
    pub(crate) fn settles(
        &self,
        sides: &[&[u32]],
        still: Duration,
        patience: Duration,
    ) -> Result<Duration, String> {
        let sides: Vec<_> = sides.iter().map(|side| side.iter().copied().collect()).collect();
        let is_it = |picture: &[watch::Run]| {
            watch::side(picture).is_some_and(|found| sides.contains(&found))
        };
        self.stays(is_it, still, patience)
    }

    /// Waits for a picture that stays for `still`; returns when that began, from now.
    ///
    /// # Errors
    /// What the nodes say instead when the patience is over.
    pub(crate) fn stays(
        &self,
        is_it: impl Fn(&[watch::Run]) -> bool,
        still: Duration,
        patience: Duration,
    ) -> Result<Duration, String> {
        let start = now();
        loop {
            let left = patience.checked_sub(now().since(start)).unwrap_or_default();
            self.watch.until(left, &is_it)?;
            let began = now().since(start);
            if self.watch.until(still, |picture| !is_it(picture)).is_err() {
                return Ok(began);
            }
        }
    }
}

/// Our daemons' flags on a node: where the state is, and the PEM files in `folder`.
pub(crate) fn ours_at(place: &Path, folder: &str, name: &str) -> Vec<String> {
    let file = |name: String| place.join(folder).join(name).display().to_string();
    let state = place.join("state").display().to_string();
    let flags = [
        ("--state-dir", state),
        ("--run-dir", "/run/haguard".to_owned()),
        ("--tls-ca", file("ca.pem".to_owned())),
        ("--tls-cert", file(format!("{name}.pem"))),
        ("--tls-key", file(format!("{name}-key.pem"))),
    ];
    flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect()
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    let from: PathBuf = from.join(".");
    must(Command::new("cp").arg("-a").arg(from).arg(to));
}

/// NSS reads a policy from the list of its modules.
fn forbid_new_tls(modules: &Path) {
    let mut text = fs::read_to_string(modules).unwrap();
    text.push_str(
        "\nlibrary=\nname=Policy\nNSS=flags=policyOnly,moduleDB\n\
         config=\"allow=tls-version-max=tls1.2\"\n",
    );
    fs::write(modules, text).unwrap();
}
