//! The gateway in the world: HTTPS and the local socket, the session with the arbiter, the devices'
//! work, the journal's disk, signals.
//!
//! One thread waits and acts. [`Daemon::select`] waits for whatever comes first;
//! [`Daemon::handle`] tells the machine ([`crate::core`]) and does what it wants done. Every door,
//! every command to a device and the session with the arbiter is a task of its own; the journal is
//! a thread of its own, because a disk may stall.
//!
//! To try it without root: `haguard fence gateway --config F --state-dir D --run-dir D --tls-ca F
//! --tls-cert F --tls-key F --listen 127.0.0.1:5413 --arbiter 127.0.0.1:5403`.
//!
//! # Layout
//! * [`setup`]: from options, file, certificates and passwords to what the daemon runs with.
//! * [`web`], [`local`]: the doors; [`desk`]: what they ask.
//! * [`arbiter`]: the session with the arbiter.
//! * [`switch`]: one power switch, whatever its kind; [`known`]: who answered there first;
//!   [`agents`]: what the programs among them can do.
//! * [`disk`], [`history`]: the journal, written and read.
//! * [`numbers`]: what is counted.

mod agents;
mod arbiter;
mod desk;
mod disk;
mod history;
mod known;
pub mod local;
mod numbers;
mod setup;
mod switch;
mod web;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use host::clock::Clock;
use host::lock::Lock;
pub use host::signals::{Order, follow_signals};
use host::systemd;
use protocol::fence::{Call, GatewayStatus, Progress};
use protocol::ids::ClusterName;
use protocol::rng::Rng;
use protocol::time::{Hurry, Time};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch as shared};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tracing::{error, info, warn};

use crate::config::CONFIG_FILE;
use crate::config::value::Endpoint;
use crate::core::{Action, AttemptId, DeviceName, Event, Gateway, RequestId};
use crate::device::{Command, DeviceError, Seen};
use crate::journal::Journal;
use agents::Agents;
use arbiter::{Link, Report};
use desk::{Desk, Query, Wish};
use disk::{Disk, Stored};
use history::History;
use known::Known;
use local::Local;
use numbers::Numbers;
use setup::{Places, Setup, Stamp};
use switch::Switch;
use web::{Rooms, Web};

/// The lock in the state directory and in the run directory: one gateway a place.
const LOCK_FILE: &str = "gateway.pid";

/// Reports of the session with the arbiter that wait for the daemon.
const REPORTS_MAX: usize = 64;

/// From one look at the certificates' files to the next.
const KEYS_LOOK: Duration = Duration::from_secs(2);

/// How long a stop waits for jobs that run. What is not over by then is in the journal, and the
/// next start reads its true state from the devices.
const JOBS_LIMIT: Duration = Duration::from_secs(20);

/// How long a stop waits for the disk, and for requesters to take their last line.
const STOP_LIMIT: Duration = Duration::from_secs(2);

/// The gateway's options. What is none is as the file says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Options {
    /// The file.
    pub config: PathBuf,
    /// Where the journal is kept.
    pub state_dir: Option<PathBuf>,
    /// Where the lock and the local socket are.
    pub run_dir: Option<PathBuf>,
    /// The authority that signed the certificates of the cluster's nodes and of the arbiter, PEM.
    pub tls_ca: Option<PathBuf>,
    /// The gateway's certificate chain, PEM.
    pub tls_cert: Option<PathBuf>,
    /// Its private key, PEM.
    pub tls_key: Option<PathBuf>,
    /// Where requesters come to.
    pub listen: Option<SocketAddr>,
    /// Where the cluster's arbiter is.
    pub arbiter: Option<Endpoint>,
    /// Where `/metrics` is served.
    pub metrics: Option<SocketAddr>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            config: CONFIG_FILE.into(),
            state_dir: None,
            run_dir: None,
            tls_ca: None,
            tls_cert: None,
            tls_key: None,
            listen: None,
            arbiter: None,
            metrics: None,
        }
    }
}

