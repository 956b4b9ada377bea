//! Scripts: what passes, and what is reported.

use std::time::Duration;

use protocol::ids::RingId;
use protocol::qnet::{Message, MessageType};
use protocol::vote::{Algorithm, Heuristics, TieBreaker, Vote};
use qnetd::shadow::core::row::Row;
use qnetd::shadow::core::stock_rule::Answer;
use qnetd::shadow::core::{Difference, Reason};

use crate::stage::{CLUSTER, Plan, Stage};

const TWO: Plan =
    Plan { algorithm: Algorithm::Ffsplit, config: &[1, 2], tie_breaker: TieBreaker::Lowest };
const FOUR: Plan = Plan { config: &[1, 2, 3, 4], ..TWO };

fn ring(node: u32, seq: u64) -> RingId {
    RingId::new(node, seq)
}

/// The nodes of the reports with the names of their reasons.
fn reasons(stage: &Stage) -> Vec<(u32, &'static str)> {
    let name = |difference: &Difference| match &difference.reason {
        Reason::Correction(row) => row.name(),
        Reason::Rule(wait) => wait.what.rule(),
        Reason::Bug(_) => "bug",
    };
    stage.reports.iter().map(|difference| (difference.node.0, name(difference))).collect()
}

/// The second of two nodes reports its part of a split; the stock arbiter moves the vote as its
/// rule says.
fn split(stage: &mut Stage) {
    stage.reports(1, &[1], 8, Vote::WaitForReply);
    stage.reports(2, &[2], 8, Vote::NoChange);
    stage.told(2, ring(2, 8), Vote::Nack, false);
    stage.told(1, ring(1, 8), Vote::Ack, true);
}

#[test]
fn the_same_votes_are_silent() {
    let mut stage = Stage::new(TWO);
    stage.together();
    split(&mut stage);
    stage.pass(60_000);
    stage.reports(1, &[1, 2], 12, Vote::WaitForReply);
    stage.reports(2, &[1, 2], 12, Vote::NoChange);
    stage.told(1, ring(1, 12), Vote::Ack, true);
    stage.told(2, ring(1, 12), Vote::Ack, true);
    stage.pass(60_000);
    assert_eq!(stage.lines(), Vec::<String>::new());
}

/// Wire 8.8: the stock arbiter still counts node 1, so {1,2} keeps the vote though {3,4} has more
/// clients now.
#[test]
fn a_client_that_left_and_is_counted_is_reported_as_that_correction() {
    let mut stage = Stage::new(FOUR);
    stage.together();
    for node in [1, 2, 3] {
        let members: &[u32] = if node < 3 { &[1, 2] } else { &[3, 4] };
        stage.reports(node, members, 8, Vote::WaitForReply);
    }
    stage.reports(4, &[3, 4], 8, Vote::NoChange);
    stage.told(3, ring(3, 8), Vote::Nack, false);
    stage.told(4, ring(3, 8), Vote::Nack, false);
    stage.told(1, ring(1, 8), Vote::Ack, true);
    stage.told(2, ring(1, 8), Vote::Ack, true);
    stage.pass(5000);
    assert_eq!(stage.lines(), Vec::<String>::new());

    stage.leaves(1);
    stage.told(3, ring(3, 8), Vote::Nack, false);
    stage.told(4, ring(3, 8), Vote::Nack, false);
    stage.told(2, ring(1, 8), Vote::Ack, true);
    stage.pass(5000);
    let name = "departing-not-counted";
    assert_eq!(reasons(&stage), [(2, name), (3, name), (4, name)], "{:#?}", stage.lines());
    let [keeper, winner, _] = &stage.reports[..] else { panic!("{:#?}", stage.lines()) };
    assert_eq!((keeper.stock, keeper.decided), (Answer::Ack, Some(Answer::Nack)));
    assert_eq!((winner.stock, winner.decided), (Answer::Nack, Some(Answer::Ack)));
    // The vote has not moved here either: node 2, which the stock arbiter told nothing of the
    // kind, still counts it.
    let waits = winner.waits.unwrap();
    assert_eq!(waits.what.rule(), "F7", "{waits}");
    assert!(stage.lines()[0].contains("correction departing-not-counted (8.8)"));
}

