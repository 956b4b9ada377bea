//! The emulator's own protocol (QMP): one JSON object a line.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::story::{Story, What, wall};

/// The emulator answers at once, unless the host is very busy.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection to a machine's emulator.
#[derive(Debug)]
pub(crate) struct Qmp {
    stream: UnixStream,
    answers: Receiver<Value>,
}

impl Qmp {
    /// Connects to an emulator that may just be starting. Its events go into the story.
    pub(crate) fn connect(socket: &Path, machine: u32, story: &Story) -> Self {
        let stream = connect(socket, story);
        let (tell, answers) = channel();
        let (reader, story) = (stream.try_clone().unwrap(), story.clone());
        thread::spawn(move || listen(reader, machine, &story, &tell));
        let mut qmp = Self { stream, answers };
        qmp.execute("qmp_capabilities", &json!({}));
        qmp
    }

    /// Runs a command and returns its result.
    pub(crate) fn execute(&mut self, command: &str, arguments: &Value) -> Value {
        let line = json!({ "execute": command, "arguments": arguments });
        writeln!(self.stream, "{line}").unwrap();
        let answer = self.answers.recv_timeout(PATIENCE);
        let answer = answer.unwrap_or_else(|error| panic!("{command}: {error}"));
        assert!(answer["error"].is_null(), "{command} {arguments}: {answer}");
        answer["return"].clone()
    }
}

/// Connects to a socket as soon as somebody listens there.
pub(crate) fn connect(socket: &Path, story: &Story) -> UnixStream {
    let what = format!("somebody at {}", socket.display());
    story.wait(&what, PATIENCE, |_| UnixStream::connect(socket).ok())
}

fn listen(stream: UnixStream, machine: u32, story: &Story, tell: &Sender<Value>) {
    for line in BufReader::new(stream).lines() {
        let Ok(line) = line else { return };
        let Ok(said) = serde_json::from_str::<Value>(&line) else { continue };
        if let Some(name) = said["event"].as_str() {
            let stamp = &said["timestamp"];
            let part = |name: &str| stamp[name].as_u64().unwrap_or_default();
            let at =
                Duration::from_secs(part("seconds")) + Duration::from_micros(part("microseconds"));
            let at = if at.is_zero() { wall() } else { at };
            let data = &said["data"];
            let reason = data["reason"].as_str().or(data["action"].as_str()).unwrap_or_default();
            // Link and port changes are what the lab does itself.
            if ["RESET", "WATCHDOG", "SHUTDOWN", "POWERDOWN", "STOP", "RESUME"].contains(&name) {
                let (name, reason) = (name.to_owned(), reason.to_owned());
                story.add(at, machine, What::Event { name, reason });
            }
        } else if said["QMP"].is_null() && tell.send(said).is_err() {
            return;
        }
    }
}
