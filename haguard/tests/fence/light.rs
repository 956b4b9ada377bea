//! A node's device that speaks to the arbiter by hand: it reports what it is told to, confirms
//! votes, renews its lease every 250 ms, and says nothing more once its machine has no power.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::BytesMut;
use certs::tls::ClientStream;
use certs::{ArbiterClient, files};
use protocol::ids::{BootId, ClusterName, Epoch, GrantId, InstanceId, NodeId, RingId, ViewId};
use protocol::qnet::{
    Deframer, Grant, Hello, HostKind, Message, MessageType, NodeInfo, NodeListType, Renewal,
    ViewNote, numbers, stock_options, supported_messages,
};
use protocol::times;
use protocol::vote::{Algorithm, Bound, Heuristics, TieBreaker, Vote};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{interval, timeout};

use super::common::LIMIT;

/// The nodes that the cluster has.
const CONFIGURED: [u32; 2] = [1, 2];

/// Says whether a machine has power.
pub(crate) type Source = Box<dyn Fn() -> bool + Send>;

/// Where it comes from may be changed while it lives.
pub(crate) type Power = Arc<Mutex<Source>>;

/// One life of a node's device: from a boot to the loss of power.
pub(crate) struct Light {
    orders: mpsc::UnboundedSender<Report>,
    heard: watch::Receiver<Heard>,
    life: JoinHandle<()>,
}

/// What a node is.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) node: u32,
    pub(crate) cluster: &'static str,
    /// Its certificate is there.
    pub(crate) directory: PathBuf,
    pub(crate) power: Power,
}

/// What its membership is now.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) seq: u64,
    pub(crate) members: Vec<u32>,
    pub(crate) heuristics: Option<Heuristics>,
}

/// What the arbiter has said.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heard {
    pub(crate) grant: Option<Grant>,
    pub(crate) vote: Option<Vote>,
    /// The highest epoch of all lives.
    pub(crate) epoch: Epoch,
    /// The last report that it has answered.
    reported: Option<ViewId>,
    /// Why the connection has ended.
    ended: Option<String>,
}

impl Report {
    fn view(&self) -> ViewId {
        ViewId { ring: RingId::new(self.members[0], self.seq), nonce: self.seq }
    }
}

impl Drop for Light {
    fn drop(&mut self) {
        self.life.abort();
    }
}

impl Light {
    /// Boots: connects, says who it is, and lives. `life` counts its boots.
    pub(crate) async fn boot(
        arbiter: std::net::SocketAddr,
        identity: &Identity,
        life: u64,
        epoch: Epoch,
    ) -> Self {
        let joined = timeout(LIMIT, join(arbiter, identity, life, epoch)).await;
        let wire = joined.expect("not let in in time");
        let (orders, ordered) = mpsc::unbounded_channel();
        let (told, heard) = watch::channel(Heard { epoch, ..Heard::default() });
        let power = Arc::clone(&identity.power);
        let life = tokio::spawn(live(wire, ordered, told, power));
        Self { orders, heard, life }
    }

    /// Reports a membership, and waits until the arbiter has taken it in.
    pub(crate) async fn report(&mut self, report: Report) {
        let view = report.view();
        self.orders.send(report).unwrap();
        self.until("the report is taken in", |heard| heard.reported == Some(view)).await;
    }

    /// Waits until this view of its own has the vote.
    pub(crate) async fn until_granted(&mut self, report: &Report) {
        let view = report.view();
        self.until("the view has the vote", |heard| {
            heard.vote == Some(Vote::Ack) && heard.grant.is_some_and(|grant| grant.view == view)
        })
        .await;
    }

    async fn until(&mut self, what: &str, is: impl Fn(&Heard) -> bool) {
        let ends = |heard: &Heard| is(heard) || heard.ended.is_some();
        let in_time = timeout(LIMIT, self.heard.wait_for(ends)).await.is_ok();
        let heard = self.heard();
        assert!(in_time, "not in time: {what}: {heard:?}");
        assert!(is(&heard), "not any more: {what}: {heard:?}");
    }

