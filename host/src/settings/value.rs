//! Values that many settings have. `None` is no value of the kind.

use std::ops::RangeInclusive;
use std::path::PathBuf;

/// Letters of a name that are compared with the known ones; no known one is nearly as long.
const NAME_CHARS_MAX: usize = 64;

/// A whole decimal number (strtoll(3) of the full string) in a range.
pub fn number<T: TryFrom<u64>>(value: &str, range: RangeInclusive<u64>) -> Option<T> {
    let number: u64 = value.parse().ok()?;
    if range.contains(&number) { T::try_from(number).ok() } else { None }
}

/// The bool words of the stock daemons.
pub fn switch(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "yes" | "on" | "1" => Some(true),
        "no" | "off" | "0" => Some(false),
        _ => None,
    }
}

/// A path; nothing is none.
pub fn path(value: &str) -> Option<PathBuf> {
    (!value.is_empty()).then(|| PathBuf::from(value))
}

/// Mode bits in octal.
pub fn umask(value: &str) -> Option<u32> {
    u32::from_str_radix(value, 8).ok().filter(|mask| *mask <= 0o777)
}

/// The known name that takes the fewest edits to reach, if they change at most half of it.
pub fn nearest(name: &str, known: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    let near = known.map(|known| (edits(name, known), known)).min()?;
    (near.0 * 2 <= near.1.len()).then_some(near.1)
}

/// How many letters must be put in, taken out or changed (Levenshtein).
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (line, letter) in from.chars().take(NAME_CHARS_MAX).enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], line + 1);
        for column in 0..to.len() {
            let changed = diagonal + usize::from(to[column] != letter);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_whole_and_in_range() {
        assert_eq!(number(" 7", 0..=9), None::<u8>);
        assert_eq!(number("7", 0..=9), Some(7_u8));
        assert_eq!(number("10", 0..=9), None::<u8>);
        assert_eq!(number("300", 0..=900), None::<u8>);
        for junk in ["", "-1", "7.0", "7a", "99999999999999999999"] {
            assert_eq!(number(junk, 0..=u64::MAX), None::<u64>, "{junk}");
        }
    }

    #[test]
    fn words_have_no_case_and_masks_are_octal() {
        assert_eq!((switch("YES"), switch("Off"), switch("true")), (Some(true), Some(false), None));
        assert_eq!(
            (umask("027"), umask("1000"), umask("8"), umask("")),
            (Some(0o27), None, None, None)
        );
    }

    #[test]
    fn the_nearest_name_is_near() {
        let known = ["run_dir", "port"];
        let near = |name: &str| nearest(name, known.into_iter());
        assert_eq!(near("run_dri"), Some("run_dir"));
        assert_eq!(near("prot"), Some("port"));
        assert_eq!(near("x"), None);
        assert_eq!(near(&"x".repeat(100_000)), None);
        assert_eq!(nearest("x", std::iter::empty()), None);
    }
}
