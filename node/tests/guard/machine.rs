//! The guard's rules: facts in, duties out.

use std::time::Duration;

use node::guard::core::cluster::Cluster;
use node::guard::core::timing::Limits;
use node::guard::core::{Action, Answer, Event, Guard, Settings};
use protocol::ids::{NodeId, RingId};
use protocol::status::QuorumState;
use protocol::time::Time;

const W: u64 = 5000;
/// B: half of W.
const B: u64 = 2500;

fn at(ms: u64) -> Time {
    Time::from_millis(ms)
}

fn cluster(sync_ms: Option<u64>) -> Cluster {
    Cluster {
        name: "lab".to_owned(),
        node: NodeId(1),
        votes: [(NodeId(1), 1), (NodeId(2), 1)].into(),
        token: Duration::from_millis(3000),
        consensus: Duration::from_millis(3600),
        sync_timeout: sync_ms.map(Duration::from_millis),
        forbidden: None,
    }
}

/// Two nodes and a device: two of three votes are a quorum.
fn votes(nodes: u32, cast: bool) -> Answer {
    let total = nodes + u32::from(cast);
    Answer {
        expected: 3,
        total,
        quorum: 2,
        quorate: total >= 2,
        registered: true,
        cast,
        device_votes: 1,
    }
}

struct Bench(Guard);

impl Bench {
    fn new(sync_ms: Option<u64>) -> Self {
        let limits = Limits { watchdog: Duration::from_millis(W), peers_wait: None };
        let mut bench = Self(Guard::new(Settings { limits, observe: false }));
        assert_eq!(bench.tell(0, Event::Configured(Box::new(cluster(sync_ms)))), []);
        bench.ring(0, 1, &[1, 2]);
        bench
    }

    /// With haguard's device, and both nodes there.
    fn ours() -> Self {
        let mut bench = Self::new(Some(30_000));
        // Until it answers the sync timeout is refused.
        bench.lease(0, Some(1000));
        bench
    }

    /// What it does, but for its words.
    fn tell(&mut self, now: u64, event: Event) -> Vec<Action> {
        self.0.handle(at(now), event);
        let actions = std::iter::from_fn(|| self.0.next_action());
        actions.filter(|it| !matches!(it, Action::Decided(_) | Action::Alarm(_))).collect()
    }

    /// A ring of these, and the quorum in it.
    fn ring(&mut self, now: u64, seq: u64, members: &[u32]) {
        assert_eq!(self.change(now, seq, members), []);
        assert_eq!(self.quorum(now, true, members), []);
    }

    fn change(&mut self, now: u64, seq: u64, members: &[u32]) -> Vec<Action> {
        let members = members.iter().map(|node| NodeId(*node)).collect();
        self.tell(now, Event::Ring(RingId::new(1, seq), members))
    }

    fn quorum(&mut self, now: u64, quorate: bool, members: &[u32]) -> Vec<Action> {
        let members = members.iter().map(|node| NodeId(*node)).collect();
        self.tell(now, Event::Quorum { quorate, members })
    }

    fn answer(&mut self, now: u64, answer: Answer) -> Vec<Action> {
        self.tell(now, Event::Answer { asked: at(now), answer })
    }

    fn lease(&mut self, now: u64, end: Option<u64>) -> Vec<Action> {
        self.tell(now, Event::Device { lease: end.map(at) })
    }

    fn armed(&mut self, now: u64) {
        assert_eq!(self.tell(now, Event::Armed(true)), []);
    }

    fn state(&self, now: u64) -> QuorumState {
        self.0.state(at(now)).0
    }
}

fn until(ms: u64) -> Vec<Action> {
    vec![Action::Entitle { until: at(ms) }]
}

