//! The worked traces of wire 4.2 and the hazards of wire 8, as stories: what the clients report,
//! and who then has the vote.

use std::collections::BTreeMap;

use protocol::ids::{NodeId, ViewId};
use protocol::vote::{Algorithm, Heuristics, TieBreaker};
use qnetd::core::decide::{
    ClientView, ClusterView, Decision, GiveReason, NobodyReason, WaitReason, decide,
};

use crate::worlds::{ring, set};

/// One cluster over time; the holder follows the decisions at once.
struct Story {
    view: ClusterView,
    tie_breaker: TieBreaker,
    keep_active_partition: bool,
    config: Vec<u32>,
}

impl Story {
    fn new(algorithm: Algorithm, config: &[u32]) -> Self {
        Self {
            view: ClusterView { algorithm, clients: BTreeMap::new(), holder: None },
            tie_breaker: TieBreaker::Lowest,
            keep_active_partition: true,
            config: config.to_vec(),
        }
    }

    /// A client has done Init and not more.
    fn connects(&mut self, node: u32) -> Decision {
        let client = ClientView {
            config: set(&[]),
            members: set(&[]),
            view: ViewId::default(),
            heuristics: Heuristics::Undefined,
            heuristics_failed_before: false,
            tie_breaker: self.tie_breaker,
            keep_active_partition: self.keep_active_partition,
            stuck: false,
        };
        self.view.clients.insert(NodeId(node), client);
        self.decide()
    }

    /// A node reports its lists in the ring `seq` that the lowest member has formed.
    fn reports(&mut self, node: u32, members: &[u32], seq: u64) -> Decision {
        if !self.view.clients.contains_key(&NodeId(node)) {
            self.connects(node);
        }
        let config = set(&self.config);
        let client = self.client(node);
        client.config = config;
        client.members = set(members);
        client.view = ring(members.iter().min().copied().unwrap_or_default(), seq);
        client.stuck = false;
        self.decide()
    }

    fn heuristics(&mut self, node: u32, result: Heuristics) -> Decision {
        let client = self.client(node);
        client.heuristics_failed_before = client.heuristics == Heuristics::Fail;
        client.heuristics = result;
        self.decide()
    }

    /// The limit has passed since the node's last report.
    fn is_stuck(&mut self, node: u32) -> Decision {
        self.client(node).stuck = true;
        self.decide()
    }

    fn leaves(&mut self, node: u32) -> Decision {
        self.view.clients.remove(&NodeId(node));
        self.decide()
    }

    fn client(&mut self, node: u32) -> &mut ClientView {
        self.view.clients.get_mut(&NodeId(node)).expect("the story names a connected node")
    }

    fn decide(&mut self) -> Decision {
        let decision = decide(&self.view);
        match &decision {
            Decision::Give { members, .. } => self.view.holder = Some(members.clone()),
            Decision::Nobody(_) => self.view.holder = None,
            Decision::Wait(_) | Decision::All => {}
        }
        decision
    }
}

fn give(members: &[u32], seq: u64, reason: GiveReason) -> Decision {
    let lowest = members.iter().min().copied().unwrap_or_default();
    Decision::Give { view: ring(lowest, seq), members: set(members), reason }
}

fn wait_for_ring(behind: u32, ahead: u32) -> Decision {
    Decision::Wait(WaitReason::RingsDiffer(NodeId(behind), NodeId(ahead)))
}

#[test]
fn two_nodes_come_one_by_one_join_and_split() {
    let mut s = Story::new(Algorithm::Ffsplit, &[1, 2]);
    assert_eq!(decide(&s.view), Decision::Wait(WaitReason::NoClient));
    assert_eq!(s.reports(1, &[1], 4), give(&[1], 4, GiveReason::OnlyPartition));
    assert_eq!(s.connects(2), Decision::Wait(WaitReason::ListsMissing(NodeId(2))));
    assert_eq!(s.reports(2, &[2], 4), give(&[1], 4, GiveReason::Holder));
    assert_eq!(s.reports(1, &[1, 2], 8), wait_for_ring(2, 1));
    assert_eq!(s.reports(2, &[1, 2], 8), give(&[1, 2], 8, GiveReason::Majority));
    assert_eq!(s.reports(2, &[2], 12), wait_for_ring(1, 2));
    assert_eq!(s.reports(1, &[1], 12), give(&[1], 12, GiveReason::TieBreaker));
}

