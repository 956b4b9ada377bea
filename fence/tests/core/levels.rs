//! Levels, devices that must all succeed, retries, and what counts as off.

use std::time::Duration;

use fence::core::{Config, Delay};
use fence::device::{Command, DeviceError};
use fence::journal::Entry;
use protocol::fence::{Ask, Outcome, PowerAction};
use protocol::ids::NodeId;

use crate::bench::{Bench, Fact, add, config, ms};

fn two_levels() -> Config {
    let mut config = config();
    add(&mut config, 2, &[&["ipmi-2"], &["pdu-2"]]);
    config
}

fn two_supplies() -> Config {
    let mut config = config();
    add(&mut config, 2, &[&["pdu-a", "pdu-b"]]);
    config
}

#[test]
fn a_switch_that_does_not_answer_costs_no_command_and_the_next_level_works() {
    let mut bench = Bench::new(two_levels());
    bench.switch("ipmi-2").silent = true;
    bench.ask(1, 1, &[2], PowerAction::Off);
    assert!(matches!(bench.outcome(1, 2), Outcome::Off { .. }));
    assert!(bench.orders("ipmi-2", Command::Off).is_empty());
    assert_eq!(bench.orders("pdu-2", Command::Off).len(), 1);
    assert!(bench.now.as_millis() < 2100, "one limit is waited for: {}", bench.now);
}

#[test]
fn a_wrong_password_is_not_tried_twice() {
    let mut bench = Bench::new(two_levels());
    bench.switch("ipmi-2").error = Some(DeviceError::Login("wrong password".to_owned()));
    bench.ask(1, 1, &[2], PowerAction::Off);
    assert!(matches!(bench.outcome(1, 2), Outcome::Off { .. }));
    assert_eq!(bench.orders("ipmi-2", Command::Status).len(), 1);
}

#[test]
fn a_busy_switch_is_tried_again_within_its_limit() {
    let mut bench = Bench::new(config());
    bench.switch("ipmi-2").busy = 3;
    bench.ask(1, 1, &[2], PowerAction::Off);
    assert!(matches!(bench.outcome(1, 2), Outcome::Off { .. }));
    assert!(bench.now.as_millis() < 1000);
}

#[test]
fn a_command_that_fails_is_sent_again_only_with_another_attestation() {
    let mut bench = Bench::new(config());
    bench.ask(1, 1, &[2], PowerAction::Off);
    while !bench.asks().iter().any(|ask| matches!(ask, Ask::Attest(_))) {
        assert!(bench.step());
    }
    bench.switch("ipmi-2").busy = 1;
    assert!(matches!(bench.outcome(1, 2), Outcome::Off { .. }));
    assert_eq!(bench.orders("ipmi-2", Command::Off).len(), 2);
    let asked = bench.asks().iter().filter(|ask| matches!(ask, Ask::Attest(_))).count();
    assert_eq!(asked, 2);
}

#[test]
fn a_command_whose_answer_is_lost_is_proven_by_what_is_read() {
    let mut bench = Bench::new(config());
    bench.switch("ipmi-2").loses_answers = true;
    bench.ask(1, 1, &[2], PowerAction::Off);
    assert!(matches!(bench.outcome(1, 2), Outcome::Off { .. }));
    assert_eq!(bench.orders("ipmi-2", Command::Off).len(), 1);
}

#[test]
fn success_without_effect_is_a_failed_level() {
    let mut bench = Bench::new(config());
    bench.switch("ipmi-2").ignores = true;
    bench.ask(1, 1, &[2], PowerAction::Off);
    let Outcome::Failed { why } = bench.outcome(1, 2) else { panic!("not failed") };
    assert!(why.contains("ipmi-2 accepted the command and still read on after 1s"), "{why}");
    assert!(why.contains("haguard fence confirm 2"), "{why}");
    let alarms = bench.gateway.status(bench.now).alarms;
    assert!(alarms.contains(&why), "{alarms:?}");
}

#[test]
fn off_may_take_its_time_to_show() {
    let mut bench = Bench::new(config());
    bench.switch("ipmi-2").settles = ms(700);
    bench.ask(1, 1, &[2], PowerAction::Off);
    assert!(matches!(bench.outcome(1, 2), Outcome::Off { .. }));
    assert!((700..1100).contains(&bench.now.as_millis()), "{}", bench.now);
}

#[test]
fn every_supply_must_read_off() {
    let mut bench = Bench::new(two_supplies());
    bench.switch("pdu-b").ignores = true;
    bench.ask(1, 1, &[2], PowerAction::Off);
    let Outcome::Failed { why } = bench.outcome(1, 2) else { panic!("not failed") };
    assert!(why.contains("pdu-b accepted the command and still read on"), "{why}");
}

#[test]
fn supplies_are_cut_at_the_same_time_and_read_off_together() {
    let mut bench = Bench::new(two_supplies());
    bench.ask(1, 1, &[2], PowerAction::Off);
    assert!(matches!(bench.outcome(1, 2), Outcome::Off { .. }));
    assert_eq!(bench.orders("pdu-a", Command::Off), bench.orders("pdu-b", Command::Off));
    // The login, and two readings in a row.
    assert_eq!(bench.orders("pdu-a", Command::Status).len(), 3);
}

#[test]
fn a_supply_that_comes_back_while_the_other_goes_off_is_no_proof() {
    let mut bench = Bench::new(two_supplies());
    bench.switch("pdu-a").returns = Some(ms(15));
    bench.switch("pdu-b").settles = ms(10);
    bench.ask(1, 1, &[2], PowerAction::Off);
    let outcome = bench.outcome(1, 2);
    assert!(matches!(outcome, Outcome::Failed { .. }), "{outcome:?}");
}

