//! What the authority issues, read back field by field (qnetd protocol, section 7.3), and what
//! it refuses to sign.

#![expect(clippy::unwrap_used, reason = "a step that fails ends its test")]

mod common;

use std::time::{Duration, SystemTime};

use certs::issue::{Authority, IssueError, Key, Kind, Serial, Subject, Validity};
use certs::material::MaterialError;
use certs::names::NameError;
use certs::verify::{Identity, IdentityError};
use certs::{CertificateDer, Credential, Trust};
use protocol::ids::NodeId;
use rcgen::{CertificateParams, DnType, KeyPair, SanType};
use x509_parser::asn1_rs::Tag;
use x509_parser::prelude::{FromDer, X509Certificate, X509Version};

/// 2026-11-21 04:00:00 UTC.
const ISSUED: u64 = 1_795_233_600;

const RSA_KEY: &[u8] = include_bytes!("data/rsa-2048-key.pem");

fn at(seconds: u64) -> Validity {
    Validity::starting(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

fn authority(kind: Kind) -> Authority {
    Authority::create(kind, Serial(101), at(ISSUED)).unwrap()
}

fn cluster(name: &str) -> Subject {
    Subject::Cluster(name.to_owned())
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> X509Certificate<'a> {
    X509Certificate::from_der(certificate).unwrap().1
}

fn extensions(certificate: &X509Certificate<'_>) -> Vec<(String, bool)> {
    let listed = certificate.extensions().iter();
    listed.map(|extension| (extension.oid.to_id_string(), extension.critical)).collect()
}

#[test]
fn a_stock_authority_has_the_shape_that_the_stock_scripts_give_it() {
    let authority = authority(Kind::Stock);
    let ca = parse(authority.certificate());
    assert_eq!(ca.version(), X509Version::V3);
    assert_eq!(ca.subject().to_string(), "CN=QNet CA");
    assert_eq!(ca.issuer().to_string(), "CN=QNet CA");
    assert_eq!(ca.serial, 101_u32.into());
    assert_eq!(extensions(&ca), [("2.5.29.19".to_owned(), true)]);
    let constraints = ca.basic_constraints().unwrap().unwrap().value;
    assert_eq!((constraints.ca, constraints.path_len_constraint), (true, Some(0)));
    let name = ca.subject().iter_common_name().next().unwrap();
    assert_eq!(name.attr_value().tag(), Tag::PrintableString);
}

#[test]
fn stock_leaves_have_no_extension_at_all() {
    let authority = authority(Kind::Stock);
    for (subject, name) in [(Subject::Server, "CN=Qnetd Server"), (cluster("TestCl"), "CN=TestCl")]
    {
        let issued = authority.issue(&subject, Serial(102), at(ISSUED)).unwrap();
        let leaf = parse(&issued.certificate);
        assert_eq!(leaf.version(), X509Version::V3, "webpki refuses version 1");
        assert_eq!(leaf.subject().to_string(), name);
        assert_eq!(leaf.issuer().to_string(), "CN=QNet CA");
        assert_eq!(leaf.serial, 102_u32.into());
        assert!(leaf.extensions().is_empty(), "{:?}", extensions(&leaf));
    }
}

#[test]
fn own_certificates_say_what_their_keys_may_do() {
    let authority = authority(Kind::Own);
    let ca = parse(authority.certificate());
    let usage = ca.key_usage().unwrap().unwrap().value;
    assert!(usage.key_cert_sign() && usage.crl_sign() && !usage.digital_signature());
    assert_eq!(ca.basic_constraints().unwrap().unwrap().value.path_len_constraint, Some(0));

    let node = Subject::Node { cluster: "TestCl".to_owned(), node: NodeId(2) };
    for (subject, client) in [(Subject::Server, false), (cluster("TestCl"), true), (node, true)] {
        let issued = authority.issue(&subject, Serial(102), at(ISSUED)).unwrap();
        let leaf = parse(&issued.certificate);
        assert!(leaf.key_usage().unwrap().unwrap().value.digital_signature());
        let usage = leaf.extended_key_usage().unwrap().unwrap().value;
        assert_eq!((usage.server_auth, usage.client_auth), (true, client), "{subject:?}");
        assert!(leaf.basic_constraints().unwrap().is_none());
        let named = leaf.subject_alternative_name().unwrap().is_some();
        assert_eq!(named, matches!(subject, Subject::Node { .. }), "{subject:?}");
    }
}

#[test]
fn a_node_certificate_is_bound_to_its_node() {
    for kind in [Kind::Own, Kind::Stock] {
        let node = Subject::Node { cluster: "TestCl".to_owned(), node: NodeId(4_294_967_295) };
        let issued = authority(kind).issue(&node, Serial(102), at(ISSUED)).unwrap();
        let identity = Identity::from_der(&issued.certificate).unwrap();
        assert_eq!(identity.cluster, "TestCl".into());
        assert_eq!(identity.node, Some(NodeId(u32::MAX)));
    }
}

#[test]
fn validity_is_1200_months_with_a_day_for_clocks_that_run_behind() {
    let issued = authority(Kind::Stock).issue(&Subject::Server, Serial(102), at(ISSUED)).unwrap();
    let leaf = parse(&issued.certificate);
    let validity = leaf.validity();
    assert_eq!(validity.not_before.timestamp(), i64::try_from(ISSUED - 24 * 3600).unwrap());
    assert_eq!(validity.not_after.to_datetime().to_string(), "2126-11-21 4:00:00.0 +00:00:00");
    assert!(validity.not_before.is_utctime() && validity.not_after.is_generalizedtime());
    assert_eq!(
        Identity::from_der(&issued.certificate).unwrap().not_after,
        validity.not_after.timestamp()
    );
}

#[test]
fn months_end_where_the_calendar_ends_them() {
    let authority = authority(Kind::Own);
    // Issued on 2024-02-29, 2026-01-31, 2026-12-15 and 2026-11-21.
    let cases = [
        (1_709_164_800, 12, "2025-02-28"),
        (1_769_817_600, 1, "2026-02-28"),
        (1_797_292_800, 1, "2027-01-15"),
        (ISSUED, 25, "2028-12-21"),
        (ISSUED, 0, "2026-11-21"),
    ];
    for (seconds, months, end) in cases {
        let validity = Validity { months, ..at(seconds) };
        let issued = authority.issue(&Subject::Server, Serial(102), validity).unwrap();
        let leaf = parse(&issued.certificate);
        let got = leaf.validity().not_after.to_datetime().date().to_string();
        assert_eq!(got, end, "{months} months");
    }
}

#[test]
fn a_clock_that_no_certificate_can_hold_is_refused() {
    let before = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
    let late = SystemTime::UNIX_EPOCH + Duration::from_secs(300_000_000_000);
    for (now, months) in [(before, 1200), (late, 1), (SystemTime::UNIX_EPOCH, u32::MAX)] {
        let outcome = Authority::create(Kind::Own, Serial(1), Validity { now, months });
        assert_eq!(outcome.unwrap_err(), IssueError::Time);
    }
}

#[test]
fn reserved_empty_long_and_control_names_are_refused() {
    let authority = authority(Kind::Own);
    let long = "x".repeat(65);
    let refused = [
        ("Qnetd Server", NameError::Reserved("Qnetd Server".into())),
        ("qnet ca", NameError::Reserved("qnet ca".into())),
        ("", NameError::Empty),
        ("a\tb", NameError::Control),
        ("*", NameError::Wildcard("*".into())),
        (long.as_str(), NameError::TooLong(65)),
    ];
    let key = Key::generate().unwrap();
    for (name, reason) in refused {
        let node = Subject::Node { cluster: name.to_owned(), node: NodeId(1) };
        for subject in [cluster(name), node] {
            let refusal = Err(IssueError::Name(reason.clone()));
            let issued = authority.issue(&subject, Serial(102), at(ISSUED)).map(|_| ());
            assert_eq!(issued, refusal, "{name:?}");
            assert_eq!(key.request(&subject).map(|_| ()), refusal, "{name:?}");
        }
    }
    let nobody = Subject::Node { cluster: "c".to_owned(), node: NodeId(0) };
    let issued = authority.issue(&nobody, Serial(102), at(ISSUED));
    assert_eq!(issued.unwrap_err(), IssueError::NoNode);
}

#[test]
fn names_that_printable_string_cannot_hold_are_utf8() {
    let authority = authority(Kind::Stock);
    for (name, tag) in
        [("my_cluster", Tag::Utf8String), ("Büro", Tag::Utf8String), ("a-1", Tag::PrintableString)]
    {
        let issued = authority.issue(&cluster(name), Serial(102), at(ISSUED)).unwrap();
        let leaf = parse(&issued.certificate);
        let written = leaf.subject().iter_common_name().next().unwrap().attr_value().tag();
        assert_eq!(written, tag, "{name}");
        assert_eq!(Identity::from_der(&issued.certificate).unwrap().cluster, name.into());
    }
}

#[test]
fn a_request_is_signed_for_exactly_the_name_that_was_asked_for() {
    let authority = authority(Kind::Stock);
    let key = Key::generate().unwrap();
    let request = key.request(&cluster("TestCl")).unwrap();
    let sign =
        |subject: &Subject| authority.sign_request(&request, subject, Serial(103), at(ISSUED));
    let certificate = sign(&cluster("TestCl")).unwrap();
    let leaf = parse(&certificate);
    assert_eq!(leaf.subject().to_string(), "CN=TestCl");
    assert!(leaf.extensions().is_empty());
    Credential::from_pem(
        certs::material::certificates_to_pem(std::slice::from_ref(&certificate)).as_bytes(),
        key.to_pem().as_bytes(),
    )
    .unwrap();

    for other in ["testcl", "TestCl2", "other"] {
        let refusal = sign(&cluster(other)).unwrap_err();
        assert_eq!(
            refusal,
            IssueError::OtherName { want: other.to_owned(), got: "TestCl".to_owned() }
        );
    }
    assert!(matches!(sign(&Subject::Server), Err(IssueError::OtherName { .. })));
}

#[test]
fn a_request_for_the_arbiters_name_is_refused_as_a_clusters() {
    let request = Key::generate().unwrap().request(&Subject::Server).unwrap();
    let refusal = authority(Kind::Stock)
        .sign_request(&request, &cluster("Qnetd Server"), Serial(103), at(ISSUED))
        .unwrap_err();
    assert_eq!(refusal, IssueError::Name(NameError::Reserved("Qnetd Server".into())));
}

fn raw_request(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "TestCl");
    change(&mut params);
    params.serialize_request(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
}

#[test]
fn extensions_that_a_request_asks_for_are_not_granted() {
    let request = raw_request(|params| {
        params.subject_alt_names = vec![
            SanType::URI("urn:haguard:node:1".try_into().unwrap()),
            SanType::DnsName("arbiter.example".try_into().unwrap()),
        ];
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    });
    let authority = authority(Kind::Own);
    let signed =
        authority.sign_request(&request, &cluster("TestCl"), Serial(103), at(ISSUED)).unwrap();
    let leaf = parse(&signed);
    assert!(leaf.subject_alternative_name().unwrap().is_none());
    assert!(leaf.basic_constraints().unwrap().is_none());
    let node = Subject::Node { cluster: "TestCl".to_owned(), node: NodeId(7) };
    let signed = authority.sign_request(&request, &node, Serial(104), at(ISSUED)).unwrap();
    assert_eq!(Identity::from_der(&signed).unwrap().node, Some(NodeId(7)), "ours, not theirs");
}

#[test]
fn a_request_with_two_names_none_or_a_foreign_signature_is_refused() {
    let authority = authority(Kind::Own);
    let sign = |request: &[u8]| {
        authority.sign_request(request, &cluster("TestCl"), Serial(103), at(ISSUED)).unwrap_err()
    };
    let two = raw_request(|params| {
        params.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 3]), "other");
    });
    assert_eq!(sign(&two), IssueError::RequestSubject(IdentityError::SeveralNames(2)));
    let none = raw_request(|params| {
        params.distinguished_name = rcgen::DistinguishedName::new();
    });
    assert_eq!(sign(&none), IssueError::RequestSubject(IdentityError::NoName));
    let mut forged = raw_request(|_| ());
    *forged.last_mut().unwrap() ^= 1;
    assert!(matches!(sign(&forged), IssueError::Request(_)));
    let mut longer = raw_request(|_| ());
    longer.push(0);
    assert!(matches!(sign(&longer), IssueError::Request(_)));
    for junk in [&b""[..], b"junk", b"-----BEGIN CERTIFICATE REQUEST-----"] {
        assert!(matches!(sign(junk), IssueError::Request(_)));
    }
}

