//! The world of a demo: directories, certificates, the configuration, and the real processes of
//! an arbiter, the nodes and their devices, with a relay between all of them.
//!
//! ```text
//! DIR/corosync.conf       the one configuration of all nodes
//! DIR/effects             what the guarded command did
//! DIR/ca/                 the certificate authority, made on the spot
//! DIR/arbiter/            certificates, state/, run/ of the arbiter
//! DIR/node1/ ...          certificates, state/, run/ of each node and its device
//! DIR/logs/               what all of them printed
//! ```

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use certs::authority::AuthorityDir;
use certs::issue::{Kind, Subject, Validity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protocol::ids::NodeId;
use protocol::vote::Algorithm;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::layout::{ARBITER_PORT, Layout, NODE_PORT};
use super::processes;
use super::relay::{End, Link};
use crate::command::certs as issuing;

/// The cluster's name.
pub const CLUSTER: &str = "demo";
/// The longest path of a demo's directory, so that the sockets below still have names short enough
/// for the kernel (unix(7)).
const DIRECTORY_BYTES_MAX: usize = 70;
/// For an answer of the relay, which does nothing but answer.
const RELAY_PATIENCE: Duration = Duration::from_secs(5);

/// What a world is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The program: this one.
    pub program: PathBuf,
    /// Where everything is; must not exist yet.
    pub directory: PathBuf,
    /// Chooses the network.
    pub seed: u64,
    /// How many nodes.
    pub nodes: u32,
    /// How the arbiter chooses: ffsplit or lms.
    pub algorithm: Algorithm,
    /// Whether the nodes take over when a bound has passed (`trust_process_watchdog`).
    pub trust_process_watchdog: bool,
}

impl Plan {
    /// The device's votes (corosync-qdevice(8)).
    pub fn device_votes(&self) -> u32 {
        if self.algorithm == Algorithm::Ffsplit { 1 } else { self.nodes - 1 }
    }

    /// True if so many nodes are not quorate without the device.
    pub fn needs_device(&self, nodes: u32) -> bool {
        nodes * 2 <= self.nodes + self.device_votes()
    }

    /// True if so many nodes are quorate together with the device.
    pub fn is_quorate(&self, nodes: u32) -> bool {
        (nodes + self.device_votes()) * 2 > self.nodes + self.device_votes()
    }
}

/// The running processes. When it is dropped, all of them are killed.
#[derive(Debug)]
pub struct World {
    plan: Plan,
    layout: Layout,
    relay: RelayProcess,
    arbiter: Option<Child>,
    nodes: BTreeMap<u32, Node>,
}

/// The daemons of one node; what they start themselves is found when it is needed.
#[derive(Debug)]
struct Node {
    node: Child,
    device: Child,
}

impl World {
    /// Makes directories, certificates and the configuration, and starts the relay.
    ///
    /// # Errors
    /// When something cannot be made or started.
    pub async fn build(mut plan: Plan) -> Result<Self> {
        // As /proc names it.
        plan.program = plan.program.canonicalize().context("this program is gone")?;
        if plan.directory.as_os_str().len() > DIRECTORY_BYTES_MAX {
            let path = plan.directory.display();
            bail!("{path}: too long for the sockets below: set TMPDIR to a shorter directory");
        }
        let layout = Layout::free(plan.seed, plan.nodes);
        let layout = layout.context("no free addresses in 127.0.0.0/8: end other demos first")?;
        make_files(&plan, layout)?;
        let relay = RelayProcess::start(&plan, layout).await?;
        Ok(Self { plan, layout, relay, arbiter: None, nodes: BTreeMap::new() })
    }

    /// What it is made of.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Where everybody listens.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// All nodes.
    pub fn all(&self) -> std::ops::RangeInclusive<u32> {
        1..=self.plan.nodes
    }

    /// The shared file.
    pub fn effects(&self) -> PathBuf {
        self.plan.directory.join("effects")
    }

    /// Every node's status socket.
    pub fn sockets(&self) -> BTreeMap<u32, PathBuf> {
        self.all().map(|node| (node, self.home(node).join("run/node.sock"))).collect()
    }

    /// The arbiter's socket.
    pub fn arbiter_socket(&self) -> PathBuf {
        self.plan.directory.join("arbiter/run/qnetd.sock")
    }

    fn home(&self, node: u32) -> PathBuf {
        self.plan.directory.join(format!("node{node}"))
    }

