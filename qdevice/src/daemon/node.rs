//! The node's local socket: connects, and again whenever it is gone. corosync
//! ([`crate::corosync`]) reports the same.

use std::path::{Path, PathBuf};
use std::time::Duration;

use host::socket::Lines;
use protocol::host::{FromDevice, FromHost, MAX_LINE_BYTES};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tracing::error;

use super::Happening;
use crate::corosync;

/// The first pause before the socket is tried again; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// A node that was started is found within this.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Lines that may wait for the node: a minute of renewed polls. One that reads nothing for so
/// long is as good as gone.
const QUEUE_LINES: usize = 256;

/// What happens at the node.
#[derive(Debug)]
pub(super) enum Report {
    /// It is connected; this is the way to it.
    Up(Voice),
    /// The node has said something.
    Said(FromHost),
    /// The socket cannot be opened, or is closed.
    Gone(String),
}

/// The way to the node, for one connection.
#[derive(Debug)]
pub(super) enum Voice {
    /// Lines for its socket.
    Socket(mpsc::Sender<Vec<u8>>),
    /// corosync.
    Corosync(corosync::Voice),
}

impl Voice {
    /// Queues a line; false if the node does not read, or is gone.
    #[must_use]
    pub(super) fn say(&self, what: &FromDevice) -> bool {
        let lines = match self {
            Self::Socket(lines) => lines,
            Self::Corosync(voice) => return voice.say(what),
        };
        match serde_json::to_vec(what) {
            Ok(mut line) => {
                line.push(b'\n');
                lines.try_send(line).is_ok()
            }
            Err(error) => {
                error!("{what:?} cannot be written as JSON: {error}");
                true
            }
        }
    }
}

impl From<corosync::Report> for Happening {
    fn from(report: corosync::Report) -> Self {
        Self::Node(match report {
            corosync::Report::Up(voice) => Report::Up(Voice::Corosync(voice)),
            corosync::Report::Said(said) => Report::Said(said),
            corosync::Report::Gone(reason) => Report::Gone(reason),
        })
    }
}

/// Attends to the node for ever. The connection ends with its [`Voice`], once all is written.
pub(super) async fn attend(path: PathBuf, reports: mpsc::Sender<Happening>) {
    let mut pause = PAUSE_MIN;
    loop {
        let gone = match UnixStream::connect(&path).await {
            Ok(stream) => {
                let (voice, lines) = mpsc::channel(QUEUE_LINES);
                if reports.send(Happening::Node(Report::Up(Voice::Socket(voice)))).await.is_err() {
                    return;
                }
                let (reason, heard) = converse(stream, lines, &reports).await;
                if heard {
                    pause = PAUSE_MIN;
                }
                reason
            }
            Err(error) => unreachable_text(&path, &error),
        };
        if reports.send(Happening::Node(Report::Gone(gone))).await.is_err() {
            return;
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

fn unreachable_text(path: &Path, error: &std::io::Error) -> String {
    format!("cannot connect to {}: {error}; is haguard node running there?", path.display())
}

/// Talks until either side ends it; says why, and whether the node has said anything.
async fn converse(
    mut stream: UnixStream,
    lines: mpsc::Receiver<Vec<u8>>,
    reports: &mpsc::Sender<Happening>,
) -> (String, bool) {
    let (reader, writer) = stream.split();
    let mut heard = false;
    let listen = listen(Lines::new(reader, MAX_LINE_BYTES), reports, &mut heard);
    let reason = tokio::select! {
        reason = listen => reason,
        reason = speak(writer, lines) => reason,
    };
    (reason, heard)
}

async fn listen<R: tokio::io::AsyncRead + Unpin>(
    mut lines: Lines<R>,
    reports: &mpsc::Sender<Happening>,
    heard: &mut bool,
) -> String {
    loop {
        let line = match lines.next().await {
            Ok(Some(line)) => line,
            Ok(None) => return "the node closed its socket: is haguard node running?".to_owned(),
            Err(error) => return format!("the node's socket failed: {error}"),
        };
        match serde_json::from_slice(&line) {
            Ok(said) => {
                *heard = true;
                if reports.send(Happening::Node(Report::Said(said))).await.is_err() {
                    return String::new();
                }
            }
            Err(error) => {
                return format!(
                    "the node sent a line that makes no sense ({error}): do node and device have \
                     the same version?"
                );
            }
        }
    }
}

async fn speak<W: AsyncWrite + Unpin>(mut writer: W, mut lines: mpsc::Receiver<Vec<u8>>) -> String {
    while let Some(line) = lines.recv().await {
        if let Err(error) = writer.write_all(&line).await {
            return format!("the node's socket failed: {error}");
        }
    }
    "closed from here".to_owned()
}
