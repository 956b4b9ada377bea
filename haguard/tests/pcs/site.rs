//! Hosts of the lab with pcsd on them, and everything that pcs looks for.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use protocol::vote::Algorithm;

use super::lab::conf::{Arbiter, CLUSTER, Plan, Stack};
use super::lab::pki::Pki;
use super::lab::{At, HAGUARD, Lab, must, patiently, table};

/// pcs and its daemon are slow starters, and there are three of them.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// A command of pcs, in seconds: it waits for every host, and for a daemon that it stops.
const COMMAND: &str = "100";

/// What the tests need besides the lab, and the Debian package that has it.
const NEEDED: [(&str, &str); 3] = [
    ("/usr/sbin/pcs", "pcs"),
    ("/usr/share/pcsd/pcsd", "pcs"),
    // It is covered by the stand-in, for which there has to be something.
    ("/bin/systemctl", "systemd"),
];

/// The programs that are ours on the arbiter, and on a node that is ours.
const ARBITER: [&str; 3] =
    ["/usr/bin/corosync-qnetd", "/usr/bin/corosync-qnetd-tool", "/usr/bin/corosync-qnetd-certutil"];
const NODE: [&str; 3] = [
    "/usr/sbin/corosync-qdevice",
    "/usr/sbin/corosync-qdevice-tool",
    "/usr/sbin/corosync-qdevice-net-certutil",
];

pub(crate) const ARBITER_STORE: &str = "/etc/corosync/qnetd/nssdb";
pub(crate) const NODE_STORE: &str = "/etc/corosync/qdevice/net/nssdb";

/// The account by which pcs lets itself be let in; Debian's pacemaker makes it. The id is one that
/// no package takes.
const ACCOUNT: (&str, &str, u32) = ("hacluster", "haclient", 64_990);
const PASSWORD: &str = "long-enough";

/// As `pcs cluster setup` writes it for two nodes.
const COROSYNC_CONF: &str = "\
totem {
    version: 2
    cluster_name: lab
    transport: knet
    crypto_cipher: aes256
    crypto_hash: sha256
}

nodelist {
    node {
        ring0_addr: 10.99.0.1
        name: n1
        nodeid: 1
    }

    node {
        ring0_addr: 10.99.0.2
        name: n2
        nodeid: 2
    }
}

quorum {
    provider: corosync_votequorum
    two_node: 1
}

logging {
    to_stderr: yes
    to_syslog: no
    timestamp: on
}
";

