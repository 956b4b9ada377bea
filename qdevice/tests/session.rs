//! The device's machine: what it is told, and what it then does.
#![allow(clippy::unwrap_used, reason = "helpers of tests, where a panic is the report")]

#[allow(dead_code, reason = "the other tests use the rest")]
mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::{
    ARBITER, LEASE, decode, frame, grant, grant_id, init_reply, ours, preinit_reply, quorum,
    settings, view, view_id, vote_info, welcome,
};
use protocol::host::{FromHost, HeuristicsMode, TlsMode};
use protocol::ids::{ArbiterId, Epoch, InstanceId};
use protocol::qnet::{
    ArbiterHello, ErrorCode, Frame, HostKind, Message, MessageType, NodeListType, Options,
    TlsSupport,
};
use protocol::time::Time;
use protocol::vote::{Heuristics, Vote};
use qdevice::core::{Action, Config, Device, Event};

/// A device, its clock, and what it has done since it was last asked.
struct Rig {
    device: Device,
    now: Time,
    done: Vec<Action>,
}

impl Rig {
    fn new(seed: u64, pinned: Option<ArbiterId>) -> Self {
        let config = Config {
            instance: InstanceId(5),
            seed,
            host: HostKind::Builtin,
            pinned,
            arbiter: String::new(),
        };
        Self { device: Device::new(config), now: Time::from_millis(1000), done: Vec::new() }
    }

    /// With a host in view 4 and a connection being made.
    fn hosted(tls: TlsMode, pinned: Option<ArbiterId>) -> Self {
        let mut rig = Self::new(1, pinned);
        rig.host(FromHost::Welcome(Box::new(welcome(with_tls(tls)))));
        rig.host(FromHost::View(view(4, &[1])));
        rig.host(FromHost::Quorum(quorum(4, false)));
        rig
    }

    /// Introduced to an arbiter, ours or stock; nothing is left to be looked at.
    fn connected(hello: Option<ArbiterHello>) -> Self {
        let mut rig = Self::hosted(TlsMode::Off, None);
        rig.introduce(hello);
        rig.take();
        rig
    }

    fn introduce(&mut self, hello: Option<ArbiterHello>) {
        self.tell(Event::Connected);
        let seq = self.last_seq(MessageType::Preinit);
        self.arbiter(&preinit_reply(seq, TlsSupport::Supported));
        let seq = self.last_seq(MessageType::Init);
        self.arbiter(&init_reply(seq, 0, hello));
    }

    fn tell(&mut self, event: Event) {
        self.device.handle(self.now, event);
        while let Some(action) = self.device.next_action() {
            self.done.push(action);
        }
        assert!(self.device.deadline().is_none_or(|at| at > self.now), "it would spin");
    }

    fn host(&mut self, said: FromHost) {
        self.tell(Event::Host(said));
    }

    fn arbiter(&mut self, message: &Message) {
        self.tell(Event::Received(frame(message)));
    }

    /// Lets time pass, with a host that lives.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let alive = self.now + Duration::from_millis(100);
            let next = self.device.deadline().map_or(alive, |at| at.min(alive)).min(end);
            self.now = next;
            self.host(FromHost::Alive { highest_epoch: Epoch(0) });
            if next == end {
                return;
            }
        }
    }

    fn take(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.done)
    }

    fn sent(&self) -> Vec<Message> {
        let bytes = self.done.iter().filter_map(|action| {
            if let Action::Send(bytes) = action { Some(decode(bytes)) } else { None }
        });
        bytes.collect()
    }

    fn sent_of(&self, kind: MessageType) -> Vec<Options> {
        let of_kind = self.sent().into_iter().filter(|message| message.kind == kind);
        of_kind.map(|message| message.options).collect()
    }

    fn last_seq(&self, kind: MessageType) -> Option<u32> {
        self.sent_of(kind).last().unwrap_or_else(|| panic!("no {kind:?} was sent")).seq
    }

    fn polls(&self) -> Vec<Option<Time>> {
        let polls = self.done.iter().filter_map(|action| {
            if let Action::Poll { cast, .. } = action {
                Some(cast.map(|(until, _)| until))
            } else {
                None
            }
        });
        polls.collect()
    }

    fn last_poll_id(&self) -> u64 {
        let polls = self.done.iter().filter_map(|action| {
            if let Action::Poll { id, .. } = action { Some(*id) } else { None }
        });
        polls.max().expect("a poll")
    }

    fn disconnected(&self) -> bool {
        self.done.contains(&Action::Disconnect)
    }

    fn connects(&self) -> bool {
        self.done.iter().any(|action| matches!(action, Action::Connect { .. }))
    }
}

