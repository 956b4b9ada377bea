//! A BMC of our own: cipher suites 3 and 17, a power state, a watchdog, and everything that can be
//! wrong with a BMC. It shares no code with the client; that it speaks IPMI is shown by ipmitool and
//! FreeIPMI (module `proof`).

mod commands;
mod crypto;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crypto::Hash;
use fence::ipmi::Login;

use super::common::{self, login};

/// What is odd about it; the default is a BMC without fault.
#[derive(Clone, Debug)]
pub(crate) struct Nature {
    pub(crate) user: String,
    pub(crate) password: String,
    pub(crate) kg: String,
    pub(crate) guid: [u8; 16],
    pub(crate) suites: Vec<u8>,
    /// The user's.
    pub(crate) privilege: u8,
    /// Nothing but the user's own privilege will do.
    pub(crate) exact_privilege: bool,
    /// How a suite that is not there is refused; 0 is with silence.
    pub(crate) suite_status: u8,
    /// Open Session is always answered with this suite's algorithms.
    pub(crate) answers_suite: Option<u8>,
    /// Every n-th datagram is lost, on the way in or out.
    pub(crate) loses_in: Option<u32>,
    pub(crate) loses_out: Option<u32>,
    /// Each answer comes twice.
    pub(crate) twice: bool,
    /// Before each answer comes the one before it, again.
    pub(crate) replays: bool,
    /// Before each answer come four datagrams that are none.
    pub(crate) garbage: bool,
    /// Power commands are accepted and nothing is done.
    pub(crate) lies: bool,
    /// After off, power is on again at the n-th reading.
    pub(crate) returns_at: Option<u32>,
    /// This many answers are `busy_code`, before it is done.
    pub(crate) busy: u32,
    pub(crate) busy_code: u8,
    /// Power commands are answered at the n-th copy only; the copies before are at work (CFh).
    pub(crate) answers_copy: u32,
    /// Power commands that are refused in the state that is there already.
    pub(crate) strict_state: bool,
    /// The BMC does not know the password, or has another key.
    pub(crate) wrong_rakp2: bool,
    pub(crate) wrong_rakp4: bool,
    /// So many Open Session Requests find no room.
    pub(crate) full: u32,
    /// So many sessions are forgotten before their first command is answered.
    pub(crate) forgets: u32,
    /// Cycle and reset are done, and end everything, answers included.
    pub(crate) dies_of_reset: bool,
    pub(crate) mute_close: bool,
    pub(crate) ignores_v15: bool,
    pub(crate) declares_more_rakp2: bool,
    pub(crate) long_codes: bool,
    pub(crate) hashes_open_privilege: bool,
    pub(crate) zero_id: bool,
    pub(crate) bad_sums: bool,
    pub(crate) padded_user: bool,
    pub(crate) no_lookup_in_rakp3: bool,
    pub(crate) no_lookup: bool,
    pub(crate) lookup_not_hashed: bool,
    pub(crate) no_raise: bool,
    pub(crate) short_pad: bool,
    pub(crate) short_answers: bool,
    pub(crate) tail: bool,
    pub(crate) sequence_from: u32,
    pub(crate) sequence_step: u32,
    pub(crate) plain: bool,
}

impl Default for Nature {
    fn default() -> Self {
        Self {
            user: "admin".to_owned(),
            password: "twenty bytes at most".to_owned(),
            kg: String::new(),
            guid: *b"0123456789abcdef",
            suites: vec![3, 17],
            privilege: 4,
            exact_privilege: false,
            suite_status: 0x11,
            answers_suite: None,
            loses_in: None,
            loses_out: None,
            twice: false,
            replays: false,
            garbage: false,
            lies: false,
            returns_at: None,
            busy: 0,
            busy_code: 0xc0,
            answers_copy: 1,
            strict_state: false,
            wrong_rakp2: false,
            wrong_rakp4: false,
            full: 0,
            forgets: 0,
            dies_of_reset: false,
            mute_close: false,
            ignores_v15: false,
            declares_more_rakp2: false,
            long_codes: false,
            hashes_open_privilege: false,
            zero_id: false,
            bad_sums: false,
            padded_user: false,
            no_lookup_in_rakp3: false,
            no_lookup: false,
            lookup_not_hashed: false,
            no_raise: false,
            short_pad: false,
            short_answers: false,
            tail: false,
            sequence_from: 1,
            sequence_step: 1,
            plain: false,
        }
    }
}

