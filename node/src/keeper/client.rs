//! The node daemon's end of the conversation with its keeper.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use protocol::times;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::Child;
use tokio::time::{sleep, timeout};

use super::message::{self, Command, Decoder, LineError, Report, State, VERSION};
use super::{EXIT_LOCKED, Options, READY, SOCKET};

/// A keeper answers within this, or something is wrong with it.
const ANSWER: Duration = Duration::from_secs(5);
/// A keeper that is ending is waited for this often, this long apart.
const ATTEMPTS: u32 = 100;
const ATTEMPT_AGAIN: Duration = Duration::from_millis(50);
/// Why a keeper that guards what others started is not taken over.
const ARMED_BY_ANOTHER: &str = "it is armed for services on corosync: stop what uses corosync, then \
     corosync, and let the guard that has armed it end it";
/// The first line of a keeper is no longer than this.
const FIRST_LINE_LIMIT: u64 = 8 * 1024;

/// Why there is no keeper to talk to.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The program could not be started.
    #[error("{}: cannot start the keeper: {error}", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// Another keeper has the run directory, and does not listen.
    #[error("the keeper does not start: {0}")]
    Locked(String),
    /// The keeper has said why it does not run.
    #[error("the keeper does not start: {0}")]
    Failed(String),
    /// The keeper refuses this daemon.
    #[error("the keeper refuses: {0}")]
    Refused(String),
    /// The connection is gone; services end at the deadline that the keeper has been told last.
    #[error("the keeper's socket: {0}")]
    Socket(#[from] io::Error),
    /// The keeper says what is no message.
    #[error("the keeper's socket: {0}")]
    Line(#[from] LineError),
    /// The keeper has closed the connection.
    #[error("the keeper has closed the connection")]
    Closed,
    /// No answer.
    #[error("the keeper has not {0} in time")]
    Late(&'static str),
}

/// A connection to the keeper.
#[derive(Debug)]
pub struct KeeperClient {
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    decoder: Decoder,
    /// Collected when it ends, if it is a child of this process.
    child: Option<Child>,
}

impl KeeperClient {
    /// Connects to the keeper of the run directory, or starts `program` with `options` if there
    /// is none. Whatever an earlier daemon, or an earlier keeper, left running is stopped and
    /// proven before this returns: the state says `stopped_proven`. Nobody's deadline has moved.
    ///
    /// A keeper that speaks another version of the conversation is ended cleanly and replaced.
    ///
    /// # Errors
    /// Every [`ClientError`]; [`ClientError::Refused`] where another daemon is connected.
    pub async fn spawn_or_adopt(
        program: &Path,
        options: &Options,
    ) -> Result<(Self, State), ClientError> {
        let mut attempts = 0;
        let (mut client, mut state) = loop {
            attempts += 1;
            match Self::greet(program, options).await {
                // A keeper that is ending still has its lock, or still takes connections.
                Err(ClientError::Closed | ClientError::Locked(_)) if attempts < ATTEMPTS => {
                    sleep(ATTEMPT_AGAIN).await;
                }
                answer => break answer?,
            }
        };
        if state.outside && state.armed {
            return Err(ClientError::Refused(ARMED_BY_ANOTHER.to_owned()));
        }
        if state.version != VERSION || state.outside {
            client.send(&Command::Farewell).await?;
            client.gone().await?;
            (client, state) = Self::greet(program, options).await?;
        }
        if !state.stopped_proven || state.entitled_ms > 0 {
            client.send(&Command::Stop).await?;
            // Without an entitlement the keeper forces the end by itself; with one, it has its
            // time to the end of it.
            let entitled = Duration::from_millis(state.entitled_ms);
            let patience = entitled + options.watchdog + times::STOP_PROOF + ANSWER;
            let proven = timeout(patience, client.stopped()).await;
            proven.map_err(|_| ClientError::Late("proven a full stop"))??;
            state = client.hello().await?;
        }
        Ok((client, state))
    }

    /// Connects to the keeper of the run directory that guards what others start, with its
    /// entitlement as it is, or starts one.
    ///
    /// # Errors
    /// Every [`ClientError`]; [`ClientError::Refused`] for a keeper that another version has armed.
    pub async fn adopt(program: &Path, options: &Options) -> Result<(Self, State), ClientError> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            match Self::greet(program, options).await {
                Err(ClientError::Closed | ClientError::Locked(_)) if attempts < ATTEMPTS => {
                    sleep(ATTEMPT_AGAIN).await;
                }
                Err(error) => return Err(error),
                Ok((client, state)) if state.outside && state.version == VERSION => {
                    return Ok((client, state));
                }
                Ok((_, state)) if state.outside && state.armed => {
                    return Err(ClientError::Refused(ARMED_BY_ANOTHER.to_owned()));
                }
                // One that runs services of its own stops them, and ends.
                Ok((client, _)) => client.farewell().await?,
            }
        }
    }

    /// Connects to a running keeper.
    ///
    /// # Errors
    /// Those of connect(2).
    pub async fn connect(run_dir: &Path) -> Result<Self, ClientError> {
        let (reader, writer) = UnixStream::connect(run_dir.join(SOCKET)).await?.into_split();
        Ok(Self { reader, writer, decoder: Decoder::default(), child: None })
    }

    /// Tells the keeper.
    ///
    /// # Errors
    /// Those of the socket, and [`LineError::TooLong`].
    pub async fn send(&mut self, command: &Command) -> Result<(), ClientError> {
        let line = message::encode(command)?;
        Ok(self.writer.write_all(&line).await?)
    }

    /// The next report; none once the keeper has closed the connection. Nothing is lost if the
    /// future is dropped before it is ready.
    ///
    /// # Errors
    /// Those of the socket, and bytes that are no report.
    pub async fn recv(&mut self) -> Result<Option<Report>, ClientError> {
        let mut chunk = [0; 4096];
        loop {
            if let Some(report) = self.decoder.next_message()? {
                return Ok(Some(report));
            }
            match self.reader.read(&mut chunk).await {
                Ok(0) => return Ok(None),
                Ok(length) => self.decoder.push(&chunk[..length]),
                // A keeper that ended with something unread.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Says farewell and waits until the keeper has stopped everything, disarmed the watchdog
    /// and ended. What was entitled may go on to its own bound before it is forced.
    ///
    /// # Errors
    /// [`ClientError::Refused`] if the watchdog cannot be disarmed (the keeper stays), and those
    /// of the socket.
    pub async fn farewell(mut self) -> Result<(), ClientError> {
        self.send(&Command::Farewell).await?;
        self.gone().await
    }

    /// Finds or makes a keeper and asks for its state.
    async fn greet(program: &Path, options: &Options) -> Result<(Self, State), ClientError> {
        let mut client = match Self::connect(&options.run_dir).await {
            Ok(client) => client,
            Err(_) => Self::spawn(program, options).await?,
        };
        let state = client.hello().await?;
        Ok((client, state))
    }

    async fn spawn(program: &Path, options: &Options) -> Result<Self, ClientError> {
        let args: Vec<OsString> = options.to_args();
        let failed = |error| ClientError::Spawn { program: program.to_owned(), error };
        let mut child = tokio::process::Command::new(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(false)
            .spawn()
            .map_err(failed)?;
        let mut text = String::new();
        if let Some(stdout) = child.stdout.take() {
            // The keeper lets go of its standard output once it is ready.
            let mut first = stdout.take(FIRST_LINE_LIMIT);
            let read = timeout(ANSWER, first.read_to_string(&mut text)).await;
            read.map_err(|_| ClientError::Late("become ready"))?.map_err(failed)?;
        }
        let text = text.trim();
        if text != READY {
            let ended = timeout(ANSWER, child.wait()).await;
            let code = ended.ok().and_then(Result::ok).and_then(|status| status.code());
            let locked = code == Some(i32::from(EXIT_LOCKED));
            let failure = if locked { ClientError::Locked } else { ClientError::Failed };
            return Err(failure(text.to_owned()));
        }
        let mut client = Self::connect(&options.run_dir).await?;
        client.child = Some(child);
        Ok(client)
    }

    async fn hello(&mut self) -> Result<State, ClientError> {
        // Where the keeper has closed the connection already it has said why.
        let sent = self.send(&Command::Hello).await;
        let answer = timeout(ANSWER, async {
            loop {
                match self.recv().await? {
                    Some(Report::State(state)) => return Ok(state),
                    Some(Report::Refused { reason, .. }) => {
                        return Err(ClientError::Refused(reason));
                    }
                    Some(
                        Report::Started { .. }
                        | Report::Exited { .. }
                        | Report::StoppedProven
                        | Report::Forced { .. },
                    ) => {}
                    None => return Err(sent.err().unwrap_or(ClientError::Closed)),
                }
            }
        });
        answer.await.map_err(|_| ClientError::Late("answered"))?
    }

    async fn stopped(&mut self) -> Result<(), ClientError> {
        loop {
            match self.recv().await? {
                Some(Report::StoppedProven) => return Ok(()),
                Some(
                    Report::State(_)
                    | Report::Started { .. }
                    | Report::Exited { .. }
                    | Report::Refused { .. }
                    | Report::Forced { .. },
                ) => {}
                None => return Err(ClientError::Closed),
            }
        }
    }

    async fn gone(&mut self) -> Result<(), ClientError> {
        loop {
            match self.recv().await? {
                Some(Report::Refused { serial: None, reason }) => {
                    return Err(ClientError::Refused(reason));
                }
                Some(
                    Report::State(_)
                    | Report::Started { .. }
                    | Report::Exited { .. }
                    | Report::StoppedProven
                    | Report::Refused { .. }
                    | Report::Forced { .. },
                ) => {}
                None => break,
            }
        }
        if let Some(mut child) = self.child.take() {
            let ended = timeout(ANSWER, child.wait()).await;
            ended.map_err(|_| ClientError::Late("ended"))??;
        }
        Ok(())
    }
}
