//! The machine under a daemon: its clocks, its files, its locks, its local sockets. Everything
//! here is I/O that all daemons need in the same way, and nothing decides anything.
//!
//! # Layout
//! * [`clock`]: one reading of the two clocks, and the sum of their steps.
//! * [`file`]: replace a file so that a crash leaves the old or the new one; small random numbers.
//! * [`lock`]: one daemon a place.
//! * [`socket`]: a local socket that outlives a crash, and lines of bounded length.

pub mod clock;
pub mod file;
pub mod lock;
pub mod socket;
