//! A place with everything that a gateway needs: an authority, certificates, fence agents with a
//! state in a file, a configuration.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use certs::files::Files;
use certs::issue::{Authority, Kind, Serial, Subject, Validity};
use certs::material::Purpose;
use certs::{Credential, Trust};
use fence::daemon::{self, Options, Order, Ports};
use protocol::fence::GatewayStatus;
use protocol::ids::NodeId;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::arbiter::Arbiter;
use crate::client::{Client, local};

/// More than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// From one look to the next, where nothing can be waited for.
const LOOK: Duration = Duration::from_millis(5);

/// The cluster of all tests.
pub(crate) const CLUSTER: &str = "TestCl";

/// A folder of its own, gone at the end.
pub(crate) struct Site {
    pub(crate) root: PathBuf,
    authority: Authority,
    serials: AtomicU32,
}

impl Drop for Site {
    fn drop(&mut self) {
        // What cannot be taken away is in a folder for temporary files.
        let _ = fs::remove_dir_all(&self.root);
    }
}

#[expect(clippy::disallowed_methods, reason = "certificates are valid by the system clock")]
fn valid() -> Validity {
    Validity::starting(SystemTime::now())
}

impl Site {
    /// With a gateway's and an arbiter's certificate.
    pub(crate) fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("hg-gateway-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(&root).unwrap();
        let authority = Authority::create(Kind::Own, Serial(101), valid()).unwrap();
        let site = Self { root, authority, serials: AtomicU32::new(200) };
        fs::write(site.path("ca.pem"), site.authority.certificate_pem()).unwrap();
        site.issue("gateway", &Subject::Gateway(CLUSTER.to_owned()));
        site.issue("arbiter", &Subject::Server);
        site.issue("cluster", &Subject::Cluster(CLUSTER.to_owned()));
        site
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Writes `NAME.pem` and `NAME-key.pem`.
    pub(crate) fn issue(&self, name: &str, subject: &Subject) {
        let serial = Serial(u64::from(self.serials.fetch_add(1, Ordering::Relaxed)));
        let issued = self.authority.issue(subject, serial, valid()).unwrap();
        fs::write(self.path(&format!("{name}.pem")), issued.chain_pem).unwrap();
        fs::write(self.path(&format!("{name}-key.pem")), issued.key_pem).unwrap();
    }

    pub(crate) fn load(&self, name: &str, purpose: Purpose) -> (Trust, Credential) {
        let (authority, certificate) = (self.path("ca.pem"), self.path(&format!("{name}.pem")));
        let key = self.path(&format!("{name}-key.pem"));
        let files = Files { authority: &authority, certificate: &certificate, key: &key };
        let loaded = files.load(purpose).unwrap();
        (loaded.trust, loaded.own)
    }

    /// A fence agent whose machine is on; what it is told is in `NAME.log`.
    pub(crate) fn agent(&self, name: &str) {
        let script = format!(
            "#!/bin/sh\n\
             while read line; do case $line in action=*) action=${{line#action=}};; esac; done\n\
             echo $action >> {root}/{name}.log\n\
             if [ -e {root}/{name}.fails ]; then echo broken >&2; exit 1; fi\n\
             while [ -e {root}/{name}.hangs ]; do sleep 0.02; done\n\
             while [ $action = off -a -e {root}/{name}.hangs-at-off ]; do sleep 0.02; done\n\
             case $action in\n\
             off) [ -e {root}/{name}.lies ] || echo off > {root}/{name}.power;;\n\
             on) echo on > {root}/{name}.power;;\n\
             status|monitor) read power < {root}/{name}.power\n\
             if [ $power = off ]; then echo Status: OFF; exit 2; fi; echo Status: ON;;\n\
             esac\n",
            root = self.root.display()
        );
        let path = self.path(name);
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(self.path(&format!("{name}.power")), "on\n").unwrap();
    }

    /// What an agent was told, without its rehearsals, and what it is asked about itself.
    pub(crate) fn told(&self, name: &str) -> Vec<String> {
        let log = fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default();
        let told = log.lines().filter(|line| !matches!(*line, "monitor" | "metadata"));
        told.map(str::to_owned).collect()
    }

    /// How often an agent was told to do this.
    pub(crate) fn count(&self, name: &str, action: &str) -> usize {
        self.told(name).iter().filter(|told| *told == action).count()
    }

    /// A configuration with a node for each agent, which is made as well.
    pub(crate) fn configure(&self, arbiter: &str, nodes: &[(u32, &str)]) {
        let mut text = format!(
            "cluster = \"{CLUSTER}\"\narbiter = \"{arbiter}\"\nlisten = \"127.0.0.1:0\"\n\
             metrics = \"127.0.0.1:0\"\n"
        );
        for (node, agent) in nodes {
            if !self.path(agent).exists() {
                self.agent(agent);
            }
            let program = self.path(agent);
            write!(
                text,
                "[devices.{agent}]\nkind = \"agent\"\nprogram = \"{}\"\nlimit = \"20s\"\n\
                 settle = \"1s\"\n\
                 [nodes.{node}]\nlevels = [[\"{agent}\"]]\nunfence = true\n",
                program.display()
            )
            .unwrap();
        }
        fs::write(self.path("gateway.toml"), text).unwrap();
    }

    pub(crate) fn options(&self) -> Options {
        Options {
            config: self.path("gateway.toml"),
            state_dir: Some(self.path("state")),
            run_dir: Some(self.path("run")),
            tls_ca: Some(self.path("ca.pem")),
            tls_cert: Some(self.path("gateway.pem")),
            tls_key: Some(self.path("gateway-key.pem")),
            ..Options::default()
        }
    }

    /// Starts a gateway.
    pub(crate) async fn start(&self) -> Running {
        let (orders, received) = mpsc::channel(4);
        let (ready, is_ready) = oneshot::channel();
        let task = tokio::spawn(daemon::serve(self.options(), received, Some(ready)));
        let Ok(Ok(ports)) = timeout(PATIENCE, is_ready).await else {
            panic!("no start: {:#}", task.await.unwrap().unwrap_err());
        };
        Running { orders, task, ports, socket: self.path("run/fence.sock") }
    }

    /// An arbiter that entitles everybody, a gateway, and node `node`'s way to it.
    pub(crate) async fn whole(
        &self,
        nodes: &[(u32, &str)],
        node: u32,
    ) -> (Arbiter, Running, Client) {
        let arbiter = Arbiter::start(self).await;
        self.configure(&arbiter.address, nodes);
        let running = self.start().await;
        let subject = Subject::Node { cluster: CLUSTER.to_owned(), node: NodeId(node) };
        self.issue("node", &subject);
        let client = Client::new(self, "node", running.ports.https);
        running.until("the arbiter", |status| status.arbiter == "connected").await;
        (arbiter, running, client)
    }
}

/// A gateway in this process.
pub(crate) struct Running {
    pub(crate) orders: mpsc::Sender<Order>,
    pub(crate) task: JoinHandle<anyhow::Result<()>>,
    pub(crate) ports: Ports,
    pub(crate) socket: PathBuf,
}

impl Running {
    pub(crate) async fn status(&self) -> GatewayStatus {
        let lines = local(&self.socket, "\"status\"").await;
        serde_json::from_str(&lines[0]).unwrap()
    }

    /// Waits until the status is as wanted.
    pub(crate) async fn until(&self, what: &str, wanted: impl Fn(&GatewayStatus) -> bool) {
        let end = Instant::now() + PATIENCE;
        loop {
            let status = self.status().await;
            if wanted(&status) {
                return;
            }
            assert!(Instant::now() < end, "no {what}: {status:#?}");
            sleep(LOOK).await;
        }
    }

    /// Stops it in order.
    pub(crate) async fn stop(self) {
        self.orders.send(Order::Stop).await.unwrap();
        timeout(PATIENCE, self.task).await.unwrap().unwrap().unwrap();
    }

    /// Ends it in the middle, as a crash does.
    pub(crate) async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

/// Waits for something that a file shows.
pub(crate) async fn until_file(what: &str, wanted: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !wanted() {
        assert!(Instant::now() < end, "no {what}");
        sleep(LOOK).await;
    }
}

/// Makes an empty file.
pub(crate) fn touch(path: &Path) {
    fs::write(path, "").unwrap();
}
