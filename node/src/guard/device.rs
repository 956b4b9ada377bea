//! Asks haguard's quorum device on this machine until when its vote counts.

use std::path::{Path, PathBuf};
use std::time::Duration;

use host::clock;
use host::socket::Lines;
use protocol::status::DeviceStatus;
use protocol::time::HostInstant;
use protocol::times;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::sync::mpsc::Sender;
use tokio::time::{interval, timeout};

/// It is asked this often: a lease that ends early ends here soon after.
const ASK: Duration = Duration::from_millis(100);
/// One that does not answer within this is asked again.
const PATIENCE: Duration = Duration::from_millis(500);
/// The longest answer in bytes.
const ANSWER_BYTES_MAX: usize = 65_536;
const QUESTION: &[u8] = b"haguard-status\n";

/// What the device has said.
#[derive(Debug)]
pub(super) struct Word {
    /// When it was asked.
    pub(super) asked: HostInstant,
    /// Its answer.
    pub(super) status: DeviceStatus,
}

impl Word {
    /// The end of its lease; none where its vote does not count.
    pub(super) fn lease(&self) -> Option<HostInstant> {
        let left = self.status.lease_remaining_ms.filter(|_| self.status.vote == "ack")?;
        // Nothing gives a longer one.
        Some(self.asked.plus(Duration::from_millis(left).min(times::LONE_LEASE)))
    }
}

/// Asks until nobody listens. A device that does not answer says nothing, and what it said last
/// runs out.
pub(super) async fn follow(socket: PathBuf, words: Sender<Word>) {
    let mut tick = interval(ASK);
    loop {
        tick.tick().await;
        if let Some(word) = ask(&socket).await
            && words.send(word).await.is_err()
        {
            return;
        }
        tick.reset();
    }
}

/// Asks once.
pub(super) async fn ask(socket: &Path) -> Option<Word> {
    let asked = clock::read();
    let status = timeout(PATIENCE, answer(socket)).await.ok()??;
    Some(Word { asked, status })
}

/// A stock device answers this question with words that are no status.
async fn answer(socket: &Path) -> Option<DeviceStatus> {
    let mut stream = UnixStream::connect(socket).await.ok()?;
    stream.write_all(QUESTION).await.ok()?;
    let line = Lines::new(stream, ANSWER_BYTES_MAX).next().await.ok()??;
    serde_json::from_slice(&line).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_vote_that_is_cast_has_a_lease() {
        let asked = HostInstant { boottime_ns: 5, raw_ns: 7 };
        let word = |vote: &str, lease_remaining_ms| Word {
            asked,
            status: DeviceStatus {
                vote: vote.to_owned(),
                lease_remaining_ms,
                ..DeviceStatus::default()
            },
        };
        assert_eq!(word("ack", Some(9)).lease(), Some(asked.plus(Duration::from_millis(9))));
        assert_eq!(word("ack", None).lease(), None);
        assert_eq!(word("nack", Some(9)).lease(), None);
    }
}