/// What has happened to it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    pub(crate) power: bool,
    /// Suites that were asked for, in order.
    pub(crate) suites: Vec<u8>,
    /// Commands that were carried out or refused: function, number, first byte.
    pub(crate) commands: Vec<(u8, u8, Option<u8>)>,
    pub(crate) sessions: usize,
    pub(crate) closed: usize,
    /// Datagrams that were no RMCP+.
    pub(crate) foreign: usize,
    /// Session sequences that came twice, signed.
    pub(crate) repeated_sequences: usize,
    pub(crate) readings: u32,
    pub(crate) timer: [u8; 6],
    pub(crate) timer_runs: bool,
}

impl Record {
    /// How often this power command came through.
    pub(crate) fn controls(&self, what: u8) -> usize {
        self.commands.iter().filter(|command| **command == (0, 2, Some(what))).count()
    }
}

/// A running BMC; it ends with the value.
pub(crate) struct Bmc {
    address: SocketAddr,
    record: Arc<Mutex<Record>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Bmc {
    pub(crate) fn start(address: &str, nature: Nature) -> Self {
        let socket = UdpSocket::bind(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let (record, stop) = (Arc::<Mutex<Record>>::default(), Arc::<AtomicBool>::default());
        let bmc_address = socket.local_addr().unwrap();
        let mut inside = Inside {
            nature,
            record: Arc::clone(&record),
            sessions: BTreeMap::new(),
            serial: 0x1000,
            came: 0,
            went: 0,
            last: Vec::new(),
        };
        let stopping = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !stopping.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                for datagram in inside.datagram(&buffer[..length]) {
                    let _ = socket.send_to(&datagram, from);
                }
            }
        });
        Self { address: bmc_address, record, stop, thread: Some(thread) }
    }

    pub(crate) fn host(&self) -> String {
        self.address.ip().to_string()
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    pub(crate) fn record(&self) -> Record {
        self.record.lock().unwrap().clone()
    }

    pub(crate) fn set_power(&self, on: bool) {
        self.record.lock().unwrap().power = on;
    }
}

impl Drop for Bmc {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A login that a BMC without oddities takes.
pub(crate) fn own_login() -> Login {
    login("admin", "twenty bytes at most")
}

/// The client for it.
pub(crate) fn client(bmc: &Bmc, login: Login) -> fence::ipmi::Bmc {
    common::bmc(&bmc.host(), bmc.port(), login)
}

/// One session, as the BMC has it.
struct Session {
    console: [u8; 4],
    suite: u8,
    open_privilege: u8,
    console_random: [u8; 16],
    bmc_random: [u8; 16],
    role: u8,
    user: Vec<u8>,
    k1: Vec<u8>,
    k2: Vec<u8>,
    level: u8,
    sequence: u32,
    came: BTreeSet<u32>,
    active: bool,
    /// Copies of the power command with this number.
    copies: BTreeMap<u8, u32>,
}

struct Inside {
    nature: Nature,
    record: Arc<Mutex<Record>>,
    sessions: BTreeMap<u32, Session>,
    serial: u32,
    came: u32,
    went: u32,
    last: Vec<u8>,
}

fn every(n: Option<u32>, count: u32) -> bool {
    n.is_some_and(|n| count.is_multiple_of(n))
}

fn packet(kind: u8, session: &[u8; 4], sequence: u32, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![6, 0, 0xff, 7, 6, kind];
    packet.extend_from_slice(session);
    packet.extend_from_slice(&sequence.to_le_bytes());
    packet.extend_from_slice(&u16::try_from(body.len()).unwrap().to_le_bytes());
    packet.extend_from_slice(body);
    packet
}

fn algorithms(suite: u8) -> [u8; 3] {
    if suite == 17 { [3, 4, 1] } else { [1, 1, 1] }
}

impl Inside {
    fn hash(suite: u8) -> Hash {
        if suite == 17 { Hash::Sha256 } else { Hash::Sha1 }
    }

