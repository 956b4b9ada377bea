//! The node's machine, fed by peers, a device, a disk and a clock that do what they like.

use std::collections::BTreeMap;
use std::time::Duration;

use node::core::{Action, Config, Event, Identity, Node, Stored};
use protocol::cluster::{Accepted, Answer, Beat, Installed, KnownOff, OffBy, Placement, Proposal};
use protocol::fence::{Challenge, How, Nonce, Outcome, Proof};
use protocol::ids::{BootId, Epoch, InstanceId, NodeId};
use protocol::status::QuorumState;
use protocol::time::Time;
use protocol::times;
use protocol::vote::{Bound, WatchdogClass};

use crate::tape::Tape;
use crate::words;

/// More than any one event can lead to.
const DUTIES_MAX: usize = 256;
/// The configured nodes; the first is the one that is tested.
const NODES: u32 = 3;

/// Nothing that peers, a device, the disk and the clock do makes the node panic, spin, send a beat
/// that nobody takes, store less than it had, or start the service when it is not quorate. Tape:
/// who starts, then one thing after the other.
pub fn node(data: &[u8]) {
    let mut tape = Tape::new(data);
    let mut world = World::new(&mut tape);
    while !tape.is_empty() && !world.over {
        world.step(&mut tape);
        world.node.status(world.now, "c");
    }
}

struct World {
    node: Node,
    now: Time,
    /// The last beat to each peer, which it can answer.
    said: BTreeMap<NodeId, Beat>,
    seqs: BTreeMap<NodeId, u64>,
    writes: Vec<(u64, Stored)>,
    stored: Stored,
    serial: u64,
    leaving: bool,
    over: bool,
}

impl World {
    fn new(tape: &mut Tape<'_>) -> Self {
        let count = 2 + u32::from(tape.byte()) % (NODES - 1);
        let votes = (1..=count).map(|node| (NodeId(node), 1)).collect();
        let device_votes = u32::from(tape.byte() < 192);
        let config = Config {
            node: NodeId(1),
            votes,
            device_votes,
            quorum: (count + device_votes) / 2 + 1,
            device_timeout: times::DEVICE_TIMEOUT,
            wait_for_all: tape.byte() >= 192,
            auto_tie_breaker: tape.maybe(|tape| NodeId(1 + u32::from(tape.byte() % 3))),
            two_node: tape.byte() >= 224,
            digest: 1,
            bound: Bound { class: WatchdogClass::A, bound_ms: 5300 },
            trust_virtual_watchdog: false,
            trust_process_watchdog: tape.flag(),
            service: (tape.byte() < 224).then(|| ("shop".to_owned(), Some(NodeId(1)))),
        };
        let stored = Stored {
            epoch: words::epoch(tape),
            forgotten: tape.flag(),
            ring_seq: tape.number(),
            placement: tape.maybe(placement),
            bounds: BTreeMap::new(),
        };
        let identity = Identity { instance: InstanceId(1), boot: BootId(1), seed: 1 };
        let now = Time::from_millis(10_000);
        let mut world = Self {
            node: Node::new(now, config, identity, stored.clone()),
            now,
            said: BTreeMap::new(),
            seqs: BTreeMap::new(),
            writes: Vec::new(),
            stored,
            serial: 0,
            leaving: false,
            over: false,
        };
        world.tell(Event::KeeperReady { running: tape.flag() });
        world
    }

    fn step(&mut self, tape: &mut Tape<'_>) {
        match tape.below(18) {
            0..=5 => self.hear(tape),
            6 => self.poll(tape),
            7 => self.tell(if tape.flag() { Event::DeviceUp } else { Event::DeviceDown }),
            8 | 9 => self.answer_disk(tape),
            10 => self.keeper(tape),
            11 => self.tell(Event::ArbiterEpoch(words::epoch(tape))),
            12 if tape.byte() == 255 => {
                self.leaving = true;
                self.tell(Event::Leave);
            }
            16 | 17 => self.gateway(tape),
            12..=14 => self.pass(10 * (1 + u64::from(tape.byte()))),
            _ => self.pass(u64::from(tape.number32())),
        }
    }

