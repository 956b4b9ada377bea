//! Shadow mode in the world: it listens as the arbiter does, and each client gets a connection of
//! its own to the stock arbiter ([`relay`]). One thread waits and acts: [`Daemon::select`] waits
//! for whatever comes first, [`Daemon::handle`] tells the machine ([`crate::shadow::core`]) and
//! hands on what it says ([`report`]). Nothing that happens here reaches a client or the stock
//! arbiter, but that a connection is closed on one side when it is closed on the other.

mod credentials;
mod relay;
mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use host::clock::Clock;
use host::local::{Answer, Desk, Local};
use host::lock::Lock;
use host::systemd;
use protocol::ids::{ArbiterId, BootId};
use protocol::qnet::{MessageType, PORT};
use protocol::time::{Hurry, Time};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, timeout};
use tracing::{debug, error, info, warn};

use crate::config::Options;
use crate::core::Memory;
use crate::daemon::{Order, Port, descriptors, follow_signals, until};
use crate::shadow::core::{Action, Event, PairId, Shadow};
use credentials::Credentials;
use relay::{Gone, Line, Report, Reported};
use report::Reporter;

/// Reports of all pairs that wait for the daemon.
const REPORTS_MAX: usize = 256;

/// Clients that have not done their Init; the oldest makes room for the next.
const STRANGERS_MAX: usize = 256;

/// File descriptors kept for everything that is no pair.
const DESCRIPTORS_RESERVED: usize = 64;

/// How long a stop may take.
const STOP_LIMIT: Duration = Duration::from_secs(3);

/// The exit code after a run in which a difference was not explained.
const UNEXPLAINED: u8 = 3;

/// What `--shadow` and its companions say.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Plan {
    /// The stock arbiter's host and port.
    pub stock: (String, u16),
    /// The key of the authority in `--tls-ca`, with which clients are signed for the stock arbiter.
    pub ca_key: Option<PathBuf>,
    /// Where differences are written, one JSON object a line.
    pub report: Option<PathBuf>,
}

impl Plan {
    /// What the options say, if they ask for shadow mode.
    pub fn of(options: &Options) -> Option<Self> {
        Some(Self {
            stock: options.shadow.clone()?,
            ca_key: options.tls_ca_key.clone(),
            report: options.shadow_report.clone(),
        })
    }

    /// Reads the value of `--shadow`: `HOST`, `HOST:PORT`, `[IPV6]:PORT` or an IPv6 address.
    pub fn parse_host(value: &str) -> Option<(String, u16)> {
        let (host, port) = match value.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, port)) => (host, Some(port.strip_prefix(':')?)),
            None => match value.split_once(':') {
                Some((_, rest)) if rest.contains(':') => (value, None),
                Some((host, port)) => (host, Some(port)),
                None => (value, None),
            },
        };
        let port = port.map_or(Ok(PORT), str::parse).ok().filter(|port| *port != 0)?;
        (!host.is_empty()).then(|| (host.to_owned(), port))
    }
}

/// What a run has found.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Summary {
    /// All differences.
    pub differences: u64,
    /// Those by a correction.
    pub corrections: u64,
    /// Those by a wait of ours.
    pub waits: u64,
    /// Those that neither rule explains.
    pub bugs: u64,
}

impl Summary {
    /// 0, or 3 if a difference was not explained.
    pub fn exit_code(&self) -> ExitCode {
        if self.bugs == 0 { ExitCode::SUCCESS } else { ExitCode::from(UNEXPLAINED) }
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} differences: {} by corrections, {} by waits, {} not explained",
            self.differences, self.corrections, self.waits, self.bugs
        )
    }
}

/// Runs until a signal or the local socket stops it.
///
/// # Errors
/// Why it could not start, in one line with [`anyhow::Error`]'s alternate form.
pub async fn run(options: Options, plan: Plan) -> anyhow::Result<Summary> {
    let (orders, received) = mpsc::channel(8);
    follow_signals(orders.clone()).context("cannot catch signals")?;
    serve(options, plan, (orders, received), None).await
}