#[test]
fn a_supply_that_does_not_answer_leaves_the_other_alone() {
    let mut bench = Bench::new(two_supplies());
    bench.switch("pdu-b").silent = true;
    bench.ask(1, 1, &[2], PowerAction::Off);
    assert!(matches!(bench.outcome(1, 2), Outcome::Failed { .. }));
    assert!(bench.orders("pdu-a", Command::Off).is_empty() && bench.switch("pdu-a").on);
}

#[test]
fn a_node_that_is_off_already_is_proven_without_a_command() {
    let mut bench = Bench::new(config());
    bench.switch("ipmi-2").on = false;
    bench.ask(1, 1, &[2], PowerAction::Off);
    assert!(matches!(bench.outcome(1, 2), Outcome::Off { .. }));
    assert!(bench.orders("ipmi-2", Command::Off).is_empty());
    let attested = bench.position("the word", |f| matches!(f, Fact::Asked(_, Ask::Attest(_))));
    let read = bench.log.iter().rposition(|(_, f)| matches!(f, Fact::Ordered(..)));
    assert!(read.is_some_and(|read| read > attested), "it is read again after the arbiter's word");
}

#[test]
fn a_node_that_gets_power_before_its_off_counts_is_cut_off() {
    let mut bench = Bench::new(config());
    bench.switch("ipmi-2").on = false;
    bench.ask(1, 1, &[2], PowerAction::Off);
    while !bench.asks().iter().any(|ask| matches!(ask, Ask::Attest(_))) {
        assert!(bench.step());
    }
    bench.switch("ipmi-2").on = true;
    assert!(matches!(bench.outcome(1, 2), Outcome::Off { .. }));
    assert_eq!(bench.orders("ipmi-2", Command::Off).len(), 1);
}

#[test]
fn a_reboot_is_off_proven_told_and_then_on() {
    let mut bench = Bench::new(config());
    bench.ask(1, 1, &[2], PowerAction::Reboot);
    let Outcome::Rebooted { on_failed: None, .. } = bench.outcome(1, 2) else { panic!("not so") };
    assert!(bench.switch("ipmi-2").on);
    let noted = bench.position("the proof", |f| matches!(f, Fact::Asked(_, Ask::Off { .. })));
    let on = bench.position("power", |f| matches!(f, Fact::Ordered(_, Command::On)));
    assert!(noted < on);
    let recorded =
        |f: &Fact| matches!(f, Fact::Recorded(Entry::Attempt { command: Command::On, .. }));
    assert!(bench.position("the attempt", recorded) < on);
}

#[test]
fn power_that_does_not_come_back_is_a_note_and_no_failure() {
    let mut bench = Bench::new(config());
    bench.ask(1, 1, &[2], PowerAction::Reboot);
    while bench.arbiter.proofs.is_empty() {
        assert!(bench.step());
    }
    bench.switch("ipmi-2").silent = true;
    let outcome = bench.outcome(1, 2);
    let Outcome::Rebooted { on_failed: Some(why), .. } = outcome else { panic!("{outcome:?}") };
    assert!(why.contains("ipmi-2"), "{why}");
}

#[test]
fn a_reboot_of_a_node_that_is_to_stay_off_leaves_it_off() {
    let mut config = config();
    config.targets.get_mut(&NodeId(2)).expect("configured").unfence = false;
    let mut bench = Bench::new(config);
    bench.ask(1, 1, &[2], PowerAction::Reboot);
    assert!(matches!(bench.outcome(1, 2), Outcome::Rebooted { on_failed: Some(_), .. }));
    assert!(!bench.switch("ipmi-2").on);
}

#[test]
fn a_fixed_delay_is_waited_and_a_random_one_is_within_its_bound() {
    for seed in 0..20 {
        let mut config = config();
        let node = NodeId(2);
        config.targets.get_mut(&node).expect("configured").delay = match seed {
            0 => Delay::Fixed(ms(1000)),
            _ => Delay::Random(ms(1000)),
        };
        let mut bench = Bench::with_memory(config, fence::core::Memory::default(), seed);
        bench.ask(1, 1, &[2], PowerAction::Off);
        assert!(matches!(bench.outcome(1, 2), Outcome::Off { .. }));
        let first = bench.orders("ipmi-2", Command::Status)[0].as_millis();
        if seed == 0 {
            assert!((1000..1010).contains(&first), "{first}");
        } else {
            assert!(first <= 1010, "{first}");
        }
    }
}

#[test]
fn every_level_failed_says_what_each_said_and_what_to_do() {
    let mut bench = Bench::new(two_levels());
    bench.switch("ipmi-2").silent = true;
    let stranger = DeviceError::Stranger("GUID 17\u{1b}[2J".to_owned());
    bench.switch("pdu-2").error = Some(stranger);
    bench.ask(1, 1, &[2], PowerAction::Off);
    let Outcome::Failed { why } = bench.outcome(1, 2) else { panic!("not failed") };
    assert!(why.contains("level 1: ipmi-2: no answer within 2s"), "{why}");
    assert!(why.contains("level 2: pdu-2: another device answers"), "{why}");
    assert!(why.ends_with("haguard fence confirm 2"), "{why}");
    assert!(!why.contains('\u{1b}'), "{why}");
}

#[test]
fn a_job_ends_whatever_a_device_does() {
    let mut bench = Bench::new(two_levels());
    bench.switch("ipmi-2").takes = Duration::from_secs(100_000);
    bench.switch("pdu-2").takes = Duration::from_secs(100_000);
    bench.ask(1, 1, &[2], PowerAction::Off);
    assert!(matches!(bench.outcome(1, 2), Outcome::Failed { .. }));
    assert!(bench.now.as_millis() < 20_000, "{}", bench.now);
}
