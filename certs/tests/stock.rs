//! Against the real stock programs: our client with corosync-qnetd, and NSS, the TLS library of
//! corosync-qdevice, with our server. Certificates come from the stock scripts, which run as they
//! are but for the directories in them. Needs the Debian packages corosync-qnetd,
//! corosync-qdevice, libnss3-tools and openssl; without them the tests say so and pass, except
//! where the environment has CI=true.

#![expect(clippy::unwrap_used, reason = "a step that fails ends its test")]

mod common;

use std::env;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use certs::issue::{Authority, Key, Kind, Serial, Subject, Validity};
use certs::{AcceptError, ArbiterClient, ArbiterTls, ClientCert, ConnectError, Credential, Trust};
use certs::{CertificateDer, files, material};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command as AsyncCommand};
use tokio::time::{interval, timeout};

use crate::common::{Directory, now};

const PATIENCE: Duration = Duration::from_secs(30);
const CLUSTER: &str = "TestCl";

const QNETD: &str = "/usr/bin/corosync-qnetd";
const QNETD_CERTUTIL: &str = "/usr/bin/corosync-qnetd-certutil";
const NODE_CERTUTIL: &str = "/usr/sbin/corosync-qdevice-net-certutil";
const NSS_CLIENT: &str = "/usr/bin/tstclnt";
const PK12UTIL: &str = "/usr/bin/pk12util";
const OPENSSL: &str = "/usr/bin/openssl";

/// Whether the stock programs are here; where not, says which is missing.
#[expect(clippy::print_stderr, reason = "a test that could not run must not look as if it had")]
fn stock_is_missing() -> bool {
    let needed = [QNETD, QNETD_CERTUTIL, NODE_CERTUTIL, NSS_CLIENT, PK12UTIL, OPENSSL];
    let Some(missing) = needed.iter().find(|program| !Path::new(program).exists()) else {
        return false;
    };
    assert!(
        env::var("CI").as_deref() != Ok("true"),
        "{missing} is missing: install corosync-qnetd corosync-qdevice libnss3-tools openssl"
    );
    eprintln!(
        "not run, {missing} is missing: install corosync-qnetd corosync-qdevice libnss3-tools \
         openssl"
    );
    true
}

/// Runs a program to its end and returns what it printed.
fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {printed}{complained}");
    printed
}

/// A stock script with one of its directories moved.
fn moved(script: &str, variable: &str, to: &Path) -> PathBuf {
    let text = fs::read_to_string(script).unwrap();
    let line = format!("{variable}=");
    let replaced = text.lines().map(|known| match known.starts_with(&line) {
        true => format!("{line}\"{}\"", to.display()),
        false => known.to_owned(),
    });
    let text = replaced.collect::<Vec<_>>().join("\n");
    assert!(text.contains(&format!("{line}\"{}\"", to.display())), "{script} has no {variable}");
    fs::create_dir_all(to).unwrap();
    let copy = to.join("script.sh");
    fs::write(&copy, text).unwrap();
    copy
}

fn bash(script: &Path) -> Command {
    let mut command = Command::new("bash");
    command.arg(script);
    command
}

/// A stock arbiter's directory, made by corosync-qnetd-certutil.
struct StockAuthority {
    directory: Directory,
    script: PathBuf,
}

impl StockAuthority {
    fn new() -> Self {
        let directory = Directory::new();
        let script = moved(QNETD_CERTUTIL, "CONFIG_DIR", &directory.join("qnetd"));
        run(bash(&script).arg("-i").arg("-G"));
        Self { directory, script }
    }

    fn database(&self) -> PathBuf {
        self.directory.join("qnetd/nssdb")
    }

    fn trust(&self) -> Trust {
        files::load_trust(&self.database().join("qnetd-cacert.crt")).unwrap()
    }

