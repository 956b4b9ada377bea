//! Random sequences of faults on real processes. Whatever happens, there are never two sides and
//! never two copies of the service; and when everything is well again, all nodes are one again.
//!
//! Each test is a world that goes through several sequences. The seed chooses faults and pauses;
//! the moments at which they meet the daemons are the machine's. To look further, set
//! HAGUARD_SURVIVES to a number: it is added to all seeds.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use haguard::command::demo::relay::{End, Link};
use haguard::command::demo::samples::{Record, Sampler, now};
use haguard::command::demo::story::{are_one, runs_on};
use haguard::command::demo::verdict::{Effects, two_sides};
use haguard::command::demo::world::{Plan, World};
use nix::sys::signal::Signal;
use protocol::rng::Rng;
use protocol::times;
use protocol::vote::Algorithm;
use tokio::time::sleep;

const SEQUENCES: u32 = 4;
const FAULTS: u32 = 3;
/// After the last fault of a sequence: readmission takes 5 s, a frozen keeper's proof 5 s more.
const LIMIT: Duration = Duration::from_secs(60);
const PAUSE_MS: (u64, u64) = (100, 3000);
const RATE_MIN: f64 = 50.0;

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// The nodes do not hear each other.
    Split,
    /// One does not hear the other.
    OneWay(u32, u32),
    /// Who runs the service cannot reach the arbiter.
    HolderFromArbiter,
    /// It hears the arbiter no more, but is heard.
    DeafToArbiter(u32),
    /// Everything passes again.
    Heal,
    /// Who runs the service loses power.
    HolderDies,
    /// Whoever has no power gets it back.
    Return,
    /// The arbiter is killed and started again at once.
    ArbiterRestart,
    /// The device is killed and started again at once.
    DeviceRestart(u32),
    /// The node daemon is killed and started again at once.
    DaemonRestart(u32),
    /// The node daemon stands still for so many milliseconds; the keeper does not.
    Freeze(u32, u64),
    /// Every process of the node stands still for so many milliseconds.
    Pause(u32, u64),
}

