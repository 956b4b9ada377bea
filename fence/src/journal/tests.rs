use std::collections::BTreeMap;
use std::fs;

use protocol::fence::{IntentId, Role, TargetRecord};
use protocol::ids::RingId;

use super::*;

/// A directory of its own for each test, gone at its end.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let name = format!("fence-journal-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).expect("a scratch directory");
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join(NAME)
    }

    fn open(&self) -> (Journal, Memory) {
        Journal::open(&self.0, 1).expect("the journal opens")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn requested(job: u64, targets: &[u32]) -> Entry {
    Entry::Requested {
        job,
        requester: NodeId(1),
        epoch: Some(Epoch(5)),
        targets: targets.iter().map(|node| NodeId(*node)).collect(),
        action: PowerAction::Off,
        reason: "lost \"node\"\n".to_owned(),
    }
}

fn attested(job: u64) -> Entry {
    let attestation = Attestation {
        intent: IntentId { serial: 7, boot: 1, ..IntentId::default() },
        epoch: Epoch(6),
        ring: RingId::new(1, 8),
        holders: BTreeSet::from([NodeId(1)]),
        role: Role::Candidate,
        targets: BTreeMap::from([(NodeId(2), TargetRecord::default())]),
    };
    Entry::Attested { job, attestation }
}

/// By members, in the arbiter's place.
fn attested_by_members(job: u64) -> Entry {
    let Entry::Attested { mut attestation, .. } = attested(job) else { unreachable!() };
    attestation.role = Role::Majority;
    attestation.intent.serial = 8;
    Entry::Attested { job, attestation }
}

fn attempt(job: u64, node: u32) -> Entry {
    let device = "ipmi".to_owned();
    Entry::Attempt { job, node: NodeId(node), device, command: Command::Off }
}

fn ended(job: u64, node: u32) -> Entry {
    Entry::Ended { job, node: NodeId(node), result: "off".to_owned() }
}

fn entries(place: &Place) -> Vec<Entry> {
    let records = read(&place.file()).expect("it can be read");
    records.map(|record| record.expect("a good record").entry).collect()
}

/// Every kind of entry.
fn all() -> Vec<Entry> {
    let (job, node) = (3, NodeId(2));
    vec![
        requested(3, &[2]),
        attested(3),
        Entry::Refused { job, refusal: Some(Refusal::Heard(node)), why: "heard".to_owned() },
        attempt(3, 2),
        Entry::Answer {
            job,
            node,
            device: "ipmi".to_owned(),
            command: Command::Status,
            power: Some(Power::On),
            error: Some(DeviceError::Silent(std::time::Duration::from_millis(5))),
        },
        Entry::Proven {
            job,
            node,
            boot: BootId(u128::MAX),
            how: How::Manual { by: "ada".to_owned(), why: "seen".to_owned() },
        },
        Entry::Untold { job, node },
        ended(3, 2),
        Entry::Released { intent: IntentId::default() },
        Entry::Started { open: 2 },
        Entry::Torn { bytes: 9 },
    ]
}

#[test]
fn what_is_written_is_read_again() {
    let place = Place::new("again");
    let (mut journal, _) = place.open();
    journal.append(&all(), 1000).expect("written");
    journal.append(&[requested(4, &[3])], 2000).expect("written");
    let mut expected = all();
    expected.push(requested(4, &[3]));
    assert_eq!(entries(&place), expected);
    let times: Vec<(u64, u64)> = read(&place.file())
        .expect("it can be read")
        .map(|record| record.map(|record| (record.seq, record.time_ms)).expect("a good record"))
        .collect();
    assert_eq!((times[0], times[11]), ((1, 1000), (12, 2000)));
    let summary = verify(&place.file()).expect("a good chain");
    assert_eq!(
        (summary.records, summary.from_unix_ms, summary.to_unix_ms),
        (12, Some(1000), Some(2000))
    );
    assert_eq!((summary.hash.len(), summary.torn_bytes), (64, 0));
    assert!(summary.to_string().starts_with("the chain of 12 records is whole"), "{summary}");
}

#[test]
fn open_jobs_are_remembered_with_what_may_have_been_done() {
    let place = Place::new("memory");
    let (mut journal, memory) = place.open();
    assert!(memory.open.is_empty() && memory.last_job == 0);
    let released = IntentId { serial: 7, boot: 1, ..IntentId::default() };
    let written = [
        requested(1, &[2]),
        attested(1),
        attempt(1, 2),
        ended(1, 2),
        Entry::Released { intent: released },
        requested(2, &[2, 3]),
        attested(2),
        // No arbiter has heard of this one, so none is asked to release it.
        attested_by_members(2),
        attempt(2, 3),
        ended(2, 2),
        // Another requester joins: what is known of the job stays.
        requested(2, &[3]),
        // Of an earlier job, late.
        ended(1, 3),
    ];
    journal.append(&written, 1).expect("written");
    drop(journal);
    let (_, memory) = place.open();
    assert_eq!(memory.last_job, 2);
    assert_eq!(memory.open.keys().copied().collect::<Vec<_>>(), [NodeId(3)]);
    let open = &memory.open[&NodeId(3)];
    assert!(open.commanded && open.job == 2 && open.requester == NodeId(1));
    assert_eq!(memory.intents.iter().map(|intent| intent.serial).collect::<Vec<_>>(), [7]);
}

#[test]
fn a_line_that_was_changed_is_named() {
    let place = Place::new("changed");
    let (mut journal, _) = place.open();
    journal.append(&all(), 1).expect("written");
    drop(journal);
    let good = fs::read_to_string(place.file()).expect("text");
    let lines = good.lines().count();
    for line in 0..lines {
        // The last character of what is hashed, of every line.
        let mut changed: Vec<String> = good.lines().map(str::to_owned).collect();
        let at = changed[line].len() - 80;
        let old = changed[line].as_bytes()[at];
        let new = if old == b'0' { "1" } else { "0" };
        changed[line].replace_range(at..=at, new);
        fs::write(place.file(), changed.join("\n") + "\n").expect("written");
        let broken = verify(&place.file()).expect_err("a changed line");
        assert_eq!(broken.line, line as u64 + 1, "{broken}");
        let error = Journal::open(&place.0, 1).expect_err("it is not opened");
        assert!(error.to_string().contains(&format!("line {}", line + 1)), "{error}");
    }
}

#[test]
fn a_line_that_is_missing_doubled_or_moved_is_named() {
    let place = Place::new("moved");
    let (mut journal, _) = place.open();
    journal.append(&all(), 1).expect("written");
    let good: Vec<String> =
        fs::read_to_string(place.file()).expect("text").lines().map(str::to_owned).collect();
    let mut missing = good.clone();
    missing.remove(3);
    let mut doubled = good.clone();
    doubled.insert(3, good[3].clone());
    let mut moved = good.clone();
    moved.swap(3, 4);
    for (lines, at) in [(missing, 4), (doubled, 5), (moved, 4)] {
        fs::write(place.file(), lines.join("\n") + "\n").expect("written");
        let at = if lines.len() > good.len() { 5 } else { at };
        assert_eq!(verify(&place.file()).expect_err("broken").line, at);
    }
}

#[test]
fn a_line_of_another_journal_does_not_fit() {
    let (one, other) = (Place::new("one"), Place::new("other"));
    for place in [&one, &other] {
        let (mut journal, _) = place.open();
        journal.append(&[requested(1, &[2])], 1).expect("written");
    }
    let text = fs::read_to_string(other.file()).expect("text");
    let header = fs::read_to_string(one.file()).expect("text");
    let header = header.lines().next().expect("a header");
    let line = text.lines().nth(1).expect("a record");
    fs::write(one.file(), format!("{header}\n{line}\n")).expect("written");
    assert_eq!(verify(&one.file()).expect_err("broken").line, 2);
}

#[test]
fn what_a_crash_cut_short_is_dropped_and_that_is_written_down() {
    let place = Place::new("torn");
    let (mut journal, _) = place.open();
    journal.append(&[requested(1, &[2])], 1).expect("written");
    let good = fs::read(place.file()).expect("bytes");
    journal.append(&[ended(1, 2)], 1).expect("written");
    drop(journal);
    let whole = fs::read(place.file()).expect("bytes");
    for length in good.len() + 1..whole.len() {
        fs::write(place.file(), &whole[..length]).expect("written");
        assert_eq!(entries(&place), [requested(1, &[2])], "cut at {length}");
        let (_, memory) = place.open();
        assert!(memory.open.contains_key(&NodeId(2)), "cut at {length}");
        let bytes = (length - good.len()) as u64;
        assert_eq!(entries(&place), [requested(1, &[2]), Entry::Torn { bytes }]);
        verify(&place.file()).expect("a good chain");
    }
}

#[test]
fn blocks_that_never_reached_the_disk_are_dropped() {
    let place = Place::new("zeros");
    let (mut journal, _) = place.open();
    journal.append(&[requested(1, &[2])], 1).expect("written");
    let mut bytes = fs::read(place.file()).expect("bytes");
    bytes.extend_from_slice(&[0; 5000]);
    bytes.extend_from_slice(b"half a line\n");
    fs::write(place.file(), bytes).expect("written");
    assert_eq!(verify(&place.file()).expect("a good chain").torn_bytes, 5012);
    place.open();
    assert_eq!(entries(&place), [requested(1, &[2]), Entry::Torn { bytes: 5012 }]);
}

#[test]
fn a_zero_in_the_middle_is_damage_and_no_crash() {
    let place = Place::new("zero");
    let (mut journal, _) = place.open();
    journal.append(&all(), 1).expect("written");
    drop(journal);
    let mut bytes = fs::read(place.file()).expect("bytes");
    bytes[700] = 0;
    fs::write(place.file(), bytes).expect("written");
    verify(&place.file()).expect_err("damage");
    Journal::open(&place.0, 1).expect_err("damage");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig {
        cases: 64,
        failure_persistence: None,
        ..Default::default()
    })]

    #[test]
    fn no_change_of_any_byte_gets_a_record_believed(
        at in proptest::prelude::any::<proptest::sample::Index>(),
        byte in proptest::prelude::any::<u8>(),
        name in proptest::prelude::any::<u64>(),
    ) {
        let place = Place::new(&format!("any-{name}"));
        let (mut journal, _) = place.open();
        journal.append(&all(), 1).expect("written");
        drop(journal);
        let good = fs::read(place.file()).expect("bytes");
        let mut bytes = good.clone();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        fs::write(place.file(), &bytes).expect("written");
        match verify(&place.file()) {
            Ok(summary) if summary.torn_bytes == 0 => proptest::prop_assert_eq!(bytes, good),
            // What is at the end may have been cut short.
            Ok(summary) => proptest::prop_assert!(summary.records < all().len() as u64),
            Err(_) => {}
        }
        if let Ok(records) = read(&place.file()) {
            for (record, expected) in records.map_while(Result::ok).zip(all()) {
                proptest::prop_assert_eq!(record.entry, expected);
            }
        }
    }
}

