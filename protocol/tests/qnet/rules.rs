//! The rules of the wire, one test each.

use protocol::ids::{
    ArbiterId, BootId, ClusterName, Epoch, GrantId, InstanceId, NodeId, RingId, ViewId,
};
use protocol::qnet::{
    ArbiterHello, DecodeError, DecodeFault, Deframer, ErrorCode, Frame, FrameError, Grant,
    HEADER_BYTES, Held, Hello, HostKind, MESSAGE_LIMIT_BYTES, Message, MessageType, NodeInfo,
    NodeListType, NodeState, OPTION_ARBITER_HELLO, OPTION_EPOCH, OPTION_GRANT, OPTION_HELLO,
    OPTION_RENEWAL, OPTION_VIEW_NOTE, OPTION_WORST_CASE, Options, Renewal, TlsSupport, ViewNote,
    stock_options, supported_messages,
};
use protocol::vote::{Bound, Heuristics, TieBreaker, Vote, WatchdogClass};

use crate::{deframe, option, option_numbers};

const SEQ_7: [u8; 8] = [0, 0, 0, 4, 0, 0, 0, 7];

fn decode(body: impl Into<Vec<u8>>) -> Result<Options, DecodeError> {
    let frame = Frame { kind: MessageType::NodeList as u16, body: body.into() };
    Message::decode(&frame).map(|message| message.options)
}

fn fault(body: impl Into<Vec<u8>>) -> Option<DecodeFault> {
    decode(body).err().map(|error| error.what)
}

fn encoded_body(options: Options) -> Vec<u8> {
    Message { kind: MessageType::EchoRequest, options }.encode().split_off(HEADER_BYTES)
}

const GRANT_ID: GrantId = GrantId { arbiter: ArbiterId(0xa0), boot: 0xb0, epoch: Epoch(0xc0) };
const VIEW: ViewId = ViewId { ring: RingId { seq: 0xe0, node: 0xd0 }, nonce: 0xf0 };
const HELD: Held = Held { grant: GRANT_ID, view: VIEW, remaining_ms: 0x60 };
const HELLO: Hello = Hello {
    instance: InstanceId(1),
    boot: BootId(2),
    host: HostKind::Corosync,
    worst_case_ms: 3,
    bound: Bound { class: WatchdogClass::D, bound_ms: 5 },
    highest_epoch: Epoch(6),
    held: None,
};
const GRANT: Grant = Grant { id: GRANT_ID, view: VIEW, lease_ms: 0x10, anchor: 0x20 };
const RENEWAL: Renewal = Renewal { grant: GRANT_ID, view: VIEW, highest_epoch: Epoch(0x30) };
const VIEW_NOTE: ViewNote = ViewNote { nonce: 1, epoch: Epoch(2), highest_epoch: Epoch(3) };

/// A message's worth of every option.
fn all_options() -> Options {
    let info = NodeInfo { node: NodeId(3), data_center: 4, state: Some(NodeState::Leaving) };
    Options {
        seq: Some(1),
        cluster_name: Some(ClusterName::from("two")),
        tls_supported: Some(TlsSupport::Required),
        tls_client_cert_required: Some(1),
        supported_messages: Some(supported_messages()),
        supported_options: Some(stock_options()),
        error_code: Some(ErrorCode::DuplicateNodeId as u16),
        max_request_bytes: Some(32768),
        max_reply_bytes: Some(32768),
        node_id: Some(9),
        supported_algorithms: Some(vec![0, 1, 2, 3]),
        algorithm: Some(1),
        heartbeat_ms: Some(8000),
        ring: Some(RingId::new(1, 5)),
        config_version: Some(14),
        nodes: vec![info, info],
        list_type: Some(NodeListType::Membership),
        vote: Some(Vote::NoChange),
        quorate: Some(true),
        tie_breaker: Some(TieBreaker::Node(NodeId(5))),
        heuristics: Some(Heuristics::Fail),
        keep_active_partition: Some(false),
        hello: Some(HELLO),
        view_note: Some(VIEW_NOTE),
        renewal: Some(RENEWAL),
        grant: Some(GRANT),
        arbiter_hello: Some(ArbiterHello { id: ArbiterId(7), boot: 8 }),
        epoch: Some(Epoch(9)),
        worst_case_ms: Some(10),
    }
}

