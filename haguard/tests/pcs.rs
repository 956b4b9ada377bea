//! pcs with its daemon on all hosts, setting up a quorum device of ours: what a person types, and
//! nothing else. corosync, pcs and pcsd are Debian's; only systemctl is a stand-in, which starts
//! the same daemons by the units of their packages, ours among them under its stock names.
//!
//! `docs/pcs.md` has the same for people, `docs/certificates.md` what goes from host to host.

#![expect(clippy::unwrap_used, reason = "a test ends where it goes wrong")]

#[allow(dead_code, reason = "each test of the lab uses a part of it")]
mod lab;
#[path = "pcs/site.rs"]
mod site;

use std::fs;

use lab::{At, must};
use site::{ARBITER_STORE, NODE_STORE, Site};

const N1: At = At::Node(1);
const N2: At = At::Node(2);

const ADD: [&str; 8] =
    ["quorum", "device", "add", "model", "net", "host=arbiter", "algorithm=ffsplit", "port=5403"];

fn set_up_arbiter(site: &Site) {
    site.pcs_says(
        At::Arbiter,
        &["qdevice", "setup", "model", "net", "--enable", "--start"],
        &["Quorum device 'net' initialized", "quorum device enabled", "quorum device started"],
    );
}

/// Adds the device from a node, on which key and request are made.
fn add_device(site: &Site, from: At) {
    site.pcs_says(
        from,
        &ADD,
        &[
            "n1: Succeeded",
            "n2: Succeeded",
            "n1: corosync-qdevice enabled",
            "n2: corosync-qdevice enabled",
            "n1: corosync-qdevice started",
            "n2: corosync-qdevice started",
        ],
    );
    site.wait_for_votes();
    site.wait_for_clients("Node with lowest node ID");
}

/// What pcs prints of a cluster with its device; the configuration is that of the other node.
fn check_status(site: &Site) {
    let rows = ["Quorate: Yes", "Total votes: 3", "Flags: Quorate Qdevice", "0 1 Qdevice"];
    site.pcs_says(N1, &["quorum", "status"], &rows);
    site.pcs_says(N2, &["quorum", "config"], &["Device:", "host: arbiter"]);
    // By certutil, which reads the stock node's store: our authority is in it.
    let check = ["quorum", "device", "check_local_qnetd_certs", "arbiter", "lab"];
    site.pcs_says(N2, &check, &["certificate present"]);
    site.pcs_says(
        N1,
        &["quorum", "device", "status", "--full"],
        &[
            "Model: Net",
            "Cluster name: lab",
            "QNetd host: arbiter:5403",
            "State: Connected",
            "TLS active: Yes (client certificate sent)",
        ],
    );
    site.pcs_says(
        At::Arbiter,
        &["qdevice", "status", "net", "--full", "lab"],
        &[
            "TLS: Required (client certificate required)",
            "Connected clients: 2",
            "Connected clusters: 1",
            "Cluster \"lab\":",
            "Node ID 1:",
            "Node ID 2:",
            "Membership node list: 1, 2",
            "TLS active: Yes (client certificate verified)",
        ],
    );
}

fn remove_device(site: &Site, from: At) {
    site.pcs_says(
        from,
        &["quorum", "device", "remove"],
        &["n1: corosync-qdevice stopped", "n2: corosync-qdevice stopped", "n1: Succeeded"],
    );
    let said = site.refused(N1, &["quorum", "device", "status"]);
    assert!(said.contains("(is QDevice running?)"), "{said}");
    let config = site.pcs(N2, &["quorum", "config"]);
    assert!(!config.contains("Device"), "{config}");
    for node in [N1, N2] {
        assert!(!site.path(node, NODE_STORE).exists(), "{node:?}");
        let rows = site.rows(node);
        let has = |part: &str| rows.iter().any(|row| row.contains(part));
        assert!(has("Total votes: 2") && !has("A,V") && !has("0 1 Qdevice"), "{rows:?}");
    }
    site.wait_for_no_clients();
}

#[test]
fn stock_nodes_are_given_our_arbiter_by_pcs_and_lose_it_again() {
    if !site::is_possible() {
        return;
    }
    let site = Site::new(&[]);
    set_up_arbiter(&site);
    site.authorize();
    add_device(&site, N1);
    check_status(&site);

    // pcs reads the list of clusters and keeps an arbiter that one needs.
    let said = site.refused(At::Arbiter, &["qdevice", "stop", "net"]);
    assert!(said.contains("currently being used by cluster(s): 'lab'"), "{said}");

    let update = ["quorum", "device", "update", "model", "tie_breaker=highest"];
    site.pcs_says(N2, &update, &["n1: corosync-qdevice started", "n2: corosync-qdevice started"]);
    site.wait_for_votes();
    site.wait_for_clients("Node with highest node ID");

    remove_device(&site, N2);
    site.pcs_says(At::Arbiter, &["qdevice", "stop", "net"], &["quorum device stopped"]);
    let said = site.refused(At::Arbiter, &["qdevice", "status", "net"]);
    assert!(said.contains("Quorum device 'net' is not running"), "{said}");
    let removed = "Quorum device 'net' configuration files removed";
    site.pcs_says(At::Arbiter, &["qdevice", "destroy", "net"], &[removed]);
    assert!(!site.path(At::Arbiter, ARBITER_STORE).exists());
    site.end();
}

/// The store that installing Debian's corosync-qnetd leaves (its postinst), made by the stock
/// script, which is under ours.
const DEBIAN_STORE: &str = "
set -e
umount /usr/bin/corosync-qnetd-certutil
corosync-qnetd-certutil -i -G
cd /etc/corosync/qnetd/nssdb
chgrp coroqnetd . cert9.db key4.db
touch $0
mount --bind /usr/bin/corosync-qnetd $0
mount --bind $0 /usr/bin/corosync-qnetd-certutil
";

/// Our program under its own name, in a place that a host has to itself: the folder that it was
/// built in may be hidden there.
const OWN_NAME: &str = "/run/haguard-program";

#[test]
fn stock_arbiter_is_taken_over_and_pcs_enrols_our_device_beside_a_stock_one() {
    if !site::is_possible() {
        return;
    }
    let site = Site::new(&[N1]);
    let arbiter = |words: &[&str]| must(&mut site.lab.command(At::Arbiter, words));
    arbiter(&["sh", "-c", DEBIAN_STORE, OWN_NAME]);
    let said = site.refused(At::Arbiter, &["qdevice", "setup", "model", "net"]);
    assert!(said.contains("Quorum device 'net' has been already initialized"), "{said}");
    site.pcs_says(At::Arbiter, &["qdevice", "start", "net"], &["quorum device started"]);
    site.authorize();

    // What our program says at the arbiter is what the person at the node reads, who does it.
    let said = site.refused(N1, &ADD);
    let import = ["certs", "import", "--nssdb", ARBITER_STORE];
    assert!(said.contains(&format!("take it over with haguard {}", import.join(" "))), "{said}");
    arbiter(&[&[OWN_NAME], &import[..]].concat());

    // The arbiter runs and finds its keys by itself.
    add_device(&site, N1);
    check_status(&site);
    let first = fs::read(site.signed()).unwrap();
    remove_device(&site, N1);

    // The other way round: our node takes the key that the stock one has made.
    add_device(&site, N2);
    assert_ne!(first, fs::read(site.signed()).unwrap());
    site.end();
}
