//! A difference between two arbiters, and its reason.

use std::fmt;
use std::time::Duration;

use protocol::ids::{ClusterName, NodeId, RingId};

use super::row::Row;
use super::stock_rule::Answer;
use crate::core::Waiting;

/// One client is not told the same by the stock arbiter as it would be by ours.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Difference {
    /// Its cluster.
    pub cluster: ClusterName,
    /// Its node.
    pub node: NodeId,
    /// The ring that it reports.
    pub ring: RingId,
    /// What the stock arbiter told it.
    pub stock: Answer,
    /// What ours told it.
    pub ours: Answer,
    /// What our decision gives it as soon as the vote may move; `None` while nothing is decided.
    pub decided: Option<Answer>,
    /// Why.
    pub reason: Reason,
    /// What our vote waits for before it follows our decision.
    pub waits: Option<Wait>,
}

/// Why two arbiters differ.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Reason {
    /// The stock arbiter follows its rule, and ours corrects it.
    Correction(Row),
    /// Both decide alike, and ours still waits.
    Rule(Wait),
    /// Neither rule explains it: both views in one line.
    Bug(String),
}

/// A wait that a rule of safety demands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Wait {
    /// For what, and by which rule.
    pub what: Waiting,
    /// For how long at the most; `None`: until it happens.
    pub remaining: Option<Duration>,
}

impl Reason {
    /// One word for scripts.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Correction(_) => "correction",
            Self::Rule(_) => "rule",
            Self::Bug(_) => "bug",
        }
    }

    /// The same reason, whatever is left of its wait.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Correction(a), Self::Correction(b)) => a == b,
            (Self::Rule(a), Self::Rule(b)) => a.what == b.what,
            (Self::Bug(_), Self::Bug(_)) => true,
            (Self::Correction(_) | Self::Rule(_) | Self::Bug(_), _) => false,
        }
    }
}

impl Difference {
    /// Nothing but the time that is left has changed.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let votes = |d: &Self| (d.ring, d.stock, d.ours, d.decided);
        votes(self) == votes(other) && self.reason.is_same(&other.reason)
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ack => "ack",
            Self::Nack => "nack",
            Self::Wait => "wait",
        })
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "safety {}: {}", self.what.rule(), self.what)?;
        match self.remaining {
            Some(left) => {
                write!(f, ", for {}.{} s at most", left.as_secs(), left.subsec_millis() / 100)
            }
            None => write!(f, ", until it happens"),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Correction(row) => write!(f, "correction {row}"),
            Self::Rule(wait) => write!(f, "{wait}"),
            Self::Bug(views) => write!(f, "bug: neither rule explains it: {views}"),
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (node, ring, stock) = (self.node, self.ring, self.stock);
        write!(f, "node {node}, ring {ring}: stock says {stock}, ours {}", self.ours)?;
        if let Some(decided) = self.decided.filter(|decided| *decided != self.ours) {
            write!(f, " and will say {decided}")?;
        }
        write!(f, "; {}", self.reason)?;
        match &self.waits {
            Some(wait) => write!(f, "; waits by {wait}"),
            None => Ok(()),
        }
    }
}
