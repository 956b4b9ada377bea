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

mod keys;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use protocol::qnet::{PORT, TlsSupport};
use thiserror::Error;

use crate::core;
use keys::Setting;

/// What `-h` prints, after `usage: ` and the program's name.
const USAGE: &str = "\
[-46dfhv] [-l listen_addr] [-p listen_port] [-s tls]
              [-c client_cert_required] [-m max_clients] [-S option=value[,option2=value2,...]]
              [--config file] [--state-dir dir] [--run-dir dir] [--listen addr:port]
              [--tls-ca file] [--tls-cert file] [--tls-key file]
";

/// Connections that may wait to be accepted. The stock daemon's 10 makes a node wait for a second
/// (a lost SYN) as soon as a few others connect at the same time.
const BACKLOG: u32 = 1024;

/// Flags with a value, and the setting it is for; `-S` names its settings itself.
const SHORT: [(char, Option<Setting>); 6] = [
    ('l', Some(Setting::ListenAddress)),
    ('p', Some(Setting::Port)),
    ('s', Some(Setting::Tls)),
    ('c', Some(Setting::ClientCertRequired)),
    ('m', Some(Setting::MaxClients)),
    ('S', None),
];

/// Why the arguments or the file cannot be used; one line.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum UsageError {
    /// No such flag.
    #[error("invalid option -- '{0}'")]
    UnknownFlag(char),
    /// No such long flag.
    #[error("unrecognized option '--{0}'{hint}", hint = Hint(*.1))]
    UnknownLongFlag(String, Option<&'static str>),
    /// A flag without the value that it needs.
    #[error("option requires an argument -- '{0}'")]
    NoValue(String),
    /// `-p` is no port.
    #[error("host port must be in range 1-65535")]
    Port,
    /// `-s` is none of its words; the stock daemon refuses `required` too.
    #[error("tls must be one of on, off, req")]
    Tls,
    /// `-c` is no bool word.
    #[error("client_cert_required should be on/yes/1, off/no/0")]
    ClientCert,
    /// `-m` is no number.
    #[error("max clients value {0} is invalid")]
    MaxClients(String),
    /// `-S` or the file names a setting that does not exist.
    #[error("Unknown option '{0}'{hint}", hint = Hint(*.1))]
    UnknownSetting(String, Option<&'static str>),
    /// A value out of its range, or of the wrong kind.
    #[error("Invalid value '{value}' for option '{name}'")]
    Value {
        /// The setting.
        name: &'static str,
        /// What was given.
        value: String,
    },
    /// Something in the file.
    #[error("{}: {text}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, in one line.
        text: String,
    },
}

impl UsageError {
    /// The stock daemon prints its usage after these.
    pub fn wants_usage(&self) -> bool {
        matches!(self, Self::UnknownFlag(_) | Self::UnknownLongFlag(..) | Self::NoValue(_))
    }
}

/// The nearest known name, where there is one.
struct Hint(Option<&'static str>);

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(name) => write!(f, "; did you mean '{name}'?"),
            None => Ok(()),
        }
    }
}

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
    /// The settings that were given as flags, to be put over a file's.
    flags: Vec<(Setting, String)>,
    /// Remarks on settings that have no effect, for the log.
    pub notes: Vec<String>,
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
    /// What the machine needs to know: `-s`, `-c`, `-m`, and the limits.
    pub core: core::Settings,
    /// Where identity and grants are kept.
    pub state_dir: PathBuf,
    /// The certificates of the authority that clients' certificates come from.
    pub tls_ca: PathBuf,
    /// The arbiter's certificate chain.
    pub tls_cert: PathBuf,
    /// Its private key.
    pub tls_key: PathBuf,
    run_dir: PathBuf,
    lock_file: Option<PathBuf>,
    local_socket_file: Option<PathBuf>,
    /// Connections that may wait to be accepted.
    pub listen_backlog: u32,
    /// Messages that may wait for one client before it is closed.
    pub max_client_send_buffers: usize,
    /// Mode bits taken from the local socket.
    pub local_socket_umask: Option<u32>,
    /// The local socket's group.
    pub local_socket_gid: Option<String>,
    /// Local connections at a time; 0 is unlimited.
    pub ipc_max_clients: usize,
    /// Longest local command, in bytes, its end included.
    pub ipc_max_receive_bytes: usize,
    /// Longest local answer, in bytes.
    pub ipc_max_send_bytes: usize,
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
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        if arg == "--" {
            break;
        }
        if let Some(long) = arg.strip_prefix("--") {
            options.read_long(long, &mut args)?;
        } else if let Some(bundle) = arg.strip_prefix('-').filter(|rest| !rest.is_empty())
            && let Some(other) = options.read_bundle(bundle, &mut args)?
        {
            return Ok(other);
        }
    }
    for (key, value) in options.flags.clone() {
        options.set(key, &value)?;
    }
    Ok(Invocation::Run(Box::new(options)))
}

/// The text of `-h`.
pub fn usage(program: &str) -> String {
    format!("usage: {program} {USAGE}")
}

