//! Finished lines on their way to whoever reads the log. A thread of their own writes them, so
//! that a log that nobody reads holds up that thread and nothing else.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// Lines that wait to be written; more are lost.
const LINES_MAX: usize = 1024;
/// What they may hold together, in bytes.
const BYTES_MAX: usize = 1 << 20;
/// The thread only writes, and a node keeps its stack in memory for good.
const STACK_BYTES: usize = 128 << 10;

/// Takes lines and never waits.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    lines: SyncSender<Line>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Line {
    /// How many were lost right before it.
    lost: u64,
    /// Nothing, where the thread is only woken.
    text: Vec<u8>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Lines lost since the last one that was taken, or that the thread has told of.
    lost: AtomicU64,
    /// What the lines in the queue hold.
    bytes: AtomicUsize,
    /// Lines that were ever taken.
    taken: AtomicU64,
    /// How many of them had been written when nothing more was there, and no loss untold.
    settled: Mutex<u64>,
    settles: Condvar,
}

impl Queue {
    /// Starts the thread, which writes to `out`.
    pub(super) fn start(out: impl Write + Send + 'static) -> io::Result<Self> {
        let (lines, inbox) = mpsc::sync_channel(LINES_MAX);
        let queue = Self { lines, shared: Arc::default() };
        let shared = Arc::clone(&queue.shared);
        let thread = thread::Builder::new().name("log".to_owned()).stack_size(STACK_BYTES);
        thread.spawn(move || write_lines(&inbox, &shared, out))?;
        Ok(queue)
    }

    /// Takes a finished line, or counts it as lost.
    pub(super) fn push(&self, text: &[u8]) {
        let shared = &self.shared;
        let before = shared.bytes.fetch_add(text.len(), Ordering::SeqCst);
        let has_room = before.saturating_add(text.len()) <= BYTES_MAX;
        let lost = shared.lost.swap(0, Ordering::SeqCst);
        if has_room && self.send(Line { lost, text: text.to_owned() }) {
            return;
        }
        shared.bytes.fetch_sub(text.len(), Ordering::SeqCst);
        shared.lost.fetch_add(lost.saturating_add(1), Ordering::SeqCst);
        // The thread may have written the last line in this moment, and found no loss to tell of.
        self.send(Line { lost: 0, text: Vec::new() });
    }

    fn send(&self, line: Line) -> bool {
        self.shared.taken.fetch_add(1, Ordering::SeqCst);
        let is_sent = self.lines.try_send(line).is_ok();
        if !is_sent {
            self.shared.taken.fetch_sub(1, Ordering::SeqCst);
        }
        is_sent
    }

    /// Waits until everything that was pushed is written or told to be lost, for at most `limit`.
    /// False if it is not.
    pub(super) fn drain(&self, limit: Duration) -> bool {
        let target = self.shared.taken.load(Ordering::SeqCst);
        let settled = self.shared.settled.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.shared.settles.wait_timeout_while(settled, limit, |done| *done < target);
        let (settled, _) = waited.unwrap_or_else(PoisonError::into_inner);
        *settled >= target
    }
}

/// The thread. A line that cannot be written is gone: there is nobody to tell.
fn write_lines(inbox: &Receiver<Line>, shared: &Shared, mut out: impl Write) {
    let mut done = 0;
    loop {
        let line = inbox.try_recv().or_else(|_| {
            // Nothing is there: a loss would otherwise be told only with the next line.
            tell_loss(&mut out, shared.lost.swap(0, Ordering::SeqCst));
            *shared.settled.lock().unwrap_or_else(PoisonError::into_inner) = done;
            shared.settles.notify_all();
            inbox.recv()
        });
        let Ok(line) = line else { return };
        tell_loss(&mut out, line.lost);
        let _ = out.write_all(&line.text);
        shared.bytes.fetch_sub(line.text.len(), Ordering::SeqCst);
        done += 1;
    }
}

