//! Long lists of words as lines that people can read.

use std::fmt::Write;

pub fn write_array(out: &mut String, name: &str, words: &[String]) -> std::fmt::Result {
    if words.is_empty() {
        return Ok(());
    }
    writeln!(out, "{name}=(")?;
    let mut line = String::new();
    for word in words {
        // One option with its value per line.
        if word.starts_with("--") && !line.is_empty() {
            writeln!(out, "    {line}")?;
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    writeln!(out, "    {line}")?;
    writeln!(out, ")")
}

/// A command over several lines where one would be too long to read.
pub fn wrapped(words: &[String]) -> String {
    const WIDTH: usize = 118;
    let mut text = String::new();
    let mut column = 0;
    for word in words {
        let length = word.chars().count();
        if column == 0 {
            text.push_str(word);
            column = length;
        } else if column + 1 + length + 2 > WIDTH {
            text.push_str(" \\\n    ");
            text.push_str(word);
            column = 4 + length;
        } else {
            text.push(' ');
            text.push_str(word);
            column += 1 + length;
        }
    }
    text.push('\n');
    text
}
