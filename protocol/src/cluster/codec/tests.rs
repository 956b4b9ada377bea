//! Every byte is held to postcard: what is written, what is taken, what is refused, and as what.

use std::fmt::Debug;

use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::super::{BeatError, MAX_BEAT_BYTES, VERSION, VERSION_CHALLENGE};
use super::*;

/// The bytes of a beat by postcard, however long.
fn bytes_by_postcard(beat: &Beat) -> Vec<u8> {
    let version = if beat.challenge.is_some() { VERSION_CHALLENGE } else { VERSION };
    let bytes = postcard::to_extend(beat, vec![version]).unwrap();
    match &beat.challenge {
        Some(challenge) => postcard::to_extend(challenge, bytes).unwrap(),
        None => bytes,
    }
}

fn encode_by_postcard(beat: &Beat) -> Result<Vec<u8>, BeatError> {
    let bytes = bytes_by_postcard(beat);
    if bytes.len() > MAX_BEAT_BYTES { Err(BeatError::TooLong(bytes.len())) } else { Ok(bytes) }
}

fn take_by_postcard<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, &[u8]), BeatError> {
    postcard::take_from_bytes(bytes).map_err(|_| BeatError::Malformed)
}

fn decode_by_postcard(bytes: &[u8]) -> Result<Beat, BeatError> {
    if bytes.len() > MAX_BEAT_BYTES {
        return Err(BeatError::TooLong(bytes.len()));
    }
    let (beat, rest) = match bytes.split_first() {
        Some((&VERSION, rest)) => take_by_postcard(rest)?,
        Some((&VERSION_CHALLENGE, rest)) => {
            let (beat, rest): (Beat, &[u8]) = take_by_postcard(rest)?;
            let (challenge, rest) = take_by_postcard(rest)?;
            (Beat { challenge: Some(challenge), ..beat }, rest)
        }
        Some((version, _)) => return Err(BeatError::Version(*version)),
        None => return Err(BeatError::Malformed),
    };
    if !rest.is_empty() {
        return Err(BeatError::Malformed);
    }
    let members = [
        beat.contacts.len(),
        beat.view.as_ref().map_or(0, |view| view.members.len()),
        beat.proposal.as_ref().map_or(0, |proposal| proposal.members.len()),
    ];
    let others = [beat.off.len(), beat.challenge.as_ref().map_or(0, |asked| asked.targets.len())];
    if members.iter().any(|nodes| *nodes > 16) || others.iter().any(|nodes| *nodes > 15) {
        return Err(BeatError::TooManyNodes);
    }
    Ok(beat)
}

/// What is taken from the front of `bytes`, and how much, is the same.
fn taken_alike<T: Wire + DeserializeOwned + Debug + PartialEq>(bytes: &[u8]) {
    let mut reader = Reader::new(bytes);
    let own = T::read(&mut reader).map(|value| (value, reader.left()));
    let theirs = postcard::take_from_bytes(bytes).ok();
    assert_eq!(own, theirs.map(|(value, rest): (T, _)| (value, rest.len())), "{bytes:x?}");
}

/// What is written is the same, and comes back from wherever it stands.
fn written_alike<T: Wire + Serialize + DeserializeOwned + Debug + PartialEq>(value: &T) {
    let mut writer = Writer::new(VERSION);
    value.write(&mut writer);
    let mut bytes = writer.into_bytes();
    assert_eq!(bytes, postcard::to_extend(value, vec![VERSION]).unwrap(), "{value:?}");
    for _ in 0..10 {
        taken_alike::<T>(&bytes[1..]);
        bytes.push(0x80);
    }
}

/// Numbers of all lengths, and those at which the lengths change.
fn number() -> impl Strategy<Value = u128> {
    let edge = (0..128_u32, 0..3_u128).prop_map(|(bit, more)| ((1 << bit) - 1_u128) + more);
    prop_oneof![0..200_u128, edge, (any::<u128>(), 0..128_u32).prop_map(|(n, by)| n >> by)]
}

fn long() -> impl Strategy<Value = u64> {
    number().prop_map(|number| number as u64)
}

