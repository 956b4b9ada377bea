//! What the gateway says of itself.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use protocol::fence::{DeviceReadiness, GatewayStatus, Outcome, TargetStatus};
use protocol::ids::NodeId;
use protocol::time::Time;

use super::{DeviceName, Gateway, Kind};

/// What is remembered of a node between its jobs.
#[derive(Debug, Default)]
pub(super) struct NodeMemory {
    last: Option<Outcome>,
    /// Proven off by these devices, and not given power from here since.
    pub(super) off: BTreeSet<DeviceName>,
    /// It was proven off, and this device reads on.
    returned: Option<DeviceName>,
}

impl NodeMemory {
    /// A job has ended.
    pub(super) fn ended(&mut self, outcome: Outcome) {
        self.returned = None;
        self.off.clear();
        self.last = Some(outcome);
    }

    /// A rehearsal reads on. Said until the next rehearsal that reads so: then it is how things are.
    pub(super) fn reads_on(&mut self, device: &DeviceName) {
        if self.off.contains(device) {
            self.off.clear();
            self.returned = Some(device.clone());
        } else if self.returned.as_ref() == Some(device) {
            self.returned = None;
        }
    }
}

impl Gateway {
    /// The snapshot behind `haguard fence list` and the status.
    pub fn status(&self, now: Time) -> GatewayStatus {
        GatewayStatus {
            cluster: self.config.cluster.clone(),
            arbiter: match self.desk.arbiter() {
                Ok(()) => "connected".to_owned(),
                Err(why) => why.to_owned(),
            },
            nodes: self.target_status(now),
            devices: self.device_status(now),
            alarms: self.alarms(),
        }
    }

    fn target_status(&self, now: Time) -> BTreeMap<u32, TargetStatus> {
        let mut nodes = BTreeMap::new();
        for (node, target) in &self.config.targets {
            let levels = target.levels.iter().map(|level| level.devices.clone()).collect();
            nodes.insert(node.0, TargetStatus { levels, job: None, last: self.last(*node) });
        }
        let runs = self.incidents.iter().flat_map(|incident| &incident.runs);
        for (node, run) in runs {
            let job = Some((millis(now.since(run.since)), run.doing()));
            nodes.entry(node.0).or_default().job = job;
        }
        for job in &self.power_jobs {
            for node in job.nodes() {
                let entry = nodes.entry(node.0).or_default();
                let doing = (millis(now.since(job.since)), "gives power".to_owned());
                entry.job.get_or_insert(doing);
            }
        }
        nodes
    }

    fn last(&self, node: NodeId) -> Option<Outcome> {
        self.nodes.get(&node).and_then(|memory| memory.last.clone())
    }

    fn device_status(&self, now: Time) -> BTreeMap<String, DeviceReadiness> {
        let mut devices = BTreeMap::new();
        for (name, device) in &self.config.devices {
            let kind = match device.kind {
                Kind::Power { name } => name,
                Kind::Agent => "agent",
                Kind::Watchdog { .. } => "watchdog",
            };
            let mut status = DeviceReadiness { kind: kind.to_owned(), ..Default::default() };
            if let Some(readiness) = self.rehearsals.devices.get(name) {
                status.ready = readiness.last.is_some() && readiness.problem().is_none();
                status.power = readiness.power.map_or(String::new(), |power| power.to_string());
                status.problem = readiness.problem().unwrap_or_default();
                if let Some((_, took, at)) = &readiness.last {
                    status.took_ms = Some(millis(*took));
                    status.age_ms = Some(millis(now.since(*at)));
                }
            } else {
                // Nothing is sent to a watchdog: the arbiter is what it takes.
                status.ready = self.desk.arbiter().is_ok();
                status.problem = self.desk.arbiter().err().unwrap_or_default().to_owned();
            }
            devices.insert(name.clone(), status);
        }
        devices
    }

    fn alarms(&self) -> Vec<String> {
        let mut alarms = Vec::new();
        if let Err(why) = self.desk.arbiter() {
            let whom = if self.desk.majority.is_possible_for_some() {
                "only for a side that has more than half of all votes without it can power be cut"
            } else {
                "nobody can be fenced"
            };
            alarms.push(format!("the arbiter is not connected, so {whom}: {why}"));
        }
        if self.desk.journal_fails() {
            alarms.push(
                "the journal cannot be written, so nobody can be fenced: see its disk".to_owned(),
            );
        }
        for (name, readiness) in &self.rehearsals.devices {
            if let Some(problem) = readiness.problem() {
                let whom = self.nodes_of(name);
                alarms.push(format!("device {name} of {whom} would not work now: {problem}"));
            }
        }
        for (node, memory) in &self.nodes {
            if let Some(device) = &memory.returned {
                alarms.push(format!(
                    "node {node} was proven off and {device} reads on: somebody or something has \
                     given it power"
                ));
            }
            if let Some(Outcome::Failed { why }) = &memory.last {
                alarms.push(why.clone());
            }
        }
        alarms
    }

    fn nodes_of(&self, device: &str) -> String {
        let has = |name: &&String| name.as_str() == device;
        let nodes: Vec<String> = self
            .config
            .targets
            .iter()
            .filter(|(_, target)| {
                target.levels.iter().flat_map(|level| &level.devices).any(|name| has(&name))
            })
            .map(|(node, _)| format!("node {node}"))
            .collect();
        if nodes.is_empty() { "no node".to_owned() } else { nodes.join(", ") }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
