//! Rule S2b over longer sequences: clients that change their algorithm or their kind, mixed
//! clusters, records that outlive what they were written for, processes that come and go, and
//! reports that come late.

use protocol::ids::{ArbiterId, BootId, RingId, ViewId};
use protocol::qnet::{MessageType, NodeListType, ViewNote};
use protocol::vote::{Heuristics, Vote};
use qnetd::core::{ClientId, GrantRecord, Memory, Settings, VoteHold};

use crate::driver::{Done, Driver, Own, grant_to, nodes, votes};
use crate::stock_client::{Stock, pair, pair_of, settings, winners};

const FFSPLIT: u16 = 1;
const LMS: u16 = 3;

/// A client with leases on a corosync host: its views have no random part.
fn report_plain(own: &mut Own, driver: &mut Driver, seq: u64, members: &[u32]) -> Vec<Done> {
    own.view = ViewId { ring: RingId::new(members[0], seq), nonce: 0 };
    let mut message = driver.message(MessageType::NodeList);
    message.options.list_type = Some(NodeListType::Membership);
    message.options.ring = Some(own.view.ring);
    message.options.nodes = nodes(members);
    let (epoch, highest_epoch) = (own.highest, own.highest);
    message.options.view_note = Some(ViewNote { nonce: 0, epoch, highest_epoch });
    let done = driver.say(own.client, &message);
    own.listen(&done);
    done
}

/// Node 1 with leases, node 2 without, both in {1, 2} with the vote.
fn mixed(driver: &mut Driver, heartbeat_ms: u32) -> (Own, Stock) {
    let (mut one, mut two) = (Own::new(1, 1, &[1, 2]), Stock::new(2, 2));
    two.heartbeat_ms = heartbeat_ms;
    one.join(driver);
    two.connect(driver);
    two.configure(driver);
    report_plain(&mut one, driver, 4, &[1, 2]);
    let done = two.report(driver, 4, &[1, 2]);
    assert_eq!(votes(&done), [(1, Vote::Ack), (2, Vote::Ack)]);
    one.confirm(driver, &done);
    two.confirm(driver, &done);
    two.quorum(driver, true);
    (one, two)
}

/// A driver that has started in the same boot with the pair's record as the previous version
/// wrote it for stock clients: without a bound.
fn with_old_record() -> Driver {
    let mut driver = Driver::new(Settings::default());
    pair(&mut driver, FFSPLIT);
    let mut record = driver.journal.last().unwrap().clone();
    record.bound_ms = None;
    with_record(record, BootId(1))
}

fn with_record(record: GrantRecord, host_boot: BootId) -> Driver {
    let grants = vec![record];
    let memory = Memory { arbiter: ArbiterId(7), boot: 2, host_boot, grants, ..Memory::default() };
    Driver::with_memory(Settings::default(), memory)
}

#[test]
fn an_endless_record_of_the_version_before_ends_once_its_view_is_back() {
    let mut driver = with_old_record();
    let (mut one, mut two) = (Stock::new(1, 1), Stock::new(2, 2));
    for client in [&mut one, &mut two] {
        client.connect(&mut driver);
        client.configure(&mut driver);
    }
    let mut done = one.report(&mut driver, 4, &[1, 2]);
    done.extend(two.report(&mut driver, 4, &[1, 2]));
    assert!(votes(&done).contains(&(1, Vote::Ack)) && votes(&done).contains(&(2, Vote::Ack)));
    one.quorum(&mut driver, true);
    two.quorum(&mut driver, true);
    driver.close(1);
    two.report(&mut driver, 5, &[2]);
    assert_eq!(winners(&mut driver, 60_000, &mut [&mut two]), [2]);
}

#[test]
fn an_endless_record_of_the_version_before_ends_with_a_newer_full_view() {
    let mut driver = with_old_record();
    let (mut one, mut two) = (Stock::new(1, 1), Stock::new(2, 2));
    for client in [&mut one, &mut two] {
        client.connect(&mut driver);
        client.configure(&mut driver);
    }
    one.report(&mut driver, 6, &[1, 2]);
    let done = two.report(&mut driver, 6, &[1, 2]);
    assert_eq!(votes(&done), [(1, Vote::Ack), (2, Vote::Ack)]);
    one.quorum(&mut driver, true);
    two.quorum(&mut driver, true);
    driver.close(1);
    two.report(&mut driver, 7, &[2]);
    assert_eq!(winners(&mut driver, 60_000, &mut [&mut two]), [2]);
}

