//! One session with a BMC, as a machine: datagrams, wishes and time in; datagrams and news out.
//!
//! [`Session::handle`] takes facts in, [`Session::next_action`] gives duties out in order,
//! [`Session::deadline`] says when to call again with [`Event::Timeout`]. No socket, no clock; all
//! chance comes from a seed.
//!
//! The handshake is Open Session, RAKP 1 to 4 (IPMI 2.0 section 13.15). A message of it that is
//! lost is not sent again, since the BMC may have gone on: the handshake begins anew, with another
//! session id and other tags. A command is sent again with its own number and a fresh session
//! sequence. Nothing here gives up by itself but where trying again cannot help: the caller has a
//! limit for the whole.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use protocol::time::Time;
use zeroize::Zeroizing;

use super::crypto::{Chance, Exchange, Keys, Suite};
use super::login::{Guid, Login};
use super::wire::{self, OpenResponse, Packet, Payload, Rakp2, Rakp4, Response, Unreadable};

/// Waited for each message of a handshake; the next handshake waits longer.
const HANDSHAKE: [Duration; 4] = millis([700, 1000, 2000, 3000]);
/// Waited for the answer to a command before it is sent again.
const COMMAND: [Duration; 5] = millis([500, 1000, 1500, 2000, 2000]);
/// Waited before a busy BMC is asked again.
const BUSY: [Duration; 5] = millis([100, 200, 400, 800, 1600]);
/// Waited for the answer to Close Session.
const CLOSE: [Duration; 3] = millis([150, 300, 600]);
/// A suite is asked for this often in vain before the next one is.
const SILENT_BEFORE_NEXT_SUITE: usize = 2;
/// Session sequence numbers this far from the highest are taken (13.28.6 says 16 or more).
const WINDOW: u32 = 16;

/// Node busy: the command was not executed.
const CODE_BUSY: u8 = 0xc0;
/// Timeout while processing: it may have been.
const CODE_TIMEOUT: u8 = 0xc3;
/// Duplicated request: an earlier copy is at work.
const CODE_DUPLICATE: u8 = 0xcf;

const fn millis<const N: usize>(ms: [u64; N]) -> [Duration; N] {
    let mut durations = [Duration::ZERO; N];
    let mut at = 0;
    while at < N {
        durations[at] = Duration::from_millis(ms[at]);
        at += 1;
    }
    durations
}

fn step(steps: &[Duration], at: usize) -> Duration {
    steps.get(at).or(steps.last()).copied().unwrap_or_default()
}

/// Everything that can happen to a session.
#[derive(Debug)]
pub enum Event<'a> {
    /// A datagram from the BMC's address.
    Datagram(&'a [u8]),
    /// Send a command; only after [`Action::Opened`], and one at a time.
    Ask(Ask),
    /// End the session, whatever its state.
    Close,
    /// The [`Session::deadline`] has passed.
    Timeout,
}

/// A command.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ask {
    /// The function, an even number (table 5-1).
    pub function: u8,
    /// The command's number.
    pub command: u8,
    /// What goes with it.
    pub data: Vec<u8>,
    /// Doing it twice does no harm.
    pub repeat: bool,
}

/// Everything a session may do.
#[derive(Debug, Eq, PartialEq)]
pub enum Action {
    /// Send a datagram to the BMC.
    Send(Vec<u8>),
    /// The handshake is over: the BMC has proven who it is, and commands may be sent.
    Opened(Opened),
    /// The answer to the command.
    Answered(Answer),
    /// No answer, however often it was sent: the BMC has lost the session, or is gone.
    Unanswered,
    /// There will be no session.
    Failed(Failure),
    /// The session is over.
    Closed,
}

/// What a handshake has brought to light.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Opened {
    /// The suite that is in use.
    pub suite: Suite,
    /// The BMC's GUID, which its proof covers.
    pub guid: Guid,
}

/// An answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Answer {
    /// The completion code; 0 is success.
    pub code: u8,
    /// What follows it.
    pub data: Vec<u8>,
}

/// Why there is no session.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Failure {
    /// None of the suites is taken; the status is the last one's.
    Suites(u8),
    /// A handshake message was refused with this status (table 13-15).
    Refused {
        /// Which message.
        message: Payload,
        /// Its status.
        status: u8,
    },
    /// The BMC did not prove that it knows the password.
    BmcUnproven,
    /// The BMC did not prove that it has the same key: Kg is another one.
    KeyUnproven,
    /// The GUID is not the one that was expected.
    Stranger {
        /// What answers now.
        found: Guid,
    },
}

