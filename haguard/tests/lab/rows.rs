//! Kinds of clusters: what can be configured, pair by pair.

use protocol::ids::NodeId;
use protocol::vote::Algorithm::{self, Ffsplit, Lms, TwoNodeLms};
use protocol::vote::TieBreaker::{self, Highest, Lowest};

use super::conf::{Arbiter, Family, Heuristics, Plan, Stack, Tls, word};

/// A kind of cluster, in this order: nodes, algorithm, tie_breaker, keep_active_partition,
/// heuristics, family, TLS.
pub(crate) type Row = (u32, Algorithm, TieBreaker, bool, Heuristics, Family, Tls);

const fn id(node: u32) -> TieBreaker {
    TieBreaker::Node(NodeId(node))
}

/// Clusters in which every value of a column meets every value of every other one; `2nodelms` is
/// for two nodes.
pub(crate) const ROWS: [Row; 12] = [
    (2, Ffsplit, Highest, true, Heuristics::Off, Family::V4, Tls::Required),
    (3, Ffsplit, id(1), false, Heuristics::On, Family::V4, Tls::Old),
    (3, Ffsplit, Lowest, false, Heuristics::Off, Family::V6, Tls::On),
    (4, Ffsplit, Highest, false, Heuristics::Sync, Family::V4, Tls::On),
    (2, Lms, id(2), true, Heuristics::Sync, Family::V6, Tls::On),
    (3, Lms, Highest, true, Heuristics::On, Family::V6, Tls::Old),
    (3, Lms, id(1), false, Heuristics::Sync, Family::V6, Tls::Required),
    (4, Lms, Lowest, false, Heuristics::On, Family::V6, Tls::Required),
    (4, Lms, id(3), true, Heuristics::Off, Family::V4, Tls::Old),
    (2, TwoNodeLms, Lowest, true, Heuristics::Sync, Family::V4, Tls::Old),
    (2, TwoNodeLms, id(2), false, Heuristics::On, Family::V6, Tls::On),
    (2, TwoNodeLms, Highest, false, Heuristics::Off, Family::V4, Tls::Required),
];

/// The values of a row as words; a node id is "id" whichever it is.
pub(crate) fn values(row: &Row) -> [String; 7] {
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
    ]
}

/// The head of what [`values`] gives.
pub(crate) const HEAD: [&str; 7] = ["nodes", "algorithm", "tie", "keep", "heuristics", "ip", "tls"];

/// The cluster of a row.
pub(crate) fn plan(row: &Row, arbiter: Arbiter, stack: Stack) -> Plan {
    let (nodes, algorithm, tie_breaker, keep_active, heuristics, family, tls) = *row;
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
