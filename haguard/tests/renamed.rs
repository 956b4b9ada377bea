//! A cluster whose `totem.cluster_name` is changed while its certificates name the old one: the
//! arbiter refuses it under the new name, whoever's device it has, and the old name's vote stays
//! one vote; a cluster beside it notices nothing. Enrolled under its new name it is taken back.
//!
//! `docs/certificates.md` says the same for people.

#![expect(clippy::unwrap_used, reason = "a test ends where it goes wrong")]

#[allow(dead_code, reason = "each test of the lab uses a part of it")]
mod lab;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use haguard::command::demo::samples::now;
use nix::sys::signal::Signal;
use protocol::status::QuorumState;
use protocol::time::Time;
use protocol::vote::Algorithm::Ffsplit;

use lab::conf::{Arbiter, CLUSTER, Plan, Stack};
use lab::pki::{ARBITER_STORE, Maker, NODE_STORE, Pki};
use lab::stack::{DEVICE_FILES, ours_at};
use lab::watch::Run;
use lab::{At, HAGUARD, Lab, Role, must, patiently};

/// What the cluster of nodes 1 and 2 is called later.
const NEW: &str = "newname";
/// The cluster of nodes 3 and 4, which stays as it is.
const BESIDE: &str = "beside";

/// The nodes that are one cluster.
const CLUSTERS: [[u32; 2]; 2] = [[1, 2], [3, 4]];

/// Until everything has had its effect: the lease of an own device, what is added to it on
/// corosync, a reconnection.
const PATIENCE: Duration = Duration::from_secs(30);
/// A side that lasts so long is no passing one.
const STILL: Duration = Duration::from_millis(1500);

/// Two clusters of two nodes with real corosync at one arbiter of ours.
struct Site {
    lab: Lab,
    since: Time,
}

impl Site {
    /// Both are enrolled and have votes; then each is cut in two, and its first node has the vote.
    fn new(stack: Stack, pki: &Pki) -> Self {
        let plan = Plan { nodes: 4, ..Plan::new(Arbiter::Renamed, stack, Ffsplit) };
        let mut site = Self { lab: Lab::new(plan, pki), since: now() };
        let clusters = [CLUSTER, NEW, BESIDE].map(|name| {
            format!("[cluster.\"{name}\"]\ndevice-timeout = \"2 s\"\nsync-timeout = \"6 s\"\n")
        });
        fs::write(site.lab.place(At::Arbiter).join("state/qnetd.toml"), clusters.concat()).unwrap();
        for (name, nodes) in [CLUSTER, BESIDE].into_iter().zip(CLUSTERS) {
            for node in nodes {
                site.configure(node, name);
            }
        }
        site.enrol(BESIDE, [3, 4]);
        site.lab.start_all();
        site.becomes("both clusters are whole", &[&[1, 2], &[3, 4]]);
        site.votes(&[1, 2, 3, 4]);
        site.since = now();
        site.lab.cut(&[&[At::Node(1), At::Node(3)], &[At::Node(2), At::Node(4)]]);
        site.becomes("each cluster has one side", &[&[1], &[3]]);
        site
    }

    fn etc(&self, at: At) -> PathBuf {
        self.lab.place(at).join("etc")
    }

    fn configure(&self, node: u32, cluster: &str) {
        let nodes = CLUSTERS.into_iter().find(|nodes| nodes.contains(&node)).unwrap();
        let text = self.lab.plan.corosync_conf_of(cluster, nodes);
        fs::write(self.etc(At::Node(node)).join("corosync.conf"), text).unwrap();
    }

    fn must(&self, at: At, words: &[&str]) {
        let output = self.lab.run(at, words);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{at:?} {words:?}: {said}");
    }

