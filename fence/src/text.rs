//! Text of devices and programs, made fit for one line of a message.

/// The given bytes as one line of at most `chars_max` characters: lines are joined, and whatever
/// would move a terminal's cursor or turn its writing around is a question mark. Of a longer text
/// the end is kept, where programs say why they failed.
pub(crate) fn printable(bytes: &[u8], chars_max: usize) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<_> = text.split(['\n', '\r']).map(str::trim).filter(|l| !l.is_empty()).collect();
    let line: Vec<char> = lines.join("; ").chars().map(safe).collect();
    if line.len() <= chars_max {
        return line.into_iter().collect();
    }
    let kept = &line[line.len() - chars_max.saturating_sub(1)..];
    std::iter::once('…').chain(kept.iter().copied()).collect()
}

fn safe(letter: char) -> char {
    match letter {
        '\t' => ' ',
        // Marks and overrides of the writing direction, and letters without a width (UAX #9).
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' => '?',
        '\u{feff}' => '?',
        letter if letter.is_control() => '?',
        letter => letter,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_joined_and_controls_are_shown_as_marks() {
        assert_eq!(printable(b"one\r\n\n  two\tthree \n", 99), "one; two three");
        assert_eq!(printable("a\x1b[2Jb\u{202e}c\0".as_bytes(), 99), "a?[2Jb?c?");
        assert_eq!(printable(b"\xff\xfe", 99), "\u{fffd}\u{fffd}");
        assert_eq!(printable(b"", 99), "");
    }

    #[test]
    fn the_end_of_a_long_text_is_kept() {
        assert_eq!(printable(b"abcdef", 6), "abcdef");
        assert_eq!(printable(b"abcdefg", 6), "…cdefg");
        assert_eq!(printable("ääääb".as_bytes(), 3), "…äb");
    }
}
