//! The local socket: one command a connection, answered and closed (wire 6.1).

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use host::socket::Lines;
use nix::unistd::{Gid, Group, chown};
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::Order;
use super::request::Request;
use crate::config::Options;

/// How long a local client may take over its one command, and to read the answer.
const LOCAL_LIMIT: Duration = Duration::from_secs(10);

/// Who may use the socket: its owner and its group.
const SOCKET_MODE: u32 = 0o660;

/// A question for the daemon, and where the answer goes.
#[derive(Debug)]
pub(super) struct Query {
    pub(super) request: Request,
    pub(super) answer: oneshot::Sender<Answer>,
}

/// What the daemon says to a command.
#[derive(Debug)]
pub(super) enum Answer {
    /// Said after `OK`.
    Text(String),
    /// Said after `Error`.
    Error(String),
    /// Say `OK`, then stop the daemon.
    ThenStop,
}

/// The open socket; its file is taken away with it.
#[derive(Debug)]
pub(super) struct Local {
    listener: UnixListener,
    path: PathBuf,
    clients_max: usize,
    receive_bytes_max: usize,
    send_bytes_max: usize,
}

impl Drop for Local {
    fn drop(&mut self) {
        // If it cannot be taken away, the next start does that.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Local {
    /// Opens the socket.
    pub(super) fn open(options: &Options) -> anyhow::Result<Self> {
        let path = options.local_socket_file();
        let mode = options.local_socket_umask.map_or(SOCKET_MODE, |mask| 0o777 & !mask);
        // The mode is widened last, when the group is the right one.
        let listener = host::socket::listen(&path, 0o600)?;
        let local = Self {
            listener,
            path,
            clients_max: options.ipc_max_clients,
            receive_bytes_max: options.ipc_max_receive_bytes,
            send_bytes_max: options.ipc_max_send_bytes,
        };
        if let Some(group) = &options.local_socket_gid {
            let gid = find_group(group)?;
            chown(&local.path, None, Some(gid)).with_context(|| {
                format!("cannot give {} to group {group}", local.path.display())
            })?;
        }
        std::fs::set_permissions(&local.path, std::fs::Permissions::from_mode(mode))
            .with_context(|| format!("cannot set the mode of {}", local.path.display()))?;
        Ok(local)
    }

    /// Serves commands for ever.
    pub(super) async fn serve(self, queries: mpsc::Sender<Query>, orders: mpsc::Sender<Order>) {
        let mut clients = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        if self.clients_max != 0 && clients.len() >= self.clients_max {
                            warn!("more than {} local clients: one is refused", self.clients_max);
                            continue;
                        }
                        let limits = (self.receive_bytes_max, self.send_bytes_max);
                        let talk = converse(stream, limits, queries.clone(), orders.clone());
                        clients.spawn(timeout(LOCAL_LIMIT, talk));
                    }
                    Err(error) => {
                        warn!("cannot accept local clients: {error}");
                        tokio::time::sleep(super::ACCEPT_PAUSE).await;
                    }
                },
                Some(_) = clients.join_next() => {}
            }
        }
    }
}

fn find_group(group: &str) -> anyhow::Result<Gid> {
    if let Ok(number) = group.parse() {
        return Ok(Gid::from_raw(number));
    }
    let found = Group::from_name(group).with_context(|| format!("cannot look up group {group}"))?;
    Ok(found.with_context(|| format!("there is no group {group}; correct local_socket_gid"))?.gid)
}

async fn converse(
    mut stream: UnixStream,
    (receive_bytes_max, send_bytes_max): (usize, usize),
    queries: mpsc::Sender<Query>,
    orders: mpsc::Sender<Order>,
) {
    let line = match Lines::new(&mut stream, receive_bytes_max).next().await {
        Ok(Some(line)) if line.len() < receive_bytes_max => line,
        Ok(_) | Err(_) => {
            debug!("a local client sent no command, or too long a one");
            return;
        }
    };
    let (answer, answered) = oneshot::channel();
    if queries.send(Query { request: Request::parse(&line), answer }).await.is_err() {
        return;
    }
    let Ok(answer) = answered.await else { return };
    let (text, stop) = match answer {
        Answer::Text(text) if text.len() + 3 > send_bytes_max => {
            ("Error\nInternal IPC buffer too small\n".to_owned(), false)
        }
        Answer::Text(text) => (format!("OK\n{text}"), false),
        Answer::Error(text) => (format!("Error\n{text}\n"), false),
        Answer::ThenStop => ("OK\n".to_owned(), true),
    };
    let written = stream.write_all(text.as_bytes()).await;
    if written.is_err() {
        debug!("a local client left before its answer");
    }
    drop(stream);
    // What was asked for is done, heard or not.
    if stop {
        let _ = orders.send(Order::Stop).await;
    }
}
