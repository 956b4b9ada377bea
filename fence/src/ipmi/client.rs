//! Sessions over UDP, one for each command.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use host::clock::Clock;
use protocol::time::{Hurry, Time};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::net::{UdpSocket, lookup_host};
use tokio::time::timeout;
use tracing::{info, warn};

use super::command::{self, Chassis, Control, DeviceId, Timer, Unsuccessful, Watchdog};
use super::crypto::Suite;
use super::login::{Guid, Login};
use super::session::{Action, Answer, Ask, Event, Failure, Opened, Session};
use super::wire::{DATAGRAM_MAX, Payload};
use crate::device::{Command, DeviceError, Power, Seen};

/// Nothing listens there, said this often: the host is up and its BMC is not.
const REFUSALS_MAX: u32 = 3;
/// That the user may do what a command needs is asked again after this long.
const RAISED_FOR: Duration = Duration::from_secs(60);

/// Where a BMC is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Address {
    /// A name or an address; an IPv6 address without brackets.
    pub host: String,
    /// Usually [`super::wire::PORT`].
    pub port: u16,
}

/// What came of a command that must not be sent twice.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// The BMC has accepted it.
    Accepted,
    /// It did not answer: it may have been done or not. This is what the power reads since.
    Unanswered(Power),
}

/// What is kept of a BMC between sessions.
#[derive(Debug, Default)]
struct Memory {
    /// Has worked: no other suite will do from now on.
    suite: Option<Suite>,
    /// Who has proven to know the password first, or who is expected.
    guid: Option<Guid>,
    /// When the BMC has last agreed to the privilege.
    raised: Option<Time>,
}

/// A BMC.
#[derive(Debug)]
pub struct Bmc {
    address: Address,
    login: Login,
    clock: Clock,
    memory: Mutex<Memory>,
}

impl Bmc {
    /// A BMC at an address; nothing is sent yet.
    ///
    /// # Errors
    /// What is wrong with the login, in one line.
    pub fn new(address: Address, login: Login) -> Result<Self, String> {
        login.check()?;
        let memory = Mutex::new(Memory { guid: login.expect, ..Memory::default() });
        Ok(Self { address, login, clock: Clock::start(Hurry::Fast), memory })
    }

    /// Who has answered with a proof first, or who is expected: kept by the caller, it is given
    /// back as [`Login::expect`] after a restart.
    pub fn guid(&self) -> Option<Guid> {
        self.with_memory(|memory| memory.guid)
    }

    /// The suite that has worked, and is the only one that is spoken since.
    pub fn suite(&self) -> Option<Suite> {
        self.with_memory(|memory| memory.suite)
    }

    /// Does one thing in a session of its own. A read state is worth what a signed answer in a
    /// fresh session is worth; acceptance of off or on is no proof of anything.
    ///
    /// # Errors
    /// [`DeviceError`], after `limit` at the latest.
    pub async fn run(&self, command: Command, limit: Duration) -> Result<Seen, DeviceError> {
        match command {
            Command::Status => self.status(limit).await.map(|chassis| Seen::Power(chassis.power)),
            Command::Off => self.switch(Control::Off, Power::Off, limit).await,
            Command::On => self.switch(Control::On, Power::On, limit).await,
        }
    }

