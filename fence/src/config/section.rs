//! One table of the file, read key by key. What nobody asked for is refused at the end, with the
//! nearest key that somebody did ask for.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use host::settings::value::{nearest, path};
use toml::{Table, Value};

use super::value::{duration, words};

/// Why a table cannot be used; one line that says where.
pub(super) type Refused = String;

/// A table and what was asked of it so far.
pub(super) struct Section {
    /// How it is named in the file; empty at the top.
    place: String,
    table: Table,
    asked: Vec<&'static str>,
}

impl Section {
    /// A table. Its keys may be written with underscores for hyphens, as in the other daemons'
    /// files.
    pub(super) fn new(place: String, table: Table) -> Result<Self, Refused> {
        let mut plain = Table::new();
        for (key, value) in table {
            let key = key.replace('_', "-");
            if plain.contains_key(&key) {
                return Err(refused(&place, &format!("'{key}' is there twice")));
            }
            plain.insert(key, value);
        }
        Ok(Self { place, table: plain, asked: Vec::new() })
    }

    /// A complaint about this table.
    pub(super) fn refuse(&self, text: &str) -> Refused {
        refused(&self.place, text)
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.asked.push(key);
        self.table.remove(key)
    }

    fn take_as<T>(
        &mut self,
        key: &'static str,
        kind: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, Refused> {
        let Some(value) = self.take(key) else { return Ok(None) };
        match read(&value) {
            Some(read) => Ok(Some(read)),
            None => Err(self.refuse(&format!("'{key}' must be {kind}"))),
        }
    }

    /// What `found` holds, or the complaint that `key` is missing; `example` says how it looks.
    pub(super) fn need<T>(&self, found: Option<T>, key: &str, example: &str) -> Result<T, Refused> {
        found.ok_or_else(|| self.refuse(&format!("'{key}' is missing: write {key} = {example}")))
    }

    /// A text that is not empty.
    pub(super) fn text(&mut self, key: &'static str) -> Result<Option<String>, Refused> {
        self.take_as(key, "a text that is not empty", |value| {
            value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
        })
    }

    /// A path.
    pub(super) fn path(&mut self, key: &'static str) -> Result<Option<PathBuf>, Refused> {
        self.take_as(key, "a path", |value| value.as_str().and_then(path))
    }

    /// A text that `read` understands; `kind` says what that is.
    pub(super) fn parsed<T>(
        &mut self,
        key: &'static str,
        kind: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, Refused> {
        self.take_as(key, kind, |value| value.as_str().and_then(read))
    }

    /// `true` or `false`; without the key, false.
    pub(super) fn flag(&mut self, key: &'static str) -> Result<bool, Refused> {
        Ok(self.take_as(key, "true or false", Value::as_bool)?.unwrap_or(false))
    }

    /// A whole number up to `max`.
    pub(super) fn number(&mut self, key: &'static str, max: u32) -> Result<Option<u32>, Refused> {
        self.take_as(key, &format!("a whole number from 0 to {max}"), |value| {
            value.as_integer().and_then(|n| u32::try_from(n).ok()).filter(|n| *n <= max)
        })
    }

    /// A duration from `min` to `max`.
    pub(super) fn duration(
        &mut self,
        key: &'static str,
        (min, max): (Duration, Duration),
    ) -> Result<Option<Duration>, Refused> {
        let kind = format!("a duration with its unit from {} to {}", words(min), words(max));
        self.parsed(key, &kind, |text| duration(text).filter(|d| (min..=max).contains(d)))
    }

    /// A list of texts, or one.
    pub(super) fn texts(&mut self, key: &'static str) -> Result<Vec<String>, Refused> {
        let texts =
            self.take_as(key, "a text or a list of texts", |value| match value.as_str() {
                Some(one) => Some(vec![one.to_owned()]),
                None => texts(value),
            })?;
        Ok(texts.unwrap_or_default())
    }

    /// A list of small numbers.
    pub(super) fn bytes(&mut self, key: &'static str) -> Result<Option<Vec<u8>>, Refused> {
        self.take_as(key, "a list of numbers", |value| {
            let number = |value: &Value| value.as_integer().and_then(|n| u8::try_from(n).ok());
            value.as_array()?.iter().map(number).collect()
        })
    }

    /// A list of lists of texts; a text in the outer list stands for a list of one.
    pub(super) fn levels(&mut self, key: &'static str) -> Result<Vec<Vec<String>>, Refused> {
        let kind = "a list of levels, each a list of device names: [[\"ipmi-n1\"], [\"watchdog\"]]";
        let levels = self.take_as(key, kind, |value| {
            let level = |value: &Value| match value.as_str() {
                Some(one) => Some(vec![one.to_owned()]),
                None => texts(value),
            };
            value.as_array()?.iter().map(level).collect()
        })?;
        Ok(levels.unwrap_or_default())
    }

    /// A table of texts, numbers and switches, all as texts, under the names as they were written.
    pub(super) fn options(
        &mut self,
        key: &'static str,
    ) -> Result<BTreeMap<String, String>, Refused> {
        let options =
            self.take_as(key, "a table of texts, numbers and true or false", |value| {
                let text = |(name, value): (&String, &Value)| match value {
                    Value::String(text) => Some((name.clone(), text.clone())),
                    Value::Integer(number) => Some((name.clone(), number.to_string())),
                    Value::Boolean(on) => Some((name.clone(), u8::from(*on).to_string())),
                    Value::Float(_) | Value::Datetime(_) | Value::Array(_) | Value::Table(_) => {
                        None
                    }
                };
                value.as_table()?.iter().map(text).collect::<Option<BTreeMap<_, _>>>()
            })?;
        Ok(options.unwrap_or_default())
    }

    /// The tables in a table, by their names.
    pub(super) fn tables(&mut self, key: &'static str) -> Result<Vec<(String, Table)>, Refused> {
        let kind = format!("tables: [{key}.NAME]");
        let tables = self.take_as(key, &kind, |value| {
            let table = |(name, value): (&String, &Value)| {
                value.as_table().map(|table| (name.clone(), table.clone()))
            };
            value.as_table()?.iter().map(table).collect::<Option<Vec<_>>>()
        })?;
        Ok(tables.unwrap_or_default())
    }

    /// Refuses what nobody asked for.
    pub(super) fn finish(self) -> Result<(), Refused> {
        let Some((key, _)) = self.table.iter().next() else { return Ok(()) };
        let hint = match nearest(key, self.asked.iter().copied()) {
            Some(near) => format!("; did you mean '{near}'?"),
            None => format!("; known here: {}", self.asked.join(", ")),
        };
        Err(self.refuse(&format!("unknown key '{key}'{hint}")))
    }
}

fn refused(place: &str, text: &str) -> Refused {
    if place.is_empty() { text.to_owned() } else { format!("[{place}] {text}") }
}

fn texts(value: &Value) -> Option<Vec<String>> {
    value.as_array()?.iter().map(|value| value.as_str().map(str::to_owned)).collect()
}
