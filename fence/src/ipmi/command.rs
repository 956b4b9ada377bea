//! The commands that are spoken here, and their answers (IPMI 2.0 sections 20, 22, 27 and 28).

use std::time::Duration;

use super::login::Privilege;
use super::session::{Answer, Ask};
use crate::device::Power;

/// Chassis.
const CHASSIS: u8 = 0x00;
/// Application.
const APP: u8 = 0x06;

/// The command is not there, not for this machine, or not with these parameters.
const CODES_UNSUPPORTED: [u8; 3] = [0xc1, 0xc2, 0xcc];

/// What is done to the power (28.3).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Control {
    /// Takes it away at once.
    Off,
    /// Gives it.
    On,
    /// Off, a second or more, on.
    Cycle,
    /// A hard reset without a pause.
    Reset,
}

impl Control {
    const fn number(self) -> u8 {
        match self {
            Self::Off => 0,
            Self::On => 1,
            Self::Cycle => 2,
            Self::Reset => 3,
        }
    }

    /// Doing it twice is doing it once.
    const fn is_repeatable(self) -> bool {
        match self {
            Self::Off | Self::On => true,
            Self::Cycle | Self::Reset => false,
        }
    }

    /// Chassis Control.
    pub fn ask(self) -> Ask {
        let (data, repeat) = (vec![self.number()], self.is_repeatable());
        Ask { function: CHASSIS, command: 0x02, data, repeat }
    }
}

fn ask(function: u8, command: u8, data: &[u8]) -> Ask {
    Ask { function, command, data: data.to_vec(), repeat: true }
}

/// Get Chassis Status (28.2).
pub fn chassis_status() -> Ask {
    ask(CHASSIS, 0x01, &[])
}

/// Set Session Privilege Level (22.18).
pub fn raise(privilege: Privilege) -> Ask {
    ask(APP, 0x3b, &[privilege.number()])
}

/// Get Device ID (20.1).
pub fn device_id() -> Ask {
    ask(APP, 0x01, &[])
}

/// Reset Watchdog Timer (27.5): starts it, or starts it anew.
pub fn reset_watchdog() -> Ask {
    ask(APP, 0x22, &[])
}

/// Set Watchdog Timer (27.6), which stops it.
pub fn set_watchdog(timer: &Timer) -> Ask {
    let [low, high] = timer.countdown.to_le_bytes();
    // The flag of this use is cleared; nothing is counted as logged elsewhere.
    let clear = 1_u8 << (timer.purpose & 0x07);
    let data = [timer.purpose, timer.action.number(), timer.pretimeout, clear, low, high];
    ask(APP, 0x24, &data)
}

/// Get Watchdog Timer (27.7).
pub fn get_watchdog() -> Ask {
    ask(APP, 0x25, &[])
}

/// Why an answer is no success.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unsuccessful {
    /// The completion code is not 0.
    #[error("completion code {0:#04x}: {text}", text = code_text(*.0))]
    Code(u8),
    /// A success without what belongs to it.
    #[error("the answer has {0} bytes, which is too few")]
    Short(usize),
}

fn code_text(code: u8) -> &'static str {
    match code {
        0x80 => "not set up yet",
        0x81 => "the user has not that much privilege",
        0xc0 => "the BMC is busy",
        0xc3 => "the BMC took too long itself; whether it was done is unknown",
        0xc5 | 0xca | 0xc9 | 0xc7 | 0xc8 => "the BMC finds fault with the request",
        0xd4 => "the user's privilege is too low, or the BMC's firmware firewall forbids it",
        0xd5 => "not possible in the present state",
        0xff => "the BMC says no more than that it failed",
        code if CODES_UNSUPPORTED.contains(&code) => "the BMC does not support this",
        _ => "a code of its maker's own",
    }
}

impl Answer {
    /// What follows a completion code of 0, at least `least` bytes.
    ///
    /// # Errors
    /// Any other code, or fewer bytes.
    pub fn success(&self, least: usize) -> Result<&[u8], Unsuccessful> {
        match self.code {
            0 if self.data.len() >= least => Ok(&self.data),
            0 => Err(Unsuccessful::Short(self.data.len())),
            code => Err(Unsuccessful::Code(code)),
        }
    }
}

/// What Get Chassis Status says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Chassis {
    /// On or off, as the BMC reads it.
    pub power: Power,
    /// Power was taken away because of an overload.
    pub overload: bool,
    /// A main power fault.
    pub fault: bool,
    /// Power control does not work.
    pub control_fault: bool,
}