    /// Starts the arbiter.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn start_arbiter(&mut self) -> Result<()> {
        self.start_arbiter_behind(&[])
    }

    /// Starts the arbiter as the last words of another command, which becomes it.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn start_arbiter_behind(&mut self, words: &[&str]) -> Result<()> {
        let home = self.plan.directory.join("arbiter");
        let mut command = self.daemon(words, "qnetd", &home, "arbiter")?;
        command.args(["--listen", &self.layout.arbiter().to_string()]);
        tls_flags(&mut command, &home, "arbiter");
        self.arbiter = Some(command.spawn().context("cannot start the arbiter")?);
        Ok(())
    }

    /// The arbiter's process, if it runs.
    pub fn arbiter_pid(&self) -> Option<u32> {
        self.arbiter.as_ref()?.id()
    }

    /// Kills the arbiter.
    ///
    /// # Errors
    /// When it did not end.
    pub async fn kill_arbiter(&mut self) -> Result<()> {
        let arbiter = self.arbiter.as_mut().context("the arbiter does not run")?;
        arbiter.kill().await.context("the arbiter could not be killed")?;
        self.arbiter = None;
        Ok(())
    }

    /// Starts a node and its device.
    ///
    /// # Errors
    /// When a process cannot be started.
    pub async fn start_node(&mut self, id: u32) -> Result<()> {
        self.relay.tell(&format!("lit {id}")).await?;
        let node = self.spawn_node(id)?;
        let device = self.spawn_device(id)?;
        self.nodes.insert(id, Node { node, device });
        Ok(())
    }

    fn spawn_node(&self, id: u32) -> Result<Child> {
        let home = self.home(id);
        let mut command = self.daemon(&[], "node", &home, &format!("node{id}"))?;
        command.arg("--cluster-conf").arg(self.plan.directory.join("corosync.conf"));
        command.args(["--node-id", &id.to_string()]);
        command.args(["--listen", &format!("0={}", self.layout.private(id))]);
        tls_flags(&mut command, &home, "node");
        command.spawn().with_context(|| format!("cannot start node {id}"))
    }

    fn spawn_device(&self, id: u32) -> Result<Child> {
        let home = self.home(id);
        let mut command = self.daemon(&[], "qdevice", &home, &format!("qdevice{id}"))?;
        command.args(["--arbiter", &self.layout.towards_arbiter(id).to_string()]);
        tls_flags(&mut command, &home, "node");
        command.spawn().with_context(|| format!("cannot start the device of node {id}"))
    }

    /// Kills a node's quorum device and starts it again.
    ///
    /// # Errors
    /// When it does not run, or cannot be started.
    pub async fn restart_device(&mut self, id: u32) -> Result<()> {
        let mut node = self.nodes.remove(&id).with_context(|| format!("node {id} is down"))?;
        node.device.kill().await.context("the device could not be killed")?;
        node.device = self.spawn_device(id)?;
        self.nodes.insert(id, node);
        Ok(())
    }

    /// Kills a node's daemon alone and starts it again; its keeper goes on.
    ///
    /// # Errors
    /// When it does not run, or cannot be started.
    pub async fn restart_daemon(&mut self, id: u32) -> Result<()> {
        let mut node = self.nodes.remove(&id).with_context(|| format!("node {id} is down"))?;
        node.node.kill().await.context("the node daemon could not be killed")?;
        node.node = self.spawn_node(id)?;
        self.nodes.insert(id, node);
        Ok(())
    }

    /// Takes the power from a node: nothing of it passes any more, and all its processes end at
    /// once.
    ///
    /// # Errors
    /// When one of them did not end.
    pub async fn kill_node(&mut self, id: u32) -> Result<()> {
        self.relay.tell(&format!("dark {id}")).await?;
        processes::kill_all(&self.plan.program, &self.home(id));
        if let Some(mut node) = self.nodes.remove(&id) {
            let _ = node.node.kill().await;
            let _ = node.device.kill().await;
        }
        // What they had started may take a moment to be gone.
        for _ in 0..1000 {
            if self.signal_node(id, Signal::SIGKILL) == 0 {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        bail!("processes of node {id} did not end after SIGKILL");
    }

    /// Sends a signal to all processes of a node, and says how many there were.
    pub fn signal_node(&self, id: u32, signal: Signal) -> usize {
        processes::signal_all(&self.plan.program, &self.home(id), signal)
    }

    /// Sends a signal to the node daemon alone.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal_daemon(&self, id: u32, signal: Signal) -> Result<()> {
        let node = self.nodes.get(&id).with_context(|| format!("node {id} does not run"))?;
        signal_child(&node.node, signal)
    }

    /// Stops forwarding.
    ///
    /// # Errors
    /// When the relay does not answer.
    pub async fn cut(&mut self, links: &[Link]) -> Result<()> {
        self.relay.tell(&line("cut", links)).await
    }

    /// Cuts two groups of nodes apart; the arbiter reaches both.
    ///
    /// # Errors
    /// When the relay does not answer.
    pub async fn split(&mut self, one: &[u32], other: &[u32]) -> Result<()> {
        let links: Vec<Link> = one
            .iter()
            .flat_map(|a| other.iter().map(|b| Link::between(End::Node(*a), End::Node(*b))))
            .collect();
        self.cut(&links).await
    }

    /// Forwards everything again.
    ///
    /// # Errors
    /// When the relay does not answer.
    pub async fn heal(&mut self) -> Result<()> {
        self.relay.tell("heal all").await
    }

    /// True if the node has power.
    pub fn runs(&self, id: u32) -> bool {
        self.nodes.contains_key(&id)
    }

    /// Says which daemon has ended by itself, if one has.
    pub fn fallen(&mut self) -> Option<String> {
        let ended = |child: &mut Child| child.try_wait().unwrap_or_default();
        if let Some(status) = self.arbiter.as_mut().and_then(ended) {
            return Some(format!("the arbiter has ended ({status})"));
        }
        for (id, node) in &mut self.nodes {
            if let Some(status) = ended(&mut node.node) {
                return Some(format!("node {id} has ended ({status})"));
            }
            if let Some(status) = ended(&mut node.device) {
                return Some(format!("the device of node {id} has ended ({status})"));
            }
        }
        None
    }

    /// The orderly end: SIGTERM to the nodes, then to their devices and the arbiter. Says which of
    /// them did not end with success, or not in time.
    pub async fn end(&mut self, limit: Duration) -> Vec<String> {
        let mut nodes = Vec::new();
        let mut others = Vec::new();
        for (id, node) in std::mem::take(&mut self.nodes) {
            nodes.push((format!("node {id}"), node.node));
            others.push((format!("the device of node {id}"), node.device));
        }
        others.extend(self.arbiter.take().map(|arbiter| ("the arbiter".to_owned(), arbiter)));
        let mut wrong = end_all(nodes, limit).await;
        wrong.extend(end_all(others, limit).await);
        wrong.extend(self.relay.end().await.err().map(|error| format!("{error:#}")));
        let left = processes::of(&self.plan.program, &self.plan.directory);
        if !left.is_empty() {
            wrong.push(format!("{} processes are left", left.len()));
        }
        wrong
    }

    /// A daemon's command: in its own home, with its own log.
    fn daemon(&self, before: &[&str], verb: &str, home: &Path, log: &str) -> Result<Command> {
        let mut command = command(&self.plan, before, verb, log)?;
        command.current_dir(home);
        command.arg("--state-dir").arg(home.join("state"));
        command.arg("--run-dir").arg(home.join("run"));
        Ok(command)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        processes::kill_all(&self.plan.program, &self.plan.directory);
    }
}

