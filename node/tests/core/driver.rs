//! Nodes on one clock, beats that take a millisecond, disks that answer at once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use node::core::{Action, Config, Event, Identity, Node, Stored};
use protocol::cluster::Beat;
use protocol::fence::Testimony;
use protocol::host::FromHost;
use protocol::ids::{ArbiterId, BootId, Epoch, GrantId, InstanceId, NodeId, ViewId};
use protocol::status::QuorumState;
use protocol::time::Time;
use protocol::times;
use protocol::vote::{Bound, WatchdogClass};

/// One node and what the world around it has seen.
pub(crate) struct Place {
    pub(crate) node: Node,
    boot: BootId,
    pub(crate) disk: Stored,
    pub(crate) host: Vec<FromHost>,
    /// Epoch of the service that runs here.
    pub(crate) running: Option<Epoch>,
    pub(crate) starts: u32,
    pub(crate) stops: u32,
    pub(crate) entitled: Time,
    pub(crate) disk_works: bool,
    pub(crate) exited: bool,
    /// What the gateway was asked for: when, and what.
    pub(crate) fences: Vec<(Time, BTreeSet<NodeId>, Epoch)>,
    /// What it said to gateways.
    pub(crate) testimonies: Vec<(Time, Testimony)>,
}

pub(crate) struct World {
    pub(crate) now: Time,
    pub(crate) places: BTreeMap<u32, Place>,
    pub(crate) cut: BTreeSet<(u32, u32)>,
    wire: Vec<(Time, u32, Beat)>,
    polls: u64,
    lives: u64,
    base: Config,
    /// The nodes have a gateway to ask.
    gateway: bool,
}

pub(crate) fn config(nodes: u32) -> Config {
    let votes: BTreeMap<NodeId, u32> = (1..=nodes).map(|n| (NodeId(n), 1)).collect();
    Config {
        node: NodeId(0),
        device_votes: 1,
        quorum: u32::midpoint(nodes + 1, 2),
        votes,
        device_timeout: times::DEVICE_TIMEOUT,
        wait_for_all: false,
        auto_tie_breaker: None,
        two_node: false,
        digest: 1,
        bound: Bound { class: WatchdogClass::C, bound_ms: 5300 },
        trust_virtual_watchdog: false,
        trust_process_watchdog: true,
        service: Some(("shop".to_owned(), Some(NodeId(2)))),
    }
}

impl World {
    pub(crate) fn new(base: Config) -> Self {
        Self::with_gateway(base, false)
    }

    pub(crate) fn with_gateway(base: Config, gateway: bool) -> Self {
        let mut world = Self {
            gateway,
            now: Time::from_millis(10_000),
            places: BTreeMap::new(),
            cut: BTreeSet::new(),
            wire: Vec::new(),
            polls: 0,
            lives: 0,
            base,
        };
        let nodes: Vec<u32> = world.base.votes.keys().map(|n| n.0).collect();
        for node in nodes {
            world.boot(node, Stored::default());
        }
        world
    }

    /// All nodes in one view, and the service where it prefers to be.
    pub(crate) fn settled(nodes: u32) -> Self {
        let mut world = Self::new(config(nodes));
        world.run(3000);
        for place in world.places.values() {
            assert_eq!(place.node.members().len(), nodes as usize);
        }
        world
    }

    pub(crate) fn boot(&mut self, id: u32, disk: Stored) {
        self.lives += 1;
        let mut config = self.base.clone();
        config.node = NodeId(id);
        let identity = Identity {
            instance: InstanceId(self.lives),
            boot: BootId(u128::from(self.lives)),
            seed: self.lives,
        };
        let node = Node::new(self.now, config, identity, disk.clone());
        let place = Place {
            node,
            boot: identity.boot,
            disk,
            host: Vec::new(),
            running: None,
            starts: 0,
            stops: 0,
            entitled: Time::ZERO,
            disk_works: true,
            exited: false,
            fences: Vec::new(),
            testimonies: Vec::new(),
        };
        self.places.insert(id, place);
        self.tell(id, Event::KeeperReady { running: false });
        self.tell(id, Event::DeviceUp);
        self.tell(id, Event::Gateway { configured: self.gateway });
    }

    /// The boot of a node's machine.
    pub(crate) fn boot_of(&self, id: u32) -> BootId {
        self.places[&id].boot
    }

    pub(crate) fn kill(&mut self, id: u32) -> Stored {
        self.places.remove(&id).unwrap().disk
    }

    pub(crate) fn split(&mut self, a: &[u32], b: &[u32]) {
        for (a, b) in a.iter().flat_map(|a| b.iter().map(move |b| (*a, *b))) {
            self.cut.insert((a, b));
            self.cut.insert((b, a));
        }
    }

    pub(crate) fn node(&self, id: u32) -> &Node {
        &self.places[&id].node
    }

    pub(crate) fn state(&self, id: u32) -> QuorumState {
        self.node(id).state(self.now)
    }

