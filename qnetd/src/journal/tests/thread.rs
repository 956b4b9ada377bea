//! The journal's thread: batches, and who waits for whom.

use super::disk::{Disk, Fate};
use super::*;
use crate::core::Token;
use crate::journal::writer::{Stored, Writer};

fn writer(disk: &Disk) -> Writer {
    let opened = Journal::open_in(disk.state(), Some(&disk.run()), BootId(5)).unwrap();
    Writer::start(opened.journal).unwrap()
}

fn store(writer: &mut Writer, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        assert!(writer.store(Token(number), record(&format!("cluster {number}"), number)));
    }
}

async fn next(writer: &mut Writer) -> (Vec<u64>, bool) {
    let limit = std::time::Duration::from_secs(20);
    let stored = tokio::time::timeout(limit, writer.stored()).await.unwrap();
    let Stored { tokens, error, notes } = stored;
    assert_eq!(notes, Vec::<String>::new());
    (tokens.into_iter().map(|token| token.0).collect(), error.is_none())
}

/// Nothing has been said to be stored.
async fn is_silent(writer: &mut Writer) -> bool {
    // Everything that is ready is given before a timeout is.
    tokio::time::timeout(std::time::Duration::ZERO, writer.stored()).await.is_err()
}

#[tokio::test]
async fn what_waits_while_a_sync_is_under_way_is_served_by_the_next_one() {
    let disk = Disk::default();
    let mut writer = writer(&disk);
    let before = disk.file_syncs();
    disk.stall(true);
    store(&mut writer, 1..=1);
    disk.wait_for_a_sync();
    store(&mut writer, 2..=256);
    disk.stall(false);
    assert_eq!(next(&mut writer).await, (vec![1], true));
    assert_eq!(next(&mut writer).await, ((2..=256).collect(), true));
    assert_eq!(disk.file_syncs(), before + 2);
    assert!(!writer.is_busy());
    writer.stop();
    assert_eq!(text::read(&disk.file("grants.journal")).unwrap().records.len(), 256);
}

#[tokio::test]
async fn nothing_is_said_to_be_stored_before_its_own_sync_has_returned() {
    let disk = Disk::default();
    let mut writer = writer(&disk);
    disk.stall(true);
    store(&mut writer, 1..=1);
    disk.wait_for_a_sync();
    store(&mut writer, 2..=3);
    assert!(is_silent(&mut writer).await);
    disk.stall(false);
    assert_eq!(next(&mut writer).await, (vec![1], true));
    // Whatever a power cut takes now, what was said is there.
    let after = disk.after_power_cut(Fate::Lost);
    let opened = Journal::open_in(after.state(), Some(&after.run()), BootId(6)).unwrap();
    assert!(opened.memory.grants.contains(&record("cluster 1", 1)));
    assert_eq!(next(&mut writer).await, (vec![2, 3], true));
    writer.stop();
}

#[tokio::test]
async fn a_full_disk_fails_a_batch_and_room_serves_the_next() {
    let disk = Disk::default();
    let mut writer = writer(&disk);
    disk.has_room_for(Some(100));
    store(&mut writer, 1..=1);
    assert_eq!(next(&mut writer).await, (vec![1], false));
    disk.has_room_for(None);
    store(&mut writer, 2..=2);
    assert_eq!(next(&mut writer).await, (vec![2], true));
    writer.stop();
    let contents = text::read(&disk.file("grants.journal")).unwrap();
    assert_eq!(contents.records, [record("cluster 2", 2)]);
}
