//! The files that users have, and what they mean.

use std::path::{Path, PathBuf};
use std::time::Duration;

use node::conf::{
    ClusterConf, Engine, ForceIp, HeuristicsMode, IpVersion, Level, LinkMode, Loaded, Options,
    Problem, Provider, TlsMode, Transport, WatchdogChoice, load, read,
};
use protocol::ids::{ClusterName, NodeId};
use protocol::vote::{Algorithm, TieBreaker};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn load_file(name: &str) -> Loaded {
    read(&data(name), &Options::default()).unwrap_or_else(|errors| panic!("{errors}"))
}

#[test]
fn the_proxmox_example_loads_as_it_is_without_a_warning_above_unused() {
    let Loaded { conf, warnings } = load_file("proxmox-three-nodes.conf");
    assert_eq!(conf.cluster_name, ClusterName::from("ProxCephCluster"));
    assert_eq!(conf.config_version, Some(3));
    assert_eq!(conf.totem.link_mode, LinkMode::Passive);
    assert_eq!(conf.totem.ip_version, IpVersion::V4ThenV6);
    assert_eq!(conf.totem.transport, Transport::Knet);
    assert_eq!(conf.totem.secauth, Some(true));
    assert_eq!(conf.quorum.provider, Some(Provider::Votequorum));
    assert_eq!(conf.nodes.len(), 3);
    for (node, last) in conf.nodes.iter().zip([111, 112, 113]) {
        assert_eq!(node.id, NodeId(last - 110));
        assert_eq!(node.name, Some(format!("proxmox{last}")));
        assert_eq!(node.votes, 1);
        let links: Vec<_> = node.links.iter().collect();
        assert_eq!(links, [(&1, &format!("10.10.100.{last}"))]);
    }
    assert_eq!(conf.port(1), 5406);
    assert_eq!(conf.common_links(NodeId(1), NodeId(3)), [1]);
    assert_eq!((conf.expected_votes(), conf.device_votes(), conf.quorum()), (3, 0, 2));
    let shown: Vec<_> = warnings.iter().filter(|w| w.level > Level::Unused).collect();
    assert!(shown.is_empty(), "{shown:?}");
    let unused: Vec<_> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        unused,
        [
            "line 2: logging.debug: known, and not used",
            "line 3: logging.to_syslog: known, and not used"
        ]
    );
}

#[test]
fn a_device_adds_its_vote_to_two_four_and_ten_nodes() {
    for (name, nodes, expected, quorum) in [
        ("proxmox-two-nodes-device.conf", 2, 3, 2),
        ("proxmox-four-nodes-device.conf", 4, 5, 3),
        ("proxmox-ten-nodes-device.conf", 10, 11, 6),
    ] {
        let conf = load_file(name).conf;
        assert_eq!(conf.nodes.len(), nodes, "{name}");
        assert_eq!(conf.device_votes(), 1, "{name}");
        assert_eq!(conf.expected_votes(), expected, "{name}");
        assert_eq!(conf.quorum(), quorum, "{name}");
    }
}

#[test]
fn an_absent_device_key_has_the_stock_default() {
    let conf = load_file("proxmox-two-nodes-device.conf").conf;
    let device = conf.quorum.device.unwrap();
    assert_eq!(device.timeout, Duration::from_secs(10));
    assert_eq!(device.sync_timeout, Duration::from_secs(30));
    assert_eq!(device.net.host, "10.10.100.5");
    assert_eq!(device.net.port, 5403);
    assert_eq!(device.net.tls, TlsMode::On);
    assert_eq!(device.net.algorithm, Algorithm::Ffsplit);
    assert_eq!(device.net.tie_breaker, TieBreaker::Lowest);
    assert_eq!(device.net.force_ip_version, ForceIp::Any);
    assert!(device.net.keep_active_partition_tie_breaker);
    assert_eq!(device.heuristics.mode, HeuristicsMode::Off);
    let timers = device.timers();
    assert_eq!(timers.heartbeat, Duration::from_millis(8_000));
    assert!(!timers.heartbeat_clamped);
    assert_eq!(timers.cast_vote, Duration::from_millis(5_000));
    assert_eq!(timers.connect, Duration::from_millis(8_000));
    assert_eq!(timers.heuristics, Duration::from_millis(5_000));
    assert_eq!(timers.heuristics_sync, Duration::from_millis(15_000));
    assert_eq!(timers.heuristics_interval, Duration::from_millis(30_000));
}

