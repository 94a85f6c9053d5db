//! The machine fails the pull: no room, no inodes, no right to write, a sudden death.

use crate::image::layout::Layout;
use crate::need::need;
use crate::pulling::pull_layout as pull;
use crate::scene::{Outcome, Scene, carrack};
use std::time::Duration;

const IMAGE: &str = "layer\nrepeat 50 f small/{} 644 {}\nlayer\nf big 644 size:6000000\n";

/// Pulls with the store on a file system of these properties, in namespaces of its own.
fn pull_on(scene: &Scene, mount: &str) -> Outcome {
    let mut command = scene.program("unshare");
    command
        .args(["--user", "--map-root-user", "--mount", "sh", "-c"])
        .arg(format!(
            // What is left in the store is listed from inside: the mount is gone afterwards.
            "mkdir -p $CARRACK_STORE && {mount} || exit 99\n\
             \"$0\" pull -q oci:image; code=$?\n\
             find $CARRACK_STORE/images $CARRACK_STORE/refs -type f 2>/dev/null >&2\n\
             exit $code"
        ))
        .arg(carrack());
    scene.finish(command, b"")
}

#[test]
fn no_room_no_inodes_no_right() {
    need!(Userns);
    let scene = Scene::new();
    Layout::of_text(IMAGE).write(&scene.path("work/image"));
    for (mount, words) in [
        (
            "mount -t tmpfs -o size=1m none $CARRACK_STORE",
            &["free"][..],
        ),
        (
            "mount -t tmpfs -o nr_inodes=6 none $CARRACK_STORE",
            &["No space left"],
        ),
        (
            "mount -t tmpfs -o ro none $CARRACK_STORE",
            &["Read-only file system"],
        ),
    ] {
        let outcome = pull_on(&scene, mount);
        outcome.fails(125, words);
        assert!(
            !outcome.err.contains("/images/") || !outcome.err.contains(".sqsh\n"),
            "a partial image is visible: {outcome}"
        );
    }
}

#[test]
fn a_store_that_is_a_file() {
    let scene = Scene::new();
    Layout::of_text(IMAGE).write(&scene.path("work/image"));
    scene.write("store", "");
    scene
        .run(["pull", "-q", "oci:image"])
        .fails(125, &["$SCENE/store", "Not a directory"]);
}

/// Killed at any moment: no partial image is visible, and the next pull cleans up and succeeds.
#[test]
fn death_at_any_moment() {
    let scene = Scene::new();
    Layout::of_text(IMAGE).write(&scene.path("work/image"));
    for round in 0..12u64 {
        let mut child = scene
            .command(["pull", "-q", "oci:image"])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(3 + round * 11));
        let _ = child.kill();
        let _ = child.wait();
        // An image is there when its record is, and then it is whole.
        for file in scene.visible_in_store() {
            if let Some(digest) = file
                .strip_suffix(".json")
                .filter(|f| f.starts_with("images/"))
            {
                let digest = digest.rsplit('/').next().unwrap();
                let whole = scene.run(["verify", &format!("sha256:{digest}")]);
                assert_eq!(whole.code, 0, "round {round}: {whole}");
            }
        }
    }
    let (_, path) = pull(&scene, &scene.path("work/image"));
    assert!(path.is_file());
    let left: Vec<_> = std::fs::read_dir(scene.store().join("tmp"))
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}
