//! Random sequences of faults on real processes. Whatever happens, there are never two sides and
//! never two copies of the service; and when everything is well again, all nodes are one again.
//!
//! Each test is a world that goes through several sequences. The seed chooses faults and pauses;
//! the moments at which they meet the daemons are the machine's. To look further, set
//! HAGUARD_SURVIVES to a number: it is added to all seeds.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fmt;
use std::time::Duration;

use common::cluster::Cluster;
use haguard::command::demo::relay::{End, Link};
use haguard::command::demo::samples::{Record, Run, now};
use haguard::command::demo::story::{are_one, runs_on};
use haguard::command::demo::verdict::two_sides;
use haguard::command::demo::world::World;
use nix::sys::signal::Signal;
use protocol::rng::Rng;
use protocol::status::QuorumState;
use protocol::time::Time;
use protocol::times;
use tokio::time::sleep;

const SEQUENCES: u32 = 4;
const FAULTS: u32 = 3;
const PAUSE_MS: (u64, u64) = (100, 3000);

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
    cluster: Cluster,
    rng: Rng,
}

impl Test {
    async fn start(seed: u64, trust_process_watchdog: bool) -> Self {
        let further = std::env::var("HAGUARD_SURVIVES").ok();
        let seed = seed + further.map_or(0, |text| text.parse::<u64>().unwrap());
        let cluster = Cluster::start("survives", seed, trust_process_watchdog).await;
        Self { cluster, rng: Rng::new(seed) }
    }

    /// Goes through all sequences.
    async fn run(mut self, pauses: bool) {
        for sequence in 0..SEQUENCES {
            self.cluster.done.push(format!("sequence {sequence}:"));
            for _ in 0..FAULTS {
                let fault = Fault::random(&mut self.rng, pauses);
                let (least, most) = PAUSE_MS;
                let pause = least + self.rng.below(most - least);
                self.cluster.done.push(format!("{fault}, {pause} ms;"));
                self.strike(fault).await;
                sleep(Duration::from_millis(pause)).await;
                self.cluster.check();
            }
            self.cluster.world.heal().await.unwrap();
            self.power_on().await;
            // A paused winner proves nothing by time, so then the service may wait for an operator.
            self.cluster
                .wait("everything is well again", |record| {
                    are_one(record, &[1, 2]) && (pauses || runs_on(record, &[1, 2]))
                })
                .await;
            self.cluster.check();
        }
        self.cluster.end().await;
    }

    async fn strike(&mut self, fault: Fault) {
        let holder = self.holder();
        let arbiter = End::Arbiter;
        match fault {
            Fault::Split => self.cluster.world.split(&[1], &[2]).await.unwrap(),
            Fault::OneWay(from, to) => {
                let link = Link::one_way(End::Node(from), End::Node(to));
                self.cluster.world.cut(&[link]).await.unwrap();
            }
            Fault::HolderFromArbiter => {
                let link = Link::between(End::Node(holder), arbiter);
                self.cluster.world.cut(&[link]).await.unwrap();
            }
            Fault::DeafToArbiter(node) => {
                let link = Link::one_way(arbiter, End::Node(node));
                self.cluster.world.cut(&[link]).await.unwrap();
            }
            Fault::Heal => self.cluster.world.heal().await.unwrap(),
            Fault::HolderDies => {
                if self.cluster.world.runs(holder) {
                    self.cluster.world.kill_node(holder).await.unwrap();
                }
            }
            Fault::Return => self.power_on().await,
            Fault::ArbiterRestart => {
                self.cluster.world.kill_arbiter().await.unwrap();
                self.cluster.world.start_arbiter().unwrap();
            }
            Fault::DeviceRestart(node) => {
                if self.cluster.world.runs(node) {
                    self.cluster.world.restart_device(node).await.unwrap();
                }
            }
            Fault::DaemonRestart(node) => {
                if self.cluster.world.runs(node) {
                    self.cluster.world.restart_daemon(node).await.unwrap();
                }
            }
            Fault::Freeze(node, still) => {
                if self.cluster.world.runs(node) {
                    self.cluster.world.signal_daemon(node, Signal::SIGSTOP).unwrap();
                    sleep(Duration::from_millis(still)).await;
                    self.cluster.world.signal_daemon(node, Signal::SIGCONT).unwrap();
                }
            }
            Fault::Pause(node, still) => {
                self.cluster.world.signal_node(node, Signal::SIGSTOP);
                sleep(Duration::from_millis(still)).await;
                self.cluster.world.signal_node(node, Signal::SIGCONT);
            }
        }
    }

    /// Who runs the service, or ran it last.
    fn holder(&self) -> u32 {
        let stretches = self.cluster.effects().stretches;
        stretches.last().map_or(2, |stretch| stretch.node)
    }

