//! Passwords: read from a file or a systemd credential, wiped when dropped, never shown.

use std::fmt;
use std::path::{Path, PathBuf};

use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

/// Longer files are no passwords.
const SECRET_BYTES_MAX: usize = 4096;

/// A password. It has no `Display`, its `Debug` says nothing, and its memory is wiped.
#[derive(Clone, Eq, PartialEq)]
pub struct Secret(Zeroizing<Vec<u8>>);

/// Why a password could not be read.
#[derive(Debug, Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("cannot read the password file {}: {error}; is it there, and readable by this user?", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// Empty, or far too long.
    #[error("the password file {} has {bytes} bytes; it holds one line with the password", path.display())]
    Length {
        /// Which.
        path: PathBuf,
        /// How many.
        bytes: usize,
    },
    /// Others may read it.
    #[error("the password file {} may be read by everyone (mode {mode:o}): chmod 600", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
}

impl Secret {
    /// A password that is in memory already; the given bytes are taken over.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes. Whoever copies them wipes the copy.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Reads a password file: one line, without its line end. A relative path is looked for in
    /// `$CREDENTIALS_DIRECTORY` (systemd.exec(5) `LoadCredential=`) when `credentials` names it.
    ///
    /// # Errors
    /// If it cannot be read, is empty or too long, or may be read by everyone.
    pub fn read(path: &Path, credentials: Option<&Path>) -> Result<Self, SecretError> {
        use std::os::unix::fs::PermissionsExt;

        let path = match credentials {
            Some(directory) if path.is_relative() => directory.join(path),
            Some(_) | None => path.to_owned(),
        };
        let unreadable = |error| SecretError::Unreadable { path: path.clone(), error };
        let mode = std::fs::metadata(&path).map_err(unreadable)?.permissions().mode() & 0o777;
        if mode & 0o007 != 0 {
            return Err(SecretError::Open { path, mode });
        }
        let mut bytes = std::fs::read(&path).map_err(unreadable)?;
        while bytes.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
            bytes.pop();
        }
        if bytes.is_empty() || bytes.len() > SECRET_BYTES_MAX {
            let length = bytes.len();
            bytes.zeroize();
            return Err(SecretError::Length { path, bytes: length });
        }
        Ok(Self::new(bytes))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_shown() {
        let text = format!("{:?}", Secret::new(b"hunter2".to_vec()));
        assert_eq!(text, "Secret(…)");
    }
}
