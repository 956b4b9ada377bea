//! The arbiter's word: asked for with a nonce, again and again, and never assumed.

use fence::core::Event;
use fence::device::Command;
use fence::journal::Entry;
use protocol::fence::{
    Answer, Ask, Attestation, Nonce, Outcome, PowerAction, Progress, Refusal, Role, Verdict,
};
use protocol::ids::{BootId, Epoch, NodeId, RingId};
use protocol::time::Time;

use crate::bench::{Bench, Fact, config, ms};

fn nonces(bench: &Bench) -> Vec<Nonce> {
    let mut nonces = Vec::new();
    for (_, fact) in &bench.log {
        if let Fact::Asked(nonce, _) = fact {
            nonces.push(*nonce);
        }
    }
    nonces
}

#[test]
fn a_call_without_an_answer_is_asked_again_with_another_nonce() {
    let mut bench = Bench::new(config());
    bench.arbiter.deaf = true;
    bench.ask(1, 1, &[2], PowerAction::Off);
    bench.run_for(ms(7000));
    let asked = nonces(&bench);
    assert_eq!(asked.len(), 3, "at once, and every 3 s");
    assert!(asked[0] != asked[1] && asked[1] != asked[2]);
    bench.arbiter.deaf = false;
    assert!(matches!(bench.outcome(1, 2), Outcome::Off { .. }));
}

#[test]
fn an_arbiter_that_never_answers_is_no() {
    let mut bench = Bench::new(config());
    bench.arbiter.deaf = true;
    bench.ask(1, 1, &[2], PowerAction::Off);
    let Outcome::Failed { why } = bench.outcome(1, 2) else { panic!("not failed") };
    assert!(why.contains("the arbiter has not answered within 20 s"), "{why}");
    assert!(why.contains("haguard fence confirm 2"), "{why}");
    assert!(bench.orders("ipmi-2", Command::Off).is_empty());
}

#[test]
fn calls_wait_for_the_session_and_are_asked_anew_in_the_next() {
    let mut bench = Bench::new(config());
    bench.event(Event::ArbiterDown("the host is down".to_owned()));
    assert_eq!(bench.gateway.status(bench.now).arbiter, "the host is down");
    bench.ask(1, 1, &[2], PowerAction::Off);
    bench.run_for(ms(5000));
    assert!(bench.asks().is_empty());
    bench.event(Event::ArbiterUp);
    bench.event(Event::ArbiterDown("again".to_owned()));
    bench.event(Event::ArbiterUp);
    assert_eq!(nonces(&bench).len(), 2);
    assert!(matches!(bench.outcome(1, 2), Outcome::Off { .. }));
}

#[test]
fn answers_to_nonces_that_were_not_asked_are_ignored() {
    let mut bench = Bench::new(config());
    bench.arbiter.deaf = true;
    bench.ask(1, 1, &[2], PowerAction::Off);
    bench.run_for(ms(4000));
    let old = nonces(&bench)[0];
    for nonce in [Nonce(0), Nonce(7), old] {
        let attestation = Attestation {
            intent: Default::default(),
            epoch: Epoch(9),
            ring: RingId::new(1, 1),
            holders: [NodeId(1)].into(),
            role: Role::Holder,
            targets: [(NodeId(2), Default::default())].into(),
        };
        let answer = Answer { nonce, verdict: Verdict::Entitled(attestation) };
        bench.event(Event::Answered(Box::new(answer)));
    }
    bench.run_for(ms(1000));
    assert!(bench.orders("ipmi-2", Command::Status).is_empty());
}

#[test]
fn an_undecided_arbiter_is_asked_until_it_chooses() {
    let mut bench = Bench::new(config());
    bench.arbiter.decides_at = Time::from_millis(1500);
    bench.ask(1, 1, &[2], PowerAction::Off);
    assert!(matches!(bench.outcome(1, 2), Outcome::Off { .. }));
    assert!(bench.now.as_millis() < 1800, "took {}", bench.now);
    let asked = bench.asks().iter().filter(|ask| matches!(ask, Ask::Register(_))).count();
    assert!((6..=16).contains(&asked), "{asked} times in 1.5 s");
}

#[test]
fn an_arbiter_that_never_chooses_is_no() {
    let mut bench = Bench::new(config());
    bench.arbiter.decides_at = Time::NEVER;
    bench.ask(1, 1, &[2], PowerAction::Off);
    let Outcome::Refused { why } = bench.outcome(1, 2) else { panic!("not refused") };
    assert!(why.contains("has not chosen a side"), "{why}");
    assert!(bench.now.as_millis() < 21_000);
}

#[test]
fn who_is_not_entitled_is_refused_with_who_is() {
    let mut bench = Bench::new(config());
    bench.ask(1, 2, &[1], PowerAction::Off);
    let Outcome::Refused { why } = bench.outcome(1, 1) else { panic!("not refused") };
    assert_eq!(why, "the requester's side has not the vote; it is with node 1");
    assert!(bench.orders("ipmi-1", Command::Status).is_empty());
    let refused = |entry: &Entry| {
        matches!(entry, Entry::Refused { refusal: Some(Refusal::NotEntitled(_)), .. })
    };
    assert!(bench.entries().iter().any(refused));
}

