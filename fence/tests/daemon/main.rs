//! The gateway's daemon on loopback, with an arbiter that is scripted. Its power switches are shell
//! scripts as fence agents, and Redfish BMCs.

#![expect(clippy::unwrap_used, reason = "a test that cannot set up its case shall fail")]

mod agents;
mod arbiter;
#[path = "../redfish/bmc.rs"]
#[expect(dead_code, unreachable_pub, reason = "the tests of the client use the rest")]
mod bmc;
mod client;
mod doors;
#[path = "../redfish/emulator.rs"]
#[expect(dead_code, unreachable_pub, reason = "the tests of the client use the rest")]
mod emulator;
mod jobs;
mod majority;
mod nameless;
mod redfish;
mod reload;
mod site;
mod survives;
