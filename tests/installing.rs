//! `make install`: what lies under the prefix afterwards, and that it speaks of that prefix.

use crate::golden::{check, root};
use crate::scene::{Scene, carrack};
use std::path::Path;

fn files(directory: &Path, top: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() {
            files(&path, top, found);
        } else {
            found.push(path.strip_prefix(top).unwrap().display().to_string());
        }
    }
}

#[test]
fn everything_that_a_site_needs_lies_under_the_prefix() {
    let scene = Scene::new();
    let prefix = scene.path("prefix");
    let mut install = scene.program(root().join("scripts/install"));
    install
        .arg(&prefix)
        .env("CARRACK", carrack())
        .env("NAMES", "shifter ces-run");
    let output = install.output().unwrap();
    assert!(output.status.success(), "{output:?}");

    let mut found = Vec::new();
    files(&prefix, &prefix, &mut found);
    found.sort();
    // A page for each command, and whatever lies in the directories of examples and documents.
    let (many, few): (Vec<String>, Vec<String>) = found.into_iter().partition(|name| {
        [
            "share/man/man1/carrack-",
            "share/doc/carrack/examples/",
            "share/doc/carrack/docs/",
        ]
        .iter()
        .any(|start| name.starts_with(start))
    });
    check("installed.txt", &format!("{}\n", few.join("\n")));
    for name in [
        "share/man/man1/carrack-submit.1",
        "share/doc/carrack/examples/mpi.toml",
        "share/doc/carrack/docs/shifter.md",
    ] {
        assert!(many.iter().any(|file| file == name), "{name} {many:?}");
    }
    let profile = std::fs::read_to_string(prefix.join("share/apparmor/carrack")).unwrap();
    assert!(
        profile.contains(&format!("{}/bin/carrack", prefix.display())),
        "{profile}"
    );
    let version = scene
        .program(prefix.join("bin/carrack"))
        .arg("--version")
        .output();
    assert!(version.unwrap().stdout.starts_with(b"carrack "));
}
