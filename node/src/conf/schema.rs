//! The tree to the types: every key by name, with its default and range.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use protocol::fence::GATEWAY_PORT;
use protocol::ids::{ClusterName, NodeId};
use protocol::times::{DEVICE_SYNC_TIMEOUT, DEVICE_TIMEOUT};
use protocol::vote::{Algorithm, TieBreaker};

use super::address::{Host, judge};
use super::fields::{Fields, Reader, decimal};
use super::keys;
use super::parse::Section;
use super::report::{Level, Lines, Report};
use super::{
    AutoTieBreaker, ClusterConf, DEFAULT_ARBITER_PORT, DeviceConf, ForceIp, GatewayConf, GuardConf,
    HeuristicsConf, HeuristicsMode, IpVersion, LinkConf, LinkMode, MAX_GATEWAYS, MAX_LINK, NetConf,
    NodeConf, Provider, QuorumConf, Refusal, ServiceConf, TlsMode, TotemConf, Transport,
    WatchdogChoice,
};

/// The longest timer of the stock device, in milliseconds (wire 3.1).
const MAX_TIMER_MS: u64 = 18_000_000;
/// T in milliseconds: half of it, and three times it, must be timers.
const TIMEOUT_MS: std::ops::RangeInclusive<u64> = 2..=MAX_TIMER_MS / 3;
/// S in milliseconds: half of it must be a timer.
const SYNC_TIMEOUT_MS: std::ops::RangeInclusive<u64> = 2..=MAX_TIMER_MS;
/// `connect_timeout` in milliseconds (corosync-qdevice(8) `net_min_connect_timeout`, `_max_`).
const CONNECT_TIMEOUT_MS: std::ops::RangeInclusive<u64> = 1_000..=120_000;
/// Heuristics timeouts in milliseconds (corosync-qdevice(8) `heuristics_min_timeout`, `_max_`).
const HEURISTICS_TIMEOUT_MS: std::ops::RangeInclusive<u64> = 1_000..=120_000;
/// The interval in milliseconds (corosync-qdevice(8) `heuristics_min_interval`, `_max_`).
const HEURISTICS_INTERVAL_MS: std::ops::RangeInclusive<u64> = 1_000..=3_600_000;
/// Any number of milliseconds that corosync stores.
const ANY_MS: std::ops::RangeInclusive<u64> = 0..=u32::MAX as u64;

const CIPHERS: &[(&str, &str)] =
    &[("none", "none"), ("aes128", "aes128"), ("aes192", "aes192"), ("aes256", "aes256")];
const HASHES: &[(&str, &str)] = &[
    ("none", "none"),
    ("md5", "md5"),
    ("sha1", "sha1"),
    ("sha256", "sha256"),
    ("sha384", "sha384"),
    ("sha512", "sha512"),
];

/// Reads the whole tree. What cannot be read is reported and has its default in the result.
pub(super) fn read(root: &Section, report: &mut Report) -> (ClusterConf, Lines) {
    let mut reader = Reader { report, lines: Lines::default() };
    let r = &mut reader;
    let mut fields = Fields::open(r, "", &[root], &[]);
    let totem = fields.sections("totem");
    let quorum = fields.sections("quorum");
    let nodelist = fields.sections("nodelist");
    let haguard = fields.sections("haguard");
    for (name, keys) in keys::SECTIONS {
        for section in fields.sections(name) {
            unused(r, name, section, keys);
        }
    }
    for name in keys::OPAQUE {
        for section in fields.sections(name) {
            let text = format!("{name}: known section, and not used");
            r.report.warn(Level::Unused, Some(section.line), text);
        }
    }
    fields.close(r);

    let (cluster_name, config_version, totem) = read_totem(r, &totem);
    let nodes = read_nodelist(r, &nodelist, totem.clear_node_high_bit);
    let quorum = read_quorum(r, &quorum);
    let haguard = read_haguard(r, &haguard);
    let conf = ClusterConf { cluster_name, config_version, nodes, totem, quorum, haguard };
    (conf, reader.lines)
}

