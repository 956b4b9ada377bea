//! What is read of corosync's configuration, and the rules of time.

use std::time::Duration;

use node::guard::core::cluster::{Cluster, Keys};
use node::guard::core::timing::{DeviceKind, Limits, belief, check};
use protocol::ids::NodeId;

const LEAST: [(&str, &str); 8] = [
    ("totem.cluster_name", "lab"),
    ("runtime.votequorum.this_node_id", "2"),
    ("runtime.config.totem.token", "3000"),
    ("runtime.config.totem.consensus", "3600"),
    ("nodelist.node.0.nodeid", "1"),
    ("nodelist.node.1.nodeid", "2"),
    ("nodelist.node.1.quorum_votes", "3"),
    ("nodelist.node.1.ring0_addr", "192.0.2.2"),
];

fn read(changes: &[(&str, &str)]) -> Result<Cluster, String> {
    let all = LEAST.iter().chain(changes);
    let mut keys: Keys = all.map(|(key, value)| (key.to_string(), value.to_string())).collect();
    keys.retain(|_, value| value != "-");
    Cluster::read(&keys)
}

fn limits(watchdog: u64) -> Limits {
    Limits { watchdog: Duration::from_secs(watchdog), peers_wait: None }
}

#[test]
fn the_configuration_is_read_as_corosync_has_understood_it() {
    let cluster = read(&[("quorum.device.model", "net")]).unwrap();
    assert_eq!((cluster.name.as_str(), cluster.node), ("lab", NodeId(2)));
    assert_eq!(cluster.votes, [(NodeId(1), 1), (NodeId(2), 3)].into());
    assert_eq!(cluster.token + cluster.consensus, Duration::from_millis(6600));
    assert_eq!(cluster.sync_timeout, Some(Duration::from_secs(30)), "corosync's default");
    let shorter = [("quorum.device.model", "net"), ("quorum.device.sync_timeout", "4000")];
    assert_eq!(read(&shorter).unwrap().sync_timeout, Some(Duration::from_secs(4)));
    assert_eq!(read(&[]).unwrap().sync_timeout, None);
}

#[test]
fn what_is_wrong_in_the_configuration_is_named_with_its_key() {
    for (key, value) in [
        ("runtime.config.totem.token", "-"),
        ("runtime.config.totem.consensus", "soon"),
        ("nodelist.node.0.nodeid", "-1"),
        ("runtime.votequorum.this_node_id", "0"),
    ] {
        let text = read(&[(key, value)]).unwrap_err();
        let named = text.contains(key) || text.contains("votequorum");
        assert!(named && !text.contains('\n'), "{key}: {text}");
    }
}

#[test]
fn a_proof_is_believed_for_half_a_watchdog_and_never_longer_than_the_others_wait() {
    let cluster = read(&[]).unwrap();
    assert_eq!(belief(&cluster, Duration::from_secs(10)), Duration::from_secs(5));
    assert_eq!(belief(&cluster, Duration::from_secs(60)), Duration::from_millis(6600));
    let hasty = Cluster { token: Duration::ZERO, consensus: Duration::ZERO, ..cluster };
    assert_eq!(
        belief(&hasty, Duration::from_secs(60)),
        Duration::from_secs(1),
        "refused, or armed"
    );
}

#[test]
fn a_sync_timeout_longer_than_the_watchdog_is_refused_only_with_a_stock_device() {
    let cluster = read(&[("quorum.device.model", "net")]).unwrap();
    assert_eq!(check(&cluster, &limits(5), DeviceKind::Ours), Ok(()));
    let text = check(&cluster, &limits(5), DeviceKind::Stock).unwrap_err();
    let inequality = "quorum.device.sync_timeout <= watchdog timeout does not hold: 30 s > 5 s;";
    assert!(text.starts_with(inequality) && !text.contains('\n'), "{text}");
    assert_eq!(check(&cluster, &limits(30), DeviceKind::Stock), Ok(()));
}

#[test]
fn a_corosync_that_gives_up_sooner_than_a_busy_machine_answers_is_refused() {
    let hasty = [("runtime.config.totem.token", "400"), ("runtime.config.totem.consensus", "480")];
    let text = check(&read(&hasty).unwrap(), &limits(5), DeviceKind::None).unwrap_err();
    assert!(text.starts_with("1 s <= token + consensus does not hold: 1 s > 0.88 s;"), "{text}");
}

#[test]
fn a_watchdog_of_less_than_three_pets_is_refused() {
    let short = Limits { watchdog: Duration::from_secs(1), peers_wait: None };
    let text = check(&read(&[]).unwrap(), &short, DeviceKind::None).unwrap_err();
    assert!(
        text.starts_with("pet interval <= watchdog timeout / 3 does not hold: 0.5 s > 0.333 s")
    );
}

#[test]
fn peers_that_wait_less_than_the_reset_takes_are_refused() {
    let waits = |ms| Limits { peers_wait: Some(Duration::from_millis(ms)), ..limits(5) };
    let cluster = read(&[]).unwrap();
    // Belief 2.5 s, watchdog 5 s, 0.1 s, 1 %.
    assert_eq!(check(&cluster, &waits(7650), DeviceKind::None), Ok(()));
    let text = check(&cluster, &waits(7649), DeviceKind::None).unwrap_err();
    assert!(text.contains("<= peers-wait does not hold: 7.65 s > 7.649 s;"), "{text}");
    let change = [("quorum.device.model", "net"), ("quorum.device.sync_timeout", "4000")];
    let stock = read(&change).unwrap();
    assert_eq!(check(&stock, &waits(9150), DeviceKind::Stock), Ok(()));
    assert!(check(&stock, &waits(9149), DeviceKind::Stock).is_err());
}

#[test]
fn a_quorum_that_both_sides_of_a_split_can_have_is_refused() {
    for name in ["two_node", "last_man_standing", "allow_downscale"] {
        let key = format!("quorum.{name}");
        let cluster = read(&[(&key, "1")]).unwrap();
        let text = check(&cluster, &limits(5), DeviceKind::None).unwrap_err();
        assert!(text.starts_with(&format!("{key} is 1: both sides")), "{text}");
    }
}
