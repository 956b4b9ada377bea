//! One power switch, whatever its kind.
//!
//! A device does one thing at a time and says what it saw. It decides nothing: whether what it saw
//! is proof is the core's to say ([`crate::core`]).

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a power switch reads.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Power {
    /// The machine has power.
    On,
    /// It has none.
    Off,
}

impl fmt::Display for Power {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::On => "on",
            Self::Off => "off",
        })
    }
}

/// One thing to do.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Command {
    /// Log in and read the power state, in a session of its own.
    Status,
    /// Take the power away. Success says that the command was accepted, and nothing more.
    Off,
    /// Give power.
    On,
}

/// What came of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Seen {
    /// [`Command::Status`] read this.
    Power(Power),
    /// [`Command::Off`] or [`Command::On`] was accepted.
    Accepted,
}

/// Why it did not work.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, thiserror::Error)]
pub enum DeviceError {
    /// Nothing answered in time.
    #[error("no answer within {0:?}: is the address right, and the network to it up?")]
    Silent(Duration),
    /// The login was refused, or the other side could not prove who it is.
    #[error("login refused: {0}")]
    Login(String),
    /// Another machine's switch answers at the address.
    #[error("another device answers at this address: {0}")]
    Stranger(String),
    /// It answered and refused.
    #[error("the device refuses: {0}")]
    Refused(String),
    /// It answered something that makes no sense.
    #[error("the device's answer makes no sense: {0}")]
    Garbage(String),
    /// It cannot be tried at all: a program or a file is missing.
    #[error("{0}")]
    Local(String),
}

impl DeviceError {
    /// Trying the same again soon may work.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Silent(_) | Self::Garbage(_) | Self::Refused(_) => true,
            Self::Login(_) | Self::Stranger(_) | Self::Local(_) => false,
        }
    }
}