    /// Reads the chassis state. The privilege that power commands need is asked for too, unless it
    /// was a moment ago: a rehearsal that succeeds means something.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub async fn status(&self, limit: Duration) -> Result<Chassis, DeviceError> {
        let mut run = self.begin(limit).await?;
        let now = run.clock.now();
        let raised = self.with_memory(|memory| memory.raised);
        let fresh = raised.is_some_and(|raised| now.since(raised) < RAISED_FOR);
        let answer = run.ask(command::chassis_status(), !fresh).await?;
        Chassis::decode(&answer).map_err(refused)
    }

    /// Off and on: sent again as often as needed, for twice is once.
    async fn switch(
        &self,
        control: Control,
        goal: Power,
        limit: Duration,
    ) -> Result<Seen, DeviceError> {
        let mut run = self.begin(limit).await?;
        let answer = run.ask(control.ask(), true).await?;
        match answer.success(0) {
            Ok(_) => Ok(Seen::Accepted),
            // Not possible in the present state: because it is the one that is wanted?
            Err(why @ Unsuccessful::Code(0xd5)) => {
                let state = run.ask(command::chassis_status(), false).await?;
                match Chassis::decode(&state).map_err(refused)?.power {
                    power if power == goal => Ok(Seen::Accepted),
                    _ => Err(refused(why)),
                }
            }
            Err(why) => Err(refused(why)),
        }
    }

    /// Off, a pause, on; at most once. No proof that it was off: see rule S7.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub async fn cycle(&self, limit: Duration) -> Result<Outcome, DeviceError> {
        self.once(Control::Cycle, limit).await
    }

    /// A hard reset; at most once.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub async fn reset(&self, limit: Duration) -> Result<Outcome, DeviceError> {
        self.once(Control::Reset, limit).await
    }

    async fn once(&self, control: Control, limit: Duration) -> Result<Outcome, DeviceError> {
        let mut run = self.begin(limit).await?;
        if let Some(answer) = run.try_ask(control.ask(), true).await? {
            return answer.success(0).map(|_| Outcome::Accepted).map_err(refused);
        }
        let state = run.ask(command::chassis_status(), false).await?;
        Ok(Outcome::Unanswered(Chassis::decode(&state).map_err(refused)?.power))
    }

    /// Sets the BMC's watchdog, which stops it: [`Self::reset_watchdog`] starts it.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub async fn set_watchdog(&self, timer: Timer, limit: Duration) -> Result<(), DeviceError> {
        let answer = self.begin(limit).await?.ask(command::set_watchdog(&timer), true).await?;
        answer.success(0).map(|_| ()).map_err(refused)
    }

    /// Starts the BMC's watchdog anew.
    ///
    /// # Errors
    /// [`DeviceError`]; refused if it was never set.
    pub async fn reset_watchdog(&self, limit: Duration) -> Result<(), DeviceError> {
        let answer = self.begin(limit).await?.ask(command::reset_watchdog(), true).await?;
        answer.success(0).map(|_| ()).map_err(refused)
    }

    /// Reads the BMC's watchdog.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub async fn watchdog(&self, limit: Duration) -> Result<Watchdog, DeviceError> {
        let answer = self.begin(limit).await?.ask(command::get_watchdog(), false).await?;
        Watchdog::decode(&answer).map_err(refused)
    }

    /// Reads what the BMC is.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub async fn device_id(&self, limit: Duration) -> Result<DeviceId, DeviceError> {
        let answer = self.begin(limit).await?.ask(command::device_id(), false).await?;
        DeviceId::decode(&answer).map_err(refused)
    }

    fn with_memory<T>(&self, read: impl FnOnce(&mut Memory) -> T) -> T {
        // Nothing is done under the lock that could leave it half done.
        read(&mut self.memory.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn begin(&self, limit: Duration) -> Result<Run<'_>, DeviceError> {
        let mut clock = self.clock.clone();
        let end = clock.now() + limit;
        let Address { host, port } = &self.address;
        let found = timeout(limit, lookup_host((host.as_str(), *port))).await;
        let unknown = |why: String| DeviceError::Local(format!("cannot look up {host}: {why}"));
        let found = found.map_err(|_| unknown(format!("no answer within {limit:?}")))?;
        let addresses: Vec<SocketAddr> =
            found.map_err(|error| unknown(error.to_string()))?.collect();
        if addresses.is_empty() {
            return Err(unknown("it has no address".to_owned()));
        }
        let mut run = Run { bmc: self, clock, end, limit, addresses, connection: None };
        run.connect().await?;
        Ok(run)
    }

    /// What the next session expects: the suite that has worked, and the BMC that it was.
    fn next_login(&self) -> Login {
        let mut login = self.login.clone();
        self.with_memory(|memory| {
            login.expect = memory.guid.filter(|_| !login.quirks.guid_not_kept);
            if let Some(suite) = memory.suite {
                login.suites = vec![suite];
            }
        });
        login
    }

    fn opened(&self, opened: Opened) {
        let Address { host, .. } = &self.address;
        let first = self.login.suites.first().copied();
        self.with_memory(|memory| {
            if memory.suite.replace(opened.suite).is_none() && first != Some(opened.suite) {
                let number = u8::from(opened.suite);
                warn!("the BMC {host} takes none of the better cipher suites: {number} is used");
            }
            // A blank GUID says nothing; whoever has proven the password first is remembered.
            if memory.guid.is_none() && !opened.guid.is_blank() && !self.login.quirks.guid_not_kept
            {
                info!("the BMC {host} is {} from now on", opened.guid);
                memory.guid = Some(opened.guid);
            }
        });
    }

    fn failed(&self, failure: &Failure) -> DeviceError {
        let user = self.login.user.escape_debug();
        let privilege = self.login.privilege;
        match failure {
            Failure::Suites(status) => {
                let suites: Vec<String> =
                    self.next_login().suites.iter().map(|s| u8::from(*s).to_string()).collect();
                DeviceError::Login(format!(
                    "the BMC takes none of the cipher suites {} (status {status:#04x}): \
                     enable one of them there",
                    suites.join(", ")
                ))
            }
            Failure::Refused { message, status } => DeviceError::Login(format!(
                "the BMC answers {} with status {status:#04x}: {}",
                match message {
                    Payload::Rakp2 => "RAKP 1",
                    Payload::Rakp4 => "RAKP 3",
                    Payload::Ipmi
                    | Payload::OpenRequest
                    | Payload::OpenResponse
                    | Payload::Rakp1
                    | Payload::Rakp3 => "Open Session",
                },
                match status {
                    0x09 | 0x0a => format!("may the user {user} log in as {privilege}?"),
                    0x0d => format!("is there a user {user}, with the privilege {privilege}?"),
                    0x0f => format!("is the password of {user} right?"),
                    _ => "the reason is in table 13-15 of IPMI 2.0".to_owned(),
                }
            )),
            Failure::BmcUnproven => DeviceError::Login(format!(
                "the BMC does not know the password of {user}: either it is wrong, or this is \
                 another BMC"
            )),
            Failure::KeyUnproven => DeviceError::Login(
                "the BMC has another Kg key: set `kg`, or clear it there".to_owned(),
            ),
            Failure::Stranger { found } => DeviceError::Stranger(format!(
                "its GUID is {found}, and {} was expected",
                self.guid().map_or_else(|| "another".to_owned(), |guid| guid.to_string())
            )),
        }
    }
}

