//! PKCS#12 files with an empty password (RFC 7292), the form in which NSS passes on a key with its
//! certificates: `qdevice-net-node.p12` and the files of pk12util. Written and read are PBES2 with
//! AES-CBC and a MAC of SHA-256, as NSS 3.87 does; the older ciphers are refused.

mod ber;

use std::num::NonZeroU32;

use aes::cipher::block_padding::Pkcs7;
use aes::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use aes::{Aes128, Aes192, Aes256};
use ring::rand::{SecureRandom, SystemRandom};
use ring::{digest, hmac, pbkdf2};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use thiserror::Error;

use crate::material::{Credential, MaterialError};
use ber::{Malformed, Reader, element};

/// Object identifiers, as their content octets. PKCS#7 and its content types:
const DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01];
const ENCRYPTED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x06];
/// The bags of RFC 7292 4.2, and what is in a certificate's.
const KEY_BAG: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x0c, 0x0a, 0x01, 0x01];
const SHROUDED_KEY_BAG: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x0c, 0x0a, 0x01, 0x02];
const CERTIFICATE_BAG: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x0c, 0x0a, 0x01, 0x03];
const X509: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x16, 0x01];
/// Attributes of a bag: the nickname of NSS, and what binds a key to its certificate.
const FRIENDLY_NAME: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x14];
const LOCAL_KEY_ID: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x15];
/// Algorithms (RFC 8018, RFC 5754).
const PBES2: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x05, 0x0d];
const PBKDF2: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x05, 0x0c];
const HMAC_SHA1: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x02, 0x07];
const HMAC_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x02, 0x09];
const SHA256: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01];
const AES_128_CBC: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x01, 0x02];
const AES_192_CBC: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x01, 0x16];
const AES_256_CBC: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x01, 0x2a];

/// How often the empty password is hashed in files that we write. It protects nothing, so more
/// would only cost time; the file's mode protects it.
const ITERATIONS: u32 = 2048;

/// The most that a whole file may ask for, because it can ask again for each of its parts; NSS
/// writes 600000 three times.
const ITERATIONS_MAX: u32 = 10_000_000;

/// The most certificates in one file.
const CERTIFICATES_MAX: usize = 16;

/// The bytes of a salt that we write.
const SALT_BYTES: usize = 16;

/// The block of SHA-256, in bytes (RFC 7292 B.2 `v`).
const HASH_BLOCK: usize = 64;

/// What "empty password" means to the MAC: a text of no characters with its end mark (RFC 7292
/// B.1), or nothing at all; writers differ.
const MAC_PASSWORDS: [&[u8]; 2] = [&[0, 0], &[]];

/// Why a file gave no key and certificate.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum BundleError {
    /// Not PKCS#12, or damaged.
    #[error("is no PKCS#12 file, or a damaged one: copy it again from the node that made it")]
    Malformed,
    /// Another password than the empty one, or damaged.
    #[error("has a password, or is damaged: only the empty password is taken; export it again")]
    Password,
    /// An algorithm that we do not have.
    #[error(
        "is protected with an old cipher: export it again with pk12util -c AES-256-CBC -C \
         AES-128-CBC, or by a newer NSS"
    )]
    Cipher,
    /// Too many certificates, keys or rounds.
    #[error("has {0} than such a file needs: export it again")]
    TooMuch(&'static str),
    /// No key in it.
    #[error("has no private key: export the key with its certificate")]
    NoKey,
    /// Key and certificates do not fit.
    #[error("has a key that is of no use: it {0}")]
    Key(MaterialError),
    /// The system gave no randomness.
    #[error("cannot be made: the system gave no random bytes; try again later")]
    NoRandomness,
}

impl From<Malformed> for BundleError {
    fn from(Malformed: Malformed) -> Self {
        Self::Malformed
    }
}

/// What a file holds.
#[derive(Debug)]
pub struct Bundle {
    /// The private key, PKCS#8. Secret.
    pub key: PrivateKeyDer<'static>,
    /// The key's own certificate first, the others behind it.
    pub certificates: Vec<CertificateDer<'static>>,
}