#[test]
fn survivors_keep_the_vote_when_a_node_of_their_partition_leaves_the_arbiter() {
    let mut s = Story::new(Algorithm::Ffsplit, &[1, 2]);
    s.reports(1, &[1, 2], 8);
    s.reports(2, &[1, 2], 8);
    assert_eq!(s.leaves(1), give(&[1, 2], 8, GiveReason::Majority));
    assert_eq!(s.reports(2, &[2], 12), give(&[2], 12, GiveReason::OnlyPartition));
}

#[test]
fn heuristics_decide_a_fresh_split_before_the_tie_breaker() {
    for algorithm in [Algorithm::Ffsplit, Algorithm::Lms, Algorithm::TwoNodeLms] {
        let mut s = Story::new(algorithm, &[1, 2]);
        s.reports(1, &[1, 2], 8);
        s.reports(2, &[1, 2], 8);
        s.heuristics(1, Heuristics::Fail);
        s.heuristics(2, Heuristics::Pass);
        s.reports(1, &[1], 12);
        let decision = s.reports(2, &[2], 12);
        assert_eq!(decision, give(&[2], 12, GiveReason::Heuristics), "{algorithm:?}");
    }
}

#[test]
fn of_three_nodes_the_majority_wins() {
    let mut s = Story::new(Algorithm::Ffsplit, &[1, 2, 3]);
    assert_eq!(s.reports(1, &[1], 4), Decision::Nobody(NobodyReason::NoHalf));
    s.reports(2, &[2, 3], 4);
    assert_eq!(s.reports(3, &[2, 3], 4), give(&[2, 3], 4, GiveReason::Majority));
}

/// Without `keep_active_partition` the stock daemon moves the vote to node 1 (wire 4.2).
#[test]
fn the_active_half_keeps_the_vote_with_and_without_keep_active_partition() {
    for keep in [true, false] {
        for algorithm in [Algorithm::Ffsplit, Algorithm::Lms, Algorithm::TwoNodeLms] {
            let mut s = Story::new(algorithm, &[1, 2]);
            s.keep_active_partition = keep;
            assert_eq!(s.reports(2, &[2], 4), give(&[2], 4, GiveReason::OnlyPartition));
            let decision = s.reports(1, &[1], 4);
            assert_eq!(decision, give(&[2], 4, GiveReason::Holder), "{algorithm:?} {keep}");
        }
    }
}

/// Safety 36: the first fail may be a hiccup.
#[test]
fn a_live_holder_loses_the_vote_to_better_heuristics_only_after_two_fails_in_a_row() {
    for algorithm in [Algorithm::Ffsplit, Algorithm::Lms, Algorithm::TwoNodeLms] {
        let mut s = Story::new(algorithm, &[1, 2]);
        s.reports(1, &[1], 4);
        s.reports(2, &[2], 4);
        let kept = give(&[1], 4, GiveReason::Holder);
        assert_eq!(s.heuristics(2, Heuristics::Pass), kept, "{algorithm:?}");
        assert_eq!(s.heuristics(1, Heuristics::Fail), kept, "{algorithm:?}");
        assert_eq!(s.heuristics(1, Heuristics::Pass), kept, "{algorithm:?}");
        assert_eq!(s.heuristics(1, Heuristics::Fail), kept, "{algorithm:?}");
        let moved = give(&[2], 4, GiveReason::Heuristics);
        assert_eq!(s.heuristics(1, Heuristics::Fail), moved, "{algorithm:?}");
        // And it does not come back for one good result.
        let stays = give(&[2], 4, GiveReason::Holder);
        assert_eq!(s.heuristics(1, Heuristics::Pass), stays, "{algorithm:?}");
    }
}