// Framing (wire 1.2).

#[test]
fn a_header_is_the_type_and_the_length_of_the_rest_in_big_endian() {
    let message = Message::new(MessageType::HeuristicsChangeReply, Some(0x0102_0304));
    assert_eq!(message.encode(), [0, 17, 0, 0, 0, 8, 0, 0, 0, 4, 1, 2, 3, 4]);
}

#[test]
fn a_message_of_exactly_the_limit_passes_and_one_byte_more_does_not() {
    let name = vec![b'x'; MESSAGE_LIMIT_BYTES as usize - HEADER_BYTES - 4];
    let fits = Frame { kind: 0, body: option(1, &name) };
    let bytes = fits.encode();
    assert_eq!(bytes.len(), 32768);
    assert_eq!(deframe(MESSAGE_LIMIT_BYTES, [&bytes[..]]), (vec![Ok(fits)], 0));
    let too_long = FrameError::TooLong { kind: 0, total_bytes: 32768 };
    assert_eq!(deframe(MESSAGE_LIMIT_BYTES - 1, [&bytes[..]]), (vec![Err(too_long)], 0));
}

#[test]
fn a_message_over_the_limit_is_reported_after_its_last_byte_and_the_next_one_is_whole() {
    let mut deframer = Deframer::new(20);
    let long = Frame { kind: 8, body: vec![0; 15] }.encode();
    assert_eq!(deframer.feed(&long[..20]), (20, None));
    let next = Message::new(MessageType::EchoRequest, Some(1)).encode();
    let too_long = FrameError::TooLong { kind: 8, total_bytes: 21 };
    let rest = [&long[20..], &next].concat();
    assert_eq!(deframer.feed(&rest), (1, Some(Err(too_long))));
    let (taken, outcome) = deframer.feed(&rest[1..]);
    assert_eq!((taken, outcome.unwrap().unwrap().kind), (next.len(), 8));
}

#[test]
fn a_claim_of_four_gigabytes_is_counted_and_does_not_overflow() {
    let header = [0, 8, 0xff, 0xff, 0xff, 0xff];
    let mut deframer = Deframer::new(MESSAGE_LIMIT_BYTES);
    assert_eq!(deframer.feed(&header), (6, None));
    let megabyte = vec![0; 1 << 20];
    for _ in 0..4095 {
        assert_eq!(deframer.feed(&megabyte), (1 << 20, None));
    }
    let too_long = FrameError::TooLong { kind: 8, total_bytes: (1 << 32) + 5 };
    assert_eq!(deframer.feed(&megabyte), ((1 << 20) - 1, Some(Err(too_long))));
}

#[test]
fn an_unknown_type_is_passed_over_whatever_its_size_and_is_never_too_long() {
    for length in [0, 8, 40_000] {
        let bytes = Frame { kind: 99, body: vec![1; length] }.encode();
        let frame = Frame { kind: 99, body: vec![] };
        assert_eq!(
            Message::decode(&frame),
            Err(DecodeError { seq: None, what: DecodeFault::UnknownType(99) })
        );
        assert_eq!(deframe(MESSAGE_LIMIT_BYTES, [&bytes[..]]), (vec![Ok(frame)], 0));
    }
}

#[test]
fn no_byte_after_start_tls_is_taken() {
    let start_tls = Message::new(MessageType::StartTls, Some(2)).encode();
    let stream = [&start_tls[..], &[0x16, 3, 1]].concat();
    let mut deframer = Deframer::new(MESSAGE_LIMIT_BYTES);
    let (taken, outcome) = deframer.feed(&stream);
    assert_eq!(taken, start_tls.len());
    assert_eq!(outcome.unwrap().unwrap().encode(), start_tls);
}

#[test]
fn an_empty_body_is_complete_with_its_header_and_empty_input_changes_nothing() {
    let mut deframer = Deframer::new(MESSAGE_LIMIT_BYTES);
    assert_eq!(deframer.feed(&[]), (0, None));
    assert_eq!(deframer.feed(&[0, 8, 0, 0, 0]), (5, None));
    assert_eq!(deframer.feed(&[]), (0, None));
    let empty = Frame { kind: 8, body: vec![] };
    assert_eq!(deframer.feed(&[0, 0]), (1, Some(Ok(empty))));
}