fn with_tls(tls: TlsMode) -> protocol::host::DeviceSettings {
    protocol::host::DeviceSettings { tls, ..settings(5403) }
}

#[test]
fn a_session_goes_from_the_welcome_to_a_confirmed_vote() {
    let mut rig = Rig::hosted(TlsMode::On, None);
    assert_eq!(rig.done[0], Action::Register);
    assert!(rig.connects());
    rig.take();

    rig.tell(Event::Connected);
    let preinit = rig.sent().remove(0);
    assert_eq!((preinit.kind, preinit.options.seq), (MessageType::Preinit, Some(1)));
    assert_eq!(preinit.options.cluster_name, Some("TestCl".into()));
    rig.take();

    rig.arbiter(&preinit_reply(Some(1), TlsSupport::Required));
    assert_eq!(rig.sent()[0].kind, MessageType::StartTls);
    assert_eq!(rig.take()[1], Action::StartTls);

    rig.tell(Event::Secured);
    let init = rig.sent().remove(0);
    assert_eq!((init.kind, init.options.seq), (MessageType::Init, Some(3)));
    assert_eq!(init.options.node_id, Some(1));
    let hello = init.options.hello.expect("our hello");
    assert_eq!((hello.instance, hello.held), (InstanceId(5), None));
    rig.take();

    rig.arbiter(&init_reply(Some(3), 0, ours()));
    assert_eq!(rig.done[0], Action::Pin(ARBITER));
    let kinds: Vec<MessageType> = rig.sent().iter().map(|message| message.kind).collect();
    assert_eq!(
        kinds,
        [
            MessageType::EchoRequest,
            MessageType::SetOption,
            MessageType::NodeList,
            MessageType::NodeList,
            MessageType::NodeList,
        ]
    );
    let lists: Vec<_> = rig.sent_of(MessageType::NodeList);
    let types: Vec<_> = lists.iter().map(|list| list.list_type.unwrap()).collect();
    assert_eq!(
        types,
        [NodeListType::InitialConfig, NodeListType::Membership, NodeListType::Quorum]
    );
    assert_eq!(lists[0].config_version, Some(3));
    assert_eq!(lists[1].ring, Some(view_id(4).ring));
    assert_eq!(lists[1].view_note.unwrap().nonce, view_id(4).nonce);
    rig.take();

    rig.arbiter(&vote_info(1, Vote::Ack, 4, Some(grant(7, 4, 1))));
    assert_eq!(rig.polls(), [Some(rig.now + LEASE)]);
    assert_eq!(rig.device.lease(rig.now), Some((view_id(4), rig.now + LEASE)));
    let id = rig.last_poll_id();
    assert!(rig.sent_of(MessageType::VoteInfoReply).is_empty());
    rig.host(FromHost::Polled { id, applied: true });
    assert_eq!(rig.last_seq(MessageType::VoteInfoReply), Some(1));
}

/// Says each thing to a device that waits for another, and looks for a pause and a new try.
fn is_tried_again(mut rig: Rig, what: &str, event: Event) {
    rig.take();
    rig.tell(event);
    assert!(!rig.connects(), "{what}: no pause");
    rig.pass(Duration::from_millis(4500));
    assert!(rig.connects(), "{what}: not tried again");
    assert!(!rig.done.contains(&Action::Exit), "{what}");
    assert!(!rig.done.contains(&Action::Unregister), "{what}");
    let told = rig.done.iter().any(|action| {
        matches!(action, Action::Status(status)
        if status.state.contains(": "))
    });
    assert!(told, "{what}: status says no reason");
}