#[test]
fn a_cluster_that_changes_from_lms_to_ffsplit_can_lose_a_node() {
    let mut driver = Driver::new(Settings::default());
    pair(&mut driver, LMS);
    driver.close(1);
    driver.close(2);
    let (mut one, mut two) = (Stock::new(3, 1), Stock::new(4, 2));
    for client in [&mut one, &mut two] {
        client.connect(&mut driver);
        client.configure(&mut driver);
    }
    one.report(&mut driver, 6, &[1, 2]);
    let done = two.report(&mut driver, 6, &[1, 2]);
    assert_eq!(votes(&done), [(3, Vote::Ack), (4, Vote::Ack)]);
    one.confirm(&mut driver, &done);
    two.confirm(&mut driver, &done);
    one.quorum(&mut driver, true);
    two.quorum(&mut driver, true);
    driver.close(3);
    two.report(&mut driver, 7, &[2]);
    assert_eq!(winners(&mut driver, 60_000, &mut [&mut two]), [4]);
}

#[test]
fn a_node_that_changes_from_stock_to_leases_can_be_lost() {
    let mut driver = Driver::new(Settings::default());
    let (mut one, mut two) = (Stock::new(1, 1), Stock::new(2, 2));
    (one.heartbeat_ms, two.heartbeat_ms) = (120_000, 120_000);
    pair_of(&mut driver, &mut one, &mut two);
    driver.close(1);
    driver.close(2);
    let (mut one, mut two) = (Own::new(3, 1, &[1, 2]), Own::new(4, 2, &[1, 2]));
    one.join(&mut driver);
    two.join(&mut driver);
    one.report(&mut driver, 6, &[1, 2]);
    let done = two.report(&mut driver, 6, &[1, 2]);
    assert_eq!(votes(&done), [(3, Vote::Ack), (4, Vote::Ack)]);
    one.confirm(&mut driver, &done);
    two.confirm(&mut driver, &done);
    driver.close(3);
    two.report(&mut driver, 7, &[2]);
    let done = driver.pass_renewing(60_000, &mut [&mut two]);
    assert!(votes(&done).contains(&(4, Vote::Ack)));
}

#[test]
fn a_record_is_not_shortened_because_the_last_stock_client_is_gone() {
    let mut driver = Driver::new(Settings::default());
    mixed(&mut driver, 8000);
    // qdevice on node 2 is killed: its host counts the vote for T more.
    driver.close(2);
    driver.pass(100);
    let mut driver = driver.restart(BootId(1));
    let mut one = Own::new(1, 1, &[1, 2]);
    one.join(&mut driver);
    report_plain(&mut one, &mut driver, 5, &[1]);
    let done = driver.pass_renewing(9500, &mut [&mut one]);
    assert_eq!(votes(&done), [], "node 2 counts it until 10 s after it was killed");
}

#[test]
fn a_node_with_leases_is_held_for_its_lease_whatever_the_others_are() {
    let mut driver = Driver::new(Settings::default());
    let (_, mut two) = mixed(&mut driver, 120_000);
    driver.close(1);
    two.report(&mut driver, 5, &[2]);
    assert_eq!(winners(&mut driver, 66_000, &mut [&mut two]), [2]);
}

#[test]
fn processes_that_come_and_go_are_not_remembered_without_end() {
    let mut driver = Driver::new(Settings::default());
    let mut sizes = Vec::new();
    for client in 1..=200 {
        let mut one = Stock::new(client, 1);
        one.algorithm = LMS;
        one.connect(&mut driver);
        one.configure(&mut driver);
        one.report(&mut driver, client, &[1]);
        one.quorum(&mut driver, true);
        driver.close(client);
        sizes.push(format!("{:?}", driver.arbiter).len());
    }
    assert!(sizes[199] < sizes[9] * 2, "{} after 10, {} after 200", sizes[9], sizes[199]);
}

