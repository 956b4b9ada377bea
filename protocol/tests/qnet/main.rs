//! The qnetd wire from outside: captured messages, the rules one by one, and properties.

#[cfg(test)]
mod properties;
#[cfg(test)]
mod rules;
#[cfg(test)]
mod vectors;

use protocol::qnet::{Deframer, Frame, FrameError};

/// What a deframer makes of a stream that comes in `pieces`, and how many bytes of an unfinished
/// message are left over at the end.
fn deframe<'a>(
    limit_bytes: u32,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<Result<Frame, FrameError>>, usize) {
    let mut deframer = Deframer::new(limit_bytes);
    let (mut outcomes, mut unfinished) = (Vec::new(), 0);
    for mut piece in pieces {
        while !piece.is_empty() {
            let (taken, outcome) = deframer.feed(piece);
            assert!(taken > 0, "a deframer always goes on");
            piece = &piece[taken..];
            unfinished += taken;
            if let Some(outcome) = outcome {
                outcomes.push(outcome);
                unfinished = 0;
            }
        }
    }
    (outcomes, unfinished)
}

/// The bytes of one option.
fn option(number: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
    [&number.to_be_bytes()[..], &length.to_be_bytes(), value].concat()
}

/// The numbers of the options in a well-formed body, walked without the codec.
fn option_numbers(mut body: &[u8]) -> Vec<u16> {
    let mut numbers = Vec::new();
    while let Some(([a, b, c, d], rest)) = body.split_first_chunk() {
        numbers.push(u16::from_be_bytes([*a, *b]));
        body = &rest[usize::from(u16::from_be_bytes([*c, *d]))..];
    }
    numbers
}
