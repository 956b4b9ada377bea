//! The words of fencing (rule S7): what a gateway and an arbiter say to each other, and what a node
//! or an operator and a gateway do.
//!
//! Gateway and arbiter speak on the arbiter's port, after TLS, in two private frame types
//! ([`FRAME_CALL`], [`FRAME_ANSWER`]) whose bodies are a version byte and then the fields in order
//! (postcard). The certificates of both sides are checked by TLS and each answer repeats the nonce
//! of its call: that makes it the arbiter's own word, given after it was asked for (safety 27).
//! Nothing that was said before a call proves anything after it.
//!
//! Nodes and operators speak HTTPS with the gateway; the bodies are the JSON of [`Request`],
//! [`Confirmation`], [`Progress`] and the snapshots below.
//!
//! While no arbiter answers, the members of the requester's view may stand in for it, if they have
//! more than half of all votes: the gateway gives the requester a [`Challenge`], the requester shows
//! it to its view, and each member answers the gateway with a [`Testimony`] of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::ids::{ArbiterId, BootId, Epoch, NodeId, RingId, ViewId, hex128};
use crate::times;
use crate::vote::Bound;

/// The frame type of a [`Call`], gateway to arbiter; stock daemons know none above 17.
pub const FRAME_CALL: u16 = 0x4841;
/// The frame type of an [`Answer`], arbiter to gateway.
pub const FRAME_ANSWER: u16 = 0x4842;
/// The TCP port of a gateway.
pub const GATEWAY_PORT: u16 = 5413;
/// Most targets of one intent: the nodes of the largest cluster that a gateway serves, less one.
pub const TARGETS_MAX: usize = 128;

/// The first byte of every call and answer: the version of this encoding.
const VERSION: u8 = 1;
/// Longer bodies are refused before they are read.
const BODY_BYTES_MAX: usize = 16 * 1024;

/// A random number that an answer repeats.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Nonce(#[serde(with = "hex128")] pub u128);

/// Names one intent of one arbiter; compared for equality only.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct IntentId {
    /// The state directory that recorded it.
    pub arbiter: ArbiterId,
    /// How often that directory had been opened.
    pub boot: u32,
    /// Counts the intents of that time.
    pub serial: u64,
}

/// What a gateway asks its cluster's arbiter.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Call {
    /// For the answer.
    pub nonce: Nonce,
    /// The question.
    pub ask: Ask,
}

/// The questions.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Ask {
    /// Record that these targets are to be cut off from power, for the side of this requester. From
    /// then on they are condemned: no renewal and no grant (safety 25). One intent a cluster at a
    /// time; the same requester in the same epoch adds targets to its own (F15).
    Register(Intent),
    /// Is the requester of the intent entitled still? Asked right before every power command.
    Attest(IntentId),
    /// The target is off, and this is the proof: what it may count ends at once (S2).
    Off {
        /// Under which intent.
        intent: IntentId,
        /// Of what.
        proof: Proof,
    },
    /// The command has ended, well or badly: targets without a proof are condemned no longer.
    Release(IntentId),
}

/// One incident: who asks for whom.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Intent {
    /// The node whose side asks.
    pub requester: NodeId,
    /// The highest epoch that the requester knows; `None` from a host that has no epochs (real
    /// corosync), for which the present connection of its device is the proof.
    pub epoch: Option<Epoch>,
    /// Whom to fence.
    pub targets: BTreeSet<NodeId>,
    /// The intent lapses this many milliseconds after its last registration or attestation, if the
    /// requester is not entitled any more.
    pub deadline_ms: u32,
}

/// Why a node is taken for off (safety 24, 28).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Proof {
    /// Which node.
    pub node: NodeId,
    /// The boot that the arbiter named for it before the command was sent; zero: none was known.
    /// The proof is of this boot and of none that began later.
    pub boot: BootId,
    /// How it is known.
    pub how: How,
    /// How long ago the power command was sent, in milliseconds.
    pub sent_ms: u64,
}

/// How it is known that a node is off.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// Every one of its power supplies read off in a fresh session after the command.
    ReadOff,
    /// Its watchdog's bound has passed since it was outside every quorate view.
    Watchdog,
    /// An operator says so.
    Manual {
        /// Who.
        by: String,
        /// Why.
        why: String,
    },
}

