//! Kinds of clusters: what can be configured, pair by pair.

use protocol::ids::NodeId;
use protocol::vote::Algorithm::{self, Ffsplit, Lms, TwoNodeLms};
use protocol::vote::TieBreaker::{self, Highest, Lowest};

use super::conf::{Arbiter, Family, Heuristics, Plan, Stack, Tls, word};
use super::pki::Made;

/// A kind of cluster, in this order: nodes, algorithm, tie_breaker, keep_active_partition,
/// heuristics, family, TLS, who has made the certificates.
pub(crate) type Row = (u32, Algorithm, TieBreaker, bool, Heuristics, Family, Tls, Made);

/// How many values a row has.
pub(crate) const COLUMNS: usize = 8;

const fn id(node: u32) -> TieBreaker {
    TieBreaker::Node(NodeId(node))
}

/// Clusters in which every value of a column meets every value of every other one; `2nodelms` is
/// for two nodes.
pub(crate) const ROWS: [Row; 12] = [
    (2, Ffsplit, Highest, false, Heuristics::Off, Family::V4, Tls::Old, Made::Mixed),
    (3, Ffsplit, Highest, false, Heuristics::Sync, Family::V6, Tls::On, Made::Ours),
    (3, Ffsplit, id(1), true, Heuristics::On, Family::V4, Tls::Required, Made::Mixed),
    (4, Ffsplit, Lowest, false, Heuristics::Sync, Family::V4, Tls::Required, Made::Stock),
    (2, Lms, Lowest, false, Heuristics::On, Family::V6, Tls::On, Made::Ours),
    (3, Lms, Lowest, true, Heuristics::Off, Family::V6, Tls::Old, Made::Stock),
    (4, Lms, id(2), false, Heuristics::Sync, Family::V6, Tls::Old, Made::Ours),
    (4, Lms, id(3), true, Heuristics::Off, Family::V4, Tls::On, Made::Stock),
    (4, Lms, Highest, true, Heuristics::On, Family::V6, Tls::Required, Made::Mixed),
    (2, TwoNodeLms, Lowest, true, Heuristics::Sync, Family::V4, Tls::On, Made::Mixed),
    (2, TwoNodeLms, id(2), true, Heuristics::Off, Family::V4, Tls::Required, Made::Ours),
    (2, TwoNodeLms, Highest, false, Heuristics::On, Family::V6, Tls::Old, Made::Stock),
];

/// The values of a row as words; a node id is "id" whichever it is.
pub(crate) fn values(row: &Row) -> [String; COLUMNS] {
    let tie_breaker = match row.2 {
        Lowest => "lowest".to_owned(),
        Highest => "highest".to_owned(),
        TieBreaker::Node(_) => "id".to_owned(),
    };
    [
        row.0.to_string(),
        word(row.1).to_owned(),
        tie_breaker,
        if row.3 { "on" } else { "off" }.to_owned(),
        format!("{:?}", row.4).to_lowercase(),
        format!("{:?}", row.5),
        format!("{:?}", row.6).to_lowercase(),
        format!("{:?}", row.7).to_lowercase(),
    ]
}

/// The head of what [`values`] gives.
pub(crate) const HEAD: [&str; COLUMNS] =
    ["nodes", "algorithm", "tie", "keep", "heuristics", "ip", "tls", "certificates"];

/// The cluster of a row.
pub(crate) fn plan(row: &Row, arbiter: Arbiter, stack: Stack) -> Plan {
    let (nodes, algorithm, tie_breaker, keep_active, heuristics, family, tls, _) = *row;
    Plan {
        nodes,
        tie_breaker,
        keep_active,
        heuristics,
        family,
        tls,
        ..Plan::new(arbiter, stack, algorithm)
    }
}

/// The version of TLS that the two sides agree on, as ours call it in their logs.
pub(crate) fn tls_version(row: &Row) -> &'static str {
    match row.6 {
        Tls::Old => "TLSv1.2",
        Tls::On | Tls::Required => "TLSv1.3",
    }
}

/// The two halves after the cut, and the one that has to win.
pub(crate) fn halves(row: &Row) -> ([Vec<u32>; 2], usize) {
    let (nodes, ..) = *row;
    let first: Vec<u32> = (1..=nodes / 2).collect();
    let second: Vec<u32> = (nodes / 2 + 1..=nodes).collect();
    let preferred = match row.2 {
        _ if nodes % 2 == 1 => nodes,
        Lowest => 1,
        Highest => nodes,
        TieBreaker::Node(node) => node.0,
    };
    let winner = usize::from(!first.contains(&preferred));
    ([first, second], winner)
}
