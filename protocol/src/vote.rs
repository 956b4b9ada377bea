//! Votes and the settings that steer them, with the numbers of the qnetd wire.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::NodeId;

/// The arbiter's word on a membership (qnetd wire, option 19).
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Vote {
    /// The view has the arbiter's vote.
    Ack,
    /// It has not.
    Nack,
    /// The client shall ask again; the stock client waits for a vote info instead.
    AskLater,
    /// The answer comes as a vote info.
    WaitForReply,
    /// The last vote stands.
    NoChange,
}

impl fmt::Display for Vote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ack => "ACK",
            Self::Nack => "NACK",
            Self::AskLater => "Ask later",
            Self::WaitForReply => "Wait for reply",
            Self::NoChange => "No change",
        })
    }
}

/// How the arbiter chooses (qnetd wire, option 11).
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// Everyone gets an ACK; unsafe by design, for developers.
    Test,
    /// Exactly one half.
    Ffsplit,
    /// Two nodes, the last one stays.
    #[serde(rename = "2nodelms")]
    TwoNodeLms,
    /// Last man standing.
    Lms,
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Test => "Test",
            Self::Ffsplit => "Fifty-Fifty split",
            Self::TwoNodeLms => "2 Node LMS",
            Self::Lms => "LMS",
        })
    }
}

/// Which side a tie goes to (qnetd wire, option 21).
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TieBreaker {
    /// The side with the lowest node id.
    Lowest,
    /// The side with the highest node id.
    Highest,
    /// The side with this node.
    Node(NodeId),
}

/// What the heuristics commands of a node found (qnetd wire, option 22).
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Heuristics {
    /// At least one command failed or was late.
    Fail,
    /// No commands, or no result yet; on the wire the option is then left out.
    #[default]
    Undefined,
    /// All commands passed.
    Pass,
}

impl fmt::Display for Heuristics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fail => "Fail",
            Self::Undefined => "Undefined",
            Self::Pass => "Pass",
        })
    }
}

/// What a node's watchdog proves about its services once its bound has passed (safety 23).
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub enum WatchdogClass {
    /// Hardware, armed and read back: a proof.
    A,
    /// softdog or virtual hardware: a proof where the configuration says so.
    B,
    /// Our keeper process: a proof where the configuration says `trust-process-watchdog`.
    C,
    /// No watchdog: never a proof.
    #[default]
    D,
}

/// What a node announces about the end of its services (safety 22).
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Bound {
    /// The class of its watchdog.
    pub class: WatchdogClass,
    /// Its services have ended this many milliseconds after its entitlement.
    pub bound_ms: u32,
}
