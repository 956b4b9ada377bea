//! What can happen next, and what is under way.

use std::fmt;
use std::rc::Rc;

use node::core::{Event as NodeEvent, Stored};
use protocol::cluster::Beat;
use protocol::host::FromHost;
use protocol::ids::NodeId;
use protocol::qnet::{Frame, MessageType};
use qnetd::core::{GrantRecord, Token};

use crate::scenario::{End, Process};

/// A queue: its head is what may come next.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Channel {
    /// A write on its way to the disk.
    Disk(Process),
    /// A process on its way up.
    Start(Process),
    /// From a node to its device.
    ToDevice(NodeId),
    /// From a device to its node.
    ToNode(NodeId),
    /// Datagrams from one node to another.
    Beats(NodeId, NodeId),
    /// What a connection that the device has given up still carries to the arbiter.
    OldUp(NodeId),
    /// A device's connection to the arbiter.
    Up(NodeId),
    /// The way back.
    Down(NodeId),
}

impl Channel {
    /// Who takes from it.
    pub(super) const fn reader(self) -> Process {
        match self {
            Self::Disk(process) | Self::Start(process) => process,
            Self::ToDevice(node) | Self::Down(node) => Process::Device(node),
            Self::ToNode(node) | Self::Beats(_, node) => Process::Node(node),
            Self::OldUp(_) | Self::Up(_) => Process::Arbiter,
        }
    }

    /// The link that it crosses.
    pub(super) const fn link(self) -> Option<(End, End)> {
        match self {
            Self::Disk(_) | Self::Start(_) | Self::ToDevice(_) | Self::ToNode(_) => None,
            Self::Beats(from, to) => Some(link(End::Node(from), End::Node(to))),
            Self::OldUp(node) | Self::Up(node) | Self::Down(node) => {
                Some(link(End::Node(node), End::Arbiter))
            }
        }
    }
}

/// The name of a link: the lower node first, the arbiter last.
pub(super) const fn link(a: End, b: End) -> (End, End) {
    match (a, b) {
        (End::Node(one), End::Node(other)) if one.0 > other.0 => (b, a),
        (End::Arbiter, _) => (b, a),
        (End::Node(_), _) => (a, b),
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk(process) => write!(f, "{process}'s disk"),
            Self::Start(process) => write!(f, "start of {process}"),
            Self::ToDevice(node) => write!(f, "node {node} to its device"),
            Self::ToNode(node) => write!(f, "device {node} to its node"),
            Self::Beats(from, to) => write!(f, "node {from} to node {to}"),
            Self::OldUp(node) => write!(f, "device {node}'s old connection to the arbiter"),
            Self::Up(node) => write!(f, "device {node} to the arbiter"),
            Self::Down(node) => write!(f, "arbiter to device {node}"),
        }
    }
}

/// Something under way.
#[derive(Clone, Debug)]
pub(super) enum Parcel {
    /// `news`: it says more than that its sender lives.
    Beat {
        beat: Rc<Beat>,
        news: bool,
    },
    Host(FromHost),
    HostGone,
    Node(NodeEvent),
    /// A connection is asked for.
    Syn(u64),
    Opened(u64),
    Refused(u64),
    Message(u64, Frame),
    /// The sender has closed, or is gone.
    Fin(u64),
    NodeWrite(u64, Stored),
    Grant(Token, GrantRecord),
    Start,
}

impl Parcel {
    /// It keeps something as it is: a lease, or a contact.
    pub(super) fn is_routine(&self) -> bool {
        let echoes = [MessageType::EchoRequest, MessageType::EchoReply];
        match self {
            Self::Beat { news, .. } => !news,
            Self::Message(_, frame) => echoes.iter().any(|kind| frame.kind == *kind as u16),
            Self::Host(said) => matches!(said, FromHost::Alive { .. }),
            Self::HostGone
            | Self::Node(_)
            | Self::Syn(_)
            | Self::Opened(_)
            | Self::Refused(_)
            | Self::Fin(_)
            | Self::NodeWrite(..)
            | Self::Grant(..)
            | Self::Start => false,
        }
    }
}

