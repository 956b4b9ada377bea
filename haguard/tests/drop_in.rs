//! Our arbiter in the place of corosync-qnetd: real corosync with its own corosync-qdevice takes
//! its vote from it, and the stock tools find what they look for.
//!
//! `docs/drop-in.md` has the same for people. Set HAGUARD_DROP_IN to a number to go through the
//! table of clusters so many times.

#![expect(clippy::unwrap_used, reason = "a test ends where it goes wrong")]

#[allow(dead_code, reason = "each test of the lab uses a part of it")]
mod lab;

use std::collections::BTreeSet;
use std::time::Duration;

use haguard::command::demo::samples::now;
use nix::sys::signal::Signal;
use protocol::time::Time;
use protocol::vote::Algorithm::{self, Ffsplit, Lms, TwoNodeLms};

use lab::conf::{Arbiter, CLUSTER, Heuristics, Plan, Stack};
use lab::pki::{Maker, Pki, Pkis};
use lab::rows::{self, COLUMNS, ROWS, Row, halves, tls_version, values};
use lab::{At, Lab, Role, patiently, several, table};

/// Until the sides are known: corosync needs 2.4 s to give a node up, the arbiter at most as long.
const CUT: Duration = Duration::from_secs(20);

/// What a node needs to hear of another one's device.
const SEEN: Duration = Duration::from_secs(5);

/// How many clusters of the table are up at a time. They wait most of the time.
const AT_ONCE: usize = 3;

fn up(plan: Plan, pki: &Pki) -> Lab {
    let mut lab = Lab::new(plan, pki);
    if let Err(instead) = lab.up() {
        let log = lab.log(At::Arbiter, Role::Arbiter);
        panic!("{:?} does not come up: {instead}\n  arbiter:\n{log}", lab.plan);
    }
    lab
}

/// What corosync's own smoke test greps for (corosync-qdevice-tests.inc.sh): where, with which
/// arguments, and the line's beginning and end.
const SMOKE: [(At, [&str; 2], &str, &str); 8] = [
    (At::Arbiter, ["corosync-qnetd-tool", "-s"], "Connected clients:", "1"),
    (At::Arbiter, ["corosync-qnetd-tool", "-s"], "Connected clusters:", "1"),
    (At::Arbiter, ["corosync-qnetd-tool", "-l"], "Cluster \"lab\":", ""),
    (At::Arbiter, ["corosync-qnetd-tool", "-l"], "    Node ID 1:", ""),
    (At::Arbiter, ["corosync-qnetd-tool", "-l"], "        Membership node list:", "1"),
    (At::Arbiter, ["corosync-qnetd-tool", "-l"], "        Heuristics:", "Pass"),
    (At::Node(1), ["corosync-qdevice-tool", "-s"], "State:", "Connected"),
    (
        At::Node(1),
        ["corosync-qdevice-tool", "-sv"],
        "Heuristics result:",
        "Pass (regular: Pass, membership: Pass, connect: Pass)",
    ),
];

#[test]
fn stock_smoke_test_finds_its_lines() {
    if !lab::is_possible() {
        return;
    }
    let plan = Plan {
        nodes: 1,
        heuristics: Heuristics::On,
        ..Plan::new(Arbiter::Renamed, Stack::Stock, Lms)
    };
    let mut lab = Lab::new(plan, &Pki::stock());
    lab.start_arbiter();
    lab.start_engine(1);
    lab.start_device(1);
    let ours = lab.directory.join("bin/corosync-qnetd-tool").display().to_string();
    for (at, words, begin, end) in SMOKE {
        let mut words = words;
        for tool in [words[0], &ours] {
            // Ours is asked on the arbiter's host only: the device is the stock one here.
            if at == At::Arbiter {
                words[0] = tool;
            }
            patiently(&format!("{begin} {end}"), Duration::from_secs(20), || {
                let text = lab.text(at, &words);
                let mut lines = text.lines();
                lines.any(|line| line.starts_with(begin) && line.ends_with(end)).then_some(())
            });
        }
    }
}

/// Rows of the tools' texts that name times and ports, or what was said last to a client; what is
/// in brackets behind that stays: the last vote, and whether it is cast.
const CHANGING: [&str; 4] = ["Client address:", "Connected since:", "Last poll call:", "Vote:"];

/// What is compared of a text: the whole of it, but for what differs from one moment to the next.
fn comparable(text: &str) -> Vec<String> {
    // A row that is there as soon as the first echo has been answered.
    let lines = text.lines().filter(|line| !line.starts_with("Echo reply received:"));
    let lines = lines.map(|line| {
        let changing = CHANGING.iter().find(|label| line.trim_start().starts_with(*label));
        let constant = line.split_once(" (").map_or("", |(_, constant)| constant);
        changing.map_or_else(|| line.to_owned(), |label| format!("{label} ({constant}"))
    });
    lines.collect()
}

