//! What the system says to the daemon, and what the daemon says in the log.

use anyhow::Context;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant};
use tracing::{debug, info};

/// Log lines about clients that have not introduced themselves, in [`GOSSIP_WINDOW`]; the rest is
/// only counted, so that nobody can fill the log's disk.
const GOSSIP_LINES_MAX: u32 = 20;

/// See [`GOSSIP_LINES_MAX`].
const GOSSIP_WINDOW: Duration = Duration::from_secs(10);

/// What an operator wants of a running daemon.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Order {
    /// End: SIGTERM, SIGINT, `corosync-qnetd-tool -H`.
    Stop,
    /// Read the certificates again: SIGHUP.
    Reload,
}

/// Turns signals into orders from now on.
///
/// # Errors
/// If the system does not let signals be caught.
pub fn follow_signals(orders: mpsc::Sender<Order>) -> anyhow::Result<()> {
    let catch = |kind| signal(kind).context("cannot catch signals");
    let mut terminate = catch(SignalKind::terminate())?;
    let mut interrupt = catch(SignalKind::interrupt())?;
    let mut hangup = catch(SignalKind::hangup())?;
    tokio::spawn(async move {
        loop {
            let order = tokio::select! {
                _ = terminate.recv() => Order::Stop,
                _ = interrupt.recv() => Order::Stop,
                _ = hangup.recv() => Order::Reload,
            };
            info!("signal: {order:?}");
            if orders.send(order).await.is_err() {
                return;
            }
        }
    });
    Ok(())
}

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
