//! A client that says exactly what a test wants.

use std::net::SocketAddr;

use protocol::ids::{ClusterName, NodeId, RingId};
use protocol::qnet::{
    Deframer, Frame, HEADER_BYTES, Message, MessageType, NodeInfo, NodeListType, numbers,
    stock_options, supported_messages,
};
use protocol::vote::{Algorithm, TieBreaker, Vote};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::places::soon;

/// One connection.
pub(crate) struct Client<S> {
    pub(crate) stream: S,
    received: Vec<u8>,
}

impl Client<TcpStream> {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::over(soon("connection", TcpStream::connect(address)).await.unwrap())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub(crate) fn over(stream: S) -> Self {
        Self { stream, received: Vec::new() }
    }

    pub(crate) async fn send(&mut self, message: &Message) {
        self.send_bytes(&message.encode()).await;
    }

    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// The next message's bytes; `None` when the server has closed.
    pub(crate) async fn receive_bytes(&mut self) -> Option<Vec<u8>> {
        soon("answer", async {
            loop {
                let length = self.received.get(2..HEADER_BYTES);
                let length = length.map(|field| u32::from_be_bytes(field.try_into().unwrap()));
                let total = length.map_or(usize::MAX, |length| HEADER_BYTES + length as usize);
                if self.received.len() >= total {
                    let rest = self.received.split_off(total);
                    return Some(std::mem::replace(&mut self.received, rest));
                }
                match self.stream.read_buf(&mut self.received).await {
                    Ok(0) | Err(_) => return None,
                    Ok(_) => {}
                }
            }
        })
        .await
    }

    pub(crate) async fn receive(&mut self) -> Message {
        let bytes = self.receive_bytes().await.expect("the server has closed the connection");
        decode(&bytes)
    }

    /// Says something, and hears the answer.
    pub(crate) async fn ask(&mut self, message: &Message) -> Message {
        self.send(message).await;
        self.receive().await
    }

    /// Says something, and hears the answer of this kind with the same number; what comes before
    /// it is passed over.
    pub(crate) async fn ask_for(&mut self, message: &Message, kind: MessageType) -> Message {
        self.send(message).await;
        loop {
            let answer = self.receive().await;
            if answer.kind == kind && answer.options.seq == message.options.seq {
                return answer;
            }
        }
    }

    /// The vote of the next vote info; what comes before it is passed over.
    pub(crate) async fn vote(&mut self) -> (u32, Vote) {
        loop {
            let message = self.receive().await;
            if message.kind == MessageType::VoteInfo {
                return (message.options.seq.unwrap(), message.options.vote.unwrap());
            }
        }
    }

    pub(crate) async fn is_closed(&mut self) -> bool {
        self.receive_bytes().await.is_none()
    }
}

pub(crate) fn decode(bytes: &[u8]) -> Message {
    let (taken, frame) = Deframer::new(u32::MAX).feed(bytes);
    assert_eq!(taken, bytes.len());
    Message::decode(&frame.unwrap().unwrap()).unwrap()
}

pub(crate) fn echo(seq: u32) -> Message {
    Message::new(MessageType::EchoRequest, Some(seq))
}

pub(crate) fn preinit(cluster: &str) -> Message {
    let mut message = Message::new(MessageType::Preinit, Some(1));
    message.options.cluster_name = Some(ClusterName::from(cluster));
    message
}

/// As the stock client of a node says it.
pub(crate) fn init(node: u32, ring: RingId) -> Message {
    let mut message = Message::new(MessageType::Init, Some(2));
    message.options.supported_messages = Some(supported_messages());
    message.options.supported_options = Some(stock_options());
    message.options.node_id = Some(node);
    message.options.algorithm = Some(numbers::algorithm_number(Algorithm::Ffsplit));
    message.options.heartbeat_ms = Some(8000);
    message.options.tie_breaker = Some(TieBreaker::Lowest);
    message.options.ring = Some(ring);
    message
}

fn infos(nodes: &[u32]) -> Vec<NodeInfo> {
    let info = |node: &u32| NodeInfo { node: NodeId(*node), data_center: 0, state: None };
    nodes.iter().map(info).collect()
}

pub(crate) fn config_list(seq: u32, nodes: &[u32]) -> Message {
    let mut message = Message::new(MessageType::NodeList, Some(seq));
    message.options.list_type = Some(NodeListType::InitialConfig);
    message.options.config_version = Some(3);
    message.options.nodes = infos(nodes);
    message
}

pub(crate) fn membership_list(seq: u32, ring: RingId, nodes: &[u32]) -> Message {
    let mut message = Message::new(MessageType::NodeList, Some(seq));
    message.options.list_type = Some(NodeListType::Membership);
    message.options.ring = Some(ring);
    message.options.nodes = infos(nodes);
    message
}

pub(crate) fn quorum_list(seq: u32, nodes: &[u32], quorate: bool) -> Message {
    let mut message = Message::new(MessageType::NodeList, Some(seq));
    message.options.list_type = Some(NodeListType::Quorum);
    message.options.quorate = Some(quorate);
    message.options.nodes = infos(nodes);
    message
}

pub(crate) fn vote_reply(seq: u32) -> Message {
    Message::new(MessageType::VoteInfoReply, Some(seq))
}

/// The whole greeting of a stock client in plain text, up to the membership list.
pub(crate) async fn greet<S: AsyncRead + AsyncWrite + Unpin>(
    client: &mut Client<S>,
    cluster: &str,
    node: u32,
    ring: RingId,
) {
    assert_eq!(client.ask(&preinit(cluster)).await.kind, MessageType::PreinitReply);
    let reply = client.ask(&init(node, ring)).await;
    assert_eq!((reply.kind, reply.options.error_code), (MessageType::InitReply, Some(0)));
}

/// A frame of a type that may be no message type.
pub(crate) fn raw(kind: u16, body: &[u8]) -> Vec<u8> {
    Frame { kind, body: body.to_vec() }.encode()
}
