//! A cluster on this machine: an authority, a configuration, directories, and daemons as tasks.

use std::fmt::Write as _;
use std::future::Future;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use certs::issue::{Authority, Issued, Kind, Serial, Subject, Validity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use node::daemon;
use node::options::{Engine, KeeperProgram, Options};
use protocol::ids::NodeId;
use protocol::status::NodeStatus;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval, timeout};

/// Nothing that happens on one machine takes longer, however busy it is.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Asks again and again until there is an answer.
pub(crate) async fn poll<T, F: Future<Output = Option<T>>>(
    limit: Duration,
    what: &str,
    mut ask: impl FnMut() -> F,
) -> T {
    let mut tick = interval(Duration::from_millis(5));
    let until = Instant::now() + limit;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < until, "not within {limit:?}: {what}");
        tick.tick().await;
    }
}

/// A place of its own, removed with the value.
pub(crate) struct Site {
    root: PathBuf,
    pub(crate) authority: Authority,
    /// Nodes listen on 127.a.b.ID, which is this site's alone.
    net: [u8; 2],
    pub(crate) port: u16,
}

impl Site {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let pid = std::process::id();
        // Short, because socket paths are.
        let root = PathBuf::from(format!("/tmp/hgn-{pid}-{count}"));
        let _ = std::fs::remove_dir_all(&root);
        std::fs::create_dir_all(&root).unwrap();
        let [_, _, high, low] = (pid.wrapping_mul(16) + count).to_be_bytes();
        let net = [high.clamp(1, 250), low];
        let probe = UdpSocket::bind((Ipv4Addr::new(127, net[0], net[1], 1), 0)).unwrap();
        let port = probe.local_addr().unwrap().port();
        let site = Self { root, authority: authority(), net, port };
        site.configure(2, "");
        site
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Where a node listens on a link.
    pub(crate) fn address(&self, node: u32, link: u8) -> SocketAddr {
        let host = u8::try_from(node).unwrap() + 100 * link;
        let address = Ipv4Addr::new(127, self.net[0], self.net[1], host);
        SocketAddr::from((address, self.port + u16::from(link)))
    }

    /// Writes a configuration with a quorum device, and `haguard` as the text of that section.
    pub(crate) fn configure(&self, nodes: u32, haguard: &str) {
        self.write_conf("c", nodes, 1, haguard);
    }

    pub(crate) fn write_conf(&self, cluster: &str, nodes: u32, links: u8, haguard: &str) {
        let mut text = format!("totem {{\n version: 2\n cluster_name: {cluster}\n");
        for link in 0..links {
            let port = self.port + u16::from(link);
            write!(text, " interface {{\n  linknumber: {link}\n  mcastport: {port}\n }}\n")
                .unwrap();
        }
        text.push_str("}\nnodelist {\n");
        for node in 1..=nodes {
            write!(text, " node {{\n  nodeid: {node}\n  name: n{node}\n").unwrap();
            for link in 0..links {
                writeln!(text, "  ring{link}_addr: {}", self.address(node, link).ip()).unwrap();
            }
            text.push_str(" }\n");
        }
        text.push_str(
            "}\nquorum {\n provider: corosync_votequorum\n device {\n  model: net\n  votes: 1\n  \
             net {\n   host: 127.0.0.1\n   algorithm: ffsplit\n  }\n }\n}\n",
        );
        writeln!(text, "haguard {{\n{haguard}\n}}").unwrap();
        std::fs::write(self.path("corosync.conf"), text).unwrap();
    }

    /// Issues a certificate and writes it where [`Site::options`] looks.
    pub(crate) fn certify(&self, authority: &Authority, node: u32, subject: &Subject) {
        let issued = issue(authority, subject, u64::from(node) + 1);
        self.write_certificate(node, authority, &issued);
    }

