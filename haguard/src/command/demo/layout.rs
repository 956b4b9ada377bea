//! Where everything of a demo lives on the loopback network: addresses that need no root, chosen
//! so that two demos can run side by side.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, UdpSocket};
use std::str::FromStr;

/// The nodes' udp port: not corosync's, so that a demo also runs beside a real cluster.
pub const NODE_PORT: u16 = 15405;
/// The arbiter's tcp port.
pub const ARBITER_PORT: u16 = 15403;
/// The most nodes of a demo.
pub const NODES_MAX: u32 = 8;

/// How many networks are tried before the demo gives up.
const TRIES: u32 = 50;
/// Added to the third octet: where the daemons themselves listen.
const PRIVATE: u8 = 100;
/// The last octet of a node's way to the arbiter is this much above its number.
const TOWARDS_ARBITER: u8 = 200;
/// The arbiter's last octet.
const ARBITER: u8 = 250;

/// A demo's part of 127.0.0.0/8, written as its two octets in the middle: `A.B`.
///
/// | address | who listens there |
/// |---|---|
/// | 127.A.B.i | the relay, for node i: what the other nodes dial |
/// | 127.A.B.(200+i) | the relay, for the arbiter: what node i's device dials |
/// | 127.A.(B+100).i | node i itself |
/// | 127.A.(B+100).250 | the arbiter itself |
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Layout {
    second: u8,
    third: u8,
}

impl Layout {
    /// The network for a number; equal numbers give equal networks.
    pub fn numbered(number: u64) -> Self {
        // 127.0 and 127.1 are left alone: other programs use them.
        let second = 2 + u8::try_from(number % 250).unwrap_or(0);
        let third = u8::try_from(number / 250 % u64::from(PRIVATE)).unwrap_or(0);
        Self { second, third }
    }

    /// The first network from `number` on that nobody uses.
    pub fn free(number: u64, nodes: u32) -> Option<Self> {
        let mut tried = (0..TRIES).map(|n| Self::numbered(number.wrapping_add(u64::from(n))));
        tried.find(|layout| layout.is_free(nodes))
    }

    fn is_free(self, nodes: u32) -> bool {
        let udp = (1..=nodes).flat_map(|node| [self.public(node), self.private(node)]);
        let tcp = (1..=nodes).map(|node| self.towards_arbiter(node)).chain([self.arbiter()]);
        udp.into_iter().all(|address| UdpSocket::bind(address).is_ok())
            && tcp.into_iter().all(|address| TcpListener::bind(address).is_ok())
    }

    /// Where the other nodes reach a node.
    pub fn public(self, node: u32) -> SocketAddr {
        self.address(false, last(node), NODE_PORT)
    }

    /// Where a node listens.
    pub fn private(self, node: u32) -> SocketAddr {
        self.address(true, last(node), NODE_PORT)
    }

    /// Where a node's device reaches the arbiter.
    pub fn towards_arbiter(self, node: u32) -> SocketAddr {
        self.address(false, TOWARDS_ARBITER.saturating_add(last(node)), ARBITER_PORT)
    }

    /// Where the arbiter listens.
    pub fn arbiter(self) -> SocketAddr {
        self.address(true, ARBITER, ARBITER_PORT)
    }

    fn address(self, private: bool, last: u8, port: u16) -> SocketAddr {
        let third = if private { self.third.saturating_add(PRIVATE) } else { self.third };
        SocketAddrV4::new(Ipv4Addr::new(127, self.second, third, last), port).into()
    }
}

fn last(node: u32) -> u8 {
    u8::try_from(node.min(NODES_MAX)).unwrap_or(u8::MAX)
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.second, self.third)
    }
}

impl FromStr for Layout {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let octets = text.split_once('.');
        let octets = octets.and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        match octets {
            Some((second, third)) if third < PRIVATE => Ok(Self { second, third }),
            Some(_) | None => Err(format!("{text:?} is no network: give A.B with B below 100")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_party_has_its_own_address() {
        let layout = Layout::numbered(1234);
        let mut all = vec![layout.arbiter()];
        for node in 1..=NODES_MAX {
            all.extend([layout.public(node), layout.private(node), layout.towards_arbiter(node)]);
        }
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count);
        assert!(all.iter().all(|address| address.ip().is_loopback()));
    }

    #[test]
    fn a_layout_is_read_as_it_is_written() {
        let layout = Layout::numbered(77_777);
        assert_eq!(layout.to_string().parse(), Ok(layout));
        assert!("1".parse::<Layout>().is_err());
        assert!("1.100".parse::<Layout>().is_err());
    }

    #[test]
    fn a_network_in_use_is_passed_over() {
        let number = u64::from(std::process::id());
        let first = Layout::free(number, 2).unwrap();
        let _used = UdpSocket::bind(first.private(2)).unwrap();
        assert_ne!(Layout::free(number, 2).unwrap(), first);
    }
}