#[test]
fn no_refusal_of_an_arbiter_is_an_end() {
    let greeted = |tls| {
        let mut rig = Rig::hosted(tls, Some(ARBITER));
        rig.tell(Event::Connected);
        rig
    };
    let introduced = || {
        let mut rig = greeted(TlsMode::Off);
        rig.arbiter(&preinit_reply(Some(1), TlsSupport::Supported));
        rig
    };
    let up = || Rig::connected(ours());
    let reason = || "refused".to_owned();
    let event = |message: &Message| Event::Received(frame(message));
    let server_error = |code| event(&Message::server_error(None, code));

    is_tried_again(
        Rig::hosted(TlsMode::Off, None),
        "connect",
        Event::ConnectFailed { reason: reason() },
    );
    for code in ErrorCode::ALL {
        is_tried_again(greeted(TlsMode::Off), "error to preinit", server_error(code));
        is_tried_again(introduced(), "error to init", server_error(code));
        is_tried_again(up(), "error", server_error(code));
        if code != ErrorCode::NoError {
            let reply = init_reply(Some(2), code as u16, ours());
            is_tried_again(introduced(), "init refused", event(&reply));
        }
    }
    is_tried_again(introduced(), "new code", event(&init_reply(Some(2), 999, ours())));
    is_tried_again(introduced(), "wrong seq", event(&init_reply(Some(9), 0, ours())));
    let other = Some(ArbiterHello { id: ArbiterId(9), boot: 1 });
    is_tried_again(introduced(), "other arbiter", event(&init_reply(Some(2), 0, other)));
    let unsupported = event(&preinit_reply(Some(1), TlsSupport::Unsupported));
    is_tried_again(greeted(TlsMode::On), "no tls", unsupported.clone());
    is_tried_again(greeted(TlsMode::Required), "no tls", unsupported);
    let required = event(&preinit_reply(Some(1), TlsSupport::Required));
    is_tried_again(greeted(TlsMode::Off), "tls wanted", required);
    let lacking = event(&preinit_reply(None, TlsSupport::Supported));
    is_tried_again(greeted(TlsMode::Off), "lacks seq", lacking);
    for kind in MessageType::ALL {
        let early = Event::Received(frame(&Message::new(kind, Some(77))));
        is_tried_again(greeted(TlsMode::Off), "out of turn", early);
    }
    let junk = |kind| Event::Received(Frame { kind, body: vec![0, 0, 0] });
    is_tried_again(up(), "junk", junk(MessageType::VoteInfo as u16));
    is_tried_again(up(), "unknown type", junk(99));
    is_tried_again(up(), "unknown echo", event(&Message::new(MessageType::EchoReply, Some(999))));
    is_tried_again(up(), "vote without vote", event(&Message::new(MessageType::VoteInfo, Some(1))));
    is_tried_again(up(), "closed", Event::Closed { reason: reason() });
}

#[test]
fn a_silent_arbiter_is_left_and_tried_again() {
    let mut rig = Rig::hosted(TlsMode::Off, None);
    rig.tell(Event::Connected);
    rig.take();
    rig.pass(Duration::from_secs(9));
    assert!(rig.disconnected() && rig.connects());

    let mut rig = Rig::connected(ours());
    rig.pass(Duration::from_millis(1900));
    assert!(!rig.disconnected());
    rig.pass(Duration::from_millis(200));
    assert!(rig.disconnected());
}

#[test]
fn a_loss_is_confirmed_only_when_the_host_has_taken_it() {
    let mut rig = Rig::connected(ours());
    rig.arbiter(&vote_info(1, Vote::Ack, 4, Some(grant(7, 4, 1))));
    let id = rig.last_poll_id();
    rig.host(FromHost::Polled { id, applied: true });
    rig.take();

    rig.arbiter(&vote_info(2, Vote::Nack, 4, None));
    assert_eq!(rig.polls(), [None]);
    assert_eq!(rig.device.lease(rig.now), None);
    let loss = rig.last_poll_id();
    // The answer to the poll before it, and one that the host did not apply, prove nothing.
    rig.host(FromHost::Polled { id, applied: true });
    rig.host(FromHost::Polled { id: loss, applied: false });
    rig.pass(Duration::from_millis(300));
    assert!(rig.sent_of(MessageType::VoteInfoReply).is_empty());
    rig.host(FromHost::Polled { id: loss, applied: true });
    assert_eq!(rig.last_seq(MessageType::VoteInfoReply), Some(2));
}

