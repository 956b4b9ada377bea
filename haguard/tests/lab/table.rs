//! What the tests of the lab tell people: a line, or a table of results.

use std::io::Write;

/// A line on the terminal, also from a test that passes when its output is shown.
pub(crate) fn say(line: &str) {
    // Who has closed the pipe does not want to read it.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Prints rows under their head, in columns as wide as they need.
pub(crate) fn print(head: &[&str], rows: &[Vec<String>]) {
    let mut all = vec![head.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>()];
    all.extend(rows.iter().cloned());
    let width = |column: usize| {
        let cells = all.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    for row in &all {
        let cells =
            row.iter().enumerate().map(|(at, cell)| format!("{cell:<width$}", width = width(at)));
        say(cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}