/// Why a datagram was not used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ignored {
    /// It cannot be read.
    Unreadable(Unreadable),
    /// It belongs to nothing that is waited for: an earlier handshake, an earlier command.
    Unexpected,
    /// It has another session id.
    OtherSession,
    /// It is not encrypted and signed.
    Plain,
    /// Its authentication code is wrong.
    Forged,
    /// Its sequence number was seen, or is too far away.
    Replayed,
}

impl fmt::Display for Ignored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(why) => why.fmt(f),
            Self::Unexpected => f.write_str("it answers nothing that was asked"),
            Self::OtherSession => {
                f.write_str("it has another session id (the quirk zero-session-id takes 0)")
            }
            Self::Plain => f.write_str("it is not encrypted and signed"),
            Self::Forged => f.write_str("its authentication code is wrong"),
            Self::Replayed => f.write_str("its sequence number was seen before"),
        }
    }
}

impl From<Unreadable> for Ignored {
    fn from(why: Unreadable) -> Self {
        Self::Unreadable(why)
    }
}

/// Where a session is.
#[derive(Debug)]
enum Phase {
    /// Waits before a new handshake.
    Pause,
    /// Open Session Request is sent.
    Opening,
    /// RAKP 1 is sent.
    Proving,
    /// RAKP 3 is sent.
    Keyed(Keys),
    /// Commands can be sent.
    Active(Keys),
    /// Close Session is sent.
    Closing(Keys),
    /// It is over.
    Over,
}

/// The command that is under way.
#[derive(Debug)]
struct Asking {
    ask: Ask,
    number: u8,
    /// How often it was sent with this number.
    sent: usize,
    /// How often the BMC was busy.
    busy: usize,
    /// It is not sent now: the BMC is busy.
    pausing: bool,
}

/// One session with a BMC.
#[derive(Debug)]
pub struct Session {
    login: Login,
    chance: Chance,
    phase: Phase,
    exchange: Exchange,
    suite: Suite,
    /// Suites that are left, in their order; the first is asked for.
    suites: VecDeque<Suite>,
    tag: u8,
    /// Handshakes that came to nothing.
    handshakes: usize,
    /// Open Session Requests for the suite without an answer.
    silent: usize,
    /// What a message has said that nobody can be sure of: it may be forged, and the right one may
    /// still come until the handshake's time is up.
    doubt: Option<Failure>,
    deadline: Option<Time>,
    sequence: u32,
    seen: Window,
    number: u8,
    asking: Option<Asking>,
    closes: usize,
    actions: VecDeque<Action>,
    ignored: u32,
    last_ignored: Option<Ignored>,
}

impl Session {
    /// Begins a handshake at `now`. The seed is from the system's random numbers, and never used
    /// twice.
    pub fn new(now: Time, login: Login, seed: [u8; 32]) -> Self {
        let suites: VecDeque<Suite> = login.suites.iter().copied().collect();
        let mut session = Self {
            suite: suites.front().copied().unwrap_or(Suite::Seventeen),
            suites,
            login,
            chance: Chance::new(seed),
            phase: Phase::Pause,
            exchange: Exchange::default(),
            tag: 0,
            handshakes: 0,
            silent: 0,
            doubt: None,
            deadline: None,
            sequence: 0,
            seen: Window::default(),
            number: 0,
            asking: None,
            closes: 0,
            actions: VecDeque::new(),
            ignored: 0,
            last_ignored: None,
        };
        session.begin(now);
        session
    }

    /// Takes a fact in.
    pub fn handle(&mut self, now: Time, event: Event<'_>) {
        match event {
            Event::Datagram(datagram) => {
                match self.datagram(now, datagram) {
                    // Late answers are a part of lost ones.
                    Ok(()) | Err(Ignored::Unexpected | Ignored::Replayed) => {}
                    Err(why) => {
                        self.ignored = self.ignored.saturating_add(1);
                        self.last_ignored = Some(why);
                    }
                }
            }
            Event::Ask(ask) => self.ask(now, ask),
            Event::Close => self.close(now),
            Event::Timeout if self.deadline.is_some_and(|deadline| deadline <= now) => {
                self.timeout(now);
            }
            Event::Timeout => {}
        }
    }

