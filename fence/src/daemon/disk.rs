//! The journal's thread: the machine never waits for a disk. What comes while a sync is under way
//! waits for the next one, which then serves all of it.

use std::sync::mpsc as blocking;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::error;

use crate::core::Token;
use crate::journal::{Entry, Journal};

/// A disk that has not answered for this long is said to be stalled.
const STALL: Duration = Duration::from_secs(2);

/// What became of a batch of writes.
#[derive(Debug)]
pub(super) struct Stored {
    /// Which writes.
    pub(super) tokens: Vec<Token>,
    /// Why they are not on disk, if they are not.
    pub(super) error: Option<String>,
}

/// The way to the journal.
#[derive(Debug)]
pub(super) struct Disk {
    jobs: blocking::Sender<(Token, Entry)>,
    results: mpsc::UnboundedReceiver<Stored>,
    thread: JoinHandle<()>,
    pending: usize,
    /// Since when nothing has come back, while something should.
    quiet_since: Instant,
    /// That it is stalled was said.
    said: bool,
}

impl Disk {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system has no room for a thread.
    pub(super) fn start(journal: Journal) -> std::io::Result<Self> {
        let (jobs, work) = blocking::channel();
        // A job writes an entry and waits for it, so both queues are as long as there are jobs and
        // devices.
        let (answers, results) = mpsc::unbounded_channel();
        let thread = std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || write_all(journal, &work, &answers))?;
        Ok(Self { jobs, results, thread, pending: 0, quiet_since: Instant::now(), said: false })
    }

    /// Queues an entry; its [`Stored`] comes later. False: there is no journal any more.
    pub(super) fn store(&mut self, token: Token, entry: Entry) -> bool {
        let queued = self.jobs.send((token, entry)).is_ok();
        if !self.is_busy() {
            self.quiet_since = Instant::now();
        }
        self.pending += usize::from(queued);
        queued
    }

    /// The next result. Cancel safe.
    pub(super) async fn stored(&mut self) -> Stored {
        match self.results.recv().await {
            Some(stored) => {
                self.pending = self.pending.saturating_sub(stored.tokens.len());
                self.quiet_since = Instant::now();
                stored
            }
            None => std::future::pending().await,
        }
    }

    /// Some writes have no result yet.
    pub(super) fn is_busy(&self) -> bool {
        self.pending > 0
    }

    /// Says once that the disk is stalled: a request that waits for it says so only at its end.
    pub(super) fn look(&mut self) {
        let stalled = self.stalled().is_some();
        if stalled && !self.said {
            error!("no node can be fenced: the journal's disk does not answer");
        }
        self.said = stalled;
    }

    /// For how long the disk has not answered, if that is too long.
    pub(super) fn stalled(&self) -> Option<Duration> {
        let quiet = self.quiet_since.elapsed();
        (self.is_busy() && quiet >= STALL).then_some(quiet)
    }

    /// Ends the thread, which closes the journal.
    pub(super) fn stop(self) {
        drop(self.jobs);
        // It has said all it had to say.
        let _ = self.thread.join();
    }
}

/// Writes everything that waits with one sync, again and again.
fn write_all(
    mut journal: Journal,
    work: &blocking::Receiver<(Token, Entry)>,
    answers: &mpsc::UnboundedSender<Stored>,
) {
    while let Ok(first) = work.recv() {
        let batch = std::iter::once(first).chain(work.try_iter());
        let (tokens, entries): (Vec<Token>, Vec<Entry>) = batch.unzip();
        let error = journal.append(&entries, unix_ms()).err().map(|error| error.to_string());
        if answers.send(Stored { tokens, error }).is_err() {
            return;
        }
    }
}

/// The time of day, in milliseconds since 1970: it is written down for people.
#[expect(clippy::disallowed_methods, reason = "a journal says when, by the host's clock")]
pub(super) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