/// Reads a file with an empty password.
///
/// # Errors
/// [`BundleError`]: malformed, with a password, of old ciphers, or without a fitting pair.
pub fn read(bytes: &[u8]) -> Result<Bundle, BundleError> {
    let mut pfx = Reader(bytes).enter(ber::SEQUENCE)?;
    if pfx.integer()? != 3 {
        return Err(BundleError::Malformed);
    }
    let safes = plain_content(&mut pfx.enter(ber::SEQUENCE)?)?;
    let mut rounds = Rounds(ITERATIONS_MAX);
    check_mac(&mut pfx.enter(ber::SEQUENCE)?, &safes, &mut rounds)?;
    let mut contents = Contents::default();
    let mut list = Reader(&safes).enter(ber::SEQUENCE)?;
    while let Some(safe) = list.next()? {
        let mut info = Reader(safe.content);
        let bags = match info.expect(ber::OID)?.content {
            DATA => info.enter(ber::CONTEXT_0)?.next()?.ok_or(Malformed)?.octets()?,
            ENCRYPTED_DATA => decrypt_content(&mut info.enter(ber::CONTEXT_0)?, &mut rounds)?,
            _ => return Err(BundleError::Cipher),
        };
        contents.take(&bags, &mut rounds)?;
    }
    contents.pair()
}

/// Writes a file with an empty password: a PKCS#8 key, its certificate, both under `nickname`, and
/// the authority's certificate under its own, where there is one.
///
/// # Errors
/// When the system gives no randomness, or the key is not PKCS#8.
pub fn write(
    key: &PrivateKeyDer<'_>,
    certificate: &CertificateDer<'_>,
    nickname: &str,
    authority: Option<(&CertificateDer<'_>, &str)>,
) -> Result<Vec<u8>, BundleError> {
    let PrivateKeyDer::Pkcs8(key) = key else {
        return Err(BundleError::Key(MaterialError::KeyType));
    };
    let id = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, certificate);
    let own = attributes(nickname, Some(id.as_ref()));
    let (algorithm, secret) = encrypt(key.secret_pkcs8_der(), AES_256_CBC)?;
    let shrouded = element(ber::SEQUENCE, &[&algorithm, &element(ber::OCTETS, &[&secret])]);
    let keys = element(ber::SEQUENCE, &[&bag(SHROUDED_KEY_BAG, &shrouded, &own)]);
    let mut certificates = vec![certificate_bag(certificate, &own)];
    if let Some((authority, nickname)) = authority {
        certificates.push(certificate_bag(authority, &attributes(nickname, None)));
    }
    let certificates: Vec<&[u8]> = certificates.iter().map(Vec::as_slice).collect();
    let (algorithm, secret) = encrypt(&element(ber::SEQUENCE, &certificates), AES_128_CBC)?;
    let secret = element(0x80, &[&secret]);
    let inner = element(ber::SEQUENCE, &[&oid(DATA), &algorithm, &secret]);
    let encrypted = element(ber::SEQUENCE, &[&ber::integer(0), &inner]);
    let encrypted = explicit(ENCRYPTED_DATA, &encrypted);
    let keys = explicit(DATA, &element(ber::OCTETS, &[&keys]));
    let safes = element(ber::SEQUENCE, &[&keys, &encrypted]);
    let salt = random::<SALT_BYTES>()?;
    let mac = mac(&safes, MAC_PASSWORDS[0], &salt, ITERATIONS);
    let sum = element(
        ber::SEQUENCE,
        &[
            &element(ber::SEQUENCE, &[&oid(SHA256), &element(ber::NULL, &[])]),
            &element(ber::OCTETS, &[mac.as_ref()]),
        ],
    );
    let salt = element(ber::OCTETS, &[&salt]);
    let mac = element(ber::SEQUENCE, &[&sum, &salt, &ber::integer(ITERATIONS)]);
    let safes = explicit(DATA, &element(ber::OCTETS, &[&safes]));
    Ok(element(ber::SEQUENCE, &[&ber::integer(3), &safes, &mac]))
}

