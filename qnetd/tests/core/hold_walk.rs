//! Random faults of four nodes with stock devices, by corosync's and corosync-qdevice's own timers
//! (wire 3.1, 5), against the arbiter: networks and uplinks that are cut and come back, killed
//! devices, restarts of the arbiter's process and of its host. A host here is what votequorum and
//! the device do with the vote: when it is cast and dropped, how long a membership change is open,
//! when the device finds a cut and connects anew. At every step nobody becomes quorate while a node
//! outside of its ring is so too by the arbiter's vote, and in the end one half of the cluster gets
//! the vote again.

use protocol::ids::{ArbiterId, BootId, RingId};
use protocol::qnet::{Message, MessageType};
use protocol::vote::Vote;
use qnetd::core::{Memory, Settings, VoteHold};

use crate::driver::{Done, Driver};
use crate::stock_client::{Stock, settings};

struct Random {
    state: u64,
    counter: u32,
}

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.counter += 1;
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.state >> 33).unwrap() % limit
    }
}

/// A node with a stock device, by corosync's and qdevice's own timers (wire 3.1, 5). All times are
/// milliseconds since the start of the walk.
struct Host {
    stock: Stock,
    node: u32,
    /// Of its ring.
    members: Vec<u32>,
    /// The members of the ring that `quorate` was last worked out for.
    counted: Vec<u32>,
    quorate: bool,
    /// Its membership change is open, at most until then (S).
    sync_until: Option<u64>,
    /// votequorum counts the device's vote until then (T, or S).
    cast_until: u64,
    /// votequorum takes the device for alive until then.
    alive_until: u64,
    /// What the device casts; nothing while it waits for the arbiter.
    vote: Option<bool>,
    poll_at: u64,
    /// Its heuristics are done with the new ring then.
    report_at: Option<u64>,
    connected: bool,
    /// Nothing gets through to the arbiter or back.
    cut: bool,
    connect_at: Option<u64>,
    echo_at: u64,
    /// The last echo is not answered yet.
    echo_open: bool,
    /// Killed, and not connected again.
    dead: bool,
}

/// A process of a device in the cluster of four.
fn stock(client: u64, node: u32) -> Stock {
    let mut stock = Stock::new(client, node);
    stock.config = vec![1, 2, 3, 4];
    stock
}

struct World {
    driver: Driver,
    hosts: Vec<Host>,
    random: Random,
    ring: u64,
    now: u64,
    boot: u32,
    trail: Vec<String>,
    settings: Settings,
    /// How long a node takes to report a ring at most.
    heuristics_ms: usize,
}

impl World {
    fn new(seed: u64, settings: Settings) -> Self {
        let hosts = (1..=4).map(|node| Host {
            stock: stock(u64::from(node), node),
            node,
            members: vec![1, 2, 3, 4],
            counted: vec![1, 2, 3, 4],
            quorate: true,
            sync_until: None,
            cast_until: 0,
            alive_until: 0,
            vote: None,
            poll_at: 0,
            report_at: None,
            connected: false,
            cut: false,
            connect_at: Some(0),
            echo_at: 0,
            echo_open: false,
            dead: false,
        });
        Self {
            driver: Driver::new(settings.clone()),
            settings,
            // Every second cluster has slow ones.
            heuristics_ms: if seed.is_multiple_of(2) { 400 } else { 6000 },
            hosts: hosts.collect(),
            random: Random { state: seed, counter: 0 },
            ring: 4,
            now: 0,
            boot: 1,
            trail: Vec::new(),
        }
    }

    fn poll(&mut self, at: usize) {
        let (now, host) = (self.now, &mut self.hosts[at]);
        let Some(vote) = host.vote else { return };
        host.poll_at = now + 5000;
        host.alive_until = now + 10_000;
        // In a membership change the flag is read when it ends, else a token rotation later.
        let lag = if host.sync_until.is_some() { 0 } else { 500 };
        host.cast_until = if vote { now + 10_000 } else { host.cast_until.min(now + lag) };
        host.sync_until = None;
    }