/// The arbiter's answer to one call.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Answer {
    /// That of the call.
    pub nonce: Nonce,
    /// What it says.
    pub verdict: Verdict,
}

/// Yes with the facts, or no with the reason.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Verdict {
    /// The requester of the intent is entitled now.
    Entitled(Attestation),
    /// The proof or the release is recorded.
    Noted,
    /// No.
    Refused(Refusal),
}

/// What the arbiter knows at the moment of its answer.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Attestation {
    /// The intent.
    pub intent: IntentId,
    /// The epoch of the holder's view, or the one reserved for the candidate.
    pub epoch: Epoch,
    /// The ring id of that view.
    pub ring: RingId,
    /// Its members.
    pub holders: BTreeSet<NodeId>,
    /// Whether they have the vote or are to get it.
    pub role: Role,
    /// Every target of the intent.
    pub targets: BTreeMap<NodeId, TargetRecord>,
}

/// Why a side is entitled (safety 26).
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// It has the vote: its view is the granted one.
    Holder,
    /// The arbiter has chosen it, has stopped renewing all others, and waits for their bounds.
    Candidate,
    /// No arbiter was asked: its members have more than half of all votes, and say so themselves.
    Majority,
}

/// One target as the arbiter knows it.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct TargetRecord {
    /// Its last known boot; zero if it never said (a stock client).
    pub boot: BootId,
    /// The watchdog that it announced; `None`: none.
    pub bound: Option<Bound>,
    /// For how long a view without it has had the vote, in milliseconds; `None`: none has. By rule
    /// S1 it is not entitled for as long.
    pub outside_ms: Option<u64>,
    /// Since it was last heard, in milliseconds; `None`: not since the arbiter's start, or by the
    /// members never.
    pub silent_ms: Option<u64>,
}

/// Why not.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Refusal {
    /// The certificate is not that of a gateway of this cluster.
    NotAGateway,
    /// No live client of the requester is connected.
    NotConnected(NodeId),
    /// The requester's view has not the vote and is not chosen for it. These have it.
    NotEntitled(BTreeSet<NodeId>),
    /// The arbiter has not chosen yet, or cannot: why, in words.
    Undecided(String),
    /// The target is of the requester's own side.
    OwnSide(NodeId),
    /// No configuration names this node.
    UnknownTarget(NodeId),
    /// The requester speaks of an older epoch than the present one.
    StaleEpoch {
        /// What it said.
        given: Epoch,
        /// What holds.
        current: Epoch,
    },
    /// Another intent is open (F15).
    Busy {
        /// Whose.
        requester: NodeId,
        /// For whom.
        targets: BTreeSet<NodeId>,
    },
    /// There is no such intent (any more).
    UnknownIntent,
    /// The target was heard after the intent was registered: it is not off.
    Heard(NodeId),
    /// The intent could not be stored.
    NotStored,
    /// No targets, too many of them, or a call that makes no sense here.
    Malformed,
}

impl fmt::Display for Refusal {
    /// One line with what to do.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAGateway => f.write_str(
                "the certificate is no gateway's: issue one with \"haguard certs gateway\"",
            ),
            Self::NotConnected(node) => write!(
                f,
                "node {node} has no live connection to the arbiter: it cannot be told from a node \
                 that is cut off"
            ),
            Self::NotEntitled(holders) if holders.is_empty() => {
                f.write_str("the requester's side has not the vote; nobody has")
            }
            Self::NotEntitled(holders) => {
                write!(f, "the requester's side has not the vote; it is with {}", List(holders))
            }
            Self::Undecided(why) => write!(f, "the arbiter has not chosen a side yet: {why}"),
            Self::OwnSide(node) => write!(f, "node {node} is of the requester's own side"),
            Self::UnknownTarget(node) => write!(f, "no configuration names node {node}"),
            Self::StaleEpoch { given, current } => {
                write!(f, "the request is of epoch {given}, and it is {current} now")
            }
            Self::Busy { requester, targets } => {
                write!(f, "node {requester} is fencing {} at the moment", List(targets))
            }
            Self::UnknownIntent => f.write_str("the arbiter knows no such intent: ask again"),
            Self::Heard(node) => write!(f, "node {node} was heard since: it is not off"),
            Self::NotStored => {
                f.write_str("the arbiter could not store the intent: see its journal's disk")
            }
            Self::Malformed => f.write_str("the request makes no sense to the arbiter"),
        }
    }
}

