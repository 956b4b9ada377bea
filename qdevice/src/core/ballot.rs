//! What is cast for the host, and until when.
//!
//! An own arbiter's vote is a lease: it names a view, runs from the sending of the echo request
//! it answers, and is cast with its end. A stock arbiter's vote is bounded by the last answered
//! echo (safety 8). A loss is confirmed only after the host has taken it.

use std::fmt;
use std::time::Duration;

use protocol::host::HeuristicsMode;
use protocol::ids::{GrantId, ViewId};
use protocol::qnet::{Grant, Message, MessageType};
use protocol::time::Time;
use protocol::vote::{Heuristics, Vote};

use super::{Action, Device};

/// What a heuristics run is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Purpose {
    /// The lists of a new connection.
    Connect,
    /// The membership list of a new view.
    View,
    /// The regular look.
    Regular,
}

/// A vote that is held.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lease {
    pub(super) grant: GrantId,
    pub(super) view: ViewId,
    pub(super) expires: Time,
}

/// The device's vote.
#[derive(Clone, Debug, Default)]
pub(super) struct Ballot {
    pub(super) lease: Option<Lease>,
    /// The last ACK or NACK for the present view.
    pub(super) vote: Option<Vote>,
    polls: u64,
    /// The poll after whose answer the vote info with this sequence number is confirmed.
    confirm: Option<(u64, u32)>,
}

impl Ballot {
    /// Gives everything up. Polls are counted on: an answer to an old one is none to a new one.
    pub(super) fn forget(&mut self) {
        *self = Self { polls: self.polls, ..Self::default() };
    }

    pub(super) fn ends(&self) -> Option<Time> {
        self.lease.map(|lease| lease.expires)
    }

    /// A yes or a no stands, as the stock device's running poll timer says it.
    pub(super) fn decided(&self, now: Time) -> bool {
        let held = self.lease.is_some_and(|lease| now < lease.expires);
        self.vote == Some(Vote::Nack) || (self.vote == Some(Vote::Ack) && held)
    }

    pub(super) fn word(&self, now: Time) -> Word {
        match (self.vote, self.lease) {
            (Some(Vote::Nack), _) => Word::Nack,
            (_, Some(lease)) if now < lease.expires => Word::Ack,
            (Some(Vote::WaitForReply | Vote::AskLater), _) => Word::Wait,
            (Some(Vote::Ack | Vote::NoChange) | None, _) => Word::None,
        }
    }
}

/// The vote in one word, for status.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Word {
    Nack,
    Ack,
    Wait,
    None,
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nack => "nack",
            Self::Ack => "ack",
            Self::Wait => "wait",
            Self::None => "none",
        })
    }
}

impl Device {
    /// The host has installed a view: the arbiter is asked for a vote in it.
    pub(super) fn view_changed(&mut self) {
        self.ballot.vote = Some(Vote::WaitForReply);
        self.ballot.confirm = None;
        self.problem = None;
        self.start_heuristics(Purpose::View);
    }

    pub(super) fn start_heuristics(&mut self, purpose: Purpose) {
        let Some(host) = &self.host else { return };
        let settings = &host.settings.heuristics;
        self.heuristics_at = None;
        // Neither a regular look nor a new view must hide that a connection's lists wait.
        let purpose = match self.heuristics_running {
            Some(Purpose::View | Purpose::Connect) if purpose == Purpose::Regular => return,
            Some(Purpose::Connect) => Purpose::Connect,
            Some(Purpose::View | Purpose::Regular) | None => purpose,
        };
        self.heuristics_run += 1;
        if settings.mode == HeuristicsMode::Off || settings.commands.is_empty() {
            self.heuristics_running = None;
            self.heuristics = Heuristics::Undefined;
            self.heuristics_done(purpose);
            return;
        }
        let limit_ms = match purpose {
            Purpose::View => settings.sync_timeout_ms,
            Purpose::Connect | Purpose::Regular => settings.timeout_ms,
        };
        self.heuristics_running = Some(purpose);
        let limit = Duration::from_millis(u64::from(limit_ms));
        self.actions.push_back(Action::RunHeuristics { run: self.heuristics_run, limit });
    }

    pub(super) fn heuristics_result(&mut self, now: Time, run: u64, result: Heuristics) {
        if run != self.heuristics_run {
            return;
        }
        let Some(purpose) = self.heuristics_running.take() else { return };
        let changed = self.heuristics != result;
        self.heuristics = result;
        self.results.note(purpose, result);
        if let Some(host) = &self.host
            && host.settings.heuristics.mode == HeuristicsMode::On
        {
            let interval = u64::from(host.settings.heuristics.interval_ms);
            self.heuristics_at = Some(now + Duration::from_millis(interval));
        }
        if purpose == Purpose::Regular {
            if changed {
                self.send_heuristics_change();
            }
        } else {
            self.heuristics_done(purpose);
        }
    }

