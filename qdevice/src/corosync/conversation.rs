//! One connection to corosync, on a thread of its own: libraries in, [`super::Report`]s out.

use std::ffi::CString;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use host::clock::{self, Clock};
use host::corosync::{
    ACCESS, EXIST, Failure, Info, Libraries, MESSAGE_ERROR, Notice, TRY_AGAIN, Votequorum, c_name,
};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use protocol::host::{FromDevice, FromHost};
use protocol::ids::{BootId, InstanceId};
use protocol::time::Hurry;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tracing::{debug, error, info};

use super::configuration::{self, Configuration};
use super::counting::{Action, Counting, Event, Outcome, Poll};
use super::mailbox::{Closed, Letters, mailbox};
use super::settings::Identity;

/// Configurations that wait to be taken; they are taken at once.
const CONFIGURATIONS: usize = 16;
/// corosync is looked at at least this often: poll(2) does not count a suspend of the machine.
const WAIT_MAX: Duration = Duration::from_millis(500);

/// Why a conversation ends, for people.
type End = String;

/// Talks with corosync until either side ends it, and says why.
pub(super) fn hold(device: Letters<FromDevice>, tell: mpsc::Sender<FromHost>) -> End {
    let mut conversation = match Conversation::begin(device, tell) {
        Ok(conversation) => conversation,
        Err(end) => return end,
    };
    let Err(end) = conversation.run();
    conversation.take_back();
    end
}

struct Conversation {
    clock: Clock,
    counting: Counting,
    votequorum: Votequorum,
    /// The name that the device has registered with.
    name: CString,
    device: Letters<FromDevice>,
    configurations: Letters<Configuration>,
    configured: bool,
    /// As votequorum said it last; a busy corosync does not answer.
    expected_votes: u32,
    tell: mpsc::Sender<FromHost>,
}

impl Conversation {
    fn begin(device: Letters<FromDevice>, tell: mpsc::Sender<FromHost>) -> Result<Self, End> {
        let libraries = Libraries::open().map_err(|missing| missing.to_string())?;
        let votequorum = Votequorum::connect(&libraries)
            .map_err(|failure| format!("{failure}: is corosync running?"))?;
        let random = host::file::random_u128().map_err(|error| error.to_string())?;
        let boot: BootId = host::file::boot_id();
        let identity = Identity { boot, instance: InstanceId(random as u64) };
        let queue = mailbox(CONFIGURATIONS).map_err(|error| format!("no socket: {error}"))?;
        let (post, configurations) = queue;
        let follow = move || {
            let libraries: Arc<Libraries> = libraries;
            if let Err(failure) = configuration::follow(&libraries, identity, &post) {
                debug!("the configuration is no longer followed: {failure}");
                // Dropping the queue's end tells the conversation.
            }
        };
        std::thread::Builder::new()
            .name("corosync-cmap".to_owned())
            .spawn(follow)
            .map_err(|error| format!("no thread: {error}"))?;
        Ok(Self {
            clock: Clock::start(Hurry::Fast),
            counting: Counting::new(),
            votequorum,
            name: CString::default(),
            device,
            configurations,
            configured: false,
            expected_votes: 0,
            tell,
        })
    }

    fn run(&mut self) -> Result<std::convert::Infallible, End> {
        loop {
            self.take_configurations()?;
            self.take_notices()?;
            self.take_letters()?;
            self.handle(Event::Timeout)?;
            self.wait()?;
        }
    }

    fn wait(&mut self) -> Result<(), End> {
        let now = self.clock.now();
        let pause = self.counting.deadline().map_or(WAIT_MAX, |at| at.since(now));
        // Not before the deadline: poll(2) counts in whole milliseconds.
        let pause = pause.min(WAIT_MAX).as_micros().div_ceil(1000);
        let pause = PollTimeout::from(u16::try_from(pause).unwrap_or(u16::MAX));
        let mut fds = [
            PollFd::new(self.votequorum.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.device.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.configurations.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, pause) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(format!("poll failed: {error}")),
        }
    }

    fn take_configurations(&mut self) -> Result<(), End> {
        loop {
            match self.configurations.take() {
                Ok(None) => return Ok(()),
                Ok(Some(Ok(welcome))) => {
                    self.configured = true;
                    self.handle(Event::Configured(welcome))?;
                }
                // What was right before stands.
                Ok(Some(Err(wrong))) if self.configured => {
                    error!("corosync's new configuration is not used: {wrong}");
                }
                Ok(Some(Err(wrong))) => return Err(wrong),
                Err(Closed) => return Err("corosync closed the connection: is it running?".into()),
            }
        }
    }

    fn take_notices(&mut self) -> Result<(), End> {
        let notices = self.votequorum.notices().map_err(gone)?;
        if notices.is_empty() {
            return Ok(());
        }
        self.info()?;
        self.heard(notices);
        self.work()
    }

