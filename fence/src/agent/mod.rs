//! Any program with the interface of the fence agents (the fence-agents project's API document,
//! `FenceAgentAPI.md`): it reads `key=value` lines, does the action, and says by its exit code what
//! came of it.
//!
//! # Layout
//! * [`Agent::run`]: the actions `status`, `off` and `on`; [`Agent::actions`]: what it can do.
//! * [`process`]: one run of a program: limits on time and output, and nothing left behind.
//!
//! Everything goes in through standard input: arguments and environment can be read by others.
//! `status` means on with 0 and off with 2, and that is not enough to believe that a machine is
//! off: an interpreter that cannot read its program exits with 2 as well. So either the agent says
//! off in words too, as all of the fence-agents library do, or its `monitor` has to succeed.

mod process;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::device::{Command, DeviceError, Power, Seen};
use crate::secret::Secret;
use crate::text::printable;
use process::{End, Exit, Output};

/// No run takes longer, whatever the configuration says.
const LIMIT_MAX: Duration = Duration::from_secs(600);

/// So much of what an agent printed is kept for errors: the end of it, in bytes.
const KEPT_BYTES: usize = 4096;

/// Metadata is kept whole; the longest of the fence-agents project has a tenth of this, in bytes.
const METADATA_BYTES_MAX: usize = 512 * 1024;

/// The exit code of `status` for a machine that is off.
const EXIT_OFF: i32 = 2;

/// What an agent is told and how.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The program: an absolute path, or a bare name that is looked for in `PATH`.
    pub program: PathBuf,
    /// Its options, by the names that its metadata gives them, without `action`.
    pub options: BTreeMap<String, String>,
    /// Its options that are passwords.
    pub secrets: BTreeMap<String, Secret>,
}

/// A fence agent for one machine.
#[derive(Clone, Debug)]
pub struct Agent {
    config: Config,
}

/// What an agent says it can do.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Actions(BTreeSet<String>);

impl Agent {
    /// Checks what can be checked without running it.
    ///
    /// # Errors
    /// [`DeviceError::Local`] if an option cannot be told to an agent, with what to change.
    pub fn new(config: Config) -> Result<Self, DeviceError> {
        let program = &config.program;
        let bare = program.components().count() == 1 && !program.has_root();
        if program.as_os_str().is_empty() || !(program.is_absolute() || bare) {
            let text = format!("the fence agent {program:?} needs an absolute path: give it one");
            return Err(DeviceError::Local(text));
        }
        for name in config.options.keys() {
            if is_password(name) {
                return Err(local(name, "is a password: put it into a file of its own"));
            }
        }
        let options = config.options.iter().map(|(name, value)| (name, value.as_bytes()));
        let secrets = config.secrets.iter().map(|(name, secret)| (name, secret.expose()));
        for (name, value) in options.chain(secrets) {
            check(name, value)?;
        }
        if let Some(twice) = config.secrets.keys().find(|name| config.options.contains_key(*name)) {
            return Err(local(twice, "is given twice: leave one out"));
        }
        Ok(Self { config })
    }

    /// Runs one action, for at most `limit`; then it and whatever it has started is killed, and
    /// also if this future is dropped.
    ///
    /// # Errors
    /// As [`DeviceError`] says; [`DeviceError::Silent`] once `limit` is over.
    pub async fn run(&self, command: Command, limit: Duration) -> Result<Seen, DeviceError> {
        let limit = limit.min(LIMIT_MAX);
        match command {
            Command::Status => self.status(limit).await,
            Command::Off => self.obeyed("off", limit).await,
            Command::On => self.obeyed("on", limit).await,
        }
    }

    /// What the agent says it can do, by its metadata. A `status`, `off` or `on` that is missing is
    /// known before it is needed.
    ///
    /// # Errors
    /// As [`Agent::run`].
    pub async fn actions(&self, limit: Duration) -> Result<Actions, DeviceError> {
        let limit = limit.min(LIMIT_MAX);
        let end = self.act("metadata", limit, METADATA_BYTES_MAX).await?;
        if end.exit != Exit::Code(0) {
            return Err(self.refusal("metadata", &end));
        }
        let actions = Actions::read(&String::from_utf8_lossy(&end.stdout.kept));
        if actions.0.is_empty() {
            let text = format!("the metadata of {} names no action", self.shown());
            return Err(DeviceError::Garbage(text));
        }
        Ok(actions)
    }