    fn deliver(&mut self, done: Vec<Done>) {
        for done in done {
            match done {
                Done::Closed(client, _) => {
                    if let Some(at) = self.hosts.iter().position(|h| h.stock.client == client)
                        && self.hosts[at].connected
                        && !self.hosts[at].cut
                    {
                        self.lose(at);
                    }
                }
                Done::Sent(client, message) => self.hear(client, &message),
                Done::StartTls(_)
                | Done::Persist(_)
                | Done::PersistFencing(_)
                | Done::Answered(..) => {}
            }
        }
    }

    /// The client finds that its connection is gone.
    fn lose(&mut self, at: usize) {
        self.hosts[at].connected = false;
        self.hosts[at].vote = Some(false);
        self.poll(at);
        self.hosts[at].connect_at = Some(self.now + self.random.below(4500) as u64);
    }

    fn hear(&mut self, client: u64, message: &Message) {
        let Some(at) = self.hosts.iter().position(|h| h.stock.client == client) else { return };
        let host = &mut self.hosts[at];
        if !host.connected || host.cut {
            return;
        }
        let matches = message.options.ring == Some(host.stock.ring);
        let votes = [MessageType::VoteInfo, MessageType::NodeListReply];
        if message.kind == MessageType::EchoReply {
            host.echo_open = false;
        } else if matches && votes.contains(&message.kind) {
            let vote = match message.options.vote {
                Some(Vote::Ack) => Some(Some(true)),
                Some(Vote::Nack) => Some(Some(false)),
                Some(Vote::WaitForReply | Vote::AskLater) => Some(None),
                Some(Vote::NoChange) | None => None,
            };
            if let Some(vote) = vote {
                host.vote = vote;
                if host.report_at.is_none() {
                    self.poll(at);
                }
            }
        }
        if message.kind == MessageType::VoteInfo {
            let seq = message.options.seq;
            let reply = Message::new(MessageType::VoteInfoReply, seq);
            let done = self.driver.say(client, &reply);
            self.deliver(done);
        }
    }

    /// Works out who is quorate, and looks at everybody else when somebody becomes so.
    fn judge(&mut self, seed: u64) {
        for at in 0..4 {
            let (now, host) = (self.now, &mut self.hosts[at]);
            if host.sync_until.is_some_and(|until| until > now && host.alive_until > now) {
                continue;
            }
            if host.sync_until.take().is_some() {
                host.cast_until = 0;
            }
            let quorate = host.members.len() + usize::from(host.cast_until > now) >= 3;
            let news = quorate != host.quorate || host.members != host.counted;
            if !news || host.report_at.is_some() {
                continue;
            }
            host.quorate = quorate;
            host.counted.clone_from(&host.members);
            let (members, node) = (host.members.clone(), host.node);
            self.trail.push(format!("{now}: node {node} in {members:?} quorate {quorate}"));
            if quorate && members.len() < 3 {
                let counts = |h: &&Host| h.quorate && h.cast_until > now;
                let both = self.hosts.iter().find(|h| !members.contains(&h.node) && counts(h));
                assert!(
                    both.is_none(),
                    "seed {seed}: node {} is quorate too\n{}",
                    both.unwrap().node,
                    self.trail.join("\n")
                );
            }
            if self.hosts[at].connected && !self.hosts[at].cut {
                let done = self.hosts[at].stock.quorum(&mut self.driver, quorate);
                self.deliver(done);
            }
        }
    }

    fn tick(&mut self, seed: u64) {
        self.now += 50;
        let done = self.driver.pass(50);
        self.deliver(done);
        for at in 0..4 {
            self.tick_host(at);
        }
        self.judge(seed);
    }

