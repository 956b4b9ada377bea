//! A real arbiter on a free port of the loopback network.

use std::net::SocketAddr;
use std::process::Command;

use super::{Daemon, PROGRAM, Scratch, haguard, stderr, wait};

/// Where one arbiter has everything, and how to start it.
pub struct Home {
    pub scratch: Scratch,
}

impl Home {
    /// With a new authority, and certificates for the arbiter and for node 1 of `cluster`.
    pub fn new(name: &str) -> Self {
        let home = Self { scratch: Scratch::new(name) };
        let (ca, out) = (home.path("ca"), home.path("tls"));
        certs(&["init", "--dir", &ca]);
        certs(&["arbiter", "--dir", &ca, "--out", &out]);
        home
    }

    pub fn path(&self, name: &str) -> String {
        self.scratch.path(name)
    }

    /// Issues a node's certificate; says in which directory it is.
    pub fn issue(&self, cluster: &str, node: u32) -> String {
        let (ca, out) = (self.path("ca"), self.path(&format!("node{node}")));
        let node = node.to_string();
        certs(&["node", "--dir", &ca, "--cluster", cluster, "--node", &node, "--out", &out]);
        out
    }

    /// The arbiter's flags, and what else is wanted.
    pub fn flags(&self, more: &[&str]) -> Vec<String> {
        let flags = [
            ("--state-dir", "state"),
            ("--run-dir", "run"),
            ("--tls-ca", "tls/ca.pem"),
            ("--tls-cert", "tls/arbiter.pem"),
            ("--tls-key", "tls/arbiter-key.pem"),
        ];
        let flags = flags.iter().flat_map(|(flag, name)| [(*flag).to_owned(), self.path(name)]);
        flags.chain(more.iter().map(|flag| (*flag).to_owned())).collect()
    }

    /// Runs an arbiter that is expected to end by itself: its exit code, and what it says.
    pub fn run(&self, more: &[&str]) -> (Option<i32>, String) {
        let flags = self.flags(more);
        let args: Vec<&str> =
            ["qnetd"].into_iter().chain(flags.iter().map(String::as_str)).collect();
        let mut daemon = Daemon::spawn(Command::new(PROGRAM).args(args), &self.path("refused.log"));
        let code = daemon.exit_code();
        let text = daemon.log();
        std::fs::remove_file(self.path("refused.log")).unwrap();
        (code, text)
    }

    /// Starts an arbiter on a free port and waits until it listens.
    pub fn start(&self, more: &[&str]) -> Arbiter {
        let mut flags = self.flags(&["--listen", "127.0.0.1:0"]);
        flags.extend(more.iter().map(|flag| (*flag).to_owned()));
        self.spawn(Command::new(PROGRAM).arg("qnetd").args(flags))
    }

    /// The same with a command of the caller's.
    pub fn spawn(&self, command: &mut Command) -> Arbiter {
        let mut daemon = Daemon::spawn(command, &self.path("arbiter.log"));
        let address = wait("a listening arbiter", || {
            let log = daemon.log();
            assert!(daemon.ended().is_none(), "it has ended: {log}");
            let at = log.rfind("listening on ")?;
            log[at..].lines().next()?.strip_prefix("listening on ")?.trim().parse().ok()
        });
        Arbiter { daemon, address }
    }
}

/// A running arbiter.
pub struct Arbiter {
    pub daemon: Daemon,
    pub address: SocketAddr,
}

/// Runs `haguard certs`.
pub fn certs(args: &[&str]) {
    let output = haguard(&[&["certs"], args].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}
