//! What clients say wrongly (wire 2.6, E01 to E22), as bytes, and what they hear.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use protocol::ids::RingId;
use protocol::qnet::{Message, MessageType, NodeListType, numbers};
use protocol::vote::{Algorithm, TieBreaker};
use tokio::net::TcpStream;

use super::client::{
    Client, config_list, decode, echo, init, membership_list, preinit, raw, vote_reply,
};

/// Which connection says what.
pub(crate) type Step = (usize, Vec<u8>);

/// One case.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) steps: Vec<Step>,
    /// Why our answer differs from the stock daemon's, where it means to.
    pub(crate) difference: Option<&'static str>,
}

/// The sequence numbers of the echoes that show that everything before has been answered.
const MARKS: u32 = 0xe000_0000;

const RING: RingId = RingId::new(1, 5);

/// Plays a case; returns what each connection heard after each step.
pub(crate) async fn play(address: SocketAddr, steps: &[Step]) -> Vec<String> {
    let mut heard = Vec::new();
    let mut clients: BTreeMap<usize, Client<TcpStream>> = BTreeMap::new();
    for (number, (who, bytes)) in steps.iter().enumerate() {
        if !clients.contains_key(who) {
            clients.insert(*who, Client::connect(address).await);
        }
        clients.get_mut(who).unwrap().send_bytes(bytes).await;
        let mark = MARKS + u32::try_from(number).unwrap();
        let mut order: Vec<usize> = clients.keys().copied().collect();
        order.sort_by_key(|listener| listener != who);
        for listener in order {
            let client = clients.get_mut(&listener).unwrap();
            client.send_bytes(&echo(mark).encode()).await;
            loop {
                let Some(answer) = client.receive_bytes().await else {
                    heard.push(format!("{number} {listener} closed"));
                    return heard;
                };
                let hex: String = answer.iter().map(|byte| format!("{byte:02x}")).collect();
                heard.push(format!("{number} {listener} {hex}"));
                if decode(&answer).options.seq == Some(mark) {
                    break;
                }
            }
        }
    }
    heard
}

fn case(name: &'static str, messages: impl IntoIterator<Item = Vec<u8>>) -> Case {
    let steps = messages.into_iter().map(|message| (0, message)).collect();
    Case { name, steps, difference: None }
}

/// A case after a successful Init.
fn joined(name: &'static str, messages: impl IntoIterator<Item = Vec<u8>>) -> Case {
    joined_with(name, Algorithm::Ffsplit, messages)
}

fn joined_with(
    name: &'static str,
    algorithm: Algorithm,
    messages: impl IntoIterator<Item = Vec<u8>>,
) -> Case {
    let greeting = [
        hello(),
        change(init(1, RING), |m| {
            m.options.algorithm = Some(numbers::algorithm_number(algorithm));
        }),
    ];
    case(name, greeting.into_iter().chain(messages))
}

fn hello() -> Vec<u8> {
    preinit("TestCl").encode()
}

fn change(mut message: Message, edit: impl FnOnce(&mut Message)) -> Vec<u8> {
    edit(&mut message);
    message.encode()
}

fn bare(kind: MessageType) -> Message {
    Message::new(kind, Some(77))
}

fn with_seq(kind: u16, options: &[u8]) -> Vec<u8> {
    let mut body = vec![0, 0, 0, 4, 0, 0, 0, 77];
    body.extend(options);
    raw(kind, &body)
}

/// An echo request of this many bytes.
fn long(total: usize) -> Vec<u8> {
    let mut body = vec![0, 0, 0, 4, 0, 0, 0, 77, 0x12, 0x34];
    let filling = total - 6 - body.len() - 2;
    body.extend(u16::try_from(filling).unwrap().to_be_bytes());
    body.resize(body.len() + filling, b'x');
    raw(8, &body)
}

fn differs(mut case: Case, reason: &'static str) -> Case {
    case.difference = Some(reason);
    case
}

/// Every case that needs no TLS, for an arbiter with `-s off`.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = greetings();
    cases.extend(inits());
    cases.extend(lists());
    cases.extend(votes());
    cases
}

