//! Messages that a hostile peer could send: mostly ones that mean something, so that a fuzzer gets
//! behind the first check, and any bytes now and then.

use std::collections::BTreeSet;

use protocol::fence::{Ask, Call, FRAME_CALL, How, Intent, IntentId, Nonce, Proof, TARGETS_MAX};
use protocol::ids::{
    ArbiterId, BootId, ClusterName, Epoch, GrantId, InstanceId, NodeId, RingId, ViewId,
};
use protocol::qnet::{
    ArbiterHello, Frame, Grant, HEADER_BYTES, Held, Hello, HostKind, Message, MessageType,
    NodeInfo, NodeListType, NodeState, Options, Renewal, TlsSupport, ViewNote, stock_options,
    supported_messages,
};
use protocol::vote::{Algorithm, Bound, Heuristics, TieBreaker, Vote, WatchdogClass};

use crate::tape::Tape;

/// The clusters of the tests; the last one is nobody's.
pub(crate) const CLUSTERS: [&str; 4] = ["c", "d", "", "a name that nobody has a certificate for"];

/// A frame as it could come from the wire.
pub(crate) fn frame(tape: &mut Tape<'_>) -> Frame {
    let choice = tape.byte();
    if choice >= 240 {
        let kind = tape.u16();
        return Frame { kind, body: tape.run().to_vec() };
    }
    let kind = MessageType::ALL[usize::from(choice) % MessageType::ALL.len()];
    let mask = if choice >= 216 { tape.u32() } else { usual(kind) };
    written(&Message { kind, options: options(tape, mask) })
}

/// A message as the frame in which it arrives.
pub(crate) fn written(message: &Message) -> Frame {
    let body = message.encode().split_off(HEADER_BYTES);
    Frame { kind: message.kind as u16, body }
}

/// The options that this type usually has (wire 1.3), as bits of [`options`].
fn usual(kind: MessageType) -> u32 {
    let bits: &[u32] = match kind {
        MessageType::Preinit => &[0, 1],
        MessageType::PreinitReply => &[0, 2, 3],
        MessageType::StartTls
        | MessageType::SetOptionReply
        | MessageType::AskForVote
        | MessageType::VoteInfoReply => &[0],
        MessageType::Init => &[0, 4, 5, 9, 11, 12, 13, 20, 23],
        MessageType::InitReply => &[0, 4, 5, 6, 7, 8, 10, 27],
        MessageType::ServerError => &[0, 6],
        MessageType::SetOption => &[0, 12, 22],
        MessageType::EchoRequest => &[0, 25],
        MessageType::EchoReply => &[0, 26, 28],
        MessageType::NodeList => &[0, 13, 14, 16, 17, 19, 21, 24],
        MessageType::NodeListReply => &[0, 13, 17, 18, 26],
        MessageType::AskForVoteReply | MessageType::VoteInfo => &[0, 13, 18, 26, 28],
        MessageType::HeuristicsChange => &[0, 21],
        MessageType::HeuristicsChangeReply => &[0, 13, 18, 21],
    };
    bits.iter().fold(0, |mask, bit| mask | 1 << bit)
}

/// The options whose bits are in `mask`; a bit is the option's place below.
fn options(tape: &mut Tape<'_>, mask: u32) -> Options {
    let wanted = |bit: u32| mask >> bit & 1 == 1;
    let tls = [TlsSupport::Unsupported, TlsSupport::Supported, TlsSupport::Required];
    Options {
        seq: wanted(0).then(|| tape.number32()),
        cluster_name: wanted(1).then(|| cluster(tape)),
        tls_supported: wanted(2).then(|| tape.pick(&tls)),
        tls_client_cert_required: wanted(3).then(|| tape.byte()),
        supported_messages: wanted(4).then(|| numbers(tape, supported_messages())),
        supported_options: wanted(5).then(|| numbers(tape, stock_options())),
        error_code: wanted(6).then(|| u16::from(tape.byte())),
        max_request_bytes: wanted(7).then(|| tape.number32()),
        max_reply_bytes: wanted(8).then(|| tape.number32()),
        node_id: wanted(9).then(|| tape.number32()),
        supported_algorithms: wanted(10).then(|| numbers(tape, vec![0, 1, 2, 3])),
        algorithm: wanted(11).then(|| u16::from(tape.byte() % 5)),
        heartbeat_ms: wanted(12).then(|| heartbeat(tape)),
        ring: wanted(13).then(|| ring(tape)),
        config_version: wanted(14).then(|| tape.number()),
        nodes: if wanted(16) { nodes(tape) } else { Vec::new() },
        list_type: wanted(17).then(|| list_type(tape)),
        vote: wanted(18).then(|| vote(tape)),
        quorate: wanted(19).then(|| tape.flag()),
        tie_breaker: wanted(20).then(|| tie_breaker(tape)),
        heuristics: wanted(21).then(|| tape.maybe(heuristics)).flatten(),
        keep_active_partition: wanted(22).then(|| tape.flag()),
        hello: wanted(23).then(|| tape.maybe(hello)).flatten(),
        view_note: wanted(24).then(|| tape.maybe(view_note)).flatten(),
        renewal: wanted(25).then(|| tape.maybe(renewal)).flatten(),
        grant: wanted(26).then(|| tape.maybe(grant)).flatten(),
        arbiter_hello: wanted(27).then(|| tape.maybe(arbiter_hello)).flatten(),
        epoch: wanted(28).then(|| tape.maybe(epoch)).flatten(),
        worst_case_ms: wanted(29).then(|| tape.number32()),
    }
}

