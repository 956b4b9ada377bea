//! What the daemon is told beside the cluster's configuration: places, certificates, addresses.
//! None of it is part of the configuration's digest (rule S8), so it may differ between nodes.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use protocol::ids::NodeId;
use serde::Deserialize;

use crate::conf::MAX_LINK;
use crate::guard::options::{Given, GuardOptions};

/// The socket of the quorum device in [`Options::run_dir`].
pub const DEVICE_SOCKET: &str = "device.sock";
/// The socket for status and commands in [`Options::run_dir`].
pub const STATUS_SOCKET: &str = "node.sock";
/// The lock in [`Options::run_dir`] and in [`Options::state_dir`]: one daemon a place.
pub const LOCK_FILE: &str = "node.lock";
/// What survives a restart, in [`Options::state_dir`].
pub const STATE_FILE: &str = "node.json";

/// The longest path of a local socket in bytes: `sun_path` without its end (unix(7)).
const SOCKET_PATH_MAX: usize = 107;
/// The longest settings file in bytes.
const SETTINGS_BYTES_MAX: u64 = 65_536;

/// The daemon's options. [`Options::default`] is what a package installs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Options {
    /// Where membership and quorum come from.
    pub engine: Engine,
    /// The cluster's configuration, in corosync.conf syntax.
    pub cluster_conf: PathBuf,
    /// Which of its nodes this is. Without it: the node with one of this host's addresses, else
    /// the node with this host's name.
    pub node_id: Option<NodeId>,
    /// By link: the address to listen on instead of ringX_addr and its port, for hosts behind
    /// NAT. Peers call ringX_addr all the same.
    pub listen: BTreeMap<u8, SocketAddr>,
    /// What survives a restart. It must exist: a place that is not mounted is no empty state.
    pub state_dir: PathBuf,
    /// Sockets and the lock. It must exist.
    pub run_dir: PathBuf,
    /// The authority that signed the certificates of this cluster's nodes, PEM.
    pub tls_ca: PathBuf,
    /// This node's certificate, bound to its id, PEM.
    pub tls_cert: PathBuf,
    /// The certificate's private key, PEM.
    pub tls_key: PathBuf,
    /// What is started as the keeper.
    pub keeper: KeeperProgram,
    /// Where the process is root: lock its memory and run at real-time priority, so that a busy
    /// host does not delay beats.
    pub realtime: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            engine: Engine::Builtin,
            cluster_conf: "/etc/haguard/corosync.conf".into(),
            node_id: None,
            listen: BTreeMap::new(),
            state_dir: "/var/lib/haguard/node".into(),
            run_dir: "/run/haguard".into(),
            tls_ca: "/etc/haguard/ca.pem".into(),
            tls_cert: "/etc/haguard/node.pem".into(),
            tls_key: "/etc/haguard/node-key.pem".into(),
            keeper: KeeperProgram::default(),
            realtime: true,
        }
    }
}

/// Where membership and quorum come from.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Engine {
    /// The node stack itself.
    #[default]
    Builtin,
    /// corosync on this machine, which the guard watches.
    Corosync(GuardOptions),
}

/// The program that becomes the keeper: it calls [`crate::keeper::main`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KeeperProgram {
    /// Its file.
    pub program: PathBuf,
    /// The words before the keeper's own arguments.
    pub prefix: Vec<OsString>,
}

impl Default for KeeperProgram {
    /// This program, as `haguard keeper`.
    fn default() -> Self {
        // Without /proc the keeper is looked for in PATH.
        let program = std::env::current_exe().unwrap_or_else(|_| "haguard".into());
        Self { program, prefix: vec!["keeper".into()] }
    }
}

