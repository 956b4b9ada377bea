//! The corrections by which this arbiter differs from the stock one, under the names of
//! `docs/decisions.md`.

use std::fmt;

use protocol::vote::Algorithm;

/// One row of `docs/decisions.md`. Up to [`Row::BothMustAgree`] they are switches of
/// [`super::stock_rule`]; the others cannot be seen in a single look at the cluster.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Row {
    /// A client that is leaving still counts for its half (ffsplit).
    DepartingNotCounted,
    /// The vote is decided without a list that is on its way.
    ListsAwaited,
    /// One client holds up every decision for as long as it sends echoes.
    StuckLeftOut,
    /// Nodes that are not configured count towards the half (ffsplit).
    ForeignNotCounted,
    /// The tie-breaker takes the vote from a running half (ffsplit).
    HolderOverTieBreaker,
    /// Heuristics take the vote from a running half at once (ffsplit).
    HolderOverHeuristics,
    /// The higher one of two claimed majorities wins, whoever runs (ffsplit).
    HolderAmongMajorities,
    /// Newcomers and scores take the vote from a live holder (lms).
    HolderStays,
    /// A client is answered while others are unsettled (lms).
    EveryoneWaits,
    /// Two lists of one ring pass for one partition (lms).
    MembersCompared,
    /// A client on ring 0 is in no partition (lms).
    RingZeroCounts,
    /// A tie is broken among all partitions, not among those that lead (lms).
    LeadersOnly,
    /// An explicit tie-breaker answers its node, not its side (lms).
    ExplicitForItsSide,
    /// An explicit tie-breaker that is absent leaves nobody with the vote (lms).
    ExplicitAbsent,
    /// Ids of half of the range and above are never the lowest (lms).
    EveryIdCanBeLowest,
    /// A full list is answered before the other node has reported it (2nodelms).
    BothMustAgree,
    /// Only the client that reports is answered (lms, 2nodelms).
    ReEvaluation,
    /// A client is judged by what it said before its last report (lms).
    OldData,
    /// A quorum list is answered with a decision (lms).
    QuorumListDecidesNothing,
    /// A question for the vote is answered with a decision (lms).
    AskingDecidesNothing,
    /// A running vote is withdrawn while reports do not fit together (ffsplit).
    NoWithdrawal,
    /// A reconnecting process is refused while its old connection stands.
    NewestConnection,
    /// A refused second Init still changes the client.
    SecondInitRefused,
    /// A client may say another cluster's name later.
    ClusterFixed,
    /// A membership list without its sender is taken (lms, 2nodelms).
    SenderIsMember,
}

