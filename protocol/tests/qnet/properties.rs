//! Properties of the codec over arbitrary messages, bytes and cuts.

use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use protocol::ids::{
    ArbiterId, BootId, ClusterName, Epoch, GrantId, InstanceId, NodeId, RingId, ViewId,
};
use protocol::qnet::{
    ArbiterHello, DecodeFault, Frame, Grant, HEADER_BYTES, Held, Hello, HostKind, Message,
    MessageType, NodeInfo, NodeListType, NodeState, Options, Renewal, TlsSupport, ViewNote,
};
use protocol::vote::{Bound, Heuristics, TieBreaker, Vote, WatchdogClass};

use crate::{deframe, option};

fn node_info() -> impl Strategy<Value = NodeInfo> {
    let state = select(vec![NodeState::Member, NodeState::Dead, NodeState::Leaving]);
    (1..=u32::MAX, any::<u32>(), of(state)).prop_map(|(node, data_center, state)| NodeInfo {
        node: NodeId(node),
        data_center,
        state,
    })
}

fn ring() -> impl Strategy<Value = RingId> {
    any::<(u32, u64)>().prop_map(|(node, seq)| RingId { seq, node })
}

fn view() -> impl Strategy<Value = ViewId> {
    (ring(), any::<u64>()).prop_map(|(ring, nonce)| ViewId { ring, nonce })
}

fn grant_id() -> impl Strategy<Value = GrantId> {
    (any::<u128>(), any::<u32>(), epoch()).prop_map(|(arbiter, boot, epoch)| GrantId {
        arbiter: ArbiterId(arbiter),
        boot,
        epoch,
    })
}

fn epoch() -> impl Strategy<Value = Epoch> {
    any::<u64>().prop_map(Epoch)
}

fn tie_breaker() -> impl Strategy<Value = TieBreaker> {
    prop_oneof![
        Just(TieBreaker::Lowest),
        Just(TieBreaker::Highest),
        any::<u32>().prop_map(|node| TieBreaker::Node(NodeId(node))),
    ]
}

fn hello() -> impl Strategy<Value = Hello> {
    let held = (grant_id(), view(), any::<u32>()).prop_map(|(grant, view, remaining_ms)| Held {
        grant,
        view,
        remaining_ms,
    });
    let class =
        select(vec![WatchdogClass::A, WatchdogClass::B, WatchdogClass::C, WatchdogClass::D]);
    let host = select(vec![HostKind::Builtin, HostKind::Corosync]);
    let numbers = any::<(u64, u128, u32, u32)>();
    (numbers, host, class, epoch(), of(held)).prop_map(
        |((instance, boot, worst_case_ms, bound_ms), host, class, highest_epoch, held)| Hello {
            instance: InstanceId(instance),
            boot: BootId(boot),
            host,
            worst_case_ms,
            bound: Bound { class, bound_ms },
            highest_epoch,
            held,
        },
    )
}

fn numbers() -> impl Strategy<Value = Vec<u16>> {
    vec(any::<u16>(), 0..40)
}

prop_compose! {
    fn greeting_options()(
        seq in any::<Option<u32>>(),
        cluster_name in of(vec(any::<u8>(), 0..300).prop_map(ClusterName)),
        tls_supported in of(select(vec![
            TlsSupport::Unsupported, TlsSupport::Supported, TlsSupport::Required,
        ])),
        tls_client_cert_required in any::<Option<u8>>(),
        supported_messages in of(numbers()),
        supported_options in of(numbers()),
        supported_algorithms in of(numbers()),
        error_code in any::<Option<u16>>(),
        (max_request_bytes, max_reply_bytes) in any::<(Option<u32>, Option<u32>)>(),
        (node_id, algorithm, heartbeat_ms) in any::<(Option<u32>, Option<u16>, Option<u32>)>(),
    ) -> Options {
        Options {
            seq,
            cluster_name,
            tls_supported,
            tls_client_cert_required,
            supported_messages,
            supported_options,
            supported_algorithms,
            error_code,
            max_request_bytes,
            max_reply_bytes,
            node_id,
            algorithm,
            heartbeat_ms,
            ..Options::default()
        }
    }
}

prop_compose! {
    fn stock_options()(
        options in greeting_options(),
        ring in of(ring()),
        config_version in any::<Option<u64>>(),
        nodes in vec(node_info(), 0..10),
        list_type in of(select(vec![
            NodeListType::InitialConfig, NodeListType::ChangedConfig,
            NodeListType::Membership, NodeListType::Quorum,
        ])),
        vote in of(select(vec![
            Vote::Ack, Vote::Nack, Vote::AskLater, Vote::WaitForReply, Vote::NoChange,
        ])),
        quorate in any::<Option<bool>>(),
        tie_breaker in of(tie_breaker()),
        heuristics in of(select(vec![Heuristics::Pass, Heuristics::Fail])),
        keep_active_partition in any::<Option<bool>>(),
    ) -> Options {
        Options {
            ring,
            config_version,
            nodes,
            list_type,
            vote,
            quorate,
            tie_breaker,
            heuristics,
            keep_active_partition,
            ..options
        }
    }
}