#[test]
fn nothing_is_entitled_before_corosync_has_answered_that_it_is_quorate() {
    let mut bench = Bench::new(None);
    assert_eq!(bench.quorum(10, true, &[1, 2]), [], "a notification proves nothing");
    assert_eq!(bench.answer(20, votes(1, false)), []);
    assert_eq!(bench.state(20), QuorumState::Inquorate);
    assert_eq!(bench.answer(30, votes(2, false)), until(30 + B));
    assert_eq!(bench.state(30), QuorumState::Quorate);
}

#[test]
fn each_answer_moves_the_end_by_the_age_of_its_question() {
    let mut bench = Bench::new(None);
    assert_eq!(bench.answer(100, votes(2, false)), until(100 + B));
    let late = Event::Answer { asked: at(300), answer: votes(2, false) };
    assert_eq!(bench.tell(900, late), until(300 + B));
}

#[test]
fn an_old_answer_entitles_nobody() {
    let mut bench = Bench::new(None);
    let old = Event::Answer { asked: at(100), answer: votes(2, false) };
    assert_eq!(bench.tell(100 + B, old.clone()), []);
    assert_eq!(bench.answer(3000, votes(2, false)), until(3000 + B));
    assert_eq!(bench.tell(3100, old), [], "older than the one before");
}

#[test]
fn a_silent_corosync_is_believed_for_a_bound_and_no_longer() {
    let mut bench = Bench::new(None);
    bench.answer(100, votes(2, false));
    bench.armed(110);
    assert_eq!(bench.0.deadline(), Some(at(100 + B)));
    assert_eq!(bench.state(99 + B), QuorumState::Quorate);
    assert_eq!(bench.tell(100 + B, Event::Timeout), [], "the keeper knows the end");
    assert_eq!(bench.state(100 + B), QuorumState::Inquorate);
    assert_eq!(bench.answer(200 + B, votes(2, false)), [], "the end is the end");
}

#[test]
fn a_corosync_that_was_killed_is_believed_for_the_same_bound() {
    let mut bench = Bench::new(None);
    bench.answer(100, votes(2, false));
    bench.armed(110);
    assert_eq!(bench.tell(200, Event::Gone("killed".to_owned())), []);
    assert_eq!(bench.tell(99 + B, Event::Timeout), []);
    assert_eq!(bench.state(99 + B), QuorumState::Quorate);
    bench.tell(100 + B, Event::Timeout);
    assert_eq!(bench.state(100 + B), QuorumState::Inquorate);
}

#[test]
fn a_lost_quorum_ends_the_entitlement_at_once_and_for_good() {
    for by_answer in [false, true] {
        let mut bench = Bench::new(None);
        bench.answer(100, votes(2, false));
        bench.armed(110);
        let actions = match by_answer {
            true => bench.answer(300, votes(1, false)),
            false => bench.quorum(300, false, &[1]),
        };
        assert_eq!(actions, [Action::Revoke]);
        assert_eq!(bench.state(300), QuorumState::Inquorate);
        bench.quorum(400, true, &[1, 2]);
        assert_eq!(bench.answer(500, votes(2, false)), [], "what runs was not proven stopped");
    }
}

#[test]
fn a_lost_quorum_before_the_watchdog_is_armed_is_forgiven() {
    let mut bench = Bench::new(None);
    bench.answer(100, votes(2, false));
    assert_eq!(bench.answer(300, votes(1, false)), [Action::Revoke]);
    assert_eq!(bench.answer(500, votes(2, false)), until(500 + B));
}

#[test]
fn a_quorum_that_needs_the_device_ends_with_its_lease() {
    let mut bench = Bench::ours();
    bench.lease(50, Some(1000));
    assert_eq!(bench.answer(100, votes(1, true)), until(1000));
    bench.armed(110);
    assert_eq!(bench.lease(300, Some(10_000)), until(100 + B));
    assert_eq!(bench.lease(400, None), [Action::Revoke], "taken back");
    assert_eq!(bench.lease(500, Some(10_500)), []);
    assert_eq!(bench.answer(600, votes(1, true)), [], "the end is the end");
}