/// A section of which nothing is used; its typing errors are still worth a line.
fn unused(r: &mut Reader<'_>, path: &str, section: &Section, keys: keys::Keys) {
    let mut fields = Fields::open(r, path, &[section], keys);
    for name in keys::SUBSECTIONS {
        for inner in fields.sections(name) {
            let mut inner = Fields::open(r, &format!("{path}.{name}"), &[inner], keys);
            // The daemon's name, the only key that the outer section does not have.
            inner.key(r, "name");
            inner.close(r);
        }
    }
    fields.close(r);
}

fn read_totem(r: &mut Reader<'_>, from: &[&Section]) -> (ClusterName, Option<u64>, TotemConf) {
    let default = TotemConf::default();
    let mut fields = Fields::open(r, "totem", from, keys::TOTEM);
    let f = &mut fields;
    let name = f.text(r, "cluster_name").unwrap_or_default();
    let config_version = f.number(r, "config_version", 0..=u64::MAX);
    f.word(r, "version", &[("2", ())]);
    if r.lines.get("totem.version").is_none() {
        r.refuse(r.lines.get("totem"), Refusal::NoVersion);
    }
    let transport = f.word(
        r,
        "transport",
        &[("knet", Transport::Knet), ("udpu", Transport::Udpu), ("udp", Transport::Udp)],
    );
    let link_mode = f.word(
        r,
        "link_mode",
        &[
            ("passive", LinkMode::Passive),
            ("active", LinkMode::Active),
            ("rr", LinkMode::RoundRobin),
        ],
    );
    let ip_version = f.word(
        r,
        "ip_version",
        &[
            ("ipv4", IpVersion::V4),
            ("ipv6", IpVersion::V6),
            ("ipv4-6", IpVersion::V4ThenV6),
            ("ipv6-4", IpVersion::V6ThenV4),
        ],
    );
    let high_bit = f.word(r, "clear_node_high_bit", &[("yes", true), ("no", false)]);
    let totem = TotemConf {
        transport: transport.unwrap_or(default.transport),
        link_mode: link_mode.unwrap_or(default.link_mode),
        ip_version: ip_version.unwrap_or(default.ip_version),
        // corosync takes every word but "on" for off; a typing error must not do that here.
        secauth: f.word(r, "secauth", &[("on", true), ("off", false)]),
        crypto_cipher: f.word(r, "crypto_cipher", CIPHERS),
        crypto_hash: f.word(r, "crypto_hash", HASHES),
        token: f.millis(r, "token", ANY_MS),
        clear_node_high_bit: high_bit.unwrap_or(default.clear_node_high_bit),
        links: read_interfaces(r, &f.sections("interface")),
    };
    fields.close(r);
    (ClusterName::from(name.as_str()), config_version, totem)
}

fn read_interfaces(r: &mut Reader<'_>, from: &[&Section]) -> BTreeMap<u8, LinkConf> {
    let mut links: BTreeMap<u8, LinkConf> = BTreeMap::new();
    for section in from {
        let mut f = Fields::open(r, "totem.interface", &[section], keys::INTERFACE);
        let number = f.number(r, "linknumber", 0..=u64::from(MAX_LINK));
        let number = number.and_then(|number| u8::try_from(number).ok()).unwrap_or(0);
        // corosync merges the sections of one link.
        let link = links.entry(number).or_default();
        if let Some(port) = f.number(r, "mcastport", 1..=u64::from(u16::MAX)) {
            link.port = u16::try_from(port).ok();
        }
        if let Some(priority) = f.number(r, "knet_link_priority", 0..=u64::from(u8::MAX)) {
            link.priority = u8::try_from(priority).unwrap_or(u8::MAX);
        }
        // Members belong to the old udpu files; nodes are in the nodelist.
        for member in f.sections("member") {
            let text = "totem.interface.member: not used; nodes are in the nodelist".to_owned();
            r.report.warn(Level::Unknown, Some(member.line), text);
        }
        f.close(r);
        r.lines.set(format!("totem.interface.{number}"), section.line);
    }
    links
}

fn read_nodelist(r: &mut Reader<'_>, from: &[&Section], clear_high_bit: bool) -> Vec<NodeConf> {
    if let Some(second) = from.get(1) {
        r.refuse(Some(second.line), Refusal::SecondNodeList);
    }
    let mut fields = Fields::open(r, "nodelist", from, &[]);
    let sections = fields.sections("node");
    fields.close(r);
    let read = sections.into_iter().map(|section| read_node(r, section, clear_high_bit));
    let mut nodes: Vec<NodeConf> = read.collect::<Vec<_>>().into_iter().flatten().collect();
    nodes.sort_by_key(|node| node.id);
    nodes
}

