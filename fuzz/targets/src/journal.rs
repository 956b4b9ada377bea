//! The arbiter's journal as text.

use qnetd::journal::text;

use crate::tape::Tape;

/// A journal of any bytes, and one whose checksums fit so that its records are looked at. What is
/// read is written and read the same.
pub fn journal(data: &[u8]) {
    read(data);
    let mut tape = Tape::new(data);
    let torn = tape.run();
    let mut bytes = text::HEADER.as_bytes().to_vec();
    let mut sum = crc32(0, &bytes);
    for line in tape.rest().split_inclusive(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        sum = crc32(sum, line);
        bytes.extend(format!("{sum:08x} ").as_bytes());
        bytes.extend(line);
        bytes.push(b'\n');
    }
    bytes.extend(torn);
    read(&bytes);
}

fn read(bytes: &[u8]) {
    match text::read(bytes) {
        Ok(contents) => {
            let good = usize::try_from(contents.good_bytes).unwrap_or(usize::MAX);
            assert_eq!(good + contents.torn_bytes.unwrap_or(0), bytes.len(), "bytes are missing");
            if good > 0 {
                let again = text::read(&bytes[..good]);
                let again = again.unwrap_or_else(|error| panic!("the good part: {error}"));
                assert_eq!((again.torn_bytes, again.checksum), (None, contents.checksum));
                assert_eq!(again.records, contents.records);
            }
            let written = text::write(&contents.records);
            let written = written.unwrap_or_else(|error| panic!("{error}"));
            let again = text::read(&written).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!((again.records, again.torn_bytes), (contents.records, None));
        }
        Err(error) => assert_eq!(error.to_string().lines().count(), 1, "{error}"),
    }
}

/// CRC-32 (IEEE 802.3) of `bytes` behind text with the checksum `before`.
fn crc32(before: u32, bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!before, |register, byte| {
        (0..8).fold(register ^ u32::from(*byte), |register, _| {
            (register >> 1) ^ (0xedb8_8320 * (register & 1))
        })
    })
}
