//! Power cuts, kills and errors at every step (rule S3): nobody was told of a grant that a start
//! does not find, and every start succeeds.

use std::collections::BTreeMap;

use super::disk::{Disk, Fate, Folder, Lie};
use super::*;

const BOOT: BootId = BootId(5);
const NEXT_BOOT: BootId = BootId(6);

/// Mixed fates that are tried at each point.
const FATES: u64 = 24;

/// What somebody outside knows.
#[derive(Clone, Debug, Default)]
struct Known {
    /// The grants that were told, by cluster.
    told: BTreeMap<ClusterName, u64>,
    /// The newest that was ever given to the journal.
    tried: BTreeMap<ClusterName, u64>,
    arbiter: Option<ArbiterId>,
    boot: u32,
    records: u64,
}

impl Known {
    fn open(&mut self, disk: &Disk, host_boot: BootId) -> Result<Opened<Folder>, String> {
        let opened = Journal::open_in(disk.state(), Some(&disk.run()), host_boot);
        let opened = opened.map_err(|error| format!("cannot open: {error}"))?;
        let memory = &opened.memory;
        if self.arbiter.is_some_and(|arbiter| arbiter != memory.arbiter) {
            return Err("another arbiter".to_owned());
        }
        if memory.boot <= self.boot {
            return Err(format!("start {} is not above {}", memory.boot, self.boot));
        }
        (self.arbiter, self.boot) = (Some(memory.arbiter), memory.boot);
        Ok(opened)
    }

    /// Every grant that was told is found, or one that was tried after it.
    fn check(&self, grants: &[GrantRecord]) -> Result<(), String> {
        let found: BTreeMap<_, _> =
            grants.iter().map(|grant| (grant.cluster.clone(), grant.grant.epoch.0)).collect();
        for (cluster, told) in &self.told {
            if found.get(cluster).is_none_or(|found| found < told) {
                return Err(format!("cluster {cluster}: told {told}, found {found:?}"));
            }
        }
        for (cluster, found) in &found {
            if self.tried.get(cluster).is_none_or(|tried| found > tried) {
                return Err(format!("cluster {cluster}: {found} was never tried"));
            }
        }
        Ok(())
    }

    fn append(&mut self, journal: &mut Journal<Folder>, clusters: &[&str], host_boot: BootId) {
        self.records += 1;
        let epoch = self.records;
        let batch: Vec<GrantRecord> = clusters
            .iter()
            .map(|cluster| GrantRecord { host_boot, ..record(cluster, epoch) })
            .collect();
        let stored = journal.append(&batch).is_ok();
        for record in batch {
            self.tried.insert(record.cluster.clone(), epoch);
            if stored {
                self.told.insert(record.cluster, epoch);
            }
        }
    }

    /// Two starts with grants, long batches and rewrites; what fails is tried again once, as the
    /// daemon's service does.
    fn live(&mut self, disk: &Disk) -> Result<(), String> {
        let many = ["c", "d", "e", "f", "g", "h", "i", "j"];
        let start = |known: &mut Self| known.open(disk, BOOT).or_else(|_| known.open(disk, BOOT));
        let Ok(mut opened) = start(self) else { return Ok(()) };
        let journal = &mut opened.journal;
        self.append(journal, &["a"], BOOT);
        self.append(journal, &many, BOOT);
        self.append(journal, &["a", "b"], BOOT);
        let _ = journal.rewrite();
        self.append(journal, &["b"], BOOT);
        self.append(journal, &many, BOOT);
        let _ = journal.rewrite();
        self.append(journal, &["a"], BOOT);
        drop(opened);
        let Ok(mut opened) = start(self) else { return Ok(()) };
        self.check(&opened.memory.grants)?;
        self.append(&mut opened.journal, &["a", "c"], BOOT);
        Ok(())
    }