/// "node 1" or "nodes 1, 2".
struct List<'a>(&'a BTreeSet<NodeId>);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.len() == 1 { "node " } else { "nodes " })?;
        for (index, node) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{node}")?;
        }
        Ok(())
    }
}

/// A body that is no call or answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum WordError {
    /// Longer than any call or answer.
    #[error("a fencing message of {0} bytes is over the limit")]
    TooLong(usize),
    /// Of a version that is not known here.
    #[error("a fencing message of version {0}, known is {VERSION}: upgrade the older side")]
    Version(u8),
    /// Not the encoding of one.
    #[error("bytes are no fencing message")]
    Malformed,
}

fn encode<T: Serialize>(word: &T) -> Result<Vec<u8>, WordError> {
    let bytes = postcard::to_extend(word, vec![VERSION]).map_err(|_| WordError::Malformed)?;
    if bytes.len() > BODY_BYTES_MAX { Err(WordError::TooLong(bytes.len())) } else { Ok(bytes) }
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, WordError> {
    if body.len() > BODY_BYTES_MAX {
        return Err(WordError::TooLong(body.len()));
    }
    match body.split_first() {
        Some((&VERSION, rest)) => match postcard::take_from_bytes(rest) {
            Ok((word, [])) => Ok(word),
            Ok(_) | Err(_) => Err(WordError::Malformed),
        },
        Some((version, _)) => Err(WordError::Version(*version)),
        None => Err(WordError::Malformed),
    }
}

impl Call {
    /// The body of a [`FRAME_CALL`].
    ///
    /// # Errors
    /// If it would be too long.
    pub fn encode(&self) -> Result<Vec<u8>, WordError> {
        encode(self)
    }

    /// Reads one.
    ///
    /// # Errors
    /// If the body is no call.
    pub fn decode(body: &[u8]) -> Result<Self, WordError> {
        decode(body)
    }
}

impl Answer {
    /// The body of a [`FRAME_ANSWER`].
    ///
    /// # Errors
    /// If it would be too long.
    pub fn encode(&self) -> Result<Vec<u8>, WordError> {
        encode(self)
    }

    /// Reads one.
    ///
    /// # Errors
    /// If the body is no answer.
    pub fn decode(body: &[u8]) -> Result<Self, WordError> {
        decode(body)
    }
}

/// What a gateway asks the members of a requester's view, while no arbiter answers: are these nodes
/// outside a view that has more than half of all votes, and will they stay outside?
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Challenge {
    /// Fresh; only testimonies that repeat it count (safety 27).
    pub nonce: Nonce,
    /// Who is to be fenced.
    pub targets: BTreeSet<NodeId>,
}

/// `POST /v1/attest`: one member's own word on a [`Challenge`]. Its certificate is bound to the node
/// that it speaks of, and it speaks of no other. The answer has no body: 202 if it was heard, 404 if
/// no such challenge is open.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Testimony {
    /// That of the challenge.
    pub nonce: Nonce,
    /// Who testifies.
    pub node: NodeId,
    /// The view it is in; its ring id is part of it.
    pub view: ViewId,
    /// The epoch of that view.
    pub epoch: Epoch,
    /// Its members.
    pub members: BTreeSet<NodeId>,
    /// The view is QUORATE, and would be without the arbiter's votes.
    pub quorate: bool,
    /// All votes that there are by its configuration, the arbiter's included.
    pub expected_votes: u32,
    /// Whom it condemns, and what it knows of them: it will be in no view with any of them until it
    /// hears that the node is off, that the job is over, or nothing for [`CONDEMNED`]. Nobody if it
    /// is not quorate.
    pub targets: BTreeMap<NodeId, TargetRecord>,
}

