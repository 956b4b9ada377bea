//! Local sockets.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::UnixListener;

/// Why a local socket could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {}: {error}; does its directory exist, and may you write there?", path.display())]
pub struct SocketError {
    /// The socket.
    pub path: PathBuf,
    /// What the system said.
    pub error: io::Error,
}

/// Listens on a local socket. A socket file that a dead daemon left is taken away first: the
/// caller holds the lock of the place, so nobody else serves it.
///
/// # Errors
/// [`SocketError`].
pub fn listen(path: &Path, mode: u32) -> Result<UnixListener, SocketError> {
    let failed = |error| SocketError { path: path.to_owned(), error };
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(failed)?;
    Ok(listener)
}

/// Reads lines of at most `limit` bytes from a peer that may send anything.
#[derive(Debug)]
pub struct Lines<R> {
    from: R,
    buffer: Vec<u8>,
    limit: usize,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    /// Lines from `from`.
    pub fn new(from: R, limit: usize) -> Self {
        Self { from, buffer: Vec::new(), limit }
    }

    /// The next line without its end; `None` at the end of the stream. Cancel safe: what was read
    /// stays in the buffer.
    ///
    /// # Errors
    /// What the system says, and `InvalidData` for a line over the limit.
    pub async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                line.pop();
                return Ok(Some(line));
            }
            if self.buffer.len() > self.limit {
                let text = format!("line is longer than {} bytes", self.limit);
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
            if self.from.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_split_and_bounded() {
        let mut lines = Lines::new(&b"one\ntwo\nrest"[..], 100);
        assert_eq!(lines.next().await.unwrap().unwrap(), b"one");
        assert_eq!(lines.next().await.unwrap().unwrap(), b"two");
        assert!(lines.next().await.unwrap().is_none());
        let mut lines = Lines::new(&[b'x'; 300][..], 100);
        assert!(lines.next().await.is_err());
    }
}
