//! The quorum device's machine, fed by an arbiter, a host and a clock that do what they like.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::host::{
    DeviceSettings, FromHost, HeuristicsMode, HeuristicsSettings, HostQuorum, HostView, TlsMode,
    Welcome,
};
use protocol::ids::{ArbiterId, BootId, InstanceId, NodeId, RingId, ViewId};
use protocol::qnet::{
    Deframer, ErrorCode, HostKind, Message, MessageType, Options, TlsSupport, stock_options,
    supported_messages,
};
use protocol::time::Time;
use qdevice::core::{Action, Config, Device, Event};

use crate::tape::Tape;
use crate::words;

/// More than any one event can lead to.
const DUTIES_MAX: usize = 64;

/// Nothing that an arbiter, a host and the clock do makes the device panic, spin, end, say what
/// cannot be read, or cast a vote that is over. Tape: who starts, then one thing after the other.
pub fn device(data: &[u8]) {
    let mut tape = Tape::new(data);
    let config = Config {
        instance: InstanceId(5),
        seed: u64::from(tape.byte()),
        host: tape.pick(&[HostKind::Builtin, HostKind::Corosync]),
        pinned: tape.maybe(|tape| ArbiterId(u128::from(tape.number()))),
        arbiter: String::new(),
    };
    let mut world = World::new(config);
    world.host_starts(&mut tape);
    while !tape.is_empty() && !world.over {
        world.step(&mut tape);
        world.device.snapshot(world.now);
    }
}

struct World {
    device: Device,
    now: Time,
    /// What it was asked to answer: its last number by type of message.
    asked: BTreeMap<MessageType, u32>,
    view: ViewId,
    polls: u64,
    run: u64,
    leaving: bool,
    over: bool,
}

impl World {
    fn new(config: Config) -> Self {
        Self {
            device: Device::new(config),
            now: Time::from_millis(1000),
            asked: BTreeMap::new(),
            view: ViewId::default(),
            polls: 0,
            run: 0,
            leaving: false,
            over: false,
        }
    }

    fn step(&mut self, tape: &mut Tape<'_>) {
        match tape.below(20) {
            0 => self.host_starts(tape),
            1 | 2 => self.host_view(tape),
            3 => self.host_quorum(tape),
            4 => {
                let id = if tape.byte() < 200 { self.polls } else { tape.number() };
                self.tell(Event::Host(FromHost::Polled { id, applied: tape.flag() }));
            }
            5 => {
                let highest_epoch = words::epoch(tape);
                self.tell(Event::Host(FromHost::Alive { highest_epoch }));
            }
            6 | 7 => self.introduce(tape),
            8 | 9 => self.answer_echo(tape),
            10 | 11 => self.vote_info(tape),
            12 | 13 => {
                let frame = words::frame(tape);
                self.tell(Event::Received(frame));
            }
            14 => self.connection(tape),
            15 => {
                let run = if tape.byte() < 200 { self.run } else { tape.number() };
                let result = words::heuristics(tape);
                self.tell(Event::Heuristics { run, result });
            }
            16 if tape.byte() == 255 => {
                self.leaving = true;
                self.tell(Event::Leave);
            }
            16 => self.tell(Event::HostDown),
            17 | 18 => self.pass(50 * (1 + u64::from(tape.byte())), true),
            _ => {
                let ms = u64::from(tape.number32());
                self.pass(ms, false);
            }
        }
    }

    fn host_starts(&mut self, tape: &mut Tape<'_>) {
        let welcome = welcome(tape);
        self.tell(Event::Host(FromHost::Welcome(Box::new(welcome))));
        self.host_view(tape);
    }

    fn host_view(&mut self, tape: &mut Tape<'_>) {
        let seq = u64::from(tape.byte());
        self.view = ViewId { ring: RingId::new(1, seq), nonce: seq };
        let members = words::node_set(tape).into_iter().collect();
        let view = HostView { id: self.view, epoch: words::epoch(tape), members };
        self.tell(Event::Host(FromHost::View(view)));
    }

    fn host_quorum(&mut self, tape: &mut Tape<'_>) {
        let nodes = words::node_set(tape).into_iter().map(|node| (node, tape.flag())).collect();
        let view = if tape.byte() < 200 { self.view } else { words::view_id(tape) };
        let quorum =
            HostQuorum { view, quorate: tape.flag(), expected_votes: tape.number32(), nodes };
        self.tell(Event::Host(FromHost::Quorum(quorum)));
    }

    /// From the connection to the answer to Init, as an arbiter that knows the protocol.
    fn introduce(&mut self, tape: &mut Tape<'_>) {
        self.tell(Event::Connected);
        let tls =
            tape.pick(&[TlsSupport::Supported, TlsSupport::Required, TlsSupport::Unsupported]);
        let options = Options {
            seq: self.asked.get(&MessageType::Preinit).copied(),
            tls_supported: Some(tls),
            tls_client_cert_required: Some(1),
            ..Options::default()
        };
        self.say(MessageType::PreinitReply, options);
        self.tell(Event::Secured);
        let error = if tape.byte() < 224 { ErrorCode::NoError as u16 } else { tape.u16() };
        let options = Options {
            seq: self.asked.get(&MessageType::Init).copied(),
            error_code: Some(error),
            supported_messages: Some(supported_messages()),
            supported_options: Some(stock_options()),
            max_request_bytes: Some(32768),
            max_reply_bytes: Some(32768),
            supported_algorithms: Some(vec![0, 1, 2, 3]),
            arbiter_hello: tape.maybe(words::arbiter_hello),
            ..Options::default()
        };
        self.say(MessageType::InitReply, options);
    }

