//! What the arbiter remembers over a restart (rule S3): its identity and its grants.
//!
//! The state directory holds
//! * `arbiter.json`: the arbiter's identity, drawn when the directory was first opened, and how
//!   often it has been opened since; replaced at each open;
//! * `grants.journal`: a header line, then one line for each batch of records, of grants and of
//!   fencing: their text as JSON behind a checksum. It only grows, until a rewrite keeps the newest
//!   record of each kind and cluster;
//! * `lock`: one daemon at a time.
//!
//! A checksum covers its line and everything before it, so that a line that is lost, moved or
//! taken from another file is noticed. A line that a crash cut short can only be the last one; it
//! was never acknowledged, and is dropped at the next open. What no crash can have done is an
//! error.
//!
//! Nobody is told of a grant before [`Journal::append`] has stored it; [`writer`] does that beside
//! the daemon's own thread.

mod identity;
pub mod storage;
pub mod text;
mod witness;
pub mod writer;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use host::file::FileError;
use host::lock::{Lock, LockError};
use protocol::ids::{ArbiterId, BootId, ClusterName};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::core::{FencingRecord, GrantRecord, Memory};
use storage::{Directory, HostDirectory, Storage, put};
use text::{Contents, TextError};
use witness::Witness;

/// The journal's file.
const NAME: &str = "grants.journal";

/// Largest journal that is read, in bytes: a hundred times what a rewrite leaves of a thousand
/// clusters.
const JOURNAL_BYTES_MAX: u64 = 1 << 28;

/// Records that a newer one of the same cluster has replaced: so many are kept before the file is
/// rewritten, and after a rewrite that failed so many more before it is tried again.
pub const SUPERSEDED_MAX: usize = 1000;

/// What is stored: one record of each kind stands for a cluster, the newest.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Record {
    /// To whom the vote was given.
    Grant(GrantRecord),
    /// What is known of fencing.
    Fencing {
        /// All of it.
        fencing: FencingRecord,
    },
}

impl From<GrantRecord> for Record {
    fn from(record: GrantRecord) -> Self {
        Self::Grant(record)
    }
}

/// Why the state directory cannot be used, or a grant not stored.
#[derive(Debug, Error)]
pub enum JournalError {
    /// A file could not be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// Another daemon uses the directory.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The directory could not be made.
    #[error("cannot make the state directory {}: {source}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The identity file is damaged or newer.
    #[error("{}: {text}", path.display())]
    Identity {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        text: String,
    },
    /// The journal is damaged, foreign or newer.
    #[error("{}: {source}", path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        source: TextError,
    },
    /// A file could not be written.
    #[error("cannot {verb} {}: {source}; see to the disk", path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The end of a journal, to which records are added.
#[derive(Debug)]
pub struct Tail<S> {
    storage: S,
    /// Up to here everything is durable and good.
    length: u64,
    /// The checksum up to here.
    checksum: u32,
    /// Behind `length` there may be something that was not cut off, or not durably.
    dirty: bool,
}

impl<S: Storage> Tail<S> {
    /// A tail behind `length` good bytes with this checksum.
    pub fn new(storage: S, length: u64, checksum: u32) -> Self {
        Self { storage, length, checksum, dirty: false }
    }

    /// Adds records and makes them durable with one sync; all of them or none.
    ///
    /// # Errors
    /// What the system says. Nothing is written again before what may be left of them is cut off.
    pub fn append(&mut self, records: &[Record]) -> io::Result<()> {
        self.clean()?;
        let mut bytes = Vec::new();
        let checksum = text::write_batch(&mut bytes, self.checksum, records)?;
        self.dirty = true;
        if let Err(error) =
            self.storage.write_at(&bytes, self.length).and_then(|()| self.storage.sync())
        {
            // If that fails too, it is tried again before the next write.
            let _ = self.clean();
            return Err(error);
        }
        self.dirty = false;
        self.length += bytes.len() as u64;
        self.checksum = checksum;
        Ok(())
    }

