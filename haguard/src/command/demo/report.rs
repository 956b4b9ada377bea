//! The verdict: every claim with what was seen and what was allowed.

use std::collections::BTreeMap;
use std::time::Duration;

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use protocol::status::QuorumState;
use protocol::time::Time;
use serde::Serialize;

use super::samples::{Record, now};
use super::story::Measured;
use super::verdict::{
    Claim, Effects, Quorate, Shown, Stretch, TwoSides, longest_without, median, quorate, two_sides,
};
use super::world::Plan;
use crate::screen::{Brush, Colour};

/// From a cut or a kill to a decision: about 1.1 s where the machine keeps up.
const DECIDED_LIMIT: Duration = Duration::from_secs(5);
/// The same where the view that lost a node needed the device's votes: the arbiter holds the solo
/// lease first (F5).
const SOLO_LIMIT: Duration = Duration::from_secs(16);
/// From a cut or a kill to the first line of the service elsewhere: about 6.4 s.
const TAKEOVER_LIMIT: Duration = Duration::from_secs(20);
/// From healing or a restart to one view: about 5.3 s, of which 5 s are asked for by the rules.
const ONE_VIEW_LIMIT: Duration = Duration::from_secs(20);
/// How often each node is asked at least, in times a second.
const RATE_MIN: f64 = 50.0;
/// The whole demo with one cut and two nodes, each further cut, and each further node.
const TOTAL_LIMIT: (Duration, Duration, Duration) =
    (Duration::from_secs(60), Duration::from_secs(25), Duration::from_secs(20));

/// Everything that is said at the end.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Every claim held.
    pub held: bool,
    /// How long it took.
    pub seconds: f64,
    /// How many nodes.
    pub nodes: u32,
    /// How the arbiter chose.
    pub algorithm: String,
    /// For the same network and phases again.
    pub seed: u64,
    /// The claims.
    pub claims: Vec<Claim>,
    /// From each cut to its decision.
    pub cuts_decided_ms: Vec<u64>,
    /// Their median.
    pub median_decided_ms: Option<u64>,
    /// From the cut to the first line of the service on the other side.
    pub takeover_after_cut_ms: Option<u64>,
    /// The same after the kill.
    pub takeover_after_kill_ms: Option<u64>,
    /// From each healing to one view.
    pub healed_ms: Vec<u64>,
    /// From each kill to the quorate survivors.
    pub survived_ms: Vec<u64>,
    /// Who was quorate when.
    pub quorate: Vec<Quorate>,
    /// Every time with two sides.
    pub two_sides: Vec<TwoSides>,
    /// The starts of the service.
    pub service: Vec<Stretch>,
    /// By node: how often it was asked a second, and the longest time between two questions.
    pub samples: BTreeMap<u32, Sampling>,
    /// Where everything is, if it was kept.
    pub directory: Option<String>,
}

/// How well a node was watched.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Sampling {
    /// Questions a second.
    pub per_second: f64,
    /// The longest time between two of them.
    pub longest_gap_ms: u64,
}

impl Report {
    /// Judges what was seen.
    pub fn new(
        plan: &Plan,
        started: Time,
        measured: &Measured,
        record: &Record,
        effects: &Effects,
    ) -> Self {
        let total = now().since(started);
        let sides = two_sides(record.runs());
        let claims = claims(plan, measured, record, effects, &sides, total);
        let ms = |times: &[Duration]| times.iter().copied().map(millis).collect::<Vec<_>>();
        let sampling = |watch: &super::samples::Watch| Sampling {
            per_second: (watch.rate() * 10.0).round() / 10.0,
            longest_gap_ms: millis(watch.longest),
        };
        Self {
            held: claims.iter().all(|claim| claim.held),
            seconds: (total.as_secs_f64() * 100.0).round() / 100.0,
            nodes: plan.nodes,
            algorithm: plan.algorithm.to_string(),
            seed: plan.seed,
            claims,
            cuts_decided_ms: ms(&measured.decided),
            median_decided_ms: median(&measured.decided).map(millis),
            takeover_after_cut_ms: takeover(effects, measured.moved_by_cut).map(millis),
            takeover_after_kill_ms: takeover(effects, measured.moved_by_kill).map(millis),
            healed_ms: ms(&measured.healed),
            survived_ms: ms(&measured.survived),
            quorate: quorate(record.runs(), started),
            two_sides: sides,
            service: effects.stretches.clone(),
            samples: record.watches().iter().map(|(node, w)| (*node, sampling(w))).collect(),
            directory: None,
        }
    }

