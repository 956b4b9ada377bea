//! The protocol violations E01 to E22 of the wire, and the answers to them.

use protocol::ids::RingId;
use protocol::qnet::{
    ErrorCode, Frame, Message, MessageType, NodeListType, Options, TlsSupport, numbers,
};
use protocol::vote::{TieBreaker, Vote};
use qnetd::core::{ClientId, CloseReason, Event, Peer, Settings};

use crate::driver::{CLUSTER, Done, Driver, init, nodes};

fn plain() -> Driver {
    Driver::new(Settings { tls: TlsSupport::Supported, ..Settings::default() })
}

fn preinit() -> Message {
    let mut message = Message::new(MessageType::Preinit, Some(1));
    message.options.cluster_name = Some(CLUSTER.into());
    message
}

fn message(kind: MessageType, options: Options) -> Message {
    Message { kind, options }
}

/// The error code of the only answer.
fn code(done: &[Done]) -> (MessageType, u16, Option<u32>) {
    let [Done::Sent(_, answer)] = done else { panic!("{done:?}") };
    (answer.kind, answer.options.error_code.unwrap_or(0), answer.options.seq)
}

fn refused(done: &[Done], code_: ErrorCode, seq: Option<u32>) {
    assert_eq!(code(done), (MessageType::ServerError, code_ as u16, seq));
}

fn joined(driver: &mut Driver) {
    driver.connect(1);
    driver.say(1, &preinit());
    let done = driver.say(1, &message(MessageType::Init, init(1, RingId::new(1, 1))));
    assert_eq!(code(&done), (MessageType::InitReply, 0, Some(3)));
}

#[test]
fn e01_init_before_preinit() {
    let mut driver = plain();
    driver.connect(1);
    let done = driver.say(1, &message(MessageType::Init, init(1, RingId::new(1, 1))));
    assert_eq!(code(&done), (MessageType::InitReply, 6, Some(3)));
}

#[test]
fn e02_start_tls_before_preinit() {
    let mut driver = plain();
    driver.connect(1);
    let done = driver.say(1, &Message::new(MessageType::StartTls, Some(5)));
    refused(&done, ErrorCode::PreinitRequired, Some(5));
}

#[test]
fn e03_unknown_type() {
    let mut driver = plain();
    driver.connect(1);
    let frame = Frame { kind: 99, body: vec![0, 0, 0, 4, 0, 0, 0, 1] };
    let done = driver.event(Event::Received { client: ClientId(1), frame });
    refused(&done, ErrorCode::UnsupportedMessage, None);
}

#[test]
fn e04_too_long() {
    let mut driver = plain();
    driver.connect(1);
    let done = driver.event(Event::TooLong { client: ClientId(1) });
    refused(&done, ErrorCode::MessageTooLong, None);
}

#[test]
fn e05_empty_body_and_e06_bytes_that_make_no_sense() {
    let mut driver = plain();
    driver.connect(1);
    let frame = Frame { kind: 8, body: Vec::new() };
    let done = driver.event(Event::Received { client: ClientId(1), frame });
    refused(&done, ErrorCode::ErrorDecodingMessage, None);
    let frame = Frame { kind: 8, body: vec![0, 0, 0, 4, 0, 0, 0, 9, 0, 19, 0, 1, 77] };
    let done = driver.event(Event::Received { client: ClientId(1), frame });
    refused(&done, ErrorCode::ErrorDecodingMessage, Some(9));
}

#[test]
fn e07_messages_that_only_a_server_sends() {
    let mut driver = plain();
    joined(&mut driver);
    for kind in [1, 4, 5, 7, 9, 11, 13, 14, 17] {
        let kind = MessageType::from_u16(kind).unwrap();
        let done = driver.say(1, &Message::new(kind, Some(4)));
        refused(&done, ErrorCode::UnexpectedMessage, Some(4));
    }
}

