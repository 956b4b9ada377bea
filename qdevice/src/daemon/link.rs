//! The connection to the arbiter: bytes in one direction, messages in the other.
//!
//! It is a task of its own, so that a slow name service, handshake or arbiter delays nothing. It
//! ends with [`Report::Closed`], or silently when the daemon drops it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use protocol::qnet::{Deframer, Frame, FrameError, Message, MessageType};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tracing::warn;

use super::{Happening, credentials};
use crate::config::Options;
use crate::resolve::{self, Target};

/// Bytes per read.
const READ_BYTES: usize = 4096;

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
    task: AbortHandle,
}

impl Link {
    pub(super) fn open(
        number: u64,
        call: Call,
        options: Arc<Options>,
        reports: mpsc::Sender<Happening>,
    ) -> Self {
        // One more place for StartTls.
        let (commands, received) = mpsc::channel(options.max_send_buffers + 1);
        let end = Line { number, commands: received, reports, options };
        let task = tokio::spawn(end.serve(call)).abort_handle();
        Self { number, commands, task }
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

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The task's end.
struct Line {
    number: u64,
    commands: mpsc::Receiver<Command>,
    reports: mpsc::Sender<Happening>,
    options: Arc<Options>,
}

impl Line {
    async fn serve(mut self, call: Call) {
        let Err(reason) = self.converse(call).await;
        report(&self.reports, self.number, Report::Closed(reason)).await;
    }

    async fn converse(&mut self, call: Call) -> Result<std::convert::Infallible, String> {
        let mut socket = resolve::connect(&call.target, call.ip_version, call.limit).await?;
        report(&self.reports, self.number, Report::Connected).await;
        self.carry(&mut socket).await?;
        // What else came in plain text is forgotten with the first deframer: an answer that was
        // injected before TLS must not count after it.
        let client = credentials::client(Arc::clone(&self.options)).await?;
        let secured = client.connect(socket, call.limit).await;
        let mut stream = secured.map_err(|error| error.to_string())?;
        report(&self.reports, self.number, Report::Secured).await;
        self.carry(&mut stream).await?;
        Err("tls was asked for twice".to_owned())
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
            None => return Err("closed from here".to_owned()),
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

async fn report(reports: &mpsc::Sender<Happening>, number: u64, report: Report) {
    // Nobody listens any more only when the whole daemon ends.
    let _ = reports.send(Happening::Arbiter(number, report)).await;
}
