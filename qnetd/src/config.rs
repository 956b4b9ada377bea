//! How the arbiter is told what to do: corosync-qnetd's flags to the letter (wire 3.2), our long
//! flags, and a TOML file.
//!
//! Every setting has one name and one place that reads its value, whichever way it comes:
//! `-S heartbeat_interval_min=500`, `heartbeat-interval-min = 500` in the file, and for the stock
//! flags `-p 5403` and `port = 5403`. Flags win over the file, the file over the defaults.
//!
//! Two defaults differ from corosync-qnetd under every name of this program: `-s` is `req`, not
//! `on`, because with `on` anyone who reaches the port can act for any cluster (rule S9); and
//! `listen_backlog` is 1024, not 10.

mod hold;
mod keys;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use host::settings::UsageError;
use host::settings::{self, Given};
use protocol::qnet::{PORT, TlsSupport};

use crate::core;

/// What `-h` prints, after `usage: ` and the program's name.
const USAGE: &str = "\
[-46dfhv] [-l listen_addr] [-p listen_port] [-s tls]
              [-c client_cert_required] [-m max_clients] [-S option=value[,option2=value2,...]]
              [--config file] [--state-dir dir] [--run-dir dir] [--listen addr:port]
              [--tls-ca file] [--tls-cert file] [--tls-key file]
              [--shadow host[:port]] [--shadow-report file] [--tls-ca-key file]
";

/// Connections that may wait to be accepted. The stock daemon's 10 makes a node wait for a second
/// (a lost SYN) as soon as a few others connect at the same time.
const BACKLOG: u32 = 1024;

/// What the arguments ask for.
#[derive(Clone, Debug, PartialEq)]
pub enum Invocation {
    /// `-h`: the usage; the exit code is 1, as the stock daemon's.
    Help,
    /// `-v`: version, algorithms, message types; exit code 1 as well.
    Version,
    /// Run.
    Run(Box<Options>),
}

/// Where corosync-qnetd-certutil keeps its files, also when it is ours.
const STOCK_KEYS: &str = "/etc/corosync/qnetd/nssdb";

/// Which addresses are listened on.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Family {
    /// IPv6 and, on the same socket, IPv4.
    #[default]
    Any,
    /// IPv4 only.
    V4,
    /// An IPv6 socket; the stock daemon's takes IPv4 too, and so does ours.
    V6,
}

/// Where the files go unless said otherwise.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Places {
    /// `/run/haguard`.
    Haguard,
    /// Called as `corosync-qnetd`: lock and socket where its tools and units look for them.
    Stock,
}

/// Every setting of the arbiter's daemon.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// What every daemon is given: the lock, the local socket, notes for the log.
    pub given: Given<Self>,
    /// `--config`.
    pub config_file: Option<PathBuf>,
    /// `-f`: stay in the foreground and log to stderr.
    pub foreground: bool,
    /// `-d`: how often it was given.
    pub debug: u8,
    /// `-4`, `-6`.
    pub family: Family,
    /// `-l`: a name or an address; `None` is every address.
    pub listen_address: Option<String>,
    /// `-p`.
    pub port: u16,
    /// `--listen`: exactly this address and port (0 takes a free one), over `-l` and `-p`.
    pub listen: Option<SocketAddr>,
    /// What the machine needs to know: `-s`, `-c`, `-m`, the limits, vote-hold.
    pub core: core::Settings,
    /// Where identity and grants are kept.
    pub state_dir: PathBuf,
    /// The certificates of the authority that clients' certificates come from.
    pub tls_ca: PathBuf,
    /// The arbiter's certificate chain.
    pub tls_cert: PathBuf,
    /// Its private key.
    pub tls_key: PathBuf,
    /// The three may be made while the daemon runs: pvecm calls corosync-qnetd-certutil on an
    /// arbiter that has been started when it was installed.
    pub awaits_keys: bool,
    /// `--shadow`: the host and port of the stock arbiter to run beside.
    pub shadow: Option<(String, u16)>,
    /// `--shadow-report`: where differences from it are written.
    pub shadow_report: Option<PathBuf>,
    /// `--tls-ca-key`: the key of the authority, for the clients' certificates towards it.
    pub tls_ca_key: Option<PathBuf>,
    run_dir: PathBuf,
    /// Connections that may wait to be accepted.
    pub listen_backlog: u32,
    /// Messages that may wait for one client before it is closed.
    pub max_client_send_buffers: usize,
    /// How long a TLS handshake may take.
    pub handshake_limit: Duration,
}

