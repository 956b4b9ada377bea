//! The gateway's session with the arbiter, as its daemon makes it: connect, greet, TLS, a first call
//! that changes nothing, and then calls up and answers down.

use std::time::Duration;

use fence::core::Event;
use protocol::fence::{
    Answer, Ask, Call, FRAME_ANSWER, FRAME_CALL, IntentId, Nonce, Refusal, Verdict,
};
use protocol::ids::{BootId, NodeId};
use protocol::qnet::{Deframer, Frame, MESSAGE_LIMIT_BYTES, Message, MessageType};
use protocol::time::Time;

use super::super::machine::{Input, Running};
use super::{Delivery, ToGateway, World};
use crate::invariants::Names;
use crate::network::{Segment, Site, Stream};
use crate::sabotage::Sabotage;
use crate::scenario::End;

/// How long connecting, greeting and the handshake may take together.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// The arbiter answers a call within this, or the session is given up.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// A session without calls is tried this often.
const PROBE_EVERY: Duration = Duration::from_secs(10);
/// The first pause before a new session; it doubles up to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A proof is held up for this long with a late proof, and what is said of it meanwhile is lost.
const LATE: Duration = Duration::from_secs(20);

/// How far a session has come.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Stage {
    /// There is none.
    #[default]
    Away,
    Connecting,
    Greeting,
    Securing,
    Probing,
    Up,
}

/// The session.
#[derive(Debug, Default)]
pub(super) struct Session {
    stage: Stage,
    pub(super) stream: Option<u64>,
    /// When the stage began; of [`Stage::Connecting`] to [`Stage::Securing`] the first.
    since: Time,
    probe: Nonce,
    /// The oldest call without an answer.
    waiting: Option<Time>,
    /// When something was heard last.
    quiet: Time,
    pause: Duration,
}

impl World {
    pub(super) fn connect_gateway(&mut self) {
        let (now, life) = (self.now, self.gateway.slot.life());
        self.network.opened += 1;
        let number = self.network.opened;
        self.network.streams.insert(number, Stream::new(Site::Gateway, life));
        let session = &mut self.gateway.session;
        (session.stage, session.stream, session.since) = (Stage::Connecting, Some(number), now);
        self.put_in(CONNECT_LIMIT, Delivery::ConnectLimit { stream: number });
        self.syn(number, 0);
    }

    /// Something of a stream: of the present one, or nobody listens.
    pub(super) fn session_hears(&mut self, input: Input) {
        let current = self.gateway.session.stream;
        match input {
            Input::Opened(stream) if current == Some(stream) => {
                let mut hello = Message::new(MessageType::Preinit, Some(1));
                hello.options.cluster_name = Some(self.cluster.clone());
                self.gateway.session.stage = Stage::Greeting;
                self.send_segment(stream, true, Segment::Bytes(hello.encode()));
            }
            Input::Broken(stream) if current == Some(stream) => {
                self.session_ends("the connection has failed");
            }
            Input::Segment(stream, segment) if current == Some(stream) => match segment {
                Segment::Bytes(bytes) => {
                    for frame in self.frames(stream, false, &bytes) {
                        if self.gateway.session.stream == Some(stream) {
                            self.session_reads(stream, frame);
                        }
                    }
                }
                Segment::TlsDone => {
                    self.gateway.session.stage = Stage::Probing;
                    self.gateway.session.since = self.now;
                    self.probe(stream);
                }
                Segment::Fin => self.session_ends("the arbiter has closed the connection"),
                Segment::TlsHello => {}
            },
            Input::Opened(_)
            | Input::Broken(_)
            | Input::Segment(..)
            | Input::Timeout
            | Input::Beat(_)
            | Input::Node(_)
            | Input::Report(_)
            | Input::KeeperState { .. }
            | Input::ChildEnded
            | Input::DevicePlugged
            | Input::Host(_)
            | Input::HostGone
            | Input::Device(_)
            | Input::Arbiter(_)
            | Input::Keeper(_) => {}
        }
    }