/// The same with orders from wherever the caller takes them; says on `ready` where it listens.
///
/// # Errors
/// As [`run`].
pub async fn serve(
    options: Options,
    plan: Plan,
    orders: (mpsc::Sender<Order>, mpsc::Receiver<Order>),
    ready: Option<oneshot::Sender<SocketAddr>>,
) -> anyhow::Result<Summary> {
    let lock_file = options.lock_file();
    for path in [&lock_file, &options.local_socket_file()] {
        if let Some(directory) = path.parent() {
            // If it cannot be made, what follows says why better.
            let _ = std::fs::create_dir_all(directory);
        }
    }
    let lock = Lock::take(&lock_file)?;
    let (sender, received) = orders;
    let (queries, questions) = mpsc::channel(8);
    let mut daemon = Daemon::start(options, plan, received, questions).await?;
    let local = Local::open(&daemon.options.local_socket_file(), &daemon.options.given.socket)?;
    let local = tokio::spawn(local.serve(LocalDesk { queries, orders: sender }));
    systemd::notify("READY=1");
    if let Some(ready) = ready {
        // Who does not wait for it does not need it.
        let _ = ready.send(daemon.port.address()?);
    }
    while daemon.running {
        let happening = daemon.select().await;
        daemon.handle(happening);
    }
    local.abort();
    let summary = daemon.stop().await;
    drop(lock);
    Ok(summary)
}

/// A command of the local socket, and where its answer goes.
type Question = (Vec<u8>, oneshot::Sender<Answer>);

/// Where local clients' commands go.
#[derive(Clone, Debug)]
struct LocalDesk {
    queries: mpsc::Sender<Question>,
    orders: mpsc::Sender<Order>,
}

impl Desk for LocalDesk {
    async fn answer(&self, line: &[u8]) -> Option<Answer> {
        let (answer, answered) = oneshot::channel();
        self.queries.send((line.to_vec(), answer)).await.ok()?;
        answered.await.ok()
    }

    async fn stop(&self) {
        // Who is gone already has ended.
        let _ = self.orders.send(Order::Stop).await;
    }
}

/// Everything that the daemon waits for.
#[derive(Debug)]
enum Happening {
    Accepted(TcpStream, SocketAddr),
    Reported(PairId, Report),
    Asked(Question),
    Ordered(Order),
    /// A deadline of the machine.
    Time,
    /// The task of a pair has ended.
    Ended,
}

/// One pair, seen from here.
struct Pair {
    closing: oneshot::Sender<()>,
    task: AbortHandle,
    address: String,
    /// The stock arbiter has accepted it.
    is_open: bool,
}

struct Daemon {
    options: Options,
    plan: Plan,
    clock: Clock,
    shadow: Shadow,
    port: Port,
    credentials: Option<Arc<Credentials>>,
    reporter: Reporter,
    pairs: BTreeMap<PairId, Pair>,
    /// Those whose client has not done its Init, oldest first.
    strangers: BTreeSet<PairId>,
    pairs_made: u64,
    pairs_max: usize,
    tasks: JoinSet<()>,
    reports: (mpsc::Sender<Reported>, mpsc::Receiver<Reported>),
    questions: mpsc::Receiver<Question>,
    orders: mpsc::Receiver<Order>,
    running: bool,
}

impl Daemon {
    async fn start(
        options: Options,
        plan: Plan,
        orders: mpsc::Receiver<Order>,
        questions: mpsc::Receiver<Question>,
    ) -> anyhow::Result<Self> {
        for note in options.given.notes() {
            warn!("{note}");
        }
        let credentials = Credentials::load(&options, plan.ca_key.as_deref())?.map(Arc::new);
        let reporter = Reporter::open(plan.report.clone())?;
        let port = Port::open(&options).await?;
        let mut clock = Clock::start(Hurry::Slow);
        // What an arbiter keeps on its disk is nothing here: no grant of this one is ever heard of.
        let memory = Memory {
            arbiter: ArbiterId(1),
            boot: 1,
            host_boot: BootId::default(),
            clock_s: 0,
            grants: Vec::new(),
            fencing: Vec::new(),
        };
        let shadow = Shadow::new(clock.now(), options.core.clone(), memory);
        let (host, stock_port) = &plan.stock;
        info!("shadow of {host}:{stock_port}, listening on {}", port.address()?);
        Ok(Self {
            clock,
            shadow,
            port,
            credentials,
            reporter,
            pairs: BTreeMap::new(),
            strangers: BTreeSet::new(),
            pairs_made: 0,
            // Each pair has two sockets.
            pairs_max: (descriptors().saturating_sub(DESCRIPTORS_RESERVED) / 2).max(1),
            tasks: JoinSet::new(),
            reports: mpsc::channel(REPORTS_MAX),
            questions,
            orders,
            running: true,
            options,
            plan,
        })
    }