fn command(plan: &Plan, before: &[&str], verb: &str, log: &str) -> Result<Command> {
    let path = plan.directory.join("logs").join(log);
    let open = || OpenOptions::new().create(true).append(true).open(&path);
    let log = open().with_context(|| format!("cannot write {}", path.display()))?;
    let mut words = before.iter().map(OsStr::new).chain([plan.program.as_os_str()]);
    let mut command = Command::new(words.next().unwrap_or(plan.program.as_os_str()));
    command
        .args(words)
        .arg(verb)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // A Ctrl-C on the terminal is for the demo, which then ends all of them.
        .process_group(0)
        .kill_on_drop(true);
    Ok(command)
}

fn tls_flags(command: &mut Command, home: &Path, name: &str) {
    command.arg("--tls-ca").arg(home.join("ca.pem"));
    command.arg("--tls-cert").arg(home.join(format!("{name}.pem")));
    command.arg("--tls-key").arg(home.join(format!("{name}-key.pem")));
}

fn signal_child(child: &Child, signal: Signal) -> Result<()> {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).context("it has ended")?;
    Ok(kill(Pid::from_raw(pid), signal)?)
}

async fn end_all(children: Vec<(String, Child)>, limit: Duration) -> Vec<String> {
    for (_, child) in &children {
        let _ = signal_child(child, Signal::SIGTERM);
    }
    let mut wrong = Vec::new();
    for (name, mut child) in children {
        match timeout(limit, child.wait()).await {
            Ok(Ok(status)) if status.success() => {}
            Ok(Ok(status)) => wrong.push(format!("{name} ended with {status}")),
            Ok(Err(error)) => wrong.push(format!("{name}: {error}")),
            Err(_) => wrong.push(format!("{name} did not end within {} s", limit.as_secs())),
        }
    }
    wrong
}

