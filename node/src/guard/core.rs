//! The guard's machine: whether this node is quorate by corosync's word, and until when the
//! watchdog may be petted for it (rule S5).
//!
//! A *proof* is an answer of votequorum that the node is quorate, while no change of members is
//! under way; it is as old as its question. Notifications prove nothing: they end or hold.
//!
//! | state | petted until |
//! |---|---|
//! | quorate | the last proof + B ([`timing`]); where the quorum needs our device, not after its lease |
//! | frozen: a change of members is under way, or was until the next answer | the same; the end of the lease where the remaining votes and our device reach the quorum; the last proof + S with a stock device |
//! | inquorate | its beginning |
//! | corosync silent, or gone without having been stopped | the last proof + B |
//!
//! What runs on this node was started by others and is stopped by others, so once the watchdog
//! counts, an end is final: nothing proves a full stop but a corosync that was stopped in order,
//! after everything that uses it.

pub mod cluster;
pub mod timing;

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use protocol::ids::{NodeId, RingId};
use protocol::status::QuorumState;
use protocol::time::Time;

use cluster::Cluster;
use timing::{DeviceKind, Limits};

/// What the guard is made for.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The watchdog.
    pub limits: Limits,
    /// There is none: the guard only shows what it sees.
    pub observe: bool,
}

/// What votequorum answers (votequorum_getinfo(3)).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Answer {
    /// Expected votes, the device's included.
    pub expected: u32,
    /// Votes, the device's included where it is cast.
    pub total: u32,
    /// Votes for a quorum.
    pub quorum: u32,
    /// The node is quorate.
    pub quorate: bool,
    /// A device is registered.
    pub registered: bool,
    /// Its vote is cast.
    pub cast: bool,
    /// The votes it has.
    pub device_votes: u32,
}

impl Answer {
    /// Without the device's vote there would be no quorum.
    fn needs_device(&self) -> bool {
        let device = if self.cast { self.device_votes } else { 0 };
        self.total.saturating_sub(device) < self.quorum
    }
}

/// Everything that can happen.
#[derive(Clone, Debug)]
pub enum Event {
    /// The [`Guard::deadline`] has passed.
    Timeout,
    /// A connection to corosync begins, and its configuration was read, which it answers only
    /// outside of a change of members; and again after each change of the configuration.
    Configured(Box<Cluster>),
    /// The configuration makes no sense.
    Misconfigured(String),
    /// A change of members begins; these are in the new ring.
    Ring(RingId, BTreeSet<NodeId>),
    /// The quorum was computed, with these members: the change is over.
    Quorum {
        /// The node is quorate.
        quorate: bool,
        /// The members.
        members: BTreeSet<NodeId>,
    },
    /// votequorum has answered.
    Answer {
        /// When it was asked.
        asked: Time,
        /// What it said; everything that it had notified of before was told before this.
        answer: Answer,
    },
    /// Our device has answered: until when its vote counts, if it does.
    Device {
        /// The end of its lease.
        lease: Option<Time>,
    },
    /// corosync does not answer any more: it was stopped, killed, or is in trouble.
    Gone(String),
    /// corosync was stopped in order, and nothing that uses it runs.
    StoppedCleanly,
    /// The keeper says whether the watchdog counts.
    Armed(bool),
    /// A keeper was found that an earlier guard has armed: its entitlement.
    Adopted(Time),
    /// The keeper is gone.
    KeeperGone,
    /// The guard is to end.
    Leave,
}

/// Everything it may do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Action {
    /// The keeper may pet until then. The first one arms the watchdog.
    Entitle {
        /// The end.
        until: Time,
    },
    /// It may not from now on.
    Revoke,
    /// Everything outside is stopped: disarm.
    Release,
    /// The keeper may end if nothing is armed; it knows.
    Farewell,
    /// End, and leave the keeper and its deadline as they are.
    Exit,
    /// For the log.
    Decided(String),
    /// For the log, as an error.
    Alarm(String),
}

/// A change of members.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Change {
    /// There is none: an answer has proven the quorum in this ring.
    None,
    /// It is under way: votequorum answers with the old quorum.
    UnderWay,
    /// It is over, as a notification says, which proves nothing: what held until now holds until
    /// the next answer.
    Over,
}

#[derive(Clone, Copy, Debug)]
struct Proof {
    at: Time,
    answer: Answer,
}

/// The machine.
#[derive(Clone, Debug)]
pub struct Guard {
    settings: Settings,
    cluster: Option<Cluster>,
    /// What is wrong with the configuration's times.
    refusal: Option<String>,
    /// What was answered last, for people.
    answer: Option<Answer>,
    proof: Option<Proof>,
    ring: Option<RingId>,
    members: BTreeSet<NodeId>,
    change: Change,
    /// Our device has answered at least once; the end of its lease.
    lease: Option<Time>,
    /// What the keeper was told last.
    granted: Option<Time>,
    armed: bool,
    /// Why there is no way back.
    ended: Option<String>,
    /// Why the node is not quorate, for people.
    reason: String,
    actions: VecDeque<Action>,
}

