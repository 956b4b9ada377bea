//! Who has the vote of one cluster, and who may still count it.
//!
//! A [`Hold`] says until when a node may count a grant; it is extended by every renewal (a stock
//! client's by every message) and ends early only by a confirmed loss. The vote moves when no node
//! outside the new view has a hold left (rule S1), and a grant is on disk before anybody hears of
//! it (rule S3).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use protocol::ids::{Epoch, GrantId, NodeId, ViewId};
use protocol::time::Time;
use protocol::times;

use super::hold::Trace;
use super::waiting::{Counting, Waiting};
use super::{GrantRecord, Memory, Token};

/// A report of an epoch that is ahead by more than this is a lie or a broken disk; it is not
/// followed, because an epoch that has run out can never be raised again.
const EPOCH_JUMP_LIMIT: u64 = 1 << 40;

/// After a reboot of the arbiter's host epochs go on at least at the wall clock, of which a second
/// has this many: more than are given in one, so whatever was given before is below.
const EPOCHS_A_SECOND: u64 = 256;

/// If the wall clock is behind, they go on this far above the record: more than were given since
/// any backup that is of use.
const RESTORED_EPOCHS: u64 = 1 << 20;

/// How long to wait before a failed write is tried again.
const WRITE_RETRY: Duration = Duration::from_secs(1);

/// Who on a node counts a vote: one process of a stock client, or whoever has the node's lease. A
/// loss that another process confirms proves nothing (safety 7).
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Process(pub(super) u64);

impl Process {
    /// A lease, or a recorded grant.
    pub(super) const NONE: Self = Self(0);
    /// All processes of before that count a vote without a bound, as one.
    const BEFORE: Self = Self(u64::MAX);
}

/// Until when one node may count the vote: by the epoch of the grant for leases and records; a
/// stock process has one vote, whichever grants it came from.
pub(super) type Hold = BTreeMap<(Epoch, Process), Held>;

/// One vote that one node may count.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    /// [`Time::NEVER`]: until it says otherwise.
    until: Time,
    view: ViewId,
    /// What a stock process's bound is counted from.
    trace: Option<Trace>,
}

impl Held {
    /// A node in `view` has left the view of this grant for good, for a node's rings only grow; or
    /// it is the same one. Of a *newer* view that is not true: then `view` is a stale report.
    fn ends_in(&self, view: ViewId) -> bool {
        self.view == view || self.view.ring.seq < view.ring.seq
    }

    /// Until when it can be at the latest: a ring without the node may be reported late.
    fn latest(&self) -> Time {
        self.trace.map_or(self.until, |trace| self.until.max(trace.without_it().until()))
    }

    /// Why it is held.
    fn counting(&self) -> Counting {
        match self.trace {
            Some(trace) => trace.counting(),
            None if self.until == Time::NEVER => Counting::EndlessGrant,
            None => Counting::Grant,
        }
    }
}

/// Makes one of the votes without a bound that `which` names, in the newest of their views: a node
/// that has left that one has left all of them. Else they would pile up without end.
fn gather_endless(
    hold: &mut Hold,
    into: (Epoch, Process),
    which: impl Fn(&(Epoch, Process)) -> bool,
) {
    let endless =
        hold.extract_if(.., |key, held| held.until == Time::NEVER && (which(key) || *key == into));
    if let Some(newest) = endless.map(|(_, held)| held).max_by_key(|held| held.view.ring.seq) {
        hold.insert(into, newest);
    }
}

/// Adds what was held apart, or is to be.
fn put_all(hold: &mut Hold, more: Hold) {
    for (key, held) in more {
        let is_newer = |old: &Held| old.view.ring.seq > held.view.ring.seq;
        if key.1 != Process::BEFORE || !hold.get(&key).is_some_and(is_newer) {
            hold.insert(key, held);
        }
    }
}

/// Where epochs go on after one that an earlier boot of the host recorded. The record may come from
/// a backup, and epochs that were given since must not be given again (safety 10); two restored
/// copies of one backup must not go on at the same one either, which only a clock tells.
fn epoch_after(record: Epoch, clock_s: u64) -> Epoch {
    let clock = clock_s.saturating_mul(EPOCHS_A_SECOND);
    let ahead = clock.saturating_sub(record.0);
    if (1..=EPOCH_JUMP_LIMIT).contains(&ahead) {
        Epoch(clock)
    } else {
        Epoch(record.0.saturating_add(RESTORED_EPOCHS))
    }
}