impl Row {
    /// The switches of an algorithm's rule, those for special cases first: where two of them
    /// explain the same, it is the first.
    pub fn of(algorithm: Algorithm) -> &'static [Self] {
        match algorithm {
            Algorithm::Test => &[],
            Algorithm::Ffsplit => &[
                Self::DepartingNotCounted,
                Self::ListsAwaited,
                Self::StuckLeftOut,
                Self::ForeignNotCounted,
                Self::HolderAmongMajorities,
                Self::HolderOverTieBreaker,
                Self::HolderOverHeuristics,
            ],
            Algorithm::Lms => &[
                Self::ListsAwaited,
                Self::StuckLeftOut,
                Self::EveryoneWaits,
                Self::MembersCompared,
                Self::RingZeroCounts,
                Self::LeadersOnly,
                Self::ExplicitForItsSide,
                Self::ExplicitAbsent,
                Self::EveryIdCanBeLowest,
                Self::HolderStays,
            ],
            Algorithm::TwoNodeLms => &[
                Self::ListsAwaited,
                Self::StuckLeftOut,
                Self::BothMustAgree,
                Self::ExplicitAbsent,
                Self::HolderStays,
            ],
        }
    }

    /// The name of the row in `docs/decisions.md`.
    pub fn name(self) -> &'static str {
        match self {
            Self::DepartingNotCounted => "departing-not-counted",
            Self::ListsAwaited => "lists-awaited",
            Self::StuckLeftOut => "stuck-left-out",
            Self::ForeignNotCounted => "foreign-not-counted",
            Self::HolderOverTieBreaker => "holder-over-tie-breaker",
            Self::HolderOverHeuristics => "holder-over-heuristics",
            Self::HolderAmongMajorities => "holder-among-majorities",
            Self::HolderStays => "holder-stays",
            Self::EveryoneWaits => "everyone-waits",
            Self::MembersCompared => "members-compared",
            Self::RingZeroCounts => "ring-zero-counts",
            Self::LeadersOnly => "leaders-only",
            Self::ExplicitForItsSide => "explicit-for-its-side",
            Self::ExplicitAbsent => "explicit-absent",
            Self::EveryIdCanBeLowest => "every-id-can-be-lowest",
            Self::BothMustAgree => "both-must-agree",
            Self::ReEvaluation => "re-evaluation",
            Self::OldData => "old-data",
            Self::QuorumListDecidesNothing => "quorum-list-decides-nothing",
            Self::AskingDecidesNothing => "asking-decides-nothing",
            Self::NoWithdrawal => "no-withdrawal",
            Self::NewestConnection => "newest-connection",
            Self::SecondInitRefused => "second-init-refused",
            Self::ClusterFixed => "cluster-fixed",
            Self::SenderIsMember => "sender-is-member",
        }
    }

    /// What the stock arbiter does, in a few words.
    pub fn stock_does(self) -> &'static str {
        match self {
            Self::DepartingNotCounted => "it still counts a client that has left",
            Self::ListsAwaited => "it decides without a list that is on its way",
            Self::StuckLeftOut => "one client that is stuck holds up its decision",
            Self::ForeignNotCounted => "it counts members that are not configured",
            Self::HolderOverTieBreaker => "its tie-breaker moves the vote from a running half",
            Self::HolderOverHeuristics => {
                "one result of heuristics moves the vote from a running half"
            }
            Self::HolderAmongMajorities => "it prefers the higher of two claimed majorities",
            Self::HolderStays => "it lets others outvote or outscore the running side",
            Self::EveryoneWaits => "it answers one client while others are unsettled",
            Self::MembersCompared => "it takes two lists of one ring for one partition",
            Self::RingZeroCounts => "it leaves out a client on ring 0",
            Self::LeadersOnly => "it breaks a tie among sides that do not lead",
            Self::ExplicitForItsSide => "its tie-breaker answers a node, not that node's side",
            Self::ExplicitAbsent => "its tie-breaker is not connected, and nobody wins",
            Self::EveryIdCanBeLowest => "an id of 2147483647 or more is never its lowest",
            Self::BothMustAgree => "it answers a full list that the other has not reported",
            Self::ReEvaluation => "it has not looked at this client again since it reported",
            Self::OldData => "it has judged this client by what it said before",
            Self::QuorumListDecidesNothing => "it has decided for this client's quorum list alone",
            Self::AskingDecidesNothing => "it has decided for this client's question alone",
            Self::NoWithdrawal => "it withdraws a running vote while reports do not fit",
            Self::NewestConnection => "it refuses a client whose old connection still stands",
            Self::SecondInitRefused => "it takes over a second init that it refuses",
            Self::ClusterFixed => "it lets a client change its cluster",
            Self::SenderIsMember => "it takes a membership list without its sender",
        }
    }

    /// The hazard that the row corrects (wire 8), where it is one of the numbered ones.
    pub fn hazard(self) -> Option<&'static str> {
        match self {
            Self::DepartingNotCounted => Some("8.8"),
            Self::ListsAwaited | Self::StuckLeftOut => Some("8.11"),
            Self::ExplicitForItsSide | Self::EveryIdCanBeLowest | Self::EveryoneWaits => {
                Some("8.7")
            }
            Self::ReEvaluation => Some("8.6"),
            Self::OldData => Some("8.7"),
            Self::NoWithdrawal => Some("8.10"),
            Self::NewestConnection => Some("8.14"),
            Self::ClusterFixed | Self::SecondInitRefused => Some("8.9"),
            Self::ForeignNotCounted
            | Self::HolderOverTieBreaker
            | Self::HolderOverHeuristics
            | Self::HolderAmongMajorities
            | Self::HolderStays
            | Self::MembersCompared
            | Self::RingZeroCounts
            | Self::LeadersOnly
            | Self::ExplicitAbsent
            | Self::BothMustAgree
            | Self::QuorumListDecidesNothing
            | Self::AskingDecidesNothing
            | Self::SenderIsMember => None,
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name())?;
        if let Some(hazard) = self.hazard() {
            write!(f, " ({hazard})")?;
        }
        write!(f, ": {}", self.stock_does())
    }
}
