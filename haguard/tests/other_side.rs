//! Our device in the place of corosync-qdevice, on corosync and on our node, at the stock arbiter:
//! every kind of cluster, an arbiter that is lost, and one that loses its power and comes back.
//! `drop_in.rs` has the same from the other side; `docs/drop-in.md` has both for people.

#![expect(clippy::unwrap_used, reason = "a test ends where it goes wrong")]

#[allow(dead_code, reason = "each test of the lab uses a part of it")]
mod lab;

use std::collections::BTreeSet;
use std::time::Duration;

use haguard::command::demo::samples::now;
use nix::sys::signal::Signal;
use protocol::status::QuorumState;
use protocol::time::Time;
use protocol::vote::Algorithm::{self, Ffsplit, Lms, TwoNodeLms};
use protocol::vote::TieBreaker;

use lab::conf::{Arbiter, Heuristics, Plan, Stack, word};
use lab::pki::{Maker, Pki, Pkis};
use lab::rows::{self, ROWS, Row, halves, tls_version, values};
use lab::watch::Run;
use lab::{At, HAGUARD, Lab, Role, several, table};

/// Until the sides are known: corosync needs 2.4 s to give a node up, the stock lms then half a
/// heartbeat more.
const CUT: Duration = Duration::from_secs(12);
/// A side that lasts so long is no passing one.
const STILL: Duration = Duration::from_millis(1500);
/// Until a split has a side again after the arbiter's boot: a device pauses for up to 4.5 s between
/// two attempts, and one of them may take as long.
const BACK: Duration = Duration::from_secs(12);
/// 0.8 of the `timeout` of the lab's configurations.
const HEARTBEAT: Duration = Duration::from_millis(1600);
/// A stock arbiter's vote is cast for 1.25 heartbeats after the sending of an answered echo.
const STOCK_VOTE: Duration = Duration::from_millis(2000);
/// What a change needs to be seen: a round through the cluster, or an answer of a command.
const SEEN: Duration = Duration::from_millis(500);

/// Both hosts of our device.
const HOSTS: [Stack; 2] = [Stack::Mixed, Stack::Ours];

/// How many clusters are up at a time. They wait most of the time.
const AT_ONCE: usize = 6;

/// What was measured, or what went wrong.
type Cells = Result<Vec<String>, String>;

/// What the stock arbiter does that is not what the configuration says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fault {
    /// Hazard 6: who asks is answered, and nobody waits for the others. The loser hears of its loss
    /// at its own time, up to half a heartbeat after the winner has the vote.
    ToldLate,
    /// Hazard 6: a node that was told no when it was new is never looked at again. It has no vote
    /// until the arbiter is started anew; with both nodes there nobody misses it.
    NotAgain,
    /// Hazard 7: of the side that the tie-breaker names by an id, only that node gets the vote.
    OnlyNamed(u32),
}

impl Fault {
    /// As `docs/hazards.md` counts them.
    fn hazard(self) -> &'static str {
        match self {
            Self::ToldLate => "6 (told late)",
            Self::NotAgain => "6 (not again)",
            Self::OnlyNamed(_) => "7 (only named)",
        }
    }
}

/// The faults that are to be expected of the stock arbiter.
fn faults(plan: &Plan) -> Vec<Fault> {
    match plan.algorithm {
        Algorithm::Test | Ffsplit => Vec::new(),
        TwoNodeLms => vec![Fault::ToldLate, Fault::NotAgain],
        Lms => {
            let named = match plan.tie_breaker {
                // Two nodes are a side each.
                TieBreaker::Node(node) if plan.nodes == 4 => Some(Fault::OnlyNamed(node.0)),
                TieBreaker::Node(_) | TieBreaker::Lowest | TieBreaker::Highest => None,
            };
            [Some(Fault::ToldLate), named].into_iter().flatten().collect()
        }
    }
}

/// The nodes that have to be quorate after the cut, and the side that they are in.
fn expected(row: &Row, faults: &[Fault]) -> (BTreeSet<u32>, BTreeSet<u32>) {
    let (sides, winner) = halves(row);
    let side: BTreeSet<u32> = sides[winner].iter().copied().collect();
    let named = faults.iter().find_map(|fault| match fault {
        Fault::OnlyNamed(node) => Some([*node].into()),
        Fault::ToldLate | Fault::NotAgain => None,
    });
    (named.unwrap_or_else(|| side.clone()), side)
}

