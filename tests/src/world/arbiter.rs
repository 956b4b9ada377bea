//! What the arbiter does to the world.

use protocol::ids::NodeId;
use protocol::qnet::{Deframer, MESSAGE_LIMIT_BYTES, Message, MessageType};
use qnetd::core::{Action, Event, Peer};

use super::machine::{Input, Write};
use super::{Delivery, World};
use crate::network::{Segment, Site};
use crate::sabotage::Sabotage;
use crate::scenario::{End, Process};

impl World {
    pub(super) fn run_arbiter(&mut self, input: Input) {
        match input {
            Input::Timeout => self.handle_arbiter(Event::Timeout),
            Input::Arbiter(event) => {
                let secured = match &event {
                    Event::Secured { client, .. } => Some(client.0),
                    Event::Connected { .. }
                    | Event::Received { .. }
                    | Event::TooLong { .. }
                    | Event::Closed { .. }
                    | Event::Persisted(_)
                    | Event::PersistFailed(_)
                    | Event::Timeout => None,
                };
                self.handle_arbiter(event);
                if let Some(stream) = secured {
                    self.send_segment(stream, false, Segment::TlsDone);
                }
            }
            Input::Opened(stream) => {
                let client = Self::client_id(stream);
                self.handle_arbiter(Event::Connected { client, address: format!("s{stream}") });
            }
            Input::Broken(stream) => self.arbiter_closed(stream),
            Input::Segment(stream, segment) => self.arbiter_segment(stream, segment),
            Input::Beat(_)
            | Input::Node(_)
            | Input::Report(_)
            | Input::KeeperState { .. }
            | Input::ChildEnded
            | Input::DevicePlugged
            | Input::Host(_)
            | Input::HostGone
            | Input::Device(_)
            | Input::Keeper(_) => {}
        }
    }

    fn arbiter_segment(&mut self, stream: u64, segment: Segment) {
        let client = Self::client_id(stream);
        match segment {
            Segment::Bytes(bytes) => {
                for frame in self.frames(stream, true, &bytes) {
                    let open = self.network.streams.get(&stream).is_some_and(|s| s.server_open);
                    let client_site = self.site_of(stream);
                    let heard = match (&frame, client_site) {
                        (Some(frame), Some(Site::Node(node))) => self.arbiter_may_hear(node, frame),
                        (None, _) | (_, Some(Site::Arbiter | Site::Gateway) | None) => true,
                    };
                    let frame = match client_site {
                        Some(Site::Gateway) => frame.map(|frame| self.spoil_call(frame)),
                        Some(Site::Node(_) | Site::Arbiter) | None => frame,
                    };
                    if open && heard {
                        self.handle_arbiter(match frame {
                            Some(frame) => Event::Received { client, frame },
                            None => Event::TooLong { client },
                        });
                    }
                }
            }
            Segment::TlsHello => {
                let Some(known) = self.network.streams.get_mut(&stream) else { return };
                known.hello_came = true;
                self.secure(stream);
            }
            Segment::Fin => self.arbiter_closed(stream),
            Segment::TlsDone => {}
        }
    }

    /// The handshake is done once both sides have begun it.
    fn secure(&mut self, number: u64) {
        let Some(stream) = self.network.streams.get(&number) else { return };
        let node = match stream.client {
            Site::Node(node) => Some(node),
            Site::Gateway => None,
            Site::Arbiter => return,
        };
        if !stream.server_tls || !stream.hello_came {
            return;
        }
        let identity = Some(Peer { cluster: self.cluster.clone(), node, gateway: node.is_none() });
        let secured = Event::Secured { client: Self::client_id(number), identity };
        let (pause, life) = (self.pause(500, 3000), self.server.arbiter.life);
        self.put_in(pause, Delivery::Input(Process::Arbiter, Some(life), Input::Arbiter(secured)));
    }

    pub(super) fn handle_arbiter(&mut self, event: Event) {
        let now = self.server.arbiter.clock.at(self.now);
        let Some(machine) = &mut self.server.arbiter.machine else { return };
        machine.handle(now, event);
        self.core_steps += 1;
        while let Some(action) = self.server.arbiter.machine.as_mut().and_then(|m| m.next_action())
        {
            if !self.may_act(Process::Arbiter) {
                return;
            }
            self.do_arbiter(action);
        }
    }

    fn do_arbiter(&mut self, action: Action) {
        let me = Process::Arbiter;
        match action {
            Action::Send { client, bytes } => {
                match self.site_of(client.0) {
                    Some(Site::Node(node)) => self.look_at_votes(client.0, node, &bytes),
                    Some(Site::Gateway) => self.look_at_answer(&bytes),
                    Some(Site::Arbiter) | None => {}
                }
                self.send_segment(client.0, false, Segment::Bytes(bytes));
            }
            Action::StartTls { client } => {
                if let Some(stream) = self.network.streams.get_mut(&client.0) {
                    stream.server_tls = true;
                    self.secure(client.0);
                }
            }
            Action::Close { client, reason } => {
                if let Some(site) = self.site_of(client.0) {
                    self.trace.line(self.now, me, format_args!("closes {site}: {reason:?}"));
                }
                self.close_end(client.0, false);
            }
            Action::Persist { token, mut record } => {
                if self.sabotage == Some(Sabotage::EpochNotRaised)
                    && let Some(before) = self.server.journal.last()
                {
                    record.grant.epoch = before.grant.epoch;
                }
                if self.sabotage == Some(Sabotage::GrantBeforeDurable) {
                    let life = self.server.arbiter.life;
                    let done = Input::Arbiter(Event::Persisted(token));
                    let pause = self.pause(1, 10);
                    self.put_in(pause, Delivery::Input(me, Some(life), done));
                }
                self.write(me, Write::Arbiter(token, record));
            }
            Action::PersistFencing { token, record } => {
                self.write(me, Write::Fencing(token, record));
            }
            Action::Decided { cluster: _, text } => {
                self.trace.line(self.now, me, format_args!("{text}"));
            }
        }
    }

    fn site_of(&self, stream: u64) -> Option<Site> {
        self.network.streams.get(&stream).map(|stream| stream.client)
    }

    /// Grants that are about to be sent are checked, and votes are shown.
    fn look_at_votes(&mut self, stream: u64, id: NodeId, bytes: &[u8]) {
        let (_, frame) = Deframer::new(MESSAGE_LIMIT_BYTES).feed(bytes);
        let Some(Ok(frame)) = frame else { return };
        let Ok(message) = Message::decode(&frame) else { return };
        let node = End::Node(id);
        if let Some(grant) = message.options.grant {
            let durable = self.server.journal.iter().any(|r| r.grant == grant.id)
                || self.sabotage == Some(Sabotage::GrantForgotten);
            self.monitor.grant_sent(node, grant, durable);
            self.check_not_condemned(id);
            if let Some(known) = self.network.streams.get(&stream) {
                self.monitor.lease_sent(id, known.client_life, stream, grant);
            }
        }
        let me = Process::Arbiter;
        if message.kind == MessageType::ServerError {
            let code = message.options.error_code;
            self.trace.line(self.now, me, format_args!("answers {node} error {code:?}"));
        }
        if message.kind == MessageType::VoteInfo
            && let Some(vote) = message.options.vote
        {
            self.monitor.vote_sent(self.now, node, vote, message.options.grant);
            let lease = message.options.grant.map_or(0, |grant| grant.lease_ms);
            self.trace.line(self.now, me, format_args!("tells {node} {vote}, lease {lease} ms"));
        }
    }
}