/// How long a member keeps a node that it has condemned out of its views: longer than a challenge
/// stands and the power command after it may take.
pub const CONDEMNED: Duration = times::FENCE_DEADLINE.saturating_mul(2);

/// What to do with a node's power.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PowerAction {
    /// Off, and off it stays.
    Off,
    /// Off, read back, recorded, then on (safety 24).
    Reboot,
    /// On: a node that was fenced may come back. Needs no entitlement of a side, but the targets'
    /// intent must be over.
    On,
}

/// `POST /v1/fence`: asks for power to be cut; the answer is a stream of [`Progress`], one JSON
/// object a line, the last one [`Progress::Done`].
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The node that asks; a certificate that is bound to a node asks for that one only.
    pub requester: NodeId,
    /// The highest epoch it knows; none on a host without epochs.
    #[serde(default)]
    pub epoch: Option<Epoch>,
    /// Whom.
    pub targets: BTreeSet<NodeId>,
    /// What.
    pub action: PowerAction,
    /// Why, for the journal: `lost`, or what an operator or Pacemaker says.
    pub reason: String,
}

/// `POST /v1/confirm`: an operator has seen with his own eyes that the node is off (safety 28). It
/// needs the same entitlement as a fence, counts once, and is refused while the node is heard or
/// one of its devices reads on. Answered like a [`Request`].
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Confirmation {
    /// The node for whose side it is said.
    pub requester: NodeId,
    /// The highest epoch that node knows.
    #[serde(default)]
    pub epoch: Option<Epoch>,
    /// Which node is off.
    pub node: NodeId,
    /// Who says so.
    pub by: String,
    /// Why it is known.
    pub why: String,
}

/// One line of the answer to a [`Request`].
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "what")]
pub enum Progress {
    /// The gateway has the request.
    Accepted {
        /// The job's number; requests for the same node join one job.
        job: u64,
    },
    /// In words, for people: what happens now.
    Step {
        /// Of which node, where it is of one.
        node: Option<NodeId>,
        /// What.
        text: String,
    },
    /// No arbiter answers: for the members of the requester's view. It stands in for the one before.
    Challenge {
        /// What they are asked.
        challenge: Challenge,
    },
    /// This node is off.
    Off {
        /// Why that is certain.
        proof: Proof,
    },
    /// The job is over. Nothing comes after this.
    Done {
        /// How it ended for each target.
        #[serde(deserialize_with = "crate::host::by_node")]
        results: BTreeMap<NodeId, Outcome>,
    },
}

/// How fencing one target ended.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "result")]
pub enum Outcome {
    /// Proven off.
    Off {
        /// The proof.
        proof: Proof,
    },
    /// Proven off, and power was given again.
    Rebooted {
        /// The proof of off.
        proof: Proof,
        /// What went wrong with giving power again, if something did.
        on_failed: Option<String>,
    },
    /// Power was given.
    On,
    /// The requester is not entitled, or the request makes no sense: why.
    Refused {
        /// In one line, with what to do.
        why: String,
    },
    /// Every level failed: nothing is known of the node. What an operator has to do.
    Failed {
        /// In one line, with what to do.
        why: String,
    },
}

impl Outcome {
    /// The node is off, or was after the request.
    pub fn proof(&self) -> Option<&Proof> {
        match self {
            Self::Off { proof } | Self::Rebooted { proof, .. } => Some(proof),
            Self::On | Self::Refused { .. } | Self::Failed { .. } => None,
        }
    }
}

/// `GET /v1/status`: the gateway's snapshot. Fields are added, never renamed.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct GatewayStatus {
    /// The cluster it serves.
    pub cluster: String,
    /// `connected`, or why not.
    pub arbiter: String,
    /// By node.
    pub nodes: BTreeMap<u32, TargetStatus>,
    /// By name.
    pub devices: BTreeMap<String, DeviceReadiness>,
    /// Standing alarms, one line each, with what to do.
    pub alarms: Vec<String>,
}

/// One node at the gateway.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct TargetStatus {
    /// The devices of each level, in order.
    pub levels: Vec<Vec<String>>,
    /// A job is running for it: since how many milliseconds, and what it does.
    pub job: Option<(u64, String)>,
    /// How the last one ended.
    pub last: Option<Outcome>,
}

