//! The conversation with the arbiter: connect, introduce, echoes, reconnect (wire 2).

use std::collections::VecDeque;
use std::time::Duration;

use protocol::host::TlsMode;
use protocol::ids::ViewId;
use protocol::qnet::{
    ArbiterHello, ErrorCode, Frame, Held, Hello, HostKind, Message, MessageType, Options, Renewal,
    TlsSupport, numbers, stock_options, supported_messages,
};
use protocol::time::Time;
use protocol::times;
use protocol::vote::Vote;

use super::ballot::Purpose;
use super::{Action, Device, Host, State};

/// Sending times that are remembered, of renewals every [`times::RENEWAL`]: a minute's worth.
const SENT_REMEMBERED: usize = 256;
/// An own arbiter that says nothing for this long is connected to anew: behind a healed path an
/// old connection may take minutes to come back.
const SILENCE_LIMIT: Duration = Duration::from_secs(2);
/// A connection stands within this, or is tried again.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// The first pause before a reconnect; it doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(100);
/// The longest pause before a reconnect, as the stock client's (wire 2.7).
const RETRY_MAX: Duration = Duration::from_millis(4500);

/// How far the conversation has come.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Stage {
    #[default]
    Down,
    Connecting,
    Preinit,
    Tls,
    Init,
    Up,
}

/// The conversation.
#[derive(Clone, Debug, Default)]
pub(super) struct Session {
    stage: Stage,
    /// When to connect, while down.
    retry_at: Option<Time>,
    failures: u32,
    /// When a connection attempt is given up.
    limit: Option<Time>,
    /// Of every message but echoes; goes on over reconnects, as the stock client's does (2.2).
    seq: u32,
    echo: u32,
    sent: VecDeque<(u32, Time)>,
    next_renewal: Option<Time>,
    next_heartbeat: Option<Time>,
    unanswered: Option<u32>,
    /// When the newest answered echo was sent: for a stock arbiter's vote.
    answered: Option<Time>,
    heard: Time,
    /// The worst case that the arbiter was told of, in milliseconds.
    worst_case_ms: u32,
    heartbeat: Duration,
    pub(super) connected_at: Option<Time>,
    pub(super) echoed_at: Option<Time>,
    /// The arbiter knows option 23.
    pub(super) keeps_active_partition: bool,
    /// An arbiter of ours has introduced itself on this connection.
    pub(super) arbiter: Option<ArbiterHello>,
    pub(super) lists_sent: bool,
}

impl Session {
    pub(super) fn is_down(&self) -> bool {
        self.stage == Stage::Down
    }

    pub(super) fn is_up(&self) -> bool {
        self.stage == Stage::Up
    }

    pub(super) fn state(&self) -> State {
        match self.stage {
            Stage::Down => State::Down,
            Stage::Connecting | Stage::Preinit | Stage::Tls | Stage::Init => State::Connecting,
            Stage::Up => State::Connected,
        }
    }

    pub(super) fn deadlines(&self) -> impl Iterator<Item = Time> {
        let alive = self.is_up().then(|| self.dead_at()).filter(|at| *at != Time::NEVER);
        let all = [self.retry_at, self.limit, self.next_renewal, self.next_heartbeat, alive];
        all.into_iter().flatten()
    }

    fn dead_at(&self) -> Time {
        if self.arbiter.is_some() { self.heard + SILENCE_LIMIT } else { Time::NEVER }
    }

    fn heartbeat_pause(&self) -> Duration {
        if self.arbiter.is_some() { SILENCE_LIMIT / 4 } else { self.heartbeat }
    }

    /// Forgets the connection; the next is tried at `retry_at`, or as soon as there is a host.
    pub(super) fn reset(&mut self, retry_at: Option<Time>) {
        *self = Self { retry_at, failures: self.failures, seq: self.seq, ..Self::default() };
    }

    /// When an echo request of this connection was sent.
    pub(super) fn sent_at(&self, echo: u32) -> Option<Time> {
        self.sent.iter().rev().find(|(seq, _)| *seq == echo).map(|(_, at)| *at)
    }

