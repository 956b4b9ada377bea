//! Calling a peer, again and again, and finding out where it is.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use protocol::ids::NodeId;
use protocol::rng::Rng;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::CLOSE_REFUSED;
use super::peer::{Found, HANDSHAKE_LIMIT, Shared, ended};
use crate::conf::IpVersion;

/// Between two attempts at a peer that does not answer; up to half as much is added, so that many
/// nodes do not call in step.
const BACKOFF: Duration = Duration::from_millis(200);
/// The same at a peer that refuses, or is refused: that is for people to mend.
const BACKOFF_REFUSED: Duration = Duration::from_millis(1000);
/// How long a new attempt waits for a resolver before it uses what was known before.
const RESOLVE_LIMIT: Duration = Duration::from_secs(2);
/// Host addresses of one name that are looked at.
const ADDRESSES_MAX: usize = 16;

/// Calls one peer on one link.
pub(super) struct Caller {
    pub(super) shared: Arc<Shared>,
    pub(super) endpoint: Endpoint,
    pub(super) client: ClientConfig,
    pub(super) peer: NodeId,
    pub(super) resolver: Resolver,
    pub(super) rng: Rng,
}

/// Why an attempt failed.
struct Failed {
    why: String,
    backoff: Duration,
}

impl Caller {
    /// Calls, stays while the connection stands, and calls again. Never ends by itself.
    pub(super) async fn run(mut self) {
        loop {
            let address = self.resolver.address().await;
            let backoff = match self.attempt(address.clone()).await {
                Ok(connection) => pause_after(&self.shared.serve(self.peer, connection).await),
                Err(Failed { why, backoff }) => {
                    let link = (self.peer, self.shared.link);
                    let address = address.ok();
                    self.shared.tell(Found::Unreachable { link, address, why }).await;
                    backoff
                }
            };
            let spread = u64::try_from(backoff.as_millis()).unwrap_or(u64::MAX) / 2;
            sleep(backoff + Duration::from_millis(self.rng.below(spread))).await;
        }
    }

    async fn attempt(&self, address: Result<SocketAddr, String>) -> Result<Connection, Failed> {
        let failed = |why: String| Failed { why, backoff: BACKOFF };
        let address = address.map_err(failed)?;
        // The name is neither sent nor compared; the certificate is asked who the peer is.
        let connecting = self
            .endpoint
            .connect_with(self.client.clone(), address, "node.invalid")
            .map_err(|error| failed(error.to_string()))?;
        let connection = match timeout(HANDSHAKE_LIMIT, connecting).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => {
                return Err(Failed { why: ended(&error), backoff: pause_after(&error) });
            }
            Err(_) => return Err(failed(ended(&ConnectionError::TimedOut))),
        };
        let proven = self.shared.prove(&connection).and_then(|node| {
            let same = node == self.peer;
            same.then_some(()).ok_or_else(|| format!("its certificate is node {node}'s"))
        });
        match proven {
            Ok(()) => Ok(connection),
            Err(why) => {
                connection.close(CLOSE_REFUSED, why.as_bytes());
                Err(Failed { why, backoff: BACKOFF_REFUSED })
            }
        }
    }
}

fn pause_after(error: &ConnectionError) -> Duration {
    match error {
        ConnectionError::TimedOut | ConnectionError::Reset | ConnectionError::LocallyClosed => {
            BACKOFF
        }
        ConnectionError::VersionMismatch
        | ConnectionError::TransportError(_)
        | ConnectionError::ConnectionClosed(_)
        | ConnectionError::ApplicationClosed(_)
        | ConnectionError::CidsExhausted => BACKOFF_REFUSED,
    }
}

/// Where a peer is: an address, or a name that is looked up before every call.
#[derive(Debug)]
pub(super) struct Resolver {
    name: String,
    port: u16,
    version: IpVersion,
    /// The socket that calls; it may reach one address family only.
    own: SocketAddr,
    /// At most one look-up at a time: a resolver that hangs must not pile up threads.
    pending: Option<JoinHandle<Result<SocketAddr, String>>>,
    known: Option<SocketAddr>,
}

impl Resolver {
    pub(super) fn new(name: String, port: u16, version: IpVersion, own: SocketAddr) -> Self {
        Self { name, port, version, own, pending: None, known: None }
    }

    /// The newest address that is known.
    async fn address(&mut self) -> Result<SocketAddr, String> {
        if let Ok(address) = self.name.parse::<IpAddr>() {
            return Ok(SocketAddr::new(address, self.port));
        }
        let pending = self.pending.get_or_insert_with(|| {
            let (name, port, version) = (self.name.clone(), self.port, self.version);
            let version = if self.own.is_ipv4() { IpVersion::V4 } else { version };
            tokio::spawn(async move { resolve(&name, port, version).await })
        });
        let looked_up = timeout(RESOLVE_LIMIT, pending).await;
        let why = match looked_up {
            Ok(Ok(Ok(address))) => {
                self.pending = None;
                self.known = Some(address);
                return Ok(address);
            }
            Ok(Ok(Err(why))) => {
                self.pending = None;
                why
            }
            Ok(Err(_)) => {
                self.pending = None;
                "the look-up was given up".to_owned()
            }
            Err(_) => "the resolver does not answer".to_owned(),
        };
        let name = &self.name;
        self.known.ok_or_else(|| format!("its address {name:?} cannot be resolved: {why}"))
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        if let Some(pending) = &self.pending {
            pending.abort();
        }
    }
}

/// Looks a name up, as `totem.ip_version` says (corosync.conf(5)).
pub(super) async fn resolve(
    name: &str,
    port: u16,
    version: IpVersion,
) -> Result<SocketAddr, String> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SocketAddr::new(address, port));
    }
    let found = tokio::net::lookup_host((name, port)).await.map_err(|error| error.to_string())?;
    let found: Vec<SocketAddr> = found.take(ADDRESSES_MAX).collect();
    choose(&found, version).ok_or_else(|| "it has no address of the wanted ip_version".to_owned())
}

fn choose(found: &[SocketAddr], version: IpVersion) -> Option<SocketAddr> {
    let v4 = found.iter().find(|address| address.is_ipv4()).copied();
    let v6 = found.iter().find(|address| address.is_ipv6()).copied();
    match version {
        IpVersion::V4 => v4,
        IpVersion::V6 => v6,
        IpVersion::V4ThenV6 => v4.or(v6),
        IpVersion::V6ThenV4 => v6.or(v4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_chosen_as_ip_version_says() {
        let v4: SocketAddr = "10.0.0.1:1".parse().unwrap();
        let v6: SocketAddr = "[fd00::1]:1".parse().unwrap();
        let cases = [
            (IpVersion::V4, Some(v4)),
            (IpVersion::V6, Some(v6)),
            (IpVersion::V4ThenV6, Some(v4)),
            (IpVersion::V6ThenV4, Some(v6)),
        ];
        for (version, wanted) in cases {
            assert_eq!(choose(&[v4, v6], version), wanted, "{version:?}");
        }
        assert_eq!(choose(&[v6], IpVersion::V4), None);
        assert_eq!(choose(&[v6], IpVersion::V4ThenV6), Some(v6));
    }
}
