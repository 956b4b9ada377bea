//! Newtypes for everything that names something, so that two of them cannot be swapped.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A cluster node's id, 1 to 2³²−1 (corosync.conf(5) `nodeid`; 0 is never a node).
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct NodeId(pub u32);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A cluster's name: raw bytes compared exactly, without a charset (qnetd wire, option 1).
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct ClusterName(pub Vec<u8>);

impl From<&str> for ClusterName {
    fn from(name: &str) -> Self {
        Self(name.as_bytes().to_vec())
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", String::from_utf8_lossy(&self.0))
    }
}

/// A membership's id on the stock wire: the representative's node id and a sequence number that
/// only grows (qnetd wire, option 13). Shown as the stock tools do, both parts in hex: `1.a`.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize,
)]
pub struct RingId {
    /// Grows with every membership that any member has seen; compared first.
    pub seq: u64,
    /// The node that formed the membership.
    pub node: u32,
}

impl RingId {
    /// The ring `node.seq`.
    pub const fn new(node: u32, seq: u64) -> Self {
        Self { seq, node }
    }
}

impl fmt::Display for RingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}.{:x}", self.node, self.seq)
    }
}

/// A view: a ring id and a random part, so that a node that lost its disk cannot mint an old view
/// again (safety 2). Stock peers know only the ring; their nonce is 0.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize,
)]
pub struct ViewId {
    /// The ring id that stock peers see.
    pub ring: RingId,
    /// The random part.
    pub nonce: u64,
}

impl fmt::Display for ViewId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:08x}", self.ring, self.nonce & 0xffff_ffff)
    }
}

/// The number of a quorate view; of two, the higher one is newer (rule S4). Ordered alone (F11).
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize,
)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch after this one. Saturates: an epoch never goes back.
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A random number that an arbiter's state directory got when it was made; clients pin it
/// (safety 11).
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize,
)]
pub struct ArbiterId(#[serde(with = "hex128")] pub u128);

impl fmt::Display for ArbiterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Names one grant of one arbiter; compared for equality only (F11).
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize,
)]
pub struct GrantId {
    /// The state directory that holds the grant.
    pub arbiter: ArbiterId,
    /// How often that directory had been opened when the grant was made.
    pub boot: u32,
    /// The epoch that the grant gave.
    pub epoch: Epoch,
}

/// One boot of one host's kernel (`/proc/sys/kernel/random/boot_id`). Zero means unknown.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize,
)]
pub struct BootId(#[serde(with = "hex128")] pub u128);

impl BootId {
    /// Reads the text form of a UUID; anything else is unknown (zero), which equals no boot.
    pub fn parse(text: &str) -> Self {
        let hex: String = text.trim().chars().filter(|c| *c != '-').collect();
        Self(u128::from_str_radix(&hex, 16).unwrap_or(0))
    }
}

/// One life of one process: random, drawn at its start.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize,
)]
pub struct InstanceId(pub u64);

/// 128 bits as hex digits in JSON, where numbers end at 64 bits, and as a number elsewhere.
pub(crate) mod hex128 {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(id: &u128, to: S) -> Result<S::Ok, S::Error> {
        if to.is_human_readable() { format!("{id:032x}").serialize(to) } else { id.serialize(to) }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u128, D::Error> {
        if !from.is_human_readable() {
            return u128::deserialize(from);
        }
        let text = String::deserialize(from)?;
        u128::from_str_radix(&text, 16).map_err(|_| D::Error::custom("not 32 hex digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ring_ids_print_in_hex_as_the_stock_tools_do() {
        assert_eq!(RingId::new(1, 10).to_string(), "1.a");
    }

    #[test]
    fn a_boot_id_is_read_from_its_uuid_and_junk_is_unknown() {
        let id = BootId::parse("00000000-0000-0000-0000-00000000000a\n");
        assert_eq!(id, BootId(10));
        assert_eq!(BootId::parse("junk"), BootId(0));
    }
}
