//! `pvecm qdevice setup` and `pvecm qdevice remove` on a running cluster of two real corosync: every
//! command of theirs, in their order, with the stock programs on one side and ours on the other. ssh
//! and systemctl are stand-ins; the nodes' `/etc/pve` is a directory that both have.
//!
//! `enrol.rs` has the steps with certificates in all pairs, `docs/certificates.md` what they do.

#![expect(clippy::unwrap_used, reason = "a test ends where it goes wrong")]

#[allow(dead_code, reason = "each test of the lab uses a part of it")]
mod lab;
#[path = "pvecm/site.rs"]
mod site;
#[path = "pvecm/steps.rs"]
mod steps;

use std::fs;

use lab::At;
use site::{ARBITER, HERE, Ours, Site};
use steps::{REMOVE, SETUP};

const NODES: [At; 2] = [At::Node(1), At::Node(2)];

/// What Proxmox VE shows of a cluster with its device.
fn check_device(site: &Site) {
    for node in NODES {
        // `pvecm status`, with node ids in hexadecimal digits.
        let rows = site.rows(node, "-siH");
        let has = |row: &str| rows.iter().any(|found| found.starts_with(row));
        for row in ["Expected votes: 3", "Flags: Quorate Qdevice", "0x00000000 1 Qdevice"] {
            assert!(has(row), "{node:?}: {row:?} is not in {rows:#?}");
        }
        assert_eq!(rows.iter().filter(|row| row.contains(" 1 A,V,NMW ")).count(), 2, "{rows:#?}");
        // `GET /cluster/config/qdevice`.
        let status = site.api(node);
        let expected = [
            ("Algorithm", "Fifty-Fifty split"),
            ("Model", "Net"),
            ("QNetd host", &format!("{ARBITER}:5403")),
            ("State", "Connected"),
            ("Tie-breaker", "Node with lowest node ID"),
        ];
        for (key, value) in expected {
            assert_eq!(status.get(key).map(String::as_str), Some(value), "{node:?}: {status:#?}");
        }
        // Nothing but the time when corosync was last told the vote.
        let polled = status.get("Last poll call").map(String::as_str).unwrap_or_default();
        assert!(polled.starts_with("20"), "{node:?}: {status:#?}");
        assert_eq!(status.len(), expected.len() + 1, "{node:?}: {status:#?}");
        let enabled =
            site.lab.text(node, &["/run/bin/systemctl", "is-enabled", "corosync-qdevice"]);
        assert_eq!(enabled, "enabled\n", "{node:?}");
    }
    let list = site.arbiter("-lv");
    let count = |line: &str| list.iter().filter(|found| *found == line).count();
    assert_eq!(count("Cluster \"lab\":"), 1, "{list:#?}");
    assert_eq!(count("TLS active: Yes (client certificate verified)"), 2, "{list:#?}");
}

/// Every key was made by whom the test is about: the stock programs keep theirs in a database.
fn check_programs(site: &Site, ours: Ours) {
    let nodes = NODES.map(|node| site.has(node, "qdevice/net/nssdb/key4.db"));
    assert_eq!(nodes, [ours == Ours::Arbiter; 2]);
    assert_eq!(site.has(At::Arbiter, "qnetd/nssdb/key4.db"), ours == Ours::Nodes);
}

fn remove(site: &Site) {
    let before = site.signed();
    site.must(&REMOVE, false);
    for node in NODES {
        site.wait(&format!("{node:?} without its device"), || {
            let rows = site.rows(node, "-siH");
            let has = |part: &str| rows.iter().any(|row| row.contains(part));
            has("Expected votes: 2") && has("Quorate: Yes") && !has("A,V") && !has(" Qdevice")
        });
        assert!(site.api(node).is_empty(), "{node:?}");
        assert!(!site.lab.place(node).join("etc/qdevice").exists(), "{node:?}");
    }
    site.wait("an arbiter without nodes", || {
        site.arbiter("-s").contains(&"Connected clients: 0".to_owned())
    });
    assert_eq!(site.signed(), before, "nothing is cleaned on the arbiter");
}

fn set_up_remove_and_set_up_again(ours: Ours) {
    if !site::is_possible() {
        return;
    }
    let site = Site::new(ours);
    let arbiter = site.process(At::Arbiter, "corosync-qnetd");
    // Who has not brought the key there is not let in.
    let (number, said) = site.replay(&SETUP[2..], false).unwrap_err();
    assert!(number == 4 && said.contains("Permission denied"), "{number}: {said}");

    // It breaks off before the configuration is changed; from then on --force is needed.
    let configure = SETUP.iter().position(|(number, _)| *number == 12).unwrap();
    site.must(&SETUP[..configure], false);
    let (number, _) = site.replay(&SETUP, false).unwrap_err();
    assert_eq!(number, 2);
    let first = site.signed();
    site.set_up(true);
    check_device(&site);
    check_programs(&site, ours);
    let second = site.signed();
    assert_ne!(first, second);

    // --force does it all again while the devices run, but for the configuration.
    let (number, said) = site.replay(&SETUP, true).unwrap_err();
    assert!(number == 12 && said.contains("already configured"), "{number}: {said}");
    check_device(&site);
    let third = site.signed();
    assert_ne!(second, third);
    // Up to here the arbiter has found its keys by itself. The devices come again with theirs.
    assert_eq!(site.process(At::Arbiter, "corosync-qnetd"), arbiter, "it was restarted");
    site.restart_arbiter();
    check_device(&site);

    remove(&site);
    site.set_up(false);
    check_device(&site);
    assert_ne!(third, site.signed());
    for node in NODES {
        let conf = fs::read(site.lab.place(node).join("etc/corosync.conf")).unwrap();
        assert_eq!(conf, fs::read(site.pve("corosync.conf")).unwrap(), "{node:?}");
    }
    assert!(!site.pve("qdevice-net-node.p12").exists() && !site.pve("qnetd-cacert.crt").exists());
    // The key of the node on which it was typed, and no other.
    let keys = site.lab.text(At::Arbiter, &["sort", "-u", "/root/.ssh/authorized_keys"]);
    assert_eq!(keys, format!("ssh-rsa KEY-OF-{0} root@{0}\n", HERE.name()));
    site.end();
}

#[test]
fn stock_nodes_are_given_our_arbiter_by_pvecm_lose_it_and_are_given_it_again() {
    set_up_remove_and_set_up_again(Ours::Arbiter);
}

#[test]
fn stock_arbiter_is_given_to_our_nodes_by_pvecm_taken_away_and_given_again() {
    set_up_remove_and_set_up_again(Ours::Nodes);
}
