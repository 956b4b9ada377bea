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

use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use protocol::qnet::MESSAGE_LIMIT_BYTES;
use thiserror::Error;

use crate::heuristics;
use crate::resolve::Target;

/// What `-h` prints, after `usage: ` and the program's name; the first line is the stock one.
const USAGE: &str = "\
[-dfh] [-S option=value[,option2=value2,...]]
              [--config file] [--state-dir dir] [--run-dir dir] [--arbiter host:port]
              [--tls-ca file] [--tls-cert file] [--tls-key file]
";

/// Upper end of the stock daemon's C `int` settings.
const INT_MAX: u64 = i32::MAX as u64;

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
    /// Run.
    Run(Box<Options>),
}

/// Where the files go unless said otherwise.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Places {
    /// `/run/haguard`.
    Haguard,
    /// Called as `corosync-qdevice`: lock and socket where its tools and units look for them.
    Stock,
}

/// Every setting of the device's daemon.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The settings that were given as flags, to be put over a file's.
    flags: Vec<(&'static Setting, String)>,
    /// A path of a certificate or key was given, so the files have to be there at the start.
    pub tls_given: bool,
    /// Remarks on settings that have no effect, for the log.
    pub notes: Vec<String>,
    /// `--config`.
    pub config_file: Option<PathBuf>,
    /// `-f`: stay in the foreground and log to stderr.
    pub foreground: bool,
    /// `-d`: how often it was given.
    pub debug: u8,
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
    lock_file: Option<PathBuf>,
    local_socket_file: Option<PathBuf>,
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
            flags: Vec::new(),
            tls_given: false,
            notes: Vec::new(),
            config_file: None,
            foreground: false,
            debug: 0,
            arbiter: None,
            state_dir: "/var/lib/haguard/qdevice".into(),
            run_dir: "/run/haguard".into(),
            tls_ca: "/etc/haguard/ca.pem".into(),
            tls_cert: "/etc/haguard/node.pem".into(),
            tls_key: "/etc/haguard/node-key.pem".into(),
            lock_file: None,
            local_socket_file: None,
            local_socket_umask: None,
            local_socket_gid: None,
            ipc_max_clients: 10,
            ipc_max_receive_bytes: 4096,
            ipc_max_send_bytes: 65536,
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
        options.lock_file = Some("/var/run/corosync-qdevice/corosync-qdevice.pid".into());
        options.local_socket_file = Some(crate::tool::STOCK_SOCKET.into());
    }
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
    options.apply_flags()?;
    Ok(Invocation::Run(Box::new(options)))
}

/// The text of `-h`.
pub fn usage(program: &str) -> String {
    format!("usage: {program} {USAGE}")
}

impl Options {
    /// The pid file with the lock.
    pub fn lock_file(&self) -> PathBuf {
        self.lock_file.clone().unwrap_or_else(|| self.run_dir.join("qdevice.pid"))
    }

