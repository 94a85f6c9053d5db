//! The store under many processes, in a site's hands, and in the wrong hands.

use crate::image::layout::Layout;
use crate::need::need;
use crate::scene::Scene;
use std::path::PathBuf;

const IMAGE: &str = "layer\nd etc/ 755\nf etc/name 644 one\nlayer\nf big 644 size:2000000\n";

fn scene_with(text: &str) -> Scene {
    let scene = Scene::new();
    Layout::of_text(text).write(&scene.path("work/image"));
    scene
}

/// Digest and path of a quiet pull.
fn pulled(scene: &Scene) -> (String, PathBuf) {
    let outcome = scene.run(["pull", "-q", "oci:image"]);
    outcome.ok();
    let line = outcome
        .out
        .trim_end()
        .replace("$SCENE/", scene.path("").to_str().unwrap());
    let (digest, path) = line.split_once('\t').unwrap();
    (digest.into(), path.into())
}

#[test]
fn ten_processes_do_one_conversion() {
    let scene = scene_with(IMAGE);
    let told: Vec<String> = std::thread::scope(|scope| {
        let started: Vec<_> = (0..10)
            .map(|_| scope.spawn(|| scene.run(["pull", "--json", "oci:image"])))
            .collect();
        let outcomes = started.into_iter().map(|thread| thread.join().unwrap());
        outcomes.map(|outcome| outcome.ok().out.clone()).collect()
    });
    let converted = told
        .iter()
        .filter(|text| text.contains("\"converted\""))
        .count();
    assert_eq!(converted, 1, "{told:?}");
    let left: Vec<_> = std::fs::read_dir(scene.store().join("tmp"))
        .unwrap()
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_site_store_serves_without_being_written() {
    let site = scene_with(IMAGE);
    let (digest, path) = pulled(&site);
    let user = scene_with(IMAGE);
    user.write(
        "settings.toml",
        format!("[store]\nread_only = [\"{}\"]\n", site.store().display()),
    );
    let outcome = user.run(["pull", "--json", "oci:image"]);
    assert!(outcome.ok().out.contains("\"present\""), "{outcome}");
    assert!(user.run(["images", "-q"]).ok().out.contains(&digest));
    assert!(!user.store().join("images").join(&digest[7..9]).exists());
    user.run(["rm", "oci:image"]).ok();
    user.run(["rm", &digest]).fails(125, &["site's store"]);
    assert!(path.exists());
}

#[test]
fn links_in_a_store_are_not_followed() {
    let scene = scene_with(IMAGE);
    let (digest, path) = pulled(&scene);
    let record = path.with_extension("json");
    let outside = scene.path("outside.json");
    std::fs::rename(&record, &outside).unwrap();
    std::os::unix::fs::symlink(&outside, &record).unwrap();
    scene
        .run(["inspect", "oci:image"])
        .fails(125, &["links in it are not followed"]);
    scene.run(["rm", "--force", &digest]).ok();
    assert!(outside.exists() && !record.exists() && !path.exists());
    // And a pull makes it whole.
    pulled(&scene);
    scene.run(["verify", "oci:image"]).ok();
}

#[test]
fn sharing_decides_the_modes() {
    use std::os::unix::fs::PermissionsExt;
    for (sharing, want) in [("private", 0o700), ("group", 0o750), ("public", 0o755)] {
        let scene = scene_with(IMAGE);
        scene.write(
            "settings.toml",
            format!("[store]\nsharing = \"{sharing}\"\n"),
        );
        let (_, path) = pulled(&scene);
        for directory in [
            scene.store(),
            scene.store().join("images"),
            path.parent().unwrap().into(),
        ] {
            let mode = directory.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, want, "{sharing} {}", directory.display());
        }
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o444);
    }
}

#[test]
fn a_job_keeps_its_image_until_slurm_forgets_it() {
    let mut scene = scene_with(IMAGE);
    let (digest, _) = pulled(&scene);
    let pin = format!("{{\"job\":\"4711\",\"images\":{{\"{digest}\":\"x\"}}}}");
    let pin_file = scene.write("store/pins/4711.json", &pin);
    let squeue = scene.write("tools/squeue", "#!/bin/sh\ncat \"$HOME/state\" 2>/dev/null || { echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1; }\n");
    let set_mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&squeue, set_mode).unwrap();
    scene.env(
        "PATH",
        format!("{}:/usr/bin:/bin", scene.path("tools").display()),
    );
    scene.write("home/state", "4711 RUNNING\n");
    let age = |seconds: u64| {
        let file = std::fs::File::options()
            .write(true)
            .open(&pin_file)
            .unwrap();
        file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(seconds))
            .unwrap();
    };
    age(600);
    scene
        .run(["rm", "oci:image"])
        .fails(125, &["in use", "4711", "--force"]);
    scene.run(["rm", &digest]).fails(125, &["in use"]);
    let kept = scene.run(["gc", "--older-than", "0s"]);
    assert!(
        kept.ok().out.contains("kept") && kept.out.contains("4711"),
        "{kept}"
    );
    scene.run(["inspect", "oci:image"]).ok();
    // Just submitted: Slurm may not know it yet.
    std::fs::remove_file(scene.path("home/state")).unwrap();
    age(0);
    scene.run(["rm", "oci:image"]).fails(125, &["in use"]);
    age(600);
    scene.run(["gc", "--older-than", "0s"]).ok();
    scene
        .run(["inspect", "oci:image"])
        .fails(125, &["no image"]);
    assert!(!pin_file.exists());
    // A short job that has ended keeps nothing, however young its pin is.
    pulled(&scene);
    std::fs::write(&pin_file, &pin).unwrap();
    scene.write("home/state", "4711 COMPLETED\n");
    scene.run(["rm", "oci:image"]).ok();
    assert!(!pin_file.exists());
}

