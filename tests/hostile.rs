//! What must not become an image: each pull ends with one clear error, code 125, and nothing visible in the store.

use crate::corpus::corpus;
use crate::image::layout::{CONFIG, INDEX, Layout, MANIFEST, descriptor, put, write_index};
use crate::image::text::{self, Compression, Expectation};
use crate::pulling::pull_layout as pull;
use crate::scene::Scene;
use serde_json::{Value, json};
use std::path::Path;

const GOOD: &str = "layer\nf hello 644 world\nlayer\nf more 644 size:300000\n";

/// What is wrong with how the pull of `name` fails.
fn refused(scene: &Scene, name: &str, words: &[&str]) -> Vec<String> {
    let outcome = scene.run(["pull", "-q", &format!("oci:{name}")]);
    let mut wrong: Vec<String> = outcome.fails_otherwise(125, words).into_iter().collect();
    let visible = scene.visible_in_store();
    if !visible.is_empty() {
        wrong.push(format!("{name} left {visible:?}"));
        let _ = std::fs::remove_dir_all(scene.store());
    }
    wrong
}

/// After all failures, one good pull leaves nothing but what it made.
fn recovers(scene: &Scene) {
    Layout::of_text(GOOD).write(&scene.path("work/good"));
    let (_, squashfs) = pull(scene, &scene.path("work/good"));
    assert!(squashfs.is_file());
    let left: Vec<_> = std::fs::read_dir(scene.store().join("tmp"))
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

#[test]
fn hostile_layers_are_refused() {
    let scene = Scene::new();
    let mut wrong = Vec::new();
    for (name, text) in corpus("tests/corpus/hostile") {
        let image = text::parse(&text);
        let Some(Expectation::Fails(words)) = image.expectations.first() else {
            panic!("{name} does not say how it fails");
        };
        Layout::of(&image).write(&scene.path("work").join(&name));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        wrong.extend(refused(&scene, &name, &words));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    recovers(&scene);
}

/// What is wrong with a layout's documents, and the words that its error must have.
type Wrong = (&'static str, &'static [&'static str], fn(&Path));

/// Writes the good image with a changed manifest.
fn with(directory: &Path, change: impl FnOnce(&mut Value)) {
    Layout::of_text(GOOD).write_with(directory, change);
}

fn flip(directory: &Path, digest: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let path = directory.join("blobs").join(digest.replace(':', "/"));
    let mut bytes = std::fs::read(&path).unwrap();
    change(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

/// The digest of the second layer of the good image.
fn second_layer() -> String {
    let manifest = Layout::of_text(GOOD).manifest();
    manifest["layers"][1]["digest"].as_str().unwrap().into()
}

const WRONG: &[Wrong] = &[
    ("a byte of a layer flipped", &["digest"], |at| {
        with(at, |_| {});
        flip(at, &second_layer(), |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        });
    }),
    ("a layer cut short", &["layer"], |at| {
        with(at, |_| {});
        flip(at, &second_layer(), |bytes| bytes.truncate(bytes.len() / 2));
    }),
    ("a layer with more behind it", &["layer"], |at| {
        with(at, |_| {});
        flip(at, &second_layer(), |bytes| bytes.extend([0; 4096]));
    }),
    ("a layer that is not there", &["layer"], |at| {
        with(at, |_| {});
        let name = second_layer().replace(':', "/");
        std::fs::remove_file(at.join("blobs").join(name)).unwrap();
    }),
    ("a manifest that lies about a size", &["layer"], |at| {
        with(at, |m| m["layers"][1]["size"] = json!(10));
    }),
    ("a size beyond all measure", &["manifest"], |at| {
        with(at, |m| m["layers"][1]["size"] = json!(u64::MAX));
    }),
    ("a size below zero", &[], |at| {
        with(at, |m| m["layers"][1]["size"] = json!(-1));
    }),
    ("a digest that is a path", &["digest"], |at| {
        with(at, |m| {
            m["layers"][1]["digest"] = json!("sha256:../../../../etc/passwd")
        });
    }),
    ("a digest of an unknown kind", &["md5"], |at| {
        with(at, |m| {
            m["layers"][1]["digest"] = json!("md5:d41d8cd98f00b204e9800998ecf8427e")
        });
    }),
    ("a layer that is no archive", &["text/html"], |at| {
        with(at, |m| m["layers"][1]["mediaType"] = json!("text/html"));
    }),
    (
        "a layer that is said to be encrypted",
        &["encrypted"],
        |at| {
            with(at, |m| {
                m["layers"][1]["mediaType"] =
                    json!("application/vnd.oci.image.layer.v1.tar+gzip+encrypted");
            });
        },
    ),
    (
        "content that is not what the config says",
        &["diff id"],
        |at| {
            let mut layout = Layout::of_text(GOOD);
            layout.config["rootfs"]["diff_ids"][1] = json!(format!("sha256:{}", "0".repeat(64)));
            layout.write(at);
        },
    ),
    ("fewer diff_ids than layers", &["diff_ids"], |at| {
        let mut layout = Layout::of_text(GOOD);
        layout.config["rootfs"]["diff_ids"]
            .as_array_mut()
            .unwrap()
            .pop();
        layout.write(at);
    }),
    ("a config that is no JSON", &[], |at| {
        with(at, |_| {});
        let config = put(at, b"{ not json");
        with(at, |m| m["config"] = descriptor(CONFIG, b"{ not json"));
        assert!(config.starts_with("sha256:"));
    }),
    ("a manifest that is also an index", &[], |at| {
        with(at, |m| m["manifests"] = json!([]));
    }),
    ("a manifest of the old schema", &["schema"], |at| {
        with(at, |m| m["schemaVersion"] = json!(1));
    }),
    ("an index that says it is a manifest", &[], |at| {
        with(at, |_| {});
        let text = std::fs::read(at.join("index.json")).unwrap();
        put(at, &text);
        write_index(
            at,
            &json!({"schemaVersion": 2, "manifests": [descriptor(MANIFEST, &text)]}),
        );
    }),
    ("a manifest that says it is an index", &[], |at| {
        with(at, |_| {});
        let text = Layout::of_text(GOOD).manifest().to_string();
        write_index(
            at,
            &json!({"schemaVersion": 2, "manifests": [descriptor(INDEX, text.as_bytes())]}),
        );
    }),
    ("only other platforms", &["linux/s390x"], |at| {
        with(at, |_| {});
        let text = Layout::of_text(GOOD).manifest().to_string();
        let mut other = descriptor(MANIFEST, text.as_bytes());
        other["platform"] = json!({"os": "linux", "architecture": "s390x"});
        let index =
            json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [other]}).to_string();
        put(at, index.as_bytes());
        write_index(
            at,
            &json!({"schemaVersion": 2, "manifests": [descriptor(INDEX, index.as_bytes())]}),
        );
    }),
    ("an index a thousand levels deep", &[], |at| {
        with(at, |_| {});
        let text = Layout::of_text(GOOD).manifest().to_string();
        let mut inner = descriptor(MANIFEST, text.as_bytes());
        for _ in 0..1000 {
            let text =
                json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [inner]}).to_string();
            put(at, text.as_bytes());
            inner = descriptor(INDEX, text.as_bytes());
        }
        write_index(at, &json!({"schemaVersion": 2, "manifests": [inner]}));
    }),
    ("an index that is no JSON", &["index.json"], |at| {
        with(at, |_| {});
        std::fs::write(at.join("index.json"), "nothing").unwrap();
    }),
    ("an empty index", &[], |at| {
        write_index(at, &json!({"schemaVersion": 2, "manifests": []}));
    }),
    ("gzip that ends in the middle", &["layer"], |at| {
        let mut layout = Layout::of_text(GOOD);
        let half = layout.layers[1].0.len() / 2;
        layout.layers[1].0.truncate(half);
        layout.write(at);
    }),
    ("noise instead of an archive", &["layer"], |at| {
        let mut layout = Layout::of_text(GOOD);
        layout.layers[1].0 = (0..10_000u32).map(|n| ((n * n) >> 3) as u8).collect();
        layout.write(at);
    }),
];

#[test]
fn hostile_documents_are_refused() {
    let scene = Scene::new();
    let mut wrong = Vec::new();
    for (name, words, write) in WRONG {
        write(&scene.path("work").join(name));
        wrong.extend(refused(&scene, name, words));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    recovers(&scene);
}

/// Gigabytes of zeros in a few kilobytes: either a bounded image or a refusal, in bounded memory.
#[test]
fn bombs_stay_small() {
    let scene = Scene::new();
    let zeros = vec![0; 1 << 20];
    let mut layer = crate::image::tar::archive(
        &text::parse("layer\nf zeros 644 - size=536870912").layers[0].entries,
        false,
    );
    for _ in 0..512 {
        layer.extend(&zeros);
    }
    let mut layout = Layout::of_text("layer\nf x 644 x");
    layout.config["rootfs"]["diff_ids"] = json!([crate::image::layout::sha256(&layer)]);
    for how in [Compression::Gzip, Compression::Zstd] {
        layout.layers[0].0 = crate::image::layout::compress(&layer, how);
        layout.write(&scene.path("work/bomb"));
        let mut command = scene.program("sh");
        // Address space in KiB: far less than what comes out.
        command
            .args(["-c", "ulimit -v 400000; exec \"$@\"", "-"])
            .arg(crate::scene::carrack())
            .args(["pull", "-q", "oci:bomb"]);
        let outcome = scene.finish(command, b"");
        assert!([0, 125].contains(&outcome.code), "{outcome}");
        if outcome.code == 0 {
            let path = outcome.out.trim().split('\t').nth(1).unwrap();
            let path = path.replace("$SCENE/", scene.path("").to_str().unwrap());
            let size = std::fs::metadata(path).unwrap().len();
            assert!(size < 4 << 20, "{size} bytes for nothing");
        }
    }
}
