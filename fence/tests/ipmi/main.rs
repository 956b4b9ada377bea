//! The IPMI client against BMCs that others wrote (OpenIPMI's ipmi_sim), against our own BMC, which
//! ipmitool and FreeIPMI have accepted, and against that one with everything that can be wrong.
//!
//! Each BMC of others has an address of its own in 127.77.0.0/16; ours have ports of their own.

#![expect(clippy::unwrap_used, reason = "a test ends where it goes wrong")]

mod bad_input;
mod bmc;
mod commands;
mod common;
mod peer;
mod proof;
mod quirks;
mod sessions;
mod sim;
