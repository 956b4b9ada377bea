//! The node's machine: membership, quorum, and the service that needs it.
//!
//! [`Node::handle`] takes facts in, [`Node::next_action`] gives duties out in order,
//! [`Node::deadline`] says when to call again with [`Event::Timeout`]. Its parts, in the order of
//! the path of a vote:
//! * `membership`: who is in two-way contact, and with whom a view could be formed.
//! * `agreement`: propose, accept, install; a view id is never used twice.
//! * `memory`: what a node does whose disk knows no epoch (rule S4).
//! * `quorum`: whose votes count until when; QUORATE, FROZEN, INQUORATE (rule S1).
//! * `fencing`: whose power must be cut, and what proves that it was (rules S6, S7).
//! * `testimony`: what is said for a view while no arbiter answers a gateway (rule S7).
//! * `service`: where the service belongs, and when it may start here (rule S6).
//!
//! What has to be on disk before it is said is compared with what *is* on disk: `want` is what
//! the node would like to have stored, `durable` what [`Event::Persisted`] has confirmed.

mod agreement;
mod fencing;
mod membership;
mod memory;
mod quorum;
mod service;
mod snapshot;
mod testimony;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use protocol::cluster::{Answer, Beat, Installed, Placement};
use protocol::fence::{Challenge, Outcome, Proof, Testimony};
use protocol::host::{FromHost, HostQuorum, HostView};
use protocol::ids::{BootId, Epoch, GrantId, InstanceId, NodeId, ViewId};
use protocol::rng::Rng;
use protocol::status::{DeviceStatus, QuorumState};
use protocol::time::Time;
use protocol::times;
use protocol::vote::Bound;
use serde::{Deserialize, Serialize};

use agreement::Agreement;
use fencing::Fencing;
use membership::Peer;
use quorum::Ballot;
use service::Service;
use testimony::Witness;

/// Everything that can happen to a node.
#[derive(Clone, Debug)]
pub enum Event {
    /// A peer's beat arrived; the connection proves that it is `beat.from`'s.
    Heard(Box<Beat>),
    /// A device has registered on the local socket.
    DeviceUp,
    /// Its connection is gone. Its vote counts until it expires.
    DeviceDown,
    /// The device polls (votequorum_qdevice_poll).
    Poll {
        /// For the answer.
        id: u64,
        /// The view the vote is for.
        view: ViewId,
        /// The vote and until when it counts; `None` ends it in every view.
        cast: Option<(Time, GrantId)>,
    },
    /// What the device says of itself, for status.
    DeviceStatus(Box<DeviceStatus>),
    /// The arbiter, through the device, knows of this epoch, which is above what is stored here.
    ArbiterEpoch(Epoch),
    /// The state of [`Action::Persist`] with this number is on disk.
    Persisted(u64),
    /// It is not.
    PersistFailed(u64),
    /// The keeper has reported: nothing of the service is left, or something may be.
    KeeperReady {
        /// True if something may still run.
        running: bool,
    },
    /// The keeper has started the service.
    Started {
        /// The start's number.
        serial: u64,
    },
    /// The service has ended by itself, or could not be started.
    Exited {
        /// The start's number.
        serial: u64,
    },
    /// The keeper has proven that nothing of the service is left.
    Stopped,
    /// A fencing gateway is configured, or none is (any more). Without this word there is none.
    Gateway {
        /// There is one.
        configured: bool,
    },
    /// The gateway has proven a node off, for the last [`Action::Fence`].
    FenceProof {
        /// The proof.
        proof: Proof,
    },
    /// No arbiter answers the gateway, which asks the members of this node's view in its place, for
    /// the last [`Action::Fence`].
    Challenged(Challenge),
    /// The gateway says what it does, for status.
    FenceProgress {
        /// About whom; `None`: about all.
        node: Option<NodeId>,
        /// What.
        text: String,
    },
    /// The last [`Action::Fence`] is over.
    FenceEnded {
        /// How, for each target; or why no gateway has answered.
        result: Result<BTreeMap<NodeId, Outcome>, String>,
    },
    /// The operator ends the daemon.
    Leave,
    /// The [`Node::deadline`] has passed.
    Timeout,
}

