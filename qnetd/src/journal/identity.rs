//! `arbiter.json`: who the arbiter of a state directory is.

use host::file;
use protocol::ids::ArbiterId;
use serde::{Deserialize, Serialize};

use super::storage::{Directory, put};
use super::{JournalError, text};

/// The file.
pub(super) const NAME: &str = "arbiter.json";

/// Its version.
const VERSION: u32 = 2;

/// Largest that is read, in bytes.
const BYTES_MAX: u64 = 4096;

/// Its fields. The file is exactly their JSON and the end of a line, so that any other byte is
/// noticed.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Identity {
    version: u32,
    pub(super) id: ArbiterId,
    /// How often the directory has been opened.
    pub(super) boot: u32,
    /// Of the three before it.
    checksum: u32,
}

/// The only field that every version has.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

impl Identity {
    fn new(id: ArbiterId, boot: u32) -> Self {
        let said = format!("{VERSION} {id} {boot}");
        Self { version: VERSION, id, boot, checksum: text::checksum(0, said.as_bytes()) }
    }

    fn write(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut json = serde_json::to_vec(self)?;
        json.push(b'\n');
        Ok(json)
    }

    /// `None`: damaged, or not such a file.
    fn read(bytes: &[u8]) -> Option<Self> {
        let found = serde_json::from_slice::<Self>(bytes).ok()?;
        let same = Self::new(found.id, found.boot);
        (same.write().ok()?.as_slice() == bytes).then_some(found)
    }
}

/// Reads the identity, or draws one in a new directory, and counts this open, durably.
pub(super) fn open<D: Directory>(
    directory: &D,
    has_journal: bool,
) -> Result<Identity, JournalError> {
    let path = directory.path().join(NAME);
    let wrong = |text: String| JournalError::Identity { path: path.clone(), text };
    let before = match directory.read(NAME, BYTES_MAX)? {
        Some(bytes) => Identity::read(&bytes).ok_or_else(|| wrong(complaint(&bytes)))?,
        None if has_journal => {
            return Err(wrong(
                "missing beside a grants.journal: restore both from one backup, or start with an \
                 empty directory"
                    .to_owned(),
            ));
        }
        None => Identity::new(ArbiterId(file::random_u128()?), 0),
    };
    let boot = before.boot.checked_add(1).ok_or_else(|| {
        wrong("opened as often as can be counted: start with an empty directory".to_owned())
    })?;
    let identity = Identity::new(before.id, boot);
    let bytes = identity.write().map_err(|error| wrong(error.to_string()))?;
    let io = |source| JournalError::Io { verb: "replace", path: path.clone(), source };
    put(directory, NAME, &bytes).and_then(|_| directory.sync()).map_err(io)?;
    Ok(identity)
}

/// What is wrong with a file that cannot be used.
fn complaint(bytes: &[u8]) -> String {
    match serde_json::from_slice::<Version>(bytes) {
        Ok(Version { version }) if version != VERSION => format!(
            "version {version} is not known here, this program writes version {VERSION}: use the \
             program that wrote it, or start with an empty directory"
        ),
        Ok(_) | Err(_) => "damaged, or no arbiter's identity: restore the whole directory from a \
                           backup, or start with an empty one"
            .to_owned(),
    }
}
