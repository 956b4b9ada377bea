//! The stock daemon of the stories with the machine of shadow mode beside it.

use std::time::Duration;

use protocol::ids::{ArbiterId, BootId};
use protocol::qnet::{Deframer, Frame, Message, MessageType, TlsSupport};
use protocol::time::Time;
use qnetd::core::{Memory, Settings};
use qnetd::shadow::core::row::Row;
use qnetd::shadow::core::{Action, Difference, Event, PairId, Reason, SETTLING, Shadow};

use super::real;
use super::story::{Heard, Side};

/// The table that says which test shows which row.
const TABLE: &str = include_str!("../../../docs/decisions.md");

/// The stock lms looks again after a quarter of the stories' heartbeat of 3 s.
const LAST_LOOK: Duration = Duration::from_millis(900);

pub(crate) struct Stock {
    real: real::Stock,
    shadow: Shadow,
    /// The machine's time, which passes where the story waits, however slow this machine is.
    now: Time,
    reports: Vec<Difference>,
    connections: Vec<u32>,
}

impl Stock {
    pub(crate) fn start(flags: &[&str]) -> Option<Self> {
        let real = real::Stock::start(flags)?;
        let settings = Settings {
            tls: TlsSupport::Unsupported,
            unknown_bound: Duration::from_secs(1),
            ..Settings::default()
        };
        let memory =
            Memory { arbiter: ArbiterId(7), boot: 1, host_boot: BootId(1), ..Memory::default() };
        let shadow = Shadow::new(Time::ZERO, settings, memory);
        let now = Time::ZERO;
        Some(Self { real, shadow, now, reports: Vec::new(), connections: Vec::new() })
    }

    fn event(&mut self, event: Event) {
        self.shadow.handle(self.now, event);
        while let Some(action) = self.shadow.next_action() {
            match action {
                Action::Report(difference) => self.reports.push(*difference),
                Action::Agreed { .. } | Action::Decided { .. } => {}
            }
        }
    }

    fn check(&self) {
        let thread = std::thread::current();
        let test = thread.name().unwrap().rsplit("::").next().unwrap();
        let named = |line: &str| line.contains(&format!("`{test}`"));
        let rows: Vec<&str> = TABLE.lines().filter(|line| named(line)).collect();
        for difference in &self.reports {
            let is_expected = match &difference.reason {
                // What the stories of lms end with, whatever they are about.
                Reason::Correction(Row::ReEvaluation) => true,
                Reason::Correction(row) => {
                    rows.iter().any(|line| line.starts_with(&format!("| {} |", row.name())))
                }
                Reason::Rule(_) => true,
                Reason::Bug(_) => false,
            };
            assert!(is_expected, "{difference}\n{rows:#?}");
        }
    }
}

impl Drop for Stock {
    /// The story is at its end: what is left has time to settle, and to be looked at.
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let end = self.now + SETTLING + LAST_LOOK + SETTLING;
        while !self.shadow.is_settled() && self.now < end {
            self.receive();
            self.wait(Duration::from_millis(50));
        }
        self.check();
    }
}

fn frame(message: &Message) -> Frame {
    Deframer::new(1 << 20).feed(&message.encode()).1.unwrap().unwrap()
}

fn pair(connection: u32) -> PairId {
    PairId(u64::from(connection))
}

impl Side for Stock {
    fn name(&self) -> &'static str {
        self.real.name()
    }

    fn time(&self) -> Duration {
        self.real.time()
    }

    fn connect(&mut self, connection: u32) {
        self.real.connect(connection);
        self.connections.push(connection);
        self.event(Event::Opened { pair: pair(connection), address: connection.to_string() });
    }

    fn send(&mut self, connection: u32, message: &Message) {
        self.event(Event::FromClient { pair: pair(connection), frame: frame(message) });
        self.real.send(connection, message);
    }

    fn close(&mut self, connection: u32) {
        self.real.close(connection);
        self.connections.retain(|other| *other != connection);
        self.event(Event::Closed { pair: pair(connection) });
    }

    fn receive(&mut self) -> Vec<(u32, Heard)> {
        let heard = self.real.receive();
        for (connection, heard) in &heard {
            let pair = pair(*connection);
            self.event(match heard {
                Heard::Message(message) => Event::FromStock { pair, frame: frame(message) },
                Heard::End => Event::Closed { pair },
            });
        }
        heard
    }

    fn wait(&mut self, at_most: Duration) {
        // The real side says echoes of its own.
        for connection in self.connections.clone() {
            let echo = Message::new(MessageType::EchoRequest, Some(1));
            let frame = frame(&echo);
            self.event(Event::FromClient { pair: pair(connection), frame });
        }
        let before = self.real.time();
        self.real.wait(at_most);
        self.now = self.now + (self.real.time() - before).min(at_most);
        self.event(Event::Timeout);
    }
}
