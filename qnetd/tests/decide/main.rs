//! The arbiter's decisions, exhaustively against a second statement of the stock rules.
//!
//! Layout: `worlds` makes every small cluster there can be; `stock` is the second statement, of
//! the stock daemon, with one switch for each row of `docs/decisions.md`; `check` compares the two
//! and asserts what must hold of every decision; `exhaustive` runs them all; `traces` are the
//! worked traces of the wire, and the hazards, as stories.

mod check;
mod exhaustive;
mod stock;
mod traces;
mod worlds;