#[test]
fn a_new_limit_counts_from_the_next_header() {
    let bytes = Message::new(MessageType::EchoRequest, Some(1)).encode();
    let mut deframer = Deframer::new(14);
    assert_eq!(deframer.feed(&bytes[..7]), (7, None));
    deframer.set_limit(13);
    assert!(matches!(deframer.feed(&bytes[7..]), (7, Some(Ok(_)))));
    let too_long = FrameError::TooLong { kind: 8, total_bytes: 14 };
    assert_eq!(deframer.feed(&bytes), (14, Some(Err(too_long))));
}

// Options (wire 1.2).

#[test]
fn unknown_options_are_skipped_outside_and_inside_a_node_info() {
    let info = [option(0, b"odd"), option(9, &[0, 0, 0, 1]), option(999, b"new")].concat();
    let body = [option(999, b"new"), option(17, &info), option(0x4848, &[])].concat();
    let nodes = vec![NodeInfo { node: NodeId(1), data_center: 0, state: None }];
    assert_eq!(decode(body), Ok(Options { nodes, ..Options::default() }));
}

#[test]
fn of_a_repeated_option_the_last_counts() {
    let body = [option(1, b"first"), SEQ_7.to_vec(), option(1, b""), option(0, &[0, 0, 0, 8])];
    let options = decode(body.concat()).unwrap();
    assert_eq!((options.seq, options.cluster_name), (Some(8), Some(ClusterName::from(""))));
    let info = [option(9, &[0, 0, 0, 1]), option(9, &[0, 0, 0, 2])].concat();
    assert_eq!(decode(option(17, &info)).unwrap().nodes[0].node, NodeId(2));
}

#[test]
fn node_infos_add_up_in_order_and_keep_duplicates() {
    let info = |id| option(17, &option(9, &[0, 0, 0, id]));
    let options = decode([info(2), info(1), info(2)].concat()).unwrap();
    let ids: Vec<u32> = options.nodes.iter().map(|info| info.node.0).collect();
    assert_eq!(ids, [2, 1, 2]);
}

#[test]
fn a_node_info_holds_a_node_id_that_is_not_zero() {
    for info in [vec![], option(9, &[0; 4]), option(15, &[0, 0, 0, 1]), option(999, b"x")] {
        assert_eq!(fault(option(17, &info)), Some(DecodeFault::NoNodeId), "{info:?}");
    }
    assert_eq!(decode(option(9, &[0; 4])).unwrap().node_id, Some(0));
}

#[test]
fn a_node_info_is_checked_as_strictly_as_a_message() {
    let id = option(9, &[0, 0, 0, 1]);
    for (inside, expected) in [
        (vec![0], DecodeFault::TrailingBytes),
        (vec![0, 15, 0, 4, 0], DecodeFault::Overrun(15)),
        (option(9, &[1]), DecodeFault::Length { option: 9, bytes: 1 }),
        (option(15, &[1]), DecodeFault::Length { option: 15, bytes: 1 }),
        (option(16, &[1, 1]), DecodeFault::Length { option: 16, bytes: 2 }),
        (option(16, &[0]), DecodeFault::Value(16)),
    ] {
        let body = option(17, &[id.clone(), inside].concat());
        assert_eq!(fault(body), Some(expected));
    }
}

#[test]
fn a_message_without_options_is_an_error_for_every_type() {
    for kind in MessageType::ALL {
        let frame = Frame { kind: kind as u16, body: vec![] };
        let error = DecodeError { seq: None, what: DecodeFault::Empty };
        assert_eq!(Message::decode(&frame), Err(error), "{kind:?}");
    }
}

#[test]
fn an_option_that_overruns_the_message_is_an_error_known_or_not() {
    for number in [1, 999] {
        let mut body = [SEQ_7.to_vec(), option(number, b"name")].concat();
        body.pop();
        let error = DecodeError { seq: Some(7), what: DecodeFault::Overrun(number) };
        assert_eq!(decode(body), Err(error));
    }
}

#[test]
fn one_to_three_bytes_after_the_last_option_are_an_error() {
    for stray in 1..=3 {
        let body = [&SEQ_7[..], &[0; 3][..stray]].concat();
        let error = DecodeError { seq: Some(7), what: DecodeFault::TrailingBytes };
        assert_eq!(decode(body), Err(error));
    }
}