/// Why a recorded grant may be given out again after a start.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Standing {
    /// Given by this process, or recorded in this boot of the host (F9): to its whole node set.
    Good,
    /// Recorded before: only to a node that presents an unexpired lease of it (S3).
    Presented(BTreeSet<NodeId>),
}

/// What must pass before a partial view gets the vote after a start (S3, F8).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Quarantine {
    /// Nothing.
    None,
    /// The recorded duration of a grant that an earlier boot of the host wrote.
    Recorded {
        /// It has passed then.
        until: Time,
    },
    /// Nothing is known: the bound of every absent node must pass.
    Unknown {
        /// From then on.
        since: Time,
        /// The longest one of the kinds of clients that have come.
        bound: Duration,
        /// There are clients without a bound, or with leases that an operator may have prolonged:
        /// every configured node must have reported since.
        everyone: bool,
    },
}

impl Quarantine {
    fn until(self) -> Option<Time> {
        match self {
            Self::None => None,
            Self::Recorded { until } => Some(until),
            Self::Unknown { since, bound, .. } => Some(since + bound),
        }
    }
}

/// What a lease of a grant is given by: the record without its lists, to be copied.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub(super) grant: GrantId,
    pub(super) view: ViewId,
    pub(super) lease_ms: u32,
    bound_ms: Option<u64>,
}

impl Terms {
    pub(super) fn of(record: &GrantRecord) -> Self {
        let GrantRecord { grant, view, lease_ms, bound_ms, .. } = *record;
        Self { grant, view, lease_ms, bound_ms }
    }

    /// For how long a lease is held after it was given.
    fn hold(self) -> Duration {
        times::lease_hold(Duration::from_millis(u64::from(self.lease_ms)))
    }
}

/// A view that is to get the vote.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) view: ViewId,
    pub(super) members: BTreeSet<NodeId>,
    /// Members whose live clients report this very view.
    pub(super) reporting: BTreeSet<NodeId>,
    /// All nodes that the clients' configurations name.
    pub(super) configured: BTreeSet<NodeId>,
    /// Nodes that are confirmed off: nobody waits for them.
    pub(super) off: BTreeSet<NodeId>,
}

/// One cluster's grants and bounds.
#[derive(Clone, Debug)]
pub(super) struct Ledger {
    epoch: Epoch,
    current: Option<(GrantRecord, Standing)>,
    /// The grant before, as long as nobody was told of the present one: it has the same view.
    replaced: Option<GrantRecord>,
    holds: BTreeMap<NodeId, Hold>,
    /// Ended by a stock client's confirmation, which a newer membership list voids as long as the
    /// vote has not moved (safety 6).
    released: BTreeMap<NodeId, Hold>,
    /// Somebody has been told of the current grant.
    announced: bool,
    writing: Option<(Token, GrantRecord)>,
    retry_at: Option<Time>,
    quarantine: Quarantine,
    reported: BTreeSet<NodeId>,
}

impl Ledger {
    /// The ledger of a cluster that the state directory knows nothing of (safety 35).
    pub(super) fn unknown(since: Time) -> Self {
        let bound = Duration::ZERO;
        Self {
            epoch: Epoch(0),
            current: None,
            replaced: None,
            holds: BTreeMap::new(),
            released: BTreeMap::new(),
            announced: true,
            writing: None,
            retry_at: None,
            quarantine: Quarantine::Unknown { since, bound, everyone: false },
            reported: BTreeSet::new(),
        }
    }

    /// A client has come whose kind may count a vote of before for this long; `None`: without
    /// limit.
    pub(super) fn hear_unknown_bound(&mut self, own: Option<Duration>) {
        if let Quarantine::Unknown { bound, everyone, .. } = &mut self.quarantine {
            match own {
                Some(own) => *bound = own.max(*bound),
                None => *everyone = true,
            }
        }
    }

    /// Nodes with leases are waited for until each has reported (F8).
    pub(super) fn wait_for_everyone(&mut self) {
        self.hear_unknown_bound(None);
    }

