//! Who has the vote of one cluster, and who may still count it.
//!
//! A [`Hold`] says until when a node may count a grant; it is extended by every renewal and ends
//! early only by a confirmed loss. The vote moves when no node outside the new view has a hold
//! left (rule S1), and a grant is on disk before anybody hears of it (rule S3).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use protocol::ids::{Epoch, GrantId, NodeId, ViewId};
use protocol::time::Time;
use protocol::times;

use super::{GrantRecord, Memory, Token};

/// A report of an epoch that is ahead by more than this is a lie or a broken disk; it is not
/// followed, because an epoch that has run out can never be raised again.
const EPOCH_JUMP_LIMIT: u64 = 1 << 40;

/// After a reboot of the arbiter's host epochs go on this far above the record: more than were
/// given since any backup that is of use.
const RESTORED_EPOCHS: u64 = 1 << 20;

/// How long to wait before a failed write is tried again.
const WRITE_RETRY: Duration = Duration::from_secs(1);

/// Until when one node may count the vote, by the epoch of the grant it may count it from.
pub(super) type Hold = BTreeMap<Epoch, Held>;

/// One grant that one node may count.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    /// [`Time::NEVER`]: until it says otherwise.
    until: Time,
    view: ViewId,
}

impl Held {
    /// A node in `view` has left the view of this grant for good, for a node's rings only grow; or
    /// it is the same one. Of a *newer* view that is not true: then `view` is a stale report.
    fn ends_in(&self, view: ViewId) -> bool {
        self.view == view || self.view.ring.seq < view.ring.seq
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
    /// Nothing is known: the bound of every absent node, and every configured node must have
    /// reported since.
    Unknown {
        /// The bounds have passed then.
        until: Time,
    },
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
}

/// One cluster's grants and bounds.
#[derive(Clone, Debug)]
pub(super) struct Ledger {
    epoch: Epoch,
    current: Option<(GrantRecord, Standing)>,
    holds: BTreeMap<NodeId, Hold>,
    writing: Option<(Token, GrantRecord)>,
    retry_at: Option<Time>,
    quarantine: Quarantine,
    reported: BTreeSet<NodeId>,
}

impl Ledger {
    /// The ledger of a cluster that the state directory knows nothing of (safety 35).
    pub(super) fn unknown(started: Time, bound: Duration) -> Self {
        Self {
            epoch: Epoch(0),
            current: None,
            holds: BTreeMap::new(),
            writing: None,
            retry_at: None,
            quarantine: Quarantine::Unknown { until: started + bound },
            reported: BTreeSet::new(),
        }
    }

