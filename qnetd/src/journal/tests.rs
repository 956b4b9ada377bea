mod crash;
mod damage;
mod disk;
mod thread;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use protocol::fence::IntentId;
use protocol::ids::{Epoch, GrantId, NodeId, RingId, ViewId};

use super::*;
use crate::core::{ConfirmedOff, OpenIntent};

fn record(cluster: &str, epoch: u64) -> GrantRecord {
    GrantRecord {
        cluster: ClusterName::from(cluster),
        grant: GrantId { arbiter: ArbiterId(7), boot: 1, epoch: Epoch(epoch) },
        view: ViewId { ring: RingId::new(1, epoch), nonce: 3 },
        nodes: BTreeSet::from([NodeId(1), NodeId(2)]),
        lease_ms: 1000,
        bound_ms: if epoch.is_multiple_of(2) { Some(1100) } else { None },
        host_boot: BootId(5),
    }
}

impl PartialEq<GrantRecord> for Record {
    fn eq(&self, other: &GrantRecord) -> bool {
        match self {
            Self::Grant(record) => record == other,
            Self::Fencing { .. } => false,
        }
    }
}

fn fencing(cluster: &str, off: &[u32]) -> FencingRecord {
    let nodes = |ids: &[u32]| ids.iter().map(|id| NodeId(*id)).collect::<BTreeSet<_>>();
    FencingRecord {
        cluster: ClusterName::from(cluster),
        intent: Some(OpenIntent {
            id: IntentId { arbiter: ArbiterId(7), boot: 1, serial: 3 },
            requester: NodeId(1),
            epoch: Some(Epoch(4)),
            targets: nodes(&[2, 3]),
            proven: nodes(off),
            deadline_ms: 20_000,
        }),
        off: off.iter().map(|id| ConfirmedOff { node: NodeId(*id), boot: BootId(9) }).collect(),
        host_boot: BootId(5),
    }
}

/// A directory that is gone after the test.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static PLACES: AtomicU32 = AtomicU32::new(0);
        let number = PLACES.fetch_add(1, Ordering::Relaxed);
        let name = format!("haguard-journal-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn journal(&self) -> PathBuf {
        self.state().join("grants.journal")
    }

    fn state(&self) -> PathBuf {
        self.0.join("state")
    }

    fn try_open(&self) -> Result<Opened, JournalError> {
        Journal::open_beside(&self.state(), &self.0, BootId(5))
    }

    fn open(&self) -> Opened {
        self.try_open().unwrap()
    }

    fn failure(&self) -> String {
        self.try_open().err().unwrap().to_string()
    }

    /// The host has been started again.
    fn reboot(&self) -> Opened {
        let _ = std::fs::remove_file(self.0.join("qnetd.witness"));
        Journal::open_beside(&self.state(), &self.0, BootId(6)).unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_identity_stays_and_every_open_is_counted() {
    let place = Place::new();
    let first = place.open().memory;
    assert_eq!((first.boot, first.host_boot), (1, BootId(5)));
    assert_ne!(first.arbiter, ArbiterId(0));
    let second = place.open();
    assert_eq!((second.memory.arbiter, second.memory.boot), (first.arbiter, 2));
    assert_eq!(second.notes, Vec::<String>::new());
}

#[test]
fn the_newest_grant_of_each_cluster_is_remembered() {
    let place = Place::new();
    let mut opened = place.open();
    opened.journal.append(&[record("a", 1), record("b", 2)]).unwrap();
    opened.journal.append(&[record("a", 3)]).unwrap();
    drop(opened);
    assert_eq!(place.open().memory.grants, [record("a", 3), record("b", 2)]);
    assert_eq!(place.reboot().memory.grants, [record("a", 3), record("b", 2)]);
}

#[test]
fn a_journal_that_is_gone_is_begun_anew_and_said() {
    let place = Place::new();
    let first = place.open().memory;
    std::fs::remove_file(place.journal()).unwrap();
    let opened = place.open();
    assert!(opened.notes[0].contains("is gone"), "{:?}", opened.notes);
    assert_eq!((opened.memory.arbiter, opened.memory.grants), (first.arbiter, Vec::new()));
    assert_eq!(std::fs::read(place.journal()).unwrap(), text::HEADER.as_bytes());
}

#[test]
fn a_lost_state_directory_is_another_arbiter_that_knows_nothing() {
    let place = Place::new();
    let mut first = place.open();
    first.journal.append(&[record("a", 1)]).unwrap();
    drop(first.journal);
    std::fs::remove_dir_all(place.state()).unwrap();
    let opened = place.open();
    assert!(opened.notes[0].contains("is new"), "{:?}", opened.notes);
    assert_ne!(opened.memory.arbiter, first.memory.arbiter);
    assert_eq!((opened.memory.boot, opened.memory.grants), (1, Vec::new()));
}

#[test]
fn a_state_directory_that_is_lost_while_the_daemon_runs_takes_no_grant() {
    let place = Place::new();
    let mut opened = place.open();
    opened.journal.append(&[record("a", 1)]).unwrap();
    std::fs::remove_dir_all(place.state()).unwrap();
    let error = opened.journal.append(&[record("a", 2)]).unwrap_err().to_string();
    assert!(error.contains("grants.journal") && error.contains("see to the disk"), "{error}");
    std::fs::create_dir(place.state()).unwrap();
    opened.journal.append(&[record("b", 3)]).unwrap();
    let bytes = std::fs::read(place.journal()).unwrap();
    assert_eq!(text::read(&bytes).unwrap().records, [record("a", 1), record("b", 3)]);
}

/// Copies the files of the state directory somewhere else, or back.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for name in ["arbiter.json", "grants.journal"] {
        std::fs::copy(from.join(name), to.join(name)).unwrap();
    }
}

