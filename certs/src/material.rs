//! What TLS is made of, from PEM text: whom we believe ([`Trust`]) and who we are
//! ([`Credential`]). Both are checked when they are made, so that a daemon refuses to start with
//! a useful sentence instead of failing at its first peer.

use std::fmt;
use std::sync::Arc;

use ::pem as pem_text;
use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use thiserror::Error;

/// The most certificates in one PEM text; a chain or a CA rotation needs two or three.
const CERTIFICATES_MAX: usize = 16;

/// Why PEM text gave no trust or credential. The text's origin is said by who read it.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum MaterialError {
    /// Not PEM, or broken PEM.
    #[error("is not readable as PEM ({0}): put the PEM form there, between BEGIN and END lines")]
    NotPem(String),
    /// PEM without a certificate.
    #[error("has no certificate: put the PEM form there, it starts with BEGIN CERTIFICATE")]
    NoCertificate,
    /// More certificates than anyone needs.
    #[error("has more than {CERTIFICATES_MAX} certificates: keep the ones that are in use")]
    TooManyCertificates,
    /// A certificate that is not X.509 version 3, or damaged.
    #[error("has a certificate that cannot be used ({0}): issue it again")]
    BadCertificate(String),
    /// PEM without a private key, or with an encrypted one.
    #[error(
        "has no plain private key: put an unencrypted PKCS#8 key there, it starts with BEGIN \
         PRIVATE KEY"
    )]
    NoKey,
    /// A key of a kind that we cannot sign with.
    #[error(
        "has a private key of a kind that cannot be used: it must be ECDSA P-256 or P-384, \
         Ed25519, or RSA of at least 2048 bits"
    )]
    KeyType,
    /// The private key is not the certificate's.
    #[error(
        "does not belong to the private key: put the certificate that was issued for this key \
         there, or issue a new pair"
    )]
    KeyMismatch,
}

/// The certificates of the CAs whose peers we believe; usually one, two while a CA is replaced.
#[derive(Clone, Debug)]
pub struct Trust {
    certificates: Vec<CertificateDer<'static>>,
    roots: Arc<RootCertStore>,
}

impl Trust {
    /// Trusts the certificates in `text`. Text around the PEM blocks is skipped, as in the file
    /// `qnetd-cacert.crt` of the stock arbiter (corosync-qnetd-certutil).
    ///
    /// # Errors
    /// When there is no certificate, or one that cannot be a trust anchor.
    pub fn from_pem(text: &[u8]) -> Result<Self, MaterialError> {
        Self::new(certificates(text)?)
    }

    /// Trusts these certificates.
    ///
    /// # Errors
    /// As [`Trust::from_pem`].
    pub fn new(certificates: Vec<CertificateDer<'static>>) -> Result<Self, MaterialError> {
        if certificates.is_empty() {
            return Err(MaterialError::NoCertificate);
        }
        let mut roots = RootCertStore::empty();
        for certificate in &certificates {
            roots.add(certificate.clone()).map_err(bad_certificate)?;
        }
        Ok(Self { certificates, roots: Arc::new(roots) })
    }

    /// The certificates, in the order given.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// The same for rustls 0.23.
    pub(crate) fn roots(&self) -> Arc<RootCertStore> {
        Arc::clone(&self.roots)
    }
}

/// A certificate chain, leaf first, and the leaf's private key. The two belong together.
pub struct Credential {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Credential {
    /// Reads a chain and a key from PEM text: PKCS#8, SEC1 or PKCS#1 keys, without a password.
    ///
    /// # Errors
    /// When a part is missing or of the wrong kind, and when the two do not belong together.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, MaterialError> {
        Self::new(certificates(chain)?, private_key(key)?)
    }

    /// Puts a chain and a key together.
    ///
    /// # Errors
    /// As [`Credential::from_pem`].
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, MaterialError> {
        let signer = ring::sign::any_supported_type(&key).map_err(|_| MaterialError::KeyType)?;
        let pair = CertifiedKey::new(chain, signer);
        match pair.keys_match() {
            Ok(()) => Ok(Self { chain: pair.cert, key }),
            Err(rustls::Error::NoCertificatesPresented) => Err(MaterialError::NoCertificate),
            Err(rustls::Error::InconsistentKeys(_)) => Err(MaterialError::KeyMismatch),
            Err(other) => Err(bad_certificate(other)),
        }
    }

    /// The certificates, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The leaf, which names us.
    pub fn leaf(&self) -> &CertificateDer<'static> {
        &self.chain[0]
    }

    /// The private key of the leaf.
    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key()
    }
}

impl Clone for Credential {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

impl fmt::Debug for Credential {
    /// Leaves the key out, so that it cannot reach a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("certificates", &self.chain.len())
            .finish_non_exhaustive()
    }
}

/// All certificates of a PEM text, in order; other blocks are skipped.
///
/// # Errors
/// When there is none, or a block is broken.
pub fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, MaterialError> {
    let mut found = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(text) {
        if found.len() == CERTIFICATES_MAX {
            return Err(MaterialError::TooManyCertificates);
        }
        found.push(certificate.map_err(|error| not_pem(&error))?);
    }
    if found.is_empty() {
        return Err(MaterialError::NoCertificate);
    }
    Ok(found)
}

/// The first private key of a PEM text.
///
/// # Errors
/// When there is none, when it is encrypted, or when a block is broken.
pub fn private_key(text: &[u8]) -> Result<PrivateKeyDer<'static>, MaterialError> {
    match PrivateKeyDer::from_pem_slice(text) {
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) => Err(MaterialError::NoKey),
        Err(other) => Err(not_pem(&other)),
    }
}

/// The PEM form of certificates, one block each, lines of 64 characters (RFC 7468).
pub fn certificates_to_pem(certificates: &[CertificateDer<'_>]) -> String {
    certificates.iter().map(|certificate| to_pem("CERTIFICATE", certificate)).collect()
}

/// One PEM block.
pub(crate) fn to_pem(label: &str, der: &[u8]) -> String {
    let config = pem_text::EncodeConfig::new().set_line_ending(pem_text::LineEnding::LF);
    pem_text::encode_config(&pem_text::Pem::new(label, der), config)
}

/// The library's words, except where they are bytes in brackets.
fn not_pem(error: &pem::Error) -> MaterialError {
    if let pem::Error::MissingSectionEnd { .. } = error {
        return MaterialError::NotPem("an END line is missing".to_owned());
    }
    if let pem::Error::IllegalSectionStart { .. } = error {
        return MaterialError::NotPem("a BEGIN line is malformed".to_owned());
    }
    MaterialError::NotPem(error.to_string())
}

fn bad_certificate(error: rustls::Error) -> MaterialError {
    MaterialError::BadCertificate(error.to_string())
}
