//! The guard on corosync: its rules, its keeper's, and both with the real corosync (Debian package
//! corosync) and a watchdog device that a preloaded library is.
#![expect(clippy::unwrap_used, reason = "a step that fails ends its test")]

mod device;
mod keeper;
mod lab;
mod machine;
mod process;
mod timing;
