//! No bytes make the reader panic, and whatever it accepts reads back from its own text.

use std::collections::BTreeMap;
use std::time::Duration;

use node::conf::{
    AutoTieBreaker, ClusterConf, DeviceConf, ForceIp, GatewayConf, GuardConf, HeuristicsConf,
    HeuristicsMode, IpVersion, LinkConf, LinkMode, NetConf, NodeConf, Options, Provider,
    QuorumConf, ServiceConf, TlsMode, TotemConf, Transport, WatchdogChoice, load,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use protocol::ids::{ClusterName, NodeId};
use protocol::vote::{Algorithm, TieBreaker};

const FILES: [&str; 5] = [
    include_str!("data/every-key.conf"),
    include_str!("data/proxmox-three-nodes.conf"),
    include_str!("data/proxmox-two-nodes-device.conf"),
    include_str!("data/proxmox-four-nodes-device.conf"),
    include_str!("data/proxmox-ten-nodes-device.conf"),
];

/// Reads hostile bytes; what is accepted must survive its own text, and messages must be lines.
fn survives(bytes: &[u8]) {
    match load("fuzz", bytes, &Options::default()) {
        Ok(loaded) => {
            let again = load("again", loaded.conf.render().as_bytes(), &Options::default());
            assert_eq!(again.map(|loaded| loaded.conf), Ok(loaded.conf));
        }
        Err(errors) => {
            assert!(!errors.problems.is_empty());
            assert_eq!(errors.to_string().lines().count(), errors.problems.len());
            assert!(!errors.to_string().contains('\u{1b}'));
        }
    }
}

#[derive(Clone, Debug)]
enum Mutation {
    Remove { at: usize, length: usize },
    Replace { at: usize, byte: u8 },
    Insert { at: usize, text: String },
    Repeat { from: usize, to: usize },
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let words = "[{}:#\\n \\t0-9a-z_]{1,12}|[0-9]{1,21}|ring[0-9]{1,3}_addr: |\\PC{1,8}";
    prop_oneof![
        (any::<usize>(), 1..40_usize).prop_map(|(at, length)| Mutation::Remove { at, length }),
        (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| Mutation::Replace { at, byte }),
        (any::<usize>(), words).prop_map(|(at, text)| Mutation::Insert { at, text }),
        (any::<usize>(), any::<usize>()).prop_map(|(from, to)| Mutation::Repeat { from, to }),
    ]
}

fn mutate(bytes: &mut Vec<u8>, mutation: &Mutation) {
    let length = bytes.len().max(1);
    match mutation {
        Mutation::Remove { at, length: count } => {
            let at = (at % length).min(bytes.len());
            let end = (at + count).min(bytes.len());
            bytes.drain(at..end);
        }
        Mutation::Replace { at, byte } => {
            if let Some(old) = bytes.get_mut(at % length) {
                *old = *byte;
            }
        }
        Mutation::Insert { at, text } => {
            let at = (at % length).min(bytes.len());
            bytes.splice(at..at, text.bytes());
        }
        Mutation::Repeat { from, to } => {
            let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
            let Some(line) = lines.get(from % lines.len().max(1)) else { return };
            let line = line.to_vec();
            let at: usize = lines.iter().take(to % lines.len()).map(|line| line.len()).sum();
            bytes.splice(at..at, line);
        }
    }
}

fn text() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9]([a-zA-Z0-9 \"'}:#.,/_äß-]{0,40}[a-zA-Z0-9])?"
}

fn totem() -> impl Strategy<Value = TotemConf> {
    let link = (option::of(1_u16..), any::<u8>());
    let link = link.prop_map(|(port, priority)| LinkConf { port, priority });
    let words = (
        prop_oneof![Just(Transport::Knet), Just(Transport::Udpu), Just(Transport::Udp)],
        prop_oneof![Just(LinkMode::Passive), Just(LinkMode::Active), Just(LinkMode::RoundRobin)],
        prop_oneof![Just(IpVersion::V4ThenV6), Just(IpVersion::V6ThenV4)],
        prop_oneof![
            Just((None, None, None)),
            Just((Some(true), None, None)),
            Just((Some(false), Some("aes256"), Some("sha1"))),
        ],
    );
    let rest = (
        option::of((0..=u32::MAX).prop_map(|ms| Duration::from_millis(ms.into()))),
        any::<bool>(),
        proptest::collection::btree_map(0..=7_u8, link, 0..4),
    );
    (words, rest).prop_map(|((transport, link_mode, ip_version, crypto), rest)| TotemConf {
        transport,
        link_mode,
        ip_version,
        secauth: crypto.0,
        crypto_cipher: crypto.1,
        crypto_hash: crypto.2,
        token: rest.0,
        clear_node_high_bit: rest.1,
        links: rest.2,
    })
}

/// A node's name, data center, and links as bits.
type Drawn = (Option<String>, Option<u32>, usize);

fn nodes() -> impl Strategy<Value = Vec<NodeConf>> {
    let node = (option::of(text()), option::of(any::<u32>()), 0..256_usize);
    vec((1..=u32::MAX, node), 1..=16).prop_map(|list| {
        let by_id: BTreeMap<u32, Drawn> = list.into_iter().collect();
        let node = |(index, (id, (name, data_center, links))): (usize, (u32, Drawn))| {
            // Link 0 is shared by all; the others are a matter of luck.
            let numbers = (0..=7_u8).filter(|link| *link == 0 || links & (1 << link) != 0);
            NodeConf {
                id: NodeId(id),
                name: name.map(|name| format!("{index}{name}")),
                votes: 1,
                data_center,
                links: numbers.map(|link| (link, format!("10.0.{link}.{}", index + 1))).collect(),
            }
        };
        by_id.into_iter().enumerate().map(node).collect()
    })
}

fn millis(range: std::ops::RangeInclusive<u64>) -> impl Strategy<Value = Duration> {
    range.prop_map(Duration::from_millis)
}

fn net() -> impl Strategy<Value = NetConf> {
    let parts = (
        "[a-z]{1,20}(\\.[a-z]{1,9})?",
        1_u16..,
        prop_oneof![Just(TlsMode::Off), Just(TlsMode::On), Just(TlsMode::Required)],
        prop_oneof![Just(TieBreaker::Lowest), Just(TieBreaker::Highest)],
        option::of(millis(1_000..=120_000)),
        prop_oneof![Just(ForceIp::Any), Just(ForceIp::V4), Just(ForceIp::V6)],
        any::<bool>(),
    );
    parts.prop_map(|(host, port, tls, tie_breaker, connect_timeout, force, keep)| NetConf {
        host,
        port,
        tls,
        algorithm: Algorithm::Ffsplit,
        tie_breaker,
        connect_timeout,
        force_ip_version: force,
        keep_active_partition_tie_breaker: keep,
    })
}

fn heuristics() -> impl Strategy<Value = HeuristicsConf> {
    let execs = proptest::collection::btree_map("[a-zA-Z0-9_/-]{1,20}", text(), 1..=32);
    let times = (
        option::of(millis(1_000..=120_000)),
        option::of(millis(1_000..=120_000)),
        option::of(millis(1_000..=3_600_000)),
    );
    let mode = prop_oneof![
        Just(HeuristicsMode::Off),
        Just(HeuristicsMode::Sync),
        Just(HeuristicsMode::On)
    ];
    (mode, times, execs).prop_map(|(mode, (timeout, sync_timeout, interval), execs)| {
        HeuristicsConf { mode, timeout, sync_timeout, interval, execs }
    })
}

fn quorum() -> impl Strategy<Value = QuorumConf> {
    let device = (millis(2..=6_000_000), millis(2..=18_000_000), net(), heuristics());
    let device = device.prop_map(|(timeout, sync_timeout, net, heuristics)| DeviceConf {
        votes: Some(1),
        timeout,
        sync_timeout,
        net,
        heuristics,
    });
    let rest = (
        option::of(Just(Provider::Votequorum)),
        option::of(20..1_000_u32),
        option::of(any::<bool>()),
        option::of(device),
        any::<u32>(),
        prop_oneof![
            Just(AutoTieBreaker::Lowest),
            Just(AutoTieBreaker::Highest),
            vec((1..=u32::MAX).prop_map(NodeId), 1..5).prop_map(AutoTieBreaker::Nodes),
        ],
    );
    rest.prop_map(|(provider, expected_votes, wait_for_all, device, window, node)| QuorumConf {
        provider,
        expected_votes,
        wait_for_all,
        auto_tie_breaker_node: node,
        last_man_standing_window: Duration::from_millis(window.into()),
        device,
        ..QuorumConf::default()
    })
}

fn haguard() -> impl Strategy<Value = GuardConf> {
    let service = ("[a-zA-Z0-9_-]{1,64}", text());
    let service =
        service.prop_map(|(name, command)| ServiceConf { name, command, undo: None, prefer: None });
    let watchdog = prop_oneof![
        Just(WatchdogChoice::Off),
        Just(WatchdogChoice::Process),
        "/dev/[a-z0-9]{1,20}".prop_map(WatchdogChoice::Device),
    ];
    let gateway = (prop_oneof!["[a-z][a-z0-9-]{0,20}", Just("2001:db8::1".to_owned())], 1_u16..);
    let gateway = gateway.prop_map(|(host, port)| GatewayConf { host, port });
    let gateways = vec(gateway, 0..4);
    (watchdog, any::<bool>(), any::<bool>(), gateways, option::of(service)).prop_map(
        |(watchdog, process, virtual_device, gateways, service)| GuardConf {
            watchdog,
            trust_process_watchdog: process,
            trust_virtual_watchdog: virtual_device,
            gateways,
            service,
        },
    )
}

fn conf() -> impl Strategy<Value = ClusterConf> {
    let parts = (text(), option::of(any::<u64>()), nodes(), totem(), quorum(), haguard());
    parts.prop_map(|(name, config_version, nodes, totem, quorum, haguard)| ClusterConf {
        cluster_name: ClusterName::from(name.as_str()),
        config_version,
        nodes,
        totem,
        quorum,
        haguard,
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 512,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..2_000)) {
        survives(&bytes);
    }

    #[test]
    fn arbitrary_lines_never_panic(lines in vec("[a-z_. ]{0,10}[:{}#]{0,2}\\PC{0,10}", 0..60)) {
        survives(lines.join("\n").as_bytes());
    }

    #[test]
    fn mutated_files_never_panic(file in 0..FILES.len(), mutations in vec(mutation(), 1..8)) {
        let mut bytes = FILES[file].as_bytes().to_vec();
        for mutation in &mutations {
            mutate(&mut bytes, mutation);
        }
        survives(&bytes);
    }

    #[test]
    fn a_valid_configuration_reads_back_from_its_own_text(conf in conf()) {
        let loaded = load("rendered", conf.render().as_bytes(), &Options::default());
        prop_assert_eq!(loaded.map(|loaded| loaded.conf), Ok(conf.clone()));
        prop_assert!(conf.verify("made", &Options::default()).is_ok());
    }
}
