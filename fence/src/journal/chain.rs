//! The text of the journal: lines that each hold the hash of everything before them.

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Entry, JournalError};

/// What the first line names.
const FORMAT: &str = "haguard-fence-journal";
/// The version that is written and read.
const VERSION: u32 = 1;
/// Longer lines are no records.
const LINE_BYTES_MAX: u64 = 1 << 20;
/// The smallest block of a disk, in bytes.
const BLOCK: usize = 512;
/// In front of a line's hash.
const BEFORE_HASH: &[u8] = b",\"hash\":\"";
/// A hash in hex digits.
const HASH_CHARS: usize = 64;

/// One line of the journal.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Record {
    /// Counts the lines from 1; the header has 0.
    pub seq: u64,
    /// When it was written, in milliseconds since 1970 by the host's clock: for people, nothing
    /// relies on it.
    pub time_ms: u64,
    /// What happened.
    pub entry: Entry,
}

#[derive(Debug, Deserialize, Serialize)]
struct Header {
    journal: String,
    version: u32,
    id: String,
}

/// Where a journal breaks off, and why.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct Broken {
    /// The line, counted from 1, the header included.
    pub line: u64,
    /// What is wrong with it.
    pub why: String,
}

/// A whole journal.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Summary {
    /// How many records it has.
    pub records: u64,
    /// When the first and the last were written, in milliseconds since 1970.
    pub from_unix_ms: Option<u64>,
    /// The last one.
    pub to_unix_ms: Option<u64>,
    /// The last hash, in hex digits: kept elsewhere, it shows later that nothing was cut off.
    pub hash: String,
    /// Bytes at the end that are no whole line: being written, or cut short by a crash.
    pub torn_bytes: u64,
}

impl fmt::Display for Summary {
    /// One line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the chain of {} records is whole, its last hash is {}",
            self.records, self.hash
        )?;
        if self.torn_bytes > 0 {
            write!(
                f,
                "; behind it are {} bytes that are being written or were cut short by a crash",
                self.torn_bytes
            )?;
        }
        Ok(())
    }
}

/// The end of the chain.
#[derive(Clone, Debug, Default)]
pub(super) struct Link {
    seq: u64,
    hash: String,
}

impl Link {
    /// Adds one line to `bytes`.
    pub(super) fn write(
        &mut self,
        bytes: &mut Vec<u8>,
        time_ms: u64,
        entry: &Entry,
    ) -> io::Result<()> {
        let record = Record { seq: self.seq + 1, time_ms, entry: entry.clone() };
        let mut text = serde_json::to_vec(&record)?;
        // The brace closes behind the hash.
        text.pop();
        self.hash = hash(&self.hash, &text);
        self.seq += 1;
        bytes.extend_from_slice(&text);
        close(bytes, &self.hash);
        Ok(())
    }
}

/// The first line of a new journal.
pub(super) fn header(random: u128) -> Vec<u8> {
    let mut bytes =
        format!("{{\"journal\":\"{FORMAT}\",\"version\":{VERSION},\"id\":\"{random:032x}\"")
            .into_bytes();
    let hash = hash("", &bytes);
    close(&mut bytes, &hash);
    bytes
}

fn close(bytes: &mut Vec<u8>, hash: &str) {
    bytes.extend_from_slice(BEFORE_HASH);
    bytes.extend_from_slice(hash.as_bytes());
    bytes.extend_from_slice(b"\"}\n");
}