    fn tick_host(&mut self, at: usize) {
        let (now, host) = (self.now, &mut self.hosts[at]);
        if host.report_at.is_some_and(|due| due <= now) {
            host.report_at = None;
            if host.connected {
                host.vote = None;
                let (ring, members) = (self.ring, host.members.clone());
                if host.cut {
                    host.stock.ring = RingId::new(members[0], ring);
                } else {
                    let done = host.stock.report(&mut self.driver, ring, &members);
                    self.deliver(done);
                }
            } else if !host.dead {
                host.vote = Some(false);
                self.poll(at);
            }
        }
        let host = &mut self.hosts[at];
        if host.vote.is_some() && host.poll_at <= now && host.report_at.is_none() {
            self.poll(at);
        }
        let host = &mut self.hosts[at];
        if host.connected && host.echo_at <= now {
            host.echo_at = now + 8000;
            if host.echo_open {
                self.trail.push(format!("{now}: node {} finds the cut", at + 1));
                let client = self.hosts[at].stock.client;
                self.lose(at);
                if !self.hosts[at].cut {
                    let done = self.driver.close(client);
                    self.deliver(done);
                }
                return;
            }
            host.echo_open = true;
            if !host.cut {
                let done = host.stock.echo(&mut self.driver);
                self.deliver(done);
            }
        }
        let host = &mut self.hosts[at];
        let due = host.connect_at.is_some_and(|due| due <= now) && host.report_at.is_none();
        if !host.connected && !host.cut && due {
            self.connect(at);
        }
    }

    fn connect(&mut self, at: usize) {
        let client = 1000 + u64::from(self.random.counter);
        self.random.below(2);
        let host = &mut self.hosts[at];
        host.stock.ring = RingId::new(host.members[0], self.ring);
        let done = host.stock.reconnect(&mut self.driver, client);
        let refused = |d: &Done| matches!(d, Done::Sent(c, m) if *c == client && m.options.error_code == Some(17));
        if done.iter().any(refused) {
            host.connect_at = Some(self.now + 2000);
            let more = self.driver.close(client);
            self.deliver(done);
            self.deliver(more);
            return;
        }
        (host.connected, host.dead) = (true, false);
        host.connect_at = None;
        host.echo_open = false;
        host.echo_at = self.now + 8000;
        self.deliver(done);
        let done = self.hosts[at].stock.configure(&mut self.driver);
        self.deliver(done);
        let host = &mut self.hosts[at];
        host.vote = None;
        let (members, quorate) = (host.members.clone(), host.quorate);
        let done = host.stock.report(&mut self.driver, self.ring, &members);
        self.deliver(done);
        let done = self.hosts[at].stock.quorum(&mut self.driver, quorate);
        self.deliver(done);
    }

    fn rings(&mut self, side: &[u32]) {
        self.ring += 1;
        let now = self.now;
        for at in 0..4 {
            let node = u32::try_from(at).unwrap() + 1;
            let mine = side.contains(&node);
            let host = &mut self.hosts[at];
            host.members = (1..=4).filter(|n| side.contains(n) == mine).collect();
            host.report_at = Some(now + self.random.below(self.heuristics_ms) as u64);
            if host.alive_until > now {
                host.sync_until = Some(now + 30_000);
                host.alive_until = now + 30_000;
                if host.cast_until > now {
                    host.cast_until = now + 30_000;
                }
            } else {
                host.sync_until = Some(now);
            }
        }
    }