prop_compose! {
    fn all_options()(
        options in stock_options(),
        hello in of(hello()),
        view_note in of((any::<u64>(), epoch(), epoch()).prop_map(
            |(nonce, epoch, highest_epoch)| ViewNote { nonce, epoch, highest_epoch },
        )),
        renewal in of((grant_id(), view(), epoch()).prop_map(
            |(grant, view, highest_epoch)| Renewal { grant, view, highest_epoch },
        )),
        grant in of((grant_id(), view(), any::<u32>(), any::<u32>()).prop_map(
            |(id, view, lease_ms, anchor)| Grant { id, view, lease_ms, anchor },
        )),
        arbiter_hello in of(any::<(u128, u32)>().prop_map(
            |(id, boot)| ArbiterHello { id: ArbiterId(id), boot },
        )),
        epoch in of(epoch()),
        worst_case_ms in any::<Option<u32>>(),
    ) -> Options {
        Options { hello, view_note, renewal, grant, arbiter_hello, epoch, worst_case_ms, ..options }
    }
}

fn message() -> impl Strategy<Value = Message> {
    // So many options are seldom absent together by chance.
    let options = prop_oneof![9 => all_options(), 1 => Just(Options::default())];
    (select(MessageType::ALL.to_vec()), options)
        .prop_map(|(kind, options)| Message { kind, options })
}

/// A body that is nearly right: options with known and unknown numbers and any value.
fn near_body() -> impl Strategy<Value = Vec<u8>> {
    let number = prop_oneof![0u16..26, 0x4840u16..0x4848, any::<u16>()];
    // The lengths of wire 1.4 and of our private options, and any other.
    let length = prop_oneof![
        3 => select(vec![0, 1, 2, 4, 5, 8, 12, 22, 24, 45, 56, 97]),
        1 => 0usize..110,
    ];
    let value =
        length.prop_flat_map(|length| vec(prop_oneof![3 => 0u8..3, 1 => any::<u8>()], length));
    let options = vec((number, value), 0..8);
    (options, vec(any::<u8>(), 0..4), any::<bool>()).prop_map(|(options, tail, with_tail)| {
        let body = options.iter().flat_map(|(number, value)| option(*number, value));
        body.chain(tail.into_iter().filter(|_| with_tail)).collect()
    })
}

/// Messages of known and unknown types, some over a limit of 64 bytes.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let length = prop_oneof![Just(0), 50usize..66, 0usize..200];
    let body = length.prop_flat_map(|length| vec(any::<u8>(), length));
    let frame = (0u16..22, body).prop_map(|(kind, body)| Frame { kind, body }.encode());
    vec(frame, 0..8).prop_map(|frames| frames.concat())
}

proptest! {
    #[test]
    fn a_message_comes_back_as_it_was(message in message()) {
        let bytes = message.encode();
        let (outcomes, unfinished) = deframe(u32::MAX, [&bytes[..]]);
        prop_assert_eq!((outcomes.len(), unfinished), (1, 0));
        let decoded = Message::decode(&outcomes[0].clone().unwrap());
        if message.options == Options::default() {
            prop_assert_eq!(decoded.map_err(|error| error.what), Err(DecodeFault::Empty));
        } else {
            prop_assert_eq!(decoded, Ok(message));
        }
    }

    #[test]
    fn what_decodes_is_encoded_to_what_decodes_to_the_same(
        kind in 0u16..18,
        body in prop_oneof![near_body(), vec(any::<u8>(), 0..100)],
    ) {
        if let Ok(message) = Message::decode(&Frame { kind, body })
            && message.options != Options::default()
        {
            let body = message.encode().split_off(HEADER_BYTES);
            prop_assert_eq!(Message::decode(&Frame { kind, body }), Ok(message));
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(kind in any::<u16>(), body in vec(any::<u8>(), 0..300)) {
        let known = MessageType::from_u16(kind).is_some();
        let frame = Frame { kind, body };
        let what = Message::decode(&frame).map_err(|error| error.what);
        prop_assert_eq!(what == Err(DecodeFault::UnknownType(kind)), !known);
        let reply = frame.echo_reply(&Options::default());
        prop_assert_eq!(&reply[HEADER_BYTES..], &frame.body[..]);
    }

    #[test]
    fn a_stream_gives_the_same_messages_however_it_is_cut(
        stream in stream(),
        cuts in vec(any::<Index>(), 0..20),
    ) {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        cuts.extend([0, stream.len()]);
        cuts.sort_unstable();
        let pieces = cuts.windows(2).map(|ends| &stream[ends[0]..ends[1]]);
        let whole = deframe(64, [&stream[..]]);
        prop_assert_eq!(deframe(64, pieces), whole.clone());
        prop_assert_eq!(deframe(64, stream.chunks(1)), whole);
    }
}