#[test]
fn foreign_and_newer_files_are_refused() {
    let place = Place::new("foreign");
    fs::write(place.file(), "{\"hello\":1}\n").expect("written");
    let error = Journal::open(&place.0, 1).expect_err("foreign");
    assert!(error.to_string().contains("this is no journal"), "{error}");
    let (fresh, _) = (Place::new("newer"), ());
    drop(fresh.open());
    let text = fs::read_to_string(fresh.file()).expect("text");
    fs::write(fresh.file(), text.replace("\"version\":1", "\"version\":2")).expect("written");
    let error = Journal::open(&fresh.0, 1).expect_err("newer");
    assert!(error.to_string().contains("version 2, known is 1"), "{error}");
    let endless = vec![b'x'; 3 << 20];
    fs::write(place.file(), endless).expect("written");
    Journal::open(&place.0, 1).expect_err("one endless line");
}

#[test]
fn an_empty_file_becomes_a_journal_and_only_its_owner_writes_it() {
    use std::os::unix::fs::PermissionsExt;

    let place = Place::new("empty");
    fs::write(place.file(), "").expect("written");
    drop(place.open());
    verify(&place.file()).expect("a good chain");
    let mode = fs::metadata(place.file()).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode, 0o640);
    let missing = place.0.join("missing.journal");
    assert_eq!(verify(&missing).expect_err("no file").line, 1);
}

