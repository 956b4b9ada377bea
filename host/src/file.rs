//! Files that are never half-written.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Why a file could not be read or replaced: what, where, and the system's words.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} {}: {error}", path.display())]
pub struct FileError {
    /// What was tried.
    pub verb: &'static str,
    /// On which file.
    pub path: PathBuf,
    /// What the system said.
    pub error: io::Error,
}

fn failed(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    move |error| FileError { verb, path, error }
}

/// Replaces a file: temporary file beside it, fsync, rename, fsync of the directory. After a
/// crash there is the old file or the new one.
///
/// # Errors
/// [`FileError`] with the step that failed; the old file is then untouched.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".new.{}", std::process::id()));
    let temporary = directory.join(name);
    let written = write_new(&temporary, bytes, mode)
        .and_then(|()| fs::rename(&temporary, path).map_err(failed("rename a new file to", path)));
    if written.is_err() {
        // What could not become the file is of no use to anyone.
        let _ = fs::remove_file(&temporary);
    }
    written?;
    let directory = File::open(directory).map_err(failed("open the directory of", path))?;
    directory.sync_all().map_err(failed("make durable the name of", path))
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    // A leftover of a process with the same id that died between write and rename.
    let _ = fs::remove_file(path);
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(failed("create", path))?;
    file.write_all(bytes).map_err(failed("write", path))?;
    file.sync_all().map_err(failed("make durable", path))
}

/// Reads a file of at most `limit` bytes; `None` if it does not exist.
///
/// # Errors
/// [`FileError`] if it cannot be read, or is longer.
pub fn read(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, FileError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("open", path)(error)),
    };
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(failed("read", path))?;
    if bytes.len() as u64 > limit {
        let text = format!("it is longer than {limit} bytes");
        return Err(failed("read", path)(io::Error::new(io::ErrorKind::InvalidData, text)));
    }
    Ok(Some(bytes))
}

/// Random bits of the kernel, for seeds and identities.
///
/// # Errors
/// [`FileError`] if `/dev/urandom` cannot be read.
pub fn random_u128() -> Result<u128, FileError> {
    let path = Path::new("/dev/urandom");
    let mut bytes = [0; 16];
    let mut file = File::open(path).map_err(failed("open", path))?;
    file.read_exact(&mut bytes).map_err(failed("read", path))?;
    Ok(u128::from_ne_bytes(bytes))
}

/// The id of this boot of the kernel (random(4)); unknown where there is none.
pub fn boot_id() -> protocol::ids::BootId {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    protocol::ids::BootId::parse(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_keeps_its_mode() {
        use std::os::unix::fs::PermissionsExt;
        let directory = std::env::temp_dir().join(format!("host-file-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("state");
        replace(&path, b"one", 0o600).unwrap();
        replace(&path, b"two", 0o600).unwrap();
        assert_eq!(read(&path, 3).unwrap().unwrap(), b"two");
        assert!(read(&path, 2).unwrap_err().to_string().contains("longer than 2 bytes"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        assert!(read(&directory.join("none"), 9).unwrap().is_none());
        let nowhere = replace(&directory.join("no/such"), b"x", 0o600).unwrap_err();
        assert!(nowhere.to_string().starts_with("cannot create"), "{nowhere}");
        fs::remove_dir_all(&directory).unwrap();
    }
}
