//! The syntax of corosync.conf: sections in braces, `key: value` lines, comments. What the keys
//! mean is the schema's business.
//!
//! The rules are those of corosync's own parser: the first `{` of a line makes it the head of a
//! section, else the first `:` makes it a key, else it must be a lone `}`; `#` starts a comment
//! only as the first character of a line; an opening brace ends its line. Beyond it, this parser
//! refuses what corosync would take silently: bytes that are not UTF-8, control characters (they
//! would reach terminals through messages), and more than the limits below.

use thiserror::Error;

/// The longest file that is read, in bytes.
pub const MAX_FILE_BYTES: usize = 1024 * 1024;
/// The longest line, in bytes without its newline; corosync reads lines into 512 bytes.
pub const MAX_LINE_BYTES: usize = 510;
/// How deep sections may nest. corosync uses four levels.
pub const MAX_DEPTH: usize = 16;
/// The longest dotted path of a key, in bytes (cmap's limit for a key name).
pub const MAX_PATH_BYTES: usize = 254;
/// The most keys and sections of one file together.
pub const MAX_ITEMS: usize = 20_000;

/// One `key: value` line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Key {
    /// The name before the first colon; never empty.
    pub name: String,
    /// Everything behind the first colon without blanks around it; may be empty.
    pub value: String,
    /// Where it stands, counted from 1.
    pub line: u32,
}

/// One section, or the whole file: that is a section without a name at line 0.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Section {
    /// The name before the brace.
    pub name: String,
    /// Where it opens, counted from 1.
    pub line: u32,
    /// Its keys in file order, repeated ones included.
    pub keys: Vec<Key>,
    /// Its sections in file order, repeated ones included.
    pub sections: Vec<Section>,
}

/// Why a file is not corosync.conf syntax.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum SyntaxProblem {
    /// The file is longer than [`MAX_FILE_BYTES`].
    #[error("the file is longer than {MAX_FILE_BYTES} bytes; this is not a cluster configuration")]
    FileTooLong,
    /// A line is longer than [`MAX_LINE_BYTES`].
    #[error("the line is longer than {MAX_LINE_BYTES} bytes; put a long command into a script")]
    LineTooLong,
    /// A line that is no comment has bytes that are not UTF-8.
    #[error("the line is not UTF-8 text; save the file as UTF-8")]
    NotUtf8,
    /// A line has a control character other than a tab.
    #[error("the line has the control character {0:#04x}; remove it")]
    ControlCharacter(u32),
    /// A brace without a name before it.
    #[error("no section name before '{{'; write it as `name {{`")]
    NoSectionName,
    /// Text behind an opening brace.
    #[error("text behind '{{'; a brace ends its line, and values cannot contain one")]
    AfterOpeningBrace,
    /// Text around a closing brace.
    #[error("text beside '}}'; put the brace on a line of its own")]
    AroundClosingBrace,
    /// A closing brace outside every section.
    #[error("'}}' closes nothing; remove it, or add the section's opening line above")]
    StrayClosingBrace,
    /// A colon without a name before it.
    #[error("no key name before ':'; write it as `key: value`")]
    NoKeyName,
    /// A name with characters that cmap does not allow.
    #[error("{0:?} is no name; use letters, digits, '_', '-', '.' and '/'")]
    BadName(String),
    /// The dotted path of a key or section is longer than [`MAX_PATH_BYTES`].
    #[error("the path of this name is longer than {MAX_PATH_BYTES} bytes; use shorter names")]
    PathTooLong,
    /// Sections nest deeper than [`MAX_DEPTH`].
    #[error("sections nest deeper than {MAX_DEPTH} levels; look for a missing '}}' above")]
    TooDeep,
    /// There are more than [`MAX_ITEMS`] keys and sections.
    #[error("more than {MAX_ITEMS} keys and sections; this is not a cluster configuration")]
    TooManyItems,
    /// A section is open at the end of the file.
    #[error("section {0:?} is never closed; add its '}}'")]
    MissingClosingBrace(String),
    /// The line is nothing that the syntax knows.
    #[error("neither `key: value` nor `section {{` nor '}}'; put '#' before a comment")]
    Neither,
}

