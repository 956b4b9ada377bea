//! What is read of certificates, keys and requests, and the arbiter's side of a TLS handshake.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use certs::issue::{Authority, Kind, Serial, Subject, Validity};
use certs::{ArbiterTls, ClientCert, Credential, Identity, Trust, material, names, pkcs12};
use ring::{digest, hmac};
use tokio::io::{AsyncReadExt, join, sink};
use tokio::runtime::{Builder, Runtime};

use crate::tape::Tape;

/// Long enough for any handshake with a stream that never waits.
const PATIENCE: Duration = Duration::from_secs(60);

/// A PKCS#12 file of any bytes, and one whose checksum fits so that its contents are looked at.
pub fn bundle(data: &[u8]) {
    let _ = pkcs12::read(data);
    if let Ok(bundle) = pkcs12::read(&sealed(data)) {
        let pair = Credential::new(bundle.certificates, bundle.key);
        assert!(pair.is_ok(), "a key without its certificate");
    }
}

/// A file with these safes, an empty password, one round of hashing, and the MAC that belongs to
/// them (RFC 7292 B.2: the password is no text at all, so only purpose and salt are hashed).
fn sealed(safes: &[u8]) -> Vec<u8> {
    const DATA: &[u8] = &[0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01];
    const SHA256: &[u8] = &[0x06, 9, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01];
    let salt = [1_u8; 8];
    let hashed = [[3_u8; 64], [1_u8; 64]].concat();
    let key = digest::digest(&digest::SHA256, &hashed);
    let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key.as_ref()), safes);
    let sum = der(0x30, &[&der(0x30, &[SHA256]), &der(0x04, &[mac.as_ref()])]);
    let mac = der(0x30, &[&sum, &der(0x04, &[&salt])]);
    let content = der(0xa0, &[&der(0x04, &[safes])]);
    der(0x30, &[&[0x02, 1, 3], &der(0x30, &[DATA, &content]), &mac])
}

/// One element with a length of four bytes.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = u32::try_from(content.len()).unwrap_or(u32::MAX);
    [&[tag, 0x84][..], &length.to_be_bytes(), &content].concat()
}

/// PEM and DER from anywhere: certificates, keys, a request to sign. Tape: what; then its bytes.
pub fn certificate(data: &[u8]) {
    let mut tape = Tape::new(data);
    let what = tape.below(5);
    let bytes = tape.rest();
    match what {
        0 => {
            let Ok(list) = material::certificates(bytes) else { return };
            let text = material::certificates_to_pem(&list);
            let again = material::certificates(text.as_bytes());
            assert_eq!(again.as_ref(), Ok(&list), "written and read again");
            if let Ok(trust) = Trust::from_pem(bytes) {
                assert_eq!(trust.certificates().len(), list.len());
            }
        }
        1 => drop(Credential::from_pem(bytes, bytes)),
        2 => {
            if let Ok(identity) = Identity::from_der(bytes) {
                let name = &identity.cluster.to_string();
                assert!(names::check_cluster_name(name).is_ok(), "{name:?} is no name");
            }
        }
        3 => {
            let Some(site) = site() else { return };
            let subject = Subject::Cluster("c".to_owned());
            let signed = site.authority.sign_request(bytes, &subject, Serial(7), site.validity);
            if let Ok(certificate) = signed {
                let identity = Identity::from_der(&certificate).map(|who| who.cluster);
                assert_eq!(identity.ok(), Some("c".into()), "signed for another one");
            }
        }
        _ => drop(certs::issue::Key::from_pem(bytes)),
    }
}

/// What a client sends once TLS has begun at the arbiter's port. Nothing of it can end well: no
/// recorded bytes fit a key that the server draws for each handshake.
pub fn handshake(data: &[u8]) {
    let (Some(site), Some(runtime)) = (site(), runtime()) else { return };
    let mut tape = Tape::new(data);
    let ahead_bytes = usize::from(tape.byte());
    let ahead = tape.bytes(ahead_bytes).to_vec();
    let io = join(tape.rest(), sink());
    runtime.block_on(async {
        if let Ok(mut stream) = site.tls.accept(io, ahead, PATIENCE).await {
            let mut byte = [0; 1];
            let read = stream.read(&mut byte).await;
            panic!("an impossible handshake has come to an end, then {read:?}");
        }
    });
}

/// An authority and an arbiter that it has vouched for.
struct Site {
    authority: Authority,
    validity: Validity,
    tls: ArbiterTls,
}

fn site() -> Option<&'static Site> {
    static SITE: OnceLock<Option<Site>> = OnceLock::new();
    SITE.get_or_init(|| {
        // In 2026; what is valid when is not what is tested here.
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_000_000);
        let validity = Validity::starting(now);
        let authority = Authority::create(Kind::Own, Serial(101), validity).ok()?;
        let own = authority.issue(&Subject::Server, Serial(102), validity).ok()?;
        let own = Credential::from_pem(own.chain_pem.as_bytes(), own.key_pem.as_bytes()).ok()?;
        let trust = Trust::new(vec![authority.certificate().clone()]).ok()?;
        let tls = ArbiterTls::new(&trust, &own, ClientCert::Required).ok()?;
        Some(Site { authority, validity, tls })
    })
    .as_ref()
}

fn runtime() -> Option<&'static Runtime> {
    static RUNTIME: OnceLock<Option<Runtime>> = OnceLock::new();
    RUNTIME.get_or_init(|| Builder::new_current_thread().enable_time().build().ok()).as_ref()
}
