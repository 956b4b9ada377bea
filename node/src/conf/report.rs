//! What the reader says to people: problems that refuse a file, and warnings that do not.

use std::collections::BTreeMap;
use std::fmt;

use thiserror::Error;

use super::parse::SyntaxProblem;
use super::refusal::Refusal;

/// At most this many problems, and this many warnings, of one file are kept; the rest is counted.
pub const MAX_REPORTED: usize = 100;

/// One reason to refuse a file.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum Problem {
    /// The file could not be read.
    #[error("cannot be read: {0}; check the path and its permissions")]
    Unreadable(String),
    /// The file is not corosync.conf syntax.
    #[error(transparent)]
    Syntax(#[from] SyntaxProblem),
    /// A key has a value of the wrong kind or out of range.
    #[error("{path}: {value:?} is refused; give {wanted}")]
    Value {
        /// The key's dotted path.
        path: String,
        /// What the file says, cut to a readable length.
        value: String,
        /// What is accepted.
        wanted: String,
    },
    /// The values are well formed but must not run together.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// There are more problems than are kept.
    #[error("and {0} more; correct the lines above first")]
    More(usize),
}

/// A problem and its place.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Located {
    /// The line, counted from 1; nothing where the problem is something that is missing.
    pub line: Option<u32>,
    /// What is wrong, and what to do.
    pub problem: Problem,
}

/// Everything that is wrong with a file; displays as one line a problem.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub struct ConfErrors {
    /// The file's name as the caller gave it.
    pub file: String,
    /// Never empty; in order of discovery.
    pub problems: Vec<Located>,
}

impl fmt::Display for ConfErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Located { line, problem }) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            match line {
                Some(line) => write!(f, "{}:{line}: {problem}", self.file)?,
                None => write!(f, "{}: {problem}", self.file)?,
            }
        }
        Ok(())
    }
}

/// How much a warning matters.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Level {
    /// corosync knows the key, our engine has no use for it; shown only to those who ask.
    Unused,
    /// It works, and something better or safer is at hand.
    Advice,
    /// Nobody knows the key: probably a typing error.
    Unknown,
}

/// Something to know about an accepted file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Warning {
    /// How much it matters.
    pub level: Level,
    /// The line, counted from 1, where there is one.
    pub line: Option<u32>,
    /// One line for people, without the file's name.
    pub text: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.text),
            None => f.write_str(&self.text),
        }
    }
}

/// Where the known keys of a file stand, by dotted path; nodes as `nodelist.node.ID`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Lines(BTreeMap<String, u32>);

impl Lines {
    pub(super) fn set(&mut self, path: String, line: u32) {
        self.0.insert(path, line);
    }

    /// The line of a key or section, counted from 1.
    pub fn get(&self, path: &str) -> Option<u32> {
        self.0.get(path).copied()
    }
}

/// Collects what is found; bounded.
#[derive(Default)]
pub(super) struct Report {
    problems: Vec<Located>,
    warnings: Vec<Warning>,
    problems_dropped: usize,
    warnings_dropped: usize,
}

impl Report {
    pub(super) fn problem(&mut self, line: Option<u32>, problem: impl Into<Problem>) {
        if self.problems.len() < MAX_REPORTED {
            self.problems.push(Located { line, problem: problem.into() });
        } else {
            self.problems_dropped += 1;
        }
    }

    pub(super) fn warn(&mut self, level: Level, line: Option<u32>, text: String) {
        if self.warnings.len() < MAX_REPORTED {
            self.warnings.push(Warning { level, line, text });
        } else {
            self.warnings_dropped += 1;
        }
    }

    /// The problems alone, for a file whose tree could not be built.
    pub(super) fn into_problems(self) -> Vec<Located> {
        self.problems
    }

    /// The warnings, or the problems if there is one.
    pub(super) fn finish(mut self, file: &str) -> Result<Vec<Warning>, ConfErrors> {
        if self.problems_dropped > 0 {
            let problem = Problem::More(self.problems_dropped);
            self.problems.push(Located { line: None, problem });
        }
        if !self.problems.is_empty() {
            return Err(ConfErrors { file: file.to_owned(), problems: self.problems });
        }
        if self.warnings_dropped > 0 {
            let text = format!("and {} more warnings", self.warnings_dropped);
            self.warnings.push(Warning { level: Level::Unknown, line: None, text });
        }
        Ok(self.warnings)
    }
}

/// A value from the file in a message, cut to a readable length.
pub(super) fn clip(value: &str) -> String {
    const SHOWN_CHARS: usize = 60;
    match value.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}...", &value[..end]),
        None => value.to_owned(),
    }
}