/// Reads a file's bytes into a tree.
///
/// # Errors
/// The first line that breaks the syntax, counted from 1 (0: the file as a whole).
pub fn parse(bytes: &[u8]) -> Result<Section, (u32, SyntaxProblem)> {
    if bytes.len() > MAX_FILE_BYTES {
        return Err((0, SyntaxProblem::FileTooLong));
    }
    let mut tree = Tree::default();
    let mut number: u32 = 0;
    for line in bytes.split(|byte| *byte == b'\n') {
        number = number.saturating_add(1);
        tree.line(number, line).map_err(|problem| (number, problem))?;
    }
    tree.finish()
}

/// The sections that are open while the file is read.
#[derive(Default)]
struct Tree {
    /// The whole file.
    root: Section,
    /// The open sections, innermost last.
    open: Vec<Section>,
    items: usize,
}

impl Tree {
    fn line(&mut self, number: u32, bytes: &[u8]) -> Result<(), SyntaxProblem> {
        if bytes.len() > MAX_LINE_BYTES {
            return Err(SyntaxProblem::LineTooLong);
        }
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        if is_comment(bytes) {
            return Ok(());
        }
        let text = std::str::from_utf8(bytes).map_err(|_| SyntaxProblem::NotUtf8)?;
        let text = text.trim_matches(is_blank);
        if text.is_empty() {
            return Ok(());
        }
        if let Some(control) = text.chars().find(|c| c.is_control() && *c != '\t') {
            return Err(SyntaxProblem::ControlCharacter(u32::from(control)));
        }
        if let Some((head, rest)) = text.split_once('{') {
            return self.open_section(number, head, rest);
        }
        if let Some((name, value)) = text.split_once(':') {
            return self.key(number, name, value);
        }
        match text {
            "}" => self.close_section(),
            text if text.contains('}') => Err(SyntaxProblem::AroundClosingBrace),
            _ => Err(SyntaxProblem::Neither),
        }
    }

    fn open_section(&mut self, line: u32, head: &str, rest: &str) -> Result<(), SyntaxProblem> {
        // corosync forgives a colon between name and brace: `totem: {`.
        let name = head.trim_matches(is_blank).trim_end_matches(|c| is_blank(c) || c == ':');
        if name.is_empty() {
            return Err(SyntaxProblem::NoSectionName);
        }
        if !rest.trim_matches(is_blank).is_empty() {
            return Err(SyntaxProblem::AfterOpeningBrace);
        }
        self.admit(name)?;
        if self.open.len() >= MAX_DEPTH {
            return Err(SyntaxProblem::TooDeep);
        }
        self.open.push(Section { name: name.to_owned(), line, ..Section::default() });
        Ok(())
    }

    fn key(&mut self, line: u32, name: &str, value: &str) -> Result<(), SyntaxProblem> {
        let name = name.trim_matches(is_blank);
        if name.is_empty() {
            return Err(SyntaxProblem::NoKeyName);
        }
        self.admit(name)?;
        let value = value.trim_matches(is_blank).to_owned();
        self.innermost().keys.push(Key { name: name.to_owned(), value, line });
        Ok(())
    }

    fn close_section(&mut self) -> Result<(), SyntaxProblem> {
        let section = self.open.pop().ok_or(SyntaxProblem::StrayClosingBrace)?;
        self.innermost().sections.push(section);
        Ok(())
    }

    fn innermost(&mut self) -> &mut Section {
        self.open.last_mut().unwrap_or(&mut self.root)
    }

    /// The rules that hold for keys and sections alike.
    fn admit(&mut self, name: &str) -> Result<(), SyntaxProblem> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/');
        if !name.chars().all(allowed) {
            return Err(SyntaxProblem::BadName(name.to_owned()));
        }
        let path: usize = self.open.iter().map(|section| section.name.len() + 1).sum();
        if path + name.len() > MAX_PATH_BYTES {
            return Err(SyntaxProblem::PathTooLong);
        }
        self.items += 1;
        if self.items > MAX_ITEMS {
            return Err(SyntaxProblem::TooManyItems);
        }
        Ok(())
    }

    fn finish(self) -> Result<Section, (u32, SyntaxProblem)> {
        match self.open.into_iter().next_back() {
            Some(open) => Err((open.line, SyntaxProblem::MissingClosingBrace(open.name))),
            None => Ok(self.root),
        }
    }
}

/// What corosync takes for white space inside a line.
fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\u{a0}')
}

