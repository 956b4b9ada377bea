//! The wire numbers of the words that every part of haguard shares (wire 1.5).

use super::tlv::{DecodeFault, Input, Value};
use super::{NodeListType, NodeState, TlsSupport};
use crate::ids::{ClusterName, NodeId, RingId};
use crate::vote::{Algorithm, Heuristics, TieBreaker, Vote};

/// The number of an algorithm (options 10 and 11).
pub const fn algorithm_number(algorithm: Algorithm) -> u16 {
    match algorithm {
        Algorithm::Test => 0,
        Algorithm::Ffsplit => 1,
        Algorithm::TwoNodeLms => 2,
        Algorithm::Lms => 3,
    }
}

/// The algorithm of a number; a server answers an unknown one with
/// [`ErrorCode::UnsupportedDecisionAlgorithm`](super::ErrorCode::UnsupportedDecisionAlgorithm).
pub const fn algorithm_from_number(number: u16) -> Option<Algorithm> {
    match number {
        0 => Some(Algorithm::Test),
        1 => Some(Algorithm::Ffsplit),
        2 => Some(Algorithm::TwoNodeLms),
        3 => Some(Algorithm::Lms),
        _ => None,
    }
}

/// The number of a vote (option 19).
pub const fn vote_number(vote: Vote) -> u8 {
    match vote {
        Vote::Ack => 1,
        Vote::Nack => 2,
        Vote::AskLater => 3,
        Vote::WaitForReply => 4,
        Vote::NoChange => 5,
    }
}

/// The vote of a number; 0, the stock peers' "undefined", is never on the wire.
pub const fn vote_from_number(number: u8) -> Option<Vote> {
    match number {
        1 => Some(Vote::Ack),
        2 => Some(Vote::Nack),
        3 => Some(Vote::AskLater),
        4 => Some(Vote::WaitForReply),
        5 => Some(Vote::NoChange),
        _ => None,
    }
}

/// The number of a heuristics result (option 22); 0 is never on the wire.
pub const fn heuristics_number(heuristics: Heuristics) -> u8 {
    match heuristics {
        Heuristics::Undefined => 0,
        Heuristics::Pass => 1,
        Heuristics::Fail => 2,
    }
}

/// The heuristics result of a number on the wire; 0 is refused, because "undefined" is said by
/// leaving the option out.
pub const fn heuristics_from_number(number: u8) -> Option<Heuristics> {
    match number {
        1 => Some(Heuristics::Pass),
        2 => Some(Heuristics::Fail),
        _ => None,
    }
}

/// The mode and the node id of a tie-breaker (option 21); the node id is 0 unless one is named.
pub const fn tie_breaker_numbers(tie_breaker: TieBreaker) -> (u8, u32) {
    match tie_breaker {
        TieBreaker::Lowest => (1, 0),
        TieBreaker::Highest => (2, 0),
        TieBreaker::Node(node) => (3, node.0),
    }
}

/// The tie-breaker of a mode and a node id; the node id counts only in mode 3.
pub const fn tie_breaker_from_numbers(mode: u8, node: u32) -> Option<TieBreaker> {
    match mode {
        1 => Some(TieBreaker::Lowest),
        2 => Some(TieBreaker::Highest),
        3 => Some(TieBreaker::Node(NodeId(node))),
        _ => None,
    }
}

const fn tls_support_from_number(number: u8) -> Option<TlsSupport> {
    match number {
        0 => Some(TlsSupport::Unsupported),
        1 => Some(TlsSupport::Supported),
        2 => Some(TlsSupport::Required),
        _ => None,
    }
}

const fn node_state_from_number(number: u8) -> Option<NodeState> {
    match number {
        1 => Some(NodeState::Member),
        2 => Some(NodeState::Dead),
        3 => Some(NodeState::Leaving),
        _ => None,
    }
}

const fn list_type_from_number(number: u8) -> Option<NodeListType> {
    match number {
        0 => Some(NodeListType::InitialConfig),
        1 => Some(NodeListType::ChangedConfig),
        2 => Some(NodeListType::Membership),
        3 => Some(NodeListType::Quorum),
        _ => None,
    }
}

/// One checked byte (wire 1.4).
macro_rules! checked_values {
    ($($type:ty: $from_number:ident, $number:expr;)*) => {$(
        impl Value for $type {
            fn read(input: &mut Input<'_>) -> Result<Self, DecodeFault> {
                $from_number(u8::read(input)?).ok_or(input.bad_value())
            }

            fn write(&self, output: &mut Vec<u8>) {
                output.push($number(*self));
            }
        }
    )*};
}

checked_values! {
    Vote: vote_from_number, vote_number;
    Heuristics: heuristics_from_number, heuristics_number;
    TlsSupport: tls_support_from_number, |value| value as u8;
    NodeState: node_state_from_number, |value| value as u8;
    NodeListType: list_type_from_number, |value| value as u8;
}

impl Value for TieBreaker {
    fn read(input: &mut Input<'_>) -> Result<Self, DecodeFault> {
        let (mode, node) = (u8::read(input)?, u32::read(input)?);
        tie_breaker_from_numbers(mode, node).ok_or(input.bad_value())
    }

    fn write(&self, output: &mut Vec<u8>) {
        let (mode, node) = tie_breaker_numbers(*self);
        mode.write(output);
        node.write(output);
    }
}

impl Value for ClusterName {
    fn read(input: &mut Input<'_>) -> Result<Self, DecodeFault> {
        Ok(Self(input.take_rest().to_vec()))
    }

    fn write(&self, output: &mut Vec<u8>) {
        output.extend(&self.0);
    }
}

impl Value for RingId {
    fn read(input: &mut Input<'_>) -> Result<Self, DecodeFault> {
        let (node, seq) = (u32::read(input)?, u64::read(input)?);
        Ok(Self { seq, node })
    }

    fn write(&self, output: &mut Vec<u8>) {
        self.node.write(output);
        self.seq.write(output);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_vote_heuristics_result_algorithm_and_tie_breaker_has_its_number() {
        let bytes = || 0..=u8::MAX;
        let votes: Vec<u8> = bytes().filter_map(vote_from_number).map(vote_number).collect();
        assert_eq!(votes, [1, 2, 3, 4, 5]);
        let results: Vec<u8> =
            bytes().filter_map(heuristics_from_number).map(heuristics_number).collect();
        assert_eq!(results, [1, 2]);
        let algorithms: Vec<u16> =
            (0..=u16::MAX).filter_map(algorithm_from_number).map(algorithm_number).collect();
        assert_eq!(algorithms, [0, 1, 2, 3]);
        let tie_breakers: Vec<(u8, u32)> = bytes()
            .filter_map(|mode| tie_breaker_from_numbers(mode, 5))
            .map(tie_breaker_numbers)
            .collect();
        assert_eq!(tie_breakers, [(1, 0), (2, 0), (3, 5)]);
    }
}
