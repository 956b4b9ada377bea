//! Members in the arbiter's place: more than half of all votes, of one view, each for itself and
//! for a nonce of now; and never beside a word of the arbiter.

use std::collections::BTreeSet;

use fence::core::{Config, Event, RequestId, Votes};
use fence::device::Command;
use fence::journal::Entry;
use protocol::fence::{
    Ask, Challenge, Nonce, Outcome, PowerAction, Progress, Role, TargetRecord, Testimony,
};
use protocol::ids::{BootId, Epoch, NodeId, RingId, ViewId};
use protocol::vote::{Bound, WatchdogClass};

use crate::bench::{Bench, Fact, add, config, ms};

/// Nodes of so many votes each, and an arbiter.
fn votes(each: &[u32], arbiter: u32) -> Votes {
    let nodes = (1..).map(NodeId).zip(each.iter().copied()).collect();
    Votes { nodes, arbiter }
}

fn with(each: &[u32], arbiter: u32) -> Config {
    let mut config = config();
    for node in 4..=each.len() {
        let node = u32::try_from(node).unwrap_or(0);
        add(&mut config, node, &[&[&format!("ipmi-{node}")]]);
    }
    Config { votes: votes(each, arbiter), ..config }
}

/// A gateway that has lost its arbiter.
fn alone(each: &[u32], arbiter: u32) -> Bench {
    let mut bench = Bench::new(with(each, arbiter));
    bench.event(Event::ArbiterDown("the host is down".to_owned()));
    bench
}

fn nodes(ids: &[u32]) -> BTreeSet<NodeId> {
    ids.iter().copied().map(NodeId).collect()
}

/// Every challenge that was told to a request.
fn challenges(bench: &Bench, id: u64) -> Vec<Challenge> {
    let mut all = Vec::new();
    for (_, fact) in &bench.log {
        if let Fact::Told(RequestId(told), Progress::Challenge { challenge }) = fact
            && *told == id
        {
            all.push(challenge.clone());
        }
    }
    all
}

/// What an honest member of a view without the targets says.
fn testimony(bench: &Bench, challenge: &Challenge, node: u32, members: &[u32]) -> Testimony {
    let record = TargetRecord {
        boot: BootId(300),
        bound: Some(Bound { class: WatchdogClass::A, bound_ms: 5300 }),
        outside_ms: Some(2200),
        silent_ms: Some(60_000),
    };
    Testimony {
        nonce: challenge.nonce,
        node: NodeId(node),
        view: ViewId { ring: RingId::new(1, 8), nonce: 77 },
        epoch: Epoch(5),
        members: nodes(members),
        quorate: true,
        expected_votes: bench.votes.all(),
        targets: challenge.targets.iter().map(|node| (*node, record)).collect(),
    }
}

fn say(bench: &mut Bench, testimony: Testimony) {
    bench.event(Event::Testified(Box::new(testimony)));
}

/// The members answer every challenge until the request is over, or so long.
fn answered_by(bench: &mut Bench, id: u64, members: &[u32], limit_ms: u64) {
    let end = bench.now + ms(limit_ms);
    let mut heard = None;
    while bench.done(id).is_none() && bench.now < end {
        if let Some(challenge) = challenges(bench, id).last()
            && heard != Some(challenge.nonce)
        {
            heard = Some(challenge.nonce);
            for node in members {
                say(bench, testimony(bench, challenge, *node, members));
            }
            continue;
        }
        if !bench.step() {
            return;
        }
    }
}

fn is_off(bench: &Bench, id: u64, node: u32) -> bool {
    let results = bench.done(id).unwrap_or_default();
    matches!(results.get(&NodeId(node)), Some(Outcome::Off { .. }))
}

fn commands(bench: &Bench) -> usize {
    let off = |(_, fact): &&(_, Fact)| matches!(fact, Fact::Ordered(_, Command::Off));
    bench.log.iter().filter(off).count()
}