#[test]
fn a_lease_runs_from_the_sending_of_the_echo_it_names() {
    let mut rig = Rig::hosted(TlsMode::Off, None);
    rig.introduce(ours());
    let first = (rig.last_seq(MessageType::EchoRequest).unwrap(), rig.now);
    rig.take();
    rig.pass(Duration::from_millis(260));
    let second =
        (rig.last_seq(MessageType::EchoRequest).unwrap(), first.1 + Duration::from_millis(250));
    assert_ne!(first.0, second.0);
    rig.pass(Duration::from_millis(700));
    rig.take();
    rig.arbiter(&vote_info(1, Vote::Ack, 4, Some(grant(7, 4, first.0))));
    assert_eq!(rig.polls(), [Some(first.1 + LEASE)]);
    rig.take();

    // A renewal of that grant, answered late.
    let mut reply = Message::new(MessageType::EchoReply, Some(second.0));
    reply.options.grant = Some(grant(7, 4, second.0));
    rig.arbiter(&reply);
    assert_eq!(rig.polls(), [Some(second.1 + LEASE)]);
    rig.take();

    // One that names no echo of this connection, another grant or another view is none.
    for wrong in [grant(7, 4, 4000), grant(8, 4, second.0), grant(7, 5, second.0)] {
        reply.options.grant = Some(wrong);
        rig.arbiter(&reply);
    }
    assert!(rig.polls().is_empty());
}

#[test]
fn a_mirrored_renewal_is_not_a_grant() {
    let mut rig = Rig::connected(ours());
    rig.arbiter(&vote_info(1, Vote::Ack, 4, Some(grant(7, 4, 1))));
    let until = rig.now + LEASE;
    rig.take();
    rig.pass(Duration::from_millis(300));
    let request = rig.sent().into_iter().rfind(|m| m.kind == MessageType::EchoRequest).unwrap();
    assert_eq!(request.options.renewal.unwrap().grant, grant_id(7));
    rig.take();
    rig.arbiter(&Message { kind: MessageType::EchoReply, options: request.options });
    assert!(rig.polls().is_empty());
    assert_eq!(rig.device.lease(rig.now), Some((view_id(4), until)));
}

#[test]
fn a_yes_of_an_arbiter_of_ours_without_a_lease_is_nothing() {
    let mut rig = Rig::connected(ours());
    rig.arbiter(&vote_info(1, Vote::Ack, 4, None));
    rig.arbiter(&vote_info(2, Vote::Ack, 4, Some(grant(7, 5, 1))));
    let mut other_nonce = grant(7, 4, 1);
    other_nonce.view.nonce += 1;
    rig.arbiter(&vote_info(3, Vote::Ack, 4, Some(other_nonce)));
    assert!(rig.polls().is_empty());
    assert_eq!(rig.device.lease(rig.now), None);
}

#[test]
fn a_vote_for_an_old_ring_is_ignored() {
    for hello in [ours(), None] {
        let mut rig = Rig::connected(hello);
        rig.host(FromHost::View(view(5, &[1])));
        rig.take();
        rig.arbiter(&vote_info(1, Vote::Ack, 4, Some(grant(7, 4, 1))));
        rig.arbiter(&vote_info(2, Vote::Nack, 4, None));
        assert!(rig.polls().is_empty());
        assert_eq!(rig.device.lease(rig.now), None);
    }
}

#[test]
fn a_reconnect_presents_the_lease_that_is_held() {
    let mut rig = Rig::connected(ours());
    rig.arbiter(&vote_info(1, Vote::Ack, 4, Some(grant(7, 4, 1))));
    let until = rig.now + LEASE;
    rig.tell(Event::Closed { reason: "gone".to_owned() });
    // The lease outlives the connection.
    assert_eq!(rig.device.lease(rig.now), Some((view_id(4), until)));
    rig.pass(Duration::from_millis(500));
    rig.take();
    rig.tell(Event::Connected);
    let seq = rig.last_seq(MessageType::Preinit);
    rig.arbiter(&preinit_reply(seq, TlsSupport::Supported));
    let init = rig.sent_of(MessageType::Init).remove(0);
    let held = init.hello.unwrap().held.expect("the lease");
    assert_eq!((held.grant, held.view), (grant_id(7), view_id(4)));
    assert_eq!(u128::from(held.remaining_ms), until.since(rig.now).as_millis());

    // An ended one is not presented.
    let mut rig = Rig::connected(ours());
    rig.arbiter(&vote_info(1, Vote::Ack, 4, Some(grant(7, 4, 1))));
    rig.tell(Event::Closed { reason: "gone".to_owned() });
    rig.now = rig.now + LEASE;
    rig.host(FromHost::Alive { highest_epoch: Epoch(0) });
    rig.take();
    rig.tell(Event::Connected);
    let seq = rig.last_seq(MessageType::Preinit);
    rig.arbiter(&preinit_reply(seq, TlsSupport::Supported));
    assert_eq!(rig.sent_of(MessageType::Init).remove(0).hello.unwrap().held, None);
}

