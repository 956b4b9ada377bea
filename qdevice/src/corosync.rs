//! The device's second host: corosync's votequorum, through the libraries of the machine.
//!
//! [`attend`] is to the daemon what the node's socket is: it reports a host that comes, speaks and
//! goes, and takes what the device says. Whatever blocks is on a thread of its own.
//!
//! # Layout
//! * `host::corosync`: the libraries, opened at run time.
//! * `settings`: from cmap's keys to the words of the device.
//! * `configuration`: follows cmap, on a thread.
//! * `counting`: when votequorum is told what; a machine without I/O and clock.
//! * `conversation`: one connection to corosync, on a thread.
//! * `mailbox`: a queue to a thread that waits in poll(2).

mod configuration;
mod conversation;
mod counting;
mod mailbox;
mod settings;

use std::time::Duration;

use protocol::host::{FromDevice, FromHost};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

use mailbox::{Post, mailbox};

/// The first pause before corosync is tried again; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// A corosync that was started is found within this.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// What may wait on the way to corosync and back: a minute of renewed polls.
const QUEUE: usize = 256;

/// What happens at corosync.
#[derive(Debug)]
pub enum Report {
    /// It is connected; this is the way to it.
    Up(Voice),
    /// It has said something. The first thing is its welcome.
    Said(FromHost),
    /// It cannot be reached, or is gone: why, in one line.
    Gone(String),
}

/// The way to corosync, for one connection. Dropping it takes the vote back.
#[derive(Debug)]
pub struct Voice(Post<FromDevice>);

impl Voice {
    /// Queues it; false if corosync does not take anything, or is gone.
    #[must_use]
    pub fn say(&self, what: &FromDevice) -> bool {
        self.0.send(what.clone())
    }
}

/// Attends to corosync for ever, whatever is missing or goes away. A connection ends with its
/// [`Voice`].
pub async fn attend<R: From<Report>>(reports: mpsc::Sender<R>) {
    let mut pause = PAUSE_MIN;
    loop {
        let (gone, heard) = match converse(&reports).await {
            Some(end) => end,
            None => return,
        };
        if heard {
            pause = PAUSE_MIN;
        }
        if reports.send(Report::Gone(gone).into()).await.is_err() {
            return;
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// One connection: why it has ended and whether corosync has said anything; `None` if nobody
/// listens.
async fn converse<R: From<Report>>(reports: &mpsc::Sender<R>) -> Option<(String, bool)> {
    let (post, letters) = match mailbox(QUEUE) {
        Ok(queue) => queue,
        Err(error) => return Some((format!("no socket for corosync's thread: {error}"), false)),
    };
    let (tell, mut told) = mpsc::channel(QUEUE);
    let (ended, end) = oneshot::channel();
    let hold = move || {
        let reason = conversation::hold(letters, tell);
        // Who no longer listens does not miss it.
        let _ = ended.send(reason);
    };
    let thread = std::thread::Builder::new().name("corosync".to_owned());
    if let Err(error) = thread.spawn(hold) {
        return Some((format!("no thread for corosync: {error}"), false));
    }
    let mut voice = Some(Voice(post));
    while let Some(said) = told.recv().await {
        if let Some(voice) = voice.take() {
            reports.send(Report::Up(voice).into()).await.ok()?;
        }
        reports.send(Report::Said(said).into()).await.ok()?;
    }
    let reason = end.await.unwrap_or_else(|_| "corosync's thread has failed".to_owned());
    Some((reason, voice.is_none()))
}
