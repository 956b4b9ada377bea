//! What must not run, whoever made the configuration: the refusals of votequorum and
//! corosync-qdevice, and those of our own safety rules. And advice for what may run, and should
//! not.

use std::collections::BTreeMap;

use protocol::ids::NodeId;
use protocol::vote::{Algorithm, TieBreaker};

use super::address::{Host, allowed, judge};
use super::report::{Level, Lines, Report, clip};
use super::schema::{as_millis, used_links};
use super::{
    AutoTieBreaker, ClusterConf, DeviceConf, Engine, HeuristicsMode, LinkMode, MAX_EXECS, MAX_LINK,
    MAX_NODES, MAX_VOTES, NodeConf, Options, Refusal, TlsMode, Transport, WatchdogChoice,
};

/// The longest service name, in bytes: it becomes part of file names and log lines.
const MAX_SERVICE_NAME_BYTES: usize = 64;
/// The longest exec name, in bytes.
const MAX_EXEC_NAME_BYTES: usize = 64;

/// Checks a configuration whose keys stand at `lines`.
pub(super) fn check(conf: &ClusterConf, lines: &Lines, options: &Options, report: &mut Report) {
    let mut checker = Checker { conf, lines, options, report };
    checker.totem();
    checker.nodes();
    checker.addresses();
    checker.reachability();
    checker.votes();
    checker.quorum();
    if let Some(device) = &conf.quorum.device {
        checker.device(device);
        checker.device_votes(device);
        checker.heuristics(device);
    }
    checker.haguard();
}

struct Checker<'a> {
    conf: &'a ClusterConf,
    lines: &'a Lines,
    options: &'a Options,
    report: &'a mut Report,
}

