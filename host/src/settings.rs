//! How a daemon that takes a stock daemon's place is told what to do: its flags to the letter
//! (getopt(3), wire 3.2 and 3.3), our long flags, and a TOML file.
//!
//! Every setting is one line of a table: its name, where it may stand, and how its value gets to
//! its place. So it is read in the same way wherever it comes from: `-S lock_file=F` or
//! `lock-file = "F"` in the file. Flags win over the file, the file over the defaults.
//!
//! # Layout
//! * [`Options`]: what a daemon brings: its switches, its table, and a [`Given`].
//! * [`read`], then perhaps [`read_table`] and [`apply_table`]: from arguments and text to options.
//! * [`value`]: values that many settings have.

#[cfg(test)]
mod tests;
pub mod value;

use std::fmt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::local;
use value::{number, path};

/// Upper end of the stock daemons' C `int` settings.
pub const INT_MAX: u64 = i32::MAX as u64;

/// Why the arguments or the file cannot be used; one line.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum UsageError {
    /// No such flag.
    #[error("invalid option -- '{0}'")]
    UnknownFlag(char),
    /// No such long flag; the nearest known one.
    #[error("unrecognized option '--{0}'{hint}", hint = Hint(.1.as_deref()))]
    UnknownLongFlag(String, Option<String>),
    /// A flag without the value that it needs.
    #[error("option requires an argument -- '{0}'")]
    NoValue(String),
    /// `-S` or the file names a setting that does not exist; the nearest known one.
    #[error("Unknown option '{0}'{hint}", hint = Hint(*.1))]
    UnknownSetting(String, Option<&'static str>),
    /// A value out of its range, or of the wrong kind.
    #[error("Invalid value '{value}' for option '{name}'")]
    Value {
        /// The setting.
        name: &'static str,
        /// What was given.
        value: String,
    },
    /// The same for a setting that the stock daemon has words of its own for.
    #[error("{0}")]
    Refused(String),
    /// Something in the file.
    #[error("{}: {text}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, in one line.
        text: String,
    },
}

impl UsageError {
    /// The stock daemons print their usage after these.
    pub fn wants_usage(&self) -> bool {
        matches!(self, Self::UnknownFlag(_) | Self::UnknownLongFlag(..) | Self::NoValue(_))
    }
}

/// The nearest known name, where there is one.
struct Hint<'a>(Option<&'a str>);

impl fmt::Display for Hint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(name) => write!(f, "; did you mean '{name}'?"),
            None => Ok(()),
        }
    }
}

/// The options of a daemon.
pub trait Options: Sized + 'static {
    /// Letters without a value.
    const SWITCHES: &'static [Switch<Self>];
    /// Letters that ask for a text instead of a run; they end the reading.
    const TEXTS: &'static [char];
    /// The daemon's own settings. Those of [`Given`] come in addition.
    const SETTINGS: &'static [Setting<Self>];

    /// What every daemon is given.
    fn given(&mut self) -> &mut Given<Self>;
}

/// What every daemon is given, whatever it does.
#[derive(Clone, Debug, PartialEq)]
pub struct Given<O: 'static> {
    /// The settings that were given as flags, to be put over a file's.
    flags: Vec<(&'static Setting<O>, String)>,
    /// Remarks on settings that have no effect, for the log.
    notes: Vec<String>,
    /// `-S lock_file`: the pid file with the lock.
    pub lock_file: Option<PathBuf>,
    /// `-S local_socket_...`, `-S ipc_...`.
    pub socket: local::Settings,
}

impl<O> Given<O> {
    /// Nothing yet.
    pub fn new(socket: local::Settings) -> Self {
        Self { flags: Vec::new(), notes: Vec::new(), lock_file: None, socket }
    }

    /// Remarks on settings that have no effect, for the log.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Adds a remark, once.
    pub fn note(&mut self, text: String) {
        if !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }
}

/// Where a setting may stand, beside the file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    /// `--name value` only, not even in the file.
    Flag,
    /// `--name value`.
    Long,
    /// `-x value`.
    Letter(char),
    /// `-S name=value`.
    Advanced,
    /// The same, read and checked, but without effect: what takes its place.
    Unused(&'static str),
}

/// A letter without a value, and what it changes.
pub type Switch<O> = (char, fn(&mut O));

/// Takes a value to its place; `None` if it is no value for it.
pub type Reader<O> = fn(&mut O, &str) -> Option<()>;

/// One setting.
pub struct Setting<O> {
    name: &'static str,
    kind: Kind,
    read: Reader<O>,
    refusal: Option<fn(&str) -> String>,
}

impl<O> Setting<O> {
    const fn new(name: &'static str, kind: Kind, read: Reader<O>) -> Self {
        Self { name, kind, read, refusal: None }
    }

