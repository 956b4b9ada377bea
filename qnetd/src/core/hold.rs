//! Vote-hold: for how long a client without leases may count the vote that it was given.
//!
//! A stock client holds the vote until it says otherwise, and its host for a while longer. What is
//! known of that while is in the wire's timers (wire 3.1, 5, 8.19): the heartbeat interval HB is
//! said at Init; T, the age at which votequorum drops a poll, and S, which replaces T while a
//! membership change is open, are not on the wire. A [`Rule`] turns them into bounds, a [`Trace`]
//! counts a bound from what was last heard of one client.
//!
//! | | single-fault | double-fault | with a ring change |
//! |---|---|---|---|
//! | silent since m | m + max(2·HB, HB + T) + g | m + 2·HB + T + g | m + HB + T + S + g |
//! | closed at k | k + T + g | k + T + g | k + T + S + g |
//!
//! g ([`times::vote_hold_guard`]) covers the token rotation that a vote needs to take effect.

use std::fmt;
use std::time::Duration;

use protocol::ids::ClusterName;
use protocol::time::Time;
use protocol::times;
use protocol::vote::Algorithm;

use super::Settings;
use super::waiting::{Counting, Endless};

/// Which faults of a stock client never leave two sides with the vote (rule S2b).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum VoteHold {
    /// Any one: a cut path, a crash or a hang.
    #[default]
    SingleFault,
    /// Also a cut path and then a crash, and each of them in the middle of a membership change.
    DoubleFault,
    /// As corosync-qnetd: the vote moves once the client is found dead or its connection is
    /// closed, though its host may go on counting it. Outside of rule S1.
    Off,
}

impl VoteHold {
    /// All of them, in the words of the settings file.
    pub const NAMES: [(&'static str, Self); 3] = [
        ("single-fault", Self::SingleFault),
        ("double-fault", Self::DoubleFault),
        ("off", Self::Off),
    ];
}

impl fmt::Display for VoteHold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SingleFault => "single-fault",
            Self::DoubleFault => "double-fault",
            Self::Off => "off",
        })
    }
}

/// What the operator says of one cluster's stock clients.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ClusterSettings {
    /// `None`: as for all clusters.
    pub vote_hold: Option<VoteHold>,
    /// T, `quorum.device.timeout` of its corosync.conf, in milliseconds; `None`: HB / 0.8.
    pub device_timeout_ms: Option<u32>,
    /// S, `quorum.device.sync_timeout`, in milliseconds; `None`: 30 000, corosync's default.
    pub sync_timeout_ms: Option<u32>,
    /// Its nodes do not have `wait_for_all`, so that their lms clients give the vote up when they
    /// lose the arbiter.
    pub lms_without_wait_for_all: bool,
}

/// The bounds of one stock client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Rule {
    pub(super) mode: VoteHold,
    heartbeat: Duration,
    /// T; `None`: nobody has said it, and HB does not tell.
    device_timeout: Option<Duration>,
    /// S.
    sync_timeout: Duration,
    /// The client keeps the vote for as long as it does not reach the arbiter (safety 15).
    endless: bool,
    /// The dead peer interval.
    dead_after: Duration,
}

impl Rule {
    /// The rule for a client of `cluster` with this algorithm and heartbeat interval.
    pub(super) fn new(
        settings: &Settings,
        cluster: &ClusterName,
        algorithm: Algorithm,
        heartbeat: Duration,
    ) -> Self {
        let said = settings.clusters.get(cluster).cloned().unwrap_or_default();
        let milliseconds = |ms: u32| Duration::from_millis(u64::from(ms));
        let keeps = match algorithm {
            Algorithm::Lms | Algorithm::TwoNodeLms => !said.lms_without_wait_for_all,
            Algorithm::Ffsplit | Algorithm::Test => false,
        };
        let derived =
            heartbeat_tells(settings, heartbeat).then(|| times::stock_device_timeout(heartbeat));
        Self {
            mode: said.vote_hold.unwrap_or(settings.vote_hold),
            heartbeat,
            // A shorter one than its heartbeat tells is a mistake, for which two sides is the price.
            device_timeout: said.device_timeout_ms.map(milliseconds).max(derived),
            sync_timeout: said.sync_timeout_ms.map_or(times::DEVICE_SYNC_TIMEOUT, milliseconds),
            endless: keeps,
            dead_after: heartbeat * settings.dpd_percent / 100,
        }
    }

