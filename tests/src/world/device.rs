//! What a device does to the world, and the streams to the arbiter: those of devices, and that of
//! the gateway.

use std::time::Duration;

use node::core::Event as NodeEvent;
use protocol::host::FromHost;
use protocol::ids::{GrantId, NodeId};
use protocol::qnet::{Deframer, Frame, Grant, MESSAGE_LIMIT_BYTES, Message, MessageType};
use protocol::time::Time;
use protocol::vote::Heuristics;
use qdevice::core::{Action, Event};
use qnetd::core::{ClientId, Event as ArbiterEvent};

use super::gateway::ToGateway;
use super::machine::{Input, Running};
use super::{Delivery, World};
use crate::network::{Network, Segment, Site, Stream};
use crate::sabotage::Sabotage;
use crate::scenario::{End, Process};

/// A reset, or a segment to a machine without power, is sent this often.
const TRIES: u32 = 6;
/// The life of an arbiter process that is not the cluster's.
const NO_LIFE: u64 = u64::MAX;
/// One write in so many is cut in two on its way.
const SPLIT_ODDS: u64 = 8;

impl World {
    pub(super) fn run_device(&mut self, node: NodeId, input: Input) {
        match input {
            Input::Timeout => self.handle_device(node, Event::Timeout),
            Input::Host(said) => self.handle_device(node, Event::Host(said)),
            Input::HostGone => self.handle_device(node, Event::HostDown),
            Input::Device(event) => self.handle_device(node, event),
            Input::Opened(stream) if self.is_current(node, stream) => {
                self.handle_device(node, Event::Connected);
            }
            Input::Broken(stream) if self.is_current(node, stream) => {
                self.device_closed(node, "connection reset");
            }
            Input::Segment(stream, segment) if self.is_current(node, stream) => match segment {
                Segment::Bytes(bytes) => {
                    for frame in self.frames(stream, false, &bytes) {
                        let Some(frame) = frame else { continue };
                        let frame = self.spoil_reply(node, frame);
                        self.handle_device(node, Event::Received(frame));
                    }
                }
                Segment::TlsDone => self.handle_device(node, Event::Secured),
                Segment::Fin => self.device_closed(node, "closed by the arbiter"),
                Segment::TlsHello => {}
            },
            Input::Opened(_)
            | Input::Broken(_)
            | Input::Segment(..)
            | Input::Beat(_)
            | Input::Node(_)
            | Input::Report(_)
            | Input::KeeperState { .. }
            | Input::ChildEnded
            | Input::DevicePlugged
            | Input::Arbiter(_)
            | Input::Keeper(_) => {}
        }
    }

    /// Sabotage of what a device hears.
    fn spoil_reply(&self, node: NodeId, frame: Frame) -> Frame {
        let Some(sabotage) = self.sabotage else { return frame };
        let Ok(mut message) = Message::decode(&frame) else { return frame };
        let options = &mut message.options;
        match (sabotage, options.grant, options.renewal) {
            (Sabotage::LeaseFromReceipt, Some(mut grant), _) => {
                grant.anchor = self.monitor.newest_echo(node).unwrap_or(grant.anchor);
                options.grant = Some(grant);
            }
            (Sabotage::MirrorIsGrant, None, Some(renewal)) => {
                let anchor = options.seq.unwrap_or(0);
                let (id, view) = (renewal.grant, renewal.view);
                options.grant = Some(Grant { id, view, lease_ms: 1000, anchor });
            }
            (_, _, _) => return frame,
        }
        let bytes = message.encode();
        let (_, altered) = Deframer::new(MESSAGE_LIMIT_BYTES).feed(&bytes);
        altered.and_then(Result::ok).unwrap_or(frame)
    }

    fn is_current(&self, node: NodeId, stream: u64) -> bool {
        self.hosts.get(&node).is_some_and(|host| host.stream == Some(stream))
    }

    /// The shell closes its own end and forgets the stream.
    fn device_closed(&mut self, node: NodeId, reason: &str) {
        self.hang_up(node);
        self.handle_device(node, Event::Closed { reason: reason.to_owned() });
    }

    fn handle_device(&mut self, node: NodeId, event: Event) {
        let now = self.now;
        let Some(host) = self.hosts.get_mut(&node) else { return };
        let now = host.device.clock.at(now);
        let Some(machine) = &mut host.device.machine else { return };
        machine.handle(now, event);
        self.core_steps += 1;
        while let Some(action) =
            self.hosts.get_mut(&node).and_then(|host| host.device.machine.as_mut()?.next_action())
        {
            if !self.may_act(Process::Device(node)) {
                return;
            }
            self.do_device(node, action);
        }
    }

