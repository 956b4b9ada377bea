//! What people see: lines on standard output, colour only where a terminal shows it.

use std::io::{self, IsTerminal, Write};

/// Prints a line. Who has closed the pipe does not want to read it.
pub fn say(text: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Prints a line to standard error.
pub fn complain(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// A colour, by what it means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Colour {
    /// In order.
    Good,
    /// Not in order.
    Bad,
    /// Waits for something.
    Waiting,
    /// Stands out.
    Title,
    /// Of less interest.
    Faint,
}

/// Paints, or does not.
#[derive(Clone, Copy, Debug)]
pub struct Brush {
    colourful: bool,
}

impl Brush {
    /// For standard output: colour only on a terminal, and never with NO_COLOR set
    /// (<https://no-color.org>).
    pub fn for_stdout() -> Self {
        Self { colourful: wants_colour(io::stdout().is_terminal()) }
    }

    /// The text in a colour.
    pub fn paint(self, colour: Colour, text: &str) -> String {
        let code = match colour {
            Colour::Good => 32,
            Colour::Bad => 31,
            Colour::Waiting => 33,
            Colour::Title => 1,
            Colour::Faint => 2,
        };
        if self.colourful { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// True if output that goes to a terminal, or does not, should be coloured.
pub fn wants_colour(is_terminal: bool) -> bool {
    is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
