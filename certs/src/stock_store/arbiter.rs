//! The arbiter's store: what corosync-qnetd-certutil does.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustls::pki_types::CertificateDer;

use super::{
    CA_TEXT_FILE, Contents, SERVER_FILE, SERVER_KEY_FILE, StoreError, lock, make_directory,
    read_certificate, write_for_group, write_marker,
};
use crate::authority::{AuthorityDir, KEY_FILE, SERIAL_FILE, STOCK_SERIAL_FILE};
use crate::dump;
use crate::files::{self, FileError};
use crate::issue::{Subject, Validity};
use crate::names::check_cluster_name;
use crate::verify::Identity;

/// The group of the stock daemon's user (Debian).
pub(crate) const GROUP: &str = "coroqnetd";

/// A cluster's certificate, as it was signed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Signed {
    /// Where it is.
    pub path: PathBuf,
    /// The cluster had one before, which is still valid.
    pub again: bool,
}

/// The arbiter's store.
#[derive(Clone, Debug)]
pub struct ArbiterStore {
    directory: PathBuf,
}

impl ArbiterStore {
    /// The store in a directory, whether there is one or not.
    pub fn at(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    /// Makes an authority and the arbiter's certificate (`-i`), or what is missing of them after a
    /// crash. Returns the file for the nodes.
    ///
    /// # Errors
    /// When there is a complete store already, or one of NSS.
    pub fn create(&self, now: SystemTime) -> Result<PathBuf, StoreError> {
        make_directory(&self.directory, Some(GROUP))?;
        let _lock = lock(&self.directory)?;
        let authority = match Contents::of(&self.directory) {
            Contents::Nss => return Err(StoreError::Nss(self.directory.clone())),
            Contents::Nothing => {
                AuthorityDir::create_in_store(&self.directory, Validity::starting(now))?
            }
            Contents::Ours => {
                let parts = [SERVER_FILE, SERVER_KEY_FILE, CA_TEXT_FILE, super::MARKER_FILE];
                let authority = self.open()?;
                if parts.iter().all(|name| self.directory.join(name).exists()) {
                    return Err(StoreError::Exists(self.directory.clone()));
                }
                authority
            }
        };
        let server = self.directory.join(SERVER_FILE);
        let key = self.directory.join(SERVER_KEY_FILE);
        if !server.exists() || !key.exists() {
            let issued = authority.issue(&Subject::Server, Validity::starting(now))?;
            write_for_group(&key, issued.key_pem.as_bytes())?;
            files::write_public(&server, issued.chain_pem.as_bytes())?;
        }
        write_ca_text(&self.directory, authority.authority().certificate())?;
        // Last: by it others see that there is nothing left to be made.
        write_marker(&self.directory)?;
        Ok(self.directory.join(CA_TEXT_FILE))
    }

    /// Signs a cluster's request (`-s`), once more where it was signed before.
    ///
    /// # Errors
    /// When there is no store, the request is refused, or nothing could be written; then there is
    /// no new file.
    pub fn sign(
        &self,
        request: &Path,
        cluster: &str,
        now: SystemTime,
    ) -> Result<Signed, StoreError> {
        match Contents::of(&self.directory) {
            Contents::Nothing => return Err(StoreError::Missing(self.directory.clone())),
            Contents::Nss => return Err(StoreError::Nss(self.directory.clone())),
            Contents::Ours => {}
        }
        let _lock = lock(&self.directory)?;
        enrol(&self.open()?, request, cluster, now)
    }

    /// The authority, once its files have been seen to belong together.
    fn open(&self) -> Result<AuthorityDir, StoreError> {
        let serial = [STOCK_SERIAL_FILE, SERIAL_FILE];
        if !serial.iter().any(|name| self.directory.join(name).exists()) {
            return Err(StoreError::Half(self.directory.join(STOCK_SERIAL_FILE)));
        }
        let key = self.directory.join(KEY_FILE);
        if !key.exists() {
            return Err(StoreError::Half(key));
        }
        let authority = AuthorityDir::open(&self.directory)?;
        let text = self.directory.join(CA_TEXT_FILE);
        if text.exists() && read_certificate(&text)? != *authority.authority().certificate() {
            return Err(StoreError::TwoAuthorities(text));
        }
        Ok(authority)
    }
}

/// Where an authority keeps a cluster's certificate.
///
/// # Errors
/// When the name cannot be a cluster's, or part of a file's.
pub fn cluster_file(directory: &Path, cluster: &str) -> Result<PathBuf, StoreError> {
    check_cluster_name(cluster)?;
    if cluster.contains('/') {
        return Err(StoreError::Slash(cluster.to_owned()));
    }
    Ok(directory.join(format!("cluster-{cluster}.crt")))
}

/// Signs a cluster's request, a PKCS#10 file in DER, and keeps the certificate in the authority's
/// directory.
///
/// # Errors
/// When the request is refused, is for another name, or nothing could be written.
pub fn enrol(
    authority: &AuthorityDir,
    request: &Path,
    cluster: &str,
    now: SystemTime,
) -> Result<Signed, StoreError> {
    let path = cluster_file(authority.directory(), cluster)?;
    let request = files::read(request)?;
    let again = certificate_of(&path, cluster)?.is_some();
    let subject = Subject::Cluster(cluster.to_owned());
    let signed = authority.sign_request(&request, &subject, Validity::starting(now))?;
    files::write_public(&path, &signed)?;
    Ok(Signed { path, again })
}

/// The certificate in a cluster's file. A file without one, as the stock script leaves it when it
/// fails, is none.
fn certificate_of(
    path: &Path,
    cluster: &str,
) -> Result<Option<CertificateDer<'static>>, StoreError> {
    match read_certificate(path) {
        Ok(found) => {
            let identity = Identity::from_der(&found);
            Ok(identity.is_ok_and(|known| known.cluster == cluster.into()).then_some(found))
        }
        Err(StoreError::File(FileError::Missing { .. }) | StoreError::Content { .. }) => Ok(None),
        Err(other) => Err(other),
    }
}

/// Whether an authority's directory has a certificate of this cluster.
///
/// # Errors
/// When the name is no cluster's, or the file cannot be read.
pub fn is_enrolled(directory: &Path, cluster: &str) -> Result<bool, StoreError> {
    Ok(certificate_of(&cluster_file(directory, cluster)?, cluster)?.is_some())
}

/// The authority as the nodes get it.
pub(crate) fn write_ca_text(directory: &Path, ca: &CertificateDer<'_>) -> Result<(), StoreError> {
    files::write_public(&directory.join(CA_TEXT_FILE), dump::text_and_pem(ca).as_bytes())?;
    Ok(())
}
