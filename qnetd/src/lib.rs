//! The arbiter: gives its vote to exactly one side of a split cluster, and never to two.
//!
//! # Layout
//! * [`core`]: the machine; facts in, duties out, no I/O and no clock.
//!   * [`core::decide`]: which partition gets the vote, as pure functions of a view.
//! * [`daemon`]: the machine in the world: sockets, TLS, signals.
//! * [`journal`]: what outlives a restart.
//! * [`config`]: corosync-qnetd's flags, our long flags, a TOML file.
//! * [`tool`]: `corosync-qnetd-tool`, and the text that it shows.
//! * [`program`]: `haguard qnetd` and `corosync-qnetd`, from arguments to exit code.
//! * [`shadow`]: beside a stock arbiter, to see where it would decide otherwise.

pub mod config;
pub mod core;
pub mod daemon;
pub mod journal;
pub mod program;
pub mod shadow;
pub mod tool;

pub use daemon::run;
pub use program::main_qnetd;
pub use tool::main_qnetd_tool;