#[test]
fn e08_to_e10_init_that_lacks_something_or_is_out_of_range() {
    let full = init(1, RingId::new(1, 1));
    let table = [
        (7, Options { node_id: None, ..full.clone() }),
        (7, Options { ring: None, ..full.clone() }),
        (7, Options { algorithm: None, ..full.clone() }),
        (7, Options { tie_breaker: None, ..full.clone() }),
        (7, Options { heartbeat_ms: None, ..full.clone() }),
        (13, Options { node_id: None, heartbeat_ms: None, ..full.clone() }),
        (13, Options { heartbeat_ms: Some(999), ..full.clone() }),
        (13, Options { heartbeat_ms: Some(120_001), ..full.clone() }),
        (12, Options { algorithm: Some(9), ..full.clone() }),
        (12, Options { node_id: None, algorithm: Some(9), ..full.clone() }),
    ];
    for (expected, options) in table {
        let mut driver = plain();
        driver.connect(1);
        driver.say(1, &preinit());
        let done = driver.say(1, &message(MessageType::Init, options.clone()));
        assert_eq!(code(&done), (MessageType::InitReply, expected, Some(3)), "{options:?}");
    }
}

#[test]
fn e10_init_without_lists_and_seq_is_answered_without_them() {
    let mut driver = plain();
    driver.connect(1);
    driver.say(1, &preinit());
    let options = Options {
        seq: None,
        supported_messages: None,
        supported_options: None,
        ..init(1, RingId::new(1, 1))
    };
    let done = driver.say(1, &message(MessageType::Init, options));
    let [Done::Sent(_, answer)] = done.as_slice() else { panic!("{done:?}") };
    assert_eq!(answer.options.seq, None);
    assert_eq!(answer.options.supported_messages, None);
    assert_eq!(answer.options.supported_options, None);
    assert_eq!(answer.options.max_request_bytes, Some(32768));
}

#[test]
fn e11_conflicts_with_other_nodes() {
    let full = init(2, RingId::new(2, 1));
    let table = [
        (15, Options { tie_breaker: Some(TieBreaker::Highest), ..full.clone() }),
        (16, Options { algorithm: Some(3), ..full.clone() }),
        (17, Options { node_id: Some(1), ..full.clone() }),
        (0, full),
    ];
    for (expected, options) in table {
        let mut driver = plain();
        joined(&mut driver);
        driver.connect(2);
        driver.say(2, &preinit());
        let done = driver.say(2, &message(MessageType::Init, options));
        assert_eq!(code(&done), (MessageType::InitReply, expected, Some(3)));
    }
}

#[test]
fn e12_lists_without_the_sender_or_empty() {
    let mut driver = plain();
    joined(&mut driver);
    for (list, ids, expected) in [
        (NodeListType::InitialConfig, &[2][..], ErrorCode::InvalidConfigNodeList),
        (NodeListType::InitialConfig, &[], ErrorCode::InvalidConfigNodeList),
        (NodeListType::Membership, &[2], ErrorCode::InvalidMembershipNodeList),
        (NodeListType::Membership, &[], ErrorCode::InvalidMembershipNodeList),
    ] {
        let mut text = Message::new(MessageType::NodeList, Some(5));
        text.options.list_type = Some(list);
        text.options.ring = Some(RingId::new(1, 2));
        text.options.nodes = nodes(ids);
        refused(&driver.say(1, &text), expected, Some(5));
    }
}

#[test]
fn e13_ask_for_vote_by_algorithm() {
    for (algorithm, expected) in [
        (1, Err(ErrorCode::UnsupportedDecisionAlgorithmMessage)),
        (0, Ok(Vote::Ack)),
        (2, Ok(Vote::AskLater)),
    ] {
        let mut driver = plain();
        driver.connect(1);
        driver.say(1, &preinit());
        let options = Options { algorithm: Some(algorithm), ..init(1, RingId::new(1, 1)) };
        driver.say(1, &message(MessageType::Init, options));
        let done = driver.say(1, &Message::new(MessageType::AskForVote, Some(9)));
        match expected {
            Err(code) => refused(&done, code, Some(9)),
            Ok(vote) => {
                let [Done::Sent(_, answer)] = done.as_slice() else { panic!("{done:?}") };
                assert_eq!(answer.options.vote, Some(vote), "{algorithm}");
            }
        }
        assert!(numbers::algorithm_from_number(algorithm).is_some());
    }
}

