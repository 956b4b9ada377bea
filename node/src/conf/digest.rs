//! The canonical text of a configuration, and the number that members compare in their beats: a
//! node whose number differs runs another configuration and is refused.
//!
//! The number is FNV-1a with 64 bits over the values of [`ClusterConf::render`], of the
//! configuration with its defaults written out, but for those that a running node may take over
//! ([`super::change`]). So it covers every other value that this crate reads, and neither comments,
//! order, spelling of defaults, `logging`, unknown nor unused keys. It is no signature: beats are
//! authenticated by their connection, and the number only finds honest mistakes.

use std::fmt::Display;

use protocol::vote::{Algorithm, TieBreaker};

use super::parse::MAX_LINE_BYTES;
use super::schema::as_millis;
use super::{
    AutoTieBreaker, ClusterConf, DeviceConf, ForceIp, GuardConf, HeuristicsMode, IpVersion,
    LinkMode, NodeConf, Provider, QuorumConf, TlsMode, Transport, WatchdogChoice,
};

const FNV_OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// FNV-1a with 64 bits.
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(FNV_OFFSET_BASIS, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME))
}

impl ClusterConf {
    /// What members compare.
    pub fn digest(&self) -> u64 {
        fnv1a(self.digested().as_bytes())
    }

    /// The configuration as corosync.conf text that reads back as the same configuration.
    pub fn render(&self) -> String {
        let mut out = Out::default();
        self.render_totem(&mut out);
        out.open("nodelist");
        for node in &self.nodes {
            render_node(&mut out, node);
        }
        out.close();
        render_quorum(&mut out, &self.quorum);
        render_haguard(&mut out, &self.haguard);
        out.text
    }

    /// Two files that mean the same must have one digest, so what may be left out is put in.
    pub(super) fn with_defaults_written(&self) -> Self {
        let mut conf = self.clone();
        conf.quorum.wait_for_all = Some(self.wait_for_all());
        conf.quorum.expected_votes = Some(self.expected_votes());
        let used = super::schema::used_links(&self.nodes);
        conf.totem.links.retain(|link, _| used.contains(link));
        for link in used {
            conf.totem.links.entry(link).or_default().port = Some(self.port(link));
        }
        for node in &mut conf.nodes {
            node.data_center = Some(node.data_center.unwrap_or(0));
        }
        if let Some(device) = &mut conf.quorum.device {
            let timers = device.timers();
            device.votes = Some(self.device_votes());
            device.net.connect_timeout = Some(timers.connect);
            device.heuristics.timeout = Some(timers.heuristics);
            device.heuristics.sync_timeout = Some(timers.heuristics_sync);
            device.heuristics.interval = Some(timers.heuristics_interval);
        }
        conf
    }

    fn render_totem(&self, out: &mut Out) {
        let totem = &self.totem;
        out.open("totem");
        out.key("version", 2);
        out.key("cluster_name", &self.cluster_name);
        out.some("config_version", self.config_version);
        out.key("transport", word_of_transport(totem.transport));
        out.key("link_mode", word_of_link_mode(totem.link_mode));
        out.key("ip_version", word_of_ip_version(totem.ip_version));
        out.some("secauth", totem.secauth.map(|on| if on { "on" } else { "off" }));
        out.some("crypto_cipher", totem.crypto_cipher);
        out.some("crypto_hash", totem.crypto_hash);
        out.some("token", totem.token.map(as_millis));
        out.key("clear_node_high_bit", if totem.clear_node_high_bit { "yes" } else { "no" });
        for (number, link) in &totem.links {
            out.open("interface");
            out.key("linknumber", number);
            out.some("mcastport", link.port);
            out.key("knet_link_priority", link.priority);
            out.close();
        }
        out.close();
    }
}

fn render_node(out: &mut Out, node: &NodeConf) {
    out.open("node");
    out.key("nodeid", node.id);
    out.some("name", node.name.as_ref());
    out.key("quorum_votes", node.votes);
    out.some("datacenterid", node.data_center);
    for (link, address) in &node.links {
        out.key(&format!("ring{link}_addr"), address);
    }
    out.close();
}

fn render_quorum(out: &mut Out, quorum: &QuorumConf) {
    out.open("quorum");
    out.some("provider", quorum.provider.map(word_of_provider));
    out.some("expected_votes", quorum.expected_votes);
    out.switch("two_node", quorum.two_node);
    if let Some(wait_for_all) = quorum.wait_for_all {
        out.switch("wait_for_all", wait_for_all);
    }
    out.switch("auto_tie_breaker", quorum.auto_tie_breaker);
    match &quorum.auto_tie_breaker_node {
        AutoTieBreaker::Lowest => out.key("auto_tie_breaker_node", "lowest"),
        AutoTieBreaker::Highest => out.key("auto_tie_breaker_node", "highest"),
        AutoTieBreaker::Nodes(ids) => {
            let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
            out.key("auto_tie_breaker_node", ids.join(" "));
        }
    }
    out.switch("last_man_standing", quorum.last_man_standing);
    out.key("last_man_standing_window", as_millis(quorum.last_man_standing_window));
    out.switch("allow_downscale", quorum.allow_downscale);
    if let Some(device) = &quorum.device {
        render_device(out, device);
    }
    out.close();
}

