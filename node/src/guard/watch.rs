//! Watches one corosync after the other, on a thread of its own, since its libraries block: what
//! is not answered in time is not said in time, and the entitlement ends by itself.

use std::ffi::CStr;
use std::os::fd::AsFd;
use std::sync::Arc;

use host::clock;
use host::corosync::{Cmap, Failure, Info, Libraries, Notice, TRY_AGAIN, Votequorum};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use protocol::time::HostInstant;
use tokio::sync::mpsc::Sender;

use super::core::cluster::{Cluster, Keys};

/// corosync is asked this often, in milliseconds.
const ASK: u8 = 200;
/// The first pause before corosync is tried again, in milliseconds; it doubles up to
/// [`PAUSE_MAX`]. Longer than the daemon takes to see that the one before was stopped in order.
const PAUSE_MIN: u16 = 300;
/// A corosync that was started is found within this.
const PAUSE_MAX: u16 = 2000;

/// What is read from cmap.
const READ: [&CStr; 5] = [
    c"totem.cluster_name",
    c"nodelist.",
    c"quorum.",
    c"runtime.config.totem.",
    c"runtime.votequorum.this_node_id",
];
/// A reload is under way; what it changes is looked at when it is done (cmap_keys(7)).
const RELOADS: &CStr = c"config.";
const RELOADING: [&str; 2] = ["config.reload_in_progress", "config.totemconfig_reload_in_progress"];
/// What is tracked.
const TRACKED: [&CStr; 4] = [c"nodelist.", c"quorum.", c"runtime.config.totem.", RELOADS];

/// What was seen.
#[derive(Debug)]
pub(super) enum Report {
    /// The configuration, at the beginning of a connection and after each change.
    Configuration(Result<Box<Cluster>, String>),
    /// votequorum notifies.
    Notice(Notice),
    /// votequorum answers.
    Answer {
        /// When it was asked.
        asked: HostInstant,
        /// What it says.
        info: Info,
    },
    /// There is no connection any more, or none yet: why.
    Gone(String),
}

/// Nobody listens any more.
struct Over;

/// Why a connection ends.
enum End {
    Over,
    Gone(String),
}

impl From<Over> for End {
    fn from(_: Over) -> Self {
        Self::Over
    }
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Gone(format!("{failure}: is corosync running?"))
    }
}

/// Watches until nobody listens.
pub(super) fn watch(libraries: &Arc<Libraries>, reports: &Sender<Report>) {
    let mut pause = PAUSE_MIN;
    loop {
        let mut answered = false;
        match converse(libraries, reports, &mut answered) {
            Err(End::Over) => return,
            Err(End::Gone(why)) => {
                if reports.blocking_send(Report::Gone(why)).is_err() {
                    return;
                }
            }
            Ok(never) => match never {},
        }
        if answered {
            pause = PAUSE_MIN;
        }
        // There is nothing to wait for but the time.
        let _ = poll(&mut [], PollTimeout::from(pause));
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

fn converse(
    libraries: &Arc<Libraries>,
    reports: &Sender<Report>,
    answered: &mut bool,
) -> Result<std::convert::Infallible, End> {
    let say = |report| reports.blocking_send(report).map_err(|_| Over);
    let votequorum = Votequorum::connect(libraries)?;
    votequorum.track()?;
    let cmap = Cmap::connect(libraries)?;
    for prefix in TRACKED {
        cmap.track(prefix)?;
    }
    // cmap answers nobody during a change of members: once it has, there is none but those that
    // votequorum has told of since.
    let mut read = false;
    let mut due = true;
    loop {
        due |= cmap.changed()?;
        if due {
            match configuration(&cmap) {
                // A reload is under way.
                Ok(None) => {}
                Ok(Some(configuration)) => {
                    read = true;
                    due = false;
                    *answered = true;
                    say(Report::Configuration(configuration))?;
                }
                // Asked again with the next question.
                Err(Failure { code: TRY_AGAIN, .. }) => {}
                Err(failure) => return Err(failure.into()),
            }
        }
        let asked = clock::read();
        let info = match votequorum.info() {
            Ok(info) => Some(info),
            Err(Failure { code: TRY_AGAIN, .. }) => None,
            Err(failure) => return Err(failure.into()),
        };
        // What began before the answer is told before it.
        for notice in votequorum.notices()? {
            say(Report::Notice(notice))?;
        }
        if let Some(info) = info.filter(|_| read) {
            say(Report::Answer { asked, info })?;
        }
        wait(&votequorum, &cmap)?;
    }
}

fn wait(votequorum: &Votequorum, cmap: &Cmap) -> Result<(), End> {
    let mut fds = [
        PollFd::new(votequorum.as_fd(), PollFlags::POLLIN),
        PollFd::new(cmap.as_fd(), PollFlags::POLLIN),
    ];
    match poll(&mut fds, PollTimeout::from(ASK)) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(End::Gone(format!("poll failed: {error}"))),
    }
}

/// The configuration, or what is wrong with it; none while it is being reloaded.
fn configuration(cmap: &Cmap) -> Result<Option<Result<Box<Cluster>, String>>, Failure> {
    if reloading(cmap)? {
        return Ok(None);
    }
    let mut keys = Keys::new();
    for prefix in READ {
        keys.extend(cmap.read(prefix)?);
    }
    // What was read while a reload began, or went by, is of two configurations.
    if reloading(cmap)? || cmap.changed()? {
        return Ok(None);
    }
    Ok(Some(Cluster::read(&keys).map(Box::new)))
}

fn reloading(cmap: &Cmap) -> Result<bool, Failure> {
    let found = cmap.read(RELOADS)?;
    Ok(found.iter().any(|(key, value)| RELOADING.contains(&key.as_str()) && value == "1"))
}
