//! What runs on this machine without having been started by us: corosync and what manages
//! resources on it. Only whether they have ended matters here.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::keeper::process::ProcessId;

/// Where corosync writes its process id (corosync(8)), and what it removes as the last thing
/// before it ends in order.
pub(super) const PID_FILE: &str = "/run/corosync.pid";

/// Programs that run services by corosync's quorum, as the kernel names them (proc(5) comm: 15
/// bytes).
const MANAGERS: [&str; 9] = [
    "pacemakerd",
    "pacemaker-based",
    "pacemaker-contr",
    "pacemaker-execd",
    "pacemaker-fence",
    "pacemaker_remot",
    "pve-ha-crm",
    "pve-ha-lrm",
    "dlm_controld",
];

/// A running corosync.
#[derive(Debug)]
pub(super) struct Corosync {
    /// Held open, so that its removal shows even after another one has taken its name.
    pid_file: File,
    process: ProcessId,
}

impl Corosync {
    /// The one that runs now; none if its file cannot be read: its end then proves nothing.
    pub(super) fn find(pid_file: &Path) -> Option<Self> {
        let file = File::open(pid_file).ok()?;
        let pid = fs::read_to_string(pid_file).ok()?.trim().parse().ok()?;
        Some(Self { pid_file: file, process: ProcessId::of(pid)? })
    }

    /// Its process is over, and it has removed its file itself. One that was killed leaves the
    /// file behind, whoever writes into it later.
    pub(super) fn ended_in_order(&self) -> bool {
        let removed = self.pid_file.metadata().is_ok_and(|file| file.nlink() == 0);
        removed && !self.process.lives()
    }
}

/// What manages resources here now; containers with a network of their own have their own
/// clusters.
pub(super) fn managers() -> Vec<String> {
    let Ok(own) = network(Path::new("/proc/self")) else { return vec!["unknown".to_owned()] };
    let Ok(entries) = fs::read_dir("/proc") else { return vec!["unknown".to_owned()] };
    let found = entries.flatten().filter_map(|entry| {
        let place = entry.path();
        let name = fs::read_to_string(place.join("comm")).ok()?;
        let name = name.trim_end();
        // One that is ending shows no network; it counts until it is gone.
        let ours = network(&place).is_ok_and(|network| network == own);
        (ours && MANAGERS.contains(&name)).then(|| name.to_owned())
    });
    found.collect()
}

fn network(process: &Path) -> std::io::Result<PathBuf> {
    fs::read_link(process.join("ns/net"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_removed_and_replaced_was_removed() {
        let path = std::env::temp_dir().join(format!("haguard-pid-{}", std::process::id()));
        let mut other = std::process::Command::new("true").spawn().unwrap();
        fs::write(&path, format!("{}\n", other.id())).unwrap();
        let corosync = Corosync::find(&path).unwrap();
        assert!(!corosync.ended_in_order(), "it is there");
        other.wait().unwrap();
        assert!(!corosync.ended_in_order(), "killed: its file is there");
        fs::remove_file(&path).unwrap();
        fs::write(&path, "1\n").unwrap();
        assert!(corosync.ended_in_order());
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn no_manager_of_resources_is_invented() {
        assert!(managers().iter().all(|name| MANAGERS.contains(&name.as_str())));
    }
}
