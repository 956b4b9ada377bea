//! What is read of damaged, foreign and newer files.

use proptest::prelude::*;

use super::*;
use crate::journal::text::TextError;

/// Batches of one, of many and of one record, so that lines are shorter and longer than a sector,
/// with names of all kinds.
fn batches() -> Vec<Vec<GrantRecord>> {
    let many = ["b", "c\n\"", "JJ**\u{0}", "d", "e", "f", "g"];
    vec![
        vec![record("a", 1)],
        many.iter().map(|cluster| record(cluster, 2)).collect(),
        vec![record("a", 3)],
        vec![record("b", 4)],
    ]
}

fn journal_of(batches: &[Vec<GrantRecord>]) -> Vec<u8> {
    let (mut bytes, mut checksum) = text::summed([]).unwrap();
    for batch in batches {
        let batch: Vec<Record> = batch.iter().cloned().map(Record::Grant).collect();
        checksum = text::write_batch(&mut bytes, checksum, &batch).unwrap();
    }
    bytes
}

fn ends(bytes: &[u8]) -> Vec<usize> {
    let lines = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    lines.map(|(at, _)| at + 1).collect()
}

#[test]
fn every_flipped_bit_is_found_and_its_line_is_named() {
    // Also where the last batch is a long one, and with every place of a line in a sector.
    for count in 1..=batches().len() {
        let bytes = journal_of(&batches()[..count]);
        let ends = ends(&bytes);
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                let line = ends.iter().filter(|end| **end <= at).count() + 1;
                let said = text::read(&damaged);
                if line == 1 {
                    let refused = matches!(said, Err(TextError::Foreign | TextError::Version(_)));
                    assert!(refused, "byte {at}, bit {bit}: {said:?}");
                } else {
                    let byte = ends[line - 2];
                    assert_eq!(said, Err(TextError::Damaged { line, byte }), "{at}, bit {bit}");
                }
            }
        }
    }
}

#[test]
fn every_flipped_bit_of_the_identity_is_found() {
    let place = Place::new();
    drop(place.open());
    let file = place.state().join("arbiter.json");
    let bytes = std::fs::read(&file).unwrap();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            std::fs::write(&file, damaged).unwrap();
            let failure = place.failure();
            assert!(failure.contains("arbiter.json"), "byte {at}, bit {bit}: {failure}");
        }
    }
    // Nothing of that was written over it.
    std::fs::write(&file, bytes).unwrap();
    assert_eq!(place.open().memory.boot, 2);
}

#[test]
fn damage_is_refused_with_its_place_and_a_way_out() {
    let place = Place::new();
    let mut opened = place.open();
    opened.journal.append(&[record("a", 1)]).unwrap();
    opened.journal.append(&[record("a", 2)]).unwrap();
    drop(opened);
    let mut bytes = std::fs::read(place.journal()).unwrap();
    let last = bytes.len() - 20;
    bytes[last] ^= 1;
    std::fs::write(place.journal(), &bytes).unwrap();
    let failure = place.failure();
    for part in ["grants.journal: line 3, from byte ", "restore", "move the file away"] {
        assert!(failure.contains(part), "{failure}");
    }
    // A start that is refused changes nothing, and the way out is one.
    assert_eq!(std::fs::read(place.journal()).unwrap(), bytes);
    std::fs::rename(place.journal(), place.0.join("away")).unwrap();
    assert_eq!(place.open().memory.boot, 2);
}

#[test]
fn lines_that_are_lost_moved_or_of_another_file_are_found() {
    let bytes = journal_of(&batches());
    let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
    let second = lines[0].len();
    let damaged = Err(TextError::Damaged { line: 2, byte: second });
    assert_eq!(text::read(&[lines[0], lines[2], lines[3]].concat()), damaged);
    assert_eq!(text::read(&[lines[0], lines[2]].concat()), damaged);
    assert_eq!(text::read(&[lines[0], lines[3], lines[2], lines[1]].concat()), damaged);
    let other = journal_of(&[vec![record("z", 9)], vec![record("a", 3)]]);
    let others: Vec<&[u8]> = other.split_inclusive(|byte| *byte == b'\n').collect();
    let third = second + lines[1].len();
    let mixed = [lines[0], lines[1], others[2]].concat();
    assert_eq!(text::read(&mixed), Err(TextError::Damaged { line: 3, byte: third }));
}

#[test]
fn a_line_with_sectors_that_were_not_written_is_torn_only_at_the_end() {
    let bytes = journal_of(&batches());
    let ends = ends(&bytes);
    let long = ends[1]..ends[2];
    assert!(long.len() > 1200);
    let sector = long.start.next_multiple_of(512);
    let mut holed = bytes.clone();
    holed[sector..sector + 512].fill(0);
    let contents = text::read(&holed[..long.end]).unwrap();
    assert_eq!((contents.good_bytes, contents.torn_bytes), (long.start as u64, Some(long.len())));
    let damaged = Err(TextError::Damaged { line: 3, byte: long.start });
    assert_eq!(text::read(&holed), damaged);
    // Zeros that are no whole sector were not left by a crash.
    let mut holed = bytes[..long.end].to_vec();
    holed[sector + 1..sector + 512].fill(0);
    assert_eq!(text::read(&holed), damaged);
}

#[test]
fn foreign_and_newer_files_are_refused_with_what_to_do() {
    assert_eq!(text::read(b"hello\n"), Err(TextError::Foreign));
    for version in ["1", "3", "2 "] {
        let said = text::read(format!("haguard-grants {version}\nx").as_bytes());
        assert_eq!(said, Err(TextError::Version(version.to_owned())));
        assert!(said.unwrap_err().to_string().contains("use the program that wrote it"));
    }
    assert!(TextError::Foreign.to_string().contains("move the file away"));
    assert_eq!(text::read(b"").unwrap().good_bytes, 0);
}

#[test]
fn an_identity_that_is_lost_or_newer_is_refused_with_what_to_do() {
    let place = Place::new();
    drop(place.open());
    let identity = place.state().join("arbiter.json");
    let text = std::fs::read_to_string(&identity).unwrap();
    let newer = text.replace("\"version\":2", "\"version\":3").replace("boot", "starts");
    std::fs::write(&identity, newer).unwrap();
    let failure = place.failure();
    assert!(failure.contains("version 3") && failure.contains("use the program"), "{failure}");
    std::fs::remove_file(&identity).unwrap();
    let failure = place.failure();
    assert!(failure.contains("missing beside a grants.journal: restore"), "{failure}");
}

proptest! {
    #[test]
    fn every_truncation_gives_whole_batches(count in 0_usize..5, cut in any::<u32>()) {
        let all = &batches()[..count];
        let bytes = journal_of(all);
        let cut = cut as usize % (bytes.len() + 1);
        let contents = text::read(&bytes[..cut]).unwrap();
        // A line that is all there is read.
        let lines = ends(&bytes[..cut]).len();
        let whole = all[..lines.saturating_sub(1)].concat();
        prop_assert_eq!(contents.records, whole);
        prop_assert_eq!(contents.torn_bytes.unwrap_or(0) as u64 + contents.good_bytes, cut as u64);
    }

    #[test]
    fn a_changed_byte_is_never_believed(at in any::<u32>(), change in 1_u8..=255) {
        let mut bytes = journal_of(&batches());
        let at = at as usize % bytes.len();
        bytes[at] ^= change;
        prop_assert!(text::read(&bytes).is_err());
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = text::read(&bytes);
        let mut journal = text::HEADER.as_bytes().to_vec();
        journal.extend(bytes);
        let _ = text::read(&journal);
    }
}