    /// A long flag that the file may not set. Names have underscores here; people may write
    /// hyphens everywhere.
    pub const fn flag(name: &'static str, read: Reader<O>) -> Self {
        Self::new(name, Kind::Flag, read)
    }

    /// A long flag.
    pub const fn long(name: &'static str, read: Reader<O>) -> Self {
        Self::new(name, Kind::Long, read)
    }

    /// A letter; its name is for the file.
    pub const fn letter(letter: char, name: &'static str, read: Reader<O>) -> Self {
        Self::new(name, Kind::Letter(letter), read)
    }

    /// A name of `-S`.
    pub const fn advanced(name: &'static str, read: Reader<O>) -> Self {
        Self::new(name, Kind::Advanced, read)
    }

    /// A name of `-S` whose value is checked and then not used; a note says what is used instead.
    pub const fn unused(name: &'static str, instead: &'static str, read: Reader<O>) -> Self {
        Self::new(name, Kind::Unused(instead), read)
    }

    /// The same setting with the stock daemon's own words for a wrong value.
    pub const fn refusing(words: fn(&str) -> String, mut setting: Self) -> Self {
        setting.refusal = Some(words);
        setting
    }
}

impl<O> fmt::Debug for Setting<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl<O> PartialEq for Setting<O> {
    /// Names are unique in a table.
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

/// The settings of [`Given`].
struct Common<O>(std::marker::PhantomData<O>);

impl<O: Options> Common<O> {
    const SETTINGS: &'static [Setting<O>] = &[
        Setting::advanced("lock_file", |o, v| path(v).map(|file| o.given().lock_file = Some(file))),
        Setting::advanced("local_socket_file", |o, v| {
            path(v).map(|file| o.given().socket.file = Some(file))
        }),
        Setting::advanced("local_socket_umask", |o, v| {
            o.given().socket.umask = match v {
                "" => None,
                _ => Some(value::umask(v)?),
            };
            Some(())
        }),
        Setting::advanced("local_socket_gid", |o, v| {
            let group = Some(v.to_owned()).filter(|group| !group.is_empty() && group != "-1");
            o.given().socket.group = group;
            Some(())
        }),
        Setting::unused("local_socket_backlog", "the system's limit is", |_, v| {
            number::<u64>(v, 1..=INT_MAX).map(drop)
        }),
        Setting::advanced("ipc_max_clients", |o, v| {
            number(v, 0..=INT_MAX).map(|n| o.given().socket.clients_max = n)
        }),
        Setting::advanced("ipc_max_receive_size", |o, v| {
            number(v, 1024..=INT_MAX).map(|n| o.given().socket.receive_bytes_max = n)
        }),
        Setting::advanced("ipc_max_send_size", |o, v| {
            number(v, 1024..=INT_MAX).map(|n| o.given().socket.send_bytes_max = n)
        }),
    ];
}

fn all<O: Options>() -> impl Iterator<Item = &'static Setting<O>> {
    O::SETTINGS.iter().chain(Common::<O>::SETTINGS)
}

/// The names of all settings.
pub fn names<O: Options>() -> impl Iterator<Item = &'static str> {
    all::<O>().map(|setting| setting.name)
}

/// The setting of a name, whatever its case, with hyphens or underscores; or the nearest known
/// name.
fn find<O: Options>(
    name: &str,
    wanted: fn(Kind) -> bool,
) -> Result<&'static Setting<O>, Option<&'static str>> {
    let plain = name.to_ascii_lowercase().replace('-', "_");
    let known = || all::<O>().filter(|setting| wanted(setting.kind));
    let found = known().find(|setting| setting.name == plain);
    found.ok_or_else(|| value::nearest(&plain, known().map(|setting| setting.name)))
}

/// Reads the arguments after the program's name; touches nothing but them. A flag may be given
/// again, then the last one counts; what is no flag is ignored, as by the stock daemons. Returns
/// the letter that asks for a text instead of a run, if there is one.
///
/// # Errors
/// [`UsageError`], in the words of the stock daemons.
pub fn read<O: Options>(options: &mut O, args: &[String]) -> Result<Option<char>, UsageError> {
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        if arg == "--" {
            break;
        }
        if let Some(long) = arg.strip_prefix("--") {
            read_long(options, long, &mut args)?;
        } else if let Some(bundle) = arg.strip_prefix('-')
            && let Some(text) = read_bundle(options, bundle, &mut args)?
        {
            return Ok(Some(text));
        }
    }
    apply_flags(options)?;
    Ok(None)
}

