//! The beat: the one datagram that nodes send each other, every [`crate::times::HEARTBEAT`] and
//! at every change.
//!
//! A beat is the sender's whole state, so a lost one costs nothing but time. Three conversations
//! ride on it: leases of votes (a beat that answers one of mine lends me the sender's vote in the
//! view it names), view agreement (propose, accept, install), and the placement of the service.

mod codec;

use codec::{Reader, Wire, Writer};
use serde::{Deserialize, Serialize};

use crate::fence::Challenge;
use crate::ids::{BootId, Epoch, InstanceId, NodeId, ViewId};
use crate::vote::Bound;

/// Most nodes of a cluster with the built-in engine.
pub const MAX_NODES: usize = 16;
/// A beat is never longer than this many bytes, so that it fits a QUIC datagram on any path.
pub const MAX_BEAT_BYTES: usize = 1100;

/// One node's state, as told to one peer.
#[derive(Clone, Debug, Eq, PartialEq)]
#[cfg_attr(test, derive(Deserialize, Serialize))]
pub struct Beat {
    /// The sender.
    pub from: NodeId,
    /// This life of the sender's process.
    pub instance: InstanceId,
    /// The boot of the sender's machine.
    pub boot: BootId,
    /// What the sender has read of the cluster's configuration, as a number (S8).
    pub config_digest: u64,
    /// Grows with every beat of this instance.
    pub seq: u64,
    /// The newest beat of the receiver that the sender has heard.
    pub answers: Option<Answer>,
    /// Nodes with which the sender has settled two-way contact.
    pub contacts: Vec<NodeId>,
    /// The highest epoch the sender has stored; 0 while it does not remember (safety 27).
    pub highest_epoch: Epoch,
    /// The highest ring sequence the sender has stored.
    pub ring_seq: u64,
    /// The view the sender has installed and not left.
    pub view: Option<Installed>,
    /// The view the sender proposes; it is the lowest id of its members.
    pub proposal: Option<Proposal>,
    /// The proposal the sender has accepted: it has left every older view.
    pub accepted: Option<Accepted>,
    /// When the sender's services have ended after its entitlement, and what proves it.
    pub bound: Bound,
    /// The placement the sender has stored.
    pub placement: Option<Placement>,
    /// The placement that the sender, as the view's lowest id, asks all members to store.
    pub placing: Option<Placement>,
    /// True until the sender has proven that the service does not run on it.
    pub running: bool,
    /// The sender leaves: its services are stopped and it counts no vote any more.
    pub leaving: bool,
    /// Nodes outside the sender's view that it knows to be off (rule S6).
    pub off: Vec<KnownOff>,
    /// What a gateway asks the members of the sender's view, while no arbiter answers it (rule S7).
    /// Not among the fields of [`VERSION`]: see [`VERSION_CHALLENGE`].
    #[cfg_attr(test, serde(skip))]
    pub challenge: Option<Challenge>,
}

/// A node that is proven off, as one member of a view tells the others.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[cfg_attr(test, derive(Deserialize, Serialize))]
pub struct KnownOff {
    /// Which.
    pub node: NodeId,
    /// The boot that the proof is of; zero: none was known.
    pub boot: BootId,
    /// How it is known.
    pub by: OffBy,
    /// How long ago the power command was sent, in milliseconds.
    pub sent_ms: u32,
    /// The highest epoch that the member knew which asked for the power to be cut.
    pub epoch: Epoch,
}

/// How a node is known to be off: [`crate::fence::How`] without its texts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[cfg_attr(test, derive(Deserialize, Serialize))]
pub enum OffBy {
    /// Its power read off.
    Power,
    /// Its watchdog's bound has passed; the machine may still be on.
    Watchdog,
    /// An operator says so.
    Operator,
}

/// Names one beat of one instance.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[cfg_attr(test, derive(Deserialize, Serialize))]
pub struct Answer {
    /// Whose life.
    pub instance: InstanceId,
    /// Which beat.
    pub seq: u64,
}

/// A view that a node has installed.
#[derive(Clone, Debug, Eq, PartialEq)]
#[cfg_attr(test, derive(Deserialize, Serialize))]
pub struct Installed {
    /// Which view.
    pub id: ViewId,
    /// The epoch its members agreed; each has stored it.
    pub epoch: Epoch,
    /// Its members, ascending.
    pub members: Vec<NodeId>,
    /// The sender's own vote counts in it: no node outside can count it any more (safety 1).
    pub vote_free: bool,
}

