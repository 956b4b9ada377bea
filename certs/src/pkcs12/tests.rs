//! With files of our own and one of NSS. That NSS takes ours is tested where its programs are used,
//! in `haguard/tests/enrol.rs`.

use std::time::{Duration, SystemTime};

use super::*;
use crate::Identity;
use crate::issue::{Authority, Kind, Serial, Subject, Validity};
use crate::material;

fn authority() -> Authority {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    Authority::create(Kind::Stock, Serial(101), Validity::starting(now)).unwrap()
}

fn pair(authority: &Authority) -> (PrivateKeyDer<'static>, CertificateDer<'static>) {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let subject = Subject::Cluster("TestCl".into());
    let issued = authority.issue(&subject, Serial(103), Validity::starting(now)).unwrap();
    (material::private_key(issued.key_pem.as_bytes()).unwrap(), issued.certificate)
}

#[test]
fn a_file_gives_back_the_pair_and_its_authority() {
    let authority = authority();
    let (key, leaf) = pair(&authority);
    let ca = authority.certificate();
    let bytes = write(&key, &leaf, "Cluster Cert", Some((ca, "QNet CA"))).unwrap();
    let bundle = read(&bytes).unwrap();
    assert_eq!(bundle.key, key);
    assert_eq!(bundle.certificates, [leaf, ca.clone()]);
}

#[test]
fn a_file_of_nss_is_read() {
    let bytes = include_bytes!("../../tests/data/nss-node.p12");
    let bundle = read(bytes).unwrap();
    let names = bundle.certificates.iter().map(|one| Identity::from_der(one).unwrap().cluster);
    assert_eq!(names.collect::<Vec<_>>(), ["TestCl".into(), "QNet CA".into()]);
    for cut in (0..bytes.len()).step_by(97) {
        assert!(read(&bytes[..cut]).is_err(), "{cut}");
    }
}

#[test]
fn a_damaged_or_cut_file_is_refused() {
    let (key, leaf) = pair(&authority());
    let bytes = write(&key, &leaf, "Cluster Cert", None).unwrap();
    for cut in 0..bytes.len() {
        assert!(read(&bytes[..cut]).is_err(), "{cut}");
    }
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        // Where a bit is outside of what the MAC covers the file may still be read, and then
        // gives what was put in.
        if let Ok(bundle) = read(&damaged) {
            assert_eq!(bundle.key, key, "{at}");
            assert_eq!(bundle.certificates[0], leaf, "{at}");
        }
    }
}

#[test]
fn a_key_without_its_certificate_is_refused() {
    let authority = authority();
    let (key, _) = pair(&authority);
    let bytes = write(&key, authority.certificate(), "x", None).unwrap();
    assert_eq!(read(&bytes).unwrap_err(), BundleError::Key(MaterialError::KeyMismatch));
}

#[test]
fn the_parts_of_a_file_share_one_limit_of_hash_rounds() {
    let (algorithm, secret) = encrypt(b"what is in it", AES_128_CBC).unwrap();
    let algorithm = Reader(&algorithm).expect(ber::SEQUENCE).unwrap().content;
    let mut rounds = Rounds(2 * ITERATIONS);
    for _ in 0..2 {
        assert_eq!(decrypt(algorithm, &secret, &mut rounds).unwrap(), b"what is in it");
    }
    let third = decrypt(algorithm, &secret, &mut rounds);
    assert_eq!(third, Err(BundleError::TooMuch("more hash rounds")));
}