#[test]
fn no_damaged_request_panics_or_gets_another_key_certified() {
    let authority = authority(Kind::Own);
    let request = raw_request(|_| ());
    let sign = |request: &[u8]| {
        authority.sign_request(request, &cluster("TestCl"), Serial(103), at(ISSUED))
    };
    let whole = sign(&request).unwrap();
    let key = parse(&whole).public_key().raw.to_vec();
    for position in 0..request.len() {
        assert!(sign(&request[..position]).is_err(), "cut at {position}");
        let mut damaged = request.clone();
        damaged[position] ^= 0x81;
        // The parser is lenient about tags around the signature, which sign nothing themselves.
        if let Ok(certificate) = sign(&damaged) {
            let leaf = parse(&certificate);
            assert_eq!(leaf.public_key().raw, key, "byte {position}");
            assert_eq!(leaf.subject().to_string(), "CN=TestCl");
        }
    }
}

#[test]
fn an_rsa_authority_is_made_from_a_given_key() {
    let key = Key::from_pem(RSA_KEY).unwrap();
    let authority = Authority::create_with_key(Kind::Stock, key, Serial(101), at(ISSUED)).unwrap();
    let ca = parse(authority.certificate());
    assert_eq!(ca.signature_algorithm.algorithm.to_id_string(), "1.2.840.113549.1.1.11");
    let key = Key::from_pem(RSA_KEY).unwrap();
    let server = authority.issue_for_key(&key, &Subject::Server, Serial(102), at(ISSUED)).unwrap();
    let leaf = parse(&server.certificate);
    leaf.verify_signature(Some(ca.public_key())).unwrap();
    Trust::new(vec![authority.certificate().clone()]).unwrap();
}

