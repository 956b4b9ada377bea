use std::collections::BTreeMap;

use protocol::host::{DeviceSettings, HeuristicsSettings, TlsMode};
use protocol::ids::{BootId, InstanceId};
use protocol::vote::{Algorithm, Bound, TieBreaker};

use super::*;

const T: Duration = Duration::from_secs(10);
const OLD: RingId = RingId::new(1, 8);
const NEW: RingId = RingId::new(1, 12);

/// What votequorum does with polls, as far as the counting can see it.
struct Bench {
    counting: Counting,
    now: Time,
    /// votequorum's ring; a poll for another is refused.
    ring: RingId,
    info: Info,
    polls: Vec<(RingId, bool)>,
    said: Vec<FromHost>,
    busy: bool,
    unregistered: bool,
    lost: bool,
}

impl Bench {
    /// Registered, quorate by the nodes alone.
    fn new() -> Self {
        let mut bench = Self::unregistered();
        bench.feed(Event::Registered);
        bench.ring(OLD);
        bench
    }

    fn unregistered() -> Self {
        let info = Info {
            expected_votes: 3,
            total_votes: 2,
            quorum: 2,
            quorate: true,
            registered: true,
            cast: false,
            device_votes: 1,
        };
        let mut bench = Self {
            counting: Counting::new(),
            now: Time::from_millis(1000),
            ring: OLD,
            info,
            polls: Vec::new(),
            said: Vec::new(),
            busy: false,
            unregistered: false,
            lost: false,
        };
        bench.feed(Event::Configured(Box::new(welcome(T))));
        bench
    }

    fn feed(&mut self, event: Event) {
        self.counting.handle(self.now, event);
        while let Some(action) = self.counting.next_action() {
            let answer = match action {
                Action::Say(FromHost::Alive { .. }) => None,
                Action::Say(said) => {
                    self.said.push(said);
                    None
                }
                Action::Poll(poll) => {
                    let outcome = self.poll(poll);
                    Some(Event::Polled(poll, outcome))
                }
                Action::Look => Some(Event::Looked(self.info)),
                Action::Unregister => {
                    self.unregistered = true;
                    None
                }
                Action::Lost => {
                    self.lost = true;
                    None
                }
            };
            if let Some(event) = answer {
                self.counting.handle(self.now, event);
            }
        }
    }

    fn poll(&mut self, poll: Poll) -> Outcome {
        if self.busy {
            return Outcome::Busy;
        }
        if poll.ring != self.ring {
            return Outcome::OtherRing;
        }
        self.polls.push((poll.ring, poll.cast));
        self.info.cast = poll.cast;
        Outcome::Taken
    }

    /// A whole membership change, or its begin as the device hears it.
    fn ring(&mut self, ring: RingId) {
        self.change_begins(ring);
        self.change_ends(true);
    }

    fn change_begins(&mut self, ring: RingId) {
        self.ring = ring;
        self.feed(Event::Ring(ring, vec![NodeId(1), NodeId(2)]));
    }

    fn change_ends(&mut self, quorate: bool) {
        self.info.quorate = quorate;
        let nodes = BTreeMap::from([(NodeId(1), true), (NodeId(2), true)]);
        self.feed(Event::Quorum { quorate, expected_votes: 3, nodes });
    }

    fn cast(&mut self, id: u64, ring: RingId, lease: Duration) {
        let cast = Some((self.now + lease, Epoch(5)));
        self.feed(Event::Vote { id, view: view_of(ring), cast });
    }

    fn take_back(&mut self, id: u64) {
        self.feed(Event::Vote { id, view: view_of(self.ring), cast: None });
    }

    /// Lets time pass, as the thread does.
    fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(at) = self.counting.deadline().filter(|at| *at <= end) {
            self.now = at;
            self.feed(Event::Timeout);
        }
        self.now = end;
        self.feed(Event::Timeout);
    }

    fn answers(&mut self) -> Vec<(u64, bool)> {
        let answers = self.said.iter().filter_map(|said| match said {
            FromHost::Polled { id, applied } => Some((*id, *applied)),
            FromHost::Welcome(_)
            | FromHost::View(_)
            | FromHost::Quorum(_)
            | FromHost::Alive { .. } => None,
        });
        let answers = answers.collect();
        self.said.clear();
        answers
    }
}

