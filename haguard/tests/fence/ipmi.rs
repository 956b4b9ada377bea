//! A gateway's process and OpenIPMI's ipmi_sim, whose power switch ends real processes.

use std::fs;
use std::net::UdpSocket;
use std::path::Path;

use haguard::command::demo::processes;
use haguard::command::demo::samples::now;
use protocol::fence::{How, Outcome};

use super::common::cluster::Cluster;
use super::common::{LIMIT, PROGRAM, haguard, stdout};
use super::gateway::{Gateway, ask_and_leave, off, says};
use super::lab::Lab;
use super::sim::{self, PASSWORD, Sim, USER};
use super::{LOOK, ONE, TWO, epoch, prepare};

const GUID: &str = "a123456789abcdefa123456789abcd01";
const OTHER_GUID: &str = "b123456789abcdefb123456789abcd02";

/// The file's part about node 2, whose BMC is this one; `more` are settings of the device.
fn bmc(gateway: &Gateway, name: &str, address: &str, more: &str) -> String {
    fs::write(gateway.home.join("password"), PASSWORD).unwrap();
    fs::write(gateway.home.join("wrong-password"), "something else").unwrap();
    for file in ["password", "wrong-password"] {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::Permissions::from_mode(0o600);
        fs::set_permissions(gateway.home.join(file), mode).unwrap();
    }
    let password = if more.contains("password-file") { "" } else { "password-file = \"password\"" };
    format!(
        "rehearse-every = \"10s\"\n\
         [devices.{name}]\nkind = \"ipmi\"\naddress = \"{address}\"\nuser = \"{USER}\"\n\
         settle = \"1s\"\n{password}\n{more}\n[nodes.2]\nlevels = [[\"{name}\"]]\n"
    )
}

/// The reason is in the answer, in the history and in the status.
async fn is_said_everywhere(gateway: &Gateway, (lines, outcome): (String, Outcome), words: &str) {
    let Outcome::Failed { why } = &outcome else { panic!("not {words}: {outcome:?}") };
    assert!(why.contains(words), "not {words}: {why}");
    assert!(why.contains("haguard fence confirm"), "and what to do: {why}");
    assert!(lines.contains(words), "not {words} on the way: {lines}");
    // That it has failed is nothing to wait for the disk with.
    let limit = now() + LIMIT;
    loop {
        let history = gateway.history().await;
        let last = history.iter().rfind(|line| line.contains("\"ended\"")).cloned();
        if last.as_ref().is_some_and(|last| last.contains(words)) {
            break;
        }
        assert!(now() < limit, "not {words} in the history: {last:?}");
        tokio::time::sleep(LOOK).await;
    }
    let status = gateway.status().await;
    assert_eq!(status.nodes[&2].last.as_ref(), Some(&outcome));
    assert!(status.alarms.iter().any(|line| line.contains(words)), "{:?}", status.alarms);
    // And to people.
    let run = gateway.home.join("run").display().to_string();
    let list = stdout(&haguard(&["fence", "list", "--run-dir", &run]));
    assert!(list.contains("node 2 is not proven off"), "{list}");
}

/// Off for node 2, for the side of node 1, which has the vote: asked again while what its status says
/// is older than that.
async fn entitled(gateway: &Gateway, cluster: &Cluster) -> (String, Outcome) {
    let limit = now() + LIMIT;
    loop {
        let answer = gateway.fence(off(ONE, epoch(cluster, 1), TWO)).await;
        if !says(&answer.1, "the request is of epoch") {
            return answer;
        }
        assert!(now() < limit, "{answer:?}; {}", cluster.story());
        tokio::time::sleep(LOOK).await;
    }
}

