//! From cmap's keys to the words of the device: corosync.conf as corosync has understood it
//! (cmap_keys(7), corosync-qdevice(8), wire 3.4).

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use protocol::host::{DeviceSettings, HeuristicsMode, HeuristicsSettings, TlsMode, Welcome};
use protocol::ids::{BootId, InstanceId, NodeId};
use protocol::times;
use protocol::vote::{Algorithm, Bound, TieBreaker};

/// cmap's keys and their values as text.
pub(super) type Keys = BTreeMap<String, String>;

/// The port of an arbiter that names none (corosync-qdevice(8)).
const PORT: u16 = 5403;
/// Least and most heartbeat interval, in milliseconds (wire 3.1).
const HEARTBEAT_MS: (u32, u32) = (1000, 120_000);
/// The prefix of the heuristics' commands.
const EXEC: &str = "quorum.device.heuristics.exec_";

/// The machine and the connection to corosync.
#[derive(Clone, Copy, Debug)]
pub(super) struct Identity {
    /// The machine's boot.
    pub(super) boot: BootId,
    /// Of the connection: what corosync has said before it is void with another one.
    pub(super) instance: InstanceId,
}

/// The introduction of a node that runs corosync.
///
/// # Errors
/// One line with the key that is missing or wrong, and what to do.
pub(super) fn welcome(keys: &Keys, identity: Identity) -> Result<Welcome, String> {
    let this_node = number(keys, "runtime.votequorum.this_node_id")?;
    let node = this_node.filter(|node| *node != 0).ok_or_else(|| {
        "corosync runs without votequorum: set quorum.provider to corosync_votequorum".to_owned()
    })?;
    let nodes = nodes(keys)?;
    if nodes.is_empty() {
        return Err("corosync.conf has no nodelist: add one".to_owned());
    }
    Ok(Welcome {
        cluster: required(keys, "totem.cluster_name")?.to_owned(),
        node: NodeId(node),
        boot: identity.boot,
        instance: identity.instance,
        // Which watchdog the cluster's fencing uses is not known here: never a proof.
        bound: Bound::default(),
        config_version: keys.get("totem.config_version").and_then(|text| text.parse().ok()),
        nodes,
        device: match keys.get("quorum.device.model").map(String::as_str) {
            None | Some("") => None,
            Some("net") => Some(device(keys)?),
            Some(_) => return Err(wrong(keys, "quorum.device.model", "net")),
        },
    })
}

fn nodes(keys: &Keys) -> Result<BTreeMap<NodeId, u32>, String> {
    let mut nodes = BTreeMap::new();
    let places = keys.keys().filter_map(|key| {
        let (place, _) = key.strip_prefix("nodelist.node.")?.split_once('.')?;
        place.parse::<u32>().ok()
    });
    for place in places.collect::<std::collections::BTreeSet<_>>() {
        let key = |name: &str| format!("nodelist.node.{place}.{name}");
        let id = match number(keys, &key("nodeid"))? {
            Some(id) => id,
            None => id_of_address(keys, &key("ring0_addr"))?,
        };
        nodes.insert(NodeId(id), number(keys, &key("datacenterid"))?.unwrap_or(0));
    }
    Ok(nodes)
}

/// A node without an id has its IPv4 address for one (corosync.conf(5) nodeid).
fn id_of_address(keys: &Keys, key: &str) -> Result<u32, String> {
    let address = required(keys, key)?;
    let Ok(address) = address.parse::<Ipv4Addr>() else {
        return Err(format!("{key} is {address}, and the node has no nodeid: give it one"));
    };
    let id = u32::from(address);
    let clear = keys.get("totem.clear_node_high_bit").is_some_and(|text| text == "yes");
    Ok(if clear { id & 0x7fff_ffff } else { id })
}

