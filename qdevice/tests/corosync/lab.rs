//! A machine with the real corosync: namespaces of its own, without systemd.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sched::{CloneFlags, setns, unshare};

const COROSYNC: &str = "/usr/sbin/corosync";
const LIBRARIES: [&str; 2] = ["libvotequorum.so.8", "libcmap.so.4"];

/// Whether corosync and the rights to run it in namespaces are there; where tests must be whole
/// they have to be.
#[expect(clippy::print_stderr, reason = "who runs the tests shall know what was not tested")]
pub(crate) fn corosync_is_here() -> bool {
    let folders = ["/lib", "/usr/lib", "/usr/lib64", "/lib/x86_64-linux-gnu"];
    let machine = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    let found = |library: &&str| {
        let mut folders = folders.iter().copied().chain([machine.as_str()]);
        folders.any(|folder| Path::new(folder).join(library).exists())
    };
    let missing = LIBRARIES.iter().copied().find(|library| !found(library));
    let missing = missing.or((!Path::new(COROSYNC).exists()).then_some(COROSYNC));
    let text = match missing {
        Some(missing) => format!("{missing} is missing: install corosync"),
        None if !nix::unistd::geteuid().is_root() => {
            "corosync in namespaces needs root: run the tests as root".to_owned()
        }
        None => return true,
    };
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{text}");
    eprintln!("not tested: {text}");
    false
}

/// What `corosync.conf` says of the device, beside what all tests have.
pub(crate) const DEVICE: &str = "timeout: 4000\n    sync_timeout: 8000";

const TWO_NODE: &str = "  two_node: 1\n  wait_for_all: 0\n";

const SETUP: &str = "\
set -e
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /dev/shm
mkdir -p /run/corosync
for folder in etc/corosync var/lib/corosync var/log/corosync; do
    mkdir -p \"$1/$folder\"
    mount --bind \"$1/$folder\" \"/$folder\"
done
ip link set lo up
echo ready
exec sleep infinity
";