    fn session_reads(&mut self, stream: u64, frame: Option<Frame>) {
        let greets = self.gateway.session.stage == Stage::Greeting;
        let kind = frame.as_ref().and_then(|frame| MessageType::from_u16(frame.kind));
        match (frame, kind) {
            (_, Some(MessageType::PreinitReply)) if greets => {
                self.gateway.session.stage = Stage::Securing;
                let start = Message::new(MessageType::StartTls, Some(2));
                self.send_segment(stream, true, Segment::Bytes(start.encode()));
                self.send_segment(stream, true, Segment::TlsHello);
            }
            (Some(frame), None) if frame.kind == FRAME_ANSWER => {
                match Answer::decode(&frame.body) {
                    Ok(answer) => self.session_answered(answer),
                    Err(error) => {
                        let text = format!("the arbiter's answer to the gateway: {error}");
                        self.monitor.report("S10", text);
                    }
                }
            }
            (_, Some(MessageType::ServerError)) => self.session_ends("the arbiter says no"),
            (_, kind) => {
                let text = format!("the arbiter sends the gateway {kind:?}");
                self.monitor.report("S10", text);
            }
        }
    }

    fn session_answered(&mut self, answer: Answer) {
        let now = self.now;
        let session = &mut self.gateway.session;
        (session.waiting, session.quiet) = (None, now);
        if answer.nonce != session.probe {
            self.handle_gateway(Event::Answered(Box::new(answer)));
            return;
        }
        if answer.verdict == Verdict::Refused(Refusal::NotAGateway) {
            let text = "the arbiter does not take the gateway for one".to_owned();
            self.monitor.report("S10", text);
        }
        if session.stage == Stage::Probing {
            (session.stage, session.pause) = (Stage::Up, Duration::ZERO);
            self.trace.line(now, Site::Gateway, format_args!("has a session with the arbiter"));
            self.handle_gateway(Event::ArbiterUp);
        }
    }

    /// A call that changes nothing: an intent that no arbiter has.
    fn probe(&mut self, stream: u64) {
        let nonce = Nonce(u128::from(self.chance(1, u64::MAX - 1)));
        self.gateway.session.probe = nonce;
        self.send_call(stream, &Call { nonce, ask: Ask::Attest(IntentId::default()) });
    }

    fn send_call(&mut self, stream: u64, call: &Call) {
        self.gateway.session.waiting.get_or_insert(self.now);
        let bytes = self.call_bytes(call);
        self.send_segment(stream, true, Segment::Bytes(bytes));
    }

    fn call_bytes(&mut self, call: &Call) -> Vec<u8> {
        match call.encode() {
            Ok(body) => Frame { kind: FRAME_CALL, body }.encode(),
            Err(error) => {
                self.monitor.report("S10", format!("the gateway made a bad call: {error}"));
                Vec::new()
            }
        }
    }

    /// The core asks the arbiter.
    pub(super) fn call(&mut self, nonce: Nonce, ask: Ask) {
        let (stage, stream) = (self.gateway.session.stage, self.gateway.session.stream);
        let Some(stream) = stream.filter(|_| stage == Stage::Up) else { return };
        if let Some(answer) = self.made_up(nonce, &ask) {
            let input = ToGateway::MadeUp(Box::new(answer));
            let pause = self.pause(500, 2000);
            self.put_in(pause, Delivery::Gateway(self.gateway.slot.life(), input));
            return;
        }
        let call = Call { nonce, ask };
        if let Ask::Off { proof, .. } = &call.ask
            && self.gateway.switch(proof.node).late > 0
        {
            let key = (proof.node, proof.boot);
            let known = self.gateway.held.get(&key).copied();
            let until = known.unwrap_or(self.now + LATE);
            if known.is_none() {
                self.gateway.held.insert(key, until);
                let input = ToGateway::Late(stream, self.call_bytes(&call));
                self.put(until, Delivery::Gateway(self.gateway.slot.life(), input));
            }
            if self.now < until {
                return;
            }
        }
        self.send_call(stream, &call);
    }

    pub(super) fn late_call(&mut self, stream: u64, bytes: Vec<u8>) {
        self.gateway_says("the first word of a proof gets through to the arbiter");
        self.send_segment(stream, true, Segment::Bytes(bytes));
    }

