//! Who may ask, who joins, and what is written down first.

use fence::core::{Event, REQUESTS_MAX, RequestId};
use fence::device::Command;
use fence::journal::Entry;
use protocol::fence::{Ask, How, Outcome, PowerAction, Progress};
use protocol::ids::{BootId, Epoch, NodeId};

use crate::bench::{Bench, Fact, add, config, ms, request};

#[test]
fn a_node_is_cut_off_read_back_and_told() {
    let mut bench = Bench::new(config());
    bench.ask(1, 1, &[2], PowerAction::Off);
    let Outcome::Off { proof } = bench.outcome(1, 2) else { panic!("not off") };
    assert_eq!((proof.node, proof.boot, proof.how), (NodeId(2), BootId(200), How::ReadOff));
    assert!(!bench.switch("ipmi-2").on);
    // Login, command, reading, and the arbiter's answers: nothing else is waited for.
    assert!(bench.now.as_millis() <= 30, "took {}", bench.now);

    let order = [
        bench.position("the request", |f| matches!(f, Fact::Recorded(Entry::Requested { .. }))),
        bench.position("the intent", |f| matches!(f, Fact::Asked(_, Ask::Register(_)))),
        bench.position("the login", |f| matches!(f, Fact::Ordered(_, Command::Status))),
        bench.position("the attempt", |f| matches!(f, Fact::Recorded(Entry::Attempt { .. }))),
        bench.position("the question", |f| matches!(f, Fact::Asked(_, Ask::Attest(_)))),
        bench.position("the command", |f| matches!(f, Fact::Ordered(_, Command::Off))),
        bench.position("the proof", |f| matches!(f, Fact::Recorded(Entry::Proven { .. }))),
        bench.position("the word", |f| matches!(f, Fact::Asked(_, Ask::Off { .. }))),
        bench.position("the news", |f| matches!(f, Fact::Told(_, Progress::Off { .. }))),
        bench.position("the end", |f| matches!(f, Fact::Told(_, Progress::Done { .. }))),
        bench.position("the release", |f| matches!(f, Fact::Asked(_, Ask::Release(_)))),
    ];
    assert!(order.is_sorted(), "{order:?}");
    bench.run_for(ms(100));
    assert_eq!(bench.arbiter.released.len(), 1);
}

#[test]
fn nothing_is_done_before_the_request_is_on_disk() {
    let mut bench = Bench::new(config());
    bench.disk_stalls = true;
    bench.ask(1, 1, &[2], PowerAction::Off);
    bench.run_for(ms(1000));
    assert!(bench.asks().is_empty());
    assert!(bench.orders("ipmi-2", Command::Status).is_empty());
    let outcome = bench.outcome(1, 2);
    assert!(matches!(outcome, Outcome::Refused { .. }), "{outcome:?}");
}

#[test]
fn a_full_disk_refuses_requests_and_is_an_alarm() {
    let mut bench = Bench::new(config());
    bench.disk_fails = true;
    bench.ask(1, 1, &[2], PowerAction::Off);
    let outcome = bench.outcome(1, 2);
    assert!(matches!(&outcome, Outcome::Refused { why } if why.contains("disk")), "{outcome:?}");
    assert!(bench.asks().is_empty() && bench.switch("ipmi-2").on);
    let alarms = bench.gateway.status(bench.now).alarms;
    assert!(alarms.iter().any(|alarm| alarm.contains("journal")), "{alarms:?}");
}

#[test]
fn a_disk_that_fills_up_before_the_command_stops_it() {
    let mut bench = Bench::new(config());
    bench.ask(1, 1, &[2], PowerAction::Off);
    while bench.orders("ipmi-2", Command::Status).is_empty() {
        assert!(bench.step());
    }
    bench.disk_fails = true;
    let outcome = bench.outcome(1, 2);
    assert!(matches!(&outcome, Outcome::Failed { why } if why.contains("record")), "{outcome:?}");
    assert!(bench.orders("ipmi-2", Command::Off).is_empty());
}

#[test]
fn nobody_fences_himself() {
    let mut bench = Bench::new(config());
    bench.ask(1, 1, &[1, 2], PowerAction::Off);
    let outcome = bench.outcome(1, 2);
    assert!(matches!(&outcome, Outcome::Refused { why } if why.contains("itself")), "{outcome:?}");
    assert!(bench.asks().is_empty());
}

