//! What `pvecm qdevice setup ADDRESS` and `pvecm qdevice remove` do on the node where they are
//! typed, one command after the other (`PVE/CLI/pvecm.pm` of pve-cluster).

use super::site::ARBITER;

/// How a step goes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Do {
    /// A command, which must succeed.
    Run(&'static str),
    /// A command whose exit code does not count.
    Try(&'static str),
    /// Commands at one member after the other, by ssh also at the own one; they must succeed.
    Each(&'static [&'static str]),
    /// A command at every member whose exit code does not count.
    TryEach(&'static str),
    /// The configuration is changed under its lock.
    Configure(Change),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Change {
    AddDevice,
    RemoveDevice,
}

/// What is done, and a number, which commands share that belong together.
pub(crate) type Step = (u8, Do);

pub(crate) const SETUP: [Step; 17] = [
    (1, Do::Run("ssh-copy-id -i /root/.ssh/id_rsa root@ADDRESS")),
    // With --force it is removed, on this node only.
    (2, Do::Run("test ! -d /etc/corosync/qdevice/net/nssdb")),
    (3, Do::Try("ssh -o BatchMode=yes -lroot ADDRESS corosync-qnetd-certutil -i")),
    (
        4,
        Do::Run(
            "scp -o BatchMode=yes root@[ADDRESS]:/etc/corosync/qnetd/nssdb/qnetd-cacert.crt \
             /etc/pve/qnetd-cacert.crt",
        ),
    ),
    (5, Do::TryEach("corosync-qdevice-net-certutil -i -c /etc/pve/qnetd-cacert.crt")),
    (5, Do::Run("rm /etc/pve/qnetd-cacert.crt")),
    (6, Do::Run("corosync-qdevice-net-certutil -r -n lab")),
    (
        7,
        Do::Run(
            "scp -o BatchMode=yes /etc/corosync/qdevice/net/nssdb/qdevice-net-node.crq \
             root@[ADDRESS]:/tmp",
        ),
    ),
    (
        8,
        Do::Run(
            "ssh -o BatchMode=yes -lroot ADDRESS corosync-qnetd-certutil -s -c \
             /tmp/qdevice-net-node.crq -n lab",
        ),
    ),
    (
        9,
        Do::Run(
            "scp -o BatchMode=yes root@[ADDRESS]:/etc/corosync/qnetd/nssdb/cluster-lab.crt \
             /etc/corosync/qdevice/net/nssdb",
        ),
    ),
    (
        10,
        Do::Run(
            "corosync-qdevice-net-certutil -M -c /etc/corosync/qdevice/net/nssdb/cluster-lab.crt",
        ),
    ),
    (
        10,
        Do::Run(
            "scp -o BatchMode=yes /etc/corosync/qdevice/net/nssdb/qdevice-net-node.p12 /etc/pve/",
        ),
    ),
    (11, Do::Each(&["corosync-qdevice-net-certutil -m -c /etc/pve/qdevice-net-node.p12"])),
    (11, Do::Run("rm /etc/pve/qdevice-net-node.p12")),
    (12, Do::Configure(Change::AddDevice)),
    (13, Do::Each(&["systemctl start corosync-qdevice", "systemctl enable corosync-qdevice"])),
    (13, Do::Run("corosync-cfgtool -R")),
];

/// `--force`'s second step.
pub(crate) const FORCE: &str = "rm -rf /etc/corosync/qdevice/net/nssdb";

pub(crate) const REMOVE: [Step; 4] = [
    (1, Do::Configure(Change::RemoveDevice)),
    (2, Do::Each(&["rm -rf /etc/corosync/qdevice"])),
    (3, Do::Each(&["systemctl stop corosync-qdevice", "systemctl disable corosync-qdevice"])),
    (4, Do::Run("corosync-cfgtool -R")),
];

/// The configuration of two nodes as Proxmox VE writes it.
pub(crate) const COROSYNC_CONF: &str = "\
logging {
  debug: off
  to_syslog: yes
}

nodelist {
  node {
    name: n1
    nodeid: 1
    quorum_votes: 1
    ring0_addr: 10.99.0.1
  }
  node {
    name: n2
    nodeid: 2
    quorum_votes: 1
    ring0_addr: 10.99.0.2
  }
}

quorum {
  provider: corosync_votequorum
}

totem {
  cluster_name: lab
  config_version: 2
  interface {
    linknumber: 0
  }
  ip_version: ipv4-6
  link_mode: passive
  secauth: on
  version: 2
}
";

/// What is added, with keys in the order of the alphabet; no port and no tie-breaker.
fn device() -> String {
    format!(
        "  device {{\n    model: net\n    net {{\n      algorithm: ffsplit\n      host: {ARBITER}\n      \
         tls: on\n    }}\n    votes: 1\n  }}\n"
    )
}

impl Change {
    /// The text with the change, and the next version.
    ///
    /// # Errors
    /// What pvecm says where there is a device already, which --force does not change, or none.
    pub(crate) fn apply(self, text: &str) -> Result<String, String> {
        let head = "quorum {\n";
        let (old, new) = match self {
            Self::AddDevice => (head.to_owned(), format!("{head}{}", device())),
            Self::RemoveDevice => (format!("{head}{}", device()), head.to_owned()),
        };
        match (self, text.contains("device {")) {
            (Self::AddDevice, true) => return Err("Qdevice already configured".to_owned()),
            (Self::RemoveDevice, false) => return Err("No QDevice configured".to_owned()),
            (Self::AddDevice, false) | (Self::RemoveDevice, true) => {}
        }
        let before = version(text);
        let count = |number: u64| format!("config_version: {number}\n");
        Ok(text.replacen(&old, &new, 1).replacen(&count(before), &count(before + 1), 1))
    }
}

pub(crate) fn version(text: &str) -> u64 {
    let line = text.lines().find_map(|line| line.trim().strip_prefix("config_version: "));
    line.unwrap().parse().unwrap()
}
