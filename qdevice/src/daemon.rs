//! The device in the world: the node's socket, the arbiter's connection, commands, signals.
//!
//! One thread waits and acts. [`Daemon::select`] waits for whatever comes first;
//! [`Daemon::handle`] tells the machine ([`crate::core`]) and does what it wants done. Whatever
//! may be slow is a task of its own that talks with the daemon over bounded queues: [`node`],
//! [`link`], [`local`], the heuristics commands.
//!
//! Nothing that an arbiter does ends the process; the node's word can, where it names a cluster
//! that the certificate is not for.

mod credentials;
mod link;
mod local;
mod node;
mod pin;
mod start;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use host::clock::{self, Clock};
use protocol::host::{
    Cast, DeviceSettings, FromDevice, FromHost, HeuristicsMode, Poll, TlsMode, Welcome,
};
use protocol::ids::{GrantId, ViewId};
use protocol::status::DeviceStatus;
use protocol::time::Time;
use protocol::vote::{Algorithm, Heuristics};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tracing::{debug, error, info, warn};

use crate::config::Options;
use crate::core::{Action, Device, Event};
use crate::heuristics::Runner;
use crate::resolve::Target;
use crate::tool;
use credentials::Clients;
use link::{Call, Link};
use local::Question;
use node::Voice;
pub use start::{Refusal, prepare, run, run_blocking};

/// Happenings that wait for the daemon; who has more of them waits.
const INBOX_MAX: usize = 256;

/// How long the end may take: the node has to read that the vote is gone.
const STOP_LIMIT: Duration = Duration::from_secs(1);

/// An answer to a local client: the text behind `OK`, or behind `Error`.
type Answer = Result<String, String>;

/// Everything that the daemon waits for.
#[derive(Debug)]
enum Happening {
    Node(node::Report),
    /// From the connection with this number.
    Arbiter(u64, link::Report),
    Heuristics(u64, Heuristics),
    Asked(Question, oneshot::Sender<Answer>),
    /// Someone wants the daemon to end.
    Stop(&'static str),
    /// A deadline of the machine.
    Time,
}

/// The daemon.
struct Daemon {
    options: Arc<Options>,
    clock: Clock,
    device: Device,
    /// What happened while the machine's duties were done; it is told behind them.
    behind: VecDeque<Event>,
    reports: mpsc::Sender<Happening>,
    inbox: mpsc::Receiver<Happening>,

    node: Option<Voice>,
    /// Why there is no node.
    node_gone: String,
    /// The node's word on the device, within our bounds.
    settings: Option<DeviceSettings>,
    /// The node's first welcome has been found to fit the certificate.
    admitted: bool,

    link: Option<Link>,
    links: u64,
    /// The connection that was given up and is not closed yet.
    farewell: Option<u64>,
    clients: Arc<Clients>,
    secured: bool,

    runner: Runner,
    run: Option<AbortHandle>,

