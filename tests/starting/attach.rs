//! `carrack attach`: a second way into every kind of capsule.

use super::*;
use crate::need::need;
use std::io::BufRead;
use std::process::{Child, Stdio};

/// A task that stays inside until it is dropped.
struct Inside(Child);

impl Inside {
    /// Starts `carrack exec OPTIONS IMAGE sh -c "SCRIPT; sleep"` as the only task of a step and waits until it is in.
    fn start(mut command: std::process::Command, words: &[&str], script: &str) -> Inside {
        let script = format!("{script}; echo in; exec sleep 60");
        command.args(words).args(["sh", "-c", &script]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let mut reader = std::io::BufReader::new(child.stdout.take().unwrap());
        reader.read_line(&mut line).unwrap();
        assert_eq!(line, "in\n", "{words:?}");
        Inside(child)
    }

    fn namespaces(&self) -> String {
        let link = |kind| {
            let path = format!("/proc/{}/ns/{kind}", self.0.id());
            std::fs::read_link(path).unwrap().display().to_string()
        };
        format!("{}\n{}\n", link("user"), link("mnt"))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const LOOK: &str = "readlink /proc/self/ns/user; readlink /proc/self/ns/mnt; id -u; id -g; echo $FROM_IMAGE; \
                    cat /mark 2>/dev/null; grep -h -e CapEff -e CapBnd -e NoNewPrivs /proc/self/status";

#[test]
fn every_kind_of_capsule() {
    need!(Userns, Fuse);
    let config = json!({ "Env": ["PATH=/bin", "FROM_IMAGE=yes"], "User": "app:crew" });
    let scene = scene_with(vec![("box", busybox(), config)]);
    let own = |id: u32| format!("{id}\n{}\n", nix::unistd::getgid());
    let uid = nix::unistd::getuid().as_raw();
    let plain = scene.path("work/plain");
    let unpacked = format!("dir:{}", plain.display());
    for entry in ["bin", "etc", "tmp", "dev", "proc", "sys"] {
        std::fs::create_dir_all(plain.join(entry)).unwrap();
    }
    std::fs::copy("/bin/busybox", plain.join("bin/busybox")).unwrap();
    for name in APPLETS {
        std::os::unix::fs::symlink("busybox", plain.join("bin").join(name)).unwrap();
    }
    for (words, ids, from_image) in [
        (vec!["box"], own(uid), "yes"),
        (vec!["--id", "root", "box"], "0\n0\n".into(), "yes"),
        (
            vec!["--id", "1234:1235", "box"],
            "1234\n1235\n".into(),
            "yes",
        ),
        (vec!["--id", "image", "box"], "1234\n1235\n".into(), "yes"),
        (vec!["--writable", "box"], own(uid), "yes"),
        (vec![unpacked.as_str()], own(uid), ""),
    ] {
        let job = job();
        let writable = words.contains(&"--writable");
        let script = if writable {
            "echo mark > /mark"
        } else {
            "true"
        };
        let inside = Inside::start(task(&scene, &job, 0, 1), &words, script);
        let mark = if writable { "mark\n" } else { "" };
        let none = "0".repeat(16);
        let expected = format!(
            "{}{ids}{from_image}\n{mark}CapEff:\t{none}\nCapBnd:\t{none}\nNoNewPrivs:\t1\n",
            inside.namespaces()
        );
        scene
            .run(["attach", &job, "sh", "-c", LOOK])
            .is(0, &expected, "");
    }
}

#[test]
fn which_capsule() {
    need!(Userns, Fuse);
    let other = vec![("other", busybox(), json!({ "Env": ["FROM_IMAGE=other"] }))];
    let scene = scene_with(other);
    add(
        &scene,
        "box",
        busybox(),
        json!({ "Env": ["FROM_IMAGE=first"] }),
    );
    let job = job();
    let one = Inside::start(task(&scene, &job, 0, 1), &["box"], "true");
    let says = |which: &str| scene.run(["attach", which, "sh", "-c", "echo $FROM_IMAGE; exit 7"]);
    for which in [job.as_str(), &format!("{job}.0")] {
        says(which).is(7, "first\n", "");
    }
    // The name means another image by now; who is inside still has the old one.
    add(
        &scene,
        "box",
        busybox(),
        json!({ "Env": ["FROM_IMAGE=moved"] }),
    );
    says(&job).is(7, "first\n", "");
    let two = Inside::start(task(&scene, &job, 1, 1), &["other"], "true");
    let ambiguous = says(&job);
    ambiguous.fails(
        2,
        &["several capsules", &format!("{job}.0."), "other", "box"],
    );
    let listed = scene.run(["attach", "--list"]);
    let mut seen = Vec::new();
    for line in listed.out.lines().filter(|line| line.starts_with(&job)) {
        let (id, image) = line.split_once("  ").unwrap();
        let said = says(id);
        said.code(7);
        seen.push(format!("{image} {}", said.out.trim()));
    }
    seen.sort();
    assert_eq!(seen, ["box first", "other other"], "{listed}");
    drop((one, two));
}

#[test]
fn without_slurm_by_name() {
    need!(Userns, Fuse);
    let scene = scene();
    let name = format!("work{}", job());
    let inside = Inside::start(scene.command(["exec"]), &["--name", &name, "box"], "true");
    let look = "readlink /proc/self/ns/user; readlink /proc/self/ns/mnt";
    let outcome = scene.run(["attach", &name, "sh", "-c", look]);
    outcome.is(0, &inside.namespaces(), "");
    // Nobody shares a process that was started alone.
    let alone = Inside::start(scene.command(["exec"]), &["box"], "true");
    scene
        .run(["attach", "no-such-capsule"])
        .fails(125, &["no capsule `no-such-capsule`"]);
    scene
        .run(["attach", &name, "no-such-program"])
        .fails(127, &["no-such-program"]);
    drop((inside, alone));
}

/// Whatever lies in the rendezvous directory, it is only believed when a broker of this user answers.
#[test]
fn junk_in_the_rendezvous_directory() {
    need!(Userns, Fuse);
    let scene = scene();
    let job = job();
    let inside = Inside::start(task(&scene, &job, 0, 1), &["box"], "true");
    let meeting = Path::new("/dev/shm").join(format!("carrack-{}", nix::unistd::geteuid()));
    let junk = |name: &str| meeting.join(format!("{job}.9-0.{name}.n1"));
    let hex = "00".repeat(4);
    std::fs::write(
        junk("a"),
        format!("carrack capsule 1\nsocket {hex}\nbroker 1\nimage 61\nfile 61\nmade 1\nend\n"),
    )
    .unwrap();
    std::fs::write(junk("b"), [0xff; 9000]).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", junk("c")).unwrap();
    nix::unistd::mkfifo(&junk("d"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::fs::create_dir(junk("e")).unwrap();
    let seen = scene.run(["attach", "--list"]);
    let mine: Vec<&str> = seen
        .out
        .lines()
        .filter(|line| line.starts_with(&job))
        .collect();
    assert_eq!(mine, [format!("{job}.0  box")], "{seen}");
    scene.run(["attach", &job, "true"]).is(0, "", "");
    for name in ["a", "b", "c", "d"] {
        let _ = std::fs::remove_file(junk(name));
    }
    let _ = std::fs::remove_dir(junk("e"));
    drop(inside);
}
