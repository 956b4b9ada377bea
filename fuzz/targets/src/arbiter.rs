//! The arbiter's machine, fed by clients, a disk and a clock that do what they like.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use protocol::fence::{Answer, Ask, Call, FRAME_ANSWER, FRAME_CALL, IntentId, Refusal, Verdict};
use protocol::ids::{ArbiterId, BootId, ClusterName, Epoch, GrantId, NodeId, RingId, ViewId};
use protocol::qnet::{
    Deframer, Grant, Hello, HostKind, Message, MessageType, NodeInfo, NodeListType, Options,
    Renewal, TlsSupport, ViewNote,
};
use protocol::time::Time;
use protocol::vote::TieBreaker;
use qnetd::core::{
    Action, Arbiter, ClientId, ClusterSettings, Event, FencingRecord, GrantRecord, Memory, Peer,
    Settings, Token, VoteHold,
};

use crate::tape::Tape;
use crate::words;

/// More than any one event can lead to: a few duties for each client and cluster there may be.
const DUTIES_MAX: usize = 4096;
/// Clients with a name of their own on the tape; each comes again under new connection ids.
const SEATS: usize = 6;

/// Nothing that clients, the disk and the clock do makes the arbiter panic, spin, say what cannot
/// be read, go back with an epoch, give a lease while a silent node holds one of another view,
/// answer a call of somebody who is no gateway, or take a node for off of which no gateway has said
/// so. Tape: settings, memory, then one thing after the other.
pub fn arbiter(data: &[u8]) {
    let mut tape = Tape::new(data);
    let settings = settings(&mut tape);
    let memory = memory(&mut tape);
    let mut world = World::new(settings, memory);
    while !tape.is_empty() {
        world.step(&mut tape);
        world.check();
    }
    world.restart();
}

fn settings(tape: &mut Tape<'_>) -> Settings {
    let mut settings = Settings {
        tls: tape.pick(&[TlsSupport::Required, TlsSupport::Supported, TlsSupport::Unsupported]),
        client_cert_required: tape.byte() < 192,
        vote_hold: tape.pick(&[VoteHold::SingleFault, VoteHold::DoubleFault, VoteHold::Off]),
        keep_active_partition: tape.flag(),
        dpd_enabled: tape.byte() < 192,
        ..Settings::default()
    };
    if tape.byte() >= 224 {
        settings.max_clients = tape.below(8);
        settings.dpd_percent = tape.number32();
        settings.heartbeat_min_ms = tape.number32();
        settings.heartbeat_max_ms = tape.number32();
    }
    if tape.byte() >= 192 {
        let said = ClusterSettings {
            vote_hold: tape.maybe(|tape| tape.pick(&VoteHold::NAMES).1),
            device_timeout_ms: tape.maybe(words::heartbeat),
            sync_timeout_ms: tape.maybe(words::heartbeat),
            lms_without_wait_for_all: tape.flag(),
        };
        settings.clusters.insert(words::CLUSTERS[0].into(), said);
    }
    settings
}

/// What a state directory holds; everything in it has passed a checksum, but may be of any age.
fn memory(tape: &mut Tape<'_>) -> Memory {
    let mut memory = Memory {
        arbiter: ArbiterId(7),
        boot: 1 + tape.number32() % 1000,
        host_boot: BootId(1 + u128::from(tape.byte())),
        clock_s: 0,
        grants: Vec::new(),
        fencing: Vec::new(),
    };
    for _ in 0..tape.byte() / 64 {
        memory.grants.push(GrantRecord {
            cluster: words::cluster(tape),
            grant: words::grant_id(tape),
            view: words::view_id(tape),
            nodes: words::node_set(tape),
            lease_ms: tape.number32(),
            bound_ms: tape.maybe(Tape::number),
            host_boot: BootId(1 + u128::from(tape.byte())),
        });
    }
    memory
}

