//! BMCs: what one may answer, and one that knows the password and says anything.

use std::time::Duration;

use fence::ipmi::command::{Chassis, DeviceId, Watchdog, chassis_status};
use fence::ipmi::crypto::{Exchange, Suite};
use fence::ipmi::session::{Action, Answer, Event, Session};
use fence::ipmi::wire::{self, OpenResponse, Packet, Payload, Rakp2, Rakp4, Response};
use fence::ipmi::{Login, Privilege, Quirks};
use fence::secret::Secret;
use protocol::time::Time;

const PASSWORD: &[u8] = b"password";
const BMC: u32 = 0x0403_0201;
/// No session lives longer here.
const STEPS: usize = 64;

/// A datagram, a part of one, or several to a session that has just begun.
pub fn ipmi(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else { return };
    match kind % 6 {
        0 => datagram(data),
        1 => open_response(data),
        2 => rakp(data),
        3 => message(data, true),
        4 => message(data, false),
        _ => strangers(data),
    }
}

fn datagram(data: &[u8]) {
    let Ok(packet) = Packet::decode(data) else { return };
    assert_eq!(data.get(4..), Some(packet.sealed));
    let behind = &data[16..];
    assert!(behind.starts_with(packet.body), "the body is not where it was");
    match packet.payload {
        Payload::Ipmi => message(packet.body, true),
        Payload::OpenResponse => open_response(packet.body),
        Payload::Rakp2 | Payload::Rakp4 => rakp(packet.body),
        Payload::OpenRequest | Payload::Rakp1 | Payload::Rakp3 => {}
    }
}

fn open_response(body: &[u8]) {
    let Ok(response) = OpenResponse::decode(body) else { return };
    assert_eq!(response.accepted.is_some(), response.status == 0);
    assert!(response.accepted.is_none() || body.len() >= 36, "an answer from nowhere");
}

fn rakp(body: &[u8]) {
    if let Ok(Rakp2 { status, proof, .. }) = Rakp2::decode(body) {
        assert_eq!(proof.is_some(), status == 0);
        assert!(proof.is_none_or(|proof| body.ends_with(proof.code)));
    }
    if let Ok(Rakp4 { code, .. }) = Rakp4::decode(body) {
        assert_eq!(code.len() + 8, body.len());
    }
}

fn message(body: &[u8], checked: bool) {
    let Ok(response) = Response::decode(body, checked) else { return };
    assert_eq!(response.data.len() + 8, body.len());
    let answer = Answer { code: response.code, data: response.data.to_vec() };
    let success = response.code == 0;
    assert_eq!(Chassis::decode(&answer).is_ok(), success && !answer.data.is_empty());
    assert_eq!(DeviceId::decode(&answer).is_ok(), success && answer.data.len() >= 11);
    assert_eq!(Watchdog::decode(&answer).is_ok(), success && answer.data.len() >= 6);
    for why in [Chassis::decode(&answer).err(), DeviceId::decode(&answer).err()] {
        assert!(why.is_none_or(|why| !why.to_string().contains('\n')));
    }
}

/// Datagrams from somebody who knows nothing: no session comes of them.
fn strangers(data: &[u8]) {
    let mut now = Time::ZERO;
    let mut session = Session::new(now, login(Suite::Three), [7; 32]);
    for (step, piece) in data.split(|byte| *byte == 0xa5).take(STEPS).enumerate() {
        now = now + Duration::from_millis(50);
        session.handle(now, Event::Datagram(piece));
        if step % 4 == 3 {
            now = session.deadline().unwrap_or(now);
            session.handle(now, Event::Timeout);
        }
        while let Some(action) = session.next_action() {
            match action {
                Action::Send(datagram) => assert!(Packet::decode(&datagram).is_ok()),
                Action::Failed(_) => return,
                Action::Opened(_) | Action::Answered(_) | Action::Unanswered | Action::Closed => {
                    panic!("a stranger has got a session: {action:?}")
                }
            }
        }
    }
}

fn login(suite: Suite) -> Login {
    Login {
        user: "admin".to_owned(),
        password: Secret::new(PASSWORD.to_vec()),
        kg: None,
        privilege: Privilege::Administrator,
        suites: vec![suite],
        quirks: Quirks::default(),
        expect: None,
    }
}

