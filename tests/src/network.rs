//! What lies between machines: links with cuts, loss and delay, and the streams over them.
//!
//! A datagram arrives once or never, maybe after a later one. A stream's segments arrive in order;
//! what a cut or a loss holds up is sent again after a pause that doubles, as TCP does. A stream
//! whose other end is gone is reset with the first segment that gets there.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::Duration;

use protocol::ids::NodeId;
use protocol::qnet::{Deframer, MESSAGE_LIMIT_BYTES};
use protocol::time::Time;

use crate::clock::hash;
use crate::scenario::End;

/// A datagram or segment takes at least this long, in microseconds.
const DELAY_MIN_US: u64 = 100;
/// It takes this much longer at most, most of the time.
const DELAY_SPREAD_US: u64 = 900;
/// One in [`HICCUP_ODDS`] takes this much longer at most.
const HICCUP_US: u64 = 20_000;
const HICCUP_ODDS: u64 = 64;
/// The first pause before a segment is sent again.
const RESEND_MIN: Duration = Duration::from_millis(200);
/// The longest: Linux goes up to two minutes, which only makes runs longer.
const RESEND_MAX: Duration = Duration::from_secs(20);

/// A machine with links. The gateway's is none of a [`Scenario`](crate::Scenario)'s machines: it
/// has power, and nothing but the gateway is on it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Site {
    Node(NodeId),
    Arbiter,
    Gateway,
}

impl From<End> for Site {
    fn from(end: End) -> Self {
        match end {
            End::Node(node) => Self::Node(node),
            End::Arbiter => Self::Arbiter,
        }
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => End::Node(*node).fmt(f),
            Self::Arbiter => End::Arbiter.fmt(f),
            Self::Gateway => f.pad("gateway"),
        }
    }
}

/// One direction between two machines.
#[derive(Clone, Debug, Default)]
struct Link {
    cuts: u32,
    /// Percents of the faults that are active.
    loss: Vec<u32>,
    slow_ms: Vec<u64>,
    sent: u64,
}

/// What a stream carries.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Segment {
    /// Bytes of messages.
    Bytes(Vec<u8>),
    /// The TLS handshake, from the client.
    TlsHello,
    /// Its end, from the server.
    TlsDone,
    /// The sender has closed.
    Fin,
}

/// One direction of a stream.
#[derive(Debug)]
pub(crate) struct Flow {
    /// What waits to be sent, because something before it has not got through.
    pub(crate) waiting: VecDeque<Segment>,
    /// A pause before sending again is under way; so many came before it.
    pub(crate) attempts: Option<u32>,
    /// No later segment arrives before this.
    pub(crate) last_arrival: Time,
    /// Cuts messages out at the receiving end.
    pub(crate) deframer: Deframer,
}

impl Flow {
    fn new() -> Self {
        Self {
            waiting: VecDeque::new(),
            attempts: None,
            last_arrival: Time::ZERO,
            deframer: Deframer::new(MESSAGE_LIMIT_BYTES),
        }
    }
}

/// One connection between a device, or the gateway, and the arbiter.
#[derive(Debug)]
pub(crate) struct Stream {
    /// The client's machine.
    pub(crate) client: Site,
    /// The life of the process that made it.
    pub(crate) client_life: u64,
    /// The life of the arbiter process that has it; `None` before it is established.
    pub(crate) server_life: Option<u64>,
    /// The client's end is open.
    pub(crate) client_open: bool,
    /// The arbiter's end is open.
    pub(crate) server_open: bool,
    /// The arbiter's end waits for the handshake's first byte.
    pub(crate) server_tls: bool,
    /// The handshake's first byte came before that.
    pub(crate) hello_came: bool,
    /// To the arbiter.
    pub(crate) up: Flow,
    /// To the client.
    pub(crate) down: Flow,
}

impl Stream {
    /// A stream that a device or the gateway has asked for.
    pub(crate) fn new(client: Site, client_life: u64) -> Self {
        Self {
            client,
            client_life,
            server_life: None,
            client_open: true,
            server_open: false,
            server_tls: false,
            hello_came: false,
            up: Flow::new(),
            down: Flow::new(),
        }
    }

    /// One of its directions.
    pub(crate) fn flow(&mut self, to_server: bool) -> &mut Flow {
        if to_server { &mut self.up } else { &mut self.down }
    }
}