/// Reads the arguments after the program's name; touches nothing but them. A flag may be given
/// again, then the last one counts; what is no flag is ignored, as by the stock daemon.
///
/// # Errors
/// [`UsageError`], in the words of the stock daemon.
pub fn parse(args: &[String], places: Places) -> Result<Invocation, UsageError> {
    let mut options = Options::new(places);
    match settings::read(&mut options, args)? {
        None => Ok(Invocation::Run(Box::new(options))),
        Some(keys::VERSION) => Ok(Invocation::Version),
        Some(_) => Ok(Invocation::Help),
    }
}

/// The text of `-h`.
pub fn usage(program: &str) -> String {
    format!("usage: {program} {USAGE}")
}

impl Options {
    fn new(places: Places) -> Self {
        let mut given = Given::new(host::local::Settings::new(10 << 20));
        let keys = Path::new(match places {
            Places::Haguard => "/etc/haguard",
            Places::Stock => STOCK_KEYS,
        });
        if places == Places::Stock {
            given.lock_file = Some("/var/run/corosync-qnetd/corosync-qnetd.pid".into());
            given.socket.file = Some(crate::tool::STOCK_SOCKET.into());
        }
        Self {
            given,
            config_file: None,
            foreground: false,
            debug: 0,
            family: Family::Any,
            listen_address: None,
            port: PORT,
            listen: None,
            core: core::Settings::default(),
            state_dir: "/var/lib/haguard/qnetd".into(),
            tls_ca: keys.join("ca.pem"),
            tls_cert: keys.join("arbiter.pem"),
            tls_key: keys.join("arbiter-key.pem"),
            awaits_keys: places == Places::Stock,
            shadow: None,
            shadow_report: None,
            tls_ca_key: None,
            run_dir: "/run/haguard".into(),
            listen_backlog: BACKLOG,
            max_client_send_buffers: 32,
            handshake_limit: Duration::from_secs(8),
        }
    }

    /// The pid file with the lock.
    pub fn lock_file(&self) -> PathBuf {
        self.given.lock_file.clone().unwrap_or_else(|| self.run_dir.join("qnetd.pid"))
    }

    /// The local socket.
    pub fn local_socket_file(&self) -> PathBuf {
        self.given.socket.file.clone().unwrap_or_else(|| self.run_dir.join("qnetd.sock"))
    }

    /// Puts a TOML file under the flags. Its keys are the names of the settings with hyphens or
    /// underscores, at the top level; numbers, words and switches may be written as such. A table
    /// `[cluster."name"]` is about the vote-hold of one cluster.
    ///
    /// # Errors
    /// [`UsageError::File`]: not TOML, an unknown key (the nearest known one is named), a value
    /// out of range.
    pub fn with_file(mut self, path: &Path, text: &str) -> Result<Self, UsageError> {
        let mut table = settings::read_table(path, text)?;
        hold::take_clusters(&mut table, &mut self.core)
            .map_err(|text| UsageError::File { path: path.to_owned(), text })?;
        settings::apply_table(&mut self, path, table)?;
        Ok(self)
    }

    /// Whether plain text is accepted, for status, doctor and the log (rule S9).
    pub fn tls_warning(&self) -> Option<String> {
        match self.core.tls {
            TlsSupport::Required if self.core.client_cert_required => None,
            TlsSupport::Required => Some(
                "clients need no certificate (-c off): anyone who reaches the port can act for \
                 any cluster; use -c on"
                    .to_owned(),
            ),
            TlsSupport::Supported => Some(
                "plain text is accepted (-s on): anyone who reaches the port can act for any \
                 cluster; use -s req"
                    .to_owned(),
            ),
            TlsSupport::Unsupported => Some(
                "tls is off (-s off): anyone who reaches the port can act for any cluster; use \
                 -s req"
                    .to_owned(),
            ),
        }
    }
}
