//! A whole fence by Redfish: sushy-tools, whose machine is a real process, and a BMC that says yes
//! and does nothing.

use std::os::unix::fs::PermissionsExt;

use protocol::fence::{How, Outcome};
use protocol::ids::NodeId;

use crate::arbiter::Arbiter;
use crate::bmc::{Bmc, PASSWORD, USER, UUID};
use crate::client::{Client, outcome, request};
use crate::emulator::Sushy;
use crate::site::{Running, Site};

const TWO: NodeId = NodeId(2);

/// A gateway whose node 2 is fenced by this; `more` are settings of the device.
async fn start(site: &Site, url: &str, more: &str) -> (Arbiter, Running, Client) {
    let arbiter = Arbiter::start(site).await;
    let password = site.path("password");
    std::fs::write(&password, PASSWORD).unwrap();
    std::fs::set_permissions(&password, std::fs::Permissions::from_mode(0o600)).unwrap();
    site.configure(&arbiter.address, &[]);
    let file = site.path("gateway.toml");
    let text = std::fs::read_to_string(&file).unwrap()
        + &format!(
            "[devices.bmc]\nkind = \"redfish\"\nurl = \"{url}\"\nuser = \"{USER}\"\n\
             password-file = \"{}\"\n{more}\n[nodes.2]\nlevels = [[\"bmc\"]]\n",
            password.display()
        );
    std::fs::write(&file, text).unwrap();
    let gateway = site.start().await;
    gateway.until("the arbiter", |status| status.arbiter == "connected").await;
    let client = Client::new(site, "cluster", gateway.ports.https);
    (arbiter, gateway, client)
}

#[tokio::test]
async fn peer_sushy_is_proven_off_when_its_machine_is() {
    let Some(sushy) = Sushy::start("daemon").await else { return };
    let site = Site::new("sushy");
    let pin: String = sushy.pin().iter().map(|byte| format!("{byte:02x}")).collect();
    let url = format!("https://127.0.0.1:{}", sushy.port());
    let (arbiter, gateway, client) = start(&site, &url, &format!("pin-sha256 = \"{pin}\"")).await;
    assert!(sushy.machine().is_some());
    // It takes between 1 and 11 seconds for it.
    let progress = client.fence(&request(&[2])).await;
    let Outcome::Off { proof } = &outcome(&progress)[&TWO] else { panic!("{progress:#?}") };
    assert_eq!((proof.node, &proof.how), (TWO, &How::ReadOff));
    assert_eq!(sushy.machine(), None, "off was proven while it lived");
    assert_eq!(arbiter.asked().iter().filter(|asked| **asked == "off").count(), 1);
    // Who it was is known from now on.
    let known = std::fs::read_to_string(site.path("state/devices.json")).unwrap();
    assert!(known.to_lowercase().contains(UUID), "{known}");
    gateway.stop().await;
}

#[tokio::test]
async fn a_redfish_bmc_that_says_yes_and_does_nothing_proves_nothing() {
    let bmc = Bmc::start().await;
    bmc.state().obeys = false;
    let site = Site::new("liar");
    let url = format!("http://127.0.0.1:{}", bmc.port);
    let (arbiter, gateway, client) = start(&site, &url, "settle = \"1s\"").await;
    let progress = client.fence(&request(&[2])).await;
    let Outcome::Failed { why } = &outcome(&progress)[&TWO] else { panic!("{progress:#?}") };
    assert!(why.contains("bmc accepted the command and still read on after 1s"), "{why}");
    assert!(bmc.state().resets.iter().all(|kind| kind == "ForceOff"));
    assert!(!bmc.state().resets.is_empty());
    assert!(!arbiter.asked().contains(&"off"));
    // The reason is in the status and in the history too.
    let status = gateway.status().await;
    assert_eq!(status.nodes[&2].last.as_ref(), Some(&outcome(&progress)[&TWO]));
    assert!(status.alarms.contains(why), "{:?}", status.alarms);
    let history = client.get("/v1/history").await.all().await;
    let ended = history.iter().rfind(|line| line.contains("\"ended\"")).unwrap();
    assert!(ended.contains("still read on after 1s"), "{ended}");
    // Another system at the address is a stranger, whatever it says.
    bmc.state().uuid = "11111111-7742-3448-3784-823347823834".into();
    let resets = bmc.state().resets.len();
    let progress = client.fence(&request(&[2])).await;
    let Outcome::Failed { why } = &outcome(&progress)[&TWO] else { panic!("{progress:#?}") };
    assert!(why.contains("another device answers at this address"), "{why}");
    assert_eq!(bmc.state().resets.len(), resets, "it gets no command");
    bmc.all_sessions_end().await;
    gateway.stop().await;
}
