//! The guard on two nodes of a real corosync cluster with a quorum device, ours and the stock one,
//! and our arbiter: who is not entitled any more is reset before the other side may recover what
//! ran there, and who is entitled is petted on.
//!
//! Set HAGUARD_GUARD to a number from 0 to 3 to have one of the four clusters alone.

#![expect(clippy::unwrap_used, reason = "a test ends where it goes wrong")]

#[allow(dead_code, reason = "each test of the lab uses a part of it")]
mod lab;
#[path = "guard_cluster/machines.rs"]
mod machines;

use std::time::Duration;

use haguard::command::demo::samples::now;
use protocol::status::QuorumState;
use protocol::time::Time;
use protocol::vote::Algorithm;

use lab::conf::{Arbiter, Plan, Stack};
use lab::pki::Pki;
use lab::{At, patiently, table};
use machines::{Machines, Said, Times};

const FIRST: At = At::Node(1);
const SECOND: At = At::Node(2);

/// B: token and consensus of the lab, which are less than half of the watchdogs' timeouts.
const BELIEF: Duration = Duration::from_millis(2200);
/// What a busy machine may add to what a guard or keeper does at once.
const SLACK: Duration = Duration::from_millis(500);
/// The guard asks corosync this often, so a proof can be that much older than a change.
const ASK: Duration = Duration::from_millis(200);
/// From the end of an entitlement to the reset by the keeper, before the watchdog's own: W - 1 s.
const EARLY: Duration = Duration::from_secs(1);

/// With our device S may be longer than W. B, W, 0.1 s and 1 % of W are what the others wait.
const OURS: Times = Times { watchdog: 5, peers_wait: 7350, device: (2000, 6000) };
/// The arbiter waits for a lost node longer than B.
const PATIENT: Times = Times { watchdog: 5, peers_wait: 7350, device: (5500, 8000) };
/// With the stock device S is in place of B.
const STOCK: Times = Times { watchdog: 6, peers_wait: 12_160, device: (2000, 6000) };

/// The same, and T is longer than corosync takes to find a loss, so that there is a vote to hold.
const STOCK_PATIENT: Times = Times { watchdog: 7, peers_wait: 14_170, device: (4000, 7000) };

/// What was measured, in words.
type Figures = Vec<(String, Duration)>;

/// Two guards that pet.
fn pair(pki: &Pki, stack: Stack, times: Times) -> Machines {
    let plan = Plan::new(Arbiter::Ours, stack, Algorithm::Ffsplit);
    let mut pair = Machines::new(plan, pki, times);
    pair.up();
    pair
}

fn frozen(said: &Said) -> bool {
    said.status.state == QuorumState::Frozen
}

/// What a node's corosync has said last.
fn corosync(pair: &Machines, node: u32) -> Option<QuorumState> {
    pair.lab.watch.picture().iter().find(|run| run.node == node).map(|run| run.state)
}

/// The end of a node's entitlement, and what comes after it.
struct Loss {
    node: u32,
    /// The first answer that says so.
    end: Said,
    /// How long before it the other node was quorate without this one.
    overlap: Duration,
}

/// Waits until a node is not entitled any more and the other one is quorate alone.
fn lost(pair: &Machines, node: u32, since: Time) -> (Loss, Said) {
    let end = pair.wait(node, since, "inquorate", |said| !said.entitled());
    let won = pair.wait(3 - node, since, "quorate alone", Said::alone);
    let said = pair.said(node, since);
    let last = said.iter().rev().find(|said| said.entitled()).map_or(since, |said| said.asked);
    let overlap = last.since(won.heard);
    (Loss { node, end, overlap }, won)
}

impl Loss {
    /// The node is not petted after its end, and is reset before its watchdog would do so, and
    /// before the other one has waited out what it waits from its quorum on.
    fn is_reset(
        &self,
        pair: &mut Machines,
        since: Time,
        won: &Said,
        times: Times,
        figures: &mut Figures,
    ) {
        let (pet, reset) = pair.reset(self.node, since);
        let watchdog = Duration::from_secs(times.watchdog);
        let end = self.end.heard;
        assert!(pet < end + SLACK, "petted {:?} after the end", pet.since(end));
        assert!(reset < pet + watchdog, "the watchdog was first: {:?}", reset.since(pet));
        let late = reset.since(end + watchdog - EARLY);
        assert!(late < SLACK, "the keeper was {late:?} late");
        let recovery = won.asked + Duration::from_millis(times.peers_wait);
        assert!(reset < recovery, "{:?} too late", reset.since(recovery));
        figures.extend([
            ("last pet".to_owned(), pet.since(since)),
            ("end of entitlement".to_owned(), end.since(since)),
            ("other side quorate".to_owned(), won.heard.since(since)),
            ("both entitled for".to_owned(), self.overlap),
            ("reset".to_owned(), reset.since(since)),
            ("left of the other's wait".to_owned(), recovery.since(reset)),
        ]);
    }
}

