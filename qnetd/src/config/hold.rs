//! Vote-hold in the arbiter's file: how long clients without leases are held to count a vote, for
//! all clusters and for single ones (rule S2b).
//!
//! ```toml
//! vote-hold = "single-fault"
//!
//! [cluster."db"]
//! vote-hold = "double-fault"
//! device-timeout = "10 s"              # quorum.device.timeout of its corosync.conf
//! sync-timeout = "30 s"                # quorum.device.sync_timeout
//! lms-without-wait-for-all = true
//! ```

use host::settings::value::nearest;
use protocol::ids::ClusterName;

use crate::core::{ClusterSettings, Settings, VoteHold};

/// The table of clusters.
const CLUSTER: &str = "cluster";

/// Longest name of a cluster, in bytes; corosync's own limit is 96 characters with the end.
const NAME_BYTES_MAX: usize = 255;

/// Longest timer of the stock daemons, in milliseconds.
const TIMEOUT_MS_MAX: u64 = 18_000_000;

/// What can be said of one cluster.
#[derive(Clone, Copy)]
enum Key {
    VoteHold,
    DeviceTimeout,
    SyncTimeout,
    LmsWithoutWaitForAll,
}

impl Key {
    const NAMES: [(&'static str, Self); 4] = [
        ("vote-hold", Self::VoteHold),
        ("device-timeout", Self::DeviceTimeout),
        ("sync-timeout", Self::SyncTimeout),
        ("lms-without-wait-for-all", Self::LmsWithoutWaitForAll),
    ];
}

/// The word of a vote-hold rule.
pub(super) fn mode(word: &str) -> Option<VoteHold> {
    VoteHold::NAMES.iter().find(|(name, _)| *name == word).map(|(_, mode)| *mode)
}

/// Takes the tables of single clusters out of the file's table and into the settings.
///
/// # Errors
/// What is wrong, in one line: an unknown key with the nearest known one, or a value that is none.
pub(super) fn take_clusters(table: &mut toml::Table, core: &mut Settings) -> Result<(), String> {
    let Some(value) = table.remove(CLUSTER) else { return Ok(()) };
    let toml::Value::Table(clusters) = value else {
        return Err(format!("'{CLUSTER}' must be tables: write [{CLUSTER}.\"name\"]"));
    };
    for (name, value) in clusters {
        let toml::Value::Table(keys) = value else {
            let text = format!("'{CLUSTER}.{name}' must be a table: write [{CLUSTER}.\"name\"]");
            return Err(text);
        };
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            let text =
                format!("the name of a [{CLUSTER}] table must have 1 to {NAME_BYTES_MAX} bytes");
            return Err(text);
        }
        let said = read_cluster(&name, &keys)?;
        core.clusters.insert(ClusterName::from(name.as_str()), said);
    }
    Ok(())
}

fn read_cluster(name: &str, keys: &toml::Table) -> Result<ClusterSettings, String> {
    let mut said = ClusterSettings::default();
    for (word, value) in keys {
        let written = word.replace('_', "-");
        let Some((key_name, key)) = Key::NAMES.iter().find(|(known, _)| *known == written) else {
            let near = nearest(&written, Key::NAMES.iter().map(|(known, _)| *known));
            let hint = near.map(|near| format!("; did you mean '{near}'?")).unwrap_or_default();
            return Err(format!("Unknown option '{word}' of cluster '{name}'{hint}"));
        };
        let wrong = |expected: &str| {
            format!("Invalid value for option '{key_name}' of cluster '{name}': {expected}")
        };
        let time = |value: &toml::Value| value.as_str().and_then(milliseconds);
        let no_time = || wrong("it must be a time with a unit, such as \"10 s\" or \"500 ms\"");
        match key {
            Key::VoteHold => {
                let known = value.as_str().and_then(mode);
                let expected = "it must be \"single-fault\", \"double-fault\" or \"off\"";
                said.vote_hold = Some(known.ok_or_else(|| wrong(expected))?);
            }
            Key::DeviceTimeout => said.device_timeout_ms = Some(time(value).ok_or_else(no_time)?),
            Key::SyncTimeout => said.sync_timeout_ms = Some(time(value).ok_or_else(no_time)?),
            Key::LmsWithoutWaitForAll => {
                let on = value.as_bool();
                said.lms_without_wait_for_all =
                    on.ok_or_else(|| wrong("it must be true or false"))?;
            }
        }
    }
    Ok(said)
}