    fn answer_echo(&mut self, tape: &mut Tape<'_>) {
        let last = self.asked.get(&MessageType::EchoRequest).copied();
        let seq = last.map(|last| last.wrapping_sub(u32::from(tape.byte() / 64)));
        let grant = tape.maybe(words::grant).map(|mut grant| {
            (grant.anchor, grant.view) = (seq.unwrap_or(0), self.view);
            grant
        });
        let epoch = tape.maybe(words::epoch);
        self.say(MessageType::EchoReply, Options { seq, grant, epoch, ..Options::default() });
    }

    fn vote_info(&mut self, tape: &mut Tape<'_>) {
        let mut options = Options {
            seq: Some(tape.number32()),
            vote: Some(words::vote(tape)),
            ring: Some(self.view.ring),
            grant: tape.maybe(words::grant),
            epoch: tape.maybe(words::epoch),
            ..Options::default()
        };
        if let (Some(grant), true) = (&mut options.grant, tape.byte() < 200) {
            grant.view = self.view;
            grant.anchor = self.asked.get(&MessageType::EchoRequest).copied().unwrap_or(0);
        }
        let kinds =
            [MessageType::VoteInfo, MessageType::NodeListReply, MessageType::AskForVoteReply];
        self.say(tape.pick(&kinds), options);
    }

    fn connection(&mut self, tape: &mut Tape<'_>) {
        let reason = || "it rains".to_owned();
        let event = match tape.below(4) {
            0 => Event::Connected,
            1 => Event::ConnectFailed { reason: reason() },
            2 => Event::Closed { reason: reason() },
            _ => Event::Secured,
        };
        self.tell(event);
    }

    /// Time goes by, with a host that lives or one that is silent.
    fn pass(&mut self, ms: u64, alive: bool) {
        let end = self.now + Duration::from_millis(ms);
        for _ in 0..128 {
            let Some(at) = self.device.deadline().filter(|at| *at <= end) else { break };
            self.now = self.now.max(at);
            let beat = FromHost::Alive { highest_epoch: protocol::ids::Epoch(0) };
            self.tell(if alive { Event::Host(beat) } else { Event::Timeout });
        }
        self.now = end;
        self.tell(Event::Timeout);
    }

    fn say(&mut self, kind: MessageType, options: Options) {
        self.tell(Event::Received(words::written(&Message { kind, options })));
    }

    fn tell(&mut self, event: Event) {
        self.device.handle(self.now, event);
        for count in 0.. {
            let Some(action) = self.device.next_action() else { break };
            assert!(count < DUTIES_MAX, "one event has led to {count} duties");
            self.perform(action);
        }
        let next = self.device.deadline();
        assert!(next.is_none_or(|at| at > self.now), "it would spin");
        let lease = self.device.lease(self.now);
        assert!(lease.is_none_or(|(_, ends)| ends > self.now), "a lease that is over");
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Send(bytes) => self.sent(&bytes),
            Action::Poll { id, cast, .. } => {
                assert!(id > self.polls, "poll {id} after {}", self.polls);
                self.polls = id;
                assert!(cast.is_none_or(|(until, _)| until > self.now), "cast when it was over");
            }
            Action::RunHeuristics { run, .. } => self.run = run,
            Action::Decided(text) => {
                assert!(!text.is_empty() && text.lines().count() == 1, "{text:?}");
            }
            Action::Exit => {
                assert!(self.leaving, "an arbiter has ended the device");
                self.over = true;
            }
            Action::Register
            | Action::Unregister
            | Action::Connect { .. }
            | Action::StartTls
            | Action::Disconnect
            | Action::Pin(_)
            | Action::Epoch(_)
            | Action::Status(_) => {}
        }
    }

    fn sent(&mut self, bytes: &[u8]) {
        let (taken, frame) = Deframer::new(u32::MAX).feed(bytes);
        assert_eq!(taken, bytes.len(), "more than a message");
        let Some(Ok(frame)) = frame else { panic!("no message: {bytes:?}") };
        let message = Message::decode(&frame);
        let message = message.unwrap_or_else(|error| panic!("{error}: {frame:?}"));
        if let Some(seq) = message.options.seq {
            self.asked.insert(message.kind, seq);
        }
    }
}

fn welcome(tape: &mut Tape<'_>) -> Welcome {
    let heuristics = HeuristicsSettings {
        mode: tape.pick(&[HeuristicsMode::Off, HeuristicsMode::On, HeuristicsMode::Sync]),
        timeout_ms: 1000,
        sync_timeout_ms: 1000,
        interval_ms: words::heartbeat(tape),
        commands: tape.maybe(|_| ("a".to_owned(), "/bin/true".to_owned())).into_iter().collect(),
    };
    let device = DeviceSettings {
        host: "arbiter".to_owned(),
        port: 5403,
        tls: tape.pick(&[TlsMode::Off, TlsMode::On, TlsMode::Required]),
        algorithm: words::algorithm(tape),
        tie_breaker: words::tie_breaker(tape),
        keep_active_partition: tape.flag(),
        timeout_ms: words::heartbeat(tape),
        sync_timeout_ms: words::heartbeat(tape),
        heartbeat_ms: words::heartbeat(tape),
        connect_timeout_ms: words::heartbeat(tape),
        force_ip_version: 0,
        heuristics,
    };
    Welcome {
        cluster: "c".to_owned(),
        node: NodeId(1),
        boot: BootId(1),
        instance: InstanceId(u64::from(tape.byte() / 128)),
        bound: words::bound(tape),
        config_version: tape.maybe(Tape::number),
        nodes: [(NodeId(1), 0), (NodeId(2), 0)].into(),
        device: (tape.byte() < 224).then_some(device),
    }
}
