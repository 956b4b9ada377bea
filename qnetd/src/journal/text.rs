//! The journal's text, without a file.

use std::io;

use thiserror::Error;

use super::Record;

/// The first line: what this is, and in which version. No version that is read is one wrong bit away
/// from another.
pub const HEADER: &str = "haguard-grants 4\n";

/// The first line before anything of fencing was stored: the lines behind it have grants only. Such
/// a journal is read, and rewritten before anything is added.
pub const HEADER_BEFORE: &str = "haguard-grants 2\n";

/// The header without its version.
const NAME: &str = "haguard-grants ";

/// Digits of a checksum; a blank follows.
const CHECKSUM_DIGITS: usize = 8;

/// The checksum before the first batch: that of the header.
const CHECKSUM_START: u32 = checksum(0, HEADER.as_bytes());

/// The same in a journal of the version before.
const CHECKSUM_START_BEFORE: u32 = checksum(0, HEADER_BEFORE.as_bytes());

/// What a disk writes whole or not at all, in bytes.
const SECTOR_BYTES: usize = 512;

/// Why a journal cannot be read.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum TextError {
    /// The first line is something else.
    #[error(
        "not a journal of grants: see whether the state directory is the right one, or move the file away to start without grants"
    )]
    Foreign,
    /// A journal of another version.
    #[error(
        "version '{0}' of the journal is not known here: use the program that wrote it, or move the file away to start without grants"
    )]
    Version(String),
    /// A damaged line that no crash can have left behind.
    #[error(
        "line {line}, from byte {byte} on, is damaged, and no crash does that: see to the disk, then restore the directory from a backup, or move the file away to start without grants"
    )]
    Damaged {
        /// Which line; the header is the first.
        line: usize,
        /// Where it begins.
        byte: usize,
    },
}

/// What a journal says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Contents {
    /// Its records, oldest first.
    pub records: Vec<Record>,
    /// It is of the version before.
    pub is_old: bool,
    /// Up to here it is good; 0 if not even the header is.
    pub good_bytes: u64,
    /// What a crash left behind that, if anything.
    pub torn_bytes: Option<usize>,
    /// The checksum of the good part.
    pub checksum: u32,
    /// Where each line ends, the header's included, and the checksum up to there.
    pub ends: Vec<(u64, u32)>,
}

/// Reads a journal.
///
/// # Errors
/// [`TextError`].
pub fn read(bytes: &[u8]) -> Result<Contents, TextError> {
    let mut contents = Contents {
        records: Vec::new(),
        is_old: false,
        good_bytes: 0,
        torn_bytes: None,
        checksum: CHECKSUM_START,
        ends: Vec::new(),
    };
    let headers = [(HEADER, CHECKSUM_START), (HEADER_BEFORE, CHECKSUM_START_BEFORE)];
    let header = headers.into_iter().find(|(header, _)| bytes.starts_with(header.as_bytes()));
    let Some((header, checksum)) = header else {
        return read_bad_header(bytes).map(|()| Contents {
            torn_bytes: Some(bytes.len()).filter(|length| *length > 0),
            ..contents
        });
    };
    contents.is_old = header == HEADER_BEFORE;
    contents.checksum = checksum;
    let mut good = header.len();
    let mut rest = &bytes[good..];
    contents.ends.push((good as u64, checksum));
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == b'\n');
        let batch = end.and_then(|end| read_batch(contents.checksum, &rest[..end]));
        let (Some(end), Some((records, checksum))) = (end, batch) else {
            if !is_torn(rest, good, contents.checksum) {
                return Err(TextError::Damaged { line: contents.ends.len() + 1, byte: good });
            }
            contents.torn_bytes = Some(rest.len());
            break;
        };
        contents.records.extend(records);
        contents.checksum = checksum;
        good += end + 1;
        contents.ends.push((good as u64, checksum));
        rest = &rest[end + 1..];
    }
    contents.good_bytes = good as u64;
    Ok(contents)
}

