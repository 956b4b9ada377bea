//! One client and its connection to the stock arbiter: every byte goes on as it came.
//!
//! A message is passed on when it is complete, so that a StartTLS can be held back until the
//! client has shown who it is; one over [`HELD_BYTES`] is passed on in pieces. The machine is told
//! of a message before it goes on, so that it knows of a request before it knows of the answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use certs::{AcceptError, ConnectError};
use protocol::qnet::{Deframer, Frame, Message, MessageType};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::timeout;

use super::credentials::Credentials;
use crate::core::Peer;
use crate::shadow::core::PairId;

/// Bytes per read.
const READ_BYTES: usize = 4096;

/// A longer message is not held back; the stock daemons' limit is 32 KiB (wire 1.2).
const HELD_BYTES: usize = 64 << 10;

/// Messages up to this size are shown to the machine.
const SHOWN_BYTES: u32 = 64 << 10;

/// How long the stock arbiter may take to accept a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// How long an end that is closed may take to read what was sent.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// What a pair tells the daemon.
#[derive(Debug)]
pub(super) enum Report {
    /// The stock arbiter has accepted the connection.
    Opened,
    /// TLS is on, on both sides.
    Secured(Option<Peer>),
    /// A message on its way to the stock arbiter.
    FromClient(Frame),
    /// A message on its way to the client.
    FromStock(Frame),
    /// Both connections are over.
    Gone(Gone),
}

/// A report, and whose it is.
pub(super) type Reported = (PairId, Report);

/// Why a pair is over.
#[derive(Debug, thiserror::Error)]
pub(super) enum Gone {
    #[error("closed by the client")]
    ByClient,
    #[error("closed by the stock arbiter")]
    ByStock,
    #[error("the client's connection failed: {0}")]
    Client(std::io::Error),
    #[error("the connection to the stock arbiter failed: {0}")]
    Stock(std::io::Error),
    #[error("cannot connect to the stock arbiter: {0}; is it running, and --shadow right?")]
    NoStock(std::io::Error),
    #[error("{0}")]
    Accept(#[from] AcceptError),
    #[error("the stock arbiter: {0}")]
    Connect(#[from] ConnectError),
    #[error("no certificate for the stock arbiter: {0:#}")]
    NoCertificate(anyhow::Error),
    #[error("the client asks for tls, which is off here (-s off)")]
    NoTls,
    #[error("the client asks for tls after its init, or again")]
    LateTls,
    #[error("the stock arbiter has not answered what came before the client's starttls")]
    NoAnswer,
    #[error("closed from here")]
    Closed,
}

/// A pair's end of its channels to the daemon.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) pair: PairId,
    pub(super) reports: mpsc::Sender<Reported>,
    pub(super) closing: oneshot::Receiver<()>,
    /// The stock arbiter's host and port.
    pub(super) stock: (String, u16),
    pub(super) credentials: Option<Arc<Credentials>>,
    pub(super) handshake_limit: Duration,
}

/// Why an exchange ends.
enum Leaving {
    /// The client has said StartTLS.
    StartTls(StartTls),
    Gone(Gone),
}

struct StartTls {
    message: Vec<u8>,
    /// What was read behind it: the beginning of the client's handshake.
    read_ahead: Vec<u8>,
}

/// What an exchange in plain text counts, to know when nothing is on its way.
#[derive(Debug, Default)]
struct Greeting {
    asked: AtomicU32,
    answered: AtomicU32,
    answer: Notify,
}

impl Line {
    /// Serves a pair to its end.
    pub(super) async fn serve(mut self, client: TcpStream) {
        let gone = self.relay(client).await;
        // Nobody listens any more only when the whole daemon ends.
        let _ = self.reports.send((self.pair, Report::Gone(gone))).await;
    }

    async fn relay(&mut self, mut client: TcpStream) -> Gone {
        let (host, port) = (self.stock.0.as_str(), self.stock.1);
        let connected = timeout(CONNECT_LIMIT, TcpStream::connect((host, port))).await;
        let late = || std::io::ErrorKind::TimedOut.into();
        let mut stock = match connected.unwrap_or_else(|_| Err(late())) {
            Ok(stock) => stock,
            Err(error) => return Gone::NoStock(error),
        };
        // Without it the pair works as well, a little slower.
        let _ = stock.set_nodelay(true);
        if let Err(gone) = self.report(Report::Opened).await {
            return gone;
        }
        match self.exchange(&mut client, &mut stock, true).await {
            Leaving::Gone(gone) => gone,
            Leaving::StartTls(start) => match self.relay_securely(client, stock, start).await {
                Ok(gone) | Err(gone) => gone,
            },
        }
    }