/// The pauses before the first reconnects.
fn pauses(seed: u64) -> Vec<Duration> {
    let mut rig = Rig::new(seed, None);
    rig.host(FromHost::Welcome(Box::new(welcome(settings(5403)))));
    rig.host(FromHost::View(view(4, &[1])));
    let mut pauses = Vec::new();
    for _ in 0..8 {
        rig.take();
        let failed = rig.now;
        rig.tell(Event::ConnectFailed { reason: "refused".to_owned() });
        while !rig.connects() {
            rig.now = rig.device.deadline().expect("a retry");
            rig.tell(Event::Timeout);
        }
        pauses.push(rig.now.since(failed));
    }
    pauses
}

#[test]
fn jitter_differs_by_seed_and_is_the_same_for_one() {
    let one = pauses(1);
    assert_eq!(one, pauses(1));
    assert_ne!(one, pauses(2));
    let (least, most) = (Duration::from_millis(50), Duration::from_millis(4500));
    assert!(one.iter().all(|pause| (least..=most).contains(pause)), "{one:?}");
    assert!(one[7] > one[0] * 4, "{one:?}");
}

#[test]
fn a_stock_arbiters_vote_ends_with_its_echoes_and_with_its_connection() {
    let mut rig = Rig::connected(None);
    let introduced = rig.now;
    rig.arbiter(&vote_info(1, Vote::Ack, 4, None));
    assert_eq!(rig.polls(), [Some(introduced + Duration::from_secs(10))]);
    rig.take();
    rig.pass(Duration::from_secs(8));
    let echo = rig.sent_of(MessageType::EchoRequest).remove(0);
    assert_eq!(echo.renewal, None);
    rig.arbiter(&Message::new(MessageType::EchoReply, echo.seq));
    assert_eq!(rig.polls(), [Some(introduced + Duration::from_secs(18))]);
    rig.take();
    rig.tell(Event::Closed { reason: "gone".to_owned() });
    assert_eq!(rig.polls(), [None]);
    assert_eq!(rig.device.lease(rig.now), None);
}

/// A stock arbiter that has not decided on the new view yet goes on answering: corosync holds its
/// old quorum until we say something, and must not be told the end of the vote before the answer.
#[test]
fn a_stock_arbiter_that_thinks_does_not_end_the_vote_of_the_old_view() {
    for vote in [Vote::WaitForReply, Vote::AskLater] {
        let mut rig = Rig::connected(None);
        let introduced = rig.now;
        rig.arbiter(&vote_info(1, Vote::Ack, 4, None));
        rig.host(FromHost::View(view(5, &[1])));
        let list = rig.sent_of(MessageType::NodeList).pop().unwrap();
        let mut reply = Message::new(MessageType::NodeListReply, list.seq);
        reply.options.list_type = list.list_type;
        reply.options.ring = list.ring;
        reply.options.vote = Some(vote);
        rig.arbiter(&reply);
        rig.pass(Duration::from_secs(8));
        let echo = rig.sent_of(MessageType::EchoRequest).remove(0);
        rig.take();
        rig.arbiter(&Message::new(MessageType::EchoReply, echo.seq));
        assert_eq!(rig.polls(), [Some(introduced + Duration::from_secs(18))], "{vote:?}");
        let lease = rig.device.lease(rig.now).map(|(view, _)| view);
        assert_eq!(lease, Some(view_id(4)), "{vote:?}: it is worth nothing in the new view");
    }
}

