//! Four nodes, their arbiter and a gateway as real processes. The arbiter dies, and then a node: the
//! other three have more than half of all votes, and have it fenced by their own word.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "fence/gateway.rs"]
#[allow(dead_code, reason = "the tests of one gateway use the rest")]
mod gateway;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{LIMIT, PROGRAM};
use gateway::Gateway;
use haguard::command::demo::samples::{Record, Sampler, now};
use haguard::command::demo::story::{are_one, runs_on};
use haguard::command::demo::verdict::two_sides;
use haguard::command::demo::world::{CLUSTER, Plan, World};
use protocol::fence::GatewayStatus;
use protocol::times;
use protocol::vote::Algorithm;
use tokio::time::sleep;

/// From one look to the next.
const LOOK: Duration = Duration::from_millis(20);

struct Site {
    world: World,
    sampler: Sampler,
    directory: PathBuf,
    gateway: Gateway,
}

impl Site {
    async fn start(name: &str, seed: u64) -> Self {
        let directory = std::env::temp_dir().join(format!("haguard-{name}-{}", std::process::id()));
        let plan = Plan {
            program: Path::new(PROGRAM).to_owned(),
            directory: directory.clone(),
            seed: seed * 1000 + u64::from(std::process::id()),
            nodes: 4,
            algorithm: Algorithm::Ffsplit,
            // No bound is a proof here: nothing but the gateway's word lets a service start.
            trust_process_watchdog: false,
        };
        let mut world = World::build(plan).await.unwrap();
        world.start_arbiter().unwrap();
        let (home, authority) = (directory.join("gateway"), directory.join("ca"));
        let mut gateway = Gateway::prepare(&home, &authority, CLUSTER, world.layout().arbiter());
        gateway.write(&gateway.outlets(&[1, 2, 3, 4]));
        gateway.start().await;
        let address = gateway.address();
        let conf = directory.join("corosync.conf");
        let text = fs::read_to_string(&conf).unwrap();
        fs::write(conf, text.replace("haguard {", &format!("haguard {{\n    gateway: {address}")))
            .unwrap();
        for node in world.all() {
            world.start_node(node).await.unwrap();
        }
        let sampler = Sampler::start(world.sockets());
        let site = Self { world, sampler, directory, gateway };
        site.wait("the start", |r| are_one(r, &[1, 2, 3, 4]) && runs_on(r, &[4])).await;
        site
    }

    async fn wait(&self, what: &str, so: impl Fn(&Record) -> bool) {
        let limit = now() + LIMIT;
        while !self.sampler.read(&so) {
            let all = [1, 2, 3, 4].map(|node| self.sampler.read(|r| r.status(node).cloned()));
            let logs = self.directory.join("logs");
            assert!(
                now() < limit,
                "not in time: {what}: see {}; {all:#?}\n{}",
                logs.display(),
                self.gateway.log()
            );
            sleep(LOOK).await;
        }
    }
}

#[tokio::test]
async fn without_the_arbiter_the_majority_has_a_dead_node_fenced_and_takes_over() {
    let mut site = Site::start("fence-majority", 71).await;
    site.world.kill_arbiter().await.unwrap();
    // Its vote has run out everywhere, and nobody needs it.
    site.wait("four votes of five", |record| {
        let four = |node| record.status(node).is_some_and(|status| status.votes.total == 4);
        (1..=4).all(four) && are_one(record, &[1, 2, 3, 4])
    })
    .await;
    let is_lost = |status: &GatewayStatus| {
        let said = serde_json::to_string(status).unwrap();
        said.contains("more than half of all votes") && status.arbiter != "connected"
    };
    site.gateway.until("the loss of the arbiter", is_lost).await;
    let lost = now();
    site.world.kill_node(4).await.unwrap();
    site.wait("the service on another node", |record| {
        are_one(record, &[1, 2, 3]) && runs_on(record, &[1, 2, 3])
    })
    .await;
    let took = now().since(lost);
    assert!(took < times::STOP_PROOF, "before the watchdog's bound, which is no proof: {took:?}");
    assert_eq!(site.gateway.told(4), ["off"], "took {took:?}");
    assert!((1..=3).all(|node| site.gateway.told(node).is_empty()));
    let proven = |record: &Record| {
        let said = |node| record.status(node).and_then(|status| status.fencing.get(&4).cloned());
        (1..=3).all(|node| said(node).is_some_and(|text| text.contains("reads off")))
    };
    site.wait("every member knows the proof", proven).await;
    let journal = site.directory.join("gateway/state/fence.journal");
    let journal = fs::read_to_string(journal).unwrap();
    assert!(journal.contains("\"majority\"") && !journal.contains("\"holder\""), "{journal}");
    let sides = site.sampler.read(|record| two_sides(record.runs()));
    assert!(sides.is_empty(), "two sides: {sides:?}");
    drop(site.gateway);
    let wrong = site.world.end(Duration::from_secs(20)).await;
    assert!(wrong.is_empty(), "{wrong:?}");
    drop(site.world);
    fs::remove_dir_all(site.directory).unwrap();
}