    async fn obeyed(&self, action: &str, limit: Duration) -> Result<Seen, DeviceError> {
        let end = self.act(action, limit, KEPT_BYTES).await?;
        match end.exit {
            Exit::Code(0) => Ok(Seen::Accepted),
            Exit::Code(_) | Exit::Signal(_) => Err(self.refusal(action, &end)),
        }
    }

    async fn status(&self, limit: Duration) -> Result<Seen, DeviceError> {
        let until = Instant::now() + limit;
        let end = self.act("status", limit, KEPT_BYTES).await?;
        match end.exit {
            Exit::Code(0) => return Ok(Seen::Power(Power::On)),
            Exit::Code(EXIT_OFF) => {}
            Exit::Code(_) | Exit::Signal(_) => return Err(self.refusal("status", &end)),
        }
        if !says_off(&end.stdout.kept) {
            let rest = until.saturating_duration_since(Instant::now());
            let monitor = self.act("monitor", rest, KEPT_BYTES).await;
            let monitor = monitor.map_err(|error| match error {
                DeviceError::Silent(_) => DeviceError::Silent(limit),
                DeviceError::Login(_)
                | DeviceError::Stranger(_)
                | DeviceError::Refused(_)
                | DeviceError::Garbage(_)
                | DeviceError::Local(_) => error,
            })?;
            if monitor.exit != Exit::Code(0) {
                let text = format!(
                    "status ended with 2, which means off, but without a word about it, and {}; \
                     a program that does not run at all ends with 2 as well",
                    self.refusal("monitor", &monitor)
                );
                return Err(DeviceError::Garbage(text));
            }
        }
        Ok(Seen::Power(Power::Off))
    }

    /// One run of the program.
    async fn act(&self, action: &str, limit: Duration, keep: usize) -> Result<End, DeviceError> {
        let input = self.input(action);
        let mut end = process::run(&self.config.program, &input, limit, keep).await?;
        for output in [&mut end.stdout, &mut end.stderr] {
            self.redact(output, keep);
        }
        Ok(end)
    }

    /// What the program reads.
    fn input(&self, action: &str) -> Zeroizing<Vec<u8>> {
        let options = self.config.options.iter().map(|(name, value)| (name, value.as_bytes()));
        let secrets = self.config.secrets.iter().map(|(name, secret)| (name, secret.expose()));
        let lines: Vec<_> = options.chain(secrets).collect();
        let long = lines.iter().map(|(name, value)| name.len() + value.len() + 2).sum::<usize>();
        // A vector that grows leaves copies of passwords behind.
        let mut input = Zeroizing::new(Vec::with_capacity(long + action.len() + 8));
        input.extend_from_slice(b"action=");
        input.extend_from_slice(action.as_bytes());
        input.push(b'\n');
        for (name, value) in lines {
            input.extend_from_slice(name.as_bytes());
            input.push(b'=');
            input.extend_from_slice(value);
            input.push(b'\n');
        }
        input
    }

    /// Takes passwords out of what a talkative agent has printed. [`process`] keeps a little more
    /// than asked for, so that one cut in half at the beginning is cut off whole.
    fn redact(&self, output: &mut Output, keep: usize) {
        for secret in self.config.secrets.values().filter(|secret| !secret.expose().is_empty()) {
            let secret = secret.expose();
            let mut clean = Vec::new();
            let mut rest = &output.kept[..];
            while let Some(at) = rest.windows(secret.len()).position(|part| part == secret) {
                clean.extend_from_slice(&rest[..at]);
                clean.extend_from_slice(b"[...]");
                rest = &rest[at + secret.len()..];
            }
            clean.extend_from_slice(rest);
            output.kept = clean;
        }
        if output.lost {
            let longest = self.config.secrets.values().map(|secret| secret.expose().len()).max();
            let beginning = longest.unwrap_or(0).min(output.kept.len());
            output.kept.drain(..beginning);
        }
        let surplus = output.kept.len().saturating_sub(keep);
        output.kept.drain(..surplus);
        output.lost |= surplus > 0;
    }

