//! `fence_haguard` and `haguard fence` as Pacemaker and people call them: real processes of a
//! gateway, an arbiter and two nodes, and a power switch that really ends a node's processes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "fence_agent/site.rs"]
mod site;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::{Scratch, called_as, left_out, stdout};
use haguard::command::demo::samples::now;
use haguard::command::demo::story::{are_one, runs_on};
use serde_json::Value;
use site::{Said, Site};

/// What fence-agents describes an agent's metadata by, and the program that checks it.
const SCHEMA: &str = "/usr/share/cluster/relaxng/metadata.rng";
const XMLLINT: &str = "/usr/bin/xmllint";

#[test]
fn metadata_is_what_the_fence_agents_schema_describes() {
    let scratch = Scratch::new("fence-metadata");
    let agent = scratch.root().join("fence_haguard");
    std::os::unix::fs::symlink(common::PROGRAM, &agent).unwrap();
    let output = called_as(&agent, &["-o", "metadata"]);
    assert_eq!(output.status.code(), Some(0));
    let file = scratch.path("metadata.xml");
    fs::write(&file, stdout(&output)).unwrap();
    if let Some(missing) = [SCHEMA, XMLLINT].into_iter().find(|path| !Path::new(path).exists()) {
        assert!(std::env::var_os("CI").is_none(), "{missing} is missing");
        left_out(&format!("{missing} is missing: install fence-agents and libxml2-utils"));
        return;
    }
    let checked =
        Command::new(XMLLINT).args(["--noout", "--relaxng", SCHEMA, &file]).output().unwrap();
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(checked.status.success(), "{said}");
}

#[test]
fn what_makes_no_sense_fails_and_says_why() {
    let scratch = Scratch::new("fence-nonsense");
    let agent = scratch.root().join("fence_haguard");
    std::os::unix::fs::symlink(common::PROGRAM, &agent).unwrap();
    let nowhere = format!("--run-dir={}", scratch.path("run"));
    let cases: [(&[&str], &str); 5] = [
        (&["-o", "explode"], "unknown action explode"),
        (&["-o", "off"], "no target"),
        (&["-o", "off", "-n", "n2"], "pcmk_host_map"),
        (&["-o", "off", "-n", "2", &nowhere], "no gateway runs here"),
        (&["-o", "monitor", &nowhere], "no gateway runs here"),
    ];
    for (args, why) in cases {
        let output = called_as(&agent, args);
        let said = common::stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.starts_with("fence_haguard: ") && said.contains(why), "{args:?}: {said}");
    }
}

/// It ended with this exit code, and said this.
#[track_caller]
fn is(said: &Said, code: i32, words: &str) {
    assert!(said.code == Some(code) && said.text.contains(words), "{code} {words:?}: {said:?}");
}

/// Asks until the arbiter has chosen this side, for as long as it has not.
async fn until_done(site: &Site, action: &str, node: u32, target: u32) -> Said {
    let limit = now() + common::LIMIT;
    loop {
        let said = site.agent_of(node, action, Some(target)).await;
        if said.code == Some(0) {
            return said;
        }
        assert!(said.text.contains("refused: "), "{said:?} {}", site.cluster.story());
        assert!(now() < limit, "{said:?} {}", site.cluster.story());
    }
}

/// The questions, while all is well.
async fn asks(site: &Site) {
    is(&site.agent("action=monitor").await, 0, "");
    is(&site.agent("action=validate-all").await, 0, "");
    is(&site.agent("action=list").await, 0, "1,\n2,\n");
    // fenced names the target by its name, too, and sends options that only other agents know.
    let status = "action=status\nnodename=n2\nplug=2\nverbose=1";
    is(&site.agent(status).await, 0, "Status: ON\n");
    is(&site.agent_of(1, "status", Some(2)).await, 0, "Status: ON\n");
    is(&site.agent_of(1, "monitor", None).await, 0, "");
    is(&site.fence(&["status", "2"]).await, 0, "node 2: on\n");
    is(&site.fence(&["status", "7"]).await, 1, "the gateway knows no node 7; it knows 1, 2");
    let list = site.fence(&["list", "--json"]).await;
    let status: Value = serde_json::from_str(&list.text).unwrap();
    assert_eq!(status["devices"]["outlet-2"]["power"], "on", "{list:?}");
    is(&list, 0, "");
    is(&site.fence(&["test", "2"]).await, 0, "a real fence would take about");
    // Nobody is lost: both are of one side. An operator has to say for which.
    let own = "node 2: refused: node 2 is of the requester's own side";
    is(&site.agent_of(1, "off", Some(2)).await, 1, own);
    is(&site.fence(&["off", "2"]).await, 1, "name a node of it with --for NODE");
    is(&site.fence(&["off", "2", "--for", "1"]).await, 1, own);
    // A node's certificate is for that node's side only.
    let stranger = site.agent(&(site.https(2) + "\naction=off\nplug=2\nrequester=1")).await;
    is(&stranger, 1, "the gateway refuses: ");
    // The same from a node's host, whose certificate says for which side.
    is(&site.fence_from(1, &["list"]).await, 0, "cluster demo, arbiter connected\n");
    is(&site.fence_from(1, &["off", "2"]).await, 1, own);
    is(&site.fence_from(1, &["history"]).await, 0, own);
    assert_eq!(site.told(2), [""; 0], "{stranger:?}");
}