/// `10 s`, `500ms`, `2 m`; at least a millisecond.
fn milliseconds(text: &str) -> Option<u32> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit())?;
    let count: u64 = text.get(..digits)?.parse().ok()?;
    let factor = match text.get(digits..)?.trim_start() {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        _ => return None,
    };
    let ms = count.checked_mul(factor).filter(|ms| (1..=TIMEOUT_MS_MAX).contains(ms))?;
    u32::try_from(ms).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Settings, String> {
        let mut table: toml::Table = toml::from_str(text).unwrap();
        let mut core = Settings::default();
        take_clusters(&mut table, &mut core)?;
        assert!(!table.contains_key(CLUSTER));
        Ok(core)
    }

    #[test]
    fn a_cluster_has_all_its_settings() {
        let core = read(
            "port = 1\n[cluster.\"a.b\"]\nvote-hold = \"double-fault\"\ndevice-timeout = \"10 s\"\n\
             sync_timeout = \"500ms\"\nlms-without-wait-for-all = true\n[cluster.c]\n",
        )
        .unwrap();
        let said = ClusterSettings {
            vote_hold: Some(VoteHold::DoubleFault),
            device_timeout_ms: Some(10_000),
            sync_timeout_ms: Some(500),
            lms_without_wait_for_all: true,
        };
        assert_eq!(core.clusters[&ClusterName::from("a.b")], said);
        assert_eq!(core.clusters[&ClusterName::from("c")], ClusterSettings::default());
        assert_eq!(core.vote_hold, VoteHold::SingleFault);
    }

    #[test]
    fn a_file_without_clusters_changes_nothing() {
        assert_eq!(read("port = 1\n").unwrap(), Settings::default());
    }

    #[test]
    fn every_mode_has_a_word() {
        for (word, named) in VoteHold::NAMES {
            assert_eq!(mode(word), Some(named));
            assert_eq!(named.to_string(), word);
        }
        assert_eq!(mode("Off"), None);
    }

    #[test]
    fn what_is_wrong_is_one_line_with_what_to_write() {
        let cases = [
            ("cluster = 1", "'cluster' must be tables: write [cluster.\"name\"]"),
            ("[cluster]\nc = 1", "'cluster.c' must be a table: write [cluster.\"name\"]"),
            ("[cluster.\"\"]", "the name of a [cluster] table must have 1 to 255 bytes"),
            (
                "[cluster.c]\ndevice-timout = \"10 s\"",
                "Unknown option 'device-timout' of cluster 'c'; did you mean 'device-timeout'?",
            ),
            ("[cluster.c]\nzzz = 1", "Unknown option 'zzz' of cluster 'c'"),
            (
                "[cluster.c]\nvote-hold = \"on\"",
                "Invalid value for option 'vote-hold' of cluster 'c': it must be \
                 \"single-fault\", \"double-fault\" or \"off\"",
            ),
            (
                "[cluster.c]\ndevice-timeout = 10",
                "Invalid value for option 'device-timeout' of cluster 'c': it must be a time with \
                 a unit, such as \"10 s\" or \"500 ms\"",
            ),
            (
                "[cluster.c]\nlms-without-wait-for-all = \"yes\"",
                "Invalid value for option 'lms-without-wait-for-all' of cluster 'c': it must be \
                 true or false",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(read(text).unwrap_err(), expected, "{text}");
        }
    }

    #[test]
    fn a_time_has_a_unit_and_is_within_the_stock_timers() {
        assert_eq!(milliseconds("2 m"), Some(120_000));
        assert_eq!(milliseconds("18000 s"), Some(18_000_000));
        for text in ["0 s", "18001 s", "10", "s", "", "-1 s", "1 h", "99999999999999999999 s"] {
            assert_eq!(milliseconds(text), None, "{text}");
        }
    }
}
