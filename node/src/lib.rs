//! The node stack: membership, quorum, and the service that needs it.
//!
//! # Layout
//! * [`conf`]: the cluster's configuration, in corosync.conf syntax.
//! * [`core`]: the machine that decides; no I/O, no clock.
//! * [`keeper`]: the process that holds the watchdog and outlives the daemon.
//! * [`options`]: what the daemon is told beside the configuration.
//! * [`network`]: the links between nodes. [`store`]: what survives a restart.
//! * [`daemon`]: turns the world into the core's events and its actions into the world.
//! * [`guard`]: in the place of all that but the keeper, where corosync is the engine.

pub mod conf;
pub mod core;
pub mod daemon;
pub mod guard;
pub mod keeper;
pub mod network;
pub mod options;
pub mod store;
