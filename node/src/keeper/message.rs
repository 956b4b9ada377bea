//! The conversation between a node daemon and its keeper: one JSON object a line, at most
//! [`LINE_LIMIT`] bytes, over a UNIX stream socket.

use std::collections::BTreeMap;

use protocol::time::HostInstant;
use protocol::vote::{Bound, WatchdogClass};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::process::ProcessId;

/// A longer line ends the conversation.
pub const LINE_LIMIT: usize = 64 * 1024;
/// The version of the conversation. `hello`, `farewell` and `state` keep their meaning in all.
pub const VERSION: u32 = 1;

/// What the keeper runs: a command and its environment. The keeper adds only a PATH, where there
/// is none, and its own mark.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Launch {
    /// The program, looked up in PATH if it has no slash, and its arguments.
    pub argv: Vec<String>,
    /// The environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
}

impl Launch {
    /// Refuses what execve(2) could not take or would take for something else.
    pub fn check(&self) -> Result<(), String> {
        if self.argv.first().is_none_or(String::is_empty) {
            return Err("a command needs a program".to_owned());
        }
        if self.argv.iter().any(|word| word.contains('\0')) {
            return Err("a command with a NUL byte".to_owned());
        }
        let bad_name = |name: &String| name.is_empty() || name.contains(['=', '\0']);
        if self.env.iter().any(|(name, value)| bad_name(name) || value.contains('\0')) {
            return Err("an environment with a bad name or a NUL byte".to_owned());
        }
        Ok(())
    }
}

/// What a node daemon tells its keeper.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Command {
    /// Asks for [`Report::State`].
    Hello,
    /// Services may run until then, whatever was said before, and never longer than one lone
    /// lease (60 s) from now: the last word counts, also where it is shorter, and one that has
    /// passed already ends the entitlement.
    Entitle {
        /// t_e.
        until: HostInstant,
    },
    /// The entitlement ends now; what runs is stopped, with the stop bound counting.
    Revoke,
    /// Starts a command, if the node is entitled now and, once more, after the fork.
    Start {
        /// Names the start in reports and in `cancel`; not in use.
        serial: u64,
        /// What to run.
        launch: Launch,
        /// What takes back that which is no process (an address, a mount). From the start on it
        /// is part of every full stop, in reverse order, until it ends with code 0; `forget`
        /// takes it off the list.
        #[serde(default)]
        undo: Option<Launch>,
        /// The entitlement that the decision to start relied on.
        entitled_until: HostInstant,
    },
    /// Ends one start and all of its descendants: SIGTERM, SIGKILL after the stop grace.
    Cancel {
        /// Which.
        serial: u64,
    },
    /// The undo of that start has been done by other means.
    Forget {
        /// Which.
        serial: u64,
    },
    /// Ends everything: SIGTERM, SIGKILL after the stop grace, undos. Nothing starts before it
    /// is proven; the entitlement goes on.
    Stop,
    /// The node's daemons, which a forced end without hardware kills as well.
    Daemons {
        /// Each with its start time, so that a reused pid is left alone.
        daemons: Vec<ProcessId>,
    },
    /// The clean end: everything is stopped and proven, the device disarmed; the keeper exits.
    Farewell,
    /// The clean end of a keeper that guards what others started: all of that has ended. The
    /// device is disarmed, and the keeper exits.
    Release,
}

/// What the keeper tells the node daemon.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Report {
    /// The answer to `hello`.
    State(State),
    /// A start has passed its second check.
    Started {
        /// Which.
        serial: u64,
        /// The process, leader of its own session.
        pid: i32,
    },
    /// The process of a start has ended; its descendants may live on.
    Exited {
        /// Which.
        serial: u64,
        /// How.
        status: ExitStatus,
    },
    /// A full stop is proven: nothing that was ever started is left.
    StoppedProven,
    /// The keeper has not done what it was told.
    Refused {
        /// The start, if it was one.
        serial: Option<u64>,
        /// Why.
        reason: String,
    },
    /// The stop could not be proven in time: the end has been forced.
    Forced {
        /// What was late.
        reason: String,
    },
}

