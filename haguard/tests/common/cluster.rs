//! A cluster of real processes, its arbiter, and the relay between them, with every node's status
//! asked all the time.

use std::path::{Path, PathBuf};
use std::time::Duration;

use haguard::command::demo::samples::{Record, Sampler, now};
use haguard::command::demo::story::{are_one, runs_on};
use haguard::command::demo::verdict::{Effects, two_sides};
use haguard::command::demo::world::{CLUSTER, Plan, World};
use protocol::status::ClusterStatus;
use protocol::vote::Algorithm;
use tokio::time::sleep;

use super::{LIMIT, PROGRAM};

/// No node may be asked less often, in answers a second.
const RATE_MIN: f64 = 50.0;
/// From one look to the next.
const LOOK: Duration = Duration::from_millis(20);

/// Two nodes, which is where everything hangs on the arbiter's vote.
pub struct Cluster {
    pub world: World,
    pub sampler: Sampler,
    /// What was done to it, for the message of a failure.
    pub done: Vec<String>,
    pub directory: PathBuf,
}

impl Cluster {
    /// Everything but the daemons. The seed is in the directory's name.
    pub async fn build(name: &str, seed: u64, trust_process_watchdog: bool) -> Self {
        let name = format!("haguard-{name}-{}-{seed}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        let plan = Plan {
            program: Path::new(PROGRAM).to_owned(),
            directory: directory.clone(),
            seed: seed * 1000 + u64::from(std::process::id()),
            nodes: 2,
            algorithm: Algorithm::Ffsplit,
            trust_process_watchdog,
        };
        let world = World::build(plan).await.unwrap();
        let sampler = Sampler::start(world.sockets());
        Self { world, sampler, done: Vec::new(), directory }
    }

    /// Starts the nodes and waits until they are one and the service runs.
    pub async fn start_nodes(&mut self) {
        for node in self.world.all() {
            self.world.start_node(node).await.unwrap();
        }
        self.wait("the start", |record| are_one(record, &[1, 2]) && runs_on(record, &[1, 2])).await;
    }

    /// All of it.
    pub async fn start(name: &str, seed: u64, trust_process_watchdog: bool) -> Self {
        let mut cluster = Self::build(name, seed, trust_process_watchdog).await;
        cluster.world.start_arbiter().unwrap();
        cluster.start_nodes().await;
        cluster
    }

    /// What the guarded service has done.
    pub fn effects(&self) -> Effects {
        Effects::read(&std::fs::read_to_string(self.world.effects()).unwrap())
    }

    /// There were never two sides nor two copies of the service, and no daemon has ended by
    /// itself.
    pub fn check(&mut self) {
        let sides = self.sampler.read(|record| two_sides(record.runs()));
        assert!(sides.is_empty(), "two sides: {sides:?} {}", self.story());
        let effects = self.effects();
        let wrong = (effects.interleaved, effects.epoch_back, effects.malformed);
        assert_eq!(wrong, (0, 0, 0), "{:?} {}", effects.stretches, self.story());
        let fallen = self.world.fallen();
        assert!(fallen.is_none(), "{fallen:?} {}", self.story());
    }

    /// Every node was asked often enough for the above to mean something.
    pub fn check_rate(&self) {
        for (node, watch) in self.sampler.read(|record| record.watches().clone()) {
            let rate = watch.rate();
            assert!(rate >= RATE_MIN, "node {node} was asked only {rate} times a second");
        }
    }

    /// Waits until the nodes have said something.
    pub async fn wait(&mut self, what: &str, so: impl Fn(&Record) -> bool) {
        let limit = now() + LIMIT;
        while !self.sampler.read(&so) {
            let all = [1, 2].map(|node| self.sampler.read(|record| record.status(node).cloned()));
            assert!(now() < limit, "not in time: {what}: {all:#?} {}", self.story());
            sleep(LOOK).await;
        }
    }

    /// The service says that it runs a moment before it does something.
    pub async fn wait_for_lines_of(&self, node: u32) {
        let limit = now() + LIMIT;
        while !self.effects().stretches.iter().any(|stretch| stretch.node == node) {
            assert!(now() < limit, "no line of node {node}; {}", self.story());
            sleep(LOOK).await;
        }
    }

    /// What the arbiter says of the cluster, if it answers and knows of it.
    pub async fn grant(&self) -> Option<ClusterStatus> {
        let run = self.directory.join("arbiter/run");
        let mut command = tokio::process::Command::new(PROGRAM);
        let output = command.args(["status", "--json", "--run-dir"]).arg(run).output().await;
        let mut status: serde_json::Value = serde_json::from_slice(&output.ok()?.stdout).ok()?;
        serde_json::from_value(status["arbiter"]["clusters"][CLUSTER].take()).ok()
    }

    /// The same as soon as it is as wanted.
    pub async fn grant_that(
        &self,
        what: &str,
        is: impl Fn(&ClusterStatus) -> bool,
    ) -> ClusterStatus {
        let limit = now() + LIMIT;
        loop {
            let grant = self.grant().await;
            if let Some(grant) = grant.clone().filter(&is) {
                return grant;
            }
            assert!(now() < limit, "not in time: {what}: {grant:?} {}", self.story());
            sleep(LOOK).await;
        }
    }

    /// Ends everything as told; nothing may be left.
    pub async fn end(mut self) {
        self.check();
        self.check_rate();
        let wrong = self.world.end(Duration::from_secs(20)).await;
        assert!(wrong.is_empty(), "{wrong:?} {}", self.story());
        self.remove();
    }

    /// Ends everything in whatever state it is.
    pub fn remove(self) {
        let directory = self.directory.clone();
        drop(self);
        std::fs::remove_dir_all(directory).unwrap();
    }

    pub fn story(&self) -> String {
        format!("after: {}; logs in {}", self.done.join(" "), self.directory.join("logs").display())
    }
}