fn short() -> impl Strategy<Value = u32> {
    number().prop_map(|number| number as u32)
}

/// Of which a list may have one more than a cluster.
fn nodes() -> impl Strategy<Value = Vec<NodeId>> {
    let node = short().prop_map(NodeId);
    prop_oneof![9 => vec(node, 0..5), 1 => vec(any::<u32>().prop_map(NodeId), 15..18)]
}

fn view_id() -> impl Strategy<Value = ViewId> {
    (short(), long(), long())
        .prop_map(|(node, seq, nonce)| ViewId { ring: RingId::new(node, seq), nonce })
}

fn placement() -> impl Strategy<Value = Placement> {
    (long(), short(), short()).prop_map(|(epoch, serial, node)| Placement {
        epoch: Epoch(epoch),
        serial,
        node: NodeId(node),
    })
}

fn known_off() -> impl Strategy<Value = KnownOff> {
    let by = prop_oneof![Just(OffBy::Power), Just(OffBy::Watchdog), Just(OffBy::Operator)];
    (short(), number(), by, short(), long()).prop_map(|(node, boot, by, sent_ms, epoch)| KnownOff {
        node: NodeId(node),
        boot: BootId(boot),
        by,
        sent_ms,
        epoch: Epoch(epoch),
    })
}

fn bound() -> impl Strategy<Value = Bound> {
    let class = prop_oneof![
        Just(WatchdogClass::A),
        Just(WatchdogClass::B),
        Just(WatchdogClass::C),
        Just(WatchdogClass::D)
    ];
    (class, short()).prop_map(|(class, bound_ms)| Bound { class, bound_ms })
}

fn challenge() -> impl Strategy<Value = Challenge> {
    let targets = prop_oneof![9 => btree_set(short(), 0..5), 1 => btree_set(short(), 14..18)];
    (number(), targets).prop_map(|(nonce, targets)| Challenge {
        nonce: Nonce(nonce),
        targets: targets.into_iter().map(NodeId).collect(),
    })
}

fn installed() -> impl Strategy<Value = Installed> {
    (view_id(), long(), nodes(), any::<bool>()).prop_map(|(id, epoch, members, vote_free)| {
        Installed { id, epoch: Epoch(epoch), members, vote_free }
    })
}

fn beat() -> impl Strategy<Value = Beat> {
    let answer =
        (long(), long()).prop_map(|(instance, seq)| Answer { instance: InstanceId(instance), seq });
    let proposal = (view_id(), nodes()).prop_map(|(id, members)| Proposal { id, members });
    let names = (short(), long(), number(), long(), long(), long(), long());
    let views = (
        option::of(installed()),
        option::of(proposal),
        option::of(view_id().prop_map(|id| Accepted { id })),
        option::of(placement()),
        option::of(placement()),
    );
    let off = prop_oneof![9 => vec(known_off(), 0..3), 1 => vec(known_off(), 14..40)];
    let rest = (bound(), any::<bool>(), any::<bool>(), off, option::of(challenge()));
    (names, option::of(answer), nodes(), views, rest).prop_map(
        |(names, answers, contacts, views, rest)| {
            let (from, instance, boot, config_digest, seq, highest_epoch, ring_seq) = names;
            let (view, proposal, accepted, placement, placing) = views;
            let (bound, running, leaving, off, challenge) = rest;
            Beat {
                from: NodeId(from),
                instance: InstanceId(instance),
                boot: BootId(boot),
                config_digest,
                seq,
                answers,
                contacts,
                highest_epoch: Epoch(highest_epoch),
                ring_seq,
                view,
                proposal,
                accepted,
                bound,
                placement,
                placing,
                running,
                leaving,
                off,
                challenge,
            }
        },
    )
}

/// One thing that goes wrong with bytes.
#[derive(Clone, Copy, Debug)]
enum Harm {
    Set(u8),
    Flip(u8),
    Insert(u8),
    Remove,
    /// One byte more than the number needs.
    Longer,
    Cut,
}

