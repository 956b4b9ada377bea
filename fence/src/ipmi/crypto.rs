//! Keys and codes of RMCP+ (IPMI 2.0 sections 13.28 to 13.33).
//!
//! Two cipher suites, the only ones whose parts are all there: 17 (HMAC-SHA256, SHA256-128,
//! AES-CBC-128) and 3 (HMAC-SHA1, SHA1-96, AES-CBC-128). Suites without encryption, without
//! integrity or on MD5 do not exist here, so nothing can be talked down to them.

use aes::cipher::block_padding::NoPadding;
use aes::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha1::Sha1;
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// AES's block, and the length of an initialization vector.
const BLOCK: usize = 16;
/// The longest digest: SHA-256's.
const DIGEST_MAX: usize = 32;

/// A cipher suite (table 22-20).
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "u8", into = "u8")]
pub enum Suite {
    /// RAKP-HMAC-SHA1, HMAC-SHA1-96, AES-CBC-128.
    Three,
    /// RAKP-HMAC-SHA256, HMAC-SHA256-128, AES-CBC-128.
    Seventeen,
}

impl Suite {
    /// Authentication, integrity and confidentiality algorithm.
    pub const fn algorithms(self) -> [u8; 3] {
        match self {
            Self::Three => [0x01, 0x01, 0x01],
            Self::Seventeen => [0x03, 0x04, 0x01],
        }
    }

    /// How much of a digest is sent in RAKP 4 and behind packets.
    pub const fn code_len(self) -> usize {
        match self {
            Self::Three => 12,
            Self::Seventeen => 16,
        }
    }

    fn digest(self, key: &[u8], parts: &[&[u8]]) -> Digest {
        match self {
            Self::Three => digest::<Hmac<Sha1>>(key, parts),
            Self::Seventeen => digest::<Hmac<Sha256>>(key, parts),
        }
    }
}

impl From<Suite> for u8 {
    fn from(suite: Suite) -> Self {
        match suite {
            Suite::Three => 3,
            Suite::Seventeen => 17,
        }
    }
}

impl TryFrom<u8> for Suite {
    type Error = String;

    fn try_from(number: u8) -> Result<Self, String> {
        match number {
            3 => Ok(Self::Three),
            17 => Ok(Self::Seventeen),
            _ => Err(format!("there is no cipher suite {number} here: 17 and 3 are safe enough")),
        }
    }
}

/// A whole digest; wiped when dropped.
struct Digest {
    bytes: Zeroizing<[u8; DIGEST_MAX]>,
    len: usize,
}

impl Digest {
    fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

fn digest<M: Mac + KeyInit>(key: &[u8], parts: &[&[u8]]) -> Digest {
    let mut bytes = Zeroizing::new([0; DIGEST_MAX]);
    // HMAC takes a key of any length (RFC 2104 section 2).
    let Ok(mut mac) = <M as KeyInit>::new_from_slice(key) else { return Digest { bytes, len: 0 } };
    for part in parts {
        mac.update(part);
    }
    let code = mac.finalize().into_bytes();
    let len = code.len().min(DIGEST_MAX);
    bytes[..len].copy_from_slice(&code[..len]);
    Digest { bytes, len }
}

/// What both sides put into the handshake's codes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Exchange {
    /// The console's id of the session.
    pub console: u32,
    /// The BMC's.
    pub bmc: u32,
    /// The console's random number.
    pub console_random: [u8; 16],
    /// The BMC's.
    pub bmc_random: [u8; 16],
    /// The BMC's GUID.
    pub guid: [u8; 16],
    /// The role as it is hashed in RAKP 2 and in the session's key.
    pub role: u8,
    /// The role as it is hashed in RAKP 3.
    pub role_in_rakp3: u8,
    /// The user's name, as long as it is hashed.
    pub user: Vec<u8>,
}

impl Exchange {
    fn user_len(&self) -> u8 {
        u8::try_from(self.user.len()).unwrap_or(u8::MAX)
    }

    /// Whether `code` is the one of RAKP 2: the BMC knows the password. A longer one is compared
    /// as far as it is needed (quirk `long-rakp2`). The time does not depend on the bytes.
    pub fn proves_bmc(&self, suite: Suite, password: &[u8], code: &[u8]) -> bool {
        begins_with(code, &self.bmc_proof(suite, password))
    }

    /// The code of RAKP 2: the BMC knows the password.
    pub fn bmc_proof(&self, suite: Suite, password: &[u8]) -> Vec<u8> {
        let parts: [&[u8]; 7] = [
            &self.console.to_le_bytes(),
            &self.bmc.to_le_bytes(),
            &self.console_random,
            &self.bmc_random,
            &self.guid,
            &[self.role, self.user_len()],
            &self.user,
        ];
        suite.digest(password, &parts).as_slice().to_vec()
    }

    /// The code of RAKP 3: the console knows the password.
    pub fn console_proof(&self, suite: Suite, password: &[u8]) -> Vec<u8> {
        let parts: [&[u8]; 4] = [
            &self.bmc_random,
            &self.console.to_le_bytes(),
            &[self.role_in_rakp3, self.user_len()],
            &self.user,
        ];
        suite.digest(password, &parts).as_slice().to_vec()
    }

