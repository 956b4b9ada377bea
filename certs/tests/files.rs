//! Files: what is said when one is wrong, how they are replaced, and the authority's directory.

#![expect(clippy::unwrap_used, reason = "a step that fails ends its test")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;

use certs::authority::{AuthorityDir, AuthorityError};
use certs::files::{self, FileError};
use certs::issue::{IssueError, Issued, Key, Kind, Subject, Validity};
use certs::material::MaterialError;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::common::{Directory, now};

fn validity() -> Validity {
    Validity::starting(now())
}

fn cluster() -> Subject {
    Subject::Cluster("TestCl".to_owned())
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn store(directory: &Directory, issued: &Issued) {
    files::write_public(&directory.join("cert.pem"), issued.chain_pem.as_bytes()).unwrap();
    files::write_private(&directory.join("key.pem"), issued.key_pem.as_bytes()).unwrap();
}

fn serial(issued: &Issued) -> u64 {
    let (_, leaf) = X509Certificate::from_der(&issued.certificate).unwrap();
    u64::try_from(&leaf.serial).unwrap()
}

#[test]
fn a_credential_is_the_same_after_it_was_written_and_read() {
    let directory = Directory::new();
    let authority = AuthorityDir::create(&directory.join("ca"), Kind::Own, validity()).unwrap();
    store(&directory, &authority.issue(&cluster(), validity()).unwrap());
    let own = files::load_credential(&directory.join("cert.pem"), &directory.join("key.pem"));
    assert_eq!(own.unwrap().chain().len(), 2, "leaf and authority");
    let trust = files::load_trust(&directory.join("ca/ca.pem")).unwrap();
    assert_eq!(trust.certificates(), [authority.authority().certificate().clone()]);
}

#[test]
fn keys_are_for_their_owner_only_whatever_was_there_before() {
    let directory = Directory::new();
    let key = directory.join("key.pem");
    fs::write(&key, "old").unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o666)).unwrap();
    files::write_private(&key, b"new").unwrap();
    assert_eq!((mode(&key), fs::read(&key).unwrap()), (0o600, b"new".to_vec()));
    files::write_public(&directory.join("cert.pem"), b"x").unwrap();
    assert_eq!(mode(&directory.join("cert.pem")), 0o644);
    let listed = fs::read_dir(directory.path()).unwrap().count();
    assert_eq!(listed, 2, "nothing is left beside the files");
}

#[test]
fn a_replacement_that_fails_leaves_the_old_file_and_nothing_beside_it() {
    let directory = Directory::new();
    let target = directory.join("taken");
    fs::create_dir(&target).unwrap();
    fs::write(target.join("inside"), "old").unwrap();
    let refusal = files::write_private(&target, b"new").unwrap_err();
    assert!(matches!(refusal, FileError::Unwritable { .. }), "{refusal}");
    assert_eq!(fs::read(target.join("inside")).unwrap(), b"old");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    let missing = files::write_public(&directory.join("no/such/file"), b"x").unwrap_err();
    assert!(missing.to_string().contains("no/such/file"), "{missing}");
}

