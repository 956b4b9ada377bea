//! A node's store: what corosync-qdevice-net-certutil does.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::{
    BUNDLE_FILE, CA_FILE, CA_NICKNAME, CLUSTER_NICKNAME, Contents, NODE_FILE, NODE_KEY_FILE,
    REQUEST_FILE, StoreError, check_signed, lock, make_directory, read_certificate, write_marker,
};
use crate::files;
use crate::issue::{Key, Subject};
use crate::material::{self, Credential, Purpose, Trust};
use crate::pkcs12;

/// The key of the last request.
const REQUEST_KEY_FILE: &str = "request-key.pem";

/// A node's store.
#[derive(Clone, Debug)]
pub struct NodeStore {
    directory: PathBuf,
}

impl NodeStore {
    /// The store in a directory, whether there is one or not.
    pub fn at(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    /// Makes a store that trusts the authority in `ca` (`-i`): the arbiter's `qnetd-cacert.crt`.
    ///
    /// # Errors
    /// When there is one already, of ours or of NSS, or the file has no CA's certificate.
    pub fn create(&self, ca: &Path) -> Result<(), StoreError> {
        make_directory(&self.directory, None)?;
        let _lock = lock(&self.directory)?;
        let marker = self.directory.join(super::MARKER_FILE);
        match Contents::of(&self.directory) {
            Contents::Nss => return Err(StoreError::Nss(self.directory.clone())),
            Contents::Ours if marker.exists() => {
                return Err(StoreError::Exists(self.directory.clone()));
            }
            Contents::Ours | Contents::Nothing => {}
        }
        let certificate = read_certificate(ca)?;
        let content = |error| StoreError::Content { path: ca.to_owned(), error };
        Trust::new(vec![certificate.clone()]).map_err(content)?;
        let pem = material::certificates_to_pem(&[certificate]);
        files::write_public(&self.directory.join(CA_FILE), pem.as_bytes())?;
        write_marker(&self.directory)
    }

    /// Makes a key and a request for a cluster (`-r`). The key that is in use stays in use until
    /// the request has come back signed. Returns the request's file.
    ///
    /// # Errors
    /// When there is no store, the name cannot be in a certificate, or the files cannot be written.
    pub fn request(&self, cluster: &str) -> Result<PathBuf, StoreError> {
        self.ca()?;
        let _lock = lock(&self.directory)?;
        let key = Key::generate()?;
        let request = key.request(&Subject::Cluster(cluster.to_owned()))?;
        files::write_private(&self.directory.join(REQUEST_KEY_FILE), key.to_pem().as_bytes())?;
        let path = self.directory.join(REQUEST_FILE);
        files::write_public(&path, &request)?;
        Ok(path)
    }

    /// Takes the signed certificate (`-M`), PEM or DER, and packs it with its key for the cluster's
    /// other nodes. Returns the PKCS#12 file.
    ///
    /// # Errors
    /// When there is no store, the certificate is of another authority, or for a key that is not
    /// here.
    pub fn accept(&self, certificate: &Path, now: SystemTime) -> Result<PathBuf, StoreError> {
        let ca = self.ca()?;
        let _lock = lock(&self.directory)?;
        let leaf = read_certificate(certificate)?;
        let key = self.key_of(&leaf)?;
        let key = key.ok_or_else(|| StoreError::OtherKey(certificate.to_owned()))?;
        self.check(certificate, &ca, &leaf, &key, now)?;
        let path = self.directory.join(BUNDLE_FILE);
        let bundle = pkcs12::write(&key, &leaf, CLUSTER_NICKNAME, Some((&ca, CA_NICKNAME)));
        let bundle = bundle.map_err(|error| StoreError::Bundle { path: path.clone(), error })?;
        files::write_private(&path, &bundle)?;
        self.install(&key, leaf, ca)?;
        // It is in node-key.pem now; what is left is only clutter.
        let _ = fs::remove_file(self.directory.join(REQUEST_KEY_FILE));
        Ok(path)
    }

    /// Takes the cluster's key and certificate from another node's PKCS#12 file (`-m`).
    ///
    /// # Errors
    /// When there is no store, the file cannot be used, or is of another authority.
    pub fn import(&self, bundle: &Path, now: SystemTime) -> Result<(), StoreError> {
        let ca = self.ca()?;
        let _lock = lock(&self.directory)?;
        let read = pkcs12::read(&files::read(bundle)?);
        let read = read.map_err(|error| StoreError::Bundle { path: bundle.to_owned(), error })?;
        let [leaf, ..] = read.certificates.as_slice() else {
            return Err(StoreError::OtherKey(bundle.to_owned()));
        };
        self.check(bundle, &ca, leaf, &read.key, now)?;
        self.install(&read.key, leaf.clone(), ca)
    }

    /// The authority that is trusted here.
    fn ca(&self) -> Result<CertificateDer<'static>, StoreError> {
        match Contents::of(&self.directory) {
            Contents::Nothing => Err(StoreError::Missing(self.directory.clone())),
            Contents::Nss => Err(StoreError::Nss(self.directory.clone())),
            Contents::Ours => read_certificate(&self.directory.join(CA_FILE)),
        }
    }

    /// Checks that the arbiter will believe key and certificate.
    fn check(
        &self,
        path: &Path,
        ca: &CertificateDer<'static>,
        leaf: &CertificateDer<'static>,
        key: &PrivateKeyDer<'static>,
        now: SystemTime,
    ) -> Result<(), StoreError> {
        let own = Credential::new(vec![leaf.clone()], key.clone_key());
        let own = own.map_err(|error| StoreError::Content { path: path.to_owned(), error })?;
        check_signed(ca, &own, Purpose::Client, now).map_err(|text| StoreError::Untrusted {
            path: path.to_owned(),
            ca: self.directory.join(CA_FILE),
            text,
        })
    }

    /// The key of a certificate: of the last request, or, when the same certificate is taken once
    /// more, the one in use.
    fn key_of(
        &self,
        leaf: &CertificateDer<'static>,
    ) -> Result<Option<PrivateKeyDer<'static>>, StoreError> {
        for name in [REQUEST_KEY_FILE, NODE_KEY_FILE] {
            let path = self.directory.join(name);
            if !path.exists() {
                continue;
            }
            let key = material::private_key(&files::read(&path)?)
                .map_err(|error| StoreError::Content { path, error })?;
            if Credential::new(vec![leaf.clone()], key.clone_key()).is_ok() {
                return Ok(Some(key));
            }
        }
        Ok(None)
    }

    /// Puts key and certificate where the device looks for them.
    fn install(
        &self,
        key: &PrivateKeyDer<'_>,
        leaf: CertificateDer<'static>,
        ca: CertificateDer<'static>,
    ) -> Result<(), StoreError> {
        let pem = material::to_pem("PRIVATE KEY", key.secret_der());
        files::write_private(&self.directory.join(NODE_KEY_FILE), pem.as_bytes())?;
        let chain = material::certificates_to_pem(&[leaf, ca]);
        Ok(files::write_public(&self.directory.join(NODE_FILE), chain.as_bytes())?)
    }
}