/// Lines that only one of two texts has.
fn differences(stock: &[String], ours: &[String]) -> Vec<String> {
    let only = |sign: &'static str, some: &[String], others: &[String]| {
        let lines: Vec<_> = some.iter().filter(|line| !others.contains(line)).collect();
        lines.into_iter().map(|line| format!("{sign} {line}")).collect::<Vec<_>>()
    };
    [only("-", stock, ours), only("+", ours, stock)].concat()
}

/// What the stock tool prints; ours must print the same to the byte, whoever answers.
fn told(lab: &Lab, at: At, tool: &str, flags: &[&str]) -> Vec<String> {
    let ours = lab.directory.join("bin").join(tool).display().to_string();
    // Between two questions an echo or a poll may have changed a time.
    let stock = comparable(&lab.text(at, &[&[tool], flags].concat()));
    let same = comparable(&lab.text(at, &[&[&*ours], flags].concat()));
    assert!(stock.len() > 1, "{tool} {flags:?} says nothing");
    assert_eq!(stock, same, "{tool} {flags:?}");
    stock
}

#[test]
fn stock_tool_and_ours_print_the_same_about_both_arbiters() {
    if !lab::is_possible() {
        return;
    }
    let pki = Pki::stock();
    let plan = Plan::new(Arbiter::Stock, Stack::Stock, Ffsplit);
    let mut lab = up(plan, &pki);
    let exchange = |lab: &mut Lab, arbiter: Arbiter| {
        lab.signal(At::Arbiter, Role::Arbiter, Signal::SIGKILL);
        lab.plan.arbiter = arbiter;
        lab.start_arbiter();
        lab.whole().unwrap();
    };
    let questions: [&[&str]; 5] = [&["-s"], &["-sv"], &["-l"], &["-lv"], &["-l", "-c", CLUSTER]];
    let ask = |lab: &Lab| {
        let told = questions.map(|flags| told(lab, At::Arbiter, "corosync-qnetd-tool", flags));
        told.concat()
    };
    // Both get the same to answer: a reconnection.
    exchange(&mut lab, Arbiter::Stock);
    let stock = ask(&lab);
    exchange(&mut lab, Arbiter::Renamed);
    let ours = ask(&lab);
    let found = differences(&stock, &ours);
    assert!(found.is_empty(), "{found:#?}\nstock: {stock:#?}\nours: {ours:#?}");
}

/// Whether the engines differ in this row of `corosync-qdevice-tool -v`, as `docs/drop-in.md` says:
/// the number of the ring, and the order in which they list the nodes of the quorum.
fn is_the_engines(row: &str) -> bool {
    row.starts_with("Ring ID:") || row.ends_with(", State = member")
}

#[test]
fn stock_tool_and_ours_print_the_same_about_both_devices() {
    if !lab::is_possible() {
        return;
    }
    let pki = Pki::stock();
    let ask = |stack: Stack| {
        let lab = up(Plan::new(Arbiter::Renamed, stack, Ffsplit), &pki);
        let flags: [&[&str]; 2] = [&["-s"], &["-sv"]];
        flags.map(|flags| told(&lab, At::Node(1), "corosync-qdevice-tool", flags)).concat()
    };
    let (stock, ours) = (ask(Stack::Stock), ask(Stack::Ours));
    let mut found = differences(&stock, &ours);
    found.retain(|line| !is_the_engines(&line[2..]));
    assert!(found.is_empty(), "{found:#?}\nstock: {stock:#?}\nours: {ours:#?}");
}

#[test]
fn every_value_of_the_table_meets_every_other() {
    let rows: Vec<_> = ROWS.iter().map(values).collect();
    for (a, b) in (0..COLUMNS).flat_map(|a| (a + 1..COLUMNS).map(move |b| (a, b))) {
        let column =
            |at: usize| rows.iter().map(move |row| row[at].clone()).collect::<BTreeSet<_>>();
        for (left, right) in column(a)
            .into_iter()
            .flat_map(|left| column(b).into_iter().map(move |r| (left.clone(), r)))
        {
            // More than two nodes have no 2nodelms.
            let impossible = right == "2nodelms" && left != "2";
            let met = rows.iter().any(|row| row[a] == left && row[b] == right);
            assert!(met || impossible, "{left} of column {a} never meets {right} of column {b}");
        }
    }
}

