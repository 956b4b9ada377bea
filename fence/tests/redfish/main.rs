//! The Redfish client against a BMC that lies, against certificates of every kind, and against
//! sushy-tools, whose machine is a real process.

#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    reason = "modules of a test share their parts, and a test fails by panicking"
)]

mod bmc;
mod certificates;
mod emulator;
mod lies;
mod power;
mod sessions;
mod sushy;
