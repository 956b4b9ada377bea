//! The daemon's side of its keeper, the process that outlives it and ends services in time.
//!
//! A task talks to the keeper, so that a keeper that hangs holds nobody up. When the keeper is
//! gone the node says so: what it had started may run, its watchdog proves nothing (class D), and
//! a new keeper is started, which proves a full stop before anything starts again.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::ids::{ClusterName, Epoch, NodeId};
use protocol::status::WatchdogStatus;
use protocol::time::{HostInstant, Time};
use protocol::times;
use protocol::vote::{Bound, WatchdogClass};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{error, info, warn};

use crate::conf::{ClusterConf, ServiceConf, WatchdogChoice};
use crate::core::Event as CoreEvent;
use crate::keeper::Options as KeeperOptions;
use crate::keeper::client::{ClientError, KeeperClient};
use crate::keeper::core::ENTITLEMENT_LIMIT;
use crate::keeper::message::{Command, Launch, Report, State};
use crate::keeper::process::ProcessId;
use crate::options::{KeeperProgram, Options};

/// Commands that wait for a keeper that is slow to read; then it is given up.
const ORDERS_MAX: usize = 64;
/// Reports that wait for the loop.
const EVENTS_MAX: usize = 64;
/// A keeper that does not take a command for this long is given up.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between attempts to have a keeper again, doubled up to the second.
const RESPAWN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// The keeper believes no entitlement that is longer than its limit, so a longer one is said
/// again this often.
const REFRESH: Duration = Duration::from_secs(10);
/// How long a keeper may take to end; all services are proven stopped by then.
const FAREWELL: Duration = Duration::from_secs(5);

/// What the task tells; [`Keeping::take`] makes use of it.
#[derive(Debug)]
pub(super) enum Event {
    /// The keeper has spoken.
    Report(Report),
    /// The keeper is gone.
    Lost(String),
    /// There is none yet.
    Failed(String),
    /// There is one again; nothing runs, proven.
    Back(State, mpsc::Sender<Command>),
    /// It has ended as it was asked to.
    Ended(Result<(), ClientError>),
}

/// The keeper as the daemon sees it.
#[derive(Debug)]
pub(super) struct Keeping {
    events: mpsc::Receiver<Event>,
    /// To the keeper that is connected, if one is.
    orders: Option<mpsc::Sender<Command>>,
    /// What that keeper has said of itself.
    state: Option<State>,
    /// The start that was ordered and has neither ended nor been refused.
    started: Option<u64>,
    /// What the keeper was told last, and when.
    entitled: Option<(HostInstant, Time)>,
    /// The refusal that was logged last.
    refusal: String,
    watchdog: String,
    service: Option<Service>,
    /// It ends with the value; the keeper does not.
    _task: JoinSet<()>,
}

/// What is started.
#[derive(Debug)]
struct Service {
    conf: ServiceConf,
    cluster: ClusterName,
    node: NodeId,
}

impl Keeping {
    /// Connects to the keeper of the run directory, or starts one. Whatever an earlier daemon
    /// left running is stopped, and proven stopped, when this returns.
    ///
    /// # Errors
    /// When there is no keeper to be had, or another daemon has it: the node must not start.
    pub(super) async fn start(
        options: &Options,
        conf: &ClusterConf,
        me: NodeId,
    ) -> Result<Self, ClientError> {
        let program = options.keeper.clone();
        let keeper = keeper_options(options, &conf.haguard.watchdog);
        let (client, state) = KeeperClient::spawn_or_adopt(&program.program, &keeper).await?;
        let (tell, events) = mpsc::channel(EVENTS_MAX);
        let (orders, todo) = mpsc::channel(ORDERS_MAX);
        let mut task = JoinSet::new();
        task.spawn(keep(program, keeper, client, todo, tell));
        let service = conf.haguard.service.clone().map(|service| Service {
            conf: service,
            cluster: conf.cluster_name.clone(),
            node: me,
        });
        let mut keeping = Self {
            events,
            orders: Some(orders),
            watchdog: watchdog_name(&conf.haguard.watchdog, &state),
            state: Some(state),
            started: None,
            entitled: None,
            refusal: String::new(),
            service,
            _task: task,
        };
        keeping.introduce();
        Ok(keeping)
    }

    /// What the node announces now (safety 22): nothing is proven without a keeper.
    pub(super) fn bound(&self) -> Bound {
        let stop_proof = u32::try_from(times::STOP_PROOF.as_millis()).unwrap_or(u32::MAX);
        let nothing = Bound { class: WatchdogClass::D, bound_ms: stop_proof };
        self.state.as_ref().map_or(nothing, State::bound)
    }

    /// The next event. Cancel safe.
    pub(super) async fn next(&mut self) -> Event {
        match self.events.recv().await {
            Some(event) => event,
            None => std::future::pending().await,
        }
    }

