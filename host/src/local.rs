//! The local socket of a daemon that takes a stock daemon's place: one command a connection,
//! answered and closed (wire 6.1).

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::{Gid, Group, chown};
use thiserror::Error;
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use crate::socket::{self, Lines, SocketError};

/// How long a local client may take over its one command, and to read the answer.
const CLIENT_LIMIT: Duration = Duration::from_secs(10);

/// How long nothing is accepted after the system refused to.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Who may use the socket unless a mask says otherwise: its owner and its group.
const MODE: u32 = 0o660;

/// Who may use the socket, and how much of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    /// `local_socket_file`.
    pub file: Option<PathBuf>,
    /// `local_socket_umask`: mode bits taken from it.
    pub umask: Option<u32>,
    /// `local_socket_gid`: its group, by name or number.
    pub group: Option<String>,
    /// `ipc_max_clients`: connections at a time; 0 is unlimited.
    pub clients_max: usize,
    /// `ipc_max_receive_size`: longest command, in bytes, its end included.
    pub receive_bytes_max: usize,
    /// `ipc_max_send_size`: longest answer, in bytes.
    pub send_bytes_max: usize,
}

impl Settings {
    /// The stock daemons' defaults (wire 3.2, 3.3); they differ in the longest answer.
    pub fn new(send_bytes_max: usize) -> Self {
        Self {
            file: None,
            umask: None,
            group: None,
            clients_max: 10,
            receive_bytes_max: 4096,
            send_bytes_max,
        }
    }
}

/// Why the socket cannot be opened for those who are to use it; one line.
#[derive(Debug, Error)]
pub enum OpenError {
    /// It cannot be opened at all.
    #[error(transparent)]
    Listen(#[from] SocketError),
    /// The system could not say whether there is such a group.
    #[error("cannot look up group {0}: {1}")]
    Lookup(String, Errno),
    /// There is none.
    #[error("there is no group {0}: correct local_socket_gid")]
    NoGroup(String),
    /// The group may not have it.
    #[error("cannot give {} to group {group}: {error}", path.display())]
    Owner {
        /// The socket.
        path: PathBuf,
        /// `local_socket_gid`.
        group: String,
        /// What the system said.
        error: Errno,
    },
    /// Its mode cannot be set.
    #[error("cannot set the mode of {}: {error}", path.display())]
    Mode {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// What a daemon says to a command.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Answer {
    /// Said after `OK`.
    Text(String),
    /// Said after `Error`.
    Error(String),
    /// Say `OK`, then stop the daemon.
    ThenStop,
}

/// A daemon's side of the socket; every connection has a clone of it.
pub trait Desk: Clone + Send + Sync + 'static {
    /// Answers a command line, which has lost its end. `None` closes the connection silently: the
    /// daemon is about to end.
    fn answer(&self, line: &[u8]) -> impl Future<Output = Option<Answer>> + Send;

    /// Makes the daemon end; the client has had its answer.
    fn stop(&self) -> impl Future<Output = ()> + Send;
}

/// The open socket; its file is taken away with it.
#[derive(Debug)]
pub struct Local {
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
    /// Opens the socket at `path`. The caller holds the lock of the place.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(path: &Path, settings: &Settings) -> Result<Self, OpenError> {
        // The mode is widened last, when the group is the right one.
        let listener = socket::listen(path, 0o600)?;
        let limits = Limits {
            receive_bytes: settings.receive_bytes_max,
            send_bytes: settings.send_bytes_max,
        };
        let path = path.to_owned();
        let local = Self { listener, path, clients_max: settings.clients_max, limits };
        local.admit(settings)?;
        Ok(local)
    }

    fn admit(&self, settings: &Settings) -> Result<(), OpenError> {
        let path = || self.path.clone();
        if let Some(group) = &settings.group {
            chown(&self.path, None, Some(find_group(group)?))
                .map_err(|error| OpenError::Owner { path: path(), group: group.clone(), error })?;
        }
        let mode = settings.umask.map_or(MODE, |mask| 0o777 & !mask);
        std::fs::set_permissions(&self.path, std::fs::Permissions::from_mode(mode))
            .map_err(|error| OpenError::Mode { path: path(), error })
    }