impl Checker<'_> {
    /// Refuses, at the line of `path`.
    fn refuse(&mut self, path: &str, refusal: Refusal) {
        self.report.problem(self.lines.get(path), refusal);
    }

    fn advise(&mut self, path: &str, text: impl Into<String>) {
        self.report.warn(Level::Advice, self.lines.get(path), text.into());
    }

    fn builtin(&self) -> bool {
        match self.options.engine {
            Engine::Builtin => true,
            Engine::Corosync { .. } => false,
        }
    }

    fn totem(&mut self) {
        let (conf, totem) = (self.conf, &self.conf.totem);
        let named = self.lines.get("totem.cluster_name").is_some();
        if conf.cluster_name.0.is_empty() && !named {
            self.refuse("totem", Refusal::NoClusterName);
        }
        if self.builtin() && asks_plain_text(conf) {
            let key = ["totem.secauth", "totem.crypto_cipher", "totem.crypto_hash"];
            let key = key.into_iter().find(|key| self.lines.get(key).is_some());
            self.refuse(key.unwrap_or("totem"), Refusal::PlainText);
        }
        if self.builtin() {
            self.read_and_unused();
        }
        let used = used_links(&conf.nodes);
        for number in totem.links.keys() {
            let path = format!("totem.interface.{number}");
            if *number > MAX_LINK {
                self.refuse(&path, Refusal::LinkNumber(format!("linknumber {number}")));
            } else if !used.contains(number) {
                let text = format!("interface of link {number}: no node has ring{number}_addr");
                self.advise(&path, text);
            }
        }
    }

    /// Values that are kept, so that they can be written back, and that our engine does not need.
    fn read_and_unused(&mut self) {
        let totem = &self.conf.totem;
        let given = |path: &str| self.lines.get(path).is_some();
        let cases = [
            ("totem.token", given("totem.token"), "beats have their own times"),
            ("totem.crypto_cipher", given("totem.crypto_cipher"), "TLS 1.3 agrees on the cipher"),
            ("totem.crypto_hash", given("totem.crypto_hash"), "TLS 1.3 agrees on the hash"),
            ("totem.transport", totem.transport != Transport::Knet, "nodes speak QUIC over udp"),
            ("totem.link_mode", totem.link_mode != LinkMode::Passive, "it counts as passive"),
        ];
        for (path, _, why) in cases.into_iter().filter(|(_, applies, _)| *applies) {
            let text = format!("{path}: known, and not used: {why}");
            self.report.warn(Level::Unused, self.lines.get(path), text);
        }
    }

    fn nodes(&mut self) {
        let conf = self.conf;
        // A node section without a usable id is not in `nodes`, and was reported where it stands.
        if conf.nodes.is_empty() && self.lines.get("nodelist.node").is_none() {
            self.refuse("nodelist", Refusal::NoNodes);
        }
        if self.builtin() && conf.nodes.len() > MAX_NODES {
            self.refuse("nodelist", Refusal::TooManyNodes(conf.nodes.len()));
        }
        let mut names: BTreeMap<&str, NodeId> = BTreeMap::new();
        let mut before: Option<NodeId> = None;
        for node in &conf.nodes {
            let path = node_path(node.id);
            if node.id.0 == 0 {
                self.refuse(&path, Refusal::NodeIdZero);
            }
            if before == Some(node.id) {
                self.refuse(&path, Refusal::DuplicateNodeId(node.id));
            }
            before = Some(node.id);
            let Some(name) = &node.name else { continue };
            if let Some(first) = names.insert(name, node.id) {
                let (name, second) = (clip(name), node.id);
                self.refuse(&path, Refusal::DuplicateName { name, first, second });
            }
        }
    }

    fn addresses(&mut self) {
        let mut owners: BTreeMap<String, NodeId> = BTreeMap::new();
        for node in &self.conf.nodes {
            if node.links.is_empty() {
                self.refuse(&node_path(node.id), Refusal::NoAddress(node.id));
            }
            for (link, address) in &node.links {
                self.address(node, *link, address);
                // Names are compared as the resolver does, without regard to case.
                let first = *owners.entry(address.to_ascii_lowercase()).or_insert(node.id);
                if first != node.id {
                    let (address, second) = (clip(address), node.id);
                    let refusal = Refusal::DuplicateAddress { address, first, second };
                    self.refuse(&link_path(node.id, *link), refusal);
                }
            }
            self.own_links(node);
        }
    }

    fn address(&mut self, node: &NodeConf, link: u8, address: &str) {
        let path = link_path(node.id, link);
        if link > MAX_LINK {
            self.refuse(&path, Refusal::LinkNumber(format!("ring{link}_addr")));
        }
        let line = self.lines.get(&path);
        let (host, address) = (judge(address), clip(address));
        if host == Host::Unusable {
            self.report.problem(line, Refusal::BadAddress { path, address });
        } else if !allowed(host, self.conf.totem.ip_version) {
            self.report.problem(line, Refusal::AddressFamily { path, address });
        }
    }

    /// Two links of one node on one address are no redundancy, and on one port no two sockets.
    fn own_links(&mut self, node: &NodeConf) {
        let links: Vec<(&u8, &String)> = node.links.iter().collect();
        for (index, (first, address)) in links.iter().enumerate() {
            for (second, other) in &links[index + 1..] {
                if !address.eq_ignore_ascii_case(other) {
                    continue;
                }
                let path = link_path(node.id, **second);
                if self.conf.port(**first) == self.conf.port(**second) {
                    let (node, first, second) = (node.id, **first, **second);
                    self.refuse(&path, Refusal::DuplicateSocket { node, first, second });
                } else {
                    let text = format!(
                        "node {}: links {first} and {second} have one address and fail together; \
                         put them on different networks",
                        node.id
                    );
                    self.advise(&path, text);
                }
            }
        }
    }

    fn reachability(&mut self) {
        let nodes = &self.conf.nodes;
        let with_links: Vec<&NodeConf> = nodes.iter().filter(|n| !n.links.is_empty()).collect();
        for (index, first) in with_links.iter().enumerate() {
            for second in &with_links[index + 1..] {
                if !first.links.keys().any(|link| second.links.contains_key(link)) {
                    let (first, second) = (first.id, second.id);
                    self.refuse(&node_path(second), Refusal::NoCommonLink { first, second });
                }
            }
        }
        let all = used_links(nodes);
        for node in with_links {
            if node.links.len() < all.len() {
                let missing: Vec<String> = all
                    .iter()
                    .filter(|link| !node.links.contains_key(link))
                    .map(|link| format!("ring{link}_addr"))
                    .collect();
                let text = format!(
                    "node {} has no {}, which other nodes have; it is reached by fewer links",
                    node.id,
                    missing.join(", ")
                );
                self.advise(&node_path(node.id), text);
            }
        }
    }

    fn votes(&mut self) {
        let (conf, quorum) = (self.conf, &self.conf.quorum);
        let sum: u64 = conf.nodes.iter().map(|node| u64::from(node.votes)).sum();
        let device = quorum.device.as_ref().and_then(|device| device.votes).unwrap_or(0);
        let expected = quorum.expected_votes.unwrap_or(0);
        let most = (sum + u64::from(device)).max(u64::from(expected));
        if most > MAX_VOTES {
            self.refuse("quorum", Refusal::TooManyVotes);
        } else if sum == 0 && !conf.nodes.is_empty() {
            self.refuse("nodelist", Refusal::NoVotes);
        } else if expected > 0 && expected < conf.expected_votes() {
            let text = format!(
                "expected_votes {expected} is below the {} votes of nodes and device, which are \
                 used instead; remove it",
                conf.expected_votes()
            );
            self.advise("quorum.expected_votes", text);
        }
        if quorum.provider.is_none() {
            let text = "quorum.provider is missing: votes are counted here, and not by corosync; \
                        write `provider: corosync_votequorum`";
            self.advise("quorum", text);
        }
        let lonely = quorum.device.is_none() && !quorum.two_node && !quorum.auto_tie_breaker;
        if lonely && sum > 0 && sum.is_multiple_of(2) {
            let text = format!(
                "{sum} votes and no quorum device: a split into halves stops both; add a device"
            );
            self.advise("quorum", text);
        }
    }

    fn quorum(&mut self) {
        let (conf, quorum) = (self.conf, &self.conf.quorum);
        let device = quorum.device.is_some();
        if quorum.two_node && device {
            self.refuse("quorum.two_node", Refusal::TwoNodeWithDevice);
        } else if quorum.two_node && quorum.auto_tie_breaker {
            self.refuse("quorum.two_node", Refusal::TwoNodeWithTieBreaker);
        } else if quorum.two_node {
            if conf.nodes.len() != 2 || conf.nodes.iter().any(|node| node.votes != 1) {
                self.refuse("quorum.two_node", Refusal::TwoNodeShape);
            } else if self.builtin() {
                let text = "two_node: after the loss of a node the other one stays inquorate until \
                            the lost one is confirmed off; add a quorum device to go on at once";
                self.advise("quorum.two_node", text);
            }
        }
        if quorum.last_man_standing && device {
            self.refuse("quorum.last_man_standing", Refusal::LastManStandingWithDevice);
        } else if quorum.last_man_standing && self.builtin() {
            self.refuse("quorum.last_man_standing", Refusal::LastManStanding);
        }
        if quorum.allow_downscale && device {
            self.refuse("quorum.allow_downscale", Refusal::AllowDownscaleWithDevice);
        } else if quorum.allow_downscale && self.builtin() {
            self.refuse("quorum.allow_downscale", Refusal::AllowDownscale);
        }
        if quorum.auto_tie_breaker {
            self.auto_tie_breaker(device);
        } else if self.lines.get("quorum.auto_tie_breaker_node").is_some() {
            let text = "auto_tie_breaker_node has no effect without `auto_tie_breaker: 1`";
            self.advise("quorum.auto_tie_breaker_node", text);
        }
    }

    fn auto_tie_breaker(&mut self, device: bool) {
        let conf = self.conf;
        if device {
            self.refuse("quorum.auto_tie_breaker", Refusal::TieBreakerWithDevice);
        } else if conf.node_votes() % 2 == 1 && !conf.wait_for_all() {
            self.refuse("quorum.auto_tie_breaker", Refusal::TieBreakerNeedsWaitForAll);
        }
        if let AutoTieBreaker::Nodes(ids) = &conf.quorum.auto_tie_breaker_node {
            for id in ids.iter().filter(|id| conf.node(**id).is_none()) {
                self.refuse("quorum.auto_tie_breaker_node", Refusal::TieBreakerNode(*id));
            }
        }
    }

    fn device(&mut self, device: &DeviceConf) {
        let (net, conf) = (&device.net, self.conf);
        let host_path = "quorum.device.net.host";
        if net.host.is_empty() {
            if self.lines.get(host_path).is_none() {
                self.refuse("quorum.device", Refusal::NoHost);
            }
        } else if judge(&net.host) == Host::Unusable {
            let (path, address) = (host_path.to_owned(), clip(&net.host));
            self.refuse(host_path, Refusal::BadAddress { path, address });
        }
        if let TieBreaker::Node(id) = net.tie_breaker
            && conf.node(id).is_none()
        {
            self.refuse("quorum.device.net.tie_breaker", Refusal::DeviceTieBreakerNode(id));
        }
        if net.tls != TlsMode::Required {
            let text = "net.tls lets the connection to the arbiter be plain text if somebody in \
                        between wants it so; write `tls: required`";
            self.advise("quorum.device.net.tls", text);
        }
        let timers = device.timers();
        if timers.heartbeat_clamped {
            let text = format!(
                "device timeout {} ms: the heartbeat is clamped to {} ms, and an arbiter cannot \
                 tell the timeout from it; stay between 1250 and 150000 ms",
                as_millis(device.timeout),
                as_millis(timers.heartbeat)
            );
            self.advise("quorum.device.timeout", text);
        }
        match self.options.engine {
            Engine::Corosync { stock_device: true }
                if device.sync_timeout > self.options.watchdog =>
            {
                let sync_ms = as_millis(device.sync_timeout);
                let watchdog_ms = as_millis(self.options.watchdog);
                let refusal = Refusal::SyncTimeout { sync_ms, watchdog_ms };
                self.refuse("quorum.device.sync_timeout", refusal);
            }
            Engine::Builtin | Engine::Corosync { .. } => {}
        }
    }

    fn device_votes(&mut self, device: &DeviceConf) {
        let conf = self.conf;
        let one_each = conf.nodes.iter().all(|node| node.votes == 1);
        let path = "quorum.device.votes";
        match device.net.algorithm {
            Algorithm::Ffsplit => self.ffsplit(device),
            Algorithm::Test if !self.options.test_algorithm => {
                self.refuse("quorum.device.net.algorithm", Refusal::TestAlgorithm);
            }
            Algorithm::TwoNodeLms if conf.nodes.len() != 2 => {
                let refusal = Refusal::TwoNodeLms(conf.nodes.len());
                self.refuse("quorum.device.net.algorithm", refusal);
            }
            Algorithm::Lms
                if device.votes.is_some_and(|v| v != conf.node_votes().saturating_sub(1)) =>
            {
                let text = "with algorithm lms the device needs one vote less than the nodes have \
                            together, or the last node is not quorate; remove votes";
                self.advise(path, text);
            }
            Algorithm::Test | Algorithm::TwoNodeLms | Algorithm::Lms => {}
        }
        match (device.votes, conf.quorum.expected_votes) {
            // ffsplit has said already that its votes are missing.
            (None, _) if device.net.algorithm == Algorithm::Ffsplit => {}
            (None, Some(_)) => self.refuse("quorum.device", Refusal::DeviceVotesWithExpected),
            (None, None) if !one_each => {
                self.refuse("quorum.device", Refusal::DeviceVotesUneven);
            }
            (Some(device), Some(expected)) if expected.saturating_sub(device) < 2 => {
                let refusal = Refusal::DeviceVotesTooHigh { expected, device };
                self.refuse("quorum.expected_votes", refusal);
            }
            (Some(_), Some(_)) | (_, None) => {}
        }
        if conf.device_votes() == 0 && !conf.nodes.is_empty() {
            self.refuse(path, Refusal::DeviceWithoutVotes);
        }
        if conf.nodes.len() == 1 {
            let text = "one node and a quorum device: the device can only take quorum away";
            self.advise("quorum.device", text);
        }
    }

    fn ffsplit(&mut self, device: &DeviceConf) {
        let conf = self.conf;
        if device.votes != Some(1) {
            let path = if device.votes.is_some() { "quorum.device.votes" } else { "quorum.device" };
            self.refuse(path, Refusal::FfsplitVotes(device.votes));
        }
        for node in conf.nodes.iter().filter(|node| node.votes != 1) {
            let (node, votes) = (node.id, node.votes);
            self.refuse(&node_path(node), Refusal::FfsplitNodeVotes { node, votes });
        }
        if conf.nodes.len() > 1 && conf.nodes.len() % 2 == 1 {
            let text = "algorithm ffsplit is made for an even number of nodes; with an odd one the \
                        device makes quorum harder to reach: use lms, or no device";
            self.advise("quorum.device.net.algorithm", text);
        }
    }

    fn heuristics(&mut self, device: &DeviceConf) {
        let heuristics = &device.heuristics;
        let section = "quorum.device.heuristics";
        let count = heuristics.execs.len();
        match heuristics.mode {
            HeuristicsMode::Off => {}
            HeuristicsMode::Sync | HeuristicsMode::On if count == 0 => {
                self.refuse(section, Refusal::NoExec);
            }
            HeuristicsMode::Sync | HeuristicsMode::On => {}
        }
        if count > MAX_EXECS {
            self.refuse(section, Refusal::TooManyExecs(count));
        }
        for (name, command) in &heuristics.execs {
            let path = format!("{section}.exec_{name}");
            let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '/');
            let length = 1..=MAX_EXEC_NAME_BYTES;
            if !length.contains(&name.len()) || !name.chars().all(allowed) {
                self.refuse(&path, Refusal::ExecName(clip(name)));
            }
            if command.is_empty() {
                self.refuse(&path, Refusal::ExecEmpty(clip(name)));
            } else if !command.starts_with('/') {
                let text = format!("exec_{name}: the command does not begin with an absolute path");
                self.advise(&path, text);
            }
        }
    }

    fn haguard(&mut self) {
        let haguard = &self.conf.haguard;
        if haguard.trust_process_watchdog && haguard.watchdog != WatchdogChoice::Process {
            let text = "trust_process_watchdog has no effect without `watchdog: process`";
            self.advise("haguard.trust_process_watchdog", text);
        }
        let Some(service) = &haguard.service else { return };
        let section = "haguard.service";
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        let length = 1..=MAX_SERVICE_NAME_BYTES;
        let named = length.contains(&service.name.len()) && service.name.chars().all(allowed);
        // "." and ".." are allowed by the characters and would be directories.
        let fault = !named || service.name.starts_with('.');
        let reported = service.name.is_empty() && self.lines.get("haguard.service.name").is_some();
        if fault && !reported {
            self.refuse(section, Refusal::ServiceName);
        }
        if service.command.is_empty() && self.lines.get("haguard.service.command").is_none() {
            self.refuse(section, Refusal::ServiceCommand(clip(&service.name)));
        }
        if let Some(id) = service.prefer
            && self.conf.node(id).is_none()
        {
            self.refuse("haguard.service.prefer", Refusal::ServicePrefer(id));
        }
    }
}

/// Whether the totem section demands unencrypted messages, as corosync reads it: `secauth: on`
/// stands for a cipher and a hash, both can be overridden, and nothing said is nothing demanded.
fn asks_plain_text(conf: &ClusterConf) -> bool {
    let totem = &conf.totem;
    let said =
        totem.secauth.is_some() || totem.crypto_cipher.is_some() || totem.crypto_hash.is_some();
    let unless_given = if totem.secauth == Some(true) { "on" } else { "none" };
    let cipher = totem.crypto_cipher.unwrap_or(unless_given);
    let hash = totem.crypto_hash.unwrap_or(unless_given);
    said && (cipher == "none" || hash == "none")
}

fn node_path(id: NodeId) -> String {
    format!("nodelist.node.{id}")
}

fn link_path(id: NodeId, link: u8) -> String {
    format!("nodelist.node.{id}.ring{link}_addr")
}
