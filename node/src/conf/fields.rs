//! Taking the keys of one section by name: what is taken is known, what is left is not.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::time::Duration;

use super::keys::{Keys, Kind, nearest};
use super::parse::{Key, Section};
use super::refusal::Refusal;
use super::report::{Level, Lines, Problem, Report, clip};

/// The words of corosync's and qdevice's yes-or-no keys (corosync-qdevice(8)); any case.
const BOOL_WORDS: &[(&str, bool)] =
    &[("yes", true), ("on", true), ("1", true), ("no", false), ("off", false), ("0", false)];

/// Where everything that is found goes.
pub(super) struct Reader<'r> {
    pub(super) report: &'r mut Report,
    pub(super) lines: Lines,
}

/// The keys and sections of one section, or of all sections of one name: corosync merges them.
pub(super) struct Fields<'d> {
    path: String,
    keys: BTreeMap<&'d str, &'d Key>,
    sections: Vec<&'d Section>,
    unused: Keys,
    taken: BTreeSet<&'static str>,
}

impl<'d> Fields<'d> {
    /// Opens sections of one path. Of a repeated key the last one stands, as in corosync.
    pub(super) fn open(
        reader: &mut Reader<'_>,
        path: &str,
        from: &[&'d Section],
        unused: Keys,
    ) -> Self {
        let mut keys: BTreeMap<&'d str, &'d Key> = BTreeMap::new();
        for key in from.iter().flat_map(|section| &section.keys) {
            if let Some(first) = keys.insert(&key.name, key) {
                let text = format!(
                    "{}: given again, line {} does not count; remove one of them",
                    join(path, &key.name),
                    first.line
                );
                reader.report.warn(Level::Advice, Some(key.line), text);
            }
        }
        if let Some(section) = from.first() {
            reader.lines.set(path.to_owned(), section.line);
        }
        let sections = from.iter().flat_map(|section| &section.sections).collect();
        Self { path: path.to_owned(), keys, sections, unused, taken: BTreeSet::new() }
    }

    /// All sections of this name, in file order.
    pub(super) fn sections(&mut self, name: &'static str) -> Vec<&'d Section> {
        self.taken.insert(name);
        let (found, rest) = self.sections.iter().partition(|section| section.name == name);
        self.sections = rest;
        found
    }

    /// A key's raw line.
    pub(super) fn key(&mut self, reader: &mut Reader<'_>, name: &'static str) -> Option<&'d Key> {
        self.taken.insert(name);
        let key = self.keys.remove(name)?;
        reader.lines.set(join(&self.path, name), key.line);
        Some(key)
    }

    /// All keys whose name has this prefix, with the rest of their names.
    pub(super) fn prefixed(&mut self, prefix: &'static str) -> Vec<(&'d str, &'d Key)> {
        let mut found = Vec::new();
        self.keys.retain(|name, key| match name.strip_prefix(prefix) {
            Some(rest) => {
                found.push((rest, *key));
                false
            }
            None => true,
        });
        found
    }

    /// A text; an empty one is refused.
    pub(super) fn text(&mut self, reader: &mut Reader<'_>, name: &'static str) -> Option<String> {
        let key = self.key(reader, name)?;
        if key.value.is_empty() {
            self.refuse(reader, key, "a text");
            return None;
        }
        Some(key.value.clone())
    }

    /// A decimal number in a range.
    pub(super) fn number(
        &mut self,
        reader: &mut Reader<'_>,
        name: &'static str,
        range: RangeInclusive<u64>,
    ) -> Option<u64> {
        let key = self.key(reader, name)?;
        let number = decimal(&key.value).filter(|number| range.contains(number));
        if number.is_none() {
            let wanted = format!("a number from {} to {}", range.start(), range.end());
            self.refuse(reader, key, &wanted);
        }
        number
    }

    /// [`Fields::number`] with 2³²−1 as the upper end.
    pub(super) fn number32(
        &mut self,
        reader: &mut Reader<'_>,
        name: &'static str,
        lowest: u32,
    ) -> Option<u32> {
        let number = self.number(reader, name, u64::from(lowest)..=u64::from(u32::MAX))?;
        u32::try_from(number).ok()
    }

    /// Milliseconds in a range.
    pub(super) fn millis(
        &mut self,
        reader: &mut Reader<'_>,
        name: &'static str,
        range: RangeInclusive<u64>,
    ) -> Option<Duration> {
        self.number(reader, name, range).map(Duration::from_millis)
    }

    /// One of some words, exactly.
    pub(super) fn word<T: Clone>(
        &mut self,
        reader: &mut Reader<'_>,
        name: &'static str,
        words: &[(&'static str, T)],
    ) -> Option<T> {
        let key = self.key(reader, name)?;
        let found = words.iter().find(|(word, _)| *word == key.value);
        if found.is_none() {
            let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            self.refuse(reader, key, &words.join(" or "));
        }
        found.map(|(_, meaning)| meaning.clone())
    }

    /// `0` or `1`, as votequorum's switches.
    pub(super) fn switch(&mut self, reader: &mut Reader<'_>, name: &'static str) -> Option<bool> {
        self.word(reader, name, &[("0", false), ("1", true)])
    }

    /// `yes`, `on`, `1`, `no`, `off`, `0` or one more word, in any case.
    pub(super) fn bool_word<T: Clone>(
        &mut self,
        reader: &mut Reader<'_>,
        name: &'static str,
        meaning: impl Fn(bool) -> T,
        more: &[(&'static str, T)],
    ) -> Option<T> {
        let key = self.key(reader, name)?;
        let value = key.value.to_ascii_lowercase();
        let bool_word = BOOL_WORDS.iter().find(|(word, _)| *word == value);
        let found = bool_word.map(|(_, yes)| meaning(*yes));
        let found =
            found.or_else(|| more.iter().find(|(word, _)| *word == value).map(|(_, t)| t.clone()));
        if found.is_none() {
            let more: String = more.iter().map(|(word, _)| format!(" or {word}")).collect();
            self.refuse(reader, key, &format!("yes or no{more}"));
        }
        found
    }

    /// Reports a value that is not what was wanted.
    pub(super) fn refuse(&self, reader: &mut Reader<'_>, key: &Key, wanted: &str) {
        let path = join(&self.path, &key.name);
        let wanted = wanted.to_owned();
        let problem = Problem::Value { path, value: clip(&key.value), wanted };
        reader.report.problem(Some(key.line), problem);
    }

    /// Reports what is left: keys of the unused table quietly, all others by name and line.
    pub(super) fn close(self, reader: &mut Reader<'_>) {
        for (name, key) in &self.keys {
            match self.unused.iter().find(|(known, _)| known == name) {
                Some((_, kind)) => self.unused_key(reader, key, *kind),
                None => self.unknown(reader, name, key.line, "key"),
            }
        }
        for section in &self.sections {
            self.unknown(reader, &section.name, section.line, "section");
        }
    }

    fn unused_key(&self, reader: &mut Reader<'_>, key: &Key, kind: Kind) {
        let value = key.value.as_str();
        let wanted = match kind {
            Kind::Text => None,
            Kind::U8 => value.parse::<u8>().is_err().then(|| "a number from 0 to 255".to_owned()),
            Kind::U32 => value.parse::<u32>().is_err().then(|| "a number".to_owned()),
            Kind::I32 => value.parse::<i32>().is_err().then(|| "a number".to_owned()),
            Kind::Word(words) => (!words.contains(&value)).then(|| words.join(" or ")),
        };
        match wanted {
            Some(wanted) => self.refuse(reader, key, &wanted),
            None => {
                let text = format!("{}: known, and not used", join(&self.path, &key.name));
                reader.report.warn(Level::Unused, Some(key.line), text);
            }
        }
    }

    fn unknown(&self, reader: &mut Reader<'_>, name: &str, line: u32, what: &str) {
        let known = self.unused.iter().map(|(name, _)| *name).chain(self.taken.iter().copied());
        let advice = match nearest(name, known) {
            Some(near) => format!("did you mean {near}?"),
            None => "remove it or correct its name".to_owned(),
        };
        let text =
            format!("{}: unknown {what}, it has no effect; {advice}", join(&self.path, name));
        reader.report.warn(Level::Unknown, Some(line), text);
    }
}

impl Reader<'_> {
    pub(super) fn refuse(&mut self, line: Option<u32>, refusal: Refusal) {
        self.report.problem(line, refusal);
    }
}

/// Digits only: no sign, which `str::parse` would take.
pub(super) fn decimal(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}
