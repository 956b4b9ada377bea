//! The session with the cluster's arbiter: connect, greet, start TLS, then calls in one direction
//! and answers in the other.
//!
//! It is a task of its own, so that a slow name service, handshake or arbiter delays nothing, and
//! it goes on for ever: a session that ends is followed by the next after a pause. A session
//! counts as up when the arbiter has answered a first call: only then it is certain that it knows
//! fencing and takes this certificate for a gateway's.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use certs::files::Files;
use certs::material::Purpose;
use certs::tls::ClientStream;
use certs::{ArbiterClient, Identity};
use host::dial::connect_any;
use protocol::fence::{
    Answer, Ask, Call, FRAME_ANSWER, FRAME_CALL, IntentId, Nonce, Refusal, Verdict,
};
use protocol::ids::ClusterName;
use protocol::qnet::{
    ErrorCode, Frame, HEADER_BYTES, MESSAGE_LIMIT_BYTES, Message, MessageType, TlsSupport,
};
use protocol::rng::Rng;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::{info, warn};

use crate::config::value::Endpoint;

/// How long connecting, greeting and the handshake may take together.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// The arbiter answers a call within this, or the session is given up.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// A session without calls is tried this often, so that a dead one is not found out by a fence.
const PROBE_EVERY: Duration = Duration::from_secs(10);

/// The first pause before a new session; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(200);

/// See [`PAUSE_MIN`].
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Calls that may wait to be sent; the machine has one open a job.
const CALLS_MAX: usize = 256;

/// Whom to call, and as whom.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Target {
    pub(super) address: Endpoint,
    /// The name in its certificate.
    pub(super) name: String,
    pub(super) cluster: String,
    pub(super) tls_ca: PathBuf,
    pub(super) tls_cert: PathBuf,
    pub(super) tls_key: PathBuf,
}

/// What the session tells the daemon.
#[derive(Debug)]
pub(super) enum Report {
    /// It stands; calls go here until the next [`Report::Down`].
    Up(mpsc::Sender<Call>),
    /// It does not: why, in one line.
    Down(String),
    /// An answer to a call.
    Answered(Box<Answer>),
}

