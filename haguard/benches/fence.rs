//! From a node's request to its proof, with all that is between: HTTPS with the node's certificate,
//! the gateway's journal on disk, the arbiter's journal, IPMI, and off read back in a session of its
//! own. In turns with fence_ipmilan on the same ipmi_sim, which only sends the command.
//!
//! `cargo bench -p haguard --bench fence`: needs Debian's openipmi, ipmitool and fence-agents.

#![expect(clippy::unwrap_used, reason = "a measurement ends where it goes wrong")]

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../tests/fence/gateway.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod gateway;
#[path = "../tests/fence/lab.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod lab;
#[path = "../tests/fence/light.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod light;
#[path = "../tests/fence/sim.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod sim;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use haguard::command::demo::samples::now;
use haguard::screen::say;
use http_body_util::Full;
use protocol::fence::Progress;
use protocol::ids::NodeId;

use common::LIMIT;
use lab::Lab;
use sim::{PASSWORD, Sim, USER};

const ROUNDS: usize = 20;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    if !std::env::args().any(|word| word == "--bench") {
        // `cargo test --all-targets` comes by.
        say("fence: run with cargo bench -p haguard --bench fence");
        return;
    }
    if !sim::is_installed() {
        return;
    }
    let mut lab = Lab::start("fence-bench").await;
    let sim = Sim::start("bench", "127.78.0.9", "a123456789abcdefa123456789abcd09").await;
    lab.powered_by(2, sim.power());
    let password = lab.gateway.home.join("password");
    fs::write(&password, PASSWORD).unwrap();
    fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).unwrap();
    lab.gateway.write(&format!(
        "[devices.bmc]\nkind = \"ipmi\"\naddress = \"{}\"\nuser = \"{USER}\"\n\
         password-file = \"password\"\n[nodes.2]\nlevels = [[\"bmc\"]]\n",
        sim.address
    ));
    lab.gateway.start().await;
    lab.gateway.until("a device that is ready", |status| status.devices["bmc"].ready).await;
    let mut took = [const { Vec::new() }; 4];
    for _ in 0..ROUNDS {
        for (at, lost) in [(0, true), (1, false)] {
            took[at].push(ours(&mut lab, lost).await);
            back(&mut lab, &sim).await;
        }
        for (at, more) in [(2, &["--power-wait=0"][..]), (3, &[])] {
            took[at].push(fence_ipmilan(&sim, more));
            sim.chassis(&["set", "power", "1"]);
        }
        // Without power for a moment, its device had ended.
        lab.boot(2).await;
        lab.unite().await;
    }
    say(&format!("off to proof on ipmi_sim, {ROUNDS} of each in turns       min  median     max"));
    let names = [
        "haguard, a lost node, from request to proof",
        "haguard, a living one",
        "fence_ipmilan -C 3 --power-wait=0",
        "fence_ipmilan -C 3",
    ];
    for (name, mut took) in names.into_iter().zip(took) {
        took.sort();
        let [min, median, max] = [0, ROUNDS / 2, ROUNDS - 1].map(|at| millis(took[at]));
        say(&format!("{name:<44} {min} {median} {max}"));
    }
}

/// Node 1 has the vote after a split, and asks for node 2. Of one that is `lost` the arbiter has heard
/// nothing for a while; of a living one it has, and takes the proof once it is quiet for 500 ms.
async fn ours(lab: &mut Lab, lost: bool) -> Duration {
    lab.split().await;
    if lost {
        lab.nodes.remove(&2);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let request = gateway::off(NodeId(1), lab.epoch(1), NodeId(2));
    let body = Full::new(Bytes::from(serde_json::to_vec(&request).unwrap()));
    let post = hyper::Request::post("/v1/fence").header("host", "gateway").body(body).unwrap();
    let before = now();
    let mut lines = lab.way(1).await.lines(post, LIMIT).await.unwrap();
    let mut took = None;
    // With the proof the node goes on; the end of the job is the arbiter's and the gateway's.
    while let Some(line) = lines.next(LIMIT).await.unwrap() {
        let said = serde_json::from_slice(&line).unwrap();
        if let Progress::Off { .. } = said {
            took = took.or(Some(now().since(before)));
        }
    }
    took.unwrap_or_else(|| panic!("no proof; {}", lab.gateway.log()))
}

/// The machine runs again, and both nodes are one.
async fn back(lab: &mut Lab, sim: &Sim) {
    assert!(sim.machine().is_empty(), "the machine runs on");
    sim.chassis(&["set", "power", "1"]);
    lab.boot(2).await;
    lab.unite().await;
}

fn fence_ipmilan(sim: &Sim, more: &[&str]) -> Duration {
    let mut command = Command::new("fence_ipmilan");
    command.args(["-a", &sim.address, "-l", USER, "-p", PASSWORD, "-P", "-C", "3"]);
    command.args(more).args(["-o", "off"]).stdin(Stdio::null()).stdout(Stdio::null());
    let before = now();
    let ended = command.stderr(Stdio::null()).status().unwrap();
    let took = now().since(before);
    assert!(ended.success() && sim.machine().is_empty(), "fence_ipmilan: {ended}");
    took
}

fn millis(duration: Duration) -> String {
    format!("{:>6.1}ms", duration.as_secs_f64() * 1000.0)
}