    /// The six steps of `docs/certificates.md`, each host with its own programs.
    fn enrol(&self, cluster: &str, nodes: [u32; 2]) {
        let bin = |name: &str| self.lab.directory.join("bin").join(name).display().to_string();
        let program = match self.lab.plan.stack {
            Stack::Stock => "corosync-qdevice-net-certutil".to_owned(),
            Stack::Mixed | Stack::Ours => bin("corosync-qdevice-net-certutil"),
        };
        let store =
            |at: At| self.etc(at).join(if at == At::Arbiter { ARBITER_STORE } else { NODE_STORE });
        let carry = |from: PathBuf, at: At, name: &str| {
            fs::copy(from, self.etc(at).join(name)).unwrap();
        };
        let nodes = nodes.map(At::Node);
        for node in nodes {
            fs::remove_dir_all(store(node)).unwrap();
            carry(store(At::Arbiter).join("qnetd-cacert.crt"), node, "ca.crt");
            self.must(node, &[&program, "-i", "-c", "/etc/corosync/ca.crt"]);
        }
        let [first, second] = nodes;
        self.must(first, &[&program, "-r", "-n", cluster]);
        carry(store(first).join("qdevice-net-node.crq"), At::Arbiter, "request");
        let sign = bin("corosync-qnetd-certutil");
        self.must(At::Arbiter, &[&sign, "-s", "-c", "/etc/corosync/request", "-n", cluster]);
        let signed = store(At::Arbiter).join(format!("cluster-{cluster}.crt"));
        carry(signed, first, "cluster.crt");
        self.must(first, &[&program, "-M", "-c", "/etc/corosync/cluster.crt"]);
        carry(store(first).join("qdevice-net-node.p12"), second, "cluster.p12");
        self.must(second, &[&program, "-m", "-c", "/etc/corosync/cluster.p12"]);
        if self.lab.plan.stack != Stack::Stock {
            for (at, (from, to)) in nodes.iter().flat_map(|at| DEVICE_FILES.map(|file| (*at, file)))
            {
                fs::copy(store(at).join(from), self.lab.place(at).join("state").join(to)).unwrap();
            }
        }
    }

    /// Ends a daemon as systemd does.
    fn stop(&mut self, node: u32, role: Role) {
        let at = At::Node(node);
        self.lab.signal(at, role, Signal::SIGTERM);
        let end = format!("the end of {role:?} on node {node}");
        patiently(&end, PATIENCE, || (!self.lab.runs(at, role)).then_some(()));
    }

    /// The administrator changes the name and restarts corosync. The stock device is stopped
    /// before and started after it, as its unit demands; ours runs on.
    fn rename(&mut self, node: u32) {
        let with_device = self.lab.plan.stack == Stack::Stock;
        if with_device {
            self.stop(node, Role::Device);
        }
        self.stop(node, Role::Engine);
        self.configure(node, NEW);
        self.lab.start_engine(node);
        if with_device {
            self.lab.start_device(node);
        }
    }

    /// Waits until exactly these sides are quorate, and stay so; no cluster has had two meanwhile.
    fn becomes(&self, what: &str, sides: &[&[u32]]) {
        let is_it = |picture: &[Run]| {
            let quorate = || picture.iter().filter(|run| run.state == QuorumState::Quorate);
            let here: BTreeSet<u32> = quorate().map(|run| run.node).collect();
            let want: BTreeSet<u32> = sides.iter().copied().flatten().copied().collect();
            let of = |node: u32| sides.iter().find(|side| side.contains(&node));
            here == want
                && quorate().all(|run| {
                    of(run.node)
                        .is_some_and(|side| side.iter().copied().eq(run.members.iter().copied()))
                })
        };
        let came = self.lab.stays(is_it, STILL, PATIENCE);
        self.no_two_sides();
        if let Err(instead) = came {
            panic!("{what}: not {sides:?}, but {instead}\n{}", self.story());
        }
    }

    fn no_two_sides(&self) {
        let mut two = self.lab.watch.two_sides(self.since);
        two.retain(|two| CLUSTERS.iter().any(|c| c.contains(&two.node) && c.contains(&two.other)));
        assert!(two.is_empty(), "two sides: {two:?}\n{}", self.story());
    }

    fn story(&self) -> String {
        let mut text = self.lab.watch.story(self.since);
        text.push_str(&format!("  arbiter:\n{}", self.lab.log(At::Arbiter, Role::Arbiter)));
        for node in self.lab.nodes() {
            text.push_str(&format!(
                "  device {node}:\n{}",
                self.lab.log(At::Node(node), Role::Device)
            ));
        }
        text
    }

