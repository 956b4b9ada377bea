//! An arbiter that says what it is told to.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use certs::material::Purpose;
use certs::{ArbiterTls, ClientCert};
use protocol::fence::{
    Answer, Ask, Attestation, Call, FRAME_ANSWER, FRAME_CALL, Intent, IntentId, Refusal, Role,
    TargetRecord, Verdict,
};
use protocol::ids::{ArbiterId, BootId, Epoch, RingId};
use protocol::qnet::{Frame, HEADER_BYTES, Message, MessageType, TlsSupport};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::site::{PATIENCE, Site};

/// What it knows and does.
#[derive(Default)]
pub(crate) struct Script {
    /// Every call but those about no intent at all.
    pub(crate) calls: Vec<Ask>,
    /// Registrations and attestations are answered with this.
    pub(crate) refusal: Option<Refusal>,
    /// So many attestations are given, and then that refusal.
    pub(crate) attestations: Option<usize>,
    /// It speaks as a stock arbiter: it knows no calls.
    pub(crate) stock: bool,
    intents: BTreeMap<u64, Intent>,
    sessions: usize,
}

/// The running one.
pub(crate) struct Arbiter {
    pub(crate) address: String,
    pub(crate) script: Arc<Mutex<Script>>,
    task: JoinHandle<()>,
}

impl Drop for Arbiter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Arbiter {
    pub(crate) async fn start(site: &Site) -> Self {
        Self::start_at(site, "127.0.0.1:0").await
    }

    pub(crate) async fn start_at(site: &Site, address: &str) -> Self {
        Self::start_as(site, address, "arbiter").await
    }

    /// With the certificate of this name.
    pub(crate) async fn start_as(site: &Site, address: &str, name: &str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (trust, own) = site.load(name, Purpose::Server);
        let tls = ArbiterTls::new(&trust, &own, ClientCert::Required).unwrap();
        let script = Arc::new(Mutex::new(Script::default()));
        let shared = Arc::clone(&script);
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(converse(socket, tls.clone(), Arc::clone(&shared)));
            }
        });
        Self { address, script, task }
    }

    /// What it was asked, by the name of the question.
    pub(crate) fn asked(&self) -> Vec<&'static str> {
        let script = self.script.lock().unwrap();
        let name = |ask: &Ask| match ask {
            Ask::Register(_) => "register",
            Ask::Attest(_) => "attest",
            Ask::Off { .. } => "off",
            Ask::Release(_) => "release",
        };
        script.calls.iter().map(name).collect()
    }

    pub(crate) fn sessions(&self) -> usize {
        self.script.lock().unwrap().sessions
    }

    pub(crate) fn refuse(&self, refusal: Option<Refusal>) {
        self.script.lock().unwrap().refusal = refusal;
    }
}

async fn converse(
    mut socket: TcpStream,
    tls: ArbiterTls,
    script: Arc<Mutex<Script>>,
) -> Option<()> {
    let hello = Message::decode(&frame(&mut socket).await?).ok()?;
    assert_eq!(hello.kind, MessageType::Preinit);
    assert!(hello.options.cluster_name.is_some());
    let mut reply = Message::new(MessageType::PreinitReply, hello.options.seq);
    reply.options.tls_supported = Some(TlsSupport::Required);
    reply.options.tls_client_cert_required = Some(1);
    socket.write_all(&reply.encode()).await.ok()?;
    let start = Message::decode(&frame(&mut socket).await?).ok()?;
    assert_eq!(start.kind, MessageType::StartTls);
    let mut stream = tls.accept(socket, Vec::new(), PATIENCE).await.ok()?;
    let gateway = stream.peer().is_some_and(|identity| identity.gateway);
    script.lock().unwrap().sessions += 1;
    loop {
        let frame = frame(&mut stream).await?;
        let bytes = {
            let mut script = script.lock().unwrap();
            if script.stock {
                let code = protocol::qnet::ErrorCode::UnsupportedMessage;
                Message::server_error(None, code).encode()
            } else {
                assert_eq!(frame.kind, FRAME_CALL);
                let call = Call::decode(&frame.body).unwrap();
                let verdict = match gateway {
                    true => script.answer(&call.ask),
                    false => Verdict::Refused(Refusal::NotAGateway),
                };
                let body = Answer { nonce: call.nonce, verdict }.encode().unwrap();
                Frame { kind: FRAME_ANSWER, body }.encode()
            }
        };
        stream.write_all(&bytes).await.ok()?;
        stream.flush().await.ok()?;
    }
}

impl Script {
    fn answer(&mut self, ask: &Ask) -> Verdict {
        if *ask != Ask::Attest(IntentId::default()) {
            self.calls.push(ask.clone());
        }
        match ask {
            Ask::Register(intent) => match self.refusal.clone() {
                Some(refusal) if self.attestations.is_none() => Verdict::Refused(refusal),
                Some(_) | None => {
                    let serial = self.intents.len() as u64 + 1;
                    self.intents.insert(serial, intent.clone());
                    self.attest(serial)
                }
            },
            Ask::Attest(intent) => self.attest(intent.serial),
            Ask::Off { .. } => Verdict::Noted,
            Ask::Release(_) => Verdict::Noted,
        }
    }

    fn attest(&mut self, serial: u64) -> Verdict {
        let Some(intent) = self.intents.get(&serial) else {
            return Verdict::Refused(Refusal::UnknownIntent);
        };
        if self.attestations == Some(0) {
            return Verdict::Refused(self.refusal.clone().unwrap());
        }
        self.attestations = self.attestations.map(|left| left - 1);
        let record =
            TargetRecord { boot: BootId(7), outside_ms: Some(900), ..TargetRecord::default() };
        Verdict::Entitled(Attestation {
            intent: IntentId { arbiter: ArbiterId(5), boot: 1, serial },
            epoch: Epoch(8),
            ring: RingId::new(1, 8),
            holders: [intent.requester].into(),
            role: Role::Holder,
            targets: intent.targets.iter().map(|node| (*node, record)).collect(),
        })
    }
}

async fn frame<R: AsyncRead + Unpin>(from: &mut R) -> Option<Frame> {
    let mut header = [0; HEADER_BYTES];
    from.read_exact(&mut header).await.ok()?;
    let [a, b, c, d, e, f] = header;
    let mut body = vec![0; u32::from_be_bytes([c, d, e, f]) as usize];
    from.read_exact(&mut body).await.ok()?;
    Some(Frame { kind: u16::from_be_bytes([a, b]), body })
}
