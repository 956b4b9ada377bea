//! A cluster of the lab whose nodes have a guard each, and a watchdog that is a preloaded library:
//! what a guard says, a hundred times a second, and what is done to its watchdog. A watchdog that
//! resets its machine takes the power of the host away.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use haguard::command::demo::samples::now;
use nix::sys::signal::Signal;
use protocol::status::{NodeStatus, QuorumState};
use protocol::time::Time;

use super::lab::conf::Plan;
use super::lab::pki::Pki;
use super::lab::watch::question;
use super::lab::{At, HAGUARD, Lab, Role, must, patiently, pause};

/// A boot, a membership change, a device's connection, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// The socket of a device under its stock name, whoever's it is.
const DEVICE_SOCKET: &str = "/run/corosync-qdevice/corosync-qdevice.sock";

/// The times of a cluster.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// W in seconds.
    pub(crate) watchdog: u64,
    /// How long the others wait before they recover, in milliseconds.
    pub(crate) peers_wait: u64,
    /// T and S in milliseconds.
    pub(crate) device: (u64, u64),
}

/// A guard's answer.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    pub(crate) asked: Time,
    pub(crate) heard: Time,
    pub(crate) status: NodeStatus,
}

impl Said {
    pub(crate) fn entitled(&self) -> bool {
        self.status.state != QuorumState::Inquorate
    }

    /// The node is quorate in a ring of its own.
    pub(crate) fn alone(&self) -> bool {
        self.status.state == QuorumState::Quorate && self.status.members.len() == 1
    }
}

/// Everything that a node's guards have said.
type Answers = Arc<Mutex<Vec<Said>>>;

pub(crate) struct Machines {
    pub(crate) lab: Lab,
    guards: BTreeMap<u32, Child>,
    answers: BTreeMap<u32, Answers>,
    /// The networks of those that have power. A network that nobody holds takes the switch's port
    /// with it, which the lab removes when a host has ended.
    networks: BTreeMap<u32, File>,
    /// Whose device stands still.
    silent: BTreeSet<u32>,
    times: Times,
}

impl Drop for Machines {
    fn drop(&mut self) {
        for node in self.lab.nodes() {
            self.power_off(node);
        }
    }
}

impl Machines {
    /// Two machines in a cluster; nothing runs.
    pub(crate) fn new(plan: Plan, pki: &Pki, times: Times) -> Self {
        let lab = Lab::new(plan, pki);
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../node/tests/guard/watchdog.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-w", "-o"]);
        must(compiler.arg(lab.directory.join("watchdog.so")).arg(source));
        let mut answers = BTreeMap::new();
        for node in lab.nodes() {
            let place = lab.place(At::Node(node));
            fs::create_dir_all(place.join("guard")).unwrap();
            fs::write(place.join("watchdog"), "").unwrap();
            let conf = place.join("etc/corosync.conf");
            let (timeout, sync) = times.device;
            let text = fs::read_to_string(&conf).unwrap();
            let text = text.replace(" timeout: 2000\n", &format!(" timeout: {timeout}\n"));
            let text = text.replace("sync_timeout: 6000\n", &format!("sync_timeout: {sync}\n"));
            fs::write(conf, text).unwrap();
            answers.insert(node, Answers::default());
        }
        let (guards, networks, silent) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        let mut machines = Self { lab, guards, answers, networks, silent, times };
        for node in machines.lab.nodes() {
            machines.hold_network(node);
        }
        machines
    }

    fn hold_network(&mut self, node: u32) {
        let host = self.lab.outside(At::Node(node), "");
        self.networks.insert(node, File::open(host.parent().unwrap().join("ns/net")).unwrap());
    }

    /// Boots a node that has no power, without its guard.
    pub(crate) fn boot(&mut self, node: u32) {
        self.lab.boot(node);
        self.hold_network(node);
    }

    /// The guard of a node with these seconds of watchdog timeout.
    fn guard(&self, node: u32, watchdog: u64) -> Command {
        let place = self.lab.place(At::Node(node));
        let text = |path: PathBuf| path.display().to_string();
        let settings = format!(
            "engine = \"corosync\"\nwatchdog = \"{0}/watchdog\"\nwatchdog-timeout = \
             \"{watchdog}s\"\npeers-wait = \"{1}ms\"\nqdevice-socket = \"{DEVICE_SOCKET}\"\n\
             state-dir = \"{0}/guard\"\nrun-dir = \"/run/haguard\"\n",
            place.display(),
            self.times.peers_wait
        );
        fs::write(place.join("guard.toml"), settings).unwrap();
        let preload = format!("LD_PRELOAD={}", text(self.lab.directory.join("watchdog.so")));
        let device = format!("HAGUARD_TEST_WATCHDOG={}", text(place.join("watchdog")));
        let config = text(place.join("guard.toml"));
        let words = ["env", &preload, &device, HAGUARD, "node", "--config", &config];
        self.lab.command(At::Node(node), &words)
    }