    /// Until when a stock arbiter's vote may be cast: it drops a client 1.5 heartbeats after its
    /// last message, so 1.25 after the sending of the last one that it answered (safety 8).
    pub(super) fn stock_vote_ends(&self) -> Option<Time> {
        self.answered.map(|at| at + self.heartbeat * 5 / 4)
    }

    pub(super) fn next_seq(&mut self) -> u32 {
        self.seq = self.seq.wrapping_add(1);
        self.seq
    }
}

impl Device {
    pub(super) fn send(&mut self, message: &Message) {
        match self.session.stage {
            Stage::Preinit | Stage::Init | Stage::Up => {
                self.actions.push_back(Action::Send(message.encode()));
            }
            Stage::Down | Stage::Connecting | Stage::Tls => {}
        }
    }

    /// Closes the conversation and starts the next one after a pause.
    pub(super) fn restart(&mut self, now: Time, problem: &str) {
        if !self.session.is_down() {
            self.actions.push_back(Action::Disconnect);
            self.disconnected(now, problem.to_owned());
        }
    }

    pub(super) fn disconnected(&mut self, now: Time, reason: String) {
        if self.session.is_down() {
            return;
        }
        if self.problem.as_ref() != Some(&reason) {
            let text = format!("no arbiter: {reason}");
            self.actions.push_back(Action::Decided(text));
        }
        self.problem = Some(reason);
        self.drop_stock_vote();
        self.heuristics_running = None;
        let pause = RETRY_MIN * 2u32.saturating_pow(self.session.failures.min(6));
        let pause = pause.min(RETRY_MAX);
        let half = u64::try_from(pause.as_micros() / 2).unwrap_or(0);
        let jitter = Duration::from_micros(self.rng.below(half.saturating_add(1)));
        self.session.failures = self.session.failures.saturating_add(1);
        self.session.reset(Some(now + pause / 2 + jitter));
    }

    /// Does what is due.
    pub(super) fn tick(&mut self, now: Time) {
        self.connect_when_due(now);
        if self.session.limit.is_some_and(|at| now >= at) {
            self.restart(now, "the arbiter did not answer in time: is it running and reachable?");
        }
        if self.session.is_up() && now >= self.session.dead_at() {
            self.restart(now, "the arbiter has fallen silent");
        }
        if self.session.is_up() {
            self.renew_when_due(now);
            self.heartbeat_when_due(now);
        }
        if self.heuristics_at.is_some_and(|at| now >= at) {
            self.start_heuristics(Purpose::Regular);
        }
    }

    fn connect_when_due(&mut self, now: Time) {
        let Some(host) = &self.host else { return };
        // Init names the ring, so there is nothing to say before the first view.
        let due = self.session.retry_at.is_none_or(|at| now >= at);
        if !self.session.is_down() || host.view.is_none() || !due {
            return;
        }
        let configured = Duration::from_millis(u64::from(host.settings.connect_timeout_ms));
        let limit = configured.min(CONNECT_LIMIT);
        self.session.stage = Stage::Connecting;
        self.session.retry_at = None;
        self.session.heartbeat = Duration::from_millis(u64::from(host.settings.heartbeat_ms));
        // The whole introduction, TLS included, has to fit.
        self.session.limit = Some(now + limit * 2);
        self.actions.push_back(Action::Connect { limit });
    }

    pub(super) fn connected(&mut self, now: Time) {
        if self.session.stage != Stage::Connecting {
            return;
        }
        let Some(cluster) = self.host.as_ref().map(|host| host.welcome.cluster.clone()) else {
            return;
        };
        self.session.heard = now;
        self.session.stage = Stage::Preinit;
        self.session.seq = self.session.seq.max(1);
        let mut message = Message::new(MessageType::Preinit, Some(self.session.seq));
        message.options.cluster_name = Some(cluster.as_str().into());
        self.send(&message);
    }

    pub(super) fn secured(&mut self, now: Time) {
        if self.session.stage == Stage::Tls {
            self.session.heard = now;
            self.send_init(now);
        }
    }