    /// Both handshakes, the client's first: what it proves is what the stock arbiter is shown, and
    /// compares with what it says.
    async fn relay_securely(
        &mut self,
        client: TcpStream,
        mut stock: TcpStream,
        start: StartTls,
    ) -> Result<Gone, Gone> {
        let credentials = self.credentials.clone().ok_or(Gone::NoTls)?;
        let limit = self.handshake_limit;
        let accepting = credentials.accept.accept(client, start.read_ahead, limit);
        let mut client = tokio::select! {
            accepted = accepting => accepted?,
            _ = &mut self.closing => return Err(Gone::Closed),
        };
        let peer = client.peer().map(|i| Peer {
            cluster: i.cluster.clone(),
            node: i.node,
            gateway: i.gateway,
        });
        let proven = peer.as_ref().map(|peer| peer.cluster.clone());
        let tls = credentials.client(proven.as_ref()).map_err(Gone::NoCertificate)?;
        stock.write_all(&start.message).await.map_err(Gone::Stock)?;
        let mut stock = tokio::select! {
            connected = tls.connect(stock, limit) => connected?,
            _ = &mut self.closing => return Err(Gone::Closed),
        };
        self.report(Report::Secured(peer)).await?;
        match self.exchange(&mut client, &mut stock, false).await {
            Leaving::Gone(gone) => Ok(gone),
            Leaving::StartTls(_) => Err(Gone::LateTls),
        }
    }

    /// Carries messages in both directions until one end is closed, or TLS is to start.
    async fn exchange<C, S>(&mut self, client: &mut C, stock: &mut S, plain: bool) -> Leaving
    where
        C: AsyncRead + AsyncWrite + Unpin,
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let greeting = Greeting::default();
        let reports = (self.pair, self.reports.clone());
        let limit = self.handshake_limit;
        let leaving = {
            let (mut from_client, mut to_client) = split(&mut *client);
            let (mut from_stock, mut to_stock) = split(&mut *stock);
            let up = Upward { greeting: &greeting, reports: reports.clone(), plain, limit };
            tokio::select! {
                leaving = up.carry(&mut from_client, &mut to_stock) => leaving,
                gone = downward(&reports, &greeting, &mut from_stock, &mut to_client) => {
                    Leaving::Gone(gone)
                }
                _ = &mut self.closing => Leaving::Gone(Gone::Closed),
            }
        };
        if let Leaving::Gone(_) = &leaving {
            // Each end is told of the other's: a proper end for a proper end. One that does not
            // read in time loses what it did not read.
            let _ = timeout(FLUSH_LIMIT, client.shutdown()).await;
            let _ = timeout(FLUSH_LIMIT, stock.shutdown()).await;
        }
        leaving
    }

    async fn report(&self, report: Report) -> Result<(), Gone> {
        self.reports.send((self.pair, report)).await.map_err(|_| Gone::Closed)
    }
}

/// The way from the client to the stock arbiter.
struct Upward<'a> {
    greeting: &'a Greeting,
    reports: (PairId, mpsc::Sender<Reported>),
    /// TLS may still start.
    plain: bool,
    limit: Duration,
}

impl Upward<'_> {
    async fn carry<R, W>(self, from: &mut R, to: &mut W) -> Leaving
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut input = Input::new();
        let (mut is_named, mut is_greeted) = (false, false);
        loop {
            let piece = match input.next(from).await {
                Ok(Some(piece)) => piece,
                Ok(None) => return Leaving::Gone(Gone::ByClient),
                Err(error) => return Leaving::Gone(Gone::Client(error)),
            };
            if let Some(frame) = &piece.frame {
                match MessageType::from_u16(frame.kind) {
                    // Without a name the stock arbiter answers with an error, and so it may.
                    Some(MessageType::StartTls) if is_named => {
                        if !self.plain || is_greeted || !piece.is_whole {
                            return Leaving::Gone(Gone::LateTls);
                        }
                        return self.start_tls(piece.bytes, input.rest()).await;
                    }
                    Some(MessageType::Preinit) => {
                        let named = Message::decode(frame).ok();
                        is_named |= named.is_some_and(|m| m.options.cluster_name.is_some());
                    }
                    Some(MessageType::Init) => is_greeted = true,
                    Some(_) | None => {}
                }
                if self.report(frame).await.is_err() {
                    return Leaving::Gone(Gone::Closed);
                }
            }
            if piece.frame.is_some() || piece.is_skipped {
                self.greeting.asked.fetch_add(1, Ordering::Relaxed);
            }
            if let Err(error) = send(to, &piece.bytes).await {
                return Leaving::Gone(Gone::Stock(error));
            }
        }
    }

    /// Waits until the client has heard all answers to what it said in plain text.
    async fn start_tls(&self, message: Vec<u8>, read_ahead: Vec<u8>) -> Leaving {
        let quiet = async {
            while self.greeting.answered.load(Ordering::Relaxed)
                < self.greeting.asked.load(Ordering::Relaxed)
            {
                self.greeting.answer.notified().await;
            }
        };
        match timeout(self.limit, quiet).await {
            Ok(()) => Leaving::StartTls(StartTls { message, read_ahead }),
            Err(_) => Leaving::Gone(Gone::NoAnswer),
        }
    }

    async fn report(&self, frame: &Frame) -> Result<(), Gone> {
        let report = Report::FromClient(frame.clone());
        self.reports.1.send((self.reports.0, report)).await.map_err(|_| Gone::Closed)
    }
}