/// Covers what a host must not share with the machine, then ends; the mounts stay with the host.
const COVER: &str = "
set -e
mkdir /run/units /run/state
cover() { mount --bind \"$1\" \"$2\"; }
for user in root coroqnetd; do install -d -o $user -m 700 /run/state/$user; done
cover \"$0/units\" /run/units
cover \"$0/pcsd\" /var/lib/pcsd
cover \"$0/log\" /var/log/pcsd
cover \"$0/systemctl\" /bin/systemctl
";

/// Whether there are the rights and programs. If not, says so; under CI that is a failure.
pub(crate) fn is_possible() -> bool {
    if !super::lab::is_possible() {
        return false;
    }
    let missing = NEEDED.iter().find(|(path, _)| !Path::new(path).exists());
    if let Some((path, package)) = missing {
        assert!(std::env::var_os("CI").is_none(), "{path} is missing");
        table::say(&format!("left out: {path} is missing: install {package}"));
    }
    missing.is_none()
}

/// Two nodes with corosync and an arbiter without a store, pcsd on all of them, and no device.
pub(crate) struct Site {
    pub(crate) lab: Lab,
    _pki: Pki,
}

impl Site {
    /// The arbiter is ours, and the device of these nodes.
    pub(crate) fn new(ours: &[At]) -> Self {
        let pki = Pki::ours();
        let plan = Plan::new(Arbiter::Renamed, Stack::Stock, Algorithm::Ffsplit);
        let site = Self { lab: Lab::new(plan, &pki), _pki: pki };
        let everyone = [At::Node(1), At::Node(2), At::Arbiter];
        let starting: Vec<_> = everyone
            .map(|at| {
                let programs: &[&str] = match at {
                    At::Arbiter => &ARBITER,
                    At::Node(_) if ours.contains(&at) => &NODE,
                    At::Node(_) => &[],
                };
                site.prepare(at, programs);
                let corosync = match at {
                    At::Arbiter => "",
                    At::Node(_) => "systemctl enable corosync && systemctl start corosync && ",
                };
                let script =
                    format!("{corosync} systemctl start pcsd-ruby && systemctl start pcsd");
                let child = site.lab.command(at, &["sh", "-c", &script]).spawn().unwrap();
                (at, child)
            })
            .into();
        for (at, mut child) in starting {
            assert!(child.wait().unwrap().success(), "{at:?}:\n{}", site.logs(at));
        }
        patiently("a cluster of two nodes", PATIENCE, || {
            site.rows(At::Node(1)).contains(&"Total votes: 2".to_owned()).then_some(())
        });
        site
    }

    /// Gives a host its files, and lays `programs`, which are ours, over the stock ones.
    fn prepare(&self, at: At, programs: &[&str]) {
        let place = self.lab.place(at);
        for name in ["units", "pcsd", "log"] {
            fs::create_dir(place.join(name)).unwrap();
        }
        // What the lab has for clusters that are enrolled.
        for name in ["qnetd/nssdb", "qdevice/net/nssdb"] {
            let _ = fs::remove_dir_all(place.join("etc").join(name));
        }
        fs::create_dir_all(place.join("etc/qnetd")).unwrap();
        if at != At::Arbiter {
            fs::write(place.join("etc/corosync.conf"), COROSYNC_CONF).unwrap();
        }
        let stand_in = place.join("systemctl");
        fs::write(&stand_in, include_str!("systemctl.py")).unwrap();
        fs::set_permissions(stand_in, fs::Permissions::from_mode(0o755)).unwrap();
        let mut script = COVER.to_owned();
        for (path, text) in files(!programs.is_empty()) {
            let name = path.replace('/', "_");
            let file = place.join(&name);
            fs::write(&file, text).unwrap();
            let mode = if path == "/etc/shadow" { 0o600 } else { 0o644 };
            fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
            writeln!(script, "cover \"$0/{name}\" {path}").unwrap();
        }
        for program in programs {
            writeln!(script, "cover {HAGUARD} {program}").unwrap();
        }
        // Last, as the lab may be in there. pcsd leaves files behind.
        script.push_str("mount -t tmpfs -o mode=1777 tmp /tmp\n");
        let place = place.display().to_string();
        must(&mut self.lab.command(at, &["sh", "-c", &script, &place]));
    }

    /// pcs as root calls it from a shell.
    fn call(&self, at: At, args: &[&str]) -> (Output, String) {
        let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let shell = ["timeout", COMMAND, "env", "-i", path, "LANG=C.UTF-8", "HOME=/root", "pcs"];
        let output = self.lab.command(at, &[&shell, args].concat()).output().unwrap();
        let [printed, said] =
            [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
        let text = format!("{printed}{said}");
        (output, text)
    }

    /// Runs a command of pcs that must succeed, and returns all that it printed, a space for every
    /// gap.
    pub(crate) fn pcs(&self, at: At, args: &[&str]) -> String {
        let (output, text) = self.call(at, args);
        assert!(output.status.success(), "pcs {args:?}: {text}\n{}", self.all_logs());
        squeezed(&text).join("\n")
    }

    /// Runs a command of pcs that must be refused, and returns what it said.
    pub(crate) fn refused(&self, at: At, args: &[&str]) -> String {
        let (output, text) = self.call(at, args);
        assert_eq!(output.status.code(), Some(1), "pcs {args:?}: {text}");
        text
    }

    /// Runs a command of pcs that must succeed, and print these lines.
    pub(crate) fn pcs_says(&self, at: At, args: &[&str], lines: &[&str]) {
        let text = self.pcs(at, args);
        for line in lines {
            let found = text.lines().any(|said| said == *line);
            assert!(found, "pcs {args:?} does not say {line:?}:\n{text}");
        }
    }

    /// The nodes let each other in, and know the arbiter.
    pub(crate) fn authorize(&self) {
        for hosts in [&["n1", "n2"][..], &["arbiter"]] {
            let lines: Vec<_> = hosts.iter().map(|host| format!("{host}: Authorized")).collect();
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            let who = ["-u", ACCOUNT.0, "-p", PASSWORD];
            let args = [&["host", "auth"], hosts, &who].concat();
            self.pcs_says(At::Node(1), &args, &lines);
        }
    }

    /// What `corosync-quorumtool -s` prints on a node, a space for every gap.
    pub(crate) fn rows(&self, at: At) -> Vec<String> {
        squeezed(&self.lab.text(at, &["corosync-quorumtool", "-s"]))
    }

    /// Waits until every node is quorate with the vote of its device.
    pub(crate) fn wait_for_votes(&self) {
        for node in [1, 2] {
            let what = format!("the device's vote on node {node}");
            self.wait(&what, || {
                let rows = self.rows(At::Node(node));
                let has = |row: &str| rows.iter().any(|found| found.starts_with(row));
                let wanted = ["Quorate: Yes", "Total votes: 3", "1 1 A,V,NMW", "2 1 A,V,NMW"];
                wanted.into_iter().all(has)
            });
        }
    }

    /// Waits until our arbiter has both nodes, with their certificates and this tie-breaker.
    pub(crate) fn wait_for_clients(&self, tie_breaker: &str) {
        self.wait("the nodes at the arbiter", || {
            let list = squeezed(&self.lab.text(At::Arbiter, &["corosync-qnetd-tool", "-lv"]));
            let count = |line: &str| list.iter().filter(|found| *found == line).count();
            count("TLS active: Yes (client certificate verified)") == 2
                && count(&format!("Tie-breaker: {tie_breaker}")) == 1
                && count("Vote: ACK (ACK)") + count("Vote: No change (ACK)") == 2
        });
    }

    /// Waits until our arbiter has no client.
    pub(crate) fn wait_for_no_clients(&self) {
        self.wait("an arbiter without nodes", || {
            let status = squeezed(&self.lab.text(At::Arbiter, &["corosync-qnetd-tool", "-s"]));
            status.contains(&"Connected clients: 0".to_owned())
        });
    }

    fn wait(&self, what: &str, is_so: impl Fn() -> bool) {
        let start = haguard::command::demo::samples::now();
        while !is_so() {
            let waited = haguard::command::demo::samples::now().since(start);
            assert!(waited < PATIENCE, "waited in vain for {what}:\n{}", self.all_logs());
            super::lab::pause();
        }
    }

    /// A path of a host as this process can open it.
    pub(crate) fn path(&self, at: At, path: &str) -> PathBuf {
        self.lab.outside(at, path)
    }

    /// The cluster's certificate at the arbiter.
    pub(crate) fn signed(&self) -> PathBuf {
        self.path(At::Arbiter, &format!("{ARBITER_STORE}/cluster-{CLUSTER}.crt"))
    }

    /// Nobody has asked the stand-in what it does not know: its answers were those of systemctl.
    pub(crate) fn end(self) {
        for at in [At::Node(1), At::Node(2), At::Arbiter] {
            let unknown = fs::read_to_string(self.lab.place(at).join("units/unknown"));
            assert!(unknown.is_err(), "{at:?}: systemctl {unknown:?}");
        }
    }

    fn logs(&self, at: At) -> String {
        let place = self.lab.place(at);
        let files = ["corosync-qnetd", "corosync-qdevice", "corosync", "pcsd", "pcsd-ruby"];
        let last = |name: &str| {
            let text = fs::read_to_string(place.join(format!("units/{name}.log"))).ok()?;
            let skip = text.lines().count().saturating_sub(8);
            let lines = text.lines().skip(skip).fold(String::new(), |all, line| all + line + "\n");
            Some(format!("{at:?} {name}:\n{lines}"))
        };
        files.into_iter().filter_map(last).collect()
    }

    fn all_logs(&self) -> String {
        [At::Arbiter, At::Node(1), At::Node(2)].map(|at| self.logs(at)).concat()
    }
}

/// The files of a host that lie over the machine's. Where the units are ours too, they have a
/// directory for the state of our daemons.
fn files(ours: bool) -> [(&'static str, String); 6] {
    let (user, group, id) = ACCOUNT;
    // The machine's own, but for the account, which it may have.
    let with = |path: &str, name: &str, line: String| {
        let text = fs::read_to_string(path).unwrap();
        let prefix = format!("{name}:");
        let others = text.lines().filter(|line| !line.starts_with(&prefix)).map(str::to_owned);
        others.chain([line]).fold(String::new(), |all, line| all + &line + "\n")
    };
    let mut hash = Command::new("openssl");
    let hash = must(hash.args(["passwd", "-6", PASSWORD]).stdin(Stdio::null()));
    let hash = hash.trim();
    // The stock programs would not know the flag.
    let options = |program: &str, user: &str| {
        let flags = if ours { format!("--state-dir /run/state/{user}") } else { String::new() };
        format!("{program}_OPTIONS=\"{flags}\"\n")
    };
    [
        (
            "/etc/passwd",
            with("/etc/passwd", user, format!("{user}:x:{id}:{id}::/:/usr/sbin/nologin")),
        ),
        ("/etc/shadow", with("/etc/shadow", user, format!("{user}:{hash}:19000:0:99999:7:::"))),
        ("/etc/group", with("/etc/group", group, format!("{group}:x:{id}:"))),
        (
            "/etc/hosts",
            "127.0.0.1 localhost\n10.99.0.1 n1\n10.99.0.2 n2\n10.99.0.100 arbiter\n".to_owned(),
        ),
        ("/etc/default/corosync-qnetd", options("COROSYNC_QNETD", "coroqnetd")),
        ("/etc/default/corosync-qdevice", options("COROSYNC_QDEVICE", "root")),
    ]
}

/// The lines of a text, a space for every gap.
fn squeezed(text: &str) -> Vec<String> {
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}
