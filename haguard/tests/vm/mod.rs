//! A cluster of two virtual machines and an arbiter on the host. Each machine runs Debian's own
//! kernel under software emulation (no hardware support is needed, and none is used), with the
//! haguard of this build, a watchdog that really resets it, and a disk that survives its resets.
//!
//! ```text
//! machine 1 ── eth0, frames in UDP on the host's loopback network ── machine 2
//!     └─ eth1, QEMU's user network ── haguard qnetd on the host ── eth1 ─┘
//! ```
//!
//! The guarded service says ten times a second who runs it. Its lines come over a virtio port and
//! not over a network, so that two runners would be seen whatever is cut; they get the host's time
//! when they arrive. The emulator's events carry the same clock.
//!
//! * `kernel`, `image`: what a machine boots. * `machine`, `qmp`, `bmc`: one that runs.
//! * `gateway`: who asks that controller. * `story`: what was seen, in order. * `lab`: the cluster. * `cases`: what happens to it.

pub(crate) mod bmc;
pub(crate) mod cases;
pub(crate) mod gateway;
pub(crate) mod image;
pub(crate) mod kernel;
pub(crate) mod lab;
pub(crate) mod machine;
pub(crate) mod qmp;
pub(crate) mod story;

use std::process::{Command, Stdio};

/// Runs a command to its end and returns what it says.
pub(crate) fn must(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}: {}{}", output.status, text(&output.stderr));
    text(&output.stdout)
}

/// True if a program is in PATH.
pub(crate) fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}
