//! The arbiter in the world: sockets, TLS, the journal's disk, signals.
//!
//! One thread waits and acts. [`Daemon::select`] waits for whatever comes first;
//! [`Daemon::handle`] tells the machine ([`crate::core`]) and does what it wants done. Every
//! connection is a task of its own ([`connection`]) that talks with the daemon over bounded
//! queues; the journal is a thread of its own ([`crate::journal::writer`]), because a disk may
//! stall.
//!
//! To try it without root: `haguard qnetd -f --state-dir D --run-dir D --tls-ca F --tls-cert F
//! --tls-key F --listen 127.0.0.1:5403`, and `corosync-qnetd-tool -s -p D/qnetd.sock`.

mod connection;
mod credentials;
mod listen;
mod local;
mod request;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use certs::ArbiterTls;
use host::clock::Clock;
use host::local::{Answer, Local};
use host::lock::Lock;
pub use host::signals::{Order, follow_signals};
use host::systemd;
use protocol::qnet::TlsSupport;
use protocol::status::ArbiterStatus;
use protocol::time::{Hurry, Time};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{debug, error, info, warn};

use crate::config::Options;
use crate::core::{Action, Arbiter, ClientId, CloseReason, Event};
use crate::journal::writer::{Stored, Writer};
use crate::journal::{Journal, Record};
use crate::tool;
use connection::{CONTROL_SLOTS, Command, Gone, Line, Report, Reported};
use credentials::Stamp;
pub(crate) use listen::Port;
use local::{Desk, Query};
use request::Request;
use watch::Gossip;
pub(crate) use watch::descriptors;

/// Reports of all connections that wait for the daemon.
const REPORTS_MAX: usize = 256;

/// Connections that have not introduced themselves; the oldest makes room for the next.
const STRANGERS_MAX: usize = 1024;

/// File descriptors kept for everything that is no client.
const DESCRIPTORS_RESERVED: usize = 64;

/// From one look at the certificates' files to the next.
const KEYS_LOOK: Duration = Duration::from_secs(1);

/// How long a stop may take.
const STOP_LIMIT: Duration = Duration::from_secs(3);

/// Runs an arbiter until a signal or its local socket stops it.
///
/// # Errors
/// Why it could not start, in one line with [`anyhow::Error`]'s alternate form.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let (orders, received) = mpsc::channel(8);
    follow_signals(orders.clone()).context("cannot catch signals")?;
    serve(options, (orders, received), None).await
}

/// The same with orders from wherever the caller takes them; says on `ready` where it listens.
///
/// # Errors
/// As [`run`].
pub async fn serve(
    options: Options,
    orders: (mpsc::Sender<Order>, mpsc::Receiver<Order>),
    ready: Option<oneshot::Sender<SocketAddr>>,
) -> anyhow::Result<()> {
    let (orders, received) = orders;
    let started = Daemon::start(options, orders, received).await;
    let (mut daemon, local, lock) = started?;
    systemd::notify("READY=1");
    if let Some(ready) = ready {
        // Who does not wait for it does not need it.
        let _ = ready.send(daemon.port.address()?);
    }
    while daemon.running {
        let happening = daemon.select().await;
        daemon.handle(happening);
    }
    drop(local);
    daemon.stop().await;
    drop(lock);
    Ok(())
}

/// Checks what can be checked before the daemon starts: its certificates.
///
/// # Errors
/// Which file, what is wrong with it, what to do.
pub fn check(options: &Options) -> anyhow::Result<()> {
    credentials::at_start(options).map(|_| ())
}

/// The local socket's task, which ends with its owner.
struct LocalTask(AbortHandle);

impl Drop for LocalTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Everything that the daemon waits for.
#[derive(Debug)]
enum Happening {
    Accepted(TcpStream, SocketAddr),
    Reported(ClientId, Report),
    Stored(Stored),
    Asked(Query),
    Ordered(Order),
    Reloaded(anyhow::Result<ArbiterTls>),
    /// A deadline of the machine, or the next look at the certificates.
    Time,
    /// The task of a connection has ended.
    Ended,
}

