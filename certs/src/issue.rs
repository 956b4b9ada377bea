//! A certificate authority in memory: makes itself, issues certificates, signs requests. Reads
//! no clock and no disk; serials and times are arguments. [`crate::authority`] keeps one on disk.
//!
//! The formats are those of corosync-qnetd-certutil (qnetd protocol, section 7.3): common names
//! only, a CA with `basicConstraints` critical and path length 0, version 3 leaves without a
//! subject alternative name, validity of 1200 months. Our own kind adds key usages, key
//! identifiers and the node's URI, which stock peers read past. Keys are ECDSA P-256, which NSS
//! takes from us as well as RSA; ring cannot generate RSA keys, so one that must be RSA is given
//! as PEM ([`Key::from_pem`]).

use std::time::{Duration, SystemTime};

use protocol::ids::NodeId;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CustomExtension,
    DistinguishedName, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod,
    KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};
use thiserror::Error;
use x509_parser::certificate::X509Certificate;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use crate::material::{self, MaterialError};
use crate::names::{
    CA_NAME, GATEWAY_URI, NODE_URI_PREFIX, NameError, SERVER_NAME, check_cluster_name,
};
use crate::verify::{IdentityError, common_name};

/// Months that a certificate is valid (corosync-qnetd-certutil `CRT_VALIDITY`).
pub const VALIDITY_MONTHS: u32 = 1200;

/// How long before its issue a certificate is already valid: nodes whose clocks run behind must
/// be able to use it at once.
const BACKDATED: Duration = Duration::from_secs(24 * 3600);

/// The last year that a certificate can name (RFC 5280 4.1.2.5).
const YEAR_MAX: i32 = 9999;

/// The object identifier of `basicConstraints` (RFC 5280 4.2.1.9).
const BASIC_CONSTRAINTS: [u64; 4] = [2, 5, 29, 19];

/// `SEQUENCE { cA TRUE, pathLenConstraint 0 }` in DER.
const CA_WITHOUT_INTERMEDIATES: [u8; 8] = [0x30, 0x06, 0x01, 0x01, 0xff, 0x02, 0x01, 0x00];

/// Why nothing was issued.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum IssueError {
    /// The cluster's name cannot be in a certificate.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Node id 0 names no node (corosync.conf(5) `nodeid`).
    #[error("node id 0 names no node: use the nodeid of corosync.conf, 1 or more")]
    NoNode,
    /// The authority's certificate or key cannot be used.
    #[error("the authority {0}")]
    Authority(MaterialError),
    /// The given key cannot be used.
    #[error("the given text {0}")]
    Key(MaterialError),
    /// The certificate is not a CA's.
    #[error(
        "the authority's certificate is not a CA certificate: use the one that signed the others"
    )]
    NotAuthority,
    /// The request is not a valid PKCS#10 request, or its key or signature is of a kind that
    /// cannot be used.
    #[error(
        "the certificate request cannot be used ({0}): make a new one, in DER, with an ECDSA \
         P-256 or RSA 2048 key"
    )]
    Request(String),
    /// The request's subject is unusable.
    #[error("the certificate request is refused: its {}", request_subject(.0))]
    RequestSubject(IdentityError),
    /// The request is for another name than the one that was asked to be signed.
    #[error(
        "the certificate request is for \"{got}\", not for \"{want}\": sign it under its own name \
         or make a new request"
    )]
    OtherName {
        /// The name that was asked for.
        want: String,
        /// The name in the request.
        got: String,
    },
    /// The time is before 1970 or after 9999.
    #[error("the validity would not fit into a certificate: set this host's clock")]
    Time,
    /// The certificate library failed.
    #[error("no certificate could be made: {0}")]
    Library(String),
}

/// The shape of an authority's certificates.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// For our own clusters: key usages and key identifiers as RFC 5280 wants them.
    Own,
    /// As corosync-qnetd-certutil makes them: no extension but the CA's `basicConstraints`.
    Stock,
}

/// Whom a certificate names.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Subject {
    /// The arbiter: [`SERVER_NAME`].
    Server,
    /// All nodes of a cluster together, as stock clients have it.
    Cluster(String),
    /// One node of a cluster.
    Node {
        /// The cluster's name.
        cluster: String,
        /// The node's id.
        node: NodeId,
    },
    /// The fencing gateway of a cluster.
    Gateway(String),
}

