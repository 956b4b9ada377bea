//! The BMC's own HMAC and AES.

use aes::cipher::block_padding::NoPadding;
use aes::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use hmac::{Hmac, KeyInit, Mac};

#[derive(Clone, Copy)]
pub(super) enum Hash {
    Sha1,
    Sha256,
}

impl Hash {
    pub(super) fn hmac(self, key: &[u8], data: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha1 => {
                let mac = Hmac::<sha1::Sha1>::new_from_slice(key).unwrap();
                mac.chain_update(data).finalize().into_bytes().to_vec()
            }
            Self::Sha256 => {
                let mac = Hmac::<sha2::Sha256>::new_from_slice(key).unwrap();
                mac.chain_update(data).finalize().into_bytes().to_vec()
            }
        }
    }

    pub(super) fn code_len(self) -> usize {
        match self {
            Self::Sha1 => 12,
            Self::Sha256 => 16,
        }
    }
}

/// Unlike every other of the same BMC; that is enough for a test.
pub(super) fn random(a: u32, b: u32) -> [u8; 16] {
    let seed = [a.to_le_bytes(), b.to_le_bytes()].concat();
    Hash::Sha256.hmac(b"random", &seed)[..16].try_into().unwrap()
}

pub(super) fn encrypt(key: &[u8], vector: [u8; 16], message: &[u8]) -> Vec<u8> {
    let mut plain = message.to_vec();
    let pad = 15 - message.len() % 16;
    plain.extend((1_u8..).take(pad));
    plain.push(u8::try_from(pad).unwrap());
    let cipher = cbc::Encryptor::<aes::Aes128>::new_from_slices(key, &vector).unwrap();
    [&vector[..], &cipher.encrypt_padded_vec::<NoPadding>(&plain)].concat()
}

pub(super) fn decrypt(key: &[u8], body: &[u8]) -> Vec<u8> {
    let cipher = cbc::Decryptor::<aes::Aes128>::new_from_slices(key, &body[..16]).unwrap();
    cipher.decrypt_padded_vec::<NoPadding>(&body[16..]).unwrap()
}
