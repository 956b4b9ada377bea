//! Values of the file: durations with units, hosts with ports, delays.

use std::fmt;
use std::time::Duration;

use crate::core::Delay;

/// `20s`, `500ms`, `2m`, `1h`; `None` is no duration.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit())?;
    let count: u64 = text[..digits].parse().ok()?;
    let milliseconds = match &text[digits..] {
        "ms" => Some(count),
        "s" => count.checked_mul(1000),
        "m" => count.checked_mul(60_000),
        "h" => count.checked_mul(3_600_000),
        _ => None,
    };
    milliseconds.map(Duration::from_millis)
}

/// A duration as [`duration`] reads it, in the largest unit that is exact.
pub(super) fn words(duration: Duration) -> String {
    let ms = duration.as_millis();
    match ms {
        _ if !ms.is_multiple_of(1000) => format!("{ms}ms"),
        _ if ms >= 3_600_000 && ms.is_multiple_of(3_600_000) => format!("{}h", ms / 3_600_000),
        _ if ms >= 60_000 && ms.is_multiple_of(60_000) => format!("{}m", ms / 60_000),
        _ => format!("{}s", ms / 1000),
    }
}

/// A host's name or address, and a port.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Endpoint {
    /// As it is looked up; an IPv6 address has no brackets here.
    pub host: String,
    /// 1 to 65535.
    pub port: u16,
}

impl Endpoint {
    /// Reads `HOST` or `HOST:PORT`; an IPv6 address with a port is in brackets.
    pub fn parse(text: &str, default_port: u16) -> Option<Self> {
        if text.parse::<std::net::Ipv6Addr>().is_ok() {
            return Some(Self { host: text.to_owned(), port: default_port });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && !text.ends_with(']') => {
                (host, port.parse().ok().filter(|port| *port > 0)?)
            }
            _ => (text, default_port),
        };
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let plain = bare.unwrap_or(host);
        let name = |letter: char| !letter.is_whitespace() && !letter.is_control();
        let sound = !plain.is_empty()
            && (bare.is_some() || !plain.contains([':', '[', ']', '/', '@']))
            && plain.chars().all(name);
        sound.then(|| Self { host: plain.to_owned(), port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// `arbiter`, a duration, or `random` and a duration; at most `max`.
pub(super) fn delay(text: &str, max: Duration) -> Option<Delay> {
    if text == "arbiter" {
        return Some(Delay::Arbiter);
    }
    let bounded = |text: &str| duration(text.trim()).filter(|delay| *delay <= max);
    match text.strip_prefix("random ") {
        Some(rest) => bounded(rest).map(Delay::Random),
        None => bounded(text).map(Delay::Fixed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_a_unit_and_comes_back_in_words() {
        for text in ["500ms", "20s", "2m", "1h", "90s", "0s"] {
            assert_eq!(words(duration(text).unwrap()), text);
        }
        for wrong in ["", "5", "s", "5 s", "-1s", "1.5s", "5S", "99999999999999999999s"] {
            assert_eq!(duration(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_endpoint_has_the_default_port_unless_it_names_one() {
        let read = |text| Endpoint::parse(text, 623).map(|end| (end.host, end.port));
        assert_eq!(read("bmc1"), Some(("bmc1".to_owned(), 623)));
        assert_eq!(read("10.0.0.1:6230"), Some(("10.0.0.1".to_owned(), 6230)));
        assert_eq!(read("fe80::1"), Some(("fe80::1".to_owned(), 623)));
        assert_eq!(read("[fe80::1]"), Some(("fe80::1".to_owned(), 623)));
        assert_eq!(read("[fe80::1]:7"), Some(("fe80::1".to_owned(), 7)));
        for wrong in ["", ":1", "a:0", "a:65536", "a:", "a b", "[]:1", "x@y", "http://a", "a\n"] {
            assert_eq!(read(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_delay_is_the_arbiters_fixed_or_random() {
        let max = Duration::from_secs(60);
        let seconds = Duration::from_secs;
        assert_eq!(delay("arbiter", max), Some(Delay::Arbiter));
        assert_eq!(delay("5s", max), Some(Delay::Fixed(seconds(5))));
        assert_eq!(delay("random 3s", max), Some(Delay::Random(seconds(3))));
        for wrong in ["", "5", "random", "random5s", "61s", "random 2h", "never"] {
            assert_eq!(delay(wrong, max), None, "{wrong}");
        }
    }
}
