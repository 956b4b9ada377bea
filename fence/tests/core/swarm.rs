//! Everything goes wrong at random; what must never happen does not.

use std::collections::BTreeMap;

use fence::core::{Config, Delay, Event, Memory, RequestId};
use fence::device::{Command, DeviceError};
use fence::journal::Entry;
use proptest::prelude::*;
use protocol::fence::{Ask, How, Nonce, PowerAction, Verdict};
use protocol::ids::NodeId;
use protocol::time::Time;

use crate::bench::{Bench, Fact, add, config, ms, request};

/// Which node a device is of, by its name.
fn node_of(device: &str) -> u32 {
    device.rsplit('-').next().and_then(|node| node.parse().ok()).expect("a number")
}

fn swarm_config() -> Config {
    let mut config = config();
    add(&mut config, 2, &[&["ipmi-2"], &["pa-2", "pb-2"]]);
    add(&mut config, 3, &[&["pa-3", "pb-3"], &["ipmi-3"]]);
    config
}

/// No power is cut without an Entitled answer to a nonce that was asked after the last answer of
/// the node's devices, and never before the attempt is written down.
fn check_log(bench: &Bench) {
    let mut last_answer: BTreeMap<u32, usize> = BTreeMap::new();
    let mut asked: BTreeMap<Nonce, usize> = BTreeMap::new();
    let mut entitled: Vec<(usize, Verdict)> = Vec::new();
    let mut attempts: Vec<(String, usize)> = Vec::new();
    for (index, (_, fact)) in bench.log.iter().enumerate() {
        match fact {
            Fact::DeviceAnswered(device, ..) => {
                last_answer.insert(node_of(device), index);
            }
            Fact::Asked(nonce, Ask::Attest(_)) => {
                asked.insert(*nonce, index);
            }
            Fact::Answered(answer) => {
                if let Some(at) = asked.get(&answer.nonce) {
                    entitled.push((*at, answer.verdict.clone()));
                }
            }
            Fact::Recorded(Entry::Attempt { device, command: Command::Off, .. }) => {
                attempts.push((device.clone(), index));
            }
            Fact::Ordered(device, Command::Off) => {
                let node = node_of(device);
                let since = last_answer.get(&node).copied().unwrap_or(0);
                let good = entitled.iter().any(|(at, verdict)| {
                    *at > since
                        && matches!(verdict, Verdict::Entitled(said)
                            if said.targets.contains_key(&NodeId(node)))
                });
                assert!(good, "power of {device} is cut without the arbiter's word");
                let written = attempts.iter().any(|(name, at)| name == device && *at > since);
                assert!(written, "power of {device} is cut without a record");
            }
            Fact::Asked(..) | Fact::Recorded(_) | Fact::Ordered(..) | Fact::Told(..) => {}
        }
    }
}

/// A registration was asked again because its answer was lost with the session. If the second is
/// refused, nobody knows of the first; the arbiter lets that lapse. A yes of a session that is over
/// may still be seen to come; who has heard it goes on with something else.
fn asked_twice(bench: &Bench, requester: NodeId) -> bool {
    let mut out = None;
    bench.log.iter().any(|(_, fact)| match fact {
        Fact::Asked(nonce, Ask::Register(intent)) if intent.requester == requester => {
            out.replace(*nonce).is_some()
        }
        Fact::Asked(_, Ask::Attest(_) | Ask::Off { .. } | Ask::Release(_)) => {
            out = None;
            false
        }
        Fact::Answered(answer) => {
            let is_yes = matches!(answer.verdict, Verdict::Entitled(_));
            out.take_if(|nonce| *nonce == answer.nonce && !is_yes);
            false
        }
        Fact::Asked(..)
        | Fact::Recorded(_)
        | Fact::Ordered(..)
        | Fact::Told(..)
        | Fact::DeviceAnswered(..) => false,
    })
}

fn disturb(bench: &mut Bench, what: u64) {
    let names: Vec<String> = bench.switches.keys().cloned().collect();
    let at = usize::try_from(bench.rng.below(names.len() as u64)).expect("small");
    let takes = ms(1 + bench.rng.below(300));
    let switch = bench.switches.get_mut(&names[at]).expect("named");
    match what {
        0 => switch.silent = !switch.silent,
        1 => switch.busy = 2,
        2 => switch.error = Some(DeviceError::Login("no".to_owned())),
        3 => switch.error = None,
        4 => switch.ignores = !switch.ignores,
        5 => switch.loses_answers = !switch.loses_answers,
        6 => switch.settles = takes,
        7 => switch.takes = takes,
        8 => bench.arbiter.deaf = !bench.arbiter.deaf,
        9 => bench.event(Event::ArbiterDown("cut".to_owned())),
        10 => bench.event(Event::ArbiterUp),
        11 => bench.arbiter.intent = None,
        12 => bench.arbiter.decides_at = bench.now + takes,
        13 => {
            let holder = u32::try_from(1 + bench.rng.below(3)).expect("small");
            bench.arbiter.holders = [NodeId(holder)].into();
        }
        14 => bench.arbiter.takes = takes,
        _ => {
            bench.event(Event::ArbiterUp);
            bench.arbiter.deaf = false;
        }
    }
}

