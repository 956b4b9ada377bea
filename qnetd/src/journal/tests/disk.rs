//! A machine with a disk that can lose power, run full, fail or stall, and a process on it that
//! can be killed between any two steps.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use host::file::FileError;
use protocol::rng::Rng;

use crate::journal::storage::{Directory, Storage};

/// What a disk writes whole or not at all, in bytes.
const SECTOR: usize = 512;

/// What becomes of what was not synced when the power fails.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fate {
    Lost,
    Kept,
    /// Some sectors, some names, some length between.
    Mixed(u64),
}

/// Syncs that do nothing and say that they did.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Lie {
    #[default]
    None,
    Files,
    Names,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Place {
    /// On the disk.
    State,
    /// In memory.
    Run,
}

type Name = (Place, String);

#[derive(Clone, Debug, Default)]
struct Inode {
    bytes: Vec<u8>,
    /// What is on the disk for sure.
    durable: Vec<u8>,
    /// What was done since, oldest first.
    pending: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Truncate,
}

#[derive(Clone, Debug)]
struct Naming {
    to: Name,
    inode: usize,
    from: Option<Name>,
}

#[derive(Clone, Debug, Default)]
struct Machine {
    inodes: Vec<Inode>,
    names: BTreeMap<Name, usize>,
    durable_names: BTreeMap<Name, usize>,
    pending_names: Vec<Naming>,
    steps: usize,
    /// The process is killed in this step.
    dies_in: Option<usize>,
    /// These steps fail.
    fails_in: Vec<usize>,
    dead: bool,
    lie: Lie,
    /// Bytes that one file can have.
    room: Option<usize>,
    stalled: bool,
    /// Somebody waits in a sync.
    waits: bool,
    file_syncs: usize,
}

/// One process's view of the machine.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk(Arc<(Mutex<Machine>, Condvar)>);

impl Disk {
    pub(super) fn state(&self) -> Folder {
        Folder { disk: self.clone(), place: Place::State, path: "/state".into() }
    }

    pub(super) fn run(&self) -> Folder {
        Folder { disk: self.clone(), place: Place::Run, path: "/run".into() }
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.0.0.lock().unwrap()
    }

    /// The steps taken so far.
    pub(super) fn steps(&self) -> usize {
        self.machine().steps
    }

    /// The syncs of files, not of names, so far.
    pub(super) fn file_syncs(&self) -> usize {
        self.machine().file_syncs
    }

    pub(super) fn dies_in(self, step: usize) -> Self {
        self.machine().dies_in = Some(step);
        self
    }

    pub(super) fn fails_in(self, step: usize) -> Self {
        self.machine().fails_in.push(step);
        self
    }

    pub(super) fn lies(self, lie: Lie) -> Self {
        self.machine().lie = lie;
        self
    }

    pub(super) fn has_room_for(&self, bytes: Option<usize>) {
        self.machine().room = bytes;
    }

    /// Syncs do not return any more, or do again.
    pub(super) fn stall(&self, stalled: bool) {
        self.machine().stalled = stalled;
        self.0.1.notify_all();
    }

    /// Returns when somebody waits in a sync.
    pub(super) fn wait_for_a_sync(&self) {
        let machine = self.machine();
        drop(self.0.1.wait_while(machine, |machine| !machine.waits).unwrap());
    }

    pub(super) fn file(&self, name: &str) -> Vec<u8> {
        let machine = self.machine();
        machine.inodes[machine.names[&(Place::State, name.to_owned())]].bytes.clone()
    }

    /// Puts other bytes into a file of the state directory.
    pub(super) fn overwrite(&self, name: &str, bytes: &[u8]) {
        let mut machine = self.machine();
        let inode = machine.names[&(Place::State, name.to_owned())];
        machine.inodes[inode] =
            Inode { bytes: bytes.to_vec(), durable: bytes.to_vec(), pending: Vec::new() };
    }

    pub(super) fn remove(&self, name: &str) {
        self.machine().names.remove(&(Place::State, name.to_owned()));
    }

    /// The machine after the process was killed: nothing is lost, and a later power cut can still
    /// lose what was not synced.
    pub(super) fn after_kill(&self) -> Self {
        let old = self.machine();
        let machine = Machine { dies_in: None, fails_in: Vec::new(), dead: false, ..old.clone() };
        Self(Arc::new((Mutex::new(machine), Condvar::new())))
    }

    /// The machine after a power cut.
    pub(super) fn after_power_cut(&self, fate: Fate) -> Self {
        let old = self.machine();
        let mut rng = Rng::new(match fate {
            Fate::Mixed(seed) => seed,
            Fate::Lost | Fate::Kept => 0,
        });
        let mut keeps = || match fate {
            Fate::Lost => false,
            Fate::Kept => true,
            Fate::Mixed(_) => rng.below(2) == 0,
        };
        let mut names = old.durable_names.clone();
        for naming in &old.pending_names {
            if keeps() {
                naming.apply(&mut names);
            }
        }
        names.retain(|(place, _), _| *place == Place::State);
        let inodes = old.inodes.iter().map(|inode| {
            let bytes = inode.after_power_cut(&mut keeps);
            Inode { durable: bytes.clone(), bytes, pending: Vec::new() }
        });
        let inodes = inodes.collect();
        let durable_names = names.clone();
        let machine = Machine { inodes, names, durable_names, lie: old.lie, ..Machine::default() };
        Self(Arc::new((Mutex::new(machine), Condvar::new())))
    }
}

impl Naming {
    fn apply(&self, names: &mut BTreeMap<Name, usize>) {
        if let Some(from) = &self.from {
            names.remove(from);
        }
        names.insert(self.to.clone(), self.inode);
    }
}

