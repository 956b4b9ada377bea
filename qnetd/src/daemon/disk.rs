//! The journal's thread: the machine never waits for a disk, and a stalled one delays nothing but
//! new grants (safety 37).

use std::sync::mpsc as blocking;
use std::thread::JoinHandle;

use tokio::sync::mpsc;

use crate::core::{GrantRecord, Token};
use crate::journal::Journal;

/// What became of a batch of writes.
#[derive(Debug)]
pub(super) struct Stored {
    /// Which writes.
    pub(super) tokens: Vec<Token>,
    /// Why they are not on disk, if they are not.
    pub(super) error: Option<String>,
    /// Trouble that loses nothing.
    pub(super) warning: Option<String>,
}

/// The way to the journal.
#[derive(Debug)]
pub(super) struct Disk {
    jobs: blocking::Sender<(Token, GrantRecord)>,
    results: mpsc::UnboundedReceiver<Stored>,
    thread: JoinHandle<()>,
    pending: usize,
}

impl Disk {
    /// Starts the thread.
    pub(super) fn start(journal: Journal) -> std::io::Result<Self> {
        let (jobs, work) = blocking::channel();
        // A cluster has one write under way at most, so both queues are as long as there are
        // clusters.
        let (answers, results) = mpsc::unbounded_channel();
        let thread = std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || write_all(journal, &work, &answers))?;
        Ok(Self { jobs, results, thread, pending: 0 })
    }

    /// Queues a record; its [`Stored`] comes later. False: there is no journal any more.
    pub(super) fn store(&mut self, token: Token, record: GrantRecord) -> bool {
        let queued = self.jobs.send((token, record)).is_ok();
        self.pending += usize::from(queued);
        queued
    }

    /// The next result. Cancel safe.
    pub(super) async fn stored(&mut self) -> Stored {
        match self.results.recv().await {
            Some(stored) => {
                self.pending = self.pending.saturating_sub(stored.tokens.len());
                stored
            }
            None => std::future::pending().await,
        }
    }

    /// Some writes have no result yet.
    pub(super) fn is_busy(&self) -> bool {
        self.pending > 0
    }

    /// Ends the thread, which closes the state directory.
    pub(super) fn stop(self) {
        drop(self.jobs);
        // It has said all it had to say.
        let _ = self.thread.join();
    }
}

/// Writes everything that waits with one sync, again and again.
fn write_all(
    mut journal: Journal,
    work: &blocking::Receiver<(Token, GrantRecord)>,
    answers: &mpsc::UnboundedSender<Stored>,
) {
    while let Ok(first) = work.recv() {
        let batch = std::iter::once(first).chain(work.try_iter());
        let (tokens, records): (Vec<Token>, Vec<GrantRecord>) = batch.unzip();
        let error = journal.append(&records).err().map(|error| error.to_string());
        let answer = Stored { tokens, error, warning: None };
        if answers.send(answer).is_err() {
            return;
        }
        if let Err(error) = journal.rewrite_if_long() {
            let warning = Some(error.to_string());
            // A daemon that is gone needs no warning.
            let _ = answers.send(Stored { tokens: Vec::new(), error: None, warning });
        }
    }
}
