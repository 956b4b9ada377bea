//! Real clusters on one machine. A host is a process namespace with its own network, mounts, IPC
//! and name, so it has its own `/run`, `/etc/corosync` and boot id; killing its first process is
//! the loss of its power. All hosts hang on one bridge. A cut is a set of pairs of its ports in
//! which frames are dropped; the whole set is replaced in one nftables transaction, so all hosts
//! are cut at the same instant, and nobody gets an error: there is only silence.
//!
//! Needs root. Everything dies with the thread that made the lab, even when that is killed; only
//! a directory stays then, and the next lab removes it.

pub(crate) mod conf;
pub(crate) mod pki;
pub(crate) mod rows;
pub(crate) mod stack;
pub(crate) mod table;
pub(crate) mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use haguard::command::demo::samples::now;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use conf::Plan;
use pki::Pki;
use watch::Watch;

pub(crate) const HAGUARD: &str = env!("CARGO_BIN_EXE_haguard");

/// The stock programs in whose place haguard is in the lab's directory `bin`.
const NAMES: [&str; 6] = [
    "corosync-qnetd",
    "corosync-qnetd-certutil",
    "corosync-qnetd-tool",
    "corosync-qdevice",
    "corosync-qdevice-net-certutil",
    "corosync-qdevice-tool",
];

/// A machine of the lab.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum At {
    Arbiter,
    Node(u32),
}

impl At {
    pub(crate) fn name(self) -> String {
        match self {
            Self::Arbiter => "arbiter".to_owned(),
            Self::Node(node) => format!("n{node}"),
        }
    }

    /// The last part of its addresses.
    fn number(self) -> u32 {
        match self {
            Self::Arbiter => 100,
            Self::Node(node) => node,
        }
    }

    fn port(self) -> String {
        format!("p{}", self.number())
    }
}

/// A daemon on a host; there is at most one of each.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Role {
    Arbiter,
    /// corosync, or our node.
    Engine,
    Device,
}

/// A process that was started into another's namespaces, and the one that started it.
#[derive(Debug)]
struct Inside {
    outer: Child,
    inner: Pid,
}

impl Inside {
    /// Starts `command`, which forks one process, and finds out that one's id.
    fn start(mut command: Command) -> Self {
        let mut outer = command.spawn().unwrap();
        let children = format!("/proc/{0}/task/{0}/children", outer.id());
        let inner = patiently("a process in a namespace", Duration::from_secs(10), || {
            let ended = outer.try_wait().unwrap();
            assert!(ended.is_none(), "{command:?} has ended at once: {ended:?}");
            let children = fs::read_to_string(&children).ok()?;
            children.split_whitespace().next()?.parse().ok()
        });
        Self { outer, inner: Pid::from_raw(inner) }
    }

    /// As long as the outer process has not ended, the inner one's id is nobody else's.
    fn is_running(&mut self) -> bool {
        matches!(self.outer.try_wait(), Ok(None))
    }

    fn signal(&mut self, signal: Signal) {
        if !self.is_running() {
            return;
        }
        let _ = kill(self.inner, signal);
        if signal == Signal::SIGCONT {
            // nsenter stops with what it has started.
            let _ = kill(Pid::from_raw(i32::try_from(self.outer.id()).unwrap()), signal);
        }
    }

    fn end(&mut self) {
        self.signal(Signal::SIGKILL);
        self.signal(Signal::SIGCONT);
        let _ = self.outer.wait();
    }
}

/// The lab. Its fields are dropped in this order: processes before what they stand on.
#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) plan: Plan,
    pub(crate) watch: Watch,
    daemons: BTreeMap<(At, Role), Inside>,
    hosts: BTreeMap<At, Inside>,
    switch: Child,
    cuts: BTreeSet<(At, At)>,
    pub(crate) directory: PathBuf,
}