/// All links and streams.
#[derive(Debug)]
pub(crate) struct Network {
    seed: u64,
    /// By both ends, of so many machines.
    links: Vec<Link>,
    machines: usize,
    /// Streams by number.
    pub(crate) streams: BTreeMap<u64, Stream>,
    /// How many streams there have been.
    pub(crate) opened: u64,
}

impl Network {
    /// A network without faults between the arbiter, the gateway and so many nodes.
    pub(crate) fn new(seed: u64, nodes: usize) -> Self {
        let machines = nodes + 2;
        let links = vec![Link::default(); machines * machines];
        Self { seed, links, machines, streams: BTreeMap::new(), opened: 0 }
    }

    /// None between machines that are not there: a scenario may name any.
    fn link(&mut self, from: Site, to: Site) -> Option<&mut Link> {
        let place = self.place(from)? * self.machines + self.place(to)?;
        self.links.get_mut(place)
    }

    fn place(&self, site: Site) -> Option<usize> {
        match site {
            Site::Arbiter => Some(0),
            Site::Node(node) => {
                usize::try_from(node.0).ok().filter(|place| *place < self.machines - 1)
            }
            Site::Gateway => Some(self.machines - 1),
        }
    }

    /// Starts or ends a cut of one direction.
    pub(crate) fn cut(&mut self, from: impl Into<Site>, to: impl Into<Site>, begins: bool) {
        if let Some(link) = self.link(from.into(), to.into()) {
            link.cuts = if begins { link.cuts + 1 } else { link.cuts.saturating_sub(1) };
        }
    }

    /// Nothing passes in this direction.
    pub(crate) fn is_cut(&self, from: End, to: End) -> bool {
        let place = self.place(from.into()).zip(self.place(to.into()));
        place
            .and_then(|(from, to)| self.links.get(from * self.machines + to))
            .is_some_and(|link| link.cuts > 0)
    }

    /// Starts or ends loss in both directions.
    pub(crate) fn lose(&mut self, a: End, b: End, percent: u32, begins: bool) {
        for (from, to) in [(a, b), (b, a)] {
            if let Some(link) = self.link(from.into(), to.into()) {
                toggle(&mut link.loss, percent, begins);
            }
        }
    }

    /// Starts or ends extra delay in both directions.
    pub(crate) fn slow(&mut self, a: End, b: End, ms: u64, begins: bool) {
        for (from, to) in [(a, b), (b, a)] {
            if let Some(link) = self.link(from.into(), to.into()) {
                toggle(&mut link.slow_ms, ms, begins);
            }
        }
    }

    /// How long the next packet takes; `None` if it does not get through.
    pub(crate) fn packet(
        &mut self,
        from: impl Into<Site>,
        to: impl Into<Site>,
    ) -> Option<Duration> {
        let (from, to) = (from.into(), to.into());
        let seed = self.seed;
        let link = self.link(from, to)?;
        link.sent += 1;
        let number = link.sent;
        if link.cuts > 0 {
            return None;
        }
        let topic = number_of(from) << 16 | number_of(to);
        let chance = hash(seed, topic, number);
        let lost = link.loss.iter().max().copied().unwrap_or(0);
        if chance % 100 < u64::from(lost) {
            return None;
        }
        let mut us = DELAY_MIN_US + (chance >> 8) % DELAY_SPREAD_US;
        if (chance >> 32).is_multiple_of(HICCUP_ODDS) {
            us += (chance >> 40) % HICCUP_US;
        }
        let slow_us = link.slow_ms.iter().sum::<u64>() * 1000;
        us += if slow_us == 0 { 0 } else { (chance >> 20) % slow_us };
        Some(Duration::from_micros(us))
    }

    /// The pause before sending again.
    pub(crate) fn resend_pause(attempts: u32) -> Duration {
        (RESEND_MIN * 2u32.saturating_pow(attempts.min(10))).min(RESEND_MAX)
    }
}

fn toggle<T: Copy + PartialEq>(values: &mut Vec<T>, value: T, begins: bool) {
    if begins {
        values.push(value);
    } else if let Some(index) = values.iter().position(|other| *other == value) {
        values.remove(index);
    }
}

/// A number for the machine, for [`hash`].
fn number_of(site: Site) -> u64 {
    match site {
        Site::Node(node) => u64::from(node.0),
        Site::Arbiter => 0,
        Site::Gateway => 0xffff,
    }
}
