//! The guarded service and the keeper that runs it.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protocol::status::NodeStatus;

use crate::device::{Device, view_of};
use crate::site::{PATIENCE, Running, Site, keeper_of, lives, pair, poll};

/// A service that says when it starts and which process it is, and lives until it is ended.
fn guarded(site: &Site) -> String {
    let log = site.path("service.log");
    format!(
        " watchdog: process\n trust_process_watchdog: yes\n service {{\n  name: web\n  command: \
         echo $HAGUARD_SERVICE $HAGUARD_CLUSTER $HAGUARD_NODE $HAGUARD_EPOCH $$ >> {} && exec \
         sleep 1000\n  prefer: 2\n }}",
        log.display()
    )
}

/// What the services have said: name, cluster, node, epoch, process.
fn said(site: &Site) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(site.path("service.log")).unwrap_or_default();
    text.lines().map(|line| line.split(' ').map(str::to_owned).collect()).collect()
}

/// Waits until there have been so many starts: one is reported before its shell has spoken.
async fn starts(site: &Site, count: usize) -> Vec<Vec<String>> {
    let enough = || async { Some(said(site)).filter(|said| said.len() >= count) };
    let said = poll(PATIENCE, "a start", enough).await;
    assert_eq!(said.len(), count, "{said:?}");
    said
}

fn runs(status: &NodeStatus) -> bool {
    status.resources.first().is_some_and(|resource| resource.state == "running")
}

async fn guarded_pair(site: &Site) -> [Running; 2] {
    site.configure(2, &guarded(site));
    let nodes = pair(site).await;
    nodes[1].until(PATIENCE, "the service runs on 2", runs).await;
    starts(site, 1).await;
    nodes
}

#[tokio::test]
async fn a_service_runs_once_where_it_is_preferred_and_knows_its_epoch() {
    let site = Site::new();
    let [one, two] = guarded_pair(&site).await;
    let status = two.status().await.unwrap();
    assert_eq!((&*status.watchdog.device, &*status.watchdog.class), ("process", "C"));
    assert!(status.watchdog.armed);
    let said = said(&site);
    assert_eq!(said.len(), 1, "{said:?}");
    assert_eq!(said[0][..3], ["web", "c", "2"]);
    assert_eq!(said[0][3], status.resources[0].epoch.unwrap().to_string());
    assert!(lives(&said[0][4]));
    let elsewhere = one.status().await.unwrap();
    assert_eq!(
        (elsewhere.resources[0].node, &*elsewhere.resources[0].state),
        (Some(2), "elsewhere")
    );
}

#[tokio::test]
async fn a_service_that_dies_is_started_again() {
    let site = Site::new();
    let [_one, _two] = guarded_pair(&site).await;
    let first = said(&site)[0][4].clone();
    kill(Pid::from_raw(first.parse().unwrap()), Signal::SIGKILL).unwrap();
    let said = starts(&site, 2).await;
    assert!(!lives(&first) && lives(&said[1][4]));
}

#[tokio::test]
async fn a_node_that_leaves_stops_its_service_and_its_keeper_first() {
    let site = Site::new();
    let [_one, two] = guarded_pair(&site).await;
    let service = said(&site)[0][4].clone();
    let keeper = keeper_of(&two.run_dir).unwrap();
    assert_eq!(two.ask("leave\n").await.as_deref(), Some("ok"));
    tokio::time::timeout(PATIENCE, two.task).await.unwrap().unwrap().unwrap();
    assert!(!lives(&service));
    assert!(!lives(&keeper.to_string()));
}

#[tokio::test]
async fn after_a_loss_the_service_starts_on_the_survivor_when_the_bound_has_passed() {
    let site = Site::new();
    let [one, two] = guarded_pair(&site).await;
    let service = said(&site)[0][4].clone();
    let mut device = Device::connect(&one.run_dir).await;
    device.register().await;
    device.hear("view").await;
    two.kill().await;
    let alone = device.hear("view").await;
    device.poll(1, view_of(&alone), 50, Duration::from_secs(30)).await;
    let waiting = one.until(PATIENCE, "quorate alone", |s| s.quorate).await;
    assert!(waiting.fencing[&2].contains("the bound of node 2"), "{:?}", waiting.fencing);
    // The keeper of node 2 outlives its daemon, and ends the service in time.
    poll(PATIENCE, "the service has ended on 2", || async { (!lives(&service)).then_some(()) })
        .await;
    assert_eq!(said(&site).len(), 1, "no second start before the first has ended");
    one.until(PATIENCE, "the service runs on 1", runs).await;
    let said = starts(&site, 2).await;
    assert_eq!((&*said[1][2], &*said[1][3]), ("1", "50"));
}

#[tokio::test]
async fn a_daemon_that_comes_back_finds_its_keeper_and_starts_anew() {
    let site = Site::new();
    let [_one, two] = guarded_pair(&site).await;
    let keeper = keeper_of(&two.run_dir);
    two.kill().await;
    let two = site.restart(2).await;
    two.until(PATIENCE, "the service runs again on 2", runs).await;
    assert_eq!(keeper_of(&two.run_dir), keeper);
    let said = starts(&site, 2).await;
    assert!(!lives(&said[0][4]) && lives(&said[1][4]));
}

#[tokio::test]
async fn without_its_keeper_a_node_proves_nothing_until_there_is_a_new_one() {
    let site = Site::new();
    let [_one, two] = guarded_pair(&site).await;
    let service = said(&site)[0][4].clone();
    let keeper = keeper_of(&two.run_dir).unwrap();
    kill(keeper, Signal::SIGKILL).unwrap();
    let lost = two.until(PATIENCE, "class D", |s| s.watchdog.class == "D").await;
    assert!(!lost.watchdog.armed);
    assert!(lost.warnings.iter().any(|w| w.contains("the keeper is gone")), "{lost:?}");
    let back = two.until(PATIENCE, "class C again", |s| s.watchdog.class == "C" && runs(s)).await;
    assert!(back.watchdog.armed);
    assert!(!lives(&service), "the kernel ends what a dead keeper leaves");
    starts(&site, 2).await;
}

#[tokio::test]
async fn what_a_service_leaves_behind_is_undone_before_it_counts_as_stopped() {
    let site = Site::new();
    let (left, undone) = (site.path("left"), site.path("undone"));
    let command = format!("touch {0} && exec sleep 1000", left.display());
    let undo = format!("rm {} && echo $HAGUARD_EPOCH >> {}", left.display(), undone.display());
    site.configure(2, &format!(
        " watchdog: process\n trust_process_watchdog: yes\n service {{\n  name: web\n  command: \
         {command}\n  undo: {undo}\n  prefer: 2\n }}"
    ));
    let [_one, two] = pair(&site).await;
    two.until(PATIENCE, "the service runs on 2", runs).await;
    poll(PATIENCE, "what it leaves", || async { left.exists().then_some(()) }).await;
    assert!(!undone.exists());
    let epoch = two.status().await.unwrap().resources[0].epoch.unwrap();
    assert_eq!(two.ask("leave\n").await.as_deref(), Some("ok"));
    tokio::time::timeout(PATIENCE, two.task).await.unwrap().unwrap().unwrap();
    assert!(!left.exists());
    assert_eq!(std::fs::read_to_string(&undone).unwrap(), format!("{epoch}\n"));
}
