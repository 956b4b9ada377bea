//! The gateway's numbers in the text format of Prometheus. They are counted here, from what the
//! machine is told and what it wants, so that the machine has none of it.

use std::collections::BTreeMap;
use std::fmt::Write;

use protocol::fence::GatewayStatus;

use crate::device::Command;
use crate::journal::Entry;

/// The ends of jobs that are counted apart, so that each is there from the start.
const RESULTS: [&str; 5] = ["off", "rebooted", "on", "refused", "failed"];

/// What was counted since the start.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    /// By result.
    jobs: BTreeMap<String, u64>,
    /// By device, command and whether it worked.
    commands: BTreeMap<(String, &'static str, bool), u64>,
    /// Requests, confirmations and rehearsals that came.
    wishes: u64,
}

impl Numbers {
    pub(super) fn wish(&mut self) {
        self.wishes += 1;
    }

    /// Counts the end of a job for a node.
    pub(super) fn recorded(&mut self, entry: &Entry) {
        if let Entry::Ended { result, .. } = entry {
            let word = result.split(':').next().unwrap_or_default().trim();
            let known = RESULTS.iter().find(|known| **known == word);
            *self.jobs.entry((*known.unwrap_or(&"other")).to_owned()).or_default() += 1;
        }
    }

    /// Counts a command that a device has done, or has not.
    pub(super) fn commanded(&mut self, device: &str, command: Command, worked: bool) {
        let word = match command {
            Command::Status => "status",
            Command::Off => "off",
            Command::On => "on",
        };
        *self.commands.entry((device.to_owned(), word, worked)).or_default() += 1;
    }

    /// All of it, with what the snapshot says.
    pub(super) fn text(&self, status: &GatewayStatus, arbiter_connected: bool) -> String {
        let mut text = Text::default();
        text.head("device_ready", "gauge", "The device would work now: its last login did.");
        for (name, device) in &status.devices {
            let labels = [("device", name.as_str()), ("kind", device.kind.as_str())];
            text.line("device_ready", &labels, u64::from(device.ready));
        }
        text.head("device_rehearsal_seconds", "gauge", "How long its last rehearsal took.");
        for (name, device) in &status.devices {
            if let Some(ms) = device.took_ms {
                text.seconds("device_rehearsal_seconds", &[("device", name)], ms);
            }
        }
        text.head("device_rehearsal_age_seconds", "gauge", "How long ago that was.");
        for (name, device) in &status.devices {
            if let Some(ms) = device.age_ms {
                text.seconds("device_rehearsal_age_seconds", &[("device", name)], ms);
            }
        }
        text.head("device_commands_total", "counter", "Commands that were sent, by their end.");
        for ((device, command, worked), count) in &self.commands {
            let result = if *worked { "ok" } else { "failed" };
            let labels = [("device", device.as_str()), ("command", command), ("result", result)];
            text.line("device_commands_total", &labels, *count);
        }
        text.head("alarms", "gauge", "Standing alarms; each is a line of the status.");
        text.line("alarms", &[], status.alarms.len() as u64);
        text.head("arbiter_connected", "gauge", "The arbiter answers, and decides who may fence.");
        text.line("arbiter_connected", &[], u64::from(arbiter_connected));
        text.head("requests_total", "counter", "Requests, confirmations and rehearsals that came.");
        text.line("requests_total", &[], self.wishes);
        text.head("jobs_running", "gauge", "Nodes that are being fenced now.");
        let running = status.nodes.values().filter(|node| node.job.is_some()).count();
        text.line("jobs_running", &[], running as u64);
        text.head("jobs_total", "counter", "Jobs that ended, one a node, by their result.");
        for result in RESULTS {
            let count = self.jobs.get(result).copied().unwrap_or_default();
            text.line("jobs_total", &[("result", result)], count);
        }
        text.0
    }
}

/// The text format (Prometheus exposition format 0.0.4).
#[derive(Default)]
struct Text(String);

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a text cannot fail.
        let _ = write!(
            self.0,
            "# HELP haguard_gateway_{name} {help}\n# TYPE haguard_gateway_{name} {kind}\n"
        );
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        self.write(name, labels, &value.to_string());
    }

    fn seconds(&mut self, name: &str, labels: &[(&str, &str)], ms: u64) {
        self.write(name, labels, &format!("{}.{:03}", ms / 1000, ms % 1000));
    }

    fn write(&mut self, name: &str, labels: &[(&str, &str)], value: &str) {
        let label = |(name, value): &(&str, &str)| format!("{name}=\"{}\"", escape(value));
        let labels: Vec<String> = labels.iter().map(label).collect();
        let labels =
            if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "haguard_gateway_{name}{labels} {value}");
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use protocol::fence::DeviceReadiness;
    use protocol::ids::NodeId;

    use super::*;

    #[test]
    fn the_numbers_say_what_was_counted_and_what_the_snapshot_says() {
        let mut numbers = Numbers::default();
        let ended =
            |result: &str| Entry::Ended { job: 1, node: NodeId(2), result: result.to_owned() };
        numbers.recorded(&ended("off"));
        numbers.recorded(&ended("failed: every level"));
        numbers.commanded("a\"b", Command::Off, true);
        let ready = DeviceReadiness {
            kind: "ipmi".to_owned(),
            ready: true,
            took_ms: Some(1042),
            ..DeviceReadiness::default()
        };
        let status = GatewayStatus {
            devices: [("a\"b".to_owned(), ready)].into(),
            alarms: vec!["one".to_owned()],
            ..GatewayStatus::default()
        };
        let text = numbers.text(&status, true);
        for line in [
            "haguard_gateway_device_ready{device=\"a\\\"b\",kind=\"ipmi\"} 1",
            "haguard_gateway_device_rehearsal_seconds{device=\"a\\\"b\"} 1.042",
            "haguard_gateway_alarms 1",
            "haguard_gateway_arbiter_connected 1",
            "haguard_gateway_requests_total 0",
            "haguard_gateway_jobs_running 0",
            "haguard_gateway_jobs_total{result=\"off\"} 1",
            "haguard_gateway_jobs_total{result=\"failed\"} 1",
            "haguard_gateway_jobs_total{result=\"refused\"} 0",
            "haguard_gateway_device_commands_total{device=\"a\\\"b\",command=\"off\",result=\"ok\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
        }
    }
}
