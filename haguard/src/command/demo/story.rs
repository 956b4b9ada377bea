//! What happens in a demo, in order, and what is measured on the way.

use std::time::Duration;

use anyhow::{Result, bail};
use protocol::rng::Rng;
use protocol::status::{NodeStatus, QuorumState};
use protocol::time::Time;
use tokio::time::sleep;

use super::samples::{Record, Sampler, now};
use super::timeline::Timeline;
use super::verdict::Shown;
use super::world::World;

/// No step takes longer, on the slowest machine.
const STEP_LIMIT: Duration = Duration::from_secs(45);
/// How often the record is looked at while something is waited for.
const LOOK: Duration = Duration::from_millis(5);
/// Everybody ends in an orderly way within.
const END_LIMIT: Duration = Duration::from_secs(20);
/// Before each cut something random up to this passes, so that the cut meets renewals and beats at
/// any phase.
const PHASE_MS: u64 = 500;

/// What was measured. What did not happen is missing.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// From when on everything was up.
    pub up: Option<Time>,
    /// When the orderly end began.
    pub end: Option<Time>,
    /// From each cut until one side was quorate and the other was not.
    pub decided: Vec<Duration>,
    /// When the service was on the losing side at a cut: that time.
    pub moved_by_cut: Option<Time>,
    /// While the arbiter was down and came back: from, to.
    pub arbiter_away: Option<(Time, Time)>,
    /// From each healing until all were in one quorate view.
    pub healed: Vec<Duration>,
    /// From each kill until all survivors were quorate without the killed one.
    pub survived: Vec<Duration>,
    /// When the last node that ran the service was killed.
    pub moved_by_kill: Option<Time>,
    /// From the restart of the killed nodes until all were in one view again.
    pub returned: Option<Duration>,
    /// Who did not end as he should have; missing if the end was not reached.
    pub left: Option<Vec<String>>,
    /// Why the story ended early.
    pub broken: Option<String>,
}

/// A running demo.
#[derive(Debug)]
pub struct Story {
    /// The processes.
    pub world: World,
    /// What the nodes say.
    pub sampler: Sampler,
    /// What people see.
    pub timeline: Timeline,
    /// What was measured so far.
    pub measured: Measured,
    rng: Rng,
}

impl Story {
    /// A story that has not begun.
    pub fn new(world: World, timeline: Timeline) -> Self {
        let sampler = Sampler::start(world.sockets());
        let rng = Rng::new(world.plan().seed);
        Self { world, sampler, timeline, measured: Measured::default(), rng }
    }

    /// Everything, in order.
    ///
    /// # Errors
    /// The first step that did not come to its end.
    pub async fn tell(&mut self, cuts: u32) -> Result<()> {
        let (winners, losers) = halves(self.world.plan().nodes);
        self.begin().await?;
        for cut in 1..=cuts {
            self.cut(&winners, &losers).await?;
            if cut == 1 {
                self.restart_arbiter(&winners).await?;
            }
            self.heal().await?;
        }
        let killed = self.kill(&winners).await?;
        self.bring_back(&killed).await?;
        self.end().await;
        Ok(())
    }

    async fn begin(&mut self) -> Result<()> {
        let all: Vec<u32> = self.world.all().collect();
        self.timeline.step(&format!(
            "an arbiter, {} nodes, a quorum device on each, on 127.{}.0",
            all.len(),
            self.world.layout()
        ));
        self.world.start_arbiter()?;
        for node in &all {
            self.world.start_node(*node).await?;
        }
        self.wait("all nodes are quorate in one view", |record| are_one(record, &all)).await?;
        let prefers = self.world.plan().nodes;
        self.wait("the guarded command runs on the last node", |record| {
            are_one(record, &all) && runs_on(record, &[prefers])
        })
        .await?;
        self.measured.up = Some(now());
        Ok(())
    }