/// What was measured in one row, or what went wrong.
fn go_through(row: &Row, pki: &Pki) -> Result<[String; 3], String> {
    let plan = rows::plan(row, Arbiter::Renamed, Stack::Stock);
    let mut lab = Lab::new(plan, pki);
    let start: Time = now();
    measure(&mut lab, row)
        .and_then(|times| {
            let two = lab.watch.two_sides(start);
            two.is_empty().then_some(times).ok_or(format!("two sides: {two:?}"))
        })
        .map_err(|wrong| {
            let arbiter = lab.log(At::Arbiter, Role::Arbiter);
            format!("{wrong}\n{}  arbiter:\n{arbiter}", lab.watch.story(start))
        })
}

/// corosync's own tool has to show the device's votes on every node.
fn the_device_counts(lab: &Lab) -> Result<(), String> {
    let nodes = lab.plan.nodes;
    let device = match lab.plan.algorithm {
        Ffsplit => 1,
        // corosync's own number where the configuration has none: all nodes' but one.
        Algorithm::Test | TwoNodeLms | Lms => nodes - 1,
    };
    let total = nodes + device;
    let mut want = vec!["Quorate: Yes".to_owned(), format!("Total votes: {total}")];
    want.extend([format!("Quorum: {}", total / 2 + 1), format!("0 {device} Qde")]);
    want.extend(lab.nodes().iter().map(|node| format!("{node} 1 A,V,NMW")));
    let start = now();
    // A node hears of the others' devices a turn of the token later.
    while let Some(instead) = lab.nodes().into_iter().find_map(|node| lacks(lab, node, &want)) {
        if now().since(start) > SEEN {
            return Err(instead);
        }
        lab::pause();
    }
    Ok(())
}

/// What the tool prints instead of the wanted rows, which begin so.
fn lacks(lab: &Lab, node: u32, want: &[String]) -> Option<String> {
    let text = lab.text(At::Node(node), &["corosync-quorumtool", "-s"]);
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let rows: Vec<String> = text.lines().map(words).collect();
    let is_there = |row: &&String| rows.iter().any(|found| found.starts_with(row.as_str()));
    let missing = want.iter().find(|row| !is_there(row))?;
    Some(format!("node {node} has no row {missing:?}:\n{text}"))
}

/// The arbiter's log names the version of each client's TLS.
fn tls_is_negotiated(lab: &Lab, row: &Row) -> Result<(), String> {
    let version = tls_version(row);
    let log = lab.whole_log(At::Arbiter, Role::Arbiter);
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(": TLSv")).collect();
    let all = lines.iter().all(|line| line.contains(version));
    let from = |node: u32| format!("{}:", lab.plan.address(node));
    let each =
        lab.nodes().into_iter().all(|node| lines.iter().any(|line| line.contains(&from(node))));
    (all && each).then_some(()).ok_or_else(|| format!("not {version} with every node: {lines:?}"))
}

fn measure(lab: &mut Lab, row: &Row) -> Result<[String; 3], String> {
    let up = lab.up()?;
    the_device_counts(lab)?;
    tls_is_negotiated(lab, row)?;
    let (sides, winner) = halves(row);
    let groups = sides.each_ref().map(|side| side.iter().map(|n| At::Node(*n)).collect::<Vec<_>>());
    lab.cut(&[&groups[0], &groups[1]]);
    let split = lab.settles(&[&sides[winner]], Duration::from_millis(500), CUT)?;
    lab.heal();
    let healed = lab.whole().map_err(|instead| format!("after the heal: {instead}"))?;
    Ok([up, split, healed].map(|time| format!("{:.1} s", time.as_secs_f64())))
}

#[test]
fn stock_clusters_of_every_kind_get_one_side_from_our_arbiter() {
    if !lab::is_possible() {
        return;
    }
    let pkis = Pkis::new(Maker::Ours, Maker::Stock);
    let times = std::env::var("HAGUARD_DROP_IN").map_or(1, |times| times.parse().unwrap());
    let results = several(ROWS.len() * times, AT_ONCE, |at| {
        let row = at % ROWS.len();
        (row, go_through(&ROWS[row], pkis.of(ROWS[row].7)))
    });
    let rows: Vec<Vec<String>> = results
        .iter()
        .map(|(row, result)| {
            let (sides, winner) = halves(&ROWS[*row]);
            let side = format!("{:?} of {:?}", sides[winner], sides);
            let measured = match result {
                Ok(times) => times.to_vec(),
                Err(wrong) => {
                    table::say(&format!("row {row}: {wrong}"));
                    vec![format!("FAILED: {}", wrong.lines().next().unwrap_or_default())]
                }
            };
            [values(&ROWS[*row]).to_vec(), vec![side], measured].concat()
        })
        .collect();
    let head = [&rows::HEAD[..], &["quorate side", "up", "cut", "heal"]].concat();
    table::print(&head, &rows);
    let failed = results.iter().filter(|(_, result)| result.is_err()).count();
    assert_eq!(failed, 0, "rows of the table above");
}