/// A BMC that knows the password: its handshake is right, and what it says then is signed.
pub fn bmc(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else { return };
    let suite = if kind & 1 == 0 { Suite::Three } else { Suite::Seventeen };
    let (mut now, mut answered) = (Time::ZERO, 0);
    let mut session = Session::new(now, login(suite), [*kind; 32]);
    let mut exchange = Exchange { bmc: BMC, role: 0x14, ..Exchange::default() };
    exchange.role_in_rakp3 = exchange.role;
    exchange.user = b"admin".to_vec();
    handshake(&mut session, &mut exchange, suite);
    let keys = exchange.keys(suite, PASSWORD);
    session.handle(now, Event::Ask(chassis_status()));
    for (step, piece) in (1_u32..).zip(data.split(|byte| *byte == 0xa5)).take(STEPS) {
        now = now + Duration::from_millis(50);
        let Some((how, piece)) = piece.split_first() else { continue };
        match how % 4 {
            0 => {
                now = session.deadline().unwrap_or(now);
                session.handle(now, Event::Timeout);
            }
            1 => session.handle(now, Event::Datagram(piece)),
            // Any bytes, or an answer to the first command with any data.
            how => {
                let plain = if how == 2 { piece.to_vec() } else { answer(piece) };
                let body = keys.encrypt([9; 16], &plain);
                let mut packet = wire::unsigned(exchange.console, step, &body, false);
                let code = keys.sign(wire::covered(&packet));
                packet.extend_from_slice(&code);
                session.handle(now, Event::Datagram(&packet));
            }
        }
        while let Some(action) = session.next_action() {
            match action {
                Action::Send(datagram) => assert!(Packet::decode(&datagram).is_ok()),
                Action::Answered(_) => answered += 1,
                Action::Unanswered => session.handle(now, Event::Close),
                Action::Closed => return,
                Action::Opened(_) | Action::Failed(_) => panic!("begun anew: {action:?}"),
            }
        }
        assert!(answered <= 1, "one command, two answers");
    }
}

/// Does the BMC's part of a handshake.
fn handshake(session: &mut Session, exchange: &mut Exchange, suite: Suite) {
    while let Some(action) = session.next_action() {
        let Action::Send(sent) = action else { return };
        let packet = Packet::decode(&sent).expect("our own packet");
        let tag = packet.body[0];
        let (payload, mut body) = match packet.payload {
            Payload::OpenRequest => {
                let console = packet.body[4..8].try_into().expect("four bytes");
                exchange.console = u32::from_le_bytes(console);
                let mut body = console.to_vec();
                body.extend_from_slice(&BMC.to_le_bytes());
                body.extend_from_slice(&packet.body[8..32]);
                (Payload::OpenResponse, body)
            }
            Payload::Rakp1 => {
                exchange.console_random = packet.body[8..24].try_into().expect("sixteen bytes");
                exchange.bmc_random = [1; 16];
                exchange.guid = [2; 16];
                let code = exchange.bmc_proof(suite, PASSWORD);
                let console = exchange.console.to_le_bytes();
                (Payload::Rakp2, [&console[..], &[1; 16], &[2; 16], &code].concat())
            }
            Payload::Rakp3 => {
                let code = exchange.keys(suite, PASSWORD).bmc_proof(exchange);
                (Payload::Rakp4, [&exchange.console.to_le_bytes()[..], &code].concat())
            }
            Payload::Ipmi | Payload::OpenResponse | Payload::Rakp2 | Payload::Rakp4 => return,
        };
        body.splice(0..0, [tag, 0, 0, 0]);
        session.handle(Time::ZERO, Event::Datagram(&wire::bare(payload, &body)));
    }
}

/// The answer to Get Chassis Status: completion code and data as they come.
fn answer(rest: &[u8]) -> Vec<u8> {
    let sum = |bytes: &[u8]| bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_sub(*byte));
    let mut message = vec![0x81, 0x04];
    message.push(sum(&message));
    message.extend_from_slice(&[0x20, 1 << 2, 0x01]);
    message.extend_from_slice(rest);
    message.push(sum(&message[3..]));
    message
}
