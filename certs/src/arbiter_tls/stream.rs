//! A TLS connection over any byte stream: [`TlsStream`].
//!
//! Bytes wait in three places, each bounded, each given back when empty, so that an idle
//! connection holds no buffer:
//! * `received`: from the socket, not yet decrypted; an incomplete record.
//! * `plain`: decrypted, not yet read. Nothing is received while it has something, so the
//!   reader's pace reaches the peer.
//! * `sending`: encrypted, not yet taken by the socket. No more is accepted from the writer
//!   while it has something, so the peer's pace reaches the writer.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::{fmt, future::poll_fn};

use rustls24::enums::ProtocolVersion;
use rustls24::{Connection, ServerConfig, ServerSide, SliceInput, Tcp};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::wakers::{SendWakers, Waiter};
use super::{AcceptError, peer_identity, refusal};
use crate::verify::Identity;

/// The most bytes that wait for decryption. A record has at most 18 437 (RFC 8446 5.2), and a
/// client's certificate message fits into the rest.
const RECEIVED_BYTES_MAX: usize = 32 * 1024;

/// Bytes per read from the socket, on the stack of the poll.
const READ_BYTES: usize = 4096;

/// The most bytes that one write takes: one record with all that encryption adds to it stays
/// below 2^14 bytes, where the library would begin a second (RFC 8446 5.1).
pub(super) const WRITE_BYTES_MAX: usize = 16_000;

/// The most bytes that wait to be sent: one full record and what the peer can provoke.
const SENDING_BYTES_MAX: usize = 32 * 1024;

/// A TLS connection whose handshake is over. Reading after the peer's `close_notify` gives the
/// end of the stream; a connection that ends without one is an [`io::ErrorKind::UnexpectedEof`]
/// error, since anyone on the way could have cut it. Shutting down sends our `close_notify`.
pub struct TlsStream<S> {
    io: S,
    tls: Connection<ServerSide, Tcp>,
    peer: Option<Identity>,
    received: Vec<u8>,
    plain: Vec<u8>,
    /// How much of `plain` has been read.
    plain_read: usize,
    sending: Vec<u8>,
    /// How much of `sending` the socket has taken.
    sent: usize,
    input: Input,
    /// Our `close_notify` has been written; nothing may follow it.
    closing: bool,
    /// Present while somebody waits for the socket to take more.
    wakers: Option<Arc<SendWakers>>,
}

/// What can still come from the peer.
#[derive(Debug)]
enum Input {
    Open,
    /// The peer said that it sends no more.
    Closed,
    /// The socket ended without the peer's saying so.
    Truncated,
    /// The peer broke the protocol; an alert has been queued.
    Broken(rustls24::Error),
}

impl<S> TlsStream<S> {
    /// A connection that has yet to shake hands.
    pub(super) fn new(
        io: S,
        read_ahead: Vec<u8>,
        config: Arc<ServerConfig>,
    ) -> Result<Self, AcceptError> {
        if read_ahead.len() > RECEIVED_BYTES_MAX {
            return Err(AcceptError::TooMuchReadAhead(read_ahead.len()));
        }
        Ok(Self {
            io,
            tls: Connection::<ServerSide, Tcp>::new(config).map_err(|error| refusal(&error))?,
            peer: None,
            received: read_ahead,
            plain: Vec::new(),
            plain_read: 0,
            sending: Vec::new(),
            sent: 0,
            input: Input::Open,
            closing: false,
            wakers: None,
        })
    }

    /// Who the client is; `None` where it showed no certificate.
    pub const fn peer(&self) -> Option<&Identity> {
        self.peer.as_ref()
    }

