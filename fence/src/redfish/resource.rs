//! What a BMC says of itself (DSP0268). Every shape is possible: what is not found is absent, and
//! only what was asked for is missed.

use hyper::StatusCode;
use serde_json::Value;

use super::wire::Answer;
use crate::device::{DeviceError, Power};
use crate::text::printable;

/// Where every service begins (DSP0266, 6.6).
pub(super) const ROOT: &str = "/redfish/v1/";

/// Where the systems are unless the root says otherwise.
const SYSTEMS: &str = "/redfish/v1/Systems";

/// The action that changes the power.
const RESET: &str = "#ComputerSystem.Reset";

/// No more reset types, and no more systems, than this are read.
const LIST_MAX: usize = 256;

/// The service root, which can be read without a login.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Root {
    /// Where a session is made, if there are sessions.
    pub(super) sessions: Option<String>,
    /// The collection of systems.
    pub(super) systems: String,
}

/// A `PowerState` (DSP0268, Resource.PowerState).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum State {
    On,
    Off,
    PoweringOn,
    PoweringOff,
    Paused,
}

/// One system.
#[derive(Clone, Debug)]
pub(super) struct System {
    power: Value,
    /// Its UUID, if it has one.
    pub(super) uuid: Option<String>,
    /// How its power is changed.
    pub(super) reset: Option<Reset>,
}

/// The action [`RESET`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Reset {
    /// Where it is posted to.
    pub(super) target: String,
    /// What it takes.
    pub(super) offer: Offer,
}

/// The reset types that a system takes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Offer {
    /// These.
    Listed(Vec<String>),
    /// An `ActionInfo` says it.
    At(String),
    /// It does not say.
    Unsaid,
}

impl Root {
    /// Takes the answer to a request for [`ROOT`].
    pub(super) fn read(answer: &Answer) -> Result<Self, DeviceError> {
        match answer.status {
            StatusCode::OK => {}
            // A service that hides even its root has no sessions by the book.
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                return Ok(Self { sessions: None, systems: SYSTEMS.to_owned() });
            }
            _ => {
                let text = format!("no redfish service at {ROOT}: {}", answer.complaint());
                return Err(DeviceError::Refused(text));
            }
        }
        let root = answer.json()?;
        let link = |pointer| root.pointer(pointer).and_then(odata_id);
        let service =
            link("/SessionService").map(|path| format!("{}/Sessions", path.trim_end_matches('/')));
        let sessions = link("/Links/Sessions").map(str::to_owned).or(service);
        let systems = link("/Systems").unwrap_or(SYSTEMS).to_owned();
        Ok(Self { sessions, systems })
    }
}

impl System {
    /// Takes what is there.
    pub(super) fn read(system: &Value) -> Self {
        let uuid = system.get("UUID").and_then(Value::as_str).filter(|uuid| !uuid.is_empty());
        let uuid = uuid.map(|uuid| printable(uuid.as_bytes(), 64));
        let power = system.get("PowerState").cloned().unwrap_or(Value::Null);
        let action = system.get("Actions").and_then(|actions| actions.get(RESET));
        let reset = action.and_then(|action| {
            let target = action.get("target")?.as_str()?.to_owned();
            let listed = action.get("ResetType@Redfish.AllowableValues").and_then(strings);
            let info = action.get("@Redfish.ActionInfo").and_then(Value::as_str);
            let offer = match (listed, info) {
                (Some(types), _) => Offer::Listed(types),
                (None, Some(info)) => Offer::At(info.to_owned()),
                (None, None) => Offer::Unsaid,
            };
            Some(Reset { target, offer })
        });
        Self { power, uuid, reset }
    }

    /// Its state.
    pub(super) fn state(&self) -> Result<State, DeviceError> {
        let word = self.power.as_str().unwrap_or_default();
        let states = [
            ("On", State::On),
            ("Off", State::Off),
            ("PoweringOn", State::PoweringOn),
            ("PoweringOff", State::PoweringOff),
            ("Paused", State::Paused),
        ];
        let found = states.iter().find(|(name, _)| name.eq_ignore_ascii_case(word));
        found.map(|(_, state)| *state).ok_or_else(|| {
            let shown = printable(self.power.to_string().as_bytes(), 40);
            DeviceError::Garbage(format!("the system's PowerState is {shown}"))
        })
    }
}

impl State {
    /// Whether there is power: as long as it is not off, there is.
    pub(super) fn power(self) -> Power {
        match self {
            Self::Off => Power::Off,
            Self::On | Self::PoweringOn | Self::PoweringOff | Self::Paused => Power::On,
        }
    }
}

/// The parameter `ResetType` of an `ActionInfo`; `None` if that lists none.
pub(super) fn allowed_by_info(info: &Value) -> Option<Vec<String>> {
    let parameters = info.get("Parameters")?.as_array()?;
    let named = |parameter: &&Value| parameter.get("Name").is_some_and(|name| name == "ResetType");
    parameters.iter().find(named)?.get("AllowableValues").and_then(strings)
}

/// Adds the members on one page of a collection, and says where the next page is.
pub(super) fn members(
    page: &Value,
    members: &mut Vec<String>,
) -> Result<Option<String>, DeviceError> {
    let listed = page.get("Members").and_then(Value::as_array).ok_or_else(|| {
        DeviceError::Garbage("the collection of systems has no Members".to_owned())
    })?;
    let room = LIST_MAX.saturating_sub(members.len());
    members.extend(listed.iter().filter_map(odata_id).take(room).map(str::to_owned));
    Ok(page.get("Members@odata.nextLink").and_then(Value::as_str).map(str::to_owned))
}