#[test]
fn an_error_names_the_sequence_number_only_if_it_came_before_the_fault() {
    let bad = option(19, &[9]);
    let what = DecodeFault::Value(19);
    let after = [&bad[..], &SEQ_7].concat();
    let before = [&SEQ_7[..], &bad].concat();
    assert_eq!(decode(after), Err(DecodeError { seq: None, what }));
    assert_eq!(decode(before), Err(DecodeError { seq: Some(7), what }));
    let what = DecodeFault::Length { option: 0, bytes: 3 };
    assert_eq!(decode(option(0, &[0; 3])), Err(DecodeError { seq: None, what }));
}

#[test]
fn a_cluster_name_is_any_bytes_and_may_be_empty() {
    for name in [&b""[..], b"two\0", b"\xff\xfe"] {
        let options = decode(option(1, name)).unwrap();
        assert_eq!(options.cluster_name, Some(ClusterName(name.to_vec())));
    }
}

// The order of options (wire 1.3).

#[test]
fn options_are_written_in_the_order_of_the_stock_peers_and_private_ones_last() {
    let expected: [(MessageType, &[u16]); 18] = [
        (MessageType::Preinit, &[0, 1]),
        (MessageType::PreinitReply, &[0, 2, 3]),
        (MessageType::StartTls, &[0]),
        (MessageType::Init, &[0, 4, 5, 9, 11, 12, 21, 13]),
        (MessageType::InitReply, &[6, 4, 5, 0, 7, 8, 10]),
        (MessageType::ServerError, &[0, 6]),
        (MessageType::SetOption, &[0, 12, 23]),
        (MessageType::SetOptionReply, &[0, 12, 23]),
        (MessageType::EchoRequest, &[0]),
        (MessageType::EchoReply, &[0]),
        (MessageType::NodeList, &[0, 18, 13, 14, 20, 17, 22]),
        (MessageType::NodeListReply, &[0, 18, 13, 19]),
        (MessageType::AskForVote, &[0]),
        (MessageType::AskForVoteReply, &[0, 19, 13]),
        (MessageType::VoteInfo, &[0, 19, 13]),
        (MessageType::VoteInfoReply, &[0]),
        (MessageType::HeuristicsChange, &[0, 22]),
        (MessageType::HeuristicsChangeReply, &[0, 19, 13, 22]),
    ];
    for (kind, order) in expected {
        let bytes = Message { kind, options: all_options() }.encode();
        let mut numbers = option_numbers(&bytes[HEADER_BYTES..]);
        numbers.dedup();
        assert_eq!(numbers.len(), 29, "{kind:?} holds every option");
        assert!(numbers[22..].is_sorted_by(|a, b| *a >= OPTION_HELLO && a < b), "{numbers:x?}");
        let known: Vec<u16> = numbers.into_iter().filter(|n| order.contains(n)).collect();
        assert_eq!(known, order, "{kind:?}");
    }
}

#[test]
fn an_echo_reply_is_a_copy_with_another_type_and_our_private_options_behind() {
    let unknown = option(500, b"hello");
    let body = [&SEQ_7[..], &unknown, &option(0, &[0; 4])].concat();
    let request = Frame { kind: 8, body: body.clone() };
    let copy = Frame { kind: 9, body: body.clone() }.encode();
    assert_eq!(request.echo_reply(&Options::default()), copy);
    let extra = Options {
        seq: Some(1),
        grant: Some(GRANT),
        epoch: Some(Epoch(0xc1)),
        ..Options::default()
    };
    let reply = request.echo_reply(&extra);
    let (outcomes, unfinished) = deframe(MESSAGE_LIMIT_BYTES, [&reply[..]]);
    let frame = outcomes[0].clone().unwrap();
    assert_eq!((frame.kind, &frame.body[..body.len()], unfinished), (9, &body[..], 0));
    assert_eq!(option_numbers(&frame.body), [0, 500, 0, OPTION_GRANT, OPTION_EPOCH]);
    let options = Message::decode(&frame).unwrap().options;
    assert_eq!((options.seq, options.grant, options.epoch), (Some(0), extra.grant, extra.epoch));
}

