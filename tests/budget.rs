//! What the project may weigh: packages, lengths of files, unsafe code's address.

use crate::floors::rust_files;
use crate::golden::root;

/// The registry client and its TLS are most of it.
const PACKAGES: usize = 280;
const LINES: usize = 600;
/// Still too long; they may shrink and then leave this list, not grow.
const LONG: &[(&str, usize)] = &[
    ("src/image/source/registry/client.rs", 610),
    ("src/image/tree.rs", 730),
    ("src/pack/index.rs", 680),
];

#[test]
fn packages_in_cargo_lock() {
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let count = lock.lines().filter(|line| *line == "[[package]]").count();
    assert!(
        count <= PACKAGES,
        "Cargo.lock has {count} packages, more than {PACKAGES}. If the new one earns its place, say why in a comment \
         beside it in Cargo.toml and raise PACKAGES in tests/budget.rs; `cargo tree -i NAME` shows who brought it"
    );
}

#[test]
fn every_dependency_has_its_reason() {
    for file in [
        "Cargo.toml",
        "inflate/Cargo.toml",
        "slurm/Cargo.toml",
        "spank/Cargo.toml",
    ] {
        let text = std::fs::read_to_string(root().join(file)).unwrap();
        let mut in_dependencies = false;
        let mut before = "";
        for line in text.lines() {
            if line.starts_with('[') {
                in_dependencies = line.ends_with("dependencies]");
            } else if in_dependencies && line.contains(" = ") {
                assert!(
                    before.starts_with('#') || before.contains(" = "),
                    "{file}: `{line}` has no comment above it that says what it is for"
                );
            }
            before = line;
        }
    }
}

#[test]
fn files_stay_readable() {
    let mut long = Vec::new();
    for folder in ["src", "inflate", "slurm", "spank", "tests", "benches"] {
        if !root().join(folder).exists() {
            continue;
        }
        for file in rust_files(folder) {
            let text = std::fs::read_to_string(root().join(&file)).unwrap();
            let lines = text.lines().count();
            let known = LONG.iter().find(|(name, _)| file.as_os_str() == *name);
            if lines > known.map_or(LINES, |(_, lines)| *lines) {
                long.push(format!("{}: {lines} lines", file.display()));
            }
        }
    }
    assert!(
        long.is_empty(),
        "files over {LINES} lines; split them where the subject changes, or move unit tests to FILE/tests.rs:\n{}",
        long.join("\n")
    );
}

#[test]
fn unsafe_lives_at_one_address() {
    for file in rust_files("src") {
        if file.starts_with("src/sys") {
            continue;
        }
        let text = std::fs::read_to_string(root().join(&file)).unwrap();
        assert!(
            !text.contains("allow(unsafe_code)") || file.ends_with("lib.rs"),
            "{} allows unsafe code; it lives in src/sys",
            file.display()
        );
    }
}

mod as_builder {
    use crate::golden::check;
    use crate::need::need;
    use std::process::Command;

    /// What runs inside slurmstepd is kept small enough to audit.
    #[test]
    fn packages_of_the_plugin() {
        need!(Cargo);
        let output = Command::new("cargo")
            .args(["tree", "-p", "carrack-spank", "--edges", "normal"])
            .args(["--prefix", "none", "--format", "{p}", "--offline"])
            .current_dir(crate::golden::root())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8(output.stdout).unwrap();
        let mut names: Vec<&str> = text
            .lines()
            .filter_map(|line| line.split(' ').next())
            .collect();
        names.sort_unstable();
        names.dedup();
        for banned in ["tokio", "reqwest", "rustls", "zstd", "oci-client", "clap"] {
            assert!(
                !names.contains(&banned),
                "the plugin links {banned}; see design.md's rule on the plugin"
            );
        }
        check("plugin-packages.txt", &(names.join("\n") + "\n"));
    }

    /// What it takes from the process that loads it, and what it shows.
    #[test]
    fn symbols_of_the_plugin() {
        need!(Cargo);
        let plugin = crate::scene::carrack().with_file_name("libcarrack_spank.so");
        let said = |program: &str, option: &str| {
            let mut command = Command::new(program);
            let output = command.arg(option).arg(&plugin).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        let mut lines: Vec<String> = Vec::new();
        for line in said("readelf", "-dW").lines() {
            let library = line.split_once("Shared library: [").map(|(_, rest)| rest);
            // The loader itself is named after the machine.
            let library = library.filter(|name| !name.starts_with("ld-linux"));
            lines.extend(library.map(|name| format!("needs {}", name.trim_end_matches(']'))));
        }
        for line in said("nm", "-D").lines() {
            match line.split_whitespace().collect::<Vec<_>>()[..] {
                [_, _, name] => lines.push(format!("has {name}")),
                ["U", name] if name.starts_with("slurm") || name.starts_with("spank") => {
                    lines.push(format!("wants {name}"));
                }
                _ => {}
            }
        }
        let order = |line: &String| {
            ["needs", "has", "wants"]
                .iter()
                .position(|word| line.starts_with(word))
        };
        lines.sort();
        lines.sort_by_key(order);
        check("plugin-symbols.txt", &(lines.join("\n") + "\n"));
    }
}
