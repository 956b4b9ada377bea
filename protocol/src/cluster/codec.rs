//! A beat as bytes: its fields in order, with nothing between them.
//!
//! The format is that of postcard 1, to which the tests hold every byte that is written, taken or
//! refused. It is written out by hand because a node does it ten times a second for each peer, and
//! a simulated one does little else.
//!
//! * An integer goes seven bits a byte, the lowest first; every byte but the last has its high bit
//!   set. More bytes than it needs are taken, up to as many as its largest value has; bits that it
//!   cannot hold are not.
//! * A truth value is one byte, 0 or 1. So is the mark before an optional value: 0 for none.
//! * A list is its length as an integer of 64 bits, then its elements. So is a set; it is written
//!   ascending and read in any order.
//! * One of several words is its number as an integer of 32 bits, counted from 0.
//! * A struct is its fields, in the order of the list at the end.
//!
//! The functions of fields are short, and are always made part of the one that reads or writes the
//! beat: a call for each field takes longer than its bytes.

use std::collections::BTreeSet;

use super::{Accepted, Answer, Beat, Installed, KnownOff, MAX_NODES, OffBy, Placement, Proposal};
use crate::fence::{Challenge, Nonce};
use crate::ids::{BootId, Epoch, InstanceId, NodeId, RingId, ViewId};
use crate::vote::{Bound, WatchdogClass};

/// What a beat consists of: it knows its own bytes.
pub(super) trait Wire: Sized {
    /// Appends this value to `output`.
    fn write(&self, output: &mut Writer);
    /// Takes this value from the front of `input`; `None` if what is there is no such value.
    fn read(input: &mut Reader<'_>) -> Option<Self>;
}

/// The high bit of a byte of an integer: another byte follows.
const MORE: u8 = 0x80;
/// The same of eight bytes at once.
const ALL_MORE: u64 = u64::from_le_bytes([MORE; 8]);
/// Bytes of an integer that are written and read at once.
const GROUP_BYTES: usize = 8;
/// The bits that they hold.
const GROUP_BITS: u32 = 56;

/// Room for most beats, so that few of them grow while they are written.
const USUAL_BYTES: usize = 256;

/// Spreads 56 bits over eight bytes, seven to each.
const fn spread(bits: u64) -> u64 {
    let halves = ((bits & 0x00ff_ffff_f000_0000) << 4) | (bits & 0x0fff_ffff);
    let quarters = ((halves & 0x0fff_c000_0fff_c000) << 2) | (halves & 0x3fff_0000_3fff);
    ((quarters & 0x3f80_3f80_3f80_3f80) << 1) | (quarters & 0x007f_007f_007f_007f)
}

/// Puts the seven lower bits of each of eight bytes together: the way back.
const fn gather(bytes: u64) -> u64 {
    let quarters = ((bytes & 0x7f00_7f00_7f00_7f00) >> 1) | (bytes & 0x007f_007f_007f_007f);
    let halves = ((quarters & 0x3fff_0000_3fff_0000) >> 2) | (quarters & 0x3fff_0000_3fff);
    ((halves & 0x0fff_ffff_0000_0000) >> 4) | (halves & 0x0fff_ffff)
}

/// What has been written.
pub(super) struct Writer(Vec<u8>);

impl Writer {
    /// Nothing but the version yet.
    pub(super) fn new(version: u8) -> Self {
        let mut bytes = Vec::with_capacity(USUAL_BYTES);
        bytes.push(version);
        Self(bytes)
    }

    /// All that was written.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    #[inline(always)]
    fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    /// The first `bytes` of eight: to write all and take back some is faster than to write some.
    #[inline(always)]
    fn group(&mut self, group: u64, bytes: usize) {
        let end = self.0.len() + bytes;
        self.0.extend_from_slice(&group.to_le_bytes());
        self.0.truncate(end);
    }
}

/// What has not been read yet.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// All of `bytes`.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// How many bytes are left.
    pub(super) fn left(&self) -> usize {
        self.bytes.len().saturating_sub(self.at)
    }

