//! The fencing gateway: makes sure that a node is off, and proves it (rule S7).
//!
//! # Layout
//! * [`core`]: the machine: requests, intents, levels, proofs, rehearsals. Pure.
//! * [`journal`]: every request, decision, attempt, answer and proof, with a hash chain.
//! * [`device`]: one power switch, whatever its kind: status, off, on.
//! * [`ipmi`], [`redfish`], [`agent`]: the kinds.
//! * [`secret`]: passwords from files and credentials, never shown.
//! * [`config`]: the gateway's TOML.
//! * [`daemon`]: HTTPS for requesters, the session with the arbiter, the devices' work.

pub mod agent;
pub mod config;
pub mod core;
pub mod daemon;
pub mod device;
pub mod ipmi;
pub mod journal;
pub mod redfish;
pub mod secret;
mod text;