fn device(keys: &Keys) -> Result<DeviceSettings, String> {
    let net = |name: &str| format!("quorum.device.net.{name}");
    let millis = |duration: std::time::Duration| u32::try_from(duration.as_millis()).unwrap_or(0);
    let timeout_ms =
        number(keys, "quorum.device.timeout")?.unwrap_or(millis(times::DEVICE_TIMEOUT));
    let sync_timeout_ms =
        number(keys, "quorum.device.sync_timeout")?.unwrap_or(millis(times::DEVICE_SYNC_TIMEOUT));
    let heartbeat_ms = (timeout_ms / 5).saturating_mul(4).clamp(HEARTBEAT_MS.0, HEARTBEAT_MS.1);
    let algorithm = match keys.get(&net("algorithm")).map(String::as_str) {
        None | Some("ffsplit") => Algorithm::Ffsplit,
        Some("lms") => Algorithm::Lms,
        Some("2nodelms") => Algorithm::TwoNodeLms,
        Some("test") => Algorithm::Test,
        Some(_) => return Err(wrong(keys, &net("algorithm"), "ffsplit, lms or 2nodelms")),
    };
    let votes = keys.get("quorum.device.votes").map(String::as_str);
    if algorithm == Algorithm::Ffsplit && votes != Some("1") {
        return Err("net.algorithm ffsplit needs quorum.device.votes: 1 in corosync.conf".into());
    }
    let tls = match keys.get(&net("tls")) {
        None => TlsMode::On,
        Some(word) if word.eq_ignore_ascii_case("required") => TlsMode::Required,
        Some(word) => match switch(word) {
            Some(true) => TlsMode::On,
            Some(false) => TlsMode::Off,
            None => return Err(wrong(keys, &net("tls"), "on, off or required")),
        },
    };
    let tie_breaker = match keys.get(&net("tie_breaker")).map(String::as_str) {
        None | Some("lowest") => TieBreaker::Lowest,
        Some("highest") => TieBreaker::Highest,
        Some(_) => match number(keys, &net("tie_breaker")) {
            Ok(Some(node)) if node != 0 => TieBreaker::Node(NodeId(node)),
            Ok(_) | Err(_) => {
                return Err(wrong(keys, &net("tie_breaker"), "lowest, highest or a node id"));
            }
        },
    };
    let keep = keys.get(&net("keep_active_partition_tie_breaker"));
    Ok(DeviceSettings {
        host: required(keys, &net("host"))?.to_owned(),
        port: port(keys, &net("port"))?,
        tls,
        algorithm,
        tie_breaker,
        keep_active_partition: keep.and_then(|word| switch(word)).unwrap_or(true),
        timeout_ms,
        sync_timeout_ms,
        heartbeat_ms,
        connect_timeout_ms: number(keys, &net("connect_timeout"))?.unwrap_or(heartbeat_ms),
        force_ip_version: match number(keys, &net("force_ip_version"))? {
            None | Some(0) => 0,
            Some(4) => 4,
            Some(6) => 6,
            Some(_) => return Err(wrong(keys, &net("force_ip_version"), "0, 4 or 6")),
        },
        heuristics: heuristics(keys, timeout_ms, sync_timeout_ms)?,
    })
}

fn port(keys: &Keys, key: &str) -> Result<u16, String> {
    let port = number(keys, key)?.unwrap_or(u32::from(PORT));
    let port = u16::try_from(port).ok().filter(|port| *port != 0);
    port.ok_or_else(|| wrong(keys, key, "1 to 65535"))
}

