//! Four nodes, their arbiter and a gateway as real processes. The arbiter dies, and then a node: the
//! other three have more than half of all votes, and have it fenced by their own word.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::arbiter::certs;
use common::{Daemon, LIMIT, PROGRAM, haguard, stdout};
use haguard::command::demo::samples::{Record, Sampler, now};
use haguard::command::demo::story::{are_one, runs_on};
use haguard::command::demo::verdict::two_sides;
use haguard::command::demo::world::{CLUSTER, Plan, World};
use protocol::times;
use protocol::vote::Algorithm;
use tokio::time::sleep;

/// From one look to the next.
const LOOK: Duration = Duration::from_millis(20);
/// Beside the arbiter's, on the same address.
const GATEWAY_PORT: u16 = 15413;

struct Site {
    world: World,
    sampler: Sampler,
    directory: PathBuf,
    gateway: Daemon,
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
        let arbiter = world.layout().arbiter();
        let address = SocketAddr::new(arbiter.ip(), GATEWAY_PORT);
        let conf = directory.join("corosync.conf");
        let text = fs::read_to_string(&conf).unwrap();
        fs::write(conf, text.replace("haguard {", &format!("haguard {{\n    gateway: {address}")))
            .unwrap();
        world.start_arbiter().unwrap();
        let gateway = gateway(&directory, arbiter, address);
        for node in world.all() {
            world.start_node(node).await.unwrap();
        }
        let sampler = Sampler::start(world.sockets());
        let site = Self { world, sampler, directory, gateway };
        site.wait("the start", |r| are_one(r, &[1, 2, 3, 4]) && runs_on(r, &[4])).await;
        site.wait_gateway("the arbiter", |text| text.contains("\"arbiter\":\"connected\"")).await;
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

    /// `haguard fence list --json`, until it is as wanted.
    async fn wait_gateway(&self, what: &str, so: impl Fn(&str) -> bool) {
        let run = self.directory.join("gateway/run").display().to_string();
        let limit = now() + LIMIT;
        loop {
            let said = stdout(&haguard(&["fence", "list", "--json", "--run-dir", &run]));
            let plain: String = said.chars().filter(|c| !c.is_whitespace()).collect();
            if so(&plain) {
                return;
            }
            assert!(now() < limit, "not in time: {what}: {said}\n{}", self.gateway.log());
            sleep(LOOK).await;
        }
    }

    /// What a node's power switch was told to do, without questions.
    fn told(&self, node: u32) -> Vec<String> {
        let log = fs::read_to_string(self.directory.join(format!("gateway/outlet-{node}.log")));
        let log = log.unwrap_or_default();
        log.lines().filter(|line| matches!(*line, "off" | "on")).map(str::to_owned).collect()
    }
}

/// A gateway's process with a fence agent for each node, whose state is a file.
fn gateway(directory: &Path, arbiter: SocketAddr, address: SocketAddr) -> Daemon {
    let home = directory.join("gateway");
    fs::create_dir_all(&home).unwrap();
    let (authority, out) = (directory.join("ca").display().to_string(), home.display().to_string());
    certs(&["gateway", "--dir", &authority, "--out", &out, "--cluster", CLUSTER]);
    let mut text =
        format!("cluster = \"{CLUSTER}\"\narbiter = \"{arbiter}\"\nlisten = \"{address}\"\n");
    for node in 1..=4 {
        let outlet = home.join(format!("outlet-{node}"));
        let name = outlet.display();
        let script = format!(
            "#!/bin/sh\n\
             while read line; do case $line in action=*) action=${{line#action=}};; esac; done\n\
             echo $action >> {name}.log\n\
             case $action in\n\
             off|on) echo $action > {name}.power;;\n\
             status) read power < {name}.power\n\
             if [ $power = off ]; then echo Status: OFF; exit 2; fi; echo Status: ON;;\n\
             esac\n"
        );
        fs::write(&outlet, script).unwrap();
        fs::write(home.join(format!("outlet-{node}.power")), "on\n").unwrap();
        fs::set_permissions(&outlet, fs::Permissions::from_mode(0o755)).unwrap();
        text += &format!(
            "[devices.outlet-{node}]\nkind = \"agent\"\nprogram = \"{name}\"\n\
             [nodes.{node}]\nlevels = [[\"outlet-{node}\"]]\n"
        );
    }
    fs::write(home.join("gateway.toml"), text).unwrap();
    let mut command = Command::new(PROGRAM);
    command.args(["fence", "gateway", "--config"]).arg(home.join("gateway.toml"));
    command.arg("--state-dir").arg(home.join("state")).arg("--run-dir").arg(home.join("run"));
    command.arg("--tls-ca").arg(home.join("ca.pem"));
    command.arg("--tls-cert").arg(home.join("gateway.pem"));
    command.arg("--tls-key").arg(home.join("gateway-key.pem"));
    Daemon::spawn(&mut command, &home.join("log").display().to_string())
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
    site.wait_gateway("the loss of the arbiter", |text| {
        text.contains("morethanhalfofallvotes") && !text.contains("\"arbiter\":\"connected\"")
    })
    .await;
    let lost = now();
    site.world.kill_node(4).await.unwrap();
    site.wait("the service on another node", |record| {
        are_one(record, &[1, 2, 3]) && runs_on(record, &[1, 2, 3])
    })
    .await;
    let took = now().since(lost);
    assert!(took < times::STOP_PROOF, "before the watchdog's bound, which is no proof: {took:?}");
    assert_eq!(site.told(4), ["off"], "took {took:?}");
    assert!((1..=3).all(|node| site.told(node).is_empty()));
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