    /// Waits until exactly these nodes have their device's vote.
    fn votes(&self, nodes: &[u32]) {
        let start = now();
        loop {
            let all = self.lab.nodes().into_iter();
            let has: Vec<u32> = all.filter(|node| self.lab.has_vote(*node)).collect();
            if has == nodes {
                return;
            }
            assert!(
                now().since(start) < PATIENCE,
                "vote at {has:?}, not {nodes:?}\n{}",
                self.story()
            );
            lab::pause();
        }
    }

    /// What the arbiter says of a node under its new name: a line a connection at most.
    fn refusals(&self, node: u32) -> Vec<String> {
        let address = format!("{}:", self.lab.plan.address(node));
        let log = self.lab.whole_log(At::Arbiter, Role::Arbiter);
        let refused = log.lines().filter(|line| line.contains(&address));
        refused.filter(|line| line.contains("the client is refused: ")).map(str::to_owned).collect()
    }

    /// The arbiter has refused the node, and says why and what to do.
    fn is_refused(&self, node: u32) {
        let line = patiently("a refusal", PATIENCE, || self.refusals(node).into_iter().next());
        let want = format!(
            "the client is refused: it says that its cluster is \"{NEW}\", and its certificate is for \
             \"{CLUSTER}\": if the cluster was renamed, enrol it under its new name"
        );
        assert!(line.contains(&want), "{line}");
    }

    /// The arbiter closes their connections without a message: an error code, whichever, would end
    /// a stock device with ffsplit.
    fn is_told_nothing(&mut self) {
        for node in [1, 2] {
            let runs = self.lab.runs(At::Node(node), Role::Device);
            assert!(runs, "the device of node {node} has ended\n{}", self.story());
        }
    }

    /// Puts another arbiter in the place of the one that runs.
    fn exchange(&mut self, arbiter: Arbiter) {
        self.lab.signal(At::Arbiter, Role::Arbiter, Signal::SIGKILL);
        self.lab.plan.arbiter = arbiter;
        self.lab.start_arbiter();
    }

    /// Starts a daemon that has to end; returns what it said.
    fn is_refused_at_its_start(&self, node: u32, words: &[String]) -> String {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let output = self.lab.run(At::Node(node), &words);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        // Not the end of its time, 124.
        assert_eq!(output.status.code(), Some(1), "{words:?}: {said}");
        said
    }

    /// Which clusters the arbiter's own tool lists.
    fn listed(&self) -> BTreeSet<String> {
        let text = self.lab.text(At::Arbiter, &["corosync-qnetd-tool", "-l"]);
        let names =
            text.lines().filter_map(|line| line.strip_prefix("Cluster \"")?.strip_suffix("\":"));
        names.map(str::to_owned).collect()
    }
}

/// Both nodes get the new name, first the one that has the vote.
fn rename_all(site: &mut Site) {
    let beside = |site: &Site| {
        let picture = site.lab.watch.picture();
        let run = picture.into_iter().find(|run| run.node == 3).unwrap();
        (run.state, run.serial, run.from)
    };
    let before = beside(site);
    site.rename(1);
    site.becomes("the old name's vote goes to who still has that name", &[&[2], &[3]]);
    site.is_refused(1);
    site.rename(2);
    site.becomes("nobody has the vote of either name", &[&[3]]);
    site.is_refused(2);
    assert_eq!(beside(site), before, "the cluster beside it has lost its quorum for a moment");
    site.lab.heal();
    site.becomes("two of three votes are enough", &[&[1, 2], &[3, 4]]);
    site.votes(&[3, 4]);
    assert_eq!(site.listed(), [BESIDE.to_owned()].into());
}

/// The new name has certificates, and votes like any other.
fn is_taken_back(site: &mut Site) {
    site.votes(&[1, 2, 3, 4]);
    assert_eq!(site.listed(), [BESIDE, NEW].map(str::to_owned).into());
    let refused = [1, 2].map(|node| site.refusals(node).len());
    site.lab.cut(&[&[At::Node(1), At::Node(3)], &[At::Node(2), At::Node(4)]]);
    site.becomes("each cluster has one side again", &[&[1], &[3]]);
    assert_eq!([1, 2].map(|node| site.refusals(node).len()), refused, "{}", site.story());
}

