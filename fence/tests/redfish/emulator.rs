//! sushy-tools' emulator, with its driver that keeps a state and tells a hook of ours, for which a
//! real process is the machine.

use std::convert::Infallible;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::task::JoinHandle;

use super::bmc::{PATIENCE, USER, UUID};

/// The BMC's PASSWORD as the emulator wants it, by Python's bcrypt.
const BCRYPT: &str = "$2b$04$wKz.J69LgbAo4hn3n0PdruvZ0Pxe/5gEx6N7bNPXXLdL5Qz.MPGi6";

/// One emulator with one system, and the machine.
pub struct Sushy {
    port: u16,
    pin: [u8; 32],
    machine: Arc<Mutex<Machine>>,
    emulator: Machine,
    hook: JoinHandle<()>,
    scratch: Scratch,
}

impl Drop for Sushy {
    fn drop(&mut self) {
        self.hook.abort();
    }
}

impl Sushy {
    /// `None`, and says why, where it cannot be installed.
    pub async fn start(name: &str) -> Option<Self> {
        let program = installed()?;
        let scratch = Scratch::new(name);
        let machine = Arc::new(Mutex::new(Machine(Some(start("sleep", &["1000"])))));
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let hook_port = listener.local_addr().unwrap().port();
        let hook = tokio::spawn(hook(listener, Arc::clone(&machine)));
        let port = free_port();
        let pin = configure(&scratch.0, port, hook_port);
        let log = fs::File::create(scratch.0.join("log")).unwrap();
        let emulator = Command::new(program)
            .args(["--fake", "--config"])
            .arg(scratch.0.join("conf.py"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let emulator = Machine(Some(emulator));
        let up = async {
            while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        };
        let log = || fs::read_to_string(scratch.0.join("log"));
        tokio::time::timeout(PATIENCE, up).await.unwrap_or_else(|_| panic!("{:?}", log()));
        Some(Self { port, pin, machine, emulator, hook, scratch })
    }

    /// Where it listens, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        assert!(self.emulator.0.is_some());
        self.port
    }

    /// The SHA-256 of its certificate.
    pub fn pin(&self) -> [u8; 32] {
        self.pin
    }

    /// Its certificate, PEM.
    pub fn certificate(&self) -> PathBuf {
        self.scratch.0.join("cert.pem")
    }

    /// The process that is the machine, while it has power.
    pub fn machine(&self) -> Option<u32> {
        self.machine.lock().unwrap().0.as_ref().map(Child::id)
    }
}

/// Certificate, password and settings; returns the certificate's SHA-256.
fn configure(directory: &Path, port: u16, hook_port: u16) -> [u8; 32] {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    fs::write(directory.join("cert.pem"), certificate.pem()).unwrap();
    fs::write(directory.join("key.pem"), key.serialize_pem()).unwrap();
    fs::write(directory.join("htpasswd"), format!("{USER}:{BCRYPT}\n")).unwrap();
    fs::create_dir(directory.join("state")).unwrap();
    let here = directory.display();
    let conf = format!(
        "SUSHY_EMULATOR_LISTEN_IP = '127.0.0.1'\n\
         SUSHY_EMULATOR_LISTEN_PORT = {port}\n\
         SUSHY_EMULATOR_SSL_CERT = '{here}/cert.pem'\n\
         SUSHY_EMULATOR_SSL_KEY = '{here}/key.pem'\n\
         SUSHY_EMULATOR_AUTH_FILE = '{here}/htpasswd'\n\
         SUSHY_EMULATOR_STATE_DIR = '{here}/state'\n\
         SUSHY_EMULATOR_FAKE_SYSTEMS = [{{'uuid': '{UUID}', 'name': 'n1', 'power_state': 'On',\n\
         \x20 'external_notifier': True, 'nics': []}}]\n\
         EXTERNAL_NOTIFICATION_URL = 'http://127.0.0.1:{hook_port}'\n"
    );
    fs::write(directory.join("conf.py"), conf).unwrap();
    Sha256::digest(certificate.der()).into()
}

/// Takes the emulator's notices of every change, and makes them true of the machine.
async fn hook(listener: tokio::net::TcpListener, machine: Arc<Mutex<Machine>>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let machine = Arc::clone(&machine);
        let service = service_fn(move |request| changed(request, Arc::clone(&machine)));
        tokio::spawn(async move {
            let server = hyper::server::conn::http1::Builder::new();
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn changed(
    request: Request<Incoming>,
    machine: Arc<Mutex<Machine>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let system: Value = serde_json::from_slice(&body).unwrap();
    // While a change is pending it has only been asked for.
    if system["pending_power"].is_null() {
        let mut machine = machine.lock().unwrap();
        match system["power_state"].as_str() {
            Some("Off") => machine.end(),
            Some("On") if machine.0.is_none() => machine.0 = Some(start("sleep", &["1000"])),
            _ => {}
        }
    }
    Ok(Response::new(Full::default()))
}

/// A process that ends with the value.
struct Machine(Option<Child>);

impl Machine {
    fn end(&mut self) {
        if let Some(mut child) = self.0.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.end();
    }
}

fn start(program: &str, args: &[&str]) -> Child {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

/// The emulator, which is installed below the target directory if it is not there. `test.sh` has
/// done that before, because the tests that it runs have no network.
fn installed() -> Option<PathBuf> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let directory = target.join("tools/sushy");
    let script = format!("{}/tests/redfish/sushy.sh", env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(script).arg(&directory).stdin(Stdio::null()).output().unwrap();
    if output.status.success() {
        return Some(directory.join("bin/sushy-emulator"));
    }
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    let ci = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(!ci, "sushy-tools cannot be installed: {why}");
    #[expect(clippy::print_stderr, reason = "says why a test was left out")]
    {
        eprintln!("left out: sushy-tools cannot be installed: {why}");
    }
    None
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("haguard-sushy-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}
