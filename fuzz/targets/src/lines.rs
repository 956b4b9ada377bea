//! What comes over local sockets: lines, however they are cut, and the messages in them.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use host::socket::Lines;
use node::keeper::message::{self, Command, Decoder, LINE_LIMIT, Launch, LineError, Report};
use protocol::host::{FromDevice, FromHost};
use protocol::status::{ArbiterStatus, NodeStatus};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, ReadBuf};

use crate::tape::Tape;

/// The commands of the arbiter's socket. The file is built here once more, because its reader is
/// nobody's business outside of the daemon.
#[path = "../../../qnetd/src/daemon/request.rs"]
mod request;

/// Lines come out as they went in, up to the first that is too long, and every message in one is
/// written and read the same. Tape: the limit, the length of the pieces' pattern, the pattern, the
/// stream.
pub fn lines(data: &[u8]) {
    let mut tape = Tape::new(data);
    let limit = usize::from(tape.u16());
    let pattern_bytes = tape.below(16);
    let pattern = tape.bytes(pattern_bytes);
    let stream = tape.rest();
    let mut expected = stream.split_inclusive(|byte| *byte == b'\n');
    let mut lines = Lines::new(Pieces { stream, pattern, at: 0 }, limit);
    loop {
        match ready(lines.next()) {
            Ok(Some(line)) => {
                let whole = expected.next().and_then(|line| line.strip_suffix(b"\n"));
                assert_eq!(Some(line.as_slice()), whole, "a line that was not sent");
                messages(&line);
            }
            Ok(None) => {
                assert!(expected.all(|line| !line.ends_with(b"\n")), "a line was lost");
                break;
            }
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
                let next = expected.next().unwrap_or_default();
                assert!(next.len() > limit, "{} bytes are not over {limit}", next.len());
                break;
            }
        }
    }
    keeper::<Command>(stream, pattern);
    keeper::<Report>(stream, pattern);
}

/// Everything that a line can be, to whoever reads it.
fn messages(line: &[u8]) {
    let _ = request::Request::parse(line);
    same::<FromHost>(line);
    same::<FromDevice>(line);
    same::<Report>(line);
    same::<NodeStatus>(line);
    same::<ArbiterStatus>(line);
    if let Some(Command::Start { launch, undo, .. }) = same::<Command>(line) {
        let _ = launch.check();
        let _ = undo.as_ref().map(Launch::check);
    }
}

/// Reads JSON; what it says is written and read again.
fn same<T: DeserializeOwned + PartialEq + Serialize + std::fmt::Debug>(text: &[u8]) -> Option<T> {
    let said: T = serde_json::from_slice(text).ok()?;
    let line = serde_json::to_vec(&said).unwrap_or_else(|error| panic!("{error}: {said:?}"));
    assert!(!line.contains(&b'\n'), "two lines");
    match serde_json::from_slice::<T>(&line) {
        Ok(again) => assert_eq!(again, said, "written and read again"),
        Err(error) => panic!("{error}: {said:?}"),
    }
    Some(said)
}

/// The keeper's own way to cut lines.
fn keeper<T: DeserializeOwned + PartialEq + Serialize + std::fmt::Debug>(
    stream: &[u8],
    pattern: &[u8],
) {
    let read = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let mut decoder = Decoder::default();
        let mut found = Vec::new();
        for piece in pieces {
            decoder.push(piece);
            loop {
                match decoder.next_message::<T>() {
                    Ok(Some(message)) => found.push(message),
                    Ok(None) => break,
                    Err(error) => return (found, Some(error)),
                }
            }
        }
        (found, None)
    };
    let whole = read(&mut std::iter::once(stream));
    let size = usize::from(pattern.first().copied().unwrap_or(0)) + 1;
    assert_eq!(whole, read(&mut stream.chunks(size)), "pieces make a difference");
    let limit = Some(LineError::TooLong);
    assert!(whole.1 != limit || stream.len() > LINE_LIMIT, "too long, and it is not");
    for said in whole.0 {
        let line = message::encode(&said).unwrap_or_else(|error| panic!("{error}: {said:?}"));
        let mut decoder = Decoder::default();
        decoder.push(&line);
        assert_eq!(decoder.next_message(), Ok(Some(said)), "written and read again");
    }
}

/// A stream that comes in pieces of these lengths, over and over, and never waits.
struct Pieces<'a> {
    stream: &'a [u8],
    pattern: &'a [u8],
    at: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let piece = self.pattern.get(self.at % self.pattern.len().max(1)).copied();
        self.at += 1;
        let length = piece.map_or(usize::MAX, |piece| usize::from(piece) + 1);
        let (now, later) =
            self.stream.split_at(length.min(self.stream.len()).min(buffer.remaining()));
        buffer.put_slice(now);
        self.stream = later;
        Poll::Ready(Ok(()))
    }
}

/// The result of a future that never waits.
fn ready<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("it waits for a stream that is there"),
    }
}
