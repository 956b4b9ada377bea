//! The few lines of a run that a person would tell: who was quorate when, what was granted and
//! taken, where the service ran. They are kept beside the scenarios and compared.

use std::fmt::{Arguments, Display, Write};

use protocol::time::Time;

/// More lines than this are no story.
const LIMIT: usize = 400;

/// What has happened, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chronicle {
    on: bool,
    text: String,
    lines: usize,
}

impl Chronicle {
    /// One that is written only if `on`.
    pub(crate) fn new(on: bool) -> Self {
        Self { on, ..Self::default() }
    }

    /// Somebody reads it.
    pub(crate) fn is_on(&self) -> bool {
        self.on
    }

    /// Adds a line. Times are in hundredths of a second.
    pub(crate) fn note(&mut self, at: Time, who: impl Display, what: Arguments<'_>) {
        if !self.on || self.lines > LIMIT {
            return;
        }
        self.lines += 1;
        if self.lines > LIMIT {
            self.text.push_str("and so on\n");
            return;
        }
        let hundredths = at.0 / 10_000;
        // Writing to a string cannot fail.
        let _ =
            writeln!(self.text, "{:>3}.{:02} {who:<8} {what}", hundredths / 100, hundredths % 100);
    }

    /// All of it.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}