fn hash(previous: &str, text: &[u8]) -> String {
    let digest = Sha256::new().chain_update(previous).chain_update(text).finalize();
    digest.iter().fold(String::with_capacity(HASH_CHARS), |mut hex, byte| {
        // Writing to a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// A line without its end, split into what is hashed and the hash.
fn split(line: &[u8]) -> Option<(&[u8], &str)> {
    let line = line.strip_suffix(b"\"}")?;
    let (rest, hash) = line.split_at_checked(line.len().checked_sub(HASH_CHARS)?)?;
    Some((rest.strip_suffix(BEFORE_HASH)?, std::str::from_utf8(hash).ok()?))
}

/// A journal that is being read.
#[derive(Debug)]
pub(super) struct Reading {
    file: BufReader<File>,
    link: Link,
    /// Lines read so far.
    line: u64,
    /// Bytes up to the end of the last good line.
    good: u64,
    torn: u64,
}

impl Reading {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = BufReader::new(File::open(path)?);
        Ok(Self { file, link: Link::default(), line: 0, good: 0, torn: 0 })
    }

    /// Reads the first line.
    pub(super) fn header(&mut self) -> io::Result<Result<(), Broken>> {
        let line = self.line()?.unwrap_or_default();
        Ok(self.check_header(&line))
    }

    fn check_header(&mut self, line: &[u8]) -> Result<(), Broken> {
        let Some((text, found)) = split(line) else {
            return Err(self.broken("this is no journal of the fencing gateway"));
        };
        let whole = [text, b"}"].concat();
        let header: Result<Header, _> = serde_json::from_slice(&whole);
        match header {
            Ok(header) if header.journal == FORMAT && header.version != VERSION => {
                let version = header.version;
                return Err(self.broken(&format!(
                    "the journal is of version {version}, known is {VERSION}: use the program \
                     that wrote it"
                )));
            }
            Ok(header) if header.journal == FORMAT => {}
            Ok(_) | Err(_) => {
                return Err(self.broken("this is no journal of the fencing gateway"));
            }
        }
        let hash = hash("", text);
        if hash != found {
            return Err(self.broken("the header was changed"));
        }
        self.link = Link { seq: 0, hash };
        self.good += line.len() as u64 + 1;
        Ok(())
    }

    /// The next record; `None` at the end of what is whole.
    pub(super) fn next(&mut self) -> io::Result<Option<Result<Record, Broken>>> {
        let Some(line) = self.line()? else { return Ok(None) };
        let record = self.check(&line);
        if record.is_err() && self.is_crash(&line)? {
            return Ok(None);
        }
        Ok(Some(record))
    }

    fn check(&mut self, line: &[u8]) -> Result<Record, Broken> {
        let Some((text, found)) = split(line) else {
            return Err(self.broken("this is no record"));
        };
        let hash = hash(&self.link.hash, text);
        if hash != found {
            return Err(self.broken(
                "the chain breaks here: this line was changed, or one before it is missing or was \
                 put in",
            ));
        }
        let whole = [text, b"}"].concat();
        let record: Record = serde_json::from_slice(&whole)
            .map_err(|error| self.broken(&format!("the record cannot be read: {error}")))?;
        if record.seq != self.link.seq + 1 {
            let seq = record.seq;
            return Err(self.broken(&format!("the record says that it is number {seq}")));
        }
        self.link = Link { seq: record.seq, hash };
        self.good += line.len() as u64 + 1;
        Ok(record)
    }

    /// Blocks of a write that was never acknowledged read as zeros after a crash, and nobody's text
    /// holds a zero. A single one in the middle is damage, and no crash.
    fn is_crash(&mut self, line: &[u8]) -> io::Result<bool> {
        let mut zeros = Zeros::default();
        zeros.take(line);
        zeros.take(b"\n");
        let mut rest = line.len() as u64 + 1;
        loop {
            let buffer = self.file.fill_buf()?;
            if buffer.is_empty() {
                break;
            }
            zeros.take(buffer);
            let length = buffer.len();
            rest += length as u64;
            self.file.consume(length);
        }
        let crash = zeros.run > 0 || zeros.longest >= BLOCK;
        if crash {
            self.torn += rest;
        }
        Ok(crash)
    }

    /// One whole line without its end; `None` at the end of the file, or where a line is not whole.
    fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        (&mut self.file).take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
        if line.last() == Some(&b'\n') {
            line.pop();
            self.line += 1;
            return Ok(Some(line));
        }
        if line.len() as u64 == LINE_BYTES_MAX {
            self.line += 1;
            return Ok(Some(line));
        }
        self.torn += line.len() as u64;
        Ok(None)
    }

    fn broken(&self, why: &str) -> Broken {
        Broken { line: self.line.max(1), why: why.to_owned() }
    }

    /// The end of the chain, how many bytes are good, and how many behind them are not.
    pub(super) fn end(self) -> (Link, u64, u64) {
        (self.link, self.good, self.torn)
    }
}

/// Zeros in a row.
#[derive(Default)]
struct Zeros {
    /// At the end of what was taken in.
    run: usize,
    longest: usize,
}

impl Zeros {
    fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.run = if *byte == 0 { self.run + 1 } else { 0 };
            self.longest = self.longest.max(self.run);
        }
    }
}

/// The records of a journal.
#[derive(Debug)]
pub struct Records {
    reading: Option<Reading>,
    path: PathBuf,
}

impl Records {
    pub(super) fn new(reading: Reading, path: &Path) -> Self {
        Self { reading: Some(reading), path: path.to_owned() }
    }
}

impl Iterator for Records {
    type Item = Result<Record, JournalError>;

    /// The next record; nothing comes after an error.
    fn next(&mut self) -> Option<Self::Item> {
        let reading = self.reading.as_mut()?;
        let path = self.path.clone();
        match reading.next() {
            Ok(Some(Ok(record))) => Some(Ok(record)),
            Ok(None) => {
                self.reading = None;
                None
            }
            Ok(Some(Err(broken))) => {
                self.reading = None;
                Some(Err(JournalError::Broken { path, broken }))
            }
            Err(source) => {
                self.reading = None;
                Some(Err(JournalError::Io { verb: "read", path, source }))
            }
        }
    }
}

/// Checks the whole chain.
pub(super) fn verify(path: &Path) -> Result<Summary, Broken> {
    let unreadable = |line: u64| {
        move |error: io::Error| Broken { line, why: format!("cannot be read: {error}") }
    };
    let mut reading = Reading::open(path).map_err(unreadable(1))?;
    reading.header().map_err(unreadable(1))??;
    let mut summary = Summary::default();
    loop {
        let line = reading.line + 1;
        let Some(record) = reading.next().map_err(unreadable(line))? else { break };
        let record = record?;
        summary.records += 1;
        summary.from_unix_ms.get_or_insert(record.time_ms);
        summary.to_unix_ms = Some(record.time_ms);
    }
    let (link, _, torn_bytes) = reading.end();
    summary.hash = link.hash;
    summary.torn_bytes = torn_bytes;
    Ok(summary)
}
