//! Debian's corosync-qnetd, started by a test for itself.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tokio::net::TcpStream;
use tokio::net::UnixStream;

use super::places::{Place, free_port, soon};

const DAEMON: &str = "/usr/bin/corosync-qnetd";
pub(crate) const TOOL: &str = "/usr/bin/corosync-qnetd-tool";

/// A running stock daemon, ended with the value.
pub(crate) struct Stock {
    pub(crate) address: SocketAddr,
    pub(crate) socket: PathBuf,
    child: Child,
    _place: Place,
}

impl Stock {
    /// Starts it with these flags. `None` where it is not installed; that is a failure under CI.
    #[expect(clippy::print_stdout, reason = "says why nothing was compared")]
    pub(crate) async fn start(flags: &[&str]) -> Option<Self> {
        if !Path::new(DAEMON).exists() {
            assert!(std::env::var_os("CI").is_none(), "{DAEMON} is missing under CI");
            println!("not compared: {DAEMON} is missing; install the package corosync-qnetd");
            return None;
        }
        let place = Place::new();
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let socket = place.join("stock.sock");
        let settings = format!(
            "lock_file={},local_socket_file={},nss_db_dir={}",
            place.text("stock.pid"),
            socket.display(),
            place.text("nss")
        );
        make_database(&place.join("nss"), flags);
        let child = Command::new(DAEMON)
            .args(["-f", "-l", "127.0.0.1", "-p", &address.port().to_string(), "-S", &settings])
            .args(flags)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let stock = Self { address, socket, child, _place: place };
        soon("start of corosync-qnetd", async {
            while TcpStream::connect(address).await.is_err()
                || UnixStream::connect(&stock.socket).await.is_err()
            {
                tokio::task::yield_now().await;
            }
        })
        .await;
        Some(stock)
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// With TLS the daemon needs an NSS database with its certificate (package `libnss3-tools`).
fn make_database(directory: &Path, flags: &[&str]) {
    if flags.windows(2).any(|pair| pair == ["-s", "off"]) {
        return;
    }
    std::fs::create_dir_all(directory).unwrap();
    let noise = directory.join("noise");
    std::fs::write(&noise, [7; 64]).unwrap();
    let certutil = |args: &[&str]| {
        let done = Command::new("certutil")
            .args(args)
            .arg("-d")
            .arg(directory)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    certutil(&["-N", "--empty-password"]);
    let (noise, name) = (noise.to_str().unwrap(), "CN=Qnetd Server");
    certutil(&[
        "-S",
        "-x",
        "-n",
        "QNetd Cert",
        "-s",
        name,
        "-t",
        "CTu,u,u",
        "-z",
        noise,
        "-m",
        "7",
    ]);
}