/// What stays of all that in the journal.
async fn remembers(site: &Site) {
    let history = site.fence(&["history"]).await;
    is(&history, 0, ": refused: node 2 is of the requester's own side");
    is(&history, 0, "node 1 asks for off of node 2: a cluster manager asks");
    is(&history, 0, "node 2 is off: it was read back");
    let lines = site.fence(&["history", "--json"]).await;
    is(&lines, 0, "");
    let records: Vec<Value> =
        lines.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(records.len(), history.text.lines().count());
    let last = records.last().unwrap()["seq"].as_u64().unwrap();
    assert_eq!(u64::try_from(records.len()).unwrap(), last);
    let rest = site.fence(&["history", "--since", &last.to_string()]).await;
    assert_eq!(rest.text.lines().count(), 1, "{rest:?}");
    is(&site.verify(&site.state()).await, 0, "records is whole");
    // One letter is another in a copy.
    let copy = site.state().join("copy");
    fs::create_dir(&copy).unwrap();
    let text = fs::read_to_string(site.state().join(fence::journal::NAME)).unwrap();
    let changed = text.replacen("a cluster manager asks", "a cluster manager ask5", 1);
    assert_ne!(text, changed);
    fs::write(copy.join(fence::journal::NAME), changed).unwrap();
    is(&site.verify(&copy).await, 1, "the chain breaks here");
}

#[tokio::test]
async fn the_side_with_the_vote_cuts_the_other_off_and_gives_it_power_again() {
    let mut site = Site::start("fence-agent", 71).await;
    asks(&site).await;

    site.cluster.world.split(&[1], &[2]).await.unwrap();
    site.cluster.done.push("the nodes were cut apart;".to_owned());
    site.cluster.grant_that("node 1 alone", |grant| grant.holder == [1]).await;
    let refused = site.agent_of(2, "off", Some(1)).await;
    is(&refused, 1, "node 1: refused: ");
    is(&refused, 1, "has not the vote; it is with node 1");
    assert_eq!((site.told(1), site.processes(2) > 0), (Vec::new(), true), "{refused:?}");

    let off = until_done(&site, "off", 1, 2).await;
    is(&off, 0, "Success: node 2: off, read back\n");
    assert_eq!(site.processes(2), 0, "{}", site.cluster.story());
    is(&site.agent_of(1, "status", Some(2)).await, 2, "Status: OFF\n");
    is(&site.fence(&["status", "2", "--json"]).await, 2, "\"off\"");
    site.cluster.grant_that("node 2 proven off", |grant| grant.confirmed_off == [2]).await;

    // The rest of what a node without power is.
    site.cluster.world.kill_node(2).await.unwrap();
    is(&site.agent_of(1, "on", Some(2)).await, 0, "Success: node 2: has power\n");
    is(&site.agent_of(1, "status", Some(2)).await, 0, "Status: ON\n");
    site.cluster.world.heal().await.unwrap();
    site.cluster.world.start_node(2).await.unwrap();
    site.cluster.wait("both again", |record| are_one(record, &[1, 2])).await;

    site.cluster.world.kill_node(2).await.unwrap();
    let reboot = until_done(&site, "reboot", 1, 2).await;
    is(&reboot, 0, "Success: node 2: was off, read back; has power again\n");
    assert_eq!(site.told(2), ["off", "on", "off", "on"], "{reboot:?}");
    assert_eq!(site.told(1), [""; 0]);

    remembers(&site).await;
    site.end().await;
}

#[tokio::test]
async fn a_node_whose_switch_is_stuck_is_confirmed_by_hand() {
    let mut site = Site::start("fence-stuck", 72).await;
    site.cluster.wait("the service", |record| runs_on(record, &[1, 2])).await;
    let said = ["confirm", "2", "--by", "ann", "--why", "I have pulled its plug", "--for", "1"];
    is(&site.fence(&said).await, 1, "node 2: refused: node 2 is of the requester's own side");
    site.cluster.world.kill_node(2).await.unwrap();
    site.cluster.done.push("node 2 lost its power;".to_owned());
    site.cluster.grant_that("node 1 alone", |grant| grant.holder == [1]).await;
    fs::write(site.outlet(2, "stuck"), "").unwrap();

    let failed = site.agent_of(1, "off", Some(2)).await;
    is(&failed, 1, "node 2: failed: ");
    is(&failed, 1, "haguard fence confirm 2");
    is(&site.agent_of(1, "status", Some(2)).await, 1, "cannot be read");
    is(&site.agent_of(1, "monitor", None).await, 1, "outlet-2");
    is(&site.fence(&["status", "2"]).await, 1, "node 2: unknown\n");
    is(&site.fence(&["list"]).await, 2, "alarm: device outlet-2 of node 2 would not work now");
    is(&site.fence(&["test", "2"]).await, 1, "outlet-2");
    let json = site.fence(&["off", "2", "--for", "1", "--json"]).await;
    let last: Value = serde_json::from_str(json.text.lines().last().unwrap()).unwrap();
    assert_eq!(last["results"]["2"]["result"], "failed", "{json:?}");
    is(&json, 1, "\"what\":\"done\"");

    let confirmed = site.fence(&said).await;
    is(&confirmed, 0, "node 2: off, confirmed by ann: I have pulled its plug\n");
    site.cluster.grant_that("node 2 proven off", |grant| grant.confirmed_off == [2]).await;
    is(&site.fence(&["history"]).await, 0, "node 2 is off: ann says so: I have pulled its plug");
    assert!(!site.told(1).contains(&"off".to_owned()));
    site.end().await;
}
