//! Messages cut out of a byte stream (wire 1.2).

use thiserror::Error;

use super::message::{MessageType, Options};
use super::tlv::Writer;
use crate::fence::{FRAME_ANSWER, FRAME_CALL};

/// Type (u16) and length (u32) in front of every body.
pub const HEADER_BYTES: usize = 6;
/// Most bodies, and what is added to an echo, fit: room that is made once.
pub(super) const USUAL_BODY_BYTES: usize = 128;

/// One message as it came, not yet decoded.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Frame {
    /// The type's number, which may be unknown.
    pub kind: u16,
    /// The options, or what is in a frame of fencing ([`crate::fence`]); empty if the type is
    /// unknown, because nobody can read it.
    pub body: Vec<u8>,
}

impl Frame {
    /// The frame's bytes, header included. A body longer than its length field can state is cut,
    /// which a [`Deframer`] never yields and no encoder makes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = begin(self.kind, self.body.len());
        bytes.extend_from_slice(&self.body);
        finish(bytes)
    }

    /// The encoded echo reply to this echo request: a byte-for-byte copy but for the type (wire
    /// 1.3, type 9), unknown options included, and after it the private options of `extra`
    /// (a grant, an epoch), which only our own clients ask for. The other options of `extra` are
    /// not looked at.
    pub fn echo_reply(&self, extra: &Options) -> Vec<u8> {
        let room = self.body.len() + USUAL_BODY_BYTES;
        let mut bytes = begin(MessageType::EchoReply as u16, room);
        bytes.extend_from_slice(&self.body);
        let mut writer = Writer::after(bytes);
        extra.write_private(&mut writer);
        finish(writer.into_bytes())
    }
}

/// The header of a frame, whose length [`finish`] fills in, with room for a body of `room` bytes.
pub(super) fn begin(kind: u16, room: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + room);
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes
}

/// Fills in the length of what follows the header, and cuts what no length can state.
pub(super) fn finish(mut bytes: Vec<u8>) -> Vec<u8> {
    let length = u32::try_from(bytes.len() - HEADER_BYTES).unwrap_or(u32::MAX);
    bytes.truncate(HEADER_BYTES.saturating_add(usize::try_from(length).unwrap_or(usize::MAX)));
    bytes[2..HEADER_BYTES].copy_from_slice(&length.to_be_bytes());
    bytes
}

/// A message that was not kept.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum FrameError {
    /// The message is over the limit; reported once all of it has come. A server answers
    /// [`ErrorCode::MessageTooLong`](super::ErrorCode::MessageTooLong) without a sequence number.
    #[error("message of type {kind} and {total_bytes} bytes is over the limit")]
    TooLong {
        /// The type's number.
        kind: u16,
        /// Header and body.
        total_bytes: u64,
    },
}

/// Cuts a stream into messages.
///
/// It never takes a byte that follows the current message, because after StartTLS that byte
/// belongs to TLS. A message over the limit, or of an unknown type, is passed over without being
/// stored; the unknown type is judged first, as the stock daemon does, so it is never too long:
/// its frame has an empty body and decodes to
/// [`DecodeFault::UnknownType`](super::DecodeFault::UnknownType). Memory grows with the bytes that
/// come, not with the length that a peer claims.
#[derive(Debug)]
pub struct Deframer {
    limit_bytes: u32,
    header: [u8; HEADER_BYTES],
    header_filled: usize,
    /// What is to come of the body; means nothing until the header is full.
    body_left: u32,
    /// What was kept of the body.
    body: Vec<u8>,
    fate: Fate,
}

/// What happens to the current body.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Kept,
    UnknownType,
    TooLong,
}

impl Deframer {
    /// A deframer at the start of a stream. `limit_bytes` is for header and body together; a
    /// message of exactly that size passes.
    pub fn new(limit_bytes: u32) -> Self {
        Self {
            limit_bytes,
            header: [0; HEADER_BYTES],
            header_filled: 0,
            body_left: 0,
            body: Vec::new(),
            fate: Fate::Kept,
        }
    }

