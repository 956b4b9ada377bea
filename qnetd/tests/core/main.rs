//! The arbiter's machine: facts in, duties out.

#![expect(clippy::unwrap_used, reason = "a test ends where it goes wrong")]

mod driver;
mod leases;
mod restart;
mod stock;
mod violations;
