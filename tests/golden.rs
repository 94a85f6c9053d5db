//! Texts kept in `tests/golden/`. `UPDATE_GOLDEN=1 cargo test` rewrites them; the difference is then reviewed as code is.

use std::path::{Path, PathBuf};

/// The repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn path(name: &str) -> PathBuf {
    root().join("tests/golden").join(name)
}

/// Compares with the kept text, line by line.
#[track_caller]
pub fn check(name: &str, text: &str) {
    check_file(&path(name), text)
}

#[track_caller]
pub fn check_file(file: &Path, text: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        if let Some(parent) = file.parent() {
            std::fs::create_dir_all(parent).unwrap();
        }
        std::fs::write(file, text).unwrap();
        return;
    }
    let kept = std::fs::read_to_string(file).unwrap_or_default();
    if kept != text {
        panic!(
            "`{}` is not what came out (lines with - are kept, with + new); if the new text is right, run the test with UPDATE_GOLDEN=1\n{}",
            file.display(),
            difference(&kept, text)
        );
    }
}

/// More lines than this on one side tell nobody anything.
const SHOWN: usize = 40;

/// The lines that differ, by position after the common head and tail.
pub fn difference(kept: &str, new: &str) -> String {
    let (kept, new): (Vec<&str>, Vec<&str>) = (kept.lines().collect(), new.lines().collect());
    let head = kept.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let tail = kept[head..]
        .iter()
        .rev()
        .zip(new[head..].iter().rev())
        .take_while(|(a, b)| a == b)
        .count();
    let side = |sign: char, lines: &[&str]| -> String {
        let lines = &lines[head..lines.len() - tail];
        let mut text: String = lines
            .iter()
            .take(SHOWN)
            .map(|line| format!("{sign}{line}\n"))
            .collect();
        if lines.len() > SHOWN {
            text += &format!("{sign}… {} lines\n", lines.len());
        }
        text
    };
    format!(
        "@ line {}\n{}{}",
        head + 1,
        side('-', &kept),
        side('+', &new)
    )
}

#[test]
fn a_difference_shows_only_the_lines_that_differ() {
    assert_eq!(difference("a\nb\nc\n", "a\nx\nc\n"), "@ line 2\n-b\n+x\n");
    assert_eq!(difference("a\n", "a\nb\n"), "@ line 2\n+b\n");
}
