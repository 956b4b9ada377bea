//! How the device is told what to do: corosync-qdevice's flags to the letter (wire 3.3), our long
//! flags, and a TOML file.
//!
//! Every setting has one name and one line that reads its value, whichever way it comes:
//! `-S heuristics_max_execs=8` or `heuristics-max-execs = 8` in the file, `--run-dir D` or
//! `run-dir = "D"`. Flags win over the file, the file over the defaults. What the cluster's
//! configuration says of the device comes from the node and is not repeated here.
//!
//! One default differs from corosync-qdevice: `net_max_send_buffers` is 64, not 10. A renewal is
//! sent every 250 ms, so 10 would fill in a stall that a lease survives.

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

pub use host::settings::UsageError;
use host::settings::value::{number, path, switch};
use host::settings::{self, Given, INT_MAX, Setting, Switch};
use protocol::qnet::{HostKind, MESSAGE_LIMIT_BYTES};

use crate::heuristics;
use crate::resolve::Target;

/// What `-h` prints, after `usage: ` and the program's name; the first line is the stock one.
const USAGE: &str = "\
[-dfh] [-S option=value[,option2=value2,...]]
              [--config file] [--state-dir dir] [--run-dir dir] [--arbiter host:port]
              [--host node|corosync]
              [--tls-ca file] [--tls-cert file] [--tls-key file]
";

/// The stock device's lock (wire 3.3).
pub(crate) const STOCK_LOCK: &str = "/var/run/corosync-qdevice/corosync-qdevice.pid";

/// What the arguments ask for.
#[derive(Clone, Debug, PartialEq)]
pub enum Invocation {
    /// `-h`: the usage; the exit code is 1, as the stock daemon's.
    Help,
    /// Run.
    Run(Box<Options>),
}

/// Where the files go unless said otherwise.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Places {
    /// `/run/haguard`.
    Haguard,
    /// Called as `corosync-qdevice`: lock and socket where its tools and units look for them, and
    /// corosync as the host.
    Stock,
}

/// Every setting of the device's daemon.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// What every daemon is given: the lock, the local socket, notes for the log.
    pub given: Given<Self>,
    /// A path of a certificate or key was given, so the files have to be there at the start.
    pub tls_given: bool,
    /// `--config`.
    pub config_file: Option<PathBuf>,
    /// `-f`: stay in the foreground and log to stderr.
    pub foreground: bool,
    /// `-d`: how often it was given.
    pub debug: u8,
    /// `--host`: who counts the vote, our node or corosync.
    pub host: HostKind,
    /// `--arbiter`: dialled instead of net.host and net.port, for hosts behind NAT.
    pub arbiter: Option<Target>,
    /// Where the arbiter's identity is kept. It must exist.
    pub state_dir: PathBuf,
    /// Where the node's socket is, and our own files. It must exist.
    pub run_dir: PathBuf,
    /// The certificates of the authority that the arbiter's certificate comes from, PEM.
    pub tls_ca: PathBuf,
    /// The cluster's or this node's certificate, PEM.
    pub tls_cert: PathBuf,
    /// Its private key, PEM.
    pub tls_key: PathBuf,
    /// The name that the device registers with.
    pub device_name: String,
    /// How the heuristics commands are run.
    pub heuristics: heuristics::Limits,
    /// What the cluster's configuration may ask for, in milliseconds.
    pub ranges: Ranges,
    /// Longest message of the arbiter before its Init reply, in bytes.
    pub initial_receive_bytes: u32,
    /// Longest message to the arbiter before its Init reply, in bytes.
    pub initial_send_bytes: u32,
    /// An arbiter that takes less is remarked on, in bytes.
    pub min_send_bytes: u32,
    /// Longest message of the arbiter whatever it says, in bytes.
    pub max_receive_bytes: u32,
    /// Messages that may wait for the arbiter before the connection is given up.
    pub max_send_buffers: usize,
    /// The common name of the arbiter's certificate.
    pub server_name: String,
    /// net.algorithm may be `test`, which gives everyone a vote.
    pub test_algorithm: bool,
}

/// Least and most of times in the cluster's configuration, in milliseconds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ranges {
    /// The heartbeat that follows from quorum.device.timeout.
    pub heartbeat_ms: (u32, u32),
    /// net.connect_timeout.
    pub connect_ms: (u32, u32),
    /// heuristics.timeout and sync_timeout.
    pub heuristics_timeout_ms: (u32, u32),
    /// heuristics.interval.
    pub heuristics_interval_ms: (u32, u32),
}