/// A view that is to be.
#[derive(Clone, Debug, Eq, PartialEq)]
#[cfg_attr(test, derive(Deserialize, Serialize))]
pub struct Proposal {
    /// Its id; the ring sequence is higher than any that a member has stored.
    pub id: ViewId,
    /// Its members, ascending.
    pub members: Vec<NodeId>,
}

/// A member's yes to a proposal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[cfg_attr(test, derive(Deserialize, Serialize))]
pub struct Accepted {
    /// Which proposal.
    pub id: ViewId,
}

/// Where the service belongs. Of two, the one with the higher epoch, then serial, is newer.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Placement {
    /// The epoch in which it was decided.
    pub epoch: Epoch,
    /// Counts decisions within an epoch.
    pub serial: u32,
    /// The member that may run the service.
    pub node: NodeId,
}

/// Bytes that are not a beat.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BeatError {
    /// Longer than [`MAX_BEAT_BYTES`].
    #[error("beat of {0} bytes is over the limit of {MAX_BEAT_BYTES}")]
    TooLong(usize),
    /// Of a version that is not known here.
    #[error(
        "a beat of version {0}, known is {VERSION}: the node runs another version of haguard; \
         install the same one on all nodes"
    )]
    Version(u8),
    /// Not the encoding of a beat.
    #[error("bytes are not a beat")]
    Malformed,
    /// A list of more than [`MAX_NODES`] nodes.
    #[error("beat lists more than {MAX_NODES} nodes")]
    TooManyNodes,
}

/// The first byte of a beat: the version of this encoding.
const VERSION: u8 = 2;
/// The first byte of one that ends with a challenge. All others are as they were, so that a node
/// that knows no challenges misses no more than those.
const VERSION_CHALLENGE: u8 = 3;

impl Beat {
    /// The beat's bytes: a version byte, the fields in the order that `codec` lists, the challenge.
    ///
    /// # Errors
    /// [`BeatError::TooLong`] if it would not fit a datagram.
    pub fn encode(&self) -> Result<Vec<u8>, BeatError> {
        let version = if self.challenge.is_some() { VERSION_CHALLENGE } else { VERSION };
        let mut writer = Writer::new(version);
        self.write(&mut writer);
        if let Some(challenge) = &self.challenge {
            challenge.write(&mut writer);
        }
        let bytes = writer.into_bytes();
        if bytes.len() > MAX_BEAT_BYTES {
            return Err(BeatError::TooLong(bytes.len()));
        }
        Ok(bytes)
    }