#[test]
fn a_quorum_of_nodes_does_not_care_for_the_lease() {
    let mut bench = Bench::ours();
    bench.lease(50, Some(1000));
    assert_eq!(bench.answer(100, votes(2, true)), until(100 + B));
    assert_eq!(bench.lease(200, None), []);
}

#[test]
fn a_change_of_members_proves_nothing_until_it_is_over() {
    let mut bench = Bench::new(None);
    bench.answer(100, votes(2, false));
    assert_eq!(bench.change(200, 2, &[1]), []);
    assert_eq!(bench.state(200), QuorumState::Frozen);
    assert_eq!(bench.answer(400, votes(2, false)), [], "the old quorum");
    bench.quorum(500, true, &[1, 2]);
    assert_eq!(bench.answer(600, votes(2, false)), until(600 + B));
}

#[test]
fn a_frozen_node_goes_on_to_the_end_of_its_lease_where_that_reaches_the_quorum() {
    let mut bench = Bench::ours();
    bench.lease(50, Some(1000));
    bench.answer(100, votes(2, true));
    bench.armed(110);
    assert_eq!(bench.lease(150, Some(10_000)), []);
    assert_eq!(bench.change(200, 2, &[1]), until(10_000));
    bench.tell(10_000, Event::Timeout);
    assert_eq!(bench.state(10_000), QuorumState::Inquorate);
}

#[test]
fn a_change_that_ends_well_after_the_bound_of_the_last_proof_takes_nothing_back() {
    let mut ours = Bench::ours();
    ours.lease(50, Some(1000));
    ours.answer(100, votes(2, true));
    ours.armed(110);
    ours.change(200, 2, &[1]);
    assert_eq!(ours.lease(2000, Some(3000)), until(3000));
    let mut stock = Bench::new(Some(4000));
    stock.answer(100, votes(2, true));
    stock.armed(110);
    assert_eq!(stock.change(200, 2, &[1]), until(4100));
    for mut bench in [ours, stock] {
        assert_eq!(bench.quorum(200 + B, true, &[1]), [], "a notification holds");
        assert_eq!(bench.state(200 + B), QuorumState::Frozen, "and proves nothing");
        bench.lease(210 + B, Some(9000));
        assert_eq!(bench.answer(250 + B, votes(1, true)), until(250 + 2 * B));
        assert_eq!(bench.state(250 + B), QuorumState::Quorate);
    }
}

#[test]
fn a_change_that_ended_without_an_answer_is_believed_no_longer_than_the_change() {
    let mut bench = Bench::new(Some(4000));
    bench.answer(100, votes(2, true));
    bench.armed(110);
    bench.change(200, 2, &[1]);
    bench.quorum(3000, true, &[1]);
    assert_eq!(bench.0.deadline(), Some(at(4100)));
    bench.tell(4100, Event::Timeout);
    assert_eq!(bench.answer(4200, votes(1, true)), []);
}

#[test]
fn a_frozen_node_whose_votes_do_not_reach_the_quorum_has_only_what_it_had() {
    let mut bench = Bench::ours();
    bench.lease(50, Some(10_000));
    bench.answer(100, Answer { quorum: 3, ..votes(2, true) });
    assert_eq!(bench.change(200, 2, &[1]), []);
    assert_eq!(bench.0.deadline(), Some(at(100 + B)));
}

#[test]
fn a_frozen_node_with_a_stock_device_waits_for_the_sync_timeout() {
    let mut bench = Bench::new(Some(4000));
    bench.answer(100, votes(2, true));
    assert_eq!(bench.change(200, 2, &[1]), until(4100));
    assert_eq!(bench.change(300, 3, &[1]), [], "and no longer for more changes");
}

