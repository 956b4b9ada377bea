//! Keys that corosync knows and our engine has no use for. They are listed so that they can be
//! told from typing errors, and their kinds are checked as corosync's parser does, so that a file
//! that we accept is not refused when somebody goes back.

/// What corosync's parser demands of a value.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    /// Anything.
    Text,
    /// 0 to 255.
    U8,
    /// 0 to 2³²−1.
    U32,
    /// −2³¹ to 2³¹−1.
    I32,
    /// One of these words.
    Word(&'static [&'static str]),
}

use Kind::{I32, Text, U8, U32, Word};

/// Known names, each with its kind.
pub(super) type Keys = &'static [(&'static str, Kind)];

pub(super) const TOTEM: Keys = &[
    ("autojoin", Text),
    ("block_unlisted_ips", Text),
    ("cancel_token_hold_on_retransmit", Text),
    ("consensus", U32),
    ("crypto_model", Text),
    ("downcheck", U32),
    ("fail_recv_const", U32),
    ("heartbeat_failures_allowed", U32),
    ("hold", U32),
    ("ip_dscp", Text),
    ("join", U32),
    ("key", Text),
    ("keyfile", Text),
    ("knet_compression_level", I32),
    ("knet_compression_model", Text),
    ("knet_compression_threshold", U32),
    ("knet_mtu", U32),
    ("knet_pmtud_interval", U32),
    ("max_messages", U32),
    ("max_network_delay", U32),
    ("merge", U32),
    ("miss_count_const", U32),
    ("netmtu", U32),
    ("nodeid", U32),
    ("rrp_mode", Text),
    ("send_join", U32),
    ("seqno_unchanged_const", U32),
    ("threads", U32),
    ("token_coefficient", U32),
    ("token_retransmit", U32),
    ("token_retransmits_before_loss_const", U32),
    ("token_warning", U32),
    ("vsftype", Text),
    ("window_size", U32),
];

pub(super) const INTERFACE: Keys = &[
    ("bindnetaddr", Text),
    ("broadcast", Text),
    ("knet_ping_interval", U32),
    ("knet_ping_precision", U32),
    ("knet_ping_timeout", U32),
    ("knet_pong_count", U32),
    ("knet_transport", Word(&["udp", "sctp"])),
    ("mcastaddr", Text),
    ("ttl", U8),
];

pub(super) const QUORUM: Keys =
    &[("expected_votes_tracking", U8), ("leaving_timeout", U32), ("votes", U32)];

pub(super) const DEVICE: Keys = &[("master_wins", U8)];

pub(super) const LOGGING: Keys = &[
    ("blackbox", Text),
    ("debug", Text),
    ("fileline", Text),
    ("function_name", Text),
    ("logfile", Text),
    ("logfile_priority", Text),
    ("logger_subsys", Text),
    ("subsys", Text),
    ("syslog_facility", Text),
    ("syslog_priority", Text),
    ("tags", Text),
    ("timestamp", Text),
    ("to_file", Text),
    ("to_logfile", Text),
    ("to_stderr", Text),
    ("to_syslog", Text),
];

pub(super) const SYSTEM: Keys = &[
    ("allow_knet_handle_fallback", Word(&["yes", "no"])),
    ("move_to_root_cgroup", Word(&["yes", "no", "auto"])),
    ("priority", Text),
    ("qb_ipc_type", Word(&["native", "shm", "socket"])),
    ("sched_rr", Word(&["yes", "no"])),
    ("state_dir", Text),
];

pub(super) const NOZZLE: Keys =
    &[("ipaddr", Text), ("ipprefix", Text), ("macaddr", Text), ("name", Text)];

pub(super) const UIDGID: Keys = &[("gid", Text), ("uid", Text)];

/// Top-level sections of which nothing is used, with their keys.
pub(super) const SECTIONS: &[(&str, Keys)] =
    &[("logging", LOGGING), ("nozzle", NOZZLE), ("system", SYSTEM), ("uidgid", UIDGID)];

/// Top-level sections that are read over whole: they configure services that we do not have.
pub(super) const OPAQUE: &[&str] =
    &["aisexec", "amf", "pload", "qb", "quorum_service", "resources", "service"];

/// Sections inside those of [`SECTIONS`], with the same keys as their parent and a name.
pub(super) const SUBSECTIONS: &[&str] = &["logger_subsys", "logging_daemon"];

/// The name nearest to a wrong one, if one is near enough to be meant.
pub(super) fn nearest<'a>(wrong: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    const LONGEST: usize = 64;
    const MAX_EDITS: usize = 2;
    if wrong.len() > LONGEST {
        return None;
    }
    let near = known.map(|name| (edits(wrong, name), name));
    let near = near.filter(|(edits, name)| *edits <= MAX_EDITS && *edits * 2 < name.len());
    near.min().map(|(_, name)| name)
}

/// How many characters must be added, removed or replaced (Levenshtein's distance).
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (index, a) in from.chars().enumerate() {
        let mut diagonal = index;
        row[0] = index + 1;
        for (column, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found_and_a_far_one_is_not() {
        let known = || ["two_node", "wait_for_all", "host"].into_iter();
        assert_eq!(nearest("twonode", known()), Some("two_node"));
        assert_eq!(nearest("wait_for_al", known()), Some("wait_for_all"));
        assert_eq!(nearest("ghost_writer", known()), None);
        assert_eq!(nearest("", known()), None);
    }
}