/// What one name on the tape stands for at the moment.
#[derive(Clone, Debug, Default)]
struct Seat {
    client: Option<ClientId>,
    cluster: ClusterNumber,
    node: u32,
    echo: u32,
    view: ViewId,
    grant: Option<Grant>,
    /// The last vote info, to be confirmed.
    info: Option<u32>,
}

type ClusterNumber = usize;

/// A lease that a silent client may still count: until then by its own clock, which started no
/// later than the arbiter heard it.
#[derive(Clone, Debug)]
struct Lease {
    cluster: ClusterName,
    node: NodeId,
    grant: GrantId,
    until: Time,
}

/// A record that is being written.
enum Stored {
    Grant(GrantRecord),
    Fencing(FencingRecord),
}

struct World {
    arbiter: Arbiter,
    settings: Settings,
    memory: Memory,
    now: Time,
    seats: Vec<Seat>,
    next_client: u64,
    open: BTreeSet<ClientId>,
    /// When each echo of an open connection was heard.
    heard: BTreeMap<(ClientId, u32), Time>,
    leases: Vec<Lease>,
    /// What was said to be stored, in order; and what waits for the disk.
    journal: Vec<GrantRecord>,
    records: BTreeMap<GrantId, GrantRecord>,
    writes: Vec<(Token, Stored)>,
    fencing: BTreeMap<ClusterName, FencingRecord>,
    /// Whose certificate is a gateway's, and of which cluster.
    gateways: BTreeMap<ClientId, ClusterName>,
    /// The intent that the arbiter has named last.
    intent: IntentId,
    /// Of whom a gateway has ever said that they are off.
    said_off: BTreeSet<(ClusterName, NodeId)>,
    epochs: BTreeMap<ClusterName, Epoch>,
}

impl World {
    fn new(settings: Settings, memory: Memory) -> Self {
        let now = Time::from_millis(1000);
        Self {
            arbiter: Arbiter::new(now, settings.clone(), memory.clone()),
            journal: memory.grants.clone(),
            settings,
            memory,
            now,
            seats: vec![Seat::default(); SEATS],
            next_client: 0,
            open: BTreeSet::new(),
            heard: BTreeMap::new(),
            leases: Vec::new(),
            records: BTreeMap::new(),
            writes: Vec::new(),
            fencing: BTreeMap::new(),
            gateways: BTreeMap::new(),
            intent: IntentId::default(),
            said_off: BTreeSet::new(),
            epochs: BTreeMap::new(),
        }
    }

    fn step(&mut self, tape: &mut Tape<'_>) {
        let at = tape.below(SEATS);
        match tape.byte() {
            240..=244 => self.join_gateway(at, tape),
            245.. => self.call(at, tape),
            choice => self.step_of(usize::from(choice) % 20, at, tape),
        }
    }

    fn step_of(&mut self, choice: usize, at: usize, tape: &mut Tape<'_>) {
        match choice {
            0 => self.connect(at),
            1 | 2 => self.join(at, tape),
            3..=5 => self.report(at, tape),
            6 => self.list_quorum(at, tape),
            7 | 8 => self.renew(at, tape),
            9 => self.confirm(at),
            10..=12 => self.say_anything(at, tape),
            13 => self.secure(at, tape),
            14 => self.close(at, tape),
            15 | 16 => self.answer_disk(tape),
            17 => self.too_long(at),
            18 => self.pass(250 * (1 + u64::from(tape.byte()))),
            _ => self.pass(u64::from(tape.number32())),
        }
    }

    fn connect(&mut self, at: usize) {
        self.next_client += 1;
        let client = ClientId(self.next_client);
        self.open.insert(client);
        let seat = &mut self.seats[at];
        (seat.client, seat.echo) = (Some(client), 0);
        self.tell(Event::Connected { client, address: format!("10.0.0.{at}:1") });
    }