/// Hazard 8.6: the stock daemon does nothing for node 2 when node 1 dies.
#[test]
fn the_survivor_gets_the_vote_when_the_holder_leaves() {
    for algorithm in [Algorithm::Ffsplit, Algorithm::Lms, Algorithm::TwoNodeLms] {
        let mut s = Story::new(algorithm, &[1, 2]);
        s.reports(1, &[1], 4);
        s.reports(2, &[2], 4);
        let decision = s.leaves(1);
        assert_eq!(decision, give(&[2], 4, GiveReason::OnlyPartition), "{algorithm:?}");
    }
}

/// Hazard 8.7: the stock daemon tells node 3 ACK and node 4, of the same ring, NACK.
#[test]
fn an_explicit_tie_breaker_answers_its_whole_partition() {
    let mut s = Story::new(Algorithm::Lms, &[1, 2, 3, 4]);
    s.tie_breaker = TieBreaker::Node(NodeId(3));
    for node in [1, 2, 3, 4] {
        s.reports(node, &[1, 2, 3, 4], 4);
    }
    s.reports(1, &[1, 2], 8);
    s.reports(2, &[1, 2], 8);
    s.reports(3, &[3, 4], 8);
    assert_eq!(s.reports(4, &[3, 4], 8), give(&[3, 4], 8, GiveReason::TieBreaker));
}

/// Hazard 8.7: the stock daemon never finds the lowest of them.
#[test]
fn the_lowest_node_wins_also_with_ids_over_half_of_the_range() {
    let (low, high) = (0x8000_0000, 0xffff_fffe);
    let mut s = Story::new(Algorithm::Lms, &[low, high]);
    s.reports(low, &[low, high], 4);
    s.reports(high, &[low, high], 4);
    s.reports(low, &[low], 8);
    assert_eq!(s.reports(high, &[high], 8), give(&[low], 8, GiveReason::TieBreaker));
}

/// Hazard 8.8: the stock daemon still counts node 1 when it decides about its departure.
#[test]
fn the_half_that_lost_a_client_loses_the_vote_at_once() {
    let mut s = Story::new(Algorithm::Ffsplit, &[1, 2, 3, 4]);
    for node in [1, 2, 3, 4] {
        s.reports(node, &[1, 2, 3, 4], 4);
    }
    s.reports(1, &[1, 2], 8);
    s.reports(2, &[1, 2], 8);
    s.reports(3, &[3, 4], 8);
    assert_eq!(s.reports(4, &[3, 4], 8), give(&[1, 2], 8, GiveReason::TieBreaker));
    assert_eq!(s.leaves(1), give(&[3, 4], 8, GiveReason::MoreClients));
    // With as many clients again, the vote stays where it is.
    assert_eq!(s.reports(1, &[1, 2], 8), give(&[3, 4], 8, GiveReason::Holder));
}

/// Hazard 8.11: the stock daemon waits for as long as the client sends echoes.
#[test]
fn a_client_that_never_sends_its_lists_holds_nobody_up_for_long() {
    for algorithm in [Algorithm::Ffsplit, Algorithm::Lms, Algorithm::TwoNodeLms] {
        let mut s = Story::new(algorithm, &[1, 2]);
        s.reports(1, &[1], 4);
        let waiting = Decision::Wait(WaitReason::ListsMissing(NodeId(2)));
        assert_eq!(s.connects(2), waiting, "{algorithm:?}");
        assert_eq!(s.is_stuck(2), give(&[1], 4, GiveReason::OnlyPartition), "{algorithm:?}");
        // With nobody else there is nothing to decide.
        let nothing = Decision::Wait(WaitReason::AllStuck);
        assert_eq!(s.leaves(1), nothing, "{algorithm:?}");
    }
}

#[test]
fn a_client_that_stays_behind_holds_nobody_up_for_long() {
    let mut s = Story::new(Algorithm::Ffsplit, &[1, 2]);
    s.reports(1, &[1, 2], 4);
    s.reports(2, &[1, 2], 4);
    assert_eq!(s.reports(2, &[2], 8), wait_for_ring(1, 2));
    // Node 1's report is old, but node 2's is not: node 1 may be about to follow.
    assert_eq!(s.is_stuck(1), wait_for_ring(1, 2));
    assert_eq!(s.is_stuck(2), give(&[2], 8, GiveReason::OnlyPartition));
    assert_eq!(s.reports(1, &[1], 8), give(&[2], 8, GiveReason::Holder));
}