    /// How long it may count the vote after its last message, or after its connection was closed
    /// from its side; `None`: without limit.
    pub(super) fn bound(&self, closed: bool, ring_change: bool) -> Option<Duration> {
        let ring_change = match self.mode {
            VoteHold::Off => return Some(if closed { Duration::ZERO } else { self.dead_after }),
            VoteHold::SingleFault => false,
            VoteHold::DoubleFault => ring_change,
        };
        if self.endless {
            return None;
        }
        let (heartbeat, device_timeout) = (self.heartbeat, self.device_timeout?);
        let sync = if ring_change { self.sync_timeout } else { Duration::ZERO };
        let bound = match (closed, self.mode) {
            (true, _) => device_timeout + sync,
            (false, VoteHold::SingleFault) => (heartbeat * 2).max(heartbeat + device_timeout),
            (false, VoteHold::DoubleFault | VoteHold::Off) => {
                (heartbeat * 2 + device_timeout).max(heartbeat + device_timeout + sync)
            }
        };
        Some(bound + times::vote_hold_guard(heartbeat))
    }

    /// How long it may count the vote after its last message, whatever happens unseen: for the
    /// journal.
    pub(super) fn recorded(&self) -> Option<Duration> {
        self.bound(false, true)
    }

    /// How long a node of its kind may count a vote of which nothing is known (F8, F12).
    pub(super) fn unknown(&self) -> Option<Duration> {
        let cut_and_crash = Self { mode: VoteHold::DoubleFault, ..*self };
        match self.mode {
            VoteHold::Off | VoteHold::DoubleFault => self.recorded(),
            VoteHold::SingleFault => cut_and_crash.bound(false, false),
        }
    }

    /// Why it has no bound.
    fn endless_reason(&self) -> Endless {
        if self.endless { Endless::Kept } else { Endless::TimeoutUnknown }
    }

    /// What this rule leaves open, for status.
    pub(super) fn remark(&self) -> String {
        let mode = self.mode;
        let times = match (self.bound(false, false), self.bound(true, false)) {
            (Some(silent), Some(closed)) => format!(
                "a lost stock client keeps the vote for {} s after its last message, {} s after its \
                 connection closed",
                Seconds(silent),
                Seconds(closed)
            ),
            (_, _) => {
                return format!(
                    "vote-hold {mode}: the vote of a lost stock client is not moved: {}",
                    self.endless_reason()
                );
            }
        };
        let open = match mode {
            VoteHold::SingleFault => {
                "; a second fault within that time, or a crash in the middle of \
                 a membership change, can leave two sides with it (double-fault covers them)"
            }
            VoteHold::DoubleFault => ", and longer in a membership change",
            VoteHold::Off => "; its host may count it for longer: two sides can have it",
        };
        format!("vote-hold {mode}: {times}{open}")
    }

    /// What the operator should know when such a client comes, if anything (safety 15, F10).
    pub(super) fn warning(&self, algorithm: Algorithm) -> Option<String> {
        if self.mode == VoteHold::Off {
            return Some(
                "vote-hold is off: the vote moves although a lost stock client may count it for \
                 longer; set vote-hold = \"single-fault\""
                    .to_owned(),
            );
        }
        match algorithm {
            Algorithm::TwoNodeLms if self.endless => Some(
                "a stock 2nodelms client keeps the vote without limit when it loses the arbiter, \
                 so a silent node's vote is not moved; use ffsplit, or set \
                 lms-without-wait-for-all = true for this cluster to move it all the same"
                    .to_owned(),
            ),
            Algorithm::TwoNodeLms => Some(
                "lms-without-wait-for-all is set, but a stock 2nodelms client keeps the vote \
                 without limit when it loses the arbiter: two sides can have it; use ffsplit"
                    .to_owned(),
            ),
            Algorithm::Lms if self.endless => Some(
                "a stock lms client with wait_for_all keeps the vote without limit, so a silent \
                 node's vote is not moved; set lms-without-wait-for-all = true for this cluster \
                 if its nodes have no wait_for_all"
                    .to_owned(),
            ),
            Algorithm::Ffsplit | Algorithm::Lms | Algorithm::Test => self
                .device_timeout
                .is_none()
                .then(|| format!("a silent node's vote is not moved: {}", self.endless_reason())),
        }
    }
}

/// HB is 0.8 · T unless it was cut off at an end of the client's range, which is 1 to 120 s unless
/// somebody moved it. At the lower end T is below what HB says, which is on the safe side; below
/// that, and from the upper end on, anything is possible (safety 16).
fn heartbeat_tells(settings: &Settings, heartbeat: Duration) -> bool {
    let ms = heartbeat.as_millis();
    ms >= 1000 && ms < u128::from(settings.heartbeat_max_ms.min(120_000))
}

/// Until when one process of a stock client may count the vote, and why.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trace {
    rule: Rule,
    /// Its last message, or the end of its connection.
    since: Time,
    closed: bool,
    /// Its host's membership change was not over.
    sync_open: bool,
    /// A ring without it was reported since.
    left_out: bool,
}

impl Trace {
    pub(super) fn heard(rule: Rule, at: Time, sync_open: bool) -> Self {
        Self { rule, since: at, closed: false, sync_open, left_out: false }
    }