    /// One fault, or its end.
    fn fault(&mut self) {
        let sides: [&[u32]; 6] = [&[1, 2], &[1, 3], &[4], &[1], &[2, 3], &[1, 2, 3, 4]];
        let side = sides[self.random.below(6)];
        let kind = self.random.below(6);
        self.trail.push(format!("{}: fault {kind} of {side:?}", self.now));
        match kind {
            // The network between the sides; the uplink of the first side with it.
            0 | 1 => {
                for at in 0..4 {
                    self.hosts[at].cut =
                        kind == 1 && side.len() < 4 && side.contains(&self.hosts[at].node);
                }
                self.rings(side);
            }
            2 => {
                for host in &mut self.hosts {
                    host.cut = side.len() < 4 && side.contains(&host.node);
                }
            }
            // qdevice is killed and started again.
            3 => {
                let at = self.random.below(4);
                let host = &mut self.hosts[at];
                let (client, cut) = (host.stock.client, host.cut);
                let connected = std::mem::replace(&mut host.connected, false);
                (host.vote, host.dead) = (None, true);
                host.stock = stock(5000 + client, host.node);
                host.connect_at = Some(self.now + 300 + self.random.below(20_000) as u64);
                if connected && !cut {
                    let done = self.driver.close(client);
                    self.deliver(done);
                }
            }
            // The arbiter is started again.
            4 => {
                self.boot += 1;
                let empty = Driver::new(Settings::default());
                let mut old = std::mem::replace(&mut self.driver, empty);
                let journal = std::mem::take(&mut old.journal);
                let last = journal.last().cloned();
                let memory = Memory {
                    arbiter: ArbiterId(7),
                    boot: self.boot,
                    host_boot: BootId(1 + u128::from(self.random.below(4) == 0)),
                    grants: last.into_iter().collect(),
                    ..Memory::default()
                };
                self.driver = Driver::with_memory(self.settings.clone(), memory);
                for at in 0..4 {
                    if self.hosts[at].connected && !self.hosts[at].cut {
                        self.lose(at);
                    }
                }
            }
            _ => {
                for host in &mut self.hosts {
                    host.cut = false;
                }
                self.rings(&[1, 2, 3, 4]);
            }
        }
    }

    /// When all is well again and the cluster then breaks in the middle, the vote is not lost.
    fn one_half_goes_on(&mut self, seed: u64) {
        for side in [&[1, 2, 3, 4][..], &[1, 2]] {
            self.hosts.iter_mut().for_each(|host| host.cut = false);
            self.trail.push(format!("{}: all is well but for the split of {side:?}", self.now));
            self.rings(side);
            for _ in 0..1800 {
                self.tick(seed);
            }
        }
        let quorate: Vec<u32> = self.hosts.iter().filter(|h| h.quorate).map(|h| h.node).collect();
        let trail = self.trail.join("\n");
        assert!(quorate == [1, 2] || quorate == [3, 4], "seed {seed}: {quorate:?}\n{trail}");
    }
}

fn walk(seed: u64, settings: Settings, faults: usize) {
    let mut world = World::new(seed, settings);
    for _ in 0..400 {
        world.tick(seed);
    }
    for _ in 0..6 {
        for fault in 0..faults {
            world.fault();
            let ticks = if fault + 1 < faults { world.random.below(700) } else { 2000 };
            for _ in 0..ticks {
                world.tick(seed);
            }
        }
    }
    world.one_half_goes_on(seed);
}

#[test]
fn no_single_fault_of_four_stock_nodes_leaves_two_sides_quorate() {
    for seed in 0..300 {
        walk(seed, Settings::default(), 1);
    }
}

#[test]
fn no_double_fault_of_four_stock_nodes_leaves_two_sides_quorate() {
    for seed in 0..300 {
        walk(seed, settings(VoteHold::DoubleFault), 2);
    }
}

#[test]
#[should_panic = "is quorate too"]
fn the_walk_finds_two_sides_where_vote_hold_is_off() {
    for seed in 0..300 {
        walk(seed, settings(VoteHold::Off), 1);
    }
}

/// qdevice on node 1 is killed; 7 s later, before T has run out, the network splits. Nodes 3 and 4
/// report their ring 5 s after that, because of their heuristics: by then k + T + g has passed.
#[test]
fn a_double_fault_with_slow_heuristics_leaves_one_side() {
    let mut world = World::new(1, settings(VoteHold::DoubleFault));
    let run = |world: &mut World, ms: u64| (0..ms / 50).for_each(|_| world.tick(1));
    run(&mut world, 15_200);
    let client = world.hosts[0].stock.client;
    let host = &mut world.hosts[0];
    (host.connected, host.dead, host.vote) = (false, true, None);
    let done = world.driver.close(client);
    world.deliver(done);
    run(&mut world, 7000);
    world.rings(&[1, 2]);
    for at in [2, 3] {
        world.hosts[at].report_at = Some(world.now + 5000);
    }
    run(&mut world, 60_000);
}
