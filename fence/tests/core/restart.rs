//! Jobs that an earlier life left open: the true state is read, and nothing is taken for done.

use std::collections::{BTreeMap, BTreeSet};

use fence::core::{Memory, OpenJob};
use fence::device::Command;
use fence::journal::{Entry, Journal};
use protocol::fence::{Ask, IntentId, Outcome, PowerAction};
use protocol::ids::NodeId;

use crate::bench::{Bench, Fact, config, ms};

fn memory(commanded: bool) -> Memory {
    let node = NodeId(2);
    let intent = IntentId { serial: 77, boot: 1, ..IntentId::default() };
    let targets = BTreeSet::from([node]);
    let open = OpenJob { job: 5, requester: NodeId(1), targets, commanded };
    let (open, intents) = (BTreeMap::from([(node, open)]), BTreeSet::from([intent]));
    Memory { open, intents, last_job: 5 }
}

#[test]
fn an_interrupted_job_is_ended_with_what_the_node_reads_now() {
    for (on, reads) in [(true, "ipmi-2 read on now"), (false, "the node reads off now")] {
        let mut bench = Bench::with_memory(config(), memory(true), 1);
        bench.switch("ipmi-2").on = on;
        bench.run_for(ms(100));
        let entries = bench.entries();
        assert_eq!(entries.first(), Some(&Entry::Started { open: 1 }));
        let ended = entries.iter().find_map(|entry| {
            if let Entry::Ended { job: 5, node: NodeId(2), result } = entry {
                Some(result.clone())
            } else {
                None
            }
        });
        let ended = ended.expect("the job is ended");
        assert!(ended.starts_with("failed") && ended.contains(reads), "{ended}");
        assert!(ended.contains("interrupted after its first command"), "{ended}");
        assert!(bench.arbiter.proofs.is_empty(), "what is read is no proof");
        assert!(bench.orders("ipmi-2", Command::Off).is_empty());
    }
}

#[test]
fn the_intent_of_an_interrupted_job_is_released_before_anything_is_registered() {
    let mut bench = Bench::with_memory(config(), memory(false), 1);
    bench.ask(1, 1, &[2], PowerAction::Off);
    assert!(matches!(bench.outcome(1, 2), Outcome::Off { .. }));
    let released = bench.position(
        "the release",
        |f| matches!(f, Fact::Asked(_, Ask::Release(id)) if id.serial == 77),
    );
    let registered =
        bench.position("the intent", |f| matches!(f, Fact::Asked(_, Ask::Register(_))));
    assert!(released < registered);
}

#[test]
fn jobs_are_numbered_on_after_a_restart() {
    let mut bench = Bench::with_memory(config(), memory(true), 1);
    bench.ask(1, 1, &[3], PowerAction::Off);
    bench.until_done(1);
    let number = |entry: &Entry| matches!(entry, Entry::Requested { job: 6, .. });
    assert!(bench.entries().iter().any(number));
}

#[test]
fn a_device_that_does_not_answer_after_a_restart_is_said() {
    let mut bench = Bench::with_memory(config(), memory(true), 1);
    bench.switch("ipmi-2").silent = true;
    bench.run_for(ms(10_000));
    let alarms = bench.gateway.status(bench.now).alarms;
    assert!(alarms.iter().any(|alarm| alarm.contains("interrupted")), "{alarms:?}");
}

/// What a start finds in a journal with these entries.
fn remembered(entries: &[Entry]) -> Memory {
    let name = format!("fence-restart-{}", std::process::id());
    let directory = std::env::temp_dir().join(name);
    let _ = std::fs::remove_dir_all(&directory);
    let (mut journal, _) = Journal::open(&directory, 0).expect("a new journal");
    journal.append(entries, 0).expect("written");
    let (_, memory) = Journal::open(&directory, 0).expect("the same journal");
    let _ = std::fs::remove_dir_all(&directory);
    memory
}

#[test]
fn a_gateway_that_is_killed_at_any_moment_starts_over_from_what_is_true() {
    for killed_after in 0.. {
        let mut before = Bench::new(config());
        before.ask(1, 1, &[2], PowerAction::Off);
        let is_over = (0..killed_after).any(|_| !before.step()) || before.done(1).is_some();
        let entries = before.entries();
        let knows_intent = entries.iter().any(|entry| matches!(entry, Entry::Attested { .. }));
        let commanded = entries.iter().any(|entry| matches!(entry, Entry::Attempt { .. }));

        let memory = remembered(&entries);
        let open = memory.open.len();
        assert_eq!(memory.open.values().any(|open| open.commanded), commanded && open > 0);
        let mut after = Bench::with_memory(config(), memory, 2);
        after.switches = before.switches.clone();
        after.arbiter = before.arbiter.clone();
        after.run_for(ms(1000));
        assert_eq!(after.entries().first(), Some(&Entry::Started { open }));
        assert!(after.orders("ipmi-2", Command::Off).is_empty(), "nothing is taken up again");
        let ended = |entry: &Entry| matches!(entry, Entry::Ended { .. });
        assert_eq!(after.entries().iter().filter(|entry| ended(entry)).count(), open);
        if knows_intent {
            assert_eq!(after.arbiter.intent, None, "killed after {killed_after}");
        }
        // Whoever asked asks again.
        after.ask(1, 1, &[2], PowerAction::Off);
        assert!(matches!(after.outcome(1, 2), Outcome::Off { .. }), "killed after {killed_after}");
        if is_over {
            assert!(killed_after > 10, "{killed_after} steps are not a whole fence");
            return;
        }
    }
}