#[test]
fn grants_to_a_member_that_is_gone_are_not_remembered_without_end() {
    let mut driver = Driver::new(Settings::default());
    let (mut one, _) = pair(&mut driver, LMS);
    driver.close(2);
    let mut sizes = Vec::new();
    for seq in 5..205 {
        one.report(&mut driver, seq, &[1, 2]);
        sizes.push(format!("{:?}", driver.arbiter).len());
    }
    assert_eq!(driver.journal.len(), 201);
    assert!(sizes[199] < sizes[9] * 2, "{} after 10, {} after 200", sizes[9], sizes[199]);
}

#[test]
fn a_slow_reporter_inside_the_winning_view_is_no_loser() {
    let mut driver = Driver::new(Settings::default());
    let (mut one, mut two) = pair(&mut driver, FFSPLIT);
    // Node 2 is in the new ring too, but its heuristics take 14 s (S / 2 is allowed).
    one.report(&mut driver, 5, &[1, 2]);
    let mut done = driver.pass(4000);
    done.extend(two.confirm(&mut driver, &done.clone()));
    done.extend(two.echo(&mut driver));
    done.extend(one.echo(&mut driver));
    done.extend(driver.pass(8000));
    let closed = done.iter().any(|done| matches!(done, Done::Closed(2, _)));
    assert!(!closed, "{done:?}");
}

#[test]
fn a_cluster_that_comes_late_waits_for_what_is_unknown_of_it() {
    let mut driver = Driver::new(Settings::default());
    driver.pass(60_000);
    let mut two = Stock::new(2, 2);
    two.connect(&mut driver);
    two.configure(&mut driver);
    assert_eq!(votes(&two.report(&mut driver, 4, &[2])), []);
}

#[test]
fn a_ring_that_is_reported_late_counts_for_a_double_fault() {
    let mut driver = Driver::new(settings(VoteHold::DoubleFault));
    let (_, mut two) = pair(&mut driver, FFSPLIT);
    // k: qdevice on node 1 is killed. k + 7.6: the link is cut, node 1 counts until k + 37.6.
    // Node 2's heuristics take until k + 15.
    driver.close(1);
    assert_eq!(winners(&mut driver, 15_000, &mut [&mut two]), [0; 0]);
    let done = two.report_with(&mut driver, 5, &[2], Some(Heuristics::Pass));
    assert_eq!(votes(&done), []);
    assert_eq!(winners(&mut driver, 40_800 - 15_000 - 1, &mut [&mut two]), [0; 0]);
}

#[test]
fn a_record_of_a_newer_view_lasts_for_a_stock_member_that_is_gone() {
    let mut driver = Driver::new(Settings::default());
    let (mut one, _) = mixed(&mut driver, 8000);
    driver.close(2);
    driver.pass(100);
    // Its corosync lives, so it is in the next ring too.
    report_plain(&mut one, &mut driver, 5, &[1, 2]);
    let mut driver = driver.restart(BootId(1));
    let mut one = Own::new(1, 1, &[1, 2]);
    one.join(&mut driver);
    report_plain(&mut one, &mut driver, 6, &[1]);
    let done = driver.pass_renewing(9500, &mut [&mut one]);
    assert_eq!(votes(&done), [], "node 2 counts it until 10 s after it was killed");
}

#[test]
fn a_record_gets_shorter_once_nothing_of_before_runs_any_more() {
    let mut driver = Driver::new(Settings::default());
    let (mut one, _) = mixed(&mut driver, 8000);
    driver.close(2);
    let mut two = Own::new(3, 2, &[1, 2]);
    two.join(&mut driver);
    let done = report_plain(&mut two, &mut driver, 4, &[1, 2]);
    two.confirm(&mut driver, &done);
    driver.pass_renewing(9000, &mut [&mut one, &mut two]);
    assert_eq!(driver.journal.last().unwrap().bound_ms, Some(18_800));
    driver.pass_renewing(2000, &mut [&mut one, &mut two]);
    assert_eq!(driver.journal.last().unwrap().bound_ms, Some(1100));
    assert_eq!(driver.journal.len(), 2);
}

