//! What is fuzzed: one function a target, which takes any bytes and panics where it finds a fault.
//!
//! They are ordinary functions for two callers: the fuzzer, which looks for inputs and is built
//! apart (`fuzz/engine`), and `tests/replay.rs`, which gives them the inputs that were found.
//!
//! # Layout
//! * [`codec`]: bytes of other machines: frames, messages, beats.
//! * [`arbiter`], [`device`], [`node`]: the machines, with hostile peers, disks and clocks.
//! * [`files`], [`journal`]: configuration, settings and state.
//! * [`lines`]: local sockets.
//! * [`certificates`]: certificates, keys, requests, bundles and the beginning of TLS.
//! * [`ipmi`]: what BMCs send.
//! * [`tape`], `words`: from a fuzzer's bytes to things that happen.
//! * [`corpus`]: many inputs in one file.

pub mod arbiter;
pub mod certificates;
pub mod codec;
pub mod corpus;
pub mod device;
pub mod files;
pub mod ipmi;
pub mod journal;
pub mod lines;
pub mod node;
pub mod tape;
mod words;

/// Takes any bytes; a panic is a find.
pub type Target = fn(&[u8]);

/// Every target by the name of its corpus, its program and its regressions.
pub const TARGETS: [(&str, Target); 16] = [
    ("framing", codec::framing),
    ("message", codec::message),
    ("beat", codec::beat),
    ("arbiter", arbiter::arbiter),
    ("device", device::device),
    ("node", node::node),
    ("conf", files::conf),
    ("settings", files::settings),
    ("state", files::state),
    ("journal", journal::journal),
    ("lines", lines::lines),
    ("bundle", certificates::bundle),
    ("certificate", certificates::certificate),
    ("handshake", certificates::handshake),
    ("ipmi", ipmi::ipmi),
    ("bmc", ipmi::bmc),
];