fn harm() -> impl Strategy<Value = Harm> {
    prop_oneof![
        prop_oneof![0..20_u8, any::<u8>()].prop_map(Harm::Set),
        (0..8_u8).prop_map(|bit| Harm::Flip(1 << bit)),
        any::<u8>().prop_map(Harm::Insert),
        Just(Harm::Remove),
        Just(Harm::Longer),
        Just(Harm::Cut),
    ]
}

fn harmed(mut bytes: Vec<u8>, harms: &[(prop::sample::Index, Harm)]) -> Vec<u8> {
    for (at, harm) in harms {
        if bytes.is_empty() {
            break;
        }
        let at = at.index(bytes.len());
        match *harm {
            Harm::Set(byte) => bytes[at] = byte,
            Harm::Flip(bits) => bytes[at] ^= bits,
            Harm::Insert(byte) => bytes.insert(at, byte),
            Harm::Remove => drop(bytes.remove(at)),
            Harm::Longer => {
                let byte = std::mem::replace(&mut bytes[at], 0);
                bytes.insert(at, byte | 0x80);
            }
            Harm::Cut => bytes.truncate(at),
        }
    }
    bytes
}

#[test]
fn numbers_at_every_change_of_length_are_as_postcard_has_them() {
    for bit in 0..128 {
        for number in [1_u128 << bit, (1 << bit) - 1, u128::MAX >> bit] {
            written_alike(&number);
            written_alike(&(number as u64));
            written_alike(&(number as u32));
        }
    }
}

/// Longest and overlong forms: bits beyond the number's, too many bytes, no end.
#[test]
fn every_last_byte_of_every_length_of_number_is_taken_or_refused_as_by_postcard() {
    for before in 0..24 {
        for first in [0x80, 0x81, 0xff] {
            for last in 0..=u8::MAX {
                let mut bytes = vec![first; before];
                bytes.push(last);
                for _ in 0..2 {
                    taken_alike::<u32>(&bytes);
                    taken_alike::<u64>(&bytes);
                    taken_alike::<u128>(&bytes);
                    taken_alike::<WatchdogClass>(&bytes);
                    // Now with so much after it that eight bytes can be read at once.
                    bytes.extend([0x55; 8]);
                }
            }
        }
    }
}

#[test]
fn a_list_that_claims_more_than_there_is_is_refused() {
    for length in [1, 2, 17, 1_000, u64::from(u32::MAX), u64::MAX] {
        let mut bytes = postcard::to_extend(&length, Vec::new()).unwrap();
        taken_alike::<Vec<NodeId>>(&bytes);
        taken_alike::<BTreeSet<NodeId>>(&bytes);
        bytes.extend([1; 20]);
        taken_alike::<Vec<NodeId>>(&bytes);
        taken_alike::<BTreeSet<NodeId>>(&bytes);
        taken_alike::<Vec<KnownOff>>(&bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_beat_is_written_and_read_as_by_postcard(beat in beat()) {
        let bytes = beat.encode();
        prop_assert_eq!(&bytes, &encode_by_postcard(&beat));
        if let Ok(bytes) = bytes {
            let read = Beat::decode(&bytes);
            prop_assert_eq!(&read, &decode_by_postcard(&bytes));
            prop_assert!(read == Ok(beat) || read == Err(BeatError::TooManyNodes));
        }
    }

    #[test]
    fn a_beat_with_wrong_bytes_is_taken_or_refused_as_by_postcard(
        beat in beat(),
        harms in vec((any::<prop::sample::Index>(), harm()), 1..4),
    ) {
        let bytes = harmed(bytes_by_postcard(&beat), &harms);
        prop_assert_eq!(Beat::decode(&bytes), decode_by_postcard(&bytes));
    }

    #[test]
    fn any_bytes_are_taken_or_refused_as_by_postcard(
        version in prop_oneof![Just(VERSION), Just(VERSION_CHALLENGE), any::<u8>()],
        bytes in vec(prop_oneof![3 => 0..3_u8, 1 => any::<u8>()], 0..200),
    ) {
        let bytes: Vec<u8> = [version].into_iter().chain(bytes).collect();
        prop_assert_eq!(Beat::decode(&bytes), decode_by_postcard(&bytes));
    }
}