/// What a file may still ask for: a few bytes that name ten million rounds would otherwise cost
/// seconds each, as often as they stand in it.
struct Rounds(u32);

impl Rounds {
    fn spend(&mut self, rounds: u32) -> Result<(), BundleError> {
        let left = self.0.checked_sub(rounds);
        self.0 = left.ok_or(BundleError::TooMuch("more hash rounds"))?;
        Ok(())
    }
}

/// The keys and certificates of all bags.
#[derive(Default)]
struct Contents {
    keys: Vec<Vec<u8>>,
    certificates: Vec<CertificateDer<'static>>,
}

impl Contents {
    fn take(&mut self, bags: &[u8], rounds: &mut Rounds) -> Result<(), BundleError> {
        let mut bags = Reader(bags).enter(ber::SEQUENCE)?;
        while let Some(bag) = bags.next()? {
            let mut bag = Reader(bag.content);
            let kind = bag.expect(ber::OID)?.content;
            let value = bag.expect(ber::CONTEXT_0)?;
            match kind {
                KEY_BAG => self.keys.push(value.content.to_vec()),
                SHROUDED_KEY_BAG => {
                    let mut info = Reader(value.content).enter(ber::SEQUENCE)?;
                    let algorithm = info.expect(ber::SEQUENCE)?.content;
                    let secret = info.next()?.ok_or(Malformed)?.octets()?;
                    self.keys.push(decrypt(algorithm, &secret, rounds)?);
                }
                CERTIFICATE_BAG => {
                    let mut info = Reader(value.content).enter(ber::SEQUENCE)?;
                    if info.expect(ber::OID)?.content == X509 {
                        let der = info.enter(ber::CONTEXT_0)?.next()?.ok_or(Malformed)?.octets()?;
                        self.certificates.push(CertificateDer::from(der));
                    }
                }
                // Revocation lists and secrets of other programs.
                _ => {}
            }
            if self.keys.len() > 1 {
                return Err(BundleError::TooMuch("more keys"));
            }
            if self.certificates.len() > CERTIFICATES_MAX {
                return Err(BundleError::TooMuch("more certificates"));
            }
        }
        Ok(())
    }

    /// Puts the certificate that goes with the key first.
    fn pair(mut self) -> Result<Bundle, BundleError> {
        let key = self.keys.pop().ok_or(BundleError::NoKey)?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key));
        let mut refusal = MaterialError::NoCertificate;
        for at in 0..self.certificates.len() {
            let leaf = self.certificates[at].clone();
            match Credential::new(vec![leaf], key.clone_key()) {
                Ok(_) => {
                    self.certificates[..=at].rotate_right(1);
                    return Ok(Bundle { key, certificates: self.certificates });
                }
                Err(error) => refusal = error,
            }
        }
        Err(BundleError::Key(refusal))
    }
}

/// The octets of a content info of type data.
fn plain_content(info: &mut Reader<'_>) -> Result<Vec<u8>, BundleError> {
    if info.expect(ber::OID)?.content != DATA {
        return Err(BundleError::Malformed);
    }
    Ok(info.enter(ber::CONTEXT_0)?.next()?.ok_or(Malformed)?.octets()?)
}

fn decrypt_content(info: &mut Reader<'_>, rounds: &mut Rounds) -> Result<Vec<u8>, BundleError> {
    let mut data = info.enter(ber::SEQUENCE)?;
    data.integer()?;
    let mut inner = data.enter(ber::SEQUENCE)?;
    inner.expect(ber::OID)?;
    let algorithm = inner.expect(ber::SEQUENCE)?.content;
    let secret = inner.next()?.ok_or(Malformed)?.octets()?;
    decrypt(algorithm, &secret, rounds)
}

