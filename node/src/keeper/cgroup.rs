//! A control group (version 2) for everything the keeper starts, where the host lets it make one.
//! While the keeper lives, the kernel's own word that it has no child is the proof of a full
//! stop; the group is for the keeper that comes after one that was killed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::process::ProcessId;

/// The name begins with this, so that nothing else is ever killed by the word of a mark.
const PREFIX: &str = "haguard-services-";

/// Makes the group under the keeper's own; none where the host has no control groups of version
/// 2 or does not let this user make one.
pub(super) fn create(token: &str) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let parent = under(&mounts, &own)?;
    sweep(&parent);
    let group = parent.join(format!("{PREFIX}{token}"));
    fs::create_dir(&group).ok()?;
    Some(group)
}

/// Removes the empty groups of keepers that were killed with nothing running.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let keeper = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        let keeper = keeper.and_then(|token| token.split_once('-')).and_then(|(pid, ticks)| {
            Some(ProcessId { pid: pid.parse().ok()?, start_ticks: ticks.parse().ok()? })
        });
        if keeper.is_some_and(|keeper| !keeper.lives()) {
            remove(&entry.path());
        }
    }
}

/// Where the process is, by its mounts and its `/proc/self/cgroup` (cgroups(7)).
fn under(mounts: &str, own: &str) -> Option<PathBuf> {
    let mut mounts = mounts.lines().map(|line| line.split(' '));
    let root = mounts.find_map(|mut fields| {
        let place = fields.nth(1)?;
        (fields.next() == Some("cgroup2")).then_some(place)
    })?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(Path::new(root).join(path))
}

/// Kills everything in the group and says whether something is left in it. A group that is gone
/// is empty: the kernel removes none that is not.
///
/// # Errors
/// A path that is none of ours, and those of the file system.
pub(super) fn kill(group: &Path) -> io::Result<bool> {
    let ours = group.file_name().and_then(|name| name.to_str());
    if !ours.is_some_and(|name| name.starts_with(PREFIX)) || !group.is_absolute() {
        return Err(io::Error::other("not a control group of a keeper"));
    }
    if !group.exists() {
        return Ok(false);
    }
    fs::write(group.join("cgroup.kill"), "1")?;
    let events = fs::read_to_string(group.join("cgroup.events"))?;
    Ok(events.lines().any(|line| line == "populated 1"))
}

/// Removes the group, if it is empty.
pub(super) fn remove(group: &Path) {
    // One that stays is empty and costs a directory entry.
    let _ = fs::remove_dir(group);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_is_found_in_unified_and_hybrid_hosts() {
        let hybrid = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
                      cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let own = "3:cpu:/x\n0::/system.slice/haguard.service\n";
        let found = under(hybrid, own).unwrap();
        assert_eq!(found, Path::new("/sys/fs/cgroup/unified/system.slice/haguard.service"));
        assert_eq!(under("cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n", own), None);
        assert_eq!(under(hybrid, "3:cpu:/x\n"), None);
    }

    #[test]
    fn nothing_but_a_group_of_a_keeper_is_killed() {
        assert!(kill(Path::new("/sys/fs/cgroup/system.slice")).is_err());
        assert!(kill(Path::new("haguard-services-1-2")).is_err());
        assert!(!kill(Path::new("/nonexistent/haguard-services-1-2")).unwrap());
    }
}