    /// The session's keys; `key` is Kg, or the password where there is none.
    pub fn keys(&self, suite: Suite, key: &[u8]) -> Keys {
        let parts: [&[u8]; 4] =
            [&self.console_random, &self.bmc_random, &[self.role, self.user_len()], &self.user];
        let session = suite.digest(key, &parts);
        // The constants are twenty bytes long for SHA-256 too (13.32).
        let integrity = suite.digest(session.as_slice(), &[&[1; 20]]);
        let second = suite.digest(session.as_slice(), &[&[2; 20]]);
        let mut encryption = Zeroizing::new([0; BLOCK]);
        encryption.copy_from_slice(&second.bytes[..BLOCK]);
        Keys { suite, session, integrity, encryption }
    }
}

fn begins_with(code: &[u8], own: &[u8]) -> bool {
    let Some(start) = code.get(..own.len()) else { return false };
    !own.is_empty() && bool::from(start.ct_eq(own))
}

/// The keys of one session; wiped when dropped.
pub struct Keys {
    suite: Suite,
    session: Digest,
    integrity: Digest,
    encryption: Zeroizing<[u8; BLOCK]>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys(…)")
    }
}

impl Keys {
    /// Whether `code` is the one of RAKP 4: the BMC has the same key. A whole digest will do too
    /// (quirk `long-rakp4`).
    pub fn proves_key(&self, exchange: &Exchange, code: &[u8]) -> bool {
        begins_with(code, &self.bmc_proof(exchange))
    }

    /// The code of RAKP 4: the BMC has the same key.
    pub fn bmc_proof(&self, exchange: &Exchange) -> Vec<u8> {
        let bmc = exchange.bmc.to_le_bytes();
        let parts: [&[u8]; 3] = [&exchange.console_random, &bmc, &exchange.guid];
        let own = self.suite.digest(self.session.as_slice(), &parts);
        own.as_slice()[..self.suite.code_len()].to_vec()
    }

    /// The code behind a packet.
    pub fn sign(&self, covered: &[u8]) -> Vec<u8> {
        let own = self.suite.digest(self.integrity.as_slice(), &[covered]);
        own.as_slice()[..self.suite.code_len()].to_vec()
    }

    /// Whether the code behind a packet is right; `sealed` is packet and code.
    pub fn is_signed(&self, sealed: &[u8]) -> bool {
        let Some(at) = sealed.len().checked_sub(self.suite.code_len()) else { return false };
        let (covered, code) = sealed.split_at(at);
        bool::from(self.sign(covered).ct_eq(code))
    }

    /// Encrypts a message: the vector, then pad bytes 1, 2, 3… and their number (13.29).
    pub fn encrypt(&self, vector: [u8; BLOCK], message: &[u8]) -> Vec<u8> {
        let pad = (message.len() + 1).next_multiple_of(BLOCK) - (message.len() + 1);
        let mut plain = Zeroizing::new(Vec::with_capacity(message.len() + BLOCK));
        plain.extend_from_slice(message);
        plain.extend((1_u8..).take(pad));
        plain.push(u8::try_from(pad).unwrap_or(0));
        let cipher = cbc::Encryptor::<aes::Aes128>::new(&(*self.encryption).into(), &vector.into());
        let mut body = vector.to_vec();
        body.extend_from_slice(&cipher.encrypt_padded_vec::<NoPadding>(&plain));
        body
    }

    /// Decrypts a body; `None` if it has no whole blocks, or more pad than it has bytes.
    pub fn decrypt(&self, body: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (vector, blocks) = body.split_first_chunk::<BLOCK>()?;
        let cipher =
            cbc::Decryptor::<aes::Aes128>::new(&(*self.encryption).into(), &(*vector).into());
        let mut plain = Zeroizing::new(cipher.decrypt_padded_vec::<NoPadding>(blocks).ok()?);
        let pad = usize::from(*plain.last()?);
        let left = plain.len().checked_sub(pad + 1)?;
        plain.truncate(left);
        Some(plain)
    }
}

/// Random bytes from a seed that the caller draws from the system: HMAC-SHA256 in counter mode.
#[derive(Debug)]
pub struct Chance {
    seed: Zeroizing<[u8; 32]>,
    drawn: u64,
}

impl Chance {
    /// Everything drawn depends on nothing but the seed.
    pub fn new(seed: [u8; 32]) -> Self {
        Self { seed: Zeroizing::new(seed), drawn: 0 }
    }

    /// The next sixteen.
    pub fn draw(&mut self) -> [u8; 16] {
        self.drawn += 1;
        let next = digest::<Hmac<Sha256>>(&*self.seed, &[&self.drawn.to_le_bytes()]);
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&next.bytes[..16]);
        bytes
    }

    /// The next id of a session: never 0.
    pub fn session(&mut self) -> u32 {
        let [a, b, c, d, ..] = self.draw();
        u32::from_le_bytes([a, b, c, d]).max(1)
    }
}