/// Safety 8: votequorum counts the vote of a device that was killed for T, and for S more within
/// a membership change.
#[test]
fn the_arbiter_is_told_how_long_the_host_may_count_on() {
    for (host, changing, worst_case_ms) in [
        (HostKind::Builtin, true, 0),
        (HostKind::Corosync, false, 10_000),
        (HostKind::Corosync, true, 40_000),
    ] {
        let mut rig = Rig::new(1, None);
        let config =
            Config { instance: InstanceId(5), seed: 1, host, pinned: None, arbiter: String::new() };
        rig.device = Device::new(config);
        rig.host(FromHost::Welcome(Box::new(welcome(with_tls(TlsMode::Off)))));
        rig.host(FromHost::View(view(4, &[1])));
        rig.host(FromHost::Quorum(quorum(if changing { 3 } else { 4 }, false)));
        rig.introduce(ours());
        let hello = rig.sent_of(MessageType::Init).remove(0).hello.expect("our hello");
        assert_eq!((hello.host, hello.worst_case_ms), (host, worst_case_ms), "{changing}");
    }
}

/// A connection that began within a membership change says so, once, when that is over.
#[test]
fn the_arbiter_is_told_when_the_host_may_count_on_for_a_shorter_time() {
    let mut rig = Rig::new(1, None);
    let (instance, host) = (InstanceId(5), HostKind::Corosync);
    rig.device =
        Device::new(Config { instance, seed: 1, host, pinned: None, arbiter: String::new() });
    rig.host(FromHost::Welcome(Box::new(welcome(with_tls(TlsMode::Off)))));
    rig.host(FromHost::View(view(4, &[1])));
    rig.host(FromHost::Quorum(quorum(3, false)));
    rig.introduce(ours());
    rig.pass(Duration::from_millis(400));
    let told = |rig: &Rig| -> Vec<u32> {
        let echoes = rig.sent_of(MessageType::EchoRequest);
        assert_ne!(echoes, [], "it goes on renewing");
        echoes.into_iter().filter_map(|echo| echo.worst_case_ms).collect()
    };
    assert_eq!(told(&rig), [0; 0], "the change is under way");
    rig.take();
    rig.host(FromHost::Quorum(quorum(4, false)));
    rig.pass(Duration::from_millis(400));
    assert_eq!(told(&rig), [10_000]);
    rig.take();
    // The next one is another fault than the one that the arbiter waits for.
    rig.host(FromHost::View(view(5, &[1])));
    rig.pass(Duration::from_millis(400));
    rig.host(FromHost::Quorum(quorum(5, false)));
    rig.pass(Duration::from_millis(400));
    assert_eq!(told(&rig), [0; 0]);
}

#[test]
fn lists_wait_for_the_heuristics_and_a_reload_runs_them_again() {
    let mut settings = settings(5403);
    settings.heuristics.mode = HeuristicsMode::On;
    settings.heuristics.commands = BTreeMap::from([("exec_a".to_owned(), "/bin/true".to_owned())]);
    settings.heuristics.interval_ms = 30_000;
    let mut rig = Rig::new(1, None);
    rig.host(FromHost::Welcome(Box::new(welcome(settings.clone()))));
    rig.host(FromHost::View(view(4, &[1])));
    let runs = |rig: &Rig| -> Vec<u64> {
        let runs = rig.done.iter().filter_map(|action| {
            if let Action::RunHeuristics { run, .. } = action { Some(*run) } else { None }
        });
        runs.collect()
    };
    rig.introduce(ours());
    let connect = *runs(&rig).last().unwrap();
    assert!(rig.sent_of(MessageType::NodeList).is_empty());
    // A view in the meantime does not lose the lists, and an old result is none.
    rig.host(FromHost::View(view(5, &[1])));
    let newest = *runs(&rig).last().unwrap();
    assert!(newest > connect);
    rig.tell(Event::Heuristics { run: connect, result: Heuristics::Fail });
    assert!(rig.sent_of(MessageType::NodeList).is_empty());
    rig.tell(Event::Heuristics { run: newest, result: Heuristics::Pass });
    let lists = rig.sent_of(MessageType::NodeList);
    assert_eq!(lists[0].list_type, Some(NodeListType::InitialConfig));
    assert_eq!(lists[1].heuristics, Some(Heuristics::Pass));
    rig.take();

    // The quorum of a view is not told before its members are.
    rig.host(FromHost::View(view(6, &[1])));
    rig.host(FromHost::Quorum(quorum(6, false)));
    assert!(rig.sent_of(MessageType::NodeList).is_empty());
    let run = *runs(&rig).last().unwrap();
    rig.tell(Event::Heuristics { run, result: Heuristics::Pass });
    let types: Vec<_> =
        rig.sent_of(MessageType::NodeList).iter().map(|list| list.list_type).collect();
    assert_eq!(types, [Some(NodeListType::Membership), Some(NodeListType::Quorum)]);
    rig.take();

    settings.heuristics.commands.insert("exec_b".to_owned(), "/bin/false".to_owned());
    rig.host(FromHost::Welcome(Box::new(welcome(settings))));
    let run = *runs(&rig).last().expect("a run");
    assert!(!rig.disconnected());
    rig.tell(Event::Heuristics { run, result: Heuristics::Fail });
    let change = rig.sent_of(MessageType::HeuristicsChange).remove(0);
    assert_eq!(change.heuristics, Some(Heuristics::Fail));
}

