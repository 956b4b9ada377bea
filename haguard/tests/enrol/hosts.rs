//! Hosts with an `/etc/corosync` of their own: mount namespaces, each with either the stock
//! programs or ours under the stock names. Processes, users and the network are the machine's.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use super::common::{PROGRAM, left_out, wait};

pub(crate) const ARBITER_STORE: &str = "/etc/corosync/qnetd/nssdb";
pub(crate) const NODE_STORE: &str = "/etc/corosync/qdevice/net/nssdb";

/// What the tests need of the stock packages.
const STOCK: [&str; 5] = [
    "/usr/bin/corosync-qnetd",
    "/usr/bin/corosync-qnetd-certutil",
    "/usr/sbin/corosync-qdevice-net-certutil",
    "/usr/bin/certutil",
    "/usr/bin/pk12util",
];

/// Makes the namespace: directories that nobody else sees, and our program under all names. It
/// lasts until the standard input ends, that is, as long as the test.
const SET_UP: &str = "\
set -e
mount -t tmpfs -o mode=755 tmpfs /etc/corosync
mkdir -p /etc/corosync/bin /etc/corosync/pve /etc/corosync/qnetd
touch /etc/corosync/bin/haguard
mount --bind \"$1\" /etc/corosync/bin/haguard
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /tmp
mkdir -p /run/corosync-qnetd /run/state
for name in corosync-qnetd corosync-qnetd-certutil corosync-qdevice-net-certutil; do
    ln -s haguard /etc/corosync/bin/$name
done
echo ready
read -r end || true
";

/// Whose programs a host has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Side {
    Stock,
    Ours,
}

/// Whether the tests can run here; where not, says why.
pub(crate) fn possible() -> bool {
    if !super::common::is_root("an /etc/corosync for each host") {
        return false;
    }
    let missing = STOCK.iter().find(|program| !PathBuf::from(program).exists());
    if let Some(missing) = missing {
        assert!(std::env::var_os("CI").is_none(), "{missing} is missing");
        left_out(&format!("{missing} is missing: install corosync-qnetd and corosync-qdevice"));
    }
    missing.is_none()
}

/// One host.
pub(crate) struct Host {
    pub(crate) side: Side,
    keeper: Child,
}

impl Host {
    pub(crate) fn new(side: Side) -> Self {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", SET_UP, "sh", PROGRAM]);
        let mut keeper = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(keeper.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self { side, keeper }
    }

    /// The id of a process in the namespace.
    pub(crate) fn pid(&self) -> u32 {
        self.keeper.id()
    }

    /// The path by which this test reaches a file of the host.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.pid()))
    }

    pub(crate) fn read(&self, path: &str) -> Vec<u8> {
        fs::read(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// A command on the host; a name without a path is looked up on its side.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.pid())).arg("--wd=/").arg("--");
        let path = match self.side {
            Side::Stock => "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            Side::Ours => {
                "/etc/corosync/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
            }
        };
        // The directory for temporary files of the tests is not there.
        command.args(["env", "-u", "TMPDIR", &format!("PATH={path}")]).args(words);
        command.stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// Runs a command that must succeed, and returns what it printed.
    pub(crate) fn must(&self, words: &[&str]) -> String {
        let output = self.run(words);
        let [printed, said] = [&output.stdout, &output.stderr].map(|text| lossy(text));
        assert!(output.status.success(), "{:?} {words:?}: {printed}{said}", self.side);
        printed
    }

    /// Runs a command that must fail with this code, and returns what it said.
    pub(crate) fn refused(&self, code: i32, words: &[&str]) -> String {
        let output = self.run(words);
        let [printed, said] = [&output.stdout, &output.stderr].map(|text| lossy(text));
        assert_eq!(output.status.code(), Some(code), "{words:?}: {printed}{said}");
        said
    }

    /// The names in a directory, sorted.
    pub(crate) fn names(&self, directory: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(directory)).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// Starts the host's corosync-qnetd on the store, on an address that no other host has.
    pub(crate) fn start_arbiter(&self, tls: &str) -> Running {
        // What ended before may keep its port for a while.
        static STARTS: AtomicU16 = AtomicU16::new(5403);
        let [_, top, high, low] = self.pid().to_be_bytes();
        let address =
            SocketAddr::from(([127, 100 + top, high, low], STARTS.fetch_add(1, Ordering::Relaxed)));
        let (ip, port) = (address.ip().to_string(), address.port().to_string());
        let mut words = vec!["corosync-qnetd", "-f", "-s", tls, "-l", &ip, "-p", &port];
        if self.side == Side::Ours {
            words.extend(["--state-dir", "/run/state"]);
        }
        let mut command = self.command(&words);
        command.stdout(Stdio::null()).stderr(Stdio::inherit());
        let mut running = Running { child: command.spawn().unwrap(), address };
        wait("an arbiter that listens", || {
            let ended = running.child.try_wait().unwrap();
            assert_eq!(ended, None, "corosync-qnetd of {:?} has ended", self.side);
            TcpStream::connect(address).ok()
        });
        running
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

/// A daemon, which ends with the test.
pub(crate) struct Running {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// scp(1) between hosts.
pub(crate) fn copy(from: &Host, what: &str, to: &Host, whereto: &str) {
    fs::write(to.path(whereto), from.read(what)).unwrap();
}

pub(crate) fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