/// Where a running gateway listens.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ports {
    /// HTTPS.
    pub https: SocketAddr,
    /// The numbers, if they are served.
    pub metrics: Option<SocketAddr>,
}

/// Runs a gateway until a signal stops it.
///
/// # Errors
/// Why it could not start, in one line with [`anyhow::Error`]'s alternate form.
pub async fn run(options: Options) -> anyhow::Result<()> {
    // Passwords are in this memory (prctl(2), PR_SET_DUMPABLE).
    nix::sys::prctl::set_dumpable(false).context("cannot switch off core dumps")?;
    let (orders, received) = mpsc::channel(8);
    follow_signals(orders).context("cannot catch signals")?;
    serve(options, received, None).await
}

/// The same with orders from wherever the caller takes them; says on `ready` where it listens.
///
/// # Errors
/// As [`run`].
pub async fn serve(
    options: Options,
    orders: mpsc::Receiver<Order>,
    ready: Option<oneshot::Sender<Ports>>,
) -> anyhow::Result<()> {
    let (mut daemon, ports) = Daemon::start(options, orders).await?;
    systemd::notify("READY=1");
    if let Some(ready) = ready {
        // Who does not wait for it does not need it.
        let _ = ready.send(ports);
    }
    while daemon.running {
        let happening = daemon.select().await;
        daemon.handle(happening);
    }
    daemon.stop().await;
    Ok(())
}

/// Reads what a start would read: the file, the certificates, the passwords.
///
/// # Errors
/// The first thing that is wrong, in one line with [`anyhow::Error`]'s alternate form.
pub fn check(options: &Options) -> anyhow::Result<Vec<String>> {
    Ok(Setup::load(options)?.settings.warnings)
}

/// Everything that the daemon waits for.
#[derive(Debug)]
enum Happening {
    Asked(Query),
    Arbiter(u64, Report),
    Stored(Stored),
    Commanded(Commanded),
    Ordered(Order),
    Reloaded(Reloaded),
    /// A deadline of the machine, of the stop, or the next look at the certificates.
    Time,
}

/// What came of a command to a device.
#[derive(Debug)]
struct Commanded {
    attempt: AttemptId,
    device: DeviceName,
    command: Command,
    result: Result<Seen, DeviceError>,
    took: Duration,
}

/// What was read anew.
enum Reloaded {
    All(Box<anyhow::Result<Setup>>),
    Keys(anyhow::Result<TlsAcceptor>),
}

impl std::fmt::Debug for Reloaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reloaded")
    }
}

/// A task that ends with its owner.
#[derive(Debug)]
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Both ends of what the session with the arbiter says.
type Reports = (mpsc::Sender<(u64, Report)>, mpsc::Receiver<(u64, Report)>);

struct Daemon {
    options: Options,
    places: Places,
    clock: Clock,
    gateway: Gateway,
    known: Known,
    switches: BTreeMap<DeviceName, Switch>,
    agents: Agents,
    commands: JoinSet<Commanded>,
    disk: Disk,
    /// Why the last entry could not be stored.
    disk_trouble: Option<String>,
    link: Link,
    links_made: u64,
    /// To the arbiter, while its session is up.
    calls: Option<mpsc::Sender<Call>>,
    reports: Reports,
    queries: mpsc::Receiver<Query>,
    requesters: BTreeMap<RequestId, mpsc::Sender<Progress>>,
    requests_made: u64,
    orders: mpsc::Receiver<Order>,
    reload: JoinSet<Reloaded>,
    /// Why the file was not taken over when it should have been.
    config_trouble: Option<String>,
    /// The same of the certificates.
    tls_trouble: Option<String>,
    warnings: Vec<String>,
    keys: Stamp,
    keys_due: Instant,
    tls: shared::Sender<TlsAcceptor>,
    stopping: shared::Sender<bool>,
    stop_due: Option<Instant>,
    web: JoinHandle<()>,
    numbers: Numbers,
    rng: Rng,
    running: bool,
    _doors: Vec<Task>,
    _locks: [Lock; 2],
}