#[test]
fn a_sync_timeout_that_became_too_long_is_cut_to_the_watchdogs() {
    let mut bench = Bench::new(Some(4000));
    bench.answer(100, votes(2, true));
    bench.armed(110);
    bench.tell(150, Event::Configured(Box::new(cluster(Some(30_000)))));
    assert!(bench.0.refusal().unwrap().contains("30 s > 5 s"));
    assert_eq!(bench.answer(160, votes(2, true)), until(160 + B), "what is armed goes on");
    assert_eq!(bench.change(200, 2, &[1]), until(160 + W));
}

#[test]
fn refused_times_arm_nothing() {
    let mut bench = Bench::new(Some(30_000));
    assert!(bench.0.refusal().is_some());
    assert_eq!(bench.answer(100, votes(2, true)), []);
    assert_eq!(bench.lease(200, Some(1200)), until(100 + B), "our device has come");
}

#[test]
fn a_corosync_that_was_stopped_in_order_disarms_and_the_next_one_arms_again() {
    let mut bench = Bench::new(None);
    bench.answer(100, votes(2, false));
    bench.armed(110);
    bench.tell(200, Event::Gone("stopped".to_owned()));
    assert_eq!(bench.tell(250, Event::StoppedCleanly), [Action::Release]);
    bench.tell(300, Event::Armed(false));
    bench.ring(9000, 5, &[1, 2]);
    assert_eq!(bench.answer(9100, votes(2, false)), until(9100 + B));
}

#[test]
fn a_proof_of_the_full_stop_counts_after_the_end_too() {
    let mut bench = Bench::new(None);
    bench.answer(100, votes(2, false));
    bench.armed(110);
    bench.tell(200, Event::Gone("stopped".to_owned()));
    bench.tell(100 + B, Event::Timeout);
    assert_eq!(bench.tell(200 + B, Event::StoppedCleanly), [Action::Release]);
}

#[test]
fn a_guard_that_leaves_while_services_may_run_disarms_nothing() {
    let mut bench = Bench::new(None);
    bench.answer(100, votes(2, false));
    bench.armed(110);
    assert_eq!(bench.tell(200, Event::Leave), [Action::Exit]);
    let mut idle = Bench::new(None);
    assert_eq!(idle.tell(200, Event::Leave), [Action::Farewell, Action::Exit]);
}

#[test]
fn an_adopted_entitlement_is_renewed_or_runs_out_or_is_taken_back() {
    let adopted = || {
        let mut bench = Bench::new(None);
        assert_eq!(bench.tell(10, Event::Adopted(at(1500))), []);
        bench
    };
    assert_eq!(adopted().answer(100, votes(2, false)), until(100 + B));
    assert_eq!(adopted().answer(100, votes(1, false)), [Action::Revoke]);
    let mut late = adopted();
    late.tell(1500, Event::Timeout);
    assert_eq!(late.answer(1600, votes(2, false)), []);
}

#[test]
fn a_keeper_that_is_gone_after_it_was_armed_is_the_end() {
    let mut bench = Bench::new(None);
    bench.answer(100, votes(2, false));
    bench.armed(110);
    assert_eq!(bench.tell(200, Event::KeeperGone), []);
    assert_eq!(bench.answer(300, votes(2, false)), []);
    assert_eq!(bench.state(300), QuorumState::Inquorate);
}

#[test]
fn an_observer_entitles_nobody_and_sees_a_quorum_come_back() {
    let limits = Limits { watchdog: Duration::from_millis(W), peers_wait: None };
    let mut bench = Bench(Guard::new(Settings { limits, observe: true }));
    bench.tell(0, Event::Configured(Box::new(cluster(None))));
    bench.ring(0, 1, &[1, 2]);
    assert_eq!(bench.answer(100, votes(2, false)), []);
    assert_eq!(bench.state(100), QuorumState::Quorate);
    assert_eq!(bench.answer(200, votes(1, false)), []);
    assert_eq!(bench.state(200), QuorumState::Inquorate);
    bench.answer(300, votes(2, false));
    assert_eq!(bench.state(300), QuorumState::Quorate);
}
