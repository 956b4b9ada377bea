//! Messages captured between stock daemons (`tests/vectors/qnetd.txt`).

use std::collections::BTreeMap;

use protocol::qnet::{
    DecodeError, DecodeFault, Frame, HEADER_BYTES, MESSAGE_LIMIT_BYTES, Message, MessageType,
    Options,
};

use crate::deframe;

const TEXT: &str = include_str!("../vectors/qnetd.txt");
const COUNT: usize = 715;

/// The one line that is no message: TLS has begun.
const CLIENT_HELLO: &str = "A2-04-NSS-ClientHello-with-SNI-'Qnetd Server'";

/// Lines that were sent to see what the server says of them.
const FAULTS: [(&str, Option<u32>, DecodeFault); 10] = [
    ("E-007-E03-type99", None, DecodeFault::UnknownType(99)),
    ("E-019-E05-echo-request", None, DecodeFault::Empty),
    ("E-023-E05b-starttls", None, DecodeFault::Empty),
    ("E-029-E06-echo-request", Some(7), DecodeFault::Length { option: 9, bytes: 2 }),
    ("E-035-E06b-echo-request", Some(7), DecodeFault::Overrun(200)),
    ("E-041-E06c-echo-request", Some(7), DecodeFault::TrailingBytes),
    ("E-046-E06d-echo-request", Some(7), DecodeFault::Value(19)),
    ("E-050-E06e-init", Some(2), DecodeFault::Value(21)),
    ("E-136-E12d-node-list-initcfg", Some(10), DecodeFault::NoNodeId),
    ("E-230-E18c-heuristics-change", Some(20), DecodeFault::Value(22)),
];

/// What the names of the lines call each type; the longest one in a name counts.
const TYPE_NAMES: [(&str, MessageType); 18] = [
    ("-preinit", MessageType::Preinit),
    ("-preinit-reply", MessageType::PreinitReply),
    ("-starttls", MessageType::StartTls),
    ("-init", MessageType::Init),
    ("-init-reply", MessageType::InitReply),
    ("-server-error", MessageType::ServerError),
    ("-set-option", MessageType::SetOption),
    ("-set-option-reply", MessageType::SetOptionReply),
    ("-echo-request", MessageType::EchoRequest),
    ("-echo-reply", MessageType::EchoReply),
    ("-node-list", MessageType::NodeList),
    ("-node-list-reply", MessageType::NodeListReply),
    ("-ask-for-vote", MessageType::AskForVote),
    ("-ask-for-vote-reply", MessageType::AskForVoteReply),
    ("-vote-info", MessageType::VoteInfo),
    ("-vote-info-reply", MessageType::VoteInfoReply),
    ("-heuristics-change", MessageType::HeuristicsChange),
    ("-heuristics-change-reply", MessageType::HeuristicsChangeReply),
];

struct Vector {
    name: &'static str,
    bytes: Vec<u8>,
}

impl Vector {
    fn parse(line: &'static str) -> Self {
        let [name, direction, hex] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("not a vector: {line}");
        };
        assert!(matches!(direction, "C>S" | "S>C"), "{name}: {direction}");
        let digits = |start| u8::from_str_radix(&hex[start..start + 2], 16).unwrap();
        Self { name, bytes: (0..hex.len()).step_by(2).map(digits).collect() }
    }

    /// The line as one frame, cut out without the codec.
    fn frame(&self) -> Frame {
        let (header, body) = self.bytes.split_at(HEADER_BYTES);
        let length = u32::from_be_bytes([header[2], header[3], header[4], header[5]]);
        assert_eq!(body.len(), usize::try_from(length).unwrap(), "{}", self.name);
        Frame { kind: u16::from_be_bytes([header[0], header[1]]), body: body.to_vec() }
    }

    fn fault(&self) -> Option<DecodeError> {
        let (_, seq, what) = FAULTS.into_iter().find(|(name, _, _)| *name == self.name)?;
        Some(DecodeError { seq, what })
    }
}

fn lines() -> impl Iterator<Item = Vector> {
    TEXT.lines().filter(|line| !line.starts_with('#')).map(Vector::parse)
}

/// All lines but the TLS record.
fn messages() -> impl Iterator<Item = Vector> {
    lines().filter(|vector| vector.name != CLIENT_HELLO)
}

#[test]
fn the_file_holds_all_vectors() {
    assert_eq!(lines().count(), COUNT);
    assert_eq!(messages().count(), COUNT - 1);
    assert_eq!(messages().filter(|vector| vector.fault().is_some()).count(), FAULTS.len());
}