#[test]
fn more_than_half_of_all_votes_have_a_node_fenced_without_the_arbiter() {
    let mut bench = alone(&[2, 2, 2], 1);
    bench.ask(1, 1, &[3], PowerAction::Off);
    answered_by(&mut bench, 1, &[1, 2], 5000);
    let Some(Outcome::Off { proof }) = bench.done(1).and_then(|mut all| all.remove(&NodeId(3)))
    else {
        panic!("{:#?}", bench.log)
    };
    assert_eq!(proof.boot, BootId(300), "as the members know it");
    assert!(!bench.switch("ipmi-3").on);
    let attested = |fact: &Fact| {
        if let Fact::Recorded(Entry::Attested { attestation, .. }) = fact {
            let view = (&attestation.holders, attestation.ring);
            attestation.role == Role::Majority && view == (&nodes(&[1, 2]), RingId::new(1, 8))
        } else {
            false
        }
    };
    let first = bench.position("the attestation", attested);
    let off = bench.position("off", |fact| matches!(fact, Fact::Ordered(_, Command::Off)));
    let again = bench.log[first + 1..off].iter().any(|(_, fact)| attested(fact));
    assert!(first < off && again, "asked again before the command");
    let asked = challenges(&bench, 1);
    assert!(asked.len() == 2 && asked[0].nonce != asked[1].nonce, "{asked:?}");
    let untold = |entry: &Entry| matches!(entry, Entry::Untold { node, .. } if *node == NodeId(3));
    assert_eq!(bench.entries().iter().filter(|entry| untold(entry)).count(), 1);
    // The arbiter, when it is back, has heard of nothing, and hears of nothing.
    bench.event(Event::ArbiterUp);
    bench.run_for(ms(10_000));
    assert!(bench.asks().is_empty(), "{:?}", bench.asks());
    // The next one is its to decide again.
    bench.ask(2, 1, &[2], PowerAction::Off);
    bench.run_for(ms(1000));
    assert!(is_off(&bench, 2, 2) && challenges(&bench, 2).is_empty());
}

#[test]
fn members_are_asked_only_after_the_arbiter_has_been_silent() {
    let mut bench = Bench::new(with(&[2, 2, 2], 1));
    bench.arbiter.deaf = true;
    bench.ask(1, 1, &[3], PowerAction::Off);
    bench.run_for(ms(2900));
    assert!(challenges(&bench, 1).is_empty());
    bench.run_for(ms(200));
    assert_eq!(challenges(&bench, 1).len(), 1);
    answered_by(&mut bench, 1, &[1, 2], 5000);
    assert!(is_off(&bench, 1, 3));
    // It may have heard the question: what it makes of it is released.
    bench.arbiter.deaf = false;
    bench.run_for(ms(10_000));
    assert_eq!(bench.arbiter.released.len(), 1);
    assert!(bench.arbiter.intent.is_none());
}

#[test]
fn a_refusal_of_the_arbiter_stands() {
    let mut bench = Bench::new(with(&[2, 2, 2], 1));
    bench.arbiter.holders = nodes(&[2, 3]);
    bench.ask(1, 1, &[3], PowerAction::Off);
    answered_by(&mut bench, 1, &[1, 2], 25_000);
    assert!(matches!(bench.outcome(1, 3), Outcome::Refused { .. }));
    assert!(challenges(&bench, 1).is_empty() && commands(&bench) == 0);
}

#[test]
fn the_arbiters_word_and_the_members_are_never_counted_together() {
    // It answers while members are asked: what they say later is for nothing.
    let mut bench = Bench::new(with(&[2, 2, 2], 1));
    bench.arbiter.deaf = true;
    bench.ask(1, 1, &[3], PowerAction::Off);
    bench.run_for(ms(3100));
    let challenge = challenges(&bench, 1).remove(0);
    let half = testimony(&bench, &challenge, 1, &[1, 2]);
    say(&mut bench, half);
    bench.arbiter.deaf = false;
    bench.run_for(ms(4000));
    assert!(is_off(&bench, 1, 3));
    let majority = |entry: &Entry| matches!(entry, Entry::Attested { attestation, .. } if attestation.role == Role::Majority);
    assert!(!bench.entries().iter().any(majority));
    assert_eq!(bench.arbiter.proofs.len(), 1);
    // What it has registered is its to attest before the command.
    let mut bench = Bench::new(with(&[2, 2, 2], 1));
    bench.ask(1, 1, &[3], PowerAction::Off);
    while bench.orders("ipmi-3", Command::Status).is_empty() {
        assert!(bench.step());
    }
    bench.event(Event::ArbiterDown("the host is down".to_owned()));
    answered_by(&mut bench, 1, &[1, 2], 60_000);
    assert!(matches!(bench.outcome(1, 3), Outcome::Failed { .. }));
    assert!(challenges(&bench, 1).is_empty() && commands(&bench) == 0);
}

