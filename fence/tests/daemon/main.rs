//! The gateway's daemon on loopback, with an arbiter that is scripted and shell scripts as fence
//! agents.

#![expect(clippy::unwrap_used, reason = "a test that cannot set up its case shall fail")]

mod arbiter;
mod client;
mod doors;
mod jobs;
mod reload;
mod site;
mod survives;
