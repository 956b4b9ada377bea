//! A watchdog as a level: nothing is sent, and nothing is believed before its time.

use fence::core::{Config, Kind};
use fence::device::Command;
use protocol::fence::{How, Outcome, PowerAction, TargetRecord};
use protocol::ids::{BootId, NodeId};
use protocol::time::Time;
use protocol::vote::{Bound, WatchdogClass};

use crate::bench::{Bench, add, config, ms};

fn dog_config(levels: &[&[&str]]) -> Config {
    let mut config = config();
    add(&mut config, 2, levels);
    config
}

fn bench_with(config: Config, class: WatchdogClass) -> Bench {
    let mut bench = Bench::new(config);
    let bound = Some(Bound { class, bound_ms: 5300 });
    let record = TargetRecord { boot: BootId(200), bound, ..TargetRecord::default() };
    bench.arbiter.records.insert(NodeId(2), record);
    bench
}

#[test]
fn a_watchdog_is_given_out_when_its_bound_has_passed_and_not_before() {
    let mut bench = bench_with(dog_config(&[&["dog-2"]]), WatchdogClass::A);
    bench.arbiter.outside_since = Some(Time::from_millis(1000));
    bench.run_for(ms(1000));
    bench.ask(1, 1, &[2], PowerAction::Off);
    let Outcome::Off { proof } = bench.outcome(1, 2) else { panic!("not off") };
    assert_eq!((proof.how, proof.boot), (How::Watchdog, BootId(200)));
    assert!((6300..6400).contains(&bench.now.as_millis()), "{}", bench.now);
    assert!(bench.orders("dog-2", Command::Off).is_empty());
}

#[test]
fn no_view_without_the_node_has_the_vote_and_nothing_counts() {
    let mut bench = bench_with(dog_config(&[&["dog-2"]]), WatchdogClass::A);
    bench.ask(1, 1, &[2], PowerAction::Off);
    bench.run_for(ms(10_000));
    assert_eq!(bench.done(1), None);
    bench.arbiter.outside_since = Some(bench.now);
    let begun = bench.now;
    assert!(matches!(bench.outcome(1, 2), Outcome::Off { .. }));
    assert!(bench.now.since(begun) >= ms(5300));
}

#[test]
fn a_watchdog_that_proves_nothing_fails_its_level_with_the_reason() {
    for (class, reason) in [
        (WatchdogClass::B, "class B"),
        (WatchdogClass::C, "class C"),
        (WatchdogClass::D, "class D"),
    ] {
        let mut bench = bench_with(dog_config(&[&["dog-2"]]), class);
        bench.arbiter.outside_since = Some(Time::ZERO);
        bench.ask(1, 1, &[2], PowerAction::Off);
        let Outcome::Failed { why } = bench.outcome(1, 2) else { panic!("not failed") };
        assert!(why.contains(reason), "{why}");
    }
}

#[test]
fn a_node_that_announced_no_watchdog_is_not_waited_for() {
    let mut bench = Bench::new(dog_config(&[&["dog-2"]]));
    bench.ask(1, 1, &[2], PowerAction::Off);
    let Outcome::Failed { why } = bench.outcome(1, 2) else { panic!("not failed") };
    assert!(why.contains("has announced none"), "{why}");
    assert!(bench.now.as_millis() < 100);
}

#[test]
fn weaker_classes_count_where_the_configuration_says_so() {
    for (class, trust_virtual, trust_process) in
        [(WatchdogClass::B, true, false), (WatchdogClass::C, false, true)]
    {
        let mut config = dog_config(&[&["dog-2"]]);
        let device = config.devices.get_mut("dog-2").expect("configured");
        device.kind = Kind::Watchdog { trust_virtual, trust_process };
        let mut bench = bench_with(config, class);
        bench.arbiter.outside_since = Some(Time::ZERO);
        bench.ask(1, 1, &[2], PowerAction::Off);
        assert!(matches!(bench.outcome(1, 2), Outcome::Off { .. }), "{class:?}");
    }
}

#[test]
fn the_bound_runs_while_earlier_levels_fail() {
    let mut bench = bench_with(dog_config(&[&["ipmi-2"], &["dog-2"]]), WatchdogClass::A);
    bench.switch("ipmi-2").silent = true;
    bench.arbiter.outside_since = Some(Time::ZERO);
    bench.ask(1, 1, &[2], PowerAction::Off);
    assert!(matches!(bench.outcome(1, 2), Outcome::Off { .. }));
    assert!((5300..5400).contains(&bench.now.as_millis()), "{}", bench.now);
}

#[test]
fn entitlement_that_ends_ends_the_waiting() {
    let mut bench = bench_with(dog_config(&[&["dog-2"]]), WatchdogClass::A);
    bench.arbiter.outside_since = Some(Time::ZERO);
    bench.ask(1, 1, &[2], PowerAction::Off);
    bench.run_for(ms(100));
    bench.arbiter.holders = [NodeId(3)].into();
    assert!(matches!(bench.outcome(1, 2), Outcome::Refused { .. }));
}