    /// What the stock script makes of our request.
    fn credential(&self, cluster: &str) -> Credential {
        let key = Key::generate().unwrap();
        let request = self.directory.join("request.crq");
        fs::write(&request, key.request(&Subject::Cluster(cluster.into())).unwrap()).unwrap();
        run(bash(&self.script).arg("-s").arg("-c").arg(&request).args(["-n", cluster]));
        let signed = fs::read(self.database().join(format!("cluster-{cluster}.crt"))).unwrap();
        let chain = material::certificates_to_pem(&[CertificateDer::from(signed)]);
        Credential::from_pem(chain.as_bytes(), key.to_pem().as_bytes()).unwrap()
    }

    /// The stock arbiter's own certificate and key, out of its database.
    fn server(&self) -> Credential {
        let bundle = self.directory.join("server.p12");
        let mut export = Command::new(PK12UTIL);
        export.arg("-o").arg(&bundle).args(["-n", "QNetd Cert", "-W", "", "-d"]);
        run(export.arg(self.database()));
        let mut convert = Command::new(OPENSSL);
        convert.args(["pkcs12", "-nodes", "-passin", "pass:", "-in"]);
        let text = run(convert.arg(&bundle));
        // The bundle also holds the CA; the leaf is the one that goes with the key.
        let all = material::certificates(text.as_bytes()).unwrap();
        let fitting = all.into_iter().find_map(|leaf| {
            let key = material::private_key(text.as_bytes()).unwrap();
            Credential::new(vec![leaf], key).ok()
        });
        fitting.unwrap()
    }
}

/// A stock node's directory, made by corosync-qdevice-net-certutil, with a key that NSS made.
struct StockNode {
    directory: Directory,
}

impl StockNode {
    /// Trusts `trusted`, and has a certificate that `authority` signed, if there is one.
    fn new(trusted: &Authority, authority: Option<&Authority>) -> Self {
        let directory = Directory::new();
        let script = moved(NODE_CERTUTIL, "BASE_DIR", &directory.join("net"));
        let ca = directory.join("ca.crt");
        fs::write(&ca, trusted.certificate_pem()).unwrap();
        run(bash(&script).arg("-i").arg("-c").arg(&ca));
        run(bash(&script).args(["-r", "-n", CLUSTER]));
        let node = Self { directory };
        let Some(authority) = authority else { return node };
        let request = fs::read(node.database().join("qdevice-net-node.crq")).unwrap();
        let subject = Subject::Cluster(CLUSTER.into());
        let validity = Validity::starting(now());
        let signed = authority.sign_request(&request, &subject, Serial(103), validity).unwrap();
        let certificate = node.directory.join("cluster.crt");
        fs::write(&certificate, &signed).unwrap();
        run(bash(&script).arg("-M").arg("-c").arg(&certificate));
        node
    }

    fn database(&self) -> PathBuf {
        self.directory.join("net/nssdb")
    }

    /// Starts an NSS client that sends "ask" and prints what it hears.
    fn call(&self, address: SocketAddr, versions: &str, nickname: Option<&str>) -> Child {
        let ask = self.directory.join("ask");
        fs::write(&ask, "ask").unwrap();
        let mut client = AsyncCommand::new(NSS_CLIENT);
        client.args(["-h", "127.0.0.1", "-p", &address.port().to_string(), "-4", "-f"]);
        // The server name that corosync-qdevice sends and compares.
        client.args(["-a", "Qnetd Server", "-V", versions, "-w", "", "-A"]);
        client.arg(ask).arg("-d").arg(self.database());
        if let Some(nickname) = nickname {
            client.args(["-n", nickname]);
        }
        client.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        client.kill_on_drop(true).spawn().unwrap()
    }
}

fn authority(kind: Kind) -> Authority {
    Authority::create(kind, Serial(101), Validity::starting(now())).unwrap()
}

fn rsa_authority() -> (Authority, Credential) {
    let key = || Key::from_pem(include_bytes!("data/rsa-2048-key.pem")).unwrap();
    let validity = Validity::starting(now());
    let authority = Authority::create_with_key(Kind::Stock, key(), Serial(101), validity).unwrap();
    let server = authority.issue_for_key(&key(), &Subject::Server, Serial(102), validity).unwrap();
    let server = Credential::from_pem(server.chain_pem.as_bytes(), server.key_pem.as_bytes());
    (authority, server.unwrap())
}