    /// Takes an event in; what the core has to know comes out.
    pub(super) fn take(&mut self, event: Event) -> Option<CoreEvent> {
        match event {
            Event::Report(report) => self.report(report),
            Event::Lost(why) => {
                error!(
                    "the keeper is gone ({why}): what it had started may run, and the watchdog \
                     proves nothing until there is a new keeper"
                );
                self.orders = None;
                self.state = None;
                self.started = None;
                Some(CoreEvent::KeeperReady { running: true })
            }
            Event::Failed(why) => {
                if self.refusal != why {
                    error!("{why}; trying again");
                    self.refusal = why;
                }
                None
            }
            Event::Back(state, orders) => {
                info!("the keeper is back (process {}): nothing is left running", state.pid);
                self.orders = Some(orders);
                self.state = Some(state);
                self.refusal.clear();
                self.introduce();
                self.entitle_again();
                Some(CoreEvent::Stopped)
            }
            Event::Ended(_) => None,
        }
    }

    fn report(&mut self, report: Report) -> Option<CoreEvent> {
        match report {
            Report::Started { serial, pid } => {
                info!("the service has started: process {pid}");
                Some(CoreEvent::Started { serial })
            }
            Report::Exited { serial, status } => {
                warn!("the service has ended: {status:?}");
                self.end_start(serial)
            }
            Report::Refused { serial: Some(serial), reason } => {
                warn!("the service was not started: {reason}");
                self.end_start(serial)
            }
            Report::Refused { serial: None, reason } => {
                if self.refusal != reason {
                    warn!("the keeper refuses: {reason}");
                    self.refusal = reason;
                }
                None
            }
            Report::StoppedProven => {
                // The keeper reports the end of each start before a full stop. One that comes
                // while a start is on its way was said before the keeper had heard of the start.
                if self.started.is_some() {
                    return None;
                }
                self.refusal.clear();
                self.entitle_again();
                Some(CoreEvent::Stopped)
            }
            Report::Forced { reason } => {
                error!("the keeper has forced the end of what ran: {reason}");
                None
            }
            Report::State(state) => {
                self.state = Some(state);
                None
            }
        }
    }

    fn end_start(&mut self, serial: u64) -> Option<CoreEvent> {
        self.started.take_if(|started| *started == serial);
        Some(CoreEvent::Exited { serial })
    }

    /// Services may run until then; not at all, if it is now or earlier.
    pub(super) fn entitle(&mut self, now: Time, until: Option<HostInstant>) {
        self.entitled = until.map(|until| (until, now));
        let command = until.map_or(Command::Revoke, |until| Command::Entitle { until });
        self.order(command);
    }

    /// Says a long entitlement again, which the keeper has cut to its limit.
    pub(super) fn refresh(&mut self, now: Time) {
        let Some((until, said)) = self.entitled else { return };
        let due = now.since(said) >= REFRESH;
        if due && until.remaining(host::clock::read()) > ENTITLEMENT_LIMIT / 2 {
            self.entitle(now, Some(until));
        }
    }

    fn entitle_again(&mut self) {
        if let Some((until, _)) = self.entitled {
            self.order(Command::Entitle { until });
        }
    }

    /// Starts the service, if the keeper is entitled until then.
    pub(super) fn start_service(&mut self, serial: u64, epoch: Epoch, until: HostInstant) {
        let Some(service) = &self.service else { return };
        let launch = service.launch(&service.conf.command, epoch);
        let undo = service.conf.undo.as_ref().map(|undo| service.launch(undo, epoch));
        self.started = Some(serial);
        self.order(Command::Start { serial, launch, undo, entitled_until: until });
    }

    /// Stops everything; the proof comes as an event.
    pub(super) fn stop_service(&mut self) {
        self.order(Command::Stop);
    }

    /// The keeper kills the daemon with the services if it has to force their end.
    fn introduce(&mut self) {
        let daemons = ProcessId::own().into_iter().collect();
        self.order(Command::Daemons { daemons });
    }

    /// A keeper that takes no more is given up: its task then reports it as lost.
    fn order(&mut self, command: Command) {
        if let Some(orders) = &self.orders
            && orders.try_send(command).is_err()
        {
            self.orders = None;
        }
    }

    /// The clean end: the watchdog is disarmed, and the keeper ends.
    pub(super) async fn farewell(mut self) {
        if self.orders.is_none() {
            return;
        }
        self.order(Command::Farewell);
        let ended = timeout(FAREWELL, async {
            loop {
                match self.next().await {
                    Event::Ended(result) => return result.map_err(|error| error.to_string()),
                    Event::Lost(why) | Event::Failed(why) => return Err(why),
                    Event::Report(_) | Event::Back(..) => {}
                }
            }
        });
        match ended.await {
            Ok(Ok(())) => info!("the keeper has ended"),
            Ok(Err(why)) => warn!("the keeper has not ended cleanly: {why}"),
            Err(_) => warn!("the keeper has not ended in time; the next daemon will adopt it"),
        }
    }

    /// What is known of the watchdog, into the status.
    pub(super) fn describe(&self, status: &mut WatchdogStatus, warnings: &mut Vec<String>) {
        let bound = self.bound();
        status.device.clone_from(&self.watchdog);
        status.class = format!("{:?}", bound.class);
        status.bound_ms = bound.bound_ms;
        match &self.state {
            Some(state) => status.armed &= state.armed || state.device.is_none(),
            None => {
                status.armed = false;
                warnings.push("the keeper is gone: nothing starts until it is back".to_owned());
            }
        }
    }
}