    /// The local socket.
    pub fn local_socket_file(&self) -> PathBuf {
        self.local_socket_file.clone().unwrap_or_else(|| self.run_dir.join("qdevice.sock"))
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
        let wrong = |text: String| UsageError::File { path: path.to_owned(), text };
        let table: toml::Table = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            wrong(format!("line {line}: {}", error.message().replace('\n', " ")))
        })?;
        for (name, value) in table {
            let setting = Setting::find(&name, |_| true).map_err(|nearest| {
                wrong(UsageError::UnknownSetting(name.clone(), nearest).to_string())
            })?;
            let value = match value {
                toml::Value::String(text) => text,
                toml::Value::Integer(number) => number.to_string(),
                toml::Value::Boolean(on) => (if on { "on" } else { "off" }).to_owned(),
                toml::Value::Float(_)
                | toml::Value::Datetime(_)
                | toml::Value::Array(_)
                | toml::Value::Table(_) => {
                    let text = format!("'{name}' must be a text, a number or true or false");
                    return Err(wrong(text));
                }
            };
            self.set(setting, &value).map_err(|error| wrong(error.to_string()))?;
        }
        self.apply_flags()?;
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
        let setting = if name == "config" {
            None
        } else {
            let found = Setting::find(name, |setting| setting.kind == Kind::Ours);
            Some(found.map_err(|near| UsageError::UnknownLongFlag(name.to_owned(), near))?)
        };
        let Some(value) = value.or_else(|| rest.next().cloned()) else {
            return Err(UsageError::NoValue(name.to_owned()));
        };
        match setting {
            Some(setting) => self.flags.push((setting, value)),
            None => self.config_file = Some(PathBuf::from(value)),
        }
        Ok(())
    }

    /// Reads `-df` and the like, and `-S` with its value behind it or in the next argument
    /// (getopt(3)).
    fn read_bundle<'a>(
        &mut self,
        bundle: &str,
        rest: &mut impl Iterator<Item = &'a String>,
    ) -> Result<Option<Invocation>, UsageError> {
        for (at, flag) in bundle.char_indices() {
            match flag {
                'd' => self.debug = self.debug.saturating_add(1),
                'f' => self.foreground = true,
                'h' => return Ok(Some(Invocation::Help)),
                'S' => {
                    let attached = &bundle[at + flag.len_utf8()..];
                    let next = if attached.is_empty() { rest.next() } else { None };
                    let list = next.map_or(attached, String::as_str);
                    if next.is_none() && attached.is_empty() {
                        return Err(UsageError::NoValue(flag.to_string()));
                    }
                    self.read_settings(list)?;
                    return Ok(None);
                }
                _ => return Err(UsageError::UnknownFlag(flag)),
            }
        }
        Ok(None)
    }

    /// Reads the value of `-S`.
    fn read_settings(&mut self, list: &str) -> Result<(), UsageError> {
        for text in list.split(',').filter(|text| !text.is_empty()) {
            let (name, value) = text.split_once('=').unwrap_or((text, ""));
            let setting = Setting::find(name, |setting| setting.kind != Kind::Ours)
                .map_err(|nearest| UsageError::UnknownSetting(name.to_owned(), nearest))?;
            self.flags.push((setting, value.to_owned()));
        }
        Ok(())
    }

    fn apply_flags(&mut self) -> Result<(), UsageError> {
        for (setting, value) in self.flags.clone() {
            self.set(setting, &value)?;
        }
        Ok(())
    }

    fn set(&mut self, setting: &Setting, value: &str) -> Result<(), UsageError> {
        let name = setting.name;
        let taken = (setting.read)(self, value);
        taken.ok_or_else(|| UsageError::Value { name, value: value.to_owned() })?;
        match setting.kind {
            Kind::Ours | Kind::Stock => {}
            Kind::Unused(instead) => {
                let note = format!("{name} is not used: {instead}");
                if !self.notes.contains(&note) {
                    self.notes.push(note);
                }
            }
        }
        self.tls_given |= name.starts_with("tls_");
        Ok(())
    }
}

/// Whose setting it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    /// A long flag.
    Ours,
    /// A name of `-S`.
    Stock,
    /// The same, read and checked, but without effect: what takes its place.
    Unused(&'static str),
}

/// One setting: its name, and how its value gets to its place (`None`: it is no value for it).
#[derive(Debug)]
struct Setting {
    name: &'static str,
    kind: Kind,
    read: fn(&mut Options, &str) -> Option<()>,
}

