//! What node and arbiter say in the tests of the device.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::host::{DeviceSettings, HeuristicsSettings, HostQuorum, HostView, TlsMode, Welcome};
use protocol::ids::{ArbiterId, BootId, Epoch, GrantId, InstanceId, NodeId, RingId, ViewId};
use protocol::qnet::{
    ArbiterHello, Deframer, Frame, Grant, Message, MessageType, Options, TlsSupport, stock_options,
    supported_messages,
};
use protocol::vote::{Algorithm, Bound, TieBreaker, Vote, WatchdogClass};

pub(crate) const ARBITER: ArbiterId = ArbiterId(0xa1);
pub(crate) const LEASE: Duration = Duration::from_secs(10);

pub(crate) fn settings(port: u16) -> DeviceSettings {
    DeviceSettings {
        host: "127.0.0.1".to_owned(),
        port,
        tls: TlsMode::Off,
        algorithm: Algorithm::Ffsplit,
        tie_breaker: TieBreaker::Lowest,
        keep_active_partition: true,
        timeout_ms: 10_000,
        sync_timeout_ms: 30_000,
        heartbeat_ms: 8000,
        connect_timeout_ms: 8000,
        force_ip_version: 0,
        heuristics: HeuristicsSettings::default(),
    }
}

pub(crate) fn welcome(settings: DeviceSettings) -> Welcome {
    Welcome {
        cluster: "TestCl".to_owned(),
        node: NodeId(1),
        boot: BootId(1),
        instance: InstanceId(11),
        bound: Bound { class: WatchdogClass::A, bound_ms: 5300 },
        config_version: Some(3),
        nodes: BTreeMap::from([(NodeId(1), 0), (NodeId(2), 0)]),
        device: Some(settings),
    }
}

pub(crate) fn view_id(seq: u64) -> ViewId {
    ViewId { ring: RingId::new(1, seq), nonce: 100 + seq }
}

pub(crate) fn view(seq: u64, members: &[u32]) -> HostView {
    let members = members.iter().map(|node| NodeId(*node)).collect();
    HostView { id: view_id(seq), epoch: Epoch(seq), members }
}

pub(crate) fn quorum(seq: u64, quorate: bool) -> HostQuorum {
    let nodes = BTreeMap::from([(NodeId(1), true), (NodeId(2), false)]);
    HostQuorum { view: view_id(seq), quorate, expected_votes: 3, nodes }
}

pub(crate) fn grant_id(epoch: u64) -> GrantId {
    GrantId { arbiter: ARBITER, boot: 1, epoch: Epoch(epoch) }
}

pub(crate) fn frame(message: &Message) -> Frame {
    let (_, frame) = Deframer::new(u32::MAX).feed(&message.encode());
    frame.unwrap().unwrap()
}

pub(crate) fn decode(bytes: &[u8]) -> Message {
    let (taken, frame) = Deframer::new(u32::MAX).feed(bytes);
    assert_eq!(taken, bytes.len());
    Message::decode(&frame.unwrap().unwrap()).unwrap()
}

pub(crate) fn preinit_reply(seq: Option<u32>, tls: TlsSupport) -> Message {
    let options = Options {
        seq,
        tls_supported: Some(tls),
        tls_client_cert_required: Some(1),
        ..Options::default()
    };
    Message { kind: MessageType::PreinitReply, options }
}

pub(crate) fn init_reply(seq: Option<u32>, error: u16, hello: Option<ArbiterHello>) -> Message {
    let options = Options {
        seq,
        error_code: Some(error),
        supported_messages: Some(supported_messages()),
        supported_options: Some(stock_options()),
        max_request_bytes: Some(32768),
        max_reply_bytes: Some(32768),
        supported_algorithms: Some(vec![0, 1, 2, 3]),
        arbiter_hello: hello,
        ..Options::default()
    };
    Message { kind: MessageType::InitReply, options }
}

pub(crate) fn ours() -> Option<ArbiterHello> {
    Some(ArbiterHello { id: ARBITER, boot: 1 })
}

pub(crate) fn vote_info(seq: u32, vote: Vote, ring: u64, grant: Option<Grant>) -> Message {
    let options = Options {
        seq: Some(seq),
        vote: Some(vote),
        ring: Some(RingId::new(1, ring)),
        grant,
        ..Options::default()
    };
    Message { kind: MessageType::VoteInfo, options }
}

pub(crate) fn grant(epoch: u64, view: u64, anchor: u32) -> Grant {
    let lease_ms = u32::try_from(LEASE.as_millis()).unwrap();
    Grant { id: grant_id(epoch), view: view_id(view), lease_ms, anchor }
}

pub(crate) mod peers;
