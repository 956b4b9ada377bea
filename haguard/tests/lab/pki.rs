//! Certificates for both sides of the arbiter's port, made once a test as people make them: by the
//! stock programs, by ours, or on each side by another one. Whoever has made them, they are there
//! in both forms, NSS databases and PEM files, because haguard carries them over.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::conf::CLUSTER;
use super::{HAGUARD, must};

/// Where an arbiter's certificates are in its `/etc/corosync`.
pub(crate) const ARBITER_STORE: &str = "qnetd/nssdb";
/// Where a node's are.
pub(crate) const NODE_STORE: &str = "qdevice/net/nssdb";

const ARBITER_PROGRAM: &str = "corosync-qnetd-certutil";
const NODE_PROGRAM: &str = "corosync-qdevice-net-certutil";

/// Whose programs make certificates.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Maker {
    /// The scripts of the distribution, with NSS tools.
    Stock,
    /// haguard under their names.
    Ours,
}

/// Who has made a cluster's certificates.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Made {
    /// Everything by the stock scripts.
    Stock,
    /// Everything by ours, the cluster's key too.
    Ours,
    /// The arbiter's side by the arbiter's own program, the nodes' by the nodes' own.
    Mixed,
}

/// The certificates of each [`Made`].
#[derive(Debug)]
pub(crate) struct Pkis {
    stock: Pki,
    ours: Pki,
    mixed: Pki,
}

impl Pkis {
    /// With an arbiter and nodes of these kinds.
    pub(crate) fn new(arbiter: Maker, nodes: Maker) -> Self {
        assert_ne!(arbiter, nodes, "that is not mixed");
        Self { stock: Pki::stock(), ours: Pki::ours(), mixed: Pki::made(arbiter, nodes) }
    }

    pub(crate) fn of(&self, made: Made) -> &Pki {
        match made {
            Made::Stock => &self.stock,
            Made::Ours => &self.ours,
            Made::Mixed => &self.mixed,
        }
    }
}

/// A directory with everything; removed with the value. `arbiter`, `first` and `other` are the
/// `/etc/corosync` of the arbiter, the first node and all others, `device` is that of a node with
/// our device.
#[derive(Debug)]
pub(crate) struct Pki {
    directory: PathBuf,
}

impl Pki {
    /// Everything by the stock scripts; ours import it.
    pub(crate) fn stock() -> Self {
        Self::made(Maker::Stock, Maker::Stock)
    }

    /// Everything by ours; the stock programs are given what they need.
    pub(crate) fn ours() -> Self {
        Self::made(Maker::Ours, Maker::Ours)
    }

    /// The authority, the arbiter's certificate and the signature by `arbiter`, the cluster's key
    /// and request by `nodes`.
    pub(crate) fn made(arbiter: Maker, nodes: Maker) -> Self {
        let pki = Self::empty(&format!("{arbiter:?}-{nodes:?}"));
        pki.run(arbiter, "arbiter", ARBITER_PROGRAM, &["-i", "-G"]);
        let (asking, waiting): (_, &[_]) = match nodes {
            Maker::Stock => ("first", &["other"]),
            Maker::Ours => ("device", &["first", "other"]),
        };
        pki.trust(nodes, asking);
        pki.run(nodes, asking, NODE_PROGRAM, &["-r", "-n", CLUSTER]);
        let request = pki.path(asking).join(NODE_STORE).join("qdevice-net-node.crq");
        fs::copy(request, pki.path("arbiter/request")).unwrap();
        let sign = ["-s", "-c", "/etc/corosync/request", "-n", CLUSTER];
        pki.run(arbiter, "arbiter", ARBITER_PROGRAM, &sign);
        let signed = pki.path("arbiter").join(ARBITER_STORE).join(format!("cluster-{CLUSTER}.crt"));
        fs::copy(signed, pki.path(asking).join("cluster.crt")).unwrap();
        pki.run(nodes, asking, NODE_PROGRAM, &["-M", "-c", "/etc/corosync/cluster.crt"]);
        let bundle = pki.path(asking).join(NODE_STORE).join("qdevice-net-node.p12");
        for node in waiting {
            pki.trust(Maker::Stock, node);
            fs::copy(&bundle, pki.path(node).join("cluster.p12")).unwrap();
            pki.run(Maker::Stock, node, NODE_PROGRAM, &["-m", "-c", "/etc/corosync/cluster.p12"]);
        }
        match nodes {
            Maker::Stock => pki.import("first", NODE_STORE, &pki.path("device").join(NODE_STORE)),
            Maker::Ours => {}
        }
        let store = Path::new("/etc/corosync").join(ARBITER_STORE);
        match arbiter {
            Maker::Stock => pki.import("arbiter", ARBITER_STORE, &store),
            Maker::Ours => {
                let export = ["certs", "export", "--nssdb", &store.display().to_string()];
                pki.inside("arbiter", HAGUARD, &export);
            }
        }
        pki
    }

    fn empty(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("haguard-lab-{}-{name}-{count}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        for place in ["bin", "arbiter/qnetd", "first/qdevice/net", "other/qdevice/net"] {
            fs::create_dir_all(directory.join(place)).unwrap();
        }
        fs::create_dir_all(directory.join("device/qdevice/net")).unwrap();
        for program in [ARBITER_PROGRAM, NODE_PROGRAM] {
            symlink(HAGUARD, directory.join("bin").join(program)).unwrap();
        }
        let pki = Self { directory };
        // Between our nodes: a certificate each, of an authority of their own.
        let (ca, nodes) = (pki.text("own-ca"), pki.path("own"));
        must(Command::new(HAGUARD).args(["certs", "init", "--dir", &ca]));
        for node in 1..=4 {
            let out = nodes.join(format!("n{node}")).display().to_string();
            let who = ["--dir", &ca, "--cluster", CLUSTER, "--node", &node.to_string()];
            must(Command::new(HAGUARD).args(["certs", "node"]).args(who).args(["--out", &out]));
        }
        pki
    }

    /// A node is told whom to trust.
    fn trust(&self, maker: Maker, node: &str) {
        let ca = self.path("arbiter").join(ARBITER_STORE).join("qnetd-cacert.crt");
        fs::copy(ca, self.path(node).join("ca.crt")).unwrap();
        self.run(maker, node, NODE_PROGRAM, &["-i", "-c", "/etc/corosync/ca.crt"]);
    }

    /// PEM files out of an NSS database.
    fn import(&self, host: &str, store: &str, out: &Path) {
        let from = Path::new("/etc/corosync").join(store).display().to_string();
        let out = out.display().to_string();
        // This machine's own arbiter, should there be one, has nothing to do with it.
        let alone = ["--qnetd-socket", "/etc/corosync/nobody"];
        let import = ["certs", "import", "--nssdb", &from, "--out", &out];
        self.inside(host, HAGUARD, &[&import[..], &alone].concat());
    }

    fn run(&self, maker: Maker, host: &str, program: &str, words: &[&str]) {
        let ours = self.path("bin").join(program).display().to_string();
        let program = match maker {
            Maker::Stock => program,
            Maker::Ours => &ours,
        };
        self.inside(host, program, words);
    }

    /// Runs a program with a host's directory as `/etc/corosync`.
    fn inside(&self, host: &str, program: &str, words: &[&str]) {
        let bind = "mount --bind $0 /etc/corosync && exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", bind]).arg(self.path(host)).arg(program).args(words);
        must(command.stdin(Stdio::null()));
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }
}

impl Drop for Pki {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}