impl Daemon {
    async fn start(
        options: Options,
        orders: mpsc::Receiver<Order>,
    ) -> anyhow::Result<(Self, Ports)> {
        let Setup { settings, places, known, switches, tls, keys } = Setup::load(&options)?;
        for warning in &settings.warnings {
            warn!("{warning}");
        }
        let locks = lock(&places)?;
        let seed = host::file::random_u128()?;
        let mut rng = Rng::new((seed >> 64) as u64 ^ seed as u64);
        // The ports first: a start that fails for them leaves the journal as it is.
        let listener = listen(places.listen).await?;
        let metrics = match places.metrics {
            Some(address) => Some(listen(address).await?),
            None => None,
        };
        let ports = Ports {
            https: listener.local_addr()?,
            metrics: metrics.as_ref().map(TcpListener::local_addr).transpose()?,
        };
        let (journal, memory) = Journal::open(&places.state_dir, disk::unix_ms())?;
        let history = History::new(journal.path());
        // The smaller step of the two clocks: what a watchdog has had time for is never overstated.
        let mut clock = Clock::start(Hurry::Slow);
        let gateway = Gateway::new(clock.now(), settings.core(), memory, rng.next_u64());
        let (desk, queries) = Desk::new();
        let (tls, tls_read) = shared::channel(tls);
        let (stopping, stopping_read) = shared::channel(false);
        let cluster = ClusterName::from(settings.cluster.as_str());
        let rooms = Rooms { desk: desk.clone(), history, cluster };
        let local = Local::open(&places.run_dir.join(local::SOCKET))?;
        let mut doors = vec![tokio::spawn(local.serve(rooms.clone()))];
        doors.extend(metrics.map(|port| tokio::spawn(web::serve_metrics(port, desk))));
        let web = Web { listener, tls: tls_read, rooms, stopping: stopping_read };
        let reports = mpsc::channel(REPORTS_MAX);
        let link = Link::start(1, places.arbiter.clone(), rng.next_u64(), reports.0.clone());
        info!("the gateway of cluster {} listens on {}", settings.cluster, ports.https);
        let daemon = Self {
            options,
            places,
            clock,
            gateway,
            known,
            agents: Agents::of(&settings, &switches),
            switches,
            commands: JoinSet::new(),
            disk: Disk::start(journal).context("cannot start the journal's thread")?,
            disk_trouble: None,
            link,
            links_made: 1,
            calls: None,
            reports,
            queries,
            requesters: BTreeMap::new(),
            requests_made: 0,
            orders,
            reload: JoinSet::new(),
            config_trouble: None,
            tls_trouble: None,
            warnings: settings.warnings,
            keys,
            keys_due: Instant::now() + KEYS_LOOK,
            tls,
            stopping,
            stop_due: None,
            web: tokio::spawn(web.serve()),
            numbers: Numbers::default(),
            rng,
            running: true,
            _doors: doors.iter().map(|door| Task(door.abort_handle())).collect(),
            _locks: locks,
        };
        Ok((daemon, ports))
    }

    /// Waits; changes nothing.
    async fn select(&mut self) -> Happening {
        let now = self.clock.now();
        let wait = self.gateway.deadline().filter(|at| *at != Time::NEVER).map(|at| at.since(now));
        // A moment more, so that the deadline has passed when the clock is read.
        let due = wait.map(|wait| Instant::now() + wait + Duration::from_millis(1));
        let due = due.into_iter().chain(self.stop_due).chain([self.keys_due]).min();
        let due = due.unwrap_or(self.keys_due);
        tokio::select! {
            Some(order) = self.orders.recv() => Happening::Ordered(order),
            stored = self.disk.stored() => Happening::Stored(stored),
            Some((link, report)) = self.reports.1.recv() => Happening::Arbiter(link, report),
            Some(done) = self.commands.join_next() => match done {
                Ok(done) => Happening::Commanded(done),
                // A client that panicked said nothing; the machine's own limit ends the attempt.
                Err(_) => Happening::Time,
            },
            Some(query) = self.queries.recv() => Happening::Asked(query),
            Some(Ok(reloaded)) = self.reload.join_next() => {
                Happening::Reloaded(reloaded)
            }
            () = tokio::time::sleep_until(due) => Happening::Time,
        }
    }