#[test]
fn an_unknown_target_is_refused_with_the_known_ones() {
    let mut bench = Bench::new(config());
    bench.ask(1, 1, &[9], PowerAction::Off);
    let Outcome::Refused { why } = bench.outcome(1, 9) else { panic!("not refused") };
    assert_eq!(why, "node 9 is not known here: known are 1, 2, 3");
}

#[test]
fn a_node_without_a_device_and_an_empty_request_are_refused() {
    let mut config = config();
    add(&mut config, 4, &[]);
    let mut bench = Bench::new(config);
    bench.ask(1, 1, &[4], PowerAction::Off);
    let outcome = bench.outcome(1, 4);
    assert!(matches!(&outcome, Outcome::Refused { why } if why.contains("no device")));
    bench.ask(2, 1, &[], PowerAction::Off);
    assert!(bench.until_done(2).is_empty());
}

#[test]
fn a_second_request_for_the_same_node_joins_the_job() {
    let mut bench = Bench::new(config());
    bench.ask(1, 1, &[2], PowerAction::Off);
    bench.run_for(ms(3));
    bench.ask(2, 1, &[2], PowerAction::Off);
    assert_eq!(bench.outcome(1, 2), bench.outcome(2, 2));
    assert_eq!(bench.orders("ipmi-2", Command::Off).len(), 1);
    let jobs: Vec<u64> = bench
        .log
        .iter()
        .filter_map(|(_, fact)| match fact {
            Fact::Told(_, Progress::Accepted { job }) => Some(*job),
            Fact::Told(..)
            | Fact::Recorded(_)
            | Fact::Asked(..)
            | Fact::Answered(_)
            | Fact::Ordered(..)
            | Fact::DeviceAnswered(..) => None,
        })
        .collect();
    assert_eq!(jobs, [1, 1]);
}

#[test]
fn the_same_requester_adds_targets_to_its_intent() {
    let mut bench = Bench::new(config());
    bench.ask(1, 1, &[2], PowerAction::Off);
    bench.run_for(ms(8));
    bench.ask(2, 1, &[3], PowerAction::Off);
    assert!(matches!(bench.outcome(1, 2), Outcome::Off { .. }));
    assert!(matches!(bench.outcome(2, 3), Outcome::Off { .. }));
    bench.run_for(ms(100));
    assert_eq!(bench.arbiter.released.len(), 1, "one intent for the incident");
}

#[test]
fn another_requester_is_refused_while_an_intent_is_open() {
    let mut bench = Bench::new(config());
    bench.switch("ipmi-2").takes = ms(500);
    bench.arbiter.holders.insert(NodeId(3));
    bench.ask(1, 1, &[2], PowerAction::Off);
    bench.run_for(ms(10));
    bench.ask(2, 2, &[3], PowerAction::Off);
    let Outcome::Refused { why } = bench.outcome(2, 3) else { panic!("not refused") };
    assert_eq!(why, "node 1 is fencing node 2 at the moment");
    // One of the same side may wait for what is done already.
    bench.ask(3, 3, &[2], PowerAction::Off);
    assert!(matches!(bench.outcome(3, 2), Outcome::Off { .. }));
    assert_eq!(bench.orders("ipmi-2", Command::Off).len(), 1);
}

#[test]
fn a_request_of_another_epoch_joins_nothing() {
    let mut bench = Bench::new(config());
    bench.ask(1, 1, &[2], PowerAction::Off);
    bench.run_for(ms(8));
    let mut stale = request(1, &[2], PowerAction::Off);
    stale.epoch = Some(Epoch(4));
    bench.event(Event::Requested { id: RequestId(2), request: stale });
    assert!(matches!(bench.outcome(2, 2), Outcome::Refused { .. }));
    assert!(matches!(bench.outcome(1, 2), Outcome::Off { .. }));
}

#[test]
fn the_job_goes_on_without_its_requester() {
    let mut bench = Bench::new(config());
    bench.ask(1, 1, &[2], PowerAction::Off);
    bench.event(Event::Abandoned(RequestId(1)));
    bench.run_for(ms(200));
    assert!(!bench.switch("ipmi-2").on);
    assert_eq!(bench.done(1), None);
    assert_eq!(bench.arbiter.proofs.len(), 1);
}