    /// The table for people.
    pub fn table(&self, brush: Brush) -> String {
        let mut text =
            brush.paint(Colour::Title, "who was quorate when (seconds of the demo)") + "\n";
        let mut times = Table::new();
        times.load_style(NOTHING);
        times.set_header(["node", "from", "to", "with", "epoch"]);
        for one in &self.quorate {
            let members: Vec<String> = one.members.iter().map(u32::to_string).collect();
            times.add_row([
                one.node.to_string(),
                format!("{:.2}", one.from),
                format!("{:.2}", one.to),
                format!("{{{}}}", members.join(",")),
                one.epoch.to_string(),
            ]);
        }
        push_table(&mut text, &times, |line| line.to_owned());
        text += "\n";
        text += &brush.paint(Colour::Title, "verdict");
        text += "\n";
        let mut verdict = Table::new();
        verdict.load_style(NOTHING);
        verdict.set_header(["", "claim", "seen", "allowed"]);
        for claim in &self.claims {
            let mark = if claim.held { "held" } else { "FAILED" };
            verdict.add_row([mark, &claim.claim, &claim.value, &claim.limit]);
        }
        push_table(&mut text, &verdict, |line| {
            let bad = line.trim_start().starts_with("FAILED");
            if bad { brush.paint(Colour::Bad, line) } else { line.to_owned() }
        });
        text
    }
}

fn push_table(text: &mut String, table: &Table, paint: impl Fn(&str) -> String) {
    for line in table.lines() {
        *text += &paint(line.trim_end());
        text.push('\n');
    }
}

fn claims(
    plan: &Plan,
    measured: &Measured,
    record: &Record,
    effects: &Effects,
    sides: &[TwoSides],
    total: Duration,
) -> Vec<Claim> {
    let broken = measured.broken.clone();
    let reached = broken.is_none();
    let mut claims = vec![Claim::is(
        "every step came to its end",
        broken.unwrap_or_else(|| "yes".to_owned()),
        "yes",
        reached,
    )];
    let longest = sides.iter().map(|side| side.ms).max().unwrap_or(0);
    claims.push(Claim::none("longest time with two sides", longest, " ms"));
    claims.extend(effect_claims(effects));
    claims.extend(time_claims(measured, effects, loss_limit(plan, measured)));
    claims.push(arbiter_claim(plan, measured, record));
    claims.push(without_claim(plan, measured, record));
    claims.push(sampling_claim(plan, record));
    claims.push(match &measured.left {
        Some(wrong) if wrong.is_empty() => Claim::is("everybody ended as told", "yes", "yes", true),
        Some(wrong) => Claim::is("everybody ended as told", wrong.join("; "), "yes", false),
        None => Claim::is("everybody ended as told", "did not happen", "yes", false),
    });
    let (first, cut, node) = TOTAL_LIMIT;
    let cuts = u32::try_from(measured.decided.len()).unwrap_or(u32::MAX).saturating_sub(1);
    let limit = first + cut * cuts + node * plan.nodes.saturating_sub(2);
    claims.push(Claim::within("the whole demo", Some(total), limit));
    claims
}

fn effect_claims(effects: &Effects) -> Vec<Claim> {
    let lines: u32 = effects.stretches.iter().map(|stretch| stretch.lines).sum();
    let (mixed, back) = (u64::from(effects.interleaved), u64::from(effects.epoch_back));
    vec![
        Claim::none("lines of the guarded command out of turn", mixed, ""),
        Claim::none("lines with an epoch that goes back", back, ""),
        Claim::is(
            "lines of the guarded command",
            format!("{lines} in {} starts", effects.stretches.len()),
            "> 0, all whole",
            lines > 0 && effects.malformed == 0,
        ),
    ]
}

