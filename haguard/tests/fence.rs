//! The gateway, the arbiter and two nodes as real processes. The lost node's power switch is a shell
//! script, or OpenIPMI's ipmi_sim, whose power command ends the node's processes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "fence/disk.rs"]
mod disk;
#[path = "fence/duel.rs"]
mod duel;
#[path = "fence/gateway.rs"]
mod gateway;
#[path = "fence/ipmi.rs"]
mod ipmi;
#[path = "fence/lab.rs"]
mod lab;
#[path = "fence/light.rs"]
mod light;
#[path = "../../fence/tests/daemon/nameless.rs"]
mod nameless;
#[path = "fence/process.rs"]
mod process;
#[path = "fence/sim.rs"]
mod sim;

use common::LIMIT;
use common::cluster::Cluster;
use gateway::{Gateway, says};
use haguard::command::demo::samples::now;
use haguard::command::demo::world::CLUSTER;
use protocol::fence::{How, Outcome};
use protocol::ids::{Epoch, NodeId};
use tokio::time::{Duration, sleep};

/// From one look to the next.
const LOOK: Duration = Duration::from_millis(20);

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);

/// The gateway of a cluster; its file is still to be written.
fn prepare(cluster: &Cluster) -> Gateway {
    let (home, authority) = (cluster.directory.join("gateway"), cluster.directory.join("ca"));
    Gateway::prepare(&home, &authority, CLUSTER, cluster.world.layout().arbiter())
}

/// One that runs, with an outlet for each node.
async fn start(cluster: &Cluster) -> Gateway {
    let mut gateway = prepare(cluster);
    gateway.write(&gateway.outlets(&[1, 2]));
    gateway.start().await;
    gateway
}

fn epoch(cluster: &Cluster, node: u32) -> Option<Epoch> {
    cluster.sampler.read(|record| record.status(node).map(|status| Epoch(status.epoch)))
}

#[tokio::test]
async fn an_arbiter_without_nodes_entitles_nobody() {
    let mut cluster = Cluster::build("gateway-alone", 62, false).await;
    cluster.world.start_arbiter().unwrap();
    let gateway = start(&cluster).await;
    let refused = gateway.off(ONE, None, TWO).await;
    assert!(says(&refused, "no live connection"), "{refused:?}");
    assert_eq!(gateway.told(2), [""; 0]);
    drop(gateway);
    let wrong = cluster.world.end(Duration::from_secs(20)).await;
    assert!(wrong.is_empty(), "{wrong:?}");
    cluster.remove();
}

#[tokio::test]
async fn a_lost_node_is_proven_off_and_the_arbiter_ends_its_bound() {
    let mut cluster = Cluster::start("gateway", 61, false).await;
    let gateway = start(&cluster).await;
    let before = epoch(&cluster, 1);
    // Nobody is lost: both are of one side.
    let refused = gateway.off(ONE, before, TWO).await;
    assert!(matches!(refused, Outcome::Refused { .. }), "{refused:?}");
    assert_eq!(gateway.told(2), [""; 0]);
    cluster.world.kill_node(2).await.unwrap();
    cluster.done.push("node 2 lost its power;".to_owned());
    // Until the arbiter has chosen node 1, it says so and nothing is cut.
    let limit = now() + LIMIT;
    let outcome = loop {
        match gateway.off(ONE, epoch(&cluster, 1), TWO).await {
            Outcome::Refused { why } => assert!(now() < limit, "{why}; {}", cluster.story()),
            other @ (Outcome::Off { .. }
            | Outcome::Rebooted { .. }
            | Outcome::On
            | Outcome::Failed { .. }) => break other,
        }
        sleep(LOOK).await;
    };
    let Outcome::Off { proof } = &outcome else { panic!("{outcome:?}; {}", cluster.story()) };
    assert_eq!((proof.node, &proof.how), (TWO, &How::ReadOff));
    assert_eq!((gateway.told(2), gateway.told(1)), (vec!["off".to_owned()], Vec::new()));
    let grant = cluster
        .grant_that("node 1 alone, node 2 off", |grant| {
            grant.holder == [1] && grant.confirmed_off == [2]
        })
        .await;
    // Who speaks of an old epoch is refused, and so is who is not there.
    assert!(Some(Epoch(grant.epoch)) > before, "{grant:?}");
    let stale = gateway.off(ONE, before, TWO).await;
    assert!(says(&stale, "epoch"), "{stale:?}");
    let dead = gateway.off(TWO, None, ONE).await;
    assert!(says(&dead, "no live connection"), "{dead:?}");
    assert_eq!(gateway.told(1), [""; 0]);
    drop(gateway);
    cluster.end().await;
}
