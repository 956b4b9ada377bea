//! A real arbiter and a real gateway, and two nodes of which only the devices' words to the arbiter
//! are there: a split and its end take milliseconds.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use certs::files;
use host::https::Client;
use http_body_util::Full;
use protocol::fence::{Outcome, Progress, Request};
use protocol::ids::{Epoch, NodeId};
use protocol::vote::Heuristics;
use rustls::pki_types::ServerName;

use super::common::LIMIT;
use super::common::arbiter::{Arbiter, Home};
use super::gateway::Gateway;
use super::light::{Identity, Light, Power, Report, Source};

const CLUSTER: &str = "light";

/// Everything; it ends with the value.
pub(crate) struct Lab {
    // Dropped in this order.
    pub(crate) gateway: Gateway,
    pub(crate) nodes: BTreeMap<u32, Light>,
    arbiter: Arbiter,
    identities: BTreeMap<u32, Identity>,
    epochs: BTreeMap<u32, Epoch>,
    lives: u64,
    seq: u64,
    pub(crate) home: Home,
}

impl Lab {
    /// Both nodes are one; the gateway is prepared and does not run yet.
    pub(crate) async fn start(name: &str) -> Self {
        let home = Home::new(name);
        let arbiter = home.start(&[]);
        let authority = PathBuf::from(home.path("ca"));
        let gateway =
            Gateway::prepare(home.path("gateway").as_ref(), &authority, CLUSTER, arbiter.address);
        let identity = |node| {
            let directory = PathBuf::from(home.issue(CLUSTER, node));
            let always: Source = Box::new(|| true);
            let power: Power = Arc::new(Mutex::new(always));
            (node, Identity { node, cluster: CLUSTER, directory, power })
        };
        let identities = [1, 2].map(identity).into();
        let (nodes, epochs) = (BTreeMap::new(), BTreeMap::new());
        let mut lab = Self { gateway, nodes, arbiter, identities, epochs, lives: 0, seq: 0, home };
        lab.boot(1).await;
        lab.boot(2).await;
        lab.unite().await;
        lab
    }

    /// A node has power while this says so, from now on.
    pub(crate) fn powered_by(&self, node: u32, power: impl Fn() -> bool + Send + 'static) {
        *self.identities[&node].power.lock().unwrap() = Box::new(power);
    }

    /// Both nodes have power from the outlets that the gateway's file names.
    pub(crate) fn powered_by_outlets(&self) {
        for node in [1, 2] {
            let file = self.gateway.power_of(node);
            self.powered_by(node, move || has_power(&file));
        }
    }

    /// A node begins a new life, and its last one is over.
    pub(crate) async fn boot(&mut self, node: u32) {
        self.lives += 1;
        if let Some(old) = self.nodes.remove(&node) {
            self.epochs.insert(node, old.heard().epoch);
        }
        let epoch = self.epochs.get(&node).copied().unwrap_or_default();
        let identity = &self.identities[&node];
        let light = Light::boot(self.arbiter.address, identity, self.lives, epoch).await;
        self.nodes.insert(node, light);
    }

    /// A report with a number that was never used.
    pub(crate) fn next_report(
        &mut self,
        members: &[u32],
        heuristics: Option<Heuristics>,
    ) -> Report {
        self.seq += 1;
        Report { seq: self.seq, members: members.to_vec(), heuristics }
    }

    /// Both are one view, which has the vote.
    pub(crate) async fn unite(&mut self) {
        let report = self.next_report(&[1, 2], None);
        for light in self.nodes.values_mut() {
            light.report(report.clone()).await;
        }
        for light in self.nodes.values_mut() {
            light.until_granted(&report).await;
        }
    }

    /// They are apart, and node 1 has the vote.
    pub(crate) async fn split(&mut self) {
        let (ones, twos) = (self.next_report(&[1], None), self.next_report(&[2], None));
        self.nodes.get_mut(&1).unwrap().report(ones.clone()).await;
        self.nodes.get_mut(&2).unwrap().report(twos).await;
        self.nodes.get_mut(&1).unwrap().until_granted(&ones).await;
    }

    /// The highest epoch that a node knows.
    pub(crate) fn epoch(&self, node: u32) -> Option<Epoch> {
        Some(self.nodes[&node].heard().epoch)
    }

    /// Off for node 2, for the side of node 1: the answer's lines, and how it ended.
    pub(crate) async fn off(&self) -> (String, Outcome) {
        let request = super::gateway::off(NodeId(1), self.epoch(1), NodeId(2));
        self.gateway.fence(request).await
    }

    /// A node's way to the gateway: connected, with its certificate.
    pub(crate) async fn way(&self, node: u32) -> Client {
        let file = |name: &str| self.identities[&node].directory.join(name);
        let trust = files::load_trust(&file("ca.pem")).unwrap();
        let own = files::load_credential(&file("node.pem"), &file("node-key.pem")).unwrap();
        let tls = certs::tls::gateway_client(&trust, &own, &CLUSTER.into()).unwrap();
        let (at, name) = (self.gateway.address(), ServerName::try_from("gateway.invalid").unwrap());
        Client::connect(&at.ip().to_string(), at.port(), tls, name, LIMIT).await.unwrap()
    }

    /// What the arbiter says of the cluster.
    pub(crate) fn grant(&self) -> protocol::status::ClusterStatus {
        let mut status = super::common::status(&self.home.path("run")).unwrap();
        serde_json::from_value(status["arbiter"]["clusters"][CLUSTER].take()).unwrap()
    }
}

/// Whether an outlet with this file gives power.
pub(crate) fn has_power(outlet: &Path) -> bool {
    // While it is written anew it is empty.
    fs::read_to_string(outlet).unwrap().trim() != "off"
}

/// `POST /v1/fence` to its end.
pub(crate) async fn post(way: Client, request: &Request) -> Outcome {
    let target = request.targets.first().unwrap();
    let body = Full::new(Bytes::from(serde_json::to_vec(request).unwrap()));
    let request = hyper::Request::post("/v1/fence").header("host", "gateway").body(body).unwrap();
    let mut lines = way.lines(request, LIMIT).await.unwrap();
    assert_eq!(lines.status, 200);
    while let Some(line) = lines.next(LIMIT).await.unwrap() {
        if let Progress::Done { mut results } = serde_json::from_slice(&line).unwrap() {
            return results.remove(target).unwrap();
        }
    }
    panic!("no end");
}
