//! One connection: who is at the other end, and the beats that come from there.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use certs::verify::quic_identity;
use protocol::cluster::Beat;
use protocol::ids::{ClusterName, NodeId};
use quinn::{Connection, ConnectionError, Endpoint, Incoming, TransportErrorCode};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tracing::warn;

use super::{CLOSE_REFUSED, INCOMING_MAX, LinkId};

/// A handshake that is not over by then is given up, in both directions.
pub(super) const HANDSHAKE_LIMIT: Duration = Duration::from_secs(1);
/// Refused callers are logged at most this often on a link: anybody can make us refuse.
const REFUSALS_LOGGED: Duration = Duration::from_secs(10);

/// What a task has found.
#[derive(Debug)]
pub(super) enum Found {
    /// A connection stands, and the peer's certificate is in order.
    Up { link: LinkId, connection: Connection },
    /// It has ended.
    Down { link: LinkId, stable_id: usize, why: String },
    /// An attempt has failed.
    Unreachable { link: LinkId, address: Option<SocketAddr>, why: String },
    /// A beat of exactly that peer.
    Beat { link: LinkId, stable_id: usize, beat: Box<Beat> },
}

/// What the tasks of one link share.
#[derive(Debug)]
pub(super) struct Shared {
    cluster: ClusterName,
    pub(super) link: u8,
    events: mpsc::Sender<Found>,
}

impl Shared {
    pub(super) fn new(cluster: ClusterName, link: u8, events: mpsc::Sender<Found>) -> Self {
        Self { cluster, link, events }
    }

    /// Says what was found; waits for room, which only this peer's task has to do.
    pub(super) async fn tell(&self, found: Found) {
        // Nobody listens any more when the daemon ends.
        let _ = self.events.send(found).await;
    }

    /// The node that the peer's certificate is bound to.
    pub(super) fn prove(&self, connection: &Connection) -> Result<NodeId, String> {
        let identity =
            quic_identity(connection.peer_identity()).map_err(|error| error.to_string())?;
        identity.may_act_as(&self.cluster, None).map_err(|error| error.to_string())?;
        identity.node.ok_or_else(|| {
            "its certificate is bound to no node: issue it one with `haguard certs issue`"
                .to_owned()
        })
    }

    /// Announces a connection, reads its beats until it ends, and says how it ended.
    pub(super) async fn serve(&self, peer: NodeId, connection: Connection) -> ConnectionError {
        let link = (peer, self.link);
        let stable_id = connection.stable_id();
        self.tell(Found::Up { link, connection: connection.clone() }).await;
        let mut warned = false;
        let error = loop {
            let bytes = match connection.read_datagram().await {
                Ok(bytes) => bytes,
                Err(error) => break error,
            };
            let wrong = match Beat::decode(&bytes) {
                Ok(beat) if beat.from == peer => {
                    let beat = Box::new(beat);
                    // A full queue loses beats; there is always a newer one.
                    let _ = self.events.try_send(Found::Beat { link, stable_id, beat });
                    continue;
                }
                Ok(beat) => format!("a beat that says it is node {}'s", beat.from),
                Err(error) => error.to_string(),
            };
            if !warned {
                warned = true;
                warn!(
                    "node {peer} sends on link {}: {wrong}; dropped, and so are the next",
                    self.link
                );
            }
        };
        self.tell(Found::Down { link, stable_id, why: ended(&error) }).await;
        error
    }
}

/// Answers those who call on one link: configured peers with a lower id.
pub(super) async fn answer(shared: Arc<Shared>, endpoint: Endpoint, callers: Vec<NodeId>) {
    let callers = Arc::new(callers);
    let mut handshakes = JoinSet::new();
    let mut served = JoinSet::new();
    let mut logged: Option<Instant> = None;
    loop {
        tokio::select! {
            incoming = endpoint.accept() => {
                let Some(incoming) = incoming else { return };
                admit(incoming, &mut handshakes);
            }
            Some(done) = handshakes.join_next() => {
                let Ok((address, result)) = done else { continue };
                let peer = match result {
                    Ok(connection) => identify(&shared, &callers, connection),
                    Err(why) => Err(why),
                };
                match peer {
                    Ok((peer, connection)) => {
                        let shared = Arc::clone(&shared);
                        served.spawn(async move { shared.serve(peer, connection).await });
                    }
                    Err(why) if logged.is_none_or(|at| at.elapsed() >= REFUSALS_LOGGED) => {
                        logged = Some(Instant::now());
                        warn!("a caller from {address} on link {} is refused: {why}", shared.link);
                    }
                    Err(_) => {}
                }
            }
            Some(_) = served.join_next() => {}
        }
    }
}

