//! The arbiter's word on an intent, and what the gateway makes of it.

use protocol::fence::{Ask, Attestation, IntentId, Refusal, Verdict};
use protocol::ids::NodeId;
use protocol::time::Time;

use super::desk::{CallId, Cause, Desk};
use crate::journal::Entry;

/// What an answer means for one target.
#[derive(Debug)]
pub(super) enum Attested {
    /// The requester is entitled.
    Yes(Box<Attestation>),
    /// The arbiter may say yes a moment later: why not now.
    NotYet(String),
    /// It knows no such intent any more.
    Forgotten,
    /// No.
    No(Refusal),
    /// An answer that cannot be true; nothing is done on it.
    Nonsense(String),
}

/// Asks whether the requester is entitled.
pub(super) fn attest(now: Time, desk: &mut Desk, intent: IntentId) -> CallId {
    desk.ask(now, Ask::Attest(intent))
}

/// Asks that a little later.
pub(super) fn attest_soon(now: Time, desk: &mut Desk, intent: IntentId) -> CallId {
    desk.ask_soon(now, Ask::Attest(intent))
}

/// Writes down what the arbiter said of one target, before anything is done on it.
pub(super) fn note(desk: &mut Desk, cause: Cause, attestation: &Attestation) {
    let mut attestation = attestation.clone();
    attestation.targets.retain(|target, _| *target == cause.node);
    desk.note(Entry::Attested { job: cause.job, attestation });
}

/// What the answer means for `node`. It must be of the intent that was asked about, if there was
/// one, name the node as a target, and not as one of the side that is entitled.
pub(super) fn judge(verdict: Verdict, intent: Option<IntentId>, node: NodeId) -> Attested {
    match verdict {
        Verdict::Entitled(attestation) => {
            if intent.is_some_and(|intent| intent != attestation.intent) {
                return Attested::Nonsense("the arbiter speaks of another intent".to_owned());
            }
            if !attestation.targets.contains_key(&node) || attestation.holders.contains(&node) {
                return Attested::Nonsense(format!("the arbiter does not name node {node}"));
            }
            Attested::Yes(Box::new(attestation))
        }
        Verdict::Noted => Attested::Nonsense("the arbiter answers another question".to_owned()),
        Verdict::Refused(refusal) => match refusal {
            Refusal::Undecided(_) => Attested::NotYet(super::text::clean(&refusal.to_string())),
            Refusal::UnknownIntent => Attested::Forgotten,
            Refusal::NotAGateway
            | Refusal::NotConnected(_)
            | Refusal::NotEntitled(_)
            | Refusal::OwnSide(_)
            | Refusal::UnknownTarget(_)
            | Refusal::StaleEpoch { .. }
            | Refusal::Busy { .. }
            | Refusal::Heard(_)
            | Refusal::NotStored
            | Refusal::Malformed => Attested::No(refusal),
        },
    }
}
