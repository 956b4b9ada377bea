//! A client of the arbiter that speaks the wire by hand, over TLS.

use std::net::SocketAddr;
use std::path::Path;

use certs::{ArbiterClient, files};
use protocol::ids::{ClusterName, NodeId, RingId};
use protocol::qnet::{
    Deframer, Message, MessageType, NodeInfo, NodeListType, numbers, stock_options,
    supported_messages,
};
use protocol::vote::{Algorithm, TieBreaker};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::LIMIT;

/// A node's client that has introduced itself and said all that a stock client says.
pub struct Client {
    stream: certs::tls::ClientStream<TcpStream>,
}

impl Client {
    /// Connects as the only node of a cluster, with the certificate in a directory that
    /// `haguard certs` made.
    pub async fn join(address: SocketAddr, directory: &str, cluster: &str, node: u32) -> Self {
        let mut socket = TcpStream::connect(address).await.unwrap();
        let mut preinit = Message::new(MessageType::Preinit, Some(1));
        preinit.options.cluster_name = Some(ClusterName::from(cluster));
        ask(&mut socket, &preinit, MessageType::PreinitReply).await;
        say(&mut socket, &Message::new(MessageType::StartTls, Some(2))).await;
        let file = |name: &str| Path::new(directory).join(name);
        let trust = files::load_trust(&file("ca.pem")).unwrap();
        let own = files::load_credential(&file("node.pem"), &file("node-key.pem")).unwrap();
        let tls = ArbiterClient::with_default_name(&trust, Some(&own)).unwrap();
        let stream = tls.connect(socket, LIMIT).await.unwrap();
        let mut client = Self { stream };
        let reply = client.ask(&init(node), MessageType::InitReply).await;
        assert_eq!(reply.options.error_code, Some(0));
        for list in [NodeListType::InitialConfig, NodeListType::Membership] {
            client.ask(&node_list(list, node), MessageType::NodeListReply).await;
        }
        client
    }

    /// An echo goes and comes back.
    pub async fn echo(&mut self, seq: u32) {
        let request = Message::new(MessageType::EchoRequest, Some(seq));
        self.ask(&request, MessageType::EchoReply).await;
    }

    async fn ask(&mut self, message: &Message, answer: MessageType) -> Message {
        ask(&mut self.stream, message, answer).await
    }

    /// The certificate that the arbiter has shown, DER.
    pub fn arbiters_certificate(&self) -> Vec<u8> {
        let (_, connection) = self.stream.get_ref();
        connection.peer_certificates().unwrap()[0].to_vec()
    }
}

fn ring(node: u32) -> RingId {
    RingId { node, seq: 5 }
}

fn init(node: u32) -> Message {
    let mut init = Message::new(MessageType::Init, Some(3));
    init.options.supported_messages = Some(supported_messages());
    init.options.supported_options = Some(stock_options());
    init.options.node_id = Some(node);
    init.options.algorithm = Some(numbers::algorithm_number(Algorithm::Ffsplit));
    init.options.heartbeat_ms = Some(8000);
    init.options.tie_breaker = Some(TieBreaker::Lowest);
    init.options.ring = Some(ring(node));
    init
}

fn node_list(kind: NodeListType, node: u32) -> Message {
    let mut list = Message::new(MessageType::NodeList, Some(4));
    list.options.list_type = Some(kind);
    list.options.nodes = vec![NodeInfo { node: NodeId(node), data_center: 0, state: None }];
    match kind {
        NodeListType::Membership => list.options.ring = Some(ring(node)),
        NodeListType::InitialConfig | NodeListType::ChangedConfig | NodeListType::Quorum => {}
    }
    list
}

async fn say<S: AsyncWrite + Unpin>(stream: &mut S, message: &Message) {
    stream.write_all(&message.encode()).await.unwrap();
    stream.flush().await.unwrap();
}

/// Says something and hears the answer; a vote that comes before it is confirmed.
async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    message: &Message,
    answer: MessageType,
) -> Message {
    let heard = async {
        say(stream, message).await;
        loop {
            let heard = hear(stream).await;
            if heard.kind == answer && heard.options.seq == message.options.seq {
                return heard;
            }
            assert_eq!(heard.kind, MessageType::VoteInfo, "{heard:?}");
            say(stream, &Message::new(MessageType::VoteInfoReply, heard.options.seq)).await;
        }
    };
    timeout(LIMIT, heard).await.expect("no answer in time")
}

async fn hear<S: AsyncRead + Unpin>(stream: &mut S) -> Message {
    let mut deframer = Deframer::new(u32::MAX);
    loop {
        let byte = stream.read_u8().await.expect("the arbiter has closed the connection");
        if let (_, Some(frame)) = deframer.feed(&[byte]) {
            return Message::decode(&frame.unwrap()).unwrap();
        }
    }
}
