//! Images as the other systems' people bring and look at them: from a real registry, by digest, with what an image says of
//! itself; and the two ways in which CES's own images deal with files.

use super::{called, directories, haven};
use crate::image::layout::{Layout, sha256};
use crate::need::need;
use crate::registry::{Manners, Registry};
use crate::scene::Scene;
use crate::starting::{add, busybox, file, layout};
use serde_json::json;

#[test]
fn c6_c12_c13_c17_f1_images_from_a_registry() {
    need!(Registry, Htpasswd);
    let scene = Scene::new();
    let plain = Registry::start(&scene.path(""), Manners::default());
    let image = Layout::of_text("layer\nd bin/ 755\nf bin/x 755 one\n");
    image.write(&scene.path("layout"));
    plain.push(&scene.path("layout"), "n/tool", "1");
    let manners = Manners {
        login: Some(("me", "t0ken")),
        ..Manners::default()
    };
    let registry = plain.beside(&scene.path(""), manners);
    let host = registry.host();
    let digest = sha256(image.manifest().to_string().as_bytes());
    let name = format!("{host}/n/tool:1");
    let lookup = || called(&scene, "shifterimg", &["lookup", &format!("docker:{name}")]);

    called(&scene, "ces-pull", &["me", "wrong", &name]).code(125);
    called(&scene, "ces-pull", &["", "", &name]).code(125);
    lookup().code(1);
    // The old form, the one with a runtime, and both ways to name a digest.
    let (pinned, only) = (
        format!("{name}@{digest}"),
        format!("{host}/n/tool@{digest}"),
    );
    for words in [
        &["me", "t0ken", &name][..],
        &["podman", "me", "t0ken", &name],
        &["me", "t0ken", &pinned],
        &["me", "t0ken", &only],
    ] {
        called(&scene, "ces-pull", words).ok();
    }
    assert_eq!(lookup().ok().out.trim(), &digest["sha256:".len()..]);
    let other = sha256(b"other");
    let wrong = format!("{host}/n/tool:1@{other}");
    let refused = called(&scene, "ces-pull", &["me", "t0ken", &wrong]);
    assert!(
        refused.code != 0 && refused.err.contains(&other),
        "{refused}"
    );

    // The token went no further than the pull.
    let public = scene.run(["pull", "-q", "--store", "other", &name]);
    assert_eq!(public.code, 125, "{public}");
    called(&scene, "shifterimg", &["rm", &format!("docker:{name}")]).ok();
    let pull = || called(&scene, "shifterimg", &["pull", &format!("docker:{name}")]);
    assert_ne!(pull().code, 0);
    let link = scene.path("bin/shifterimg");
    let mut login = scene.program(link);
    login.args(["login", "-u", "me", "--password-stdin", &host]);
    scene.finish(login, b"t0ken").ok();
    pull().ok();
    let listed = called(&scene, "shifterimg", &["images"]);
    assert!(listed.ok().out.contains(&name), "{listed}");
}

#[test]
fn c16_an_image_shows_how_it_was_built() {
    let scene = Scene::new();
    let mut image = layout(
        busybox(),
        json!({ "Labels": {
            "org.opencontainers.image.source": "https://git.site/n/tool",
            "org.opencontainers.image.revision": "0123abcd",
        } }),
    );
    image.config["history"] = json!([
        { "created_by": "COPY tool /bin", "comment": "buildkit" },
        { "created_by": "CMD [\"tool\"]", "empty_layer": true },
    ]);
    image.write(&scene.path("layout"));
    let source = format!("oci:{}", scene.path("layout").display());
    scene.run(["import", "-q", &source, "tool"]).ok();
    let digest = sha256(image.manifest().to_string().as_bytes());
    let shown = scene.run(["inspect", "tool"]);
    for word in [
        "org.opencontainers.image.source=https://git.site/n/tool",
        "org.opencontainers.image.revision=0123abcd",
        "COPY tool /bin",
        "CMD [\"tool\"]",
        &digest,
    ] {
        assert!(shown.ok().out.contains(word), "{word}: {shown}");
    }
}

#[test]
fn c20_a_form_is_a_json_file() {
    let scene = haven();
    scene.write(
        "work/form.json",
        r#"{
  "job": {"job-name": "tool", "cpus-per-task": 4, "mem": "8G", "gres": "gpu:1"},
  "container": {"image": "tool", "profile": "haven", "env": {"A": "a b"}},
  "step": [{"name": "sh", "command": ["sh", "-c", "echo \"$A\""]}]
}
"#,
    );
    let form = scene.run(["script", "form.json"]);
    let words = [
        "script",
        "--job-name=tool",
        "--cpus-per-task=4",
        "--mem=8G",
        "--gres=gpu:1",
        "--profile=haven",
        "--env=A=a b",
        "tool",
        "--",
        "sh",
        "-c",
        "echo \"$A\"",
    ];
    let line = scene.run(words);
    // All that differs is the comments that say where it came from.
    let bare = |text: &str| -> Vec<String> {
        let lines = text
            .lines()
            .filter(|line| !line.starts_with("# ") || line.contains("digest"));
        lines.map(str::to_string).collect()
    };
    assert_eq!(bare(&form.ok().out), bare(&line.ok().out));
    scene.write("work/form.json", "{\n\"job\": {\n\"nodse\": 1}}");
    scene
        .run(["script", "form.json"])
        .fails(2, &["form.json", "3", "nodes"]);
}

#[test]
fn c21_c22_data_come_in_by_an_image_and_settings_by_the_project() {
    need!(Userns, Fuse);
    let scene = haven();
    let mut entries = busybox();
    entries.push(file("data/set", 0o600, "spices\n"));
    let import =
        json!({ "Env": ["PATH=/bin"], "Cmd": ["sh", "-c", "cat /data/set >/safe_outputs/set"] });
    add(&scene, "data", entries, import);
    let ran = called(&scene, "ces-run", &["--no-slurm", "data"]);
    // The step is called `run`, like one of our commands, and is in the record all the same.
    assert!(!ran.ok().err.contains("error:"), "{ran}");
    let made = directories(&scene, "outputs_").remove(0).join("set");
    assert_eq!(std::fs::read_to_string(&made).unwrap(), "spices\n");
    use std::os::unix::fs::MetadataExt;
    let owner = |path: &std::path::Path| path.metadata().unwrap().uid();
    assert_eq!(owner(&made), owner(&scene.path("work")));

    let train = "echo \"$# $2: $(cat \"$2\")\"";
    let mut entries = busybox();
    entries.push(file("etc/train.toml", 0o644, "of the image"));
    add(
        &scene,
        "train",
        entries,
        json!({ "Env": ["PATH=/bin"], "Entrypoint": ["sh", "-c", train, "train"], "Cmd": ["--config", "/etc/train.toml"] }),
    );
    let plain = called(&scene, "ces-run", &["--no-slurm", "train"]);
    assert!(
        plain.ok().out.contains("2 /etc/train.toml: of the image\n"),
        "{plain}"
    );
    scene.write("work/arguments", "--config\n/safe_data/data\n");
    let own = called(
        &scene,
        "ces-run",
        &["--no-slurm", "--arg-file", "arguments", "train"],
    );
    assert!(
        own.ok()
            .out
            .contains("2 /safe_data/data: from the project\n"),
        "{own}"
    );
}