type Handshake = (SocketAddr, Result<Connection, String>);

/// Lets a caller begin, unless too many are at it. Where many are, an address must first show
/// that it can be reached (RFC 9000 8.1.2).
fn admit(incoming: Incoming, handshakes: &mut JoinSet<Handshake>) {
    let address = incoming.remote_address();
    if handshakes.len() >= INCOMING_MAX {
        incoming.ignore();
    } else if handshakes.len() >= INCOMING_MAX / 4 && !incoming.remote_address_validated() {
        // A caller that was asked before and is not validated cannot be asked again: it is gone.
        let _ = incoming.retry();
    } else {
        handshakes.spawn(async move {
            let result = match timeout(HANDSHAKE_LIMIT, incoming).await {
                Ok(Ok(connection)) => Ok(connection),
                Ok(Err(error)) => Err(ended(&error)),
                Err(_) => Err("the handshake was not over in time".to_owned()),
            };
            (address, result)
        });
    }
}

fn identify(
    shared: &Shared,
    callers: &[NodeId],
    connection: Connection,
) -> Result<(NodeId, Connection), String> {
    let peer = shared.prove(&connection).and_then(|peer| {
        let known = callers.contains(&peer);
        known.then_some(peer).ok_or_else(|| {
            format!(
                "its certificate is node {peer}'s, which is no configured peer that calls this \
                 node (the lower id calls): is a machine using a copied certificate?"
            )
        })
    });
    match peer {
        Ok(peer) => Ok((peer, connection)),
        Err(why) => {
            connection.close(CLOSE_REFUSED, why.as_bytes());
            Err(why)
        }
    }
}

/// The end of a connection in words that an operator can use.
pub(super) fn ended(error: &ConnectionError) -> String {
    match error {
        ConnectionError::TimedOut => "no answer: is the node up, and udp let through?".to_owned(),
        ConnectionError::Reset => "the node has lost the connection: it was restarted".to_owned(),
        ConnectionError::LocallyClosed => "closed here".to_owned(),
        ConnectionError::ApplicationClosed(close) => {
            let reason = String::from_utf8_lossy(&close.reason);
            format!("the node closed it: {}", printable(&reason))
        }
        ConnectionError::ConnectionClosed(close) => {
            format!("the node refused this one: {}", cause(close.error_code, &close.to_string()))
        }
        ConnectionError::TransportError(error) => {
            format!("refused: {}", cause(error.code, &error.to_string()))
        }
        ConnectionError::VersionMismatch | ConnectionError::CidsExhausted => error.to_string(),
    }
}

/// The cause of a handshake's end: a TLS alert (RFC 9001 4.8, RFC 8446 6.2) in an operator's words,
/// or the library's text.
fn cause(code: TransportErrorCode, text: &str) -> String {
    /// The TLS alerts among QUIC's error codes begin here.
    const ALERTS: u64 = 0x100;
    let words = match u64::from(code).checked_sub(ALERTS) {
        // A CA of the same name with another key shows as a bad signature (alert 51).
        Some(48 | 51) => "the certificate is of another authority: compare the CA files",
        Some(46) => "the certificate names another cluster or another node: compare the files",
        Some(45) => "the certificate is not valid now: compare its dates and both clocks",
        Some(116) => "no certificate was shown: is another program on that port?",
        Some(120) => "no common protocol: is another program, or another version, on that port?",
        Some(_) | None => return printable(text),
    };
    words.to_owned()
}

/// Text of a peer for a log: bounded, and in one line.
fn printable(text: &str) -> String {
    text.chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_peer_becomes_one_bounded_line() {
        let text = format!("a\nb\u{1b}[1m{}", "x".repeat(1000));
        let shown = printable(&text);
        assert!(shown.starts_with("a b [1m"), "{shown}");
        assert_eq!(shown.chars().count(), 200);
    }
}