/// A certificate's number; an authority uses each once (RFC 5280 4.1.2.2).
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Serial(pub u64);

/// When a certificate is issued and how long it lasts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Validity {
    /// The time of issue; validity starts one day earlier, for clocks that run behind.
    pub now: SystemTime,
    /// Calendar months from the time of issue.
    pub months: u32,
}

impl Validity {
    /// The stock validity of [`VALIDITY_MONTHS`].
    pub const fn starting(now: SystemTime) -> Self {
        Self { now, months: VALIDITY_MONTHS }
    }
}

/// A private key that certificates are made for.
#[derive(Debug)]
pub struct Key(KeyPair);

impl Key {
    /// A new ECDSA P-256 key.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn generate() -> Result<Self, IssueError> {
        KeyPair::generate().map(Self).map_err(library)
    }

    /// A key made elsewhere: unencrypted PKCS#8, ECDSA P-256 or P-384, or RSA of at least
    /// 2048 bits. NSS knows no Ed25519 certificates, so that is refused.
    ///
    /// # Errors
    /// When the text has no such key.
    pub fn from_pem(text: &[u8]) -> Result<Self, IssueError> {
        let key = material::private_key(text).map_err(IssueError::Key)?;
        let pair = KeyPair::try_from(&key).map_err(|_| IssueError::Key(MaterialError::KeyType))?;
        if pair.algorithm() == &rcgen::PKCS_ED25519 {
            return Err(IssueError::Key(MaterialError::KeyType));
        }
        Ok(Self(pair))
    }

    /// The key as PKCS#8 PEM. Secret.
    pub fn to_pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// A PKCS#10 request in DER for this key and a subject, to be signed elsewhere.
    ///
    /// # Errors
    /// When the subject cannot be in a certificate.
    pub fn request(&self, subject: &Subject) -> Result<Vec<u8>, IssueError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished_name(subject.common_name()?)?;
        let request = params.serialize_request(&self.0).map_err(library)?;
        Ok(request.der().to_vec())
    }
}

/// A certificate with its key, both as PEM.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Issued {
    /// The certificate alone.
    pub certificate: CertificateDer<'static>,
    /// The certificate followed by the CA's, as peers are shown it.
    pub chain_pem: String,
    /// The private key, PKCS#8. Secret.
    pub key_pem: String,
}

impl Subject {
    /// The common name, checked.
    ///
    /// # Errors
    /// When the name or the node id cannot be in a certificate.
    pub fn common_name(&self) -> Result<&str, IssueError> {
        match self {
            Self::Server => Ok(SERVER_NAME),
            Self::Cluster(cluster) | Self::Gateway(cluster) => {
                check_cluster_name(cluster)?;
                Ok(cluster)
            }
            Self::Node { cluster, node } => {
                if node.0 == 0 {
                    return Err(IssueError::NoNode);
                }
                check_cluster_name(cluster)?;
                Ok(cluster)
            }
        }
    }

    /// The roles that the owner may have in a TLS connection. The arbiter never is a client;
    /// nodes are both to each other, a gateway is a server to them and the arbiter's client.
    fn usages(&self) -> Vec<ExtendedKeyUsagePurpose> {
        match self {
            Self::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
            Self::Cluster(_) | Self::Node { .. } | Self::Gateway(_) => {
                vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth]
            }
        }
    }
}

/// A certificate authority: its certificate and its key.
#[derive(Debug)]
pub struct Authority {
    kind: Kind,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new authority with a new ECDSA P-256 key.
    ///
    /// # Errors
    /// When the time does not fit into a certificate or the system gives no randomness.
    pub fn create(kind: Kind, serial: Serial, validity: Validity) -> Result<Self, IssueError> {
        Self::create_with_key(kind, Key::generate()?, serial, validity)
    }

    /// A new authority with a given key; the way to an RSA authority.
    ///
    /// # Errors
    /// As [`Authority::create`].
    pub fn create_with_key(
        kind: Kind,
        key: Key,
        serial: Serial,
        validity: Validity,
    ) -> Result<Self, IssueError> {
        let mut params = parameters(CA_NAME, serial, validity)?;
        match kind {
            Kind::Own => {
                params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
                params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            }
            Kind::Stock => {
                // The library's CA shape adds a key identifier, which the stock format lacks.
                let mut constraints = CustomExtension::from_oid_content(
                    &BASIC_CONSTRAINTS,
                    CA_WITHOUT_INTERMEDIATES.to_vec(),
                );
                constraints.set_criticality(true);
                params.custom_extensions = vec![constraints];
            }
        }
        let certificate = params.self_signed(&key.0).map_err(library)?.der().clone();
        let issuer = Issuer::new(params, key.0);
        Ok(Self { kind, certificate, issuer })
    }

