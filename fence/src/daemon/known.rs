//! Who answered at each device's address first (GUID, UUID), kept over restarts: another machine's
//! switch at the same address is a stranger from then on, whoever gave it that address.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tracing::{error, info};

use super::switch::Switch;
use crate::core::DeviceName;

/// In the state directory.
const FILE: &str = "devices.json";

/// The version of the file's layout.
const VERSION: u32 = 1;

/// Longer than any file of it, in bytes.
const BYTES_MAX: u64 = 1 << 20;

#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    devices: BTreeMap<DeviceName, One>,
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
struct One {
    /// Where it answered; what was learned there says nothing of another place.
    place: String,
    /// Who it was.
    identity: String,
}

/// What is known, and its file.
#[derive(Debug)]
pub(super) struct Known {
    path: PathBuf,
    stored: Stored,
    changed: bool,
    saving: JoinSet<()>,
}

impl Known {
    /// Reads the file.
    ///
    /// # Errors
    /// If it is there and cannot be read: then a stranger would be believed.
    pub(super) fn load(state_dir: &Path) -> anyhow::Result<Self> {
        let path = state_dir.join(FILE);
        let stored = match host::file::read(&path, BYTES_MAX)? {
            Some(bytes) => serde_json::from_slice(&bytes).with_context(|| {
                format!(
                    "{}: not a list of devices; remove it if the one who answers at each address \
                     may be believed again",
                    path.display()
                )
            })?,
            None => Stored { version: VERSION, ..Stored::default() },
        };
        if stored.version != VERSION {
            bail!(
                "{}: has version {}, and this program knows {VERSION}: use the newer program",
                path.display(),
                stored.version
            );
        }
        Ok(Self { path, stored, changed: false, saving: JoinSet::new() })
    }

    /// Who answered as this device at this place.
    pub(super) fn identity(&self, name: &str, place: &str) -> Option<&str> {
        let one = self.stored.devices.get(name)?;
        (one.place == place).then_some(one.identity.as_str())
    }

    /// Takes in what a device has learned, and stores it in the background: a stalled disk must not
    /// delay anything. Until it is stored, a restart would believe another one.
    pub(super) fn note(&mut self, name: &DeviceName, switch: &Switch) {
        let place = switch.place();
        if let Some(identity) = switch.identity()
            && self.identity(name, &place) != Some(identity.as_str())
        {
            info!("device '{name}' is {identity}: another one at its address is a stranger now");
            self.stored.devices.insert(name.clone(), One { place, identity });
            self.changed = true;
        }
        while self.saving.try_join_next().is_some() {}
        if self.changed && self.saving.is_empty() {
            self.changed = false;
            let (path, stored) = (self.path.clone(), self.stored.clone());
            self.saving.spawn_blocking(move || save(&path, &stored));
        }
    }
}

fn save(path: &Path, stored: &Stored) {
    let written = serde_json::to_vec(stored)
        .map_err(anyhow::Error::from)
        .and_then(|bytes| Ok(host::file::replace(path, &bytes, 0o600)?));
    if let Err(error) = written {
        error!("who the devices are is known only until a restart: {error:#}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_holds_for_its_place_only_and_junk_is_refused() {
        let directory = std::env::temp_dir().join(format!("hg-known-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let one = One { place: "ipmi at a:623".to_owned(), identity: "00ff".to_owned() };
        let devices = [("n1".to_owned(), one)].into();
        save(&directory.join(FILE), &Stored { version: VERSION, devices });
        let known = Known::load(&directory).unwrap();
        assert_eq!(known.identity("n1", "ipmi at a:623"), Some("00ff"));
        assert_eq!(known.identity("n1", "ipmi at b:623"), None);
        assert_eq!(known.identity("n2", "ipmi at a:623"), None);
        for junk in ["{", "{\"version\":2,\"devices\":{}}"] {
            std::fs::write(directory.join(FILE), junk).unwrap();
            assert!(Known::load(&directory).is_err(), "{junk}");
        }
        std::fs::remove_dir_all(directory).unwrap();
    }
}