/// One connection, seen from here.
struct Client {
    commands: mpsc::Sender<Command>,
    read_on: mpsc::Sender<()>,
    /// The handshake has been started and is not over.
    shakes_hands: bool,
    closing: oneshot::Sender<()>,
    task: AbortHandle,
    address: String,
}

struct Daemon {
    options: Options,
    clock: Clock,
    arbiter: Arbiter,
    port: Port,
    tls: Option<ArbiterTls>,
    disk: Writer,
    /// Why the last grant could not be stored.
    disk_trouble: Option<String>,
    /// Why the certificates were not read again when they should have been.
    tls_trouble: Option<String>,
    /// The files that `tls` was read from.
    keys: Stamp,
    /// When they are looked at next.
    keys_due: Instant,
    clients: BTreeMap<ClientId, Client>,
    /// The clients that have not introduced themselves, oldest first.
    strangers: BTreeSet<ClientId>,
    clients_made: u64,
    clients_max: usize,
    tasks: JoinSet<()>,
    reports: (mpsc::Sender<Reported>, mpsc::Receiver<Reported>),
    queries: mpsc::Receiver<Query>,
    orders: mpsc::Receiver<Order>,
    reload: JoinSet<anyhow::Result<ArbiterTls>>,
    gossip: Gossip,
    running: bool,
}

impl Daemon {
    async fn start(
        options: Options,
        orders: mpsc::Sender<Order>,
        received: mpsc::Receiver<Order>,
    ) -> anyhow::Result<(Self, LocalTask, Lock)> {
        for note in options.given.notes().iter().cloned().chain(options.tls_warning()) {
            warn!("{note}");
        }
        let lock_file = options.lock_file();
        for path in [&lock_file, &options.local_socket_file()] {
            if let Some(directory) = path.parent() {
                // If it cannot be made, what follows says why better.
                let _ = std::fs::create_dir_all(directory);
            }
        }
        let lock = Lock::take(&lock_file)?;
        let keys = Stamp::of(&options);
        let tls = credentials::at_start(&options)?;
        let mut tls_trouble = None;
        if tls.is_none() && options.core.tls != TlsSupport::Unsupported {
            let text = format!(
                "{}: no certificates yet, so clients with tls are turned away: make them with \
                 corosync-qnetd-certutil -i, or take over those of corosync-qnetd with haguard certs \
                 import; they are used as soon as they are there",
                options.tls_cert.display()
            );
            warn!("{text}");
            tls_trouble = Some(text);
        }
        // The port first: a start that fails for it leaves the state directory as it is.
        let port = Port::open(&options).await?;
        let run_dir = lock_file.parent().unwrap_or(Path::new("."));
        let opened = Journal::open_beside(&options.state_dir, run_dir, host::file::boot_id())?;
        for note in &opened.notes {
            warn!("{note}");
        }
        let mut clock = Clock::start(Hurry::Slow);
        let memory = opened.memory;
        info!("arbiter {}, start {} of its state directory", memory.arbiter, memory.boot);
        let (queries, queries_received) = mpsc::channel(8);
        let local = Local::open(&options.local_socket_file(), &options.given.socket)?;
        let local = tokio::spawn(local.serve(Desk { queries, orders }));
        info!("listening on {}", port.address()?);
        let daemon = Self {
            arbiter: Arbiter::new(clock.now(), options.core.clone(), memory),
            clock,
            port,
            tls,
            disk: Writer::start(opened.journal).context("cannot start the journal's thread")?,
            disk_trouble: None,
            tls_trouble,
            keys,
            keys_due: Instant::now() + KEYS_LOOK,
            clients: BTreeMap::new(),
            strangers: BTreeSet::new(),
            clients_made: 0,
            clients_max: descriptors().saturating_sub(DESCRIPTORS_RESERVED).max(1),
            tasks: JoinSet::new(),
            reports: mpsc::channel(REPORTS_MAX),
            queries: queries_received,
            orders: received,
            reload: JoinSet::new(),
            gossip: Gossip::default(),
            running: true,
            options,
        };
        Ok((daemon, LocalTask(local.abort_handle()), lock))
    }