impl Lab {
    /// A switch, the hosts of the plan and their files; no daemon runs.
    pub(crate) fn new(plan: Plan, pki: &Pki) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        remove_leftovers();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory =
            std::env::temp_dir().join(format!("haguard-lab-{}-{count}", std::process::id()));
        fs::create_dir_all(directory.join("bin")).unwrap();
        for name in NAMES {
            symlink(HAGUARD, directory.join("bin").join(name)).unwrap();
        }
        // Ready when it has answered: until then it is not in its namespace.
        let mut switch = dying_with_us(&["unshare", "--net", "sh", "-c", SWITCH]);
        let mut switch = switch.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        wait_until_ready(&mut switch, "the switch");
        let mut lab = Self {
            plan,
            watch: Watch::default(),
            daemons: BTreeMap::new(),
            hosts: BTreeMap::new(),
            switch,
            cuts: BTreeSet::new(),
            directory,
        };
        for at in lab.everyone() {
            lab.write_files(at, pki);
            lab.power_on(at);
        }
        lab
    }

    /// Ids of all nodes.
    pub(crate) fn nodes(&self) -> Vec<u32> {
        (1..=self.plan.nodes).collect()
    }

    fn everyone(&self) -> Vec<At> {
        self.nodes().into_iter().map(At::Node).chain([At::Arbiter]).collect()
    }

    /// A host's own directory.
    pub(crate) fn place(&self, at: At) -> PathBuf {
        self.directory.join(at.name())
    }

    /// Boots a host: its files are as they were, `/run` is empty, and the boot has a new id.
    pub(crate) fn power_on(&mut self, at: At) {
        if self.hosts.contains_key(&at) {
            return;
        }
        let place = self.place(at).display().to_string();
        let init = ["unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--fork"];
        let rest = ["--kill-child", "--mount-proc", "sh", "-c", HOST, &at.name(), &place];
        let mut command = dying_with_us(&[&init[..], &rest[..]].concat());
        // unshare complains when its child is killed.
        let log = File::create(self.place(at).join("host.log")).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut host = Inside::start(command);
        wait_until_ready(&mut host.outer, &at.name());
        let (port, number, pid) = (at.port(), at.number(), host.inner);
        self.in_switch(&format!(
            "ip link add {port} type veth peer name eth0 address 02:00:00:00:00:{number:02x} \
             netns {pid} && ip link set {port} master br0 up"
        ));
        let script = format!(
            "ip addr add 10.99.0.{number}/24 dev eth0 && ip addr add fd99::{number}/64 dev eth0 \
             nodad && ip link set eth0 up"
        );
        must(Command::new("nsenter").args(["-n", "-t", &pid.to_string(), "sh", "-c", &script]));
        self.hosts.insert(at, host);
    }

    /// Takes the power away: silence first, then everything on the host dies at once.
    pub(crate) fn power_off(&mut self, at: At) {
        let Some(mut host) = self.hosts.remove(&at) else { return };
        self.in_switch(&format!("ip link set {} down", at.port()));
        if let At::Node(node) = at {
            self.watch.gone(node, now());
        }
        host.end();
        self.in_switch(&format!("ip link del {}", at.port()));
        self.daemons.retain(|(place, _), _| *place != at);
    }

    fn in_switch(&self, script: &str) {
        must(Command::new("nsenter").args([
            "-n",
            "-t",
            &self.switch.id().to_string(),
            "sh",
            "-c",
            script,
        ]));
    }

    /// Who of the given groups hears whom: within a group all, between groups nobody. A host in no
    /// group hears everyone. Replaces all cuts.
    pub(crate) fn cut(&mut self, groups: &[&[At]]) {
        self.cuts.clear();
        for (index, group) in groups.iter().enumerate() {
            for other in groups.iter().enumerate().filter(|(at, _)| *at != index) {
                let pairs = group.iter().flat_map(|a| other.1.iter().map(move |b| (*a, *b)));
                self.cuts.extend(pairs);
            }
        }
        self.apply_cuts();
    }

    /// Cuts one pair more, in both directions.
    pub(crate) fn cut_also(&mut self, a: At, b: At) {
        self.cuts.extend([(a, b), (b, a)]);
        self.apply_cuts();
    }

    /// Everything passes again.
    pub(crate) fn heal(&mut self) {
        self.cut(&[]);
    }

    fn apply_cuts(&self) {
        let pairs = self.cuts.iter().map(|(a, b)| format!("{} . {}", a.port(), b.port()));
        let pairs = pairs.collect::<Vec<_>>().join(", ");
        let mut rules = "flush set bridge lab cut\n".to_owned();
        if !pairs.is_empty() {
            rules.push_str(&format!("add element bridge lab cut {{ {pairs} }}\n"));
        }
        let mut nft = Command::new("nsenter");
        nft.args(["-n", "-t", &self.switch.id().to_string(), "nft", "-f", "-"]);
        let mut nft = nft.stdin(Stdio::piped()).spawn().unwrap();
        nft.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
        assert!(nft.wait().unwrap().success(), "{rules}");
    }

    /// A command that runs on a host.
    pub(crate) fn command(&self, at: At, words: &[&str]) -> Command {
        let host = &self.hosts[&at];
        let mut command = Command::new("nsenter");
        command.args(["-a", "-t", &host.inner.to_string(), "--"]).args(words);
        command.stdin(Stdio::null());
        command
    }

    /// Runs a command on a host, for ten seconds at most.
    pub(crate) fn run(&self, at: At, words: &[&str]) -> Output {
        self.command(at, &[&["timeout", "10"], words].concat()).output().unwrap()
    }

    /// What a command printed, whatever its exit code.
    pub(crate) fn text(&self, at: At, words: &[&str]) -> String {
        String::from_utf8_lossy(&self.run(at, words).stdout).into_owned()
    }

    /// A path of a host as this process can open it.
    pub(crate) fn outside(&self, at: At, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.hosts[&at].inner))
    }

    /// Starts a daemon; what it prints is in `ROLE.log` of the host's place.
    pub(crate) fn start(&mut self, at: At, role: Role, words: &[&str]) {
        if let Some(mut old) = self.daemons.remove(&(at, role)) {
            old.end();
        }
        let log = self.log_file(at, role);
        let mut command = self.command(at, words);
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let daemon = Inside::start(command);
        self.daemons.insert((at, role), daemon);
    }

    /// Starts corosync on a node, and listens to it.
    pub(crate) fn start_corosync(&mut self, node: u32) {
        let at = At::Node(node);
        let log = self.log_file(at, Role::Engine);
        let mut command = self.command(at, &["corosync", "-f"]);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut daemon = Inside::start(command);
        self.watch.listen(node, daemon.outer.stderr.take().unwrap(), log);
        self.daemons.insert((at, Role::Engine), daemon);
    }

    fn log_file(&self, at: At, role: Role) -> File {
        let path = self.place(at).join(format!("{role:?}.log"));
        File::options().create(true).append(true).open(path).unwrap()
    }

    /// Sends a signal to a daemon; SIGKILL also waits for its end.
    pub(crate) fn signal(&mut self, at: At, role: Role, signal: Signal) {
        let daemon = self.daemons.get_mut(&(at, role)).unwrap();
        daemon.signal(signal);
        if signal == Signal::SIGKILL {
            daemon.end();
        }
    }

    /// Whether the daemon that was started last has not ended.
    pub(crate) fn runs(&mut self, at: At, role: Role) -> bool {
        self.daemons.get_mut(&(at, role)).is_some_and(Inside::is_running)
    }

    /// A daemon's log.
    pub(crate) fn whole_log(&self, at: At, role: Role) -> String {
        let path = self.place(at).join(format!("{role:?}.log"));
        let text = fs::read(path).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Its end.
    pub(crate) fn log(&self, at: At, role: Role) -> String {
        let text = self.whole_log(at, role);
        let from = text.lines().count().saturating_sub(12);
        text.lines().skip(from).map(|line| format!("    {line}\n")).collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for host in self.hosts.values_mut() {
            host.end();
        }
        for daemon in self.daemons.values_mut() {
            daemon.end();
        }
        let _ = self.switch.kill();
        let _ = self.switch.wait();
        self.watch.end();
        if std::thread::panicking() {
            table::say(&format!("the daemons' logs are in {}", self.directory.display()));
        } else {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}

/// The bridge and its filter. The shell's child ends with it: they share a process group only.
const SWITCH: &str = "
    ip link add br0 type bridge stp_state 0 forward_delay 0 && ip link set br0 up &&
    printf '%s\\n' 'add table bridge lab' 'add set bridge lab cut { type ifname . ifname; }' \\
        'add chain bridge lab part { type filter hook forward priority 0; policy accept; }' \\
        'add rule bridge lab part iifname . oifname @cut drop' | nft -f - &&
    echo ready && exec sleep infinity";

/// The first process of a host: mounts, then it reaps.
const HOST: &str = "
    mount -t tmpfs -o mode=755 run /run && mount -t tmpfs -o mode=1777 shm /dev/shm &&
    mkdir -p /run/lock /run/haguard /run/corosync /run/corosync-qdevice /run/corosync-qnetd &&
    mount --bind $1/etc /etc/corosync && mount --bind $1/lib /var/lib/corosync &&
    cat /proc/sys/kernel/random/uuid >/run/boot_id &&
    mount --bind /run/boot_id /proc/sys/kernel/random/boot_id &&
    hostname $0 && ip link set lo up && echo ready && exec >/dev/null &&
    while :; do sleep 1000 & wait; done";

/// A command that is killed when this thread ends, however it ends.
fn dying_with_us(words: &[&str]) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).args(words);
    command
}

