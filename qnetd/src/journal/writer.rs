//! The journal's thread: the machine never waits for a disk, and a stalled one delays nothing but
//! new grants (safety 37).
//!
//! What comes while a sync is under way waits for the next one, which then serves all of it: a
//! grant waits for two syncs at most, however many clusters decide at once.

use std::sync::mpsc as blocking;
use std::thread::JoinHandle;

use tokio::sync::mpsc;

use super::storage::Directory;
use super::{Journal, Record};
use crate::core::Token;

/// What became of a batch of writes.
#[derive(Debug)]
pub struct Stored {
    /// Which writes.
    pub tokens: Vec<Token>,
    /// Why they are not on disk, if they are not.
    pub error: Option<String>,
    /// What else there is to tell people.
    pub notes: Vec<String>,
}

/// The way to the journal.
#[derive(Debug)]
pub struct Writer {
    jobs: blocking::Sender<(Token, Record)>,
    results: mpsc::UnboundedReceiver<Stored>,
    thread: JoinHandle<()>,
    pending: usize,
}

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system has no room for a thread.
    pub fn start<D>(journal: Journal<D>) -> std::io::Result<Self>
    where
        D: Directory + Send + 'static,
        D::File: Send,
    {
        let (jobs, work) = blocking::channel();
        // A cluster has one write of each kind under way at most, so both queues are no longer than
        // twice the number of clusters.
        let (answers, results) = mpsc::unbounded_channel();
        let thread = std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || write_all(journal, &work, &answers))?;
        Ok(Self { jobs, results, thread, pending: 0 })
    }

    /// Queues a record; its [`Stored`] comes later. False: there is no journal any more.
    pub fn store(&mut self, token: Token, record: impl Into<Record>) -> bool {
        let queued = self.jobs.send((token, record.into())).is_ok();
        self.pending += usize::from(queued);
        queued
    }

    /// The next result. Cancel safe.
    pub async fn stored(&mut self) -> Stored {
        match self.results.recv().await {
            Some(stored) => {
                self.pending = self.pending.saturating_sub(stored.tokens.len());
                stored
            }
            None => std::future::pending().await,
        }
    }

    /// Some writes have no result yet.
    pub fn is_busy(&self) -> bool {
        self.pending > 0
    }

    /// Ends the thread, which closes the state directory.
    pub fn stop(self) {
        drop(self.jobs);
        // It has said all it had to say.
        let _ = self.thread.join();
    }
}

/// Writes everything that waits with one sync, again and again.
fn write_all<D: Directory>(
    mut journal: Journal<D>,
    work: &blocking::Receiver<(Token, Record)>,
    answers: &mpsc::UnboundedSender<Stored>,
) {
    while let Ok(first) = work.recv() {
        let batch = std::iter::once(first).chain(work.try_iter());
        let (tokens, records): (Vec<Token>, Vec<Record>) = batch.unzip();
        let error = journal.append(&records).err().map(|error| error.to_string());
        let notes = journal.take_notes();
        if answers.send(Stored { tokens, error, notes }).is_err() {
            return;
        }
        if let Err(error) = journal.rewrite_if_long() {
            let notes = vec![format!("{error}; the journal goes on growing meanwhile")];
            // A daemon that is gone needs no note.
            let _ = answers.send(Stored { tokens: Vec::new(), error: None, notes });
        }
    }
}
