//! A node that is not scheduled sends no beats. Where the process is root it asks for real-time
//! priority and keeps its memory from being swapped out; where that is refused it runs as it is.

use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::unistd::geteuid;
use tracing::{info, warn};

use crate::keeper::ioctl::real_time;

/// Above every ordinary process, below the kernel's own threads and the keeper.
const PRIORITY: i32 = 10;

/// Locks the memory and raises the priority of the calling thread, for root only.
pub(crate) fn ask() {
    if !geteuid().is_root() {
        info!("not root: no real-time priority, memory not locked; a busy host may delay beats");
        return;
    }
    if let Err(error) = mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE) {
        warn!("memory cannot be locked: {error}; swapping may delay beats");
    }
    if let Err(error) = real_time(PRIORITY) {
        warn!("no real-time priority: {error}; a busy host may delay beats");
    }
}