/// One node, or nothing where it has no id: that is reported.
fn read_node(r: &mut Reader<'_>, section: &Section, clear_high_bit: bool) -> Option<NodeConf> {
    let mut f = Fields::open(r, "nodelist.node", &[section], &[]);
    let given = f.key(r, "nodeid");
    let id = match given {
        Some(key) => {
            let id = decimal(&key.value).and_then(|id| u32::try_from(id).ok());
            if id.is_none() {
                f.refuse(r, key, "a number from 1 to 4294967295");
            }
            id
        }
        None => None,
    };
    let name = f.text(r, "name");
    let votes = f.number32(r, "quorum_votes", 0).unwrap_or(1);
    let data_center = f.number32(r, "datacenterid", 0);
    let mut links = BTreeMap::new();
    let mut link_lines = Vec::new();
    for (rest, key) in f.prefixed("ring") {
        match rest.strip_suffix("_addr").and_then(decimal).map(u8::try_from) {
            Some(Ok(link)) if link <= MAX_LINK => {
                links.insert(link, key.value.clone());
                link_lines.push((link, key.line));
            }
            Some(_) => r.refuse(Some(key.line), Refusal::LinkNumber(key.name.clone())),
            None => {
                let text = format!("nodelist.node.{}: unknown key, it has no effect", key.name);
                r.report.warn(Level::Unknown, Some(key.line), text);
            }
        }
    }
    f.close(r);
    let id = id.or_else(|| derive_id(links.get(&0)?, clear_high_bit));
    let Some(id) = id.map(NodeId) else {
        if given.is_none() {
            r.refuse(Some(section.line), Refusal::NoNodeId);
        }
        return None;
    };
    let path = format!("nodelist.node.{id}");
    for (link, line) in link_lines {
        r.lines.set(format!("{path}.ring{link}_addr"), line);
    }
    r.lines.set(path, section.line);
    Some(NodeConf { id, name, votes, data_center, links })
}

/// The id that corosync derives for a node without one: its address as a big-endian number.
fn derive_id(ring0: &str, clear_high_bit: bool) -> Option<u32> {
    let id = u32::from(ring0.parse::<Ipv4Addr>().ok()?);
    Some(if clear_high_bit { id & 0x7fff_ffff } else { id })
}

fn read_quorum(r: &mut Reader<'_>, from: &[&Section]) -> QuorumConf {
    let default = QuorumConf::default();
    let mut fields = Fields::open(r, "quorum", from, keys::QUORUM);
    let f = &mut fields;
    let window = f.millis(r, "last_man_standing_window", ANY_MS);
    let devices = f.sections("device");
    let quorum = QuorumConf {
        provider: f.word(r, "provider", &[("corosync_votequorum", Provider::Votequorum)]),
        expected_votes: f.number32(r, "expected_votes", 1),
        two_node: f.switch(r, "two_node").unwrap_or(default.two_node),
        wait_for_all: f.switch(r, "wait_for_all"),
        auto_tie_breaker: f.switch(r, "auto_tie_breaker").unwrap_or(default.auto_tie_breaker),
        auto_tie_breaker_node: read_tie_breaker_node(r, f).unwrap_or(default.auto_tie_breaker_node),
        last_man_standing: f.switch(r, "last_man_standing").unwrap_or(default.last_man_standing),
        last_man_standing_window: window.unwrap_or(default.last_man_standing_window),
        allow_downscale: f.switch(r, "allow_downscale").unwrap_or(default.allow_downscale),
        device: if devices.is_empty() { None } else { read_device(r, &devices) },
    };
    fields.close(r);
    quorum
}

fn read_tie_breaker_node(r: &mut Reader<'_>, f: &mut Fields<'_>) -> Option<AutoTieBreaker> {
    let key = f.key(r, "auto_tie_breaker_node")?;
    let read = match key.value.as_str() {
        "lowest" => Some(AutoTieBreaker::Lowest),
        "highest" => Some(AutoTieBreaker::Highest),
        list => {
            let ids = list.split([' ', '\t']).filter(|word| !word.is_empty());
            let ids: Option<Vec<NodeId>> = ids.map(node_id).collect();
            ids.filter(|ids| !ids.is_empty()).map(AutoTieBreaker::Nodes)
        }
    };
    if read.is_none() {
        f.refuse(r, key, "lowest, highest, or node ids with blanks between them");
    }
    read
}

