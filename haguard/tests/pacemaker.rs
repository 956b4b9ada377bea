//! Pacemaker fences by our agent: Debian's corosync, pacemaker and pcs on two nodes, our arbiter
//! and quorum device, and our gateway on the arbiter's host, whose power switch really takes a
//! host's power away.
//!
//! `docs/pacemaker.md` has the same for people.

#![expect(clippy::unwrap_used, reason = "a test ends where it goes wrong")]

#[allow(dead_code, reason = "each test of the lab uses a part of it")]
mod lab;

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use protocol::vote::Algorithm;

use lab::conf::{Arbiter, CLUSTER, Plan, Stack};
use lab::pki::{ARBITER_STORE, Pki};
use lab::{At, HAGUARD, Lab, must, patiently, table};

const N1: At = At::Node(1);
const N2: At = At::Node(2);

/// Pacemaker waits 20 s for others before it elects, on a busy machine longer.
const START: Duration = Duration::from_secs(90);
/// From the loss of a node until it is fenced and its service runs elsewhere.
const RECOVERY: Duration = Duration::from_secs(60);

/// What the test needs besides the lab, and the Debian package that has it.
const NEEDED: [(&str, &str); 4] = [
    ("/usr/sbin/pacemakerd", "pacemaker"),
    ("/usr/sbin/stonith_admin", "pacemaker-cli-utils"),
    ("/usr/lib/ocf/resource.d/pacemaker/Dummy", "pacemaker-resource-agents"),
    ("/usr/sbin/pcs", "pcs"),
];

/// Gives a host a Pacemaker of its own, and our agent where fenced looks for agents.
const PREPARE: &str = "
set -e
for name in blackbox cib cores pengine; do install -d $0/pacemaker/$name; done
install -d $0/log
chown -R hacluster:haclient $0/pacemaker $0/log
mount --bind $0/pacemaker /var/lib/pacemaker
mount --bind $0/log /var/log/pacemaker
mount -t overlay overlay -o lowerdir=$0/sbin:/usr/sbin /usr/sbin
";

/// Whether there are the rights and programs. If not, says so; under CI that is a failure.
fn is_possible() -> bool {
    if !lab::is_possible() {
        return false;
    }
    let missing = NEEDED.iter().find(|(path, _)| !Path::new(path).exists());
    if let Some((path, package)) = missing {
        assert!(std::env::var_os("CI").is_none(), "{path} is missing");
        table::say(&format!("left out: {path} is missing: install {package}"));
    }
    missing.is_none()
}

struct Site {
    lab: Lab,
    /// They end with their hosts.
    daemons: Vec<Child>,
}

impl Site {
    /// A whole cluster with Pacemaker, and a gateway with a switch for each node.
    fn new(pki: &Pki) -> Self {
        let plan = Plan::new(Arbiter::Ours, Stack::Mixed, Algorithm::Ffsplit);
        let mut site = Self { lab: Lab::new(plan, pki), daemons: Vec::new() };
        site.lab.up().unwrap();
        let authority = pki.path("arbiter").join(ARBITER_STORE).display().to_string();
        let certs = |verb: &str, out: &Path, more: &[&str]| {
            let out = out.display().to_string();
            let args = ["certs", verb, "--dir", &authority, "--cluster", CLUSTER, "--out", &out];
            must(Command::new(HAGUARD).args(args).args(more));
        };
        certs("gateway", &site.home(), &[]);
        for node in [1, 2] {
            let place = site.lab.place(At::Node(node));
            certs("node", &place.join("etc/fence"), &["--node", &node.to_string()]);
            fs::create_dir(place.join("sbin")).unwrap();
            symlink(HAGUARD, place.join("sbin/fence_haguard")).unwrap();
        }
        site.start_gateway();
        for at in [N1, N2] {
            site.start_pacemaker(at);
        }
        site.wait("both nodes online", START, |status| status.contains("Online: [ n1 n2 ]"));
        site
    }

    fn start_pacemaker(&mut self, at: At) {
        let place = self.lab.place(at).display().to_string();
        must(&mut self.lab.command(at, &["sh", "-c", PREPARE, &place]));
        let log = ["PCMK_logfile=/var/log/pacemaker/pacemaker.log", "PCMK_logfacility=none"];
        self.spawn(at, "pacemakerd.log", &[&["env"], &log[..], &["pacemakerd"]].concat());
    }

    /// The gateway's files.
    fn home(&self) -> PathBuf {
        self.lab.place(At::Arbiter).join("gateway")
    }

