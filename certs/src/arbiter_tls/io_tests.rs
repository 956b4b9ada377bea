use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex,
};
use tokio::time::timeout;

use super::TlsStream;
use crate::arbiter_tls::{ArbiterTls, ClientCert};
use crate::fixtures::{PATIENCE, Site, cluster, connection};
use crate::issue::Kind;
use crate::tls::ClientStream;
use rustls::version::{TLS12, TLS13};

/// Bytes in which every loss, repetition and swap shows.
fn pattern(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

/// A connection, and between its ends a pipe that a test holds in its hands.
async fn tapped() -> (TlsStream<DuplexStream>, ClientStream<DuplexStream>, Tap) {
    let site = Site::new(Kind::Own);
    let arbiter: ArbiterTls = site.arbiter(ClientCert::Required);
    let (near, mut server_end) = duplex(65536);
    let (far, mut client_end) = duplex(65536);
    let client = site.client();
    let shaken = async {
        tokio::join!(arbiter.accept(near, Vec::new(), PATIENCE), client.connect(far, PATIENCE))
    };
    let (server, client) = tokio::select! {
        shaken = shaken => shaken,
        _ = tokio::io::copy_bidirectional(&mut server_end, &mut client_end) => {
            panic!("the pipe ended")
        }
    };
    (server.unwrap(), client.unwrap(), Tap { server_end, client_end })
}

struct Tap {
    server_end: DuplexStream,
    client_end: DuplexStream,
}

impl Tap {
    /// One message of the client, changed on its way to the server.
    async fn pass_on(&mut self, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = vec![0; 65536];
        let length = self.client_end.read(&mut bytes).await.unwrap();
        bytes.truncate(length);
        change(&mut bytes);
        self.server_end.write_all(&bytes).await.unwrap();
    }
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    timeout(PATIENCE, work).await.expect("no progress: a wake-up was lost")
}

#[tokio::test]
async fn a_close_notify_is_the_end_of_the_stream() {
    let (mut server, mut client) = connection(65536).await;
    client.write_all(b"last words").await.unwrap();
    client.shutdown().await.unwrap();
    let mut heard = Vec::new();
    server.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"last words");
    assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0, "and stays so");
}

#[tokio::test]
async fn a_connection_that_just_ends_is_an_error_after_its_data() {
    let (mut server, mut client) = connection(65536).await;
    client.write_all(b"last words").await.unwrap();
    client.flush().await.unwrap();
    drop(client);
    let mut heard = [0; 10];
    server.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"last words");
    for _ in 0..2 {
        let end = server.read(&mut [0; 8]).await.unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
    }
}

#[tokio::test]
async fn half_a_record_and_then_nothing_is_a_truncation() {
    let (mut server, mut client, mut tap) = tapped().await;
    client.write_all(b"never heard").await.unwrap();
    tap.pass_on(|bytes| bytes.truncate(bytes.len() - 1)).await;
    drop(tap);
    let end = server.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn a_shutdown_tells_the_client_and_ends_writing_only() {
    let (mut server, mut client) = connection(65536).await;
    server.write_all(b"bye").await.unwrap();
    server.shutdown().await.unwrap();
    let refused = server.write(b"more").await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::BrokenPipe);
    server.shutdown().await.unwrap();

    let mut heard = Vec::new();
    client.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"bye");
    client.write_all(b"one more thing").await.unwrap();
    client.flush().await.unwrap();
    let mut heard = [0; 14];
    server.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"one more thing");
}

#[tokio::test]
async fn writing_goes_on_after_the_client_has_closed_its_side() {
    let (mut server, mut client) = connection(65536).await;
    client.shutdown().await.unwrap();
    assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
    server.write_all(b"still here").await.unwrap();
    server.shutdown().await.unwrap();
    let mut heard = Vec::new();
    client.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"still here");
}