impl Service {
    /// The command goes through the shell, so that it may use the shell's syntax.
    fn launch(&self, command: &str, epoch: Epoch) -> Launch {
        let script = shell_script(command);
        let words = ["/bin/sh", "-c", &script];
        let env = [
            ("HAGUARD_CLUSTER", self.cluster.to_string()),
            ("HAGUARD_EPOCH", epoch.to_string()),
            ("HAGUARD_NODE", self.node.to_string()),
            ("HAGUARD_SERVICE", self.conf.name.clone()),
        ];
        let env = env.into_iter().map(|(name, value)| (name.to_owned(), value));
        Launch {
            argv: words.into_iter().map(str::to_owned).collect(),
            env: env.collect::<BTreeMap<_, _>>(),
        }
    }
}

/// What the shell is given. A single program takes the shell's place: it is then the keeper's own
/// child and dies with it, where a child of the shell would be left behind.
fn shell_script(command: &str) -> String {
    let first = command.split_whitespace().next().unwrap_or_default();
    let builtin = ["exec", ".", "source", "eval", "set", "trap"].contains(&first);
    let compound = command.contains([';', '&', '|', '<', '>', '(', ')', '{', '}', '\n']);
    if compound || builtin || first.contains('=') {
        command.to_owned()
    } else {
        format!("exec {command}")
    }
}

fn keeper_options(options: &Options, watchdog: &WatchdogChoice) -> KeeperOptions {
    let mut keeper = KeeperOptions::new(options.run_dir.clone());
    keeper.state_dir.clone_from(&options.state_dir);
    keeper.prefix.clone_from(&options.keeper.prefix);
    match watchdog {
        // It still starts and ends the service; it just proves nothing to others.
        WatchdogChoice::Off => keeper.class = Some(WatchdogClass::D),
        WatchdogChoice::Process => {}
        WatchdogChoice::Device(path) => keeper.device = Some(path.into()),
    }
    keeper
}

fn watchdog_name(choice: &WatchdogChoice, state: &State) -> String {
    match (choice, &state.device) {
        (_, Some(device)) => device.clone(),
        (WatchdogChoice::Off, None) => "off".to_owned(),
        (WatchdogChoice::Process | WatchdogChoice::Device(_), None) => "process".to_owned(),
    }
}

/// Talks to the keeper, and to the next one when it is gone.
async fn keep(
    program: KeeperProgram,
    options: KeeperOptions,
    mut client: KeeperClient,
    mut todo: mpsc::Receiver<Command>,
    tell: mpsc::Sender<Event>,
) {
    loop {
        let why = match converse(&mut client, &mut todo, &tell).await {
            End::Lost(why) => why,
            End::Farewell => {
                // Nobody listens any more when the daemon ends.
                let _ = tell.send(Event::Ended(client.farewell().await)).await;
                return;
            }
        };
        drop(client);
        let mut event = Event::Lost(why);
        let mut pause = RESPAWN.0;
        client = loop {
            if tell.send(event).await.is_err() {
                return;
            }
            sleep(pause).await;
            pause = (pause * 2).min(RESPAWN.1);
            match KeeperClient::spawn_or_adopt(&program.program, &options).await {
                Ok((client, state)) => {
                    let (orders, next) = mpsc::channel(ORDERS_MAX);
                    todo = next;
                    if tell.send(Event::Back(state, orders)).await.is_err() {
                        return;
                    }
                    break client;
                }
                Err(error) => event = Event::Failed(error.to_string()),
            }
        };
    }
}

/// How a conversation ends.
enum End {
    Lost(String),
    Farewell,
}

async fn converse(
    client: &mut KeeperClient,
    todo: &mut mpsc::Receiver<Command>,
    tell: &mpsc::Sender<Event>,
) -> End {
    loop {
        tokio::select! {
            report = client.recv() => match report {
                Ok(Some(report)) => {
                    if tell.send(Event::Report(report)).await.is_err() {
                        return End::Lost("the daemon ends".to_owned());
                    }
                }
                Ok(None) => return End::Lost("it has closed the connection".to_owned()),
                Err(error) => return End::Lost(error.to_string()),
            },
            order = todo.recv() => match order {
                Some(Command::Farewell) => return End::Farewell,
                Some(command) => match timeout(PATIENCE, client.send(&command)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => return End::Lost(error.to_string()),
                    Err(_) => return End::Lost("it takes no commands".to_owned()),
                },
                None => return End::Lost("it is too slow to take commands".to_owned()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::shell_script;

    #[test]
    fn a_single_program_takes_the_shells_place_and_shell_syntax_keeps_its_shell() {
        assert_eq!(shell_script("/bin/shop --serve"), "exec /bin/shop --serve");
        for kept in ["cd / && shop", "A=1 shop", "exec shop", "shop | tee log", "{ shop; }"] {
            assert_eq!(shell_script(kept), kept);
        }
    }
}
