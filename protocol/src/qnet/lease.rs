//! Our private options: how a client of ours asks for a lease and how our arbiter grants it.
//!
//! Stock peers skip options they do not know (section 1.2 of the wire). A client lists
//! [`OPTION_HELLO`] among its supported options in Init and sends it; an arbiter of ours answers
//! with [`OPTION_ARBITER_HELLO`]; leases exist only between two such peers. A grant is an option
//! that the client did not send, because a stock arbiter mirrors whatever an echo holds
//! (safety 8).
//!
//! All integers are big-endian. Layouts, in order:
//! * hello 0x4841, C→S in Init: u16 version (1), u64 instance, u128 boot id, u8 host kind, u32
//!   worst-case milliseconds, u8 watchdog class (1 A … 4 D), u32 watchdog bound in milliseconds,
//!   u64 highest epoch, u8 held (0 or 1), then if held: grant id, view id, u32 remaining
//!   milliseconds. Host kinds are 1 builtin, 2 corosync.
//! * view note 0x4842, C→S in membership lists: u64 nonce, u64 view epoch, u64 highest epoch.
//! * renewal 0x4843, C→S in echo requests: grant id, view id, u64 highest epoch.
//! * grant 0x4844, S→C in vote infos and echo replies: grant id, view id, u32 lease length in
//!   milliseconds, u32 sequence number of the echo request whose sending the lease runs from.
//! * arbiter hello 0x4845, S→C in Init replies: u16 version, u128 arbiter id, u32 boot counter.
//! * epoch 0x4846, S→C in every vote to an own client: u64 highest epoch that the arbiter knows.
//! * worst case 0x4847, C→S in echo requests with a renewal: u32 milliseconds, in the place of
//!   those in the hello. Only fewer than before count.
//!
//! A grant id is u128 arbiter, u32 boot, u64 epoch; a view id is u32 ring node, u64 ring
//! sequence, u64 nonce.
//!
//! A wrong length or an unlisted number is a decode error, as in the stock options. Only the two
//! hellos may grow: one of a higher version begins with the layout of version 1, and what follows
//! is not looked at. There is no version 0.

use super::tlv::{DecodeFault, Input, Value};
use crate::ids::{ArbiterId, BootId, Epoch, GrantId, InstanceId, RingId, ViewId};
use crate::vote::{Bound, WatchdogClass};

/// The version that both hellos of this implementation have.
const VERSION: u16 = 1;

/// The number of the option that holds a [`Hello`].
pub const OPTION_HELLO: u16 = 0x4841;
/// The number of the option that holds a [`ViewNote`].
pub const OPTION_VIEW_NOTE: u16 = 0x4842;
/// The number of the option that holds a [`Renewal`].
pub const OPTION_RENEWAL: u16 = 0x4843;
/// The number of the option that holds a [`Grant`].
pub const OPTION_GRANT: u16 = 0x4844;
/// The number of the option that holds an [`ArbiterHello`].
pub const OPTION_ARBITER_HELLO: u16 = 0x4845;
/// The number of the option that holds the highest [`Epoch`] an arbiter knows.
pub const OPTION_EPOCH: u16 = 0x4846;
/// The number of the option that holds a shorter worst case than the one in the [`Hello`].
pub const OPTION_WORST_CASE: u16 = 0x4847;

/// What counts the device's vote on the client's machine.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HostKind {
    /// Our node: counts the lease and nothing else.
    Builtin,
    /// corosync: counts the vote for T, and S in a sync (safety 8).
    Corosync,
}

/// A client's introduction.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Hello {
    /// This life of the client's process.
    pub instance: InstanceId,
    /// The boot of its machine.
    pub boot: BootId,
    /// Who counts its vote.
    pub host: HostKind,
    /// The longest its host may count a vote after the client has lost its lease, in
    /// milliseconds; 0 for a builtin host.
    pub worst_case_ms: u32,
    /// The node's watchdog.
    pub bound: Bound,
    /// The highest epoch it has stored.
    pub highest_epoch: Epoch,
    /// The lease it still holds, if any.
    pub held: Option<Held>,
}

/// A lease that a client presents after a reconnect.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Held {
    /// The grant it is of.
    pub grant: GrantId,
    /// The view it is for.
    pub view: ViewId,
    /// What is left of it, in milliseconds.
    pub remaining_ms: u32,
}

/// What an own client adds to a membership list.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ViewNote {
    /// The random part of the view id.
    pub nonce: u64,
    /// The view's epoch, as its members agreed it.
    pub epoch: Epoch,
    /// The highest epoch the client has stored.
    pub highest_epoch: Epoch,
}

/// A request to extend a lease.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Renewal {
    /// The grant that is to go on; all zero if the client has none yet and only anchors the next.
    pub grant: GrantId,
    /// The view it is for.
    pub view: ViewId,
    /// The highest epoch the client has stored.
    pub highest_epoch: Epoch,
}

/// The arbiter's lease to one client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Grant {
    /// Which grant.
    pub id: GrantId,
    /// The only view in which it counts.
    pub view: ViewId,
    /// How long it counts, in milliseconds, from the sending of the echo request `anchor`.
    pub lease_ms: u32,
    /// Sequence number of an echo request of this connection (safety 9).
    pub anchor: u32,
}

/// The arbiter's introduction.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ArbiterHello {
    /// Which state directory speaks.
    pub id: ArbiterId,
    /// How often it has been opened.
    pub boot: u32,
}

/// Reads the version of a hello.
fn read_version(input: &mut Input<'_>) -> Result<u16, DecodeFault> {
    match u16::read(input)? {
        0 => Err(input.bad_value()),
        version => Ok(version),
    }
}