fn node_id(text: &str) -> Option<NodeId> {
    let id = decimal(text).and_then(|id| u32::try_from(id).ok())?;
    (id > 0).then_some(NodeId(id))
}

fn read_device(r: &mut Reader<'_>, from: &[&Section]) -> Option<DeviceConf> {
    let mut fields = Fields::open(r, "quorum.device", from, keys::DEVICE);
    let f = &mut fields;
    let (net, heuristics) = (f.sections("net"), f.sections("heuristics"));
    let votes = f.number32(r, "votes", 0);
    let timeout = f.millis(r, "timeout", TIMEOUT_MS).unwrap_or(DEVICE_TIMEOUT);
    let sync = f.millis(r, "sync_timeout", SYNC_TIMEOUT_MS).unwrap_or(DEVICE_SYNC_TIMEOUT);
    match f.key(r, "model") {
        Some(key) if key.value == "net" => {}
        // corosync takes an empty model for no device at all; we do not guess.
        Some(key) => f.refuse(r, key, "net"),
        None => r.refuse(from.first().map(|section| section.line), Refusal::NoModel),
    }
    fields.close(r);
    let net = read_net(r, &net);
    let heuristics = read_heuristics(r, &heuristics);
    Some(DeviceConf { votes, timeout, sync_timeout: sync, net, heuristics })
}

fn read_net(r: &mut Reader<'_>, from: &[&Section]) -> NetConf {
    let mut fields = Fields::open(r, "quorum.device.net", from, &[]);
    let f = &mut fields;
    let host = f.text(r, "host").unwrap_or_default();
    let port = f.number(r, "port", 1..=u64::from(u16::MAX));
    let tls = f.bool_word(
        r,
        "tls",
        |on| if on { TlsMode::On } else { TlsMode::Off },
        &[("required", TlsMode::Required)],
    );
    let algorithm = f.word(
        r,
        "algorithm",
        &[
            ("ffsplit", Algorithm::Ffsplit),
            ("lms", Algorithm::Lms),
            ("2nodelms", Algorithm::TwoNodeLms),
            ("test", Algorithm::Test),
        ],
    );
    let force_ip = [("0", ForceIp::Any), ("4", ForceIp::V4), ("6", ForceIp::V6)];
    let keep = f.bool_word(r, "keep_active_partition_tie_breaker", |yes| yes, &[]);
    let net = NetConf {
        host,
        port: port.and_then(|port| u16::try_from(port).ok()).unwrap_or(DEFAULT_ARBITER_PORT),
        tls: tls.unwrap_or(TlsMode::On),
        algorithm: algorithm.unwrap_or(Algorithm::Ffsplit),
        tie_breaker: read_device_tie_breaker(r, f).unwrap_or(TieBreaker::Lowest),
        connect_timeout: f.millis(r, "connect_timeout", CONNECT_TIMEOUT_MS),
        force_ip_version: f.word(r, "force_ip_version", &force_ip).unwrap_or(ForceIp::Any),
        keep_active_partition_tie_breaker: keep.unwrap_or(true),
    };
    fields.close(r);
    net
}

fn read_device_tie_breaker(r: &mut Reader<'_>, f: &mut Fields<'_>) -> Option<TieBreaker> {
    let key = f.key(r, "tie_breaker")?;
    let read = match key.value.as_str() {
        "lowest" => Some(TieBreaker::Lowest),
        "highest" => Some(TieBreaker::Highest),
        id => node_id(id).map(TieBreaker::Node),
    };
    if read.is_none() {
        f.refuse(r, key, "lowest, highest or a node id");
    }
    read
}

