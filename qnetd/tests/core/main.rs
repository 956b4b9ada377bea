//! The arbiter's machine: facts in, duties out.

#![expect(clippy::unwrap_used, reason = "a test ends where it goes wrong")]

mod driver;
mod fencing;
mod fencing_calls;
mod fencing_ends;
mod hold;
mod hold_faults;
mod hold_sequences;
mod hold_walk;
mod leases;
mod limits;
mod restart;
mod stability;
mod stock;
mod stock_client;
mod unaware;
mod violations;