fn line(verb: &str, links: &[Link]) -> String {
    let links: Vec<String> = links.iter().map(Link::to_string).collect();
    format!("{verb} {}", links.join(" "))
}

/// The relay's process and its conversation.
#[derive(Debug)]
struct RelayProcess {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl RelayProcess {
    async fn start(plan: &Plan, layout: Layout) -> Result<Self> {
        let mut command = command(plan, &[], "demo-relay", "relay")?;
        command.args(["--net", &layout.to_string(), "--nodes", &plan.nodes.to_string()]);
        command.arg("--guard").arg(&plan.directory);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot start the relay")?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("the relay has no standard input and output");
        };
        let output = BufReader::new(output).lines();
        let mut relay = Self { child, input, output };
        relay.expect("ready").await?;
        Ok(relay)
    }

    async fn tell(&mut self, line: &str) -> Result<()> {
        let text = format!("{line}\n");
        self.input.write_all(text.as_bytes()).await.context("the relay has ended")?;
        self.expect("ok").await
    }

    async fn end(&mut self) -> Result<()> {
        self.input.write_all(b"end\n").await.context("the relay has ended")?;
        let ended = timeout(RELAY_PATIENCE, self.child.wait()).await;
        let status = ended.context("the relay does not end")??;
        if status.success() { Ok(()) } else { bail!("the relay ended with {status}") }
    }

    async fn expect(&mut self, word: &str) -> Result<()> {
        let answer = timeout(RELAY_PATIENCE, self.output.next_line()).await;
        match answer.context("the relay does not answer")?? {
            Some(answer) if answer == word => Ok(()),
            Some(answer) => bail!("the relay answered {answer:?}"),
            None => bail!("the relay has ended: see logs/relay"),
        }
    }
}

/// Directories, certificates, configuration.
fn make_files(plan: &Plan, layout: Layout) -> Result<()> {
    let make = |path: PathBuf| {
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))
    };
    // Made new, for this user only: nobody else has put anything there.
    let made = DirBuilder::new().mode(0o700).create(&plan.directory);
    made.with_context(|| format!("cannot create {}", plan.directory.display()))?;
    make(plan.directory.join("logs"))?;
    let authority = plan.directory.join("ca");
    let validity = Validity::starting(issuing::wall_clock());
    AuthorityDir::create(&authority, Kind::Own, validity)?;
    let mut homes = vec![("arbiter".to_owned(), "arbiter", Subject::Server)];
    for node in 1..=plan.nodes {
        let subject = Subject::Node { cluster: CLUSTER.to_owned(), node: NodeId(node) };
        homes.push((format!("node{node}"), "node", subject));
    }
    for (home, name, subject) in homes {
        let home = plan.directory.join(home);
        make(home.join("state"))?;
        make(home.join("run"))?;
        issuing::issue(&authority, &subject, &home, name, false)?;
    }
    let path = plan.directory.join("corosync.conf");
    let text = configuration(plan, layout);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    File::create(plan.directory.join("effects")).context("cannot create the shared file")?;
    Ok(())
}

/// The one configuration of all nodes.
fn configuration(plan: &Plan, layout: Layout) -> String {
    let nodes = (1..=plan.nodes).map(|node| {
        let address = layout.public(node).ip();
        format!(
            "    node {{\n        nodeid: {node}\n        name: node{node}\n        \
             ring0_addr: {address}\n    }}\n"
        )
    });
    let effects = plan.directory.join("effects");
    format!(
        "totem {{\n    version: 2\n    cluster_name: {CLUSTER}\n    interface {{\n        \
         linknumber: 0\n        mcastport: {NODE_PORT}\n    }}\n}}\n\
         nodelist {{\n{nodes}}}\n\
         quorum {{\n    provider: corosync_votequorum\n    device {{\n        model: net\n        \
         votes: {votes}\n        net {{\n            host: {arbiter}\n            \
         port: {ARBITER_PORT}\n            tls: required\n            algorithm: {algorithm}\n            \
         tie_breaker: lowest\n        }}\n    }}\n}}\n\
         haguard {{\n    watchdog: process\n    trust_process_watchdog: {trust}\n    \
         service {{\n        name: demo\n        command: {program} demo-writer {effects}\n        \
         prefer: {prefer}\n    }}\n}}\n",
        nodes = nodes.collect::<String>(),
        votes = plan.device_votes(),
        arbiter = layout.arbiter().ip(),
        algorithm = if plan.algorithm == Algorithm::Ffsplit { "ffsplit" } else { "lms" },
        trust = if plan.trust_process_watchdog { "yes" } else { "no" },
        program = plan.program.display(),
        effects = effects.display(),
        prefer = plan.nodes,
    )
}
