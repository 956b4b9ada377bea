//! Certificates for both sides of the arbiter's port, made once a test: NSS databases by the stock
//! scripts, and the same as PEM for ours.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use certs::issue::{Authority, Kind, Serial, Subject, Validity};

use super::conf::CLUSTER;
use super::{HAGUARD, must};

/// A directory with everything; removed with the value.
#[derive(Debug)]
pub(crate) struct Pki {
    directory: PathBuf,
}

/// Runs a stock script on a host's `/etc/corosync`, which is `etc`.
fn script(etc: &Path, words: &[&str]) {
    let bind = "mount --bind $0 /etc/corosync && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", bind]).arg(etc).args(words);
    must(command.stdin(Stdio::null()));
}

impl Pki {
    fn empty(name: &str) -> Self {
        let name = format!("haguard-lab-{}-{name}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        for place in ["arbiter/qnetd", "first/qdevice/net", "other/qdevice/net"] {
            fs::create_dir_all(directory.join(place)).unwrap();
        }
        let pki = Self { directory };
        // Between our nodes: a certificate each, of an authority of their own.
        let (ca, nodes) = (pki.text("own-ca"), pki.path("own"));
        must(Command::new(HAGUARD).args(["certs", "init", "--dir", &ca]));
        for node in 1..=4 {
            let out = nodes.join(format!("n{node}")).display().to_string();
            let who = ["--dir", &ca, "--cluster", CLUSTER, "--node", &node.to_string()];
            must(Command::new(HAGUARD).args(["certs", "node"]).args(who).args(["--out", &out]));
        }
        pki
    }

    /// Everything by the stock scripts; the arbiter's key goes from NSS to PEM.
    pub(crate) fn stock() -> Self {
        let pki = Self::empty("stock");
        let (arbiter, first) = (pki.path("arbiter"), pki.path("first"));
        script(&arbiter, &["corosync-qnetd-certutil", "-i", "-G"]);
        let ca = arbiter.join("qnetd/nssdb/qnetd-cacert.crt");
        for node in ["first", "other"] {
            fs::copy(&ca, pki.path(node).join("ca.crt")).unwrap();
            pki.device(node, &["-i", "-c", "/etc/corosync/ca.crt"]);
        }
        pki.device("first", &["-r", "-n", CLUSTER]);
        let database = Path::new("qdevice/net/nssdb");
        let request = first.join(database).join("qdevice-net-node.crq");
        fs::copy(request, arbiter.join("request")).unwrap();
        let sign = ["corosync-qnetd-certutil", "-s", "-c", "/etc/corosync/request", "-n", CLUSTER];
        script(&arbiter, &sign);
        let signed = arbiter.join(format!("qnetd/nssdb/cluster-{CLUSTER}.crt"));
        fs::copy(signed, first.join("cluster.crt")).unwrap();
        pki.share();
        let nss = arbiter.join("qnetd/nssdb");
        let mut ca = Command::new("certutil");
        fs::write(pki.path("ca.pem"), must(ca.args(["-L", "-a", "-n", "QNet CA", "-d"]).arg(&nss)))
            .unwrap();
        let bundle = pki.path("arbiter.p12");
        let mut export = Command::new("pk12util");
        export.args(["-n", "QNetd Cert", "-W", "", "-o"]).arg(&bundle).arg("-d").arg(&nss);
        must(&mut export);
        pki.to_pem(&bundle, "arbiter");
        pki
    }

    /// Our authority signs what the stock scripts of the nodes ask for, and the arbiter's
    /// certificate; there is no NSS database for an arbiter.
    pub(crate) fn ours() -> Self {
        let pki = Self::empty("ours");
        #[expect(clippy::disallowed_methods, reason = "a certificate is valid by the wall clock")]
        let validity = Validity::starting(std::time::SystemTime::now());
        let authority = Authority::create(Kind::Own, Serial(101), validity).unwrap();
        fs::write(pki.path("ca.pem"), authority.certificate_pem()).unwrap();
        let server = authority.issue(&Subject::Server, Serial(102), validity).unwrap();
        fs::write(pki.path("arbiter.pem"), server.chain_pem).unwrap();
        fs::write(pki.path("arbiter-key.pem"), server.key_pem).unwrap();
        for node in ["first", "other"] {
            fs::copy(pki.path("ca.pem"), pki.path(node).join("ca.crt")).unwrap();
            pki.device(node, &["-i", "-c", "/etc/corosync/ca.crt"]);
        }
        pki.device("first", &["-r", "-n", CLUSTER]);
        let request = pki.path("first/qdevice/net/nssdb/qdevice-net-node.crq");
        let request = fs::read(request).unwrap();
        let subject = Subject::Cluster(CLUSTER.to_owned());
        let signed = authority.sign_request(&request, &subject, Serial(103), validity).unwrap();
        fs::write(pki.path("first/cluster.crt"), &signed).unwrap();
        pki.share();
        pki
    }

    /// The first node takes its certificate in, and hands certificate and key to the others.
    fn share(&self) {
        self.device("first", &["-M", "-c", "/etc/corosync/cluster.crt"]);
        let bundle = self.path("first/qdevice/net/nssdb/qdevice-net-node.p12");
        fs::copy(&bundle, self.path("other/cluster.p12")).unwrap();
        self.device("other", &["-m", "-c", "/etc/corosync/cluster.p12"]);
        self.to_pem(&bundle, "cluster");
    }

    fn device(&self, node: &str, words: &[&str]) {
        script(&self.path(node), &[&["corosync-qdevice-net-certutil"], words].concat());
    }

    /// `NAME.pem` and `NAME-key.pem` out of a bundle with an empty password.
    fn to_pem(&self, bundle: &Path, name: &str) {
        let convert = |what: &[&str], file: String| {
            let mut openssl = Command::new("openssl");
            openssl.args(["pkcs12", "-nodes", "-passin", "pass:", "-in"]).arg(bundle).args(what);
            fs::write(self.path(&file), must(&mut openssl)).unwrap();
        };
        convert(&["-clcerts", "-nokeys"], format!("{name}.pem"));
        convert(&["-nocerts"], format!("{name}-key.pem"));
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }
}

impl Drop for Pki {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}