/// Why none of these systems was chosen.
pub(super) fn choice(wanted: Option<&str>, members: &[String]) -> String {
    let names: Vec<_> = members.iter().map(|path| last_segment(path)).collect();
    let names = printable(names.join(", ").as_bytes(), 200);
    match (wanted, members.len()) {
        (_, 0) => "the bmc shows no system to this user: give the user the right to see it".into(),
        (Some(wanted), _) => {
            format!("the bmc has no system {wanted:?}: set 'system' to one of {names}")
        }
        (None, count) => {
            format!("the bmc has {count} systems: set 'system' to the node's own, one of {names}")
        }
    }
}

/// The `Id` of a resource is the last part of its path (DSP0266, 9.6.3).
pub(super) fn last_segment(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
}

/// What the BMC says about a request that failed: DSP0266, 8.6, or its first words.
pub(super) fn complaint(body: &[u8]) -> String {
    let Ok(body) = serde_json::from_slice::<Value>(body) else { return printable(body, 100) };
    let said = messages(&body).filter_map(|message| {
        let text = message.get("Message").or_else(|| message.get("MessageId"));
        text.and_then(Value::as_str)
    });
    let mut said: Vec<_> = said.collect();
    if said.is_empty() {
        said.extend(body.pointer("/error/message").and_then(Value::as_str));
    }
    printable(said.join("; ").as_bytes(), 200)
}

/// Whether one of the messages has this name, in whatever registry and version.
pub(super) fn has_message(body: &[u8], name: &str) -> bool {
    let Ok(body) = serde_json::from_slice::<Value>(body) else { return false };
    messages(&body).any(|message| {
        let id = message.get("MessageId").and_then(Value::as_str).unwrap_or_default();
        id.rsplit('.').next() == Some(name)
    })
}

/// Whether two UUIDs are the same, whatever their dashes, braces and capitals. Some BMCs have
/// something else for a UUID: that is compared in the same way.
pub fn same_uuid(one: &str, other: &str) -> bool {
    let plain = |text: &str| text.trim().replace(['-', '{', '}'], "").to_ascii_lowercase();
    let one = plain(one);
    !one.is_empty() && one == plain(other)
}

fn messages(body: &Value) -> impl Iterator<Item = &Value> {
    let list = body.pointer("/error/@Message.ExtendedInfo").and_then(Value::as_array);
    list.into_iter().flatten().take(LIST_MAX)
}

fn odata_id(link: &Value) -> Option<&str> {
    link.get("@odata.id")?.as_str()
}

fn strings(list: &Value) -> Option<Vec<String>> {
    let list = list.as_array()?;
    Some(list.iter().filter_map(Value::as_str).take(LIST_MAX).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// Values of any shape, of the names that are looked for.
    fn any_value() -> impl Strategy<Value = Value> {
        let words = ["Off", "off", "On", "", "/redfish/v1/x", "ResetType", "a\u{0}b"];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::from),
            proptest::sample::select(words.to_vec()).prop_map(Value::from),
        ];
        let keys = [
            "PowerState",
            "UUID",
            "Actions",
            RESET,
            "target",
            "@Redfish.ActionInfo",
            "Members",
            "ResetType@Redfish.AllowableValues",
            "Members@odata.nextLink",
            "@odata.id",
            "Name",
            "Parameters",
            "AllowableValues",
            "error",
            "@Message.ExtendedInfo",
            "MessageId",
            "Message",
            "message",
            "Links",
            "Sessions",
            "SessionService",
            "Systems",
        ];
        leaf.prop_recursive(5, 40, 5, move |inner| {
            let key = proptest::sample::select(keys.to_vec());
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map(key, inner, 0..6)
                    .prop_map(|map| map.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_shape_is_a_panic_and_only_the_word_off_is_off(value in any_value()) {
            let system = System::read(&value);
            let off = system.state() == Ok(State::Off);
            let word = value.get("PowerState").and_then(Value::as_str).unwrap_or_default();
            prop_assert_eq!(off, word.eq_ignore_ascii_case("off"));
            let body = value.to_string();
            prop_assert!(complaint(body.as_bytes()).chars().count() <= 200);
            has_message(body.as_bytes(), "x");
            allowed_by_info(&value);
            // Whether there is a collection in it does not matter here.
            let _ = members(&value, &mut Vec::new());
            let (status, headers) = (StatusCode::OK, hyper::HeaderMap::new());
            let root = Root::read(&Answer { status, headers, body: body.into() });
            prop_assert!(root.is_ok());
        }

        #[test]
        fn no_text_is_a_panic(text in any::<String>()) {
            last_segment(&text);
            super::super::parse_pin(&text);
            same_uuid(&text, &text);
        }
    }

    #[test]
    fn uuids_are_the_same_however_they_are_written() {
        let uuid = "38947555-7742-3448-3784-8233478238aF";
        assert!(same_uuid(uuid, "{3894755577423448378482334782 38Af}".replace(' ', "").as_str()));
        assert!(!same_uuid(uuid, "38947555-7742-3448-3784-8233478238a0"));
        assert!(same_uuid("Chassis 7", "chassis 7 ") && !same_uuid("x", "y"));
        assert!(!same_uuid("", "") && !same_uuid("-", "-"));
    }

    #[test]
    fn messages_are_found_in_any_registry() {
        let info = json!([{ "MessageId": "Base.1.18.SessionLimitExceeded" }, 5]);
        let body = json!({ "error": { "@Message.ExtendedInfo": info } }).to_string();
        assert!(has_message(body.as_bytes(), "SessionLimitExceeded"));
        assert!(!has_message(body.as_bytes(), "Exceeded"));
        assert_eq!(complaint(body.as_bytes()), "Base.1.18.SessionLimitExceeded");
        assert_eq!(complaint(br#"{"error":{"message":"why"}}"#), "why");
        assert_eq!(complaint(b"<html>\nno"), "<html>; no");
    }
}