    /// Cuts off what a failed write may have left.
    fn clean(&mut self) -> io::Result<()> {
        if self.dirty {
            self.storage.cut(self.length)?;
            self.dirty = false;
        }
        Ok(())
    }
}

/// An open state directory.
pub struct Journal<D: Directory = HostDirectory> {
    directory: D,
    tail: Tail<D::File>,
    /// The name means the tail's file, durably.
    named: bool,
    newest: Newest,
    superseded: usize,
    /// So many superseded records lead to the next rewrite.
    rewrite_above: usize,
    witness: Option<Witness<D>>,
    notes: Vec<String>,
    lock: Option<Lock>,
}

/// An opened state directory, and what to tell people about it.
pub struct Opened<D: Directory = HostDirectory> {
    /// To add grants.
    pub journal: Journal<D>,
    /// For the machine.
    pub memory: Memory,
    /// What happened, for the log.
    pub notes: Vec<String>,
}

impl Journal {
    /// Opens a state directory, which is made if it does not exist. The boot counter is
    /// incremented and durable when this returns. Nothing shows that the directory was not
    /// restored, so its grants count as those of an earlier boot of the host.
    ///
    /// # Errors
    /// [`JournalError`]: in use by another daemon, unreadable, damaged, or of another version.
    pub fn open(state: &Path, host_boot: BootId) -> Result<Opened, JournalError> {
        Self::open_locked(state, None, host_boot)
    }

    /// The same with a directory that does not outlive the boot of the host, where a file shows
    /// that the state was not restored within it.
    ///
    /// # Errors
    /// As [`Journal::open`].
    pub fn open_beside(
        state: &Path,
        run: &Path,
        host_boot: BootId,
    ) -> Result<Opened, JournalError> {
        Self::open_locked(state, Some(&HostDirectory::at(run)), host_boot)
    }

    fn open_locked(
        state: &Path,
        run: Option<&HostDirectory>,
        host_boot: BootId,
    ) -> Result<Opened, JournalError> {
        let failed = |source| JournalError::Directory { path: state.to_owned(), source };
        let directory = HostDirectory::make(state).map_err(failed)?;
        let lock = Lock::take(&state.join("lock"))?;
        let mut opened = Self::open_in(directory, run, host_boot)?;
        opened.journal.lock = Some(lock);
        Ok(opened)
    }
}

impl<D: Directory> Journal<D> {
    /// The same for directories that are there and that nobody else uses.
    ///
    /// # Errors
    /// As [`Journal::open`].
    pub fn open_in(
        directory: D,
        run: Option<&D>,
        host_boot: BootId,
    ) -> Result<Opened<D>, JournalError> {
        let path = directory.path().join(NAME);
        let bytes = directory.read(NAME, JOURNAL_BYTES_MAX)?;
        let contents = text::read(bytes.as_deref().unwrap_or_default())
            .map_err(|source| JournalError::Text { path: path.clone(), source })?;
        let identity = identity::open(&directory, bytes.is_some())?;
        let mut notes = Vec::new();
        if bytes.is_none() {
            notes.push(if identity.boot == 1 {
                format!("{} is new: this arbiter knows of no grants", directory.path().display())
            } else {
                format!("{} is gone: this arbiter knows of no grants", path.display())
            });
        }
        if let Some(torn_bytes) = contents.torn_bytes {
            notes.push(format!(
                "{}: the last {torn_bytes} bytes were cut short by a crash and are dropped",
                path.display()
            ));
        }
        let tail = open_tail(&directory, &contents)?;
        let confirmed =
            run.is_some_and(|run| witness::confirms(run, host_boot, identity.id, &contents));
        let is_old = contents.is_old;
        let mut newest = Newest::default();
        let superseded = contents.records.into_iter().map(|record| newest.take_in(record)).sum();
        let mut journal = Self {
            directory,
            tail,
            named: true,
            newest,
            superseded,
            rewrite_above: SUPERSEDED_MAX,
            witness: None,
            notes,
            lock: None,
        };
        if !confirmed {
            journal.disown(host_boot)?;
        }
        if let Some(run) = run {
            journal.call_witness(run, host_boot, identity.id);
        }
        if is_old {
            // What is added from now on is not of that version.
            journal.rewrite()?;
        }
        if let Err(error) = journal.rewrite_if_long() {
            journal.notes.push(error.to_string());
        }
        let memory = Memory {
            arbiter: identity.id,
            boot: identity.boot,
            host_boot,
            clock_s: host::clock::wall_s(),
            grants: journal.newest.grants.values().cloned().collect(),
            fencing: journal.newest.fencing.values().cloned().collect(),
        };
        let notes = journal.take_notes();
        Ok(Opened { journal, memory, notes })
    }