    /// Reads a beat; trailing bytes are refused.
    ///
    /// # Errors
    /// Every [`BeatError`], for bytes of a peer.
    pub fn decode(bytes: &[u8]) -> Result<Self, BeatError> {
        if bytes.len() > MAX_BEAT_BYTES {
            return Err(BeatError::TooLong(bytes.len()));
        }
        let (version, rest) = match bytes.split_first() {
            Some((version @ (&VERSION | &VERSION_CHALLENGE), rest)) => (*version, rest),
            Some((version, _)) => return Err(BeatError::Version(*version)),
            None => return Err(BeatError::Malformed),
        };
        let mut reader = Reader::new(rest);
        let mut beat = Self::read(&mut reader).ok_or(BeatError::Malformed)?;
        if version == VERSION_CHALLENGE {
            beat.challenge = Some(Challenge::read(&mut reader).ok_or(BeatError::Malformed)?);
        }
        if reader.left() > 0 {
            return Err(BeatError::Malformed);
        }
        let lists = [
            Some(&beat.contacts),
            beat.view.as_ref().map(|view| &view.members),
            beat.proposal.as_ref().map(|proposal| &proposal.members),
        ];
        let long = lists.into_iter().flatten().any(|nodes| nodes.len() > MAX_NODES);
        let asked = beat.challenge.as_ref().map_or(0, |challenge| challenge.targets.len());
        if long || beat.off.len() >= MAX_NODES || asked >= MAX_NODES {
            return Err(BeatError::TooManyNodes);
        }
        Ok(beat)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fence::Nonce;
    use crate::ids::RingId;
    use crate::vote::WatchdogClass;

    fn largest() -> Beat {
        let nodes: Vec<NodeId> = (0..16).map(|n| NodeId(u32::MAX - n)).collect();
        let id = ViewId { ring: RingId::new(u32::MAX, u64::MAX), nonce: u64::MAX };
        let placement =
            Placement { epoch: Epoch(u64::MAX), serial: u32::MAX, node: NodeId(u32::MAX) };
        Beat {
            from: NodeId(u32::MAX),
            instance: InstanceId(u64::MAX),
            boot: BootId(u128::MAX),
            config_digest: u64::MAX,
            seq: u64::MAX,
            answers: Some(Answer { instance: InstanceId(u64::MAX), seq: u64::MAX }),
            contacts: nodes.clone(),
            highest_epoch: Epoch(u64::MAX),
            ring_seq: u64::MAX,
            view: Some(Installed {
                id,
                epoch: Epoch(u64::MAX),
                members: nodes.clone(),
                vote_free: true,
            }),
            proposal: Some(Proposal { id, members: nodes }),
            accepted: Some(Accepted { id }),
            bound: Bound { class: WatchdogClass::C, bound_ms: u32::MAX },
            placement: Some(placement),
            placing: Some(placement),
            running: true,
            leaving: true,
            off: vec![known_off(); MAX_NODES - 1],
            challenge: None,
        }
    }

    /// The same of a node that asks for all others: then no other is in its view.
    fn largest_with_challenge() -> Beat {
        let mut beat = largest();
        let others = beat.contacts.split_off(1);
        if let Some(view) = &mut beat.view {
            view.members.truncate(1);
        }
        beat.contacts.extend(&others);
        let (nonce, targets) = (Nonce(u128::MAX), others.into_iter().collect());
        Beat { challenge: Some(Challenge { nonce, targets }), ..beat }
    }

    fn known_off() -> KnownOff {
        KnownOff {
            node: NodeId(u32::MAX),
            boot: BootId(u128::MAX),
            by: OffBy::Operator,
            sent_ms: u32::MAX,
            epoch: Epoch(u64::MAX),
        }
    }

    #[test]
    fn the_largest_beat_fits_and_comes_back() {
        let beat = largest();
        let bytes = beat.encode().unwrap();
        assert_eq!(Beat::decode(&bytes), Ok(beat));
    }

    #[test]
    fn a_beat_without_a_challenge_is_what_older_nodes_know() {
        let mut beat = largest_with_challenge();
        let longer = beat.encode().unwrap();
        assert_eq!(longer[0], VERSION_CHALLENGE);
        assert_eq!(Beat::decode(&longer).as_ref(), Ok(&beat));
        beat.challenge = None;
        let bytes = beat.encode().unwrap();
        assert_eq!(bytes[0], VERSION);
        assert_eq!(longer[1..bytes.len()], bytes[1..]);
        assert_eq!(Beat::decode(&bytes), Ok(beat));
    }

    #[test]
    fn every_truncation_and_every_longer_text_is_refused() {
        for beat in [largest(), largest_with_challenge()] {
            let mut bytes = beat.encode().unwrap();
            for cut in 0..bytes.len() {
                assert!(Beat::decode(&bytes[..cut]).is_err(), "cut at {cut}");
            }
            bytes.push(0);
            assert_eq!(Beat::decode(&bytes), Err(BeatError::Malformed));
        }
    }

    #[test]
    fn lists_longer_than_a_cluster_are_refused() {
        let mut beat = largest();
        beat.view = None;
        beat.contacts.push(NodeId(1));
        assert_eq!(Beat::decode(&beat.encode().unwrap()), Err(BeatError::TooManyNodes));
        let mut beat = largest();
        beat.view = None;
        beat.off.push(known_off());
        assert_eq!(Beat::decode(&beat.encode().unwrap()), Err(BeatError::TooManyNodes));
        let mut beat = largest_with_challenge();
        beat.view = None;
        let targets = (1..17).map(NodeId).collect();
        beat.challenge = Some(Challenge { nonce: Nonce(1), targets });
        assert_eq!(Beat::decode(&beat.encode().unwrap()), Err(BeatError::TooManyNodes));
    }

    #[test]
    fn a_beat_of_another_version_says_which_and_what_to_do() {
        let mut bytes = largest().encode().unwrap();
        bytes[0] = VERSION - 1;
        let error = Beat::decode(&bytes).unwrap_err();
        assert_eq!(error, BeatError::Version(VERSION - 1));
        assert!(error.to_string().contains("install the same one"), "{error}");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..1200)) {
            let _ = Beat::decode(&bytes);
        }
    }
}
