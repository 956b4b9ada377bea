//! The may-run mark (safety 18): a file that says, for one boot of the host, that services may
//! be running. It is on disk before the first start and goes only after a proven full stop, so a
//! keeper that finds it knows that an earlier one did not get to its end.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use host::file::{self, FileError};
use protocol::ids::BootId;
use protocol::time::HostInstant;
use serde::{Deserialize, Serialize};

use super::core::Undo;

/// The name of the file in the state directory.
pub const FILE: &str = "may-run";
/// The version of its content.
const VERSION: u32 = 1;
/// A mark is no longer than this: every undo at its longest fits.
const SIZE_LIMIT: u64 = 32 * 1024 * 1024;

/// Why a mark was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum MarkError {
    /// The file system.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is damaged.
    #[error("not a may-run mark: {0}")]
    Damaged(#[from] serde_json::Error),
    /// It was written by another version of the program.
    #[error("a may-run mark of the unknown version {0}")]
    Version(u32),
}

/// What the file says.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    /// The version of this content.
    pub version: u32,
    /// The boot in which services may run (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: BootId,
    /// The entitlement when the mark was written; renewals since then are not in it.
    pub until: HostInstant,
    /// What every process that the keeper started carries in its environment.
    pub token: String,
    /// The control group of these processes, where there is one.
    pub cgroup: Option<PathBuf>,
    /// What takes back that which is no process.
    pub undos: Vec<Undo>,
    /// What may run was started by others: no keeper can stop it, or prove that it has stopped.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub outside: bool,
}

impl Mark {
    /// A mark of this boot.
    pub(super) fn new(
        boot_id: BootId,
        token: &str,
        cgroup: Option<&Path>,
        until: HostInstant,
        undos: Vec<Undo>,
    ) -> Self {
        Self {
            version: VERSION,
            boot_id,
            until,
            token: token.to_owned(),
            cgroup: cgroup.map(Path::to_owned),
            undos,
            outside: false,
        }
    }

    /// The mark of this boot in `dir`; none if there is none, or if the host has been reset since
    /// it was written, which ended everything it speaks of.
    ///
    /// # Errors
    /// A mark that cannot be read or understood: it may be one of this boot (rule S10).
    pub fn read(dir: &Path, boot_id: BootId) -> Result<Option<Self>, MarkError> {
        let Some(bytes) = file::read(&dir.join(FILE), SIZE_LIMIT)? else { return Ok(None) };
        let mark: Self = serde_json::from_slice(&bytes)?;
        if mark.boot_id != boot_id {
            return Ok(None);
        }
        if mark.version != VERSION {
            return Err(MarkError::Version(mark.version));
        }
        Ok(Some(mark))
    }

    /// Puts the mark on disk, whole or not at all: once this returns it survives a power loss.
    ///
    /// # Errors
    /// Those of the file system; an older mark is then still there.
    pub fn write(&self, dir: &Path) -> Result<(), MarkError> {
        let text = serde_json::to_vec(self)?;
        Ok(file::replace(&dir.join(FILE), &text, 0o600)?)
    }
}

/// Takes the mark away.
///
/// # Errors
/// Those of the file system, but not that there was none.
pub fn clear(dir: &Path) -> io::Result<()> {
    match fs::remove_file(dir.join(FILE)) {
        Ok(()) => File::open(dir)?.sync_all(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("haguard-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn a_mark_counts_in_its_own_boot_only() {
        let dir = scratch("mark");
        let (this, next) = (BootId(1), BootId(2));
        assert_eq!(Mark::read(&dir, this).unwrap(), None);
        let mark = Mark::new(this, "1-2", None, HostInstant::default(), Vec::new());
        mark.write(&dir).unwrap();
        assert_eq!(Mark::read(&dir, this).unwrap(), Some(mark));
        assert_eq!(Mark::read(&dir, next).unwrap(), None);
        clear(&dir).unwrap();
        clear(&dir).unwrap();
        assert_eq!(Mark::read(&dir, this).unwrap(), None);
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_damaged_mark_is_an_error_and_not_the_absence_of_one() {
        let dir = scratch("damaged-mark");
        for text in ["", "{", "null", "{\"version\":1}"] {
            fs::write(dir.join(FILE), text).unwrap();
            assert!(Mark::read(&dir, BootId(1)).is_err(), "{text:?}");
        }
        fs::remove_dir_all(&dir).unwrap();
    }
}
