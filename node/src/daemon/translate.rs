//! The cluster's configuration in the words of the core and of the device.

use std::time::Duration;

use protocol::host::{DeviceSettings, HeuristicsMode, HeuristicsSettings, TlsMode, Welcome};
use protocol::ids::NodeId;
use protocol::times;
use protocol::vote::Bound;

use crate::conf::{self, ClusterConf, DeviceConf, ForceIp};
use crate::core::{Config, Identity};

/// What the core has to know.
pub fn core_config(conf: &ClusterConf, me: NodeId, bound: Bound) -> Config {
    let device = conf.quorum.device.as_ref();
    let service = conf.haguard.service.as_ref();
    Config {
        node: me,
        votes: conf.nodes.iter().map(|node| (node.id, node.votes)).collect(),
        device_votes: conf.device_votes(),
        quorum: conf.quorum(),
        device_timeout: device.map_or(times::DEVICE_TIMEOUT, |device| device.timeout),
        wait_for_all: conf.wait_for_all(),
        auto_tie_breaker: conf.tie_breaker_node(),
        two_node: conf.quorum.two_node,
        digest: conf.digest(),
        bound,
        trust_virtual_watchdog: conf.haguard.trust_virtual_watchdog,
        trust_process_watchdog: conf.haguard.trust_process_watchdog,
        service: service.map(|service| (service.name.clone(), service.prefer)),
    }
}

/// What the device is told first.
pub fn welcome(conf: &ClusterConf, me: NodeId, identity: Identity, bound: Bound) -> Welcome {
    let data_center = |node: &conf::NodeConf| node.data_center.unwrap_or(0);
    Welcome {
        cluster: conf.cluster_name.to_string(),
        node: me,
        boot: identity.boot,
        instance: identity.instance,
        bound,
        config_version: conf.config_version,
        nodes: conf.nodes.iter().map(|node| (node.id, data_center(node))).collect(),
        device: conf.quorum.device.as_ref().map(device_settings),
    }
}

fn device_settings(device: &DeviceConf) -> DeviceSettings {
    let timers = device.timers();
    let net = &device.net;
    DeviceSettings {
        host: net.host.clone(),
        port: net.port,
        tls: match net.tls {
            conf::TlsMode::Off => TlsMode::Off,
            conf::TlsMode::On => TlsMode::On,
            conf::TlsMode::Required => TlsMode::Required,
        },
        algorithm: net.algorithm,
        tie_breaker: net.tie_breaker,
        keep_active_partition: net.keep_active_partition_tie_breaker,
        timeout_ms: millis(device.timeout),
        sync_timeout_ms: millis(device.sync_timeout),
        heartbeat_ms: millis(timers.heartbeat),
        connect_timeout_ms: millis(timers.connect),
        force_ip_version: match net.force_ip_version {
            ForceIp::Any => 0,
            ForceIp::V4 => 4,
            ForceIp::V6 => 6,
        },
        heuristics: HeuristicsSettings {
            mode: match device.heuristics.mode {
                conf::HeuristicsMode::Off => HeuristicsMode::Off,
                conf::HeuristicsMode::Sync => HeuristicsMode::Sync,
                conf::HeuristicsMode::On => HeuristicsMode::On,
            },
            timeout_ms: millis(timers.heuristics),
            sync_timeout_ms: millis(timers.heuristics_sync),
            interval_ms: millis(timers.heuristics_interval),
            commands: device.heuristics.execs.clone(),
        },
    }
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}
