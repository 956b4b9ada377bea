//! The socket for people: one request line, one answer line, and the connection is over.
//!
//! * `status`: one line of JSON, a `protocol::status::NodeStatus`.
//! * `leave`: `ok`, and the node leaves its cluster and ends.
//! * anything else: a line that starts with `error: `.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use host::socket::{self, Lines};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::warn;

/// Connections at a time; more wait to be accepted.
const CONNECTIONS_MAX: usize = 16;
/// From connecting to the end of the answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// The longest request line in bytes.
const REQUEST_BYTES_MAX: usize = 256;
/// The daemon's user and group may ask.
const MODE: u32 = 0o660;

/// What was asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Question {
    /// The picture now.
    Status,
    /// Leave the cluster and end.
    Leave,
}

/// A question and where its answer goes.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) question: Question,
    /// One line, without its end.
    pub(crate) answer: oneshot::Sender<String>,
}

/// The socket.
#[derive(Debug)]
pub(crate) struct Requests {
    requests: mpsc::Receiver<Request>,
    /// It ends with the value, and all connections with it.
    _task: JoinSet<()>,
}

impl Requests {
    /// Listens at `path`.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let listener = socket::listen(path, MODE)?;
        let (ask, requests) = mpsc::channel(CONNECTIONS_MAX);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
            let mut conversations = JoinSet::new();
            while let Ok(place) = Arc::clone(&places).acquire_owned().await {
                while conversations.try_join_next().is_some() {}
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let ask = ask.clone();
                        conversations.spawn(async move {
                            // Who is too slow, or goes away, gets no answer.
                            let _ = timeout(PATIENCE, converse(stream, ask)).await;
                            drop(place);
                        });
                    }
                    Err(error) => {
                        // Out of descriptors, for example: a later caller may be luckier.
                        warn!("the status socket cannot accept: {error}");
                        tokio::time::sleep(PATIENCE).await;
                    }
                }
            }
        });
        Ok(Self { requests, _task: task })
    }

    /// The next request. Cancel safe.
    pub(crate) async fn next(&mut self) -> Request {
        match self.requests.recv().await {
            Some(request) => request,
            None => std::future::pending().await,
        }
    }
}

async fn converse(stream: UnixStream, ask: mpsc::Sender<Request>) -> std::io::Result<()> {
    let (from, mut to) = stream.into_split();
    let Some(line) = Lines::new(from, REQUEST_BYTES_MAX).next().await? else { return Ok(()) };
    let mut answer = match question(&line) {
        Some(question) => {
            let (answer, answered) = oneshot::channel();
            if ask.send(Request { question, answer }).await.is_err() {
                return Ok(());
            }
            answered.await.unwrap_or_else(|_| "error: the daemon is ending".to_owned())
        }
        None => "error: unknown request: ask for status or leave".to_owned(),
    };
    answer.push('\n');
    to.write_all(answer.as_bytes()).await?;
    to.shutdown().await
}

fn question(line: &[u8]) -> Option<Question> {
    match line.trim_ascii() {
        b"status" => Some(Question::Status),
        b"leave" => Some(Question::Leave),
        _ => None,
    }
}
