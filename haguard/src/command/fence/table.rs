//! What people read of a gateway.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use fence::journal::{Entry, Record};
use jiff::{Timestamp, tz::TimeZone};
use protocol::fence::{DeviceReadiness, GatewayStatus, How, Outcome, Progress, Proof, Role};
use protocol::ids::NodeId;

use crate::screen::{Brush, Colour};

/// One line of a job, or none for what only scripts want.
pub(super) fn step(progress: &Progress, brush: Brush) -> Option<String> {
    match progress {
        Progress::Accepted { job } => Some(brush.paint(Colour::Faint, &format!("job {job}"))),
        Progress::Step { node: Some(node), text } => Some(format!("node {node}: {text}")),
        Progress::Step { node: None, text } => Some(text.clone()),
        // Its result says the same again; and what members are asked is between nodes.
        Progress::Off { .. } | Progress::Challenge { .. } => None,
        Progress::Done { results } => {
            let lines: Vec<_> = results
                .iter()
                .map(|(node, outcome)| {
                    let colour = match outcome {
                        Outcome::Off { .. } | Outcome::Rebooted { .. } | Outcome::On => {
                            Colour::Good
                        }
                        Outcome::Refused { .. } | Outcome::Failed { .. } => Colour::Bad,
                    };
                    brush.paint(colour, &format!("node {node}: {}", self::outcome(outcome)))
                })
                .collect();
            (!lines.is_empty()).then(|| lines.join("\n"))
        }
    }
}

/// How a job ended for a node, in words.
pub(super) fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Off { proof } => format!("off, {}", self::proof(proof)),
        Outcome::Rebooted { proof, on_failed: None } => {
            format!("was off, {}; has power again", self::proof(proof))
        }
        Outcome::Rebooted { proof, on_failed: Some(why) } => {
            format!("off, {}; giving power again failed: {why}", self::proof(proof))
        }
        Outcome::On => "has power".to_owned(),
        Outcome::Refused { why } => format!("refused: {why}"),
        Outcome::Failed { why } => format!("failed: {why}"),
    }
}

fn proof(proof: &Proof) -> String {
    match &proof.how {
        How::ReadOff => "read back".to_owned(),
        How::Watchdog => "its watchdog's bound has passed".to_owned(),
        How::Manual { by, why } => format!("confirmed by {by}: {why}"),
    }
}

/// `on`, `off` or `unknown`: what the devices of a node read. Off is off only if all devices of a
/// level read it.
pub(super) fn power_of(status: &GatewayStatus, node: NodeId) -> Result<&'static str> {
    let Some(target) = status.nodes.get(&node.0) else {
        let known: Vec<String> = status.nodes.keys().map(u32::to_string).collect();
        bail!("the gateway knows no node {node}; it knows {}", known.join(", "));
    };
    let read = |name: &String| status.devices.get(name).filter(|device| device.ready);
    let reads = |name: &String, power: &str| read(name).is_some_and(|d| d.power == power);
    if target.levels.iter().flatten().any(|name| reads(name, "on")) {
        return Ok("on");
    }
    let off = |level: &Vec<String>| !level.is_empty() && level.iter().all(|n| reads(n, "off"));
    Ok(if target.levels.iter().any(off) { "off" } else { "unknown" })
}

/// The tables of `haguard fence list`.
pub(super) fn list(status: &GatewayStatus, brush: Brush) -> String {
    let mut text = format!("cluster {}, arbiter {}\n\n", status.cluster, status.arbiter);
    let mut table = plain(["node", "levels", "now", "last"]);
    for (node, target) in &status.nodes {
        let levels: Vec<String> = target.levels.iter().map(|level| level.join(" + ")).collect();
        let now = match &target.job {
            Some((ms, what)) => format!("{what} ({} s)", ms / 1000),
            None => String::new(),
        };
        let last = target.last.as_ref().map(outcome).unwrap_or_default();
        table.add_row([node.to_string(), levels.join(", then "), now, last]);
    }
    text += &trimmed(&table);
    text.push_str("\n\n");
    let mut table = plain(["device", "kind", "ready", "power", "took", "asked", "problem"]);
    for (name, device) in &status.devices {
        let DeviceReadiness { kind, ready, power, problem, took_ms, age_ms } = device;
        let ready = match (ready, age_ms) {
            (true, _) => brush.paint(Colour::Good, "yes"),
            (false, Some(_)) => brush.paint(Colour::Bad, "no"),
            (false, None) => brush.paint(Colour::Waiting, "not asked yet"),
        };
        let took = took_ms.map(|ms| format!("{ms} ms")).unwrap_or_default();
        let age = age_ms.map(|ms| format!("{} s ago", ms / 1000)).unwrap_or_default();
        table.add_row([name, kind, &ready, power, &took, &age, problem]);
    }
    text += &trimmed(&table);
    for alarm in &status.alarms {
        text.push('\n');
        text += &brush.paint(Colour::Bad, &format!("alarm: {alarm}"));
    }
    text
}

fn plain<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(header);
    table
}

fn trimmed(table: &Table) -> String {
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}