/// One machine of the two in the cluster's configuration.
pub(crate) struct Machine {
    number: u32,
    /// `unshare`, which takes everything inside with it when it ends.
    holder: Child,
    folder: PathBuf,
    corosync: Option<Child>,
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        if let Some(corosync) = &mut self.corosync {
            // nsenter stops with what it has started, and does not go on with it.
            let _ = corosync.kill();
            let _ = corosync.wait();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Machine {
    /// Node `number` of two, with its namespaces and without corosync.
    pub(crate) fn new(number: u32) -> Self {
        let name = format!("haguard-corosync-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        let mut holder = Command::new("unshare")
            .args(["-m", "-u", "-i", "-n", "-p", "--fork", "--kill-child", "--", "sh", "-c"])
            .args([SETUP, "sh", folder.to_str().unwrap()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        let machine = Self { number, holder, folder, corosync: None };
        machine.configure(DEVICE, "");
        machine
    }

    /// The two machines are joined by a cable.
    pub(crate) fn cable(&self, other: &Self) {
        let far = other.pid().to_string();
        // Seen from outside, where the other's process has a number.
        let added = Command::new("nsenter")
            .args(["-t", &self.pid().to_string(), "-n", "ip", "link", "add", "eth0"])
            .args(["type", "veth", "peer", "name", "eth0", "netns", &far])
            .status();
        assert!(added.unwrap().success());
        for machine in [self, other] {
            let address = format!("10.77.0.{}/24", machine.number);
            machine.run(&["ip", "address", "add", &address, "dev", "eth0"]);
            machine.run(&["ip", "link", "set", "eth0", "up"]);
        }
    }

    /// Writes corosync.conf: `quorum.device` with a few lines of one's own.
    pub(crate) fn configure(&self, device: &str, heuristics: &str) {
        self.write(&Self::device(device, heuristics));
    }

    fn device(device: &str, heuristics: &str) -> String {
        format!(
            "  device {{\n    model: net\n    votes: 1\n    {device}\n    net {{\n      \
             host: 10.77.0.3\n      algorithm: ffsplit\n      tls: off\n    }}\n    \
             heuristics {{\n{heuristics}\n    }}\n  }}\n"
        )
    }

    /// Writes corosync.conf without a device, and with something that corosync refuses beside one.
    pub(crate) fn configure_two_node(&self) {
        self.write(TWO_NODE);
    }

    /// Adds the device all the same.
    pub(crate) fn add_device(&self) {
        self.write(&(TWO_NODE.to_owned() + &Self::device(DEVICE, "")));
    }

    /// Writes corosync.conf: the insides of `quorum`.
    fn write(&self, quorum: &str) {
        let text = format!(
            "totem {{\n  version: 2\n  cluster_name: lab\n  config_version: 3\n  transport: knet\n  \
             crypto_cipher: none\n  crypto_hash: none\n  token: 1000\n}}\n\
             nodelist {{\n  node {{\n    nodeid: 1\n    name: n1\n    ring0_addr: 10.77.0.1\n  }}\n  \
             node {{\n    nodeid: 2\n    name: n2\n    ring0_addr: 10.77.0.2\n  }}\n}}\n\
             quorum {{\n  provider: corosync_votequorum\n{quorum}}}\n\
             logging {{\n  to_syslog: no\n  to_stderr: yes\n}}\n"
        );
        fs::write(self.folder.join("etc/corosync/corosync.conf"), text).unwrap();
    }

    /// Adds a node to corosync.conf.
    pub(crate) fn add_node(&self, node: u32) {
        let path = self.folder.join("etc/corosync/corosync.conf");
        let text = fs::read_to_string(&path).unwrap();
        let added = format!(
            "nodelist {{\n  node {{\n    nodeid: {node}\n    name: n{node}\n    ring0_addr: \
             10.77.0.{node}\n  }}\n"
        );
        fs::write(path, text.replacen("nodelist {\n", &added, 1)).unwrap();
    }

    /// The first process inside, seen from outside.
    fn pid(&self) -> u32 {
        let outer = self.holder.id();
        let children = format!("/proc/{outer}/task/{outer}/children");
        fs::read_to_string(children).unwrap().trim().parse().unwrap()
    }

    fn inside(&self, command: &[&str]) -> Command {
        let mut inside = Command::new("nsenter");
        inside
            .args(["-t", &self.pid().to_string(), "-m", "-u", "-i", "-n", "-p", "--"])
            .args(command)
            .stdin(Stdio::null());
        inside
    }

    /// Runs a command inside and returns what it prints.
    pub(crate) fn run(&self, command: &[&str]) -> String {
        let output = self.inside(command).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What `corosync-quorumtool -s` prints; its exit code says quorate or not.
    pub(crate) fn quorumtool(&self) -> String {
        let output = self.inside(&["corosync-quorumtool", "-s"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// Starts corosync; whoever asks it is told to wait until it is ready.
    pub(crate) fn start(&mut self) {
        if !self.run(&["ip", "address"]).contains("10.77.0.") {
            // A machine without a cable has its address all the same.
            self.run(&["ip", "address", "add", "10.77.0.1/24", "dev", "lo"]);
        }
        let script = "echo $$ >/run/corosync.test; exec corosync -f";
        self.corosync = Some(self.spawn(script));
    }

    /// Starts something that ends with the machine; what it prints goes into the log.
    pub(crate) fn spawn(&self, script: &str) -> Child {
        let log = self.folder.join("log");
        let log = fs::File::options().create(true).append(true).open(log).unwrap();
        let mut command = self.inside(&["sh", "-c", script]);
        command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
    }

    /// A folder for the machine's files.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Sends corosync a signal.
    pub(crate) fn signal(&self, name: &str) {
        self.run(&["sh", "-c", &format!("kill -{name} $(cat /run/corosync.test)")]);
    }

    /// Kills corosync.
    pub(crate) fn kill(&mut self) {
        self.signal("KILL");
        if let Some(mut corosync) = self.corosync.take() {
            corosync.wait().unwrap();
        }
    }

    /// What was logged, for a test that fails.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Runs something on a thread that lives on the machine, with the threads that it starts: its
    /// network, its files, its shared memory.
    pub(crate) fn on_it(&self, run: impl FnOnce() + Send + 'static) {
        let pid = self.pid();
        let open = |name| fs::File::open(format!("/proc/{pid}/ns/{name}")).unwrap();
        let namespaces = ["ipc", "net", "mnt"].map(open);
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_FS).unwrap();
            for namespace in namespaces {
                setns(namespace, CloneFlags::empty()).unwrap();
            }
            run();
        });
    }
}
