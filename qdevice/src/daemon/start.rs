//! From arguments to a running daemon.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use host::clock::Clock;
use host::local::Local;
use host::lock::Lock;
use host::systemd;
use protocol::ids::InstanceId;
use protocol::qnet::HostKind;
use protocol::time::Hurry;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing::info;

use super::credentials::Clients;
use super::local::Desk;
use super::{Daemon, Happening, INBOX_MAX, credentials, node, pin};
use crate::config::{self, Invocation, Options, Places, UsageError};
use crate::core::{Config, Device};
use crate::corosync;
use crate::heuristics::Runner;
use crate::resolve::Target;

/// Longest settings file, in bytes.
const SETTINGS_BYTES_MAX: u64 = 65536;

/// Why there is nothing to run: what to print, and with what exit code to end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal {
    /// For the standard output.
    pub stdout: String,
    /// For the standard error stream.
    pub stderr: String,
    /// 1 for `-h` and under the stock name, 2 for wrong arguments to ours.
    pub code: u8,
}

/// Reads the arguments after the program's name, and the settings file that they name.
///
/// # Errors
/// [`Refusal`], also for `-h`.
pub fn prepare(program: &str, args: &[String], places: Places) -> Result<Options, Refusal> {
    let refuse = |error: &UsageError| Refusal {
        stdout: if error.wants_usage() { config::usage(program) } else { String::new() },
        stderr: format!("{program}: {error}\n"),
        code: match places {
            Places::Haguard => 2,
            Places::Stock => 1,
        },
    };
    let options = match config::parse(args, places) {
        Ok(Invocation::Run(options)) => *options,
        Ok(Invocation::Help) => {
            let stdout = config::usage(program);
            return Err(Refusal { stdout, stderr: String::new(), code: 1 });
        }
        Err(error) => return Err(refuse(&error)),
    };
    let Some(path) = options.config_file.clone() else { return Ok(options) };
    let text = read_text(&path).map_err(|text| UsageError::File { path: path.clone(), text });
    text.and_then(|text| options.with_file(&path, &text)).map_err(|error| refuse(&error))
}

fn read_text(path: &Path) -> Result<String, String> {
    let bytes = host::file::read(path, SETTINGS_BYTES_MAX).map_err(|error| error.to_string())?;
    let bytes = bytes.ok_or("there is no such file: correct --config")?;
    String::from_utf8(bytes).map_err(|_| "is not text in UTF-8".to_owned())
}

/// Runs a device until a signal or its local socket ends it, on a runtime of its own. A lookup of
/// a name that hangs does not delay the end.
///
/// # Errors
/// As [`run`].
pub fn run_blocking(options: Options) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the runtime")?;
    let ended = runtime.block_on(run(options));
    runtime.shutdown_background();
    ended
}

/// Runs a device until a signal or its local socket ends it. It runs on one thread, whatever the
/// runtime; of other tasks it needs nothing.
///
/// # Errors
/// Why it could not start, or why the node's configuration and the certificate do not fit, in one
/// line with [`anyhow::Error`]'s alternate form.
pub async fn run(options: Options) -> anyhow::Result<()> {
    if options.uses_run_dir() {
        directory("run directory", &options.run_dir, "--run-dir")?;
    }
    directory("state directory", &options.state_dir, "--state-dir")?;
    let _lock = Lock::take(&options.lock_file())?;
    let _stock_lock = stock_lock(&options)?;
    for note in options.given.notes() {
        info!("{note}");
    }
    // Without the paths the node's word on TLS is waited for: plain text needs no certificates.
    if options.tls_given {
        credentials::check(&options)?;
    }
    let pinned = pin::load(&options.state_dir)?;
    let random = host::file::random_u128()?;
    let arbiter = options.arbiter.as_ref().map(Target::to_string).unwrap_or_default();
    let device = Device::new(Config {
        instance: InstanceId((random >> 64) as u64),
        seed: random as u64,
        host: options.host,
        pinned,
        arbiter,
    });
    let (reports, inbox) = mpsc::channel(INBOX_MAX);
    let local = Local::open(&options.local_socket_file(), &options.given.socket)?;
    follow_signals(&reports)?;
    let node = match options.host {
        HostKind::Builtin => {
            tokio::spawn(node::attend(options.node_socket_file(), reports.clone()))
        }
        HostKind::Corosync => tokio::spawn(corosync::attend(reports.clone())),
    };
    let serving = tokio::spawn(local.serve(Desk(reports.clone())));
    let options = Arc::new(options);
    let mut daemon = Daemon {
        clock: Clock::start(Hurry::Fast),
        runner: Runner::new(options.heuristics),
        clients: Arc::new(Clients::new(Arc::clone(&options))),
        options,
        device,
        behind: std::collections::VecDeque::new(),
        reports,
        inbox,
        node: None,
        node_gone: "the node has not been reached yet".to_owned(),
        settings: None,
        admitted: false,
        link: None,
        links: 0,
        farewell: None,
        secured: false,
        run: None,
        last_poll: None,
        end: None,
    };
    systemd::notify("READY=1");
    while daemon.end.is_none() {
        let happening = daemon.select().await;
        daemon.handle(happening);
    }
    serving.abort();
    // The socket's file goes before the lock does.
    let _ = serving.await;
    let ended = daemon.stop().await;
    node.abort();
    ended
}

/// corosync takes a second device of the same name for the first, come back, so the stock device
/// must not run beside us; where its directory is, it may.
fn stock_lock(options: &Options) -> anyhow::Result<Option<Lock>> {
    let path = Path::new(config::STOCK_LOCK);
    let beside = options.host == HostKind::Corosync && options.lock_file() != path;
    if !beside || !path.parent().is_some_and(Path::exists) {
        return Ok(None);
    }
    let lock = Lock::take(path).context("the stock device runs: stop corosync-qdevice")?;
    Ok(Some(lock))
}

fn directory(what: &str, path: &Path, flag: &str) -> anyhow::Result<()> {
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => bail!(
            "{what} {}: it is not a directory; create it, or name another with {flag}",
            path.display()
        ),
        Err(error) => {
            bail!("{what} {}: {error}; create it, or name another with {flag}", path.display())
        }
    }
}

/// SIGTERM and SIGINT end the daemon.
fn follow_signals(reports: &mpsc::Sender<Happening>) -> anyhow::Result<()> {
    let signals = [(SignalKind::terminate(), "SIGTERM"), (SignalKind::interrupt(), "SIGINT")];
    for (kind, name) in signals {
        let mut signal = signal(kind).with_context(|| format!("cannot wait for {name}"))?;
        let reports = reports.clone();
        tokio::spawn(async move {
            while signal.recv().await.is_some() {
                if reports.send(Happening::Stop(name)).await.is_err() {
                    return;
                }
            }
        });
    }
    Ok(())
}