#[test]
fn leaving_takes_the_vote_back_before_it_ends() {
    let mut rig = Rig::connected(ours());
    rig.arbiter(&vote_info(1, Vote::Ack, 4, Some(grant(7, 4, 1))));
    rig.take();
    rig.tell(Event::Leave);
    assert_eq!(rig.polls(), [None]);
    let rest = &rig.done[1..];
    assert_eq!(rest, [Action::Unregister, Action::Disconnect, Action::Exit]);
    assert_eq!(rig.device.deadline(), None);
}

#[test]
fn without_its_host_a_device_neither_votes_nor_renews() {
    let mut rig = Rig::connected(ours());
    rig.arbiter(&vote_info(1, Vote::Ack, 4, Some(grant(7, 4, 1))));
    rig.take();
    rig.tell(Event::HostDown);
    assert!(rig.disconnected());
    assert_eq!(rig.device.lease(rig.now), None);
    assert_eq!(rig.device.deadline(), None);
    rig.host(FromHost::Welcome(Box::new(welcome(settings(5403)))));
    assert!(rig.done.contains(&Action::Register));

    // One that has gone quiet is not renewed for, but the connection stays.
    let mut rig = Rig::connected(ours());
    rig.arbiter(&vote_info(1, Vote::Ack, 4, Some(grant(7, 4, 1))));
    rig.now = rig.now + Duration::from_millis(800);
    rig.take();
    rig.tell(Event::Timeout);
    let echoes = rig.sent_of(MessageType::EchoRequest);
    assert_eq!(echoes.len(), 1);
    assert_eq!(echoes[0].renewal, None);
}

#[test]
fn a_pinned_device_believes_neither_another_arbiter_nor_a_stock_one() {
    let other = ArbiterHello { id: ArbiterId(99), boot: 1 };
    for hello in [Some(other), None] {
        let mut rig = Rig::hosted(TlsMode::Off, Some(ARBITER));
        rig.introduce(hello);
        let actions = rig.take();
        assert!(actions.contains(&Action::Disconnect), "{hello:?}: {actions:?}");
        assert!(!actions.iter().any(|action| matches!(action, Action::Pin(_))), "{hello:?}");
    }
}

/// What the arbiter answers to a renewal: nothing but how far epochs have come.
fn known_epoch(rig: &Rig, epoch: u64) -> Message {
    let mut reply = Message::new(MessageType::EchoReply, rig.last_seq(MessageType::EchoRequest));
    reply.options.epoch = Some(Epoch(epoch));
    reply
}

fn handed_over(rig: &mut Rig) -> Vec<u64> {
    let epochs = rig
        .take()
        .into_iter()
        .filter_map(|action| if let Action::Epoch(epoch) = action { Some(epoch.0) } else { None });
    epochs.collect()
}

