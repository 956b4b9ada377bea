//! votequorum's arithmetic, against the table of its own manual page and its formula.

use node::conf::votes::quorum_of;
use node::conf::{ClusterConf, Options, load};

fn cluster(votes: &[u32], quorum: &str) -> ClusterConf {
    let nodes: String = votes
        .iter()
        .enumerate()
        .map(|(index, votes)| {
            let id = index + 1;
            format!("node {{\nnodeid: {id}\nquorum_votes: {votes}\nring0_addr: 192.0.2.{id}\n}}\n")
        })
        .collect();
    let text = format!(
        "totem {{\nversion: 2\ncluster_name: c\n}}\nnodelist {{\n{nodes}}}\n\
         quorum {{\nprovider: corosync_votequorum\n{quorum}}}\n"
    );
    let loaded = load("c", text.as_bytes(), &Options::default());
    loaded.unwrap_or_else(|errors| panic!("{errors}")).conf
}

fn device(algorithm: &str, votes: &str) -> String {
    format!("device {{\nmodel: net\n{votes}net {{\nhost: a\nalgorithm: {algorithm}\n}}\n}}\n")
}

#[test]
fn quorum_is_more_than_half_for_every_number_of_votes() {
    // votequorum(5): 2 votes need 2, 8 need 5, 5 need 3, 3 need 2.
    for (expected, quorum) in [(2, 2), (8, 5), (5, 3), (3, 2), (1, 1), (4, 3), (6, 4), (7, 4)] {
        assert_eq!(quorum_of(expected), quorum, "{expected}");
    }
    for expected in 0..=2000 {
        assert_eq!(quorum_of(expected), (expected + 2) / 2);
        assert!(2 * quorum_of(expected) > expected, "two sides of {expected} could be quorate");
    }
    assert_eq!(quorum_of(u32::MAX), 0x8000_0000);
}

#[test]
fn nodes_without_a_device() {
    for count in 1..=16_u32 {
        let conf = cluster(&vec![1; count as usize], "");
        assert_eq!(conf.expected_votes(), count);
        assert_eq!(conf.device_votes(), 0);
        assert_eq!(conf.quorum(), count / 2 + 1);
    }
}

#[test]
fn ffsplit_adds_one_vote() {
    for (count, quorum) in [(1, 2), (2, 2), (3, 3), (4, 3), (6, 4), (8, 5), (10, 6), (16, 9)] {
        let conf = cluster(&vec![1; count as usize], &device("ffsplit", "votes: 1\n"));
        assert_eq!((conf.expected_votes(), conf.quorum()), (count + 1, quorum), "{count}");
    }
}

#[test]
fn lms_adds_one_vote_less_than_the_nodes_so_that_the_last_one_is_quorate() {
    for count in 2..=16_u32 {
        let conf = cluster(&vec![1; count as usize], &device("lms", ""));
        assert_eq!(conf.device_votes(), count - 1);
        assert_eq!(conf.expected_votes(), 2 * count - 1);
        assert_eq!(conf.quorum(), count);
        assert!(1 + conf.device_votes() >= conf.quorum());
    }
}

#[test]
fn uneven_votes_add_up() {
    let conf = cluster(&[3, 1, 1, 0], "");
    assert_eq!((conf.expected_votes(), conf.quorum()), (5, 3));
    let conf = cluster(&[3, 1, 1], &device("lms", "votes: 4\n"));
    assert_eq!((conf.expected_votes(), conf.quorum()), (9, 5));
}

#[test]
fn expected_votes_raises_quorum_and_never_lowers_it_below_half_of_what_exists() {
    assert_eq!(cluster(&[1, 1, 1], "expected_votes: 5\n").quorum(), 3);
    // votequorum would start with 2 of 3 here and let {1,2} and {3,4,5} both be quorate.
    assert_eq!(cluster(&[1; 5], "expected_votes: 3\n").quorum(), 3);
    let quorum = format!("expected_votes: 4\n{}", device("ffsplit", "votes: 1\n"));
    assert_eq!(cluster(&[1; 4], &quorum).quorum(), 3);
}

#[test]
fn two_node_never_makes_one_node_quorate_and_waits_for_both_unless_told_otherwise() {
    let conf = cluster(&[1, 1], "two_node: 1\n");
    assert_eq!(conf.quorum(), 2);
    assert!(conf.wait_for_all());
    assert!(!cluster(&[1, 1], "two_node: 1\nwait_for_all: 0\n").wait_for_all());
    assert!(!cluster(&[1, 1], "").wait_for_all());
    assert!(cluster(&[1, 1], "wait_for_all: 1\n").wait_for_all());
}
