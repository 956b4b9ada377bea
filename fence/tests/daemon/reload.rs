//! A configuration and certificates that change while the gateway runs.

use certs::issue::Subject;
use fence::daemon::Order;
use protocol::ids::NodeId;

use crate::client::{outcome, request};
use crate::site::{CLUSTER, Site};

#[tokio::test]
async fn a_new_configuration_is_taken_over_and_a_wrong_one_is_not() {
    let site = Site::new("reload");
    let (arbiter, gateway, client) = site.whole(&[(2, "n2")], 1).await;
    let wrong = std::fs::read_to_string(site.path("gateway.toml")).unwrap() + "[nodes.3]\n";
    std::fs::write(site.path("gateway.toml"), wrong).unwrap();
    gateway.orders.send(Order::Reload).await.unwrap();
    gateway
        .until("alarm", |status| {
            status.alarms.iter().any(|line| line.contains("[nodes.3] 'levels' is missing"))
        })
        .await;
    assert!(!gateway.status().await.nodes.contains_key(&3));
    site.configure(&arbiter.address, &[(2, "n2"), (3, "n3")]);
    gateway.orders.send(Order::Reload).await.unwrap();
    gateway.until("third node", |status| status.nodes.contains_key(&3)).await;
    let alarms = gateway.status().await.alarms;
    assert!(!alarms.iter().any(|line| line.contains("configuration")), "{alarms:?}");
    let progress = client.fence(&request(&[3])).await;
    assert!(outcome(&progress)[&NodeId(3)].proof().is_some(), "{progress:?}");
    assert_eq!(arbiter.sessions(), 1, "the session with the arbiter stays");
    gateway.stop().await;
}

#[tokio::test]
async fn what_takes_a_restart_is_said() {
    let site = Site::new("restart");
    let (_arbiter, gateway, _) = site.whole(&[(2, "n2")], 1).await;
    let text = std::fs::read_to_string(site.path("gateway.toml")).unwrap();
    let other = text.replace("listen = \"127.0.0.1:0\"", "listen = \"127.0.0.1:1\"");
    std::fs::write(site.path("gateway.toml"), other).unwrap();
    gateway.orders.send(Order::Reload).await.unwrap();
    gateway
        .until("alarm", |status| {
            status.alarms.iter().any(|line| line.contains("'listen' was changed, which takes"))
        })
        .await;
    gateway.stop().await;
}

#[tokio::test]
async fn renewed_certificates_are_used_without_a_word() {
    let site = Site::new("renewed");
    let (_arbiter, gateway, client) = site.whole(&[(2, "n2")], 1).await;
    let old = client.shown().await;
    std::fs::write(site.path("gateway.pem"), "half a certificate").unwrap();
    gateway
        .until("alarm", |status| {
            status.alarms.iter().any(|line| line.contains("certificates not read again"))
        })
        .await;
    assert_eq!(client.shown().await, old, "what is no certificate is not taken");
    site.issue("gateway", &Subject::Gateway(CLUSTER.to_owned()));
    gateway
        .until("the new one", |status| {
            !status.alarms.iter().any(|line| line.contains("certificates not read again"))
        })
        .await;
    assert_ne!(client.shown().await, old);
    assert_eq!(client.get("/v1/status").await.status, 200);
    gateway.stop().await;
}
