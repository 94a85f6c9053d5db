//! The machine fails the pull: no room, no inodes, no right to write, a sudden death.

use crate::image::layout::Layout;
use crate::need::need;
use crate::pulling::pull_layout as pull;
use crate::registry::{Manners, Registry};
use crate::scene::{Outcome, Scene, carrack};
use std::path::Path;
use std::time::{Duration, Instant};

const IMAGE: &str = "layer\nrepeat 50 f small/{} 644 {}\nlayer plain\nf big 644 size:6000000\n";

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
        // Enough for the estimate and for the packs, not for the image.
        (
            "mount -t tmpfs -o size=8m none $CARRACK_STORE",
            &["No space left", "carrack gc", "CARRACK_STORE"],
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

/// A limit on processes counts threads. Who gets too few says so; who waits for one that never began would wait for ever.
#[test]
fn every_limit_on_threads_ends_in_an_image_or_an_error() {
    need!(Userns);
    let mut scene = Scene::new();
    scene.env("CARRACK_THREADS", "3");
    Layout::of_text(IMAGE).write(&scene.path("work/image"));
    let mut pulled = 0;
    // Processes of other user namespaces do not count.
    for most in 1..20 {
        let mut command = scene.program("timeout");
        command
            .args(["60", "unshare", "--user", "--map-root-user", "prlimit"])
            .arg(format!("--nproc={most}"))
            .arg(carrack())
            .args(["pull", "-q", "oci:image"]);
        let outcome = scene.finish(command, b"");
        match outcome.code {
            0 => pulled += 1,
            _ => {
                outcome.fails(125, &["cannot start a thread", "ulimit -u"]);
                assert!(scene.visible_in_store().is_empty(), "{outcome}");
            }
        }
        let _ = std::fs::remove_dir_all(scene.store());
    }
    assert!((1..19).contains(&pulled), "{pulled}");
}

/// No file system here may have quotas, so the kernel's answer is put in its mouth: a limit of 100 KiB, all in use but 36.
#[test]
fn a_quota_is_asked_before_anything_is_written() {
    need!(Strace);
    let scene = Scene::new();
    Layout::of_text(IMAGE).write(&scene.path("work/image"));
    let number = |value: u64| -> String {
        let bytes = value.to_le_bytes();
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    };
    // Limits in KiB, hard and soft; bytes in use; what of it is valid.
    let fields = [100, 0, 65_536, 0, 0, 0, 0, 0, 0x3f];
    let answer: String = fields.map(number).concat();
    let told = |valid: &str, arguments: &[&str]| {
        let mut command = scene.program("strace");
        let inject = format!("inject=quotactl_fd:retval=0:poke_exit=@arg4={valid}");
        command
            .args(["-f", "-qq", "-o", "/dev/null", "-e", &inject])
            .arg(carrack())
            .args(arguments);
        scene.finish(command, b"")
    };
    let pull = ["pull", "-q", "oci:image"];
    let outcome = told(&answer, &pull);
    outcome.fails(125, &["36K left of a quota of 100K", "CARRACK_STORE", "gc"]);
    assert_eq!(scene.visible_in_store(), [""; 0]);
    let doctor = told(&answer, &["doctor"]);
    assert!(doctor.out.contains("36K left of 100K"), "{doctor}");
    // Without a limit there is nothing to say.
    let outcome = told(&number(0).repeat(9), &pull);
    outcome.ok();
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

/// A number from the environment, so that a run can be repeated or made longer.
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Everything below a directory that a command left and nobody needs.
fn leftovers(store: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for part in ["tmp", "packs"] {
        for entry in std::fs::read_dir(store.join(part)).into_iter().flatten() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let pack = part == "packs" && (name.ends_with(".dat") || name.ends_with(".idx"));
            if !pack || name.starts_with('.') {
                found.push(format!("{part}/{name}"));
            }
        }
    }
    found
}

/// Killed at random moments of a pull from a registry, each time from nothing: no partial image is visible, and the next
/// pull succeeds and cleans up. `CARRACK_TESTS_ROUNDS=30` for more rounds, `CARRACK_TESTS_SEED` to repeat a run.
#[test]
fn death_at_random_moments_of_a_pull_from_a_registry() {
    need!(Registry);
    let mut scene = Scene::new();
    let registry = Registry::start(&scene.path(""), Manners::default());
    Layout::of_text(IMAGE).write(&scene.path("layout"));
    registry.push(&scene.path("layout"), "test/image", "v1");
    let reference = format!("{}/test/image:v1", registry.host());
    let rounds = number("CARRACK_TESTS_ROUNDS").unwrap_or(6);
    let seed = number("CARRACK_TESTS_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("{rounds} rounds with seed {seed}");
    let mut state = seed;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005);
        state = state.wrapping_add(1_442_695_040_888_963_407);
        state >> 40
    };
    let mut whole = u64::MAX;
    for store in ["first", "second"] {
        let start = Instant::now();
        scene.run(["pull", "-q", "--store", store, &reference]).ok();
        whole = whole.min(start.elapsed().as_micros() as u64);
    }
    let mut interrupted = 0;
    // A pull that ended before its moment came does not count.
    for round in 0..rounds * 6 {
        if interrupted == rounds {
            break;
        }
        let name = format!("store-{round}");
        scene.env("CARRACK_STORE", scene.path(&name));
        let mut child = scene
            .command(["pull", "-q", &reference])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let moment = random() % whole;
        std::thread::sleep(Duration::from_micros(moment));
        let _ = child.kill();
        interrupted += u64::from(!child.wait().unwrap().success());
        let at = format!("round {round} of seed {seed}, killed after {moment} of {whole} µs");
        // What can be seen is whole, and is what the tag names or nothing.
        let seen = scene.run(["verify", "--all"]);
        assert_eq!(seen.code, 0, "{at}: {seen}");
        let listed = scene.run(["images", "-q"]);
        assert_eq!(listed.code, 0, "{at}: {listed}");
        let again = scene.run(["pull", "-q", &reference]);
        assert_eq!(again.code, 0, "{at}: {again}");
        let verified = scene.run(["verify", &reference]);
        assert_eq!(verified.code, 0, "{at}: {verified}");
        assert_eq!(leftovers(&scene.path(&name)), [""; 0], "{at}");
        std::fs::remove_dir_all(scene.path(&name)).unwrap();
    }
    println!("{interrupted} pulls were interrupted");
    assert!(interrupted > 0, "nothing was killed in time");
}
