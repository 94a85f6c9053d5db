//! An MPI of the image with its default settings: with a user namespace for each rank it would hang at large messages.

use super::*;
use crate::need::need;
use std::process::Command;

/// The host's distribution stands for an image's: its programs and libraries are mounted where they belong.
const HOST: [&str; 4] = [
    "/usr",
    "/etc/alternatives",
    "/etc/openmpi",
    "/etc/ld.so.cache",
];

#[test]
fn large_messages_in_one_capsule() {
    need!(Userns, Fuse, OpenMpi);
    let scene = Scene::new();
    let program = scene.path("work/ranks");
    let source = crate::golden::root().join("tests/starting/ranks.c");
    let made = Command::new("mpicc")
        .args(["-O2", "-o"])
        .arg(&program)
        .arg(source)
        .status();
    assert!(made.unwrap().success());
    let mut entries: Vec<Entry> = ["usr", "etc", "tmp"]
        .map(|name| directory(name, 0o755))
        .into();
    entries.extend(["bin", "sbin", "lib", "lib64"].map(|name| link(name, &format!("usr/{name}"))));
    add(
        &scene,
        "mpi",
        entries,
        json!({ "Env": ["PATH=/usr/bin:/bin"] }),
    );
    for (ranks, how) in [
        (2, "mpirun outside"),
        (4, "mpirun outside"),
        (2, "mpirun inside"),
    ] {
        let mpirun = ["mpirun", "--oversubscribe", "-np"].map(String::from);
        let carrack = crate::scene::carrack().display().to_string();
        let mut exec = vec![carrack, "exec".into()];
        exec.extend(HOST.map(|path| format!("--bind={path}:{path}:ro")));
        exec.push("mpi".into());
        let own = [program.display().to_string()];
        let words = match how {
            "mpirun inside" => [&exec[..], &mpirun, &[ranks.to_string()], &own].concat(),
            _ => [&mpirun[..], &[ranks.to_string()], &exec, &own].concat(),
        };
        let mut command = scene.program("timeout");
        command.arg("60").args(words).env("TMPDIR", "/tmp");
        let outcome = scene.finish(command, b"");
        let mut lines: Vec<&str> = outcome.out.lines().collect();
        lines.sort_unstable();
        let expected: Vec<String> = (0..ranks)
            .map(|rank| {
                format!(
                    "rank {rank} of {ranks}: messages right, memory read, files open, ptrace works"
                )
            })
            .collect();
        assert_eq!(lines, expected, "{how}: {outcome}");
        assert_eq!(outcome.code, 0, "{how}: {outcome}");
        assert!(!outcome.err.contains("CMA"), "{how}: {outcome}");
    }
}
