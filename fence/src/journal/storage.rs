//! The steps that the journal takes on a disk.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;

/// The journal is the gateway's own.
const MODE: u32 = 0o640;

/// An open file; a test puts a failing disk in its place.
pub trait Storage {
    /// Writes all bytes at an offset.
    ///
    /// # Errors
    /// What the system says.
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes what was written durable.
    ///
    /// # Errors
    /// What the system says; what was written since the last success may be there or not.
    fn sync(&mut self) -> io::Result<()>;

    /// Cuts the file and makes that durable: what was behind the cut cannot come back.
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
        self.set_len(length)?;
        self.sync_all()
    }
}

/// The end of the journal.
#[derive(Debug)]
pub(super) struct Tail<S> {
    storage: S,
    /// Up to here everything is durable and good.
    length: u64,
    /// Behind that there may be something.
    dirty: bool,
}

impl<S: Storage> Tail<S> {
    pub(super) fn new(storage: S, length: u64) -> Self {
        Self { storage, length, dirty: false }
    }

    #[cfg(test)]
    pub(super) fn storage_mut(&mut self) -> &mut S {
        &mut self.storage
    }

    /// Adds bytes durably, all or none.
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.dirty {
            self.cut_off()?;
        }
        self.dirty = true;
        self.storage.write_at(bytes, self.length).and_then(|()| self.storage.sync())?;
        self.dirty = false;
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Cuts off what is not good.
    pub(super) fn cut_off(&mut self) -> io::Result<()> {
        self.storage.cut(self.length)?;
        self.dirty = false;
        Ok(())
    }
}

/// There is no journal: none, or one whose header never reached the disk.
pub(super) fn is_absent_or_empty(path: &Path) -> io::Result<bool> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(metadata.len() == 0),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

/// Begins a journal: whole or not at all, and its name durable. The directory is made if it is not
/// there.
pub(super) fn begin(directory: &Path, path: &Path, header: &[u8]) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o750).create(directory)?;
    host::file::replace(path, header, MODE).map_err(|error| io::Error::other(error.to_string()))
}

/// Opens it to add to it.
pub(super) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).mode(MODE).open(path)
}