    fn datagram(&mut self, data: &[u8]) -> Vec<Vec<u8>> {
        self.came += 1;
        if every(self.nature.loses_in, self.came) {
            return Vec::new();
        }
        let Some(answer) = self.answer(data) else { return Vec::new() };
        self.went += 1;
        if every(self.nature.loses_out, self.went) {
            return Vec::new();
        }
        let mut out = Vec::new();
        if self.nature.replays && !self.last.is_empty() {
            out.push(self.last.clone());
        }
        if self.nature.garbage {
            let mut forged = answer.clone();
            *forged.last_mut().unwrap() ^= 1;
            out.extend([vec![], vec![0xff; 700], answer[..answer.len() / 2].to_vec(), forged]);
        }
        out.push(answer.clone());
        if self.nature.twice {
            out.push(answer.clone());
        }
        self.last = answer;
        out
    }

    fn answer(&mut self, data: &[u8]) -> Option<Vec<u8>> {
        if data.len() < 16 || data[3] != 7 || data[4] != 6 {
            self.record.lock().unwrap().foreign += 1;
            if self.nature.ignores_v15 {
                return None;
            }
            return self.old_format(data);
        }
        let length = usize::from(u16::from_le_bytes([data[14], data[15]]));
        let body = data.get(16..16 + length)?;
        match data[5] & 0x3f {
            0x10 => self.open(body),
            0x12 => self.rakp1(body),
            0x14 => self.rakp3(body),
            0x00 => self.message(data, body),
            _ => None,
        }
    }

    /// IPMI 1.5: Get Channel Authentication Capabilities, which ipmitool begins with.
    fn old_format(&self, data: &[u8]) -> Option<Vec<u8>> {
        if data.len() < 20 || data[4] != 0 {
            return None;
        }
        let request = &data[14..];
        let answer = match (request[1] >> 2, request[5]) {
            (6, 0x38) => vec![0, 1, 0x80, 0x04, 0x02, 0, 0, 0, 0],
            _ => vec![0xc1],
        };
        let message = commands::message(request[1], request[4], request[5], &answer, false);
        let mut packet = data[..13].to_vec();
        packet.push(u8::try_from(message.len()).unwrap());
        packet.extend_from_slice(&message);
        Some(packet)
    }

    fn open(&mut self, body: &[u8]) -> Option<Vec<u8>> {
        let asked = [body[12] & 0x3f, body[20] & 0x3f, body[28] & 0x3f];
        let suite = [3, 17].into_iter().find(|suite| algorithms(*suite) == asked).unwrap_or(0);
        self.record.lock().unwrap().suites.push(suite);
        let console: [u8; 4] = body[4..8].try_into().unwrap();
        let refuse = |status: u8| {
            let body = [&[body[0], status, 0, 0][..], &console].concat();
            Some(packet(0x11, &[0; 4], 0, &body))
        };
        if self.nature.full > 0 {
            self.nature.full -= 1;
            return refuse(0x01);
        }
        if self.nature.exact_privilege && body[1] != self.nature.privilege {
            return refuse(0x0a);
        }
        let suite = match self.nature.answers_suite {
            Some(suite) => suite,
            None if self.nature.suites.contains(&suite) => suite,
            None if self.nature.suite_status == 0 => return None,
            None => return refuse(self.nature.suite_status),
        };
        self.serial += 1;
        let session = Session {
            console,
            suite,
            open_privilege: body[1],
            console_random: [0; 16],
            bmc_random: [0; 16],
            role: 0,
            user: Vec::new(),
            k1: Vec::new(),
            k2: Vec::new(),
            level: 2,
            sequence: self.nature.sequence_from,
            came: BTreeSet::new(),
            active: false,
            copies: BTreeMap::new(),
        };
        self.sessions.insert(self.serial, session);
        // The most it has, where that is asked for; one that does not understand it says 0 too.
        let highest = body[1] == 0 && !self.nature.hashes_open_privilege;
        let privilege = if highest { self.nature.privilege } else { body[1] };
        let mut answer = vec![body[0], 0, privilege, 0];
        answer.extend_from_slice(&console);
        answer.extend_from_slice(&self.serial.to_le_bytes());
        for (kind, algorithm) in (0..).zip(algorithms(suite)) {
            answer.extend_from_slice(&[kind, 0, 0, 8, algorithm, 0, 0, 0]);
        }
        Some(packet(0x11, &[0; 4], 0, &answer))
    }

