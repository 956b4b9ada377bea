//! A gateway that ends in the middle, and an arbiter that comes and goes.

use fence::daemon::{self, Options, Order};
use protocol::ids::NodeId;
use tokio::time::{Instant, timeout};

use crate::arbiter::Arbiter;
use crate::client::{Client, local, outcome, request};
use crate::site::{PATIENCE, Site, touch, until_file};

#[tokio::test]
async fn a_gateway_killed_in_the_middle_reads_the_true_state_and_assumes_nothing() {
    let site = Site::new("killed");
    let (arbiter, gateway, client) = site.whole(&[(2, "n2")], 1).await;
    // The switch takes the command and hangs: nobody knows whether it was done.
    touch(&site.path("n2.hangs-at-off"));
    let lines = client.post("/v1/fence", &request(&[2])).await;
    until_file("a command", || site.count("n2", "off") == 1).await;
    gateway.kill().await;
    drop(lines);
    std::fs::remove_file(site.path("n2.hangs-at-off")).unwrap();
    assert!(!arbiter.asked().contains(&"off"));
    let before = site.count("n2", "status");
    let gateway = site.start().await;
    until_file("a look at the device", || site.count("n2", "status") > before).await;
    // The history is whole, and says that a job was found open.
    let client = Client::new(&site, "node", gateway.ports.https);
    let history = client.get("/v1/history").await.all().await;
    assert!(history.iter().any(|line| line.contains("\"started\"")), "{history:#?}");
    gateway.until("arbiter", |status| status.arbiter == "connected").await;
    // And the next request goes its way.
    let progress = client.fence(&request(&[2])).await;
    assert!(outcome(&progress)[&NodeId(2)].proof().is_some(), "{progress:?}");
    assert_eq!(site.count("n2", "off"), 2, "the first one was never assumed to be done");
    gateway.stop().await;
    let whole = fence::journal::verify(&site.path("state").join(fence::journal::NAME)).unwrap();
    assert!(whole.records > history.len() as u64, "{whole:?}");
}

#[tokio::test]
async fn a_stop_waits_for_the_job_that_runs_and_takes_no_other() {
    let site = Site::new("stop");
    let (_arbiter, gateway, client) = site.whole(&[(2, "n2")], 1).await;
    touch(&site.path("n2.hangs-at-off"));
    let lines = client.post("/v1/fence", &request(&[2])).await;
    until_file("a command", || site.count("n2", "off") == 1).await;
    gateway.orders.send(Order::Stop).await.unwrap();
    let end = Instant::now() + PATIENCE;
    loop {
        let said = local(&gateway.socket, "{\"test\":{\"node\":2}}").await;
        if said.iter().any(|line| line.contains("the gateway is stopping")) {
            break;
        }
        assert!(Instant::now() < end, "{said:?}");
    }
    std::fs::remove_file(site.path("n2.hangs-at-off")).unwrap();
    let progress = lines.progress().await;
    assert!(outcome(&progress)[&NodeId(2)].proof().is_some(), "{progress:?}");
    timeout(PATIENCE, gateway.task).await.unwrap().unwrap().unwrap();
    assert!(!gateway.socket.exists());
}

#[tokio::test]
async fn a_certificate_that_is_no_gateways_is_refused_at_the_start() {
    let site = Site::new("nogateway");
    site.configure("127.0.0.1:1", &[(2, "n2")]);
    let (tls_cert, tls_key) = (site.path("cluster.pem"), site.path("cluster-key.pem"));
    let options = Options { tls_cert: Some(tls_cert), tls_key: Some(tls_key), ..site.options() };
    let refusal = format!("{:#}", daemon::check(&options).unwrap_err());
    assert!(
        refusal.contains("cluster.pem: the certificate is not that of a fencing gateway"),
        "{refusal}"
    );
    assert_eq!(daemon::check(&site.options()).unwrap(), [""; 0]);
}

#[tokio::test]
async fn an_arbiter_that_comes_back_is_found_again() {
    let site = Site::new("back");
    let arbiter = Arbiter::start(&site).await;
    let address = arbiter.address.clone();
    drop(arbiter);
    site.configure(&address, &[(2, "n2")]);
    let gateway = site.start().await;
    gateway.until("word of it", |status| status.arbiter.contains("cannot connect")).await;
    let arbiter = Arbiter::start_at(&site, &address).await;
    gateway.until("arbiter", |status| status.arbiter == "connected").await;
    drop(arbiter);
    gateway.stop().await;
}

#[tokio::test]
async fn an_arbiter_under_another_name_is_not_believed() {
    let site = Site::new("name");
    let arbiter = Arbiter::start_as(&site, "127.0.0.1:0", "cluster").await;
    site.configure(&arbiter.address, &[(2, "n2")]);
    let gateway = site.start().await;
    gateway
        .until("refusal", |status| {
            status.arbiter.contains("names \"TestCl\", not \"Qnetd Server\"")
        })
        .await;
    assert_eq!(arbiter.sessions(), 0);
    gateway.stop().await;
}
