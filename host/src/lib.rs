//! The machine under a daemon: its clocks, its files, its locks, its local sockets, its settings.
//! Everything here is something that daemons need in the same way, and nothing decides anything.
//!
//! # Layout
//! * [`clock`]: one reading of the two clocks, and the sum of their steps.
//! * [`corosync`]: its libraries, opened at run time; the only unsafe code here.
//! * [`dial`]: from the addresses of a name to a connection.
//! * [`file`]: replace a file so that a crash leaves the old or the new one; small random numbers.
//! * [`https`]: a client for fencing gateways and Redfish.
//! * [`local`]: the local socket of a daemon that takes a stock daemon's place.
//! * [`lock`]: one daemon a place.
//! * [`settings`]: flags and settings of such a daemon, and its file.
//! * [`signals`]: stop, and read again.
//! * [`socket`]: a local socket that outlives a crash, and lines of bounded length.
//! * [`systemd`]: a word to the service manager.

pub mod clock;
pub mod corosync;
pub mod dial;
pub mod file;
pub mod https;
pub mod local;
pub mod lock;
pub mod settings;
pub mod signals;
pub mod socket;
pub mod systemd;