impl PartialEq for Setting {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Setting {
    /// The setting of a name, whatever its case, with hyphens or underscores; or the nearest
    /// known name.
    fn find(
        name: &str,
        wanted: impl Fn(&Self) -> bool,
    ) -> Result<&'static Self, Option<&'static str>> {
        let plain = name.to_ascii_lowercase().replace('-', "_");
        let known = || SETTINGS.iter().filter(|setting| wanted(setting));
        let found = known().find(|setting| setting.name == plain);
        found.ok_or_else(|| nearest(&plain, known().map(|setting| setting.name)))
    }
}

const fn ours(name: &'static str, read: fn(&mut Options, &str) -> Option<()>) -> Setting {
    Setting { name, kind: Kind::Ours, read }
}

const fn stock(name: &'static str, read: fn(&mut Options, &str) -> Option<()>) -> Setting {
    Setting { name, kind: Kind::Stock, read }
}

const fn unused(
    name: &'static str,
    instead: &'static str,
    read: fn(&mut Options, &str) -> Option<()>,
) -> Setting {
    Setting { name, kind: Kind::Unused(instead), read }
}

const GIVE_FILES: &str = "give --tls-ca, --tls-cert and --tls-key";
const NO_WORKER: &str = "commands are run by the daemon itself";

/// All settings; defaults and ranges of the stock ones are those of wire 3.3.
static SETTINGS: &[Setting] = &[
    ours("state_dir", |o, v| path(v).map(|path| o.state_dir = path)),
    ours("run_dir", |o, v| path(v).map(|path| o.run_dir = path)),
    ours("tls_ca", |o, v| path(v).map(|path| o.tls_ca = path)),
    ours("tls_cert", |o, v| path(v).map(|path| o.tls_cert = path)),
    ours("tls_key", |o, v| path(v).map(|path| o.tls_key = path)),
    ours("arbiter", |o, v| Target::parse(v).map(|target| o.arbiter = Some(target))),
    stock("lock_file", |o, v| path(v).map(|path| o.lock_file = Some(path))),
    stock("local_socket_file", |o, v| path(v).map(|path| o.local_socket_file = Some(path))),
    stock("local_socket_umask", umask),
    stock("local_socket_gid", |o, v| {
        o.local_socket_gid = Some(v.to_owned()).filter(|group| !group.is_empty() && group != "-1");
        Some(())
    }),
    unused("local_socket_backlog", "the system's limit is", |_, v| {
        number(v, 1..=INT_MAX).map(drop)
    }),
    unused("max_cs_try_again", "the node is waited for without end", |_, v| {
        number(v, 1..=INT_MAX).map(drop)
    }),
    stock("votequorum_device_name", |o, v| {
        (1..=254).contains(&v.len()).then(|| o.device_name = v.to_owned())
    }),
    stock("ipc_max_clients", |o, v| size(v, 0).map(|n| o.ipc_max_clients = n)),
    stock("ipc_max_receive_size", |o, v| size(v, 1024).map(|n| o.ipc_max_receive_bytes = n)),
    stock("ipc_max_send_size", |o, v| size(v, 1024).map(|n| o.ipc_max_send_bytes = n)),
    unused("heuristics_ipc_max_send_buffers", NO_WORKER, |_, v| size(v, 10).map(drop)),
    unused("heuristics_ipc_max_send_receive_size", NO_WORKER, |_, v| size(v, 1024).map(drop)),
    stock("heuristics_min_timeout", |o, v| {
        word(v, 250).map(|n| o.ranges.heuristics_timeout_ms.0 = n)
    }),
    stock("heuristics_max_timeout", |o, v| {
        word(v, 250).map(|n| o.ranges.heuristics_timeout_ms.1 = n)
    }),
    stock("heuristics_min_interval", |o, v| {
        word(v, 250).map(|n| o.ranges.heuristics_interval_ms.0 = n)
    }),
    stock("heuristics_max_interval", |o, v| {
        word(v, 250).map(|n| o.ranges.heuristics_interval_ms.1 = n)
    }),
    stock("heuristics_max_execs", |o, v| size(v, 1).map(|n| o.heuristics.execs_max = n)),
    stock("heuristics_use_execvp", |o, v| switch(v).map(|on| o.heuristics.search_path = on)),
    stock("heuristics_max_processes", |o, v| size(v, 1).map(|n| o.heuristics.processes_max = n)),
    stock("heuristics_kill_list_interval", |o, v| {
        word(v, 250).map(|n| o.heuristics.kill_after_ms = n)
    }),
    unused("net_nss_db_dir", GIVE_FILES, |_, _| Some(())),
    stock("net_initial_msg_receive_size", |o, v| word(v, 16).map(|n| o.initial_receive_bytes = n)),
    stock("net_initial_msg_send_size", |o, v| word(v, 16).map(|n| o.initial_send_bytes = n)),
    stock("net_min_msg_send_size", |o, v| word(v, 16).map(|n| o.min_send_bytes = n)),
    stock("net_max_msg_receive_size", |o, v| word(v, 16).map(|n| o.max_receive_bytes = n)),
    stock("net_max_send_buffers", |o, v| size(v, 2).map(|n| o.max_send_buffers = n.min(65536))),
    stock("net_nss_qnetd_cn", |o, v| (!v.is_empty()).then(|| o.server_name = v.to_owned())),
    unused("net_nss_client_cert_nickname", GIVE_FILES, |_, _| Some(())),
    stock("net_heartbeat_interval_min", |o, v| word(v, 1).map(|n| o.ranges.heartbeat_ms.0 = n)),
    stock("net_heartbeat_interval_max", |o, v| word(v, 1).map(|n| o.ranges.heartbeat_ms.1 = n)),
    stock("net_min_connect_timeout", |o, v| word(v, 1).map(|n| o.ranges.connect_ms.0 = n)),
    stock("net_max_connect_timeout", |o, v| word(v, 1).map(|n| o.ranges.connect_ms.1 = n)),
    stock("net_test_algorithm_enabled", |o, v| switch(v).map(|on| o.test_algorithm = on)),
    unused("master_wins", "a device's vote counts like any other", |_, v| {
        (v.eq_ignore_ascii_case("model") || switch(v).is_some()).then_some(())
    }),
];

/// The known name that takes the fewest edits to reach, if that is less than half of it.
fn nearest(name: &str, known: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    let near = known.map(|known| (edits(name, known), known)).min()?;
    (near.0 * 2 < near.1.len()).then_some(near.1)
}

/// How many letters must be put in, taken out or changed (Levenshtein).
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (line, letter) in from.chars().take(64).enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], line + 1);
        for column in 0..to.len() {
            let changed = diagonal + usize::from(to[column] != letter);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

/// A whole decimal number in a range.
fn number(value: &str, range: RangeInclusive<u64>) -> Option<u64> {
    value.parse().ok().filter(|number| range.contains(number))
}

fn size(value: &str, least: u64) -> Option<usize> {
    number(value, least..=INT_MAX).and_then(|number| number.try_into().ok())
}

fn word(value: &str, least: u64) -> Option<u32> {
    number(value, least..=INT_MAX).and_then(|number| number.try_into().ok())
}

/// The bool words of the stock daemons.
fn switch(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "yes" | "on" | "1" => Some(true),
        "no" | "off" | "0" => Some(false),
        _ => None,
    }
}

