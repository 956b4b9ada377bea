//! The guard: self-fencing for a node whose cluster software is corosync. It watches corosync's
//! quorum and the quorum device, and owns the watchdog by rule S5; resources stay with Pacemaker
//! or Proxmox VE. corosync's configuration is read through corosync and never written.
//!
//! # Layout
//! * [`core`]: the machine that decides; no I/O, no clock.
//! * [`options`]: what a guard is told.
//! * `watch`: corosync, on a thread. `device`: haguard's quorum device. `outside`: whether what was
//!   started by others has ended.
//! * `keeping`: the keeper, which holds the watchdog and outlives the guard.
//! * `status`: what people are told.

pub mod core;
pub mod options;

mod device;
mod keeping;
mod outside;
mod status;
mod watch;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use host::clock::{self, Clock};
use host::corosync::{Info, Libraries, Notice};
use host::lock::Lock;
use protocol::time::{HostInstant, Hurry, Time};
use tokio::sync::mpsc::{self, Receiver};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tracing::{error, info, warn};

use crate::daemon::status::{Question, Request, Requests};
use crate::daemon::{Asked, Signals};
use crate::keeper::Options as KeeperOptions;
use crate::keeper::message::State;
use crate::options::{LOCK_FILE, Options, STATUS_SOCKET};
use core::timing::Limits;
use core::{Action, Answer, Event, Guard, Settings};
use device::Word;
use keeping::Keeping;
use options::GuardOptions;
use outside::Corosync;
use watch::Report;

/// The socket of haguard's quorum device in the run directory.
const DEVICE_SOCKET: &str = "qdevice.sock";
/// What may wait to be taken: a second of it.
const REPORTS: usize = 32;
/// An answer is worth nothing after this.
const AGE_MAX: Duration = Duration::from_secs(60);
/// Who has asked for the end gets an answer within this.
const ANSWER: Duration = Duration::from_millis(100);
/// How often a corosync that is gone is looked at, until another one answers.
const LOOK: Duration = Duration::from_millis(50);

/// Runs the guard until it is told to end. Wants a runtime of one thread with I/O and time
/// enabled, and a `tracing` subscriber for what it decides.
///
/// # Errors
/// Everything that keeps the guard from starting; a rule of time that does not hold when corosync
/// first answers, unless the watchdog is armed already. To be shown with `{}`.
pub async fn run(options: Options, guard: GuardOptions) -> anyhow::Result<()> {
    Daemon::start(options, guard).await?.run().await
}

struct Daemon {
    clock: Clock,
    guard: Guard,
    options: GuardOptions,
    /// corosync has answered once.
    checked: bool,
    /// The one that answers, or has answered last.
    corosync: Option<Corosync>,
    gone: bool,
    reports: Receiver<Report>,
    words: Receiver<Word>,
    /// Its last one.
    device: Option<Word>,
    /// None for an observer.
    keeping: Option<Keeping>,
    keeper: Option<State>,
    /// What is wrong with the keeper or its watchdog.
    trouble: Option<String>,
    requests: Requests,
    signals: Signals,
    /// The keeper was told to end.
    farewell: bool,
    exit: bool,
    /// It ends with the value.
    _asking: JoinSet<()>,
    _locks: [Lock; 2],
}

enum Input {
    Report(Option<Report>),
    Word(Option<Word>),
    Keeper(keeping::Event),
    Request(Request),
    Signal(Asked),
    Deadline,
}

impl Daemon {
    async fn start(options: Options, guard: GuardOptions) -> anyhow::Result<Self> {
        options.check()?;
        let run_lock = Lock::take(&options.run_dir.join(LOCK_FILE))?;
        let state_lock = Lock::take(&options.state_dir.join(LOCK_FILE))?;
        let libraries = Libraries::open()?;
        let keeping = match &guard.watchdog {
            Some(path) => Some(keeper(&options, &guard, path).await?),
            None => {
                warn!("this guard only observes: nothing resets this machine");
                None
            }
        };
        let (keeping, keeper) = match keeping {
            Some((keeping, state)) => (Some(keeping), Some(state)),
            None => (None, None),
        };
        let requests = Requests::open(&options.run_dir.join(STATUS_SOCKET))?;
        let signals = Signals::new()?;
        let limits = Limits { watchdog: guard.watchdog_timeout, peers_wait: guard.peers_wait };
        let (words_in, words) = mpsc::channel(REPORTS);
        let socket = guard.qdevice_socket.clone();
        let socket = socket.unwrap_or_else(|| options.run_dir.join(DEVICE_SOCKET));
        // Before corosync, whose times are judged by what device there is.
        let first = device::ask(&socket).await;
        let mut asking = JoinSet::new();
        asking.spawn(device::follow(socket, words_in));
        let mut daemon = Self {
            clock: Clock::start(Hurry::Fast),
            guard: Guard::new(Settings { limits, observe: guard.watchdog.is_none() }),
            options: guard,
            checked: false,
            corosync: None,
            gone: true,
            reports: reports(libraries)?,
            words,
            device: None,
            keeping,
            keeper: None,
            trouble: None,
            requests,
            signals,
            farewell: false,
            exit: false,
            _asking: asking,
            _locks: [run_lock, state_lock],
        };
        // Before anything else: what an earlier guard has armed is never disarmed by mistake.
        if let Some(state) = keeper {
            daemon.ready(state);
        }
        if let Some(word) = first {
            daemon.word(word);
        }
        if options.realtime {
            crate::daemon::realtime::ask();
        }
        Ok(daemon)
    }

