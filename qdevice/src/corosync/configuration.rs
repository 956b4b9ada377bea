//! Follows corosync's configuration, on a thread of its own: while a membership change waits for
//! the device, cmap answers nobody.

use std::os::fd::AsFd;
use std::sync::Arc;

use host::corosync::{Cmap, Failure, Libraries, RELOADS};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use protocol::host::Welcome;

use super::mailbox::Post;
use super::settings::{self, Identity, Keys};

/// What is read.
const READ: [&std::ffi::CStr; 4] =
    [c"totem.", c"nodelist.", c"quorum.", c"runtime.votequorum.this_node_id"];
/// What is tracked.
const TRACKED: [&std::ffi::CStr; 4] = [c"totem.", c"nodelist.", c"quorum.", RELOADS];

/// A change is read when no other has followed for so long. corosync 3.1.7 keeps a key for ever that
/// a reload deletes while somebody's iteration stands on it, so nobody should be reading when one
/// reload follows another.
const QUIET_MS: u8 = 100;
/// Changes that never end are read all the same, after so many.
const CHANGES_MAX: usize = 50;

/// The configuration, or what is wrong with it.
pub(super) type Configuration = Result<Box<Welcome>, String>;

/// Posts the configuration, and again whenever it has changed, until nobody takes it; or says why
/// it cannot be read.
pub(super) fn follow(
    libraries: &Arc<Libraries>,
    identity: Identity,
    post: &Post<Configuration>,
) -> Result<(), Failure> {
    let cmap = Cmap::connect(libraries)?;
    for prefix in TRACKED {
        cmap.track(prefix)?;
    }
    let mut last = None;
    loop {
        // What is read while a reload goes on, or goes by, is of two configurations.
        let keys = if cmap.reloading()? { None } else { Some(read(&cmap)?) };
        let torn = keys.is_none() || cmap.reloading()? || cmap.changed()?;
        if let (Some(keys), false) = (keys, torn) {
            let configuration = settings::welcome(&keys, identity).map(Box::new);
            if last.as_ref() != Some(&configuration) {
                if !post.send(configuration.clone()) {
                    return Ok(());
                }
                last = Some(configuration);
            }
        }
        while !torn && !cmap.changed()? {
            if !wait(&cmap, post, PollTimeout::NONE) {
                return Ok(());
            }
        }
        for _ in 0..CHANGES_MAX {
            if !wait(&cmap, post, PollTimeout::from(QUIET_MS)) {
                return Ok(());
            }
            if !cmap.changed()? {
                break;
            }
        }
    }
}

fn read(cmap: &Cmap) -> Result<Keys, Failure> {
    let mut keys = Keys::new();
    for prefix in READ {
        keys.extend(cmap.read(prefix)?);
    }
    Ok(keys)
}

/// Waits for cmap, or that long; false once nobody takes what it says.
fn wait(cmap: &Cmap, post: &Post<Configuration>, long: PollTimeout) -> bool {
    let mut fds = [
        PollFd::new(cmap.as_fd(), PollFlags::POLLIN),
        PollFd::new(post.as_fd(), PollFlags::POLLIN),
    ];
    match poll(&mut fds, long) {
        Ok(_) => !fds[1].any().unwrap_or(true),
        Err(Errno::EINTR) => true,
        Err(_) => false,
    }
}
