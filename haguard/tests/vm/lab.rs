//! The cluster: two machines, and the arbiter on the host.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::common::PROGRAM;
use crate::common::arbiter::{Arbiter, Home};

use super::bmc::Bmc;
use super::gateway::Gateway;
use super::image::{write_disk, write_first};
use super::kernel::Kernel;
use super::machine::{Machine, Made, Watchdog, free_ports};
use super::story::{Story, wall};

/// The name in the certificates.
const CLUSTER: &str = "vm";
/// What the host is called in the emulator's user network.
const HOST: &str = "10.0.2.2";
/// Both boot at once, on a host that may be busy.
const START: Duration = Duration::from_secs(180);

/// What every cluster of a run has in common.
#[derive(Debug)]
pub(crate) struct Base {
    pub(crate) kernel: Kernel,
    first: PathBuf,
    directory: PathBuf,
}

impl Base {
    /// Builds the first file system; the directory is removed with the value.
    pub(crate) fn new(kernel: Kernel) -> Self {
        let directory = std::env::temp_dir().join(format!("haguard-vmbase-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let first = directory.join("first");
        write_first(&kernel, PROGRAM.as_ref(), &first);
        Self { kernel, first, directory }
    }
}

impl Drop for Base {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// How a cluster is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// What resets machine 1; machine 2 has a card.
    pub(crate) resets: Resets,
    /// `trust_virtual_watchdog`: whether the end of a bound is proof enough for a takeover.
    pub(crate) trusted: bool,
    /// A gateway on the host, for machine 1: both nodes ask it by themselves.
    pub(crate) gateway: bool,
}

/// What resets machine 1.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Resets {
    Card,
    Controller,
    /// A card, and a management controller outside that switches it on and off.
    Bmc,
}

impl Plan {
    /// What both nodes read; the gateway's port is there or is not.
    fn conf(self, gateway: Option<u16>) -> String {
        // The controller's driver has no numbered device (and /dev/watchdog is the card's too).
        let device = match self.resets {
            Resets::Card | Resets::Bmc => "/dev/watchdog0",
            Resets::Controller => "/dev/watchdog",
        };
        let trusted = if self.trusted { "yes" } else { "no" };
        let gateway = gateway.map(|port| format!("    gateway: {HOST}:{port}\n"));
        let gateway = gateway.unwrap_or_default();
        let node = |id| {
            format!("    node {{\n        nodeid: {id}\n        ring0_addr: 10.9.0.{id}\n    }}\n")
        };
        format!(
            "totem {{\n    version: 2\n    cluster_name: {CLUSTER}\n}}\nnodelist {{\n{}{}}}\n\
             quorum {{\n    provider: corosync_votequorum\n    device {{\n        model: net\n        \
             votes: 1\n        net {{\n            host: {HOST}\n            \
             algorithm: ffsplit\n            tls: required\n        }}\n    }}\n}}\n\
             haguard {{\n    watchdog: {device}\n    trust_virtual_watchdog: {trusted}\n\
             {gateway}    service {{\n        name: witness\n        command: /bin/witness\n        \
             prefer: 1\n    }}\n}}\n",
            node(1),
            node(2)
        )
    }
}

/// A cluster.
pub(crate) struct Lab {
    pub(crate) first: Machine,
    pub(crate) second: Machine,
    /// That of machine 1.
    pub(crate) bmc: Option<Bmc>,
    pub(crate) gateway: Option<Gateway>,
    pub(crate) story: Story,
    /// When the fault was, for the story's text.
    pub(crate) fault: Duration,
    pub(crate) arbiter: Arbiter,
    _base: Arc<Base>,
    _home: Home,
}

impl Lab {
    /// Builds it, starts everything, and waits until both nodes are one and node 1 serves.
    pub(crate) fn start(base: &Arc<Base>, name: &str, plan: Plan) -> Self {
        let home = Home::new(&format!("vm-{name}"));
        let arbiter = home.start(&[]);
        let story = Story::default();
        let ports = free_ports();
        let door = plan.gateway.then(Bmc::free_port);
        let bmc_wire = (plan.resets == Resets::Bmc).then(Bmc::free_port);
        let made = [1, 2].map(|id| {
            let directory = PathBuf::from(home.issue(CLUSTER, id));
            fs::write(directory.join("corosync.conf"), plan.conf(door)).unwrap();
            let place = PathBuf::from(home.path(&format!("m{id}")));
            fs::create_dir_all(&place).unwrap();
            write_disk(&directory, &place.join("disk"));
            let watchdog = match (id, plan.resets, bmc_wire) {
                (1, Resets::Controller, _) => Watchdog::Controller,
                (1, Resets::Bmc, Some(port)) => Watchdog::External(port),
                (_, Resets::Card | Resets::Controller | Resets::Bmc, _) => Watchdog::Card,
            };
            let mut wire = ports;
            if id == 2 {
                wire.reverse();
            }
            Made {
                id,
                kernel: base.kernel.image.clone(),
                first: base.first.clone(),
                directory: place,
                wire,
                arbiter: arbiter.address.port(),
                watchdog,
            }
        });
        let [one, two] = made;
        let bmc = bmc_wire.map(|port| Bmc::start(&one, port));
        let gateway = bmc.as_ref().zip(door);
        let gateway =
            gateway.map(|(bmc, port)| Gateway::start(&home, CLUSTER, &arbiter, port, bmc));
        let first = match &bmc {
            None => Machine::start(&one, &story),
            Some(bmc) => {
                bmc.power("on");
                Machine::attach(&one, &story)
            }
        };
        let second = Machine::start(&two, &story);
        let base = Arc::clone(base);
        let fault = wall();
        let mut lab =
            Self { first, second, bmc, gateway, story, fault, arbiter, _base: base, _home: home };
        lab.wait_for_both(START);
        let since = wall();
        let story = lab.story.clone();
        story.wait("node 1 serves", START, |story| story.serves(since, 1));
        lab
    }

    /// Waits until both nodes say that they are one, with the arbiter's vote.
    pub(crate) fn wait_for_both(&mut self, limit: Duration) {
        let end = wall() + limit;
        loop {
            let said = [self.first.status(), self.second.status()];
            let one = said.iter().flatten().filter(|status| {
                let members = status["members"].as_array().is_some_and(|all| all.len() == 2);
                members && status["quorate"] == true && status["qdevice"]["vote"] == "ack"
            });
            if one.count() == 2 {
                return;
            }
            assert!(wall() < end, "both are not one: {said:#?}\n{}", self.picture());
            // To ask is work for a machine under emulation.
            self.story.watch(Duration::from_secs(2));
        }
    }

    /// What is known when something has failed.
    pub(crate) fn picture(&self) -> String {
        let tail = |text: String| {
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(40)..].join("\n")
        };
        format!(
            "{}\n--- machine 1\n{}\n--- machine 2\n{}",
            self.story.text(self.fault),
            tail(self.first.console()),
            tail(self.second.console()),
        )
    }
}