/// The running task; it ends with the value.
#[derive(Debug)]
pub(super) struct Link {
    /// Tells this task's reports from those of one that was replaced.
    pub(super) number: u64,
    pub(super) target: Target,
    task: AbortHandle,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Link {
    /// Starts the task; all its chance comes from the seed.
    pub(super) fn start(
        number: u64,
        target: Target,
        seed: u64,
        reports: mpsc::Sender<(u64, Report)>,
    ) -> Self {
        let session = Session { number, target: target.clone(), rng: Rng::new(seed), reports };
        Self { number, target, task: tokio::spawn(session.run()).abort_handle() }
    }
}

struct Session {
    number: u64,
    target: Target,
    rng: Rng,
    reports: mpsc::Sender<(u64, Report)>,
}

impl Session {
    async fn run(mut self) {
        let mut pause = PAUSE_MIN;
        let mut said = String::new();
        loop {
            let (was_up, why) = self.converse().await;
            let why = format!("{}: {why}", self.target.address);
            if was_up {
                pause = PAUSE_MIN;
            }
            if was_up || said != why {
                warn!("no arbiter at {why}");
            }
            said.clone_from(&why);
            self.report(Report::Down(why)).await;
            // Several gateways that lost one arbiter do not come back in step.
            let half = u64::try_from(pause.as_millis() / 2).unwrap_or(u64::MAX);
            sleep(Duration::from_millis(half + self.rng.below(half + 1))).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn report(&self, report: Report) {
        // Nobody listens any more only when the whole daemon ends.
        let _ = self.reports.send((self.number, report)).await;
    }

    /// One session; whether it was up, and why it ended.
    async fn converse(&mut self) -> (bool, String) {
        let end = Instant::now() + CONNECT_LIMIT;
        let secured = timeout_at(end, secure(&self.target, end)).await;
        let stream = match secured {
            Ok(Ok(stream)) => stream,
            Ok(Err(why)) => return (false, why),
            Err(_) => return (false, format!("no session within {CONNECT_LIMIT:?}")),
        };
        let (reader, writer) = split(stream);
        let (answers, mut answered) = mpsc::channel(CALLS_MAX);
        // Reading is a future of its own that is never cut short in the middle of a frame.
        tokio::select! {
            why = receive(reader, answers) => (false, why),
            ended = self.carry(writer, &mut answered) => ended,
        }
    }

    /// Sends calls and takes answers to the end of the session.
    async fn carry<W: AsyncWrite + Unpin>(
        &mut self,
        mut writer: W,
        answered: &mut mpsc::Receiver<Result<Answer, String>>,
    ) -> (bool, String) {
        let mut probe = self.probe();
        if let Err(why) = send(&mut writer, &probe).await {
            return (false, why);
        }
        match timeout(ANSWER_LIMIT, answered.recv()).await {
            Ok(Some(Ok(answer))) => match refusal_of(&probe, &answer) {
                Ok(()) => {}
                Err(why) => return (false, why),
            },
            Ok(Some(Err(why))) => return (false, why),
            Ok(None) => return (false, "the arbiter closed the connection".to_owned()),
            Err(_) => return (false, format!("no answer to a first call within {ANSWER_LIMIT:?}")),
        }
        let (calls, mut called) = mpsc::channel(CALLS_MAX);
        info!("the arbiter at {} answers", self.target.address);
        self.report(Report::Up(calls)).await;
        let mut waiting_since: Option<Instant> = None;
        let mut quiet_since = Instant::now();
        loop {
            let due = match waiting_since {
                Some(since) => since + ANSWER_LIMIT,
                None => quiet_since + PROBE_EVERY,
            };
            let call = tokio::select! {
                answer = answered.recv() => match answer {
                    Some(Ok(answer)) => {
                        waiting_since = None;
                        quiet_since = Instant::now();
                        if answer.nonce != probe.nonce {
                            self.report(Report::Answered(Box::new(answer))).await;
                        } else if let Err(why) = refusal_of(&probe, &answer) {
                            return (true, why);
                        }
                        continue;
                    }
                    Some(Err(why)) => return (true, why),
                    None => return (true, "the arbiter closed the connection".to_owned()),
                },
                Some(call) = called.recv() => call,
                () = tokio::time::sleep_until(due) => {
                    if waiting_since.is_some() {
                        return (true, format!("no answer to a call within {ANSWER_LIMIT:?}"));
                    }
                    probe = self.probe();
                    probe.clone()
                }
            };
            waiting_since = waiting_since.or(Some(Instant::now()));
            if let Err(why) = send(&mut writer, &call).await {
                return (true, why);
            }
        }
    }

    /// A call that changes nothing: an intent that no arbiter has.
    fn probe(&mut self) -> Call {
        let high = u128::from(self.rng.next_u64());
        let nonce = Nonce((high << 64) | u128::from(self.rng.next_u64()));
        Call { nonce, ask: Ask::Attest(IntentId::default()) }
    }
}

/// Whether the answer to a probe says that fencing is possible at all.
fn refusal_of(probe: &Call, answer: &Answer) -> Result<(), String> {
    if answer.nonce != probe.nonce {
        return Err("the arbiter answered a call that was not made".to_owned());
    }
    match &answer.verdict {
        Verdict::Refused(refusal @ Refusal::NotAGateway) => Err(refusal.to_string()),
        Verdict::Refused(_) | Verdict::Noted => Ok(()),
        Verdict::Entitled(_) => {
            Err("the arbiter attested an intent that was never registered".to_owned())
        }
    }
}

/// A connection on which the arbiter has proven who it is.
async fn secure(target: &Target, end: Instant) -> Result<ClientStream<TcpStream>, String> {
    let client = client(target.clone()).await?;
    let mut socket = connect(&target.address, end).await?;
    let mut hello = Message::new(MessageType::Preinit, Some(1));
    hello.options.cluster_name = Some(ClusterName::from(target.cluster.as_str()));
    write(&mut socket, &hello.encode()).await?;
    let frame = read_frame(&mut socket).await?;
    let reply = Message::decode(&frame).map_err(|error| format!("its greeting: {error}"))?;
    match (reply.kind, reply.options.tls_supported) {
        (MessageType::PreinitReply, Some(TlsSupport::Supported | TlsSupport::Required)) => {}
        (MessageType::PreinitReply, Some(TlsSupport::Unsupported) | None) => {
            return Err("it has tls off (-s off): fencing needs -s req there".to_owned());
        }
        (MessageType::ServerError, _) => return Err(server_error(&reply)),
        (kind, _) => return Err(format!("it answered the greeting with {kind:?}")),
    }
    write(&mut socket, &Message::new(MessageType::StartTls, Some(2)).encode()).await?;
    let left = end.saturating_duration_since(Instant::now());
    client.connect(socket, left).await.map_err(|error| error.to_string())
}

/// The client side of TLS, from the files as they are now: renewed ones are used at the next
/// session. A certificate that is no gateway's is refused here already, with the words of one who
/// can do something about it.
async fn client(target: Target) -> Result<ArbiterClient, String> {
    let made = tokio::task::spawn_blocking(move || {
        let files = Files {
            authority: &target.tls_ca,
            certificate: &target.tls_cert,
            key: &target.tls_key,
        };
        let loaded = files.load(Purpose::Client).map_err(|error| error.to_string())?;
        Identity::from_der(loaded.own.leaf())
            .and_then(|identity| identity.may_fence_for(&target.cluster.as_str().into()))
            .map_err(|error| format!("{}: {error}", target.tls_cert.display()))?;
        ArbiterClient::new(&loaded.trust, Some(&loaded.own), &target.name)
            .map_err(|error| error.to_string())
    });
    made.await.unwrap_or_else(|error| Err(format!("the certificates could not be read: {error}")))
}

/// Looks the name up and tries its addresses, each for an equal part of the time that is left.
async fn connect(address: &Endpoint, end: Instant) -> Result<TcpStream, String> {
    let found = lookup_host((address.host.as_str(), address.port)).await;
    let found = found.map_err(|error| format!("cannot look it up: {error}; correct 'arbiter'"))?;
    let found: Vec<_> = found.take(ADDRESSES_MAX).collect();
    if found.is_empty() {
        return Err("it has no address".to_owned());
    }
    connect_any(&found, end).await
}

/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;

/// Reads answers to the end of the session, and says why it ended.
async fn receive<R: AsyncRead + Unpin>(
    mut reader: R,
    answers: mpsc::Sender<Result<Answer, String>>,
) -> String {
    loop {
        let answer = match read_frame(&mut reader).await {
            Ok(frame) => answer_of(&frame),
            Err(why) => Err(why),
        };
        let over = answer.is_err();
        if answers.send(answer).await.is_err() {
            return "closed from here".to_owned();
        }
        if over {
            // Who carries the session has been told why, and says so.
            std::future::pending::<()>().await;
        }
    }
}

fn answer_of(frame: &Frame) -> Result<Answer, String> {
    if frame.kind == FRAME_ANSWER {
        return Answer::decode(&frame.body).map_err(|error| format!("its answer: {error}"));
    }
    match Message::decode(frame) {
        Ok(message) if message.kind == MessageType::ServerError => Err(server_error(&message)),
        Ok(message) => Err(format!("it sent {:?}, which nobody asked for", message.kind)),
        Err(error) => Err(format!("it sent what makes no sense: {error}")),
    }
}

fn server_error(message: &Message) -> String {
    let code = message.options.error_code;
    match code.and_then(ErrorCode::from_u16) {
        Some(ErrorCode::UnsupportedMessage | ErrorCode::UnexpectedMessage) => {
            "it does not know fencing: a gateway needs haguard qnetd as the arbiter".to_owned()
        }
        Some(known) => format!("it answered: {known:?}"),
        None => format!("it answered with error {}", code.unwrap_or_default()),
    }
}

async fn send<W: AsyncWrite + Unpin>(writer: &mut W, call: &Call) -> Result<(), String> {
    let body = call.encode().map_err(|error| error.to_string())?;
    let bytes = Frame { kind: FRAME_CALL, body }.encode();
    timeout(ANSWER_LIMIT, write(writer, &bytes))
        .await
        .unwrap_or_else(|_| Err(format!("it took nothing for {ANSWER_LIMIT:?}")))
}

async fn write<W: AsyncWrite + Unpin>(writer: &mut W, bytes: &[u8]) -> Result<(), String> {
    let written = match writer.write_all(bytes).await {
        Ok(()) => writer.flush().await,
        Err(error) => Err(error),
    };
    written.map_err(|error| format!("cannot send to it: {error}"))
}

/// One frame (wire 1.2), not a byte more: after StartTLS the next one belongs to TLS.
async fn read_frame<R: AsyncRead + Unpin>(reader: &mut R) -> Result<Frame, String> {
    let failed = |error: io::Error| {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return "it closed the connection: see its log".to_owned();
        }
        format!("the connection failed: {error}")
    };
    let mut header = [0; HEADER_BYTES];
    reader.read_exact(&mut header).await.map_err(failed)?;
    let [a, b, c, d, e, f] = header;
    let length = u32::from_be_bytes([c, d, e, f]);
    if length > MESSAGE_LIMIT_BYTES {
        return Err(format!("it sent a message of {length} bytes, which is over the limit"));
    }
    let mut body = vec![0; usize::try_from(length).unwrap_or(0)];
    reader.read_exact(&mut body).await.map_err(failed)?;
    Ok(Frame { kind: u16::from_be_bytes([a, b]), body })
}
