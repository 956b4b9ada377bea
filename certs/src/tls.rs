//! TLS on rustls 0.23: the client towards an arbiter, stock or ours, and both sides of the QUIC
//! links between nodes. Servers are known by their common name, never by a host name: the chain
//! and the validity are webpki's part, the name is compared here, byte for byte.
//!
//! Nothing is resumed: each connection proves its certificate anew.

#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use protocol::ids::{ClusterName, NodeId};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, OtherError,
    RootCertStore, ServerConfig, SignatureScheme, SupportedProtocolVersion,
};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::material::{Credential, Trust};
use crate::names;
use crate::verify::{Identity, IdentityError};

/// The application protocol of the links between nodes (RFC 7301).
pub const MESH_ALPN: &[u8] = b"haguard/1";

/// That of a fencing gateway.
const HTTP_ALPN: &[u8] = b"http/1.1";

/// The connection to an arbiter after the handshake. Reading reports a connection that ends
/// without a `close_notify` as [`io::ErrorKind::UnexpectedEof`].
pub type ClientStream<S> = tokio_rustls::client::TlsStream<S>;

/// Why certificates that were read in order cannot be used for TLS.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("tls cannot be set up with these certificates ({0}): issue them again")]
pub struct TlsError(String);

impl TlsError {
    pub(crate) fn new(error: &dyn std::error::Error) -> Self {
        Self(error.to_string())
    }
}

/// Why there is no connection to the arbiter.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The handshake was not over in time.
    #[error(
        "the tls handshake was not over after {0:?}: is the arbiter overloaded, or another \
         program on its port?"
    )]
    Timeout(Duration),
    /// The server's certificate is trusted but is not the arbiter's.
    #[error("the server is refused: {0}")]
    Identity(IdentityError),
    /// The server's certificate is not trusted: foreign, expired or not valid yet.
    #[error(
        "the arbiter's certificate is refused ({0}): compare its authority, its dates and both \
         clocks"
    )]
    Certificate(String),
    /// The server refused us, usually for our certificate.
    #[error(
        "the arbiter refused this client ({0}): its certificate must be signed by the arbiter's \
         authority and be valid"
    )]
    ByServer(String),
    /// The server broke the protocol, or speaks no version of it that we do.
    #[error("the tls handshake failed ({0}): is this port an arbiter's?")]
    Protocol(String),
    /// The connection failed or was closed.
    #[error("the connection failed during the tls handshake ({0}): see the arbiter's log")]
    Io(io::Error),
}

/// The settings of a client towards an arbiter. Cheap to clone.
#[derive(Clone)]
pub struct ArbiterClient {
    connector: TlsConnector,
    /// TLS libraries want some server name; it is neither sent nor compared.
    dummy: ServerName<'static>,
}

impl ArbiterClient {
    /// Believes the server whose certificate `trust` signed and whose common name is exactly
    /// `server_name` (usually [`names::SERVER_NAME`]), and shows it `own`, if there is one.
    ///
    /// # Errors
    /// When the certificates or the key cannot be used.
    pub fn new(
        trust: &Trust,
        own: Option<&Credential>,
        server_name: &str,
    ) -> Result<Self, TlsError> {
        Self::with_versions(trust, own, server_name, &[&TLS13, &TLS12])
    }

    /// As [`ArbiterClient::new`] with the name that arbiters have unless configured otherwise.
    ///
    /// # Errors
    /// As [`ArbiterClient::new`].
    pub fn with_default_name(trust: &Trust, own: Option<&Credential>) -> Result<Self, TlsError> {
        Self::new(trust, own, names::SERVER_NAME)
    }

    /// Performs the handshake, at most for `limit`.
    ///
    /// # Errors
    /// When either side refuses the other, or the server is too slow.
    pub async fn connect<S>(&self, io: S, limit: Duration) -> Result<ClientStream<S>, ConnectError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let handshake = self.connector.connect(self.dummy.clone(), io);
        let connected =
            timeout(limit, handshake).await.map_err(|_| ConnectError::Timeout(limit))?;
        connected.map_err(connect_error)
    }

    pub(crate) fn with_versions(
        trust: &Trust,
        own: Option<&Credential>,
        server_name: &str,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Result<Self, TlsError> {
        let expected = Expected::Name(ClusterName::from(server_name));
        let config = client_config(trust, own, expected, versions)?;
        let dummy =
            ServerName::try_from("arbiter.invalid").map_err(|error| TlsError::new(&error))?;
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), dummy })
    }
}

/// The server side of a QUIC link between nodes of `cluster`, for
/// `quinn::crypto::rustls::QuicServerConfig`. Believes members of the cluster only; whether the
/// peer is the node that it says it is must be asked of [`Identity::may_act_as`], with the
/// identity from [`crate::verify::quic_identity`].
///
/// # Errors
/// When the certificates or the key cannot be used.
pub fn mesh_server(
    trust: &Trust,
    own: &Credential,
    cluster: &ClusterName,
) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = server_config(trust, own, cluster)?;
    config.alpn_protocols = vec![MESH_ALPN.to_vec()];
    Ok(Arc::new(config))
}