fn refused(why: Unsuccessful) -> DeviceError {
    match why {
        Unsuccessful::Code(0xd4) => DeviceError::Login(why.to_string()),
        Unsuccessful::Code(_) => DeviceError::Refused(why.to_string()),
        Unsuccessful::Short(_) => DeviceError::Garbage(why.to_string()),
    }
}

/// One command's sessions: more than one only where a BMC loses them.
struct Run<'a> {
    bmc: &'a Bmc,
    clock: Clock,
    end: Time,
    limit: Duration,
    /// In the resolver's order; the one in front is spoken to.
    addresses: Vec<SocketAddr>,
    connection: Option<Connection>,
}

/// What a session has come to.
enum Step {
    Opened(Opened),
    Answered(Answer),
    Unanswered,
    Failed(Failure),
}

impl Run<'_> {
    /// Opens a session, on the first address where one can be had.
    async fn connect(&mut self) -> Result<(), DeviceError> {
        let mut failed = DeviceError::Silent(self.limit);
        for left in (1..=self.addresses.len()).rev() {
            let now = self.clock.now();
            let share = self.end.since(now) / u32::try_from(left).unwrap_or(u32::MAX);
            match self.connect_to(self.addresses[0], now + share).await {
                Ok(connection) => {
                    self.connection = Some(connection);
                    return Ok(());
                }
                Err(error) => failed = error,
            }
            self.addresses.rotate_left(1);
        }
        Err(failed)
    }

    async fn connect_to(
        &mut self,
        address: SocketAddr,
        end: Time,
    ) -> Result<Connection, DeviceError> {
        let local = |error: io::Error| {
            DeviceError::Local(format!("cannot reach {address}: {error}: is there a route to it?"))
        };
        let any: SocketAddr = match address {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(any).await.map_err(local)?;
        socket.connect(address).await.map_err(local)?;
        let mut seed = [0; 32];
        let drawn = SystemRandom::new().fill(&mut seed);
        drawn.map_err(|_| DeviceError::Local("the system has no random numbers".to_owned()))?;
        let session = Session::new(self.clock.now(), self.bmc.next_login(), seed);
        let mut connection = Connection {
            socket: Arc::new(socket),
            session: Some(session),
            clock: self.clock.clone(),
            refusals: 0,
        };
        match connection.step(end, self.limit).await? {
            Step::Opened(opened) => self.bmc.opened(opened),
            Step::Failed(failure) => return Err(self.bmc.failed(&failure)),
            Step::Answered(_) | Step::Unanswered => {
                return Err(DeviceError::Silent(self.limit));
            }
        }
        Ok(connection)
    }

    /// Asks until there is an answer, in another session where this one is lost.
    async fn ask(&mut self, ask: Ask, raise: bool) -> Result<Answer, DeviceError> {
        loop {
            if let Some(answer) = self.try_ask(ask.clone(), raise).await? {
                return Ok(answer);
            }
        }
    }

    /// Asks; `None` is no answer, and there is a new session then.
    async fn try_ask(&mut self, ask: Ask, raise: bool) -> Result<Option<Answer>, DeviceError> {
        if raise && !self.bmc.login.quirks.no_privilege_raise {
            while !self.raise().await? {}
        }
        self.command(ask).await
    }

    async fn raise(&mut self) -> Result<bool, DeviceError> {
        let privilege = self.bmc.login.privilege;
        let Some(answer) = self.command(command::raise(privilege)).await? else {
            return Ok(false);
        };
        let denied = |why| DeviceError::Login(format!("no privilege {privilege}: {why}"));
        answer.success(0).map_err(denied)?;
        let now = self.clock.now();
        self.bmc.with_memory(|memory| memory.raised = Some(now));
        Ok(true)
    }

    async fn command(&mut self, ask: Ask) -> Result<Option<Answer>, DeviceError> {
        let (end, limit) = (self.end, self.limit);
        if let Some(connection) = &mut self.connection {
            connection.wish(Event::Ask(ask));
            match connection.step(end, limit).await? {
                Step::Answered(answer) => return Ok(Some(answer)),
                Step::Failed(failure) => return Err(self.bmc.failed(&failure)),
                Step::Unanswered | Step::Opened(_) => {}
            }
        }
        self.connection = None;
        self.connect().await?;
        Ok(None)
    }
}

