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
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::Happening;
use crate::config::Options;

/// How long a local client may take over its one command, and to read the answer.
const CLIENT_LIMIT: Duration = Duration::from_secs(10);
/// How long nothing is accepted after the system refused to.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// Who may use the socket: its owner and its group.
const SOCKET_MODE: u32 = 0o660;

/// What a local client wants to know.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Question {
    /// `status`, `status verbose`.
    Status {
        /// All of it.
        verbose: bool,
    },
    /// `haguard-status`: JSON.
    Json,
}

/// What a line asks for.
#[derive(Debug, Eq, PartialEq)]
enum Command {
    Ask(Question),
    Shutdown,
    Wrong(String),
}

impl Command {
    /// Words are divided by blanks and have no case; what follows the words that are known is
    /// not looked at.
    fn parse(line: &[u8]) -> Self {
        let line = String::from_utf8_lossy(line);
        let mut words = line.split_ascii_whitespace();
        let Some(word) = words.next() else {
            return Self::Wrong("No command specified".to_owned());
        };
        match word.to_ascii_lowercase().as_str() {
            "status" => {
                let verbose = words.any(|word| word.eq_ignore_ascii_case("verbose"));
                Self::Ask(Question::Status { verbose })
            }
            "haguard-status" => Self::Ask(Question::Json),
            "shutdown" => Self::Shutdown,
            _ => Self::Wrong(format!("Unknown command '{word}'")),
        }
    }
}

/// The open socket; its file is taken away with it.
#[derive(Debug)]
pub(super) struct Local {
    listener: UnixListener,
    path: PathBuf,
    clients_max: usize,
    limits: Limits,
}

#[derive(Clone, Copy, Debug)]
struct Limits {
    receive_bytes: usize,
    send_bytes: usize,
}

impl Drop for Local {
    fn drop(&mut self) {
        // If it cannot be taken away, the next start does that.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Local {
    /// Opens the socket.
    ///
    /// # Errors
    /// Why it cannot be opened for those who are to use it.
    pub(super) fn open(options: &Options) -> anyhow::Result<Self> {
        let path = options.local_socket_file();
        let mode = options.local_socket_umask.map_or(SOCKET_MODE, |mask| 0o777 & !mask);
        // The mode is widened last, when the group is the right one.
        let listener = host::socket::listen(&path, 0o600)?;
        let limits = Limits {
            receive_bytes: options.ipc_max_receive_bytes,
            send_bytes: options.ipc_max_send_bytes,
        };
        let local = Self { listener, path, clients_max: options.ipc_max_clients, limits };
        if let Some(group) = &options.local_socket_gid {
            chown(&local.path, None, Some(find_group(group)?)).with_context(|| {
                format!("cannot give {} to group {group}", local.path.display())
            })?;
        }
        std::fs::set_permissions(&local.path, std::fs::Permissions::from_mode(mode))
            .with_context(|| format!("cannot set the mode of {}", local.path.display()))?;
        Ok(local)
    }

    /// Serves commands for ever.
    pub(super) async fn serve(self, reports: mpsc::Sender<Happening>) {
        let mut clients = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) if self.clients_max == 0 || clients.len() < self.clients_max => {
                        let talk = converse(stream, self.limits, reports.clone());
                        clients.spawn(timeout(CLIENT_LIMIT, talk));
                    }
                    Ok(_) => warn!("a local client over the limit of {} is refused", self.clients_max),
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

fn find_group(group: &str) -> anyhow::Result<Gid> {
    if let Ok(number) = group.parse() {
        return Ok(Gid::from_raw(number));
    }
    let found = Group::from_name(group).with_context(|| format!("cannot look up group {group}"))?;
    Ok(found.with_context(|| format!("there is no group {group}: correct local_socket_gid"))?.gid)
}

async fn converse(mut stream: UnixStream, limits: Limits, reports: mpsc::Sender<Happening>) {
    let line = match Lines::new(&mut stream, limits.receive_bytes).next().await {
        Ok(Some(line)) if line.len() < limits.receive_bytes => line,
        Ok(_) | Err(_) => {
            debug!("a local client sent no command, or too long a one");
            return;
        }
    };
    let command = Command::parse(&line);
    let stop = command == Command::Shutdown;
    let answer = match command {
        Command::Ask(question) => {
            let (answer, answered) = oneshot::channel();
            if reports.send(Happening::Asked(question, answer)).await.is_err() {
                return;
            }
            let Ok(answer) = answered.await else { return };
            answer
        }
        Command::Shutdown => Ok(String::new()),
        Command::Wrong(text) => Err(text),
    };
    let text = match answer {
        Ok(text) if text.len() + 3 > limits.send_bytes => {
            "Error\nInternal IPC buffer too small\n".to_owned()
        }
        Ok(text) => format!("OK\n{text}"),
        Err(text) => format!("Error\n{text}\n"),
    };
    if stream.write_all(text.as_bytes()).await.is_err() {
        debug!("a local client left before its answer");
    }
    drop(stream);
    // What was asked for is done, heard or not.
    if stop {
        let _ = reports.send(Happening::Stop("asked to by the local socket")).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_words_without_case() {
        let status = |verbose| Command::Ask(Question::Status { verbose });
        assert_eq!(Command::parse(b"status "), status(false));
        assert_eq!(Command::parse(b"STATUS  Verbose \r"), status(true));
        assert_eq!(Command::parse(b"haguard-status"), Command::Ask(Question::Json));
        assert_eq!(Command::parse(b"shutdown "), Command::Shutdown);
        assert_eq!(Command::parse(b" "), Command::Wrong("No command specified".to_owned()));
        assert_eq!(Command::parse(b"x \xff"), Command::Wrong("Unknown command 'x'".to_owned()));
    }
}