    pub(super) fn closed(rule: Rule, at: Time, sync_open: bool) -> Self {
        Self { closed: true, ..Self::heard(rule, at, sync_open) }
    }

    /// A ring that was reported without the node counts until something newer is heard of it; the
    /// end of its connection is not that.
    pub(super) fn after(self, before: Option<Self>) -> Self {
        let is_news = |before: &Self| !self.closed && self.since > before.since;
        let left_out = before.filter(|before| !is_news(before)).is_some_and(|b| b.left_out);
        Self { left_out: self.left_out || left_out, ..self }
    }

    /// A ring without this node was reported, so S may have taken the place of T.
    pub(super) fn without_it(self) -> Self {
        Self { left_out: true, ..self }
    }

    fn ring_change(&self) -> bool {
        self.sync_open || self.left_out
    }

    /// [`Time::NEVER`]: until it says otherwise.
    pub(super) fn until(&self) -> Time {
        self.rule.bound(self.closed, self.ring_change()).map_or(Time::NEVER, |d| self.since + d)
    }

    /// Why the client may count the vote until then.
    pub(super) fn counting(&self) -> Counting {
        if self.until() == Time::NEVER {
            return Counting::Endless(self.rule.endless_reason());
        }
        let mode = self.rule.mode;
        // Where no time depends on it, it is no difference.
        let ring_change = match mode {
            VoteHold::DoubleFault => self.ring_change(),
            VoteHold::SingleFault | VoteHold::Off => false,
        };
        Counting::Lost { closed: self.closed, ring_change, mode }
    }
}

/// Seconds with one decimal, for people.
struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = self.0.as_millis().div_ceil(100);
        write!(f, "{}.{}", tenths / 10, tenths % 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(settings: &Settings, algorithm: Algorithm, heartbeat_ms: u64) -> Rule {
        Rule::new(settings, &"c".into(), algorithm, Duration::from_millis(heartbeat_ms))
    }

    fn with(said: ClusterSettings) -> Settings {
        Settings { clusters: [("c".into(), said)].into(), ..Settings::default() }
    }

    fn milliseconds(bound: Option<Duration>) -> Option<u128> {
        bound.map(|bound| bound.as_millis())
    }

    #[test]
    fn the_bounds_of_the_default_heartbeat_are_those_of_the_table() {
        let mut settings = Settings::default();
        let single = rule(&settings, Algorithm::Ffsplit, 8000);
        assert_eq!(milliseconds(single.bound(false, true)), Some(18_800));
        assert_eq!(milliseconds(single.bound(true, true)), Some(10_800));
        assert_eq!(milliseconds(single.unknown()), Some(26_800));
        settings.vote_hold = VoteHold::DoubleFault;
        let double = rule(&settings, Algorithm::Ffsplit, 8000);
        assert_eq!(milliseconds(double.bound(false, false)), Some(26_800));
        assert_eq!(milliseconds(double.bound(false, true)), Some(48_800));
        assert_eq!(milliseconds(double.bound(true, false)), Some(10_800));
        assert_eq!(milliseconds(double.bound(true, true)), Some(40_800));
        assert_eq!(milliseconds(double.unknown()), Some(48_800));
    }

    #[test]
    fn a_device_timeout_counts_as_configured_but_not_below_what_the_heartbeat_tells() {
        for (said, closed) in [(20_000, 20_800), (4000, 10_800)] {
            let said =
                ClusterSettings { device_timeout_ms: Some(said), ..ClusterSettings::default() };
            let rule = rule(&with(said), Algorithm::Ffsplit, 8000);
            assert_eq!(milliseconds(rule.bound(true, false)), Some(closed));
        }
    }

    #[test]
    fn a_heartbeat_outside_of_the_default_range_tells_nothing() {
        for heartbeat_ms in [999, 120_000, 130_000] {
            let rule = rule(&Settings::default(), Algorithm::Ffsplit, heartbeat_ms);
            assert_eq!(rule.bound(false, false), None, "{heartbeat_ms}");
            assert!(rule.remark().contains("device-timeout"));
        }
        for heartbeat_ms in [1000, 119_999] {
            let rule = rule(&Settings::default(), Algorithm::Ffsplit, heartbeat_ms);
            assert!(rule.bound(false, false).is_some(), "{heartbeat_ms}");
        }
        let lower = Settings { heartbeat_max_ms: 8000, ..Settings::default() };
        assert_eq!(rule(&lower, Algorithm::Ffsplit, 8000).bound(true, false), None);
    }

    #[test]
    fn the_guard_is_at_least_half_a_second() {
        let rule = rule(&Settings::default(), Algorithm::Ffsplit, 1000);
        assert_eq!(milliseconds(rule.bound(true, false)), Some(1250 + 500));
    }
}
