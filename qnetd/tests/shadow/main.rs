//! Shadow mode: the machine on scripts, and the daemon between scripted clients and Debian's
//! corosync-qnetd (package `corosync-qnetd`).
//!
//! Layout: [`traces`] feeds the machine by hand ([`stage`]), [`rule`] compares the stock rule in it
//! with our decisions, [`process`] and [`tls`] run the daemon ([`through`]). The clients and the
//! stock daemon are those of the daemon's tests.

#![expect(clippy::unwrap_used, reason = "a test that cannot set up its case shall fail")]

#[path = "../daemon/client.rs"]
#[expect(dead_code, reason = "not everything of it is needed here")]
mod client;
#[path = "../daemon/places.rs"]
#[expect(dead_code, reason = "not everything of it is needed here")]
mod places;
mod process;
mod rule;
#[path = "../daemon/script.rs"]
#[expect(dead_code, reason = "not everything of it is needed here")]
mod script;
mod stage;
#[path = "../daemon/stock.rs"]
#[expect(dead_code, reason = "not everything of it is needed here")]
mod stock;
mod stories;
mod through;
mod tls;
mod traces;
#[path = "../decide/worlds.rs"]
#[expect(dead_code, reason = "the larger sweeps are for the tests of the decisions")]
mod worlds;
