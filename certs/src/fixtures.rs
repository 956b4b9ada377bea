//! Authorities, credentials and connections for tests.

use std::cell::Cell;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, Issuer, KeyPair, SerialNumber};
use rustls::SupportedProtocolVersion;
use tokio::io::{DuplexStream, duplex};

use crate::issue::{Authority, Kind, Serial, Subject, Validity};
use crate::tls::{ArbiterClient, ClientStream, ConnectError};
use crate::{AcceptError, ArbiterTls, ClientCert, Credential, TlsStream, Trust};

/// More than any handshake in memory takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The cluster of most tests.
pub(crate) const CLUSTER: &str = "TestCl";

#[expect(clippy::disallowed_methods, reason = "tls libraries compare with the system clock")]
pub(crate) fn now() -> SystemTime {
    SystemTime::now()
}

pub(crate) const fn years(count: u64) -> Duration {
    Duration::from_secs(count * 365 * 24 * 3600)
}

/// Ended two years ago.
pub(crate) fn expired() -> Validity {
    Validity { now: now() - years(3), months: 12 }
}

/// Starts in a year.
pub(crate) fn not_yet() -> Validity {
    Validity { now: now() + years(1), months: 12 }
}

pub(crate) fn cluster() -> Subject {
    Subject::Cluster(CLUSTER.to_owned())
}

/// One authority and what it has signed.
pub(crate) struct Site {
    authority: Authority,
    serial: Cell<u64>,
}

impl Site {
    pub(crate) fn new(kind: Kind) -> Self {
        let authority = Authority::create(kind, Serial(101), Validity::starting(now())).unwrap();
        Self { authority, serial: Cell::new(101) }
    }

    pub(crate) fn trust(&self) -> Trust {
        Trust::new(vec![self.authority.certificate().clone()]).unwrap()
    }

    pub(crate) fn credential(&self, subject: &Subject) -> Credential {
        self.credential_valid(subject, Validity::starting(now()))
    }

    pub(crate) fn credential_valid(&self, subject: &Subject, validity: Validity) -> Credential {
        self.serial.set(self.serial.get() + 1);
        let serial = Serial(self.serial.get());
        let issued = self.authority.issue(subject, serial, validity).unwrap();
        Credential::from_pem(issued.chain_pem.as_bytes(), issued.key_pem.as_bytes()).unwrap()
    }

    /// A leaf that the authority itself would not issue.
    pub(crate) fn credential_with(
        &self,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Credential {
        let ca_key = KeyPair::from_pem(&self.authority.key_pem()).unwrap();
        let issuer = Issuer::from_ca_cert_der(self.authority.certificate(), ca_key).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.serial_number = Some(SerialNumber::from(900_u64));
        change(&mut params);
        let leaf = params.signed_by(&key, &issuer).unwrap();
        Credential::from_pem(leaf.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap()
    }

    pub(crate) fn arbiter(&self, clients: ClientCert) -> ArbiterTls {
        ArbiterTls::new(&self.trust(), &self.credential(&Subject::Server), clients).unwrap()
    }

    pub(crate) fn client(&self) -> ArbiterClient {
        self.client_showing(Some(&self.credential(&cluster())))
    }

    pub(crate) fn client_showing(&self, own: Option<&Credential>) -> ArbiterClient {
        ArbiterClient::with_default_name(&self.trust(), own).unwrap()
    }

    pub(crate) fn client_speaking(
        &self,
        own: Option<&Credential>,
        version: &'static SupportedProtocolVersion,
    ) -> ArbiterClient {
        ArbiterClient::with_versions(&self.trust(), own, "Qnetd Server", &[version]).unwrap()
    }
}

pub(crate) type Accepted = Result<TlsStream<DuplexStream>, AcceptError>;
pub(crate) type Connected = Result<ClientStream<DuplexStream>, ConnectError>;

/// Lets the two shake hands over a pipe that holds `pipe` bytes each way. In TLS 1.3 the client
/// is done before the server has judged it.
pub(crate) async fn shake(
    server: &ArbiterTls,
    client: &ArbiterClient,
    pipe: usize,
) -> (Accepted, Connected) {
    let (near, far) = duplex(pipe);
    tokio::join!(server.accept(near, Vec::new(), PATIENCE), client.connect(far, PATIENCE))
}

/// A connection in order.
pub(crate) async fn connection(
    pipe: usize,
) -> (TlsStream<DuplexStream>, ClientStream<DuplexStream>) {
    let site = Site::new(Kind::Own);
    let arbiter = site.arbiter(ClientCert::Required);
    let (server, client) = shake(&arbiter, &site.client(), pipe).await;
    (server.unwrap(), client.unwrap())
}