/// Checks the MAC over the safes, which also says whether the password is the empty one.
fn check_mac(data: &mut Reader<'_>, safes: &[u8], rounds: &mut Rounds) -> Result<(), BundleError> {
    let mut sum = data.enter(ber::SEQUENCE)?;
    if sum.enter(ber::SEQUENCE)?.expect(ber::OID)?.content != SHA256 {
        return Err(BundleError::Cipher);
    }
    let known = sum.next()?.ok_or(Malformed)?.octets()?;
    let salt = data.next()?.ok_or(Malformed)?.octets()?;
    // RFC 7292 4: one round where none are named.
    let iterations = if data.0.is_empty() { 1 } else { data.integer()? };
    if salt.is_empty() {
        return Err(BundleError::TooMuch("less salt"));
    }
    rounds.spend(iterations)?;
    let fits = |password: &&[u8]| mac(safes, password, &salt, iterations).as_ref() == known;
    if MAC_PASSWORDS.iter().any(fits) { Ok(()) } else { Err(BundleError::Password) }
}

fn mac(safes: &[u8], password: &[u8], salt: &[u8], iterations: u32) -> hmac::Tag {
    let key = hmac::Key::new(hmac::HMAC_SHA256, &mac_key(password, salt, iterations));
    hmac::sign(&key, safes)
}

/// RFC 7292 B.2 with SHA-256 and the purpose 3, "MAC": one hash is as long as the key.
fn mac_key(password: &[u8], salt: &[u8], iterations: u32) -> Vec<u8> {
    let fill = |text: &[u8]| -> Vec<u8> {
        let length = text.len().div_ceil(HASH_BLOCK) * HASH_BLOCK;
        text.iter().copied().cycle().take(length).collect()
    };
    let first = [vec![3; HASH_BLOCK], fill(salt), fill(password)].concat();
    let mut hash = digest::digest(&digest::SHA256, &first);
    for _ in 1..iterations {
        hash = digest::digest(&digest::SHA256, hash.as_ref());
    }
    hash.as_ref().to_vec()
}

/// Decrypts what an algorithm identifier of PBES2 describes (RFC 8018 A.4), with an empty
/// password.
fn decrypt(algorithm: &[u8], secret: &[u8], budget: &mut Rounds) -> Result<Vec<u8>, BundleError> {
    let mut algorithm = Reader(algorithm);
    if algorithm.expect(ber::OID)?.content != PBES2 {
        return Err(BundleError::Cipher);
    }
    let mut parameters = algorithm.enter(ber::SEQUENCE)?;
    let mut derivation = parameters.enter(ber::SEQUENCE)?;
    if derivation.expect(ber::OID)?.content != PBKDF2 {
        return Err(BundleError::Cipher);
    }
    let mut derivation = derivation.enter(ber::SEQUENCE)?;
    let salt = derivation.next()?.ok_or(Malformed)?.octets()?;
    let iterations = derivation.integer()?;
    let mut hash = pbkdf2::PBKDF2_HMAC_SHA1;
    while let Some(more) = derivation.next()? {
        if more.tag == ber::SEQUENCE {
            hash = match Reader(more.content).expect(ber::OID)?.content {
                HMAC_SHA1 => pbkdf2::PBKDF2_HMAC_SHA1,
                HMAC_SHA256 => pbkdf2::PBKDF2_HMAC_SHA256,
                _ => return Err(BundleError::Cipher),
            };
        }
    }
    let mut cipher = parameters.enter(ber::SEQUENCE)?;
    let name = cipher.expect(ber::OID)?.content;
    let vector = cipher.next()?.ok_or(Malformed)?.octets()?;
    let length = key_bytes(name).ok_or(BundleError::Cipher)?;
    let rounds = NonZeroU32::new(iterations).ok_or(Malformed)?;
    budget.spend(iterations)?;
    let mut key = vec![0; length];
    pbkdf2::derive(hash, rounds, &salt, &[], &mut key);
    let plain = match length {
        16 => unpad(cbc::Decryptor::<Aes128>::new_from_slices(&key, &vector), secret),
        24 => unpad(cbc::Decryptor::<Aes192>::new_from_slices(&key, &vector), secret),
        _ => unpad(cbc::Decryptor::<Aes256>::new_from_slices(&key, &vector), secret),
    };
    plain.ok_or(BundleError::Password)
}