/// Nothing, or the beginning of a header, is a journal whose making was interrupted.
fn read_bad_header(bytes: &[u8]) -> Result<(), TextError> {
    if [HEADER, HEADER_BEFORE].iter().any(|header| header.as_bytes().starts_with(bytes)) {
        return Ok(());
    }
    let Some(rest) = bytes.strip_prefix(NAME.as_bytes()) else { return Err(TextError::Foreign) };
    let version = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let version = &version[..version.len().min(20)];
    Err(TextError::Version(String::from_utf8_lossy(version).escape_default().to_string()))
}

fn read_batch(before: u32, line: &[u8]) -> Option<(Vec<Record>, u32)> {
    let (digits, rest) = line.split_at_checked(CHECKSUM_DIGITS)?;
    let json = rest.strip_prefix(b" ")?;
    let after = checksum(before, json);
    if digits != format!("{after:08x}").as_bytes() {
        return None;
    }
    Some((serde_json::from_slice(json).ok()?, after))
}

/// What is behind the last good line, at `offset`, can be what a crash leaves of a line that was
/// being written and of which nobody was told: the end may be missing, and sectors that did not
/// get to the disk read as zeros. Anything else is a line that was whole once.
fn is_torn(rest: &[u8], offset: usize, before: u32) -> bool {
    let Some((last, others)) = rest.split_last() else { return true };
    if others.contains(&b'\n') {
        return false;
    }
    let to_boundary = SECTOR_BYTES - offset % SECTOR_BYTES;
    let (first, sectors) = rest.split_at(to_boundary.min(rest.len()));
    let is_hole = |sector: &[u8]| sector.iter().all(|byte| *byte == 0);
    if is_hole(first) || sectors.chunks(SECTOR_BYTES).any(is_hole) {
        return true;
    }
    // A whole batch with something else than the end of a line behind it was written whole.
    *last != b'\n' && read_batch(before, others).is_none()
}

/// A whole journal of these records.
///
/// # Errors
/// If a record has no JSON form.
pub fn write<'a>(records: impl IntoIterator<Item = &'a Record>) -> io::Result<Vec<u8>> {
    summed(records).map(|(bytes, _)| bytes)
}

/// The same with its checksum.
pub(super) fn summed<'a>(
    records: impl IntoIterator<Item = &'a Record>,
) -> io::Result<(Vec<u8>, u32)> {
    let mut bytes = HEADER.as_bytes().to_vec();
    let mut checksum = CHECKSUM_START;
    for record in records {
        checksum = write_batch(&mut bytes, checksum, std::slice::from_ref(record))?;
    }
    Ok((bytes, checksum))
}

/// Adds a line behind text with the checksum `before`; returns the checksum with it. What is
/// stored together is one line, so that a crash leaves all of it or none.
///
/// # Errors
/// If a record has no JSON form.
pub fn write_batch(bytes: &mut Vec<u8>, before: u32, records: &[Record]) -> io::Result<u32> {
    let json = serde_json::to_vec(records)?;
    let after = checksum(before, &json);
    bytes.extend(format!("{after:08x} ").as_bytes());
    bytes.extend(&json);
    bytes.push(b'\n');
    Ok(after)
}

/// CRC-32 (IEEE 802.3) of `bytes` behind text with the checksum `before`.
pub(super) const fn checksum(before: u32, bytes: &[u8]) -> u32 {
    let mut register = !before;
    let mut at = 0;
    while at < bytes.len() {
        register =
            (register >> 8) ^ CHECKSUM_OF_BYTE[((register ^ bytes[at] as u32) & 0xff) as usize];
        at += 1;
    }
    !register
}

const CHECKSUM_OF_BYTE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut register = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            register = (register >> 1) ^ (0xedb8_8320 * (register & 1));
            bit += 1;
        }
        table[byte] = register;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::checksum;

    #[test]
    fn the_checksum_is_crc_32_and_can_be_continued() {
        assert_eq!(checksum(0, b"123456789"), 0xcbf4_3926);
        assert_eq!(checksum(checksum(0, b"1234"), b"56789"), 0xcbf4_3926);
    }
}