    /// Waits; changes nothing.
    async fn select(&mut self) -> Happening {
        let now = self.clock.now();
        let wait = self.shadow.deadline().filter(|at| *at != Time::NEVER).map(|at| at.since(now));
        let due = wait.map(|wait| Instant::now() + wait);
        tokio::select! {
            Some(order) = self.orders.recv() => Happening::Ordered(order),
            () = until(due) => Happening::Time,
            Some((pair, report)) = self.reports.1.recv() => Happening::Reported(pair, report),
            Some(question) = self.questions.recv() => Happening::Asked(question),
            Some(_) = self.tasks.join_next() => Happening::Ended,
            (socket, address) = self.port.accept() => Happening::Accepted(socket, address),
        }
    }

    /// Acts on what has happened, and on the time that has passed.
    fn handle(&mut self, happening: Happening) {
        match happening {
            Happening::Accepted(socket, address) => self.accept(socket, address),
            Happening::Reported(pair, report) => self.reported(pair, report),
            Happening::Asked((line, answer)) => {
                let said = self.answer(&line);
                // A local client that has left needs no answer.
                let _ = answer.send(said);
            }
            Happening::Ordered(Order::Stop) => self.running = false,
            Happening::Ordered(Order::Reload) => self.reload(),
            Happening::Time | Happening::Ended => {}
        }
        let now = self.clock.now();
        if self.shadow.deadline().is_some_and(|at| at <= now) {
            self.tell(Event::Timeout);
        }
    }

    /// Tells the machine, and hands on what it says.
    fn tell(&mut self, event: Event) {
        let now = self.clock.now();
        self.shadow.handle(now, event);
        while let Some(action) = self.shadow.next_action() {
            match action {
                Action::Report(difference) => self.reporter.differs(&difference),
                Action::Agreed { cluster, node, lasted } => {
                    self.reporter.agrees(&cluster, node, lasted);
                }
                Action::Decided { cluster, text } => debug!(%cluster, "ours: {text}"),
            }
        }
    }

    fn accept(&mut self, socket: TcpStream, address: SocketAddr) {
        let is_full = self.tasks.len() >= self.pairs_max;
        if (is_full || self.strangers.len() >= STRANGERS_MAX)
            && let Some(oldest) = self.strangers.first().copied()
        {
            debug!("too many connections: the oldest without init is closed");
            self.abandon(oldest);
        } else if is_full {
            warn!("{address}: refused: the system allows this daemon no more connections");
            return;
        }
        self.pairs_made += 1;
        let id = PairId(self.pairs_made);
        let (closing, closed) = oneshot::channel();
        let line = Line {
            pair: id,
            reports: self.reports.0.clone(),
            closing: closed,
            stock: self.plan.stock.clone(),
            credentials: self.credentials.clone(),
            handshake_limit: self.options.handshake_limit,
        };
        let task = self.tasks.spawn(line.serve(socket));
        let address = format!("{}:{}", address.ip(), address.port());
        self.pairs.insert(id, Pair { closing, task, address, is_open: false });
        self.strangers.insert(id);
    }

    fn reported(&mut self, id: PairId, report: Report) {
        // What a pair said before it knew that it was closed is nothing any more.
        let Some(pair) = self.pairs.get_mut(&id) else { return };
        match report {
            Report::Opened => {
                pair.is_open = true;
                let address = pair.address.clone();
                self.tell(Event::Opened { pair: id, address });
            }
            Report::Secured(identity) => self.tell(Event::Secured { pair: id, identity }),
            Report::FromClient(frame) => self.tell(Event::FromClient { pair: id, frame }),
            Report::FromStock(frame) => {
                if frame.kind == MessageType::InitReply as u16 {
                    self.strangers.remove(&id);
                }
                self.tell(Event::FromStock { pair: id, frame });
            }
            Report::Gone(gone) => {
                let address = &pair.address;
                match gone {
                    Gone::NoStock(_) => error!("{address}: {gone}"),
                    Gone::Connect(_) | Gone::NoCertificate(_) | Gone::NoTls | Gone::NoAnswer => {
                        warn!("{address}: {gone}");
                    }
                    Gone::ByClient
                    | Gone::ByStock
                    | Gone::Client(_)
                    | Gone::Stock(_)
                    | Gone::Accept(_)
                    | Gone::LateTls
                    | Gone::Closed => debug!("{address}: {gone}"),
                }
                self.abandon(id);
            }
        }
    }