fn heuristics(keys: &Keys, timeout: u32, sync: u32) -> Result<HeuristicsSettings, String> {
    let key = |name: &str| format!("quorum.device.heuristics.{name}");
    let mode = match keys.get(&key("mode")) {
        None => HeuristicsMode::Off,
        Some(word) if word.eq_ignore_ascii_case("sync") => HeuristicsMode::Sync,
        Some(word) => match switch(word) {
            Some(true) => HeuristicsMode::On,
            Some(false) => HeuristicsMode::Off,
            None => return Err(wrong(keys, &key("mode"), "on, off or sync")),
        },
    };
    let commands = keys.range(EXEC.to_owned()..).map_while(|(key, command)| {
        let name = key.strip_prefix(EXEC)?;
        Some((name.to_owned(), command.clone()))
    });
    Ok(HeuristicsSettings {
        mode,
        timeout_ms: number(keys, &key("timeout"))?.unwrap_or(timeout / 2),
        sync_timeout_ms: number(keys, &key("sync_timeout"))?.unwrap_or(sync / 2),
        interval_ms: number(keys, &key("interval"))?.unwrap_or(timeout.saturating_mul(3)),
        commands: commands.filter(|(_, command)| !command.is_empty()).collect(),
    })
}

fn required<'a>(keys: &'a Keys, key: &str) -> Result<&'a str, String> {
    let value = keys.get(key).map(String::as_str).filter(|value| !value.is_empty());
    value.ok_or_else(|| format!("{key} is not set: add it to corosync.conf"))
}

/// A whole number; `None` if there is none.
fn number(keys: &Keys, key: &str) -> Result<Option<u32>, String> {
    let Some(text) = keys.get(key) else { return Ok(None) };
    text.trim().parse().map(Some).map_err(|_| wrong(keys, key, "a whole number"))
}

/// The bool words of the stock daemons.
fn switch(word: &str) -> Option<bool> {
    match word.to_ascii_lowercase().as_str() {
        "yes" | "on" | "1" => Some(true),
        "no" | "off" | "0" => Some(false),
        _ => None,
    }
}