/// Why the daemon does not start with these options.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// A directory that the daemon does not make by itself.
    #[error("{what} {}: {why}; create it, or name another with {flag}", path.display())]
    Directory {
        /// Which.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
        /// How to move it.
        flag: &'static str,
    },
    /// A socket's path would be longer than the kernel takes.
    #[error(
        "run directory {} is too long for a socket path of at most {SOCKET_PATH_MAX} bytes: \
         name a shorter one with --run-dir", .0.display()
    )]
    LongPath(PathBuf),
    /// `--listen`, or its form in the settings file.
    #[error("listen {0:?} is refused: give LINK=ADDRESS:PORT with a link from 0 to {MAX_LINK}")]
    Listen(String),
    /// `--node-id 0`.
    #[error("node id 0 names no node: use the nodeid of the cluster configuration, 1 or more")]
    NoNode,
    /// The engine, or a setting that does not go with it.
    #[error("{0}")]
    Engine(String),
    /// The settings file cannot be read.
    #[error(transparent)]
    File(#[from] host::file::FileError),
    /// There is no settings file.
    #[error("{}: there is no such file: correct --config", .0.display())]
    Missing(PathBuf),
    /// It is not TOML, or a value is of the wrong kind.
    #[error("{}: {text}", path.display())]
    Settings {
        /// The file.
        path: PathBuf,
        /// Line, column and cause, in one line.
        text: String,
    },
    /// It has a key that nobody knows.
    #[error("{}: unknown key {key:?}: did you mean {nearest:?}?", path.display())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The known key that looks most like it.
        nearest: &'static str,
    },
}

impl Options {
    /// Looks at what can be looked at without starting.
    ///
    /// # Errors
    /// The first thing that would keep the daemon from starting.
    pub fn check(&self) -> Result<(), OptionsError> {
        if self.node_id == Some(NodeId(0)) {
            return Err(OptionsError::NoNode);
        }
        if let Some((link, address)) = self.listen.iter().find(|(link, _)| **link > MAX_LINK) {
            return Err(OptionsError::Listen(format!("{link}={address}")));
        }
        directory("run directory", &self.run_dir, "--run-dir")?;
        directory("state directory", &self.state_dir, "--state-dir")?;
        let longest = self.run_dir.join(DEVICE_SOCKET);
        if longest.as_os_str().len() > SOCKET_PATH_MAX {
            return Err(OptionsError::LongPath(self.run_dir.clone()));
        }
        Ok(())
    }
}

fn directory(what: &'static str, path: &Path, flag: &'static str) -> Result<(), OptionsError> {
    let refused =
        |why: String| Err(OptionsError::Directory { what, path: path.to_owned(), why, flag });
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => refused("it is not a directory".to_owned()),
        Err(error) => refused(error.to_string()),
    }
}

/// Reads `LINK=ADDRESS:PORT`, the value of `--listen`.
///
/// # Errors
/// [`OptionsError::Listen`].
pub fn parse_listen(text: &str) -> Result<(u8, SocketAddr), OptionsError> {
    let parts = text.split_once('=').and_then(|(link, address)| {
        let link = link.trim().parse().ok().filter(|link| *link <= MAX_LINK)?;
        Some((link, address.trim().parse().ok()?))
    });
    parts.ok_or_else(|| OptionsError::Listen(text.to_owned()))
}

/// The settings file (`--config`), TOML. Everything is optional; flags stand over it.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Settings {
    /// [`Options::engine`]: `builtin`, or `corosync` with the settings below.
    pub engine: Option<String>,
    /// [`Given::watchdog`].
    pub watchdog: Option<String>,
    /// [`Given::watchdog_timeout`].
    pub watchdog_timeout: Option<String>,
    /// [`Given::peers_wait`].
    pub peers_wait: Option<String>,
    /// [`Given::qdevice_socket`].
    pub qdevice_socket: Option<PathBuf>,
    /// [`Options::cluster_conf`].
    pub cluster_conf: Option<PathBuf>,
    /// [`Options::node_id`].
    pub node_id: Option<u32>,
    /// [`Options::listen`], each as `LINK=ADDRESS:PORT`.
    #[serde(default)]
    pub listen: Vec<String>,
    /// [`Options::state_dir`].
    pub state_dir: Option<PathBuf>,
    /// [`Options::run_dir`].
    pub run_dir: Option<PathBuf>,
    /// [`Options::tls_ca`].
    pub tls_ca: Option<PathBuf>,
    /// [`Options::tls_cert`].
    pub tls_cert: Option<PathBuf>,
    /// [`Options::tls_key`].
    pub tls_key: Option<PathBuf>,
    /// [`Options::realtime`].
    pub realtime: Option<bool>,
}