    /// Sets the limit for every message whose header is not complete yet.
    pub fn set_limit(&mut self, limit_bytes: u32) {
        self.limit_bytes = limit_bytes;
    }

    /// Takes bytes up to the end of the current message, and no more. Returns how many it took,
    /// and the message if it is complete. The rest is for the next call, unless the message
    /// switches the stream to TLS.
    pub fn feed(&mut self, input: &[u8]) -> (usize, Option<Result<Frame, FrameError>>) {
        let header_taken = self.feed_header(input);
        if self.header_filled < HEADER_BYTES {
            return (header_taken, None);
        }
        let taken = header_taken + self.feed_body(&input[header_taken..]);
        let outcome = (self.body_left == 0).then(|| self.finish());
        (taken, outcome)
    }

    fn feed_header(&mut self, input: &[u8]) -> usize {
        let space = &mut self.header[self.header_filled..];
        let taken = space.len().min(input.len());
        space[..taken].copy_from_slice(&input[..taken]);
        self.header_filled += taken;
        if taken > 0 && self.header_filled == HEADER_BYTES {
            let (kind, length) = self.header_numbers();
            self.body_left = length;
            self.fate = if !is_known(kind) {
                Fate::UnknownType
            } else if total_bytes(length) > u64::from(self.limit_bytes) {
                Fate::TooLong
            } else {
                Fate::Kept
            };
        }
        taken
    }

    fn feed_body(&mut self, input: &[u8]) -> usize {
        let available = u32::try_from(input.len()).unwrap_or(u32::MAX);
        let part = self.body_left.min(available);
        self.body_left -= part;
        let taken = usize::try_from(part).unwrap_or(input.len());
        match self.fate {
            Fate::Kept => self.body.extend_from_slice(&input[..taken]),
            Fate::UnknownType | Fate::TooLong => {}
        }
        taken
    }

    fn finish(&mut self) -> Result<Frame, FrameError> {
        let (kind, length) = self.header_numbers();
        self.header_filled = 0;
        match self.fate {
            Fate::Kept | Fate::UnknownType => {
                Ok(Frame { kind, body: std::mem::take(&mut self.body) })
            }
            Fate::TooLong => Err(FrameError::TooLong { kind, total_bytes: total_bytes(length) }),
        }
    }

    fn header_numbers(&self) -> (u16, u32) {
        let [a, b, c, d, e, f] = self.header;
        (u16::from_be_bytes([a, b]), u32::from_be_bytes([c, d, e, f]))
    }
}

/// Somebody can read the body: it is a message, or a frame of fencing.
fn is_known(kind: u16) -> bool {
    MessageType::from_u16(kind).is_some() || [FRAME_CALL, FRAME_ANSWER].contains(&kind)
}

/// The size of a message whose header states `length`.
fn total_bytes(length: u32) -> u64 {
    HEADER_BYTES as u64 + u64::from(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claimed_length_allocates_nothing_before_its_bytes_come() {
        let mut deframer = Deframer::new(u32::MAX);
        let header = [0, 8, 0xff, 0xff, 0, 0];
        assert_eq!(deframer.feed(&header), (HEADER_BYTES, None));
        assert_eq!(deframer.body.capacity(), 0);
        assert_eq!(deframer.feed(&[0; 100]), (100, None));
        assert!(deframer.body.capacity() <= 200);
    }

    #[test]
    fn nothing_of_a_message_over_the_limit_or_of_an_unknown_type_is_stored() {
        for kind in [8, 99] {
            let mut deframer = Deframer::new(100);
            assert_eq!(deframer.feed(&[0, kind, 0xff, 0xff, 0xff, 0xff]), (HEADER_BYTES, None));
            for _ in 0..100 {
                assert_eq!(deframer.feed(&[7; 4096]), (4096, None));
            }
            assert_eq!(deframer.body.capacity(), 0, "type {kind}");
        }
    }
}
