//! Options as bytes: a number, a length and a value, back to back (wire 1.2).

use thiserror::Error;

/// Number and length of one option, in bytes.
const OPTION_HEADER_BYTES: usize = 4;

/// A message whose bytes make no sense; a server answers
/// [`ErrorCode::ErrorDecodingMessage`](super::ErrorCode::ErrorDecodingMessage), or
/// [`ErrorCode::UnsupportedMessage`](super::ErrorCode::UnsupportedMessage) for an unknown type.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("message cannot be decoded: {what}")]
pub struct DecodeError {
    /// The sequence number, if it was decoded before the fault: the answer repeats it (wire 1.6,
    /// code 9).
    pub seq: Option<u32>,
    /// What is wrong.
    pub what: DecodeFault,
}

/// What is wrong with a message's bytes.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum DecodeFault {
    /// Not one of the eighteen types of wire 1.3.
    #[error("type {0} is unknown")]
    UnknownType(u16),
    /// A message without options.
    #[error("it is empty")]
    Empty,
    /// An option claims more bytes than the message, or the node info around it, has left.
    #[error("option {0} is longer than what holds it")]
    Overrun(u16),
    /// One to three bytes follow the last option: too few for another one.
    #[error("stray bytes follow the last option")]
    TrailingBytes,
    /// A known option of a length that it cannot have.
    #[error("option {option} cannot be {bytes} bytes long")]
    Length {
        /// The option's number.
        option: u16,
        /// The length of its value.
        bytes: u16,
    },
    /// A known option with a number that it cannot hold.
    #[error("option {0} has a value that is not allowed")]
    Value(u16),
    /// A node info without a node id, or with node id 0.
    #[error("a node info names no node")]
    NoNodeId,
}

/// What an option can hold: it knows its own bytes.
pub(super) trait Value: Sized {
    /// Takes this value from the front of `input`.
    fn read(input: &mut Input<'_>) -> Result<Self, DecodeFault>;
    /// Appends this value to `output`.
    fn write(&self, output: &mut Vec<u8>);
}

/// Splits a body, or the inside of a node info, into options.
#[derive(Debug)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// A reader of all of `bytes`.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn split(&self) -> Result<(Input<'a>, &'a [u8]), DecodeFault> {
        let Some(([a, b, c, d], rest)) = self.0.split_first_chunk() else {
            return Err(DecodeFault::TrailingBytes);
        };
        let option = u16::from_be_bytes([*a, *b]);
        let bytes = u16::from_be_bytes([*c, *d]);
        let Some((value, rest)) = rest.split_at_checked(usize::from(bytes)) else {
            return Err(DecodeFault::Overrun(option));
        };
        Ok((Input { option, bytes, rest: value }, rest))
    }
}

impl<'a> Iterator for Reader<'a> {
    type Item = Result<Input<'a>, DecodeFault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let split = self.split();
        self.0 = split.as_ref().map_or(&[], |(_, rest)| rest);
        Some(split.map(|(input, _)| input))
    }
}

/// The value of one option, taken from its front.
#[derive(Debug)]
pub(super) struct Input<'a> {
    option: u16,
    bytes: u16,
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    /// The option's number.
    pub(super) fn option(&self) -> u16 {
        self.option
    }

    /// Reads the value as a `T` that must fill it.
    pub(super) fn read<T: Value>(mut self) -> Result<T, DecodeFault> {
        let value = T::read(&mut self)?;
        if !self.rest.is_empty() {
            return Err(self.bad_length());
        }
        Ok(value)
    }

    /// Takes all that is left.
    pub(super) fn take_rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// The fault of a value that no rule allows.
    pub(super) fn bad_value(&self) -> DecodeFault {
        DecodeFault::Value(self.option)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], DecodeFault> {
        let Some((head, rest)) = self.rest.split_first_chunk() else {
            return Err(self.bad_length());
        };
        self.rest = rest;
        Ok(*head)
    }

    fn bad_length(&self) -> DecodeFault {
        DecodeFault::Length { option: self.option, bytes: self.bytes }
    }
}

