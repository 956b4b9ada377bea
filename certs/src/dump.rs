//! A certificate as people read it, in the shape of the text that the stock scripts put in front of
//! the PEM block of `qnetd-cacert.crt`. Programs read only the block.

use std::fmt::Write as _;

use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;

use crate::material;

/// Bytes in one line of hex.
const HEX_LINE: usize = 16;

/// The text, and the PEM block behind it.
pub(crate) fn text_and_pem(certificate: &CertificateDer<'_>) -> String {
    let pem = material::to_pem("CERTIFICATE", certificate);
    match X509Certificate::from_der(certificate) {
        Ok((_, parsed)) => text(&parsed) + &pem,
        Err(_) => pem,
    }
}

fn text(certificate: &X509Certificate<'_>) -> String {
    let mut text = String::from("Certificate:\n    Data:\n");
    let serial = &certificate.serial;
    let mut line = |indent: usize, line: &str| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{:indent$}{line}", "");
    };
    line(8, &format!("Version: {} (0x{:x})", certificate.version().0 + 1, certificate.version().0));
    line(8, &format!("Serial Number: {serial} (0x{serial:x})"));
    line(8, &format!("Issuer: \"{}\"", certificate.issuer()));
    line(8, "Validity:");
    line(12, &format!("Not Before: {}", date(certificate.validity().not_before)));
    line(12, &format!("Not After : {}", date(certificate.validity().not_after)));
    line(8, &format!("Subject: \"{}\"", certificate.subject()));
    line(8, "Subject Public Key Info:");
    for hex in hex(certificate.public_key().raw) {
        line(12, &hex);
    }
    if let Ok(Some(constraints)) = certificate.basic_constraints() {
        let is_ca = if constraints.value.ca { "is a CA" } else { "is no CA" };
        let length = constraints.value.path_len_constraint;
        let length = length.map(|length| format!(", path length {length}")).unwrap_or_default();
        line(8, &format!("Basic Constraints: {is_ca}{length}"));
    }
    line(4, "Signature:");
    for hex in hex(&certificate.signature_value.data) {
        line(8, &hex);
    }
    text.push('\n');
    text
}

fn hex(bytes: &[u8]) -> impl Iterator<Item = String> {
    bytes.chunks(HEX_LINE).map(|line| {
        let digits: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        digits.join(":")
    })
}

/// In UTC, as RFC 2822 has it.
fn date(time: ASN1Time) -> String {
    time.to_rfc2822().unwrap_or_else(|text| text)
}