#[test]
fn every_key_reaches_its_field() {
    let Loaded { conf, warnings } = load_file("every-key.conf");
    assert_eq!(conf.config_version, Some(u64::MAX));
    assert_eq!(conf.totem.transport, Transport::Udpu);
    assert_eq!(conf.totem.link_mode, LinkMode::RoundRobin);
    assert_eq!(
        (conf.totem.crypto_cipher, conf.totem.crypto_hash),
        (Some("aes128"), Some("sha512"))
    );
    assert_eq!(conf.totem.token, Some(Duration::from_secs(5)));
    assert_eq!((conf.port(0), conf.port(3), conf.port(7)), (6000, 5408, 6010));
    let derived = NodeId(0x4000_0201);
    assert_eq!(conf.nodes[0].id, derived);
    assert_eq!(conf.nodes[0].data_center, Some(3));
    assert_eq!(conf.common_links(derived, NodeId(u32::MAX)), [7, 0]);
    assert!(conf.wait_for_all());
    assert_eq!(conf.quorum.last_man_standing_window, Duration::from_secs(20));
    let device = conf.quorum.device.as_ref().unwrap();
    assert_eq!((device.votes, device.net.port), (Some(2), 5503));
    assert_eq!(device.net.tls, TlsMode::Required);
    assert_eq!(device.net.algorithm, Algorithm::Lms);
    assert_eq!(device.net.tie_breaker, TieBreaker::Node(NodeId(u32::MAX)));
    assert_eq!(device.net.force_ip_version, ForceIp::V4);
    assert!(!device.net.keep_active_partition_tie_breaker);
    assert_eq!(device.heuristics.mode, HeuristicsMode::Sync);
    assert_eq!(device.heuristics.execs["ping"], r#"/bin/ping -q -c 1 "192.0.2.254""#);
    assert_eq!(device.heuristics.execs["disk/root"], "/usr/bin/test -w /");
    let timers = device.timers();
    assert_eq!(timers.heartbeat, Duration::from_millis(16_000));
    assert_eq!(timers.connect, Duration::from_millis(9_000));
    assert_eq!(timers.heuristics, Duration::from_millis(1_500));
    assert_eq!(timers.heuristics_sync, Duration::from_millis(2_500));
    assert_eq!(timers.heuristics_interval, Duration::from_millis(60_000));
    assert_eq!(conf.haguard.watchdog, WatchdogChoice::Device("/dev/watchdog1".to_owned()));
    assert!(conf.haguard.trust_virtual_watchdog && !conf.haguard.trust_process_watchdog);
    let gateways: Vec<String> = conf.haguard.gateways.iter().map(ToString::to_string).collect();
    assert_eq!(gateways, ["arbiter.example.org:5413", "192.0.2.7:5500", "[2001:db8::5]:5413"]);
    let service = conf.haguard.service.as_ref().unwrap();
    assert_eq!(service.command, "/usr/local/bin/web --listen [::]:80");
    assert_eq!(service.undo.as_deref(), Some("/usr/sbin/ip address flush dev lo label lo:web"));
    assert_eq!(service.prefer, Some(NodeId(u32::MAX)));
    let unknown: Vec<_> = warnings.iter().filter(|w| w.level == Level::Unknown).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn every_test_file_reads_back_from_its_own_text() {
    for entry in std::fs::read_dir(data("")).unwrap() {
        let path = entry.unwrap().path();
        let conf = read(&path, &Options::default()).unwrap().conf;
        let again = load("rendered", conf.render().as_bytes(), &Options::default());
        assert_eq!(again.unwrap().conf, conf, "{}", path.display());
    }
}

#[test]
fn the_digest_ignores_order_comments_logging_and_spelled_out_defaults() {
    let plain = load_file("proxmox-two-nodes-device.conf").conf;
    let text = "# another order\n\
        totem {\nversion: 2\nsecauth: on\nlink_mode: passive\nip_version: ipv4-6\n\
        transport: knet\ncluster_name: ProxCephCluster\nconfig_version: 4\n\
        interface {\nlinknumber: 1\nmcastport: 5406\n}\n}\n\
        quorum {\nprovider: corosync_votequorum\nexpected_votes: 3\nwait_for_all: 0\n\
        device {\nvotes: 1\nmodel: net\ntimeout: 10000\n\
        net {\nhost: 10.10.100.5\nport: 5403\nconnect_timeout: 8000\ntls: yes\n}\n\
        heuristics {\nmode: no\ninterval: 30000\n}\n}\n}\n\
        nodelist {\n\
        node {\nring1_addr: 10.10.100.112\nname: proxmox112\nnodeid: 2\n}\n\
        node {\nring1_addr: 10.10.100.111\nname: proxmox111\nnodeid: 1\n}\n}\n";
    let other = load("other", text.as_bytes(), &Options::default()).unwrap().conf;
    assert_ne!(plain, other);
    assert_eq!(plain.digest(), other.digest());
}

/// One change of a configuration that members must not disagree about.
type Change = (&'static str, fn(&mut ClusterConf));

#[test]
fn the_digest_sees_what_members_must_agree_about() {
    let conf = load_file("every-key.conf").conf;
    let changes: [Change; 10] = [
        ("name", |c| c.cluster_name = ClusterName::from("b")),
        ("tie-breaker", |c| c.quorum.device.as_mut().unwrap().net.tie_breaker = TieBreaker::Lowest),
        ("votes", |c| c.nodes[0].votes = 2),
        ("address", |c| drop(c.nodes[0].links.insert(0, "192.0.2.9".to_owned()))),
        ("port", |c| c.totem.links.get_mut(&0).unwrap().port = None),
        ("wait_for_all", |c| c.quorum.wait_for_all = Some(false)),
        ("device", |c| c.quorum.device = None),
        ("host", |c| c.quorum.device.as_mut().unwrap().net.host.push('x')),
        ("watchdog", |c| c.haguard.watchdog = WatchdogChoice::Off),
        ("service", |c| c.haguard.service = None),
    ];
    for (what, change) in changes {
        let mut changed = conf.clone();
        change(&mut changed);
        assert_ne!(changed.digest(), conf.digest(), "{what}");
    }
}

#[test]
fn the_digest_does_not_see_what_a_running_node_may_change() {
    let conf = load_file("every-key.conf").conf;
    let changes: [Change; 6] = [
        ("haguard.gateway", |c| drop(c.haguard.gateways.pop())),
        ("totem.config_version", |c| c.config_version = None),
        ("quorum.device.net.tls", |c| c.quorum.device.as_mut().unwrap().net.tls = TlsMode::Off),
        ("quorum.device.net.connect_timeout", |c| {
            c.quorum.device.as_mut().unwrap().net.connect_timeout = None;
        }),
        ("quorum.device.net.force_ip_version", |c| {
            c.quorum.device.as_mut().unwrap().net.force_ip_version = ForceIp::Any;
        }),
        ("quorum.device.heuristics.exec_ping", |c| {
            c.quorum.device.as_mut().unwrap().heuristics.execs.remove("ping");
        }),
    ];
    for (what, change) in changes {
        let mut changed = conf.clone();
        change(&mut changed);
        assert_eq!(changed.digest(), conf.digest(), "{what}");
        let changes = conf.changes(&changed);
        assert_eq!(changes.live, [what.to_owned()].into());
        assert!(changes.restart.is_empty(), "{changes:?}");
        assert!(conf.changes(&conf).is_empty());
    }
}

#[test]
fn the_digest_of_the_example_never_changes_by_itself() {
    // Members of different builds compare it: a change of this number needs a new beat version.
    let conf = load_file("proxmox-three-nodes.conf").conf;
    assert_eq!(format!("{:016x}", conf.digest()), "e40e1dfe10ee446c");
}

#[test]
fn a_made_configuration_is_verified_by_reading_its_own_text() {
    let conf = load_file("every-key.conf").conf;
    assert!(conf.verify("new", &Options::default()).is_ok());

    let mut injected = conf.clone();
    injected.nodes[1].name = Some("a\nquorum_votes: 9".to_owned());
    assert!(injected.verify("new", &Options::default()).is_err());

    let mut unsorted = conf.clone();
    unsorted.nodes.reverse();
    let errors = unsorted.verify("new", &Options::default()).unwrap_err();
    assert!(errors.to_string().contains("does not read back"), "{errors}");

    let mut empty = conf;
    empty.nodes.clear();
    assert!(empty.verify("new", &Options::default()).is_err());
}

#[test]
fn a_missing_file_and_a_directory_are_errors_with_the_path() {
    for path in [data("no-such-file.conf"), data("")] {
        let errors = read(&path, &Options::default()).unwrap_err();
        assert!(matches!(errors.problems[0].problem, Problem::Unreadable(_)));
        assert!(errors.to_string().starts_with(&path.display().to_string()));
    }
}

#[test]
fn a_running_corosync_keeps_what_only_our_engine_refuses() {
    let options =
        Options { engine: Engine::Corosync { stock_device: false }, ..Options::default() };
    let nodes: String = (1..=20)
        .map(|id| format!("node {{\nnodeid: {id}\nring0_addr: 192.0.2.{id}\n}}\n"))
        .collect();
    let text = format!(
        "totem {{\nversion: 2\ncluster_name: big\nsecauth: off\n}}\nnodelist {{\n{nodes}}}\n\
         quorum {{\nprovider: corosync_votequorum\nlast_man_standing: 1\nallow_downscale: 1\n}}\n"
    );
    assert!(load("big", text.as_bytes(), &options).is_ok());
    let errors = load("big", text.as_bytes(), &Options::default()).unwrap_err();
    assert_eq!(errors.problems.len(), 4, "{errors}");
}