#[test]
fn what_does_not_speak_for_one_view_now_counts_for_nothing() {
    type Change = fn(&mut Testimony);
    let wrong: [(&str, Change); 11] = [
        ("an older nonce", |said| said.nonce = Nonce(said.nonce.0 ^ 1)),
        ("another ring", |said| said.view.ring = RingId::new(1, 9)),
        ("another view of the ring", |said| said.view.nonce = 78),
        ("another epoch", |said| said.epoch = Epoch(6)),
        ("other members", |said| said.members = nodes(&[1, 2, 4])),
        ("not quorate", |said| said.quorate = false),
        ("other votes", |said| said.expected_votes = 3),
        ("the target is not condemned", |said| said.targets.clear()),
        ("the target", |said| said.node = NodeId(3)),
        ("not a member", |said| said.node = NodeId(4)),
        ("nobody known", |said| said.node = NodeId(9)),
    ];
    for (what, change) in wrong {
        let mut bench = alone(&[2, 2, 2, 0], 1);
        bench.ask(1, 1, &[3], PowerAction::Off);
        bench.run_for(ms(100));
        let challenge = challenges(&bench, 1).remove(0);
        for node in [1, 2] {
            let mut said = testimony(&bench, &challenge, node, &[1, 2]);
            if node == 2 {
                change(&mut said);
            }
            say(&mut bench, said);
        }
        bench.run_for(ms(2000));
        assert!(bench.orders("ipmi-3", Command::Status).is_empty(), "{what}");
    }
    // All of them say that the target is one of them.
    let mut bench = alone(&[2, 2, 2], 1);
    bench.ask(1, 1, &[3], PowerAction::Off);
    answered_by(&mut bench, 1, &[1, 2, 3], 30_000);
    assert!(!is_off(&bench, 1, 3) && commands(&bench) == 0);
    // Others have the majority, and the requester is not with them.
    let mut bench = alone(&[2, 2, 2, 2], 1);
    bench.ask(1, 1, &[4], PowerAction::Off);
    answered_by(&mut bench, 1, &[2, 3], 30_000);
    assert!(!is_off(&bench, 1, 4) && commands(&bench) == 0);
}

#[test]
fn testimonies_to_an_older_nonce_are_not_taken_for_the_command() {
    let mut bench = alone(&[2, 2, 2], 1);
    bench.ask(1, 1, &[3], PowerAction::Off);
    bench.run_for(ms(100));
    let first = challenges(&bench, 1).remove(0);
    let old: Vec<_> = [1, 2].map(|node| testimony(&bench, &first, node, &[1, 2])).into();
    old.iter().for_each(|said| say(&mut bench, said.clone()));
    bench.run_for(ms(500));
    assert_eq!(challenges(&bench, 1).len(), 2, "registered, logged in, and asked again");
    for _ in 0..10 {
        old.iter().for_each(|said| say(&mut bench, said.clone()));
        bench.run_for(ms(3000));
    }
    assert_eq!(commands(&bench), 0);
    assert!(matches!(bench.outcome(1, 3), Outcome::Failed { .. }));
}

/// Whether a view of these nodes, each of them honest, has all others fenced.
fn attests(each: &[u32], arbiter: u32, side: &[u32]) -> bool {
    let mut bench = alone(each, arbiter);
    let all = 1..=u32::try_from(each.len()).unwrap_or(0);
    let targets: Vec<u32> = all.filter(|node| !side.contains(node)).collect();
    let (Some(requester), false) = (side.first(), targets.is_empty()) else { return false };
    bench.ask(1, *requester, &targets, PowerAction::Off);
    answered_by(&mut bench, 1, side, 1000);
    let all_off = targets.iter().all(|node| is_off(&bench, 1, *node));
    assert!(all_off || commands(&bench) == 0, "{each:?} + {arbiter}: {side:?}");
    all_off
}

/// Every side of a cluster, by its members.
fn sides(nodes: u32) -> Vec<Vec<u32>> {
    let member = |side: u32| (1..=nodes).filter(move |node| side & (1 << (node - 1)) != 0);
    (1..1 << nodes).map(|side| member(side).collect()).collect()
}

