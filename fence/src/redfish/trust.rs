//! Whose certificate is believed.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore,
    SignatureScheme,
};
use sha2::{Digest, Sha256};
use thiserror::Error;
use x509_parser::asn1_rs::{Any, FromDer};
use x509_parser::certificate::X509Certificate;

use super::{Proof, Transport};
use crate::device::DeviceError;

/// What [`host::https::Client::connect`] wants.
pub(super) type Tls = (Arc<ClientConfig>, ServerName<'static>);

/// Reads a SHA-256 fingerprint: 64 hexadecimal digits, with or without colons between them.
/// `None` if it is anything else.
pub fn parse_pin(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = text.trim().bytes().filter(|byte| *byte != b':').collect();
    let mut pin = [0; 32];
    if digits.len() != 64 {
        return None;
    }
    for (byte, pair) in pin.iter_mut().zip(digits.chunks_exact(2)) {
        // `from_str_radix` alone would take a sign.
        if !pair.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(pin)
}

/// The settings of TLS; `None` for none.
pub(super) fn client(transport: &Transport, host: &str) -> Result<Option<Tls>, DeviceError> {
    let proof = match transport {
        Transport::PlainHttp => return Ok(None),
        Transport::Https(proof) => proof,
    };
    let provider = Arc::new(ring::default_provider());
    let (verifier, name): (Arc<dyn ServerCertVerifier>, &str) = match proof {
        Proof::Pinned(pins) if pins.is_empty() => {
            return Err(DeviceError::Local("no certificate is pinned: name one".to_owned()));
        }
        Proof::Pinned(pins) => (Arc::new(Pinned::new(pins.clone(), &provider)), host),
        Proof::Authority { file, name } => {
            let verifier = WebPkiServerVerifier::builder_with_provider(
                Arc::new(roots(file)?),
                Arc::clone(&provider),
            );
            let verifier = verifier.build().map_err(|error| unusable(&error))?;
            (verifier, name.as_deref().unwrap_or(host))
        }
    };
    let name = ServerName::try_from(name.to_owned())
        .map_err(|_| DeviceError::Local(format!("{name:?} is no host name and no address")))?;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(&error))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    // Each visit proves the certificate anew.
    config.resumption = Resumption::disabled();
    Ok(Some((Arc::new(config), name)))
}

/// Sorts the errors of a handshake by what the operator can do about them.
pub(super) fn handshake_error(error: &std::io::Error) -> DeviceError {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return DeviceError::Garbage(format!("the tls handshake broke off ({error})"));
    };
    if let rustls::Error::InvalidCertificate(reason) = tls {
        if let CertificateError::Other(OtherError(ours)) = reason
            && let Some(other) = ours.downcast_ref::<OtherCertificate>()
        {
            return DeviceError::Login(other.to_string());
        }
        let text = format!("the bmc's certificate is not believed ({reason})");
        return DeviceError::Login(text);
    }
    DeviceError::Garbage(format!("the tls handshake failed ({tls}): is this port the bmc's?"))
}

fn roots(file: &Path) -> Result<RootCertStore, DeviceError> {
    let unreadable = |error: &dyn std::fmt::Display| {
        let text = format!("cannot read certificates from {}: {error}", file.display());
        DeviceError::Local(text)
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| unreadable(&error))? {
        let certificate = certificate.map_err(|error| unreadable(&error))?;
        roots.add(certificate).map_err(|error| unreadable(&error))?;
    }
    if roots.is_empty() {
        return Err(unreadable(&"there is none in it"));
    }
    Ok(roots)
}

fn unusable(error: &dyn std::fmt::Display) -> DeviceError {
    DeviceError::Local(format!("tls cannot be set up: {error}"))
}

/// The certificate is none of the pinned ones.
#[derive(Debug, Error)]
#[error(
    "the bmc's certificate is not the pinned one, it has the sha-256 {0}: pin it, if it is the \
     bmc's new one"
)]
struct OtherCertificate(String);

/// Believes certificates by their fingerprint, and nothing that they say: those of BMCs are often
/// made by themselves, without names, of X.509 version 1 (which webpki does not read), long over.
#[derive(Debug)]
struct Pinned {
    pins: Vec<[u8; 32]>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Pinned {
    fn new(pins: Vec<[u8; 32]>, provider: &CryptoProvider) -> Self {
        Self { pins, algorithms: provider.signature_verification_algorithms }
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let seen: [u8; 32] = Sha256::digest(end_entity).into();
        if self.pins.contains(&seen) {
            return Ok(ServerCertVerified::assertion());
        }
        let mut text = String::new();
        for byte in seen {
            // Writing to a string does not fail.
            let _ = write!(text, "{byte:02x}");
        }
        let other = OtherError(Arc::new(OtherCertificate(text)));
        Err(rustls::Error::InvalidCertificate(CertificateError::Other(other)))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let key = PublicKey::read(cert)?;
        let schemes = self.algorithms.mapping.iter().filter(|(scheme, _)| *scheme == dss.scheme);
        for algorithm in schemes.flat_map(|(_, algorithms)| algorithms.iter()) {
            if algorithm.public_key_alg_id().as_ref() == key.algorithm
                && algorithm.verify_signature(&key.bits, message, dss.signature()).is_ok()
            {
                return Ok(HandshakeSignatureValid::assertion());
            }
        }
        Err(rustls::Error::InvalidCertificate(CertificateError::BadSignature))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let key = SubjectPublicKeyInfoDer::from(PublicKey::read(cert)?.whole);
        verify_tls13_signature_with_raw_key(message, &key, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The public key in a certificate, as RFC 5280, 4.1.2.7 has it.
struct PublicKey {
    whole: Vec<u8>,
    /// The inside of the sequence with the algorithm's name and parameters.
    algorithm: Vec<u8>,
    bits: Vec<u8>,
}

impl PublicKey {
    fn read(certificate: &[u8]) -> Result<Self, rustls::Error> {
        let bad = || rustls::Error::InvalidCertificate(CertificateError::BadEncoding);
        let (_, certificate) = X509Certificate::from_der(certificate).map_err(|_| bad())?;
        let key = certificate.public_key();
        let (_, outer) = Any::from_der(key.raw).map_err(|_| bad())?;
        let (_, algorithm) = Any::from_der(outer.data).map_err(|_| bad())?;
        Ok(Self {
            whole: key.raw.to_vec(),
            algorithm: algorithm.data.to_vec(),
            bits: key.subject_public_key.data.to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_64_digits_with_or_without_colons() {
        let plain = "00ff".repeat(16);
        let colons: Vec<_> = (0..32).map(|n| if n % 2 == 0 { "00" } else { "FF" }).collect();
        let pin = parse_pin(&plain).unwrap();
        assert_eq!(pin[..2], [0, 255]);
        assert_eq!(parse_pin(&colons.join(":")), Some(pin));
        for bad in ["", "00", &plain[1..], &"+f".repeat(32), &"0g".repeat(32)] {
            assert_eq!(parse_pin(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn what_is_no_certificate_gives_no_key() {
        assert!(PublicKey::read(b"").is_err());
        assert!(PublicKey::read(&[0x30, 0x03, 0x02, 0x01, 0x01]).is_err());
    }
}
