//! What TLS is made of, from PEM text: whom we believe ([`Trust`]) and who we are
//! ([`Credential`]). Both are checked when they are made, so that a daemon refuses to start with
//! a useful sentence instead of failing at its first peer.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ::pem as pem_text;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, RootCertStore};
use thiserror::Error;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

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

/// What a certificate is shown for; webpki looks for it in the extended key usage, where there is
/// one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Purpose {
    /// By a node, to the arbiter.
    Client,
    /// By the arbiter.
    Server,
}

/// Since when peers believe a credential.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Standing {
    /// Already.
    Valid,
    /// From this second on, since 1970-01-01 UTC.
    NotBefore(i64),
}

/// Why peers with the same trust would refuse a credential, now and later.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum VouchError {
    /// Another CA signed it, perhaps one of the same name.
    #[error("was issued by another authority")]
    Foreign,
    /// Its validity has ended.
    #[error("has expired")]
    Expired,
    /// Something else that webpki does not accept, in its words.
    #[error("is refused by peers ({0})")]
    Refused(String),
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

    /// Whether peers who trust the same CAs will believe `own`, by the functions that judge a
    /// peer's certificate in a handshake, at the time `now`.
    ///
    /// Refuses only what a handshake would refuse for ever. After a blackout a host without a
    /// battery for its clock starts years ago and corrects that when it has the network (safety
    /// 38): a certificate that is not valid yet is judged at its first second, and
    /// [`Standing::NotBefore`] says when that is. An expired one stays expired, as time passes.
    ///
    /// # Errors
    /// [`VouchError`].
    pub fn vouch_for(
        &self,
        own: &Credential,
        purpose: Purpose,
        now: UnixTime,
    ) -> Result<Standing, VouchError> {
        match self.judge(own, purpose, now) {
            Ok(()) => Ok(Standing::Valid),
            Err(refusal) if is_too_early(&refusal) => {
                let start = own.valid_from().ok_or_else(|| vouch_error(&refusal))?;
                let then = Duration::from_secs(u64::try_from(start).unwrap_or(0));
                self.judge(own, purpose, UnixTime::since_unix_epoch(then))
                    .map(|()| Standing::NotBefore(start))
                    .map_err(|refusal| vouch_error(&refusal))
            }
            Err(refusal) => Err(vouch_error(&refusal)),
        }
    }

    fn judge(
        &self,
        own: &Credential,
        purpose: Purpose,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let provider = Arc::new(ring::default_provider());
        let between = &own.chain[1..];
        match purpose {
            Purpose::Server => verify_server_cert_signed_by_trust_anchor(
                &ParsedCertificate::try_from(own.leaf())?,
                &self.roots,
                between,
                now,
                provider.signature_verification_algorithms.all,
            ),
            Purpose::Client => WebPkiClientVerifier::builder_with_provider(self.roots(), provider)
                .build()
                .map_err(|error| rustls::Error::General(error.to_string()))?
                .verify_client_cert(own.leaf(), between, now)
                .map(|_| ()),
        }
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

    /// The first second in which all certificates of the chain are valid, since 1970-01-01 UTC.
    fn valid_from(&self) -> Option<i64> {
        let starts = self.chain.iter().map(|certificate| {
            let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
            Some(certificate.validity().not_before.timestamp())
        });
        starts.collect::<Option<Vec<_>>>()?.into_iter().max()
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

fn is_too_early(refusal: &rustls::Error) -> bool {
    use CertificateError::{NotValidYet, NotValidYetContext};
    matches!(refusal, rustls::Error::InvalidCertificate(NotValidYet | NotValidYetContext { .. }))
}

/// A CA of the same name but with another key shows as a bad signature: stock authorities are all
/// named alike.
fn vouch_error(refusal: &rustls::Error) -> VouchError {
    use CertificateError::{BadSignature, Expired, ExpiredContext, UnknownIssuer};
    if let rustls::Error::InvalidCertificate(UnknownIssuer | BadSignature) = refusal {
        return VouchError::Foreign;
    }
    if let rustls::Error::InvalidCertificate(Expired | ExpiredContext { .. }) = refusal {
        return VouchError::Expired;
    }
    VouchError::Refused(refusal.to_string())
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use rcgen::ExtendedKeyUsagePurpose;

    use super::*;
    use crate::fixtures::{Site, cluster, expired, not_yet, now, years};
    use crate::issue::{Kind, Subject, Validity};

    fn at(time: SystemTime) -> UnixTime {
        UnixTime::since_unix_epoch(time.duration_since(SystemTime::UNIX_EPOCH).unwrap())
    }

    #[test]
    fn what_an_authority_has_issued_is_vouched_for() {
        for kind in [Kind::Own, Kind::Stock] {
            let site = Site::new(kind);
            let vouch = |subject: &Subject, purpose| {
                site.trust().vouch_for(&site.credential(subject), purpose, at(now()))
            };
            assert_eq!(vouch(&Subject::Server, Purpose::Server), Ok(Standing::Valid), "{kind:?}");
            assert_eq!(vouch(&cluster(), Purpose::Client), Ok(Standing::Valid), "{kind:?}");
        }
    }

    #[test]
    fn another_authority_is_foreign_even_if_it_is_named_alike() {
        for kind in [Kind::Own, Kind::Stock] {
            let (site, other) = (Site::new(kind), Site::new(kind));
            for purpose in [Purpose::Client, Purpose::Server] {
                let own = other.credential(&cluster());
                let refused = site.trust().vouch_for(&own, purpose, at(now()));
                assert_eq!(refused, Err(VouchError::Foreign), "{kind:?}");
            }
        }
    }

    #[test]
    fn an_expired_certificate_is_refused() {
        let site = Site::new(Kind::Stock);
        let own = site.credential_valid(&cluster(), expired());
        let refused = site.trust().vouch_for(&own, Purpose::Client, at(now()));
        assert_eq!(refused, Err(VouchError::Expired));
    }

    #[test]
    fn on_a_dead_clock_a_certificate_is_judged_at_its_first_second() {
        let (site, other) = (Site::new(Kind::Stock), Site::new(Kind::Stock));
        let own = site.credential_valid(&cluster(), not_yet());
        let Ok(Standing::NotBefore(start)) =
            site.trust().vouch_for(&own, Purpose::Client, at(now()))
        else {
            panic!("not refused and not valid");
        };
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(start.try_into().unwrap());
        assert!(start > now() + years(1) - Duration::from_secs(2 * 24 * 3600));
        let began = UnixTime::since_unix_epoch(Duration::ZERO);
        let standing = site.trust().vouch_for(&site.credential(&cluster()), Purpose::Client, began);
        assert!(matches!(standing, Ok(Standing::NotBefore(_))), "{standing:?}");
        let foreign = other.trust().vouch_for(&own, Purpose::Client, began);
        assert_eq!(foreign, Err(VouchError::Foreign));
    }

    #[test]
    fn a_certificate_for_something_else_is_refused() {
        let site = Site::new(Kind::Own);
        let own = site.credential_with(|params| {
            let valid = Validity::starting(now());
            params.not_before = valid.now.into();
            params.not_after = (valid.now + years(1)).into();
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
        });
        for purpose in [Purpose::Client, Purpose::Server] {
            let refused = site.trust().vouch_for(&own, purpose, at(now()));
            assert!(matches!(refused, Err(VouchError::Refused(_))), "{refused:?}");
        }
    }
}
