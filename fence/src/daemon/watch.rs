//! What the system says to the daemon.

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing::info;

/// What an operator wants of a running daemon.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Order {
    /// End when no job is running, or soon: SIGTERM, SIGINT.
    Stop,
    /// Read the configuration and the certificates again: SIGHUP.
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
