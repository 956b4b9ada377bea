//! Hosts of the lab as `pvecm` finds them: an `/etc/pve` that the nodes share, ssh between hosts,
//! services, and a cluster of two nodes that runs without a device.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use protocol::vote::Algorithm;

use super::lab::conf::{Arbiter, Plan, Stack};
use super::lab::pki::Pki;
use super::lab::{At, HAGUARD, Lab, must, patiently, table};
use super::steps::{COROSYNC_CONF, Change, Do, FORCE, SETUP, Step, version};

/// Until a cluster has formed, or a device has its vote.
const PATIENCE: Duration = Duration::from_secs(40);

/// A step, in seconds.
const COMMAND: &str = "60";

pub(crate) const ARBITER: &str = "10.99.0.100";
const NODES: [(&str, &str); 2] = [("n1", "10.99.0.1"), ("n2", "10.99.0.2")];

/// Where pvecm is typed.
pub(crate) const HERE: At = At::Node(1);
const EVERYONE: [At; 3] = [At::Node(1), At::Node(2), At::Arbiter];

/// The programs of each package that enrolment and voting need.
const ARBITER_PROGRAMS: [&str; 3] =
    ["/usr/bin/corosync-qnetd", "/usr/bin/corosync-qnetd-tool", "/usr/bin/corosync-qnetd-certutil"];
const NODE_PROGRAMS: [&str; 3] = [
    "/usr/sbin/corosync-qdevice",
    "/usr/sbin/corosync-qdevice-tool",
    "/usr/sbin/corosync-qdevice-net-certutil",
];

/// Whose programs the arbiter has, and the nodes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Ours {
    Arbiter,
    Nodes,
}

/// Gives a host an `/etc`, a `/var/lib` and a `/root` of its own, what systemd makes for the
/// daemons by their units and our additions to them, and its stand-ins.
const COVER: &str = "
set -e
mkdir -p /run/units /run/bin /run/etc/corosync /run/lib/corosync /run/lib/haguard
cp -a -x /etc/. /run/etc
mkdir -p /run/etc/pve
mount --bind /etc/corosync /run/etc/corosync
mount --bind \"$0/pve\" /run/etc/pve
mount --rbind /run/etc /etc
mount --bind /var/lib/corosync /run/lib/corosync
mount --rbind /run/lib /var/lib
install -d -o coroqnetd -m 700 /var/lib/haguard/qnetd
install -d -m 700 /var/lib/haguard/qdevice
cp -a \"$0/bin/.\" /run/bin
mount -t tmpfs -o mode=700 root /root
cp -a \"$0/ssh\" /root/.ssh
rm -f /etc/default/corosync*
";

/// What installing Debian's corosync-qnetd leaves (its postinst).
const DEBIAN_STORE: &str = "
set -e
corosync-qnetd-certutil -i -G
cd /etc/corosync/qnetd/nssdb
chgrp coroqnetd . cert9.db key4.db pkcs11.txt
";

/// Reads what the API of Proxmox VE reads, and prints it.
const API: &str = "
import socket, sys
with socket.socket(socket.AF_UNIX) as device:
    device.connect('/var/run/corosync-qdevice/corosync-qdevice.sock')
    device.sendall(b'status verbose\\n')
    with device.makefile() as answer:
        sys.stdout.write(answer.read())
";

/// The keys that the API gives on.
const API_KEYS: [&str; 7] =
    ["Algorithm", "Echo reply", "Last poll call", "Model", "QNetd host", "State", "Tie-breaker"];

/// Whether there are the rights and programs. If not, says so; under CI that is a failure.
pub(crate) fn is_possible() -> bool {
    if !super::lab::is_possible() {
        return false;
    }
    let python = "/usr/bin/python3";
    let there = Path::new(python).exists();
    if !there {
        assert!(std::env::var_os("CI").is_none(), "{python} is missing");
        table::say(&format!("left out: {python} is missing: the stand-ins are written in it"));
    }
    there
}