    fn do_device(&mut self, node: NodeId, action: Action) {
        let (me, host) = (Process::Device(node), Process::Node(node));
        match action {
            Action::Register => self.tell_node(node, NodeEvent::DeviceUp),
            Action::Poll { id, view, cast } => {
                if cast.is_none() && self.sabotage == Some(Sabotage::LossNotApplied) {
                    let polled = FromHost::Polled { id, applied: true };
                    self.local(host, me, Input::Host(polled));
                    return;
                }
                if let Some((until, grant)) = cast
                    && let Some(host) = self.hosts.get(&node)
                    && grant != GrantId::default()
                {
                    self.monitor.vote_cast((node, host.device.life), view, grant, until);
                }
                let cast = cast.map(|(until, grant)| (self.node_time(node, until), grant));
                self.tell_node(node, NodeEvent::Poll { id, view, cast });
            }
            Action::Unregister => self.tell_node(node, NodeEvent::DeviceDown),
            Action::Connect { limit } => self.connect(node, limit),
            Action::StartTls => self.send_up(node, Segment::TlsHello),
            Action::Send(bytes) => {
                self.look_at_echo(node, &bytes);
                self.send_up(node, Segment::Bytes(bytes));
            }
            Action::Disconnect => self.hang_up(node),
            Action::RunHeuristics { run, limit: _ } => {
                let done = Event::Heuristics { run, result: Heuristics::Pass };
                self.device_event(node, done);
            }
            Action::Pin(arbiter) => {
                if let Some(host) = self.hosts.get_mut(&node) {
                    host.pin = Some(arbiter);
                }
            }
            Action::Epoch(highest) => {
                if self.sabotage != Some(Sabotage::EpochNotHandedOver) {
                    self.tell_node(node, NodeEvent::ArbiterEpoch(highest));
                }
            }
            Action::Status(status) => {
                self.tell_node(node, NodeEvent::DeviceStatus(Box::new(status)));
            }
            Action::Exit => self.kill(me),
            Action::Decided(text) => self.trace.line(self.now, me, format_args!("{text}")),
        }
    }

    /// Remembers when echo requests were sent.
    fn look_at_echo(&mut self, node: NodeId, bytes: &[u8]) {
        let (_, frame) = Deframer::new(MESSAGE_LIMIT_BYTES).feed(bytes);
        let Some(Ok(frame)) = frame.filter(|f| f.as_ref().is_ok_and(is_echo)) else { return };
        let seq = Message::decode(&frame).ok().and_then(|message| message.options.seq);
        let Some(host) = self.hosts.get(&node) else { return };
        if let (Some(seq), Some(stream)) = (seq, host.stream) {
            self.monitor.echo_sent(node, stream, seq, host.device.clock.at(self.now));
        }
    }

    fn tell_node(&mut self, node: NodeId, event: NodeEvent) {
        if self.hosts.get(&node).is_some_and(|host| host.plugged) {
            self.local(Process::Device(node), Process::Node(node), Input::Node(event));
        }
    }

    /// A time of the device's clock as its node reads it.
    fn node_time(&self, node: NodeId, time: Time) -> Time {
        let host = self.hosts.get(&node);
        host.map_or(Time::ZERO, |host| host.device.clock.to(&host.node.clock, time))
    }

    fn connect(&mut self, node: NodeId, limit: Duration) {
        let Some(host) = self.hosts.get_mut(&node) else { return };
        self.network.opened += 1;
        let number = self.network.opened;
        let stream = Stream::new(Site::Node(node), host.device.life);
        host.stream = Some(number);
        let limit = host.device.clock.when(host.device.clock.at(self.now) + limit);
        self.network.streams.insert(number, stream);
        self.put(limit, Delivery::ConnectLimit { stream: number });
        self.syn(number, 0);
    }

    /// A connection attempt: it needs both directions, and somebody who listens.
    pub(super) fn syn(&mut self, number: u64, attempts: u32) {
        let Some(stream) = self.network.streams.get(&number) else { return };
        let client = stream.client;
        if !stream.client_open {
            return;
        }
        let there = self.network.packet(client, End::Arbiter);
        let back = self.network.packet(End::Arbiter, client);
        let (Some(there), Some(back), true) = (there, back, self.is_powered(End::Arbiter)) else {
            let again = Delivery::Syn { stream: number, attempts: attempts + 1 };
            self.put_in(Duration::from_secs(1 << attempts.min(5)), again);
            return;
        };
        let (now, mut life) = (self.now, self.server.arbiter.life);
        let mut listening = self.server.arbiter.is_running();
        if let Site::Node(node) = client
            && self.other_takes(number, node)
        {
            (life, listening) = (NO_LIFE, true);
        }
        let Some(stream) = self.network.streams.get_mut(&number) else { return };
        if !listening {
            stream.client_open = false;
            self.tell_client(now + there + back, number, not_connected(client, number, "refused"));
            return;
        }
        stream.server_life = Some(life);
        stream.server_open = true;
        stream.up.last_arrival = now + there;
        stream.down.last_arrival = now + there + back;
        let opened = Input::Opened(number);
        self.put(now + there, Delivery::Input(Process::Arbiter, Some(life), opened.clone()));
        self.tell_client(now + there + back, number, opened);
    }

