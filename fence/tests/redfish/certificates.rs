//! Whose certificate is believed, and that nobody else hears the password.

use std::path::PathBuf;
use std::sync::Arc;

use fence::device::{Command, DeviceError, Power, Seen};
use fence::redfish::{Config, Proof, Redfish, Transport, parse_pin};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, SupportedProtocolVersion};
use sha2::{Digest, Sha256};

use super::bmc::{Bmc, PATIENCE};

const BOTH: &[&SupportedProtocolVersion] = &[&TLS12, &TLS13];

/// What `openssl x509 -fingerprint -sha256` says of data/x509v1.pem.
const X509V1: &str = "7B:08:C2:9D:6C:BD:35:10:75:17:67:71:3F:08:71:E9:\
    64:D0:BA:4D:57:FD:6E:E6:98:79:71:B2:C4:40:8C:36";

/// A certificate and the key that the server signs with, which need not be the certificate's.
#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

async fn server(
    certificate: &CertificateDer<'_>,
    key: &PrivateKeyDer<'_>,
    versions: &[&'static SupportedProtocolVersion],
) -> Bmc {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = provider.key_provider.load_private_key(key.clone_key()).unwrap();
    let shown = CertifiedKey::new(vec![certificate.clone().into_owned()], key);
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Shown(Arc::new(shown))));
    Bmc::start_with(Some(Arc::new(config))).await
}

fn fixture() -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let pem = |file: &str| format!("{}/tests/redfish/data/{file}", env!("CARGO_MANIFEST_DIR"));
    let certificate = CertificateDer::from_pem_file(pem("x509v1.pem")).unwrap();
    (certificate, PrivateKeyDer::from_pem_file(pem("x509v1-key.pem")).unwrap())
}

fn private(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::try_from(key.serialize_der()).unwrap()
}

/// A certificate of the kind that BMCs make for themselves.
fn self_made() -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    // Long over: the pin is what counts.
    params.not_after = rcgen::date_time_ymd(2001, 1, 1);
    (params.self_signed(&key).unwrap().der().clone(), private(&key))
}

fn fingerprint(certificate: &CertificateDer<'_>) -> [u8; 32] {
    Sha256::digest(certificate).into()
}

async fn status(bmc: &Bmc, proof: Proof) -> Result<Seen, DeviceError> {
    let config = Config { transport: Transport::Https(proof), ..bmc.config() };
    Redfish::new(config).unwrap().run(Command::Status, PATIENCE).await
}