fn read_long<'a, O: Options>(
    options: &mut O,
    long: &str,
    rest: &mut impl Iterator<Item = &'a String>,
) -> Result<(), UsageError> {
    let (name, value) = match long.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (long, None),
    };
    let setting =
        find(name, |kind| matches!(kind, Kind::Flag | Kind::Long)).map_err(|nearest| {
            let nearest = nearest.map(|flag| flag.replace('_', "-"));
            UsageError::UnknownLongFlag(name.to_owned(), nearest)
        })?;
    let value = value.or_else(|| rest.next().cloned());
    let value = value.ok_or_else(|| UsageError::NoValue(name.to_owned()))?;
    options.given().flags.push((setting, value));
    Ok(())
}

/// Reads `-df` and the like: switches, and at the end perhaps a flag whose value is the rest, or
/// the next argument (getopt(3)).
fn read_bundle<'a, O: Options>(
    options: &mut O,
    bundle: &str,
    rest: &mut impl Iterator<Item = &'a String>,
) -> Result<Option<char>, UsageError> {
    for (at, letter) in bundle.char_indices() {
        if O::TEXTS.contains(&letter) {
            return Ok(Some(letter));
        }
        if let Some((_, change)) = O::SWITCHES.iter().find(|(known, _)| *known == letter) {
            change(options);
            continue;
        }
        let setting = all().find(|setting| setting.kind == Kind::Letter(letter));
        if setting.is_none() && letter != 'S' {
            return Err(UsageError::UnknownFlag(letter));
        }
        let attached = &bundle[at + letter.len_utf8()..];
        let value =
            if attached.is_empty() { rest.next().map(String::as_str) } else { Some(attached) };
        let value = value.ok_or_else(|| UsageError::NoValue(letter.to_string()))?;
        match setting {
            Some(setting) => options.given().flags.push((setting, value.to_owned())),
            None => read_advanced(options, value)?,
        }
        return Ok(None);
    }
    Ok(None)
}

/// Reads the value of `-S`.
fn read_advanced<O: Options>(options: &mut O, list: &str) -> Result<(), UsageError> {
    for text in list.split(',').filter(|text| !text.is_empty()) {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        let setting = find(name, |kind| matches!(kind, Kind::Advanced | Kind::Unused(_)))
            .map_err(|nearest| UsageError::UnknownSetting(name.to_owned(), nearest))?;
        options.given().flags.push((setting, value.to_owned()));
    }
    Ok(())
}

/// Reads the text of a settings file, for [`apply_table`]. A daemon takes out of the table what is
/// not one value first.
///
/// # Errors
/// [`UsageError::File`] with the line, if it is not TOML.
pub fn read_table(path: &Path, text: &str) -> Result<toml::Table, UsageError> {
    toml::from_str(text).map_err(|error| {
        let before = text.bytes().take(error.span().map_or(0, |span| span.start));
        let line = before.filter(|byte| *byte == b'\n').count() + 1;
        let text = format!("line {line}: {}", error.message().replace('\n', " "));
        UsageError::File { path: path.to_owned(), text }
    })
}

/// Puts the table of a file under the flags. Its keys are the names of the settings with hyphens
/// or underscores, at the top level; numbers, words and switches may be written as such.
///
/// # Errors
/// [`UsageError::File`]: an unknown key (the nearest known one is named), a value out of range.
pub fn apply_table<O: Options>(
    options: &mut O,
    path: &Path,
    table: toml::Table,
) -> Result<(), UsageError> {
    let wrong = |text: String| UsageError::File { path: path.to_owned(), text };
    for (name, value) in table {
        let setting = find(&name, |kind| kind != Kind::Flag).map_err(|nearest| {
            wrong(UsageError::UnknownSetting(name.clone(), nearest).to_string())
        })?;
        let value = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Float(number) => number.to_string(),
            toml::Value::Boolean(on) => (if on { "on" } else { "off" }).to_owned(),
            toml::Value::Datetime(_) | toml::Value::Array(_) | toml::Value::Table(_) => {
                let text = format!("'{name}' must be a text, a number or true or false");
                return Err(wrong(text));
            }
        };
        apply(options, setting, &value).map_err(|error| wrong(error.to_string()))?;
    }
    apply_flags(options)
}

fn apply_flags<O: Options>(options: &mut O) -> Result<(), UsageError> {
    let flags = std::mem::take(&mut options.given().flags);
    let applied = flags.iter().try_for_each(|(setting, value)| apply(options, setting, value));
    options.given().flags = flags;
    applied
}

fn apply<O: Options>(options: &mut O, setting: &Setting<O>, value: &str) -> Result<(), UsageError> {
    let name = setting.name;
    (setting.read)(options, value).ok_or_else(|| match setting.refusal {
        Some(words) => UsageError::Refused(words(value)),
        None => UsageError::Value { name, value: value.to_owned() },
    })?;
    match setting.kind {
        Kind::Unused(instead) => options.given().note(format!("{name} is not used: {instead}")),
        Kind::Flag | Kind::Long | Kind::Letter(_) | Kind::Advanced => {}
    }
    Ok(())
}
