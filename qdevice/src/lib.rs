//! The quorum device: carries a node's view to the arbiter and the arbiter's vote to the node.
//!
//! # Layout
//! * [`core`]: the machine; facts in, duties out, no I/O and no clock.
//! * [`config`]: flags and settings, those of corosync-qdevice and ours.
//! * [`corosync`]: corosync as the host, in place of our node.
//! * [`run`]: the machine in the world: the node's socket, the arbiter's connection, signals.
//! * [`resolve`]: from the arbiter's name to a connection.
//! * [`heuristics`]: runs the commands that may speak against a node.
//! * [`tool`]: corosync-qdevice-tool, and the text that it shows.
pub mod config;
pub mod core;
pub mod corosync;
mod daemon;
pub mod heuristics;
pub mod resolve;
pub mod tool;

pub use daemon::{Refusal, prepare, run, run_blocking};
