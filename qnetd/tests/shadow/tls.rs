//! TLS on both sides of the daemon, with a stock daemon that wants it and certificates of one
//! authority, whose key the daemon is given.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::SystemTime;

use certs::issue::{Authority, Kind, Serial, Subject, Validity};
use certs::{ArbiterClient, Credential, Trust};
use protocol::ids::RingId;
use protocol::qnet::{Message, MessageType, TlsSupport};
use protocol::vote::Vote;
use tokio::net::TcpStream;

use crate::client::{Client, config_list, init, membership_list, preinit, vote_reply};
use crate::places::{PATIENCE, Place};
use crate::stock::Stock;
use crate::through::Through;

type Secure = Client<certs::tls::ClientStream<TcpStream>>;

#[expect(clippy::disallowed_methods, reason = "tls libraries compare with the system clock")]
fn validity() -> Validity {
    Validity::starting(SystemTime::now())
}

/// An authority in the stock format, and its files.
struct Site {
    place: Place,
    authority: Authority,
}

impl Site {
    fn new() -> Self {
        let authority = Authority::create(Kind::Stock, Serial(101), validity()).unwrap();
        let (place, server) = (Place::new(), Subject::Server);
        let server = authority.issue(&server, Serial(102), validity()).unwrap();
        std::fs::write(place.join("ca.pem"), authority.certificate_pem()).unwrap();
        std::fs::write(place.join("ca-key.pem"), authority.key_pem()).unwrap();
        std::fs::write(place.join("server.pem"), &server.chain_pem).unwrap();
        std::fs::write(place.join("server-key.pem"), &server.key_pem).unwrap();
        Self { place, authority }
    }

    /// An authority with an RSA key that NSS has made, as corosync-qnetd-certutil does, exported
    /// to the same files.
    fn of_nss() -> Self {
        let place = Place::new();
        let file = |name| place.text(name);
        let (nss, noise, bundle) = (file("nss"), file("noise"), file("bundle.p12"));
        std::fs::create_dir_all(Path::new(&nss)).unwrap();
        std::fs::write(&noise, [7; 64]).unwrap();
        run("certutil", &["-N", "--empty-password", "-d", &nss]);
        let make = |arguments: &[&str]| {
            let fixed = ["-S", "-z", &noise, "-d", &nss];
            // Questions of -2: a CA, path length 0, critical.
            answer("certutil", &[&fixed[..], arguments].concat(), "y\n0\ny\n");
        };
        make(&["-n", "QNet CA", "-s", "CN=QNet CA", "-x", "-t", "CT,,", "-m", "101", "-2"]);
        let server = ["-n", "QNetd Cert", "-s", "CN=Qnetd Server", "-c", "QNet CA", "-t", "u,u,u"];
        make(&[&server[..], &["-m", "102"]].concat());
        for (nickname, name) in [("QNet CA", "ca"), ("QNetd Cert", "server")] {
            run("pk12util", &["-o", &bundle, "-n", nickname, "-d", &nss, "-W", "", "-K", ""]);
            let cert = place.text(&format!("{name}.pem"));
            let key = place.text(&format!("{name}-key.pem"));
            let read = ["pkcs12", "-in", &bundle, "-passin", "pass:", "-nodes"];
            run("openssl", &[&read[..], &["-clcerts", "-nokeys", "-out", &cert]].concat());
            run("openssl", &[&read[..], &["-nocerts", "-out", &key]].concat());
        }
        let bytes = |name| std::fs::read(place.join(name)).unwrap();
        let authority = Authority::from_pem(&bytes("ca.pem"), &bytes("ca-key.pem")).unwrap();
        Self { place, authority }
    }

    fn flags(&self) -> String {
        let file = |name| self.place.text(name);
        let (ca, cert, key) = (file("ca.pem"), file("server.pem"), file("server-key.pem"));
        let ca_key = file("ca-key.pem");
        format!("--tls-ca {ca} --tls-ca-key {ca_key} --tls-cert {cert} --tls-key {key}")
    }

    /// The same for the stock daemon: an NSS database (packages `libnss3-tools`, `openssl`).
    fn database(&self) -> String {
        let file = |name| self.place.text(name);
        let directory = file("nss");
        std::fs::create_dir_all(Path::new(&directory)).unwrap();
        run("certutil", &["-N", "--empty-password", "-d", &directory]);
        let ca = file("ca.pem");
        let trust = ["-n", "QNet CA", "-t", "CT,c,c", "-a", "-i", &ca, "-d", &directory];
        run("certutil", &[&["-A"], &trust[..]].concat());
        let (cert, key, bundle) = (file("server.pem"), file("server-key.pem"), file("server.p12"));
        let inputs = ["-in", &cert, "-inkey", &key, "-out", &bundle, "-name", "QNetd Cert"];
        let fixed = ["pkcs12", "-export", "-passout", "pass:"];
        run("openssl", &[&fixed[..], &inputs[..]].concat());
        run("pk12util", &["-i", &bundle, "-d", &directory, "-W", "", "-K", ""]);
        directory
    }

