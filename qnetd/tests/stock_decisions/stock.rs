//! Debian's corosync-qnetd on a port and in a directory of this test alone.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use protocol::qnet::{Deframer, Message, MessageType};

use super::story::{Heard, Side};

const DAEMON: &str = "/usr/bin/corosync-qnetd";

/// The nickname of the database's authority.
const AUTHORITY: &str = "QNet CA";

/// More than the daemon takes for anything on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The sequence numbers of the echoes that show that everything before has been answered.
const MARKS: u32 = 0xe000_0000;

/// A running stock daemon, ended with the value.
pub(crate) struct Stock {
    child: Child,
    directory: PathBuf,
    address: SocketAddr,
    started: Instant,
    lines: BTreeMap<u32, Line>,
    marks: u32,
}

/// One connection.
struct Line {
    stream: TcpStream,
    received: Vec<u8>,
    is_closed: bool,
}

#[expect(clippy::disallowed_methods, reason = "the stock daemon lives in the host's time")]
fn now() -> Instant {
    Instant::now()
}

impl Stock {
    /// Starts it with these flags. `None` where it is not installed; that is a failure under CI.
    #[expect(clippy::print_stdout, reason = "says why nothing was compared")]
    pub(crate) fn start(flags: &[&str]) -> Option<Self> {
        if !Path::new(DAEMON).exists() {
            assert!(std::env::var_os("CI").is_none(), "{DAEMON} is missing under CI");
            println!("not compared: {DAEMON} is missing; install the package corosync-qnetd");
            return None;
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let name = format!("haguard-stock-decisions-{}-{port}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let file = |name: &str| directory.join(name).display().to_string();
        let settings = format!(
            "lock_file={},local_socket_file={},nss_db_dir={}",
            file("lock"),
            file("socket"),
            file("nss")
        );
        if !flags.contains(&"off") {
            make_database(&directory.join("nss"));
        }
        let child = Command::new(DAEMON)
            .args(["-f", "-l", "127.0.0.1", "-p", &port.to_string(), "-S", &settings])
            .args(flags)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let started = now();
        let lines = BTreeMap::new();
        let mut stock = Self { child, directory, address, started, lines, marks: MARKS };
        while TcpStream::connect(address).is_err() {
            assert!(now() - started < PATIENCE, "corosync-qnetd does not listen");
            assert_eq!(stock.child.try_wait().unwrap(), None, "corosync-qnetd has ended");
            std::thread::yield_now();
        }
        Some(stock)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The authority's certificate as PEM.
    pub(crate) fn authority(&self) -> Vec<u8> {
        certutil(&self.directory.join("nss"), &["-L", "-n", AUTHORITY, "-a"])
    }

    /// Has the authority sign a request; returns the certificate.
    pub(crate) fn sign(&self, request: &[u8]) -> Vec<u8> {
        let file = |name: &str| self.directory.join(name).display().to_string();
        let (asked, signed) = (file("request"), file("signed"));
        std::fs::write(&asked, request).unwrap();
        let arguments = ["-C", "-c", AUTHORITY, "-m", "3", "-i", &asked, "-o", &signed];
        certutil(&self.directory.join("nss"), &arguments);
        std::fs::read(signed).unwrap()
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// With TLS the daemon needs an NSS database with its certificate (package `libnss3-tools`), from
/// an authority that signs its clients' too.
fn make_database(database: &Path) {
    std::fs::create_dir_all(database).unwrap();
    let noise = database.join("noise").display().to_string();
    std::fs::write(&noise, [7; 64]).unwrap();
    certutil(database, &["-N", "--empty-password"]);
    let authority = ["-n", AUTHORITY, "-s", "CN=QNet CA", "-x", "-t", "CT,,", "-m", "1"];
    certutil(database, &[&["-S", "-z", &noise], &authority[..]].concat());
    let server = ["-n", "QNetd Cert", "-s", "CN=Qnetd Server", "-c", AUTHORITY, "-t", "u,u,u"];
    certutil(database, &[&["-S", "-z", &noise, "-m", "2"], &server[..]].concat());
}

fn certutil(database: &Path, arguments: &[&str]) -> Vec<u8> {
    let mut command = Command::new("certutil");
    let done = command.args(arguments).arg("-d").arg(database).stdin(Stdio::null()).output();
    let done = done.unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    done.stdout
}

impl Line {
    /// The next message that is there; reads once, and waits for as long as it takes.
    fn receive(&mut self) -> Heard {
        loop {
            let (taken, frame) = Deframer::new(1 << 20).feed(&self.received);
            if let Some(frame) = frame {
                self.received.drain(..taken);
                return Heard::Message(Box::new(Message::decode(&frame.unwrap()).unwrap()));
            }
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(count) if count > 0 => self.received.extend(&bytes[..count]),
                Ok(_) => break,
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
                Err(error) => panic!("no answer of corosync-qnetd in {PATIENCE:?}: {error}"),
            }
        }
        self.is_closed = true;
        Heard::End
    }

    fn send(&mut self, message: &Message) {
        // The daemon may have closed it: that is heard, not said.
        let _ = self.stream.write_all(&message.encode());
    }
}

impl Side for Stock {
    fn name(&self) -> &'static str {
        "stock"
    }

    fn time(&self) -> Duration {
        now() - self.started
    }

    fn connect(&mut self, connection: u32) {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        self.lines.insert(connection, Line { stream, received: Vec::new(), is_closed: false });
    }

    fn send(&mut self, connection: u32, message: &Message) {
        if let Some(line) = self.lines.get_mut(&connection) {
            line.send(message);
        }
    }

    fn close(&mut self, connection: u32) {
        self.lines.remove(&connection);
    }

    /// An echo on every connection: what comes before its reply was caused by what was said
    /// before it.
    fn receive(&mut self) -> Vec<(u32, Heard)> {
        let mut heard = Vec::new();
        for (connection, line) in &mut self.lines {
            self.marks += 1;
            line.send(&Message::new(MessageType::EchoRequest, Some(self.marks)));
            loop {
                match line.receive() {
                    Heard::Message(message) if message.options.seq == Some(self.marks) => break,
                    message @ Heard::Message(_) => heard.push((*connection, message)),
                    Heard::End => {
                        heard.push((*connection, Heard::End));
                        break;
                    }
                }
            }
        }
        self.lines.retain(|_, line| !line.is_closed);
        heard
    }

    fn wait(&mut self, at_most: Duration) {
        let lines = self.lines.values();
        let mut readable: Vec<PollFd> =
            lines.map(|line| PollFd::new(line.stream.as_fd(), PollFlags::POLLIN)).collect();
        poll(&mut readable, PollTimeout::try_from(at_most).unwrap()).unwrap();
    }
}