fn render_device(out: &mut Out, device: &DeviceConf) {
    let net = &device.net;
    out.open("device");
    out.key("model", "net");
    out.some("votes", device.votes);
    out.key("timeout", as_millis(device.timeout));
    out.key("sync_timeout", as_millis(device.sync_timeout));
    out.open("net");
    out.key("host", &net.host);
    out.key("port", net.port);
    out.key("tls", word_of_tls(net.tls));
    out.key("algorithm", word_of_algorithm(net.algorithm));
    match net.tie_breaker {
        TieBreaker::Lowest => out.key("tie_breaker", "lowest"),
        TieBreaker::Highest => out.key("tie_breaker", "highest"),
        TieBreaker::Node(id) => out.key("tie_breaker", id),
    }
    out.some("connect_timeout", net.connect_timeout.map(as_millis));
    out.key("force_ip_version", word_of_force_ip(net.force_ip_version));
    let keep = if net.keep_active_partition_tie_breaker { "on" } else { "off" };
    out.key("keep_active_partition_tie_breaker", keep);
    out.close();
    out.open("heuristics");
    let heuristics = &device.heuristics;
    out.key("mode", word_of_heuristics_mode(heuristics.mode));
    out.some("timeout", heuristics.timeout.map(as_millis));
    out.some("sync_timeout", heuristics.sync_timeout.map(as_millis));
    out.some("interval", heuristics.interval.map(as_millis));
    for (name, command) in &heuristics.execs {
        out.key(&format!("exec_{name}"), command);
    }
    out.close();
    out.close();
}

fn render_haguard(out: &mut Out, haguard: &GuardConf) {
    out.open("haguard");
    match &haguard.watchdog {
        WatchdogChoice::Off => out.key("watchdog", "off"),
        WatchdogChoice::Process => out.key("watchdog", "process"),
        WatchdogChoice::Device(path) => out.key("watchdog", path),
    }
    let yes_no = |yes: bool| if yes { "yes" } else { "no" };
    out.key("trust_process_watchdog", yes_no(haguard.trust_process_watchdog));
    out.key("trust_virtual_watchdog", yes_no(haguard.trust_virtual_watchdog));
    if !haguard.gateways.is_empty() {
        let gateways: Vec<String> = haguard.gateways.iter().map(ToString::to_string).collect();
        out.key("gateway", gateways.join(", "));
    }
    if let Some(service) = &haguard.service {
        out.open("service");
        out.key("name", &service.name);
        out.key("command", &service.command);
        out.some("undo", service.undo.as_ref());
        out.some("prefer", service.prefer);
        out.close();
    }
    out.close();
}

fn word_of_transport(transport: Transport) -> &'static str {
    match transport {
        Transport::Knet => "knet",
        Transport::Udpu => "udpu",
        Transport::Udp => "udp",
    }
}

fn word_of_link_mode(mode: LinkMode) -> &'static str {
    match mode {
        LinkMode::Passive => "passive",
        LinkMode::Active => "active",
        LinkMode::RoundRobin => "rr",
    }
}

fn word_of_ip_version(version: IpVersion) -> &'static str {
    match version {
        IpVersion::V4 => "ipv4",
        IpVersion::V6 => "ipv6",
        IpVersion::V4ThenV6 => "ipv4-6",
        IpVersion::V6ThenV4 => "ipv6-4",
    }
}

fn word_of_provider(provider: Provider) -> &'static str {
    match provider {
        Provider::Votequorum => "corosync_votequorum",
    }
}

fn word_of_tls(tls: TlsMode) -> &'static str {
    match tls {
        TlsMode::Off => "off",
        TlsMode::On => "on",
        TlsMode::Required => "required",
    }
}

fn word_of_algorithm(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::Test => "test",
        Algorithm::Ffsplit => "ffsplit",
        Algorithm::TwoNodeLms => "2nodelms",
        Algorithm::Lms => "lms",
    }
}

fn word_of_force_ip(force: ForceIp) -> &'static str {
    match force {
        ForceIp::Any => "0",
        ForceIp::V4 => "4",
        ForceIp::V6 => "6",
    }
}

fn word_of_heuristics_mode(mode: HeuristicsMode) -> &'static str {
    match mode {
        HeuristicsMode::Off => "off",
        HeuristicsMode::Sync => "sync",
        HeuristicsMode::On => "on",
    }
}

/// Writes indented sections and keys.
#[derive(Default)]
struct Out {
    text: String,
    depth: usize,
}

impl Out {
    fn open(&mut self, name: &str) {
        self.line(&format!("{name} {{"));
        self.depth += 1;
    }

    fn close(&mut self) {
        self.depth = self.depth.saturating_sub(1);
        self.line("}");
    }

    fn key(&mut self, name: &str, value: impl Display) {
        let line = format!("{name}: {value}");
        if 2 * self.depth + line.len() <= MAX_LINE_BYTES {
            self.line(&line);
        } else {
            // It was read from a line that was long enough without blanks.
            self.text.push_str(&format!("{name}:{value}\n"));
        }
    }

    fn some(&mut self, name: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.key(name, value);
        }
    }

    fn switch(&mut self, name: &str, on: bool) {
        self.key(name, u8::from(on));
    }

    fn line(&mut self, line: &str) {
        self.text.extend(std::iter::repeat_n("  ", self.depth));
        self.text.push_str(line);
        self.text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fnv1a_gives_the_published_values() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