    fn client(&self, cluster: &str) -> ArbiterClient {
        let subject = Subject::Cluster(cluster.to_owned());
        let issued = self.authority.issue(&subject, Serial(103), validity()).unwrap();
        let own = Credential::from_pem(issued.chain_pem.as_bytes(), issued.key_pem.as_bytes());
        let trust = Trust::from_pem(self.authority.certificate_pem().as_bytes()).unwrap();
        ArbiterClient::with_default_name(&trust, Some(&own.unwrap())).unwrap()
    }

    async fn both(&self) -> Option<(Stock, Through)> {
        let made = self.place.join("nss").exists();
        let database = if made { self.place.text("nss") } else { self.database() };
        let settings = format!("nss_db_dir={database}");
        let stock = Stock::start(&["-s", "req", "-S", &settings]).await?;
        let through = Through::start(stock.address, &self.flags()).await;
        Some((stock, through))
    }
}

fn run(program: &str, arguments: &[&str]) {
    answer(program, arguments, "");
}

/// Runs a program that asks questions.
fn answer(program: &str, arguments: &[&str], answers: &str) {
    let mut command = Command::new(program);
    let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = pipes.args(arguments).spawn().unwrap();
    child.stdin.take().unwrap().write_all(answers.as_bytes()).unwrap();
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success(), "{program}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Preinit, StartTLS and the handshake.
async fn secure(through: &Through, tls: &ArbiterClient, cluster: &str) -> Secure {
    let mut client = Client::connect(through.address).await;
    let reply = client.ask(&preinit(cluster)).await;
    assert_eq!(reply.options.tls_supported, Some(TlsSupport::Required));
    client.send(&Message::new(MessageType::StartTls, Some(2))).await;
    Client::over(tls.connect(client.stream, PATIENCE).await.unwrap())
}

#[tokio::test]
async fn a_client_gets_its_vote_from_the_stock_daemon_through_two_tls_connections() {
    is_served(&Site::new()).await;
}

#[tokio::test]
async fn certificates_of_an_authority_that_nss_has_made_are_signed_too() {
    if Path::new("/usr/bin/corosync-qnetd").exists() {
        is_served(&Site::of_nss()).await;
    }
}

async fn is_served(site: &Site) {
    let Some((_stock, through)) = site.both().await else { return };
    let mut client = secure(&through, &site.client("TestCl"), "TestCl").await;
    let ring = RingId::new(1, 5);
    let reply = client.ask(&init(1, ring)).await;
    assert_eq!(reply.options.error_code, Some(0));
    client.ask_for(&config_list(3, &[1]), MessageType::NodeListReply).await;
    client.send(&membership_list(4, ring, &[1])).await;
    let (seq, vote) = client.vote().await;
    assert_eq!(vote, Vote::Ack);
    client.send(&vote_reply(seq)).await;
    let status = through.asks("haguard-status").await;
    // Our arbiter beside has seen the same client, and knows it by its certificate.
    assert!(status.contains("\"TestCl\"") && status.contains("\"tls\":true"), "{status}");
    assert_eq!(through.stop().await.differences, 0);
}

/// The certificate that the stock daemon is shown names the cluster that the client has proven to
/// be, not the one that it says: this daemon can sign for every cluster.
#[tokio::test]
async fn a_client_with_the_certificate_of_another_cluster_is_closed() {
    let site = Site::new();
    let Some((_stock, through)) = site.both().await else { return };
    let mut client = secure(&through, &site.client("Other"), "TestCl").await;
    client.send(&init(1, RingId::new(1, 5))).await;
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn plain_text_is_answered_by_the_stock_daemon_where_that_wants_tls() {
    let site = Site::new();
    let Some((_stock, through)) = site.both().await else { return };
    let mut client = Client::connect(through.address).await;
    client.ask(&preinit("TestCl")).await;
    let reply = client.ask(&init(1, RingId::new(1, 5))).await;
    assert_eq!((reply.kind, reply.options.error_code), (MessageType::ServerError, Some(3)));
    assert!(through.asks("haguard-status").await.contains("\"clusters\":{}"));
}
