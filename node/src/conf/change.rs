//! What differs between two configurations, key by key, and what of it a running node may take
//! over. That is exactly what is left out of the digest: members need not have it in common, so
//! one after the other may change it.

use std::collections::{BTreeMap, BTreeSet};

use super::ClusterConf;

/// Keys, and sections with all their keys, that may change while a node runs. Each concerns one
/// device's way to its arbiter or one node's way to a gateway, which asks the arbiter whatever it is
/// told, or is a number for people and the arbiter.
const LIVE: &[&str] = &[
    "haguard.gateway",
    "quorum.device.heuristics",
    "quorum.device.net.connect_timeout",
    "quorum.device.net.force_ip_version",
    "quorum.device.net.tls",
    "totem.config_version",
];

/// Dotted paths of what differs, nodes as `nodelist.node.ID`, links as `totem.interface.NUMBER`. A
/// section that only one side has stands for all its keys.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Changes {
    /// A running node may take these over.
    pub live: BTreeSet<String>,
    /// These are part of the digest: they need a restart of all nodes.
    pub restart: BTreeSet<String>,
}

impl Changes {
    /// Nothing differs.
    pub fn is_empty(&self) -> bool {
        self.live.is_empty() && self.restart.is_empty()
    }
}

impl ClusterConf {
    /// What is different in `new`. Values that follow from others, and defaults that one file
    /// writes out, are not named.
    pub fn changes(&self, new: &Self) -> Changes {
        let [old_meant, new_meant] =
            [self, new].map(|conf| Settings::of(&conf.with_defaults_written()));
        let (old_text, new_text) = (Settings::of(self), Settings::of(new));
        let meant = old_meant.differences(&new_meant);
        // What follows from another key differs, and is written in neither file.
        let mut paths = meant.clone();
        paths.retain(|path| old_text.keys.get(path) != new_text.keys.get(path));
        if meant.iter().any(|path| !is_live(path)) && paths.iter().all(|path| is_live(path)) {
            paths = meant;
        }
        let (live, restart): (BTreeSet<_>, BTreeSet<_>) =
            paths.into_iter().partition(|path| is_live(path));
        let named = |paths: BTreeSet<String>| {
            paths.iter().map(|path| old_text.name_in(&new_text, path)).collect()
        };
        Changes { live: named(live), restart: named(restart) }
    }

    /// The text whose hash is the digest.
    pub(super) fn digested(&self) -> String {
        let keys = Settings::of(&self.with_defaults_written()).keys;
        let common = keys.into_iter().filter(|(path, _)| !is_live(path));
        common.map(|(path, value)| format!("{path}: {value}\n")).collect()
    }
}

fn is_live(path: &str) -> bool {
    LIVE.iter().any(|live| {
        path.strip_prefix(live).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
}

/// A configuration as values by dotted path.
struct Settings {
    keys: BTreeMap<String, String>,
    sections: BTreeSet<String>,
}

impl Settings {
    fn of(conf: &ClusterConf) -> Self {
        let mut settings = Self { keys: BTreeMap::new(), sections: BTreeSet::new() };
        let mut inside: Vec<String> = Vec::new();
        for line in conf.render().lines().map(str::trim_start) {
            if let Some(name) = line.strip_suffix(" {") {
                inside.push(name.to_owned());
            } else if line == "}" {
                inside.pop();
            } else if let Some((key, value)) = line.split_once(':') {
                let value = value.trim_start();
                // The first key of a section of which there are several is its number.
                if let ("nodeid" | "linknumber", Some(section)) = (key, inside.last_mut()) {
                    *section = format!("{section}.{value}");
                }
                let section = inside.join(".");
                settings.keys.insert(format!("{section}.{key}"), value.to_owned());
                settings.sections.insert(section);
            }
        }
        settings
    }

    fn differences(&self, other: &Self) -> BTreeSet<String> {
        let all = self.keys.keys().chain(other.keys.keys());
        all.filter(|path| self.keys.get(*path) != other.keys.get(*path)).cloned().collect()
    }

    /// The section that one side lacks, or the key.
    fn name_in(&self, other: &Self, path: &str) -> String {
        let dots = path.match_indices('.').map(|(at, _)| &path[..at]);
        let mut sections = dots.filter(|section| {
            self.sections.contains(*section) != other.sections.contains(*section)
        });
        sections.next().unwrap_or(path).to_owned()
    }
}