    /// Acts on what has happened, and on the time that has passed.
    fn handle(&mut self, happening: Happening) {
        match happening {
            Happening::Asked(query) => self.asked(query),
            Happening::Arbiter(link, report) => self.heard(link, report),
            Happening::Stored(stored) => self.stored(stored),
            Happening::Commanded(done) => self.commanded(done),
            Happening::Ordered(Order::Stop) => self.begin_stop(),
            Happening::Ordered(Order::Reload) => self.reload_all(),
            Happening::Reloaded(reloaded) => match reloaded {
                Reloaded::All(setup) => self.take_over(*setup),
                Reloaded::Keys(tls) => self.take_keys(tls),
            },
            Happening::Time => {}
        }
        self.disk.look();
        self.agents.look();
        if self.keys_due <= Instant::now() {
            self.look_at_keys();
        }
        let now = self.clock.now();
        if self.gateway.deadline().is_some_and(|at| at <= now) {
            self.tell(Event::Timeout);
        }
        if self.stop_due.is_some_and(|due| due <= Instant::now() || self.is_idle()) {
            self.running = false;
        }
    }

    /// Tells the machine and does what it wants.
    fn tell(&mut self, event: Event) {
        let now = self.clock.now();
        self.gateway.handle(now, event);
        while let Some(action) = self.gateway.next_action() {
            match action {
                Action::Record { token, entry } => {
                    self.numbers.recorded(&entry);
                    if !self.disk.store(token, entry) {
                        self.tell_later(Event::RecordFailed(token));
                    }
                }
                Action::Ask { nonce, ask } => {
                    if let Some(calls) = &self.calls {
                        // A session that has ended says so itself, and with it ends this call.
                        let _ = calls.try_send(Call { nonce, ask });
                    }
                }
                Action::Device { attempt, device, command, limit } => {
                    self.command(attempt, device, command, limit);
                }
                Action::Tell { id, progress } => self.tell_requester(id, progress),
                Action::Decided(text) => info!("{text}"),
            }
        }
    }

    /// Tells the machine something that one of its own actions has led to; what it wants then
    /// comes in its turn.
    fn tell_later(&mut self, event: Event) {
        let now = self.clock.now();
        self.gateway.handle(now, event);
    }

    fn tell_requester(&mut self, id: RequestId, progress: Progress) {
        let Some(requester) = self.requesters.get(&id) else { return };
        let over = matches!(progress, Progress::Done { .. });
        let told = requester.try_send(progress).is_ok();
        if over || !told {
            self.requesters.remove(&id);
        }
        if !over && !told {
            // It has left, or does not read.
            self.tell_later(Event::Abandoned(id));
        }
    }

    fn command(
        &mut self,
        attempt: AttemptId,
        device: DeviceName,
        command: Command,
        limit: Duration,
    ) {
        let Some(switch) = self.switches.get(&device).cloned() else {
            let text = format!("there is no device '{device}' any more: see the configuration");
            let result = Err(DeviceError::Local(text));
            self.tell_later(Event::Device { attempt, result, took: Duration::ZERO });
            return;
        };
        self.commands.spawn(async move {
            let began = Instant::now();
            // A panic in a client is an answer too: the machine waits for one.
            let work = tokio::spawn(switch.run(command, limit));
            let _ends_with_this = Task(work.abort_handle());
            let result = match work.await {
                Ok(result) => result,
                Err(error) => Err(DeviceError::Local(format!("the client failed: {error}"))),
            };
            Commanded { attempt, device, command, result, took: began.elapsed() }
        });
    }