    /// The operator has said of a cluster with an endless recorded grant what bounds it.
    pub(super) fn limit_recorded(&mut self, until: Time) {
        for ((_, process), held) in self.holds.values_mut().flatten() {
            if *process == Process::NONE && held.until == Time::NEVER {
                held.until = until;
            }
        }
    }

    /// The ledger of a cluster with a recorded grant, at a start of the process (rule S3).
    pub(super) fn recover(now: Time, memory: &Memory, record: &GrantRecord) -> Self {
        let known_boot = memory.host_boot.0 != 0;
        let same_boot = known_boot && record.host_boot == memory.host_boot;
        let until = record.bound_ms.map_or(Time::NEVER, |ms| now + Duration::from_millis(ms));
        let held = Held { until, view: record.view, trace: None };
        let hold = Hold::from([((record.grant.epoch, Process::NONE), held)]);
        let standing =
            if same_boot { Standing::Good } else { Standing::Presented(BTreeSet::new()) };
        let quarantine = if same_boot {
            Quarantine::None
        } else {
            // A restored record may be older than the longest lease that is out there. One without
            // a bound is waited for by its holds.
            let recorded = if until == Time::NEVER { now } else { until };
            Quarantine::Recorded { until: recorded.max(now + times::SOLO_LEASE_HOLD) }
        };
        let given = record.grant.epoch;
        Self {
            epoch: if same_boot { given } else { epoch_after(given, memory.clock_s) },
            current: Some((record.clone(), standing)),
            replaced: None,
            holds: record.nodes.iter().map(|node| (*node, hold.clone())).collect(),
            released: BTreeMap::new(),
            announced: true,
            writing: None,
            retry_at: None,
            quarantine,
            reported: BTreeSet::new(),
        }
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Nothing was ever granted, and nobody can count the vote.
    pub(super) fn is_blank(&self, now: Time) -> bool {
        let held = self.holds.keys().any(|node| self.hold_until(*node) > now);
        self.current.is_none() && self.writing.is_none() && !held && self.epoch == Epoch(0)
    }

    /// The grant that stands, if one does.
    pub(super) fn current(&self) -> Option<&GrantRecord> {
        self.current.as_ref().map(|(record, _)| record)
    }

    /// A node has reported: what it has stored is followed (safety 10), and it is known again.
    pub(super) fn hear_epoch(&mut self, node: NodeId, highest: Epoch) {
        self.reported.insert(node);
        if highest > self.epoch && highest.0 - self.epoch.0 <= EPOCH_JUMP_LIMIT {
            self.epoch = highest;
        }
    }

    /// A stock node has reported.
    pub(super) fn hear_report(&mut self, node: NodeId) {
        self.reported.insert(node);
    }

    /// A reconnected client presents a lease. A lease of exactly the recorded grant stands; one
    /// of this directory that is newer than the record shows that the record was restored (F11).
    pub(super) fn present(
        &mut self,
        now: Time,
        node: NodeId,
        held: (GrantId, ViewId),
        unknown_bound: Duration,
    ) {
        let Some((record, standing)) = &mut self.current else { return };
        if held == (record.grant, record.view) && record.nodes.contains(&node) {
            if let Standing::Presented(nodes) = standing {
                nodes.insert(node);
            }
        } else if held.0.arbiter == record.grant.arbiter && held.0.epoch > record.grant.epoch {
            self.withdraw();
            let bound = unknown_bound;
            self.quarantine = Quarantine::Unknown { since: now, bound, everyone: true };
        }
    }

    /// This client may be told (again) that it has the vote of the current grant.
    pub(super) fn may_reissue(&self, node: NodeId) -> bool {
        match &self.current {
            Some((record, Standing::Good)) => record.nodes.contains(&node),
            Some((_, Standing::Presented(nodes))) => nodes.contains(&node),
            None => false,
        }
    }

    /// Every node of the current grant may be told of it.
    pub(super) fn stands_for_all(&self) -> bool {
        matches!(self.current, Some((_, Standing::Good)))
    }

    /// The last write has not failed just now.
    pub(super) fn may_store(&self, now: Time) -> bool {
        self.retry_at.is_none_or(|at| at <= now)
    }

    /// What a move waits for, and until when at the latest: nodes that are not in the view and can
    /// count the vote, or a start that is too fresh.
    pub(super) fn waits_for(&self, now: Time, to: &Candidate) -> Option<(Waiting, Time)> {
        let held = self.holds.iter().flat_map(|(node, hold)| {
            let (inside, reports) = (to.members.contains(node), to.reporting.contains(node));
            let over = move |held: &Held| inside && (reports || held.ends_in(to.view));
            let counts = hold.values().filter(move |held| !over(held));
            counts.map(|held| (*node, held))
        });
        let held = held.filter(|(_, held)| held.until > now);
        if let Some((node, held)) = held.max_by_key(|(_, held)| held.until) {
            return Some((Waiting::Counted(node, held.counting()), held.until));
        }
        // In a view of all nodes nobody is outside, if it is not a stale one: somebody who is
        // not heard may have left it long ago.
        let configured = &to.configured;
        if configured.iter().all(|node| to.members.contains(node) || to.off.contains(node))
            && to.members.iter().all(|node| to.reporting.contains(node))
        {
            return None;
        }
        match self.quarantine {
            Quarantine::None => None,
            Quarantine::Recorded { until } => {
                (until > now).then_some((Waiting::HostRestarted, until))
            }
            Quarantine::Unknown { since, bound, everyone } => {
                let mut silent = configured
                    .iter()
                    .filter(|node| !self.reported.contains(node) && !to.off.contains(node));
                if let Some(node) = silent.next().filter(|_| everyone) {
                    return Some((Waiting::Unheard(*node), Time::NEVER));
                }
                let until = since + bound;
                (until > now).then_some((Waiting::StateNew, until))
            }
        }
    }

    /// The next moment at which a wait may have ended.
    pub(super) fn deadline(&self, now_or_later: Time) -> Option<Time> {
        let quarantine = self.quarantine.until();
        let holds = self.holds.values().flat_map(|hold| hold.values().map(|held| held.until));
        let all = holds.chain(quarantine).chain(self.retry_at);
        all.filter(|at| *at > now_or_later && *at != Time::NEVER).min()
    }

    /// Until when a node may count the vote of any grant.
    pub(super) fn hold_until(&self, node: NodeId) -> Time {
        let hold = self.holds.get(&node).into_iter().flat_map(Hold::values);
        hold.map(|held| held.until).max().unwrap_or(Time::ZERO)
    }

    /// Until when nodes of a view can count a vote, connected clients' leases aside: by a stock
    /// process, or where nobody is connected. A record of the view must last as long.
    pub(super) fn open_until(
        &self,
        members: &BTreeSet<NodeId>,
        leased: &BTreeMap<NodeId, Duration>,
    ) -> Time {
        let inside = self.holds.iter().filter(|(node, _)| members.contains(node));
        let open = inside.flat_map(|(node, hold)| {
            let is_lease = |process: Process| process == Process::NONE && leased.contains_key(node);
            hold.iter().filter(move |((_, process), _)| !is_lease(*process))
        });
        open.map(|(_, held)| held.latest()).max().unwrap_or(Time::ZERO)
    }

    /// Starts the write that gives the vote to a view; its nodes are held from now on, because
    /// from the moment it is on disk they may be told.
    pub(super) fn begin(&mut self, token: Token, record: GrantRecord) {
        self.retry_at = None;
        self.writing = Some((token, record));
    }

    pub(super) fn is_writing(&self, token: Token) -> bool {
        self.writing.as_ref().is_some_and(|(writing, _)| *writing == token)
    }

    pub(super) fn writing(&self) -> Option<&GrantRecord> {
        self.writing.as_ref().map(|(_, record)| record)
    }

    /// The record is on disk. Connected stock clients hold the vote once they are told; all other
    /// nodes of the view can have it told by another (safety 9).
    pub(super) fn written(
        &mut self,
        now: Time,
        token: Token,
        stock: &BTreeSet<NodeId>,
        leased: &BTreeMap<NodeId, Duration>,
    ) {
        let Some((_, record)) = self.writing.take_if(|(writing, _)| *writing == token) else {
            return;
        };
        self.epoch = self.epoch.max(record.grant.epoch);
        for node in record.nodes.difference(stock).copied().collect::<Vec<_>>() {
            self.extend(now, node, Terms::of(&record), leased.get(&node).copied());
        }
        let same = |old: &GrantRecord| old.view == record.view && old.nodes == record.nodes;
        let told = self
            .current
            .take()
            .filter(|(_, standing)| self.announced && *standing == Standing::Good);
        let told = told.map(|(old, _)| old).or_else(|| self.replaced.take());
        self.replaced = told.filter(same);
        self.current = Some((record, Standing::Good));
        self.announced = false;
        self.quarantine = Quarantine::None;
    }

    /// Nobody has been told of the current grant yet: a newer report can still stop it (safety 6,
    /// 34).
    pub(super) fn is_unannounced(&self) -> bool {
        !self.announced
    }

    /// The first is told now: what was waited for is over.
    pub(super) fn announce(&mut self) {
        let Some((record, _)) = self.current.as_ref().filter(|_| !self.announced) else { return };
        self.holds.retain(|node, _| record.nodes.contains(node));
        self.released.clear();
        self.replaced = None;
        self.announced = true;
    }

    pub(super) fn not_written(&mut self, now: Time, token: Token) {
        if self.is_writing(token) {
            self.writing = None;
            self.retry_at = Some(now + WRITE_RETRY);
        }
    }

    /// The grant of which a lease can be renewed: the one that stands, or the one that it replaces
    /// in the same view and of which nobody was told yet.
    pub(super) fn renewable(&self, asked: (GrantId, ViewId)) -> Option<Terms> {
        let current = self.current()?;
        let mut all = std::iter::once(current).chain(&self.replaced);
        let mut terms = Terms::of(all.find(|record| (record.grant, record.view) == asked)?);
        // What is on disk covers the lease of the present one.
        terms.lease_ms = terms.lease_ms.min(current.lease_ms);
        Some(terms)
    }

    /// A connected node's lease of a grant is (re)newed at `now`; its host may go on for `worst`
    /// after it (safety 8).
    pub(super) fn renew(&mut self, now: Time, node: NodeId, terms: Terms, worst: Duration) {
        self.extend(now, node, terms, Some(worst));
    }

    /// Holds a node for its lease, or, where it is not known that it has one, for as long as the
    /// record says.
    fn extend(&mut self, now: Time, node: NodeId, terms: Terms, worst: Option<Duration>) {
        let recorded = || terms.bound_ms.map(Duration::from_millis);
        let bound = worst.map(|worst| terms.hold() + worst).or_else(recorded);
        let until = bound.map_or(Time::NEVER, |bound| now + bound);
        let (epoch, hold) = (terms.grant.epoch, self.holds.entry(node).or_default());
        let held = Held { until, view: terms.view, trace: None };
        let old = hold.entry((epoch, Process::NONE)).or_insert(held);
        old.until = old.until.max(until);
        if until == Time::NEVER {
            gather_endless(hold, (epoch, Process::NONE), |(granted, process)| {
                *process == Process::NONE && *granted < epoch
            });
        }
    }

    /// A stock process is told that it has the vote, or says that its host is quorate: it may count
    /// it from now on, whoever gave it that (an arbiter before this one).
    pub(super) fn counts(&mut self, node: NodeId, process: Process, view: ViewId, trace: Trace) {
        let hold = self.holds.entry(node).or_default();
        let before = hold.get(&(Epoch(0), process)).and_then(|held| held.trace);
        let trace = trace.after(before);
        let held = Held { until: trace.until(), view, trace: Some(trace) };
        hold.insert((Epoch(0), process), held);
        gather_endless(hold, (Epoch(0), Process::BEFORE), |(_, by)| {
            ![Process::NONE, process].contains(by)
        });
    }

    /// A stock process of the view that has the vote is told so. From then on it is the one that
    /// polls its host: a vote of before that has no bound ends with its own.
    pub(super) fn told(&mut self, node: NodeId, process: Process, view: ViewId, trace: Trace) {
        self.counts(node, process, view, trace);
        if let Some(hold) = self.holds.get_mut(&node) {
            hold.retain(|(_, by), held| *by == process || held.until != Time::NEVER);
        }
    }

    /// Something was heard of a stock process, or its connection is gone.
    pub(super) fn hear_of(&mut self, node: NodeId, process: Process, trace: Trace) {
        let hold = self.holds.get_mut(&node);
        if let Some(held) = hold.and_then(|hold| hold.get_mut(&(Epoch(0), process))) {
            let trace = trace.after(held.trace);
            held.until = trace.until();
            held.trace = Some(trace);
        }
    }

    /// A ring of only these nodes was reported while the others may still count the vote: with it,
    /// even if not without it, because the one who reports may have been slow.
    pub(super) fn hear_ring(&mut self, now: Time, members: &BTreeSet<NodeId>) {
        let lost = self.holds.iter_mut().filter(|(node, _)| !members.contains(node));
        for held in lost.flat_map(|(_, hold)| hold.values_mut()).filter(|held| held.latest() > now)
        {
            held.until = held.latest();
            held.trace = held.trace.map(Trace::without_it);
        }
    }

    /// A node with leases has applied the ACK of a grant: it counts no older one any more, because
    /// a vote counts in one view at a time, and nothing without a bound, because it has a lease.
    pub(super) fn applied(&mut self, now: Time, node: NodeId, epoch: Epoch, worst: Duration) {
        let record = self.current().filter(|record| record.grant.epoch == epoch);
        let lease = record.map(|record| now + Terms::of(record).hold() + worst);
        let Some(hold) = self.holds.get_mut(&node) else { return };
        hold.retain(|(granted, process), held| {
            if *process == Process::NONE { *granted >= epoch } else { held.until != Time::NEVER }
        });
        let held = hold.get_mut(&(epoch, Process::NONE));
        if let (Some(held), Some(lease)) = (held.filter(|held| held.until == Time::NEVER), lease) {
            held.until = lease;
        }
    }

    /// A node with a lease has applied the loss of the vote. What a stock process before it may
    /// count runs out by itself.
    pub(super) fn release(&mut self, node: NodeId) {
        if let Some(hold) = self.holds.get_mut(&node) {
            let runs_out = |held: &Held| held.until != Time::NEVER;
            hold.retain(|(_, process), held| *process != Process::NONE && runs_out(held));
        }
    }

    /// The node is off: nothing on it counts anything (rule S2).
    pub(super) fn end(&mut self, node: NodeId) {
        self.holds.remove(&node);
        self.released.remove(&node);
    }

    /// Who was told of the vote by an arbiter before this one can count that no longer.
    pub(super) fn is_unknown_over(&self, now: Time) -> bool {
        match self.quarantine {
            Quarantine::None => true,
            Quarantine::Recorded { until } => until <= now,
            Quarantine::Unknown { since, bound, .. } => since + bound <= now,
        }
    }

    /// A stock process has applied the loss of the vote. For what another one on the node may
    /// count that is no proof (safety 7), unless it has no bound that could be waited for and the
    /// host says that it is not quorate (safety 15).
    pub(super) fn release_stock(&mut self, node: NodeId, process: Process, inquorate: bool) {
        let Some(hold) = self.holds.get_mut(&node) else { return };
        let ended: Hold = hold
            .extract_if(.., |(_, by), held| {
                *by == process || (inquorate && held.until == Time::NEVER)
            })
            .collect();
        let released = self.released.entry(node).or_default();
        put_all(released, ended);
        gather_endless(released, (Epoch(0), Process::BEFORE), |(_, by)| {
            ![Process::NONE, process].contains(by)
        });
    }

    /// A stock client has reported a newer membership: what it confirmed before proves nothing any
    /// more.
    pub(super) fn void_release(&mut self, node: NodeId) {
        if let Some(hold) = self.released.remove(&node) {
            put_all(self.holds.entry(node).or_default(), hold);
        }
    }

    /// A stock process is back that has given its vote up when it lost its connection (safety 7).
    pub(super) fn given_up(&mut self, node: NodeId, process: Process) {
        if let Some(hold) = self.holds.get_mut(&node) {
            hold.remove(&(Epoch(0), process));
        }
    }

    /// Forgets what has run out and cannot come back.
    pub(super) fn prune(&mut self, now: Time) {
        for holds in [&mut self.holds, &mut self.released] {
            for hold in holds.values_mut() {
                hold.retain(|_, held| held.latest() > now);
            }
            holds.retain(|_, hold| !hold.is_empty());
        }
    }

    /// Nobody is to have the vote: the grant is not renewed any more.
    pub(super) fn withdraw(&mut self) {
        self.current = None;
        self.replaced = None;
    }
}