    /// A beat of a peer: one that goes along with what it was told, or one that says anything.
    fn hear(&mut self, tape: &mut Tape<'_>) {
        let from = NodeId(2 + u32::from(tape.byte()) % NODES);
        let seq = self.seqs.entry(from).or_default();
        *seq += 1;
        let seq = *seq;
        let said = self.said.get(&from);
        let agrees = tape.byte() < 192;
        let mut beat = any_beat(tape, from);
        if agrees {
            beat.seq = seq;
            beat.config_digest = 1;
            beat.contacts = vec![NodeId(1), NodeId(2), NodeId(3)];
            beat.leaving = false;
            if let Some(said) = said {
                beat.answers = Some(Answer { instance: said.instance, seq: said.seq });
                beat.accepted = said.proposal.as_ref().map(|proposal| Accepted { id: proposal.id });
                beat.view = said.view.clone().or(beat.view);
                beat.placement = said.placing.or(said.placement);
            }
        }
        self.tell(Event::Heard(Box::new(beat)));
    }

    /// A fencing gateway says anything.
    fn gateway(&mut self, tape: &mut Tape<'_>) {
        let node = NodeId(1 + u32::from(tape.byte() % 4));
        let boot = BootId(u128::from(tape.byte() % 4));
        let proof = Proof { node, boot, how: How::ReadOff, sent_ms: u64::from(tape.number32()) };
        let no = |tape: &mut Tape<'_>| {
            let why = "no".to_owned();
            if tape.flag() { Outcome::Failed { why } } else { Outcome::Refused { why } }
        };
        self.tell(match tape.below(6) {
            0 => Event::Gateway { configured: tape.byte() < 224 },
            1 => Event::FenceProof { proof },
            2 => Event::FenceProgress { node: Some(node), text: "cutting".to_owned() },
            3 => Event::FenceEnded { result: Ok([(node, no(tape))].into()) },
            4 => Event::Challenged(challenge(tape)),
            _ => Event::FenceEnded { result: Err("no answer".to_owned()) },
        });
    }

    fn poll(&mut self, tape: &mut Tape<'_>) {
        let view = if tape.byte() < 224 { self.node.view() } else { None };
        let view = view.unwrap_or_else(|| words::view_id(tape));
        let cast = tape.maybe(|tape| {
            let until = self.now + Duration::from_millis(100 * u64::from(tape.byte()));
            (until, words::grant_id(tape))
        });
        self.tell(Event::Poll { id: tape.number(), view, cast });
    }

    fn answer_disk(&mut self, tape: &mut Tape<'_>) {
        if self.writes.is_empty() {
            self.tell(Event::Persisted(tape.number().wrapping_add(1 << 32)));
            return;
        }
        let (number, state) = self.writes.remove(0);
        if tape.byte() < 224 {
            let before = &self.stored;
            assert!(before.epoch <= state.epoch, "{before:?} became {state:?}");
            assert!(before.ring_seq <= state.ring_seq, "{before:?} became {state:?}");
            self.stored = state;
            self.tell(Event::Persisted(number));
        } else {
            self.tell(Event::PersistFailed(number));
        }
    }

    fn keeper(&mut self, tape: &mut Tape<'_>) {
        let serial = if tape.byte() < 224 { self.serial } else { tape.number() };
        self.tell(match tape.below(4) {
            0 => Event::Started { serial },
            1 => Event::Exited { serial },
            2 => Event::Stopped,
            _ => Event::KeeperReady { running: tape.flag() },
        });
    }

    fn pass(&mut self, ms: u64) {
        let end = self.now + Duration::from_millis(ms);
        for _ in 0..64 {
            let Some(at) = self.node.deadline().filter(|at| *at <= end) else { break };
            self.now = self.now.max(at);
            self.tell(Event::Timeout);
        }
        self.now = end;
        self.tell(Event::Timeout);
    }

    fn tell(&mut self, event: Event) {
        self.node.handle(self.now, event);
        for count in 0.. {
            let Some(action) = self.node.next_action() else { break };
            assert!(count < DUTIES_MAX, "one event has led to {count} duties");
            self.perform(action);
        }
        let next = self.node.deadline();
        assert!(self.over || next.is_none_or(|at| at > self.now), "it would spin at {}", self.now);
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Beat { to, beat } => {
                assert_ne!(to, NodeId(1), "a beat to itself");
                let bytes = beat.encode().unwrap_or_else(|error| panic!("{error}: {beat:?}"));
                assert_eq!(Beat::decode(&bytes).as_ref(), Ok(&*beat), "a beat that nobody takes");
                self.said.insert(to, *beat);
            }
            Action::Persist { number, state } => self.writes.push((number, state)),
            Action::StartService { serial, until, .. } => {
                assert_eq!(self.node.state(self.now), QuorumState::Quorate, "a start without");
                assert!(until > self.now, "a start that is too late");
                self.serial = serial;
            }
            Action::Decided(text) => {
                assert!(!text.is_empty() && text.lines().count() == 1, "{text:?}");
            }
            Action::Exit => {
                assert!(self.leaving, "a peer has ended the node");
                self.over = true;
            }
            Action::Fence { targets, .. } => {
                assert!(!targets.is_empty() && !targets.contains(&NodeId(1)), "{targets:?}");
            }
            Action::Testify(said) => {
                let whole = said.quorate && self.node.state(self.now) == QuorumState::Quorate;
                assert!(whole || said.targets.is_empty(), "it condemns without quorum");
                let known = |node: &NodeId| (1..=NODES).contains(&node.0);
                let apart = |node: &NodeId| known(node) && !said.members.contains(node);
                assert!(said.targets.keys().all(apart), "{said:?}");
            }
            Action::Host(_) | Action::Entitle { .. } | Action::StopService => {}
        }
    }
}