    /// Waits until the arbiter has said who has the vote in this view of its own.
    pub(crate) async fn until_told(&mut self, report: &Report) {
        let view = report.view();
        self.until("a vote", |heard| {
            heard.vote == Some(Vote::Nack) || heard.grant.is_some_and(|grant| grant.view == view)
        })
        .await;
    }

    pub(crate) fn heard(&self) -> Heard {
        self.heard.borrow().clone()
    }
}

/// A stream of frames whose reading may be cut short between any two bytes.
struct Wire {
    stream: ClientStream<TcpStream>,
    bytes: BytesMut,
    deframer: Deframer,
}

impl Wire {
    async fn read(&mut self) -> Result<Message, String> {
        loop {
            let (taken, frame) = self.deframer.feed(&self.bytes);
            let _ = self.bytes.split_to(taken);
            if let Some(frame) = frame {
                return Ok(Message::decode(&frame.unwrap()).unwrap());
            }
            match self.stream.read_buf(&mut self.bytes).await {
                Ok(0) => return Err("the arbiter has closed the connection".to_owned()),
                Ok(_) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}

async fn say<S: AsyncWrite + Unpin>(stream: &mut S, message: &Message) {
    // A connection that has ended is found out by reading.
    if stream.write_all(&message.encode()).await.is_ok() {
        let _ = stream.flush().await;
    }
}

/// Says the first words in plain text, of which each answer is read to its end and no further.
async fn greet<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, message: &Message) -> Message {
    say(stream, message).await;
    let mut deframer = Deframer::new(u32::MAX);
    loop {
        let byte = stream.read_u8().await.expect("the arbiter has closed the connection");
        if let (_, Some(frame)) = deframer.feed(&[byte]) {
            return Message::decode(&frame.unwrap()).unwrap();
        }
    }
}

async fn join(arbiter: std::net::SocketAddr, identity: &Identity, life: u64, epoch: Epoch) -> Wire {
    let mut socket = TcpStream::connect(arbiter).await.unwrap();
    socket.set_nodelay(true).unwrap();
    let mut preinit = Message::new(MessageType::Preinit, Some(1));
    preinit.options.cluster_name = Some(ClusterName::from(identity.cluster));
    let reply = greet(&mut socket, &preinit).await;
    assert_eq!(reply.kind, MessageType::PreinitReply);
    say(&mut socket, &Message::new(MessageType::StartTls, Some(2))).await;
    let file = |name: &str| Path::new(&identity.directory).join(name);
    let trust = files::load_trust(&file("ca.pem")).unwrap();
    let own = files::load_credential(&file("node.pem"), &file("node-key.pem")).unwrap();
    let tls = ArbiterClient::with_default_name(&trust, Some(&own)).unwrap();
    let stream = tls.connect(socket, LIMIT).await.unwrap();
    let deframer = Deframer::new(u32::MAX);
    let mut wire = Wire { stream, bytes: BytesMut::new(), deframer };
    say(&mut wire.stream, &init(identity.node, life, epoch)).await;
    let reply = wire.read().await.unwrap();
    assert_eq!((reply.kind, reply.options.error_code), (MessageType::InitReply, Some(0)));
    let mut list = Message::new(MessageType::NodeList, Some(4));
    list.options.list_type = Some(NodeListType::InitialConfig);
    list.options.nodes = nodes(&CONFIGURED);
    say(&mut wire.stream, &list).await;
    wire
}

fn nodes(ids: &[u32]) -> Vec<NodeInfo> {
    ids.iter().map(|id| NodeInfo { node: NodeId(*id), data_center: 0, state: None }).collect()
}

fn init(node: u32, life: u64, epoch: Epoch) -> Message {
    let mut init = Message::new(MessageType::Init, Some(3));
    init.options.supported_messages = Some(supported_messages());
    init.options.supported_options = Some(stock_options());
    init.options.node_id = Some(node);
    init.options.algorithm = Some(numbers::algorithm_number(Algorithm::Ffsplit));
    init.options.heartbeat_ms = Some(8000);
    init.options.tie_breaker = Some(TieBreaker::Lowest);
    init.options.ring = Some(RingId::new(node, 1));
    init.options.hello = Some(Hello {
        instance: InstanceId(u64::from(node) << 32 | life),
        boot: BootId(u128::from(node) << 32 | u128::from(life)),
        host: HostKind::Builtin,
        worst_case_ms: 0,
        bound: Bound::default(),
        highest_epoch: epoch,
        held: None,
    });
    init
}

/// What it says to the arbiter next.
#[derive(Debug)]
struct Words {
    seq: u32,
    echo: u32,
    /// The report that is not answered yet, by the number of its message.
    open: Option<(u32, ViewId)>,
    view: ViewId,
}

impl Words {
    fn report(&mut self, report: &Report, epoch: Epoch) -> Message {
        self.seq += 1;
        self.view = report.view();
        self.open = Some((self.seq, self.view));
        let mut message = Message::new(MessageType::NodeList, Some(self.seq));
        message.options.list_type = Some(NodeListType::Membership);
        message.options.ring = Some(self.view.ring);
        message.options.nodes = nodes(&report.members);
        message.options.heuristics = report.heuristics;
        let nonce = self.view.nonce;
        message.options.view_note = Some(ViewNote { nonce, epoch, highest_epoch: epoch });
        message
    }

    fn renewal(&mut self, heard: &Heard) -> Message {
        self.echo += 1;
        let none = (GrantId::default(), self.view);
        let (grant, view) = heard.grant.map_or(none, |grant| (grant.id, grant.view));
        let mut message = Message::new(MessageType::EchoRequest, Some(self.echo));
        message.options.renewal = Some(Renewal { grant, view, highest_epoch: heard.epoch });
        message
    }
}

/// Lives until its machine has no power, or the arbiter ends it.
async fn live(
    mut wire: Wire,
    mut orders: mpsc::UnboundedReceiver<Report>,
    told: watch::Sender<Heard>,
    power: Power,
) {
    let mut words = Words { seq: 4, echo: 0, open: None, view: ViewId::default() };
    let mut beat = interval(times::RENEWAL);
    loop {
        let answer = tokio::select! {
            read = wire.read() => match read {
                Ok(message) => hear(&mut words, &told, &message),
                Err(why) => {
                    told.send_modify(|heard| heard.ended = Some(why));
                    return;
                }
            },
            Some(report) = orders.recv() => {
                let epoch = told.borrow().epoch;
                Some(words.report(&report, epoch))
            }
            _ = beat.tick() => Some(words.renewal(&told.borrow())),
        };
        let has_power = power.lock().unwrap()();
        if !has_power {
            told.send_modify(|heard| heard.ended = Some("it has no power".to_owned()));
            // Nobody closes its connection.
            return std::future::pending().await;
        }
        if let Some(answer) = answer {
            say(&mut wire.stream, &answer).await;
        }
    }
}

/// Takes in what the arbiter says; returns what is answered.
fn hear(words: &mut Words, told: &watch::Sender<Heard>, message: &Message) -> Option<Message> {
    assert_ne!(message.kind, MessageType::ServerError, "{message:?}");
    told.send_modify(|heard| {
        if let Some(grant) = message.options.grant {
            heard.grant = Some(grant);
            heard.epoch = heard.epoch.max(grant.id.epoch);
        }
        if message.kind == MessageType::VoteInfo {
            heard.vote = message.options.vote;
        }
        // Its votes have numbers of their own.
        if message.kind == MessageType::NodeListReply
            && let Some((_, view)) =
                words.open.take_if(|(seq, _)| message.options.seq == Some(*seq))
        {
            heard.reported = Some(view);
        }
    });
    (message.kind == MessageType::VoteInfo)
        .then(|| Message::new(MessageType::VoteInfoReply, message.options.seq))
}