    /// The next duty, in order; `None` when all are done.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call with [`Event::Timeout`], if nothing happens before.
    pub fn deadline(&self) -> Option<Time> {
        self.deadline
    }

    /// How many datagrams were of no use and not just late, and why the last one was not.
    pub fn ignored(&self) -> Option<(u32, Ignored)> {
        self.last_ignored.map(|why| (self.ignored, why))
    }

    /// There is something that the BMC should be told to forget.
    pub fn is_open(&self) -> bool {
        match self.phase {
            Phase::Keyed(_) | Phase::Active(_) | Phase::Closing(_) => true,
            Phase::Pause | Phase::Opening | Phase::Proving | Phase::Over => false,
        }
    }

    fn next_tag(&mut self) -> u8 {
        self.tag = self.tag.wrapping_add(1);
        self.tag
    }

    fn wait(&mut self, now: Time, how_long: Duration) {
        self.deadline = Some(now + how_long);
    }

    fn send(&mut self, datagram: Vec<u8>) {
        self.actions.push_back(Action::Send(datagram));
    }

    /// A new handshake: nothing of an earlier one can be mistaken for a part of it.
    fn begin(&mut self, now: Time) {
        // Lost RAKP 4: the BMC may have a session that nobody will use.
        if let Phase::Keyed(keys) = std::mem::replace(&mut self.phase, Phase::Opening) {
            self.send_close(&keys);
        }
        let Some(suite) = self.suites.front().copied() else {
            return self.fail(Failure::Suites(0));
        };
        self.suite = suite;
        self.exchange = self.new_exchange();
        self.sequence = 0;
        self.seen = Window::default();
        let (tag, privilege) = (self.next_tag(), self.login.privilege.number());
        let body = wire::open_request(tag, privilege, self.exchange.console, suite);
        self.send(wire::bare(Payload::OpenRequest, &body));
        self.wait(now, step(&HANDSHAKE, self.handshakes));
    }

    fn new_exchange(&mut self) -> Exchange {
        let (quirks, privilege) = (self.login.quirks, self.login.privilege.number());
        let mut user = self.login.user.clone().into_bytes();
        if quirks.padded_user_name {
            user.resize(super::login::USER_MAX, 0);
        }
        let role = self.role();
        let without = quirks.lookup_not_hashed || quirks.no_lookup_in_rakp3;
        Exchange {
            console: self.chance.session(),
            console_random: self.chance.draw(),
            role: if quirks.lookup_not_hashed { privilege } else { role },
            role_in_rakp3: if without { privilege } else { role },
            user,
            ..Exchange::default()
        }
    }

    /// The role as it is sent: the privilege, and that the name alone says which user it is.
    fn role(&self) -> u8 {
        let lookup = if self.login.quirks.no_lookup { 0 } else { 0x10 };
        self.login.privilege.number() | lookup
    }

    fn fail(&mut self, failure: Failure) {
        self.phase = Phase::Over;
        self.deadline = None;
        self.actions.push_back(Action::Failed(failure));
    }

    fn datagram(&mut self, now: Time, datagram: &[u8]) -> Result<(), Ignored> {
        let packet = Packet::decode(datagram)?;
        match packet.payload {
            Payload::OpenResponse => self.open_response(now, OpenResponse::decode(packet.body)?),
            Payload::Rakp2 => self.rakp2(now, Rakp2::decode(packet.body)?),
            Payload::Rakp4 => self.rakp4(now, Rakp4::decode(packet.body)?),
            Payload::Ipmi => self.message(now, &packet),
            Payload::OpenRequest | Payload::Rakp1 | Payload::Rakp3 => {
                Err(Unreadable::Payload.into())
            }
        }
    }

    /// A handshake message answers the last one that was sent.
    fn expect(&self, tag: u8, console: u32) -> Result<(), Ignored> {
        if tag != self.tag {
            return Err(Ignored::Unexpected);
        }
        (console == self.exchange.console).then_some(()).ok_or(Ignored::OtherSession)
    }