    /// Stores records with one sync; all of them or none.
    ///
    /// # Errors
    /// [`JournalError::Io`]; nobody may be told of them.
    pub fn append<R>(&mut self, records: &[R]) -> Result<(), JournalError>
    where
        R: Clone + Into<Record>,
    {
        if records.is_empty() {
            return Ok(());
        }
        self.keep_name()?;
        let records: Vec<Record> = records.iter().cloned().map(Into::into).collect();
        self.tail.append(&records).map_err(self.failed("write to"))?;
        for record in records {
            self.superseded += self.newest.take_in(record);
        }
        let reached = self.reached();
        self.testify(&[reached])
    }

    /// Rewrites the journal when it holds too much that nobody needs.
    ///
    /// # Errors
    /// [`JournalError`]; nothing is lost, and the journal can be used.
    pub fn rewrite_if_long(&mut self) -> Result<(), JournalError> {
        if self.superseded <= self.rewrite_above {
            return Ok(());
        }
        self.rewrite_above = self.superseded + SUPERSEDED_MAX;
        self.rewrite()
    }

    /// What to tell people since this was last asked.
    pub fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    /// Sees to it that what is added gets into the file that the next start will read.
    fn keep_name(&mut self) -> Result<(), JournalError> {
        self.tail.clean().map_err(self.failed("cut"))?;
        let (length, file) = (self.tail.length, &self.tail.storage);
        let still = self.directory.is_still(NAME, file, length).map_err(self.failed("look at"))?;
        if !still {
            self.rewrite()?;
            self.notes.push(format!(
                "{}: somebody else has removed or changed it: written anew with the grants that \
                 this arbiter knows",
                self.directory.path().join(NAME).display()
            ));
        }
        if !self.named {
            self.directory.sync().map_err(self.failed("make durable the name of"))?;
            self.named = true;
        }
        Ok(())
    }

    /// Puts a file with the newest record of each cluster in the place of the journal.
    fn rewrite(&mut self) -> Result<(), JournalError> {
        let (bytes, checksum) = text::summed(&self.newest.all()).map_err(self.failed("rewrite"))?;
        let (old, new) = (self.reached(), (bytes.len() as u64, checksum));
        self.testify(&[old, new])?;
        let file = put(&self.directory, NAME, &bytes).map_err(self.failed("rewrite"))?;
        self.tail = Tail::new(file, new.0, new.1);
        self.superseded = 0;
        self.rewrite_above = SUPERSEDED_MAX;
        // Whichever of the two files a crash leaves under the name, it has what is known; but what
        // is added now is only in the new one.
        self.named = false;
        self.directory.sync().map_err(self.failed("make durable the name of"))?;
        self.named = true;
        self.testify(&[new])
    }

