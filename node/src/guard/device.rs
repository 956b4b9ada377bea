//! Asks haguard's quorum device on this machine until when its vote counts.

use std::path::{Path, PathBuf};
use std::time::Duration;

use host::clock;
use host::socket::Lines;
use protocol::status::DeviceStatus;
use protocol::time::HostInstant;
use protocol::times;
use tokio::io::{AsyncRead, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc::Sender;
use tokio::time::{interval, timeout};

/// It is asked this often: a lease that ends early ends here soon after.
const ASK: Duration = Duration::from_millis(100);
/// One that does not answer within this is asked again.
const PATIENCE: Duration = Duration::from_millis(500);
/// The longest answer in bytes.
const ANSWER_BYTES_MAX: usize = 65_536;
/// One that has said nothing for so long is shown as silent.
const SILENCE: Duration = Duration::from_secs(1);
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

    /// What is still true of it: a lease runs out while a device is silent.
    pub(super) fn at(&self, now: HostInstant) -> DeviceStatus {
        let mut status = self.status.clone();
        let left = self.lease().map(|end| end.remaining(now)).filter(|left| !left.is_zero());
        status.lease_remaining_ms =
            left.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
        if status.vote == "ack" && left.is_none() {
            "none".clone_into(&mut status.vote);
        }
        if self.asked.plus(SILENCE).remaining(now).is_zero() {
            status.state = format!("silent, was {}", status.state);
        }
        status
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

async fn answer(socket: &Path) -> Option<DeviceStatus> {
    let mut stream = UnixStream::connect(socket).await.ok()?;
    stream.write_all(QUESTION).await.ok()?;
    read(stream).await
}

/// A device answers `OK` and, ours, a status; to a stock one the question is an error.
async fn read(answer: impl AsyncRead + Unpin) -> Option<DeviceStatus> {
    let mut lines = Lines::new(answer, ANSWER_BYTES_MAX);
    lines.next().await.ok()?.filter(|line| line == b"OK")?;
    serde_json::from_slice(&lines.next().await.ok()??).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: HostInstant = HostInstant { boottime_ns: 5, raw_ns: 7 };

    fn word(vote: &str, lease_remaining_ms: Option<u64>) -> Word {
        let (state, vote) = ("connected".to_owned(), vote.to_owned());
        let status = DeviceStatus { state, vote, lease_remaining_ms, ..DeviceStatus::default() };
        Word { asked: ASKED, status }
    }

    #[test]
    fn only_a_vote_that_is_cast_has_a_lease() {
        assert_eq!(word("ack", Some(9)).lease(), Some(ASKED.plus(Duration::from_millis(9))));
        assert_eq!(word("ack", None).lease(), None);
        assert_eq!(word("nack", Some(9)).lease(), None);
    }

    #[tokio::test]
    async fn only_our_device_has_a_status() {
        let status = word("ack", Some(9)).status;
        let json = serde_json::to_string(&status).unwrap();
        assert_eq!(read(format!("OK\n{json}\n").as_bytes()).await, Some(status));
        for other in ["Error\nUnknown command 'haguard-status'\n", "OK\n", "OK\nState:\n", ""] {
            assert_eq!(read(other.as_bytes()).await, None, "{other:?}");
        }
    }

    #[test]
    fn what_a_silent_device_said_runs_out() {
        let shown = |vote, lease, ms| {
            let status = word(vote, lease).at(ASKED.plus(Duration::from_millis(ms)));
            (status.state, status.vote, status.lease_remaining_ms)
        };
        let expected = |state: &str, vote: &str, lease| (state.to_owned(), vote.to_owned(), lease);
        assert_eq!(shown("ack", Some(1500), 300), expected("connected", "ack", Some(1200)));
        assert_eq!(
            shown("ack", Some(1500), 1499),
            expected("silent, was connected", "ack", Some(1))
        );
        assert_eq!(shown("ack", Some(900), 900), expected("connected", "none", None));
        assert_eq!(shown("nack", None, 300), expected("connected", "nack", None));
    }
}
