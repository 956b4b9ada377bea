//! Certificates and keys in files. Reading says which file, what is wrong, and what to do.
//! Writing is atomic: a crash at any moment leaves the old file or the new one, never a part.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use rustls::pki_types::UnixTime;
use thiserror::Error;
use x509_parser::time::ASN1Time;

use crate::material::{self, Credential, MaterialError, Purpose, Standing, Trust, VouchError};

/// The largest file that is read, in bytes; a chain of RSA certificates has a few thousand.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The mode of a private key: its owner only.
pub const MODE_PRIVATE: u32 = 0o600;

/// The mode of a certificate: it is no secret.
pub const MODE_PUBLIC: u32 = 0o644;

/// Why a file could not be used.
#[derive(Debug, Error)]
pub enum FileError {
    /// There is no such file.
    #[error("{}: there is no such file: issue a certificate or correct the path", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file exists but cannot be read.
    #[error(
        "{}: cannot be read ({error}): check its owner and mode, and the user of this process",
        path.display()
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The file is larger than any certificate file.
    #[error(
        "{}: has more than {FILE_BYTES_MAX} bytes, which no certificate file has: correct the path",
        path.display()
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file was read, and what is in it cannot be used.
    #[error("{}: {error}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: MaterialError,
    },
    /// The certificate and the key are both in order but not a pair.
    #[error(
        "{}: does not belong to the private key in {}: put both files of one issue there, or \
         issue again",
        certificate.display(), key.display()
    )]
    KeyMismatch {
        /// The file with the certificate.
        certificate: PathBuf,
        /// The file with the key.
        key: PathBuf,
    },
    /// No peer that trusts the same authority would believe the certificate.
    #[error(
        "{}: {error}: issue it again, by the authority whose certificate is in {}",
        certificate.display(), authority.display()
    )]
    NotVouchedFor {
        /// The file with the certificate.
        certificate: PathBuf,
        /// The file with the authority's certificate.
        authority: PathBuf,
        /// What is wrong with it.
        error: VouchError,
    },
    /// The file could not be written; the old one, if any, is untouched.
    #[error(
        "{}: cannot be written ({error}): check the directory's owner, mode and free space",
        path.display()
    )]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// Reads the CA certificates to trust.
///
/// # Errors
/// When the file is missing, unreadable, or has no usable certificate.
pub fn load_trust(path: &Path) -> Result<Trust, FileError> {
    Trust::from_pem(&read(path)?).map_err(|error| content(path, error))
}

/// Reads a certificate chain (leaf first) and its private key; both may be in one file.
///
/// # Errors
/// When a file is missing, unreadable, of the wrong kind, or the two are not a pair.
pub fn load_credential(certificate: &Path, key: &Path) -> Result<Credential, FileError> {
    let chain = material::certificates(&read(certificate)?);
    let chain = chain.map_err(|error| content(certificate, error))?;
    let private = material::private_key(&read(key)?).map_err(|error| content(key, error))?;
    Credential::new(chain, private).map_err(|error| match error {
        MaterialError::KeyMismatch => {
            FileError::KeyMismatch { certificate: certificate.to_owned(), key: key.to_owned() }
        }
        MaterialError::NoKey | MaterialError::KeyType => content(key, error),
        MaterialError::NotPem(_)
        | MaterialError::NoCertificate
        | MaterialError::TooManyCertificates
        | MaterialError::BadCertificate(_) => content(certificate, error),
    })
}

/// The files of one side of a TLS connection.
#[derive(Clone, Copy, Debug)]
pub struct Files<'a> {
    /// The certificates of the authorities whose peers are believed.
    pub authority: &'a Path,
    /// Our chain, leaf first.
    pub certificate: &'a Path,
    /// The leaf's private key.
    pub key: &'a Path,
}

/// What was in them.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Whom we believe.
    pub trust: Trust,
    /// Who we are.
    pub own: Credential,
    /// A line for the log: peers refuse us for the time being.
    pub warning: Option<String>,
}