#[test]
fn an_endless_record_of_an_earlier_boot_is_waited_for_like_a_restored_one() {
    let mut driver = Driver::new(Settings::default());
    pair(&mut driver, FFSPLIT);
    let mut record = driver.journal.last().unwrap().clone();
    record.bound_ms = None;
    let mut driver = with_record(record, BootId(2));
    let (mut one, mut two) = (Own::new(1, 1, &[1, 2, 3]), Own::new(2, 2, &[1, 2, 3]));
    one.join(&mut driver);
    two.join(&mut driver);
    one.report(&mut driver, 6, &[1, 2]);
    // Both are here, but node 3 may have been given a lease since.
    assert_eq!(votes(&two.report(&mut driver, 6, &[1, 2])), []);
    let mut both = [&mut one, &mut two];
    assert_eq!(votes(&driver.pass_renewing(10_750, &mut both)), []);
    assert_eq!(votes(&driver.pass_renewing(500, &mut both)).len(), 2);
}

#[test]
fn a_longer_heartbeat_is_on_disk_at_once() {
    let mut driver = Driver::new(Settings::default());
    let (one, _) = pair(&mut driver, FFSPLIT);
    let mut message = protocol::qnet::Message::new(MessageType::SetOption, Some(50));
    message.options.heartbeat_ms = Some(16_000);
    driver.say(one.client, &message);
    assert_eq!(driver.journal.last().unwrap().bound_ms, Some(37_600));
}

#[test]
fn the_bound_of_a_client_that_was_cut_off_from_here_runs_from_its_last_message() {
    let mut driver = Driver::new(Settings::default());
    let (_, mut two) = pair(&mut driver, FFSPLIT);
    driver.pass(1000);
    driver.arbiter.cut(driver.now, ClientId(1));
    two.report(&mut driver, 5, &[2]);
    assert_eq!(winners(&mut driver, 17_799, &mut [&mut two]), [0; 0]);
    assert_eq!(winners(&mut driver, 1, &mut []), [2]);
}

/// The grant is rewritten for a longer heartbeat, and before anybody is told of it a node outside
/// says that it counts a vote.
#[test]
fn a_lease_goes_on_while_the_grant_that_replaces_it_in_the_same_view_waits() {
    let mut driver = Driver::new(Settings::default());
    let mut one = Own::new(1, 1, &[1, 2, 3]);
    let (mut two, mut three) = (Stock::new(2, 2), Stock::new(3, 3));
    (two.config, three.config) = (vec![1, 2, 3], vec![1, 2, 3]);
    one.join(&mut driver);
    for client in [&mut two, &mut three] {
        client.connect(&mut driver);
        client.configure(&mut driver);
    }
    report_plain(&mut one, &mut driver, 4, &[1, 2]);
    two.report(&mut driver, 4, &[1, 2]);
    let told = three.report(&mut driver, 4, &[3]);
    three.confirm(&mut driver, &told);
    // For as long as anything that is unknown may run.
    for _ in 0..9 {
        let done = driver.pass_renewing(7500, &mut [&mut one]);
        one.confirm(&mut driver, &done);
        two.confirm(&mut driver, &done);
        two.echo(&mut driver);
        three.echo(&mut driver);
    }
    let old = one.grant.unwrap();
    let mut message = protocol::qnet::Message::new(MessageType::SetOption, Some(50));
    message.options.heartbeat_ms = Some(16_000);
    driver.disk_works = false;
    driver.say(two.client, &message);
    three.quorum(&mut driver, true);
    driver.write(true);
    let done = driver.pass_renewing(5000, &mut [&mut one]);
    assert_eq!(votes(&done), []);
    assert_eq!(grant_to(&done, 1).unwrap().id, old.id);
}

#[test]
fn a_slow_reporter_that_is_left_out_after_all_has_a_heartbeat_to_confirm() {
    let mut driver = Driver::new(Settings::default());
    let (mut one, mut two) = pair(&mut driver, FFSPLIT);
    one.report(&mut driver, 5, &[1, 2]);
    driver.pass(7000);
    assert_eq!(two.echo(&mut driver).len(), 1, "it is slow: its echo is answered");
    one.echo(&mut driver);
    driver.pass(1500);
    // Now the two are apart, and node 2 has not said so by the stability limit.
    one.report(&mut driver, 6, &[1]);
    driver.pass(3000);
    assert_eq!(two.echo(&mut driver), [], "it has lost: its echo is not answered");
    assert_eq!(driver.pass(7999), []);
    let done = driver.pass(1);
    assert!(done.iter().any(|done| matches!(done, Done::Closed(2, _))), "{done:?}");
}
