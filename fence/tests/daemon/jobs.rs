//! From a request to its end.

use protocol::fence::{Ask, Confirmation, How, Outcome, PowerAction, Progress, Refusal};
use protocol::ids::{Epoch, NodeId};

use crate::arbiter::Arbiter;
use crate::client::{Client, outcome, request};
use crate::site::{Site, touch, until_file};

const TWO: NodeId = NodeId(2);

#[tokio::test]
async fn a_request_becomes_progress_and_a_proof_that_the_arbiter_gets_too() {
    let site = Site::new("progress");
    let (arbiter, gateway, client) = site.whole(&[(2, "n2")], 1).await;
    let progress = client.fence(&request(&[2])).await;
    assert!(matches!(progress.first(), Some(Progress::Accepted { .. })), "{progress:?}");
    assert!(progress.iter().any(|step| matches!(step, Progress::Off { .. })), "{progress:?}");
    let Outcome::Off { proof } = &outcome(&progress)[&TWO] else { panic!("{progress:?}") };
    assert_eq!((proof.node, &proof.how), (TWO, &How::ReadOff));
    assert_eq!(site.count("n2", "off"), 1);
    // Registered first, asked again before the command, told after it.
    let asked = arbiter.asked();
    let place = |what: &str| asked.iter().position(|ask| *ask == what);
    assert_eq!(place("register"), Some(0));
    assert!(place("attest").unwrap() < place("off").unwrap(), "{asked:?}");
    gateway.stop().await;
}

#[tokio::test]
async fn a_refused_requester_hears_why_and_nothing_is_cut() {
    let site = Site::new("refused");
    let (arbiter, gateway, client) = site.whole(&[(2, "n2")], 1).await;
    let stale = Refusal::StaleEpoch { given: Epoch(7), current: Epoch(9) };
    arbiter.refuse(Some(stale));
    let progress = client.fence(&request(&[2])).await;
    let Outcome::Refused { why } = &outcome(&progress)[&TWO] else { panic!("{progress:?}") };
    assert!(why.contains("the request is of epoch 7, and it is 9 now"), "{why}");
    let progress = client.fence(&request(&[9])).await;
    let Outcome::Refused { why } = &outcome(&progress)[&NodeId(9)] else { panic!("{progress:?}") };
    assert!(why.contains('9'), "{why}");
    assert_eq!(site.count("n2", "off"), 0);
    gateway.stop().await;
}

#[tokio::test]
async fn a_requester_that_loses_the_vote_before_the_command_cuts_nothing() {
    let site = Site::new("loses");
    let (arbiter, gateway, client) = site.whole(&[(2, "n2")], 1).await;
    {
        let mut script = arbiter.script.lock().unwrap();
        script.attestations = Some(1);
        script.refusal = Some(Refusal::NotEntitled([TWO].into()));
    }
    let progress = client.fence(&request(&[2])).await;
    let Outcome::Refused { why } = &outcome(&progress)[&TWO] else { panic!("{progress:?}") };
    assert!(why.contains("it is with node 2"), "{why}");
    assert_eq!(site.count("n2", "off"), 0);
    gateway.stop().await;
}

#[tokio::test]
async fn requests_for_the_same_node_join_one_job() {
    let site = Site::new("join");
    let (arbiter, gateway, client) = site.whole(&[(2, "n2")], 1).await;
    touch(&site.path("n2.hangs"));
    let asked = request(&[2]);
    let mut first = client.post("/v1/fence", &asked).await;
    let mut second = client.post("/v1/fence", &asked).await;
    let job = |line: Option<String>| {
        let Progress::Accepted { job } = serde_json::from_str(&line.unwrap()).unwrap() else {
            panic!("not accepted")
        };
        job
    };
    assert_eq!(job(first.next().await), job(second.next().await));
    std::fs::remove_file(site.path("n2.hangs")).unwrap();
    for lines in [first, second] {
        let progress = lines.progress().await;
        assert!(outcome(&progress)[&TWO].proof().is_some(), "{progress:?}");
    }
    assert_eq!(site.count("n2", "off"), 1);
    assert_eq!(arbiter.asked().iter().filter(|ask| **ask == "register").count(), 1);
    gateway.stop().await;
}