impl Inode {
    fn after_power_cut(&self, keeps: &mut impl FnMut() -> bool) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        for change in &self.pending {
            match change {
                Change::Truncate if keeps() => bytes.clear(),
                Change::Truncate => {}
                Change::Write(offset, new) => {
                    let mut at = 0;
                    while at < new.len() {
                        let position = offset + at;
                        let part = (SECTOR - position % SECTOR).min(new.len() - at);
                        if keeps() {
                            put(&mut bytes, position, &new[at..at + part]);
                        } else if keeps() && bytes.len() < position + part {
                            bytes.resize(position + part, 0);
                        }
                        at += part;
                    }
                }
            }
        }
        bytes
    }
}

fn put(bytes: &mut Vec<u8>, offset: usize, new: &[u8]) {
    bytes.resize(bytes.len().max(offset + new.len()), 0);
    bytes[offset..offset + new.len()].copy_from_slice(new);
}

impl Machine {
    /// Counts a step; an error is the step's.
    fn step(&mut self) -> io::Result<()> {
        if self.dead {
            return Err(io::Error::other("the process is dead"));
        }
        self.steps += 1;
        if self.dies_in == Some(self.steps) {
            self.dead = true;
            return Err(io::Error::other("killed"));
        }
        if self.fails_in.contains(&self.steps) {
            return Err(io::Error::other("the disk failed"));
        }
        Ok(())
    }

    fn name(&mut self, naming: Naming) {
        naming.apply(&mut self.names);
        self.pending_names.push(naming);
    }
}

#[derive(Clone, Debug)]
pub(super) struct Folder {
    disk: Disk,
    place: Place,
    path: PathBuf,
}

#[derive(Debug)]
pub(super) struct Opened {
    disk: Disk,
    place: Place,
    inode: usize,
}

impl Directory for Folder {
    type File = Opened;

    fn path(&self) -> &Path {
        &self.path
    }

    fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, FileError> {
        let machine = self.disk.machine();
        let Some(inode) = machine.names.get(&(self.place, name.to_owned())) else {
            return Ok(None);
        };
        let bytes = machine.inodes[*inode].bytes.clone();
        assert!(bytes.len() as u64 <= limit);
        Ok(Some(bytes))
    }

    fn create(&self, name: &str) -> io::Result<Opened> {
        let mut machine = self.disk.machine();
        machine.step()?;
        let to = (self.place, name.to_owned());
        let inode = if let Some(inode) = machine.names.get(&to).copied() {
            machine.inodes[inode].bytes.clear();
            machine.inodes[inode].pending.push(Change::Truncate);
            inode
        } else {
            machine.inodes.push(Inode::default());
            let inode = machine.inodes.len() - 1;
            machine.name(Naming { to, inode, from: None });
            inode
        };
        Ok(Opened { disk: self.disk.clone(), place: self.place, inode })
    }

    fn open(&self, name: &str) -> io::Result<Opened> {
        let machine = self.disk.machine();
        let inode = machine.names.get(&(self.place, name.to_owned())).copied();
        let inode = inode.ok_or(io::ErrorKind::NotFound)?;
        Ok(Opened { disk: self.disk.clone(), place: self.place, inode })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut machine = self.disk.machine();
        machine.step()?;
        let from = (self.place, from.to_owned());
        let inode = machine.names.get(&from).copied().ok_or(io::ErrorKind::NotFound)?;
        machine.name(Naming { to: (self.place, to.to_owned()), inode, from: Some(from) });
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut machine = self.disk.machine();
        machine.step()?;
        if machine.lie != Lie::Names {
            machine.pending_names.clear();
            machine.durable_names = machine.names.clone();
        }
        Ok(())
    }

    fn is_still(&self, name: &str, file: &Opened, length: u64) -> io::Result<bool> {
        let machine = self.disk.machine();
        let named = machine.names.get(&(self.place, name.to_owned()));
        let same = named == Some(&file.inode);
        Ok(same && machine.inodes[file.inode].bytes.len() as u64 == length)
    }
}

impl Storage for Opened {
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let offset = usize::try_from(offset).unwrap();
        let mut machine = self.disk.machine();
        let stepped = machine.step();
        let fits = machine.room.map_or(bytes.len(), |room| room.saturating_sub(offset));
        // A write that is interrupted has done a part; a small one to memory has not.
        let done = match (&stepped, self.place) {
            (Ok(()), _) => fits.min(bytes.len()),
            (Err(_), _) if machine.dead && machine.dies_in != Some(machine.steps) => 0,
            (Err(_), Place::State) => bytes.len() / 2,
            (Err(_), Place::Run) => 0,
        };
        let inode = &mut machine.inodes[self.inode];
        put(&mut inode.bytes, offset, &bytes[..done]);
        inode.pending.push(Change::Write(offset, bytes[..done].to_vec()));
        stepped?;
        if done < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut machine = self.disk.machine();
        machine.waits = true;
        self.disk.0.1.notify_all();
        let mut machine = self.disk.0.1.wait_while(machine, |machine| machine.stalled).unwrap();
        machine.waits = false;
        machine.step()?;
        machine.file_syncs += 1;
        if machine.lie != Lie::Files {
            let inode = &mut machine.inodes[self.inode];
            inode.durable = inode.bytes.clone();
            inode.pending.clear();
        }
        Ok(())
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        let mut machine = self.disk.machine();
        machine.step()?;
        let inode = &mut machine.inodes[self.inode];
        inode.bytes.truncate(usize::try_from(length).unwrap());
        inode.durable = inode.bytes.clone();
        inode.pending.clear();
        Ok(())
    }
}
