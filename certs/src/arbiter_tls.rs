//! The server side of TLS on the arbiter's port, for stock and own clients. The only module that
//! names rustls 0.24: the released 0.23 has no switch for the server name that stock clients
//! send ("Qnetd Server", with a blank) and refuses them all. When 0.24.0 is released, this
//! module and its version pins are all that changes.
//!
//! Every connection proves itself anew: no tickets, no resumption. Who the client is
//! ([`Identity`]) is read inside the handshake, so that a certificate without exactly one common
//! name never gets as far as a byte of data.

#[cfg(test)]
mod io_tests;
mod stream;
#[cfg(test)]
mod tests;
mod wakers;

use std::error::Error as _;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls24::client::danger::HandshakeSignatureValid;
use rustls24::crypto::{self, CryptoProvider, SignatureScheme, VerifiedIdentity};
use rustls24::enums::CertificateType;
use rustls24::error::{CertificateError, OtherError, PeerMisbehaved};
use rustls24::server::danger::{ClientIdentity, ClientVerifier, SignatureVerificationInput};
use rustls24::server::{
    InvalidSniPolicy, NoServerSessionStorage, Tls13Tickets, WebPkiClientVerifier,
};
use rustls24::{DistinguishedName, RootCertStore, ServerConfig};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

pub use self::stream::TlsStream;
use crate::material::{Credential, Trust};
use crate::tls::TlsError;
use crate::verify::{Identity, IdentityError};

/// How long a refused client may take to hear why.
const ALERT_PATIENCE: Duration = Duration::from_secs(1);

/// What clients must show.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ClientCert {
    /// A certificate from a trusted CA; without one there is no connection.
    Required,
    /// A certificate is asked for. Who has none is let in without an [`Identity`]: for a node
    /// that enrols and has none yet. The caller must let such a peer do nothing else (rule S9).
    Optional,
    /// None is asked for and nobody has an [`Identity`] (corosync-qnetd(8) `-c off`).
    NotRequested,
}

/// Why a client was not let in. An alert has been sent to it where TLS has one.
#[derive(Debug, Error)]
pub enum AcceptError {
    /// The handshake was not over in time.
    #[error(
        "the tls handshake was not over after {0:?}: the client is slow, stuck or no tls client"
    )]
    Timeout(Duration),
    /// The client closed the connection during the handshake.
    #[error("the client closed the connection during the tls handshake: see the client's log")]
    Closed,
    /// The client has no certificate.
    #[error("the client has no certificate: give it one that this arbiter's authority signed")]
    NoCertificate,
    /// The client's certificate is trusted but names nobody.
    #[error("the client is refused: {0}")]
    Identity(IdentityError),
    /// The client's certificate is trusted, and for another cluster than the client says it is of.
    #[error(
        "the client is refused: it says that its cluster is {said:?}, and its certificate is for \
         {certified:?}: if the cluster was renamed, enrol it under its new name"
    )]
    OtherCluster {
        /// What it says; the beginning, if that is long.
        said: String,
        /// The name in the certificate.
        certified: String,
    },
    /// The client's certificate is not trusted: foreign, expired or not valid yet.
    #[error(
        "the client's certificate is refused ({0}): compare its authority, its dates and both \
         clocks"
    )]
    Certificate(String),
    /// The client refused us, usually for our certificate.
    #[error(
        "the client refused this arbiter ({0}): it must trust the authority of this arbiter's \
         certificate"
    )]
    ByClient(String),
    /// The client broke the protocol, or speaks no version of it that we do.
    #[error("the tls handshake failed ({0}): the client must speak tls 1.2 or 1.3")]
    Protocol(String),
    /// More bytes were read ahead than any client sends before it is answered.
    #[error("the client sent {0} bytes before the tls handshake, more than any client does")]
    TooMuchReadAhead(usize),
    /// The connection failed.
    #[error("the connection failed during the tls handshake: {0}")]
    Io(#[from] io::Error),
}

/// The arbiter's TLS settings. Clones share them, and [`ArbiterTls::replace`] changes them for
/// all clones: connections that are accepted later take the new ones.
#[derive(Clone, Debug)]
pub struct ArbiterTls {
    current: Arc<RwLock<Arc<ServerConfig>>>,
}

impl ArbiterTls {
    /// Settings that show `own` to clients and believe clients whose certificates `trust`
    /// signed.
    ///
    /// # Errors
    /// When the certificates or the key cannot be used.
    pub fn new(trust: &Trust, own: &Credential, clients: ClientCert) -> Result<Self, TlsError> {
        Self::with_provider(trust, own, clients, rustls24_ring::DEFAULT_PROVIDER)
    }

    /// From now on accepts as `new` does. For a changed certificate or CA at run time.
    pub fn replace(&self, new: &Self) {
        let config = new.config();
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = config;
    }

