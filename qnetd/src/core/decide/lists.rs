//! Checks of node lists before they are stored, and the replies that need no decision.

use std::collections::BTreeSet;

use protocol::ids::NodeId;
use protocol::qnet::{ErrorCode, NodeListType};
use protocol::vote::{Algorithm, Vote};

use super::two_node_lms::CONFIGURED_NODES;

/// Whether a configuration list, initial or changed, may be stored (wire 1.6, 4.2, 4.4).
///
/// # Errors
/// [`ErrorCode::InvalidConfigNodeList`]: ffsplit, and the sender is not in it.
/// [`ErrorCode::UnsupportedDecisionAlgorithm`]: 2nodelms, and it has not two nodes.
pub fn check_config_list(
    algorithm: Algorithm,
    sender: NodeId,
    nodes: &BTreeSet<NodeId>,
) -> Result<(), ErrorCode> {
    match algorithm {
        Algorithm::Ffsplit if !nodes.contains(&sender) => Err(ErrorCode::InvalidConfigNodeList),
        Algorithm::TwoNodeLms if nodes.len() != CONFIGURED_NODES => {
            Err(ErrorCode::UnsupportedDecisionAlgorithm)
        }
        Algorithm::Test | Algorithm::Ffsplit | Algorithm::TwoNodeLms | Algorithm::Lms => Ok(()),
    }
}

/// Whether a membership list may be stored (wire 1.6, 4.2).
///
/// Correction: the stock daemon checks it for ffsplit only. No honest client leaves itself out of
/// its membership, and a partition without its reporter cannot be given the vote.
///
/// # Errors
/// [`ErrorCode::InvalidMembershipNodeList`]: the sender is not in it (not for the test algorithm).
pub fn check_membership_list(
    algorithm: Algorithm,
    sender: NodeId,
    nodes: &BTreeSet<NodeId>,
) -> Result<(), ErrorCode> {
    match algorithm {
        Algorithm::Test => Ok(()),
        Algorithm::Ffsplit | Algorithm::TwoNodeLms | Algorithm::Lms => {
            if nodes.contains(&sender) {
                Ok(())
            } else {
                Err(ErrorCode::InvalidMembershipNodeList)
            }
        }
    }
}

/// The vote in the reply to a node list that has passed its check, where no decision is needed
/// for it; `None`: what [`decide`](super::decide) says of the sender's new view. `has_config` and
/// `has_members` tell what the sender had sent before this list (wire 4.1 to 4.4).
///
/// Correction: the stock daemon answers a quorum list under lms by running the algorithm; here
/// every event re-evaluates everyone anyway, and changes come as vote infos.
pub fn list_reply(
    algorithm: Algorithm,
    list: NodeListType,
    has_config: bool,
    has_members: bool,
) -> Option<Vote> {
    match list {
        NodeListType::InitialConfig => Some(match algorithm {
            Algorithm::Ffsplit => Vote::AskLater,
            Algorithm::Test | Algorithm::TwoNodeLms | Algorithm::Lms => Vote::NoChange,
        }),
        NodeListType::ChangedConfig => match algorithm {
            Algorithm::Ffsplit if has_members => None,
            Algorithm::Ffsplit => Some(Vote::AskLater),
            Algorithm::Test | Algorithm::TwoNodeLms | Algorithm::Lms => Some(Vote::NoChange),
        },
        NodeListType::Membership => match algorithm {
            Algorithm::Test => Some(Vote::Ack),
            Algorithm::Ffsplit if !has_config => Some(Vote::AskLater),
            Algorithm::Ffsplit | Algorithm::TwoNodeLms | Algorithm::Lms => None,
        },
        NodeListType::Quorum => Some(Vote::NoChange),
    }
}

