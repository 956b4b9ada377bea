//! The node's daemon in the world: real sockets, certificates and files, several daemons on one
//! machine.
#![expect(clippy::unwrap_used, reason = "a step that fails ends its test")]

mod site;

mod cluster;
mod device;
mod fencing;
mod hostile;
mod refusals;
mod service;
