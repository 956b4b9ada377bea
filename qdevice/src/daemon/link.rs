//! The connection to the arbiter: bytes in one direction, messages in the other.
//!
//! It is a task of its own, so that a slow name service, handshake or arbiter delays nothing. It
//! ends with [`Report::Closed`]. When the daemon drops its end, what is queued is still sent and
//! the connection closed in order (with a close_notify, so that the arbiter can tell it from a
//! connection that was cut), for [`FAREWELL_LIMIT`] at most.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use protocol::qnet::{Deframer, Frame, FrameError, Message, MessageType};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tracing::{info, warn};

use super::Happening;
use super::credentials::Clients;
use crate::config::Options;
use crate::resolve::{self, Target};

/// Bytes per read.
const READ_BYTES: usize = 4096;

/// How long a connection that was given up may take to send its last words and to see that the
/// arbiter has closed it too. Closing before that could cost the words: what the arbiter sends in
/// between would be answered with a reset.
const FAREWELL_LIMIT: Duration = Duration::from_secs(1);

/// Why a connection ends that the daemon has given up.
const CLOSED_HERE: &str = "closed from here";

/// What the daemon wants of the connection.
#[derive(Debug)]
enum Command {
    Send(Vec<u8>),
    StartTls,
}

/// What the connection tells the daemon.
#[derive(Debug)]
pub(super) enum Report {
    /// It stands.
    Connected,
    /// TLS is on.
    Secured,
    /// A message has come.
    Message(Frame),
    /// It is over, or was never made.
    Closed(String),
}

/// Whom to call, and how.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) target: Target,
    pub(super) ip_version: u8,
    pub(super) limit: Duration,
}

/// The daemon's end of a connection; dropping it closes the connection.
#[derive(Debug)]
pub(super) struct Link {
    /// Tells this connection's reports from those of earlier ones.
    pub(super) number: u64,
    commands: mpsc::Sender<Command>,
    /// Closed with this end.
    _held: watch::Sender<()>,
}

impl Link {
    pub(super) fn open(
        number: u64,
        call: Call,
        clients: Arc<Clients>,
        options: Arc<Options>,
        reports: mpsc::Sender<Happening>,
    ) -> Self {
        // One more place for StartTls.
        let (commands, received) = mpsc::channel(options.max_send_buffers + 1);
        let (held, holder) = watch::channel(());
        let end = Line { number, commands: received, holder, reports, clients, options };
        tokio::spawn(end.serve(call));
        Self { number, commands, _held: held }
    }

    /// Queues a message; false if the queue is full or the connection is over.
    #[must_use]
    pub(super) fn send(&self, message: Vec<u8>) -> bool {
        self.commands.try_send(Command::Send(message)).is_ok()
    }

    /// Starts TLS behind what is queued; false as in [`Link::send`].
    #[must_use]
    pub(super) fn start_tls(&self) -> bool {
        self.commands.try_send(Command::StartTls).is_ok()
    }
}

/// The task's end.
struct Line {
    number: u64,
    commands: mpsc::Receiver<Command>,
    holder: watch::Receiver<()>,
    reports: mpsc::Sender<Happening>,
    clients: Arc<Clients>,
    options: Arc<Options>,
}

impl Line {
    async fn serve(mut self, call: Call) {
        let dropped = dropped(self.holder.clone());
        let given_up = async {
            dropped.await;
            sleep(FAREWELL_LIMIT).await;
        };
        let (number, reports) = (self.number, self.reports.clone());
        let reason = tokio::select! {
            Err(reason) = self.converse(call) => reason,
            () = given_up => CLOSED_HERE.to_owned(),
        };
        report(&reports, number, Report::Closed(reason)).await;
    }

    async fn converse(&mut self, call: Call) -> Result<std::convert::Infallible, String> {
        let connected = resolve::connect(&call.target, call.ip_version, call.limit);
        let mut socket = self.unless_dropped(connected).await?;
        report(&self.reports, self.number, Report::Connected).await;
        self.carry(&mut socket).await?;
        // What else came in plain text is forgotten with the first deframer: an answer that was
        // injected before TLS must not count after it.
        let clients = Arc::clone(&self.clients);
        let secured = self.unless_dropped(async {
            let client = clients.client().await?;
            client.connect(socket, call.limit).await.map_err(|error| error.to_string())
        });
        let mut stream = secured.await?;
        let version = stream.get_ref().1.protocol_version().and_then(|version| version.as_str());
        // The library's names are identifiers: TLSv1_3.
        let version = version.unwrap_or("tls").replace('_', ".");
        info!("{version} with the arbiter at {}", call.target);
        report(&self.reports, self.number, Report::Secured).await;
        self.carry(&mut stream).await?;
        Err("tls was asked for twice".to_owned())
    }

    /// Nothing has been said on a connection that is only being made, so it needs no farewell.
    async fn unless_dropped<T>(
        &self,
        making: impl Future<Output = Result<T, String>>,
    ) -> Result<T, String> {
        tokio::select! {
            made = making => made,
            () = dropped(self.holder.clone()) => Err(CLOSED_HERE.to_owned()),
        }
    }

    /// Carries messages until TLS is asked for, or to the end of the connection.
    async fn carry<S>(&mut self, stream: &mut S) -> Result<(), String>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (reader, writer) = split(stream);
        let limit = AtomicU32::new(self.options.initial_send_bytes);
        let receive = receive(reader, &limit, &self.options, (self.number, &self.reports));
        tokio::select! {
            reason = receive => Err(reason),
            sent = send(writer, &mut self.commands, &limit) => sent,
        }
    }
}