/// What plain text is answered where TLS is required.
pub(crate) fn plain_cases() -> Vec<Case> {
    vec![
        case("init", [hello(), init(1, RING).encode()]),
        case(
            "everything else",
            [
                hello(),
                config_list(4, &[1]).encode(),
                bare(MessageType::SetOption).encode(),
                bare(MessageType::AskForVote).encode(),
                vote_reply(1).encode(),
                bare(MessageType::HeuristicsChange).encode(),
                with_seq(5, &[]),
            ],
        ),
        case("init before preinit", [init(1, RING).encode()]),
    ]
}

fn greetings() -> Vec<Case> {
    let server_only = [1, 4, 5, 7, 9, 11, 13, 14, 17];
    vec![
        case("E01 init before preinit", [init(1, RING).encode()]),
        case("E02 starttls before preinit", [bare(MessageType::StartTls).encode()]),
        case("E03 unknown type", [raw(99, &[0, 0, 0, 4, 0, 0, 0, 1])]),
        differs(
            case("E03 unknown type without a body", [raw(99, &[])]),
            "the stock daemon says error 0, no error",
        ),
        joined("E04 a message of the limit, and one byte more", [long(32768), long(32769)]),
        case("E05 an empty body of every type", (0..18).map(|kind| raw(kind, &[]))),
        case(
            "E06 wrong lengths, overrun, trailing bytes, bad numbers",
            [
                raw(0, &[0, 0, 0, 3, 0, 0, 0]),
                raw(0, &[0, 0, 0, 4, 0, 0, 0, 9, 0, 1, 0, 9, b'x']),
                raw(0, &[0, 0, 0, 4, 0, 0, 0, 9, 1, 2, 3]),
                with_seq(3, &[0, 9, 0, 3, 0, 0, 1]),
                with_seq(3, &[0, 21, 0, 5, 9, 0, 0, 0, 0]),
                with_seq(10, &[0, 18, 0, 1, 4]),
                with_seq(10, &[0, 20, 0, 1, 2]),
                with_seq(16, &[0, 22, 0, 1, 0]),
                with_seq(6, &[0, 23, 0, 1, 2]),
                with_seq(15, &[0, 19, 0, 1, 0]),
            ],
        ),
        case("E07 what only a server says", server_only.map(|kind| with_seq(kind, &[]))),
        case(
            "E15 everything before init",
            [
                hello(),
                echo(3).encode(),
                config_list(4, &[1]).encode(),
                membership_list(5, RING, &[1]).encode(),
                bare(MessageType::SetOption).encode(),
                bare(MessageType::AskForVote).encode(),
                vote_reply(1).encode(),
                bare(MessageType::HeuristicsChange).encode(),
            ],
        ),
        case(
            "E17 preinit without name, and without number",
            [
                bare(MessageType::Preinit).encode(),
                change(preinit("x"), |m| m.options.seq = None),
                change(preinit(""), |_| {}),
            ],
        ),
        case("E22 starttls where tls is off", [hello(), bare(MessageType::StartTls).encode()]),
        case("preinit again before init", [hello(), preinit("Other").encode()]),
        differs(
            joined("preinit again after init", [preinit("Other").encode()]),
            "the name of a cluster is fixed once its client has joined (hazard 8.9)",
        ),
    ]
}

