//! Files that are no image, against a real registry.

use crate::image::layout::{Layout, descriptor, put, sha256, write_index};
use crate::need::need;
use crate::registry::{Manners, Registry};
use crate::scene::Scene;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Pushes a manifest as ORAS forms it, with these titles over the same bytes.
fn pushed(scene: &Scene, registry: &Registry, tag: &str, titles: &[&str]) {
    let layout = scene.path(format!("layout-{tag}"));
    std::fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    let mut layer = descriptor("application/zip", b"bytes");
    put(&layout, b"bytes");
    put(&layout, b"{}");
    let layers: Vec<_> = titles
        .iter()
        .map(|title| {
            layer["annotations"] = serde_json::json!({ "org.opencontainers.image.title": title });
            layer.clone()
        })
        .collect();
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": "application/x-model",
        "config": descriptor("application/vnd.oci.empty.v1+json", b"{}"),
        "layers": layers,
    })
    .to_string();
    put(&layout, manifest.as_bytes());
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [
        descriptor("application/vnd.oci.image.manifest.v1+json", manifest.as_bytes())
    ] });
    write_index(&layout, &index);
    registry.push(&layout, "p/model", tag);
}

fn listed(directory: &Path) -> Vec<PathBuf> {
    let mut names: Vec<PathBuf> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into())
        .collect();
    names.sort();
    names
}

#[test]
fn e20_files_of_an_artifact_stay_where_they_belong() {
    need!(Registry);
    let scene = Scene::new();
    let registry = Registry::start(&scene.path(""), Manners::default());
    let reference = |tag: &str| format!("{}/p/model:{tag}", registry.host());
    let (out, outside) = (scene.path("out"), scene.path("outside"));
    std::fs::create_dir_all(&out).unwrap();
    std::fs::create_dir_all(&outside).unwrap();
    let pull = |tag: &str, more: &[&str]| {
        let reference = reference(tag);
        let words = ["artifact", "pull", &reference, "-o", out.to_str().unwrap()];
        scene.run(words.iter().chain(more))
    };

    pushed(&scene, &registry, "good", &["a.zip", "deep/er/b.zip"]);
    pull("good", &["--artifact-type", "x/other"]).fails(125, &["application/x-model"]);
    assert!(listed(&out).is_empty());
    pull("good", &["--artifact-type", "application/x-model"]).ok();
    for name in ["a.zip", "deep/er/b.zip"] {
        assert_eq!(std::fs::read(out.join(name)).unwrap(), b"bytes");
    }
    // What is there stays, all of it or none; with `--force` it is replaced.
    std::fs::write(out.join("a.zip"), "mine").unwrap();
    pull("good", &[]).fails(125, &["there is one already", "--force"]);
    assert_eq!(std::fs::read(out.join("a.zip")).unwrap(), b"mine");
    pull("good", &["--force"]).ok();
    assert_eq!(std::fs::read(out.join("a.zip")).unwrap(), b"bytes");

    // Names that lead out, name nothing, or one thing twice.
    for (tag, titles, why) in [
        ("up", &["../x"][..], "not a plain path"),
        ("middle", &["a/../../x"], "not a plain path"),
        ("absolute", &["/x"], "it is absolute"),
        ("empty", &[""], "it is empty"),
        ("twice", &["x", "x"], "another one too"),
        ("both", &["x", "x/y"], "below it"),
    ] {
        pushed(&scene, &registry, tag, titles);
        pull(tag, &["--force"]).fails(125, &[why]);
    }
    // Links in the way, as the last part and on the way there.
    pushed(&scene, &registry, "link", &["link/x"]);
    pushed(&scene, &registry, "end", &["end"]);
    symlink(&outside, out.join("link")).unwrap();
    symlink(outside.join("victim"), out.join("end")).unwrap();
    pull("link", &["--force"]).fails(125, &["in the way"]);
    pull("end", &["--force"]).fails(125, &["in the way"]);
    assert!(listed(&outside).is_empty());
    // Hidden files only where somebody named the place.
    pushed(&scene, &registry, "hidden", &[".profile"]);
    scene
        .run(["artifact", "pull", &reference("hidden")])
        .fails(125, &["hidden file", "--output"]);
    pull("hidden", &[]).ok();
    // An image is no artifact of files, an artifact no image.
    scene
        .run(["pull", &reference("good")])
        .fails(125, &["carrack artifact pull"]);
    // Other bytes than the manifest says: nothing appears.
    let digest = sha256(b"bytes");
    let hex = digest.split_once(':').unwrap().1;
    let stored = registry
        .storage()
        .join("docker/registry/v2/blobs/sha256")
        .join(&hex[..2])
        .join(hex)
        .join("data");
    std::fs::write(stored, "other").unwrap();
    let before = listed(&out);
    std::fs::remove_file(out.join("a.zip")).unwrap();
    pull("good", &["--force"]).fails(125, &["cannot fetch `a.zip`"]);
    let after: Vec<PathBuf> = before
        .into_iter()
        .filter(|n| n != "a.zip".as_ref() as &Path)
        .collect();
    assert_eq!(listed(&out), after);
}

