//! From the addresses of a name to a connection.

use std::net::SocketAddr;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

/// Tries the addresses in their order, each for an equal part of the time that is left, so that a
/// dead first one leaves time for the next. What is said over the connection is not held back for
/// more: small messages whose age counts.
///
/// # Errors
/// Why there is no connection, for people: that of the last address, or nothing where there is
/// none.
pub async fn connect_any(addresses: &[SocketAddr], end: Instant) -> Result<TcpStream, String> {
    let mut last = String::new();
    for (tried, address) in addresses.iter().enumerate() {
        let now = Instant::now();
        let left = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        let share = now + end.saturating_duration_since(now) / left;
        last = match timeout_at(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(error)) => format!("cannot connect to {address}: {error}"),
            Err(_) => format!("{address} does not answer: is it up, and the port open?"),
        };
    }
    Err(last)
}
