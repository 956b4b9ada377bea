//! Fence agents: scripts that behave in every way, and real ones.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "modules of a test share their parts, and a test fails by panicking"
)]

mod lab;
mod peers;
mod scripts;
#[path = "../ipmi/sim.rs"]
mod sim;

/// What the simulated BMC needs of the test around it.
mod common {
    pub(crate) use super::lab::{Scratch, eventually};
}
