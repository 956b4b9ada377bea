//! Who can tell, within one boot of the host, that a state directory was restored.
//!
//! A record that names this boot of the host is given out again at once at a start (F9), because
//! what was put into the directory by a restore is from an earlier boot. A backup can be taken and
//! put back within one boot too. So beside the local socket, in a directory that does not outlive
//! the boot, a file says how far the journal had come. At a start the journal must have come at
//! least as far; else, or without the file, its records count as those of an earlier boot.

use std::io;

use protocol::ids::{ArbiterId, BootId};
use serde::{Deserialize, Serialize};

use super::storage::{Directory, Storage, put};
use super::text::Contents;

/// The file.
const NAME: &str = "qnetd.witness";

/// Its length in bytes, so that each write replaces the whole of the one before.
const BYTES: usize = 512;

/// What the file says, in JSON and blanks.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
struct Testimony {
    /// The boot of the host in which it was written.
    host_boot: BootId,
    arbiter: ArbiterId,
    /// The journal's length and checksum; two of them while the file is being replaced.
    reached: Vec<(u64, u32)>,
}

/// The file, open.
#[derive(Debug)]
pub(super) struct Witness<D: Directory> {
    file: D::File,
    said: Testimony,
}

/// The journal has come at least as far as it had when something was last stored in this boot of
/// the host.
pub(super) fn confirms<D: Directory>(
    directory: &D,
    host_boot: BootId,
    arbiter: ArbiterId,
    contents: &Contents,
) -> bool {
    let Ok(Some(bytes)) = directory.read(NAME, BYTES as u64) else { return false };
    let Ok(said) = serde_json::from_slice::<Testimony>(&bytes) else { return false };
    host_boot.0 != 0
        && (said.host_boot, said.arbiter) == (host_boot, arbiter)
        && said.reached.iter().any(|reached| contents.ends.contains(reached))
}

impl<D: Directory> Witness<D> {
    /// A new file in the place of the old one.
    pub(super) fn start(
        directory: &D,
        host_boot: BootId,
        arbiter: ArbiterId,
        reached: (u64, u32),
    ) -> io::Result<Self> {
        let said = Testimony { host_boot, arbiter, reached: vec![reached] };
        let file = put(directory, NAME, &said.write()?)?;
        Ok(Self { file, said })
    }

    /// The journal has come this far. It need not be durable: the power takes it as a boot does.
    pub(super) fn say(&mut self, reached: &[(u64, u32)]) -> io::Result<()> {
        self.said.reached = reached.to_vec();
        self.file.write_at(&self.said.write()?, 0)
    }
}

impl Testimony {
    fn write(&self) -> io::Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec(self)?;
        bytes.resize(BYTES, b' ');
        Ok(bytes)
    }
}