fn login_refused(result: Result<Seen, DeviceError>) -> String {
    match result {
        Err(DeviceError::Login(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_pinned_certificate_is_believed_whatever_it_says() {
    let other = fingerprint(&self_made().0);
    for (certificate, key) in [self_made(), fixture()] {
        for versions in [&[&TLS12][..], &[&TLS13][..]] {
            let bmc = server(&certificate, &key, versions).await;
            let proof = Proof::Pinned(vec![other, fingerprint(&certificate)]);
            assert_eq!(status(&bmc, proof).await, Ok(Seen::Power(Power::On)));
            bmc.all_sessions_end().await;
        }
    }
    let printed = fingerprint(&fixture().0);
    assert_eq!(parse_pin(X509V1), Some(printed), "openssl is of another opinion");
}

#[tokio::test]
async fn another_certificate_hears_nothing() {
    let (certificate, key) = self_made();
    let bmc = server(&certificate, &key, BOTH).await;
    let text = login_refused(status(&bmc, Proof::Pinned(vec![[7; 32]])).await);
    // It can be pinned from the message.
    let shown = text.split_whitespace().find_map(|word| parse_pin(word.trim_end_matches(':')));
    assert_eq!(shown, Some(fingerprint(&certificate)), "{text}");
    assert_eq!(bmc.state().log, [""; 0]);
}

#[tokio::test]
async fn a_pinned_certificate_without_its_key_is_nobody() {
    for (certificate, _) in [self_made(), fixture()] {
        for versions in [&[&TLS12][..], &[&TLS13][..]] {
            // Of the certificate's own kind of key, and of the other.
            for (_, key) in [self_made(), (certificate.clone(), rsa())] {
                let bmc = server(&certificate, &key, versions).await;
                let result = status(&bmc, Proof::Pinned(vec![fingerprint(&certificate)])).await;
                let expected = |error: &DeviceError| {
                    matches!(error, DeviceError::Login(_) | DeviceError::Garbage(_))
                };
                assert!(result.as_ref().is_err_and(expected), "{result:?}");
                assert_eq!(bmc.state().log, [""; 0]);
            }
        }
    }
}

#[tokio::test]
async fn an_authority_is_believed_for_the_name_only() {
    let authority_key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = authority.self_signed(&authority_key).unwrap().pem();
    let issuer = Issuer::new(authority, authority_key);
    let issue = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &issuer).unwrap().der().clone(), private(&key))
    };
    let file = File::new("root", &root);
    let proof = |name: Option<&str>| {
        let name = name.map(str::to_owned);
        Proof::Authority { file: file.0.clone(), name }
    };
    let (certificate, key) = issue("127.0.0.1");
    let bmc = server(&certificate, &key, BOTH).await;
    assert_eq!(status(&bmc, proof(None)).await, Ok(Seen::Power(Power::On)));

    let (certificate, key) = issue("bmc1.example");
    let bmc = server(&certificate, &key, BOTH).await;
    assert_eq!(status(&bmc, proof(Some("bmc1.example"))).await, Ok(Seen::Power(Power::On)));
    bmc.all_sessions_end().await;
    let requests = bmc.state().log.len();
    for wrong in [None, Some("bmc2.example")] {
        let text = login_refused(status(&bmc, proof(wrong)).await);
        assert!(text.contains("not believed"), "{text}");
    }
    assert_eq!(bmc.state().log.len(), requests);

    let foreign = File::new("foreign", &foreign_root());
    let proof = Proof::Authority { file: foreign.0.clone(), name: Some("bmc1.example".into()) };
    login_refused(status(&bmc, proof).await);
    let (certificate, key) = self_made();
    let bmc = server(&certificate, &key, BOTH).await;
    let proof = Proof::Authority { file: file.0.clone(), name: None };
    login_refused(status(&bmc, proof).await);
}

#[tokio::test]
async fn a_bmc_without_tls_hears_no_password_where_tls_is_configured() {
    let bmc = Bmc::start().await;
    let result = status(&bmc, Proof::Pinned(vec![[7; 32]])).await;
    assert!(matches!(result, Err(DeviceError::Garbage(_))), "{result:?}");
    assert_eq!(bmc.state().log, [""; 0]);
}

#[tokio::test]
async fn what_cannot_be_verified_with_is_said_at_the_start() {
    let bmc = Bmc::start().await;
    let refused = |host: &str, proof: Proof| {
        let transport = Transport::Https(proof);
        match Redfish::new(Config { host: host.to_owned(), transport, ..bmc.config() }) {
            Err(DeviceError::Local(text)) => text,
            other => panic!("{other:?}"),
        }
    };
    let authority = |file: &File| Proof::Authority { file: file.0.clone(), name: None };
    let gone = Proof::Authority { file: "/no/such/file.pem".into(), name: None };
    assert!(refused("bmc", gone).contains("/no/such/file.pem"));
    assert!(refused("bmc", authority(&File::new("empty", "no pem"))).contains("none in it"));
    let junk = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    refused("bmc", authority(&File::new("junk", junk)));
    refused("bmc", Proof::Pinned(Vec::new()));
    refused("no host", Proof::Pinned(vec![[7; 32]]));
}

fn rsa() -> PrivateKeyDer<'static> {
    let path = format!("{}/tests/redfish/data/other-key.pem", env!("CARGO_MANIFEST_DIR"));
    PrivateKeyDer::from_pem_file(path).unwrap()
}

fn foreign_root() -> String {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.self_signed(&key).unwrap().pem()
}

/// A file that is gone with the test.
struct File(PathBuf);

impl File {
    fn new(name: &str, content: &str) -> Self {
        let name = format!("haguard-redfish-{name}-{}.pem", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, content).unwrap();
        Self(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