    async fn power_on(&mut self) {
        for node in self.cluster.world.all() {
            if !self.cluster.world.runs(node) {
                self.cluster.world.start_node(node).await.unwrap();
            }
        }
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
fn assert_dead_in_time(cluster: &Cluster, node: u32, struck: Time) -> u64 {
    let stretches = cluster.effects().stretches;
    let last = stretches.iter().filter(|s| s.node == node).map(|s| s.to_ms).max().unwrap();
    let bound = struck + times::LEASE + times::STOP_PROOF;
    assert!(last <= bound.as_millis(), "it lived {} ms", last - struck.as_millis());
    last
}

async fn dies_in_time(seed: u64, signal: Signal) {
    let mut cluster = Cluster::start("survives", seed, true).await;
    cluster.wait_for_lines_of(2).await;
    let (holder, other, struck) = (2, 1, now());
    cluster.world.signal_daemon(holder, signal).unwrap();
    cluster.wait("the other node takes over", |record| runs_on(record, &[other])).await;
    cluster.wait_for_lines_of(other).await;
    let last = assert_dead_in_time(&cluster, holder, struck);
    let stretches = cluster.effects().stretches;
    let first = stretches.iter().filter(|s| s.node == other).map(|s| s.from_ms).min().unwrap();
    assert!(last < first, "node {other} began at {first}, before the end at {last}");
    let sides = cluster.sampler.read(|record| two_sides(record.runs()));
    assert!(sides.is_empty(), "two sides: {sides:?} {}", cluster.story());
    let _ = cluster.world.signal_daemon(holder, Signal::SIGCONT);
    cluster.remove();
}

#[tokio::test]
async fn a_stopped_node_daemon_ends_with_its_service_dead_within_the_bound() {
    dies_in_time(11, Signal::SIGSTOP).await;
}

#[tokio::test]
async fn a_killed_node_daemon_ends_with_its_service_dead_within_the_bound() {
    dies_in_time(12, Signal::SIGKILL).await;
}

/// Longer than every lease and bound of two nodes together.
const BEYOND_ALL_BOUNDS: Duration = Duration::from_secs(25);

/// The survivor is quorate alone, starts nothing, and says whom to confirm off.
fn names_the_operators_choice(record: &Record, survivor: u32, lost: u32) -> bool {
    let Some(status) = record.status(survivor) else { return false };
    let recovery = status.fencing.get(&lost);
    status.state == QuorumState::Quorate
        && status.members == [survivor]
        && status.resources.iter().all(|resource| resource.state.starts_with("waiting"))
        && recovery.is_some_and(|text| {
            text.starts_with("waits for the operator")
                && text.contains(&format!("node {lost} "))
                && text.contains("confirm that it is off")
        })
}

/// What stands still for so long with an untrusted watchdog: nobody else starts the service, and
/// the first word after the resume is that the node is not quorate.
async fn stands_still(cluster: &mut Cluster, signal: impl Fn(&World, Signal)) -> Time {
    cluster.wait_for_lines_of(2).await;
    let struck = now();
    signal(&cluster.world, Signal::SIGSTOP);
    let survived = |record: &Record| names_the_operators_choice(record, 1, 2);
    cluster.wait("the survivor names the operator's choice", survived).await;
    while now() < struck + BEYOND_ALL_BOUNDS {
        cluster.check();
        sleep(Duration::from_millis(100)).await;
    }
    let choice = cluster.sampler.read(survived);
    let said = cluster.sampler.read(|record| record.status(1).cloned());
    assert!(choice, "the survivor has moved on: {said:#?} {}", cluster.story());
    assert!(cluster.effects().stretches.iter().all(|s| s.node == 2), "the survivor has started it");
    let resumed = now();
    signal(&cluster.world, Signal::SIGCONT);
    let spoke = |run: &&Run| run.node == 2 && run.last.1 >= resumed;
    cluster.wait("a word of the resumed node", |r| r.runs().iter().any(|run| spoke(&run))).await;
    let first = cluster.sampler.read(|record| record.runs().iter().find(spoke).cloned()).unwrap();
    assert_eq!(first.state, QuorumState::Inquorate, "{first:?} {}", cluster.story());
    struck
}

#[tokio::test]
async fn a_paused_node_is_inquorate_when_it_resumes_and_the_survivor_waits_for_an_operator() {
    let mut cluster = Cluster::start("survives", 13, false).await;
    stands_still(&mut cluster, |world, signal| {
        assert!(world.signal_node(2, signal) >= 4, "daemon, device, keeper and service");
    })
    .await;
    cluster.wait("all are one again", |record| are_one(record, &[1, 2])).await;
    cluster.end().await;
}

#[tokio::test]
async fn a_frozen_nodes_service_is_ended_by_its_keeper_and_the_survivor_waits_for_an_operator() {
    let mut cluster = Cluster::start("survives", 14, false).await;
    let struck =
        stands_still(&mut cluster, |world, signal| world.signal_daemon(2, signal).unwrap()).await;
    // The stretch that was cut short, not what is started after the resume.
    let stretches = cluster.effects().stretches;
    let cut = stretches.iter().find(|s| s.from_ms < struck.as_millis()).unwrap();
    let bound = struck + times::LEASE + times::STOP_PROOF;
    assert!(cut.to_ms <= bound.as_millis(), "it lived {} ms", cut.to_ms - struck.as_millis());
    cluster.wait("all are one again", |record| are_one(record, &[1, 2])).await;
    cluster.end().await;
}
