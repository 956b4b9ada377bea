//! The keeper's process: one thread in a poll(2) loop around the machine. Nothing in the loop
//! waits for a disk, a terminal or a peer.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use host::clock;
use host::lock::{Lock, LockError};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::prctl;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{self, Pid};
use protocol::ids::BootId;
use protocol::time::{ElapsedClock, HostInstant, Hurry, Time};
use protocol::times;
use protocol::vote::WatchdogClass;

use super::core::{Action, Core, Event, Job, Left, Settings, Undo};
use super::device::{self, Device, DeviceError};
use super::disk::{Disk, Done, Log};
use super::launch::{Launcher, TOKEN};
use super::link::{Heard, Link};
use super::mark::{self, Mark};
use super::message::{Command, ExitStatus, Launch, Report, State, VERSION};
use super::process::{Handle, ProcessId, Scope, signal_descendants, with_environment};
use super::{EXIT_FAILED, EXIT_LOCKED, LOCK, Options, READY, SOCKET, cgroup, ioctl, say};

/// Daemons that a forced end kills, at most.
const DAEMONS_LIMIT: usize = 64;
/// A priority among real-time processes; below the kernel's own watchdog threads (99).
const PRIORITY: i32 = 50;
/// Out of reach of the kernel's memory killer, as long as there is anything else (proc(5)).
const OOM_SCORE_ADJ: &str = "-1000";

/// Runs a keeper; see [`super::run`].
pub(super) fn run(options: Options) -> ExitCode {
    match Keeper::start(options) {
        Ok(mut keeper) => keeper.run(),
        Err(failure) => {
            // The daemon that has started the keeper reads what would be its ready line.
            if io::stdout().is_terminal() {
                say(&failure.text);
            } else {
                let _ = writeln!(io::stdout(), "{}", failure.text);
            }
            ExitCode::from(failure.code)
        }
    }
}

struct Failure {
    text: String,
    code: u8,
}

impl Failure {
    fn at(what: impl std::fmt::Display, error: impl std::fmt::Display) -> Self {
        Self { text: format!("{what}: {error}"), code: EXIT_FAILED }
    }
}

struct Keeper {
    options: Options,
    core: Core,
    clock: ElapsedClock,
    now: Time,
    reading: HostInstant,
    /// None: not open yet, or closed again.
    device: Option<Box<dyn Device>>,
    petted: Time,
    boot_id: BootId,
    launcher: Launcher,
    /// What an earlier keeper of this boot has left.
    left: Option<Mark>,
    orphans: BTreeSet<ProcessId>,
    daemons: Vec<Handle>,
    disk: Disk,
    log: Log,
    link: Link,
    signals: SignalFd,
    timer: TimerFd,
    exit: Option<ExitCode>,
    /// Held for its lock.
    _lock: Lock,
}