#[test]
fn a_vote_that_no_rule_gives_is_a_bug_with_both_views_in_one_line() {
    let mut stage = Stage::new(TWO);
    stage.together();
    stage.reports(1, &[1], 8, Vote::WaitForReply);
    stage.reports(2, &[2], 8, Vote::NoChange);
    // Both are told the contrary.
    stage.told(1, ring(1, 8), Vote::Nack, false);
    stage.told(2, ring(2, 8), Vote::Ack, true);
    stage.pass(5000);
    assert_eq!(reasons(&stage), [(1, "bug"), (2, "bug")], "{:#?}", stage.lines());
    let line = &stage.lines()[1];
    assert!(line.contains("node 2, ring 2.8: stock says ack, ours nack; bug: "), "{line}");
    assert!(line.contains("told ack, its rule says nack"), "{line}");
    assert!(line.contains("ours: told nack, the vote is for ring 1.8"), "{line}");
    assert!(!line.contains('\n'));
}

#[test]
fn a_wait_of_ours_is_reported_with_its_rule_and_what_is_left() {
    let mut stage = Stage::with_unknown_bound(TWO, Duration::from_secs(66));
    stage.joins(1);
    stage.joins(2);
    stage.reports(1, &[1], 8, Vote::WaitForReply);
    stage.reports(2, &[2], 8, Vote::NoChange);
    stage.told(2, ring(2, 8), Vote::Nack, false);
    stage.told(1, ring(1, 8), Vote::Ack, true);
    stage.pass(1500);
    assert_eq!(reasons(&stage), [(1, "F8")], "{:#?}", stage.lines());
    let Reason::Rule(wait) = &stage.reports[0].reason else { panic!("{:#?}", stage.lines()) };
    // The bound of clients of 8 s, of which a second has passed (F12).
    assert_eq!(wait.remaining, Some(Duration::from_millis(25_800)));
    assert!(stage.lines()[0].ends_with(", for 25.8 s at most"), "{:#?}", stage.lines());
    // Status says the same of it.
    let status = stage.shadow.status(stage.now);
    assert_eq!(status.clusters[CLUSTER].waiting, Some(wait.what.to_string()));
    // The wait is one difference however long it lasts, and it ends.
    stage.pass(70_000);
    assert_eq!((stage.reports.len(), stage.agreed.len()), (1, 1), "{:#?}", stage.lines());
}

#[test]
fn a_difference_that_does_not_last_is_not_reported() {
    let mut stage = Stage::new(TWO);
    stage.together();
    stage.reports(1, &[1, 2], 8, Vote::WaitForReply);
    stage.reports(2, &[1, 2], 8, Vote::WaitForReply);
    // Ours has given it; the stock arbiter takes its time.
    stage.pass(900);
    stage.told(1, ring(1, 8), Vote::Ack, true);
    stage.pass(900);
    stage.told(2, ring(1, 8), Vote::Ack, true);
    stage.pass(60_000);
    assert_eq!(stage.lines(), Vec::<String>::new());
}

#[test]
fn an_ack_that_ours_never_gave_is_reported_however_short_it_was() {
    let mut stage = Stage::with_unknown_bound(TWO, Duration::from_secs(66));
    stage.joins(1);
    stage.reports(1, &[1], 4, Vote::NoChange);
    stage.told(1, ring(1, 4), Vote::Ack, true);
    stage.pass(100);
    assert_eq!(stage.lines(), Vec::<String>::new());
    stage.reports(1, &[1, 2], 8, Vote::WaitForReply);
    assert_eq!(reasons(&stage), [(1, "F8")], "{:#?}", stage.lines());
}

#[test]
fn a_winner_that_waits_for_a_silent_loser_waits_on_both_sides() {
    let mut stage = Stage::new(TWO);
    stage.together();
    stage.reports(1, &[1], 8, Vote::WaitForReply);
    stage.reports(2, &[2], 8, Vote::NoChange);
    let mut info = Message::new(MessageType::VoteInfo, Some(100));
    info.options.vote = Some(Vote::Nack);
    info.options.ring = Some(ring(2, 8));
    stage.hears(2, &info);
    stage.pass(6000);
    assert_eq!(stage.lines(), Vec::<String>::new());
}

