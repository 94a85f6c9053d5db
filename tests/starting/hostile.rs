//! What other runtimes were broken by, one test for each class; those of pulling an image are in `hostile.rs` and
//! `pulling.rs`, those of the meeting place in `capsule/hostile.rs`.

use super::*;
use crate::need::need;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

/// An unpacked image whose files the test can make and change.
fn unpacked(scene: &Scene, name: &str) -> PathBuf {
    let plain = scene.path("work").join(name);
    for entry in ["bin", "etc", "tmp", "dev", "proc", "sys", "usr"] {
        std::fs::create_dir_all(plain.join(entry)).unwrap();
    }
    std::fs::copy("/bin/busybox", plain.join("bin/busybox")).unwrap();
    for name in APPLETS {
        symlink("busybox", plain.join("bin").join(name)).unwrap();
    }
    plain
}

/// CVE-2021-30465 and its like: the target of a mount becomes a link while the root is made.
#[test]
fn a_target_that_changes_under_way() {
    need!(Userns);
    let scene = Scene::new();
    let image = unpacked(&scene, "image");
    let outside = scene.path("outside");
    let source = scene.path("source");
    for path in [&outside, &source] {
        std::fs::create_dir(path).unwrap();
    }
    std::fs::write(source.join("wind"), "west\n").unwrap();
    let (berth, link, spare) = (image.join("berth"), image.join("link"), image.join("spare"));
    std::fs::create_dir_all(berth.join("deep")).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let _ = std::fs::rename(&berth, &spare);
                let _ = symlink(&outside, &link);
                let _ = std::fs::rename(&link, &berth);
                let _ = std::fs::remove_file(&berth);
                let _ = std::fs::rename(&spare, &berth);
            }
        });
        let bind = format!("{}:/berth/deep", source.display());
        let mut worked = 0;
        for _ in 0..60 {
            let outcome = scene.run(["exec", "-v", &bind, "dir:image", "cat", "/berth/deep/wind"]);
            worked += u32::from(outcome.code == 0);
            assert!(
                outcome.code == 0 && outcome.out == "west\n"
                    || outcome.code != 0 && outcome.out.is_empty(),
                "{outcome}"
            );
            assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0, "{outcome}");
        }
        done.store(true, Ordering::Relaxed);
        assert!(worked > 0, "no launch met a whole image");
    });
}

