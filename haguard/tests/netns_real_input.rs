//! A configuration that a Proxmox VE cluster has written drives node and device: two, four, ten and
//! sixteen nodes of it on one machine, in a network namespace where their addresses are.

#![expect(clippy::unwrap_used, reason = "a test ends where it goes wrong")]

mod common;

use std::fmt::Write as _;

use common::site::Site;
use haguard::command::demo::story::are_one;

const CLUSTER: &str = "ProxCephCluster";
/// The file as Proxmox VE writes it, for this many nodes, with or without a quorum device.
fn configuration(nodes: u32, device: bool) -> String {
    let mut text = "logging {\n  debug: off\n  to_syslog: yes\n}\n\nnodelist {\n".to_owned();
    for node in 1..=nodes {
        let host = 110 + node;
        write!(
            text,
            "  node {{\n    name: proxmox{host}\n    nodeid: {node}\n    quorum_votes: 1\n    \
             ring1_addr: 10.10.100.{host}\n  }}\n"
        )
        .unwrap();
    }
    text.push_str("}\n\nquorum {\n  provider: corosync_votequorum\n");
    if device {
        text.push_str(
            "  device {\n    model: net\n    votes: 1\n    net {\n      algorithm: ffsplit\n      \
             host: 10.10.100.250\n      tls: on\n    }\n  }\n",
        );
    }
    text.push_str(
        "}\n\ntotem {\n  cluster_name: ProxCephCluster\n  config_version: 3\n  interface {\n    \
         linknumber: 1\n  }\n  ip_version: ipv4-6\n  link_mode: passive\n  secauth: on\n  \
         version: 2\n}\n",
    );
    text
}

#[test]
fn the_generated_configuration_is_the_real_one() {
    let real = include_str!("../../node/tests/data/proxmox-three-nodes.conf");
    let lines = |text: &str| -> Vec<String> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        lines.filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    };
    assert_eq!(lines(&configuration(3, false)), lines(real));
}

async fn drives(nodes: u32, quorum: u32) {
    let hosts = (111..111 + nodes).chain([250]).map(|host| format!("10.10.100.{host}"));
    let name = format!("proxmox{nodes}");
    let Some(mut site) = Site::new(&name, CLUSTER, &configuration(nodes, true), hosts) else {
        return;
    };
    site.run(Some("10.10.100.250"), nodes);
    let all: Vec<u32> = (1..=nodes).collect();
    let sampler = site.sampler(nodes);
    // Every node in one view, with the vote of its device.
    site.wait(&sampler, "one complete view", |record| {
        are_one(record, &all)
            && all.iter().filter_map(|node| record.status(*node)).all(|status| {
                status.votes.total == nodes + 1
                    && status.qdevice.as_ref().is_some_and(|device| device.vote == "ack")
            })
    })
    .await;
    // As an operator asks for it.
    let status = site.status(1).unwrap();
    assert_eq!(status["quorate"], true);
    assert_eq!(status["votes"]["quorum"], quorum);
    assert_eq!(status["votes"]["expected"], nodes + 1);
}

#[tokio::test]
async fn two_nodes_of_a_proxmox_cluster_and_their_devices_run_on_one_machine() {
    drives(2, 2).await;
}

#[tokio::test]
async fn four_nodes_of_a_proxmox_cluster_and_their_devices_run_on_one_machine() {
    drives(4, 3).await;
}

#[tokio::test]
async fn ten_nodes_of_a_proxmox_cluster_and_their_devices_run_on_one_machine() {
    drives(10, 6).await;
}

#[tokio::test]
async fn sixteen_nodes_of_a_proxmox_cluster_and_their_devices_run_on_one_machine() {
    drives(16, 9).await;
}
