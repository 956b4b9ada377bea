//! Shadow mode: beside a stock arbiter, and not in its place.
//!
//! `haguard qnetd --shadow HOST` sits between the clients and a stock arbiter, forwards every byte
//! of both, computes what our arbiter would have told the clients, and reports every difference
//! with its reason. `docs/shadow.md` is for who runs it.
//!
//! * [`core`]: the machine; frames in, differences out.
//! * [`daemon`]: between the sockets.

pub mod core;
pub mod daemon;

pub use daemon::{Plan, Summary, run};