    /// From the connection to the configuration list, as a peer that knows the protocol.
    fn join(&mut self, at: usize, tape: &mut Tape<'_>) {
        self.connect(at);
        let cluster = usize::from(tape.byte() >= 224);
        let node = tape.number32();
        let own = tape.byte() < 160;
        (self.seats[at].cluster, self.seats[at].node) = (cluster, node);
        let name = ClusterName::from(words::CLUSTERS[cluster]);
        let mut message = Message::new(MessageType::Preinit, Some(1));
        message.options.cluster_name = Some(name.clone());
        self.say(at, &message);
        if self.settings.tls != TlsSupport::Unsupported {
            self.say(at, &Message::new(MessageType::StartTls, Some(2)));
            self.secured(at, Some(Peer { cluster: name, node: None, gateway: false }));
        }
        let options = Options {
            seq: Some(3),
            supported_messages: Some(vec![0]),
            supported_options: Some(vec![0]),
            node_id: Some(node),
            algorithm: Some(u16::from(tape.byte() / 64)),
            heartbeat_ms: Some(8000),
            tie_breaker: Some(TieBreaker::Lowest),
            ring: Some(self.seats[at].view.ring),
            hello: own.then(|| hello(node, tape)),
            ..Options::default()
        };
        self.say(at, &Message { kind: MessageType::Init, options });
        let mut message = Message::new(MessageType::NodeList, Some(4));
        message.options.list_type = Some(NodeListType::InitialConfig);
        message.options.nodes = infos(&[1, 2, 3, 4][..=tape.below(4)]);
        self.say(at, &message);
    }

    /// From the connection to where a gateway may call.
    fn join_gateway(&mut self, at: usize, tape: &mut Tape<'_>) {
        self.connect(at);
        let cluster = usize::from(tape.byte() >= 224);
        (self.seats[at].cluster, self.seats[at].node) = (cluster, 0);
        let cluster = ClusterName::from(words::CLUSTERS[cluster]);
        let mut message = Message::new(MessageType::Preinit, Some(1));
        message.options.cluster_name = Some(cluster.clone());
        self.say(at, &message);
        self.say(at, &Message::new(MessageType::StartTls, Some(2)));
        self.secured(at, Some(Peer { cluster, node: None, gateway: true }));
    }

    /// Whoever calls, gateway or not: that is no word of a node, and gives up nothing.
    fn call(&mut self, at: usize, tape: &mut Tape<'_>) {
        let Some(client) = self.seats[at].client else { return };
        let frame = words::call(tape, self.intent);
        self.tell(Event::Received { client, frame });
    }

    /// A membership list of the first nodes, or of a few chosen ones.
    fn report(&mut self, at: usize, tape: &mut Tape<'_>) {
        let mask = tape.byte();
        let members: Vec<u32> = (1..=8).filter(|node| mask >> (node - 1) & 1 == 1).collect();
        let former = members.first().copied().unwrap_or(self.seats[at].node);
        let seq = tape.byte();
        let ring = RingId::new(former, u64::from(seq));
        self.seats[at].view = ViewId { ring, nonce: ring.seq };
        let mut message = Message::new(MessageType::NodeList, Some(5 + u32::from(seq)));
        message.options.list_type = Some(NodeListType::Membership);
        message.options.ring = Some(ring);
        message.options.nodes = infos(&members);
        message.options.heuristics = tape.maybe(words::heuristics);
        let epoch = Epoch(u64::from(tape.byte()));
        message.options.view_note = Some(ViewNote { nonce: ring.seq, epoch, highest_epoch: epoch });
        self.say(at, &message);
    }

    fn list_quorum(&mut self, at: usize, tape: &mut Tape<'_>) {
        let mut message = Message::new(MessageType::NodeList, Some(tape.number32()));
        message.options.list_type = Some(NodeListType::Quorum);
        message.options.quorate = Some(tape.flag());
        message.options.nodes = words::nodes(tape);
        self.say(at, &message);
    }

