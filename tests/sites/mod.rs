//! Contracts of sites: every door around a lock, and one row for each thing that a user or a site of the founding systems
//! must be able to do.
//!
//! A site here is an installation of the test's own: a copy of the binary and `etc/carrack.toml` beside it, which counts
//! as the site's file because whoever owns the binary could change it anyway.

mod artifacts;
mod attempts;
mod battery;
mod contracts;
mod etc;
mod fronts;
mod harbor;
mod hooks;
mod images_of_eucaim;
mod people;
mod rows;
mod shifters_rows;
mod signed;
mod singularity;

use crate::scene::{Outcome, Scene, carrack};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A scene with an installation and a tree that stands in for an image: busybox alone.
pub struct Site {
    pub scene: Scene,
    pub group: String,
}

impl Site {
    pub fn new() -> Site {
        let scene = Scene::new();
        for name in [
            "prefix/bin",
            "prefix/etc",
            "root/bin",
            "root/root",
            "root/etc",
        ] {
            std::fs::create_dir_all(scene.path(name)).unwrap();
        }
        // Not by this process: another thread's child could hold it open for writing while we start it.
        let copy = |from: &Path, to: PathBuf| {
            assert!(
                Command::new("cp")
                    .arg(from)
                    .arg(to)
                    .status()
                    .unwrap()
                    .success()
            );
        };
        copy(carrack(), scene.path("prefix/bin/carrack"));
        copy(Path::new("/bin/busybox"), scene.path("root/bin/busybox"));
        for name in [
            "sh", "cat", "echo", "env", "id", "ls", "touch", "true", "wget", "ip", "test", "mkdir",
        ] {
            symlink("busybox", scene.path("root/bin").join(name)).unwrap();
        }
        let group = Command::new("id").arg("-gn").output().unwrap().stdout;
        let group = String::from_utf8(group).unwrap().trim().to_string();
        for directory in [
            format!("safe/{group}"),
            "safe/other".into(),
            "data/d1".into(),
            "work/allowed".into(),
        ] {
            std::fs::create_dir_all(scene.path(directory)).unwrap();
        }
        for directory in ["", "prefix", "prefix/etc", "prefix/bin"] {
            let mode = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(scene.path(directory), mode).unwrap();
        }
        let site = Site { scene, group };
        site.settings("");
        site
    }

    /// `$SCENE` and `$GROUP` in a text.
    pub fn fill(&self, text: &str) -> String {
        let scene = self.scene.path("");
        text.replace("$SCENE", scene.to_str().unwrap().trim_end_matches('/'))
            .replace("$GROUP", &self.group)
    }

    /// Writes the site file.
    pub fn settings(&self, text: &str) -> PathBuf {
        let path = self.scene.write("prefix/etc/carrack.toml", self.fill(text));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        path
    }

    /// Writes a file below the scene; a name that ends in `->` is a link to the text.
    pub fn write(&self, name: &str, text: &str) {
        match name.strip_suffix("->") {
            Some(name) => {
                let path = self.scene.path(name);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                let _ = std::fs::remove_file(&path);
                symlink(self.fill(text), path).unwrap();
            }
            None => {
                self.scene.write(name, self.fill(text));
            }
        }
    }

    /// The installed binary with these words, not yet started.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = self.scene.program(self.scene.path("prefix/bin/carrack"));
        command.args(words.iter().map(|word| self.fill(word)));
        command
    }

    /// The same binary by another name.
    pub fn called(&self, name: &str, words: &[&str]) -> Command {
        let link = self.scene.path("prefix/bin").join(name);
        if !link.exists() {
            symlink("carrack", &link).unwrap();
        }
        let mut command = self.scene.program(link);
        command.args(words.iter().map(|word| self.fill(word)));
        command
    }

    pub fn run(&self, words: &[&str]) -> Outcome {
        self.scene.finish(self.command(words), b"")
    }

    /// A line of sh inside the tree.
    pub fn inside(&self, options: &[&str], line: &str) -> Outcome {
        let words = [&["exec"], options, &["dir:$SCENE/root", "sh", "-c", line]].concat();
        self.run(&words)
    }
}