    last_poll: Option<(Time, bool)>,
    end: Option<anyhow::Result<()>>,
}

impl Daemon {
    /// Waits. Changes nothing, and loses nothing when it is not waited to the end.
    async fn select(&mut self) -> Happening {
        let now = self.clock.now();
        let pause = self.device.deadline().map(|at| at.since(now));
        let time = async {
            match pause {
                Some(pause) => sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(happening) = self.inbox.recv() => happening,
            () = time => Happening::Time,
        }
    }

    fn handle(&mut self, happening: Happening) {
        match happening {
            Happening::Node(report) => self.node_reported(report),
            Happening::Arbiter(number, report) => self.arbiter_reported(number, report),
            Happening::Heuristics(run, result) => self.tell(Event::Heuristics { run, result }),
            Happening::Asked(question, answer) => {
                // Who no longer listens does not miss it.
                let _ = answer.send(self.answer(question));
            }
            Happening::Stop(why) => {
                info!("ending: {why}");
                self.tell(Event::Leave);
            }
            Happening::Time => self.tell(Event::Timeout),
        }
    }

    /// Tells the machine, and does its duties.
    fn tell(&mut self, event: Event) {
        self.behind.push_back(event);
        while let Some(event) = self.behind.pop_front() {
            let now = self.clock.now();
            self.device.handle(now, event);
            while let Some(action) = self.device.next_action() {
                self.act(action);
            }
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Register => {
                let name = self.options.device_name.clone();
                self.say(&FromDevice::Register { name });
            }
            Action::Poll { id, view, cast } => self.poll(id, view, cast),
            Action::Unregister => self.say(&FromDevice::Unregister),
            Action::Connect { limit } => self.connect(limit),
            Action::StartTls => {
                if self.link.as_ref().is_some_and(|link| !link.start_tls()) {
                    self.give_up_link();
                }
            }
            Action::Send(message) => {
                if self.link.as_ref().is_some_and(|link| !link.send(message)) {
                    self.give_up_link();
                }
            }
            Action::Disconnect => self.farewell = self.link.take().map(|link| link.number),
            Action::RunHeuristics { run, limit } => self.run_heuristics(run, limit),
            Action::Pin(id) => pin::store(&self.options.state_dir, id),
            Action::Epoch(highest) => self.say(&FromDevice::Epoch { highest }),
            Action::Status(status) => self.say(&FromDevice::Status(Box::new(status))),
            Action::Exit => {
                self.end.get_or_insert(Ok(()));
            }
            Action::Decided(text) => info!("{text}"),
        }
    }

    fn node_reported(&mut self, report: node::Report) {
        match report {
            node::Report::Up(voice) => {
                info!("connected to the node");
                self.node = Some(voice);
                self.node_gone = "the node has not introduced itself yet".to_owned();
            }
            // What a connection said that we have given up is void.
            node::Report::Said(_) if self.node.is_none() => {}
            node::Report::Said(FromHost::Welcome(welcome)) => self.welcome(*welcome),
            node::Report::Said(said) => self.tell(Event::Host(said)),
            node::Report::Gone(reason) => {
                if self.node_gone != reason {
                    warn!("no node: {reason}");
                }
                self.node_gone = reason;
                if self.node.take().is_some() {
                    self.tell(Event::HostDown);
                }
            }
        }
    }

    fn welcome(&mut self, mut welcome: Welcome) {
        if let Some(settings) = &mut welcome.device {
            if settings.algorithm == Algorithm::Test && !self.options.test_algorithm {
                error!(
                    "net.algorithm: test gives every side a vote and is refused: choose ffsplit, \
                     or set net_test_algorithm_enabled=on"
                );
                welcome.device = None;
            } else {
                bound_settings(settings, &self.options);
            }
        } else if self.settings.is_none() {
            // When it was there and is removed, the machine says what follows.
            error!("the node's configuration has no quorum.device: add one, or stop this daemon");
        }
        if let Some(settings) = &welcome.device
            && settings.tls != TlsMode::Off
            && let Err(error) = credentials::check_for(&self.options, &welcome)
        {
            if !self.admitted {
                self.end = Some(Err(error));
                return;
            }
            error!("{error:#}");
        }
        self.admitted |= welcome.device.is_some();
        self.settings.clone_from(&welcome.device);
        self.tell(Event::Host(FromHost::Welcome(Box::new(welcome))));
    }

    fn arbiter_reported(&mut self, number: u64, report: link::Report) {
        if self.link.as_ref().is_none_or(|link| link.number != number) {
            if matches!(report, link::Report::Closed(_)) {
                self.farewell.take_if(|open| *open == number);
            }
            debug!("connection {number} was given up; its report is void");
            return;
        }
        match report {
            link::Report::Connected => self.tell(Event::Connected),
            link::Report::Secured => {
                self.secured = true;
                self.tell(Event::Secured);
            }
            link::Report::Message(frame) => self.tell(Event::Received(frame)),
            link::Report::Closed(reason) => {
                self.link = None;
                self.tell(Event::Closed { reason });
            }
        }
    }

    fn connect(&mut self, limit: Duration) {
        let Some(settings) = &self.settings else { return };
        let configured = Target { host: settings.host.clone(), port: settings.port };
        let target = self.options.arbiter.clone().unwrap_or(configured);
        debug!("connecting to {target}");
        self.links += 1;
        self.secured = false;
        let call = Call { target, ip_version: settings.force_ip_version, limit };
        let (clients, options) = (Arc::clone(&self.clients), Arc::clone(&self.options));
        self.link = Some(Link::open(self.links, call, clients, options, self.reports.clone()));
    }

    /// The queue is full: what is not sent in order must not be sent at all.
    fn give_up_link(&mut self) {
        self.link = None;
        let reason = "the arbiter does not read what is sent to it: is it overloaded?".to_owned();
        self.behind.push_back(Event::Closed { reason });
    }

    fn say(&mut self, what: &FromDevice) {
        if self.node.as_ref().is_none_or(|node| node.say(what)) {
            return;
        }
        self.node = None;
        self.node_gone = "the node does not read its socket: is it overloaded?".to_owned();
        error!("no node: {}", self.node_gone);
        self.behind.push_back(Event::HostDown);
    }

    fn poll(&mut self, id: u64, view: ViewId, cast: Option<(Time, GrantId)>) {
        // The host's clocks are read before ours, so the lease can only get shorter.
        let reading = clock::read();
        let now = self.clock.now();
        let cast =
            cast.map(|(until, grant)| Cast { expires: reading.plus(until.since(now)), grant });
        self.last_poll = Some((now, cast.is_some()));
        self.say(&FromDevice::Poll(Poll { id, view, cast }));
    }

    fn run_heuristics(&mut self, run: u64, limit: Duration) {
        if let Some(superseded) = self.run.take() {
            superseded.abort();
        }
        let Some(settings) = &self.settings else { return };
        let commands = settings.heuristics.commands.clone();
        let (runner, reports) = (self.runner.clone(), self.reports.clone());
        let task = tokio::spawn(async move {
            let result = runner.run(&commands, limit).await;
            let _ = reports.send(Happening::Heuristics(run, result)).await;
        });
        self.run = Some(task.abort_handle());
    }

    fn answer(&mut self, question: Question) -> Answer {
        let now = self.clock.now();
        let snapshot = self.device.snapshot(now);
        match (question, snapshot) {
            (Question::Status { verbose }, Some(snapshot)) => {
                let around = tool::Around {
                    wall: tool::Wall::local(now),
                    last_poll: self.last_poll,
                    tls: self.secured && self.link.is_some(),
                };
                Ok(tool::status_text(&snapshot, &around, verbose))
            }
            (Question::Status { .. }, None) => {
                Err(format!("Can't get QDevice status: {}", self.hostless()))
            }
            (Question::Json, snapshot) => {
                let status = match snapshot {
                    Some(snapshot) => snapshot.status,
                    None => DeviceStatus {
                        state: format!("disconnected: {}", self.hostless()),
                        vote: "none".to_owned(),
                        arbiter: self
                            .options
                            .arbiter
                            .as_ref()
                            .map(Target::to_string)
                            .unwrap_or_default(),
                        ..DeviceStatus::default()
                    },
                };
                serde_json::to_string(&status)
                    .map(|text| text + "\n")
                    .map_err(|error| format!("Can't get QDevice status: {error}"))
            }
        }
    }

    /// Why there is nothing to tell of a host.
    fn hostless(&self) -> &str {
        if self.node.is_some() && !self.device.problem().is_empty() {
            return self.device.problem();
        }
        &self.node_gone
    }

    /// Lets the node and the arbiter read the last words, and closes everything else.
    async fn stop(mut self) -> anyhow::Result<()> {
        if let Some(run) = self.run.take() {
            run.abort();
        }
        let mut link = self.link.take().map(|link| link.number).or(self.farewell);
        let mut node = self.node.take().is_some();
        let inbox = &mut self.inbox;
        let closed = async {
            while node || link.is_some() {
                match inbox.recv().await {
                    Some(Happening::Node(node::Report::Gone(_))) => node = false,
                    Some(Happening::Arbiter(number, link::Report::Closed(_))) => {
                        link.take_if(|open| *open == number);
                    }
                    Some(_) => {}
                    None => return,
                }
            }
        };
        if timeout(STOP_LIMIT, closed).await.is_err() && node {
            warn!("the node has not read that the device leaves; its vote ends with its lease");
        }
        self.end.unwrap_or(Ok(()))
    }
}

/// Holds the cluster's configuration within our bounds (wire 3.1, 3.3), as the stock device does.
fn bound_settings(settings: &mut DeviceSettings, options: &Options) {
    let ranges = &options.ranges;
    let bound = |name: &str, value: &mut u32, (least, most): (u32, u32)| {
        let within = (*value).max(least).min(most.max(least));
        if within != *value {
            warn!("{name} of {value} ms is out of range: {within} ms is used");
            *value = within;
        }
    };
    bound("heartbeat interval", &mut settings.heartbeat_ms, ranges.heartbeat_ms);
    bound("net.connect_timeout", &mut settings.connect_timeout_ms, ranges.connect_ms);
    let heuristics = &mut settings.heuristics;
    if heuristics.mode == HeuristicsMode::Off {
        return;
    }
    bound("heuristics.timeout", &mut heuristics.timeout_ms, ranges.heuristics_timeout_ms);
    bound("heuristics.sync_timeout", &mut heuristics.sync_timeout_ms, ranges.heuristics_timeout_ms);
    bound("heuristics.interval", &mut heuristics.interval_ms, ranges.heuristics_interval_ms);
    let commands = heuristics.commands.len();
    if commands > options.heuristics.execs_max {
        error!(
            "{commands} heuristics commands are more than heuristics_max_execs={}: heuristics are \
             off",
            options.heuristics.execs_max
        );
        heuristics.commands.clear();
    } else if commands == 0 {
        error!("heuristics are on without a command: they are off; add heuristics.exec_NAME");
    }
}