    fn renew(&mut self, at: usize, tape: &mut Tape<'_>) {
        let seat = &mut self.seats[at];
        seat.echo = seat.echo.wrapping_add(1);
        let (grant, view) = match seat.grant {
            Some(grant) if tape.byte() < 224 => (grant.id, grant.view),
            Some(_) | None => (GrantId::default(), seat.view),
        };
        let mut message = Message::new(MessageType::EchoRequest, Some(seat.echo));
        let highest_epoch = Epoch(u64::from(tape.byte()));
        message.options.renewal = Some(Renewal { grant, view, highest_epoch });
        self.say(at, &message);
    }

    fn confirm(&mut self, at: usize) {
        if let Some(seq) = self.seats[at].info.take() {
            self.say(at, &Message::new(MessageType::VoteInfoReply, Some(seq)));
        }
    }

    fn say_anything(&mut self, at: usize, tape: &mut Tape<'_>) {
        let Some(client) = self.seats[at].client else { return };
        let frame = words::frame(tape);
        self.noise(at);
        self.tell(Event::Received { client, frame });
    }

    fn secure(&mut self, at: usize, tape: &mut Tape<'_>) {
        let identity = tape.maybe(|tape| Peer {
            cluster: words::cluster(tape),
            node: tape.maybe(|tape| NodeId(tape.number32())),
            gateway: tape.flag(),
        });
        self.secured(at, identity);
    }

    fn secured(&mut self, at: usize, identity: Option<Peer>) {
        let Some(client) = self.seats[at].client else { return };
        self.noise(at);
        if let Some(peer) = identity.as_ref().filter(|peer| peer.gateway) {
            self.gateways.insert(client, peer.cluster.clone());
        }
        self.tell(Event::Secured { client, identity });
    }

    fn close(&mut self, at: usize, tape: &mut Tape<'_>) {
        let Some(client) = self.seats[at].client.take() else { return };
        self.open.remove(&client);
        if tape.flag() {
            self.arbiter.cut(self.now, client);
            self.perform();
        } else {
            self.tell(Event::Closed { client });
        }
    }

    fn answer_disk(&mut self, tape: &mut Tape<'_>) {
        let choice = tape.byte();
        if choice >= 250 || self.writes.is_empty() {
            // A token that nobody waits for.
            let token = Token(tape.number());
            if !self.writes.iter().any(|(waiting, _)| *waiting == token) {
                self.tell(Event::Persisted(token));
            }
            return;
        }
        let (token, record) = self.writes.remove(0);
        if choice < 200 {
            match record {
                Stored::Grant(record) => {
                    self.records.insert(record.grant, record.clone());
                    self.journal.push(record);
                }
                Stored::Fencing(record) => {
                    // Nothing on a node that is off counts anything (S2).
                    self.leases.retain(|lease| {
                        lease.cluster != record.cluster
                            || record.off.iter().all(|off| off.node != lease.node)
                    });
                    self.fencing.insert(record.cluster.clone(), record);
                }
            }
            self.tell(Event::Persisted(token));
        } else {
            self.tell(Event::PersistFailed(token));
        }
    }

    fn too_long(&mut self, at: usize) {
        let Some(client) = self.seats[at].client else { return };
        self.noise(at);
        self.tell(Event::TooLong { client });
    }

    /// Time goes by, with every timeout on the way.
    fn pass(&mut self, ms: u64) {
        let end = self.now + Duration::from_millis(ms);
        for _ in 0..64 {
            let Some(at) = self.arbiter.deadline().filter(|at| *at <= end) else { break };
            self.now = self.now.max(at);
            self.tell(Event::Timeout);
            let next = self.arbiter.deadline();
            assert!(next.is_none_or(|next| next > self.now), "it would spin at {}", self.now);
        }
        self.now = end;
    }

