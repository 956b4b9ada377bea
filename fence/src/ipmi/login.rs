//! Whom to log in as, and whom to expect.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::crypto::Suite;
use super::quirks::Quirks;
use crate::secret::Secret;

/// A user's name has at most this many bytes (IPMI 2.0 section 22.28).
pub const USER_MAX: usize = 16;
/// A password, and Kg, have at most this many (22.30).
pub const PASSWORD_MAX: usize = 20;

/// What a session may do; it is asked for by its name, and never "the highest".
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Privilege {
    /// Reads the power state.
    User,
    /// Switches power.
    Operator,
    /// Does everything.
    #[default]
    Administrator,
}

impl Privilege {
    /// As it is sent (table 13-15).
    pub const fn number(self) -> u8 {
        match self {
            Self::User => 2,
            Self::Operator => 3,
            Self::Administrator => 4,
        }
    }
}

impl fmt::Display for Privilege {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::User => "user",
            Self::Operator => "operator",
            Self::Administrator => "administrator",
        })
    }
}

/// A BMC's GUID, in the order of its bytes in RAKP 2.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Guid(pub [u8; 16]);

impl Guid {
    /// All bytes alike: a BMC that was never given one.
    pub fn is_blank(self) -> bool {
        self.0.iter().all(|byte| *byte == self.0[0])
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Guid {
    type Err = String;

    /// Thirty-two hexadecimal digits; dashes are ignored.
    fn from_str(text: &str) -> Result<Self, String> {
        let digits: Option<Vec<u8>> =
            text.chars().filter(|c| *c != '-').map(|c| c.to_digit(16)?.try_into().ok()).collect();
        let wrong = || format!("{} is no GUID: it has 32 hexadecimal digits", text.escape_debug());
        let digits = digits.filter(|digits| digits.len() == 32).ok_or_else(wrong)?;
        let mut guid = [0; 16];
        for (byte, pair) in guid.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = pair[0] << 4 | pair[1];
        }
        Ok(Self(guid))
    }
}

impl TryFrom<String> for Guid {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Guid> for String {
    fn from(guid: Guid) -> Self {
        guid.to_string()
    }
}

/// What a session needs to know.
#[derive(Clone, Debug)]
pub struct Login {
    /// At most [`USER_MAX`] bytes; empty is the anonymous user.
    pub user: String,
    /// At most [`PASSWORD_MAX`] bytes.
    pub password: Secret,
    /// The BMC's own key, where one is set; at most [`PASSWORD_MAX`] bytes.
    pub kg: Option<Secret>,
    /// Asked for at login, and raised to before a command that needs it.
    pub privilege: Privilege,
    /// Tried in this order; no other is ever used.
    pub suites: Vec<Suite>,
    /// What is odd about the BMC.
    pub quirks: Quirks,
    /// Any other GUID is a stranger's.
    pub expect: Option<Guid>,
}

impl Login {
    /// Looks at the lengths.
    ///
    /// # Errors
    /// What is wrong, in one line.
    pub fn check(&self) -> Result<(), String> {
        let too_long = |what: &str, bytes: usize, most: usize| {
            (bytes > most).then(|| format!("the {what} has {bytes} bytes; IPMI takes {most}"))
        };
        let kg = self.kg.as_ref().map_or(0, |kg| kg.expose().len());
        let wrong = too_long("user's name", self.user.len(), USER_MAX)
            .or_else(|| too_long("password", self.password.expose().len(), PASSWORD_MAX))
            .or_else(|| too_long("Kg key", kg, PASSWORD_MAX));
        if let Some(wrong) = wrong {
            return Err(wrong);
        }
        match self.suites.is_empty() {
            true => Err("no cipher suite is allowed: name 17, 3 or both".to_owned()),
            false => Ok(()),
        }
    }
}