fn inits() -> Vec<Case> {
    let without = |name, edit: fn(&mut Message)| case(name, [hello(), change(init(1, RING), edit)]);
    let second = |name, edit: fn(&mut Message)| {
        let mut case = joined(name, []);
        case.steps.push((1, hello()));
        case.steps.push((1, change(init(2, RING), edit)));
        case
    };
    vec![
        without("E08 init without node id", |m| m.options.node_id = None),
        without("E08 init without ring id", |m| m.options.ring = None),
        without("E08 init without algorithm", |m| m.options.algorithm = None),
        without("E08 init without tie-breaker", |m| m.options.tie_breaker = None),
        without("E08 init without heartbeat", |m| m.options.heartbeat_ms = None),
        without("E08 init without node id and heartbeat", |m| {
            m.options.node_id = None;
            m.options.heartbeat_ms = None;
        }),
        without("E09 heartbeat too short", |m| m.options.heartbeat_ms = Some(999)),
        without("E09 heartbeat too long", |m| m.options.heartbeat_ms = Some(120_001)),
        without("E09 the longest heartbeat", |m| m.options.heartbeat_ms = Some(120_000)),
        without("E10 unknown algorithm", |m| m.options.algorithm = Some(9)),
        without("E10 unknown algorithm without node id", |m| {
            m.options.algorithm = Some(9);
            m.options.node_id = None;
        }),
        without("E10 init without lists and number", |m| {
            m.options.supported_messages = None;
            m.options.supported_options = None;
            m.options.seq = None;
        }),
        second("E11 another tie-breaker", |m| m.options.tie_breaker = Some(TieBreaker::Highest)),
        second("E11 another algorithm", |m| m.options.algorithm = Some(3)),
        second("E11 a node id that is taken", |m| m.options.node_id = Some(1)),
        second("E11 everything agrees", |_| {}),
        joined("E14 a second init", [init(1, RING).encode()]),
    ]
}

fn lists() -> Vec<Case> {
    let list = |edit: fn(&mut Message)| change(membership_list(9, RING, &[1]), edit);
    vec![
        joined(
            "E12 ffsplit lists without the sender, and empty",
            [
                config_list(3, &[2]).encode(),
                config_list(4, &[]).encode(),
                config_list(5, &[1, 2]).encode(),
                membership_list(6, RING, &[2]).encode(),
                membership_list(7, RING, &[]).encode(),
            ],
        ),
        joined(
            "E12 a node info with node id 0",
            [with_seq(10, &[0, 18, 0, 1, 0, 0, 17, 0, 8, 0, 9, 0, 4, 0, 0, 0, 0])],
        ),
        joined(
            "E16 lists without type, number, ring, quorate",
            [
                list(|m| m.options.list_type = None),
                list(|m| m.options.seq = None),
                list(|m| m.options.ring = None),
                list(|m| m.options.list_type = Some(NodeListType::Quorum)),
            ],
        ),
        joined_with(
            "2nodelms and a configuration of three",
            Algorithm::TwoNodeLms,
            [config_list(3, &[1, 2, 3]).encode()],
        ),
        joined("a configuration, and nothing else yet", [config_list(3, &[1, 2]).encode()]),
    ]
}

fn votes() -> Vec<Case> {
    let ask = || bare(MessageType::AskForVote).encode();
    let no_number = |kind| {
        change(bare(kind), |m| {
            m.options.seq = None;
            m.options.config_version = Some(1);
        })
    };
    vec![
        joined("E13 ask for vote, ffsplit", [ask()]),
        joined_with("E13 ask for vote, test", Algorithm::Test, [ask()]),
        joined_with("E13 ask for vote, 2nodelms", Algorithm::TwoNodeLms, [ask()]),
        joined("E13 ask for vote without number", [no_number(MessageType::AskForVote)]),
        joined(
            "E18 heuristics change without a result, and with a bad one",
            [
                bare(MessageType::HeuristicsChange).encode(),
                with_seq(16, &[0, 22, 0, 1, 3]),
                with_seq(16, &[0, 22, 0, 1, 1]),
            ],
        ),
        joined(
            "E19 set option",
            [
                change(bare(MessageType::SetOption), |m| m.options.heartbeat_ms = Some(1)),
                bare(MessageType::SetOption).encode(),
                change(bare(MessageType::SetOption), |m| m.options.heartbeat_ms = Some(2000)),
                change(bare(MessageType::SetOption), |m| {
                    m.options.keep_active_partition = Some(true)
                }),
            ],
        ),
        joined(
            "E20 a vote info reply that nobody waits for",
            [vote_reply(4711).encode(), no_number(MessageType::VoteInfoReply)],
        ),
        joined(
            "E21 an unknown option in an echo",
            [raw(8, &[0x12, 0x34, 0, 2, 5, 6, 0, 0, 0, 4, 0, 0, 0, 9])],
        ),
    ]
}