    /// Serves commands for ever.
    pub async fn serve(self, desk: impl Desk) {
        let mut clients = JoinSet::new();
        let max = self.clients_max;
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) if max == 0 || clients.len() < max => {
                        let talk = converse(stream, self.limits, desk.clone());
                        clients.spawn(timeout(CLIENT_LIMIT, talk));
                    }
                    Ok(_) => warn!("a local client over the limit of {max} is refused"),
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

fn find_group(group: &str) -> Result<Gid, OpenError> {
    if let Ok(number) = group.parse() {
        return Ok(Gid::from_raw(number));
    }
    match Group::from_name(group) {
        Ok(Some(found)) => Ok(found.gid),
        Ok(None) => Err(OpenError::NoGroup(group.to_owned())),
        Err(error) => Err(OpenError::Lookup(group.to_owned(), error)),
    }
}

async fn converse(mut stream: UnixStream, limits: Limits, desk: impl Desk) {
    let line = match Lines::new(&mut stream, limits.receive_bytes).next().await {
        Ok(Some(line)) if line.len() < limits.receive_bytes => line,
        Ok(_) | Err(_) => {
            debug!("a local client sent no command, or too long a one");
            return;
        }
    };
    let Some(answer) = desk.answer(&line).await else { return };
    let stop = answer == Answer::ThenStop;
    let text = match answer {
        Answer::Text(text) if text.len() + 3 > limits.send_bytes => {
            "Error\nInternal IPC buffer too small\n".to_owned()
        }
        Answer::Text(text) => format!("OK\n{text}"),
        Answer::Error(text) => format!("Error\n{text}\n"),
        Answer::ThenStop => "OK\n".to_owned(),
    };
    if stream.write_all(text.as_bytes()).await.is_err() {
        debug!("a local client left before its answer");
    }
    drop(stream);
    // What was asked for is done, heard or not.
    if stop {
        desk.stop().await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::sync::mpsc;

    use super::*;

    #[derive(Clone)]
    struct Echo(mpsc::Sender<()>);

    impl Desk for Echo {
        async fn answer(&self, line: &[u8]) -> Option<Answer> {
            match line {
                b"stop" => Some(Answer::ThenStop),
                b"silent" => None,
                b"wrong" => Some(Answer::Error("no".to_owned())),
                _ => Some(Answer::Text(String::from_utf8_lossy(line).into_owned())),
            }
        }

        async fn stop(&self) {
            self.0.send(()).await.unwrap();
        }
    }

    struct Served {
        path: PathBuf,
        stopped: mpsc::Receiver<()>,
        task: tokio::task::JoinHandle<()>,
    }

    fn place(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("host-local-{name}-{}", std::process::id()))
    }

    fn serve(name: &str, settings: &Settings) -> Served {
        let path = place(name);
        let local = Local::open(&path, settings).unwrap();
        let (stop, stopped) = mpsc::channel(1);
        Served { path, stopped, task: tokio::spawn(local.serve(Echo(stop))) }
    }

    async fn ask(path: &Path, line: &str) -> String {
        let asked = async {
            let mut stream = UnixStream::connect(path).await.unwrap();
            // Who is refused is closed at once, and what it wrote resets the connection.
            let _ = stream.write_all(line.as_bytes()).await;
            let mut answer = String::new();
            let _ = stream.read_to_string(&mut answer).await;
            answer
        };
        timeout(Duration::from_secs(20), asked).await.unwrap()
    }

    #[tokio::test]
    async fn commands_are_answered_in_the_stock_form() {
        let limits = Settings { receive_bytes_max: 8, send_bytes_max: 8, ..Settings::new(0) };
        let mut served = serve("form", &limits);
        assert_eq!(ask(&served.path, "hello\n").await, "OK\nhello");
        assert_eq!(ask(&served.path, "hello!\n").await, "Error\nInternal IPC buffer too small\n");
        assert_eq!(ask(&served.path, "wrong\n").await, "Error\nno\n");
        assert_eq!(ask(&served.path, "silent\n").await, "");
        assert_eq!(ask(&served.path, "too long\n").await, "");
        assert!(served.stopped.try_recv().is_err());
        assert_eq!(ask(&served.path, "stop\n").await, "OK\n");
        timeout(Duration::from_secs(20), served.stopped.recv()).await.unwrap().unwrap();
        served.task.abort();
        assert!(served.task.await.unwrap_err().is_cancelled());
        assert!(!served.path.exists());
    }

    #[tokio::test]
    async fn more_clients_than_allowed_are_closed() {
        let served = serve("full", &Settings { clients_max: 1, ..Settings::new(64) });
        let held = UnixStream::connect(&served.path).await.unwrap();
        assert_eq!(ask(&served.path, "x\n").await, "");
        drop(held);
        // The place is free when the end of the connection has been noticed.
        let free = async { while ask(&served.path, "x\n").await.is_empty() {} };
        timeout(Duration::from_secs(20), free).await.unwrap();
    }

    #[tokio::test]
    async fn a_mask_sets_the_mode_and_an_unknown_group_is_refused() {
        let path = place("mode");
        let mode =
            |local: &Local| std::fs::metadata(&local.path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&Local::open(&path, &Settings::new(64)).unwrap()), 0o660);
        let masked = Settings { umask: Some(0o77), ..Settings::new(64) };
        assert_eq!(mode(&Local::open(&path, &masked).unwrap()), 0o700);
        let group = Some("no such group".to_owned());
        let refused = Local::open(&path, &Settings { group, ..Settings::new(64) }).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "there is no group no such group: correct local_socket_gid"
        );
        assert!(!path.exists());
    }
}