    fn say(&mut self, at: usize, message: &Message) {
        let Some(client) = self.seats[at].client else { return };
        if let (MessageType::EchoRequest, Some(seq)) = (message.kind, message.options.seq) {
            self.heard.insert((client, seq), self.now);
            // An echo proves that it lives, and neither confirms nor gives up anything.
        } else {
            self.noise(at);
        }
        self.tell(Event::Received { client, frame: words::written(message) });
    }

    /// A client, or somebody in its place, has said what may have given its lease up.
    fn noise(&mut self, at: usize) {
        let seat = &self.seats[at];
        let cluster = ClusterName::from(words::CLUSTERS[seat.cluster]);
        let node = NodeId(seat.node);
        self.leases.retain(|lease| (&lease.cluster, lease.node) != (&cluster, node));
    }

    fn tell(&mut self, event: Event) {
        if let Event::Received { client, frame } = &event
            && let (FRAME_CALL, Some(cluster)) = (frame.kind, self.gateways.get(client))
            && let Ok(Call { ask: Ask::Off { proof, .. }, .. }) = Call::decode(&frame.body)
        {
            self.said_off.insert((cluster.clone(), proof.node));
        }
        self.arbiter.handle(self.now, event);
        self.perform();
    }

    fn perform(&mut self) {
        // Who was closed in this step may still be answered: the daemon drops that.
        let mut closed = BTreeSet::new();
        for count in 0.. {
            let Some(action) = self.arbiter.next_action() else { return };
            assert!(count < DUTIES_MAX, "one event has led to {count} duties");
            match action {
                Action::Send { client, .. } if closed.contains(&client) => {}
                Action::Send { client, bytes } => self.sent(client, &bytes),
                Action::StartTls { client } => {
                    assert!(self.open.contains(&client), "TLS with nobody");
                }
                Action::Close { client, .. } => {
                    assert!(self.open.remove(&client), "closed twice");
                    closed.insert(client);
                    for seat in self.seats.iter_mut().filter(|seat| seat.client == Some(client)) {
                        seat.client = None;
                    }
                }
                Action::Persist { token, record } => {
                    self.writes.push((token, Stored::Grant(record)));
                }
                Action::PersistFencing { token, record } => {
                    for off in &record.off {
                        let is_said = self.said_off.contains(&(record.cluster.clone(), off.node));
                        assert!(is_said, "no gateway has said that of {off:?}");
                    }
                    self.writes.push((token, Stored::Fencing(record)));
                }
                Action::Decided { text, .. } => {
                    assert!(!text.is_empty() && text.lines().count() == 1, "{text:?}");
                }
            }
        }
    }

    fn sent(&mut self, client: ClientId, bytes: &[u8]) {
        assert!(self.open.contains(&client), "a message for nobody");
        let (taken, frame) = Deframer::new(u32::MAX).feed(bytes);
        assert_eq!(taken, bytes.len(), "more than a message");
        let Some(Ok(frame)) = frame else { panic!("no message: {bytes:?}") };
        // To an option to set that nobody knows, without a number, there is nothing to say, and
        // the stock daemon says that as well (wire 1.3, type 7).
        if frame.body.is_empty() && frame.kind == MessageType::SetOptionReply as u16 {
            return;
        }
        if frame.kind == FRAME_ANSWER {
            let answer = Answer::decode(&frame.body);
            self.answered(client, answer.unwrap_or_else(|error| panic!("{error}: {frame:?}")));
            return;
        }
        let message = Message::decode(&frame);
        let message = message.unwrap_or_else(|error| panic!("{error}: {frame:?}"));
        let options = &message.options;
        let Some(at) = self.seats.iter().position(|seat| seat.client == Some(client)) else {
            return;
        };
        if message.kind == MessageType::VoteInfo {
            self.seats[at].info = options.seq;
        }
        // An echo's answer mirrors what a client has put into it; only ours is behind that.
        if let Some(grant) = options.grant.filter(|grant| grant.id.arbiter == self.memory.arbiter) {
            self.seats[at].grant = Some(grant);
            self.granted(at, client, &grant);
        }
    }

