//! The device's machine.
//!
//! [`Device::handle`] takes facts in, [`Device::next_action`] gives duties out in order,
//! [`Device::deadline`] says when to call again with [`Event::Timeout`]. `session` is the
//! conversation with the arbiter; `ballot` is what is cast for the host, and until when.
//!
//! Nothing that an arbiter says ends the device: it closes the connection, says why, and tries
//! again.

mod ballot;
mod lists;
mod session;
mod snapshot;

use std::collections::VecDeque;
use std::time::Duration;

use protocol::host::{DeviceSettings, FromHost, HostQuorum, HostView, Welcome};
use protocol::ids::{ArbiterId, Epoch, GrantId, InstanceId, ViewId};
use protocol::qnet::{Frame, HostKind};
use protocol::rng::Rng;
use protocol::status::DeviceStatus;
use protocol::time::Time;
use protocol::times;
use protocol::vote::Heuristics;

use ballot::{Ballot, Word};
use session::Session;
pub use snapshot::{HeuristicsResults, Snapshot, State};

/// Everything that can happen to a device.
#[derive(Clone, Debug)]
pub enum Event {
    /// The host has said something. The first thing is its welcome.
    Host(FromHost),
    /// The host is gone.
    HostDown,
    /// The connection of the last [`Action::Connect`] stands.
    Connected,
    /// It could not be made.
    ConnectFailed {
        /// For people.
        reason: String,
    },
    /// The TLS handshake of the last [`Action::StartTls`] is done.
    Secured,
    /// A whole message arrived.
    Received(Frame),
    /// The connection is gone.
    Closed {
        /// For people.
        reason: String,
    },
    /// The commands of [`Action::RunHeuristics`] have ended, or were late.
    Heuristics {
        /// Which run.
        run: u64,
        /// All passed, or not.
        result: Heuristics,
    },
    /// The operator ends the daemon.
    Leave,
    /// The [`Device::deadline`] has passed.
    Timeout,
}

/// Everything a device may do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Register with the host.
    Register,
    /// Cast, or take back, the vote at the host.
    Poll {
        /// Comes back in [`FromHost::Polled`].
        id: u64,
        /// The view it is for.
        view: ViewId,
        /// Until when it counts, and where it comes from; `None` takes it back.
        cast: Option<(Time, GrantId)>,
    },
    /// Unregister: the vote ends at once.
    Unregister,
    /// Resolve the arbiter's name and connect; answer with one event.
    Connect {
        /// Give up after this long.
        limit: Duration,
    },
    /// Write what is queued, then start the TLS handshake as client.
    StartTls,
    /// Queue a message.
    Send(Vec<u8>),
    /// Close the connection; [`Event::Closed`] is not expected back.
    Disconnect,
    /// Run the heuristics commands; a run that is under way is superseded.
    RunHeuristics {
        /// Comes back in the answer.
        run: u64,
        /// All must have passed by then.
        limit: Duration,
    },
    /// Make the arbiter's identity durable: from now on no other is believed (safety 11).
    Pin(ArbiterId),
    /// Tell the host of an epoch that is higher than what it has stored, so that its next view is
    /// above it.
    Epoch(Epoch),
    /// Tell the host what to show of the device.
    Status(DeviceStatus),
    /// The daemon may end.
    Exit,
    /// A decision, for the log.
    Decided(String),
}

/// Who is starting, and what it was told on its command line.
#[derive(Clone, Debug)]
pub struct Config {
    /// This life of the process.
    pub instance: InstanceId,
    /// For the jitter of reconnects: different on every node.
    pub seed: u64,
    /// Who counts the vote.
    pub host: HostKind,
    /// The arbiter that was pinned before, if one was.
    pub pinned: Option<ArbiterId>,
    /// For status: host and port as they are dialled; empty is what the host's configuration says.
    pub arbiter: String,
}

/// The host as the device knows it.
#[derive(Clone, Debug)]
struct Host {
    welcome: Welcome,
    settings: DeviceSettings,
    view: Option<HostView>,
    quorum: Option<HostQuorum>,
    heard: Time,
    /// The highest epoch that the host remembers, once it has said so.
    stored_epoch: Option<Epoch>,
    /// The highest epoch that it was told of; it keeps trying to store it by itself.
    told_epoch: Epoch,
}

impl Host {
    /// The session with the arbiter can go on. Heuristics and lists are told within it, and
    /// everything else of the device only at its beginning. The watchdog's bound is told there too,
    /// but no decision hangs on it, so it is no reason to end a session that holds a lease.
    fn is_as_before(&self, old: &Self) -> bool {
        let (new, before) = (&self.welcome, &old.welcome);
        let mut same = self.settings.clone();
        same.heuristics = old.settings.heuristics.clone();
        new.instance == before.instance
            && (&new.cluster, new.node) == (&before.cluster, before.node)
            && same == old.settings
    }
}