impl Files<'_> {
    /// Reads the files, and checks that peers with the same authority will believe us
    /// ([`Trust::vouch_for`]): a certificate from elsewhere would otherwise show only as
    /// handshakes that fail, on the other side.
    ///
    /// # Errors
    /// When a file cannot be used, or the certificate not with this authority.
    pub fn load(&self, purpose: Purpose) -> Result<Loaded, FileError> {
        let trust = load_trust(self.authority)?;
        let own = load_credential(self.certificate, self.key)?;
        let standing =
            trust.vouch_for(&own, purpose, clock()).map_err(|error| FileError::NotVouchedFor {
                certificate: self.certificate.to_owned(),
                authority: self.authority.to_owned(),
                error,
            })?;
        let warning = match standing {
            Standing::Valid => None,
            Standing::NotBefore(start) => Some(format!(
                "{}: is not valid before {}, and peers refuse it until then: is this host's clock \
                 right?",
                self.certificate.display(),
                date(start)
            )),
        };
        Ok(Loaded { trust, own, warning })
    }
}

/// The system's clock, by which handshakes judge certificates too.
#[expect(clippy::disallowed_methods, reason = "certificates are valid by the wall clock")]
fn clock() -> UnixTime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    UnixTime::since_unix_epoch(since.unwrap_or_default())
}

fn date(seconds: i64) -> String {
    ASN1Time::from_timestamp(seconds)
        .map_or_else(|_| format!("second {seconds} of 1970"), |time| time.to_string())
}

/// Reads a file of bounded size.
///
/// # Errors
/// When the file is missing, unreadable or too large.
pub fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    let unreadable = |error: io::Error| {
        let path = path.to_owned();
        if error.kind() == io::ErrorKind::NotFound {
            return FileError::Missing { path };
        }
        FileError::Unreadable { path, error }
    };
    let file = File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(FileError::TooLarge { path: path.to_owned() });
    }
    Ok(bytes)
}

/// Replaces a file atomically with one that only its owner may read. For private keys.
///
/// # Errors
/// When the new file cannot be completed; the old one is untouched then.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    replace(path, bytes, MODE_PRIVATE).map_err(|error| unwritable(path, error))
}

/// Replaces a file atomically with one that everybody may read. For certificates.
///
/// # Errors
/// As [`write_private`].
pub fn write_public(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    replace(path, bytes, MODE_PUBLIC).map_err(|error| unwritable(path, error))
}

/// Makes a directory that only its owner may enter, unless it exists.
///
/// # Errors
/// When it cannot be made.
pub fn make_private_directory(path: &Path) -> Result<(), FileError> {
    if path.is_dir() {
        return Ok(());
    }
    let made = fs::create_dir_all(path)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o700)));
    made.map_err(|error| unwritable(path, error))
}

/// Write beside, sync, rename over, sync the directory: after a power loss the name stands for
/// complete bytes, old or new.
fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    let beside = Beside(directory.join(format!(".{name}.{}", unique_suffix())));
    // A file of that name is from a process of the same id that died while it wrote.
    let _ = fs::remove_file(&beside.0);
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(MODE_PRIVATE).open(&beside.0)?;
    file.write_all(bytes)?;
    adopt_owner(&file, directory)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.sync_all()?;
    fs::rename(&beside.0, path)?;
    File::open(directory)?.sync_all()
}

/// Gives a file that root writes to the owner of its directory, as the stock scripts do
/// (corosync-qnetd-certutil `chown_ref_cfgdir`): the daemon that reads it need not be root.
fn adopt_owner(file: &File, directory: &Path) -> io::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let owner = fs::metadata(directory)?;
    fchown(file, Some(owner.uid()), Some(owner.gid()))
}

/// Differs between processes and between the writes of one process.
fn unique_suffix() -> String {
    static WRITES: AtomicU64 = AtomicU64::new(0);
    format!("{}-{}.new", process::id(), WRITES.fetch_add(1, Ordering::Relaxed))
}

/// A temporary file, gone when dropped unless it was renamed.
struct Beside(PathBuf);

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn content(path: &Path, error: MaterialError) -> FileError {
    FileError::Content { path: path.to_owned(), error }
}

fn unwritable(path: &Path, error: io::Error) -> FileError {
    FileError::Unwritable { path: path.to_owned(), error }
}
