//! Watches one corosync after the other, on a thread of its own, since its libraries block: what
//! is not answered in time is not said in time, and the entitlement ends by itself.

use std::ffi::CStr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use host::clock;
use host::corosync::{
    Calm, Cmap, Failure, Info, Libraries, Notice, RELOADS, TRY_AGAIN, Votequorum,
};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use protocol::time::HostInstant;
use tokio::sync::mpsc::Sender;

use super::core::cluster::{Cluster, Keys};

/// corosync is asked this often, in milliseconds.
const ASK: u64 = 200;
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
    let mut calm = Calm::default();
    loop {
        if cmap.changed()? {
            due = true;
            calm.stir(clock::read());
        }
        if due && calm.wait(clock::read()).is_zero() {
            match configuration(&cmap) {
                // A reload is under way.
                Ok(None) => calm.stir(clock::read()),
                Ok(Some(configuration)) => {
                    read = true;
                    due = false;
                    calm.settle();
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
        let calm = Some(calm.wait(clock::read())).filter(|_| due);
        wait(&votequorum, &cmap, calm)?;
    }
}

/// Waits for either, but not beyond the next question, nor beyond what is waited for to read.
fn wait(votequorum: &Votequorum, cmap: &Cmap, calm: Option<Duration>) -> Result<(), End> {
    let ask = Duration::from_millis(ASK);
    // Rounded up; zero would be no wait.
    let long = calm.filter(|calm| !calm.is_zero()).unwrap_or(ask).min(ask).as_millis() + 1;
    let mut fds = [
        PollFd::new(votequorum.as_fd(), PollFlags::POLLIN),
        PollFd::new(cmap.as_fd(), PollFlags::POLLIN),
    ];
    match poll(&mut fds, PollTimeout::from(u16::try_from(long).unwrap_or(u16::MAX))) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(End::Gone(format!("poll failed: {error}"))),
    }
}

/// The configuration, or what is wrong with it; none while it is being reloaded.
fn configuration(cmap: &Cmap) -> Result<Option<Result<Box<Cluster>, String>>, Failure> {
    if cmap.reloading()? {
        return Ok(None);
    }
    let mut keys = Keys::new();
    for prefix in READ {
        keys.extend(cmap.read(prefix)?);
    }
    // What was read while a reload began, or went by, is of two configurations.
    if cmap.reloading()? || cmap.changed()? {
        return Ok(None);
    }
    Ok(Some(Cluster::read(&keys).map(Box::new)))
}
