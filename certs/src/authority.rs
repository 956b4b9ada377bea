//! A certificate authority on disk. The directory has
//! ```text
//! ca.pem        the CA's certificate: copy it to whoever must trust the others
//! ca-key.pem    its private key, mode 0600
//! serial        "version = 1" and the last serial that was used
//! lock          held while a serial is taken
//! ```
//! In the store of a stock arbiter ([`crate::stock_store`]) the last serial is in `serial.txt`
//! instead, a decimal number as corosync-qnetd-certutil writes it, so that both count on from the
//! same one.
//! A serial is on disk before the certificate that has it exists, so that no two certificates of
//! one authority ever share one, whatever crashes; a number may be skipped.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use thiserror::Error;

use crate::files::{self, FileError};
use crate::issue::{Authority, IssueError, Issued, Key, Kind, Serial, Subject, Validity};

/// The CA's certificate in its directory.
pub const CERTIFICATE_FILE: &str = "ca.pem";

/// The CA's private key in its directory.
pub const KEY_FILE: &str = "ca-key.pem";

/// The last serial in its directory.
pub const SERIAL_FILE: &str = "serial";

/// The last serial in a stock arbiter's directory (corosync-qnetd-certutil `SERIAL_NO_FILE`).
pub const STOCK_SERIAL_FILE: &str = "serial.txt";

const LOCK_FILE: &str = "lock";

/// The format of the serial file.
const VERSION: u32 = 1;

/// The serial before the first in the stock format (corosync-qnetd-certutil `get_serial_no`).
const STOCK_SERIAL_BEFORE_FIRST: u64 = 100;

/// Why an authority's directory could not be used.
#[derive(Debug, Error)]
pub enum AuthorityError {
    /// There is one already; a second would lock out everyone who has a certificate of the first.
    #[error(
        "{}: there is an authority already: use it, or move the directory away to start anew",
        .0.display()
    )]
    Exists(PathBuf),
    /// There is none.
    #[error("{}: there is no authority: create one first", .0.display())]
    NotFound(PathBuf),
    /// The serial file is damaged or of another version. Guessing could reuse a serial.
    #[error(
        "{}: is no serial file that we know: restore it, or write the highest serial ever issued \
         into it",
        .0.display()
    )]
    BadSerial(PathBuf),
    /// The directory could not be locked.
    #[error("{}: cannot be locked ({error}): check its owner and mode", path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The system gave no randomness.
    #[error("the system gave no random bytes: try again later")]
    NoRandomness,
    /// A file could not be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The certificate was refused.
    #[error(transparent)]
    Issue(#[from] IssueError),
}

/// The file that keeps the last serial.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum SerialFile {
    Own,
    Stock,
}

/// An authority and the directory that keeps it.
#[derive(Debug)]
pub struct AuthorityDir {
    directory: PathBuf,
    authority: Authority,
    serial_file: SerialFile,
}

impl AuthorityDir {
    /// Makes a new authority in `directory`, which is created with mode 0700 if it is missing.
    ///
    /// # Errors
    /// When there is one already, or the files cannot be written.
    pub fn create(
        directory: &Path,
        kind: Kind,
        validity: Validity,
    ) -> Result<Self, AuthorityError> {
        Self::create_with_key(directory, kind, Key::generate()?, validity)
    }

    /// Makes a new authority in the store of a stock arbiter, with its serial file.
    ///
    /// # Errors
    /// As [`AuthorityDir::create`].
    pub fn create_in_store(directory: &Path, validity: Validity) -> Result<Self, AuthorityError> {
        Self::make(directory, Kind::Stock, SerialFile::Stock, Key::generate()?, validity)
    }

    /// Makes a new authority with a given key; the way to an RSA authority.
    ///
    /// # Errors
    /// As [`AuthorityDir::create`].
    pub fn create_with_key(
        directory: &Path,
        kind: Kind,
        key: Key,
        validity: Validity,
    ) -> Result<Self, AuthorityError> {
        Self::make(directory, kind, SerialFile::Own, key, validity)
    }

    fn make(
        directory: &Path,
        kind: Kind,
        serial_file: SerialFile,
        key: Key,
        validity: Validity,
    ) -> Result<Self, AuthorityError> {
        files::make_private_directory(directory)?;
        let _lock = lock(directory)?;
        if directory.join(CERTIFICATE_FILE).exists() {
            return Err(AuthorityError::Exists(directory.to_owned()));
        }
        let serial = match kind {
            // NSS takes no second CA with the same name and serial, so a CA that is made anew
            // must differ from its predecessor; the stock format starts where the stock one does.
            Kind::Own => Serial(random_start()?),
            Kind::Stock => Serial(STOCK_SERIAL_BEFORE_FIRST + 1),
        };
        serial_file.write(directory, serial)?;
        let authority = Authority::create_with_key(kind, key, serial, validity)?;
        files::write_private(&directory.join(KEY_FILE), authority.key_pem().as_bytes())?;
        // The certificate comes last: an authority without one was never there.
        let certificate = authority.certificate_pem();
        files::write_public(&directory.join(CERTIFICATE_FILE), certificate.as_bytes())?;
        Ok(Self { directory: directory.to_owned(), authority, serial_file })
    }