impl Default for Options {
    /// What [`Places::Haguard`] begins with.
    fn default() -> Self {
        Self {
            given: Given::new(host::local::Settings::new(65536)),
            tls_given: false,
            config_file: None,
            foreground: false,
            debug: 0,
            host: HostKind::Builtin,
            arbiter: None,
            state_dir: "/var/lib/haguard/qdevice".into(),
            run_dir: "/run/haguard".into(),
            tls_ca: "/etc/haguard/ca.pem".into(),
            tls_cert: "/etc/haguard/node.pem".into(),
            tls_key: "/etc/haguard/node-key.pem".into(),
            device_name: "Qdevice".to_owned(),
            heuristics: heuristics::Limits::default(),
            ranges: Ranges {
                heartbeat_ms: (1000, 120_000),
                connect_ms: (1000, 120_000),
                heuristics_timeout_ms: (1000, 120_000),
                heuristics_interval_ms: (1000, 3_600_000),
            },
            initial_receive_bytes: MESSAGE_LIMIT_BYTES,
            initial_send_bytes: MESSAGE_LIMIT_BYTES,
            min_send_bytes: MESSAGE_LIMIT_BYTES,
            max_receive_bytes: 16 << 20,
            max_send_buffers: 64,
            server_name: protocol::qnet::SERVER_NAME.to_owned(),
            test_algorithm: false,
        }
    }
}

/// Reads the arguments after the program's name; touches nothing but them. A flag may be given
/// again, then the last one counts; what is no flag is ignored, as by the stock daemon.
///
/// # Errors
/// [`UsageError`], in the words of the stock daemon.
pub fn parse(args: &[String], places: Places) -> Result<Invocation, UsageError> {
    let mut options = Options::default();
    if places == Places::Stock {
        options.host = HostKind::Corosync;
        options.keys_in(Path::new("/etc/corosync/qdevice/net/nssdb"));
        options.given.lock_file = Some(STOCK_LOCK.into());
        options.given.socket.file = Some(crate::tool::STOCK_SOCKET.into());
    }
    match settings::read(&mut options, args)? {
        None => Ok(Invocation::Run(Box::new(options))),
        Some(_) => Ok(Invocation::Help),
    }
}

/// The text of `-h`.
pub fn usage(program: &str) -> String {
    format!("usage: {program} {USAGE}")
}

impl Options {
    /// Takes the three files of a directory of corosync-qdevice-net-certutil, when it is ours.
    fn keys_in(&mut self, directory: &Path) {
        self.tls_ca = directory.join("ca.pem");
        self.tls_cert = directory.join("node.pem");
        self.tls_key = directory.join("node-key.pem");
    }

    /// Something of ours is in the run directory. The stock name has its own places, and its unit
    /// makes only those.
    pub fn uses_run_dir(&self) -> bool {
        let placed = self.given.lock_file.is_some() && self.given.socket.file.is_some();
        self.host == HostKind::Builtin || !placed
    }

    /// The pid file with the lock.
    pub fn lock_file(&self) -> PathBuf {
        self.given.lock_file.clone().unwrap_or_else(|| self.run_dir.join("qdevice.pid"))
    }

    /// The local socket.
    pub fn local_socket_file(&self) -> PathBuf {
        self.given.socket.file.clone().unwrap_or_else(|| self.run_dir.join("qdevice.sock"))
    }

    /// The node's socket.
    pub fn node_socket_file(&self) -> PathBuf {
        self.run_dir.join("device.sock")
    }

    /// Puts a TOML file under the flags. Its keys are the names of the settings with hyphens or
    /// underscores, at the top level; numbers, words and switches may be written as such.
    ///
    /// # Errors
    /// [`UsageError::File`]: not TOML, an unknown key (the nearest known one is named), a value
    /// out of range.
    pub fn with_file(mut self, path: &Path, text: &str) -> Result<Self, UsageError> {
        let table = settings::read_table(path, text)?;
        settings::apply_table(&mut self, path, table)?;
        Ok(self)
    }
}

const GIVE_FILES: &str = "give --tls-ca, --tls-cert and --tls-key";
const NO_WORKER: &str = "commands are run by the daemon itself";

impl settings::Options for Options {
    const SWITCHES: &'static [Switch<Self>] =
        &[('d', |o| o.debug = o.debug.saturating_add(1)), ('f', |o| o.foreground = true)];

    const TEXTS: &'static [char] = &['h'];