    /// Sabotage: the arbiter is asked once, and its first word is taken for all later ones.
    fn made_up(&self, nonce: Nonce, ask: &Ask) -> Option<Answer> {
        let Ask::Attest(intent) = ask else { return None };
        let (_, word) = self.gateway.words.get(intent)?;
        (self.sabotage == Some(Sabotage::EntitledOnce))
            .then(|| Answer { nonce, verdict: Verdict::Entitled(word.clone()) })
    }

    /// Sabotage: a proof that arrives is taken for one of the boot that runs now.
    pub(crate) fn spoil_call(&self, frame: Frame) -> Frame {
        if self.sabotage != Some(Sabotage::ProofWithoutBoot) || frame.kind != FRAME_CALL {
            return frame;
        }
        let Ok(mut call) = Call::decode(&frame.body) else { return frame };
        if let Ask::Off { proof, .. } = &mut call.ask {
            proof.boot = self.hosts.get(&proof.node).map_or(BootId(0), |host| host.boot);
        }
        call.encode().map(|body| Frame { kind: FRAME_CALL, body }).unwrap_or(frame)
    }

    /// The arbiter answers the gateway: what it says is remembered, and looked at.
    pub(crate) fn look_at_answer(&mut self, bytes: &[u8]) {
        let (_, frame) = Deframer::new(MESSAGE_LIMIT_BYTES).feed(bytes);
        let Some(Ok(frame)) = frame.filter(|f| f.as_ref().is_ok_and(|f| f.kind == FRAME_ANSWER))
        else {
            return;
        };
        let verdict = Answer::decode(&frame.body).map(|answer| answer.verdict);
        if let Ok(Verdict::Entitled(word)) = verdict {
            self.check_word(&word);
            if !self.gateway.words.contains_key(&word.intent) {
                let holders: Vec<NodeId> = word.holders.iter().copied().collect();
                let targets: Vec<NodeId> = word.targets.keys().copied().collect();
                let (holders, targets) = (Names(&holders), Names(&targets));
                let text = format_args!("lets {holders} have {targets} fenced ({:?})", word.role);
                self.monitor.note(self.now, End::Arbiter, text);
            }
            self.gateway.words.insert(word.intent, (self.now, word));
        }
    }

    /// The session is given up, and another one tried a little later.
    fn session_ends(&mut self, why: &str) {
        let session = &mut self.gateway.session;
        let was_up = session.stage == Stage::Up;
        (session.stage, session.waiting) = (Stage::Away, None);
        let pause = session.pause.max(PAUSE_MIN);
        session.pause = (pause * 2).min(PAUSE_MAX);
        if let Some(stream) = session.stream.take() {
            self.close_end(stream, true);
        }
        self.trace.line(self.now, Site::Gateway, format_args!("has no session: {why}"));
        let half = u64::try_from(pause.as_micros() / 2).unwrap_or(0);
        let pause = self.pause(half, half * 2);
        self.put_in(pause, Delivery::Gateway(self.gateway.slot.life(), ToGateway::Connect));
        if was_up {
            self.handle_gateway(Event::ArbiterDown(why.to_owned()));
        }
    }

    /// What takes too long is given up; what is quiet is tried.
    pub(super) fn session_looks(&mut self) {
        let (now, session) = (self.now, &self.gateway.session);
        let Some(stream) = session.stream.filter(|_| self.gateway.slot.is_running()) else {
            return;
        };
        match session.stage {
            Stage::Away => {}
            Stage::Connecting | Stage::Greeting | Stage::Securing => {
                if now >= session.since + CONNECT_LIMIT {
                    self.session_ends("no session in time");
                }
            }
            Stage::Probing | Stage::Up => {
                if session.waiting.is_some_and(|since| now >= since + ANSWER_LIMIT) {
                    self.session_ends("no answer to a call in time");
                } else if session.waiting.is_none() && now >= session.quiet + PROBE_EVERY {
                    self.probe(stream);
                }
            }
        }
    }
}