    pub(super) fn received(&mut self, now: Time, frame: &Frame) {
        self.session.heard = now;
        let message = match Message::decode(frame) {
            Ok(message) => message,
            Err(error) => {
                self.restart(now, &format!("the arbiter sent bytes that make no sense: {error}"));
                return;
            }
        };
        let options = message.options;
        match (self.session.stage, message.kind) {
            (_, MessageType::ServerError) => {
                let text = format!("the arbiter answered: {}", describe(options.error_code));
                self.restart(now, &text);
            }
            (Stage::Preinit, MessageType::PreinitReply) => self.preinit_reply(now, &options),
            (Stage::Init, MessageType::InitReply) => self.init_reply(now, &options),
            (Stage::Up, MessageType::EchoReply) => self.echo_reply(now, &options),
            (
                Stage::Up,
                MessageType::NodeListReply
                | MessageType::AskForVoteReply
                | MessageType::HeuristicsChangeReply,
            ) => self.answered_vote(now, &options, None),
            (Stage::Up, MessageType::VoteInfo) => self.answered_vote(now, &options, options.seq),
            (Stage::Up, MessageType::SetOptionReply) => {}
            (_, kind) => self.restart(now, &format!("the arbiter sent {kind:?} out of turn")),
        }
    }

    fn preinit_reply(&mut self, now: Time, options: &Options) {
        let Some(configured) = self.host.as_ref().map(|host| host.settings.tls) else { return };
        let (Some(seq), Some(offered), Some(_)) =
            (options.seq, options.tls_supported, options.tls_client_cert_required)
        else {
            self.restart(now, "the arbiter's greeting lacks an option");
            return;
        };
        if seq != self.session.seq {
            self.restart(now, "the arbiter's greeting answers another one");
            return;
        }
        match (configured, offered) {
            (TlsMode::Off, TlsSupport::Unsupported | TlsSupport::Supported) => {
                self.send_init(now);
            }
            (TlsMode::Off, TlsSupport::Required) => {
                self.restart(now, "the arbiter wants TLS: set tls: on in quorum.device.net");
            }
            // A man in the middle could have altered the offer (8.9 c).
            (TlsMode::On | TlsMode::Required, TlsSupport::Unsupported) => self.restart(
                now,
                "the arbiter offers no TLS: start it with -s req, or set tls: off here to mean it",
            ),
            (TlsMode::On | TlsMode::Required, TlsSupport::Supported | TlsSupport::Required) => {
                let seq = self.session.next_seq();
                self.send(&Message::new(MessageType::StartTls, Some(seq)));
                self.session.stage = Stage::Tls;
                self.actions.push_back(Action::StartTls);
            }
        }
    }

    /// How long the host may still count the vote of a device that has lost its lease, for the
    /// arbiter to add to what it waits (safety 8).
    ///
    /// A device that runs takes its vote back itself. One that was killed has been heard by
    /// corosync at the end of its lease at the latest; votequorum drops it T after that, or S
    /// later if a membership change waits for it.
    fn worst_case_ms(&self, host: &Host, view: ViewId) -> u32 {
        let settings = &host.settings;
        let changing = host.quorum.as_ref().is_none_or(|quorum| quorum.view != view);
        match (self.config.host, changing) {
            (HostKind::Builtin, _) => 0,
            (HostKind::Corosync, false) => settings.timeout_ms,
            (HostKind::Corosync, true) => {
                settings.timeout_ms.saturating_add(settings.sync_timeout_ms)
            }
        }
    }

