//! What may stand where a host is expected.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::IpVersion;

/// The longest host name (RFC 1035 section 2.3.4).
const MAX_NAME_BYTES: usize = 253;

/// An address text, as far as it can be judged without a resolver.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Host {
    /// An IP literal that a socket can be bound to.
    Literal(IpAddr),
    /// A name for the resolver.
    Name,
    /// Nothing that could ever work.
    Unusable,
}

/// Judges an address text.
pub(super) fn judge(text: &str) -> Host {
    if text.contains(':') {
        // An IPv6 literal may name its zone, as link-local addresses must: fe80::1%eth1.
        let address = match text.split_once('%') {
            Some((address, zone)) if is_zone(zone) => address,
            Some(_) => return Host::Unusable,
            None => text,
        };
        return address.parse::<Ipv6Addr>().map_or(Host::Unusable, |v6| usable(IpAddr::V6(v6)));
    }
    // Only digits and dots is meant as an IPv4 address: 10.0.0.1111 is an error, not a name.
    if text.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return text.parse::<Ipv4Addr>().map_or(Host::Unusable, |v4| usable(IpAddr::V4(v4)));
    }
    if is_name(text) { Host::Name } else { Host::Unusable }
}

/// Whether `totem.ip_version` lets this address be used.
pub(super) fn allowed(host: Host, version: IpVersion) -> bool {
    match (host, version) {
        (Host::Literal(address), IpVersion::V4) => address.is_ipv4(),
        (Host::Literal(address), IpVersion::V6) => address.is_ipv6(),
        (Host::Literal(_), IpVersion::V4ThenV6 | IpVersion::V6ThenV4) => true,
        (Host::Name | Host::Unusable, _) => true,
    }
}

fn usable(address: IpAddr) -> Host {
    let broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
    if address.is_unspecified() || address.is_multicast() || broadcast {
        return Host::Unusable;
    }
    Host::Literal(address)
}

fn is_name(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    };
    text.len() <= MAX_NAME_BYTES && text.strip_suffix('.').unwrap_or(text).split('.').all(label)
}

fn is_zone(text: &str) -> bool {
    // The kernel's limit for an interface name is 15 bytes.
    (1..=15).contains(&text.len())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_names_and_nonsense_are_told_apart() {
        let literal = |text: &str| Host::Literal(text.parse().unwrap());
        assert_eq!(judge("10.10.100.111"), literal("10.10.100.111"));
        assert_eq!(judge("2001:db8::1"), literal("2001:db8::1"));
        assert_eq!(judge("fe80::1%eth1"), literal("fe80::1"));
        assert_eq!(judge("proxmox_1.example.org."), Host::Name);
        for text in ["", "10.0.0.1111", "10.0.0", "a b", "-a", "a..b", "0.0.0.0", "::", "x:1"] {
            assert_eq!(judge(text), Host::Unusable, "{text}");
        }
        assert_eq!(judge("239.1.1.1"), Host::Unusable);
        assert_eq!(judge("255.255.255.255"), Host::Unusable);
        assert_eq!(judge("fe80::1%"), Host::Unusable);
        assert_eq!(judge(&"a".repeat(254)), Host::Unusable);
    }
}