    pub(crate) fn write_certificate(&self, node: u32, authority: &Authority, issued: &Issued) {
        let directory = self.path(&format!("n{node}"));
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("ca.pem"), authority.certificate_pem()).unwrap();
        std::fs::write(directory.join("node.pem"), &issued.chain_pem).unwrap();
        std::fs::write(directory.join("node-key.pem"), issued.key_pem.as_bytes()).unwrap();
    }

    /// A node's options, with directories and a certificate in order.
    pub(crate) fn options(&self, node: u32) -> Options {
        let directory = self.path(&format!("n{node}"));
        for name in ["run", "state"] {
            std::fs::create_dir_all(directory.join(name)).unwrap();
        }
        if !directory.join("node.pem").exists() {
            self.certify(&self.authority, node, &member("c", node));
        }
        Options {
            engine: Engine::Builtin,
            cluster_conf: self.path("corosync.conf"),
            node_id: Some(NodeId(node)),
            listen: Default::default(),
            state_dir: directory.join("state"),
            run_dir: directory.join("run"),
            tls_ca: directory.join("ca.pem"),
            tls_cert: directory.join("node.pem"),
            tls_key: directory.join("node-key.pem"),
            keeper: KeeperProgram {
                program: env!("CARGO_BIN_EXE_haguard-keeper").into(),
                prefix: Vec::new(),
            },
            realtime: false,
        }
    }

    pub(crate) fn start(&self, node: u32) -> Running {
        Running::start(self.options(node))
    }

    /// Starts a node again whose daemon was killed: a task's socket closes a little later, where
    /// a process's would be closed by now.
    pub(crate) async fn restart(&self, node: u32) -> Running {
        let address = self.address(node, 0);
        poll(PATIENCE, "the socket is closed", || async { UdpSocket::bind(address).ok() }).await;
        self.start(node)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // Keepers outlive their daemons; this is the end for them too.
        let nodes = std::fs::read_dir(&self.root).into_iter().flatten().flatten();
        let keepers = nodes.filter_map(|node| keeper_of(&node.path().join("run")));
        let keepers: Vec<Pid> = keepers.filter(|pid| kill(*pid, Signal::SIGTERM).is_ok()).collect();
        let until = Instant::now() + Duration::from_secs(5);
        while keepers.iter().any(|pid| lives(&pid.to_string())) && Instant::now() < until {
            std::thread::yield_now();
        }
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

/// There is such a process, and it has not ended.
pub(crate) fn lives(pid: &str) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

/// The keeper's process, from its lock.
pub(crate) fn keeper_of(run_dir: &Path) -> Option<Pid> {
    let text = std::fs::read_to_string(run_dir.join("keeper.lock")).ok()?;
    text.trim().parse().ok().map(Pid::from_raw)
}

pub(crate) fn authority() -> Authority {
    Authority::create(Kind::Own, Serial(1), Validity::starting(now())).unwrap()
}

pub(crate) fn member(cluster: &str, node: u32) -> Subject {
    Subject::Node { cluster: cluster.to_owned(), node: NodeId(node) }
}

pub(crate) fn issue(authority: &Authority, subject: &Subject, serial: u64) -> Issued {
    authority.issue(subject, Serial(serial), Validity::starting(now())).unwrap()
}

#[expect(clippy::disallowed_methods, reason = "tls libraries compare with the system clock")]
pub(crate) fn now() -> SystemTime {
    SystemTime::now()
}

/// A daemon that runs.
pub(crate) struct Running {
    pub(crate) task: JoinHandle<anyhow::Result<()>>,
    pub(crate) run_dir: PathBuf,
}

impl Running {
    pub(crate) fn start(options: Options) -> Self {
        let run_dir = options.run_dir.clone();
        let task = tokio::spawn(async move {
            daemon::run(options).await.inspect_err(|error| {
                let _ = writeln!(std::io::stderr(), "the daemon: {error}");
            })
        });
        Self { task, run_dir }
    }

    /// Ends the daemon as a crash would: no leave, no farewell; its keeper stays.
    pub(crate) async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    /// One question to the status socket.
    pub(crate) async fn ask(&self, question: &str) -> Option<String> {
        ask(&self.run_dir, question).await
    }

    pub(crate) async fn status(&self) -> Option<NodeStatus> {
        let line = self.ask("status\n").await?;
        Some(serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}")))
    }

    /// Waits for a status.
    pub(crate) async fn until(
        &self,
        limit: Duration,
        what: &str,
        is: impl Fn(&NodeStatus) -> bool,
    ) -> NodeStatus {
        let last = std::cell::RefCell::new(None);
        let seen = timeout(
            limit,
            poll(PATIENCE, what, || async {
                assert!(!self.task.is_finished(), "the daemon has ended; waited for: {what}");
                let status = self.status().await;
                last.replace(status.clone());
                status.filter(&is)
            }),
        );
        let seen = seen.await;
        seen.unwrap_or_else(|_| panic!("not within {limit:?}: {what}; last: {:#?}", last.take()))
    }
}

pub(crate) async fn ask(run_dir: &Path, question: &str) -> Option<String> {
    let mut stream = UnixStream::connect(run_dir.join("node.sock")).await.ok()?;
    stream.write_all(question.as_bytes()).await.ok()?;
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().ok()?;
    assert_eq!(answer.lines().count(), 1, "{answer:?}");
    Some(answer.trim_end().to_owned())
}

/// Two daemons in one quorate view.
pub(crate) async fn pair(site: &Site) -> [Running; 2] {
    let nodes = [site.start(1), site.start(2)];
    for node in &nodes {
        node.until(PATIENCE, "quorate together", |s| s.quorate && s.members == [1, 2]).await;
    }
    nodes
}