/// The way from the stock arbiter to the client.
async fn downward<R, W>(
    reports: &(PairId, mpsc::Sender<Reported>),
    greeting: &Greeting,
    from: &mut R,
    to: &mut W,
) -> Gone
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut input = Input::new();
    loop {
        let piece = match input.next(from).await {
            Ok(Some(piece)) => piece,
            Ok(None) => return Gone::ByStock,
            Err(error) => return Gone::Stock(error),
        };
        if let Some(frame) = piece.frame {
            let report = (reports.0, Report::FromStock(frame));
            if reports.1.send(report).await.is_err() {
                return Gone::Closed;
            }
        }
        if let Err(error) = send(to, &piece.bytes).await {
            return Gone::Client(error);
        }
        greeting.answered.fetch_add(1, Ordering::Relaxed);
        greeting.answer.notify_one();
    }
}

async fn send<W: AsyncWrite + Unpin>(to: &mut W, bytes: &[u8]) -> std::io::Result<()> {
    to.write_all(bytes).await?;
    to.flush().await
}

/// What goes on at once: a message, or a piece of a long one.
struct Piece {
    bytes: Vec<u8>,
    /// The message that is complete with it.
    frame: Option<Frame>,
    /// A message that is too long to be shown is complete with it.
    is_skipped: bool,
    /// Nothing of the message has gone on before.
    is_whole: bool,
}

/// Bytes cut into pieces.
struct Input {
    read: Vec<u8>,
    start: usize,
    end: usize,
    deframer: Deframer,
    held: Vec<u8>,
    is_whole: bool,
}

impl Input {
    fn new() -> Self {
        Self {
            read: vec![0; READ_BYTES],
            start: 0,
            end: 0,
            deframer: Deframer::new(SHOWN_BYTES),
            held: Vec::new(),
            is_whole: true,
        }
    }

    fn rest(&self) -> Vec<u8> {
        self.read.get(self.start..self.end).unwrap_or_default().to_vec()
    }

    /// The next piece; `None` at the end of the stream, where a message that is not complete is
    /// nothing to anybody.
    async fn next<R: AsyncRead + Unpin>(&mut self, from: &mut R) -> std::io::Result<Option<Piece>> {
        loop {
            while self.start < self.end {
                let unread = self.read.get(self.start..self.end).unwrap_or_default();
                let (taken, message) = self.deframer.feed(unread);
                self.held.extend(unread.iter().take(taken));
                self.start += taken;
                let is_complete = message.is_some();
                if is_complete || self.held.len() > HELD_BYTES {
                    let bytes = std::mem::take(&mut self.held);
                    let is_whole = std::mem::replace(&mut self.is_whole, is_complete);
                    let frame = message.and_then(Result::ok);
                    let is_skipped = is_complete && frame.is_none();
                    return Ok(Some(Piece { bytes, frame, is_skipped, is_whole }));
                }
            }
            let count = from.read(&mut self.read).await?;
            if count == 0 {
                return Ok(None);
            }
            (self.start, self.end) = (0, count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn pieces(stream: &[u8]) -> Vec<Piece> {
        let (mut input, mut from) = (Input::new(), stream);
        let mut pieces = Vec::new();
        while let Ok(Some(piece)) = input.next(&mut from).await {
            pieces.push(piece);
        }
        pieces
    }

    #[tokio::test]
    async fn every_byte_of_every_complete_message_goes_on_unchanged() {
        let unknown = Frame { kind: 99, body: vec![5; 300] }.encode();
        let long = Frame { kind: 8, body: vec![6; 200_000] }.encode();
        let echo = Message::new(MessageType::EchoRequest, Some(7)).encode();
        let stream = [unknown, long, echo.clone()].concat();
        let pieces = pieces(&stream).await;
        let bytes: Vec<u8> = pieces.iter().flat_map(|piece| piece.bytes.clone()).collect();
        assert!(bytes == stream);
        assert!(pieces.iter().all(|piece| piece.bytes.len() <= HELD_BYTES + READ_BYTES));
        let last = pieces.last().unwrap();
        assert_eq!((&last.bytes, last.is_whole), (&echo, true));
        assert_eq!(pieces.iter().filter(|piece| piece.is_skipped).count(), 1);
    }

    #[tokio::test]
    async fn a_message_that_is_not_complete_is_held_back() {
        let mut stream = Message::new(MessageType::StartTls, Some(2)).encode();
        stream.pop();
        assert!(pieces(&stream).await.is_empty());
    }
}