fn wait_until_ready(child: &mut Child, what: &str) {
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n", "{what} cannot be made");
}

/// Directories of labs whose process is gone.
fn remove_leftovers() {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(rest) = name.strip_prefix("haguard-lab-") else { continue };
        let pid = rest.split('-').next().unwrap_or_default();
        // A failed test's logs are kept until the next run.
        if !Path::new("/proc").join(pid).exists() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Runs a command to its end, which must be a good one; returns what it printed.
pub(crate) fn must(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}: {text}{complaint}");
    text
}

/// Looks again and again, ten times a second at most, until there is something.
pub(crate) fn patiently<T>(
    what: &str,
    patience: Duration,
    mut look: impl FnMut() -> Option<T>,
) -> T {
    let start = now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(now().since(start) < patience, "waited {patience:?} in vain for {what}");
        pause();
    }
}

/// A short rest between two looks: nobody sends to the channel.
pub(crate) fn pause() {
    let (_sender, nothing) = std::sync::mpsc::channel::<()>();
    let _ = nothing.recv_timeout(Duration::from_millis(20));
}

/// Does `count` pieces of work, `at_once` at a time; returns what came out, in their order. A lab
/// belongs to the thread that made it, so each piece makes its own.
pub(crate) fn several<T: Send>(
    count: usize,
    at_once: usize,
    work: impl Fn(usize) -> T + Sync,
) -> Vec<T> {
    let queue = Mutex::new(0..count);
    let results = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..at_once.min(count) {
            scope.spawn(|| {
                loop {
                    let Some(piece) = queue.lock().unwrap().next() else { break };
                    let result = work(piece);
                    results.lock().unwrap().insert(piece, result);
                }
            });
        }
    });
    results.into_inner().unwrap().into_values().collect()
}

/// Whether there are the rights and programs for a lab. If not, says so; under CI that is a
/// failure.
pub(crate) fn is_possible() -> bool {
    let programs = ["/usr/sbin/corosync", "/usr/sbin/corosync-qdevice", "/usr/bin/corosync-qnetd"];
    let tools = ["/usr/bin/certutil", "/usr/bin/pk12util", "/usr/sbin/nft", "/usr/bin/openssl"];
    let missing = programs.iter().chain(&tools).find(|path| !Path::new(path).exists());
    let missing = match missing {
        Some(path) => Some((*path).to_owned()),
        None if !nix::unistd::geteuid().is_root() => Some("root".to_owned()),
        None => None,
    };
    if let Some(missing) = &missing {
        assert!(std::env::var_os("CI").is_none(), "no cluster can be built here without {missing}");
        table::say(&format!("left out: no cluster can be built here without {missing}"));
    }
    missing.is_none()
}