impl Keeper {
    fn start(mut options: Options) -> Result<Self, Failure> {
        for dir in [&mut options.run_dir, &mut options.state_dir] {
            make_dir(dir).map_err(|error| Failure::at(dir.display(), error))?;
        }
        let lock = lock(&options.run_dir.join(LOCK))?;
        // Blocked before the first thread is made, so that no thread takes them.
        let signals = block_signals().map_err(|error| Failure::at("signals", error))?;
        prctl::set_child_subreaper(true)
            .map_err(|error| Failure::at("cannot inherit what services leave behind", error))?;
        let (log, log_file) = open_log(options.log.as_deref())?;
        let disk = Disk::start(options.state_dir.clone())
            .map_err(|error| Failure::at("disk thread", error))?;
        let oom_score_adj = harden(&log);

        let boot_id = host::file::boot_id();
        let left = read_mark(&options.state_dir, boot_id, options.outside)?;
        let own = ProcessId::own().ok_or_else(|| Failure::at("/proc", "not readable"))?;
        let token = format!("{}-{}", own.pid, own.start_ticks);
        let launcher = Launcher {
            prefix: options.prefix.clone(),
            cgroup: cgroup::create(&token),
            token,
            oom_score_adj,
            log: log_file,
        };
        let socket = options.run_dir.join(SOCKET);
        let link = Link::bind(&socket).map_err(|error| Failure::at(socket.display(), error))?;
        let timer = TimerFd::new(
            ClockId::CLOCK_BOOTTIME,
            TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK,
        )
        .map_err(|error| Failure::at("timer", error))?;
        let reading = clock::read();
        let core = if options.outside {
            Core::guarding(Time::ZERO, options.watchdog)
        } else {
            Core::new(Time::ZERO, settings(&options, left.as_ref(), reading))
        };
        let mut keeper = Self {
            core,
            clock: ElapsedClock::new(Hurry::Fast, reading),
            now: Time::ZERO,
            reading,
            device: None,
            petted: Time::ZERO,
            boot_id,
            launcher,
            left,
            orphans: BTreeSet::new(),
            daemons: Vec::new(),
            disk,
            log,
            link,
            signals,
            timer,
            exit: None,
            options,
            _lock: lock,
        };
        keeper.act().map_err(|error| Failure { text: error.to_string(), code: EXIT_FAILED })?;
        keeper.announce().map_err(|error| Failure::at("standard streams", error))?;
        Ok(keeper)
    }

    /// Says that it listens, and lets go of what belongs to whoever started it.
    fn announce(&self) -> io::Result<()> {
        if let Some(left) = &self.left {
            let until = left.until.remaining(self.reading).as_millis();
            self.log.line(&format!(
                "an earlier keeper of this boot has not proven its stop (entitled for another \
                 {until} ms); what it left is ended before the watchdog is touched"
            ));
        }
        // Whoever has started it may be gone already.
        let _ = writeln!(io::stdout(), "{READY}");
        let null = File::options().read(true).write(true).open("/dev/null")?;
        unistd::dup2_stdin(&null)?;
        unistd::dup2_stdout(&null)?;
        unistd::chdir("/")?;
        Ok(())
    }

    fn run(&mut self) -> ExitCode {
        loop {
            if let Err(error) = self.turn() {
                // Without the device there is no way on; nothing runs then.
                self.log.line(&error.to_string());
                self.exit = Some(ExitCode::from(EXIT_FAILED));
            }
            if let Some(code) = self.exit {
                let _ = fs::remove_file(self.options.run_dir.join(SOCKET));
                if let Some(group) = &self.launcher.cgroup {
                    cgroup::remove(group);
                }
                self.disk.finish();
                self.log.finish();
                return code;
            }
            self.wait();
        }
    }

    /// Takes in what has happened and does what follows. Children come first, so that what the
    /// time asks for is asked with a fresh proof, and last, so that what was just asked for is
    /// proven without another turn.
    fn turn(&mut self) -> Result<(), DeviceError> {
        self.take_signals();
        self.reap();
        self.act()?;
        self.take_done();
        self.hear();
        self.act()?;
        self.tell(Event::Timeout);
        self.act()?;
        self.reap();
        self.act()
    }

