//! A node of one cluster speaks for another (hazard 8.9): its certificate is looked at once, the
//! name of its cluster it may say again.

use certs::issue::{Key, Subject};
use certs::material::certificates_to_pem;
use certs::tls::ClientStream;
use certs::{ArbiterClient, Credential, Trust};
use protocol::ids::{ClusterName, RingId};
use protocol::qnet::{Deframer, Message, MessageType, numbers, stock_options, supported_messages};
use protocol::vote::{Algorithm, TieBreaker};
use qnetd::core::Settings;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::ours::Ours;
use super::stock::{PATIENCE, Stock};
use super::story::{Heard, Side, is_in_table};

/// Whose certificate the client has, and for whom it wants to speak.
const OWN: &str = "own";
const VICTIM: &str = "victim";

fn preinit(cluster: &str) -> Message {
    let mut message = Message::new(MessageType::Preinit, Some(1));
    message.options.cluster_name = Some(ClusterName::from(cluster));
    message
}

fn start_tls() -> Message {
    Message::new(MessageType::StartTls, Some(2))
}

/// What it says once TLS is on: an echo, by which the stock daemon looks at the certificate, then
/// the other cluster's name.
fn attack() -> [Message; 3] {
    let mut init = Message::new(MessageType::Init, Some(4));
    init.options.supported_messages = Some(supported_messages());
    init.options.supported_options = Some(stock_options());
    init.options.node_id = Some(1);
    init.options.algorithm = Some(numbers::algorithm_number(Algorithm::Ffsplit));
    init.options.heartbeat_ms = Some(8000);
    init.options.tie_breaker = Some(TieBreaker::Lowest);
    init.options.ring = Some(RingId::new(1, 4));
    [Message::new(MessageType::EchoRequest, Some(3)), preinit(VICTIM), init]
}

/// The kind of an answer and its error code.
fn text(message: &Message) -> String {
    let code = message.options.error_code.map(|code| format!(" {code}"));
    format!("{:?}{}", message.kind, code.unwrap_or_default())
}

struct Client<S> {
    stream: S,
    received: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    async fn say(&mut self, message: &Message) {
        self.stream.write_all(&message.encode()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    async fn ask(&mut self, message: &Message) -> Message {
        self.say(message).await;
        loop {
            let (taken, frame) = Deframer::new(1 << 20).feed(&self.received);
            if let Some(frame) = frame {
                self.received.drain(..taken);
                return Message::decode(&frame.unwrap()).unwrap();
            }
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.received)).await;
            assert_ne!(read.unwrap().unwrap(), 0, "corosync-qnetd has closed the connection");
        }
    }
}

async fn stock_answers(stock: &Stock) -> Vec<String> {
    let key = Key::generate().unwrap();
    let signed = stock.sign(&key.request(&Subject::Cluster(OWN.to_owned())).unwrap());
    let chain = certificates_to_pem(&[signed.into()]);
    let own = Credential::from_pem(chain.as_bytes(), key.to_pem().as_bytes()).unwrap();
    let trust = Trust::from_pem(&stock.authority()).unwrap();
    let tls = ArbiterClient::with_default_name(&trust, Some(&own)).unwrap();
    let stream = TcpStream::connect(stock.address()).await.unwrap();
    let mut plain = Client { stream, received: Vec::new() };
    plain.ask(&preinit(OWN)).await;
    plain.say(&start_tls()).await;
    let stream: ClientStream<TcpStream> = tls.connect(plain.stream, PATIENCE).await.unwrap();
    let mut client = Client { stream, received: Vec::new() };
    let mut answers = Vec::new();
    for message in attack() {
        answers.push(text(&client.ask(&message).await));
    }
    answers
}

fn our_answers() -> Vec<String> {
    let mut ours = Ours::with(Settings::default());
    ours.connect(1);
    ours.send(1, &preinit(OWN));
    ours.send(1, &start_tls());
    ours.secured(1, OWN);
    ours.receive();
    attack().iter().for_each(|message| ours.send(1, message));
    let heard = ours.receive().into_iter().map(|(_, heard)| match heard {
        Heard::Message(message) => text(&message),
        Heard::End => "closed".to_owned(),
    });
    let answers = heard.collect();
    assert!(ours.has_joined(1, OWN), "it is in its own cluster");
    answers
}

#[test]
fn a_certificate_speaks_for_its_own_cluster_only() {
    let ours = ["ServerError 11", "ServerError 8", "InitReply 0"];
    assert_eq!(our_answers(), ours);
    if let Some(stock) = Stock::start(&["-s", "req"]) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        // It has joined the victim's cluster.
        let expected = ["ServerError 11", "PreinitReply", "InitReply 0"];
        assert_eq!(runtime.block_on(stock_answers(&stock)), expected);
    }
    is_in_table("cluster-fixed");
}