/// One line of the journal: its number, and what people read of it.
pub(super) fn entry(line: &[u8]) -> Result<(u64, String)> {
    let line: Record = serde_json::from_slice(line).context("a line of another version")?;
    let when = i64::try_from(line.time_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    let when = when.map_or_else(String::new, |when| {
        when.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S%.3f").to_string()
    });
    Ok((line.seq, format!("{:>5} {when}  {}", line.seq, words(&line.entry))))
}

fn words(entry: &Entry) -> String {
    match entry {
        Entry::Requested { job, requester, epoch, targets, action, reason } => {
            let epoch = epoch.map(|epoch| format!(" in epoch {epoch}")).unwrap_or_default();
            let action = format!("{action:?}").to_lowercase();
            format!(
                "job {job}: node {requester} asks{epoch} for {action} of {}: {reason}",
                nodes(targets)
            )
        }
        Entry::Attested { job, attestation } => format!(
            "job {job}: {} {}, epoch {}",
            match attestation.role {
                Role::Holder => "the arbiter says yes: the vote is with",
                Role::Candidate => "the arbiter says yes: the vote is to go to",
                Role::Majority => "more than half of all votes say yes, without the arbiter: of",
            },
            nodes(&attestation.holders),
            attestation.epoch
        ),
        Entry::Refused { job, why, .. } => format!("job {job}: refused: {why}"),
        Entry::Attempt { job, node, device, command } => {
            format!("job {job}: node {node}: {} to {device}", command_word(*command))
        }
        Entry::Answer { job, node, device, command, power, error } => {
            let said = match (power, error) {
                (_, Some(error)) => error.to_string(),
                (Some(power), None) => format!("reads {power}"),
                (None, None) => "accepted".to_owned(),
            };
            format!("job {job}: node {node}: {device} on {}: {said}", command_word(*command))
        }
        Entry::Proven { job, node, how, .. } => {
            let how = match how {
                How::ReadOff => "it was read back".to_owned(),
                How::Watchdog => "its watchdog's bound has passed".to_owned(),
                How::Manual { by, why } => format!("{by} says so: {why}"),
            };
            format!("job {job}: node {node} is off: {how}")
        }
        Entry::Untold { job, node } => format!(
            "job {job}: node {node}: the arbiter, which was not asked, waits for the node's bound"
        ),
        Entry::Ended { job, node, result } => format!("job {job}: node {node}: {result}"),
        Entry::Released { .. } => "the arbiter has heard that it is over".to_owned(),
        Entry::Started { open } => format!("the gateway started, {open} jobs were open"),
        Entry::Torn { bytes } => {
            format!("the gateway started after a crash, which had cut {bytes} bytes short")
        }
    }
}

fn command_word(command: fence::device::Command) -> &'static str {
    match command {
        fence::device::Command::Status => "status",
        fence::device::Command::Off => "off",
        fence::device::Command::On => "on",
    }
}

fn nodes(nodes: &BTreeSet<NodeId>) -> String {
    let names: Vec<String> = nodes.iter().map(NodeId::to_string).collect();
    format!("{} {}", if names.len() == 1 { "node" } else { "nodes" }, names.join(", "))
}

#[cfg(test)]
mod tests {
    use protocol::fence::TargetStatus;

    use super::*;

    fn status(powers: &[(&str, &str)]) -> GatewayStatus {
        let mut status = GatewayStatus::default();
        let levels = vec![vec!["a".to_owned(), "b".to_owned()], vec!["w".to_owned()]];
        status.nodes.insert(2, TargetStatus { levels, ..TargetStatus::default() });
        for (name, power) in powers {
            let device = DeviceReadiness {
                ready: !power.is_empty(),
                power: (*power).to_owned(),
                ..DeviceReadiness::default()
            };
            status.devices.insert((*name).to_owned(), device);
        }
        status
    }

    #[test]
    fn a_node_is_off_when_all_devices_of_a_level_read_off_and_none_reads_on() {
        let power = |powers| power_of(&status(powers), NodeId(2)).unwrap();
        assert_eq!(power(&[("a", "off"), ("b", "off")]), "off");
        assert_eq!(power(&[("a", "off"), ("b", "on")]), "on");
        assert_eq!(power(&[("a", "off"), ("b", "")]), "unknown");
        assert_eq!(power(&[]), "unknown");
        let unknown = power_of(&status(&[]), NodeId(3)).unwrap_err().to_string();
        assert_eq!(unknown, "the gateway knows no node 3; it knows 2");
    }

    #[test]
    fn a_line_of_the_journal_is_told_with_its_number() {
        let read = |entry: Entry| {
            let record = Record { seq: 7, time_ms: 0, entry };
            let (number, text) = entry_of(&record);
            assert_eq!(number, 7);
            text.rsplit_once("  ").unwrap().1.to_owned()
        };
        let (job, node, device) = (3, NodeId(2), "bmc".to_owned());
        let requested = Entry::Requested {
            job,
            requester: NodeId(1),
            epoch: Some(protocol::ids::Epoch(9)),
            targets: [node].into(),
            action: protocol::fence::PowerAction::Off,
            reason: "lost".to_owned(),
        };
        assert_eq!(read(requested), "job 3: node 1 asks in epoch 9 for off of node 2: lost");
        let command = fence::device::Command::Status;
        let power = Some(fence::device::Power::Off);
        let answer = Entry::Answer { job, node, device, command, power, error: None };
        assert_eq!(read(answer), "job 3: node 2: bmc on status: reads off");
        assert_eq!(read(Entry::Started { open: 0 }), "the gateway started, 0 jobs were open");
        assert!(entry(b"{}").is_err());
    }

    fn entry_of(record: &Record) -> (u64, String) {
        entry(&serde_json::to_vec(record).unwrap()).unwrap()
    }
}