#[test]
fn entitlement_that_ends_before_the_command_stops_it() {
    let mut bench = Bench::new(config());
    bench.ask(1, 1, &[2], PowerAction::Off);
    while bench.orders("ipmi-2", Command::Status).is_empty() {
        assert!(bench.step());
    }
    bench.arbiter.holders = [NodeId(2)].into();
    assert!(matches!(bench.outcome(1, 2), Outcome::Refused { .. }));
    bench.run_for(ms(100));
    assert!(bench.orders("ipmi-2", Command::Off).is_empty() && bench.switch("ipmi-2").on);
    assert_eq!(bench.arbiter.released.len(), 1, "the target is condemned no longer");
}

#[test]
fn a_lost_intent_is_registered_again() {
    let mut bench = Bench::new(config());
    bench.ask(1, 1, &[2], PowerAction::Off);
    while bench.orders("ipmi-2", Command::Status).is_empty() {
        assert!(bench.step());
    }
    bench.arbiter.intent = None;
    assert!(matches!(bench.outcome(1, 2), Outcome::Off { .. }));
    let asked = bench.asks().iter().filter(|ask| matches!(ask, Ask::Register(_))).count();
    assert_eq!(asked, 2);
}

#[test]
fn a_proof_keeps_its_boot_when_the_intent_is_registered_again() {
    let mut bench = Bench::new(config());
    bench.ask(1, 1, &[2], PowerAction::Off);
    while !bench.asks().iter().any(|ask| matches!(ask, Ask::Off { .. })) {
        assert!(bench.step());
    }
    bench.arbiter.intent = None;
    let record = protocol::fence::TargetRecord { boot: BootId(999), ..Default::default() };
    bench.arbiter.records.insert(NodeId(2), record);
    let Outcome::Off { proof } = bench.outcome(1, 2) else { panic!("not off") };
    assert_eq!(proof.boot, BootId(200));
}

#[test]
fn a_node_that_was_heard_is_not_off_whatever_is_read() {
    let mut bench = Bench::new(config());
    bench.arbiter.heard.insert(NodeId(2));
    bench.ask(1, 1, &[2], PowerAction::Off);
    let Outcome::Failed { why } = bench.outcome(1, 2) else { panic!("not failed") };
    assert!(why.contains("node 2 was heard since"), "{why}");
    let told = |fact: &Fact| matches!(fact, Fact::Told(_, Progress::Off { .. }));
    assert!(!bench.log.iter().any(|(_, fact)| told(fact)));
}

#[test]
fn a_proof_is_told_until_the_arbiter_has_noted_it() {
    let mut bench = Bench::new(config());
    bench.ask(1, 1, &[2], PowerAction::Off);
    while !bench.asks().iter().any(|ask| matches!(ask, Ask::Off { .. })) {
        assert!(bench.step());
    }
    bench.arbiter.deaf = true;
    bench.run_for(ms(3500));
    assert_eq!(bench.done(1), None, "not before the arbiter knows");
    bench.arbiter.deaf = false;
    let Outcome::Off { proof } = bench.outcome(1, 2) else { panic!("not off") };
    assert!(proof.sent_ms >= 3000, "its age counts from the command: {} ms", proof.sent_ms);
    assert!(bench.arbiter.proofs[0].sent_ms >= 3000);
}

#[test]
fn a_dead_switch_condemns_nobody_for_ever() {
    let mut bench = Bench::new(config());
    bench.switch("ipmi-2").silent = true;
    bench.ask(1, 1, &[2], PowerAction::Off);
    assert!(matches!(bench.outcome(1, 2), Outcome::Failed { .. }));
    bench.run_for(ms(100));
    assert_eq!(bench.arbiter.intent, None);
}

#[test]
fn a_late_release_does_not_end_the_next_intent() {
    let mut bench = Bench::new(config());
    bench.ask(1, 1, &[2], PowerAction::Off);
    bench.until_done(1);
    // The release is under way when the session is lost.
    bench.event(Event::ArbiterDown("cut".to_owned()));
    bench.switch("ipmi-3").takes = ms(1000);
    bench.ask(2, 1, &[3], PowerAction::Off);
    bench.event(Event::ArbiterUp);
    assert!(matches!(bench.outcome(2, 3), Outcome::Off { .. }));
    let asked = bench.asks().iter().filter(|ask| matches!(ask, Ask::Register(_))).count();
    assert_eq!(asked, 2, "the second intent was never lost");
}

#[test]
fn a_proof_that_the_arbiter_cannot_store_yet_is_told_again() {
    let mut bench = Bench::new(config());
    bench.arbiter.full = 3;
    bench.ask(1, 1, &[2], PowerAction::Off);
    assert!(matches!(bench.outcome(1, 2), Outcome::Off { .. }));
    assert_eq!(bench.arbiter.full, 0);
}
