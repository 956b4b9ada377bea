//! One client's connection: bytes in one direction, messages in the other.
//!
//! A connection takes one message at a time and reads on only when the machine has dealt with it.
//! So no byte behind a StartTLS is ever taken for plain text, a client cannot fill a queue faster
//! than it is answered, and every client has its turn.

use std::io::Cursor;
use std::time::Duration;

use certs::{AcceptError, ArbiterTls, TlsStream};
use protocol::ids::ClusterName;
use protocol::qnet::{Deframer, Frame, FrameError, Message, MessageType};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tracing::{debug, info};

use crate::core::{ClientId, Peer};

/// Bytes per read.
const READ_BYTES: usize = 4096;

/// How long a client that is closed may take to read what is queued for it.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// Characters of a name in the log: a client may say one as long as a message.
const NAME_CHARS_MAX: usize = 64;

/// Places in a client's queue beside the messages: one [`Command::StartTls`].
pub(super) const CONTROL_SLOTS: usize = 1;

/// What the daemon wants of a connection.
#[derive(Debug)]
pub(super) enum Command {
    /// Send a message.
    Send(Vec<u8>),
    /// Start the TLS handshake.
    StartTls(ArbiterTls),
}

/// What a connection tells the daemon.
#[derive(Debug)]
pub(super) enum Report {
    /// A message has come; the next is read when the daemon says so.
    Message(Frame),
    /// A message over the limit has come and gone; as above.
    TooLong,
    /// TLS is on.
    Secured(Option<Peer>),
    /// The connection is over.
    Gone(Gone),
}

/// A report, and whose it is.
pub(super) type Reported = (ClientId, Report);

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
pub(super) enum Gone {
    /// The client closed it.
    #[error("closed by the client")]
    Eof,
    /// It failed.
    #[error("the connection failed: {0}")]
    Io(#[from] std::io::Error),
    /// The TLS handshake failed.
    #[error("{0}")]
    Tls(#[from] AcceptError),
    /// The daemon wants it closed, or is gone itself.
    #[error("closed from here")]
    Closed,
}

/// A connection's end of its channels to the daemon.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) client: ClientId,
    pub(super) commands: mpsc::Receiver<Command>,
    /// The last message has been dealt with. Not said after a StartTLS that is followed.
    pub(super) read_on: mpsc::Receiver<()>,
    pub(super) closing: oneshot::Receiver<()>,
    pub(super) reports: mpsc::Sender<Reported>,
    pub(super) message_limit_bytes: u32,
    pub(super) handshake_limit: Duration,
}

/// Why a stream is left.
enum Leaving {
    /// TLS begins with these bytes and the ones that follow.
    StartTls(ArbiterTls, Vec<u8>),
    Gone(Gone),
}

impl Line {
    /// Serves a connection to its end.
    pub(super) async fn serve(mut self, mut socket: TcpStream) {
        let mut named = None;
        let gone = match self.converse(&mut socket, &mut named).await {
            Leaving::Gone(gone) => gone,
            Leaving::StartTls(tls, read_ahead) => {
                match self.secure(socket, tls, read_ahead, named).await {
                    Ok(mut stream) => match self.converse(&mut stream, &mut None).await {
                        Leaving::Gone(gone) => gone,
                        // The machine starts TLS once.
                        Leaving::StartTls(..) => Gone::Closed,
                    },
                    Err(gone) => gone,
                }
            }
        };
        // Nobody listens any more only when the whole daemon ends.
        let _ = self.reports.send((self.client, Report::Gone(gone))).await;
    }

    async fn secure(
        &mut self,
        socket: TcpStream,
        tls: ArbiterTls,
        read_ahead: Vec<u8>,
        named: Option<ClusterName>,
    ) -> Result<TlsStream<TcpStream>, Gone> {
        let address = socket.peer_addr()?;
        let mut stream = tokio::select! {
            accepted = tls.accept(socket, read_ahead, self.handshake_limit) => accepted?,
            _ = &mut self.closing => return Err(Gone::Closed),
        };
        let peer = stream.peer().map(|i| Peer {
            cluster: i.cluster.clone(),
            node: i.node,
            gateway: i.gateway,
        });
        let (ip, port, version) = (address.ip(), address.port(), stream.version());
        match (&peer, named) {
            // The machine would refuse it too. Here both names are known, for the log.
            (Some(peer), Some(said)) if peer.cluster != said => {
                let (said, certified) = (shortened(&said), shortened(&peer.cluster));
                // It is not told why, as by the stock daemon (wire 2.3).
                let _ = timeout(FLUSH_LIMIT, stream.shutdown()).await;
                return Err(AcceptError::OtherCluster { said, certified }.into());
            }
            (Some(peer), Some(_) | None) => {
                let cluster = shortened(&peer.cluster);
                info!("{ip}:{port}: {version} with a certificate for cluster {cluster:?}");
            }
            // A stranger does not fill the log.
            (None, Some(_) | None) => debug!("{ip}:{port}: {version} without a certificate"),
        }
        self.report(Report::Secured(peer)).await?;
        Ok(stream)
    }