#[test]
fn e21_what_is_pushed_comes_back() {
    need!(Registry, Htpasswd);
    let scene = Scene::new();
    let registry = Registry::start(
        &scene.path(""),
        Manners {
            login: Some(("alice", "secret")),
            ..Manners::default()
        },
    );
    let big: Vec<u8> = (0..3_000_000u32).flat_map(|n| n.to_le_bytes()).collect();
    let (model, notes) = (
        scene.write("model.zip", &big),
        scene.write("notes.txt", "one\n"),
    );
    scene.write("none", "");
    let reference = format!("{}/p/results:v1", registry.host());
    let push = || {
        let mut command = scene.command(["artifact", "push", &reference, "--artifact-type"]);
        command.args(["application/zip", "--json"]);
        command.arg(format!("{}:application/zip", model.display()));
        command.arg(&notes).arg(scene.path("none"));
        scene.finish(command, b"")
    };
    push().fails(125, &["carrack login"]);
    let mut login = scene.command(["login", "-u", "alice", "--password-stdin"]);
    login.arg(registry.host());
    scene.finish(login, b"secret\n").ok();
    let first: serde_json::Value = serde_json::from_str(&push().ok().out).unwrap();
    // The same files are the same artifact, and are not sent twice.
    let sent = registry.requests(&["PUT", "/blobs/uploads/"]);
    let second: serde_json::Value = serde_json::from_str(&push().ok().out).unwrap();
    assert_eq!(first["digest"], second["digest"]);
    assert_eq!(sent, 4);
    assert_eq!(registry.requests(&["PUT", "/blobs/uploads/"]), sent);
    let out = scene.path("out");
    let by_digest = format!(
        "{}/p/results@{}",
        registry.host(),
        first["digest"].as_str().unwrap()
    );
    let mut pull = scene.command(["-q", "artifact", "pull", &by_digest, "-o"]);
    pull.arg(&out);
    scene.finish(pull, b"").ok();
    assert_eq!(std::fs::read(out.join("model.zip")).unwrap(), big);
    assert_eq!(listed(&out).len(), 3);
    for (words, why) in [
        (&["push", &by_digest, "x"][..], "name a tag"),
        (&["push", &reference, "/"], "only files"),
        (&["push", &reference, "/nowhere"], "cannot push"),
    ] {
        let outcome = scene.run(["artifact"].iter().chain(words));
        assert!(outcome.err.contains(why), "{}", outcome.err);
    }
}

/// A list of what is in an image and a scanner's report lie beside it, as others' tools put them there.
#[test]
fn c16_what_lies_beside_an_image_is_listed_and_fetched() {
    need!(Registry);
    let scene = Scene::new();
    let registry = Registry::start(&scene.path(""), Manners::default());
    let image = Layout::of_text("layer\nd bin/ 755\nf bin/x 755 one\n");
    image.write(&scene.path("layout"));
    registry.push(&scene.path("layout"), "n/tool", "1");
    let digest = sha256(image.manifest().to_string().as_bytes());
    let name = format!("{}/n/tool", registry.host());
    let tagged = format!("{name}:1");
    let list = |more: &[&str]| {
        let words = [&["artifact", "list", &tagged], more].concat();
        scene.run(words).ok().out.clone()
    };
    assert_eq!(list(&[]).lines().count(), 1);
    let report = scene.write("work/tool.spdx.json", "{\"packages\": []}\n");
    let mut command = scene.command([
        "artifact",
        "push",
        "--json",
        "--artifact-type=application/spdx+json",
    ]);
    command.arg(format!("{name}:sbom")).arg(&report);
    let pushed: serde_json::Value =
        serde_json::from_str(&scene.finish(command, b"").ok().out).unwrap();
    let pushed = pushed["digest"].as_str().unwrap();
    // A registry without an interface for it keeps the list under a tag.
    let index = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "artifactType": "application/spdx+json",
            "digest": pushed,
            "size": 7,
            "annotations": { "org.opencontainers.image.created": "2026-01-01T00:00:00Z" },
        }],
    });
    let kind = [("Content-Type", "application/vnd.oci.image.index.v1+json")];
    let path = format!("/v2/n/tool/manifests/{}", digest.replace(':', "-"));
    let (status, told) = registry.request("PUT", &path, &kind, index.to_string().as_bytes());
    assert_eq!(status, 201, "{told}");
    let shown = list(&[]);
    let fields: Vec<&str> = shown.lines().nth(1).unwrap().split_whitespace().collect();
    let by_digest = format!("{name}@{pushed}");
    assert_eq!(
        fields,
        ["application/spdx+json", "2026-01-01T00:00:00Z", &by_digest]
    );
    let shown: serde_json::Value = serde_json::from_str(&list(&["--json"])).unwrap();
    assert_eq!(shown[0]["artifactType"], "application/spdx+json");
    scene
        .run(["artifact", "pull", &by_digest, "-o", "fetched"])
        .ok();
    let fetched = std::fs::read_to_string(scene.path("work/fetched/tool.spdx.json"));
    assert_eq!(fetched.unwrap(), "{\"packages\": []}\n");
}