#[test]
fn an_epoch_of_the_arbiter_above_the_hosts_is_handed_over_once() {
    let mut rig = Rig::connected(ours());
    rig.pass(Duration::from_millis(300));
    let reply = known_epoch(&rig, 9);
    rig.arbiter(&reply);
    assert_eq!(handed_over(&mut rig), [9]);
    // The host may need a while to store it; it is not told again.
    rig.pass(Duration::from_millis(300));
    let reply = known_epoch(&rig, 9);
    rig.arbiter(&reply);
    assert_eq!(handed_over(&mut rig), [0; 0]);
    rig.host(FromHost::Alive { highest_epoch: Epoch(9) });
    rig.pass(Duration::from_millis(300));
    let reply = known_epoch(&rig, 12);
    rig.arbiter(&reply);
    assert_eq!(handed_over(&mut rig), [12]);

    // A host that comes back without its memory is told anew, by the first beat it sends.
    rig.tell(Event::HostDown);
    rig.host(FromHost::Welcome(Box::new(welcome(settings(5403)))));
    assert_eq!(handed_over(&mut rig), [0; 0]);
    rig.host(FromHost::Alive { highest_epoch: Epoch(0) });
    assert_eq!(handed_over(&mut rig), [12]);
}

#[test]
fn a_host_that_knows_more_than_the_arbiter_is_told_nothing() {
    let mut rig = Rig::connected(ours());
    rig.host(FromHost::Alive { highest_epoch: Epoch(9) });
    rig.tell(Event::Timeout);
    rig.now = rig.now + Duration::from_millis(300);
    rig.tell(Event::Timeout);
    let reply = known_epoch(&rig, 8);
    rig.arbiter(&reply);
    assert_eq!(handed_over(&mut rig), [0; 0]);
}

#[test]
fn a_device_whose_section_is_gone_gives_its_vote_back_and_waits_for_it() {
    let mut rig = Rig::connected(ours());
    rig.arbiter(&vote_info(1, Vote::Ack, 4, Some(grant(7, 4, 1))));
    assert!(rig.device.lease(rig.now).is_some());
    rig.take();
    let mut without = welcome(settings(5403));
    without.device = None;
    rig.host(FromHost::Welcome(Box::new(without.clone())));
    assert!(matches!(rig.done[0], Action::Poll { cast: None, .. }), "{:?}", rig.done);
    assert_eq!(rig.done[1], Action::Unregister);
    assert_eq!(rig.done[3..], [Action::Disconnect]);
    assert!(matches!(&rig.done[2], Action::Decided(text) if text.contains("no quorum.device")));
    assert_eq!(rig.device.lease(rig.now), None);
    assert_eq!(rig.device.deadline(), None, "it waits for nothing but its host");
    assert!(rig.device.problem().contains("no quorum.device"));

    // It is told so again, views come and go, and the arbiter says its last words: nothing.
    rig.take();
    let old_poll = 1;
    rig.host(FromHost::Welcome(Box::new(without)));
    rig.host(FromHost::View(view(5, &[1])));
    rig.host(FromHost::Quorum(quorum(5, true)));
    rig.host(FromHost::Polled { id: old_poll, applied: true });
    rig.host(FromHost::Alive { highest_epoch: Epoch(5) });
    rig.arbiter(&vote_info(2, Vote::Ack, 4, Some(grant(7, 4, 1))));
    assert_eq!(rig.take(), []);

    rig.host(FromHost::Welcome(Box::new(welcome(settings(5403)))));
    assert!(rig.done.contains(&Action::Register));
    assert!(!rig.connects(), "the view of before may be an old one");
    rig.host(FromHost::View(view(6, &[1])));
    rig.host(FromHost::Quorum(quorum(6, false)));
    assert!(rig.connects());
    rig.introduce(ours());
    assert_eq!(rig.sent_of(MessageType::Init).remove(0).hello.unwrap().held, None);
    rig.arbiter(&vote_info(1, Vote::Ack, 6, Some(grant(8, 6, 1))));
    assert_eq!(rig.polls().len(), 1);
    let status = rig.done.iter().any(|action| matches!(action, Action::Status(_)));
    assert!(status, "the host has forgotten what it was shown before");
}

#[test]
fn a_bound_that_changes_ends_no_session() {
    let mut rig = Rig::connected(ours());
    let mut changed = welcome(with_tls(TlsMode::Off));
    changed.bound.class = protocol::vote::WatchdogClass::D;
    rig.host(FromHost::Welcome(Box::new(changed)));
    assert!(!rig.disconnected());
    assert!(rig.sent_of(MessageType::NodeList).is_empty(), "the lists are the same");
}
