//! A bounded queue to a thread that waits in poll(2): a letter rings a bell, which is a descriptor.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};

/// The way in. Dropping it closes the queue behind its last letter.
#[derive(Debug)]
pub(super) struct Post<T> {
    // Goes before the bell, which is heard when all is over.
    letters: SyncSender<T>,
    bell: UnixStream,
}

/// The way out.
#[derive(Debug)]
pub(super) struct Letters<T> {
    letters: Receiver<T>,
    bell: UnixStream,
}

/// The other end is gone, and every letter was taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Closed;

/// A queue for at most `room` letters.
///
/// # Errors
/// Those of socketpair(2).
pub(super) fn mailbox<T>(room: usize) -> io::Result<(Post<T>, Letters<T>)> {
    let (near, far) = UnixStream::pair()?;
    near.set_nonblocking(true)?;
    far.set_nonblocking(true)?;
    let (post, letters) = sync_channel(room);
    Ok((Post { letters: post, bell: near }, Letters { letters, bell: far }))
}

impl<T> Post<T> {
    /// Queues a letter; false if there is no room, or nobody to take it.
    #[must_use]
    pub(super) fn send(&self, letter: T) -> bool {
        let queued = self.letters.try_send(letter).is_ok();
        // A bell that is full has been heard as well as it can be.
        let _ = (&self.bell).write(&[1]);
        queued
    }
}

/// Readable, or hung up, once the taker is gone.
impl<T> AsFd for Post<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

impl<T> Letters<T> {
    /// The next letter, if there is one. Does not wait.
    pub(super) fn take(&self) -> Result<Option<T>, Closed> {
        let mut rung = [0; 64];
        loop {
            match (&self.bell).read(&mut rung) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        match self.letters.try_recv() {
            Ok(letter) => Ok(Some(letter)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(Closed),
        }
    }
}

/// Readable as long as there may be letters.
impl<T> AsFd for Letters<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_come_in_order_and_then_the_end() {
        let (post, letters) = mailbox(2).unwrap();
        assert_eq!(letters.take(), Ok(None));
        assert!(post.send(1) && post.send(2));
        assert!(!post.send(3), "there is room for two");
        assert_eq!(letters.take(), Ok(Some(1)));
        drop(post);
        assert_eq!(letters.take(), Ok(Some(2)));
        assert_eq!(letters.take(), Err(Closed));
    }

    #[test]
    fn nobody_takes_letters_of_a_closed_box() {
        let (post, letters) = mailbox(2).unwrap();
        drop(letters);
        assert!(!post.send(1));
    }
}