/// CVE-2026-41579, CVE-2019-16884, CVE-2025-31133: the image's system directories and files are links, or no directories.
#[test]
fn system_directories_that_are_links() {
    need!(Userns);
    let scene = Scene::new();
    let outside = scene.path("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("passwd"), "of the host\n").unwrap();
    let up = format!(
        "{}{}",
        "../".repeat(12),
        outside.strip_prefix("/").unwrap().display()
    );
    for (number, name) in [
        "dev",
        "proc",
        "sys",
        "etc",
        "tmp",
        "etc/passwd",
        "etc/hosts",
        "etc/resolv.conf",
        "dev/shm",
    ]
    .iter()
    .enumerate()
    {
        for (way, to) in [
            outside.to_str().unwrap(),
            &up,
            "/proc/1/root",
            "/proc/self/fd/3",
            "loop",
        ]
        .iter()
        .enumerate()
        {
            let image = unpacked(&scene, &format!("image{number}.{way}"));
            let place = image.join(name);
            let _ = std::fs::remove_dir(&place);
            let last = place.file_name().unwrap().to_str().unwrap();
            symlink(if *to == "loop" { last } else { to }, &place).unwrap();
            let words = [
                "exec",
                "--tmp=private",
                &format!("dir:{}", image.display()),
                "/bin/sh",
                "-c",
                "echo in; cat /etc/passwd /dev/passwd 2>/dev/null",
            ];
            let outcome = scene.run(words);
            // Where the link leads is the image's own harm; the host's files are not seen, and an error is one.
            assert!(
                !outcome.out.contains("of the host"),
                "{name} {to}: {outcome}"
            );
            if outcome.code == 125
                && let Some(wrong) = outcome.fails_otherwise(125, &["error: cannot "])
            {
                panic!("{name} {to}: {wrong}");
            }
            let left: Vec<_> = std::fs::read_dir(&outside).unwrap().collect();
            assert_eq!(left.len(), 1, "{name} {to}: {left:?}");
        }
    }
}

/// CVE-2024-21626, CVE-2016-9962, CVE-2019-5736: no way back through directories, descriptors and processes of the host.
#[test]
fn no_way_back_to_the_host() {
    need!(Userns, Fuse);
    let scene = Scene::new();
    for number in 3..12 {
        let config =
            json!({ "Env": ["PATH=/bin"], "WorkingDir": format!("/proc/self/fd/{number}") });
        add(&scene, &format!("fd{number}"), busybox(), config);
    }
    scene.write("work/host-only", "");
    let look = "pwd -P; ls -d ../../../../../../../../work/wt /home/*/.. 2>/dev/null; ls /proc/self/fd | wc -l";
    for number in 3..12 {
        let mut command = scene.program("sh");
        // Descriptors of the caller's that lead out.
        command.args([
            "-c",
            "exec 3</ 4</etc 5</ 9</usr; exec \"$0\" exec --no-home fd$1 sh -c \"$2\"",
        ]);
        command
            .arg(crate::scene::carrack())
            .arg(number.to_string())
            .arg(look);
        command.current_dir("/var/lib");
        let outcome = scene.finish(command, b"");
        // Standard streams and the listing's own.
        assert_eq!(outcome.out, "$SCENE/home\n4\n", "fd{number}: {outcome}");
        let named = format!("/proc/self/fd/{number}");
        let by_hand = scene.run(["exec", "-w", &named, "fd3", "true"]);
        assert!(by_hand.code == 125 || by_hand.code == 2, "{by_hand}");
    }
    // The process beside the capsule and the caller are in /proc, and closed.
    let outside = std::process::id();
    let script = format!(
        "for p in {outside} $(grep -l carrack-image /proc/[0-9]*/comm 2>/dev/null | cut -d/ -f3); do \
           for what in root cwd exe fd/0 environ mem; do cat /proc/$p/$what/. /proc/$p/$what >/dev/null 2>&1 && echo open $p $what; \
           ls /proc/$p/$what/ >/dev/null 2>&1 && echo open $p $what; done; done; \
         kill -0 {outside} && echo seen"
    );
    scene
        .run(["exec", "fd3", "sh", "-c", &script])
        .is(0, "seen\n", "");
}

/// CVE-2018-19295, CVE-2023-30549, CVE-2022-29162, CVE-2014-8989: nothing in an image or a namespace gives privileges.
#[test]
fn privileges_are_not_to_be_had() {
    need!(Userns, Fuse);
    let scene = Scene::new();
    let mut entries = busybox();
    let mut become_root = file("bin/become", 0o6755, std::fs::read("/bin/busybox").unwrap());
    become_root.pax = vec![(
        "SCHILY.xattr.security.capability".into(),
        vec![
            1, 0, 0, 2, 255, 255, 255, 255, 0, 0, 0, 0, 255, 255, 255, 255, 0, 0, 0, 0,
        ],
    )];
    entries.push(become_root);
    entries.push(link("bin/id-by-become", "become"));
    add(&scene, "box", entries, json!({ "Env": ["PATH=/bin"] }));
    let uid = nix::unistd::getuid();
    for (options, id) in [
        (&[][..], uid.as_raw()),
        (&["--id", "root"], 0),
        (&["--writable"], uid.as_raw()),
    ] {
        let script = "stat -c %a /bin/become; cp /bin/become /tmp/$$ 2>/dev/null; rm -f /tmp/$$; \
             ln -s /bin/become /dev/shm/carrack-id-$$; cat /proc/self/setgroups; \
             grep -h -e Cap -e NoNewPrivs /proc/self/status; \
             grep -c ' / rw.*nosuid,nodev\\| / ro.*nosuid,nodev' /proc/self/mountinfo; rm /dev/shm/carrack-id-$$; \
             mount -t tmpfs none /tmp 2>/dev/null || echo no mount; chgrp 0 /dev/shm 2>/dev/null || echo no chgrp; id -u";
        let words = ["exec"].into_iter().chain(options.iter().copied());
        let outcome = scene.run(words.chain(["box", "sh", "-c", script]));
        let none = "0".repeat(16);
        let sets: String = ["Inh", "Prm", "Eff", "Bnd", "Amb"]
            .map(|set| format!("Cap{set}:\t{none}\n"))
            .concat();
        let expected = format!("6755\ndeny\n{sets}NoNewPrivs:\t1\n1\nno mount\nno chgrp\n{id}\n");
        assert_eq!(outcome.out, expected, "{options:?}: {outcome}");
    }
}

/// CVE-2025-23266: variables of an image reach the image's program only.
#[test]
fn variables_of_an_image_stay_inside() {
    need!(Userns, Fuse);
    let scene = Scene::new();
    let marks = [
        "LD_PRELOAD=/etc/evil.so",
        "LD_LIBRARY_PATH=/etc",
        "PATH=/etc/evil:/bin",
        "CARRACK_STORE=/etc",
        "GCONV_PATH=/etc",
        "HOME=/evil",
        "TMPDIR=/evil",
    ];
    let mut entries = busybox();
    entries.push(file("etc/evil.so", 0o755, "not a library"));
    for name in ["getent", "sh", "carrack"] {
        entries.push(file(
            &format!("etc/evil/{name}"),
            0o755,
            "#!/bin/sh\necho evil\n",
        ));
    }
    add(
        &scene,
        "box",
        entries,
        json!({ "Env": marks, "Entrypoint": ["/bin/env"] }),
    );
    let outcome = scene.run(["run", "box"]);
    assert_eq!((outcome.code, outcome.err.as_str()), (0, ""), "{outcome}");
    assert!(
        outcome.out.contains("LD_PRELOAD=/etc/evil.so\n"),
        "{outcome}"
    );
    assert!(!outcome.out.lines().any(|line| line == "evil"), "{outcome}");
}