/// The device.
#[derive(Clone, Debug)]
pub struct Device {
    config: Config,
    rng: Rng,
    host: Option<Host>,
    session: Session,
    ballot: Ballot,
    pinned: Option<ArbiterId>,
    /// The highest epoch that anybody has spoken of.
    highest_epoch: Epoch,
    /// The highest one that the arbiter has.
    arbiter_epoch: Epoch,

    heuristics: Heuristics,
    results: HeuristicsResults,
    heuristics_run: u64,
    heuristics_running: Option<ballot::Purpose>,
    heuristics_at: Option<Time>,

    problem: Option<String>,
    /// What the host shows of the device: [`Facts`], and a problem.
    shown: Option<(Facts, Option<String>)>,
    evaluated: Time,
    leaving: bool,
    actions: VecDeque<Action>,
}

impl Device {
    /// A device that waits for its host.
    pub fn new(config: Config) -> Self {
        Self {
            rng: Rng::new(config.seed),
            pinned: config.pinned,
            config,
            host: None,
            session: Session::default(),
            ballot: Ballot::default(),
            highest_epoch: Epoch(0),
            arbiter_epoch: Epoch(0),
            heuristics: Heuristics::Undefined,
            results: HeuristicsResults::default(),
            heuristics_run: 0,
            heuristics_running: None,
            heuristics_at: None,
            problem: None,
            shown: None,
            evaluated: Time::ZERO,
            leaving: false,
            actions: VecDeque::new(),
        }
    }

    /// Takes a fact in.
    pub fn handle(&mut self, now: Time, event: Event) {
        if self.leaving {
            return;
        }
        match event {
            Event::Host(said) => self.host_said(now, said),
            Event::HostDown => self.host_down(),
            Event::Connected => self.connected(now),
            Event::ConnectFailed { reason } | Event::Closed { reason } => {
                self.disconnected(now, reason);
            }
            Event::Secured => self.secured(now),
            Event::Received(frame) => self.received(now, &frame),
            Event::Heuristics { run, result } => self.heuristics_result(now, run, result),
            Event::Leave => self.leave(),
            Event::Timeout => {}
        }
        self.evaluated = now;
        if !self.leaving {
            self.tick(now);
            self.hand_over_epoch();
            self.show(now);
        }
    }

    /// The next duty, in order; `None` when all are done.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call with [`Event::Timeout`], if nothing happens before.
    pub fn deadline(&self) -> Option<Time> {
        if self.leaving {
            return None;
        }
        let all = self.session.deadlines().chain(self.heuristics_at).chain(self.ballot.ends());
        // A lease that has ended, or a connection that waits for a view, is no reason to wake.
        all.filter(|at| *at > self.evaluated).min()
    }

    /// The lease it holds now: its view and its end.
    pub fn lease(&self, now: Time) -> Option<(ViewId, Time)> {
        self.ballot.lease.filter(|lease| now < lease.expires).map(|l| (l.view, l.expires))
    }

    fn host_said(&mut self, now: Time, said: FromHost) {
        if let FromHost::Welcome(welcome) = said {
            self.welcome(now, *welcome);
            return;
        }
        let Some(host) = &mut self.host else { return };
        host.heard = now;
        match said {
            FromHost::Welcome(_) => {}
            FromHost::View(view) => {
                self.highest_epoch = self.highest_epoch.max(view.epoch);
                host.view = Some(view);
                self.view_changed();
            }
            FromHost::Quorum(quorum) => {
                host.quorum = Some(quorum);
                self.send_quorum_list();
            }
            FromHost::Polled { id, applied } => self.polled(id, applied),
            FromHost::Alive { highest_epoch } => {
                host.stored_epoch = Some(highest_epoch);
                self.highest_epoch = self.highest_epoch.max(highest_epoch);
            }
        }
    }

    /// The host may have lost its disk, or never have heard of the views that came without it:
    /// then the arbiter knows of epochs that the host would give again (safety 27).
    fn hand_over_epoch(&mut self) {
        let highest = self.arbiter_epoch;
        let Some(host) = &mut self.host else { return };
        let lacks = host.stored_epoch.is_some_and(|stored| highest > stored);
        if lacks && highest > host.told_epoch {
            host.told_epoch = highest;
            self.actions.push_back(Action::Epoch(highest));
        }
    }