    fn role(&self, session: &Session, in_rakp3: bool) -> u8 {
        let nature = &self.nature;
        let lookup = !(nature.lookup_not_hashed || in_rakp3 && nature.no_lookup_in_rakp3);
        let role = if lookup { session.role } else { session.role & !0x10 };
        match nature.hashes_open_privilege {
            true => role & 0xf0 | session.open_privilege,
            false => role,
        }
    }

    fn user_part(&self, session: &Session, in_rakp3: bool) -> Vec<u8> {
        let mut user = session.user.clone();
        if self.nature.padded_user {
            user.resize(16, 0);
        }
        let length = u8::try_from(user.len()).unwrap();
        [&[self.role(session, in_rakp3), length][..], &user].concat()
    }

    fn rakp1(&mut self, body: &[u8]) -> Option<Vec<u8>> {
        let id: [u8; 4] = body[4..8].try_into().unwrap();
        let nature = self.nature.clone();
        let session = self.sessions.get_mut(&u32::from_le_bytes(id))?;
        session.console_random = body[8..24].try_into().unwrap();
        session.role = body[24];
        let length = usize::from(body[27]);
        session.user = body.get(28..28 + length)?.to_vec();
        session.bmc_random = crypto::random(self.serial, self.came);
        let (console, mut name) = (session.console, session.user.clone());
        while nature.padded_user && name.last() == Some(&0) {
            name.pop();
        }
        let refuse = |status: u8| {
            Some(packet(0x13, &[0; 4], 0, &[&[body[0], status, 0, 0][..], &console].concat()))
        };
        let lookup = body[24] & 0x10 != 0;
        if name != nature.user.as_bytes() || nature.no_lookup && lookup {
            return refuse(0x0d);
        }
        if body[24] & 0x0f > nature.privilege {
            return refuse(0x0a);
        }
        if nature.lookup_not_hashed && body.len() != 44 || nature.padded_user && length != 16 {
            return refuse(0x12);
        }
        let session = &self.sessions[&u32::from_le_bytes(id)];
        let user = self.user_part(session, false);
        let key = if nature.wrong_rakp2 { b"another" } else { nature.password.as_bytes() };
        let parts: [&[u8]; 6] = [
            &session.console,
            &id,
            &session.console_random,
            &session.bmc_random,
            &nature.guid,
            &user,
        ];
        let mut code = Self::hash(session.suite).hmac(key, &parts.concat());
        if nature.long_codes {
            code.extend_from_slice(&[0; 12]);
        }
        let start = [body[0], 0, 0, 0];
        let parts: [&[u8]; 5] =
            [&start, &session.console, &session.bmc_random, &nature.guid, &code];
        let mut answer = packet(0x13, &[0; 4], 0, &parts.concat());
        if nature.declares_more_rakp2 {
            answer[14] += 1;
        }
        Some(answer)
    }

