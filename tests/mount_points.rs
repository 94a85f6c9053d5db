//! What an image lacks appears beside what it has, whichever way the launcher takes.

use crate::need::need;
use crate::scene::{Scene, carrack};
use std::path::Path;

/// A directory as image, with so many files in its `/etc`.
fn image(scene: &Scene, files: usize) -> String {
    let root = scene.path(format!("image{files}"));
    for directory in ["bin", "etc/inner", "proc", "dev", "sys", "tmp"] {
        std::fs::create_dir_all(root.join(directory)).unwrap();
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for number in 0..files {
        std::fs::write(root.join(format!("etc/file{number}")), number.to_string()).unwrap();
    }
    std::os::unix::fs::symlink("file0", root.join("etc/link")).unwrap();
    root.to_str().unwrap().into()
}

const LOOK: &str = "cd /etc; cat link file1 port/wind inner/deep/wind; set -- file*; echo $#; \
    ls inner; touch more 2>/dev/null || echo closed";

#[test]
fn few_and_many_entries_look_the_same() {
    need!(Userns);
    if !Path::new("/bin/busybox").exists() {
        return eprintln!("skipped: no static busybox here");
    }
    let scene = Scene::new();
    let source = scene.path("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("wind"), "west\n").unwrap();
    // A mirror, an overlay, and many entries with a mount among them, which an overlay would hide.
    for (files, mounted) in [(2, false), (40, false), (30, true)] {
        let image = image(&scene, files);
        let inner = format!("{image}/etc/inner");
        let prepare = match mounted {
            true => format!("mount -t tmpfs none {inner} && mkdir {inner}/seen && "),
            false => String::new(),
        };
        let mut command = scene.program("unshare");
        command
            .args(["--user", "--map-root-user", "--mount", "sh", "-c"])
            .arg(format!(
                "{prepare}exec \"$@\" -B {0}:/etc/port -B {0}:/etc/inner/deep {image} /bin/busybox sh -c '{LOOK}'",
                source.display()
            ))
            .arg("-")
            .arg(carrack())
            .arg("exec");
        let seen = if mounted { "seen\n" } else { "" };
        let expected = format!("01west\nwest\n{files}\ndeep\n{seen}closed\n");
        scene.finish(command, b"").is(0, &expected, "");
    }
}
