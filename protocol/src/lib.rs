//! The words every part of haguard shares: ids, time, votes, and the three conversations between
//! machines. No I/O, no clock, no randomness.
//!
//! # Layout
//! * [`ids`]: newtypes for everything that names something.
//! * [`time`]: [`time::Time`], microseconds of a clock that the caller owns.
//! * [`times`]: every default time of the product and the relations between them.
//! * [`vote`]: votes, algorithms, tie-breakers, heuristics, watchdog classes.
//! * [`qnet`]: the corosync-qnetd wire protocol, with our private lease options.
//! * [`cluster`]: the beat, the one datagram that nodes exchange.
//! * [`fence`]: what gateways, arbiters, nodes and operators say to each other.
//! * [`host`]: what a node and its quorum device say to each other on the local socket.
//! * [`status`]: the snapshots behind `haguard status`.

pub mod ids;
pub mod qnet;
pub mod rng;

pub mod cluster;
pub mod fence;
pub mod host;
pub mod status;
pub mod time;
pub mod times;
pub mod vote;