fn read_heuristics(r: &mut Reader<'_>, from: &[&Section]) -> HeuristicsConf {
    let mut fields = Fields::open(r, "quorum.device.heuristics", from, &[]);
    let f = &mut fields;
    let mode = f.bool_word(
        r,
        "mode",
        |on| if on { HeuristicsMode::On } else { HeuristicsMode::Off },
        &[("sync", HeuristicsMode::Sync)],
    );
    let timeout = f.millis(r, "timeout", HEURISTICS_TIMEOUT_MS);
    let sync_timeout = f.millis(r, "sync_timeout", HEURISTICS_TIMEOUT_MS);
    let interval = f.millis(r, "interval", HEURISTICS_INTERVAL_MS);
    let execs = f.prefixed("exec_").into_iter();
    let execs = execs.map(|(name, key)| {
        r.lines.set(format!("quorum.device.heuristics.exec_{name}"), key.line);
        (name.to_owned(), key.value.clone())
    });
    let execs: BTreeMap<String, String> = execs.collect();
    fields.close(r);
    let mode = mode.unwrap_or(HeuristicsMode::Off);
    HeuristicsConf { mode, timeout, sync_timeout, interval, execs }
}

fn read_haguard(r: &mut Reader<'_>, from: &[&Section]) -> GuardConf {
    let mut fields = Fields::open(r, "haguard", from, &[]);
    let f = &mut fields;
    let watchdog = match f.key(r, "watchdog") {
        None => WatchdogChoice::default(),
        Some(key) => match key.value.as_str() {
            "off" => WatchdogChoice::Off,
            "process" => WatchdogChoice::Process,
            path if path.starts_with('/') => WatchdogChoice::Device(path.to_owned()),
            _ => {
                f.refuse(r, key, "process, off or a device's absolute path");
                WatchdogChoice::default()
            }
        },
    };
    let process = f.bool_word(r, "trust_process_watchdog", |yes| yes, &[]);
    let virtual_device = f.bool_word(r, "trust_virtual_watchdog", |yes| yes, &[]);
    let gateways = read_gateways(r, f);
    let services = f.sections("service");
    fields.close(r);
    if let Some(second) = services.get(1) {
        r.refuse(Some(second.line), Refusal::SecondService);
    }
    GuardConf {
        watchdog,
        trust_process_watchdog: process.unwrap_or(false),
        trust_virtual_watchdog: virtual_device.unwrap_or(false),
        gateways,
        service: services.first().map(|section| read_service(r, section)),
    }
}

/// `HOST[:PORT]`, several with commas between them.
fn read_gateways(r: &mut Reader<'_>, f: &mut Fields<'_>) -> Vec<GatewayConf> {
    let Some(key) = f.key(r, "gateway") else { return Vec::new() };
    let read: Option<Vec<GatewayConf>> = key.value.split(',').map(gateway).collect();
    let read = read.filter(|gateways| gateways.len() <= MAX_GATEWAYS);
    if read.is_none() {
        let wanted = format!(
            "HOST or HOST:PORT, at most {MAX_GATEWAYS} with commas between them, IPv6 in brackets"
        );
        f.refuse(r, key, &wanted);
    }
    read.unwrap_or_default()
}

fn gateway(text: &str) -> Option<GatewayConf> {
    let text = text.trim();
    let (host, rest) = match text.strip_prefix('[') {
        Some(inner) => inner.split_once(']').filter(|(host, _)| host.contains(':'))?,
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let port = match rest.strip_prefix(':') {
        Some(port) => u16::try_from(decimal(port)?).ok().filter(|port| *port > 0)?,
        None if rest.is_empty() => GATEWAY_PORT,
        None => return None,
    };
    let usable = judge(host) != Host::Unusable;
    usable.then(|| GatewayConf { host: host.to_owned(), port })
}

fn read_service(r: &mut Reader<'_>, section: &Section) -> ServiceConf {
    let mut f = Fields::open(r, "haguard.service", &[section], &[]);
    let name = f.text(r, "name").unwrap_or_default();
    let command = f.text(r, "command").unwrap_or_default();
    let undo = f.text(r, "undo");
    let prefer = f.key(r, "prefer");
    let read = prefer.and_then(|key| node_id(&key.value));
    if let (Some(key), None) = (prefer, read) {
        f.refuse(r, key, "a node id");
    }
    f.close(r);
    ServiceConf { name, command, undo, prefer: read }
}

/// The links that any node has an address for.
pub(super) fn used_links(nodes: &[NodeConf]) -> BTreeSet<u8> {
    nodes.iter().flat_map(|node| node.links.keys().copied()).collect()
}

/// Milliseconds for the file; longer than any key takes becomes the largest number.
pub(super) fn as_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