/// Works on bytes: a comment may be in any encoding.
fn is_comment(bytes: &[u8]) -> bool {
    bytes.iter().find(|byte| !matches!(byte, b' ' | b'\t')) == Some(&b'#')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails(text: &str) -> (u32, SyntaxProblem) {
        parse(text.as_bytes()).unwrap_err()
    }

    #[test]
    fn values_keep_their_colons_and_hashes_and_lose_their_blanks() {
        let tree = parse(b"a {\n\t k :\t fe80::1 # no comment \t\n}\n").unwrap();
        let key = &tree.sections[0].keys[0];
        assert_eq!((key.name.as_str(), key.value.as_str()), ("k", "fe80::1 # no comment"));
        assert_eq!(key.line, 2);
    }

    #[test]
    fn comments_blank_lines_and_dos_line_ends_are_skipped() {
        let tree =
            parse(b"# x {\r\n \t# \xff\r\n\r\n\xc2\xa0 a: 1\xc2\xa0\r\nb {\r\n}\r\n").unwrap();
        assert_eq!(tree.keys[0].value, "1");
        assert_eq!(tree.sections[0].name, "b");
    }

    #[test]
    fn repeated_sections_and_keys_are_all_kept_in_order() {
        let tree = parse(b"n {\nk: 1\nk: 2\n}\nn {\n}").unwrap();
        assert_eq!(tree.sections.len(), 2);
        assert_eq!(tree.sections[0].keys.len(), 2);
    }

    #[test]
    fn a_colon_before_a_brace_is_forgiven_as_corosync_does() {
        assert_eq!(parse(b"totem : {\n}").unwrap().sections[0].name, "totem");
    }

    #[test]
    fn each_broken_line_is_named() {
        assert_eq!(fails("a: 1\n{\n}"), (2, SyntaxProblem::NoSectionName));
        assert_eq!(fails("a { b\n}"), (1, SyntaxProblem::AfterOpeningBrace));
        assert_eq!(fails("a: {x}"), (1, SyntaxProblem::AfterOpeningBrace));
        assert_eq!(fails("a {\n} # end"), (2, SyntaxProblem::AroundClosingBrace));
        assert_eq!(fails("\n}"), (2, SyntaxProblem::StrayClosingBrace));
        assert_eq!(fails(": 1"), (1, SyntaxProblem::NoKeyName));
        assert_eq!(fails("a b: 1"), (1, SyntaxProblem::BadName("a b".to_owned())));
        assert_eq!(fails("a\n"), (1, SyntaxProblem::Neither));
        assert_eq!(fails("\na {\nb {\n}"), (2, SyntaxProblem::MissingClosingBrace("a".to_owned())));
        assert_eq!(fails("a: \x1b[2J"), (1, SyntaxProblem::ControlCharacter(0x1b)));
        assert_eq!(parse(b"a: \xff").unwrap_err(), (1, SyntaxProblem::NotUtf8));
    }

    #[test]
    fn every_limit_is_accepted_at_its_value_and_refused_above() {
        let line = |length: usize| format!("k: {}", "x".repeat(length - 3));
        assert!(parse(line(MAX_LINE_BYTES).as_bytes()).is_ok());
        assert_eq!(fails(&line(MAX_LINE_BYTES + 1)).1, SyntaxProblem::LineTooLong);

        let nested = |depth: usize| "a {\n".repeat(depth) + &"}\n".repeat(depth);
        assert!(parse(nested(MAX_DEPTH).as_bytes()).is_ok());
        assert_eq!(fails(&nested(MAX_DEPTH + 1)).1, SyntaxProblem::TooDeep);

        let path = |length: usize| format!("{}: 1", "k".repeat(length));
        assert!(parse(path(MAX_PATH_BYTES).as_bytes()).is_ok());
        assert_eq!(fails(&path(MAX_PATH_BYTES + 1)).1, SyntaxProblem::PathTooLong);

        let items = |count: usize| "k: 1\n".repeat(count);
        assert!(parse(items(MAX_ITEMS).as_bytes()).is_ok());
        assert_eq!(fails(&items(MAX_ITEMS + 1)).1, SyntaxProblem::TooManyItems);

        assert!(parse(&vec![b'\n'; MAX_FILE_BYTES]).is_ok());
        assert_eq!(
            parse(&vec![b'\n'; MAX_FILE_BYTES + 1]).unwrap_err().1,
            SyntaxProblem::FileTooLong
        );
    }
}
