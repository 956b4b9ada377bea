//! Greetings, second connections, and questions: what surrounds the decisions.

use protocol::ids::ClusterName;
use protocol::qnet::{Message, MessageType};
use protocol::vote::Algorithm::{Ffsplit, Lms, Test, TwoNodeLms};
use protocol::vote::TieBreaker;

use super::say::{Say, connects, reports};
use super::story::Story;

#[test]
fn plain_text_is_refused_by_default() {
    Story::new(&["tls-by-default"], Ffsplit, &[1])
        .by_default()
        .step([connects(1)], "", "1 error 3")
        .step([reports(1, &[1], 4)], "1 ack", "1 error 3, error 3, error 3")
        .tell();
}

#[test]
fn a_second_preinit_does_not_change_the_cluster() {
    let mut preinit = Message::new(MessageType::Preinit, Some(50));
    preinit.options.cluster_name = Some(ClusterName::from("other"));
    Story::new(&["cluster-fixed"], Ffsplit, &[1, 2])
        .together()
        .step([Say::Says(2, Box::new(preinit))], "", "2 error 8")
        .step([Say::InitsAgain(2, TieBreaker::Lowest)], "", "2 error 17")
        .tell();
}

#[test]
fn a_second_init_changes_nothing() {
    Story::new(&["second-init-refused"], Ffsplit, &[1, 2])
        .same([connects(1)], "")
        .same([Say::InitsAgain(1, TieBreaker::Highest)], "1 error 17")
        .step([connects(2)], "2 error 15", "")
        .tell();
}

#[test]
fn the_newest_connection_of_a_process_replaces_its_old_one() {
    Story::new(&["newest-connection"], Ffsplit, &[1, 2])
        .together()
        .step([Say::ConnectsAgain(1)], "1 error 17", "1 old connection closed")
        .step([reports(1, &[1, 2], 4)], "1 error 11, error 11, error 11", "1 ack")
        .tell();
}

#[test]
fn another_process_does_not_replace_a_connection() {
    Story::new(&[], Ffsplit, &[1, 2]).together().same([Say::OtherConnects(1)], "1 error 17").tell();
}

#[test]
fn asking_for_a_vote_under_ffsplit_test_and_2nodelms() {
    for (algorithm, answer) in
        [(Ffsplit, "1 error 14"), (Test, "1 answered ack"), (TwoNodeLms, "1 answered later")]
    {
        Story::new(&[], algorithm, &[1, 2])
            .verbatim()
            .same([connects(1)], "")
            .same([Say::Asks(1)], answer)
            .tell();
    }
}

#[test]
fn asking_before_the_lists_gets_no_vote() {
    Story::new(&["asking-decides-nothing"], Lms, &[1, 2])
        .verbatim()
        .same([connects(1)], "")
        .step([Say::Asks(1)], "1 answered ack", "1 answered later")
        .tell();
}

#[test]
fn under_test_everyone_has_the_vote() {
    Story::new(&[], Test, &[1, 2])
        .same([connects(1), connects(2)], "")
        .same([reports(1, &[1], 4)], "1 ack")
        .same([reports(2, &[2], 4)], "2 ack")
        .tell();
}
