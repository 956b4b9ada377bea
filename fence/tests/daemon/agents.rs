//! What the agents' metadata says is looked at before any of them is needed.

use std::os::unix::fs::PermissionsExt;

use fence::daemon::Order;

use crate::site::Site;

/// An agent that describes itself with these actions and can do no other.
fn agent(site: &Site, name: &str, actions: &[&str]) {
    site.agent(name);
    let script = std::fs::read_to_string(site.path(name)).unwrap();
    let tags: String =
        actions.iter().map(|action| format!("<action name=\"{action}\"/>")).collect();
    let case = format!("case $action in\nmetadata) echo '<actions>{tags}</actions>';;");
    let script = script.replace("case $action in", &case);
    std::fs::write(site.path(name), script).unwrap();
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(site.path(name), mode).unwrap();
}

/// How often it was asked to describe itself.
fn described(site: &Site, name: &str) -> usize {
    let log = std::fs::read_to_string(site.path(&format!("{name}.log"))).unwrap_or_default();
    log.lines().filter(|line| *line == "metadata").count()
}

#[tokio::test]
async fn an_agent_that_lacks_an_action_is_an_alarm_from_the_start() {
    let site = Site::new("lacks");
    agent(&site, "n2", &["on", "off", "status", "monitor"]);
    agent(&site, "n3", &["on", "monitor"]);
    agent(&site, "n4", &["off", "status"]);
    // One that people write has no metadata, and works.
    site.agent("n5");
    let nodes = [(2, "n2"), (3, "n3"), (4, "n4"), (5, "n5")];
    let (_arbiter, gateway, _) = site.whole(&nodes, 1).await;
    let lines = |name: &str, what: &str| {
        let program = site.path(name).display().to_string();
        format!("device {name} would not work: its agent {program} has no action {what}; ")
    };
    let (three, four) = (lines("n3", "off, status"), lines("n4", "on"));
    gateway
        .until("alarms", |status| {
            let of =
                |start: &str| status.alarms.iter().filter(|line| line.starts_with(start)).count();
            of(&three) == 1 && of(&four) == 1 && of("device n") == 2
        })
        .await;
    // Nothing but that was asked of them for it, and nothing is cut.
    assert_eq!(described(&site, "n3"), 1);
    assert_eq!(site.count("n3", "off") + site.count("n2", "off"), 0);
    // When the file names one that can, the alarm is over.
    agent(&site, "n3", &["on", "off", "status"]);
    agent(&site, "n4", &["on", "off", "status"]);
    gateway.orders.send(Order::Reload).await.unwrap();
    gateway
        .until("the end of the alarms", |status| {
            !status.alarms.iter().any(|line| line.contains("has no action"))
                && described(&site, "n3") == 2
                && described(&site, "n4") == 2
        })
        .await;
    gateway.stop().await;
}