    /// Performs the handshake, at most for `limit` (and one second more to tell a refused client
    /// why). `read_ahead` is what was already read from
    /// `io` after the message that starts TLS; it is the beginning of the client's handshake.
    ///
    /// # Errors
    /// When the client is refused, breaks the protocol, or is too slow.
    pub async fn accept<S>(
        &self,
        io: S,
        read_ahead: Vec<u8>,
        limit: Duration,
    ) -> Result<TlsStream<S>, AcceptError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut stream = TlsStream::new(io, read_ahead, self.config())?;
        match timeout(limit, stream.handshake()).await {
            Ok(Ok(())) => Ok(stream),
            Ok(Err(refusal)) => {
                // An error here is that the client takes no alert: the refusal is what counts.
                let _ = timeout(ALERT_PATIENCE, stream.send_alert()).await;
                Err(refusal)
            }
            Err(_) => Err(AcceptError::Timeout(limit)),
        }
    }

    fn with_provider(
        trust: &Trust,
        own: &Credential,
        clients: ClientCert,
        provider: CryptoProvider,
    ) -> Result<Self, TlsError> {
        let provider = Arc::new(provider);
        let verifier = verifier(trust, clients, &provider)?;
        let chain = crypto::Identity::from_cert_chain(own.chain().to_vec())
            .map_err(|error| TlsError::new(&rustls24::Error::from(error)))?;
        let mut config = ServerConfig::builder(provider)
            .with_client_cert_verifier(verifier)
            .with_single_cert(Arc::new(chain), own.key())
            .map_err(|error| TlsError::new(&error))?;
        config.invalid_sni_policy = InvalidSniPolicy::IgnoreAll;
        config.send_tls13_tickets = Tls13Tickets { default: 0, max: 0 };
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Self { current: Arc::new(RwLock::new(Arc::new(config))) })
    }

    fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Checks clients as `clients` says.
fn verifier(
    trust: &Trust,
    clients: ClientCert,
    provider: &CryptoProvider,
) -> Result<Arc<dyn ClientVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in trust.certificates() {
        roots.add(certificate.clone()).map_err(|error| TlsError::new(&error))?;
    }
    let builder = WebPkiClientVerifier::builder(Arc::new(roots), provider);
    let builder = match clients {
        ClientCert::Required => builder,
        ClientCert::Optional => builder.allow_unauthenticated(),
        ClientCert::NotRequested => return Ok(WebPkiClientVerifier::no_client_auth()),
    };
    let chain = builder.build().map_err(|error| TlsError::new(&error))?;
    Ok(Arc::new(NamedClients { chain }))
}

/// Believes whom webpki believes (chain, signature, validity), if the certificate also names
/// exactly one cluster.
#[derive(Debug)]
struct NamedClients {
    chain: WebPkiClientVerifier,
}

impl ClientVerifier for NamedClients {
    fn verify_identity<'a>(
        &self,
        client: &ClientIdentity<'a, '_>,
    ) -> Result<VerifiedIdentity<'a>, rustls24::Error> {
        let verified = self.chain.verify_identity(client)?;
        match peer_identity(&verified) {
            Ok(_) => Ok(verified),
            Err(error) => Err(rustls24::Error::InvalidCertificate(CertificateError::Other(
                OtherError::new(error),
            ))),
        }
    }

    fn verify_tls12_signature(
        &self,
        input: &SignatureVerificationInput<'_>,
    ) -> Result<HandshakeSignatureValid, rustls24::Error> {
        self.chain.verify_tls12_signature(input)
    }

    fn verify_tls13_signature(
        &self,
        input: &SignatureVerificationInput<'_>,
    ) -> Result<HandshakeSignatureValid, rustls24::Error> {
        self.chain.verify_tls13_signature(input)
    }

    fn root_hint_subjects(&self) -> Arc<[DistinguishedName]> {
        self.chain.root_hint_subjects()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.chain.client_auth_mandatory()
    }

    fn offer_client_auth(&self) -> bool {
        self.chain.offer_client_auth()
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }

    fn supported_certificate_types(&self) -> &'static [CertificateType] {
        self.chain.supported_certificate_types()
    }
}

/// Who a verified peer is.
fn peer_identity(peer: &crypto::Identity<'_>) -> Result<Identity, IdentityError> {
    let crypto::Identity::X509(chain) = peer else {
        return Err(IdentityError::NoCertificate);
    };
    Identity::from_der(&chain.end_entity)
}

/// Sorts the library's errors by what the operator can do about them.
fn refusal(error: &rustls24::Error) -> AcceptError {
    const NO_CERTIFICATE: rustls24::Error =
        rustls24::Error::PeerMisbehaved(PeerMisbehaved::NoCertificatesPresented);
    if let rustls24::Error::InvalidCertificate(reason) = error {
        if let CertificateError::Other(ours) = reason
            && let Some(identity) = ours.source().and_then(|source| source.downcast_ref())
        {
            return AcceptError::Identity(IdentityError::clone(identity));
        }
        return AcceptError::Certificate(reason.to_string());
    }
    if let rustls24::Error::AlertReceived(alert) = error {
        return AcceptError::ByClient(alert.to_string());
    }
    if *error == NO_CERTIFICATE {
        return AcceptError::NoCertificate;
    }
    AcceptError::Protocol(error.to_string())
}
