//! An operator says that a node is off (safety 28).

use fence::core::{Event, RequestId};
use fence::device::Command;
use fence::journal::Entry;
use protocol::fence::{Confirmation, How, Outcome, PowerAction};
use protocol::ids::NodeId;

use crate::bench::{Bench, config, ms};

#[test]
fn a_confirmation_is_a_proof_for_the_entitled_side() {
    let mut bench = Bench::new(config());
    bench.switch("ipmi-2").silent = true;
    bench.confirm(1, 1, 2);
    let Outcome::Off { proof } = bench.outcome(1, 2) else { panic!("not off") };
    let how = How::Manual { by: "ada".to_owned(), why: "I pulled the plug".to_owned() };
    assert_eq!(proof.how, how);
    assert!(bench.orders("ipmi-2", Command::Off).is_empty());
    let proven = |entry: &Entry| matches!(entry, Entry::Proven { how: How::Manual { .. }, .. });
    assert!(bench.entries().iter().any(proven));
    bench.run_for(ms(100));
    assert_eq!(bench.arbiter.intent, None, "and it is used once");
}

#[test]
fn a_confirmation_for_the_other_side_is_refused() {
    let mut bench = Bench::new(config());
    bench.confirm(1, 2, 1);
    assert!(matches!(bench.outcome(1, 1), Outcome::Refused { .. }));
    assert!(bench.arbiter.proofs.is_empty());
}

#[test]
fn a_confirmation_is_refused_while_a_device_reads_on() {
    let mut bench = Bench::new(config());
    bench.confirm(1, 1, 2);
    let Outcome::Refused { why } = bench.outcome(1, 2) else { panic!("not refused") };
    assert!(why.contains("ipmi-2 read on"), "{why}");
    assert!(bench.arbiter.proofs.is_empty());
}

#[test]
fn a_confirmation_of_a_node_that_is_heard_is_refused_by_the_arbiter() {
    let mut bench = Bench::new(config());
    bench.switch("ipmi-2").on = false;
    bench.arbiter.heard.insert(NodeId(2));
    bench.confirm(1, 1, 2);
    assert!(matches!(bench.outcome(1, 2), Outcome::Failed { .. }));
}

#[test]
fn nobody_confirms_without_a_name_and_a_reason() {
    let mut bench = Bench::new(config());
    let confirmation = Confirmation {
        requester: NodeId(1),
        epoch: None,
        node: NodeId(2),
        by: "\n".to_owned(),
        why: "so".to_owned(),
    };
    bench.event(Event::Confirmed { id: RequestId(1), confirmation });
    assert!(matches!(bench.outcome(1, 2), Outcome::Refused { .. }));
    assert!(bench.asks().is_empty());
}

#[test]
fn nobody_confirms_himself_or_what_is_being_fenced() {
    let mut bench = Bench::new(config());
    bench.confirm(1, 1, 1);
    assert!(matches!(bench.outcome(1, 1), Outcome::Refused { .. }));
    bench.switch("ipmi-2").takes = ms(1000);
    bench.ask(2, 1, &[2], PowerAction::Off);
    bench.run_for(ms(500));
    bench.confirm(3, 1, 2);
    let Outcome::Refused { why } = bench.outcome(3, 2) else { panic!("not refused") };
    assert!(why.contains("is being fenced"), "{why}");
}

#[test]
fn a_confirmation_waits_until_a_command_that_gives_power_has_ended() {
    let mut bench = Bench::new(config());
    bench.switch("ipmi-2").on = false;
    bench.switch("ipmi-2").takes = ms(300);
    bench.ask(1, 1, &[2], PowerAction::On);
    bench.run_for(ms(100));
    bench.confirm(2, 1, 2);
    let Outcome::Refused { why } = bench.outcome(2, 2) else { panic!("not refused") };
    assert!(why.contains("ipmi-2 read on"), "{why}");
}
