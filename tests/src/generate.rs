//! Scenarios by chance.

use protocol::ids::NodeId;
use protocol::rng::Rng;
use protocol::vote::{Algorithm, TieBreaker, WatchdogClass};

use crate::scenario::{ArbiterState, End, Fault, Process, Scenario, TimedFault, Topology};

/// The first fault comes no earlier: the cluster has formed by then, most of the time.
const FIRST_MS: u64 = 3000;
/// The last one begins no later.
const SPREAD_MS: u64 = 30_000;

impl Scenario {
    /// A scenario of 2 nodes.
    pub fn random(seed: u64) -> Self {
        Self::random_of(seed, 2..=2)
    }

    /// A scenario of so many nodes.
    pub fn random_of(seed: u64, nodes: std::ops::RangeInclusive<u32>) -> Self {
        let mut rng = Rng::new(seed);
        let count = nodes.start() + pick(&mut rng, nodes.end() - nodes.start() + 1);
        let topology = topology(&mut rng, count);
        let faults = 1 + if rng.below(8) == 0 { rng.below(20) } else { rng.below(6) };
        // Faults that have nothing to do with each other show less than those that meet.
        let burst = (rng.below(3) == 0).then(|| FIRST_MS + rng.below(SPREAD_MS));
        let mut dice = Dice { rng, topology, burst };
        let faults = (0..faults).map(|_| dice.timed()).collect();
        Self {
            name: String::new(),
            seed,
            topology: dice.topology,
            faults,
            expect: Vec::new(),
            until_ms: None,
        }
    }
}

fn pick(rng: &mut Rng, below: u32) -> u32 {
    u32::try_from(rng.below(u64::from(below))).unwrap_or(0)
}

fn topology(rng: &mut Rng, nodes: u32) -> Topology {
    let algorithm = match rng.below(4) {
        0 if nodes == 2 => Algorithm::TwoNodeLms,
        0 | 1 => Algorithm::Lms,
        _ => Algorithm::Ffsplit,
    };
    let tie_breaker = match rng.below(4) {
        0 | 1 => TieBreaker::Lowest,
        2 => TieBreaker::Highest,
        _ => TieBreaker::Node(NodeId(1 + pick(rng, nodes))),
    };
    let (watchdog, trust) = match rng.below(8) {
        0 => (WatchdogClass::C, false),
        1 | 2 => (WatchdogClass::A, false),
        _ => (WatchdogClass::C, true),
    };
    Topology {
        nodes,
        algorithm,
        tie_breaker,
        keep_active_partition: rng.below(2) == 0,
        watchdog,
        trust_process_watchdog: trust,
        prefer: (rng.below(3) > 0).then(|| 1 + pick(rng, nodes)),
        skew_percent: if rng.below(2) == 0 { 0 } else { 4 },
        ..Topology::default()
    }
}

struct Dice {
    rng: Rng,
    topology: Topology,
    /// Most faults begin about then.
    burst: Option<u64>,
}

impl Dice {
    fn timed(&mut self) -> TimedFault {
        let at_ms = match self.burst.filter(|_| self.rng.below(4) > 0) {
            Some(burst) => burst + self.rng.below(3000),
            None => FIRST_MS + self.rng.below(SPREAD_MS),
        };
        let fault = self.fault();
        TimedFault { at_ms, for_ms: self.length(), fault }
    }

    /// As often short as long: from milliseconds to half a minute.
    fn length(&mut self) -> u64 {
        match self.rng.below(5) {
            0 => 1 + self.rng.below(100),
            1 => 100 + self.rng.below(900),
            2 | 3 => 1000 + self.rng.below(6000),
            _ => 5000 + self.rng.below(20_000),
        }
    }

    fn node(&mut self) -> NodeId {
        NodeId(1 + pick(&mut self.rng, self.topology.nodes))
    }

    fn host(&mut self) -> End {
        End::Node(self.node())
    }

    fn end(&mut self) -> End {
        if self.rng.below(3) == 0 { End::Arbiter } else { self.host() }
    }

    fn pair(&mut self) -> (End, End) {
        let from = self.end();
        loop {
            let to = self.end();
            if to != from {
                return (from, to);
            }
        }
    }

    fn process(&mut self) -> Process {
        match self.rng.below(5) {
            0 | 1 => Process::Node(self.node()),
            2 | 3 => Process::Device(self.node()),
            _ => Process::Arbiter,
        }
    }

    fn fault(&mut self) -> Fault {
        match self.rng.below(32) {
            0..=9 => {
                let (from, to) = self.pair();
                Fault::Cut { from, to, one_way: self.rng.below(3) == 0 }
            }
            10 | 11 => {
                let (from, to) = self.pair();
                Fault::Loss { from, to, percent: 5 + pick(&mut self.rng, 90) }
            }
            12 | 13 => {
                let (from, to) = self.pair();
                Fault::Slow { from, to, ms: 1 << self.rng.below(12) }
            }
            14..=16 => Fault::PowerOff { host: self.end(), disk_lost: self.rng.below(12) == 0 },
            17..=20 => {
                let after_actions =
                    if self.rng.below(2) == 0 { 0 } else { pick(&mut self.rng, 40) };
                Fault::Kill { process: self.process(), after_actions }
            }
            21 => Fault::Leave { process: self.process() },
            22..=24 => Fault::Freeze { process: self.process() },
            25 => self.pause(),
            26 => {
                let becomes = ArbiterState::Lost;
                Fault::ArbiterState { becomes }
            }
            27 => Fault::ArbiterState { becomes: ArbiterState::Restored },
            28 => Fault::DiskFull { host: self.end() },
            29 => Fault::SlowDisk { host: self.end(), ms: 1 << self.rng.below(13) },
            30 => Fault::Stubborn { host: self.host() },
            _ => Fault::Crash { host: self.host() },
        }
    }

    /// A paused machine proves nothing by time, so there no time is to be trusted (F18).
    fn pause(&mut self) -> Fault {
        self.topology.trust_process_watchdog = false;
        self.topology.watchdog = WatchdogClass::C;
        Fault::Pause { host: self.host() }
    }
}