    fn wait(&mut self) {
        let now = self.look();
        let left = self.core.deadline().map_or(times::PET, |deadline| deadline.since(now));
        // The timer's clock and the deadline's may run apart: never trusted for longer than a
        // pet, and a timer of zero would be none.
        let left = left.min(times::PET).max(Duration::from_micros(1));
        let expiration = Expiration::OneShot(TimeSpec::from_duration(left));
        let set = self.timer.set(expiration, TimerSetTimeFlags::empty());
        let mut fds = vec![
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.timer.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.disk.fd(), PollFlags::POLLIN),
            PollFd::new(self.link.listener(), PollFlags::POLLIN),
        ];
        if let Some(peer) = self.link.peer() {
            let send =
                if self.link.wants_to_send() { PollFlags::POLLOUT } else { PollFlags::empty() };
            fds.push(PollFd::new(peer, PollFlags::POLLIN | send));
        }
        // The timer is what wakes it; the timeout is for a kernel that has none left.
        let timeout =
            if set.is_ok() { PollTimeout::from(500_u16) } else { PollTimeout::from(20_u8) };
        let _ = poll(&mut fds, timeout);
    }

    fn look(&mut self) -> Time {
        self.reading = clock::read();
        self.now = self.clock.advance(self.reading);
        self.now
    }

    fn tell(&mut self, event: Event) {
        let now = self.look();
        self.core.handle(now, event);
    }

    fn take_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            let number = signal.ssi_signo.cast_signed();
            // Children are looked at in every turn; a hangup means nothing here.
            if let Ok(name @ (Signal::SIGTERM | Signal::SIGINT)) = Signal::try_from(number) {
                self.log.line(&format!("{name}: stopping everything, then ending"));
                self.tell(Event::Terminated);
            }
        }
    }

    /// Collects children that have ended, and tells when the kernel knows of none at all.
    fn reap(&mut self) {
        loop {
            let flags = WaitPidFlag::WNOHANG | WaitPidFlag::__WALL;
            match waitpid(None::<Pid>, Some(flags)) {
                Ok(WaitStatus::Exited(pid, code)) => {
                    let status = ExitStatus::Code(code);
                    self.tell(Event::Reaped { pid: pid.as_raw(), status });
                }
                Ok(WaitStatus::Signaled(pid, signal, _)) => {
                    let status = ExitStatus::Signal(signal as i32);
                    self.tell(Event::Reaped { pid: pid.as_raw(), status });
                }
                Ok(WaitStatus::StillAlive) => return,
                Err(Errno::ECHILD) => return self.tell(Event::NoChildren),
                Err(Errno::EINTR) => {}
                Err(_) => return,
                // Stops and traces of children were not asked for.
                Ok(_) => {}
            }
        }
    }

    fn take_done(&mut self) {
        while let Some(done) = self.disk.next_done() {
            match done {
                Done::Stored { number, error: None } => {
                    self.tell(Event::MarkStored { mark: number });
                }
                Done::Stored { number, error: Some(error) } => {
                    self.tell(Event::MarkFailed { mark: number, error });
                }
                Done::NotCleared { error } => {
                    self.log.line(&format!("the may-run mark cannot be removed: {error}"));
                }
            }
        }
    }

    fn hear(&mut self) {
        if !self.link.flush() {
            self.log.line("the node daemon does not read; its connection is closed");
        }
        for heard in self.link.read() {
            match heard {
                Heard::Command(command) => self.command(command),
                Heard::Closed(None) => {
                    self.log.line("the node daemon has closed the connection; its deadline stands");
                }
                Heard::Closed(Some(reason)) => {
                    self.log.line(&format!("the node daemon's connection is closed: {reason}"));
                }
            }
        }
        if self.link.accept() {
            self.tell(Event::Connected);
        }
    }

    fn command(&mut self, command: Command) {
        let now = self.look();
        let reading = self.reading;
        let time = |until: HostInstant| now + until.remaining(reading);
        let event = match command {
            Command::Hello => Event::Hello,
            Command::Entitle { until } => Event::Entitle { until: time(until) },
            Command::Revoke => Event::Revoke,
            Command::Start { serial, launch, undo, entitled_until } => {
                Event::Start { serial, launch, undo, until: time(entitled_until) }
            }
            Command::Cancel { serial } => Event::Cancel { serial },
            Command::Forget { serial } => Event::Forget { serial },
            Command::Stop => Event::Stop,
            Command::Daemons { daemons } => {
                let handles = daemons.into_iter().take(DAEMONS_LIMIT);
                self.daemons = handles.filter_map(ProcessId::open).collect();
                return;
            }
            Command::Farewell => Event::Farewell,
            Command::Release => Event::Release,
        };
        self.core.handle(now, event);
        // Each command's effects come before the next command.
        if let Err(error) = self.act() {
            self.log.line(&error.to_string());
            self.exit = Some(ExitCode::from(EXIT_FAILED));
        }
    }

    fn act(&mut self) -> Result<(), DeviceError> {
        while let Some(action) = self.core.next_action() {
            self.perform(action)?;
        }
        Ok(())
    }

    fn perform(&mut self, action: Action) -> Result<(), DeviceError> {
        match action {
            Action::StoreMark { mark, until, undos } => self.store_mark(mark, until, undos),
            Action::ClearMark => {
                self.left = None;
                self.disk.clear();
            }
            Action::Spawn { job, launch, until } => self.spawn(job, &launch, until),
            Action::TerminateOne { pid } => {
                self.signal(Scope::Session(pid), &[Signal::SIGTERM, Signal::SIGCONT]);
            }
            Action::KillOne { pid } => self.signal(Scope::Session(pid), &[Signal::SIGKILL]),
            Action::Terminate => {
                self.log.line("stopping everything");
                self.signal(Scope::All, &[Signal::SIGTERM, Signal::SIGCONT]);
            }
            Action::Kill => self.signal(Scope::All, &[Signal::SIGKILL]),
            Action::EndOrphans => self.end_orphans(),
            Action::OpenDevice => self.open_device()?,
            Action::Pet => self.pet(),
            Action::Disarm => self.disarm(),
            Action::KillDaemons => self.kill_daemons(),
            Action::Reboot { reason } => self.reboot(&reason),
            Action::ReportState => {
                let state = Report::State(self.state());
                self.link.send(&state);
            }
            Action::Report(report) => self.report(&report),
            Action::Exit => self.exit = Some(ExitCode::SUCCESS),
        }
        Ok(())
    }

    fn store_mark(&mut self, number: u64, until: Time, undos: Vec<Undo>) {
        let until = self.host(until);
        let cgroup = self.launcher.cgroup.as_deref();
        let mark = Mark::new(self.boot_id, &self.launcher.token, cgroup, until, undos);
        let mark = Mark { outside: self.options.outside, ..mark };
        self.disk.store(number, mark);
    }

    fn spawn(&mut self, job: Job, launch: &Launch, until: Option<Time>) {
        self.look();
        let until = until.map(|until| self.host(until));
        let event = match self.launcher.spawn(launch, until) {
            // Reaped by the turn, not through this handle.
            Ok(child) => match i32::try_from(child.id()) {
                Ok(pid) => Event::Spawned { job, pid },
                Err(error) => Event::SpawnFailed { job, error: error.to_string() },
            },
            Err(error) => Event::SpawnFailed { job, error: format!("cannot fork: {error}") },
        };
        self.tell(event);
    }

    /// A time of the machine as one that other processes can read.
    fn host(&self, time: Time) -> HostInstant {
        self.reading.plus(time.since(self.now))
    }

    fn signal(&self, scope: Scope, signals: &[Signal]) {
        let failed = signal_descendants(scope, signals);
        if failed > 0 {
            self.log.line(&format!("{failed} processes cannot be signalled"));
        }
    }

    fn end_orphans(&mut self) {
        let token = self.left.as_ref().map(|mark| mark.token.as_str()).unwrap_or_default();
        // A process that is ending loses its environment before its last write is done: whoever
        // was seen once counts until it is over.
        self.orphans.extend(with_environment(TOKEN, token));
        self.orphans.retain(|process| process.lives());
        if self.orphans.is_empty() {
            // What was forked during the look is seen by a second one.
            self.orphans.extend(with_environment(TOKEN, token));
        }
        for handle in self.orphans.iter().filter_map(|process| process.open()) {
            if let Err(error) = handle.signal(Signal::SIGKILL) {
                self.log.line(&format!("what an earlier keeper left cannot be killed: {error}"));
            }
        }
        let group = self.left.as_ref().and_then(|mark| mark.cgroup.as_deref());
        let populated = group.is_some_and(|group| match cgroup::kill(group) {
            Ok(false) => {
                cgroup::remove(group);
                false
            }
            Ok(true) | Err(_) => true,
        });
        self.tell(Event::OrphansLeft { count: self.orphans.len() + usize::from(populated) });
    }

    fn open_device(&mut self) -> Result<(), DeviceError> {
        let opened = device::open(self.options.device.as_deref(), self.options.watchdog);
        let device = match opened {
            Ok(device) => device,
            // Whoever has it may let go of it.
            Err(error) if self.options.outside => {
                self.tell(Event::OpenFailed { error: error.to_string() });
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let name = device.path().map_or("none".into(), |path| path.display().to_string());
        self.log.line(&format!(
            "watchdog {name} ({}): class {:?}, {} s{}",
            device.identity(),
            self.options.class.unwrap_or_else(|| device.class()),
            device.timeout().as_secs(),
            if device.reset_last_boot() {
                "; it has reset the machine before this boot"
            } else {
                ""
            }
        ));
        self.device = Some(device);
        self.petted = self.look();
        self.tell(Event::Opened);
        Ok(())
    }

    fn pet(&mut self) {
        let Some(device) = &mut self.device else { return };
        match device.pet() {
            Ok(()) => {
                self.petted = self.look();
                self.core.handle(self.now, Event::Petted);
            }
            // Tried again at the next turn for a pet; the machine resets if that goes on.
            Err(error) => self.log.line(&format!("the watchdog cannot be petted: {error}")),
        }
    }

    fn disarm(&mut self) {
        match self.device.as_mut().map_or(Ok(()), |device| device.disarm()) {
            Ok(()) => {
                self.device = None;
                self.tell(Event::Disarmed);
            }
            Err(error) => {
                self.log.line(&error.to_string());
                self.tell(Event::DisarmFailed { error: error.to_string() });
            }
        }
    }

    fn kill_daemons(&self) {
        for daemon in &self.daemons {
            if let Err(error) = daemon.signal(Signal::SIGKILL) {
                self.log.line(&format!("a daemon of the node cannot be killed: {error}"));
            }
        }
    }

    fn reboot(&self, reason: &str) {
        self.log.line(&format!("resetting the machine: {reason}"));
        // Not reboot(2): before it shuts devices down, which hangs where a disk does, it stops most
        // watchdogs (`stop_on_reboot` in the kernel's watchdog core) and gives that of IPMI two
        // minutes. This one asks nobody and writes nothing back: what has to end are writes that
        // nobody is entitled to.
        if let Err(error) = fs::write("/proc/sysrq-trigger", "b") {
            self.log.line(&format!("/proc/sysrq-trigger: {error}; the watchdog has to do it"));
        }
    }

    fn report(&mut self, report: &Report) {
        match report {
            Report::StoppedProven => self.log.line("everything is stopped"),
            Report::Forced { reason } => self.log.line(&format!("the end is forced: {reason}")),
            Report::State(_)
            | Report::Started { .. }
            | Report::Exited { .. }
            | Report::Refused { .. } => {}
        }
        self.link.send(report);
    }

    fn state(&mut self) -> State {
        let now = self.look();
        let device = self.device.as_deref();
        let class = device.map_or(WatchdogClass::D, |device| {
            self.options.class.unwrap_or_else(|| device.class())
        });
        let entitled = self.core.entitled(now);
        let path = device.and_then(Device::path);
        let remaining = match path {
            Some(_) => (self.petted + self.options.watchdog).since(now),
            None => entitled,
        };
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let bound = self.options.watchdog + (times::STOP_PROOF - times::WATCHDOG);
        State {
            version: VERSION,
            pid: unistd::getpid().as_raw(),
            running: self.core.running(),
            stopped_proven: self.core.stopped_proven(),
            entitled_ms: millis(entitled),
            armed: device.is_some(),
            device: path.map(|path| path.display().to_string()),
            identity: device.map(|device| device.identity().to_owned()),
            class,
            bound_ms: u32::try_from(bound.as_millis()).unwrap_or(u32::MAX),
            remaining_ms: millis(remaining),
            outside: self.options.outside,
        }
    }
}

fn settings(options: &Options, left: Option<&Mark>, reading: HostInstant) -> Settings {
    let left = left.map(|mark| Left {
        until: Time::ZERO + mark.until.remaining(reading),
        undos: mark.undos.clone(),
    });
    Settings { hardware: options.device.is_some(), watchdog: options.watchdog, left }
}

/// Makes a directory for this user alone, and its name independent of where the keeper stands.
fn make_dir(dir: &mut PathBuf) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
    *dir = dir.canonicalize()?;
    Ok(())
}

