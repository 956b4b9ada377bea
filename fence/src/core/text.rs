//! Words of others, before they get into the journal, the log or an answer: short, and without
//! anything that a terminal would obey.

use crate::device::DeviceError;

/// Longest reason, name or error text that is kept, in characters.
pub(super) const TEXT_CHARS_MAX: usize = 240;

/// The text with control and direction characters escaped, cut at [`TEXT_CHARS_MAX`].
pub(super) fn clean(text: &str) -> String {
    let mut clean = String::new();
    for (count, c) in text.trim().chars().enumerate() {
        if count >= TEXT_CHARS_MAX {
            clean.push('…');
            break;
        }
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() || turns {
            clean.extend(c.escape_default());
        } else {
            clean.push(c);
        }
    }
    clean
}

/// The same error with clean words: a device's answer is nobody's to trust.
pub(super) fn clean_error(error: DeviceError) -> DeviceError {
    match error {
        DeviceError::Silent(limit) => DeviceError::Silent(limit),
        DeviceError::Login(text) => DeviceError::Login(clean(&text)),
        DeviceError::Stranger(text) => DeviceError::Stranger(clean(&text)),
        DeviceError::Refused(text) => DeviceError::Refused(clean(&text)),
        DeviceError::Garbage(text) => DeviceError::Garbage(clean(&text)),
        DeviceError::Local(text) => DeviceError::Local(clean(&text)),
    }
}