#[test]
fn e14_a_second_init_is_a_duplicate_and_changes_nothing() {
    let mut driver = plain();
    joined(&mut driver);
    let options = Options { node_id: Some(2), ..init(2, RingId::new(2, 9)) };
    let done = driver.say(1, &message(MessageType::Init, options));
    assert_eq!(code(&done), (MessageType::InitReply, 17, Some(3)));
    let status = driver.arbiter.status(driver.now);
    assert_eq!(status.clusters[CLUSTER].nodes.keys().copied().collect::<Vec<_>>(), [1]);
}

#[test]
fn e15_before_init() {
    let mut driver = plain();
    driver.connect(1);
    driver.say(1, &preinit());
    for kind in [6, 8, 10, 12, 15, 16] {
        let kind = MessageType::from_u16(kind).unwrap();
        let done = driver.say(1, &Message::new(kind, Some(7)));
        refused(&done, ErrorCode::InitRequired, Some(7));
    }
}

#[test]
fn e16_lists_that_lack_something() {
    let mut driver = plain();
    joined(&mut driver);
    let full = Options {
        seq: Some(5),
        list_type: Some(NodeListType::Membership),
        ring: Some(RingId::new(1, 2)),
        nodes: nodes(&[1]),
        ..Options::default()
    };
    for options in [
        Options { list_type: None, ..full.clone() },
        Options { seq: None, ..full.clone() },
        Options { ring: None, ..full.clone() },
        Options { list_type: Some(NodeListType::Quorum), ..full.clone() },
    ] {
        let seq = options.seq;
        let done = driver.say(1, &message(MessageType::NodeList, options));
        refused(&done, ErrorCode::RequiredOptionMissing, seq);
    }
}

#[test]
fn e17_preinit_without_name_or_seq() {
    let mut driver = plain();
    driver.connect(1);
    let done = driver.say(1, &Message::new(MessageType::Preinit, Some(2)));
    refused(&done, ErrorCode::RequiredOptionMissing, Some(2));
    let mut text = preinit();
    text.options.seq = None;
    let done = driver.say(1, &text);
    let [Done::Sent(_, answer)] = done.as_slice() else { panic!("{done:?}") };
    assert_eq!((answer.kind, answer.options.seq), (MessageType::PreinitReply, None));
}

#[test]
fn e18_heuristics_change_before_lists_or_without_a_result() {
    let mut driver = plain();
    joined(&mut driver);
    let done = driver.say(1, &Message::new(MessageType::HeuristicsChange, Some(4)));
    refused(&done, ErrorCode::RequiredOptionMissing, Some(4));
    let mut text = Message::new(MessageType::HeuristicsChange, Some(5));
    text.options.heuristics = Some(protocol::vote::Heuristics::Pass);
    let done = driver.say(1, &text);
    let [Done::Sent(_, answer)] = done.as_slice() else { panic!("{done:?}") };
    assert_eq!(answer.options.vote, Some(Vote::AskLater));
}

#[test]
fn e19_set_option_out_of_range_and_empty() {
    let mut driver = plain();
    joined(&mut driver);
    let mut text = Message::new(MessageType::SetOption, Some(4));
    text.options.heartbeat_ms = Some(1);
    refused(&driver.say(1, &text), ErrorCode::InvalidHeartbeatInterval, Some(4));
    let done = driver.say(1, &Message::new(MessageType::SetOption, Some(5)));
    let reply = Message::new(MessageType::SetOptionReply, Some(5));
    assert_eq!(done, [Done::Sent(1, Box::new(reply))]);
}

