//! Rule S7 at the arbiter: who may have whom fenced, and what a condemned node gets (safety 25 to
//! 28).

use std::collections::BTreeSet;
use std::time::Duration;

use protocol::fence::{
    Answer, Ask, Attestation, Call, FRAME_CALL, How, Intent, IntentId, Nonce, Proof, Refusal, Role,
    Verdict,
};
use protocol::ids::{BootId, Epoch, NodeId};
use protocol::qnet::{Frame, Message, MessageType};
use protocol::times;
use protocol::vote::Vote;
use qnetd::core::{ClientId, Event, Peer, Settings};

use crate::driver::{CLUSTER, Done, Driver, Own, grant_to, pair, set, votes};

/// The connection of the gateway of these tests.
pub(crate) const GATEWAY: u64 = 100;

impl Driver {
    /// A gateway with this certificate is connected.
    pub(crate) fn greet_gateway(&mut self, client: u64, peer: Peer) -> Vec<Done> {
        self.connect(client);
        let mut message = Message::new(MessageType::Preinit, Some(1));
        message.options.cluster_name = Some(CLUSTER.into());
        self.say(client, &message);
        self.say(client, &Message::new(MessageType::StartTls, Some(2)));
        self.event(Event::Secured { client: ClientId(client), identity: Some(peer) })
    }

    pub(crate) fn gateway(&mut self) {
        let peer = Peer { cluster: CLUSTER.into(), node: None, gateway: true };
        self.greet_gateway(GATEWAY, peer);
    }

    pub(crate) fn call(&mut self, client: u64, ask: Ask) -> Vec<Done> {
        let body = Call { nonce: Nonce(u128::from(client)), ask }.encode().unwrap();
        let frame = Frame { kind: FRAME_CALL, body };
        self.event(Event::Received { client: ClientId(client), frame })
    }

    /// The verdict on a call of the gateway, and what else happened.
    pub(crate) fn ask(&mut self, ask: Ask) -> (Option<Verdict>, Vec<Done>) {
        let done = self.call(GATEWAY, ask);
        (verdict(&done), done)
    }

    pub(crate) fn register(
        &mut self,
        requester: u32,
        epoch: Option<Epoch>,
        targets: &[u32],
    ) -> (Option<Verdict>, Vec<Done>) {
        let targets = set(targets);
        let requester = NodeId(requester);
        self.ask(Ask::Register(Intent { requester, epoch, targets, deadline_ms: 20_000 }))
    }

    pub(crate) fn off(
        &mut self,
        intent: IntentId,
        node: u32,
        how: How,
    ) -> (Option<Verdict>, Vec<Done>) {
        let proof = Proof { node: NodeId(node), boot: BootId(u128::from(node)), how, sent_ms: 100 };
        self.ask(Ask::Off { intent, proof })
    }

    pub(crate) fn attest(&mut self, intent: IntentId) -> Option<Verdict> {
        self.ask(Ask::Attest(intent)).0
    }
}

/// The answers to a gateway's connection.
fn answers(done: &[Done], to: u64) -> impl DoubleEndedIterator<Item = &Answer> {
    done.iter().filter_map(move |done| {
        if let Done::Answered(client, answer) = done
            && *client == to
        {
            Some(&**answer)
        } else {
            None
        }
    })
}

/// The answer to the gateway in a list of duties.
pub(crate) fn verdict(done: &[Done]) -> Option<Verdict> {
    let answer = answers(done, GATEWAY).next_back()?;
    assert_eq!(answer.nonce, Nonce(u128::from(GATEWAY)), "the answer is of this call");
    Some(answer.verdict.clone())
}

pub(crate) fn entitled(verdict: Option<Verdict>) -> Attestation {
    match verdict {
        Some(Verdict::Entitled(attestation)) => attestation,
        other => panic!("not entitled: {other:?}"),
    }
}

