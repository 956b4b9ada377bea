//! The gateway's journal: what was asked, decided, tried, answered and proven, append-only, each
//! line with the hash of the one before it.
//!
//! The file `fence.journal` in the state directory begins with a header line that names the format
//! and holds a random number; every further line is one [`Record`] as a JSON object whose last
//! member is the SHA-256 of the previous line's hash and of the line before that member. A line
//! that is changed, lost, moved or taken from another journal breaks the chain from there on, and
//! [`verify`] names it. What is cut off at the very end cannot be seen from within: whoever has to
//! prove that too keeps the last hash elsewhere.
//!
//! Lines that a crash cut short were never acknowledged; they are dropped at the next open. The
//! file only grows, by about two kilobytes a fence: ten thousand fences are twenty megabytes. It is
//! never rewritten or rotated by the gateway. To begin a new one, stop the gateway, keep the old
//! file, and start it again.

mod chain;
mod storage;

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use protocol::fence::{Attestation, How, IntentId, PowerAction, Refusal, Role};
use protocol::ids::{BootId, Epoch, NodeId};
use serde::{Deserialize, Serialize};

use crate::core::{Memory, OpenJob};
use crate::device::{Command, DeviceError, Power};
use chain::{Link, Reading};
use storage::{Storage, Tail};

pub use chain::{Broken, Record as Line, Record, Records, Summary};

/// The file's name in the state directory.
pub const NAME: &str = "fence.journal";

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// It cannot be read, made, written or cut.
    #[error("cannot {verb} {}: {source}; see to the disk and its permissions", path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is damaged, of another program, or of a newer version.
    #[error("{}: {broken}; move it aside to begin a new one, and find out why", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// Where, and what is wrong.
        broken: Broken,
    },
}

/// An open journal; who opens it holds the state directory's lock.
#[derive(Debug)]
pub struct Journal<S: Storage = File> {
    path: PathBuf,
    tail: Tail<S>,
    link: Link,
}

impl Journal {
    /// Opens the journal of a state directory, which exists; begins one if there is none. What a
    /// crash cut short at its end is dropped, and that is written down in it.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn open(directory: &Path, now_unix_ms: u64) -> Result<(Self, Memory), JournalError> {
        let path = path(directory);
        let io = |verb| {
            let path = path.clone();
            move |source| JournalError::Io { verb, path, source }
        };
        if storage::is_absent_or_empty(&path).map_err(io("look at"))? {
            let random = host::file::random_u128()
                .map_err(|error| io("begin")(io::Error::other(error.to_string())))?;
            storage::begin(directory, &path, &chain::header(random)).map_err(io("begin"))?;
        }
        let mut memory = Memory::default();
        let broken = |broken| JournalError::Broken { path: path.clone(), broken };
        let mut reading = Reading::open(&path).map_err(io("read"))?;
        reading.header().map_err(io("read"))?.map_err(broken)?;
        while let Some(record) = reading.next().map_err(io("read"))? {
            remember(&mut memory, record.map_err(broken)?.entry);
        }
        let (link, good, torn_bytes) = reading.end();
        let file = storage::open(&path).map_err(io("open"))?;
        let mut tail = Tail::new(file, good);
        if torn_bytes > 0 {
            tail.cut_off().map_err(io("cut"))?;
        }
        let mut journal = Self { path: path.clone(), tail, link };
        if torn_bytes > 0 {
            journal.append(&[Entry::Torn { bytes: torn_bytes }], now_unix_ms)?;
        }
        Ok((journal, memory))
    }
}

impl<S: Storage> Journal<S> {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds entries and makes them durable with one write and one sync; all of them or none.
    ///
    /// # Errors
    /// [`JournalError::Io`]: nothing may be done that relies on them. Nothing is written again
    /// before what may be left of them is cut off.
    pub fn append(&mut self, entries: &[Entry], now_unix_ms: u64) -> Result<(), JournalError> {
        if entries.is_empty() {
            return Ok(());
        }
        let mut link = self.link.clone();
        let mut bytes = Vec::new();
        let failed =
            |source| JournalError::Io { verb: "write to", path: self.path.clone(), source };
        for entry in entries {
            link.write(&mut bytes, now_unix_ms, entry).map_err(failed)?;
        }
        self.tail.append(&bytes).map_err(failed)?;
        self.link = link;
        Ok(())
    }
}

/// The journal's file in a state directory.
pub fn path(state_directory: &Path) -> PathBuf {
    state_directory.join(NAME)
}

/// The records of a journal, in their order, each checked against the chain. What is being written
/// at this moment, or was cut short by a crash, is left out.
///
/// # Errors
/// If it cannot be read, or is no journal.
pub fn read(path: &Path) -> Result<Records, JournalError> {
    let io = |source| JournalError::Io { verb: "read", path: path.to_owned(), source };
    let mut reading = Reading::open(path).map_err(io)?;
    let broken = |broken| JournalError::Broken { path: path.to_owned(), broken };
    reading.header().map_err(io)?.map_err(broken)?;
    Ok(Records::new(reading, path))
}