/// The keys of [`Settings`], to name the nearest one to a typing error.
const KEYS: [&str; 14] = [
    "engine",
    "watchdog",
    "watchdog-timeout",
    "peers-wait",
    "qdevice-socket",
    "cluster-conf",
    "node-id",
    "listen",
    "state-dir",
    "run-dir",
    "tls-ca",
    "tls-cert",
    "tls-key",
    "realtime",
];

impl Settings {
    /// Reads the settings file.
    ///
    /// # Errors
    /// A file that is missing, unreadable or not TOML, a value of the wrong kind, an unknown key.
    pub fn read(path: &Path) -> Result<Self, OptionsError> {
        let bytes = host::file::read(path, SETTINGS_BYTES_MAX)?;
        let bytes = bytes.ok_or_else(|| OptionsError::Missing(path.to_owned()))?;
        let refused = |text: String| OptionsError::Settings {
            path: path.to_owned(),
            text: text.split_whitespace().collect::<Vec<_>>().join(" "),
        };
        let text = String::from_utf8(bytes).map_err(|error| refused(error.to_string()))?;
        let table: toml::Table = text.parse().map_err(|error| refused(format!("{error}")))?;
        if let Some(key) = table.keys().find(|key| !KEYS.contains(&key.as_str())) {
            let nearest = nearest(key);
            return Err(OptionsError::UnknownKey {
                path: path.to_owned(),
                key: key.clone(),
                nearest,
            });
        }
        toml::from_str(&text).map_err(|error| refused(error.to_string()))
    }

    /// Puts the settings into options.
    ///
    /// # Errors
    /// [`OptionsError::Listen`] and [`OptionsError::Engine`].
    pub fn apply(self, options: &mut Options) -> Result<(), OptionsError> {
        let given = Given {
            watchdog: self.watchdog,
            watchdog_timeout: self.watchdog_timeout,
            peers_wait: self.peers_wait,
            qdevice_socket: self.qdevice_socket,
        };
        options.engine = engine(self.engine.as_deref(), given)?;
        for text in &self.listen {
            let (link, address) = parse_listen(text)?;
            options.listen.insert(link, address);
        }
        options.node_id = self.node_id.map(NodeId).or(options.node_id);
        options.realtime = self.realtime.unwrap_or(options.realtime);
        let paths = [
            (self.cluster_conf, &mut options.cluster_conf),
            (self.state_dir, &mut options.state_dir),
            (self.run_dir, &mut options.run_dir),
            (self.tls_ca, &mut options.tls_ca),
            (self.tls_cert, &mut options.tls_cert),
            (self.tls_key, &mut options.tls_key),
        ];
        for (given, place) in paths {
            if let Some(given) = given {
                *place = given;
            }
        }
        Ok(())
    }
}

fn engine(name: Option<&str>, given: Given) -> Result<Engine, OptionsError> {
    match (name, given.first()) {
        (Some("corosync"), _) => given.read().map(Engine::Corosync).map_err(OptionsError::Engine),
        (None | Some("builtin"), None) => Ok(Engine::Builtin),
        (None | Some("builtin"), Some(key)) => Err(OptionsError::Engine(format!(
            "{key} goes with engine = \"corosync\": add that, or set the watchdog in the haguard \
             section of the cluster configuration"
        ))),
        (Some(other), _) => Err(OptionsError::Engine(format!(
            "engine {other:?} is refused: give \"builtin\" or \"corosync\""
        ))),
    }
}