#[test]
fn what_is_wrong_with_a_file_is_said_with_its_path_and_a_remedy() {
    let directory = Directory::new();
    let authority = AuthorityDir::create(&directory.join("ca"), Kind::Own, validity()).unwrap();
    store(&directory, &authority.issue(&cluster(), validity()).unwrap());
    let (cert, key) = (directory.join("cert.pem"), directory.join("key.pem"));
    let text = |name: &str, text: &str| {
        let path = directory.join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let other = authority.issue(&cluster(), validity()).unwrap();
    let other_key = text("other-key.pem", &other.key_pem);
    let junk = text("junk.pem", "this is not pem\n");
    let broken =
        text("broken.pem", "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n");
    let cut = text("cut.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n");
    let wrong = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let wrong = text("wrong-key.pem", wrong);
    let locked =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let locked = text("locked-key.pem", locked);
    let large = text("large.pem", &"x".repeat(2 << 20));
    let missing = directory.join("missing.pem");

    let cases: [(&Path, &Path, &[&str]); 10] = [
        (&missing, &key, &["missing.pem", "no such file", "issue"]),
        (&cert, &missing, &["missing.pem", "no such file"]),
        (&junk, &key, &["junk.pem", "has no certificate", "BEGIN CERTIFICATE"]),
        (&broken, &key, &["broken.pem", "not readable as PEM"]),
        (&cut, &key, &["cut.pem", "not readable as PEM", "END line"]),
        (&cert, &junk, &["junk.pem", "has no plain private key"]),
        (&cert, &wrong, &["wrong-key.pem", "of a kind that cannot be used", "P-256"]),
        (&cert, &locked, &["locked-key.pem", "has no plain private key", "unencrypted"]),
        (&cert, &other_key, &["cert.pem", "other-key.pem", "does not belong", "issue again"]),
        (&large, &key, &["large.pem", "more than"]),
    ];
    for (cert, key, words) in cases {
        let message = files::load_credential(cert, key).unwrap_err().to_string();
        for word in words {
            assert!(message.contains(word), "{word:?} is missing in: {message}");
        }
        assert!(!message.contains('\n') && !message.ends_with('.'), "one line: {message}");
    }
    let directory_as_file = files::load_trust(directory.path()).unwrap_err();
    assert!(matches!(directory_as_file, FileError::Unreadable { .. }), "{directory_as_file}");
}

#[test]
fn the_stock_arbiters_ca_file_is_read_dump_crlf_and_all() {
    let directory = Directory::new();
    let authority = AuthorityDir::create(&directory.join("ca"), Kind::Stock, validity()).unwrap();
    let block = authority.authority().certificate_pem().replace('\n', "\r\n");
    let dump = "Certificate:\n    Data:\n        Version: 3 (0x2)\n";
    fs::write(directory.join("qnetd-cacert.crt"), format!("{dump}{block}")).unwrap();
    let trust = files::load_trust(&directory.join("qnetd-cacert.crt")).unwrap();
    assert_eq!(trust.certificates().len(), 1);
}

#[test]
fn stock_serials_count_from_101_across_restarts() {
    let directory = Directory::new();
    let ca = directory.join("ca");
    let authority = AuthorityDir::create(&ca, Kind::Stock, validity()).unwrap();
    let (_, own) = X509Certificate::from_der(authority.authority().certificate()).unwrap();
    assert_eq!(own.serial, 101_u32.into());
    assert_eq!(serial(&authority.issue(&Subject::Server, validity()).unwrap()), 102);
    let authority = AuthorityDir::open(&ca).unwrap();
    assert_eq!(authority.authority().kind(), Kind::Stock);
    assert_eq!(serial(&authority.issue(&cluster(), validity()).unwrap()), 103);
    let request = Key::generate().unwrap().request(&cluster()).unwrap();
    let signed = authority.sign_request(&request, &cluster(), validity()).unwrap();
    let (_, signed) = X509Certificate::from_der(&signed).unwrap();
    assert_eq!(signed.serial, 104_u32.into());
    let stored = fs::read_to_string(ca.join("serial")).unwrap();
    assert_eq!(stored, "version = 1\nserial = 104\n");
}

#[test]
fn two_own_authorities_differ_in_their_serials() {
    let directory = Directory::new();
    let serials = ["one", "two"].map(|name| {
        let authority = AuthorityDir::create(&directory.join(name), Kind::Own, validity()).unwrap();
        serial(&authority.issue(&cluster(), validity()).unwrap())
    });
    assert_ne!(serials[0], serials[1], "NSS refuses a CA of known name and serial");
}

#[test]
fn no_serial_is_given_twice_to_threads_that_issue_at_once() {
    let directory = Directory::new();
    let ca = directory.join("ca");
    AuthorityDir::create(&ca, Kind::Stock, validity()).unwrap();
    let mut serials: Vec<u64> = thread::scope(|scope| {
        let issue = || {
            let authority = AuthorityDir::open(&ca).unwrap();
            let issued = (0..10).map(|_| authority.issue(&cluster(), validity()).unwrap());
            issued.map(|issued| serial(&issued)).collect::<Vec<_>>()
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(issue)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    serials.sort_unstable();
    assert_eq!(serials, (102..142).collect::<Vec<_>>());
}

#[test]
fn an_authority_is_never_replaced() {
    let directory = Directory::new();
    let ca = directory.join("ca");
    AuthorityDir::create(&ca, Kind::Own, validity()).unwrap();
    let before = fs::read(ca.join("ca.pem")).unwrap();
    let again = AuthorityDir::create(&ca, Kind::Own, validity()).unwrap_err();
    assert!(matches!(again, AuthorityError::Exists(_)), "{again}");
    assert_eq!(fs::read(ca.join("ca.pem")).unwrap(), before);
}

#[test]
fn the_authoritys_directory_and_key_are_private() {
    let directory = Directory::new();
    let ca = directory.join("ca");
    AuthorityDir::create(&ca, Kind::Own, validity()).unwrap();
    assert_eq!(mode(&ca), 0o700);
    assert_eq!(mode(&ca.join("ca-key.pem")), 0o600);
    assert_eq!(mode(&ca.join("ca.pem")), 0o644);
}

#[test]
fn a_missing_or_damaged_authority_is_named() {
    let directory = Directory::new();
    let ca = directory.join("ca");
    let missing = AuthorityDir::open(&ca).unwrap_err();
    assert!(matches!(missing, AuthorityError::NotFound(_)), "{missing}");
    let authority = AuthorityDir::create(&ca, Kind::Own, validity()).unwrap();

    fs::write(ca.join("serial"), "103\n").unwrap();
    let serial = AuthorityDir::open(&ca).unwrap_err();
    assert!(matches!(serial, AuthorityError::BadSerial(_)), "{serial}");
    let issued = authority.issue(&cluster(), validity()).unwrap_err();
    assert!(matches!(issued, AuthorityError::BadSerial(_)), "nothing without a serial: {issued}");

    fs::write(ca.join("serial"), format!("version = 1\nserial = {}\n", u64::MAX)).unwrap();
    let issued = authority.issue(&cluster(), validity()).unwrap_err();
    assert!(matches!(issued, AuthorityError::BadSerial(_)), "{issued}");

    fs::write(ca.join("ca-key.pem"), Key::generate().unwrap().to_pem()).unwrap();
    let foreign = AuthorityDir::open(&ca).unwrap_err();
    assert!(
        matches!(foreign, AuthorityError::Issue(IssueError::Authority(MaterialError::KeyMismatch))),
        "{foreign}"
    );
    fs::remove_file(ca.join("ca-key.pem")).unwrap();
    let missing = AuthorityDir::open(&ca).unwrap_err();
    assert!(missing.to_string().contains("ca-key.pem"), "{missing}");
}

#[test]
fn a_refused_name_costs_no_serial() {
    let directory = Directory::new();
    let ca = directory.join("ca");
    let authority = AuthorityDir::create(&ca, Kind::Stock, validity()).unwrap();
    let refused = Subject::Cluster("Qnetd Server".to_owned());
    assert!(authority.issue(&refused, validity()).is_err());
    assert_eq!(serial(&authority.issue(&cluster(), validity()).unwrap()), 102);
}
