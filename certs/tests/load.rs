//! The three files of a daemon: what is said when they do not belong together.

#![expect(clippy::unwrap_used, reason = "a step that fails ends its test")]

mod common;

use std::time::Duration;

use certs::files::{self, Files, Loaded};
use certs::issue::{Authority, Kind, Serial, Subject, Validity};
use certs::material::Purpose;

use crate::common::{Directory, now};

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

struct Site {
    directory: Directory,
    authority: Authority,
}

impl Site {
    fn new() -> Self {
        let authority = Authority::create(Kind::Stock, Serial(101), Validity::starting(now()));
        let site = Self { directory: Directory::new(), authority: authority.unwrap() };
        let file = site.directory.join("ca.pem");
        files::write_public(&file, site.authority.certificate_pem().as_bytes()).unwrap();
        site
    }

    /// Puts a certificate of this authority beside `other`'s authority.
    fn issue(&self, other: &Self, validity: Validity) {
        let subject = Subject::Cluster("TestCl".to_owned());
        let issued = self.authority.issue(&subject, Serial(102), validity).unwrap();
        let file = |name: &str| other.directory.join(name);
        files::write_public(&file("node.pem"), issued.chain_pem.as_bytes()).unwrap();
        files::write_private(&file("node-key.pem"), issued.key_pem.as_bytes()).unwrap();
    }

    fn load(&self) -> Result<Loaded, String> {
        let file = |name: &str| self.directory.join(name);
        let (authority, certificate, key) =
            (file("ca.pem"), file("node.pem"), file("node-key.pem"));
        let files = Files { authority: &authority, certificate: &certificate, key: &key };
        files.load(Purpose::Client).map_err(|error| {
            // Nothing may be said twice where the sources are shown behind the error.
            assert!(std::error::Error::source(&error).is_none());
            let text = error.to_string();
            assert!(!text.contains('\n'), "{text}");
            text
        })
    }
}

#[test]
fn files_of_one_issue_are_loaded_without_a_remark() {
    let site = Site::new();
    site.issue(&site, Validity::starting(now()));
    let loaded = site.load().unwrap();
    assert_eq!(loaded.warning, None);
    assert_eq!(loaded.trust.certificates().len(), 1);
}

#[test]
fn a_foreign_certificate_is_one_line_that_names_both_files() {
    let (site, other) = (Site::new(), Site::new());
    other.issue(&site, Validity::starting(now()));
    let said = site.load().unwrap_err();
    let file = |name: &str| site.directory.join(name).display().to_string();
    let expected = format!(
        "{}: was issued by another authority: issue it again, by the authority whose certificate \
         is in {}",
        file("node.pem"),
        file("ca.pem")
    );
    assert_eq!(said, expected);
}

#[test]
fn an_expired_certificate_is_refused() {
    let site = Site::new();
    site.issue(&site, Validity { now: now() - 3 * YEAR, months: 12 });
    let said = site.load().unwrap_err();
    assert!(said.contains("node.pem: has expired: issue it again"), "{said}");
}

#[test]
fn a_certificate_that_is_not_valid_yet_is_loaded_with_a_remark() {
    let site = Site::new();
    site.issue(&site, Validity { now: now() + YEAR, months: 12 });
    let said = site.load().unwrap().warning.unwrap();
    assert!(said.contains("node.pem: is not valid before "), "{said}");
    assert!(said.ends_with("is this host's clock right?") && !said.contains('\n'), "{said}");
}