    fn open_response(&mut self, now: Time, response: OpenResponse) -> Result<(), Ignored> {
        let Phase::Opening = self.phase else { return Err(Ignored::Unexpected) };
        self.expect(response.tag, response.console)?;
        self.silent = 0;
        let Some(accepted) = response.accepted else {
            self.open_refused(now, response.status);
            return Ok(());
        };
        if accepted.algorithms != self.suite.algorithms().map(Some) || accepted.bmc == 0 {
            // Whatever it has agreed to, it is not what was asked for.
            self.next_suite(now, 0x11);
            return Ok(());
        }
        self.exchange.bmc = accepted.bmc;
        let mut name = self.exchange.user.clone();
        let length = u8::try_from(name.len()).unwrap_or(u8::MAX);
        if self.login.quirks.lookup_not_hashed {
            name.resize(super::login::USER_MAX, 0);
        }
        let (tag, role) = (self.next_tag(), self.role());
        let random = self.exchange.console_random;
        let body = wire::rakp1(tag, accepted.bmc, &random, role, length, &name);
        self.send(wire::bare(Payload::Rakp1, &body));
        self.phase = Phase::Proving;
        self.wait(now, step(&HANDSHAKE, self.handshakes));
        Ok(())
    }

    fn open_refused(&mut self, now: Time, status: u8) {
        match status {
            // No room for another session.
            0x01 => self.pause(now),
            // Authentication, integrity, confidentiality; role (quirk disabled-suite); no such
            // suite; illegal parameter.
            0x04 | 0x05 | 0x0a | 0x10 | 0x11 | 0x12 => self.next_suite(now, status),
            status => self.fail(Failure::Refused { message: Payload::OpenResponse, status }),
        }
    }

    fn next_suite(&mut self, now: Time, status: u8) {
        self.suites.pop_front();
        if self.suites.is_empty() {
            return self.fail(Failure::Suites(status));
        }
        self.begin(now);
    }

    /// Begins again after a while.
    fn pause(&mut self, now: Time) {
        if let Phase::Keyed(keys) = std::mem::replace(&mut self.phase, Phase::Pause) {
            self.send_close(&keys);
        }
        self.wait(now, step(&BUSY, self.handshakes));
        self.handshakes += 1;
    }

    fn rakp2(&mut self, now: Time, message: Rakp2<'_>) -> Result<(), Ignored> {
        let Phase::Proving = self.phase else { return Err(Ignored::Unexpected) };
        self.expect(message.tag, message.console)?;
        let Some(proof) = message.proof else {
            self.handshake_refused(now, Payload::Rakp2, message.status);
            return Ok(());
        };
        let found = Guid(proof.guid);
        if self.login.expect.is_some_and(|expected| expected != found) {
            // Said before the proof is looked at: a stranger has another password too.
            self.doubt = Some(Failure::Stranger { found });
            return Err(Ignored::Forged);
        }
        self.exchange.bmc_random = proof.random;
        self.exchange.guid = proof.guid;
        let password = self.login.password.expose();
        if !self.exchange.proves_bmc(self.suite, password, proof.code) {
            self.doubt = Some(Failure::BmcUnproven);
            return Err(Ignored::Forged);
        }
        let code = self.exchange.console_proof(self.suite, password);
        let key = self.login.kg.as_ref().unwrap_or(&self.login.password);
        let keys = self.exchange.keys(self.suite, key.expose());
        let tag = self.next_tag();
        let body = wire::rakp3(tag, self.exchange.bmc, &code);
        self.send(wire::bare(Payload::Rakp3, &body));
        self.phase = Phase::Keyed(keys);
        self.doubt = None;
        self.wait(now, step(&HANDSHAKE, self.handshakes));
        Ok(())
    }

    fn handshake_refused(&mut self, now: Time, message: Payload, status: u8) {
        match status {
            // No room; the BMC has forgotten the session that it had begun.
            0x01 | 0x02 | 0x08 => self.pause(now),
            status => self.fail(Failure::Refused { message, status }),
        }
    }

    fn rakp4(&mut self, now: Time, message: Rakp4<'_>) -> Result<(), Ignored> {
        let Phase::Keyed(keys) = &self.phase else { return Err(Ignored::Unexpected) };
        self.expect(message.tag, message.console)?;
        if message.status != 0 {
            self.handshake_refused(now, Payload::Rakp4, message.status);
            return Ok(());
        }
        if !keys.proves_key(&self.exchange, message.code) {
            self.doubt = Some(Failure::KeyUnproven);
            return Err(Ignored::Forged);
        }
        if let Phase::Keyed(keys) = std::mem::replace(&mut self.phase, Phase::Over) {
            self.phase = Phase::Active(keys);
        }
        (self.deadline, self.doubt) = (None, None);
        let guid = Guid(self.exchange.guid);
        self.actions.push_back(Action::Opened(Opened { suite: self.suite, guid }));
        Ok(())
    }

