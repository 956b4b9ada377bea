//! The steps that a journal takes on a disk, so that a test can end them between any two.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use host::file::{self, FileError};

/// State files are the daemon's own.
const MODE: u32 = 0o600;

/// An open file.
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

/// The directory that the files are in.
pub trait Directory {
    /// Its open files.
    type File: Storage;

    /// Where it is, for messages.
    fn path(&self) -> &Path;

    /// Reads a file of at most `limit` bytes; `None` if there is none of that name.
    ///
    /// # Errors
    /// If it cannot be read, or is longer.
    fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, FileError>;

    /// Makes an empty file, in the place of one that has the name.
    ///
    /// # Errors
    /// What the system says.
    fn create(&self, name: &str) -> io::Result<Self::File>;

    /// Opens a file for writing.
    ///
    /// # Errors
    /// What the system says.
    fn open(&self, name: &str) -> io::Result<Self::File>;

    /// Gives a file another name, which it takes from whoever has it.
    ///
    /// # Errors
    /// What the system says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Makes the names durable.
    ///
    /// # Errors
    /// What the system says.
    fn sync(&self) -> io::Result<()>;

    /// The name still means this very file, and it is `length` bytes long.
    ///
    /// # Errors
    /// What the system says; a name that is gone is no error.
    fn is_still(&self, name: &str, file: &Self::File, length: u64) -> io::Result<bool>;
}

/// A directory of the host.
#[derive(Debug)]
pub struct HostDirectory {
    path: PathBuf,
}

impl HostDirectory {
    /// Makes the directory, durably, if there is none.
    ///
    /// # Errors
    /// What the system says.
    pub fn make(path: &Path) -> io::Result<Self> {
        let missing: Vec<&Path> = path
            .ancestors()
            .take_while(|path| !path.as_os_str().is_empty() && !path.exists())
            .collect();
        fs::DirBuilder::new().recursive(true).mode(0o750).create(path)?;
        // A name that is lost in a power cut takes with it whatever is below.
        for made in missing {
            let parent = made.parent().filter(|parent| !parent.as_os_str().is_empty());
            File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?;
        }
        Ok(Self { path: path.to_owned() })
    }

    /// A directory that is there.
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }
}

impl Directory for HostDirectory {
    type File = File;

    fn path(&self) -> &Path {
        &self.path
    }

    fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, FileError> {
        file::read(&self.path.join(name), limit)
    }

    fn create(&self, name: &str) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(MODE).open(self.path.join(name))
    }

    fn open(&self, name: &str) -> io::Result<File> {
        OpenOptions::new().write(true).open(self.path.join(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    fn is_still(&self, name: &str, file: &File, length: u64) -> io::Result<bool> {
        let named = match fs::metadata(self.path.join(name)) {
            Ok(named) => named,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let open = file.metadata()?;
        Ok((named.dev(), named.ino(), named.len()) == (open.dev(), open.ino(), length))
    }
}

/// Puts a whole file under a name: after a crash there is the old one or the new one, once
/// [`Directory::sync`] has succeeded the new one. On an error the old one has the name.
///
/// # Errors
/// What the system says.
pub(super) fn put<D: Directory>(directory: &D, name: &str, bytes: &[u8]) -> io::Result<D::File> {
    // The directory is locked, so nobody else makes one of this name, and what a crash has left
    // under it is of no use.
    let temporary = format!("{name}.new");
    let mut file = directory.create(&temporary)?;
    file.write_at(bytes, 0)?;
    file.sync()?;
    directory.rename(&temporary, name)?;
    Ok(file)
}