impl Fault {
    fn random(rng: &mut Rng, pauses: bool) -> Self {
        let node = 1 + u32::try_from(rng.below(2)).unwrap();
        let still = 200 + rng.below(7000);
        match rng.below(if pauses { 14 } else { 12 }) {
            0 | 1 => Self::Split,
            2 => Self::OneWay(node, 3 - node),
            3 => Self::HolderFromArbiter,
            4 => Self::DeafToArbiter(node),
            5 => Self::Heal,
            6 => Self::HolderDies,
            7 => Self::Return,
            8 => Self::ArbiterRestart,
            9 => Self::DeviceRestart(node),
            10 => Self::DaemonRestart(node),
            11 => Self::Freeze(node, still),
            _ => Self::Pause(node, still),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

struct Test {
    world: World,
    sampler: Sampler,
    rng: Rng,
    done: Vec<String>,
    directory: PathBuf,
}

impl Test {
    async fn start(seed: u64, trust_process_watchdog: bool) -> Self {
        let further = std::env::var("HAGUARD_SURVIVES").ok();
        let seed = seed + further.map_or(0, |text| text.parse::<u64>().unwrap());
        let name = format!("haguard-survives-{}-{seed}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        let plan = Plan {
            program: Path::new(env!("CARGO_BIN_EXE_haguard")).to_owned(),
            directory: directory.clone(),
            seed: seed * 1000 + u64::from(std::process::id()),
            nodes: 2,
            algorithm: Algorithm::Ffsplit,
            trust_process_watchdog,
        };
        let mut world = World::build(plan).await.unwrap();
        let sampler = Sampler::start(world.sockets());
        world.start_arbiter().unwrap();
        for node in world.all() {
            world.start_node(node).await.unwrap();
        }
        let mut test = Self { world, sampler, rng: Rng::new(seed), done: Vec::new(), directory };
        test.wait("the start", |record| are_one(record, &[1, 2]) && runs_on(record, &[1, 2])).await;
        test
    }

    /// Goes through all sequences.
    async fn run(mut self, pauses: bool) {
        for sequence in 0..SEQUENCES {
            self.done.push(format!("sequence {sequence}:"));
            for _ in 0..FAULTS {
                let fault = Fault::random(&mut self.rng, pauses);
                let (least, most) = PAUSE_MS;
                let pause = least + self.rng.below(most - least);
                self.done.push(format!("{fault}, {pause} ms;"));
                self.strike(fault).await;
                sleep(Duration::from_millis(pause)).await;
                self.check();
            }
            self.world.heal().await.unwrap();
            self.power_on().await;
            // A paused winner proves nothing by time, so then the service may wait for an operator.
            self.wait("everything is well again", |record| {
                are_one(record, &[1, 2]) && (pauses || runs_on(record, &[1, 2]))
            })
            .await;
            self.check();
        }
        for (node, watch) in self.sampler.read(|record| record.watches().clone()) {
            assert!(
                watch.rate() >= RATE_MIN,
                "node {node} was asked only {} a second",
                watch.rate()
            );
        }
        let wrong = self.world.end(Duration::from_secs(20)).await;
        assert!(wrong.is_empty(), "{wrong:?} {}", self.story());
        std::fs::remove_dir_all(&self.directory).unwrap();
    }

    async fn strike(&mut self, fault: Fault) {
        let holder = self.holder();
        let arbiter = End::Arbiter;
        match fault {
            Fault::Split => self.world.split(&[1], &[2]).await.unwrap(),
            Fault::OneWay(from, to) => {
                let link = Link::one_way(End::Node(from), End::Node(to));
                self.world.cut(&[link]).await.unwrap();
            }
            Fault::HolderFromArbiter => {
                let link = Link::between(End::Node(holder), arbiter);
                self.world.cut(&[link]).await.unwrap();
            }
            Fault::DeafToArbiter(node) => {
                let link = Link::one_way(arbiter, End::Node(node));
                self.world.cut(&[link]).await.unwrap();
            }
            Fault::Heal => self.world.heal().await.unwrap(),
            Fault::HolderDies => {
                if self.world.runs(holder) {
                    self.world.kill_node(holder).await.unwrap();
                }
            }
            Fault::Return => self.power_on().await,
            Fault::ArbiterRestart => {
                self.world.kill_arbiter().await.unwrap();
                self.world.start_arbiter().unwrap();
            }
            Fault::DeviceRestart(node) => {
                if self.world.runs(node) {
                    self.world.restart_device(node).await.unwrap();
                }
            }
            Fault::DaemonRestart(node) => {
                if self.world.runs(node) {
                    self.world.restart_daemon(node).await.unwrap();
                }
            }
            Fault::Freeze(node, still) => {
                if self.world.runs(node) {
                    self.world.signal_daemon(node, Signal::SIGSTOP).unwrap();
                    sleep(Duration::from_millis(still)).await;
                    self.world.signal_daemon(node, Signal::SIGCONT).unwrap();
                }
            }
            Fault::Pause(node, still) => {
                self.world.signal_node(node, Signal::SIGSTOP);
                sleep(Duration::from_millis(still)).await;
                self.world.signal_node(node, Signal::SIGCONT);
            }
        }
    }

    /// Who runs the service, or ran it last.
    fn holder(&self) -> u32 {
        let stretches = self.effects().stretches;
        stretches.last().map_or(2, |stretch| stretch.node)
    }

    async fn power_on(&mut self) {
        for node in self.world.all() {
            if !self.world.runs(node) {
                self.world.start_node(node).await.unwrap();
            }
        }
    }

    fn effects(&self) -> Effects {
        Effects::read(&std::fs::read_to_string(self.world.effects()).unwrap())
    }

    fn check(&mut self) {
        let sides = self.sampler.read(|record| two_sides(record.runs()));
        assert!(sides.is_empty(), "two sides: {sides:?} {}", self.story());
        let effects = self.effects();
        let wrong = (effects.interleaved, effects.epoch_back, effects.malformed);
        assert_eq!(wrong, (0, 0, 0), "{:?} {}", effects.stretches, self.story());
        let fallen = self.world.fallen();
        assert!(fallen.is_none(), "{fallen:?} {}", self.story());
    }

    async fn wait(&mut self, what: &str, so: impl Fn(&Record) -> bool) {
        let limit = now() + LIMIT;
        while !self.sampler.read(&so) {
            let all = [1, 2].map(|node| self.sampler.read(|record| record.status(node).cloned()));
            assert!(now() < limit, "not in time: {what}: {all:#?} {}", self.story());
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The service says that it runs a moment before it does something.
    async fn wait_for_lines_of(&self, node: u32) {
        let limit = now() + LIMIT;
        while !self.effects().stretches.iter().any(|stretch| stretch.node == node) {
            assert!(now() < limit, "no line of node {node}; {}", self.story());
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn story(&self) -> String {
        format!("after: {}; logs in {}", self.done.join(" "), self.directory.join("logs").display())
    }
}

#[tokio::test]
async fn survives_four_random_sequences_of_seed_1() {
    Test::start(1, true).await.run(false).await;
}

#[tokio::test]
async fn survives_four_random_sequences_of_seed_2() {
    Test::start(2, true).await.run(false).await;
}

#[tokio::test]
async fn survives_four_random_sequences_of_seed_3() {
    Test::start(3, true).await.run(false).await;
}

#[tokio::test]
async fn survives_four_random_sequences_of_seed_4() {
    Test::start(4, true).await.run(false).await;
}

#[tokio::test]
async fn survives_four_random_sequences_with_paused_nodes() {
    Test::start(5, false).await.run(true).await;
}

/// From the moment the holder's daemon stands still or is gone, nothing renews its entitlement:
/// that ends with a lease at the latest, and the service is dead one bound later, whoever lives.
async fn dies_in_time(seed: u64, signal: Signal) {
    let mut test = Test::start(seed, true).await;
    test.wait_for_lines_of(2).await;
    let (holder, other, struck) = (2, 1, now());
    test.world.signal_daemon(holder, signal).unwrap();
    test.wait("the other node takes over", |record| runs_on(record, &[other])).await;
    test.wait_for_lines_of(other).await;
    let stretches = test.effects().stretches;
    let last = stretches.iter().filter(|s| s.node == holder).map(|s| s.to_ms).max().unwrap();
    let first = stretches.iter().filter(|s| s.node == other).map(|s| s.from_ms).min().unwrap();
    let bound = struck + times::LEASE + times::STOP_PROOF;
    assert!(last <= bound.as_millis(), "it lived {} ms", last - struck.as_millis());
    assert!(last < first, "node {other} began at {first}, before the end at {last}");
    let sides = test.sampler.read(|record| two_sides(record.runs()));
    assert!(sides.is_empty(), "two sides: {sides:?} {}", test.story());
    let _ = test.world.signal_daemon(holder, Signal::SIGCONT);
    let directory = test.directory.clone();
    drop(test);
    std::fs::remove_dir_all(directory).unwrap();
}

#[tokio::test]
async fn a_stopped_node_daemon_ends_with_its_service_dead_within_the_bound() {
    dies_in_time(11, Signal::SIGSTOP).await;
}

#[tokio::test]
async fn a_killed_node_daemon_ends_with_its_service_dead_within_the_bound() {
    dies_in_time(12, Signal::SIGKILL).await;
}