/// Everything a node may do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Send a beat; it may get lost.
    Beat {
        /// To whom.
        to: NodeId,
        /// What.
        beat: Box<Beat>,
    },
    /// Make the state durable, then say so.
    Persist {
        /// Comes back in the answer.
        number: u64,
        /// What to store.
        state: Stored,
    },
    /// Tell the device, if one is there.
    Host(FromHost),
    /// Tell the keeper until when services may run if it hears nothing more.
    Entitle {
        /// The end of the entitlement; in the past: at once.
        until: Time,
        /// The epoch it comes from.
        epoch: Epoch,
    },
    /// Start the service through the keeper.
    StartService {
        /// Counts starts.
        serial: u64,
        /// For its environment.
        epoch: Epoch,
        /// The keeper does not start it later than that.
        until: Time,
    },
    /// Stop the service through the keeper: SIGTERM, then SIGKILL, then proof.
    StopService,
    /// Ask the fencing gateway to cut the power of these nodes (rule S7), and say how that ends.
    /// It stands in for the one before, whose end is of no interest any more.
    Fence {
        /// Whose.
        targets: BTreeSet<NodeId>,
        /// The highest epoch that this node knows, for the arbiter to judge.
        epoch: Epoch,
    },
    /// Say this to every gateway; it is for the one that asked. It may get lost.
    Testify(Box<Testimony>),
    /// Everything is stopped and told: the daemon may end.
    Exit,
    /// A decision, for the log.
    Decided(String),
}

/// What a node keeps on disk.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Stored {
    /// The highest epoch it has taken part in (rule S4).
    pub epoch: Epoch,
    /// The disk was empty, and the node has not learnt since how far epochs have come: what is
    /// stored of them is no memory of the cluster's (safety 27).
    #[serde(default)]
    pub forgotten: bool,
    /// The highest ring sequence it has accepted: ring ids never repeat after a restart.
    pub ring_seq: u64,
    /// Where the service belongs (safety 20).
    pub placement: Option<Placement>,
    /// What each peer has announced last about the end of its services (safety 22).
    pub bounds: BTreeMap<NodeId, Bound>,
}

/// What the machine needs to know of the configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub node: NodeId,
    /// Every configured node's votes, this one's included.
    pub votes: BTreeMap<NodeId, u32>,
    /// The device's votes; 0 without a device.
    pub device_votes: u32,
    /// Votes that make quorum, of all votes with the device's.
    pub quorum: u32,
    /// T: how long a poll counts.
    pub device_timeout: Duration,
    /// Stay inquorate until all nodes have been seen together once.
    pub wait_for_all: bool,
    /// Votequorum's auto_tie_breaker: of two equal halves the one with this node goes on. Fixed,
    /// unlike votequorum's choice among the last members, so that both halves agree on it.
    pub auto_tie_breaker: Option<NodeId>,
    /// Votequorum's two_node: quorate alone only once the peer is confirmed off (F16).
    pub two_node: bool,
    /// The configuration as a number (rule S8).
    pub digest: u64,
    /// This node's watchdog.
    pub bound: Bound,
    /// Watchdogs of class B count as proof.
    pub trust_virtual_watchdog: bool,
    /// Watchdogs of class C count as proof.
    pub trust_process_watchdog: bool,
    /// The service, if there is one: its name, and the member it prefers.
    pub service: Option<(String, Option<NodeId>)>,
}

/// Who is starting.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// This life of the process.
    pub instance: InstanceId,
    /// The boot of the machine.
    pub boot: BootId,
    /// For the random parts of view ids.
    pub seed: u64,
}

/// How many of the own beats' sending times are remembered: more than a peer lease's worth.
const SENT_REMEMBERED: usize = 256;

/// The node.
#[derive(Clone, Debug)]
pub struct Node {
    config: Config,
    identity: Identity,
    rng: Rng,
    started: Time,

    want: Stored,
    durable: Stored,
    writing: Option<(u64, Stored)>,
    writes: u64,
    write_retry: Option<Time>,

    seq: u64,
    sent: VecDeque<(u64, Time)>,
    evaluated: Time,
    next_beat: Time,
    last_beat: Option<Beat>,

    peers: BTreeMap<NodeId, Peer>,
    agreement: Agreement,
    current: Option<Ballot>,
    /// The view in which the node was entitled when the current one was installed, as long as
    /// its votes last and the current one is not quorate.
    old: Option<Ballot>,
    state: QuorumState,
    /// Since when the node has been entitled without interruption in views without a node.
    outside_since: BTreeMap<NodeId, Time>,
    seen_all: bool,
    polls: Vec<u64>,
    device_up: bool,
    device_status: Option<DeviceStatus>,
    told_quorum: Option<(ViewId, bool)>,
    /// The highest epoch that the arbiter has spoken of.
    arbiter_epoch: Epoch,
    entitled: Option<Time>,

