//! What the arbiter remembers over a restart (rule S3): its identity and its grants.
//!
//! The state directory holds
//! * `arbiter.json`: the arbiter's identity, drawn when the directory was first opened, and how
//!   often it has been opened since; replaced at each open;
//! * `grants.journal`: a header line, then one line a grant: its text as JSON behind a checksum.
//!   It only grows, until a rewrite keeps the newest grant of each cluster;
//! * `lock`: one daemon at a time.
//!
//! A checksum covers its record and everything before it, so that a line that is lost, moved or
//! taken from another file is noticed. A line that a crash cut short can only be the last one; it
//! was never acknowledged, and is dropped at the next open.

pub mod text;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use host::file::{self, FileError};
use host::lock::{Lock, LockError};
use protocol::ids::{ArbiterId, BootId, ClusterName};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::core::{GrantRecord, Memory};
use text::{Contents, TextError};

/// The version of `arbiter.json`.
const IDENTITY_VERSION: u32 = 1;

/// Largest identity file that is read, in bytes.
const IDENTITY_BYTES_MAX: u64 = 4096;

/// Largest journal that is read, in bytes: a hundred times what a rewrite leaves of a thousand
/// clusters.
const JOURNAL_BYTES_MAX: u64 = 1 << 28;

/// Records that a newer one of the same cluster has replaced: so many are kept before the file is
/// rewritten.
const SUPERSEDED_MAX: usize = 1000;

/// State files are the daemon's own.
const MODE: u32 = 0o600;

/// Why the state directory cannot be used, or a grant not stored.
#[derive(Debug, Error)]
pub enum JournalError {
    /// A file could not be read or replaced.
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
    /// The journal could not be opened or written.
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

/// `arbiter.json`.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct IdentityFile {
    version: u32,
    id: ArbiterId,
    boot: u32,
}

/// Where the journal's bytes are; a file, or what a test says.
pub trait Storage {
    /// Writes all bytes at an offset.
    ///
    /// # Errors
    /// What the system says.
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes what was written durable.
    ///
    /// # Errors
    /// What the system says.
    fn sync(&mut self) -> io::Result<()>;
    /// Cuts the file.
    ///
    /// # Errors
    /// What the system says.
    fn cut(&mut self, length: u64) -> io::Result<()>;
}

impl Storage for File {
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }
}

/// The end of a journal, to which records are added.
#[derive(Debug)]
pub struct Tail<S> {
    storage: S,
    /// Up to here everything is durable and good.
    length: u64,
    /// The checksum up to here.
    checksum: u32,
    /// Behind `length` there may be something that could not be cut off.
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
    /// What the system says. The file then ends with its last good record again; if even that
    /// fails, nothing is written before it succeeds.
    pub fn append<'a>(
        &mut self,
        records: impl IntoIterator<Item = &'a GrantRecord>,
    ) -> io::Result<()> {
        if self.dirty {
            self.storage.cut(self.length)?;
            self.dirty = false;
        }
        let mut checksum = self.checksum;
        let mut bytes = Vec::new();
        for record in records {
            checksum = text::write_record(&mut bytes, checksum, record)?;
        }
        let written = self.storage.write_at(&bytes, self.length);
        if let Err(error) = written.and_then(|()| self.storage.sync()) {
            self.dirty = self.storage.cut(self.length).is_err();
            return Err(error);
        }
        self.length += bytes.len() as u64;
        self.checksum = checksum;
        Ok(())
    }
}

/// An open state directory.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    tail: Tail<File>,
    newest: BTreeMap<ClusterName, GrantRecord>,
    superseded: usize,
    /// A rewrite has failed somewhere: which file has the name must be found out first.
    stale: bool,
    _lock: Lock,
}

/// An opened state directory, and what to tell people about it.
#[derive(Debug)]
pub struct Opened {
    /// To add grants.
    pub journal: Journal,
    /// For the machine.
    pub memory: Memory,
    /// What happened, for the log.
    pub notes: Vec<String>,
}

impl Journal {
    /// Opens a state directory, which is made if it does not exist. The boot counter is
    /// incremented and durable when this returns.
    ///
    /// # Errors
    /// [`JournalError`]: in use by another daemon, unreadable, damaged, or of a newer version.
    pub fn open(directory: &Path, host_boot: BootId) -> Result<Opened, JournalError> {
        make_directory(directory)?;
        let lock = Lock::take(&directory.join("lock"))?;
        let path = directory.join("grants.journal");
        let bytes = file::read(&path, JOURNAL_BYTES_MAX)?;
        let identity = open_identity(&directory.join("arbiter.json"), bytes.is_some())?;
        let mut notes = Vec::new();
        if bytes.is_none() {
            notes.push(if identity.boot == 1 {
                format!("{} is new: this arbiter knows of no grants", directory.display())
            } else {
                format!("{} is gone: this arbiter knows of no grants", path.display())
            });
        }
        let contents = parse(&path, &bytes.unwrap_or_default())?;
        if let Some(torn_bytes) = contents.torn_bytes {
            notes.push(format!(
                "{}: the last {torn_bytes} bytes were cut short by a crash and are dropped",
                path.display()
            ));
        }
        let tail = open_tail(&path, &contents)?;
        let (newest, superseded) = newest(contents.records);
        let mut journal = Self { path, tail, newest, superseded, stale: false, _lock: lock };
        journal.rewrite_if_long()?;
        let memory = Memory {
            arbiter: identity.id,
            boot: identity.boot,
            host_boot,
            grants: journal.newest.values().cloned().collect(),
        };
        Ok(Opened { journal, memory, notes })
    }

