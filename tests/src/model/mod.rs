//! Stand-ins for what has no core yet, or is not ours: each says what replaces it. The scenarios
//! that need them stay when that comes. And scenarios by chance in which they, or the gateway, take
//! part.

pub(crate) mod corosync;
pub(crate) mod lineage;
pub(crate) mod other_arbiter;

use protocol::ids::NodeId;
use protocol::qnet::{Frame, Message, MessageType, NodeListType};
use protocol::rng::Rng;
use protocol::vote::TieBreaker;

use crate::scenario::{
    Corosync, End, Fault, GatewayFault, Generation, Process, Scenario, TimedFault, Topology,
};
use crate::world::World;
use lineage::Lineage;
use other_arbiter::Others;

/// All models of one world.
#[derive(Debug, Default)]
pub(crate) struct Models {
    pub(crate) lineage: Lineage,
    pub(crate) others: Others,
}

/// The models' faults begin no later.
const SPREAD_MS: u64 = 30_000;

impl Scenario {
    /// A scenario by chance in which lost nodes are fenced, by a gateway that dies, is cut off or
    /// cannot write, through switches that are slow, dead or do nothing, with proofs that come late,
    /// and in which an operator confirms things.
    pub fn random_with_gateway(seed: u64) -> Self {
        let mut scenario = Self::random(seed);
        let mut rng = Rng::new(!seed);
        scenario.topology.gateway = true;
        for _ in 0..1 + rng.below(4) {
            let does = match rng.below(16) {
                0 | 1 => GatewayFault::Dead,
                2..=4 => GatewayFault::Slow,
                5..=7 => GatewayFault::LateProof,
                8 => GatewayFault::Idle,
                9 | 10 => GatewayFault::Killed,
                11 => GatewayFault::CutOff,
                12 => GatewayFault::DiskFull,
                _ => GatewayFault::Confirm,
            };
            let target = 1 + u32::try_from(rng.below(2)).unwrap_or(0);
            let by = (does == GatewayFault::Confirm).then_some(3 - target);
            let host = match does {
                GatewayFault::CutOff if rng.below(2) == 0 => Some(End::Arbiter),
                GatewayFault::Killed | GatewayFault::DiskFull => None,
                GatewayFault::Dead
                | GatewayFault::Slow
                | GatewayFault::LateProof
                | GatewayFault::Idle
                | GatewayFault::CutOff
                | GatewayFault::Confirm => Some(End::Node(NodeId(target))),
            };
            let at_ms = 3000 + rng.below(SPREAD_MS);
            let for_ms = match does {
                GatewayFault::Killed => 1 + rng.below(6000),
                GatewayFault::CutOff | GatewayFault::DiskFull => 100 + rng.below(15_000),
                GatewayFault::Dead
                | GatewayFault::Slow
                | GatewayFault::LateProof
                | GatewayFault::Idle
                | GatewayFault::Confirm => 20_000,
            };
            let fault = Fault::Gateway { does, host, by };
            scenario.faults.push(TimedFault { at_ms, for_ms, fault });
        }
        scenario
    }

    /// A scenario by chance in which two nodes with a device become three, with a device or
    /// without, while other things go wrong.
    pub fn random_with_generations(seed: u64) -> Self {
        let mut scenario = Self::random_of(seed, 3..=3);
        let mut rng = Rng::new(!seed);
        let topology = &mut scenario.topology;
        topology.algorithm = protocol::vote::Algorithm::Ffsplit;
        let device = rng.below(2) == 0;
        topology.generations = vec![
            Generation { nodes: vec![1, 2], device: true },
            Generation { nodes: vec![1, 2, 3], device },
        ];
        // The model of the arbiter's record outlives its state, which the real one would not.
        scenario.faults.retain(|timed| !matches!(timed.fault, Fault::ArbiterState { .. }));
        for node in 1..=3 {
            let fault = Fault::Configure { host: End::Node(NodeId(node)), generation: 2 };
            let at_ms = 3000 + rng.below(SPREAD_MS);
            scenario.faults.push(TimedFault { at_ms, for_ms: 0, fault });
        }
        scenario
    }