/// The nodes do not hear each other; the arbiter hears both, and prefers the first.
fn cut(pair: &mut Machines, times: Times) -> Figures {
    let mut figures = Figures::new();
    let start = now();
    pair.lab.cut(&[&[FIRST], &[SECOND]]);
    let (loss, won) = lost(pair, 2, start);
    assert!(loss.overlap.is_zero(), "both for {:?}\n{}", loss.overlap, pair.story(start));
    loss.is_reset(pair, start, &won, times, &mut figures);
    pair.was_petted(1, start);
    figures
}

/// Everything passes again, and the node that was reset has booted.
fn heal(pair: &mut Machines, back: u32) -> Figures {
    let start = now();
    pair.lab.heal();
    pair.boot(back);
    pair.guarded();
    pair.was_petted(3 - back, start);
    vec![("both petted again".to_owned(), now().since(start))]
}

/// In a split the holder of the vote does not hear the arbiter, either: the vote moves to the
/// other node, which was reset and has booted.
fn holder_cut_off(
    pair: &mut Machines,
    times: Times,
    on_the_way: impl FnOnce(&mut Machines, Time) -> Figures,
) -> Figures {
    pair.boot(2);
    let start = now();
    pair.start_guard(2);
    let idle = pair.wait(2, start, "not quorate, not armed", |said| said.status.votes.total > 0);
    assert!(!idle.entitled() && !idle.status.watchdog.armed, "{idle:?}");
    let start = now();
    pair.lab.cut_also(FIRST, At::Arbiter);
    let mut figures = on_the_way(pair, start);
    let (loss, won) = lost(pair, 1, start);
    assert!(loss.overlap.is_zero(), "both for {:?}\n{}", loss.overlap, pair.story(start));
    loss.is_reset(pair, start, &won, times, &mut figures);
    figures
}

/// A device of ours stops at its lease's end: corosync counts its last word for T, the guard does
/// not.
fn lease_ends(pair: &mut Machines, start: Time) -> Figures {
    let left = |said: &Said| {
        let device = said.status.qdevice.as_ref()?;
        device.lease_remaining_ms.map(Duration::from_millis)
    };
    let short = |said: &Said| left(said).is_some_and(|left| left < Duration::from_millis(600));
    let last = pair.wait(1, start, "the lease is nearly over", short);
    pair.silence_device(1);
    let end = last.heard + left(&last).unwrap();
    let ended = pair.wait(1, start, "inquorate", |said| !said.entitled());
    let late = ended.asked.since(end);
    assert!(late < SLACK, "{late:?} after the lease\n{}", pair.story(start));
    // Its own vote and the device's.
    let votes = &ended.status.votes;
    assert_eq!((votes.total, votes.quorum), (2, 2), "corosync counts on\n{}", pair.story(start));
    assert_eq!(corosync(pair, 1), Some(QuorumState::Quorate), "{}", pair.story(start));
    let inquorate = patiently("corosync", Duration::from_secs(5), || {
        (corosync(pair, 1) == Some(QuorumState::Inquorate)).then(now)
    });
    vec![("corosync has counted for".to_owned(), inquorate.since(ended.heard))]
}

fn with_our_device(pki: &Pki) -> Vec<(&'static str, Figures)> {
    let mut pair = pair(pki, Stack::Mixed, OURS);
    let split = cut(&mut pair, OURS);
    let holder = holder_cut_off(&mut pair, OURS, lease_ends);
    let healed = heal(&mut pair, 1);
    vec![("ours: cut", split), ("ours: holder cut off", holder), ("ours: heal", healed)]
}

/// The other node loses its power, and the arbiter waits until it cannot count the vote any more:
/// corosync holds the change of members and the old quorum, and the guard goes on.
fn held_by_the_arbiter(pair: &mut Machines) -> Figures {
    let start = now();
    pair.power_off(2);
    let change = pair.wait(1, start, "frozen", frozen);
    let won = pair.wait(1, start, "quorate alone", Said::alone);
    let held = won.asked.since(change.heard);
    assert!(held > BELIEF, "held for {held:?} only");
    pair.was_petted(1, start);
    let begin = change.heard.since(start);
    vec![("frozen from".to_owned(), begin), ("petted while held for".to_owned(), held)]
}