    /// Carries messages until the stream is left. Reads only when there is nothing to write, or
    /// the client does not take it: then its answers pile up in its queue until that is full, and
    /// it is closed. `named` is set to the cluster that the client says it is of.
    async fn converse<S>(&mut self, stream: &mut S, named: &mut Option<ClusterName>) -> Leaving
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (mut reader, mut writer) = split(stream);
        let mut deframer = Deframer::new(self.message_limit_bytes);
        let mut input = Input { bytes: vec![0; READ_BYTES], start: 0, end: 0 };
        let mut output = Cursor::new(Vec::new());
        let mut flushed = true;
        // The daemon is still dealing with the last message.
        let mut busy = false;
        loop {
            if !busy && let Some(report) = input.next_message(&mut deframer) {
                if let Report::Message(frame) = &report {
                    note_name(frame, named);
                }
                if let Err(gone) = self.report(report).await {
                    return Leaving::Gone(gone);
                }
                busy = true;
            }
            let result = tokio::select! {
                biased;
                _ = &mut self.closing => {
                    // A client that does not read in time loses what it did not read.
                    let _ = timeout(FLUSH_LIMIT, self.finish(&mut writer, output)).await;
                    return Leaving::Gone(Gone::Closed);
                }
                sent = send_some(&mut writer, &mut output), if !flushed => {
                    sent.map(|all| flushed = all)
                }
                command = self.commands.recv(), if flushed => match command {
                    Some(Command::Send(bytes)) => {
                        output = Cursor::new(bytes);
                        flushed = false;
                        Ok(())
                    }
                    Some(Command::StartTls(tls)) => {
                        return Leaving::StartTls(tls, input.rest().to_vec());
                    }
                    None => return Leaving::Gone(Gone::Closed),
                },
                Some(()) = self.read_on.recv(), if busy => {
                    busy = false;
                    Ok(())
                }
                read = reader.read(&mut input.bytes), if !busy => match read {
                    Ok(0) => return Leaving::Gone(Gone::Eof),
                    Ok(count) => {
                        (input.start, input.end) = (0, count);
                        Ok(())
                    }
                    Err(error) => Err(error),
                },
            };
            if let Err(error) = result {
                return Leaving::Gone(Gone::Io(error));
            }
        }
    }

    /// Writes what is queued and ends the stream.
    async fn finish<W: AsyncWrite + Unpin>(
        &mut self,
        writer: &mut W,
        mut output: Cursor<Vec<u8>>,
    ) -> std::io::Result<()> {
        writer.write_all_buf(&mut output).await?;
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Send(bytes) => writer.write_all(&bytes).await?,
                Command::StartTls(_) => {}
            }
        }
        writer.shutdown().await
    }

    async fn report(&self, report: Report) -> Result<(), Gone> {
        self.reports.send((self.client, report)).await.map_err(|_| Gone::Closed)
    }
}

/// Writes some of `output`, or makes sure that what was written leaves; true after the latter.
/// Cancel safe: what was written is counted in `output`.
async fn send_some<W: AsyncWrite + Unpin>(
    writer: &mut W,
    output: &mut Cursor<Vec<u8>>,
) -> std::io::Result<bool> {
    if output.position() == output.get_ref().len() as u64 {
        return writer.flush().await.map(|()| true);
    }
    match writer.write_buf(output).await? {
        0 => Err(std::io::ErrorKind::WriteZero.into()),
        _ => Ok(false),
    }
}

/// Keeps the cluster's name of a Preinit.
fn note_name(frame: &Frame, named: &mut Option<ClusterName>) {
    if frame.kind == MessageType::Preinit as u16
        && let Ok(preinit) = Message::decode(frame)
    {
        *named = preinit.options.cluster_name.or(named.take());
    }
}

/// A name as far as it belongs into a line of the log.
fn shortened(name: &ClusterName) -> String {
    name.to_string().chars().take(NAME_CHARS_MAX).collect()
}

/// Bytes that were read and not yet cut into messages.
struct Input {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Input {
    fn rest(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Takes bytes up to the end of the next message.
    fn next_message(&mut self, deframer: &mut Deframer) -> Option<Report> {
        if self.start == self.end {
            return None;
        }
        let (taken, message) = deframer.feed(self.rest());
        self.start += taken;
        match message? {
            Ok(frame) => Some(Report::Message(frame)),
            Err(FrameError::TooLong { .. }) => Some(Report::TooLong),
        }
    }
}
