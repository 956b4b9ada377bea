//! The node's daemon: turns the world into [`crate::core::Event`]s and
//! [`crate::core::Action`]s into the world.
//!
//! One loop. [`Daemon::wait`] waits for the next thing from the links, the device, people, the
//! keeper, the disk, signals or the clock; [`Daemon::take`] tells the core and does what the core
//! wants. Nothing in the loop waits for a peer, a device, a person or a disk.
//!
//! # Layout
//! * `setup`, `proof`: what must be in order before a node starts.
//! * `translate`: the configuration in the words of the core and of the device.
//! * `fencing`: the gateways that cut power.
//! * `device`, `status`: the two local sockets.
//! * `keeping`: the keeper process, which outlives this one.
//! * `reload`: a changed configuration while the node runs.
//! * `realtime`: priority and memory.

mod device;
mod fencing;
mod keeping;
mod proof;
pub(crate) mod realtime;
mod reload;
mod setup;
pub(crate) mod status;
pub mod translate;

use std::time::Duration;

use anyhow::bail;
use host::clock::Clock;
use host::lock::Lock;
use protocol::cluster::Beat;
use protocol::host::{FromDevice, Poll, Welcome};
use protocol::ids::{GrantId, NodeId, ViewId};
use protocol::time::{HostInstant, Hurry, Time};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep_until};
use tracing::{Instrument, error, info, info_span};

use crate::conf::{ClusterConf, ConfErrors, Loaded};
use crate::core::{Action, Event, Identity, Node};
use crate::network::{self, Network};
use crate::options::{DEVICE_SOCKET, Engine, Options, STATUS_SOCKET};
use crate::store::Store;
use device::{Devices, Fact};
use fencing::Fencing;
use keeping::Keeping;
use reload::{Reload, Verdict};
use status::{Question, Request, Requests};

/// A node that was told to leave and has not managed to by then ends without.
const LEAVE_LIMIT: Duration = Duration::from_secs(10);

/// Runs the node until it has left its cluster. Wants a runtime of one thread (a beat must not
/// wait for a lock) with I/O and time enabled, and a `tracing` subscriber for what it decides.
///
/// # Errors
/// Everything that keeps the node from starting, and a leave that did not end within ten seconds.
/// To be shown with `{}`, which has the causes in it; the process should end with code 1.
pub async fn run(options: Options) -> anyhow::Result<()> {
    if let Engine::Corosync(guard) = &options.engine {
        let guard = guard.clone();
        return crate::guard::run(options, guard).await;
    }
    let setup = setup::prepare(&options).await?;
    let span = info_span!("node", cluster = %setup.conf.cluster_name, node = %setup.me);
    async {
        let daemon = Daemon::start(options, setup).await?;
        daemon.run().await
    }
    .instrument(span)
    .await
}

/// Everything a running node has.
struct Daemon {
    clock: Clock,
    node: Node,
    conf: ClusterConf,
    me: NodeId,
    identity: Identity,
    /// What the device was told last.
    welcome: Welcome,
    reload: Reload,
    network: Network,
    devices: Devices,
    requests: Requests,
    keeping: Keeping,
    fencing: Fencing,
    store: Store,
    signals: Signals,
    leave_by: Option<Time>,
    exit: bool,
    beats_unsent: bool,
    _locks: [Lock; 2],
}

/// What the loop waits for.
enum Input {
    Network(network::Event),
    Device(device::Event),
    Request(Request),
    Keeper(keeping::Event),
    Gateway(fencing::Event),
    Stored(u64, Result<(), host::file::FileError>),
    Signal(Asked),
    Reread(Box<Result<Loaded, ConfErrors>>),
    Deadline,
}

impl Daemon {
    async fn start(options: Options, setup: setup::Setup) -> anyhow::Result<Self> {
        let setup::Setup { conf, me, trust, own, identity, store, stored, .. } = setup;
        let network = Network::open(&conf, me, &options.listen, &trust, &own, setup.seed).await?;
        let requests = Requests::open(&options.run_dir.join(STATUS_SOCKET))?;
        let keeping = Keeping::start(&options, &conf, me).await?;
        let gateways = &conf.haguard.gateways;
        let fencing = Fencing::start(me, &conf.cluster_name, &trust, &own, gateways)?;
        let bound = keeping.bound();
        let welcome = translate::welcome(&conf, me, identity, bound);
        let devices = Devices::open(&options.run_dir.join(DEVICE_SOCKET), &welcome)?;
        let signals = Signals::new()?;
        if options.realtime {
            realtime::ask();
        }
        for (link, address) in network.addresses() {
            info!("link {link} listens on {address}/udp");
        }
        let mut clock = Clock::start(Hurry::Fast);
        let core = translate::core_config(&conf, me, bound);
        let node = Node::new(clock.now(), core, identity, stored);
        Ok(Self {
            clock,
            node,
            conf,
            me,
            identity,
            welcome,
            reload: Reload::new(options.cluster_conf),
            network,
            devices,
            requests,
            keeping,
            fencing,
            store,
            signals,
            leave_by: None,
            exit: false,
            beats_unsent: false,
            _locks: setup.locks,
        })
    }

