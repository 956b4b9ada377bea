//! The bytes of RMCP+ (IPMI 2.0 section 13): what a console sends and what a BMC answers.
//!
//! Everything here is pure. What comes from the network is borrowed and checked for its length; no
//! check of who sent it is made here, see [`super::session`].

use super::crypto::Suite;

/// The port that BMCs listen on (ASF 2.0: primary RMCP port).
pub const PORT: u16 = 623;
/// Longer datagrams are not IPMI: the largest message of a session is under 300 bytes.
pub const DATAGRAM_MAX: usize = 1024;

/// The RMCP header: version 6, no sequence number (so no RMCP acknowledgement), class IPMI.
const RMCP: [u8; 4] = [0x06, 0x00, 0xff, 0x07];
/// "Authentication type" of every RMCP+ packet.
const FORMAT: u8 = 0x06;
/// RMCP, then type, payload type, session, sequence, length.
const HEADER: usize = 16;
const ENCRYPTED: u8 = 0x80;
const AUTHENTICATED: u8 = 0x40;
/// Ends the signed part of a packet.
const NEXT_HEADER: u8 = 0x07;

/// The BMC on its own bus, and a console without one.
const BMC: u8 = 0x20;
const CONSOLE: u8 = 0x81;

/// What a packet carries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Payload {
    /// A command or its answer.
    Ipmi,
    /// Open Session Request.
    OpenRequest,
    /// Open Session Response.
    OpenResponse,
    /// RAKP message 1, from the console.
    Rakp1,
    /// RAKP message 2, from the BMC.
    Rakp2,
    /// RAKP message 3, from the console.
    Rakp3,
    /// RAKP message 4, from the BMC.
    Rakp4,
}

impl Payload {
    const fn number(self) -> u8 {
        match self {
            Self::Ipmi => 0x00,
            Self::OpenRequest => 0x10,
            Self::OpenResponse => 0x11,
            Self::Rakp1 => 0x12,
            Self::Rakp2 => 0x13,
            Self::Rakp3 => 0x14,
            Self::Rakp4 => 0x15,
        }
    }

    const fn from_number(number: u8) -> Option<Self> {
        match number {
            0x00 => Some(Self::Ipmi),
            0x10 => Some(Self::OpenRequest),
            0x11 => Some(Self::OpenResponse),
            0x12 => Some(Self::Rakp1),
            0x13 => Some(Self::Rakp2),
            0x14 => Some(Self::Rakp3),
            0x15 => Some(Self::Rakp4),
            _ => None,
        }
    }
}

/// Why a datagram is nothing that can be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unreadable {
    /// It ends too early.
    #[error("it is cut short")]
    Short,
    /// It is not RMCP, not IPMI, or IPMI 1.5.
    #[error("it is not IPMI 2.0")]
    Foreign,
    /// A payload that nobody asked for.
    #[error("its payload is of a type that was not asked for")]
    Payload,
    /// One of the two sums of an IPMI message.
    #[error("its checksum is wrong (the quirk bad-checksums takes those)")]
    Checksum,
    /// Addressed to somebody else, or no answer at all.
    #[error("it is not addressed to this console")]
    Address,
}

/// A packet as it came in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Packet<'a> {
    /// What it carries.
    pub payload: Payload,
    /// The body is encrypted.
    pub encrypted: bool,
    /// There is an authentication code.
    pub authenticated: bool,
    /// The console's id of the session; 0 outside of one.
    pub session: u32,
    /// The BMC's counter; 0 outside of a session.
    pub sequence: u32,
    /// The payload.
    pub body: &'a [u8],
    /// Everything behind the RMCP header: what an authentication code covers, and that code.
    pub sealed: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Reads one datagram. A handshake message may be one byte shorter than it says: the MAC in it
    /// decides what it is worth (quirk `long-rakp2`).
    ///
    /// # Errors
    /// If it is no RMCP+ packet.
    pub fn decode(datagram: &'a [u8]) -> Result<Self, Unreadable> {
        let header = datagram.get(..HEADER).ok_or(Unreadable::Short)?;
        if header[0] != RMCP[0] || header[3] & 0x1f != RMCP[3] || header[4] != FORMAT {
            return Err(Unreadable::Foreign);
        }
        let payload = Payload::from_number(header[5] & 0x3f).ok_or(Unreadable::Payload)?;
        let session = u32_at(header, 6);
        let length = usize::from(u16::from_le_bytes([header[14], header[15]]));
        let rest = &datagram[HEADER..];
        let body = match rest.get(..length) {
            Some(body) => body,
            None if session == 0 && rest.len() + 1 == length => rest,
            None => return Err(Unreadable::Short),
        };
        Ok(Self {
            payload,
            encrypted: header[5] & ENCRYPTED != 0,
            authenticated: header[5] & AUTHENTICATED != 0,
            session,
            sequence: u32_at(header, 10),
            body,
            sealed: &datagram[RMCP.len()..],
        })
    }
}

