//! What may block: writing the may-run mark and writing the log. Two helper threads do it, so
//! that a stalled disk costs no pet (safety 37).

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::mark::{self, Mark};
use host::clock;

/// Lines that wait for a log that does not take them; more are dropped.
const LINES_LIMIT: usize = 256;
/// How long the keeper's end waits for a log that does not take them.
const FINISH_MAX: Duration = Duration::from_secs(1);

enum Job {
    Store { number: u64, mark: Mark },
    Clear,
}

/// What has become of a job.
pub(super) enum Done {
    /// A mark was written, or not.
    Stored { number: u64, error: Option<String> },
    /// The mark could not be removed: the next keeper of this boot proves a stop for nothing.
    NotCleared { error: String },
}

/// The thread that writes marks, in the order in which it was told to.
pub(super) struct Disk {
    jobs: Option<Sender<Job>>,
    done: Receiver<Done>,
    wake: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl Disk {
    /// Starts the thread; marks go to `dir`.
    pub(super) fn start(dir: PathBuf) -> io::Result<Self> {
        let (jobs, inbox) = mpsc::channel();
        let (outbox, done) = mpsc::channel();
        let (wake, mut bell) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        bell.set_nonblocking(true)?;
        let work = move || {
            for job in inbox {
                let result = match job {
                    Job::Store { number, mark } => {
                        let error = mark.write(&dir).err().map(|error| error.to_string());
                        Some(Done::Stored { number, error })
                    }
                    Job::Clear => mark::clear(&dir)
                        .err()
                        .map(|error| Done::NotCleared { error: error.to_string() }),
                };
                if result.is_some_and(|result| outbox.send(result).is_err()) {
                    return;
                }
                // A full pipe has rung already.
                let _ = bell.write(&[1]);
            }
        };
        let thread = thread::Builder::new().name("keeper-disk".to_owned()).spawn(work)?;
        Ok(Self { jobs: Some(jobs), done, wake, thread: Some(thread) })
    }

    pub(super) fn store(&self, number: u64, mark: Mark) {
        self.send(Job::Store { number, mark });
    }

    pub(super) fn clear(&self) {
        self.send(Job::Clear);
    }

    /// Readable when [`Disk::next_done`] has something.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    pub(super) fn next_done(&mut self) -> Option<Done> {
        let mut rung = [0; 64];
        let _ = self.wake.read(&mut rung);
        self.done.try_recv().ok()
    }

    /// Waits until everything is written.
    pub(super) fn finish(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }

    fn send(&self, job: Job) {
        // The thread ends only when this sender does.
        if let Some(jobs) = &self.jobs {
            let _ = jobs.send(job);
        }
    }
}

/// The thread that writes log lines.
pub(super) struct Log {
    lines: Option<SyncSender<String>>,
    /// Is closed when the thread has ended.
    ended: Receiver<()>,
}

impl Log {
    /// Starts the thread; lines go to `out`, each with the seconds since boot.
    pub(super) fn start(mut out: impl Write + Send + 'static) -> io::Result<Self> {
        let (lines, inbox) = mpsc::sync_channel::<String>(LINES_LIMIT);
        let (end, ended) = mpsc::sync_channel::<()>(0);
        let work = move || {
            let _end = end;
            for line in inbox {
                // Where a log line cannot be written there is nobody to tell.
                let _ = out.write_all(line.as_bytes());
            }
        };
        thread::Builder::new().name("keeper-log".to_owned()).spawn(work)?;
        Ok(Self { lines: Some(lines), ended })
    }

    pub(super) fn line(&self, text: &str) {
        let millis = clock::read().boottime_ns / 1_000_000;
        let line = format!("haguard keeper: [{}.{:03}] {text}\n", millis / 1000, millis % 1000);
        if let Some(lines) = &self.lines {
            let _ = lines.try_send(line);
        }
    }

    /// Waits until everything is written; not for long, where nobody reads it.
    pub(super) fn finish(&mut self) {
        self.lines = None;
        let _ = self.ended.recv_timeout(FINISH_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log whose every write waits for a word.
    struct Stuck(Receiver<()>, SyncSender<Vec<u8>>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            let _ = self.1.send(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_log_that_nobody_reads_does_not_hold_up_the_end() {
        let ((open, gate), (written, lines)) = (mpsc::sync_channel(1), mpsc::sync_channel(1));
        let mut log = Log::start(Stuck(gate, written)).unwrap();
        log.line("the end");
        // It returns, though nothing is written; that comes once somebody reads.
        log.finish();
        assert!(lines.try_recv().is_err());
        open.send(()).unwrap();
        let line = lines.recv_timeout(Duration::from_secs(60)).unwrap();
        assert!(String::from_utf8(line).unwrap().ends_with("] the end\n"));
    }
}