#[tokio::test]
async fn a_living_node_is_ended_by_its_bmc_and_every_bad_bmc_is_named() {
    if !sim::is_installed() {
        return;
    }
    let mut cluster = Cluster::start("gateway-ipmi", 63, false).await;
    let sim = Sim::start("whole", "127.78.0.1", GUID).await;
    let home = cluster.directory.join("node2");
    let node = || processes::of(Path::new(PROGRAM), &home);
    let is_machine = || {
        let all: Vec<i32> = node().into_iter().collect();
        assert!(all.len() >= 2, "a node and its device: {all:?}");
        sim.is_of(&all);
    };
    sim.end_machine();
    is_machine();
    let mut gateway = prepare(&cluster);
    let wrong = bmc(&gateway, "wrong", &sim.address, "password-file = \"wrong-password\"");
    gateway.write(&wrong);
    gateway.start().await;
    cluster.world.split(&[1], &[2]).await.unwrap();
    cluster.done.push("split;".to_owned());
    cluster.grant_that("node 1 alone", |grant| grant.holder == [1]).await;
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let silent_at = silent.local_addr().unwrap().to_string();
    for (name, address, more, words) in [
        ("wrong", sim.address.as_str(), "password-file = \"wrong-password\"", "login refused"),
        ("absent", "127.78.0.99", "limit = \"1s\"", "absent: no answer within"),
        ("silent", silent_at.as_str(), "limit = \"1s\"", "silent: no answer within"),
        ("stranger", sim.address.as_str(), &format!("guid = \"{OTHER_GUID}\""), "another device"),
        ("lies", sim.address.as_str(), "", "accepted the command and still read on"),
    ] {
        gateway.reload(&bmc(&gateway, name, address, more)).await;
        if name == "lies" {
            sim.set("lies", true);
        }
        let failed = entitled(&gateway, &cluster).await;
        is_said_everywhere(&gateway, failed, words).await;
    }
    assert!(cluster.world.fallen().is_none(), "nothing has happened to it");
    assert!(cluster.grant().await.unwrap().confirmed_off.is_empty());
    // The same BMC without a fault. What the node has stopped or started meanwhile is its own.
    sim.set("lies", false);
    is_machine();
    let outcome = entitled(&gateway, &cluster).await.1;
    let Outcome::Off { proof } = &outcome else { panic!("{outcome:?}; {}", cluster.story()) };
    assert_eq!((proof.node, &proof.how), (TWO, &How::ReadOff));
    assert_eq!(sim.machine(), [0; 0]);
    assert!(node().is_empty(), "no process of node 2 lives: {:?}", node());
    cluster.world.kill_node(2).await.unwrap();
    cluster.done.push("node 2 was ended by its BMC;".to_owned());
    cluster
        .grant_that("node 1 alone, node 2 off", |grant| {
            grant.holder == [1] && grant.confirmed_off == [2]
        })
        .await;
    assert!(gateway.status().await.alarms.is_empty(), "{:?}", gateway.status().await.alarms);
    assert!(!gateway.log().contains(PASSWORD) && !gateway.log().contains("something else"));
    drop(gateway);
    cluster.end().await;
}

/// Node 2's machine, its BMC, and a gateway that knows them; node 1 has the vote.
async fn lab(name: &str, address: &str) -> (Lab, Sim) {
    let mut lab = Lab::start(name).await;
    let sim = Sim::start(name, address, GUID).await;
    lab.powered_by(2, sim.power());
    lab.gateway.write(&bmc(&lab.gateway, "bmc", &sim.address, ""));
    lab.gateway.start().await;
    is_ready(&lab.gateway).await;
    lab.split().await;
    (lab, sim)
}

async fn is_ready(gateway: &Gateway) {
    gateway.until("a device that is ready", |status| status.devices["bmc"].ready).await;
}