    fn send_init(&mut self, now: Time) {
        let Some(host) = &self.host else { return };
        let Some(view) = &host.view else { return };
        let worst_case_ms = self.worst_case_ms(host, view.id);
        let lease = self.ballot.lease.filter(|lease| now < lease.expires);
        let held = lease.map(|lease| Held {
            grant: lease.grant,
            view: lease.view,
            remaining_ms: u32::try_from(lease.expires.since(now).as_millis()).unwrap_or(u32::MAX),
        });
        let mut options = Options {
            supported_messages: Some(supported_messages()),
            supported_options: Some(stock_options()),
            node_id: Some(host.welcome.node.0),
            algorithm: Some(numbers::algorithm_number(host.settings.algorithm)),
            heartbeat_ms: Some(host.settings.heartbeat_ms),
            tie_breaker: Some(host.settings.tie_breaker),
            ring: Some(view.id.ring),
            hello: Some(Hello {
                instance: self.config.instance,
                boot: host.welcome.boot,
                host: self.config.host,
                worst_case_ms,
                bound: host.welcome.bound,
                highest_epoch: self.highest_epoch,
                held: held.filter(|held| held.grant.epoch.0 > 0),
            }),
            ..Options::default()
        };
        self.session.stage = Stage::Init;
        self.session.worst_case_ms = worst_case_ms;
        options.seq = Some(self.session.next_seq());
        self.send(&Message { kind: MessageType::Init, options });
    }

    fn init_reply(&mut self, now: Time, options: &Options) {
        if options.seq != Some(self.session.seq) {
            self.restart(now, "the arbiter's answer to Init answers another one");
            return;
        }
        if options.error_code != Some(ErrorCode::NoError as u16) {
            let text = format!("the arbiter refused this node: {}", describe(options.error_code));
            self.restart(now, &text);
            return;
        }
        if let (Some(pinned), Some(hello)) = (self.pinned, options.arbiter_hello)
            && pinned != hello.id
        {
            let text = format!(
                "another arbiter answers ({}, known is {pinned}): if it was replaced on purpose, \
                 remove the pin in the device's state directory and restart the device",
                hello.id
            );
            self.restart(now, &text);
            return;
        }
        if let (Some(pinned), None) = (self.pinned, options.arbiter_hello) {
            // The stock daemon that ran here before ours knows nothing of what was granted since.
            let text = format!(
                "an arbiter without an identity answers, known is {pinned}: is an old \
                 corosync-qnetd running? to go back to it, remove the pin in the device's state \
                 directory and restart the device"
            );
            self.restart(now, &text);
            return;
        }
        if let (None, Some(hello)) = (self.pinned, options.arbiter_hello) {
            self.pinned = Some(hello.id);
            self.actions.push_back(Action::Pin(hello.id));
        }
        self.session.stage = Stage::Up;
        self.session.limit = None;
        self.session.failures = 0;
        self.session.arbiter = options.arbiter_hello;
        self.session.answered = Some(now);
        self.session.connected_at = Some(now);
        self.session.next_heartbeat = Some(now + self.session.heartbeat_pause());
        self.session.next_renewal = self.session.arbiter.map(|_| now);
        self.problem = None;
        self.actions.push_back(Action::Decided("connected to the arbiter".to_owned()));
        // The first renewal anchors leases before the lists ask for one.
        self.renew_when_due(now);
        let supported = options.supported_options.as_deref().unwrap_or_default();
        self.session.keeps_active_partition = supported.contains(&23);
        if let Some(host) = self.host.as_ref().filter(|_| supported.contains(&23)) {
            let keep = host.settings.keep_active_partition;
            let seq = self.session.next_seq();
            let mut message = Message::new(MessageType::SetOption, Some(seq));
            message.options.keep_active_partition = Some(keep);
            self.send(&message);
        }
        self.start_heuristics(Purpose::Connect);
    }

    /// Asks for the lease to go on, as long as there is a host that would count it.
    fn renew_when_due(&mut self, now: Time) {
        if self.session.next_renewal.is_none_or(|at| now < at) {
            return;
        }
        self.session.next_renewal = Some(now + times::RENEWAL);
        if !self.host_lives(now) {
            return;
        }
        let view = self.host.as_ref().and_then(|host| host.view.as_ref()).map(|view| view.id);
        let lease = self.ballot.lease;
        let renewal = Renewal {
            grant: lease.map(|lease| lease.grant).unwrap_or_default(),
            view: lease.map(|lease| lease.view).or(view).unwrap_or_default(),
            highest_epoch: self.highest_epoch,
        };
        let worst_case_ms = self.shorter_worst_case();
        self.send_echo(now, Some(renewal), worst_case_ms);
    }