#[tokio::test]
async fn a_server_that_is_dropped_without_a_shutdown_is_a_truncation_to_the_client() {
    let (server, mut client) = connection(65536).await;
    drop(server);
    let end = client.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn a_changed_byte_is_an_error_for_good_and_an_alert_for_the_peer() {
    let (mut server, mut client, mut tap) = tapped().await;
    client.write_all(b"vote").await.unwrap();
    tap.pass_on(|bytes| *bytes.last_mut().unwrap() ^= 1).await;
    for _ in 0..2 {
        let error = server.read(&mut [0; 8]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
    assert!(server.write(b"x").await.is_err(), "nothing is said after an alert");
    let mut alert = vec![0; 64];
    let length = tap.server_end.read(&mut alert).await.unwrap();
    tap.client_end.write_all(&alert[..length]).await.unwrap();
    let told = client.read(&mut [0; 8]).await.unwrap_err().to_string();
    assert!(told.contains("BadRecordMac"), "{told}");
}

#[tokio::test]
async fn a_repeated_record_is_refused() {
    let (mut server, mut client, mut tap) = tapped().await;
    client.write_all(b"vote").await.unwrap();
    tap.pass_on(|bytes| bytes.extend_from_slice(&bytes.clone())).await;
    let mut heard = [0; 4];
    server.read_exact(&mut heard).await.unwrap();
    let error = server.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

#[tokio::test]
async fn an_idle_connection_holds_no_buffer() {
    let (mut server, mut client) = connection(1024).await;
    assert_eq!(server.buffer_capacity(), 0, "after the handshake");
    let sent = pattern(100_000, 1);
    let mut heard = vec![0; sent.len()];
    let there = async {
        server.write_all(&sent).await.unwrap();
        server.flush().await.unwrap();
    };
    tokio::join!(there, async { client.read_exact(&mut heard).await.unwrap() });
    assert_eq!(heard, sent);
    assert_eq!(server.buffer_capacity(), 0, "after sending");
    let back = async {
        client.write_all(&sent).await.unwrap();
        client.flush().await.unwrap();
    };
    let mut heard = vec![0; sent.len()];
    tokio::join!(back, async { server.read_exact(&mut heard).await.unwrap() });
    assert_eq!(heard, sent);
    assert_eq!(server.buffer_capacity(), 0, "after receiving");
}

#[tokio::test]
async fn a_writer_is_held_back_while_the_client_reads_nothing() {
    const PIPE: usize = 1024;
    let (mut server, mut client) = connection(PIPE).await;
    let sent = pattern(1 << 20, 2);
    let mut accepted = 0;
    // A write that cannot go on is pending at once; the future is dropped then.
    while let Some(taken) = now_or_never(server.write(&sent[accepted..])) {
        accepted += taken.unwrap();
        assert!(accepted <= 2 * super::stream::WRITE_BYTES_MAX, "accepted without bound");
    }
    assert!(accepted > 0 && server.buffer_capacity() < 20_000, "{}", server.buffer_capacity());
    // What was accepted arrives, though the writes were given up.
    let mut heard = vec![0; accepted];
    let flushed = async { server.flush().await.unwrap() };
    within(async { tokio::join!(flushed, client.read_exact(&mut heard)) }).await.1.unwrap();
    assert_eq!(heard, sent[..accepted]);
}

/// Polls once.
fn now_or_never<F: Future>(future: F) -> Option<F::Output> {
    let mut cx = Context::from_waker(Waker::noop());
    match std::pin::pin!(future).poll(&mut cx) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

#[tokio::test]
async fn large_transfers_both_ways_at_once_lose_and_reorder_nothing() {
    const LENGTH: usize = 300_000;
    for (version, pipe) in [(&TLS13, 7), (&TLS13, 4096), (&TLS12, 64)] {
        let site = Site::new(Kind::Own);
        let client = site.client_speaking(Some(&site.credential(&cluster())), version);
        let arbiter = site.arbiter(ClientCert::Required);
        let (server, client) = crate::fixtures::shake(&arbiter, &client, pipe).await;
        let (mut from_client, mut to_client) = tokio::io::split(server.unwrap());
        let (mut from_server, mut to_server) = tokio::io::split(client.unwrap());
        let (down, up) = (pattern(LENGTH, 3), pattern(LENGTH, 4));
        let (down_sent, up_sent) = (down.clone(), up.clone());
        // Four tasks, so that each half has a waker of its own.
        let senders = [
            tokio::spawn(async move {
                to_client.write_all(&down_sent).await?;
                to_client.flush().await
            }),
            tokio::spawn(async move {
                to_server.write_all(&up_sent).await?;
                to_server.flush().await
            }),
        ];
        let downwards = tokio::spawn(async move {
            let mut heard = vec![0; LENGTH];
            from_server.read_exact(&mut heard).await.map(|_| heard)
        });
        let upwards = tokio::spawn(async move {
            let mut heard = vec![0; LENGTH];
            from_client.read_exact(&mut heard).await.map(|_| heard)
        });
        let (downwards, upwards) = within(async { tokio::join!(downwards, upwards) }).await;
        assert!(downwards.unwrap().unwrap() == down, "server to client, pipe {pipe}");
        assert!(upwards.unwrap().unwrap() == up, "client to server, pipe {pipe}");
        for sender in senders {
            within(sender).await.unwrap().unwrap();
        }
    }
}

#[tokio::test]
async fn a_reader_sends_what_a_writer_left_unflushed() {
    let (mut server, mut client) = connection(64).await;
    let asked = pattern(1000, 5);
    // One record is taken whole; most of it waits, and nobody flushes.
    assert_eq!(server.write(&asked).await.unwrap(), asked.len());
    let server = tokio::spawn(async move { server.read_u8().await });
    let mut heard = vec![0; asked.len()];
    within(client.read_exact(&mut heard)).await.unwrap();
    assert_eq!(heard, asked);
    client.write_u8(7).await.unwrap();
    client.flush().await.unwrap();
    assert_eq!(within(server).await.unwrap().unwrap(), 7);
}

#[tokio::test]
async fn a_waiting_writer_is_woken_though_a_reader_sent_the_rest() {
    let (server, mut client) = connection(64).await;
    let (mut reader, mut writer) = tokio::io::split(server);
    let sent = pattern(40_000, 6);
    let expected = sent.clone();
    let writing = tokio::spawn(async move { writer.write_all(&sent).await.map(|()| writer) });
    // The writer waits for the pipe when this reader comes, and helps, as the last one that the
    // pipe has heard of.
    tokio::task::yield_now().await;
    let reading = tokio::spawn(async move { reader.read_u8().await });
    tokio::task::yield_now().await;
    let mut heard = vec![0; expected.len()];
    let hearing = async {
        client.read_exact(&mut heard).await.unwrap();
        client.write_u8(1).await.unwrap();
        client.flush().await.unwrap();
    };
    within(hearing).await;
    assert!(heard == expected);
    within(writing).await.unwrap().unwrap();
    assert_eq!(within(reading).await.unwrap().unwrap(), 1);
}

/// A pipe that can be held shut for writing, and that owes no wake-up for a wait that another
/// poll has ended, as the contract of `AsyncWrite` allows.
struct Gate {
    pipe: DuplexStream,
    open: Arc<AtomicBool>,
}

impl AsyncRead for Gate {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_read(cx, buf)
    }
}

impl AsyncWrite for Gate {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if !self.open.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        Pin::new(&mut self.pipe).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(cx)
    }
}

#[derive(Default)]
struct CountingWaker(AtomicUsize);

impl Wake for CountingWaker {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn a_reader_that_empties_the_way_wakes_the_writer() {
    let site = Site::new(Kind::Own);
    let (arbiter, client) = (site.arbiter(ClientCert::Required), site.client());
    let open = Arc::new(AtomicBool::new(true));
    let (pipe, far) = duplex(65536);
    let near = Gate { pipe, open: Arc::clone(&open) };
    let (server, client) =
        tokio::join!(arbiter.accept(near, Vec::new(), PATIENCE), client.connect(far, PATIENCE));
    let (mut server, _client) = (server.unwrap(), client.unwrap());

    open.store(false, Ordering::Relaxed);
    let woken = Arc::new(CountingWaker::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut cx = Context::from_waker(&waker);
    assert!(Pin::new(&mut server).poll_write(&mut cx, b"taken").is_ready());
    assert!(Pin::new(&mut server).poll_write(&mut cx, b"waits").is_pending());
    open.store(true, Ordering::Relaxed);
    assert!(now_or_never(server.read_u8()).is_none());
    assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    assert!(Pin::new(&mut server).poll_write(&mut cx, b"waits").is_ready());
}

#[tokio::test]
async fn a_shutdown_waits_until_everything_is_sent() {
    let (mut server, mut client) = connection(64).await;
    let sent = pattern(10_000, 7);
    let expected = sent.clone();
    let closing = tokio::spawn(async move {
        server.write_all(&sent).await.unwrap();
        server.shutdown().await
    });
    let mut heard = Vec::new();
    within(client.read_to_end(&mut heard)).await.unwrap();
    assert!(heard == expected);
    within(closing).await.unwrap().unwrap();
}

#[tokio::test]
async fn new_keys_in_the_middle_change_nothing() {
    let (mut server, mut client) = connection(65536).await;
    for round in 0..5_u8 {
        client.get_mut().1.refresh_traffic_keys().unwrap();
        client.write_u8(round).await.unwrap();
        client.flush().await.unwrap();
        assert_eq!(server.read_u8().await.unwrap(), round);
        server.write_u8(round).await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), round);
    }
    assert_eq!(server.buffer_capacity(), 0);
}

#[tokio::test]
async fn an_empty_read_and_an_empty_write_do_nothing() {
    let (mut server, mut client) = connection(65536).await;
    assert_eq!(server.read(&mut []).await.unwrap(), 0);
    assert_eq!(server.write(&[]).await.unwrap(), 0);
    server.write_u8(1).await.unwrap();
    assert_eq!(client.read_u8().await.unwrap(), 1);
}
