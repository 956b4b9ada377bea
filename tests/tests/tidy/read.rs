//! Reads Rust, TOML and Markdown as far as the rules need it, line for line.

use std::collections::BTreeSet;

use crate::rules::Finding;

/// A text file of the repository.
pub(crate) struct File {
    /// From the root, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
    /// Rust files: the text with comments, strings and characters blanked, line for line.
    pub(crate) code: String,
    /// Rust files: what `use` brings in, with the line where it starts.
    pub(crate) uses: Vec<(usize, String)>,
}

impl File {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let code = if path.ends_with(".rs") { code_only(text) } else { String::new() };
        let uses = uses(&code);
        Self { path: path.into(), text: text.into(), code, uses }
    }

    pub(crate) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    pub(crate) fn finding(&self, line: usize, message: impl Into<String>) -> Finding {
        Finding { file: self.path.clone(), line, message: message.into() }
    }

    /// The lines of code that name `word`, also inside `use std::{a, b}`.
    pub(crate) fn lines_naming(&self, word: &str) -> BTreeSet<usize> {
        let plain = numbered(&self.code).filter(|(_, line)| has_word(line, word)).map(|(n, _)| n);
        let used = self.uses.iter().filter(|(_, path)| has_word(path, word));
        plain.chain(used.map(|(n, _)| *n)).collect()
    }
}

pub(crate) fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(n, line)| (n + 1, line))
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// `word` in `text`, not as part of a longer name.
pub(crate) fn has_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        !before.is_some_and(is_word) && (word.ends_with('!') || !after.is_some_and(is_word))
    })
}

/// `name::` as a crate: not `other::name::` and not a field.
pub(crate) fn names_crate(text: &str, name: &str) -> bool {
    text.match_indices(&format!("{name}::")).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        !before.is_some_and(|c| is_word(c) || c == ':' || c == '.')
    })
}

