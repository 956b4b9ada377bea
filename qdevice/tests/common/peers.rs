//! A scripted node and a scripted arbiter, on real sockets.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use protocol::host::{DeviceSettings, FromDevice, FromHost, MAX_LINE_BYTES, Poll};
use protocol::ids::Epoch;
use protocol::qnet::{ArbiterHello, Deframer, Message, MessageType, TlsSupport};
use qdevice::config::{Invocation, Options, Places, parse};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// More than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A directory of a test's own, gone at its end.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("haguard-qdevice-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Options for a daemon that has everything in this directory.
    pub(crate) fn options(&self, more: &[&str]) -> Options {
        let here = self.0.to_str().unwrap();
        let args = ["--run-dir", here, "--state-dir", here];
        let args = args.iter().chain(more).map(|arg| (*arg).to_owned());
        match parse(&args.collect::<Vec<_>>(), Places::Haguard).unwrap() {
            Invocation::Run(options) => *options,
            Invocation::Help => panic!("help"),
        }
    }

    pub(crate) fn listen(&self) -> UnixListener {
        UnixListener::bind(self.path("device.sock")).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(crate) async fn patiently<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("no {what} in {PATIENCE:?}"))
}

/// Polls with a deadline.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    patiently(what, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// A node that lives: it beats in the background.
pub(crate) struct Node {
    lines: host::socket::Lines<OwnedReadHalf>,
    say: tokio::sync::mpsc::Sender<FromHost>,
    beats: JoinHandle<()>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.beats.abort();
    }
}

impl Node {
    pub(crate) async fn accept(listener: &UnixListener) -> Self {
        let (stream, _) = patiently("device at the node", listener.accept()).await.unwrap();
        let (reader, writer) = stream.into_split();
        let (say, said) = tokio::sync::mpsc::channel(64);
        let beats = tokio::spawn(beat(writer, said));
        Self { lines: host::socket::Lines::new(reader, MAX_LINE_BYTES), say, beats }
    }

    /// Introduces a node with these settings in view 4, as one of two members.
    pub(crate) async fn introduce(&mut self, settings: DeviceSettings, members: &[u32]) {
        self.say(FromHost::Welcome(Box::new(super::welcome(settings)))).await;
        self.say(FromHost::View(super::view(4, members))).await;
        self.say(FromHost::Quorum(super::quorum(4, false))).await;
    }

    pub(crate) async fn say(&self, what: FromHost) {
        self.say.send(what).await.unwrap();
    }

    pub(crate) async fn hear(&mut self) -> FromDevice {
        let line = patiently("word of the device", self.lines.next()).await.unwrap();
        serde_json::from_slice(&line.expect("the device has closed")).unwrap()
    }

    /// The next poll; it is answered.
    pub(crate) async fn poll(&mut self) -> Poll {
        loop {
            match self.hear().await {
                FromDevice::Poll(poll) => {
                    self.say(FromHost::Polled { id: poll.id, applied: true }).await;
                    return poll;
                }
                FromDevice::Register { .. }
                | FromDevice::Status(_)
                | FromDevice::Epoch { .. }
                | FromDevice::Unregister => {}
            }
        }
    }

    /// The next status that `wanted` accepts.
    pub(crate) async fn status(&mut self, wanted: impl Fn(&str) -> bool) -> String {
        loop {
            match self.hear().await {
                FromDevice::Status(status) if wanted(&status.state) => return status.state,
                FromDevice::Status(_)
                | FromDevice::Epoch { .. }
                | FromDevice::Poll(_)
                | FromDevice::Register { .. }
                | FromDevice::Unregister => {}
            }
        }
    }
}

async fn beat(mut writer: OwnedWriteHalf, mut said: tokio::sync::mpsc::Receiver<FromHost>) {
    loop {
        let what = match timeout(Duration::from_millis(100), said.recv()).await {
            Ok(Some(what)) => what,
            Ok(None) => return,
            Err(_) => FromHost::Alive { highest_epoch: Epoch(0) },
        };
        let mut line = serde_json::to_vec(&what).unwrap();
        line.push(b'\n');
        if writer.write_all(&line).await.is_err() {
            return;
        }
    }
}

/// The arbiter's end of a connection.
pub(crate) struct Arbiter<S> {
    pub(crate) stream: S,
    deframer: Deframer,
    /// Came behind the last message.
    pub(crate) rest: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Arbiter<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, deframer: Deframer::new(32768), rest: Vec::new() }
    }

    /// The next message; `None` at the end of the connection.
    pub(crate) async fn next(&mut self) -> Option<Message> {
        loop {
            let (taken, frame) = self.deframer.feed(&self.rest);
            self.rest.drain(..taken);
            if let Some(frame) = frame {
                return Some(Message::decode(&frame.unwrap()).unwrap());
            }
            let read = self.stream.read_buf(&mut self.rest);
            if patiently("message of the device", read).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    /// The next message of a kind.
    pub(crate) async fn expect(&mut self, kind: MessageType) -> Message {
        loop {
            let message = self.next().await.unwrap_or_else(|| panic!("closed before {kind:?}"));
            if message.kind == kind {
                return message;
            }
        }
    }

    pub(crate) async fn say(&mut self, message: &Message) {
        self.stream.write_all(&message.encode()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    pub(crate) async fn greet(&mut self, tls: TlsSupport) {
        let preinit = self.expect(MessageType::Preinit).await;
        self.say(&super::preinit_reply(preinit.options.seq, tls)).await;
    }

    /// Takes Init; the device's words in it.
    pub(crate) async fn admit(&mut self, hello: Option<ArbiterHello>) -> Message {
        let init = self.expect(MessageType::Init).await;
        self.say(&super::init_reply(init.options.seq, 0, hello)).await;
        init
    }
}

/// Asks a local socket, as the tools do.
pub(crate) async fn ask(socket: &Path, command: &str) -> String {
    let mut stream = tokio::net::UnixStream::connect(socket).await.unwrap();
    stream.write_all(format!("{command}\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    patiently("answer", stream.read_to_string(&mut answer)).await.unwrap();
    answer
}