#[tokio::test]
async fn a_gateway_killed_in_the_middle_of_an_off_asks_the_bmc_what_is_true() {
    if !sim::is_installed() {
        return;
    }
    let (mut lab, sim) = lab("fence-killed", "127.78.0.2").await;
    // The command is never done, or it is done while nobody is there.
    for (fault, reads) in [(Some("lies"), "bmc read on now"), (None, "the node reads off now")] {
        let before = sim.orders_off();
        sim.set("hangs", true);
        let left = ask_and_leave(&lab.gateway, off(ONE, lab.epoch(1), TWO));
        let limit = now() + LIMIT;
        while sim.orders_off() == before {
            assert!(now() < limit, "no command; {}", lab.gateway.log());
            tokio::time::sleep(LOOK).await;
        }
        lab.gateway.kill();
        assert!(!left.await.unwrap().iter().any(|line| line.contains("\"done\"")));
        fault.into_iter().for_each(|fault| sim.set(fault, true));
        sim.set("hangs", false);
        while sim.chassis(&["get", "power"]).trim()
            != format!("power:{}", u8::from(fault.is_some()))
        {
            assert!(now() < limit, "the switch does not go on");
            tokio::time::sleep(LOOK).await;
        }
        let commands = sim.orders_off();
        lab.gateway.start().await;
        let why = |status: &protocol::fence::GatewayStatus| match status.nodes[&2].last.clone() {
            Some(Outcome::Failed { why }) => why,
            Some(
                Outcome::Off { .. }
                | Outcome::Rebooted { .. }
                | Outcome::On
                | Outcome::Refused { .. },
            )
            | None => String::new(),
        };
        lab.gateway.until("the true state", |status| why(status).contains(reads)).await;
        let said = why(&lab.gateway.status().await);
        assert!(said.contains("interrupted after its first command"), "{said}");
        assert_eq!(sim.orders_off(), commands, "nothing is taken up again");
        let history = lab.gateway.history().await;
        assert!(!history.iter().any(|line| line.contains("\"proven\"")), "{history:#?}");
        assert!(lab.grant().confirmed_off.is_empty(), "what is read is no proof");
        fault.into_iter().for_each(|fault| sim.set(fault, false));
    }
    // Whoever asked asks again.
    let (lines, outcome) = lab.off().await;
    assert!(matches!(outcome, Outcome::Off { .. }), "{lines}");
    assert_eq!((sim.machine(), lab.grant().confirmed_off), (Vec::new(), vec![2]));
}

#[tokio::test]
async fn power_that_returns_by_itself_is_no_proof_and_later_an_alarm() {
    if !sim::is_installed() {
        return;
    }
    let (lab, sim) = lab("fence-returns", "127.78.0.3").await;
    // It is on again before anybody can read it off.
    sim.set("returns", true);
    let first = sim.machine();
    let failed = lab.off().await;
    is_said_everywhere(&lab.gateway, failed, "still read on").await;
    assert_ne!(sim.machine(), first, "it was off for a moment");
    assert!(lab.grant().confirmed_off.is_empty());
    // It is off and proven, and somebody gives it power.
    sim.set("returns", false);
    let (lines, outcome) = lab.off().await;
    assert!(matches!(outcome, Outcome::Off { .. }), "{lines}");
    sim.chassis(&["set", "power", "1"]);
    let alarm = "node 2 was proven off and bmc reads on";
    let said = |status: &protocol::fence::GatewayStatus| {
        status.alarms.iter().any(|line| line.starts_with(alarm))
    };
    lab.gateway.until(alarm, said).await;
}

#[tokio::test]
async fn another_machines_bmc_at_the_address_is_cut_neither_before_nor_after_a_restart() {
    if !sim::is_installed() {
        return;
    }
    let (mut lab, mut sim) = lab("fence-stranger", "127.78.0.4").await;
    sim.kill();
    let other = Sim::start("fence-other", "127.78.0.4", OTHER_GUID).await;
    for life in ["before", "after"] {
        let failed = lab.off().await;
        is_said_everywhere(&lab.gateway, failed, "another device answers at this address").await;
        assert_eq!(other.orders_off(), 0, "{life} a restart");
        assert!(!other.machine().is_empty() && !sim.machine().is_empty());
        if life == "before" {
            lab.gateway.kill();
            lab.gateway.start().await;
        }
    }
    // Once it is said that this is the one, it is.
    let known = format!("guid = \"{OTHER_GUID}\"");
    lab.powered_by(2, other.power());
    lab.gateway.reload(&bmc(&lab.gateway, "bmc", &other.address, &known)).await;
    let (lines, outcome) = lab.off().await;
    assert!(matches!(outcome, Outcome::Off { .. }), "{lines}");
    assert!(other.machine().is_empty());
}
