//! Signed images from a real registry: signed by openssl's hand in cosign's form, verified at the pull and at the launch.

use super::Site;
use crate::image::layout::{Layout, sha256};
use crate::need::need;
use crate::registry::{Manners, Registry};
use crate::scene::Scene;
use std::path::Path;

const IMAGE: &str = "layer\nd bin/ 755\nf bin/x 755 one\n";

fn openssl(scene: &Scene, words: &[&str]) -> Vec<u8> {
    let mut command = scene.program(crate::need::program("openssl").unwrap());
    let output = command
        .current_dir(scene.path(""))
        .args(words)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

/// A key pair `NAME.key`, `NAME.pub`.
fn key(site: &Site, name: &str) -> String {
    let (private, public) = (format!("{name}.key"), format!("prefix/etc/{name}.pub"));
    openssl(
        &site.scene,
        &[
            "ecparam",
            "-genkey",
            "-name",
            "prime256v1",
            "-noout",
            "-out",
            &private,
        ],
    );
    openssl(
        &site.scene,
        &["ec", "-in", &private, "-pubout", "-out", &public],
    );
    let path = site.scene.path(&public);
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    path.to_str().unwrap().to_string()
}

/// Pushes a signature over a digest under cosign's tag, as an image of one layer.
fn sign(site: &Site, registry: &Registry, key: &str, digest: &str, says: &str) {
    let scene = &site.scene;
    let payload = format!(
        r#"{{"critical":{{"identity":{{"docker-reference":""}},"image":{{"docker-manifest-digest":"{says}"}},"type":"cosign container image signature"}},"optional":null}}"#
    );
    scene.write("payload", &payload);
    openssl(
        scene,
        &[
            "dgst",
            "-sha256",
            "-sign",
            &format!("{key}.key"),
            "-out",
            "raw",
            "payload",
        ],
    );
    let signature = String::from_utf8(openssl(scene, &["base64", "-A", "-in", "raw"])).unwrap();
    let blob = |text: &[u8]| {
        let digest = sha256(text);
        scene.write(
            Path::new("signature/blobs").join(digest.replace(':', "/")),
            text,
        );
        digest
    };
    let config =
        "{\"architecture\":\"\",\"os\":\"\",\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[]}}";
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": blob(config.as_bytes()), "size": config.len() },
        "layers": [{
            "mediaType": "application/vnd.dev.cosign.simplesigning.v1+json",
            "digest": blob(payload.as_bytes()),
            "size": payload.len(),
            "annotations": { "dev.cosignproject.cosign/signature": signature.trim() },
        }],
    })
    .to_string();
    let index = serde_json::json!({
        "schemaVersion": 2,
        "manifests": [{ "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": blob(manifest.as_bytes()), "size": manifest.len() }],
    });
    scene.write("signature/index.json", index.to_string());
    registry.push(
        &scene.path("signature"),
        "test/image",
        &format!("{}.sig", digest.replace(':', "-")),
    );
}

#[test]
fn n4_only_what_the_sites_key_signed_runs() {
    need!(Registry, Openssl);
    let site = Site::new();
    let registry = Registry::start(&site.scene.path(""), Manners::default());
    Layout::of_text(IMAGE).write(&site.scene.path("layout"));
    registry.push(&site.scene.path("layout"), "test/image", "v1");
    let digest = sha256(Layout::of_text(IMAGE).manifest().to_string().as_bytes());
    let (ours, _) = (key(&site, "ours"), key(&site, "theirs"));
    let reference = format!("{}/test/image:v1", registry.host());
    let trust = format!("[trust]\nrequire = \"cosign-key\"\nkeys = [\"{ours}\"]\n");
    let plan = || site.run(&["exec", "--dry-run", "--no-home", &reference, "/bin/x"]);
    let pull = || site.run(&["pull", "-q", &reference]);
    let rule = "not signed as the site requires (`trust.require`)";

    // In the store before the site asked for signatures.
    site.settings("");
    pull().ok();
    plan().ok();
    site.settings(&trust);
    plan().fails(2, &[rule, "no signature was found"]);
    pull().fails(2, &[rule, "no signature was found"]);
    // Somebody else's signature, or ours over something else.
    sign(&site, &registry, "theirs", &digest, &digest);
    pull().fails(2, &[rule, "none of the site's keys"]);
    sign(&site, &registry, "ours", &digest, &sha256(b"other"));
    pull().fails(2, &[rule, "over another image"]);
    plan().fails(2, &[rule]);
    sign(&site, &registry, "ours", &digest, &digest);
    pull().ok();
    plan().ok();
    // A launch asks nobody, and believes no file that was changed.
    drop(registry);
    plan().ok();
    let proof = site
        .scene
        .store()
        .join("signatures")
        .join(format!("{}.json", &digest["sha256:".len()..]));
    let text = std::fs::read_to_string(&proof).unwrap();
    for changed in [
        String::new(),
        text.replace("signatures", "signature"),
        text.replacen("\"payload\":\"e", "\"payload\":\"f", 1),
    ] {
        std::fs::write(&proof, changed).unwrap();
        plan().fails(2, &[rule]);
    }
    std::fs::write(&proof, text).unwrap();
    plan().ok();
    // Another key of the site: what ours signed counts no more. A digest that is named needs no signature.
    site.settings(&trust.replace("ours", "theirs"));
    plan().fails(2, &[rule]);
    site.settings(&format!(
        "{}digests = [\"{digest}\"]\n",
        trust.replace("ours", "theirs")
    ));
    plan().ok();
    // Files and directories carry none; a key that is missing or that others can write stops everything.
    site.settings(&trust);
    site.inside(&[], "true").fails(2, &["carries no signature"]);
    std::fs::set_permissions(&ours, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    plan().fails(125, &["cannot trust `"]);
    std::fs::remove_file(&ours).unwrap();
    plan().fails(2, &["cannot find the key `"]);
}