/// How a process ended.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExitStatus {
    /// With this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// The keeper in one look.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct State {
    /// [`VERSION`].
    pub version: u32,
    /// The keeper.
    pub pid: i32,
    /// The starts whose processes live.
    pub running: Vec<u64>,
    /// Nothing that was ever started is left.
    pub stopped_proven: bool,
    /// The entitlement goes on for this many milliseconds.
    pub entitled_ms: u64,
    /// The watchdog counts.
    pub armed: bool,
    /// The device; none for the keeper process alone.
    pub device: Option<String>,
    /// What the device calls itself.
    pub identity: Option<String>,
    /// What it proves (safety 23).
    pub class: WatchdogClass,
    /// No service runs later than this many milliseconds after the entitlement ended.
    pub bound_ms: u32,
    /// Without another pet the machine is reset after this many milliseconds; without a device,
    /// services are ended then.
    pub remaining_ms: u64,
    /// It starts nothing and guards what others started.
    #[serde(default)]
    pub outside: bool,
}

impl State {
    /// What the node announces in its view (safety 22).
    pub fn bound(&self) -> Bound {
        Bound { class: self.class, bound_ms: self.bound_ms }
    }
}

/// Why a line was not understood. The conversation ends with it.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum LineError {
    /// More bytes than [`LINE_LIMIT`] without an end of line.
    #[error("a line of more than {LINE_LIMIT} bytes")]
    TooLong,
    /// Not a message of this conversation.
    #[error("a line that is no message: {0}")]
    NotAMessage(String),
}

/// A message as its line.
///
/// # Errors
/// [`LineError::TooLong`] where the other side would refuse it.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, LineError> {
    let mut line =
        serde_json::to_vec(message).map_err(|error| LineError::NotAMessage(error.to_string()))?;
    if line.len() > LINE_LIMIT {
        return Err(LineError::TooLong);
    }
    line.push(b'\n');
    Ok(line)
}

/// Cuts a byte stream into messages.
#[derive(Clone, Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
}

impl Decoder {
    /// Takes in what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole message; none if its end has not come yet.
    ///
    /// # Errors
    /// [`LineError`] if the bytes are none of ours; the stream is of no further use then.
    pub fn next_message<T: DeserializeOwned>(&mut self) -> Result<Option<T>, LineError> {
        let Some(end) = self.bytes.iter().position(|byte| *byte == b'\n') else {
            return if self.bytes.len() > LINE_LIMIT { Err(LineError::TooLong) } else { Ok(None) };
        };
        if end > LINE_LIMIT {
            return Err(LineError::TooLong);
        }
        let message = serde_json::from_slice(&self.bytes[..end]);
        self.bytes.drain(..=end);
        message.map(Some).map_err(|error| LineError::NotAMessage(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn start() -> Command {
        Command::Start {
            serial: u64::MAX,
            launch: Launch {
                argv: vec!["sleep".to_owned(), "9".to_owned()],
                env: BTreeMap::from([("A".to_owned(), "b\nc".to_owned())]),
            },
            undo: Some(Launch { argv: vec!["true".to_owned()], env: BTreeMap::new() }),
            entitled_until: HostInstant { boottime_ns: 7, raw_ns: u64::MAX },
        }
    }

    #[test]
    fn messages_come_back_wherever_the_stream_is_cut() {
        let mut stream = encode(&start()).unwrap();
        stream.extend(encode(&Command::Farewell).unwrap());
        for cut in 0..stream.len() {
            let mut decoder = Decoder::default();
            let mut seen = Vec::new();
            for part in [&stream[..cut], &stream[cut..]] {
                decoder.push(part);
                while let Some(command) = decoder.next_message::<Command>().unwrap() {
                    seen.push(command);
                }
            }
            assert_eq!(seen, [start(), Command::Farewell]);
        }
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut decoder = Decoder::default();
        decoder.push(&vec![b' '; LINE_LIMIT + 1]);
        assert_eq!(decoder.next_message::<Command>(), Err(LineError::TooLong));
    }

    #[test]
    fn what_execve_would_misread_is_refused() {
        let launch = |argv: &[&str], name: &str| Launch {
            argv: argv.iter().map(|word| (*word).to_owned()).collect(),
            env: BTreeMap::from([(name.to_owned(), String::new())]),
        };
        assert!(launch(&["true", ""], "A").check().is_ok());
        assert!(launch(&[], "A").check().is_err());
        assert!(launch(&[""], "A").check().is_err());
        assert!(launch(&["a\0b"], "A").check().is_err());
        assert!(launch(&["true"], "A=B").check().is_err());
        assert!(launch(&["true"], "").check().is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_an_error(bytes: Vec<u8>) {
            let mut decoder = Decoder::default();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.next_message::<Command>() {}
        }
    }
}