    service: Service,
    fencing: Fencing,
    witness: Witness,
    leaving: bool,
    left_beats: u32,
    actions: VecDeque<Action>,
}

impl Node {
    /// A node that starts at `now` with what its disk holds.
    pub fn new(now: Time, config: Config, identity: Identity, mut stored: Stored) -> Self {
        stored.forgotten |= stored.epoch == Epoch(0);
        let peers = config.votes.keys().filter(|node| **node != config.node);
        Self {
            peers: peers.map(|node| (*node, Peer::default())).collect(),
            rng: Rng::new(identity.seed),
            started: now,
            want: stored.clone(),
            durable: stored,
            writing: None,
            writes: 0,
            write_retry: None,
            seq: 0,
            sent: VecDeque::new(),
            evaluated: now,
            next_beat: now,
            last_beat: None,
            agreement: Agreement::default(),
            current: None,
            old: None,
            state: QuorumState::Inquorate,
            outside_since: BTreeMap::new(),
            seen_all: false,
            polls: Vec::new(),
            device_up: false,
            device_status: None,
            told_quorum: None,
            arbiter_epoch: Epoch(0),
            entitled: None,
            service: Service::default(),
            fencing: Fencing::default(),
            witness: Witness::default(),
            leaving: false,
            left_beats: 0,
            actions: VecDeque::new(),
            config,
            identity,
        }
    }

    /// Takes a fact in.
    pub fn handle(&mut self, now: Time, event: Event) {
        let said = self.actions.len();
        match event {
            Event::Heard(beat) => self.heard(now, beat),
            Event::DeviceUp => self.device_up(),
            Event::DeviceDown => {
                self.device_up = false;
                self.polls.clear();
                self.device_status = None;
            }
            Event::Poll { id, view, cast } => self.poll(now, id, view, cast),
            Event::DeviceStatus(status) => self.device_status = Some(*status),
            Event::ArbiterEpoch(highest) => self.hear_epoch(highest),
            Event::Persisted(number) => self.persisted(number),
            Event::PersistFailed(number) => self.persist_failed(now, number),
            Event::KeeperReady { running } => self.service.keeper_ready(running),
            Event::Started { serial } => self.service.started(serial),
            Event::Exited { serial } => self.service.exited(now, serial),
            Event::Stopped => self.service.stopped(),
            Event::Gateway { configured } => self.gateway(configured),
            Event::FenceProof { proof } => self.proven_off(now, &proof),
            Event::Challenged(challenge) => self.challenged(challenge),
            Event::FenceProgress { node, text } => self.fence_progress(node, &text),
            Event::FenceEnded { result } => self.fence_ended(now, result),
            Event::Leave => self.leaving = true,
            Event::Timeout => {}
        }
        self.evaluate(now, said);
    }

    /// The next duty, in order; `None` when all are done.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call with [`Event::Timeout`], if nothing happens before.
    pub fn deadline(&self) -> Option<Time> {
        let mut first = self.next_beat;
        let mut consider = |at: Time| {
            if at > self.evaluated {
                first = first.min(at);
            }
        };
        for ballot in [&self.current, &self.old].into_iter().flatten() {
            self.vote_times(ballot, &mut consider);
        }
        self.peers.values().filter_map(Peer::contact_ends).for_each(&mut consider);
        let free = self.current.as_ref().map(|ballot| ballot.vote_free_at);
        let wakes = [self.service.wakes(), self.fencing.wakes(), free, self.write_retry];
        wakes.into_iter().flatten().for_each(&mut consider);
        Some(first)
    }

    /// The state now: expiry is tested at every read (rule S2), but at the time of the last
    /// evaluation, which has tested it.
    pub fn state(&self, now: Time) -> QuorumState {
        if now == self.evaluated {
            debug_assert_eq!(self.state, self.judge(now), "judged anew");
            return self.state;
        }
        self.judge(now)
    }

    /// The installed view.
    pub fn view(&self) -> Option<ViewId> {
        self.current.as_ref().map(|ballot| ballot.installed.id)
    }

    /// The members of the installed view.
    pub fn members(&self) -> &[NodeId] {
        self.current.as_ref().map_or(&[], |ballot| &ballot.installed.members)
    }

    /// The view in which the node is entitled now: the current one if it is quorate, the one
    /// before it while frozen.
    pub fn entitled_view(&self, now: Time) -> Option<(ViewId, &[NodeId])> {
        let ballot = match self.judge(now) {
            QuorumState::Quorate => self.current.as_ref(),
            QuorumState::Frozen => self.old.as_ref().or(self.current.as_ref()),
            QuorumState::Inquorate => None,
        };
        ballot.map(|ballot| (ballot.installed.id, ballot.installed.members.as_slice()))
    }