    fn heuristics_done(&mut self, purpose: Purpose) {
        match purpose {
            Purpose::Connect => self.send_lists(),
            Purpose::View => {
                self.send_membership_list();
                let host = self.host.as_ref();
                let quorum =
                    host.and_then(|host| Some((host.quorum.as_ref()?, host.view.as_ref()?)));
                // The quorum of the new view, if it was computed meanwhile; else it is yet to come.
                if quorum.is_some_and(|(quorum, view)| quorum.view == view.id) {
                    self.send_quorum_list();
                }
            }
            Purpose::Regular => {}
        }
    }

    /// The arbiter's vote for the present view, in an answer or unasked.
    pub(super) fn vote(&mut self, now: Time, vote: Vote, info: Option<u32>, grant: Option<Grant>) {
        match vote {
            Vote::Ack => self.vote_yes(now, info, grant),
            Vote::Nack => {
                self.ballot.vote = Some(Vote::Nack);
                self.ballot.lease = None;
                self.poll_nothing(info);
            }
            Vote::WaitForReply | Vote::AskLater => self.ballot.vote = Some(vote),
            Vote::NoChange => {}
        }
    }

    fn vote_yes(&mut self, now: Time, info: Option<u32>, grant: Option<Grant>) {
        let Some(view) = self.host.as_ref().and_then(|host| host.view.as_ref()) else { return };
        let view = view.id;
        let lease = match (self.session.arbiter, grant) {
            (Some(_), Some(grant)) if grant.view == view => {
                self.session.sent_at(grant.anchor).map(|sent| Lease {
                    grant: grant.id,
                    view,
                    expires: sent + Duration::from_millis(u64::from(grant.lease_ms)),
                })
            }
            (Some(_), _) => None,
            (None, _) => self.session.stock_vote_ends().map(|expires| Lease {
                grant: GrantId::default(),
                view,
                expires,
            }),
        };
        // An own arbiter's yes without a lease that is ours and still runs is worth nothing.
        let Some(lease) = lease.filter(|lease| now < lease.expires) else { return };
        self.ballot.vote = Some(Vote::Ack);
        self.ballot.lease = Some(lease);
        self.cast(lease, info);
    }

    /// An echo reply with our option: the lease goes on.
    pub(super) fn renewed(&mut self, now: Time, grant: Grant) {
        let Some(sent) = self.session.sent_at(grant.anchor) else { return };
        let Some(lease) = &mut self.ballot.lease else { return };
        if lease.grant != grant.id || lease.view != grant.view {
            return;
        }
        let expires = sent + Duration::from_millis(u64::from(grant.lease_ms));
        lease.expires = lease.expires.max(expires);
        let lease = *lease;
        if now < lease.expires {
            self.cast(lease, None);
        }
    }

    /// An echo of a stock arbiter was answered: its vote may be cast for longer.
    pub(super) fn extend_stock(&mut self) {
        let Some(expires) = self.session.stock_vote_ends() else { return };
        // As long as it has not decided on a new view it leaves the vote with the old one, and a
        // corosync that waits for us keeps its old quorum: it must not end before the answer.
        let stands =
            matches!(self.ballot.vote, Some(Vote::Ack | Vote::WaitForReply | Vote::AskLater));
        if self.session.arbiter.is_some() || !stands {
            return;
        }
        if let Some(lease) = &mut self.ballot.lease {
            lease.expires = lease.expires.max(expires);
            let lease = *lease;
            self.cast(lease, None);
        }
    }

    fn cast(&mut self, lease: Lease, info: Option<u32>) {
        let id = self.next_poll(info);
        let cast = Some((lease.expires, lease.grant));
        self.actions.push_back(Action::Poll { id, view: lease.view, cast });
    }

    /// Takes the vote back in every view.
    pub(super) fn poll_nothing(&mut self, info: Option<u32>) {
        let view = self.host.as_ref().and_then(|host| host.view.as_ref()).map(|view| view.id);
        let id = self.next_poll(info);
        let view = view.unwrap_or_default();
        self.actions.push_back(Action::Poll { id, view, cast: None });
    }

    fn next_poll(&mut self, info: Option<u32>) -> u64 {
        self.ballot.polls += 1;
        if let Some(seq) = info {
            self.ballot.confirm = Some((self.ballot.polls, seq));
        }
        self.ballot.polls
    }

    /// The host has taken a poll; if a vote info waits for that, it is confirmed now. A later
    /// poll of the same vote shows the same.
    pub(super) fn polled(&mut self, id: u64, applied: bool) {
        let Some((waiting, seq)) = self.ballot.confirm else { return };
        if id >= waiting && applied {
            self.ballot.confirm = None;
            self.send(&Message::new(MessageType::VoteInfoReply, Some(seq)));
        }
    }

    /// The vote of a stock arbiter ends with its connection: it may give it away at once.
    pub(super) fn drop_stock_vote(&mut self) {
        // Not of the session: an attempt to reconnect does not know yet whose vote is held.
        let stock = |lease: &mut Lease| lease.grant == GrantId::default();
        if self.ballot.lease.take_if(stock).is_some() {
            self.ballot.vote = None;
            self.poll_nothing(None);
        }
    }
}
