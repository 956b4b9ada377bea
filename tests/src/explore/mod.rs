//! Bounded exhaustive search: every order of deliveries, deadlines, kills and cuts, to a depth.
//!
//! The swarm takes one way through very long stories; this takes every way through short ones. A
//! small world (`cell`) of the shipped cores starts in a state that is worth looking at, and from
//! there every [`Choice`] is made in every state, breadth first, so that what breaks a rule first
//! does so in the fewest choices. A state that was seen before is not gone on from (`print`).
//!
//! What is left out to make that possible:
//! * Nothing takes time by itself: time passes by [`Choice::Tick`] or [`Choice::Run`] only, to the
//!   earliest deadline of a process that does not stand still. No moment between two deadlines is
//!   tried: what a machine is told there changes the times that it remembers and hardly ever what
//!   it does, because what it compares with now is its deadlines.
//! * At most two beats are under way from one node to another, in order; the older is lost when a
//!   third is sent. To lose one is never to deliver it.
//! * Streams carry whole messages, without TLS. The service, the keeper, leaving, heuristics and
//!   full disks are the swarm's.
//! * What comes at once, wherever nothing holds it up, is said by a case's [`Grain`]. The arbiter's
//!   write is always a choice.

mod acts;
mod cases;
mod cell;
mod choice;
mod faults;
mod print;
mod rules;
mod search;

pub use cases::CASES;
pub use choice::{Channel, Choice};
pub use search::{Found, Limits, Report, search, search_while};

/// A fault that may come at any time, as long as the case allows more of them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Of a link, both ways.
    Cut,
    /// Of a process.
    Kill,
    /// Of a machine.
    PowerOff,
    /// Of a connection to the arbiter.
    Reset,
    /// Of a process.
    Freeze,
}

/// How much of what comes is a choice. Else it comes at once, wherever nothing holds it up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Grain {
    /// Messages between machines that say something new, and the arbiter's writes.
    Coarse,
    /// Also beats without news, and echoes with their renewals.
    Routine,
    /// What is a choice in [`Grain::Coarse`], and what a node and its device say to each other that
    /// is new, and a node's writes.
    Local,
    /// All of it.
    All,
}

/// Where a search begins.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Start {
    /// All nodes are QUORATE in one view with the arbiter's vote.
    Whole,
    /// Node 1 is cut off from the other nodes, and somebody has just noticed.
    Noticed,
    /// That was noticed long ago: one side is QUORATE with the vote, the other is not.
    Split,
    /// In a split, the holder of the vote has lost the arbiter too.
    HolderCut,
    /// In a split, the arbiter has been killed.
    ArbiterDead,
    /// In a split, the arbiter's machine has lost power.
    ArbiterOff,
    /// A split is over: the nodes hear each other again.
    Healed,
}

/// What is searched.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// In a few words.
    pub name: &'static str,
    /// Nodes 1 to this many: two with ffsplit, more with lms.
    pub nodes: u32,
    /// Where it begins.
    pub start: Start,
    /// So many faults may come after that.
    pub faults: u32,
    /// Which ones.
    pub kinds: &'static [Kind],
    /// What is a choice.
    pub grain: Grain,
    /// The clocks of nodes with an odd id are slow by this much and all others are fast by it, in
    /// parts per million: a lease then lasts longest against what the arbiter holds.
    pub skew_ppm: i64,
}