/// The log, and the file that the output of services goes to.
fn open_log(path: Option<&Path>) -> Result<(Log, Option<File>), Failure> {
    let failed = |error| Failure::at(path.unwrap_or(Path::new("log")).display(), error);
    let open = |path| File::options().create(true).append(true).open(path);
    let file = path.map(open).transpose().map_err(failed)?;
    let log = match &file {
        Some(file) => file.try_clone().and_then(Log::start),
        None => Log::start(io::stderr()),
    };
    Ok((log.map_err(failed)?, file))
}

fn read_mark(dir: &Path, boot_id: BootId, outside: bool) -> Result<Option<Mark>, Failure> {
    let file = dir.join(mark::FILE);
    let mark = Mark::read(dir, boot_id).map_err(|error| {
        let advice = "make sure that no service of this node runs, then remove the file";
        Failure::at(file.display(), format!("{error}; {advice}"))
    })?;
    match mark {
        // Nobody can prove that it has stopped, so nobody touches the device (safety 18).
        Some(mark) if mark.outside || outside => {
            let text = "an earlier keeper of this boot has ended while services may run: its \
                        watchdog resets this machine; if it does not, make sure that no service \
                        of this node runs, then remove the file";
            Err(Failure::at(file.display(), text))
        }
        mark => Ok(mark),
    }
}

