//! The same stories told to Debian's corosync-qnetd (package `corosync-qnetd`) and to our core:
//! what scripted clients report, and what vote each then has. A story with rows of
//! `docs/decisions.md` documents a correction, the stock daemon's answer beside ours; a story
//! without rows holds where the two agree.
//!
//! Layout: [`story`] plays the steps and compares, [`node`] is a client that behaves as the stock
//! qdevice on corosync does, [`stock`] and [`ours`] are the two sides behind one trait, [`say`] is
//! what can happen in a step. The other modules are the stories.
//!
//! How to read an answer: `1 ack; 2 nack, ack` means that node 1's vote became ACK in this step,
//! and node 2's first NACK, then ACK. A vote that does not change is not shown, whoever repeats
//! it; nor is the wait for a vote that a membership list begins, once the vote has come.

#![expect(clippy::unwrap_used, reason = "a test that cannot set up its case shall fail")]

mod ffsplit;
mod impersonation;
mod lms;
mod node;
mod ours;
mod say;
mod session;
mod stock;
mod story;
mod ties;
mod two_node_lms;