    fn commanded(&mut self, done: Commanded) {
        let Commanded { attempt, device, command, result, took } = done;
        self.numbers.commanded(&device, command, result.is_ok());
        if let Some(switch) = self.switches.get(&device) {
            self.known.note(&device, switch);
        }
        self.tell(Event::Device { attempt, result, took });
    }

    fn asked(&mut self, query: Query) {
        match query {
            Query::Wish { wish, progress } => self.wished(wish, progress),
            Query::Testify(testimony, answer) => {
                // Who asked and left needs no answer.
                let _ = answer.send(self.gateway.is_open(testimony.nonce));
                self.tell(Event::Testified(testimony));
            }
            // The same here.
            Query::Status(answer) => drop(answer.send(self.status())),
            Query::Metrics(answer) => {
                let status = self.status();
                drop(answer.send(self.numbers.text(&status, self.calls.is_some())));
            }
        }
    }

    fn wished(&mut self, wish: Wish, progress: mpsc::Sender<Progress>) {
        self.numbers.wish();
        if self.stop_due.is_some() {
            // There is room for one line in a channel that is new.
            let why = "the gateway is stopping: ask again when it runs, or another gateway";
            let _ = progress.try_send(wish.refused(why));
            return;
        }
        self.requests_made += 1;
        let id = RequestId(self.requests_made);
        self.requesters.insert(id, progress);
        self.tell(match wish {
            Wish::Fence(request) => Event::Requested { id, request },
            Wish::Confirm(confirmation) => Event::Confirmed { id, confirmation },
            Wish::Test(node) => Event::Rehearse { id, node },
        });
    }

    fn heard(&mut self, link: u64, report: Report) {
        if link != self.link.number {
            return;
        }
        match report {
            Report::Up(calls) => {
                self.calls = Some(calls);
                self.tell(Event::ArbiterUp);
            }
            Report::Down(why) => {
                self.calls = None;
                self.tell(Event::ArbiterDown(why));
            }
            Report::Answered(answer) => self.tell(Event::Answered(answer)),
        }
    }

    fn stored(&mut self, stored: Stored) {
        if let Some(text) = &stored.error
            && self.disk_trouble.as_ref() != Some(text)
        {
            error!("no node can be fenced: {text}");
        }
        let failed = stored.error.is_some();
        self.disk_trouble = stored.error;
        for token in stored.tokens {
            self.tell(if failed { Event::RecordFailed(token) } else { Event::Recorded(token) });
        }
    }

    fn status(&mut self) -> GatewayStatus {
        let now = self.clock.now();
        let mut status = self.gateway.status(now);
        let disk = self.disk_trouble.iter().map(|text| format!("no node can be fenced: {text}"));
        status.alarms.extend(disk);
        status.alarms.extend(self.disk.stalled().map(|quiet| {
            let seconds = quiet.as_secs();
            format!("no node can be fenced: the journal's disk has not answered for {seconds} s")
        }));
        status.alarms.extend(self.agents.alarms().iter().cloned());
        status.alarms.extend(self.config_trouble.clone());
        status.alarms.extend(self.tls_trouble.clone());
        status.alarms.extend(self.warnings.iter().cloned());
        status
    }

    /// No job is running, and everything is on disk.
    fn is_idle(&mut self) -> bool {
        let now = self.clock.now();
        let status = self.gateway.status(now);
        !self.disk.is_busy() && status.nodes.values().all(|node| node.job.is_none())
    }

    fn begin_stop(&mut self) {
        if self.stop_due.is_some() {
            // Asked twice: at once.
            self.running = false;
            return;
        }
        systemd::notify("STOPPING=1");
        self.stop_due = Some(Instant::now() + JOBS_LIMIT);
        self.stopping.send_replace(true);
    }