    /// Opens the authority in `directory`.
    ///
    /// # Errors
    /// When there is none, or its files are damaged or not a pair.
    pub fn open(directory: &Path) -> Result<Self, AuthorityError> {
        let certificate = match files::read(&directory.join(CERTIFICATE_FILE)) {
            Err(FileError::Missing { .. }) => {
                return Err(AuthorityError::NotFound(directory.to_owned()));
            }
            other => other?,
        };
        let key = files::read(&directory.join(KEY_FILE))?;
        let authority = Authority::from_pem(&certificate, &key)?;
        let serial_file = SerialFile::of(directory);
        serial_file.read(directory)?;
        Ok(Self { directory: directory.to_owned(), authority, serial_file })
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The last serial that was used.
    ///
    /// # Errors
    /// When its file is damaged.
    pub fn last_serial(&self) -> Result<Serial, AuthorityError> {
        self.serial_file.read(&self.directory)
    }

    /// The authority in memory.
    pub const fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Issues a certificate for a new key.
    ///
    /// # Errors
    /// When the subject is refused, or no serial can be taken.
    pub fn issue(&self, subject: &Subject, validity: Validity) -> Result<Issued, AuthorityError> {
        subject.common_name()?;
        let serial = self.take_serial()?;
        Ok(self.authority.issue(subject, serial, validity)?)
    }

    /// Signs a PKCS#10 request in DER for exactly this subject.
    ///
    /// # Errors
    /// When the request or the subject is refused, or no serial can be taken.
    pub fn sign_request(
        &self,
        request: &[u8],
        subject: &Subject,
        validity: Validity,
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        subject.common_name()?;
        let serial = self.take_serial()?;
        Ok(self.authority.sign_request(request, subject, serial, validity)?)
    }

    /// The next serial, stored as used before it is returned.
    fn take_serial(&self) -> Result<Serial, AuthorityError> {
        let _lock = lock(&self.directory)?;
        let Serial(last) = self.serial_file.read(&self.directory)?;
        let bad = || AuthorityError::BadSerial(self.directory.join(self.serial_file.name()));
        let next = Serial(last.checked_add(1).ok_or_else(bad)?);
        self.serial_file.write(&self.directory, next)?;
        Ok(next)
    }
}

/// Keeps other processes from taking a serial until dropped.
fn lock(directory: &Path) -> Result<Flock<File>, AuthorityError> {
    let path = directory.join(LOCK_FILE);
    let failed = |error| AuthorityError::Lock { path: path.clone(), error };
    let opened = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    let mut file = opened.map_err(failed)?;
    loop {
        match Flock::lock(file, FlockArg::LockExclusive) {
            Ok(lock) => return Ok(lock),
            Err((again, Errno::EINTR)) => file = again,
            Err((_, errno)) => return Err(failed(errno.into())),
        }
    }
}

impl SerialFile {
    /// The one that an existing authority has.
    fn of(directory: &Path) -> Self {
        let own = directory.join(SERIAL_FILE);
        if !own.exists() && directory.join(STOCK_SERIAL_FILE).exists() {
            return Self::Stock;
        }
        Self::Own
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Own => SERIAL_FILE,
            Self::Stock => STOCK_SERIAL_FILE,
        }
    }

    fn write(self, directory: &Path, Serial(serial): Serial) -> Result<(), FileError> {
        let text = match self {
            Self::Own => format!("version = {VERSION}\nserial = {serial}\n"),
            Self::Stock => format!("{serial}\n"),
        };
        files::write_private(&directory.join(self.name()), text.as_bytes())
    }

    fn read(self, directory: &Path) -> Result<Serial, AuthorityError> {
        let path = directory.join(self.name());
        let bytes = files::read(&path)?;
        let text = String::from_utf8_lossy(&bytes);
        let serial = match self {
            Self::Own => parse_serial(&text),
            Self::Stock => parse_stock_serial(&text),
        };
        serial.ok_or(AuthorityError::BadSerial(path))
    }
}

fn parse_serial(text: &str) -> Option<Serial> {
    let rest = text.strip_prefix(&format!("version = {VERSION}\nserial = "))?;
    rest.strip_suffix('\n')?.parse().ok().map(Serial)
}

/// What corosync-qnetd-certutil writes with `echo`.
pub(crate) fn parse_stock_serial(text: &str) -> Option<Serial> {
    let digits = text.strip_suffix('\n').unwrap_or(text);
    let plain = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    digits.parse().ok().filter(|_| plain).map(Serial)
}

/// A serial from which 2⁶² more can be counted, unlikely to be another authority's.
fn random_start() -> Result<u64, AuthorityError> {
    let mut bytes = [0; 8];
    let random = ring::default_provider().secure_random;
    random.fill(&mut bytes).map_err(|_| AuthorityError::NoRandomness)?;
    // Positive in DER, and never so small that it looks like a stock serial.
    Ok((u64::from_be_bytes(bytes) >> 2) | (1 << 61))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_file_is_read_strictly() {
        assert_eq!(parse_serial("version = 1\nserial = 103\n"), Some(Serial(103)));
        for bad in [
            "",
            "103\n",
            "version = 2\nserial = 103\n",
            "version = 1\nserial = 103",
            "version = 1\nserial = -1\n",
            "version = 1\nserial = 103\n\n",
            "version = 1\nserial = 18446744073709551616\n",
        ] {
            assert_eq!(parse_serial(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_stock_serial_file_is_a_number() {
        assert_eq!(parse_stock_serial("103\n"), Some(Serial(103)));
        assert_eq!(parse_stock_serial("103"), Some(Serial(103)));
        for bad in ["", "\n", "+103\n", "-1\n", "103\n\n", "1e3", "18446744073709551616"] {
            assert_eq!(parse_stock_serial(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_random_start_leaves_room_to_count() {
        let start = random_start().unwrap();
        assert!((1 << 61..1 << 62).contains(&start), "{start}");
    }
}