/// A session and its socket. Dropped, whatever the reason, it closes the session in the background.
struct Connection {
    socket: Arc<UdpSocket>,
    session: Option<Session>,
    clock: Clock,
    refusals: u32,
}

impl Connection {
    fn wish(&mut self, event: Event<'_>) {
        let now = self.clock.now();
        if let Some(session) = &mut self.session {
            session.handle(now, event);
        }
    }

    /// Runs the session until something has come of it, or `end`.
    async fn step(&mut self, end: Time, limit: Duration) -> Result<Step, DeviceError> {
        let Some(session) = self.session.as_mut() else { return Ok(Step::Unanswered) };
        let mut buffer = [0; DATAGRAM_MAX];
        loop {
            while let Some(action) = session.next_action() {
                return Ok(match action {
                    Action::Send(datagram) => {
                        // What cannot be sent is lost, as on the way.
                        let _ = self.socket.send(&datagram).await;
                        continue;
                    }
                    Action::Opened(opened) => Step::Opened(opened),
                    Action::Answered(answer) => Step::Answered(answer),
                    Action::Unanswered | Action::Closed => Step::Unanswered,
                    Action::Failed(failure) => Step::Failed(failure),
                });
            }
            let now = self.clock.now();
            if now >= end {
                return Err(silent(session, limit));
            }
            let until = session.deadline().unwrap_or(end).min(end);
            match timeout(until.since(now), self.socket.recv(&mut buffer)).await {
                Ok(Ok(length)) => {
                    self.refusals = 0;
                    session.handle(self.clock.now(), Event::Datagram(&buffer[..length]));
                }
                // An ICMP message; anybody near can send one, so one alone says nothing.
                Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    self.refusals += 1;
                    if self.refusals >= REFUSALS_MAX {
                        let nothing = "nothing listens on its udp port: is IPMI over LAN enabled?";
                        return Err(DeviceError::Refused(nothing.to_owned()));
                    }
                }
                Ok(Err(_)) => {}
                Err(_) => session.handle(self.clock.now(), Event::Timeout),
            }
        }
    }
}

fn silent(session: &Session, limit: Duration) -> DeviceError {
    match session.ignored() {
        None => DeviceError::Silent(limit),
        Some((count, why)) => DeviceError::Garbage(format!(
            "within {limit:?} came {count} datagrams of no use, the last one because {why}"
        )),
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let Some(mut session) = self.session.take().filter(Session::is_open) else { return };
        session.handle(self.clock.now(), Event::Close);
        // The first one goes out here and now; it is repeated as long as nobody answers.
        send_now(&self.socket, &mut session);
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (socket, clock) = (Arc::clone(&self.socket), self.clock.clone());
        runtime.spawn(finish(socket, session, clock));
    }
}

fn send_now(socket: &UdpSocket, session: &mut Session) -> bool {
    while let Some(action) = session.next_action() {
        match action {
            // What cannot be sent is lost, as on the way.
            Action::Send(datagram) => {
                let _ = socket.try_send(&datagram);
            }
            Action::Closed => return true,
            Action::Opened(_) | Action::Answered(_) | Action::Unanswered | Action::Failed(_) => {}
        }
    }
    false
}

/// Closes a session; ends by itself after three attempts.
async fn finish(socket: Arc<UdpSocket>, mut session: Session, mut clock: Clock) {
    let mut buffer = [0; DATAGRAM_MAX];
    while !send_now(&socket, &mut session) {
        let Some(deadline) = session.deadline() else { return };
        let left = deadline.since(clock.now());
        match timeout(left, socket.recv(&mut buffer)).await {
            Ok(Ok(length)) => session.handle(clock.now(), Event::Datagram(&buffer[..length])),
            // Refused: whoever was there is gone, and the session with it.
            Ok(Err(_)) => return,
            Err(_) => session.handle(clock.now(), Event::Timeout),
        }
    }
}
