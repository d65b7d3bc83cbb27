//! The one place that makes things fit to be seen: names and paths without control characters, sizes, durations, tables.

use std::fmt::Write;

use crate::model::shown::is_safe;
pub use crate::model::shown::path;

/// Text from outside, for a terminal or a log: whatever could move a cursor or break a line is escaped.
pub fn text(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_safe(c) {
            shown.push(c);
        } else {
            shown.extend(c.escape_default());
        }
    }
    shown
}

/// As [`text`], of several lines: the line breaks stay.
pub fn lines(lines: &str) -> String {
    lines.split('\n').map(text).collect::<Vec<_>>().join("\n")
}

/// `1.3 GB`, in powers of a thousand.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut value = precise(bytes) / 1000.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if value < 9.95 { format!("{value:.1} {}", UNITS[unit]) } else { format!("{value:.0} {}", UNITS[unit]) }
}

/// `78,579`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut shown = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

/// `1 file`, `2 files`.
pub fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

/// `0.54 s`, `12 s`, `3 min 4 s`, `2 h 5 min`.
pub fn seconds(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "?".to_owned();
    }
    if seconds < 9.995 {
        return format!("{seconds:.2} s");
    }
    let whole = std::time::Duration::from_secs_f64(seconds.round().min(1e9)).as_secs();
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m} min {s} s"),
        (h, m, _) => format!("{h} h {m} min"),
    }
}

#[allow(clippy::cast_precision_loss)]
pub fn precise(number: u64) -> f64 {
    number as f64
}

/// Columns as wide as they have to be, two spaces apart.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for (cell, width) in cells.zip(&widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        line.trim_end().to_owned()
    };
    let mut out = vec![line(&mut head.iter().copied())];
    out.extend(rows.iter().map(|row| line(&mut row.iter().map(String::as_str))));
    out.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_moves_a_cursor_is_shown() {
        assert_eq!(text("a\u{1b}[2Jb\r\n\u{202e}é"), "a\\u{1b}[2Jb\\r\\n\\u{202e}é");
        assert_eq!(lines("a\nb\u{7}"), "a\nb\\u{7}");
    }

    #[test]
    fn sizes_counts_and_times_read_well() {
        assert_eq!(
            ["0 B", "999 B", "1.0 kB", "1.3 GB", "12 MB", "1.0 MB"],
            [0, 999, 1000, 1_300_000_000, 12_345_678, 999_999].map(size).each_ref().map(String::as_str)
        );
        assert_eq!(
            ["0", "999", "1,000", "78,579", "1,234,567"],
            [0, 999, 1000, 78_579, 1_234_567].map(count).each_ref().map(String::as_str)
        );
        assert_eq!(
            ["0.54 s", "12 s", "3 min 4 s", "2 h 5 min"],
            [0.54, 12.2, 184.0, 7510.0].map(seconds).each_ref().map(String::as_str)
        );
        assert_eq!(seconds(f64::NAN), "?");
        assert_eq!(size(u64::MAX), "18 EB");
    }

    #[test]
    fn a_table_has_no_trailing_blanks() {
        let shown = table(&["NAME", "X"], &[vec!["a".into(), String::new()], vec!["longer".into(), "y".into()]]);
        assert_eq!(shown, "NAME    X\na\nlonger  y");
    }
}
