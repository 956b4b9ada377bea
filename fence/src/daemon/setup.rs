//! From options, the file, certificates and passwords to what the daemon runs with. Read at the
//! start and at SIGHUP, on a thread that may block.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use anyhow::{Context, bail};
use certs::Identity;
use certs::files::Files;
use certs::material::Purpose;
use protocol::ids::ClusterName;
use tokio_rustls::TlsAcceptor;
use tracing::warn;

use super::known::Known;
use super::switch::Switch;
use super::{Options, arbiter};
use crate::config::Settings;
use crate::core::DeviceName;

/// What the daemon runs with.
pub(super) struct Setup {
    pub(super) settings: Settings,
    pub(super) places: Places,
    pub(super) known: Known,
    pub(super) switches: BTreeMap<DeviceName, Switch>,
    pub(super) tls: TlsAcceptor,
    pub(super) keys: Stamp,
}

/// Where everything is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Places {
    pub(super) cluster: String,
    pub(super) state_dir: PathBuf,
    pub(super) run_dir: PathBuf,
    pub(super) listen: SocketAddr,
    pub(super) metrics: Option<SocketAddr>,
    pub(super) arbiter: arbiter::Target,
}

impl Setup {
    /// Reads everything.
    ///
    /// # Errors
    /// The first thing that is wrong: where, and what to do.
    pub(super) fn load(options: &Options) -> anyhow::Result<Self> {
        let settings = Settings::read(&options.config)?;
        certs::names::check_cluster_name(&settings.cluster)
            .with_context(|| format!("{}: cluster", options.config.display()))?;
        let places = Places::new(options, &settings);
        let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
        // Beside the file, where no service manager gives credentials.
        let beside = options.config.parent().map(Path::to_owned);
        let directory = credentials.or(beside);
        let known = Known::load(&places.state_dir)?;
        let switches = settings
            .devices
            .iter()
            .filter_map(|(name, device)| {
                let place = device.kind.reaches().unwrap_or_default();
                let known = known.identity(name, &place);
                let made = Switch::make(device, directory.as_deref(), known).transpose()?;
                let place = || format!("{}: [devices.{name}]", options.config.display());
                Some(made.with_context(place).map(|switch| (name.clone(), switch)))
            })
            .collect::<anyhow::Result<_>>()?;
        let keys = Stamp::of(&places.arbiter);
        let tls = places.acceptor()?;
        Ok(Self { settings, places, known, switches, tls, keys })
    }
}

impl Places {
    /// Flags stand over the file, the file over the defaults.
    fn new(options: &Options, settings: &Settings) -> Self {
        let pick = |flag: &Option<PathBuf>, file: &Option<PathBuf>, default: &str| {
            flag.clone().or(file.clone()).unwrap_or_else(|| default.into())
        };
        Self {
            cluster: settings.cluster.clone(),
            state_dir: pick(&options.state_dir, &settings.state_dir, "/var/lib/haguard/fence"),
            run_dir: pick(&options.run_dir, &settings.run_dir, "/run/haguard"),
            listen: options.listen.unwrap_or(settings.listen),
            metrics: options.metrics.or(settings.metrics),
            arbiter: arbiter::Target {
                address: options.arbiter.clone().unwrap_or(settings.arbiter.clone()),
                name: settings.arbiter_name.clone(),
                cluster: settings.cluster.clone(),
                tls_ca: pick(&options.tls_ca, &settings.tls_ca, "/etc/haguard/ca.pem"),
                tls_cert: pick(&options.tls_cert, &settings.tls_cert, "/etc/haguard/gateway.pem"),
                tls_key: pick(&options.tls_key, &settings.tls_key, "/etc/haguard/gateway-key.pem"),
            },
        }
    }

    /// Whether a running daemon can go on with the new places.
    ///
    /// # Errors
    /// What needs a restart.
    pub(super) fn may_become(&self, new: &Self) -> anyhow::Result<()> {
        let fixed = [
            ("cluster", self.cluster != new.cluster),
            ("state-dir", self.state_dir != new.state_dir),
            ("run-dir", self.run_dir != new.run_dir),
            ("listen", self.listen != new.listen),
            ("metrics", self.metrics != new.metrics),
        ];
        match fixed.into_iter().find(|(_, changed)| *changed) {
            Some((key, _)) => bail!("'{key}' was changed, which takes a restart"),
            None => Ok(()),
        }
    }

    /// The server's side of TLS, from the files as they are now.
    ///
    /// # Errors
    /// Which file, what is wrong with it, what to do.
    pub(super) fn acceptor(&self) -> anyhow::Result<TlsAcceptor> {
        let target = &self.arbiter;
        let files = Files {
            authority: &target.tls_ca,
            certificate: &target.tls_cert,
            key: &target.tls_key,
        };
        // It is shown to requesters and to the arbiter.
        files.load(Purpose::Client)?;
        let loaded = files.load(Purpose::Server)?;
        if let Some(warning) = &loaded.warning {
            warn!("{warning}");
        }
        let cluster = ClusterName::from(self.cluster.as_str());
        Identity::from_der(loaded.own.leaf())
            .and_then(|identity| identity.may_fence_for(&cluster))
            .with_context(|| target.tls_cert.display().to_string())?;
        Ok(certs::tls::gateway_server(&loaded.trust, &loaded.own, &cluster)?.into())
    }
}

/// What the system says of the three files: it changes when they do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Stamp([Option<(u64, i64, i64, u64)>; 3]);

impl Stamp {
    pub(super) fn of(target: &arbiter::Target) -> Self {
        let look = |path: &PathBuf| match fs::metadata(path) {
            Ok(found) => Some((found.ino(), found.mtime(), found.mtime_nsec(), found.size())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            // It may be there: whoever reads it says what is wrong.
            Err(_) => Some((0, 0, 0, 0)),
        };
        Self([&target.tls_ca, &target.tls_cert, &target.tls_key].map(look))
    }

    /// All three are there.
    pub(super) fn is_complete(&self) -> bool {
        self.0.iter().all(Option::is_some)
    }
}