#[test]
fn a_backup_that_is_put_back_within_one_boot_counts_as_of_an_earlier_one() {
    let place = Place::new();
    let mut opened = place.open();
    opened.journal.append(&[record("a", 1), record("b", 1)]).unwrap();
    copy(&place.state(), &place.0.join("backup"));
    opened.journal.append(&[record("a", 2)]).unwrap();
    drop(opened);
    copy(&place.0.join("backup"), &place.state());
    let earlier = |cluster, epoch| GrantRecord { host_boot: BootId(0), ..record(cluster, epoch) };
    let opened = place.open();
    assert_eq!(opened.memory.grants, [earlier("a", 1), earlier("b", 1)]);
    assert!(opened.notes[0].contains("restored"), "{:?}", opened.notes);
    drop(opened);
    // That is not forgotten by the next start, which finds everything as it was left.
    let mut again = place.open();
    assert_eq!(again.memory.grants, [earlier("a", 1), earlier("b", 1)]);
    assert_eq!(again.notes, Vec::<String>::new());
    again.journal.append(&[record("b", 3)]).unwrap();
    drop(again);
    assert_eq!(place.open().memory.grants, [earlier("a", 1), record("b", 3)]);
}

#[test]
fn without_its_witness_a_grant_of_this_boot_is_not_believed() {
    for harm in ["remove", "cut", "other"] {
        let place = Place::new();
        let mut opened = place.open();
        opened.journal.append(&[record("a", 1)]).unwrap();
        drop(opened);
        let witness = place.0.join("qnetd.witness");
        match harm {
            "remove" => std::fs::remove_file(&witness).unwrap(),
            "cut" => std::fs::write(&witness, b"{").unwrap(),
            _ => {
                let other = Place::new();
                drop(other.open());
                std::fs::copy(other.0.join("qnetd.witness"), &witness).unwrap();
            }
        }
        assert_eq!(place.open().memory.grants[0].host_boot, BootId(0), "{harm}");
    }
}

#[test]
fn a_run_directory_that_cannot_be_written_costs_the_trust_and_is_said() {
    let place = Place::new();
    let nowhere = place.0.join("nowhere");
    let mut opened = Journal::open_beside(&place.state(), &nowhere, BootId(5)).unwrap();
    assert!(opened.notes.iter().any(|note| note.contains("nowhere")), "{:?}", opened.notes);
    opened.journal.append(&[record("a", 1)]).unwrap();
    drop(opened);
    let opened = Journal::open_beside(&place.state(), &nowhere, BootId(5)).unwrap();
    assert_eq!(opened.memory.grants[0].host_boot, BootId(0));
}