    fn spawn(&mut self, at: At, log: &str, words: &[&str]) {
        let log = File::create(self.lab.place(at).join(log)).unwrap();
        let mut command = self.lab.command(at, words);
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.daemons.push(command.spawn().unwrap());
    }

    fn start_gateway(&mut self) {
        let home = self.home();
        let mut file = format!("cluster = \"{CLUSTER}\"\narbiter = \"10.99.0.100\"\n");
        for node in [1, 2] {
            let outlet = outlet(&home, node).display().to_string();
            file += &format!(
                "[devices.outlet-{node}]\nkind = \"agent\"\nprogram = \"{outlet}\"\n\
                 [nodes.{node}]\nlevels = [[\"outlet-{node}\"]]\nunfence = true\n"
            );
        }
        fs::write(home.join("gateway.toml"), file).unwrap();
        let path = |name: &str| home.join(name).display().to_string();
        let flags = [
            ("--config", "gateway.toml"),
            ("--state-dir", "state"),
            ("--tls-ca", "ca.pem"),
            ("--tls-cert", "gateway.pem"),
            ("--tls-key", "gateway-key.pem"),
        ];
        let flags = flags.map(|(flag, name)| [flag.to_owned(), path(name)]);
        let words: Vec<&str> = [HAGUARD, "fence", "gateway"]
            .into_iter()
            .chain(flags.iter().flatten().map(String::as_str))
            .collect();
        self.spawn(At::Arbiter, "gateway.log", &words);
        patiently("a gateway that knows its switches", START, || {
            let list = self.lab.run(At::Arbiter, &[HAGUARD, "fence", "list", "--json"]);
            let text = String::from_utf8_lossy(&list.stdout).into_owned();
            let ready = text.matches("\"power\": \"on\"").count() == 2;
            (list.status.success() && ready).then_some(())
        });
    }

    /// What Pacemaker says on node 1.
    fn status(&self) -> String {
        self.lab.text(N1, &["crm_mon", "-1"])
    }

    fn wait(&self, what: &str, patience: Duration, is_it: impl Fn(&str) -> bool) {
        patiently(&format!("{what}; see {}", self.lab.directory.display()), patience, || {
            is_it(&self.status()).then_some(())
        });
    }

    /// Types a command of pcs on node 1; it must succeed.
    fn pcs(&self, args: &[&str]) -> String {
        let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let shell = ["timeout", "60", "env", "-i", path, "LANG=C.UTF-8", "HOME=/root", "pcs"];
        must(&mut self.lab.command(N1, &[&shell, args].concat()))
    }

    /// Runs our agent on a host; it must fail, and what it says is returned.
    fn agent(&self, at: At, options: &str) -> String {
        let shell = ["sh", "-c", "printf %s \"$1\" | fence_haguard", "sh", options];
        let output = self.lab.run(at, &shell);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        said
    }

    /// Waits until node 2's switch is told to do this.
    fn wanted(&self, action: &str) {
        patiently(&format!("{action} for node 2"), RECOVERY, || {
            let wanted = fs::read_to_string(self.outlet(2, "wanted")).unwrap_or_default();
            (wanted.trim() == action).then_some(())
        });
    }

    /// A file of a node's switch.
    fn outlet(&self, node: u32, name: &str) -> PathBuf {
        self.home().join(format!("outlet-{node}.{name}"))
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for at in [N1, N2, At::Arbiter] {
            self.lab.power_off(at);
        }
        for daemon in &mut self.daemons {
            let _ = daemon.wait();
        }
    }
}