#[test]
fn two_sides_of_a_split_are_never_both_attested() {
    let clusters: [(&[u32], u32); 8] = [
        (&[1, 1, 1], 0),
        (&[1, 1, 1], 1),
        (&[2, 2, 2], 1),
        (&[1, 1, 1, 1], 1),
        (&[1, 1, 1, 1], 3),
        (&[3, 1, 1, 1], 1),
        (&[1, 1, 1, 1, 1], 0),
        (&[1, 1, 1, 1, 1], 1),
    ];
    for (each, arbiter) in clusters {
        let count = u32::try_from(each.len()).unwrap_or(0);
        let all: u32 = each.iter().sum::<u32>() + arbiter;
        let mut attested: Vec<Vec<u32>> = Vec::new();
        for side in sides(count).into_iter().filter(|side| side.len() < each.len()) {
            let have: u32 = side.iter().map(|node| each[*node as usize - 1]).sum();
            let yes = attests(each, arbiter, &side);
            assert_eq!(yes, have * 2 > all, "{each:?} + {arbiter}: {side:?}");
            if yes {
                attested.push(side);
            }
        }
        for (index, a) in attested.iter().enumerate() {
            let apart = |b: &Vec<u32>| a.iter().all(|node| !b.contains(node));
            assert!(!attested[index + 1..].iter().any(apart), "{each:?} + {arbiter}");
        }
    }
}

#[test]
fn members_of_two_views_in_turn_never_make_one_majority() {
    // Five nodes, the arbiter's vote beside theirs: four are needed. In both views node 5 is lost,
    // and for every way to part the others some testify in the first view and some in the second.
    for first in sides(4).into_iter().filter(|side| side.len() < 4) {
        let mut bench = alone(&[1, 1, 1, 1, 1], 1);
        bench.ask(1, 1, &[5], PowerAction::Off);
        bench.run_for(ms(100));
        let challenge = challenges(&bench, 1).remove(0);
        for node in 1..=4 {
            let mut said = testimony(&bench, &challenge, node, &[1, 2, 3, 4]);
            if !first.contains(&node) {
                said.view = ViewId { ring: RingId::new(1, 9), nonce: 78 };
            }
            say(&mut bench, said);
        }
        bench.run_for(ms(2000));
        assert!(bench.orders("ipmi-5", Command::Status).is_empty(), "{first:?}");
        // Whoever has spoken of the view before says it again for the present one.
        let late: Vec<u32> = first;
        for node in late {
            let mut said = testimony(&bench, &challenge, node, &[1, 2, 3, 4]);
            said.view = ViewId { ring: RingId::new(1, 9), nonce: 78 };
            say(&mut bench, said);
        }
        bench.run_for(ms(100));
        assert!(!bench.orders("ipmi-5", Command::Status).is_empty());
    }
}

#[test]
fn a_pair_without_its_arbiter_is_told_what_only_a_man_can_do() {
    let mut config = with(&[1, 1], 1);
    config.targets.remove(&NodeId(3));
    let mut bench = Bench::new(config);
    bench.event(Event::ArbiterDown("the host is down".to_owned()));
    let alarms = bench.gateway.status(bench.now).alarms;
    assert!(alarms.iter().any(|alarm| alarm.contains("nobody can be fenced")), "{alarms:?}");
    bench.ask(1, 1, &[2], PowerAction::Off);
    answered_by(&mut bench, 1, &[1], 30_000);
    let Outcome::Failed { why } = bench.outcome(1, 2) else { panic!("not failed") };
    assert!(
        why.contains("the other nodes have 1 of 3 votes, which is not more than half"),
        "{why}"
    );
    assert!(why.contains("haguard fence confirm 2"), "{why}");
    assert!(challenges(&bench, 1).is_empty() && commands(&bench) == 0);
}

#[test]
fn a_view_that_is_too_small_is_told_how_much_is_missing() {
    let mut bench = alone(&[1, 1, 1, 1, 1], 1);
    bench.ask(1, 1, &[5], PowerAction::Off);
    answered_by(&mut bench, 1, &[1, 2, 3], 30_000);
    let Outcome::Failed { why } = bench.outcome(1, 5) else { panic!("not failed") };
    assert!(why.contains("3 of 6 votes speak for node 1"), "{why}");
    // Or that the gateway's file counts otherwise than the cluster.
    let mut bench = alone(&[2, 2, 2], 1);
    bench.ask(1, 1, &[3], PowerAction::Off);
    bench.votes.arbiter = 2;
    answered_by(&mut bench, 1, &[1, 2], 30_000);
    let Outcome::Failed { why } = bench.outcome(1, 3) else { panic!("not failed") };
    assert!(why.contains("node 1 counts 8 votes in all and this gateway's file 7"), "{why}");
}