    fn refusal(&self, action: &str, end: &End) -> DeviceError {
        let words = [&end.stderr, &end.stdout].map(|output| {
            let words = printable(&output.kept, KEPT_BYTES);
            if output.lost && !words.starts_with('…') { format!("…{words}") } else { words }
        });
        let words = words.iter().find(|words| !words.is_empty()).map_or("", String::as_str);
        let ended = match end.exit {
            Exit::Code(code) => format!("{} {action} ended with {code}", self.shown()),
            Exit::Signal(signal) => {
                format!("{} {action} was killed by signal {signal}", self.shown())
            }
        };
        let colon = if words.is_empty() { "" } else { ": " };
        DeviceError::Refused(format!("{ended}{colon}{words}"))
    }

    fn shown(&self) -> String {
        let name = self.config.program.file_name().map(Path::new).unwrap_or(&self.config.program);
        name.display().to_string()
    }
}

impl Actions {
    /// Whether the agent has this action.
    pub fn has(&self, action: &str) -> bool {
        self.0.contains(action)
    }

    /// Those of these that the agent does not have.
    pub fn missing<'a>(&self, wanted: &[&'a str]) -> Vec<&'a str> {
        wanted.iter().copied().filter(|action| !self.has(action)).collect()
    }

    /// The names in tags `<action name="...">`, however they are written otherwise.
    fn read(metadata: &str) -> Self {
        let tags = metadata.split("<action").skip(1).filter_map(|rest| {
            // `<actions>` begins with the same letters.
            rest.starts_with(char::is_whitespace).then(|| rest.split('>').next()).flatten()
        });
        Self(tags.filter_map(name_in_tag).map(str::to_owned).collect())
    }
}

/// The value of the attribute `name`.
fn name_in_tag(tag: &str) -> Option<&str> {
    let (_, rest) = tag.split_once("name")?;
    let rest = rest.trim_start().strip_prefix('=')?.trim_start();
    let quote = rest.chars().next().filter(|letter| matches!(letter, '"' | '\''))?;
    let (name, _) = rest[1..].split_once(quote)?;
    let sound = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_');
    (!name.is_empty() && name.chars().all(sound)).then_some(name)
}

/// Whether the agent says in words what its exit code means.
fn says_off(stdout: &[u8]) -> bool {
    let text = String::from_utf8_lossy(stdout).to_ascii_lowercase();
    text.lines().any(|line| line.trim() == "status: off")
}

/// The names of options that hold passwords, in the fence-agents project.
fn is_password(name: &str) -> bool {
    name.ends_with("passwd") || name.ends_with("password")
}

/// Agents strip blanks and double quotes around a value, ignore lines that begin with `#`, and
/// read a line up to its end.
fn check(name: &str, value: &[u8]) -> Result<(), DeviceError> {
    let sound = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if name.is_empty() || !name.bytes().all(sound) {
        return Err(local(name, "is no name of an option"));
    }
    if matches!(name, "action" | "option") {
        return Err(local(name, "is what the gateway says itself: leave it out"));
    }
    if value.iter().any(|byte| byte.is_ascii_control()) {
        return Err(local(name, "has a control character in its value, which agents do not take"));
    }
    let ends = [value.first(), value.last()].map(|byte| byte.copied().unwrap_or(b'x'));
    if ends.iter().any(u8::is_ascii_whitespace) || (value.len() > 1 && ends == [b'"', b'"']) {
        return Err(local(name, "has blanks or quotes around its value, which agents strip"));
    }
    Ok(())
}

fn local(name: &str, what: &str) -> DeviceError {
    let name = printable(name.as_bytes(), 64);
    DeviceError::Local(format!("the fence agent's option '{name}' {what}"))
}

#[cfg(test)]
mod tests;