    /// Reads an authority from PEM text; the kind is read from the certificate. Also takes the
    /// CA of a stock arbiter, once its key has been exported as PKCS#8.
    ///
    /// # Errors
    /// When a part is unusable, is not a CA's, or the two do not belong together.
    pub fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Self, IssueError> {
        let chain = material::certificates(certificate).map_err(IssueError::Authority)?;
        let der = chain.into_iter().next();
        let der = der.ok_or(IssueError::Authority(MaterialError::NoCertificate))?;
        let key = material::private_key(key).map_err(IssueError::Authority)?;
        let pair =
            KeyPair::try_from(&key).map_err(|_| IssueError::Authority(MaterialError::KeyType))?;
        let kind = {
            let parsed = parse(&der)?;
            let is_ca = parsed.basic_constraints().ok().flatten();
            if !is_ca.is_some_and(|constraints| constraints.value.ca) {
                return Err(IssueError::NotAuthority);
            }
            if parsed.public_key().raw != pair.subject_public_key_info() {
                return Err(IssueError::Authority(MaterialError::KeyMismatch));
            }
            match parsed.key_usage() {
                Ok(Some(_)) => Kind::Own,
                Ok(None) | Err(_) => Kind::Stock,
            }
        };
        let issuer = Issuer::from_ca_cert_der(&der, pair).map_err(library)?;
        Ok(Self { kind, certificate: der, issuer })
    }

    /// The shape of this authority's certificates.
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// The authority's own certificate, which peers are told to trust.
    pub const fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The authority's own certificate as PEM.
    pub fn certificate_pem(&self) -> String {
        material::to_pem("CERTIFICATE", &self.certificate)
    }

    /// The authority's key as PKCS#8 PEM. Secret.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Issues a certificate for a new ECDSA P-256 key.
    ///
    /// # Errors
    /// When the subject cannot be in a certificate, or as [`Authority::create`].
    pub fn issue(
        &self,
        subject: &Subject,
        serial: Serial,
        validity: Validity,
    ) -> Result<Issued, IssueError> {
        self.issue_for_key(&Key::generate()?, subject, serial, validity)
    }

    /// Issues a certificate for a given key.
    ///
    /// # Errors
    /// As [`Authority::issue`].
    pub fn issue_for_key(
        &self,
        key: &Key,
        subject: &Subject,
        serial: Serial,
        validity: Validity,
    ) -> Result<Issued, IssueError> {
        let params = self.leaf(subject, serial, validity)?;
        let certificate = params.signed_by(&key.0, &self.issuer).map_err(library)?.der().clone();
        let chain_pem =
            material::certificates_to_pem(&[certificate.clone(), self.certificate.clone()]);
        Ok(Issued { certificate, chain_pem, key_pem: key.to_pem() })
    }