fn restart_arbiter(lab: &mut Lab) {
    lab.signal(At::Arbiter, Role::Arbiter, Signal::SIGKILL);
    lab.start_arbiter();
}

/// All nodes in one view, each with the vote; where the stock arbiter does not look at a node again
/// it is started anew.
fn whole(lab: &mut Lab) -> Result<Duration, String> {
    let start = now();
    lab.one_view()?;
    let faults = faults(&lab.plan);
    if faults.contains(&Fault::NotAgain) {
        let all = |lab: &Lab| lab.nodes().into_iter().all(|node| lab.has_vote(node));
        let asked = now();
        while !all(lab) {
            if now().since(asked) > HEARTBEAT {
                restart_arbiter(lab);
                break;
            }
            lab::pause();
        }
    }
    lab.whole()?;
    Ok(now().since(start))
}

/// # Errors
/// Two sides for longer than the arbiter's faults explain.
fn one_side(lab: &Lab, since: Time) -> Result<(), String> {
    let late = faults(&lab.plan).contains(&Fault::ToldLate);
    let most = if late { HEARTBEAT / 2 } else { Duration::ZERO };
    let mut two = lab.watch.two_sides(since);
    two.retain(|two| two.length > most);
    two.is_empty().then_some(()).ok_or_else(|| format!("two sides: {two:?}"))
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// What went wrong, with what everybody said.
fn with_logs(lab: &Lab, start: Time, wrong: &str) -> String {
    let mut text = format!("{wrong}\n{}  arbiter:\n", lab.watch.story(start));
    text.push_str(&lab.log(At::Arbiter, Role::Arbiter));
    for node in lab.nodes() {
        text.push_str(&format!("  device {node}:\n{}", lab.log(At::Node(node), Role::Device)));
    }
    text
}

/// Prints the rows, and what went wrong in them; fails if anything did.
fn judge(head: &[&str], results: Vec<(Vec<String>, Cells)>) {
    let failed = results.iter().filter(|(_, result)| result.is_err()).count();
    let rows = results.into_iter().map(|(name, result)| {
        let cells = result.unwrap_or_else(|wrong| {
            table::say(&format!("{}: {wrong}", name.join(" ")));
            vec![format!("FAILED: {}", wrong.lines().next().unwrap_or_default())]
        });
        [name, cells].concat()
    });
    table::print(head, &rows.collect::<Vec<_>>());
    assert_eq!(failed, 0, "rows of the table above");
}

/// What the arbiter's own tool and each device say of their connection has to be what the row is
/// about.
fn as_configured(lab: &Lab, row: &Row) -> Result<(), String> {
    let text = lab.text(At::Arbiter, &["corosync-qnetd-tool", "-lv"]);
    let count = |words: &str| text.lines().filter(|line| line.trim_start() == words).count();
    let nodes = usize::try_from(row.0).unwrap();
    let tls = "TLS active:\t\tYes (client certificate verified)";
    let heuristics = text.lines().map(str::trim_start);
    let heuristics = heuristics.filter(|line| line.starts_with("Heuristics:\t\tPass")).count();
    let looked = if row.4 == Heuristics::Off { 0 } else { nodes };
    let is_it = count(tls) == nodes && heuristics == looked;
    if !is_it {
        return Err(format!("the arbiter does not say so:\n{text}"));
    }
    let version = tls_version(row);
    for node in lab.nodes() {
        let log = lab.whole_log(At::Node(node), Role::Device);
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("TLSv")).collect();
        if lines.is_empty() || !lines.iter().all(|line| line.contains(version)) {
            return Err(format!("the device of node {node} does not say {version}: {lines:?}"));
        }
    }
    Ok(())
}

/// Up, cut, healed: how long each took.
///
/// # Errors
/// What the nodes say instead.
fn measure(lab: &mut Lab, row: &Row) -> Cells {
    let start = now();
    lab.start_all();
    whole(lab)?;
    let up = now().since(start);
    as_configured(lab, row)?;
    // Before that nodes were found one by one, and the stock lms does not look at the others again.
    let since = now();
    let (sides, _) = halves(row);
    let groups = sides.each_ref().map(|side| side.iter().map(|n| At::Node(*n)).collect::<Vec<_>>());
    lab.cut(&[&groups[0], &groups[1]]);
    let (nodes, side) = expected(row, &faults(&lab.plan));
    let is_it = |picture: &[Run]| {
        let quorate = || picture.iter().filter(|run| run.state == QuorumState::Quorate);
        let here: BTreeSet<u32> = quorate().map(|run| run.node).collect();
        here == nodes && quorate().all(|run| run.members == side)
    };
    let split = lab.stays(is_it, STILL, CUT)?;
    lab.heal();
    let healed = whole(lab).map_err(|instead| format!("after the heal: {instead}"))?;
    one_side(lab, since)?;
    Ok([up, split, healed].map(seconds).to_vec())
}