/// Checks the whole chain.
///
/// # Errors
/// [`Broken`] with the first line that does not fit. A file that cannot be read is broken at the
/// line where that shows.
pub fn verify(path: &Path) -> Result<Summary, Broken> {
    chain::verify(path)
}

/// What a start finds in a journal with these entries.
pub fn replay(entries: impl IntoIterator<Item = Entry>) -> Memory {
    let mut memory = Memory::default();
    entries.into_iter().for_each(|entry| remember(&mut memory, entry));
    memory
}

/// What a start has to know of an entry of an earlier life.
fn remember(memory: &mut Memory, entry: Entry) {
    match entry {
        Entry::Requested { job, requester, targets, action, .. } => {
            memory.last_job = memory.last_job.max(job);
            if action == PowerAction::On {
                return;
            }
            for node in &targets {
                let (targets, commanded) = (targets.clone(), false);
                let new = OpenJob { job, requester, targets, commanded };
                let open = memory.open.entry(*node).or_insert_with(|| new.clone());
                if open.job != job {
                    *open = new;
                }
            }
        }
        // Members condemn by the clock; there is nothing to release.
        Entry::Attested { attestation, .. } if attestation.role == Role::Majority => {}
        Entry::Attested { attestation, .. } => {
            memory.intents.insert(attestation.intent);
        }
        Entry::Released { intent } => {
            memory.intents.remove(&intent);
        }
        Entry::Attempt { job, node, command: Command::Off, .. } => {
            if let Some(open) = memory.open.get_mut(&node).filter(|open| open.job == job) {
                open.commanded = true;
            }
        }
        Entry::Ended { job, node, .. } => {
            if memory.open.get(&node).is_some_and(|open| open.job == job) {
                memory.open.remove(&node);
            }
        }
        Entry::Attempt { .. }
        | Entry::Refused { .. }
        | Entry::Answer { .. }
        | Entry::Proven { .. }
        | Entry::Untold { .. }
        | Entry::Started { .. }
        | Entry::Torn { .. } => {}
    }
}

/// One thing that happened.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Entry {
    /// A request, before anything is done for it.
    Requested {
        /// The job.
        job: u64,
        /// Who asks.
        requester: NodeId,
        /// In which epoch.
        epoch: Option<Epoch>,
        /// Whom.
        targets: BTreeSet<NodeId>,
        /// What.
        action: PowerAction,
        /// Why.
        reason: String,
    },
    /// The arbiter said yes, or members in its place ([`Role::Majority`]).
    Attested {
        /// The job.
        job: u64,
        /// What it said.
        attestation: Attestation,
    },
    /// It, or the gateway, said no.
    Refused {
        /// The job; 0 if the gateway made none of the request.
        job: u64,
        /// The arbiter's word, if it was the arbiter.
        refusal: Option<Refusal>,
        /// In words.
        why: String,
    },
    /// A command that changes something is about to be sent: on disk before it is. A question
    /// changes nothing; its answer is enough.
    Attempt {
        /// The job.
        job: u64,
        /// At whom.
        node: NodeId,
        /// Through which device.
        device: String,
        /// What.
        command: Command,
    },
    /// What a device answered.
    Answer {
        /// The job.
        job: u64,
        /// Of whom.
        node: NodeId,
        /// Which device.
        device: String,
        /// To what.
        command: Command,
        /// What it read, or `None` for a command that was accepted.
        power: Option<Power>,
        /// Or why it did not work.
        error: Option<DeviceError>,
    },
    /// A node is proven off.
    Proven {
        /// The job.
        job: u64,
        /// Which.
        node: NodeId,
        /// Of this boot.
        boot: BootId,
        /// How.
        how: How,
    },
    /// The arbiter is not told of the proof, because members stood in for it when the intent was
    /// registered: it waits for the bound that it knows of.
    Untold {
        /// The job.
        job: u64,
        /// Which node.
        node: NodeId,
    },
    /// A job is over for a node.
    Ended {
        /// The job.
        job: u64,
        /// Which.
        node: NodeId,
        /// `off`, `rebooted`, `on`, `refused` or `failed`, with the reason behind a colon.
        result: String,
    },
    /// The arbiter has heard that this intent is over, or knows it no longer.
    Released {
        /// Which.
        intent: IntentId,
    },
    /// The gateway started, and found so many jobs open.
    Started {
        /// How many.
        open: usize,
    },
    /// The journal's last bytes were cut short by a crash, and dropped.
    Torn {
        /// How many.
        bytes: u64,
    },
}

#[cfg(test)]
mod tests;
