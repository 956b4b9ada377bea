//! The simulator: one cluster with its arbiter on a virtual clock, made of the daemons' own cores
//! and default times, with faults, and with the safety rules checked after every step.
//!
//! # Layout
//! * [`scenario`]: a cluster, faults and expectations, as data; `generate` makes them by chance.
//! * [`world`]: the queue, and the one meaning of every Action.
//! * `world/gateway`: the fence gateway's core, its session with the arbiter, its requesters and the
//!   nodes' power switches.
//! * `network`: links and streams between machines. `clock`: skewed clocks and chance.
//! * [`invariants`]: the rules, one function each.
//! * [`run`](mod@run): running one scenario or many. [`shrink`](mod@shrink): making a failing one
//!   small.
//! * [`sabotage`]: what is broken on purpose, to see that the rules bite.
//! * `model`: what has no core yet, or is not ours.
//! * [`trace`]: what happened. `chronicle`: the few lines of it that a person would tell.

mod chronicle;
mod clock;
pub mod explore;
mod generate;
pub mod invariants;
mod model;
mod network;
pub mod run;
pub mod sabotage;
pub mod scenario;
pub mod shrink;
pub mod trace;
pub mod world;

pub use run::{Options, Outcome, Report, explore, run, run_in_full, run_sabotaged};
pub use scenario::Scenario;
pub use shrink::shrink;