#[tokio::test]
async fn a_device_that_lies_and_one_that_fails_prove_nothing() {
    let site = Site::new("lies");
    let (arbiter, gateway, client) = site.whole(&[(2, "n2"), (3, "n3")], 1).await;
    touch(&site.path("n2.lies"));
    touch(&site.path("n3.fails"));
    let progress = client.fence(&request(&[2, 3])).await;
    for node in [TWO, NodeId(3)] {
        let Outcome::Failed { why } = &outcome(&progress)[&node] else { panic!("{progress:?}") };
        assert!(why.contains("confirm"), "an operator is told what to do: {why}");
    }
    assert!(site.count("n2", "off") > 0, "{:?}", site.told("n2"));
    assert!(!arbiter.asked().contains(&"off"));
    gateway.stop().await;
}

#[tokio::test]
async fn a_reboot_is_off_read_back_and_then_on() {
    let site = Site::new("reboot");
    let (_arbiter, gateway, client) = site.whole(&[(2, "n2")], 1).await;
    let asked = protocol::fence::Request { action: PowerAction::Reboot, ..request(&[2]) };
    let progress = client.fence(&asked).await;
    let rebooted = &outcome(&progress)[&TWO];
    assert!(matches!(rebooted, Outcome::Rebooted { on_failed: None, .. }), "{rebooted:?}");
    let told = site.told("n2");
    let place = |what: &str| told.iter().position(|told| told == what).unwrap();
    let (off, on) = (place("off"), place("on"));
    assert!(told[off..on].contains(&"status".to_owned()), "{told:?}");
    gateway.stop().await;
}

#[tokio::test]
async fn an_operator_confirms_what_no_device_can_prove() {
    let site = Site::new("confirm");
    let (arbiter, gateway, client) = site.whole(&[(2, "n2")], 1).await;
    touch(&site.path("n2.fails"));
    let said = Confirmation {
        requester: NodeId(1),
        epoch: Some(Epoch(7)),
        node: TWO,
        by: "alice".to_owned(),
        why: "pulled the plug".to_owned(),
    };
    let progress = client.post("/v1/confirm", &said).await.progress().await;
    let proof = outcome(&progress)[&TWO].proof().unwrap_or_else(|| panic!("{progress:?}"));
    assert!(matches!(&proof.how, How::Manual { by, .. } if by == "alice"), "{proof:?}");
    assert!(arbiter.asked().contains(&"off"));
    gateway.stop().await;
}

#[tokio::test]
async fn a_rehearsal_goes_the_whole_way_without_a_power_command() {
    let site = Site::new("rehearsal");
    let (arbiter, gateway, client) = site.whole(&[(2, "n2")], 1).await;
    let progress = client.post("/v1/test/2", &()).await.progress().await;
    let said = format!("{progress:?}");
    for word in ["n2 answers", "the arbiter is connected", "a real fence would take"] {
        assert!(said.contains(word), "{word} is not in {said}");
    }
    assert!(matches!(progress.last(), Some(Progress::Done { .. })), "{said}");
    assert!(site.count("n2", "status") > 0);
    assert_eq!(site.count("n2", "off"), 0);
    assert!(!arbiter.asked().contains(&"off"));
    gateway.stop().await;
}

#[tokio::test]
async fn a_stock_arbiter_attests_nothing_and_the_status_says_so() {
    let site = Site::new("stock");
    let arbiter = Arbiter::start(&site).await;
    arbiter.script.lock().unwrap().stock = true;
    site.configure(&arbiter.address, &[(2, "n2")]);
    let gateway = site.start().await;
    gateway.until("word of it", |status| status.arbiter.contains("does not know fencing")).await;
    let client = Client::new(&site, "cluster", gateway.ports.https);
    let progress = client.fence(&request(&[2])).await;
    assert!(outcome(&progress)[&TWO].proof().is_none(), "{progress:?}");
    assert_eq!(site.count("n2", "off"), 0);
    gateway.stop().await;
}

#[tokio::test]
async fn a_requester_that_leaves_does_not_end_its_job() {
    let site = Site::new("leaves");
    let (arbiter, gateway, client) = site.whole(&[(2, "n2")], 1).await;
    touch(&site.path("n2.hangs"));
    let mut lines = client.post("/v1/fence", &request(&[2])).await;
    assert!(lines.next().await.is_some());
    drop(lines);
    std::fs::remove_file(site.path("n2.hangs")).unwrap();
    let off = |ask: &Ask| matches!(ask, Ask::Off { .. });
    until_file("proof", || arbiter.script.lock().unwrap().calls.iter().any(off)).await;
    assert_eq!(site.count("n2", "off"), 1);
    gateway.stop().await;
}