fn tell_loss(out: &mut impl Write, lost: u64) {
    let lines = match lost {
        0 => return,
        1 => "1 line of the log was lost: nobody read it\n".to_owned(),
        _ => format!("{lost} lines of the log were lost: nobody read them\n"),
    };
    let _ = out.write_all(lines.as_bytes());
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = Entry<'a>;

    fn make_writer(&'a self) -> Entry<'a> {
        Entry(self)
    }
}

/// One line on its way into the queue, which comes in one piece.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'a>(&'a Queue);

impl Write for Entry<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::Sender;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    /// A log that says when a write begins, and ends one for each word that it is given; once
    /// nobody can give one, all of them.
    struct Gated {
        begins: Sender<()>,
        gate: Receiver<()>,
        text: Arc<Mutex<String>>,
    }

    impl Write for Gated {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.begins.send(());
            let _ = self.gate.recv();
            self.text.lock().unwrap().push_str(str::from_utf8(bytes).unwrap());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Log {
        queue: Queue,
        begun: Receiver<()>,
        open: Sender<()>,
        text: Arc<Mutex<String>>,
    }

    impl Log {
        /// Stuck in its first line.
        fn stuck() -> Self {
            let ((begins, begun), (open, gate)) = (mpsc::channel(), mpsc::channel());
            let text = Arc::default();
            let queue = Queue::start(Gated { begins, gate, text: Arc::clone(&text) }).unwrap();
            queue.push(b"first\n");
            begun.recv_timeout(LIMIT).unwrap();
            Self { queue, begun, open, text }
        }

        /// Takes one line, and is stuck in the next.
        fn take_one(&self) {
            self.open.send(()).unwrap();
            self.begun.recv_timeout(LIMIT).unwrap();
        }

        /// Is read again: everything that it has taken in the end.
        fn end(self) -> String {
            drop(self.open);
            assert!(self.queue.drain(LIMIT));
            self.text.lock().unwrap().clone()
        }
    }

    /// Pushes that many numbered lines; says what they are.
    fn push(queue: &Queue, count: usize) -> String {
        let lines: Vec<String> = (0..count).map(|number| format!("line {number}\n")).collect();
        lines.iter().for_each(|line| queue.push(line.as_bytes()));
        lines.concat()
    }

    #[test]
    fn lines_come_out_whole_and_in_order() {
        let log = Log::stuck();
        let lines = push(&log.queue, LINES_MAX);
        assert_eq!(log.end(), format!("first\n{lines}"));
    }

    #[test]
    fn a_loss_is_told_in_its_place() {
        let log = Log::stuck();
        let lines = push(&log.queue, LINES_MAX);
        push(&log.queue, 7);
        log.take_one();
        log.queue.push(b"later\n");
        let loss = "7 lines of the log were lost: nobody read them\n";
        assert_eq!(log.end(), format!("first\n{lines}{loss}later\n"));
    }

    #[test]
    fn a_loss_is_told_even_if_no_line_follows() {
        let log = Log::stuck();
        let lines = push(&log.queue, LINES_MAX);
        push(&log.queue, 1);
        let loss = "1 line of the log was lost: nobody read it\n";
        assert_eq!(log.end(), format!("first\n{lines}{loss}"));
    }

    #[test]
    fn long_lines_fill_it_too() {
        let log = Log::stuck();
        let (long, short) = ("x".repeat(BYTES_MAX - 100), "y".repeat(100));
        log.queue.push(long.as_bytes());
        log.queue.push(short.as_bytes());
        log.take_one();
        let loss = "1 line of the log was lost: nobody read it\n";
        assert_eq!(log.end(), format!("first\n{long}{loss}"));
    }

    #[test]
    fn a_stuck_log_is_waited_for_no_longer_than_asked() {
        let log = Log::stuck();
        assert!(!log.queue.drain(Duration::ZERO));
        assert!(!log.queue.drain(Duration::from_millis(10)));
        assert_eq!(log.end(), "first\n");
    }

    #[test]
    fn a_log_that_takes_nothing_more_ends_no_daemon() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let queue = Queue::start(Closed).unwrap();
        for _ in 0..3 {
            push(&queue, LINES_MAX);
            assert!(queue.drain(LIMIT));
        }
        assert_eq!(queue.shared.bytes.load(Ordering::SeqCst), 0);
    }
}