    /// Cuts the halves apart and waits until the arbiter has chosen and the service runs there.
    async fn cut(&mut self, winners: &[u32], losers: &[u32]) -> Result<()> {
        self.wait("every device has its lease", |record| has_leases(record, winners, losers))
            .await?;
        sleep(Duration::from_millis(self.rng.below(PHASE_MS))).await;
        let service_moves = self.sampler.read(|record| runs_on(record, losers));
        self.timeline.step(&format!("cut: {} | {}", list(winners), list(losers)));
        let cut = now();
        self.world.split(winners, losers).await?;
        if service_moves {
            self.measured.moved_by_cut = Some(cut);
        }
        let at = self
            .wait("one half is quorate and the other is not", |record| {
                are_one(record, winners) && losers.iter().all(|node| !is_quorate(record, *node))
            })
            .await?;
        self.measured.decided.push(at.since(cut));
        self.timeline.remark(&format!("decided {} after the cut", Shown(at.since(cut))));
        self.wait("the guarded command runs on the quorate half", |record| {
            runs_on(record, winners) && !runs_on(record, losers)
        })
        .await?;
        Ok(())
    }

    /// Kills the arbiter in the split and starts it again; the quorate half must not notice.
    async fn restart_arbiter(&mut self, winners: &[u32]) -> Result<()> {
        self.timeline.step("the arbiter is killed and started again");
        let from = now();
        self.world.kill_arbiter().await?;
        self.world.start_arbiter()?;
        self.wait("the quorate half has its lease from the new arbiter", |record| {
            winners.iter().all(|node| is_connected(record, *node, from))
        })
        .await?;
        self.measured.arbiter_away = Some((from, now()));
        Ok(())
    }

    async fn heal(&mut self) -> Result<()> {
        let all: Vec<u32> = self.world.all().collect();
        self.timeline.step("heal");
        let healed = now();
        self.world.heal().await?;
        let at = self.wait("all nodes are in one view again", |r| are_one(r, &all)).await?;
        self.measured.healed.push(at.since(healed));
        Ok(())
    }

    /// Kills the winning half, one node after the other, as long as the others can go on.
    async fn kill(&mut self, winners: &[u32]) -> Result<Vec<u32>> {
        let all: Vec<u32> = self.world.all().collect();
        self.wait("every device has its lease", |record| has_leases(record, &all, &[])).await?;
        let mut alive = all;
        let mut killed = Vec::new();
        for victim in winners {
            let left = u32::try_from(alive.len() - 1).unwrap_or_default();
            if left == 0 || !self.world.plan().is_quorate(left) {
                break;
            }
            sleep(Duration::from_millis(self.rng.below(PHASE_MS))).await;
            let had_service = self.sampler.read(|record| runs_on(record, &[*victim]));
            self.timeline.step(&format!("node {victim} loses power"));
            let at_kill = now();
            self.world.kill_node(*victim).await?;
            alive.retain(|node| node != victim);
            killed.push(*victim);
            let survivors = alive.clone();
            let at = self
                .wait("the others are quorate without it", |record| are_one(record, &survivors))
                .await?;
            self.measured.survived.push(at.since(at_kill));
            self.timeline.remark(&format!("quorate {} after the loss", Shown(at.since(at_kill))));
            if had_service {
                self.measured.moved_by_kill = Some(at_kill);
            }
            self.wait("a survivor runs the guarded command", |record| runs_on(record, &survivors))
                .await?;
        }
        Ok(killed)
    }

    async fn bring_back(&mut self, killed: &[u32]) -> Result<()> {
        let all: Vec<u32> = self.world.all().collect();
        self.timeline.step(&format!("{} start again", list(killed)));
        let started = now();
        for node in killed {
            self.world.start_node(*node).await?;
        }
        let at = self.wait("all nodes are in one view again", |r| are_one(r, &all)).await?;
        self.measured.returned = Some(at.since(started));
        Ok(())
    }

