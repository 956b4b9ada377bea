//! The command `haguard`, as a library for its own tests: `main.rs` only reads the command line.
//!
//! # Layout
//! * [`command`]: one file a verb.
//! * [`logging`]: the daemons' log.
//! * [`screen`]: what people see.

pub mod command;
pub mod logging;
pub mod screen;
