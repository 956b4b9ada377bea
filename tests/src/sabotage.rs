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
    /// A device hears that a grant answers its newest request, so that its lease runs from the
    /// receipt of the answer.
    LeaseFromReceipt,
    /// A device hears its own renewal, which a reply to a loser mirrors, as a grant.
    MirrorIsGrant,
    /// The arbiter stores and gives each grant with the epoch of the one before.
    EpochNotRaised,
    /// A node hears of every peer that its services end at once.
    NoRecoveryWait,
    /// A host's clocks stand still while it is paused.
    ClockStandsStill,
    /// A device knows no arbiter from before.
    PinForgotten,
    /// An arbiter without a memory takes that for a proof that nothing was granted.
    NoQuarantine,
    /// A beat loses its last byte on its way.
    BeatsGarbled,
    /// Only the first start of the service is ever ordered.
    StartForgotten,
    /// The gateway asks only once whether its requester is entitled: the arbiter's first word stands
    /// for all later ones.
    EntitledOnce,
    /// A proof that a node is off is taken for the boot that runs when it arrives.
    ProofWithoutBoot,
    /// Whoever types a confirmation is believed: no power switch is read, and the operator has not
    /// looked either.
    ConfirmUnchecked,
    /// The arbiter does not remember generations of the configuration (model).
    LineageForgotten,
    /// A change of the configuration is applied where it is stored (model).
    ChangeAppliedAlone,
    /// A device on corosync connects to its arbiter once, and never again (L1).
    ConnectsOnce,
}