#[test]
fn a_node_that_two_live_processes_claim_is_reported_as_that_wait() {
    let mut stage = Stage::new(TWO);
    stage.together();
    stage.is_refused(101, 1);
    // The first one speaks after that, and the second comes again.
    stage.pass(1000);
    stage.pass(1000);
    stage.is_refused(102, 1);
    stage.pass(1500);
    assert!(reasons(&stage).contains(&(1, "F14")), "{:#?}", stage.lines());
    let said = "node 1, ring 1.4: stock says ack, ours nack and will say ack; safety F14: node 1 is \
                claimed by two live processes, for ";
    assert!(stage.lines().iter().any(|line| line.starts_with(said)), "{:#?}", stage.lines());
    // Nobody comes any more, so the one that is there gets the vote again.
    stage.pass(60_000);
    assert!(stage.agreed.contains(&protocol::ids::NodeId(1)), "{:#?}", stage.lines());
}

#[test]
fn heuristics_that_move_a_vote_at_once_are_that_correction() {
    let mut stage = Stage::new(TWO);
    stage.together();
    split(&mut stage);
    stage.pass(5000);
    stage.finds(1, Heuristics::Fail, ring(1, 8));
    stage.told(1, ring(1, 8), Vote::Nack, false);
    stage.told(2, ring(2, 8), Vote::Ack, true);
    stage.pass(5000);
    let name = "holder-over-heuristics";
    assert_eq!(reasons(&stage), [(1, name), (2, name)], "{:#?}", stage.lines());
}

#[test]
fn a_survivor_of_lms_that_is_not_looked_at_again_is_that_correction() {
    let mut stage = Stage::new(Plan { algorithm: Algorithm::Lms, ..TWO });
    stage.joins(1);
    stage.joins(2);
    stage.reports(1, &[1, 2], 4, Vote::WaitForReply);
    stage.reports(2, &[1, 2], 4, Vote::WaitForReply);
    stage.told(1, ring(1, 4), Vote::Ack, true);
    stage.told(2, ring(1, 4), Vote::Ack, true);
    stage.pass(5000);
    stage.reports(1, &[1], 8, Vote::WaitForReply);
    stage.reports(2, &[2], 8, Vote::WaitForReply);
    stage.told(2, ring(2, 8), Vote::Nack, false);
    stage.told(1, ring(1, 8), Vote::Ack, true);
    stage.pass(10_000);
    assert_eq!(stage.lines(), Vec::<String>::new());
    stage.leaves(1);
    stage.pass(5000);
    assert_eq!(reasons(&stage), [(2, "re-evaluation")], "{:#?}", stage.lines());
    assert_eq!(stage.reports[0].decided, Some(Answer::Ack));
}

#[test]
fn a_vote_that_is_withdrawn_during_a_change_is_that_correction() {
    let mut stage = Stage::new(TWO);
    stage.together();
    let mut list = Message::new(MessageType::NodeList, Some(500));
    list.options.list_type = Some(protocol::qnet::NodeListType::ChangedConfig);
    list.options.nodes = [1, 2, 3]
        .map(|node| protocol::qnet::NodeInfo {
            node: protocol::ids::NodeId(node),
            data_center: 0,
            state: None,
        })
        .to_vec();
    stage.says(1, &list);
    let mut reply = Message::new(MessageType::NodeListReply, Some(500));
    reply.options.list_type = list.options.list_type;
    reply.options.ring = Some(ring(1, 4));
    reply.options.vote = Some(Vote::WaitForReply);
    stage.hears(1, &reply);
    stage.pass(5000);
    assert_eq!(reasons(&stage), [(1, "no-withdrawal")], "{:#?}", stage.lines());
    assert_eq!(stage.reports[0].reason, Reason::Correction(Row::NoWithdrawal));
}