fn path(value: &str) -> Option<PathBuf> {
    (!value.is_empty()).then(|| PathBuf::from(value))
}

/// Octal; empty leaves the mode alone.
fn umask(options: &mut Options, value: &str) -> Option<()> {
    options.local_socket_umask = match value {
        "" => None,
        _ => Some(u32::from_str_radix(value, 8).ok().filter(|mask| *mask <= 0o777)?),
    };
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &[&str]) -> Result<Invocation, UsageError> {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        parse(&args, Places::Haguard)
    }

    fn options(args: &[&str]) -> Options {
        match read(args).unwrap() {
            Invocation::Run(options) => *options,
            Invocation::Help => panic!("help"),
        }
    }

    #[test]
    fn stock_flags_bundle_repeat_and_ignore_case_in_names() {
        let options = options(
            &["-fddSHEURISTICS_MAX_EXECS=7,ipc_max_clients=0", "-S", "a=b", "x"]
                .map(|arg| if arg == "a=b" { "net_nss_qnetd_cn=Other Name" } else { arg }),
        );
        assert!(options.foreground);
        assert_eq!(options.debug, 2);
        assert_eq!(options.heuristics.execs_max, 7);
        assert_eq!(options.ipc_max_clients, 0);
        assert_eq!(options.server_name, "Other Name");
        assert_eq!(read(&["-fh"]), Ok(Invocation::Help));
    }

    #[test]
    fn wrong_arguments_are_refused_in_the_stock_words() {
        let said = |args: &[&str]| read(args).unwrap_err().to_string();
        assert_eq!(said(&["-z"]), "invalid option -- 'z'");
        assert_eq!(said(&["-S"]), "option requires an argument -- 'S'");
        assert_eq!(said(&["-S", "foo=1"]), "Unknown option 'foo'");
        assert_eq!(said(&["-Sipc_max_clients"]), "Invalid value '' for option 'ipc_max_clients'");
        assert_eq!(
            said(&["-Sheuristics_use_execvp=maybe"]),
            "Invalid value 'maybe' for option 'heuristics_use_execvp'"
        );
        assert_eq!(
            said(&["--run-dri", "x"]),
            "unrecognized option '--run-dri'; did you mean 'run_dir'?"
        );
        assert_eq!(said(&["-Srun_dir=x"]), "Unknown option 'run_dir'");
    }

    #[test]
    fn every_stock_setting_has_its_least_value() {
        let least = [
            ("local_socket_backlog", 1),
            ("max_cs_try_again", 1),
            ("ipc_max_receive_size", 1024),
            ("ipc_max_send_size", 1024),
            ("heuristics_ipc_max_send_buffers", 10),
            ("heuristics_ipc_max_send_receive_size", 1024),
            ("heuristics_min_timeout", 250),
            ("heuristics_max_timeout", 250),
            ("heuristics_min_interval", 250),
            ("heuristics_max_interval", 250),
            ("heuristics_max_execs", 1),
            ("heuristics_max_processes", 1),
            ("heuristics_kill_list_interval", 250),
            ("net_initial_msg_receive_size", 16),
            ("net_initial_msg_send_size", 16),
            ("net_min_msg_send_size", 16),
            ("net_max_msg_receive_size", 16),
            ("net_max_send_buffers", 2),
            ("net_heartbeat_interval_min", 1),
            ("net_heartbeat_interval_max", 1),
            ("net_min_connect_timeout", 1),
            ("net_max_connect_timeout", 1),
        ];
        for (name, least) in least {
            assert!(read(&["-S", &format!("{name}={least}")]).is_ok(), "{name}");
            assert!(read(&["-S", &format!("{name}={}", least - 1)]).is_err(), "{name}");
        }
    }

    #[test]
    fn flags_stand_over_the_file_and_the_file_over_the_defaults() {
        let options = options(&["--run-dir", "/flag", "--arbiter=[::1]:7", "-Smaster_wins=model"]);
        let text = "run-dir = \"/file\"\nstate_dir = \"/state\"\nipc-max-clients = 3\n";
        let options = options.with_file(Path::new("f"), text).unwrap();
        assert_eq!(options.run_dir, Path::new("/flag"));
        assert_eq!(options.state_dir, Path::new("/state"));
        assert_eq!(options.ipc_max_clients, 3);
        assert_eq!(options.arbiter, Some(Target { host: "::1".to_owned(), port: 7 }));
        assert_eq!(options.notes.len(), 1);
        assert!(!options.tls_given);
        let wrong = |text| Options::default().with_file(Path::new("f"), text).unwrap_err();
        assert_eq!(
            wrong("tls-cart = 1").to_string(),
            "f: Unknown option 'tls-cart'; did you mean 'tls_cert'?"
        );
        assert!(wrong("a = ").to_string().starts_with("f: line 1: "));
    }

    #[test]
    fn under_the_stock_name_lock_and_socket_are_where_its_tools_look() {
        let Ok(Invocation::Run(options)) = parse(&[], Places::Stock) else { panic!("refused") };
        assert_eq!(
            options.local_socket_file(),
            Path::new("/var/run/corosync-qdevice/corosync-qdevice.sock")
        );
        assert_eq!(
            options.lock_file(),
            Path::new("/var/run/corosync-qdevice/corosync-qdevice.pid")
        );
        assert_eq!(options.node_socket_file(), Path::new("/run/haguard/device.sock"));
    }
}
