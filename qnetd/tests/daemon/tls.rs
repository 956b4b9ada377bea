//! TLS end to end: certificates from files, StartTLS, the vote.

use std::path::Path;
use std::time::SystemTime;

use certs::issue::{Authority, Kind, Serial, Subject, Validity};
use certs::{ArbiterClient, Credential, Trust};
use protocol::ids::RingId;
use protocol::qnet::{Message, MessageType, TlsSupport};
use protocol::status::ArbiterStatus;
use protocol::vote::Vote;
use qnetd::daemon::{Order, check, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::arbiter::{Arbiter, options};
use super::client::{Client, config_list, echo, greet, init, membership_list, preinit, vote_reply};
use super::local::ask;
use super::places::{PATIENCE, Place, soon};

pub(crate) type Secure = Client<certs::tls::ClientStream<TcpStream>>;

#[expect(clippy::disallowed_methods, reason = "tls libraries compare with the system clock")]
fn validity() -> Validity {
    Validity::starting(SystemTime::now())
}

/// An authority with a server's certificate in files.
pub(crate) struct Site {
    authority: Authority,
}

impl Site {
    pub(crate) fn new() -> Self {
        let authority = Authority::create(Kind::Stock, Serial(101), validity()).unwrap();
        Self { authority }
    }

    /// Writes the three files and returns the flags that name them.
    pub(crate) fn install(&self, directory: &Path) -> String {
        let server = self.authority.issue(&Subject::Server, Serial(102), validity()).unwrap();
        let file = |name: &str| directory.join(name);
        std::fs::write(file("ca.pem"), self.authority.certificate_pem()).unwrap();
        std::fs::write(file("server.pem"), &server.chain_pem).unwrap();
        std::fs::write(file("server-key.pem"), &server.key_pem).unwrap();
        let flag = |flag: &str, name: &str| format!("--tls-{flag} {} ", file(name).display());
        flag("ca", "ca.pem") + &flag("cert", "server.pem") + &flag("key", "server-key.pem")
    }

    pub(crate) fn trust(&self) -> Trust {
        Trust::from_pem(self.authority.certificate_pem().as_bytes()).unwrap()
    }

    pub(crate) fn client(&self, cluster: &str) -> ArbiterClient {
        self.peer(&Subject::Cluster(cluster.to_owned()))
    }

    pub(crate) fn gateway(&self, cluster: &str) -> ArbiterClient {
        self.peer(&Subject::Gateway(cluster.to_owned()))
    }

    fn peer(&self, subject: &Subject) -> ArbiterClient {
        let issued = self.authority.issue(subject, Serial(103), validity()).unwrap();
        let own = Credential::from_pem(issued.chain_pem.as_bytes(), issued.key_pem.as_bytes());
        ArbiterClient::with_default_name(&self.trust(), Some(&own.unwrap())).unwrap()
    }
}

pub(crate) fn start_tls() -> Message {
    Message::new(MessageType::StartTls, Some(2))
}

/// Preinit, StartTLS and the handshake.
pub(crate) async fn secure(
    arbiter: &Arbiter,
    tls: &ArbiterClient,
    cluster: &str,
) -> Option<Secure> {
    let mut client = Client::connect(arbiter.address).await;
    let reply = client.ask(&preinit(cluster)).await;
    assert_eq!(reply.options.tls_supported, Some(TlsSupport::Required));
    client.send(&start_tls()).await;
    Some(Client::over(tls.connect(client.stream, PATIENCE).await.ok()?))
}

#[tokio::test]
async fn a_node_with_the_clusters_certificate_gets_the_vote_over_tls() {
    let (place, site) = (Place::new(), Site::new());
    let arbiter = Arbiter::start(&site.install(place.path())).await;
    let mut client = secure(&arbiter, &site.client("TestCl"), "TestCl").await.unwrap();
    let ring = RingId::new(1, 5);
    let reply = client.ask(&init(1, ring)).await;
    assert_eq!(reply.options.error_code, Some(0));
    client.ask(&config_list(3, &[1])).await;
    client.send(&membership_list(4, ring, &[1])).await;
    let (seq, vote) = client.vote().await;
    assert_eq!(vote, Vote::Ack);
    client.send(&vote_reply(seq)).await;
    assert_eq!(client.ask(&echo(7)).await.options.seq, Some(7));
    arbiter.stop().await.unwrap();
    // Said goodbye to, not cut off.
    let end = soon("end", client.stream.read(&mut [0; 9])).await;
    assert_eq!(end.unwrap(), 0);
}

#[tokio::test]
async fn garbage_instead_of_a_handshake_ends_its_connection_only() {
    let (place, site) = (Place::new(), Site::new());
    let arbiter = Arbiter::start(&site.install(place.path())).await;
    let mut good = secure(&arbiter, &site.client("TestCl"), "TestCl").await.unwrap();
    good.ask(&init(1, RingId::new(1, 5))).await;
    let mut bad = Client::connect(arbiter.address).await;
    bad.ask(&preinit("TestCl")).await;
    bad.send(&start_tls()).await;
    // The connection may be gone in the middle of it.
    let _ = bad.stream.write_all(&[0xa5; 40_000]).await;
    // What comes before the end is an alert, which is no message.
    let ended = async { while bad.stream.read(&mut [0; 99]).await.is_ok_and(|count| count > 0) {} };
    soon("end", ended).await;
    assert_eq!(good.ask(&echo(1)).await.options.seq, Some(1));
}

#[tokio::test]
async fn start_tls_and_the_handshake_may_come_in_one_piece() {
    use tokio::io::BufWriter;
    let (place, site) = (Place::new(), Site::new());
    let arbiter = Arbiter::start(&site.install(place.path())).await;
    let socket = soon("connection", TcpStream::connect(arbiter.address)).await.unwrap();
    // Everything up to the client's first flight leaves in one write.
    let mut buffered = BufWriter::new(socket);
    buffered.write_all(&preinit("TestCl").encode()).await.unwrap();
    buffered.write_all(&start_tls().encode()).await.unwrap();
    let skip = SkipFirst { inner: buffered, message: preinit_reply_bytes() };
    let stream = site.client("TestCl").connect(skip, PATIENCE).await.unwrap();
    let mut client = Client::over(stream);
    assert_eq!(client.ask(&init(1, RingId::new(1, 5))).await.options.error_code, Some(0));
}

fn preinit_reply_bytes() -> usize {
    let mut reply = Message::new(MessageType::PreinitReply, Some(1));
    reply.options.tls_supported = Some(TlsSupport::Required);
    reply.options.tls_client_cert_required = Some(1);
    reply.encode().len()
}

/// Drops the plain text answer that comes before the handshake.
struct SkipFirst {
    inner: tokio::io::BufWriter<TcpStream>,
    message: usize,
}

impl tokio::io::AsyncRead for SkipFirst {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        while self.message > 0 {
            let mut bytes = vec![0; self.message];
            let mut skipped = tokio::io::ReadBuf::new(&mut bytes);
            let inner = std::pin::Pin::new(&mut self.inner);
            std::task::ready!(inner.poll_read(cx, &mut skipped))?;
            let count = skipped.filled().len();
            if count == 0 {
                return std::task::Poll::Ready(Ok(()));
            }
            self.message -= count;
        }
        std::pin::Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl tokio::io::AsyncWrite for SkipFirst {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::pin::Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn a_certificate_of_another_cluster_is_closed_without_a_word() {
    let (place, site) = (Place::new(), Site::new());
    let arbiter = Arbiter::start(&site.install(place.path())).await;
    let mut client = secure(&arbiter, &site.client("Other"), "TestCl").await.unwrap();
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn a_certificate_of_another_authority_ends_the_handshake() {
    let (place, site) = (Place::new(), Site::new());
    let arbiter = Arbiter::start(&site.install(place.path())).await;
    let stranger = Site::new();
    let subject = Subject::Cluster("TestCl".to_owned());
    let issued = stranger.authority.issue(&subject, Serial(9), validity()).unwrap();
    let own = Credential::from_pem(issued.chain_pem.as_bytes(), issued.key_pem.as_bytes());
    let tls = ArbiterClient::with_default_name(&site.trust(), Some(&own.unwrap())).unwrap();
    // In TLS 1.3 the client is done before the server has judged it.
    if let Some(mut client) = secure(&arbiter, &tls, "TestCl").await {
        assert!(client.is_closed().await);
    }
}

#[tokio::test]
async fn plain_text_is_answered_with_tls_required_and_has_no_effect() {
    let (place, site) = (Place::new(), Site::new());
    let arbiter = Arbiter::start(&site.install(place.path())).await;
    let mut client = Client::connect(arbiter.address).await;
    client.ask(&preinit("TestCl")).await;
    let reply = client.ask(&init(1, RingId::new(1, 5))).await;
    assert_eq!((reply.kind, reply.options.error_code), (MessageType::ServerError, Some(3)));
}

#[tokio::test]
async fn a_reload_changes_the_certificates_of_new_connections_only() {
    let (place, old, new) = (Place::new(), Site::new(), Site::new());
    let arbiter = Arbiter::start(&old.install(place.path())).await;
    let mut before = secure(&arbiter, &old.client("TestCl"), "TestCl").await.unwrap();
    before.ask(&init(1, RingId::new(1, 5))).await;
    new.install(place.path());
    arbiter.orders.send(Order::Reload).await.unwrap();
    let tls = new.client("TestCl");
    // The reload happens at the daemon's pace.
    let mut after = soon("reload", async {
        loop {
            if let Some(client) = secure(&arbiter, &tls, "TestCl").await {
                break client;
            }
        }
    })
    .await;
    after.ask(&init(2, RingId::new(1, 5))).await;
    assert_eq!(before.ask(&echo(1)).await.options.seq, Some(1));
}

/// Asks for a reload of files that cannot be used, and returns what the status says of it.
async fn refused_reload(arbiter: &Arbiter) -> String {
    arbiter.orders.send(Order::Reload).await.unwrap();
    // The reload happens at the daemon's pace.
    soon("word of the reload", async {
        loop {
            let answer = ask(&arbiter.socket(), "haguard-status\n").await;
            let json = answer.strip_prefix("OK\n").unwrap();
            let status: ArbiterStatus = serde_json::from_str(json).unwrap();
            let mut warnings = status.warnings.into_iter();
            if let Some(warning) = warnings.find(|warning| warning.starts_with("certificates")) {
                return warning;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_reload_of_files_that_cannot_be_used_keeps_the_old_ones_and_says_so() {
    let (place, site) = (Place::new(), Site::new());
    let arbiter = Arbiter::start(&site.install(place.path())).await;
    let tls = site.client("TestCl");
    std::fs::write(place.join("server.pem"), "no certificate").unwrap();
    let said = refused_reload(&arbiter).await;
    assert!(said.starts_with("certificates not read again, the old ones stay: "), "{said}");
    assert!(said.contains("server.pem: has no certificate") && !said.contains('\n'), "{said}");
    assert!(secure(&arbiter, &tls, "TestCl").await.is_some());

    // Another authority's certificate beside ours.
    Site::new().install(place.path());
    std::fs::write(place.join("ca.pem"), site.authority.certificate_pem()).unwrap();
    arbiter.orders.send(Order::Reload).await.unwrap();
    soon("word of the foreign certificate", async {
        while !refused_reload(&arbiter).await.contains("server.pem: was issued by another") {}
    })
    .await;
    assert!(secure(&arbiter, &tls, "TestCl").await.is_some());

    // Files in order end the warning.
    site.install(place.path());
    arbiter.orders.send(Order::Reload).await.unwrap();
    soon("end of the warning", async {
        while ask(&arbiter.socket(), "haguard-status\n").await.contains("not read again") {}
    })
    .await;
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused_at_the_start() {
    let (place, site) = (Place::new(), Site::new());
    let flags = Site::new().install(place.path());
    std::fs::write(place.join("ca.pem"), site.authority.certificate_pem()).unwrap();
    let options = options(&place, &flags);
    let expected = format!(
        "{}: was issued by another authority: issue it again, by the authority whose certificate \
         is in {}",
        place.text("server.pem"),
        place.text("ca.pem")
    );
    assert_eq!(format!("{:#}", check(&options).unwrap_err()), expected);
    let (orders, received) = tokio::sync::mpsc::channel(1);
    let refused = soon("refusal", serve(options, (orders, received), None)).await;
    assert_eq!(format!("{:#}", refused.unwrap_err()), expected);
}

#[tokio::test]
async fn a_client_that_never_shakes_hands_is_closed_after_the_limit() {
    let (place, site) = (Place::new(), Site::new());
    let flags = site.install(place.path()) + "-S handshake_limit=50ms";
    let arbiter = Arbiter::start(&flags).await;
    let mut client = Client::connect(arbiter.address).await;
    client.ask(&preinit("TestCl")).await;
    client.send(&start_tls()).await;
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn a_plain_client_of_an_arbiter_that_offers_tls_is_served() {
    let (place, site) = (Place::new(), Site::new());
    let arbiter = Arbiter::start(&(site.install(place.path()) + "-s on")).await;
    let mut client = Client::connect(arbiter.address).await;
    greet(&mut client, "TestCl", 1, RingId::new(1, 5)).await;
}