    /// Something comes to the process that has asked for a stream.
    fn tell_client(&mut self, at: Time, number: u64, input: Input) {
        let Some(stream) = self.network.streams.get(&number) else { return };
        let life = stream.client_life;
        match stream.client {
            Site::Node(node) => {
                self.put(at, Delivery::Input(Process::Device(node), Some(life), input));
            }
            Site::Gateway => self.put(at, Delivery::Gateway(life, ToGateway::Stream(input))),
            Site::Arbiter => {}
        }
    }

    pub(super) fn connect_limit(&mut self, number: u64) {
        let Some(stream) = self.network.streams.get_mut(&number) else { return };
        if stream.server_life.is_some() || !stream.client_open {
            return;
        }
        stream.client_open = false;
        let failed = not_connected(stream.client, number, "no answer");
        self.client_input(number, failed);
    }

    /// The same as [`Self::tell_client`], now.
    fn client_input(&mut self, number: u64, input: Input) {
        let Some(stream) = self.network.streams.get(&number) else { return };
        let life = stream.client_life;
        match stream.client {
            Site::Node(node) => self.input(Process::Device(node), Some(life), input),
            Site::Gateway => self.gateway_input(life, ToGateway::Stream(input)),
            Site::Arbiter => {}
        }
    }

    fn send_up(&mut self, node: NodeId, segment: Segment) {
        if let Some(stream) = self.hosts.get(&node).and_then(|host| host.stream) {
            self.send_segment(stream, true, segment);
        }
    }

    /// The device closes its end, if it has one.
    fn hang_up(&mut self, node: NodeId) {
        let Some(number) = self.hosts.get_mut(&node).and_then(|host| host.stream.take()) else {
            return;
        };
        self.close_end(number, true);
    }

    /// One end is closed: what it has queued still goes out, then the end of the stream.
    pub(super) fn close_end(&mut self, number: u64, by_client: bool) {
        let Some(stream) = self.network.streams.get_mut(&number) else { return };
        let open = if by_client { &mut stream.client_open } else { &mut stream.server_open };
        if !std::mem::take(open) || stream.server_life.is_none() {
            return;
        }
        self.push(number, by_client, Segment::Fin);
    }

    /// The kernel closes what a process had open.
    pub(super) fn close_streams(&mut self, process: Process, life: u64) {
        let by_client = process != Process::Arbiter;
        let streams = self.network.streams.iter();
        let owned = streams.filter(|(_, stream)| match process {
            Process::Arbiter => stream.server_life == Some(life),
            Process::Node(_) | Process::Device(_) | Process::Keeper(_) => {
                stream.client == Site::from(process.host()) && stream.client_life == life
            }
        });
        let owned: Vec<u64> = owned.map(|(number, _)| *number).collect();
        for number in owned {
            self.close_end(number, by_client);
        }
    }

    /// A machine has lost power: its ends are gone, and nobody is told.
    pub(super) fn forget_streams(&mut self, end: End) {
        for stream in self.network.streams.values_mut() {
            if end == End::Arbiter {
                stream.server_open = false;
                stream.down.waiting.clear();
            } else if stream.client == Site::from(end) {
                stream.client_open = false;
                stream.up.waiting.clear();
            }
        }
    }

    pub(crate) fn send_segment(&mut self, number: u64, up: bool, segment: Segment) {
        let Some(stream) = self.network.streams.get(&number) else { return };
        if !(if up { stream.client_open } else { stream.server_open }) {
            return;
        }
        if let Segment::Bytes(bytes) = &segment
            && bytes.len() > 1
            && self.chance(1, SPLIT_ODDS) == 1
        {
            let most = u64::try_from(bytes.len() - 1).unwrap_or(1);
            let cut = usize::try_from(self.chance(1, most)).unwrap_or(1);
            let (first, second) = bytes.split_at(cut);
            self.push(number, up, Segment::Bytes(first.to_vec()));
            self.push(number, up, Segment::Bytes(second.to_vec()));
        } else {
            self.push(number, up, segment);
        }
    }

    fn push(&mut self, number: u64, up: bool, segment: Segment) {
        let Some(stream) = self.network.streams.get_mut(&number) else { return };
        let flow = stream.flow(up);
        flow.waiting.push_back(segment);
        if flow.attempts.is_none() {
            self.pump(number, up);
        }
    }

