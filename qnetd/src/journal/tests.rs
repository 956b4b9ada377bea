use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;
use protocol::ids::{Epoch, GrantId, NodeId, RingId, ViewId};

use super::*;

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

fn records(count: u64) -> Vec<GrantRecord> {
    (1..=count).map(|epoch| record(if epoch % 3 == 0 { "b" } else { "a\n\"" }, epoch)).collect()
}

/// A directory that is gone after the test.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static PLACES: AtomicU32 = AtomicU32::new(0);
        let number = PLACES.fetch_add(1, Ordering::Relaxed);
        let name = format!("haguard-journal-{}-{number}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    fn journal(&self) -> PathBuf {
        self.0.join("grants.journal")
    }

    fn open(&self) -> Opened {
        Journal::open(&self.0, BootId(5)).unwrap()
    }

    fn failure(&self) -> String {
        Journal::open(&self.0, BootId(5)).unwrap_err().to_string()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

proptest! {
    #[test]
    fn every_truncation_gives_a_prefix_of_the_records(count in 0_u64..6, cut in any::<u32>()) {
        let all = records(count);
        let bytes = text::write(&all).unwrap();
        let cut = cut as usize % (bytes.len() + 1);
        let contents = text::read(&bytes[..cut]).unwrap();
        let found = contents.records.len();
        prop_assert_eq!(&contents.records[..], &all[..found]);
        // A line that is all there is read.
        let lines = bytes[..cut].iter().filter(|byte| **byte == b'\n').count();
        prop_assert_eq!(found, lines.saturating_sub(1));
        prop_assert_eq!(contents.torn_bytes.unwrap_or(0) as u64 + contents.good_bytes, cut as u64);
    }

    #[test]
    fn a_changed_byte_never_gives_another_record(at in any::<u32>(), change in 1_u8..=255) {
        let all = records(4);
        let mut bytes = text::write(&all).unwrap();
        let at = at as usize % bytes.len();
        bytes[at] ^= change;
        if let Ok(contents) = text::read(&bytes) {
            let found = contents.records.len();
            prop_assert_eq!(&contents.records[..], &all[..found]);
        }
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = text::read(&bytes);
        let mut journal = text::HEADER.as_bytes().to_vec();
        journal.extend(bytes);
        let _ = text::read(&journal);
    }
}

#[test]
fn a_journal_that_was_cut_anywhere_can_be_appended_to() {
    let all = records(2);
    let bytes = text::write(&all).unwrap();
    let header = text::HEADER.len();
    let line = header + (bytes.len() - header) / 2;
    let cuts = [0, 5, header - 1, header, header + 1, line - 1, line, line + 1, bytes.len() - 1];
    for cut in cuts.into_iter().chain([bytes.len()]) {
        let place = Place::new();
        let opened = place.open();
        drop(opened);
        std::fs::write(place.journal(), &bytes[..cut]).unwrap();
        let mut opened = place.open();
        let known = text::read(&bytes[..cut]).unwrap().records;
        opened.journal.append(&[record("new", 9)]).unwrap();
        drop(opened);
        let contents = text::read(&std::fs::read(place.journal()).unwrap()).unwrap();
        assert_eq!(contents.records.len(), known.len() + 1, "cut at {cut}");
        assert_eq!(contents.torn_bytes, None);
    }
}

#[test]
fn damage_before_the_end_is_an_error_with_a_way_out() {
    let bytes = text::write(&records(3)).unwrap();
    let second = text::HEADER.len() + 20;
    let mut broken = bytes.clone();
    broken[second] ^= 1;
    assert_eq!(text::read(&broken), Err(TextError::Damaged(2)));
    assert!(TextError::Damaged(2).to_string().contains("backup"));
    // A line that is missing is noticed by the next one.
    let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
    let without: Vec<u8> = [lines[0], lines[2], lines[3]].concat();
    assert_eq!(text::read(&without), Err(TextError::Damaged(2)));
}

#[test]
fn foreign_and_newer_files_are_refused() {
    assert_eq!(text::read(b"hello\n"), Err(TextError::Foreign));
    assert_eq!(text::read(b"haguard-grants 2\n"), Err(TextError::Version("2".to_owned())));
    assert_eq!(text::read(b"").unwrap().good_bytes, 0);
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
}

#[test]
fn an_identity_that_is_lost_damaged_or_newer_is_refused() {
    let place = Place::new();
    drop(place.open());
    let identity = place.0.join("arbiter.json");
    let text = std::fs::read_to_string(&identity).unwrap();
    std::fs::write(&identity, text.replace("\"version\":1", "\"version\":2")).unwrap();
    assert!(place.failure().contains("version 2"), "{}", place.failure());
    std::fs::write(&identity, "{").unwrap();
    assert!(place.failure().contains("not an arbiter's identity"), "{}", place.failure());
    std::fs::remove_file(&identity).unwrap();
    assert!(place.failure().contains("missing beside a grants.journal"), "{}", place.failure());
}

#[test]
fn a_journal_that_is_gone_is_begun_anew_and_said() {
    let place = Place::new();
    drop(place.open());
    std::fs::remove_file(place.journal()).unwrap();
    let opened = place.open();
    assert!(opened.notes[0].contains("is gone"), "{:?}", opened.notes);
    assert_eq!(std::fs::read(place.journal()).unwrap(), text::HEADER.as_bytes());
}

#[test]
fn a_long_journal_is_rewritten_at_open_and_while_it_grows() {
    let place = Place::new();
    drop(place.open());
    let many: Vec<GrantRecord> = (1..=1002).map(|epoch| record("a", epoch)).collect();
    std::fs::write(place.journal(), text::write(&many).unwrap()).unwrap();
    let mut opened = place.open();
    let count = || text::read(&std::fs::read(place.journal()).unwrap()).unwrap().records.len();
    assert_eq!((opened.memory.grants.as_slice(), count()), (&many[1001..], 1));

    opened.journal.append(&many[..1001]).unwrap();
    opened.journal.rewrite_if_long().unwrap();
    assert_eq!(count(), 1);
    opened.journal.append(&[record("b", 1)]).unwrap();
    assert_eq!(count(), 2);
}

/// A disk that says what a test wants.
#[derive(Default)]
struct Fake {
    bytes: Vec<u8>,
    room: usize,
    sync_fails: bool,
    cut_fails: bool,
    syncs: usize,
}

impl Storage for &mut Fake {
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let offset = usize::try_from(offset).unwrap();
        let fits = bytes.len().min(self.room.saturating_sub(offset));
        self.bytes.resize(self.bytes.len().max(offset + fits), 0);
        self.bytes[offset..offset + fits].copy_from_slice(&bytes[..fits]);
        if fits < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn sync(&mut self) -> io::Result<()> {
        self.syncs += 1;
        if self.sync_fails { Err(io::Error::other("sync")) } else { Ok(()) }
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        if self.cut_fails {
            return Err(io::Error::other("cut"));
        }
        self.bytes.truncate(usize::try_from(length).unwrap());
        Ok(())
    }
}

/// The journal of one record on a disk with room for `room` bytes.
fn fake(room: usize) -> (Fake, u64, u32) {
    let bytes = text::write(&[record("a", 1)]).unwrap();
    let contents = text::read(&bytes).unwrap();
    (Fake { bytes, room, ..Fake::default() }, contents.good_bytes, contents.checksum)
}

#[test]
fn a_full_disk_leaves_the_last_good_record_at_the_end() {
    let (mut disk, length, checksum) = fake(usize::try_from(900).unwrap());
    let before = disk.bytes.clone();
    {
        let mut tail = Tail::new(&mut disk, length, checksum);
        let many = records(9);
        assert_eq!(tail.append(&many).unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
    assert_eq!(disk.bytes, before);
}

#[test]
fn a_failed_sync_is_a_failed_write() {
    let (mut disk, length, checksum) = fake(usize::MAX);
    let before = disk.bytes.clone();
    disk.sync_fails = true;
    assert!(Tail::new(&mut disk, length, checksum).append(&[record("a", 2)]).is_err());
    assert_eq!(disk.bytes, before);
}

#[test]
fn nothing_is_written_behind_remains_that_could_not_be_cut_off() {
    let (mut disk, length, checksum) = fake(900);
    disk.cut_fails = true;
    {
        let mut tail = Tail::new(&mut disk, length, checksum);
        assert!(tail.append(&records(9)).is_err());
        assert!(tail.append(&[record("a", 2)]).is_err());
        tail.storage.cut_fails = false;
        tail.append(&[record("a", 2)]).unwrap();
    }
    assert_eq!(text::read(&disk.bytes).unwrap().records, [record("a", 1), record("a", 2)]);
}

#[test]
fn many_records_cost_one_sync() {
    let (mut disk, length, checksum) = fake(usize::MAX);
    Tail::new(&mut disk, length, checksum).append(&records(50)).unwrap();
    assert_eq!(disk.syncs, 1);
    assert_eq!(text::read(&disk.bytes).unwrap().records.len(), 51);
}