#[test]
fn stock_cluster_that_is_renamed_is_refused_until_it_is_enrolled_again() {
    if !lab::is_possible() {
        return;
    }
    let pki = Pki::made(Maker::Ours, Maker::Stock);
    let mut site = Site::new(Stack::Stock, &pki);
    rename_all(&mut site);
    site.is_told_nothing();
    site.exchange(Arbiter::Stock);
    site.votes(&[3, 4]);
    site.is_told_nothing();
    assert_eq!(site.listed(), [BESIDE.to_owned()].into());
    site.exchange(Arbiter::Renamed);
    site.enrol(NEW, [1, 2]);
    for node in [1, 2] {
        // It has opened its database at its start.
        site.stop(node, Role::Device);
        site.lab.start_device(node);
    }
    is_taken_back(&mut site);
}

#[test]
fn stock_corosync_that_is_renamed_under_our_device_is_told_what_to_do_and_needs_no_restart() {
    if !lab::is_possible() {
        return;
    }
    let pki = Pki::ours();
    let mut site = Site::new(Stack::Mixed, &pki);
    rename_all(&mut site);
    let want = |node: u32| {
        format!(
            "is not for node {node} of cluster {NEW}: if the cluster was renamed, enrol it under \
             its new name"
        )
    };
    for node in [1, 2] {
        let log = site.lab.whole_log(At::Node(node), Role::Device);
        assert!(log.contains(&want(node)), "{}", site.story());
        assert!(site.lab.runs(At::Node(node), Role::Device), "the device of node {node} has ended");
    }
    // One that is started now ends, with the same words.
    site.stop(2, Role::Device);
    let device = site.lab.directory.join("bin/corosync-qdevice").display().to_string();
    let words = [&device, "-f", "--host", "corosync"].map(str::to_owned);
    let tls = ours_at(&site.lab.place(At::Node(2)), "state", "cluster");
    let said = site.is_refused_at_its_start(2, &[&words[..], &tls].concat());
    assert!(said.contains(&want(2)), "{said}");
    site.enrol(NEW, [1, 2]);
    site.lab.start_device(2);
    is_taken_back(&mut site);
}

#[test]
fn our_nodes_that_are_renamed_do_not_start_until_they_have_new_certificates() {
    if !lab::is_possible() {
        return;
    }
    let pki = Pki::ours();
    let plan = Plan::new(Arbiter::Renamed, Stack::Ours, Ffsplit);
    let mut site = Site { lab: Lab::new(plan, &pki), since: now() };
    site.lab.up().unwrap();
    for role in [Role::Device, Role::Engine] {
        site.stop(1, role);
    }
    site.configure(1, NEW);
    let place = site.lab.place(At::Node(1));
    let state = place.join("state/node.json");
    let conf = place.join("etc/corosync.conf").display().to_string();
    let tls = ours_at(&place, "own", "node");
    let words = [HAGUARD, "node", "--node-id", "1", "--cluster-conf", &conf].map(str::to_owned);
    let words = [&words[..], &tls].concat();
    let said = site.is_refused_at_its_start(1, &words);
    assert!(
        said.contains(&format!("the certificate names \"{CLUSTER}\", not \"{NEW}\"")),
        "{said}"
    );
    site.becomes("the old name's vote goes to who still has that name", &[&[2]]);

    for role in [Role::Device, Role::Engine] {
        site.stop(2, role);
    }
    site.configure(2, NEW);
    site.enrol(NEW, [1, 2]);
    for node in [1, 2] {
        let out = site.lab.place(At::Node(node)).join("own").display().to_string();
        let mut issue = Command::new(HAGUARD);
        issue.args(["certs", "node", "--force", "--cluster", NEW, "--node", &node.to_string()]);
        must(issue.args(["--dir", &pki.text("own-ca"), "--out", &out]));
    }
    // What it remembers is of a cluster that is no more.
    let said = site.is_refused_at_its_start(1, &words);
    let remembers = format!("{}: is the state of node 1 of cluster \"{CLUSTER}\"", state.display());
    assert!(said.contains(&remembers), "{said}");
    for node in [1, 2] {
        fs::remove_file(site.lab.place(At::Node(node)).join("state/node.json")).unwrap();
        site.lab.start_engine(node);
        site.lab.start_device(node);
    }
    site.becomes("the new name is a cluster", &[&[1, 2]]);
    site.votes(&[1, 2]);
}
