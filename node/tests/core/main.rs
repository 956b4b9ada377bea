//! The node's machine: facts in, duties out.

#![expect(clippy::unwrap_used, reason = "a test ends where it goes wrong")]

mod driver;
mod fencing;
mod memory;
mod quorum;
mod service;
mod testimony;
mod views;