/// The client side of a QUIC link to node `peer` of `cluster`, for
/// `quinn::crypto::rustls::QuicClientConfig`. Believes a certificate of the cluster that is bound
/// to that node or to none. The server name that quinn wants may be any; it is not sent.
///
/// # Errors
/// When the certificates or the key cannot be used.
pub fn mesh_client(
    trust: &Trust,
    own: &Credential,
    cluster: &ClusterName,
    peer: NodeId,
) -> Result<Arc<ClientConfig>, TlsError> {
    let expected = Expected::Node(cluster.clone(), peer);
    let mut config = client_config(trust, Some(own), expected, &[&TLS13])?;
    config.alpn_protocols = vec![MESH_ALPN.to_vec()];
    Ok(Arc::new(config))
}

/// The HTTPS server of a fencing gateway of `cluster`. Believes members of the cluster only; for
/// which node a client may speak must be asked of [`Identity::may_act_as`], with the identity from
/// its certificate.
///
/// # Errors
/// When the certificates or the key cannot be used.
pub fn gateway_server(
    trust: &Trust,
    own: &Credential,
    cluster: &ClusterName,
) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = server_config(trust, own, cluster)?;
    config.alpn_protocols = vec![HTTP_ALPN.to_vec()];
    Ok(Arc::new(config))
}

/// A client of the fencing gateway of `cluster`. Believes a certificate that is the gateway's. The
/// server name that the library wants may be any; it is not sent.
///
/// # Errors
/// When the certificates or the key cannot be used.
pub fn gateway_client(
    trust: &Trust,
    own: &Credential,
    cluster: &ClusterName,
) -> Result<Arc<ClientConfig>, TlsError> {
    let expected = Expected::Gateway(cluster.clone());
    let mut config = client_config(trust, Some(own), expected, &[&TLS13])?;
    config.alpn_protocols = vec![HTTP_ALPN.to_vec()];
    Ok(Arc::new(config))
}

/// A TLS 1.3 server for members of `cluster` that resumes nothing.
fn server_config(
    trust: &Trust,
    own: &Credential,
    cluster: &ClusterName,
) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let chain = WebPkiClientVerifier::builder_with_provider(trust.roots(), Arc::clone(&provider))
        .build()
        .map_err(|error| TlsError::new(&error))?;
    let members = Arc::new(Members { chain, expected: Expected::Name(cluster.clone()) });
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| TlsError::new(&error))?
        .with_client_cert_verifier(members)
        .with_single_cert(own.chain().to_vec(), own.key())
        .map_err(|error| TlsError::new(&error))?;
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

/// Whom the certificate of a peer must name.
#[derive(Clone, Debug)]
enum Expected {
    /// This common name.
    Name(ClusterName),
    /// This cluster, and no other node of it.
    Node(ClusterName, NodeId),
    /// The fencing gateway of this cluster.
    Gateway(ClusterName),
}

impl Expected {
    fn check(&self, leaf: &CertificateDer<'_>) -> Result<(), IdentityError> {
        let identity = Identity::from_der(leaf)?;
        match self {
            Self::Name(name) => identity.may_act_as(name, None),
            Self::Node(cluster, node) => identity.may_act_as(cluster, Some(*node)),
            Self::Gateway(cluster) => identity.may_fence_for(cluster),
        }
    }
}

fn client_config(
    trust: &Trust,
    own: Option<&Credential>,
    expected: Expected,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let verifier = NamedServer::new(trust, expected, &provider);
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(|error| TlsError::new(&error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match own {
        Some(own) => builder
            .with_client_auth_cert(own.chain().to_vec(), own.key())
            .map_err(|error| TlsError::new(&error))?,
        None => builder.with_no_client_auth(),
    };
    config.enable_sni = false;
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Believes a server whom webpki believes, if its certificate names whom we expect.
#[derive(Debug)]
struct NamedServer {
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
    expected: Expected,
}

impl NamedServer {
    fn new(trust: &Trust, expected: Expected, provider: &CryptoProvider) -> Self {
        Self {
            roots: trust.roots(),
            algorithms: provider.signature_verification_algorithms,
            expected,
        }
    }
}

impl ServerCertVerifier for NamedServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(end_entity)?,
            &self.roots,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        self.expected.check(end_entity).map_err(not_named)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Believes a client whom webpki believes, if it is a member of the cluster.
#[derive(Debug)]
struct Members {
    chain: Arc<dyn ClientCertVerifier>,
    expected: Expected,
}

impl ClientCertVerifier for Members {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        self.expected.check(end_entity).map_err(not_named)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

fn not_named(error: IdentityError) -> rustls::Error {
    rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

/// Sorts the library's errors by what the operator can do about them.
fn connect_error(error: io::Error) -> ConnectError {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return ConnectError::Io(error);
    };
    if let rustls::Error::InvalidCertificate(reason) = tls {
        if let CertificateError::Other(OtherError(ours)) = reason
            && let Some(identity) = ours.downcast_ref()
        {
            return ConnectError::Identity(IdentityError::clone(identity));
        }
        return ConnectError::Certificate(reason.to_string());
    }
    if let rustls::Error::AlertReceived(alert) = tls {
        return ConnectError::ByServer(format!("{alert:?}"));
    }
    ConnectError::Protocol(tls.to_string())
}