fn numbers(tape: &mut Tape<'_>, usual: Vec<u16>) -> Vec<u16> {
    if tape.byte() < 192 {
        return usual;
    }
    (0..tape.below(9)).map(|_| tape.u16()).collect()
}

pub(crate) fn cluster(tape: &mut Tape<'_>) -> ClusterName {
    let choice = tape.byte();
    if choice == 255 {
        return ClusterName(tape.run().to_vec());
    }
    CLUSTERS[usize::from(choice / 64).min(CLUSTERS.len() - 1)].into()
}

pub(crate) fn heartbeat(tape: &mut Tape<'_>) -> u32 {
    match tape.byte() {
        255 => tape.u32(),
        step => 250 * (u32::from(step) + 1),
    }
}

pub(crate) fn ring(tape: &mut Tape<'_>) -> RingId {
    RingId::new(tape.number32(), tape.number())
}

pub(crate) fn nodes(tape: &mut Tape<'_>) -> Vec<NodeInfo> {
    let mut list = Vec::new();
    for _ in 0..tape.below(20) {
        let node = NodeId(tape.number32());
        let (data_center, state) = match tape.byte() {
            0..=127 => (0, None),
            128..=191 => (0, Some(NodeState::Member)),
            192..=223 => (0, Some(NodeState::Dead)),
            224..=239 => (1, Some(NodeState::Leaving)),
            240.. => (tape.number32(), None),
        };
        list.push(NodeInfo { node, data_center, state });
    }
    list
}

pub(crate) fn node_set(tape: &mut Tape<'_>) -> BTreeSet<NodeId> {
    nodes(tape).into_iter().map(|info| info.node).collect()
}

fn list_type(tape: &mut Tape<'_>) -> NodeListType {
    tape.pick(&[
        NodeListType::Membership,
        NodeListType::Quorum,
        NodeListType::InitialConfig,
        NodeListType::ChangedConfig,
    ])
}

pub(crate) fn vote(tape: &mut Tape<'_>) -> Vote {
    tape.pick(&[Vote::Ack, Vote::Nack, Vote::WaitForReply, Vote::AskLater, Vote::NoChange])
}

pub(crate) fn algorithm(tape: &mut Tape<'_>) -> Algorithm {
    tape.pick(&[Algorithm::Ffsplit, Algorithm::Lms, Algorithm::TwoNodeLms, Algorithm::Test])
}

pub(crate) fn tie_breaker(tape: &mut Tape<'_>) -> TieBreaker {
    match tape.below(3) {
        0 => TieBreaker::Lowest,
        1 => TieBreaker::Highest,
        _ => TieBreaker::Node(NodeId(tape.number32())),
    }
}

pub(crate) fn heuristics(tape: &mut Tape<'_>) -> Heuristics {
    tape.pick(&[Heuristics::Pass, Heuristics::Fail, Heuristics::Undefined])
}

pub(crate) fn epoch(tape: &mut Tape<'_>) -> Epoch {
    Epoch(tape.number())
}

pub(crate) fn view_id(tape: &mut Tape<'_>) -> ViewId {
    ViewId { ring: ring(tape), nonce: tape.number() }
}

pub(crate) fn grant_id(tape: &mut Tape<'_>) -> GrantId {
    GrantId {
        arbiter: ArbiterId(u128::from(tape.number())),
        boot: tape.number32(),
        epoch: epoch(tape),
    }
}

pub(crate) fn bound(tape: &mut Tape<'_>) -> Bound {
    let class =
        tape.pick(&[WatchdogClass::A, WatchdogClass::B, WatchdogClass::C, WatchdogClass::D]);
    Bound { class, bound_ms: tape.number32() }
}