/// Drops what a newer version has added.
fn skip_newer(version: u16, input: &mut Input<'_>) {
    if version > VERSION {
        input.take_rest();
    }
}

impl Value for Hello {
    fn read(input: &mut Input<'_>) -> Result<Self, DecodeFault> {
        let version = read_version(input)?;
        let hello = Self {
            instance: InstanceId(u64::read(input)?),
            boot: BootId(u128::read(input)?),
            host: HostKind::read(input)?,
            worst_case_ms: u32::read(input)?,
            bound: Bound { class: WatchdogClass::read(input)?, bound_ms: u32::read(input)? },
            highest_epoch: Epoch::read(input)?,
            held: bool::read(input)?.then(|| Held::read(input)).transpose()?,
        };
        skip_newer(version, input);
        Ok(hello)
    }

    fn write(&self, output: &mut Vec<u8>) {
        VERSION.write(output);
        self.instance.0.write(output);
        self.boot.0.write(output);
        self.host.write(output);
        self.worst_case_ms.write(output);
        self.bound.class.write(output);
        self.bound.bound_ms.write(output);
        self.highest_epoch.write(output);
        self.held.is_some().write(output);
        if let Some(held) = &self.held {
            held.write(output);
        }
    }
}

impl Value for Held {
    fn read(input: &mut Input<'_>) -> Result<Self, DecodeFault> {
        Ok(Self {
            grant: GrantId::read(input)?,
            view: ViewId::read(input)?,
            remaining_ms: u32::read(input)?,
        })
    }

    fn write(&self, output: &mut Vec<u8>) {
        self.grant.write(output);
        self.view.write(output);
        self.remaining_ms.write(output);
    }
}

impl Value for ViewNote {
    fn read(input: &mut Input<'_>) -> Result<Self, DecodeFault> {
        Ok(Self {
            nonce: u64::read(input)?,
            epoch: Epoch::read(input)?,
            highest_epoch: Epoch::read(input)?,
        })
    }

    fn write(&self, output: &mut Vec<u8>) {
        self.nonce.write(output);
        self.epoch.write(output);
        self.highest_epoch.write(output);
    }
}

impl Value for Renewal {
    fn read(input: &mut Input<'_>) -> Result<Self, DecodeFault> {
        Ok(Self {
            grant: GrantId::read(input)?,
            view: ViewId::read(input)?,
            highest_epoch: Epoch::read(input)?,
        })
    }

    fn write(&self, output: &mut Vec<u8>) {
        self.grant.write(output);
        self.view.write(output);
        self.highest_epoch.write(output);
    }
}

impl Value for Grant {
    fn read(input: &mut Input<'_>) -> Result<Self, DecodeFault> {
        Ok(Self {
            id: GrantId::read(input)?,
            view: ViewId::read(input)?,
            lease_ms: u32::read(input)?,
            anchor: u32::read(input)?,
        })
    }

    fn write(&self, output: &mut Vec<u8>) {
        self.id.write(output);
        self.view.write(output);
        self.lease_ms.write(output);
        self.anchor.write(output);
    }
}

impl Value for ArbiterHello {
    fn read(input: &mut Input<'_>) -> Result<Self, DecodeFault> {
        let version = read_version(input)?;
        let hello = Self { id: ArbiterId(u128::read(input)?), boot: u32::read(input)? };
        skip_newer(version, input);
        Ok(hello)
    }

    fn write(&self, output: &mut Vec<u8>) {
        VERSION.write(output);
        self.id.0.write(output);
        self.boot.write(output);
    }
}

impl Value for Epoch {
    fn read(input: &mut Input<'_>) -> Result<Self, DecodeFault> {
        u64::read(input).map(Self)
    }

    fn write(&self, output: &mut Vec<u8>) {
        self.0.write(output);
    }
}

impl Value for GrantId {
    fn read(input: &mut Input<'_>) -> Result<Self, DecodeFault> {
        Ok(Self {
            arbiter: ArbiterId(u128::read(input)?),
            boot: u32::read(input)?,
            epoch: Epoch::read(input)?,
        })
    }

    fn write(&self, output: &mut Vec<u8>) {
        self.arbiter.0.write(output);
        self.boot.write(output);
        self.epoch.write(output);
    }
}

impl Value for ViewId {
    fn read(input: &mut Input<'_>) -> Result<Self, DecodeFault> {
        Ok(Self { ring: RingId::read(input)?, nonce: u64::read(input)? })
    }

    fn write(&self, output: &mut Vec<u8>) {
        self.ring.write(output);
        self.nonce.write(output);
    }
}

impl Value for HostKind {
    fn read(input: &mut Input<'_>) -> Result<Self, DecodeFault> {
        match u8::read(input)? {
            1 => Ok(Self::Builtin),
            2 => Ok(Self::Corosync),
            _ => Err(input.bad_value()),
        }
    }

    fn write(&self, output: &mut Vec<u8>) {
        output.push(match self {
            Self::Builtin => 1,
            Self::Corosync => 2,
        });
    }
}

impl Value for WatchdogClass {
    fn read(input: &mut Input<'_>) -> Result<Self, DecodeFault> {
        match u8::read(input)? {
            1 => Ok(Self::A),
            2 => Ok(Self::B),
            3 => Ok(Self::C),
            4 => Ok(Self::D),
            _ => Err(input.bad_value()),
        }
    }

    fn write(&self, output: &mut Vec<u8>) {
        output.push(match self {
            Self::A => 1,
            Self::B => 2,
            Self::C => 3,
            Self::D => 4,
        });
    }
}
