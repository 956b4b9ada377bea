//! Our core, in this process and in its own time.

use std::collections::VecDeque;
use std::time::Duration;

use protocol::ids::{ArbiterId, BootId, ClusterName};
use protocol::qnet::{Deframer, Message, MessageType, TlsSupport};
use protocol::time::Time;
use qnetd::core::{Action, Arbiter, ClientId, Event, Memory, Peer, Settings};

use super::story::{Heard, Side};

/// An arbiter with a disk that always works.
pub(crate) struct Ours {
    arbiter: Arbiter,
    now: Time,
    connections: Vec<u32>,
    heard: Vec<(u32, Heard)>,
}

impl Ours {
    /// Like the stock daemon of the stories: TLS is no question.
    pub(crate) fn new() -> Self {
        Self::with(Settings { tls: TlsSupport::Supported, ..Settings::default() })
    }

    pub(crate) fn with(settings: Settings) -> Self {
        let now = Time::from_millis(1000);
        let memory =
            Memory { arbiter: ArbiterId(7), boot: 1, host_boot: BootId(1), ..Memory::default() };
        let arbiter = Arbiter::new(now, settings, memory);
        Self { arbiter, now, connections: Vec::new(), heard: Vec::new() }
    }

    /// The handshake is done, with a certificate of this cluster.
    pub(crate) fn secured(&mut self, connection: u32, cluster: &str) {
        let identity =
            Some(Peer { cluster: ClusterName::from(cluster), node: None, gateway: false });
        self.event(Event::Secured { client: client(connection), identity });
    }

    /// The connection has passed Init, and speaks for this cluster.
    pub(crate) fn has_joined(&self, connection: u32, cluster: &str) -> bool {
        let clusters = self.arbiter.stock_clusters();
        let name = ClusterName::from(cluster);
        self.arbiter.has_joined(client(connection)) && clusters.iter().any(|c| c.name == name)
    }

    fn event(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            self.arbiter.handle(self.now, event);
            while let Some(action) = self.arbiter.next_action() {
                match action {
                    Action::Send { client, bytes } => {
                        let message = Message::decode(&frame(&bytes)).unwrap();
                        let number = u32::try_from(client.0).unwrap();
                        if message.kind != MessageType::EchoReply {
                            self.heard.push((number, Heard::Message(Box::new(message))));
                        }
                    }
                    Action::Close { client, .. } => {
                        let number = u32::try_from(client.0).unwrap();
                        self.connections.retain(|connection| *connection != number);
                        self.heard.push((number, Heard::End));
                    }
                    Action::Persist { token, .. } | Action::PersistFencing { token, .. } => {
                        events.push_back(Event::Persisted(token));
                    }
                    Action::StartTls { .. } | Action::Decided { .. } => {}
                }
            }
        }
    }
}

fn frame(bytes: &[u8]) -> protocol::qnet::Frame {
    Deframer::new(1 << 20).feed(bytes).1.unwrap().unwrap()
}

fn client(connection: u32) -> ClientId {
    ClientId(u64::from(connection))
}

impl Side for Ours {
    fn name(&self) -> &'static str {
        "ours"
    }

    fn time(&self) -> Duration {
        Duration::from_millis(self.now.as_millis())
    }

    fn connect(&mut self, connection: u32) {
        self.connections.push(connection);
        let address = format!("10.0.0.{connection}:1000");
        self.event(Event::Connected { client: client(connection), address });
    }

    fn send(&mut self, connection: u32, message: &Message) {
        if self.connections.contains(&connection) {
            let frame = frame(&message.encode());
            self.event(Event::Received { client: client(connection), frame });
        }
    }

    fn close(&mut self, connection: u32) {
        self.connections.retain(|other| *other != connection);
        self.event(Event::Closed { client: client(connection) });
    }

    fn receive(&mut self) -> Vec<(u32, Heard)> {
        std::mem::take(&mut self.heard)
    }

    fn wait(&mut self, at_most: Duration) {
        for connection in self.connections.clone() {
            self.send(connection, &Message::new(MessageType::EchoRequest, Some(1)));
        }
        let end = self.now + at_most;
        let due = self.arbiter.deadline().filter(|due| *due <= end);
        self.now = due.unwrap_or(end).max(self.now);
        if due.is_some() {
            self.event(Event::Timeout);
        }
    }
}