#[test]
fn keys_of_kinds_that_stock_peers_do_not_know_are_refused() {
    let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap().serialize_pem();
    let refusal = Key::from_pem(ed25519.as_bytes()).unwrap_err();
    assert_eq!(refusal, IssueError::Key(MaterialError::KeyType));
    let refusal = Key::from_pem(b"no key").unwrap_err();
    assert_eq!(refusal, IssueError::Key(MaterialError::NoKey));
}

#[test]
fn an_authority_is_the_same_after_it_was_written_and_read() {
    for kind in [Kind::Own, Kind::Stock] {
        let first = authority(kind);
        let again =
            Authority::from_pem(first.certificate_pem().as_bytes(), first.key_pem().as_bytes())
                .unwrap();
        assert_eq!(again.kind(), kind);
        assert_eq!(again.certificate(), first.certificate());
        let issued = again.issue(&Subject::Server, Serial(102), at(ISSUED)).unwrap();
        let ca = parse(first.certificate());
        let leaf = parse(&issued.certificate);
        leaf.verify_signature(Some(ca.public_key())).unwrap();
        assert_eq!(leaf.issuer().as_raw(), ca.subject().as_raw());
    }
}

#[test]
fn an_authority_is_not_made_from_a_leaf_or_a_foreign_key() {
    let authority = authority(Kind::Own);
    let server = authority.issue(&Subject::Server, Serial(102), at(ISSUED)).unwrap();
    let leaf = Authority::from_pem(server.chain_pem.as_bytes(), server.key_pem.as_bytes());
    assert_eq!(leaf.unwrap_err(), IssueError::NotAuthority);
    let foreign =
        Authority::from_pem(authority.certificate_pem().as_bytes(), server.key_pem.as_bytes());
    assert_eq!(foreign.unwrap_err(), IssueError::Authority(MaterialError::KeyMismatch));
}