/// Whether a device would work now.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct DeviceReadiness {
    /// `ipmi`, `redfish`, `agent`, `watchdog`.
    pub kind: String,
    /// It answered its last rehearsal, or a command since.
    pub ready: bool,
    /// What it read: `on`, `off`; empty if it did not answer.
    pub power: String,
    /// Why it is not ready.
    pub problem: String,
    /// How long its last rehearsal took, in milliseconds.
    pub took_ms: Option<u64>,
    /// How long ago that was, in milliseconds.
    pub age_ms: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_back_as_they_were_and_junk_does_not() -> Result<(), WordError> {
        let intent = Intent {
            requester: NodeId(1),
            epoch: Some(Epoch(7)),
            targets: BTreeSet::from([NodeId(2), NodeId(3)]),
            deadline_ms: 20_000,
        };
        let call = Call { nonce: Nonce(9), ask: Ask::Register(intent) };
        let bytes = call.encode()?;
        assert_eq!(Call::decode(&bytes), Ok(call));
        let refusal = Refusal::StaleEpoch { given: Epoch(1), current: Epoch(2) };
        let answer = Answer { nonce: Nonce(9), verdict: Verdict::Refused(refusal) };
        assert_eq!(Answer::decode(&answer.encode()?), Ok(answer));
        for cut in 0..bytes.len() {
            assert!(Call::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        let more: Vec<u8> = bytes.iter().copied().chain([0]).collect();
        assert_eq!(Call::decode(&more), Err(WordError::Malformed));
        let mut newer = bytes;
        newer[0] = VERSION + 1;
        assert_eq!(Call::decode(&newer), Err(WordError::Version(VERSION + 1)));
        assert_eq!(Call::decode(&vec![1; 20_000]), Err(WordError::TooLong(20_000)));
        Ok(())
    }

    #[test]
    fn how_a_job_ended_comes_back_from_its_line() -> Result<(), serde_json::Error> {
        let results = BTreeMap::from([(NodeId(2), Outcome::On)]);
        let done = Progress::Done { results };
        let line = serde_json::to_string(&done)?;
        assert_eq!(line, r#"{"what":"done","results":{"2":{"result":"on"}}}"#);
        assert_eq!(serde_json::from_str::<Progress>(&line)?, done);
        Ok(())
    }

    #[test]
    fn a_testimony_and_its_challenge_come_back_from_their_lines() -> Result<(), serde_json::Error> {
        let nonce = Nonce(u128::MAX);
        let challenge = Challenge { nonce, targets: [NodeId(3)].into() };
        let line = serde_json::to_string(&Progress::Challenge { challenge: challenge.clone() })?;
        assert_eq!(serde_json::from_str::<Progress>(&line)?, Progress::Challenge { challenge });
        let record = TargetRecord { boot: BootId(7), silent_ms: Some(900), ..Default::default() };
        let testimony = Testimony {
            nonce,
            node: NodeId(1),
            view: ViewId { ring: RingId::new(1, 4), nonce: u64::MAX },
            epoch: Epoch(5),
            members: [NodeId(1), NodeId(2)].into(),
            quorate: true,
            expected_votes: 3,
            targets: [(NodeId(3), record)].into(),
        };
        let line = serde_json::to_string(&testimony)?;
        assert_eq!(serde_json::from_str::<Testimony>(&line)?, testimony);
        let more = line.replacen('{', "{\"vote\":2,", 1);
        assert!(serde_json::from_str::<Testimony>(&more).is_err(), "{more}");
        Ok(())
    }

    #[test]
    fn a_refusal_says_who_has_the_vote() {
        let both = BTreeSet::from([NodeId(2), NodeId(3)]);
        let text = Refusal::NotEntitled(both).to_string();
        assert_eq!(text, "the requester's side has not the vote; it is with nodes 2, 3");
        let nobody = Refusal::NotEntitled(BTreeSet::new()).to_string();
        assert_eq!(nobody, "the requester's side has not the vote; nobody has");
    }
}