fn unpad<C: BlockModeDecrypt, E>(cipher: Result<C, E>, secret: &[u8]) -> Option<Vec<u8>> {
    cipher.ok()?.decrypt_padded_vec::<Pkcs7>(secret).ok()
}

fn key_bytes(cipher: &[u8]) -> Option<usize> {
    match cipher {
        AES_128_CBC => Some(16),
        AES_192_CBC => Some(24),
        AES_256_CBC => Some(32),
        _ => None,
    }
}

/// The reverse of [`decrypt`]: the algorithm identifier, and the secret.
fn encrypt(plain: &[u8], cipher: &[u8]) -> Result<(Vec<u8>, Vec<u8>), BundleError> {
    let salt = random::<SALT_BYTES>()?;
    let vector = random::<16>()?;
    let mut key = vec![0; key_bytes(cipher).ok_or(BundleError::Cipher)?];
    let rounds = NonZeroU32::new(ITERATIONS).ok_or(BundleError::Cipher)?;
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, &salt, &[], &mut key);
    let secret = if cipher == AES_128_CBC {
        pad(cbc::Encryptor::<Aes128>::new_from_slices(&key, &vector), plain)
    } else {
        pad(cbc::Encryptor::<Aes256>::new_from_slices(&key, &vector), plain)
    };
    let null = element(ber::NULL, &[]);
    let hash = element(ber::SEQUENCE, &[&oid(HMAC_SHA256), &null]);
    // NSS wants to be told the length of the key.
    let length = u32::try_from(key.len()).map_err(|_| BundleError::Cipher)?;
    let derivation = element(
        ber::SEQUENCE,
        &[&element(ber::OCTETS, &[&salt]), &ber::integer(ITERATIONS), &ber::integer(length), &hash],
    );
    let derivation = element(ber::SEQUENCE, &[&oid(PBKDF2), &derivation]);
    let cipher = element(ber::SEQUENCE, &[&oid(cipher), &element(ber::OCTETS, &[&vector])]);
    let parameters = element(ber::SEQUENCE, &[&derivation, &cipher]);
    let algorithm = element(ber::SEQUENCE, &[&oid(PBES2), &parameters]);
    Ok((algorithm, secret.ok_or(BundleError::Cipher)?))
}

fn pad<C: BlockModeEncrypt, E>(cipher: Result<C, E>, plain: &[u8]) -> Option<Vec<u8>> {
    Some(cipher.ok()?.encrypt_padded_vec::<Pkcs7>(plain))
}

fn oid(content: &[u8]) -> Vec<u8> {
    element(ber::OID, &[content])
}

/// A content info.
fn explicit(kind: &[u8], content: &[u8]) -> Vec<u8> {
    element(ber::SEQUENCE, &[&oid(kind), &element(ber::CONTEXT_0, &[content])])
}

fn bag(kind: &[u8], value: &[u8], attributes: &[u8]) -> Vec<u8> {
    element(ber::SEQUENCE, &[&oid(kind), &element(ber::CONTEXT_0, &[value]), attributes])
}

fn certificate_bag(certificate: &CertificateDer<'_>, attributes: &[u8]) -> Vec<u8> {
    bag(CERTIFICATE_BAG, &explicit(X509, &element(ber::OCTETS, &[certificate])), attributes)
}

fn attributes(nickname: &str, id: Option<&[u8]>) -> Vec<u8> {
    let name: Vec<u8> = nickname.encode_utf16().flat_map(u16::to_be_bytes).collect();
    let attribute = |kind: &[u8], value: Vec<u8>| {
        element(ber::SEQUENCE, &[&oid(kind), &element(ber::SET, &[&value])])
    };
    let mut parts = attribute(FRIENDLY_NAME, element(ber::BMP_STRING, &[&name]));
    if let Some(id) = id {
        parts.extend(attribute(LOCAL_KEY_ID, element(ber::OCTETS, &[id])));
    }
    element(ber::SET, &[&parts])
}

fn random<const N: usize>() -> Result<[u8; N], BundleError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| BundleError::NoRandomness)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