/// Two nodes with corosync and an arbiter, with ssh from host to host.
pub(crate) struct Site {
    pub(crate) lab: Lab,
    _pki: Pki,
}

impl Site {
    /// A cluster without a device, and an arbiter that runs; ours has no certificates yet.
    pub(crate) fn new(ours: Ours) -> Self {
        let pki = Pki::ours();
        let plan = Plan::new(Arbiter::Renamed, Stack::Stock, Algorithm::Ffsplit);
        let site = Self { lab: Lab::new(plan, &pki), _pki: pki };
        fs::create_dir(site.pve("")).unwrap();
        fs::write(site.pve("corosync.conf"), COROSYNC_CONF).unwrap();
        for at in EVERYONE {
            site.prepare(at, ours);
        }
        if ours == Ours::Nodes {
            must(&mut site.shell(At::Arbiter, &["sh", "-c", DEBIAN_STORE]));
        }
        let starting = EVERYONE.map(|at| {
            let service = if at == At::Arbiter { "corosync-qnetd" } else { "corosync" };
            (at, site.shell(at, &["systemctl", "start", service]).spawn().unwrap())
        });
        for (at, mut child) in starting {
            assert!(child.wait().unwrap().success(), "{at:?}:\n{}", site.logs());
        }
        patiently("a cluster of two nodes", PATIENCE, || {
            let whole = |at| site.rows(at, "-s").contains(&"Total votes: 2".to_owned());
            (whole(At::Node(1)) && whole(At::Node(2))).then_some(())
        });
        site
    }

