//! The directories that corosync-qnetd-certutil and corosync-qdevice-net-certutil keep, in PEM
//! instead of an NSS database. Names, forms and modes of the files that other programs read (pvecm,
//! pcs, crmsh, the stock scripts on the other side) are the stock ones (qnetd protocol, section 7):
//! ```text
//! /etc/corosync/qnetd/nssdb                 arbiter
//!   qnetd-cacert.crt       the authority, as text for people and as PEM    0644
//!   cluster-NAME.crt       a cluster's certificate, DER                    0644
//!   serial.txt             the last serial                                 0600
//!   ca.pem, ca-key.pem     the authority; only root reads the key          0644, 0600
//!   arbiter.pem, arbiter-key.pem   what the daemon presents                0644, 0640
//! /etc/corosync/qdevice/net/nssdb           node
//!   qdevice-net-node.crq   a certificate request, DER                      0644
//!   qdevice-net-node.p12   the cluster's key and certificates, PKCS#12     0600
//!   ca.pem                 the authority that the arbiter must be of       0644
//!   node.pem, node-key.pem the cluster's certificate and key               0644, 0600
//!   request-key.pem        the key of a request that is not signed yet     0600
//! both
//!   pkcs11.txt             by which pcs and crmsh know that there is a store
//! ```

mod arbiter;
mod node;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use rustls::pki_types::{CertificateDer, UnixTime};
use thiserror::Error;

use crate::authority::AuthorityError;
use crate::files::{self, FileError};
use crate::issue::IssueError;
use crate::material::{self, Credential, MaterialError, Purpose, Trust};
use crate::names::NameError;
use crate::pkcs12::BundleError;
pub use arbiter::{ArbiterStore, Signed, cluster_file, enrol, is_enrolled};
pub(crate) use arbiter::{GROUP, write_ca_text};
pub use node::NodeStore;

/// Where corosync-qnetd-certutil keeps the arbiter's store (`DB_DIR`).
pub const ARBITER_DIRECTORY: &str = "/etc/corosync/qnetd/nssdb";

/// Where corosync-qdevice-net-certutil keeps a node's store (`DB_DIR_NODE`).
pub const NODE_DIRECTORY: &str = "/etc/corosync/qdevice/net/nssdb";

/// The authority's certificate, in both stores.
pub const CA_FILE: &str = crate::authority::CERTIFICATE_FILE;

/// The authority's certificate for the nodes, as text and PEM.
pub const CA_TEXT_FILE: &str = "qnetd-cacert.crt";

/// The arbiter's certificate chain.
pub const SERVER_FILE: &str = "arbiter.pem";

/// The arbiter's private key.
pub const SERVER_KEY_FILE: &str = "arbiter-key.pem";

/// A node's certificate chain.
pub const NODE_FILE: &str = "node.pem";

/// A node's private key.
pub const NODE_KEY_FILE: &str = "node-key.pem";

/// A node's request.
pub const REQUEST_FILE: &str = "qdevice-net-node.crq";

/// A cluster's key and certificates for its other nodes.
pub const BUNDLE_FILE: &str = "qdevice-net-node.p12";

/// Nicknames in NSS databases and PKCS#12 files.
pub const CA_NICKNAME: &str = "QNet CA";
/// The arbiter's certificate.
pub const SERVER_NICKNAME: &str = "QNetd Cert";
/// A cluster's certificate.
pub const CLUSTER_NICKNAME: &str = "Cluster Cert";

/// By one of these pcs and crmsh know that a store has been initialized; the last one is a text
/// that takes a remark.
const DATABASES: [&str; 2] = ["cert9.db", "cert8.db"];
pub(crate) const MARKER_FILE: &str = "pkcs11.txt";

/// What the marker says to people.
const MARKER: &str = "\
# Certificates of haguard, in PEM. No NSS database is here; this file is only how other programs
# see that the directory has been initialized.
";

/// A private key that the daemon's group reads.
const MODE_GROUP: u32 = 0o640;

/// Why a store could not be used.
#[derive(Debug, Error)]
pub enum StoreError {
    /// It has been initialized.
    #[error(
        "Certificate database ({}) already exists: use it as it is, or move it away to start anew",
        .0.display()
    )]
    Exists(PathBuf),
    /// There is none.
    #[error("{}: there is no certificate database: make one with -i", .0.display())]
    Missing(PathBuf),
    /// There is one, of NSS.
    #[error(
        "Certificate database ({path}) already exists, but is one of NSS: take it over with haguard \
         certs import --nssdb {path}",
        path = .0.display()
    )]
    Nss(PathBuf),
    /// A file is missing that belongs to the others.
    #[error(
        "{}: is missing although {CA_FILE} is there: restore it, or move the directory away and \
         start anew",
        .0.display()
    )]
    Half(PathBuf),
    /// `qnetd-cacert.crt` is not the authority that signs here.
    #[error(
        "{}: is not the authority in {CA_FILE} beside it: two programs have made certificates \
         here; remove the files of one of them",
        .0.display()
    )]
    TwoAuthorities(PathBuf),
    /// A name that cannot be part of a file's.
    #[error("the cluster name \"{0}\" has a \"/\", which no file name takes: choose another")]
    Slash(String),
    /// A certificate of another authority, or one that is not valid now.
    #[error(
        "{}: {text}, as {} shows: use what this arbiter signed, or start anew with its \
         {CA_TEXT_FILE}",
        path.display(), ca.display()
    )]
    Untrusted {
        /// The file with the certificate.
        path: PathBuf,
        /// The authority's file.
        ca: PathBuf,
        /// Why.
        text: String,
    },
    /// A certificate for a key that is not here.
    #[error(
        "{}: is for a key that is not on this node: have the last {REQUEST_FILE} of this node \
         signed, or bring the {BUNDLE_FILE} of the node that has the key",
        .0.display()
    )]
    OtherKey(PathBuf),
    /// The given certificate file cannot be used.
    #[error("{}: {error}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: MaterialError,
    },
    /// The PKCS#12 file cannot be used.
    #[error("{}: {error}", path.display())]
    Bundle {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: BundleError,
    },
    /// The directory, or a file's mode in it.
    #[error("{}: cannot be used ({error}): check its owner and mode", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A name that cannot be in a certificate.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A file could not be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The authority could not be used.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// Nothing was issued.
    #[error(transparent)]
    Issue(#[from] IssueError),
}