/// A digest is no name of a registry: what has only that is not asked for there.
#[test]
fn a_job_file_names_an_image_by_its_digest() {
    let scene = scene_with(IMAGE);
    let (digest, _) = pulled(&scene);
    let submit = |image: &str| {
        let job = format!(
            "[job]\nname = 'x'\n[container]\nimage = '{image}'\n[[step]]\ncommand = ['true']\n"
        );
        scene.write("work/job.toml", job);
        scene.run(["submit", "--dry-run", "job.toml"])
    };
    for image in [digest.as_str(), &digest[..13]] {
        let told = submit(image);
        assert!(told.ok().out.contains(&digest), "{image}: {told}");
    }
    let told = submit(&digest[..11]);
    assert_eq!(told.code, 2, "{told}");
    assert!(told.err.contains("6 digits"), "{told}");
}

#[test]
fn a_store_that_cannot_be_written_is_told_with_the_way_out() {
    if nix::unistd::geteuid().is_root() {
        return eprintln!("skipped: root may write everywhere");
    }
    use std::os::unix::fs::PermissionsExt;
    let scene = scene_with(IMAGE);
    pulled(&scene);
    let mode = |mode| {
        std::fs::set_permissions(scene.store().join("tmp"), PermissionsExt::from_mode(mode))
            .unwrap()
    };
    mode(0o500);
    Layout::of_text("layer\nf other 644 x\n").write(&scene.path("work/other"));
    scene
        .run(["pull", "oci:other"])
        .fails(125, &["Permission denied", "CARRACK_STORE"]);
    // What is there still serves.
    scene.run(["inspect", "oci:image"]).ok();
    mode(0o700);
}

/// What cannot be read is told as such: it is neither damaged nor absent.
#[test]
fn a_store_that_cannot_be_read_is_told_by_every_command() {
    if nix::unistd::geteuid().is_root() {
        return eprintln!("skipped: root may read everywhere");
    }
    use std::os::unix::fs::PermissionsExt;
    let scene = scene_with(IMAGE);
    let (_, image) = pulled(&scene);
    let shard = image.parent().unwrap();
    for closed in [scene.store().as_path(), shard] {
        let mode = |mode| {
            std::fs::set_permissions(closed, PermissionsExt::from_mode(mode)).unwrap();
        };
        mode(0);
        let verified = scene.run(["verify", "--all"]);
        assert_eq!(verified.code, 125, "{verified}");
        assert!(verified.err.contains("Permission denied"), "{verified}");
        assert!(verified.err.contains("1 of 1 checks failed"), "{verified}");
        let collected = scene.run(["gc"]);
        assert_eq!(collected.code, 125, "{collected}");
        assert!(collected.err.contains("Permission denied"), "{collected}");
        scene
            .run(["inspect", "oci:image"])
            .fails(125, &["Permission denied"]);
        mode(0o700);
    }
    scene.run(["verify", "--all"]).ok();
    let empty = scene.run(["verify", "--all", "--store", "none"]);
    assert!(empty.ok().out.contains("there are no images"), "{empty}");
    scene.write("work/file", "");
    let file = scene.run(["verify", "--all", "--store", "file"]);
    assert!(file.err.contains("Not a directory"), "{file}");
}

/// A thousand nodes that start at once ask a shared file system for every name that a launch looks up.
#[test]
fn the_first_task_of_a_node_asks_the_store_for_few_names() {
    need!(Userns, Fuse, Strace);
    let mut scene = scene_with(IMAGE);
    pulled(&scene);
    let job = format!("7{}", std::process::id());
    for (name, value) in [
        ("SLURM_JOB_ID", job.as_str()),
        ("SLURM_STEP_ID", "0"),
        ("SLURM_LOCALID", "0"),
        ("SLURM_PROCID", "0"),
    ] {
        scene.env(name, value);
    }
    let log = scene.path("log");
    let mut command = scene.program("strace");
    command
        .args(["-f", "-y", "-e", "trace=%file,getdents64", "-o"])
        .arg(&log)
        .arg(crate::scene::carrack())
        .args(["exec", "oci:image", "/nothing"]);
    // The image has no program at all; everything before that is a whole launch.
    scene.finish(command, b"").code(127);
    let text = std::fs::read(&log).unwrap();
    let store = scene.store();
    // `-y` shows what a descriptor is: an `fstat` of an open file asks for no name.
    let asked: Vec<String> = String::from_utf8_lossy(&text)
        .lines()
        .filter(|line| line.contains(store.to_str().unwrap()))
        .filter(|line| !line.contains("AT_EMPTY_PATH") || line.contains("openat"))
        .filter(|line| !line.contains("mount(") && !line.contains("execve("))
        .filter(|line| !line.contains("resumed>"))
        .map(String::from)
        .collect();
    assert!((1..=6).contains(&asked.len()), "{asked:#?}");
}