    #[inline(always)]
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    /// Takes bytes of one integer: up to its last, or eight. The second is true if it goes on.
    /// `None` if it is not over after `bytes_max`.
    #[inline(always)]
    fn group(&mut self, bytes_max: usize) -> Option<(u64, bool)> {
        let Some(eight) = self.bytes.get(self.at..).and_then(|rest| rest.first_chunk()) else {
            return self.last_group(bytes_max);
        };
        let word = u64::from_le_bytes(*eight);
        let ends = !word & ALL_MORE;
        if ends == 0 {
            self.at += GROUP_BYTES;
            return (bytes_max > GROUP_BYTES).then_some((gather(word), true));
        }
        let bytes = ends.trailing_zeros() as usize / 8 + 1;
        self.at += bytes;
        // All bits up to the mark that is missing first.
        (bytes <= bytes_max).then_some((gather(word & (ends ^ (ends - 1))), false))
    }

    /// The same where fewer than eight bytes are left.
    #[cold]
    fn last_group(&mut self, bytes_max: usize) -> Option<(u64, bool)> {
        let mut bits = 0;
        for place in 0..bytes_max.min(GROUP_BYTES) {
            let byte = self.byte()?;
            bits |= u64::from(byte & !MORE) << (7 * place);
            if byte & MORE == 0 {
                return Some((bits, false));
            }
        }
        None
    }
}

/// How integers are written and read that are not one byte.
trait Long: Sized {
    fn write_long(self, output: &mut Writer);
    fn read_long(input: &mut Reader<'_>) -> Option<Self>;
}

impl Long for u32 {
    #[inline(always)]
    fn write_long(self, output: &mut Writer) {
        u64::from(self).write_long(output);
    }

    fn read_long(input: &mut Reader<'_>) -> Option<Self> {
        let (bits, _) = input.group(5)?;
        Self::try_from(bits).ok()
    }
}

impl Long for u64 {
    #[inline(always)]
    fn write_long(self, output: &mut Writer) {
        let mut rest = self;
        if rest >> GROUP_BITS != 0 {
            output.group(spread(rest) | ALL_MORE, GROUP_BYTES);
            rest >>= GROUP_BITS;
        }
        let bits = Self::BITS - (rest | 1).leading_zeros();
        let bytes = bits.div_ceil(7);
        let marks = ALL_MORE & ((1 << (8 * (bytes - 1))) - 1);
        output.group(spread(rest) | marks, bytes as usize);
    }

    fn read_long(input: &mut Reader<'_>) -> Option<Self> {
        let (low, more) = input.group(10)?;
        if !more {
            return Some(low);
        }
        let (high, _) = input.group(2)?;
        (high >> (Self::BITS - GROUP_BITS) == 0).then_some((high << GROUP_BITS) | low)
    }
}

impl Long for u128 {
    #[inline(always)]
    fn write_long(self, output: &mut Writer) {
        let mut rest = self;
        while rest >> u64::BITS != 0 {
            // The group's lower bits; those above are spread to nowhere.
            output.group(spread(rest as u64) | ALL_MORE, GROUP_BYTES);
            rest >>= GROUP_BITS;
        }
        (rest as u64).write_long(output);
    }

    fn read_long(input: &mut Reader<'_>) -> Option<Self> {
        let (low, more) = input.group(19)?;
        let value = Self::from(low);
        if !more {
            return Some(value);
        }
        let (middle, more) = input.group(11)?;
        let value = (Self::from(middle) << GROUP_BITS) | value;
        if !more {
            return Some(value);
        }
        let (high, _) = input.group(3)?;
        let shift = 2 * GROUP_BITS;
        (high >> (Self::BITS - shift) == 0).then_some((Self::from(high) << shift) | value)
    }
}

/// Short numbers are the most.
macro_rules! integers {
    ($($integer:ty),*) => {$(
        impl Wire for $integer {
            #[inline(always)]
            fn write(&self, output: &mut Writer) {
                if *self < <$integer>::from(MORE) {
                    output.byte(self.to_le_bytes()[0]);
                } else {
                    self.write_long(output);
                }
            }

            #[inline(always)]
            fn read(input: &mut Reader<'_>) -> Option<Self> {
                if let Some(byte) = input.bytes.get(input.at) && *byte < MORE {
                    input.at += 1;
                    return Some(<$integer>::from(*byte));
                }
                Self::read_long(input)
            }
        }
    )*};
}

integers!(u32, u64, u128);

impl Wire for bool {
    #[inline(always)]
    fn write(&self, output: &mut Writer) {
        output.byte(u8::from(*self));
    }