    /// The highest epoch on disk.
    pub fn epoch(&self) -> Epoch {
        self.durable.epoch
    }

    /// Draws every conclusion from what is known now; called after every fact, whose first duty is
    /// the one with the number `said`.
    fn evaluate(&mut self, now: Time, said: usize) {
        self.evaluated = now;
        self.watch_contacts(now);
        self.agree(now);
        self.recall(now);
        let until = self.count(now);
        debug_assert_eq!(until, self.entitled_until(now, self.state), "counted anew");
        self.tell_device();
        self.entitle(until, said);
        self.fence(now);
        self.testify(now);
        self.place();
        self.run_service(now);
        self.store(now);
        self.beat(now);
        self.finish(now);
    }

    fn heard(&mut self, now: Time, beat: Box<Beat>) {
        let (me, instance) = (self.config.node, self.identity.instance);
        let answered = beat.answers.filter(|answer| answer.instance == instance);
        let sent = answered.and_then(|answer| self.sent_at(answer.seq));
        let digest = self.config.digest;
        let Some(peer) = self.peers.get_mut(&beat.from) else { return };
        if peer.is_news(&beat) {
            let (from, boot) = (beat.from, beat.boot);
            let (view, off) = (beat.view.as_ref().map(|view| view.id), beat.off.clone());
            let highest = beat.highest_epoch;
            peer.hear(now, me, digest, sent, beat);
            self.hear_member_epoch(view, highest);
            self.heard_alive(now, from, boot);
            self.hear_off(now, from, view, &off);
        }
    }

    fn sent_at(&self, seq: u64) -> Option<Time> {
        let first = self.sent.front()?.0;
        let index = usize::try_from(seq.checked_sub(first)?).ok()?;
        self.sent.get(index).map(|(_, at)| *at)
    }

    fn device_up(&mut self) {
        self.device_up = true;
        self.told_quorum = None;
        self.polls.clear();
        if let Some(ballot) = &self.current {
            self.actions.push_back(Action::Host(FromHost::View(host_view(ballot))));
        }
    }

    /// The device learns of the quorum of each view, and of each change in it.
    fn tell_device(&mut self) {
        let Some(ballot) = self.current.as_ref().filter(|_| self.device_up) else { return };
        let quorate = self.state == QuorumState::Quorate;
        let told = Some((ballot.installed.id, quorate));
        if self.told_quorum == told {
            return;
        }
        self.told_quorum = told;
        let members = &ballot.installed.members;
        let nodes = self.config.votes.keys().map(|node| (*node, members.contains(node)));
        let quorum = HostQuorum {
            view: ballot.installed.id,
            quorate,
            expected_votes: self.expected_votes(),
            nodes: nodes.collect(),
        };
        self.actions.push_back(Action::Host(FromHost::Quorum(quorum)));
    }

    fn persisted(&mut self, number: u64) {
        if let Some((_, state)) = self.writing.take_if(|(writing, _)| *writing == number) {
            self.durable = state;
            self.write_retry = None;
        }
    }

    fn persist_failed(&mut self, now: Time, number: u64) {
        if self.writing.take_if(|(writing, _)| *writing == number).is_some() {
            self.write_retry = Some(now + Duration::from_secs(1));
            let text = "state not stored: no new view, epoch or placement until the disk works";
            self.actions.push_back(Action::Decided(text.to_owned()));
        }
    }

    /// Starts a write if there is something to store and none is under way.
    fn store(&mut self, now: Time) {
        let later = self.write_retry.is_some_and(|at| at > now);
        if self.writing.is_some() || self.want == self.durable || later {
            return;
        }
        self.writes += 1;
        self.writing = Some((self.writes, self.want.clone()));
        let state = self.want.clone();
        self.actions.push_back(Action::Persist { number: self.writes, state });
    }