#[test]
fn e20_a_reply_to_no_vote_info_is_ignored() {
    let mut driver = plain();
    joined(&mut driver);
    assert_eq!(driver.say(1, &Message::new(MessageType::VoteInfoReply, Some(77))), []);
}

#[test]
fn e21_unknown_options_of_an_echo_are_mirrored() {
    let mut driver = plain();
    joined(&mut driver);
    let body = vec![0, 0, 0, 4, 0, 0, 0, 1, 0x12, 0x34, 0, 1, 7];
    let frame = Frame { kind: 8, body: body.clone() };
    driver.arbiter.handle(driver.now, Event::Received { client: ClientId(1), frame });
    let expected = Frame { kind: 9, body }.encode();
    let action = driver.arbiter.next_action();
    assert_eq!(action, Some(qnetd::core::Action::Send { client: ClientId(1), bytes: expected }));
}

#[test]
fn e22_start_tls_where_tls_is_off_closes() {
    let settings = Settings { tls: TlsSupport::Unsupported, ..Settings::default() };
    let mut driver = Driver::new(settings);
    driver.connect(1);
    driver.say(1, &preinit());
    let done = driver.say(1, &Message::new(MessageType::StartTls, Some(2)));
    assert_eq!(done, [Done::Closed(1, CloseReason::TlsUnavailable)]);
}

#[test]
fn plain_text_is_refused_where_tls_is_required() {
    let mut driver = Driver::new(Settings::default());
    driver.connect(1);
    driver.say(1, &preinit());
    let done = driver.say(1, &message(MessageType::Init, init(1, RingId::new(1, 1))));
    refused(&done, ErrorCode::TlsRequired, Some(3));
}

#[test]
fn the_cluster_name_is_fixed_at_verification() {
    let mut driver = Driver::new(Settings::default());
    driver.connect(1);
    driver.say(1, &preinit());
    driver.say(1, &Message::new(MessageType::StartTls, Some(2)));
    let identity = Some(Peer { cluster: CLUSTER.into(), node: None, gateway: false });
    driver.event(Event::Secured { client: ClientId(1), identity });
    let mut other = preinit();
    other.options.cluster_name = Some("other".into());
    refused(&driver.say(1, &other), ErrorCode::UnexpectedMessage, Some(1));
}

#[test]
fn a_certificate_of_another_cluster_or_another_node_closes() {
    let mut driver = Driver::new(Settings::default());
    driver.connect(1);
    driver.say(1, &preinit());
    driver.say(1, &Message::new(MessageType::StartTls, Some(2)));
    let identity = Some(Peer { cluster: "C".into(), node: None, gateway: false });
    let done = driver.event(Event::Secured { client: ClientId(1), identity });
    assert_eq!(done, [Done::Closed(1, CloseReason::WrongIdentity)]);

    driver.connect(2);
    driver.say(2, &preinit());
    driver.say(2, &Message::new(MessageType::StartTls, Some(2)));
    let identity = Some(Peer {
        cluster: CLUSTER.into(),
        node: Some(protocol::ids::NodeId(2)),
        gateway: false,
    });
    driver.event(Event::Secured { client: ClientId(2), identity });
    let done = driver.say(2, &message(MessageType::Init, init(1, RingId::new(1, 1))));
    assert!(done.contains(&Done::Closed(2, CloseReason::WrongIdentity)), "{done:?}");
}

#[test]
fn a_connection_that_never_introduces_itself_is_closed() {
    let mut driver = plain();
    driver.connect(1);
    let done = driver.pass(20_000);
    assert_eq!(done, [Done::Closed(1, CloseReason::TooSlow)]);
}

#[test]
fn a_silent_client_is_closed_after_one_and_a_half_heartbeats() {
    let mut driver = plain();
    joined(&mut driver);
    assert_eq!(driver.pass(11_999), []);
    assert_eq!(driver.pass(1), [Done::Closed(1, CloseReason::Silent)]);
}
