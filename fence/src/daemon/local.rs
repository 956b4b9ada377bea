//! The door on the gateway's own machine: a local socket that only root may use, for operators who
//! have no certificate at hand.
//!
//! One line of JSON, an [`Ask`], then the answer, one JSON object a line, then the end:
//! [`Progress`](protocol::fence::Progress) for what is done,
//! [`GatewayStatus`](protocol::fence::GatewayStatus) for the status, the journal's lines for the
//! history. A line `{"error": ...}` says that the ask was not understood.

use std::path::{Path, PathBuf};
use std::time::Duration;

use host::socket::{self, Lines, SocketError};
use protocol::fence::{Confirmation, Request};
use protocol::ids::NodeId;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::desk::Wish;
use super::web::{BODY_BYTES_MAX, Rooms, line};

/// The socket in the run directory.
pub const SOCKET: &str = "fence.sock";

/// Who may use it: its owner.
const MODE: u32 = 0o600;

/// Connections at a time.
const CLIENTS_MAX: usize = 16;

/// How long an ask may take to come.
const ASK_LIMIT: Duration = Duration::from_secs(10);

/// How long a line of the answer may take to be read.
const WRITE_LIMIT: Duration = Duration::from_secs(10);

/// How long nothing is accepted after the system refused to.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What a local client says: `{"fence": {...}}`, `{"test": {"node": 2}}`, `"status"`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Ask {
    /// As `POST /v1/fence`.
    Fence(Request),
    /// As `POST /v1/confirm`.
    Confirm(Confirmation),
    /// As `POST /v1/test/{node}`.
    Test {
        /// For whom the way is rehearsed.
        node: NodeId,
    },
    /// As `GET /v1/status`.
    Status,
    /// As `GET /v1/history`.
    History {
        /// The first line that is wanted, by its number.
        since: u64,
    },
}

/// The line of an ask that was not understood, or cannot be answered.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// Why, in one line.
    pub error: String,
}

/// The open socket; its file is taken away with it.
#[derive(Debug)]
pub(super) struct Local {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for Local {
    fn drop(&mut self) {
        // If it cannot be taken away, the next start does that.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Local {
    /// Opens the socket. The caller holds the lock of the place.
    pub(super) fn open(path: &Path) -> Result<Self, SocketError> {
        Ok(Self { listener: socket::listen(path, MODE)?, path: path.to_owned() })
    }

    /// Serves for ever.
    pub(super) async fn serve(self, rooms: Rooms) {
        let mut clients = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) if clients.len() < CLIENTS_MAX => {
                        clients.spawn(converse(stream, rooms.clone()));
                    }
                    Ok(_) => warn!("a local client over the limit of {CLIENTS_MAX} is refused"),
                    Err(error) => {
                        warn!("cannot accept local clients: {error}");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(_) = clients.join_next() => {}
            }
        }
    }
}

async fn converse(stream: UnixStream, rooms: Rooms) {
    let (reader, mut writer) = stream.into_split();
    let mut lines = Lines::new(reader, BODY_BYTES_MAX);
    let asked = timeout(ASK_LIMIT, lines.next()).await;
    let Ok(Ok(Some(asked))) = asked else {
        debug!("a local client sent no line, or too long a one");
        return;
    };
    let answered = match serde_json::from_slice(&asked) {
        Ok(ask) => answer(ask, &rooms, &mut writer).await,
        Err(error) => {
            let failure = Failure { error: format!("the line is refused: {error}") };
            write(&mut writer, &line(&failure)).await
        }
    };
    if answered.is_none() {
        debug!("a local client left before its answer");
    }
}

/// Answers; `None` if the client is gone.
async fn answer<W: AsyncWrite + Unpin>(ask: Ask, rooms: &Rooms, writer: &mut W) -> Option<()> {
    let wish = match ask {
        Ask::Fence(request) => Wish::Fence(request),
        Ask::Confirm(confirmation) => Wish::Confirm(confirmation),
        Ask::Test { node } => Wish::Test(node),
        Ask::Status => {
            let status = rooms.desk.status().await?;
            return write(writer, &line(&status)).await;
        }
        Ask::History { since } => {
            let lines = match rooms.history.since(since).await {
                Ok(lines) => lines,
                Err(error) => line(&Failure { error }),
            };
            return write(writer, &lines).await;
        }
    };
    let mut progress = rooms.desk.wish(wish).await;
    while let Some(step) = progress.recv().await {
        write(writer, &line(&step)).await?;
    }
    Some(())
}

async fn write<W: AsyncWrite + Unpin>(writer: &mut W, bytes: &[u8]) -> Option<()> {
    timeout(WRITE_LIMIT, writer.write_all(bytes)).await.ok()?.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ask_is_one_word_or_one_object() {
        let read = |text: &str| serde_json::from_str::<Ask>(text);
        assert_eq!(read("\"status\"").unwrap(), Ask::Status);
        assert_eq!(read("{\"test\":{\"node\":2}}").unwrap(), Ask::Test { node: NodeId(2) });
        assert_eq!(read("{\"history\":{\"since\":7}}").unwrap(), Ask::History { since: 7 });
        let fence = "{\"fence\":{\"requester\":1,\"targets\":[2],\"action\":\"off\",\
                     \"reason\":\"lost\"}}";
        assert!(matches!(read(fence).unwrap(), Ask::Fence(request) if request.epoch.is_none()));
        for wrong in ["", "status", "{}", "{\"test\":{}}", "{\"off\":2}", "{\"test\":{\"n\":2}}"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
