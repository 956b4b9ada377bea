//! What the daemon says in the log, and how many connections the system lets it have.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::time::{Duration, Instant};
use tracing::{debug, info};

/// Log lines about clients that have not introduced themselves, in [`GOSSIP_WINDOW`]; the rest is
/// only counted, so that nobody can fill the log's disk.
const GOSSIP_LINES_MAX: u32 = 20;

/// See [`GOSSIP_LINES_MAX`].
const GOSSIP_WINDOW: Duration = Duration::from_secs(10);

/// Log lines that strangers can provoke.
#[derive(Debug, Default)]
pub(super) struct Gossip {
    since: Option<Instant>,
    lines: u32,
    unsaid: u32,
}

impl Gossip {
    /// Says it, unless too much has been said lately.
    pub(super) fn say(&mut self, address: &str, text: &str) {
        let now = Instant::now();
        if self.since.is_none_or(|since| now >= since + GOSSIP_WINDOW) {
            if self.unsaid > 0 {
                info!("{} more lines about strangers were left out", self.unsaid);
            }
            *self = Self { since: Some(now), ..Self::default() };
        }
        if self.lines < GOSSIP_LINES_MAX {
            self.lines += 1;
            info!("{address}: {text}");
        } else {
            self.unsaid = self.unsaid.saturating_add(1);
            debug!("{address}: {text}");
        }
    }
}

/// How many file descriptors this process may have: as many as the system lets it raise its
/// limit to.
pub(crate) fn descriptors() -> usize {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 1024 };
    let raised = setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok();
    usize::try_from(if raised { hard } else { soft }).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_fill_no_log() {
        let mut gossip = Gossip::default();
        for _ in 0..GOSSIP_LINES_MAX + 5 {
            gossip.say("192.0.2.1:1", "closed");
        }
        assert_eq!((gossip.lines, gossip.unsaid), (GOSSIP_LINES_MAX, 5));
    }
}