/// The device of the node that the arbiter prefers is silent when the nodes are cut: corosync
/// waits for it, for S, and keeps the old quorum. The guard believes that for `limit`.
fn held_by_nobody(pair: &mut Machines, times: Times, limit: Duration) -> Figures {
    pair.silence_device(1);
    let start = now();
    pair.lab.cut(&[&[FIRST], &[SECOND]]);
    let change = pair.wait(1, start, "frozen", frozen);
    let end = pair.wait(1, start, "inquorate", |said| !said.entitled());
    let petted = end.asked.since(change.heard);
    let expected = limit - ASK - SLACK..limit + SLACK;
    assert!(expected.contains(&petted), "for {petted:?}\n{}", pair.story(start));
    let sync = change.heard + Duration::from_millis(times.device.1);
    if end.heard + SLACK < sync {
        assert_eq!(corosync(pair, 1), Some(QuorumState::Quorate), "{}", pair.story(start));
    }
    let mut figures = vec![("frozen and petted for".to_owned(), petted)];
    let (loss, won) = lost(pair, 1, start);
    assert!(loss.overlap <= limit, "both for {:?}\n{}", loss.overlap, pair.story(start));
    loss.is_reset(pair, start, &won, times, &mut figures);
    figures
}

fn holds(mut pair: Machines, times: Times, limit: Duration) -> [Figures; 4] {
    let arbiter = held_by_the_arbiter(&mut pair);
    let booted = heal(&mut pair, 2);
    let nobody = held_by_nobody(&mut pair, times, limit);
    let healed = heal(&mut pair, 1);
    [arbiter, booted, nobody, healed]
}

/// Our device's lease is over long before the proof of the quorum without it. The arbiter was told
/// T and S of the node that loses its power, because its device came within a change of members,
/// and waits for T all the same, since that change is over: with S the other one would lose its
/// quorum, and be reset.
fn while_our_device_holds(pki: &Pki) -> Vec<(&'static str, Figures)> {
    let plan = Plan::new(Arbiter::Ours, Stack::Mixed, Algorithm::Ffsplit);
    let mut pair = Machines::new(plan, pki, PATIENT);
    pair.lab.up().unwrap();
    pair.introduce_within_a_change();
    pair.guarded();
    let names = ["ours: held by the arbiter", "ours: boot", "ours: held by nobody", "ours: heal"];
    names.into_iter().zip(holds(pair, PATIENT, BELIEF)).collect()
}

/// Nobody but corosync knows of a stock device, so all of S is believed.
fn while_the_stock_device_holds(pki: &Pki) -> Vec<(&'static str, Figures)> {
    let names =
        ["stock: held by the arbiter", "stock: boot", "stock: held by nobody", "stock: heal"];
    let sync = Duration::from_millis(STOCK_PATIENT.device.1);
    let pair = pair(pki, Stack::Stock, STOCK_PATIENT);
    names.into_iter().zip(holds(pair, STOCK_PATIENT, sync)).collect()
}

fn with_the_stock_device(pki: &Pki) -> Vec<(&'static str, Figures)> {
    let plan = Plan::new(Arbiter::Ours, Stack::Stock, Algorithm::Ffsplit);
    let mut pair = Machines::new(plan, pki, STOCK);
    pair.lab.up().unwrap();
    let refusal = pair.refused(1, 5);
    let inequality = "quorum.device.sync_timeout <= watchdog timeout does not hold: 6 s > 5 s;";
    assert!(refusal.contains(inequality), "{refusal}");
    pair.guarded();
    let split = cut(&mut pair, STOCK);
    let holder = holder_cut_off(&mut pair, STOCK, |_, _| Figures::new());
    let healed = heal(&mut pair, 1);
    vec![("stock: cut", split), ("stock: holder cut off", holder), ("stock: heal", healed)]
}

#[test]
fn who_loses_the_quorum_is_reset_before_the_others_may_recover_and_who_has_it_is_petted() {
    if !lab::is_possible() {
        return;
    }
    let pki = Pki::stock();
    let clusters = [
        with_our_device,
        while_our_device_holds,
        with_the_stock_device,
        while_the_stock_device_holds,
    ];
    let only = std::env::var("HAGUARD_GUARD").ok().and_then(|only| only.parse::<usize>().ok());
    let results = lab::several(clusters.len(), clusters.len(), |at| {
        if only.is_some_and(|only| only != at) {
            return Vec::new();
        }
        let begin = now();
        let mut rows = clusters[at](&pki);
        rows.push(("all", vec![("took".to_owned(), now().since(begin))]));
        rows
    });
    let rows = results.into_iter().flatten().flat_map(|(cluster, figures)| {
        figures.into_iter().map(move |(what, time)| {
            vec![cluster.to_owned(), what, format!("{:.2} s", time.as_secs_f64())]
        })
    });
    table::print(&["cluster", "what", "time"], &rows.collect::<Vec<_>>());
}