// Values (wire 1.4 and 1.5).

#[test]
fn every_option_that_a_message_can_hold_comes_back() {
    for kind in MessageType::ALL {
        let message = Message { kind, options: all_options() };
        let bytes = message.encode();
        let frame = Frame { kind: kind as u16, body: bytes[HEADER_BYTES..].to_vec() };
        assert_eq!(Message::decode(&frame), Ok(message));
    }
}

#[test]
fn options_of_a_fixed_length_have_exactly_that_length() {
    for (number, length) in [
        (0, 4),
        (2, 1),
        (3, 1),
        (6, 2),
        (7, 4),
        (8, 4),
        (9, 4),
        (11, 2),
        (12, 4),
        (13, 12),
        (14, 8),
        (15, 4),
        (16, 1),
        (18, 1),
        (19, 1),
        (20, 1),
        (21, 5),
        (22, 1),
        (23, 1),
        (OPTION_HELLO, 45),
        (OPTION_VIEW_NOTE, 24),
        (OPTION_RENEWAL, 56),
        (OPTION_GRANT, 56),
        (OPTION_ARBITER_HELLO, 22),
        (OPTION_EPOCH, 8),
        (OPTION_WORST_CASE, 4),
    ] {
        // Ones are allowed in every checked byte; the hello has two that must differ.
        let mut value = [1; 100];
        if matches!(number, OPTION_HELLO | OPTION_ARBITER_HELLO) {
            value[..2].copy_from_slice(&[0, 1]);
        }
        if number == OPTION_HELLO {
            value[44] = 0;
        }
        for given in 0..value.len() {
            let bytes = u16::try_from(given).unwrap();
            let wrong = (given != length).then_some(DecodeFault::Length { option: number, bytes });
            assert_eq!(fault(option(number, &value[..given])), wrong, "option {number}");
        }
    }
}

#[test]
fn lists_of_numbers_have_an_even_length_and_may_be_empty() {
    for number in [4, 5, 10] {
        let body = option(number, &[0, 1, 0]);
        let expected = DecodeFault::Length { option: number, bytes: 3 };
        assert_eq!(fault(body), Some(expected));
        assert_eq!(fault(option(number, &[])), None);
        assert_eq!(fault(option(number, &[0, 1, 0xff, 0xff])), None);
    }
}

#[test]
fn checked_bytes_hold_a_listed_number_and_nothing_else() {
    for (number, allowed) in [
        (2, 0..=2),
        (3, 0..=u8::MAX),
        (16, 1..=3),
        (18, 0..=3),
        (19, 1..=5),
        (20, 0..=1),
        (22, 1..=2),
        (23, 0..=1),
    ] {
        for value in 0..=u8::MAX {
            let expected = (!allowed.contains(&value)).then_some(DecodeFault::Value(number));
            assert_eq!(fault(option(number, &[value])), expected, "option {number}: {value}");
        }
    }
}

#[test]
fn numbers_that_a_newer_peer_may_send_are_kept() {
    let body = [option(6, &[1, 0]), option(11, &[0, 9]), option(10, &[0, 9])].concat();
    let options = decode(body).unwrap();
    assert_eq!((options.error_code, options.algorithm), (Some(256), Some(9)));
    assert_eq!(options.supported_algorithms, Some(vec![9]));
}

#[test]
fn a_tie_breakers_node_counts_only_in_mode_3() {
    let tie_breaker = |mode| decode(option(21, &[mode, 0, 0, 0, 5])).map(|o| o.tie_breaker);
    assert_eq!(tie_breaker(1), Ok(Some(TieBreaker::Lowest)));
    assert_eq!(tie_breaker(2), Ok(Some(TieBreaker::Highest)));
    assert_eq!(tie_breaker(3), Ok(Some(TieBreaker::Node(NodeId(5)))));
    for mode in (0..=u8::MAX).filter(|mode| !(1..=3).contains(mode)) {
        assert_eq!(tie_breaker(mode).map_err(|e| e.what), Err(DecodeFault::Value(21)));
    }
    let written =
        encoded_body(Options { tie_breaker: Some(TieBreaker::Highest), ..Options::default() });
    assert_eq!(written, [0, 21, 0, 5, 2, 0, 0, 0, 0]);
}

