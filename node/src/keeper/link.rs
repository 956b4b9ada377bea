//! The keeper's socket: one node daemon at a time, messages of [`super::message`].

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::sys::socket::{getsockopt, sockopt};
use nix::sys::stat::{Mode, umask};
use nix::unistd::geteuid;

use super::message::{self, Command, Decoder, LINE_LIMIT, Report};

/// Reports that a daemon does not read, in bytes; one that lets more pile up is frozen, and has
/// to connect and ask again.
const BACKLOG_LIMIT: usize = 4 * LINE_LIMIT;
/// Bytes taken from a daemon at one look, so that a talkative one delays no pet.
const READ_LIMIT: usize = LINE_LIMIT;

/// What came out of the socket.
#[derive(Debug)]
pub(super) enum Heard {
    /// A command.
    Command(Command),
    /// The connection is closed; why, if it was not the daemon.
    Closed(Option<String>),
}

struct Peer {
    stream: UnixStream,
    decoder: Decoder,
    unsent: Vec<u8>,
}

/// The listening socket and the daemon that is connected.
pub(super) struct Link {
    listener: UnixListener,
    peer: Option<Peer>,
}

impl Link {
    /// Binds `path`, which only this user can reach. The caller holds the keeper's lock, so a
    /// socket that is there already is a dead one.
    pub(super) fn bind(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let before = umask(Mode::from_bits_truncate(0o177));
        let listener = UnixListener::bind(path);
        umask(before);
        let listener = listener?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, peer: None })
    }

    pub(super) fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    pub(super) fn peer(&self) -> Option<BorrowedFd<'_>> {
        self.peer.as_ref().map(|peer| peer.stream.as_fd())
    }

    /// There is something to send that the daemon did not take yet.
    pub(super) fn wants_to_send(&self) -> bool {
        self.peer.as_ref().is_some_and(|peer| !peer.unsent.is_empty())
    }

    /// Takes a waiting connection in; true if it is the daemon's now. While one is connected,
    /// others are told so and closed.
    pub(super) fn accept(&mut self) -> bool {
        let Ok((mut stream, _)) = self.listener.accept() else { return false };
        let trusted = getsockopt(&stream, sockopt::PeerCredentials)
            .is_ok_and(|peer| peer.uid() == 0 || peer.uid() == geteuid().as_raw());
        if stream.set_nonblocking(true).is_err() {
            return false;
        }
        let refusal = if !trusted {
            "the keeper listens to its own user and to root only"
        } else if self.peer.is_some() {
            "another node daemon is connected to this keeper; it has to end first"
        } else {
            self.peer = Some(Peer { stream, decoder: Decoder::default(), unsent: Vec::new() });
            return true;
        };
        let report = Report::Refused { serial: None, reason: refusal.to_owned() };
        if let Ok(line) = message::encode(&report) {
            let _ = stream.write(&line);
        }
        false
    }

    /// What the daemon has said since the last look, in order.
    pub(super) fn read(&mut self) -> Vec<Heard> {
        let mut heard = Vec::new();
        let Some(peer) = &mut self.peer else { return heard };
        let mut closed = None;
        let mut chunk = [0; 4096];
        let mut total = 0;
        while closed.is_none() && total < READ_LIMIT {
            match peer.stream.read(&mut chunk) {
                Ok(0) => closed = Some(None),
                Ok(length) => {
                    total += length;
                    peer.decoder.push(&chunk[..length]);
                    closed = take_commands(&mut peer.decoder, &mut heard).map(Some);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => closed = Some(None),
            }
        }
        if let Some(reason) = closed {
            if let Some(reason) = &reason {
                self.send(&Report::Refused { serial: None, reason: reason.clone() });
            }
            self.peer = None;
            heard.push(Heard::Closed(reason));
        }
        heard
    }

    /// Tells the daemon, if there is one.
    pub(super) fn send(&mut self, report: &Report) {
        let Some(peer) = &mut self.peer else { return };
        // Reports are short: the longest field is a reason.
        if let Ok(line) = message::encode(report) {
            peer.unsent.extend(line);
        }
        self.flush();
    }

    /// Sends what the daemon takes; false if it had to be given up.
    pub(super) fn flush(&mut self) -> bool {
        let Some(peer) = &mut self.peer else { return true };
        while !peer.unsent.is_empty() {
            match peer.stream.write(&peer.unsent) {
                Ok(length) => drop(peer.unsent.drain(..length)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => {
                    // Its end of file is read, and handled, at the next look.
                    peer.unsent.clear();
                }
            }
        }
        if peer.unsent.len() > BACKLOG_LIMIT {
            self.peer = None;
            return false;
        }
        true
    }
}

/// Decodes what has come; the reason if it is none of ours.
fn take_commands(decoder: &mut Decoder, heard: &mut Vec<Heard>) -> Option<String> {
    loop {
        match decoder.next_message() {
            Ok(Some(command)) => heard.push(Heard::Command(command)),
            Ok(None) => return None,
            Err(error) => return Some(error.to_string()),
        }
    }
}