    /// Sends what waits, as far as the link lets it through.
    pub(super) fn pump(&mut self, number: u64, up: bool) {
        loop {
            let Some(stream) = self.network.streams.get_mut(&number) else { return };
            let client = stream.client;
            let flow = stream.flow(up);
            if flow.waiting.is_empty() {
                flow.attempts = None;
                return;
            }
            let (from, to) = if up { (client, Site::Arbiter) } else { (Site::Arbiter, client) };
            let pause = self.network.packet(from, to).filter(|_| self.is_on(to));
            let (now, sender_powered) = (self.now, self.is_on(from));
            let Some(stream) = self.network.streams.get_mut(&number) else { return };
            let flow = stream.flow(up);
            if !sender_powered {
                flow.waiting.clear();
                return;
            }
            let Some(pause) = pause else {
                let attempts = flow.attempts.unwrap_or(0);
                flow.attempts = Some(attempts + 1);
                let again = Delivery::Resend { stream: number, up };
                self.put_in(Network::resend_pause(attempts), again);
                return;
            };
            let Some(segment) = flow.waiting.pop_front() else { return };
            flow.attempts = None;
            let at = (now + pause).max(Time(flow.last_arrival.0 + 1));
            flow.last_arrival = at;
            self.put(at, Delivery::Arrive { stream: number, up, segment, tries: 0 });
        }
    }

    /// A segment is there: a process has that end open, or the sender is reset.
    pub(super) fn arrive(&mut self, number: u64, up: bool, segment: Segment, tries: u32) {
        let Some(stream) = self.network.streams.get_mut(&number) else { return };
        let client = stream.client;
        let (to, from) = if up { (Site::Arbiter, client) } else { (client, Site::Arbiter) };
        let open = if up { stream.server_open } else { stream.client_open };
        let life = stream.server_life;
        if open && up && self.is_other(number) {
            self.other_hears(number, segment);
            return;
        }
        if open && up {
            self.input(Process::Arbiter, life, Input::Segment(number, segment));
            return;
        }
        if open {
            self.client_input(number, Input::Segment(number, segment));
            return;
        }
        if segment == Segment::Fin {
            return;
        }
        let reset = self.network.packet(to, from).filter(|_| self.is_on(to));
        match reset {
            Some(pause) => self.put_in(pause, Delivery::Reset { stream: number, up: !up }),
            None if tries < TRIES => {
                let pause = Network::resend_pause(tries);
                let tries = tries + 1;
                self.put_in(pause, Delivery::Arrive { stream: number, up, segment, tries });
            }
            None => {}
        }
    }

    /// A reset is there; `up`: at the arbiter's end.
    pub(crate) fn reset(&mut self, number: u64, up: bool) {
        let Some(stream) = self.network.streams.get_mut(&number) else { return };
        let open = if up { &mut stream.server_open } else { &mut stream.client_open };
        if !std::mem::take(open) {
            return;
        }
        let (input, life) = (Input::Broken(number), stream.server_life);
        if up {
            self.input(Process::Arbiter, life, input);
        } else {
            self.client_input(number, input);
        }
    }

    /// A machine with links has power.
    fn is_on(&self, site: Site) -> bool {
        match site {
            Site::Node(node) => self.is_powered(End::Node(node)),
            Site::Arbiter => self.is_powered(End::Arbiter),
            Site::Gateway => true,
        }
    }

    /// Messages cut out of what has come; `None` for one over the limit.
    pub(crate) fn frames(&mut self, number: u64, up: bool, bytes: &[u8]) -> Vec<Option<Frame>> {
        let mut found = Vec::new();
        let Some(stream) = self.network.streams.get_mut(&number) else { return found };
        let deframer = &mut stream.flow(up).deframer;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (taken, frame) = deframer.feed(rest);
            rest = &rest[taken..];
            if let Some(frame) = frame {
                found.push(frame.ok());
            }
        }
        found
    }

    /// The name of a stream at the arbiter.
    pub(super) fn client_id(number: u64) -> ClientId {
        ClientId(number)
    }

    /// The arbiter is told that a stream is gone.
    pub(crate) fn arbiter_closed(&mut self, number: u64) {
        self.close_end(number, false);
        self.handle_arbiter(ArbiterEvent::Closed { client: Self::client_id(number) });
    }
}

/// What a client hears of a connection that does not come about.
fn not_connected(client: Site, number: u64, why: &str) -> Input {
    match client {
        Site::Node(_) => Input::Device(Event::ConnectFailed { reason: why.to_owned() }),
        Site::Arbiter | Site::Gateway => Input::Broken(number),
    }
}

fn is_echo(frame: &Frame) -> bool {
    frame.kind == MessageType::EchoRequest as u16
}