/// A disk with room for so many bytes, which takes part of what does not fit.
struct Full {
    file: Vec<u8>,
    room: usize,
    cuts: u32,
}

impl Storage for Full {
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        assert_eq!(offset, self.file.len() as u64, "nothing is left of a failed write");
        let fits = self.room.saturating_sub(self.file.len()).min(bytes.len());
        self.file.extend_from_slice(&bytes[..fits]);
        if fits < bytes.len() { Err(io::Error::from(io::ErrorKind::StorageFull)) } else { Ok(()) }
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.file.truncate(usize::try_from(length).unwrap_or(0));
        self.cuts += 1;
        Ok(())
    }
}

#[test]
fn a_full_disk_is_an_error_and_later_lines_fit_the_chain() {
    let place = Place::new("full");
    let header = chain::header(1);
    let link = {
        fs::write(place.file(), &header).expect("written");
        let mut reading = Reading::open(&place.file()).expect("opened");
        reading.header().expect("read").expect("a header");
        reading.end().0
    };
    let full = Full { file: header, room: 700, cuts: 0 };
    let length = full.file.len() as u64;
    let mut journal = Journal { path: place.file(), tail: Tail::new(full, length), link };
    journal.append(&[requested(1, &[2])], 1).expect("there is room");
    let many: Vec<Entry> = (0..10).map(|job| ended(job, 2)).collect();
    let error = journal.append(&many, 1).expect_err("no room");
    assert!(error.to_string().contains("see to the disk"), "{error}");
    journal.tail.storage_mut().room = 1 << 20;
    journal.append(&[ended(1, 2)], 1).expect("room again");
    assert_eq!(journal.tail.storage_mut().cuts, 1);
    fs::write(place.file(), &journal.tail.storage_mut().file).expect("written");
    assert_eq!(entries(&place), [requested(1, &[2]), ended(1, 2)]);
}

/// The time of day is written down for people, and decides nothing.
#[test]
fn a_time_of_day_that_jumps_back_and_ahead_leaves_the_journal_whole_and_remembered() {
    let place = Place::new("clock");
    let year = 31_536_000_000_u64;
    let (mut journal, _) = Journal::open(&place.0, 50 * year).expect("a new journal");
    for unix_ms in [50 * year, 0, 80 * year, 49 * year] {
        journal.append(&[Entry::Started { open: 0 }], unix_ms).expect("written");
    }
    drop(journal);
    let summary = verify(&place.file()).expect("whole");
    assert_eq!(summary.records, 4);
    let (_, memory) = place.open();
    assert_eq!((memory.open.len(), memory.last_job), (0, 0));
}
