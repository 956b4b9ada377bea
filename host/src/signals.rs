//! What the system says to a daemon.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing::info;

/// What an operator wants of a running daemon.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Order {
    /// End, in order: SIGTERM, SIGINT, or a word on a local socket.
    Stop,
    /// Read again what may have changed on disk: SIGHUP.
    Reload,
}

/// Turns signals into orders from now on.
///
/// # Errors
/// If the system does not let signals be caught.
pub fn follow_signals(orders: mpsc::Sender<Order>) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
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