/// Rust without comments, strings and characters: each becomes blanks, lines stay lines.
fn code_only(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = comment_end(&chars, at).or_else(|| literal_end(&chars, at)).unwrap_or(at);
        if end == at {
            code.push(chars[at]);
            at += 1;
        } else {
            let end = end.min(chars.len());
            code.extend(chars[at..end].iter().map(|&c| if c == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    code
}

/// The end of the comment that starts at `at`; `/* */` nest.
fn comment_end(chars: &[char], at: usize) -> Option<usize> {
    if chars[at..].starts_with(&['/', '/']) {
        return Some(chars[at..].iter().position(|&c| c == '\n').map_or(chars.len(), |n| at + n));
    }
    if !chars[at..].starts_with(&['/', '*']) {
        return None;
    }
    let (mut depth, mut end) = (0_usize, at);
    while end < chars.len() {
        if chars[end..].starts_with(&['/', '*']) {
            (depth, end) = (depth + 1, end + 2);
        } else if chars[end..].starts_with(&['*', '/']) {
            (depth, end) = (depth - 1, end + 2);
            if depth == 0 {
                break;
            }
        } else {
            end += 1;
        }
    }
    Some(end)
}

/// The end of the string, raw string or character that starts at `at`.
fn literal_end(chars: &[char], at: usize) -> Option<usize> {
    let inside_name = at > 0 && is_word(chars[at - 1]) && !matches!(chars[at - 1], 'b' | 'c');
    match chars[at] {
        'r' if !inside_name => {
            let hashes = chars[at + 1..].iter().take_while(|&&c| c == '#').count();
            let open = at + 1 + hashes;
            if chars.get(open) != Some(&'"') {
                return None;
            }
            let mut close = vec!['#'; hashes + 1];
            close[0] = '"';
            let rest = &chars[open + 1..];
            let found = rest.windows(close.len()).position(|w| w == close.as_slice());
            Some(found.map_or(chars.len(), |n| open + 1 + n + close.len()))
        }
        '"' => Some(quote_end(chars, at)),
        // A lifetime has no closing quote: 'a, against 'a' and '\''.
        '\'' if chars.get(at + 1) == Some(&'\\') || chars.get(at + 2) == Some(&'\'') => {
            Some(quote_end(chars, at))
        }
        _ => None,
    }
}

/// The end of what starts with the quote at `at`, which a backslash hides.
fn quote_end(chars: &[char], at: usize) -> usize {
    let mut end = at + 1;
    while end < chars.len() && chars[end] != chars[at] {
        end += if chars[end] == '\\' { 2 } else { 1 };
    }
    end + 1
}

/// Every path that `use` brings in, written out, with the line of its `use`.
pub(crate) fn uses(code: &str) -> Vec<(usize, String)> {
    let mut paths = Vec::new();
    for (line, text) in numbered(code) {
        let statement =
            text.trim_start().trim_start_matches("pub ").trim_start_matches("pub(crate) ");
        if !statement.starts_with("use ") {
            continue;
        }
        let from_here = code.lines().skip(line - 1).collect::<Vec<_>>().join(" ");
        let start = from_here.find("use ").unwrap_or(0) + "use ".len();
        let tree = from_here[start..].split(';').next().unwrap_or_default();
        let tree: String = tree.split_whitespace().collect::<Vec<_>>().join(" ");
        paths.extend(expand("", &tree).into_iter().map(|path| (line, path)));
    }
    paths
}

/// `a::{b, c::{d, e}}` as `a::b`, `a::c::d`, `a::c::e`.
fn expand(prefix: &str, tree: &str) -> Vec<String> {
    let tree = tree.trim();
    let Some((head, rest)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap_or_default();
        return vec![format!("{prefix}{path}")];
    };
    let inner = rest.trim_end().trim_end_matches(',').strip_suffix('}').unwrap_or(rest);
    let prefix = format!("{prefix}{head}");
    let (mut depth, mut start, mut paths) = (0, 0, Vec::new());
    for (at, c) in inner.char_indices().chain([(inner.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                if !inner[start..at].trim().is_empty() {
                    paths.extend(expand(&prefix, &inner[start..at]));
                }
                start = at + 1;
            }
            _ => {}
        }
    }
    paths
}

/// A line `key = value` of a TOML file; a section that is a dependency has an empty key.
pub(crate) struct Entry {
    pub(crate) line: usize,
    pub(crate) section: String,
    pub(crate) key: String,
    pub(crate) value: String,
}

impl Entry {
    /// What is depended on: the key without `.workspace`, or the end of the section's name.
    pub(crate) fn name(&self) -> &str {
        if self.key.is_empty() {
            self.section.rsplit('.').next().unwrap_or_default()
        } else {
            self.key.split('.').next().unwrap_or_default().trim_matches('"')
        }
    }
}

/// The entries of a TOML file as ours are written: one line each. `[dependencies.NAME]` is one too.
pub(crate) fn toml_entries(text: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut section = String::new();
    for (line, text) in numbered(text) {
        let text = text.split(" #").next().unwrap_or_default().trim();
        let mut entry = Entry { line, section: section.clone(), key: "".into(), value: "".into() };
        if text.starts_with('[') && text.ends_with(']') {
            section = text.trim_matches(['[', ']']).to_owned();
            if section.contains("dependencies.") {
                entries.push(Entry { section: section.clone(), ..entry });
            }
        } else if let (Some((key, value)), false) = (text.split_once('='), text.starts_with('#')) {
            entry.key = key.trim().to_owned();
            entry.value = value.trim().to_owned();
            entries.push(entry);
        }
    }
    entries
}

/// The dependencies that a crate's Cargo.toml names, of every kind.
pub(crate) fn dependencies(file: &File) -> Vec<Entry> {
    let entries = toml_entries(&file.text).into_iter();
    let of_ours = |e: &Entry| e.section.ends_with("dependencies") && !e.key.is_empty();
    entries.filter(|e| of_ours(e) || e.key.is_empty()).collect()
}

/// The Cargo.toml of every crate in a folder of the root, with that folder.
pub(crate) fn members(files: &[File]) -> Vec<(&str, &File)> {
    let folder = |file: &'_ File| file.path.strip_suffix("/Cargo.toml").map(str::len);
    let manifests = files.iter().filter_map(|file| Some((&file.path[..folder(file)?], file)));
    // Deeper ones are workspaces of their own (the fuzz targets).
    manifests.filter(|(folder, _)| !folder.contains('/')).collect()
}

/// `path` seen from `folder`, both from the root, without `.` and `..`.
pub(crate) fn resolve(folder: &str, path: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

/// The lines of a document outside fenced code, with what is between backticks taken out.
fn prose(text: &str) -> Vec<(usize, String)> {
    let mut fenced = false;
    let mut lines = Vec::new();
    for (line, text) in numbered(text) {
        if text.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            lines.push((line, text.split('`').step_by(2).collect::<Vec<_>>().join("``")));
        }
    }
    lines
}

/// The relative targets of links and pictures in a document.
pub(crate) fn link_targets(text: &str) -> Vec<(usize, String)> {
    let mut targets = Vec::new();
    for (line, text) in prose(text) {
        for (open, close) in [("](", ')'), ("src=\"", '"'), ("href=\"", '"'), ("]: ", ' ')] {
            for (at, _) in text.match_indices(open) {
                if close == ' ' && !text.starts_with('[') {
                    continue; // `[name]: target` stands at the start of its line
                }
                let rest = &text[at + open.len()..];
                let target = rest.split([close, ' ']).next().unwrap_or_default();
                let elsewhere = target.contains("://") || target.starts_with("mailto:");
                if !elsewhere && !target.is_empty() {
                    targets.push((line, target.to_owned()));
                }
            }
        }
    }
    targets
}

/// The anchors of a document's headings, as code hosting sites make them.
pub(crate) fn anchors(text: &str) -> BTreeSet<String> {
    let outside: BTreeSet<usize> = prose(text).into_iter().map(|(line, _)| line).collect();
    let lines = numbered(text).filter(|(n, line)| line.starts_with('#') && outside.contains(n));
    let mut anchors = BTreeSet::new();
    for (_, heading) in lines {
        let title = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|&c| is_word(c) || c == '-' || c == ' ');
        let name: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
        let again = (1..).map(|n| format!("{name}-{n}"));
        let mut names = [name.clone()].into_iter().chain(again);
        anchors.extend(names.find(|name| !anchors.contains(name)));
    }
    anchors
}
