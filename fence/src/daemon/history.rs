//! The journal as it is read.

use std::path::{Path, PathBuf};

use super::web::line;
use crate::journal;

/// Records of one answer; whoever wants more asks on from the last one's number. Memory is bounded
/// by it, a record has some hundred bytes.
const RECORDS_MAX: usize = 10_000;

/// The way to the journal's records.
#[derive(Clone, Debug)]
pub(super) struct History(PathBuf);

impl History {
    pub(super) fn new(journal: &Path) -> Self {
        Self(journal.to_owned())
    }

    /// The records from this number on, one JSON object a line ([`journal::Record`]), the first
    /// ten thousand of them.
    ///
    /// # Errors
    /// Why the journal cannot be read, in one line.
    pub(super) async fn since(&self, since: u64) -> Result<Vec<u8>, String> {
        let path = self.0.clone();
        let read = tokio::task::spawn_blocking(move || {
            let mut lines = Vec::new();
            let mut left = RECORDS_MAX;
            for record in journal::read(&path).map_err(|error| error.to_string())? {
                let record = record.map_err(|error| error.to_string())?;
                if record.seq < since {
                    continue;
                }
                lines.extend(line(&record));
                left -= 1;
                if left == 0 {
                    break;
                }
            }
            Ok(lines)
        });
        read.await.unwrap_or_else(|error| Err(format!("the journal could not be read: {error}")))
    }
}