    async fn run(mut self) -> anyhow::Result<()> {
        // The keeper has proven that nothing runs; and the first beat is due at once.
        self.tell(Event::KeeperReady { running: false });
        self.tell(Event::Gateway { configured: self.fencing.is_configured() });
        host::systemd::notify("READY=1");
        while !self.exit {
            let input = self.wait().await;
            self.take(input)?;
        }
        info!("left the cluster");
        self.network.close().await;
        self.keeping.farewell().await;
        Ok(())
    }

    async fn wait(&mut self) -> Input {
        let now = self.clock.now();
        let deadline = [self.node.deadline(), self.leave_by].into_iter().flatten().min();
        let deadline = deadline.unwrap_or(Time::NEVER).since(now).min(Duration::from_secs(3600));
        tokio::select! {
            event = self.network.next() => Input::Network(event),
            event = self.devices.next() => Input::Device(event),
            request = self.requests.next() => Input::Request(request),
            event = self.keeping.next() => Input::Keeper(event),
            event = self.fencing.next() => Input::Gateway(event),
            (number, result) = self.store.done() => Input::Stored(number, result),
            asked = self.signals.next() => Input::Signal(asked),
            read = self.reload.next() => Input::Reread(Box::new(read)),
            () = sleep_until(Instant::now() + deadline) => Input::Deadline,
        }
    }

    /// Never waits.
    fn take(&mut self, input: Input) -> anyhow::Result<()> {
        match input {
            Input::Network(event) => {
                if let Some(beat) = self.network.take(event) {
                    self.tell(Event::Heard(beat));
                }
            }
            Input::Device(event) => {
                if let Some(fact) = self.devices.take(event) {
                    self.device(fact);
                }
            }
            Input::Request(request) => self.answer(request),
            Input::Keeper(event) => {
                if let Some(event) = self.keeping.take(event) {
                    self.tell(event);
                }
                // The keeper may have come or gone, and what it proves with it.
                self.welcome_again();
            }
            Input::Gateway(event) => {
                if let Some(event) = self.fencing.take(event) {
                    self.tell(event);
                }
            }
            Input::Stored(number, Ok(())) => self.tell(Event::Persisted(number)),
            Input::Stored(number, Err(error)) => {
                error!("{error}");
                self.tell(Event::PersistFailed(number));
            }
            Input::Signal(Asked::Reload) => self.reload.ask(),
            Input::Reread(read) => self.reread(*read),
            Input::Signal(Asked::End(name)) if self.leave_by.is_some() => {
                bail!("ended by a second {name} before the node had left its cluster");
            }
            Input::Signal(Asked::End(name)) => {
                info!("{name}: leaving the cluster");
                self.leave();
            }
            Input::Deadline => {
                let now = self.clock.now();
                if self.leave_by.is_some_and(|at| at <= now) {
                    bail!(
                        "the node could not leave within {} s: its services were not proven \
                         stopped; see the keeper's log",
                        LEAVE_LIMIT.as_secs()
                    );
                }
                self.tell(Event::Timeout);
            }
        }
        Ok(())
    }

    fn leave(&mut self) {
        if self.leave_by.is_none() {
            self.leave_by = Some(self.clock.now() + LEAVE_LIMIT);
            self.tell(Event::Leave);
        }
    }

    fn reread(&mut self, read: Result<Loaded, ConfErrors>) {
        if let Ok(loaded) = &read {
            setup::show_warnings(self.reload.path(), &loaded.warnings);
        }
        match reload::judge(self.reload.path(), &self.conf, read) {
            Verdict::Same => info!("the configuration was read again and has not changed"),
            Verdict::Live(conf, changed) => {
                info!("the configuration was read again; changed: {changed}");
                self.conf = *conf;
                self.fencing.configure(&self.conf.haguard.gateways);
                self.tell(Event::Gateway { configured: self.fencing.is_configured() });
                self.welcome_again();
            }
            Verdict::Refused(why) => error!("{why}"),
        }
        self.reload.taken();
    }

    /// Tells the device what has changed of what it was told first.
    fn welcome_again(&mut self) {
        let bound = self.keeping.bound();
        let welcome = translate::welcome(&self.conf, self.me, self.identity, bound);
        if welcome != self.welcome {
            let fact = self.devices.welcome(&welcome);
            self.welcome = welcome;
            if let Some(fact) = fact {
                self.device(fact);
            }
        }
    }