/// Whose files are in a directory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Contents {
    Nothing,
    /// Also where NSS's are there too, as after an import.
    Ours,
    Nss,
}

impl Contents {
    pub(crate) fn of(directory: &Path) -> Self {
        if directory.join(CA_FILE).exists() {
            Self::Ours
        } else if has_database(directory) {
            Self::Nss
        } else {
            Self::Nothing
        }
    }
}

/// Whether there is a database of NSS.
pub(crate) fn has_database(directory: &Path) -> bool {
    DATABASES.iter().any(|name| directory.join(name).exists())
}

/// Makes a store's directory unless it exists: of its parent's owner (corosync-qnetd-certutil
/// `chown_ref_cfgdir`), and of the daemon's group where it has one of its own.
pub(crate) fn make_directory(path: &Path, group: Option<&str>) -> Result<(), StoreError> {
    if path.is_dir() {
        return Ok(());
    }
    let make = || -> io::Result<()> {
        fs::create_dir_all(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o750))?;
        if !nix::unistd::geteuid().is_root() {
            return Ok(());
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = fs::metadata(parent.unwrap_or_else(|| Path::new(".")))?;
        let group = group.and_then(|name| nix::unistd::Group::from_name(name).ok().flatten());
        chown(
            path,
            Some(parent.uid()),
            Some(group.map_or(parent.gid(), |group| group.gid.as_raw())),
        )
    };
    make().map_err(|error| StoreError::Directory { path: path.to_owned(), error })
}

/// Keeps other processes from changing the store until dropped. Serials have a lock of their own.
pub(crate) fn lock(directory: &Path) -> Result<Flock<File>, StoreError> {
    let failed = |error| StoreError::Directory { path: directory.to_owned(), error };
    let mut file = File::open(directory).map_err(failed)?;
    loop {
        match Flock::lock(file, FlockArg::LockExclusive) {
            Ok(lock) => return Ok(lock),
            Err((again, Errno::EINTR)) => file = again,
            Err((_, errno)) => return Err(failed(errno.into())),
        }
    }
}

/// Writes a private key that the directory's group reads, which is the daemon's.
pub(crate) fn write_for_group(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    files::write_private(path, bytes)?;
    set_mode(path, MODE_GROUP)
}

pub(crate) fn set_mode(path: &Path, mode: u32) -> Result<(), StoreError> {
    let set = fs::set_permissions(path, fs::Permissions::from_mode(mode));
    set.map_err(|error| StoreError::Directory { path: path.to_owned(), error })
}

/// The file by which others see that there is a store, unless NSS has put its own there.
pub(crate) fn write_marker(directory: &Path) -> Result<(), StoreError> {
    let path = directory.join(MARKER_FILE);
    if !path.exists() {
        files::write_public(&path, MARKER.as_bytes())?;
    }
    Ok(())
}

/// The first certificate of a file that may be PEM, with text around it, or DER.
pub(crate) fn read_certificate(path: &Path) -> Result<CertificateDer<'static>, StoreError> {
    let bytes = files::read(path)?;
    let content = |error| StoreError::Content { path: path.to_owned(), error };
    if bytes.first() == Some(&0x30) {
        let (rest, _) = x509_parser::parse_x509_certificate(&bytes)
            .map_err(|error| content(MaterialError::BadCertificate(error.to_string())))?;
        if rest.is_empty() {
            return Ok(CertificateDer::from(bytes));
        }
    }
    let found = material::certificates(&bytes).map_err(content)?;
    found.into_iter().next().ok_or_else(|| content(MaterialError::NoCertificate))
}

/// Checks that those who trust the authority believe the certificate of a key. The error says why
/// not, as part of a sentence.
pub(crate) fn check_signed(
    ca: &CertificateDer<'static>,
    own: &Credential,
    purpose: Purpose,
    now: SystemTime,
) -> Result<(), String> {
    let trust = Trust::new(vec![ca.clone()]).map_err(|error| error.to_string())?;
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let judged = trust.vouch_for(own, purpose, UnixTime::since_unix_epoch(now));
    judged.map(|_| ()).map_err(|error| error.to_string())
}