    /// Waits; changes nothing.
    async fn select(&mut self) -> Happening {
        let now = self.clock.now();
        let wait = self.arbiter.deadline().filter(|at| *at != Time::NEVER).map(|at| at.since(now));
        let due = wait.map(|wait| Instant::now() + wait);
        let due = due.into_iter().chain([self.keys_due]).min();
        tokio::select! {
            Some(order) = self.orders.recv() => Happening::Ordered(order),
            stored = self.disk.stored() => Happening::Stored(stored),
            () = until(due) => Happening::Time,
            Some((client, report)) = self.reports.1.recv() => Happening::Reported(client, report),
            Some(query) = self.queries.recv() => Happening::Asked(query),
            Some(_) = self.tasks.join_next() => Happening::Ended,
            Some(reloaded) = self.reload.join_next() => {
                Happening::Reloaded(reloaded.unwrap_or_else(|error| Err(error.into())))
            }
            (socket, address) = self.port.accept() => Happening::Accepted(socket, address),
        }
    }

    /// Acts on what has happened, and on the time that has passed.
    fn handle(&mut self, happening: Happening) {
        match happening {
            Happening::Accepted(socket, address) => self.accept(socket, address),
            Happening::Reported(client, report) => self.reported(client, report),
            Happening::Stored(stored) => self.stored(stored),
            Happening::Asked(query) => self.asked(query),
            Happening::Ordered(Order::Stop) => self.running = false,
            Happening::Ordered(Order::Reload) => self.start_reload(),
            Happening::Reloaded(reloaded) => self.reloaded(reloaded),
            Happening::Time | Happening::Ended => {}
        }
        if self.keys_due <= Instant::now() {
            self.look_at_keys();
        }
        let now = self.clock.now();
        if self.arbiter.deadline().is_some_and(|at| at <= now) {
            self.tell(Event::Timeout);
        }
    }

    /// Tells the machine and does what it wants.
    fn tell(&mut self, event: Event) {
        let now = self.clock.now();
        self.arbiter.handle(now, event);
        while let Some(action) = self.arbiter.next_action() {
            match action {
                Action::Send { client, bytes } => self.send(client, bytes),
                Action::StartTls { client } => self.start_tls(client),
                Action::Close { client, reason } => self.close(client, reason),
                Action::Persist { token, record } => {
                    if !self.disk.store(token, record) {
                        self.tell_later(Event::PersistFailed(token));
                    }
                }
                Action::PersistFencing { token, record } => {
                    if !self.disk.store(token, Record::Fencing { fencing: record }) {
                        self.tell_later(Event::PersistFailed(token));
                    }
                }
                Action::Decided { cluster, text } => info!(%cluster, "{text}"),
            }
        }
    }

    /// Tells the machine something that one of its own actions has led to; what it wants then
    /// comes in its turn.
    fn tell_later(&mut self, event: Event) {
        let now = self.clock.now();
        self.arbiter.handle(now, event);
    }

    fn accept(&mut self, socket: TcpStream, address: SocketAddr) {
        let configured = Some(self.options.core.max_clients).filter(|max| *max != 0);
        let full = configured.is_some_and(|max| self.clients.len() >= max)
            || self.tasks.len() >= self.clients_max;
        if (full || self.strangers.len() >= STRANGERS_MAX)
            && let Some(oldest) = self.strangers.first().copied()
        {
            debug!("too many connections: the oldest without introduction is closed");
            self.abandon(oldest);
            self.tell(Event::Closed { client: oldest });
        } else if self.tasks.len() >= self.clients_max {
            warn!("{address}: refused: the system allows this daemon no more connections");
            return;
        }
        self.clients_made += 1;
        let client = ClientId(self.clients_made);
        let address = format!("{}:{}", address.ip(), address.port());
        let (commands, received) =
            mpsc::channel(self.options.max_client_send_buffers + CONTROL_SLOTS);
        let (closing, closed) = oneshot::channel();
        let (read_on, go) = mpsc::channel(1);
        let line = Line {
            client,
            commands: received,
            read_on: go,
            closing: closed,
            reports: self.reports.0.clone(),
            message_limit_bytes: self.options.core.max_message_bytes,
            handshake_limit: self.options.handshake_limit,
        };
        let task = self.tasks.spawn(line.serve(socket));
        let shakes_hands = false;
        let known =
            Client { commands, read_on, shakes_hands, closing, task, address: address.clone() };
        self.clients.insert(client, known);
        self.strangers.insert(client);
        self.tell(Event::Connected { client, address });
    }

