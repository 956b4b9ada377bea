//! What the fence agents of the configuration can do, by their metadata: one that cannot cut power,
//! or cannot say whether there is any, is known at the start and not when it is needed.
//!
//! It is an alarm and nothing more: an agent without metadata, as people write them, is fine, and
//! what it does is rehearsed all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::task::JoinSet;
use tracing::warn;

use super::switch::Switch;
use crate::config::Settings;
use crate::core::DeviceName;

/// How long an agent may take to describe itself.
const LIMIT: Duration = Duration::from_secs(20);

/// Every power switch is told these.
const NEEDED: [&str; 2] = ["off", "status"];

/// And this one, where its node is given power again.
const ON: &str = "on";

/// What was found, and the task that finds it.
#[derive(Debug)]
pub(super) struct Agents {
    asking: JoinSet<Vec<String>>,
    alarms: Vec<String>,
}

impl Agents {
    /// Asks each program once, one after the other.
    pub(super) fn of(settings: &Settings, switches: &BTreeMap<DeviceName, Switch>) -> Self {
        let mut programs: BTreeMap<_, Vec<(DeviceName, Switch)>> = BTreeMap::new();
        for (name, switch) in switches {
            if let Some(program) = switch.program() {
                let program = program.to_owned();
                programs.entry(program).or_default().push((name.clone(), switch.clone()));
            }
        }
        let again = given_power_again(settings);
        let mut asking = JoinSet::new();
        asking.spawn(async move {
            let mut alarms = Vec::new();
            for (program, devices) in programs {
                let Some((_, one)) = devices.first() else { continue };
                let Some(actions) = one.actions(LIMIT).await else { continue };
                for (name, _) in devices {
                    let on = again.contains(&name).then_some(ON);
                    let needed: Vec<&str> = NEEDED.into_iter().chain(on).collect();
                    let missing = actions.missing(&needed);
                    if !missing.is_empty() {
                        alarms.push(format!(
                            "device {name} would not work: its agent {} has no action {}; name \
                             one that has",
                            program.display(),
                            missing.join(", ")
                        ));
                    }
                }
            }
            alarms
        });
        Self { asking, alarms: Vec::new() }
    }

    /// Takes in what has been found.
    pub(super) fn look(&mut self) {
        while let Some(found) = self.asking.try_join_next() {
            // A client that panicked has found nothing.
            self.alarms = found.unwrap_or_default();
            self.alarms.iter().for_each(|alarm| warn!("{alarm}"));
        }
    }

    /// One line each.
    pub(super) fn alarms(&self) -> &[String] {
        &self.alarms
    }
}

/// The devices of nodes that are given power again after a fence.
fn given_power_again(settings: &Settings) -> BTreeSet<DeviceName> {
    let targets = settings.nodes.values().filter(|target| target.unfence);
    targets.flat_map(|target| &target.levels).flat_map(|level| level.devices.clone()).collect()
}