/// A packet outside of a session.
pub fn bare(payload: Payload, body: &[u8]) -> Vec<u8> {
    let mut packet = header(payload.number(), 0, 0, body.len());
    packet.extend_from_slice(body);
    packet
}

/// The part of a session's packet that its authentication code covers, behind the RMCP header:
/// `body` is encrypted already. With `short_pad` the two bytes behind the pad do not count (quirk
/// `short-integrity-pad`).
pub fn unsigned(session: u32, sequence: u32, body: &[u8], short_pad: bool) -> Vec<u8> {
    let flags = ENCRYPTED | AUTHENTICATED;
    let mut packet = header(Payload::Ipmi.number() | flags, session, sequence, body.len());
    packet.extend_from_slice(body);
    let behind = if short_pad { 0 } else { 2 };
    let signed = packet.len() - RMCP.len() + behind;
    let pad = signed.next_multiple_of(4) - signed;
    packet.resize(packet.len() + pad, 0xff);
    packet.push(u8::try_from(pad).unwrap_or(0));
    packet.push(NEXT_HEADER);
    packet
}

/// What an authentication code covers in a packet that [`unsigned`] has made.
pub fn covered(packet: &[u8]) -> &[u8] {
    packet.get(RMCP.len()..).unwrap_or_default()
}

fn header(payload: u8, session: u32, sequence: u32, length: usize) -> Vec<u8> {
    let mut packet = Vec::with_capacity(HEADER + length + 40);
    packet.extend_from_slice(&RMCP);
    packet.extend_from_slice(&[FORMAT, payload]);
    packet.extend_from_slice(&session.to_le_bytes());
    packet.extend_from_slice(&sequence.to_le_bytes());
    // Bodies are made here, from parts of a few bytes.
    packet.extend_from_slice(&u16::try_from(length).unwrap_or(u16::MAX).to_le_bytes());
    packet
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    array_at::<4>(bytes, at).map_or(0, u32::from_le_bytes)
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// Open Session Request (13.17): explicit privilege, and one algorithm of each kind.
pub fn open_request(tag: u8, privilege: u8, console: u32, suite: Suite) -> Vec<u8> {
    let mut body = vec![tag, privilege, 0, 0];
    body.extend_from_slice(&console.to_le_bytes());
    for (kind, algorithm) in (0_u8..).zip(suite.algorithms()) {
        body.extend_from_slice(&[kind, 0, 0, 8, algorithm, 0, 0, 0]);
    }
    body
}

/// Open Session Response (13.18).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct OpenResponse {
    /// Of the request.
    pub tag: u8,
    /// 0 or why not (table 13-15).
    pub status: u8,
    /// Of the request.
    pub console: u32,
    /// What follows a status of 0.
    pub accepted: Option<Accepted>,
}

/// What a BMC has agreed to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Accepted {
    /// The BMC's id of the session.
    pub bmc: u32,
    /// Authentication, integrity, confidentiality; `None` where a block cannot be read.
    pub algorithms: [Option<u8>; 3],
}

impl OpenResponse {
    /// Reads it; one that refuses may end after the console's id.
    ///
    /// # Errors
    /// [`Unreadable::Short`].
    pub fn decode(body: &[u8]) -> Result<Self, Unreadable> {
        let start: [u8; 8] = array_at(body, 0).ok_or(Unreadable::Short)?;
        let [tag, status, ..] = start;
        let accepted = match status {
            0 => {
                let bmc = array_at(body, 8).map(u32::from_le_bytes).ok_or(Unreadable::Short)?;
                let mut algorithms = [None; 3];
                for (kind, algorithm) in algorithms.iter_mut().enumerate() {
                    let block: [u8; 8] = array_at(body, 12 + 8 * kind).ok_or(Unreadable::Short)?;
                    *algorithm = (usize::from(block[0]) == kind).then_some(block[4] & 0x3f);
                }
                Some(Accepted { bmc, algorithms })
            }
            _ => None,
        };
        Ok(Self { tag, status, console: u32_at(&start, 4), accepted })
    }
}