fn welcome(timeout: Duration) -> Welcome {
    let device = DeviceSettings {
        host: "arbiter".to_owned(),
        port: 5403,
        tls: TlsMode::Off,
        algorithm: Algorithm::Ffsplit,
        tie_breaker: TieBreaker::Lowest,
        keep_active_partition: true,
        timeout_ms: u32::try_from(timeout.as_millis()).unwrap(),
        sync_timeout_ms: 30_000,
        heartbeat_ms: 8000,
        connect_timeout_ms: 8000,
        force_ip_version: 0,
        heuristics: HeuristicsSettings::default(),
    };
    Welcome {
        cluster: "c".to_owned(),
        node: NodeId(1),
        boot: BootId(1),
        instance: InstanceId(1),
        bound: Bound::default(),
        config_version: None,
        nodes: BTreeMap::from([(NodeId(1), 0), (NodeId(2), 0)]),
        device: Some(device),
    }
}

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

#[test]
fn a_vote_ends_with_its_lease_though_the_device_is_silent() {
    let mut bench = Bench::new();
    bench.cast(1, OLD, secs(1));
    assert_eq!(bench.polls.last(), Some(&(OLD, true)));
    assert_eq!(bench.answers(), [(1, true)]);
    bench.pass(Duration::from_millis(999));
    assert_eq!(bench.polls.last(), Some(&(OLD, true)));
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.polls.last(), Some(&(OLD, false)));
}

#[test]
fn a_long_lease_is_polled_before_corosync_forgets_the_device() {
    let mut bench = Bench::new();
    bench.cast(1, OLD, secs(60));
    bench.polls.clear();
    bench.pass(secs(59));
    assert!(bench.polls.len() >= 11, "every T/2: {:?}", bench.polls);
    assert!(bench.polls.iter().all(|poll| *poll == (OLD, true)));
    bench.polls.clear();
    bench.pass(secs(60));
    assert!(bench.polls.len() >= 12, "without a vote too: {:?}", bench.polls);
    assert!(bench.polls.iter().all(|poll| *poll == (OLD, false)));
}

#[test]
fn a_vote_for_an_old_ring_is_not_applied() {
    let mut bench = Bench::new();
    bench.cast(1, NEW, secs(5));
    assert_eq!(bench.answers(), [(1, false)]);
    // corosync knows of the new ring before the device does.
    bench.ring = NEW;
    bench.cast(2, OLD, secs(5));
    assert_eq!(bench.answers(), [(2, false)]);
    assert_eq!(bench.polls, []);
}

#[test]
fn a_change_is_held_while_the_old_lease_is_renewed() {
    let mut bench = Bench::new();
    bench.cast(1, OLD, secs(1));
    bench.change_begins(NEW);
    bench.polls.clear();
    for id in 2..20 {
        bench.pass(Duration::from_millis(250));
        bench.cast(id, OLD, secs(1));
    }
    assert_eq!(bench.polls, [], "the change is held");
    bench.cast(20, NEW, secs(1));
    assert_eq!(bench.polls, [(NEW, true)]);
    assert_eq!(bench.answers().last(), Some(&(20, true)));
}

#[test]
fn a_change_is_released_when_the_old_lease_ends() {
    let mut bench = Bench::new();
    bench.cast(1, OLD, secs(1));
    bench.change_begins(NEW);
    bench.polls.clear();
    bench.pass(Duration::from_millis(999));
    assert_eq!(bench.polls, []);
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.polls, [(NEW, false)]);
    // The old lease cannot come back.
    bench.cast(2, OLD, secs(1));
    assert_eq!(bench.polls, [(NEW, false)]);
}