    /// An IPMI message: its code is looked at before anything else of it is believed.
    fn message(&mut self, now: Time, packet: &Packet<'_>) -> Result<(), Ignored> {
        let (Phase::Active(keys) | Phase::Closing(keys)) = &self.phase else {
            return Err(Ignored::Unexpected);
        };
        if !packet.encrypted || !packet.authenticated {
            return Err(Ignored::Plain);
        }
        let zero = self.login.quirks.zero_session_id && packet.session == 0;
        if packet.session != self.exchange.console && !zero {
            return Err(Ignored::OtherSession);
        }
        if !keys.is_signed(packet.sealed) {
            return Err(Ignored::Forged);
        }
        if !self.seen.take(packet.sequence) {
            return Err(Ignored::Replayed);
        }
        let plain = keys.decrypt(packet.body).ok_or(Unreadable::Short)?;
        let response = Response::decode(&plain, !self.login.quirks.bad_checksums)?;
        self.response(now, response)
    }

    fn response(&mut self, now: Time, response: Response<'_>) -> Result<(), Ignored> {
        let (number, function, command) = (response.number, response.function, response.command);
        let fits = |own: u8, f: u8, c: u8| number == own && function == f | 1 && command == c;
        if let Phase::Closing(_) = self.phase {
            if !fits(self.number, CLOSE_SESSION.0, CLOSE_SESSION.1) {
                return Err(Ignored::Unexpected);
            }
            self.over();
            return Ok(());
        }
        let asking = self.asking.as_mut().ok_or(Ignored::Unexpected)?;
        if asking.pausing || !fits(asking.number, asking.ask.function, asking.ask.command) {
            return Err(Ignored::Unexpected);
        }
        match response.code {
            // What counts is the answer to the copy that is at work.
            CODE_DUPLICATE => return Ok(()),
            CODE_TIMEOUT if !asking.ask.repeat => {}
            CODE_BUSY | CODE_TIMEOUT => {
                asking.pausing = true;
                let how_long = step(&BUSY, asking.busy);
                asking.busy += 1;
                self.wait(now, how_long);
                return Ok(());
            }
            _ => {}
        }
        self.asking = None;
        self.deadline = None;
        let answer = Answer { code: response.code, data: response.data.to_vec() };
        self.actions.push_back(Action::Answered(answer));
        Ok(())
    }

    fn ask(&mut self, now: Time, ask: Ask) {
        if !matches!(self.phase, Phase::Active(_)) {
            self.actions.push_back(Action::Unanswered);
            return;
        }
        self.asking = Some(Asking { ask, number: 0, sent: 0, busy: 0, pausing: false });
        self.send_ask(now, true);
    }

    /// Sends the command, with a number of its own or again with the one it has.
    fn send_ask(&mut self, now: Time, new_number: bool) {
        let Some(mut asking) = self.asking.take() else { return };
        if new_number {
            self.number = (self.number + 1) % 64;
            (asking.number, asking.sent, asking.pausing) = (self.number, 0, false);
        }
        let Ask { function, command, ref data, .. } = asking.ask;
        let message = Zeroizing::new(wire::request(function, command, asking.number, data));
        self.send_message(&message);
        self.wait(now, step(&COMMAND, asking.sent));
        asking.sent += 1;
        self.asking = Some(asking);
    }

    fn send_message(&mut self, message: &[u8]) {
        let phase = std::mem::replace(&mut self.phase, Phase::Over);
        if let Phase::Active(keys) | Phase::Closing(keys) = &phase {
            self.seal(keys, message);
        }
        self.phase = phase;
    }

    /// Encrypts and signs a message; each datagram has a sequence number of its own.
    fn seal(&mut self, keys: &Keys, message: &[u8]) {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        let body = keys.encrypt(self.chance.draw(), message);
        let short_pad = self.login.quirks.short_integrity_pad;
        let mut packet = wire::unsigned(self.exchange.bmc, self.sequence, &body, short_pad);
        let code = keys.sign(wire::covered(&packet));
        packet.extend_from_slice(&code);
        self.send(packet);
    }