    /// The protocol version, for people: `TLSv1.3`.
    pub fn version(&self) -> &'static str {
        match self.tls.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            Some(_) | None => "unknown",
        }
    }

    /// The stream underneath.
    pub const fn get_ref(&self) -> &S {
        &self.io
    }

    /// Memory that is held for bytes on their way, in bytes.
    #[cfg(test)]
    pub(super) fn buffer_capacity(&self) -> usize {
        self.received.capacity() + self.plain.capacity() + self.sending.capacity()
    }

    /// Decrypts what has been received. Answers and alerts are added to `sending`.
    fn decrypt(&mut self) {
        let mut input = SliceInput::new(&mut self.received);
        let result = self.tls.read_tls(&mut input, &mut self.sending).handle_all(&mut self.plain);
        let used = input.into_used();
        if used >= self.received.len() {
            self.received = Vec::new();
        } else {
            self.received.drain(..used);
        }
        match result {
            Ok(state) if state.peer_has_closed() => self.input = Input::Closed,
            Ok(_) => {}
            Err(error) => self.input = Input::Broken(error),
        }
    }

    /// Moves decrypted bytes to the reader.
    fn take_plain(&mut self, buf: &mut ReadBuf<'_>) {
        let rest = &self.plain[self.plain_read..];
        let taken = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..taken]);
        self.plain_read += taken;
        if self.plain_read == self.plain.len() {
            self.plain = Vec::new();
            self.plain_read = 0;
        }
    }

    fn has_unsent(&self) -> bool {
        self.sent < self.sending.len()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream<S> {
    /// Shakes hands.
    pub(super) async fn handshake(&mut self) -> Result<(), AcceptError> {
        if !self.received.is_empty() {
            self.decrypt();
        }
        poll_fn(|cx| self.poll_handshake(cx)).await?;
        self.peer = match self.tls.peer_identity() {
            Some(peer) => Some(peer_identity(peer).map_err(AcceptError::Identity)?),
            None => None,
        };
        Ok(())
    }

    /// After a failed handshake: sends the alert that says why, and ends the connection. The
    /// client may not listen any more; nothing depends on it.
    pub(super) async fn send_alert(&mut self) {
        if poll_fn(|cx| self.poll_send(cx, Waiter::Writer)).await.is_ok() {
            let _ = poll_fn(|cx| Pin::new(&mut self.io).poll_shutdown(cx)).await;
        }
    }

    /// Ready when the handshake is over and everything it gave us to say has been sent. Receives
    /// also while sending is stuck: the client may read on only after we have read.
    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), AcceptError>> {
        loop {
            if let Input::Broken(error) = &self.input {
                return Poll::Ready(Err(refusal(error)));
            }
            let sent = self.poll_send(cx, Waiter::Writer)?;
            if !self.tls.is_handshaking() {
                return sent.map(Ok);
            }
            match self.input {
                Input::Open => ready!(self.poll_receive(cx))?,
                Input::Closed | Input::Truncated | Input::Broken(_) => {
                    return Poll::Ready(Err(AcceptError::Closed));
                }
            }
        }
    }

    /// Reads from the socket once and decrypts. Ready when something may have changed.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let room = RECEIVED_BYTES_MAX - self.received.len().min(RECEIVED_BYTES_MAX);
        if room == 0 {
            return Poll::Ready(Err(invalid("a message is longer than any client's")));
        }
        if self.sending.len() - self.sent > SENDING_BYTES_MAX {
            return Poll::Ready(Err(invalid("the peer provokes answers and reads none")));
        }
        let mut bytes = [0; READ_BYTES];
        let mut buf = ReadBuf::new(&mut bytes[..room.min(READ_BYTES)]);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut buf))?;
        if buf.filled().is_empty() {
            self.input = Input::Truncated;
        } else {
            self.received.extend_from_slice(buf.filled());
            self.decrypt();
        }
        Poll::Ready(Ok(()))
    }

    /// Gives the socket what waits to be sent. Ready when all of it has been taken.
    fn poll_send(&mut self, cx: &mut Context<'_>, waiter: Waiter) -> Poll<io::Result<()>> {
        if !self.has_unsent() {
            return Poll::Ready(Ok(()));
        }
        let wakers = Arc::clone(self.wakers.get_or_insert_default());
        wakers.register(waiter, cx.waker());
        let both = Waker::from(wakers);
        let mut cx = Context::from_waker(&both);
        while self.has_unsent() {
            let taken =
                ready!(Pin::new(&mut self.io).poll_write(&mut cx, &self.sending[self.sent..]));
            match taken {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(taken) => self.sent += taken,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        self.sending = Vec::new();
        self.sent = 0;
        // The other half may have waited for this.
        if let Some(wakers) = self.wakers.take() {
            match waiter {
                Waiter::Reader => wakers.wake_one(Waiter::Writer),
                Waiter::Writer => {}
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let me = &mut *self;
        loop {
            if me.has_unsent() {
                // A writer that never flushed, or an alert. A failure here is the writer's to
                // see: what the peer sent before may still be read.
                let _ = me.poll_send(cx, Waiter::Reader);
            }
            if me.plain_read < me.plain.len() {
                me.take_plain(buf);
                return Poll::Ready(Ok(()));
            }
            match &me.input {
                Input::Open => {}
                Input::Closed => return Poll::Ready(Ok(())),
                Input::Truncated => return Poll::Ready(Err(truncated())),
                Input::Broken(error) => return Poll::Ready(Err(invalid(error.clone()))),
            }
            if buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            ready!(me.poll_receive(cx))?;
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<S> {
    /// Takes at most one record's worth, and nothing while an earlier record waits. What has
    /// been taken is sent by the next write, flush, shutdown or read.
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let me = &mut *self;
        if me.closing {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        ready!(me.poll_send(cx, Waiter::Writer))?;
        let taken = &buf[..buf.len().min(WRITE_BYTES_MAX)];
        me.tls.write(taken.into(), &mut me.sending).map_err(invalid)?;
        match me.poll_send(cx, Waiter::Writer) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(taken.len())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx, Waiter::Writer))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let me = &mut *self;
        if !me.closing {
            me.closing = true;
            me.tls.send_close_notify(&mut me.sending).map_err(invalid)?;
        }
        ready!(me.poll_send(cx, Waiter::Writer))?;
        Pin::new(&mut me.io).poll_shutdown(cx)
    }
}

impl<S> fmt::Debug for TlsStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream")
            .field("peer", &self.peer)
            .field("version", &self.version())
            .field("input", &self.input)
            .finish_non_exhaustive()
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

fn truncated() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the connection ended without a tls close_notify: it was cut, or the peer died",
    )
}