#[test]
fn old_reports_that_fit_together_are_as_good_as_young_ones() {
    let mut s = Story::new(Algorithm::Ffsplit, &[1, 2]);
    s.reports(1, &[1, 2], 4);
    let given = give(&[1, 2], 4, GiveReason::Majority);
    assert_eq!(s.reports(2, &[1, 2], 4), given);
    assert_eq!(s.is_stuck(1), given);
    assert_eq!(s.is_stuck(2), given);
}

/// Views of one ring with different random parts are different views (safety 2).
#[test]
fn rings_are_compared_with_their_random_part() {
    let mut s = Story::new(Algorithm::Ffsplit, &[1, 2]);
    s.reports(1, &[1, 2], 4);
    s.client(1).view.nonce = 7;
    assert_eq!(s.reports(2, &[1, 2], 4), wait_for_ring(2, 1));
}

#[test]
fn different_configurations_keep_ffsplit_waiting() {
    let mut s = Story::new(Algorithm::Ffsplit, &[1, 2]);
    s.reports(1, &[1, 2], 4);
    s.reports(2, &[1, 2], 4);
    s.config = vec![1, 2, 3];
    let waiting = Decision::Wait(WaitReason::ConfigsDiffer(NodeId(1), NodeId(2)));
    assert_eq!(s.reports(2, &[1, 2], 4), waiting);
    assert_eq!(s.reports(1, &[1, 2], 4), give(&[1, 2], 4, GiveReason::Majority));
}

/// With lms the last man standing keeps the vote, however many come back elsewhere (wire 4.3
/// step 4).
#[test]
fn the_last_man_standing_keeps_the_vote_against_newcomers() {
    let mut s = Story::new(Algorithm::Lms, &[1, 2, 3, 4]);
    assert_eq!(s.reports(4, &[4], 4), give(&[4], 4, GiveReason::OnlyPartition));
    s.reports(1, &[1, 2, 3], 4);
    s.reports(2, &[1, 2, 3], 4);
    assert_eq!(s.reports(3, &[1, 2, 3], 4), give(&[4], 4, GiveReason::Holder));
    assert_eq!(s.leaves(4), give(&[1, 2, 3], 4, GiveReason::OnlyPartition));
}

#[test]
fn lms_gives_a_fresh_split_to_the_side_with_more_clients() {
    let mut s = Story::new(Algorithm::Lms, &[1, 2, 3]);
    for node in [1, 2, 3] {
        s.reports(node, &[1, 2, 3], 4);
    }
    s.reports(2, &[2, 3], 8);
    s.reports(3, &[2, 3], 8);
    assert_eq!(s.reports(1, &[1], 8), give(&[2, 3], 8, GiveReason::MoreClients));
}

/// The stock daemon tells node 1 ACK while node 2 may still have the vote for {2}.
#[test]
fn two_node_lms_gives_the_full_list_once_both_have_reported_it() {
    let mut s = Story::new(Algorithm::TwoNodeLms, &[1, 2]);
    s.reports(2, &[2], 4);
    assert_eq!(s.reports(1, &[1, 2], 8), wait_for_ring(2, 1));
    assert_eq!(s.reports(2, &[1, 2], 8), give(&[1, 2], 8, GiveReason::OnlyPartition));
}

#[test]
fn decisions_read_as_one_line() {
    let mut s = Story::new(Algorithm::Ffsplit, &[1, 2]);
    let given = s.reports(1, &[1, 2], 10);
    let text =
        "the vote is for ring 1.a/00000000, nodes 1,2: more than half of the configured nodes";
    assert_eq!(given.to_string(), text);
    let waiting = s.connects(2);
    assert_eq!(waiting.to_string(), "no decision: node 2 has not sent its lists");
}