fn time_claims(measured: &Measured, effects: &Effects, loss: Duration) -> Vec<Claim> {
    let worst = |times: &[Duration]| times.iter().max().copied();
    let by_cut = takeover(effects, measured.moved_by_cut);
    let by_kill = takeover(effects, measured.moved_by_kill);
    let mut cut = Claim::within("cut: one side decided", worst(&measured.decided), DECIDED_LIMIT);
    if let (Some(middle), true) = (median(&measured.decided), measured.decided.len() > 1) {
        let count = measured.decided.len();
        cut.value = format!("median {} of {count}, worst {}", Shown(middle), cut.value);
    }
    vec![
        cut,
        Claim::within("cut: service taken over", by_cut, TAKEOVER_LIMIT),
        Claim::within("heal: one view", worst(&measured.healed), ONE_VIEW_LIMIT),
        Claim::within("power loss: survivors quorate", worst(&measured.survived), loss),
        Claim::within("power loss: service taken over", by_kill, TAKEOVER_LIMIT),
        Claim::within("return: one view", measured.returned, ONE_VIEW_LIMIT),
    ]
}

/// The side that had the vote stayed quorate while the arbiter was away.
fn arbiter_claim(plan: &Plan, measured: &Measured, record: &Record) -> Claim {
    let claim = "arbiter killed and back: winners stayed quorate";
    let Some((from, to)) = measured.arbiter_away else {
        return Claim::is(claim, "did not happen", "yes", false);
    };
    let winners = 1..=plan.nodes.div_ceil(2);
    let stayed = winners.clone().all(|node| {
        let mut runs = record.runs().iter().filter(|run| run.node == node);
        runs.any(|run| {
            run.state == QuorumState::Quorate && run.first.1 <= from && run.last.0 + MARGIN >= to
        })
    });
    let value = if stayed { format!("yes, {}", Shown(to.since(from))) } else { "no".to_owned() };
    Claim::is(claim, value, "yes", stayed)
}

/// The last sample before a step ended may be this old.
const MARGIN: Duration = Duration::from_millis(500);

/// How long a loss may take to be decided: a silent node that held the solo lease is waited for.
fn loss_limit(plan: &Plan, measured: &Measured) -> Duration {
    let losses = u32::try_from(measured.survived.len()).unwrap_or(u32::MAX).saturating_sub(1);
    let before_last = plan.nodes.saturating_sub(losses);
    if plan.needs_device(before_last) { SOLO_LIMIT } else { DECIDED_LIMIT }
}

fn without_claim(plan: &Plan, measured: &Measured, record: &Record) -> Claim {
    let time =
        measured.up.map(|up| longest_without(record.runs(), up, measured.end.unwrap_or_else(now)));
    Claim::within("longest time without any side", time, loss_limit(plan, measured))
}

fn sampling_claim(plan: &Plan, record: &Record) -> Claim {
    let rates = (1..=plan.nodes).map(|node| record.watches().get(&node).map_or(0.0, |w| w.rate()));
    let lowest = rates.fold(f64::INFINITY, f64::min);
    let longest = record.watches().values().map(|watch| watch.longest).max().unwrap_or_default();
    Claim::is(
        "every node asked often enough",
        format!("{lowest:.0} a second, longest gap {} ms", millis(longest)),
        &format!(">= {RATE_MIN:.0} a second"),
        lowest >= RATE_MIN,
    )
}

/// From an event to the first line of a start that came after it.
fn takeover(effects: &Effects, since: Option<Time>) -> Option<Duration> {
    let since = since?;
    let first = effects.stretches.iter().find(|stretch| stretch.from_ms > since.as_millis())?;
    Some(Time::from_millis(first.from_ms).since(since))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