    async fn end(&mut self) {
        self.timeline.step("orderly end");
        self.measured.end = Some(now());
        self.measured.left = Some(self.world.end(END_LIMIT).await);
    }

    /// Waits until something is so, and returns when that was heard.
    ///
    /// # Errors
    /// When it did not become so in time, or a daemon has ended.
    pub async fn wait(&mut self, what: &str, so: impl Fn(&Record) -> bool) -> Result<Time> {
        let limit = now() + STEP_LIMIT;
        loop {
            let timeline = &mut self.timeline;
            let is_so = self.sampler.read(|record| {
                timeline.follow(record);
                so(record)
            });
            if is_so {
                return Ok(now());
            }
            if let Some(text) = self.world.fallen() {
                bail!("{text} while waiting: {what}");
            }
            if now() > limit {
                let all = self.world.all();
                let said = self.sampler.read(|record| described(record, all));
                bail!("not within {} s: {what}; {said}", STEP_LIMIT.as_secs());
            }
            sleep(LOOK).await;
        }
    }
}

/// The half with the lowest id, which is the larger one of an odd number, and the other.
fn halves(nodes: u32) -> (Vec<u32>, Vec<u32>) {
    let half = nodes.div_ceil(2);
    ((1..=half).collect(), (half + 1..=nodes).collect())
}

fn list(nodes: &[u32]) -> String {
    let nodes: Vec<String> = nodes.iter().map(u32::to_string).collect();
    format!("{{{}}}", nodes.join(","))
}

/// The nodes are quorate in one view that has them and nobody else.
pub fn are_one(record: &Record, nodes: &[u32]) -> bool {
    let view = |status: &NodeStatus| status.view.clone();
    let first = nodes.first().and_then(|node| record.status(*node)).and_then(view);
    first.is_some()
        && nodes.iter().filter_map(|node| record.status(*node)).filter(|s| s.view == first).count()
            == nodes.len()
        && nodes
            .iter()
            .filter_map(|node| record.status(*node))
            .all(|status| status.state == QuorumState::Quorate && status.members == nodes)
}

/// A node says that it is quorate.
pub fn is_quorate(record: &Record, node: u32) -> bool {
    record.status(node).is_some_and(|status| status.state != QuorumState::Inquorate)
}

/// One of the nodes runs the service.
pub fn runs_on(record: &Record, nodes: &[u32]) -> bool {
    let states = nodes.iter().filter_map(|node| record.status(*node)?.resources.first());
    states.filter(|resource| resource.state == "running").count() > 0
}

fn has_leases(record: &Record, some: &[u32], others: &[u32]) -> bool {
    let devices = some.iter().chain(others).map(|node| record.status(*node)?.qdevice.as_ref());
    devices
        .into_iter()
        .all(|device| device.is_some_and(|device| device.lease_remaining_ms.is_some()))
}

/// The node's device has been connected again since.
fn is_connected(record: &Record, node: u32, since: Time) -> bool {
    let Some(sample) = record.latest(node) else { return false };
    let device = record.status(node).and_then(|status| status.qdevice.as_ref());
    // A lease that was renewed after the restart: the old one had less left by now.
    let settled = sample.asked > since + Duration::from_millis(1500);
    settled
        && device.is_some_and(|device| {
            device.state.starts_with("connected") && device.lease_remaining_ms > Some(9_000)
        })
}

fn described(record: &Record, nodes: impl Iterator<Item = u32>) -> String {
    let one = |node: u32| match record.status(node) {
        None => format!("node {node} says nothing"),
        Some(status) => {
            let service = status.resources.first();
            let service = service.map_or("", |resource| resource.state.as_str());
            let device = status.qdevice.as_ref();
            let device = device.map_or("none", |device| device.state.as_str());
            format!(
                "node {node} is {:?} in {} ({}), device {device}, service {service}",
                status.state,
                list(&status.members),
                status.reason
            )
        }
    };
    nodes.map(one).collect::<Vec<_>>().join("; ")
}