/// A fence agent that asks for a host's power to be taken away or given, and waits until that is
/// done.
fn outlet(home: &Path, node: u32) -> PathBuf {
    let path = home.join(format!("outlet-{node}"));
    let name = path.display();
    let script = format!(
        "#!/bin/sh\n\
         while read line; do case $line in action=*) action=${{line#action=}};; esac; done\n\
         case $action in\n\
         off|on) echo $action > {name}.wanted\n\
         until grep -q $action {name}.power; do sleep 0.05; done;;\n\
         status) if grep -q off {name}.power; then echo Status: OFF; exit 2; fi\n\
         echo Status: ON;;\n\
         *) exit 1;;\n\
         esac\n"
    );
    fs::write(&path, script).unwrap();
    fs::write(home.join(format!("outlet-{node}.power")), "on\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// A node that is there is not lost, whoever wants it fenced; Pacemaker is told why.
fn a_member_is_not_fenced(site: &Site) {
    let fence = site.lab.run(N1, &["stonith_admin", "--fence", "n2", "--timeout", "5"]);
    let said = [fence.stdout, fence.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(!fence.status.success(), "{said}");
    let why = "fence_haguard: node 2: refused: node 2 is of the requester's own side";
    let log = fs::read_to_string(site.lab.place(N1).join("log/pacemaker.log")).unwrap();
    assert!(log.contains(why), "{said}");
    assert!(!site.outlet(2, "wanted").exists());
}

/// With the certificate that the nodes share, somebody has to say which of them asks.
fn a_shared_certificate_needs_a_requester(site: &Site) {
    let state = site.lab.place(N1).join("state").display().to_string();
    let options = format!(
        "ip=10.99.0.100\ntls_ca={state}/ca.pem\ntls_cert={state}/cluster.pem\n\
         tls_key={state}/cluster-key.pem\naction=off\nplug=2\n"
    );
    let nobody = site.agent(N1, &options);
    assert!(nobody.contains("set requester to the id of this node"), "{nobody}");
    let first = site.agent(N1, &(options + "requester=1\n"));
    assert!(first.contains("refused: node 2 is of the requester's own side"), "{first}");
}

#[test]
fn pacemaker_fences_a_lost_node_by_our_agent_recovers_its_service_and_takes_it_back() {
    if !is_possible() {
        return;
    }
    let pki = Pki::ours();
    let mut site = Site::new(&pki);
    let files = ["tls_ca=ca.pem", "tls_cert=node.pem", "tls_key=node-key.pem"];
    let files = files.map(|file| file.replace('=', "=/etc/corosync/fence/"));
    let create = ["stonith", "create", "power", "fence_haguard", "ip=10.99.0.100"];
    let options = ["pcmk_host_map=n1:1;n2:2", "op", "monitor", "interval=10s"];
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    site.pcs(&[&create[..], &files, &options].concat());
    site.pcs(&["resource", "create", "service", "ocf:pacemaker:Dummy"]);
    site.pcs(&["constraint", "location", "service", "prefers", "n2=100"]);
    site.wait("a fence device and a service", RECOVERY, |status| {
        let row = |name: &str, end: &str| {
            status.lines().any(|line| line.contains(&format!("* {name}\t")) && line.ends_with(end))
        };
        let power = row("power", "Started n1") || row("power", "Started n2");
        power && row("service", "Started n2")
    });

    let described = site.pcs(&["stonith", "describe", "fence_haguard"]);
    assert!(described.contains("requester: The node id of this node"), "{described}");
    a_member_is_not_fenced(&site);
    a_shared_certificate_needs_a_requester(&site);

    site.lab.cut(&[&[N1], &[N2]]);
    site.wanted("off");
    // Node 2 has power still, so nobody may have its service; and it cannot turn the tables.
    let service = |status: &str| {
        let rows = status.lines().filter(|line| line.contains("* service\t"));
        rows.map(str::to_owned).collect::<Vec<_>>().join("\n")
    };
    assert!(!service(&site.status()).contains("Started n1"), "{}", site.status());
    let options = format!("ip=10.99.0.100\n{}\naction=off\nplug=1\n", files.join("\n"));
    let said = site.agent(N2, &options);
    assert!(said.contains("fence_haguard: node 1: refused: "), "{said}");

    site.lab.power_off(N2);
    fs::write(site.outlet(2, "power"), "off\n").unwrap();
    site.wanted("on");
    site.lab.heal();
    site.lab.power_on(N2);
    fs::write(site.outlet(2, "power"), "on\n").unwrap();
    site.wait("node 2's service on node 1", RECOVERY, |status| {
        status.contains("OFFLINE: [ n2 ]") && service(status).contains("Started n1")
    });
    let history = site.lab.text(N1, &["stonith_admin", "--history", "n2"]);
    assert!(history.contains("reboot of n2 successful: delegate=n1"), "{history}");
    assert!(!site.outlet(1, "wanted").exists());
    let journal = site.lab.text(At::Arbiter, &[HAGUARD, "fence", "history"]);
    for words in ["asks for reboot of node 2: a cluster manager asks", "node 2 is off"] {
        assert!(journal.contains(words), "{words}: {journal}");
    }

    site.lab.start_engine(2);
    site.lab.start_device(2);
    site.start_pacemaker(N2);
    site.wait("node 2 back with its service", START, |status| {
        status.contains("Online: [ n1 n2 ]") && service(status).contains("Started n2")
    });
}