pub(crate) fn refusal(verdict: Option<Verdict>) -> Refusal {
    match verdict {
        Some(Verdict::Refused(refusal)) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

/// Nodes 1 and 2 were together, and node 1 has the vote alone; node 2 is connected and knows.
pub(crate) fn split(driver: &mut Driver) -> (Own, Own) {
    let (mut one, mut two) = pair(driver);
    driver.gateway();
    driver.pass_renewing(500, &mut [&mut one, &mut two]);
    one.report(driver, 5, &[1]);
    let done = two.report(driver, 5, &[2]);
    let done = two.confirm(driver, &done);
    assert_eq!(votes(&done), [(1, Vote::Ack)]);
    one.confirm(driver, &done);
    (one, two)
}

/// Node 1 had the vote alone and is silent; node 2 is chosen and waits.
pub(crate) fn candidate(driver: &mut Driver) -> (Own, Own) {
    let (mut one, mut two) = split(driver);
    driver.pass_renewing(500, &mut [&mut one, &mut two]);
    driver.pass_renewing(2000, &mut [&mut two]);
    (one, two)
}

fn epoch(own: &Own) -> Option<Epoch> {
    Some(own.grant.unwrap().id.epoch)
}

#[test]
fn the_holder_is_entitled_and_its_intent_is_on_disk_before_the_answer() {
    let mut driver = Driver::new(Settings::default());
    let (one, _two) = split(&mut driver);
    driver.disk_works = false;
    let (verdict_now, done) = driver.register(1, epoch(&one), &[2]);
    assert_eq!(verdict_now, None);
    assert!(done.iter().any(|done| matches!(done, Done::PersistFencing(_))));
    let attestation = entitled(verdict(&driver.write(true)));
    assert_eq!(attestation.role, Role::Holder);
    assert_eq!(Some(attestation.epoch), epoch(&one));
    assert_eq!((attestation.ring, attestation.holders), (one.view.ring, set(&[1])));
    let target = attestation.targets[&NodeId(2)];
    assert_eq!(target.boot, BootId(2));
    assert!(target.bound.is_some() && target.outside_ms.is_some() && target.silent_ms.is_some());
}

#[test]
fn an_intent_that_cannot_be_stored_is_refused_and_condemns_nobody() {
    let mut driver = Driver::new(Settings::default());
    let (one, _two) = split(&mut driver);
    driver.disk_works = false;
    driver.register(1, epoch(&one), &[2]);
    assert_eq!(refusal(verdict(&driver.write(false))), Refusal::NotStored);
    assert_eq!(driver.arbiter.status(driver.now).clusters[CLUSTER].intent, None);
}

#[test]
fn the_loser_is_not_entitled_and_hears_who_is() {
    let mut driver = Driver::new(Settings::default());
    let (one, _two) = split(&mut driver);
    let asked = driver.register(2, epoch(&one), &[1]).0;
    assert_eq!(refusal(asked), Refusal::NotEntitled(set(&[1])));
}

#[test]
fn a_requester_that_is_silent_or_unknown_is_not_connected() {
    let mut driver = Driver::new(Settings::default());
    let (one, mut two) = split(&mut driver);
    driver.pass_renewing(1500, &mut [&mut two]);
    let asked = driver.register(1, epoch(&one), &[2]).0;
    assert_eq!(refusal(asked), Refusal::NotConnected(NodeId(1)));
    let asked = driver.register(9, epoch(&one), &[2]).0;
    assert_eq!(refusal(asked), Refusal::NotConnected(NodeId(9)));
}

#[test]
fn a_paused_requester_with_an_old_epoch_is_refused_when_it_wakes() {
    let mut driver = Driver::new(Settings::default());
    let (mut one, mut two) = candidate(&mut driver);
    let old = epoch(&one);
    driver.pass_renewing(9250, &mut [&mut two]);
    assert!(epoch(&two) > old, "node 2 has the vote");
    one.renew(&mut driver);
    let asked = driver.register(1, old, &[2]).0;
    let current = epoch(&two).unwrap();
    assert_eq!(refusal(asked), Refusal::StaleEpoch { given: old.unwrap(), current });
    // Also if it knows the newer epoch: it is not of the view that has it.
    let asked = driver.register(1, epoch(&two), &[2]).0;
    assert_eq!(refusal(asked), Refusal::NotEntitled(set(&[2])));
}

#[test]
fn its_own_side_and_unknown_nodes_are_no_targets() {
    let mut driver = Driver::new(Settings::default());
    let (one, two) = pair(&mut driver);
    driver.gateway();
    for (targets, expected) in [
        (vec![2], Refusal::OwnSide(NodeId(2))),
        (vec![1], Refusal::OwnSide(NodeId(1))),
        (vec![7], Refusal::UnknownTarget(NodeId(7))),
        (vec![], Refusal::Malformed),
        ((10..200).collect(), Refusal::Malformed),
    ] {
        let asked = driver.register(1, epoch(&one), &targets).0;
        assert_eq!(refusal(asked), expected, "{targets:?}");
    }
    assert_eq!(driver.fencing, None);
    drop(two);
}

#[test]
fn while_nothing_is_decided_nobody_is_entitled_and_it_is_said_why() {
    let mut driver = Driver::new(Settings::default());
    let (mut one, mut two) = pair(&mut driver);
    driver.gateway();
    driver.pass_renewing(500, &mut [&mut one, &mut two]);
    // Node 1 is just gone: it is still in node 2's older report.
    two.report(&mut driver, 5, &[2]);
    let asked = driver.register(2, epoch(&two), &[1]).0;
    let Refusal::Undecided(why) = refusal(asked) else { panic!("decided") };
    assert!(why.contains("node 1"), "{why}");
}

#[test]
fn a_candidate_is_entitled_with_the_epoch_that_it_then_gets() {
    let mut driver = Driver::new(Settings::default());
    let (one, mut two) = candidate(&mut driver);
    let attestation = entitled(driver.register(2, epoch(&one), &[1]).0);
    assert_eq!(attestation.role, Role::Candidate);
    assert_eq!(attestation.holders, set(&[2]));
    assert!(Some(attestation.epoch) > epoch(&one));
    let (verdict, done) = driver.off(attestation.intent, 1, How::ReadOff);
    assert_eq!(verdict, Some(Verdict::Noted));
    assert_eq!(votes(&done), [(2, Vote::Ack)], "what node 1 may count has ended at once");
    two.listen(&done);
    assert_eq!(epoch(&two), Some(attestation.epoch));
}

#[test]
fn a_candidate_of_a_fresh_state_directory_waits_until_old_leases_are_over() {
    let mut driver = Driver::new(Settings::default());
    driver.gateway();
    let mut two = Own::new(2, 2, &[1, 2]);
    two.join(&mut driver);
    two.report(&mut driver, 5, &[2]);
    let asked = driver.register(2, None, &[1]).0;
    assert!(matches!(refusal(asked), Refusal::Undecided(_)));
    let bound = u64::try_from(times::LONE_LEASE_HOLD.as_millis()).unwrap();
    driver.pass_renewing(bound + 250, &mut [&mut two]);
    let attestation = entitled(driver.register(2, None, &[1]).0);
    assert_eq!(attestation.targets[&NodeId(1)].silent_ms, None);
    let proof = Proof {
        node: NodeId(1),
        boot: BootId::default(),
        how: How::Manual { by: "me".to_owned(), why: "unplugged".to_owned() },
        sent_ms: 0,
    };
    let (verdict, done) = driver.ask(Ask::Off { intent: attestation.intent, proof });
    assert_eq!(verdict, Some(Verdict::Noted));
    assert_eq!(votes(&done), [(2, Vote::Ack)], "nobody is outside any more");
}

#[test]
fn a_condemned_node_gets_no_renewal_and_is_told() {
    let mut driver = Driver::new(Settings::default());
    let (mut one, mut two) = candidate(&mut driver);
    let (verdict, done) = driver.register(2, epoch(&one), &[1]);
    entitled(verdict);
    assert_eq!(votes(&done), [(1, Vote::Nack)]);
    // It is back, and its lease would still count.
    assert_eq!(grant_to(&one.renew(&mut driver), 1), None);
    let done = driver.pass_renewing(1000, &mut [&mut one, &mut two]);
    assert_eq!(grant_to(&done, 1), None);
}

#[test]
fn a_condemned_node_stays_so_under_a_new_connection_and_boot_and_so_do_views_with_it() {
    let mut driver = Driver::new(Settings::default());
    let (mut one, _two) = split(&mut driver);
    let attestation = entitled(driver.register(1, epoch(&one), &[2]).0);
    driver.close(2);
    let mut back = Own::new(5, 2, &[1, 2]);
    back.instance = 77;
    back.join(&mut driver);
    let done = back.report(&mut driver, 6, &[2]);
    assert_eq!(votes(&done), [(5, Vote::Nack)]);
    // Nor is a view with it granted.
    one.report(&mut driver, 7, &[1, 2]);
    let done = back.report(&mut driver, 7, &[1, 2]);
    assert!(!votes(&done).iter().any(|(_, vote)| *vote == Vote::Ack), "{:?}", votes(&done));
    let log = driver.log.last().unwrap();
    assert!(log.contains("node 2 is being fenced"), "{log}");
    // Until it is over.
    let (verdict, done) = driver.ask(Ask::Release(attestation.intent));
    assert_eq!(verdict, Some(Verdict::Noted));
    let told = votes(&done);
    assert!(told.contains(&(1, Vote::Ack)) && told.contains(&(5, Vote::Ack)), "{told:?}");
}

#[test]
fn one_intent_a_cluster_and_its_requester_adds_targets() {
    let mut driver = Driver::new(Settings::default());
    let all = [1, 2, 3, 4, 5];
    let mut nodes: Vec<Own> = (1..=5).map(|n| Own::new(u64::from(n), n, &all)).collect();
    for node in &mut nodes {
        node.join(&mut driver);
    }
    let mut done = Vec::new();
    for node in &mut nodes {
        done.extend(node.report(&mut driver, 4, &all));
    }
    driver.gateway();
    for node in &mut nodes[..3] {
        done.extend(node.report(&mut driver, 5, &[1, 2, 3]));
    }
    for node in &mut nodes[3..] {
        done.extend(node.report(&mut driver, 5, &[4, 5]));
    }
    for node in &mut nodes {
        let more = node.confirm(&mut driver, &done.clone());
        done.extend(more);
    }
    nodes[0].listen(&done);
    let now = epoch(&nodes[0]);
    let first = entitled(driver.register(1, now, &[4]).0);
    let asked = driver.register(2, now, &[5]).0;
    assert_eq!(refusal(asked), Refusal::Busy { requester: NodeId(1), targets: set(&[4]) },);
    let asked = driver.register(1, None, &[5]).0;
    assert!(matches!(refusal(asked), Refusal::Busy { .. }), "another epoch");
    // Also through another gateway's connection.
    let peer = Peer { cluster: CLUSTER.into(), node: None, gateway: true };
    driver.greet_gateway(101, peer);
    let targets = set(&[5]);
    let ask = Intent { requester: NodeId(1), epoch: now, targets, deadline_ms: 20_000 };
    let done = driver.call(101, Ask::Register(ask));
    let added = answers(&done, 101).next().map(|answer| answer.verdict.clone());
    let second = entitled(added);
    assert_eq!(second.intent, first.intent);
    assert_eq!(second.targets.keys().copied().collect::<BTreeSet<_>>(), set(&[4, 5]));
    // Once nobody of it is left to be fenced, others may.
    driver.ask(Ask::Release(first.intent));
    entitled(driver.register(2, now, &[5]).0);
}

#[test]
fn a_late_attestation_of_a_lapsed_intent_is_refused_and_the_other_side_may_ask() {
    let mut driver = Driver::new(Settings::default());
    let (mut one, mut two) = split(&mut driver);
    let intent = entitled(driver.register(1, epoch(&one), &[2]).0).intent;
    // The power device is slow, and node 1 dies meanwhile.
    driver.pass_renewing(1000, &mut [&mut one, &mut two]);
    driver.pass_renewing(15_000, &mut [&mut two]);
    assert_eq!(refusal(driver.attest(intent)), Refusal::NotConnected(NodeId(1)));
    let asked = driver.register(2, epoch(&one), &[1]).0;
    assert_eq!(refusal(asked), Refusal::NotEntitled(set(&[1])), "it is condemned");
    // The deadline has passed and node 1 is not entitled: node 2 gets the vote.
    let done = driver.pass_renewing(6000, &mut [&mut two]);
    assert!(votes(&done).contains(&(2, Vote::Ack)), "{:?}", votes(&done));
    entitled(driver.register(2, epoch(&two), &[1]).0);
    assert_eq!(refusal(driver.attest(intent)), Refusal::UnknownIntent);
    let late = driver.off(intent, 2, How::ReadOff).0;
    assert_eq!(refusal(late), Refusal::UnknownIntent);
}

#[test]
fn a_dead_power_device_condemns_nobody_for_ever_and_an_entitled_requester_does_not_lose_its_mark() {
    let mut driver = Driver::new(Settings::default());
    let (mut one, mut two) = split(&mut driver);
    let intent = entitled(driver.register(1, epoch(&one), &[2]).0).intent;
    driver.pass_renewing(30_000, &mut [&mut one, &mut two]);
    entitled(driver.attest(intent));
    // Its gateway is quiet for longer than a command takes: another job may take its place.
    driver.pass_renewing(20_000, &mut [&mut one, &mut two]);
    let asked = driver.register(1, None, &[2]).0;
    assert_ne!(entitled(asked).intent, intent);
    // Node 1 takes node 2 in again, and nobody has said that the fencing is over.
    let mut done = driver.pass_renewing(20_000, &mut [&mut one, &mut two]);
    done.extend(one.report(&mut driver, 8, &[1, 2]));
    done.extend(two.report(&mut driver, 8, &[1, 2]));
    done.extend(driver.pass_renewing(500, &mut [&mut one, &mut two]));
    let told = votes(&done);
    assert!(told.contains(&(1, Vote::Ack)) && told.contains(&(2, Vote::Ack)), "{told:?}");
}

#[test]
fn an_open_intent_survives_a_restart() {
    let mut driver = Driver::new(Settings::default());
    let (mut one, mut two) = split(&mut driver);
    let intent = entitled(driver.register(1, epoch(&one), &[2]).0).intent;
    for boot in [1, 2] {
        let mut old = Driver::new(Settings::default());
        old.journal.clone_from(&driver.journal);
        old.fencing.clone_from(&driver.fencing);
        let mut driver = old.restart(BootId(boot));
        driver.gateway();
        two.join(&mut driver);
        let done = two.report(&mut driver, 6, &[2]);
        assert_eq!(votes(&done), [(2, Vote::Nack)], "condemnation continues");
        assert_eq!(refusal(driver.attest(intent)), Refusal::NotConnected(NodeId(1)));
        let held = protocol::qnet::Held {
            grant: one.grant.unwrap().id,
            view: one.grant.unwrap().view,
            remaining_ms: 9000,
        };
        one.join_holding(&mut driver, Some(held));
        one.report(&mut driver, 5, &[1]);
        let attestation = entitled(driver.attest(intent));
        assert_eq!(attestation.targets[&NodeId(2)].boot, BootId(2));
    }
}

/// Both nodes of a split ask at the same moment, 200 times, each time with another timing of the
/// messages around it: one of them is granted, every time, and never both.
#[test]
fn of_two_that_ask_at_the_same_moment_exactly_one_is_entitled() {
    for seed in 0..200_u64 {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut below = |limit: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % limit
        };
        let mut driver = Driver::new(Settings::default());
        let (mut one, mut two) = pair(&mut driver);
        driver.gateway();
        driver.pass_renewing(500, &mut [&mut one, &mut two]);
        driver.pass(below(200));
        if below(2) == 0 {
            one.report(&mut driver, 5, &[1]);
            driver.pass(below(100));
            two.report(&mut driver, 5, &[2]);
        } else {
            two.report(&mut driver, 5, &[2]);
            driver.pass(below(100));
            one.report(&mut driver, 5, &[1]);
        }
        driver.disk_works = below(2) == 0;
        let mut granted: Vec<Attestation> = Vec::new();
        let mut asks = 0;
        while driver.now < protocol::time::Time::from_millis(0) + Duration::from_secs(10) {
            let first = below(2);
            for side in [first, 1 - first] {
                let (node, other) = if side == 0 { (1, 2) } else { (2, 1) };
                let (_, done) = driver.register(node, Some(Epoch(99)), &[other]);
                asks += 1;
                let mut all = done;
                while driver.writes() > 0 && !driver.disk_works {
                    all.extend(driver.write(below(10) > 0));
                }
                two.confirm(&mut driver, &all);
                one.confirm(&mut driver, &all);
                granted.extend(answers(&all, GATEWAY).filter_map(|answer| match &answer.verdict {
                    Verdict::Entitled(attestation) => Some(attestation.clone()),
                    Verdict::Noted | Verdict::Refused(_) => None,
                }));
            }
            let done = driver.pass(50 + below(200));
            one.listen(&done);
            two.listen(&done);
            one.renew(&mut driver);
            two.renew(&mut driver);
        }
        let targets: BTreeSet<_> = granted.iter().flat_map(|a| a.targets.keys().copied()).collect();
        assert_eq!(targets.len(), 1, "seed {seed}, {asks} asked, granted against {targets:?}");
    }
}