impl Guard {
    /// A guard that knows nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            cluster: None,
            refusal: None,
            answer: None,
            proof: None,
            ring: None,
            members: BTreeSet::new(),
            change: Change::None,
            lease: None,
            granted: None,
            armed: false,
            ended: None,
            reason: "corosync has not answered yet".to_owned(),
            actions: VecDeque::new(),
        }
    }

    /// Takes a fact in.
    pub fn handle(&mut self, now: Time, event: Event) {
        self.expire(now);
        match event {
            Event::Timeout => {}
            Event::Configured(cluster) => {
                self.cluster = Some(*cluster);
                self.check();
            }
            Event::Misconfigured(why) => self.refuse(Some(why)),
            Event::Ring(ring, members) => {
                // The same one is said again at the beginning of a connection.
                if self.ring != Some(ring) {
                    self.change = Change::UnderWay;
                }
                self.ring = Some(ring);
                self.members = members;
            }
            Event::Quorum { quorate, members } => {
                self.members = members;
                if self.change == Change::UnderWay {
                    self.change = Change::Over;
                }
                if !quorate {
                    self.inquorate(now);
                }
            }
            Event::Answer { asked, answer } => self.answered(now, asked, answer),
            Event::Device { lease } => {
                let first = self.lease.is_none();
                self.lease = Some(lease.unwrap_or(now));
                if first {
                    self.check();
                }
            }
            Event::Gone(why) => {
                self.change = Change::None;
                if self.reason != why {
                    self.actions.push_back(Action::Alarm(why.clone()));
                }
                self.reason = why;
            }
            Event::StoppedCleanly => self.stopped_cleanly(),
            Event::Armed(armed) => self.armed = armed,
            Event::Adopted(until) => {
                self.armed = true;
                self.granted = Some(until);
            }
            Event::KeeperGone => self.keeper_gone(),
            Event::Leave => self.leave(now),
        }
        self.entitle(now);
    }

    /// The next thing to do.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call again with [`Event::Timeout`].
    pub fn deadline(&self) -> Option<Time> {
        self.granted
    }

    /// The configuration that corosync runs with.
    pub fn cluster(&self) -> Option<&Cluster> {
        self.cluster.as_ref()
    }

    /// What is wrong with its times: nothing is armed for it, and what is armed already goes on.
    pub fn refusal(&self) -> Option<&str> {
        self.refusal.as_deref()
    }

    /// What votequorum said last.
    pub fn answer(&self) -> Option<Answer> {
        self.answer
    }

    /// The ring and its members.
    pub fn ring(&self) -> (Option<RingId>, &BTreeSet<NodeId>) {
        (self.ring, &self.members)
    }

    /// The state now, its end if nothing more is heard, and why it is no better.
    pub fn state(&self, now: Time) -> (QuorumState, Option<Time>, &str) {
        let until = self.until().filter(|until| now < *until && self.ended.is_none());
        match (until, self.change) {
            (Some(until), Change::None) => (QuorumState::Quorate, Some(until), ""),
            (Some(until), Change::UnderWay | Change::Over) => {
                (QuorumState::Frozen, Some(until), "corosync's members are changing")
            }
            (None, _) => {
                (QuorumState::Inquorate, None, self.ended.as_deref().unwrap_or(&self.reason))
            }
        }
    }

    /// Our device answers, or has answered.
    pub fn device(&self) -> DeviceKind {
        let configured = self.cluster.as_ref().is_some_and(|it| it.sync_timeout.is_some());
        match (configured, self.lease) {
            (false, _) => DeviceKind::None,
            (true, Some(_)) => DeviceKind::Ours,
            (true, None) => DeviceKind::Stock,
        }
    }

    fn check(&mut self) {
        let Some(cluster) = &self.cluster else { return };
        self.refuse(timing::check(cluster, &self.settings.limits, self.device()).err());
    }

    fn refuse(&mut self, refusal: Option<String>) {
        if refusal != self.refusal
            && let Some(why) = &refusal
        {
            let armed = if self.armed {
                "the guard goes on with times that prove less: "
            } else {
                "nothing is armed: "
            };
            self.actions.push_back(Action::Alarm(format!("{armed}{why}")));
        }
        self.refusal = refusal;
    }

    /// Only an answer to a question that is younger than the one before it proves anything, and
    /// none while the members change: votequorum says the old quorum then.
    fn answered(&mut self, now: Time, asked: Time, answer: Answer) {
        self.answer = Some(answer);
        if !answer.quorate {
            self.inquorate(now);
        } else if self.change != Change::UnderWay && self.proof.is_none_or(|proof| proof.at < asked)
        {
            self.change = Change::None;
            self.proof = Some(Proof { at: asked, answer });
        }
    }

    fn inquorate(&mut self, now: Time) {
        self.proof = None;
        "corosync is not quorate".clone_into(&mut self.reason);
        self.end(now, "corosync has lost its quorum");
    }

    /// Until when the node counts as quorate or frozen.
    fn until(&self) -> Option<Time> {
        let (Some(proof), Some(cluster)) = (self.proof, &self.cluster) else { return None };
        let watchdog = self.settings.limits.watchdog;
        let believed = proof.at + timing::belief(cluster, watchdog);
        let changing = self.change != Change::None;
        Some(match (self.device(), self.lease) {
            (DeviceKind::Ours, Some(lease)) => {
                let frozen = changing && self.reaches(&proof.answer, cluster);
                let until = if frozen { believed.max(lease) } else { believed };
                if proof.answer.needs_device() { until.min(lease) } else { until }
            }
            (DeviceKind::Stock, _) if changing && proof.answer.registered => {
                // A longer one is refused; where it came with a reload the reset comes in time.
                let sync = cluster.sync_timeout.unwrap_or(Duration::ZERO).min(watchdog);
                believed.max(proof.at + sync)
            }
            (DeviceKind::Ours | DeviceKind::Stock | DeviceKind::None, _) => believed,
        })
    }

    /// Those who are still there, and the device, reach the old quorum.
    fn reaches(&self, answer: &Answer, cluster: &Cluster) -> bool {
        let votes = self.members.iter().filter_map(|node| cluster.votes.get(node));
        let votes = votes.fold(0_u32, |sum, votes| sum.saturating_add(*votes));
        answer.cast && votes.saturating_add(answer.device_votes) >= answer.quorum
    }

    /// Tells the keeper what has changed.
    fn entitle(&mut self, now: Time) {
        // Nothing is armed with times that were refused.
        let refused = self.refusal.is_some() && !self.armed;
        if self.ended.is_some() || self.settings.observe || refused {
            return;
        }
        let until = self.until().filter(|until| now < *until);
        if let Some(until) = until
            && self.granted != Some(until)
        {
            self.granted = Some(until);
            self.actions.push_back(Action::Entitle { until });
        } else if until.is_none() && self.granted.is_some() && self.proof.is_some() {
            // It was shortened to the past. Without a proof it is an earlier guard's.
            self.end(now, "the quorum device's lease has ended");
        }
    }

    /// Ends the entitlement whose time has come.
    fn expire(&mut self, now: Time) {
        if self.granted.is_some_and(|until| until <= now) {
            self.end(now, "nothing has proven corosync's quorum in time");
        }
    }

    fn end(&mut self, now: Time, why: &str) {
        let Some(until) = self.granted.take() else { return };
        if now < until {
            self.actions.push_back(Action::Revoke);
        }
        if self.armed && self.ended.is_none() {
            let text = format!(
                "{why}: the watchdog is not petted any more and resets this machine within {} s",
                self.settings.limits.watchdog.as_secs()
            );
            self.actions.push_back(Action::Alarm(text.clone()));
            self.ended = Some(text);
        } else {
            self.actions.push_back(Action::Decided(why.to_owned()));
        }
    }

    /// The proof of a full stop: also after an end, as long as the machine still runs.
    fn stopped_cleanly(&mut self) {
        "corosync was stopped".clone_into(&mut self.reason);
        self.proof = None;
        self.ended = None;
        self.granted = None;
        self.armed = false;
        let text = "corosync was stopped in order and nothing that uses it runs: the watchdog is \
                    disarmed until it is quorate again";
        self.actions.extend([Action::Release, Action::Decided(text.to_owned())]);
    }

    fn keeper_gone(&mut self) {
        self.granted = None;
        if self.armed {
            self.armed = false;
            let text = "the keeper is gone: nobody pets the watchdog, which resets this machine";
            self.actions.push_back(Action::Alarm(text.to_owned()));
            self.ended = Some(text.to_owned());
        }
    }

    fn leave(&mut self, now: Time) {
        if self.armed || self.granted.is_some() {
            let left = self.granted.map_or(Duration::ZERO, |until| until.since(now));
            self.actions.push_back(Action::Alarm(format!(
                "the guard ends while services may run: the watchdog stays armed on purpose and \
                 resets this machine, unless a guard is started again within {} ms; for a clean end \
                 stop what uses corosync, then corosync, then the guard",
                left.as_millis()
            )));
        } else {
            self.actions.push_back(Action::Farewell);
        }
        self.actions.push_back(Action::Exit);
    }
}