    /// Signs a PKCS#10 request in DER. Only the key is taken from it: extensions that it asks
    /// for are not granted, and its subject must be the one that the caller asked to sign.
    ///
    /// # Errors
    /// When the request is malformed, not signed by its own key, or for another name.
    pub fn sign_request(
        &self,
        request: &[u8],
        subject: &Subject,
        serial: Serial,
        validity: Validity,
    ) -> Result<CertificateDer<'static>, IssueError> {
        let want = subject.common_name()?;
        let (rest, parsed) = X509CertificationRequest::from_der(request)
            .map_err(|_| IssueError::Request("not a PKCS#10 request in DER".to_owned()))?;
        if !rest.is_empty() {
            return Err(IssueError::Request("bytes follow the request".to_owned()));
        }
        let info = &parsed.certification_request_info;
        let got = common_name(&info.subject).map_err(IssueError::RequestSubject)?;
        if got != want {
            return Err(IssueError::OtherName { want: want.to_owned(), got: got.to_owned() });
        }
        // Also proves that the requester holds the key: the request's signature is checked.
        let mut params =
            CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request))
                .map_err(|error| IssueError::Request(error.to_string()))?;
        params.params = self.leaf(subject, serial, validity)?;
        let certificate = params.signed_by(&self.issuer).map_err(library)?.der().clone();
        // The library names the key's kind after the signature's, which need not agree.
        if parse(&certificate)?.public_key().raw != info.subject_pki.raw {
            return Err(IssueError::Request("its key and signature do not fit".to_owned()));
        }
        Ok(certificate)
    }

    /// What a leaf of this authority looks like.
    fn leaf(
        &self,
        subject: &Subject,
        serial: Serial,
        validity: Validity,
    ) -> Result<CertificateParams, IssueError> {
        let mut params = parameters(subject.common_name()?, serial, validity)?;
        match self.kind {
            Kind::Own => {
                params.use_authority_key_identifier_extension = true;
                params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
                params.extended_key_usages = subject.usages();
            }
            Kind::Stock => {}
        }
        match subject {
            // NSS ignores the common name of a certificate that has a DNS name, so no such name.
            Subject::Server | Subject::Cluster(_) => {}
            Subject::Node { node, .. } => {
                let uri = format!("{NODE_URI_PREFIX}{node}");
                let uri = uri.try_into().map_err(library)?;
                params.subject_alt_names = vec![SanType::URI(uri)];
            }
            Subject::Gateway(_) => {
                let uri = GATEWAY_URI.to_owned().try_into().map_err(library)?;
                params.subject_alt_names = vec![SanType::URI(uri)];
            }
        }
        Ok(params)
    }
}

/// What every certificate has: one common name, a serial, a validity.
fn parameters(
    name: &str,
    serial: Serial,
    validity: Validity,
) -> Result<CertificateParams, IssueError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished_name(name)?;
    params.serial_number = Some(SerialNumber::from(serial.0));
    params.key_identifier_method = KeyIdMethod::Sha256;
    let since_1970 =
        validity.now.duration_since(SystemTime::UNIX_EPOCH).map_err(|_| IssueError::Time)?;
    let seconds = Duration::from_secs(since_1970.as_secs());
    let from_epoch = |elapsed: Duration| {
        let elapsed = elapsed.try_into().map_err(|_| IssueError::Time)?;
        rcgen::date_time_ymd(1970, 1, 1).checked_add(elapsed).ok_or(IssueError::Time)
    };
    params.not_before = from_epoch(seconds.saturating_sub(BACKDATED))?;
    let issued = from_epoch(seconds)?;
    // Calendar months: the 31st becomes the last day of a shorter month.
    let months = u32::from(u8::from(issued.month())) - 1 + validity.months % 12;
    let years = validity.months / 12 + months / 12;
    let year = i32::try_from(years).ok().and_then(|years| issued.year().checked_add(years));
    let year = year.filter(|year| *year <= YEAR_MAX).ok_or(IssueError::Time)?;
    let steps = u8::try_from(validity.months % 12).map_err(|_| IssueError::Time)?;
    let first = issued.replace_day(1).and_then(|date| date.replace_year(year));
    let month = issued.month().nth_next(steps);
    let first = first.and_then(|date| date.replace_month(month)).map_err(|_| IssueError::Time)?;
    let last = (1..=issued.day()).rev().find_map(|day| first.replace_day(day).ok());
    params.not_after = last.ok_or(IssueError::Time)?;
    Ok(params)
}

/// A subject of one common name, PrintableString where that can hold it, as NSS chooses.
fn distinguished_name(name: &str) -> Result<DistinguishedName, IssueError> {
    let value = match name.try_into() {
        Ok(printable) => DnValue::PrintableString(printable),
        Err(_) => DnValue::Utf8String(name.to_owned()),
    };
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, value);
    Ok(subject)
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, IssueError> {
    let unreadable = || {
        IssueError::Authority(MaterialError::BadCertificate("it is no X.509 certificate".into()))
    };
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| unreadable())?;
    Ok(parsed)
}

fn request_subject(error: &IdentityError) -> &'static str {
    match error {
        IdentityError::NoName => "subject has no common name",
        IdentityError::SeveralNames(_) => "subject has several common names",
        IdentityError::NameNotText => "common name is not plain text",
        IdentityError::NoCertificate
        | IdentityError::Unreadable
        | IdentityError::BadNode
        | IdentityError::OtherName { .. }
        | IdentityError::OtherNode { .. }
        | IdentityError::Gateway
        | IdentityError::NoGateway => "subject cannot be read",
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn library(error: rcgen::Error) -> IssueError {
    IssueError::Library(error.to_string())
}