/// The known key with the fewest edits to an unknown one.
fn nearest(key: &str) -> &'static str {
    // A key is at most this long before the distance stops meaning anything.
    let key: String = key.chars().take(64).collect();
    KEYS.into_iter().min_by_key(|known| distance(known, &key)).unwrap_or(KEYS[0])
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.chars().enumerate() {
            let replaced = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Result<Settings, OptionsError> {
        let name = format!(
            "options-{}-{:x}",
            std::process::id(),
            crate::conf::digest::fnv1a(text.as_bytes())
        );
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).unwrap();
        let read = Settings::read(&path);
        std::fs::remove_file(&path).unwrap();
        read
    }

    #[test]
    fn settings_move_what_they_name_and_nothing_else() {
        let text = "run-dir = \"/r\"\nlisten = [\"0=127.0.0.1:1\", \"1=[::1]:2\"]\nnode-id = 7\n";
        let mut options = Options::default();
        settings(text).unwrap().apply(&mut options).unwrap();
        let wanted = Options {
            run_dir: "/r".into(),
            node_id: Some(NodeId(7)),
            listen: [(0, "127.0.0.1:1".parse().unwrap()), (1, "[::1]:2".parse().unwrap())].into(),
            ..Options::default()
        };
        assert_eq!(options, wanted);
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_known_one() {
        let error = settings("tls-crt = \"x\"").unwrap_err().to_string();
        assert!(error.ends_with("unknown key \"tls-crt\": did you mean \"tls-cert\"?"), "{error}");
    }

    #[test]
    fn a_broken_settings_file_is_refused_in_one_line() {
        for text in ["node-id = \"one\"", "node-id = -1", "run-dir = ", "\u{0}"] {
            let error = settings(text).unwrap_err().to_string();
            assert_eq!(error.lines().count(), 1, "{error}");
        }
        let missing = Settings::read(Path::new("/no/such")).unwrap_err().to_string();
        assert_eq!(missing, "/no/such: there is no such file: correct --config");
    }

    #[test]
    fn an_engine_has_its_own_settings_and_no_others() {
        let apply = |text: &str| {
            let mut options = Options::default();
            settings(text).unwrap().apply(&mut options).map(|()| options.engine)
        };
        assert_eq!(apply("engine = \"builtin\"").unwrap(), Engine::Builtin);
        let guard = apply("engine = \"corosync\"\nwatchdog = \"/dev/watchdog\"").unwrap();
        let Engine::Corosync(guard) = guard else { unreachable!("{guard:?}") };
        assert_eq!(guard.watchdog, Some("/dev/watchdog".into()));
        let refused = |text: &str| apply(text).unwrap_err().to_string();
        assert!(refused("engine = \"pacemaker\"").contains("\"pacemaker\" is refused"));
        assert!(refused("engine = \"corosync\"").contains("needs a watchdog"));
        assert!(refused("watchdog = \"/dev/watchdog\"").contains("engine = \"corosync\""));
    }

    #[test]
    fn listen_takes_a_link_and_an_address_with_a_port() {
        assert_eq!(parse_listen("3=10.0.0.1:5405").unwrap(), (3, "10.0.0.1:5405".parse().unwrap()));
        for bad in ["", "0", "8=10.0.0.1:1", "0=10.0.0.1", "0=host:1", "-1=10.0.0.1:1"] {
            assert!(parse_listen(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_directory_must_exist_and_leave_room_for_a_socket() {
        let good = std::env::temp_dir();
        let options = Options { run_dir: good.clone(), state_dir: good, ..Options::default() };
        options.check().unwrap();
        let missing = Options { run_dir: "/no/such".into(), ..options.clone() };
        let text = missing.check().unwrap_err().to_string();
        assert!(text.starts_with("run directory /no/such: No such file"), "{text}");
        let file = Options { state_dir: "/proc/self/stat".into(), ..options.clone() };
        assert!(file.check().unwrap_err().to_string().contains("it is not a directory"));
        let nobody = Options { node_id: Some(NodeId(0)), ..options };
        assert!(nobody.check().is_err());
    }
}
