//! The floors of `src/lib.rs`: imports point down, or sideways inside one folder.
//!
//! A reminder more than a gate: it reads the `use` lines and paths that start with `crate::`, outside of tests.

use crate::golden::root;
use std::path::{Path, PathBuf};

/// Files that decide and touch nothing.
const PLANS: &[&str] = &[
    "src/image/reference.rs",
    "src/image/manifest.rs",
    "src/image/tree.rs",
    "src/launch/options.rs",
    "src/launch/request.rs",
    "src/launch/mpi.rs",
    "src/launch/plan.rs",
    "src/launch/step.rs",
    "src/launch/mounts.rs",
    "src/launch/environment.rs",
    "src/launch/identity.rs",
    "src/launch/devices.rs",
    "src/launch/driver.rs",
    "src/launch/bundle.rs",
    "src/launch/cdi.rs",
    "src/launch/cuda.rs",
];

/// What a plan may not touch. Addresses are values; sockets are not.
const WORLD: &[&str] = &[
    "std::fs",
    "std::process",
    "std::env",
    "std::net::Tcp",
    "std::net::Udp",
    "ToSocketAddrs",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Floor {
    Ground,
    Plan,
    Engine,
    Front,
}

/// The floor of a module path like `launch::plan`, or of a file's.
fn floor(module: &str) -> Floor {
    let file = format!("src/{}.rs", module.replace("::", "/"));
    let in_plans = |plan: &&str| {
        file == **plan || file.starts_with(&format!("{}/", plan.trim_end_matches(".rs")))
    };
    match module.split("::").next().unwrap_or_default() {
        _ if PLANS.iter().any(in_plans) => Floor::Plan,
        "error" | "config" | "elf" | "record" | "sys" => Floor::Ground,
        "squashfs" if matches!(module, "squashfs::format" | "squashfs::integrity") => Floor::Ground,
        "cli" | "main" => Floor::Front,
        "doctor" => Floor::Front,
        _ => Floor::Engine,
    }
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Every Rust file of a folder of the repository, relative to it.
pub fn rust_files(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    sources(&root().join(folder), &mut found);
    found.sort();
    found
        .into_iter()
        .map(|path| path.strip_prefix(root()).unwrap().to_path_buf())
        .collect()
}

/// The text before the unit tests, without comments.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let end = text.find("#[cfg(test)]").unwrap_or(text.len());
    text[..end]
        .lines()
        .enumerate()
        .map(|(number, line)| (number + 1, line.split("//").next().unwrap_or_default()))
}

/// Module paths after `crate::` in a line, braces of one level opened.
fn targets(line: &str) -> Vec<String> {
    let mut found = Vec::new();
    for piece in line.split("crate::").skip(1) {
        let path: String = piece
            .chars()
            .take_while(|c| c.is_alphanumeric() || matches!(c, '_' | ':'))
            .collect();
        let rest = &piece[path.len()..];
        if let Some(list) = rest
            .strip_prefix('{')
            .filter(|_| path.is_empty() || path.ends_with("::"))
        {
            let list = list.split('}').next().unwrap_or_default();
            found.extend(
                list.split(',')
                    .map(|item| format!("{path}{}", item.trim()))
                    .filter(|item| !item.ends_with("::")),
            );
        } else {
            found.push(path.trim_end_matches(':').to_string());
        }
    }
    found
}

fn crossings(file: &str, text: &str) -> Vec<String> {
    let module = file
        .trim_start_matches("src/")
        .trim_end_matches(".rs")
        .trim_end_matches("/mod")
        .replace('/', "::");
    let mine = floor(&module);
    let folder = module.split("::").next().unwrap_or_default();
    let mut found = Vec::new();
    for (number, line) in code(text) {
        if mine == Floor::Plan {
            for word in WORLD.iter().filter(|word| line.contains(**word)) {
                found.push(format!(
                    "{file}:{number}: a plan touches nothing, but names {word}"
                ));
            }
        }
        for target in targets(line) {
            let theirs = floor_of_path(&target);
            let their_folder = target.split("::").next().unwrap_or_default();
            if theirs > mine && their_folder != folder {
                found.push(format!(
                    "{file}:{number}: {mine:?} imports {target}, which is {theirs:?}; imports point down"
                ));
            }
            for (one, other) in [("image", "launch"), ("launch", "image")] {
                if folder == one && their_folder == other {
                    found.push(format!(
                        "{file}:{number}: {one} and {other} do not know each other; the record is the only bridge"
                    ));
                }
            }
        }
    }
    found
}

/// `launch::plan::Plan` lies on the floor of `launch::plan`.
fn floor_of_path(path: &str) -> Floor {
    let parts: Vec<&str> = path.split("::").collect();
    (1..=parts.len())
        .rev()
        .map(|length| parts[..length].join("::"))
        .find(|module| {
            let file = root().join(format!("src/{}", module.replace("::", "/")));
            file.with_extension("rs").exists() || file.join("mod.rs").exists()
        })
        .map_or(Floor::Ground, |module| floor(&module))
}

#[test]
fn imports_point_down() {
    let mut found = Vec::new();
    for file in rust_files("src") {
        let file = file.to_str().unwrap();
        if matches!(file, "src/lib.rs" | "src/main.rs") || file.ends_with("/tests.rs") {
            continue;
        }
        let text = std::fs::read_to_string(root().join(file)).unwrap();
        found.extend(crossings(file, &text));
    }
    assert!(
        found.is_empty(),
        "see the floors in src/lib.rs:\n{}",
        found.join("\n")
    );
}

#[test]
fn crossings_are_seen() {
    let rows = [
        ("src/launch/plan.rs", "use std::fs::File;", true),
        ("src/launch/plan.rs", "// std::fs is not for plans", false),
        ("src/image/pull.rs", "use crate::launch::plan;", true),
        ("src/error.rs", "use crate::cli::run;", true),
        ("src/cli/pull.rs", "use crate::{error, image};", false),
        (
            "src/image/pull.rs",
            "use crate::record::ImageRecord;",
            false,
        ),
    ];
    for (file, text, seen) in rows {
        assert_eq!(!crossings(file, text).is_empty(), seen, "{file}: {text}");
    }
}