    /// Sends beats when it is time, and at once when they say something new.
    fn beat(&mut self, now: Time) {
        let news = !self.last_beat.as_ref().is_some_and(|last| self.says(now, last));
        if !news && now < self.next_beat {
            return;
        }
        if news {
            self.last_beat = Some(self.compose(now));
        }
        if now >= self.next_beat {
            self.next_beat = now + times::HEARTBEAT;
            let highest_epoch = self.remembered_epoch();
            self.actions.push_back(Action::Host(FromHost::Alive { highest_epoch }));
        }
        self.seq += 1;
        self.sent.push_back((self.seq, now));
        if self.sent.len() > SENT_REMEMBERED {
            self.sent.pop_front();
        }
        let Some(said) = &self.last_beat else { return };
        for (node, peer) in &mut self.peers {
            if said.view.as_ref().is_some_and(|view| view.members.contains(node)) {
                peer.promise(times::PEER_PROMISE);
            }
            let mut beat = Box::new(said.clone());
            self.fencing.age(now, &mut beat.off);
            beat.seq = self.seq;
            beat.answers = peer.newest();
            self.actions.push_back(Action::Beat { to: *node, beat });
        }
    }

    /// A beat composed now would be this one. It is asked after every fact, so nothing is copied.
    fn says(&self, now: Time, last: &Beat) -> bool {
        let Beat {
            from,
            instance,
            boot,
            config_digest,
            seq: _,
            answers: _,
            contacts,
            highest_epoch,
            ring_seq,
            view,
            proposal,
            accepted,
            bound,
            placement,
            placing,
            running,
            leaving,
            off,
            challenge,
        } = last;
        let same_view = match (view, self.announced_view(now)) {
            (None, None) => true,
            (Some(said), Some((Installed { id, epoch, members, vote_free: _ }, free))) => {
                (said.id, said.epoch, said.vote_free) == (*id, *epoch, free)
                    && said.members == *members
            }
            (None, Some(_)) | (Some(_), None) => false,
        };
        let may_run = self.service.may_run();
        let same = same_view
            && (*from, *instance) == (self.config.node, self.identity.instance)
            && (*boot, *config_digest) == (self.identity.boot, self.config.digest)
            && self.settled(now).eq(contacts.iter().copied())
            && (*highest_epoch, *ring_seq) == (self.remembered_epoch(), self.durable.ring_seq)
            && proposal.as_ref() == self.agreement.announced_proposal(&self.durable)
            && *accepted == self.agreement.accepted(&self.durable)
            && *bound == self.config.bound
            && (*placement, *placing) == (self.durable.placement, self.service.placing)
            && (*running, *leaving) == (may_run, self.leaving && !may_run)
            && self.known_off().eq(off.iter().copied())
            && *challenge == self.shown_challenge();
        debug_assert_eq!(same, *last == self.compose(now), "a beat composed anew");
        same
    }

    /// The view as a beat tells it, and whether this node's own vote counts in it.
    fn announced_view(&self, now: Time) -> Option<(&Installed, bool)> {
        let ballot = self.current.as_ref().filter(|ballot| !ballot.left)?;
        Some((&ballot.installed, self.is_free(now, ballot) && !self.leaving))
    }

    /// The beat for everyone; sequence number, answer and ages are filled in for each.
    fn compose(&self, now: Time) -> Beat {
        let view = self
            .announced_view(now)
            .map(|(installed, vote_free)| Installed { vote_free, ..installed.clone() });
        Beat {
            from: self.config.node,
            instance: self.identity.instance,
            boot: self.identity.boot,
            config_digest: self.config.digest,
            seq: 0,
            answers: None,
            contacts: self.settled(now).collect(),
            highest_epoch: self.remembered_epoch(),
            ring_seq: self.durable.ring_seq,
            view,
            proposal: self.agreement.announced_proposal(&self.durable).cloned(),
            accepted: self.agreement.accepted(&self.durable),
            bound: self.config.bound,
            placement: self.durable.placement,
            placing: self.service.placing,
            running: self.service.may_run(),
            leaving: self.leaving && !self.service.may_run(),
            off: self.known_off().collect(),
            challenge: self.shown_challenge(),
        }
    }

    /// A leaving node ends once its service is stopped and its peers were told a few times.
    fn finish(&mut self, now: Time) {
        if !self.leaving || self.service.may_run() {
            return;
        }
        if self.left_beats == 0 {
            self.left_beats = 1;
            self.next_beat = now + times::HEARTBEAT;
        } else if self.left_beats < 4 {
            self.left_beats += 1;
        } else if self.left_beats == 4 {
            self.left_beats = 5;
            self.actions.push_back(Action::Exit);
        }
    }
}

fn host_view(ballot: &Ballot) -> HostView {
    HostView {
        id: ballot.installed.id,
        epoch: ballot.installed.epoch,
        members: ballot.installed.members.clone(),
    }
}

/// Names the newest beat of a peer.
fn answer(instance: InstanceId, seq: u64) -> Option<Answer> {
    (seq > 0).then_some(Answer { instance, seq })
}
