//! Rehearsals: what would not work is known before it is needed.

use std::time::Duration;

use fence::core::{Config, Event, RequestId};
use fence::device::{Command, DeviceError};
use protocol::fence::{Outcome, PowerAction, Progress};
use protocol::ids::NodeId;

use crate::bench::{Bench, Fact, add, config, ms};

fn rehearsed() -> Config {
    Config { rehearse_every: Duration::from_secs(600), ..config() }
}

fn alarms(bench: &Bench) -> Vec<String> {
    bench.gateway.status(bench.now).alarms
}

fn texts(bench: &Bench, id: u64) -> String {
    let mut texts = Vec::new();
    for (_, fact) in &bench.log {
        if let Fact::Told(told, Progress::Step { text, .. }) = fact
            && told.0 == id
        {
            texts.push(text.clone());
        }
    }
    texts.join("\n")
}

#[test]
fn every_device_is_rehearsed_soon_after_the_start_and_then_on_its_schedule() {
    let mut bench = Bench::new(rehearsed());
    bench.run_for(ms(6000));
    for name in ["ipmi-1", "ipmi-2", "ipmi-3"] {
        assert_eq!(bench.orders(name, Command::Status).len(), 1, "{name}");
        let status = &bench.gateway.status(bench.now).devices[name];
        assert!(status.ready && status.power == "on" && status.took_ms == Some(5), "{status:?}");
    }
    bench.run_for(Duration::from_secs(6000));
    let count = bench.orders("ipmi-2", Command::Status).len();
    assert!((9..=13).contains(&count), "{count} times in 6000 s");
    let times = |name| bench.orders(name, Command::Status);
    assert_ne!(times("ipmi-1").last(), times("ipmi-2").last(), "devices drift apart");
    assert!(bench.orders("ipmi-2", Command::Off).is_empty());
}

#[test]
fn a_device_that_would_not_work_is_an_alarm_until_it_would() {
    let mut bench = Bench::new(rehearsed());
    bench.switch("ipmi-2").error = Some(DeviceError::Login("wrong password".to_owned()));
    bench.run_for(ms(6000));
    let found = alarms(&bench);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("device ipmi-2 of node 2 would not work now: login refused"));
    bench.switch("ipmi-2").error = None;
    bench.run_for(Duration::from_secs(70));
    assert_eq!(alarms(&bench), Vec::<String>::new());
}

#[test]
fn power_that_returns_by_itself_is_an_alarm() {
    let mut bench = Bench::new(rehearsed());
    bench.run_for(ms(6000));
    bench.switch("ipmi-2").returns = Some(ms(500));
    bench.ask(1, 1, &[2], PowerAction::Off);
    assert!(matches!(bench.outcome(1, 2), Outcome::Off { .. }));
    assert_eq!(alarms(&bench), Vec::<String>::new());
    bench.run_for(ms(2000));
    let found = alarms(&bench);
    assert!(found.iter().any(|alarm| alarm.contains("was proven off and ipmi-2 reads on")));
    // A repaired node is no alarm for ever.
    bench.run_for(Duration::from_secs(700));
    assert_eq!(alarms(&bench), Vec::<String>::new());
}

#[test]
fn power_that_was_given_from_here_is_no_alarm() {
    let mut bench = Bench::new(rehearsed());
    bench.run_for(ms(6000));
    bench.ask(1, 1, &[2], PowerAction::Reboot);
    assert!(matches!(bench.outcome(1, 2), Outcome::Rebooted { .. }));
    bench.ask(2, 1, &[3], PowerAction::Off);
    bench.until_done(2);
    bench.ask(3, 1, &[3], PowerAction::On);
    assert_eq!(bench.outcome(3, 3), Outcome::On);
    bench.run_for(Duration::from_secs(700));
    assert_eq!(alarms(&bench), Vec::<String>::new());
}

#[test]
fn a_rehearsal_of_the_whole_path_sends_no_command_and_says_how_long_it_takes() {
    let mut config = config();
    add(&mut config, 2, &[&["ipmi-2"], &["dog-2"]]);
    let mut bench = Bench::new(config);
    bench.event(Event::Rehearse { id: RequestId(1), node: NodeId(2) });
    assert!(bench.until_done(1).is_empty(), "nothing is wrong");
    let told = texts(&bench, 1);
    assert!(told.contains("level 1: ipmi-2 answers within 5 ms and reads on"), "{told}");
    assert!(told.contains("a real fence would take about 15 ms"), "{told}");
    assert!(bench.orders("ipmi-2", Command::Off).is_empty());
    assert!(bench.asks().is_empty());
}

#[test]
fn a_rehearsal_names_what_would_not_work() {
    let mut bench = Bench::new(config());
    bench.switch("ipmi-2").silent = true;
    bench.event(Event::ArbiterDown("the name is unknown".to_owned()));
    bench.event(Event::Rehearse { id: RequestId(1), node: NodeId(2) });
    let outcome = bench.outcome(1, 2);
    let Outcome::Failed { why } = outcome else { panic!("{outcome:?}") };
    assert!(why.contains("ipmi-2: no answer") && why.contains("the name is unknown"), "{why}");
    bench.event(Event::Rehearse { id: RequestId(2), node: NodeId(9) });
    assert!(matches!(bench.outcome(2, 9), Outcome::Refused { .. }));
}

#[test]
fn a_new_configuration_is_for_new_jobs() {
    let mut bench = Bench::new(rehearsed());
    bench.switch("ipmi-2").takes = ms(100);
    bench.ask(1, 1, &[2], PowerAction::Off);
    bench.run_for(ms(50));
    let mut config = rehearsed();
    config.targets.remove(&NodeId(2));
    config.devices.remove("ipmi-2");
    bench.gateway.configure(config);
    assert!(matches!(bench.outcome(1, 2), Outcome::Off { .. }));
    bench.ask(2, 1, &[2], PowerAction::Off);
    assert!(matches!(bench.outcome(2, 2), Outcome::Refused { .. }));
    assert!(!bench.gateway.status(bench.now).devices.contains_key("ipmi-2"));
}

#[test]
fn status_says_what_runs_and_how_it_ended() {
    let mut bench = Bench::new(config());
    bench.switch("ipmi-2").takes = ms(100);
    bench.ask(1, 1, &[2], PowerAction::Off);
    bench.run_for(ms(50));
    let status = bench.gateway.status(bench.now);
    assert_eq!(status.cluster, "demo");
    assert_eq!(status.arbiter, "connected");
    assert_eq!(status.nodes[&2].levels, [["ipmi-2"]]);
    assert_eq!(status.nodes[&2].job, Some((50, "level 1: logs in".to_owned())));
    bench.until_done(1);
    let status = bench.gateway.status(bench.now);
    assert_eq!(status.nodes[&2].job, None);
    assert!(matches!(status.nodes[&2].last, Some(Outcome::Off { .. })));
}
