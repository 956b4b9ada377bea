use std::collections::BTreeSet;

use protocol::ids::{ClusterName, RingId};
use protocol::qnet::NodeInfo;
use protocol::vote::{Algorithm, Vote};

use super::*;
use crate::config::{Invocation, Places, parse};
use crate::core::StockClient;

fn options(line: &str) -> Options {
    let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    match parse(&args, Places::Haguard).unwrap() {
        Invocation::Run(options) => *options,
        other @ (Invocation::Help | Invocation::Version) => panic!("{other:?}"),
    }
}

fn errand(line: &str) -> Result<Errand, Failure> {
    let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    read_errand("corosync-qnetd-tool", &args)
}

fn client(node: u32) -> StockClient {
    let info = |node, data_center| NodeInfo { node: NodeId(node), data_center, state: None };
    StockClient {
        node: NodeId(node),
        address: "::ffff:192.0.2.1:1234".to_owned(),
        heartbeat_ms: 8000,
        config_version: Some(3),
        config: vec![info(1, 0), info(2, 7)],
        ring: RingId::new(1, 0x1a),
        members: BTreeSet::from([NodeId(1), NodeId(2)]),
        heuristics: Heuristics::Pass,
        membership_heuristics: Heuristics::Pass,
        regular_heuristics: Heuristics::Undefined,
        is_secure: true,
        is_verified: true,
        last_sent: Some(Vote::NoChange),
        last_ack_nack: Some(Vote::Ack),
    }
}

/// A client that has only said Init.
fn fresh_client(node: u32) -> StockClient {
    StockClient {
        config_version: None,
        config: Vec::new(),
        members: BTreeSet::new(),
        heuristics: Heuristics::Undefined,
        membership_heuristics: Heuristics::Undefined,
        is_secure: false,
        is_verified: false,
        last_sent: None,
        last_ack_nack: None,
        ..client(node)
    }
}

fn cluster(name: &str, clients: Vec<StockClient>) -> StockCluster {
    StockCluster {
        name: ClusterName::from(name),
        algorithm: Algorithm::Ffsplit,
        tie_breaker: TieBreaker::Lowest,
        keep_active_partition: true,
        clients,
    }
}

#[test]
fn status_is_four_lines_and_more_when_verbose() {
    let expected = "QNetd address:\t\t\t*:5403\n\
                    TLS:\t\t\t\tRequired (client certificate required)\n\
                    Connected clients:\t\t2\n\
                    Connected clusters:\t\t1\n";
    assert_eq!(status_text(&options(""), (2, 1), false), expected);
    let verbose = status_text(&options("-m 5 -l arbiter -p 99 -s on -c off"), (0, 0), true);
    let expected = "QNetd address:\t\t\tarbiter:99\n\
                    TLS:\t\t\t\tSupported\n\
                    Connected clients:\t\t0\n\
                    Connected clusters:\t\t0\n\
                    Maximum allowed clients:\t5\n\
                    Maximum send/receive size:\t32768/32768 bytes\n";
    assert_eq!(verbose, expected);
    let off = status_text(&options("-s off --listen 127.0.0.1:7"), (0, 0), true);
    assert!(off.starts_with("QNetd address:\t\t\t127.0.0.1:7\nTLS:\t\t\t\tUnsupported\n"), "{off}");
    assert!(!off.contains("Maximum allowed"));
}

#[test]
fn a_list_shows_what_is_known_of_each_node() {
    let text = list_text(&[cluster("one", vec![client(1), fresh_client(2)])], None, false);
    let expected = "Cluster \"one\":\n    \
        Algorithm:\t\tFifty-Fifty split (KAP Tie-breaker)\n    \
        Tie-breaker:\tNode with lowest node ID\n    \
        Node ID 1:\n        \
            Client address:\t\t::ffff:192.0.2.1:1234\n        \
            Configuration version:\t3\n        \
            Configured node list:\t1, 2 (7)\n        \
            Membership node list:\t1, 2\n        \
            Heuristics:\t\tPass\n        \
            Vote:\t\t\tNo change (ACK)\n    \
        Node ID 2:\n        \
            Client address:\t\t::ffff:192.0.2.1:1234\n";
    assert_eq!(text, expected);
}

#[test]
fn a_verbose_list_shows_everything() {
    let mut one = cluster("one", vec![client(1), fresh_client(2)]);
    one.keep_active_partition = false;
    one.algorithm = Algorithm::Lms;
    one.tie_breaker = TieBreaker::Node(NodeId(4));
    let text = list_text(&[one], None, true);
    let expected = "Cluster \"one\":\n    \
        Algorithm:\t\tLMS\n    \
        Tie-breaker:\tNode with node ID 4\n    \
        Node ID 1:\n        \
            Client address:\t\t::ffff:192.0.2.1:1234\n        \
            HB interval:\t\t8000ms\n        \
            Configuration version:\t3\n        \
            Configured node list:\t1, 2 (7)\n        \
            Ring ID:\t\t1.1a\n        \
            Membership node list:\t1, 2\n        \
            Heuristics:\t\tPass (membership: Pass, regular: Undefined)\n        \
            TLS active:\t\tYes (client certificate verified)\n        \
            Vote:\t\t\tNo change (ACK)\n    \
        Node ID 2:\n        \
            Client address:\t\t::ffff:192.0.2.1:1234\n        \
            HB interval:\t\t8000ms\n        \
            Ring ID:\t\t1.1a\n        \
            Heuristics:\t\tUndefined (membership: Undefined, regular: Undefined)\n        \
            TLS active:\t\tNo\n";
    assert_eq!(text, expected);
}

#[test]
fn a_list_can_be_of_one_cluster() {
    let both = [cluster("one", vec![]), cluster("two", vec![])];
    assert!(list_text(&both, Some(b"two"), false).starts_with("Cluster \"two\":\n"));
    assert_eq!(list_text(&both, Some(b"three"), false), "");
}

#[test]
fn the_tools_flags_become_the_stock_tools_lines() {
    let cases = [
        ("-s", "status \n"),
        ("-sv", "status verbose \n"),
        ("-l", "list \n"),
        ("-v -l -c X", "list verbose cluster \"X\" \n"),
        ("-lcX", "list cluster \"X\" \n"),
        ("-lc a\"b\\c", "list cluster \"a\\\"b\\\\c\" \n"),
        ("-H", "shutdown \n"),
        ("-ls", "status \n"),
        ("-sl", "list \n"),
        ("-s -c X", "status \n"),
    ];
    for (line, expected) in cases {
        let errand = errand(line).unwrap();
        assert_eq!(
            (String::from_utf8(errand.line).unwrap().as_str(), errand.socket),
            (expected, None)
        );
    }
    assert_eq!(errand("-s -p /x").unwrap().socket, Some("/x".into()));
}

#[test]
fn wrong_flags_end_with_the_usage_and_exit_code_1() {
    let usage =
        "usage: corosync-qnetd-tool [-Hhlsv] [-c cluster_name] [-p qnetd_ipc_socket_path]\n";
    for (line, complaint) in [
        ("", ""),
        ("-h", ""),
        ("-v", ""),
        ("-sx", "corosync-qnetd-tool: invalid option -- 'x'\n"),
        ("-p", "corosync-qnetd-tool: option requires an argument -- 'p'\n"),
    ] {
        assert_eq!(errand(line), Err((1, format!("{complaint}{usage}"))), "{line}");
    }
}