impl Options {
    fn new(places: Places) -> Self {
        let (run_dir, lock_file, socket) = match places {
            Places::Haguard => ("/run/haguard", None, None),
            Places::Stock => (
                "/run/haguard",
                Some(PathBuf::from("/var/run/corosync-qnetd/corosync-qnetd.pid")),
                Some(PathBuf::from(crate::tool::STOCK_SOCKET)),
            ),
        };
        Self {
            flags: Vec::new(),
            notes: Vec::new(),
            config_file: None,
            foreground: false,
            debug: 0,
            family: Family::Any,
            listen_address: None,
            port: PORT,
            listen: None,
            core: core::Settings::default(),
            state_dir: "/var/lib/haguard/qnetd".into(),
            tls_ca: "/etc/haguard/ca.pem".into(),
            tls_cert: "/etc/haguard/arbiter.pem".into(),
            tls_key: "/etc/haguard/arbiter-key.pem".into(),
            run_dir: run_dir.into(),
            lock_file,
            local_socket_file: socket,
            listen_backlog: BACKLOG,
            max_client_send_buffers: 32,
            local_socket_umask: None,
            local_socket_gid: None,
            ipc_max_clients: 10,
            ipc_max_receive_bytes: 4096,
            ipc_max_send_bytes: 10 << 20,
            handshake_limit: Duration::from_secs(8),
        }
    }

    /// The pid file with the lock.
    pub fn lock_file(&self) -> PathBuf {
        self.lock_file.clone().unwrap_or_else(|| self.run_dir.join("qnetd.pid"))
    }

    /// The local socket.
    pub fn local_socket_file(&self) -> PathBuf {
        self.local_socket_file.clone().unwrap_or_else(|| self.run_dir.join("qnetd.sock"))
    }

    /// Puts a TOML file under the flags. Its keys are the names of the settings with hyphens or
    /// underscores, at the top level; numbers, words and switches may be written as such.
    ///
    /// # Errors
    /// [`UsageError::File`]: not TOML, an unknown key (the nearest known one is named), a value
    /// out of range.
    pub fn with_file(mut self, path: &Path, text: &str) -> Result<Self, UsageError> {
        let wrong = |text: String| UsageError::File { path: path.to_owned(), text };
        let table: toml::Table = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            wrong(format!("line {line}: {}", error.message().replace('\n', " ")))
        })?;
        for (name, value) in table {
            let key = Setting::find(&name).map_err(|nearest| {
                wrong(UsageError::UnknownSetting(name.clone(), nearest).to_string())
            })?;
            let value = match value {
                toml::Value::String(text) => text,
                toml::Value::Integer(number) => number.to_string(),
                toml::Value::Float(number) => number.to_string(),
                toml::Value::Boolean(on) => (if on { "on" } else { "off" }).to_owned(),
                toml::Value::Datetime(_) | toml::Value::Array(_) | toml::Value::Table(_) => {
                    let text = format!("'{name}' must be a text, a number or true or false");
                    return Err(wrong(text));
                }
            };
            self.set(key, &value).map_err(|error| wrong(error.to_string()))?;
        }
        for (key, value) in self.flags.clone() {
            self.set(key, &value)?;
        }
        Ok(self)
    }

    fn read_long<'a>(
        &mut self,
        long: &str,
        rest: &mut impl Iterator<Item = &'a String>,
    ) -> Result<(), UsageError> {
        let (name, value) = match long.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (long, None),
        };
        let known = name == "config" || Setting::LONG.iter().any(|(flag, _)| *flag == name);
        if !known {
            let flags = Setting::LONG.iter().map(|(flag, _)| *flag).chain(["config"]);
            return Err(UsageError::UnknownLongFlag(name.to_owned(), keys::nearest(name, flags)));
        }
        let Some(value) = value.or_else(|| rest.next().cloned()) else {
            return Err(UsageError::NoValue(name.to_owned()));
        };
        match Setting::LONG.iter().find(|(flag, _)| *flag == name) {
            Some((_, key)) => self.flags.push((*key, value)),
            None => self.config_file = Some(PathBuf::from(value)),
        }
        Ok(())
    }

    /// Reads `-46df` and the like: switches, and at the end perhaps a flag whose value is the
    /// rest, or the next argument (getopt(3)).
    fn read_bundle<'a>(
        &mut self,
        bundle: &str,
        rest: &mut impl Iterator<Item = &'a String>,
    ) -> Result<Option<Invocation>, UsageError> {
        for (at, flag) in bundle.char_indices() {
            match flag {
                '4' => self.family = Family::V4,
                '6' => self.family = Family::V6,
                'd' => self.debug = self.debug.saturating_add(1),
                'f' => self.foreground = true,
                'h' => return Ok(Some(Invocation::Help)),
                'v' => return Ok(Some(Invocation::Version)),
                _ => {
                    let found = SHORT.iter().find(|(known, _)| *known == flag);
                    let (_, key) = found.ok_or(UsageError::UnknownFlag(flag))?;
                    let attached = &bundle[at + flag.len_utf8()..];
                    let next = if attached.is_empty() { rest.next().cloned() } else { None };
                    let value = next.unwrap_or_else(|| attached.to_owned());
                    if value.is_empty() && attached.is_empty() && flag != 'S' && flag != 'l' {
                        return Err(UsageError::NoValue(flag.to_string()));
                    }
                    match key {
                        Some(key) => self.flags.push((*key, value)),
                        None => self.read_settings(&value)?,
                    }
                    return Ok(None);
                }
            }
        }
        Ok(None)
    }

    /// Reads the value of `-S`.
    fn read_settings(&mut self, list: &str) -> Result<(), UsageError> {
        for setting in list.split(',').filter(|setting| !setting.is_empty()) {
            let (name, value) = setting.split_once('=').unwrap_or((setting, ""));
            let key = Setting::find_advanced(name)
                .map_err(|nearest| UsageError::UnknownSetting(name.to_owned(), nearest))?;
            self.flags.push((key, value.to_owned()));
        }
        Ok(())
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
