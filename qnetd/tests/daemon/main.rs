//! The arbiter's daemon on loopback: a scripted client against ours, and the same script against
//! Debian's corosync-qnetd (package `corosync-qnetd`).

#![expect(clippy::unwrap_used, reason = "a test that cannot set up its case shall fail")]

mod arbiter;
mod client;
mod fencing;
mod hostile;
mod life;
mod local;
mod places;
mod restart;
mod script;
mod stall;
mod stock;
mod tls;
mod violations;