    /// Cuts a pair off at once.
    fn abandon(&mut self, id: PairId) {
        self.strangers.remove(&id);
        if let Some(pair) = self.pairs.remove(&id) {
            pair.task.abort();
            if pair.is_open {
                self.tell(Event::Closed { pair: id });
            }
        }
    }

    /// The commands of the local socket.
    fn answer(&mut self, line: &[u8]) -> Answer {
        let word = line.split(u8::is_ascii_whitespace).find(|word| !word.is_empty());
        match word.map(<[u8]>::to_ascii_lowercase).as_deref() {
            Some(b"status") => Answer::Text(self.text()),
            Some(b"haguard-status") => {
                let mut status = self.shadow.status(self.clock.now());
                let (host, port) = &self.plan.stock;
                status.warnings.push(format!("shadow of {host}:{port}, whose votes count"));
                status.warnings.push(self.reporter.summary().to_string());
                match serde_json::to_string(&status) {
                    Ok(json) => Answer::Text(format!("{json}\n")),
                    Err(error) => Answer::Error(format!("no status: {error}")),
                }
            }
            Some(b"shutdown") => Answer::ThenStop,
            Some(_) => Answer::Error("shadow mode knows status and shutdown".to_owned()),
            None => Answer::Error("No command specified".to_owned()),
        }
    }

    fn text(&self) -> String {
        let (host, port) = &self.plan.stock;
        let (clients, summary) = (self.pairs.len(), self.reporter.summary());
        let last = self.reporter.text();
        format!("Shadow of {host}:{port}, clients: {clients}\n{summary}\n{last}")
    }

    fn reload(&mut self) {
        self.reporter.reopen();
        match Credentials::load(&self.options, self.plan.ca_key.as_deref()) {
            Ok(credentials) => {
                self.credentials = credentials.map(Arc::new);
                info!("certificates read again: new connections use them");
            }
            Err(error) => error!("certificates not read again, the old ones stay: {error:#}"),
        }
    }

    /// Closes every pair.
    async fn stop(mut self) -> Summary {
        systemd::notify("STOPPING=1");
        for (_, pair) in std::mem::take(&mut self.pairs) {
            // A task that has ended needs no telling.
            let _ = pair.closing.send(());
        }
        let closed = async {
            // Ending tasks report; nobody needs to hear it.
            self.reports.1.close();
            while self.tasks.join_next().await.is_some() {}
        };
        if timeout(STOP_LIMIT, closed).await.is_err() {
            warn!("some connections did not let themselves be closed");
        }
        let summary = self.reporter.summary();
        info!("stopped; {summary}");
        summary
    }
}

/// Checks what can be checked before the daemon starts.
///
/// # Errors
/// Which file, what is wrong with it, what to do.
pub fn check(options: &Options, plan: &Plan) -> anyhow::Result<()> {
    if options.listen.is_some_and(|address| {
        plan.stock.0 == address.ip().to_string() && plan.stock.1 == address.port()
    }) {
        bail!("--shadow and --listen are the same address: the stock arbiter must have another");
    }
    Credentials::load(options, plan.ca_key.as_deref()).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_may_have_a_port_and_brackets() {
        let parsed = |value| Plan::parse_host(value);
        let given = |host: &str, port| Some((host.to_owned(), port));
        assert_eq!(parsed("qnetd.example"), given("qnetd.example", 5403));
        assert_eq!(parsed("192.0.2.1:5404"), given("192.0.2.1", 5404));
        assert_eq!(parsed("2001:db8::1"), given("2001:db8::1", 5403));
        assert_eq!(parsed("[2001:db8::1]:5404"), given("2001:db8::1", 5404));
        assert_eq!(parsed("[2001:db8::1]"), given("2001:db8::1", 5403));
        for wrong in ["", ":5403", "host:", "host:0", "host:65536", "host:x", "[::1]x"] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
    }
}
