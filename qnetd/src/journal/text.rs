//! The journal's text, without a file.

use std::io;

use thiserror::Error;

use crate::core::GrantRecord;

/// The first line: what this is, and in which version.
pub const HEADER: &str = "haguard-grants 1\n";

/// The header without its version.
const NAME: &str = "haguard-grants ";

/// Eight hex digits and a blank before each record.
const CHECKSUM_DIGITS: usize = 8;

/// The checksum before the first record: that of the header.
const CHECKSUM_START: u32 = checksum(0, HEADER.as_bytes());

/// Why a journal cannot be read.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum TextError {
    /// The first line is something else.
    #[error("not a journal of grants: correct the state directory")]
    Foreign,
    /// A journal of another version.
    #[error("version '{0}' of the journal is not known here: use the program that wrote it")]
    Version(String),
    /// A damaged line with others behind it; no crash does that.
    #[error(
        "line {0} is damaged and is not the last: the disk is failing or the file was edited; restore the directory from a backup, or move it away and start with an empty one"
    )]
    Damaged(usize),
}

/// What a journal says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Contents {
    /// Its records, oldest first.
    pub records: Vec<GrantRecord>,
    /// Up to here it is good; 0 if not even the header is.
    pub good_bytes: u64,
    /// What a crash left behind that, if anything.
    pub torn_bytes: Option<usize>,
    /// The checksum of the good part.
    pub checksum: u32,
}

/// Reads a journal.
///
/// # Errors
/// [`TextError`].
pub fn read(bytes: &[u8]) -> Result<Contents, TextError> {
    let mut contents =
        Contents { records: Vec::new(), good_bytes: 0, torn_bytes: None, checksum: CHECKSUM_START };
    let Some(mut rest) = bytes.strip_prefix(HEADER.as_bytes()) else {
        return read_bad_header(bytes).map(|()| Contents {
            torn_bytes: Some(bytes.len()).filter(|length| *length > 0),
            ..contents
        });
    };
    let mut good = HEADER.len();
    let mut line_number = 1;
    while !rest.is_empty() {
        line_number += 1;
        let end = rest.iter().position(|byte| *byte == b'\n');
        let line = &rest[..end.unwrap_or(rest.len())];
        let next = &rest[end.map_or(rest.len(), |end| end + 1)..];
        match (end, read_record(contents.checksum, line)) {
            (Some(end), Some((record, checksum))) => {
                contents.records.push(record);
                contents.checksum = checksum;
                good += end + 1;
            }
            (_, _) if next.is_empty() => {
                contents.torn_bytes = Some(rest.len());
                break;
            }
            (_, _) => return Err(TextError::Damaged(line_number)),
        }
        rest = next;
    }
    contents.good_bytes = good as u64;
    Ok(contents)
}

/// Nothing, or the beginning of a header, is a journal whose making was interrupted.
fn read_bad_header(bytes: &[u8]) -> Result<(), TextError> {
    if HEADER.as_bytes().starts_with(bytes) {
        return Ok(());
    }
    let Some(rest) = bytes.strip_prefix(NAME.as_bytes()) else { return Err(TextError::Foreign) };
    let version = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let version = &version[..version.len().min(20)];
    Err(TextError::Version(String::from_utf8_lossy(version).escape_default().to_string()))
}

fn read_record(before: u32, line: &[u8]) -> Option<(GrantRecord, u32)> {
    let (digits, rest) = line.split_at_checked(CHECKSUM_DIGITS)?;
    let json = rest.strip_prefix(b" ")?;
    let stated = u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    let found = checksum(before, json);
    let record = serde_json::from_slice(json).ok()?;
    (stated == found).then_some((record, found))
}

/// A whole journal of these records.
///
/// # Errors
/// If a record has no JSON form.
pub fn write<'a>(records: impl IntoIterator<Item = &'a GrantRecord>) -> io::Result<Vec<u8>> {
    let mut bytes = HEADER.as_bytes().to_vec();
    let mut checksum = CHECKSUM_START;
    for record in records {
        checksum = write_record(&mut bytes, checksum, record)?;
    }
    Ok(bytes)
}

/// Adds a line behind text with the checksum `before`; returns the checksum with it.
///
/// # Errors
/// If the record has no JSON form.
pub fn write_record(bytes: &mut Vec<u8>, before: u32, record: &GrantRecord) -> io::Result<u32> {
    let json = serde_json::to_vec(record)?;
    let after = checksum(before, &json);
    bytes.extend(format!("{after:08x} ").as_bytes());
    bytes.extend(&json);
    bytes.push(b'\n');
    Ok(after)
}

/// CRC-32 (IEEE 802.3) of `bytes` behind text with the checksum `before`.
const fn checksum(before: u32, bytes: &[u8]) -> u32 {
    let mut register = !before;
    let mut at = 0;
    while at < bytes.len() {
        register ^= bytes[at] as u32;
        let mut bit = 0;
        while bit < 8 {
            let carry = register & 1;
            register = (register >> 1) ^ (0xedb8_8320 * carry);
            bit += 1;
        }
        at += 1;
    }
    !register
}

#[cfg(test)]
mod tests {
    use super::checksum;

    #[test]
    fn the_checksum_is_crc_32_and_can_be_continued() {
        assert_eq!(checksum(0, b"123456789"), 0xcbf4_3926);
        assert_eq!(checksum(checksum(0, b"1234"), b"56789"), 0xcbf4_3926);
    }
}
