//! EUCAIM's base images as their people use them, and images that come and move.

use crate::image::layout::{Layout, sha256};
use crate::image::tar::{Entry, Kind};
use crate::need::need;
use crate::registry::{Manners, Registry};
use crate::scene::Scene;
use crate::starting::{add, busybox, file};
use serde_json::json;

/// What the entrypoint of the base images does, in words of our own: notes its arguments in the working directory,
/// reads the user's own start file, runs what it noted.
const ENTRYPOINT: &str = "#!/bin/sh\necho \"$@\" > ./.runcmd\n\
    if [ -f ~/persistent-home/init.sh ]; then . ~/persistent-home/init.sh; fi\n. ./.runcmd\n";

fn of_ds(kind: Kind, path: &str, mode: u32) -> Entry {
    Entry {
        uid: 1000,
        gid: 1000,
        ..Entry::new(kind, path.into(), mode)
    }
}

#[test]
fn e9_the_entrypoint_of_the_base_images() {
    need!(Userns, Fuse);
    let scene = Scene::new();
    let mut entries = busybox();
    entries.retain(|entry| entry.path != b"etc/passwd");
    entries.push(file(
        "etc/passwd",
        0o644,
        "ds:x:1000:1000::/home/ds:/bin/sh\n",
    ));
    entries.push(file("entrypoint.sh", 0o755, ENTRYPOINT));
    // As Ubuntu makes a home: nobody else gets in.
    entries.push(of_ds(Kind::Directory, "home/ds", 0o750));
    for name in ["datasets", "persistent-home", "persistent-shared-folder"] {
        entries.push(of_ds(Kind::Directory, &format!("home/ds/{name}"), 0o750));
    }
    entries.push(of_ds(
        Kind::File(b"of the image\n".to_vec()),
        "home/ds/note",
        0o600,
    ));
    let config = json!({
        "Env": ["PATH=/bin"], "User": "ds:ds", "WorkingDir": "/home/ds", "Entrypoint": ["/entrypoint.sh"], "Cmd": ["ls"],
    });
    add(&scene, "ubuntu-python", entries, config);
    scene.write(
        "mine/init.sh",
        "echo begun as $(id -un); export GREETING=ahoy\n",
    );
    scene.write("mine/results", "");
    let place = scene.path("").display().to_string();
    scene.write(
        "settings.toml",
        format!("[profile.ours]\nbase = \"eucaim\"\nbinds = [\"{place}/mine:/home/ds/persistent-home\"]\n"),
    );
    let run = |words: &[&str]| {
        let all = [&["run", "--profile", "ours", "ubuntu-python"], words].concat();
        scene.run(all)
    };
    run(&["ls", "persistent-home/"]).is(0, "begun as ds\ninit.sh\nresults\n", "");
    run(&["cat", "note", ".runcmd;", "echo", "$GREETING", "$HOME"]).is(
        0,
        "begun as ds\nof the image\ncat note .runcmd; echo $GREETING $HOME\nahoy /home/ds\n",
        "",
    );
    // What it wrote was in this run's own memory.
    assert_eq!(std::fs::read_dir(scene.path("mine")).unwrap().count(), 2);
}

/// Each dataset has a list of its studies; the image's own code goes through it, here in as little as busybox has.
#[test]
fn e24_an_image_goes_through_the_list_of_studies() {
    need!(Userns, Fuse);
    let scene = Scene::new();
    let walk = "for list in /home/ds/datasets/*/index.json; do dir=${list%/*}\n\
        sed -n 's/.*\"path\": \"\\([^\"]*\\)\".*\"folderName\": \"\\([^\"]*\\)\".*/\\1\\/\\2/p' $list |\n\
        while read -r series; do for file in $dir/$series/*; do echo \"$series $(cat $file)\"; done; done; done\n";
    let config =
        json!({ "Env": ["PATH=/bin"], "User": "1000", "Entrypoint": ["sh", "-c", walk, "walk"] });
    add(&scene, "walker", busybox(), config);
    // As the dataset service writes it: one study a line, names in this order.
    let line = |number: u32| {
        format!(
            "{{\"studyId\": \"s{number}\", \"studyName\": \"CT\", \"subjectName\": \"p1\", \"path\": \"p1/s{number}\", \
             \"series\": [{{\"folderName\": \"series1\", \"tags\": []}}], \"url\": \"\"}}"
        )
    };
    scene.write(
        "data/d1/index.json",
        format!("[{},\n{}]\n", line(1), line(2)),
    );
    // The files themselves lie in the data lake, to which links lead.
    for number in [1, 2] {
        scene.write(
            format!("lake/p1/s{number}/series1/image"),
            format!("pixels {number}"),
        );
    }
    std::os::unix::fs::symlink("/mnt/datalake/p1", scene.path("data/d1/p1")).unwrap();
    let place = scene.path("").display().to_string();
    scene.write(
        "settings.toml",
        format!(
            "[profile.ours]\nbase = \"eucaim\"\nbinds = [\"{place}lake:/mnt/datalake:ro\"]\n\
             datasets = \"{place}data/{{dataset}}:/home/ds/datasets/{{dataset}}:ro\"\n"
        ),
    );
    scene
        .run(["run", "--profile", "ours", "--dataset", "d1", "walker"])
        .is(0, "p1/s1/series1 pixels 1\np1/s2/series1 pixels 2\n", "");
}

#[test]
fn e11_an_image_is_pulled_when_it_is_not_there_and_a_moved_tag_is_told() {
    need!(Registry);
    let scene = Scene::new();
    let registry = Registry::start(&scene.path(""), Manners::default());
    let push = |text: &str| {
        let image = Layout::of_text(text);
        let directory = scene.path(sha256(text.as_bytes()).replace(':', "-"));
        image.write(&directory);
        registry.push(&directory, "n/tool", "latest");
        sha256(image.manifest().to_string().as_bytes())
    };
    let first = push("layer\nd bin/ 755\nf bin/x 755 one\n");
    let name = format!("{}/n/tool", registry.host());
    let submit = || {
        let outcome = scene.run([
            "submit",
            "--local",
            "--force",
            "--dry-run",
            &name,
            "--",
            "/bin/x",
        ]);
        outcome.ok().out.clone()
    };
    assert!(submit().contains(&first));
    let asked = registry.requests(&[]);
    assert!(submit().contains(&first));
    assert_eq!(
        registry.requests(&[]),
        asked,
        "what is in the store is not asked for"
    );

    let second = push("layer\nd bin/ 755\nf bin/x 755 two\n");
    assert!(submit().contains(&first), "as it was, until somebody asks");
    let pulled = scene.run(["pull", &name]);
    let told = format!("has moved: it was {first}");
    assert!(
        pulled.ok().err.contains(&told) && pulled.out.contains(&second),
        "{pulled}"
    );
    let again = scene.run(["pull", &name]);
    assert!(!again.ok().err.contains("has moved"), "{again}");
    assert!(submit().contains(&second));
}