/// RAKP message 1 (13.20). `name` is what stands in the name's place, `length` its length as sent.
pub fn rakp1(tag: u8, bmc: u32, random: &[u8; 16], role: u8, length: u8, name: &[u8]) -> Vec<u8> {
    let mut body = vec![tag, 0, 0, 0];
    body.extend_from_slice(&bmc.to_le_bytes());
    body.extend_from_slice(random);
    body.extend_from_slice(&[role, 0, 0, length]);
    body.extend_from_slice(name);
    body
}

/// RAKP message 2 (13.21).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rakp2<'a> {
    /// Of message 1.
    pub tag: u8,
    /// 0 or why not.
    pub status: u8,
    /// The console's id of the session.
    pub console: u32,
    /// What follows a status of 0.
    pub proof: Option<Proof<'a>>,
}

/// How a BMC proves that it knows the password.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Proof<'a> {
    /// The BMC's random number.
    pub random: [u8; 16],
    /// The BMC's GUID.
    pub guid: [u8; 16],
    /// The code, as long as it came.
    pub code: &'a [u8],
}

impl<'a> Rakp2<'a> {
    /// Reads it; one that refuses may end after the console's id.
    ///
    /// # Errors
    /// [`Unreadable::Short`].
    pub fn decode(body: &'a [u8]) -> Result<Self, Unreadable> {
        let start: [u8; 8] = array_at(body, 0).ok_or(Unreadable::Short)?;
        let [tag, status, ..] = start;
        let proof = match status {
            0 => Some(Proof {
                random: array_at(body, 8).ok_or(Unreadable::Short)?,
                guid: array_at(body, 24).ok_or(Unreadable::Short)?,
                code: &body[40..],
            }),
            _ => None,
        };
        Ok(Self { tag, status, console: u32_at(&start, 4), proof })
    }
}

/// RAKP message 3 (13.22).
pub fn rakp3(tag: u8, bmc: u32, code: &[u8]) -> Vec<u8> {
    let mut body = vec![tag, 0, 0, 0];
    body.extend_from_slice(&bmc.to_le_bytes());
    body.extend_from_slice(code);
    body
}

/// RAKP message 4 (13.23).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rakp4<'a> {
    /// Of message 3.
    pub tag: u8,
    /// 0 or why not.
    pub status: u8,
    /// The console's id of the session.
    pub console: u32,
    /// The code, as long as it came.
    pub code: &'a [u8],
}

impl<'a> Rakp4<'a> {
    /// Reads it.
    ///
    /// # Errors
    /// [`Unreadable::Short`].
    pub fn decode(body: &'a [u8]) -> Result<Self, Unreadable> {
        let start: [u8; 8] = array_at(body, 0).ok_or(Unreadable::Short)?;
        let [tag, status, ..] = start;
        Ok(Self { tag, status, console: u32_at(&start, 4), code: &body[8..] })
    }
}

/// A command to the BMC itself (13.8): `function` is the request's, an even number; `number` is
/// mod 64.
pub fn request(function: u8, command: u8, number: u8, data: &[u8]) -> Vec<u8> {
    let mut message = vec![BMC, function << 2];
    message.push(sum(&message));
    message.extend_from_slice(&[CONSOLE, number << 2, command]);
    message.extend_from_slice(data);
    message.push(sum(&message[3..]));
    message
}

/// The answer to a command.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Response<'a> {
    /// The answer's function: the request's plus one.
    pub function: u8,
    /// Of the request.
    pub command: u8,
    /// Of the request, mod 64.
    pub number: u8,
    /// The completion code; 0 is success (table 5-2).
    pub code: u8,
    /// What follows it.
    pub data: &'a [u8],
}

impl<'a> Response<'a> {
    /// Reads a decrypted message. `checked` is false where the checksums are known to be wrong.
    ///
    /// # Errors
    /// If it is no answer to a console.
    pub fn decode(message: &'a [u8], checked: bool) -> Result<Self, Unreadable> {
        let [to, function, _, from, number, command, code, rest @ ..] = message else {
            return Err(Unreadable::Short);
        };
        let Some((_, data)) = rest.split_last() else { return Err(Unreadable::Short) };
        if checked && (sum(&message[..3]) != 0 || sum(&message[3..]) != 0) {
            return Err(Unreadable::Checksum);
        }
        if *to != CONSOLE || *from != BMC {
            return Err(Unreadable::Address);
        }
        let (function, number) = (function >> 2, number >> 2);
        Ok(Self { function, command: *command, number, code: *code, data })
    }
}

/// What makes the sum of the bytes zero.
fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_sub(*byte))
}