#[test]
fn a_ring_id_is_a_node_and_a_sequence_number_without_padding() {
    let body = encoded_body(Options { ring: Some(RingId::new(1, 2)), ..Options::default() });
    assert_eq!(body, [0, 13, 0, 12, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2]);
}

#[test]
fn what_the_wire_has_no_word_for_is_left_out() {
    let info = NodeInfo { node: NodeId(0), data_center: 1, state: None };
    let options = Options {
        seq: Some(7),
        cluster_name: Some(ClusterName(vec![b'x'; 65536])),
        heuristics: Some(Heuristics::Undefined),
        nodes: vec![info],
        ..Options::default()
    };
    assert_eq!(encoded_body(options), SEQ_7);
    let info = NodeInfo { node: NodeId(1), data_center: 0, state: None };
    let body = encoded_body(Options { nodes: vec![info], ..Options::default() });
    assert_eq!(body, option(17, &option(9, &[0, 0, 0, 1])));
}

#[test]
fn the_stock_lists_are_those_of_the_stock_peers() {
    assert_eq!(supported_messages(), (0..=17).collect::<Vec<u16>>());
    assert_eq!(stock_options(), (0..=23).collect::<Vec<u16>>());
}

// Error codes (wire 1.6).

#[test]
fn error_codes_and_message_types_have_their_numbers() {
    for number in 0..=u16::MAX {
        let code = ErrorCode::from_u16(number).map(|code| code as u16);
        assert_eq!(code, (number < 20).then_some(number));
        let kind = MessageType::from_u16(number).map(|kind| kind as u16);
        assert_eq!(kind, (number < 18).then_some(number));
    }
}

#[test]
fn a_server_error_has_a_sequence_number_only_if_the_request_had_one() {
    let with = Message::server_error(Some(7), ErrorCode::ErrorDecodingMessage).encode();
    assert_eq!(with, [0, 5, 0, 0, 0, 14, 0, 0, 0, 4, 0, 0, 0, 7, 0, 6, 0, 2, 0, 9]);
    let without = Message::server_error(None, ErrorCode::MessageTooLong).encode();
    assert_eq!(without, [0, 5, 0, 0, 0, 6, 0, 6, 0, 2, 0, 5]);
}

#[test]
fn errors_are_said_in_one_lower_case_line() {
    let codes = ErrorCode::ALL.iter().map(ToString::to_string);
    let faults = [
        DecodeFault::UnknownType(99),
        DecodeFault::Empty,
        DecodeFault::Overrun(1),
        DecodeFault::TrailingBytes,
        DecodeFault::Length { option: 1, bytes: 2 },
        DecodeFault::Value(1),
        DecodeFault::NoNodeId,
    ];
    let errors = faults.map(|what| DecodeError { seq: None, what }.to_string());
    let too_long = FrameError::TooLong { kind: 8, total_bytes: 32769 };
    for text in codes.chain(errors).chain([too_long.to_string()]) {
        assert!(text.starts_with(|c: char| c.is_ascii_lowercase()), "{text}");
        assert!(!text.contains('\n') && !text.ends_with('.'), "{text}");
    }
    assert_eq!(too_long.to_string(), "message of type 8 and 32769 bytes is over the limit");
}

// The private options (documented in `qnet::lease`).

/// The bytes of [`VIEW`].
fn view_bytes() -> Vec<u8> {
    [&0xd0u32.to_be_bytes()[..], &0xe0u64.to_be_bytes(), &0xf0u64.to_be_bytes()].concat()
}

/// The bytes of [`GRANT_ID`].
fn grant_id_bytes() -> Vec<u8> {
    [&0xa0u128.to_be_bytes()[..], &0xb0u32.to_be_bytes(), &0xc0u64.to_be_bytes()].concat()
}

/// The bytes of [`HELLO`] with another version and a lease flag.
fn hello_bytes(version: u16, held: u8) -> Vec<u8> {
    [
        &version.to_be_bytes()[..],
        &1u64.to_be_bytes(),
        &2u128.to_be_bytes(),
        &[2],
        &3u32.to_be_bytes(),
        &[4],
        &5u32.to_be_bytes(),
        &6u64.to_be_bytes(),
        &[held],
    ]
    .concat()
}