fn any_beat(tape: &mut Tape<'_>, from: NodeId) -> Beat {
    let members = |tape: &mut Tape<'_>| words::node_set(tape).into_iter().take(16).collect();
    let rare = tape.byte();
    Beat {
        from,
        instance: InstanceId(u64::from(from.0) << 8 | u64::from(tape.byte() / 192)),
        boot: BootId(u128::from(from.0)),
        config_digest: u64::from(tape.byte()),
        seq: tape.number(),
        answers: tape.maybe(|tape| Answer { instance: InstanceId(1), seq: tape.number() }),
        contacts: members(tape),
        highest_epoch: words::epoch(tape),
        ring_seq: tape.number(),
        view: tape.maybe(|tape| Installed {
            id: words::view_id(tape),
            epoch: words::epoch(tape),
            members: members(tape),
            vote_free: tape.flag(),
        }),
        proposal: tape.maybe(|tape| Proposal { id: words::view_id(tape), members: members(tape) }),
        accepted: tape.maybe(|tape| Accepted { id: words::view_id(tape) }),
        bound: words::bound(tape),
        placement: tape.maybe(placement),
        placing: tape.maybe(placement),
        running: tape.flag(),
        leaving: tape.byte() >= 192,
        off: if rare < 224 { Vec::new() } else { vec![known_off(tape)] },
        challenge: (rare >= 192).then(|| challenge(tape)),
    }
}

fn challenge(tape: &mut Tape<'_>) -> Challenge {
    let nonce = Nonce(u128::from(tape.byte() % 4));
    let targets = (0..tape.below(3)).map(|_| NodeId(1 + u32::from(tape.byte() % 4))).collect();
    Challenge { nonce, targets }
}

fn known_off(tape: &mut Tape<'_>) -> KnownOff {
    KnownOff {
        node: NodeId(1 + u32::from(tape.byte() % 4)),
        boot: BootId(u128::from(tape.byte() % 4)),
        by: OffBy::Power,
        sent_ms: tape.number32(),
        epoch: words::epoch(tape),
    }
}

fn placement(tape: &mut Tape<'_>) -> Placement {
    Placement {
        epoch: Epoch(tape.number()),
        serial: tape.number32(),
        node: NodeId(u32::from(tape.byte() % 4)),
    }
}
