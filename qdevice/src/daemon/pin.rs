//! The arbiter's identity on disk: once seen, no other is believed (safety 11).

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use protocol::ids::ArbiterId;
use serde::{Deserialize, Serialize};
use tracing::{error, info};

/// The version of the file's layout.
const VERSION: u32 = 1;
/// Longer than any pin, in bytes.
const BYTES_MAX: u64 = 4096;

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Pin {
    version: u32,
    id: ArbiterId,
}

fn file(state_dir: &Path) -> PathBuf {
    state_dir.join("arbiter.json")
}

/// The pinned arbiter, if there is one.
///
/// # Errors
/// If the file is there and is no pin: then no arbiter may be believed.
pub(super) fn load(state_dir: &Path) -> anyhow::Result<Option<ArbiterId>> {
    let path = file(state_dir);
    let Some(bytes) = host::file::read(&path, BYTES_MAX)? else { return Ok(None) };
    let pin: Pin = serde_json::from_slice(&bytes).with_context(|| {
        format!("{}: not an arbiter's identity; remove it to accept the next one", path.display())
    })?;
    if pin.version != VERSION {
        bail!(
            "{}: has version {}, and this program knows {VERSION}: use the newer program, or \
             remove the file to accept the next arbiter",
            path.display(),
            pin.version
        );
    }
    Ok(Some(pin.id))
}

/// Stores a pin in the background: a stalled disk must not delay renewals (safety 37). Until it
/// is stored, a restart would accept another arbiter.
pub(super) fn store(state_dir: &Path, id: ArbiterId) {
    let path = file(state_dir);
    tokio::task::spawn_blocking(move || {
        let stored = serde_json::to_vec(&Pin { version: VERSION, id })
            .map_err(anyhow::Error::from)
            .and_then(|bytes| Ok(host::file::replace(&path, &bytes, 0o600)?));
        match stored {
            Ok(()) => info!("arbiter {id} is pinned in {}", path.display()),
            Err(error) => error!("arbiter {id} is pinned only until a restart: {error:#}"),
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_read_back_and_junk_is_refused() {
        let directory = std::env::temp_dir().join(format!("pin-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        assert_eq!(load(&directory).unwrap(), None);
        let said = |text: &str| {
            std::fs::write(file(&directory), text).unwrap();
            load(&directory).map_err(|error| format!("{error:#}"))
        };
        let id = format!("{:032x}", 7);
        assert_eq!(said(&format!(r#"{{"version":1,"id":"{id}"}}"#)), Ok(Some(ArbiterId(7))));
        assert!(said("junk").unwrap_err().contains("arbiter.json: not an arbiter's identity"));
        let newer = said(&format!(r#"{{"version":2,"id":"{id}"}}"#));
        assert!(newer.unwrap_err().contains("has version 2"));
        std::fs::remove_dir_all(directory).unwrap();
    }
}
