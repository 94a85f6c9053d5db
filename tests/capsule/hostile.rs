//! What images and other users of the node can put in the way.

use super::WHERE;
use super::tools::{Job, copy, out, task, tree};
use crate::need::need;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What an image can put in the way of mounts: every path of it may be a link, or be something else than expected.
#[test]
fn an_image_cannot_lead_mounts_astray() {
    need!(Userns);
    let scene = tempfile::tempdir().unwrap();
    let outside = scene.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let source = scene.path().join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("wind"), "west\n").unwrap();
    let up = "../".repeat(20);
    let escape = format!("{up}{}", outside.strip_prefix("/").unwrap().display());
    for (number, link) in [
        escape.as_str(),
        outside.to_str().unwrap(),
        "/proc/self/root/tmp",
        "/proc/1/root",
    ]
    .iter()
    .enumerate()
    {
        let image = scene.path().join(format!("image{number}"));
        let copied = Command::new("cp")
            .arg("-a")
            .arg(tree())
            .arg(&image)
            .status();
        assert!(copied.unwrap().success());
        std::os::unix::fs::symlink(link, image.join("harbour")).unwrap();
        let bind = format!("{}:/harbour/berth", source.display());
        let job = Job::new(&image).with("TASK_BIND", bind);
        let output = job.run(0, &["cat", "/harbour/berth/wind"]);
        // Where the link leads inside there is nothing yet, so it is made there; nothing may appear outside.
        if output.status.success() {
            assert_eq!(out(&output), "west", "{link}");
        } else {
            assert_eq!(output.status.code(), Some(125), "{link}: {output:?}");
        }
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0, "{link}");
        job.nothing_is_left();
    }
    // A file where a directory is needed is an error that names it.
    let image = scene.path().join("file");
    let copied = Command::new("cp")
        .arg("-a")
        .arg(tree())
        .arg(&image)
        .status();
    assert!(copied.unwrap().success());
    std::fs::write(image.join("harbour"), "").unwrap();
    for at in ["/harbour", "/harbour/berth"] {
        let job = Job::new(&image).with("TASK_BIND", format!("{}:{at}", source.display()));
        let output = job.run(0, &["true"]);
        assert_eq!(output.status.code(), Some(125), "{output:?}");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(
            text.contains("/harbour") && text.contains("directory"),
            "{text}"
        );
    }
}

mod as_root {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, chown};
    use std::os::unix::process::CommandExt;

    /// An image and a task that everybody may use.
    fn for_all() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let base = tempfile::tempdir().unwrap();
        std::fs::set_permissions(base.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let image = base.path().join("image");
        let copied = Command::new("cp")
            .arg("-a")
            .arg(tree())
            .arg(&image)
            .status();
        assert!(copied.unwrap().success());
        std::fs::set_permissions(&image, PermissionsExt::from_mode(0o755)).unwrap();
        let program = base.path().join("task");
        copy(task().as_ref(), &program);
        (base, image, program)
    }

    /// Numbers of jobs are equal on two clusters that share a node, and after a restart of the controller.
    #[test]
    fn two_users_with_one_job_number_do_not_meet() {
        need!(Root, Userns);
        let (_base, image, program) = for_all();
        let job = Job::new(&image).tasks(16);
        let users = [0, 1].map(|n| 80_000 + 2 * (std::process::id() % 10_000) + n);
        let mut children: Vec<(u32, std::process::Child)> = Vec::new();
        for rank in 0..16 {
            for uid in users {
                let mut command = Command::new(&program);
                command
                    .arg(&image)
                    .args(["sh", "-c", "id -u; \"$@\"", "-"])
                    .args(WHERE);
                job.surround(&mut command, rank);
                command
                    .uid(uid)
                    .gid(uid)
                    .stdout(std::process::Stdio::piped())
                    .stderr(std::process::Stdio::piped());
                children.push((uid, command.spawn().unwrap()));
            }
        }
        let mut places: Vec<String> = children
            .into_iter()
            .map(|(uid, child)| {
                let said = out(&child.wait_with_output().unwrap());
                assert!(said.starts_with(&format!("{uid}\n")), "{uid}: {said}");
                said
            })
            .collect();
        places.sort();
        places.dedup();
        // One capsule for each of them, and no namespace in common but the network's.
        assert_eq!(places.len(), 2, "{places:#?}");
        let namespaces = |place: &str| place.lines().skip(1).take(2).map(String::from).collect();
        let (one, other): (Vec<String>, Vec<String>) =
            (namespaces(&places[0]), namespaces(&places[1]));
        assert!(one.iter().all(|n| !other.contains(n)), "{places:#?}");
        job.processes_end();
        for uid in users {
            let _ = std::fs::remove_dir_all(format!("/dev/shm/carrack-{uid}"));
        }
    }

    /// Other users may sit on every predictable name: the launch finds another one or says so, and never waits.
    #[test]
    fn names_taken_by_others_do_not_stop_a_step() {
        need!(Root, Userns);
        // A user that nobody else has, in a private /dev/shm and /tmp.
        let uid = 70_000 + std::process::id() % 10_000;
        let (_base, image, program) = for_all();
        let taken: Vec<PathBuf> = ["/dev/shm", "/tmp", "/var/tmp"]
            .iter()
            .map(|base| Path::new(base).join(format!("carrack-{uid}")))
            .collect();
        for (number, path) in taken.iter().enumerate() {
            match number {
                0 => std::fs::create_dir(path).unwrap(),
                1 => std::os::unix::fs::symlink("/root", path).unwrap(),
                _ => std::fs::write(path, "").unwrap(),
            }
        }
        // The directory even looks right, except for its owner.
        std::fs::set_permissions(&taken[0], PermissionsExt::from_mode(0o700)).unwrap();
        chown(&taken[0], Some(0), Some(0)).unwrap();
        let job = Job::new(&image).tasks(2);
        let run = |rank: u32| {
            let mut command = Command::new(&program);
            command.arg(&image).args(WHERE);
            job.surround(&mut command, rank);
            command.uid(uid).gid(uid).output().unwrap()
        };
        assert_eq!(out(&run(0)), out(&run(1)));
        job.processes_end();
        for path in taken {
            let _ = std::fs::remove_dir(&path);
            let _ = std::fs::remove_file(&path);
        }
        let _ = std::fs::remove_dir_all(format!("/dev/shm/carrack-{uid}.1"));
    }
}
