//! What survives a restart of the node, as one small JSON file (rule S3, safety 20).
//!
//! Writes happen in a thread of their own, so that a disk that stalls delays new views and
//! nothing else. The core has one write under way at a time.

use std::path::{Path, PathBuf};
use std::sync::mpsc as threads;

use host::file::{self, FileError};
use protocol::ids::{ClusterName, NodeId};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::core::Stored;

/// The word that tells this file from other JSON.
const FORMAT: &str = "haguard-node-state";
/// The version that is written, and the newest that is understood.
const VERSION: u32 = 1;
/// The longest file that is read, in bytes: far above sixteen bounds.
const BYTES_MAX: u64 = 65_536;
/// Only its owner may read it.
const MODE: u32 = 0o600;

/// Why stored state is not used. A node never starts from what it does not understand: it could
/// repeat a ring id or go back behind an epoch.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// Not JSON, or not ours.
    #[error("{}: is not the state of a haguard node ({why}): restore it from a copy, or move it away to start without it", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Written by a later program.
    #[error("{}: has version {version} and this program knows version {VERSION}: run the newer program", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// Of another node or cluster.
    #[error("{}: is the state of node {node} of cluster {cluster:?}: each node needs a --state-dir of its own", path.display())]
    Other {
        /// The file.
        path: PathBuf,
        /// Its cluster.
        cluster: String,
        /// Its node.
        node: NodeId,
    },
    /// The writing thread could not be made.
    #[error("the thread that writes {} could not be started: {source}", path.display())]
    Thread {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Read first, so that a later version is named as such and not as nonsense.
#[derive(Deserialize)]
struct Head {
    format: String,
    version: u32,
}

#[derive(Deserialize, Serialize)]
struct Content {
    format: String,
    version: u32,
    cluster: String,
    node: NodeId,
    state: Stored,
}

/// The state file and the thread that writes it.
#[derive(Debug)]
pub struct Store {
    orders: threads::SyncSender<(u64, Vec<u8>)>,
    done: mpsc::Receiver<(u64, Result<(), FileError>)>,
    cluster: String,
    node: NodeId,
}

impl Store {
    /// Reads what is stored for `node` of `cluster` at `path` (nothing, for a first start) and
    /// starts the thread that will write there.
    ///
    /// # Errors
    /// [`StoreError`]: the daemon must not start.
    pub fn open(
        path: &Path,
        cluster: &ClusterName,
        node: NodeId,
    ) -> Result<(Self, Stored), StoreError> {
        let cluster = cluster.to_string();
        let stored = match file::read(path, BYTES_MAX)? {
            Some(bytes) => read(path, &bytes, &cluster, node)?,
            None => Stored::default(),
        };
        let (orders, todo) = threads::sync_channel::<(u64, Vec<u8>)>(1);
        let (finished, done) = mpsc::channel(4);
        let place = path.to_owned();
        let write = move || {
            while let Ok((number, bytes)) = todo.recv() {
                let result = file::replace(&place, &bytes, MODE);
                if finished.blocking_send((number, result)).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(write)
            .map_err(|source| StoreError::Thread { path: path.to_owned(), source })?;
        Ok((Self { orders, done, cluster, node }, stored))
    }

    /// Starts a write; its end comes out of [`Store::done`]. False if it could not be started.
    pub fn write(&self, number: u64, state: Stored) -> bool {
        let content = Content {
            format: FORMAT.to_owned(),
            version: VERSION,
            cluster: self.cluster.clone(),
            node: self.node,
            state,
        };
        let Ok(mut bytes) = serde_json::to_vec(&content) else { return false };
        bytes.push(b'\n');
        self.orders.try_send((number, bytes)).is_ok()
    }

    /// The next write that has ended. Cancel safe. Waits for ever if the thread is gone.
    pub async fn done(&mut self) -> (u64, Result<(), FileError>) {
        match self.done.recv().await {
            Some(done) => done,
            None => std::future::pending().await,
        }
    }
}

fn read(path: &Path, bytes: &[u8], cluster: &str, node: NodeId) -> Result<Stored, StoreError> {
    let foreign = |why: String| StoreError::Foreign { path: path.to_owned(), why };
    let head: Head = serde_json::from_slice(bytes).map_err(|error| foreign(error.to_string()))?;
    if head.format != FORMAT {
        return Err(foreign(format!("its format is {:?}", head.format)));
    }
    if head.version > VERSION {
        return Err(StoreError::Newer { path: path.to_owned(), version: head.version });
    }
    let content: Content =
        serde_json::from_slice(bytes).map_err(|error| foreign(error.to_string()))?;
    if content.cluster != cluster || content.node != node {
        let (cluster, node) = (content.cluster, content.node);
        return Err(StoreError::Other { path: path.to_owned(), cluster, node });
    }
    Ok(content.state)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use protocol::cluster::Placement;
    use protocol::ids::Epoch;
    use protocol::vote::{Bound, WatchdogClass};

    use super::*;

    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let name = format!("store-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn file(&self) -> PathBuf {
            self.0.join("node.json")
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn state() -> Stored {
        let placement = Placement { epoch: Epoch(u64::MAX), serial: 3, node: NodeId(2) };
        let bound = Bound { class: WatchdogClass::A, bound_ms: 5300 };
        Stored {
            epoch: Epoch(u64::MAX),
            forgotten: true,
            ring_seq: 9,
            placement: Some(placement),
            bounds: [(NodeId(u32::MAX), bound)].into(),
        }
    }

    #[tokio::test]
    async fn what_was_written_is_read_back_after_a_restart() {
        let directory = Directory::new("back");
        let path = directory.file();
        let (mut store, empty) = Store::open(&path, &"c".into(), NodeId(1)).unwrap();
        assert_eq!(empty, Stored::default());
        assert!(store.write(7, state()));
        let done = tokio::time::timeout(Duration::from_secs(20), store.done()).await.unwrap();
        assert_eq!(done.0, 7);
        done.1.unwrap();
        let (_, stored) = Store::open(&path, &"c".into(), NodeId(1)).unwrap();
        assert_eq!(stored, state());
    }

    #[tokio::test]
    async fn a_write_that_fails_is_reported_as_failed() {
        let directory = Directory::new("fails");
        let path = directory.file();
        let (mut store, _) = Store::open(&path, &"c".into(), NodeId(1)).unwrap();
        std::fs::remove_dir_all(&directory.0).unwrap();
        assert!(store.write(1, state()));
        let done = tokio::time::timeout(Duration::from_secs(20), store.done()).await.unwrap();
        assert!(done.1.is_err());
    }

    #[test]
    fn foreign_newer_and_anothers_state_is_refused_with_what_to_do() {
        let directory = Directory::new("refused");
        let path = directory.file();
        let ours = |text: &str| format!("{{\"format\":\"haguard-node-state\",{text}}}");
        let other = ours(
            "\"version\":1,\"cluster\":\"d\",\"node\":2,\"state\":\
             {\"epoch\":0,\"ring_seq\":0,\"placement\":null,\"bounds\":{}}",
        );
        let cases = [
            (String::new(), "not the state of a haguard node"),
            ("{}".to_owned(), "not the state of a haguard node"),
            ("{\"format\":\"x\",\"version\":1}".to_owned(), "its format is \"x\""),
            (ours("\"version\":2"), "has version 2 and this program knows version 1"),
            (ours("\"version\":1"), "not the state of a haguard node"),
            (other, "is the state of node 2 of cluster \"d\""),
            ("x".repeat(70_000), "longer than 65536 bytes"),
        ];
        for (text, wanted) in cases {
            std::fs::write(&path, &text).unwrap();
            let error = Store::open(&path, &"c".into(), NodeId(1)).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
            assert_eq!(error.lines().count(), 1);
        }
    }
}