/// The vote in the reply to a heuristics change, where no decision is needed for it; `None`: what
/// [`decide`](super::decide) says (wire 4.1 to 4.4).
///
/// Correction: lms and 2nodelms re-evaluate at once like ffsplit (hazard 8.6); the reply itself
/// stays the stock one, and a change comes as a vote info.
pub fn heuristics_reply(algorithm: Algorithm, has_config: bool, has_members: bool) -> Option<Vote> {
    match algorithm {
        Algorithm::Test | Algorithm::TwoNodeLms | Algorithm::Lms => Some(Vote::NoChange),
        Algorithm::Ffsplit if has_config && has_members => None,
        Algorithm::Ffsplit => Some(Vote::AskLater),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Algorithm; 4] =
        [Algorithm::Test, Algorithm::Ffsplit, Algorithm::TwoNodeLms, Algorithm::Lms];

    fn nodes(ids: &[u32]) -> BTreeSet<NodeId> {
        ids.iter().map(|id| NodeId(*id)).collect()
    }

    #[test]
    fn ffsplit_refuses_a_config_list_without_its_sender() {
        let check = |ids: &[u32]| check_config_list(Algorithm::Ffsplit, NodeId(1), &nodes(ids));
        assert_eq!(check(&[]), Err(ErrorCode::InvalidConfigNodeList));
        assert_eq!(check(&[2, 3]), Err(ErrorCode::InvalidConfigNodeList));
        assert_eq!(check(&[1, 2]), Ok(()));
    }

    #[test]
    fn two_node_lms_refuses_a_config_list_that_has_not_two_nodes() {
        let check = |ids: &[u32]| check_config_list(Algorithm::TwoNodeLms, NodeId(1), &nodes(ids));
        assert_eq!(check(&[1]), Err(ErrorCode::UnsupportedDecisionAlgorithm));
        assert_eq!(check(&[1, 2, 3]), Err(ErrorCode::UnsupportedDecisionAlgorithm));
        assert_eq!(check(&[1, 2]), Ok(()));
    }

    #[test]
    fn test_and_lms_take_any_config_list() {
        for algorithm in [Algorithm::Test, Algorithm::Lms] {
            assert_eq!(check_config_list(algorithm, NodeId(1), &nodes(&[])), Ok(()));
        }
    }

    #[test]
    fn a_membership_list_without_its_sender_is_refused_but_for_test() {
        for algorithm in ALL {
            let result = check_membership_list(algorithm, NodeId(1), &nodes(&[2]));
            let refused = Err(ErrorCode::InvalidMembershipNodeList);
            let expected = if algorithm == Algorithm::Test { Ok(()) } else { refused };
            assert_eq!(result, expected, "{algorithm:?}");
            assert_eq!(check_membership_list(algorithm, NodeId(1), &nodes(&[1, 2])), Ok(()));
        }
    }

    #[test]
    fn ffsplit_says_ask_later_until_it_has_both_lists() {
        let reply = |list, config, members| list_reply(Algorithm::Ffsplit, list, config, members);
        assert_eq!(reply(NodeListType::InitialConfig, true, true), Some(Vote::AskLater));
        assert_eq!(reply(NodeListType::ChangedConfig, true, false), Some(Vote::AskLater));
        assert_eq!(reply(NodeListType::ChangedConfig, true, true), None);
        assert_eq!(reply(NodeListType::Membership, false, false), Some(Vote::AskLater));
        assert_eq!(reply(NodeListType::Membership, true, false), None);
        let heuristics = |config, members| heuristics_reply(Algorithm::Ffsplit, config, members);
        assert_eq!(heuristics(false, true), Some(Vote::AskLater));
        assert_eq!(heuristics(true, false), Some(Vote::AskLater));
        assert_eq!(heuristics(true, true), None);
    }

    #[test]
    fn the_others_change_nothing_but_on_a_membership_list() {
        for algorithm in [Algorithm::Test, Algorithm::TwoNodeLms, Algorithm::Lms] {
            for list in
                [NodeListType::InitialConfig, NodeListType::ChangedConfig, NodeListType::Quorum]
            {
                assert_eq!(list_reply(algorithm, list, true, true), Some(Vote::NoChange));
            }
            assert_eq!(heuristics_reply(algorithm, true, true), Some(Vote::NoChange));
        }
        let membership = |a| list_reply(a, NodeListType::Membership, true, true);
        assert_eq!(membership(Algorithm::Test), Some(Vote::Ack));
        assert_eq!(membership(Algorithm::TwoNodeLms), None);
        assert_eq!(membership(Algorithm::Lms), None);
    }

    #[test]
    fn a_quorum_list_is_never_answered_with_a_decision() {
        for algorithm in ALL {
            let reply = list_reply(algorithm, NodeListType::Quorum, true, true);
            assert_eq!(reply, Some(Vote::NoChange), "{algorithm:?}");
        }
    }
}