    /// Defaults and ranges of the stock ones are those of wire 3.3.
    const SETTINGS: &'static [Setting<Self>] = &[
        Setting::flag("config", |o, v| path(v).map(|file| o.config_file = Some(file))),
        Setting::long("state_dir", |o, v| path(v).map(|path| o.state_dir = path)),
        Setting::long("run_dir", |o, v| path(v).map(|path| o.run_dir = path)),
        Setting::long("tls_ca", |o, v| {
            o.tls_given = true;
            path(v).map(|path| o.tls_ca = path)
        }),
        Setting::long("tls_cert", |o, v| {
            o.tls_given = true;
            path(v).map(|path| o.tls_cert = path)
        }),
        Setting::long("tls_key", |o, v| {
            o.tls_given = true;
            path(v).map(|path| o.tls_key = path)
        }),
        Setting::long("host", |o, v| {
            o.host = match v {
                "node" => HostKind::Builtin,
                "corosync" => HostKind::Corosync,
                _ => return None,
            };
            Some(())
        }),
        Setting::long("arbiter", |o, v| Target::parse(v).map(|target| o.arbiter = Some(target))),
        Setting::unused("max_cs_try_again", "the node is waited for without end", |_, v| {
            number::<u64>(v, 1..=INT_MAX).map(drop)
        }),
        Setting::advanced("votequorum_device_name", |o, v| {
            (1..=254).contains(&v.len()).then(|| o.device_name = v.to_owned())
        }),
        Setting::unused("heuristics_ipc_max_send_buffers", NO_WORKER, |_, v| {
            number::<u64>(v, 10..=INT_MAX).map(drop)
        }),
        Setting::unused("heuristics_ipc_max_send_receive_size", NO_WORKER, |_, v| {
            number::<u64>(v, 1024..=INT_MAX).map(drop)
        }),
        Setting::advanced("heuristics_min_timeout", |o, v| {
            number(v, 250..=INT_MAX).map(|n| o.ranges.heuristics_timeout_ms.0 = n)
        }),
        Setting::advanced("heuristics_max_timeout", |o, v| {
            number(v, 250..=INT_MAX).map(|n| o.ranges.heuristics_timeout_ms.1 = n)
        }),
        Setting::advanced("heuristics_min_interval", |o, v| {
            number(v, 250..=INT_MAX).map(|n| o.ranges.heuristics_interval_ms.0 = n)
        }),
        Setting::advanced("heuristics_max_interval", |o, v| {
            number(v, 250..=INT_MAX).map(|n| o.ranges.heuristics_interval_ms.1 = n)
        }),
        Setting::advanced("heuristics_max_execs", |o, v| {
            number(v, 1..=INT_MAX).map(|n| o.heuristics.execs_max = n)
        }),
        Setting::advanced("heuristics_use_execvp", |o, v| {
            switch(v).map(|on| o.heuristics.search_path = on)
        }),
        Setting::advanced("heuristics_max_processes", |o, v| {
            number(v, 1..=INT_MAX).map(|n| o.heuristics.processes_max = n)
        }),
        Setting::advanced("heuristics_kill_list_interval", |o, v| {
            number(v, 250..=INT_MAX).map(|n| o.heuristics.kill_after_ms = n)
        }),
        Setting::advanced("net_nss_db_dir", |o, v| path(v).map(|keys| o.keys_in(&keys))),
        Setting::advanced("net_initial_msg_receive_size", |o, v| {
            number(v, 16..=INT_MAX).map(|n| o.initial_receive_bytes = n)
        }),
        Setting::advanced("net_initial_msg_send_size", |o, v| {
            number(v, 16..=INT_MAX).map(|n| o.initial_send_bytes = n)
        }),
        Setting::advanced("net_min_msg_send_size", |o, v| {
            number(v, 16..=INT_MAX).map(|n| o.min_send_bytes = n)
        }),
        Setting::advanced("net_max_msg_receive_size", |o, v| {
            number(v, 16..=INT_MAX).map(|n| o.max_receive_bytes = n)
        }),
        Setting::advanced("net_max_send_buffers", |o, v| {
            number(v, 2..=INT_MAX).map(|n: usize| o.max_send_buffers = n.min(65536))
        }),
        Setting::advanced("net_nss_qnetd_cn", |o, v| {
            (!v.is_empty()).then(|| o.server_name = v.to_owned())
        }),
        Setting::unused("net_nss_client_cert_nickname", GIVE_FILES, |_, _| Some(())),
        Setting::advanced("net_heartbeat_interval_min", |o, v| {
            number(v, 1..=INT_MAX).map(|n| o.ranges.heartbeat_ms.0 = n)
        }),
        Setting::advanced("net_heartbeat_interval_max", |o, v| {
            number(v, 1..=INT_MAX).map(|n| o.ranges.heartbeat_ms.1 = n)
        }),
        Setting::advanced("net_min_connect_timeout", |o, v| {
            number(v, 1..=INT_MAX).map(|n| o.ranges.connect_ms.0 = n)
        }),
        Setting::advanced("net_max_connect_timeout", |o, v| {
            number(v, 1..=INT_MAX).map(|n| o.ranges.connect_ms.1 = n)
        }),
        Setting::advanced("net_test_algorithm_enabled", |o, v| {
            switch(v).map(|on| o.test_algorithm = on)
        }),
        Setting::unused("master_wins", "a device's vote counts like any other", |_, v| {
            (v.eq_ignore_ascii_case("model") || switch(v).is_some()).then_some(())
        }),
    ];

    fn given(&mut self) -> &mut Given<Self> {
        &mut self.given
    }
}