    fn reported(&mut self, client: ClientId, report: Report) {
        // What a connection said before it knew that it was closed is nothing any more.
        let Some(known) = self.clients.get_mut(&client) else { return };
        let event = match report {
            Report::Message(frame) => Event::Received { client, frame },
            Report::TooLong => Event::TooLong { client },
            Report::Secured(identity) => {
                known.shakes_hands = false;
                self.tell(Event::Secured { client, identity });
                return;
            }
            Report::Gone(gone) => {
                match gone {
                    Gone::Tls(error) => self.gossip.say(&known.address, &error.to_string()),
                    Gone::Eof | Gone::Io(_) | Gone::Closed => debug!("{}: {gone}", known.address),
                }
                self.abandon(client);
                self.tell(Event::Closed { client });
                return;
            }
        };
        self.tell(event);
        if self.arbiter.has_joined(client) {
            self.strangers.remove(&client);
        }
        let known = self.clients.get(&client).filter(|known| !known.shakes_hands);
        // There is room: a connection has one message in the works. Or its task has ended.
        let _ = known.map(|known| known.read_on.try_send(()));
    }

    fn send(&mut self, client: ClientId, bytes: Vec<u8>) {
        let Some(known) = self.clients.get(&client) else { return };
        let limit = usize::try_from(self.options.core.max_reply_bytes).unwrap_or(usize::MAX);
        if known.commands.capacity() <= CONTROL_SLOTS {
            info!("{}: closed: it does not read what it is sent", known.address);
        } else if bytes.len() > limit {
            info!("{}: closed: an answer would be over max_client_send_size", known.address);
        } else {
            self.command(client, Command::Send(bytes));
            return;
        }
        self.abandon(client);
        // What follows from that comes in its turn.
        let now = self.clock.now();
        self.arbiter.cut(now, client);
    }

    fn start_tls(&mut self, client: ClientId) {
        let Some(tls) = self.tls.clone() else {
            self.close(client, CloseReason::TlsUnavailable);
            return;
        };
        if let Some(known) = self.clients.get_mut(&client) {
            known.shakes_hands = true;
        }
        self.command(client, Command::StartTls(tls));
    }

    /// Queues a command; there is room for it, or the client is sent too much and closed before.
    fn command(&mut self, client: ClientId, command: Command) {
        let Some(known) = self.clients.get(&client) else { return };
        if known.commands.try_send(command).is_err() {
            // The task has ended, and its report is on the way.
            debug!("{}: gone", known.address);
        }
    }

    /// Lets a client read what is queued, and closes it.
    fn close(&mut self, client: ClientId, reason: CloseReason) {
        let Some(known) = self.clients.remove(&client) else { return };
        let text = format!("closed: {}", describe(reason));
        if self.strangers.remove(&client) {
            self.gossip.say(&known.address, &text);
        } else {
            info!("{}: {text}", known.address);
        }
        // A task that has ended needs no telling.
        let _ = known.closing.send(());
    }

    /// Cuts a client off at once.
    fn abandon(&mut self, client: ClientId) {
        self.strangers.remove(&client);
        if let Some(known) = self.clients.remove(&client) {
            known.task.abort();
        }
    }

    fn stored(&mut self, stored: Stored) {
        for note in &stored.notes {
            warn!("{note}");
        }
        if stored.tokens.is_empty() {
            return;
        }
        if let Some(text) = &stored.error
            && self.disk_trouble.as_ref() != Some(text)
        {
            error!("no grant can be given: {text}");
        }
        let failed = stored.error.is_some();
        self.disk_trouble = stored.error;
        for token in stored.tokens {
            self.tell(if failed { Event::PersistFailed(token) } else { Event::Persisted(token) });
        }
    }