    /// Goes on after a crash: what is found must do, be added to, and be found again.
    fn go_on(mut self, disk: &Disk, host_boot: BootId) -> Result<Vec<GrantRecord>, String> {
        let mut opened = self.open(disk, host_boot)?;
        let found = opened.memory.grants.clone();
        self.check(&found)?;
        self.append(&mut opened.journal, &["b"], host_boot);
        opened.journal.rewrite().map_err(|error| format!("cannot rewrite: {error}"))?;
        self.append(&mut opened.journal, &["c"], host_boot);
        drop(opened);
        let again = self.open(disk, host_boot)?;
        self.check(&again.memory.grants)?;
        Ok(found)
    }
}

/// What became of a process on this disk that was killed in this step, if it lived so long.
fn killed_in(step: usize, lie: Lie) -> Option<(Disk, Known)> {
    let disk = Disk::default().lies(lie).dies_in(step);
    let mut known = Known::default();
    known.live(&disk).unwrap();
    (disk.steps() >= step).then_some((disk, known))
}

fn fates() -> impl Iterator<Item = Fate> {
    [Fate::Lost, Fate::Kept].into_iter().chain((1..=FATES).map(Fate::Mixed))
}

/// Cuts the power in every step; the first complaint.
fn cut_everywhere(lie: Lie) -> Result<usize, String> {
    let mut cuts = 0;
    for step in 1.. {
        let Some((disk, known)) = killed_in(step, lie) else { break };
        for fate in fates() {
            let after = disk.after_power_cut(fate);
            let gone_on = known.clone().go_on(&after, NEXT_BOOT);
            gone_on.map_err(|error| format!("step {step}, {fate:?}: {error}"))?;
            cuts += 1;
        }
    }
    Ok(cuts)
}

#[test]
fn no_power_cut_loses_a_grant_that_was_told() {
    let cuts = cut_everywhere(Lie::None).unwrap();
    assert!(cuts > 1000, "{cuts}");
}

#[test]
fn a_power_cut_after_a_lying_sync_is_found_by_the_test_before() {
    cut_everywhere(Lie::Files).unwrap_err();
    cut_everywhere(Lie::Names).unwrap_err();
}

#[test]
fn no_kill_loses_a_grant_or_the_trust_in_this_boot() {
    for step in 1.. {
        let Some((disk, known)) = killed_in(step, Lie::None) else { break };
        let told = known.told.clone();
        let found = known.go_on(&disk.after_kill(), BOOT).unwrap();
        assert!(found.len() >= told.len(), "step {step}");
        assert!(found.iter().all(|grant| grant.host_boot == BOOT), "step {step}: {found:?}");
    }
}

#[test]
fn no_power_cut_after_a_kill_loses_a_grant_that_was_told() {
    for step in 1.. {
        let Some((disk, mut known)) = killed_in(step, Lie::None) else { break };
        let disk = disk.after_kill();
        if let Ok(mut opened) = known.open(&disk, BOOT) {
            known.append(&mut opened.journal, &["a", "k"], BOOT);
        }
        for fate in fates() {
            let gone_on = known.clone().go_on(&disk.after_power_cut(fate), NEXT_BOOT);
            gone_on.unwrap_or_else(|error| panic!("step {step}, {fate:?}: {error}"));
        }
    }
}

#[test]
fn no_error_of_the_disk_loses_a_grant_that_was_told() {
    let mut steps = 0;
    for fails in 1.. {
        let disk = Disk::default().fails_in(fails);
        let mut known = Known::default();
        known.live(&disk).unwrap();
        if disk.steps() < fails {
            break;
        }
        steps = disk.steps();
        known.clone().go_on(&disk.after_kill(), BOOT).unwrap();
        // And the power fails some steps later, as it does when a disk is about to die.
        for dies in fails + 1..fails + 12 {
            let disk = Disk::default().fails_in(fails).dies_in(dies);
            let mut known = Known::default();
            known.live(&disk).unwrap();
            for fate in [Fate::Lost, Fate::Kept, Fate::Mixed(1), Fate::Mixed(2), Fate::Mixed(3)] {
                let gone_on = known.clone().go_on(&disk.after_power_cut(fate), NEXT_BOOT);
                gone_on.unwrap_or_else(|error| {
                    panic!("step {fails} fails, the power in {dies}, {fate:?}: {error}")
                });
            }
        }
    }
    assert!(steps > 30, "{steps}");
}