    fn prepare(&self, at: At, ours: Ours) {
        let place = self.lab.place(at);
        for name in ["qnetd/nssdb", "qdevice"] {
            let _ = fs::remove_dir_all(place.join("etc").join(name));
        }
        let (bin, ssh) = (place.join("bin"), place.join("ssh"));
        for directory in [&bin, &ssh] {
            fs::create_dir(directory).unwrap();
        }
        let stand_ins =
            [("systemctl", include_str!("../pcs/systemctl.py")), ("ssh", include_str!("ssh.py"))];
        for (name, text) in stand_ins {
            fs::write(bin.join(name), text).unwrap();
            fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        for name in ["scp", "ssh-copy-id", "sshd"] {
            symlink("ssh", bin.join(name)).unwrap();
        }
        let key = format!("ssh-rsa KEY-OF-{} root@{}\n", at.name(), at.name());
        fs::write(ssh.join("id_rsa.pub"), key).unwrap();
        let programs: &[&str] = match (at, ours) {
            (At::Arbiter, Ours::Arbiter) => &ARBITER_PROGRAMS,
            (At::Node(_), Ours::Nodes) => &NODE_PROGRAMS,
            (At::Arbiter, Ours::Nodes) | (At::Node(_), Ours::Arbiter) => &[],
        };
        match at {
            At::Arbiter => {
                // From its package; the other one is empty, as it is in no cluster.
                fs::create_dir_all(place.join("etc/qnetd")).unwrap();
                fs::create_dir(place.join("pve")).unwrap();
            }
            At::Node(_) => {
                fs::write(place.join("etc/corosync.conf"), COROSYNC_CONF).unwrap();
                symlink("../pve", place.join("pve")).unwrap();
                // The members of a cluster let each other in.
                let keys = NODES.map(|(name, _)| format!("ssh-rsa KEY-OF-{name} root@{name}\n"));
                fs::write(ssh.join("authorized_keys"), keys.concat()).unwrap();
            }
        }
        let mut script = COVER.to_owned();
        for program in programs {
            writeln!(script, "mount --bind {HAGUARD} {program}").unwrap();
        }
        // Last, as the lab may be in there.
        script.push_str(
            "mount -t tmpfs -o mode=1777 tmp /tmp\nexec /run/bin/sshd >/run/units/sshd.log 2>&1\n",
        );
        let place = place.display().to_string();
        must(&mut self.lab.command(at, &["sh", "-c", &script, &place]));
    }

    /// A file that the nodes share.
    pub(crate) fn pve(&self, name: &str) -> PathBuf {
        self.lab.directory.join("pve").join(name)
    }

    /// A command as root's shell on a host calls it.
    fn shell(&self, at: At, words: &[&str]) -> Command {
        let path = "PATH=/run/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let shell = ["timeout", COMMAND, "env", "-i", path, "LANG=C.UTF-8", "HOME=/root"];
        self.lab.command(at, &[&shell, words].concat())
    }

    /// Takes the steps one after the other.
    ///
    /// # Errors
    /// The number of the first step that fails and must not, and what its command said; none is
    /// taken after it.
    pub(crate) fn replay(&self, steps: &[Step], force: bool) -> Result<(), (u8, String)> {
        for (number, step) in steps {
            self.take(*number, *step, force).map_err(|said| (*number, said))?;
        }
        Ok(())
    }

    fn take(&self, number: u8, step: Do, force: bool) -> Result<(), String> {
        let run = |command: &str| {
            let command = command.replace("ADDRESS", ARBITER);
            let words: Vec<&str> = command.split_whitespace().collect();
            said(&command, &self.shell(HERE, &words).output().unwrap())
        };
        let at = |(name, ip): (&str, &str), command: &str| {
            run(&format!(
                "ssh -e none -o BatchMode=yes -o HostKeyAlias={name} root@{ip} -- {command}"
            ))
        };
        match step {
            Do::Run(_) if number == 2 && force => run(FORCE),
            Do::Run(command) => run(command),
            Do::Try(command) => {
                let _ = run(command);
                Ok(())
            }
            Do::Each(commands) => NODES
                .iter()
                .flat_map(|node| commands.iter().map(move |command| (*node, *command)))
                .try_for_each(|(node, command)| at(node, command)),
            Do::TryEach(command) => {
                let _ = NODES.map(|node| at(node, command));
                Ok(())
            }
            Do::Configure(change) => self.configure(change, run),
        }
    }

    /// pvecm's change of the configuration, and what the file system of the cluster does then.
    fn configure(
        &self,
        change: Change,
        run: impl Fn(&str) -> Result<(), String>,
    ) -> Result<(), String> {
        run("mkdir -p /etc/pve/priv/lock")?;
        run("mkdir /etc/pve/priv/lock/file-corosync_conf")?;
        let text = fs::read_to_string(self.pve("corosync.conf")).unwrap();
        let changed = change.apply(&text).and_then(|changed| {
            assert_eq!(version(&changed), version(&text) + 1);
            fs::write(self.pve("corosync.conf.new"), &changed).unwrap();
            run("mv /etc/pve/corosync.conf.new /etc/pve/corosync.conf")
        });
        run("rmdir /etc/pve/priv/lock/file-corosync_conf")?;
        changed?;
        for at in [At::Node(1), At::Node(2)] {
            // pmxcfs of each node on its own: its corosync's file, then the reload. So it is loaded
            // before the device starts, and not only by the last command of the setup.
            let script = "cp /etc/pve/corosync.conf /etc/corosync/corosync.conf.new && mv \
                /etc/corosync/corosync.conf.new /etc/corosync/corosync.conf && corosync-cfgtool -R";
            must(&mut self.shell(at, &["sh", "-c", script]));
        }
        Ok(())
    }

    /// Takes steps of which none may fail.
    pub(crate) fn must(&self, steps: &[Step], force: bool) {
        let result = self.replay(steps, force);
        if let Err((number, said)) = result {
            panic!("step {number}: {said}\n{}", self.logs());
        }
    }

    /// `pvecm qdevice setup`, up to the votes.
    pub(crate) fn set_up(&self, force: bool) {
        self.must(&SETUP, force);
        self.wait_for_votes();
    }

    /// What `corosync-quorumtool` prints on a node, a space for every gap.
    pub(crate) fn rows(&self, at: At, flags: &str) -> Vec<String> {
        squeezed(&self.lab.text(at, &["corosync-quorumtool", flags]))
    }

    /// Waits until both nodes are quorate with the vote of their device.
    fn wait_for_votes(&self) {
        for node in [At::Node(1), At::Node(2)] {
            self.wait(&format!("the device's vote at {node:?}"), || {
                let rows = self.rows(node, "-s");
                let wanted = ["Quorate: Yes", "Total votes: 3", "1 1 A,V,NMW", "2 1 A,V,NMW"];
                wanted.into_iter().all(|row| rows.iter().any(|found| found.starts_with(row)))
            });
        }
    }

    /// Restarts the arbiter, and waits until both devices have its vote again.
    pub(crate) fn restart_arbiter(&self) {
        for verb in ["stop", "start"] {
            must(&mut self.shell(At::Arbiter, &["systemctl", verb, "corosync-qnetd"]));
        }
        // A node goes on to count the vote that it has for a moment, so it is not asked first.
        self.wait("the devices at the arbiter that was restarted", || {
            let list = self.arbiter("-lv");
            let count = |line: &str| list.iter().filter(|found| *found == line).count();
            count("Vote: ACK (ACK)") + count("Vote: No change (ACK)") == 2
        });
        self.wait_for_votes();
    }

    pub(crate) fn wait(&self, what: &str, is_so: impl Fn() -> bool) {
        let start = haguard::command::demo::samples::now();
        while !is_so() {
            let waited = haguard::command::demo::samples::now().since(start);
            assert!(waited < PATIENCE, "waited in vain for {what}:\n{}", self.logs());
            super::lab::pause();
        }
    }

    /// What the API says of a node's device; nothing where there is no socket.
    pub(crate) fn api(&self, at: At) -> BTreeMap<String, String> {
        let text = self.lab.text(at, &["python3", "-I", "-c", API]);
        let lines = text.lines().filter(|line| !line.starts_with(char::is_whitespace));
        let pairs = lines.filter_map(|line| line.split_once(':'));
        let pairs = pairs.map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()));
        pairs.filter(|(key, _)| API_KEYS.contains(&key.as_str())).collect()
    }

    /// What the arbiter's tool prints, a space for every gap.
    pub(crate) fn arbiter(&self, flags: &str) -> Vec<String> {
        squeezed(&self.lab.text(At::Arbiter, &["corosync-qnetd-tool", flags]))
    }

    /// The certificate that the arbiter has signed.
    pub(crate) fn signed(&self) -> Vec<u8> {
        let place = self.lab.place(At::Arbiter).join("etc/qnetd/nssdb/cluster-lab.crt");
        fs::read(place).unwrap()
    }

    /// Whether a host has a file, which may be of the programs of one side only.
    pub(crate) fn has(&self, at: At, file: &str) -> bool {
        self.lab.place(at).join("etc").join(file).exists()
    }

    /// The process of a service.
    pub(crate) fn process(&self, at: At, service: &str) -> String {
        self.lab.text(at, &["cat", &format!("/run/units/{service}.pid")])
    }

    /// The end of every service's log.
    pub(crate) fn logs(&self) -> String {
        let mut all = String::new();
        for at in EVERYONE {
            let script = "cd /run/units && tail -n 8 *.log";
            let text = self.lab.text(at, &["sh", "-c", script]);
            writeln!(all, "{at:?}:\n{text}").unwrap();
        }
        all
    }

    /// Nobody has asked the stand-in for systemctl what it does not know.
    pub(crate) fn end(self) {
        for at in EVERYONE {
            let unknown = self.lab.text(at, &["cat", "/run/units/unknown"]);
            assert_eq!(unknown, "", "{at:?}");
        }
    }
}

/// What a command says that fails.
fn said(command: &str, output: &Output) -> Result<(), String> {
    let [printed, said] =
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command}: {}: {printed}{said}", output.status))
}

/// The lines of a text, a space for every gap.
fn squeezed(text: &str) -> Vec<String> {
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}
