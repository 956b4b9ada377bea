//! The gateway's machine: facts in, duties out, on a clock of its own.

mod bench;

mod arbiter;
mod clock;
mod confirm;
mod duel;
mod levels;
mod majority;
mod readiness;
mod requests;
mod restart;
mod swarm;
mod watchdog;