/// Writes options back to back.
#[derive(Debug, Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    /// A writer that goes on after `bytes`.
    pub(super) fn after(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// Appends an option if there is a value. One that no length field can state is left out: the
    /// peer then misses the option and says so, instead of reading a part as the whole.
    #[inline]
    pub(super) fn put<T: Value>(&mut self, option: u16, value: Option<&T>) {
        if let Some(value) = value {
            self.put_value(option, value);
        }
    }

    fn put_value<T: Value>(&mut self, option: u16, value: &T) {
        let start = self.0.len();
        let value_start = start + OPTION_HEADER_BYTES;
        self.0.extend_from_slice(&option.to_be_bytes());
        self.0.extend_from_slice(&[0; 2]);
        value.write(&mut self.0);
        match (u16::try_from(self.0.len() - value_start), u32::try_from(self.0.len())) {
            (Ok(bytes), Ok(_)) => {
                self.0[start + 2..value_start].copy_from_slice(&bytes.to_be_bytes());
            }
            (Err(_), _) | (_, Err(_)) => self.0.truncate(start),
        }
    }

    /// All that was written.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// Integers are big-endian (wire 1.1).
macro_rules! integer_values {
    ($($integer:ty),*) => {$(
        impl Value for $integer {
            fn read(input: &mut Input<'_>) -> Result<Self, DecodeFault> {
                input.take().map(Self::from_be_bytes)
            }

            fn write(&self, output: &mut Vec<u8>) {
                output.extend_from_slice(&self.to_be_bytes());
            }
        }
    )*};
}

integer_values!(u8, u16, u32, u64, u128);

/// Yes or no, checked (options 20 and 23).
impl Value for bool {
    fn read(input: &mut Input<'_>) -> Result<Self, DecodeFault> {
        match u8::read(input)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(input.bad_value()),
        }
    }

    fn write(&self, output: &mut Vec<u8>) {
        output.push(u8::from(*self));
    }
}

/// A list of numbers fills its option (options 4, 5 and 10).
impl Value for Vec<u16> {
    fn read(input: &mut Input<'_>) -> Result<Self, DecodeFault> {
        let (pairs, []) = input.take_rest().as_chunks() else {
            return Err(input.bad_length());
        };
        Ok(pairs.iter().map(|pair| u16::from_be_bytes(*pair)).collect())
    }

    fn write(&self, output: &mut Vec<u8>) {
        output.extend(self.iter().flat_map(|number| number.to_be_bytes()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(bytes: &[u8]) -> Result<Vec<(u16, Vec<u8>)>, DecodeFault> {
        Reader::new(bytes)
            .map(|input| input.map(|mut input| (input.option(), input.take_rest().to_vec())))
            .collect()
    }

    #[test]
    fn options_follow_each_other_without_padding() {
        let bytes = [0, 1, 0, 1, b'a', 0, 2, 0, 0, 1, 0, 0, 2, 7, 8];
        let expected = vec![(1, b"a".to_vec()), (2, vec![]), (256, vec![7, 8])];
        assert_eq!(options(&bytes), Ok(expected));
    }

    #[test]
    fn an_overrun_and_each_number_of_stray_bytes_are_faults() {
        assert_eq!(options(&[0, 9, 0, 2, 1]), Err(DecodeFault::Overrun(9)));
        for stray in 1..OPTION_HEADER_BYTES {
            let bytes = [0, 9, 0, 0, 0, 0, 0];
            let bytes = &bytes[..OPTION_HEADER_BYTES + stray];
            assert_eq!(options(bytes), Err(DecodeFault::TrailingBytes), "{stray} stray bytes");
        }
    }

    #[test]
    fn a_reader_ends_after_a_fault() {
        let mut reader = Reader::new(&[0, 9, 0, 2, 1]);
        assert!(reader.next().is_some_and(|item| item.is_err()));
        assert!(reader.next().is_none());
    }

    #[test]
    fn a_value_must_fill_its_option() {
        for bytes in [1u16, 3] {
            let value = [0; 3];
            let input = Input { option: 6, bytes, rest: &value[..usize::from(bytes)] };
            assert_eq!(input.read::<u16>(), Err(DecodeFault::Length { option: 6, bytes }));
        }
    }

    #[test]
    fn a_list_longer_than_its_length_field_is_left_out() {
        let mut writer = Writer::default();
        writer.put(4, Some(&vec![7u16; 32768]));
        writer.put(5, Some(&vec![7u16; 32767]));
        let bytes = writer.into_bytes();
        assert_eq!(bytes.len(), OPTION_HEADER_BYTES + 65534);
        assert_eq!(bytes[..6], [0, 5, 0xff, 0xfe, 0, 7]);
    }
}
