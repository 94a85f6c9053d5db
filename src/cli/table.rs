//! Columns and times for people. Machines get `--json`.

use std::time::{Duration, SystemTime};

/// Aligns columns; the last one is as long as it likes.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let cell = crate::error::printable(cell);
            line.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// How long ago something was: `5 minutes ago`.
pub fn ago(time: SystemTime) -> String {
    match time.elapsed() {
        Ok(age) => format!("{} ago", span(age)),
        // Another node's clock.
        Err(_) => "just now".into(),
    }
}

fn span(age: Duration) -> String {
    let seconds = age.as_secs();
    let (number, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3_600 => (seconds / 60, "minute"),
        3_600..86_400 => (seconds / 3_600, "hour"),
        86_400..5_184_000 => (seconds / 86_400, "day"),
        _ => (seconds / 2_592_000, "month"),
    };
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {unit}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align() {
        let rows = [
            vec!["A".into(), "BB".into()],
            vec!["long".into(), "x\u{1b}".into()],
            vec!["".into()],
        ];
        assert_eq!(table(&rows), "A     BB\nlong  x\\u{1b}\n\n");
    }

    #[test]
    fn spans() {
        for (seconds, want) in [
            (0, "0 seconds"),
            (1, "1 second"),
            (90, "1 minute"),
            (7_200, "2 hours"),
            (172_800, "2 days"),
            (7_776_000, "3 months"),
        ] {
            assert_eq!(span(Duration::from_secs(seconds)), want);
        }
    }
}