    /// Tells the core, and does what it wants.
    fn tell(&mut self, event: Event) {
        let now = self.clock.now();
        self.node.handle(now, event);
        while let Some(action) = self.node.next_action() {
            self.act(action);
        }
        self.keeping.refresh(now);
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Beat { to, mut beat } => {
                // The keeper may have gone since the core was made.
                beat.bound = self.keeping.bound();
                self.send(to, &beat);
            }
            Action::Persist { number, state } => {
                if !self.store.write(number, state) {
                    error!("the state could not be given to the disk's thread");
                    self.node.handle(self.clock.now(), Event::PersistFailed(number));
                }
            }
            Action::Host(message) => {
                if let Some(fact) = self.devices.tell(&message) {
                    self.device(fact);
                }
            }
            Action::Entitle { until, .. } => {
                let now = self.clock.now();
                let until = (until > now).then(|| self.instant(until));
                self.keeping.entitle(now, until);
            }
            Action::StartService { serial, epoch, until } => {
                let until = self.instant(until);
                self.keeping.start_service(serial, epoch, until);
            }
            Action::StopService => self.keeping.stop_service(),
            Action::Fence { targets, epoch } => self.fencing.ask(targets, epoch),
            Action::Testify(testimony) => self.fencing.testify(&testimony),
            Action::Exit => self.exit = true,
            Action::Decided(text) => info!("{text}"),
        }
    }

    fn send(&mut self, to: NodeId, beat: &Beat) {
        match beat.encode() {
            Ok(bytes) => self.network.send(to, &bytes),
            Err(error) if !self.beats_unsent => {
                self.beats_unsent = true;
                error!("a beat cannot be sent: {error}; is the cluster too large?");
            }
            Err(_) => {}
        }
    }

    /// A time of the core by the host's clocks, for other processes. In this order: what passes
    /// between the two readings makes it earlier.
    fn instant(&mut self, time: Time) -> HostInstant {
        let reading = host::clock::read();
        reading.plus(time.since(self.clock.now()))
    }

    fn device(&mut self, fact: Fact) {
        match fact {
            Fact::Up => self.tell(Event::DeviceUp),
            Fact::Down => self.tell(Event::DeviceDown),
            Fact::Unregistered => {
                let nothing = Event::Poll { id: 0, view: ViewId::default(), cast: None };
                self.tell(nothing);
                self.tell(Event::DeviceDown);
            }
            Fact::Said(FromDevice::Poll(poll)) => self.poll(poll),
            Fact::Said(FromDevice::Status(status)) => self.tell(Event::DeviceStatus(status)),
            Fact::Said(FromDevice::Epoch { highest }) => self.tell(Event::ArbiterEpoch(highest)),
            // The socket has dealt with these.
            Fact::Said(FromDevice::Register { .. } | FromDevice::Unregister) => {}
        }
    }

    /// The device says the end of its lease by the host's clocks; the core has one of its own.
    fn poll(&mut self, poll: Poll) {
        // In this order: what passes between the two readings shortens the lease.
        let now = self.clock.now();
        let reading = host::clock::read();
        let cast = poll
            .cast
            .map(|cast| -> (Time, GrantId) { (now + cast.expires.remaining(reading), cast.grant) });
        self.tell(Event::Poll { id: poll.id, view: poll.view, cast });
    }

    fn answer(&mut self, request: Request) {
        let answer = match request.question {
            Question::Status => self.status(),
            Question::Leave => {
                info!("asked to leave the cluster");
                self.leave();
                "ok".to_owned()
            }
        };
        // Who asked may be gone.
        let _ = request.answer.send(answer);
    }

    fn status(&mut self) -> String {
        let now = self.clock.now();
        let mut status = self.node.status(now, &self.conf.cluster_name.to_string());
        for (id, peer) in &mut status.peers {
            peer.links = self.network.status(NodeId(*id));
        }
        self.keeping.describe(&mut status.watchdog, &mut status.warnings);
        let nodes: Vec<NodeId> = self.conf.nodes.iter().map(|node| node.id).collect();
        self.fencing.describe(&nodes, &mut status);
        serde_json::to_string(&status)
            .unwrap_or_else(|error| format!("error: the status cannot be written: {error}"))
    }
}

/// What a signal asks for.
pub(crate) enum Asked {
    /// To leave the cluster; the signal's name.
    End(&'static str),
    /// To read the configuration again.
    Reload,
}

/// The signals that the daemon follows.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let handle = |kind| {
            signal(kind).map_err(|error| anyhow::anyhow!("signals cannot be handled: {error}"))
        };
        Ok(Self {
            terminate: handle(SignalKind::terminate())?,
            interrupt: handle(SignalKind::interrupt())?,
            hangup: handle(SignalKind::hangup())?,
        })
    }

    pub(crate) async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::End("SIGTERM"),
            _ = self.interrupt.recv() => Asked::End("SIGINT"),
            // A terminal that closes does not take the node out of its cluster.
            _ = self.hangup.recv() => Asked::Reload,
        }
    }
}