/// One keeper a run directory.
fn lock(path: &Path) -> Result<Lock, Failure> {
    Lock::take(path).map_err(|error| match error {
        LockError::Held { .. } => Failure {
            text: format!(
                "{error}; it is the keeper of this run directory: end it with SIGTERM, or choose \
                 another --run-dir"
            ),
            code: EXIT_LOCKED,
        },
        LockError::Io { .. } => Failure { text: error.to_string(), code: EXIT_FAILED },
    })
}

fn block_signals() -> nix::Result<SignalFd> {
    let taken = [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];
    let mask: SigSet = taken.into_iter().collect();
    mask.thread_block()?;
    SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// Makes the process hard to stop by accident, as far as its user may; returns the memory
/// killer's score that children get back.
fn harden(log: &Log) -> Option<String> {
    if let Err(error) = unistd::setsid() {
        log.line(&format!("no session of its own: {error}"));
    }
    let before = fs::read_to_string("/proc/self/oom_score_adj").ok();
    let changed = fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ);
    if let Err(error) = &changed {
        log.line(&format!("the memory killer may choose the keeper: {error}"));
    }
    // With a limit, memory that is asked for later could not be locked, and the request would
    // fail: worse than being paged out.
    let unlimited =
        getrlimit(Resource::RLIMIT_MEMLOCK).is_ok_and(|(soft, _)| soft == RLIM_INFINITY);
    let locked = if unlimited || unistd::geteuid().is_root() {
        mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE)
    } else {
        Err(Errno::EPERM)
    };
    if let Err(error) = locked {
        log.line(&format!("the keeper's memory may be paged out: {error}"));
    }
    if let Err(error) = ioctl::real_time(PRIORITY) {
        log.line(&format!("no real-time priority: {error}"));
    }
    changed.ok().and(before).map(|score| score.trim().to_owned())
}