#[test]
fn a_requester_of_an_older_epoch_is_refused_by_the_members_too() {
    let mut bench = alone(&[2, 2, 2], 1);
    bench.ask(1, 1, &[3], PowerAction::Off);
    bench.run_for(ms(100));
    let challenge = challenges(&bench, 1).remove(0);
    for node in [1, 2] {
        let mut said = testimony(&bench, &challenge, node, &[1, 2]);
        said.epoch = Epoch(6);
        say(&mut bench, said);
    }
    let Outcome::Refused { why } = bench.outcome(1, 3) else { panic!("not refused") };
    assert_eq!(why, "the request is of epoch 5, and it is 6 now");
    assert_eq!(commands(&bench), 0);
}

#[test]
fn a_requester_that_asks_again_hears_the_challenge_again() {
    let mut bench = alone(&[2, 2, 2], 1);
    bench.ask(1, 1, &[3], PowerAction::Off);
    bench.run_for(ms(100));
    bench.event(Event::Abandoned(RequestId(1)));
    bench.ask(2, 1, &[3], PowerAction::Off);
    assert_eq!(challenges(&bench, 2), challenges(&bench, 1));
    answered_by(&mut bench, 2, &[1, 2], 5000);
    assert!(is_off(&bench, 2, 3));
}

#[test]
fn several_targets_are_asked_for_together() {
    let mut bench = alone(&[1, 1, 1, 1, 1], 0);
    bench.ask(1, 1, &[4, 5], PowerAction::Off);
    answered_by(&mut bench, 1, &[1, 2, 3], 5000);
    assert!(is_off(&bench, 1, 4) && is_off(&bench, 1, 5));
}

#[test]
fn what_an_operator_confirms_is_refused_while_a_member_hears_the_node() {
    for (silent_ms, heard) in [(60_000, false), (3, true)] {
        let mut bench = alone(&[2, 2, 2], 1);
        bench.switch("ipmi-3").silent = true;
        bench.confirm(1, 1, 3);
        let mut answered = Vec::new();
        while bench.done(1).is_none() {
            let open = challenges(&bench, 1).into_iter().find(|c| !answered.contains(&c.nonce));
            let Some(challenge) = open else {
                assert!(bench.step());
                continue;
            };
            answered.push(challenge.nonce);
            for node in [1, 2] {
                let mut said = testimony(&bench, &challenge, node, &[1, 2]);
                let silent = |record: &mut TargetRecord| record.silent_ms = Some(silent_ms);
                said.targets.values_mut().for_each(silent);
                say(&mut bench, said);
            }
        }
        let outcome = bench.outcome(1, 3);
        if let Outcome::Refused { why } = &outcome {
            assert!(heard && why.contains("was heard since"), "{why}");
        } else {
            assert!(!heard && matches!(outcome, Outcome::Off { .. }), "{outcome:?}");
        }
    }
}

#[test]
fn a_watchdog_is_waited_for_by_the_members_clocks_less_a_tenth() {
    let mut config = with(&[2, 2, 2], 1);
    add(&mut config, 3, &[&["dog"]]);
    let mut bench = Bench::new(config);
    bench.event(Event::ArbiterDown("the host is down".to_owned()));
    bench.ask(1, 1, &[3], PowerAction::Off);
    let mut heard = None;
    while bench.done(1).is_none() {
        let newest = challenges(&bench, 1).pop().filter(|newest| heard != Some(newest.nonce));
        let Some(challenge) = newest else {
            assert!(bench.step());
            continue;
        };
        heard = Some(challenge.nonce);
        for (node, more) in [(1, 0), (2, 400)] {
            let mut said = testimony(&bench, &challenge, node, &[1, 2]);
            let outside = bench.now.as_millis() + more;
            said.targets.values_mut().for_each(|record| record.outside_ms = Some(outside));
            say(&mut bench, said);
        }
    }
    assert!(is_off(&bench, 1, 3), "{:?}", bench.done(1));
    let took = bench.now.as_millis();
    assert!((5830..6200).contains(&took), "5300 ms and a tenth, by the later of two: {took}");
}

#[test]
fn who_wants_to_testify_is_told_whether_anybody_listens() {
    let mut bench = alone(&[2, 2, 2], 1);
    assert!(!bench.gateway.is_open(Nonce(0)));
    bench.ask(1, 1, &[3], PowerAction::Off);
    bench.run_for(ms(100));
    let challenge = challenges(&bench, 1).remove(0);
    assert!(bench.gateway.is_open(challenge.nonce));
    assert!(!bench.asks().iter().any(|ask| matches!(ask, Ask::Register(_))));
    answered_by(&mut bench, 1, &[1, 2], 5000);
    assert!(!bench.gateway.is_open(challenge.nonce));
}