    fn asked(&mut self, query: Query) {
        let answer = match query.request {
            Request::Status { verbose } => {
                let counts = (self.arbiter.client_count(), self.arbiter.stock_clusters().len());
                Answer::Text(tool::status_text(&self.options, counts, verbose))
            }
            Request::List { verbose, cluster } => {
                let clusters = self.arbiter.stock_clusters();
                Answer::Text(tool::list_text(&clusters, cluster.as_deref(), verbose))
            }
            Request::HaguardStatus => match serde_json::to_string(&self.status()) {
                Ok(json) => Answer::Text(format!("{json}\n")),
                Err(error) => Answer::Error(format!("Can't get QNetd status: {error}")),
            },
            Request::Shutdown => Answer::ThenStop,
            Request::Nothing => Answer::Error("No command specified".to_owned()),
            Request::Unknown(word) => {
                Answer::Error(format!("Unknown command '{}'", String::from_utf8_lossy(&word)))
            }
        };
        // A local client that has left needs no answer.
        let _ = query.answer.send(answer);
    }

    fn status(&mut self) -> ArbiterStatus {
        let now = self.clock.now();
        let mut status = self.arbiter.status(now);
        status.address = tool::address(&self.options);
        status.tls = tool::tls_word(self.options.core.tls).to_owned();
        status.warnings.extend(self.options.tls_warning());
        let trouble = self.disk_trouble.iter();
        status.warnings.extend(trouble.map(|text| format!("no grant can be given: {text}")));
        status.warnings.extend(self.tls_trouble.clone());
        status
    }

    /// Reads the certificates when their files have changed.
    fn look_at_keys(&mut self) {
        self.keys_due = Instant::now() + KEYS_LOOK;
        let keys = Stamp::of(&self.options);
        if keys != self.keys && keys.is_complete() && self.reload.is_empty() {
            self.keys = keys;
            self.start_reload();
        }
    }

    fn start_reload(&mut self) {
        if self.options.core.tls != TlsSupport::Unsupported {
            let options = self.options.clone();
            self.reload.spawn_blocking(move || credentials::load(&options));
        }
    }

    fn reloaded(&mut self, reloaded: anyhow::Result<ArbiterTls>) {
        self.tls_trouble = match reloaded {
            Ok(tls) => {
                self.tls = Some(tls);
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

    /// Lets grants that are being stored get there and be told, then closes every client.
    async fn stop(mut self) {
        systemd::notify("STOPPING=1");
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
        for (_, client) in std::mem::take(&mut self.clients) {
            // A task that has ended needs no telling.
            let _ = client.closing.send(());
        }
        let closed = async {
            // Ending tasks report; nobody needs to hear it.
            self.reports.1.close();
            while self.tasks.join_next().await.is_some() {}
        };
        if timeout(STOP_LIMIT, closed).await.is_err() {
            warn!("some clients did not let themselves be closed");
        }
        if !self.disk.is_busy() {
            self.disk.stop();
        }
        info!("stopped");
    }
}

/// Waits until then; without a time, without end.
pub(crate) async fn until(due: Option<Instant>) {
    match due {
        // A moment more, so that the deadline has passed when the clock is read.
        Some(at) => tokio::time::sleep_until(at + Duration::from_millis(1)).await,
        None => std::future::pending().await,
    }
}

fn describe(reason: CloseReason) -> &'static str {
    match reason {
        CloseReason::TlsUnavailable => {
            "it asked for tls, which is off here (-s off), or has no certificates yet"
        }
        CloseReason::WrongIdentity => {
            "its certificate is for another cluster or node; see its configuration"
        }
        CloseReason::TooSlow => "it did not introduce itself in time",
        CloseReason::Silent => "nothing was heard of it for too long",
        CloseReason::Replaced => "its process has connected anew",
        CloseReason::TooManyClients => "there are as many clients as -m allows",
        CloseReason::Unconfirmed => "it did not confirm that it has lost the vote",
        CloseReason::Fenced => "its node is off",
        CloseReason::TooManyGateways => "its cluster's gateways have too many connections",
    }
}
