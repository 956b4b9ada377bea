//! Two halves of a split that ask for each other's power at the same moment, by real processes: the
//! gateway, the arbiter and the power switches. The nodes are devices that speak by hand, because a
//! round with whole nodes waits seconds for each to be let in again.
//!
//! `HAGUARD_DUELS=200 cargo nextest run -p haguard --test fence duel` runs the 200 of the numbers;
//! without the variable there are 20.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use haguard::command::demo::samples::now;
use protocol::fence::{Outcome, Proof};
use protocol::ids::NodeId;
use protocol::rng::Rng;
use protocol::vote::Heuristics;
use tokio::sync::Barrier;
use tokio::time::{Duration, sleep};

use super::LOOK;
use super::common::{LIMIT, haguard, stdout};
use super::gateway::off;
use super::lab::{Lab, has_power, post};

/// How many there are unless the environment says otherwise.
const ROUNDS: u32 = 20;

/// A node asks again so long after its first no.
const PAUSE: Duration = Duration::from_millis(500);

/// What the duels of a run came to.
#[derive(Debug, Default)]
struct Tally {
    won: BTreeMap<u32, u32>,
    /// Who was granted had asked so often.
    asked: BTreeMap<usize, u32>,
    /// Every no, to either.
    reasons: BTreeMap<String, u32>,
}

#[tokio::test]
async fn of_two_halves_that_ask_at_the_same_moment_exactly_one_is_granted() {
    let rounds = std::env::var("HAGUARD_DUELS").map_or(ROUNDS, |text| text.parse().unwrap());
    let mut lab = Lab::start("duel").await;
    lab.gateway.write(&lab.gateway.outlets(&[1, 2]));
    lab.gateway.start().await;
    lab.powered_by_outlets();
    let mut random = Rng::new(7);
    let mut tally = Tally::default();
    let began = now();
    for round in 1..=rounds {
        duel(&mut lab, &mut random, &mut tally, round).await;
    }
    let took = now().since(began);
    report(rounds, took, &tally);
    // Nothing was cut beside what was granted, and all of it is in the journal.
    let history = lab.gateway.history().await;
    let count = |what: &str| history.iter().filter(|line| line.contains(what)).count();
    let proofs = count("\"proven\"");
    assert_eq!(proofs, rounds as usize, "a proof a round");
    let cut = lab.gateway.told(1).len() + lab.gateway.told(2).len();
    assert_eq!(cut, rounds as usize, "one command a round");
    assert!(tally.won.len() == 2, "each of them wins some: {tally:?}");
    let state = lab.gateway.state.display().to_string();
    let verified = haguard(&["fence", "verify-journal", "--state-dir", &state]);
    assert_eq!(verified.status.code(), Some(0), "{}", stdout(&verified));
}

/// A split, both ask, one is cut; then they are one again.
async fn duel(lab: &mut Lab, random: &mut Rng, tally: &mut Tally, round: u32) {
    // Both have the vote together, so their heuristics say whose side is better.
    let better = 1 + u32::try_from(random.below(2)).unwrap();
    let heuristics = |node| if node == better { Heuristics::Pass } else { Heuristics::Fail };
    let first = 1 + u32::try_from(random.below(2)).unwrap();
    let mut reports = BTreeMap::new();
    for node in [first, 3 - first] {
        let report = lab.next_report(&[node], Some(heuristics(node)));
        reports.insert(node, report.clone());
        lab.nodes.get_mut(&node).unwrap().report(report).await;
    }
    // One time in two they ask while the votes are on their way.
    if random.below(2) == 0 {
        for (node, report) in &reports {
            lab.nodes.get_mut(node).unwrap().until_told(report).await;
        }
    }
    let told: BTreeMap<u32, usize> = [1, 2].map(|node| (node, lab.gateway.told(node).len())).into();
    let is_granted = Arc::new(AtomicBool::new(false));
    let start = Arc::new(Barrier::new(2));
    let (ones, twos) =
        tokio::join!(side(lab, 1, &start, &is_granted), side(lab, 2, &start, &is_granted));
    let (winner, won, lost) = match (ones.0, twos.0) {
        (Some(_), None) => (1, ones.1, twos.1),
        (None, Some(_)) => (2, twos.1, ones.1),
        both => panic!("round {round}: not one of the two: {both:?}; {}", lab.gateway.log()),
    };
    let loser = 3 - winner;
    let cut = |node: u32| lab.gateway.told(node)[told[&node]..].to_vec();
    assert_eq!(cut(loser), ["off"], "round {round}: node {winner} was granted");
    assert_eq!(cut(winner), [""; 0], "round {round}: both were cut");
    assert!(lost.iter().all(|why| !why.is_empty()) && !lost.is_empty(), "{lost:?}");
    // The one that was granted goes on with the vote.
    lab.nodes.get_mut(&winner).unwrap().until_granted(&reports[&winner]).await;
    let grant = lab.grant();
    assert_eq!((grant.holder, grant.confirmed_off), (vec![winner], vec![loser]), "round {round}");
    *tally.won.entry(winner).or_default() += 1;
    *tally.asked.entry(won.len() + 1).or_default() += 1;
    for why in won.iter().chain(&lost) {
        *tally.reasons.entry(without_numbers(why)).or_default() += 1;
    }
    fs::write(lab.gateway.power_of(loser), "on\n").unwrap();
    lab.boot(loser).await;
    lab.unite().await;
}

/// One side asks, and asks again as a node does, until one of the two is granted: its proof, if that
/// was this one, and every no that it was told.
async fn side(
    lab: &Lab,
    node: u32,
    start: &Barrier,
    is_granted: &AtomicBool,
) -> (Option<Proof>, Vec<String>) {
    let mut way = lab.way(node).await;
    let limit = now() + LIMIT;
    let mut refused = Vec::new();
    start.wait().await;
    loop {
        let request = off(NodeId(node), lab.epoch(node), NodeId(3 - node));
        match post(way, &request).await {
            Outcome::Off { proof } => {
                is_granted.store(true, Ordering::Relaxed);
                return (Some(proof), refused);
            }
            Outcome::Refused { why } => refused.push(why),
            other @ (Outcome::Rebooted { .. } | Outcome::On | Outcome::Failed { .. }) => {
                panic!("node {node}: {other:?}; {}", lab.gateway.log())
            }
        }
        assert!(now() < limit, "nobody was granted: {refused:?}");
        // Who has no power asks nothing.
        let until = now() + PAUSE;
        while now() < until {
            if is_granted.load(Ordering::Relaxed) || !has_power(&lab.gateway.power_of(node)) {
                return (None, refused);
            }
            sleep(LOOK).await;
        }
        way = lab.way(node).await;
    }
}

/// The same reason for different nodes and epochs.
fn without_numbers(text: &str) -> String {
    text.chars().map(|letter| if letter.is_ascii_digit() { 'N' } else { letter }).collect()
}

fn report(rounds: u32, took: Duration, tally: &Tally) {
    let line = format!("{rounds} duels in {took:.1?}: {tally:#?}\n");
    let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
}