    async fn stop(mut self) {
        let until = Instant::now() + STOP_LIMIT;
        while self.disk.is_busy() {
            match timeout_at(until, self.disk.stored()).await {
                Ok(stored) => self.stored(stored),
                Err(_) => {
                    warn!("stopping although the disk has not answered");
                    break;
                }
            }
        }
        self.requesters.clear();
        self.stopping.send_replace(true);
        if timeout(STOP_LIMIT, &mut self.web).await.is_err() {
            self.web.abort();
            warn!("some requesters did not take their last line");
        }
        if !self.disk.is_busy() {
            self.disk.stop();
        }
        info!("stopped");
    }
}

/// Reading the file and the certificates again.
impl Daemon {
    fn reload_all(&mut self) {
        if self.reload.is_empty() {
            let options = self.options.clone();
            self.reload.spawn_blocking(move || Reloaded::All(Box::new(Setup::load(&options))));
        }
    }

    /// Reads the certificates when their files have changed.
    fn look_at_keys(&mut self) {
        self.keys_due = Instant::now() + KEYS_LOOK;
        let keys = Stamp::of(&self.places.arbiter);
        if keys != self.keys && keys.is_complete() && self.reload.is_empty() {
            self.keys = keys;
            let places = self.places.clone();
            self.reload.spawn_blocking(move || Reloaded::Keys(places.acceptor()));
        }
    }

    fn take_keys(&mut self, tls: anyhow::Result<TlsAcceptor>) {
        self.tls_trouble = match tls {
            Ok(tls) => {
                self.tls.send_replace(tls);
                info!("certificates read again: new connections use them");
                None
            }
            Err(error) => {
                let trouble = format!("certificates not read again, the old ones stay: {error:#}");
                error!("{trouble}");
                Some(trouble)
            }
        };
    }

    fn take_over(&mut self, setup: anyhow::Result<Setup>) {
        let setup = match setup
            .and_then(|setup| self.places.may_become(&setup.places).map(|()| setup))
        {
            Ok(setup) => setup,
            Err(error) => {
                let trouble =
                    format!("the configuration was not taken over, the old one stays: {error:#}");
                error!("{trouble}");
                self.config_trouble = Some(trouble);
                return;
            }
        };
        for warning in &setup.settings.warnings {
            warn!("{warning}");
        }
        self.config_trouble = None;
        self.tls_trouble = None;
        self.warnings = setup.settings.warnings.clone();
        self.keys = setup.keys;
        self.tls.send_replace(setup.tls);
        let mut switches: BTreeMap<DeviceName, Switch> = setup
            .switches
            .into_iter()
            .map(|(name, new)| {
                let old = self.switches.get(&name);
                let switch = new.or_same(old);
                (name, switch)
            })
            .collect();
        if !self.is_idle() {
            // Jobs that run keep the devices that they began with.
            for (name, old) in std::mem::take(&mut self.switches) {
                switches.entry(name).or_insert(old);
            }
        }
        self.switches = switches;
        self.agents = Agents::of(&setup.settings, &self.switches);
        self.places = setup.places;
        if self.link.target != self.places.arbiter {
            self.links_made += 1;
            let target = self.places.arbiter.clone();
            let seed = self.rng.next_u64();
            self.link = Link::start(self.links_made, target, seed, self.reports.0.clone());
            self.calls = None;
            self.tell(Event::ArbiterDown("the arbiter's address was changed".to_owned()));
        }
        self.gateway.configure(setup.settings.core());
        // What the new configuration leads to is done at once.
        self.tell(Event::Timeout);
        info!("configuration and certificates read again");
    }
}

/// One gateway a place.
fn lock(places: &Places) -> anyhow::Result<[Lock; 2]> {
    certs::files::make_private_directory(&places.state_dir)?;
    // If it cannot be made, the lock says so better.
    let _ = std::fs::create_dir_all(&places.run_dir);
    let take = |directory: &Path| Lock::take(&directory.join(LOCK_FILE));
    Ok([take(&places.state_dir)?, take(&places.run_dir)?])
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}; is another gateway running, or the port taken?")
    })
}