    fn welcome(&mut self, now: Time, welcome: Welcome) {
        let Some(settings) = welcome.device.clone() else {
            self.lose_configuration();
            return;
        };
        let before = self.host.take();
        let same_host = before.as_ref().filter(|old| old.welcome.instance == welcome.instance);
        let (view, quorum, stored_epoch, told_epoch) = match same_host {
            Some(old) => (old.view.clone(), old.quorum.clone(), old.stored_epoch, old.told_epoch),
            None => (None, None, None, Epoch(0)),
        };
        let heard = now;
        let host = Host { welcome, settings, view, quorum, heard, stored_epoch, told_epoch };
        let host = self.host.insert(host);
        let Some(old) = before else {
            self.actions.push_back(Action::Register);
            return;
        };
        if !host.is_as_before(&old) {
            self.restart(now, "the device's configuration has changed");
            return;
        }
        let lists = |welcome: &Welcome| (welcome.nodes.clone(), welcome.config_version);
        let listed = lists(&host.welcome) != lists(&old.welcome);
        let heuristics = host.settings.heuristics != old.settings.heuristics;
        if listed {
            self.send_config_change();
        }
        if heuristics {
            self.start_heuristics(ballot::Purpose::Regular);
        }
    }

    /// The configuration has no device any more: its vote is taken back at once, the host counts
    /// without it, and the arbiter is left. A later welcome may bring it back.
    fn lose_configuration(&mut self) {
        if self.host.is_some() {
            self.poll_nothing(None);
            self.actions.push_back(Action::Unregister);
            let text =
                "the node's configuration has no quorum.device any more: the vote is given up";
            self.actions.push_back(Action::Decided(text.to_owned()));
        }
        self.forget_host();
        let text = "the node's configuration has no quorum.device: add one";
        self.problem = Some(text.to_owned());
    }

    fn host_down(&mut self) {
        self.forget_host();
        let text = "the node's local socket is closed: is haguard node running?";
        self.problem = Some(text.to_owned());
    }

    /// Ends everything that is done for a host.
    fn forget_host(&mut self) {
        self.host = None;
        self.ballot.forget();
        self.heuristics_running = None;
        self.heuristics_at = None;
        self.shown = None;
        if !self.session.is_down() {
            self.actions.push_back(Action::Disconnect);
        }
        self.session.reset(None);
    }

    fn leave(&mut self) {
        if self.host.is_some() {
            self.poll_nothing(None);
            self.actions.push_back(Action::Unregister);
        }
        if !self.session.is_down() {
            self.actions.push_back(Action::Disconnect);
        }
        self.leaving = true;
        self.actions.push_back(Action::Exit);
    }

    /// The host lives, so a lease would be counted and a loss would be applied.
    fn host_lives(&self, now: Time) -> bool {
        self.host.as_ref().is_some_and(|host| now < host.heard + times::HOST_SILENCE)
    }

    /// The arbiter's address as it is dialled.
    fn arbiter(&self) -> String {
        match &self.host {
            Some(host) if self.config.arbiter.is_empty() => {
                format!("{}:{}", host.settings.host, host.settings.port)
            }
            Some(_) | None => self.config.arbiter.clone(),
        }
    }

    /// Shows what has changed.
    fn show(&mut self, now: Time) {
        if self.host.is_none() {
            return;
        }
        let facts = self.facts(now);
        let shown = self.shown.as_ref();
        if shown.is_some_and(|(shown, problem)| *shown == facts && *problem == self.problem) {
            return;
        }
        self.shown = Some((facts, self.problem.clone()));
        let status = self.status(facts);
        self.actions.push_back(Action::Status(status));
    }

    fn facts(&self, now: Time) -> Facts {
        Facts {
            state: self.session.state(),
            vote: self.ballot.word(now),
            arbiter_id: self.session.arbiter.map(|arbiter| arbiter.id),
        }
    }

    fn status(&self, facts: Facts) -> DeviceStatus {
        let state = match facts.state {
            State::Down => "disconnected",
            State::Connecting => "connecting",
            State::Connected => "connected",
        };
        DeviceStatus {
            state: match &self.problem {
                None => state.to_owned(),
                Some(problem) => format!("{state}: {problem}"),
            },
            vote: facts.vote.to_string(),
            // What changes by itself is added by who shows it.
            lease_remaining_ms: None,
            epoch: None,
            arbiter: self.arbiter(),
            arbiter_id: facts.arbiter_id.map(|id| id.to_string()),
        }
    }
}

/// What a status is made of, but for what stays the same in a session. It is looked at after every
/// event, so there is no text in it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Facts {
    state: State,
    vote: Word,
    arbiter_id: Option<ArbiterId>,
}