fn every_kind(stack: Stack) {
    if !lab::is_possible() {
        return;
    }
    let pkis = Pkis::new(Maker::Stock, Maker::Ours);
    let results = several(ROWS.len(), AT_ONCE, |at| {
        let row = &ROWS[at];
        let plan = rows::plan(row, Arbiter::Stock, stack);
        let faults = faults(&plan);
        let (nodes, side) = expected(row, &faults);
        let hazards: Vec<_> = faults.iter().map(|fault| fault.hazard()).collect();
        let more = [format!("{nodes:?} in {side:?}"), hazards.join(", ")];
        let mut lab = Lab::new(plan, pkis.of(row.7));
        let start = now();
        let result = measure(&mut lab, row).map_err(|wrong| with_logs(&lab, start, &wrong));
        ([&values(row)[..], &more].concat(), result)
    });
    judge(&[&rows::HEAD[..], &["quorate", "hazards", "up", "cut", "heal"]].concat(), results);
}

#[test]
fn stock_arbiter_gives_one_side_of_every_kind_to_our_device_on_corosync() {
    every_kind(Stack::Mixed);
}

#[test]
fn stock_arbiter_gives_one_side_of_every_kind_to_our_node() {
    every_kind(Stack::Ours);
}

/// Whether the node's device says that it is connected, in the words of its host's tool.
fn says_connected(lab: &Lab, node: u32) -> bool {
    match lab.plan.stack {
        Stack::Stock | Stack::Mixed => lab
            .text(At::Node(node), &["corosync-qdevice-tool", "-s"])
            .lines()
            .any(|line| line.starts_with("State:") && line.ends_with("Connected")),
        Stack::Ours => {
            let words = [HAGUARD, "status", "--json", "--run-dir", "/run/haguard"];
            let status = lab.text(At::Node(node), &words);
            let status: serde_json::Value = serde_json::from_str(&status).unwrap();
            status["qdevice"]["state"].as_str().unwrap().starts_with("connected")
        }
    }
}

/// Asks all nodes until the last one says no; returns how long that took.
///
/// # Errors
/// One that still said yes when it was asked later than `limit`.
fn ends(
    lab: &Lab,
    limit: Duration,
    what: &str,
    says: impl Fn(&Lab, u32) -> bool,
) -> Result<Duration, String> {
    let start = now();
    let mut left = lab.nodes();
    loop {
        let asked = now().since(start);
        left.retain(|node| says(lab, *node));
        if left.is_empty() {
            return Ok(now().since(start));
        }
        if asked > limit {
            return Err(format!("nodes {left:?}: {what} {} later", seconds(asked)));
        }
        lab::pause();
    }
}

/// How an arbiter is lost.
#[derive(Clone, Copy, Debug)]
enum Loss {
    /// Its process is killed: its host says so to whoever asks.
    Killed,
    /// Its host is not heard any more.
    Silent,
}

const LOSSES: [(Arbiter, Loss); 4] = [
    (Arbiter::Ours, Loss::Killed),
    (Arbiter::Ours, Loss::Silent),
    (Arbiter::Stock, Loss::Killed),
    (Arbiter::Stock, Loss::Silent),
];

/// # Errors
/// The node that is not connected.
fn connected(lab: &Lab) -> Result<(), String> {
    let not = lab.nodes().into_iter().find(|node| !says_connected(lab, *node));
    not.map_or(Ok(()), |node| Err(format!("node {node} does not say that it is connected")))
}

/// How long the loss took to be shown.
fn lose(lab: &mut Lab, loss: Loss) -> Cells {
    lab.up()?;
    connected(lab)?;
    match loss {
        Loss::Killed => lab.signal(At::Arbiter, Role::Arbiter, Signal::SIGKILL),
        Loss::Silent => lab.cut(&[&[At::Arbiter], &[At::Node(1), At::Node(2)]]),
    }
    let limit = match lab.plan.arbiter {
        Arbiter::Stock => HEARTBEAT * 2,
        Arbiter::Ours | Arbiter::Renamed => Duration::from_secs(3),
    };
    let shown = ends(lab, limit, "connected", says_connected)?;
    Ok(vec![seconds(limit), seconds(shown)])
}