impl Chassis {
    /// Reads the answer; makers leave out the third and fourth byte.
    ///
    /// # Errors
    /// [`Unsuccessful`].
    pub fn decode(answer: &Answer) -> Result<Self, Unsuccessful> {
        let state = answer.success(1)?[0];
        Ok(Self {
            power: if state & 0x01 == 0 { Power::Off } else { Power::On },
            overload: state & 0x02 != 0,
            fault: state & 0x08 != 0,
            control_fault: state & 0x10 != 0,
        })
    }
}

/// What Get Device ID says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DeviceId {
    /// The device's number.
    pub device: u8,
    /// Major (7 bits) and minor (two decimal digits) of its firmware.
    pub firmware: (u8, u8),
    /// The maker, by its number at IANA.
    pub maker: u32,
    /// The maker's number for the product.
    pub product: u16,
    /// The maker's own four bytes, where they are sent.
    pub auxiliary: Option<[u8; 4]>,
}

impl DeviceId {
    /// Reads the answer: eleven bytes, or fifteen.
    ///
    /// # Errors
    /// [`Unsuccessful`].
    pub fn decode(answer: &Answer) -> Result<Self, Unsuccessful> {
        let data = answer.success(11)?;
        let minor = (data[3] >> 4).wrapping_mul(10).wrapping_add(data[3] & 0x0f);
        Ok(Self {
            device: data[0],
            firmware: (data[2] & 0x7f, minor),
            maker: u32::from_le_bytes([data[6], data[7], data[8] & 0x0f, 0]),
            product: u16::from_le_bytes([data[9], data[10]]),
            auxiliary: data.get(11..15).and_then(|bytes| bytes.try_into().ok()),
        })
    }
}

/// What a BMC's watchdog does when its time is up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TimerAction {
    /// Nothing but an entry in its log.
    None,
    /// A hard reset.
    Reset,
    /// Power off.
    Off,
    /// Off and on again.
    Cycle,
}

impl TimerAction {
    const fn number(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Reset => 1,
            Self::Off => 2,
            Self::Cycle => 3,
        }
    }

    const fn from_number(number: u8) -> Option<Self> {
        match number & 0x07 {
            0 => Some(Self::None),
            1 => Some(Self::Reset),
            2 => Some(Self::Off),
            3 => Some(Self::Cycle),
            _ => None,
        }
    }
}

/// How a BMC's watchdog is set.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Timer {
    /// Who uses it: 1 to 5, 4 is the running system (27.6). Bit 7: expiries are not logged.
    pub purpose: u8,
    /// What it does in the end.
    pub action: TimerAction,
    /// An interrupt comes this many seconds before.
    pub pretimeout: u8,
    /// From its start to the action, in tenths of a second.
    pub countdown: u16,
}

impl Timer {
    /// The running system's watchdog; `after` is cut to tenths of a second.
    ///
    /// # Errors
    /// If it cannot be counted: the most is 6553.5 s, the least a tenth.
    pub fn system(action: TimerAction, after: Duration) -> Result<Self, String> {
        let tenths = u16::try_from(after.as_millis() / 100).unwrap_or(0);
        match tenths {
            0 => Err(format!("a BMC's watchdog counts 0.1 to 6553.5 s, not {after:?}")),
            countdown => Ok(Self { purpose: 4, action, pretimeout: 0, countdown }),
        }
    }
}

/// What Get Watchdog Timer says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Watchdog {
    /// It counts.
    pub running: bool,
    /// Who uses it: 1 to 5.
    pub purpose: u8,
    /// What it does; `None` is a number without a meaning.
    pub action: Option<TimerAction>,
    /// An interrupt comes this many seconds before.
    pub pretimeout: u8,
    /// Which uses have run out: bit n is purpose n.
    pub expired: u8,
    /// In tenths of a second, from each start.
    pub initial: u16,
    /// In tenths of a second, left; `None` where the BMC leaves it out.
    pub left: Option<u16>,
}

impl Watchdog {
    /// Reads the answer: six to eight bytes, or more.
    ///
    /// # Errors
    /// [`Unsuccessful`].
    pub fn decode(answer: &Answer) -> Result<Self, Unsuccessful> {
        let data = answer.success(6)?;
        let left = data.get(6..8).map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]));
        Ok(Self {
            running: data[0] & 0x40 != 0,
            purpose: data[0] & 0x07,
            action: TimerAction::from_number(data[1]),
            pretimeout: data[2],
            expired: data[3],
            initial: u16::from_le_bytes([data[4], data[5]]),
            left,
        })
    }
}
