//! As much of BER as a PKCS#12 file needs (ITU-T X.690). NSS writes indefinite lengths and strings
//! in pieces; what we write is DER.

/// How deep elements of indefinite length may be nested; NSS needs six.
const DEPTH_MAX: usize = 16;

/// Identifier octets (X.690 8.1.2).
pub(super) const INTEGER: u8 = 0x02;
pub(super) const OCTETS: u8 = 0x04;
pub(super) const NULL: u8 = 0x05;
pub(super) const OID: u8 = 0x06;
pub(super) const BMP_STRING: u8 = 0x1e;
pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;
/// `[0]`, constructed.
pub(super) const CONTEXT_0: u8 = 0xa0;

/// The bit of the identifier that says that there are elements inside.
const CONSTRUCTED: u8 = 0x20;

/// The bytes are no BER, or not of the expected shape.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Malformed;

/// One element.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Element<'a> {
    pub(super) tag: u8,
    pub(super) content: &'a [u8],
}

impl Element<'_> {
    /// The bytes of an octet string, also one in pieces or behind an implicit tag.
    pub(super) fn octets(self) -> Result<Vec<u8>, Malformed> {
        let mut all = Vec::new();
        self.collect(&mut all, 0)?;
        Ok(all)
    }

    fn collect(self, all: &mut Vec<u8>, depth: usize) -> Result<(), Malformed> {
        if self.tag & CONSTRUCTED == 0 {
            all.extend_from_slice(self.content);
            return Ok(());
        }
        if depth == DEPTH_MAX {
            return Err(Malformed);
        }
        let mut pieces = Reader(self.content);
        while let Some(piece) = pieces.next()? {
            if piece.tag & !CONSTRUCTED != OCTETS {
                return Err(Malformed);
            }
            piece.collect(all, depth + 1)?;
        }
        Ok(())
    }
}

/// Reads one element after the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    /// The next element, whatever it is; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Element<'a>>, Malformed> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let (element, rest) = split(self.0, 0)?;
        self.0 = rest;
        Ok(Some(element))
    }

    /// The next element, which must have this tag.
    pub(super) fn expect(&mut self, tag: u8) -> Result<Element<'a>, Malformed> {
        self.next()?.filter(|element| element.tag == tag).ok_or(Malformed)
    }

    /// What is in the next element, which must have this tag.
    pub(super) fn enter(&mut self, tag: u8) -> Result<Self, Malformed> {
        Ok(Self(self.expect(tag)?.content))
    }

    /// The next element, an integer that fits.
    pub(super) fn integer(&mut self) -> Result<u32, Malformed> {
        let content = self.expect(INTEGER)?.content;
        let content = content.strip_prefix(&[0]).unwrap_or(content);
        if content.len() > 4 {
            return Err(Malformed);
        }
        Ok(content.iter().fold(0, |value, byte| value << 8 | u32::from(*byte)))
    }
}

/// The first element of `bytes`, and what follows it.
fn split(bytes: &[u8], depth: usize) -> Result<(Element<'_>, &[u8]), Malformed> {
    let [tag, length, rest @ ..] = bytes else { return Err(Malformed) };
    let tag = *tag;
    // Tags of several bytes are in no file that we read, nor is an end where none is due.
    if tag & 0x1f == 0x1f || tag == 0 {
        return Err(Malformed);
    }
    if *length == 0x80 {
        return split_indefinite(tag, rest, depth);
    }
    let (length, rest) = match *length {
        short @ 0..=0x7f => (usize::from(short), rest),
        long => {
            let count = usize::from(long & 0x7f);
            if count > 4 {
                return Err(Malformed);
            }
            let (digits, rest) = rest.split_at_checked(count).ok_or(Malformed)?;
            let length = digits.iter().fold(0_u32, |value, byte| value << 8 | u32::from(*byte));
            (usize::try_from(length).map_err(|_| Malformed)?, rest)
        }
    };
    let (content, rest) = rest.split_at_checked(length).ok_or(Malformed)?;
    Ok((Element { tag, content }, rest))
}

/// The same for an element that goes to its end mark (X.690 8.1.3.6).
fn split_indefinite(
    tag: u8,
    bytes: &[u8],
    depth: usize,
) -> Result<(Element<'_>, &[u8]), Malformed> {
    if tag & CONSTRUCTED == 0 || depth == DEPTH_MAX {
        return Err(Malformed);
    }
    let mut rest = bytes;
    loop {
        if let Some(after) = rest.strip_prefix(&[0, 0]) {
            let content = &bytes[..bytes.len() - rest.len()];
            return Ok((Element { tag, content }, after));
        }
        rest = split(rest, depth + 1)?.1;
    }
}

/// One element in DER, of these parts.
pub(super) fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut bytes = vec![tag];
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => bytes.push(short),
        Ok(_) | Err(_) => {
            let digits = length.to_be_bytes();
            let digits: Vec<u8> = digits.into_iter().skip_while(|digit| *digit == 0).collect();
            // At most eight digits.
            bytes.push(0x80 | u8::try_from(digits.len()).unwrap_or(8));
            bytes.extend_from_slice(&digits);
        }
    }
    for part in parts {
        bytes.extend_from_slice(part);
    }
    bytes
}

/// An integer in DER.
pub(super) fn integer(value: u32) -> Vec<u8> {
    let digits = value.to_be_bytes();
    let mut digits: Vec<u8> = digits.into_iter().skip_while(|digit| *digit == 0).collect();
    // Without it the value would be negative, or have no digit.
    if digits.first().is_none_or(|first| *first >= 0x80) {
        digits.insert(0, 0);
    }
    element(INTEGER, &[&digits])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for value in [0, 1, 127, 128, 255, 256, 600_000, u32::MAX] {
            assert_eq!(Reader(&integer(value)).integer(), Ok(value));
        }
        for length in [0, 1, 127, 128, 255, 256, 70_000] {
            let bytes = element(OCTETS, &[&vec![7; length]]);
            assert_eq!(Reader(&bytes).expect(OCTETS).unwrap().content.len(), length);
        }
    }

    #[test]
    fn indefinite_lengths_and_strings_in_pieces_are_read() {
        let bytes = [0x24, 0x80, 0x04, 0x02, 1, 2, 0x24, 0x80, 0x04, 0x01, 3, 0, 0, 0, 0, 0x05, 0];
        let mut reader = Reader(&bytes);
        let whole = reader.next().unwrap().unwrap();
        assert_eq!(whole.octets(), Ok(vec![1, 2, 3]));
        assert_eq!(reader.expect(NULL).unwrap().content, []);
        assert_eq!(reader.next(), Ok(None));
    }

    #[test]
    fn cut_nested_and_oversized_bytes_are_refused() {
        for bad in [
            &[0x30][..],
            &[0x30, 0x80],
            &[0x30, 0x80, 0x04],
            &[0x04, 0x80, 0, 0],
            &[0x30, 0x05, 1],
            &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff],
            &[0x30, 0x85, 0, 0, 0, 0, 1, 1],
            &[0x1f, 0x81, 0x01, 0],
            &[0x00, 0x00],
            &[0x30, 0x80].repeat(40),
        ] {
            assert_eq!(Reader(bad).next(), Err(Malformed), "{bad:?}");
        }
    }
}
