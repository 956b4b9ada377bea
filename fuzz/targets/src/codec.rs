//! What comes as bytes from another machine: the stream of a connection, one message, one beat.

use protocol::cluster::Beat;
use protocol::qnet::{Deframer, Frame, FrameError, HEADER_BYTES, Message, MessageType, Options};

use crate::tape::Tape;

/// A stream cut into messages is the same however it comes in pieces, and nothing over the limit
/// is kept. Tape: the limit, the length of the pieces' pattern, the pattern, the stream.
pub fn framing(data: &[u8]) {
    let mut tape = Tape::new(data);
    let limit = u32::from(tape.u16());
    let pattern_bytes = tape.below(16);
    let pattern = tape.bytes(pattern_bytes);
    let stream = tape.rest();
    let whole = cut(limit, stream, std::iter::repeat(stream.len()));
    let pieces = pattern.iter().map(|byte| usize::from(*byte)).chain([1]);
    let pieced = cut(limit, stream, pieces.cycle());
    assert_eq!(whole, pieced, "pieces make a difference");
    for frame in whole.iter().flatten() {
        let known = MessageType::from_u16(frame.kind).is_some();
        assert!(known || frame.body.is_empty(), "a body that nobody can read was kept");
        let bytes = frame.encode();
        assert!(!known || u32::try_from(bytes.len()).is_ok_and(|length| length <= limit));
        let again = cut(u32::MAX, &bytes, std::iter::repeat(bytes.len()));
        assert_eq!(again, [Ok(frame.clone())], "written and cut again");
    }
}

/// Every message of a stream that is handed over in pieces of these lengths (0 is an empty read).
fn cut(
    limit: u32,
    mut stream: &[u8],
    pieces: impl Iterator<Item = usize>,
) -> Vec<Result<Frame, FrameError>> {
    let mut deframer = Deframer::new(limit);
    let mut found = Vec::new();
    for piece in pieces {
        if stream.is_empty() {
            break;
        }
        let mut input = &stream[..piece.min(stream.len())];
        loop {
            let (taken, outcome) = deframer.feed(input);
            assert!(taken <= input.len(), "took more than there is");
            assert!(outcome.is_some() || taken == input.len(), "left bytes without a message");
            assert!(outcome.is_none() || taken > 0, "a message out of nothing");
            input = &input[taken..];
            stream = &stream[taken..];
            found.extend(outcome);
            if input.is_empty() {
                break;
            }
        }
    }
    found
}

/// What decodes is written and decodes to the same; an echo's answer can be read and has the
/// echo's number. The input is the type and the body.
pub fn message(data: &[u8]) {
    let Some((kind, body)) = data.split_first_chunk() else { return };
    let frame = Frame { kind: u16::from_be_bytes(*kind), body: body.to_vec() };
    let Ok(message) = Message::decode(&frame) else { return };
    let bytes = message.encode();
    if bytes.len() == HEADER_BYTES {
        assert_eq!(message.options, Options::default(), "said something, and wrote nothing");
    } else {
        let again =
            Message::decode(&Frame { kind: frame.kind, body: bytes[HEADER_BYTES..].into() });
        assert_eq!(again.as_ref(), Ok(&message), "written and read again");
    }
    if message.kind == MessageType::EchoRequest {
        let reply = frame.echo_reply(&message.options);
        let body = reply.get(HEADER_BYTES..).unwrap_or_default().to_vec();
        let reply = Message::decode(&Frame { kind: MessageType::EchoReply as u16, body });
        assert_eq!(reply.map(|reply| reply.options), Ok(message.options), "an echo's answer");
    }
}

/// A beat that is read is written and read the same, and fits a datagram again.
pub fn beat(data: &[u8]) {
    let Ok(beat) = Beat::decode(data) else { return };
    let bytes = beat.encode().unwrap_or_else(|error| panic!("{beat:?}: {error}"));
    assert_eq!(Beat::decode(&bytes), Ok(beat), "written and read again");
}