    #[inline(always)]
    fn read(input: &mut Reader<'_>) -> Option<Self> {
        match input.byte()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
}

impl<T: Wire> Wire for Option<T> {
    #[inline(always)]
    fn write(&self, output: &mut Writer) {
        self.is_some().write(output);
        if let Some(value) = self {
            value.write(output);
        }
    }

    #[inline(always)]
    fn read(input: &mut Reader<'_>) -> Option<Self> {
        if bool::read(input)? { T::read(input).map(Some) } else { Some(None) }
    }
}

#[inline(always)]
fn write_length(length: usize, output: &mut Writer) {
    // No machine's lengths are over 64 bits.
    u64::try_from(length).unwrap_or(u64::MAX).write(output);
}

/// The length of a list. An element has a byte at least, so one that is longer than what is left
/// is refused before there is room made for it.
#[inline(always)]
fn read_length(input: &mut Reader<'_>) -> Option<usize> {
    let length = usize::try_from(u64::read(input)?).ok()?;
    (length <= input.left()).then_some(length)
}

impl<T: Wire> Wire for Vec<T> {
    #[inline(always)]
    fn write(&self, output: &mut Writer) {
        write_length(self.len(), output);
        for element in self {
            element.write(output);
        }
    }

    #[inline(always)]
    fn read(input: &mut Reader<'_>) -> Option<Self> {
        let length = read_length(input)?;
        if length == 0 {
            return Some(Self::new());
        }
        // Enough for what a cluster can have. A longer list is refused once the whole beat is read;
        // it gets its room as its elements come.
        let mut list = Self::with_capacity(length.min(MAX_NODES));
        for _ in 0..length {
            list.push(T::read(input)?);
        }
        Some(list)
    }
}

impl Wire for BTreeSet<NodeId> {
    fn write(&self, output: &mut Writer) {
        write_length(self.len(), output);
        for node in self {
            node.write(output);
        }
    }

    fn read(input: &mut Reader<'_>) -> Option<Self> {
        let length = read_length(input)?;
        (0..length).map(|_| NodeId::read(input)).collect()
    }
}

/// A name is the number in it.
macro_rules! names {
    ($($name:ident),*) => {$(
        impl Wire for $name {
            #[inline(always)]
            fn write(&self, output: &mut Writer) {
                self.0.write(output);
            }

            #[inline(always)]
            fn read(input: &mut Reader<'_>) -> Option<Self> {
                Wire::read(input).map(Self)
            }
        }
    )*};
}

names!(NodeId, InstanceId, BootId, Epoch, Nonce);

/// Numbers of words.
macro_rules! words {
    ($($word:ident { $($variant:ident = $number:literal),* })*) => {$(
        impl Wire for $word {
            #[inline(always)]
            fn write(&self, output: &mut Writer) {
                let number: u32 = match self {
                    $(Self::$variant => $number,)*
                };
                number.write(output);
            }

            #[inline(always)]
            fn read(input: &mut Reader<'_>) -> Option<Self> {
                match u32::read(input)? {
                    $($number => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }
    )*};
}

words! {
    OffBy { Power = 0, Watchdog = 1, Operator = 2 }
    WatchdogClass { A = 0, B = 1, C = 2, D = 3 }
}

/// The fields in the order in which they are written and read: all of them, or it does not compile.
/// One that stands after a semicolon is not among them: whoever writes and reads it does so apart.
macro_rules! structs {
    ($($name:ident { $($field:ident),* $(; $elsewhere:ident)? })*) => {$(
        impl Wire for $name {
            #[inline(always)]
            fn write(&self, output: &mut Writer) {
                let Self { $($field,)* $($elsewhere: _)? } = self;
                $($field.write(output);)*
            }

            #[inline(always)]
            fn read(input: &mut Reader<'_>) -> Option<Self> {
                Some(Self { $($field: Wire::read(input)?,)* $($elsewhere: None)? })
            }
        }
    )*};
}

structs! {
    RingId { seq, node }
    ViewId { ring, nonce }
    Bound { class, bound_ms }
    Answer { instance, seq }
    Installed { id, epoch, members, vote_free }
    Proposal { id, members }
    Accepted { id }
    Placement { epoch, serial, node }
    KnownOff { node, boot, by, sent_ms, epoch }
    Challenge { nonce, targets }
    Beat {
        from, instance, boot, config_digest, seq, answers, contacts, highest_epoch, ring_seq, view,
        proposal, accepted, bound, placement, placing, running, leaving, off; challenge
    }
}

#[cfg(test)]
mod tests;
