//! Choices out of bytes: what a fuzzer mutates becomes what happens next.

/// Bytes that are used up by questions. At its end every answer is 0, so that each input means
/// something and a shorter one means less.
#[derive(Clone, Debug)]
pub struct Tape<'a>(&'a [u8]);

impl<'a> Tape<'a> {
    /// A tape of these bytes.
    pub fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    /// Nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// Yes or no.
    pub fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// A number below `end`, which is at most 256; 0 if `end` is.
    pub fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()).checked_rem(end).unwrap_or(0)
    }

    /// One of these; the list must not be empty.
    pub fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }

    /// A value or none.
    pub fn maybe<T>(&mut self, value: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.flag().then(|| value(self))
    }

    /// Two bytes, big-endian.
    pub fn u16(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// Four bytes, big-endian.
    pub fn u32(&mut self) -> u32 {
        u32::from(self.u16()) << 16 | u32::from(self.u16())
    }

    /// Eight bytes, big-endian.
    pub fn u64(&mut self) -> u64 {
        u64::from(self.u32()) << 32 | u64::from(self.u32())
    }

    /// Mostly a small number, now and then any: ids and counters only matter when they meet.
    pub fn number(&mut self) -> u64 {
        match self.byte() {
            255 => self.u64(),
            254 => u64::MAX - u64::from(self.byte()),
            253 => u64::from(self.u32()),
            252 => u64::from(self.u16()),
            small => u64::from(small),
        }
    }

    /// The same in 32 bits.
    pub fn number32(&mut self) -> u32 {
        match self.byte() {
            255 => self.u32(),
            254 => u32::MAX - u32::from(self.byte()),
            253 => u32::from(self.u16()),
            small => u32::from(small),
        }
    }

    /// Up to `limit` bytes, as many as there are.
    pub fn bytes(&mut self, limit: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(limit.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A short run of bytes whose length is on the tape.
    pub fn run(&mut self) -> &'a [u8] {
        let length = usize::from(self.byte());
        self.bytes(length)
    }

    /// Everything that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        self.bytes(usize::MAX)
    }
}