fn held_bytes() -> Vec<u8> {
    [grant_id_bytes(), view_bytes(), 0x60u32.to_be_bytes().to_vec()].concat()
}

#[test]
fn private_options_have_the_documented_layouts() {
    let hello = Hello { held: Some(HELD), ..HELLO };
    let none = Options::default;
    for (options, number, value) in [
        (Options { hello: Some(HELLO), ..none() }, 0x4841, hello_bytes(1, 0)),
        (
            Options { hello: Some(hello), ..none() },
            0x4841,
            [hello_bytes(1, 1), held_bytes()].concat(),
        ),
        (
            Options { view_note: Some(VIEW_NOTE), ..none() },
            0x4842,
            [1u64, 2, 3].iter().flat_map(|n| n.to_be_bytes()).collect(),
        ),
        (
            Options { renewal: Some(RENEWAL), ..none() },
            0x4843,
            [grant_id_bytes(), view_bytes(), 0x30u64.to_be_bytes().to_vec()].concat(),
        ),
        (
            Options { grant: Some(GRANT), ..none() },
            0x4844,
            [grant_id_bytes(), view_bytes(), vec![0, 0, 0, 0x10, 0, 0, 0, 0x20]].concat(),
        ),
        (
            Options { arbiter_hello: Some(ArbiterHello { id: ArbiterId(7), boot: 8 }), ..none() },
            0x4845,
            [&[0, 1][..], &7u128.to_be_bytes(), &8u32.to_be_bytes()].concat(),
        ),
        (Options { epoch: Some(Epoch(9)), ..none() }, 0x4846, vec![0, 0, 0, 0, 0, 0, 0, 9]),
        (Options { worst_case_ms: Some(10), ..none() }, 0x4847, vec![0, 0, 0, 10]),
    ] {
        let body = option(number, &value);
        assert_eq!(encoded_body(options.clone()), body, "option {number:x}");
        assert_eq!(decode(body), Ok(options), "option {number:x}");
    }
}

#[test]
fn a_newer_hello_is_read_as_far_as_we_know_it() {
    let longer = |version, held: &[u8]| {
        let flag = u8::from(!held.is_empty());
        option(OPTION_HELLO, &[&hello_bytes(version, flag)[..], held, b"more"].concat())
    };
    assert_eq!(decode(longer(2, &[])).unwrap().hello, Some(HELLO));
    let held = decode(longer(9, &held_bytes())).unwrap().hello.unwrap().held;
    assert_eq!(held, Some(HELD));
    assert_eq!(fault(longer(1, &[])), Some(DecodeFault::Length { option: 0x4841, bytes: 49 }));
    let short = option(OPTION_HELLO, &hello_bytes(2, 1));
    assert_eq!(fault(short), Some(DecodeFault::Length { option: 0x4841, bytes: 45 }));
    assert_eq!(fault(option(OPTION_HELLO, &hello_bytes(0, 0))), Some(DecodeFault::Value(0x4841)));
}

#[test]
fn a_newer_arbiter_hello_is_read_as_far_as_we_know_it() {
    let bytes = |version: u16, more: &[u8]| {
        let parts = [&version.to_be_bytes()[..], &[0; 20], more];
        option(OPTION_ARBITER_HELLO, &parts.concat())
    };
    let expected = Some(ArbiterHello { id: ArbiterId(0), boot: 0 });
    assert_eq!(decode(bytes(2, b"more")).unwrap().arbiter_hello, expected);
    assert_eq!(fault(bytes(1, b"m")), Some(DecodeFault::Length { option: 0x4845, bytes: 23 }));
    assert_eq!(fault(bytes(0, b"")), Some(DecodeFault::Value(0x4845)));
}

#[test]
fn the_checked_bytes_of_a_hello_hold_listed_numbers() {
    for (at, allowed) in [(26, 1..=2), (31, 1..=4), (44, 0..=0)] {
        for value in (0..=u8::MAX).filter(|value| (at, *value) != (44, 1)) {
            let mut bytes = hello_bytes(1, 0);
            bytes[at] = value;
            let wrong = (!allowed.contains(&value)).then_some(DecodeFault::Value(OPTION_HELLO));
            assert_eq!(fault(option(OPTION_HELLO, &bytes)), wrong, "byte {at}: {value}");
        }
    }
}
