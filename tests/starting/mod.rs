//! Starting for real: the built binary, images in a store, a plain user.
//!
//! The rules of mounts, environment and identity are tables beside the code; here is what only the kernel and a real image
//! can answer. Each test says what it looks at in one line of shell, run inside.

mod attach;
mod command;
mod devices;
mod hostile;
mod modules;
mod node;
mod ranks;

use crate::image::layout::Layout;
use crate::image::tar::{Entry, Kind};
use crate::image::text::{Compression, Image, Layer};
use crate::scene::{Outcome, Scene};
use serde_json::{Value, json};
use std::path::Path;

/// Busybox by these names is all of an image's programs.
const APPLETS: [&str; 24] = [
    "cat", "chgrp", "cut", "echo", "env", "false", "grep", "head", "id", "ls", "mkdir", "mount",
    "pwd", "readlink", "rm", "sed", "seq", "sh", "sleep", "stat", "touch", "true", "umount", "wc",
];

pub fn file(path: &str, mode: u32, content: impl AsRef<[u8]>) -> Entry {
    let kind = Kind::File(content.as_ref().to_vec());
    Entry::new(kind, path.into(), mode)
}

fn directory(path: &str, mode: u32) -> Entry {
    Entry::new(Kind::Directory, path.into(), mode)
}

fn link(path: &str, to: &str) -> Entry {
    Entry::new(Kind::Symlink(to.into()), path.into(), 0o777)
}

/// A small distribution: busybox, users, empty directories.
pub fn busybox() -> Vec<Entry> {
    let mut entries = vec![
        directory("etc", 0o755),
        directory("tmp", 0o1777),
        file("bin/busybox", 0o755, std::fs::read("/bin/busybox").unwrap()),
        file(
            "etc/passwd",
            0o644,
            "root:x:0:0::/root:/bin/sh\napp:x:1234:1235::/home/app:/bin/sh\n",
        ),
        file("etc/group", 0o644, "root:x:0:\ncrew:x:1235:\n"),
        file("etc/hosts", 0o644, "127.0.0.9 image\n"),
    ];
    entries.extend(APPLETS.map(|name| link(&format!("bin/{name}"), "busybox")));
    entries
}

pub fn layout(entries: Vec<Entry>, config: Value) -> Layout {
    let mut layout = Layout::of(&Image {
        layers: vec![Layer {
            compression: Compression::Zstd,
            entries,
            no_end: false,
            cut: 0,
        }],
        ..Image::default()
    });
    layout.config["config"] = config;
    layout
}

/// A scene whose store has these images.
fn scene_with(images: Vec<(&str, Vec<Entry>, Value)>) -> Scene {
    let scene = Scene::new();
    for (name, entries, config) in images {
        add(&scene, name, entries, config);
    }
    scene
}

pub fn add(scene: &Scene, name: &str, entries: Vec<Entry>, config: Value) {
    let directory = scene.path("work").join(name);
    layout(entries, config).write(&directory);
    let source = format!("oci:{}", directory.display());
    scene.run(["import", "-q", &source, name]).ok();
}

/// A scene with one image, `box`.
fn scene() -> Scene {
    scene_with(vec![(
        "box",
        busybox(),
        json!({ "Env": ["PATH=/bin", "FROM_IMAGE=yes"] }),
    )])
}

/// `carrack exec OPTIONS box sh -c SCRIPT`
fn sh(scene: &Scene, options: &[&str], script: &str) -> Outcome {
    let words = ["exec"].into_iter().chain(options.iter().copied());
    scene.run(words.chain(["box", "sh", "-c", script]))
}

/// The same as a task of a step.
fn task(scene: &Scene, job: &str, rank: u32, tasks: u32) -> std::process::Command {
    let mut command = scene.command(["exec"]);
    for (name, value) in [
        ("SLURM_JOB_ID", job),
        ("SLURM_STEP_ID", "0"),
        ("SLURMD_NODENAME", "n1"),
        ("SLURM_NODEID", "0"),
        ("SLURM_STEP_NUM_NODES", "1"),
        ("SLURM_STEP_NUM_TASKS", &tasks.to_string()),
        ("SLURM_STEP_TASKS_PER_NODE", &tasks.to_string()),
        ("SLURM_LOCALID", &rank.to_string()),
        ("SLURM_PROCID", &rank.to_string()),
    ] {
        command.env(name, value);
    }
    command
}

/// A job number that no other test has.
fn job() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{}{number:03}", std::process::id())
}

/// Runs a script as root of a user and mount namespace of its own, with `$CARRACK` and the scene's variables; mounts there
/// stand for a broken node.
fn on_a_node(scene: &Scene, script: &str) -> Outcome {
    let mut command = scene.program("unshare");
    command
        .args(["--user", "--map-root-user", "--mount", "sh", "-euc", script])
        .env("CARRACK", crate::scene::carrack());
    scene.finish(command, b"")
}

fn exists(path: impl AsRef<Path>) -> bool {
    path.as_ref().symlink_metadata().is_ok()
}