    /// What a guard says that does not start with this watchdog timeout, in seconds.
    pub(crate) fn refused(&self, node: u32, watchdog: u64) -> String {
        let output = self.guard(node, watchdog).output().unwrap();
        assert!(!output.status.success(), "it has started and ended");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Starts a node's guard, and asks it as long as its host has power.
    pub(crate) fn start_guard(&mut self, node: u32) {
        let at = At::Node(node);
        let log = self.lab.place(at).join("Guard.log");
        let log = File::options().create(true).append(true).open(log).unwrap();
        let mut guard = self.guard(node, self.times.watchdog);
        let guard = guard.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        self.guards.insert(node, guard);
        let answers = Arc::clone(&self.answers[&node]);
        let socket = self.lab.outside(at, "/run/haguard/node.sock");
        let host = self.lab.outside(at, "").parent().unwrap().to_owned();
        std::thread::spawn(move || {
            while host.exists() {
                let asked = now();
                if let Some(status) = question(&socket) {
                    let said = Said { asked, heard: now(), status };
                    answers.lock().unwrap_or_else(PoisonError::into_inner).push(said);
                }
                pause();
            }
        });
    }

    /// Starts everything, and waits until both guards pet.
    pub(crate) fn up(&mut self) {
        self.lab.up().unwrap();
        self.guarded();
    }

    /// The second node's device introduces itself to the arbiter again while corosync changes its
    /// members, which it does for as long as the first node's device is silent.
    pub(crate) fn introduce_within_a_change(&mut self) {
        // On a busy machine S may have passed first.
        let within = (0..3).any(|_| self.is_introduced_within_a_change());
        assert!(within, "each change was over before the device had introduced itself");
    }

    fn is_introduced_within_a_change(&mut self) -> bool {
        let (first, second) = (At::Node(1), At::Node(2));
        self.lab.signal(first, Role::Device, Signal::SIGSTOP);
        self.lab.cut(&[&[first, At::Arbiter], &[second]]);
        patiently("a device without an arbiter", PATIENCE, || {
            (!self.is_introduced(2)).then_some(())
        });
        patiently("the second node's own ring", PATIENCE, || {
            let picture = self.lab.watch.picture();
            picture.iter().any(|run| run.node == 2 && run.members.len() == 1).then_some(())
        });
        let rings =
            |lab: &Lab| lab.whole_log(second, Role::Engine).matches("Members joined: 1").count();
        let before = rings(&self.lab);
        self.lab.cut(&[&[At::Arbiter], &[second]]);
        patiently("a ring of both nodes", PATIENCE, || (rings(&self.lab) > before).then_some(()));
        self.lab.heal();
        patiently("a device with an arbiter", PATIENCE, || self.is_introduced(2).then_some(()));
        let picture = self.lab.watch.picture();
        let over = picture.iter().any(|run| run.node == 2 && run.members.len() == 2);
        self.lab.signal(first, Role::Device, Signal::SIGCONT);
        self.lab.whole().unwrap();
        !over
    }

    /// Whether a node's device has introduced itself to the arbiter.
    fn is_introduced(&self, node: u32) -> bool {
        let tool = self.lab.directory.join("bin/corosync-qdevice-tool").display().to_string();
        let text = self.lab.text(At::Node(node), &[&tool, "-s"]);
        text.lines().any(|line| line.starts_with("State:") && line.ends_with("\tConnected"))
    }

    /// Starts a guard on each node that has none, and waits until all pet.
    pub(crate) fn guarded(&mut self) {
        let without: Vec<_> =
            self.lab.nodes().into_iter().filter(|node| !self.guards.contains_key(node)).collect();
        let start = now();
        for node in without {
            self.start_guard(node);
        }
        for node in self.lab.nodes() {
            self.wait(node, start, "both nodes are quorate and armed", |said| {
                let status = &said.status;
                let whole = status.state == QuorumState::Quorate && status.members.len() == 2;
                let device = status.qdevice.as_ref().is_some_and(|device| device.vote == "ack");
                whole && device && status.watchdog.armed
            });
            patiently("a pet", PATIENCE, || self.last_pet(node).filter(|at| *at > start));
        }
    }

    /// What a node's guards have said since then.
    pub(crate) fn said(&self, node: u32, since: Time) -> Vec<Said> {
        let answers = self.answers[&node].lock().unwrap_or_else(PoisonError::into_inner);
        answers.iter().filter(|said| said.asked >= since).cloned().collect()
    }

    /// The first answer since then that is like this.
    pub(crate) fn wait(
        &self,
        node: u32,
        since: Time,
        what: &str,
        is_it: impl Fn(&Said) -> bool,
    ) -> Said {
        let start = now();
        loop {
            let said = self.said(node, since);
            if let Some(said) = said.iter().find(|said| is_it(said)) {
                return said.clone();
            }
            assert!(
                now().since(start) < PATIENCE,
                "node {node} does not say: {what}; but {:?}\n{}",
                said.last(),
                self.story(since)
            );
            pause();
        }
    }

    /// What was done to a node's watchdog since then, and when.
    pub(crate) fn deeds(&self, node: u32, since: Time) -> Vec<(Time, String)> {
        let log = self.lab.place(At::Node(node)).join("watchdog.log");
        let text = fs::read_to_string(log).unwrap_or_default();
        let deeds = text.lines().filter_map(|line| {
            let (at, what) = line.split_once(' ')?;
            Some((Time::from_millis(at.parse().ok()?), what.to_owned()))
        });
        deeds.filter(|(at, _)| *at >= since).collect()
    }

    fn last_pet(&self, node: u32) -> Option<Time> {
        let deeds = self.deeds(node, Time::ZERO);
        deeds.iter().filter(|(_, what)| what == "pet").map(|(at, _)| *at).max()
    }

    /// Waits until a node's watchdog resets it, which takes its power away; returns the last pet
    /// and the reset.
    pub(crate) fn reset(&mut self, node: u32, since: Time) -> (Time, Time) {
        let at = patiently("a reset", PATIENCE, || {
            let deeds = self.deeds(node, since);
            deeds.iter().find(|(_, what)| what == "reboot").map(|(at, _)| *at)
        });
        self.power_off(node);
        let disarmed = self
            .deeds(node, since)
            .into_iter()
            .find(|(_, what)| matches!(what.as_str(), "magic" | "disable" | "close"));
        assert_eq!(disarmed, None, "node {node} was disarmed");
        (self.last_pet(node).unwrap(), at)
    }

    /// A node's device stands still until its machine has no power.
    pub(crate) fn silence_device(&mut self, node: u32) {
        self.lab.signal(At::Node(node), Role::Device, Signal::SIGSTOP);
        self.silent.insert(node);
    }

    pub(crate) fn power_off(&mut self, node: u32) {
        let Some(_network) = self.networks.remove(&node) else { return };
        if self.silent.remove(&node) {
            // The process that has started it stands still, too, and would hold up the host's end.
            self.lab.signal(At::Node(node), Role::Device, Signal::SIGKILL);
        }
        self.lab.power_off(At::Node(node));
        if let Some(mut guard) = self.guards.remove(&node) {
            // It has ended with its host.
            let _ = guard.wait();
        }
    }

    /// The node's watchdog was petted all the time since then.
    pub(crate) fn was_petted(&self, node: u32, since: Time) {
        let mut last = since;
        for (at, what) in self.deeds(node, since) {
            assert_eq!(what, "pet", "node {node}: {}", self.story(since));
            last = at;
        }
        let pause = now().since(last);
        assert!(pause < Duration::from_secs(2), "node {node} was last petted {pause:?} ago");
    }

    /// What the guards have said since then where it changes, in milliseconds from then, and the
    /// ends of their logs.
    pub(crate) fn story(&self, since: Time) -> String {
        let mut story = String::new();
        for node in self.lab.nodes() {
            let mut before = None;
            for said in self.said(node, since) {
                let status = &said.status;
                let word = format!("{:?} {:?}", status.state, status.members);
                if before.as_ref() != Some(&word) {
                    let at = said.heard.since(since).as_millis();
                    let votes = &status.votes;
                    story.push_str(&format!(
                        "    {at:>6}  guard {node} {word}, {votes:?}, for {:?} ms more, {}\n",
                        status.state_expires_ms, status.reason
                    ));
                    before = Some(word);
                }
            }
            let log = self.lab.place(At::Node(node)).join("Guard.log");
            let log = fs::read_to_string(log).unwrap_or_default();
            let from = log.lines().count().saturating_sub(6);
            log.lines().skip(from).for_each(|line| story.push_str(&format!("    {line}\n")));
        }
        story + "  corosync:\n" + &self.lab.watch.story(since)
    }
}