fn server_of(authority: &Authority) -> Credential {
    let issued = authority.issue(&Subject::Server, Serial(102), Validity::starting(now())).unwrap();
    Credential::from_pem(issued.chain_pem.as_bytes(), issued.key_pem.as_bytes()).unwrap()
}

fn trust_of(authority: &Authority) -> Trust {
    Trust::new(vec![authority.certificate().clone()]).unwrap()
}

/// Lets `node` call an arbiter with these settings: what the arbiter says, and whether the
/// client printed the answer.
async fn nss_call(
    arbiter: &ArbiterTls,
    node: &StockNode,
    versions: &str,
    nickname: Option<&str>,
) -> (Result<(String, &'static str), AcceptError>, bool) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let client = node.call(listener.local_addr().unwrap(), versions, nickname);
    let serve = async {
        // The client probes whether the port is open before it really connects.
        let mut outcome = Err(AcceptError::Closed);
        for _ in 0..2 {
            let (socket, _) = listener.accept().await.unwrap();
            let accepted = arbiter.accept(socket, Vec::new(), PATIENCE).await;
            let mut stream = match accepted {
                Ok(stream) => stream,
                Err(AcceptError::Closed) => continue,
                Err(refusal) => {
                    outcome = Err(refusal);
                    break;
                }
            };
            let mut heard = [0; 3];
            stream.read_exact(&mut heard).await.unwrap();
            assert_eq!(&heard, b"ask");
            stream.write_all(b"answer").await.unwrap();
            stream.shutdown().await.unwrap();
            let name = stream.peer().map(|peer| peer.cluster.to_string());
            outcome = Ok((name.unwrap_or_default(), stream.version()));
            break;
        }
        outcome
    };
    let outcome = timeout(PATIENCE, serve).await.unwrap();
    drop(listener);
    let printed = timeout(PATIENCE, client.wait_with_output()).await.unwrap().unwrap();
    (outcome, printed.stdout.windows(6).any(|window| window == b"answer"))
}

#[tokio::test]
async fn nss_accepts_our_authorities_and_shows_what_they_signed() {
    if stock_is_missing() {
        return;
    }
    let (rsa, rsa_server) = rsa_authority();
    let (own, stock) = (authority(Kind::Own), authority(Kind::Stock));
    let (own_server, stock_server) = (server_of(&own), server_of(&stock));
    for (authority, server) in [(own, own_server), (stock, stock_server), (rsa, rsa_server)] {
        let node = StockNode::new(&authority, Some(&authority));
        let arbiter = ArbiterTls::new(&trust_of(&authority), &server, ClientCert::Required);
        let arbiter = arbiter.unwrap();
        for (versions, version) in [("tls1.3:tls1.3", "TLSv1.3"), ("tls1.2:tls1.2", "TLSv1.2")] {
            let (outcome, answered) =
                nss_call(&arbiter, &node, versions, Some("Cluster Cert")).await;
            assert_eq!(outcome.unwrap(), (CLUSTER.to_owned(), version));
            assert!(answered, "{:?} {version}", authority.kind());
        }
    }
}

#[tokio::test]
async fn nss_without_a_certificate_or_with_a_foreign_one_is_refused() {
    if stock_is_missing() {
        return;
    }
    let (authority, foreign) = (authority(Kind::Stock), authority(Kind::Stock));
    let arbiter =
        ArbiterTls::new(&trust_of(&authority), &server_of(&authority), ClientCert::Required);
    let arbiter = arbiter.unwrap();
    let nobody = StockNode::new(&authority, None);
    let stranger = StockNode::new(&authority, Some(&foreign));
    for versions in ["tls1.3:tls1.3", "tls1.2:tls1.2"] {
        let (outcome, answered) = nss_call(&arbiter, &nobody, versions, None).await;
        assert!(matches!(outcome, Err(AcceptError::NoCertificate)), "{outcome:?}");
        assert!(!answered);
        let (outcome, answered) =
            nss_call(&arbiter, &stranger, versions, Some("Cluster Cert")).await;
        assert!(matches!(outcome, Err(AcceptError::Certificate(_))), "{outcome:?}");
        assert!(!answered);
    }
}

#[tokio::test]
async fn nss_refuses_an_arbiter_of_another_authority_and_we_say_so() {
    if stock_is_missing() {
        return;
    }
    let (known, other) = (authority(Kind::Stock), authority(Kind::Stock));
    let node = StockNode::new(&known, Some(&known));
    let arbiter = ArbiterTls::new(&trust_of(&known), &server_of(&other), ClientCert::Required);
    let (outcome, answered) =
        nss_call(&arbiter.unwrap(), &node, "tls1.2:tls1.3", Some("Cluster Cert")).await;
    assert!(matches!(outcome, Err(AcceptError::ByClient(_))), "{outcome:?}");
    assert!(!answered);
}

#[tokio::test]
async fn a_stock_arbiters_own_certificate_serves_in_our_arbiter() {
    if stock_is_missing() {
        return;
    }
    let stock = StockAuthority::new();
    let arbiter = ArbiterTls::new(&stock.trust(), &stock.server(), ClientCert::Required).unwrap();
    let client = ArbiterClient::with_default_name(&stock.trust(), Some(&stock.credential(CLUSTER)));
    let client = client.unwrap();
    let (near, far) = tokio::io::duplex(65536);
    let (server, client) =
        tokio::join!(arbiter.accept(near, Vec::new(), PATIENCE), client.connect(far, PATIENCE));
    assert_eq!(server.unwrap().peer().unwrap().cluster, CLUSTER.into());
    client.unwrap();
}

/// A running corosync-qnetd that insists on TLS and client certificates.
struct StockArbiter {
    daemon: Child,
    address: SocketAddr,
}

impl StockArbiter {
    /// Starts it on a free port. Between finding the port and listening on it another process of
    /// the machine may have taken it; then the daemon ends, and another port is tried.
    async fn start(authority: &StockAuthority) -> Self {
        for _ in 0..5 {
            let free = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let address = free.local_addr().unwrap();
            drop(free);
            let mut daemon = Self::spawn(authority, address);
            let mut again = interval(Duration::from_millis(20));
            let listening = async {
                while daemon.try_wait().unwrap().is_none() {
                    if TcpStream::connect(address).await.is_ok() {
                        return true;
                    }
                    again.tick().await;
                }
                false
            };
            if timeout(PATIENCE, listening).await.unwrap() {
                return Self { daemon, address };
            }
        }
        panic!("corosync-qnetd ended at once, five times");
    }

    fn spawn(authority: &StockAuthority, address: SocketAddr) -> Child {
        let directory = authority.directory.path().display();
        let settings = format!(
            "nss_db_dir={directory}/qnetd/nssdb,lock_file={directory}/pid,\
             local_socket_file={directory}/sock"
        );
        let mut daemon = AsyncCommand::new(QNETD);
        // Without -4: where the machine has no address but loopback it makes the look-up fail.
        daemon.args(["-f", "-s", "req", "-c", "on", "-l", "127.0.0.1", "-p"]);
        daemon.arg(address.port().to_string()).args(["-S", &settings]);
        daemon.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        daemon.kill_on_drop(true).spawn().unwrap()
    }

    /// Connects, names `cluster`, and asks for TLS: the next byte is the handshake's.
    async fn hail(&self, cluster: &str) -> TcpStream {
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        let preinit = message(0, &[(0, &1_u32.to_be_bytes()), (1, cluster.as_bytes())]);
        socket.write_all(&preinit).await.unwrap();
        assert_eq!(receive(&mut socket).await.unwrap().0, 1, "preinit reply");
        socket.write_all(&message(2, &[(0, &2_u32.to_be_bytes())])).await.unwrap();
        socket
    }

    async fn stop(mut self) {
        self.daemon.kill().await.unwrap();
    }
}

/// A message of the qnetd protocol (wire 1.2).
fn message(kind: u16, options: &[(u16, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (option, value) in options {
        body.extend_from_slice(&option.to_be_bytes());
        body.extend_from_slice(&u16::try_from(value.len()).unwrap().to_be_bytes());
        body.extend_from_slice(value);
    }
    let mut message = kind.to_be_bytes().to_vec();
    message.extend_from_slice(&u32::try_from(body.len()).unwrap().to_be_bytes());
    message.extend_from_slice(&body);
    message
}

/// The type and the body of the next message.
async fn receive(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<(u16, Vec<u8>)> {
    let work = async {
        let kind = stream.read_u16().await?;
        let mut body = vec![0; usize::try_from(stream.read_u32().await?).unwrap()];
        stream.read_exact(&mut body).await?;
        Ok((kind, body))
    };
    timeout(PATIENCE, work).await.unwrap()
}

/// An echo request; before Init it is answered with "init required" once the certificate's name
/// has been compared with the cluster's.
fn echo() -> Vec<u8> {
    message(8, &[(0, &3_u32.to_be_bytes())])
}

#[tokio::test]
async fn the_stock_arbiter_lets_our_client_in() {
    if stock_is_missing() {
        return;
    }
    let authority = StockAuthority::new();
    let arbiter = StockArbiter::start(&authority).await;
    let own = authority.credential(CLUSTER);
    let client = ArbiterClient::with_default_name(&authority.trust(), Some(&own)).unwrap();
    let socket = arbiter.hail(CLUSTER).await;
    let mut stream = client.connect(socket, PATIENCE).await.unwrap();
    stream.write_all(&echo()).await.unwrap();
    stream.flush().await.unwrap();
    let (kind, body) = receive(&mut stream).await.unwrap();
    // Server error with option 6, code 11 (wire 1.6).
    assert_eq!(kind, 5);
    assert!(body.windows(6).any(|option| option == [0, 6, 0, 2, 0, 11]), "{body:?}");
    arbiter.stop().await;
}

#[tokio::test]
async fn the_stock_arbiter_closes_when_the_cluster_is_another() {
    if stock_is_missing() {
        return;
    }
    let authority = StockAuthority::new();
    let arbiter = StockArbiter::start(&authority).await;
    let own = authority.credential(CLUSTER);
    let client = ArbiterClient::with_default_name(&authority.trust(), Some(&own)).unwrap();
    let socket = arbiter.hail("other").await;
    let mut stream = client.connect(socket, PATIENCE).await.unwrap();
    stream.write_all(&echo()).await.unwrap();
    stream.flush().await.unwrap();
    assert!(receive(&mut stream).await.is_err());
    arbiter.stop().await;
}

#[tokio::test]
async fn our_client_without_a_certificate_is_refused_by_the_stock_arbiter() {
    if stock_is_missing() {
        return;
    }
    let authority = StockAuthority::new();
    let arbiter = StockArbiter::start(&authority).await;
    let client = ArbiterClient::with_default_name(&authority.trust(), None).unwrap();
    let socket = arbiter.hail(CLUSTER).await;
    // In TLS 1.3 the refusal comes with the first read.
    if let Ok(mut stream) = client.connect(socket, PATIENCE).await {
        stream.write_all(&echo()).await.unwrap();
        assert!(receive(&mut stream).await.is_err());
    }
    arbiter.stop().await;
}

#[tokio::test]
async fn our_client_refuses_a_stock_arbiter_of_another_authority_or_name() {
    if stock_is_missing() {
        return;
    }
    let authority = StockAuthority::new();
    let arbiter = StockArbiter::start(&authority).await;
    let own = authority.credential(CLUSTER);
    let foreign = trust_of(&self::authority(Kind::Stock));
    let client = ArbiterClient::with_default_name(&foreign, Some(&own)).unwrap();
    let refusal = client.connect(arbiter.hail(CLUSTER).await, PATIENCE).await.unwrap_err();
    assert!(matches!(refusal, ConnectError::Certificate(_)), "{refusal:?}");
    let client = ArbiterClient::new(&authority.trust(), Some(&own), "Other Server").unwrap();
    let refusal = client.connect(arbiter.hail(CLUSTER).await, PATIENCE).await.unwrap_err();
    assert!(matches!(refusal, ConnectError::Identity(_)), "{refusal:?}");
    arbiter.stop().await;
}
