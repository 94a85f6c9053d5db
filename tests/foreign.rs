//! Ready images of other tools: a squashfs of mksquashfs and a SIF around it, taken into the store or looked at in place.

use crate::need::{need, program};
use crate::scene::Scene;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A root file system with words in it that tell what software it holds.
fn squashfs(scene: &Scene) -> PathBuf {
    let glibc = "\0GNU C Library (Debian GLIBC 2.36-9+deb12u10) stable release version 2.36.\n\0";
    scene.write("root/lib/libc.so.6", glibc);
    scene.write("root/opt/mpi/libmpi.so.40.30.4", "\0Open MPI v4.1.4\0");
    scene.write("root/opt/libcudart.so.12.4.127", "x");
    scene.write("root/etc/name", "foreign\n");
    let shell = scene.write("root/usr/bin/dash", "#!");
    std::os::unix::fs::symlink("usr/bin", scene.path("root/bin")).unwrap();
    std::os::unix::fs::symlink("dash", scene.path("root/usr/bin/sh")).unwrap();
    Command::new("chmod")
        .arg("755")
        .arg(shell)
        .status()
        .unwrap();
    let file = scene.path("work/other.sqsh");
    let made = Command::new(program("mksquashfs").unwrap())
        .arg(scene.path("root"))
        .arg(&file)
        .args(["-quiet", "-no-progress", "-comp", "gzip"])
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(made.success());
    file
}

/// A SIF with two parts: a definition file, and the squashfs as the primary system partition for amd64.
fn sif(squashfs: &Path, file: &Path) {
    const HEADER: usize = 128;
    const DESCRIPTOR: usize = 585;
    const START: usize = 4096;
    let content = std::fs::read(squashfs).unwrap();
    let mut bytes = vec![0; START];
    bytes[..32].copy_from_slice(b"#!/usr/bin/env run-singularity\n\0");
    bytes[32..42].copy_from_slice(b"SIF_MAGIC\0");
    bytes[88..96].copy_from_slice(&2u64.to_le_bytes());
    bytes[96..104].copy_from_slice(&(HEADER as u64).to_le_bytes());
    let mut describe = |index: usize, kind: u32, start: usize, length: usize| {
        let part = &mut bytes[HEADER + index * DESCRIPTOR..][..DESCRIPTOR];
        part[..4].copy_from_slice(&kind.to_le_bytes());
        part[4] = 1;
        part[17..25].copy_from_slice(&(start as u64).to_le_bytes());
        part[25..33].copy_from_slice(&(length as u64).to_le_bytes());
        if kind == 0x4004 {
            part[201..205].copy_from_slice(&1u32.to_le_bytes());
            part[205..209].copy_from_slice(&2u32.to_le_bytes());
            part[209..211].copy_from_slice(b"02");
        }
    };
    describe(0, 0x4001, HEADER + 2 * DESCRIPTOR, 10);
    describe(1, 0x4004, START, content.len());
    bytes.extend(content);
    std::fs::write(file, bytes).unwrap();
}

/// The software that `inspect` tells.
#[track_caller]
fn software(scene: &Scene, image: &str) -> String {
    let outcome = scene.run(["inspect", image]);
    outcome.ok();
    let wanted = ["libc ", "mpi ", "gpu ", "shell "];
    let lines = outcome.out.lines();
    lines
        .filter(|line| wanted.iter().any(|word| line.starts_with(word)))
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ") + "\n")
        .collect()
}

const SOFTWARE: &str = "libc glibc 2.36 (/lib/libc.so.6)\n\
    mpi openmpi 4.1.4 (/opt/mpi/libmpi.so.40.30.4, speaks pmix)\n\
    gpu cuda 12.4.127 (/opt/libcudart.so.12.4.127)\n\
    shell /bin/sh\n";

#[test]
fn the_software_in_a_foreign_squashfs_is_told() {
    need!(SquashfsTools);
    let scene = Scene::new();
    squashfs(&scene);
    assert_eq!(software(&scene, "other.sqsh"), SOFTWARE, "where it lies");
    scene.run(["import", "other.sqsh"]).ok();
    assert_eq!(software(&scene, "other.sqsh"), SOFTWARE, "in the store");
    scene.run(["verify", "--all"]).ok();
}

#[test]
fn a_sif_is_the_squashfs_in_it() {
    need!(SquashfsTools);
    let scene = Scene::new();
    let plain = squashfs(&scene);
    sif(&plain, &scene.path("work/other.sif"));
    assert_eq!(software(&scene, "other.sif"), SOFTWARE, "where it lies");
    let digest = |outcome: &crate::scene::Outcome| {
        outcome.ok();
        outcome.out.split_once('\t').unwrap().0.to_string()
    };
    let from_sif = digest(&scene.run(["import", "-q", "other.sif"]));
    let from_plain = digest(&scene.run(["import", "-q", "other.sqsh"]));
    assert_eq!(from_sif, from_plain, "the same image");
    assert_eq!(software(&scene, "other.sif"), SOFTWARE, "in the store");
    let verified = scene.run(["verify", "--all"]);
    verified.is(0, &format!("ok {from_sif}\n"), "");
    scene.run(["export", "other.sif", "out.tar"]).ok();
    let tar = std::fs::read(scene.path("work/out.tar")).unwrap();
    assert!(tar.windows(8).any(|part| part == b"foreign\n"));
}

#[test]
fn a_ready_file_that_is_not_there_is_told_as_such() {
    let scene = Scene::new();
    for command in [&["inspect"][..], &["verify"], &["pull"], &["import"]] {
        let arguments = [command, &["missing.sqsh"]].concat();
        let outcome = scene.run(arguments);
        let told = format!("{}{}", outcome.out, outcome.err);
        assert!(told.contains("there is no file"), "{outcome}");
        // It is a mistake of who typed it; `verify` counts what does not hold.
        let code = if command == ["verify"] { 125 } else { 2 };
        assert_eq!(outcome.code, code, "{outcome}");
    }
}