#[test]
fn stock_arbiter_or_ours_that_is_lost_shows_in_the_status() {
    if !lab::is_possible() {
        return;
    }
    let pki = Pki::stock();
    let results = several(LOSSES.len() * HOSTS.len(), AT_ONCE, |at| {
        let ((arbiter, loss), stack) = (LOSSES[at / HOSTS.len()], HOSTS[at % HOSTS.len()]);
        let name = vec![format!("{arbiter:?}"), format!("{loss:?}"), format!("{stack:?}")];
        let mut lab = Lab::new(Plan::new(arbiter, stack, Ffsplit), &pki);
        let start = now();
        let result = lose(&mut lab, loss).map_err(|wrong| with_logs(&lab, start, &wrong));
        (name, result)
    });
    judge(&["arbiter", "loss", "nodes", "at most", "shown after"], results);
}

const ALGORITHMS: [Algorithm; 3] = [Ffsplit, Lms, TwoNodeLms];

/// Nobody ends because its arbiter does.
fn all_run(lab: &mut Lab) -> Result<(), String> {
    for node in lab.nodes() {
        for role in [Role::Engine, Role::Device] {
            if !lab.runs(At::Node(node), role) {
                return Err(format!("{role:?} of node {node} has ended"));
            }
        }
    }
    Ok(())
}

fn arbiter_boots(lab: &mut Lab) {
    lab.power_on(At::Arbiter);
    lab.start_arbiter();
}

/// The arbiter's host loses its power twice: the nodes are one, and the vote is not needed; then
/// they are cut, and one of them has its quorum from the vote alone.
fn lose_power(lab: &mut Lab) -> Cells {
    lab.start_all();
    whole(lab)?;
    let since = now();
    lab.power_off(At::Arbiter);
    let unneeded = ends(lab, STOCK_VOTE + SEEN, "votes", Lab::has_vote)?;
    lab.settles(&[&[1, 2]], HEARTBEAT, SEEN)?;
    all_run(lab)?;
    arbiter_boots(lab);
    let again = whole(lab)?;

    lab.cut(&[&[At::Node(1)], &[At::Node(2)]]);
    lab.settles(&[&[1]], STILL, CUT)?;
    lab.power_off(At::Arbiter);
    let nobody = |picture: &[Run]| picture.iter().all(|run| run.state != QuorumState::Quorate);
    let needed = lab.watch.until(STOCK_VOTE + SEEN, nobody)?;
    all_run(lab)?;
    arbiter_boots(lab);
    // It has forgotten whose the vote was.
    let one = match lab.settles(&[&[1], &[2]], STILL, BACK) {
        Ok(time) => seconds(time),
        // Hazard 6: the stock lms says no to the second who comes, then to the first because the
        // tie-breaker prefers the second, and looks at neither again.
        Err(_) if lab.plan.algorithm == Lms && nobody(&lab.watch.picture()) => {
            connected(lab)?;
            "nobody (6)".to_owned()
        }
        Err(instead) => return Err(instead),
    };
    lab.heal();
    if lab.plan.algorithm == Lms {
        lab.one_view()?;
        restart_arbiter(lab);
    }
    whole(lab)?;
    all_run(lab)?;
    one_side(lab, since)?;
    Ok([&[unneeded, again, needed].map(seconds)[..], &[one]].concat())
}

#[test]
fn stock_arbiter_that_loses_its_power_ends_the_vote_and_no_daemon_and_comes_back() {
    if !lab::is_possible() {
        return;
    }
    let pki = Pki::stock();
    let results = several(ALGORITHMS.len() * HOSTS.len(), AT_ONCE, |at| {
        let (algorithm, stack) = (ALGORITHMS[at / HOSTS.len()], HOSTS[at % HOSTS.len()]);
        let mut lab = Lab::new(Plan::new(Arbiter::Stock, stack, algorithm), &pki);
        let start = now();
        let result = lose_power(&mut lab).map_err(|wrong| with_logs(&lab, start, &wrong));
        (vec![word(algorithm).to_owned(), format!("{stack:?}")], result)
    });
    judge(&["algorithm", "nodes", "vote ends", "again", "quorum ends", "one side again"], results);
}