    /// A scenario by chance of a corosync cluster with stock and own devices: a cut that lasts, and
    /// one fault of a device, a machine, a way to the arbiter or the arbiter's process. At times it
    /// is a node's way to the arbiter, long before the cut.
    pub fn random_with_corosync(seed: u64) -> Self {
        let mut rng = Rng::new(!seed);
        let mut below = |limit: u32| u32::try_from(rng.below(u64::from(limit))).unwrap_or(0);
        let nodes = 2 + 2 * below(2);
        let own = (1..=nodes).filter(|_| below(2) == 0).collect();
        // Of four nodes three are quorate by themselves while the fourth has not noticed a cut yet,
        // and ask nobody.
        let alone = nodes == 2;
        // A token that turns in hold passes twice in a second.
        let late_ms = (1..=nodes).map(|_| if alone { below(700) } else { 0 }).collect();
        let topology = Topology {
            nodes,
            tie_breaker: if below(2) == 0 { TieBreaker::Lowest } else { TieBreaker::Highest },
            corosync: Some(Corosync { own, late_ms, ..Corosync::default() }),
            ..Topology::default()
        };
        let mut faults = Vec::new();
        let long_before = alone && below(3) == 0;
        let at_ms = u64::from(below(10_000)) + if long_before { 40_000 } else { 5000 };
        let side = 1 + below(nodes - 1);
        for (a, b) in (1..=side).flat_map(|a| (side + 1..=nodes).map(move |b| (a, b))) {
            let fault =
                Fault::Cut { from: End::Node(NodeId(a)), to: End::Node(NodeId(b)), one_way: false };
            faults.push(TimedFault { at_ms, for_ms: 60_000, fault });
        }
        let node = NodeId(1 + below(nodes));
        let cut_off = Fault::Cut { from: End::Node(node), to: End::Arbiter, one_way: false };
        if long_before {
            faults.push(TimedFault { at_ms: 5000, for_ms: 80_000, fault: cut_off });
            return Self::on_corosync(seed, topology, faults);
        }
        let fault = match below(5) {
            0 => Fault::Kill { process: Process::Device(node), after_actions: 0 },
            1 => Fault::Freeze { process: Process::Device(node) },
            2 => cut_off,
            3 => Fault::PowerOff { host: End::Node(node), disk_lost: false },
            _ => Fault::Kill { process: Process::Arbiter, after_actions: 0 },
        };
        // Once the cut has been noticed and answered: before that it would be a second fault.
        let at_ms = at_ms + u64::from(12_000 + below(30_000));
        let for_ms = u64::from(100 + below(40_000));
        faults.push(TimedFault { at_ms, for_ms, fault });
        Self::on_corosync(seed, topology, faults)
    }

    fn on_corosync(seed: u64, topology: Topology, faults: Vec<TimedFault>) -> Self {
        let name = String::new();
        Self { name, seed, topology, faults, expect: Vec::new(), until_ms: None }
    }
}

impl World {
    /// The models look around, as often as the invariants do.
    pub(crate) fn models_look(&mut self) {
        self.others_look();
        if self.scenario.topology.gateway {
            self.gateway_looks();
        }
        if !self.scenario.topology.generations.is_empty() {
            self.lineage_looks();
        }
    }

    /// The arbiter may hear this message of a node: a membership of an outdated configuration is not
    /// listened to (safety 33).
    pub(crate) fn arbiter_may_hear(&mut self, node: NodeId, frame: &Frame) -> bool {
        if !self.is_outdated(node) {
            return true;
        }
        let message = Message::decode(frame).ok();
        !message.is_some_and(|message| {
            message.kind == MessageType::NodeList
                && message.options.list_type == Some(NodeListType::Membership)
        })
    }
}