pub(crate) fn hello(tape: &mut Tape<'_>) -> Hello {
    Hello {
        instance: InstanceId(tape.number()),
        boot: BootId(u128::from(tape.number())),
        host: tape.pick(&[HostKind::Builtin, HostKind::Corosync]),
        worst_case_ms: tape.number32(),
        bound: bound(tape),
        highest_epoch: epoch(tape),
        held: tape.maybe(|tape| Held {
            grant: grant_id(tape),
            view: view_id(tape),
            remaining_ms: tape.number32(),
        }),
    }
}

fn view_note(tape: &mut Tape<'_>) -> ViewNote {
    ViewNote { nonce: tape.number(), epoch: epoch(tape), highest_epoch: epoch(tape) }
}

fn renewal(tape: &mut Tape<'_>) -> Renewal {
    Renewal { grant: grant_id(tape), view: view_id(tape), highest_epoch: epoch(tape) }
}

pub(crate) fn grant(tape: &mut Tape<'_>) -> Grant {
    Grant {
        id: grant_id(tape),
        view: view_id(tape),
        lease_ms: match tape.byte() {
            255 => tape.u32(),
            step => 250 * u32::from(step),
        },
        anchor: tape.number32(),
    }
}

pub(crate) fn arbiter_hello(tape: &mut Tape<'_>) -> ArbiterHello {
    ArbiterHello { id: ArbiterId(u128::from(tape.number())), boot: tape.number32() }
}

/// A gateway's call as it could come from the wire: mostly one that means something, else one with
/// a byte changed, cut or too many, or any bytes. `known` is an intent that the arbiter has named.
pub(crate) fn call(tape: &mut Tape<'_>, known: IntentId) -> Frame {
    let choice = tape.byte();
    if choice >= 240 {
        return Frame { kind: FRAME_CALL, body: tape.run().to_vec() };
    }
    let call = Call { nonce: Nonce(u128::from(tape.number())), ask: ask(tape, known) };
    let mut body = call.encode().unwrap_or_default();
    match choice {
        0..=191 => {}
        192..=215 => {
            let at = tape.below(body.len().min(256));
            let byte = tape.byte();
            body.get_mut(at).into_iter().for_each(|old| *old = byte);
        }
        216..=231 => body.truncate(tape.below(body.len().min(256))),
        232.. => body.extend(tape.run()),
    }
    Frame { kind: FRAME_CALL, body }
}

fn ask(tape: &mut Tape<'_>, known: IntentId) -> Ask {
    match tape.below(8) {
        0..=2 => Ask::Register(Intent {
            requester: NodeId(tape.number32()),
            epoch: tape.maybe(epoch),
            targets: targets(tape),
            deadline_ms: heartbeat(tape),
        }),
        3 => Ask::Attest(intent(tape, known)),
        4..=6 => Ask::Off { intent: intent(tape, known), proof: proof(tape) },
        _ => Ask::Release(intent(tape, known)),
    }
}

fn intent(tape: &mut Tape<'_>, known: IntentId) -> IntentId {
    if tape.byte() < 224 {
        return known;
    }
    IntentId {
        arbiter: ArbiterId(u128::from(tape.number())),
        boot: tape.number32(),
        serial: tape.number(),
    }
}

/// Some of the first eight nodes, any few, or one more than may be named at once.
fn targets(tape: &mut Tape<'_>) -> BTreeSet<NodeId> {
    match tape.byte() {
        0..=223 => {
            let mask = tape.byte();
            (1..=8).filter(|node| mask >> (node - 1) & 1 == 1).map(NodeId).collect()
        }
        224..=251 => node_set(tape),
        252.. => (0..).map(NodeId).take(TARGETS_MAX + 1).collect(),
    }
}

/// The boot is the one that a node of this number would have, none, or any.
fn proof(tape: &mut Tape<'_>) -> Proof {
    let node = NodeId(tape.number32());
    let boot = match tape.byte() {
        0..=159 => BootId(u128::from(node.0)),
        160..=223 => BootId::default(),
        224.. => BootId(u128::from(tape.number())),
    };
    let text = |tape: &mut Tape<'_>| String::from_utf8_lossy(tape.run()).into_owned();
    let how = match tape.below(4) {
        0 | 1 => How::ReadOff,
        2 => How::Watchdog,
        _ => How::Manual { by: text(tape), why: text(tape) },
    };
    Proof { node, boot, how, sent_ms: tape.number() }
}