    /// Nothing proves that these are the last grants that were given in this boot of the host.
    fn disown(&mut self, host_boot: BootId) -> Result<(), JournalError> {
        let mut disowned = 0;
        for said in self.newest.boots_mut().filter(|said| **said == host_boot) {
            *said = BootId::default();
            disowned += usize::from(host_boot != BootId::default());
        }
        if disowned == 0 {
            return Ok(());
        }
        self.notes.push(format!(
            "{}: {disowned} records of this boot of the host, but nothing shows that no newer ones \
             were given: the directory was restored, or the run directory was emptied; they count \
             as those of an earlier boot",
            self.directory.path().join(NAME).display()
        ));
        self.rewrite()
    }

    /// Without a witness everything works, but the next start will believe less.
    fn call_witness(&mut self, run: &D, host_boot: BootId, arbiter: ArbiterId) {
        match Witness::start(run, host_boot, arbiter, self.reached()) {
            Ok(witness) => self.witness = Some(witness),
            Err(error) => self.notes.push(format!(
                "cannot write in {}: {error}; after a restart recorded grants count as those of \
                 an earlier boot",
                run.path().display()
            )),
        }
    }

    /// How far the journal has come.
    fn reached(&self) -> (u64, u32) {
        (self.tail.length, self.tail.checksum)
    }

    fn testify(&mut self, reached: &[(u64, u32)]) -> Result<(), JournalError> {
        let said = self.witness.as_mut().map_or(Ok(()), |witness| witness.say(reached));
        said.map_err(self.failed("write how far it has come beside the socket of"))
    }

    fn failed(&self, verb: &'static str) -> impl FnOnce(io::Error) -> JournalError + use<D> {
        let path = self.directory.path().join(NAME);
        move |source| JournalError::Io { verb, path, source }
    }
}

/// The newest record of each kind and cluster.
#[derive(Debug, Default)]
struct Newest {
    grants: BTreeMap<ClusterName, GrantRecord>,
    fencing: BTreeMap<ClusterName, FencingRecord>,
}

impl Newest {
    /// Takes in a record; returns how many lines nobody needs any more.
    fn take_in(&mut self, record: Record) -> usize {
        let old = match record {
            Record::Grant(record) => self.grants.insert(record.cluster.clone(), record).is_some(),
            // Where there is nothing to remember, that need not be remembered.
            Record::Fencing { fencing } if fencing.is_empty() => {
                return 1 + usize::from(self.fencing.remove(&fencing.cluster).is_some());
            }
            Record::Fencing { fencing } => {
                self.fencing.insert(fencing.cluster.clone(), fencing).is_some()
            }
        };
        usize::from(old)
    }

    fn all(&self) -> Vec<Record> {
        let grants = self.grants.values().cloned().map(Record::Grant);
        let fencing = self.fencing.values().cloned();
        grants.chain(fencing.map(|fencing| Record::Fencing { fencing })).collect()
    }

    /// The boot of the host that each was written in.
    fn boots_mut(&mut self) -> impl Iterator<Item = &mut BootId> {
        let grants = self.grants.values_mut().map(|record| &mut record.host_boot);
        grants.chain(self.fencing.values_mut().map(|record| &mut record.host_boot))
    }
}

/// Opens the journal for writing behind what is good in it; a journal without a good header is
/// begun anew.
fn open_tail<D: Directory>(
    directory: &D,
    contents: &Contents,
) -> Result<Tail<D::File>, JournalError> {
    let io = |verb| {
        let path = directory.path().join(NAME);
        move |source| JournalError::Io { verb, path, source }
    };
    if contents.good_bytes == 0 {
        let header = text::HEADER.as_bytes();
        let file = put(directory, NAME, header).and_then(|file| directory.sync().map(|()| file));
        return Ok(Tail::new(file.map_err(io("begin"))?, header.len() as u64, contents.checksum));
    }
    let file = directory.open(NAME).map_err(io("open"))?;
    let mut tail = Tail::new(file, contents.good_bytes, contents.checksum);
    tail.dirty = contents.torn_bytes.is_some();
    tail.clean().map_err(io("cut"))?;
    Ok(tail)
}

#[cfg(test)]
mod tests;