/// Asks for something at random.
fn ask(bench: &mut Bench, id: u64) {
    let requester = u32::try_from(1 + bench.rng.below(3)).expect("small");
    let others: Vec<u32> = (1..=3).filter(|node| *node != requester).collect();
    let targets = match bench.rng.below(3) {
        0 => others,
        which => vec![others[usize::try_from(which - 1).expect("small")]],
    };
    let action = match bench.rng.below(5) {
        0 => PowerAction::On,
        1 => PowerAction::Reboot,
        _ => PowerAction::Off,
    };
    let request = request(requester, &targets, action);
    bench.event(Event::Requested { id: RequestId(id), request });
    if bench.rng.below(4) == 0 {
        bench.confirm(id + 1000, requester, targets[0]);
    }
}

fn run(seed: u64, steps: &[(u64, u64)]) -> Bench {
    let mut config = swarm_config();
    if seed.is_multiple_of(3) {
        for target in config.targets.values_mut() {
            target.delay = Delay::Random(ms(400));
        }
    }
    let mut bench = Bench::with_memory(config, Memory::default(), seed);
    let mut asked = Vec::new();
    for (count, (pause, what)) in steps.iter().enumerate() {
        if *what < 6 {
            let id = count as u64;
            asked.push(id);
            ask(&mut bench, id);
        } else {
            disturb(&mut bench, what - 6);
        }
        bench.run_for(ms(*pause));
    }
    bench.arbiter.deaf = false;
    bench.event(Event::ArbiterUp);
    for id in asked {
        bench.until_done(id);
    }
    // The last releases are under way.
    bench.run_for(ms(10_000));
    bench
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    #[test]
    fn no_power_is_cut_without_a_fresh_word_of_the_arbiter(
        seed in any::<u64>(),
        steps in proptest::collection::vec((0_u64..3000, 0_u64..22), 1..40),
    ) {
        let bench = run(seed, &steps);
        check_log(&bench);
        if let Some((_, intent)) = &bench.arbiter.intent {
            prop_assert!(asked_twice(&bench, intent.requester), "an intent is left open");
        }
        prop_assert!(bench.now > Time::ZERO);
    }

    #[test]
    fn what_is_proven_off_was_off(
        seed in any::<u64>(),
        steps in proptest::collection::vec((0_u64..3000, 0_u64..22), 1..20),
    ) {
        let bench = run(seed, &steps);
        // A level of this node read off in full, in answers that came before the proof.
        let mut read: BTreeMap<String, bool> = BTreeMap::new();
        for (_, fact) in &bench.log {
            if let Fact::DeviceAnswered(device, Command::Status, Ok(seen)) = fact {
                let off = *seen == fence::device::Seen::Power(fence::device::Power::Off);
                read.insert(device.clone(), off);
            }
            if let Fact::Recorded(Entry::Proven { node, how: How::ReadOff, .. }) = fact {
                let is_off = |name: &str| read.get(&format!("{name}-{node}")) == Some(&true);
                let proven = is_off("ipmi") || is_off("pa") && is_off("pb");
                prop_assert!(proven, "node {node} is proven off, and nothing read so");
            }
        }
        for outcome in bench.arbiter.proofs.iter().map(|proof| &proof.how) {
            prop_assert!(!matches!(outcome, How::Watchdog));
        }
    }
}

/// An answer under way when the session ends, and another holder when the next one begins.
#[test]
fn a_registration_that_was_lost_with_its_session_is_known_as_such() {
    let steps = [[(0, 6); 5].as_slice(), &[(0, 20), (0, 6), (0, 0), (0, 6), (69, 15), (69, 19)]];
    let bench = run(4_372_433_599_984_066_665, &steps.concat());
    check_log(&bench);
    let (_, intent) = bench.arbiter.intent.as_ref().expect("the lost one is left open");
    assert!(asked_twice(&bench, intent.requester));
}