#[test]
fn so_many_requests_and_no_more() {
    let mut bench = Bench::new(config());
    bench.switch("ipmi-2").takes = ms(1000);
    let most = u64::try_from(REQUESTS_MAX).expect("small");
    for id in 0..=most {
        bench.ask(id, 1, &[2], PowerAction::Off);
    }
    assert!(matches!(bench.outcome(most, 2), Outcome::Refused { .. }));
    assert!(matches!(bench.outcome(0, 2), Outcome::Off { .. }));
}

#[test]
fn what_a_requester_writes_is_short_and_harmless_in_the_journal() {
    let mut bench = Bench::new(config());
    let mut request = request(1, &[2], PowerAction::Off);
    request.reason = format!("\u{1b}[2J\n\u{202e}{}", "x".repeat(10_000));
    bench.event(Event::Requested { id: RequestId(1), request });
    let Some(Entry::Requested { reason, .. }) =
        bench.entries().into_iter().find(|entry| matches!(entry, Entry::Requested { .. }))
    else {
        panic!("not recorded");
    };
    assert!(reason.starts_with("\\u{1b}[2J\\n\\u{202e}xxx"), "{reason}");
    assert!(reason.chars().count() < 300);
}

#[test]
fn power_is_given_without_the_arbiter_but_not_during_a_fence() {
    let mut bench = Bench::new(config());
    bench.switch("ipmi-2").on = false;
    bench.event(Event::ArbiterDown("cut".to_owned()));
    bench.ask(1, 1, &[2], PowerAction::On);
    assert_eq!(bench.outcome(1, 2), Outcome::On);
    assert!(bench.switch("ipmi-2").on);
    bench.event(Event::ArbiterUp);
    bench.ask(2, 1, &[2], PowerAction::Off);
    bench.run_for(ms(8));
    bench.ask(3, 1, &[2], PowerAction::On);
    assert!(matches!(bench.outcome(3, 2), Outcome::Refused { .. }));
    assert!(matches!(bench.outcome(2, 2), Outcome::Off { .. }));
}

#[test]
fn a_fence_waits_until_a_command_that_gives_power_has_ended() {
    let mut bench = Bench::new(config());
    bench.switch("ipmi-2").on = false;
    bench.switch("ipmi-2").takes = ms(300);
    bench.ask(1, 1, &[2], PowerAction::On);
    bench.run_for(ms(100));
    bench.ask(2, 1, &[2], PowerAction::Off);
    let Outcome::Off { .. } = bench.outcome(2, 2) else { panic!("not off") };
    assert!(!bench.switch("ipmi-2").on);
    let Outcome::Failed { why } = bench.outcome(1, 2) else { panic!("not failed") };
    assert!(why.contains("a fence of the node has begun"), "{why}");
    assert!(bench.orders("ipmi-2", Command::Status)[0].as_millis() >= 300);
}

#[test]
fn a_hundred_targets_are_cut_off_at_the_same_time() {
    let mut config = config();
    let targets: Vec<u32> = (2..=101).collect();
    for node in &targets {
        add(&mut config, *node, &[&[&format!("ipmi-{node}")]]);
    }
    let mut bench = Bench::new(config);
    bench.ask(1, 1, &targets, PowerAction::Off);
    let results = bench.until_done(1);
    assert_eq!(results.len(), 100);
    assert!(results.values().all(|outcome| matches!(outcome, Outcome::Off { .. })));
    assert!(bench.now.as_millis() < 50, "took {}", bench.now);
    let registered = |ask: &Ask| matches!(ask, Ask::Register(_));
    assert_eq!(bench.asks().iter().filter(|ask| registered(ask)).count(), 1);
    // The arbiter's queue is not longer than what it can take.
    let mut out = 0_i32;
    for (_, fact) in &bench.log {
        out += match fact {
            Fact::Asked(..) => 1,
            Fact::Answered(_) => -1,
            Fact::Told(..) | Fact::Recorded(_) | Fact::Ordered(..) | Fact::DeviceAnswered(..) => 0,
        };
        assert!(out <= 32, "{out} calls are out");
    }
}