#[test]
fn a_full_disk_takes_no_grant_and_loses_none() {
    let disk = Disk::default();
    let mut known = Known::default();
    let mut opened = known.open(&disk, BOOT).unwrap();
    known.append(&mut opened.journal, &["a", "b"], BOOT);
    let length = disk.file("grants.journal").len();
    for room in [length, length + 100] {
        disk.has_room_for(Some(room));
        known.append(&mut opened.journal, &["a", "b"], BOOT);
        assert_eq!(known.told[&ClusterName::from("a")], 1);
        assert_eq!(disk.file("grants.journal").len(), length, "the remains are cut off");
    }
    disk.has_room_for(None);
    known.append(&mut opened.journal, &["a", "b"], BOOT);
    assert_eq!(known.told[&ClusterName::from("a")], 4);
    known.go_on(&disk.after_power_cut(Fate::Lost), NEXT_BOOT).unwrap();
}

#[test]
fn a_start_that_finds_no_room_is_refused_and_changes_nothing() {
    let disk = Disk::default();
    let mut known = Known::default();
    let mut opened = known.open(&disk, BOOT).unwrap();
    known.append(&mut opened.journal, &["a"], BOOT);
    drop(opened);
    let before = (disk.file("arbiter.json"), disk.file("grants.journal"));
    disk.has_room_for(Some(20));
    let error = known.open(&disk, BOOT).err().unwrap();
    assert!(error.contains("arbiter.json") && error.contains("see to the disk"), "{error}");
    assert_eq!((disk.file("arbiter.json"), disk.file("grants.journal")), before);
    disk.has_room_for(None);
    known.go_on(&disk, BOOT).unwrap();
}

#[test]
fn a_rewrite_that_finds_no_room_leaves_the_journal_as_it_was() {
    let disk = Disk::default();
    let mut known = Known::default();
    let mut opened = known.open(&disk, BOOT).unwrap();
    known.append(&mut opened.journal, &["a"], BOOT);
    opened.journal.superseded = SUPERSEDED_MAX + 1;
    let before = disk.file("grants.journal");
    disk.has_room_for(Some(100));
    assert!(opened.journal.rewrite_if_long().is_err());
    assert_eq!(disk.file("grants.journal"), before);
    // It is not tried again with each grant.
    opened.journal.rewrite_if_long().unwrap();
    disk.has_room_for(None);
    known.append(&mut opened.journal, &["a"], BOOT);
    assert!(disk.file("grants.journal").starts_with(&before));
    known.go_on(&disk.after_power_cut(Fate::Lost), NEXT_BOOT).unwrap();
}

#[test]
fn a_journal_that_somebody_removed_or_changed_is_written_anew() {
    for harm in [
        |disk: &Disk| disk.remove("grants.journal"),
        |disk: &Disk| disk.overwrite("grants.journal", b""),
        |disk: &Disk| disk.overwrite("grants.journal", text::HEADER.as_bytes()),
    ] {
        let disk = Disk::default();
        let mut known = Known::default();
        let mut opened = known.open(&disk, BOOT).unwrap();
        known.append(&mut opened.journal, &["a", "b"], BOOT);
        harm(&disk);
        known.append(&mut opened.journal, &["b"], BOOT);
        let notes = opened.journal.take_notes();
        assert!(notes[0].contains("written anew"), "{notes:?}");
        known.go_on(&disk.after_power_cut(Fate::Lost), NEXT_BOOT).unwrap();
    }
}