    async fn run(mut self) -> anyhow::Result<()> {
        info!("guarding by corosync's quorum");
        let mut ended = Ok(());
        while !self.exit {
            let input = self.wait().await;
            if let Err(error) = self.take(input) {
                ended = Err(error);
                self.tell(Event::Leave);
            }
        }
        // The keeper takes the last order before the guard ends.
        if self.farewell {
            self.keeper_ends().await;
        }
        tokio::time::sleep(ANSWER).await;
        ended
    }

    async fn wait(&mut self) -> Input {
        let now = self.clock.now();
        let look = (self.gone && self.corosync.is_some()).then_some(now + LOOK);
        let deadline = [self.guard.deadline(), look].into_iter().flatten().min();
        let deadline = deadline.unwrap_or(Time::NEVER).since(now).min(Duration::from_secs(3600));
        let keeper = async {
            match &mut self.keeping {
                Some(keeping) => keeping.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            report = self.reports.recv() => Input::Report(report),
            word = self.words.recv() => Input::Word(word),
            event = keeper => Input::Keeper(event),
            request = self.requests.next() => Input::Request(request),
            asked = self.signals.next() => Input::Signal(asked),
            () = sleep_until(Instant::now() + deadline) => Input::Deadline,
        }
    }

    /// Never waits.
    fn take(&mut self, input: Input) -> anyhow::Result<()> {
        match input {
            Input::Report(Some(report)) => self.report(report)?,
            Input::Report(None) => bail!("the thread that watches corosync has ended"),
            Input::Word(Some(word)) => self.word(word),
            Input::Word(None) => bail!("the task that asks the quorum device has ended"),
            Input::Keeper(event) => self.keeper(event),
            Input::Request(request) => self.answer(request),
            Input::Signal(Asked::End(name)) => {
                info!("{name}: the guard ends");
                self.tell(Event::Leave);
            }
            Input::Signal(Asked::Reload) => {
                info!("corosync's configuration is followed by itself: nothing to read again");
            }
            Input::Deadline => self.tell(Event::Timeout),
        }
        self.look();
        Ok(())
    }

    fn report(&mut self, report: Report) -> anyhow::Result<()> {
        match report {
            Report::Configuration(read) => {
                if self.gone {
                    self.corosync = Corosync::find(Path::new(outside::PID_FILE));
                    self.gone = false;
                }
                match read {
                    Ok(cluster) => self.tell(Event::Configured(cluster)),
                    Err(why) => self.tell(Event::Misconfigured(why)),
                }
                let armed = self.keeper.as_ref().is_some_and(|keeper| keeper.armed);
                if !std::mem::replace(&mut self.checked, true)
                    && !armed
                    && let Some(why) = self.guard.refusal()
                {
                    bail!("the guard does not start: {why}");
                }
            }
            Report::Notice(Notice::Ring(ring, members)) => {
                self.tell(Event::Ring(ring, members.into_iter().collect()));
            }
            Report::Notice(Notice::Quorum(quorate, nodes)) => {
                let members = nodes.into_iter().filter(|(_, member)| *member);
                let members = members.map(|(node, _)| node).collect();
                self.tell(Event::Quorum { quorate, members });
            }
            Report::Answer { asked, info } => {
                if let Some(asked) = self.time(asked) {
                    self.tell(Event::Answer { asked, answer: answer(info) });
                }
            }
            Report::Gone(why) => {
                self.gone = true;
                self.tell(Event::Gone(why));
            }
        }
        Ok(())
    }

    /// When something happened, at the earliest; none if that is too long ago to matter.
    fn time(&mut self, then: HostInstant) -> Option<Time> {
        // In this order: what passes between the two readings makes it earlier.
        let now = self.clock.now();
        let left = then.plus(AGE_MAX).remaining(clock::read());
        (!left.is_zero()).then(|| now - AGE_MAX.saturating_sub(left))
    }

    fn word(&mut self, word: Word) {
        let reading = clock::read();
        let now = self.clock.now();
        let lease = word.lease().map(|end| end.remaining(reading)).filter(|left| !left.is_zero());
        self.device = Some(word);
        self.tell(Event::Device { lease: lease.map(|left| now + left) });
    }

    fn keeper(&mut self, event: keeping::Event) {
        match event {
            keeping::Event::Ready(state) => self.ready(state),
            keeping::Event::State(state) => {
                if state.armed {
                    self.trouble = None;
                }
                self.tell(Event::Armed(state.armed));
                self.keeper = Some(state);
            }
            keeping::Event::Refused(why) => {
                if self.trouble.as_ref() != Some(&why) {
                    error!("{why}");
                }
                self.trouble = Some(why);
            }
            keeping::Event::Forced(why) => error!("the keeper resets this machine: {why}"),
            keeping::Event::Released => {
                info!("the watchdog is disarmed");
                self.keeper = None;
                self.tell(Event::Armed(false));
            }
            keeping::Event::Gone(why) => {
                error!("the keeper is gone: {why}");
                self.keeper = None;
                self.tell(Event::KeeperGone);
            }
            keeping::Event::Failed(why) => {
                if self.trouble.as_ref() != Some(&why) {
                    error!("{why}");
                }
                self.trouble = Some(why);
            }
        }
    }

    fn ready(&mut self, state: State) {
        self.trouble = None;
        if state.armed {
            info!(
                "the keeper (process {}) is armed since an earlier guard, for another {} ms",
                state.pid, state.entitled_ms
            );
            let until = self.clock.now() + Duration::from_millis(state.entitled_ms);
            self.tell(Event::Adopted(until));
        }
        self.keeper = Some(state);
    }

    /// Whether the corosync that is gone was stopped in order.
    fn look(&mut self) {
        if !self.gone || !self.corosync.as_ref().is_some_and(Corosync::ended_in_order) {
            return;
        }
        let managers = outside::managers();
        if managers.is_empty() {
            self.corosync = None;
            self.tell(Event::StoppedCleanly);
        }
    }

    fn tell(&mut self, event: Event) {
        let now = self.clock.now();
        self.guard.handle(now, event);
        while let Some(action) = self.guard.next_action() {
            self.act(action);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Entitle { until } => {
                // In this order: what passes between the two readings makes it earlier.
                let reading = clock::read();
                let until = reading.plus(until.since(self.clock.now()));
                if let Some(keeping) = &self.keeping {
                    keeping.entitle(until);
                }
            }
            Action::Revoke => {
                if let Some(keeping) = &self.keeping {
                    keeping.revoke();
                }
            }
            Action::Release => {
                if let Some(keeping) = &self.keeping {
                    keeping.release();
                }
            }
            Action::Farewell => {
                self.farewell = true;
                if let Some(keeping) = &self.keeping {
                    keeping.farewell();
                }
            }
            Action::Exit => self.exit = true,
            Action::Decided(text) => info!("{text}"),
            Action::Alarm(text) => error!("{text}"),
        }
    }

    fn answer(&mut self, request: Request) {
        let answer = match request.question {
            Question::Status => {
                let now = self.clock.now();
                status::text(now, self)
            }
            Question::Leave => {
                info!("asked to end");
                self.tell(Event::Leave);
                "ok".to_owned()
            }
        };
        // Who asked may be gone.
        let _ = request.answer.send(answer);
    }

    /// A keeper that was never armed ends with the guard.
    async fn keeper_ends(&mut self) {
        let Some(keeping) = &mut self.keeping else { return };
        let ended = tokio::time::timeout(Duration::from_secs(5), async {
            loop {
                match keeping.next().await {
                    keeping::Event::Refused(why) => return error!("{why}"),
                    keeping::Event::Released
                    | keeping::Event::Gone(_)
                    | keeping::Event::Failed(_) => return,
                    keeping::Event::Ready(_)
                    | keeping::Event::State(_)
                    | keeping::Event::Forced(_) => {}
                }
            }
        });
        if ended.await.is_err() {
            warn!("the keeper has not ended in time; the next guard will adopt it");
        }
    }
}

/// The keeper, which opens the watchdog with the first entitlement and not before: a node that
/// boots is not reset for not being quorate yet.
async fn keeper(
    options: &Options,
    guard: &GuardOptions,
    path: &Path,
) -> anyhow::Result<(Keeping, State)> {
    if !path.exists() {
        bail!(
            "{}: no such watchdog: load its driver (modprobe softdog is the last resort), or correct \
             watchdog in the settings",
            path.display()
        );
    }
    let mut keeper = KeeperOptions::new(options.run_dir.clone());
    keeper.state_dir.clone_from(&options.state_dir);
    keeper.prefix.clone_from(&options.keeper.prefix);
    keeper.device = Some(path.to_owned());
    keeper.watchdog = guard.watchdog_timeout;
    keeper.outside = true;
    Ok(Keeping::start(options.keeper.program.clone(), keeper).await?)
}

/// Starts the thread that watches corosync. It ends with the process, or when it next has
/// something to say.
fn reports(libraries: Arc<Libraries>) -> anyhow::Result<Receiver<Report>> {
    let (tell, reports) = mpsc::channel(REPORTS);
    std::thread::Builder::new()
        .name("corosync".to_owned())
        .spawn(move || watch::watch(&libraries, &tell))
        .context("no thread for corosync")?;
    Ok(reports)
}

fn answer(info: Info) -> Answer {
    Answer {
        expected: info.expected_votes,
        total: info.total_votes,
        quorum: info.quorum,
        quorate: info.quorate,
        registered: info.registered,
        cast: info.cast,
        device_votes: info.device_votes,
    }
}
