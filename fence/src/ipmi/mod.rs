//! BMCs: power over IPMI 2.0 (RMCP+).
//!
//! Each command runs in a session of its own, so that what is read is read fresh. The BMC proves in
//! the handshake that it knows the password (RAKP 2) and the key (RAKP 4), and every answer carries
//! a code; nothing weaker than cipher suite 3 is spoken.
//!
//! # Layout
//! * [`wire`]: bytes. Pure.
//! * [`crypto`]: keys and codes. Pure.
//! * [`login`], [`command`], [`quirks`]: who, what, and with which oddities. Pure.
//! * [`session`]: one session as a machine. Pure.
//! * [`client`]: [`Bmc`], which runs sessions over UDP.

pub mod client;
pub mod command;
pub mod crypto;
pub mod login;
pub mod quirks;
pub mod session;
pub mod wire;

pub use client::{Address, Bmc, Outcome};
pub use crypto::Suite;
pub use login::{Guid, Login, Privilege};
pub use quirks::Quirks;
