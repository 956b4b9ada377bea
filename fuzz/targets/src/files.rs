//! What daemons read from files: the cluster's configuration, their own settings, their state.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use node::keeper::mark::{self, Mark};
use node::options::Settings;
use node::store::Store;
use protocol::ids::{BootId, NodeId};
use qnetd::journal::Journal;

use crate::tape::Tape;

/// A corosync.conf that is accepted is written and read the same, and whatever is wrong with
/// another one is said in lines.
pub fn conf(data: &[u8]) {
    let options = node::conf::Options::default();
    match node::conf::load("fuzz", data, &options) {
        Ok(loaded) => {
            let text = loaded.conf.render();
            let again = node::conf::load("again", text.as_bytes(), &options);
            assert_eq!(again.map(|loaded| loaded.conf), Ok(loaded.conf), "{text}");
        }
        Err(errors) => {
            let text = errors.to_string();
            assert!(!errors.problems.is_empty(), "refused without a reason");
            assert_eq!(text.lines().count(), errors.problems.len(), "{text}");
            assert!(!text.contains('\u{1b}'), "{text:?}");
        }
    }
}

/// The daemons' own files, TOML: vote-hold and the stock settings of the arbiter, those of the
/// device, and the node's. What is wrong is said in one line.
pub fn settings(data: &[u8]) {
    let path = Path::new("/etc/haguard/fuzz.toml");
    if let Ok(text) = std::str::from_utf8(data) {
        let qnetd::config::Invocation::Run(arbiter) = qnetd_options() else { return };
        if let Err(error) = arbiter.with_file(path, text) {
            one_line(&error.to_string());
        }
        let qdevice::config::Invocation::Run(device) = qdevice_options() else { return };
        if let Err(error) = device.with_file(path, text) {
            one_line(&error.to_string());
        }
    }
    let place = Place::new();
    let path = place.write("node.toml", data);
    match Settings::read(&path) {
        Ok(settings) => {
            let mut options = node::options::Options::default();
            if let Err(error) = settings.apply(&mut options).and_then(|()| options.check()) {
                one_line(&error.to_string());
            }
        }
        Err(error) => one_line(&error.to_string()),
    }
}

/// Files of a state directory that say anything. Tape: whose; then the file.
pub fn state(data: &[u8]) {
    let mut tape = Tape::new(data);
    let place = Place::new();
    match tape.below(3) {
        0 => {
            let path = place.write("node.json", tape.rest());
            if let Err(error) = Store::open(&path, &"c".into(), NodeId(1)) {
                said(&error);
            }
        }
        1 => {
            place.write(mark::FILE, tape.rest());
            match Mark::read(&place.0, BootId(1)) {
                Ok(Some(found)) => {
                    found.write(&place.0).unwrap_or_else(|error| panic!("{error}"));
                    let again = Mark::read(&place.0, BootId(1));
                    assert_eq!(again.ok().flatten(), Some(found), "written and read again");
                }
                Ok(None) => {}
                Err(error) => said(&error),
            }
        }
        _ => {
            let identity_bytes = usize::from(tape.byte());
            place.write("arbiter.json", tape.bytes(identity_bytes));
            place.write("grants.journal", tape.rest());
            match Journal::open(&place.0, BootId(1)) {
                Ok(opened) => {
                    let boot = opened.memory.boot;
                    drop(opened);
                    match Journal::open(&place.0, BootId(1)) {
                        Ok(again) => assert_eq!(again.memory.boot, boot + 1, "not counted"),
                        Err(error) => panic!("what was opened cannot be opened: {error}"),
                    }
                }
                Err(error) => said(&error),
            }
        }
    }
}

/// Names of the file's own keys are in some of these messages, with whatever is in them, so only
/// that something is said is looked at.
fn said(error: &dyn std::error::Error) {
    assert!(!error.to_string().is_empty(), "refused without a reason");
}

fn one_line(text: &str) {
    assert!(!text.is_empty() && text.lines().count() == 1, "{text:?}");
}

fn qnetd_options() -> qnetd::config::Invocation {
    use qnetd::config::{Places, parse};
    parse(&[], Places::Haguard).unwrap_or_else(|error| panic!("{error}"))
}

fn qdevice_options() -> qdevice::config::Invocation {
    use qdevice::config::{Places, parse};
    parse(&[], Places::Haguard).unwrap_or_else(|error| panic!("{error}"))
}

/// A directory that goes with the value.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("haguard-fuzz-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self(path)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        path
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What is left in the directory for temporary files is the system's to clear.
        let _ = fs::remove_dir_all(&self.0);
    }
}