    pub(crate) fn tell(&mut self, id: u32, event: Event) {
        let Some(place) = self.places.get_mut(&id) else { return };
        let idle = place.node.clone().next_action().is_none();
        place.node.handle(self.now, event);
        // Whatever kills the daemon in between, the keeper hears before anybody else that the node
        // is entitled for less long.
        let mut copy = place.node.clone();
        let entitled = place.entitled;
        let shorter = |action| matches!(action, Action::Entitle { until, .. } if until < entitled);
        let first = std::iter::from_fn(|| copy.next_action()).position(shorter);
        assert!(!idle || first.is_none_or(|index| index == 0), "{id} tells its keeper late");
        while let Some(action) = self.places.get_mut(&id).and_then(|p| p.node.next_action()) {
            self.act(id, action);
        }
    }

    fn act(&mut self, id: u32, action: Action) {
        let now = self.now;
        let place = self.places.get_mut(&id).unwrap();
        match action {
            Action::Beat { to, beat } => {
                if !self.cut.contains(&(id, to.0)) {
                    let beat = Beat::decode(&beat.encode().unwrap()).unwrap();
                    self.wire.push((now + Duration::from_millis(1), to.0, beat));
                }
            }
            Action::Persist { number, state } => {
                if place.disk_works {
                    place.disk = state;
                    self.tell(id, Event::Persisted(number));
                } else {
                    self.tell(id, Event::PersistFailed(number));
                }
            }
            Action::Host(said) => place.host.push(said),
            Action::Entitle { until, .. } => place.entitled = until,
            Action::StartService { serial, epoch, .. } => {
                place.running = Some(epoch);
                place.starts += 1;
                self.tell(id, Event::Started { serial });
            }
            Action::StopService => {
                place.running = None;
                place.stops += 1;
                self.tell(id, Event::Stopped);
            }
            Action::Fence { targets, epoch } => place.fences.push((now, targets, epoch)),
            Action::Testify(testimony) => place.testimonies.push((now, *testimony)),
            Action::Exit => place.exited = true,
            Action::Decided(_) => {}
        }
    }

    pub(crate) fn run(&mut self, ms: u64) {
        let end = self.now + Duration::from_millis(ms);
        for _ in 0..1_000_000 {
            let wire = self.wire.iter().map(|(at, _, _)| *at);
            let nodes = self.places.values().filter_map(|place| place.node.deadline());
            let Some(next) = wire.chain(nodes).min().filter(|at| *at <= end) else { break };
            self.now = self.now.max(next);
            if let Some(index) = self.wire.iter().position(|(at, _, _)| *at <= self.now) {
                let (_, to, beat) = self.wire.remove(index);
                self.tell(to, Event::Heard(Box::new(beat)));
            }
            let due: Vec<u32> = self
                .places
                .iter()
                .filter(|(_, place)| place.node.deadline().is_some_and(|at| at <= self.now))
                .map(|(id, _)| *id)
                .collect();
            for id in due {
                self.tell(id, Event::Timeout);
            }
            self.check();
        }
        self.now = end;
        self.check();
    }

    /// Runs until something is true; the time it took.
    pub(crate) fn until(&mut self, limit_ms: u64, done: impl Fn(&Self) -> bool) -> Duration {
        let start = self.now;
        for _ in 0..limit_ms {
            if done(self) {
                return self.now.since(start);
            }
            self.run(1);
        }
        panic!("not within {limit_ms} ms");
    }

    /// Rule S1, as a sentence.
    fn check(&mut self) {
        for (id, place) in &self.places {
            if place.node.state(self.now) != QuorumState::Quorate {
                continue;
            }
            let members = place.node.members();
            for (other, elsewhere) in &self.places {
                let outside = !members.contains(&NodeId(*other));
                let counts = elsewhere.node.state(self.now) != QuorumState::Inquorate;
                assert!(!(outside && counts), "{id} is quorate without {other}, which counts too");
            }
        }
    }

    /// The device votes on a node, in its present view or an older one.
    pub(crate) fn cast(&mut self, id: u32, view: ViewId, ms: u64, epoch: u64) {
        self.polls += 1;
        let grant = GrantId { arbiter: ArbiterId(1), boot: 1, epoch: Epoch(epoch) };
        let cast = Some((self.now + Duration::from_millis(ms), grant));
        self.tell(id, Event::Poll { id: self.polls, view, cast });
    }

    /// The device votes in whatever view the node is in, with an epoch above the view's.
    pub(crate) fn keep_voting(&mut self, id: u32, ms: u64) {
        for _ in 0..ms / 100 {
            let (view, epoch) = (self.view(id), self.node(id).view_epoch().0);
            self.cast(id, view, 10_000, epoch + 1);
            self.run(100);
        }
    }

    pub(crate) fn take_back(&mut self, id: u32) {
        self.polls += 1;
        self.tell(id, Event::Poll { id: self.polls, view: ViewId::default(), cast: None });
    }

    pub(crate) fn view(&self, id: u32) -> ViewId {
        self.node(id).view().unwrap()
    }

    pub(crate) fn polled(&self, id: u32) -> Option<bool> {
        self.places[&id].host.iter().rev().find_map(|said| {
            if let FromHost::Polled { applied, .. } = said { Some(*applied) } else { None }
        })
    }
}
