//! Breaks what a machine says or hears, to prove that the invariants see it. The machines
//! themselves have no such switch.

/// What is broken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sabotage {
    /// A lost vote is confirmed to the device without the node having heard of it.
    LossNotApplied,
    /// The arbiter is told that its grant is stored before it is.
    GrantBeforeDurable,
    /// The arbiter's disk says that a grant is stored, and loses it with the process; what the
    /// arbiter sends is believed to be durable.
    GrantForgotten,
    /// The device does not tell its node what epoch the arbiter knows.
    EpochNotHandedOver,
    /// A node takes its empty disk for one that remembers that there was nothing.
    EmptyDiskRemembers,
    /// The keeper takes every deadline for one in the far future.
    KeeperIgnoresDeadline,
}
