//! Everything that a person might try at a lock. Each attempt is refused with the policy's name, and nothing runs.

use super::Site;
use super::attempts::*;
use crate::need::need;

#[test]
fn every_door_is_shut() {
    let site = Site::new();
    let mut attempts = by_options();
    attempts.extend(by_variables());
    attempts.extend(by_files());
    attempts.extend(by_paths());
    attempts.extend(by_projects_and_images());
    attempts.extend(by_jobs());
    attempts.extend(by_names());
    assert!(attempts.len() >= 60, "{} attempts", attempts.len());
    let mut wrong = Vec::new();
    for attempt in &attempts {
        site.settings(attempt.site);
        site.write("settings.toml", attempt.user);
        for (name, text) in attempt.files {
            site.write(name, text);
        }
        let mut command = match attempt.called {
            "" => site.command(&attempt.words),
            name => site.called(name, &attempt.words),
        };
        command.envs(
            attempt
                .variables
                .iter()
                .map(|(name, value)| (name, site.fill(value))),
        );
        let outcome = site.scene.finish(command, b"");
        let ran = outcome.out.contains("RAN") || outcome.code == 0;
        if ran || !outcome.err.contains(attempt.says) || outcome.err.contains("panicked") {
            wrong.push(format!(
                "== {}: should say {}\n{outcome}",
                attempt.name, attempt.says
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        attempts.len(),
        wrong.join("\n")
    );
    println!("{} attempts refused", attempts.len());
}

/// Without an attempt the same things run: the battery does not pass because nothing does.
#[test]
fn what_is_allowed_runs() {
    need!(Userns);
    let site = Site::new();
    site.settings(HAVEN);
    for options in [
        &[][..],
        &["--network", "none"],
        &["--no-home"],
        &["--gpu", "none"],
        &["-e", "A=1"],
    ] {
        let outcome = site.inside(options, "echo RAN");
        assert!(
            outcome.code == 0 && outcome.out == "RAN\n",
            "{options:?}\n{outcome}"
        );
    }
    site.settings(PATHS);
    let outcome = site.inside(&["-v", "$SCENE/work/allowed:/x"], "echo RAN");
    assert!(outcome.code == 0 && outcome.out == "RAN\n", "{outcome}");
}

/// A script is only text: whoever changes it meets the same rules where it runs.
#[test]
fn a_changed_script_is_refused_on_the_node() {
    need!(Fuse, Userns);
    let site = Site::new();
    site.settings(HAVEN);
    let script = site.run(&["script", "--local", "dir:$SCENE/root", "--", "echo", "RAN"]);
    script.ok();
    for (what, with, says) in [
        ("carrack exec", "carrack exec", ""),
        (
            "carrack exec",
            "carrack exec --bind /etc:/x",
            "profile.ces.user_binds",
        ),
        (
            "carrack exec",
            "env CARRACK_NETWORK=host carrack exec",
            "profile.ces.network",
        ),
        (
            "carrack exec",
            "carrack exec --profile hpc",
            "launch.choose_profile",
        ),
    ] {
        let text = script
            .out
            .replace(what, with)
            .replace("$SCENE", &site.fill("$SCENE"));
        site.write("work/changed.sh", &text);
        let mut command = site.scene.program("bash");
        command.arg("changed.sh");
        let outcome = site.scene.finish(command, b"");
        assert_eq!(outcome.out.contains("RAN"), says.is_empty(), "{outcome}");
        assert!(outcome.err.contains(says), "{outcome}");
    }
}

/// A name given by hand says nothing of where an image came from.
#[test]
fn a_borrowed_name_does_not_make_an_image_approved() {
    need!(Fuse, Userns);
    let site = Site::new();
    let approved = "registry.site/approved/x:1";
    site.run(&["import", "dir:$SCENE/root", approved]).ok();
    site.run(&["exec", "--no-home", approved, "echo", "RAN"])
        .ok();
    site.settings(IMAGES);
    let told = "it was made from `dir:";
    site.run(&["exec", approved, "echo", "RAN"])
        .fails(2, &[told, "`launch.images`"]);
    site.settings("");
    site.run(&["import", "dir:$SCENE/root", "mine:1"]).ok();
    site.run(&["tag", "mine:1", "registry.site/approved/y:1"])
        .ok();
    site.settings(IMAGES);
    site.run(&["exec", "registry.site/approved/y:1", "echo", "RAN"])
        .fails(2, &["is not allowed here"]);
}

/// The site file itself: who could have written it.
#[test]
fn a_site_file_that_others_could_write_stops_everything() {
    use std::os::unix::fs::PermissionsExt;
    let site = Site::new();
    let path = site.settings(HAVEN);
    let told = || site.inside(&[], "echo RAN");
    let mode = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    for (name, bits, back) in [
        ("prefix/etc/carrack.toml", 0o664, 0o644),
        ("prefix/etc/carrack.toml", 0o646, 0o644),
        ("prefix/etc", 0o775, 0o755),
        ("prefix", 0o757, 0o755),
    ] {
        mode(&site.scene.path(name), bits);
        told().fails(125, &["cannot trust `", "others than the owner can write"]);
        mode(&site.scene.path(name), back);
    }
    std::fs::rename(&path, site.scene.path("elsewhere.toml")).unwrap();
    std::os::unix::fs::symlink("../../elsewhere.toml", &path).unwrap();
    told().fails(125, &["is a symbolic link"]);
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    told().fails(125, &["is no plain file"]);
}