    /// Tells the machine what was heard, in order.
    fn heard(&mut self, notices: Vec<Notice>) {
        let now = self.clock.now();
        for notice in notices {
            let event = match notice {
                Notice::Ring(ring, members) => Event::Ring(ring, members),
                Notice::Quorum(quorate, nodes) => {
                    let expected_votes = self.expected_votes;
                    Event::Quorum { quorate, expected_votes, nodes: nodes.into_iter().collect() }
                }
            };
            self.counting.handle(now, event);
        }
    }

    /// What votequorum says of this node; `None` if corosync is busy.
    fn info(&mut self) -> Result<Option<Info>, End> {
        match self.votequorum.info() {
            Ok(info) => {
                self.expected_votes = info.expected_votes;
                Ok(Some(info))
            }
            Err(Failure { code: TRY_AGAIN, .. }) => Ok(None),
            Err(failure) => Err(gone(failure)),
        }
    }

    fn take_letters(&mut self) -> Result<(), End> {
        loop {
            match self.device.take() {
                Ok(None) => return Ok(()),
                Ok(Some(said)) => self.device_said(said)?,
                Err(Closed) => return Err("closed from here".to_owned()),
            }
        }
    }

    fn device_said(&mut self, said: FromDevice) -> Result<(), End> {
        match said {
            FromDevice::Register { name } => self.register(&name),
            FromDevice::Poll(poll) => {
                let reading = clock::read();
                let now = self.clock.now();
                let cast =
                    poll.cast.map(|cast| (now + cast.expires.remaining(reading), cast.grant.epoch));
                self.handle(Event::Vote { id: poll.id, view: poll.view, cast })
            }
            // corosync has no place to show it; the device's own socket shows it.
            FromDevice::Status(_) => Ok(()),
            FromDevice::Epoch { highest } => self.handle(Event::Epoch(highest)),
            FromDevice::Unregister => self.handle(Event::Unregister),
        }
    }

    fn register(&mut self, name: &str) -> Result<(), End> {
        self.name = c_name(name);
        self.votequorum.register(&self.name).map_err(gone)?;
        info!("registered with corosync as {name}");
        self.handle(Event::Registered)?;
        self.votequorum.track().map_err(gone)
    }

    fn handle(&mut self, event: Event) -> Result<(), End> {
        let now = self.clock.now();
        self.counting.handle(now, event);
        self.work()
    }

    /// Does the machine's duties.
    fn work(&mut self) -> Result<(), End> {
        while let Some(action) = self.counting.next_action() {
            self.act(action)?;
        }
        Ok(())
    }

    fn act(&mut self, action: Action) -> Result<(), End> {
        match action {
            Action::Say(what) => self.say(what),
            Action::Poll(poll) => {
                let outcome = self.poll(poll)?;
                let now = self.clock.now();
                self.counting.handle(now, Event::Polled(poll, outcome));
                Ok(())
            }
            Action::Look => {
                let Some(info) = self.info()? else { return Ok(()) };
                // A change that had begun before is told by now, and has to be known first.
                let notices = self.votequorum.notices().map_err(gone)?;
                self.heard(notices);
                let now = self.clock.now();
                self.counting.handle(now, Event::Looked(info));
                Ok(())
            }
            Action::Unregister => {
                if let Err(failure) = self.votequorum.unregister(&self.name) {
                    debug!("{failure}");
                }
                Ok(())
            }
            Action::Lost => Err("somebody has unregistered the device from corosync: is another \
                                 one running? stop it"
                .to_owned()),
        }
    }

    fn poll(&self, poll: Poll) -> Result<Outcome, End> {
        match self.votequorum.poll(&self.name, poll.ring, poll.cast) {
            Ok(()) => Ok(Outcome::Taken),
            Err(Failure { code: MESSAGE_ERROR, .. }) => Ok(Outcome::OtherRing),
            Err(Failure { code: TRY_AGAIN, .. }) => Ok(Outcome::Busy),
            Err(failure) => Err(gone(failure)),
        }
    }

    fn say(&self, what: FromHost) -> Result<(), End> {
        let sign = matches!(what, FromHost::Alive { .. });
        match self.tell.try_send(what) {
            Ok(()) => Ok(()),
            // A sign of life that nobody reads yet is of no use later.
            Err(TrySendError::Full(_)) if sign => Ok(()),
            Err(TrySendError::Full(_)) => {
                Err("the device does not take what corosync says: is it overloaded?".to_owned())
            }
            Err(TrySendError::Closed(_)) => Err("closed from here".to_owned()),
        }
    }

    /// Without a device to answer for it no vote is left behind.
    fn take_back(&mut self) {
        if let Some(ring) = self.counting.counted_in()
            && let Err(failure) = self.votequorum.poll(&self.name, ring, false)
        {
            debug!("{failure}; corosync drops the vote by itself");
        }
    }
}

/// What has failed, and what to do.
fn gone(failure: Failure) -> End {
    let advice = match failure.code {
        EXIST => "a quorum device of another name is registered: stop that one",
        ACCESS => {
            "corosync's configuration forbids a quorum device: take two_node, auto_tie_breaker, \
             last_man_standing and allow_downscale out of its quorum section"
        }
        _ => "is corosync running?",
    };
    format!("{failure}: {advice}")
}