    fn send_close(&mut self, keys: &Keys) {
        let (function, command) = CLOSE_SESSION;
        let data = self.exchange.bmc.to_le_bytes();
        self.seal(keys, &wire::request(function, command, self.number, &data));
    }

    fn close(&mut self, now: Time) {
        self.asking = None;
        match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Active(keys) | Phase::Keyed(keys) => {
                self.number = (self.number + 1) % 64;
                self.send_close(&keys);
                self.phase = Phase::Closing(keys);
                self.closes = 0;
                self.wait(now, step(&CLOSE, 0));
            }
            Phase::Closing(keys) => self.phase = Phase::Closing(keys),
            Phase::Pause | Phase::Opening | Phase::Proving | Phase::Over => self.over(),
        }
    }

    fn over(&mut self) {
        self.phase = Phase::Over;
        self.deadline = None;
        self.actions.push_back(Action::Closed);
    }

    fn timeout(&mut self, now: Time) {
        self.deadline = None;
        match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Pause => self.begin(now),
            phase @ (Phase::Opening | Phase::Proving | Phase::Keyed(_)) => {
                self.phase = phase;
                self.handshake_timeout(now);
            }
            Phase::Active(keys) => {
                self.phase = Phase::Active(keys);
                self.command_timeout(now);
            }
            Phase::Closing(keys) => {
                self.closes += 1;
                if self.closes >= CLOSE.len() {
                    return self.over();
                }
                self.send_close(&keys);
                self.phase = Phase::Closing(keys);
                self.wait(now, step(&CLOSE, self.closes));
            }
            Phase::Over => {}
        }
    }

    fn handshake_timeout(&mut self, now: Time) {
        if let Some(failure) = self.doubt.take() {
            return self.fail(failure);
        }
        self.handshakes += 1;
        if let Phase::Opening = self.phase {
            self.silent += 1;
            if self.silent >= SILENT_BEFORE_NEXT_SUITE {
                // It may be a BMC that says nothing to a suite it does not know.
                self.silent = 0;
                self.suites.rotate_left(1);
            }
        }
        self.begin(now);
    }

    fn command_timeout(&mut self, now: Time) {
        let Some(asking) = self.asking.as_mut() else { return };
        if asking.pausing {
            return self.send_ask(now, true);
        }
        if asking.sent >= COMMAND.len() {
            self.asking = None;
            self.actions.push_back(Action::Unanswered);
        } else if asking.ask.repeat {
            self.send_ask(now, false);
        } else {
            // Once is all: it is only waited for.
            let how_long = step(&COMMAND, asking.sent);
            asking.sent += 1;
            self.wait(now, how_long);
        }
    }
}

/// Close Session: function and command.
const CLOSE_SESSION: (u8, u8) = (0x06, 0x3c);

/// Which sequence numbers have come in.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    highest: Option<u32>,
    /// Bit n: `highest - n` was seen.
    seen: u32,
}

impl Window {
    /// Whether a signed packet with this number is new. The first one decides where the window is.
    fn take(&mut self, sequence: u32) -> bool {
        if sequence == 0 {
            return false;
        }
        let Some(highest) = self.highest else {
            (self.highest, self.seen) = (Some(sequence), 1);
            return true;
        };
        let (ahead, behind) = (sequence.wrapping_sub(highest), highest.wrapping_sub(sequence));
        if ahead > 0 && ahead <= WINDOW {
            (self.highest, self.seen) = (Some(sequence), self.seen << ahead | 1);
            return true;
        }
        if behind > WINDOW || self.seen & (1 << behind) != 0 {
            return false;
        }
        self.seen |= 1 << behind;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(numbers: &[u32]) -> Vec<bool> {
        let mut window = Window::default();
        numbers.iter().map(|number| window.take(*number)).collect()
    }

    #[test]
    fn a_sequence_number_is_taken_once_and_only_near_the_highest() {
        assert_eq!(taken(&[1, 2, 2, 1, 3]), [true, true, false, false, true]);
        assert_eq!(taken(&[20, 4, 3, 4, 36, 53]), [true, true, false, false, true, false]);
        assert_eq!(taken(&[0, 7, 0]), [false, true, false]);
        // Over the end, where 0 is left out.
        assert_eq!(taken(&[u32::MAX, 1, u32::MAX, u32::MAX - 1]), [true, true, false, true]);
    }
}