#[test]
fn every_vector_decodes_to_the_type_of_its_name_or_to_its_named_fault() {
    for vector in messages() {
        let decoded = Message::decode(&vector.frame());
        match vector.fault() {
            Some(fault) => assert_eq!(decoded, Err(fault), "{}", vector.name),
            None => {
                let kind = decoded.unwrap_or_else(|e| panic!("{}: {e}", vector.name)).kind;
                let named = TYPE_NAMES.iter().filter(|(name, _)| vector.name.contains(name));
                let named = named.max_by_key(|(name, _)| name.len()).map(|(_, kind)| *kind);
                assert_eq!(Some(kind), named, "{}", vector.name);
            }
        }
    }
}

#[test]
fn every_vector_comes_out_of_the_stream_however_it_is_cut() {
    for vector in messages() {
        // An unknown type is passed over, so nothing of its body is kept.
        let mut expected = vector.frame();
        if MessageType::from_u16(expected.kind).is_none() {
            expected.body.clear();
        }
        let expected = (vec![Ok(expected)], 0);
        for cut in 0..=vector.bytes.len() {
            let (start, end) = vector.bytes.split_at(cut);
            assert_eq!(deframe(MESSAGE_LIMIT_BYTES, [start, end]), expected, "{}", vector.name);
        }
        let single_bytes = vector.bytes.chunks(1);
        assert_eq!(deframe(MESSAGE_LIMIT_BYTES, single_bytes), expected, "{}", vector.name);
    }
}

#[test]
fn the_vectors_in_one_stream_come_out_one_by_one() {
    let stream: Vec<u8> = messages().flat_map(|vector| vector.bytes).collect();
    let kinds: Vec<u16> = messages().map(|vector| vector.frame().kind).collect();
    let (outcomes, unfinished) = deframe(MESSAGE_LIMIT_BYTES, stream.chunks(1000));
    let outcomes: Vec<u16> = outcomes.into_iter().map(|outcome| outcome.unwrap().kind).collect();
    assert_eq!((outcomes, unfinished), (kinds, 0));
}

#[test]
fn a_tls_record_is_no_message() {
    let vector = lines().find(|vector| vector.name == CLIENT_HELLO).unwrap();
    let expected = (vec![], vector.bytes.len());
    assert_eq!(deframe(MESSAGE_LIMIT_BYTES, [&vector.bytes[..]]), expected);
}

#[test]
fn a_truncated_body_is_an_error_unless_it_ends_with_an_option() {
    for vector in messages() {
        let whole = vector.frame();
        for length in 0..whole.body.len() {
            let body = whole.body[..length].to_vec();
            let ends = option_ends(&whole.body).contains(&length);
            let decoded = Message::decode(&Frame { kind: whole.kind, body });
            if vector.fault().is_none() {
                assert_eq!(decoded.is_ok(), ends, "{} cut to {length}", vector.name);
            } else {
                assert!(decoded.is_err() || ends, "{} cut to {length}", vector.name);
            }
        }
    }
}

/// Where a body may end so that its last option is whole.
fn option_ends(body: &[u8]) -> Vec<usize> {
    let mut ends = Vec::new();
    let mut end = 0;
    while let Some([_, _, c, d]) = body.get(end..).and_then(|rest| rest.first_chunk()) {
        end += 4 + usize::from(u16::from_be_bytes([*c, *d]));
        ends.push(end);
    }
    ends
}

#[test]
fn every_vector_of_known_options_is_encoded_to_the_same_bytes() {
    let mut unknown_options = Vec::new();
    for vector in messages().filter(|vector| vector.fault().is_none()) {
        let frame = vector.frame();
        let encoded = Message::decode(&frame).unwrap().encode();
        if crate::option_numbers(&frame.body).iter().all(|number| *number <= 23) {
            assert_eq!(encoded, vector.bytes, "{}", vector.name);
        } else {
            unknown_options.push(vector.name);
        }
        assert_eq!(frame.encode(), vector.bytes, "{}", vector.name);
    }
    assert_eq!(unknown_options, ["E-259-E21-echo-request", "E-260-E21-echo-reply"]);
}

#[test]
fn echo_replies_are_the_captured_ones() {
    let mut requests = BTreeMap::new();
    let mut replies = 0;
    for vector in messages() {
        let client = vector.name.split('-').nth(2);
        let frame = vector.frame();
        if frame.kind == MessageType::EchoRequest as u16 {
            requests.insert(client, frame);
        } else if frame.kind == MessageType::EchoReply as u16 {
            let reply = requests[&client].echo_reply(&Options::default());
            assert_eq!(reply, vector.bytes, "{}", vector.name);
            replies += 1;
        }
    }
    assert_eq!(replies, 34);
}
