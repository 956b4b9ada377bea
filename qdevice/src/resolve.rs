//! From the arbiter's name to a connection.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use host::dial::connect_any;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout_at};

/// A host's name or address, and a port.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Target {
    /// As it is looked up; an IPv6 address has no brackets here.
    pub host: String,
    /// 1 to 65535.
    pub port: u16,
}

impl Target {
    /// Reads `HOST:PORT`; an IPv6 address is in brackets.
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let host = bare.unwrap_or(host);
        let port = port.parse().ok().filter(|port| *port > 0)?;
        let sound = !host.is_empty() && (bare.is_some() || !host.contains(':'));
        sound.then(|| Self { host: host.to_owned(), port })
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Looks the name up and tries its addresses in the resolver's order, each for an equal part of
/// the time that is left, so that a dead first one leaves time for the next. `ip_version` 4 or 6
/// allows only that family (corosync-qdevice(8) `force_ip_version`). The lookup runs on a thread
/// of its own, because getaddrinfo(3) cannot be interrupted.
///
/// # Errors
/// Why there is no connection, for people.
pub async fn connect(
    target: &Target,
    ip_version: u8,
    limit: Duration,
) -> Result<TcpStream, String> {
    let end = Instant::now() + limit;
    let addresses = timeout_at(end, addresses(target, ip_version)).await;
    let addresses = addresses.map_err(|_| {
        format!("{} was not looked up within {limit:?}: is the name service slow?", target.host)
    })??;
    connect_any(&addresses, end).await
}

async fn addresses(target: &Target, ip_version: u8) -> Result<Vec<SocketAddr>, String> {
    let found = lookup_host((target.host.as_str(), target.port)).await;
    let found = found.map_err(|error: io::Error| {
        format!("cannot look up {}: {error}; correct quorum.device.net.host", target.host)
    })?;
    let fits = |address: &SocketAddr| match ip_version {
        4 => address.is_ipv4(),
        6 => address.is_ipv6(),
        _ => true,
    };
    let fitting: Vec<SocketAddr> = found.filter(fits).take(ADDRESSES_MAX).collect();
    if fitting.is_empty() {
        return Err(match ip_version {
            4 | 6 => format!("{} has no IPv{ip_version} address", target.host),
            _ => format!("{} has no address", target.host),
        });
    }
    Ok(fitting)
}

/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_host_and_a_port() {
        let read = |text| Target::parse(text).map(|target| (target.host, target.port));
        assert_eq!(read("a.example:5403"), Some(("a.example".to_owned(), 5403)));
        assert_eq!(read("[fe80::1]:1"), Some(("fe80::1".to_owned(), 1)));
        for wrong in ["", "a", "a:", ":1", "a:0", "a:65536", "::1:5403", "[]:1"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[tokio::test]
    async fn the_forced_family_is_the_only_one() {
        let limit = Duration::from_secs(5);
        let target = Target { host: "127.0.0.1".to_owned(), port: 1 };
        let error = connect(&target, 6, limit).await.unwrap_err();
        assert_eq!(error, "127.0.0.1 has no IPv6 address");
        let error = connect(&target, 4, limit).await.unwrap_err();
        assert!(error.starts_with("cannot connect to 127.0.0.1:1: "), "{error}");
    }
}