#[test]
fn a_change_without_a_lease_is_not_held_for_long() {
    let mut bench = Bench::new();
    bench.pass(secs(3));
    bench.change_begins(NEW);
    bench.polls.clear();
    bench.pass(PATIENCE - Duration::from_millis(1));
    assert_eq!(bench.polls, []);
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.polls, [(NEW, false)]);
}

#[test]
fn a_loss_is_confirmed_when_the_quorum_no_longer_rests_on_it() {
    let mut bench = Bench::new();
    bench.info.total_votes = 1;
    bench.cast(1, OLD, secs(10));
    assert_eq!(bench.answers(), [(1, true)]);
    bench.take_back(2);
    assert_eq!(bench.polls.last(), Some(&(OLD, false)));
    bench.pass(Duration::from_millis(100));
    assert_eq!(bench.answers(), [], "the message has not gone around the ring");
    bench.info.quorate = false;
    bench.pass(Duration::from_millis(20));
    assert_eq!(bench.answers(), [(2, true)]);
}

#[test]
fn a_loss_within_a_change_is_confirmed_after_it() {
    let mut bench = Bench::new();
    bench.cast(1, OLD, secs(10));
    bench.change_begins(NEW);
    bench.answers();
    bench.take_back(2);
    assert_eq!(bench.polls.last(), Some(&(NEW, false)));
    bench.info.quorate = false;
    bench.pass(Duration::from_millis(100));
    assert_eq!(bench.answers(), [], "libquorum's clients still read the old quorum");
    bench.change_ends(false);
    bench.pass(Duration::from_millis(20));
    assert_eq!(bench.answers(), [(2, true)]);
}

#[test]
fn a_loss_that_comes_too_late_for_its_ring_is_told_in_the_next_at_once() {
    let mut bench = Bench::new();
    bench.cast(1, OLD, secs(10));
    bench.ring = NEW;
    bench.take_back(2);
    assert_eq!(bench.polls.last(), Some(&(OLD, true)));
    bench.change_begins(NEW);
    assert_eq!(bench.polls.last(), Some(&(NEW, false)));
}

#[test]
fn a_busy_corosync_is_asked_again() {
    let mut bench = Bench::new();
    bench.busy = true;
    bench.cast(1, OLD, secs(5));
    assert_eq!(bench.answers(), [(1, false)]);
    bench.busy = false;
    bench.pass(RETRY);
    assert_eq!(bench.polls, [(OLD, true)]);
    bench.busy = true;
    bench.pass(secs(5));
    bench.busy = false;
    bench.pass(RETRY);
    assert_eq!(bench.polls.last(), Some(&(OLD, false)));
}

#[test]
fn the_vote_of_an_earlier_life_goes_on_until_the_device_speaks() {
    let mut bench = Bench::unregistered();
    bench.info.cast = true;
    bench.feed(Event::Registered);
    bench.ring(OLD);
    bench.pass(secs(5));
    assert_eq!(bench.polls, [], "corosync itself ends it after T");
    bench.cast(1, OLD, secs(5));
    assert_eq!(bench.polls, [(OLD, true)]);

    let mut silent = Bench::unregistered();
    silent.info.cast = true;
    silent.feed(Event::Registered);
    silent.ring(OLD);
    silent.info.cast = false;
    silent.pass(secs(1));
    assert_eq!(silent.polls, [(OLD, false)]);
}

#[test]
fn an_unregistered_device_polls_no_more() {
    let mut bench = Bench::new();
    bench.cast(1, OLD, secs(60));
    bench.feed(Event::Unregister);
    assert!(bench.unregistered);
    bench.polls.clear();
    bench.pass(secs(60));
    bench.cast(2, OLD, secs(60));
    assert_eq!(bench.polls, []);

    let mut other = Bench::new();
    other.info.registered = false;
    other.pass(LOOK);
    assert!(other.lost);
}

#[test]
fn a_host_that_answers_is_heard_often_enough_for_renewals() {
    assert!(LOOK * 3 < times::HOST_SILENCE);
    let mut bench = Bench::new();
    bench.counting.handle(bench.now, Event::Timeout);
    let first = bench.counting.deadline().unwrap();
    assert!(first.since(bench.now) <= LOOK);
}