impl fmt::Display for Parcel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Beat { beat, news: _ } => {
                write!(f, "beat {}", beat.seq)?;
                let view = beat.view.as_ref().map(|view| format!(", in {}", view.id));
                let asks = beat.proposal.as_ref().map(|p| format!(", proposes {}", p.id));
                let yes = beat.accepted.as_ref().map(|a| format!(", accepts {}", a.id));
                [view, asks, yes].into_iter().flatten().try_for_each(|text| f.write_str(&text))
            }
            Self::Host(said) => host_said(said, f),
            Self::HostGone => f.write_str("the node is gone"),
            Self::Node(NodeEvent::Poll { view, cast: Some(_), .. }) => {
                write!(f, "casts the vote in {view}")
            }
            Self::Node(NodeEvent::Poll { cast: None, .. }) => f.write_str("takes the vote back"),
            Self::Node(event) => write!(f, "{event:?}"),
            Self::Syn(_) => f.write_str("asks for a connection"),
            Self::Opened(_) => f.write_str("the connection stands"),
            Self::Refused(_) => f.write_str("the connection is refused"),
            Self::Message(_, frame) => match protocol::qnet::Message::decode(frame) {
                Ok(message) => {
                    write!(f, "{:?}", message.kind)?;
                    message.options.vote.map_or(Ok(()), |vote| write!(f, " {vote}"))
                }
                Err(error) => write!(f, "{error}"),
            },
            Self::Fin(_) => f.write_str("the connection is closed"),
            Self::NodeWrite(..) => f.write_str("the state is stored"),
            Self::Grant(_, record) => {
                write!(f, "the grant of epoch {} is stored", record.grant.epoch)
            }
            Self::Start => f.write_str("it starts"),
        }
    }
}

fn host_said(said: &FromHost, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match said {
        FromHost::Welcome(_) => f.write_str("welcome"),
        FromHost::View(view) => write!(f, "the view is {}", view.id),
        FromHost::Quorum(quorum) if quorum.quorate => write!(f, "{} is quorate", quorum.view),
        FromHost::Quorum(quorum) => write!(f, "{} is not quorate", quorum.view),
        FromHost::Polled { applied: true, .. } => f.write_str("the vote is applied"),
        FromHost::Polled { applied: false, .. } => f.write_str("the vote is for another view"),
        FromHost::Alive { .. } => f.write_str("it lives"),
    }
}

/// One thing that can happen in a state.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Choice {
    /// Everything that is not held up comes, and time passes, until something of note has
    /// happened, or for a dozen seconds.
    Run,
    /// The head of a queue comes.
    Deliver(Channel),
    /// Time passes until the earliest deadline, which is this process's.
    Tick(Process),
    /// A link carries nothing any more, either way: a fault.
    Cut(End, End),
    /// It carries again.
    Heal(End, End),
    /// A process is killed, and the kernel closes what it had open: a fault.
    Kill {
        /// Which one.
        process: Process,
        /// What it was writing gets to the disk.
        written: bool,
    },
    /// A machine loses power, with all that it had sent and nobody had received: a fault.
    PowerOff {
        /// Which one.
        host: End,
        /// What it was writing got to the disk.
        written: bool,
    },
    /// A connection breaks, with what it carried: a fault.
    Reset(NodeId),
    /// A process stands still: a fault.
    Freeze(Process),
    /// It goes on.
    Thaw(Process),
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let disk = |written: bool| if written { "" } else { ", and what it was writing is lost" };
        match self {
            Self::Run => f.write_str("all goes its way until something of note has happened"),
            Self::Deliver(channel) => write!(f, "delivered: {channel}"),
            Self::Tick(process) => write!(f, "{process} has its deadline"),
            Self::Cut(a, b) => write!(f, "FAULT: the link between {a} and {b} is cut"),
            Self::Heal(a, b) => write!(f, "the link between {a} and {b} is whole again"),
            Self::Kill { process, written } => {
                write!(f, "FAULT: {process} is killed{}", disk(*written))
            }
            Self::PowerOff { host, written } => {
                write!(f, "FAULT: {host} loses power{}", disk(*written))
            }
            Self::Reset(node) => write!(f, "FAULT: device {node}'s connection breaks"),
            Self::Freeze(process) => write!(f, "FAULT: {process} stands still"),
            Self::Thaw(process) => write!(f, "{process} goes on"),
        }
    }
}