fn wrong(keys: &Keys, key: &str, right: &str) -> String {
    let value = keys.get(key).map_or("", String::as_str);
    format!("{key} is {value:?}, not {right}: correct corosync.conf and run corosync-cfgtool -R")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &[(&str, &str)] = &[
        ("totem.cluster_name", "lab"),
        ("runtime.votequorum.this_node_id", "2"),
        ("nodelist.local_node_pos", "1"),
        ("nodelist.node.0.nodeid", "1"),
        ("nodelist.node.0.ring0_addr", "10.0.0.1"),
        ("nodelist.node.1.nodeid", "2"),
        ("nodelist.node.1.datacenterid", "7"),
        ("quorum.device.model", "net"),
        ("quorum.device.votes", "1"),
        ("quorum.device.net.host", "qnetd.example"),
    ];

    fn read(changes: &[(&str, &str)]) -> Result<Welcome, String> {
        let all = LEAST.iter().chain(changes);
        let mut keys: Keys = all.map(|(key, value)| (key.to_string(), value.to_string())).collect();
        keys.retain(|_, value| value != "-");
        welcome(&keys, Identity { boot: BootId(1), instance: InstanceId(2) })
    }

    fn device(changes: &[(&str, &str)]) -> DeviceSettings {
        read(changes).unwrap().device.unwrap()
    }

    #[test]
    fn what_is_not_set_has_the_stock_defaults() {
        let welcome = read(&[]).unwrap();
        assert_eq!((welcome.cluster.as_str(), welcome.node), ("lab", NodeId(2)));
        assert_eq!(welcome.nodes, BTreeMap::from([(NodeId(1), 0), (NodeId(2), 7)]));
        assert_eq!(welcome.config_version, None);
        let device = welcome.device.unwrap();
        assert_eq!((device.host.as_str(), device.port), ("qnetd.example", 5403));
        assert_eq!((device.timeout_ms, device.sync_timeout_ms), (10_000, 30_000));
        assert_eq!((device.heartbeat_ms, device.connect_timeout_ms), (8000, 8000));
        assert_eq!((device.tls, device.algorithm), (TlsMode::On, Algorithm::Ffsplit));
        assert_eq!(device.tie_breaker, TieBreaker::Lowest);
        assert!(device.keep_active_partition);
        let heuristics = device.heuristics;
        assert_eq!(heuristics.mode, HeuristicsMode::Off);
        let times = (heuristics.timeout_ms, heuristics.sync_timeout_ms, heuristics.interval_ms);
        assert_eq!(times, (5000, 15_000, 30_000));
    }

    #[test]
    fn every_key_of_the_device_is_read() {
        let device = device(&[
            ("quorum.device.timeout", "2000"),
            ("quorum.device.sync_timeout", "6000"),
            ("quorum.device.net.port", "5404"),
            ("quorum.device.net.tls", "Required"),
            ("quorum.device.net.algorithm", "lms"),
            ("quorum.device.votes", "-"),
            ("quorum.device.net.tie_breaker", "4294967295"),
            ("quorum.device.net.connect_timeout", "1234"),
            ("quorum.device.net.force_ip_version", "6"),
            ("quorum.device.net.keep_active_partition_tie_breaker", "off"),
            ("quorum.device.heuristics.mode", "sync"),
            ("quorum.device.heuristics.timeout", "1500"),
            ("quorum.device.heuristics.exec_ping", "/bin/ping -c1 gw"),
            ("quorum.device.heuristics.exec_none", ""),
        ]);
        assert_eq!((device.timeout_ms, device.heartbeat_ms), (2000, 1600));
        assert_eq!((device.port, device.tls), (5404, TlsMode::Required));
        assert_eq!(device.algorithm, Algorithm::Lms);
        assert_eq!(device.tie_breaker, TieBreaker::Node(NodeId(u32::MAX)));
        assert_eq!((device.connect_timeout_ms, device.force_ip_version), (1234, 6));
        assert!(!device.keep_active_partition);
        assert_eq!(device.heuristics.mode, HeuristicsMode::Sync);
        let times = (device.heuristics.timeout_ms, device.heuristics.sync_timeout_ms);
        assert_eq!(times, (1500, 3000));
        let commands = BTreeMap::from([("ping".to_owned(), "/bin/ping -c1 gw".to_owned())]);
        assert_eq!(device.heuristics.commands, commands);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_key() {
        for (key, value) in [
            ("quorum.device.model", "disk"),
            ("quorum.device.votes", "2"),
            ("quorum.device.timeout", "-1"),
            ("quorum.device.net.host", "-"),
            ("quorum.device.net.port", "0"),
            ("quorum.device.net.port", "65536"),
            ("quorum.device.net.algorithm", "FFSPLIT"),
            ("quorum.device.net.tls", "maybe"),
            ("quorum.device.net.tie_breaker", "0"),
            ("quorum.device.net.force_ip_version", "5"),
            ("quorum.device.heuristics.mode", "always"),
            ("quorum.device.heuristics.interval", "soon"),
            ("totem.cluster_name", "-"),
            ("runtime.votequorum.this_node_id", "-"),
        ] {
            let text = read(&[(key, value)]).unwrap_err();
            let last = key.rsplit('.').next().unwrap();
            let named = text.contains(key) || last == "this_node_id" && text.contains("votequorum");
            assert!(named && !text.contains('\n'), "{key}: {text}");
        }
    }

    #[test]
    fn a_configuration_without_a_device_is_none() {
        assert_eq!(read(&[("quorum.device.model", "-")]).unwrap().device, None);
    }

    #[test]
    fn a_node_without_an_id_has_its_address() {
        let gone = ("nodelist.node.0.nodeid", "-");
        let nodes = |changes: &[(&str, &str)]| read(changes).unwrap().nodes;
        assert!(nodes(&[gone]).contains_key(&NodeId(0x0a00_0001)));
        let high = ("nodelist.node.0.ring0_addr", "192.0.2.1");
        assert!(nodes(&[gone, high]).contains_key(&NodeId(0xc000_0201)));
        let clear = ("totem.clear_node_high_bit", "yes");
        assert!(nodes(&[gone, high, clear]).contains_key(&NodeId(0x4000_0201)));
        let name = ("nodelist.node.0.ring0_addr", "n1.example");
        assert!(read(&[gone, name]).unwrap_err().contains("nodelist.node.0.ring0_addr"));
    }
}