    fn rakp3(&mut self, body: &[u8]) -> Option<Vec<u8>> {
        let id: [u8; 4] = body[4..8].try_into().unwrap();
        let number = u32::from_le_bytes(id);
        let (nature, session) = (self.nature.clone(), self.sessions.get(&number)?);
        let hash = Self::hash(session.suite);
        let user = self.user_part(session, true);
        let parts: [&[u8]; 3] = [&session.bmc_random, &session.console, &user];
        let console = session.console;
        let answer = |status: u8, code: &[u8]| {
            Some(packet(0x15, &[0; 4], 0, &[&[body[0], status, 0, 0][..], &console, code].concat()))
        };
        if body[8..] != hash.hmac(nature.password.as_bytes(), &parts.concat()) {
            self.sessions.remove(&number);
            return answer(0x0f, &[]);
        }
        let user = self.user_part(session, false);
        let parts: [&[u8]; 3] = [&session.console_random, &session.bmc_random, &user];
        let key = if nature.kg.is_empty() { &nature.password } else { &nature.kg };
        let sik = hash.hmac(key.as_bytes(), &parts.concat());
        let parts: [&[u8]; 3] = [&session.console_random, &id, &nature.guid];
        let mut code = hash.hmac(&sik, &parts.concat());
        if !nature.long_codes {
            code.truncate(hash.code_len());
        }
        if nature.wrong_rakp4 {
            code[0] ^= 1;
        }
        let session = self.sessions.get_mut(&number)?;
        session.k1 = hash.hmac(&sik, &[1; 20]);
        session.k2 = hash.hmac(&sik, &[2; 20])[..16].to_vec();
        session.active = true;
        self.record.lock().unwrap().sessions += 1;
        answer(0, &code)
    }

    fn message(&mut self, data: &[u8], body: &[u8]) -> Option<Vec<u8>> {
        let id = u32::from_le_bytes(data[6..10].try_into().unwrap());
        let sequence = u32::from_le_bytes(data[10..14].try_into().unwrap());
        if id == 0 {
            let answer = commands::message(body[1], body[4], body[5], &[0xc1], false);
            return Some(packet(0, &[0; 4], 0, &answer));
        }
        let short_pad = self.nature.short_pad;
        let session = self.sessions.get_mut(&id).filter(|session| session.active)?;
        let hash = Self::hash(session.suite);
        let (signed, code) = data.split_at(data.len() - hash.code_len());
        let pad = usize::from(signed[signed.len() - 2]);
        let counted = 12 + body.len() + if short_pad { 0 } else { 2 };
        if hash.hmac(&session.k1, &signed[4..])[..hash.code_len()] != *code
            || !(counted + pad).is_multiple_of(4)
        {
            return None;
        }
        if !session.came.insert(sequence) {
            self.record.lock().unwrap().repeated_sequences += 1;
            return None;
        }
        let plain = crypto::decrypt(&session.k2, body);
        let request = plain[..plain.len() - 1 - usize::from(*plain.last().unwrap())].to_vec();
        let data = self.command(id, &request)?;
        let nature = &self.nature;
        let answer = commands::message(request[1], request[4], request[5], &data, nature.bad_sums);
        let closes = (request[1] >> 2, request[5]) == (6, 0x3c);
        let session = self.sessions.get_mut(&id)?;
        let console = if nature.zero_id { [0; 4] } else { session.console };
        let sequence = session.sequence;
        session.sequence += nature.sequence_step;
        let answer = if nature.plain {
            packet(0, &console, sequence, &answer)
        } else {
            let body = crypto::encrypt(&session.k2, crypto::random(id, sequence), &answer);
            let mut answer = packet(0xc0, &console, sequence, &body);
            let pad = (answer.len() - 4 + 2).next_multiple_of(4) - (answer.len() - 4 + 2);
            answer.resize(answer.len() + pad, 0xff);
            answer.extend_from_slice(&[u8::try_from(pad).unwrap(), 7]);
            let code = hash.hmac(&session.k1, &answer[4..]);
            answer.extend_from_slice(&code[..hash.code_len()]);
            answer
        };
        if closes {
            self.sessions.remove(&id);
            self.record.lock().unwrap().closed += 1;
            return (!self.nature.mute_close).then_some(answer);
        }
        Some(answer)
    }
}