    fn answered(&mut self, client: ClientId, answer: Answer) {
        let verdict = answer.verdict;
        let refusal = Verdict::Refused(Refusal::NotAGateway);
        assert!(self.gateways.contains_key(&client) || verdict == refusal, "{verdict:?}");
        if let Verdict::Entitled(attestation) = verdict {
            assert!(!attestation.holders.is_empty(), "nobody has the vote: {attestation:?}");
            self.intent = attestation.intent;
        }
    }

    /// S1 as far as an arbiter can break it alone: no lease for a view while a node outside, that
    /// has not said a word since, can count a lease of another one.
    fn granted(&mut self, at: usize, client: ClientId, grant: &Grant) {
        let Some(record) = self.records.get(&grant.id) else { return };
        let cluster = &record.cluster;
        for lease in &self.leases {
            assert!(
                lease.cluster != *cluster
                    || lease.grant == grant.id
                    || record.nodes.contains(&lease.node)
                    || lease.until <= self.now,
                "at {} {lease:?} still counts, and {grant:?} is given",
                self.now
            );
        }
        let (node, heard) = (self.seats[at].node, self.heard.get(&(client, grant.anchor)));
        let Some(heard) = heard.filter(|_| record.nodes.contains(&NodeId(node))) else { return };
        let until = *heard + Duration::from_millis(u64::from(grant.lease_ms));
        let lease = Lease { cluster: cluster.clone(), node: NodeId(node), grant: grant.id, until };
        let same = |other: &Lease| (&other.cluster, other.node) == (&lease.cluster, lease.node);
        self.leases.retain(|other| !same(other));
        self.leases.push(lease);
    }

    fn check(&mut self) {
        assert!(self.arbiter.client_count() <= self.open.len(), "it keeps who is gone");
        let status = self.arbiter.status(self.now);
        assert_eq!(status.clients as usize, self.arbiter.client_count());
        self.arbiter.stock_clusters();
        for name in words::CLUSTERS {
            let name = ClusterName::from(name);
            let Some(epoch) = self.arbiter.epoch(&name) else { continue };
            let before = self.epochs.insert(name, epoch);
            assert!(before.is_none_or(|before| before <= epoch), "{before:?} became {epoch:?}");
        }
    }

    /// The next process begins with what is stored.
    fn restart(mut self) {
        let mut newest = BTreeMap::new();
        for record in self.journal {
            newest.insert(record.cluster.clone(), record);
        }
        self.memory.boot = self.memory.boot.saturating_add(1);
        self.memory.grants = newest.into_values().collect();
        self.memory.fencing = self.fencing.into_values().collect();
        let mut next = Arbiter::new(Time::ZERO, self.settings, self.memory.clone());
        next.handle(Time::ZERO, Event::Timeout);
        for record in &self.memory.grants {
            let epoch = next.epoch(&record.cluster);
            assert!(epoch >= Some(record.grant.epoch), "{record:?} was forgotten: {epoch:?}");
        }
    }
}

fn hello(node: u32, tape: &mut Tape<'_>) -> Hello {
    if tape.byte() >= 192 {
        return words::hello(tape);
    }
    Hello {
        instance: protocol::ids::InstanceId(u64::from(node) << 8 | u64::from(tape.byte())),
        boot: BootId(u128::from(node)),
        host: HostKind::Builtin,
        worst_case_ms: 0,
        bound: words::bound(tape),
        highest_epoch: Epoch(u64::from(tape.byte())),
        held: None,
    }
}

fn infos(nodes: &[u32]) -> Vec<NodeInfo> {
    nodes.iter().map(|id| NodeInfo { node: NodeId(*id), data_center: 0, state: None }).collect()
}