async fn send<W: AsyncWrite + Unpin>(
    mut writer: W,
    commands: &mut mpsc::Receiver<Command>,
    limit: &AtomicU32,
) -> Result<(), String> {
    loop {
        match commands.recv().await {
            Some(Command::Send(message)) => {
                let limit = limit.load(Ordering::Relaxed);
                if message.len() as u64 > u64::from(limit) {
                    let bytes = message.len();
                    return Err(format!(
                        "a message of {bytes} bytes is over the arbiter's limit of {limit}: raise \
                         max_client_receive_size there"
                    ));
                }
                let written = writer.write_all(&message).await;
                let flushed = match written {
                    Ok(()) => writer.flush().await,
                    Err(error) => Err(error),
                };
                flushed.map_err(|error| format!("cannot send to the arbiter: {error}"))?;
            }
            Some(Command::StartTls) => return Ok(()),
            // The end is the arbiter's close, which is received, or the limit.
            None => {
                let closed = writer.shutdown().await;
                closed.map_err(|error| format!("cannot close the connection: {error}"))?;
                std::future::pending().await
            }
        }
    }
}

/// Reads messages to the end of the connection, and says why it ended.
async fn receive<R: AsyncRead + Unpin>(
    mut reader: R,
    send_limit: &AtomicU32,
    options: &Options,
    (number, reports): (u64, &mpsc::Sender<Happening>),
) -> String {
    let mut deframer = Deframer::new(options.initial_receive_bytes);
    let mut bytes = vec![0; READ_BYTES];
    loop {
        let mut rest = match reader.read(&mut bytes).await {
            Ok(0) => return "the arbiter closed the connection: see its log".to_owned(),
            Ok(count) => &bytes[..count],
            Err(error) => return format!("the connection to the arbiter failed: {error}"),
        };
        while !rest.is_empty() {
            let (taken, message) = deframer.feed(rest);
            rest = &rest[taken..];
            match message {
                Some(Ok(frame)) => {
                    learn_limits(&frame, options, &mut deframer, send_limit);
                    report(reports, number, Report::Message(frame)).await;
                }
                Some(Err(FrameError::TooLong { kind, total_bytes })) => {
                    return format!(
                        "the arbiter sent a message of type {kind} and {total_bytes} bytes, which \
                         is over the limit: raise net_max_msg_receive_size"
                    );
                }
                None => {}
            }
        }
    }
}

/// Takes over the sizes that an Init reply states, within our own bounds (wire 1.2).
fn learn_limits(frame: &Frame, options: &Options, deframer: &mut Deframer, send_limit: &AtomicU32) {
    if frame.kind != MessageType::InitReply as u16 {
        return;
    }
    // What makes no sense is judged by the machine.
    let Ok(reply) = Message::decode(frame).map(|message| message.options) else { return };
    if let Some(bytes) = reply.max_request_bytes {
        if bytes < options.min_send_bytes {
            warn!(
                "the arbiter takes messages of at most {bytes} bytes, less than \
                 net_min_msg_send_size: raise max_client_receive_size there"
            );
        }
        send_limit.store(bytes, Ordering::Relaxed);
    }
    if let Some(bytes) = reply.max_reply_bytes {
        deframer.set_limit(bytes.min(options.max_receive_bytes));
    }
}

/// Waits until the daemon has dropped its end.
async fn dropped(mut holder: watch::Receiver<()>) {
    // Nothing is ever sent; an error says that the sender is gone.
    while holder.changed().await.is_ok() {}
}

async fn report(reports: &mpsc::Sender<Happening>, number: u64, report: Report) {
    // Nobody listens any more only when the whole daemon ends.
    let _ = reports.send(Happening::Arbiter(number, report)).await;
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::timeout;

    use super::*;

    /// More than anything here takes.
    const PATIENCE: Duration = Duration::from_secs(30);

    struct Wire {
        link: Link,
        arbiter: TcpStream,
        inbox: mpsc::Receiver<Happening>,
    }

    async fn connect() -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let target = Target { host: "127.0.0.1".to_owned(), port };
        let call = Call { target, ip_version: 4, limit: PATIENCE };
        let (reports, mut inbox) = mpsc::channel(16);
        let options = Arc::new(Options::default());
        let clients = Arc::new(Clients::new(Arc::clone(&options)));
        let link = Link::open(7, call, clients, options, reports);
        let (arbiter, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
        let connected = timeout(PATIENCE, inbox.recv()).await.unwrap();
        assert!(matches!(connected, Some(Happening::Arbiter(7, Report::Connected))));
        Wire { link, arbiter, inbox }
    }

    #[tokio::test]
    async fn what_is_queued_is_sent_before_the_end() {
        let Wire { link, mut arbiter, mut inbox } = connect().await;
        for byte in 0..10 {
            assert!(link.send(vec![byte; 30_000]));
        }
        drop(link);
        let mut received = Vec::new();
        let read = timeout(PATIENCE, arbiter.read_to_end(&mut received)).await.unwrap();
        assert_eq!(read.unwrap(), 300_000);
        assert!(received.is_sorted());
        drop(arbiter);
        let Some(Happening::Arbiter(7, Report::Closed(reason))) = inbox.recv().await else {
            panic!("not closed");
        };
        assert_eq!(reason, "the arbiter closed the connection: see its log");
    }

    #[tokio::test]
    async fn an_arbiter_that_does_not_close_is_given_up_after_the_limit() {
        let Wire { link, arbiter, mut inbox } = connect().await;
        drop(link);
        let report = timeout(PATIENCE, inbox.recv()).await.unwrap();
        let Some(Happening::Arbiter(7, Report::Closed(reason))) = report else {
            panic!("{report:?}");
        };
        assert_eq!(reason, CLOSED_HERE);
        drop(arbiter);
    }
}
