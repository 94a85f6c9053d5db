//! The table of requirement rows, and that tests and rows know each other. `make conformance` prints what became of them.

use crate::floors::rust_files;
use crate::golden::root;

/// Ids of all rows.
fn rows() -> Vec<String> {
    let text = std::fs::read_to_string(root().join("tests/sites/rows.txt")).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let id = |line: &str| line.split(' ').next().unwrap().to_lowercase();
    lines.map(id).collect()
}

#[test]
fn tests_name_rows_that_exist() {
    let rows = rows();
    let mut unknown = Vec::new();
    for file in rust_files("tests/sites") {
        let text = std::fs::read_to_string(root().join(&file)).unwrap();
        for name in text.split("fn ").skip(1) {
            let id: String = name
                .chars()
                .take_while(|c| c.is_ascii_alphanumeric())
                .collect();
            let is_row = id.len() > 1
                && id.starts_with(['c', 'e', 'g', 'f', 'n'])
                && id[1..].chars().all(|c| c.is_ascii_digit());
            if is_row && !rows.contains(&id) {
                unknown.push(format!("{}: {id}", file.display()));
            }
        }
    }
    assert!(unknown.is_empty(), "no such row: {unknown:?}");
    let mut sorted = rows.clone();
    sorted.sort();
    sorted.dedup();
    assert_eq!(sorted.len(), rows.len(), "a row stands twice");
}