    /// The membership change in which the connection began is over. As long as the arbiter waits
    /// for it, nobody who is left can have the vote before their own corosync gives up waiting, so
    /// they would lose their quorum.
    fn shorter_worst_case(&mut self) -> Option<u32> {
        let host = self.host.as_ref()?;
        let worst_case_ms = self.worst_case_ms(host, host.view.as_ref()?.id);
        let is_shorter = worst_case_ms < self.session.worst_case_ms;
        self.session.worst_case_ms = self.session.worst_case_ms.min(worst_case_ms);
        is_shorter.then_some(worst_case_ms)
    }

    /// To a stock arbiter the heartbeat is the only sign of life, in both directions. To an own
    /// one it tells that the device lives while its host does not, so that the connection stays.
    fn heartbeat_when_due(&mut self, now: Time) {
        if self.session.next_heartbeat.is_none_or(|at| now < at) {
            return;
        }
        let stock = self.session.arbiter.is_none();
        if stock && self.session.unanswered.is_some() {
            self.restart(now, "the arbiter did not answer the last heartbeat");
            return;
        }
        self.session.next_heartbeat = Some(now + self.session.heartbeat_pause());
        if stock || !self.host_lives(now) {
            self.send_echo(now, None, None);
            self.session.unanswered = Some(self.session.echo).filter(|_| stock);
        }
    }

    fn send_echo(&mut self, now: Time, renewal: Option<Renewal>, worst_case_ms: Option<u32>) {
        self.session.echo = self.session.echo.wrapping_add(1);
        self.session.sent.push_back((self.session.echo, now));
        if self.session.sent.len() > SENT_REMEMBERED {
            self.session.sent.pop_front();
        }
        let mut message = Message::new(MessageType::EchoRequest, Some(self.session.echo));
        message.options.renewal = renewal;
        message.options.worst_case_ms = worst_case_ms;
        self.send(&message);
        if self.session.arbiter.is_some() {
            // A renewal is a sign of life too.
            self.session.next_heartbeat = Some(now + self.session.heartbeat_pause());
        }
    }

    fn echo_reply(&mut self, now: Time, options: &Options) {
        let Some(sent) = options.seq.and_then(|seq| self.session.sent_at(seq)) else {
            self.restart(now, "the arbiter answered an echo that was not sent");
            return;
        };
        self.session.answered = self.session.answered.max(Some(sent));
        self.session.echoed_at = Some(now);
        if self.session.unanswered == options.seq {
            self.session.unanswered = None;
        }
        self.hear_epoch(options);
        match (self.session.arbiter, options.grant) {
            (Some(_), Some(grant)) => self.renewed(now, grant),
            (Some(_), None) => {}
            (None, _) => self.extend_stock(),
        }
    }

    fn hear_epoch(&mut self, options: &Options) {
        if let Some(epoch) = options.epoch.filter(|_| self.session.arbiter.is_some()) {
            self.arbiter_epoch = self.arbiter_epoch.max(epoch);
            self.highest_epoch = self.highest_epoch.max(epoch);
        }
    }

    /// A vote, in an answer (`info` is `None`) or as a vote info.
    fn answered_vote(&mut self, now: Time, options: &Options, info: Option<u32>) {
        let (Some(vote), Some(ring)) = (options.vote, options.ring) else {
            self.restart(now, "the arbiter's vote lacks an option");
            return;
        };
        self.hear_epoch(options);
        let view = self.host.as_ref().and_then(|host| host.view.as_ref());
        // A vote for an older ring is void: the list of the present one asks again.
        if !self.session.lists_sent || view.is_none_or(|view| view.id.ring != ring) {
            return;
        }
        // Our arbiter says yes and no in vote infos only, which are confirmed.
        let plain = matches!(vote, Vote::Ack | Vote::Nack) && info.is_none();
        if !(plain && self.session.arbiter.is_some()) {
            self.vote(now, vote, info, options.grant);
        }
    }
}

fn describe(code: Option<u16>) -> String {
    match code.map(|code| (code, ErrorCode::from_u16(code))) {
        Some((_, Some(code))) => code.to_string(),
        Some((number, None)) => format!("error {number}"),
        None => "an error without a code".to_owned(),
    }
}
