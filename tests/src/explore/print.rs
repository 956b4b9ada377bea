//! A number for everything that a machine knows, so that a state is looked at once.
//!
//! Two states are the same when all that is different between them is what time it is: so a print
//! is of the `Debug` text, in which every [`Time`] is taken out and later counted from now. Fields
//! that are added to a machine are in it by themselves.

use std::cell::OnceCell;
use std::fmt::{Debug, Write};
use std::rc::Rc;

use protocol::time::Time;

/// How [`Time`] begins in a `Debug` text.
const MARK: &[u8] = b"Time(";

/// The shape of a text, and the times in it, in order.
#[derive(Clone, Debug)]
pub(super) struct Print {
    shape: u64,
    times: Vec<u64>,
}

impl Print {
    pub(super) fn of(what: &impl Debug) -> Self {
        let mut text = String::with_capacity(4096);
        // Writing to a string cannot fail.
        let _ = write!(text, "{what:?}");
        let mut times = Vec::new();
        let (mut shape, mut rest) = (Hash::default(), text.as_bytes());
        while let Some(at) = find(rest) {
            let (before, after) = rest.split_at(at + MARK.len());
            shape.bytes(before);
            let digits = after.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let number = |sum: u64, byte: &u8| sum.wrapping_mul(10) + u64::from(byte - b'0');
            times.push(after[..digits].iter().fold(0, number));
            rest = &after[digits..];
        }
        shape.bytes(rest);
        Self { shape: shape.value(), times }
    }

    /// Puts it into a hash, its times counted from `now`.
    pub(super) fn add_to(&self, hash: &mut Hash, now: Time) {
        hash.number(self.shape);
        for time in &self.times {
            let is_time = *time != Time::NEVER.0;
            hash.number(if is_time { time.wrapping_sub(now.0) } else { Time::NEVER.0 });
        }
    }
}

fn find(text: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(at) = text[from..].iter().position(|byte| *byte == b'T') {
        if text[from + at..].starts_with(MARK) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

/// Something that many states share, with its print once that was asked for.
#[derive(Clone, Debug)]
pub(super) struct Shared<T>(Rc<(T, OnceCell<Print>)>);

impl<T: Clone + Debug> Shared<T> {
    pub(super) fn new(what: T) -> Self {
        Self(Rc::new((what, OnceCell::new())))
    }

    pub(super) fn get(&self) -> &T {
        &self.0.0
    }

    /// For a change: what others share stays as it is.
    pub(super) fn change(&mut self) -> &mut T {
        let own = Rc::make_mut(&mut self.0);
        own.1 = OnceCell::new();
        &mut own.0
    }

    pub(super) fn add_to(&self, hash: &mut Hash, now: Time) {
        self.0.1.get_or_init(|| Print::of(&self.0.0)).add_to(hash, now);
    }
}

/// A 64-bit hash of our own, so that a state has the same number in every run.
#[derive(Debug)]
pub(super) struct Hash(u64);

impl Default for Hash {
    fn default() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }
}

impl Hash {
    pub(super) fn number(&mut self, number: u64) {
        let mixed = (self.0 ^ number).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        self.0 = mixed ^ (mixed >> 29);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        let words = bytes.chunks_exact(8);
        let mut last = [0; 8];
        last[..words.remainder().len()].copy_from_slice(words.remainder());
        for word in words {
            self.number(u64::from_le_bytes(word.try_into().unwrap_or([0; 8])));
        }
        self.number(u64::from_le_bytes(last));
        self.number(u64::try_from(bytes.len()).unwrap_or(0));
    }

    pub(super) fn value(&self) -> u64 {
        let mixed = (self.0 ^ (self.0 >> 32)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(what: &impl Debug, now: u64) -> u64 {
        let mut hash = Hash::default();
        Print::of(what).add_to(&mut hash, Time(now));
        hash.value()
    }

    #[test]
    fn what_differs_in_what_time_it_is_has_one_print() {
        let early = (Time(1000), "Tea", Some(Time(1700)), Time::NEVER);
        let late = (Time(5000), "Tea", Some(Time(5700)), Time::NEVER);
        assert_eq!(number(&early, 1200), number(&late, 5200));
        assert_ne!(number(&early, 1200), number(&late, 5201));
        assert_ne!(number(&early, 1200), number(&(Time(1000), "Tee", Some(Time(1700))), 1200));
    }

    #[test]
    fn a_change_makes_a_new_print_and_leaves_the_others_theirs() {
        let number = |shared: &Shared<u32>| {
            let mut hash = Hash::default();
            shared.add_to(&mut hash, Time::ZERO);
            hash.value()
        };
        let first = Shared::new(1);
        let mut second = first.clone();
        assert_eq!(number(&first), number(&second));
        *second.change() = 2;
        assert_ne!(number(&first), number(&second));
        assert_eq!((*first.get(), *second.get()), (1, 2));
    }
}