    /// The ledger of a cluster with a recorded grant, at a start of the process (rule S3).
    pub(super) fn recover(now: Time, memory: &Memory, record: &GrantRecord) -> Self {
        let known_boot = memory.host_boot.0 != 0;
        let same_boot = known_boot && record.host_boot == memory.host_boot;
        let until = record.bound_ms.map_or(Time::NEVER, |ms| now + Duration::from_millis(ms));
        let hold = Hold::from([(record.grant.epoch, Held { until, view: record.view })]);
        let standing =
            if same_boot { Standing::Good } else { Standing::Presented(BTreeSet::new()) };
        let quarantine = if same_boot {
            Quarantine::None
        } else {
            // A restored record may be older than the longest lease that is out there.
            let longest = until.max(now + times::SOLO_LEASE_HOLD);
            Quarantine::Recorded { until: if until == Time::NEVER { now } else { longest } }
        };
        // A record of an earlier boot may come from a backup; epochs that were given since must
        // not be given again (safety 10).
        let room = if same_boot { 0 } else { RESTORED_EPOCHS };
        Self {
            epoch: Epoch(record.grant.epoch.0.saturating_add(room)),
            current: Some((record.clone(), standing)),
            holds: record.nodes.iter().map(|node| (*node, hold.clone())).collect(),
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
            self.current = None;
            self.quarantine = Quarantine::Unknown { until: now + unknown_bound };
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

    /// No node that is not in the view can count the vote any more, and no start is too fresh.
    pub(super) fn may_move(&self, now: Time, to: &Candidate) -> bool {
        self.retry_at.is_none_or(|at| at <= now) && self.waits_for(now, to).is_none()
    }

    /// What a move waits for: in words, and until when at the latest.
    pub(super) fn waits_for(&self, now: Time, to: &Candidate) -> Option<(String, Time)> {
        let held = self.holds.iter().flat_map(|(node, hold)| {
            let (inside, reports) = (to.members.contains(node), to.reporting.contains(node));
            let over = move |held: &Held| inside && (reports || held.ends_in(to.view));
            let counts = hold.values().filter(move |held| !over(held));
            counts.map(|held| (*node, held.until))
        });
        if let Some((node, until)) = held.filter(|(_, until)| *until > now).max_by_key(|h| h.1) {
            return Some((format!("node {node} may still count the vote"), until));
        }
        // In a view of all nodes nobody is outside, if it is not a stale one: somebody who is
        // not heard may have left it long ago.
        let configured = &to.configured;
        if configured.iter().all(|node| to.members.contains(node))
            && to.members.iter().all(|node| to.reporting.contains(node))
        {
            return None;
        }
        match self.quarantine {
            Quarantine::None => None,
            Quarantine::Recorded { until } => (until > now).then(|| {
                ("the arbiter's host has restarted: recorded leases run out".to_owned(), until)
            }),
            Quarantine::Unknown { until } => {
                if let Some(node) = configured.iter().find(|node| !self.reported.contains(node)) {
                    let text = format!("nothing is known of node {node} since the arbiter's start");
                    return Some((text, Time::NEVER));
                }
                (until > now)
                    .then(|| ("the arbiter's state is new: old leases run out".to_owned(), until))
            }
        }
    }

    /// The next moment at which a wait may have ended.
    pub(super) fn deadline(&self, now_or_later: Time) -> Option<Time> {
        let quarantine = match self.quarantine {
            Quarantine::None => None,
            Quarantine::Recorded { until } | Quarantine::Unknown { until } => Some(until),
        };
        let holds = self.holds.values().flat_map(|hold| hold.values().map(|held| held.until));
        let all = holds.chain(quarantine).chain(self.retry_at);
        all.filter(|at| *at > now_or_later && *at != Time::NEVER).min()
    }

    /// Until when a node may count the vote of any grant.
    pub(super) fn hold_until(&self, node: NodeId) -> Time {
        let hold = self.holds.get(&node).into_iter().flat_map(Hold::values);
        hold.map(|held| held.until).max().unwrap_or(Time::ZERO)
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

    pub(super) fn written(&mut self, now: Time, token: Token) {
        let Some((_, record)) = self.writing.take_if(|(writing, _)| *writing == token) else {
            return;
        };
        self.epoch = self.epoch.max(record.grant.epoch);
        self.holds.retain(|node, _| record.nodes.contains(node));
        for node in record.nodes.clone() {
            self.extend(now, node, &record);
        }
        self.current = Some((record, Standing::Good));
        self.quarantine = Quarantine::None;
    }

    pub(super) fn not_written(&mut self, now: Time, token: Token) {
        if self.is_writing(token) {
            self.writing = None;
            self.retry_at = Some(now + WRITE_RETRY);
        }
    }

    /// A node's lease of the current grant is (re)newed at `now`.
    pub(super) fn renew(&mut self, now: Time, node: NodeId) {
        if let Some((record, _)) = self.current.clone() {
            self.extend(now, node, &record);
        }
    }

    fn extend(&mut self, now: Time, node: NodeId, record: &GrantRecord) {
        let until = record.bound_ms.map_or(Time::NEVER, |ms| now + Duration::from_millis(ms));
        let hold = self.holds.entry(node).or_default();
        let held = Held { until, view: record.view };
        let old = hold.entry(record.grant.epoch).or_insert(held);
        old.until = old.until.max(until);
    }

    /// A client without leases says that its host is quorate: it may count the vote until it says
    /// otherwise, whoever gave it that (an arbiter before this one).
    pub(super) fn counts(&mut self, node: NodeId, view: ViewId) {
        let held = Held { until: Time::NEVER, view };
        self.holds.entry(node).or_default().insert(self.epoch, held);
    }

    /// A node has applied the ACK of a grant: it counts no older one any more, because a vote
    /// counts in one view at a time.
    pub(super) fn applied(&mut self, node: NodeId, epoch: Epoch) {
        if let Some(hold) = self.holds.get_mut(&node) {
            hold.retain(|granted, _| *granted >= epoch);
        }
    }

    /// A node has applied the loss of the vote.
    pub(super) fn release(&mut self, node: NodeId) {
        self.holds.remove(&node);
    }

    /// Nobody is to have the vote: the grant is not renewed any more.
    pub(super) fn withdraw(&mut self) {
        self.current = None;
    }
}