    /// Stores grants with one sync; all of them or none.
    ///
    /// # Errors
    /// [`JournalError::Io`]; the journal is then as it was before.
    pub fn append(&mut self, records: &[GrantRecord]) -> Result<(), JournalError> {
        if self.stale {
            self.reopen()?;
        }
        let path = self.path.clone();
        let appended = self.tail.append(records);
        appended.map_err(|source| JournalError::Io { verb: "write to", path, source })?;
        for record in records {
            let old = self.newest.insert(record.cluster.clone(), record.clone());
            self.superseded += usize::from(old.is_some());
        }
        Ok(())
    }

    /// Rewrites the journal when it holds too much that nobody needs.
    ///
    /// # Errors
    /// [`JournalError`]; nothing is lost, and the journal can be used.
    pub fn rewrite_if_long(&mut self) -> Result<(), JournalError> {
        if self.superseded <= SUPERSEDED_MAX {
            return Ok(());
        }
        let io = |source| JournalError::Io { verb: "rewrite", path: self.path.clone(), source };
        let bytes = text::write(self.newest.values()).map_err(io)?;
        // A step that fails leaves the old file or the new one under the name, and the old one
        // without a name would swallow what is added to it.
        self.stale = true;
        file::replace(&self.path, &bytes, MODE)?;
        self.reopen()
    }

    /// Goes on with the file that has the name now.
    fn reopen(&mut self) -> Result<(), JournalError> {
        let io = |source| JournalError::Io { verb: "open", path: self.path.clone(), source };
        let bytes = file::read(&self.path, JOURNAL_BYTES_MAX)?;
        let bytes = bytes.ok_or_else(|| io(io::ErrorKind::NotFound.into()))?;
        let contents = parse(&self.path, &bytes)?;
        let directory = self.path.parent().unwrap_or(Path::new("."));
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(io)?;
        self.tail = open_tail(&self.path, &contents)?;
        (self.newest, self.superseded) = newest(contents.records);
        self.stale = false;
        Ok(())
    }
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Contents, JournalError> {
    text::read(bytes).map_err(|source| JournalError::Text { path: path.to_owned(), source })
}

/// The newest record of each cluster, and how many older ones there are.
fn newest(records: Vec<GrantRecord>) -> (BTreeMap<ClusterName, GrantRecord>, usize) {
    let count = records.len();
    let newest: BTreeMap<ClusterName, GrantRecord> =
        records.into_iter().map(|record| (record.cluster.clone(), record)).collect();
    let superseded = count - newest.len();
    (newest, superseded)
}

fn make_directory(directory: &Path) -> Result<(), JournalError> {
    use std::os::unix::fs::DirBuilderExt;
    let mut builder = std::fs::DirBuilder::new();
    let made = builder.recursive(true).mode(0o750).create(directory);
    made.map_err(|source| JournalError::Directory { path: directory.to_owned(), source })
}

/// Reads the identity, or draws one in a new directory, and counts this open.
fn open_identity(path: &Path, has_journal: bool) -> Result<IdentityFile, JournalError> {
    let wrong = |text: String| JournalError::Identity { path: path.to_owned(), text };
    let mut identity = match file::read(path, IDENTITY_BYTES_MAX)? {
        Some(bytes) => serde_json::from_slice::<IdentityFile>(&bytes).map_err(|error| {
            wrong(format!(
                "not an arbiter's identity ({error}): restore the whole directory from a backup, \
                 or start with an empty one"
            ))
        })?,
        None if has_journal => {
            return Err(wrong(
                "missing beside a grants.journal: restore both from one backup, or start with an \
                 empty directory"
                    .to_owned(),
            ));
        }
        None => {
            let id = ArbiterId(file::random_u128()?);
            IdentityFile { version: IDENTITY_VERSION, id, boot: 0 }
        }
    };
    if identity.version != IDENTITY_VERSION {
        return Err(wrong(format!(
            "version {} is not known here, this program writes version {IDENTITY_VERSION}: use \
             the program that wrote it",
            identity.version
        )));
    }
    identity.boot = identity.boot.checked_add(1).ok_or_else(|| {
        wrong("opened as often as can be counted: start with an empty directory".to_owned())
    })?;
    let mut json = serde_json::to_vec(&identity).map_err(|error| wrong(error.to_string()))?;
    json.push(b'\n');
    file::replace(path, &json, MODE)?;
    Ok(identity)
}

/// Opens the journal for writing behind what is good in it; a journal without a good header is
/// begun anew.
fn open_tail(path: &Path, contents: &Contents) -> Result<Tail<File>, JournalError> {
    if contents.good_bytes == 0 {
        file::replace(path, text::HEADER.as_bytes(), MODE)?;
    }
    let io = |verb| {
        let path = path.to_owned();
        move |source| JournalError::Io { verb, path, source }
    };
    let file = OpenOptions::new().write(true).mode(MODE).open(path).map_err(io("open"))?;
    let length = contents.good_bytes.max(text::HEADER.len() as u64);
    if contents.torn_bytes.is_some() && contents.good_bytes > 0 {
        file.set_len(length).and_then(|()| file.sync_all()).map_err(io("cut"))?;
    }
    Ok(Tail::new(file, length, contents.checksum))
}

#[cfg(test)]
mod tests;
