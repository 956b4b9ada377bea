//! What a cluster of the lab is like, and its corosync.conf.

use std::fmt;
use std::fmt::Write as _;

use protocol::vote::{Algorithm, TieBreaker};

pub(crate) const CLUSTER: &str = "lab";

/// Whose arbiter.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Arbiter {
    /// `corosync-qnetd` of the distribution.
    Stock,
    /// `haguard qnetd`.
    Ours,
    /// Ours, called `corosync-qnetd`: its socket is where the stock tools look for it.
    Renamed,
}

/// What a node runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Stack {
    /// corosync and corosync-qdevice.
    Stock,
    /// corosync and our device, called `corosync-qdevice`.
    Mixed,
    /// `haguard node` and `haguard qdevice`.
    Ours,
}

/// When the device runs its heuristics.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Heuristics {
    Off,
    Sync,
    On,
}

/// Which addresses are in the configuration.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// How the device and the arbiter talk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Tls {
    /// `tls: on`: if the arbiter can.
    On,
    /// `tls: required`.
    Required,
    /// `tls: required`, and the NSS of the stock side allows nothing newer than TLS 1.2.
    Old,
}

/// The timers of the configuration.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Timers {
    /// A fifth of the defaults, so that a fault is over in seconds.
    Quick,
    /// Those of a configuration that names none.
    Default,
}

/// A cluster.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) timers: Timers,
    pub(crate) arbiter: Arbiter,
    pub(crate) stack: Stack,
    pub(crate) nodes: u32,
    pub(crate) algorithm: Algorithm,
    pub(crate) tie_breaker: TieBreaker,
    pub(crate) keep_active: bool,
    pub(crate) heuristics: Heuristics,
    pub(crate) family: Family,
    pub(crate) tls: Tls,
}

impl Plan {
    /// Two nodes, everything else as most have it.
    pub(crate) fn new(arbiter: Arbiter, stack: Stack, algorithm: Algorithm) -> Self {
        Self {
            timers: Timers::Quick,
            arbiter,
            stack,
            nodes: 2,
            algorithm,
            tie_breaker: TieBreaker::Lowest,
            keep_active: true,
            heuristics: Heuristics::Off,
            family: Family::V4,
            tls: Tls::Required,
        }
    }

    pub(crate) fn address(&self, number: u32) -> String {
        match self.family {
            Family::V4 => format!("10.99.0.{number}"),
            Family::V6 => format!("fd99::{number}"),
        }
    }

    /// The configuration of every node, ours too: it is one file format.
    pub(crate) fn corosync_conf(&self) -> String {
        self.corosync_conf_of(CLUSTER, 1..=self.nodes)
    }

    /// The same for a cluster of another name, of some of the nodes.
    pub(crate) fn corosync_conf_of(
        &self,
        cluster: &str,
        nodes: impl IntoIterator<Item = u32>,
    ) -> String {
        let (token, device) = match self.timers {
            Timers::Quick => ("  token: 1000\n", "    timeout: 2000\n    sync_timeout: 6000\n"),
            Timers::Default => ("", ""),
        };
        let mut text = format!(
            "totem {{\n  version: 2\n  cluster_name: {cluster}\n  config_version: 1\n  \
             transport: knet\n  crypto_cipher: aes256\n  crypto_hash: sha256\n{token}}}\n\
             nodelist {{\n"
        );
        let mut add = |part: fmt::Arguments<'_>| text.write_fmt(part).unwrap();
        for node in nodes {
            let address = self.address(node);
            add(format_args!(
                "  node {{\n    ring0_addr: {address}\n    name: n{node}\n    nodeid: {node}\n  \
                 }}\n"
            ));
        }
        add(format_args!(
            "}}\nquorum {{\n  provider: corosync_votequorum\n  device {{\n    model: net\n\
             {device}"
        ));
        if self.algorithm == Algorithm::Ffsplit {
            add(format_args!("    votes: 1\n"));
        }
        let tie_breaker = match self.tie_breaker {
            TieBreaker::Lowest => "lowest".to_owned(),
            TieBreaker::Highest => "highest".to_owned(),
            TieBreaker::Node(node) => node.to_string(),
        };
        add(format_args!(
            "    net {{\n      host: {}\n      tls: {}\n      algorithm: {}\n      tie_breaker: \
             {tie_breaker}\n      keep_active_partition_tie_breaker: {}\n    }}\n",
            self.address(100),
            if self.tls == Tls::On { "on" } else { "required" },
            word(self.algorithm),
            if self.keep_active { "on" } else { "off" },
        ));
        match self.heuristics {
            Heuristics::Off => {}
            Heuristics::Sync | Heuristics::On => add(format_args!(
                "    heuristics {{\n      mode: {}\n      exec_healthy: /usr/bin/test -e \
                 /etc/corosync/healthy\n    }}\n",
                if self.heuristics == Heuristics::On { "on" } else { "sync" }
            )),
        }
        add(format_args!(
            "  }}\n}}\nlogging {{\n  to_stderr: yes\n  to_syslog: no\n  timestamp: hires\n}}\n"
        ));
        text
    }
}

/// The configuration's word.
pub(crate) fn word(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::Test => "test",
        Algorithm::Ffsplit => "ffsplit",
        Algorithm::TwoNodeLms => "2nodelms",
        Algorithm::Lms => "lms",
    }
}