#[test]
fn a_long_journal_is_rewritten_at_open_and_while_it_grows() {
    let place = Place::new();
    drop(place.open());
    let many: Vec<GrantRecord> = (1..=1002).map(|epoch| record("a", epoch)).collect();
    let lines: Vec<Record> = many.iter().cloned().map(Record::Grant).collect();
    std::fs::write(place.journal(), text::write(&lines).unwrap()).unwrap();
    let mut opened = place.reboot();
    let count = || text::read(&std::fs::read(place.journal()).unwrap()).unwrap().records.len();
    assert_eq!((opened.memory.grants.as_slice(), count()), (&many[1001..], 1));

    opened.journal.append(&many[..1001]).unwrap();
    opened.journal.rewrite_if_long().unwrap();
    assert_eq!(count(), 1);
    opened.journal.append(&[record("b", 1)]).unwrap();
    assert_eq!(count(), 2);
}

#[test]
fn many_records_cost_one_sync() {
    let disk = disk::Disk::default();
    let mut opened = Journal::open_in(disk.state(), Some(&disk.run()), BootId(5)).unwrap();
    let before = disk.file_syncs();
    let many: Vec<GrantRecord> = (0..256).map(|n| record(&format!("cluster {n}"), 1)).collect();
    opened.journal.append(&many).unwrap();
    assert_eq!(disk.file_syncs(), before + 1);
    assert_eq!(text::read(&disk.file("grants.journal")).unwrap().records, many);
}

/// A journal as the version before wrote it.
const OF_VERSION_2: &str = include_str!("tests/version-2.journal");

#[test]
fn a_journal_of_the_version_before_is_read_and_rewritten() {
    let place = Place::new();
    drop(place.open());
    std::fs::write(place.journal(), OF_VERSION_2).unwrap();
    let opened = place.open();
    let epochs = |memory: &Memory| {
        let grants = memory.grants.iter();
        grants.map(|grant| (grant.cluster.to_string(), grant.grant.epoch.0)).collect::<Vec<_>>()
    };
    assert_eq!(epochs(&opened.memory), [("a".to_owned(), 3), ("b".to_owned(), 2)]);
    assert_eq!(opened.memory.fencing, []);
    drop(opened);
    let text = std::fs::read_to_string(place.journal()).unwrap();
    assert!(text.starts_with(text::HEADER), "{text}");
    assert_eq!(epochs(&place.open().memory).len(), 2);
    // Damage is found there as well.
    std::fs::write(place.journal(), OF_VERSION_2.replace("1100", "1101")).unwrap();
    assert!(place.failure().contains("line 2"), "{}", place.failure());
}

#[test]
fn what_is_known_of_fencing_is_found_again() {
    let place = Place::new();
    let mut opened = place.open();
    let store = |journal: &mut Journal, fencing: FencingRecord| {
        journal.append(&[Record::Fencing { fencing }]).unwrap();
    };
    opened.journal.append(&[record("a", 1)]).unwrap();
    store(&mut opened.journal, fencing("a", &[]));
    store(&mut opened.journal, fencing("a", &[2]));
    store(&mut opened.journal, fencing("b", &[3]));
    drop(opened);
    let opened = place.open();
    assert_eq!(opened.memory.fencing, [fencing("a", &[2]), fencing("b", &[3])]);
    assert_eq!(opened.memory.grants, [record("a", 1)]);
    drop(opened);
    // After a boot nothing shows that they are still off.
    let mut opened = place.reboot();
    assert!(opened.memory.fencing.iter().all(|record| record.host_boot == BootId(5)));
    let nothing = |cluster: &str| FencingRecord {
        cluster: ClusterName::from(cluster),
        intent: None,
        off: Vec::new(),
        host_boot: BootId(6),
    };
    store(&mut opened.journal, nothing("a"));
    opened.journal.rewrite().unwrap();
    drop(opened);
    assert_eq!(place.reboot().memory.fencing, [fencing("b", &[3])]);
}

#[test]
fn what_is_known_of_fencing_is_doubted_with_the_grants_of_a_restored_directory() {
    let place = Place::new();
    let mut opened = place.open();
    opened.journal.append(&[Record::Fencing { fencing: fencing("a", &[2]) }]).unwrap();
    drop(opened);
    std::fs::remove_file(place.0.join("qnetd.witness")).unwrap();
    let opened = place.open();
    assert_eq!(opened.memory.fencing[0].host_boot, BootId::default());
}
